//! Messages that cannot be decided yet: the sender's credentials, or an identity a signature needs, are still on their
//! way. A bounded room to wait in; it knows nothing of what the messages say.

use std::collections::BTreeMap;

use wire::{Address, Identity, NetworkId, Verb};

use crate::constants::{HELD_BYTES_MAX, HELD_MAX, HELD_MS, HELD_PER_PEER_MAX};

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// That the sender passes this network's gate.
    Gate(NetworkId),
    /// The identity of this address.
    Identity(Address),
}

/// A message that waits.
#[derive(Clone, Debug)]
pub(crate) struct HeldMessage {
    pub from: Identity,
    pub packet_id: u64,
    pub verb: Verb,
    pub payload: Vec<u8>,
    pub waits_for: WaitsFor,
    pub since_ms: u64,
}

/// All messages that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Held {
    queue: Vec<HeldMessage>,
    per_peer: BTreeMap<Address, usize>,
    bytes: usize,
}

impl Held {
    /// Takes a message in; false if it was dropped because a bound is reached.
    // spec: paths, "Hardening bounds"
    pub fn hold(&mut self, message: HeldMessage) -> bool {
        let of_peer = self.per_peer.get(&message.from.address()).copied().unwrap_or(0);
        let full = of_peer >= HELD_PER_PEER_MAX
            || self.queue.len() >= HELD_MAX
            || self.bytes + message.payload.len() > HELD_BYTES_MAX;
        if full {
            return false;
        }
        self.add(message);
        true
    }

    /// Takes out, oldest first, the messages that `ready` names.
    pub fn release(&mut self, ready: impl FnMut(&HeldMessage) -> bool) -> Vec<HeldMessage> {
        self.take(ready)
    }

    /// Puts back a message that was released too early; it keeps the time since which it waits.
    pub fn put_back(&mut self, message: HeldMessage) {
        self.add(message);
    }

    /// Drops what has waited too long and returns how many that were.
    // spec: networks, "The gate: may this peer talk to us on this network"
    pub fn expire(&mut self, now_ms: u64) -> usize {
        self.take(|m| now_ms.saturating_sub(m.since_ms) > HELD_MS).len()
    }

    /// Drops the messages that `unwanted` names.
    pub fn drop_where(&mut self, unwanted: impl FnMut(&HeldMessage) -> bool) {
        self.take(unwanted);
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    fn add(&mut self, message: HeldMessage) {
        self.bytes += message.payload.len();
        *self.per_peer.entry(message.from.address()).or_default() += 1;
        self.queue.push(message);
    }

    fn take(&mut self, mut wanted: impl FnMut(&HeldMessage) -> bool) -> Vec<HeldMessage> {
        if !self.queue.iter().any(&mut wanted) {
            return Vec::new();
        }
        let (taken, kept) = std::mem::take(&mut self.queue).into_iter().partition::<Vec<_>, _>(|m| wanted(m));
        self.queue = kept;
        taken.iter().for_each(|m| self.forget(m));
        taken
    }

    fn forget(&mut self, message: &HeldMessage) {
        self.bytes -= message.payload.len();
        let peer = message.from.address();
        if let Some(n) = self.per_peer.get_mut(&peer) {
            *n -= 1;
            if *n == 0 {
                self.per_peer.remove(&peer);
            }
        }
    }
}
