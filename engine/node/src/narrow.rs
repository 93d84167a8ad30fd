//! Remotes to which the way is narrower than the settings say, as the kernel found out. It never knows how that was
//! found, and forgets it after a while, for ways become wider again too.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::Now;

use crate::Node;
use crate::limits::{NARROW_MTU_MIN, NARROWED_MAX, NARROWED_MS};

/// UDP payload bytes towards each, and since when that is known.
#[derive(Debug, Default)]
pub(crate) struct Narrowed(BTreeMap<IpAddr, (usize, u64)>);

impl Narrowed {
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.0.retain(|_, (_, at)| now_ms.saturating_sub(*at) < NARROWED_MS);
    }
}

impl Node {
    /// No more than `mtu` bytes of UDP payload reach `remote` in one piece. Datagrams to it are cut smaller from now on,
    /// unless this says that they are not: they are small enough already, or there is no room to remember it.
    pub fn narrow(&mut self, now: Now, remote: IpAddr, mtu: usize) -> bool {
        let mtu = mtu.max(NARROW_MTU_MIN);
        if mtu >= self.mtu(remote) {
            return false;
        }
        if self.narrowed.0.len() >= NARROWED_MAX && !self.narrowed.0.contains_key(&remote) {
            self.counters.narrowed_full += 1;
            return false;
        }
        self.counters.narrowed += 1;
        self.narrowed.0.insert(remote, (mtu, now.ms()));
        self.plan_all(now);
        true
    }

    /// UDP payload bytes per datagram towards `ip`.
    pub(crate) fn mtu(&self, ip: IpAddr) -> usize {
        let configured = self.settings.mtu(ip);
        self.narrowed.0.get(&ip).map_or(configured, |&(mtu, _)| mtu.min(configured))
    }
}
