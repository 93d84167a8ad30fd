//! The sending half of a bond, and its answering one: which route a frame takes under each policy, what asks for
//! acknowledgement and gets it, what waits, and what goes again.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use bolero::check;
use bond::config::Policy;
use bond::{PathId, Plan, PlanPath, Seen};
use shard::{Bonding, Report, Route, Shard, SocketId, Update};
use support::*;
use wire::packet::{HDR_LEN, Packet, Suite, head};
use wire::{Address, Mac, Now, Verb};

const IPV4: u16 = 0x0800;
const A: PathId = PathId { slot: 0, generation: 1 };
const B: PathId = PathId { slot: 1, generation: 2 };

fn route(id: PathId) -> Route {
    let port = 1000 + u16::from(id.slot);
    Route { socket: SocketId(10 + u64::from(id.slot)), remote: ([192, 0, 2, 9], port).into(), mtu: PATH_MTU }
}

fn relay() -> Route {
    Route { socket: SOCKET, remote: ([198, 51, 100, 1], 9993).into(), mtu: PATH_MTU }
}

fn plan(policy: Policy, ids: &[PathId]) -> Plan {
    let path = |id: &PathId| PlanPath { id: *id, key: u64::from(id.slot), weight: 1.0, rate: 1e6, delay_us: 5000 };
    Plan { policy, paths: ids.iter().map(path).collect(), secret: 7, epoch: ids.len() as u32, ..Plan::default() }
}

fn bond(plan: Plan) -> Update {
    let routes = plan.paths.iter().map(|path| route(path.id)).collect();
    bond_over(BOB, plan, routes, Some(relay()))
}

fn bond_over(address: Address, plan: Plan, routes: Vec<Route>, relay: Option<Route>) -> Update {
    let bond = Bonding { plan: Arc::new(plan), routes, relay, marks: false, duplicates_dropped: false };
    Update::Bond { address, bond: Some(Arc::new(bond)) }
}

fn alice(plan: Plan) -> Shard {
    let mut alice = member(ALICE, BOB, Suite::AesGmacSiv);
    alice.apply(bond(plan));
    alice
}

fn bob() -> Shard {
    member(BOB, ALICE, Suite::AesGmacSiv)
}

fn at(us: u64) -> Now {
    Now { mono_us: NOW.mono_us + us, ..NOW }
}

/// A UDP datagram of one of many flows.
fn udp(flow: u8, len: usize) -> Vec<u8> {
    packet(17, flow, len)
}

