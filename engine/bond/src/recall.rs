//! Sealed packets of the last moments, to be sent again over another path when theirs is suspect. The same bytes, so the same
//! packet ID: a Hawser drops what it has already, and towards others only what bears repetition is kept. It never says when
//! a path is suspect, nor which one is better.
// spec: bonding, "Failover without loss"

use std::collections::VecDeque;

use wire::packet::MAX_PACKET;

use crate::inner::{ICMP, ICMPV6, Inner, Piece, SCTP, TCP, UDP, untagged};
use crate::limits::{PATHS_MAX, RECALL_AGE_MAX_US, RECALL_BYTES_MAX, RECALL_IDLE_US, RECALL_PACKETS_MAX};
use crate::path::PathId;

/// Packets are kept in pieces of memory of this size, each in one piece. Larger than any packet.
const CHUNK: usize = 64 << 10;
const CHUNKS_MAX: usize = RECALL_BYTES_MAX / CHUNK;
const QUIC_PORT: u16 = 443;

/// Whether the receiver of this Ethernet payload, or of its headers alone, bears that it comes twice: TCP, SCTP, ICMP echo,
/// QUIC. Of a fragmented datagram only the first fragment tells.
pub fn bears_repetition(ethertype: u16, payload: &[u8]) -> bool {
    const ECHO: [u8; 2] = [8, 0];
    const ECHO_V6: [u8; 2] = [128, 129];
    let (ethertype, packet) = untagged(ethertype, payload);
    let Some(inner) = Inner::parse(ethertype, packet).filter(|inner| inner.piece != Piece::Later) else {
        return false;
    };
    let kind = inner.transport.first();
    match inner.protocol {
        TCP | SCTP => true,
        UDP => inner.ports().is_some_and(|(from, to)| from == QUIC_PORT || to == QUIC_PORT),
        ICMP if inner.addresses.len() == 8 => kind.is_some_and(|kind| ECHO.contains(kind)),
        ICMPV6 if inner.addresses.len() == 32 => kind.is_some_and(|kind| ECHO_V6.contains(kind)),
        _ => false,
    }
}

/// A packet that is to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// As it was sealed.
    pub packet: &'a [u8],
    /// It left in datagrams of this many bytes at most: cut so again, it mixes with what of them arrived.
    pub mtu: u16,
}

/// What was kept and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets kept.
    pub kept: u64,
    /// Not kept: they do not bear repetition.
    pub refused: u64,
    /// Pushed out by newer ones before they were acknowledged or too old.
    pub evicted: u64,
    /// Handed out to be sent again.
    pub again: u64,
}

#[derive(Debug)]
struct Entry {
    path: PathId,
    sent_us: u64,
    /// Where its bytes are: number of the chunk, place in it.
    chunk: u32,
    at: u16,
    len: u16,
    mtu: u16,
}

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    used: usize,
    /// Packets of it that are still kept.
    packets: usize,
}

/// What is known of the path in one slot.
#[derive(Clone, Copy, Debug)]
struct Known {
    generation: u32,
    /// What left before is no more our business.
    covered_us: u64,
    /// What left until then is to be sent again.
    lost_us: Option<u64>,
}

/// One peer's packets of the last moments.
#[derive(Debug, Default)]
pub struct Recall {
    /// In the order in which they were kept, which is that of their bytes.
    entries: VecDeque<Entry>,
    /// Number of the first of them.
    first: u64,
    /// Those with packets.
    chunks: VecDeque<Chunk>,
    /// Number of the first of them.
    first_chunk: u32,
    spare: Vec<Chunk>,
    /// The fewest spare chunks since then, us.
    unused: (usize, u64),
    /// Number of the entry that [`Recall::next_lost`] looks at next.
    cursor: u64,
    /// By slot.
    known: Vec<Known>,
    all: bool,
    counters: Counters,
}

impl Recall {
    /// Holds nothing, and no memory.
    pub fn new() -> Recall {
        Recall::default()
    }

