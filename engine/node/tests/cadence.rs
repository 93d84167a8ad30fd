//! Which verbs leave in each situation, how large and how often, against the protocol's description, with everything off
//! that ZeroTierOne does not have: ten virtual minutes each. Then what each setting adds, and nothing else.
// spec: paths, "Keep-alive and latency", "Timers", "Event table"

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use node::{Settings, WarmUp};
use wire::{Address, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";
const AT_ROOT_V6: &str = "[2600::1]:9993";
const MINUTES: u64 = 12;

/// What is sent beside what ZeroTierOne 1.14.1 sends in the same situation, and how it is switched off. Every row has a
/// test below or, where named, elsewhere.
const BEYOND: [(&str, &str); 11] = [
    ("ECHO every 14 s and HELLO every 60 s to a root, for its WHOIS every 5 s and HELLO every 225 s", "never"),
    ("the probe of a RENDEZVOUS again after 200, 600 and 1500 ms while nobody answers (tests/nat.rs)", "never"),
    ("four bytes with TTL 2 to an address that a peer pushes, before its probe (tests/nat.rs)", "never"),
    ("a push of changed addresses without a packet of the peer (tests/upstreams.rs)", "never"),
    ("MULTICAST_GATHER again after 100, 200 and 400 ms while nobody is known (network/src/multicast.rs)", "never"),
    ("ECHO with 8 bytes to who answers from where nothing was sent (tests/bounds.rs)", "never"),
    ("ECHO over paths that carry frames and bring nothing back", "settings.fastFailover"),
    ("frames over a new path and by the relay too (tests/upstreams.rs)", "settings.warmUp, off"),
    ("PUSH_DIRECT_PATHS with an offer, and the port spread that follows (tests/nat.rs)", "settings.portSpread"),
    ("ECHO by each lane every 14 s (tests/lanes.rs)", "one shard"),
    ("QOS_MEASUREMENT to peers that sent one (tests/qos.rs)", "never"),
];

/// Settings without anything of our own.
fn plain() -> Settings {
    Settings { fast_failover: false, port_spread: false, warm_up: WarmUp::default(), ..Settings::default() }
}

/// A leaf with one link, on the open network, and its root; nobody answers yet.
fn leaf(settings: Settings) -> (Bench, Address) {
    let mut b = Bench::with(made_up(1), settings);
    let root = b.actor(2);
    b.install_planet(&[(root, &[AT_ROOT, AT_ROOT_V6])]);
    b.sockets(&[5]);
    b.join_open();
    (b, root)
}

/// The same, online, with `p` at [`AT_P`], whose frames we take; both answer.
fn with_peer(settings: Settings) -> (Bench, Address, Address) {
    let (mut b, root) = leaf(settings);
    b.answer(root, AT_ROOT, 20);
    b.answer(root, AT_ROOT_V6, 20);
    b.advance(1000);
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 20);
    b.receive_frame(p, 5, AT_P, 0);
    (b, root, p)
}

/// Verbs to one node, with the times.
fn by_verb(sent: &[Sent], to: Address) -> BTreeMap<u8, Vec<u64>> {
    let mut times: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    for s in sent.iter().filter(|s| s.to == to) {
        times.entry(s.verb.map_or(0xff, |v| v as u8)).or_default().push(s.at_ms);
    }
    times
}

fn kinds(sent: &[Sent], to: Address) -> BTreeSet<u8> {
    by_verb(sent, to).into_keys().collect()
}

fn set(verbs: &[Verb]) -> BTreeSet<u8> {
    verbs.iter().map(|v| *v as u8).collect()
}

/// The least and the greatest distance of two of these to one remote.
fn gaps(sent: &[Sent], to: Address, verb: Verb, remote: &str) -> (u64, u64) {
    let times: Vec<u64> = sent
        .iter()
        .filter(|s| s.to == to && s.verb == Some(verb) && s.remote == addr(remote))
        .map(|s| s.at_ms)
        .collect();
    let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    (gaps.iter().copied().min().unwrap_or(0), gaps.iter().copied().max().unwrap_or(u64::MAX))
}

/// Every packet is as long as ZeroTierOne's. // spec: paths, "Constants", typical packet sizes
fn assert_sizes(sent: &[Sent]) {
    for s in sent {
        let len = match s.verb {
            Some(Verb::Hello) if s.remote.is_ipv4() => 137,
            Some(Verb::Hello) => 149,
            Some(Verb::Echo) => 28,
            Some(Verb::Whois) => 33,
            _ => continue,
        };
        assert_eq!(s.len, len, "{:?} to {}", s.verb, s.remote);
    }
}

