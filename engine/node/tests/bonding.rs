//! Our own bonds, over a network that fails in every way it can: a frame a millisecond is sent, and what counts is how
//! long nothing comes. The frames pass through the node, which carries them as a shard would, but for striping. Here: how
//! bonds are made, what the operator may do, and what is said when nothing happens; failures are next door.
// spec: bonding, "Gateway acceptance"
#![allow(clippy::unwrap_used)]

mod common;
#[path = "bonding/failures.rs"]
mod failures;
#[path = "../../sim/tests/common/mod.rs"]
mod lab;
#[path = "bonding/rig.rs"]
mod rig;
#[path = "bonding/scripted.rs"]
mod scripted;
#[path = "bonding/sequences.rs"]
mod sequences;
mod stream;

use bond::Seen;
use bond::config::{Mode, Settings as Written};
use bond::tx::TxState;
use lab::{Lab, ip};
use node::{BondError, PlanChange, Settings};
use rig::*;
use wire::Address;

#[test]
fn both_links_are_found_within_seconds_and_a_bond_is_made_of_them() {
    for policy in POLICIES {
        let lab = bonded(1, policy);
        let links: Vec<(String, TxState)> = paths(&lab);
        let good = |n: usize| (format!("link-{}", A[n]), TxState::Good);
        assert!(links.len() == 2 && links.contains(&good(0)) && links.contains(&good(1)), "{policy}: {links:?}");
        let (host, peer) = leaf0(&lab);
        let plan = lab.world.host(host).node.bond(peer).unwrap().plan().clone();
        assert_eq!(plan.policy.name(), policy);
        assert_eq!(plan.paths.len(), if policy == "active-backup" { 1 } else { 2 }, "{policy}");
        let other = &lab.world.host(lab.leaves[1]).node;
        assert_eq!(other.bonds().count(), 0, "the other side has none");
    }
}

/// Probes of three seconds, then a load of `load` bytes/s for as long, over one path of leaf 0's bond, beside a stream.
fn test_path(lab: &mut Lab, link: usize, load: Option<f64>) -> Vec<Option<usize>> {
    let (host, peer) = leaf0(lab);
    let order = bond::link_test::Order { length_us: 3_000_000, load, frame: 0 };
    let ids: Vec<_> = {
        let node = &lab.world.host(host).node;
        let leads = |id| node.bond_path(peer, id).is_some_and(|(_, remote)| remote.ip() == ip(B[link]));
        node.bond(peer).unwrap().paths().iter().map(|p| p.id).filter(|id| leads(*id)).collect()
    };
    lab.world.with(host, |node, now| node.test_bond_path(now, peer, ids[0], order, true)).expect("begun");
    let again = lab.world.with(host, |node, now| node.test_bond_path(now, peer, ids[0], order, true));
    assert_eq!(again, Err(node::BondError::Testing));
    let mut forced = Vec::new();
    stream(lab, 8500, false, |lab, t| {
        if t % 1000 == 500 {
            let node = &lab.world.host(host).node;
            let to = node.forced_bond_path(peer).and_then(|id| node.bond_path(peer, id));
            forced.push(to.and_then(|(_, remote)| B.iter().position(|b| ip(b) == remote.ip())));
        }
    });
    forced
}

#[test]
fn a_path_is_tested_alone_and_with_a_load_and_data_goes_back_where_it_was() {
    let mut lab = bonded(17, "active-backup");
    let (host, peer) = leaf0(&lab);
    let (before, other) = (in_use(&lab), 1 - in_use(&lab).expect("direct"));
    let forced = test_path(&mut lab, other, Some(250_000.0));
    let there = Some(other);
    assert_eq!(
        forced[..4],
        [there, there, there, None],
        "data goes by it while it is probed, and not while it is loaded"
    );
    let node = &lab.world.host(host).node;
    let test = node.path_test().expect("a test");
    let (probes, load) = (test.test.probes(), test.test.loaded().expect("a load"));
    assert!(test.test.is_over(lab.world.now().mono_us) && test.aborted.is_none() && test.peer == peer);
    assert_eq!((probes.asked, probes.answered), (60, 60));
    assert!((load.delivered / 250_000.0 - 1.0).abs() < 0.05 && !load.is_full(), "{load:?}");
    // A frame a millisecond.
    assert!((40_000.0..100_000.0).contains(&test.carried()), "{}", test.carried());
    assert_eq!((in_use(&lab), node.forced_bond_path(peer)), (before, None));
    assert!(node.counters().test_frames > 400);
    let padded = |(_, frame): &(_, Vec<u8>)| frame[12..14] == [0x88, 0xb5];
    let seen = lab.world.host(lab.leaves[1]).delivered.iter().filter(|f| padded(f)).count();
    assert_eq!(seen, 0, "the rules of the network let IP and ARP pass");
}

