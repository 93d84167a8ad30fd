//! Settings as they were written, and what becomes of them. An entry that cannot hold is a [`Problem`]; whether it stops
//! the start or is a line in the log is said by [`Problem::is_error`]. Knows neither JSON nor flags.
// spec: bonding, "local.conf"

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Bonding, IpPreference, LinkConfig, LinkMode, Mode, Params, Policy, QualityLimits, SelectMethod};
use crate::limits::*;

/// A link as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkSettings {
    /// `mode`
    pub mode: Option<String>,
    /// `failoverTo`
    pub failover_to: Option<String>,
    /// `ipvPref`
    pub ip_preference: Option<i64>,
    /// `capacity`
    pub capacity: Option<i64>,
    /// `capacity` was written with a unit: it is in bits per second for sure.
    pub capacity_has_unit: bool,
    /// `mtu`
    pub mtu: Option<i64>,
    /// `enabled`
    pub enabled: Option<bool>,
}

/// A policy as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySettings {
    /// `basePolicy`
    pub base: Option<String>,
    /// `failoverInterval`
    pub failover_interval: Option<i64>,
    /// `upDelay`
    pub up_delay: Option<i64>,
    /// `downDelay`
    pub down_delay: Option<i64>,
    /// `packetsPerLink`
    pub packets_per_link: Option<i64>,
    /// `activeReselect`: what the reference reads.
    pub active_reselect: Option<String>,
    /// `linkSelectMethod`: what its documentation names.
    pub link_select_method: Option<String>,
    /// `linkQuality`
    pub quality: BTreeMap<String, f64>,
    /// `negotiate`: ours.
    pub negotiate: Option<bool>,
    /// `links`
    pub links: BTreeMap<String, LinkSettings>,
}

/// All settings as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `defaultBondingPolicy`
    pub default: String,
    /// `policies`
    pub policies: BTreeMap<String, PolicySettings>,
    /// `peerSpecificBonds`, by address.
    pub peers: BTreeMap<u64, String>,
    /// Under which rules.
    pub mode: Mode,
}

/// The members of `linkQuality`: four limits, then four weights.
pub const QUALITY_KEYS: [&str; 8] =
    ["lat_max", "pdv_max", "plr_max", "per_max", "lat_weight", "pdv_weight", "plr_weight", "per_weight"];

/// Something written that does not hold, and what holds instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// A policy without `basePolicy`; there is no such policy.
    NoBase(String),
    /// Its base, the second text, is none of the five; there is no such policy.
    UnknownBase(String, String),
    /// A custom policy has the name of a standard one, which stays as it is.
    StandardName(String),
    /// The default names nothing that exists: no bond for peers without an own entry.
    UnknownDefault(String),
    /// A peer's entry names nothing that exists: it has no bond.
    UnknownPeerPolicy(u64, String),
    /// In [`Mode::Compat`] a peer's entry names a policy that is not the operator's own: the default holds.
    PeerDefault(u64, String),
    /// A link without a name is no link.
    NoName(String),
    /// `failoverTo` on a spare link; dropped.
    SpareFailover(String),
    /// `failoverTo` names the link itself or one that is not listed; dropped.
    UnknownFailover(String, String),
    /// `ipvPref` is none of the five numbers. The link permits neither family.
    IpPreference(String, i64),
    /// `capacity` is so small, and without unit, that it can hardly be meant in bits per second.
    CapacityUnit(String, i64),
    /// `mode` is neither primary nor spare. The link is as one without mode.
    UnknownLinkMode(String, String),
    /// A policy's select method, the second text, does not exist; `always` is used.
    UnknownSelect(String, String),
    /// A policy has two spellings of the select method, and they differ; `activeReselect` is used.
    TwoSelects(String),
    /// `linkQuality` has a member of this name, which means nothing; the default is used.
    UnknownQuality(String, String),
    /// `linkQuality` has a number that is negative or no number, a limit of 0, or weights of which none counts; the
    /// default is used.
    Quality(String),
    /// A number (of a policy or link, by its key) outside its bounds; the last one is used.
    Clamped(String, &'static str, i64, u64),
    /// More than [`LINKS_MAX`] links; the rest is dropped.
    TooManyLinks(String),
    /// All links of a policy are disabled: it can use no path.
    NoLink(String),
    /// A policy's setting, by its key, has no effect, because of the last text.
    NoEffect(String, &'static str, &'static str),
}

