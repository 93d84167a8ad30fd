//! Two real nodes behind routers that translate addresses, a root and controller on the internet: who goes direct, how
//! soon, and that everybody else stays reachable by relay. // spec: paths, "NAT traversal as a whole"

#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use lab::{Lab, network_with};
use node::limits::*;
use sim::meeting::{Behind, KINDS, LIMIT_MS, behind_one_carrier, home, pair, round_trips, settle};
use sim::{Link, NatKind, Ports, Realm, Unsolicited};

/// Leaf 0 begins; milliseconds until both are direct, unless they never are.
fn meet(lab: &mut Lab) -> Option<u64> {
    sim::meeting::meet(lab, LIMIT_MS)
}

const SEQUENTIAL: Behind = Behind::Nat(NatKind::symmetric(Ports::Sequential));
const RANDOM: Behind = Behind::Nat(NatKind::symmetric(Ports::Random));
const PORT_RESTRICTED: Behind = Behind::Nat(NatKind::port_restricted());

fn is_symmetric(x: Behind) -> bool {
    x == SEQUENTIAL || x == RANDOM
}

/// ZeroTier's exchange opens a pair unless one side's port is not to be foreseen and the other insists on it.
fn exchange_opens(a: Behind, b: Behind) -> bool {
    let insists = |x: Behind| x == PORT_RESTRICTED || is_symmetric(x);
    !(is_symmetric(a) && insists(b) || is_symmetric(b) && insists(a))
}

/// A port spread opens the others unless neither port is to be foreseen, nor even where it would be sought.
fn can_go_direct(a: Behind, b: Behind) -> bool {
    exchange_opens(a, b) || !is_symmetric(a) || !is_symmetric(b) || (a == SEQUENTIAL && b == SEQUENTIAL)
}

