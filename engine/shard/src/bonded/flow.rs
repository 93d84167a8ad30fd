//! What orders packets: the flow of an Ethernet payload, as a keyed hash. It is not on the wire, so it may know more than the
//! stock's number does: addresses, fragments, echoes. It must never know paths.
// spec: bonding, "Flow identity", Gateway

use std::hash::{BuildHasher, Hasher};

use bond::inner::{ICMP, ICMPV6, IPV4, Inner, Piece, untagged};
use foldhash::fast::FixedState;

const GRE: u8 = 47;
const ESP: u8 = 50;
const GRE_KEY: u8 = 0x20;

/// The hash of what makes a flow of this payload, or of its headers alone. Packets that cannot be told apart are one flow.
pub fn flow(hasher: &FixedState, ethertype: u16, payload: &[u8]) -> u64 {
    let (ethertype, packet) = untagged(ethertype, payload);
    let mut hash = hasher.build_hasher();
    hash.write_u16(ethertype);
    let Some(inner) = Inner::parse(ethertype, packet) else { return hash.finish() };
    hash.write(inner.addresses);
    hash.write_u8(inner.protocol);
    let word = |at: usize| inner.transport.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let tells = match (inner.piece, inner.protocol) {
        // Only the first fragment has ports. Those of IPv6 are not told apart by their number, which is not always in sight.
        (Piece::First | Piece::Later, _) if ethertype == IPV4 => {
            packet.get(4..6).map(|id| u32::from_be_bytes([1, 0, id[0], id[1]]))
        }
        (Piece::First | Piece::Later, _) => None,
        (Piece::Whole, ICMP | ICMPV6) => match inner.transport.first() {
            Some(0 | 8 | 128 | 129) => word(4).map(|echo| echo >> 16),
            _ => None,
        },
        (Piece::Whole, ESP) => word(0),
        (Piece::Whole, GRE) if inner.transport.first().is_some_and(|flags| flags & 0xf0 == GRE_KEY) => word(4),
        (Piece::Whole, _) => inner.ports().map(|(from, to)| u32::from(from) << 16 | u32::from(to)),
    };
    hash.write_u32(tells.unwrap_or(0));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bond::inner::{IPV6, TCP, UDP};

    fn v4(protocol: u8, fragment: u16, id: u16, rest: &[u8]) -> Vec<u8> {
        let len = (20 + rest.len() as u16).to_be_bytes();
        let ([f0, f1], [i0, i1]) = (fragment.to_be_bytes(), id.to_be_bytes());
        [&[0x45, 0, len[0], len[1], i0, i1, f0, f1, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], rest].concat()
    }

    fn of(ethertype: u16, packet: &[u8]) -> u64 {
        flow(&FixedState::with_seed(7), ethertype, packet)
    }

    #[test]
    fn ports_protocol_and_addresses_make_a_flow() {
        let one = v4(TCP, 0, 1, &[1, 0, 2, 0, 0, 0, 0, 9]);
        assert_eq!(of(IPV4, &one), of(IPV4, &v4(TCP, 0, 99, &[1, 0, 2, 0, 7, 7, 7, 7])), "numbers are not part of it");
        let mut elsewhere = one.clone();
        elsewhere[19] = 3;
        for other in [v4(UDP, 0, 1, &[1, 0, 2, 0, 0, 0, 0, 9]), v4(TCP, 0, 1, &[1, 0, 2, 1, 0, 0, 0, 9]), elsewhere] {
            assert_ne!(of(IPV4, &one), of(IPV4, &other));
        }
        let tagged = [&[0, 5, 8, 0][..], &one].concat();
        assert_eq!(of(0x8100, &tagged), of(IPV4, &one));
    }

    #[test]
    fn fragments_of_one_datagram_are_one_flow() {
        let first = of(IPV4, &v4(UDP, 0x2000, 5, &[1, 0, 2, 0, 0, 0, 0, 0]));
        assert_eq!(first, of(IPV4, &v4(UDP, 0x2010, 5, &[9; 8])));
        assert_ne!(first, of(IPV4, &v4(UDP, 0x2010, 6, &[9; 8])));
        let v6 = |fragment: u16| {
            let [f0, f1] = fragment.to_be_bytes();
            [&[0x60, 0, 0, 0, 0, 16, 44, 64][..], &[0xfd; 32], &[UDP, 0, f0, f1, 0, 0, 0, 1], &[3; 8]].concat()
        };
        assert_eq!(of(IPV6, &v6(1)), of(IPV6, &v6(0x100)));
    }

    #[test]
    fn echoes_tunnels_and_what_is_no_ip_have_flows_too() {
        let echo = |id: u8, seq: u8| of(IPV4, &v4(ICMP, 0, 1, &[8, 0, 0, 0, 0, id, 0, seq]));
        assert_eq!(echo(1, 1), echo(1, 2));
        assert_ne!(echo(1, 1), echo(2, 1));
        assert_ne!(of(IPV4, &v4(ESP, 0, 1, &[0, 0, 0, 1])), of(IPV4, &v4(ESP, 0, 1, &[0, 0, 0, 2])));
        assert_eq!(of(0x0806, &[1; 28]), of(0x0806, &[2; 28]));
        assert_eq!(of(IPV4, &[]), of(IPV4, &[0x65; 40]));
    }
}
