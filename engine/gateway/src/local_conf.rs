//! `local.conf`: the operator's settings, as ZeroTierOne names them. A key that nobody knows is refused by its name, and
//! so is one whose effect this gateway cannot give: what the file says is what happens. Knows nothing of who acts on it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wire::Address;
use wire::endpoint::Prefix;

/// Entries of `physical` that may set a trust or an MTU. // spec: service, "physical"
pub const MAX_PHYSICAL_RULES: usize = 32;
/// Entries of any list or table in the file.
pub const MAX_ENTRIES: usize = 1024;
/// Bounds of `physical.<net>.mtu`, bytes of UDP payload. // spec: service, "physical"
pub const MTU_RANGE: std::ops::RangeInclusive<u64> = 1400..=10324;

/// What is wrong with the file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The file is there and cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not JSON, or not an object.
    #[error("{}: not a JSON object: {reason}; the file was left as it is", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A setting that cannot be taken.
    #[error("{}: {problem}", file.display())]
    Setting {
        /// The file.
        file: PathBuf,
        /// Which one, and why.
        problem: Problem,
    },
}

/// A setting that cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nobody knows this key.
    #[error("unknown key {key:?} in {place}{}", hint(.nearest))]
    Unknown {
        /// The key as written.
        key: String,
        /// Where in the file.
        place: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// ZeroTierOne knows it, Hawser does not act on it yet.
    #[error("{key} is not supported yet{instead}; remove it, or set it to {harmless}")]
    Unsupported {
        /// The key with its place.
        key: String,
        /// What the operator can use instead, if anything.
        instead: &'static str,
        /// The values that are taken.
        harmless: &'static str,
    },
    /// Wrong type or impossible value.
    #[error("{key}: {value} is not {expected}")]
    Value {
        /// The key with its place.
        key: String,
        /// The value as written.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A list or table is too long.
    #[error("{key} has {count} entries, at most {max} are taken")]
    TooMany {
        /// The key with its place.
        key: String,
        /// Entries found.
        count: usize,
        /// Entries allowed.
        max: usize,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default()
}

/// Settings of one physical network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Physical {
    /// The network they are for.
    pub net: Prefix,
    /// Neither bind local addresses inside nor use remotes inside.
    pub blacklist: bool,
    /// Packets to and from this network go in clear with this ID; 0: no trust.
    pub trusted_path_id: u64,
    /// UDP payload limit towards it, bytes.
    pub mtu: Option<u16>,
}

/// Settings for one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Virtual {
    /// Extra endpoints at which to try it.
    pub try_at: Vec<SocketAddr>,
    /// Remotes never used for it.
    pub blacklist: Vec<Prefix>,
}

/// `settings`, as far as this gateway acts on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// The file, understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalConf {
    /// Per physical network, most specific first.
    pub physical: Vec<Physical>,
    /// Per peer.
    pub peers: BTreeMap<Address, Virtual>,
    /// The rest.
    pub settings: Settings,
    /// The file as written; what `/config` shows.
    pub raw: Map<String, Value>,
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
    ("defaultBondingPolicy", Only(&["\"\"", "\"none\""], "")),
    ("peerSpecificBonds", Only(&["{}"], "")),
    ("policies", Only(&["{}"], "")),
];

impl LocalConf {
    /// Reads the file; one that is absent or empty says nothing, as in ZeroTierOne.
    pub fn load(file: &Path) -> Result<LocalConf, ConfError> {
        match fs::read_to_string(file) {
            Ok(text) => LocalConf::parse(&text, file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(LocalConf::default()),
            Err(source) => Err(ConfError::Unreadable { file: file.to_owned(), source }),
        }
    }

    /// Understands `text`; `file` is only named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<LocalConf, ConfError> {
        let not_json = |reason: String| ConfError::NotJson { file: file.to_owned(), reason };
        if text.trim().is_empty() {
            return Ok(LocalConf::default());
        }
        let raw = match serde_json::from_str(text).map_err(|e| not_json(e.to_string()))? {
            Value::Object(raw) => raw,
            other => return Err(not_json(format!("it holds {}", kind_of(&other)))),
        };
        understand(raw).map_err(|problem| ConfError::Setting { file: file.to_owned(), problem })
    }
}