impl Problem {
    /// Whether settings with it are to be refused: a name means nothing, or two entries contradict each other. The others
    /// leave settings that can be used, though not quite those that were written.
    pub fn is_error(&self) -> bool {
        !matches!(
            self,
            Problem::PeerDefault(..)
                | Problem::SpareFailover(..)
                | Problem::Clamped(..)
                | Problem::NoLink(..)
                | Problem::NoEffect(..)
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::NoBase(p) => write!(f, "policy {p} has no basePolicy"),
            Problem::UnknownBase(p, base) => {
                write!(f, "policy {p}: basePolicy {base:?} is none of the five standard policies")
            }
            Problem::StandardName(p) => write!(f, "policy {p}: the name belongs to a standard policy, take another"),
            Problem::UnknownDefault(p) => write!(f, "defaultBondingPolicy: policy {p} does not exist"),
            Problem::UnknownPeerPolicy(a, p) => write!(f, "peer {a:010x}: policy {p} does not exist"),
            Problem::PeerDefault(a, p) => {
                write!(f, "peer {a:010x}: {p} is no policy of your own: bondingMode compat takes a standard default")
            }
            Problem::NoName(p) => write!(f, "policy {p} has a link without a name"),
            Problem::SpareFailover(l) => write!(f, "link {l}: a spare cannot have failoverTo, it is left out"),
            Problem::UnknownFailover(l, to) => write!(f, "link {l}: failoverTo {to} is no other link of the policy"),
            Problem::IpPreference(l, n) => write!(f, "link {l}: ipvPref {n} is none of 0, 4, 6, 46, 64"),
            Problem::CapacityUnit(l, n) => write!(
                f,
                "link {l}: capacity {n} is in bits per second: write it in full (200000000) or with a unit (\"200M\")"
            ),
            Problem::UnknownLinkMode(l, m) => write!(f, "link {l}: mode {m} is neither primary nor spare"),
            Problem::UnknownSelect(p, m) => {
                write!(f, "policy {p}: {m} is none of always, better, failure, optimize")
            }
            Problem::TwoSelects(p) => write!(f, "policy {p}: activeReselect and linkSelectMethod differ, write one"),
            Problem::UnknownQuality(p, key) => write!(f, "policy {p}: linkQuality has no member {key:?}"),
            Problem::Quality(p) => {
                write!(f, "policy {p}: linkQuality needs limits above 0 and weights of 0 or more, one of them above 0")
            }
            Problem::Clamped(of, key, n, used) => write!(f, "{of}: {key} {n} is out of bounds, {used} is used"),
            Problem::TooManyLinks(p) => write!(f, "policy {p} has more than {LINKS_MAX} links"),
            Problem::NoLink(p) => write!(f, "policy {p}: all its links are disabled, nothing is bonded"),
            Problem::NoEffect(p, key, why) => write!(f, "policy {p}: {key} has no effect: {why}"),
        }
    }
}

impl Bonding {
    /// Judges settings. Those with an error among the problems are not to be used.
    pub fn read(settings: &Settings) -> (Bonding, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut custom = BTreeMap::new();
        for (name, written) in &settings.policies {
            if let Some(params) = read_policy(name, written, settings.mode, &mut problems) {
                custom.insert(name.as_str(), Arc::new(params));
            }
        }
        let standard = |name: &str| {
            let policy = Policy::from_name(name).filter(|p| *p != Policy::None)?;
            Some(Arc::new(Params::standard(policy, settings.mode)))
        };
        let default = match settings.default.as_str() {
            "" | "none" => None,
            name => {
                let found = standard(name).or_else(|| custom.get(name).cloned());
                if found.is_none() {
                    problems.push(Problem::UnknownDefault(name.to_owned()));
                }
                found
            }
        };
        let mut peers = BTreeMap::new();
        for (&address, name) in &settings.peers {
            let known = custom.contains_key(name.as_str()) || Policy::from_name(name).is_some();
            let params = match (custom.get(name.as_str()), settings.mode) {
                _ if !known => {
                    problems.push(Problem::UnknownPeerPolicy(address, name.clone()));
                    // To the reference anything that is no custom policy is the default, if that is a standard one.
                    if settings.mode == Mode::Compat { standard(&settings.default) } else { None }
                }
                (Some(params), _) => Some(params.clone()),
                _ if name == "none" => None,
                (None, Mode::Compat) => {
                    if *name != settings.default {
                        problems.push(Problem::PeerDefault(address, name.clone()));
                    }
                    standard(&settings.default)
                }
                (None, Mode::Better) => standard(name),
            };
            peers.insert(address, params);
        }
        (Bonding { default, peers }, problems)
    }
}

