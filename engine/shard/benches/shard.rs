//! Cost of both walks for one 1400-byte frame, and of finding nobody in a full table.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use network::Policy;
use shard::{Config, Egress, Gso, Offload, PEERS_MAX, Partial, Route, Shard, SocketId, TapSlot, ToControl, Update};
use wire::keys::Keys;
use wire::packet::Suite;
use wire::recent::RECENT_IDS;
use wire::rule::{Range16, Rule, RuleKind, RuleTable};
use wire::{Address, Mac, NetworkId, Now, SharedKey};

const NETWORK: NetworkId = NetworkId(0x01ec4f9b42000042);
const ALICE: Address = Address::from_u64(0xfcac9e2c1f);
const BOB: Address = Address::from_u64(0x92514cdce8);
const NOW: Now = Now { mono_us: 1000, unix_ms: 1 };
const SOCKET: SocketId = SocketId(1);
const FRAME_LEN: usize = 1400;
const SEGMENTS: usize = 40;
const SEGMENT_LEN: usize = 1360;

/// Keeps the datagrams.
#[derive(Default)]
struct Keep(Vec<Vec<u8>>);

impl Egress for Keep {
    fn tap(&mut self, _: NetworkId, _: &[u8]) {}

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        None
    }

    fn tap_slot(&mut self, _: TapSlot) -> &mut [u8] {
        &mut []
    }

    fn tap_close(&mut self, _: TapSlot, _: usize, _: Offload) {}

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.0.push(vec![0; len]);
        self.0.last_mut().map(|buffer| &mut buffer[..])
    }

    fn control(&mut self, _: ToControl<'_>) {}
}

/// Takes everything and keeps the last datagram.
struct Sink {
    buffer: [u8; 1500],
    len: usize,
    slots: Vec<Vec<u8>>,
}

impl Sink {
    fn new() -> Sink {
        Sink { buffer: [0; 1500], len: 0, slots: vec![vec![0; 66_000]; 2] }
    }
}

impl Egress for Sink {
    fn tap(&mut self, _: NetworkId, frame: &[u8]) {
        black_box(frame);
    }

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        Some(TapSlot(0))
    }

    fn tap_slot(&mut self, slot: TapSlot) -> &mut [u8] {
        &mut self.slots[usize::from(slot.0)]
    }

    fn tap_close(&mut self, _: TapSlot, len: usize, _: Offload) {
        black_box(len);
    }

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.len = len;
        self.buffer.get_mut(..len)
    }

    fn control(&mut self, what: ToControl<'_>) {
        black_box(what);
    }
}

fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9993))
}

fn shard(own: Address, peer: Address, suite: Suite) -> Shard {
    let mut shard = Shard::new(own, Config { seed: [7; 32], shards: 1 });
    let keys = Arc::new(Keys::new(SharedKey::from_bytes([9; 48])));
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: 1500 });
    shard.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, own), mtu: 2800, fast: true });
    shard.apply(Update::Peer { address: peer, keys, suite, route, bonded: false });
    shard.apply(Update::Member { network: NETWORK, address: peer, allowed: true });
    shard
}

fn frame() -> Vec<u8> {
    let mut frame = vec![0x5a; FRAME_LEN];
    frame[..6].copy_from_slice(&Mac::of_member(NETWORK, BOB).0);
    frame[6..12].copy_from_slice(&Mac::of_member(NETWORK, ALICE).0);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk_1400");
    group.throughput(Throughput::Bytes(FRAME_LEN as u64));
    for suite in [Suite::AesGmacSiv, Suite::Salsa2012Poly1305] {
        let mut out = Sink::new();
        let mut alice = shard(ALICE, BOB, suite);
        let frame = frame();
        group.bench_function(format!("outbound/{suite:?}"), |b| {
            b.iter(|| alice.outbound(NOW, NETWORK, black_box(&frame), &mut out));
        });

        // Twice as many packets as are remembered: none is a duplicate when it comes round again.
        let packets: Vec<Vec<u8>> = (0..2 * RECENT_IDS)
            .map(|_| {
                alice.outbound(NOW, NETWORK, &frame, &mut out);
                out.buffer[..out.len].to_vec()
            })
            .collect();
        let mut bob = shard(BOB, ALICE, suite);
        let mut next = packets.iter().cycle();
        group.bench_function(format!("inbound/{suite:?}"), |b| {
            b.iter_batched_ref(
                || next.next().unwrap().clone(),
                |packet| bob.inbound(Now::at_ms(1), SOCKET, remote(), packet, &mut out),
                BatchSize::SmallInput,
            );
        });
        assert_eq!(bob.counters().duplicate, 0);
    }
    group.finish();
}

