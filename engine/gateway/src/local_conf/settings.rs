//! The section `settings`: every key that ZeroTierOne reads or that is ours, and what becomes of it.
// spec: service, "local.conf"

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use serde_json::{Map, Value};
use wire::endpoint::Prefix;

use super::values::{boolean, integer, parse_endpoint, texts, wrong};
use super::{Problem, bonding};

/// `settings`, as far as this gateway acts on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// UDP and API port; 0 asks for a random one.
    pub primary_port: Option<u16>,
    /// Second UDP port; none or 0 asks for a random one.
    pub secondary_port: Option<u16>,
    /// Third UDP port, the one that routers are asked to map; none or 0 asks for a random one.
    pub tertiary_port: Option<u16>,
    /// There is no secondary port.
    pub no_secondary_port: bool,
    /// There is no tertiary port, and routers are asked for nothing.
    pub no_port_mapping: bool,
    /// Only these interfaces are bound, if there are any.
    pub interfaces: Vec<String>,
    /// System calls that carry packets.
    pub io: Option<uring::Backend>,
    /// Microseconds for which a packet thread looks for more before it sleeps.
    pub spin: Option<u16>,
    /// Microseconds of busy poll.
    pub busy_poll: Option<u16>,
    /// Exactly these addresses, instead of those of the interfaces.
    pub bind: Vec<IpAddr>,
    /// Interfaces whose name starts so are never bound.
    pub interface_prefix_blacklist: Vec<String>,
    /// Who may use the API besides loopback.
    pub allow_management_from: Vec<Prefix>,
    /// Do not lower the MSS of TCP connections.
    pub no_mss_clamp: bool,
    /// Deliver TCP segments of peers that stripe them as they come.
    pub no_resequence: bool,
    /// Agree with nobody on a port spread.
    pub no_port_spread: bool,
    /// Encrypt with Salsa20/12-Poly1305 to everybody.
    pub salsa_only: bool,
    /// Where UDP does not get through, send by TCP through a relay.
    pub allow_tcp_fallback: bool,
    /// No UDP, everything through the relay.
    pub force_tcp: bool,
    /// That relay.
    pub tcp_fallback_relay: Option<SocketAddrV4>,
    /// Seconds of silence before it is used.
    pub tcp_fallback_after: Option<u16>,
    /// Where to listen as such a relay for others.
    pub tcp_relay: Option<SocketAddr>,
    /// Networks that its clients may send into though they are not the Internet.
    pub tcp_relay_allow: Vec<Prefix>,
    /// Do not probe paths that carry frames and bring nothing back.
    pub no_fast_failover: bool,
    /// Frames over a new direct path go by the relay as well.
    pub warm_up: node::WarmUp,
    /// Bonding as written; it is known to hold.
    pub bonding: bond::config::Settings,
}

impl Settings {
    /// Keys that others say something else of, and that count at start only.
    pub fn changed_at_start_only(&self, other: &Settings) -> Vec<&'static str> {
        let keys = [
            ("primaryPort", self.primary_port != other.primary_port),
            ("secondaryPort", self.secondary_port != other.secondary_port),
            ("tertiaryPort", self.tertiary_port != other.tertiary_port),
            ("allowSecondaryPort", self.no_secondary_port != other.no_secondary_port),
            ("portMappingEnabled", self.no_port_mapping != other.no_port_mapping),
            ("io", self.io != other.io),
            ("spin", self.spin != other.spin),
            ("busyPoll", self.busy_poll != other.busy_poll),
            ("tcpRelay", self.tcp_relay != other.tcp_relay),
            ("tcpRelayAllow", self.tcp_relay_allow != other.tcp_relay_allow),
        ];
        keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }
}

/// How a known key of `settings` is treated.
enum Treatment {
    /// This gateway does what it says.
    Acted,
    /// Any value of this type changes nothing here.
    Harmless(Kind),
    /// Taken only when the value is one of these.
    Only(&'static [&'static str], &'static str),
}
use Treatment::{Acted, Harmless, Only};

/// Type of a value.
enum Kind {
    Boolean,
    Text,
}

