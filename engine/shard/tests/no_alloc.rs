//! The packet path allocates nothing once buffers have found their size. Counted, not believed.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one counts and forwards to the system's"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;

use shard::{Activity, Egress, Shard, SocketId, ToControl};
use support::{ALICE, BOB, NETWORK, NOW, SOCKET, STRANGER, frame, member, remote};
use wire::packet::Suite;
use wire::{NetworkId, Now};

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

/// An outside with room for one batch, made beforehand.
struct Ring {
    slots: Vec<[u8; 1500]>,
    lens: Vec<usize>,
    frames: usize,
    control: usize,
}

impl Ring {
    fn new() -> Ring {
        Ring { slots: vec![[0; 1500]; 8], lens: Vec::with_capacity(8), frames: 0, control: 0 }
    }
}

impl Egress for Ring {
    fn tap(&mut self, _: NetworkId, _: &[u8]) {
        self.frames += 1;
    }

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.lens.push(len);
        self.slots[self.lens.len() - 1].get_mut(..len)
    }

    fn control(&mut self, _: ToControl<'_>) {
        self.control += 1;
    }
}

struct Rig {
    alice: Shard,
    bob: Shard,
    ring: Ring,
    report: Vec<Activity>,
    ways: [Vec<u8>; 5],
}

impl Rig {
    fn new(suite: Suite) -> Rig {
        Rig {
            alice: member(ALICE, BOB, suite),
            bob: member(BOB, ALICE, suite),
            ring: Ring::new(),
            report: Vec::with_capacity(64),
            ways: [
                frame(ALICE, BOB, 0x0800, &[0x45; 64]),
                frame(ALICE, BOB, 0x86dd, &[0x60; 1300]),
                frame(ALICE, BOB, 0x0800, &[0x45; 2800]),
                frame(ALICE, STRANGER, 0x0800, &[0x45; 64]),
                frame(ALICE, BOB, 0x88cc, &[1; 64]),
            ],
        }
    }

    /// Frames of all kinds from TAP to TAP, some of them replayed, some with their parts in the wrong order, then a tick.
    fn turn(&mut self, now: Now) {
        for frame in &self.ways {
            for reversed in [false, true] {
                self.ring.lens.clear();
                self.alice.outbound(NETWORK, frame, &mut self.ring);
                let parts = self.ring.lens.len();
                for i in 0..parts {
                    let i = if reversed { parts - 1 - i } else { i };
                    let mut datagram = self.ring.slots[i];
                    let mut replay = datagram;
                    let len = self.ring.lens[i];
                    self.bob.inbound(now, SOCKET, remote(), &mut datagram[..len], &mut self.ring);
                    self.bob.inbound(now, SOCKET, remote(), &mut replay[..len], &mut self.ring);
                    replay[20] ^= 1;
                    self.bob.inbound(now, SOCKET, remote(), &mut replay[..len], &mut self.ring);
                    self.ring.lens.truncate(parts);
                }
            }
        }
        self.report.clear();
        self.alice.tick(now, &mut self.report);
        self.bob.tick(now, &mut self.report);
    }
}

#[test]
fn neither_walk_allocates_after_warm_up() {
    for suite in [Suite::AesGmacSiv, Suite::Salsa2012Poly1305] {
        let mut rig = Rig::new(suite);
        let mut now = NOW;
        let mut turns = |rig: &mut Rig, count: usize| {
            for _ in 0..count {
                now = now.after(std::time::Duration::from_millis(50));
                rig.turn(now);
            }
        };
        turns(&mut rig, 400);
        let (before, frames) = (ALLOCATIONS.get(), rig.ring.frames);
        turns(&mut rig, 400);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{suite:?}");
        assert_eq!(rig.ring.frames - frames, 400 * 6);
        assert!(rig.ring.control > 0);
        assert!(rig.bob.counters().duplicate > 0 && rig.bob.counters().forged > 0);
        assert!(rig.bob.reassembly().completed > 0 && rig.bob.reassembly().evicted > 0);
    }
}
