//! Against a naive reading: the frame is built anew from its parts with the lower number in it.

use super::*;
use proptest::prelude::*;

const MAX: u16 = 1354;

/// A TCP segment from which a frame is built.
#[derive(Clone, Debug)]
struct Segment {
    v6: bool,
    ip_options: Vec<u8>,
    /// Type and body of IPv6 extension headers.
    extensions: Vec<(u8, Vec<u8>)>,
    flags: u8,
    options: Vec<(u8, Vec<u8>)>,
    payload: Vec<u8>,
    padding: usize,
}

impl Segment {
    /// The options as bytes, a multiple of four.
    fn options(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, body) in &self.options {
            bytes.push(*kind);
            if *kind > NO_OPTION {
                bytes.push(2 + body.len() as u8);
                bytes.extend(body);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), OPTIONS_END);
        bytes
    }

    fn frame(&self) -> Vec<u8> {
        let options = self.options();
        let mut tcp = vec![0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0, self.flags, 1, 0, 0, 0, 0, 0];
        tcp[12] = ((TCP_LEN + options.len()) * 4) as u8; // words, in the upper half
        tcp.extend(options);
        tcp.extend(&self.payload);
        let (addresses, ip) = if self.v6 { self.v6(tcp.len()) } else { self.v4(tcp.len()) };
        let pseudo = [&addresses[..], &[0, TCP], &(tcp.len() as u16).to_be_bytes()].concat();
        let checksum = naive(&[&pseudo[..], &tcp].concat());
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [&[0xa5; 12], &(if self.v6 { IPV6 } else { IPV4 })[..], &ip, &tcp].concat();
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    fn v4(&self, tcp: usize) -> (Vec<u8>, Vec<u8>) {
        let len = IPV4_LEN + self.ip_options.len();
        let [t0, t1] = ((len + tcp) as u16).to_be_bytes();
        let mut ip = vec![0x40 | (len / 4) as u8, 0, t0, t1, 9, 9, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend(&self.ip_options);
        let checksum = naive(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        (ip[12..20].to_vec(), ip)
    }

    fn v6(&self, tcp: usize) -> (Vec<u8>, Vec<u8>) {
        let mut extensions = Vec::new();
        let kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([TCP]).collect::<Vec<_>>();
        for ((_, body), next) in self.extensions.iter().zip(&kinds[1..]) {
            extensions.extend([*next, (body.len() / 8) as u8]);
            extensions.extend(body);
        }
        let [t0, t1] = ((extensions.len() + tcp) as u16).to_be_bytes();
        let mut ip = vec![0x60, 0, 0, 0, t0, t1, kinds[0], 64];
        let addresses: Vec<u8> = (0..32).collect();
        ip.extend(&addresses);
        ip.extend(extensions);
        (addresses, ip)
    }

    /// The same with every MSS above `max` lowered to it.
    fn clamped(&self, max: u16) -> Segment {
        let mut other = self.clone();
        for (kind, body) in &mut other.options {
            if let (MSS, [a, b]) = (*kind, &body[..]) {
                *body = u16::from_be_bytes([*a, *b]).min(max).to_be_bytes().to_vec();
            }
        }
        other
    }
}

/// The Internet checksum, a word at a time.
fn naive(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    !(words.fold(0, |sum, word| (sum + word) % 0xffff) as u16)
}

/// The same sum: all zeros and all ones are one number.
fn one_zero(frame: &[u8], at: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[at..at + 2] == [0xff, 0xff] {
        frame[at..at + 2].fill(0);
    }
    frame
}

fn clamp(frame: &mut [u8], max: u16) -> bool {
    syn(frame).is_some_and(|found| lower(frame, &found, max))
}

fn option() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        4 => any::<[u8; 2]>().prop_map(|mss| (MSS, mss.to_vec())),
        3 => Just((NO_OPTION, vec![])),
        3 => (3..AUTHENTICATION, prop::collection::vec(any::<u8>(), 0..9)),
        1 => (AUTHENTICATION + 1..=255, prop::collection::vec(any::<u8>(), 0..9)),
        1 => Just((MSS, vec![0xff])),
    ]
}

fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        (prop::sample::select(vec![HOP_BY_HOP, ROUTING, DESTINATION]), 0..3usize)
            .prop_map(|(k, n)| (k, vec![0; 6 + 8 * n])),
        Just((FRAGMENT, vec![0, 1, 0, 0, 0, 7])),
    ]
}

