//! What each path and method means: a request becomes an [`Ask`], or is answered at once. No sockets and no tokens here, and
//! nothing of what the control thread will say. // spec: service, "Node endpoints"

use axum::http::Method;
use serde_json::{Map, Value};
use wire::{Address, NetworkId};

use super::{Answer, bond};

/// What a request asks the control thread.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// GET /status
    Status,
    /// GET /health
    Health,
    /// GET /config
    Config,
    /// GET /network
    Networks,
    /// GET /network/id
    Network(NetworkId),
    /// POST /network/id
    Join(NetworkId, Allow),
    /// DELETE /network/id
    Leave(NetworkId),
    /// GET /moon
    Moons,
    /// GET /moon/id
    Moon(u64),
    /// POST /moon/id with the seed's address
    Orbit(u64, Option<Address>),
    /// DELETE /moon/id
    Deorbit(u64),
    /// GET /peer
    Peers,
    /// GET /peer/address
    Peer(Address),
    /// /bond/..., /hawser/bond/...
    Bond(bond::BondAsk),
    /// /controller/...
    Controller(ControllerAsk),
}

/// What a request asks the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerAsk {
    /// GET /controller
    State,
    /// GET /controller/network
    Networks,
    /// GET /unstable/controller/network
    NetworkRecords,
    /// POST /controller/network, or with our address and six underscores
    Create(Option<Address>, Map<String, Value>),
    /// GET /controller/network/id
    Network(NetworkId),
    /// POST /controller/network/id
    SetNetwork(NetworkId, Map<String, Value>),
    /// DELETE /controller/network/id
    DeleteNetwork(NetworkId),
    /// GET /controller/network/id/member
    Members(NetworkId),
    /// GET /unstable/controller/network/id/member
    MemberRecords(NetworkId),
    /// GET /controller/network/id/member/address
    Member(NetworkId, Address),
    /// POST /controller/network/id/member/address
    SetMember(NetworkId, Address, Map<String, Value>),
    /// DELETE /controller/network/id/member/address
    DeleteMember(NetworkId, Address),
}

/// The local settings that a join may carry; absent ones stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// `allowManaged`
    pub managed: Option<bool>,
    /// `allowGlobal`
    pub global: Option<bool>,
    /// `allowDefault`
    pub default: Option<bool>,
    /// `allowDNS`
    pub dns: Option<bool>,
}

impl Allow {
    /// Only real booleans count; anything else is passed over, as in ZeroTierOne.
    fn from_json(bytes: &[u8]) -> Allow {
        let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        Allow {
            managed: flag("allowManaged"),
            global: flag("allowGlobal"),
            default: flag("allowDefault"),
            dns: flag("allowDNS"),
        }
    }
}

/// What `method path` means: an ask, or the answer to give at once.
pub fn route(method: &Method, path: &str, body: &[u8]) -> Result<Ask, Answer> {
    let read = method == Method::GET || method == Method::HEAD;
    let write = method == Method::POST || method == Method::PUT;
    let delete = method == Method::DELETE;
    let parts: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    let ask = match parts.as_slice() {
        ["status"] if read => Ask::Status,
        ["health"] if read => Ask::Health,
        ["config"] if read => Ask::Config,
        ["network"] if read => Ask::Networks,
        ["network", id] if read => Ask::Network(network_id(id)?),
        ["network", id] if write => Ask::Join(network_id(id)?, Allow::from_json(body)),
        ["network", id] if delete => Ask::Leave(network_id(id)?),
        ["peer"] if read => Ask::Peers,
        ["peer", address] if read => Ask::Peer(self::address(address)?),
        ["bond", rest @ ..] => Ask::Bond(bond::route(method, rest).ok_or_else(Answer::not_found)?),
        ["hawser", "bond", rest @ ..] => Ask::Bond(bond::route_own(method, rest, body)?),
        ["moon"] if read => Ask::Moons,
        ["moon", id] if read => Ask::Moon(moon_id(id)?),
        ["moon", id] if write => Ask::Orbit(moon_id(id)?, seed(body)),
        ["moon", id] if delete => Ask::Deorbit(moon_id(id)?),
        ["controller", rest @ ..] => Ask::Controller(controller_ask(rest, (read, write, delete), body)?),
        ["unstable", "controller", "network"] if read => Ask::Controller(ControllerAsk::NetworkRecords),
        ["unstable", "controller", "network", id, "member"] if read => {
            Ask::Controller(ControllerAsk::MemberRecords(network_id(id)?))
        }
        _ => return Err(Answer::not_found()),
    };
    Ok(ask)
}

