//! The objects of the API, as ZeroTierOne shapes them. Translates what the node knows to JSON; decides nothing.
//! Fields are only ever added to ZeroTierOne's, never removed or retyped. // spec: service, "Objects"

pub mod bond;

use std::net::SocketAddr;

use network::Network;
use network::config::Specialist;
use node::{LatencyStatus, LocalSocketId, Mapping, NatStatus, PeerStatus, Relayed};
use serde_json::{Map, Value, json};
use uring::probe::Choice;
use wire::endpoint::{Prefix, to_text};
use wire::world::World;
use wire::{Address, Identity, MulticastGroup, Now};

use crate::api::COMPATIBLE_VERSION;
use crate::links::Ports;
use crate::network_conf::NetworkConf;
use crate::portmap::Mapped;
use crate::taps::PortError;
use crate::tcp_relay;

fn version_fields() -> Map<String, Value> {
    let (major, minor, revision) = COMPATIBLE_VERSION;
    let fields = json!({
        "version": format!("{major}.{minor}.{revision}"),
        "versionMajor": major,
        "versionMinor": minor,
        "versionRev": revision,
        "versionBuild": 0,
    });
    fields.as_object().cloned().unwrap_or_default()
}

/// What the status object says.
#[derive(Debug)]
pub struct StatusFacts<'a> {
    /// Our identity.
    pub identity: &'a Identity,
    /// An upstream hears us.
    pub online: bool,
    /// The planet in force.
    pub planet: &'a World,
    /// The settings as written.
    pub local_conf: &'a Map<String, Value>,
    /// The ports in use.
    pub ports: Ports,
    /// Where routers let others reach us: link, our port, theirs.
    pub mapped: Vec<(String, SocketAddr, Mapped)>,
    /// The home folder.
    pub home: String,
    /// Bound UDP sockets.
    pub listening: Vec<SocketAddr>,
    /// Where others see us.
    pub surface: Vec<SocketAddr>,
    /// The NATs before our sockets.
    pub nat: &'a [NatStatus],
    /// Packet threads.
    pub shards: usize,
    /// System calls that carry packets, and why these.
    pub io: &'a Choice,
    /// The TCP fallback: its settings, and whether it is in use.
    pub tcp_fallback: (tcp_relay::Settings, bool),
    /// What the operator should know of the settings.
    pub warnings: Vec<String>,
    /// Our own counters, by room.
    pub counters: Value,
}

/// GET /status
pub fn status(now: Now, facts: &StatusFacts<'_>) -> Value {
    let endpoints = |list: &[SocketAddr]| list.iter().map(|e| to_text(*e)).collect::<Vec<_>>();
    let mut config = facts.local_conf.clone();
    let mut settings = config.get("settings").and_then(Value::as_object).cloned().unwrap_or_default();
    let in_force = json!({
        "primaryPort": facts.ports.primary,
        "secondaryPort": facts.ports.secondary.unwrap_or(0),
        "tertiaryPort": facts.ports.tertiary.unwrap_or(0),
        "listeningOn": endpoints(&facts.listening),
        "surfaceAddresses": endpoints(&facts.surface),
        "homeDir": facts.home,
        "allowTcpFallbackRelay": facts.tcp_fallback.0.allow,
        "forceTcpRelay": facts.tcp_fallback.0.force,
        "portMappingEnabled": facts.ports.tertiary.is_some(),
        "softwareUpdate": "disable",
        "softwareUpdateChannel": "release",
    });
    settings.extend(in_force.as_object().cloned().unwrap_or_default());
    config.insert("settings".into(), settings.into());
    let mapping = |(link, local, mapped): &(String, SocketAddr, Mapped)| {
        json!({
            "link": link,
            "local": to_text(*local),
            "external": to_text(mapped.external),
            "protocol": mapped.protocol.to_string(),
        })
    };
    let mut object = version_fields();
    let fields = json!({
        "address": facts.identity.address().to_string(),
        "publicIdentity": facts.identity.to_string(),
        "online": facts.online,
        "tcpFallbackActive": facts.tcp_fallback.1,
        "clock": now.unix_ms,
        "planetWorldId": facts.planet.id,
        "planetWorldTimestamp": facts.planet.timestamp,
        "config": config,
        "hawserVersion": env!("CARGO_PKG_VERSION"),
        "portMappings": facts.mapped.iter().map(mapping).collect::<Vec<_>>(),
        "nat": facts.nat.iter().map(nat).collect::<Vec<_>>(),
        "shards": facts.shards,
        "io": {"backend": facts.io.backend.to_string(), "why": facts.io.why},
        "warnings": facts.warnings,
        "counters": facts.counters,
    });
    object.extend(fields.as_object().cloned().unwrap_or_default());
    object.into()
}

