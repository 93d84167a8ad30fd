//! A packet's way in: datagram, whole packet, known sender, opened, frame, TAP. Read it from top to bottom. It must
//! never do what only the control plane can: learn a path, answer, or believe a stranger.

use std::net::SocketAddr;

use network::rules::{self, Direction};
use wire::message::{ExtFrame, Features, Frame, OrderMark};
use wire::packet::{Datagram, Fragment, HDR_LEN, Packet, Suite, classify};
use wire::{Address, Mac, NetworkId, Now, Verb};

use crate::activity::Received;
use crate::egress::{Egress, Stray, ToControl};
use crate::filter::Fate;
use crate::{ETHERNET_HEADER_LEN, Path, Shard, SocketId};

const FRAME: u8 = Verb::Frame as u8;
const EXT_FRAME: u8 = Verb::ExtFrame as u8;

/// What a FRAME says, or an EXT_FRAME that says no more than that.
struct Carried<'a> {
    network: NetworkId,
    ethertype: u16,
    payload: &'a [u8],
    /// Where its Ethernet header is put, over what has been read already. The ethertype is in its place.
    ethernet: usize,
    wants_ack: bool,
    mark: Option<OrderMark>,
}

impl<'a> Carried<'a> {
    /// None if it is for the control plane: bridged frames, copies by rules, certificates, empty frames but for probes.
    #[inline]
    fn parse(packet: &'a Packet<&[u8]>, to: Address, from: Address) -> Option<Carried<'a>> {
        let payload = packet.payload();
        match packet.verb_number() {
            _ if packet.compressed() => None,
            FRAME => {
                let Frame { network, ethertype, payload } = Frame::parse(payload).ok()?;
                let ethernet = HDR_LEN + Frame::HEADER_LEN - ETHERNET_HEADER_LEN;
                (!payload.is_empty()).then_some(Carried {
                    network,
                    ethertype,
                    payload,
                    ethernet,
                    wants_ack: false,
                    mark: None,
                })
            }
            EXT_FRAME if payload.get(8).is_some_and(|flags| matches!(flags & !ExtFrame::ACK, 0 | ExtFrame::MARKED)) => {
                let ext = ExtFrame::parse(payload).ok()?;
                let (wants_ack, marked) = (ext.wants_ack(), ext.is_marked());
                let ExtFrame { network, ethertype, mut payload, .. } = ext;
                let ours = ext.to == Mac::of_member(network, to) && ext.from == Mac::of_member(network, from);
                let ethernet = HDR_LEN + ExtFrame::HEADER_LEN - ETHERNET_HEADER_LEN;
                let mut mark = None;
                if marked {
                    let split = OrderMark::split(ethertype, payload)?;
                    (payload, mark) = (split.0, Some(split.1));
                }
                let carried = Carried { network, ethertype, payload, ethernet, wants_ack, mark };
                (ours && (wants_ack || !payload.is_empty())).then_some(carried)
            }
            _ => None,
        }
    }
}

impl Shard {
    /// Takes one datagram from a socket. Packets are decrypted in place, so its bytes are spoilt.
    // spec: paths, "Receive pipeline"
    pub fn inbound(
        &mut self,
        now: Now,
        socket: SocketId,
        remote: SocketAddr,
        datagram: &mut [u8],
        out: &mut impl Egress,
    ) {
        let path = Path { socket, remote };
        self.now_us = now.mono_us;
        match classify(datagram) {
            Datagram::Head => self.head(now, path, datagram, out),
            Datagram::Fragment => self.fragment(now, path, datagram, out),
            Datagram::Beacon | Datagram::Ignored => self.counters.not_a_packet += 1,
        }
    }

    /// A packet, or the first part of one.
    fn head(&mut self, now: Now, path: Path, datagram: &mut [u8], out: &mut impl Egress) {
        let Ok(head) = Packet::new(&*datagram) else {
            self.counters.not_a_packet += 1;
            return;
        };
        if head.source() == self.own {
            self.counters.own_source += 1;
            return;
        }
        if head.destination() != self.own {
            return self.foreign(path, datagram, out);
        }
        if !head.fragmented() {
            return self.packet(now, path, datagram, out);
        }
        if let Some(packet) = self.reassembler.head(now, path, datagram) {
            self.reassembled(now, path, packet, out);
        }
    }

    /// A further part of a packet.
    fn fragment(&mut self, now: Now, path: Path, datagram: &[u8], out: &mut impl Egress) {
        if Fragment::new(datagram).is_ok_and(|fragment| fragment.destination() != self.own) {
            return self.foreign(path, datagram, out);
        }
        if let Some(packet) = self.reassembler.fragment(now, path, datagram) {
            self.reassembled(now, path, packet, out);
        }
    }

    fn reassembled(&mut self, now: Now, path: Path, mut packet: Vec<u8>, out: &mut impl Egress) {
        self.packet(now, path, &mut packet, out);
        self.reassembler.recycle(packet);
    }

    /// A whole packet for us: is it from somebody we know, and genuine?
    // spec: wire, "What a receiver accepts", Gateway
    fn packet(&mut self, now: Now, path: Path, packet: &mut [u8], out: &mut impl Egress) {
        let Ok(header) = Packet::new(&*packet) else { return };
        let (sender, hops0) = (header.source(), header.hops() == 0);
        match header.suite() {
            Some(Suite::Salsa2012Poly1305 | Suite::AesGmacSiv) => {}
            Some(Suite::TrustedPath) => return self.unopened(path, packet, out),
            Some(Suite::Poly1305) if header.verb_number() == Verb::Hello as u8 => {
                return self.unopened(path, packet, out);
            }
            Some(Suite::Poly1305) if Verb::from_u8(header.verb_number()).is_some_and(Verb::may_be_clear) => {}
            Some(Suite::Poly1305) => {
                self.counters.clear_verb += 1;
                return;
            }
            None => {
                self.counters.undefined_suite += 1;
                return;
            }
        }
        let Some(peer) = self.tables.peers.get(&sender) else {
            return self.unopened(path, packet, out);
        };
        if peer.keys.open(packet).is_err() {
            self.counters.forged += 1;
            return;
        }
        self.opened(now, path, sender, hops0, packet, out);
    }