fn controller_ask(parts: &[&str], method: (bool, bool, bool), body: &[u8]) -> Result<ControllerAsk, Answer> {
    Ok(match (parts, method) {
        ([], (true, ..)) => ControllerAsk::State,
        (["network"], (true, ..)) => ControllerAsk::Networks,
        (["network"], (_, true, _)) => ControllerAsk::Create(None, record(body)?),
        (["network", id], (_, true, _)) if id.ends_with("______") => {
            let own = address(id.trim_end_matches('_'))?;
            ControllerAsk::Create(Some(own), record(body)?)
        }
        (["network", id], (true, ..)) => ControllerAsk::Network(network_id(id)?),
        (["network", id], (_, true, _)) => ControllerAsk::SetNetwork(network_id(id)?, record(body)?),
        (["network", id], (.., true)) => ControllerAsk::DeleteNetwork(network_id(id)?),
        (["network", id, "member"], (true, ..)) => ControllerAsk::Members(network_id(id)?),
        (["network", id, "member", who], method) => {
            let (id, who) = (network_id(id)?, address(who)?);
            match method {
                (true, ..) => ControllerAsk::Member(id, who),
                (_, true, _) => ControllerAsk::SetMember(id, who, record(body)?),
                (.., true) => ControllerAsk::DeleteMember(id, who),
                _ => return Err(Answer::not_found()),
            }
        }
        _ => return Err(Answer::not_found()),
    })
}

fn network_id(text: &str) -> Result<NetworkId, Answer> {
    text.parse().map_err(|_| Answer::not_found())
}

/// 10 hex digits as in ZeroTierOne, or all 16. // spec: service, "Node endpoints"
fn moon_id(text: &str) -> Result<u64, Answer> {
    parse_moon_id(text).ok_or_else(Answer::not_found)
}

/// The ID of a moon as 10 or 16 hex digits.
pub fn parse_moon_id(text: &str) -> Option<u64> {
    let hex = matches!(text.len(), 10 | 16) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { u64::from_str_radix(text, 16).ok() } else { None }
}

/// The seed that an orbit names; none if it names none that can be, as in ZeroTierOne.
fn seed(body: &[u8]) -> Option<Address> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let seed: Address = body.get("seed")?.as_str()?.parse().ok()?;
    (!seed.is_reserved()).then_some(seed)
}

fn address(text: &str) -> Result<Address, Answer> {
    text.parse().map_err(|_| Answer::not_found())
}

