//! What this room says to the world outside it, and the little it asks of it. No socket, clock or thread is known here.

use std::sync::Arc;

use wire::{Address, Identity, NetworkId, Verb};

/// What is to be done, in this order. Collected by every `&mut self` call of [`Networks`](crate::Networks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message in the ordinary way: queued while the peer is unknown, fragmented, relayed. A configuration request may
    /// be addressed to ourselves: it is for our own controller.
    Send {
        /// Recipient.
        to: Address,
        /// Verb.
        verb: Verb,
        /// Everything after the verb byte, not compressed.
        payload: Vec<u8>,
        /// Worth compressing.
        compress: bool,
        /// An OK to it is to be handed to [`Networks::handle_ok`](crate::Networks::handle_ok).
        expect_reply: bool,
    },
    /// An OK or ERROR straight back over the path on which the message just handled arrived; if there is none, in the
    /// ordinary way.
    Reply {
        /// Recipient.
        to: Address,
        /// [`Verb::Ok`] or [`Verb::Error`].
        verb: Verb,
        /// Everything after the verb byte.
        payload: Vec<u8>,
    },
    /// An Ethernet frame for the network's TAP: destination, source, ethertype, payload.
    Deliver {
        /// Network.
        network: NetworkId,
        /// The frame with its 14-byte header.
        frame: Vec<u8>,
    },
    /// The identity of this address is needed; tell it to [`Networks::peer_known`](crate::Networks::peer_known).
    Whois(Address),
    /// Status, configuration or addresses of a network changed: read [`Networks::get`](crate::Networks::get) again.
    Changed(NetworkId),
    /// Keep this dictionary for the next start.
    StoreConfig {
        /// Network.
        network: NetworkId,
        /// The configuration as text.
        dictionary: Vec<u8>,
    },
    /// Forget the kept dictionary.
    ForgetConfig(NetworkId),
    /// The gate's verdict on a member is now this. Exact until the next one: it compares timestamps of certificates with
    /// each other, never with a clock. // spec: networks, "The gate: may this peer talk to us on this network"
    Member {
        /// Network.
        network: NetworkId,
        /// Member.
        address: Address,
        /// May talk to us.
        allowed: bool,
    },
    /// A credential of a member other than its certificate of membership was filed or revoked: what it may claim may be
    /// something else now. Read [`Network::standing`](crate::Network::standing) again.
    Standing {
        /// Network.
        network: NetworkId,
        /// Member.
        address: Address,
    },
}

/// The authenticated sender of a message.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The identity under whose key the packet authenticated.
    pub identity: &'a Identity,
}

/// What a message meant for the path layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// It proved a relationship beyond a known identity. // spec: paths, "Trust flag"
    pub trust: bool,
    /// It counts as received: last heard, path learning. // spec: wire, "Who may send what"
    pub heard: bool,
}

impl Handled {
    pub(crate) const IGNORED: Handled = Handled { trust: false, heard: false };
    pub(crate) const HEARD: Handled = Handled { trust: false, heard: true };
    pub(crate) const TRUSTED: Handled = Handled { trust: true, heard: true };
}

/// What [`Networks`](crate::Networks) must know of the node around it.
pub trait Surroundings {
    /// Our own identity.
    fn own(&self) -> &Identity;
    /// The identity of a peer, ourselves excepted, if it is known.
    fn identity(&self, address: Address) -> Option<Arc<Identity>>;
    /// Roots and moon seeds, the best one first; without ourselves.
    fn upstreams(&self) -> Vec<Address>;
    /// We are a root or moon seed ourselves.
    fn is_upstream(&self) -> bool;
    /// We are the controller of `network` and sent this member a configuration within 180000 ms.
    fn authorised_by_our_controller(&self, network: NetworkId, member: Address) -> bool;
    /// Round trip on the peer's best direct path; none if it is unknown or the peer was not heard from within 500000 ms.
    fn peer_latency_ms(&self, peer: Address) -> Option<u32>;
    /// Uniformly random.
    fn random(&mut self) -> u64;
}
