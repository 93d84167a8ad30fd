//! A frame's way out: TAP, member and route, sealed while it is copied, datagrams. Read it from top to bottom. It must
//! never wait for anything: a frame whose way is not known now is the control plane's.

use network::rules::{self, Direction};
use rand::rngs::StdRng;
use wire::{Address, Mac, NetworkId, Now};

use crate::bonded;
use crate::egress::{Egress, ToControl};
use crate::filter::{Fate, Rules};
use crate::offload::{Offload, UnknownOffload};
use crate::seal::{Outgoing, Sealer};
use crate::segment::{Segments, complete};
use crate::tables::{Peer, Way};
use crate::{Counters, ETHERNET_HEADER_LEN, Path, Shard};

impl Shard {
    /// Takes one Ethernet frame from the TAP of `network`: checksums complete, not a super-frame.
    // spec: networks, "From the TAP"
    pub fn outbound(&mut self, now: Now, network: NetworkId, frame: &[u8], out: &mut impl Egress) {
        let Some((ethernet, payload)) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>().filter(|(_, p)| !p.is_empty())
        else {
            self.counters.runt_out += 1;
            return;
        };
        self.now_us = now.mono_us;
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
        let sealer = Sealer { own: self.own, ids, scratch, counters };
        let mut sending = Sending { now, network, way, sealer, flow: None, packets: 0, bytes: 0 };
        match sending.judge(payload) {
            Fate::Pass => sending.frame(&[], payload, out),
            Fate::Drop => sending.sealer.counters.filtered_out += 1,
            Fate::Control => {
                sending.sealer.counters.control_frames += 1;
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
        now: Now,
        network: NetworkId,
        offload: Result<Offload, UnknownOffload>,
        frame: &mut [u8],
        out: &mut impl Egress,
    ) {
        let fits = match offload {
            Ok(offload) if offload.segments.is_some() => return self.super_frame(now, network, &offload, frame, out),
            Ok(Offload { checksum, .. }) => checksum.is_none_or(|partial| complete(frame, partial)),
            Err(UnknownOffload) => false,
        };
        if fits {
            self.clamp_from_tap(network, frame);
            self.outbound(now, network, frame, out);
        } else {
            self.counters.odd_out += 1;
        }
    }

    fn super_frame(&mut self, now: Now, network: NetworkId, offload: &Offload, frame: &[u8], out: &mut impl Egress) {
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
        let sealer = Sealer { own: self.own, ids, scratch, counters };
        let mut sending = Sending { now, network, way, sealer, flow: None, packets: 0, bytes: 0 };
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
                Fate::Drop => sending.sealer.counters.filtered_out += 1,
                Fate::Control => {
                    give_away(network, headers, payload, sending.sealer.scratch, sending.sealer.counters, out)
                }
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
    now: Now,
    network: NetworkId,
    way: Way<'a>,
    sealer: Sealer<'a>,
    /// The frame's flow, if somebody asked. Segments of a super-frame are of one.
    flow: Option<u64>,
    packets: usize,
    bytes: usize,
}

impl Sending<'_> {
    /// Sends one Ethernet payload, which lies in two pieces.
    #[inline]
    fn frame(&mut self, headers: &[u8], payload: &[u8], out: &mut impl Egress) {
        let Way { to, ethertype, route, .. } = self.way;
        let Peer { keys, suite, bond, .. } = &*self.way.peer;
        if bond.is_some() {
            return self.bonded(headers, payload, out);
        }
        let (network, suite) = (self.network, *suite);
        let frame = Outgoing { to, keys, suite, network, ethertype, headers, payload, marked: false };
        let len = self.sealer.send(&frame, false, route, out, |_| {});
        if len > 0 {
            self.packets += 1;
            self.bytes += len;
        }
    }

    /// The same to a peer that we bond with.
    #[inline(never)]
    fn bonded(&mut self, headers: &[u8], payload: &[u8], out: &mut impl Egress) {
        let Way { to, ethertype, route, .. } = self.way;
        let Peer { keys, suite, bond: Some(bond), ledger, .. } = &mut *self.way.peer else { return };
        let (network, suite) = (self.network, *suite);
        let frame = Outgoing { to, keys, suite, network, ethertype, headers, payload, marked: false };
        let (now_us, sealer, bonds) = (self.now.mono_us, &mut self.sealer, &mut *self.way.bonds);
        let ledger = (ledger, &mut *self.way.active);
        let mut turn = bonded::Turn { now_us, address: to, route, sealer, bonds, ledger, out };
        bond.frame(&mut turn, &frame, &mut self.flow);
    }

    /// What the rules say to a frame of ours with this payload.
    fn judge(&mut self, payload: &[u8]) -> Fate {
        judge(self.sealer.own, self.network, &self.way, payload, self.sealer.ids)
    }

    /// The same for a segment, which they see in one piece.
    fn judge_segment(&mut self, headers: &[u8], payload: &[u8]) -> Fate {
        if matches!(self.way.rules, Rules::AcceptAll) {
            return Fate::Pass;
        }
        let Some(frame) = joined(headers, payload, self.sealer.scratch) else { return Fate::Control };
        judge(self.sealer.own, self.network, &self.way, &frame[ETHERNET_HEADER_LEN..], self.sealer.ids)
    }

    /// Notes what has gone.
    fn finish(self) {
        let Way { to, peer, route, active, .. } = self.way;
        let path = Path { socket: route.socket, remote: route.remote };
        if self.packets > 0 && peer.ledger(to, active).sent(path, self.packets, self.bytes).is_err() {
            self.sealer.counters.activity_full += self.packets as u64;
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
