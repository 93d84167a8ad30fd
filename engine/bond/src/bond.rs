//! The state machine of one peer's bond: observations in, plan and reasons out.

use std::collections::VecDeque;
use std::sync::Arc;

use wire::Now;
use wire::icmp::Cause;
use wire::message::ReceiveReport;

use crate::compat;
use crate::compat::active_backup::ActiveBackup;
use crate::compat::balance::Candidate;
use crate::compat::bonded_set::Member;
use crate::compat::eligibility::{Ages, Rules, Verdict};
use crate::compat::quality::{Measured, Quality};
use crate::config::{LinkConfig, LinkMode, Mode, Params, Policy, SelectMethod};
use crate::delivery::Delivery;
use crate::explain::{Decision, DecisionLog, Reason, Why};
use crate::limits::*;
use crate::negotiation::{Negotiation, Step};
use crate::path::{BondPath, Heard, Hinted, NewPath, PathId, Paths};
use crate::plan::{CompatRules, Plan, PlanPath, Relief};
use crate::qos::Window;
use crate::tx::{Event, Tx, TxState};

/// Why a path is not taken into a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The policy lists links, and not this one, or it is switched off.
    Link,
    /// Its address family may not be used on its link.
    Family,
    /// It is there already.
    Known(PathId),
    /// All slots are taken.
    Full,
}

/// What the node should send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request that is acknowledged, on this path; then say [`Bond::requested`].
    Probe(PathId),
    /// A PATH_NEGOTIATION_REQUEST on this path.
    Negotiate(PathId, i16),
}

/// What follows from an ICMP error, which anyone can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// It quotes a request of ours that is not answered yet: the path is suspect.
    Suspect,
    /// It may be so: the path is to be asked now.
    Ask,
    /// Nothing: it says what is known, or was said too often.
    Nothing,
}

/// What shards and node saw of one path since the last tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// Rate that the path was seen to carry, bytes/s.
    pub rate: Option<f64>,
    /// Sent over it, bytes/s.
    pub load: f64,
    /// Data packets received over it.
    pub inbound: u64,
    /// Data packets sent over it.
    pub outbound: u64,
}

/// What was refused or did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Paths refused because of their link.
    pub refused_link: u64,
    /// Because of their address family.
    pub refused_family: u64,
    /// Because all slots are taken.
    pub refused_full: u64,
    /// Acknowledgements that belong to nothing.
    pub unknown_acks: u64,
    /// Things said of paths that are gone.
    pub stale: u64,
    /// Timing reports that are no latency.
    pub absurd_samples: u64,
    /// Negotiation requests beyond the gate.
    pub gated: u64,
}

/// What a path ranks by, see [`Bond::rank`].
type Rank = (bool, bool, bool, u64, u16);

/// What every decision needs room for.
#[derive(Default)]
struct Scratch {
    order: Vec<(Rank, PathId)>,
    usable: Vec<PathId>,
    members: Vec<PathId>,
    paths: Vec<PlanPath>,
}

/// One peer's bond.
pub struct Bond {
    params: Arc<Params>,
    leaf: bool,
    secret: u64,
    paths: Paths,
    plan: Arc<Plan>,
    log: DecisionLog,
    counters: Counters,
    active: Option<PathId>,
    /// The path over which data of the remote came last.
    inbound: Option<PathId>,
    /// The operator chose the active path; it stays until it fails.
    forced: bool,
    changed_us: u64,
    /// Until then the first choice may be corrected: who answers first need not be who is preferred.
    settling_us: u64,
    /// Times in a row that another path was taken because it was faster.
    optimized: u32,
    /// Some path has worked. Before that the peer is served as without a bond.
    ready: bool,
    suspect_us: Option<u64>,
    loaded_us: Option<(PathId, u64)>,
    relieved_us: u64,
    /// The last large flow that was moved: from there to here.
    relieved: Option<(PathId, PathId)>,
    negotiation: Negotiation,
    negotiation_gate: compat::gate::BurstGate,
    negotiates: bool,
    queue: ActiveBackup,
    estimated_us: u64,
    ticked_us: u64,
    /// What came since the last tick changes what may be done with a path.
    news: bool,
    scratch: Scratch,
    /// The remote said what came of ours.
    reports: bool,
    mute: bool,
    /// The last paths that were given up for lost and then forgotten.
    buried: VecDeque<PathId>,
    /// How the last paths that failed and were then forgotten failed, by their keys: one that comes back with its link is as
    /// little to be trusted as one that never went.
    failed: VecDeque<(u64, Tx)>,
}

