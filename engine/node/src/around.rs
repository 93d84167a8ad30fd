//! What the networks may ask of the node around them, and nothing else of it.

use std::sync::Arc;

use network::Surroundings;
use rand::Rng;
use rand::rngs::StdRng;
use wire::{Address, Identity, NetworkId, SecretIdentity};

use crate::members::Authorised;
use crate::peer::Peers;
use crate::roots::Roots;

/// A view of the node for the time of one call.
pub(crate) struct Around<'a> {
    pub(crate) own: &'a SecretIdentity,
    pub(crate) peers: &'a Peers,
    pub(crate) roots: &'a Roots,
    pub(crate) authorised: &'a Authorised,
    pub(crate) rng: &'a mut StdRng,
    pub(crate) now_ms: u64,
}

impl Surroundings for Around<'_> {
    fn own(&self) -> &Identity {
        self.own.public()
    }

    fn identity(&self, address: Address) -> Option<Arc<Identity>> {
        self.peers.get(address).map(|p| p.identity.clone())
    }

    fn upstreams(&self) -> Vec<Address> {
        self.roots.ranked(self.peers, self.now_ms)
    }

    fn is_upstream(&self) -> bool {
        self.roots.is_upstream()
    }

    fn authorised_by_our_controller(&self, network: NetworkId, member: Address) -> bool {
        network.controller() == self.own.address() && self.authorised.contains(network, member, self.now_ms)
    }

    fn peer_latency_ms(&self, peer: Address) -> Option<u32> {
        let peer = self.peers.get(peer).filter(|p| p.alive(self.now_ms))?;
        peer.latency_us(self.now_ms).map(|us| us / 1000)
    }

    fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }
}
