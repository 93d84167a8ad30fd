//! What the operator asked for: policies, links, which peer gets which. Values only: where they were written down (JSON,
//! flags) is the gateway's business. [`Bonding::read`] turns settings as written into settings that hold, and names every
//! one that does not; after that nothing is looked up by name again, so a typo is an error at load and never later.
// spec: bonding, "local.conf"

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::limits::*;

/// How the paths to one peer are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// As without a bond.
    #[default]
    None,
    /// One path, the others stand by.
    ActiveBackup,
    /// Everything over every link.
    Broadcast,
    /// Packets in turn.
    BalanceRr,
    /// Flows by their hash.
    BalanceXor,
    /// Flows by what the paths can carry.
    BalanceAware,
}

impl Policy {
    /// All, in the order of their codes.
    pub const ALL: [Policy; 6] = [
        Policy::None,
        Policy::ActiveBackup,
        Policy::Broadcast,
        Policy::BalanceRr,
        Policy::BalanceXor,
        Policy::BalanceAware,
    ];

    /// The number in `bondingPolicyCode`.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::ActiveBackup => "active-backup",
            Policy::Broadcast => "broadcast",
            Policy::BalanceRr => "balance-rr",
            Policy::BalanceXor => "balance-xor",
            Policy::BalanceAware => "balance-aware",
        }
    }

    /// The policy of a name. None if there is no such policy.
    pub fn from_name(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Whether flows or packets are spread over several paths.
    pub fn balances(self) -> bool {
        matches!(self, Policy::BalanceRr | Policy::BalanceXor | Policy::BalanceAware)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rules decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As ZeroTierOne 1.14 decides, as far as that harms nobody. // spec: bonding, sections 3 to 16
    Compat,
    /// Acknowledgements, measured rates, hysteresis. // spec: bonding, "A better bond on the same wire"
    #[default]
    Better,
}

/// When active-backup leaves a path that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SelectMethod {
    /// As soon as a preferred link is back.
    #[default]
    Always,
    /// When it is back and better.
    Better,
    /// Never.
    Failure,
    /// When another is better for some time.
    Optimize,
}

impl SelectMethod {
    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            SelectMethod::Always => "always",
            SelectMethod::Better => "better",
            SelectMethod::Failure => "failure",
            SelectMethod::Optimize => "optimize",
        }
    }

    /// The method of a name.
    pub fn from_name(name: &str) -> Option<SelectMethod> {
        [SelectMethod::Always, SelectMethod::Better, SelectMethod::Failure, SelectMethod::Optimize]
            .into_iter()
            .find(|m| m.name() == name)
    }
}

/// Whether a link is used while others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkMode {
    /// Used.
    Primary,
    /// Only when no primary works.
    Spare,
}

/// What `ipvPref` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IpPreference(pub u8);

/// Address family of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

// spec: bonding, "Links"
impl IpPreference {
    /// Whether the number is one of 0, 4, 6, 46, 64.
    pub fn is_known(self) -> bool {
        matches!(self.0, 0 | 4 | 6 | 46 | 64)
    }

    /// Whether paths of this family may be used. An unknown number permits neither.
    pub fn permits(self, family: Family) -> bool {
        match family {
            Family::V4 => matches!(self.0, 0 | 4 | 46 | 64),
            Family::V6 => matches!(self.0, 0 | 6 | 46 | 64),
        }
    }

    /// Whether paths of this family come before those of the other.
    pub fn prefers(self, family: Family) -> bool {
        match family {
            Family::V4 => matches!(self.0, 4 | 46),
            Family::V6 => matches!(self.0, 6 | 64),
        }
    }

    /// Whether one family comes before the other, and both may be used.
    pub fn ranks(self) -> bool {
        matches!(self.0, 46 | 64)
    }
}

/// One interface, as a policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The kernel's name of it, exactly.
    pub name: Arc<str>,
    /// Primary or spare.
    pub mode: LinkMode,
    /// Address families.
    pub ip: IpPreference,
    /// Relative or, in [`Mode::Better`], bits per second: a prior and an upper bound. 0 is unknown.
    pub capacity: u64,
    /// UDP payload limit. 0 is the default.
    pub mtu: u16,
    /// The link that takes over.
    pub failover_to: Option<Arc<str>>,
    /// What status shows as `enabled`. A stock node also clears it for links that it complains about, without effect.
    pub enabled: bool,
    /// Switched off by the operator: none of its paths is used. // defect B14: a stock node does not look
    pub off: bool,
}