fn read_policy(name: &str, written: &PolicySettings, mode: Mode, problems: &mut Vec<Problem>) -> Option<Params> {
    if Policy::from_name(name).is_some() {
        problems.push(Problem::StandardName(name.to_owned()));
        return None;
    }
    let Some(base) = &written.base else {
        problems.push(Problem::NoBase(name.to_owned()));
        return None;
    };
    let Some(policy) = Policy::from_name(base).filter(|p| *p != Policy::None) else {
        problems.push(Problem::UnknownBase(name.to_owned(), base.clone()));
        return None;
    };
    let mut params = Params::standard(policy, mode);
    let subject = format!("policy {name}");
    let mut number = |key, value: Option<i64>, default: u32, least: u32| match value {
        None => default,
        Some(n) => {
            let held = if n < 0 { default } else { u32::try_from(n).unwrap_or(u32::MAX).clamp(least, DELAY_MAX_MS) };
            if i64::from(held) != n {
                problems.push(Problem::Clamped(subject.clone(), key, n, held.into()));
            }
            held
        }
    };
    params.failover_interval =
        number("failoverInterval", written.failover_interval, FAILOVER_INTERVAL_MS, FAILOVER_INTERVAL_MIN_MS);
    params.up_delay = number("upDelay", written.up_delay, 0, 0);
    params.down_delay = number("downDelay", written.down_delay, 0, 0);
    // The reference reads it and does not look at it. // defect B16
    params.packets_per_link = number("packetsPerLink", written.packets_per_link, PACKETS_PER_LINK, 1);
    params.select = read_select(name, written, mode, problems);
    params.quality = read_quality(name, &written.quality, mode, problems);
    params.negotiate = written.negotiate == Some(true) && policy == Policy::ActiveBackup;
    params.links = read_links(name, &written.links, mode, problems);
    say_what_has_no_effect(name, written, &params, problems);
    Some(params)
}

fn say_what_has_no_effect(name: &str, written: &PolicySettings, params: &Params, problems: &mut Vec<Problem>) {
    let compat = params.mode == Mode::Compat;
    let (backup, turns) = (params.policy == Policy::ActiveBackup, params.policy == Policy::BalanceRr);
    let mut note = |is_written: bool, key, why| {
        if is_written {
            problems.push(Problem::NoEffect(name.to_owned(), key, why));
        }
    };
    let packets = written.packets_per_link.is_some();
    note(packets && !turns, "packetsPerLink", "only balance-rr sends packets in turn");
    note(packets && turns && !compat, "packetsPerLink", "only bondingMode compat counts packets, better counts bytes");
    note(written.active_reselect.is_some() && !backup, "activeReselect", "only active-backup selects one path");
    note(written.link_select_method.is_some() && !backup, "linkSelectMethod", "only active-backup selects one path");
    let unread = backup && compat && written.link_select_method.is_some() && written.active_reselect.is_none();
    note(unread, "linkSelectMethod", "bondingMode compat reads activeReselect only");
    note(written.negotiate == Some(true) && !backup, "negotiate", "only active-backup agrees on one path");
    note(
        !written.quality.is_empty() && !compat,
        "linkQuality",
        "only bondingMode compat judges by it, better measures",
    );
}

fn read_select(name: &str, written: &PolicySettings, mode: Mode, problems: &mut Vec<Problem>) -> SelectMethod {
    let (read, named) = (written.active_reselect.as_deref(), written.link_select_method.as_deref());
    if read.is_some() && named.is_some() && read != named {
        problems.push(Problem::TwoSelects(name.to_owned()));
    }
    for text in [read, named].into_iter().flatten() {
        if SelectMethod::from_name(text).is_none() {
            problems.push(Problem::UnknownSelect(name.to_owned(), text.to_owned()));
        }
    }
    let text = if mode == Mode::Compat { read } else { read.or(named) };
    text.and_then(SelectMethod::from_name).unwrap_or_default()
}

