//! What a shard saw of one bond since it last said so, in order of time: the batch that the control plane's half lives on. And
//! how that which several shards say of one path, each of its own part, becomes one number.

use crate::limits::{FLOW_IDLE_US, SEEN_SHARDS_MAX};
use crate::path::PathId;

/// What a shard carries counts by this time constant. us.
const LOAD_US: f64 = 1e6;

/// One thing seen. Times are us of the clock that all threads share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// A frame left that asks for acknowledgement.
    Requested {
        /// Over this path.
        path: PathId,
        /// Its ID on the wire.
        packet_id: u64,
        /// When.
        at_us: u64,
    },
    /// It was acknowledged.
    Acked {
        /// The path over which the frame left.
        path: PathId,
        /// The frame's ID.
        packet_id: u64,
        /// When.
        at_us: u64,
    },
    /// Frames that left over one path.
    Sent {
        /// The path.
        path: PathId,
        /// How many.
        packets: u64,
        /// Their bytes on the wire.
        bytes: u64,
    },
    /// What the path was found to carry for this shard, beside what others send over it. bytes/s.
    Rate {
        /// The path.
        path: PathId,
        /// The estimate.
        rate: f64,
    },
    /// Flows of this shard that are on a path now.
    Flows {
        /// The path.
        path: PathId,
        /// How many.
        count: u32,
    },
    /// A frame whose odd ID a timing report of the remote may name.
    Sampled {
        /// Over this path.
        path: PathId,
        /// Its ID.
        packet_id: u64,
        /// When it left.
        at_us: u64,
    },
}

/// What the shards say of one path. Who has not been heard for longest makes room for one more than
/// [`SEEN_SHARDS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Shares(Vec<Share>);

#[derive(Clone, Copy, Debug)]
struct Share {
    shard: usize,
    rate: Option<f64>,
    flows: u32,
    flows_us: u64,
    /// Bytes sent, those of long ago counting less.
    bytes: f64,
    /// Until when `bytes` is right.
    heard_us: u64,
}

impl Share {
    /// bytes/s.
    fn load(&self, now_us: u64) -> f64 {
        let age = now_us.saturating_sub(self.heard_us) as f64;
        self.bytes * (-age / LOAD_US).exp() * (1e6 / LOAD_US)
    }
}

impl Shares {
    fn of(&mut self, now_us: u64, shard: usize) -> &mut Share {
        let Shares(shares) = self;
        let known = shares.iter().position(|share| share.shard == shard);
        let at = known.unwrap_or_else(|| {
            let new = Share { shard, rate: None, flows: 0, flows_us: 0, bytes: 0.0, heard_us: now_us };
            if shares.len() < SEEN_SHARDS_MAX {
                shares.push(new);
                return shares.len() - 1;
            }
            let oldest = (0..shares.len()).min_by_key(|at| shares[*at].heard_us).unwrap_or(0);
            shares[oldest] = new;
            oldest
        });
        let share = &mut shares[at];
        (share.bytes, share.heard_us) = (share.load(now_us) * (LOAD_US / 1e6), now_us.max(share.heard_us));
        share
    }

    /// A shard sent so many bytes.
    pub fn sent(&mut self, now_us: u64, shard: usize, bytes: u64) {
        self.of(now_us, shard).bytes += bytes as f64;
    }

