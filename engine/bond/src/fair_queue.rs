//! The packets of large flows that wait for a path: one queue per flow, served in turn by bytes, those that were empty first
//! (FQ-CoDel, RFC 8290). What stands too long loses its first packet, so that its sender, and only it, slows down. A slab: it
//! allocates nothing once it is as long as it gets. It must not know paths.

use std::collections::VecDeque;

/// Packets of all flows; at 10 Gbit/s some 5 ms.
pub const WAITING_MAX: usize = 4096;
/// Queues. Flows that meet in one share a turn.
const QUEUES: usize = 256;
/// So many queues are to choose from for each flow, that two meet only when these are in use.
const WAYS: usize = 8;
/// Bytes per turn.
const QUANTUM: i64 = 1514;
/// CoDel: how long packets may wait as a rule. ns.
const TARGET_NS: u64 = 5_000_000;
/// CoDel: how long the rule may be broken. ns.
const INTERVAL_NS: u64 = 100_000_000;
const NONE: u32 = u32::MAX;

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<T> {
    /// Its handle.
    pub item: T,
    /// Its bytes.
    pub len: usize,
    /// Hash of what makes its flow one.
    pub flow: u64,
    /// The receiver puts it in order.
    pub numbered: bool,
    /// Counts packets in the order in which they came.
    pub order: u64,
    /// When it came.
    pub since_ns: u64,
}

/// What came out.
pub enum Popped<T> {
    /// The next.
    Next(Waiting<T>),
    /// One that has to be dropped.
    Drop(T),
}

#[derive(Clone, Copy)]
struct Slot<T> {
    packet: Waiting<T>,
    next: u32,
}

#[derive(Clone, Default)]
struct CoDel {
    above_since: Option<u64>,
    dropping: bool,
    next_drop_ns: u64,
    count: u32,
}

#[derive(Clone)]
struct Queue {
    flow: u64,
    head: u32,
    tail: u32,
    bytes: usize,
    credit: i64,
    /// It is in one of the two lists.
    listed: bool,
    codel: CoDel,
}

/// See the top of the file.
pub struct FairQueue<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    queues: Vec<Queue>,
    fresh: VecDeque<u16>,
    turns: VecDeque<u16>,
    len: usize,
    bytes: usize,
    /// Queues that are not empty.
    busy: usize,
}

