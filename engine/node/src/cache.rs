//! Peers that are not in memory any more but whose identity and endpoints are kept, here and on disk. A peer's return
//! then costs no WHOIS. // spec: paths, "Created from a world or the cache"

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::message::Version;
use wire::{Address, Identity, Malformed, Now, Reader, endpoint};

use crate::Node;
use crate::io::{Output, RestoreError, StateKey};
use crate::limits::*;
use crate::peer::{Peer, Proof};

/// First byte of a cached peer's file.
const FORMAT: u8 = 2;

/// A peer as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedPeer {
    identity: Identity,
    version: Version,
    endpoints: Vec<SocketAddr>,
    proven: bool,
}

impl CachedPeer {
    fn of(peer: &Peer) -> CachedPeer {
        let proven = peer.proof == Proof::Known;
        CachedPeer { identity: (*peer.identity).clone(), version: peer.version, endpoints: peer.endpoints(), proven }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        self.identity.write(&mut out);
        let v = self.version;
        for number in [v.protocol.into(), v.major.into(), v.minor.into(), v.revision, self.endpoints.len() as u16] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        self.endpoints.iter().for_each(|e| endpoint::write(Some(*e), &mut out));
        out
    }

    fn parse(bytes: &[u8]) -> Result<CachedPeer, Malformed> {
        let r = &mut Reader::new(bytes);
        if r.u8("cached peer format")? != FORMAT {
            return Err(Malformed { what: "cached peer format" });
        }
        let identity = Identity::read(r)?;
        let small = |n: u16| u8::try_from(n).map_err(|_| Malformed { what: "cached peer version" });
        let version = Version {
            protocol: small(r.u16("cached peer protocol")?)?,
            major: small(r.u16("cached peer version")?)?,
            minor: small(r.u16("cached peer version")?)?,
            revision: r.u16("cached peer revision")?,
        };
        let mut endpoints = Vec::new();
        for _ in 0..r.u16("cached peer endpoints")? {
            let endpoint = endpoint::read(r)?;
            endpoints.extend(endpoint.filter(|_| endpoints.len() < CACHED_ENDPOINTS_MAX));
        }
        Ok(CachedPeer { identity, version, endpoints, proven: true })
    }
}

/// The forgotten peers, bounded; the one forgotten first goes first.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    peers: BTreeMap<Address, (u64, CachedPeer)>,
    /// In the order of their turn.
    order: BTreeMap<u64, Address>,
    next_turn: u64,
}

impl Cache {
    fn insert(&mut self, peer: CachedPeer) {
        let address = peer.identity.address();
        self.next_turn += 1;
        let turn = self.peers.get(&address).map_or(self.next_turn, |(turn, _)| *turn);
        self.peers.insert(address, (turn, peer));
        self.order.insert(turn, address);
        while self.order.len() > CACHED_PEERS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.peers.remove(&oldest);
        }
    }

    pub(crate) fn remove(&mut self, address: Address) -> Option<CachedPeer> {
        let (turn, peer) = self.peers.remove(&address)?;
        self.order.remove(&turn);
        Some(peer)
    }

    /// Forgets this identity; another one of the same address stays.
    pub(crate) fn remove_identity(&mut self, identity: &Identity) {
        if self.peers.get(&identity.address()).is_some_and(|(_, p)| p.identity == *identity) {
            self.remove(identity.address());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }
}

impl Node {
    /// Takes a peer kept on disk: the content of `peers.d/<address>.peer`. It becomes a peer when it is needed.
    pub fn restore_peer(&mut self, bytes: &[u8]) -> Result<Address, RestoreError> {
        let peer = CachedPeer::parse(bytes).map_err(RestoreError::Peer)?;
        let address = peer.identity.address();
        if address != self.address() && !self.peers.contains(address) {
            self.cache.insert(peer);
        }
        Ok(address)
    }

    /// Hands out every peer for keeping, as at the end of the program.
    pub fn save_peers(&mut self) {
        let saved: Vec<_> =
            self.peers.iter().map(|(&address, peer)| (address, CachedPeer::of(peer).to_bytes())).collect();
        for (address, bytes) in saved {
            self.output(Output::Store(StateKey::Peer(address), Some(bytes)));
        }
    }

    /// Brings `address` back if it was forgotten: as a peer, with one HELLO to each endpoint it had.
    pub(crate) fn recall(&mut self, now: Now, address: Address) {
        if self.peers.contains(address) {
            return;
        }
        let Some(cached) = self.cache.remove(address) else { return };
        let proof = if cached.proven { Proof::Known } else { Proof::Wanted };
        if !self.meet(now, Arc::new(cached.identity), proof) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(address) {
            peer.version = cached.version;
        }
        for remote in cached.endpoints {
            if self.acceptable(address, remote) && self.gates.challenge(now.ms()) {
                self.send_hello(now, address, None, remote);
            }
        }
        self.release(now, address);
    }

    /// The same because of a packet that is not authenticated yet: not too often.
    pub(crate) fn recall_stranger(&mut self, now: Now, address: Address) {
        if self.cache.peers.contains_key(&address) && self.gates.recall(now.ms()) {
            self.recall(now, address);
        }
    }

    /// A peer leaves memory for the cache.
    pub(crate) fn forget(&mut self, now: Now, address: Address) {
        if let Some(peer) = self.peers.get(address) {
            let cached = CachedPeer::of(peer);
            // A stranger that anybody can make at will is not worth a file.
            if !peer.stranger() {
                self.output(Output::Store(StateKey::Peer(address), Some(cached.to_bytes())));
            }
            self.cache.insert(cached);
        }
        self.forget_silently(now, address);
    }

    pub(crate) fn forget_silently(&mut self, now: Now, address: Address) {
        if self.peers.remove(address).is_some_and(|p| p.announced_direct) {
            self.event(crate::Event::PeerRelayed { peer: address });
        }
        self.proofs.forget(address);
        self.watched.remove(&address);
        self.reports.forget(address);
        self.bond_gone(address);
        self.pacts.forget(address);
        self.plan_peer(now, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u64) -> CachedPeer {
        CachedPeer {
            identity: Identity::from_parts(Address::from_u64(n), [7; 64]),
            version: Version { protocol: 12, major: 1, minor: 14, revision: 2 },
            endpoints: vec!["192.0.2.1:9993".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()],
            proven: true,
        }
    }

    #[test]
    fn a_cached_peer_survives_its_file_and_cut_files_are_refused() {
        let bytes = peer(1).to_bytes();
        assert_eq!(CachedPeer::parse(&bytes), Ok(peer(1)));
        for len in 0..bytes.len() {
            assert!(CachedPeer::parse(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn the_cache_is_bounded_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        (0..CACHED_PEERS_MAX as u64 + 10).for_each(|n| cache.insert(peer(n + 1)));
        assert_eq!((cache.len(), cache.order.len()), (CACHED_PEERS_MAX, CACHED_PEERS_MAX));
        assert!(cache.remove(Address::from_u64(10)).is_none());
        assert!(cache.remove(Address::from_u64(11)).is_some());
    }
}
