//! What an Ethernet payload carries, as far as a bond cares: addresses, protocol, transport header. It judges nothing, and
//! believes no length that it did not check.

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
/// Extension headers that are walked; packets with more carry something unknown.
const EXTENSIONS_MAX: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// How much of a datagram an IP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// A later one.
    Later,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner<'a> {
    /// Source and destination, as they stand in the header.
    pub addresses: &'a [u8],
    /// Protocol of what follows all IP headers.
    pub protocol: u8,
    /// Whether that is the transport header.
    pub piece: Piece,
    /// What follows all IP headers, without padding; shorter than `transport_len` if only headers were given.
    pub transport: &'a [u8],
    /// Its length by the IP header.
    pub transport_len: usize,
}

/// What is behind the VLAN tags of an Ethernet payload, and its EtherType.
pub fn untagged(mut ethertype: u16, mut payload: &[u8]) -> (u16, &[u8]) {
    for _ in 0..VLAN_TAGS_MAX {
        let Some((tag, rest)) = payload.split_first_chunk::<VLAN_TAG_LEN>().filter(|_| VLAN.contains(&ethertype))
        else {
            break;
        };
        (ethertype, payload) = (be16(tag, 2), rest);
    }
    (ethertype, payload)
}

impl<'a> Inner<'a> {
    /// Reads the headers of an Ethernet payload. None if it is no IP packet, or a broken one.
    // spec: bonding, "Flow identity", Gateway
    pub fn parse(ethertype: u16, ip: &'a [u8]) -> Option<Inner<'a>> {
        match ethertype {
            IPV4 => {
                let header: &[u8; 20] = ip.first_chunk()?;
                let (header_len, len) = (usize::from(header[0] & 15) * 4, usize::from(be16(header, 2)));
                if header[0] >> 4 != 4 || header_len < 20 {
                    return None;
                }
                let field = be16(header, 6);
                walk(&ip[12..20], header[9], ip, header_len, len, piece(field & 0x1fff, field & 0x2000 != 0))
            }
            IPV6 => {
                let header: &[u8; 40] = ip.first_chunk()?;
                let len = 40 + usize::from(be16(header, 4));
                (header[0] >> 4 == 6).then(|| walk(&ip[8..40], header[6], ip, 40, len, Piece::Whole))?
            }
            _ => None,
        }
    }

    /// Ports of TCP, UDP or SCTP: source, destination.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has = matches!(self.protocol, TCP | UDP | SCTP) && self.piece != Piece::Later;
        let ports: &[u8; 4] = self.transport.first_chunk().filter(|_| has)?;
        Some((be16(ports, 0), be16(ports, 2)))
    }
}

/// Goes past the extension headers.
fn walk<'a>(
    addresses: &'a [u8],
    mut protocol: u8,
    ip: &'a [u8],
    mut at: usize,
    len: usize,
    mut whole: Piece,
) -> Option<Inner<'a>> {
    let ip = &ip[..ip.len().min(len)];
    for _ in 0..EXTENSIONS_MAX {
        let transport = ip.get(at..)?;
        let next = match protocol {
            _ if whole == Piece::Later => None,
            // IPv6 has options there, in IPv4 the number means nothing
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY if addresses.len() == 32 => {
                transport.first_chunk().map(|[next, words]| (*next, 8 + 8 * usize::from(*words)))
            }
            AUTHENTICATION => transport.first_chunk().map(|[next, words]| (*next, 8 + 4 * usize::from(*words))),
            FRAGMENT if addresses.len() == 32 => transport.first_chunk::<8>().map(|fragment| {
                let field = be16(fragment, 2);
                whole = piece(field >> 3, field & 1 != 0);
                (fragment[0], 8)
            }),
            _ => None,
        };
        let Some((next, bytes)) = next else {
            let transport_len = len.checked_sub(at)?;
            return Some(Inner { addresses, protocol, piece: whole, transport, transport_len });
        };
        (protocol, at) = (next, at + bytes);
    }
    None
}

