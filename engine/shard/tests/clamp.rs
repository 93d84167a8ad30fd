//! The MSS of TCP connections on its way through a shard: whichever way a SYN goes, whatever the kernel left open.

mod support;

use shard::{MSS_MIN, Offload, Partial, Route, Shard, Update};
use support::*;
use wire::packet::Suite;
use wire::{Address, Mac};

const IPV4: u16 = 0x0800;
/// Largest that fits one datagram of 1432 bytes: less 28 of the packet's head, 10 of FRAME, 20 of IP, 20 of TCP.
const FITTING: u16 = 1354;
/// TCP's checksum, bytes from the Ethernet header.
const CHECKSUM: usize = 14 + 20 + 16;

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0xffff) as u16
}

fn pseudo_header(tcp_len: usize) -> Vec<u8> {
    [&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6][..], &(tcp_len as u16).to_be_bytes()].concat()
}

/// A SYN that announces `mss` behind one byte of padding, so that it lies across two words.
fn syn(from: Mac, to: Mac, mss: u16) -> Vec<u8> {
    let ip = [0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let [m0, m1] = mss.to_be_bytes();
    let mut tcp =
        vec![0x12, 0x34, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x70, 2, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 4, m0, m1, 1, 1, 0];
    let checksum = !sum(&[&pseudo_header(tcp.len())[..], &tcp].concat());
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    [&to.0[..], &from.0, &IPV4.to_be_bytes(), &ip, &tcp].concat()
}

fn announced(frame: &[u8]) -> u16 {
    let tcp = &frame[14 + 20..];
    assert_eq!(sum(&[&pseudo_header(tcp.len())[..], tcp].concat()), 0, "the checksum is right");
    u16::from_be_bytes([tcp[23], tcp[24]])
}

fn mac(of: Address) -> Mac {
    Mac::of_member(NETWORK, of)
}

fn clamping(own: Address, peer: Address) -> Shard {
    let mut shard = member(own, peer, Suite::AesGmacSiv);
    shard.apply(Update::ClampMss(true));
    shard
}

#[test]
fn a_syn_announces_less_on_its_way_out_even_if_its_checksum_is_still_open() {
    let mut frame = syn(mac(ALICE), mac(BOB), 1460);
    let open = sum(&pseudo_header(28)).to_be_bytes();
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&open);
    let offload = Offload { checksum: Some(Partial { start: 34, offset: 16 }), ..Offload::default() };
    let (mut a, mut out) = (clamping(ALICE, BOB), Outside::default());
    a.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut frame, &mut out);
    assert_eq!(a.counters().mss_clamped, 1);
    let mut b = member(BOB, ALICE, Suite::AesGmacSiv);
    assert_eq!(announced(&inbound(&mut b, &out.datagrams[0].2).frames[0].1), FITTING);
}

#[test]
fn a_syn_announces_less_on_its_way_in() {
    let sent = outbound(&mut member(ALICE, BOB, Suite::AesGmacSiv), &syn(mac(ALICE), mac(BOB), 1460));
    let mut b = clamping(BOB, ALICE);
    assert_eq!(announced(&inbound(&mut b, &sent.datagrams[0].2).frames[0].1), FITTING);
    assert_eq!(b.counters().mss_clamped, 1);
}

#[test]
fn what_fits_already_and_what_nobody_wants_clamped_stays() {
    for (clamp, mss) in [(true, FITTING), (true, 100), (false, 1460)] {
        let mut shard = member(ALICE, BOB, Suite::AesGmacSiv);
        shard.apply(Update::ClampMss(clamp));
        let mut frame = syn(mac(ALICE), mac(BOB), mss);
        let before = frame.clone();
        shard.clamp_from_tap(NETWORK, &mut frame);
        shard.clamp_to_tap(NETWORK, &mut frame);
        assert_eq!(frame, before);
        assert_eq!(shard.counters().mss_clamped, 0);
    }
}

#[test]
fn the_datagrams_of_the_members_route_decide_and_a_bridged_frame_has_a_longer_head() {
    let mut a = clamping(ALICE, BOB);
    let clamped = |a: &mut Shard, from, to| {
        let mut frame = syn(from, to, 9000);
        a.clamp_from_tap(NETWORK, &mut frame);
        announced(&frame)
    };
    assert_eq!(clamped(&mut a, mac(ALICE), mac(STRANGER)), FITTING, "without a route the usual datagram");
    let host = Mac([2, 0, 0, 0, 0, 1]);
    assert_eq!(clamped(&mut a, mac(ALICE), host), FITTING - 13);
    assert_eq!(clamped(&mut a, host, mac(BOB)), FITTING - 13);
    for (mtu, mss) in [(8972, 8894), (1280, 1202), (100, MSS_MIN)] {
        let route = Some(Route { socket: SOCKET, remote: remote(), mtu });
        a.apply(Update::Peer { address: BOB, keys: keys(), suite: Suite::AesGmacSiv, route, bonded: false });
        assert_eq!(clamped(&mut a, mac(ALICE), mac(BOB)), mss);
    }
}
