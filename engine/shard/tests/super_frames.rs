//! Super-frames both ways, against a naive segmenter that builds every frame from scratch: what is cut is what a host
//! would have sent, what is joined can be cut again into exactly what came, and no frame of a flow overtakes another.

mod support;

use bolero::check;
use proptest::prelude::*;
use shard::{Gso, Offload, Partial, Shard, UnknownOffload, Update};
use support::*;
use wire::packet::Suite;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;
const ALL: [Gso; 3] = [Gso::Tcp4, Gso::Tcp6, Gso::Udp];

/// What the frames of one flow have in common.
#[derive(Clone, Debug)]
struct Flow {
    v6: bool,
    udp: bool,
    host: u8,
    port: u16,
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    ack: u32,
    window: u16,
    /// TCP options, a multiple of four bytes.
    options: Vec<u8>,
}

/// What differs from frame to frame.
#[derive(Clone, Debug)]
struct Piece {
    id: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
}

fn naive_sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0xffff)
}

fn checksum(parts: &[&[u8]], udp: bool) -> [u8; 2] {
    let sum = parts.iter().map(|part| naive_sum(part)).sum::<u32>() % 0xffff;
    let checksum = if sum == 0 { 0 } else { 0xffff - sum as u16 };
    (if udp && checksum == 0 { 0xffff } else { checksum }).to_be_bytes()
}

impl Flow {
    fn kind(&self) -> Gso {
        match (self.udp, self.v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        }
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        [&self.addresses()[..], &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            [[0xfd, self.host].as_slice(), &[1; 14], &[0xfd, 0], &[2; 14]].concat()
        } else {
            vec![10, 0, 1, self.host, 10, 0, 2, 9]
        }
    }

    fn transport(&self, piece: &Piece) -> Vec<u8> {
        let (from, to) = (self.port.to_be_bytes(), 443u16.to_be_bytes());
        let header = if self.udp {
            [&from[..], &to, &(8 + piece.payload.len() as u16).to_be_bytes(), &[0, 0]].concat()
        } else {
            let offset = (5 + self.options.len() as u8 / 4) << 4;
            let (sequence, ack) = (piece.sequence.to_be_bytes(), self.ack.to_be_bytes());
            let start = [&from[..], &to, &sequence, &ack, &[offset, piece.flags]].concat();
            [&start[..], &self.window.to_be_bytes(), &[0; 4], &self.options].concat()
        };
        [&header[..], &piece.payload].concat()
    }

