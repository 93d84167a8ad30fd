//! A way fails while frames go both ways, one a millisecond: how long nothing comes, what is lost, what comes twice. Also
//! that a better way is used only once it is proven, that warm-up doubles what it was asked to and nothing else, and that
//! whoever sends our peer's packets from another address moves nothing.
// spec: paths, "Path selection" and "When an interface goes away", Gateway

mod common;
#[path = "../../sim/tests/common/mod.rs"]
mod lab;
mod stream;

use common::{Bench, addr, ok_payload, only};
use lab::{Lab, at, ip, network_with};
use node::{LocalSocketId, Settings, WarmUp};
use sim::{HostId, Link, NatKind, Ports, Realm, identity};
use stream::Got;
use wire::message::PathRecord;
use wire::{Address, Root, Suite, Verb, World as WireWorld, WorldKind};

impl Got {
    /// Longest time between two arrivals after `from_ms`.
    fn gap_ms(&self, from_ms: u64) -> u64 {
        let late = self.arrivals.windows(2).filter(|w| w[1].1 >= from_ms);
        late.map(|w| w[1].1 - w[0].1).max().unwrap_or(u64::MAX)
    }

    /// By how many numbers the most overtaken one was overtaken; one is sent a millisecond.
    fn most_overtaken(&self) -> u32 {
        let mut highest = 0;
        let overtaken = self.arrivals.iter().map(|&(n, _)| {
            highest = highest.max(n);
            highest - n
        });
        overtaken.max().unwrap_or(0)
    }
}

/// A frame each way, or only from leaf 0, every millisecond for `ms`; `at_ms` into it `fail` is called. What leaf 1 and
/// leaf 0 got.
fn stream(lab: &mut Lab, ms: u64, both: bool, at_ms: u64, fail: impl FnOnce(&mut Lab)) -> [Got; 2] {
    let mut fail = Some(fail);
    stream::stream(lab, ms, both, |lab, t| {
        if let Some(fail) = fail.take_if(|_| t == at_ms) {
            fail(lab);
        }
    })
}

/// Two members, leaf 0 in `realm_of` if that makes a network, who know each other's addresses. Direct unless cut.
fn pair(seed: u64, nat: Option<NatKind>, cut: bool) -> Lab {
    let mut lab = network_with(seed, 2, |world, n| match nat {
        Some(kind) if n == 0 => (world.add_nat(Realm::INTERNET, "44.0.1.1", kind), "192.168.10.10:9993".into()),
        _ => (Realm::INTERNET, at(n)),
    });
    if cut {
        lab.world.block(ip("44.0.1.1"), ip("44.0.2.1"));
    }
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    lab.first_ping(1, 0, 56, 5000);
    stream(&mut lab, 3000, true, 0, |_| ());
    assert_eq!((lab.direct(0, 1), lab.direct(1, 0)), (!cut, !cut));
    lab
}

const SECOND_ROOT: &str = "44.0.250.1";

/// Gives everybody a second root, 30 ms away from all: a moon.
fn with_second_root(lab: &mut Lab) -> HostId {
    let own = identity(2);
    let root = Root { identity: own.public().clone(), endpoints: vec![addr(&format!("{SECOND_ROOT}:9993"))] };
    let signer = identity(u64::from(u32::MAX) - 1);
    let moon = WireWorld::make(WorldKind::Moon, 7, 1000, *signer.public().public_key(), vec![root], &signer).to_bytes();
    for other in ["44.0.1.1", "44.0.2.1", "44.0.0.1"] {
        lab.world.set_link(ip(SECOND_ROOT), ip(other), Link::delay_ms(30));
    }
    let second = lab.world.add_host(own, Settings::default(), &[&format!("{SECOND_ROOT}:9993")]);
    for host in [lab.root, second].into_iter().chain(lab.leaves.clone()) {
        lab.world.with(host, |node, now| node.restore_moon(now, &moon)).unwrap();
    }
    lab.world.run_ms(6000);
    second
}

/// Nothing passes between the first root and the leaves any more.
fn kill_root(lab: &mut Lab) {
    lab.world.block(ip("44.0.0.1"), ip("44.0.1.1"));
    lab.world.block(ip("44.0.0.1"), ip("44.0.2.1"));
}

