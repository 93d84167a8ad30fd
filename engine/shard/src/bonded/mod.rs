//! The sending half of a bond: which path a frame takes, which frames are to be acknowledged, what waits until its path has
//! room, and what is sent again because its path is lost. What was seen of the paths goes to the control plane, which makes
//! the plans; a shard must never judge a path itself.
// spec: bonding, "A better bond on the same wire"

mod flow;
mod lane;
mod pool;
mod requests;
mod service;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

use bond::config::Policy;
use bond::limits::PATHS_MAX;
use bond::marks::Marks;
use bond::model::PathModel;
use bond::recall::{Recall, bears_repetition};
use bond::striper::{self, Striper};
use bond::{Choice, PathId, Plan, PlanPath, Seen, Selector};
use foldhash::fast::FixedState;
use wire::Address;
use wire::fragment::datagrams_needed;

pub use flow::flow;
pub use pool::{WAITING_BYTES_MAX, WAITING_PACKETS_MAX};

use crate::activity::Report;
use crate::egress::Egress;
use crate::seal::{ACKED_LEN, MARKED_LEN, Outgoing, Sealer};
use crate::tables::{Bonding, Route};
use crate::{Counters, Path};
use lane::Lane;
use pool::{Handle, Pool};
use requests::Request;

/// Flows of one peer that a shard remembers if the policy assigns flows.
pub const BOND_FLOWS: usize = 1024;
/// Requests of one peer that a shard waits for; older ones are given up.
pub const REQUESTS_MAX: usize = 1024;
/// Things seen of one peer's paths between two reports. More are counted and dropped.
pub const SEEN_MAX: usize = 1024;

/// A request that was not answered for this long never will be. us.
const REQUEST_LIFE_US: u64 = 10_000_000;
/// Between two batches of what is sent again. us.
const AGAIN_GAP_US: u64 = 500;
/// Packets of a batch at least: 180 Mbit/s of full ones.
const AGAIN_PACKETS: usize = 8;
/// A rate is told if an acknowledgement came within this long, and if it changed by more than this share. ns.
const RATE_FRESH_NS: u64 = 2_000_000_000;
const RATE_STEP: f64 = 0.02;
/// Flows are counted this often. us.
const FLOWS_GAP_US: u64 = 1_000_000;
/// What the striper knows of a flow's packets is given up when nothing was striped for this long. us.
const STRIPER_LIFE_US: u64 = 10_000_000;
/// What was learned of a path that left the plan is good for this long, should it come back. us.
const AWAY_US: u64 = 2_000_000;

/// What the bonds of all peers share.
#[derive(Debug, Default)]
pub(crate) struct Bonds {
    pub(crate) pool: Pool,
    /// Peers with something that waits.
    pub(crate) queued: Vec<Address>,
    /// Peers with something to report.
    pub(crate) news: Vec<Address>,
    /// Peers for which packets are kept.
    pub(crate) keeping: Vec<Address>,
}

/// What a bond works with while frames pass.
pub(crate) struct Turn<'a, 'b, E> {
    pub(crate) now_us: u64,
    pub(crate) address: Address,
    /// Of the peer without a bond.
    pub(crate) route: Route,
    pub(crate) sealer: &'a mut Sealer<'b>,
    pub(crate) bonds: &'a mut Bonds,
    pub(crate) ledger: (&'a mut crate::activity::Ledger, &'a mut Vec<Address>),
    pub(crate) out: &'a mut E,
}

impl<E> Turn<'_, '_, E> {
    fn note(&mut self, route: Route, bytes: usize) {
        let (ledger, active) = &mut self.ledger;
        if ledger.is_empty() {
            active.push(self.address);
        }
        let path = Path { socket: route.socket, remote: route.remote };
        self.sealer.counters.activity_full += u64::from(ledger.sent(path, 1, bytes).is_err());
    }
}

