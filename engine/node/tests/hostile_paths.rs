//! Nobody has us probe whom he likes: RENDEZVOUS, PUSH_DIRECT_PATHS and packets from forged sources, with addresses of
//! every bad kind and in floods. What leaves for any one target is counted. // spec: paths, "Security"

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::*;
use node::limits::*;
use node::{LocalSocketId, Port, Socket};
use proptest::prelude::*;
use wire::message::{PathRecord, Rendezvous};
use wire::{Address, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";
const VICTIM: &str = "99.7.7.7";
/// Sockets of the bench per family, one a link: a probe from all links is so many packets.
const LINKS: usize = 3;

/// No path to anybody: nothing, everybody, ourselves, a tunnel broker.
const IMPOSSIBLE: [&str; 16] = [
    "0.0.0.0:9993",
    "0.1.2.3:9993",
    "127.0.0.1:9993",
    "169.254.7.7:9993",
    "224.0.0.1:9993",
    "239.255.255.250:1900",
    "255.255.255.255:9993",
    "[::]:9993",
    "[::1]:9993",
    "[::ffff:127.0.0.1]:9993",
    "[fe80::7]:9993",
    "[ff02::1]:9993",
    "[2001:470::7]:9993",
    "99.7.7.7:0",
    "172.16.5.1:9993",
    "10.77.1.2:9993",
];

/// Where only neighbours can be.
const PRIVATE: [&str; 5] = ["10.1.2.3:9993", "192.168.1.10:9993", "100.64.1.1:9993", "[fd77::7]:9993", "11.2.3.4:9993"];

fn push_of(endpoints: &[&str], flags: u8) -> Vec<u8> {
    let records: Vec<PathRecord> =
        endpoints.iter().map(|e| PathRecord { flags, extension: b"", endpoint: addr(e) }).collect();
    let mut payload = Vec::new();
    PathRecord::write_all(&records, &mut payload);
    payload
}

fn rendezvous_of(peer: Address, endpoint: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    Rendezvous { flags: 0, peer, endpoint: Some(addr(endpoint)) }.write(&mut payload);
    payload
}

/// A leaf with a root, a friend on the open network at [`AT_P`], and an overlay of 10.77/16.
fn leaf() -> (Bench, Address, Address) {
    let (mut b, root) = Bench::leaf();
    b.node.set_overlay_prefixes(vec!["10.77.0.0/16".parse().unwrap()]);
    b.join_open();
    let friend = b.actor(10);
    b.befriend(friend, 5, AT_P);
    b.receive_frame(friend, 5, AT_P, 0);
    b.advance(1000);
    b.take();
    (b, root, friend)
}

/// Somebody with an identity, and nothing else.
fn stranger(b: &mut Bench, n: u64) -> (Address, String) {
    let (who, at) = (b.actor(100 + n), format!("44.20.{n}.1:9993"));
    b.befriend(who, 5, &at);
    b.advance(200);
    b.take();
    (who, at)
}

/// Packets that left for an IP, copies for every link counted.
fn packets_to(sent: &[Sent], ip: &str) -> usize {
    let ip: IpAddr = ip.parse().unwrap();
    sent.iter().filter(|s| s.remote.ip() == ip).map(|s| if s.socket.is_some() { 1 } else { LINKS }).sum()
}

/// The most packets that leave for one target in any ten seconds.
const MOST_IN_10_S: usize = (TARGET_PROBES_BURST + TARGET_PROBES_PER_10_S) as usize;

/// The most packets to `ip` in any ten seconds of what was sent.
fn worst_10_s(sent: &[Sent], ip: &str) -> usize {
    let to_ip: Vec<Sent> = sent.iter().filter(|s| s.remote.ip().to_string() == ip).cloned().collect();
    let until = |first: usize| to_ip[first..].partition_point(|s| s.at_ms < to_ip[first].at_ms + 10_000);
    (0..to_ip.len()).map(|n| packets_to(&to_ip[n..n + until(n)], ip)).max().unwrap_or(0)
}

#[test]
fn only_upstreams_introduce_whatever_others_call_themselves() {
    let (mut b, _, friend) = leaf();
    let (who, at) = stranger(&mut b, 0);
    let before = b.node.gauges();
    for n in 0..500 {
        let remote = format!("99.1.{}.1:{}", n % 250, 1 + n);
        b.receive(who, 5, &at, Verb::Rendezvous, &rendezvous_of(friend, &remote));
        b.receive(friend, 5, AT_P, Verb::Rendezvous, &rendezvous_of(who, &remote));
        b.receive(friend, 5, AT_P, Verb::Rendezvous, &rendezvous_of(Address::from_u64(0x77_0000_0000 + n), &remote));
    }
    assert!(b.take().is_empty());
    assert_eq!(b.node.counters().rendezvous_stranger, 1500);
    assert_eq!(b.node.gauges(), before);
}

#[test]
fn addresses_that_lead_to_nobody_or_everybody_or_ourselves_are_not_probed_whoever_names_them() {
    let (mut b, root, friend) = leaf();
    let (who, at) = stranger(&mut b, 0);
    for (n, remote) in (1..).zip(IMPOSSIBLE) {
        b.receive(root, 5, AT_ROOT, Verb::Rendezvous, &rendezvous_of(friend, remote));
        for flags in [0, PathRecord::CLUSTER_REDIRECT, PathRecord::FORGET] {
            b.receive(who, 5, &at, Verb::PushDirectPaths, &push_of(&[remote], flags));
            b.receive(friend, 5, AT_P, Verb::PushDirectPaths, &push_of(&[remote], flags));
        }
        assert!(b.take().is_empty(), "{remote}");
        let counters = b.node.counters();
        assert!(counters.path_refused + counters.push_stranger >= 4 * n, "{remote} is counted");
        b.advance(2500);
        assert!(b.take().iter().all(|s| s.remote != addr(remote)), "nor later");
    }
}

#[test]
fn a_stranger_does_not_send_us_into_our_neighbourhood_and_a_friend_does() {
    let (mut b, _, friend) = leaf();
    let (who, at) = stranger(&mut b, 0);
    b.receive(who, 5, &at, Verb::PushDirectPaths, &push_of(&PRIVATE, 0));
    assert!(b.take().is_empty());
    assert_eq!(b.node.counters().push_stranger, PRIVATE.len() as u64);
    b.receive(friend, 5, AT_P, Verb::PushDirectPaths, &push_of(&PRIVATE, 0));
    let mut probed: Vec<_> = b.take().iter().map(|s| s.remote).collect();
    probed.sort();
    probed.dedup();
    let mut private: Vec<_> = PRIVATE.iter().map(|e| addr(e)).collect();
    private.sort();
    assert_eq!(probed, private);
}

#[test]
fn many_strangers_and_friends_who_name_one_victim_do_not_add_up() {
    let (mut b, root, friend) = leaf();
    let crowd: Vec<(Address, String)> = (0..40).map(|n| stranger(&mut b, n)).collect();
    let mut sent = Vec::new();
    for second in 0..60u16 {
        for (n, (who, at)) in (0u16..).zip(&crowd) {
            let ports: Vec<String> = (0..8).map(|p| format!("{VICTIM}:{}", 1 + second * 320 + n * 8 + p)).collect();
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            b.receive(*who, 5, at, Verb::PushDirectPaths, &push_of(&ports, 0));
        }
        let elsewhere = format!("{VICTIM}:{}", 40_000 + second);
        b.receive(friend, 5, AT_P, Verb::PushDirectPaths, &push_of(&[&elsewhere], 0));
        for (who, _) in &crowd {
            b.receive(root, 5, AT_ROOT, Verb::Rendezvous, &rendezvous_of(*who, &elsewhere));
        }
        b.advance(1000);
        sent.extend(b.take());
    }
    let (most, all) = (worst_10_s(&sent, VICTIM), packets_to(&sent, VICTIM));
    assert!((MOST_IN_10_S / 2..=MOST_IN_10_S).contains(&most), "{most} packets in ten seconds");
    assert!(all <= (TARGET_PROBES_BURST + 6 * TARGET_PROBES_PER_10_S) as usize, "{all} packets in a minute");
    assert!(b.node.counters().probes_over_target > 1000);
    // Who is not the victim is reached as before.
    b.receive(friend, 5, AT_P, Verb::PushDirectPaths, &push_of(&["99.8.8.8:1"], 0));
    b.advance(1000);
    assert!(packets_to(&b.take(), "99.8.8.8") >= LINKS);
}

#[test]
fn strangers_leave_room_for_friends_at_the_same_address() {
    let (mut b, _, friend) = leaf();
    let crowd: Vec<(Address, String)> = (0..20).map(|n| stranger(&mut b, n)).collect();
    for (n, (who, at)) in (0u16..).zip(&crowd) {
        let ports: Vec<String> = (0..8).map(|p| format!("{VICTIM}:{}", 1 + n * 8 + p)).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        b.receive(*who, 5, at, Verb::PushDirectPaths, &push_of(&ports, 0));
    }
    b.advance(500);
    b.take();
    assert!(b.node.counters().probes_over_target > 0);
    b.receive(friend, 5, AT_P, Verb::PushDirectPaths, &push_of(&["99.7.7.7:9993"], 0));
    b.advance(500);
    assert!(b.take_to(friend).iter().any(|s| s.remote == addr("99.7.7.7:9993") && s.verb == Some(Verb::Echo)));
}

#[test]
fn packets_from_forged_sources_draw_few_challenges_to_whoever_is_really_there() {
    let (mut b, _, friend) = leaf();
    let crowd: Vec<(Address, String)> = (0..40).map(|n| stranger(&mut b, n)).collect();
    let mut sent = Vec::new();
    for round in 0..300u32 {
        for (who, _) in crowd.iter().chain([&(friend, String::new())]) {
            let port = 1000 + round % 60_000;
            b.receive(*who, 5, &format!("{VICTIM}:{port}"), Verb::Nop, b"");
        }
        b.advance(100);
        sent.extend(b.take());
    }
    let most = worst_10_s(&sent, VICTIM);
    assert!((LINKS..=MOST_IN_10_S).contains(&most), "{most} packets in ten seconds");
    assert!(b.paths(friend) == [(5, addr(AT_P))] && b.preferred(friend) == Some((5, addr(AT_P))), "nothing moved");
}

#[test]
fn neither_junk_nor_forgeries_nor_what_a_relay_brings_keep_a_dead_path_alive() {
    let (mut b, _, friend) = leaf();
    b.answer(friend, AT_P, 10);
    for _ in 0..5 {
        b.send_frame(friend);
        b.advance(1000);
    }
    b.take();
    assert_eq!(b.preferred(friend), Some((5, addr(AT_P))));
    let real = b.packet(friend, Verb::Echo, b"", Suite::AesGmacSiv, 0);
    b.silence(friend);
    let died = b.ms();
    while b.preferred(friend).is_some() && b.events.last() != Some(&node::Event::PeerRelayed { peer: friend }) {
        assert!(b.ms() - died < 4000, "the path lives on");
        b.send_frame(friend);
        for _ in 0..10 {
            let mut forged = real.clone();
            let last = forged.len() - 1;
            forged[last] ^= 1;
            for junk in [vec![0xa5; 20], vec![0; 4], vec![7; 13], forged, vec![0xff; 1400]] {
                b.deliver(5, AT_P, junk);
            }
            // Authentic, but it came by a relay that sits where the peer was.
            b.receive_over(friend, 5, AT_P, Verb::Nop, b"", 1);
            b.advance(20);
        }
    }
    b.take();
    b.send_frame(friend);
    assert_eq!(only(&b.take_to(friend), Verb::Frame)[0].remote, addr(AT_ROOT));
}

#[test]
fn a_flood_from_forged_sources_leaves_the_paths_of_a_peer_as_they_are() {
    let (mut b, _, friend) = leaf();
    b.answer(friend, AT_P, 10);
    let before = b.node.gauges();
    let real = b.packet(friend, Verb::Echo, b"", Suite::AesGmacSiv, 0);
    for n in 0..20_000u32 {
        let mut forged = real.clone();
        forged[19] ^= 1 + (n % 250) as u8;
        let socket = 5 + u64::from(n % 3);
        b.deliver(socket, &format!("99.{}.{}.7:{}", n % 7, n / 7 % 250, 1 + n % 60_000), forged);
    }
    assert_eq!(b.take().len(), 0);
    assert_eq!((b.node.gauges(), b.node.counters().dropped_unauthenticated), (before, 20_000));
    assert_eq!(b.paths(friend), [(5, addr(AT_P))]);
}

#[test]
fn an_interface_that_flaps_leaves_nothing_behind() {
    let (mut b, _, friend) = leaf();
    b.answer(friend, AT_P, 10);
    b.advance(1000);
    b.take();
    let before = b.node.gauges();
    let mut most = 0;
    for n in 0..2000u64 {
        let id = LocalSocketId(1000 + n);
        let local = addr("172.16.99.1:9993");
        b.node.add_socket(b.now, Socket { id, local, link: "flapping".into(), port: Port::Primary });
        b.advance(if n % 100 == 0 { 700 } else { 30 });
        b.receive(friend, id.0, AT_P, Verb::Nop, b"");
        b.advance(20);
        most = most.max(b.paths(friend).len());
        b.node.remove_socket(b.now, id);
        b.drain();
        assert!(b.paths(friend).iter().all(|(socket, _)| *socket != id.0), "no path without its socket");
    }
    let sent = b.take();
    assert!(most <= 4, "{most} paths");
    assert_eq!(b.node.fan_out(addr(AT_P)).len(), LINKS);
    let per_second = sent.len() as u64 * 1000 / b.ms();
    assert!(per_second < 200, "{per_second} packets a second");
    b.advance(60_000);
    let after = b.node.gauges();
    assert!(after.path_gates <= before.path_gates + 1, "{before:?} {after:?}");
    let (_, reports) = b.node.surfaces(b.now);
    assert!(reports.iter().all(|(_, socket, _)| socket.0 < 1000), "{reports:?}");
    assert_eq!((after.peers, after.timed_probes), (before.peers, before.timed_probes));
}

/// An address of any kind, the interesting ones more often.
fn endpoint() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just(0u16), Just(53), Just(9993), any::<u16>()];
    let ip = prop_oneof![
        3 => Just(VICTIM.to_string()),
        1 => any::<[u8; 4]>().prop_map(|b| IpAddr::from(b).to_string()),
        1 => any::<[u8; 16]>().prop_map(|b| format!("[{}]", IpAddr::from(b))),
        1 => prop::sample::select(&IMPOSSIBLE[..13]).prop_map(|e| e.rsplit_once(':').unwrap().0.to_string()),
    ];
    (ip, port).prop_map(|(ip, port)| format!("{ip}:{port}"))
}