fn packet(protocol: u8, flow: u8, len: usize) -> Vec<u8> {
    let total = (20 + len as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &total, &[0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let mut payload = vec![flow; len];
    payload[..2].copy_from_slice(&[4, flow]);
    frame(ALICE, BOB, IPV4, &[ip, payload].concat())
}

fn send(shard: &mut Shard, now: Now, frame: &[u8]) -> Vec<(SocketId, SocketAddr, Vec<u8>)> {
    let mut out = Outside::default();
    shard.outbound(now, NETWORK, frame, &mut out);
    shard.poll(now, &mut out);
    assert!(out.control.is_empty());
    out.datagrams
}

fn poll(shard: &mut Shard, now: Now) -> Vec<(SocketId, SocketAddr, Vec<u8>)> {
    let mut out = Outside::default();
    shard.poll(now, &mut out);
    out.datagrams
}

fn sockets(datagrams: &[(SocketId, SocketAddr, Vec<u8>)]) -> Vec<u64> {
    datagrams.iter().map(|(socket, ..)| socket.0).collect()
}

/// The answers of a shard, as datagrams.
fn receive(shard: &mut Shard, now: Now, from: Route, datagram: &[u8]) -> Outside {
    let mut out = Outside::default();
    shard.inbound(now, from.socket, from.remote, &mut datagram.to_vec(), &mut out);
    shard.flush(&mut out);
    out
}

fn seen(shard: &mut Shard, now: Now) -> Vec<Seen> {
    let mut report = Report::default();
    shard.bond_tick(now, &mut report);
    assert!(!shard.has_bond_news());
    assert!(report.bonds.iter().all(|(peer, _)| *peer == BOB));
    report.bonds.into_iter().map(|(_, seen)| seen).collect()
}

#[test]
fn each_policy_takes_the_routes_of_its_plan() {
    let one = udp(1, 100);
    assert_eq!(sockets(&send(&mut alice(plan(Policy::ActiveBackup, &[B])), NOW, &one)), [11]);
    assert_eq!(sockets(&send(&mut alice(plan(Policy::Broadcast, &[A, B])), NOW, &one)), [10, 11]);
    assert_eq!(sockets(&send(&mut alice(plan(Policy::None, &[])), NOW, &one)), [SOCKET.0]);
    let to_root = send(&mut alice(plan(Policy::BalanceAware, &[])), NOW, &one);
    assert_eq!(to_root[0].1, relay().remote, "no path works");
    for policy in [Policy::BalanceXor, Policy::BalanceAware] {
        let mut alice = alice(plan(policy, &[A, B]));
        let mut by_flow =
            |flow| -> Vec<u64> { (0..5).flat_map(|_| sockets(&send(&mut alice, NOW, &udp(flow, 100)))).collect() };
        let flows: Vec<Vec<u64>> = (0..40).map(&mut by_flow).collect();
        assert!(flows.iter().all(|sockets| sockets.iter().all(|s| s == &sockets[0])), "a flow stays on its path");
        let on_a = flows.iter().filter(|sockets| sockets[0] == 10).count();
        assert!((10..30).contains(&on_a), "{on_a} of 40");
    }
    let mut rr = alice(plan(Policy::BalanceRr, &[A, B]));
    let used: Vec<u64> = (0..10).flat_map(|_| sockets(&send(&mut rr, NOW, &one))).collect();
    assert_eq!((used.iter().filter(|s| **s == 10).count(), used.len()), (5, 10));
}

#[test]
fn suspicion_of_all_paths_sends_a_copy_through_a_root() {
    let mut alice = alice(Plan { relay: true, ..plan(Policy::ActiveBackup, &[A]) });
    let sent = send(&mut alice, NOW, &udp(1, 100));
    assert_eq!(sent.iter().map(|(_, remote, _)| *remote).collect::<Vec<_>>(), [route(A).remote, relay().remote]);
    assert_eq!(sent[0].2, sent[1].2);
}

#[test]
fn a_peer_without_a_route_of_its_own_is_reached_over_its_bond() {
    let mut alice = alice(plan(Policy::ActiveBackup, &[A]));
    alice.apply(Update::Peer { address: BOB, keys: keys(), suite: Suite::AesGmacSiv, route: None, bonded: true });
    assert_eq!(sockets(&send(&mut alice, NOW, &udp(1, 100))), [10]);
}

#[test]
fn without_a_bond_and_with_one_that_does_nothing_not_a_byte_differs() {
    let (mut plain, mut none) = (member(ALICE, BOB, Suite::AesGmacSiv), alice(plan(Policy::None, &[])));
    let mut ended = alice(plan(Policy::Broadcast, &[A, B]));
    ended.apply(Update::Bond { address: BOB, bond: None });
    assert!(poll(&mut ended, NOW).is_empty());
    for len in [10, 1000, 1380, 2700] {
        let sent = send(&mut plain, NOW, &udp(1, len));
        assert_eq!(sent, send(&mut none, NOW, &udp(1, len)));
        assert_eq!(sent, send(&mut ended, NOW, &udp(1, len)));
    }
}

#[test]
fn copies_are_one_packet_for_the_narrowest_route_and_each_is_acknowledged() {
    let narrow = Route { mtu: 900, ..route(B) };
    let mut alice = member(ALICE, BOB, Suite::AesGmacSiv);
    alice.apply(bond_over(BOB, plan(Policy::Broadcast, &[A, B]), vec![route(A), narrow], None));
    let sent = send(&mut alice, NOW, &udp(1, 1200));
    assert_eq!(sockets(&sent), [10, 10, 11, 11]);
    assert_eq!(sent[0].2, sent[2].2);
    assert_eq!(sent[1].2, sent[3].2);
    assert!(sent.iter().all(|(.., datagram)| datagram.len() <= 900));

    let mut bob = bob();
    let (mut frames, mut acks) = (0, Vec::new());
    for (socket, _, datagram) in &sent {
        let came_by = route(if socket.0 == 10 { A } else { B });
        let out = receive(&mut bob, NOW, came_by, datagram);
        frames += out.frames.len();
        acks.extend(out.datagrams);
    }
    assert_eq!((frames, acks.len()), (1, 2), "delivered once, acknowledged over both");
    for (socket, remote, ack) in acks.iter().rev() {
        let out = receive(&mut alice, at(8000), Route { socket: *socket, remote: *remote, mtu: 0 }, ack);
        assert!(out.control.is_empty());
    }
    let acked: Vec<PathId> = seen(&mut alice, at(8000))
        .iter()
        .filter_map(|seen| if let Seen::Acked { path, .. } = seen { Some(*path) } else { None })
        .collect();
    assert_eq!(acked, [B, A], "by the path of the answer");
    assert_eq!(alice.counters().copies, 1);
}

#[test]
fn some_frames_ask_for_acknowledgement_and_the_answer_is_seen() {
    for suite in [Suite::AesGmacSiv, Suite::Salsa2012Poly1305] {
        let mut alice = member(ALICE, BOB, suite);
        alice.apply(bond(plan(Policy::ActiveBackup, &[A])));
        let mut bob = member(BOB, ALICE, suite);
        let mut bytes = 0;
        for n in 0..40 {
            let now = at(n * 500);
            let sent = udp(n as u8, 300);
            let out = send(&mut alice, now, &sent);
            let [(_, _, datagram)] = &out[..] else { panic!("{} datagrams", out.len()) };
            bytes += datagram.len() as u64;
            let out = receive(&mut bob, now, route(A), datagram);
            assert_eq!(out.frames, [(NETWORK, sent)]);
            for (socket, remote, ack) in out.datagrams {
                assert_eq!((socket, remote, ack.len()), (route(A).socket, route(A).remote, 45));
                let back = Route { socket, remote, mtu: 0 };
                assert!(receive(&mut alice, at(n * 500 + 200), back, &ack).control.is_empty());
                let again = receive(&mut alice, at(n * 500 + 200), back, &ack);
                assert!(matches!(again.control[..], [Said::Opened(_)]), "a replay is not ours");
            }
        }
        // every 2 ms
        let (a, b) = (alice.counters(), bob.counters());
        assert_eq!((a.bond_requests, a.bond_acks, b.bond_answers, b.frames_in), (10, 10, 10, 40));
        let seen = seen(&mut alice, at(20_000));
        let requested = seen.iter().filter_map(|seen| match seen {
            Seen::Requested { path: A, packet_id, at_us } => Some((*packet_id, at_us + 200)),
            _ => None,
        });
        let acked = seen.iter().filter_map(|seen| match seen {
            Seen::Acked { path: A, packet_id, at_us } => Some((*packet_id, *at_us)),
            _ => None,
        });
        assert_eq!(requested.collect::<Vec<_>>(), acked.collect::<Vec<_>>());
        assert!(seen.contains(&Seen::Sent { path: A, packets: 40, bytes }));
    }
}

/// The control plane passes on an acknowledgement that came over a path.
fn acked(over: PathId, packet_id: u64) -> Update {
    let Route { socket, remote, .. } = route(over);
    Update::Acked { address: BOB, packet_id, socket, remote, at_us: at(5000).mono_us }
}

#[test]
fn an_acknowledgement_of_a_copy_that_another_shard_got_counts_for_the_path_it_came_by() {
    let mut alice = alice(plan(Policy::Broadcast, &[A, B]));
    let sent = send(&mut alice, NOW, &udp(1, 100));
    let packet_id = Packet::new(&sent[0].2[..]).unwrap().id();
    let nowhere = Update::Acked { address: BOB, packet_id, socket: SOCKET, remote: remote(), at_us: NOW.mono_us };
    for update in [nowhere, acked(B, packet_id), acked(B, packet_id)] {
        alice.apply(update);
    }
    let taken = |seen: Vec<Seen>| -> Vec<PathId> {
        seen.iter().filter_map(|seen| if let Seen::Acked { path, .. } = seen { Some(*path) } else { None }).collect()
    };
    assert_eq!(taken(seen(&mut alice, at(6000))), [B], "once, and only by a path that a copy took");
    alice.apply(acked(A, packet_id));
    assert_eq!(taken(seen(&mut alice, at(7000))), [A]);
}

#[test]
fn another_shard_takes_its_own_acknowledgement_from_the_control_plane() {
    let mut alice = alice(plan(Policy::ActiveBackup, &[A]));
    let sent = send(&mut alice, NOW, &udp(1, 100));
    let packet_id = Packet::new(&sent[0].2[..]).unwrap().id();
    alice.apply(acked(A, packet_id ^ 1));
    alice.apply(acked(A, packet_id));
    let acked = Seen::Acked { path: A, packet_id, at_us: at(5000).mono_us };
    assert_eq!(
        seen(&mut alice, at(6000)).iter().filter(|seen| matches!(seen, Seen::Acked { .. })).collect::<Vec<_>>(),
        [&acked]
    );
}

#[test]
fn ids_are_told_only_if_they_are_wanted() {
    for sampled in [true, false] {
        let mut alice = alice(Plan { sampled, ..plan(Policy::ActiveBackup, &[A]) });
        let odd = (0..20).flat_map(|n| send(&mut alice, NOW, &udp(n, 100)));
        let odd: Vec<u64> = odd.map(|(.., d)| Packet::new(&d[..]).unwrap().id()).filter(|id| id & 1 == 1).collect();
        let told = seen(&mut alice, NOW).into_iter().filter_map(|seen| match seen {
            Seen::Sampled { path: A, packet_id, at_us } => Some((packet_id, at_us)),
            _ => None,
        });
        let wanted: Vec<_> = odd.into_iter().filter(|_| sampled).map(|id| (id, NOW.mono_us)).collect();
        assert_eq!(told.collect::<Vec<_>>(), wanted);
    }
}

/// Sends `count` frames at once and then lets time pass; returns when which frame left by which socket.
fn let_all_leave(alice: &mut Shard, mut now: u64) -> Vec<(u64, u64, Vec<u8>)> {
    let mut left = Vec::new();
    while alice.has_waiting() {
        left.extend(poll(alice, at(now)).into_iter().map(|(socket, _, datagram)| (now, socket.0, datagram)));
        let Some(due) = alice.next_due_us() else { break };
        assert!(due > at(now).mono_us, "nothing that is due stays behind");
        now = due - NOW.mono_us;
    }
    left
}

/// One datagram of the same flow.
fn numbered(n: u8) -> Vec<u8> {
    let mut frame = udp(1, 1200);
    *frame.last_mut().unwrap() = n;
    frame
}

fn number(bob: &mut Shard, datagram: &[u8]) -> u8 {
    let out = inbound(bob, datagram);
    assert_eq!(out.frames.len(), 1);
    *out.frames[0].1.last().unwrap()
}

fn striping(ids: &[PathId]) -> Plan {
    Plan { striping: true, ..plan(Policy::BalanceRr, ids) }
}

#[test]
fn a_shard_that_begins_beside_others_begins_with_a_part_of_what_the_paths_carry() {
    let left = |busy| {
        let mut alice = alice(Plan { busy, ..striping(&[A, B]) });
        let mut sent = 0;
        for n in 0..200 {
            sent += send(&mut alice, at(n * 100), &udp(1, 1000)).len();
        }
        // From 20 to 40 ms, without anything new.
        let later: usize = (0..40).map(|n| poll(&mut alice, at(20_000 + n * 500)).len()).sum();
        (sent, later)
    };
    let (alone, beside) = (left(false), left(true));
    assert!(alone.0 > 150, "nobody knows what the paths carry, and nobody is there: {alone:?}");
    // 250 kB/s each, packets of 1053 bytes: 9 or 10 in 20 ms
    assert!((9..=14).contains(&beside.0) && (9..=11).contains(&beside.1), "{beside:?}");
}

#[test]
fn a_striped_flow_leaves_paced_and_in_order_over_both_routes() {
    let (mut alice, mut bob) = (alice(striping(&[A, B])), bob());
    let mut out = Outside::default();
    for n in 0..200 {
        alice.outbound(NOW, NETWORK, &numbered(n), &mut out);
    }
    assert!(out.datagrams.is_empty(), "what leaves is decided at the end of the batch");
    let left = let_all_leave(&mut alice, 0);
    assert_eq!((left.len(), alice.counters().striped, alice.counters().stripe_dropped), (200, 200, 0));
    assert!(left.last().unwrap().0 > 1_000, "not all at once");
    for socket in [10, 11] {
        let numbers: Vec<u8> = left.iter().filter(|l| l.1 == socket).map(|l| number(&mut bob, &l.2)).collect();
        assert!(numbers.len() >= 5 && numbers.is_sorted(), "{socket}: {numbers:?}");
    }
    assert!(alice.counters().bond_requests > 2);
    assert_eq!(bob.counters().bond_answers, alice.counters().bond_requests);
}

#[test]
fn what_was_learned_of_a_path_that_was_away_for_a_moment_is_kept() {
    // Of the path that is farther, because it begins with a pace.
    let both = || {
        let mut plan = striping(&[A, B]);
        plan.paths[1].delay_us = 20_000;
        bond(plan)
    };
    let left = |away_us: u64| {
        let mut alice = member(ALICE, BOB, Suite::AesGmacSiv);
        alice.apply(both());
        let mut bob = bob();
        let mut answers: Vec<(u64, Route, Vec<u8>)> = Vec::new();
        // 40 and 80 Mbit/s, in packets per tick of 0.1 ms.
        let (mut by_b, mut busy_until) = (0, [0.0f64; 2]);
        for tick in 0..5000 + away_us / 100 + 200 {
            let now = at(tick * 100);
            match tick {
                5000 => alice.apply(bond(striping(&[A]))),
                _ if tick == 5000 + away_us / 100 => alice.apply(both()),
                _ => {}
            }
            let due = answers.iter().take_while(|answer| answer.0 <= tick).count();
            for (_, from, answer) in answers.drain(..due).collect::<Vec<_>>() {
                receive(&mut alice, now, from, &answer);
            }
            let mut out = Outside::default();
            for _ in 0..if tick < 5000 || tick >= 5000 + away_us / 100 { 2 } else { 0 } {
                alice.outbound(now, NETWORK, &udp(1, 1200), &mut out);
            }
            alice.poll(now, &mut out);
            for (socket, _, datagram) in out.datagrams {
                let (path, rate, later) = if socket.0 == 11 { (B, 0.8, 400) } else { (A, 0.4, 100) };
                let busy = &mut busy_until[usize::from(path.slot)];
                *busy = busy.max(tick as f64) + 1.0 / rate;
                let arrives = *busy as u64 + later;
                by_b += u64::from(path == B && tick > 5000);
                for answer in receive(&mut bob, now, route(path), &datagram).datagrams {
                    answers.push((arrives, route(path), answer.2));
                }
            }
            answers.sort_by_key(|answer| answer.0);
        }
        by_b
    };
    let (soon, late) = (left(100_000), left(5_000_000));
    assert!(soon > 2 * late, "{soon} packets in 20 ms, and {late} of a path that begins anew");
}

#[test]
fn a_plan_that_changes_loses_nothing_that_waits() {
    type Change = fn() -> Update;
    let none: Change = || Update::Bond { address: BOB, bond: None };
    let changes: [(Change, &[u64]); 5] = [
        (|| bond(striping(&[B])), &[11]),
        (|| bond(striping(&[B, A])), &[10, 11]),
        (|| bond(plan(Policy::ActiveBackup, &[A])), &[10]),
        (|| bond(plan(Policy::BalanceRr, &[])), &[SOCKET.0]),
        (none, &[10]),
    ];
    for (change, sockets) in changes {
        let (mut alice, mut bob) = (alice(striping(&[A, B])), bob());
        let mut out = Outside::default();
        for n in 0..100 {
            alice.outbound(NOW, NETWORK, &numbered(n), &mut out);
        }
        alice.poll(NOW, &mut out);
        let before = out.datagrams.len();
        assert!(before < 100);
        alice.apply(change());
        let left = let_all_leave(&mut alice, 0);
        assert_eq!(before + left.len(), 100);
        assert!(left.iter().all(|l| sockets.contains(&l.1)), "{sockets:?}");
        let all = out.datagrams.iter().map(|d| &d.2).chain(left.iter().map(|l| &l.2));
        let mut numbers: Vec<u8> = all.map(|datagram| number(&mut bob, datagram)).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100));
        assert!(!alice.has_waiting());
    }
}

