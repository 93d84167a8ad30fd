//! How a message leaves: which way it takes, in which suite, in how many datagrams. It knows verbs only as far as the
//! suite and the reply depend on them.
// spec: paths, "Sending"

use std::net::SocketAddr;

use wire::fragment::{datagrams_needed, split};
use wire::packet::{self, MAX_FRAGMENTS, MAX_PACKET, Packet};
use wire::{Address, Now, Suite, Verb, compress};

use crate::bonds::BondWay;
use crate::io::{LocalSocketId, Output};
use crate::path::Path;
use crate::waiting::Message;
use crate::{Node, limits};

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) path: Path,
    /// Whose slot it is: the peer itself, or the upstream that relays.
    pub(crate) owner: Address,
}

/// Where a packet came from, or goes straight to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) path: Path,
    pub(crate) hops: u8,
    /// The lane it came by; its path is that of the link's first socket.
    pub(crate) lane: Option<LocalSocketId>,
}

impl Arrival {
    pub(crate) fn direct(&self) -> bool {
        self.hops == 0
    }
}

impl Node {
    /// The way to `to` for what is to be sent now.
    pub(crate) fn way(&self, to: Address, now_ms: u64) -> Option<Way> {
        let peer = self.peers.get(to)?;
        let own = |path| Way { path, owner: to };
        let direct = match self.bonds.way(to) {
            Some(BondWay::Path(path)) => return Some(own(path)),
            Some(BondWay::Relay) => None,
            None => peer.best_slot(now_ms),
        };
        if let Some(slot) = direct
            && (!slot.watch.suspect || peer.upstream)
        {
            return Some(own(slot.path));
        }
        let relay = || {
            let upstream = self.roots.best().filter(|&u| u != to)?;
            let slot = self.peers.get(upstream)?.best_slot(now_ms)?;
            Some(Way { path: slot.path, owner: upstream })
        };
        relay().or_else(|| peer.any_slot(now_ms).map(|slot| own(slot.path)))
    }

    /// Sends a message in the ordinary way: directly, relayed, or later.
    pub(crate) fn send(&mut self, now: Now, to: Address, message: Message) {
        if to == self.address() {
            return;
        }
        self.recall(now, to);
        let Some(way) = self.way(to, now.ms()) else {
            return self.enqueue(now, to, message);
        };
        if way.owner != to {
            self.try_hint(now, to);
        }
        self.transmit(now, to, way, &message);
    }

    fn enqueue(&mut self, now: Now, to: Address, message: Message) {
        self.counters.queue_full += self.queue.push(to, message, now.ms());
        if !self.peers.contains(to) {
            self.ask_identity(now, to, true);
        }
    }

    /// Sends what is queued for `to`, if there is a way now.
    pub(crate) fn flush(&mut self, now: Now, to: Address) {
        let Some(way) = self.way(to, now.ms()) else { return };
        for message in self.queue.take(to) {
            self.transmit(now, to, way, &message);
        }
    }

    fn transmit(&mut self, now: Now, to: Address, way: Way, message: &Message) {
        // spec: wire, "Which suite the reference sends": the queueing sender uses trusted paths
        let trusted = self.settings.trusted_path_to(way.path.remote.ip());
        let frame = matches!(message.verb, Verb::Frame | Verb::ExtFrame | Verb::MulticastFrame);
        if frame && trusted.is_none() && way.owner == to && self.bonds.contains(to) {
            return self.transmit_bonded(now, to, way, message);
        }
        let Some(packet) = self.build(to, message.verb, &message.payload, message.compress) else { return };
        let second = if frame && trusted.is_none() { self.second_way(now, to, &way) } else { None };
        let id = match second {
            None => self.seal_and_emit(to, packet, Some(way.path.socket), way.path.remote, trusted, None),
            Some(second) => {
                self.counters.warm_up_copies += 1;
                self.seal_and_emit_copies(to, packet, &[way.path, second])
            }
        };
        if let Some(id) = id.filter(|_| message.expect_reply) {
            let own = (way.owner == to).then_some(way.path.remote);
            self.expectations.register(id, message.verb, to, Some(way.path.socket), own, None, now);
        }
        self.sent_over(now, to, way, frame);
    }

    /// Notes that something, perhaps a frame, went out to `to`.
    pub(crate) fn sent_over(&mut self, now: Now, to: Address, way: Way, frame: bool) {
        let now_ms = now.ms();
        if let Some(slot) = self.peers.get_mut(way.owner).and_then(|p| p.slot_mut(&way.path)) {
            slot.last_out.set(now_ms);
            if frame {
                slot.last_frame_out.set(now_ms);
            }
        }
        if frame {
            if let Some(peer) = self.peers.get_mut(to) {
                peer.last_frame_out.set(now_ms);
            }
            self.watch(now, to);
            self.watch(now, way.owner);
            if way.owner == to {
                self.want_lanes(now, to);
            } else {
                self.spread_wanted(now, to);
            }
        }
    }

    /// Answers over the path the request came in on, whatever better path there is.
    // spec: paths, "Sending", replies
    pub(crate) fn reply(&mut self, now: Now, to: Address, over: &Arrival, verb: Verb, payload: &[u8]) {
        let Path { socket, remote } = over.path;
        self.send_straight(now, to, Some(over.lane.unwrap_or(socket)), remote, verb, payload, false);
    }

