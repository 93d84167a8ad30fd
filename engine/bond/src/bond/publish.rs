//! From the paths that carry to the plan that the shards get: weights, rates, what is to be sent again, which large flow leaves a
//! full path. A plan that says nothing new is not published.

use std::sync::Arc;

use wire::Now;

use super::{Bond, is_fresh, is_lost};
use crate::config::{Mode, Policy};
use crate::explain::Reason;
use crate::limits::*;
use crate::path::{BondPath, PathId};
use crate::plan::{Plan, PlanPath, Relief};
use crate::tx::TxState;

impl Bond {
    pub(super) fn publish(&mut self, now: Now, policy: Policy, members: &[PathId], relay: bool) {
        let us = now.mono_us;
        let old = self.plan.clone();
        let same = old.paths.len() == members.len() && old.paths.iter().zip(members).all(|(p, id)| p.id == *id);
        let by_weight = policy == Policy::BalanceAware;
        let path = |id: &PathId| {
            let p = self.paths.get(*id)?;
            let rate = p.weight();
            let before = old.paths.iter().find(|o| o.id == *id);
            let kept = before.filter(|o| (o.rate - rate).abs() <= WEIGHT_STEP * o.rate).map_or(rate, |o| o.rate);
            let delay = p.tx.rtt().unwrap_or(0) / 2;
            let delay_us =
                before.filter(|o| o.delay_us.abs_diff(delay) < 1000.max(delay / 8)).map_or(delay, |o| o.delay_us);
            Some(PlanPath { id: *id, key: p.key, weight: if by_weight { kept } else { 1.0 }, rate: kept, delay_us })
        };
        let mut paths = std::mem::take(&mut self.scratch.paths);
        paths.clear();
        paths.extend(members.iter().filter_map(path));
        // Its rate shows when it is used, and not before.
        let striping = self.params.mode == Mode::Better
            && members.len() > 1
            && members.iter().all(|id| self.paths.get(*id).is_some_and(|p| is_fresh(p, us)));
        let busy = striping && self.is_busy(members, old.busy);
        let mut lost: Vec<PathId> = self.paths.iter().filter(|p| is_lost(p)).map(|p| p.id).collect();
        lost.extend(&self.buried);
        // In steps of two, so that not every round trip is news.
        let rto = self.paths.iter().filter(|p| p.tx.state() == TxState::Good).map(|p| p.tx.rto()).max();
        // Also over the only path that is left, for what went with another's link.
        let several = self.paths.iter().count() > 1 || !lost.is_empty();
        let recalls = self.params.mode == Mode::Better && policy != Policy::None && several;
        let recall_us = rto.filter(|_| recalls).map_or(0, u64::next_power_of_two);
        let recent = |at: u64| us.saturating_sub(at) < QOS_AGE_MS * 1000;
        let sampled = self.params.mode == Mode::Compat || self.paths.iter().any(|p| p.reported_us.is_some_and(recent));
        let compat = self.compat_rules(&paths);
        let relief = self.relief(us, &paths).or(old.relief.filter(|_| same && self.loaded_us.is_some()));
        if same
            && paths == old.paths
            && policy == old.policy
            && relay == old.relay
            && striping == old.striping
            && busy == old.busy
            && relief == old.relief
            && lost == old.lost
            && recall_us == old.recall_us
            && sampled == old.sampled
            && self.mute == old.mute
            && compat == old.compat
        {
            self.scratch.paths = paths;
            return;
        }
        if !same {
            self.note(now, Reason::Members { before: old.paths.len() as u8, now: paths.len() as u8 });
        } else if by_weight && paths != old.paths {
            let sum: f64 = paths.iter().map(|p| p.weight).sum();
            let change =
                |p: &&PlanPath| old.paths.iter().find(|o| o.id == p.id).map_or(0.0, |o| (o.weight - p.weight).abs());
            if let Some(most) = paths.iter().max_by(|a, b| change(a).total_cmp(&change(b))) {
                let share = (100.0 * most.weight / sum.max(1.0)).round() as u8;
                self.note(now, Reason::Weights { path: most.id, share });
            }
        }
        if relay != old.relay && policy != Policy::None {
            self.note(now, if relay { Reason::Relay } else { Reason::Direct });
        }
        if let Some(r) = relief.filter(|r| Some(*r) != old.relief) {
            let (from, to) = (paths[usize::from(r.from)].id, paths[usize::from(r.to)].id);
            (self.relieved_us, self.relieved) = (us, Some((from, to)));
            self.note(now, Reason::Relief { from, to });
        }
        self.plan = Arc::new(Plan {
            serial: old.serial + 1,
            epoch: if same { old.epoch } else { old.epoch.wrapping_add(1) },
            since_us: if same { old.since_us } else { us },
            policy,
            secret: self.secret,
            paths,
            striping,
            busy,
            relief,
            relay,
            lost,
            recall_us,
            sampled,
            mute: self.mute,
            compat,
        });
    }

    /// Whether these paths carry much already, and all their rates are known.
    fn is_busy(&self, members: &[PathId], was: bool) -> bool {
        let share = BUSY[usize::from(was)];
        let of = |id: &PathId| self.paths.get(*id).and_then(|p| Some(p.load / p.rate?));
        members.iter().all(|id| of(id).is_some()) && members.iter().filter_map(of).any(|load| load > share)
    }

    /// One large flow leaves a path that is full for long while another has room.
    fn relief(&mut self, us: u64, paths: &[PlanPath]) -> Option<Relief> {
        if !self.params.policy.balances() || self.params.mode == Mode::Compat || paths.len() < 2 {
            return None;
        }
        // No path is full that nobody knows the rate of.
        if !paths.iter().all(|p| self.paths.get(p.id).is_some_and(BondPath::is_measured)) {
            self.loaded_us = None;
            return None;
        }
        let load = |p: &PlanPath| self.paths.get(p.id).map_or(0.0, |b| b.load / p.rate.max(RATE_MIN));
        let fullest = (0..paths.len()).max_by(|a, b| load(&paths[*a]).total_cmp(&load(&paths[*b])))?;
        let emptiest = (0..paths.len()).min_by(|a, b| load(&paths[*a]).total_cmp(&load(&paths[*b])))?;
        if load(&paths[fullest]) < LOAD_HIGH || load(&paths[emptiest]) > LOAD_LOW {
            self.loaded_us = None;
            return None;
        }
        let (from, to) = (paths[fullest].id, paths[emptiest].id);
        let after = us.saturating_sub(self.relieved_us);
        // A flow that fills whichever path it is on stays there.
        if self.relieved == Some((to, from)) && after < ELEPHANT_BACK_US {
            return None;
        }
        let since = self.loaded_us.filter(|l| l.0 == from).map_or(us, |l| l.1);
        self.loaded_us = Some((from, since));
        let due = us.saturating_sub(since) >= LOAD_FOR_US && after >= ELEPHANT_GAP_US;
        due.then_some(Relief { serial: us, from: fullest as u8, to: emptiest as u8 })
    }
}