fn under_a_second(got: &[Got], from_ms: u64) {
    for (name, got) in ["from 0", "from 1"].iter().zip(got) {
        println!("{name}: gap {} ms, lost {}", got.gap_ms(from_ms), got.lost());
        assert!(got.gap_ms(from_ms) < 1000, "{name}: {} ms", got.gap_ms(from_ms));
        assert!(got.lost() < 1000, "{name}: {} lost", got.lost());
        assert_eq!(got.twice(), 0);
    }
}

#[test]
fn a_killed_root_costs_a_pair_that_it_relays_less_than_a_second() {
    for both in [true, false] {
        let mut lab = pair(1, None, true);
        with_second_root(&mut lab);
        let got = stream(&mut lab, 4000, both, 1000, kill_root);
        assert!(got[0].gap_ms(1000) > 100, "it was noticed");
        under_a_second(if both { &got } else { &got[..1] }, 1000);
        assert!(got[0].arrivals.iter().any(|(n, t)| *n > 3900 && t - u64::from(*n) >= 59), "over the second root");
    }
}

#[test]
fn a_killed_root_is_not_noticed_by_a_pair_that_is_direct() {
    let mut lab = pair(1, None, false);
    with_second_root(&mut lab);
    let got = stream(&mut lab, 4000, true, 1000, kill_root);
    for got in got {
        assert_eq!((got.lost(), got.twice(), got.most_overtaken()), (0, 0, 0));
        assert_eq!(got.gap_ms(0), 1);
    }
}

#[test]
fn an_address_that_is_replaced_by_another_costs_less_than_a_second_and_the_pair_is_direct_again() {
    let mut lab = pair(1, None, false);
    let got = stream(&mut lab, 4000, true, 1000, |lab| {
        let host = lab.leaves[0];
        let old = *lab.world.host(host).sockets.keys().next().unwrap();
        lab.world.remove_socket(host, old);
        lab.world.add_socket(host, "45.0.1.1:9993");
    });
    under_a_second(&got, 1000);
    assert!(lab.direct(0, 1) && lab.direct(1, 0));
    assert_eq!(lab.ping(0, 1, 7, 56, 1000), Some(20), "not by the relay");
}

#[test]
fn an_only_interface_that_comes_back_is_direct_again_within_a_second() {
    let mut lab = pair(1, None, false);
    let got = stream(&mut lab, 4000, true, 1000, |lab| {
        let host = lab.leaves[0];
        let old = *lab.world.host(host).sockets.keys().next().unwrap();
        lab.world.remove_socket(host, old);
        lab.world.run_ms(500);
        lab.world.add_socket(host, &at(0));
    });
    assert!(lab.direct(0, 1) && lab.direct(1, 0));
    // Half a second of it is the interface's own.
    under_a_second(&got, 1000);
}

#[test]
fn a_mapping_that_a_router_forgets_under_load_costs_less_than_a_second() {
    for kind in [NatKind::port_restricted(), NatKind::symmetric(Ports::Random)] {
        let mut lab = pair(1, Some(kind), false);
        let got = stream(&mut lab, 4000, true, 1000, |lab| {
            let home = lab.world.realm(lab.leaves[0]);
            lab.world.restart_nat(home);
        });
        under_a_second(&got, 1000);
        assert_eq!(got[0].lost(), 0, "what goes out opens the router again");
        assert_eq!(lab.ping(0, 1, 7, 56, 1000), Some(22), "direct");
    }
}

/// Leaf 0 has a second uplink, and both know it.
fn with_second_uplink(lab: &mut Lab) {
    lab.world.add_socket(lab.leaves[0], "45.0.1.1:9993");
    stream(lab, 20_000, true, 0, |_| ());
    let paths = |lab: &Lab, n: usize| {
        let peers = lab.world.host(lab.leaves[n]).node.peers(lab.world.now());
        peers.iter().find(|p| p.address == lab.address(1 - n)).map_or(0, |p| p.paths.len())
    };
    assert_eq!((paths(lab, 0), paths(lab, 1)), (2, 2));
}

#[test]
fn an_interface_that_goes_is_left_at_once_for_the_other_one() {
    let mut lab = pair(1, None, false);
    with_second_uplink(&mut lab);
    let got = stream(&mut lab, 3000, true, 1000, |lab| {
        let host = lab.leaves[0];
        let first = *lab.world.host(host).sockets.keys().next().unwrap();
        lab.world.remove_socket(host, first);
    });
    under_a_second(&got, 1000);
    assert_eq!(got[0].lost(), 0, "whose interface it is knows at once");
}

