//! What protecting one packet costs, by suite, instructions and payload length. `cargo bench -p wire --bench seal`

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::packet::{HDR_LEN, header};
use wire::{Address, Backend, Keys, SharedKey, Suite};

const SUITES: [(Suite, &str); 3] = [
    (Suite::Poly1305, "0 poly1305"),
    (Suite::Salsa2012Poly1305, "1 salsa2012-poly1305"),
    (Suite::AesGmacSiv, "3 aes-gmac-siv"),
];
const PAYLOADS: [usize; 4] = [64, 512, 1400, 2800];

fn plain(payload: usize) -> Vec<u8> {
    let mut packet = header(0x0123_4567_89ab_cdef, Address::from_u64(1), Address::from_u64(2), 6).to_vec();
    packet.resize(HDR_LEN + payload, 0xa5);
    packet
}

fn keys(backend: Backend) -> Keys {
    Keys::with_backend(SharedKey::from_bytes([7; 48]), backend)
}

/// Every suite on every backend at every length; the backends of one length run one after the other.
fn each_case(mut run: impl FnMut(BenchmarkId, Suite, Keys, usize)) {
    for (suite, name) in SUITES {
        for len in PAYLOADS {
            for backend in Backend::available() {
                run(BenchmarkId::new(format!("{name} {backend:?}"), len), suite, keys(backend), len);
            }
        }
    }
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    each_case(|id, suite, keys, len| {
        let mut packet = plain(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(id, |b| b.iter(|| keys.seal(black_box(&mut packet), suite)));
    });
    group.finish();

    let mut group = c.benchmark_group("seal while copying");
    each_case(|id, suite, keys, len| {
        let (mut packet, payload) = (plain(len), vec![0xa5; len - 11]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(id, |b| {
            b.iter(|| keys.seal_copy(black_box(&mut packet), HDR_LEN + 11, black_box(&payload), suite));
        });
    });
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    each_case(|id, suite, keys, len| {
        let mut sealed = plain(len);
        keys.seal(&mut sealed, suite);
        let mut ring = [const { Vec::new() }; 16].map(|_: Vec<u8>| sealed.clone());
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(id, |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds.div_ceil(ring.len() as u64) {
                    // not timed: an opened packet cannot be opened again
                    ring.iter_mut().for_each(|packet| packet.copy_from_slice(black_box(&sealed)));
                    let start = Instant::now();
                    for packet in &mut ring {
                        let _ = black_box(keys.open(black_box(packet)));
                    }
                    spent += start.elapsed();
                }
                spent.mul_f64(rounds as f64 / rounds.next_multiple_of(ring.len() as u64) as f64)
            });
        });
    });
    group.finish();
}

fn key_set_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("key set-up");
    for backend in Backend::available() {
        group.bench_function(format!("{backend:?}"), |b| b.iter(|| keys(black_box(backend))));
    }
    group.finish();
}

criterion_group!(benches, seal, open, key_set_up);
criterion_main!(benches);
