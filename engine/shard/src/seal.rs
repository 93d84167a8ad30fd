//! How a frame becomes a packet and a packet becomes datagrams: assembled and sealed in one pass, split if need be. It must
//! never know why a packet takes the way it takes.

use rand::Rng;
use rand::rngs::StdRng;
use wire::fragment::{Part, datagrams_needed, split_even};
use wire::keys::Keys;
use wire::message::{ExtFrame, Frame, OrderMark};
use wire::packet::{HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, Packet, Suite, header};
use wire::{Address, Mac, NetworkId, Verb};

use crate::egress::Egress;
use crate::segment::HEADERS_MAX;
use crate::tables::Route;
use crate::{Counters, ETHERNET_HEADER_LEN};

/// Bytes of a FRAME packet before the Ethernet payload.
pub(crate) const PREFIX_LEN: usize = HDR_LEN + Frame::HEADER_LEN;
/// What a frame grows by if it is to be acknowledged.
pub(crate) const ACKED_LEN: usize = ExtFrame::HEADER_LEN - Frame::HEADER_LEN;
/// What it grows by if it is marked.
pub(crate) const MARKED_LEN: usize = ACKED_LEN + OrderMark::LEN;
/// The longest, with a segment's headers, which are made anew and do not lie where its payload does.
const PREFIX_MAX: usize = PREFIX_LEN + ACKED_LEN + HEADERS_MAX - ETHERNET_HEADER_LEN;

/// A frame between our own MAC and the peer's, which lies in two pieces.
pub(crate) struct Outgoing<'a> {
    pub(crate) to: Address,
    pub(crate) keys: &'a Keys,
    pub(crate) suite: Suite,
    pub(crate) network: NetworkId,
    pub(crate) ethertype: u16,
    /// What follows the Ethernet header, as far as it was made anew.
    pub(crate) headers: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// The payload ends with an order mark.
    pub(crate) marked: bool,
}

impl Outgoing<'_> {
    /// Bytes of a FRAME packet of it.
    pub(crate) fn len(&self) -> usize {
        PREFIX_LEN + self.headers.len() + self.payload.len()
    }

    /// What stands before the payload. `acked`: an EXT_FRAME that asks for acknowledgement; receivers treat it alike.
    // spec: bonding, "Probing, liveness, loss"
    #[inline(always)] // without bonds it is one FRAME header, made in place
    fn prefix<'p>(&self, id: u64, own: Address, acked: bool, room: &'p mut [u8; PREFIX_MAX]) -> &'p mut [u8] {
        let extended = acked || self.marked;
        let verb = if extended { Verb::ExtFrame } else { Verb::Frame };
        room[..HDR_LEN].copy_from_slice(&header(id, self.to, own, verb as u8));
        let at = if extended {
            let (to, from) = (Mac::of_member(self.network, self.to), Mac::of_member(self.network, own));
            let ext = &mut room[HDR_LEN..PREFIX_LEN + ACKED_LEN];
            ext[..8].copy_from_slice(&self.network.0.to_be_bytes());
            ext[8] = if acked { ExtFrame::ACK } else { 0 } | if self.marked { ExtFrame::MARKED } else { 0 };
            ext[9..15].copy_from_slice(&to.0);
            ext[15..21].copy_from_slice(&from.0);
            ext[21..].copy_from_slice(&self.ethertype.to_be_bytes());
            PREFIX_LEN + ACKED_LEN
        } else {
            room[HDR_LEN..PREFIX_LEN].copy_from_slice(&Frame::header(self.network, self.ethertype));
            PREFIX_LEN
        };
        let len = at + self.headers.len();
        room[at..len].copy_from_slice(self.headers);
        &mut room[..len]
    }

    #[inline(always)]
    fn seal(&self, prefix: &[u8], buffer: &mut [u8]) {
        buffer[..prefix.len()].copy_from_slice(prefix);
        self.keys.seal_copy(buffer, prefix.len(), self.payload, self.suite);
    }
}

/// What sealing takes besides the frame.
pub(crate) struct Sealer<'a> {
    pub(crate) own: Address,
    pub(crate) ids: &'a mut StdRng,
    /// Takes a packet that is too long for one datagram.
    pub(crate) scratch: &'a mut [u8],
    pub(crate) counters: &'a mut Counters,
}

