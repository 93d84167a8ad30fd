//! Both walks, packet by packet: what a shard does itself, what it leaves to the control plane, what it drops and how
//! it counts that.

mod support;

use shard::{Counters, MEMBERS_MAX, NETWORKS_MAX, PEERS_MAX, Route, SocketId, Update};
use support::*;
use wire::fragment::SETS_PER_PATH;
use wire::packet::{HDR_LEN, Packet, Suite, head};
use wire::{Address, Mac, NetworkId, Verb};

const IPV4: u16 = 0x0800;

fn sealed(from: Address, to: Address, verb: u8, payload: &[u8], suite: Suite) -> Vec<u8> {
    let mut packet = head(0x1122334455667788, to, from, verb);
    packet.extend_from_slice(payload);
    keys().seal(&mut packet, suite);
    packet
}

fn frame_payload(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&NETWORK.0.to_be_bytes()[..], &ethertype.to_be_bytes(), payload].concat()
}

fn frame_packet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    sealed(BOB, ALICE, Verb::Frame as u8, &frame_payload(ethertype, payload), Suite::AesGmacSiv)
}

fn alice() -> shard::Shard {
    member(ALICE, BOB, Suite::AesGmacSiv)
}

fn counted(count: impl FnOnce(&mut Counters)) -> Counters {
    let mut counters = Counters::default();
    count(&mut counters);
    counters
}

#[test]
fn a_frame_goes_from_tap_to_tap_in_both_suites() {
    for suite in [Suite::AesGmacSiv, Suite::Salsa2012Poly1305] {
        let (mut a, mut b) = (member(ALICE, BOB, suite), member(BOB, ALICE, suite));
        let sent = frame(ALICE, BOB, IPV4, &[0x45; 1400 - 38]);
        let out = outbound(&mut a, &sent);
        let [(socket, to, datagram)] = &out.datagrams[..] else { panic!("{} datagrams", out.datagrams.len()) };
        assert_eq!((*socket, *to, datagram.len()), (SOCKET, remote(), 1400));
        assert_eq!(Packet::new(&datagram[..]).unwrap().suite(), Some(suite));
        let arrived = inbound(&mut b, datagram);
        assert_eq!(arrived.frames, [(NETWORK, sent)]);
        assert!(arrived.control.is_empty());
        assert_eq!(a.counters(), counted(|c| (c.frames_out, c.datagrams_out) = (1, 1)));
        assert_eq!(b.counters(), counted(|c| c.frames_in = 1));
    }
}

#[test]
fn a_full_frame_leaves_as_two_datagrams_of_equal_size() {
    let (mut a, mut b) = (alice(), member(BOB, ALICE, Suite::AesGmacSiv));
    let sent = frame(ALICE, BOB, IPV4, &[0x45; MTU as usize]);
    let out = outbound(&mut a, &sent);
    let sizes: Vec<_> = out.datagrams.iter().map(|(_, _, d)| d.len()).collect();
    assert_eq!(sizes, [1427, 1427]); // 2838 bytes of packet and one fragment header
    assert!(inbound(&mut b, &out.datagrams[1].2).frames.is_empty());
    assert_eq!(inbound(&mut b, &out.datagrams[0].2).frames, [(NETWORK, sent)]);
    assert_eq!(b.reassembly().completed, 1);
}

#[test]
fn packet_ids_are_odd_half_the_time() {
    for suite in [Suite::AesGmacSiv, Suite::Salsa2012Poly1305] {
        let mut a = member(ALICE, BOB, suite);
        let odd = (0..2000).filter(|_| outbound(&mut a, &frame(ALICE, BOB, IPV4, &[1])).datagrams[0].2[7] & 1 == 1);
        assert!((850..1150).contains(&odd.count()));
    }
}

#[test]
fn an_empty_frame_is_the_control_planes_to_ignore() {
    let out = inbound(&mut alice(), &frame_packet(IPV4, &[]));
    assert!(matches!(out.control[..], [Said::Opened(_)]));
}