    fn network(&self, id: u16, len: usize) -> Vec<u8> {
        if self.v6 {
            let protocol = if self.udp { 17 } else { 6 };
            let start = [&[0x60 | self.tos >> 4, self.tos << 4, 0, 7][..], &(len as u16).to_be_bytes()].concat();
            return [&start[..], &[protocol, self.ttl], &self.addresses()].concat();
        }
        let protocol = if self.udp { 17 } else { 6 };
        let fragment = if self.dont_fragment { 0x40 } else { 0 };
        let start =
            [&[0x45, self.tos][..], &(20 + len as u16).to_be_bytes(), &id.to_be_bytes(), &[fragment, 0]].concat();
        let mut header = [&start[..], &[self.ttl, protocol, 0, 0], &self.addresses()].concat();
        let sum = checksum(&[&header], false);
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn checksum_at(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    /// A complete frame.
    fn frame(&self, piece: &Piece) -> Vec<u8> {
        let mut transport = self.transport(piece);
        let sum = checksum(&[&self.pseudo(transport.len()), &transport], self.udp);
        transport[self.checksum_at()..][..2].copy_from_slice(&sum);
        self.ethernet(&[&self.network(piece.id, transport.len())[..], &transport].concat())
    }

    fn ethernet(&self, payload: &[u8]) -> Vec<u8> {
        frame(ALICE, BOB, if self.v6 { 0x86dd } else { 0x0800 }, payload)
    }

    /// A frame as a kernel gives it to a TAP: for the segments of `bytes` each, its checksum open.
    fn super_frame(&self, piece: &Piece, bytes: u16) -> (Offload, Vec<u8>) {
        let mut transport = self.transport(piece);
        let pseudo = naive_sum(&self.pseudo(transport.len())) as u16;
        transport[self.checksum_at()..][..2].copy_from_slice(&pseudo.to_be_bytes());
        let network = self.network(piece.id, transport.len());
        let start = 14 + network.len() as u16;
        let offload = Offload {
            checksum: Some(Partial { start, offset: self.checksum_at() as u16 }),
            segments: Some((self.kind(), bytes)),
            headers_len: 0,
        };
        (offload, self.ethernet(&[&network[..], &transport].concat()))
    }

    /// The frames that a host would have sent instead of one of `piece`.
    fn cut(&self, piece: &Piece, bytes: usize) -> Vec<Vec<u8>> {
        let count = piece.payload.len().div_ceil(bytes);
        let part = |(n, payload): (usize, &[u8])| {
            let first = if n == 0 { 0xff } else { !CWR };
            let last = if n + 1 == count { 0xff } else { !(FIN | PSH) };
            self.frame(&Piece {
                id: piece.id.wrapping_add(n as u16),
                sequence: piece.sequence.wrapping_add((n * bytes) as u32),
                flags: piece.flags & first & last,
                payload: payload.to_vec(),
            })
        };
        piece.payload.chunks(bytes).enumerate().map(part).collect()
    }
}

/// Cuts what a shard gave to a TAP, knowing nothing but the bytes; frames without IPv4 options and extension headers.
fn naive_cut(offload: &Offload, bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some((kind, segment)) = offload.segments else { return vec![bytes.to_vec()] };
    let v6 = bytes[12..14] == [0x86, 0xdd];
    let transport = if v6 { 54 } else { 34 };
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let udp = kind == Gso::Udp;
    let headers = if udp { transport + 8 } else { transport + usize::from(bytes[transport + 12] >> 4) * 4 };
    let flow = Flow {
        v6,
        udp,
        host: if v6 { bytes[23] } else { bytes[29] },
        port: word(transport),
        tos: if v6 { bytes[14] << 4 | bytes[15] >> 4 } else { bytes[15] },
        ttl: if v6 { bytes[21] } else { bytes[22] },
        dont_fragment: !v6 && bytes[20] == 0x40,
        ack: if udp { 0 } else { long(transport + 8) },
        window: if udp { 0 } else { word(transport + 14) },
        options: if udp { Vec::new() } else { bytes[transport + 20..headers].to_vec() },
    };
    let piece = Piece {
        id: if v6 { 0 } else { word(18) },
        sequence: if udp { 0 } else { long(transport + 4) },
        flags: if udp { 0 } else { bytes[transport + 13] },
        payload: bytes[headers..].to_vec(),
    };
    // it is what a kernel would have made of it
    let (expected, whole) = flow.super_frame(&piece, segment);
    assert_eq!((expected.checksum, expected.segments), (offload.checksum, offload.segments));
    assert_eq!(usize::from(offload.headers_len), headers);
    assert_eq!(whole, bytes);
    flow.cut(&piece, segment.into())
}

fn alice() -> Shard {
    let mut shard = member(ALICE, BOB, Suite::AesGmacSiv);
    // one datagram a frame: fragments are another test's
    let route = Some(shard::Route { socket: SOCKET, remote: remote(), mtu: 9000 });
    shard.apply(Update::Peer { address: BOB, keys: keys(), suite: Suite::AesGmacSiv, route, bonded: false });
    shard
}

/// Sends a super-frame from Alice to Bob, whose TAP takes none: the frames it was cut into.
fn cut((offload, mut bytes): (Offload, Vec<u8>)) -> Vec<Vec<u8>> {
    let (mut alice, mut bob) = (alice(), member(BOB, ALICE, Suite::AesGmacSiv));
    let mut out = Outside::default();
    alice.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut bytes, &mut out);
    out.datagrams
        .iter()
        .flat_map(|(_, _, datagram)| inbound(&mut bob, datagram).frames)
        .map(|(_, frame)| frame)
        .collect()
}

/// Sends frames from Alice to Bob in one turn: what Bob's TAP gets.
fn joined(frames: &[Vec<u8>], takes: &[Gso]) -> Vec<(Offload, Vec<u8>)> {
    let (mut alice, mut bob) = (alice(), member(BOB, ALICE, Suite::AesGmacSiv));
    let mut out = Outside { takes: takes.to_vec(), ..Outside::default() };
    for frame in frames {
        for (_, _, mut datagram) in outbound(&mut alice, frame).datagrams {
            bob.inbound(NOW, SOCKET, remote(), &mut datagram, &mut out);
        }
    }
    bob.flush(&mut out);
    let delivered = std::mem::take(&mut out.delivered);
    bob.flush(&mut out);
    assert!(out.delivered.is_empty());
    delivered
}

fn flows() -> impl Strategy<Value = Flow> {
    let ip = (any::<bool>(), any::<bool>(), 0..2u8, 1000..1003u16, any::<u8>(), 1..=255u8, any::<bool>());
    (ip, any::<u32>(), any::<u16>(), prop::collection::vec(any::<[u8; 4]>(), 0..=10)).prop_map(
        |((v6, udp, host, port, tos, ttl, dont_fragment), ack, window, options)| {
            let options = if udp { Vec::new() } else { options.concat() };
            let (ack, window) = if udp { (0, 0) } else { (ack, window) };
            Flow { v6, udp, host, port, tos, ttl, dont_fragment: dont_fragment && !v6, ack, window, options }
        },
    )
}

fn tcp() -> Flow {
    let options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let (ack, window) = (77, 501);
    Flow { v6: false, udp: false, host: 1, port: 1000, tos: 0, ttl: 64, dont_fragment: true, ack, window, options }
}

fn piece(n: u32, flags: u8, len: usize) -> Piece {
    Piece { id: 100 + n as u16, sequence: 5000 + n * 1000, flags, payload: vec![n as u8; len] }
}

fn sizes(delivered: &[(Offload, Vec<u8>)]) -> Vec<usize> {
    delivered.iter().map(|(offload, bytes)| naive_cut(offload, bytes).len()).collect()
}

proptest! {
    #[test]
    fn a_super_frame_is_cut_into_what_a_host_would_have_sent(
        flow in flows(),
        id in any::<u16>(),
        sequence in any::<u32>(),
        flags in any::<u8>(),
        payload in prop::collection::vec(any::<u8>(), 1..6000),
        bytes in 100..2700u16,
    ) {
        let (id, sequence, flags) =
            (if flow.v6 { 0 } else { id }, if flow.udp { 0 } else { sequence }, if flow.udp { 0 } else { flags });
        let piece = Piece { id, sequence, flags, payload };
        prop_assert_eq!(cut(flow.super_frame(&piece, bytes)), flow.cut(&piece, bytes.into()));
    }

    #[test]
    fn what_is_joined_can_be_cut_again_and_nothing_overtakes_its_flow(
        flows in prop::collection::vec(flows(), 1..4),
        script in prop::collection::vec((any::<prop::sample::Index>(), 0..20u8, 1..6usize, 0..16u8), 1..60),
        takes in prop::sample::subsequence(ALL.to_vec(), 0..=3),
    ) {
        // mostly frames that continue their flow, now and then one that does not in one way or another
        let mut state: Vec<(u16, u32)> = vec![(65_530, u32::MAX - 500); flows.len()];
        let mut sent = Vec::new();
        for (which, trouble, size, fill) in script {
            let at = which.index(flows.len());
            let (mut flow, (id, sequence)) = (flows[at].clone(), &mut state[at]);
            let len = match trouble { 0 => 150, 1 => 0, _ => size / 5 * 17 + 100 };
            let mut piece = Piece { id: *id, sequence: *sequence, flags: ACK, payload: vec![fill; len] };
            match trouble {
                2 => piece.flags |= PSH,
                3 => piece.flags |= 0x02,
                4 => flow.ack = flow.ack.wrapping_add(1),
                5 => flow.ttl ^= 1,
                6 => flow.window ^= 4,
                7 => piece.id = piece.id.wrapping_add(3),
                8 => piece.sequence = piece.sequence.wrapping_sub(100),
                9 => flow.tos ^= 3,
                _ => {}
            }
            if flow.udp { (piece.sequence, piece.flags, flow.ack, flow.window) = (0, 0, 0, 0); }
            if flow.v6 { piece.id = 0; }
            let mut frame = flow.frame(&piece);
            match trouble {
                10 => *frame.last_mut().unwrap() ^= 0x55,
                11 => frame.push(0),
                12 if !flow.v6 => frame[20] |= 0x20,
                _ => {}
            }
            (*id, *sequence) = (id.wrapping_add(1), sequence.wrapping_add(len as u32));
            sent.push(frame);
        }
        let delivered = joined(&sent, &takes);
        for (offload, _) in &delivered {
            prop_assert!(offload.segments.is_none_or(|(kind, _)| takes.contains(&kind)));
        }
        let mut arrived: Vec<_> = delivered.iter().flat_map(|(offload, bytes)| naive_cut(offload, bytes)).collect();
        // every flow by itself: the frames it sent, byte for byte, in order
        for frame in &sent {
            let key = key(frame);
            let first = arrived.iter().position(|other| self::key(other) == key);
            prop_assert!(first.is_some_and(|at| arrived.remove(at) == *frame));
        }
        prop_assert!(arrived.is_empty());
    }
}

/// Protocol, addresses and ports.
fn key(frame: &[u8]) -> Vec<u8> {
    if frame[12] == 8 { [&frame[23..24], &frame[26..38]].concat() } else { [&frame[20..21], &frame[22..58]].concat() }
}

#[test]
fn segments_of_one_turn_become_one_super_frame_closed_by_a_shorter_one() {
    let flow = tcp();
    let mut pieces: Vec<_> = (0..5).map(|n| piece(n, ACK, 1000)).collect();
    pieces[4].payload.truncate(10);
    pieces[4].flags |= PSH;
    let sent: Vec<_> = pieces.iter().map(|piece| flow.frame(piece)).collect();
    let delivered = joined(&sent, &ALL);
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].0.segments, Some((Gso::Tcp4, 1000)));
    assert_eq!(naive_cut(&delivered[0].0, &delivered[0].1), sent);
    assert_eq!(joined(&sent, &[Gso::Udp]).len(), 5);
}

