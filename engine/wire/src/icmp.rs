//! ICMP errors that quote a UDP datagram: whom a router says it could not deliver to, why, and what of the datagram it
//! gives back. Anyone can write such a message; what it is worth is not known here.
// RFC 792, RFC 4443

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ICMP_LEN: usize = 8;
const IPV4_MIN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

const ICMP: u8 = 1;
/// The IP protocol whose datagrams are looked for.
pub const UDP: u8 = 17;
/// "Destination unreachable" of ICMP.
pub const UNREACHABLE_V4: u8 = 3;
/// The same of ICMPv6.
pub const UNREACHABLE_V6: u8 = 1;

/// Why a datagram was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody knows the way to its network.
    Network,
    /// Its host does not answer.
    Host,
    /// Nobody listens on its port.
    Port,
    /// Somebody forbids it.
    Prohibited,
}

impl Cause {
    /// What these codes mean. "Fragmentation needed" is no failure: the datagrams get smaller.
    fn of_v4(code: u8) -> Option<Cause> {
        match code {
            0 => Some(Cause::Network),
            1 => Some(Cause::Host),
            3 => Some(Cause::Port),
            9 | 10 | 13 => Some(Cause::Prohibited),
            _ => None,
        }
    }

    fn of_v6(code: u8) -> Option<Cause> {
        match code {
            0 => Some(Cause::Network),
            1 | 5 | 6 => Some(Cause::Prohibited),
            3 => Some(Cause::Host),
            4 => Some(Cause::Port),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Cause::Network => "network unreachable",
            Cause::Host => "host unreachable",
            Cause::Port => "port unreachable",
            Cause::Prohibited => "prohibited",
        })
    }
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Why the datagram was not delivered.
    pub cause: Cause,
    /// Where it came from: us, if it is ours.
    pub from: SocketAddr,
    /// Where it should have gone.
    pub to: SocketAddr,
    /// The first bytes of its payload, if they are quoted: the packet ID, if it is ours.
    pub packet_id: Option<u64>,
}

impl Unreachable {
    /// Of an IPv4 packet, its header included.
    pub fn parse_v4(packet: &[u8]) -> Option<Unreachable> {
        let icmp = behind_v4(packet, ICMP)?;
        let [UNREACHABLE_V4, code, ..] = *icmp else { return None };
        let (cause, quoted) = (Cause::of_v4(code)?, icmp.get(ICMP_LEN..)?);
        let udp = behind_v4(quoted, UDP)?;
        let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*quoted.get(at..)?.first_chunk::<4>()?)));
        Unreachable::of(cause, address(12)?, address(16)?, udp)
    }

    /// Of an ICMPv6 message, without the header in front of it.
    pub fn parse_v6(message: &[u8]) -> Option<Unreachable> {
        let [UNREACHABLE_V6, code, ..] = *message else { return None };
        let (cause, quoted) = (Cause::of_v6(code)?, message.get(ICMP_LEN..)?);
        // Our datagrams have no extension headers.
        let is_udp = quoted.first()? >> 4 == 6 && *quoted.get(6)? == UDP;
        let udp = is_udp.then(|| quoted.get(IPV6_LEN..))??;
        let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*quoted.get(at..)?.first_chunk::<16>()?)));
        Unreachable::of(cause, address(8)?, address(24)?, udp)
    }

    fn of(cause: Cause, from: IpAddr, to: IpAddr, udp: &[u8]) -> Option<Unreachable> {
        let port = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
        let start = udp.get(UDP_LEN..).and_then(|payload| payload.first_chunk());
        Some(Unreachable {
            cause,
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            packet_id: start.map(|id| u64::from_be_bytes(*id)),
        })
    }
}

