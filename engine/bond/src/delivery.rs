//! What arrives of what we send over one path, by the receiver's own count: exact loss and rate, from two counts of the same
//! packets, ours when they left and its when they came. It must not know how reports travel.

use std::collections::VecDeque;

use wire::Now;
use wire::message::ReceiveReport;

use crate::limits::{
    DELIVERY_FRESH_US, DELIVERY_GAIN, DELIVERY_GAP_US, DELIVERY_PACKETS_MIN, DELIVERY_SENT_MAX, DELIVERY_WINDOW_US,
};

/// A count at some time.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    at_us: u64,
    packets: u64,
    bytes: u64,
}

/// Where both counts stood.
#[derive(Clone, Copy, Debug)]
struct Both {
    epoch: u32,
    sent: Count,
    came: Count,
}

/// One path's reports. Times are us.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Our count, the latest last.
    sent: VecDeque<Count>,
    total: Count,
    base: Option<Both>,
    loss: Option<f64>,
    rate: Option<f64>,
    lost: i64,
    last_us: Option<u64>,
}

impl Delivery {
    /// Frames left.
    pub fn sent(&mut self, now: Now, packets: u64, bytes: u64) {
        let before = self.total;
        self.total = Count { at_us: now.mono_us, packets: before.packets + packets, bytes: before.bytes + bytes };
        let since_us = self.sent.back().map_or(u64::MAX, |last| now.mono_us.saturating_sub(last.at_us));
        if since_us < DELIVERY_GAP_US {
            return;
        }
        if since_us > 2 * DELIVERY_GAP_US {
            // Nothing left meanwhile.
            self.note(Count { at_us: now.mono_us.saturating_sub(DELIVERY_GAP_US), ..before });
        }
        self.note(self.total);
    }

    fn note(&mut self, count: Count) {
        if self.sent.len() == DELIVERY_SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(count);
    }

