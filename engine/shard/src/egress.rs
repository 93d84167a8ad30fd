//! Where a shard's packets go. The caller implements [`Egress`] over its rings, queues and buffers; a shard must never
//! know which.

use std::net::SocketAddr;

use wire::message::OrderMark;
use wire::{Address, NetworkId};

use crate::SocketId;
use crate::offload::{Gso, Offload};

/// Names a frame that grows in the TAP's own memory, from [`Egress::tap_open`] to [`Egress::tap_close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TapSlot(pub u16);

/// The outside of a shard, seen from within.
pub trait Egress {
    /// Hands an Ethernet frame, header included, to the network's TAP.
    fn tap(&mut self, network: NetworkId, frame: &[u8]);

    /// Room in which a super-frame to the network's TAP may grow. None if that TAP takes none of this kind, or there is
    /// no room: frames are then handed over one by one.
    fn tap_open(&mut self, network: NetworkId, kind: Gso) -> Option<TapSlot>;

    /// All the room of an open slot; empty if there is no such slot.
    fn tap_slot(&mut self, slot: TapSlot) -> &mut [u8];

    /// Hands over the first `len` bytes of an open slot, with what is left to do for them. Zero bytes hand over nothing.
    fn tap_close(&mut self, slot: TapSlot, len: usize, offload: Offload);

    /// A send buffer of exactly `len` bytes. What the shard has written into it leaves `socket` for `remote` when the
    /// batch ends. None if there is no room: the datagram is dropped and counted.
    fn udp(&mut self, socket: SocketId, remote: SocketAddr, len: usize) -> Option<&mut [u8]>;

    /// Hands to the control plane what a shard does not do. A full queue drops and counts.
    fn control(&mut self, what: ToControl<'_>);

    /// Gives a frame to the shard where those of its flow meet, if they come to several shards. False: it is to be
    /// delivered here.
    fn meet(&mut self, stray: &Stray<'_>) -> bool {
        let _ = stray;
        false
    }
}

/// A frame of a peer whose frames come to several shards, a TCP segment or one with an order mark: opened and judged,
/// ready for the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray<'a> {
    /// The peer.
    pub peer: Address,
    /// The socket it came to.
    pub socket: SocketId,
    /// Where it came from.
    pub remote: SocketAddr,
    /// The network of the TAP.
    pub network: NetworkId,
    /// The frame, header included.
    pub frame: &'a [u8],
    /// What its sender says of its place in its flow.
    pub mark: Option<OrderMark>,
}

/// What a shard leaves to the control plane.
#[derive(Debug, PartialEq, Eq)]
pub enum ToControl<'a> {
    /// As it came from the network: a head, perhaps of a longer packet, or a fragment, for another node.
    Foreign {
        /// The socket it came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The UDP payload.
        bytes: &'a [u8],
    },
    /// As it came from the network: a whole packet for us that needs more than a shard knows: a HELLO (its tail still
    /// obscured), an unknown sender, a trusted path.
    Datagram {
        /// The socket it came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The UDP payload.
        bytes: &'a [u8],
    },
    /// The same, put together from fragments; its fragmented flag is still set because it is authenticated.
    Reassembled {
        /// The socket the head came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The whole packet, unopened.
        packet: &'a [u8],
    },
    /// A whole packet for us, authenticated and decrypted; may be compressed. ACK, QOS_MEASUREMENT and
    /// PATH_NEGOTIATION_REQUEST come so in suite 0 too; no other verb does.
    Opened {
        /// The socket it came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The whole packet, verb and payload in clear.
        packet: &'a [u8],
    },
    /// An Ethernet frame from the TAP: multicast, bridged, filtered, or to somebody without a route.
    Frame {
        /// The network of the TAP.
        network: NetworkId,
        /// The frame, header included.
        frame: &'a [u8],
    },
}
