//! What a gateway and a real core are to each other when the core bonds, whatever the gateway does: neither bond degrades in
//! half an hour, a flow that the core stripes comes out in order, and a core that is asked for what only we can do goes on.
//!
//! The core's clock goes over a hundred times as fast where half an hour has to pass; the gateway's does not. With
//! `HAWSER_SOAK_S` the two that both bond do it for so many seconds of the wall's clock, half of them idle, half busy.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lab::measure::{PingPlan, ping};
use lab::{Error, Result};
use serde_json::{Value, json};
use support::striped;
use support::two_links::TwoLinks;

/// Failover interval of the real core's bond; its clock goes fifty times as fast, its remote does not.
const FAILOVER_MS: u64 = 20_000;
/// How far its clock is put forward at a time, and how long it then gets.
const STEP_MS: u64 = 5_000;
const STEP: Duration = Duration::from_millis(90);

/// The same where both bond.
const SOAK_FAILOVER_MS: u64 = 60_000;
const SOAK_STEP_MS: u64 = 10_000;
const SOAK_STEP: Duration = Duration::from_millis(70);

/// The real core's view of its paths after some seconds of traffic in which its clock did not jump.
fn measured(world: &mut TwoLinks) -> Vec<Value> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        world.traffic();
    }
    // It is due to estimate now.
    world.real.command(json!({"cmd": "clock", "add_ms": 2 * FAILOVER_MS})).expect("clock");
    world.real.tick().expect("tick");
    world.paths()
}

/// The core's bond is whole.
fn assert_whole(world: &mut TwoLinks, when: &str) {
    let paths = world.paths();
    let whole = paths.iter().all(|p| p["alive"] == true && p["eligible"] == true && p["bonded"] == true);
    assert!(whole, "{when}: {paths:?}");
}

/// So much time passes for the real core; its bond stays whole.
fn pass(world: &mut TwoLinks, time_ms: u64, busy: bool) {
    let before = world.reports();
    for step in 0..time_ms / STEP_MS {
        world.real.command(json!({"cmd": "clock", "add_ms": STEP_MS})).expect("clock");
        if busy && step % 4 == 0 {
            world.traffic();
        } else {
            thread::sleep(STEP);
        }
        assert_whole(world, &format!("after {} ms, busy {busy}", step * STEP_MS));
    }
    assert_reports(world, &before);
}

/// Timing reports went both ways over both links since then.
fn assert_reports(world: &mut TwoLinks, before: &[[u64; 2]]) {
    for (was, is) in before.iter().zip(world.reports()) {
        assert!(is[0] > was[0] && is[1] > was[1], "reports per link: {before:?}, then {is:?}");
    }
}

/// Nothing that the core received was invalid.
fn assert_valid(world: &mut TwoLinks) {
    world.real.command(json!({"cmd": "status"})).expect("status");
    let bad = |e: &&Value| e["kind"] == "packet-invalid";
    assert_eq!(world.real.events.iter().find(bad), None);
}

#[test]
fn a_real_balance_bond_towards_a_gateway_without_one_stays_whole_for_half_an_hour_idle_and_busy() {
    let failover = format!("failover_interval={FAILOVER_MS}");
    let mut world = TwoLinks::new("bp", &json!({}), Some("balance-xor"), &[&failover]);
    world.traffic();
    assert_eq!((world.counter("qos_received"), world.counter("qos_sent")), (0, 0), "nobody bonds yet");
    world.bonded();
    // Past the trial, then a quarter of an hour each.
    pass(&mut world, 60_000, true);
    pass(&mut world, 900_000, false);
    pass(&mut world, 900_000, true);
    // It measures latency by our reports alone. When its clock jumps between a packet and the report on it, that is latency.
    let latencies = |paths: Vec<Value>| paths.iter().map(|p| p["latency_ms"].as_f64().expect("ms")).collect::<Vec<_>>();
    let (jumping, clean) = (latencies(world.paths()), latencies(measured(&mut world)));
    assert!(jumping.iter().all(|ms| *ms > 0.0), "{jumping:?}");
    assert!(clean.iter().all(|ms| *ms < 200.0), "{clean:?}, where a packet takes no time");
    assert!(world.counter("qos_received") > 10 && world.counter("qos_sent") > 10);
    assert_eq!(world.counter("qos_refused") + world.counter("qos_full"), 0);
    assert_valid(&mut world);
}