#[test]
fn a_packet_opened_for_the_control_plane_is_in_clear() {
    let payload = [7; 20];
    let packet = sealed(BOB, ALICE, Verb::Echo as u8, &payload, Suite::AesGmacSiv);
    let mut a = alice();
    let out = inbound(&mut a, &packet);
    let [Said::Opened(opened)] = &out.control[..] else { panic!("{:?}", out.control) };
    assert_eq!(opened[27..], [&[Verb::Echo as u8][..], &payload].concat());
    assert_eq!(a.counters(), counted(|c| c.control_opened = 1));
}

#[test]
fn frames_that_a_shard_may_not_judge_go_to_the_control_plane_opened() {
    let judge = |shard: &mut shard::Shard, packet: &[u8]| {
        let out = inbound(shard, packet);
        assert!(out.frames.is_empty());
        assert!(matches!(out.control[..], [Said::Opened(_)]), "{:?}", out.control);
    };
    let vlan = frame_packet(0x8100, &[1]);
    judge(&mut alice(), &vlan);

    let mut compressed = head(1, ALICE, BOB, Verb::Frame as u8 | 0x80);
    compressed.extend_from_slice(&frame_payload(IPV4, &[1]));
    keys().seal(&mut compressed, Suite::AesGmacSiv);
    judge(&mut alice(), &compressed);

    let mut filtered = alice();
    filtered.apply(network(ALICE, false));
    judge(&mut filtered, &frame_packet(IPV4, &[1]));

    let mut refused = alice();
    refused.apply(Update::Member { network: NETWORK, address: BOB, allowed: false });
    judge(&mut refused, &frame_packet(IPV4, &[1]));

    let mut left = alice();
    left.apply(Update::NetworkGone(NETWORK));
    judge(&mut left, &frame_packet(IPV4, &[1]));

    let truncated = sealed(BOB, ALICE, Verb::Frame as u8, &NETWORK.0.to_be_bytes(), Suite::AesGmacSiv);
    judge(&mut alice(), &truncated);
    let bridged = sealed(BOB, ALICE, Verb::ExtFrame as u8, &[0; 40], Suite::AesGmacSiv);
    judge(&mut alice(), &bridged);
}

#[test]
fn what_only_the_control_plane_can_open_goes_there_as_it_came() {
    let as_it_came = |shard: &mut shard::Shard, packet: &[u8]| {
        assert_eq!(inbound(shard, packet).control, [Said::Datagram(packet.to_vec())]);
        assert_eq!(shard.counters(), counted(|c| c.control_unopened = 1));
    };
    let hello = sealed(BOB, ALICE, Verb::Hello as u8, &[0; 80], Suite::Poly1305);
    as_it_came(&mut alice(), &hello);
    let unknown = sealed(STRANGER, ALICE, Verb::Frame as u8, &frame_payload(IPV4, &[1]), Suite::AesGmacSiv);
    as_it_came(&mut alice(), &unknown);
    let mut trusted = head(1, ALICE, BOB, Verb::Frame as u8);
    Packet::new(&mut trusted[..]).unwrap().set_trusted_path(42);
    as_it_came(&mut alice(), &trusted);
    let mut gone = alice();
    gone.apply(Update::PeerGone(BOB));
    as_it_came(&mut gone, &frame_packet(IPV4, &[1]));
}

#[test]
fn an_unknown_senders_fragments_reach_the_control_plane_as_one_packet() {
    let mut packet = head(1, ALICE, STRANGER, Verb::UserMessage as u8);
    packet.extend_from_slice(&[9; 2000]);
    Packet::new(&mut packet[..]).unwrap().set_fragmented(true);
    keys().seal(&mut packet, Suite::AesGmacSiv);
    let mut a = alice();
    let parts: Vec<_> = wire::fragment::split(&packet, 1432).unwrap().map(|part| part.to_vec()).collect();
    assert!(inbound(&mut a, &parts[0]).control.is_empty());
    assert_eq!(inbound(&mut a, &parts[1]).control, [Said::Reassembled(packet)]);
}

