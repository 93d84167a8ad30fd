//! A peer that stripes its frames over two paths of different delay, as stock nodes do: what reaches the TAP is in order.
// spec: bonding, "Gateway acceptance", A10

mod support;

use std::net::SocketAddr;

use shard::{Shard, SocketId, Update};
use support::*;
use wire::Now;
use wire::packet::Suite;

/// Segments that a stock peer sends over one path before it takes the next.
const RUN: u32 = 64;
const PAYLOAD: u32 = 1300;

fn at(us: u64) -> Now {
    Now { mono_us: NOW.mono_us + us, unix_ms: NOW.unix_ms + us / 1000 }
}

fn ways() -> [(SocketId, SocketAddr); 2] {
    [(SOCKET, remote()), (SocketId(8), SocketAddr::from(([198, 51, 100, 7], 9993)))]
}

/// A segment of one TCP flow.
fn segment(number: u32) -> Vec<u8> {
    let len = (40 + PAYLOAD as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &len, &[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let sequence = 0xfff0_0000u32.wrapping_add(number.wrapping_mul(PAYLOAD)).to_be_bytes();
    let tcp = [&[1, 0, 2, 0][..], &sequence, &[0, 0, 0, 8, 0x50, 0x10, 1, 1, 0, 0, 0, 0]].concat();
    frame(ALICE, BOB, 0x0800, &[&ip[..], &tcp, &number.to_be_bytes(), &[7; PAYLOAD as usize - 4]].concat())
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[54], frame[55], frame[56], frame[57]])
}

/// What Alice sends and when it arrives: us, path, datagram. `left` says when a segment leaves; each path is in order and
/// carries one segment in `wire_us`.
fn striped(segments: u32, delays: [u64; 2], wire_us: u64, left: impl Fn(u32) -> u64) -> Vec<(u64, usize, Vec<u8>)> {
    let mut alice = member(ALICE, BOB, Suite::AesGmacSiv);
    let (mut free, mut before) = ([0; 2], [0; 2]);
    let mut arrivals: Vec<_> = (0..segments)
        .map(|n| {
            let path = (n / RUN % 2) as usize;
            free[path] = left(n).max(free[path]) + wire_us;
            let jitter = u64::from(n.wrapping_mul(2_654_435_761) % 2000);
            before[path] = (free[path] + delays[path] + jitter).max(before[path] + 1);
            (before[path], path, outbound(&mut alice, &segment(n)).datagrams.remove(0).2)
        })
        .collect();
    arrivals.sort_by_key(|arrival| arrival.0);
    arrivals
}

/// The numbers that reach Bob's TAP, and when, us.
fn received(bob: &mut Shard, arrivals: &[(u64, usize, Vec<u8>)]) -> Vec<(u32, u64)> {
    let mut came = Vec::new();
    let mut note = |out: Outside, us: u64| came.extend(out.frames.iter().map(|(_, frame)| (number(frame), us)));
    let release = |bob: &mut Shard, until: u64, note: &mut dyn FnMut(Outside, u64)| {
        while let Some(due) = bob.release_due_us().map(|us| us - NOW.mono_us).filter(|due| *due <= until) {
            let mut out = Outside::default();
            bob.release(at(due), &mut out);
            bob.flush(&mut out);
            note(out, due);
        }
    };
    for (us, path, datagram) in arrivals {
        release(bob, *us, &mut note);
        let ((socket, remote), mut out) = (ways()[*path], Outside::default());
        bob.inbound(at(*us), socket, remote, &mut datagram.clone(), &mut out);
        bob.flush(&mut out);
        note(out, *us);
    }
    release(bob, u64::MAX - NOW.mono_us, &mut note);
    came
}

/// Share of segments that came after one they should have preceded; but for the first run over either path, until which
/// nobody knows that the flow has two.
fn out_of_order(came: &[(u32, u64)]) -> f64 {
    let mut highest = 0;
    let late = came.iter().skip(3 * RUN as usize).filter(|(number, _)| {
        highest = highest.max(*number);
        *number < highest
    });
    late.count() as f64 / came.len() as f64
}

fn bob() -> Shard {
    member(BOB, ALICE, Suite::AesGmacSiv)
}

#[test]
fn a_flow_striped_in_runs_over_paths_of_10_and_30_ms_is_in_order_at_the_tap() {
    let steady = |n: u32| u64::from(n) * 300;
    // a window at a time, as TCP does after a pause
    let bursts = |n: u32| u64::from(n / 200) * 60_000;
    let (steady, bursts) =
        (striped(30_000, [10_000, 30_000], 250, steady), striped(30_000, [10_000, 30_000], 200, bursts));
    for arrivals in [steady, bursts] {
        let came = received(&mut bob(), &arrivals);
        assert_eq!(came.len(), 30_000);
        let share = out_of_order(&came);
        assert!(share < 0.001, "{share}");
        let mut off = bob();
        off.apply(Update::Resequence(false));
        let share = out_of_order(&received(&mut off, &arrivals));
        assert!(share > 0.1, "the paths reorder nothing: {share}");
    }
}

#[test]
fn losses_delay_nothing_beyond_what_waiting_costs_and_all_else_arrives_once() {
    let mut arrivals = striped(20_000, [10_000, 30_000], 250, |n| u64::from(n) * 300);
    let mut nth = 0;
    arrivals.retain(|_| {
        nth += 1;
        nth % 101 != 0
    });
    let mut shard = bob();
    let mut came = received(&mut shard, &arrivals);
    assert!(out_of_order(&came) < 0.001);
    assert!(shard.reordering().given_up > 0);
    assert_eq!(came.len(), arrivals.len());
    let last = arrivals.last().unwrap().0;
    assert!(came.last().unwrap().1 <= last + 40_000);
    came.dedup_by_key(|(number, _)| *number);
    assert_eq!(came.len(), arrivals.len());
}

#[test]
fn a_peer_heard_over_one_path_is_never_kept_waiting() {
    let mut arrivals = striped(2000, [10_000, 10_000], 250, |n| u64::from(n) * 300);
    arrivals.iter_mut().for_each(|(_, path, _)| *path = 0);
    arrivals.retain(|(us, _, _)| us % 7 != 0); // with gaps
    let mut shard = bob();
    let came = received(&mut shard, &arrivals);
    let expected: Vec<u64> = arrivals.iter().map(|(us, _, _)| *us).collect();
    assert_eq!(came.iter().map(|(_, us)| *us).collect::<Vec<_>>(), expected);
    assert_eq!(shard.reordering(), Default::default());
}
