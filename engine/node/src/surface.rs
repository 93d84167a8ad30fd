//! How others see us: the physical addresses upstreams report, for pushing to peers and for noticing that our own
//! address changed. It keeps reports and judges them; acting on a change is done elsewhere.
// spec: paths, "Self-awareness"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::Address;
use wire::endpoint::{Scope, scope};

use crate::Node;
use crate::io::{LocalSocketId, Mapping};
use crate::limits::*;
use crate::path::Path;

/// Who reports, how far the reporter is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reporter {
    Upstream,
    /// A peer with whom we share a network: believed when two agree.
    Trusted,
    Stranger,
}

/// What a report meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not taken: other scope, or nothing that can be a surface.
    Ignored,
    /// Not taken: the reporter is nobody to us.
    Stranger,
    /// Not taken: no room.
    Full,
    /// Known, or noted.
    Noted,
    /// Noted, and it adds to what we push.
    New,
    /// An upstream saw us at another IP than before.
    Moved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    reporter: Address,
    path: Path,
    scope: Scope,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    surface: SocketAddr,
    upstream: bool,
    /// When the reporter first saw this surface.
    since_ms: u64,
    at_ms: u64,
}

/// The reports that are believed, or may be.
#[derive(Debug, Default)]
pub(crate) struct Surfaces {
    reports: BTreeMap<Key, Report>,
}

impl Surfaces {
    /// `reporter` saw us as `surface`, told over `path`.
    pub(crate) fn report(
        &mut self,
        reporter: Address,
        trust: Reporter,
        path: Path,
        surface: SocketAddr,
        now_ms: u64,
    ) -> Verdict {
        let scope = scope(surface.ip());
        if scope != wire::endpoint::scope(path.remote.ip())
            || matches!(scope, Scope::None | Scope::Loopback | Scope::Multicast)
        {
            return Verdict::Ignored;
        }
        if trust == Reporter::Stranger {
            return Verdict::Stranger;
        }
        let upstream = trust == Reporter::Upstream;
        let key = Key { reporter, path, scope };
        let before = self.list(now_ms);
        let since_ms = self.reports.get(&key).filter(|old| old.surface == surface).map_or(now_ms, |old| old.since_ms);
        let report = Report { surface, upstream, since_ms, at_ms: now_ms };
        if let Some(old) = self.reports.insert(key, report) {
            let fresh = now_ms.saturating_sub(old.at_ms) < SURFACE_TIMEOUT_MS;
            if upstream && fresh && old.surface.ip() != surface.ip() {
                self.reports.retain(|k, _| k.scope != scope || k.path.remote == path.remote);
                return Verdict::Moved;
            }
        } else if !self.make_room(&key) {
            self.reports.remove(&key);
            return Verdict::Full;
        }
        // The order is that of the reports, which come again and again.
        if self.list(now_ms).iter().all(|s| before.contains(s)) { Verdict::Noted } else { Verdict::New }
    }

    /// Brings the table back within its bounds after `key` was added: the oldest report goes, those of peers first.
    /// False if the new one is the one to go.
    fn make_room(&mut self, key: &Key) -> bool {
        let family = key.path.remote.is_ipv4();
        let of_socket = |k: &Key| k.path.socket == key.path.socket && k.path.remote.is_ipv4() == family;
        let crowded = self.reports.keys().filter(|k| of_socket(k)).count() > SURFACES_PER_SOCKET;
        if !crowded && self.reports.len() <= SURFACES_MAX {
            return true;
        }
        let victim = self
            .reports
            .iter()
            .filter(|(k, _)| !crowded || of_socket(k))
            .min_by_key(|(k, r)| (r.upstream, r.at_ms, *k != key))
            .map(|(k, _)| *k);
        match victim {
            Some(victim) if victim != *key => self.reports.remove(&victim).is_some(),
            _ => false,
        }
    }