/// Every key of `settings` that ZeroTierOne 1.14.1 reads. // spec: service, "local.conf"
const SETTINGS: &[(&str, Treatment)] = &[
    ("io", Acted),         // ours
    ("spin", Acted),       // ours
    ("busyPoll", Acted),   // ours
    ("interfaces", Acted), // ours
    ("primaryPort", Acted),
    ("secondaryPort", Acted),
    ("tertiaryPort", Acted),
    ("allowSecondaryPort", Acted),
    ("portMappingEnabled", Acted),
    ("bind", Acted),
    ("interfacePrefixBlacklist", Acted),
    ("allowManagementFrom", Acted),
    ("fastFailover", Acted), // ours
    ("warmUp", Acted),       // ours
    ("tcpMssClamp", Acted),  // ours
    ("resequence", Acted),   // ours
    ("suite", Acted),        // ours
    ("portSpread", Acted),   // ours
    ("allowTcpFallbackRelay", Acted),
    ("tcpFallbackRelay", Acted),
    ("forceTcpRelay", Acted),
    ("tcpFallbackAfter", Acted), // ours
    ("tcpRelay", Acted),         // ours
    ("tcpRelayAllow", Acted),    // ours
    ("multicoreEnabled", Harmless(Kind::Boolean)),
    ("cpuPinningEnabled", Harmless(Kind::Boolean)),
    ("softwareUpdateChannel", Harmless(Kind::Text)),
    ("lowBandwidthMode", Only(&["false"], "")),
    ("concurrency", Only(&["1"], " (use --shards)")),
    ("softwareUpdate", Only(&["\"disable\""], " (update through your packages)")),
    ("softwareUpdateDist", Only(&["false"], "")),
    ("enableWebServer", Only(&["false"], "")),
    ("controllerDbPath", Only(&["null"], " (records are in controller.d)")),
    ("controllerDb", Only(&["null"], " (records are in controller.d)")),
    ("ssoRedirectURL", Only(&["\"\""], "")),
    ("vault", Only(&["null"], "")),
    ("redis", Only(&["null"], "")),
    ("defaultBondingPolicy", Acted),
    ("peerSpecificBonds", Acted),
    ("policies", Acted),
    ("bondingMode", Acted), // ours
];

/// What `warmUp` and `--warm-up` take.
pub(super) const WARM_UP: &str =
    "a text of frames, milliseconds or both, like \"64\", \"200ms\" or \"64,200ms\", 10000 each at most";

/// How new direct paths are warmed up: `64` frames, `200ms`, or whichever of `64,200ms` ends first.
pub fn warm_up(text: &str) -> Result<node::WarmUp, &'static str> {
    let mut warm_up = node::WarmUp::default();
    for part in text.split(',').map(str::trim) {
        let (number, to, max) = match part.strip_suffix("ms") {
            Some(ms) => (ms, &mut warm_up.ms, node::limits::WARM_UP_MS_MAX),
            None => (part, &mut warm_up.packets, node::limits::WARM_UP_PACKETS_MAX),
        };
        *to = number.parse().ok().filter(|n| *n <= max).ok_or(WARM_UP)?;
    }
    Ok(warm_up)
}