#[test]
fn a_way_that_swallows_everything_is_left_for_the_other_uplink_and_without_one_for_the_relay() {
    for second in [true, false] {
        let mut lab = pair(1, None, false);
        if second {
            with_second_uplink(&mut lab);
        }
        let cut = |lab: &mut Lab| lab.world.block(ip("44.0.1.1"), ip("44.0.2.1"));
        let got = stream(&mut lab, 4000, true, 1000, cut);
        assert!(got.iter().all(|g| g.gap_ms(1000) > 100), "it was noticed");
        under_a_second(&got, 1000);
        assert_eq!((lab.direct(0, 1), lab.direct(1, 0)), (second, second));
    }
}

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";

/// A leaf that talks with `p`, who is direct and answers.
fn busy() -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.actors.get_mut(&p).unwrap().only_socket = Some(5);
    b.answer(p, AT_P, 10);
    b.receive_frame(p, 5, AT_P, 0);
    for _ in 0..20 {
        exchange(&mut b, p, true);
    }
    b.take();
    (b, p)
}

/// Ten milliseconds with a frame to `p` and perhaps one from there. Where ours went.
fn exchange(b: &mut Bench, p: Address, hears: bool) -> String {
    if hears {
        b.receive_frame(p, 5, AT_P, 0);
    }
    b.send_frame(p);
    let sent = b.take_to(p);
    b.advance(10);
    only(&sent, Verb::Frame)[0].remote.to_string()
}

#[test]
fn a_path_that_is_dead_one_way_is_left_although_it_still_brings_frames_and_is_not_taken_again_before_it_answers() {
    let (mut b, p) = busy();
    // Nothing of ours arrives. The peer, who hears nothing, asks whether we are there, and goes on.
    b.silence(p);
    let start = b.ms();
    b.receive(p, 5, AT_P, Verb::Echo, b"");
    while exchange(&mut b, p, true) == AT_P {
        assert!(b.ms() - start < 1000);
    }
    for _ in 0..300 {
        assert_eq!(exchange(&mut b, p, true), AT_ROOT, "what still comes says nothing of the way out");
    }
    b.answer(p, AT_P, 10);
    let start = b.ms();
    while exchange(&mut b, p, true) == AT_ROOT {
        assert!(b.ms() - start < 500);
    }
}

#[test]
fn a_peer_that_turns_to_the_relay_casts_doubt_on_our_own_way_to_it() {
    let (mut b, p) = busy();
    b.silence(p);
    for _ in 0..15 {
        assert_eq!(exchange(&mut b, p, false), AT_P);
    }
    let start = b.ms();
    loop {
        b.receive_frame(p, 5, AT_ROOT, 1);
        if exchange(&mut b, p, false) == AT_ROOT {
            break;
        }
        assert!(b.ms() - start < 400, "sooner than by silence alone");
    }
    assert_eq!(b.node.counters().path_doubted, 1);
}

#[test]
fn a_send_that_the_kernel_refuses_has_the_path_probed_at_once() {
    let (mut b, p) = busy();
    b.silence(p);
    let start = b.ms();
    b.node.handle_send_refused(b.now, LocalSocketId(5), addr(AT_P));
    while exchange(&mut b, p, true) == AT_P {
        assert!(b.ms() - start < 400, "although frames still come");
    }
}

#[test]
fn doubts_cost_a_healthy_path_one_probe_a_second_and_nothing_else() {
    let (mut b, p) = busy();
    let mut echoes = 0;
    for n in 0..1000 {
        b.receive_frame(p, 5, AT_ROOT, 1);
        b.receive(p, 5, AT_P, Verb::Echo, b"");
        b.receive_frame(p, 5, AT_P, 0);
        b.send_frame(p);
        let sent = b.take_to(p);
        assert_eq!(only(&sent, Verb::Frame)[0].remote, addr(AT_P), "after {n}");
        b.advance(10);
        echoes += only(&sent, Verb::Echo).len();
    }
    assert!((9..=11).contains(&echoes), "{echoes} in 10 s");
}

#[test]
fn with_fast_failover_off_nothing_is_probed_that_zerotierone_would_not_probe() {
    let (mut b, p) = busy();
    b.node.set_settings(b.now, Settings { fast_failover: false, ..Settings::default() });
    b.advance(50);
    b.take();
    b.silence(p);
    let mut echoes = 0;
    for _ in 0..300 {
        b.receive_frame(p, 5, AT_ROOT, 1);
        b.send_frame(p);
        b.advance(10);
        let sent = b.take_to(p);
        assert_eq!(only(&sent, Verb::Frame)[0].remote, addr(AT_P));
        echoes += only(&sent, Verb::Echo).len();
    }
    assert_eq!((echoes, b.node.counters().path_doubted), (0, 0));
}

