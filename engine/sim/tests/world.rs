//! Real nodes and the real controller in the simulated world: what a user of the network would notice.

mod common;

use common::*;
use node::Event;
use serde_json::json;
use sim::{Link, NatKind, Realm, arp_request, ethernet};
use wire::Mac;

#[test]
fn leaves_go_online_and_members_that_never_met_ping_each_other_in_well_under_200_ms() {
    let mut lab = network_of(1, 2);
    lab.join_all(2000);
    assert!(lab.leaves.iter().all(|&l| lab.world.host(l).node.is_online()));
    let took = lab.first_ping(0, 1, 56, 5000).expect("a pong");
    // ARP goes out, credentials and identities are exchanged, the answer comes back: all by relay, 20 ms one way.
    assert!(took <= 200, "{took} ms");
}

#[test]
fn members_go_direct_and_frames_of_every_size_pass_both_ways() {
    let mut lab = network_of(2, 2);
    lab.join_all(2000);
    lab.first_ping(0, 1, 56, 5000).unwrap();
    let mut number = 100;
    let both_direct = (0..20).any(|_| {
        number += 1;
        lab.ping(0, 1, number, 56, 1000);
        lab.world.run_ms(100);
        lab.direct(0, 1) && lab.direct(1, 0)
    });
    assert!(both_direct);
    for (from, to, len) in [(0, 1, 1400), (1, 0, 2700), (0, 1, 2772)] {
        number += 1;
        assert_eq!(lab.ping(from, to, number, len, 1000), Some(20), "{len} bytes, one round trip");
    }
    // Direct pairs learn each other's version and use the better suite.
    let peers = lab.world.host(lab.leaves[0]).node.peers(lab.world.now());
    assert_eq!(peers.iter().find(|p| p.address == lab.address(1)).unwrap().version.0, 12);
}

#[test]
fn a_pair_that_cannot_talk_directly_is_relayed_and_goes_direct_when_it_can() {
    let mut lab = network_of(3, 2);
    let (a, b) = (ip("44.0.1.1"), ip("44.0.2.1"));
    lab.world.block(a, b);
    lab.join_all(2000);
    assert!(lab.first_ping(0, 1, 2000, 5000).is_some());
    for number in 10..40 {
        assert_eq!(lab.ping(0, 1, number, 56, 1000), Some(40), "by relay");
        lab.world.run_ms(500);
    }
    assert!(!lab.direct(0, 1));
    lab.world.unblock(a, b);
    let mut went = None;
    for number in 100..200 {
        if lab.ping(0, 1, number, 56, 1000) == Some(20) {
            went = Some(number - 100);
            break;
        }
        lab.world.run_ms(960);
    }
    assert!(went.is_some_and(|seconds| seconds <= 35), "{went:?} s: at the latest with the next introduction");
    // And back: the path dies under traffic.
    lab.world.block(a, b);
    let mut lost = 0;
    let back = (300..320).find(|&number| {
        let pong = lab.ping(0, 1, number, 56, 500);
        lost += usize::from(pong.is_none());
        lab.world.run_ms(500 - pong.unwrap_or(500));
        pong == Some(40)
    });
    assert!(back.is_some() && lost <= 4, "{lost} pings lost, at two a second");
    assert!(lab.world.last_event(lab.leaves[0], |e| matches!(e, Event::PeerRelayed { .. })).is_some());
}

#[test]
fn multicast_reaches_every_member_and_nobody_else() {
    let mut lab = network_of(4, 4);
    lab.join_all(3000);
    lab.world.run_ms(1000);
    for n in 1..4 {
        assert!(lab.first_ping(0, n, 56, 5000).is_some(), "leaf {n}");
    }
    // Broadcast to a group that all are in.
    let network = lab.network;
    let group = wire::MulticastGroup { mac: Mac([0x33, 0x33, 0, 0, 0, 0xfb]), adi: 0 };
    for n in 0..3 {
        lab.world.with(lab.leaves[n], |node, now| node.set_subscriptions(now, network, vec![group]));
    }
    lab.world.run_ms(2000);
    lab.world.host_mut(lab.leaves[1]).delivered.clear();
    lab.world.host_mut(lab.leaves[3]).delivered.clear();
    let frame = ethernet(group.mac, lab.stack(0).mac, 0x86dd, &[0x60; 60]);
    lab.world.tap(lab.leaves[0], network, &frame);
    lab.world.run_ms(1000);
    let got = |n: usize| lab.world.host(lab.leaves[n]).delivered.iter().any(|(_, f)| f[..14] == frame[..14]);
    assert!(got(1) && got(2) && !got(3));
}

