//! Where the segments of one flow meet that come to several shards, because a peer stripes them over paths whose sockets
//! belong to different threads: each shard notes which peers and flows it hears, in tables of atomics that all share, and a
//! flow that several hear is put in order by one of them. What is noted fades within seconds; two peers or flows that
//! collide in a table are at worst not noticed. With one shard there is none of this.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use foldhash::fast::FixedState;
use foldhash::quality::RandomState;
use shard::{ETHERNET_HEADER_LEN, SocketId, Stray};
use uring::Waker;
use wire::message::OrderMark;
use wire::{Address, NetworkId, Now};

/// Shards that can be told apart. More put nothing in order among themselves.
const SHARDS_MAX: usize = 16;
/// Peers, and flows, that are noted side by side.
const NOTES: usize = 4096;
/// Frames on their way to one shard. More are delivered where they came.
pub(super) const STRAYS_MAX: usize = 512;
/// Buffers kept for use again, per shard.
const SPARE_MAX: usize = 128;

/// A frame on its way to the shard where its flow meets.
pub(super) struct Given {
    peer: Address,
    socket: SocketId,
    remote: SocketAddr,
    network: NetworkId,
    frame: Vec<u8>,
    mark: Option<OrderMark>,
}

impl Given {
    pub(super) fn stray(&self) -> Stray<'_> {
        let Given { peer, socket, remote, network, ref frame, mark } = *self;
        Stray { peer, socket, remote, network, frame, mark }
    }
}

/// What one shard gets from others.
struct Desk {
    given: ArrayQueue<Given>,
    spare: ArrayQueue<Vec<u8>>,
    waker: OnceLock<Waker>,
}

/// Shared by all shards.
pub(super) struct Meeting {
    hasher: RandomState,
    flow_hasher: FixedState,
    peers: Box<[AtomicU64]>,
    flows: Box<[AtomicU64]>,
    desks: Box<[Desk]>,
}

impl Meeting {
    /// For so many shards; none if there is nothing to meet about.
    pub(super) fn new(shards: usize) -> Option<Meeting> {
        let notes = || (0..NOTES).map(|_| AtomicU64::new(0)).collect();
        let desk =
            || Desk { given: ArrayQueue::new(STRAYS_MAX), spare: ArrayQueue::new(SPARE_MAX), waker: OnceLock::new() };
        (2..=SHARDS_MAX).contains(&shards).then(|| Meeting {
            hasher: RandomState::default(),
            flow_hasher: FixedState::with_seed(rand::random()),
            peers: notes(),
            flows: notes(),
            desks: (0..shards).map(|_| desk()).collect(),
        })
    }

    /// A shard begins to work.
    pub(super) fn join(&self, shard: usize, waker: Waker) {
        if let Some(desk) = self.desks.get(shard) {
            let _ = desk.waker.set(waker);
        }
    }

    /// A shard has heard a peer of late. Whether others have too.
    pub(super) fn heard(&self, shard: usize, peer: Address, now: Now) -> bool {
        note(&self.peers, self.hasher.hash_one(peer), shard, epoch(now)).count_ones() > 1
    }

    /// A shard has got a frame that can be put in order: another one, if that is done there.
    pub(super) fn elsewhere(&self, shard: usize, frame: &[u8], now: Now) -> Option<usize> {
        let ([.., e0, e1], payload) = frame.split_first_chunk::<ETHERNET_HEADER_LEN>()?;
        let hash = shard::flow(&self.flow_hasher, u16::from_be_bytes([*e0, *e1]), payload);
        let hearing = note(&self.flows, hash, shard, epoch(now));
        // Any of those that hear it, always the same.
        let nth = (hash >> 32) as u32 % hearing.count_ones().max(1);
        let home = (0..SHARDS_MAX).filter(|shard| hearing >> shard & 1 == 1).nth(nth as usize)?;
        (home != shard).then_some(home)
    }

    /// Hands a frame to another shard, which is to be [woken](Meeting::wake) soon. False if it has no room.
    pub(super) fn give(&self, to: usize, stray: &Stray<'_>) -> bool {
        let Some(desk) = self.desks.get(to).filter(|desk| !desk.given.is_full()) else { return false };
        let mut frame = desk.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(stray.frame);
        let Stray { peer, socket, remote, network, mark, .. } = *stray;
        desk.given.push(Given { peer, socket, remote, network, frame, mark }).is_ok()
    }

    /// Frames that wait for a shard.
    pub(super) fn waiting(&self, shard: usize) -> usize {
        self.desks.get(shard).map_or(0, |desk| desk.given.len())
    }

    /// The next of them.
    pub(super) fn take(&self, shard: usize) -> Option<Given> {
        self.desks.get(shard)?.given.pop()
    }

    /// It was dealt with.
    pub(super) fn recycle(&self, shard: usize, given: Given) {
        if let Some(desk) = self.desks.get(shard) {
            let _ = desk.spare.push(given.frame);
        }
    }

    /// Wakes every shard whose bit is set.
    pub(super) fn wake(&self, shards: u16) {
        let wanted = self.desks.iter().enumerate().filter(|(shard, _)| shards >> shard & 1 == 1);
        wanted.filter_map(|(_, desk)| desk.waker.get()).for_each(Waker::wake);
    }
}

/// Counts seconds, nearly.
fn epoch(now: Now) -> u8 {
    (now.mono_us >> 20) as u8
}

