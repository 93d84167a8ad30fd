//! Where the flows of one shard went last. A fixed table: no allocation, no lock, and whoever opens many flows pushes out
//! the longest idle ones of the same few buckets only.

use crate::limits::{ELEPHANT_PACKETS, ELEPHANT_WINDOW_US, FLOW_IDLE_US, FLOWS_MAX};

/// Flows per bucket.
const WAYS: usize = 4;

/// One flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Hash of what makes it one.
    pub key: u64,
    /// [`PathId`](crate::path::PathId) it is on, as numbers: slot and generation.
    pub path: (u8, u32),
    /// Membership of the plan for which its home was looked up.
    pub epoch: u32,
    /// Index of its home in that plan.
    pub home: u8,
    /// `compat`: the path that it was given when it was new.
    pub origin: (u8, u32),
    /// Packets in the present window.
    pub packets: u32,
    /// Start of that window, us.
    pub window_us: u64,
    /// Its last packet, us. 0: the place is empty.
    pub last_us: u64,
}

impl Flow {
    /// Counts a packet. True while it is a large flow.
    pub fn count(&mut self, now_us: u64) -> bool {
        if now_us.saturating_sub(self.window_us) > ELEPHANT_WINDOW_US {
            // Half of the last window carries over, so that a steady flow stays large across the border.
            let steady = now_us.saturating_sub(self.window_us) < 2 * ELEPHANT_WINDOW_US;
            self.packets = if steady { self.packets.min(2 * ELEPHANT_PACKETS) / 2 } else { 0 };
            self.window_us = now_us;
        }
        self.packets = self.packets.saturating_add(1);
        self.packets > ELEPHANT_PACKETS
    }
}

/// The flows of one peer or of all peers of a shard.
#[derive(Clone, Debug)]
pub struct FlowTable {
    flows: Box<[Flow]>,
    evicted: u64,
}

impl FlowTable {
    /// For so many flows, rounded up to a power of two and at most [`FLOWS_MAX`].
    pub fn new(flows: usize) -> FlowTable {
        let len = flows.clamp(WAYS, FLOWS_MAX).next_power_of_two();
        FlowTable { flows: vec![Flow::default(); len].into_boxed_slice(), evicted: 0 }
    }

    /// The flow of this key, and whether it is new.
    pub fn entry(&mut self, key: u64, now_us: u64) -> (&mut Flow, bool) {
        let now_us = now_us.max(1);
        let bucket = (key as usize & (self.flows.len() / WAYS - 1)) * WAYS;
        let ways = &mut self.flows[bucket..bucket + WAYS];
        let fresh = |f: &Flow| f.last_us != 0 && now_us.saturating_sub(f.last_us) < FLOW_IDLE_US;
        if let Some(i) = ways.iter().position(|f| f.key == key && fresh(f)) {
            return (&mut ways[i], false);
        }
        let mut oldest = 0;
        for i in 1..WAYS {
            if ways[i].last_us < ways[oldest].last_us {
                oldest = i;
            }
        }
        if fresh(&ways[oldest]) {
            self.evicted += 1;
        }
        ways[oldest] = Flow { key, last_us: now_us, window_us: now_us, ..Flow::default() };
        (&mut ways[oldest], true)
    }

    /// Flows that were forgotten for want of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Flows that are remembered on one path. Walks the table: for status only.
    pub fn on_path(&self, path: (u8, u32), now_us: u64) -> usize {
        let fresh = |f: &&Flow| f.last_us != 0 && now_us.saturating_sub(f.last_us) < FLOW_IDLE_US;
        self.flows.iter().filter(fresh).filter(|f| f.path == path).count()
    }
}