/// One shard's sending half of one bond.
pub(crate) struct Bonded {
    bonding: Arc<Bonding>,
    selector: Selector,
    hasher: FixedState,
    /// In the order of the plan.
    lanes: Vec<Lane>,
    /// Models of paths that left the plan, at most [`PATHS_MAX`], and when.
    away: Vec<(PathId, PathModel, u64)>,
    striper: Option<Striper<Handle>>,
    striped_us: u64,
    recall: Recall,
    marks: Marks,
    /// What is lost goes again, the next batch then. us.
    again_us: Option<u64>,
    requests: VecDeque<Request>,
    seen: Vec<Seen>,
    flows_us: u64,
    /// In [`Bonds::news`], [`Bonds::queued`], [`Bonds::keeping`].
    news: bool,
    queued: bool,
    keeping: bool,
    /// The peer is not bonded with any more; what waits still leaves.
    ended: bool,
}

impl Bonded {
    pub(crate) fn new(now_us: u64, bonding: Arc<Bonding>) -> Bonded {
        let plan = Arc::clone(&bonding.plan);
        let empty = Arc::new(Bonding {
            plan: Arc::default(),
            routes: Vec::new(),
            relay: None,
            marks: false,
            duplicates_dropped: false,
        });
        let mut bonded = Bonded {
            bonding: empty,
            hasher: FixedState::with_seed(plan.secret),
            selector: Selector::new(plan, flows_of(bonding.plan.policy)),
            lanes: Vec::new(),
            away: Vec::new(),
            striper: None,
            striped_us: 0,
            recall: Recall::new(),
            marks: Marks::new(),
            again_us: None,
            requests: VecDeque::new(),
            seen: Vec::new(),
            flows_us: 0,
            news: false,
            queued: false,
            keeping: false,
            ended: false,
        };
        bonded.adopt(now_us, bonding);
        bonded
    }

    /// A new plan. Of paths that stay nothing is forgotten, and what waits for one that goes takes another.
    pub(crate) fn adopt(&mut self, now_us: u64, bonding: Arc<Bonding>) {
        let old = std::mem::replace(&mut self.bonding, bonding);
        self.recall.keep_all(self.bonding.duplicates_dropped);
        if !self.bonding.marks {
            self.marks.clear();
        }
        let plan = &self.bonding.plan;
        self.ended = false;
        if flows_of(plan.policy) != flows_of(old.plan.policy) || plan.secret != old.plan.secret {
            self.hasher = FixedState::with_seed(plan.secret);
            self.selector = Selector::new(Arc::clone(plan), flows_of(plan.policy));
        } else {
            self.selector.adopt(Arc::clone(plan));
        }
        let mut before: Vec<Option<Lane>> = std::mem::take(&mut self.lanes).into_iter().map(Some).collect();
        let mut moved = Vec::with_capacity(plan.paths.len());
        self.away.retain(|away| now_us.saturating_sub(away.2) < AWAY_US);
        for (path, route) in plan.paths.iter().zip(&self.bonding.routes).take(PATHS_MAX) {
            let at = before.iter().position(|lane| lane.as_ref().is_some_and(|lane| lane.id == path.id));
            let lane = at.and_then(|at| before[at].take());
            let mut model = || match self.away.iter().position(|away| away.0 == path.id) {
                Some(at) => self.away.swap_remove(at).1.resumed(now_us * 1000),
                None => PathModel::new(now_us * 1000, Some(2000 * path.delay_us).filter(|rtt| *rtt > 0), None),
            };
            if self.striper.is_some() {
                moved.push(at.map_or_else(|| striper::Lane::New(model()), striper::Lane::Kept));
            }
            let mut lane = lane.unwrap_or_else(|| Lane::new(path.id, *route));
            lane.route = *route;
            if lane.model.is_none() && self.striper.is_none() && may_stripe(plan) {
                lane.model = Some(model());
            }
            self.lanes.push(lane);
        }
        for (at, mut lane) in before.into_iter().enumerate().filter_map(|(at, lane)| Some((at, lane?))) {
            lane.report(&mut self.seen);
            if let Some(model) = self.striper.as_ref().and_then(|striper| striper.model(at))
                && self.away.len() < PATHS_MAX
            {
                self.away.push((lane.id, model.clone(), now_us));
            }
        }
        if let Some(striper) = &mut self.striper {
            striper.rebuild(now_us * 1000, moved);
        }
        for &path in plan.lost.iter().filter(|path| !old.plan.lost.contains(path)) {
            self.recall.lost(now_us, path);
            self.again_us = Some(now_us);
        }
        if plan.recall_us == 0 || self.recall.is_empty() {
            self.again_us = None;
        }
    }

