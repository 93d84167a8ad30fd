//! One flow over several unequal paths, so that it arrives in order: each packet takes the path on which it is predicted to
//! arrive first. Packets wait here, in one short managed queue and behind each path's pace, and not in the network, so that
//! a TCP sender sees one bottleneck of the summed rate. It holds handles of packets, never their bytes.
// spec: bonding, "Scheduling one flow over unequal links"

use std::collections::VecDeque;

use crate::model::{PathModel, TARGET_NS};

/// Packets that wait for a path at most; at 10 Gbit/s some 5 ms.
pub const WAITING_MAX: usize = 4096;
/// A path may catch up this much when it was served late. ns.
const LATE_NS: u64 = 1_000_000;
/// CoDel: how long packets may wait as a rule. ns.
const CODEL_TARGET_NS: u64 = 5_000_000;
/// CoDel: how long the rule may be broken. ns.
const CODEL_INTERVAL_NS: u64 = 100_000_000;
/// A path has this much bound to it beyond the difference of delays. ns. spec: 2 x target queue of 5 ms.
const SLACK_NS: u64 = 10_000_000;
/// Delays that differ by less are the same. ns.
const NEAR_NS: u64 = 2_000_000;
/// Between two requests for acknowledgement on one path. ns. spec: one per 2 to 10 ms.
const REQUEST_GAP_NS: u64 = 2_000_000;

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

struct Lane<T> {
    model: PathModel,
    bound: VecDeque<(T, usize)>,
    bound_bytes: usize,
    /// The pace lets the next packet go.
    next_ns: u64,
    requested_ns: u64,
}

#[derive(Default)]
struct CoDel {
    above_since: Option<u64>,
    dropping: bool,
    next_drop_ns: u64,
    count: u32,
}

impl CoDel {
    /// Whether the packet that waited for `sojourn` is to be dropped.
    fn drops(&mut self, now_ns: u64, sojourn_ns: u64) -> bool {
        if sojourn_ns < CODEL_TARGET_NS {
            (self.above_since, self.dropping) = (None, false);
            return false;
        }
        let since = *self.above_since.get_or_insert(now_ns);
        if self.dropping {
            if now_ns < self.next_drop_ns {
                return false;
            }
            self.count += 1;
            self.next_drop_ns += self.pause();
            return true;
        }
        if now_ns - since < CODEL_INTERVAL_NS {
            return false;
        }
        self.dropping = true;
        // Soon after the last time it starts where it ended.
        let recent = now_ns.saturating_sub(self.next_drop_ns) < 16 * CODEL_INTERVAL_NS;
        self.count = if recent && self.count > 2 { self.count - 2 } else { 1 };
        self.next_drop_ns = now_ns + self.pause();
        true
    }

    fn pause(&self) -> u64 {
        (CODEL_INTERVAL_NS as f64 / f64::from(self.count.max(1)).sqrt()) as u64
    }
}

/// The queue in front of several paths.
pub struct Striper<T> {
    lanes: Vec<Lane<T>>,
    waiting: VecDeque<(T, usize, u64)>,
    codel: CoDel,
    requests: u64,
}

impl<T: Copy> Striper<T> {
    /// Over these paths.
    pub fn new(now_ns: u64, models: impl IntoIterator<Item = PathModel>) -> Striper<T> {
        let lane = |model| Lane {
            model,
            bound: VecDeque::with_capacity(256),
            bound_bytes: 0,
            next_ns: now_ns,
            requested_ns: 0,
        };
        let mut lanes: Vec<Lane<T>> = models.into_iter().map(lane).collect();
        // The nearest paths start without a pace, because one that is too low would look like a queue to whoever sends, and
        // end its start. The others are used only when these are full, so there it is known how much is too much.
        let nearest = lanes.iter().map(|l| l.model.delay_ns()).min().unwrap_or(0);
        for lane in lanes.iter_mut().filter(|l| l.model.delay_ns() <= nearest + NEAR_NS) {
            lane.model.unpaced();
        }
        Striper { lanes, waiting: VecDeque::with_capacity(WAITING_MAX), codel: CoDel::default(), requests: 0 }
    }

    /// What is known of a path.
    pub fn model(&self, path: usize) -> Option<&PathModel> {
        self.lanes.get(path).map(|l| &l.model)
    }

