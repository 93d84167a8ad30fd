//! Lowering the MSS that TCP connections announce, so that a full segment between two members fits one datagram instead
//! of two. It must never touch anything but SYN segments, nor raise what a host announced.

use wire::message::{ExtFrame, Frame, OrderMark};
use wire::packet::{DEFAULT_PHYS_MTU, HDR_LEN};
use wire::{Mac, NetworkId};

use crate::checksum::join;
use crate::segment::{get, put};
use crate::tables::Peer;
use crate::{ETHERNET_HEADER_LEN, Shard};

/// An MSS is never lowered further: every host takes segments of this size. // RFC 9293, 3.7.1
pub const MSS_MIN: u16 = 536;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const FRAGMENT_OFFSET_V4: u16 = 0x1fff;
const FRAGMENT_OFFSET_V6: u16 = 0xfff8;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// IPv6 extension headers looked through. Packets with more, or with others, stay as they are.
const EXTENSIONS_MAX: usize = 4;

const TCP_LEN: usize = 20;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const SYN: u8 = 0x02;
const OPTIONS_END: u8 = 0;
const NO_OPTION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;
/// TCP-AO, which signs the options too. // RFC 5925, 5.1
const AUTHENTICATION: u8 = 29;

impl Shard {
    /// Lowers what a frame of our TAP, its checksum complete, announces to the member it is for.
    #[inline]
    pub fn clamp_from_tap(&mut self, network: NetworkId, frame: &mut [u8]) {
        if let Some((found, (to, _))) = self.sought(frame) {
            self.clamp(network, frame, &found, to);
        }
    }

    /// Lowers what a frame for our TAP announces to our side.
    #[inline]
    pub fn clamp_to_tap(&mut self, network: NetworkId, frame: &mut [u8]) {
        if let Some((found, (_, from))) = self.sought(frame) {
            self.clamp(network, frame, &found, from);
        }
    }

    /// The SYN in this frame and the MACs it goes to and comes from, if such are to be changed.
    #[inline]
    fn sought(&self, frame: &[u8]) -> Option<(Syn, (Mac, Mac))> {
        if self.tables.clamp_mss { syn(frame).zip(macs(frame)) } else { None }
    }

    #[cold]
    fn clamp(&mut self, network: NetworkId, frame: &mut [u8], found: &Syn, far: Mac) {
        let peer = far.member(network).and_then(|member| self.tables.peers.get(&member));
        let datagram = peer.and_then(Peer::mtu).map_or(DEFAULT_PHYS_MTU, usize::from);
        // Some frames to a peer that we bond with ask for acknowledgement, and are longer.
        let plain = between_members(network, frame) && peer.is_none_or(|peer| peer.bond.is_none());
        let marks = peer.and_then(|peer| peer.bond.as_ref()).is_some_and(|bond| bond.marks());
        let datagram = datagram - if marks { OrderMark::LEN } else { 0 };
        if lower(frame, found, mss(datagram, plain, found.ip_len)) {
            self.counters.mss_clamped += 1;
        }
    }
}

/// The largest MSS whose full segments, behind an IP header of `ip_len` bytes, fit one datagram of `datagram` bytes.
fn mss(datagram: usize, plain: bool, ip_len: usize) -> u16 {
    let head = HDR_LEN + if plain { Frame::HEADER_LEN } else { ExtFrame::HEADER_LEN };
    let mss = datagram.saturating_sub(head + ip_len + TCP_LEN);
    u16::try_from(mss).unwrap_or(u16::MAX).max(MSS_MIN)
}

/// Destination and source.
fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *frame.first_chunk::<ETHERNET_HEADER_LEN>()?;
    Some((Mac([d0, d1, d2, d3, d4, d5]), Mac([s0, s1, s2, s3, s4, s5])))
}

/// A frame whose MACs a FRAME need not carry. Others are bridged and travel as EXT_FRAME.
fn between_members(network: NetworkId, frame: &[u8]) -> bool {
    macs(frame).is_some_and(|(to, from)| to.member(network).is_some() && from.member(network).is_some())
}

