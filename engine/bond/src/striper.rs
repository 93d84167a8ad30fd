//! One flow over several unequal paths, so that it arrives in order: each packet takes the path on which it is predicted to
//! arrive first. Packets wait here, in one short managed queue and behind each path's pace, and not in the network, so that
//! a TCP sender sees one bottleneck of the summed rate. It holds handles of packets, never their bytes.
// spec: bonding, "Scheduling one flow over unequal links"

use std::collections::VecDeque;

use crate::fair_queue::{FairQueue, Popped, WAITING_MAX, Waiting};
use crate::limits::RESEQUENCE_HOLD_MAX_US;
use crate::model::{PathModel, TARGET_MAX_NS};

/// Packets bound to one path at most.
const BOUND_MAX: usize = WAITING_MAX;
/// Packets of light flows that wait for one path at most.
const LIGHT_MAX: usize = 256;
/// A path may catch up this much when it was served late. ns.
const LATE_NS: u64 = 1_000_000;
/// A path has this much bound to it beyond the difference of delays. ns. spec: 2 x target queue of 5 ms.
const SLACK_NS: u64 = 10_000_000;
/// How much is sent over paths is looked at this often. ns.
const LOOK_NS: u64 = 50_000_000;
/// A path that carried this share of its rate meanwhile is full.
const FULL: f64 = 0.9;
/// Packets that the receiver puts in order need not wait for full paths longer than this. ns.
const EARLY_QUEUE_NS: u64 = 1_500_000;
/// It may hold others for them so long, less what they come late anyway. ns.
const EARLY_MAX_NS: u64 = RESEQUENCE_HOLD_MAX_US * 1000 - SLACK_NS;
/// Between two requests for acknowledgement on one path. ns. spec: one per 2 to 10 ms.
const REQUEST_GAP_NS: u64 = 2_000_000;
/// Or this many packets while nobody knows what a path carries: the first bursts tell.
const REQUEST_FIRST: u32 = 3;

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out<T> {
    /// Send it over the path of this index. `request` names it if an acknowledgement is wanted.
    Send {
        /// Index of the path.
        path: usize,
        /// The packet.
        item: T,
        /// Pass this to [`Striper::acked`] when it is acknowledged.
        request: Option<u64>,
    },
    /// The queue stood too long: drop it, so that its sender slows down.
    Drop(T),
}

/// A path of a new plan.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few are made when a plan changes, and none is kept")]
pub enum Lane {
    /// One that was there, by its index until now: what was learned of it stays.
    Kept(usize),
    /// One that was not.
    New(PathModel),
}

struct Bound<T> {
    model: PathModel,
    light: VecDeque<(T, usize)>,
    /// What is bound to it leaves flow by flow too: a queue that stands here and not in front is as fair.
    queue: FairQueue<T>,
    /// The pace lets the next packet go.
    next_ns: u64,
    requested_ns: u64,
    /// Packets since then.
    unasked: u32,
    /// Bytes since all paths were last looked at.
    sent: usize,
    /// All nearer ones are full, and what the receiver puts in order may arrive so much later by this one. ns.
    early_ns: u64,
}

/// The queue in front of several paths.
pub struct Striper<T> {
    lanes: Vec<Bound<T>>,
    waiting: FairQueue<T>,
    /// Were bound to paths under another plan, and come before all that waits.
    again: VecDeque<Waiting<T>>,
    /// Light ones of a path that is gone.
    light: VecDeque<(T, usize)>,
    offered: u64,
    requests: u64,
    looked_ns: u64,
}

impl<T: Copy> Striper<T> {
    /// Over these paths.
    pub fn new(now_ns: u64, models: impl IntoIterator<Item = PathModel>) -> Striper<T> {
        let mut striper = Striper {
            lanes: Vec::new(),
            waiting: FairQueue::new(),
            again: VecDeque::new(),
            light: VecDeque::new(),
            offered: 0,
            requests: 0,
            looked_ns: now_ns,
        };
        striper.rebuild(now_ns, models.into_iter().map(Lane::New));
        striper
    }

