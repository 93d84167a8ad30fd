//! HELLO, both ways: introducing ourselves to an endpoint, and answering who introduces themselves. New identities pass
//! a gate, a key agreement, the MAC and a proof of work, in the order of their cost, before they become peers.
// spec: paths, "Created by HELLO"; wire, "HELLO (0x01)"

use std::net::SocketAddr;
use std::sync::Arc;

use wire::message::{ErrorCode, ErrorMessage, Hello, HelloTail, InRe, OkHello, OkMessage, Version, WorldRevision};
use wire::packet::{self, HDR_LEN, PROTO_MIN, PROTO_VERSION};
use wire::{Address, Identity, Keys, Now, Packet, Suite, Verb};

use crate::Node;
use crate::dispatch::Heard;
use crate::gate::Rate;
use crate::io::LocalSocketId;
use crate::limits::*;
use crate::peer::Proof;
use crate::send::Arrival;

/// What we say we run. The software version has no effect on peers, but must not be zero.
// spec: wire, "Versions"
pub(crate) const VERSION: Version = Version { protocol: PROTO_VERSION, major: 1, minor: 14, revision: 1 };

const HELLO_ANSWERS: Rate = Rate::per_second(HELLO_ANSWERS_PER_PEER_PER_S);

impl Node {
    /// Introduces us to `to` at an endpoint; without a socket from all links.
    pub(crate) fn send_hello(&mut self, now: Now, to: Address, socket: Option<LocalSocketId>, remote: SocketAddr) {
        let _ = self.send_hello_over(now, to, socket, remote, false);
    }

    /// The same; `relayed` if the endpoint is not that of `to` but of a relay. Its ID on the wire.
    pub(crate) fn send_hello_over(
        &mut self,
        now: Now,
        to: Address,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        relayed: bool,
    ) -> Option<u64> {
        let keys = self.peers.get(to)?.keys.clone();
        let id = self.random_id();
        let mut bytes = packet::head(id, to, self.address(), Verb::Hello as u8);
        let hello = Hello {
            version: VERSION,
            timestamp: now.unix_ms,
            identity: self.own.public().clone(),
            sent_to: Some(remote),
            planet: Some(self.roots.planet_revision()),
            tail: &[],
        };
        hello.write(&mut bytes);
        let clear = bytes.len();
        HelloTail { moons: self.roots.moon_revisions() }.write(&mut bytes);
        keys.obscure_hello_tail(id, &mut bytes[clear..]);
        // spec: wire, "Which suite the reference sends": always in clear, always one packet
        let sent = self.seal_and_emit(to, bytes, socket, remote, None, Some(Suite::Poly1305));
        if let Some(id) = sent {
            let own = (!relayed).then_some(remote);
            self.expectations.register(id, Verb::Hello, to, socket, own, None, now);
        }
        self.touch(to, socket, remote, now.ms());
        sent
    }

    /// A HELLO in clear: self-contained, from anybody.
    pub(crate) fn clear_hello(&mut self, now: Now, arrival: &Arrival, bytes: &mut [u8]) {
        let Ok((from, identity)) = self.hello_identity(bytes) else { return };
        self.recall_stranger(now, from);
        let Some(peer) = self.peers.get(from) else {
            return self.new_identity(now, arrival, identity, bytes);
        };
        if *peer.identity != identity {
            return self.collision(now, arrival, from, &identity, bytes);
        }
        if peer.keys.clone().open(bytes).is_err() {
            self.counters.dropped_unauthenticated += 1;
            return;
        }
        self.counters.received_packets += 1;
        self.authentic_hello(now, arrival, from, bytes);
    }

    /// A HELLO that came encrypted from a known peer. // spec: wire, "HELLO (0x01)"
    pub(crate) fn sealed_hello(&mut self, now: Now, arrival: &Arrival, from: Address, id: u64, payload: &mut [u8]) {
        let claimed = Hello::parse(payload).map(|h| (h.identity.address(), h.version.protocol));
        if !matches!(claimed, Ok((address, protocol)) if address == from && protocol >= PROTO_MIN) {
            self.counters.hello_refused += 1;
            return;
        }
        self.answer_hello(now, arrival, from, id, payload);
    }