#[test]
fn a_path_that_does_not_answer_is_tested_without_data_and_one_that_falls_silent_loses_it_at_once() {
    let mut lab = bonded(18, "active-backup");
    let (host, other) = (leaf0(&lab).0, 1 - in_use(&lab).expect("direct"));
    cut(&mut lab, other);
    assert!(test_path(&mut lab, other, None).iter().all(Option::is_none));
    let aborted = |lab: &Lab| lab.world.host(host).node.path_test().and_then(|t| t.aborted);
    assert_eq!(aborted(&lab), Some("it does not answer"));
    heal(&mut lab, other);
    stream(&mut lab, 9000, false, |_, _| ());
    let (peer, mut gone) = (leaf0(&lab).1, None);
    let order = bond::link_test::Order { length_us: 20_000_000, load: None, frame: 0 };
    let id = lab.world.host(host).node.bond(peer).unwrap().plan().paths[0].id;
    lab.world.with(host, |node, now| node.test_bond_path(now, peer, id, order, true)).expect("begun");
    let link = in_use(&lab).expect("direct");
    stream(&mut lab, 3000, false, |lab, t| {
        if t == 1000 {
            cut(lab, link);
        }
        let forced = lab.world.host(host).node.forced_bond_path(peer);
        gone = gone.or((t > 1000 && forced.is_none()).then_some(t));
    });
    assert!(gone.is_some_and(|t| t < 1650), "{gone:?}");
    assert_eq!((aborted(&lab), in_use(&lab)), (Some("it fell silent"), Some(1 - link)));
}

#[test]
fn a_tunnel_is_no_link_of_a_bond() {
    let mut lab = strangers(9);
    let settings = settings(&standard("balance-xor"));
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings));
    lab.world.add_socket(lab.leaves[0], "44.0.21.1:0");
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    stream(&mut lab, 5000, true, |_, _| ());
    let links: Vec<String> = paths(&lab).into_iter().map(|(link, _)| link).collect();
    assert_eq!(links.len(), 2, "{links:?}");
    assert!(A.iter().all(|a| links.contains(&format!("link-{a}"))), "{links:?}");
}

#[test]
fn a_peer_that_acknowledges_nothing_but_echo_is_not_taken_for_dead() {
    // As when it does not take us for a member of the network any more.
    let mut lab = bonded(14, "active-backup");
    lab.update_member(0, serde_json::json!({ "authorized": false }));
    lab.world.run_ms(5000);
    stream(&mut lab, 5000, false, |_, _| ());
    lab.world.run_ms(3000);
    assert!(in_use(&lab).is_some() && paths(&lab).iter().all(|p| p.1 == TxState::Good), "{:#?}", why(&lab));
}

/// Bytes of UDP payload that leaf 0 and leaf 1 sent and got within a second, on average, while nothing is to be said.
#[test]
fn an_idle_bond_of_two_paths_costs_less_than_a_kilobyte_a_second() {
    for both in [false, true] {
        let theirs = if both { standard("active-backup") } else { Written::default() };
        let mut lab = pair(15, &standard("balance-aware"), &theirs);
        lab.world.run_ms(10_000);
        let before = lab.world.datagrams();
        lab.world.run_ms(60_000);
        let per_s = (lab.world.datagrams() - before) as f64 / 60.0;
        // ECHO is 28 bytes and its OK 37, and each HELLO 137 and 59.
        println!("both {both}: {per_s:.1} datagrams/s");
        assert!(per_s < 15.0, "{per_s} datagrams/s, of 33 bytes on average");
    }
}

#[test]
fn the_operator_rotates_and_tests_and_is_told_what_cannot_be() {
    let mut lab = bonded(16, "active-backup");
    let (host, peer) = leaf0(&lab);
    let link = in_use(&lab).unwrap();
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, peer)), Ok(true));
    assert_eq!(in_use(&lab), Some(1 - link));
    let stranger = Address::from_u64(0x99_0000_0001);
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, stranger)), Err(BondError::NoBond));
    let ids: Vec<_> = lab.world.host(host).node.bond(peer).unwrap().paths().iter().map(|p| p.id).collect();
    for id in ids {
        lab.world.host_mut(host).plan.clear();
        assert_eq!(lab.world.with(host, |node, now| node.force_bond_path(now, peer, Some(id))), Ok(()));
        let told = lab.world.host(host).plan.iter().rev().find_map(|change| match change {
            PlanChange::Bond { bond: Some(bond), .. } => Some(bond.clone()),
            _ => None,
        });
        let told = told.expect("the shards are told");
        assert_eq!(told.plan.paths.iter().map(|p| p.id).collect::<Vec<_>>(), [id]);
        assert_eq!(told.routes.len(), 1);
    }
    assert_eq!(lab.world.with(host, |node, now| node.force_bond_path(now, peer, None)), Ok(()));
    let mut lab = bonded(16, "balance-xor");
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, peer)), Err(BondError::Policy));
}