impl LinkConfig {
    /// A link that no setting mentions.
    pub fn automatic(name: &str) -> LinkConfig {
        LinkConfig {
            name: name.into(),
            mode: LinkMode::Primary,
            ip: IpPreference(0),
            capacity: 0,
            mtu: 0,
            failover_to: None,
            enabled: true,
            off: false,
        }
    }
}

/// Limits beyond which a path is to be avoided, and what counts how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QualityLimits {
    /// ms.
    pub latency_max: f32,
    /// ms.
    pub pdv_max: f32,
    /// Ratio.
    pub loss_max: f32,
    /// Ratio.
    pub error_max: f32,
    /// Of latency, variance, loss, errors. They sum up to 1.
    pub weights: [f32; 4],
}

impl Default for QualityLimits {
    fn default() -> QualityLimits {
        QualityLimits { latency_max: 500.0, pdv_max: 100.0, loss_max: 0.001, error_max: 0.0001, weights: [0.25; 4] }
    }
}

/// What holds for one bond.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Which policy.
    pub policy: Policy,
    /// Under which rules.
    pub mode: Mode,
    /// ms.
    pub failover_interval: u32,
    /// ms.
    pub up_delay: u32,
    /// ms.
    pub down_delay: u32,
    /// Of active-backup.
    pub select: SelectMethod,
    /// Of balance-rr in compat mode.
    pub packets_per_link: u32,
    /// Of all balance policies.
    pub quality: QualityLimits,
    /// Only these. Empty: all interfaces there are.
    pub links: Vec<LinkConfig>,
}

impl Params {
    /// A standard policy with standard parameters.
    pub fn standard(policy: Policy, mode: Mode) -> Params {
        Params {
            policy,
            mode,
            failover_interval: FAILOVER_INTERVAL_MS,
            up_delay: 0,
            down_delay: 0,
            select: SelectMethod::Always,
            packets_per_link: PACKETS_PER_LINK,
            quality: QualityLimits::default(),
            links: Vec::new(),
        }
    }

    /// How this bond sees an interface. None: not at all.
    pub fn link(&self, name: &str) -> Option<LinkConfig> {
        if self.links.is_empty() {
            return Some(LinkConfig::automatic(name));
        }
        self.links.iter().find(|l| &*l.name == name && !l.off).cloned()
    }

    /// Whether some link is marked as primary by configuration.
    pub fn has_primary(&self) -> bool {
        self.links.iter().any(|l| l.mode == LinkMode::Primary && !l.off)
    }
}

/// A link as written.
#[derive(Clone, Debug, Default)]
pub struct LinkSettings {
    /// `mode`
    pub mode: Option<String>,
    /// `failoverTo`
    pub failover_to: Option<String>,
    /// `ipvPref`
    pub ip_preference: Option<i64>,
    /// `capacity`
    pub capacity: Option<i64>,
    /// `mtu`
    pub mtu: Option<i64>,
    /// `enabled`
    pub enabled: Option<bool>,
}

/// A policy as written.
#[derive(Clone, Debug, Default)]
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
    /// `links`
    pub links: BTreeMap<String, LinkSettings>,
}

/// All settings as written.
#[derive(Clone, Debug, Default)]
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