    /// Cheap checks: length, protocol, address. // spec: wire, "Gateway hardening", zero-RTT work
    fn hello_identity(&mut self, bytes: &[u8]) -> Result<(Address, Identity), ()> {
        let Ok(packet) = Packet::new(bytes) else { return Err(()) };
        let Ok(hello) = Hello::parse(packet.payload()) else {
            self.counters.dropped_malformed += 1;
            return Err(());
        };
        let from = packet.source();
        if hello.version.protocol < PROTO_MIN || hello.identity.address() != from {
            self.counters.hello_refused += 1;
            return Err(());
        }
        Ok((from, hello.identity))
    }

    /// Key agreement with somebody new, behind the gate of its prefix.
    fn agree_with(&mut self, now: Now, arrival: &Arrival, identity: &Identity) -> Option<Arc<Keys>> {
        if !self.gates.identity(arrival.path.remote.ip(), now.ms()) {
            self.counters.hello_over_identity_gate += 1;
            return None;
        }
        let keys = self.own.agree(identity).map(|key| Arc::new(Keys::new(key)));
        self.counters.no_agreement += u64::from(keys.is_none());
        keys
    }

    fn new_identity(&mut self, now: Now, arrival: &Arrival, identity: Identity, bytes: &mut [u8]) {
        if self.proofs.is_refused(&identity) {
            self.counters.identity_proof_failed += 1;
            return;
        }
        if self.proofs.is_full() || self.proofs.is_pending(identity.address()) {
            self.counters.hello_proof_queue_full += 1;
            return;
        }
        let Some(keys) = self.agree_with(now, arrival, &identity) else { return };
        if keys.open(bytes).is_err() {
            self.counters.dropped_unauthenticated += 1;
            return;
        }
        self.prove_newcomer(now, *arrival, identity, keys, bytes.to_vec());
    }

    /// The newcomer's proof of work is right: it becomes a peer and its HELLO is answered.
    pub(crate) fn newcomer_proven(
        &mut self,
        now: Now,
        arrival: &Arrival,
        identity: Identity,
        keys: Arc<Keys>,
        bytes: &mut [u8],
    ) {
        let from = identity.address();
        // It may have become known in another way meanwhile.
        let known = self.peers.get(from).map(|peer| *peer.identity == identity);
        if !known.unwrap_or_else(|| self.add_peer(now, Arc::new(identity), keys, Proof::Known)) {
            return;
        }
        self.counters.received_packets += 1;
        self.authentic_hello(now, arrival, from, bytes);
        self.release(now, from);
    }

    /// Another key under a known address, and it holds that key: it is told so. The first identity seen stays.
    // spec: wire, "HELLO (0x01)", Gateway: armoured with the claimant's own key
    fn collision(&mut self, now: Now, arrival: &Arrival, from: Address, identity: &Identity, bytes: &mut [u8]) {
        let Ok(id) = Packet::new(&*bytes).map(|p| p.id()) else { return };
        let Some(keys) = self.agree_with(now, arrival, identity) else { return };
        if keys.open(bytes).is_err() {
            self.counters.dropped_unauthenticated += 1;
            return;
        }
        self.counters.hello_collision += 1;
        let code = ErrorCode::IdentityCollision;
        if !self.gates.error(from, code.number(), Default::default(), now.ms()) {
            self.counters.error_gated += 1;
            return;
        }
        let mut payload = Vec::new();
        ErrorMessage { in_re: InRe::new(Verb::Hello, id), code }.write(&mut payload);
        let Some(mut packet) = self.build(from, Verb::Error, &payload, false) else { return };
        keys.seal(&mut packet, Suite::Salsa2012Poly1305);
        let mtu = self.mtu(arrival.path.remote.ip());
        self.emit_packet(&packet, mtu, Some(arrival.path.socket), arrival.path.remote);
    }