#[test]
fn every_pair_goes_direct_unless_both_are_symmetric_and_one_has_random_ports() {
    println!("{:<24}{:<24}{:<9}{:>6}", "begins", "with", "way", "ms");
    let mut wrong = Vec::new();
    for (name_a, a) in KINDS {
        for (name_b, b) in KINDS {
            let mut lab = pair(1, [a, b]);
            let took = meet(&mut lab);
            let (way, ms) = took.map_or(("relayed", "-".into()), |ms| ("direct", ms.to_string()));
            println!("{name_a:<24}{name_b:<24}{way:<9}{ms:>6}");
            let lans = [a, b].iter().filter(|x| **x != Behind::Nothing).count() as u64;
            // 10 ms from address to address of the internet, 1 ms from home to router.
            let trip = if took.is_some() { 20 } else { 40 } + 2 * lans;
            if took.is_some() != can_go_direct(a, b) || round_trips(&mut lab) != [Some(trip); 2] {
                wrong.push((name_a, name_b, way));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_public_node_goes_direct_with_one_in_a_home_behind_a_carriers_router() {
    for (home_kind, carrier_kind) in [
        (NatKind::port_restricted(), NatKind::port_restricted()),
        (NatKind::port_restricted(), NatKind::symmetric(Ports::Random)),
        (NatKind::symmetric(Ports::Sequential), NatKind::full_cone()),
    ] {
        let lab = network_with(1, 2, |world, n| {
            if n == 1 {
                return (Realm::INTERNET, lab::at(n));
            }
            let carrier = world.add_nat(Realm::INTERNET, "44.7.7.7", carrier_kind);
            home(world, n, carrier, "100.64.0.1", home_kind)
        });
        let mut lab = settle(lab);
        assert!(meet(&mut lab).is_some_and(|ms| ms < 2000), "{home_kind:?} behind {carrier_kind:?}");
        assert_eq!(round_trips(&mut lab), [Some(24); 2], "two networks on the way, 1 ms each");
    }
}

#[test]
fn two_homes_behind_one_carrier_go_direct_if_its_router_turns_datagrams_around_and_else_stay_relayed() {
    let cone = NatKind::port_restricted();
    let mut lab = behind_one_carrier(1, [cone; 2], NatKind { hairpin: true, ..cone });
    assert!(meet(&mut lab).is_some_and(|ms| ms < 2000));
    assert_eq!(round_trips(&mut lab), [Some(8); 2], "never on the internet");
    let mut lab = behind_one_carrier(1, [cone; 2], cone);
    assert_eq!(meet(&mut lab), None);
    assert_eq!(round_trips(&mut lab), [Some(48); 2]);
}

#[test]
fn routers_that_answer_the_unsolicited_are_not_knocked_at_before_they_are_open() {
    let drops = NatKind::port_restricted();
    let answers = NatKind { unsolicited: Unsolicited::Answered, ..drops };
    let ways = [[answers, drops], [drops, answers], [answers, answers]].map(|kinds| {
        let mut lab = pair(1, kinds.map(Behind::Nat));
        let took = meet(&mut lab);
        println!("{:?} begins with {:?}: direct after {took:?} ms", kinds[0].unsolicited, kinds[1].unsolicited);
        assert_eq!(round_trips(&mut lab), [Some(24); 2]);
        took
    });
    assert!(ways.iter().all(|took| took.is_some_and(|ms| ms < 2000)), "{ways:?}");
}

#[test]
fn two_that_know_each_other_knock_at_the_same_time_and_even_answering_routers_let_them_in() {
    let answers = NatKind { unsolicited: Unsolicited::Answered, ..NatKind::port_restricted() };
    let mut lab = pair(1, [Behind::Nat(answers); 2]);
    let homes = [lab::ip("44.0.1.1"), lab::ip("44.0.2.1")];
    lab.world.block(homes[0], homes[1]);
    assert_eq!(meet(&mut lab), None);
    lab.world.unblock(homes[0], homes[1]);
    assert!(meet(&mut lab).is_some_and(|ms| ms < 2000));
}

#[test]
fn a_router_that_restarts_costs_a_direct_pair_less_than_a_second() {
    let mut lab = pair(1, [Behind::Nat(NatKind::port_restricted()), Behind::Nothing]);
    meet(&mut lab).unwrap();
    let home = lab.world.realm(lab.leaves[0]);
    lab.world.restart_nat(home);
    let pongs: Vec<Option<u64>> = (0..50)
        .map(|n| {
            let pong = lab.ping(0, 1, 100 + n, 56, 200);
            lab.world.run_ms(200 - pong.unwrap_or(200));
            pong
        })
        .collect();
    // Five a second: the peer hears us from a new port, and the old one is probed in vain.
    assert!(pongs[5..].iter().all(|pong| *pong == Some(22)), "{pongs:?}");
    assert!(pongs.contains(&None), "the restart was noticed");
}

#[test]
fn the_packet_that_opens_our_own_router_dies_before_it_reaches_the_other_one() {
    let lost = |kinds: [Behind; 2]| {
        let mut lab = pair(1, kinds);
        let before = lab.world.lost().ttl;
        meet(&mut lab).unwrap();
        lab.world.lost().ttl - before
    };
    let home = Behind::Nat(NatKind::port_restricted());
    assert_eq!(lost([home, home]), 2, "one from each");
}

#[test]
fn pairs_go_direct_over_ways_that_lose_and_disorder_whoever_is_nearer_to_the_root() {
    let bad = Link { jitter_us: 20_000, loss_ppm: 50_000, reorder_ppm: 50_000, ..Link::delay_ms(20) };
    let pairs = KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (a, b)));
    let mut took: Vec<u64> = Vec::new();
    for (seed, ((name_a, a), (name_b, b))) in (1..).zip(pairs).filter(|(_, (a, b))| exchange_opens(a.1, b.1)) {
        for root_ms in [[5, 80], [80, 5]] {
            let mut lab = pair(seed, [*a, *b]);
            lab.world.set_default_link(bad);
            for (n, ms) in root_ms.into_iter().enumerate() {
                let home = lab::ip(&format!("44.0.{}.1", n + 1));
                lab.world.set_link(home, lab::ip("44.0.0.1"), Link { delay_us: ms * 1000, ..bad });
            }
            let ms = meet(&mut lab);
            took.push(ms.unwrap_or_else(|| panic!("{name_a} with {name_b}, root at {root_ms:?} ms")));
        }
    }
    took.sort();
    println!("{} pairs, median {} ms, worst {} ms", took.len(), took[took.len() / 2], took[took.len() - 1]);
}

/// Runs of one pair with a seed each: milliseconds from the first frame to direct both ways, of those that got there in
/// 10 s.
fn spread_times(behind: [Behind; 2]) -> Vec<u64> {
    let runs = 1..=SPREAD_RUNS;
    let mut times: Vec<u64> =
        runs.filter_map(|seed| meet(&mut pair(seed, behind)).filter(|ms| *ms <= 10_000)).collect();
    times.sort();
    times
}

/// Seeds per pair.
const SPREAD_RUNS: u64 = 20;

#[test]
fn symmetric_and_port_restricted_meet_by_a_port_spread_in_nine_of_ten_runs_within_ten_seconds() {
    for symmetric in [SEQUENTIAL, RANDOM] {
        for pair in [[symmetric, PORT_RESTRICTED], [PORT_RESTRICTED, symmetric]] {
            let times = spread_times(pair);
            let [begins, with] = pair.map(|x| KINDS.iter().find(|(_, k)| *k == x).unwrap().0);
            println!("{begins} with {with}: {} of {SPREAD_RUNS}, {:?} ms", times.len(), times);
            assert!(times.len() as u64 * 10 >= SPREAD_RUNS * 9, "{begins} with {with}");
        }
    }
}

#[test]
fn symmetric_and_answering_meet_by_a_port_spread() {
    let answers = Behind::Nat(NatKind { unsolicited: Unsolicited::Answered, ..NatKind::port_restricted() });
    for pair in [[SEQUENTIAL, answers], [answers, SEQUENTIAL], [RANDOM, answers], [answers, RANDOM]] {
        let times = spread_times(pair);
        println!("{} of {SPREAD_RUNS}, {times:?} ms", times.len());
        assert!(times.len() as u64 * 10 >= SPREAD_RUNS * 9, "{pair:?}");
    }
}

#[test]
fn two_symmetric_sides_are_tried_and_those_that_count_meet() {
    for pair in [[SEQUENTIAL, SEQUENTIAL], [SEQUENTIAL, RANDOM], [RANDOM, SEQUENTIAL], [RANDOM, RANDOM]] {
        let times = spread_times(pair);
        let [begins, with] = pair.map(|x| KINDS.iter().find(|(_, k)| *k == x).unwrap().0);
        println!("{begins} with {with}: {} of {SPREAD_RUNS}, {:?} ms", times.len(), times);
        if pair == [SEQUENTIAL, SEQUENTIAL] {
            assert!(times.len() as u64 * 10 >= SPREAD_RUNS * 9);
        }
    }
}

#[test]
fn a_spread_that_reaches_nobody_stays_within_its_probes_closes_its_sockets_and_rests_for_minutes() {
    let mut lab = pair(1, [RANDOM, RANDOM]);
    assert_eq!(meet(&mut lab), None);
    let minutes = |lab: &mut Lab, minutes: u64| {
        let stacks = [lab.stack(0), lab.stack(1)];
        for number in 0..minutes * 60 {
            let ping = sim::icmp_echo(stacks[0], stacks[1], number as u16, 56);
            lab.world.tap(lab.leaves[0], lab.network, &ping);
            lab.world.run_ms(1000);
        }
    };
    let check = |lab: &Lab, spreads: u64| {
        for leaf in [0, 1] {
            let node = &lab.world.host(lab.leaves[leaf]).node;
            let counters = node.counters();
            assert_eq!((counters.spreads, counters.spread_successes), (spreads, 0));
            assert!(counters.spread_probes <= spreads * SPREAD_PROBES_MAX as u64);
            assert_eq!(node.gauges().spread_sockets, 0);
            assert_eq!(lab.world.host(lab.leaves[leaf]).sockets.len(), 1);
        }
    };
    check(&lab, 1);
    minutes(&mut lab, 4);
    check(&lab, 1);
    minutes(&mut lab, 2);
    check(&lab, 2);
}

#[test]
fn a_spread_ends_when_the_way_that_it_was_to_replace_works_again() {
    let mut lab = pair(1, [RANDOM, Behind::Nothing]);
    meet(&mut lab).unwrap();
    let ends = [lab::ip("44.0.1.1"), lab::ip("44.0.2.1")];
    lab.world.block(ends[0], ends[1]);
    let counted = |lab: &Lab| lab.world.host(lab.leaves[1]).node.counters();
    for number in 0..100 {
        lab.ping(0, 1, number, 56, 1000);
        lab.world.run_ms(50);
        if counted(&lab).spread_probes > 0 {
            break;
        }
    }
    assert_eq!(counted(&lab).spreads, 1);
    lab.world.unblock(ends[0], ends[1]);
    assert!(meet(&mut lab).is_some_and(|ms| ms < 3000));
    lab.world.run_ms(100);
    let so_far = counted(&lab).spread_probes;
    assert!(so_far < SPREAD_PROBES_MAX as u64 / 2 && counted(&lab).spread_successes == 0, "{so_far}");
    lab.world.run_ms(SPREAD_LIFE_MS);
    assert_eq!(counted(&lab).spread_probes, so_far);
}

#[test]
fn who_has_spreads_switched_off_gets_none_and_sends_none_and_the_other_gives_up() {
    for off in [0, 1] {
        let mut lab = pair(1, [RANDOM, PORT_RESTRICTED]);
        let settings = node::Settings { port_spread: false, ..node::Settings::default() };
        lab.world.with(lab.leaves[off], |node, now| node.set_settings(now, settings));
        assert_eq!(meet(&mut lab), None);
        for leaf in [0, 1] {
            let node = &lab.world.host(lab.leaves[leaf]).node;
            let (counters, gauges) = (node.counters(), node.gauges());
            assert_eq!((counters.spreads, counters.spread_probes, gauges.spread_sockets), (0, 0, 0));
            let offers = if leaf == off { 0 } else { SPREAD_OFFERS as u64 };
            assert_eq!((counters.spread_offers, counters.spread_refused), (offers, SPREAD_OFFERS as u64 - offers));
        }
    }
}

#[test]
fn a_blacklisted_host_is_never_spread_to() {
    let mut lab = pair(1, [RANDOM, PORT_RESTRICTED]);
    let homes = node::PhysicalNetwork {
        prefix: "44.0.1.0/24".parse().unwrap(),
        blacklist: true,
        trusted_path_id: 0,
        mtu: None,
    };
    let settings = node::Settings { physical: vec![homes], ..node::Settings::default() };
    lab.world.with(lab.leaves[1], |node, now| node.set_settings(now, settings));
    assert_eq!(meet(&mut lab), None);
    for leaf in [0, 1] {
        assert_eq!(lab.world.host(lab.leaves[leaf]).node.counters().spread_probes, 0);
    }
}

#[test]
fn the_socket_that_met_its_peer_is_kept_alone_carries_what_follows_and_goes_with_its_link() {
    let mut lab = pair(1, [RANDOM, PORT_RESTRICTED]);
    meet(&mut lab).unwrap();
    lab.world.run_ms(2 * SPREAD_GRACE_MS);
    let kept = |lab: &Lab| lab.world.host(lab.leaves[0]).node.gauges().spread_sockets;
    assert!((1..=SPREAD_KEPT).contains(&kept(&lab)));
    lab.world.run_ms(120_000);
    assert_eq!(round_trips(&mut lab), [Some(24); 2], "kept alive from that socket");
    let pushed_at = lab.world.host(lab.leaves[0]).node.surfaces(lab.world.now()).0;
    assert_eq!(pushed_at.len(), 1, "nobody is told of it");
    let link = *lab.world.host(lab.leaves[0]).sockets.keys().next().unwrap();
    lab.world.remove_socket(lab.leaves[0], link);
    assert_eq!((kept(&lab), lab.world.host(lab.leaves[0]).sockets.len()), (0, 0));
}