#[test]
fn a_root_gives_the_control_plane_what_is_for_others_whole_or_in_part() {
    let whole = sealed(ALICE, STRANGER, Verb::Frame as u8, &[1; 30], Suite::AesGmacSiv);
    let mut fragment = vec![0; 40];
    fragment[8..13].copy_from_slice(&STRANGER.to_bytes());
    fragment[13..15].copy_from_slice(&[0xff, 0x21]);
    let mut b = member(BOB, ALICE, Suite::AesGmacSiv);
    b.apply(Update::Relay(true));
    assert_eq!(inbound(&mut b, &whole).control, [Said::Foreign(whole)]);
    assert_eq!(inbound(&mut b, &fragment).control, [Said::Foreign(fragment)]);
    assert_eq!(b.counters(), counted(|c| c.control_foreign = 2));
}

#[test]
fn a_leaf_drops_what_is_for_others() {
    let whole = sealed(ALICE, STRANGER, Verb::Frame as u8, &[1; 30], Suite::AesGmacSiv);
    let mut b = member(BOB, ALICE, Suite::AesGmacSiv);
    assert!(inbound(&mut b, &whole).control.is_empty());
    assert_eq!(b.counters(), counted(|c| c.foreign = 1));
}

#[test]
fn only_measurements_may_come_in_clear() {
    for verb in [Verb::Ack, Verb::QosMeasurement, Verb::PathNegotiationRequest] {
        let out = inbound(&mut alice(), &sealed(BOB, ALICE, verb as u8, &[1; 10], Suite::Poly1305));
        assert!(matches!(out.control[..], [Said::Opened(_)]), "{verb}");
    }
    for verb in [Verb::Frame, Verb::UserMessage, Verb::Echo, Verb::Nop] {
        let mut a = alice();
        let out = inbound(&mut a, &sealed(BOB, ALICE, verb as u8, &[1; 10], Suite::Poly1305));
        assert!(out.control.is_empty() && out.frames.is_empty(), "{verb}");
        assert_eq!(a.counters(), counted(|c| c.clear_verb = 1));
    }
}

#[test]
fn every_flipped_bit_is_a_forgery_but_for_the_hop_count() {
    let packet = frame_packet(IPV4, &[3; 50]);
    let mut a = alice();
    for bit in 18 * 8..packet.len() * 8 {
        let mut forged = packet.clone();
        forged[bit / 8] ^= 0x80 >> (bit % 8);
        let suite_or_flag = bit / 8 == 18;
        if suite_or_flag {
            continue; // another suite, fragmented, or hops: other tests
        }
        let out = inbound(&mut a, &forged);
        assert!(out.frames.is_empty() && out.control.is_empty(), "bit {bit}");
    }
    assert_eq!(a.counters(), counted(|c| c.forged = (packet.len() as u64 - 19) * 8));
    let mut relayed = packet;
    relayed[18] |= 1;
    assert_eq!(inbound(&mut a, &relayed).frames.len(), 1);
}

#[test]
fn junk_is_dropped_and_counted_by_cause() {
    let mut a = alice();
    for len in [0, 4, 13, 16, 17, 27] {
        inbound(&mut a, &vec![0; len]);
    }
    assert_eq!(a.counters(), counted(|c| c.not_a_packet = 6));

    let mut a = alice();
    inbound(&mut a, &sealed(ALICE, ALICE, Verb::Frame as u8, &[1; 20], Suite::AesGmacSiv));
    assert_eq!(a.counters(), counted(|c| c.own_source = 1));

    let mut a = alice();
    let mut undefined = frame_packet(IPV4, &[1]);
    undefined[18] = 5 << 3;
    inbound(&mut a, &undefined);
    assert_eq!(a.counters(), counted(|c| c.undefined_suite = 1));

    let mut a = alice();
    let mut too_long = frame_packet(IPV4, &[1]);
    too_long.resize(10_025, 0);
    inbound(&mut a, &too_long);
    assert_eq!(a.counters(), counted(|c| c.not_a_packet = 1));

    let mut a = alice();
    inbound(&mut a, &frame_packet(IPV4, &[1; MTU as usize + 1]));
    assert_eq!(a.counters(), counted(|c| c.oversized_in = 1));
    assert_eq!(inbound(&mut a, &frame_packet(IPV4, &[1; MTU as usize])).frames.len(), 1);
}

