//! The parts of both walks that are neither cipher nor kernel: cutting a super-frame, joining segments, finding a peer
//! among many, the tick. `cargo bench -p shard --bench parts`
//!
//! Which queue a flow's frames come out of is decided in the kernel, by a program, so there is no flow hash to measure.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shard::{
    Coalescer, Config, Counters, Egress, Gso, Offload, Partial, Route, Segments, Shard, SocketId, TapSlot, ToControl,
    Update,
};
use wire::keys::Keys;
use wire::packet::Suite;
use wire::{Address, Mac, NetworkId, Now, SharedKey};

const NETWORK: NetworkId = NetworkId(0x01ec4f9b42000042);
const OWN: Address = Address::from_u64(0xfcac9e2c1f);
const NOW: Now = Now { mono_us: 1000, unix_ms: 1 };
const SOCKET: SocketId = SocketId(1);
const SEGMENTS: usize = 44;
const SEGMENT_LEN: usize = 1360;

/// Takes everything; super-frames grow in its one slot.
struct Sink {
    slot: Vec<u8>,
    buffer: Vec<u8>,
}

impl Sink {
    fn new() -> Sink {
        Sink { slot: vec![0; 66_000], buffer: vec![0; 1500] }
    }
}

impl Egress for Sink {
    fn tap(&mut self, _: NetworkId, frame: &[u8]) {
        black_box(frame);
    }

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        Some(TapSlot(0))
    }

    fn tap_slot(&mut self, _: TapSlot) -> &mut [u8] {
        &mut self.slot
    }

    fn tap_close(&mut self, _: TapSlot, len: usize, _: Offload) {
        black_box(len);
    }

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(..len)
    }

    fn control(&mut self, what: ToControl<'_>) {
        black_box(what);
    }
}

fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9993))
}

/// A TCP super-frame as the kernel hands it over.
fn super_frame() -> (Offload, Vec<u8>) {
    let payload = SEGMENTS * SEGMENT_LEN;
    let len = (40 + payload as u16).to_be_bytes();
    let ethernet = [&[2, 0, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 2], &[0x08, 0x00]].concat();
    let ip = [&[0x45, 0][..], &len, &[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let pseudo = (0x0a00u16 * 2 + 3 + 6).wrapping_add(20 + payload as u16).to_be_bytes();
    let tcp = [&[1, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, 0x10, 1, 1][..], &pseudo, &[0, 0]].concat();
    let checksum = Some(Partial { start: 34, offset: 16 });
    let offload = Offload { checksum, segments: Some((Gso::Tcp4, SEGMENT_LEN as u16)), headers_len: 54 };
    (offload, [&ethernet[..], &ip, &tcp, &vec![7; payload]].concat())
}

fn cut_and_join(c: &mut Criterion) {
    let mut group = c.benchmark_group("parts");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let (offload, bytes) = super_frame();
    group.bench_function("cut 44 segments", |b| {
        b.iter(|| {
            let mut segments = Segments::new(black_box(&bytes), &offload).expect("a super-frame");
            while let Some(segment) = segments.next() {
                black_box(segment);
            }
        });
    });
    let mut frames = Vec::new();
    let mut segments = Segments::new(&bytes, &offload).expect("a super-frame");
    while let Some((headers, payload)) = segments.next() {
        frames.push([headers, payload].concat());
    }
    let (mut coalescer, mut out, mut counters) = (Coalescer::new(7), Sink::new(), Counters::default());
    group.bench_function("join 44 segments", |b| {
        b.iter(|| {
            for frame in &frames {
                coalescer.push(NETWORK, black_box(frame), &mut out, &mut counters);
            }
            coalescer.flush(&mut out, &mut counters);
        });
    });
    assert_eq!(counters.joined_in, counters.super_frames_in * SEGMENTS as u64);
    group.finish();
}

/// A shard that knows `peers` members with a way to each.
fn shard(peers: u64) -> Shard {
    let mut shard = Shard::new(OWN, Config { seed: [7; 32], shards: 1 });
    let keys = Arc::new(Keys::new(SharedKey::from_bytes([9; 48])));
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: 1432 });
    shard.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, OWN), mtu: 2800, fast: true });
    for n in 1..=peers {
        let address = Address::from_u64(n);
        shard.apply(Update::Peer { address, keys: keys.clone(), suite: Suite::AesGmacSiv, route, bonded: false });
        shard.apply(Update::Member { network: NETWORK, address, allowed: true });
    }
    shard
}

/// One smallest frame to each of many members in turn: what finding its way costs, and 64 sealed bytes.
fn ways(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbound, 46 bytes, members");
    for peers in [1, 100, 10_000] {
        let (mut shard, mut out) = (shard(peers), Sink::new());
        let mut frame = [0u8; 60];
        frame[6..12].copy_from_slice(&Mac::of_member(NETWORK, OWN).0);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let macs: Vec<Mac> = (1..=peers).map(|n| Mac::of_member(NETWORK, Address::from_u64(n))).collect();
        let mut next = macs.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(peers), |b| {
            b.iter(|| {
                frame[..6].copy_from_slice(&next.next().expect("it goes round").0);
                shard.outbound(NOW, NETWORK, black_box(&frame), &mut out);
            });
        });
        assert_eq!(shard.counters().control_frames, 0);
    }
    group.finish();
}

/// The tick after a frame to each of that many members.
fn tick(c: &mut Criterion) {
    let mut group = c.benchmark_group("tick, active members");
    for peers in [0, 1, 100] {
        let (mut shard, mut out, mut report) = (shard(peers), Sink::new(), shard::Report::default());
        let mut frame = [0u8; 60];
        frame[6..12].copy_from_slice(&Mac::of_member(NETWORK, OWN).0);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        group.bench_function(BenchmarkId::from_parameter(peers), |b| {
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    for n in 1..=peers {
                        frame[..6].copy_from_slice(&Mac::of_member(NETWORK, Address::from_u64(n)).0);
                        shard.outbound(NOW, NETWORK, &frame, &mut out);
                    }
                    report.clear();
                    let started = std::time::Instant::now();
                    shard.tick(Now::at_ms(1), &mut report);
                    spent += started.elapsed();
                    assert_eq!(report.activity.len() as u64, peers);
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, cut_and_join, ways, tick);
criterion_main!(benches);