    /// Whether the receiver drops repeated packet IDs: then all packets are kept.
    pub fn keep_all(&mut self, all: bool) {
        self.all = all;
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Packets that are kept now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory taken for packets.
    pub fn memory(&self) -> usize {
        (self.chunks.len() + self.spare.len()) * CHUNK
    }

    /// Keeps a sealed packet that left over a path in datagrams of `mtu` bytes. `bears`: see [`bears_repetition`].
    pub fn keep(&mut self, now_us: u64, path: PathId, packet: &[u8], mtu: u16, bears: bool) {
        if !(bears || self.all) || packet.is_empty() || packet.len() > MAX_PACKET {
            self.counters.refused += 1;
            return;
        }
        if self.entries.len() == RECALL_PACKETS_MAX {
            self.evict();
        }
        if self.chunks.back().is_none_or(|chunk| chunk.used + packet.len() > CHUNK) {
            if self.chunks.len() == CHUNKS_MAX {
                let full = self.first_chunk;
                while self.first_chunk == full {
                    self.evict();
                }
            }
            let chunk = self.spare.pop().unwrap_or_else(Chunk::new);
            self.unused.0 = self.unused.0.min(self.spare.len());
            self.chunks.push_back(chunk);
        }
        let number = self.first_chunk.wrapping_add(self.chunks.len() as u32 - 1);
        let Some(chunk) = self.chunks.back_mut() else { return };
        let (at, len) = (chunk.used, packet.len());
        chunk.bytes[at..at + len].copy_from_slice(packet);
        (chunk.used, chunk.packets) = (at + len, chunk.packets + 1);
        self.entries.push_back(Entry { path, sent_us: now_us, chunk: number, at: at as u16, len: len as u16, mtu });
        self.counters.kept += 1;
    }

    /// An acknowledgement came of something that left over a path at `sent_us`: what left there before is no more our
    /// business.
    pub fn covered(&mut self, path: PathId, sent_us: u64) {
        if let Some(known) = self.know(path) {
            known.covered_us = known.covered_us.max(sent_us);
        }
    }

    /// A path is suspect: what left over it until now and is not covered is to be sent again.
    pub fn lost(&mut self, now_us: u64, path: PathId) {
        if let Some(known) = self.know(path) {
            known.lost_us = Some(now_us);
            self.cursor = self.first;
        }
    }

    /// The oldest packet that is to be sent again. It is taken to leave now over `on`, and may be lost there in its turn.
    /// Call at the pace of that path, until there is none.
    pub fn next_lost(&mut self, now_us: u64, on: PathId) -> Option<Kept<'_>> {
        self.cursor = self.cursor.max(self.first);
        let waiting = self.entries.range((self.cursor - self.first) as usize..);
        let fits = |entry: &Entry| entry.path != on && self.is_lost(entry) && !is_stale(now_us, entry);
        let Some(ahead) = waiting.enumerate().find(|(_, entry)| fits(entry)).map(|(ahead, _)| ahead) else {
            self.cursor = self.first + self.entries.len() as u64;
            return None;
        };
        self.cursor += ahead as u64 + 1;
        let entry = &mut self.entries[(self.cursor - 1 - self.first) as usize];
        (entry.path, entry.sent_us) = (on, now_us);
        self.counters.again += 1;
        let from = usize::from(entry.at);
        let chunk = &self.chunks[entry.chunk.wrapping_sub(self.first_chunk) as usize];
        Some(Kept { packet: &chunk.bytes[from..from + usize::from(entry.len)], mtu: entry.mtu })
    }

    /// Forgets what is covered and what is older than twice the longest RTO of the paths, and gives memory back that was
    /// not used for seconds. To be called at every tick.
    pub fn expire(&mut self, now_us: u64, rto_us: u64) {
        while let Some(entry) = self.entries.front() {
            let old = now_us.saturating_sub(entry.sent_us) > 2 * rto_us;
            let waits = self.cursor <= self.first && self.is_lost(entry) && !is_stale(now_us, entry);
            if waits || !(old || self.is_covered(entry)) {
                break;
            }
            self.forget();
        }
        let (fewest, since) = self.unused;
        if now_us.saturating_sub(since) > RECALL_IDLE_US {
            if self.entries.is_empty() {
                (self.entries, self.known) = Default::default();
            }
            // One more than was needed while there is traffic: it does not come evenly.
            let keep = self.spare.len() - fewest.min(self.spare.len()) + usize::from(!self.chunks.is_empty());
            self.spare.truncate(keep);
            self.unused = (self.spare.len(), now_us);
        }
    }

    fn evict(&mut self) {
        let worth = self.entries.front().is_some_and(|entry| !self.is_covered(entry));
        self.counters.evicted += u64::from(worth);
        self.forget();
    }

    /// Forgets the oldest.
    fn forget(&mut self) {
        let Some(_) = self.entries.pop_front() else { return };
        self.first += 1;
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.packets -= 1;
        if chunk.packets == 0
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.first_chunk = self.first_chunk.wrapping_add(1);
            self.spare.push(Chunk { used: 0, ..chunk });
        }
    }

    fn is_covered(&self, entry: &Entry) -> bool {
        self.of(entry.path).is_some_and(|known| entry.sent_us < known.covered_us)
    }

    fn is_lost(&self, entry: &Entry) -> bool {
        let lost = self.of(entry.path).and_then(|known| known.lost_us);
        lost.is_some_and(|lost_us| entry.sent_us <= lost_us) && !self.is_covered(entry)
    }

    fn of(&self, path: PathId) -> Option<&Known> {
        self.known.get(usize::from(path.slot)).filter(|known| known.generation == path.generation)
    }

    /// The same, to be changed; whoever was in the slot before is forgotten.
    fn know(&mut self, path: PathId) -> Option<&mut Known> {
        let slot = usize::from(path.slot);
        if slot >= PATHS_MAX {
            return None;
        }
        let fresh = |generation| Known { generation, covered_us: 0, lost_us: None };
        if self.known.len() <= slot {
            self.known.resize(slot + 1, fresh(0));
        }
        let known = &mut self.known[slot];
        if known.generation != path.generation {
            *known = fresh(path.generation);
        }
        Some(known)
    }
}

impl Chunk {
    fn new() -> Chunk {
        Chunk { bytes: vec![0; CHUNK].into_boxed_slice(), used: 0, packets: 0 }
    }
}

/// Too old to be of use to anybody.
fn is_stale(now_us: u64, entry: &Entry) -> bool {
    now_us.saturating_sub(entry.sent_us) > RECALL_AGE_MAX_US
}
