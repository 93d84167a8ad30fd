//! What the operator asked for: policies, links, which peer gets which. Values only: where they were written down (JSON,
//! flags) is the gateway's business. [`Bonding::read`] turns settings as written into settings that hold, and names every
//! one that does not; after that nothing is looked up by name again, so a typo is an error at load and never later.
// spec: bonding, "local.conf"

#[cfg(test)]
mod tests;
mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use written::{LinkSettings, PolicySettings, Problem, QUALITY_KEYS, Settings};

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

impl Mode {
    /// Both.
    pub const ALL: [Mode; 2] = [Mode::Better, Mode::Compat];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Better => "better",
            Mode::Compat => "compat",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|m| m.name() == name)
    }
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
    /// All.
    pub const ALL: [SelectMethod; 4] =
        [SelectMethod::Always, SelectMethod::Better, SelectMethod::Failure, SelectMethod::Optimize];

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
        SelectMethod::ALL.into_iter().find(|m| m.name() == name)
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

impl LinkMode {
    /// Both.
    pub const ALL: [LinkMode; 2] = [LinkMode::Primary, LinkMode::Spare];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            LinkMode::Primary => "primary",
            LinkMode::Spare => "spare",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<LinkMode> {
        LinkMode::ALL.into_iter().find(|m| m.name() == name)
    }
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
    /// Of balance-rr in [`Mode::Compat`].
    pub packets_per_link: u32,
    /// Of all balance policies.
    pub quality: QualityLimits,
    /// Of active-backup: agree with the remote on one path.
    pub negotiate: bool,
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
            negotiate: false,
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

/// Settings that hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bonding {
    default: Option<Arc<Params>>,
    peers: BTreeMap<u64, Option<Arc<Params>>>,
}

impl Bonding {
    /// Whether any peer at all may get a bond.
    pub fn in_use(&self) -> bool {
        self.default.is_some() || self.peers.values().any(Option::is_some)
    }

    /// What holds for a peer. None: no bond.
    pub fn of(&self, address: u64) -> Option<Arc<Params>> {
        self.peers.get(&address).unwrap_or(&self.default).clone()
    }

    /// Names of the interfaces that some bond is to use, whether they are there or not.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        let params = self.peers.values().chain([&self.default]).flatten();
        params.flat_map(|p| &p.links).filter(|l| !l.off).map(|l| &*l.name)
    }
}