#[test]
fn a_super_frame_never_grows_beyond_an_ip_packet() {
    let flow = tcp();
    let sent: Vec<_> = (0..100).map(|n| flow.frame(&piece(n, ACK, 1000))).collect();
    assert_eq!(sizes(&joined(&sent, &ALL)), [65, 35]);
    let udp = Flow { udp: true, options: Vec::new(), ack: 0, window: 0, ..flow };
    let sent: Vec<_> = (0..100).map(|n| udp.frame(&Piece { sequence: 0, ..piece(n, 0, 100) })).collect();
    assert_eq!(sizes(&joined(&sent, &ALL)), [64, 36]);
}

#[test]
fn an_id_that_stands_still_is_joined_only_where_packets_are_never_cut() {
    for dont_fragment in [true, false] {
        let flow = Flow { dont_fragment, ..tcp() };
        let sent: Vec<_> = (0..3).map(|n| flow.frame(&Piece { id: 0, ..piece(n, ACK, 1000) })).collect();
        assert_eq!(joined(&sent, &ALL).len(), if dont_fragment { 1 } else { 3 });
    }
}

#[test]
fn a_false_checksum_is_never_laundered() {
    let flow = tcp();
    let sound: Vec<_> = (0..4).map(|n| flow.frame(&piece(n, ACK, 1000))).collect();
    for bad in 0..4 {
        for at in [24, 50, 200] {
            let mut sent = sound.clone();
            sent[bad][at] ^= 1;
            let delivered = joined(&sent, &ALL);
            let arrived: Vec<_> = delivered.iter().flat_map(|(offload, bytes)| naive_cut(offload, bytes)).collect();
            assert_eq!(arrived, sent);
            let alone = delivered.iter().any(|(offload, bytes)| offload.segments.is_none() && *bytes == sent[bad]);
            assert!(alone, "frame {bad}, byte {at}");
        }
    }
}

