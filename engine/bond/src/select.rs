//! Which path a packet takes: a shard's own part of a bond. It reads the plan, keeps its flows, and neither allocates nor
//! locks. Everything that needs judgement was judged by whoever made the plan.

use std::sync::Arc;

use crate::compat::balance::{self, RoundRobin};
use crate::config::Policy;
use crate::flow_table::{Flow, FlowTable};
use crate::limits::{AVOID_GAP_US, LIGHT_SHARE, LIGHT_WINDOW_US, MOVE_AFTER_US, MOVE_GAP_US, MOVE_IDLE_US, NEAR_US};
use crate::path::PathId;
use crate::plan::{CompatRules, Plan};
use crate::rendezvous;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Over this path.
    Path(PathId),
    /// Over any of the plan's paths, as its striper says: one packet of a large flow.
    Striped,
    /// Over all of the plan's paths.
    Copies,
    /// Through a root.
    Relay,
    /// As without a bond.
    Unbonded,
}

/// What a shard did, for the tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows that were given a path.
    pub assigned: u64,
    /// Flows whose path was gone.
    pub rescued: u64,
    /// Flows that went home.
    pub returned: u64,
    /// Large flows that left a full path.
    pub relieved: u64,
    /// Packets that found no path.
    pub relayed: u64,
}

/// What flows that are not spread packet by packet carried of late.
#[derive(Clone, Copy, Debug, Default)]
struct Light {
    since_us: u64,
    bytes: usize,
    /// bytes/s.
    rate: f64,
}

impl Light {
    fn count(&mut self, len: usize, now_us: u64) {
        let took_us = now_us.saturating_sub(self.since_us);
        if took_us >= LIGHT_WINDOW_US {
            self.rate = self.bytes as f64 * 1e6 / took_us as f64;
            (self.bytes, self.since_us) = (0, now_us);
        }
        self.bytes += len;
    }
}

/// One shard's sending half of one bond.
#[derive(Clone, Debug)]
pub struct Selector {
    plan: Arc<Plan>,
    flows: FlowTable,
    light: Light,
    /// balance-rr: when each path of the plan will have sent what it was given, us.
    free_us: Vec<f64>,
    /// balance-rr of `compat` mode.
    turns: RoundRobin,
    moved_us: u64,
    avoided_us: u64,
    relieved: u64,
    counters: Counters,
}

impl Selector {
    /// With room for so many flows.
    pub fn new(plan: Arc<Plan>, flows: usize) -> Selector {
        let free_us = vec![0.0; plan.paths.len()];
        Selector {
            turns: turns(&plan),
            plan,
            flows: FlowTable::new(flows),
            light: Light::default(),
            free_us,
            moved_us: 0,
            avoided_us: 0,
            relieved: 0,
            counters: Counters::default(),
        }
    }