fn understand(raw: Map<String, Value>) -> Result<LocalConf, Problem> {
    let mut conf = LocalConf::default();
    for (key, value) in &raw {
        match key.as_str() {
            "physical" => conf.physical = physical(object(value, key)?)?,
            "virtual" => conf.peers = peers(object(value, key)?)?,
            "settings" => conf.settings = settings(object(value, key)?)?,
            _ => return Err(unknown(key, "the top level", &["physical", "virtual", "settings"])),
        }
    }
    conf.raw = raw;
    Ok(conf)
}

fn physical(nets: &Map<String, Value>) -> Result<Vec<Physical>, Problem> {
    bounded("physical", nets.len(), MAX_ENTRIES)?;
    let mut all = Vec::with_capacity(nets.len());
    for (name, entry) in nets {
        let place = format!("physical.{name:?}");
        let net =
            name.parse().map_err(|_| wrong("physical", &Value::from(name.as_str()), "a network like 10.0.0.0/8"))?;
        let mut p = Physical { net, blacklist: false, trusted_path_id: 0, mtu: None };
        for (key, value) in object(entry, &place)? {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "blacklist" => p.blacklist = boolean(value, &at)?,
                "trustedPathId" => p.trusted_path_id = integer(value, &at, u64::MAX)?,
                "mtu" => {
                    let mtu = integer(value, &at, u64::from(u16::MAX))?;
                    p.mtu = (mtu != 0).then(|| mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end()) as u16);
                }
                _ => return Err(unknown(key, &place, &["blacklist", "trustedPathId", "mtu"])),
            }
        }
        all.push(p);
    }
    let rules = all.iter().filter(|p| p.trusted_path_id != 0 || p.mtu.is_some()).count();
    bounded("physical (entries with trustedPathId or mtu)", rules, MAX_PHYSICAL_RULES)?;
    all.sort_by_key(|p| std::cmp::Reverse(p.net.bits));
    Ok(all)
}

fn peers(table: &Map<String, Value>) -> Result<BTreeMap<Address, Virtual>, Problem> {
    bounded("virtual", table.len(), MAX_ENTRIES)?;
    let mut all = BTreeMap::new();
    for (name, entry) in table {
        let place = format!("virtual.{name:?}");
        let peer =
            name.parse().map_err(|_| wrong("virtual", &Value::from(name.as_str()), "an address of 10 hex digits"))?;
        let mut v = Virtual::default();
        for (key, value) in object(entry, &place)? {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "try" => v.try_at = texts(value, &at, "an endpoint like 192.0.2.1/9993", parse_endpoint)?,
                "blacklist" => v.blacklist = texts(value, &at, "a network like 10.0.0.0/8", |s| s.parse().ok())?,
                _ => return Err(unknown(key, &place, &["try", "blacklist"])),
            }
        }
        all.insert(peer, v);
    }
    Ok(all)
}

/// What `warmUp` and `--warm-up` take.
const WARM_UP: &str =
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

fn settings(table: &Map<String, Value>) -> Result<Settings, Problem> {
    let mut s = Settings::default();
    for (key, value) in table {
        let at = format!("settings.{key}");
        let Some((_, treatment)) = SETTINGS.iter().find(|(name, _)| name == key) else {
            let known: Vec<_> = SETTINGS.iter().map(|(name, _)| *name).collect();
            return Err(unknown(key, "settings", &known));
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
            (Acted, "portSpread") => s.no_port_spread = !boolean(value, &at)?,
            (Acted, "tcpMssClamp") => s.no_mss_clamp = !boolean(value, &at)?,
            (Acted, _) => {
                s.allow_management_from = texts(value, &at, "a network like 10.0.0.0/8", |t| t.parse().ok())?;
            }
        }
    }
    Ok(s)
}

/// `ip/port`, as everywhere in this protocol.
pub fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once('/')?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

