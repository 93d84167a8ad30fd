//! What an operator is told: peers and their paths, how good those are, why a peer is relayed, what NATs are before us.
//! It only looks; nothing here changes the node.

use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::gate::Stamp;
use crate::io::{LocalSocketId, Mapping, NatStatus, PathStatus, PeerStatus, Relayed, Socket};
use crate::limits::*;
use crate::peer::Peer;

impl Node {
    /// Everything known of the peers, for status.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let symmetric = self.only_symmetric(now.ms());
        self.peers.iter().map(|(&address, peer)| self.peer_status(now, address, peer, symmetric)).collect()
    }

    fn peer_status(&self, now: Now, address: Address, peer: &Peer, symmetric: bool) -> PeerStatus {
        let now_ms = now.ms();
        let preferred = peer.best_slot(now_ms).map(|s| s.path);
        let since = |stamp: Stamp| stamp.get().map(|at| now_ms.saturating_sub(at));
        let paths = peer.slots.iter().map(|s| PathStatus {
            socket: s.path.socket,
            remote: s.path.remote,
            verified_ms: since(s.last_verified),
            sent_ms: since(s.last_out),
            latency_us: s.latency_us,
            latency: s.round_trips.summary(now_ms),
            alive: s.alive(now_ms),
            preferred: preferred == Some(s.path),
        });
        let v = peer.version;
        PeerStatus {
            address,
            version: (v.protocol, v.major, v.minor, v.revision),
            latency_us: peer.latency_us(now_ms),
            upstream: peer.upstream,
            planet: self.roots.in_planet(address),
            best_upstream: self.roots.best() == Some(address),
            last_receive_ms: since(peer.last_receive),
            paths: paths.collect(),
            relayed: relayed(peer, symmetric, now_ms),
        }
    }

    /// The addresses at which others see us, and what each upstream sees of each socket.
    pub fn surfaces(&self, now: Now) -> (Vec<SocketAddr>, Vec<(Address, LocalSocketId, SocketAddr)>) {
        (self.surfaces.list(now.ms()), self.surfaces.reports().collect())
    }

    /// What is known of the NATs before our sockets.
    pub fn nat(&self, now: Now) -> Vec<NatStatus> {
        let status = |s: &Socket| NatStatus {
            socket: s.id,
            link: s.link.clone(),
            local: s.local,
            mapping: self.mapping(s.id, now.ms()),
            surfaces: self.surfaces.seen_of(s.id, s.local, now.ms()),
        };
        self.sockets.values().map(status).collect()
    }

    /// No socket of ours is known to be reachable at a port that can be told in advance, and some are known not to be.
    fn only_symmetric(&self, now_ms: u64) -> bool {
        let mut mappings = self.sockets.keys().map(|s| self.mapping(*s, now_ms)).filter(|m| *m != Mapping::Unknown);
        mappings.next().is_some_and(|first| {
            let symmetric = |m: Mapping| matches!(m, Mapping::Symmetric { .. });
            symmetric(first) && mappings.all(symmetric)
        })
    }
}

/// Why no path of the peer's own is in use; `None` if one is, or if it is a root. // spec: paths, "Acceptance scenarios", no. 34
fn relayed(peer: &Peer, symmetric: bool, now_ms: u64) -> Option<Relayed> {
    if peer.upstream || peer.slots.iter().any(|s| s.alive(now_ms)) {
        return None;
    }
    let wanted = peer.active(now_ms) || peer.last_frame_out.within(PEER_ACTIVITY_MS, now_ms);
    Some(if !wanted {
        Relayed::Idle
    } else if !peer.trusted(now_ms) {
        Relayed::Untrusted
    } else if peer.push.relayed_in_a_row < RELAYED_PUSHES {
        Relayed::Trying
    } else if symmetric {
        Relayed::SymmetricHere
    } else {
        Relayed::Unanswered
    })
}
