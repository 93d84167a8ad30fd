//! What a packet costs besides its cipher: reading its header, splitting it, putting it together, knowing it again.
//! `cargo bench -p wire --bench packet`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wire::flow::flow_id;
use wire::fragment::{Reassembler, split_even};
use wire::message::Frame;
use wire::packet::{DEFAULT_PHYS_MTU, Datagram, HDR_LEN, Packet, classify, header};
use wire::recent::RecentIds;
use wire::{Address, NetworkId, Now};

/// A FRAME packet around `payload` bytes of IP.
fn packet(payload: usize) -> Vec<u8> {
    let mut packet = header(0x0123_4567_89ab_cdef, Address::from_u64(1), Address::from_u64(2), 6).to_vec();
    packet.extend_from_slice(&Frame::header(NetworkId(0x01ec4f9b42000042), 0x0800));
    packet.resize(packet.len() + payload, 0xa5);
    packet
}

fn parse(c: &mut Criterion) {
    let packet = packet(1400);
    c.bench_function("parse/header and frame", |b| {
        b.iter(|| {
            let datagram = black_box(&packet[..]);
            if classify(datagram) != Datagram::Head {
                return None;
            }
            let view = Packet::new(datagram).ok()?;
            let frame = Frame::parse(view.payload()).ok()?;
            Some((view.source(), view.destination(), view.suite(), view.hops(), frame.network, frame.payload.len()))
        });
    });
    c.bench_function("header/write", |b| {
        b.iter(|| black_box(header(black_box(7), Address::from_u64(1), Address::from_u64(2), 6)));
    });
}

fn flows(c: &mut Criterion) {
    // IPv4 and TCP headers; IPv6, routing header, UDP header
    let mut v4 = [0u8; 60];
    (v4[0], v4[9], v4[20], v4[22]) = (0x45, 6, 0x14, 0xce);
    let mut v6 = [0u8; 80];
    (v6[0], v6[6], v6[40], v6[48]) = (0x60, 43, 17, 0x14);
    c.bench_function("flow id/IPv4 TCP", |b| b.iter(|| flow_id(0x0800, black_box(&v4))));
    c.bench_function("flow id/IPv6 UDP behind a routing header", |b| b.iter(|| flow_id(0x86dd, black_box(&v6))));
}

fn fragments(c: &mut Criterion) {
    let mut whole = packet(1500);
    if let Ok(mut packet) = Packet::new(&mut whole[..]) {
        packet.set_fragmented(true);
    }
    c.bench_function("split/1539 bytes in two", |b| {
        let mut datagrams = [[0u8; DEFAULT_PHYS_MTU]; 2];
        b.iter(|| {
            for (part, datagram) in
                split_even(black_box(&whole), DEFAULT_PHYS_MTU).into_iter().flatten().zip(&mut datagrams)
            {
                let (header, data) = datagram[..part.len()].split_at_mut(part.header().len());
                header.copy_from_slice(part.header());
                data.copy_from_slice(part.data());
            }
            black_box(&datagrams);
        });
    });
    let parts: Vec<Vec<u8>> =
        split_even(&whole, DEFAULT_PHYS_MTU).into_iter().flatten().map(|part| part.to_vec()).collect();
    assert_eq!(parts.len(), 2);
    let mut reassembler = Reassembler::new(7);
    c.bench_function("reassemble/1539 bytes of two", |b| {
        b.iter(|| {
            assert!(reassembler.head(Now::at_ms(1), 0u8, black_box(&parts[0])).is_none());
            let whole = reassembler.fragment(Now::at_ms(1), 0, black_box(&parts[1])).expect("both parts are there");
            reassembler.recycle(black_box(whole));
        });
    });
}

fn duplicates(c: &mut Criterion) {
    let recent = RecentIds::new();
    let mut id = 0u64;
    c.bench_function("recent/a new packet ID", |b| {
        b.iter(|| {
            id = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
            recent.insert(black_box(id))
        });
    });
    assert_eq!(packet(0).len(), HDR_LEN + Frame::HEADER_LEN);
}

criterion_group!(benches, parse, flows, fragments, duplicates);
criterion_main!(benches);
