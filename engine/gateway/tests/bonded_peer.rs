//! A real core that spreads its packets over two links towards a gateway that does not bond: it is told what came by which
//! link, so its bond stays whole, past the trial of its paths and for half an hour, and it measures both ways. A flow that it
//! stripes over links of different delay comes out in order.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use lab::measure::{PingPlan, ping};
use serde_json::{Value, json};
use support::striped;
use support::two_links::TwoLinks;

/// Failover interval of the real core's bond; its clock goes fifty times as fast, its remote does not.
const FAILOVER_MS: u64 = 20_000;
/// How far its clock is put forward at a time, and how long it then gets.
const STEP_MS: u64 = 5_000;
const STEP: Duration = Duration::from_millis(90);

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
        let paths = world.paths();
        let whole = paths.iter().all(|p| p["alive"] == true && p["eligible"] == true && p["bonded"] == true);
        assert!(whole, "after {} ms, busy {busy}: {paths:?}", step * STEP_MS);
    }
    for (was, is) in before.iter().zip(world.reports()) {
        assert!(is[0] > was[0] && is[1] > was[1], "reports per link: {before:?}, then {is:?}");
    }
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
    world.real.command(json!({"cmd": "status"})).expect("status");
    let bad = |e: &&Value| matches!(e["kind"].as_str(), Some("packet-invalid"));
    assert_eq!(world.real.events.iter().find(bad), None);
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
        let start = Instant::now();
        for number in 0..SEGMENTS {
            thread::sleep((start + PACE * number).saturating_duration_since(Instant::now()));
            let data = striped::hex(&striped::segment(port, number));
            real.post(json!({"cmd": "frame", "dst": mac, "ethertype": "0800", "data": data})).expect("frame");
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
    let put = out_of_order(&mut world, 5002);
    eprintln!("of {SEGMENTS} segments {plain} out of order as they come, {put} after the resequencer");
    assert!(plain > SEGMENTS / 10, "{plain}: the links reorder nothing");
    assert!(put * 1000 < SEGMENTS, "{put} of {SEGMENTS}; {:?}", world.hawser.status());
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
    world.real.command(json!({"cmd": "status"})).expect("status");
    let bad = |e: &&Value| e["kind"] == "packet-invalid";
    assert_eq!(world.real.events.iter().find(bad), None);
}
