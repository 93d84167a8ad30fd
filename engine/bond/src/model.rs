//! What one path can carry right now: its rate, its delay, and the queue that stands in it. Learned from acknowledged
//! requests among the data, a few hundred per second; it needs nothing of the remote but the answer. It must not know what
//! is sent or why, nor a clock.
//!
//! The rate is not measured and then believed, because a path that is not full shows no rate, and one that is kept full
//! shows a queue. Instead the pace is steered so that a queue of [`TARGET_NS`] stands at the bottleneck: while it does, what
//! arrives per second *is* the rate. A path that shows no queue although its pace was used up is paced up, twice as
//! fast per round until the first queue, in growing steps of a few percent later.

use crate::limits::{RATE_MAX, RATE_MIN};

/// The queue that we keep standing in a path in use. ns.
pub const TARGET_NS: u64 = 3_000_000;
/// Requests in flight that are remembered.
const PENDING_MAX: usize = 256;
/// The smallest round trip counts for this long. ns.
const MIN_RTT_WINDOW_NS: u64 = 10_000_000_000;
/// A path that was never seen empty for this long is emptied once. ns.
const DRAIN_AFTER_NS: u64 = 5_000_000_000;
/// Rounds shorter than this would measure the jitter. ns.
const ROUND_MIN_NS: u64 = 10_000_000;
/// Acknowledgements per round at least.
const ROUND_ACKS: u32 = 4;
/// A deviation of the queue is worked off in this long at least. ns.
const SETTLE_NS: f64 = 60_000_000.0;
/// Share of a new rate that is believed.
const GAIN: f64 = 0.25;
/// The share of an error of prediction that one acknowledgement corrects.
const CORRECTION: i64 = 4;
/// As good as no pace. bytes/s.
const UNPACED: f64 = 125e6;
/// First pace: this many bytes per round trip.
const FIRST_WINDOW: f64 = 45_000.0;

#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    id: u64,
    sent_ns: u64,
    len: usize,
    /// Bytes sent before it and with it.
    sum: u64,
    /// The queue it was predicted to meet, less all corrections until then. ns.
    predicted_ns: i64,
    /// The pace held back what followed.
    limited: bool,
}

/// One round of steering: what was sent after the pace was last set.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Only what was sent from here on shows the pace's effect.
    from_ns: u64,
    first: Option<(u64, u64)>,
    last: (u64, u64),
    acks: u32,
    queue_ns: u64,
    limited: bool,
}

/// One path, as the striping sees it.
#[derive(Clone, Debug)]
pub struct PathModel {
    pending: Vec<Pending>,
    sum: u64,
    /// Believed rate, bytes/s.
    base: f64,
    pace: f64,
    ceiling: f64,
    /// A queue was seen at least once.
    full_once: bool,
    step: f64,
    /// Smallest round trip, and the length of the packet that made it.
    min_rtt_ns: u64,
    min_len: usize,
    min_rtt_at_ns: u64,
    emptied_at_ns: u64,
    draining: bool,
    srtt_ns: u64,
    spread_ns: u64,
    queue_ns: u64,
    /// When the bottleneck will have sent all that we sent, by our prediction. ns.
    busy_until_ns: u64,
    /// Sum of the corrections of it. ns.
    corrected_ns: i64,
    /// The pace was not used up at some time since the last request.
    paused: bool,
    round: Round,
    last_ack_ns: u64,
    measured: bool,
}