#[test]
fn many_flows_at_once_end_the_oldest_and_lose_nothing() {
    let flows = (0..3 * shard::FLOWS_MAX as u16).map(|port| Flow { port: 2000 + port, ..tcp() });
    let flows: Vec<_> = flows.collect();
    let sent: Vec<_> = (0..3).flat_map(|n| flows.iter().map(move |flow| flow.frame(&piece(n, ACK, 1000)))).collect();
    assert_eq!(joined(&sent, &ALL).len(), sent.len());
    let some: Vec<_> =
        (0..3).flat_map(|n| flows[..16].iter().map(move |flow| flow.frame(&piece(n, ACK, 1000)))).collect();
    assert_eq!(sizes(&joined(&some, &ALL)), [3; 16]);
}

#[test]
fn a_fragment_ends_the_flows_between_its_addresses_first() {
    let flow = tcp();
    let mut fragment = flow.frame(&piece(2, ACK, 1000));
    fragment[20] |= 0x20;
    let mut sent: Vec<_> = (0..2).map(|n| flow.frame(&piece(n, ACK, 1000))).collect();
    sent.push(fragment.clone());
    let delivered = joined(&sent, &ALL);
    assert_eq!(sizes(&delivered), [2, 1]);
    assert_eq!(delivered[1].1, fragment);
}

#[test]
fn a_checksum_that_the_kernel_left_open_is_completed() {
    for flow in [tcp(), Flow { udp: true, options: Vec::new(), ..tcp() }, Flow { v6: true, ..tcp() }] {
        let piece = piece(0, ACK, 1001);
        let (offload, bytes) = flow.super_frame(&piece, 0);
        assert_eq!(cut((Offload { segments: None, ..offload }, bytes)), [flow.frame(&piece)]);
    }
}