#[test]
fn at_the_end_of_a_bond_what_waits_goes_before_what_comes() {
    let (mut alice, mut bob) = (alice(striping(&[A, B])), bob());
    let mut out = Outside::default();
    for n in 0..50 {
        alice.outbound(NOW, NETWORK, &numbered(n), &mut out);
    }
    alice.apply(Update::Bond { address: BOB, bond: None });
    alice.outbound(NOW, NETWORK, &numbered(50), &mut out);
    let numbers: Vec<u8> = out.datagrams.iter().map(|d| number(&mut bob, &d.2)).collect();
    assert!(numbers.into_iter().eq(0..51));
}

#[test]
fn a_peer_that_is_gone_leaves_nothing_behind() {
    let mut alice = alice(striping(&[A, B]));
    let mut out = Outside::default();
    for n in 0..50 {
        alice.outbound(NOW, NETWORK, &udp(n, 1200), &mut out);
    }
    alice.apply(Update::PeerGone(BOB));
    assert!(poll(&mut alice, at(1_000_000)).is_empty());
    assert!(!alice.has_waiting() && !alice.has_bond_news() && alice.next_due_us().is_none());
    assert_eq!(alice.counters().stripe_dropped, 50);
}

#[test]
fn what_left_over_a_path_that_is_lost_goes_again_unless_it_arrived() {
    let recalling = |ids: &[PathId], lost: &[PathId]| {
        let lost = lost.to_vec();
        Plan { recall_us: 50_000, lost, ..plan(Policy::ActiveBackup, ids) }
    };
    let (mut alice, mut bob) = (alice(recalling(&[A], &[])), bob());
    let tcp = |n| packet(6, n, 300);
    let mut sent = Vec::new();
    for n in 0..30 {
        sent.extend(send(&mut alice, at(u64::from(n) * 1000), &tcp(n)));
    }
    sent.extend(send(&mut alice, at(30_000), &udp(99, 300)));
    // the one sent at 10 ms arrived, and asked
    let acks = receive(&mut bob, at(11_000), route(A), &sent[10].2).datagrams;
    let [(socket, remote, ack)] = &acks[..] else { panic!("it asked") };
    receive(&mut alice, at(31_000), Route { socket: *socket, remote: *remote, mtu: 0 }, ack);

    alice.apply(bond(recalling(&[B], &[A])));
    let again = let_all_leave(&mut alice, 31_500);
    let again: Vec<&Vec<u8>> = again.iter().inspect(|l| assert_eq!(l.1, 11)).map(|l| &l.2).collect();
    // those before are taken to have arrived, and UDP does not bear repetition
    let wanted: Vec<&Vec<u8>> = sent[10..30].iter().map(|d| &d.2).collect();
    assert_eq!(again, wanted, "the same bytes, oldest first");
    assert_eq!(alice.counters().recalled, 20);
    assert!(!alice.has_waiting());
    alice.apply(bond(recalling(&[B], &[A])));
    assert!(poll(&mut alice, at(60_000)).is_empty(), "once");
}