pub(super) fn settings(table: &Map<String, Value>) -> Result<Settings, Problem> {
    let mut s = Settings::default();
    for (key, value) in table {
        let at = format!("settings.{key}");
        let Some((_, treatment)) = SETTINGS.iter().find(|(name, _)| name == key) else {
            let known: Vec<_> = SETTINGS.iter().map(|(name, _)| *name).collect();
            return Err(bonding::strange(key, "settings", &known));
        };
        match (treatment, key.as_str()) {
            (Harmless(Kind::Boolean), _) => {
                boolean(value, &at)?;
            }
            (Harmless(Kind::Text), _) if value.is_string() => {}
            (Harmless(Kind::Text), _) => return Err(wrong(&at, value, "a text")),
            (Only(harmless, instead), _) => {
                if !harmless.contains(&value.to_string().as_str()) {
                    return Err(Problem::Unsupported { key: at, instead, harmless: harmless[0] });
                }
            }
            (Acted, "primaryPort") => s.primary_port = Some(integer(value, &at, u64::from(u16::MAX))? as u16),
            (Acted, "secondaryPort") => s.secondary_port = Some(integer(value, &at, u64::from(u16::MAX))? as u16),
            (Acted, "tertiaryPort") => s.tertiary_port = Some(integer(value, &at, u64::from(u16::MAX))? as u16),
            (Acted, "allowSecondaryPort") => s.no_secondary_port = !boolean(value, &at)?,
            (Acted, "portMappingEnabled") => s.no_port_mapping = !boolean(value, &at)?,
            (Acted, "interfaces") => {
                s.interfaces =
                    texts(value, &at, "the name of an interface", |t| (!t.is_empty()).then(|| t.to_owned()))?;
            }
            (Acted, "io") => {
                let named = value.as_str().and_then(uring::Backend::named);
                s.io = Some(named.ok_or_else(|| wrong(&at, value, "\"auto\", \"io-uring\" or \"mmsg\""))?);
            }
            (Acted, "spin") => s.spin = Some(integer(value, &at, u64::from(u16::MAX))? as u16),
            (Acted, "busyPoll") => s.busy_poll = Some(integer(value, &at, u64::from(u16::MAX))? as u16),
            (Acted, "bind") => s.bind = texts(value, &at, "an IP address", |t| t.parse().ok())?,
            (Acted, "interfacePrefixBlacklist") => {
                s.interface_prefix_blacklist =
                    texts(value, &at, "the start of an interface name", |t| (!t.is_empty()).then(|| t.to_owned()))?;
            }
            (Acted, "suite") => {
                s.salsa_only = match value.as_str() {
                    Some("auto") => false,
                    Some("salsa2012-poly1305") => true,
                    _ => return Err(wrong(&at, value, "\"auto\" or \"salsa2012-poly1305\"")),
                };
            }
            (Acted, "fastFailover") => s.no_fast_failover = !boolean(value, &at)?,
            (Acted, "warmUp") => {
                let asked = value.as_str().and_then(|text| warm_up(text).ok());
                s.warm_up = asked.ok_or_else(|| wrong(&at, value, WARM_UP))?;
            }
            (Acted, "allowTcpFallbackRelay") => s.allow_tcp_fallback = boolean(value, &at)?,
            (Acted, "forceTcpRelay") => s.force_tcp = boolean(value, &at)?,
            (Acted, "tcpFallbackRelay") => match value.as_str().and_then(parse_endpoint) {
                Some(SocketAddr::V4(relay)) if relay.port() != 0 => s.tcp_fallback_relay = Some(relay),
                _ => return Err(wrong(&at, value, "an IPv4 endpoint like \"192.0.2.1/443\"")),
            },
            (Acted, "tcpFallbackAfter") => {
                s.tcp_fallback_after = Some(integer(value, &at, u64::from(u16::MAX))? as u16)
            }
            (Acted, "tcpRelay") => {
                let endpoint = value.as_str().and_then(parse_endpoint);
                s.tcp_relay = Some(endpoint.ok_or_else(|| wrong(&at, value, "an endpoint like \"0.0.0.0/443\""))?);
            }
            (Acted, "tcpRelayAllow") => {
                s.tcp_relay_allow = texts(value, &at, "a network like 10.0.0.0/8", |t| t.parse().ok())?;
            }
            (Acted, key) if bonding::KEYS.contains(&key) => bonding::set(&mut s.bonding, key, value)?,
            (Acted, "portSpread") => s.no_port_spread = !boolean(value, &at)?,
            (Acted, "tcpMssClamp") => s.no_mss_clamp = !boolean(value, &at)?,
            (Acted, "resequence") => s.no_resequence = !boolean(value, &at)?,
            (Acted, _) => {
                s.allow_management_from = texts(value, &at, "a network like 10.0.0.0/8", |t| t.parse().ok())?;
            }
        }
    }
    bonding::judge(&s.bonding)?;
    Ok(s)
}