    /// Takes a packet of a large flow. It comes back when the queue is full.
    pub fn offer(&mut self, now_ns: u64, item: T, len: usize) -> Result<(), T> {
        if self.waiting.len() >= WAITING_MAX || self.lanes.is_empty() {
            return Err(item);
        }
        self.waiting.push_back((item, len, now_ns));
        Ok(())
    }

    /// Takes a packet of a light flow: it passes what waits, on the path with the smallest delay.
    pub fn offer_light(&mut self, item: T, len: usize) -> Result<(), T> {
        let best = (0..self.lanes.len()).min_by_key(|i| self.lanes[*i].model.delay_ns());
        let Some(lane) = best.map(|i| &mut self.lanes[i]) else { return Err(item) };
        if lane.bound.len() >= WAITING_MAX {
            return Err(item);
        }
        lane.bound.push_front((item, len));
        lane.bound_bytes += len;
        Ok(())
    }

    /// An acknowledgement came in.
    pub fn acked(&mut self, now_ns: u64, path: usize, request: u64) -> bool {
        self.lanes.get_mut(path).is_some_and(|l| l.model.acked(now_ns, request))
    }

    /// What is to be done now. Call until there is nothing.
    pub fn poll(&mut self, now_ns: u64) -> Option<Out<T>> {
        if let Some(item) = self.bind(now_ns) {
            return Some(Out::Drop(item));
        }
        let path = (0..self.lanes.len())
            .filter(|i| !self.lanes[*i].bound.is_empty() && self.lanes[*i].next_ns <= now_ns)
            .min_by_key(|i| self.lanes[*i].next_ns)?;
        let lane = &mut self.lanes[path];
        let (item, len) = lane.bound.pop_front()?;
        lane.bound_bytes -= len;
        // Served late by a little is still held back.
        let limited = now_ns <= lane.next_ns + LATE_NS / 4;
        lane.next_ns = lane.next_ns.max(now_ns.saturating_sub(LATE_NS)) + wire_ns(len, lane.model.pace());
        let wanted = now_ns - lane.requested_ns.min(now_ns) >= REQUEST_GAP_NS;
        let request = wanted.then(|| {
            lane.requested_ns = now_ns;
            self.requests += 1;
            self.requests
        });
        lane.model.sent(now_ns, len, limited, request);
        Some(Out::Send { path, item, request })
    }

    /// When to call [`Striper::poll`] again if nothing comes in before.
    pub fn next_ns(&self) -> Option<u64> {
        self.lanes.iter().filter(|l| !l.bound.is_empty()).map(|l| l.next_ns).min()
    }

    /// Binds what waits to paths, as far ahead as the paths' delays differ. Some packet if it is to be dropped.
    fn bind(&mut self, now_ns: u64) -> Option<T> {
        while let Some(&(item, len, since)) = self.waiting.front() {
            let reach = |l: &Lane<T>| l.model.wire_ns(len) + l.model.delay_ns();
            let arrival = |l: &Lane<T>| l.model.arrival_ns(l.free_ns(now_ns), l.bound_bytes, len);
            let longest = self.lanes.iter().map(reach).max()?;
            let (path, _) = self.lanes.iter().enumerate().min_by_key(|(_, l)| arrival(l))?;
            let lane = &self.lanes[path];
            let ahead = longest - reach(lane) + SLACK_NS;
            if lane.free_ns(now_ns) - now_ns > ahead {
                return None;
            }
            self.waiting.pop_front();
            if self.codel.drops(now_ns, now_ns - since) {
                return Some(item);
            }
            let lane = &mut self.lanes[path];
            lane.bound.push_back((item, len));
            lane.bound_bytes += len;
        }
        self.codel.above_since = None;
        None
    }
}

impl<T> Lane<T> {
    /// When its pace will have let all go that is bound to it.
    fn free_ns(&self, now_ns: u64) -> u64 {
        self.next_ns.max(now_ns) + wire_ns(self.bound_bytes, self.model.pace())
    }
}

fn wire_ns(bytes: usize, pace: f64) -> u64 {
    (bytes as f64 * 1e9 / pace) as u64
}

const _: () = assert!(TARGET_NS < SLACK_NS);