/// The NAT before one socket.
fn nat(n: &NatStatus) -> Value {
    let (mapping, step) = match n.mapping {
        Mapping::Unknown => ("unknown", None),
        Mapping::None => ("none", None),
        Mapping::EndpointIndependent => ("endpoint-independent", None),
        Mapping::Symmetric { step } => ("symmetric", step),
    };
    json!({
        "link": n.link,
        "localSocket": n.socket.0,
        "address": to_text(n.local),
        "mapping": mapping,
        "portStep": step.unwrap_or(0),
        "seenAs": n.surfaces.iter().map(|s| to_text(*s)).collect::<Vec<_>>(),
    })
}

/// GET /health
pub fn health(now: Now, online: bool) -> Value {
    let mut object = version_fields();
    object.insert("online".into(), online.into());
    object.insert("clock".into(), now.unix_ms.into());
    object.into()
}

/// One moon of GET /moon. // spec: service, "Moon"
pub fn moon(world: &World) -> Value {
    let root = |root: &wire::Root| {
        json!({
            "identity": root.identity.to_string(),
            "stableEndpoints": root.endpoints.iter().map(|e| to_text(*e)).collect::<Vec<_>>(),
        })
    };
    json!({
        "id": format!("{:016x}", world.id),
        "timestamp": world.timestamp,
        "signature": hex::encode(world.signature.0),
        "updatesMustBeSignedBy": hex::encode(world.update_key),
        "roots": world.roots.iter().map(root).collect::<Vec<_>>(),
        "waiting": false,
    })
}

/// The same of one whose definition has not come yet; `seed` is ours.
pub fn awaited_moon(id: u64, seed: Address) -> Value {
    json!({
        "id": format!("{id:016x}"),
        "timestamp": 0,
        "signature": null,
        "updatesMustBeSignedBy": null,
        "roots": [],
        "waiting": true,
        "seed": seed.to_string(),
    })
}

/// What the gateway knows of a network beside the node.
#[derive(Debug, Default)]
pub struct PortFacts<'a> {
    /// The TAP's name.
    pub device: Option<&'a str>,
    /// Why there is none.
    pub error: Option<&'a PortError>,
    /// What could not be applied to it.
    pub problem: Option<&'a str>,
    /// What the operator allows.
    pub conf: NetworkConf,
}

