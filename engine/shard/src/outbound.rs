//! A frame's way out: TAP, member and route, sealed while it is copied, datagrams. Read it from top to bottom. It must
//! never wait for anything: a frame whose way is not known now is the control plane's.

use network::rules::{self, Direction};
use rand::Rng;
use rand::rngs::StdRng;
use wire::fragment::{Part, datagrams_needed, split_even};
use wire::keys::Keys;
use wire::message::Frame;
use wire::packet::{HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, Packet, Suite, header};
use wire::{Address, Mac, NetworkId, Verb};

use crate::egress::{Egress, ToControl};
use crate::filter::{Fate, Rules};
use crate::offload::{Offload, UnknownOffload};
use crate::segment::{HEADERS_MAX, Segments, complete};
use crate::tables::{Route, Way};
use crate::{Counters, ETHERNET_HEADER_LEN, Path, Shard};

/// Bytes of a FRAME packet before the Ethernet payload.
const PREFIX_LEN: usize = HDR_LEN + Frame::HEADER_LEN;
/// The same with a segment's headers, which are made anew and do not lie where its payload does.
const PREFIX_MAX: usize = PREFIX_LEN + HEADERS_MAX - ETHERNET_HEADER_LEN;

impl Shard {
    /// Takes one Ethernet frame from the TAP of `network`: checksums complete, not a super-frame.
    // spec: networks, "From the TAP"
    pub fn outbound(&mut self, network: NetworkId, frame: &[u8], out: &mut impl Egress) {
        let Some((ethernet, payload)) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>().filter(|(_, p)| !p.is_empty())
        else {
            self.counters.runt_out += 1;
            return;
        };
        let Some(way) = self.tables.way(network, ethernet) else {
            self.counters.control_frames += 1;
            out.control(ToControl::Frame { network, frame });
            return;
        };
        if payload.len() > way.mtu {
            self.counters.oversized_out += 1;
            return;
        }
        let (ids, scratch, counters) = (&mut self.ids, &mut self.scratch[..], &mut self.counters);
        let mut sending = Sending { own: self.own, network, way, ids, scratch, counters, packets: 0, bytes: 0 };
        match sending.judge(payload) {
            Fate::Pass => sending.frame(&[], payload, out),
            Fate::Drop => sending.counters.filtered_out += 1,
            Fate::Control => {
                sending.counters.control_frames += 1;
                out.control(ToControl::Frame { network, frame });
            }
        }
        sending.finish();
    }

    /// Takes one frame as a TAP with virtio-net headers gives it: its checksum may be open, and it may stand for many
    /// segments. These are cut and sealed in one pass, and their way is found once. The control plane is given complete
    /// single frames.
    pub fn outbound_offloaded(
        &mut self,
        network: NetworkId,
        offload: Result<Offload, UnknownOffload>,
        frame: &mut [u8],
        out: &mut impl Egress,
    ) {
        let fits = match offload {
            Ok(offload) if offload.segments.is_some() => return self.super_frame(network, &offload, frame, out),
            Ok(Offload { checksum, .. }) => checksum.is_none_or(|partial| complete(frame, partial)),
            Err(UnknownOffload) => false,
        };
        if fits {
            self.clamp_from_tap(network, frame);
            self.outbound(network, frame, out);
        } else {
            self.counters.odd_out += 1;
        }
    }

    fn super_frame(&mut self, network: NetworkId, offload: &Offload, frame: &[u8], out: &mut impl Egress) {
        let Some(mut segments) = Segments::new(frame, offload) else {
            self.counters.odd_out += 1;
            return;
        };
        self.counters.super_frames_out += 1;
        self.counters.cut_out += segments.len() as u64;
        let Some(way) = self.tables.way(network, &segments.ethernet()) else {
            return self.segments_for_control(network, segments, out);
        };
        if segments.longest() - ETHERNET_HEADER_LEN > way.mtu {
            self.counters.oversized_out += segments.len() as u64;
            return;
        }
        let (ids, scratch, counters) = (&mut self.ids, &mut self.scratch[..], &mut self.counters);
        let mut sending = Sending { own: self.own, network, way, ids, scratch, counters, packets: 0, bytes: 0 };
        // nothing that the rules look at differs between segments: what holds for one holds for all
        let alike = !sending.way.rules.tells_segments_apart() && segments.is_plain();
        let mut fate = None;
        while let Some((headers, payload)) = segments.next() {
            let judged = match fate {
                Some(fate) if alike => fate,
                _ => sending.judge_segment(headers, payload),
            };
            fate = Some(judged);
            match judged {
                Fate::Pass => sending.frame(&headers[ETHERNET_HEADER_LEN..], payload, out),
                Fate::Drop => sending.counters.filtered_out += 1,
                Fate::Control => give_away(network, headers, payload, sending.scratch, sending.counters, out),
            }
        }
        sending.finish();
    }

    /// A super-frame that is not for a shard, one segment at a time.
    fn segments_for_control(&mut self, network: NetworkId, mut segments: Segments<'_>, out: &mut impl Egress) {
        while let Some((headers, payload)) = segments.next() {
            give_away(network, headers, payload, &mut self.scratch[..], &mut self.counters, out);
        }
    }
}

/// Gives a segment to the control plane, which knows single frames only.
fn give_away(
    network: NetworkId,
    headers: &[u8],
    payload: &[u8],
    scratch: &mut [u8],
    counters: &mut Counters,
    out: &mut impl Egress,
) {
    let Some(frame) = joined(headers, payload, scratch) else {
        counters.oversized_out += 1;
        return;
    };
    counters.control_frames += 1;
    out.control(ToControl::Frame { network, frame });
}

