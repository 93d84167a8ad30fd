//! Joining the TCP segments or UDP datagrams of one flow that arrive in one turn to a super-frame for the TAP, so that
//! the kernel takes many frames at the price of one. Only what cutting it again would give back byte for byte is
//! joined, and only after every checksum was found right. It must never hold a frame beyond its turn, nor know who
//! sent it.
//!
//! A frame that may be continued is put into a slot of the TAP's own and grows there. Frames of one flow never
//! overtake one another: whatever does not continue its flow ends what is open of it first.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use wire::NetworkId;

use crate::Counters;
use crate::checksum::{join, sum};
use crate::egress::{Egress, TapSlot};
use crate::offload::{Gso, Offload, Partial};
use crate::segment::{get, put};

/// Flows that may grow side by side in one turn. One more ends the oldest.
pub const FLOWS_MAX: usize = 16;
/// Datagrams in one UDP super-frame: receivers of GRO messages expect no more.
pub const DATAGRAMS_MAX: u16 = 64;

/// Where the IP header is.
const NETWORK: usize = crate::ETHERNET_HEADER_LEN;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Longest IP packet.
const IP_MAX: usize = 65_535;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// As right a checksum as zero, but not the one that a sender computes, so it would not come back.
const OTHER_ZERO: u16 = 0xffff;
const FRAGMENT: u16 = 0x3fff;
const DONT_FRAGMENT: u16 = 0x4000;

/// The super-frames that grow in this turn.
pub struct Coalescer {
    /// Oldest first.
    flows: Vec<Flow>,
    hasher: FixedState,
}

/// One frame that may grow.
struct Flow {
    network: NetworkId,
    /// Of addresses; of addresses and ports. Who collides with another only makes it end sooner.
    pair: u64,
    flow: u64,
    kind: Gso,
    slot: TapSlot,
    len: usize,
    transport: usize,
    headers: usize,
    /// Payload bytes of each segment but the last.
    bytes: usize,
    segments: u16,
    /// What the next one must bring: TCP's sequence number.
    sequence: u32,
    id: u16,
    /// How the IPv4 IDs go on, once there are two.
    step: Option<u16>,
    push: bool,
}

/// How a frame is looked at.
enum Shape {
    /// Neither TCP nor UDP: nothing to keep it in order with.
    Other,
    /// Of these addresses; its ports are out of sight.
    Pair(u64),
    /// Of this flow, but not to be joined.
    Flow(u64),
    /// To be joined if it fits.
    Segment(Segment),
}

struct Segment {
    pair: u64,
    flow: u64,
    kind: Gso,
    transport: usize,
    headers: usize,
    payload: usize,
    sequence: u32,
    id: u16,
    push: bool,
}

impl Coalescer {
    /// Nothing is open yet. `seed` should be random: who collides with another only makes it end sooner.
    pub fn new(seed: u64) -> Coalescer {
        Coalescer { flows: Vec::with_capacity(FLOWS_MAX), hasher: FixedState::with_seed(seed) }
    }

    /// Takes a frame for a TAP.
    pub fn push(&mut self, network: NetworkId, frame: &[u8], out: &mut impl Egress, counters: &mut Counters) {
        match self.shape(frame) {
            Shape::Other => out.tap(network, frame),
            Shape::Pair(pair) => {
                self.end_those(|open| open.network == network && open.pair == pair, out, counters);
                out.tap(network, frame);
            }
            Shape::Flow(flow) => {
                self.end_those(|open| open.network == network && open.flow == flow, out, counters);
                out.tap(network, frame);
            }
            Shape::Segment(segment) => self.segment(network, frame, &segment, out, counters),
        }
    }

    /// Ends everything that is open: the turn is over.
    pub fn flush(&mut self, out: &mut impl Egress, counters: &mut Counters) {
        for flow in self.flows.drain(..) {
            flow.end(out, counters);
        }
    }

    fn segment(
        &mut self,
        network: NetworkId,
        frame: &[u8],
        segment: &Segment,
        out: &mut impl Egress,
        counters: &mut Counters,
    ) {
        if let Some(at) = self.flows.iter().position(|open| open.network == network && open.flow == segment.flow) {
            let flow = &mut self.flows[at];
            let taken = flow.take(frame, segment, out.tap_slot(flow.slot));
            if !taken || flow.is_closed(segment) {
                self.flows.remove(at).end(out, counters);
            }
            if taken {
                return;
            }
        }
        if segment.push {
            return out.tap(network, frame);
        }
        if self.flows.len() == FLOWS_MAX {
            self.flows.remove(0).end(out, counters);
        }
        let Some(slot) = out.tap_open(network, segment.kind) else { return out.tap(network, frame) };
        let Some(room) = out.tap_slot(slot).get_mut(..frame.len()) else {
            out.tap_close(slot, 0, Offload::default());
            return out.tap(network, frame);
        };
        room.copy_from_slice(frame);
        self.flows.push(Flow::new(network, slot, segment));
    }

