//! Which paths carry: who may, who is best, who takes over from whom, and who is left if none works. What the shards are told
//! of it is the business of `publish`.

use std::sync::Arc;

use wire::Now;

use super::{Bond, Rank, is_held};
use crate::config::{Mode, Policy, SelectMethod};
use crate::explain::{Reason, Why};
use crate::limits::*;
use crate::path::{BondPath, PathId};
use crate::tx::TxState;

impl Bond {
    pub(super) fn activate(&mut self, now: Now, to: Option<PathId>, why: Why) {
        if to != self.active {
            if why == Why::First {
                self.settling_us = now.mono_us + SETTLING_US;
            }
            self.optimized = match why {
                Why::Faster if now.mono_us >= self.settling_us => (self.optimized + 1).min(OPTIMIZE_DOUBLED_MAX),
                Why::First => 0,
                _ => self.optimized,
            };
            self.note(now, Reason::Active { from: self.active, to, why });
            (self.active, self.changed_us, self.forced) = (to, now.mono_us, false);
        }
    }

    /// Paths that may carry data, best first. // defect B8: a stock bond looks at the front of a queue only
    pub(super) fn ranked(&self, us: u64) -> Vec<PathId> {
        let mut order = Vec::new();
        self.rank_usable(us, &mut order);
        order.iter().map(|(_, id)| *id).collect()
    }

    /// The same, with what each is ranked by.
    fn rank_usable(&self, us: u64, order: &mut Vec<(Rank, PathId)>) {
        order.clear();
        order.extend(self.paths.iter().filter(|p| self.is_usable(p, us)).map(|p| (self.rank(p), p.id)));
        order.sort_unstable();
    }

    /// Whether a path may carry data now.
    pub fn is_usable(&self, path: &BondPath, us: u64) -> bool {
        if self.params.mode == Mode::Compat {
            return path.heard.eligible;
        }
        match path.tx.state() {
            TxState::Good => true,
            // A down delay is patience asked for by the operator.
            TxState::Suspect => us.saturating_sub(path.tx.since()) < u64::from(self.params.down_delay) * 1000,
            TxState::Probing | TxState::Down => false,
        }
    }

    /// The smaller, the better: by what the operator wants first, then by what was measured.
    fn rank(&self, path: &BondPath) -> Rank {
        let named = || self.paths.iter().any(|p| p.link.failover_to.as_ref() == Some(&path.link.name));
        let second_family = path.link.ip.ranks() && !path.link.ip.prefers(path.family);
        let spare = path.is_spare();
        (spare, spare && !named(), second_family, path.tx.rtt().unwrap_or(u64::MAX), path.remote_port)
    }

    /// Makes the plan that follows from everything known.
    pub(super) fn decide(&mut self, now: Now) {
        let us = now.mono_us;
        let mut order = std::mem::take(&mut self.scratch.order);
        self.rank_usable(us, &mut order);
        let mut usable = std::mem::take(&mut self.scratch.usable);
        usable.clear();
        usable.extend(order.iter().map(|(_, id)| *id));
        // Held back are those that fail too often, unless nobody else is there.
        let held = |id: &PathId| self.paths.get(*id).is_some_and(|p| is_held(p, us));
        if self.params.mode == Mode::Better && usable.iter().any(|id| !held(id)) {
            usable.retain(|id| !held(id));
        }
        let mut relay = false;
        if usable.is_empty() && self.params.mode == Mode::Better {
            let suspects = self.paths.iter().filter(|p| p.tx.state() == TxState::Suspect);
            // Who worked last: what took over for another has much to carry at once, and may be late for that.
            let latest = |p: &&BondPath| (p.tx.since(), std::cmp::Reverse(self.rank(p)));
            if let Some(best) = suspects.max_by_key(latest).map(|p| p.id) {
                if self.suspect_us.is_none() {
                    self.suspect_us = Some(us);
                    self.note(now, Reason::AllSuspect);
                }
                usable.push(best);
            } else if let Some(last) = self.last_resort(us).filter(|_| self.ready) {
                usable.push(last);
                relay = true;
            }
        } else {
            self.suspect_us = None;
        }
        relay |= self.suspect_us.is_some_and(|at| us.saturating_sub(at) >= RELAY_AFTER_US);
        if usable.is_empty() {
            relay = true;
        }
        let mut members = std::mem::take(&mut self.scratch.members);
        members.clear();
        match self.params.policy {
            Policy::None => {}
            Policy::ActiveBackup => members.extend(self.choose_active(now, &usable)),
            _ if self.params.mode == Mode::Compat => members.extend(self.compat_members(&usable)),
            Policy::Broadcast => self.one_per_link(&usable, &mut members),
            Policy::BalanceRr | Policy::BalanceXor | Policy::BalanceAware => {
                self.one_per_link(&usable, &mut members);
                let spare = |id: &PathId| self.paths.get(*id).is_some_and(BondPath::is_spare);
                if members.iter().any(|id| !spare(id)) {
                    members.retain(|id| !spare(id));
                }
            }
        }
        // In compat mode a bond without paths is bypassed; here that is so only until the first answer.
        self.ready = !members.is_empty() || (self.ready && self.params.mode == Mode::Better);
        let policy = if self.leaf && self.ready { self.params.policy } else { Policy::None };
        self.publish(now, policy, &members, relay && policy != Policy::None);
        (self.scratch.order, self.scratch.usable, self.scratch.members) = (order, usable, members);
    }

