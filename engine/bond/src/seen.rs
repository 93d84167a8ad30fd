//! What a shard saw of one bond since it last said so, in order of time: the batch that the control plane's half lives on.

use crate::path::PathId;

/// One thing seen. Times are us of the clock that all threads share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// A frame left that asks for acknowledgement.
    Requested {
        /// Over this path.
        path: PathId,
        /// Its ID on the wire.
        packet_id: u64,
        /// When.
        at_us: u64,
    },
    /// It was acknowledged.
    Acked {
        /// The path over which the frame left.
        path: PathId,
        /// The frame's ID.
        packet_id: u64,
        /// When.
        at_us: u64,
    },
    /// Frames that left over one path.
    Sent {
        /// The path.
        path: PathId,
        /// How many.
        packets: u64,
        /// Their bytes on the wire.
        bytes: u64,
    },
    /// What the path was found to carry. bytes/s.
    Rate {
        /// The path.
        path: PathId,
        /// The estimate.
        rate: f64,
    },
    /// Flows that are on a path now.
    Flows {
        /// The path.
        path: PathId,
        /// How many.
        count: u32,
    },
    /// A frame whose odd ID a timing report of the remote may name.
    Sampled {
        /// Over this path.
        path: PathId,
        /// Its ID.
        packet_id: u64,
        /// When it left.
        at_us: u64,
    },
}