#[test]
fn settings_take_effect_at_once_and_back_again() {
    let mut lab = bonded(17, "active-backup");
    let (host, peer) = leaf0(&lab);
    let set =
        |lab: &mut Lab, written: &Written| lab.world.with(host, |node, now| node.set_settings(now, settings(written)));
    let [got, _] = stream(&mut lab, 4000, false, |lab, t| match t {
        1000 => set(lab, &standard("balance-xor")),
        2000 => set(lab, &Written::default()),
        3000 => set(lab, &standard("broadcast")),
        _ => {}
    });
    assert!(got.gap_ms(500) <= 2 && got.lost() == 0, "{} ms", got.gap_ms(500));
    let plan = lab.world.host(host).node.bond(peer).unwrap().plan().clone();
    assert_eq!((plan.policy.name(), plan.paths.len()), ("broadcast", 2));
}

#[test]
fn two_of_us_agree_on_one_path_and_stay_there() {
    for seed in 0..5 {
        let negotiates = custom("active-backup", |p| {
            p.negotiate = Some(true);
            p.active_reselect = Some("failure".into());
        });
        let mut lab = pair(100 + seed, &negotiates, &negotiates);
        let (host, peer) = leaf0(&lab);
        // Apart, whatever they chose.
        if in_use(&lab) == used_by_other(&lab) {
            lab.world.with(host, |node, now| node.rotate_bond(now, peer)).unwrap();
        }
        assert_ne!(in_use(&lab), used_by_other(&lab));
        let mut changes = Vec::new();
        stream(&mut lab, 100_000, true, |lab, t| {
            let now = (in_use(lab), used_by_other(lab));
            if changes.last().is_none_or(|(_, last)| *last != now) {
                changes.push((t, now));
            }
        });
        let (_, last) = changes.last().unwrap();
        assert!(last.0 == last.1 && changes.len() <= 4, "seed {seed}: {changes:?}");
        let sent: u64 = (0..2).map(|n| lab.world.host(lab.leaves[n]).node.counters().negotiations_sent).sum();
        assert!(sent <= 8, "{sent} requests");
    }
}

#[test]
fn without_a_policy_not_one_packet_differs() {
    let run = |written: Option<Written>| {
        let mut lab = strangers(20);
        for (leaf, written) in lab.leaves.clone().into_iter().zip([written.clone(), written]) {
            if let Some(written) = written {
                lab.world.with(leaf, |node, now| node.set_settings(now, settings(&written)));
            }
        }
        lab.join_all(10_000);
        lab.first_ping(0, 1, 56, 5000);
        stream(&mut lab, 2000, true, once(500, |lab| cut(lab, 0)));
        lab.world.run_ms(100_000);
        (lab.world.trace(), lab.world.datagrams())
    };
    let never_told = run(None);
    assert_eq!(run(Some(Written::default())), never_told);
    // A policy that nobody is given.
    let unused = Written { default: "none".into(), ..custom("balance-xor", |_| ()) };
    assert_eq!(run(Some(unused)), never_told);
    assert_ne!(run(Some(standard("active-backup"))), never_told);
}

#[test]
fn compat_bonds_ask_for_reports_and_get_them_and_two_of_us_stop_when_one_does() {
    let compat = Written { mode: Mode::Compat, ..standard("balance-xor") };
    let mut lab = pair(21, &compat, &Written::default());
    stream(&mut lab, 30_000, true, |_, _| ());
    let (host, peer) = leaf0(&lab);
    let reports = |lab: &Lab, n: usize| lab.world.host(lab.leaves[n]).node.counters().qos_sent;
    assert!(reports(&lab, 0) > 2 && reports(&lab, 1) > 2, "{} {}", reports(&lab, 0), reports(&lab, 1));
    let bond = lab.world.host(host).node.bond(peer).unwrap();
    assert_eq!(bond.plan().paths.len(), 2, "it is whole after its trial: {:#?}", why(&lab));
    for path in bond.paths().iter() {
        let ms = path.reported.mean().expect("latency by the remote's reports");
        assert!((9.0..12.0).contains(&ms), "{ms} ms");
    }
    lab.world.with(host, |node, now| node.set_settings(now, Settings::default()));
    for _ in 0..7 {
        stream(&mut lab, 500, true, |_, _| ());
        lab.world.run_ms(100_000);
    }
    let before = (reports(&lab, 0), reports(&lab, 1));
    stream(&mut lab, 5000, true, |_, _| ());
    assert_eq!((reports(&lab, 0), reports(&lab, 1)), before, "nobody keeps the other at it");
}

