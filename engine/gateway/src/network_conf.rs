//! What the operator allows one network to do to this host: `networks.d/<id>.local.conf`, and the verdict on each managed
//! address and route. Pure; whoever applies the verdict is elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wire::endpoint::{Prefix, Scope, scope};

/// Prefixes in an `allowManaged` list.
pub const MAX_MANAGED_PREFIXES: usize = 128;
/// Metric of routes that have a gateway. // spec: networks, "Routes"
pub const VIA_METRIC: u32 = 5000;

/// The local settings of one network. // spec: networks, "Settings per network"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConf {
    /// Apply addresses and routes at all.
    pub allow_managed: bool,
    /// If not empty: only targets inside one of these.
    pub managed_in: Vec<Prefix>,
    /// Addresses and targets of global scope too.
    pub allow_global: bool,
    /// Default routes too.
    pub allow_default: bool,
    /// Kept and shown; has no effect on Linux.
    pub allow_dns: bool,
}

impl Default for NetworkConf {
    fn default() -> NetworkConf {
        NetworkConf {
            allow_managed: true,
            managed_in: Vec::new(),
            allow_global: false,
            allow_default: false,
            allow_dns: false,
        }
    }
}

impl NetworkConf {
    /// Reads `key=value` lines. Unknown keys and lines are passed over, as in ZeroTierOne; the reason if a value is wrong.
    pub fn parse(text: &str) -> Result<NetworkConf, String> {
        let mut conf = NetworkConf::default();
        for (key, value) in text.lines().filter_map(|line| line.trim_end_matches('\r').split_once('=')) {
            let yes = value.starts_with(['1', 't', 'T']);
            match key {
                "allowManaged" if value.len() > 5 => {
                    conf.allow_managed = true;
                    conf.managed_in = parse_prefixes(value)?;
                }
                "allowManaged" => conf.allow_managed = yes,
                "allowGlobal" => conf.allow_global = yes,
                "allowDefault" => conf.allow_default = yes,
                "allowDNS" => conf.allow_dns = yes,
                _ => {}
            }
        }
        Ok(conf)
    }

    /// The lines of the file. Unlike ZeroTierOne's, a list of prefixes survives being written back.
    pub fn to_text(&self) -> String {
        let managed = if self.allow_managed && !self.managed_in.is_empty() {
            self.managed_in.iter().map(Prefix::to_string).collect::<Vec<_>>().join(",")
        } else {
            u8::from(self.allow_managed).to_string()
        };
        format!(
            "allowManaged={managed}\nallowGlobal={}\nallowDefault={}\nallowDNS={}\n",
            u8::from(self.allow_global),
            u8::from(self.allow_default),
            u8::from(self.allow_dns)
        )
    }

    /// Whether an address or route target may be applied to this host.
    pub fn allows(&self, target: &Prefix) -> bool {
        let inside = |p: &Prefix| target.bits >= p.bits && p.contains(target.addr);
        if !self.allow_managed || !(self.managed_in.is_empty() || self.managed_in.iter().any(inside)) {
            return false;
        }
        if target.bits == 0 {
            return self.allow_default;
        }
        match scope(target.addr) {
            Scope::None | Scope::Multicast | Scope::Loopback | Scope::LinkLocal => false,
            Scope::Global => self.allow_global,
            Scope::PseudoPrivate | Scope::Shared | Scope::Private => true,
        }
    }

    /// The addresses that the TAP should have. // spec: networks, "Addresses"
    pub fn addresses(&self, assigned: &[Prefix]) -> BTreeSet<(IpAddr, u8)> {
        assigned.iter().filter(|a| self.allows(a)).map(|a| (a.addr, a.bits)).collect()
    }

    /// The routes that should stand, those without a gateway first. `own` are the addresses on the TAP.
    // spec: networks, "Routes"
    pub fn routes(
        &self,
        managed: &[(Prefix, Option<IpAddr>)],
        own: &BTreeSet<(IpAddr, u8)>,
        online: bool,
    ) -> Vec<Route> {
        let mut routes = Vec::new();
        for (target, via) in managed {
            if !self.allows(target) || via.is_some_and(|via| own.iter().any(|(ip, _)| *ip == via)) {
                continue;
            }
            let Some(source) = nearest_source(target.addr, own) else { continue };
            let connected = |(ip, bits): &(IpAddr, u8)| *bits == target.bits && target.contains(*ip);
            if own.iter().any(connected) || (target.bits == 0 && via.is_some() && !online) {
                continue;
            }
            for (addr, bits) in halves(target) {
                let metric = if via.is_some() { VIA_METRIC } else { 0 };
                routes.push(Route { target: addr, bits, via: *via, source, metric });
            }
        }
        routes.sort_by_key(|r| r.via.is_some());
        routes.dedup();
        routes
    }
}

/// One route through a TAP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Network address of the target, host bits zero.
    pub target: IpAddr,
    /// Its prefix length.
    pub bits: u8,
    /// The gateway, if not on the link.
    pub via: Option<IpAddr>,
    /// Preferred source address.
    pub source: IpAddr,
    /// Kernel metric.
    pub metric: u32,
}

fn parse_prefixes(text: &str) -> Result<Vec<Prefix>, String> {
    let list: Result<Vec<Prefix>, _> = text.split(',').map(|p| p.trim().parse().map_err(|_| p.to_owned())).collect();
    match list {
        Err(bad) => Err(format!("allowManaged: {bad:?} is not a network like 10.0.0.0/8")),
        Ok(list) if list.len() > MAX_MANAGED_PREFIXES => {
            Err(format!("allowManaged: {} networks, at most {MAX_MANAGED_PREFIXES} are taken", list.len()))
        }
        Ok(list) => Ok(list),
    }
}

