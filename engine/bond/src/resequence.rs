//! Putting one flow's segments back in order that came over several paths, each in order in itself: what is ahead of its
//! turn waits for what is on its way over a slower path. For peers that stripe without regard to order, or move flows. It
//! holds for a bounded time, in bounded memory, and never drops: a segment that was lost costs its flow one short wait at
//! most.
//!
//! A gap is given up as soon as every path that carries the flow has brought something beyond it: what is missing then is
//! lost. Until then it is waited for as long as late segments of this peer were late of late. A flow on one path is never
//! held, and waits that prove useless are not repeated.
// spec: bonding, "Receiving"

mod source;

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::inner::{Inner, Piece, TCP, untagged};
use crate::limits::{
    RESEQUENCE_BYTES_MAX, RESEQUENCE_FLOWS_MAX, RESEQUENCE_HELD_MAX, RESEQUENCE_HOLD_MAX_US, RESEQUENCE_IDLE_US,
    RESEQUENCE_PATHS_MAX, RESEQUENCE_SEGMENTS_MAX,
};

pub use source::Source;

/// A path counts as one that carries a flow, or a peer, for this long after it did. us.
const PRESENT_US: u64 = 2_000_000;
/// A segment that is further ahead begins anew. Bytes.
const AHEAD_MAX: i32 = 1 << 24;
/// Gaps of a flow that are remembered, to see whether they close after all.
const GAPS: usize = 4;
/// Flows per bucket.
const WAYS: usize = 4;
/// A gap that closed, and one that was waited for in vain, count so much; below zero a flow is not held.
const CLOSED: i8 = 1;
const IN_VAIN: i8 = -2;
const WORTH_MAX: i8 = 8;
const NONE: u32 = u32::MAX;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Hash of what makes it one flow's, one way.
    pub flow: u64,
    /// Sequence number.
    pub sequence: u32,
    /// Payload bytes.
    pub len: u32,
    /// TCP's flags.
    pub flags: u8,
}

impl Segment {
    /// What an Ethernet payload is, if a whole TCP segment. Flows of different tags are different.
    fn of(tag: u64, ethertype: u16, payload: &[u8], hasher: &FixedState) -> Option<Segment> {
        let (ethertype, packet) = untagged(ethertype, payload);
        // The same connection may pass here in two VLANs, with a router between them.
        let tags = &payload[..payload.len() - packet.len()];
        let inner = Inner::parse(ethertype, packet).filter(|i| i.protocol == TCP && i.piece == Piece::Whole)?;
        let header: &[u8; 20] = inner.transport.first_chunk()?;
        let len = inner.transport_len.checked_sub(usize::from(header[12] >> 4) * 4)?;
        Some(Segment {
            flow: hasher.hash_one((tag, tags, inner.addresses, &header[..4])),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            len: len as u32,
            flags: header[13],
        })
    }
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments that waited.
    pub held: u64,
    /// Gaps that closed in time.
    pub closed: u64,
    /// Gaps that were waited for in vain.
    pub expired: u64,
    /// Gaps of which it was clear that they would not close.
    pub given_up: u64,
    /// Segments that came after those they should have preceded, not counting what was sent anew.
    pub late: u64,
    /// Flows let go for want of room.
    pub overflowed: u64,
    /// Flows forgotten for want of room.
    pub evicted: u64,
}

/// A frame that waits.
#[derive(Debug, Default)]
struct Held {
    frame: Vec<u8>,
    tag: u64,
    sequence: u32,
    len: u32,
    /// Since then; never later than of those behind it.
    since_us: u64,
    path: u8,
    before: u32,
    behind: u32,
}

/// What a flow was seen to skip.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    from: u32,
    to: u32,
    /// What was ahead came then, by this path. 0: none.
    since_us: u64,
    path: u8,
}

/// How far one path has brought a flow.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    sequence: u32,
    /// 0: never.
    at_us: u64,
}

#[derive(Clone, Debug)]
struct Flow {
    key: u64,
    /// The next in order.
    expected: u32,
    /// 0: the place is empty.
    last_us: u64,
    hold_us: u64,
    /// First and last of those that wait.
    head: u32,
    tail: u32,
    held: u32,
    worth: i8,
    /// Its SYN came, and nothing after it that was in order: what comes may be ahead of all that its own path brings.
    begins: bool,
    marks: [Mark; RESEQUENCE_PATHS_MAX],
    gaps: [Gap; GAPS],
    next_gap: u8,
}

