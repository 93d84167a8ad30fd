//! Nobody can have us flood a third party: what we send to addresses that have proved nothing yet, because somebody
//! named them, is counted per target, however many name it.
// spec: paths, "Security", "Hardening bounds"

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use wire::{Address, Now};

use crate::Node;
use crate::limits::*;

/// Packets that went to one target and were not answered; they are forgotten at a steady pace.
#[derive(Clone, Copy, Debug)]
struct Target {
    milli: u64,
    at_ms: u64,
}

impl Target {
    fn now(self, now_ms: u64) -> Target {
        let forgotten = now_ms.saturating_sub(self.at_ms) * u64::from(TARGET_PROBES_PER_10_S) / 10;
        Target { milli: self.milli.saturating_sub(forgotten), at_ms: now_ms }
    }
}

/// Who was probed of late.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    by_ip: BTreeMap<IpAddr, Target>,
}

impl Targets {
    /// So many packets may go to somebody at `ip` who may not be there. What strangers cause has half the room, so that
    /// they cannot keep us from friends.
    fn take(&mut self, ip: IpAddr, packets: u64, stranger: bool, now_ms: u64) -> bool {
        let ip = target(ip);
        if self.by_ip.len() >= TARGETS_MAX && !self.by_ip.contains_key(&ip) {
            self.expire(now_ms);
        }
        if self.by_ip.len() >= TARGETS_MAX && !self.by_ip.contains_key(&ip) {
            return false;
        }
        let max = u64::from(TARGET_PROBES_BURST) * if stranger { 500 } else { 1000 };
        // Whose many links do not fit in there still opens them all, and then probes from them all.
        let max = max.max(2 * packets * 1000);
        let known = self.by_ip.get(&ip).copied().unwrap_or(Target { milli: 0, at_ms: now_ms }).now(now_ms);
        let milli = known.milli + packets * 1000;
        if milli > max {
            return false;
        }
        self.by_ip.insert(ip, Target { milli, at_ms: now_ms });
        true
    }

    /// Somebody is there after all: what it took to find out is given back.
    pub(crate) fn proven(&mut self, ip: IpAddr, now_ms: u64) {
        if let Some(known) = self.by_ip.get_mut(&target(ip)) {
            let Target { milli, at_ms } = known.now(now_ms);
            *known = Target { milli: milli.saturating_sub(TARGET_PROBES_BACK * 1000), at_ms };
        }
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.by_ip.retain(|_, known| known.now(now_ms).milli > 0);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_ip.len()
    }
}

/// An IPv4 address, or the 64 bits before an IPv6 one, which all belong to one household.
fn target(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX << 64).into()),
    }
}

impl Node {
    /// A probe for `to` may go to an endpoint that has not proved to be its own, in so many copies.
    pub(crate) fn may_probe(&mut self, now: Now, to: Address, remote: SocketAddr, copies: usize) -> bool {
        let stranger = self.peers.get(to).is_none_or(|p| p.stranger());
        let may = self.targets.take(remote.ip(), copies as u64, stranger, now.ms());
        self.counters.probes_over_target += u64::from(!may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(targets: &mut Targets, ip: &str, stranger: bool, now_ms: u64) -> u64 {
        (0..1000).filter(|_| targets.take(ip.parse().unwrap(), 1, stranger, now_ms)).count() as u64
    }

    #[test]
    fn a_target_gets_its_burst_and_then_its_rate_and_strangers_use_up_half() {
        let (mut targets, burst) = (Targets::default(), u64::from(TARGET_PROBES_BURST));
        assert_eq!(taken(&mut targets, "44.1.1.1", true, 0), burst / 2);
        assert_eq!(taken(&mut targets, "44.1.1.1", false, 0), burst - burst / 2);
        assert_eq!(taken(&mut targets, "44.1.1.2", false, 0), burst, "another one");
        assert_eq!(taken(&mut targets, "44.1.1.1", false, 10_000), u64::from(TARGET_PROBES_PER_10_S));
        assert_eq!(taken(&mut targets, "2001:db8::1", false, 0), burst);
        assert_eq!(taken(&mut targets, "2001:db8::2", false, 0), 0, "the same household");
        targets.proven("44.1.1.2".parse().unwrap(), 0);
        assert_eq!(taken(&mut targets, "44.1.1.2", false, 0), TARGET_PROBES_BACK);
    }

    #[test]
    fn a_node_with_many_links_probes_from_all_of_them_what_it_opened_its_nats_for_and_then_no_more() {
        for stranger in [true, false] {
            let (mut targets, ip) = (Targets::default(), "44.1.1.1".parse().unwrap());
            let copies = 2 * u64::from(TARGET_PROBES_BURST);
            let taken = (0..10).filter(|_| targets.take(ip, copies, stranger, 0)).count();
            assert_eq!(taken, 2, "what opens our own NATs, and the probe");
            assert!(!targets.take(ip, 1, false, 1000) && targets.take(ip, 1, false, 1_000_000));
        }
    }

    #[test]
    fn targets_are_remembered_within_bounds_and_a_full_table_lets_nobody_be_probed() {
        let mut targets = Targets::default();
        let ip = |n: usize| IpAddr::from((n as u32 + (9 << 24)).to_be_bytes());
        assert_eq!((0..2 * TARGETS_MAX).filter(|&n| targets.take(ip(n), 1, true, 0)).count(), TARGETS_MAX);
        assert_eq!(targets.len(), TARGETS_MAX);
        assert!(targets.take(ip(2 * TARGETS_MAX), 1, true, 10_000), "and forgets");
        assert_eq!(targets.len(), 1);
    }
}