impl CoDel {
    /// Whether the packet that waited for `sojourn` is to be dropped.
    fn drops(&mut self, now_ns: u64, sojourn_ns: u64, target_ns: u64) -> bool {
        if sojourn_ns < target_ns {
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
        if now_ns.saturating_sub(since) < INTERVAL_NS {
            return false;
        }
        self.dropping = true;
        // Soon after the last time it starts where it ended.
        let recent = now_ns.saturating_sub(self.next_drop_ns) < 16 * INTERVAL_NS;
        self.count = if recent && self.count > 2 { self.count - 2 } else { 1 };
        self.next_drop_ns = now_ns + self.pause();
        true
    }

    fn pause(&self) -> u64 {
        (INTERVAL_NS as f64 / f64::from(self.count.max(1)).sqrt()) as u64
    }
}

impl<T: Copy> Default for FairQueue<T> {
    fn default() -> FairQueue<T> {
        FairQueue::new()
    }
}

impl<T: Copy> FairQueue<T> {
    /// Empty.
    pub fn new() -> FairQueue<T> {
        let queue =
            Queue { flow: 0, head: NONE, tail: NONE, bytes: 0, credit: 0, listed: false, codel: CoDel::default() };
        FairQueue {
            slots: Vec::new(),
            free: NONE,
            queues: vec![queue; QUEUES],
            fresh: VecDeque::with_capacity(QUEUES),
            turns: VecDeque::with_capacity(QUEUES),
            len: 0,
            bytes: 0,
            busy: 0,
        }
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that leave before a packet of this flow would that came now.
    pub fn ahead(&self, flow: u64) -> usize {
        match self.find(flow) {
            Ok(q) => self.bytes.min(self.busy * self.queues[q].bytes),
            Err(_) => 0,
        }
    }

    /// Takes a packet. When all is full, the first packet of the longest queue comes back in its place.
    pub fn push(&mut self, packet: Waiting<T>) -> Result<(), T> {
        let spilled = (self.len == WAITING_MAX).then(|| self.spill()).flatten();
        let slot = Slot { packet, next: NONE };
        let at = if self.free != NONE {
            let at = self.free;
            self.free = self.slots[at as usize].next;
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        };
        let q = self.find(packet.flow).unwrap_or_else(|free| free);
        let queue = &mut self.queues[q];
        if !queue.listed && queue.flow != packet.flow {
            (queue.flow, queue.codel) = (packet.flow, CoDel::default());
        }
        self.busy += usize::from(queue.head == NONE);
        match queue.tail {
            NONE => queue.head = at,
            tail => self.slots[tail as usize].next = at,
        }
        queue.tail = at;
        queue.bytes += packet.len;
        self.len += 1;
        self.bytes += packet.len;
        if !queue.listed {
            (queue.listed, queue.credit) = (true, QUANTUM);
            self.fresh.push_back(q as u16);
        }
        spilled.map_or(Ok(()), Err)
    }

    /// The packet that is next.
    pub fn front(&mut self) -> Option<&Waiting<T>> {
        let q = self.turn()?;
        Some(&self.slots[self.queues[q].head as usize].packet)
    }

    /// The packet of [`FairQueue::front`].
    pub fn pop(&mut self, now_ns: u64) -> Option<Popped<T>> {
        let q = self.turn()?;
        let packet = self.take(q)?;
        let queue = &mut self.queues[q];
        let dropped = queue.codel.drops(now_ns, now_ns.saturating_sub(packet.since_ns), TARGET_NS);
        if queue.head == NONE {
            queue.codel.above_since = None;
        }
        if dropped {
            return Some(Popped::Drop(packet.item));
        }
        queue.credit -= packet.len as i64;
        Some(Popped::Next(packet))
    }

    /// The same, however long it waited.
    pub fn serve(&mut self) -> Option<Waiting<T>> {
        let q = self.turn()?;
        let packet = self.take(q)?;
        self.queues[q].credit -= packet.len as i64;
        Some(packet)
    }

    /// All of it, flow by flow.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| {
            let q = self.turn()?;
            self.take(q).map(|p| p.item)
        })
    }

    /// The queue of this flow, else one that it may have: one that nobody uses, if there is any.
    fn find(&self, flow: u64) -> Result<usize, usize> {
        // The lower bits may name a shard by now.
        let hash = (flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        let first = hash % (QUEUES / WAYS) * WAYS;
        let ways = &self.queues[first..first + WAYS];
        if let Some(way) = ways.iter().position(|queue| queue.listed && queue.flow == flow) {
            return Ok(first + way);
        }
        let known = ways.iter().position(|queue| !queue.listed && queue.flow == flow);
        let unused = known.or_else(|| ways.iter().position(|queue| !queue.listed));
        unused.map_or(Ok(first + hash / (QUEUES / WAYS)), |way| Err(first + way))
    }

    /// The queue whose turn it is. It is not empty.
    fn turn(&mut self) -> Option<usize> {
        loop {
            let fresh = !self.fresh.is_empty();
            let list = if fresh { &mut self.fresh } else { &mut self.turns };
            let q = list.pop_front()?;
            let queue = &mut self.queues[usize::from(q)];
            if queue.credit <= 0 {
                queue.credit += QUANTUM;
                self.turns.push_back(q);
            } else if queue.head != NONE {
                list.push_front(q);
                return Some(usize::from(q));
            } else if fresh && !self.turns.is_empty() {
                // It must not come first again and again by being empty again and again.
                self.turns.push_back(q);
            } else {
                queue.listed = false;
            }
        }
    }

    fn take(&mut self, q: usize) -> Option<Waiting<T>> {
        let queue = &mut self.queues[q];
        let at = queue.head;
        let slot = self.slots.get_mut(at as usize)?;
        let packet = slot.packet;
        queue.head = slot.next;
        if queue.head == NONE {
            queue.tail = NONE;
            self.busy -= 1;
        }
        queue.bytes -= packet.len;
        slot.next = self.free;
        self.free = at;
        self.len -= 1;
        self.bytes -= packet.len;
        Some(packet)
    }

    /// Room is made by whoever takes most of it.
    fn spill(&mut self) -> Option<T> {
        let longest = (0..QUEUES).max_by_key(|q| self.queues[*q].bytes)?;
        self.take(longest).map(|p| p.item)
    }
}