/// Who says what.
#[derive(Clone, Debug)]
enum Said {
    Push(u8, Vec<String>),
    Rendezvous(String),
    /// The payload of either, as it comes.
    Bytes(bool, Vec<u8>),
    Wait(u64),
}

fn said() -> impl Strategy<Value = (u8, Said)> {
    let what = prop_oneof![
        4 => (0u8..4, prop::collection::vec(endpoint(), 0..12)).prop_map(|(flags, e)| Said::Push(flags, e)),
        4 => endpoint().prop_map(Said::Rendezvous),
        2 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(push, b)| Said::Bytes(push, b)),
        1 => (0u64..3000).prop_map(Said::Wait),
    ];
    (0u8..3, what)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_few_packets_leave_for_any_one_target(script in prop::collection::vec(said(), 1..120)) {
        let (mut b, root, friend) = leaf();
        let (who, at) = stranger(&mut b, 0);
        let start_ms = b.ms();
        for (speaker, what) in script {
            let (from, over) = [(root, AT_ROOT), (friend, AT_P), (who, at.as_str())][usize::from(speaker)];
            match what {
                Said::Wait(ms) => b.advance(ms),
                Said::Push(flags, endpoints) => {
                    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
                    b.receive(from, 5, over, Verb::PushDirectPaths, &push_of(&endpoints, flags));
                }
                Said::Rendezvous(endpoint) => {
                    b.receive(from, 5, over, Verb::Rendezvous, &rendezvous_of(friend, &endpoint));
                    b.receive(from, 5, over, Verb::Rendezvous, &rendezvous_of(who, &endpoint));
                }
                Said::Bytes(push, bytes) => {
                    let verb = if push { Verb::PushDirectPaths } else { Verb::Rendezvous };
                    b.receive(from, 5, over, verb, &bytes);
                }
            }
        }
        b.advance(2500);
        let lasted_ms = (b.ms() - start_ms) as usize;
        let known: Vec<IpAddr> = [AT_ROOT, AT_P, &at].iter().map(|a| addr(a).ip()).collect();
        let mut targets: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for s in b.take().iter().filter(|s| !known.contains(&s.remote.ip())) {
            prop_assert!(s.remote.port() != 0 && wire::endpoint::is_valid_path(s.remote), "{} was probed", s.remote);
            *targets.entry(s.remote.ip()).or_default() += if s.socket.is_some() { 1 } else { LINKS };
        }
        let most = TARGET_PROBES_BURST as usize + TARGET_PROBES_PER_10_S as usize * lasted_ms / 10_000 + 1;
        for (ip, packets) in targets {
            prop_assert!(packets <= most, "{packets} packets to {ip} in {lasted_ms} ms");
        }
    }
}