impl Sealer<'_> {
    /// Sends a frame over one route. `sealed` is shown the packet as it leaves, if there is a buffer for it. Returns its
    /// length; 0 if no receiver would take it.
    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        frame: &Outgoing<'_>,
        acked: bool,
        route: Route,
        out: &mut impl Egress,
        sealed: impl FnOnce(&[u8]),
    ) -> usize {
        let mut room = [0; PREFIX_MAX];
        let prefix = frame.prefix(self.ids.next_u64(), self.own, acked, &mut room);
        let len = prefix.len() + frame.payload.len();
        let datagrams = datagrams_needed(len, route.mtu.into());
        let sent = match datagrams {
            1 => match out.udp(route.socket, route.remote, len) {
                Some(buffer) => {
                    frame.seal(prefix, buffer);
                    sealed(buffer);
                    1
                }
                None => 0,
            },
            2..=MAX_FRAGMENTS if len <= MAX_PACKET => {
                let packet = &mut self.scratch[..len];
                set_fragmented(prefix);
                frame.seal(prefix, packet);
                sealed(packet);
                send_split(packet, route, route.mtu, out)
            }
            _ => {
                self.counters.unsplittable += 1;
                return 0;
            }
        };
        self.counters.frames_out += 1;
        self.count(datagrams, sent);
        len
    }

    /// Sends one packet, sealed once, over several routes: the same bytes in datagrams that fit the narrowest of them.
    pub(crate) fn send_copies(
        &mut self,
        frame: &Outgoing<'_>,
        acked: bool,
        routes: impl Iterator<Item = Route> + Clone,
        out: &mut impl Egress,
        sealed: impl FnOnce(&[u8]),
    ) -> usize {
        let Some(mtu) = routes.clone().map(|route| route.mtu).min() else { return 0 };
        let mut room = [0; PREFIX_MAX];
        let prefix = frame.prefix(self.ids.next_u64(), self.own, acked, &mut room);
        let len = prefix.len() + frame.payload.len();
        let datagrams = datagrams_needed(len, mtu.into());
        if datagrams > MAX_FRAGMENTS || len > MAX_PACKET {
            self.counters.unsplittable += 1;
            return 0;
        }
        let packet = &mut self.scratch[..len];
        if datagrams > 1 {
            set_fragmented(prefix);
        }
        frame.seal(prefix, packet);
        sealed(packet);
        self.counters.frames_out += 1;
        let mut copies = 0;
        for route in routes {
            copies += 1;
            let sent = send_sealed(&self.scratch[..len], route, mtu, out);
            self.count(datagrams, sent);
        }
        self.counters.copies += copies - 1;
        len
    }

    /// Sends a packet that was sealed before, in datagrams of `mtu` bytes at most.
    pub(crate) fn send_again(&mut self, packet: &[u8], route: Route, mtu: u16, out: &mut impl Egress) {
        let sent = send_sealed(packet, route, mtu, out);
        self.count(datagrams_needed(packet.len(), mtu.into()), sent);
    }

    fn count(&mut self, datagrams: usize, sent: usize) {
        self.counters.datagrams_out += sent as u64;
        self.counters.no_buffer += (datagrams - sent) as u64;
    }
}

/// Whether a sealed packet may leave in datagrams of this size: the flag that says that it is split is sealed with it.
pub(crate) fn fits(packet: &[u8], mtu: u16) -> bool {
    let split = Packet::new(packet).is_ok_and(|packet| packet.fragmented());
    match datagrams_needed(packet.len(), mtu.into()) {
        1 => !split,
        2..=MAX_FRAGMENTS => split,
        _ => false,
    }
}

fn set_fragmented(prefix: &mut [u8]) {
    if let Ok(mut packet) = Packet::new(prefix) {
        packet.set_fragmented(true);
    }
}

/// Returns the number of datagrams that left.
fn send_sealed(packet: &[u8], route: Route, mtu: u16, out: &mut impl Egress) -> usize {
    if datagrams_needed(packet.len(), mtu.into()) > 1 {
        return send_split(packet, route, mtu, out);
    }
    let Some(buffer) = out.udp(route.socket, route.remote, packet.len()) else { return 0 };
    buffer.copy_from_slice(packet);
    1
}

/// Splits into datagrams of equal size, which leave as one GSO send. Receivers take parts of any size. Returns the number
/// of datagrams that left.
// spec: wire, "Fragmentation"
fn send_split(packet: &[u8], route: Route, mtu: u16, out: &mut impl Egress) -> usize {
    let mut sent = 0;
    for part in split_even(packet, mtu.into()).into_iter().flatten() {
        let Some(buffer) = out.udp(route.socket, route.remote, part.len()) else { break };
        copy_part(&part, buffer);
        sent += 1;
    }
    sent
}

fn copy_part(part: &Part<'_>, buffer: &mut [u8]) {
    let (header, data) = buffer.split_at_mut(part.header().len());
    header.copy_from_slice(part.header());
    data.copy_from_slice(part.data());
}