    fn authentic_hello(&mut self, now: Now, arrival: &Arrival, from: Address, bytes: &mut [u8]) {
        let Ok(mut packet) = Packet::new(bytes) else { return };
        let id = packet.id();
        self.answer_hello(now, arrival, from, id, packet.payload_mut());
    }

    /// Steps 5 to 7: what it says of us, the OK, its version.
    fn answer_hello(&mut self, now: Now, arrival: &Arrival, from: Address, id: u64, payload: &mut [u8]) {
        let Some(peer) = self.peers.get(from) else { return };
        let keys = peer.keys.clone();
        let tail = Hello::parse(payload).map(|hello| hello.tail.len()).unwrap_or(0);
        let clear = payload.len() - tail;
        keys.obscure_hello_tail(id, &mut payload[clear..]);
        let parsed = Hello::parse(payload).and_then(|hello| HelloTail::parse(hello.tail).map(|tail| (hello, tail)));
        let Ok((hello, tail)) = parsed else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let (version, timestamp, sent_to, planet) = (hello.version, hello.timestamp, hello.sent_to, hello.planet);
        // Where a lane is seen is no place to find us at.
        if arrival.direct()
            && arrival.lane.is_none()
            && let Some(surface) = sent_to
        {
            self.surface_reported(now, arrival, from, surface);
        }
        if self.may_answer_hello(now, arrival, from) {
            let worlds = self.world_updates(now, arrival, from, planet, &tail.moons);
            self.send_ok_hello(now, arrival, from, id, timestamp, version, &worlds);
        }
        self.set_version(now, from, version);
        self.received(now, arrival, from, Some(Verb::Hello), Heard::YES);
        self.note_arrival(now, arrival, from, id, 0);
    }

    fn may_answer_hello(&mut self, now: Now, arrival: &Arrival, from: Address) -> bool {
        let of_peer = || self.peers.get_mut(from).is_some_and(|p| p.hello_answers.take(HELLO_ANSWERS, now.ms()));
        let may = self.gates.hello(arrival.path, now.ms(), of_peer);
        self.counters.hello_over_rate += u64::from(!may);
        may
    }

    /// Newer worlds than those announced, for a peer whose address is verified, now and then.
    // spec: paths, "Hardening bounds", HELLO answers
    fn world_updates(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        planet: Option<WorldRevision>,
        moons: &[WorldRevision],
    ) -> Vec<u8> {
        let Some(peer) = self.peers.get_mut(from) else { return Vec::new() };
        if !arrival.direct() || peer.slot(&arrival.path).is_none_or(|s| s.expired(now.ms())) {
            return Vec::new();
        }
        let worlds = self.roots.newer_than(planet, moons);
        if worlds.is_empty() || !peer.last_world_sent.pass(WORLD_UPDATE_GATE_MS, now.ms()) {
            return Vec::new();
        }
        worlds
    }

    #[allow(clippy::too_many_arguments)]
    fn send_ok_hello(
        &mut self,
        now: Now,
        arrival: &Arrival,
        to: Address,
        id: u64,
        timestamp: u64,
        theirs: Version,
        worlds: &[u8],
    ) {
        let mut seen_from = arrival.path.remote;
        if theirs.protocol < 5 {
            seen_from.set_port(0);
        }
        let mut ok = Vec::with_capacity(HDR_LEN + InRe::LEN + 64 + worlds.len());
        OkMessage { in_re: InRe::new(Verb::Hello, id), body: &[] }.write(&mut ok);
        OkHello { timestamp, version: VERSION, seen_from: Some(seen_from), worlds }.write(&mut ok);
        self.reply(now, to, arrival, Verb::Ok, &ok);
    }

    /// Stores what a peer says it runs; after the OK to its HELLO, which is still in the old suite.
    // spec: wire, "Which suite the reference sends"
    pub(crate) fn set_version(&mut self, now: Now, of: Address, version: Version) {
        let Some(peer) = self.peers.get_mut(of) else { return };
        if peer.version != version {
            peer.version = version;
            self.plan_peer(now, of);
        }
    }
}