impl PathModel {
    /// A path of which nothing is known but maybe a round trip, and what the operator said of its rate (bytes/s).
    pub fn new(now_ns: u64, rtt_ns: Option<u64>, capacity: Option<f64>) -> PathModel {
        let rtt = rtt_ns.unwrap_or(100_000_000).max(100_000);
        let ceiling = capacity.filter(|c| c.is_finite()).map_or(RATE_MAX, |c| c.clamp(RATE_MIN, RATE_MAX));
        let first = (FIRST_WINDOW * 1e9 / rtt as f64).clamp(RATE_MIN, ceiling);
        PathModel {
            pending: Vec::with_capacity(PENDING_MAX),
            sum: 0,
            base: first,
            pace: first,
            ceiling,
            full_once: false,
            step: 0.0,
            min_rtt_ns: rtt,
            min_len: 0,
            min_rtt_at_ns: now_ns,
            emptied_at_ns: now_ns,
            draining: false,
            srtt_ns: rtt,
            spread_ns: 0,
            queue_ns: 0,
            busy_until_ns: now_ns,
            corrected_ns: 0,
            paused: true,
            round: Round { from_ns: now_ns, queue_ns: u64::MAX, limited: true, ..Round::default() },
            last_ack_ns: now_ns,
            measured: rtt_ns.is_some(),
        }
    }

    /// Nobody has measured it yet, and nobody needs to be careful: who sends finds its limits, as without a pace.
    pub fn unpaced(&mut self) {
        if !self.full_once {
            self.base = UNPACED.min(self.ceiling);
            self.pace = self.base;
        }
    }

    /// How fast to send, bytes/s.
    pub fn pace(&self) -> f64 {
        self.pace
    }

    /// What it carries, bytes/s.
    pub fn rate(&self) -> f64 {
        self.base
    }

    /// From us to the remote through an empty path, ns: half the smallest round trip.
    pub fn delay_ns(&self) -> u64 {
        self.empty_ns() / 2
    }

    /// The smallest round trip, had its packet had no length.
    fn empty_ns(&self) -> u64 {
        self.min_rtt_ns.saturating_sub(self.wire_ns(self.min_len))
    }

    /// When a packet arrives that may leave at `free_ns`, after `before` bytes that are to leave until then.
    pub fn arrival_ns(&self, free_ns: u64, before: usize, len: usize) -> u64 {
        (self.busy_until_ns + self.wire_ns(before)).max(free_ns) + self.wire_ns(len) + self.delay_ns()
    }

    /// How long the bottleneck takes for so many bytes.
    pub fn wire_ns(&self, bytes: usize) -> u64 {
        (bytes as f64 * 1e9 / self.base) as u64
    }

    /// The queue that stands in the path, ns.
    pub fn queue_ns(&self) -> u64 {
        self.queue_ns
    }

    /// Smallest round trip, ns.
    pub fn min_rtt_ns(&self) -> u64 {
        self.min_rtt_ns
    }

    /// Smoothed round trip, ns.
    pub fn srtt_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// Mean deviation of round trips, ns.
    pub fn spread_ns(&self) -> u64 {
        self.spread_ns
    }

    /// Time of the last acknowledgement, ns.
    pub fn last_ack_ns(&self) -> u64 {
        self.last_ack_ns
    }

    /// Something left over this path. `limited`: the pace had held it back. `id`: it is a request that will be acknowledged.
    pub fn sent(&mut self, now_ns: u64, bytes: usize, limited: bool, id: Option<u64>) {
        self.sum += bytes as u64;
        let predicted_ns = self.busy_until_ns.saturating_sub(now_ns) as i64 - self.corrected_ns;
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + self.wire_ns(bytes);
        self.paused |= !limited;
        if let Some(id) = id {
            let limited = !std::mem::replace(&mut self.paused, false);
            if self.pending.len() == PENDING_MAX {
                self.pending.remove(0);
            }
            self.pending.push(Pending { id, sent_ns: now_ns, len: bytes, predicted_ns, sum: self.sum, limited });
        }
    }

