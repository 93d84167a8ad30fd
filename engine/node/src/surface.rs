//! How others see us: the physical addresses upstreams report, for pushing to peers and for noticing that our own
//! address changed. It keeps reports and judges them; acting on a change is done elsewhere.
// spec: paths, "Self-awareness"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::Address;
use wire::endpoint::{Scope, scope};

use crate::io::LocalSocketId;
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
        let report = Report { surface, upstream, at_ms: now_ms };
        let before = self.list(now_ms);
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
        if self.list(now_ms) == before { Verdict::Noted } else { Verdict::New }
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
}
