//! What one path can carry right now: its rate, its delay, and the queue that stands in it. Learned from acknowledged
//! requests among the data, a few hundred per second; it needs nothing of the remote but the answer. It must not know what
//! is sent or why, nor a clock.
//!
//! The rate is not measured and then believed, because a path that is not full shows no rate, and one that is kept full
//! shows a queue. Instead the pace is steered so that a small queue stands at the bottleneck: while it does, what arrives per
//! second *is* the rate. Acknowledgements are looked at in rounds, and each round shows one of these:
//!
//! | round | what it means |
//! |---|---|
//! | arrives slower than it was sent | the bottleneck was full: what arrived is the rate, whoever sent it how fast |
//! | a queue stood all the time | the same; the pace lets the queue become what it should be |
//! | a queue stood, and does not go away though less is sent | it is not ours: jitter, counted as a part of the delay |
//! | no queue, and the pace was used up | there is room: twice the pace before the first queue, growing steps later |
//! | no queue, and the pace was not used up | nothing |
//!
//! The queue should be the smaller, the faster the path is for us. Of two who share a bottleneck, and so see the same queue,
//! the faster one finds it too long and the slower one too short, until they are equal.

use crate::limits::{RATE_MAX, RATE_MIN};

/// The queue that we keep standing in a path of [`TARGET_RATE`], ns; in others by the root of how much faster they are.
const TARGET_NS: f64 = 2_000_000.0;
/// See [`TARGET_NS`]. bytes/s.
const TARGET_RATE: f64 = 5e6;
/// Shorter ones are not seen: a pacer wakes late by this much, and acknowledgements wait as long to be read. ns.
const TARGET_MIN_NS: f64 = 500_000.0;
/// Longer ones are felt. ns.
pub const TARGET_MAX_NS: u64 = 8_000_000;
/// No jitter is taken to be longer. ns.
const JITTER_MAX_NS: u64 = 20_000_000;
/// Requests in flight that are remembered.
const PENDING_MAX: usize = 256;
/// The smallest round trip counts for this long. ns.
const MIN_RTT_WINDOW_NS: u64 = 10_000_000_000;
/// A path that was never seen empty for this long is emptied once. ns.
const DRAIN_AFTER_NS: u64 = 5_000_000_000;
/// Then it is paced down to this share.
const DRAIN: f64 = 0.75;
/// So is one whose queue was too long for so many rounds.
const LONG_ROUNDS: u32 = 8;
/// Rounds shorter than this would measure the jitter. ns.
const ROUND_MIN_NS: u64 = 10_000_000;
/// Nor need they be longer than this. ns.
const ROUND_MAX_NS: u64 = 200_000_000;
/// The first ones, which see a burst of somebody who starts. ns.
const ROUND_FIRST_NS: u64 = 2_000_000;
/// Acknowledgements per round at least.
const ROUND_ACKS: u32 = 4;
/// A deviation of the queue is worked off in this long at least. ns.
const SETTLE_NS: f64 = 60_000_000.0;
/// By how much more is asked for first when there is no queue, as a share.
const STEP_FIRST: f64 = 0.02;
/// And at most.
const STEP_MAX: f64 = 0.25;
/// Share of a new rate that is believed.
const GAIN: f64 = 0.25;
/// The same when there is no queue.
const UP_GAIN: f64 = 0.5;
/// The share of an error of prediction that one acknowledgement corrects.
const CORRECTION: i64 = 4;
/// As good as no pace. bytes/s.
const UNPACED: f64 = 125e6;
/// The share of a path's rate that one begins with who comes late.
const BESIDE: f64 = 0.25;
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

/// One of a round's acknowledgements.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    acked_ns: u64,
    sent_ns: u64,
    sum: u64,
}

/// One round of steering: what was sent after the pace was last set.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Only what was sent from here on shows the pace's effect.
    from_ns: u64,
    first: Option<Mark>,
    last: Mark,
    acks: u32,
    /// By how much more than their requests two acknowledgements in a row were apart, at most.
    gap_ns: u64,
    /// The shortest.
    queue_ns: u64,
    limited: bool,
}

