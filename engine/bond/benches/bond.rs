//! What a bond costs: the tick of a thousand of them, and a packet's choice.

use std::hint::black_box;
use std::sync::Arc;

use bond::config::{Family, Mode, Params, Policy};
use bond::model::PathModel;
use bond::striper::{Out, Striper};
use bond::{Action, Bond, NewPath, Observed, PathId, Selector};
use criterion::{Criterion, criterion_group, criterion_main};
use wire::Now;

fn at(us: u64) -> Now {
    Now { mono_us: us, unix_ms: us / 1000 }
}

/// A bond over four links that have answered.
fn bonded(policy: Policy, secret: u64) -> (Bond, Vec<PathId>) {
    let mut bond = Bond::new(at(1), Arc::new(Params::standard(policy, Mode::Better)), true, false, secret);
    let mut ids = Vec::new();
    for (i, link) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let new = NewPath { link, family: Family::V4, key: i as u64, remote_port: 9993 };
        let id = bond.learn(at(1), new).expect("a path that is allowed");
        bond.requested(at(2), id, i as u64, true);
        bond.acked(at(10_000 + i as u64), id, i as u64);
        ids.push(id);
    }
    (bond, ids)
}

fn tick(c: &mut Criterion) {
    // Every path carries traffic: one request and its answer per tick, and what the shards saw.
    let mut bonds: Vec<(Bond, Vec<PathId>)> = (0..1000).map(|n| bonded(Policy::BalanceAware, n)).collect();
    let (mut us, mut packet) = (1_000_000, 1000);
    let mut actions: Vec<Action> = Vec::new();
    c.bench_function("tick of 1000 peers x 4 busy paths", |b| {
        b.iter(|| {
            us += 10_000;
            for (bond, ids) in &mut bonds {
                for id in ids {
                    packet += 1;
                    bond.requested(at(us), *id, packet, false);
                    bond.acked(at(us), *id, packet);
                    bond.observe(*id, Observed { rate: Some(1e6), load: 5e5, inbound: 1, outbound: 1 });
                }
                bond.tick(at(us), &mut actions);
            }
            black_box(actions.len());
            actions.clear();
        });
    });
}

fn select(c: &mut Criterion) {
    for policy in [Policy::ActiveBackup, Policy::BalanceXor, Policy::BalanceAware, Policy::BalanceRr] {
        let (bond, _) = bonded(policy, 7);
        let mut shard = Selector::new(bond.plan().clone(), 4096);
        let (mut n, mut us) = (0u64, 2_000_000);
        c.bench_function(&format!("select, {policy}, 1000 flows"), |b| {
            b.iter(|| {
                n += 1;
                us += u64::from(n.is_multiple_of(64));
                black_box(shard.select((n % 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15), 1400, us))
            });
        });
        c.bench_function(&format!("select, {policy}, each flow new"), |b| {
            b.iter(|| {
                n += 1;
                us += u64::from(n.is_multiple_of(64));
                black_box(shard.select(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1400, us))
            });
        });
    }
}

fn stripe(c: &mut Criterion) {
    let model = || PathModel::new(0, Some(20_000_000), None);
    let mut striper: Striper<u32> = Striper::new(0, [model(), model()]);
    let mut now = 0u64;
    c.bench_function("striper, a packet in and out over two paths", |b| {
        b.iter(|| {
            now += 100_000;
            let _ = striper.offer(now, 1, 1, 1400);
            while let Some(out) = striper.poll(now) {
                if let Out::Send { path, request: Some(request), .. } = out {
                    striper.acked(now + 20_000_000, path, request);
                }
            }
        });
    });
}

criterion_group!(benches, tick, select, stripe);
criterion_main!(benches);