    /// The bond is at its end. What waits leaves first.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Nothing waits, and nothing will be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        self.striper.as_ref().is_none_or(Striper::is_empty) && self.again_us.is_none()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Some route, for a peer that has none of its own.
    pub(crate) fn any_route(&self) -> Option<Route> {
        self.lanes.first().map(|lane| lane.route).or(self.bonding.relay)
    }

    /// The fewest bytes that a datagram to the peer may have.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.lanes.iter().map(|lane| lane.route.mtu).min()
    }

    /// Whether frames to the peer may get order marks.
    pub(crate) fn marks(&self) -> bool {
        self.bonding.marks
    }

    /// Drops what waits: the peer is gone.
    pub(crate) fn discard(&mut self, pool: &mut Pool, counters: &mut Counters) {
        for handle in self.striper.iter_mut().flat_map(Striper::drain) {
            pool.free(handle);
            counters.stripe_dropped += 1;
        }
        (self.queued, self.again_us) = (false, None);
    }

    /// Sends one frame, or lets it wait. `flow` is its flow once it is known.
    pub(crate) fn frame<E: Egress>(
        &mut self,
        turn: &mut Turn<'_, '_, E>,
        frame: &Outgoing<'_>,
        flow: &mut Option<u64>,
    ) {
        if self.ended {
            self.let_go(turn, frame.keys, frame.suite);
        }
        let front = if frame.headers.is_empty() { frame.payload } else { frame.headers };
        let flow = *flow.get_or_insert_with(|| flow::flow(&self.hasher, frame.ethertype, front));
        let choice = match self.ended {
            true => Choice::Unbonded,
            false => self.selector.select(flow, frame.len(), turn.now_us),
        };
        match choice {
            Choice::Path(id) => match self.lanes.iter().position(|lane| lane.id == id) {
                Some(_) if self.relays() => self.copies(turn, frame, Some(id)),
                Some(at) => self.one(turn, frame, at),
                None => plain(turn, frame, turn.route),
            },
            Choice::Copies if self.lanes.is_empty() => plain(turn, frame, self.bonding.relay.unwrap_or(turn.route)),
            Choice::Copies => self.copies(turn, frame, None),
            Choice::Striped if self.lanes.is_empty() => plain(turn, frame, turn.route),
            Choice::Striped => self.stripe(turn, frame, flow),
            Choice::Relay => plain(turn, frame, self.bonding.relay.unwrap_or(turn.route)),
            Choice::Unbonded => plain(turn, frame, turn.route),
        }
        self.enlist(turn.address, turn.bonds);
    }

    fn relays(&self) -> bool {
        self.bonding.plan.relay && self.bonding.relay.is_some()
    }

    /// Over one path.
    fn one<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>, frame: &Outgoing<'_>, at: usize) {
        let lane = &mut self.lanes[at];
        // What the reference would decide is decided without acknowledgements.
        let wanted = self.bonding.plan.compat.is_none()
            && !self.bonding.plan.mute
            && lane.wants_request(turn.now_us, fits_acked(frame.len(), lane.route.mtu));
        self.leave(turn, frame, at, wanted, None);
    }

    /// Over one path, with or without a request.
    fn leave<E: Egress>(
        &mut self,
        turn: &mut Turn<'_, '_, E>,
        frame: &Outgoing<'_>,
        at: usize,
        wanted: bool,
        striped: Option<u64>,
    ) {
        let (path, route) = (self.lanes[at].id, self.lanes[at].route);
        let keeps = self.bonding.plan.recall_us > 0;
        let front = if frame.headers.is_empty() { frame.payload } else { frame.headers };
        let bears = keeps && bears_repetition(frame.ethertype, front);
        let (recall, now_us, mut packet_id) = (&mut self.recall, turn.now_us, None);
        let len = turn.sealer.send(frame, wanted, route, turn.out, |packet| {
            packet_id = packet.first_chunk().map(|id| u64::from_be_bytes(*id));
            if keeps {
                recall.keep(now_us, path, packet, route.mtu, bears);
            }
        });
        if len == 0 {
            return;
        }
        turn.note(route, len);
        let Some(packet_id) = packet_id else { return };
        let sampled = self.bonding.plan.sampled;
        let lane = &mut self.lanes[at];
        lane.left(now_us, packet_id, len, sampled);
        if let Some(model) = &mut lane.model {
            model.sent(now_us * 1000, len, false, wanted.then_some(packet_id));
        }
        if wanted {
            self.requested(turn, Request { packet_id, path, sent_us: now_us, striped, copy: false, open: true });
        }
    }

    /// Over all paths, or over one and through a root.
    fn copies<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>, frame: &Outgoing<'_>, only: Option<PathId>) {
        let taken = |lane: &&mut Lane| only.is_none_or(|only| lane.id == only);
        let mut wanted = false;
        for lane in self.lanes.iter_mut().filter(taken).filter(|_| self.bonding.plan.compat.is_none()) {
            wanted |=
                !self.bonding.plan.mute && lane.wants_request(turn.now_us, fits_acked(frame.len(), lane.route.mtu));
        }
        let relay = self.bonding.relay.filter(|_| self.bonding.plan.relay);
        let taken = |lane: &&Lane| only.is_none_or(|only| lane.id == only);
        let routes = self.lanes.iter().filter(taken).map(|lane| lane.route).chain(relay);
        let mut packet_id = 0;
        let len = turn.sealer.send_copies(frame, wanted, routes, turn.out, |packet| {
            packet_id = packet.first_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        });
        if len == 0 {
            return;
        }
        let (now_us, sampled) = (turn.now_us, self.bonding.plan.sampled);
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            if only.is_some_and(|only| lane.id != only) {
                continue;
            }
            lane.left(now_us, packet_id, len, sampled);
            let (path, route) = (lane.id, lane.route);
            if wanted {
                lane.requested(now_us);
                let request = Request { packet_id, path, sent_us: now_us, striped: None, copy: true, open: true };
                self.requested(turn, request);
            }
            turn.note(route, len);
        }
        if let Some(relay) = relay {
            turn.note(relay, len);
        }
    }

    /// Waits until a path has room.
    fn stripe<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>, frame: &Outgoing<'_>, flow: u64) {
        let now_ns = turn.now_us * 1000;
        let (pool, counters) = (&mut turn.bonds.pool, &mut *turn.sealer.counters);
        let Some(handle) = pool.put(frame.network, frame.ethertype, frame.headers, frame.payload) else {
            counters.stripe_dropped += 1;
            return;
        };
        counters.striped += 1;
        let mut len = frame.len();
        let mtu = self.lanes.iter().map(|lane| lane.route.mtu).min().unwrap_or(0);
        let marked = self.bonding.marks && fits_marked(len, mtu) && pool.may_mark(handle);
        if marked {
            pool.mark(handle, self.marks.next(turn.now_us, flow));
            counters.marks_out += 1;
            len += MARKED_LEN;
        }
        self.striped_us = turn.now_us;
        let (lanes, plan) = (&mut self.lanes, &self.bonding.plan);
        let striper = self.striper.get_or_insert_with(|| {
            let model = |(lane, path): (&mut Lane, &PlanPath)| {
                let rtt = Some(2000 * path.delay_us).filter(|rtt| *rtt > 0);
                match lane.model.take() {
                    Some(model) if !(plan.busy && model.is_new()) => model,
                    _ if plan.busy => PathModel::beside(now_ns, rtt, path.rate),
                    _ => PathModel::new(now_ns, rtt, None),
                }
            };
            Striper::new(now_ns, lanes.iter_mut().zip(&plan.paths).map(model))
        });
        let offered = match marked {
            true => striper.offer_numbered(now_ns, flow, handle, len),
            false => striper.offer(now_ns, flow, handle, len),
        };
        if let Err(dropped) = offered {
            pool.free(dropped);
            counters.stripe_dropped += 1;
        }
    }

    /// Sees to it that this bond is looked after.
    pub(crate) fn enlist(&mut self, address: Address, bonds: &mut Bonds) {
        if !std::mem::replace(&mut self.news, true) {
            bonds.news.push(address);
        }
        if (!self.is_empty() || self.ended) && !std::mem::replace(&mut self.queued, true) {
            bonds.queued.push(address);
        }
        if !self.recall.is_empty() && !std::mem::replace(&mut self.keeping, true) {
            bonds.keeping.push(address);
        }
    }

    /// Forgets packets that need not be sent again. False if none is kept, and no memory for them.
    pub(crate) fn expire(&mut self, now_us: u64) -> bool {
        self.recall.expire(now_us, self.bonding.plan.recall_us);
        self.keeping = !self.recall.is_empty() || self.recall.memory() > 0;
        self.keeping
    }

    /// Appends what was seen to `report`.
    pub(crate) fn report(&mut self, now_us: u64, address: Address, report: &mut Report) {
        self.news = false;
        self.recall.expire(now_us, self.bonding.plan.recall_us);
        for lane in &mut self.lanes {
            lane.report(&mut self.seen);
        }
        if now_us.saturating_sub(self.flows_us) >= FLOWS_GAP_US {
            self.flows_us = now_us;
            for lane in &self.lanes {
                let count = self.selector.flows().on_path((lane.id.slot, lane.id.generation), now_us) as u32;
                self.seen.push(Seen::Flows { path: lane.id, count });
            }
        }
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let model = self.striper.as_ref().and_then(|striper| striper.model(at)).or(lane.model.as_ref());
            let Some(model) = model else { continue };
            let fresh = (now_us * 1000).saturating_sub(model.last_ack_ns()) < RATE_FRESH_NS;
            if fresh && !model.is_new() && (model.rate() - lane.rate).abs() > RATE_STEP * lane.rate {
                lane.rate = model.rate();
                self.seen.push(Seen::Rate { path: lane.id, rate: lane.rate });
            }
        }
        report.bonds.extend(self.seen.drain(..).map(|seen| (address, seen)));
        let idle = now_us.saturating_sub(self.striped_us) > STRIPER_LIFE_US;
        if let Some(striper) = self.striper.take_if(|striper| idle && striper.is_empty()) {
            for (at, lane) in self.lanes.iter_mut().enumerate() {
                lane.model = striper.model(at).cloned();
            }
        }
    }
}

/// As without a bond.
fn plain<E: Egress>(turn: &mut Turn<'_, '_, E>, frame: &Outgoing<'_>, route: Route) {
    let len = turn.sealer.send(frame, false, route, turn.out, |_| {});
    if len > 0 {
        turn.note(route, len);
    }
}

/// Whether a frame takes no more datagrams with a mark than without.
fn fits_marked(len: usize, mtu: u16) -> bool {
    datagrams_needed(len + MARKED_LEN, mtu.into()) == datagrams_needed(len, mtu.into())
}

/// Whether a request for acknowledgement costs no datagram more.
fn fits_acked(len: usize, mtu: u16) -> bool {
    let mtu = usize::from(mtu);
    len > mtu || len + ACKED_LEN <= mtu
}

fn may_stripe(plan: &Plan) -> bool {
    matches!(plan.policy, Policy::BalanceAware | Policy::BalanceRr) && plan.paths.len() > 1
}

fn flows_of(policy: Policy) -> usize {
    if matches!(policy, Policy::BalanceXor | Policy::BalanceAware) { BOND_FLOWS } else { 0 }
}