#[test]
fn a_replayed_frame_is_delivered_once_whichever_shard_it_comes_to() {
    let (mut one, mut other) = (alice(), alice());
    // The control plane gives all shards the same keys.
    let Update::Peer { address, keys, suite, route, bonded } = known(BOB, Suite::AesGmacSiv) else { unreachable!() };
    let told = || Update::Peer { address, keys: keys.clone(), suite, route, bonded };
    one.apply(told());
    other.apply(told());
    let packet = frame_packet(IPV4, &[1]);
    assert_eq!(inbound(&mut one, &packet).frames.len(), 1);
    one.apply(told()); // a changed route does not forget
    for shard in [&mut one, &mut other] {
        assert_eq!(inbound(shard, &packet).frames.len(), 0);
    }
    assert_eq!(one.counters(), counted(|c| (c.frames_in, c.duplicate) = (1, 1)));
    assert_eq!(other.counters(), counted(|c| c.duplicate = 1));
}

#[test]
fn frames_that_a_shard_cannot_send_go_to_the_control_plane() {
    let handed_over = |shard: &mut shard::Shard, sent: Vec<u8>| {
        let out = outbound(shard, &sent);
        assert!(out.datagrams.is_empty());
        assert_eq!(out.control, [Said::Frame(NETWORK, sent)]);
        assert_eq!(shard.counters(), counted(|c| c.control_frames = 1));
    };
    let to_bob = || frame(ALICE, BOB, IPV4, &[1; 20]);
    let mut broadcast = to_bob();
    broadcast[..6].fill(0xff);
    handed_over(&mut alice(), broadcast);
    let mut behind_a_bridge = to_bob();
    behind_a_bridge[0] = 0x02;
    handed_over(&mut alice(), behind_a_bridge);
    handed_over(&mut alice(), frame(STRANGER, BOB, IPV4, &[1; 20])); // bridged in
    handed_over(&mut alice(), frame(ALICE, ALICE, IPV4, &[1; 20]));
    handed_over(&mut alice(), frame(ALICE, STRANGER, IPV4, &[1; 20]));
    handed_over(&mut alice(), frame(ALICE, BOB, 0x88cc, &[1; 20]));
    handed_over(&mut new_shard(ALICE, 1), to_bob());

    let mut filtered = alice();
    filtered.apply(network(ALICE, false));
    handed_over(&mut filtered, to_bob());
    let mut refused = alice();
    refused.apply(Update::Member { network: NETWORK, address: BOB, allowed: false });
    handed_over(&mut refused, to_bob());
    let mut unreachable = alice();
    unreachable.apply(Update::Peer {
        address: BOB,
        keys: keys(),
        suite: Suite::AesGmacSiv,
        route: None,
        bonded: false,
    });
    handed_over(&mut unreachable, to_bob());
    handed_over(&mut member(ALICE, BOB, Suite::TrustedPath), to_bob());
    handed_over(&mut member(ALICE, BOB, Suite::Poly1305), to_bob());
}

#[test]
fn frames_that_nobody_can_send_are_dropped_and_counted() {
    let mut a = alice();
    for len in 0..=14 {
        outbound(&mut a, &frame(ALICE, BOB, IPV4, &[])[..len]);
    }
    assert_eq!(a.counters(), counted(|c| c.runt_out = 15));

    let mut a = alice();
    outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; MTU as usize + 1]));
    assert_eq!(a.counters(), counted(|c| c.oversized_out = 1));

    let mut a = alice();
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: 300 });
    a.apply(Update::Peer { address: BOB, keys: keys(), suite: Suite::AesGmacSiv, route, bonded: false });
    outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; MTU as usize]));
    assert_eq!(a.counters(), counted(|c| c.unsplittable = 1));

    let mut a = alice();
    a.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, ALICE), mtu: 10_000, fast: true });
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: 2000 });
    a.apply(Update::Peer { address: BOB, keys: keys(), suite: Suite::AesGmacSiv, route, bonded: false });
    outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; 9987])); // 10025 bytes of packet
    assert_eq!(a.counters(), counted(|c| c.unsplittable = 1));
    assert_eq!(outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; 9986])).datagrams.len(), 6);
}