    /// The acknowledgement of a request. False if it was none of ours, or one of long ago.
    pub fn acked(&mut self, now_ns: u64, id: u64) -> bool {
        let Some(i) = self.pending.iter().position(|p| p.id == id) else { return false };
        // What was sent before it and not acknowledged yet is lost, or late: neither is of use.
        let sample = self.pending[i];
        self.pending.drain(..=i);
        self.last_ack_ns = now_ns;
        let rtt = now_ns.saturating_sub(sample.sent_ns).max(1);
        let net = rtt.saturating_sub(self.wire_ns(sample.len));
        if !self.measured || net <= self.empty_ns() || now_ns - self.min_rtt_at_ns > MIN_RTT_WINDOW_NS {
            (self.min_rtt_ns, self.min_len, self.min_rtt_at_ns) = (rtt, sample.len, now_ns);
            self.measured = true;
        }
        let queue = net.saturating_sub(self.empty_ns());
        // A part of what was wrong with the prediction is corrected, and counted for those still on their way.
        let wrong = queue as i64 - (sample.predicted_ns + self.corrected_ns);
        let correction = (wrong / CORRECTION).clamp(-(TARGET_NS as i64), 10 * TARGET_NS as i64);
        self.corrected_ns += correction;
        self.busy_until_ns = self.busy_until_ns.saturating_add_signed(correction);
        if queue < TARGET_NS / 4 {
            self.emptied_at_ns = now_ns;
        }
        self.spread_ns = (self.spread_ns * 15 + rtt.abs_diff(self.srtt_ns)) / 16;
        self.srtt_ns = (self.srtt_ns * 7 + rtt) / 8;
        if sample.sent_ns >= self.round.from_ns {
            let round = &mut self.round;
            round.first.get_or_insert((now_ns, sample.sum));
            round.last = (now_ns, sample.sum);
            round.acks += 1;
            round.queue_ns = round.queue_ns.min(queue);
            round.limited &= sample.limited;
            let first = round.first.map_or(now_ns, |f| f.0);
            if round.acks >= ROUND_ACKS
                && now_ns - first >= ROUND_MIN_NS.max(self.min_rtt_ns / 4).max(4 * self.spread_ns)
            {
                self.steer(now_ns);
            }
        }
        true
    }

    fn steer(&mut self, now_ns: u64) {
        let round = self.round;
        let Some((first_ns, first_sum)) = round.first else { return };
        let seconds = (round.last.0 - first_ns) as f64 / 1e9;
        let arrived = (round.last.1 - first_sum) as f64 / seconds.max(1e-6);
        self.queue_ns = round.queue_ns.min(10 * TARGET_NS);
        // Jitter is no queue. What varies by as much as round trips do anyway is not told apart from none.
        let target = TARGET_NS + self.spread_ns;
        let full = round.queue_ns > target / 2;
        if full && !round.limited && round.queue_ns < 2 * target {
            // Others fill it, or it is jitter: we did not ask for more than arrived, so nothing is learned.
            self.pace = self.base;
        } else if full {
            self.base = if self.full_once { self.base + GAIN * (arrived - self.base) } else { arrived };
            self.full_once = true;
            self.step = 0.02;
            let error = target as f64 - round.queue_ns as f64;
            let settle = SETTLE_NS.max(2.0 * self.srtt_ns as f64);
            self.pace = self.base * (1.0 + (error / settle).clamp(-0.4, 0.1));
        } else if round.limited && arrived > 0.8 * self.pace {
            if self.full_once {
                // Room that nobody knew of: ask for more, and each time for more again.
                self.base *= 1.0 + self.step;
                self.step = (self.step * 1.5).min(0.25);
            } else {
                self.base = (2.0 * self.base).min(1.5 * arrived).max(self.base);
            }
            self.pace = self.base;
        } else if round.limited {
            // Less arrives than leaves: whatever became of the queue, this is the rate.
            self.base = if self.full_once { self.base + GAIN * (arrived - self.base) } else { arrived };
            self.full_once = true;
            self.pace = self.base;
        } else {
            self.base = self.base.max(arrived.min(1.25 * self.base));
            self.pace = self.base;
        }
        self.draining = !self.draining && now_ns - self.emptied_at_ns > DRAIN_AFTER_NS;
        if self.draining {
            self.pace = self.base * 0.7;
            self.emptied_at_ns = now_ns;
        }
        self.base = self.base.clamp(RATE_MIN, self.ceiling);
        self.pace = self.pace.clamp(RATE_MIN, self.ceiling);
        self.round = Round { from_ns: now_ns, queue_ns: u64::MAX, limited: true, ..Round::default() };
    }
}