/// Something written that does not hold. What was done instead follows from the kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// A policy without `basePolicy`; it is skipped.
    NoBase(String),
    /// Its base is none of the five; it is skipped.
    UnknownBase(String),
    /// A custom policy has the name of a standard one; it is skipped.
    StandardName(String),
    /// The default names nothing that exists: no bond for peers without an own entry.
    UnknownDefault(String),
    /// A peer's entry names nothing that exists: it has no bond.
    UnknownPeerPolicy(u64, String),
    /// `failoverTo` on a spare link; dropped.
    SpareFailover(String),
    /// `failoverTo` names the link itself or one that is not listed; dropped.
    UnknownFailover(String, String),
    /// `ipvPref` is none of the five numbers. The link permits neither family.
    IpPreference(String, i64),
    /// `mode` is neither primary nor spare. The link is as one without mode.
    UnknownLinkMode(String, String),
    /// A select method that does not exist; `always` is used.
    UnknownSelect(String),
    /// `linkQuality` has an unknown key, a negative number, or weights of which none counts; the default is used.
    Quality(String),
    /// A number outside its bounds; the nearest bound is used.
    Clamped(&'static str, i64),
    /// More than [`LINKS_MAX`] links; the rest is dropped.
    TooManyLinks(String),
    /// All links of a policy are disabled: it can use no path.
    NoLink(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::NoBase(p) => write!(f, "policy {p} has no basePolicy"),
            Problem::UnknownBase(p) => write!(f, "policy {p}: basePolicy must be one of the five standard policies"),
            Problem::StandardName(p) => write!(f, "policy {p} is ignored: the name belongs to a standard policy"),
            Problem::UnknownDefault(p) => write!(f, "defaultBondingPolicy {p} does not exist: no bond by default"),
            Problem::UnknownPeerPolicy(a, p) => write!(f, "peer {a:010x}: policy {p} does not exist: no bond"),
            Problem::SpareFailover(l) => write!(f, "link {l}: a spare cannot have failoverTo"),
            Problem::UnknownFailover(l, to) => write!(f, "link {l}: failoverTo {to} is no other link of the policy"),
            Problem::IpPreference(l, n) => write!(f, "link {l}: ipvPref {n} is none of 0, 4, 6, 46, 64"),
            Problem::UnknownLinkMode(l, m) => write!(f, "link {l}: mode {m} is neither primary nor spare"),
            Problem::UnknownSelect(m) => write!(f, "{m} is none of always, better, failure, optimize"),
            Problem::Quality(p) => write!(f, "policy {p}: linkQuality cannot be used, the default is"),
            Problem::Clamped(key, n) => write!(f, "{key} {n} is out of bounds"),
            Problem::TooManyLinks(p) => write!(f, "policy {p} has more than {LINKS_MAX} links"),
            Problem::NoLink(p) => write!(f, "policy {p}: all its links are disabled"),
        }
    }
}

/// Settings that hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bonding {
    default: Option<Arc<Params>>,
    peers: BTreeMap<u64, Option<Arc<Params>>>,
}

impl Bonding {
    /// Judges settings.
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
            let params = match (custom.get(name.as_str()), settings.mode) {
                (Some(params), _) => Some(params.clone()),
                // Only custom policies can be named there; anything else is the default, if that is a standard one.
                (None, Mode::Compat) => standard(&settings.default),
                (None, Mode::Better) if name == "none" => None,
                (None, Mode::Better) => {
                    let found = standard(name);
                    if found.is_none() {
                        problems.push(Problem::UnknownPeerPolicy(address, name.clone()));
                    }
                    found
                }
            };
            peers.insert(address, params);
        }
        (Bonding { default, peers }, problems)
    }

    /// Whether any peer at all may get a bond.
    pub fn in_use(&self) -> bool {
        self.default.is_some() || self.peers.values().any(Option::is_some)
    }

    /// What holds for a peer. None: no bond.
    pub fn of(&self, address: u64) -> Option<Arc<Params>> {
        self.peers.get(&address).unwrap_or(&self.default).clone()
    }
}

