//! Which of this host's addresses should be links: what the operator says, held against the interfaces that the kernel
//! reports. No sockets here.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use wire::endpoint::{Prefix, Scope, scope};

use crate::local_conf::LocalConf;
use crate::netlink::{Interface, InterfaceAddress};

/// Interfaces that are never links: loopback, other overlays, other tunnels. // spec: paths, "Binder"
pub const NEVER_BOUND: [&str; 4] = ["lo", "zt", "tun", "tap"];

/// What the operator says about links.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// If not empty: exactly these, whatever interface they are on.
    pub bind: Vec<IpAddr>,
    /// If not empty: only the interfaces of these names, tunnels and overlays of others included.
    pub interfaces: Vec<String>,
    /// Interfaces whose name starts so are left out.
    pub interface_prefix_blacklist: Vec<String>,
    /// Addresses inside are left out.
    pub blacklist: Vec<Prefix>,
    /// Loopback counts too.
    pub allow_loopback: bool,
}

/// An address that should have sockets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The address.
    pub ip: IpAddr,
    /// Its interface, which names the link.
    pub link: String,
    /// Bind to the interface as well.
    pub bind_device: bool,
}

impl Wanted {
    /// How to open a socket on it.
    pub(super) fn options(&self, port: u16) -> uring::udp::Options {
        let mut options = uring::udp::Options::new(SocketAddr::new(self.ip, port));
        options.device = self.bind_device.then(|| self.link.clone());
        options
    }
}

impl Filter {
    /// What the operator's settings say.
    pub fn new(conf: &LocalConf, allow_loopback: bool) -> Filter {
        Filter {
            bind: conf.settings.bind.clone(),
            interfaces: conf.settings.interfaces.clone(),
            interface_prefix_blacklist: conf.settings.interface_prefix_blacklist.clone(),
            blacklist: conf.physical.iter().filter(|p| p.blacklist).map(|p| p.net).collect(),
            allow_loopback,
        }
    }

    /// The link addresses among `addresses`, leaving out `overlay`, our own addresses inside networks.
    pub fn wanted(
        &self,
        interfaces: &[Interface],
        addresses: &[InterfaceAddress],
        overlay: &BTreeSet<IpAddr>,
    ) -> Vec<Wanted> {
        if !self.bind.is_empty() {
            return self.bind.iter().map(|ip| self.fixed(*ip, interfaces, addresses)).collect();
        }
        let name = |index: u32| interfaces.iter().find(|i| i.index == index && i.up).map(|i| i.name.as_str());
        let mut wanted: Vec<Wanted> = addresses
            .iter()
            .filter(|a| !a.passing && self.usable(a.ip) && !overlay.contains(&a.ip))
            .filter_map(|a| Some((a, name(a.index)?)))
            .filter(|(a, name)| self.interface_usable(name, a.ip))
            .map(|(a, name)| Wanted { ip: a.ip, link: name.to_owned(), bind_device: !a.ip.is_loopback() })
            .collect();
        wanted.sort();
        wanted.dedup_by_key(|w| w.ip);
        wanted
    }

    /// An address of `bind`: no device, and a wildcard is allowed.
    fn fixed(&self, ip: IpAddr, interfaces: &[Interface], addresses: &[InterfaceAddress]) -> Wanted {
        let index = addresses.iter().find(|a| a.ip == ip).map(|a| a.index);
        let link = interfaces.iter().find(|i| Some(i.index) == index).map(|i| i.name.clone());
        Wanted { ip, link: link.unwrap_or_else(|| ip.to_string()), bind_device: false }
    }

    fn usable(&self, ip: IpAddr) -> bool {
        if self.blacklist.iter().any(|p| p.bits > 0 && p.contains(ip)) {
            return false;
        }
        match scope(ip) {
            Scope::PseudoPrivate | Scope::Global | Scope::Shared | Scope::Private => true,
            Scope::Loopback => self.allow_loopback,
            Scope::None | Scope::Multicast | Scope::LinkLocal => false,
        }
    }

    fn interface_usable(&self, name: &str, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        let listed = match self.interfaces.is_empty() {
            true => !NEVER_BOUND.iter().any(|p| name.starts_with(p)),
            false => self.interfaces.iter().any(|i| i == name),
        };
        listed && !self.interface_prefix_blacklist.iter().any(|p| name.starts_with(p.as_str()))
    }