fn record(body: &[u8]) -> Result<Map<String, Value>, Answer> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Answer::error(500, "the body must be a JSON object")),
        Err(e) => Err(Answer::error(500, &e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;

    const NETWORK: &str = "6af3745e97000001";

    #[test]
    fn every_path_of_the_api_is_understood_and_nothing_else_is() {
        let id: NetworkId = NETWORK.parse().expect("id");
        let who: Address = "b9fd86978b".parse().expect("address");
        let get = |path: &str| route(&Method::GET, path, b"");
        assert_eq!(get("/status"), Ok(Ask::Status));
        assert_eq!(get(&format!("/network/{}", NETWORK.to_uppercase())), Ok(Ask::Network(id)));
        assert_eq!(get("/peer/b9fd86978b"), Ok(Ask::Peer(who)));
        assert_eq!(route(&Method::PUT, "/network/6af3745e97000001", b""), Ok(Ask::Join(id, Allow::default())));
        let flags = Allow { global: Some(true), ..Allow::default() };
        let body = br#"{"allowGlobal": true, "allowManaged": "yes"}"#;
        assert_eq!(route(&Method::POST, "/network/6af3745e97000001", body), Ok(Ask::Join(id, flags)));
        assert_eq!(route(&Method::DELETE, "/network/6af3745e97000001", b""), Ok(Ask::Leave(id)));
        for path in ["/status/", "/network/1234", "/nosuch", "/", "/peer/xyz", "/network/6af3745e9700000g"] {
            assert_eq!(get(path), Err(Answer::not_found()), "{path}");
        }
        assert_eq!(route(&Method::POST, "/status", b""), Err(Answer::not_found()), "wrong method");
    }

    #[test]
    fn moons_are_named_by_10_or_16_digits_and_orbited_through_a_seed() {
        let (id, who) = (0xb9_fd86_978b, "b9fd86978b".parse().expect("address"));
        assert_eq!(route(&Method::GET, "/moon", b""), Ok(Ask::Moons));
        for path in ["/moon/b9fd86978b", "/moon/000000b9fd86978b"] {
            assert_eq!(route(&Method::GET, path, b""), Ok(Ask::Moon(id)));
            assert_eq!(route(&Method::DELETE, path, b""), Ok(Ask::Deorbit(id)));
            let post = |body: &str| route(&Method::POST, path, body.as_bytes());
            assert_eq!(post(r#"{"seed": "b9fd86978b"}"#), Ok(Ask::Orbit(id, Some(who))));
            for none in ["", "{", "{}", r#"{"seed": 7}"#, r#"{"seed": "0000000000"}"#] {
                assert_eq!(post(none), Ok(Ask::Orbit(id, None)), "{none}");
            }
        }
        for path in ["/moon/b9fd86978", "/moon/+9fd86978b", "/moon/000000b9fd86978b0"] {
            assert_eq!(route(&Method::GET, path, b""), Err(Answer::not_found()), "{path}");
        }
    }

    #[test]
    fn every_path_of_the_controller_is_understood() {
        let id: NetworkId = NETWORK.parse().expect("id");
        let who: Address = "b9fd86978b".parse().expect("address");
        let ask = |method: Method, path: &str, body: &[u8]| match route(&method, path, body) {
            Ok(Ask::Controller(ask)) => ask,
            other => panic!("{path}: {other:?}"),
        };
        let empty = Map::new;
        assert_eq!(ask(Method::GET, "/controller", b""), ControllerAsk::State);
        assert_eq!(ask(Method::GET, "/controller/network", b""), ControllerAsk::Networks);
        assert_eq!(ask(Method::POST, "/controller/network", b"{}"), ControllerAsk::Create(None, empty()));
        let older = "/controller/network/b9fd86978b______";
        assert_eq!(ask(Method::POST, older, b"{}"), ControllerAsk::Create(Some(who), empty()));
        let member = format!("/controller/network/{NETWORK}/member/b9fd86978b");
        assert_eq!(ask(Method::GET, &member, b""), ControllerAsk::Member(id, who));
        assert_eq!(ask(Method::DELETE, &member, b""), ControllerAsk::DeleteMember(id, who));
        let list = format!("/unstable/controller/network/{NETWORK}/member");
        assert_eq!(ask(Method::GET, &list, b""), ControllerAsk::MemberRecords(id));
        let refused = route(&Method::POST, &member, b"").expect_err("an empty body is refused");
        assert_eq!(refused.code, 500);
        let Body::Text(text) = refused.body else { panic!("a reason") };
        assert!(text.starts_with("{\"error\": 500, \"description\": "), "{text}");
    }
}