fn piece(offset: u16, more: bool) -> Piece {
    match (offset, more) {
        (0, false) => Piece::Whole,
        (0, true) => Piece::First,
        _ => Piece::Later,
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let len = (20 + rest.len() as u16).to_be_bytes();
        let [f0, f1] = fragment.to_be_bytes();
        [&[0x45, 0, len[0], len[1], 0, 1, f0, f1, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], rest].concat()
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let [l0, l1] = (rest.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, l0, l1, next, 64][..], &[0xfd; 32], rest].concat()
    }

    #[test]
    fn the_transport_header_is_found_behind_extension_headers() {
        let ports = [0, 80, 1, 187, 0, 0, 0, 0];
        let options = [AUTHENTICATION, 0, 0, 0, 0, 0, 0, 0];
        let authentication = [&[TCP, 4][..], &[0; 22]].concat();
        let packet = v6(HOP_BY_HOP, &[&options[..], &authentication, &ports].concat());
        let inner = Inner::parse(IPV6, &packet).unwrap();
        assert_eq!((inner.protocol, inner.ports(), inner.transport_len), (TCP, Some((80, 443)), 8));
        assert_eq!((inner.addresses, inner.piece), (&[0xfd; 32][..], Piece::Whole));
    }

    #[test]
    fn padding_does_not_count_and_cut_off_bytes_do() {
        let mut packet = v4(UDP, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
        packet.extend([0; 18]);
        let inner = Inner::parse(IPV4, &packet).unwrap();
        assert_eq!((inner.transport.len(), inner.transport_len), (8, 8));
        let inner = Inner::parse(IPV4, &packet[..24]).unwrap();
        assert_eq!((inner.transport.len(), inner.transport_len, inner.ports()), (4, 8, Some((1, 2))));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        for (field, piece) in
            [(0x4000, Piece::Whole), (0x2000, Piece::First), (0x2010, Piece::Later), (0x10, Piece::Later)]
        {
            let packet = v4(TCP, field, &[0; 20]);
            let inner = Inner::parse(IPV4, &packet).unwrap();
            assert_eq!((inner.piece, inner.ports().is_some()), (piece, piece != Piece::Later), "{field:x}");
        }
        for (field, piece) in [(1u16, Piece::First), (8, Piece::Later), (9, Piece::Later), (0, Piece::Whole)] {
            let [f0, f1] = field.to_be_bytes();
            let packet = v6(FRAGMENT, &[&[TCP, 0, f0, f1, 0, 0, 0, 1][..], &[0; 20]].concat());
            let inner = Inner::parse(IPV6, &packet).unwrap();
            assert_eq!((inner.protocol, inner.piece), (TCP, piece), "{field:x}");
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let mut short = v4(TCP, 0, &[0; 20]);
        short[0] = 0x44; // 16 bytes of header
        assert_eq!(Inner::parse(IPV4, &short), None);
        short[0] = 0x65; // version 6
        assert_eq!(Inner::parse(IPV4, &short), None);
        assert_eq!(Inner::parse(IPV6, &v6(HOP_BY_HOP, &[TCP, 255, 0, 0, 0, 0, 0, 0])), None);
        let endless = v6(DESTINATION, &[DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(20));
        assert_eq!(Inner::parse(IPV6, &endless), None);
        assert_eq!(Inner::parse(0x0806, &[0; 60]), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_what_is_said_lies_within_it(ethertype in prop_oneof![Just(IPV4), Just(IPV6)], mut packet: Vec<u8>) {
            if let Some(first) = packet.first_mut() {
                *first = if ethertype == IPV4 { 0x45 } else { 0x60 };
            }
            if let Some(inner) = Inner::parse(ethertype, &packet) {
                prop_assert!(inner.transport.len() <= inner.transport_len);
                prop_assert!(inner.transport.len() + inner.addresses.len() + 8 <= packet.len());
            }
        }
    }
}