    /// A new plan: its paths in its order. What waits stays, and what was bound to paths is bound anew in the order in which
    /// it came, so that nothing is lost with a path that is gone. From here on paths have the indices of the new plan.
    pub fn rebuild(&mut self, now_ns: u64, paths: impl IntoIterator<Item = Lane>) {
        let mut old: Vec<Option<Bound<T>>> = std::mem::take(&mut self.lanes).into_iter().map(Some).collect();
        let fresh = |model| Bound {
            model,
            light: VecDeque::with_capacity(LIGHT_MAX),
            queue: FairQueue::new(),
            next_ns: now_ns,
            requested_ns: 0,
            unasked: 0,
            sent: 0,
            early_ns: 0,
        };
        let mut again: Vec<Waiting<T>> = self.again.drain(..).collect();
        again.extend(old.iter_mut().flatten().flat_map(|l| std::iter::from_fn(|| l.queue.serve())));
        again.sort_unstable_by_key(|w| w.order);
        self.again.extend(again);
        for lane in paths {
            match lane {
                Lane::New(model) => self.lanes.push(fresh(model)),
                // One that is named twice, or was never there, is no path.
                Lane::Kept(i) => self.lanes.extend(old.get_mut(i).and_then(Option::take)),
            }
        }
        self.light.extend(old.into_iter().flatten().flat_map(|l| l.light));
        for (item, len) in std::mem::take(&mut self.light) {
            if let Err(item) = self.offer_light(item, len) {
                self.light.push_back((item, len));
            }
        }
        // The nearest path starts without a pace, because one that is too low would look like a queue to whoever sends, and
        // end its start. The others are used only when this one is full, so there it is known how much is too much.
        if let Some(nearest) = self.lanes.iter_mut().min_by_key(|l| l.model.delay_ns()) {
            nearest.model.unpaced();
        }
    }

    /// Gives back all packets, because there is nothing left to stripe over. Those that came first come first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.rebuild(0, []);
        let Striper { again, light, waiting, .. } = self;
        light.drain(..).map(|l| l.0).chain(again.drain(..).map(|w| w.item)).chain(waiting.drain())
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        let bound: usize = self.lanes.iter().map(|l| l.queue.len() + l.light.len()).sum();
        bound + self.waiting.len() + self.again.len() + self.light.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a path.
    pub fn model(&self, path: usize) -> Option<&PathModel> {
        self.lanes.get(path).map(|l| &l.model)
    }

    /// Takes a packet of a large flow. When the queue is full a packet comes back that is to be dropped: not this one, but the
    /// oldest of the flow that takes most of the room. `flow` is the hash that [`Selector::select`](crate::Selector) takes.
    pub fn offer(&mut self, now_ns: u64, flow: u64, item: T, len: usize) -> Result<(), T> {
        self.take(Waiting { item, len, flow, numbered: false, order: 0, since_ns: now_ns })
    }

    /// The same for a packet that the receiver puts in order by its number. It takes a path as soon as the nearer ones are
    /// full, and not only once the queue in front of them is as long as it is farther: senders that keep their queues short
    /// would never fill it.
    pub fn offer_numbered(&mut self, now_ns: u64, flow: u64, item: T, len: usize) -> Result<(), T> {
        self.take(Waiting { item, len, flow, numbered: true, order: 0, since_ns: now_ns })
    }

    fn take(&mut self, packet: Waiting<T>) -> Result<(), T> {
        if self.lanes.is_empty() {
            return Err(packet.item);
        }
        self.offered += 1;
        self.waiting.push(Waiting { order: self.offered, ..packet })
    }

    /// Takes a packet of a light flow: it passes what waits, on the path with the smallest delay.
    pub fn offer_light(&mut self, item: T, len: usize) -> Result<(), T> {
        let Some(lane) = self.lanes.iter_mut().min_by_key(|l| l.model.delay_ns()) else { return Err(item) };
        if lane.light.len() >= LIGHT_MAX {
            return Err(item);
        }
        lane.light.push_back((item, len));
        Ok(())
    }

    /// An acknowledgement came in. `path` is the index of the present plan.
    pub fn acked(&mut self, now_ns: u64, path: usize, request: u64) -> bool {
        self.lanes.get_mut(path).is_some_and(|l| l.model.acked(now_ns, request))
    }

