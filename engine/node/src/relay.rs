//! The root role: forwarding heads and fragments between other nodes, and introducing the two ends so that they need us
//! no longer. Leaves relay for nobody. What is forwarded is neither opened nor judged; how much of it, is.
// spec: paths, "Relaying", "RENDEZVOUS"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::endpoint::Scope;
use wire::message::Rendezvous as RendezvousMessage;
use wire::packet::RELAY_MAX_HOPS;
use wire::{Address, Fragment, Now, Packet, Verb};

use crate::Node;
use crate::limits::*;
use crate::path::{Path, Slot};
use crate::peer::Peer;
use crate::send::Way;

/// The pairs that were introduced lately.
#[derive(Debug, Default)]
pub(crate) struct Introductions {
    pairs: BTreeMap<(Address, Address), u64>,
}

impl Introductions {
    /// This pair may be introduced now, as far as it is concerned.
    fn due(&self, a: Address, b: Address, now_ms: u64) -> bool {
        self.pairs.get(&pair(a, b)).is_none_or(|at| now_ms.saturating_sub(*at) >= INTRODUCTION_GATE_MS)
    }

    fn note(&mut self, a: Address, b: Address, now_ms: u64) -> bool {
        if self.pairs.len() >= INTRODUCED_PAIRS_MAX {
            self.expire(now_ms);
        }
        let room = self.pairs.len() < INTRODUCED_PAIRS_MAX || self.pairs.contains_key(&pair(a, b));
        if room {
            self.pairs.insert(pair(a, b), now_ms);
        }
        room
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.pairs.retain(|_, at| now_ms.saturating_sub(*at) < INTRODUCTION_GATE_MS);
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }
}

fn pair(a: Address, b: Address) -> (Address, Address) {
    (a.min(b), a.max(b))
}

impl Node {
    /// A head for another node.
    pub(crate) fn relay_head(&mut self, now: Now, path: Path, datagram: &mut [u8]) {
        if !self.roots.is_upstream() {
            self.counters.dropped_not_for_us += 1;
            return;
        }
        let Ok(mut packet) = Packet::new(&mut *datagram) else { return };
        let (source, destination, hops) = (packet.source(), packet.destination(), packet.hops());
        if hops >= RELAY_MAX_HOPS {
            self.counters.relay_hop_limit += 1;
            return;
        }
        // spec: paths, "Hardening bounds", relaying; a peer's other sockets behind the same IP are the same host
        // What another root passes on has been judged there.
        let by_root = hops > 0 && self.is_from_root(&path, now);
        if !by_root && !self.peers.get(source).is_some_and(|p| sends_from(p, &path, now.ms())) {
            self.counters.relay_unverified_source += 1;
            return;
        }
        if !self.gates.relay_head(path, now.ms()) {
            self.counters.relay_over_rate += 1;
            return;
        }
        let Some(way) = self.onward(now, destination, Some(source), by_root) else { return };
        packet.increment_hops();
        self.forward(now, way, datagram);
        let other = if way.owner == destination { destination } else { way.owner };
        self.introduce(now, source, other);
    }

    /// A fragment for another node.
    pub(crate) fn relay_fragment(&mut self, now: Now, path: Path, datagram: &mut [u8]) {
        if !self.roots.is_upstream() {
            self.counters.dropped_not_for_us += 1;
            return;
        }
        let Ok(mut part) = Fragment::new(&mut *datagram) else { return };
        if part.hops() >= RELAY_MAX_HOPS {
            self.counters.relay_hop_limit += 1;
            return;
        }
        match self.gates.relay_fragment(path, now.ms()) {
            Some(true) => {}
            Some(false) => return self.counters.relay_over_rate += 1,
            None => return self.counters.relay_unverified_source += 1,
        }
        let by_root = self.is_from_root(&path, now);
        let Some(way) = self.onward(now, part.destination(), None, by_root) else { return };
        part.increment_hops();
        self.forward(now, way, datagram);
    }

    /// Another root sends from there.
    fn is_from_root(&self, path: &Path, now: Now) -> bool {
        let root = |(address, _)| self.peers.get(address).is_some_and(|p| sends_from(p, path, now.ms()));
        self.roots.upstreams().any(root)
    }