    /// A genuine packet of a known peer: is it a frame that a shard may deliver?
    fn opened(&mut self, now: Now, path: Path, sender: Address, hops0: bool, packet: &mut [u8], out: &mut impl Egress) {
        let Ok(view) = Packet::new(&*packet) else { return };
        let received = Received { now, packet_id: view.id(), hops0, bytes: packet.len() };
        let Some(frame) = Carried::parse(&view, self.own, sender) else {
            if view.verb_number() == Verb::Ok as u8 && self.acked(path, sender, received, packet) {
                return;
            }
            return self.for_control(path, packet, out);
        };
        let (id, ethernet, wants_ack, mark) = (frame.network, frame.ethernet, frame.wants_ack, frame.mark);
        if mark.is_some() && !self.takes_marks(sender) {
            return self.for_control(path, packet, out);
        }
        let Some(network) = self.tables.networks.get(&id).filter(|_| !wants_ack || self.may_answer(sender)) else {
            return self.for_control(path, packet, out);
        };
        if frame.payload.is_empty() {
            if self.probed(path, sender, received, id, out) {
                return;
            }
            return self.for_control(path, packet, out);
        }
        let Some(rules) = network.rules(sender, frame.ethertype) else {
            return self.for_control(path, packet, out);
        };
        // spec: networks, "FRAME (verb 0x06)"
        let (to, from) = (network.mac, Mac::of_member(id, sender));
        let judged = rules::Frame {
            source: sender,
            destination: self.own,
            mac_source: from,
            mac_destination: to,
            ethertype: frame.ethertype,
            payload: frame.payload,
        };
        let fate = rules.judge(Direction::Inbound, &judged, &mut self.ids);
        if fate == Fate::Control {
            return self.for_control(path, packet, out);
        }
        if frame.payload.len() > usize::from(network.mtu) {
            self.counters.oversized_in += 1;
            return;
        }
        let Some(peer) = self.tables.peers.get_mut(&sender) else { return };
        if peer.given.has(Features::REPORTS) {
            if !peer.ledger.has_receipts() {
                self.tables.told.push(sender);
            }
            if peer.ledger(sender, &mut self.tables.active).counted(path, received).is_err() {
                self.counters.activity_full += 1;
            }
        }
        // spec: paths, "Hardening bounds", duplicates
        if !peer.keys.first_time(received.packet_id) {
            self.counters.duplicate += 1;
            // A copy says by its answer that its path works.
            if wants_ack {
                self.acknowledge(path, sender, received.packet_id, id, out);
            }
            return;
        }
        if peer.ledger(sender, &mut self.tables.active).received(path, received).is_err() {
            self.counters.activity_full += 1;
        }
        let order = if self.reorder.is_on() { peer.came(now.mono_us, path) } else { None };
        if wants_ack {
            self.acknowledge(path, sender, received.packet_id, id, out);
        }
        if fate == Fate::Drop {
            self.counters.filtered_in += 1;
            return;
        }
        let packet = match mark {
            Some(_) => &mut packet[..received.bytes - OrderMark::LEN],
            None => packet,
        };
        packet[ethernet..ethernet + 6].copy_from_slice(&to.0);
        packet[ethernet + 6..ethernet + 12].copy_from_slice(&from.0);
        self.counters.frames_in += 1;
        self.clamp_to_tap(id, &mut packet[ethernet..]);
        match order {
            None => self.coalescer.push(id, &packet[ethernet..], out, &mut self.counters),
            Some(order) => {
                let Path { socket, remote } = path;
                let frame = Stray { peer: sender, socket, remote, network: id, frame: &packet[ethernet..], mark };
                self.in_order(now, order, &frame, out);
            }
        }
    }

    /// Whether order marks of a peer are taken off and obeyed here.
    fn takes_marks(&self, sender: Address) -> bool {
        self.tables.peers.get(&sender).is_some_and(|peer| peer.given.has(Features::ORDER_MARK))
    }

    /// For another node, if we relay.
    fn foreign(&mut self, Path { socket, remote }: Path, bytes: &[u8], out: &mut impl Egress) {
        if !self.tables.relay {
            self.counters.foreign += 1;
            return;
        }
        self.counters.control_foreign += 1;
        out.control(ToControl::Foreign { socket, remote, bytes });
    }

    /// Needs more to be opened than a shard has.
    fn unopened(&mut self, Path { socket, remote }: Path, packet: &[u8], out: &mut impl Egress) {
        self.counters.control_unopened += 1;
        out.control(match Packet::new(packet) {
            Ok(view) if view.fragmented() => ToControl::Reassembled { socket, remote, packet },
            _ => ToControl::Datagram { socket, remote, bytes: packet },
        });
    }

    /// Anything but a frame that a shard may deliver.
    fn for_control(&mut self, Path { socket, remote }: Path, packet: &[u8], out: &mut impl Egress) {
        self.counters.control_opened += 1;
        out.control(ToControl::Opened { socket, remote, packet });
    }
}
