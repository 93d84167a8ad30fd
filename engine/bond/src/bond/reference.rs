//! `compat` mode: paths are judged, measured and queued by the reference's rules, from the rooms of [`crate::compat`].

use wire::Now;

use super::Bond;
use crate::compat;
use crate::compat::balance::Candidate;
use crate::compat::bonded_set::Member;
use crate::compat::eligibility::{Ages, Rules, Verdict};
use crate::compat::quality::Measured;
use crate::config::{LinkMode, Mode, Policy};
use crate::limits::*;
use crate::path::PathId;
use crate::plan::{CompatRules, PlanPath};

impl Bond {
    /// `compat`: judges every path by its ages, estimates quality, works the queue.
    pub(super) fn curate(&mut self, now: Now) {
        let us = now.mono_us;
        let p = &self.params;
        let rules = Rules {
            policy: p.policy,
            leaf: self.leaf,
            failover_interval: u64::from(p.failover_interval),
            up_delay: u64::from(p.up_delay),
            down_delay: u64::from(p.down_delay),
        };
        let mut removed = [None; PATHS_MAX];
        for (path, gone) in self.paths.iter_mut().zip(&mut removed) {
            let age = |t: u64| us.saturating_sub(t) / 1000;
            let h = &mut path.heard;
            let ages = Ages {
                heard: h.last_us.map_or(u64::MAX / 2, age),
                nominated: age(h.nominated_us),
                revived: h.revived_us.map(age),
                qos: path.reported_us.map(age),
                eligible: age(h.eligible_us),
            };
            match compat::eligibility::judge(rules, ages, path.link.ip, path.family) {
                Verdict::Removed => *gone = Some(path.id),
                Verdict::Kept { alive, eligible } => {
                    (h.alive, h.eligible) = (alive, eligible);
                    if eligible {
                        h.eligible_us = us;
                    }
                }
            }
        }
        for id in removed.into_iter().flatten() {
            self.forget(now, id);
        }
        if us.saturating_sub(self.estimated_us) > 2000 * u64::from(self.params.failover_interval) {
            self.estimated_us = us;
            self.estimate();
        }
        if self.params.policy == Policy::ActiveBackup {
            let paths = self.queue_paths();
            self.queue.tick(now.ms(), self.params.select, self.params.has_primary(), &paths);
        }
    }

    pub(super) fn estimate(&mut self) {
        let measured: Vec<Measured> = self
            .paths
            .iter()
            .map(|p| Measured {
                latency: p.reported.mean().unwrap_or(0.0),
                pdv: p.reported.deviation().unwrap_or(0.0),
                loss: p.tx.loss() as f32,
                error: 0.0,
                capacity: p.link.capacity,
                bonded: self.is_planned(p.id),
                before: p.quality.relative,
            })
            .collect();
        let mut qualities = Vec::with_capacity(measured.len());
        compat::quality::estimate(&self.params.quality, &measured, &mut qualities);
        for (path, quality) in self.paths.iter_mut().zip(qualities) {
            // Its mark stays as long as it is beyond. // defect B7
            path.avoid = quality.violates;
            path.quality = quality;
        }
    }

    /// What the shards need to decide as the reference does.
    pub(super) fn compat_rules(&self, paths: &[PlanPath]) -> Option<CompatRules> {
        if self.params.mode != Mode::Compat {
            return None;
        }
        let candidate = |p: &PlanPath| {
            let p = self.paths.get(p.id);
            Candidate {
                avoid: p.is_some_and(|p| p.avoid),
                capacity: p.and_then(|p| p.quality.capacity),
                quality: p.map_or(0.0, |p| p.quality.relative),
            }
        };
        let candidates = paths.iter().map(candidate).collect();
        Some(CompatRules { packets_per_link: self.params.packets_per_link, candidates })
    }

    pub(super) fn queue_paths(&self) -> Vec<Option<compat::active_backup::Path>> {
        let number = |name: &str| self.paths.iter().position(|p| &*p.link.name == name);
        let mut out = vec![None; PATHS_MAX];
        for p in self.paths.iter() {
            out[usize::from(p.id.slot)] = Some(compat::active_backup::Path {
                link: number(&p.link.name).unwrap_or(0),
                mode: p.link.mode,
                eligible: p.heard.eligible,
                permitted: p.link.ip.permits(p.family),
                preferred: p.heard.only || p.link.ip.prefers(p.family),
                failover_to: p.link.failover_to.as_deref().and_then(number),
                quality: p.quality.relative,
            });
        }
        out
    }

    /// The set of a balance policy by the reference's rule; broadcast: every path that was heard lately.
    pub(super) fn compat_members(&self, usable: &[PathId]) -> Vec<PathId> {
        if self.params.policy == Policy::Broadcast {
            return self.paths.iter().filter(|p| p.heard.alive).map(|p| p.id).collect();
        }
        let number = |name: &str| self.paths.iter().position(|p| &*p.link.name == name);
        // Defect B15, a set that is empty for one tick, is not repeated: primaries decide whether spares are needed.
        let primaries = self.paths.iter().any(|p| p.heard.eligible && p.link.mode == LinkMode::Primary);
        let members: Vec<Option<Member>> = self
            .paths
            .iter()
            .map(|p| {
                Some(Member {
                    link: number(&p.link.name).unwrap_or(0),
                    mode: p.link.mode,
                    ip: p.link.ip,
                    family: p.family,
                    only: p.heard.only,
                    alive: primaries,
                    eligible: p.heard.eligible && usable.contains(&p.id),
                    bonded: primaries,
                })
            })
            .collect();
        let ids: Vec<PathId> = self.paths.iter().map(|p| p.id).collect();
        let mut set = Vec::new();
        compat::bonded_set::rebuild(&members, &mut set);
        set.into_iter().map(|i| ids[i]).collect()
    }
}