#[test]
fn everything_works_under_loss_disorder_and_repetition() {
    let mut lab = network_of(5, 3);
    let bad = Link { jitter_us: 20_000, loss_ppm: 50_000, repeat_ppm: 50_000, ..Link::delay_ms(15) };
    lab.world.set_default_link(bad);
    lab.join_all(30_000);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        // A lost MULTICAST_LIKE is repeated after a minute.
        assert!(lab.first_ping(from, to, 2000, 90_000).is_some(), "{from} to {to}");
    }
    let mut answered = 0;
    for number in 1..=200 {
        answered += usize::from(lab.ping(0, 1, number, 1200, 200).is_some());
        lab.world.run_ms(50);
    }
    assert!(answered >= 150, "{answered} of 200");
    // No frame is delivered twice although datagrams are.
    let host = lab.leaves[1];
    lab.world.host_mut(host).delivered.clear();
    for number in 1000..1100 {
        lab.ping(0, 1, number, 32, 100);
    }
    let mut seen = std::collections::BTreeSet::new();
    let pings = lab.world.host(host).delivered.iter().filter(|(_, f)| f.len() > 42 && f[34] == 8);
    assert!(pings.into_iter().all(|(_, f)| seen.insert(f[40..42].to_vec())));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let run = |seed| {
        let mut lab = network_of(seed, 3);
        lab.world.set_default_link(Link {
            jitter_us: 9_000,
            loss_ppm: 20_000,
            repeat_ppm: 10_000,
            ..Link::delay_ms(15)
        });
        lab.join_all(30_000);
        lab.first_ping(0, 1, 100, 10_000);
        lab.world.run_ms(70_000);
        (lab.world.trace(), lab.world.datagrams())
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
}

#[test]
fn a_leaf_without_a_socket_wakes_up_when_it_gets_one_and_survives_losing_it() {
    let mut lab = network_of(9, 2);
    lab.join_all(2000);
    lab.first_ping(0, 1, 56, 5000).unwrap();
    let leaf = lab.leaves[0];
    let socket = *lab.world.host(leaf).sockets.keys().next().unwrap();
    lab.world.remove_socket(leaf, socket);
    assert_eq!(lab.ping(0, 1, 500, 56, 3000), None);
    lab.world.add_socket(leaf, "44.0.9.9:9993");
    let start = lab.world.now().ms();
    let back = (0..10).find(|n| lab.ping(0, 1, 600 + n, 56, 500).is_some());
    assert!(back.is_some(), "reachable again");
    assert!(lab.world.now().ms() - start <= 2000);
}

#[test]
fn the_root_can_be_a_member_of_the_network_it_controls() {
    let mut lab = network_of(11, 1);
    lab.root_joins();
    lab.join_all(2000);
    assert_eq!(lab.first_ping(0, 1, 1000, 5000).map(|took| took <= 200), Some(true));
    assert_eq!(lab.ping(1, 0, 9, 1000, 1000), Some(20));
}

#[test]
fn a_member_that_is_de_authorised_gets_no_frame_through_any_more() {
    let mut lab = network_of(12, 3);
    lab.join_all(3000);
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        lab.first_ping(from, to, 56, 5000).unwrap();
    }
    lab.update_member(1, json!({ "authorized": false }));
    lab.world.run_ms(500);
    for n in 0..3 {
        assert_eq!(lab.ping(0, 1, 50 + n, 56, 500), None);
        assert_eq!(lab.ping(1, 2, 60 + n, 56, 500), None);
        assert!(lab.ping(0, 2, 70 + n, 56, 500).is_some());
    }
    lab.update_member(1, json!({ "authorized": true }));
    lab.world.run_ms(65_000);
    assert!(lab.first_ping(0, 1, 56, 70_000).is_some());
}

