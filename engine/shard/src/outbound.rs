//! A frame's way out: TAP, member and route, sealed while it is copied, datagrams. Read it from top to bottom. It must
//! never wait for anything: a frame whose way is not known now is the control plane's.

use rand::Rng;
use wire::fragment::{Part, datagrams_needed, split_even};
use wire::keys::Keys;
use wire::message::Frame;
use wire::packet::{HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, Packet, Suite, header};
use wire::{NetworkId, Verb};

use crate::egress::{Egress, ToControl};
use crate::tables::{Route, Way};
use crate::{ETHERNET_HEADER_LEN, Path, Shard};

/// Bytes of a FRAME packet before the Ethernet payload.
const PREFIX_LEN: usize = HDR_LEN + Frame::HEADER_LEN;

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
        let Way { to, peer, route, active, .. } = way;
        let mut prefix = [0; PREFIX_LEN];
        prefix[..HDR_LEN].copy_from_slice(&header(self.ids.next_u64(), to, self.own, Verb::Frame as u8));
        prefix[HDR_LEN..].copy_from_slice(&Frame::header(network, way.ethertype));

        let len = PREFIX_LEN + payload.len();
        let datagrams = datagrams_needed(len, route.mtu.into());
        let packet = Unsealed { prefix, payload, keys: &peer.keys, suite: peer.suite };
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
        let path = Path { socket: route.socket, remote: route.remote };
        if peer.ledger(to, active).sent(path, len).is_err() {
            self.counters.activity_full += 1;
        }
    }
}

/// A FRAME packet in two pieces, to be joined while it is sealed.
struct Unsealed<'a> {
    prefix: [u8; PREFIX_LEN],
    payload: &'a [u8],
    keys: &'a Keys,
    suite: Suite,
}

impl Unsealed<'_> {
    /// Seals into one send buffer. Returns the number of datagrams that left.
    fn send(&self, route: Route, out: &mut impl Egress) -> usize {
        match out.udp(route.socket, route.remote, PREFIX_LEN + self.payload.len()) {
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
    fn send_split(mut self, route: Route, scratch: &mut [u8], out: &mut impl Egress) -> usize {
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
        buffer[..PREFIX_LEN].copy_from_slice(&self.prefix);
        self.keys.seal_copy(buffer, PREFIX_LEN, self.payload, self.suite);
    }
}

fn copy_part(part: &Part<'_>, buffer: &mut [u8]) {
    let (header, data) = buffer.split_at_mut(part.header().len());
    header.copy_from_slice(part.header());
    data.copy_from_slice(part.data());
}
