//! The way of a datagram in: told apart, put together, relayed or opened, then dispatched. What is thrown away here is
//! counted, and nothing is remembered of a sender that did not authenticate.
// spec: paths, "Receive pipeline"; wire, "Receive pipeline for one complete packet"

use std::net::SocketAddr;

use wire::packet::MAX_PACKET;
use wire::{Address, Datagram, Fragment, Now, Packet, Suite, Verb, classify, compress};

use crate::Node;
use crate::io::LocalSocketId;
use crate::path::Path;
use crate::send::Arrival;

impl Node {
    /// A datagram arrived, as it was on the wire. Its bytes are used as working space.
    pub fn handle_datagram(&mut self, now: Now, socket: LocalSocketId, remote: SocketAddr, datagram: &mut [u8]) {
        self.counters.received_datagrams += 1;
        let path = Path { socket, remote };
        match classify(datagram) {
            Datagram::Head => self.head(now, path, datagram),
            Datagram::Fragment => self.fragment(now, path, datagram),
            // Nobody sends beacons any more, and an answer would help only who forges one.
            Datagram::Beacon | Datagram::Ignored => self.counters.dropped_not_a_packet += 1,
        }
    }

    /// A whole packet arrived and a shard authenticated and decrypted it under the keys of its source.
    pub fn handle_opened(&mut self, now: Now, socket: LocalSocketId, remote: SocketAddr, packet: &mut [u8]) {
        let Ok(view) = Packet::new(&*packet) else {
            self.counters.dropped_not_a_packet += 1;
            return;
        };
        let arrival = self.arrival(Path { socket, remote }, view.hops());
        self.opened(now, &arrival, packet);
    }

    /// A whole packet arrived that a shard put together from fragments but could not open.
    pub fn handle_reassembled(&mut self, now: Now, socket: LocalSocketId, remote: SocketAddr, packet: &mut [u8]) {
        match Packet::new(&*packet) {
            Ok(view) if view.destination() == self.address() => self.packet(now, Path { socket, remote }, packet),
            Ok(_) => self.counters.dropped_bad_address += 1,
            Err(_) => self.counters.dropped_not_a_packet += 1,
        }
    }

    fn head(&mut self, now: Now, path: Path, datagram: &mut [u8]) {
        let Ok(packet) = Packet::new(&*datagram) else {
            self.counters.dropped_not_a_packet += 1;
            return;
        };
        let (source, destination, fragmented) = (packet.source(), packet.destination(), packet.fragmented());
        if source.is_reserved() || destination.is_reserved() || source == self.address() {
            self.counters.dropped_bad_address += 1;
            return;
        }
        if destination != self.address() {
            return self.relay_head(now, path, datagram);
        }
        if !fragmented {
            return self.packet(now, path, datagram);
        }
        if let Some(mut whole) = self.reassembler.head(now, path, datagram) {
            self.packet(now, path, &mut whole);
            self.reassembler.recycle(whole);
        }
    }

    fn fragment(&mut self, now: Now, path: Path, datagram: &mut [u8]) {
        let Ok(part) = Fragment::new(&*datagram) else {
            self.counters.dropped_not_a_packet += 1;
            return;
        };
        if part.destination() != self.address() {
            return self.relay_fragment(now, path, datagram);
        }
        if let Some(mut whole) = self.reassembler.fragment(now, path, datagram) {
            self.packet(now, path, &mut whole);
            self.reassembler.recycle(whole);
        }
    }

    /// A whole packet for us, not authenticated yet.
    pub(crate) fn packet(&mut self, now: Now, path: Path, bytes: &mut [u8]) {
        let Ok(packet) = Packet::new(&*bytes) else {
            self.counters.dropped_not_a_packet += 1;
            return;
        };
        let arrival = self.arrival(path, packet.hops());
        let source = packet.source();
        let Some(suite) = packet.suite() else {
            self.counters.dropped_suite += 1;
            return;
        };
        if source.is_reserved() || source == self.address() {
            self.counters.dropped_bad_address += 1;
            return;
        }
        if suite == Suite::TrustedPath && !self.settings.trusts(path.remote.ip(), packet.trusted_path()) {
            self.counters.dropped_untrusted_path += 1;
            return;
        }
        if suite == Suite::Poly1305 {
            match Verb::from_u8(packet.verb_number()) {
                Some(Verb::Hello) => return self.clear_hello(now, &arrival, bytes),
                Some(verb) if verb.may_be_clear() => {}
                _ => {
                    self.counters.dropped_clear_verb += 1;
                    return;
                }
            }
        }
        self.recall_stranger(now, source);
        let Some(peer) = self.peers.get(source) else {
            return self.hold(now, source, &arrival, suite, bytes);
        };
        if suite != Suite::TrustedPath && peer.keys.clone().open(bytes).is_err() {
            self.counters.dropped_unauthenticated += 1;
            return;
        }
        self.opened(now, &arrival, bytes);
    }

    /// The sender is unknown: ask who it is and keep the packet. // spec: paths, "Created by WHOIS"
    fn hold(&mut self, now: Now, source: Address, arrival: &Arrival, suite: Suite, bytes: &[u8]) {
        // Measurements in clear mean nothing from somebody we do not know.
        if suite == Suite::Poly1305 {
            self.counters.dropped_clear_verb += 1;
            return;
        }
        if !self.waiting.hold(source, arrival.path, bytes, now.ms()) {
            self.counters.waiting_full += 1;
            return;
        }
        self.ask_identity(now, source, false);
    }

    /// An authentic packet in clear. Decompresses it and goes on.
    fn opened(&mut self, now: Now, arrival: &Arrival, bytes: &mut [u8]) {
        let Ok(mut packet) = Packet::new(&mut *bytes) else {
            self.counters.dropped_not_a_packet += 1;
            return;
        };
        self.counters.received_packets += 1;
        let (source, id, verb) = (packet.source(), packet.id(), packet.verb_number());
        if source == self.address() || !self.peers.contains(source) {
            self.counters.dropped_bad_address += 1;
            return;
        }
        if packet.compressed() && packet.payload().is_empty() {
            packet.set_compressed(false);
        }
        if !packet.compressed() {
            return self.dispatch(now, arrival, source, id, verb, packet.payload_mut());
        }
        let mut plain = Vec::with_capacity(MAX_PACKET);
        if compress::decompress(packet.payload(), &mut plain).is_err() {
            self.counters.dropped_compression += 1;
            return;
        }
        self.dispatch(now, arrival, source, id, verb, &mut plain);
    }

    /// `address` became known: what waited for it goes on.
    pub(crate) fn release(&mut self, now: Now, address: Address) {
        for mut held in self.waiting.take(address) {
            self.packet(now, held.path, &mut held.packet);
        }
        self.flush(now, address);
        self.release_rendezvous(now, address);
        self.identity_known(now, address);
    }
}
