//! Warm-up duplication, off unless asked for: while a peer's direct path is new, its frames go over the path and over the
//! relay, the same sealed packet twice. A Hawser drops the second by its packet ID; ZeroTierOne delivers both. Meanwhile
//! the shards have no route to the peer, so that its frames come through the node.
// spec: paths, "Seed plan", P2 warm-up duplication

use std::collections::BTreeMap;

use wire::{Address, Now};

use crate::Node;
use crate::limits::{WARM_UP_MS_MAX, WARMING_MAX};
use crate::path::Path;
use crate::send::Way;

/// Peers whose path is new: frames left to double, and when that ends.
pub(crate) type Warming = BTreeMap<Address, Warm>;

/// What is left of a warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Warm {
    frames: u32,
    until_ms: u64,
}

impl Node {
    /// The way to a peer may have changed: a direct path that is another one than before is warmed up.
    pub(crate) fn warm_up(&mut self, now: Now, address: Address) {
        let wanted = self.settings.warm_up;
        if wanted.is_off() || !self.plan.members.contains_key(&address) || self.bonds.contains(address) {
            return;
        }
        let path = self.way(address, now.ms()).filter(|w| w.owner == address).map(|w| w.path);
        let relay = self.relay_beside(address, now.ms()).is_some();
        let Some(peer) = self.peers.get_mut(address).filter(|p| !p.upstream && p.warmed != path) else { return };
        peer.warmed = path;
        self.warming.remove(&address);
        if path.is_none() || !relay {
            return;
        }
        if self.warming.len() >= WARMING_MAX {
            self.counters.warming_full += 1;
            return;
        }
        let ms = if wanted.ms == 0 { WARM_UP_MS_MAX } else { wanted.ms };
        let warm = Warm {
            frames: if wanted.packets == 0 { u32::MAX } else { wanted.packets },
            until_ms: now.ms() + u64::from(ms),
        };
        self.warming.insert(address, warm);
    }

    /// Frames to this peer go twice.
    pub(crate) fn is_warming(&self, address: Address, now_ms: u64) -> bool {
        self.warming.get(&address).is_some_and(|w| w.frames > 0 && now_ms < w.until_ms)
    }

    /// The way over the relay, beside the direct one.
    pub(crate) fn relay_beside(&self, address: Address, now_ms: u64) -> Option<Path> {
        let upstream = self.roots.best().filter(|&u| u != address)?;
        self.peers.get(upstream)?.best_slot(now_ms).map(|slot| slot.path)
    }

    /// Where a frame to this peer goes beside `way`, if it does.
    pub(crate) fn second_way(&mut self, now: Now, to: Address, way: &Way) -> Option<Path> {
        if self.warming.is_empty() || way.owner != to || !self.is_warming(to, now.ms()) {
            return None;
        }
        let second = self.relay_beside(to, now.ms()).filter(|path| path.remote != way.path.remote)?;
        let warm = self.warming.get_mut(&to)?;
        warm.frames -= 1;
        Some(second)
    }

    /// When the next warm-up ends.
    pub(crate) fn next_warm_ms(&self) -> Option<u64> {
        let end = |w: &Warm| if w.frames == 0 { 0 } else { w.until_ms };
        self.warming.values().map(end).min()
    }

    /// What is warm goes one way from now on, and by the shards.
    pub(crate) fn end_warm_ups(&mut self, now: Now) {
        let warming = |w: &Warm| w.frames > 0 && now.ms() < w.until_ms;
        let over: Vec<Address> = self.warming.iter().filter(|(_, w)| !warming(w)).map(|(&a, _)| a).collect();
        for address in over {
            self.warming.remove(&address);
            self.plan_peer(now, address);
        }
    }
}