fn read_policy(name: &str, written: &PolicySettings, mode: Mode, problems: &mut Vec<Problem>) -> Option<Params> {
    if Policy::from_name(name).is_some() {
        problems.push(Problem::StandardName(name.to_owned()));
        return None;
    }
    if written.base.is_none() {
        problems.push(Problem::NoBase(name.to_owned()));
    }
    let base = written.base.as_deref().and_then(Policy::from_name).filter(|p| *p != Policy::None);
    let Some(base) = base else {
        problems.push(Problem::UnknownBase(name.to_owned()));
        return None;
    };
    let mut params = Params::standard(base, mode);
    let mut delay = |key: &'static str, value: Option<i64>, default: u32, least: u32| match value {
        None => default,
        Some(n) if n < 0 => default,
        Some(n) => {
            let held = u32::try_from(n).unwrap_or(u32::MAX).clamp(least, DELAY_MAX_MS);
            if i64::from(held) != n && mode == Mode::Better {
                problems.push(Problem::Clamped(key, n));
            }
            held
        }
    };
    params.failover_interval =
        delay("failoverInterval", written.failover_interval, FAILOVER_INTERVAL_MS, FAILOVER_INTERVAL_MIN_MS);
    params.up_delay = delay("upDelay", written.up_delay, 0, 0);
    params.down_delay = delay("downDelay", written.down_delay, 0, 0);
    if mode == Mode::Better {
        params.packets_per_link = delay("packetsPerLink", written.packets_per_link, PACKETS_PER_LINK, 1);
    }
    let select = match mode {
        Mode::Compat => written.active_reselect.as_deref(),
        Mode::Better => written.active_reselect.as_deref().or(written.link_select_method.as_deref()),
    };
    if let Some(text) = select {
        params.select = SelectMethod::from_name(text).unwrap_or_else(|| {
            if mode == Mode::Better {
                problems.push(Problem::UnknownSelect(text.to_owned()));
            }
            SelectMethod::Always
        });
    }
    params.quality = read_quality(&written.quality, mode).unwrap_or_else(|| {
        if mode == Mode::Better {
            problems.push(Problem::Quality(name.to_owned()));
        }
        QualityLimits::default()
    });
    params.links = read_links(name, &written.links, mode, problems);
    Some(params)
}

/// None if it cannot be used. In `compat` mode all eight keys are needed and the weights must sum up to 1.
fn read_quality(written: &BTreeMap<String, f64>, mode: Mode) -> Option<QualityLimits> {
    const KEYS: [&str; 8] =
        ["lat_max", "pdv_max", "plr_max", "per_max", "lat_weight", "pdv_weight", "plr_weight", "per_weight"];
    if written.is_empty() {
        return Some(QualityLimits::default());
    }
    let usable = |(key, value): (&String, &f64)| KEYS.contains(&key.as_str()) && value.is_finite() && *value >= 0.0;
    if !written.iter().all(usable) || (mode == Mode::Compat && written.len() != KEYS.len()) {
        return None;
    }
    let default = QualityLimits::default();
    let limit = |key: &str, default: f32| written.get(key).map_or(default, |v| *v as f32);
    let mut weights = [4, 5, 6, 7].map(|k| limit(KEYS[k], default.weights[k - 4]));
    let sum: f32 = weights.iter().sum();
    match mode {
        Mode::Compat if sum > 0.99 && sum < 1.01 => {}
        Mode::Better if sum > 0.0 && sum.is_finite() => weights = weights.map(|w| w / sum),
        _ => return None,
    }
    let held = QualityLimits {
        latency_max: limit("lat_max", default.latency_max),
        pdv_max: limit("pdv_max", default.pdv_max),
        loss_max: limit("plr_max", default.loss_max),
        error_max: limit("per_max", default.error_max),
        weights,
    };
    // A limit of nothing would be a division by zero later.
    let limits = [held.latency_max, held.pdv_max, held.loss_max, held.error_max];
    limits.iter().all(|l| *l > 0.0 && l.is_finite()).then_some(held)
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
        let mut held = LinkConfig {
            name: name.as_str().into(),
            mode: match link.mode.as_deref() {
                Some("primary") => LinkMode::Primary,
                Some("spare") => LinkMode::Spare,
                Some(other) if mode == Mode::Better => {
                    problems.push(Problem::UnknownLinkMode(name.clone(), other.to_owned()));
                    otherwise
                }
                _ => otherwise,
            },
            ip: IpPreference(0),
            capacity: link.capacity.map_or(0, |n| u64::try_from(n).unwrap_or(0)),
            mtu: link.mtu.map_or(0, |n| u16::try_from(n).unwrap_or(0)),
            failover_to: None,
            enabled: link.enabled.unwrap_or(true),
            off: link.enabled == Some(false),
        };
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
            } else if mode == Mode::Better && (to == name || !written.contains_key(to)) {
                problems.push(Problem::UnknownFailover(name.clone(), to.to_owned()));
            } else {
                held.failover_to = Some(to.into());
            }
        }
        links.push(held);
    }
    if mode == Mode::Better && !links.is_empty() && links.iter().all(|l| l.off || !l.ip.is_known()) {
        problems.push(Problem::NoLink(policy.to_owned()));
    }
    links
}
