//! What the operator decides: physical networks, trusted paths, blacklists, hints. Read from local.conf elsewhere;
//! here it is only looked up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bond::config::Bonding;
use wire::Address;
use wire::endpoint::Prefix;
use wire::packet::{DEFAULT_PHYS_MTU, MAX_PHYS_MTU, MIN_PHYS_MTU};

/// What holds for remotes inside one physical network. // spec: paths, "local.conf"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhysicalNetwork {
    /// The network.
    pub prefix: Prefix,
    /// No new paths to remotes inside.
    pub blacklist: bool,
    /// Packets to and from remotes inside go unprotected under this ID. 0: none.
    pub trusted_path_id: u64,
    /// UDP payload bytes per datagram towards remotes inside; clamped to 1400..=10324. `None`: 1432.
    pub mtu: Option<u16>,
}

/// How frames to a peer whose direct path is new go over the path and over the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmUp {
    /// So many frames; 0: as many as there are meanwhile.
    pub packets: u32,
    /// So long, milliseconds; 0: until `packets` went, at most [`crate::limits::WARM_UP_MS_MAX`]. Both 0: never.
    pub ms: u32,
}

impl WarmUp {
    pub(crate) fn is_off(&self) -> bool {
        *self == WarmUp::default()
    }
}

/// The operator's settings as far as the control plane acts on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Physical networks. Where several contain an address, the least specific one wins, as in ZeroTierOne.
    pub physical: Vec<PhysicalNetwork>,
    /// Remotes never used for a peer: `virtual.<peer>.blacklist`.
    pub peer_blacklists: BTreeMap<Address, Vec<Prefix>>,
    /// Where to try a peer that has no path: `virtual.<peer>.try`.
    pub peer_hints: BTreeMap<Address, Vec<SocketAddr>>,
    /// A controller runs beside this node: NETWORK_CONFIG_REQUEST for networks of our address goes to it.
    pub controller: bool,
    /// Loopback addresses are good paths. For tests on one machine.
    pub allow_loopback: bool,
    /// Probe paths that carry frames but bring nothing back, and leave them after two missed probes. Sends a few
    /// packets that ZeroTierOne would not send.
    pub fast_failover: bool,
    /// Frames that a Hawser numbers are put in order, which is what it is told.
    pub resequence: bool,
    /// Frames over a new direct path go by the relay as well. A peer that does not know repeated packets, as ZeroTierOne,
    /// delivers them twice.
    pub warm_up: WarmUp,
    /// Agree with relayed peers on a port spread ([`crate::limits::SPREAD_PROBES_MAX`] probes of one host), if they
    /// permit it too. To others on the way that may look like a port scan.
    pub port_spread: bool,
    /// Encrypt with Salsa20/12-Poly1305, which every peer speaks, also to those that speak AES-GMAC-SIV.
    pub salsa_only: bool,
    /// Which peers we bond with, and how. With none nothing differs.
    pub bonding: Arc<Bonding>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            physical: Vec::new(),
            peer_blacklists: BTreeMap::new(),
            peer_hints: BTreeMap::new(),
            controller: false,
            allow_loopback: false,
            fast_failover: true,
            resequence: true,
            warm_up: WarmUp::default(),
            port_spread: true,
            salsa_only: false,
            bonding: Arc::default(),
        }
    }
}

impl Settings {
    fn physical_network(&self, ip: IpAddr) -> Option<&PhysicalNetwork> {
        self.physical.iter().filter(|p| p.prefix.contains(ip)).min_by_key(|p| p.prefix.bits)
    }

    /// UDP payload bytes per datagram towards `ip`.
    pub(crate) fn mtu(&self, ip: IpAddr) -> usize {
        self.physical_network(ip)
            .and_then(|p| p.mtu)
            .map_or(DEFAULT_PHYS_MTU, |mtu| usize::from(mtu).clamp(MIN_PHYS_MTU, MAX_PHYS_MTU))
    }

    /// The ID under which packets to `ip` go unprotected.
    pub(crate) fn trusted_path_to(&self, ip: IpAddr) -> Option<u64> {
        self.physical_network(ip).map(|p| p.trusted_path_id).filter(|&id| id != 0)
    }

    /// Packets from `ip` under this trusted-path ID are to be believed.
    pub(crate) fn trusts(&self, ip: IpAddr, path_id: u64) -> bool {
        path_id != 0 && self.physical.iter().any(|p| p.trusted_path_id == path_id && p.prefix.contains(ip))
    }

    /// `ip` is not to be used for `peer`. A /0 blacklists nothing. // spec: paths, "local.conf"
    pub(crate) fn blacklisted(&self, peer: Address, ip: IpAddr) -> bool {
        self.physical.iter().any(|p| p.blacklist && p.prefix.bits > 0 && p.prefix.contains(ip))
            || self.peer_blacklists.get(&peer).is_some_and(|list| list.iter().any(|p| p.contains(ip)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(prefix: &str, mtu: u16, trusted_path_id: u64) -> PhysicalNetwork {
        PhysicalNetwork { prefix: prefix.parse().unwrap(), blacklist: false, trusted_path_id, mtu: Some(mtu) }
    }

    #[test]
    fn the_least_specific_physical_network_wins_and_its_mtu_is_clamped() {
        let settings = Settings {
            physical: vec![network("10.1.0.0/16", 1500, 7), network("10.0.0.0/8", 100, 0)],
            ..Settings::default()
        };
        assert_eq!(settings.mtu([10, 1, 2, 3].into()), 1400);
        assert_eq!(settings.mtu([192, 168, 0, 1].into()), 1432);
        assert_eq!(settings.trusted_path_to([10, 1, 2, 3].into()), None);
        assert!(settings.trusts([10, 1, 2, 3].into(), 7));
        assert!(!settings.trusts([10, 2, 2, 3].into(), 7) && !settings.trusts([10, 1, 2, 3].into(), 0));
    }
}
