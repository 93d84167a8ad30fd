//! What the shards are told: an immutable snapshot, made by the control plane when something changed, and read by
//! [`Selector`](crate::select::Selector)s until the next one.

use crate::compat::balance::Candidate;
use crate::config::Policy;
use crate::path::PathId;

/// One path that may carry data.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanPath {
    /// Which.
    pub id: PathId,
    /// What flows find home by.
    pub key: u64,
    /// Share of the traffic, any unit.
    pub weight: f64,
    /// What it is believed to carry, bytes/s.
    pub rate: f64,
    /// One way, us.
    pub delay_us: u64,
}

/// One large flow is to leave a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relief {
    /// Each is carried out once.
    pub serial: u64,
    /// Index of the full path.
    pub from: u8,
    /// Index of the one with room.
    pub to: u8,
}

/// What [`crate::compat`] goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct CompatRules {
    /// Packets of a turn of balance-rr. // defect B16: a stock bond takes 65 whatever was asked for
    pub packets_per_link: u32,
    /// The plan's paths, as balance-aware sees them.
    pub candidates: Vec<Candidate>,
}

impl CompatRules {
    /// Whether no new flow should go to the path of this index.
    pub fn avoids(&self, path: usize) -> bool {
        self.candidates.get(path).is_some_and(|c| c.avoid)
    }
}

/// How data to one peer is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Counts plans.
    pub serial: u64,
    /// Counts plans whose paths differ from the one before. Only then do flows look for their home.
    pub epoch: u32,
    /// When that was, us.
    pub since_us: u64,
    /// By which policy.
    pub policy: Policy,
    /// Secret of the flows' hash.
    pub secret: u64,
    /// Those that may carry data. active-backup: the active one alone. broadcast: one per link.
    pub paths: Vec<PlanPath>,
    /// Large flows may be spread packet by packet: every path's estimates are fresh.
    pub striping: bool,
    /// The paths are in use at the rates given: who begins to spread flows begins beside others, with a share.
    pub busy: bool,
    /// See there.
    pub relief: Option<Relief>,
    /// Send through a root too, or only there if there are no paths.
    pub relay: bool,
    /// What is sent over these does not arrive: what left over them lately goes again, over another path.
    pub lost: Vec<PathId>,
    /// How long packets are kept for that: the longest RTO of the paths. 0: not at all. us.
    pub recall_us: u64,
    /// The remote reports when packets came: IDs and times of those sent are wanted.
    pub sampled: bool,
    /// The remote acknowledges no frames, so that none asks for it: it does not take us for a member of a network.
    pub mute: bool,
    /// Under [`Mode::Compat`](crate::config::Mode::Compat): what the reference decides by.
    pub compat: Option<CompatRules>,
}