/// Notes that a shard heard who hashes so. Those that did in this epoch or the one before, as bits. Once noted, an epoch
/// costs nobody a write.
fn note(notes: &[AtomicU64], hash: u64, shard: usize, epoch: u8) -> u16 {
    let Some(note) = notes.get(hash as usize % NOTES) else { return 0 };
    let (old, tag, bit) = (note.load(Ordering::Relaxed), hash >> 40, 1u16 << shard);
    // tag 24, epoch 8, shards of the epoch before 16, of this one 16
    let (before, present) = ((old >> 16) as u16, old as u16);
    let (before, present) = match epoch.wrapping_sub((old >> 32) as u8) {
        _ if old >> 40 != tag => (0, bit),
        0 => (before, present | bit),
        1 => (present, bit),
        _ => (0, bit),
    };
    let new = tag << 40 | u64::from(epoch) << 32 | u64::from(before) << 16 | u64::from(present);
    if new != old {
        // Whoever comes in between is noted the next time.
        let _ = note.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }
    before | present
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono_us: seconds << 20, unix_ms: 0 }
    }

    fn frame(port: u8) -> Vec<u8> {
        let ip = [0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&[0; 12][..], &[8, 0], &ip, &[0, port, 0, 80], &[0; 36]].concat()
    }

    #[test]
    fn one_shard_or_too_many_never_meet() {
        assert!(Meeting::new(1).is_none() && Meeting::new(SHARDS_MAX + 1).is_none());
    }

    #[test]
    fn a_flow_that_one_shard_hears_stays_there_and_one_that_two_hear_meets_in_one_of_them() {
        let meeting = Meeting::new(4).unwrap();
        let mut homes = [0; 4];
        for port in 0..100 {
            let frame = frame(port);
            assert_eq!(meeting.elsewhere(1, &frame, at(5)), None);
            assert_eq!(meeting.elsewhere(1, &frame, at(6)), None);
            let by_the_other = meeting.elsewhere(3, &frame, at(6)).unwrap_or(3);
            assert_eq!(meeting.elsewhere(1, &frame, at(6)).unwrap_or(1), by_the_other);
            homes[by_the_other] += 1;
            // the other falls silent
            assert_eq!(meeting.elsewhere(1, &frame, at(8)), None);
        }
        assert!(homes[0] == 0 && homes[1] > 20 && homes[2] == 0 && homes[3] > 20, "{homes:?}");
    }

    #[test]
    fn flows_without_ports_meet_too_and_the_pieces_of_a_datagram_with_them() {
        let meeting = Meeting::new(2).unwrap();
        let of = |protocol: u8, fragment: u8, id: u8, ports: u8| {
            let ip = [0x45, 0, 0, 60, 0, id, fragment, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            [&[0; 12][..], &[8, 0], &ip, &[ports; 40]].concat()
        };
        let mut given = [0; 2];
        for n in 0..50 {
            let esp = of(50, 0, 0, n);
            let pieces = [of(17, 0x20, n, n), of(17, 0x01, n, 0)];
            assert_eq!(meeting.elsewhere(0, &esp, at(5)), None);
            let first = meeting.elsewhere(1, &esp, at(5)).unwrap_or(1);
            assert_eq!(meeting.elsewhere(0, &esp, at(5)).unwrap_or(0), first);
            assert_eq!(meeting.elsewhere(0, &pieces[0], at(5)), None);
            let second = meeting.elsewhere(1, &pieces[1], at(5)).unwrap_or(1);
            assert_eq!(meeting.elsewhere(0, &pieces[0], at(5)).unwrap_or(0), second);
            given[0] += usize::from(first == 0);
            given[1] += usize::from(second == 0);
        }
        assert!(given.iter().all(|n| (10..40).contains(n)), "{given:?}");
    }

    #[test]
    fn who_is_heard_by_several_is_known_for_seconds() {
        let (meeting, peer) = (Meeting::new(2).unwrap(), Address::from_u64(0xfcac9e2c1f));
        assert!(!meeting.heard(0, peer, at(254)));
        assert!(meeting.heard(1, peer, at(254)));
        assert!(meeting.heard(1, peer, at(255)) && meeting.heard(0, peer, at(255)));
        assert!(meeting.heard(0, peer, at(256)), "the epoch goes around the corner");
        assert!(!meeting.heard(0, peer, at(257)));
    }

    #[test]
    fn what_is_given_arrives_and_a_full_desk_refuses() {
        let meeting = Meeting::new(2).unwrap();
        let (peer, socket, network) = (Address::from_u64(0xfcac9e2c1f), SocketId(3), NetworkId(7));
        let mark = Some(OrderMark(9));
        let stray =
            Stray { peer, socket, remote: SocketAddr::from(([192, 0, 2, 1], 9993)), network, frame: &[1, 2, 3], mark };
        for _ in 0..STRAYS_MAX {
            assert!(meeting.give(1, &stray));
        }
        assert!(!meeting.give(1, &stray) && !meeting.give(2, &stray));
        assert_eq!((meeting.waiting(0), meeting.waiting(1)), (0, STRAYS_MAX));
        let given = meeting.take(1).unwrap();
        assert_eq!(given.stray(), stray);
        meeting.recycle(1, given);
        assert!(meeting.give(1, &stray));
    }
}