impl Bond {
    /// Without paths. `secret` is random; `leaf`: the peer is no root; `remote_greater`: its address is greater than ours.
    pub fn new(now: Now, params: Arc<Params>, leaf: bool, remote_greater: bool, secret: u64) -> Bond {
        let plan = Plan { secret, ..Plan::default() };
        Bond {
            leaf,
            secret,
            paths: Paths::default(),
            plan: Arc::new(plan),
            log: DecisionLog::default(),
            counters: Counters::default(),
            active: None,
            inbound: None,
            forced: false,
            changed_us: now.mono_us,
            settling_us: 0,
            optimized: 0,
            ready: false,
            suspect_us: None,
            loaded_us: None,
            relieved_us: 0,
            relieved: None,
            negotiation: Negotiation::new(now.ms(), remote_greater),
            negotiation_gate: compat::gate::BurstGate::negotiation(),
            negotiates: false,
            queue: ActiveBackup::default(),
            estimated_us: 0,
            ticked_us: now.mono_us,
            news: false,
            scratch: Scratch::default(),
            reports: false,
            mute: false,
            buried: VecDeque::new(),
            failed: VecDeque::new(),
            params,
        }
    }

    /// Whether paths are negotiated with the remote. Off unless asked for.
    pub fn negotiate(&mut self, on: bool) {
        self.negotiates = on;
    }

    /// Whether the remote leaves frames unanswered that ask for acknowledgement. The next tick puts it into the plan.
    pub fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// What holds for it.
    pub fn params(&self) -> &Arc<Params> {
        &self.params
    }