fn unknown(key: &str, place: &str, known: &[&'static str]) -> Problem {
    let score = |k: &str| strsim::jaro_winkler(&k.to_lowercase(), &key.to_lowercase());
    let nearest = known.iter().copied().map(|k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    let nearest = nearest.filter(|(score, _)| *score > 0.75).map(|(_, k)| k);
    Problem::Unknown { key: key.to_owned(), place: place.to_owned(), nearest }
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> Problem {
    let mut value = value.to_string();
    if value.len() > 60 {
        let end = value.char_indices().map(|(i, _)| i).take_while(|i| *i <= 60).last().unwrap_or(0);
        value.truncate(end);
        value.push('…');
    }
    Problem::Value { key: key.to_owned(), value, expected }
}

fn bounded(key: &str, count: usize, max: usize) -> Result<(), Problem> {
    if count > max {
        return Err(Problem::TooMany { key: key.to_owned(), count, max });
    }
    Ok(())
}

fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn object<'a>(v: &'a Value, key: &str) -> Result<&'a Map<String, Value>, Problem> {
    v.as_object().ok_or_else(|| wrong(key, v, "an object"))
}

// spec: service, "local.conf" (scalar coercion): an integer may be a number, a decimal string or a boolean
fn integer(v: &Value, key: &str, max: u64) -> Result<u64, Problem> {
    let n = match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.parse().ok(),
        Value::Bool(b) => Some(u64::from(*b)),
        _ => None,
    };
    let expected = if max == u64::from(u16::MAX) { "a number from 0 to 65535" } else { "a number from 0 upwards" };
    n.filter(|n| *n <= max).ok_or_else(|| wrong(key, v, expected))
}

// spec: service, "local.conf" (scalar coercion): a boolean may be a number or a string that starts with t, T or 1
fn boolean(v: &Value, key: &str) -> Result<bool, Problem> {
    match v {
        Value::Bool(b) => Ok(*b),
        Value::Number(n) => Ok(n.as_f64() != Some(0.0)),
        Value::String(s) if s.starts_with(['t', 'T', '1']) => Ok(true),
        Value::String(s) if s.is_empty() || s.starts_with(['f', 'F', '0']) => Ok(false),
        _ => Err(wrong(key, v, "true or false")),
    }
}