impl Flow {
    const EMPTY: Flow = Flow {
        key: 0,
        expected: 0,
        last_us: 0,
        hold_us: 0,
        head: NONE,
        tail: NONE,
        held: 0,
        worth: 0,
        begins: false,
        marks: [Mark { sequence: 0, at_us: 0 }; RESEQUENCE_PATHS_MAX],
        gaps: [Gap { from: 0, to: 0, since_us: 0, path: 0 }; GAPS],
        next_gap: 0,
    };

    fn mark(&mut self, now_us: u64, path: u8, sequence: u32) {
        let mark = &mut self.marks[usize::from(path)];
        let further = mark.at_us == 0 || ahead(sequence, mark.sequence) > 0;
        *mark = Mark { sequence: if further { sequence } else { mark.sequence }, at_us: now_us };
    }

    fn present(&self, now_us: u64) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |m| m.at_us != 0 && now_us.saturating_sub(m.at_us) < PRESENT_US)
    }

    /// Up to here all has come that is on its way, if it comes over several paths.
    fn settled(&self, now_us: u64) -> Option<u32> {
        if self.begins {
            return None;
        }
        let marks = self.present(now_us).map(|mark| mark.sequence);
        marks.min_by_key(|sequence| ahead(*sequence, self.expected))
    }

    fn skipped(&mut self, gap: Gap) {
        self.gaps[usize::from(self.next_gap)] = gap;
        self.next_gap = (self.next_gap + 1) % GAPS as u8;
    }

    fn judge(&mut self, worth: i8) {
        self.worth = (self.worth + worth).clamp(-WORTH_MAX, WORTH_MAX);
    }
}

/// How far one sequence number is ahead of another, around the corner.
fn ahead(of: u32, than: u32) -> i32 {
    of.wrapping_sub(than) as i32
}

/// The frames of one shard that wait for their turn. Frames come out by a function that is given their tag too.
#[derive(Debug)]
pub struct Resequencer {
    hasher: FixedState,
    /// Empty until the first flow comes over several paths.
    flows: Vec<Flow>,
    held: Vec<Held>,
    /// Those of `held` that hold nothing.
    free: Vec<u32>,
    /// Room for frames, also in `free`.
    bytes: usize,
    /// So much of it in `free`.
    unused: usize,
    /// Flows with frames that wait.
    waiting: Vec<u32>,
    /// Not later than the first of them is due.
    due_us: Option<u64>,
    used_us: u64,
    counters: Counters,
}

