//! `local.conf`: the operator's settings, as ZeroTierOne names them. A key that nobody knows is refused by its name, and
//! so is one whose effect this gateway cannot give: what the file says is what happens. Knows nothing of who acts on it.

pub mod bonding;
mod networks;
mod settings;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wire::Address;
use wire::endpoint::Prefix;

use values::{kind_of, object, unknown};

pub use settings::{Settings, warm_up};
pub use values::{nearest, parse_endpoint};

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
    /// ZeroTierOne knew it once.
    #[error("{key} in {place} is not read any more: {instead}")]
    Former {
        /// The key.
        key: String,
        /// Where in the file.
        place: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// Bonding settings that mean nothing, or contradict each other.
    #[error("settings: {0}")]
    Bonding(#[from] bonding::Refused),
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
            "physical" => conf.physical = networks::physical(object(value, key)?)?,
            "virtual" => conf.peers = networks::peers(object(value, key)?)?,
            "settings" => conf.settings = settings::settings(object(value, key)?)?,
            _ => return Err(unknown(key, "the top level", &["physical", "virtual", "settings"])),
        }
    }
    conf.raw = raw;
    Ok(conf)
}
