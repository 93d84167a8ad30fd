//! Why something was decided: each decision is a value with the facts in it, and a bond keeps the last ones with their time.

use std::collections::VecDeque;
use std::fmt;

use wire::Now;
use wire::icmp::Cause;

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
    /// An ICMP error names a request of ours.
    Unreachable {
        /// Over which path it left.
        path: PathId,
        /// What the error says.
        cause: Cause,
    },
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

impl Reason {
    /// What kind it is, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Reason::Learned(_) => "learned",
            Reason::Forgotten(_) => "forgotten",
            Reason::Answers { .. } => "answers",
            Reason::Suspect { .. } => "suspect",
            Reason::Cleared(_) => "cleared",
            Reason::Down { .. } => "down",
            Reason::LinkLost(_) => "link-lost",
            Reason::Unreachable { .. } => "unreachable",
            Reason::Up { .. } => "up",
            Reason::Held { .. } => "held",
            Reason::Active { .. } => "active",
            Reason::Members { .. } => "members",
            Reason::Weights { .. } => "weights",
            Reason::Relief { .. } => "relief",
            Reason::AllSuspect => "all-suspect",
            Reason::Relay => "relay",
            Reason::Direct => "direct",
            Reason::Yielded(_) => "yielded",
        }
    }

    /// The path that it is about, or that is used from now on.
    pub fn path(&self) -> Option<PathId> {
        match *self {
            Reason::Learned(p) | Reason::Forgotten(p) | Reason::Cleared(p) => Some(p),
            Reason::LinkLost(p) | Reason::Yielded(p) => Some(p),
            Reason::Answers { path, .. } | Reason::Suspect { path, .. } | Reason::Down { path, .. } => Some(path),
            Reason::Unreachable { path, .. } => Some(path),
            Reason::Up { path, .. } | Reason::Held { path, .. } | Reason::Weights { path, .. } => Some(path),
            Reason::Active { to, .. } => to,
            Reason::Relief { to, .. } => Some(to),
            Reason::Members { .. } | Reason::AllSuspect | Reason::Relay | Reason::Direct => None,
        }
    }

    /// In words, with paths as `name` calls them.
    pub fn tell(&self, name: impl Fn(PathId) -> String) -> String {
        let ms = |us: u64| us as f64 / 1000.0;
        match *self {
            Reason::Learned(p) => format!("path {}: learned", name(p)),
            Reason::Forgotten(p) => format!("path {}: forgotten", name(p)),
            Reason::Answers { path, rtt_us } => format!("path {}: answers in {:.1} ms", name(path), ms(rtt_us)),
            Reason::Suspect { path, age_us, rto_us } => {
                let (age, limit) = (ms(age_us), ms(rto_us));
                format!("path {}: suspect, no answer for {age:.1} ms (limit {limit:.1} ms)", name(path))
            }
            Reason::Cleared(p) => format!("path {}: answers again", name(p)),
            Reason::Down { path, probes, after_us } => {
                format!("path {}: down, {probes} probes unanswered in {:.1} ms", name(path), ms(after_us))
            }
            Reason::LinkLost(p) => format!("path {}: down, its link is gone", name(p)),
            Reason::Unreachable { path, cause } => {
                format!("path {}: suspect, an ICMP error says: {cause}", name(path))
            }
            Reason::Up { path, after_us } => format!("path {}: up after {:.1} s", name(path), ms(after_us) / 1000.0),
            Reason::Held { path, penalty } => {
                format!("path {}: held back, it fails too often ({penalty})", name(path))
            }
            Reason::Active { from, to, why } => {
                let name = |p: Option<PathId>| p.map_or("none".to_owned(), &name);
                format!("active path {} -> {}: {why}", name(from), name(to))
            }
            Reason::Members { before, now } => format!("{now} paths share the traffic, before {before}"),
            Reason::Weights { path, share } => format!("path {}: {share} % of the traffic", name(path)),
            Reason::Relief { from, to } => {
                format!("path {} is full: a large flow goes to path {}", name(from), name(to))
            }
            Reason::AllSuspect => "all paths are suspect at once: the best is kept".to_owned(),
            Reason::Relay => "no path works: relayed".to_owned(),
            Reason::Direct => "a path works: not relayed any more".to_owned(),
            Reason::Yielded(p) => format!("path {}: the remote prefers it", name(p)),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.tell(|p| p.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_told_in_words_and_by_kind_and_path() {
        let path = |slot| PathId { slot, generation: 7 };
        let reason = Reason::Active { from: Some(path(0)), to: Some(path(1)), why: Why::Failed };
        assert_eq!(reason.to_string(), "active path 0.7 -> 1.7: the one before does not work");
        assert_eq!((reason.kind(), reason.path()), ("active", Some(path(1))));
        let named =
            Reason::Suspect { path: path(1), age_us: 61_000, rto_us: 50_040 }.tell(|p| format!("eth{}", p.slot));
        assert_eq!(named, "path eth1: suspect, no answer for 61.0 ms (limit 50.0 ms)");
        let said = Reason::Unreachable { path: path(1), cause: Cause::Host };
        assert_eq!(said.to_string(), "path 1.7: suspect, an ICMP error says: host unreachable");
        assert_eq!((said.kind(), said.path()), ("unreachable", Some(path(1))));
        assert_eq!((Reason::Relay.kind(), Reason::Relay.path()), ("relay", None));
    }
}