    /// The addresses at which others can be told to try us: what an upstream reports, or two peers alike. Newest first.
    pub(crate) fn list(&self, now_ms: u64) -> Vec<SocketAddr> {
        let mut fresh: Vec<(&Key, &Report)> =
            self.reports.iter().filter(|(_, r)| now_ms.saturating_sub(r.at_ms) < SURFACE_TIMEOUT_MS).collect();
        fresh.sort_by_key(|(k, r)| (std::cmp::Reverse(r.at_ms), **k));
        let mut list = Vec::new();
        for (key, report) in &fresh {
            let seconded = || fresh.iter().any(|(k, r)| r.surface == report.surface && k.reporter != key.reporter);
            if (report.upstream || seconded()) && !list.contains(&report.surface) {
                list.push(report.surface);
            }
        }
        list
    }

    /// What each upstream sees of each socket: (upstream, socket, surface). Differing ports of one socket show a
    /// symmetric NAT.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (Address, LocalSocketId, SocketAddr)> {
        self.reports.iter().filter(|(_, r)| r.upstream).map(|(k, r)| (k.reporter, k.path.socket, r.surface))
    }

    /// The views of `socket` that tell of a NAT, the latest mapping first: those of upstreams on the internet rather than
    /// on a private network; without a second one also those of trusted peers.
    fn views(&self, socket: LocalSocketId, local: SocketAddr, now_ms: u64) -> Vec<(&Key, &Report)> {
        let current = |(k, r): &(&Key, &Report)| {
            let family = k.path.remote.is_ipv4() == local.is_ipv4();
            k.path.socket == socket && family && now_ms.saturating_sub(r.at_ms) < NAT_VIEW_MS
        };
        let current = || self.reports.iter().filter(current);
        let scopes = || current().filter(|(_, r)| r.upstream).map(|(k, _)| k.scope);
        let scope = scopes().find(|s| *s == Scope::Global).or_else(|| scopes().max());
        let mut views: Vec<_> = current().filter(|(k, r)| r.upstream && Some(k.scope) == scope).collect();
        if distinct(&views, |(k, _)| k.path.remote.ip()) < 2 {
            views.extend(current().filter(|(k, r)| !r.upstream && scope.is_none_or(|s| s == k.scope)));
        }
        views.sort_by_key(|(k, r)| (std::cmp::Reverse(r.since_ms), **k));
        views
    }

    /// How others see `socket`, which is bound to `local`, the latest mapping first.
    pub(crate) fn seen_of(&self, socket: LocalSocketId, local: SocketAddr, now_ms: u64) -> Vec<SocketAddr> {
        let mut surfaces = Vec::new();
        for (_, report) in self.views(socket, local, now_ms) {
            if !surfaces.contains(&report.surface) {
                surfaces.push(report.surface);
            }
        }
        surfaces
    }

    /// How the NAT before `socket`, which is bound to `local`, maps it.
    pub(crate) fn mapping(&self, socket: LocalSocketId, local: SocketAddr, now_ms: u64) -> Mapping {
        let views = self.views(socket, local, now_ms);
        // Who sees us as we are sits on our side of the NAT, if others see us otherwise.
        let (behind, before): (Vec<_>, Vec<_>) = views.into_iter().partition(|(_, r)| r.surface != local);
        if behind.is_empty() {
            return if before.is_empty() { Mapping::Unknown } else { Mapping::None };
        }
        let mut mapping = Mapping::Unknown;
        for (_, first) in &behind {
            let alike: Vec<_> = behind.iter().filter(|(_, r)| r.surface.ip() == first.surface.ip()).copied().collect();
            if alike.iter().any(|(_, r)| r.surface != first.surface) {
                return Mapping::Symmetric { step: step(&alike) };
            }
            if distinct(&alike, |(k, _)| k.path.remote.ip()) >= 2 {
                mapping = Mapping::EndpointIndependent;
            }
        }
        mapping
    }

    /// How an upstream on the internet saw this socket last.
    pub(crate) fn seen(&self, socket: LocalSocketId, now_ms: u64) -> Option<SocketAddr> {
        let fresh = |k: &Key, r: &Report| {
            let internet = matches!(k.scope, Scope::Global | Scope::PseudoPrivate);
            let current = now_ms.saturating_sub(r.at_ms) < SURFACE_TIMEOUT_MS;
            k.path.socket == socket && internet && r.upstream && current
        };
        let seen = self.reports.iter().filter(|(k, r)| fresh(k, r));
        seen.max_by_key(|(_, r)| r.at_ms).map(|(_, r)| r.surface)
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.reports.retain(|_, r| now_ms.saturating_sub(r.at_ms) < SURFACE_TIMEOUT_MS);
    }

    pub(crate) fn socket_gone(&mut self, socket: LocalSocketId) {
        self.reports.retain(|k, _| k.path.socket != socket);
    }

    pub(crate) fn len(&self) -> usize {
        self.reports.len()
    }
}