prop_compose! {
    fn segment()(
        v6: bool,
        ip_words in 0..=10usize,
        extensions in prop::collection::vec(extension(), 0..=EXTENSIONS_MAX),
        flags in prop_oneof![3 => Just(SYN), 3 => Just(SYN | 0x10), 2 => any::<u8>()],
        mut options in prop::collection::vec(option(), 0..5),
        payload in prop::collection::vec(any::<u8>(), 0..40),
        padding in 0..8usize,
    ) -> Segment {
        while options.iter().map(|(_, body)| 2 + body.len()).sum::<usize>() > 40 {
            options.pop();
        }
        Segment { v6, ip_options: vec![1; ip_words * 4], extensions, flags, options, payload, padding }
    }
}

proptest! {
    #[test]
    fn a_syn_comes_out_as_if_its_host_had_announced_less(segment in segment(), max in MSS_MIN..2000) {
        let mut frame = segment.frame();
        let before = frame.clone();
        let lowered = clamp(&mut frame, max);
        if segment.flags & SYN == 0 {
            prop_assert!(!lowered && frame == before);
        } else {
            let ip_len = if segment.v6 {
                IPV6_LEN + segment.extensions.iter().map(|(_, body)| 2 + body.len()).sum::<usize>()
            } else {
                IPV4_LEN + segment.ip_options.len()
            };
            let at = ETHERNET_HEADER_LEN + ip_len + TCP_CHECKSUM;
            let wanted = segment.clamped(max).frame();
            prop_assert_eq!(one_zero(&frame, at), one_zero(&wanted, at));
            prop_assert_eq!(lowered, frame != before);
        }
    }

    #[test]
    fn damaged_frames_never_panic_and_change_in_nothing_but_numbers_that_fall(
        segment in segment(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = segment.frame();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(cut.index(frame.len() + 1));
        let before = frame.clone();
        let found = syn(&frame);
        let lowered = clamp(&mut frame, MAX);
        match found {
            Some(Syn { transport, options_end, .. }) => {
                let checksum = transport + TCP_CHECKSUM..transport + TCP_CHECKSUM + 2;
                let options = transport + TCP_LEN..options_end;
                let changed = (0..frame.len()).filter(|&at| frame[at] != before[at]);
                let mut elsewhere = changed.filter(|at| !checksum.contains(at) && !options.contains(at));
                prop_assert_eq!(elsewhere.next(), None);
                // right or wrong, the checksum stays what it was
                prop_assert_eq!(naive(&frame[transport..options_end]), naive(&before[transport..options_end]));
            }
            None => prop_assert!(!lowered && frame == before),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool) {
        if let Some(ethertype) = bytes.get_mut(12..14) {
            ethertype.copy_from_slice(if v6 { &IPV6 } else { &IPV4 });
        }
        clamp(&mut bytes, MAX);
    }
}

fn plain(v6: bool) -> Segment {
    let options = vec![(MSS, 1460u16.to_be_bytes().to_vec())];
    Segment { v6, ip_options: vec![], extensions: vec![], flags: SYN, options, payload: vec![], padding: 0 }
}

#[test]
fn later_fragments_and_authenticated_packets_stay_as_they_are() {
    let untouched = |mut frame: Vec<u8>| {
        let before = frame.clone();
        assert!(!clamp(&mut frame, MAX) && frame == before);
    };
    let mut later_v4 = plain(false).frame();
    later_v4[ETHERNET_HEADER_LEN + 7] = 1;
    untouched(later_v4);
    let with = |kind, body| Segment { extensions: vec![(kind, body)], ..plain(true) };
    untouched(with(FRAGMENT, vec![0, 8, 0, 0, 0, 7]).frame());
    untouched(with(51, vec![0; 22]).frame());
    for v6 in [false, true] {
        let mut segment = plain(v6);
        segment.options.push((AUTHENTICATION, vec![1; 14]));
        untouched(segment.frame());
    }
    assert!(clamp(&mut with(FRAGMENT, vec![0, 1, 0, 0, 0, 7]).frame(), MAX), "a first fragment has the whole header");
}

#[test]
fn a_full_segment_then_fits_one_datagram_and_one_byte_more_does_not() {
    for (v6, ip_len) in [(false, IPV4_LEN), (true, IPV6_LEN)] {
        for datagram in [1280, DEFAULT_PHYS_MTU, 8972] {
            let packet = HDR_LEN + Frame::HEADER_LEN + ip_len + TCP_LEN + usize::from(mss(datagram, true, ip_len));
            assert_eq!(wire::fragment::datagrams_needed(packet, datagram), 1, "v6 {v6}");
            assert_eq!(wire::fragment::datagrams_needed(packet + 1, datagram), 2, "v6 {v6}");
        }
    }
    assert_eq!(mss(0, true, IPV4_LEN), MSS_MIN);
    assert_eq!((mss(DEFAULT_PHYS_MTU, true, IPV4_LEN), mss(DEFAULT_PHYS_MTU, true, IPV6_LEN)), (1354, 1334));
}
