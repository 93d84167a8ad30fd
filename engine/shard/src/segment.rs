//! Cutting a super-frame from the TAP into the frames it stands for, as a network card would: headers anew for each,
//! payload left where it is. It must never know who gets the frames.

use crate::ETHERNET_HEADER_LEN;
use crate::checksum::{fold, join, sum};
use crate::offload::{Gso, Offload, Partial};

/// Bytes of Ethernet, IP and TCP headers, VLAN tags and extension headers included. Super-frames with more are refused.
pub(crate) const HEADERS_MAX: usize = 256;

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_CHECKSUM: usize = 16;
const TCP_FLAGS: usize = 13;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER_LEN: usize = 8;

/// Computes the checksum that the kernel left open. False if there is no room for it where the header says.
pub(crate) fn complete(frame: &mut [u8], Partial { start, offset }: Partial) -> bool {
    let at = usize::from(start) + usize::from(offset);
    let Some(covered) = frame.get(usize::from(start)..).filter(|_| at + 2 <= frame.len()) else { return false };
    let checksum = never_zero(!sum(covered));
    put(frame, at, checksum);
    true
}

impl Partial {
    /// Computes the checksum that the kernel left open. False if there is no room for it where this says.
    pub fn complete(self, frame: &mut [u8]) -> bool {
        complete(frame, self)
    }
}

/// A super-frame on its way into pieces.
pub struct Segments<'a> {
    /// Those of the segment made last; before the first, as they came.
    headers: [u8; HEADERS_MAX],
    headers_len: usize,
    network: usize,
    transport: usize,
    v4: bool,
    tcp: bool,
    /// Where the checksum is.
    checksum: usize,
    /// The sum over the pseudo-header without its length.
    pseudo: u16,
    tcp_flags: u8,
    left: &'a [u8],
    bytes: usize,
    made: u32,
}

impl<'a> Segments<'a> {
    /// Understands a super-frame, or none that can be cut.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Option<Segments<'a>> {
        let ((kind, bytes), partial) = (offload.segments?, offload.checksum?);
        let network = network_header(frame)?;
        let ethertype: [u8; 2] = frame.get(network - 2..network)?.try_into().ok()?;
        let (v4, tcp) = match (kind, ethertype) {
            (Gso::Tcp4, IPV4) => (true, true),
            (Gso::Tcp6, IPV6) => (false, true),
            (Gso::Udp, IPV4) => (true, false),
            (Gso::Udp, IPV6) => (false, false),
            _ => return None,
        };
        let transport = usize::from(partial.start);
        if v4 {
            let length = usize::from(frame.get(network)? & 0x0f) * 4;
            let protocol = if tcp { TCP } else { UDP };
            if length < 20 || transport != network + length || *frame.get(network + 9)? != protocol {
                return None;
            }
        } else if transport < network + 40 {
            return None;
        }
        let checksum = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if usize::from(partial.offset) != checksum {
            return None;
        }
        let transport_len = if tcp { usize::from(frame.get(transport + 12)? >> 4) * 4 } else { UDP_HEADER_LEN };
        let headers_len = transport + transport_len;
        if bytes == 0 || (tcp && transport_len < 20) || headers_len > HEADERS_MAX || frame.len() <= headers_len {
            return None;
        }
        let (from, left) = frame.split_at(headers_len);
        if headers_len - network + left.len().min(bytes.into()) > usize::from(u16::MAX) {
            return None;
        }
        let mut headers = [0; HEADERS_MAX];
        headers[..headers_len].copy_from_slice(from);
        // what the kernel summed, but for the length of it all, which is not that of the pieces
        let whole = (frame.len() - transport) as u64;
        let pseudo = join([get(&headers, transport + checksum), !fold(whole)]);
        let tcp_flags = if tcp { headers[transport + TCP_FLAGS] } else { 0 };
        Some(Segments {
            headers,
            headers_len,
            network,
            transport,
            v4,
            tcp,
            checksum: transport + checksum,
            pseudo,
            tcp_flags,
            left,
            bytes: bytes.into(),
            made: 0,
        })
    }

    /// The super-frame's Ethernet header.
    pub(crate) fn ethernet(&self) -> [u8; ETHERNET_HEADER_LEN] {
        std::array::from_fn(|at| self.headers[at])
    }

    /// The transport header follows the IP header at once, so that everybody finds it in the same place.
    pub(crate) fn is_plain(&self) -> bool {
        let protocol = if self.tcp { TCP } else { UDP };
        self.v4 || (self.transport == self.network + 40 && self.headers[self.network + 6] == protocol)
    }

    /// How many segments are left.
    #[allow(clippy::len_without_is_empty)] // empty is when `next` says so
    pub fn len(&self) -> usize {
        self.left.len().div_ceil(self.bytes)
    }

    /// Bytes of the longest frame.
    pub(crate) fn longest(&self) -> usize {
        self.headers_len + self.bytes.min(self.left.len())
    }

    /// The next segment: all its headers, and its payload where it lies.
    #[allow(clippy::should_implement_trait)] // the headers are lent until the next one is made
    pub fn next(&mut self) -> Option<(&[u8], &'a [u8])> {
        if self.left.is_empty() {
            return None;
        }
        let (payload, left) = self.left.split_at(self.bytes.min(self.left.len()));
        let (first, last) = (self.made == 0, left.is_empty());
        self.left = left;
        self.made += 1;

        let (network, transport) = (self.network, self.transport);
        let headers = &mut self.headers[..self.headers_len];
        let length = (headers.len() - transport + payload.len()) as u16;
        if self.v4 {
            put(headers, network + 2, length + (transport - network) as u16);
            if !first {
                let id = get(headers, network + 4).wrapping_add(1);
                put(headers, network + 4, id);
            }
            put(headers, network + 10, 0);
            let checksum = !sum(&headers[network..transport]);
            put(headers, network + 10, checksum);
        } else {
            put(headers, network + 4, length + (transport - network - 40) as u16);
        }
        if self.tcp {
            if !first {
                let at = transport + 4;
                let sequence = u32::from_be_bytes([headers[at], headers[at + 1], headers[at + 2], headers[at + 3]]);
                headers[at..at + 4].copy_from_slice(&sequence.wrapping_add(self.bytes as u32).to_be_bytes());
            }
            let not_first = if first { 0 } else { CWR };
            let not_last = if last { 0 } else { FIN_PSH };
            headers[transport + TCP_FLAGS] = self.tcp_flags & !not_first & !not_last;
        } else {
            put(headers, transport + 4, length);
        }
        put(headers, self.checksum, 0);
        let checksum = !join([self.pseudo, length, sum(&headers[transport..]), sum(payload)]);
        // UDP's zero says that there is no checksum
        put(headers, self.checksum, if self.tcp { checksum } else { never_zero(checksum) });
        Some((headers, payload))
    }
}

/// Where the IP header starts, behind VLAN tags.
fn network_header(frame: &[u8]) -> Option<usize> {
    let mut at = ETHERTYPE;
    for _ in 0..VLAN_TAGS_MAX {
        if !VLAN.iter().any(|vlan| frame.get(at..at + 2) == Some(&vlan[..])) {
            break;
        }
        at += VLAN_TAG_LEN;
    }
    (frame.len() > at + 2).then_some(at + 2)
}

fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

pub(crate) fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
