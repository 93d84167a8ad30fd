//! Physical addresses: InetAddress on the wire, `ip/port` as text, scopes and prefixes. Knows how an address ranks,
//! never which path is taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::read::{Malformed, Reader};

/// Bytes of the longest InetAddress: type, 16 address bytes, port. Reserved types may be longer but carry no address.
pub const MAX_ENDPOINT_LEN: usize = 19;

/// Reads an InetAddress: 1, 7 or 19 bytes. Type 0 and the reserved types 1 to 3 are no address (`None`); every other
/// type is malformed. In network configurations the port is a prefix length.
// spec: wire, "InetAddress"
pub fn read(r: &mut Reader<'_>) -> Result<Option<SocketAddr>, Malformed> {
    match r.u8("endpoint type")? {
        0x00 => Ok(None),
        0x01 | 0x02 => r.take(6, "endpoint of a reserved type").map(|_| None),
        0x03 => {
            let len = r.u16("endpoint length")?;
            r.take(usize::from(len), "endpoint of a reserved type").map(|_| None)
        }
        0x04 => Ok(Some(SocketAddr::new(read_v4(r)?, r.u16("endpoint port")?))),
        0x06 => Ok(Some(SocketAddr::new(read_v6(r)?, r.u16("endpoint port")?))),
        _ => Err(Malformed { what: "endpoint type" }),
    }
}

/// Writes an InetAddress: 1 byte for none, 7 for IPv4, 19 for IPv6. Scope ID and flow label are not carried.
pub fn write(endpoint: Option<SocketAddr>, out: &mut Vec<u8>) {
    let Some(endpoint) = endpoint else { return out.push(0) };
    out.push(if endpoint.is_ipv4() { 4 } else { 6 });
    write_ip(endpoint.ip(), out);
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

pub(crate) fn read_v4(r: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    Ok(IpAddr::V4(Ipv4Addr::from(r.array::<4>("ipv4 address")?)))
}

pub(crate) fn read_v6(r: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    Ok(IpAddr::V6(Ipv6Addr::from(r.array::<16>("ipv6 address")?)))
}

pub(crate) fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Text that is not `ip/number`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not of the form {form}")]
pub struct NotEndpoint {
    /// What was given.
    pub text: String,
    /// What it should look like.
    pub form: &'static str,
}

/// The text form `ip/port`, e.g. `192.0.2.1/9993` or `2001:db8::1/9993`.
pub fn to_text(endpoint: SocketAddr) -> String {
    format!("{}/{}", endpoint.ip(), endpoint.port())
}

/// Reads the text form `ip/port`.
pub fn from_text(text: &str) -> Result<SocketAddr, NotEndpoint> {
    split_text(text, "ip/port").map(|(ip, port)| SocketAddr::new(ip, port))
}

fn split_text<N: FromStr>(text: &str, form: &'static str) -> Result<(IpAddr, N), NotEndpoint> {
    text.split_once('/')
        .and_then(|(ip, number)| Some((ip.parse().ok()?, number.parse().ok()?)))
        .ok_or_else(|| NotEndpoint { text: text.to_owned(), form })
}

/// What kind of place an IP address is; the value is its rank as a path, higher is preferred.
// spec: paths, "Address scopes"
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Unspecified, "this network", limited broadcast.
    None = 0,
    /// 224/4, ff00::/8.
    Multicast = 1,
    /// 127/8, ::1, fe80::1, v4-mapped 127/8.
    Loopback = 2,
    /// Globally assigned but seldom routed IPv4 space, often used as if private.
    PseudoPrivate = 3,
    /// Everything else.
    Global = 4,
    /// 169.254/16, fe80::/10.
    LinkLocal = 5,
    /// Reserved value; [`scope`] never yields it.
    Shared = 6,
    /// Private, carrier-grade NAT, documentation and benchmarking space.
    Private = 7,
}

/// The scope of an IP address.
pub fn scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(v4) => scope_v4(v4.octets()),
        IpAddr::V6(v6) => scope_v6(v6.octets()),
    }
}

fn scope_v4(o: [u8; 4]) -> Scope {
    match o {
        [0 | 255, ..] => Scope::None,
        [224..=239, ..] => Scope::Multicast,
        [127, ..] => Scope::Loopback,
        [6 | 11 | 21 | 22 | 25 | 26 | 28 | 29 | 30 | 51 | 55 | 56 | 240..=254, ..] => Scope::PseudoPrivate,
        [169, 254, ..] => Scope::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Scope::Private,
        [192, 0, 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Scope::Private,
        _ => Scope::Global,
    }
}

fn scope_v6(o: [u8; 16]) -> Scope {
    const LOOPBACK: [u8; 16] = Ipv6Addr::LOCALHOST.octets();
    const LINK_LOOPBACK: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    match o {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => Scope::None,
        [0xff, ..] => Scope::Multicast,
        LOOPBACK | LINK_LOOPBACK => Scope::Loopback,
        // The tenth byte is not looked at, as in the reference.
        [0, 0, 0, 0, 0, 0, 0, 0, 0, _, 0xff, 0xff, 127, ..] => Scope::Loopback,
        [0xfe, 0x80..=0xbf, ..] => Scope::LinkLocal,
        [0xfc | 0xfd, ..] => Scope::Private,
        _ => Scope::Global,
    }
}

/// May be used as a path at all: a scope that can carry one, and not tunnel-broker space (2001:470::/32). The port is
/// not looked at.
// spec: paths, "Valid physical address"
pub fn is_valid_path(endpoint: SocketAddr) -> bool {
    if let IpAddr::V6(v6) = endpoint.ip()
        && v6.segments()[..2] == [0x2001, 0x0470]
    {
        return false;
    }
    matches!(scope(endpoint.ip()), Scope::PseudoPrivate | Scope::Global | Scope::Shared | Scope::Private)
}

/// An address prefix, e.g. `10.0.0.0/8`. Bits beyond the prefix length are kept but do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Any address inside the prefix.
    pub addr: IpAddr,
    /// Leading bits that count: at most 32 or 128.
    pub bits: u8,
}

impl Prefix {
    /// A prefix; none if `bits` exceeds the address family's width.
    pub fn new(addr: IpAddr, bits: u8) -> Option<Prefix> {
        (bits <= if addr.is_ipv4() { 32 } else { 128 }).then_some(Prefix { addr, bits })
    }

    /// `ip` is of this family and shares the leading bits.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = u32::from(a) ^ u32::from(b);
                differing.checked_shr(32u32.saturating_sub(self.bits.into())).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = u128::from(a) ^ u128::from(b);
                differing.checked_shr(128u32.saturating_sub(self.bits.into())).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = NotEndpoint;
    fn from_str(s: &str) -> Result<Prefix, NotEndpoint> {
        const FORM: &str = "ip/prefix-length";
        let (addr, bits) = split_text(s, FORM)?;
        Prefix::new(addr, bits).ok_or_else(|| NotEndpoint { text: s.to_owned(), form: FORM })
    }
}
