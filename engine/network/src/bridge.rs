//! What is behind bridges: which member a foreign MAC was last seen behind, and which multicast groups are behind us.
//! Ages like a switch's table; knows nothing of frames.

use std::collections::BTreeMap;

use wire::{Address, Mac, MulticastGroup};

use crate::constants::{
    BRIDGE_ROUTE_AGE_MS, BRIDGE_ROUTES_MAX, BRIDGE_ROUTES_PER_BRIDGE_MAX, BRIDGED_GROUP_AGE_MS, BRIDGED_GROUPS_MAX,
};

#[derive(Clone, Copy, Debug)]
struct Route {
    bridge: Address,
    seen_ms: u64,
}

/// Foreign MACs and the bridges they are behind. // spec: networks, "Bridge routes"
#[derive(Debug, Default)]
pub(crate) struct BridgeRoutes {
    routes: BTreeMap<Mac, Route>,
    per_bridge: BTreeMap<Address, usize>,
}

impl BridgeRoutes {
    /// Notes that `mac` is behind `bridge`; false if there is no room for it.
    pub fn learn(&mut self, now_ms: u64, mac: Mac, bridge: Address) -> bool {
        let known = self.routes.get(&mac).copied();
        if let Some(route) = known
            && route.bridge == bridge
        {
            self.routes.insert(mac, Route { bridge, seen_ms: now_ms });
            return true;
        }
        let of_bridge = self.per_bridge.get(&bridge).copied().unwrap_or(0);
        if of_bridge >= BRIDGE_ROUTES_PER_BRIDGE_MAX || (known.is_none() && self.routes.len() >= BRIDGE_ROUTES_MAX) {
            return false;
        }
        if let Some(moved) = self.routes.insert(mac, Route { bridge, seen_ms: now_ms }) {
            self.forget(moved.bridge);
        }
        *self.per_bridge.entry(bridge).or_default() += 1;
        true
    }

    /// The bridge that `mac` was seen behind lately.
    pub fn bridge_of(&self, now_ms: u64, mac: Mac) -> Option<Address> {
        let route = self.routes.get(&mac)?;
        (now_ms.saturating_sub(route.seen_ms) < BRIDGE_ROUTE_AGE_MS).then_some(route.bridge)
    }

    /// Forgets old routes.
    pub fn sweep(&mut self, now_ms: u64) {
        let mut gone = Vec::new();
        self.routes.retain(|_, route| {
            let keep = now_ms.saturating_sub(route.seen_ms) < BRIDGE_ROUTE_AGE_MS;
            if !keep {
                gone.push(route.bridge);
            }
            keep
        });
        gone.into_iter().for_each(|bridge| self.forget(bridge));
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    fn forget(&mut self, bridge: Address) {
        if let Some(n) = self.per_bridge.get_mut(&bridge) {
            *n -= 1;
            if *n == 0 {
                self.per_bridge.remove(&bridge);
            }
        }
    }
}

/// Result of noting a group behind us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    New,
    Known,
    NoRoom,
}

/// Groups that stations behind us sent to. // spec: networks, "Groups behind a bridge"
#[derive(Debug, Default)]
pub(crate) struct BridgedGroups {
    seen_ms: BTreeMap<MulticastGroup, u64>,
}

impl BridgedGroups {
    pub fn note(&mut self, now_ms: u64, group: MulticastGroup) -> Noted {
        if let Some(seen) = self.seen_ms.get_mut(&group) {
            *seen = now_ms;
            return Noted::Known;
        }
        if self.seen_ms.len() >= BRIDGED_GROUPS_MAX {
            return Noted::NoRoom;
        }
        self.seen_ms.insert(group, now_ms);
        Noted::New
    }

    pub fn contains(&self, group: &MulticastGroup) -> bool {
        self.seen_ms.contains_key(group)
    }

    pub fn iter(&self) -> impl Iterator<Item = MulticastGroup> + '_ {
        self.seen_ms.keys().copied()
    }

    pub fn sweep(&mut self, now_ms: u64) {
        self.seen_ms.retain(|_, &mut seen| now_ms.saturating_sub(seen) < BRIDGED_GROUP_AGE_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> Mac {
        let b = n.to_be_bytes();
        Mac([0, 0x11, b[4], b[5], b[6], b[7]])
    }

    #[test]
    fn a_foreign_mac_is_found_behind_the_bridge_it_was_last_seen_behind_until_it_ages() {
        let mut routes = BridgeRoutes::default();
        let (one, two) = (Address::from_u64(1), Address::from_u64(2));
        assert!(routes.learn(0, mac(1), one));
        assert!(routes.learn(10, mac(1), two));
        assert_eq!(routes.bridge_of(10, mac(1)), Some(two));
        assert_eq!(routes.bridge_of(10 + BRIDGE_ROUTE_AGE_MS, mac(1)), None);
        routes.sweep(10 + BRIDGE_ROUTE_AGE_MS);
        assert_eq!((routes.len(), routes.per_bridge.len()), (0, 0));
    }

    #[test]
    fn one_bridge_cannot_fill_the_table_and_the_table_has_an_end() {
        let mut routes = BridgeRoutes::default();
        let learned = (0..BRIDGE_ROUTES_PER_BRIDGE_MAX + 10).filter(|&n| routes.learn(0, mac(n), Address::from_u64(1)));
        assert_eq!(learned.count(), BRIDGE_ROUTES_PER_BRIDGE_MAX);
        let bridges = (BRIDGE_ROUTES_MAX / BRIDGE_ROUTES_PER_BRIDGE_MAX) as u64;
        for bridge in 2..=bridges + 1 {
            for n in 0..BRIDGE_ROUTES_PER_BRIDGE_MAX {
                routes.learn(0, mac(bridge as usize * BRIDGE_ROUTES_MAX + n), Address::from_u64(bridge));
            }
        }
        assert_eq!(routes.len(), BRIDGE_ROUTES_MAX);
    }

    #[test]
    fn groups_behind_us_have_an_end_and_age() {
        let mut groups = BridgedGroups::default();
        let group = |n: usize| MulticastGroup { mac: Mac::BROADCAST, adi: n as u32 };
        for n in 0..BRIDGED_GROUPS_MAX {
            assert_eq!(groups.note(0, group(n)), Noted::New);
        }
        assert_eq!(groups.note(0, group(0)), Noted::Known);
        assert_eq!(groups.note(0, group(BRIDGED_GROUPS_MAX)), Noted::NoRoom);
        groups.sweep(BRIDGED_GROUP_AGE_MS);
        assert!(!groups.contains(&group(0)));
    }
}