/// What follows the header of an IPv4 packet of this protocol. Of a fragmented one only the first fragment has it.
fn behind_v4(packet: &[u8], protocol: u8) -> Option<&[u8]> {
    let header = packet.first_chunk::<IPV4_MIN>()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    (header[0] >> 4 == 4 && len >= IPV4_MIN && first && header[9] == protocol).then(|| packet.get(len..))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header of an IPv4 packet with so many words of options.
    fn v4(from: [u8; 4], to: [u8; 4], protocol: u8, options: usize) -> Vec<u8> {
        let mut header = vec![0; IPV4_MIN + 4 * options];
        (header[0], header[9]) = (0x45 + options as u8, protocol);
        header[12..16].copy_from_slice(&from);
        header[16..20].copy_from_slice(&to);
        header
    }

    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let len = (UDP_LEN + payload.len()) as u16;
        let head = [from.to_be_bytes(), to.to_be_bytes(), len.to_be_bytes(), [0; 2]];
        [head.as_flattened(), payload].concat()
    }

    fn error_v4(code: u8, options: usize, datagram: &[u8]) -> Vec<u8> {
        let quoted = v4([10, 0, 0, 2], [192, 0, 2, 7], UDP, options);
        [v4([10, 0, 0, 1], [10, 0, 0, 2], ICMP, options), vec![3, code, 0, 0, 0, 0, 0, 0], quoted, datagram.to_vec()]
            .concat()
    }

    fn error_v6(code: u8, datagram: &[u8]) -> Vec<u8> {
        let mut quoted = vec![0; IPV6_LEN];
        (quoted[0], quoted[6], quoted[23], quoted[39]) = (0x60, UDP, 2, 7);
        [vec![1, code, 0, 0, 0, 0, 0, 0], quoted, datagram.to_vec()].concat()
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn what_could_not_be_delivered_is_told_with_ports_and_packet_id() {
        let datagram = udp(9993, 21000, &0x0102_0304_0506_0708_u64.to_be_bytes());
        let said = Unreachable {
            cause: Cause::Host,
            from: at("10.0.0.2:9993"),
            to: at("192.0.2.7:21000"),
            packet_id: Some(0x0102_0304_0506_0708),
        };
        assert_eq!(Unreachable::parse_v4(&error_v4(1, 0, &datagram)), Some(said));
        assert_eq!(Unreachable::parse_v4(&error_v4(1, 2, &datagram)), Some(said), "with options");
        let said = Unreachable { from: at("[::2]:9993"), to: at("[::7]:21000"), ..said };
        assert_eq!(Unreachable::parse_v6(&error_v6(3, &datagram)), Some(said));
    }

    #[test]
    fn a_router_need_not_quote_more_than_the_ports() {
        let short = udp(9993, 21000, &[1; 7]);
        let (v4, v6) = (Unreachable::parse_v4(&error_v4(3, 0, &short)), Unreachable::parse_v6(&error_v6(4, &short)));
        for said in [v4, v6].map(|said| said.expect("whole")) {
            assert_eq!((said.packet_id, said.cause, said.to.port()), (None, Cause::Port, 21000));
        }
        assert_eq!(Unreachable::parse_v4(&error_v4(3, 0, &short[..3])), None);
    }

    #[test]
    fn each_code_has_its_cause_and_that_a_datagram_is_too_long_is_none() {
        let datagram = udp(1, 2, &[0; 8]);
        let v4 = |code| Unreachable::parse_v4(&error_v4(code, 0, &datagram)).map(|said| said.cause);
        let v6 = |code| Unreachable::parse_v6(&error_v6(code, &datagram)).map(|said| said.cause);
        assert_eq!([0, 1, 3].map(v4), [Cause::Network, Cause::Host, Cause::Port].map(Some));
        assert_eq!([9, 10, 13].map(v4), [Some(Cause::Prohibited); 3]);
        assert_eq!([2, 4, 5, 14, 255].map(v4), [None; 5]);
        assert_eq!([0, 1, 3, 4].map(v6), [Cause::Network, Cause::Prohibited, Cause::Host, Cause::Port].map(Some));
        assert_eq!([2, 7, 255].map(v6), [None; 3]);
    }

    #[test]
    fn what_is_no_error_about_a_datagram_is_not_taken_for_one() {
        let good = error_v4(1, 0, &udp(1, 2, &[0; 8]));
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            Unreachable::parse_v4(&bytes)
        };
        assert!(Unreachable::parse_v4(&good).is_some());
        // Another version, a header too short, another protocol, another type, a quoted fragment, TCP quoted.
        for (place, value) in [(0, 0x65), (0, 0x44), (9, 6), (20, 8), (20 + 8 + 7, 1), (20 + 8 + 9, 6)] {
            assert_eq!(change(place, value), None, "byte {place}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(start in 0_usize..4, bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            // Much of it looks like the real thing.
            let whole = [error_v4(1, 0, &bytes), error_v4(3, 10, &bytes), error_v6(0, &bytes), bytes][start].clone();
            for end in 0..=whole.len() {
                let said = [Unreachable::parse_v4(&whole[..end]), Unreachable::parse_v6(&whole[..end])];
                prop_assert!(said.iter().flatten().all(|said| said.from.is_ipv4() == said.to.is_ipv4()));
            }
        }

        #[test]
        fn what_is_quoted_comes_back(
            from in any::<u16>(), to in any::<u16>(), id in any::<u64>(), options in 0_usize..=10, code in any::<u8>()
        ) {
            let datagram = udp(from, to, &id.to_be_bytes());
            let said = [
                Unreachable::parse_v4(&error_v4(code, options, &datagram)).filter(|said| said.to.is_ipv4()),
                Unreachable::parse_v6(&error_v6(code, &datagram)).filter(|said| said.to.is_ipv6()),
            ];
            prop_assert_eq!([said[0].is_some(), said[1].is_some()], [Cause::of_v4(code), Cause::of_v6(code)].map(|c| c.is_some()));
            for said in said.iter().flatten() {
                prop_assert_eq!((said.from.port(), said.to.port(), said.packet_id), (from, to, Some(id)));
            }
        }
    }
}