    /// A shard found another rate.
    pub fn found(&mut self, now_us: u64, shard: usize, rate: f64) {
        self.of(now_us, shard).rate = Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0);
    }

    /// A shard counted its flows.
    pub fn counted(&mut self, now_us: u64, shard: usize, flows: u32) {
        let share = self.of(now_us, shard);
        (share.flows, share.flows_us) = (flows, now_us);
    }

    /// What the path carries, bytes/s: what the shard that uses it most finds left for itself, and what the others send
    /// meanwhile, as far as they say they could. What one found that sends nothing any more is not there twice.
    pub fn rate(&self, now_us: u64) -> Option<f64> {
        let load = |share: &Share| share.load(now_us);
        let found = || self.0.iter().filter_map(|share| Some((share, share.rate?)));
        let (most, rate) = found().max_by(|(a, _), (b, _)| load(a).total_cmp(&load(b)))?;
        let others = found().filter(|(share, _)| share.shard != most.shard);
        Some(rate + others.map(|(share, rate)| load(share).min(rate)).sum::<f64>())
    }

    /// The flows of all shards. Those of one that has not counted for as long as an idle flow is remembered are gone.
    pub fn flows(&self, now_us: u64) -> u32 {
        let counts = self.0.iter().filter(|share| now_us.saturating_sub(share.flows_us) < FLOW_IDLE_US);
        counts.fold(0, |sum, share| sum.saturating_add(share.flows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each shard sends this many bytes/s from one time to another, us, told every 5 ms.
    fn send(shares: &mut Shares, from_us: u64, to_us: u64, rates: &[(usize, f64)]) {
        for at in (from_us..to_us).step_by(5000) {
            rates.iter().for_each(|(shard, rate)| shares.sent(at, *shard, (rate / 200.0) as u64));
        }
    }

    #[test]
    fn one_shard_is_believed_as_it_says_busy_or_idle() {
        let mut shares = Shares::default();
        assert_eq!((shares.rate(0), shares.flows(0)), (None, 0));
        shares.found(1, 3, 5e6);
        assert_eq!(shares.rate(1), Some(5e6));
        send(&mut shares, 0, 3_000_000, &[(3, 4e6)]);
        shares.found(3_000_000, 3, 6e6);
        assert_eq!((shares.rate(3_000_000), shares.rate(60_000_000)), (Some(6e6), Some(6e6)));
        shares.found(4_000_000, 3, f64::NAN);
        assert_eq!(shares.rate(4_000_000), None);
    }

    #[test]
    fn two_shards_that_share_a_path_find_halves_and_the_path_carries_both() {
        let mut shares = Shares::default();
        send(&mut shares, 0, 5_000_000, &[(0, 2.5e6), (1, 2.4e6)]);
        (0..2).for_each(|shard| shares.found(5_000_000, shard, 2.5e6));
        let rate = shares.rate(5_000_000).unwrap();
        assert!((4.8e6..5.05e6).contains(&rate), "{rate}");
        // One stops, the other finds room: nothing counts twice, and there is no dip in between.
        let mut least = f64::MAX;
        for tenth in 50..120u64 {
            let own = 5e6f64.min(2.5e6 * 1.1f64.powi(tenth as i32 - 50));
            shares.found(tenth * 100_000, 0, own);
            send(&mut shares, tenth * 100_000, (tenth + 1) * 100_000, &[(0, own)]);
            let rate = shares.rate(tenth * 100_000 + 50_000).unwrap();
            assert!(rate < 6.5e6, "{rate}");
            least = least.min(rate);
        }
        let rate = shares.rate(12_000_000).unwrap();
        assert!(least > 4e6 && (4.9e6..5.1e6).contains(&rate), "{least} {rate}");
    }

    #[test]
    fn flows_add_up_until_those_of_a_silent_shard_are_gone() {
        let mut shares = Shares::default();
        for (at, shard, flows) in [(1_000_000, 0, 7), (2_000_000, 1, 5), (2_000_000, 2, u32::MAX)] {
            shares.counted(at, shard, flows);
        }
        assert_eq!(shares.flows(2_000_000), u32::MAX);
        shares.counted(3_000_000, 2, 0);
        shares.counted(3_000_000, 0, 8);
        assert_eq!(shares.flows(3_000_000), 13);
        assert_eq!(shares.flows(2_000_000 + FLOW_IDLE_US), 8);
    }

    #[test]
    fn more_shards_than_are_told_apart_push_out_the_longest_silent() {
        let mut shares = Shares::default();
        for shard in 0..=SEEN_SHARDS_MAX {
            shares.counted(shard as u64 * 1000, shard, 1);
        }
        assert_eq!((shares.0.len(), shares.flows(100_000)), (SEEN_SHARDS_MAX, SEEN_SHARDS_MAX as u32));
        assert!(shares.0.iter().all(|share| share.shard != 0));
    }
}
