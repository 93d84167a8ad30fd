//! The packet path allocates nothing once buffers have found their size. Counted, not believed.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one counts and forwards to the system's"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use bond::config::Policy;
use bond::{PathId, Plan, PlanPath};
use shard::{Bonding, Egress, Gso, Offload, Partial, Report, Route, Shard, SocketId, TapSlot, ToControl, Update};
use support::{ALICE, BOB, NETWORK, NOW, PATH_MTU, SOCKET, STRANGER, frame, member, remote};
use wire::packet::Suite;
use wire::rule::{IntegerRange, Range16, Rule, RuleKind, RuleTable, TagMatch};
use wire::{Address, NetworkId, Now};

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
    taps: Vec<(bool, Vec<u8>)>,
    frames: usize,
    super_frames: usize,
    control: usize,
}

impl Ring {
    fn new() -> Ring {
        let taps = vec![(false, vec![0; 66_000]); 4];
        Ring {
            slots: vec![[0; 1500]; 256],
            lens: Vec::with_capacity(256),
            taps,
            frames: 0,
            super_frames: 0,
            control: 0,
        }
    }
}

impl Egress for Ring {
    fn tap(&mut self, _: NetworkId, _: &[u8]) {
        self.frames += 1;
    }

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        let at = self.taps.iter().position(|(open, _)| !open)?;
        self.taps[at].0 = true;
        Some(TapSlot(at as u16))
    }

    fn tap_slot(&mut self, slot: TapSlot) -> &mut [u8] {
        &mut self.taps[usize::from(slot.0)].1
    }

    fn tap_close(&mut self, slot: TapSlot, _: usize, offload: Offload) {
        self.taps[usize::from(slot.0)].0 = false;
        if offload.segments.is_some() {
            self.super_frames += 1;
        } else {
            self.frames += 1;
        }
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
    report: Report,
    ways: [Vec<u8>; 5],
    template: (Offload, Vec<u8>),
    super_frame: Vec<u8>,
    /// To Alice, on their way.
    answers: Vec<([u8; 1500], usize)>,
}