    /// Whether no address of this interface can be a link.
    pub fn leaves_out(&self, name: &str) -> bool {
        let any = IpAddr::from([192, 0, 2, 1]);
        self.bind.is_empty() && !(self.allow_loopback && name == "lo") && !self.interface_usable(name, any)
    }

    /// Interfaces that are asked for and not there.
    pub fn missing(&self, interfaces: &[Interface]) -> BTreeSet<String> {
        let there = |name: &&String| interfaces.iter().any(|i| i.name == **name);
        self.interfaces.iter().filter(|name| !there(name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("ip")
    }

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index, name: name.into(), up: true }
    }

    fn address(index: u32, text: &str) -> InterfaceAddress {
        InterfaceAddress { index, ip: ip(text), bits: 24, passing: false }
    }

    fn names(wanted: &[Wanted]) -> Vec<String> {
        wanted.iter().map(|w| format!("{}@{}", w.ip, w.link)).collect()
    }

    #[test]
    fn only_routable_addresses_of_real_interfaces_are_links() {
        let interfaces = [
            interface(1, "lo"),
            interface(2, "eth0"),
            interface(3, "ztgrshixuw"),
            interface(4, "docker0"),
            interface(5, "wg0"),
        ];
        let mut privacy = address(2, "2001:db8::99");
        privacy.passing = true;
        let addresses = [
            address(1, "127.0.0.1"),
            address(2, "192.0.2.5"),
            address(2, "fe80::1234"),
            address(2, "2001:db8::5"),
            privacy,
            address(3, "10.147.20.5"),
            address(4, "172.17.0.1"),
            address(5, "10.9.0.1"),
        ];
        let mut filter = Filter::default();
        let all = filter.wanted(&interfaces, &addresses, &BTreeSet::new());
        assert_eq!(names(&all), ["10.9.0.1@wg0", "172.17.0.1@docker0", "192.0.2.5@eth0", "2001:db8::5@eth0"]);
        filter.interface_prefix_blacklist = vec!["docker".into()];
        filter.blacklist = vec!["2001:db8::/32".parse().expect("prefix")];
        let overlay = BTreeSet::from([ip("10.9.0.1")]);
        assert_eq!(names(&filter.wanted(&interfaces, &addresses, &overlay)), ["192.0.2.5@eth0"]);
        filter.allow_loopback = true;
        assert!(names(&filter.wanted(&interfaces, &addresses, &overlay)).contains(&"127.0.0.1@lo".into()));
    }

    #[test]
    fn an_interface_that_is_down_is_no_link() {
        let down = Interface { up: false, ..interface(2, "eth0") };
        assert!(Filter::default().wanted(&[down], &[address(2, "192.0.2.5")], &BTreeSet::new()).is_empty());
    }

    #[test]
    fn with_bind_exactly_those_addresses_are_links_without_device() {
        let filter = Filter { bind: vec![ip("192.0.2.5"), ip("0.0.0.0")], ..Filter::default() };
        let wanted = filter.wanted(&[interface(2, "eth0")], &[address(2, "192.0.2.5")], &BTreeSet::new());
        assert_eq!(names(&wanted), ["192.0.2.5@eth0", "0.0.0.0@0.0.0.0"]);
        assert!(wanted.iter().all(|w| !w.bind_device));
    }

    #[test]
    fn a_white_list_names_interfaces_tunnels_too_and_a_black_list_still_counts() {
        let interfaces = [interface(2, "eth0"), interface(3, "wwan0"), interface(4, "tun0"), interface(5, "eth00")];
        let addresses =
            [address(2, "10.1.0.1"), address(3, "10.2.0.1"), address(4, "10.3.0.1"), address(5, "10.4.0.1")];
        let names_of = |list: &[&str], black: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            let filter = Filter { interfaces: own(list), interface_prefix_blacklist: own(black), ..Filter::default() };
            (names(&filter.wanted(&interfaces, &addresses, &BTreeSet::new())), filter.missing(&interfaces))
        };
        let (wanted, missing) = names_of(&["eth0", "tun0", "ppp0"], &[]);
        assert_eq!(wanted, ["10.1.0.1@eth0", "10.3.0.1@tun0"]);
        assert_eq!(missing, BTreeSet::from(["ppp0".to_owned()]));
        assert_eq!(names_of(&["eth0", "wwan0"], &["eth"]).0, ["10.2.0.1@wwan0"]);
        assert!(names_of(&[], &[]).1.is_empty());
    }
}