    fn end_those(&mut self, which: impl Fn(&Flow) -> bool, out: &mut impl Egress, counters: &mut Counters) {
        let mut at = 0;
        while let Some(flow) = self.flows.get(at) {
            if which(flow) {
                self.flows.remove(at).end(out, counters);
            } else {
                at += 1;
            }
        }
    }

    fn shape(&self, frame: &[u8]) -> Shape {
        match frame.get(12..NETWORK) {
            Some(ethertype) if ethertype == IPV4 => self.shape_v4(frame),
            Some(ethertype) if ethertype == IPV6 => self.shape_v6(frame),
            _ => Shape::Other,
        }
    }

    fn shape_v4(&self, frame: &[u8]) -> Shape {
        let Some(header) = frame.get(NETWORK..NETWORK + IPV4_LEN) else { return Shape::Other };
        let protocol = header[9];
        if !matches!(protocol, TCP | UDP) {
            return Shape::Other;
        }
        let addresses = &header[12..20];
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < IPV4_LEN || get(header, 6) & FRAGMENT != 0 {
            return Shape::Pair(self.hasher.hash_one(addresses));
        }
        let whole = header[0] == 0x45 && usize::from(get(header, 2)) == frame.len() - NETWORK;
        let plain = whole && sum(header) == 0xffff && get(header, 10) != OTHER_ZERO;
        self.shape_transport(frame, protocol, addresses, NETWORK + header_len, plain, get(header, 4))
    }

    fn shape_v6(&self, frame: &[u8]) -> Shape {
        let Some(header) = frame.get(NETWORK..NETWORK + IPV6_LEN) else { return Shape::Other };
        let (next, addresses) = (header[6], &header[8..40]);
        if !matches!(next, TCP | UDP) {
            return Shape::Pair(self.hasher.hash_one(addresses));
        }
        let plain = header[0] >> 4 == 6 && usize::from(get(header, 4)) == frame.len() - NETWORK - IPV6_LEN;
        self.shape_transport(frame, next, addresses, NETWORK + IPV6_LEN, plain, 0)
    }

    fn shape_transport(
        &self,
        frame: &[u8],
        protocol: u8,
        addresses: &[u8],
        transport: usize,
        plain: bool,
        id: u16,
    ) -> Shape {
        let pair = self.hasher.hash_one(addresses);
        let Some(header) = frame.get(transport..).filter(|header| header.len() >= 8) else { return Shape::Pair(pair) };
        let flow = self.hasher.hash_one((pair, protocol, &header[..4]));
        let Some(parts) = (if protocol == TCP { tcp(header) } else { udp(header) }).filter(|_| plain) else {
            return Shape::Flow(flow);
        };
        let kind = match (protocol, addresses.len()) {
            (UDP, _) => Gso::Udp,
            (_, 8) => Gso::Tcp4,
            _ => Gso::Tcp6,
        };
        let (header_len, sequence, push) = parts;
        let (headers, payload) = (transport + header_len, header.len() - header_len);
        Shape::Segment(Segment { pair, flow, kind, transport, headers, payload, sequence, id, push })
    }
}