/// A TCP super-frame as the kernel hands it over.
fn super_frame() -> (Offload, Vec<u8>) {
    let payload = SEGMENTS * SEGMENT_LEN;
    let len = (40 + payload as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &len, &[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let pseudo = (0x0a00u16 * 2 + 3 + 6).wrapping_add(20 + payload as u16).to_be_bytes();
    let tcp = [&[1, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, 0x10, 1, 1][..], &pseudo, &[0, 0]].concat();
    let ethernet = frame()[..14].to_vec();
    let checksum = Some(Partial { start: 34, offset: 16 });
    let offload = Offload { checksum, segments: Some((Gso::Tcp4, SEGMENT_LEN as u16)), headers_len: 54 };
    (offload, [&ethernet[..], &ip, &tcp, &vec![7; payload]].concat())
}

/// A super-frame there and back: what a segment costs when its way is found once and its frame is joined to others.
fn super_frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("super_frame");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let (offload, mut bytes) = super_frame();
    let mut alice = shard(ALICE, BOB, Suite::AesGmacSiv);
    let mut out = Sink::new();
    group.bench_function("cut", |b| {
        b.iter(|| alice.outbound_offloaded(NOW, NETWORK, Ok(offload), black_box(&mut bytes), &mut out));
    });
    let mut bob = shard(BOB, ALICE, Suite::AesGmacSiv);
    let sealed = |alice: &mut Shard| {
        let mut kept = Keep::default();
        alice.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut bytes.clone(), &mut kept);
        kept.0
    };
    group.bench_function("join", |b| {
        b.iter_batched_ref(
            || sealed(&mut alice),
            |packets| {
                for packet in packets {
                    bob.inbound(Now::at_ms(1), SOCKET, remote(), packet, &mut out);
                }
                bob.flush(&mut out);
            },
            BatchSize::SmallInput,
        );
    });
    assert!(bob.counters().joined_in == bob.counters().frames_in && bob.counters().super_frames_in > 0);
    group.finish();
}

/// Ten port ranges that fit nothing and drop, then accept: what rules cost, for a frame and for a super-frame that is
/// judged once or segment by segment.
fn with_rules(c: &mut Criterion) {
    let rule = |kind| Rule { not: false, or: false, kind };
    let ports = (0..10).map(|n| RuleKind::DestPorts(Range16 { low: 9000 + n, high: 9000 + n }));
    let table: Vec<Rule> = ports.flat_map(|ports| [rule(ports), rule(RuleKind::Drop)]).collect();
    let size = rule(RuleKind::FrameSize(Range16 { low: 0, high: u16::MAX }));
    let once = [&table[..], &[rule(RuleKind::Accept)]].concat();
    let each = [&table[..], &[size, rule(RuleKind::Accept)]].concat();
    let (offload, mut bytes) = super_frame();
    let frame = frame();
    let mut group = c.benchmark_group("with_rules");
    for (name, rules) in [("once", once), ("each", each)] {
        let bare = network::Config::parse(format!("v=7\nnwid={NETWORK}\nid={ALICE}\n").as_bytes()).unwrap();
        let policy = Policy::of(&network::Config { rules: RuleTable::new(rules), ..bare });
        let mut alice = shard(ALICE, BOB, Suite::AesGmacSiv);
        alice.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, ALICE), mtu: 2800, fast: false });
        alice.apply(Update::Standing { network: NETWORK, address: BOB, standing: Arc::default() });
        alice.apply(Update::Policy { network: NETWORK, policy: Some(Arc::new(policy)) });
        let mut out = Sink::new();
        group.bench_function(format!("frame/{name}"), |b| {
            b.iter(|| alice.outbound(NOW, NETWORK, black_box(&frame), &mut out));
        });
        group.bench_function(format!("super_frame/{name}"), |b| {
            b.iter(|| alice.outbound_offloaded(NOW, NETWORK, Ok(offload), black_box(&mut bytes), &mut out));
        });
        let counters = alice.counters();
        assert!(counters.frames_out > 0 && counters.control_frames + counters.filtered_out == 0);
    }
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let mut bob = shard(BOB, ALICE, Suite::AesGmacSiv);
    let keys = Arc::new(Keys::new(SharedKey::from_bytes([9; 48])));
    for n in 1..PEERS_MAX as u64 {
        let address = Address::from_u64(n * 0x1_0001);
        bob.apply(Update::Peer { address, keys: keys.clone(), suite: Suite::AesGmacSiv, route: None, bonded: false });
    }
    let mut packet = [0; 100];
    packet[8..13].copy_from_slice(&BOB.to_bytes());
    packet[18] = 0x18;
    let mut out = Sink::new();
    let mut n = 0u64;
    c.bench_function("unknown_sender_among_65536_peers", |b| {
        b.iter(|| {
            n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
            packet[13..18].copy_from_slice(&(n | 1 << 47).to_be_bytes()[..5]);
            packet[13] &= 0x7f; // 0xff would make it a fragment
            bob.inbound(Now::at_ms(1), SOCKET, remote(), black_box(&mut packet), &mut out);
        });
    });
}

criterion_group!(benches, walks, super_frames, with_rules, lookup);
criterion_main!(benches);
