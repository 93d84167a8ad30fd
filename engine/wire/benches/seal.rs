//! What protecting one packet costs, by suite and payload length. `cargo bench -p wire --bench seal`

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wire::packet::{HDR_LEN, header};
use wire::{Address, Keys, SharedKey, Suite};

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

fn seal(c: &mut Criterion) {
    let keys = Keys::new(SharedKey::from_bytes([7; 48]));
    let mut group = c.benchmark_group("seal");
    for (suite, name) in SUITES {
        for len in PAYLOADS {
            let mut packet = plain(len);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| b.iter(|| keys.seal(black_box(&mut packet), suite)));
        }
    }
    group.finish();

    let mut group = c.benchmark_group("seal while copying");
    for (suite, name) in SUITES {
        for len in PAYLOADS {
            let (mut packet, payload) = (plain(len), vec![0xa5; len - 11]);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| keys.seal_copy(black_box(&mut packet), HDR_LEN + 11, black_box(&payload), suite));
            });
        }
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let keys = Keys::new(SharedKey::from_bytes([7; 48]));
    let mut group = c.benchmark_group("open");
    for (suite, name) in SUITES {
        for len in PAYLOADS {
            let mut sealed = plain(len);
            keys.seal(&mut sealed, suite);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter_batched_ref(|| sealed.clone(), |packet| keys.open(packet), BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

fn key_set_up(c: &mut Criterion) {
    c.bench_function("key set-up", |b| b.iter(|| Keys::new(SharedKey::from_bytes(black_box([7; 48])))));
}

criterion_group!(benches, seal, open, key_set_up);
criterion_main!(benches);
