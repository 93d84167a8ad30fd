//! Splitting sealed packets into datagrams and putting them together again within bounds. It knows ids, numbers and
//! lengths; whether a whole packet is genuine only its MAC can say, so nothing here may be believed.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter::FusedIterator;

use foldhash::fast::FixedState;
use hashlink::LinkedHashMap;

use crate::packet::{FRAG_HDR_LEN, Fragment, HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, Packet, fragment_header};
use crate::time::Now;

// spec: paths, "Hardening bounds", reassembly

/// Incomplete packets kept per path; the oldest of that path goes first.
pub const SETS_PER_PATH: usize = 8;
/// Incomplete packets kept in all.
pub const SETS_TOTAL: usize = 1024;
/// Bytes kept for incomplete packets in all, unused capacity included.
pub const REASSEMBLY_BYTES: usize = 8 << 20;
/// How long an incomplete packet is kept, in milliseconds from its first part.
pub const REASSEMBLY_TIMEOUT_MS: u64 = 500;
/// Buffers kept for the next packets.
const SPARE_BUFFERS: usize = 16;

/// Datagrams that a packet of `len` bytes takes at `mtu` bytes of UDP payload. More than one: the packet's fragmented
/// flag must be set before it is sealed. More than [`MAX_FRAGMENTS`]: no receiver will take it.
// spec: wire, "Fragmentation", sending
pub fn datagrams_needed(len: usize, mtu: usize) -> usize {
    let mtu = mtu.max(HDR_LEN);
    1 + len.saturating_sub(mtu).div_ceil(mtu - FRAG_HDR_LEN)
}

/// One datagram of a packet: an optional fragment header, then a piece of the packet itself.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    header: Option<[u8; FRAG_HDR_LEN]>,
    data: &'a [u8],
}

impl<'a> Part<'a> {
    /// The fragment header; empty for the first datagram.
    pub fn header(&self) -> &[u8] {
        self.header.as_ref().map_or(&[], |header| &header[..])
    }

    /// The piece of the packet.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of the datagram.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.header().len() + self.data.len()
    }

    /// Appends the datagram.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header());
        out.extend_from_slice(self.data);
    }

    /// The datagram by itself.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(self.len());
        self.write(&mut datagram);
        datagram
    }
}

/// The datagrams of one sealed packet, in order.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    header: [u8; HDR_LEN],
    rest: &'a [u8],
    mtu: usize,
    next: u8,
    total: u8,
}

/// Splits a sealed packet as the reference does: every datagram but the last is filled to `mtu`. None if that takes
/// more than [`MAX_FRAGMENTS`] datagrams, or the packet is shorter than a header.
pub fn split(packet: &[u8], mtu: usize) -> Option<Split<'_>> {
    let header = *packet.first_chunk()?;
    let total = datagrams_needed(packet.len(), mtu);
    if total > MAX_FRAGMENTS {
        return None;
    }
    debug_assert!(
        Packet::new(packet).is_ok_and(|p| p.fragmented() == (total > 1)),
        "the fragmented flag is authenticated and must say what is done"
    );
    Some(Split { header, rest: packet, mtu: mtu.max(HDR_LEN), next: 0, total: total as u8 })
}

/// Splits into as few datagrams as [`split`], but of equal size, except that the last may be a few bytes shorter:
/// equal datagrams leave as one GSO send. Receivers take parts of any size.
pub fn split_even(packet: &[u8], mtu: usize) -> Option<Split<'_>> {
    let total = datagrams_needed(packet.len(), mtu);
    split(packet, (packet.len() + FRAG_HDR_LEN * (total - 1)).div_ceil(total))
}

impl<'a> Iterator for Split<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        if self.next == self.total {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let header = (number > 0).then(|| fragment_header(&self.header, self.total, number));
        let room = if header.is_some() { self.mtu - FRAG_HDR_LEN } else { self.mtu };
        let (data, rest) = self.rest.split_at(room.min(self.rest.len()));
        self.rest = rest;
        Some(Part { header, data })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.total - self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Split<'_> {}
impl FusedIterator for Split<'_> {}