#[test]
fn a_root_that_does_not_answer_gets_hellos_by_both_families_every_five_seconds_and_nothing_else() {
    let (mut b, root) = leaf(plain());
    b.advance(MINUTES * 60_000);
    let sent = b.take();
    assert_eq!(kinds(&sent, root), set(&[Verb::Hello]));
    assert!(sent.iter().all(|s| s.to == root && s.socket.is_none()), "from all links, to nobody else");
    for remote in [AT_ROOT, AT_ROOT_V6] {
        let (least, most) = gaps(&sent, root, Verb::Hello, remote);
        assert!(least >= 4500 && most <= 5500, "{remote}: every {least} to {most} ms");
    }
    assert_sizes(&sent);
}

#[test]
fn an_idle_node_keeps_its_root_with_echo_and_hello() {
    let (mut b, root) = leaf(plain());
    b.answer(root, AT_ROOT, 20);
    b.answer(root, AT_ROOT_V6, 20);
    b.advance(10_000);
    b.take();
    b.advance(MINUTES * 60_000);
    let sent = b.take();
    // ZeroTierOne: {HELLO, WHOIS}, 225 s and 5 s. The first row of `BEYOND`.
    assert_eq!(kinds(&sent, root), set(&[Verb::Hello, Verb::Echo]));
    assert!(sent.iter().all(|s| s.to == root));
    for remote in [AT_ROOT, AT_ROOT_V6] {
        let (least, most) = gaps(&sent, root, Verb::Hello, remote);
        assert!(least >= 54_000 && most <= 72_000, "{remote}: HELLO every {least} to {most} ms");
    }
    let contacts: Vec<u64> = sent.iter().filter(|s| s.remote == addr(AT_ROOT)).map(|s| s.at_ms).collect();
    assert!(contacts.windows(2).all(|w| w[1] - w[0] <= 14_500), "a NAT with 15 s stays open");
    let a_minute = sent.len() as u64 / MINUTES;
    assert!((8..=12).contains(&a_minute), "{a_minute} packets a minute by two families; ZeroTierOne 12");
    assert_sizes(&sent);
}

#[test]
fn an_active_peer_that_is_idle_gets_a_hello_a_minute_and_echoes_between_for_500_s() {
    let (mut b, _, p) = with_peer(plain());
    let start = b.ms();
    b.advance(MINUTES * 60_000);
    let sent = b.take();
    // A trusted peer is told our addresses at once, and two minutes later when it is heard.
    assert_eq!(kinds(&sent, p), set(&[Verb::Hello, Verb::Echo, Verb::PushDirectPaths]));
    assert!(gaps(&sent, p, Verb::PushDirectPaths, AT_P).0 >= 120_000);
    let (least, most) = gaps(&sent, p, Verb::Hello, AT_P);
    assert!(least >= 54_000 && most <= 67_000, "HELLO every {least} to {most} ms");
    let (least, most) = gaps(&sent, p, Verb::Echo, AT_P);
    assert!(least >= 12_600 && most <= 29_000, "ECHO every {least} to {most} ms, a HELLO between");
    let last = sent.iter().filter(|s| s.to == p).map(|s| s.at_ms).max().unwrap() - start;
    assert!((480_000..=501_000).contains(&last), "the last after {last} ms");
    assert_sizes(&sent);
}

#[test]
fn a_direct_peer_with_traffic_gets_frames_a_hello_a_minute_and_a_push_every_two() {
    let (mut b, _, p) = with_peer(plain());
    b.take();
    for _ in 0..MINUTES * 60 {
        b.receive_frame(p, 5, AT_P, 0);
        b.send_frame(p);
        b.advance(1000);
    }
    let sent = b.take();
    // No ECHO: what is sent anyway keeps the path.
    assert_eq!(kinds(&sent, p), set(&[Verb::Frame, Verb::Hello, Verb::PushDirectPaths]));
    assert_eq!(only(&sent, Verb::Frame).len() as u64, MINUTES * 60);
    assert!(only(&sent, Verb::Frame).iter().all(|s| s.suite == Some(Suite::AesGmacSiv)));
    let (least, most) = gaps(&sent, p, Verb::PushDirectPaths, AT_P);
    assert!(least >= 120_000 && most <= 121_000, "a push every {least} to {most} ms");
    let (least, most) = gaps(&sent, p, Verb::Hello, AT_P);
    assert!(least >= 54_000 && most <= 67_000, "HELLO every {least} to {most} ms");
    assert_sizes(&sent);
}

