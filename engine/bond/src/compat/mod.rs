//! What ZeroTierOne 1.14 decides, rule by rule, as pure functions and small machines: the rules of [`crate::Mode::Compat`],
//! and the model by which a stock peer's behaviour can be predicted. Recorded behaviour is the ground truth here
//! (`vectors/bonding-*`). What a record pins though it is a defect of the reference is repeated and named:
//!
//! | defect | where |
//! |---|---|
//! | B7, a path beyond a limit is avoided every second time only | [`quality::avoid_next`] |
//! | B8, quality and `failoverTo` decide nothing, only the front of the queue is looked at | [`active_backup`] |
//! | B9, flows by the parity of their ports | [`balance::xor`] |
//! | B15, no path for one tick after a rebuild on spares | [`bonded_set`] |
//! | B16, turns of n + 1 packets | [`balance::RoundRobin`] |
//!
//! The others are not repeated: B2 ([`balance::aware`] always finds a path), B3 (an active path that is gone is replaced by
//! whatever is queued, see [`active_backup::ActiveBackup::tick`]), B12 ([`crate::qos::Window`] is right from the first
//! sample on). They concern this room only where a record would have shown them.

pub mod active_backup;
pub mod balance;
pub mod bonded_set;
pub mod eligibility;
pub mod gate;
pub mod negotiation;
pub mod qos;
pub mod quality;