fn nearest_source(target: IpAddr, own: &BTreeSet<(IpAddr, u8)>) -> Option<IpAddr> {
    let shared = |ip: &IpAddr| match (target, *ip) {
        (IpAddr::V4(t), IpAddr::V4(o)) => Some((u32::from(t) ^ u32::from(o)).leading_zeros()),
        (IpAddr::V6(t), IpAddr::V6(o)) => Some((u128::from(t) ^ u128::from(o)).leading_zeros()),
        _ => None,
    };
    own.iter().filter_map(|(ip, _)| Some((shared(ip)?, *ip))).max_by_key(|(bits, _)| *bits).map(|(_, ip)| ip)
}

/// A default route is installed as two halves, which win by length over the system's own.
fn halves(target: &Prefix) -> Vec<(IpAddr, u8)> {
    match target.addr {
        _ if target.bits > 0 => vec![(masked(target), target.bits)],
        IpAddr::V4(_) => vec![(IpAddr::from([0; 4]), 1), (IpAddr::from([128, 0, 0, 0]), 1)],
        IpAddr::V6(_) => vec![(IpAddr::from([0; 16]), 1), (IpAddr::from((1u128 << 127).to_be_bytes()), 1)],
    }
}

/// The network address: host bits zero.
fn masked(p: &Prefix) -> IpAddr {
    match p.addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(p.bits)).unwrap_or(0);
            IpAddr::from((u32::from(a) & mask).to_be_bytes())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(p.bits)).unwrap_or(0);
            IpAddr::from((u128::from(a) & mask).to_be_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(s: &str) -> Prefix {
        s.parse().expect("prefix")
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("ip")
    }

    fn own(list: &[&str]) -> BTreeSet<(IpAddr, u8)> {
        list.iter().map(|s| prefix(s)).map(|p| (p.addr, p.bits)).collect()
    }

    #[test]
    fn an_absent_file_allows_private_targets_only() {
        let conf = NetworkConf::parse("").expect("empty");
        assert_eq!(conf, NetworkConf::default());
        assert!(conf.allows(&prefix("10.147.20.5/24")) && conf.allows(&prefix("fd00::1/64")));
        for refused in ["8.8.8.0/24", "0.0.0.0/0", "::/0", "127.0.0.1/8", "224.0.0.0/4", "169.254.1.0/24"] {
            assert!(!conf.allows(&prefix(refused)), "{refused}");
        }
    }

    #[test]
    fn a_list_in_allow_managed_narrows_and_survives_being_written_back() {
        let conf = NetworkConf::parse("allowManaged=10.147.0.0/16,fd00::/8\nallowGlobal=1\n").expect("list");
        assert!(conf.allows(&prefix("10.147.20.0/24")) && !conf.allows(&prefix("10.0.0.0/8")));
        assert!(!conf.allows(&prefix("8.8.8.0/24")), "global is allowed, but not inside the list");
        assert_eq!(NetworkConf::parse(&conf.to_text()).expect("own text"), conf);
        assert!(NetworkConf::parse("allowManaged=nonsense").expect_err("bad").contains("\"nonsense\""));
    }

    #[test]
    fn first_characters_decide_as_in_the_original() {
        let conf =
            NetworkConf::parse("allowManaged=0\nallowGlobal=true\nallowDefault=T\nallowDNS=1\nother=5\n").expect("ok");
        assert!(!conf.allow_managed && conf.allow_global && conf.allow_default && conf.allow_dns);
        assert!(!conf.allows(&prefix("10.0.0.0/8")));
    }

    #[test]
    fn the_connected_route_is_left_to_the_kernel_and_a_route_through_ourselves_is_skipped() {
        let conf = NetworkConf::default();
        let own = own(&["10.147.20.5/24"]);
        let managed = [
            (prefix("10.147.20.0/24"), None),
            (prefix("192.168.7.0/24"), Some(ip("10.147.20.5"))),
            (prefix("192.168.8.0/24"), Some(ip("10.147.20.9"))),
            (prefix("10.200.0.0/16"), None),
            (prefix("fd00::/8"), None),
        ];
        let routes = conf.routes(&managed, &own, true);
        assert_eq!(routes.len(), 2, "{routes:?}");
        assert_eq!((routes[0].target, routes[0].via, routes[0].metric), (ip("10.200.0.0"), None, 0));
        assert_eq!((routes[1].target, routes[1].metric), (ip("192.168.8.0"), VIA_METRIC));
        assert_eq!(routes[1].source, ip("10.147.20.5"));
    }

    #[test]
    fn a_default_route_is_two_halves_and_waits_until_the_node_is_online() {
        let conf = NetworkConf { allow_default: true, ..NetworkConf::default() };
        let managed = [(prefix("0.0.0.0/0"), Some(ip("10.147.20.1")))];
        assert!(conf.routes(&managed, &own(&["10.147.20.5/24"]), false).is_empty());
        let routes = conf.routes(&managed, &own(&["10.147.20.5/24"]), true);
        let targets: Vec<_> = routes.iter().map(|r| (r.target, r.bits)).collect();
        assert_eq!(targets, [(ip("0.0.0.0"), 1), (ip("128.0.0.0"), 1)]);
    }

    #[test]
    fn the_source_is_the_own_address_nearest_to_the_target() {
        let own = own(&["10.1.0.5/24", "172.16.0.5/24"]);
        assert_eq!(nearest_source(ip("172.16.9.0"), &own), Some(ip("172.16.0.5")));
        assert_eq!(nearest_source(ip("fd00::1"), &own), None);
    }
}
