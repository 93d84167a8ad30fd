//! The bond's part of the API: what its paths mean. // spec: service, "Bond endpoints"

use axum::http::Method;
use serde_json::Value;
use wire::Address;

use super::{Answer, Body};

/// What a request asks about bonds.
#[derive(Clone, Debug, PartialEq)]
pub enum BondAsk {
    /// GET /bond/show/address
    Show(Address),
    /// POST /bond/rotate/address
    Rotate(Address),
    /// POST /bond/setmtu/mtu/link/ip
    SetMtu {
        /// UDP payload bytes.
        mtu: u32,
        /// Interface.
        link: String,
        /// Remote address, as written.
        ip: String,
    },
    /// POST /hawser/bond/test/address
    Test(Address, TestAsk),
    /// GET /hawser/bond/test/address
    Found(Address),
    /// DELETE /hawser/bond/test/address
    StopTest(Address),
}

/// How one path is to be tested.
#[derive(Clone, Debug, PartialEq)]
pub struct TestAsk {
    /// Which, by the name that `bond.paths[].id` gives.
    pub path: String,
    /// For how long it is probed, and then loaded.
    pub seconds: f64,
    /// Bits per second of a load; 0: none.
    pub load: f64,
    /// Data to the peer goes over this path meanwhile.
    pub force: bool,
}

impl TestAsk {
    fn from_json(body: &[u8]) -> Result<TestAsk, Answer> {
        let v: Value = serde_json::from_slice(body).map_err(|e| Answer::error(500, &e.to_string()))?;
        let number = |key: &str, default: f64| v.get(key).and_then(Value::as_f64).unwrap_or(default);
        Ok(TestAsk {
            path: v.get("path").and_then(Value::as_str).unwrap_or_default().to_owned(),
            seconds: number("seconds", 5.0).clamp(0.1, 60.0),
            load: number("load", 0.0).max(0.0),
            force: v.get("force").and_then(Value::as_bool).unwrap_or(true),
        })
    }
}

/// A refusal in ZeroTierOne's way: words that are no JSON, under 400.
pub fn refused(reason: &str) -> Answer {
    Answer { code: 400, body: Body::Text(reason.to_owned()) }
}

/// What `/bond/...` means; none if there is no such path.
pub fn route(method: &Method, parts: &[&str]) -> Option<BondAsk> {
    let read = method == Method::GET || method == Method::HEAD;
    let write = method == Method::POST || method == Method::PUT;
    match parts {
        ["show", peer] if read => Some(BondAsk::Show(peer.parse().ok()?)),
        ["rotate", peer] if write => Some(BondAsk::Rotate(peer.parse().ok()?)),
        ["setmtu", mtu, link, ip] if write => {
            let all = |text: &str, most: usize, allowed: fn(u8) -> bool| {
                (1..=most).contains(&text.len()) && text.bytes().all(allowed)
            };
            // Ours: a link may have the dots and dashes that interfaces have.
            let named = all(link, 16, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@'));
            let somewhere = all(ip, 39, |b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':'));
            let numbered = all(mtu, 6, |b| b.is_ascii_digit());
            (named && somewhere && numbered).then_some(())?;
            Some(BondAsk::SetMtu { mtu: mtu.parse().ok()?, link: (*link).to_owned(), ip: (*ip).to_owned() })
        }
        _ => None,
    }
}

/// What `/hawser/bond/...` means, which is ours.
pub fn route_own(method: &Method, parts: &[&str], body: &[u8]) -> Result<BondAsk, Answer> {
    let ["test", peer] = parts else { return Err(Answer::not_found()) };
    let peer: Address = peer.parse().map_err(|_| Answer::not_found())?;
    match *method {
        Method::GET | Method::HEAD => Ok(BondAsk::Found(peer)),
        Method::POST | Method::PUT => Ok(BondAsk::Test(peer, TestAsk::from_json(body)?)),
        Method::DELETE => Ok(BondAsk::StopTest(peer)),
        _ => Err(Answer::not_found()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{self, Ask};

    fn ask(method: Method, path: &str, body: &str) -> Result<BondAsk, u16> {
        match api::route(&method, path, body.as_bytes()) {
            Ok(Ask::Bond(ask)) => Ok(ask),
            Ok(other) => panic!("{path}: {other:?}"),
            Err(answer) => Err(answer.code),
        }
    }

    #[test]
    fn the_paths_of_bonds_are_those_of_zerotier_one_and_nothing_else_is() {
        let who: Address = "bddd488d45".parse().expect("address");
        assert_eq!(ask(Method::GET, "/bond/show/BDDD488D45", ""), Ok(BondAsk::Show(who)));
        for method in [Method::POST, Method::PUT] {
            assert_eq!(ask(method.clone(), "/bond/rotate/bddd488d45", ""), Ok(BondAsk::Rotate(who)));
            let set = ask(method, "/bond/setmtu/1400/eth0/81.77.0.4", "");
            assert_eq!(set, Ok(BondAsk::SetMtu { mtu: 1400, link: "eth0".into(), ip: "81.77.0.4".into() }));
        }
        assert!(ask(Method::POST, "/bond/setmtu/999999/br-lan/fd00::1", "").is_ok(), "what it means is judged later");
        for (method, path) in [
            (Method::POST, "/bond/show/bddd488d45"),
            (Method::GET, "/bond/rotate/bddd488d45"),
            (Method::GET, "/bond/show/bddd488d4"),
            (Method::GET, "/bond/show"),
            (Method::GET, "/bond"),
            (Method::POST, "/bond/setmtu/1400/eth0"),
            (Method::POST, "/bond/setmtu/1234567/eth0/81.77.0.4"),
            (Method::POST, "/bond/setmtu/-400/eth0/81.77.0.4"),
            (Method::POST, "/bond/setmtu/1400/a23456789b123456c/81.77.0.4"),
            (Method::POST, "/bond/setmtu/1400/eth0/gateway"),
            (Method::GET, "/hawser/bond/test"),
            (Method::GET, "/hawser/bond/test/xyz"),
            (Method::PATCH, "/hawser/bond/test/bddd488d45"),
        ] {
            assert_eq!(ask(method, path, ""), Err(404), "{path}");
        }
    }

    #[test]
    fn a_test_is_asked_for_with_a_path_and_held_to_a_minute() {
        let who: Address = "bddd488d45".parse().expect("address");
        let path = "/hawser/bond/test/bddd488d45";
        let body = r#"{"path": "1.2", "seconds": 1e9, "load": 2e7, "force": false}"#;
        let test = TestAsk { path: "1.2".into(), seconds: 60.0, load: 2e7, force: false };
        assert_eq!(ask(Method::POST, path, body), Ok(BondAsk::Test(who, test)));
        let plain = TestAsk { path: "0.1".into(), seconds: 5.0, load: 0.0, force: true };
        assert_eq!(ask(Method::POST, path, r#"{"path": "0.1"}"#), Ok(BondAsk::Test(who, plain)));
        assert_eq!(ask(Method::POST, path, "{"), Err(500));
        assert_eq!(ask(Method::GET, path, ""), Ok(BondAsk::Found(who)));
        assert_eq!(ask(Method::DELETE, path, ""), Ok(BondAsk::StopTest(who)));
    }
}
