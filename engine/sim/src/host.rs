//! A host: one node, its sockets, what it stored, delivered and reported, and perhaps a controller beside it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use node::{Event, LocalSocketId, Node, PlanChange, StateKey};
use wire::{Address, Identity, NetworkId, Now, Verb};

/// Names a host of a [`crate::World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// A controller beside a node, as the gateway would have it there.
pub trait Beside {
    /// A request for a configuration.
    fn request(
        &mut self,
        now: Now,
        network: NetworkId,
        member: Arc<Identity>,
        packet_id: u64,
        metadata: Vec<u8>,
        physical: Option<SocketAddr>,
    );

    /// The next message to send: recipient, verb, complete payload.
    fn poll(&mut self) -> Option<(Address, Verb, Vec<u8>)>;

    /// When [`Beside::timeout`] is due, milliseconds of the monotonic clock.
    fn poll_timeout(&self) -> Option<u64>;

    /// Does what is due.
    fn timeout(&mut self, now: Now);
}

/// One host of the world.
pub struct Host {
    /// The node under test.
    pub node: Node,
    /// Its sockets and their addresses.
    pub sockets: BTreeMap<LocalSocketId, SocketAddr>,
    /// Frames for its TAPs, the oldest first.
    pub delivered: Vec<(NetworkId, Vec<u8>)>,
    /// What it reported, with the time in milliseconds.
    pub events: Vec<(u64, Event)>,
    /// What it keeps on disk.
    pub stored: BTreeMap<StateKey, Vec<u8>>,
    /// What its shards were told, the oldest first.
    pub plan: Vec<PlanChange>,
    /// Answers ARP and ping behind its TAPs.
    pub stack: Option<crate::Stack>,
    pub(crate) beside: Option<Box<dyn Beside>>,
}