    /// A report came, over a path with this round trip. False if it says what cannot be.
    pub fn reported(&mut self, now: Now, rtt_us: u64, report: &ReceiveReport) -> bool {
        // The newest packet came that long ago, and left half a round trip before; the report took the other half.
        let came_us = now.mono_us.saturating_sub(u64::from(report.held_us));
        let came = Count { at_us: came_us, packets: report.packets, bytes: report.bytes };
        let Some(sent) = self.at(came_us.saturating_sub(rtt_us)) else { return true };
        let now_both = Both { epoch: report.epoch, sent, came };
        let Some(base) = self.base.filter(|base| base.epoch == report.epoch && base.came.packets <= report.packets)
        else {
            self.base = Some(now_both);
            return true;
        };
        let (took_us, left) = (came_us.saturating_sub(base.came.at_us), sent.packets.saturating_sub(base.sent.packets));
        let arrived = came.packets - base.came.packets;
        if arrived > 2 * left + DELIVERY_SENT_MAX as u64 {
            // More than ever left: another count than ours.
            self.base = Some(now_both);
            return false;
        }
        self.last_us = Some(now.mono_us);
        if took_us < DELIVERY_WINDOW_US || (left < DELIVERY_PACKETS_MIN && took_us < DELIVERY_FRESH_US) {
            return true;
        }
        let bytes = came.bytes.saturating_sub(base.came.bytes);
        let mix = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + DELIVERY_GAIN * (new - old)));
        self.rate = mix(self.rate, bytes as f64 * 1e6 / took_us as f64);
        if left > 0 {
            // What is early in one window is missing in the next.
            self.loss = mix(self.loss, 1.0 - arrived as f64 / left as f64);
            self.lost += left as i64 - arrived as i64;
        }
        self.base = Some(now_both);
        true
    }

    /// Share of what we sent lately that did not arrive. None: nobody says.
    pub fn loss(&self, now: Now) -> Option<f64> {
        self.loss.filter(|_| self.is_fresh(now)).map(|loss| loss.clamp(0.0, 1.0))
    }

    /// What arrives, bytes/s. None: nobody says.
    pub fn rate(&self, now: Now) -> Option<f64> {
        self.rate.filter(|_| self.is_fresh(now))
    }

    /// Frames that did not arrive, as far as was reported.
    pub fn lost(&self) -> u64 {
        self.lost.max(0) as u64
    }

    fn is_fresh(&self, now: Now) -> bool {
        self.last_us.is_some_and(|at| now.mono_us.saturating_sub(at) < DELIVERY_FRESH_US)
    }

    /// Our count at some time; between two that we noted it grew evenly.
    fn at(&self, at_us: u64) -> Option<Count> {
        let after = self.sent.partition_point(|count| count.at_us <= at_us);
        let before = after.checked_sub(1).map(|i| self.sent[i])?;
        let next = self.sent.get(after).copied().unwrap_or(self.total);
        if next.at_us <= at_us || next.at_us <= before.at_us {
            return Some(Count { at_us, ..next });
        }
        let share = (at_us - before.at_us) as f64 / (next.at_us - before.at_us) as f64;
        let between = |from: u64, to: u64| from + (share * to.saturating_sub(from) as f64) as u64;
        Some(Count { at_us, packets: between(before.packets, next.packets), bytes: between(before.bytes, next.bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DELAY_US: u64 = 15_000;

    /// A path that loses every `nth` packet, and a receiver that reports every 25 ms; 1000 bytes per packet.
    struct Path {
        delivery: Delivery,
        us: u64,
        sent: u64,
        came: u64,
        nth: u64,
        /// When each arrived, and its count there.
        arrivals: VecDeque<(u64, u64)>,
    }

    impl Path {
        fn new(nth: u64) -> Path {
            Path { delivery: Delivery::default(), us: 1_000_000, sent: 0, came: 0, nth, arrivals: VecDeque::new() }
        }

        fn run(&mut self, ms: u64, per_ms: u64, epoch: u32) -> bool {
            let mut good = true;
            for n in 0..ms {
                self.us += 1000;
                for _ in 0..per_ms {
                    self.sent += 1;
                    if self.nth == 0 || !self.sent.is_multiple_of(self.nth) {
                        self.came += 1;
                        self.arrivals.push_back((self.us + DELAY_US, self.came));
                    }
                }
                self.delivery.sent(at(self.us), per_ms, per_ms * 1000);
                if n % 25 == 0 {
                    // The report left a delay ago.
                    let made_us = self.us - DELAY_US;
                    while self.arrivals.get(1).is_some_and(|(at_us, _)| *at_us <= made_us) {
                        self.arrivals.pop_front();
                    }
                    let Some(&(came_us, packets)) = self.arrivals.front().filter(|(at_us, _)| *at_us <= made_us) else {
                        continue;
                    };
                    // Its hold is until it was made; the round trip is what both directions take.
                    let held_us = (made_us - came_us) as u32;
                    let report = ReceiveReport { epoch, packets, bytes: packets * 1000, newest: 7, held_us };
                    good &= self.delivery.reported(at(self.us), 2 * DELAY_US, &report);
                }
            }
            good
        }
    }

    fn at(us: u64) -> Now {
        Now { mono_us: us, unix_ms: 0 }
    }

    #[test]
    fn loss_and_rate_are_what_they_are() {
        for (nth, loss) in [(0, 0.0), (100, 0.01), (10, 0.1), (2, 0.5)] {
            let mut path = Path::new(nth);
            assert!(path.run(3000, 5, 1));
            let now = at(path.us);
            let (seen, rate) = (path.delivery.loss(now).unwrap(), path.delivery.rate(now).unwrap());
            assert!((seen - loss).abs() < 0.01, "lost {loss}, said {seen}");
            assert!((rate / (5_000_000.0 * (1.0 - loss)) - 1.0).abs() < 0.03, "lost {loss}, rate {rate}");
            let lost = (path.sent - path.came) as i64;
            assert!((path.delivery.lost() as i64 - lost).abs() < 5 * 70, "{lost} lost, said {}", path.delivery.lost());
        }
    }

    #[test]
    fn what_nobody_reports_for_seconds_is_not_known() {
        let mut path = Path::new(0);
        path.run(1000, 5, 1);
        assert!(path.delivery.loss(at(path.us)).is_some());
        let later = at(path.us + DELIVERY_FRESH_US);
        assert_eq!((path.delivery.loss(later), path.delivery.rate(later)), (None, None));
    }

    #[test]
    fn a_receiver_that_starts_anew_is_no_loss() {
        let mut path = Path::new(0);
        path.run(1000, 5, 1);
        path.came = 0;
        path.arrivals.clear();
        assert!(path.run(1000, 5, 2));
        assert!(path.delivery.loss(at(path.us)).unwrap() < 0.01);
    }

    #[test]
    fn a_pause_is_no_loss() {
        let mut path = Path::new(0);
        path.run(1000, 5, 1);
        path.us += 10_000_000;
        path.run(300, 5, 1);
        assert!(path.delivery.loss(at(path.us)).unwrap() < 0.01, "{:?}", path.delivery.loss(at(path.us)));
    }

    #[test]
    fn more_than_was_sent_cannot_have_come() {
        let mut path = Path::new(0);
        path.run(1000, 5, 1);
        let report = ReceiveReport { epoch: 1, packets: 1_000_000, bytes: u64::MAX, newest: 7, held_us: 0 };
        assert!(!path.delivery.reported(at(path.us), 2 * DELAY_US, &report));
    }

    proptest! {
        #[test]
        fn whatever_is_reported_the_figures_are_numbers(
            steps in prop::collection::vec((0..3_000_000u64, 0..1000u64, any::<(u32, u64, u64, u32)>(), any::<u64>(), any::<bool>()), 0..100),
        ) {
            let (mut delivery, mut us) = (Delivery::default(), 0u64);
            for (step, packets, (epoch, came, bytes, held_us), rtt_us, small) in steps {
                us += step;
                delivery.sent(at(us), packets, packets * 1400);
                let (epoch, came) = if small { (1, came % 10_000) } else { (epoch, came) };
                delivery.reported(at(us), rtt_us, &ReceiveReport { epoch, packets: came, bytes, newest: 1, held_us });
                prop_assert!(delivery.sent.len() <= DELIVERY_SENT_MAX);
                prop_assert!(delivery.loss(at(us)).is_none_or(|l| (0.0..=1.0).contains(&l)));
                prop_assert!(delivery.rate(at(us)).is_none_or(|r| r.is_finite() && r >= 0.0));
            }
        }
    }
}
