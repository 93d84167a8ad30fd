//! The frame around every message: telling datagrams apart, the packet header and its flags byte, as a checked view
//! over bytes. It knows where fields lie; it must never know what a verb means or how a packet is protected.
//!
//! ```text
//!         0               1               2               3
//!    0 |                       packet ID                               |
//!    8 |            destination (40 bits)              | source ...    |
//!   16 | ... source | FLAGS |            MAC (64 bits) ...             |
//!   24 |        ... MAC       | VERB | payload ...
//! ```

use std::ops::Range;

use crate::address::Address;
use crate::read::Malformed;

// spec: wire, "Constants"

/// Protocol version we announce (1.8 to 1.14 of ZeroTierOne).
pub const PROTO_VERSION: u8 = 12;
/// Lower protocol versions are refused.
pub const PROTO_MIN: u8 = 4;
/// First address byte that no node has; at offset 13 of a datagram it marks a fragment.
pub const FRAGMENT_INDICATOR: u8 = 0xff;
/// Smallest packet in bytes: 27 of header, 1 of verb.
pub const HDR_LEN: usize = 28;
/// Fragment header in bytes. The smallest fragment is one longer.
pub const FRAG_HDR_LEN: usize = 16;
/// UDP payload bytes per datagram unless configured.
pub const DEFAULT_PHYS_MTU: usize = 1432;
/// Lower clamp of a configured physical MTU, bytes of UDP payload.
pub const MIN_PHYS_MTU: usize = 1400;
/// Upper clamp of a configured physical MTU, bytes of UDP payload.
pub const MAX_PHYS_MTU: usize = 10324;
/// Datagrams per packet that a receiver accepts.
pub const MAX_FRAGMENTS: usize = 7;
/// Largest packet in bytes, header included.
pub const MAX_PACKET: usize = 10024;
/// Largest payload in bytes, and the limit of decompression.
pub const MAX_PAYLOAD: usize = MAX_PACKET - HDR_LEN;
/// The hop counter has three bits.
pub const PROTO_MAX_HOPS: u8 = 7;
/// A relay forwards only while the hop counter is below this.
pub const RELAY_MAX_HOPS: u8 = 3;
/// Length of a legacy LAN beacon in bytes.
pub const BEACON_LEN: usize = 13;

// spec: wire, "Header"
const ID: Range<usize> = 0..8;
const DESTINATION: Range<usize> = 8..13;
const SOURCE: Range<usize> = 13..18;
pub(crate) const FLAGS: usize = 18;
pub(crate) const MAC: Range<usize> = 19..27;
/// Offset of the verb byte, where encryption starts.
pub(crate) const VERB: usize = 27;

const FLAG_LEGACY_ENCRYPTED: u8 = 0x80;
const FLAG_FRAGMENTED: u8 = 0x40;
const FLAG_SUITE: u8 = 0x38;
const FLAG_HOPS: u8 = 0x07;
const VERB_COMPRESSED: u8 = 0x80;
const VERB_NUMBER: u8 = 0x1f;

/// How a packet is protected. // spec: wire, "Cipher suites"
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// In clear, with a Poly1305 MAC: HELLO and path measurements.
    Poly1305 = 0,
    /// Salsa20/12 with a Poly1305 MAC: peers of unknown or old version.
    Salsa2012Poly1305 = 1,
    /// In clear, the MAC field holds the ID of a configured trusted path.
    TrustedPath = 2,
    /// AES-GMAC-SIV: peers of protocol version 12.
    AesGmacSiv = 3,
}

impl Suite {
    /// The suite a flags byte names; none for the undefined 4 to 7.
    pub const fn from_flags(flags: u8) -> Option<Suite> {
        match (flags & FLAG_SUITE) >> 3 {
            0 => Some(Suite::Poly1305),
            1 => Some(Suite::Salsa2012Poly1305),
            2 => Some(Suite::TrustedPath),
            3 => Some(Suite::AesGmacSiv),
            _ => None,
        }
    }

    /// `flags` as a sender of this suite writes it: fragmented bit kept, hops 0, bit 0x80 for suite 1 only.
    pub const fn flags(self, flags: u8) -> u8 {
        let legacy = if matches!(self, Suite::Salsa2012Poly1305) { FLAG_LEGACY_ENCRYPTED } else { 0 };
        (flags & FLAG_FRAGMENTED) | legacy | (self as u8) << 3
    }
}