#[test]
fn packets_of_a_peer_sent_again_from_another_address_with_no_hops_move_no_path() {
    const ELSEWHERE: &str = "44.66.66.66:9993";
    let (mut b, p) = busy();
    let root = b.node.planet().unwrap().roots[0].identity.address();
    // What went over the relay, what answered us, what asked: each as it was, from somewhere else.
    b.send_frame(p);
    b.advance(300);
    let probe = b.take_to(p).into_iter().find(|s| s.verb == Some(Verb::Echo)).unwrap();
    let ok = b.packet(p, Verb::Ok, &ok_payload(Verb::Echo, probe.id, b""), Suite::AesGmacSiv, 0);
    let frame = b.packet(p, Verb::Frame, &common::frame_payload(), Suite::AesGmacSiv, 0);
    let echo = b.packet(p, Verb::Echo, b"", Suite::AesGmacSiv, 0);
    let hello = b.hello(p, None, wire::message::WorldRevision { id: 0xfeed, timestamp: 1000 });
    for captured in [&ok, &frame, &echo, &hello] {
        b.deliver(5, AT_P, captured.clone());
    }
    for round in 0..100 {
        for captured in [&ok, &frame, &echo, &hello] {
            b.deliver(5, ELSEWHERE, captured.clone());
            b.deliver(7, ELSEWHERE, captured.clone());
        }
        assert_eq!(exchange(&mut b, p, true), AT_P, "round {round}");
    }
    assert_eq!(b.paths(p), [(5, addr(AT_P))]);
    assert_eq!(b.node.counters().path_suspected, 0);
    assert!(b.paths(root).iter().all(|(_, remote)| *remote == addr(AT_ROOT)));
}

#[test]
fn a_redirect_takes_effect_only_when_its_target_answers_and_not_one_frame_is_sent_nowhere() {
    const TARGET: &str = "44.1.1.2:9993";
    let mut b = Bench::new(1);
    let root = b.actor(2);
    b.install_planet(&[(root, &[AT_ROOT, TARGET])]);
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 10);
    b.advance(1000);
    b.join_open();
    b.receive_frame(root, 5, AT_ROOT, 0);
    b.take();
    let record = PathRecord { flags: PathRecord::CLUSTER_REDIRECT, extension: b"", endpoint: addr(TARGET) };
    let mut push = Vec::new();
    PathRecord::write_all(&[record], &mut push);
    let to = |b: &mut Bench| {
        b.send_frame(root);
        let sent = b.take_to(root);
        let went = only(&sent, Verb::Frame)[0].remote;
        b.advance(10);
        went
    };
    b.receive(root, 5, AT_ROOT, Verb::PushDirectPaths, &push);
    for _ in 0..50 {
        assert_eq!(to(&mut b), addr(AT_ROOT), "not proven");
    }
    b.answer(root, TARGET, 30);
    b.receive(root, 5, AT_ROOT, Verb::PushDirectPaths, &push);
    let mut went: Vec<_> = (0..50).map(|_| to(&mut b)).collect();
    went.dedup();
    assert_eq!(went, [addr(AT_ROOT), addr(TARGET)], "the old way until the new one is proven, then the new one");
}

#[test]
fn a_better_path_is_taken_without_losing_a_frame_and_nothing_is_overtaken_by_more_than_the_delays_differ() {
    const SLOW_MS: u64 = 90;
    let mut lab = pair(1, None, false);
    lab.world.set_link(ip("44.0.1.1"), ip("44.0.2.1"), Link::delay_ms(SLOW_MS));
    // Long enough for the slow way to be measured as slow, with the minute's HELLO.
    stream(&mut lab, 70_000, true, 0, |_| ());
    let got = stream(&mut lab, 60_000, true, 1000, |lab| {
        lab.world.add_socket(lab.leaves[0], "45.0.1.1:9993");
    });
    for got in got {
        assert_eq!((got.lost(), got.twice()), (0, 0));
        let (last, at) = got.arrivals[got.arrivals.len() - 1];
        assert!(at - u64::from(last) <= 10, "the better path is used in the end");
        assert!(u64::from(got.most_overtaken()) <= SLOW_MS - 10, "{}", got.most_overtaken());
        assert!(got.most_overtaken() > 0, "it was changed under way");
    }
}

