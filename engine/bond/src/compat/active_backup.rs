//! One path at a time, and a queue of those that would take over.
// spec: bonding, "active-backup"

use std::collections::VecDeque;

use crate::config::{LinkMode, SelectMethod};
use crate::limits::OPTIMIZE_HOLD_MS;

/// What the machine is told about a path. Its slot is its index.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Which link.
    pub link: usize,
    /// Of its link.
    pub mode: LinkMode,
    /// May carry traffic.
    pub eligible: bool,
    /// Its address family may be used on its link.
    pub permitted: bool,
    /// Its family comes first on its link, or it is alone there.
    pub preferred: bool,
    /// The link that takes over from its link.
    pub failover_to: Option<usize>,
    /// Relative quality.
    pub quality: f32,
}

/// Active path, queue, time of the last change.
#[derive(Clone, Debug, Default)]
pub struct ActiveBackup {
    active: Option<usize>,
    queue: VecDeque<usize>,
    changed_ms: u64,
}

impl ActiveBackup {
    /// The path in use.
    pub fn active(&self) -> Option<usize> {
        self.active
    }

    /// Those that wait, first first.
    pub fn queue(&self) -> impl Iterator<Item = usize> + '_ {
        self.queue.iter().copied()
    }

    /// A path is gone from its slot.
    pub fn removed(&mut self, slot: usize) {
        if self.active == Some(slot) {
            self.active = None;
        }
    }

    /// Takes the next in the queue on request. False when nobody waits.
    pub fn rotate(&mut self, now_ms: u64) -> bool {
        let Some(front) = self.queue.pop_front() else { return false };
        (self.active, self.changed_ms) = (Some(front), now_ms);
        true
    }

    /// One tick. `has_primary`: a link is marked primary by configuration; `paths` are by slot.
    ///
    /// Recorded with its defects (B8): scores round quality to 0 or 1, and only the front of the queue may come back. When
    /// no primary is eligible none is active, though spares wait (B3, recorded too); who asks for the path to send over
    /// uses [`ActiveBackup::choice`], which does not.
    pub fn tick(&mut self, now_ms: u64, select: SelectMethod, has_primary: bool, paths: &[Option<Path>]) {
        let path = |i: usize| paths.get(i).copied().flatten();
        let eligible = |i: usize| path(i).is_some_and(|p| p.eligible);
        let before = self.active;
        if self.active.is_some_and(|i| path(i).is_none()) {
            self.active = None;
        }
        if self.active.is_none() {
            self.active = first_active(has_primary, paths);
        }
        if self.active.is_none() {
            return;
        }
        self.queue.retain(|i| eligible(*i));
        let scores = self.score_and_join(select, paths);
        if !self.queue.is_empty() {
            if !self.active.is_some_and(eligible) {
                self.active = self.queue.pop_front();
            }
            if self.active != before {
                self.changed_ms = now_ms;
            }
            if let (Some(&front), Some(active)) = (self.queue.front(), self.active) {
                let primary = |i: usize| path(i).is_some_and(|p| p.mode == LinkMode::Primary);
                let primary_is_back = !primary(active) && primary(front);
                let change = match select {
                    SelectMethod::Always => primary_is_back,
                    SelectMethod::Better => primary_is_back && scores[front] > scores[active],
                    SelectMethod::Failure => false,
                    SelectMethod::Optimize => {
                        now_ms.saturating_sub(self.changed_ms) > OPTIMIZE_HOLD_MS && scores[front] > scores[active]
                    }
                };
                if change {
                    self.active = self.queue.pop_front();
                    self.changed_ms = now_ms;
                }
            }
        }
    }

    /// The path to send over: the active one or, where the reference would relay although paths wait, the first of those.
    pub fn choice(&self) -> Option<usize> {
        self.active.or_else(|| self.queue.front().copied())
    }

    fn score_and_join(&mut self, select: SelectMethod, paths: &[Option<Path>]) -> Vec<i32> {
        let named = paths.iter().flatten().any(|p| p.failover_to.is_some());
        let mut scores = vec![0i32; paths.len()];
        for (i, p) in paths.iter().enumerate() {
            let Some(p) = p.filter(|p| p.eligible && p.permitted) else { continue };
            if named {
                let h =
                    scores[i] + if p.preferred { 500 } else { 0 } + if p.mode == LinkMode::Primary { 1000 } else { 0 };
                if scores[i] == 0 {
                    scores[i] = if h == 0 { (255.0 * p.quality) as i32 } else { h };
                }
                if let Some(link) = p.failover_to {
                    for (score, other) in scores.iter_mut().zip(paths) {
                        if let Some(other) = other.filter(|o| o.link == link) {
                            *score = (*score).max(h - 10) - i32::from(!other.preferred);
                        }
                    }
                }
            } else {
                let bonus = match p {
                    Path { mode: LinkMode::Primary, .. } if select != SelectMethod::Optimize => 1000.0,
                    Path { preferred: true, .. } => 500.0,
                    _ => 0.0,
                };
                scores[i] = (p.quality + bonus) as i32;
            }
            if self.active != Some(i) && !self.queue.contains(&i) {
                self.queue.push_back(i);
            }
        }
        scores
    }
}

fn first_active(has_primary: bool, paths: &[Option<Path>]) -> Option<usize> {
    let eligible = || paths.iter().enumerate().filter_map(|(i, p)| p.filter(|p| p.eligible).map(|p| (i, p)));
    if !has_primary {
        return eligible().map(|(i, _)| i).next();
    }
    let primaries = || eligible().filter(|(_, p)| p.mode == LinkMode::Primary);
    primaries().find(|(_, p)| p.preferred).or_else(|| primaries().next_back()).map(|(i, _)| i)
}
