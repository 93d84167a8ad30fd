//! What an operator is told: round trips as percentiles, the kind of NAT before a socket, why a peer is relayed.
// spec: paths, "Latency", "NAT traversal as a whole"

#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use lab::{Lab, at, ip, network_of};
use node::{LatencyStatus, Mapping, PathStatus, Relayed, Settings};
use sim::{HostId, Link, NatKind, Ports, Realm, World, identity, planet};

const ROOT_IP: &str = "44.0.0.1";

/// A leaf that does nothing but keep in touch with its root, `minutes` long over this link.
fn in_touch(link: Link, minutes: u64) -> Lab {
    let mut lab = lab::planet_of(3, 1);
    lab.world.set_default_link(link);
    lab.world.run_ms(minutes * 60_000);
    lab
}

fn path_to_root(lab: &Lab) -> PathStatus {
    let peers = lab.world.host(lab.leaves[0]).node.peers(lab.world.now());
    let root = peers.into_iter().find(|p| p.upstream).expect("the root is known");
    let [path] = root.paths.try_into().expect("one path");
    path
}

fn round_trips(lab: &Lab) -> LatencyStatus {
    path_to_root(lab).latency.expect("measured")
}

#[test]
fn a_steady_link_has_one_round_trip_time_and_no_jitter() {
    let l = round_trips(&in_touch(Link::delay_ms(10), 30));
    assert_eq!(
        [l.last_us, l.min_us, l.p50_us, l.p99_us, l.max_us, l.jitter_us],
        [20_000, 20_000, 20_000, 20_000, 20_000, 0]
    );
    assert!((40..=60).contains(&l.samples), "ten minutes of an ECHO every 14 s and a HELLO every minute: {l:?}");
}

#[test]
fn a_few_datagrams_that_come_late_move_the_99th_percentile_and_not_the_median() {
    let l = round_trips(&in_touch(Link { reorder_ppm: 50_000, ..Link::delay_ms(10) }, 30));
    assert_eq!((l.min_us, l.p50_us), (20_000, 20_000));
    assert!([30_000, 40_000].contains(&l.p99_us) && l.p99_us == l.max_us, "twice the delay one way or both: {l:?}");
    assert!((1000..10_000).contains(&l.jitter_us), "{l:?}");
}

#[test]
fn a_bad_minute_is_in_the_slowest_tenth_and_forgotten_after_the_window() {
    let mut lab = in_touch(Link::delay_ms(10), 30);
    let slow = |lab: &mut Lab, ms| lab.world.set_link(ip("44.0.1.1"), ip(ROOT_IP), Link::delay_ms(ms));
    assert_eq!(at(0), "44.0.1.1:9993");
    slow(&mut lab, 150);
    lab.world.run_ms(90_000);
    let l = round_trips(&lab);
    assert_eq!([l.last_us, l.min_us, l.p50_us, l.p90_us, l.max_us], [300_000, 20_000, 20_000, 300_000, 300_000]);
    assert!(path_to_root(&lab).latency_us.is_some_and(|us| us > 290_000), "what paths are compared by follows at once");
    slow(&mut lab, 10);
    lab.world.run_ms(11 * 60_000);
    assert_eq!(round_trips(&lab).max_us, 20_000);
}