fn distinct<T: Ord>(views: &[(&Key, &Report)], of: impl Fn(&(&Key, &Report)) -> T) -> usize {
    views.iter().map(of).collect::<std::collections::BTreeSet<T>>().len()
}

/// The smallest distance of ports that were mapped about the same time, if it is small: random ones are hardly ever so
/// close. Others behind the NAT and our other sockets take ports between.
fn step(views: &[(&Key, &Report)]) -> Option<u16> {
    let pairs = views.iter().flat_map(|(_, a)| views.iter().map(move |(_, b)| (a, b)));
    let together = pairs.filter(|(a, b)| a.since_ms.abs_diff(b.since_ms) <= NAT_STEP_WINDOW_MS);
    together.map(|(a, b)| a.surface.port().abs_diff(b.surface.port())).filter(|n| (1..=NAT_STEP_MAX).contains(n)).min()
}

impl Node {
    /// How the NAT before one of our sockets maps it.
    pub(crate) fn mapping(&self, socket: LocalSocketId, now_ms: u64) -> Mapping {
        let local = self.sockets.get(&socket).map(|s| s.local);
        local.map_or(Mapping::Unknown, |local| self.surfaces.mapping(socket, local, now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(s: &mut Surfaces, who: u64, trust: Reporter, socket: u64, surface: &str, ms: u64) -> Verdict {
        let path = Path { socket: LocalSocketId(socket), remote: format!("5.5.5.{who}:9993").parse().unwrap() };
        s.report(Address::from_u64(who), trust, path, surface.parse().unwrap(), ms)
    }

    #[test]
    fn strangers_and_reports_across_scopes_add_nothing() {
        let mut s = Surfaces::default();
        assert_eq!(report(&mut s, 1, Reporter::Stranger, 1, "44.1.1.1:1", 0), Verdict::Stranger);
        assert_eq!(report(&mut s, 1, Reporter::Upstream, 1, "10.1.1.1:1", 0), Verdict::Ignored);
        assert_eq!(s.len(), 0);
    }

    #[test]
    fn two_trusted_peers_must_agree() {
        let mut s = Surfaces::default();
        report(&mut s, 1, Reporter::Trusted, 1, "44.1.1.1:1", 0);
        assert!(s.list(0).is_empty());
        report(&mut s, 2, Reporter::Trusted, 1, "44.1.1.1:2", 0);
        assert!(s.list(0).is_empty());
        assert_eq!(report(&mut s, 3, Reporter::Trusted, 1, "44.1.1.1:1", 0), Verdict::New);
        assert_eq!(s.list(0).len(), 1);
    }

    #[test]
    fn another_port_is_no_move_but_another_ip_is_and_older_views_go() {
        let mut s = Surfaces::default();
        report(&mut s, 2, Reporter::Upstream, 1, "44.1.1.1:7", 0);
        report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:1", 0);
        assert_eq!(report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:9", 10), Verdict::New);
        assert_eq!(report(&mut s, 1, Reporter::Upstream, 1, "99.1.1.1:9", 20), Verdict::Moved);
        assert_eq!(s.list(20), ["99.1.1.1:9".parse().unwrap()]);
    }

    #[test]
    fn reports_are_bounded_per_socket_and_in_all_and_upstreams_outlast_peers() {
        let mut s = Surfaces::default();
        for who in 1..=200 {
            report(&mut s, who, Reporter::Trusted, 1, "44.1.1.1:1", who);
        }
        assert_eq!(s.len(), SURFACES_PER_SOCKET);
        for who in 1..=4 {
            report(&mut s, who, Reporter::Upstream, 1, "44.1.1.1:1", 300 + who);
        }
        assert_eq!(report(&mut s, 200, Reporter::Trusted, 1, "44.1.1.9:1", 400), Verdict::Full);
        for socket in 2..200 {
            report(&mut s, 1, Reporter::Upstream, socket, "44.1.1.1:1", 500);
        }
        assert_eq!(s.len(), SURFACES_MAX);
        s.expire(500 + SURFACE_TIMEOUT_MS);
        assert_eq!(s.len(), 0);
    }

    #[test]
    fn what_is_known_already_adds_nothing_in_whatever_order_it_is_told_again() {
        let mut s = Surfaces::default();
        assert_eq!(report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:7", 0), Verdict::New);
        assert_eq!(report(&mut s, 1, Reporter::Upstream, 2, "99.1.1.1:7", 1), Verdict::New);
        for round in 1..=3 {
            assert_eq!(report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:7", 60_000 * round), Verdict::Noted);
            assert_eq!(report(&mut s, 1, Reporter::Upstream, 2, "99.1.1.1:7", 60_000 * round + 1), Verdict::Noted);
        }
    }

    #[test]
    fn a_root_in_the_lan_does_not_know_how_the_internet_sees_a_socket() {
        let mut s = Surfaces::default();
        let mut told = |n: u64, remote: &str, surface: &str| {
            let path = Path { socket: LocalSocketId(1), remote: remote.parse().unwrap() };
            s.report(Address::from_u64(n), Reporter::Upstream, path, surface.parse().unwrap(), n);
            s.seen(LocalSocketId(1), n)
        };
        assert_eq!(told(1, "192.168.1.2:1", LOCAL), None);
        assert_eq!(told(2, "5.5.5.5:1", "44.1.1.1:7"), Some("44.1.1.1:7".parse().unwrap()));
        assert_eq!(told(3, "192.168.1.3:1", LOCAL), Some("44.1.1.1:7".parse().unwrap()));
    }

    const LOCAL: &str = "192.168.1.5:9993";

    /// The upstreams 1, 2, … report these surfaces of socket 1, 20 ms one after the other.
    fn mapping_after(surfaces: &[&str]) -> Mapping {
        let mut s = Surfaces::default();
        for (n, surface) in surfaces.iter().enumerate() {
            report(&mut s, n as u64 + 1, Reporter::Upstream, 1, surface, 20 * n as u64);
        }
        s.mapping(LocalSocketId(1), LOCAL.parse().unwrap(), 1000)
    }

    #[test]
    fn a_nat_is_known_by_what_two_upstreams_see_of_one_socket() {
        assert_eq!(mapping_after(&[]), Mapping::Unknown);
        assert_eq!(mapping_after(&["44.1.1.1:7"]), Mapping::Unknown, "one view tells nothing");
        assert_eq!(mapping_after(&["44.1.1.1:7", "44.1.1.1:7"]), Mapping::EndpointIndependent);
        assert_eq!(mapping_after(&["44.1.1.1:7", "44.1.1.1:9000"]), Mapping::Symmetric { step: None });
        assert_eq!(mapping_after(&["44.1.1.1:7", "99.1.1.1:9"]), Mapping::Unknown, "two ways out, one view of each");
    }

    #[test]
    fn ports_that_are_taken_in_turn_are_recognised_by_the_smallest_step() {
        let step = |surfaces: &[&str]| match mapping_after(surfaces) {
            Mapping::Symmetric { step } => step,
            other => panic!("{other:?}"),
        };
        assert_eq!(step(&["44.1.1.1:50000", "44.1.1.1:50003", "44.1.1.1:50009"]), Some(3));
        assert_eq!(step(&["44.1.1.1:50000", "44.1.1.1:49998"]), Some(2), "the answers overtook one another");
        assert_eq!(step(&["44.1.1.1:50000", "44.1.1.1:50017"]), None);
        let mut s = Surfaces::default();
        report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:50000", 0);
        report(&mut s, 2, Reporter::Upstream, 1, "44.1.1.1:50001", NAT_STEP_WINDOW_MS + 1);
        let local = LOCAL.parse().unwrap();
        assert_eq!(s.mapping(LocalSocketId(1), local, 5000), Mapping::Symmetric { step: None }, "chance, so far apart");
    }

    #[test]
    fn who_sees_us_as_we_are_shows_that_there_is_no_nat_or_sits_on_our_side_of_it() {
        let mapping_of = |local: &str, remotes: &[(&str, &str)]| {
            let mut s = Surfaces::default();
            for (n, (remote, surface)) in remotes.iter().enumerate() {
                let path = Path { socket: LocalSocketId(1), remote: remote.parse().unwrap() };
                s.report(Address::from_u64(n as u64 + 1), Reporter::Upstream, path, surface.parse().unwrap(), 0);
            }
            s.mapping(LocalSocketId(1), local.parse().unwrap(), 0)
        };
        assert_eq!(mapping_of("44.1.1.1:9993", &[("5.5.5.5:1", "44.1.1.1:9993")]), Mapping::None);
        let (near, far, farther) = ("192.168.1.2:1", "10.0.0.1:1", "10.9.0.1:1");
        let nat = [(near, LOCAL), (far, "10.0.0.7:444"), (farther, "10.0.0.7:444")];
        assert_eq!(mapping_of(LOCAL, &nat), Mapping::EndpointIndependent);
        let internet = [(near, LOCAL), ("5.5.5.5:1", "44.1.1.1:7"), ("5.5.5.6:1", "44.1.1.1:8")];
        assert!(matches!(mapping_of(LOCAL, &internet), Mapping::Symmetric { .. }));
        let one_host = [("5.5.5.5:1", "44.1.1.1:7"), ("5.5.5.5:2", "44.1.1.1:7")];
        assert_eq!(mapping_of(LOCAL, &one_host), Mapping::Unknown, "two ports of one host are one view");
    }

    #[test]
    fn a_trusted_peer_is_the_second_view_only_where_there_is_no_second_upstream_and_old_views_do_not_count() {
        let mut s = Surfaces::default();
        let local = LOCAL.parse().unwrap();
        report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:7", 0);
        report(&mut s, 9, Reporter::Trusted, 1, "44.1.1.1:8", 0);
        assert_eq!(s.mapping(LocalSocketId(1), local, 0), Mapping::Symmetric { step: Some(1) });
        report(&mut s, 2, Reporter::Upstream, 1, "44.1.1.1:7", 0);
        assert_eq!(s.mapping(LocalSocketId(1), local, 0), Mapping::EndpointIndependent);
        report(&mut s, 1, Reporter::Upstream, 1, "44.1.1.1:9", NAT_VIEW_MS);
        assert_eq!(s.mapping(LocalSocketId(1), local, NAT_VIEW_MS), Mapping::Unknown, "the NAT began anew");
        report(&mut s, 2, Reporter::Upstream, 1, "44.1.1.1:9", NAT_VIEW_MS);
        assert_eq!(s.mapping(LocalSocketId(1), local, NAT_VIEW_MS), Mapping::EndpointIndependent);
    }
}