/// One network of GET /network.
pub fn network(n: &Network, port: &PortFacts<'_>) -> Value {
    let config = n.config();
    let address = |p: &Prefix| p.to_string();
    let route = |r: &network::config::Route| {
        json!({
            "target": r.target.to_string(),
            "via": r.via.map(|ip| ip.to_string()),
            "flags": r.flags,
            "metric": r.metric,
        })
    };
    let group = |g: MulticastGroup| json!({"mac": g.mac.to_string(), "adi": g.adi});
    let dns = config.map(|c| &c.dns);
    let mut object = json!({
        "id": n.id().to_string(),
        "nwid": n.id().to_string(),
        "mac": n.mac().to_string(),
        "name": config.map_or("", |c| c.name.as_str()),
        "status": n.status().name(),
        "type": if config.is_some_and(|c| c.public) { "PUBLIC" } else { "PRIVATE" },
        "mtu": n.mtu(),
        "dhcp": false,
        "bridge": config.is_some_and(|c| c.has_role(c.issued_to, Specialist::ACTIVE_BRIDGE)),
        "broadcastEnabled": config.is_some_and(|c| c.flags & network::Config::BROADCAST != 0),
        "portError": port.error.map_or(0, |e| e.errno),
        "netconfRevision": config.map_or(0, |c| c.revision),
        "portDeviceName": port.device.unwrap_or_default(),
        "allowManaged": port.conf.allow_managed,
        "allowGlobal": port.conf.allow_global,
        "allowDefault": port.conf.allow_default,
        "allowDNS": port.conf.allow_dns,
        "assignedAddresses": config.map(|c| c.addresses.iter().map(address).collect::<Vec<_>>()).unwrap_or_default(),
        "routes": config.map(|c| c.routes.iter().map(route).collect::<Vec<_>>()).unwrap_or_default(),
        "multicastSubscriptions": n.subscriptions().map(group).collect::<Vec<_>>(),
        "dns": {
            "domain": dns.map_or("", |d| d.domain.as_str()),
            "servers": dns.map(|d| d.servers.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default(),
        },
        "fastPath": n.fast(),
    });
    let detail = port.error.map(|e| e.reason.as_str()).or(port.problem);
    if let (Some(object), Some(detail)) = (object.as_object_mut(), detail) {
        object.insert("statusDetail".into(), detail.into());
    }
    let authentication = n.authentication().or_else(|| config.map(|c| &c.authentication)).filter(|a| a.enabled);
    if let (Some(object), Some(a)) = (object.as_object_mut(), authentication) {
        object.insert("ssoEnabled".into(), true.into());
        object.insert("authenticationURL".into(), a.url.as_str().into());
        object.insert("authenticationExpiryTime".into(), a.expires.into());
    }
    object
}

/// The round trips of a path.
fn round_trips(l: Option<&LatencyStatus>) -> Value {
    let Some(l) = l else { return json!({"samples": 0}) };
    json!({
        "samples": l.samples,
        "last": l.last_us,
        "min": l.min_us,
        "p50": l.p50_us,
        "p90": l.p90_us,
        "p99": l.p99_us,
        "max": l.max_us,
        "jitter": l.jitter_us,
    })
}

fn why_relayed(why: Relayed) -> &'static str {
    match why {
        Relayed::Idle => "idle",
        Relayed::Untrusted => "untrusted",
        Relayed::Trying => "trying",
        Relayed::SymmetricHere => "symmetric-here",
        Relayed::Unanswered => "unanswered",
    }
}