#[test]
fn whoever_may_talk_to_whom_directly_everybody_reaches_everybody() {
    for seed in 0..25u64 {
        let mut lab = network_of(100 + seed, 4);
        // Each of the six pairs is cut or not, by the bits of the seed.
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        let cut: Vec<(usize, usize)> =
            pairs.into_iter().enumerate().filter(|(i, _)| (seed * 5) >> i & 1 == 1).map(|(_, p)| p).collect();
        let host = |n: usize| ip(&format!("44.0.{}.1", n + 1));
        cut.iter().for_each(|&(a, b)| lab.world.block(host(a), host(b)));
        lab.join_all(3000);
        for (a, b) in pairs {
            assert!(lab.first_ping(a, b, 500, 5000).is_some(), "seed {seed}: {a} to {b}");
        }
        lab.world.run_ms(2000);
        for (a, b) in pairs {
            lab.ping(a, b, 1, 56, 1000);
            lab.world.run_ms(1000);
            let took = lab.ping(b, a, 2, 56, 1000).unwrap_or_else(|| panic!("seed {seed}: {b} to {a}"));
            assert_eq!(took, if cut.contains(&(a, b)) { 40 } else { 20 }, "seed {seed}: {a} and {b}");
        }
    }
}

#[test]
fn asking_for_an_absent_host_does_not_flood() {
    let mut lab = network_of(10, 2);
    lab.join_all(2000);
    lab.world.run_ms(5000);
    let before = lab.world.datagrams();
    let asker = lab.stack(0);
    for _ in 0..50 {
        lab.world.tap(lab.leaves[0], lab.network, &arp_request(asker, "10.77.0.98".parse().unwrap()));
        lab.world.run_ms(20);
    }
    let sent = lab.world.datagrams() - before;
    assert!(sent < 200, "{sent} datagrams for 50 requests");
}

/// Three members; leaf 0 is in a home behind a full cone.
fn with_a_home(seed: u64) -> Lab {
    let mut lab = network_with(seed, 3, |world, n| match n {
        0 => (world.add_nat(Realm::INTERNET, "44.0.1.1", NatKind::full_cone()), "192.168.1.10:9993".into()),
        _ => (Realm::INTERNET, at(n)),
    });
    lab.join_all(5000);
    for n in [1, 2] {
        assert!(lab.first_ping(0, n, 56, 5000).is_some());
    }
    lab
}

#[test]
fn the_line_of_a_home_is_shared_by_all_that_it_sends_to() {
    let mut lab = with_a_home(12);
    let home = lab.world.realm(lab.leaves[0]);
    lab.world.set_link_in(home, Link { rate_bps: 1_000_000, queue_us: 1_000_000, ..Link::delay_ms(1) });
    let (host, network, asker, start) = (lab.leaves[0], lab.network, lab.stack(0), lab.world.now().ms());
    lab.world.host_mut(host).delivered.clear();
    for number in 0..20u16 {
        let to = lab.stack(1 + usize::from(number) % 2);
        lab.world.tap(host, network, &sim::icmp_echo(asker, to, number, 1200));
    }
    let pongs = |w: &mut sim::World| w.host(host).delivered.iter().filter(|(_, f)| asker.pong(f).is_some()).count();
    assert!(lab.world.run_until(2000, |w| pongs(w) == 20));
    let took = lab.world.now().ms() - start;
    // 20 x 1200 bytes and headers at 1 Mbit/s, and what else goes out meanwhile.
    assert!((200..300).contains(&took), "{took} ms");
}

#[test]
fn what_comes_in_for_a_host_that_left_its_home_goes_nowhere() {
    let mut lab = with_a_home(13);
    let (host, home) = (lab.leaves[0], lab.world.realm(lab.leaves[0]));
    let socket = *lab.world.host(host).sockets.keys().next().unwrap();
    let (before, mapped) = (lab.world.lost().nowhere, lab.world.nat(home).mappings());
    lab.world.remove_socket(host, socket);
    assert_eq!(lab.ping(1, 0, 9, 56, 2000), None);
    assert!(lab.world.lost().nowhere > before);
    assert_eq!(lab.world.nat(home).mappings(), mapped);
}
