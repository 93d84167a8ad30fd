//! Addresses, network IDs, MACs and multicast groups. // spec: wire, "Addresses, network IDs, MACs"

use std::fmt;
use std::str::FromStr;

use crate::read::{Malformed, Reader};

/// A node's 40-bit address, derived from its identity. Prints as 10 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// Bytes of an address on the wire.
    pub const LEN: usize = 5;
    /// The address of nobody.
    pub const ZERO: Address = Address(0);

    /// The low 40 bits of `n`.
    pub const fn from_u64(n: u64) -> Address {
        Address(n & 0xff_ffff_ffff)
    }

    /// The address as a number below 2^40.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// Most significant byte first, as on the wire.
    pub const fn from_bytes(b: [u8; 5]) -> Address {
        Address(u64::from_be_bytes([0, 0, 0, b[0], b[1], b[2], b[3], b[4]]))
    }

    /// Most significant byte first, as on the wire.
    pub const fn to_bytes(self) -> [u8; 5] {
        let b = self.0.to_be_bytes();
        [b[3], b[4], b[5], b[6], b[7]]
    }

    /// Zero, or first byte 0xff: no node may have it.
    pub const fn is_reserved(self) -> bool {
        self.0 == 0 || self.0 >> 32 == 0xff
    }

    /// Reads the five bytes of an address.
    pub fn read(r: &mut Reader<'_>) -> Result<Address, Malformed> {
        r.array("address").map(Address::from_bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not the hex form it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} hex digits")]
pub struct NotHex {
    /// What was given.
    pub text: String,
    /// How many hex digits it takes.
    pub digits: usize,
}

fn parse_hex(s: &str, digits: usize) -> Result<u64, NotHex> {
    let bad = || NotHex { text: s.to_owned(), digits };
    if s.len() != digits || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    u64::from_str_radix(s, 16).map_err(|_| bad())
}

impl FromStr for Address {
    type Err = NotHex;
    fn from_str(s: &str) -> Result<Address, NotHex> {
        parse_hex(s, 10).map(Address)
    }
}

/// A virtual network's 64-bit ID: controller address, then network number. Prints as 16 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u64);

impl NetworkId {
    /// The node that signs this network's configuration.
    pub const fn controller(self) -> Address {
        Address::from_u64(self.0 >> 24)
    }

    /// IDs whose first byte is 0xff have no controller.
    pub const fn is_ad_hoc(self) -> bool {
        self.0 >> 56 == 0xff
    }

    /// First octet of every member's MAC. 0x52 is avoided because KVM uses it.
    pub const fn mac_octet(self) -> u8 {
        let o = (self.0 as u8 & 0xfe) | 0x02;
        if o == 0x52 { 0x32 } else { o }
    }

    fn mac_mask(self) -> [u8; 5] {
        let b = self.0.to_le_bytes();
        [b[1], b[2], b[3], b[4], b[5]]
    }

    /// Reads the eight bytes of a network ID.
    pub fn read(r: &mut Reader<'_>) -> Result<NetworkId, Malformed> {
        r.u64("network id").map(NetworkId)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NetworkId {
    type Err = NotHex;
    fn from_str(s: &str) -> Result<NetworkId, NotHex> {
        parse_hex(s, 16).map(NetworkId)
    }
}

/// An Ethernet address. Prints as six colon-separated hex pairs.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// The MAC that `member` has on `network`.
    pub fn of_member(network: NetworkId, member: Address) -> Mac {
        let (m, a) = (network.mac_mask(), member.to_bytes());
        Mac([network.mac_octet(), a[0] ^ m[0], a[1] ^ m[1], a[2] ^ m[2], a[3] ^ m[3], a[4] ^ m[4]])
    }

    /// The member whose MAC on `network` this would be; none for multicast and for another first octet.
    pub fn member(self, network: NetworkId) -> Option<Address> {
        let (m, b) = (network.mac_mask(), self.0);
        (b[0] == network.mac_octet())
            .then(|| Address::from_bytes([b[1] ^ m[0], b[2] ^ m[1], b[3] ^ m[2], b[4] ^ m[3], b[5] ^ m[4]]))
    }

    /// Multicast, broadcast included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Reads the six bytes of a MAC.
    pub fn read(r: &mut Reader<'_>) -> Result<Mac, Malformed> {
        r.array("mac").map(Mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A multicast group: MAC and "additional distinguishing information", which is 0 except for IPv4 ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MulticastGroup {
    /// Multicast MAC of the group.
    pub mac: Mac,
    /// The IPv4 address asked for, in ARP; else 0.
    pub adi: u32,
}

impl MulticastGroup {
    /// The group on which `ip` is resolved: ARP for IPv4, solicited-node for IPv6.
    pub fn for_resolving(ip: std::net::IpAddr) -> MulticastGroup {
        match ip {
            std::net::IpAddr::V4(v4) => MulticastGroup { mac: Mac::BROADCAST, adi: u32::from(v4) },
            std::net::IpAddr::V6(v6) => {
                let o = v6.octets();
                MulticastGroup { mac: Mac([0x33, 0x33, 0xff, o[13], o[14], o[15]]), adi: 0 }
            }
        }
    }

    /// The group an Ethernet frame to a multicast MAC goes to: its MAC, or the ARP group for an IPv4 ARP request.
    pub fn of_frame(to: Mac, ethertype: u16, payload: &[u8]) -> MulticastGroup {
        if to == Mac::BROADCAST
            && ethertype == 0x0806
            && payload.len() >= 28
            && payload[2..6] == [0x08, 0x00, 6, 4]
            && payload[7] == 1
        {
            let ip = [payload[24], payload[25], payload[26], payload[27]];
            return MulticastGroup { mac: to, adi: u32::from_be_bytes(ip) };
        }
        MulticastGroup { mac: to, adi: 0 }
    }

    /// Reads MAC and ADI, ten bytes.
    pub fn read(r: &mut Reader<'_>) -> Result<MulticastGroup, Malformed> {
        Ok(MulticastGroup { mac: Mac::read(r)?, adi: r.u32("adi")? })
    }
}