    /// Sends one message to an endpoint, not by the queue: replies, probes, pushes. Returns its ID on the wire.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn send_straight(
        &mut self,
        now: Now,
        to: Address,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        verb: Verb,
        payload: &[u8],
        compress: bool,
    ) -> Option<u64> {
        let packet = self.build(to, verb, payload, compress)?;
        let id = self.seal_and_emit(to, packet, socket, remote, None, None);
        if let (Some(id), Some(socket)) = (id, socket) {
            self.bond_sampled(now, to, &Path { socket, remote }, id);
        }
        self.touch(to, socket, remote, now.ms());
        id
    }

    /// Sends ECHO to an endpoint; `cookie` must come back.
    pub(crate) fn send_echo(
        &mut self,
        now: Now,
        to: Address,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        cookie: Option<[u8; 8]>,
    ) {
        let payload = cookie.as_ref().map_or(&[][..], |c| &c[..]);
        if let Some(id) = self.send_straight(now, to, socket, remote, Verb::Echo, payload, false) {
            self.bond_echo_sent(now, to, socket, remote, id);
            self.expectations.register(id, Verb::Echo, to, socket, Some(remote), cookie, now);
        }
    }

    /// An ECHO went out over one of the peer's paths; peers that answer few of them are asked less often.
    pub(crate) fn note_echo(&mut self, now: Now, to: Address) {
        if let Some(peer) = self.peers.get_mut(to) {
            peer.last_echo_out.set(now.ms());
        }
    }

    /// The slots of `to` with this remote had something sent over them.
    pub(crate) fn touch(&mut self, to: Address, socket: Option<LocalSocketId>, remote: SocketAddr, now_ms: u64) {
        let Some(peer) = self.peers.get_mut(to) else { return };
        let matching =
            |s: &&mut crate::path::Slot| s.path.remote == remote && socket.is_none_or(|id| s.path.socket == id);
        peer.slots.iter_mut().filter(matching).for_each(|s| s.last_out.set(now_ms));
    }

    /// A packet with header and payload, not sealed.
    pub(crate) fn build(&mut self, to: Address, verb: Verb, payload: &[u8], compress: bool) -> Option<Vec<u8>> {
        let id = self.random_id();
        let mut bytes = packet::head(id, to, self.address(), verb as u8);
        match compress.then(|| compress::compress(payload)).flatten() {
            Some(block) => {
                bytes.extend_from_slice(&block);
                Packet::new(&mut bytes[..]).ok()?.set_compressed(true);
            }
            None => bytes.extend_from_slice(payload),
        }
        if bytes.len() > MAX_PACKET {
            self.counters.too_large += 1;
            return None;
        }
        Some(bytes)
    }

    /// Seals a packet for the way it takes and hands its datagrams out. Returns its ID on the wire.
    pub(crate) fn seal_and_emit(
        &mut self,
        to: Address,
        bytes: Vec<u8>,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        trusted_path: Option<u64>,
        suite: Option<Suite>,
    ) -> Option<u64> {
        let mtu = self.mtu_over(to, socket, remote);
        let (id, bytes) = self.seal(to, bytes, mtu, trusted_path, suite)?;
        self.emit_packet(&bytes, mtu, socket, remote);
        Some(id)
    }

    /// The same over several paths: one packet with one ID, cut for the narrowest of them.
    pub(crate) fn seal_and_emit_copies(&mut self, to: Address, bytes: Vec<u8>, paths: &[Path]) -> Option<u64> {
        let mtu = paths.iter().map(|path| self.mtu_over(to, Some(path.socket), path.remote)).min()?;
        let (id, bytes) = self.seal(to, bytes, mtu, None, None)?;
        for Path { socket, remote } in paths {
            self.emit_packet(&bytes, mtu, Some(*socket), *remote);
        }
        Some(id)
    }

    /// Seals a packet that goes out in datagrams of `mtu` bytes; its ID on the wire, and its bytes.
    fn seal(
        &mut self,
        to: Address,
        mut bytes: Vec<u8>,
        mtu: usize,
        trusted_path: Option<u64>,
        suite: Option<Suite>,
    ) -> Option<(u64, Vec<u8>)> {
        let datagrams = datagrams_needed(bytes.len(), mtu);
        if datagrams > MAX_FRAGMENTS {
            self.counters.too_large += 1;
            return None;
        }
        let peer = self.peers.get(to)?;
        let (keys, suite) = (peer.keys.clone(), suite.unwrap_or_else(|| peer.suite(&self.settings)));
        let mut packet = Packet::new(&mut bytes[..]).ok()?;
        packet.set_fragmented(datagrams > 1);
        match trusted_path {
            Some(path_id) => packet.set_trusted_path(path_id),
            None => keys.seal(&mut bytes, suite),
        }
        let id = Packet::new(&bytes[..]).ok()?.id();
        Some((id, bytes))
    }

    /// Hands out the datagrams of a sealed packet.
    pub(crate) fn emit_packet(&mut self, sealed: &[u8], mtu: usize, socket: Option<LocalSocketId>, remote: SocketAddr) {
        for part in split(sealed, mtu).into_iter().flatten() {
            self.emit(socket, remote, None, part.to_vec());
        }
    }

    /// Hands out one datagram.
    pub(crate) fn emit(
        &mut self,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        ttl: Option<u8>,
        datagram: Vec<u8>,
    ) {
        if self.halted {
            self.counters.halted += 1;
            return;
        }
        self.counters.sent_datagrams += 1;
        self.output(Output::Send { socket, remote, ttl, datagram });
    }

    /// A hint of the operator for a peer without path is tried now and then. // spec: paths, "Sending"
    fn try_hint(&mut self, now: Now, to: Address) {
        let Some(hints) = self.settings.peer_hints.get(&to).filter(|h| !h.is_empty()) else { return };
        let Some(peer) = self.peers.get_mut(to) else { return };
        if !peer.last_hint.pass(limits::HINT_MS, now.ms()) {
            return;
        }
        let hints = hints.clone();
        let pick = self.random_below(hints.len() as u64) as usize;
        if let Some(&remote) = hints.get(pick) {
            self.send_hello(now, to, None, remote);
        }
    }
}
