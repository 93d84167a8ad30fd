//! The state machine of one peer's bond: observations in, plan and reasons out.

mod agreement;
mod choice;
mod publish;
mod reference;

use std::collections::VecDeque;
use std::sync::Arc;

use wire::Now;
use wire::icmp::Cause;
use wire::message::ReceiveReport;

use crate::compat;
use crate::compat::active_backup::ActiveBackup;
use crate::compat::quality::Quality;
use crate::config::{LinkConfig, Mode, Params, Policy};
use crate::delivery::Delivery;
use crate::explain::{Decision, DecisionLog, Reason, Why};
use crate::limits::*;
use crate::negotiation::Negotiation;
use crate::path::{BondPath, Heard, Hinted, NewPath, PathId, Paths};
use crate::plan::{Plan, PlanPath};
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
    /// The path over which most of the remote's data came when some last did, how much, and before which tick.
    inbound: Option<(PathId, u64, u64)>,
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

    /// Whether the remote leaves frames unanswered that ask for acknowledgement. True if that is new: then a tick is due,
    /// which puts it into the plan.
    pub fn set_mute(&mut self, mute: bool) -> bool {
        std::mem::replace(&mut self.mute, mute) != mute
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
        if seen.inbound > 0 && self.inbound.is_none_or(|(_, most, at)| at != self.ticked_us || seen.inbound > most) {
            self.inbound = Some((id, seen.inbound, self.ticked_us));
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
