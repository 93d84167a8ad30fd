//! What a node's bonds cost it: a second of life of many bonds of four paths each, probes, answers and all, as the time that
//! calling the node takes. `cargo bench -p node --bench bonds`; 50 ms are 5 % of a core.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bond::config::{Bonding, Settings as Written};
use bond::{PathId, Seen};
use common::{Bench, addr};
use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use node::Settings;
use wire::Address;

const SOCKETS: [u64; 4] = [5, 6, 7, 8];
/// Shards speak this often while there is news. ms
const NEWS_MS: u64 = 5;

type All = Vec<(Address, Vec<PathId>)>;

/// A node that bonds with whomever it meets.
fn alone() -> Bench {
    let (mut b, _) = Bench::leaf();
    b.sockets(&[8]);
    b.join_open();
    let written = Written { default: "balance-aware".into(), ..Written::default() };
    b.node.set_settings(b.now, Settings { bonding: Arc::new(Bonding::read(&written).0), ..Settings::default() });
    b
}

/// Where the peer of this number is met.
fn ends(n: u64) -> [(u64, String); 4] {
    SOCKETS.map(|socket| (socket, format!("44.{}.{}.{}:9993", 10 + socket, n / 250, 1 + n % 250)))
}

/// It meets more peers, each over four links, until there are so many.
fn meet(b: &mut Bench, all: &mut All, peers: u64) {
    for n in all.len() as u64..peers {
        let peer = b.actor(100 + n);
        let ends = ends(n);
        for (socket, remote) in &ends {
            b.befriend(peer, *socket, remote);
            b.answer(peer, remote, 10);
            // New identities are taken in 20 times a second.
            b.advance(15);
        }
        let pairs = ends.iter().map(|(socket, remote)| (*socket, addr(remote))).collect();
        b.actors.get_mut(&peer).unwrap().pairs = Some(pairs);
        b.receive_frame(peer, SOCKETS[0], &ends[0].1, 0);
        b.take();
        b.others.clear();
        all.push((peer, Vec::new()));
    }
    // A node asks one peer to prove itself four times a second only, so some are asked again; and who is silent for long is
    // not bonded with any more.
    let known = |b: &Bench, peer| b.node.bond(peer).map_or(vec![], |bond| bond.paths().iter().map(|p| p.id).collect());
    for round in 0..40 {
        for (n, (peer, ids)) in (0..).zip(all.iter_mut()) {
            *ids = known(b, *peer);
            let (socket, remote) = &ends(n)[round % SOCKETS.len()];
            if ids.len() < SOCKETS.len() {
                b.befriend(*peer, *socket, remote);
                b.advance(300);
            }
            b.receive_frame(*peer, *socket, remote, 0);
        }
        idle(b);
        if round > 16 && all.iter().all(|(peer, _)| known(b, *peer).len() == SOCKETS.len()) {
            break;
        }
    }
    all.iter_mut().for_each(|(peer, ids)| *ids = known(b, *peer));
    let found: usize = all.iter().map(|(_, ids)| ids.len()).sum();
    assert_eq!(found, all.len() * SOCKETS.len(), "every path was found");
}

/// A second in which nothing is to be said.
fn idle(b: &mut Bench) -> Duration {
    b.spent = Duration::ZERO;
    b.advance(1000);
    b.take();
    b.others.clear();
    b.spent
}

/// A second in which shards carry data of every peer over every path, and have some of it acknowledged.
fn busy(b: &mut Bench, all: &All, packet: &mut u64) -> Duration {
    b.spent = Duration::ZERO;
    let mut seen = Vec::new();
    for _ in 0..1000 / NEWS_MS {
        b.advance(NEWS_MS);
        seen.clear();
        let us = b.now.mono_us;
        for (peer, ids) in all {
            for &path in ids {
                *packet += 1;
                seen.push((*peer, Seen::Requested { path, packet_id: *packet, at_us: us - 4000 }));
                seen.push((*peer, Seen::Acked { path, packet_id: *packet, at_us: us }));
                seen.push((*peer, Seen::Sent { path, packets: 5, bytes: 7000 }));
            }
        }
        let start = Instant::now();
        b.node.handle_bonds(b.now, 0, &seen);
        b.spent += start.elapsed();
        b.take();
        b.others.clear();
    }
    b.spent
}

fn bonds(c: &mut Criterion) {
    let mut group = c.benchmark_group("bonds of four paths, a second");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_millis(10));
    let (mut b, mut all, mut packet) = (alone(), All::new(), 1 << 40);
    for peers in [250, 500, 1000] {
        meet(&mut b, &mut all, peers);
        group.bench_function(BenchmarkId::new("idle", peers), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| idle(&mut b)).sum());
        });
        group.bench_function(BenchmarkId::new("busy", peers), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| busy(&mut b, &all, &mut packet)).sum());
        });
        assert_eq!(b.node.bonds().count() as u64, peers, "all are still there");
    }
    group.finish();
}

criterion_group!(benches, bonds);
criterion_main!(benches);
