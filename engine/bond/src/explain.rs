//! Why something was decided: each decision is a value with the facts in it, and a bond keeps the last ones with their time.

use std::collections::VecDeque;
use std::fmt;

use wire::Now;

use crate::limits::DECISIONS_MAX;
use crate::path::PathId;

/// What was decided, and on what facts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// A path was learned.
    Learned(PathId),
    /// It was forgotten.
    Forgotten(PathId),
    /// Its first answer.
    Answers {
        /// Which.
        path: PathId,
        /// Round trip, us.
        rtt_us: u64,
    },
    /// A request is unanswered for too long.
    Suspect {
        /// Which.
        path: PathId,
        /// Age of the oldest unanswered request, us.
        age_us: u64,
        /// What would have been patience enough, us.
        rto_us: u64,
    },
    /// It answers again.
    Cleared(PathId),
    /// Suspicion was confirmed.
    Down {
        /// Which.
        path: PathId,
        /// Probes that stayed unanswered.
        probes: u8,
        /// For so long it was suspect, us.
        after_us: u64,
    },
    /// The kernel says that its link is gone.
    LinkLost(PathId),
    /// It came back.
    Up {
        /// Which.
        path: PathId,
        /// For so long it was down, us.
        after_us: u64,
    },
    /// It works, but failed too often lately.
    Held {
        /// Which.
        path: PathId,
        /// What the failures add up to.
        penalty: u32,
    },
    /// Another path is in use.
    Active {
        /// Before.
        from: Option<PathId>,
        /// Now.
        to: Option<PathId>,
        /// Why.
        why: Why,
    },
    /// The set of paths that share the traffic changed.
    Members {
        /// How many before.
        before: u8,
        /// How many now.
        now: u8,
    },
    /// The shares were set anew.
    Weights {
        /// Whose share changed most.
        path: PathId,
        /// To so many percent.
        share: u8,
    },
    /// A large flow is to leave a full path.
    Relief {
        /// Which is full.
        from: PathId,
        /// Where there is room.
        to: PathId,
    },
    /// All paths are suspect at once: it is probably the remote.
    AllSuspect,
    /// No path works, or none for long: data goes through a root.
    Relay,
    /// No more.
    Direct,
    /// We came to the path on which the remote sends.
    Yielded(PathId),
}

/// Why the active path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none.
    First,
    /// The one before does not work.
    Failed,
    /// A path that ranks before it is back.
    Preferred,
    /// Another was clearly faster for long.
    Faster,
    /// The operator asked for it.
    Rotated,
    /// The remote asked for it.
    Negotiated,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Why::First => "the first that works",
            Why::Failed => "the one before does not work",
            Why::Preferred => "it is preferred and works",
            Why::Faster => "it is clearly faster",
            Why::Rotated => "asked for",
            Why::Negotiated => "agreed with the remote",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ms = |us: &u64| *us as f64 / 1000.0;
        match self {
            Reason::Learned(p) => write!(f, "path {p}: learned"),
            Reason::Forgotten(p) => write!(f, "path {p}: forgotten"),
            Reason::Answers { path, rtt_us } => write!(f, "path {path}: answers in {:.1} ms", ms(rtt_us)),
            Reason::Suspect { path, age_us, rto_us } => {
                write!(f, "path {path}: suspect, no answer for {:.1} ms (limit {:.1} ms)", ms(age_us), ms(rto_us))
            }
            Reason::Cleared(p) => write!(f, "path {p}: answers again"),
            Reason::Down { path, probes, after_us } => {
                write!(f, "path {path}: down, {probes} probes unanswered in {:.1} ms", ms(after_us))
            }
            Reason::LinkLost(p) => write!(f, "path {p}: down, its link is gone"),
            Reason::Up { path, after_us } => write!(f, "path {path}: up after {:.1} s", ms(after_us) / 1000.0),
            Reason::Held { path, penalty } => write!(f, "path {path}: held back, it fails too often ({penalty})"),
            Reason::Active { from, to, why } => {
                let name = |p: &Option<PathId>| p.map_or("none".to_owned(), |p| p.to_string());
                write!(f, "active path {} -> {}: {why}", name(from), name(to))
            }
            Reason::Members { before, now } => write!(f, "{now} paths share the traffic, before {before}"),
            Reason::Weights { path, share } => write!(f, "path {path}: {share} % of the traffic"),
            Reason::Relief { from, to } => write!(f, "path {from} is full: a large flow goes to path {to}"),
            Reason::AllSuspect => f.write_str("all paths are suspect at once: the best is kept"),
            Reason::Relay => f.write_str("no path works: relayed"),
            Reason::Direct => f.write_str("a path works: not relayed any more"),
            Reason::Yielded(p) => write!(f, "path {p}: the remote prefers it"),
        }
    }
}

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// When.
    pub at: Now,
    /// Why, and so what.
    pub reason: Reason,
}

/// The last [`DECISIONS_MAX`] decisions of one bond.
#[derive(Clone, Debug, Default)]
pub struct DecisionLog {
    last: VecDeque<Decision>,
    total: u64,
}

impl DecisionLog {
    /// One more.
    pub fn note(&mut self, at: Now, reason: Reason) {
        if self.last.len() == DECISIONS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(Decision { at, reason });
        self.total += 1;
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Decision> + '_ {
        self.last.iter()
    }

    /// How many there ever were.
    pub fn total(&self) -> u64 {
        self.total
    }
}