    /// A new plan.
    pub fn adopt(&mut self, plan: Arc<Plan>) {
        self.free_us.clear();
        self.free_us.resize(plan.paths.len(), 0.0);
        if plan.epoch != self.plan.epoch || plan.policy != self.plan.policy {
            self.turns = turns(&plan);
        }
        self.plan = plan;
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The flows.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// The way of one packet. `flow` is a hash of what orders packets: addresses, protocol, and ports or what there is
    /// instead; `len` its bytes.
    pub fn select(&mut self, flow: u64, len: usize, now_us: u64) -> Choice {
        let plan = &*self.plan;
        if plan.policy == Policy::None {
            return Choice::Unbonded;
        }
        let Some(first) = plan.paths.first() else {
            self.counters.relayed += 1;
            return Choice::Relay;
        };
        match plan.policy {
            Policy::None | Policy::ActiveBackup => return Choice::Path(first.id),
            Policy::Broadcast => return Choice::Copies,
            Policy::BalanceRr if plan.compat.is_some() => {
                let turn = self.turns.next(plan.paths.len(), |_| true).and_then(|i| plan.paths.get(i));
                return Choice::Path(turn.unwrap_or(first).id);
            }
            _ if plan.paths.len() == 1 => return Choice::Path(first.id),
            Policy::BalanceRr if plan.striping => return Choice::Striped,
            Policy::BalanceRr => return Choice::Path(self.in_turn(len, now_us)),
            Policy::BalanceXor | Policy::BalanceAware => {}
        }
        let (entry, new) = self.flows.entry(flow, now_us);
        let idle = now_us.saturating_sub(entry.last_us);
        let large = entry.count(now_us);
        entry.last_us = now_us.max(1);
        if let Some(rules) = &plan.compat {
            let home = compat_home(plan, rules, entry, new, flow);
            (entry.home, entry.epoch) = (home as u8, plan.epoch);
        } else if new || entry.epoch != plan.epoch {
            let far_us = far_us(plan, self.light.rate);
            let weights = plan.paths.iter().map(|p| (p.key, if p.delay_us > far_us { 0.0 } else { p.weight }));
            let home = rendezvous::choose(plan.secret, flow, weights).unwrap_or(0);
            (entry.home, entry.epoch) = (home as u8, plan.epoch);
        }
        let name = |id: PathId| (id.slot, id.generation);
        let home = plan.paths.get(usize::from(entry.home)).unwrap_or(first).id;
        let at = plan.paths.iter().position(|p| name(p.id) == entry.path);
        if large && plan.striping && plan.policy == Policy::BalanceAware {
            return Choice::Striped;
        }
        self.light.count(len, now_us);
        if new {
            entry.path = name(home);
            self.counters.assigned += 1;
            return Choice::Path(home);
        }
        let Some(at) = at else {
            entry.path = name(home);
            self.counters.rescued += 1;
            return Choice::Path(home);
        };
        if let Some(relief) = plan.relief.filter(|r| large && r.serial != self.relieved && usize::from(r.from) == at)
            && let Some(to) = plan.paths.get(usize::from(relief.to))
        {
            // It stays there: its home is where it was sent, until the paths change.
            (entry.path, entry.home) = (name(to.id), relief.to);
            self.relieved = relief.serial;
            self.counters.relieved += 1;
            return Choice::Path(to.id);
        }
        let here = plan.paths[at].id;
        if let Some(rules) = &plan.compat
            && let Some(to) = refuge(plan, rules, flow, at)
            && now_us.saturating_sub(self.avoided_us) > AVOID_GAP_US
        {
            let id = plan.paths[to].id;
            (entry.path, entry.origin, entry.home) = (name(id), name(id), to as u8);
            self.avoided_us = now_us;
            self.counters.relieved += 1;
            return Choice::Path(id);
        }
        if here == home {
            return Choice::Path(here);
        }
        // Home again: at once when nothing is on its way, else one flow at a time.
        let waited = now_us.saturating_sub(plan.since_us) > MOVE_AFTER_US;
        let in_turn = waited && now_us.saturating_sub(self.moved_us) > MOVE_GAP_US;
        if idle < MOVE_IDLE_US && !in_turn {
            return Choice::Path(here);
        }
        if idle < MOVE_IDLE_US {
            self.moved_us = now_us;
        }
        entry.path = name(home);
        self.counters.returned += 1;
        Choice::Path(home)
    }

    /// The path on which the packet arrives first, if all that went before is where we believe.
    fn in_turn(&mut self, len: usize, now_us: u64) -> PathId {
        let now = now_us as f64;
        let (mut best, mut best_at) = (0, f64::INFINITY);
        for (i, path) in self.plan.paths.iter().enumerate() {
            let at = self.free_us[i].max(now) + len as f64 * 1e6 / path.rate + path.delay_us as f64;
            if at < best_at {
                (best, best_at) = (i, at);
            }
        }
        let path = &self.plan.paths[best];
        // What was given faster than it can leave waits in the network; beyond 100 ms it is dropped there, not here.
        let free = self.free_us[best].max(now) + len as f64 * 1e6 / path.rate;
        self.free_us[best] = free.min(now + 100_000.0);
        path.id
    }
}

/// No flow gets a home that is farther than this, if flows that are not spread carry so many bytes/s. Where large flows are
/// spread over all paths, the others can do with the nearest, as long as they leave much of them free.
fn far_us(plan: &Plan, light: f64) -> u64 {
    if plan.policy != Policy::BalanceAware {
        return u64::MAX;
    }
    let far_us = plan.paths.iter().map(|p| p.delay_us).min().unwrap_or(0) + NEAR_US;
    let near: f64 = plan.paths.iter().filter(|p| p.delay_us <= far_us).map(|p| p.rate).sum();
    if light < LIGHT_SHARE * near { far_us } else { u64::MAX }
}

/// balance-rr as asked for; the machine takes one packet more than it is told. // defect B16
fn turns(plan: &Plan) -> RoundRobin {
    RoundRobin::new(plan.compat.as_ref().map_or(1, |c| c.packets_per_link).max(1) - 1)
}

/// Where a flow belongs under the rules of the reference: where it was first, as long as that path is there (defect B18: a
/// stock bond never moves it back), and else where it is, or where a new flow would go.
fn compat_home(plan: &Plan, rules: &CompatRules, entry: &mut Flow, new: bool, flow: u64) -> usize {
    if !new && entry.epoch == plan.epoch {
        return usize::from(entry.home);
    }
    let at = |path: (u8, u32)| plan.paths.iter().position(|p| (p.id.slot, p.id.generation) == path);
    let known = if new { None } else { at(entry.origin).or_else(|| at(entry.path)) };
    known.unwrap_or_else(|| {
        let home = assigned(plan, rules, flow);
        if new && let Some(path) = plan.paths.get(home) {
            entry.origin = (path.id.slot, path.id.generation);
        }
        home
    })
}

/// The index of the path that a new flow gets. // spec: bonding, "balance-xor", "balance-aware"
fn assigned(plan: &Plan, rules: &CompatRules, flow: u64) -> usize {
    // What identifies a flow is hashed first, and what is drawn follows from it. // defects B9, B10
    let mut draws = 0;
    let mut draw = || {
        draws += 1;
        rendezvous::hash(plan.secret, flow, draws)
    };
    let index = match plan.policy {
        Policy::BalanceAware => balance::aware(&rules.candidates, || draw() as u8),
        _ => balance::xor(draw() as u16, plan.paths.len()),
    };
    let n = plan.paths.len();
    let index = index.filter(|i| *i < n).unwrap_or(0);
    // What is drawn may be one to avoid though there are others.
    let usable = |i: &usize| plan.policy != Policy::BalanceAware || !rules.avoids(*i);
    (0..n).map(|k| (index + k) % n).find(usable).unwrap_or(index)
}

/// balance-aware: where a flow goes whose path is to be avoided. None if it is not, or all are.
fn refuge(plan: &Plan, rules: &CompatRules, flow: u64, at: usize) -> Option<usize> {
    if plan.policy != Policy::BalanceAware || !rules.avoids(at) {
        return None;
    }
    Some(assigned(plan, rules, flow)).filter(|i| !rules.avoids(*i))
}