#[test]
fn warm_up_sends_the_first_frames_of_a_path_twice_and_a_hawser_delivers_each_once() {
    for (warm_up, copies) in [
        (WarmUp::default(), 0..=0),
        (WarmUp { packets: 40, ms: 0 }, 40..=40),
        (WarmUp { packets: 0, ms: 100 }, 100..=101),
        (WarmUp { packets: 40, ms: 20 }, 20..=21),
    ] {
        let mut lab = pair(1, None, true);
        for leaf in lab.leaves.clone() {
            let settings = Settings { warm_up, ..Settings::default() };
            lab.world.with(leaf, |node, now| node.set_settings(now, settings));
        }
        lab.world.unblock(ip("44.0.1.1"), ip("44.0.2.1"));
        let got = stream(&mut lab, 60_000, true, 0, |_| ());
        assert!(lab.direct(0, 1) && lab.direct(1, 0));
        for (n, got) in got.iter().enumerate() {
            assert_eq!((got.lost(), got.twice()), (0, 0), "{warm_up:?}");
            let node = |n: usize| &lab.world.host(lab.leaves[n]).node;
            assert!(copies.contains(&node(n).counters().warm_up_copies), "{}", node(n).counters().warm_up_copies);
            assert_eq!(node(n).counters().warm_up_copies, node(1 - n).counters().dropped_repeat);
            assert_eq!(node(n).gauges().warming, 0);
        }
    }
}

#[test]
fn paths_warmed_up_at_a_time_are_bounded_and_the_others_are_just_used() {
    use node::limits::{WARM_UP_MS_MAX, WARMING_MAX};
    let (mut b, _) = Bench::leaf();
    let warm_up = WarmUp { packets: 5, ms: 0 };
    b.node.set_settings(b.now, Settings { warm_up, ..Settings::default() });
    b.join_open();
    let peers: Vec<_> = (0..WARMING_MAX as u64 + 3)
        .map(|n| {
            let (p, at) = (b.actor(1000 + n), format!("44.{}.{}.1:9993", 20 + n / 200, 1 + n % 200));
            b.befriend(p, 5, &at);
            b.advance(55); // 20 new identities a second
            (p, at)
        })
        .collect();
    peers.iter().for_each(|(p, at)| b.receive_frame(*p, 5, at, 0));
    assert_eq!((b.node.gauges().warming, b.node.counters().warming_full), (WARMING_MAX, 3));
    let (p, at) = peers.last().unwrap();
    b.take();
    b.send_frame(*p);
    let remotes: Vec<_> = only(&b.take(), Verb::Frame).iter().map(|s| s.remote).collect();
    assert_eq!(remotes, [addr(at)], "no room: the path alone");
    b.advance(u64::from(WARM_UP_MS_MAX));
    assert_eq!(b.node.gauges().warming, 0, "who sends nothing does not keep its place");
}

#[test]
fn warm_up_saves_what_a_new_path_swallows() {
    let lost = |warm_up: WarmUp| {
        let mut lab = pair(1, None, true);
        for leaf in lab.leaves.clone() {
            lab.world.with(leaf, |node, now| node.set_settings(now, Settings { warm_up, ..Settings::default() }));
        }
        lab.world.unblock(ip("44.0.1.1"), ip("44.0.2.1"));
        let leaf = lab.leaves[0];
        let direct = |e: &node::Event| matches!(e, node::Event::PeerDirect { .. });
        let before = lab.world.last_event(leaf, direct);
        let stacks = [lab.stack(0), lab.stack(1)];
        // Until the path is there, then it swallows everything for 100 ms.
        let mut number = 0;
        while lab.world.last_event(leaf, direct) == before || !lab.direct(0, 1) {
            number += 1;
            assert!(number < 60_000);
            let ping = sim::icmp_echo(stacks[0], stacks[1], number, 20);
            lab.world.tap(leaf, lab.network, &ping);
            lab.world.run_ms(1);
        }
        lab.world.block(ip("44.0.1.1"), ip("44.0.2.1"));
        let [got, _] = stream(&mut lab, 400, false, 100, |lab| lab.world.unblock(ip("44.0.1.1"), ip("44.0.2.1")));
        got.lost()
    };
    assert_eq!((lost(WarmUp::default()), lost(WarmUp { packets: 0, ms: 200 })), (100, 0));
}