    /// The present plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The paths.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The last decisions, oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> + '_ {
        self.log.iter()
    }

    /// How many decisions there ever were.
    pub fn decisions_total(&self) -> u64 {
        self.log.total()
    }

    /// active-backup: the path in use, and since when, us.
    pub fn active(&self) -> Option<(PathId, u64)> {
        self.active.map(|id| (id, self.changed_us))
    }

    /// Flows that are on a path, of all shards.
    pub fn flows(&mut self, id: PathId, count: u32) {
        match self.paths.get_mut(id) {
            Some(path) => path.flows = count,
            None => self.counters.stale += 1,
        }
    }

    /// Frames that left over a path, and their bytes.
    pub fn sent(&mut self, now: Now, id: PathId, packets: u64, bytes: u64) {
        match self.paths.get_mut(id) {
            Some(path) => {
                // Nobody counts against us who never said so.
                if self.reports {
                    path.delivery.sent(now, packets, bytes);
                }
                path.sent_packets += packets;
                path.sent_bytes += bytes;
            }
            None => self.counters.stale += 1,
        }
    }

    /// A receive report of the remote. False if it says what cannot be.
    pub fn report(&mut self, now: Now, id: PathId, report: &ReceiveReport) -> bool {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return true;
        };
        self.reports = true;
        let good = path.delivery.reported(now, path.tx.rtt().unwrap_or(0), report);
        // What arrives is carried, whatever was believed.
        if let Some(arrives) = path.delivery.rate(now).filter(|rate| path.rate.is_some_and(|known| known < *rate)) {
            path.rate = Some(arrives.clamp(RATE_MIN, RATE_MAX));
        }
        good
    }

    /// What was refused.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A path was learned.
    pub fn learn(&mut self, now: Now, new: NewPath<'_>) -> Result<PathId, Refused> {
        if let Some(known) = self.paths.iter().find(|p| p.key == new.key) {
            return Err(Refused::Known(known.id));
        }
        let Some(link) = self.params.link(new.link) else {
            self.counters.refused_link += 1;
            return Err(Refused::Link);
        };
        if !link.ip.permits(new.family) {
            self.counters.refused_family += 1;
            return Err(Refused::Family);
        }
        let beside = self.paths.iter().find(|p| p.link.name == link.name).map(|p| p.link.name.clone());
        let alone = beside.is_none();
        // A link that no setting mentions gets its name anew each time.
        let link = LinkConfig { name: beside.unwrap_or(link.name.clone()), ..link };
        let at = self.failed.iter().position(|(key, _)| *key == new.key);
        let failed = at.and_then(|at| self.failed.remove(at)).map(|(_, tx)| tx);
        let failed = failed.filter(|tx| now.mono_us.saturating_sub(tx.since()) < INELIGIBLE_MS * 1000);
        let make = |id| BondPath {
            id,
            family: new.family,
            key: new.key,
            remote_port: new.remote_port,
            tx: failed.clone().unwrap_or_else(|| Tx::new(now.mono_us)),
            rate: None,
            load: 0.0,
            flows: 0,
            sent_packets: 0,
            sent_bytes: 0,
            delivery: Delivery::default(),
            reported: Window::default(),
            reported_us: None,
            inbound: 0,
            outbound: 0,
            heard: Heard::new(now.mono_us, alone),
            hinted: Hinted::default(),
            quality: Quality::default(),
            avoid: false,
            link,
        };
        let Some(id) = self.paths.insert(make) else {
            self.counters.refused_full += 1;
            return Err(Refused::Full);
        };
        if !alone {
            let name = self.paths.get(id).map(|p| p.link.name.clone());
            for p in self.paths.iter_mut().filter(|p| Some(&p.link.name) == name.as_ref()) {
                p.heard.only = false;
            }
        }
        self.note(now, Reason::Learned(id));
        if self.ready && self.plan.paths.is_empty() {
            self.decide(now);
        }
        Ok(id)
    }

    /// A path is gone for good: its socket was closed or it expired. The plan changes in the same instant.
    pub fn forget(&mut self, now: Now, id: PathId) {
        let Some(path) = self.paths.remove(id) else {
            self.counters.stale += 1;
            return;
        };
        if is_lost(&path) || self.is_planned(id) {
            if self.buried.len() == BURIED_MAX {
                self.buried.pop_front();
            }
            self.buried.push_back(id);
        }
        if path.tx.state() == TxState::Down && path.tx.rtt().is_some() {
            if self.failed.len() == PATHS_MAX {
                self.failed.pop_front();
            }
            self.failed.push_back((path.key, path.tx));
        }
        self.queue.removed(usize::from(id.slot));
        self.note(now, Reason::Forgotten(id));
        self.decide(now);
    }

    /// The kernel says that nothing leaves by this path: carrier, address or route lost. The plan changes in the same instant.
    pub fn link_lost(&mut self, now: Now, id: PathId) {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return;
        };
        path.heard.lost();
        if path.tx.link_lost(now.mono_us) {
            self.note(now, Reason::LinkLost(id));
            self.decide(now);
        }
    }

    /// An ICMP error says that a datagram which left by this path was not delivered; `packet_id`: of that datagram, if it is
    /// quoted. Never more than a hint: who sees nothing of ours cannot name a request, and who does is believed seldom.
    pub fn unreachable(&mut self, now: Now, id: PathId, packet_id: Option<u64>, cause: Cause) -> Hint {
        let us = now.mono_us;
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return Hint::Nothing;
        };
        // The reference hears no errors.
        if self.params.mode == Mode::Compat || path.tx.state() != TxState::Good {
            return Hint::Nothing;
        }
        if packet_id.is_some_and(|named| path.tx.awaits(named))
            && Hinted::pass(&mut path.hinted.suspect_us, us, HINT_AGAIN_US)
        {
            path.tx.doubt(us);
            self.note(now, Reason::Unreachable { path: id, cause });
            self.decide(now);
            return Hint::Suspect;
        }
        if Hinted::pass(&mut path.hinted.asked_us, us, HINT_GAP_US) { Hint::Ask } else { Hint::Nothing }
    }

    /// An authenticated packet came in, no repeat. True if the path was taken for dead: then a tick is due.
    pub fn heard(&mut self, now: Now, id: PathId) -> bool {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return false;
        };
        path.heard.packet(now.mono_us);
        self.params.mode == Mode::Better && path.tx.heard()
    }

    /// An answer came in to something that the bond was not told of. It proves the path, but measures nothing.
    pub fn answered(&mut self, now: Now, id: PathId) {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return;
        };
        path.heard.answered_us = Some(now.mono_us);
        if self.ready && self.plan.paths.is_empty() {
            self.decide(now);
        }
    }

    /// A packet left that will be acknowledged: data that asks for it, or a probe.
    pub fn requested(&mut self, now: Now, id: PathId, packet_id: u64, probe: bool) {
        match self.paths.get_mut(id) {
            Some(path) => path.tx.requested(now.mono_us, packet_id, probe),
            None => self.counters.stale += 1,
        }
    }

    /// It was acknowledged.
    pub fn acked(&mut self, now: Now, id: PathId, packet_id: u64) {
        let up_delay = u64::from(self.params.up_delay) * 1000;
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return;
        };
        let unknown = path.tx.unknown();
        let was_fresh = is_fresh(path, now.mono_us);
        let event = path.tx.acked(now.mono_us, packet_id, up_delay);
        self.news |= !was_fresh;
        self.counters.unknown_acks += path.tx.unknown() - unknown;
        if let Some(event) = event {
            self.note_event(now, id, event);
            self.decide(now);
        } else if self.plan.paths.is_empty() {
            self.decide(now);
        }
    }

    /// It was acknowledged, whichever path the request had taken. False if none of ours is known by that ID.
    pub fn acknowledged(&mut self, now: Now, packet_id: u64) -> bool {
        let Some(id) = self.paths.iter().find(|p| p.tx.awaits(packet_id)).map(|p| p.id) else { return false };
        self.acked(now, id, packet_id);
        true
    }

    /// The remote reports on this path, whether or not it says anything that we can use.
    pub fn report_came(&mut self, now: Now, id: PathId) {
        match self.paths.get_mut(id) {
            Some(path) => path.reported_us = Some(now.mono_us),
            None => self.counters.stale += 1,
        }
    }

    /// A timing report of the remote: round trips of its measuring loop, us.
    pub fn reported(&mut self, now: Now, id: PathId, round_us: i64) {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return;
        };
        path.reported_us = Some(now.mono_us);
        match u64::try_from(round_us / 2) {
            Ok(us) if us <= LATENCY_MAX_US => path.reported.push(us as f32 / 1000.0),
            _ => self.counters.absurd_samples += 1,
        }
    }

    /// What was seen of a path since the last tick.
    pub fn observe(&mut self, id: PathId, seen: Observed) {
        let Some(path) = self.paths.get_mut(id) else {
            self.counters.stale += 1;
            return;
        };
        if let Some(rate) = seen.rate.filter(|r| r.is_finite() && *r > 0.0) {
            path.rate = Some(rate.clamp(RATE_MIN, RATE_MAX));
        }
        path.load = if seen.load.is_finite() { seen.load.clamp(0.0, RATE_MAX) } else { 0.0 };
        path.inbound += seen.inbound;
        path.outbound += seen.outbound;
        if seen.inbound > 0 {
            self.inbound = Some(id);
        }
    }

    /// The remote asks us to send on the path over which the request came. A stock core asks over its second path whichever it
    /// means: where that is our own already, it means the one that it sends over.
    // spec: bonding, "ACK and path negotiation"
    pub fn negotiation_request(&mut self, now: Now, id: PathId, theirs: i16) {
        if !self.negotiation_gate.pass(now.ms()) {
            self.counters.gated += 1;
            return;
        }
        let Some(active) = self.active else { return };
        let id = self.inbound.filter(|_| id == active).unwrap_or(id);
        let usable = self.paths.get(id).is_some_and(|p| p.tx.state() == TxState::Good);
        if !self.negotiates || self.params.policy != Policy::ActiveBackup || !usable {
            return;
        }
        let ours = self.utility(active, id);
        if self.negotiation.asked(now.ms(), active != id, ours, theirs) {
            self.note(now, Reason::Yielded(id));
            self.activate(now, Some(id), Why::Negotiated);
            self.forced = true;
            self.decide(now);
        }
    }

    /// active-backup: takes the next path that works. False if there is none.
    pub fn rotate(&mut self, now: Now) -> bool {
        let order = self.ranked(now.mono_us);
        let at = order.iter().position(|id| Some(*id) == self.active);
        let next = match at {
            Some(at) => order.get((at + 1) % order.len()).copied().filter(|_| order.len() > 1),
            None => order.first().copied(),
        };
        let Some(next) = next.filter(|_| self.params.policy == Policy::ActiveBackup) else { return false };
        self.activate(now, Some(next), Why::Rotated);
        self.forced = true;
        self.decide(now);
        true
    }

    /// The maintenance of one bond: what time alone changes. Appends what is to be sent.
    pub fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        let us = now.mono_us;
        (self.ticked_us, self.news) = (us, false);
        // The newest request that was acknowledged on each path, and the newest on any other.
        let (mut first, mut second) = (None, None);
        for proven in self.paths.iter().map(|p| p.tx.proven()) {
            if proven > first {
                (first, second) = (proven, first);
            } else {
                second = second.max(proven);
            }
        }
        let mut events = [None; PATHS_MAX];
        for (path, event) in self.paths.iter_mut().zip(&mut events) {
            let others = if path.tx.proven() == first { second } else { first };
            *event = path.tx.check(us, others).map(|e| (path.id, e));
        }
        for (id, event) in events.into_iter().flatten() {
            self.note_event(now, id, event);
        }
        if self.params.mode == Mode::Compat {
            self.curate(now);
        }
        self.decide(now);
        let standby = u64::from(self.params.failover_interval / 3) * 1000;
        let plan = &self.plan;
        for path in self.paths.iter() {
            // Who may have to take over at once is asked more often than who only might.
            let close = plan.paths.iter().any(|p| p.id == path.id) || self.params.policy != Policy::None;
            let idle = if close { KEEP_ALIVE_STANDBY_US.min(standby) } else { KEEP_ALIVE_US };
            if path.tx.wants_probe(us, idle) {
                actions.push(Action::Probe(path.id));
            }
        }
        self.check_negotiation(now, actions);
    }

    /// When [`Bond::tick`] is due at the latest, us, if nothing happens before.
    pub fn next_due_us(&self, now: Now) -> u64 {
        let us = now.mono_us;
        let idle = self.idle_us();
        let of_path = |p: &BondPath| {
            let held = is_held(p, us).then_some(p.tx.since() + HELD_US);
            p.tx.next_due(us, idle).min(held.unwrap_or(u64::MAX))
        };
        let paths = self.paths.iter().map(of_path).min().unwrap_or(u64::MAX);
        paths.min(self.look_us())
    }

    /// The same after something came, which is all that changed since [`Bond::tick`]. None: at once, for a path is late or
    /// suspect, or works anew, or none works.
    pub fn due_us(&self, now: Now) -> Option<u64> {
        let (us, idle) = (now.mono_us, self.idle_us());
        let works = self.paths.iter().any(|p| p.tx.state() == TxState::Good);
        let mut due = Some(self.look_us()).filter(|_| works && !self.news)?;
        for path in self.paths.iter() {
            let next = match path.tx.state() {
                // As seen from the beginning nothing is late: when the oldest request will be.
                TxState::Good => Some(path.tx.next_due(0, idle)).filter(|at| *at > us)?,
                TxState::Suspect => return None,
                TxState::Probing | TxState::Down => path.tx.next_due(us, idle),
            };
            let held = if is_held(path, us) { path.tx.since() + HELD_US } else { u64::MAX };
            due = due.min(next).min(held);
        }
        Some(due)
    }

    /// When it is looked at whatever its paths do.
    fn look_us(&self) -> u64 {
        let relay = self.suspect_us.map(|at| at + RELAY_AFTER_US).filter(|_| !self.plan.relay);
        // The reference looks at its paths three times in a failover interval, but not all the time and not never.
        let compat = u64::from(self.params.failover_interval / 3).clamp(TICK_MIN_MS, TICK_MAX_MS) * 1000;
        let look = if self.params.mode == Mode::Compat { compat } else { TICK_IDLE_US };
        relay.unwrap_or(u64::MAX).min(self.ticked_us + look)
    }

    /// After how long without an acknowledgement a good path is asked for one.
    fn idle_us(&self) -> u64 {
        KEEP_ALIVE_STANDBY_US.min(u64::from(self.params.failover_interval / 3) * 1000)
    }

    fn check_negotiation(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.negotiates || self.params.policy != Policy::ActiveBackup {
            return;
        }
        let heard = self.paths.iter().filter(|p| p.inbound > 0).max_by_key(|p| p.inbound).map(|p| p.id);
        let (Some(out), Some(inbound)) = (self.active, heard) else { return };
        let utility = self.utility(out, inbound);
        let step = self.negotiation.check(now.ms(), out != inbound, utility);
        match step {
            Step::Rest => return,
            Step::Request(utility) => actions.push(Action::Negotiate(out, utility)),
            Step::Yield => {
                self.note(now, Reason::Yielded(inbound));
                self.activate(now, Some(inbound), Why::Negotiated);
                self.forced = true;
                self.decide(now);
            }
        }
        for path in self.paths.iter_mut() {
            (path.inbound, path.outbound) = (0, 0);
        }
    }

    /// What we gain by `ours` over `other`: rank of the link first, then tenths of milliseconds.
    fn utility(&self, ours: PathId, other: PathId) -> i16 {
        let score = |id| {
            let Some(p) = self.paths.get(id) else { return i64::MIN / 4 };
            let rtt = p.tx.rtt().unwrap_or(LATENCY_MAX_US).min(LATENCY_MAX_US) as i64;
            1000 * i64::from(!p.is_spare()) - rtt / 100
        };
        (score(ours) - score(other)).clamp(-30_000, 30_000) as i16
    }

    fn note(&mut self, now: Now, reason: Reason) {
        self.log.note(now, reason);
    }

    fn note_event(&mut self, now: Now, path: PathId, event: Event) {
        let reason = match event {
            Event::Answers(rtt_us) => Reason::Answers { path, rtt_us },
            Event::Suspect(age_us, rto_us) => Reason::Suspect { path, age_us, rto_us },
            Event::Cleared => Reason::Cleared(path),
            Event::Down(probes, after_us) => Reason::Down { path, probes, after_us },
            Event::Up(after_us) => Reason::Up { path, after_us },
        };
        self.note(now, reason);
    }

    fn activate(&mut self, now: Now, to: Option<PathId>, why: Why) {
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
    fn ranked(&self, us: u64) -> Vec<PathId> {
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
    fn decide(&mut self, now: Now) {
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

    fn is_planned(&self, id: PathId) -> bool {
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

    fn publish(&mut self, now: Now, policy: Policy, members: &[PathId], relay: bool) {
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

    /// `compat`: judges every path by its ages, estimates quality, works the queue.
    fn curate(&mut self, now: Now) {
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

    fn estimate(&mut self) {
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
    fn compat_rules(&self, paths: &[PlanPath]) -> Option<CompatRules> {
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

    fn queue_paths(&self) -> Vec<Option<compat::active_backup::Path>> {
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
    fn compat_members(&self, usable: &[PathId]) -> Vec<PathId> {
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

/// Whether what is known of it is of now.
fn is_fresh(path: &BondPath, us: u64) -> bool {
    path.tx.last_ack().is_some_and(|at| us.saturating_sub(at) < FRESH_US)
}

/// Whether it is held back though it works.
fn is_held(path: &BondPath, us: u64) -> bool {
    // Most paths have been as they are for long, and the penalty is dear.
    us.saturating_sub(path.tx.since()) < HELD_US && path.tx.is_held(us)
}

/// What is sent over it does not arrive.
fn is_lost(path: &BondPath) -> bool {
    matches!(path.tx.state(), TxState::Suspect | TxState::Down)
}
