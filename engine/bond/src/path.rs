//! The paths of one bond, by identities that are never used twice: whoever holds one of a path that is gone holds nothing.
// defect B4: a stock bond names paths by slot

use std::fmt;

use crate::compat::quality::Quality;
use crate::config::{Family, LinkConfig, LinkMode};
use crate::delivery::Delivery;
use crate::limits::{PATHS_MAX, RATE_FIRST, RATE_MAX, RATE_MIN};
use crate::qos::Window;
use crate::tx::Tx;

/// Names one path of one bond, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId {
    /// Where it is: below [`PATHS_MAX`].
    pub slot: u8,
    /// Which of those that were ever there.
    pub generation: u32,
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// What is known of a path when it is learned.
#[derive(Clone, Debug)]
pub struct NewPath<'a> {
    /// Interface of its socket.
    pub link: &'a str,
    /// Address family.
    pub family: Family,
    /// The same number for the same socket address and remote endpoint, also after the path was forgotten and learned anew:
    /// flows find home by it.
    pub key: u64,
    /// Among equals of one link the lowest is used.
    pub remote_port: u16,
}

/// One path.
#[derive(Clone, Debug)]
pub struct BondPath {
    /// Its name.
    pub id: PathId,
    /// Its link, as the policy sees it.
    pub link: LinkConfig,
    /// Address family.
    pub family: Family,
    /// See [`NewPath::key`].
    pub key: u64,
    /// See [`NewPath::remote_port`].
    pub remote_port: u16,
    /// Whether what we send arrives.
    pub tx: Tx,
    /// Observed, bytes/s. None: nobody knows.
    pub rate: Option<f64>,
    /// Sent lately, bytes/s.
    pub load: f64,
    /// Flows on it, of all shards.
    pub flows: u32,
    /// Frames sent over it so far.
    pub sent_packets: u64,
    /// Their bytes on the wire.
    pub sent_bytes: u64,
    /// What arrives of it, if the remote says so.
    pub delivery: Delivery,
    /// Latency by the remote's timing reports, ms one way.
    pub reported: Window,
    /// Its last QOS_MEASUREMENT, us.
    pub reported_us: Option<u64>,
    /// Data packets since the last check of the negotiation.
    pub inbound: u64,
    /// See [`BondPath::inbound`].
    pub outbound: u64,
    /// What `compat` mode judges by.
    pub heard: Heard,
    /// What ICMP errors brought about.
    pub hinted: Hinted,
    /// Its last estimate, in `compat` mode.
    pub quality: Quality,
    /// Beyond a limit, in `compat` mode.
    pub avoid: bool,
}

/// When ICMP errors last had an effect, us.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hinted {
    /// The path became suspect.
    pub suspect_us: Option<u64>,
    /// It was asked.
    pub asked_us: Option<u64>,
}

impl Hinted {
    /// Whether that may be again now, which is noted.
    pub fn pass(last: &mut Option<u64>, now: u64, gap: u64) -> bool {
        let may = last.is_none_or(|at| now.saturating_sub(at) >= gap);
        if may {
            *last = Some(now);
        }
        may
    }
}

/// What came in, and what `compat` mode makes of it. Times are us.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The last authenticated packet.
    pub last_us: Option<u64>,
    /// The last answer to anything of ours.
    pub answered_us: Option<u64>,
    /// It was learned.
    pub nominated_us: u64,
    /// The newest packet that found it dead.
    pub revived_us: Option<u64>,
    /// It was eligible.
    pub eligible_us: u64,
    /// Heard of lately.
    pub alive: bool,
    /// May carry data.
    pub eligible: bool,
    /// No other path was ever on its link.
    pub only: bool,
}

impl Heard {
    /// Of a path that was just learned.
    pub fn new(now: u64, only: bool) -> Heard {
        Heard {
            last_us: Some(now),
            // That is how paths are learned.
            answered_us: Some(now),
            nominated_us: now,
            revived_us: None,
            eligible_us: now,
            alive: false,
            eligible: true,
            only,
        }
    }

    /// Its link is gone; that it is new does not protect it. // defect B5
    pub fn lost(&mut self) {
        (self.last_us, self.answered_us, self.nominated_us) = (None, None, 0);
        (self.alive, self.eligible) = (false, false);
    }

    /// An authenticated packet came in.
    pub fn packet(&mut self, now: u64) {
        if !self.alive {
            // Learning it is no revival.
            self.revived_us = (now != self.nominated_us && self.last_us != Some(self.nominated_us)).then_some(now);
        }
        self.last_us = Some(now);
    }
}

impl BondPath {
    /// Whether its link is only for when nothing else works.
    pub fn is_spare(&self) -> bool {
        self.link.mode == LinkMode::Spare
    }

    /// Whether its rate is no guess.
    pub fn is_measured(&self) -> bool {
        self.link.capacity > 0 || self.rate.is_some_and(f64::is_finite)
    }

    /// Rate to reckon with, bytes/s: what was observed and the operator allows (bits per second), or a guess.
    pub fn weight(&self) -> f64 {
        let said = (self.link.capacity > 0).then_some(self.link.capacity as f64 / 8.0);
        let observed = self.rate.filter(|r| r.is_finite());
        let rate = observed.map_or(said.unwrap_or(RATE_FIRST), |r| r.min(said.unwrap_or(RATE_MAX)));
        rate.clamp(RATE_MIN, RATE_MAX)
    }
}

/// All paths of one bond.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    slots: Vec<Option<BondPath>>,
    generations: u32,
}

impl Paths {
    /// Puts a path into the lowest free slot. None: all are taken.
    pub fn insert(&mut self, make: impl FnOnce(PathId) -> BondPath) -> Option<PathId> {
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.slots.len() < PATHS_MAX => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return None,
        };
        self.generations = self.generations.wrapping_add(1);
        let id = PathId { slot: slot as u8, generation: self.generations };
        self.slots[slot] = Some(make(id));
        Some(id)
    }

    /// Takes a path out.
    pub fn remove(&mut self, id: PathId) -> Option<BondPath> {
        self.get(id)?;
        self.slots[usize::from(id.slot)].take()
    }

    /// A path, if it is still that one.
    #[inline]
    pub fn get(&self, id: PathId) -> Option<&BondPath> {
        self.slots.get(usize::from(id.slot))?.as_ref().filter(|p| p.id == id)
    }

    /// See [`Paths::get`].
    #[inline]
    pub fn get_mut(&mut self, id: PathId) -> Option<&mut BondPath> {
        self.slots.get_mut(usize::from(id.slot))?.as_mut().filter(|p| p.id == id)
    }

    /// All, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &BondPath> + '_ {
        self.slots.iter().flatten()
    }

    /// See [`Paths::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut BondPath> + '_ {
        self.slots.iter_mut().flatten()
    }
}
