//! The peer-received hook and what it teaches: which paths are known, which are challenged, which are learned. Only
//! direct packets teach, and only a reply to something sent to that very endpoint is enough by itself.
// spec: paths, "Path learning"

use std::net::SocketAddr;

use wire::endpoint::{self, Scope};
use wire::{Address, Now, Verb};

use crate::Node;
use crate::bonds::BondWay;
use crate::dispatch::Heard;
use crate::gate::{Rate, Stamp};
use crate::io::Event;
use crate::limits::*;
use crate::path::{Path, Slot};
use crate::peer::Peer;
use crate::send::Arrival;

const CHALLENGES: Rate = Rate::per_second(CHALLENGES_PER_PEER_PER_S);

/// Frames and configuration: what makes a peer active. // spec: paths, "Objects", Peer
pub(crate) fn is_nontrivial(verb: Verb) -> bool {
    use Verb::*;
    matches!(verb, Frame | ExtFrame | MulticastFrame | NetworkConfigRequest | NetworkConfig)
}

impl Node {
    /// Runs after a packet authenticated and its handler accepted it.
    pub(crate) fn received(&mut self, now: Now, arrival: &Arrival, from: Address, verb: Option<Verb>, heard: Heard) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        let now_ms = now.ms();
        peer.last_receive.set(now_ms);
        if verb.is_some_and(is_nontrivial) {
            peer.last_nontrivial.set(now_ms);
        }
        if heard.trust {
            peer.last_trust.set(now_ms);
        }
        let (trusted, upstream) = (peer.trusted(now_ms), peer.upstream);
        self.watch_arrival(now, arrival, from, verb);
        if verb.is_some_and(is_nontrivial) {
            self.want_bond(now, from);
        }
        if arrival.direct() {
            self.bond_heard(now, from, &arrival.path, 0);
            if heard.proves_path {
                self.bond_proven(now, from, &arrival.path);
            }
            self.heard_directly(now, arrival, from, verb == Some(Verb::Ok), heard.proves_path);
        }
        if trusted {
            self.maybe_push(now, arrival, from);
        }
        if upstream {
            self.upstream_heard(now);
        }
    }

    fn heard_directly(&mut self, now: Now, arrival: &Arrival, from: Address, ok: bool, proves_path: bool) {
        let redirected = |p: &Peer| p.redirect.is_some_and(|r| r.remote == arrival.path.remote);
        let takes_over = proves_path && self.peers.get(from).is_some_and(redirected);
        if !takes_over && self.refresh(now, arrival.path, from, proves_path)
            || !self.acceptable(from, arrival.path.remote)
        {
            return;
        }
        if proves_path {
            return self.learn(now, arrival.path, from);
        }
        if !self.may_challenge(now, arrival.path, from) {
            return;
        }
        if ok {
            self.counters.path_unproven += 1;
            let cookie = self.random_id().to_be_bytes();
            self.send_echo(now, from, Some(arrival.path.socket), arrival.path.remote, Some(cookie));
            self.note_echo(now, from);
        } else {
            let Path { socket, remote } = arrival.path;
            // From all links, so that each proves a path; a socket that is not the first of its link proves its own.
            if self.is_first_of_link(socket, remote) {
                self.send_hello_by_links(now, from, remote);
            } else {
                self.send_hello(now, from, Some(socket), remote);
            }
        }
    }

    /// An OK proves its path: learn it if it is not known yet.
    pub(crate) fn learn_proven(&mut self, now: Now, arrival: &Arrival, from: Address) {
        if !self.refresh(now, arrival.path, from, true) && self.acceptable(from, arrival.path.remote) {
            self.learn(now, arrival.path, from);
        }
    }

    /// True if the path is known: refreshes it, or finds the same host alive on the same socket or an earlier port, which
    /// is enough without a bond.
    fn refresh(&mut self, now: Now, path: Path, from: Address, answer: bool) -> bool {
        let now_ms = now.ms();
        let known = self.reached_from_earlier_port(from, &path, now_ms);
        let Some(peer) = self.peers.get_mut(from) else { return false };
        let Some(slot) = peer.slot_mut(&path) else {
            return known || peer.slots.iter().any(|s: &Slot| s.path.same_host(&path) && s.alive(now_ms));
        };
        let was_usable = slot.alive(now_ms);
        slot.verified(now_ms, answer);
        if !was_usable && slot.alive(now_ms) {
            self.path_changed(now, from);
        }
        true
    }

    fn learn(&mut self, now: Now, path: Path, from: Address) {
        // Something was still on its way when the socket went.
        if !self.sockets.contains_key(&path.socket) && !self.spread_learns(path, from) {
            self.counters.path_refused += 1;
            return;
        }
        let heartbeat_ms = PATH_HEARTBEAT_MS - self.random_below(PATH_HEARTBEAT_JITTER_MS);
        let (first, port) = self.place(path.socket);
        let Some(peer) = self.peers.get_mut(from) else { return };
        match peer.learn(path, heartbeat_ms, now.ms()) {
            Some(replaced) => self.counters.path_replaced += replaced as u64,
            None => self.counters.path_no_slot += 1,
        }
        if let Some(slot) = peer.slot_mut(&path) {
            (slot.first, slot.port) = (first, port);
        }
        self.spread_learned(now, path, from);
        self.targets.proven(path.remote.ip(), now.ms());
        self.path_changed(now, from);
    }

    /// The paths of a peer changed, or how good they are: tell the shards, the operator, and what waits.
    pub(crate) fn path_changed(&mut self, now: Now, of: Address) {
        let now_ms = now.ms();
        self.bond_paths(now, of);
        let way = match self.bonds.way(of) {
            Some(BondWay::Path(path)) => Some(Some(path)),
            Some(BondWay::Relay) => Some(None),
            None => None,
        };
        let Some(peer) = self.peers.get_mut(of) else { return };
        let best = || peer.best_slot(now_ms).filter(|s| !s.watch.suspect).map(|s| s.path);
        let best = way.unwrap_or_else(best);
        let upstream = peer.upstream;
        let news = match best {
            Some(Path { socket, remote }) if !peer.announced_direct => {
                Some(Event::PeerDirect { peer: of, socket, remote })
            }
            None if peer.announced_direct => Some(Event::PeerRelayed { peer: of }),
            _ => None,
        };
        peer.announced_direct = best.is_some();
        if let Some(news) = news {
            self.event(news);
        }
        self.plan_peer(now, of);
        self.flush(now, of);
        if upstream {
            self.upstreams_changed(now);
            self.upstream_reachable(now);
        }
    }

    /// A challenge for this path may be sent. // spec: paths, "Hardening bounds", challenge HELLO
    fn may_challenge(&mut self, now: Now, path: Path, to: Address) -> bool {
        let now_ms = now.ms();
        let Some(peer) = self.peers.get_mut(to) else { return false };
        peer.challenged.retain(|(_, at)| at.within(CHALLENGE_GATE_MS, now_ms));
        if peer.challenged.iter().any(|(p, _)| *p == path) {
            return false;
        }
        if !peer.challenges.take(CHALLENGES, now_ms) || !self.gates.challenge(now_ms) {
            self.counters.challenge_over_rate += 1;
            return false;
        }
        if !self.may_probe(now, to, path.remote, self.first_of_links(path.remote).len()) {
            return false;
        }
        let Some(peer) = self.peers.get_mut(to) else { return false };
        peer.challenged.push((path, Stamp::at(now_ms)));
        true
    }

    /// `remote` may be a path to `peer`. Asked before learning, confirming and probing; never before answering.
    // spec: paths, "Acceptable path"
    pub(crate) fn acceptable(&mut self, peer: Address, remote: SocketAddr) -> bool {
        let ip = remote.ip();
        let valid =
            endpoint::is_valid_path(remote) || (self.settings.allow_loopback && endpoint::scope(ip) == Scope::Loopback);
        let good = valid
            && remote.port() != 0
            && !self.sockets.values().any(|s| s.local == remote)
            && self.roots.pins(peer).is_none_or(|endpoints| endpoints.iter().any(|e| e.ip() == ip))
            && !self.roots.relays_from(remote, peer, &self.peers)
            && !self.managed_prefixes_contain(ip)
            && !self.overlay.iter().any(|p| p.contains(ip))
            && !self.settings.blacklisted(peer, ip);
        self.counters.path_refused += u64::from(!good);
        good
    }

    /// Probes an endpoint: ECHO if the peer answers that, else HELLO from all links.
    // spec: paths, "Probe primitives"
    pub(crate) fn contact(
        &mut self,
        now: Now,
        to: Address,
        socket: Option<crate::LocalSocketId>,
        remote: SocketAddr,
        full: bool,
    ) {
        let Some(peer) = self.peers.get(to) else { return };
        let echo = !full && crate::peer::takes_echo(peer.version);
        let proven = peer.slots.iter().any(|s| s.path.remote == remote);
        let copies = if echo && socket.is_some() { 1 } else { self.fan_out(remote).len() };
        if !proven && !self.may_probe(now, to, remote, copies) {
            return;
        }
        if echo {
            self.send_echo(now, to, socket, remote, None);
            self.note_echo(now, to);
        } else if let Some(own) = socket.filter(|s| self.spreads.is_adopted(*s)) {
            self.send_hello(now, to, Some(own), remote);
        } else {
            self.send_hello(now, to, None, remote);
        }
    }
}
