//! Choosing a packet's way allocates nothing. Counted, not believed.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one counts and forwards to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use bond::config::{Family, Mode, Params, Policy};
use bond::model::PathModel;
use bond::recall::Recall;
use bond::resequence::{Resequencer, Segment, Source};
use bond::striper::{Out, Striper};
use bond::{Bond, Choice, NewPath, PathId, Selector};
use wire::Now;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn select_allocates_nothing_under_any_policy() {
    let at = |us: u64| Now { mono_us: us, unix_ms: us / 1000 };
    for policy in Policy::ALL {
        let mut bond = Bond::new(at(1), Arc::new(Params::standard(policy, Mode::Better)), true, false, 7);
        for (i, link) in ["a", "b", "c"].into_iter().enumerate() {
            let new = NewPath { link, family: Family::V4, key: i as u64, remote_port: 9993 };
            let id = bond.learn(at(1), new).unwrap();
            bond.requested(at(2), id, i as u64, true);
            bond.acked(at(10_000), id, i as u64);
        }
        let mut shard = Selector::new(bond.plan().clone(), 256);
        let counted = allocations(|| {
            for n in 0..10_000u64 {
                let choice = shard.select(n % 700, 1400, 20_000 + 10 * n);
                assert!(policy == Policy::None || choice != Choice::Relay);
            }
        });
        assert_eq!(counted, 0, "{policy}");
    }
}

#[test]
fn the_striper_allocates_nothing_once_it_stands() {
    let model = |rtt| PathModel::new(0, Some(rtt), None);
    let mut striper: Striper<u32> = Striper::new(0, [model(20_000_000), model(40_000_000)]);
    let mut now = 0u64;
    let mut step = |striper: &mut Striper<u32>| {
        // More than the paths carry for half of the time, so that queues stand, packets are dropped and flows come and go.
        for n in 0..40_000u64 {
            now += if n % 2000 < 1000 { 5_000 } else { 100_000 };
            let _ = striper.offer(now, n % 300, 1, 1400);
            if n % 50 == 0 {
                let _ = striper.offer_light(2, 100);
            }
            while let Some(out) = striper.poll(now) {
                if let Out::Send { path, request: Some(request), .. } = out {
                    striper.acked(now + 20_000_000, path, request);
                }
            }
        }
    };
    step(&mut striper);
    assert_eq!(allocations(|| step(&mut striper)), 0);
}

#[test]
fn keeping_packets_allocates_nothing_once_there_is_room() {
    let (a, b) = (PathId { slot: 0, generation: 1 }, PathId { slot: 1, generation: 2 });
    let mut recall = Recall::new();
    let mut now = 0u64;
    let mut step = |recall: &mut Recall| {
        for n in 0..50_000u64 {
            now += 100;
            recall.keep(now, if n % 3 == 0 { a } else { b }, &[7; 1400][..200 + 12 * (n as usize % 100)], 1432, true);
            if n % 50 == 0 {
                recall.covered(b, now.saturating_sub(20_000));
                recall.expire(now, 40_000);
            }
            if n % 1000 == 0 {
                recall.lost(now, a);
                while recall.next_lost(now, b).is_some() {}
            }
        }
    };
    step(&mut recall);
    assert_eq!(allocations(|| step(&mut recall)), 0);
}

#[test]
fn putting_segments_in_order_allocates_nothing_once_there_is_room() {
    let (mut resequencer, mut source) = (Resequencer::new(1), Source::new(0, 0));
    let mut next = 0u32;
    let mut step = |resequencer: &mut Resequencer| {
        let mut out = 0;
        // runs of 64; the second run of each pair comes first
        for n in 0..20_000u32 {
            let (run, place) = ((next / 64) ^ 1, next % 64);
            let now = 1_000_000 + u64::from(next) * 100;
            next += 1;
            source.heard(now, run % 2);
            let segment = Segment { flow: 3, sequence: (run * 64 + place) * 1000, len: 1000, flags: 0x10 };
            let (path, frame) = ((run % 2) as u8, [0; 1054]);
            resequencer.segment(now, &mut source, path, &segment, n.into(), &frame, &mut |_, _| out += 1);
            resequencer.expire(now, &mut |_, _| out += 1);
        }
        assert!(out > 19_000);
    };
    step(&mut resequencer);
    assert_eq!(allocations(|| step(&mut resequencer)), 0);
    assert!(resequencer.counters().closed > 200);
}