/// What a UDP payload is, as far as its length and byte 13 tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A packet, or the first part of one.
    Head,
    /// A further part of a packet.
    Fragment,
    /// A legacy LAN beacon.
    Beacon,
    /// Nothing we know.
    Ignored,
}

/// Tells datagrams apart; the order of the tests is part of the protocol. // spec: wire, "Telling datagrams apart"
pub fn classify(datagram: &[u8]) -> Datagram {
    if datagram.len() == BEACON_LEN {
        return Datagram::Beacon;
    }
    if datagram.len() <= FRAG_HDR_LEN {
        return Datagram::Ignored;
    }
    if datagram[SOURCE.start] == FRAGMENT_INDICATOR {
        return Datagram::Fragment;
    }
    if datagram.len() >= HDR_LEN { Datagram::Head } else { Datagram::Ignored }
}

/// Bytes that are long enough for a packet. Setters exist when the bytes are mutable.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Refuses what is shorter than a header and verb, or longer than any packet.
    pub fn new(bytes: T) -> Result<Packet<T>, Malformed> {
        match bytes.as_ref().len() {
            HDR_LEN..=MAX_PACKET => Ok(Packet { bytes }),
            _ => Err(Malformed { what: "packet length" }),
        }
    }

    /// The bytes again.
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The whole packet.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.as_ref()[at]
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes.as_ref()[at..at + N]);
        field
    }

    /// Packet ID as it stands. In suite 3 it is another one before sealing and after.
    pub fn id(&self) -> u64 {
        u64::from_be_bytes(self.array(ID.start))
    }

    /// Whom it is for.
    pub fn destination(&self) -> Address {
        Address::from_bytes(self.array(DESTINATION.start))
    }

    /// Whom it claims to be from.
    pub fn source(&self) -> Address {
        Address::from_bytes(self.array(SOURCE.start))
    }

    /// Flags, cipher suite and hops in one byte.
    pub fn flags(&self) -> u8 {
        self.byte(FLAGS)
    }

    /// Relays passed so far; the one part of the header that is not authenticated.
    pub fn hops(&self) -> u8 {
        self.flags() & FLAG_HOPS
    }

    /// The suite; none if undefined.
    pub fn suite(&self) -> Option<Suite> {
        Suite::from_flags(self.flags())
    }

    /// More datagrams belong to this packet. Stays set after reassembly.
    pub fn fragmented(&self) -> bool {
        self.flags() & FLAG_FRAGMENTED != 0
    }

    /// The MAC field read as the ID of a trusted path (suite 2).
    pub fn trusted_path(&self) -> u64 {
        u64::from_be_bytes(self.array(MAC.start))
    }

    /// Verb number and flags in one byte; encrypted in suites 1 and 3 until opened.
    pub fn verb_byte(&self) -> u8 {
        self.byte(VERB)
    }

    /// The verb. Bits 5 and 6 of the verb byte mean nothing.
    pub fn verb_number(&self) -> u8 {
        self.verb_byte() & VERB_NUMBER
    }

    /// The payload is an LZ4 block.
    pub fn compressed(&self) -> bool {
        self.verb_byte() & VERB_COMPRESSED != 0
    }

    /// What follows the verb byte.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[HDR_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    fn set(&mut self, at: usize, field: &[u8]) {
        self.bytes.as_mut()[at..at + field.len()].copy_from_slice(field);
    }

    /// Sets the packet ID.
    pub fn set_id(&mut self, id: u64) {
        self.set(ID.start, &id.to_be_bytes());
    }

    /// Sets the destination.
    pub fn set_destination(&mut self, to: Address) {
        self.set(DESTINATION.start, &to.to_bytes());
    }

    /// Sets the source.
    pub fn set_source(&mut self, from: Address) {
        self.set(SOURCE.start, &from.to_bytes());
    }

    /// Says whether more datagrams belong to this packet. Authenticated: decide before sealing.
    pub fn set_fragmented(&mut self, fragmented: bool) {
        let rest = self.flags() & !FLAG_FRAGMENTED;
        self.set(FLAGS, &[if fragmented { rest | FLAG_FRAGMENTED } else { rest }]);
    }

    /// What a relay does to the hop counter: one more, modulo 8. It forwards only below [`RELAY_MAX_HOPS`].
    pub fn increment_hops(&mut self) {
        let flags = self.flags();
        self.set(FLAGS, &[(flags & !FLAG_HOPS) | (flags.wrapping_add(1) & FLAG_HOPS)]);
    }

    /// Makes it a packet of suite 2, in clear, with the given path ID. // spec: wire, "Suite 2 (trusted path)"
    pub fn set_trusted_path(&mut self, path_id: u64) {
        let flags = Suite::TrustedPath.flags(self.flags());
        self.set(FLAGS, &[flags]);
        self.set(MAC.start, &path_id.to_be_bytes());
    }

    /// Sets the whole verb byte.
    pub fn set_verb_byte(&mut self, verb: u8) {
        self.set(VERB, &[verb]);
    }

    /// Says whether the payload is an LZ4 block.
    pub fn set_compressed(&mut self, compressed: bool) {
        let rest = self.verb_byte() & !VERB_COMPRESSED;
        self.set_verb_byte(if compressed { rest | VERB_COMPRESSED } else { rest });
    }

    /// What follows the verb byte.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[HDR_LEN..]
    }
}