#[test]
fn without_a_send_buffer_the_rest_of_the_packet_is_dropped_and_counted() {
    for (room, left) in [(0, 0), (1, 1)] {
        let mut a = alice();
        let mut out = Outside { room: Some(room), ..Outside::default() };
        a.outbound(NOW, NETWORK, &frame(ALICE, BOB, IPV4, &[0; 2800]), &mut out);
        assert_eq!(out.datagrams.len(), left);
        assert_eq!(a.counters().no_buffer, 2 - left as u64);
        assert_eq!(a.counters().datagrams_out, left as u64);
    }
}

#[test]
fn activity_says_what_went_over_which_path_and_only_once() {
    let mut a = alice();
    outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; 62]));
    inbound(&mut a, &frame_packet(IPV4, &[0; 12]));
    let mut report = shard::Report::default();
    a.tick(NOW, &mut report);
    let [line] = &report.activity[..] else { panic!("{report:?}") };
    assert_eq!((line.peer, line.socket, line.remote, line.hops0), (BOB, SOCKET, remote(), true));
    assert_eq!((line.tx_packets, line.tx_bytes, line.rx_packets, line.rx_bytes), (1, 100, 1, 50));
    report.clear();
    a.tick(NOW, &mut report);
    assert!(report.is_empty());
}

#[test]
fn a_frame_over_an_unknown_path_is_delivered_and_the_path_reported() {
    let mut a = alice();
    let mut out = Outside::default();
    let elsewhere = "[2001:db8::1]:4242".parse().unwrap();
    a.inbound(NOW, SocketId(9), elsewhere, &mut frame_packet(IPV4, &[1]), &mut out);
    assert_eq!(out.frames.len(), 1);
    let mut report = shard::Report::default();
    a.tick(NOW, &mut report);
    assert_eq!(
        (report.activity[0].socket, report.activity[0].remote, report.activity[0].hops0),
        (SocketId(9), elsewhere, true)
    );
}

#[test]
fn paths_beyond_the_ledger_are_served_and_counted() {
    let mut a = alice();
    for port in 0..=shard::ACTIVITY_PATHS_MAX as u16 {
        let mut packet = head(u64::from(port), ALICE, BOB, Verb::Frame as u8);
        packet.extend_from_slice(&frame_payload(IPV4, &[1]));
        keys().seal(&mut packet, Suite::AesGmacSiv);
        let mut out = Outside::default();
        a.inbound(NOW, SOCKET, ([192, 0, 2, 2], port).into(), &mut packet, &mut out);
        assert_eq!(out.frames.len(), 1);
    }
    assert_eq!(a.counters().activity_full, 1);
}

#[test]
fn of_a_peer_that_bonds_odd_packets_that_came_directly_are_told_and_of_others_none() {
    let (mut bonded, mut other) = (alice(), alice());
    bonded.apply(support::bonded(BOB, Suite::AesGmacSiv));
    let later = NOW.after(std::time::Duration::from_millis(30));
    let (mut expected, mut told) = (Vec::new(), shard::Report::default());
    for n in 0..40 {
        let mut packet = frame_packet(IPV4, &[n]);
        if n % 4 == 0 {
            packet[18] |= 1; // relayed
        }
        let (id, mut again) = (u64::from_be_bytes(packet[..8].try_into().unwrap()), packet.clone());
        if id % 2 == 1 && n % 4 != 0 {
            expected.push((BOB, SOCKET, remote(), id, 30_000));
        }
        inbound(&mut other, &packet.clone());
        inbound(&mut bonded, &packet);
        bonded.inbound(later, SocketId(9), remote(), &mut again, &mut Outside::default()); // a replay tells nothing
    }
    bonded.tick(later, &mut told);
    let seen: Vec<_> = told.arrivals.iter().map(|a| (a.peer, a.socket, a.remote, a.packet_id, a.age_us)).collect();
    assert!(expected.len() > 3 && expected.len() <= shard::ARRIVALS_MAX);
    assert_eq!(seen, expected);
    told.clear();
    bonded.tick(later, &mut told);
    other.tick(later, &mut told);
    assert!(told.arrivals.is_empty() && !told.activity.is_empty());
}

