//! What an operator is told: peers and their paths, how good those are, why a peer is relayed, what NATs are before us.
//! It only looks; nothing here changes the node.

use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::bonds::BondWay;
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
        let preferred = match self.bonds.way(address) {
            Some(BondWay::Path(path)) => Some(path),
            Some(BondWay::Relay) => None,
            None => peer.best_slot(now_ms).map(|s| s.path),
        };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::Port;
    use crate::path::{Path, Slot};
    use crate::peer::Proof;
    use crate::surface::Reporter;
    use wire::{Keys, SecretIdentity};

    const NOW_MS: u64 = 1_000_000;

    fn peer() -> Peer {
        let secret = |n: u8| SecretIdentity::from_parts(Address::from_u64(n.into()), zeroize::Zeroizing::new([n; 64]));
        let keys = Arc::new(Keys::new(secret(1).agree(secret(2).public()).unwrap()));
        Peer::new(Arc::new(secret(2).public().clone()), keys, Proof::Known, 0)
    }

    #[test]
    fn a_relayed_peer_says_how_far_it_got_and_only_then_whose_nat_is_to_blame() {
        let mut peer = peer();
        assert_eq!(relayed(&peer, true, NOW_MS), Some(Relayed::Idle));
        peer.last_frame_out.set(NOW_MS);
        assert_eq!(relayed(&peer, true, NOW_MS), Some(Relayed::Untrusted));
        peer.last_trust.set(NOW_MS);
        assert_eq!(relayed(&peer, true, NOW_MS), Some(Relayed::Trying));
        peer.push.relayed_in_a_row = RELAYED_PUSHES;
        assert_eq!(relayed(&peer, true, NOW_MS), Some(Relayed::SymmetricHere));
        assert_eq!(relayed(&peer, false, NOW_MS), Some(Relayed::Unanswered));
        assert_eq!(relayed(&peer, false, NOW_MS + PEER_ACTIVITY_MS), Some(Relayed::Idle));
        let path = Path { socket: LocalSocketId(1), remote: "5.5.5.5:9993".parse().unwrap() };
        peer.slots.push(Slot::new(path, 1, PATH_HEARTBEAT_MS, NOW_MS));
        assert_eq!(relayed(&peer, false, NOW_MS), None);
        assert!(relayed(&peer, false, NOW_MS + PATH_ALIVE_MS).is_some(), "the path is dead");
        peer.upstream = true;
        assert_eq!(relayed(&peer, false, NOW_MS + PATH_ALIVE_MS), None);
    }

    #[test]
    fn our_nats_are_to_blame_only_if_no_socket_has_a_port_that_can_be_told() {
        let (mut node, now) = (crate::tests::node(), Now::at_ms(NOW_MS));
        for n in 1..=3 {
            let local = format!("192.168.{n}.5:9993").parse().unwrap();
            node.add_socket(now, Socket { id: LocalSocketId(n), local, link: format!("eth{n}"), port: Port::Primary });
        }
        let mut sees = |upstream: u64, socket: u64, surface: &str| {
            let remote = format!("5.5.5.{upstream}:9993").parse().unwrap();
            let path = Path { socket: LocalSocketId(socket), remote };
            let surface = surface.parse().unwrap();
            node.surfaces.report(Address::from_u64(upstream), Reporter::Upstream, path, surface, NOW_MS);
            node.only_symmetric(NOW_MS)
        };
        assert!(!sees(1, 1, "44.1.1.1:7"), "nothing is known yet");
        assert!(sees(2, 1, "44.1.1.1:8"), "eth2 and eth3 are not known");
        sees(1, 2, "44.1.1.2:7");
        assert!(!sees(2, 2, "44.1.1.2:7"), "eth2 is as good as public");
        let nat = node.nat(now);
        assert_eq!(nat[0].mapping, Mapping::Symmetric { step: Some(1) });
        assert_eq!((nat[1].mapping, nat[2].mapping), (Mapping::EndpointIndependent, Mapping::Unknown));
        assert_eq!((nat[0].surfaces.len(), nat[1].surfaces.len()), (2, 1));
        assert_eq!((nat[1].link.as_str(), nat[1].local), ("eth2", "192.168.2.5:9993".parse().unwrap()));
    }
}