/// Header and verb of a packet yet to be sealed: flags and MAC are zero.
pub fn header(id: u64, destination: Address, source: Address, verb: u8) -> [u8; HDR_LEN] {
    let mut packet = Packet { bytes: [0; HDR_LEN] };
    packet.set_id(id);
    packet.set_destination(destination);
    packet.set_source(source);
    packet.set_verb_byte(verb);
    packet.bytes
}

/// A packet to which the payload is yet to be appended.
pub fn head(id: u64, destination: Address, source: Address, verb: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(DEFAULT_PHYS_MTU);
    packet.extend_from_slice(&header(id, destination, source, verb));
    packet
}

/// Bytes that are long enough for a fragment. // spec: wire, "Fragment header"
///
/// ```text
///    0 |                       packet ID                               |
///    8 |            destination (40 bits)              | 0xff  |tot|no |
///   15 | hops  | data ...
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fragment<T> {
    bytes: T,
}

const FRAGMENT_COUNT: usize = 14;
const FRAGMENT_HOPS: usize = 15;

impl<T: AsRef<[u8]>> Fragment<T> {
    /// Refuses what has no data or no fragment indicator.
    pub fn new(bytes: T) -> Result<Fragment<T>, Malformed> {
        match classify(bytes.as_ref()) {
            Datagram::Fragment => Ok(Fragment { bytes }),
            _ => Err(Malformed { what: "fragment" }),
        }
    }

    /// The bytes again.
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// ID of the packet it belongs to, as on the wire.
    pub fn id(&self) -> u64 {
        let mut id = [0; 8];
        id.copy_from_slice(&self.bytes.as_ref()[ID]);
        u64::from_be_bytes(id)
    }

    /// Whom the packet is for.
    pub fn destination(&self) -> Address {
        let mut to = [0; Address::LEN];
        to.copy_from_slice(&self.bytes.as_ref()[DESTINATION]);
        Address::from_bytes(to)
    }

    /// Datagrams of the packet, head included, as claimed: 0 to 15.
    pub fn total(&self) -> u8 {
        self.bytes.as_ref()[FRAGMENT_COUNT] >> 4
    }

    /// Which of them this is, as claimed: 0 to 15. The head would be 0.
    pub fn number(&self) -> u8 {
        self.bytes.as_ref()[FRAGMENT_COUNT] & 0x0f
    }

    /// Hop count: the whole byte, unlike in a head.
    pub fn hops(&self) -> u8 {
        self.bytes.as_ref()[FRAGMENT_HOPS]
    }

    /// This part of the packet, at least one byte.
    pub fn data(&self) -> &[u8] {
        &self.bytes.as_ref()[FRAG_HDR_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Fragment<T> {
    /// What a relay does to the hop count. It forwards only below [`RELAY_MAX_HOPS`].
    pub fn increment_hops(&mut self) {
        let hops = self.hops().wrapping_add(1) & FLAG_HOPS;
        self.bytes.as_mut()[FRAGMENT_HOPS] = hops;
    }
}

/// The header of fragment `number` of `total` of a sealed packet with this ID and destination bytes.
pub fn fragment_header(packet: &[u8; HDR_LEN], total: u8, number: u8) -> [u8; FRAG_HDR_LEN] {
    let mut header = [0; FRAG_HDR_LEN];
    header[..SOURCE.start].copy_from_slice(&packet[..SOURCE.start]);
    header[SOURCE.start] = FRAGMENT_INDICATOR;
    header[FRAGMENT_COUNT] = total << 4 | number;
    header
}