fn tells_the_shards_to_ask(lab: &Lab) -> Vec<bool> {
    let told = lab.world.host(lab.leaves[0]).plan.iter().filter_map(|change| match change {
        PlanChange::Bond { bond: Some(bond), .. } => Some(!bond.plan.mute),
        _ => None,
    });
    let mut told: Vec<bool> = told.collect();
    told.dedup();
    told
}

/// Two that are about to meet, of whom the first bonds.
fn about_to_meet(seed: u64) -> Lab {
    let mut lab = strangers(seed);
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings(&standard("balance-xor"))));
    lab.join_all(10_000);
    lab
}

#[test]
fn frames_ask_for_acknowledgement_only_once_the_peer_gave_one_and_at_once_then() {
    let mut lab = about_to_meet(22);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    lab.world.run_ms(300);
    assert_eq!(tells_the_shards_to_ask(&lab), [false, true]);
}

#[test]
fn a_peer_that_did_not_answer_the_first_frame_is_asked_again_soon() {
    let mut lab = about_to_meet(23);
    let (host, peer) = leaf0(&lab);
    let (asker, wanted) = (lab.stack(0), lab.stack(1));
    lab.world.tap(host, lab.network, &sim::arp_request(asker, wanted.ip));
    lab.world.run_until(5000, |w| w.host(host).node.bond(peer).is_some_and(|b| !b.plan().paths.is_empty()));
    // Its answer to that frame is lost.
    (0..2).for_each(|link| lab.world.block_one_way(ip(B[link]), ip(A[link])));
    lab.world.run_ms(25);
    (0..2).for_each(|link| heal(&mut lab, link));
    assert_eq!(tells_the_shards_to_ask(&lab), [false]);
    lab.world.run_ms(300);
    assert_eq!(tells_the_shards_to_ask(&lab), [false, true], "{:#?}", why(&lab));
}

#[test]
fn what_several_shards_say_of_a_path_adds_up_and_an_answer_names_the_path_it_came_by() {
    let mut lab = bonded_lightly(41, "balance-aware");
    let (host, peer) = leaf0(&lab);
    let paths: Vec<_> = lab.world.host(host).node.bond(peer).unwrap().plan().paths.iter().map(|p| p.id).collect();
    let id = paths[1];
    for ms in 0..2000u32 {
        for shard in 0..2 {
            let mut seen = vec![(peer, Seen::Sent { path: id, packets: 2, bytes: 2500 })];
            if ms % 500 == 499 {
                seen.push((peer, Seen::Flows { path: id, count: 3 + shard as u32 }));
                seen.push((peer, Seen::Rate { path: id, rate: 2.5e6 }));
            }
            lab.world.with(host, |node, now| node.handle_bonds(now, shard, &seen));
        }
        lab.world.run_ms(1);
    }
    let node = &lab.world.host(host).node;
    let path = node.bond(peer).unwrap().paths().get(id).unwrap();
    let rate = path.rate.expect("it was told");
    assert!(path.flows == 7 && (4.5e6..5.1e6).contains(&rate), "{} flows, {rate}", path.flows);

    let (socket, remote) = node.bond_path(peer, id).unwrap();
    let own = node.address();
    let packet_id = 0x1122_3344_5566_7788u64;
    let mut packet = wire::packet::header(9, own, peer, wire::Verb::Ok as u8).to_vec();
    packet.push(wire::Verb::ExtFrame as u8);
    packet.extend([&packet_id.to_be_bytes()[..], &lab.network.0.to_be_bytes()].concat());
    lab.world.host_mut(host).plan.clear();
    lab.world.with(host, |node, now| node.handle_opened(now, socket, remote, &mut packet));
    let over = lab.world.host(host).plan.iter().find_map(|change| match *change {
        PlanChange::Acked { address, packet_id: id, socket, remote, .. } if (address, id) == (peer, packet_id) => {
            Some((socket, remote))
        }
        _ => None,
    });
    assert_eq!(over, Some((socket, remote)));
}
