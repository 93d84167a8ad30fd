//! Order marks from shard to shard: put behind the frames of a flow that takes several paths, taken off and obeyed by who
//! agreed to it, and left to the control plane by who did not.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bond::config::Policy;
use bond::{PathId, Plan, PlanPath};
use shard::{Bonding, Report, Route, Shard, SocketId, Stray, Update};
use support::*;
use wire::message::{ExtFrame, Features};
use wire::packet::{HDR_LEN, Packet, Suite};
use wire::{Now, Verb};

const FRAMES: u32 = 400;

fn route(n: u64) -> Route {
    Route { socket: SocketId(n), remote: ([192, 0, 2, n as u8], 9993).into(), mtu: PATH_MTU }
}

fn at(us: u64) -> Now {
    Now { mono_us: us, unix_ms: NOW.unix_ms }
}

/// Alice stripes everything to Bob over two paths.
fn alice(marks: bool) -> Shard {
    let mut alice = member(ALICE, BOB, Suite::AesGmacSiv);
    let path = |n: u8| PlanPath {
        id: PathId { slot: n, generation: 1 },
        key: n.into(),
        weight: 1.0,
        rate: 1e6,
        delay_us: 1000,
    };
    let policy = Policy::BalanceRr;
    let plan = Plan { serial: 1, policy, striping: true, paths: vec![path(1), path(2)], ..Plan::default() };
    let routes = vec![route(1), route(2)];
    let bond = Bonding { plan: Arc::new(plan), routes, relay: None, marks, duplicates_dropped: marks };
    alice.apply(Update::Bond { address: BOB, bond: Some(Arc::new(bond)) });
    alice
}

fn bob(given: Features) -> Shard {
    let mut bob = member(BOB, ALICE, Suite::AesGmacSiv);
    bob.apply(Update::Given { address: ALICE, given });
    bob
}

/// A datagram of one UDP flow, which nothing but a mark puts in order.
fn numbered(n: u32) -> Vec<u8> {
    let mut ip = vec![0; 1000];
    ip[..4].copy_from_slice(&[0x45, 0, 0x03, 0xe8]);
    (ip[8], ip[9]) = (64, 17);
    ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    ip[20..28].copy_from_slice(&[0, 9, 0, 9, 0x03, 0xd4, 0, 0]);
    ip[28..32].copy_from_slice(&n.to_be_bytes());
    frame(ALICE, BOB, 0x0800, &ip)
}

/// What left: when, by which route, and the datagram.
fn sent(alice: &mut Shard) -> Vec<(u64, Route, Vec<u8>)> {
    let mut left = Vec::new();
    for burst in 0..FRAMES / 8 {
        let now = at(1_000_000 + u64::from(burst) * 1600);
        let mut out = Outside::default();
        for n in burst * 8..burst * 8 + 8 {
            alice.outbound(now, NETWORK, &numbered(n), &mut out);
        }
        alice.poll(at(now.mono_us + 500), &mut out);
        left.extend(out.datagrams.into_iter().map(|(socket, _, bytes)| (now.mono_us, route(socket.0), bytes)));
    }
    assert_eq!(left.len(), FRAMES as usize);
    assert!((1..=2).all(|n| left.iter().filter(|(_, by, _)| *by == route(n)).count() >= 50));
    left
}

/// Brings it to Bob, what took the second path 4 ms later. The numbers in the order in which they come out.
fn brought(bob: &mut Shard, left: &[(u64, Route, Vec<u8>)]) -> (Vec<u32>, Outside) {
    let mut way: Vec<_> =
        left.iter().map(|(us, by, bytes)| (us + if *by == route(2) { 5000 } else { 1000 }, by, bytes)).collect();
    way.sort_by_key(|(us, ..)| *us);
    let mut out = Outside::default();
    for (us, by, bytes) in way {
        while let Some(due) = bob.release_due_us().filter(|due| *due <= us) {
            bob.release(at(due), &mut out);
        }
        bob.inbound(at(us), by.socket, by.remote, &mut bytes.clone(), &mut out);
        bob.flush(&mut out);
    }
    bob.release(at(9_000_000), &mut out);
    bob.flush(&mut out);
    for (_, frame) in &out.frames {
        let n = u32::from_be_bytes(frame[42..46].try_into().unwrap());
        assert_eq!(*frame, numbered(n), "as it was sent");
    }
    let numbers = out.frames.iter().map(|(_, frame)| u32::from_be_bytes(frame[42..46].try_into().unwrap())).collect();
    (numbers, out)
}

/// Frames that came after one that was sent later.
fn late(numbers: &[u32]) -> usize {
    numbers.iter().enumerate().filter(|(i, n)| numbers[..*i].iter().any(|before| before > n)).count()
}

