//! Whether a path is alive and may carry traffic, by the ages of what was heard on it. Knows no clock: ages come in.
// spec: bonding, "Alive, eligible, delays"

use crate::config::{Family, IpPreference, Policy};
use crate::limits::{INELIGIBLE_MS, QOS_AGE_MS, ROOT_ALIVE_MS, TRIAL_MS};

/// Milliseconds since things happened on one path. None: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Last datagram. (Ours counts authenticated packets only: defect B6.)
    pub heard: u64,
    /// It was nominated.
    pub nominated: u64,
    /// Newest packet that found it dead.
    pub revived: Option<u64>,
    /// Last QOS_MEASUREMENT.
    pub qos: Option<u64>,
    /// It was eligible last.
    pub eligible: u64,
}

/// The settings that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Of the bond.
    pub policy: Policy,
    /// Neither planet root nor moon root.
    pub leaf: bool,
    /// ms.
    pub failover_interval: u64,
    /// ms.
    pub up_delay: u64,
    /// ms.
    pub down_delay: u64,
}

/// What follows for one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forget it.
    Removed,
    /// Keep it.
    Kept {
        /// Heard of lately.
        alive: bool,
        /// May carry traffic.
        eligible: bool,
    },
}

/// Judges one path at a tick.
pub fn judge(rules: Rules, ages: Ages, ip: IpPreference, family: Family) -> Verdict {
    let trial = ages.nominated < TRIAL_MS;
    if ages.eligible > INELIGIBLE_MS && !trial {
        return Verdict::Removed;
    }
    let alive = ages.heard < if rules.leaf { rules.failover_interval } else { ROOT_ALIVE_MS };
    let fresh = if rules.leaf { ages.heard < rules.failover_interval + rules.down_delay } else { alive };
    let up = ages.revived.is_none_or(|ms| ms >= rules.up_delay);
    let measured = rules.policy == Policy::ActiveBackup || ages.qos.map_or(trial, |ms| ms < QOS_AGE_MS);
    Verdict::Kept { alive, eligible: ip.permits(family) && (trial || (fresh && up && measured)) }
}