/// Header length, sequence number and PSH of a segment that may be joined: data, with no flag but ACK and PSH.
fn tcp(header: &[u8]) -> Option<(usize, u32, bool)> {
    let header_len = usize::from(header.get(12)? >> 4) * 4;
    let flags = header[13..].first()?;
    if header_len < 20 || header.len() <= header_len || flags & !PSH != ACK || get(header, 16) == OTHER_ZERO {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((header_len, sequence, flags & PSH != 0))
}

/// The same of a datagram: one with data and a checksum.
fn udp(header: &[u8]) -> Option<(usize, u32, bool)> {
    let whole = usize::from(get(header, 4)) == header.len();
    (whole && header.len() > 8 && get(header, 6) != 0).then_some((8, 0, false))
}

impl Flow {
    fn new(network: NetworkId, slot: TapSlot, first: &Segment) -> Flow {
        Flow {
            network,
            pair: first.pair,
            flow: first.flow,
            kind: first.kind,
            slot,
            len: first.headers + first.payload,
            transport: first.transport,
            headers: first.headers,
            bytes: first.payload,
            segments: 1,
            sequence: first.sequence.wrapping_add(first.payload as u32),
            id: first.id,
            step: None,
            push: false,
        }
    }

    /// Appends a segment of the flow to the slot. False if it does not continue what is there.
    fn take(&mut self, frame: &[u8], segment: &Segment, slot: &mut [u8]) -> bool {
        let len = self.len + segment.payload;
        let fits = segment.payload <= self.bytes && len <= slot.len() && len - NETWORK <= IP_MAX;
        let room = self.kind != Gso::Udp || self.segments < DATAGRAMS_MAX;
        let next = self.kind != Gso::Udp && segment.sequence != self.sequence;
        if !fits || !room || next || segment.kind != self.kind {
            return false;
        }
        let Some(step) = self.step_to(segment, frame) else { return false };
        let (ours, theirs) = (&slot[..self.len], frame);
        if !self.same_headers(ours, theirs, segment) {
            return false;
        }
        if !genuine(theirs, self.transport) || (self.segments == 1 && !genuine(ours, self.transport)) {
            return false;
        }
        slot[self.len..len].copy_from_slice(&frame[segment.headers..]);
        self.len = len;
        self.segments += 1;
        self.sequence = self.sequence.wrapping_add(segment.payload as u32);
        self.id = segment.id;
        self.step = Some(step);
        self.push = segment.push;
        true
    }

    /// Nothing may follow this segment, which was just taken.
    fn is_closed(&self, segment: &Segment) -> bool {
        segment.push || segment.payload < self.bytes
    }

    /// How the IPv4 ID goes on: counted up, or the same for packets that are never cut, where it says nothing
    /// (RFC 6864). None if neither, or not as before.
    fn step_to(&self, segment: &Segment, frame: &[u8]) -> Option<u16> {
        if frame[12..NETWORK] == IPV6 {
            return Some(0);
        }
        let step = segment.id.wrapping_sub(self.id);
        let atomic = get(frame, NETWORK + 6) & DONT_FRAGMENT != 0;
        let allowed = step == 1 || (step == 0 && atomic);
        (allowed && self.step.is_none_or(|before| before == step)).then_some(step)
    }

    /// All bytes of both headers are equal, but those that differ from segment to segment.
    fn same_headers(&self, ours: &[u8], theirs: &[u8], segment: &Segment) -> bool {
        if segment.headers != self.headers || segment.transport != self.transport {
            return false;
        }
        let same = |from: usize, to: usize| ours[from..to] == theirs[from..to];
        let t = self.transport;
        let network = if ours[12..NETWORK] == IPV4 {
            same(0, NETWORK + 2) && same(NETWORK + 6, NETWORK + 10) && same(NETWORK + 12, t)
        } else {
            same(0, NETWORK + 4) && same(NETWORK + 6, t)
        };
        let transport = match self.kind {
            Gso::Udp => same(t, t + 4),
            // acknowledgement and header length; window; urgent pointer and options
            Gso::Tcp4 | Gso::Tcp6 => {
                same(t, t + 4) && same(t + 8, t + 13) && same(t + 14, t + 16) && same(t + 18, self.headers)
            }
        };
        network && transport
    }

    /// Hands over what has grown. A frame that stayed alone goes as it came.
    fn end(self, out: &mut impl Egress, counters: &mut Counters) {
        if self.segments == 1 {
            return out.tap_close(self.slot, self.len, Offload::default());
        }
        counters.super_frames_in += 1;
        counters.joined_in += u64::from(self.segments);
        let Some(frame) = out.tap_slot(self.slot).get_mut(..self.len) else {
            return out.tap_close(self.slot, 0, Offload::default());
        };
        let (t, transport_len) = (self.transport, self.len - self.transport);
        if frame[12..NETWORK] == IPV4 {
            put(frame, NETWORK + 2, (self.len - NETWORK) as u16);
            put(frame, NETWORK + 10, 0);
            let checksum = !sum(&frame[NETWORK..t]);
            put(frame, NETWORK + 10, checksum);
        } else {
            put(frame, NETWORK + 4, transport_len as u16);
        }
        let offset = if self.kind == Gso::Udp {
            put(frame, t + 4, transport_len as u16);
            6
        } else {
            frame[t + 13] |= if self.push { PSH } else { 0 };
            16
        };
        let pseudo = pseudo_header(frame, t);
        put(frame, t + offset, pseudo);
        let offload = Offload {
            checksum: Some(Partial { start: t as u16, offset: offset as u16 }),
            segments: Some((self.kind, self.bytes as u16)),
            headers_len: self.headers as u16,
        };
        out.tap_close(self.slot, self.len, offload);
    }
}

/// Whether the TCP or UDP checksum of a frame is right.
fn genuine(frame: &[u8], transport: usize) -> bool {
    join([pseudo_header(frame, transport), sum(&frame[transport..])]) == 0xffff
}

/// The sum over the pseudo-header of a frame without extension headers.
fn pseudo_header(frame: &[u8], transport: usize) -> u16 {
    let (protocol, addresses) =
        if frame[12..NETWORK] == IPV4 { (frame[NETWORK + 9], NETWORK + 12) } else { (frame[NETWORK + 6], NETWORK + 8) };
    join([sum(&frame[addresses..transport]), u16::from(protocol), (frame.len() - transport) as u16])
}