#[test]
fn a_relayed_peer_gets_frames_and_pushes_by_the_root_and_one_whois_is_asked() {
    let (mut b, root) = leaf(plain());
    b.answer(root, AT_ROOT, 20);
    b.answer(root, AT_ROOT_V6, 20);
    b.advance(1000);
    b.take();
    let p = b.actor(10);
    b.send_frame(p);
    let asked = b.take();
    assert_eq!(kinds(&asked, root), set(&[Verb::Whois]));
    assert_sizes(&asked);
    tell_identity(&mut b, root, only(&asked, Verb::Whois)[0], p);
    let over = only(&b.take(), Verb::Frame)[0].remote.to_string();
    for _ in 0..MINUTES * 6 {
        b.receive_frame(p, 5, &over, 1);
        b.send_frame(p);
        b.advance(10_000);
    }
    let sent = b.take();
    assert_eq!(kinds(&sent, p), set(&[Verb::Frame, Verb::PushDirectPaths]), "no probe goes anywhere");
    assert_eq!(kinds(&sent, root), set(&[Verb::Hello, Verb::Echo]), "and nothing more is asked");
    // Nobody told us its version: the suite that everybody speaks. // spec: paths, "Sending"
    assert!(sent.iter().filter(|s| s.to == p).all(|s| s.suite == Some(Suite::Salsa2012Poly1305)));
    let pushes = by_verb(&sent, p)[&(Verb::PushDirectPaths as u8)].clone();
    let gaps: Vec<u64> = pushes.windows(2).map(|w| w[1] - w[0]).collect();
    // ZeroTierOne: every 15 s at least, of which the other side hears eight. Ours back off, so that all are heard.
    assert!(gaps[0] == 20_000 && gaps[1] == 30_000 && gaps[2..].iter().all(|g| *g == 40_000), "{gaps:?}");
}

/// What goes to `p` in a minute of frames that nobody answers, though `p` answers probes.
fn one_way(settings: Settings) -> Vec<Sent> {
    let (mut b, _, p) = with_peer(settings);
    b.take();
    for _ in 0..600 {
        b.send_frame(p);
        b.advance(100);
    }
    b.take_to(p)
}

#[test]
fn fast_failover_adds_echoes_over_paths_that_bring_nothing_back_and_nothing_when_it_is_off() {
    let off = one_way(plain());
    assert_eq!(off.iter().filter(|s| s.verb == Some(Verb::Echo)).count(), 0);
    let on = one_way(Settings { fast_failover: true, ..plain() });
    let kinds = |sent: &[Sent]| sent.iter().map(|s| s.verb).collect::<std::collections::HashSet<_>>();
    let added: Vec<_> = kinds(&on).difference(&kinds(&off)).copied().collect();
    assert_eq!(added, [Some(Verb::Echo)]);
    let echoes = only(&on, Verb::Echo);
    assert!(echoes.windows(2).all(|w| w[1].at_ms - w[0].at_ms >= 150), "no more than six a second");
    assert_sizes(&on);
    let frames = |sent: &[Sent]| sent.iter().filter(|s| s.verb == Some(Verb::Frame)).count();
    assert_eq!((frames(&off), frames(&on)), (600, 600), "and no frame goes twice");
    assert!(BEYOND.iter().any(|(what, how)| what.starts_with("ECHO over paths") && *how == "settings.fastFailover"));
}

#[test]
fn nothing_is_sent_over_an_idle_path_that_is_looked_after_by_fast_failover() {
    let idle = |settings| {
        let (mut b, _, p) = with_peer(settings);
        b.send_frame(p);
        b.advance(5_000);
        b.take();
        b.advance(MINUTES * 60_000);
        let sent = b.take();
        (kinds(&sent, p), sent.len())
    };
    let (off, on) = (idle(plain()), idle(Settings::default()));
    assert_eq!(off.0, on.0);
    assert!(off.1.abs_diff(on.1) <= off.1 / 20, "{} and {} packets", off.1, on.1);
}