    /// Where to forward to: the destination itself, or the best of our own upstreams, which does not get back what comes
    /// from there.
    fn onward(&mut self, now: Now, to: Address, source: Option<Address>, by_root: bool) -> Option<Way> {
        let direct = self.peers.get(to).and_then(|p| p.best_slot(now.ms()));
        let way = direct.map(|s| Way { path: s.path, owner: to }).or_else(|| {
            let upstream = self.roots.best().filter(|u| !by_root && Some(*u) != source)?;
            let slot = self.peers.get(upstream)?.any_slot(now.ms())?;
            Some(Way { path: slot.path, owner: upstream })
        });
        self.counters.relay_no_route += u64::from(way.is_none());
        way
    }

    fn forward(&mut self, now: Now, way: Way, datagram: &[u8]) {
        self.counters.relayed += 1;
        self.emit(Some(way.path.socket), way.path.remote, None, datagram.to_vec());
        self.sent_over(now, way.owner, way, false);
    }

    /// Tells two peers where to meet, once in a while.
    fn introduce(&mut self, now: Now, source: Address, other: Address) {
        let now_ms = now.ms();
        if source == other || !self.introductions.due(source, other, now_ms) {
            return;
        }
        let meeting = match (self.peers.get(source), self.peers.get(other)) {
            (Some(s), Some(d)) => meeting_points(s, d, now_ms),
            _ => None,
        };
        let Some((of_source, of_other)) = meeting else { return };
        if !self.gates.introduction(now_ms) || !self.introductions.note(source, other, now_ms) {
            self.counters.introductions_over_rate += 1;
            return;
        }
        self.counters.introductions += 1;
        self.tell_of(now, source, of_source, other, of_other.remote);
        self.tell_of(now, other, of_other, source, of_source.remote);
    }

    fn tell_of(&mut self, now: Now, to: Address, over: Path, peer: Address, endpoint: SocketAddr) {
        let mut payload = Vec::new();
        RendezvousMessage { flags: 0, peer, endpoint: Some(endpoint) }.write(&mut payload);
        self.send_straight(now, to, Some(over.socket), over.remote, Verb::Rendezvous, &payload, false);
    }
}

/// The path is one of the peer's, or another port of a host that is.
fn sends_from(peer: &Peer, path: &Path, now_ms: u64) -> bool {
    peer.slots.iter().any(|s| s.path.same_host(path) && !s.expired(now_ms))
}

/// For each of two peers the path over which it is told of the other, of the best scope and family that both have; IPv6
/// first within a scope. // spec: paths, "RENDEZVOUS", sent by a relay
fn meeting_points(a: &Peer, b: &Peer, now_ms: u64) -> Option<(Path, Path)> {
    let best = |peer: &Peer, scope: Scope, ipv4: bool| {
        let of_class = |s: &&Slot| s.scope() == scope && s.path.remote.is_ipv4() == ipv4 && !s.expired(now_ms);
        peer.slots.iter().filter(of_class).min_by_key(|s| s.score(now_ms)).map(|s| s.path)
    };
    let scopes = [Scope::Private, Scope::Global, Scope::PseudoPrivate, Scope::Loopback];
    let classes = scopes.iter().flat_map(|&scope| [(scope, false), (scope, true)]);
    classes.into_iter().find_map(|(scope, ipv4)| Some((best(a, scope, ipv4)?, best(b, scope, ipv4)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn introduced_pairs_are_bounded_and_expire() {
        let mut introductions = Introductions::default();
        let note = |i: &mut Introductions, n: u64, ms| i.note(Address::from_u64(n), Address::from_u64(n + 1), ms);
        let max = INTRODUCED_PAIRS_MAX as u64;
        assert_eq!((0..max + 100).filter(|&n| note(&mut introductions, n, 0)).count(), INTRODUCED_PAIRS_MAX);
        assert_eq!(introductions.len(), INTRODUCED_PAIRS_MAX);
        assert!(note(&mut introductions, 5, 1), "a pair that is there");
        assert!(!note(&mut introductions, max, INTRODUCTION_GATE_MS - 1));
        assert!(note(&mut introductions, max, INTRODUCTION_GATE_MS));
        assert_eq!(introductions.len(), 2);
    }
}
