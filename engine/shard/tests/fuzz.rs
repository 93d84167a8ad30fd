//! Whatever comes from outside: an answer or a drop, never a panic, and nothing delivered that no member sealed.

mod support;

use bolero::check;
use proptest::prelude::*;
use shard::Shard;
use support::*;
use wire::packet::{Packet, Suite, head};

/// A datagram as an attacker could send it: any bytes, but with our address where it makes a shard look closer.
fn aimed(mut bytes: Vec<u8>, aim: u8) -> Vec<u8> {
    if aim & 1 != 0 && bytes.len() >= 13 {
        bytes[8..13].copy_from_slice(&ALICE.to_bytes());
    }
    if aim & 2 != 0 && bytes.len() >= 18 {
        bytes[13..18].copy_from_slice(&BOB.to_bytes());
    }
    if aim & 4 != 0 && bytes.len() >= 14 {
        bytes[13] = 0xff;
    }
    bytes
}

fn nothing_is_believed(shard: &mut Shard, datagrams: &[(Vec<u8>, u8)]) {
    for (bytes, aim) in datagrams {
        let out = inbound(shard, &aimed(bytes.clone(), *aim));
        assert!(out.frames.is_empty());
        assert!(out.datagrams.is_empty());
        assert!(!out.control.iter().any(|said| matches!(said, Said::Opened(_))));
    }
}

#[test]
fn fuzz_inbound_datagrams() {
    check!().with_type::<Vec<(Vec<u8>, u8)>>().for_each(|datagrams| {
        nothing_is_believed(&mut member(ALICE, BOB, Suite::AesGmacSiv), datagrams);
    });
}

#[test]
fn fuzz_what_a_malicious_member_seals() {
    check!().with_type::<(u64, u8, bool, Vec<u8>)>().for_each(|(id, verb, fragmented, payload)| {
        let mut packet = head(*id, ALICE, BOB, *verb);
        packet.extend_from_slice(payload);
        Packet::new(&mut packet[..]).unwrap().set_fragmented(*fragmented);
        keys().seal(&mut packet, Suite::AesGmacSiv);
        let out = inbound(&mut member(ALICE, BOB, Suite::AesGmacSiv), &packet);
        assert!(out.frames.len() + out.control.len() <= 1);
    });
}

#[test]
fn fuzz_outbound_frames() {
    check!().with_type::<Vec<u8>>().for_each(|bytes| {
        let mut shard = member(ALICE, BOB, Suite::AesGmacSiv);
        outbound(&mut shard, bytes);
        let addressed = [&frame(ALICE, BOB, 0x0800, &[])[..], bytes].concat();
        outbound(&mut shard, &addressed);
    });
}

proptest! {
    #[test]
    fn any_frame_of_any_size_arrives_whole_in_any_order(
        payload in prop::collection::vec(any::<u8>(), 1..2801),
        path_mtu in 430u16..1500,
        suite in prop_oneof![Just(Suite::AesGmacSiv), Just(Suite::Salsa2012Poly1305)],
        order in any::<prop::sample::Index>(),
    ) {
        let mut a = member(ALICE, BOB, suite);
        let mut b = member(BOB, ALICE, suite);
        let route = Some(shard::Route { socket: SOCKET, remote: remote(), mtu: path_mtu });
        a.apply(shard::Update::Peer { address: BOB, keys: keys(), suite, route, bonded: false });
        let sent = frame(ALICE, BOB, 0x86dd, &payload);
        let mut datagrams = outbound(&mut a, &sent).datagrams;
        prop_assert!(datagrams.iter().all(|(_, _, d)| d.len() <= usize::from(path_mtu)));
        let first = order.index(datagrams.len());
        datagrams.rotate_left(first);
        let arrived: Vec<_> = datagrams.iter().flat_map(|(_, _, d)| inbound(&mut b, d).frames).collect();
        prop_assert_eq!(arrived, [(NETWORK, sent)]);
    }

    #[test]
    fn no_stream_of_aimed_datagrams_is_believed(
        datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<u8>()), 0..40),
    ) {
        nothing_is_believed(&mut member(ALICE, BOB, Suite::AesGmacSiv), &datagrams);
    }
}