fn texts<T>(
    v: &Value,
    key: &str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Problem> {
    let list = v.as_array().ok_or_else(|| wrong(key, v, "an array"))?;
    bounded(key, list.len(), MAX_ENTRIES)?;
    list.iter().map(|item| item.as_str().and_then(&parse).ok_or_else(|| wrong(key, item, expected))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_frames_or_milliseconds_or_both_and_bounded() {
        let warm = |packets, ms| Ok(node::WarmUp { packets, ms });
        assert_eq!(warm_up("64"), warm(64, 0));
        assert_eq!(warm_up("200ms"), warm(0, 200));
        assert_eq!(warm_up("64, 200ms"), warm(64, 200));
        assert_eq!(warm_up("0"), Ok(node::WarmUp::default()), "off");
        for bad in ["", "-1", "10001", "10001ms", "200 s", "64,", "64;200ms"] {
            assert_eq!(warm_up(bad), Err(WARM_UP), "{bad}");
        }
    }

    #[test]
    fn failover_is_fast_and_paths_are_not_warmed_up_unless_the_file_says_otherwise() {
        let settings = |text: &str| LocalConf::parse(text, Path::new("local.conf")).map(|c| c.settings);
        let plain = settings("{}").unwrap();
        assert_eq!((plain.no_fast_failover, plain.warm_up), (false, node::WarmUp::default()));
        let said = settings(r#"{"settings": {"fastFailover": false, "warmUp": "64,200ms"}}"#).unwrap();
        assert_eq!((said.no_fast_failover, said.warm_up), (true, node::WarmUp { packets: 64, ms: 200 }));
        assert!(settings(r#"{"settings": {"warmUp": 64}}"#).is_err(), "a text");
    }

    #[test]
    fn keys_that_count_at_start_only_are_named_when_they_change() {
        let settings = |text: &str| parse(&format!(r#"{{"settings": {{{text}}}}}"#)).expect("valid").settings;
        let before = settings(r#""secondaryPort": 40001, "portSpread": true"#);
        let after = settings(r#""tcpRelay": "0.0.0.0/443", "portSpread": false, "portMappingEnabled": false"#);
        assert_eq!(before.changed_at_start_only(&after), ["secondaryPort", "portMappingEnabled", "tcpRelay"]);
        assert!(before.changed_at_start_only(&settings(r#""secondaryPort": 40001"#)).is_empty());
    }

    fn parse(text: &str) -> Result<LocalConf, ConfError> {
        LocalConf::parse(text, Path::new("local.conf"))
    }

    fn complaint(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn an_absent_or_empty_file_gives_the_defaults() {
        assert_eq!(parse("  \n").expect("empty"), LocalConf::default());
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(LocalConf::load(&dir.path().join("local.conf")).expect("absent"), LocalConf::default());
    }

    #[test]
    fn the_settings_that_hawser_acts_on_are_read_with_the_coercions_of_the_original() {
        let conf = parse(
            r#"{"physical": {"10.0.0.0/8": {"blacklist": "true"},
                             "192.168.1.0/24": {"trustedPathId": "7", "mtu": 1200}},
                "virtual": {"0123456789": {"try": ["192.0.2.1/9993"], "blacklist": ["10.0.0.0/8"]}},
                "settings": {"primaryPort": "9994", "bind": ["192.0.2.9"], "interfacePrefixBlacklist": ["wg"],
                             "allowManagementFrom": ["192.0.2.0/24"], "softwareUpdate": "disable"}}"#,
        )
        .expect("valid");
        assert_eq!(conf.settings.primary_port, Some(9994));
        assert_eq!(conf.settings.interface_prefix_blacklist, ["wg"]);
        assert!(conf.settings.allow_management_from[0].contains("192.0.2.77".parse().expect("ip")));
        assert_eq!((conf.physical[0].trusted_path_id, conf.physical[0].mtu), (7, Some(1400)), "most specific first");
        assert!(conf.physical[1].blacklist);
        let peer = &conf.peers[&"0123456789".parse().expect("address")];
        assert_eq!(peer.try_at, ["192.0.2.1:9993".parse().expect("endpoint")]);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_with_the_nearest_known_one() {
        let text = complaint(r#"{"settings": {"primryPort": 1}}"#);
        assert_eq!(text, "local.conf: unknown key \"primryPort\" in settings; did you mean \"primaryPort\"?");
        let text = complaint(r#"{"physical": {"10.0.0.0/8": {"blacklst": true}}}"#);
        assert!(text.contains("\"blacklst\" in physical.\"10.0.0.0/8\"; did you mean \"blacklist\"?"), "{text}");
        let text = complaint(r#"{"zzz": 1}"#);
        assert_eq!(text, "local.conf: unknown key \"zzz\" in the top level");
    }

    #[test]
    fn what_hawser_cannot_do_yet_is_refused_unless_it_is_the_default() {
        parse(r#"{"settings": {"lowBandwidthMode": false, "policies": {}, "defaultBondingPolicy": "none"}}"#)
            .expect("harmless");
        let text = complaint(r#"{"settings": {"lowBandwidthMode": true}}"#);
        assert!(
            text.contains("settings.lowBandwidthMode is not supported yet; remove it, or set it to false"),
            "{text}"
        );
        let text = complaint(r#"{"settings": {"concurrency": 8}}"#);
        assert!(text.contains("use --shards"), "{text}");
    }

    #[test]
    fn the_way_around_blocked_udp_and_the_relay_for_others_are_off_until_said() {
        let said = |text: &str| parse(&format!("{{\"settings\": {text}}}")).expect("good").settings;
        let off = said("{}");
        assert!(!off.allow_tcp_fallback && !off.force_tcp && off.tcp_relay.is_none());
        let on = said(r#"{"allowTcpFallbackRelay": true, "tcpFallbackRelay": "44.1.1.1/443", "tcpFallbackAfter": 5}"#);
        assert!(on.allow_tcp_fallback && on.tcp_fallback_after == Some(5));
        assert_eq!(on.tcp_fallback_relay, "44.1.1.1:443".parse().ok());
        let relay = said(r#"{"tcpRelay": "0.0.0.0/443", "tcpRelayAllow": ["10.0.0.0/8"]}"#);
        assert_eq!((relay.tcp_relay, relay.tcp_relay_allow.len()), ("0.0.0.0:443".parse().ok(), 1));
        assert!(complaint(r#"{"settings": {"tcpFallbackRelay": "::1/443"}}"#).contains("an IPv4 endpoint"));
    }

    #[test]
    fn ports_and_interfaces_are_read_and_both_further_ports_are_on_unless_the_operator_says_no() {
        let settings = |text: &str| parse(&format!("{{\"settings\": {text}}}")).expect("good").settings;
        let s = settings("{}");
        assert!(!s.no_secondary_port && !s.no_port_mapping && s.secondary_port.is_none());
        let s = settings(
            r#"{"allowSecondaryPort": false, "portMappingEnabled": "false", "secondaryPort": "40000",
                            "tertiaryPort": 40001, "interfaces": ["eth0", "wwan0"]}"#,
        );
        assert!(s.no_secondary_port && s.no_port_mapping);
        assert_eq!((s.secondary_port, s.tertiary_port), (Some(40000), Some(40001)));
        assert_eq!(s.interfaces, ["eth0", "wwan0"]);
        let text = complaint(r#"{"settings": {"interfaces": [""]}}"#);
        assert!(text.contains("settings.interfaces: \"\" is not the name of an interface"), "{text}");
    }

    #[test]
    fn the_mss_of_tcp_is_lowered_unless_the_operator_says_no() {
        for (text, off) in [("{}", false), (r#"{"tcpMssClamp": true}"#, false), (r#"{"tcpMssClamp": false}"#, true)] {
            let conf = parse(&format!("{{\"settings\": {text}}}")).expect("good");
            assert_eq!(conf.settings.no_mss_clamp, off);
        }
    }

    #[test]
    fn ports_are_spread_unless_the_operator_says_no() {
        for (text, off) in [("{}", false), (r#"{"portSpread": true}"#, false), (r#"{"portSpread": false}"#, true)] {
            let conf = parse(&format!("{{\"settings\": {text}}}")).expect("good");
            assert_eq!(conf.settings.no_port_spread, off);
        }
        complaint(r#"{"settings": {"portSpread": "off"}}"#);
    }

    #[test]
    fn bad_json_is_an_error_with_its_place_and_the_file_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("local.conf");
        let text = "{\"settings\": {\n\"primaryPort\": 9993,}}";
        fs::write(&file, text).expect("write");
        let e = LocalConf::load(&file).expect_err("bad").to_string();
        assert!(e.contains("local.conf") && e.contains("line 2 column"), "{e}");
        assert_eq!(fs::read_to_string(&file).expect("read"), text);
        assert!(complaint("[1]").contains("it holds an array"));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_what_it_should_be() {
        let text = complaint(r#"{"settings": {"primaryPort": 70000}}"#);
        assert!(text.contains("settings.primaryPort: 70000 is not a number from 0 to 65535"), "{text}");
        let text = complaint(r#"{"settings": {"bind": ["x"]}}"#);
        assert!(text.contains("settings.bind: \"x\" is not an IP address"), "{text}");
        let text = complaint(r#"{"settings": {"portMappingEnabled": "banana"}}"#);
        assert!(text.contains("settings.portMappingEnabled: \"banana\" is not true or false"), "{text}");
        let text = complaint(r#"{"settings": {"softwareUpdateChannel": 7}}"#);
        assert!(text.contains("settings.softwareUpdateChannel: 7 is not a text"), "{text}");
        parse(r#"{"settings": {"portMappingEnabled": "false", "multicoreEnabled": 1}}"#).expect("the right types");
        let text = complaint(r#"{"virtual": {"xyz": {}}}"#);
        assert!(text.contains("10 hex digits"), "{text}");
    }

    #[test]
    fn how_packets_are_carried_is_one_of_three_and_busy_poll_has_a_bound() {
        let conf = parse(r#"{"settings": {"io": "mmsg", "busyPoll": 50, "spin": 200}}"#).expect("good");
        assert_eq!((conf.settings.io, conf.settings.busy_poll), (Some(uring::Backend::Mmsg), Some(50)));
        assert_eq!(conf.settings.spin, Some(200));
        let text = complaint(r#"{"settings": {"io": "epoll"}}"#);
        assert!(text.contains("settings.io: \"epoll\" is not \"auto\", \"io-uring\" or \"mmsg\""), "{text}");
        complaint(r#"{"settings": {"busyPoll": 65536}}"#);
        for (text, salsa) in [("auto", false), ("salsa2012-poly1305", true)] {
            assert_eq!(
                parse(&format!(r#"{{"settings": {{"suite": "{text}"}}}}"#)).expect("good").settings.salsa_only,
                salsa
            );
        }
        complaint(r#"{"settings": {"suite": "aes"}}"#);
    }

    #[test]
    fn more_trust_and_mtu_rules_than_the_bound_are_refused() {
        let nets: Vec<_> = (0..=MAX_PHYSICAL_RULES).map(|i| format!("\"10.{i}.0.0/16\": {{\"mtu\": 1400}}")).collect();
        let text = complaint(&format!("{{\"physical\": {{{}}}}}", nets.join(",")));
        assert!(text.contains("has 33 entries, at most 32"), "{text}");
    }
}