    /// What is to be done now. Call until there is nothing.
    pub fn poll(&mut self, now_ns: u64) -> Option<Out<T>> {
        if now_ns.saturating_sub(self.looked_ns) >= LOOK_NS {
            self.look(now_ns);
        }
        if let Some(item) = self.bind(now_ns) {
            return Some(Out::Drop(item));
        }
        let due = |l: &Bound<T>| !l.is_empty() && l.next_ns <= now_ns;
        let ready = self.lanes.iter_mut().enumerate().filter(|(_, l)| due(l));
        let (path, lane) = ready.min_by_key(|(_, l)| l.next_ns)?;
        let (item, len) = lane.pop()?;
        // Served late by a little is still held back.
        let limited = now_ns <= lane.next_ns + LATE_NS / 4;
        lane.next_ns = lane.next_ns.max(now_ns.saturating_sub(LATE_NS)) + wire_ns(len, lane.model.pace());
        lane.unasked += 1;
        lane.sent += len;
        let wanted = now_ns.saturating_sub(lane.requested_ns) >= REQUEST_GAP_NS
            || lane.model.wants_more() && lane.unasked >= REQUEST_FIRST;
        let request = wanted.then(|| {
            (lane.requested_ns, lane.unasked) = (now_ns, 0);
            self.requests += 1;
            self.requests
        });
        lane.model.sent(now_ns, len, limited, request);
        Some(Out::Send { path, item, request })
    }

    /// When to call [`Striper::poll`] again if nothing comes in before.
    pub fn next_ns(&self) -> Option<u64> {
        self.lanes.iter().filter(|l| !l.is_empty()).map(|l| l.next_ns).min()
    }

    /// Finds out which paths are full, and so which others may be used early.
    fn look(&mut self, now_ns: u64) {
        let took = now_ns - std::mem::replace(&mut self.looked_ns, now_ns);
        let is_full = |l: &Bound<T>| l.sent as f64 * 1e9 >= FULL * l.model.rate() * took as f64;
        let Some(nearest) = self.lanes.iter().map(|l| l.model.delay_ns()).min() else { return };
        // The nearest that is not full: those behind it are for what comes in order.
        let roomy = self.lanes.iter().filter(|l| !is_full(l)).map(|l| l.model.delay_ns()).min().unwrap_or(u64::MAX);
        for lane in &mut self.lanes {
            let later = lane.model.delay_ns() - nearest;
            let early = later.saturating_sub(EARLY_QUEUE_NS).min(EARLY_MAX_NS);
            lane.early_ns = if lane.model.delay_ns() <= roomy { early } else { 0 };
            lane.sent = 0;
        }
    }

    /// Binds what waits to paths, as far ahead as the paths' delays differ. Some packet if it is to be dropped.
    fn bind(&mut self, now_ns: u64) -> Option<T> {
        loop {
            let next = match self.again.front() {
                Some(packet) => packet,
                None => self.waiting.front()?,
            };
            let (len, flow, numbered) = (next.len, next.flow, next.numbered);
            let reach = |l: &Bound<T>| l.model.wire_ns(len) + l.model.delay_ns();
            let arrival = |l: &Bound<T>| {
                let ahead = l.queue.ahead(flow);
                let early = if numbered { l.early_ns } else { 0 };
                l.model.arrival_ns(l.free_ns(now_ns, ahead), ahead, len).saturating_sub(early)
            };
            let longest = self.lanes.iter().map(reach).max()?;
            let lane = self.lanes.iter_mut().min_by_key(|l| arrival(l))?;
            let ahead = longest - reach(lane) + SLACK_NS;
            if lane.free_ns(now_ns, lane.queue.bytes()) - now_ns > ahead || lane.queue.len() >= BOUND_MAX {
                return None;
            }
            let packet = match self.again.pop_front() {
                Some(packet) => packet,
                None => match self.waiting.pop(now_ns)? {
                    Popped::Next(packet) => packet,
                    Popped::Drop(item) => return Some(item),
                },
            };
            if let Err(item) = lane.queue.push(packet) {
                return Some(item);
            }
        }
    }
}

impl<T: Copy> Bound<T> {
    /// When its pace will have let so many bytes go.
    fn free_ns(&self, now_ns: u64, bytes: usize) -> u64 {
        self.next_ns.max(now_ns) + wire_ns(bytes, self.model.pace())
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.light.is_empty()
    }

    fn pop(&mut self) -> Option<(T, usize)> {
        self.light.pop_front().or_else(|| {
            let packet = self.queue.serve()?;
            Some((packet.item, packet.len))
        })
    }
}

fn wire_ns(bytes: usize, pace: f64) -> u64 {
    (bytes as f64 * 1e9 / pace) as u64
}

const _: () = assert!(TARGET_MAX_NS < SLACK_NS);
