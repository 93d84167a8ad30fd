//! The way from the shards to the control thread: one bounded queue for each kind of message, buffers whose bytes are
//! bounded until they are dropped, and a bell that is rung once a turn for all of them.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam::{
    channel::{Receiver, Sender, bounded, unbounded},
    queue::ArrayQueue,
};
use shard::Stray;
use tokio::sync::Notify;
use uring::Waker;
use wire::{Address, Now};

use super::meeting::{Given, Meeting};
use super::{FromShard, QUEUE_BYTES_MAX, QUEUE_MAX};

/// Buffers kept for use again, per kind; and the largest that is worth keeping.
const SPARE_MAX: usize = 256;
const SPARE_BYTES_MAX: usize = 16 << 10;

/// Messages dropped between the threads because a queue was full, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Datagrams for other nodes.
    pub foreign: u64,
    /// Unopened datagrams to the control plane.
    pub datagrams: u64,
    /// Authenticated packets to the control plane, but for frames.
    pub opened: u64,
    /// Authenticated frames to the control plane.
    pub opened_frames: u64,
    /// Frames from TAPs to the control plane.
    pub tap_frames: u64,
    /// Reports of shards about their traffic.
    pub reports: u64,
    /// Reports of shards about datagrams that the kernel refused.
    pub refusals: u64,
    /// Datagrams of the control plane.
    pub sends: u64,
    /// Frames of the control plane to TAPs.
    pub frames: u64,
    /// Frames to the shard where their flow meets: delivered where they came.
    pub strays: u64,
}

#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) foreign: AtomicU64,
    pub(super) datagrams: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) opened_frames: AtomicU64,
    pub(super) tap_frames: AtomicU64,
    pub(super) reports: AtomicU64,
    pub(super) refusals: AtomicU64,
    pub(super) sends: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) strays: AtomicU64,
}