/// A TCP super-frame as the kernel hands it over, its checksum open.
fn super_frame(payload: usize) -> (Offload, Vec<u8>) {
    let len = (40 + payload as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &len, &[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let pseudo = (0x0a00u16 * 2 + 3 + 6 + 20 + payload as u16).to_be_bytes();
    let tcp = [&[1, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, 0x10, 1, 1][..], &pseudo, &[0, 0]].concat();
    let checksum = Some(Partial { start: 34, offset: 16 });
    let offload = Offload { checksum, segments: Some((Gso::Tcp4, 1200)), headers_len: 54 };
    (offload, frame(ALICE, BOB, 0x0800, &[&ip[..], &tcp, &vec![7; payload]].concat()))
}

/// Gives a shard rules to run: all but ethertype 0x88cc passes, after a closer look.
fn filter(shard: &mut Shard, own: Address, peer: Address) {
    let rule = |or, kind| Rule { not: false, or, kind };
    let any = IntegerRange { start: 0, end: u64::MAX, index: 20, format: 63 };
    // segments of a super-frame are looked at one by one
    let rules = RuleTable::new(vec![
        rule(false, RuleKind::Ethertype(0x88cc)),
        rule(false, RuleKind::Drop),
        rule(false, RuleKind::Characteristics(0xff)),
        rule(true, RuleKind::TagSender(TagMatch { id: 1, value: 1 })),
        rule(true, RuleKind::IntegerRange(any)),
        rule(true, RuleKind::FrameSize(Range16 { low: 1, high: 9999 })),
        rule(false, RuleKind::Accept),
    ]);
    let bare = network::Config::parse(format!("v=7\nnwid={NETWORK}\nid={own}\n").as_bytes()).unwrap();
    let policy = Some(Arc::new(network::Policy::of(&network::Config { rules, ..bare })));
    shard.apply(support::network(own, false));
    shard.apply(Update::Standing { network: NETWORK, address: peer, standing: Arc::default() });
    shard.apply(Update::Policy { network: NETWORK, policy });
}

impl Rig {
    fn new(suite: Suite, rules: bool, bonded: bool) -> Rig {
        let (mut alice, mut bob) = (member(ALICE, BOB, suite), member(BOB, ALICE, suite));
        if bonded {
            bob.apply(support::bonded(ALICE, suite));
        }
        if rules {
            filter(&mut alice, ALICE, BOB);
            filter(&mut bob, BOB, ALICE);
        }
        Rig {
            alice,
            bob,
            ring: Ring::new(),
            report: Report { activity: Vec::with_capacity(64), arrivals: Vec::with_capacity(256), ..Report::default() },
            ways: [
                frame(ALICE, BOB, 0x0800, &[0x45; 64]),
                frame(ALICE, BOB, 0x86dd, &[0x60; 1300]),
                frame(ALICE, BOB, 0x0800, &[0x45; 2800]),
                frame(ALICE, STRANGER, 0x0800, &[0x45; 64]),
                frame(ALICE, BOB, 0x88cc, &[1; 64]),
            ],
            template: super_frame(25_000),
            super_frame: Vec::with_capacity(40_000),
            answers: Vec::with_capacity(256),
        }
    }

    /// Frames of all kinds from TAP to TAP, some of them replayed, some with their parts in the wrong order, then a tick.
    fn turn(&mut self, now: Now) {
        for frame in &self.ways {
            for reversed in [false, true] {
                self.ring.lens.clear();
                self.alice.outbound(NOW, NETWORK, frame, &mut self.ring);
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
        // a super-frame is cut, sent, and joined again
        let (offload, bytes) = &self.template;
        self.super_frame.clear();
        self.super_frame.extend_from_slice(bytes);
        self.ring.lens.clear();
        self.alice.outbound_offloaded(NOW, NETWORK, Ok(*offload), &mut self.super_frame, &mut self.ring);
        for i in 0..self.ring.lens.len() {
            let (mut datagram, len) = (self.ring.slots[i], self.ring.lens[i]);
            self.bob.inbound(now, SOCKET, remote(), &mut datagram[..len], &mut self.ring);
        }
        self.bob.flush(&mut self.ring);
        self.report.clear();
        self.alice.tick(now, &mut self.report);
        self.bob.tick(now, &mut self.report);
    }

    /// Acknowledgements of the last turn, and frames over a bond.
    fn bond_turn(&mut self, now: Now) {
        for (mut datagram, len) in self.answers.drain(..) {
            self.alice.inbound(now, SOCKET, remote(), &mut datagram[..len], &mut self.ring);
        }
        self.ring.lens.clear();
        for way in [1, 1, 1, 2] {
            self.alice.outbound(now, NETWORK, &self.ways[way], &mut self.ring);
        }
        let (offload, bytes) = &self.template;
        self.super_frame.clear();
        self.super_frame.extend_from_slice(bytes);
        self.alice.outbound_offloaded(now, NETWORK, Ok(*offload), &mut self.super_frame, &mut self.ring);
        self.alice.poll(now, &mut self.ring);
        let mut done = 0;
        while done < self.ring.lens.len() {
            let (mut datagram, len) = (self.ring.slots[done], self.ring.lens[done]);
            done += 1;
            if datagram[8..13] == BOB.to_bytes() || datagram[13] == 0xff {
                self.bob.inbound(now, SOCKET, remote(), &mut datagram[..len], &mut self.ring);
            } else {
                self.answers.push((datagram, len));
            }
        }
        self.bob.flush(&mut self.ring);
        self.report.clear();
        self.alice.bond_tick(now, &mut self.report);
        self.alice.tick(now, &mut self.report);
        self.bob.tick(now, &mut self.report);
    }
}

fn bond(policy: Policy, striping: bool, serial: u64) -> Update {
    let id = |slot| PathId { slot, generation: 1 };
    let path = |slot| PlanPath { id: id(slot), key: u64::from(slot), weight: 1.0, rate: 1e6, delay_us: 5000 };
    let paths: Vec<PlanPath> = [0, 1].map(path).to_vec();
    let routes = vec![Route { socket: SOCKET, remote: remote(), mtu: PATH_MTU }; 2];
    let plan = Plan { serial, policy, paths, striping, recall_us: 20_000, sampled: true, ..Plan::default() };
    let bond = Bonding { plan: Arc::new(plan), routes, relay: None, marks: false, duplicates_dropped: false };
    Update::Bond { address: BOB, bond: Some(Arc::new(bond)) }
}

#[test]
fn no_policy_of_a_bond_allocates_after_warm_up() {
    let all = [
        (Policy::ActiveBackup, false),
        (Policy::Broadcast, false),
        (Policy::BalanceXor, false),
        (Policy::BalanceAware, true),
        (Policy::BalanceRr, true),
    ];
    for (policy, striping) in all {
        let mut rig = Rig::new(Suite::AesGmacSiv, false, false);
        rig.report.bonds.reserve(4096);
        rig.alice.apply(bond(policy, striping, 1));
        let mut now = NOW;
        let mut turns = |rig: &mut Rig, count: usize| {
            for _ in 0..count {
                now = now.after(std::time::Duration::from_millis(3));
                rig.bond_turn(now);
            }
        };
        turns(&mut rig, 3000);
        let (before, frames) = (ALLOCATIONS.get(), rig.bob.counters().frames_in);
        turns(&mut rig, 1000);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{policy:?}");
        let (counters, frames) = (rig.alice.counters(), rig.bob.counters().frames_in - frames);
        assert!(frames > 20_000, "{policy:?}: {frames}");
        assert!(counters.bond_acks > 1000 && counters.bond_acks <= rig.bob.counters().bond_answers);
        assert_eq!(counters.striped > 0, striping);
        assert_eq!(counters.copies > 0, policy == Policy::Broadcast);
    }
}

#[test]
fn neither_walk_allocates_after_warm_up() {
    let (aes, salsa) = (Suite::AesGmacSiv, Suite::Salsa2012Poly1305);
    for (suite, rules, bonded) in [(aes, false, false), (aes, true, true), (aes, false, true), (salsa, false, false)] {
        let mut rig = Rig::new(suite, rules, bonded);
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
        assert_eq!(ALLOCATIONS.get() - before, 0, "{suite:?}, rules {rules}, bonded {bonded}");
        assert_eq!(rig.ring.frames - frames, 400 * 6);
        assert_eq!(rig.ring.super_frames, 800);
        assert!(rig.ring.control > 0);
        assert_eq!(!rig.report.arrivals.is_empty(), bonded, "about half of the frames of the last turn");
        assert_eq!(rig.alice.counters().filtered_out, if rules { 800 * 2 } else { 0 });
        assert!(rig.bob.counters().duplicate > 0 && rig.bob.counters().forged > 0);
        assert!(rig.bob.reassembly().completed > 0 && rig.bob.reassembly().evicted > 0);
    }
}