/// A segment in one piece; none if it is longer than any packet.
fn joined<'s>(headers: &[u8], payload: &[u8], scratch: &'s mut [u8]) -> Option<&'s [u8]> {
    let frame = scratch.get_mut(..headers.len() + payload.len())?;
    let (front, back) = frame.split_at_mut(headers.len());
    front.copy_from_slice(headers);
    back.copy_from_slice(payload);
    Some(frame)
}

/// The frame or the super-frame that is being sent, and what has gone so far.
struct Sending<'a> {
    own: Address,
    network: NetworkId,
    way: Way<'a>,
    ids: &'a mut StdRng,
    /// Takes a packet that is too long for one datagram.
    scratch: &'a mut [u8],
    counters: &'a mut Counters,
    packets: usize,
    bytes: usize,
}

impl Sending<'_> {
    /// Sends one Ethernet payload, which lies in two pieces.
    fn frame(&mut self, headers: &[u8], payload: &[u8], out: &mut impl Egress) {
        let mut prefix = [0; PREFIX_MAX];
        let prefix = &mut prefix[..PREFIX_LEN + headers.len()];
        prefix[..HDR_LEN].copy_from_slice(&header(self.ids.next_u64(), self.way.to, self.own, Verb::Frame as u8));
        prefix[HDR_LEN..PREFIX_LEN].copy_from_slice(&Frame::header(self.network, self.way.ethertype));
        prefix[PREFIX_LEN..].copy_from_slice(headers);

        let (route, len) = (self.way.route, prefix.len() + payload.len());
        let datagrams = datagrams_needed(len, route.mtu.into());
        let packet = Unsealed { prefix, payload, keys: &self.way.peer.keys, suite: self.way.peer.suite };
        let sent = match datagrams {
            1 => packet.send(route, out),
            2..=MAX_FRAGMENTS if len <= MAX_PACKET => packet.send_split(route, &mut self.scratch[..len], out),
            _ => {
                self.counters.unsplittable += 1;
                return;
            }
        };
        self.counters.frames_out += 1;
        self.counters.datagrams_out += sent as u64;
        self.counters.no_buffer += (datagrams - sent) as u64;
        self.packets += 1;
        self.bytes += len;
    }

    /// What the rules say to a frame of ours with this payload.
    fn judge(&mut self, payload: &[u8]) -> Fate {
        judge(self.own, self.network, &self.way, payload, self.ids)
    }

    /// The same for a segment, which they see in one piece.
    fn judge_segment(&mut self, headers: &[u8], payload: &[u8]) -> Fate {
        if matches!(self.way.rules, Rules::AcceptAll) {
            return Fate::Pass;
        }
        let Some(frame) = joined(headers, payload, self.scratch) else { return Fate::Control };
        judge(self.own, self.network, &self.way, &frame[ETHERNET_HEADER_LEN..], self.ids)
    }

    /// Notes what has gone.
    fn finish(self) {
        let Way { to, peer, route, active, .. } = self.way;
        let path = Path { socket: route.socket, remote: route.remote };
        if self.packets > 0 && peer.ledger(to, active).sent(path, self.packets, self.bytes).is_err() {
            self.counters.activity_full += self.packets as u64;
        }
    }
}

fn judge(own: Address, network: NetworkId, way: &Way<'_>, payload: &[u8], chance: &mut StdRng) -> Fate {
    let frame = rules::Frame {
        source: own,
        destination: way.to,
        mac_source: Mac::of_member(network, own),
        mac_destination: Mac::of_member(network, way.to),
        ethertype: way.ethertype,
        payload,
    };
    way.rules.judge(Direction::Outbound, &frame, chance)
}

/// A FRAME packet in two pieces, to be joined while it is sealed.
struct Unsealed<'a> {
    prefix: &'a mut [u8],
    payload: &'a [u8],
    keys: &'a Keys,
    suite: Suite,
}

impl Unsealed<'_> {
    /// Seals into one send buffer. Returns the number of datagrams that left.
    fn send(&self, route: Route, out: &mut impl Egress) -> usize {
        match out.udp(route.socket, route.remote, self.prefix.len() + self.payload.len()) {
            Some(buffer) => {
                self.seal(buffer);
                1
            }
            None => 0,
        }
    }

    /// Seals into `scratch` and splits into datagrams of equal size, which leave as one GSO send. Receivers take parts
    /// of any size. Returns the number of datagrams that left.
    // spec: wire, "Fragmentation"
    fn send_split(self, route: Route, scratch: &mut [u8], out: &mut impl Egress) -> usize {
        if let Ok(mut packet) = Packet::new(&mut self.prefix[..]) {
            packet.set_fragmented(true);
        }
        self.seal(scratch);
        let mut sent = 0;
        for part in split_even(scratch, route.mtu.into()).into_iter().flatten() {
            let Some(buffer) = out.udp(route.socket, route.remote, part.len()) else { break };
            copy_part(&part, buffer);
            sent += 1;
        }
        sent
    }

    fn seal(&self, buffer: &mut [u8]) {
        let prefix = self.prefix.len();
        buffer[..prefix].copy_from_slice(self.prefix);
        self.keys.seal_copy(buffer, prefix, self.payload, self.suite);
    }
}

fn copy_part(part: &Part<'_>, buffer: &mut [u8]) {
    let (header, data) = buffer.split_at_mut(part.header().len());
    header.copy_from_slice(part.header());
    data.copy_from_slice(part.data());
}