    /// What answered a moment ago, or was learned by an answer, if nothing works now: it may be all there is.
    // spec: bonding, "Gateway acceptance"
    fn last_resort(&self, us: u64) -> Option<PathId> {
        let fresh = |at: &u64| us.saturating_sub(*at) < LAST_RESORT_US;
        let answered = |p: &BondPath| p.tx.last_ack().max(p.heard.answered_us).filter(fresh);
        let latest = |p: &&BondPath| (answered(p), std::cmp::Reverse(self.rank(p)));
        self.paths.iter().filter(|p| answered(p).is_some()).max_by_key(latest).map(|p| p.id)
    }

    /// The best path of each link: more of one link are no more capacity.
    fn one_per_link(&self, usable: &[PathId], chosen: &mut Vec<PathId>) {
        // The paths of a link share its name.
        let link = |id: PathId| self.paths.get(id).map(|p| Arc::as_ptr(&p.link.name).cast::<u8>());
        for id in usable {
            if chosen.iter().any(|c| link(*c) == link(*id)) {
                continue;
            }
            // The one in use stays while it works and is not much slower: a change moves every flow.
            let rtt = |id: PathId| self.paths.get(id).and_then(|p| p.tx.rtt()).unwrap_or(u64::MAX);
            let used = usable.iter().copied().find(|u| link(*u) == link(*id) && self.is_planned(*u));
            let stays = used.filter(|u| rtt(*u) <= rtt(*id).saturating_add(rtt(*id) / 4).saturating_add(2000));
            chosen.push(stays.unwrap_or(*id));
        }
        chosen.sort_unstable();
    }

    pub(super) fn is_planned(&self, id: PathId) -> bool {
        self.plan.paths.iter().any(|p| p.id == id)
    }

    fn choose_active(&mut self, now: Now, usable: &[PathId]) -> Vec<PathId> {
        if self.params.mode == Mode::Compat {
            let slot = self.queue.choice();
            let id = slot.and_then(|s| self.paths.iter().find(|p| usize::from(p.id.slot) == s)).map(|p| p.id);
            let why = if self.active.is_none() { Why::First } else { Why::Failed };
            self.activate(now, id, why);
            return id.into_iter().collect();
        }
        let Some(&best) = usable.first() else {
            if self.active.is_some() {
                self.activate(now, None, Why::Failed);
            }
            return Vec::new();
        };
        match self.active.filter(|a| usable.contains(a)) {
            None => {
                let why = if self.active.is_none() { Why::First } else { Why::Failed };
                self.activate(now, Some(best), why);
            }
            Some(active) if best != active && !self.forced => {
                let (Some(a), Some(b)) = (self.paths.get(active), self.paths.get(best)) else { return vec![active] };
                let (a_rank, b_rank) = (self.rank(a), self.rank(b));
                let preferred = (b_rank.0, b_rank.1, b_rank.2) < (a_rank.0, a_rank.1, a_rank.2);
                let faster = b_rank.3 < a_rank.3;
                // What waits in the path in use because of its load would wait in the other one just so.
                let least = |p: &BondPath| p.tx.least_rtt().unwrap_or(u64::MAX);
                let much_faster = faster && least(b).saturating_mul(5) / 4 + 2000 < least(a);
                let hold_us = (OPTIMIZE_HOLD_MS * 1000) << self.optimized;
                let waited = now.mono_us.saturating_sub(self.changed_us) > hold_us;
                let settling = now.mono_us < self.settling_us;
                let why = match self.params.select {
                    _ if preferred && settling => Some(Why::Preferred),
                    _ if settling
                        && much_faster
                        && (a_rank.0, a_rank.1, a_rank.2) == (b_rank.0, b_rank.1, b_rank.2) =>
                    {
                        Some(Why::Faster)
                    }
                    SelectMethod::Always if preferred => Some(Why::Preferred),
                    SelectMethod::Better if preferred && faster => Some(Why::Preferred),
                    SelectMethod::Optimize if waited && much_faster => Some(Why::Faster),
                    _ => None,
                };
                if let Some(why) = why {
                    self.activate(now, Some(best), why);
                }
            }
            Some(_) => {}
        }
        self.active.into_iter().collect()
    }
}
