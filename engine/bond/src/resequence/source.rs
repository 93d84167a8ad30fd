//! Where one peer's frames come from: over which paths, and how late they are over the slower ones.

use super::PRESENT_US;
use crate::limits::{RESEQUENCE_HOLD_MAX_US, RESEQUENCE_PATHS_MAX};

/// A peer that was heard over several paths is taken for one that will be for this long: a flow is known then from its first
/// segment on, and not only from the first that overtakes. us.
const SEVERAL_US: u64 = 60_000_000;
/// How late segments were is remembered for one to two of these. us.
const WINDOW_US: u64 = 10_000_000;
/// From so many late segments on it is known how late they are.
const SAMPLES_MIN: u32 = 256;
/// Added to how late segments were. us.
const MARGIN_US: u64 = 5_000;

/// Over which paths one peer is heard, and how late segments come over the slower ones.
#[derive(Clone, Debug)]
pub struct Source<K> {
    /// Path, and when something last came by it.
    paths: [Option<(K, u64)>; RESEQUENCE_PATHS_MAX],
    last: u8,
    /// Several since and until then. us.
    pub(super) several_us: (u64, u64),
    /// The latest of this window and of the one before; the window began then. us.
    late_us: [u64; 2],
    since_us: u64,
    samples: u32,
}

impl<K: Copy + PartialEq> Source<K> {
    /// Heard over one path so far.
    pub fn new(now_us: u64, path: K) -> Source<K> {
        let mut paths = [None; RESEQUENCE_PATHS_MAX];
        paths[0] = Some((path, now_us));
        Source { paths, last: 0, several_us: (0, 0), late_us: [0; 2], since_us: now_us, samples: 0 }
    }

    /// Something came over a path. Its number, if several are in use of late.
    pub fn heard(&mut self, now_us: u64, path: K) -> Option<u8> {
        if !matches!(self.paths[usize::from(self.last)], Some((last, _)) if last == path) {
            let known = self.paths.iter().position(|p| matches!(p, Some((known, _)) if *known == path));
            let oldest = || (0..RESEQUENCE_PATHS_MAX).min_by_key(|i| self.paths[*i].map_or(0, |(_, at)| at + 1));
            // Those of a moment ago still count.
            let others = self.paths.iter().flatten().any(|(other, at)| *other != path && now_us <= at + PRESENT_US);
            self.last = known.or_else(oldest).unwrap_or(0) as u8;
            if others {
                let (since, until) = self.several_us;
                self.several_us = (if now_us < until { since } else { now_us }, now_us + SEVERAL_US);
            }
        }
        self.paths[usize::from(self.last)] = Some((path, now_us));
        (now_us < self.several_us.1).then_some(self.last)
    }

    /// How long a segment may wait. us.
    pub fn hold_us(&self) -> u64 {
        if self.samples < SAMPLES_MIN {
            return RESEQUENCE_HOLD_MAX_US;
        }
        let late = self.late_us[0].max(self.late_us[1]);
        (late + late / 4 + MARGIN_US).min(RESEQUENCE_HOLD_MAX_US)
    }

    pub(super) fn late(&mut self, now_us: u64, by_us: u64) {
        let windows = now_us.saturating_sub(self.since_us) / WINDOW_US;
        if windows > 0 {
            self.late_us = [0, if windows == 1 { self.late_us[0] } else { 0 }];
            self.since_us = now_us;
        }
        if windows > 1 {
            self.samples = 0; // of long ago
        }
        self.late_us[0] = self.late_us[0].max(by_us);
        self.samples = self.samples.saturating_add(1);
    }
}