fn sealed(verb: Verb, payload: &[u8]) -> Vec<u8> {
    let mut packet = head(0x1122334455667788, BOB, ALICE, verb as u8);
    packet.extend_from_slice(payload);
    keys().seal(&mut packet, Suite::AesGmacSiv);
    packet
}

fn ext_frame(flags: u8, to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    let head = [&NETWORK.0.to_be_bytes()[..], &[flags], &to.0, &from.0, &IPV4.to_be_bytes()].concat();
    sealed(Verb::ExtFrame, &[&head, payload].concat())
}

#[test]
fn only_extended_frames_that_say_no_more_than_plain_ones_are_for_a_shard() {
    let (to, from) = (Mac::of_member(NETWORK, BOB), Mac::of_member(NETWORK, ALICE));
    let foreign = Mac([2, 0, 0, 0, 0, 1]);
    let delivered = |packet: &[u8]| {
        let out = inbound(&mut bob(), packet);
        assert_eq!(out.frames.len() + out.control.len(), 1);
        (out.frames.len(), out.datagrams.len())
    };
    assert_eq!(delivered(&ext_frame(0x10, to, from, &[1])), (1, 1));
    assert_eq!(delivered(&ext_frame(0x00, to, from, &[1])), (1, 0));
    for (flags, to, from) in [(0x16, to, from), (0x01, to, from), (0x10, foreign, from), (0x10, to, foreign)] {
        assert_eq!(delivered(&ext_frame(flags, to, from, &[1; 200])), (0, 0));
    }
    assert_eq!(delivered(&ext_frame(0, to, from, &[])), (0, 0));
}