#[test]
fn a_super_frame_for_the_control_plane_arrives_there_in_single_frames() {
    let flow = tcp();
    let piece = Piece { payload: vec![3; 3500], ..piece(0, ACK | PSH, 0) };
    let (offload, mut bytes) = flow.super_frame(&piece, 1000);
    let mut shard = new_shard(ALICE, 1);
    shard.apply(network(ALICE, false));
    let mut out = Outside::default();
    shard.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut bytes, &mut out);
    let expected: Vec<_> = flow.cut(&piece, 1000).into_iter().map(|frame| Said::Frame(NETWORK, frame)).collect();
    assert_eq!(out.control, expected);
    assert_eq!(shard.counters().control_frames, 4);
}

#[test]
fn a_header_that_does_not_fit_its_frame_drops_it_and_counts() {
    let flow = tcp();
    let (offload, bytes) = flow.super_frame(&Piece { payload: vec![3; 3500], ..piece(0, ACK, 0) }, 1000);
    let partial = |start, offset| Some(Partial { start, offset });
    let odd = [
        Err(UnknownOffload),
        Ok(Offload { checksum: None, ..offload }),
        Ok(Offload { segments: Some((Gso::Tcp4, 0)), ..offload }),
        Ok(Offload { segments: Some((Gso::Tcp6, 1000)), ..offload }),
        Ok(Offload { segments: Some((Gso::Udp, 1000)), ..offload }),
        Ok(Offload { checksum: partial(35, 16), ..offload }),
        Ok(Offload { checksum: partial(34, 6), ..offload }),
        Ok(Offload { checksum: partial(u16::MAX, u16::MAX), ..offload }),
        Ok(Offload { segments: None, checksum: partial(u16::MAX, u16::MAX), headers_len: 0 }),
        Ok(Offload { segments: None, checksum: partial(34, 60_000), headers_len: 0 }),
    ];
    let mut shard = alice();
    for offload in odd {
        let mut out = Outside::default();
        shard.outbound_offloaded(NOW, NETWORK, offload, &mut bytes.clone(), &mut out);
        assert!(out.datagrams.is_empty() && out.control.is_empty(), "{offload:?}");
    }
    assert_eq!(shard.counters().odd_out, odd.len() as u64);
    // too long for the network
    let (offload, mut bytes) = flow.super_frame(&Piece { payload: vec![3; 9000], ..piece(0, ACK, 0) }, 3000);
    shard.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut bytes, &mut Outside::default());
    assert_eq!((shard.counters().oversized_out, shard.counters().frames_out), (3, 0));
}

#[test]
fn fuzz_super_frames() {
    check!().with_type::<([u8; 10], Vec<u8>, bool)>().for_each(|(header, bytes, v6)| {
        let mut shard = alice();
        let mut addressed = frame(ALICE, BOB, if *v6 { 0x86dd } else { 0x0800 }, bytes);
        shard.outbound_offloaded(NOW, NETWORK, Offload::parse(header), &mut addressed, &mut Outside::default());
        shard.outbound_offloaded(NOW, NETWORK, Offload::parse(header), &mut bytes.clone(), &mut Outside::default());
        let network = if *v6 { 54 } else { 34 };
        let (kind, bytes) = (ALL[usize::from(header[0]) % 3], u16::from(header[1]));
        let checksum = Some(Partial { start: network, offset: if kind == Gso::Udp { 6 } else { 16 } });
        let offload = Offload { checksum, segments: Some((kind, bytes)), headers_len: 0 };
        shard.outbound_offloaded(NOW, NETWORK, Ok(offload), &mut addressed, &mut Outside::default());
    });
}

#[test]
fn fuzz_joining() {
    check!().with_type::<Vec<(Vec<u8>, bool, bool)>>().for_each(|frames| {
        let frames: Vec<_> = frames
            .iter()
            .filter(|(bytes, ..)| !bytes.is_empty())
            .map(|(bytes, v6, aimed)| {
                let mut bytes = bytes.clone();
                if *aimed && bytes.len() > 9 {
                    bytes[0] = if *v6 { 0x60 } else { 0x45 };
                    bytes[if *v6 { 6 } else { 9 }] = 6;
                }
                frame(ALICE, BOB, if *v6 { 0x86dd } else { 0x0800 }, &bytes)
            })
            .collect();
        let delivered = joined(&frames, &ALL);
        assert!(delivered.len() <= frames.len());
        let bytes: Vec<_> = delivered.iter().flat_map(|(offload, bytes)| naive_cut(offload, bytes)).collect();
        assert_eq!(bytes.len(), frames.len());
    });
}