impl Drops {
    pub(super) fn count(&self, dropped: bool, counter: impl FnOnce(&Drops) -> &AtomicU64) {
        if dropped {
            counter(self).fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counters(&self) -> QueueCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        QueueCounters {
            foreign: get(&self.foreign),
            datagrams: get(&self.datagrams),
            opened: get(&self.opened),
            opened_frames: get(&self.opened_frames),
            tap_frames: get(&self.tap_frames),
            reports: get(&self.reports),
            refusals: get(&self.refusals),
            sends: get(&self.sends),
            frames: get(&self.frames),
            strays: get(&self.strays),
        }
    }
}

/// Bytes on their way to the control thread. They count against their queue's bound until this is dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    charged: usize,
    pool: Arc<Pool>,
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.in_use.fetch_sub(self.charged, Ordering::Relaxed);
        if self.bytes.capacity() <= SPARE_BYTES_MAX {
            let _ = self.pool.spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

struct Pool {
    spare: ArrayQueue<Vec<u8>>,
    in_use: AtomicUsize,
}

impl Pool {
    fn new() -> Arc<Pool> {
        Arc::new(Pool { spare: ArrayQueue::new(SPARE_MAX), in_use: AtomicUsize::new(0) })
    }

    /// A copy of `bytes`, if there is room for it.
    fn copy(self: &Arc<Pool>, bytes: &[u8]) -> Option<Buffer> {
        let charged = bytes.len();
        if self.in_use.fetch_add(charged, Ordering::Relaxed) + charged > QUEUE_BYTES_MAX {
            self.in_use.fetch_sub(charged, Ordering::Relaxed);
            return None;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        Some(Buffer { bytes: copy, charged, pool: Arc::clone(self) })
    }
}

/// One kind of message.
#[derive(Clone)]
struct Lane {
    queue: Sender<FromShard>,
    pool: Arc<Pool>,
}

/// The shards' end. Cloned for each.
#[derive(Clone)]
pub(super) struct Outbox {
    foreign: Lane,
    datagrams: Lane,
    opened: Lane,
    opened_frames: Lane,
    frames: Lane,
    reports: Sender<FromShard>,
    refusals: Sender<FromShard>,
    losses: Sender<FromShard>,
    drops: Arc<Drops>,
    /// Wakes the control thread, through tokio's own event descriptor, if it sleeps.
    bell: Arc<Notify>,
    /// Something was put in since the bell was rung.
    unannounced: bool,
    /// If there are several shards.
    meeting: Option<Seat>,
}

/// One shard's place where shards meet.
#[derive(Clone)]
struct Seat {
    meeting: Arc<Meeting>,
    shard: usize,
    now: Now,
    /// Shards that got something since they were last woken, as bits.
    unannounced: u16,
}

impl Outbox {
    pub(super) fn foreign(&mut self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) {
        let sent = self.foreign.put(bytes, message);
        self.note(sent, |drops| &drops.foreign);
    }

    pub(super) fn datagram(&mut self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) {
        let sent = self.datagrams.put(bytes, message);
        self.note(sent, |drops| &drops.datagrams);
    }

    pub(super) fn opened(&mut self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) {
        let sent = self.opened.put(bytes, message);
        self.note(sent, |drops| &drops.opened);
    }

    /// Apart from other packets: bulk must not hold up what keeps peers alive.
    pub(super) fn opened_frame(&mut self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) {
        let sent = self.opened_frames.put(bytes, message);
        self.note(sent, |drops| &drops.opened_frames);
    }

    pub(super) fn frame(&mut self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) {
        let sent = self.frames.put(bytes, message);
        self.note(sent, |drops| &drops.tap_frames);
    }

    pub(super) fn report(&mut self, message: FromShard) {
        let sent = self.reports.try_send(message).is_ok();
        self.note(sent, |drops| &drops.reports);
    }

    /// For datagrams that the kernel refused: there may be as many of them as there are datagrams.
    pub(super) fn refused(&mut self, message: FromShard) {
        let sent = self.refusals.try_send(message).is_ok();
        self.note(sent, |drops| &drops.refusals);
    }

    /// For sockets, TAP queues and threads that are gone, which nobody would notice otherwise: never dropped. Each goes
    /// once, and new ones are made only by the control thread, which reads this.
    pub(super) fn lost(&mut self, message: FromShard) {
        let _ = self.losses.send(message); // without a control thread nobody wants to know
        self.unannounced = true;
    }

    fn note(&mut self, sent: bool, counter: impl FnOnce(&Drops) -> &AtomicU64) {
        self.drops.count(!sent, counter);
        self.unannounced = true;
    }

    /// This is the end of a shard.
    pub(super) fn join(&mut self, meeting: Arc<Meeting>, shard: usize, waker: Waker) {
        meeting.join(shard, waker);
        self.meeting = Some(Seat { meeting, shard, now: Now::default(), unannounced: 0 });
    }

    /// A turn begins.
    pub(super) fn begin(&mut self, now: Now) {
        if let Some(seat) = &mut self.meeting {
            seat.now = now;
        }
    }

    /// The shard has heard a peer of late: whether others have too. None if there are none.
    pub(super) fn scattered(&self, peer: Address) -> Option<bool> {
        self.meeting.as_ref().map(|seat| seat.meeting.heard(seat.shard, peer, seat.now))
    }

    /// Gives a segment to the shard where its flow meets, if that is another one and has room.
    pub(super) fn meet(&mut self, stray: &Stray<'_>) -> bool {
        let Some(seat) = &mut self.meeting else { return false };
        let Some(to) = seat.meeting.elsewhere(seat.shard, stray.frame, seat.now) else { return false };
        let given = seat.meeting.give(to, stray);
        self.drops.count(!given, |drops| &drops.strays);
        seat.unannounced |= u16::from(given) << to;
        given
    }

    /// Frames that other shards gave.
    pub(super) fn strays(&self) -> usize {
        self.meeting.as_ref().map_or(0, |seat| seat.meeting.waiting(seat.shard))
    }

    /// The next of them.
    pub(super) fn take_stray(&self) -> Option<Given> {
        self.meeting.as_ref().and_then(|seat| seat.meeting.take(seat.shard))
    }

    /// It was dealt with.
    pub(super) fn recycle(&self, given: Given) {
        if let Some(seat) = &self.meeting {
            seat.meeting.recycle(seat.shard, given);
        }
    }

    /// Rings the bell if there is reason to, and wakes the shards that were given something. Once per turn.
    pub(super) fn announce(&mut self) {
        if let Some(seat) = &mut self.meeting
            && seat.unannounced != 0
        {
            seat.meeting.wake(std::mem::take(&mut seat.unannounced));
        }
        if std::mem::take(&mut self.unannounced) {
            self.bell.notify_one();
        }
    }
}

impl Lane {
    fn put(&self, bytes: &[u8], message: impl FnOnce(Buffer) -> FromShard) -> bool {
        // asked first, so that a flood into a full queue costs no copy
        if self.queue.is_full() {
            return false;
        }
        self.pool.copy(bytes).is_some_and(|buffer| self.queue.try_send(message(buffer)).is_ok())
    }
}

/// The control thread's end.
pub(super) struct Inbox {
    lanes: [Receiver<FromShard>; 8],
    /// The lane that is looked into next.
    turn: usize,
    bell: Arc<Notify>,
}

impl Inbox {
    pub(super) fn new(drops: Arc<Drops>) -> (Inbox, Outbox) {
        let lane = || {
            let (queue, receiver) = bounded(QUEUE_MAX);
            (Lane { queue, pool: Pool::new() }, receiver)
        };
        let ((foreign, a), (datagrams, b)) = (lane(), lane());
        let ((opened, c), (opened_frames, d), (frames, e)) = (lane(), lane(), lane());
        let ((reports, f), (refusals, g)) = (bounded(QUEUE_MAX), bounded(QUEUE_MAX));
        let (losses, h) = unbounded();
        let bell = Arc::new(Notify::new());
        let inbox = Inbox { lanes: [a, b, c, d, e, f, g, h], turn: 0, bell: Arc::clone(&bell) };
        let unannounced = false;
        let outbox = Outbox {
            foreign,
            datagrams,
            opened,
            opened_frames,
            frames,
            reports,
            refusals,
            losses,
            drops,
            bell,
            unannounced,
            meeting: None,
        };
        (inbox, outbox)
    }

    pub(super) fn try_recv(&mut self) -> Option<FromShard> {
        for _ in 0..self.lanes.len() {
            let lane = self.turn;
            self.turn = (lane + 1) % self.lanes.len();
            if let Ok(message) = self.lanes[lane].try_recv() {
                return Some(message);
            }
        }
        None
    }

    pub(super) async fn recv(&mut self) -> FromShard {
        loop {
            if let Some(message) = self.try_recv() {
                return message;
            }
            // rung since the last look or from now on: either ends the wait
            self.bell.notified().await;
        }
    }
}