#[test]
fn frames_over_two_paths_come_out_as_they_went_in_and_in_order() {
    let (mut alice, mut bob) = (alice(true), bob(Features::ALL));
    let left = sent(&mut alice);
    assert_eq!(alice.counters().marks_out, u64::from(FRAMES));
    let (numbers, out) = brought(&mut bob, &left);
    assert_eq!((numbers.len(), out.control.len()), (FRAMES as usize, 0));
    // How late the second path is must be seen first.
    assert_eq!(late(&numbers[50..]), 0, "{numbers:?}");
}

#[test]
fn without_marks_they_come_out_in_the_order_of_arrival() {
    let (mut alice, mut bob) = (alice(false), bob(Features::ALL));
    let left = sent(&mut alice);
    assert_eq!(alice.counters().marks_out, 0);
    let (numbers, _) = brought(&mut bob, &left);
    assert_eq!(numbers.len(), FRAMES as usize);
    assert!(late(&numbers[50..]) > 30);
}

#[test]
fn where_the_paths_come_to_two_shards_marked_frames_meet_in_one_and_come_out_in_order() {
    for scattered in [true, false] {
        let mut alice = alice(true);
        let left = sent(&mut alice);
        let (mut first, mut second) = (bob(Features::ALL), bob(Features::ALL));
        let mut way: Vec<_> =
            left.iter().map(|(us, by, bytes)| (us + if *by == route(2) { 5000 } else { 1000 }, by, bytes)).collect();
        way.sort_by_key(|(us, ..)| *us);
        // Each hears one path only; what the second one gets goes to the first.
        let (mut out, mut others) = (Outside::default(), Outside { meets: scattered, ..Outside::default() });
        for (us, by, bytes) in way {
            while let Some(due) = first.release_due_us().filter(|due| *due <= us) {
                first.release(at(due), &mut out);
            }
            if *by == route(1) {
                first.set_scattered(ALICE, scattered);
                first.inbound(at(us), by.socket, by.remote, &mut bytes.clone(), &mut out);
            } else {
                second.set_scattered(ALICE, scattered);
                second.inbound(at(us), by.socket, by.remote, &mut bytes.clone(), &mut others);
                second.flush(&mut others);
                for (peer, socket, remote, frame, mark) in others.strays.drain(..) {
                    assert!(mark.is_some());
                    let stray = Stray { peer, socket, remote, network: NETWORK, frame: &frame, mark };
                    first.stray(at(us), &stray, &mut out);
                }
                out.frames.append(&mut others.frames);
            }
            first.flush(&mut out);
        }
        first.release(at(9_000_000), &mut out);
        first.flush(&mut out);
        let numbers: Vec<u32> =
            out.frames.iter().map(|(_, frame)| u32::from_be_bytes(frame[42..46].try_into().unwrap())).collect();
        assert_eq!(numbers.len(), FRAMES as usize);
        let late = late(&numbers[50..]);
        assert_eq!((late == 0, late > 30), (scattered, !scattered), "{late} late: {numbers:?}");
    }
}

#[test]
fn who_did_not_agree_leaves_marked_frames_to_the_control_plane() {
    let (mut alice, mut bob) = (alice(true), bob(Features::REPORTS));
    let left = sent(&mut alice);
    let (numbers, out) = brought(&mut bob, &left);
    assert_eq!((numbers.len(), out.control.len()), (0, FRAMES as usize));
    let Said::Opened(packet) = &out.control[0] else { panic!("{:?}", out.control[0]) };
    let view = Packet::new(&packet[..]).unwrap();
    assert_eq!(view.verb_number(), Verb::ExtFrame as u8);
    let ext = ExtFrame::parse(view.payload()).unwrap();
    assert!(ext.is_marked() && packet.len() == HDR_LEN + ExtFrame::HEADER_LEN + 1000 + 4);
}

#[test]
fn a_peer_that_is_told_what_comes_is_told_of_each_path_and_of_repetitions() {
    let (mut alice, mut bob) = (alice(true), bob(Features::ALL));
    let left = sent(&mut alice);
    brought(&mut bob, &left);
    let twice = &left[7];
    bob.inbound(at(9_500_000), twice.1.socket, twice.1.remote, &mut twice.2.clone(), &mut Outside::default());
    let mut report = Report::default();
    assert!(bob.has_bond_news());
    bob.bond_tick(at(10_000_000), &mut report);
    assert_eq!(report.receipts.iter().map(|r| r.packets).sum::<u64>(), u64::from(FRAMES) + 1);
    assert_eq!(report.receipts.len(), 2);
    let newest = Packet::new(&twice.2[..]).unwrap().id();
    let of = report.receipts.iter().find(|r| r.socket == twice.1.socket).unwrap();
    assert_eq!((of.newest, of.age_us, bob.counters().duplicate), (newest, 500_000, 1));
    report.clear();
    bob.tick(at(10_000_000), &mut report);
    assert!(report.receipts.is_empty() && !bob.has_bond_news());
}
