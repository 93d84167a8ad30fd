//! One peer's paths used together. Pure: the time and what was seen come in, a plan and the reasons for it go out. No socket,
//! no clock, no randomness but a secret given at the start.
//!
//! # How it is used
//!
//! The control plane owns a [`Bond`] per peer that has one ([`config::Bonding::of`]) and tells it what happens:
//!
//! ```text
//! learn, forget          a path appeared (an OK came over it), its socket is gone or it expired
//! link_lost              carrier, address or route is lost, or a send failed with ENETUNREACH, ENODEV, EADDRNOTAVAIL
//! heard                  an authenticated packet that is no repeat came in by it (compat mode lives on this)
//! requested, acked       a probe, or data that asks for acknowledgement (EXT_FRAME with flag 0x10), left; OK came back
//! reported, observe      timing reports of the remote; rate and load as the shards saw them, once per tick
//! negotiation_request    PATH_NEGOTIATION_REQUEST
//! tick                   every 10 to 60 ms: appends what is to be sent (probes, requests)
//! ```
//!
//! After each of these [`Bond::plan`] is compared by its `serial`; a new one goes to every shard as an `Arc`. Failures act in
//! the same call and wait for no tick.
//!
//! A shard has one [`Selector`] per bonded peer: [`Selector::select`] names a packet's way from the plan and from the shard's own
//! flow table, without allocation and lock. Large flows that may be striped ([`Choice::Striped`]) go through a
//! [`striper::Striper`], which holds handles of packets and says which leaves when and where; its [`model::PathModel`]s learn each
//! path's rate and delay from the same acknowledgements. A plan with other paths goes to [`striper::Striper::rebuild`]: what was
//! learned of a path that stays is kept, what was bound to one that goes is bound to the others; without a bond
//! [`striper::Striper::drain`] gives all back. A path's index is its index in the present plan. At the tick the shard hands
//! over, in one batch: acknowledged requests (path, packet ID, time sent, time of the answer), bytes per path, rates of its models, [`select::Counters`].
//! When several shards stripe over one path, the control plane divides its rate among them by their load.
//!
//! Why something was decided is in [`Bond::decisions`].
//!
//! # Two modes
//!
//! [`config::Mode::Compat`] decides by the reference's rules ([`compat`]), [`config::Mode::Better`], the default, by acknowledgements of our own
//! packets, measured rates and hysteresis. What is on the wire is the same protocol in both.

pub mod compat;
pub mod config;
pub mod delivery;
pub mod explain;
pub mod fair_queue;
pub mod flow_table;
pub mod inner;
pub mod limits;
pub mod link_test;
pub mod marks;
pub mod model;
pub mod negotiation;
pub mod pact;
pub mod path;
pub mod plan;
pub mod qos;
pub mod recall;
pub mod rendezvous;
pub mod resequence;
pub mod seen;
pub mod select;
pub mod striper;
pub mod trips;
pub mod tx;

mod bond;
mod routed;

pub use bond::{Action, Bond, Counters, Hint, Observed, Refused};
pub use explain::{Decision, Reason, Why};
pub use path::{NewPath, PathId};
pub use plan::{Plan, PlanPath};
pub use routed::Routed;
pub use seen::{Seen, Shares};
pub use select::{Choice, Selector};