/// One peer of GET /peer. `port_of` tells a socket's local port.
pub fn peer(
    now: Now,
    p: &PeerStatus,
    port_of: impl Fn(LocalSocketId) -> u16,
    trusted: impl Fn(SocketAddr) -> u64,
) -> Value {
    let (protocol, major, minor, revision) = p.version;
    let known = protocol != 0;
    let version = |n: i64| if known { n } else { -1 };
    let (major, minor, revision) = (version(major.into()), version(minor.into()), version(revision.into()));
    let moment = |age: Option<u64>| age.map_or(0, |ms| now.unix_ms.saturating_sub(ms));
    let paths: Vec<Value> = p
        .paths
        .iter()
        .filter(|path| path.alive)
        .map(|path| {
            json!({
                "address": to_text(path.remote),
                "lastSend": moment(path.sent_ms),
                "lastReceive": moment(path.verified_ms),
                "active": true,
                "expired": false,
                "preferred": path.preferred,
                "trustedPathId": trusted(path.remote),
                "localSocket": path.socket.0,
                "localPort": port_of(path.socket),
                "latencyUs": path.latency_us.map_or(-1, i64::from),
                "roundTripUs": round_trips(path.latency.as_ref()),
            })
        })
        .collect();
    let latency = match p.latency_us {
        Some(us) if !paths.is_empty() => i64::from(us / 1000),
        _ => -1,
    };
    let mut object = json!({
        "address": p.address.to_string(),
        "version": format!("{major}.{minor}.{revision}"),
        "versionMajor": major,
        "versionMinor": minor,
        "versionRev": revision,
        "latency": latency,
        "role": if p.planet { "PLANET" } else if p.upstream { "MOON" } else { "LEAF" },
        "isBonded": false,
        "tunneled": false,
        "paths": paths,
    });
    if let (Some(object), Some(why)) = (object.as_object_mut(), p.relayed) {
        object.insert("whyRelayed".into(), why_relayed(why).into());
    }
    object
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use wire::world::DEFAULT_PLANET;
    use wire::{Address, NetworkId};

    use super::*;
    use crate::portmap::Protocol;

    /// Key sets and types of the captured answers of ZeroTierOne 1.14.1. // spec: service, "Objects"
    const STATUS: &str = r#"{"address": "", "clock": 0, "config": {"settings": {"allowTcpFallbackRelay": true,
        "forceTcpRelay": false, "homeDir": "", "listeningOn": [""], "portMappingEnabled": true, "primaryPort": 0,
        "secondaryPort": 0, "softwareUpdate": "", "softwareUpdateChannel": "", "surfaceAddresses": [""],
        "tertiaryPort": 0}}, "online": true, "planetWorldId": 0, "planetWorldTimestamp": 0, "publicIdentity": "",
        "tcpFallbackActive": false, "version": "", "versionBuild": 0, "versionMajor": 1, "versionMinor": 14,
        "versionRev": 1}"#;
    const PEER: &str = r#"{"address": "", "isBonded": false, "latency": 0, "paths": [{"active": true, "address": "",
        "expired": false, "lastReceive": 0, "lastSend": 0, "localPort": 0, "localSocket": 0, "preferred": false,
        "trustedPathId": 0}], "role": "", "tunneled": false, "version": "", "versionMajor": 1, "versionMinor": 14,
        "versionRev": 1}"#;
    const NETWORK: &str = r#"{"allowDNS": false, "allowDefault": false, "allowGlobal": false, "allowManaged": true,
        "assignedAddresses": [], "bridge": false, "broadcastEnabled": true, "dhcp": false, "dns": {"domain": "",
        "servers": []}, "id": "", "mac": "", "mtu": 2800, "multicastSubscriptions": [], "name": "",
        "netconfRevision": 4, "nwid": "", "portDeviceName": "", "portError": 0, "routes": [], "status": "", "type": ""}"#;

    /// Every key of `model` is in `ours` with the same type; first elements stand for whole arrays.
    pub(crate) fn covers(ours: &Value, model: &Value, place: &str) {
        match (ours, model) {
            (Value::Object(ours), Value::Object(model)) => {
                let missing: BTreeSet<_> = model.keys().filter(|k| !ours.contains_key(*k)).collect();
                assert!(missing.is_empty(), "{place} lacks {missing:?}");
                model.iter().for_each(|(k, v)| covers(&ours[k], v, &format!("{place}.{k}")));
            }
            (Value::Array(ours), Value::Array(model)) => {
                if let (Some(ours), Some(model)) = (ours.first(), model.first()) {
                    covers(ours, model, &format!("{place}[0]"));
                }
            }
            _ => assert_eq!(
                std::mem::discriminant(ours),
                std::mem::discriminant(model),
                "{place}: {ours} is of another type than {model}"
            ),
        }
    }

    /// A node that knows nobody.
    struct Alone(Identity);

    impl network::Surroundings for Alone {
        fn own(&self) -> &Identity {
            &self.0
        }
        fn identity(&self, _: Address) -> Option<Arc<Identity>> {
            None
        }
        fn upstreams(&self) -> Vec<Address> {
            Vec::new()
        }
        fn is_upstream(&self) -> bool {
            false
        }
        fn authorised_by_our_controller(&self, _: NetworkId, _: Address) -> bool {
            false
        }
        fn peer_latency_ms(&self, _: Address) -> Option<u32> {
            None
        }
        fn random(&mut self) -> u64 {
            4
        }
    }

    fn model(text: &str) -> Value {
        serde_json::from_str(text).expect("model")
    }

    #[test]
    fn the_status_object_has_every_field_that_tools_read() {
        let planet = World::parse(DEFAULT_PLANET).expect("planet");
        let conf = json!({"settings": {"bind": ["192.0.2.1"]}, "virtual": {}});
        let local_conf = conf.as_object().cloned().expect("object");
        let endpoint: SocketAddr = "192.0.2.1:9993".parse().expect("endpoint");
        let facts = StatusFacts {
            identity: &planet.roots[0].identity,
            online: true,
            planet: &planet,
            local_conf: &local_conf,
            ports: Ports { primary: 9993, secondary: Some(40000), tertiary: Some(50000) },
            mapped: vec![("eth0".into(), endpoint, Mapped { external: endpoint, protocol: Protocol::Pcp })],
            home: "/h".into(),
            listening: vec![endpoint],
            surface: vec![endpoint],
            nat: &[NatStatus {
                socket: LocalSocketId(3),
                link: "eth0".into(),
                local: endpoint,
                mapping: Mapping::Symmetric { step: Some(2) },
                surfaces: vec![endpoint],
            }],
            shards: 2,
            io: &uring::probe::choose(uring::Backend::Mmsg).expect("always there"),
            tcp_fallback: (tcp_relay::Settings::default(), false),
            warnings: Vec::new(),
            counters: json!({}),
        };
        let object = status(Now::at_ms(5), &facts);
        covers(&object, &model(STATUS), "status");
        assert_eq!(object["config"]["settings"]["tertiaryPort"], 50000);
        assert_eq!(object["portMappings"][0]["protocol"], "PCP");
        assert_eq!(object["io"], json!({"backend": "mmsg", "why": "asked for"}));
        assert_eq!(object["config"]["settings"]["listeningOn"][0], "192.0.2.1/9993");
        assert_eq!(object["config"]["settings"]["bind"][0], "192.0.2.1", "what the operator wrote is still there");
        let nat = json!([{"link": "eth0", "localSocket": 3, "address": "192.0.2.1/9993", "mapping": "symmetric",
            "portStep": 2, "seenAs": ["192.0.2.1/9993"]}]);
        assert_eq!(object["nat"], nat);
        covers(&health(Now::at_ms(5), false), &json!({"online": false, "clock": 5, "versionBuild": 0}), "health");
    }

    #[test]
    fn a_peer_has_every_field_and_unknown_numbers_are_minus_one() {
        let path = node::PathStatus {
            socket: LocalSocketId(3),
            remote: "192.0.2.1:9993".parse().expect("endpoint"),
            verified_ms: Some(10),
            sent_ms: None,
            latency_us: Some(2500),
            latency: None,
            alive: true,
            preferred: true,
        };
        let mut p = PeerStatus {
            address: "0123456789".parse().expect("address"),
            version: (12, 1, 14, 1),
            latency_us: Some(2500),
            upstream: true,
            planet: true,
            best_upstream: true,
            last_receive_ms: None,
            paths: vec![path],
            relayed: None,
        };
        let object = peer(Now::at_ms(1000), &p, |_| 9993, |_| 0);
        covers(&object, &model(PEER), "peer");
        assert_eq!((&object["latency"], &object["role"]), (&json!(2), &json!("PLANET")));
        let path = &object["paths"][0];
        assert_eq!((&path["lastReceive"], &path["lastSend"]), (&json!(990), &json!(0)));
        assert_eq!((&path["latencyUs"], &path["roundTripUs"]), (&json!(2500), &json!({"samples": 0})));
        assert_eq!(object.get("whyRelayed"), None);
        p.paths[0].latency = Some(LatencyStatus {
            samples: 9,
            last_us: 2,
            min_us: 1,
            p50_us: 3,
            p90_us: 4,
            p99_us: 5,
            max_us: 6,
            jitter_us: 7,
        });
        let object = peer(Now::at_ms(1000), &p, |_| 9993, |_| 0);
        let trips = json!({"samples": 9, "last": 2, "min": 1, "p50": 3, "p90": 4, "p99": 5, "max": 6, "jitter": 7});
        assert_eq!(object["paths"][0]["roundTripUs"], trips);
        p.paths[0].alive = false;
        p.relayed = Some(Relayed::SymmetricHere);
        p.version = (0, 0, 0, 0);
        let object = peer(Now::at_ms(1000), &p, |_| 9993, |_| 0);
        assert_eq!((&object["latency"], &object["version"]), (&json!(-1), &json!("-1.-1.-1")));
        assert_eq!(object["paths"], json!([]), "no living path: relayed");
        assert_eq!(object["whyRelayed"], "symmetric-here");
    }

    #[test]
    fn a_network_without_configuration_has_every_field_too() {
        let id = "6af3745e97000001".parse().expect("id");
        let mut alone = Alone(World::parse(DEFAULT_PLANET).expect("planet").roots[0].identity.clone());
        let mut networks = network::Networks::new();
        networks.join(Now::at_ms(1), id, None, &mut alone, &mut Vec::new());
        let error = PortError { errno: 1, reason: "no TAP".into() };
        let port = PortFacts { error: Some(&error), ..PortFacts::default() };
        let object = super::network(networks.get(id).expect("joined"), &port);
        covers(&object, &model(NETWORK), "network");
        assert_eq!(object["mtu"], 2800);
        assert_eq!((&object["portError"], &object["statusDetail"]), (&json!(1), &json!("no TAP")));
    }
}