/// What became of parts and sets. Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyCounters {
    /// Packets completed.
    pub completed: u64,
    /// Parts that were there already.
    pub duplicates: u64,
    /// Parts with an impossible total, number or length.
    pub malformed: u64,
    /// Sets dropped because two parts disagreed about the total.
    pub disagreeing: u64,
    /// Sets dropped because they would exceed the largest packet.
    pub oversized: u64,
    /// Sets dropped because they were incomplete for too long.
    pub expired: u64,
    /// Sets dropped to make room, per path or in all.
    pub evicted: u64,
}

/// Puts packets together. `K` names the path a part arrived over: one packet's parts all take one path.
///
/// Stricter than the reference (spec: wire, "Fragmentation", receiving, Gateway): parts of a set agree about the total,
/// numbers lie below it, and everything is bounded. A head on a path is remembered until its fragments come.
#[derive(Debug)]
pub struct Reassembler<K> {
    sets_max: usize,
    bytes_max: usize,
    /// Oldest first.
    sets: LinkedHashMap<(u64, K), Set, FixedState>,
    by_path: HashMap<K, PathSets, FixedState>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    counters: ReassemblyCounters,
}

#[derive(Debug)]
struct Set {
    started_ms: u64,
    /// 0 until a fragment told it.
    total: u8,
    /// Where part i lies in `bytes`, in order of arrival; empty if it has not come.
    parts: [(u16, u16); MAX_FRAGMENTS],
    bytes: Vec<u8>,
}

/// IDs of one path's sets, oldest first.
#[derive(Debug, Default)]
struct PathSets {
    ids: [u64; SETS_PER_PATH],
    len: usize,
}

impl PathSets {
    fn push(&mut self, id: u64) {
        self.ids[self.len] = id;
        self.len += 1;
    }

    fn remove(&mut self, id: u64) {
        if let Some(at) = self.ids[..self.len].iter().position(|&i| i == id) {
            self.ids.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }
}

impl<K: Copy + Eq + Hash> Reassembler<K> {
    /// Holds nothing yet. `seed` should be random: it keeps strangers from choosing IDs that collide in our tables.
    pub fn new(seed: u64) -> Reassembler<K> {
        Reassembler::with_share(seed, 1)
    }

    /// One of `sharers` that keep the totals together: each has an equal part of them.
    pub fn with_share(seed: u64, sharers: usize) -> Reassembler<K> {
        let hasher = FixedState::with_seed(seed);
        let sets_max = (SETS_TOTAL / sharers.max(1)).max(1);
        Reassembler {
            sets_max,
            bytes_max: (REASSEMBLY_BYTES / sharers.max(1)).max(MAX_PACKET),
            sets: LinkedHashMap::with_capacity_and_hasher(sets_max, hasher.clone()),
            by_path: HashMap::with_capacity_and_hasher(sets_max, hasher),
            bytes: 0,
            spare: Vec::with_capacity(SPARE_BUFFERS),
            counters: ReassemblyCounters::default(),
        }
    }

