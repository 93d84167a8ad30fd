//! Measures tunnels between two gateways on one host: a rig of network namespaces, traffic, what it cost, a record of it.
//!
//! It drives finished programs through their command lines and real sockets. A [`tunnel::Tunnel`] is started on a fresh
//! [`rig::Rig`], traffic runs, and what was seen becomes [`record::Cell`]s. It knows nothing of how a gateway works inside.

#![forbid(unsafe_code)]

pub mod bonding;
pub mod ceiling;
pub mod cli;
pub mod compare;
pub mod compare_saved;
pub mod failover;
pub mod failover_world;
pub mod latency;
pub mod load;
pub mod machine;
pub mod meter;
pub mod nat;
pub mod plan;
pub mod plot;
pub mod record;
pub mod report;
pub mod rig;
pub mod scale;
pub mod stages;
pub mod table;
pub mod throughput;
pub mod tunnel;

pub use lab::{Error, IoContext, Result};