/// A SYN segment that was found in a frame.
#[derive(Clone, Copy, Debug)]
struct Syn {
    /// Where the TCP header starts and where its options end.
    transport: usize,
    options_end: usize,
    /// Bytes of an IP header without options: what the full segments of this connection have.
    ip_len: usize,
}

/// Finds a SYN that may be changed: whole up to the end of its options, and authenticated by nobody.
#[inline]
fn syn(frame: &[u8]) -> Option<Syn> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>()?;
    let (transport, end, ip_len) = match [ethernet[12], ethernet[13]] {
        IPV4 => tcp_v4(packet)?,
        IPV6 => tcp_v6(packet)?,
        _ => return None,
    };
    let header = packet.get(transport..end.min(packet.len()))?;
    if header.get(TCP_FLAGS)? & SYN == 0 {
        return None;
    }
    let len = usize::from(header[12] >> 4) * 4;
    let transport = ETHERNET_HEADER_LEN + transport;
    let found = Syn { transport, options_end: transport + len, ip_len };
    let whole = len >= TCP_LEN && len <= header.len();
    (whole && !options(frame, &found).any(|(kind, ..)| kind == AUTHENTICATION)).then_some(found)
}

/// Where TCP starts in an IPv4 packet, where the packet ends, and how long its plain header is.
#[inline]
fn tcp_v4(packet: &[u8]) -> Option<(usize, usize, usize)> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let first = get(header, 6) & FRAGMENT_OFFSET_V4 == 0;
    (header[0] >> 4 == 4 && len >= IPV4_LEN && header[9] == TCP && first).then_some((
        len,
        get(header, 2).into(),
        IPV4_LEN,
    ))
}

/// The same for IPv6.
#[inline]
fn tcp_v6(packet: &[u8]) -> Option<(usize, usize, usize)> {
    let header = packet.first_chunk::<IPV6_LEN>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut at, end) = (header[6], IPV6_LEN, IPV6_LEN + usize::from(get(header, 4)));
    for _ in 0..=EXTENSIONS_MAX {
        if next == TCP {
            return Some((at, end, IPV6_LEN));
        }
        let extension = packet.get(at..)?.first_chunk::<8>()?;
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => 8 + 8 * usize::from(extension[1]),
            FRAGMENT if get(extension, 2) & FRAGMENT_OFFSET_V6 == 0 => 8,
            _ => return None,
        };
        (next, at) = (extension[0], at + len);
    }
    None
}

/// Kind, place and length of each option.
fn options(frame: &[u8], found: &Syn) -> impl Iterator<Item = (u8, usize, usize)> {
    let (options, mut at) = (&frame[..found.options_end], found.transport + TCP_LEN);
    std::iter::from_fn(move || {
        let (kind, start) = (*options.get(at).filter(|&&kind| kind != OPTIONS_END)?, at);
        let len = match kind {
            NO_OPTION => 1,
            _ => usize::from(*options.get(at + 1).filter(|&&len| len >= 2)?),
        };
        at += len;
        (at <= options.len()).then_some((kind, start, len))
    })
}

/// Lowers the MSS to `max`, if the segment announces more. True if it did.
fn lower(frame: &mut [u8], found: &Syn, max: u16) -> bool {
    let mut lowered = false;
    let more = |frame: &[u8]| {
        let mss = options(frame, found).filter(|&(kind, _, len)| kind == MSS && len == MSS_LEN);
        mss.map(|(_, at, _)| at + 2).find(|&at| get(frame, at) > max)
    };
    while let Some(at) = more(frame) {
        let announced = get(frame, at);
        put(frame, at, max);
        update_checksum(frame, found.transport, at, announced, max);
        lowered = true;
    }
    lowered
}

/// Puts the checksum right after the number at `at` became another. // RFC 1624, equation 3
fn update_checksum(frame: &mut [u8], transport: usize, at: usize, old: u16, new: u16) {
    // behind an odd number of bytes its halves lie in two words, the other way round
    let as_summed = |number: u16| if (at - transport).is_multiple_of(2) { number } else { number.swap_bytes() };
    let checksum = get(frame, transport + TCP_CHECKSUM);
    put(frame, transport + TCP_CHECKSUM, !join([!checksum, !as_summed(old), as_summed(new)]));
}

#[cfg(test)]
mod tests;
