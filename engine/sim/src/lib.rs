//! A deterministic world for tests: a virtual clock, hosts with sockets, an internet between them that delays, loses,
//! repeats and reorders by seed, and routers that translate addresses. Real [`node::Node`]s run in it, unchanged.
//!
//! The same seed gives the same run, datagram by datagram ([`World::trace`]). Only tests see this room; it must never
//! know a real clock, socket or thread.

mod host;
pub mod lab;
mod link;
pub mod meeting;
mod nat;
mod reject;
mod stack;
mod world;

pub use host::{Beside, Host, HostId};
pub use link::Link;
pub use nat::{Filter, Mapping, Nat, NatDrops, NatKind, Ports, Unsolicited};
pub use stack::{Stack, arp_request, ethernet, icmp_echo};
pub use world::{Lost, Realm, World};

use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::{Address, Identity, Root, SecretIdentity, World as Planet, WorldKind};
use zeroize::Zeroizing;

/// A made-up identity: its keys are real, its proof of work is not, because that takes a second each.
pub fn identity(n: u64) -> Arc<SecretIdentity> {
    let mut key = Zeroizing::new([0; wire::identity::PRIV_LEN]);
    StdRng::seed_from_u64(n).fill_bytes(&mut key[..]);
    Arc::new(SecretIdentity::from_parts(Address::from_u64(0x20_0000_0000 + n), key))
}

/// A planet of these roots.
pub fn planet(roots: &[(&Identity, Vec<SocketAddr>)]) -> Planet {
    let signer = identity(u64::from(u32::MAX));
    let roots =
        roots.iter().map(|(id, endpoints)| Root { identity: (*id).clone(), endpoints: endpoints.clone() }).collect();
    Planet::make(WorldKind::Planet, 0x51a1, 1000, *signer.public().public_key(), roots, &signer)
}
