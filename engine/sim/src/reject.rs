//! Routers that refuse what is to go some way and say so, seldom, by ICMP: as Linux does, six times at once and then once
//! a second. Which host hears it is the world's business.

use std::collections::BTreeMap;
use std::net::IpAddr;

const BURST: u64 = 6;
const EACH_US: u64 = 1_000_000;
/// The router is the next one: so long until its word is there.
pub const ROUTER_US: u64 = 1000;

/// The ways that are refused: from the first address to the second only.
#[derive(Default)]
pub struct Rejects(BTreeMap<(IpAddr, IpAddr), u64>);

impl Rejects {
    /// From now on.
    pub fn insert(&mut self, from: IpAddr, to: IpAddr) {
        self.0.insert((from, to), 0);
    }

    /// No more.
    pub fn remove(&mut self, from: IpAddr, to: IpAddr) {
        self.0.remove(&(from, to));
    }

    /// Whether a datagram is refused; if so, whether that is said.
    pub fn refuse(&mut self, from: IpAddr, to: IpAddr, now_us: u64) -> Option<bool> {
        // When there would be as much to say as at first.
        let full_us = self.0.get_mut(&(from, to))?;
        let next = (*full_us).max(now_us) + EACH_US;
        let said = next <= now_us + BURST * EACH_US;
        if said {
            *full_us = next;
        }
        Some(said)
    }
}