/// Roots on the internet, and a leaf in a realm of its own that has greeted them.
fn leaf_of(roots: u64, place: impl Fn(&mut World) -> (Realm, &'static str)) -> (World, HostId) {
    let mut world = World::new(5);
    let endpoint = |n: u64| format!("44.{n}.0.1:9993");
    let identities: Vec<_> = (0..roots).map(|n| identity(1 + n)).collect();
    let listed = identities.iter().zip(0..).map(|(own, n)| (own.public(), vec![endpoint(n).parse().unwrap()]));
    let bytes = planet(&listed.collect::<Vec<_>>()).to_bytes();
    let mut hosts: Vec<HostId> = identities
        .iter()
        .zip(0..)
        .map(|(own, n)| world.add_host(own.clone(), Settings::default(), &[&endpoint(n)]))
        .collect();
    let (realm, address) = place(&mut world);
    hosts.push(world.add_host_in(realm, identity(77), Settings::default(), &[address]));
    for &host in &hosts {
        world.with(host, |node, now| node.restore_planet(now, &bytes)).unwrap();
    }
    world.run_ms(10_000);
    (world, hosts[roots as usize])
}

fn mapping(world: &World, leaf: HostId) -> Mapping {
    let nat = world.host(leaf).node.nat(world.now());
    assert_eq!(nat.len(), 1, "one socket");
    nat[0].mapping
}

fn behind(roots: u64, kind: NatKind) -> (World, HostId) {
    leaf_of(roots, |world| (world.add_nat(Realm::INTERNET, "99.0.0.1", kind), "192.168.1.10:9993"))
}

#[test]
fn four_roots_tell_what_kind_of_nat_there_is_within_seconds_and_ever_after() {
    let (world, leaf) = leaf_of(4, |_| (Realm::INTERNET, "99.0.0.1:9993"));
    assert_eq!(mapping(&world, leaf), Mapping::None);
    for kind in [NatKind::full_cone(), NatKind::address_restricted(), NatKind::port_restricted()] {
        let (world, leaf) = behind(4, kind);
        assert_eq!(mapping(&world, leaf), Mapping::EndpointIndependent, "{kind:?}");
    }
    for (ports, step) in [(Ports::Sequential, Some(1)), (Ports::Random, None)] {
        let (mut world, leaf) = behind(4, NatKind::symmetric(ports));
        assert_eq!(mapping(&world, leaf), Mapping::Symmetric { step }, "{ports:?}");
        world.run_ms(1_200_000);
        assert_eq!(mapping(&world, leaf), Mapping::Symmetric { step }, "{ports:?} after twenty minutes");
    }
    let (world, leaf) = leaf_of(2, |world| {
        let carrier = world.add_nat(Realm::INTERNET, "99.0.0.1", NatKind::symmetric(Ports::Random));
        (world.add_nat(carrier, "100.64.0.1", NatKind::port_restricted()), "192.168.1.10:9993")
    });
    assert_eq!(mapping(&world, leaf), Mapping::Symmetric { step: None }, "the carrier's");
}

#[test]
fn one_root_cannot_tell_and_a_router_that_starts_again_is_no_other_kind_for_long() {
    let (world, leaf) = behind(1, NatKind::symmetric(Ports::Random));
    assert_eq!(mapping(&world, leaf), Mapping::Unknown);
    let (mut world, leaf) = behind(4, NatKind::port_restricted());
    let realm = world.realm(leaf);
    world.restart_nat(realm);
    world.run_ms(180_000);
    assert_eq!(mapping(&world, leaf), Mapping::EndpointIndependent);
}

fn relayed(lab: &Lab) -> Option<Relayed> {
    let peers = lab.world.host(lab.leaves[0]).node.peers(lab.world.now());
    peers.into_iter().find(|p| p.address == lab.address(1)).expect("known").relayed
}

#[test]
fn a_peer_that_stays_relayed_says_how_far_it_got() {
    let mut lab = network_of(4, 2);
    lab.world.block(ip("44.0.1.1"), ip("44.0.2.1"));
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 10_000).is_some());
    assert_eq!(relayed(&lab), Some(Relayed::Trying));
    for number in 0..60 {
        lab.ping(0, 1, number, 56, 1000);
        lab.world.run_ms(1000);
    }
    assert_eq!(relayed(&lab), Some(Relayed::Unanswered));
    lab.world.unblock(ip("44.0.1.1"), ip("44.0.2.1"));
    let mut number = 100;
    while !lab.direct(0, 1) && number < 200 {
        lab.ping(0, 1, number, 56, 1000);
        lab.world.run_ms(1000);
        number += 1;
    }
    assert_eq!((lab.direct(0, 1), relayed(&lab)), (true, None));
}
