//! A plan with the routes that its paths stand for, as it goes from who decides to those who carry packets. What a route is
//! they know themselves: sockets have other names there and here.

use std::sync::Arc;

use crate::Plan;

/// How frames to a peer that we bond with are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed<R> {
    /// Which path a frame takes.
    pub plan: Arc<Plan>,
    /// Of each of the plan's paths, in its order.
    pub routes: Vec<R>,
    /// Through a root.
    pub relay: Option<R>,
    /// The peer takes order marks: frames of one flow that take several paths get them.
    pub marks: bool,
    /// The peer drops what comes twice: anything may be sent again.
    pub duplicates_dropped: bool,
}