impl Resequencer {
    /// Holds nothing, and no memory. `seed` keeps remotes from choosing flows that collide.
    pub fn new(seed: u64) -> Resequencer {
        Resequencer {
            hasher: FixedState::with_seed(seed),
            flows: Vec::new(),
            held: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            unused: 0,
            waiting: Vec::new(),
            due_us: None,
            used_us: 0,
            counters: Counters::default(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.held.len() - self.free.len()
    }

    /// None does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory taken for frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When to call [`Resequencer::expire`].
    pub fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Names the flow of an Ethernet payload that may be put in order: of a TCP segment. Pass it to
    /// [`Resequencer::segment`].
    pub fn read(&self, tag: u64, ethertype: u16, payload: &[u8]) -> Option<Segment> {
        Segment::of(tag, ethertype, payload, &self.hasher)
    }

    /// Takes a TCP segment that came over the path of this number of a peer that is heard over several. Never waits: SYN,
    /// FIN, RST, segments without payload, and what was sent anew.
    #[allow(clippy::too_many_arguments, reason = "a segment, its frame, and where both come from and go")]
    pub fn segment<K: Copy + PartialEq>(
        &mut self,
        now_us: u64,
        source: &mut Source<K>,
        path: u8,
        segment: &Segment,
        tag: u64,
        frame: &[u8],
        out: &mut impl FnMut(u64, &[u8]),
    ) {
        if segment.flags & (SYN | RST) != 0 {
            if let Some(at) = self.find(segment.flow) {
                self.release_all(at, out);
                self.flows[at].last_us = 0;
            }
            if segment.flags & (SYN | RST) == SYN {
                let (at, _) = self.entry(segment.flow, now_us, out);
                let expected = segment.sequence.wrapping_add(1).wrapping_add(segment.len);
                let (key, last_us) = (segment.flow, now_us.max(1));
                self.flows[at] = Flow { key, last_us, expected, begins: true, ..Flow::EMPTY };
                self.used_us = now_us;
            }
            return out(tag, frame);
        }
        if segment.len == 0 {
            return out(tag, frame);
        }
        let may_wait = segment.flags & FIN == 0;
        let came = Came { now_us, path, sequence: segment.sequence, len: segment.len, may_wait };
        self.take(segment.flow, came, source, tag, frame, out);
    }

    /// Takes a frame that the sender numbered: one more for every frame of this flow.
    #[allow(clippy::too_many_arguments, reason = "as above")]
    pub fn marked<K: Copy + PartialEq>(
        &mut self,
        now_us: u64,
        source: &mut Source<K>,
        path: u8,
        (flow, counter): (u64, u32),
        tag: u64,
        frame: &[u8],
        out: &mut impl FnMut(u64, &[u8]),
    ) {
        let flow = self.hasher.hash_one(flow);
        self.take(flow, Came { now_us, path, sequence: counter, len: 1, may_wait: true }, source, tag, frame, out);
    }

    /// Lets go what has waited long enough, and gives memory back that was not used for seconds.
    pub fn expire(&mut self, now_us: u64, out: &mut impl FnMut(u64, &[u8])) {
        if self.due_us.is_some_and(|due| now_us >= due) {
            self.due_us = None;
            let mut i = 0;
            while let Some(&at) = self.waiting.get(i) {
                let at = at as usize;
                while let Some(since_us) = self.head(at).map(|held| held.since_us)
                    && now_us >= since_us + self.flows[at].hold_us
                {
                    self.counters.expired += 1;
                    self.flows[at].judge(IN_VAIN);
                    self.skip_gap(at, out);
                }
                match self.head(at).map(|held| held.since_us) {
                    // `skip_gap` has taken it off the list
                    None => {}
                    Some(since_us) => {
                        self.wake_at(since_us + self.flows[at].hold_us);
                        i += 1;
                    }
                }
            }
        }
        if self.is_empty() && !self.flows.is_empty() && now_us.saturating_sub(self.used_us) > RESEQUENCE_IDLE_US {
            (self.flows, self.held, self.free, self.bytes, self.unused) = Default::default();
        }
    }

    fn take<K: Copy + PartialEq>(
        &mut self,
        key: u64,
        came: Came,
        source: &mut Source<K>,
        tag: u64,
        frame: &[u8],
        out: &mut impl FnMut(u64, &[u8]),
    ) {
        let Came { now_us, path, sequence, len, may_wait } = came;
        self.used_us = now_us;
        let end = sequence.wrapping_add(len);
        let (at, new) = self.entry(key, now_us, out);
        let flow = &mut self.flows[at];
        let by = ahead(sequence, flow.expected);
        // What came while the peer was heard over one path passed by.
        let missed = flow.last_us < source.several_us.0;
        if new || missed || !(-AHEAD_MAX..=AHEAD_MAX).contains(&by) {
            self.release_all(at, out);
            let flow = &mut self.flows[at];
            *flow = Flow { key, last_us: now_us.max(1), expected: end, ..Flow::EMPTY };
            flow.mark(now_us, path, sequence);
            return out(tag, frame);
        }
        flow.last_us = now_us.max(1);
        flow.mark(now_us, path, sequence);
        if by < 0 {
            self.came_late(at, came, source);
        }
        if by <= 0 {
            if by == 0 && self.flows[at].head != NONE {
                self.closes(at, came, source);
            }
            out(tag, frame);
            let flow = &mut self.flows[at];
            flow.begins = false;
            if ahead(end, flow.expected) > 0 {
                flow.expected = end;
            }
            self.release(at, out);
            return self.give_up(at, now_us, out);
        }
        if !may_wait {
            return out(tag, frame);
        }
        let flow = &mut self.flows[at];
        let several = flow.begins || flow.present(now_us).nth(1).is_some();
        // Whatever waits goes first.
        if flow.head == NONE && (!several || flow.worth < 0) {
            flow.skipped(Gap { from: flow.expected, to: sequence, since_us: now_us.max(1), path });
            flow.expected = end;
            return out(tag, frame);
        }
        flow.hold_us = source.hold_us();
        self.hold(at, came, tag, frame, out);
        self.give_up(at, now_us, out);
    }

    /// A segment came that was passed over before.
    fn came_late<K: Copy + PartialEq>(&mut self, at: usize, came: Came, source: &mut Source<K>) {
        let flow = &mut self.flows[at];
        let skipped =
            |gap: &&Gap| gap.since_us != 0 && ahead(came.sequence, gap.from) >= 0 && ahead(came.sequence, gap.to) < 0;
        let Some(gap) = flow.gaps.iter().find(skipped) else { return };
        let by_us = came.now_us.saturating_sub(gap.since_us);
        // By the same path it cannot have been overtaken: it was sent anew.
        if gap.path != came.path && by_us <= RESEQUENCE_HOLD_MAX_US {
            flow.judge(CLOSED);
            self.counters.late += 1;
            source.late(came.now_us, by_us);
        }
    }

    /// A segment came in order for which others wait.
    fn closes<K: Copy + PartialEq>(&mut self, at: usize, came: Came, source: &mut Source<K>) {
        let Some(head) = self.head(at) else { return };
        let (by_us, path) = (came.now_us.saturating_sub(head.since_us), head.path);
        let whole = ahead(head.sequence, came.sequence.wrapping_add(came.len)) <= 0;
        if path != came.path {
            source.late(came.now_us, by_us);
        }
        if whole {
            self.counters.closed += 1;
            self.flows[at].judge(CLOSED);
        }
    }

    /// Keeps a frame that is ahead of its turn.
    fn hold(&mut self, at: usize, came: Came, tag: u64, frame: &[u8], out: &mut impl FnMut(u64, &[u8])) {
        let slot = self.free.last().copied().unwrap_or(self.held.len() as u32);
        let more = frame.len().saturating_sub(self.held.get(slot as usize).map_or(0, |held| held.frame.capacity()));
        let full = self.flows[at].held as usize == RESEQUENCE_SEGMENTS_MAX || self.len() == RESEQUENCE_HELD_MAX;
        if full || !self.make_room(more) {
            self.counters.overflowed += 1;
            self.release_all(at, out);
            let flow = &mut self.flows[at];
            flow.skipped(Gap { from: flow.expected, to: came.sequence, since_us: came.now_us.max(1), path: came.path });
            let end = came.sequence.wrapping_add(came.len);
            if ahead(end, flow.expected) > 0 {
                flow.expected = end;
            }
            return out(tag, frame);
        }
        match self.free.pop() {
            Some(slot) => self.unused -= self.held[slot as usize].frame.capacity(),
            None => self.held.push(Held::default()),
        }
        // Each path brings its own in order: the place is near the end.
        let mut before = self.flows[at].tail;
        while before != NONE && ahead(self.held[before as usize].sequence, came.sequence) > 0 {
            before = self.held[before as usize].before;
        }
        let behind = if before == NONE { self.flows[at].head } else { self.held[before as usize].behind };
        let since_us = self.held.get(behind as usize).map_or(came.now_us, |held| held.since_us.min(came.now_us));
        let held = &mut self.held[slot as usize];
        held.frame.clear();
        let room = held.frame.capacity();
        held.frame.reserve_exact(frame.len());
        self.bytes += held.frame.capacity() - room;
        held.frame.extend_from_slice(frame);
        (held.tag, held.sequence, held.len, held.path) = (tag, came.sequence, came.len, came.path);
        (held.since_us, held.before, held.behind) = (since_us, before, behind);
        self.counters.held += 1;
        let flow = &mut self.flows[at];
        match before {
            NONE => flow.head = slot,
            before => self.held[before as usize].behind = slot,
        }
        match behind {
            NONE => flow.tail = slot,
            behind => self.held[behind as usize].before = slot,
        }
        flow.held += 1;
        let hold_us = flow.hold_us;
        if flow.held == 1 {
            self.waiting.push(at as u32);
        }
        if let Some(head) = self.head(at) {
            self.wake_at(head.since_us + hold_us);
        }
    }

    /// Whether so many bytes more may be taken for a frame, at the cost of the other slots that hold nothing if need be.
    fn make_room(&mut self, more: usize) -> bool {
        if self.bytes + more <= RESEQUENCE_BYTES_MAX {
            return true;
        }
        let Some((slot, others)) = self.free.split_last() else { return false };
        let own = self.held[*slot as usize].frame.capacity();
        if self.bytes - (self.unused - own) + more > RESEQUENCE_BYTES_MAX {
            return false;
        }
        others.iter().for_each(|slot| self.held[*slot as usize].frame = Vec::new());
        self.bytes -= self.unused - own;
        self.unused = own;
        true
    }

    /// Lets go what is in order now.
    fn release(&mut self, at: usize, out: &mut impl FnMut(u64, &[u8])) {
        while let Some(head) = self.head(at)
            && ahead(head.sequence, self.flows[at].expected) <= 0
        {
            self.pop(at, out);
        }
    }

    /// Lets go what waits behind gaps that will not close, since every path has passed them.
    fn give_up(&mut self, at: usize, now_us: u64, out: &mut impl FnMut(u64, &[u8])) {
        while let Some(head) = self.head(at)
            && let Some(settled) = self.flows[at].settled(now_us)
            && ahead(head.sequence, settled) <= 0
        {
            self.counters.given_up += 1;
            self.skip_gap(at, out);
        }
    }

    /// Goes on behind the first gap.
    fn skip_gap(&mut self, at: usize, out: &mut impl FnMut(u64, &[u8])) {
        let Some(head) = self.head(at) else { return };
        let (to, since_us, path) = (head.sequence, head.since_us.max(1), head.path);
        let flow = &mut self.flows[at];
        flow.begins = false;
        flow.skipped(Gap { from: flow.expected, to, since_us, path });
        flow.expected = to;
        self.release(at, out);
    }

    fn release_all(&mut self, at: usize, out: &mut impl FnMut(u64, &[u8])) {
        while self.flows[at].head != NONE {
            self.skip_gap(at, out);
        }
    }

    /// Hands out the first that waits.
    fn pop(&mut self, at: usize, out: &mut impl FnMut(u64, &[u8])) {
        let flow = &mut self.flows[at];
        let slot = flow.head;
        let Some(held) = self.held.get(slot as usize) else { return };
        out(held.tag, &held.frame);
        self.unused += held.frame.capacity();
        let end = held.sequence.wrapping_add(held.len);
        if ahead(end, flow.expected) > 0 {
            flow.expected = end;
        }
        flow.head = held.behind;
        flow.held -= 1;
        match flow.head {
            NONE => {
                flow.tail = NONE;
                self.waiting.retain(|waits| *waits as usize != at);
                self.due_us = self.due_us.filter(|_| !self.waiting.is_empty());
            }
            head => self.held[head as usize].before = NONE,
        }
        self.free.push(slot);
    }

    fn head(&self, at: usize) -> Option<&Held> {
        self.held.get(self.flows[at].head as usize)
    }

    fn wake_at(&mut self, us: u64) {
        self.due_us = Some(self.due_us.map_or(us, |due| due.min(us)));
    }

    fn bucket(&self, key: u64) -> std::ops::Range<usize> {
        let first = (key as usize & (RESEQUENCE_FLOWS_MAX / WAYS - 1)) * WAYS;
        first..first + WAYS
    }

    fn find(&self, key: u64) -> Option<usize> {
        let known = |at: &usize| self.flows.get(*at).is_some_and(|flow| flow.key == key && flow.last_us != 0);
        self.bucket(key).find(known)
    }

    /// The place of a flow, and whether it is new. The longest idle of its bucket makes room.
    fn entry(&mut self, key: u64, now_us: u64, out: &mut impl FnMut(u64, &[u8])) -> (usize, bool) {
        if let Some(at) = self.find(key) {
            return (at, false);
        }
        if self.flows.is_empty() {
            self.flows = vec![Flow::EMPTY; RESEQUENCE_FLOWS_MAX];
            self.waiting.reserve(RESEQUENCE_FLOWS_MAX);
        }
        let bucket = self.bucket(key);
        let at = bucket.clone().min_by_key(|at| self.flows[*at].last_us).unwrap_or(bucket.start);
        let last_us = self.flows[at].last_us;
        self.counters.evicted += u64::from(last_us != 0 && now_us.saturating_sub(last_us) < RESEQUENCE_IDLE_US);
        self.release_all(at, out);
        (at, true)
    }
}

/// A segment that came.
#[derive(Clone, Copy, Debug)]
struct Came {
    now_us: u64,
    path: u8,
    sequence: u32,
    len: u32,
    may_wait: bool,
}
