//! What a virtual network is to a member: configuration, credentials, rules, frames, multicast, addresses. Pure.
//!
//! [`Networks`] is the state machine of all joined networks and of the multicast database; roots and controllers use it
//! for LIKE and GATHER too. Every call that changes it takes the time, its [`Surroundings`] and a list that it adds
//! [`Action`]s to, which are to be carried out in order.

pub mod action;
pub mod addressing;
pub mod config;
pub mod constants;
pub mod counters;
pub mod membership;
pub mod network;
pub mod networks;
pub mod policy;
pub mod rules;

mod assembly;
mod bridge;
mod ethernet;
mod held;
mod inbound;
mod multicast;
mod ndp;
mod outbound;
mod senders;
mod turn;

pub use action::{Action, Handled, Sender, Surroundings};
pub use config::{Config, ConfigError};
pub use counters::Counters;
pub use network::{Network, Status};
pub use networks::{Gauges, Networks};
pub use policy::{Policy, Standing};