/// In [`Mode::Compat`] all eight members are needed and the weights must sum up to 1, or it is as if nothing were written.
fn read_quality(
    policy: &str,
    written: &BTreeMap<String, f64>,
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> QualityLimits {
    let default = QualityLimits::default();
    if let Some(key) = written.keys().find(|key| !QUALITY_KEYS.contains(&key.as_str())) {
        problems.push(Problem::UnknownQuality(policy.to_owned(), key.clone()));
        return default;
    }
    let member = |key: usize, default: f32| written.get(QUALITY_KEYS[key]).map_or(default, |v| *v as f32);
    let mut weights = [4, 5, 6, 7].map(|key| member(key, default.weights[key - 4]));
    let limits = [
        member(0, default.latency_max),
        member(1, default.pdv_max),
        member(2, default.loss_max),
        member(3, default.error_max),
    ];
    let sum: f32 = weights.iter().sum();
    // A limit of nothing would be a division by zero later.
    let usable = limits.iter().all(|l| *l > 0.0 && l.is_finite())
        && weights.iter().all(|w| *w >= 0.0 && w.is_finite())
        && sum > 0.0
        && sum.is_finite();
    if !usable {
        problems.push(Problem::Quality(policy.to_owned()));
        return default;
    }
    if mode == Mode::Compat && !written.is_empty() {
        let whole = written.len() == QUALITY_KEYS.len() && sum > 0.99 && sum < 1.01;
        if !whole {
            let why = "bondingMode compat needs all eight members, and weights that sum up to 1";
            problems.push(Problem::NoEffect(policy.to_owned(), "linkQuality", why));
            return default;
        }
    } else {
        weights = weights.map(|w| w / sum);
    }
    let [latency_max, pdv_max, loss_max, error_max] = limits;
    QualityLimits { latency_max, pdv_max, loss_max, error_max, weights }
}

fn read_links(
    policy: &str,
    written: &BTreeMap<String, LinkSettings>,
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> Vec<LinkConfig> {
    if written.len() > LINKS_MAX {
        problems.push(Problem::TooManyLinks(policy.to_owned()));
    }
    let some_primary = written.values().any(|l| l.mode.as_deref() == Some("primary"));
    // A stock node takes links without mode for spares, also when there is no primary at all.
    let otherwise = if mode == Mode::Compat || some_primary { LinkMode::Spare } else { LinkMode::Primary };
    let mut links: Vec<LinkConfig> = Vec::new();
    for (name, link) in written.iter().take(LINKS_MAX) {
        if name.is_empty() {
            problems.push(Problem::NoName(policy.to_owned()));
        }
        let mut held = LinkConfig {
            name: name.as_str().into(),
            mode: match link.mode.as_deref() {
                None => otherwise,
                Some(text) => LinkMode::from_name(text).unwrap_or_else(|| {
                    problems.push(Problem::UnknownLinkMode(name.clone(), text.to_owned()));
                    otherwise
                }),
            },
            ip: IpPreference(0),
            capacity: read_capacity(name, link, mode, problems),
            mtu: 0,
            failover_to: None,
            enabled: link.enabled.unwrap_or(true),
            off: link.enabled == Some(false),
        };
        if let Some(n) = link.mtu.filter(|n| *n != 0) {
            held.mtu = n.clamp(LINK_MTU_MIN.into(), LINK_MTU_MAX.into()) as u16;
            if i64::from(held.mtu) != n {
                problems.push(Problem::Clamped(format!("link {name}"), "mtu", n, held.mtu.into()));
            }
        }
        if let Some(n) = link.ip_preference {
            // Anything but the five numbers permits neither family.
            held.ip = IpPreference(u8::try_from(n).unwrap_or(u8::MAX));
            if !held.ip.is_known() {
                problems.push(Problem::IpPreference(name.clone(), n));
                held.enabled = false;
            }
        }
        if let Some(to) = link.failover_to.as_deref().filter(|to| !to.is_empty()) {
            if held.mode == LinkMode::Spare {
                problems.push(Problem::SpareFailover(name.clone()));
                held.enabled = held.enabled && mode == Mode::Better;
            } else if to == name || !written.contains_key(to) {
                problems.push(Problem::UnknownFailover(name.clone(), to.to_owned()));
            } else {
                held.failover_to = Some(to.into());
            }
        }
        links.push(held);
    }
    if !links.is_empty() && links.iter().all(|l| l.off || !l.ip.is_known()) {
        problems.push(Problem::NoLink(policy.to_owned()));
    }
    links
}

/// Bits per second, or in [`Mode::Compat`] in any unit.
fn read_capacity(name: &str, link: &LinkSettings, mode: Mode, problems: &mut Vec<Problem>) -> u64 {
    let Some(n) = link.capacity.filter(|n| *n != 0) else { return 0 };
    let (least, most) = match mode {
        Mode::Better => (CAPACITY_MIN, CAPACITY_MAX),
        Mode::Compat => (0, i64::MAX as u64),
    };
    let held = u64::try_from(n).unwrap_or(0).clamp(least, most);
    if mode == Mode::Better && !link.capacity_has_unit && (1..CAPACITY_PLAIN_MIN as i64).contains(&n) {
        problems.push(Problem::CapacityUnit(name.to_owned(), n));
    } else if i64::try_from(held) != Ok(n) {
        problems.push(Problem::Clamped(format!("link {name}"), "capacity", n, held));
    }
    held
}
