//! Packets that cannot go on yet: received ones whose sender is unknown, and own ones that have no way. Two pools with
//! bounds of their own, so that strangers cannot push out what we want to send.

use std::collections::{BTreeMap, VecDeque};

use wire::Address;
use wire::verb::Verb;

use crate::limits::*;
use crate::path::Path;

/// A whole packet of an unknown sender, as it came.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: Path,
    pub(crate) packet: Vec<u8>,
    since_ms: u64,
}

/// Packets that wait for the identity of their sender. // spec: paths, "Hardening bounds", packets waiting for WHOIS
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    by_source: BTreeMap<Address, Vec<Held>>,
    count: usize,
    bytes: usize,
}

impl Waiting {
    /// Holds a packet; false if there is no room, and then the packet is the one that goes.
    pub(crate) fn hold(&mut self, source: Address, path: Path, packet: &[u8], now_ms: u64) -> bool {
        let of_source = self.by_source.get(&source).map_or(0, Vec::len);
        if of_source >= WAITING_PER_SOURCE || self.count >= WAITING_MAX || self.bytes + packet.len() > WAITING_BYTES_MAX
        {
            return false;
        }
        self.count += 1;
        self.bytes += packet.len();
        let held = Held { path, packet: packet.to_vec(), since_ms: now_ms };
        self.by_source.entry(source).or_default().push(held);
        true
    }

    /// The packets of `source`, oldest first.
    pub(crate) fn take(&mut self, source: Address) -> Vec<Held> {
        let held = self.by_source.remove(&source).unwrap_or_default();
        self.count -= held.len();
        self.bytes -= held.iter().map(|h| h.packet.len()).sum::<usize>();
        held
    }

    /// Drops what has waited too long; returns how many.
    pub(crate) fn expire(&mut self, now_ms: u64) -> u64 {
        let before = self.count;
        let (count, bytes) = (&mut self.count, &mut self.bytes);
        self.by_source.retain(|_, held| {
            held.retain(|h| {
                let keep = now_ms.saturating_sub(h.since_ms) <= WAITING_MS;
                if !keep {
                    *count -= 1;
                    *bytes -= h.packet.len();
                }
                keep
            });
            !held.is_empty()
        });
        (before - self.count) as u64
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = Address> {
        self.by_source.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A message of ours, not sealed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) verb: Verb,
    pub(crate) payload: Vec<u8>,
    pub(crate) compress: bool,
    /// An OK to it will be looked at.
    pub(crate) expect_reply: bool,
}

impl Message {
    pub(crate) fn new(verb: Verb, payload: Vec<u8>) -> Message {
        Message { verb, payload, compress: false, expect_reply: false }
    }

    pub(crate) fn expecting_reply(mut self) -> Message {
        self.expect_reply = true;
        self
    }
}

/// Messages that wait until their recipient is known and can be reached.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    by_destination: BTreeMap<Address, VecDeque<(u64, Message)>>,
    count: usize,
    bytes: usize,
}

impl Queue {
    /// Queues a message; when the recipient's queue is full its oldest one goes. Returns how many messages were
    /// dropped.
    pub(crate) fn push(&mut self, to: Address, message: Message, now_ms: u64) -> u64 {
        if self.count >= QUEUE_MAX || self.bytes + message.payload.len() > QUEUE_BYTES_MAX {
            return 1;
        }
        let queue = self.by_destination.entry(to).or_default();
        self.count += 1;
        self.bytes += message.payload.len();
        queue.push_back((now_ms, message));
        let mut queued: usize = queue.iter().map(|(_, m)| m.payload.len()).sum();
        let mut dropped = 0;
        while queue.len() > QUEUE_PER_PEER || queued > QUEUE_PER_PEER_BYTES {
            let Some((_, oldest)) = queue.pop_front() else { break };
            self.count -= 1;
            self.bytes -= oldest.payload.len();
            queued -= oldest.payload.len();
            dropped += 1;
        }
        dropped
    }

    /// The messages for `to`, oldest first.
    pub(crate) fn take(&mut self, to: Address) -> Vec<Message> {
        let queue = self.by_destination.remove(&to).unwrap_or_default();
        self.count -= queue.len();
        self.bytes -= queue.iter().map(|(_, m)| m.payload.len()).sum::<usize>();
        queue.into_iter().map(|(_, message)| message).collect()
    }

    /// Drops what has waited too long; returns how many.
    pub(crate) fn expire(&mut self, now_ms: u64) -> u64 {
        let before = self.count;
        let (count, bytes) = (&mut self.count, &mut self.bytes);
        self.by_destination.retain(|_, queue| {
            while let Some((since_ms, message)) = queue.front()
                && now_ms.saturating_sub(*since_ms) > QUEUE_MS
            {
                *count -= 1;
                *bytes -= message.payload.len();
                queue.pop_front();
            }
            !queue.is_empty()
        });
        (before - self.count) as u64
    }

    pub(crate) fn destinations(&self) -> Vec<Address> {
        self.by_destination.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::LocalSocketId;

    fn path() -> Path {
        Path { socket: LocalSocketId(1), remote: "192.0.2.1:1".parse().unwrap() }
    }

    fn node(n: u64) -> Address {
        Address::from_u64(n)
    }

    #[test]
    fn four_packets_of_an_unknown_sender_wait_and_the_fifth_is_dropped() {
        let mut waiting = Waiting::default();
        assert_eq!((0..9).filter(|_| waiting.hold(node(1), path(), &[0; 28], 0)).count(), WAITING_PER_SOURCE);
        assert!(waiting.hold(node(2), path(), &[0; 28], 0));
        assert_eq!(waiting.take(node(1)).len(), WAITING_PER_SOURCE);
        assert_eq!((waiting.len(), waiting.bytes()), (1, 28));
    }

    #[test]
    fn packets_of_unknown_senders_are_bounded_in_number_and_bytes_and_time() {
        let mut waiting = Waiting::default();
        assert_eq!((0..5000).filter(|&n| waiting.hold(node(n), path(), &[0; 28], 0)).count(), WAITING_MAX);
        assert_eq!(waiting.expire(WAITING_MS), 0);
        assert_eq!(waiting.expire(WAITING_MS + 1), WAITING_MAX as u64);
        assert_eq!((waiting.len(), waiting.bytes()), (0, 0));
        assert_eq!(
            (0..5000).filter(|&n| waiting.hold(node(n), path(), &[0; 9000], 0)).count(),
            WAITING_BYTES_MAX / 9000
        );
    }

    #[test]
    fn the_queue_of_one_recipient_drops_its_oldest() {
        let mut queue = Queue::default();
        let dropped: u64 =
            (0..300u16).map(|n| queue.push(node(1), Message::new(Verb::Frame, n.to_be_bytes().to_vec()), 0)).sum();
        assert_eq!(dropped, 300 - QUEUE_PER_PEER as u64);
        assert_eq!(queue.take(node(1))[0].payload, 44u16.to_be_bytes());
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded_in_number_and_bytes_and_time() {
        let mut queue = Queue::default();
        let big = || Message::new(Verb::Frame, vec![0; 9000]);
        let dropped: u64 = (0..2000).map(|n| queue.push(node(n), big(), 0)).sum();
        assert_eq!(queue.len(), QUEUE_BYTES_MAX / 9000);
        assert_eq!(dropped as usize, 2000 - queue.len());
        queue.expire(QUEUE_MS + 1);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
        for n in 0..5000 {
            queue.push(node(n), Message::new(Verb::Frame, vec![0]), 0);
        }
        assert_eq!(queue.len(), QUEUE_MAX);
    }
}