#[test]
fn a_probe_is_answered_and_reaches_no_tap() {
    let probe = ext_frame(0x10, Mac::of_member(NETWORK, BOB), Mac::of_member(NETWORK, ALICE), &[]);
    let mut bob = bob();
    let out = receive(&mut bob, NOW, route(A), &probe);
    assert!(out.frames.is_empty() && out.control.is_empty());
    let [(socket, remote, answer)] = &out.datagrams[..] else { panic!("one answer") };
    assert_eq!((*socket, *remote), (route(A).socket, route(A).remote));
    let mut answer = answer.clone();
    keys().open(&mut answer).unwrap();
    let id = &probe[..8];
    let wanted = [&[Verb::Ok as u8, Verb::ExtFrame as u8], id, &NETWORK.0.to_be_bytes()].concat();
    assert_eq!(answer[HDR_LEN - 1..], wanted);

    let mut strangers = bob;
    strangers.apply(Update::Member { network: NETWORK, address: ALICE, allowed: false });
    let out = receive(&mut strangers, NOW, route(A), &probe);
    assert!(out.datagrams.is_empty() && matches!(out.control[..], [Said::Opened(_)]));
}

#[test]
fn fuzz_extended_frames_and_acknowledgements_of_a_malicious_member() {
    check!().with_type::<(bool, u8, bool, Vec<u8>)>().for_each(|(ok, flags, canonical, bytes)| {
        let mut shard = bob();
        shard.apply(bond_over(ALICE, striping(&[A, B]), vec![route(A), route(B)], None));
        let packet = match (ok, canonical) {
            (true, true) => sealed(Verb::Ok, &[&[Verb::ExtFrame as u8], &bytes[..]].concat()),
            (true, false) => sealed(Verb::Ok, bytes),
            (false, true) => ext_frame(*flags, Mac::of_member(NETWORK, BOB), Mac::of_member(NETWORK, ALICE), bytes),
            (false, false) => sealed(Verb::ExtFrame, bytes),
        };
        let out = inbound(&mut shard, &packet);
        assert!(out.frames.len() + out.control.len() <= 1);
        assert!(out.datagrams.len() <= usize::from(!ok));
        assert_eq!(shard.counters().bond_acks, 0);
    });
}