impl Round {
    fn new(now_ns: u64) -> Round {
        Round {
            from_ns: now_ns,
            first: None,
            last: Mark::default(),
            acks: 0,
            gap_ns: 0,
            queue_ns: u64::MAX,
            limited: true,
        }
    }
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
    step_max: f64,
    /// Smallest round trip, and the length of the packet that made it.
    min_rtt_ns: u64,
    min_len: usize,
    min_rtt_at_ns: u64,
    /// The same of the present window only, which is all that counts when it is over.
    next_min: (u64, usize),
    /// Of every queue so much is not ours.
    offset_ns: u64,
    /// Rounds in a row that found the queue too long.
    long: u32,
    /// What was wrong with the last prediction. ns.
    wrong_ns: i64,
    /// Twice by how much that differs from one to the next. ns.
    noise_ns: f64,
    emptied_at_ns: u64,
    /// Which of the times at which paths are emptied was the last.
    drained: u64,
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
            step: STEP_MAX,
            step_max: STEP_MAX,
            min_rtt_ns: rtt,
            min_len: 0,
            min_rtt_at_ns: now_ns,
            next_min: (u64::MAX, 0),
            drained: now_ns / DRAIN_AFTER_NS,
            offset_ns: 0,
            long: 0,
            wrong_ns: 0,
            noise_ns: 0.0,
            emptied_at_ns: now_ns,
            draining: false,
            srtt_ns: rtt,
            spread_ns: 0,
            queue_ns: 0,
            busy_until_ns: now_ns,
            corrected_ns: 0,
            paused: true,
            round: Round::new(now_ns),
            last_ack_ns: now_ns,
            measured: rtt_ns.is_some(),
        }
    }

    /// A path that others fill already, and that carries so much (bytes/s): it begins with a part of that, and finds the rest
    /// as one finds room. Less than a fair part, or until they have noticed a queue would stand.
    pub fn beside(now_ns: u64, rtt_ns: Option<u64>, rate: f64) -> PathModel {
        let mut model = PathModel::new(now_ns, rtt_ns, None);
        model.base = (rate * BESIDE).clamp(RATE_MIN, RATE_MAX);
        (model.pace, model.full_once, model.step) = (model.base, true, STEP_FIRST);
        model
    }

    /// The same path, on which nothing was sent for a moment: what is on its way does not count any more.
    pub fn resumed(mut self, now_ns: u64) -> PathModel {
        self.pending.clear();
        (self.busy_until_ns, self.corrected_ns, self.paused) = (now_ns, 0, true);
        (self.round, self.draining, self.pace) = (Round::new(now_ns), false, self.base);
        self
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

    /// Nobody knows yet what it carries: it is worth more requests than usual.
    pub fn is_new(&self) -> bool {
        !self.full_once
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

    /// More requests than usual are of use now: nobody knows what it carries, and not too many are on their way already.
    pub fn wants_more(&self) -> bool {
        self.is_new() && self.pending.len() < PENDING_MAX / 2
    }

    /// Something left over this path. `limited`: the pace had held it back. `id`: it is a request that will be acknowledged.
    pub fn sent(&mut self, now_ns: u64, bytes: usize, limited: bool, id: Option<u64>) {
        self.sum += bytes as u64;
        let predicted_ns = self.busy_until_ns.saturating_sub(now_ns) as i64 - self.corrected_ns;
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + self.wire_ns(bytes);
        self.paused |= !limited;
        if let Some(id) = id {
            let mut limited = !std::mem::replace(&mut self.paused, false);
            // The newest makes room: those that are answered next must still be known by then.
            if self.pending.len() == PENDING_MAX {
                limited &= self.pending.pop().is_none_or(|newest| newest.limited);
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
        // Answers that were passed on by others may come in another order.
        let now_ns = now_ns.max(self.last_ack_ns);
        self.last_ack_ns = now_ns;
        let rtt = now_ns.saturating_sub(sample.sent_ns).max(1);
        let net = rtt.saturating_sub(self.wire_ns(sample.len));
        if net <= self.next_min.0.saturating_sub(self.wire_ns(self.next_min.1)) {
            self.next_min = (rtt, sample.len);
        }
        let old = now_ns - self.min_rtt_at_ns > MIN_RTT_WINDOW_NS;
        if old {
            (self.min_rtt_at_ns, self.measured) = (now_ns, false);
        }
        if !self.measured || net <= self.empty_ns() {
            (self.min_rtt_ns, self.min_len) = self.next_min;
            self.measured = true;
        }
        if old {
            self.next_min = (u64::MAX, 0);
        }
        let queue = net.saturating_sub(self.empty_ns());
        // A part of what was wrong with the prediction is corrected, and counted for those still on their way.
        let wrong = queue as i64 - (sample.predicted_ns + self.corrected_ns);
        let differs = wrong.abs_diff(self.wrong_ns).min(JITTER_MAX_NS) as f64;
        self.noise_ns += (2.0 * differs - self.noise_ns) / 32.0;
        self.wrong_ns = wrong;
        let correction = (wrong / CORRECTION).clamp(-(TARGET_MAX_NS as i64), 4 * TARGET_MAX_NS as i64);
        self.corrected_ns += correction;
        self.busy_until_ns = self.busy_until_ns.saturating_add_signed(correction);
        if queue.saturating_sub(self.offset_ns) < self.target_ns() as u64 / 4 {
            self.emptied_at_ns = now_ns;
        }
        self.spread_ns = (self.spread_ns * 15 + rtt.abs_diff(self.srtt_ns)) / 16;
        self.srtt_ns = (self.srtt_ns * 7 + rtt) / 8;
        if sample.sent_ns >= self.round.from_ns {
            let mark = Mark { acked_ns: now_ns, sent_ns: sample.sent_ns, sum: sample.sum };
            let round = &mut self.round;
            let first = *round.first.get_or_insert(mark);
            if round.acks > 0 {
                let apart = mark.sent_ns.saturating_sub(round.last.sent_ns);
                round.gap_ns = round.gap_ns.max((now_ns - round.last.acked_ns).saturating_sub(apart));
            }
            round.last = mark;
            round.acks += 1;
            round.queue_ns = round.queue_ns.min(queue);
            round.limited &= sample.limited;
            let (took, sending) = (now_ns - first.acked_ns, mark.sent_ns.saturating_sub(first.sent_ns));
            // What is to be seen must be longer than the noise.
            let noise = self.noise_ns as u64 * if self.draining { 16 } else { 4 };
            let long = took >= ROUND_MIN_NS.max(self.min_rtt_ns / 4).max(noise.min(ROUND_MAX_NS));
            let burst = !self.full_once && took >= ROUND_FIRST_NS && took > 2 * sending;
            if round.acks >= ROUND_ACKS && (long || burst) {
                self.steer(now_ns);
            }
        }
        true
    }

    /// How long the queue should be, beside what is not ours. ns.
    fn target_ns(&self) -> f64 {
        let target = TARGET_NS * (TARGET_RATE / self.base).sqrt();
        target.clamp(TARGET_MIN_NS, TARGET_MAX_NS as f64) + self.noise_ns
    }

    fn steer(&mut self, now_ns: u64) {
        let round = std::mem::replace(&mut self.round, Round::new(now_ns));
        let Some(first) = round.first else { return };
        let (took, sending) =
            ((round.last.acked_ns - first.acked_ns) as f64, round.last.sent_ns.saturating_sub(first.sent_ns) as f64);
        let arrived = (round.last.sum - first.sum) as f64 * 1e9 / took.max(1000.0);
        let target = self.target_ns();
        self.offset_ns = self.offset_ns.min(round.queue_ns);
        let queue = (round.queue_ns - self.offset_ns) as f64;
        self.queue_ns = queue as u64;
        // A bottleneck keeps each from the next; who did not run for a moment keeps all, once.
        let slower = took - round.gap_ns as f64 > sending + (sending / 10.0).max(self.noise_ns);
        let full = queue > target / 2.0;
        // What is asked for too much is seen after a round trip, and must not have become a long queue by then.
        let blind = self.srtt_ns.max(ROUND_MIN_NS) as f64 + took;
        let careful = (2.0 * target / blind).clamp(STEP_FIRST, STEP_MAX);
        self.step_max = if full { careful } else { careful.max(self.step_max) };
        let settle = SETTLE_NS.max(2.0 * self.srtt_ns as f64);
        let steered = 1.0 + ((target - queue) / settle).clamp(-0.4, 0.1);
        if full || slower {
            // A third of what the queue should have lost is enough to call it ours: others may share it.
            let should = (1.0 - DRAIN) * sending;
            if self.draining && !slower && sending - took < should / 4.0 && queue > target {
                self.offset_ns = JITTER_MAX_NS.min(self.offset_ns + queue as u64);
                self.long = 0;
            } else if self.draining {
                self.long = 0;
            } else {
                let gain = if self.full_once { GAIN } else { 1.0 };
                self.base += gain * (arrived - self.base);
                self.long = if queue > 2.0 * target { self.long + 1 } else { 0 };
            }
            // A burst may have been taken for more than it shows, so until a queue stood there is no need to be careful.
            let known = full || self.full_once;
            (self.full_once, self.step) = (true, if known { STEP_FIRST } else { STEP_MAX });
            self.pace = self.base * steered;
        } else {
            self.long = 0;
            self.pace = self.base;
            if self.draining {
                // It was meant to be empty.
            } else if round.limited && self.full_once {
                // Room that nobody knew of: ask for more, and each time for more again. Only what arrives is believed.
                self.base += UP_GAIN * (arrived - self.base).max(0.0);
                self.pace = self.base * (1.0 + self.step.min(self.step_max));
                self.step = (self.step * 1.5).min(self.step_max);
            } else if round.limited {
                self.base = (2.0 * self.base).min(1.5 * arrived).max(self.base);
                self.pace = self.base;
            }
        }
        // Who shares a path with others of our clock empties it together with them, or nobody would ever see it empty.
        let turn = now_ns / DRAIN_AFTER_NS;
        let missed = turn != self.drained && now_ns - self.emptied_at_ns > DRAIN_AFTER_NS / 2;
        self.drained = turn;
        let stands = missed || self.long >= LONG_ROUNDS;
        self.draining = !self.draining && stands;
        if self.draining {
            self.pace = self.base * DRAIN;
            self.emptied_at_ns = now_ns;
        }
        self.base = self.base.clamp(RATE_MIN, self.ceiling);
        self.pace = self.pace.clamp(RATE_MIN, self.ceiling);
    }
}