#[test]
fn a_tick_drops_packets_that_stayed_incomplete() {
    let (mut a, mut b) = (alice(), member(BOB, ALICE, Suite::AesGmacSiv));
    let out = outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0; 2800]));
    inbound(&mut b, &out.datagrams[0].2);
    b.tick(NOW.after(std::time::Duration::from_millis(499)), &mut shard::Report::default());
    assert_eq!(b.reassembly().expired, 0);
    b.tick(NOW.after(std::time::Duration::from_millis(500)), &mut shard::Report::default());
    assert_eq!(b.reassembly().expired, 1);
}

#[test]
fn a_source_of_incomplete_packets_evicts_only_its_own() {
    let (mut a, mut b) = (alice(), member(BOB, ALICE, Suite::AesGmacSiv));
    let sent = frame(ALICE, BOB, IPV4, &[0; 2800]);
    let out = outbound(&mut a, &sent);
    inbound(&mut b, &out.datagrams[0].2);
    for id in 0..100u64 {
        let mut junk = out.datagrams[0].2.clone();
        junk[..8].copy_from_slice(&id.to_be_bytes());
        b.inbound(NOW, SOCKET, ([198, 51, 100, 1], 1).into(), &mut junk, &mut Outside::default());
    }
    assert_eq!(b.reassembly().evicted, 100 - SETS_PER_PATH as u64);
    assert_eq!(inbound(&mut b, &out.datagrams[1].2).frames, [(NETWORK, sent)]);
}

#[test]
fn a_full_table_of_peers_refuses_new_ones_and_keeps_the_old() {
    let mut a = alice();
    let keys = keys();
    let peer = |n: usize| Update::Peer {
        address: Address::from_u64(n as u64),
        keys: keys.clone(),
        suite: Suite::AesGmacSiv,
        route: None,
        bonded: false,
    };
    for n in 1..=PEERS_MAX {
        a.apply(peer(n));
    }
    assert_eq!(a.counters().peers_full, 1);
    assert_eq!(inbound(&mut a, &frame_packet(IPV4, &[1])).frames.len(), 1);
    a.apply(known(BOB, Suite::AesGmacSiv));
    assert_eq!(a.counters().peers_full, 1, "a change is not a new peer");
}

#[test]
fn a_full_table_of_networks_or_members_refuses_new_ones() {
    let mut a = alice();
    for n in 1..=NETWORKS_MAX as u64 {
        a.apply(Update::Network { id: NetworkId(n), mac: Mac::default(), mtu: MTU, fast: true });
    }
    assert_eq!(a.counters().networks_full, 1);
    for n in 1..=MEMBERS_MAX as u64 {
        a.apply(Update::Member { network: NETWORK, address: Address::from_u64(n), allowed: true });
    }
    assert_eq!(a.counters().members_full, 1);
    a.apply(Update::Member { network: NETWORK, address: BOB, allowed: true });
    assert_eq!(a.counters().members_full, 1, "a member already");
    let unknown = NetworkId(u64::MAX);
    a.apply(Update::Member { network: unknown, address: BOB, allowed: true });
    assert_eq!(a.counters().members_full, 2);
    a.apply(Update::Member { network: unknown, address: BOB, allowed: false });
    assert_eq!(a.counters().members_full, 2);
}

#[test]
fn a_sealed_packet_has_the_contracted_header() {
    let mut a = member(ALICE, BOB, Suite::Salsa2012Poly1305);
    let out = outbound(&mut a, &frame(ALICE, BOB, IPV4, &[0xab; 3]));
    let mut packet = out.datagrams[0].2.clone();
    assert_eq!(hex::encode(&packet[8..19]), "92514cdce8fcac9e2c1f88");
    assert_eq!(packet.len(), HDR_LEN + 10 + 3);
    keys().open(&mut packet).unwrap();
    assert_eq!(hex::encode(&packet[27..]), "0601ec4f9b420000420800ababab");
}
