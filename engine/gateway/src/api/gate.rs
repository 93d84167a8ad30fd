//! Who may ask: a token, and an address that it may come from. // spec: service, "Who may ask"

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use axum::http::HeaderMap;
use subtle::ConstantTimeEq;
use wire::endpoint::Prefix;
use zeroize::Zeroizing;

use super::parameter;

/// Who may ask. // spec: service, "Who may ask"
#[derive(Debug)]
pub struct Gate {
    token: Zeroizing<String>,
    allow_from: RwLock<Vec<Prefix>>,
    refused: AtomicU64,
}

impl Gate {
    /// A gate that opens for `token`, from loopback and `allow_from`.
    pub fn new(token: Zeroizing<String>, allow_from: Vec<Prefix>) -> Gate {
        Gate { token, allow_from: RwLock::new(allow_from), refused: AtomicU64::new(0) }
    }

    /// From now on these may ask, besides loopback. Where the API listens does not change.
    pub fn allow_from(&self, prefixes: Vec<Prefix>) {
        *self.allow_from.write().unwrap_or_else(PoisonError::into_inner) = prefixes;
    }

    /// Requests refused so far, by a wrong token or a source that is not allowed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn prefixes(&self) -> RwLockReadGuard<'_, Vec<Prefix>> {
        self.allow_from.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn source_allowed(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.prefixes().iter().any(|p| p.contains(ip))
    }

    /// Only the first token that is present counts: a wrong header is not rescued by a right query.
    fn token_right(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let bearer = |v: &str| {
            let (scheme, token) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        };
        let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
        let given = match header("x-zt1-auth") {
            Some(token) => Some(token.to_owned()),
            None => parameter(query, "auth").or_else(|| header("authorization").and_then(bearer)),
        };
        let given = Zeroizing::new(given.unwrap_or_default());
        bool::from(given.as_bytes().ct_eq(self.token.as_bytes()))
    }

    pub(super) fn admits(&self, from: IpAddr, path: &str, headers: &HeaderMap, query: Option<&str>) -> bool {
        self.source_allowed(from) && (path == "/health" || self.token_right(headers, query))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::header;

    use super::super::listen_addresses;
    use super::*;

    fn gate(allow_from: &[&str]) -> Gate {
        let allow_from = allow_from.iter().map(|p| p.parse().expect("prefix")).collect();
        Gate::new(Zeroizing::new("right".into()), allow_from)
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.insert(*name, header::HeaderValue::from_static(value));
        }
        map
    }

    fn home() -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    #[test]
    fn the_first_token_that_is_present_decides() {
        let g = gate(&[]);
        let admits = |h: &[_], q| g.admits(home(), "/status", &headers(h), q);
        assert!(admits(&[("x-zt1-auth", "right")], None));
        assert!(admits(&[], Some("x=1&auth=right")));
        assert!(admits(&[("authorization", "BEARER right")], None));
        assert!(!admits(&[("x-zt1-auth", "wrong")], Some("auth=right")), "a header shadows the query");
        assert!(!admits(&[("authorization", "Basic right")], None));
        assert!(!admits(&[], None));
        assert!(!admits(&[("x-zt1-auth", "right2")], None) && !admits(&[("x-zt1-auth", "")], None));
    }

    #[test]
    fn only_loopback_and_listed_networks_may_ask_even_for_health() {
        let g = gate(&["192.0.2.0/24"]);
        let right = headers(&[("x-zt1-auth", "right")]);
        let ip = |s: &str| s.parse::<IpAddr>().expect("ip");
        assert!(g.admits(ip("192.0.2.7"), "/status", &right, None));
        assert!(g.admits(ip("::ffff:127.0.0.1"), "/status", &right, None));
        assert!(!g.admits(ip("198.51.100.1"), "/status", &right, None));
        assert!(!g.admits(ip("198.51.100.1"), "/health", &HeaderMap::new(), None));
        assert!(g.admits(home(), "/health", &HeaderMap::new(), None), "health needs no token");
        assert!(listen_addresses(1, &g)[0].ip().is_unspecified());
        assert!(listen_addresses(1, &gate(&[]))[0].ip().is_loopback());
    }
}