/// Sixteen flows of the gateway's host, some datagrams each, which the core counts by link.
fn talk(world: &TwoLinks) {
    let to = SocketAddr::new(world.real_ip.parse().expect("address"), 9001);
    let send = || -> Result<()> {
        let failed = |e: std::io::Error| Error::Unusable(format!("a flow: {e}"));
        for port in 21_000..21_016 {
            let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(failed)?;
            for number in 0..4u8 {
                // spec: the reference node's README, "Stream payload"
                let mut payload = [0; 200];
                payload[..8].copy_from_slice(b"RFS1\0\0\0\x01");
                payload[11] = number;
                socket.send_to(&payload, to).map_err(failed)?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    world.gateway.inside(send).expect("flows");
}

/// What our bond with the core decided, by time.
type Decisions = BTreeMap<(u64, String), String>;

/// Our bond as it is; what it decided is noted. Every path of it carries.
fn ours(world: &TwoLinks, decisions: &mut Decisions) -> Value {
    let mut bond = world.hawser.cli(&["bond", "show", world.real.address()]).expect("bond")["bond"].take();
    for d in bond["decisions"].as_array().into_iter().flatten() {
        let text = |key: &str| d[key].as_str().unwrap_or_default().to_owned();
        decisions.insert((d["at"].as_u64().unwrap_or(0), text("text")), text("kind"));
    }
    let paths = bond["paths"].take();
    let paths = paths.as_array().expect("paths");
    assert_eq!(paths.len(), 2, "{paths:?}");
    // A core that got no time to answer may make a path suspect; none is ever given up.
    let carries = |p: &Value| p["state"] == "good" || p["state"] == "suspect";
    assert!(paths.iter().all(carries), "{paths:?}, {decisions:?}");
    bond
}

/// Pages of the gateway's memory.
fn resident(world: &TwoLinks) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", world.hawser.pid())).expect("statm");
    text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("pages")
}

/// Both bond by `policy`; so much time passes idle, then busy. Neither bond loses a path, and nothing grows.
fn soak(name: &str, policy: &str, time_ms: u64) {
    let wall = std::env::var("HAWSER_SOAK_S").ok().map(|s| s.parse().expect("HAWSER_SOAK_S: seconds"));
    let failover = if wall.is_some() { 5000 } else { SOAK_FAILOVER_MS };
    let settings = json!({"defaultBondingPolicy": policy});
    let mut world = TwoLinks::new(name, &settings, Some(policy), &[&format!("failover_interval={failover}")]);
    world.bonded();
    let mut decisions = Decisions::new();
    let both = || world.hawser.peer(world.real.address()).is_ok_and(|p| p.is_some_and(|p| p["numAliveLinks"] == 2));
    assert!(support::soon(both), "{:?}", world.hawser.peer(world.real.address()));
    for _ in 0..8 {
        talk(&world);
        world.traffic();
    }
    let (begun, pages) = (Instant::now(), resident(&world));
    for busy in [false, true] {
        let before = world.reports();
        world.real.command(json!({"cmd": "stream-reset"})).expect("reset");
        let steps = wall.unwrap_or(time_ms / SOAK_STEP_MS) / 2;
        for step in 0..steps {
            let since = Instant::now();
            if wall.is_none() {
                world.real.command(json!({"cmd": "clock", "add_ms": SOAK_STEP_MS})).expect("clock");
            }
            // A bond that nobody uses for minutes ends, so even idleness has a word now and then.
            let word = wall.is_some() && step % 60 == 0;
            if busy && (wall.is_some() || step % 4 == 0) || word {
                talk(&world);
                world.traffic();
            }
            let tempo = if wall.is_some() { Duration::from_secs(1) } else { SOAK_STEP };
            thread::sleep(tempo.saturating_sub(since.elapsed()));
            assert_whole(&mut world, &format!("{policy}, busy {busy}, step {step} of {steps}"));
            if step % 10 == 0 {
                ours(&world, &mut decisions);
            }
        }
        ours(&world, &mut decisions);
        if busy {
            assert_reports(&mut world, &before);
            let report = world.real.command(json!({"cmd": "stream-report"})).expect("report");
            let by_link = report["received"][0]["paths"].as_object().cloned().unwrap_or_default();
            assert_eq!(by_link.len(), 2, "{policy}, frames from us by link: {report}");
            eprintln!("{policy}: from us {by_link:?}, reports {:?}", world.reports());
        }
    }
    let kinds = |kind: &str| decisions.values().filter(|k| *k == kind).count();
    let (suspect, down) = (kinds("suspect"), kinds("down"));
    let bond = ours(&world, &mut decisions);
    let grown = resident(&world) as i64 - pages as i64;
    eprintln!(
        "{policy}: {} s, suspect {suspect}, down {down}, pages {pages} {grown:+}, counters {}, reports by us {} and of the core {}",
        begun.elapsed().as_secs(),
        bond["counters"],
        world.counter("qos_sent"),
        world.counter("qos_received"),
    );
    if suspect + down > 0 {
        eprintln!("{decisions:?}");
    }
    assert_eq!(down, 0, "{decisions:?}");
    assert!(grown < 512, "{pages} pages, then {grown} more");
    assert_eq!(world.counter("qos_refused") + world.counter("qos_full"), 0);
    assert_valid(&mut world);
}

#[test]
fn bonds_of_a_gateway_and_a_real_core_towards_each_other_last_half_an_hour_idle_and_busy() {
    soak(if std::env::var_os("HAWSER_SOAK_S").is_some() { "sok" } else { "bpx" }, "balance-xor", 1_800_000);
}

/// Segments of one TCP flow, at this pace, that the core stripes in runs of 64.
const SEGMENTS: u32 = 4000;
const PACE: Duration = Duration::from_micros(500);

/// How many segments of such a flow reached the gateway's TAP after one that they should have preceded.
fn out_of_order(world: &mut TwoLinks, port: u16) -> u32 {
    let networks = world.hawser.cli(&["networks"]).expect("networks");
    let mac = networks[0]["mac"].as_str().expect("mac").to_owned();
    let TwoLinks { gateway, real, .. } = world;
    thread::scope(|scope| {
        let ear = gateway.inside(|| striped::Ear::open(port)).expect("packet socket");
        let seen = scope.spawn(move || ear.listen(SEGMENTS));
        let mut send = |packet: &[u8]| {
            let data = striped::hex(packet);
            real.post(json!({"cmd": "frame", "dst": mac, "ethertype": "0800", "data": data})).expect("frame");
        };
        // Data follows when the SYN was answered.
        send(&striped::syn(port));
        let start = Instant::now() + Duration::from_millis(60);
        for number in 0..SEGMENTS {
            thread::sleep((start + PACE * number).saturating_duration_since(Instant::now()));
            send(&striped::segment(port, number));
        }
        let seen = seen.join().expect("no panic");
        assert_eq!(seen.len(), SEGMENTS as usize, "each arrives once");
        striped::late(&seen)
    })
}

// spec: bonding, "Gateway acceptance", A10
#[test]
fn a_flow_that_a_real_core_stripes_over_links_of_10_and_30_ms_is_in_order_at_the_tap() {
    let mut world = TwoLinks::new("bpo", &json!({"resequence": false}), Some("balance-rr"), &[]);
    world.bonded();
    for (link, ms) in [("l0", 10), ("l1", 30)] {
        let slow = json!({"cmd": "fault-add", "socket": link, "dir": "both", "delay_ms": ms, "keep_order": true});
        world.real.command(slow).expect("fault");
    }
    let plain = out_of_order(&mut world, 5001);
    // Taken over while running.
    let file = world.hawser.home().join("local.conf");
    let conf =
        std::fs::read_to_string(&file).expect("local.conf").replace(r#""resequence":false"#, r#""resequence":true"#);
    std::fs::write(&file, conf).expect("local.conf");
    let read = || world.hawser.status().is_ok_and(|s| s.to_string().contains(r#""resequence":true"#));
    assert!(support::soon(read), "{:?}", world.hawser.status());
    // What the core stripes is put in order once it is seen to stripe.
    (0..4).for_each(|_| world.traffic());
    let put = out_of_order(&mut world, 5002);
    eprintln!("of {SEGMENTS} segments {plain} out of order as they come, {put} after the resequencer");
    assert!(plain > SEGMENTS / 10, "{plain}: the links reorder nothing");
    assert!(put * 1000 < SEGMENTS, "{put} of {SEGMENTS}; {:?}", world.hawser.status());
}

/// The links of the core's data path and of ours.
fn sides(world: &mut TwoLinks) -> [String; 2] {
    let us = world.hawser.address().expect("address");
    let core = world.real.command(json!({"cmd": "bond", "peer": us})).expect("bond");
    let core = core["bonds"][&us]["active_path"].as_str().and_then(|path| path.split('|').next()).map(str::to_owned);
    let show = world.hawser.cli(&["bond", "show", world.real.address()]).expect("bond");
    let paths = show["bond"]["paths"].as_array().cloned().unwrap_or_default();
    let ours = paths.iter().find(|p| p["id"] == show["bond"]["active"]).and_then(|p| p["link"].as_str());
    [core.unwrap_or_default(), ours.unwrap_or_default().to_owned()]
}

/// How the two came to where they are.
fn story(world: &mut TwoLinks) -> String {
    let said: Vec<&Value> = world.real.events.iter().map(|e| &e["text"]).filter(|text| text.is_string()).collect();
    let tail = said.iter().rev().take(20).rev().collect::<Vec<_>>();
    let told = format!("the core: {tail:#?}");
    let show = world.hawser.cli(&["bond", "show", world.real.address()]).expect("bond");
    let asked = ["negotiations_sent", "negotiations_received"].map(|name| world.counter(name));
    format!("{:?}, asked {asked:?}, {:#}, {told}", sides(world), show["bond"]["decisions"])
}

/// A gateway and a real core that both negotiate; the core sends over l0, the gateway over l1.
fn apart(name: &str, links: &Value, slow: Option<&str>) -> TwoLinks {
    let policy =
        json!({"basePolicy": "active-backup", "linkSelectMethod": "failure", "negotiate": true, "links": links});
    let settings = json!({"defaultBondingPolicy": "ab", "policies": {"ab": policy}});
    let tune = ["failover_interval=2000", "path_negotiation=1", "link_select=optimize"];
    let mut world = TwoLinks::new(name, &settings, Some("active-backup"), &tune);
    if let Some(link) = slow {
        let slow = json!({"cmd": "fault-add", "socket": link, "dir": "both", "delay_ms": 10, "keep_order": true});
        world.real.command(slow).expect("fault");
    }
    world.bonded();
    part(&mut world);
    world
}

/// Makes the core send over l0 and the gateway over l1.
fn part(world: &mut TwoLinks) {
    let (us, core) = (world.hawser.address().expect("address"), world.real.address().to_owned());
    let end = Instant::now() + support::SOON;
    loop {
        world.traffic();
        let [core_on, we_on] = sides(world);
        match [core_on.as_str(), we_on.as_str()] {
            ["l0", "l1"] => return,
            ["l1", _] => drop(world.real.command(json!({"cmd": "bond-rotate", "peer": us})).expect("rotate")),
            ["l0", "l0"] => drop(world.hawser.cli(&["bond", "rotate", &core]).expect("rotate")),
            _ => {}
        }
        assert!(Instant::now() < end, "{}", story(world));
    }
}

/// Traffic goes on until both send over this link, and then for a while.
fn together(world: &mut TwoLinks, link: &str, limit: Duration) {
    let end = Instant::now() + limit;
    while sides(world) != [link, link] {
        assert!(Instant::now() < end, "{}", story(world));
        world.traffic();
    }
    for _ in 0..20 {
        world.traffic();
        assert_eq!(sides(world), [link, link], "{}", story(world));
    }
    assert_valid(world);
}

// spec: bonding, "ACK and path negotiation"
#[test]
fn a_gateway_follows_a_real_core_that_asks() {
    // Both like l0.
    let mut world = apart("bpn", &json!({}), Some("l1"));
    let us = world.hawser.address().expect("address");
    let end = Instant::now() + 3 * support::SOON;
    while !story(&mut world).contains("\"yielded\"") {
        assert!(Instant::now() < end, "{}", story(&mut world));
        // On a busy machine l1 may be late enough to be left before anybody asks.
        part(&mut world);
        // By then the gateway's shard has told which way the core's frames come.
        let told = Instant::now() + Duration::from_secs(3);
        while Instant::now() < told {
            world.traffic();
        }
        world.real.command(json!({"cmd": "bond-negotiate", "peer": us})).expect("negotiate");
        world.traffic();
    }
    // It asks three times in a row, over l1 whichever it means, also for what it counted before.
    together(&mut world, "l0", support::SOON);
    assert!(world.counter("negotiations_received") >= 1, "{}", story(&mut world));
}

// spec: bonding, "ACK and path negotiation"
#[test]
fn a_real_core_follows_a_gateway_that_asks() {
    // To the core they are alike; we have l0 for a spare.
    let mut world = apart("bpq", &json!({"l0": {"mode": "spare"}, "l1": {"mode": "primary"}}), None);
    together(&mut world, "l1", 2 * support::SOON);
    let story = story(&mut world);
    assert!(world.counter("negotiations_sent") >= 1 && story.contains("switching to suggested link"), "{story}");
}

/// The type of the messages by which two of us agree.
const OURS: u64 = 0x0e56_98a0_bef4_9426;

/// What the core hands to its application, and we sent.
fn told(world: &mut TwoLinks) -> Option<String> {
    world.real.command(json!({"cmd": "status"})).expect("status");
    let ours = |e: &&Value| e["event"] == "user-message" && e["type"] == OURS;
    world.real.events.iter().rev().find(ours).and_then(|e| e["data"].as_str().map(str::to_owned))
}

#[test]
fn a_real_core_that_is_asked_to_agree_goes_on_and_delivers_frames_with_order_marks() {
    let mut world = TwoLinks::new("bpm", &json!({"defaultBondingPolicy": "balance-rr"}), None, &[]);
    let end = Instant::now() + support::SOON;
    let offer = loop {
        world.traffic();
        if let Some(offer) = told(&mut world) {
            break offer;
        }
        assert!(Instant::now() < end, "no offer: {:?}", world.hawser.status());
    };
    assert_eq!((offer.len(), &offer[..8]), (24, "01010007"), "{offer}");
    // The core is made to say what a Hawser would say, so frames to it are marked.
    let (peer, answer) = (world.hawser.address().expect("address"), format!("01020007{}00002000", &offer[8..]));
    world.real.command(json!({"cmd": "user-message", "to": peer, "type": OURS, "data": answer})).expect("message");
    let marked = |world: &TwoLinks| {
        let status = world.hawser.status().expect("status");
        status["counters"]["shards"]["marks_out"].as_u64().unwrap_or(0)
    };
    let to = world.real_ip.parse().expect("address");
    let end = Instant::now() + support::SOON;
    while marked(&world) < 200 {
        let plan = PingPlan { count: 100, interval: Duration::from_millis(5), ..PingPlan::default() };
        let pings = world.gateway.inside(|| ping(to, plan)).expect("pings");
        assert_eq!(pings.answered, pings.sent, "{} marked so far", marked(&world));
        assert!(Instant::now() < end, "{:?}", world.hawser.status());
    }
    assert_valid(&mut world);
}