    /// Takes a head, whose fragmented flag must be set: others are whole already. Returns the packet if this was its
    /// last part.
    pub fn head(&mut self, now: Now, path: K, datagram: &[u8]) -> Option<Vec<u8>> {
        match Packet::new(datagram) {
            Ok(head) if head.fragmented() => self.add(now, path, head.id(), None, 0, datagram),
            _ => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    /// Takes a fragment. Returns the packet if this was its last part.
    pub fn fragment(&mut self, now: Now, path: K, datagram: &[u8]) -> Option<Vec<u8>> {
        match Fragment::new(datagram) {
            Ok(part)
                if (2..=MAX_FRAGMENTS as u8).contains(&part.total()) && (1..part.total()).contains(&part.number()) =>
            {
                self.add(now, path, part.id(), Some(part.total()), usize::from(part.number()), part.data())
            }
            _ => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    /// Drops what has been incomplete for too long. Every part that comes does this too.
    pub fn expire(&mut self, now: Now) {
        while let Some((&key, set)) = self.sets.front()
            && now.ms().saturating_sub(set.started_ms) >= REASSEMBLY_TIMEOUT_MS
        {
            self.counters.expired += 1;
            self.discard(key);
        }
    }

    /// Gives back the buffer of a packet, so that the next one need not allocate.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && (1..=2 * MAX_PACKET).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Incomplete packets held.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Bytes held for them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What became of parts and sets.
    pub fn counters(&self) -> ReassemblyCounters {
        self.counters
    }

    fn add(&mut self, now: Now, path: K, id: u64, total: Option<u8>, number: usize, data: &[u8]) -> Option<Vec<u8>> {
        let key = (id, path);
        self.expire(now);
        if !self.sets.contains_key(&key) {
            self.open(now, key);
        }
        let set = self.sets.get_mut(&key)?;
        if let Some(total) = total {
            if set.total != 0 && set.total != total {
                self.counters.disagreeing += 1;
                self.discard(key);
                return None;
            }
            set.total = total;
        }
        if set.parts[number] != (0, 0) {
            self.counters.duplicates += 1;
            return None;
        }
        if set.bytes.len() + data.len() > MAX_PACKET {
            self.counters.oversized += 1;
            self.discard(key);
            return None;
        }
        let (start, held) = (set.bytes.len(), set.bytes.capacity());
        set.bytes.extend_from_slice(data);
        set.parts[number] = (start as u16, set.bytes.len() as u16);
        self.bytes += set.bytes.capacity() - held;
        if set.is_complete() {
            return self.complete(key);
        }
        while self.bytes > self.bytes_max && self.evict(path, Some(id)) {}
        None
    }

    /// Begins a set, at the cost of an older one if need be.
    fn open(&mut self, now: Now, key: (u64, K)) {
        let (id, path) = key;
        let of_path = self.by_path.get(&path).map_or(0, |sets| sets.len);
        if of_path == SETS_PER_PATH || self.sets.len() == self.sets_max {
            self.evict(path, None);
        }
        let bytes = self.spare.pop().unwrap_or_default();
        self.bytes += bytes.capacity();
        self.by_path.entry(path).or_default().push(id);
        self.sets.insert(key, Set { started_ms: now.ms(), total: 0, parts: [(0, 0); MAX_FRAGMENTS], bytes });
    }

    /// Drops the oldest set of `path`, or if it has none the oldest of all, but not the one named `except`. False if
    /// there is nothing to drop.
    fn evict(&mut self, path: K, except: Option<u64>) -> bool {
        let kept = except.map(|id| (id, path));
        let of_path = self.by_path.get(&path).map_or(&[][..], |sets| &sets.ids[..sets.len]);
        let victim = of_path.iter().map(|&id| (id, path)).find(|&key| Some(key) != kept);
        let Some(victim) = victim.or_else(|| self.sets.keys().copied().find(|&key| Some(key) != kept)) else {
            return false;
        };
        self.counters.evicted += 1;
        self.discard(victim);
        true
    }

    fn discard(&mut self, key: (u64, K)) {
        if let Some(set) = self.take(key) {
            self.recycle(set.bytes);
        }
    }

    fn take(&mut self, key: (u64, K)) -> Option<Set> {
        let set = self.sets.remove(&key)?;
        self.bytes -= set.bytes.capacity();
        if let Some(of_path) = self.by_path.get_mut(&key.1) {
            of_path.remove(key.0);
            if of_path.len == 0 {
                self.by_path.remove(&key.1);
            }
        }
        Some(set)
    }

    fn complete(&mut self, key: (u64, K)) -> Option<Vec<u8>> {
        let set = self.take(key)?;
        self.counters.completed += 1;
        let parts = &set.parts[..usize::from(set.total)];
        if parts.is_sorted() {
            return Some(set.bytes);
        }
        let mut packet = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(set.bytes.len()));
        for &(start, end) in parts {
            packet.extend_from_slice(&set.bytes[usize::from(start)..usize::from(end)]);
        }
        self.recycle(set.bytes);
        Some(packet)
    }
}

impl Set {
    fn is_complete(&self) -> bool {
        self.total != 0 && self.parts[..usize::from(self.total)].iter().all(|&part| part != (0, 0))
    }
}
