//! The round trips of one path over the last minutes, and what they come to: exact percentiles, not estimates. A path that
//! is only kept alive is measured about fifty times in the window, so the samples themselves are smaller than a histogram
//! of them. It knows no clock and no peers.
// spec: paths, "Latency"

use std::collections::VecDeque;

use crate::io::LatencyStatus;
use crate::limits::*;

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The low half of the time; the window is far shorter than its turn.
    at_ms: u32,
    us: u32,
}

impl Sample {
    fn current(&self, now_ms: u64) -> bool {
        u64::from((now_ms as u32).wrapping_sub(self.at_ms)) < LATENCY_WINDOW_MS
    }
}

/// Round trips of a path, the latest last.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrips {
    samples: VecDeque<Sample>,
}

impl RoundTrips {
    pub(crate) fn add(&mut self, us: u32, now_ms: u64) {
        while self.samples.front().is_some_and(|s| self.samples.len() >= LATENCY_SAMPLES_MAX || !s.current(now_ms)) {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at_ms: now_ms as u32, us });
    }

    /// What the samples of the window come to; `None` if there are none.
    pub(crate) fn summary(&self, now_ms: u64) -> Option<LatencyStatus> {
        let mut us: Vec<u32> = self.samples.iter().filter(|s| s.current(now_ms)).map(|s| s.us).collect();
        let last_us = *us.last()?;
        us.sort_unstable();
        let rank = |percent: usize| us[(us.len() * percent).div_ceil(100) - 1];
        let n = us.len() as f64;
        let mean = us.iter().map(|us| f64::from(*us)).sum::<f64>() / n;
        let variance = us.iter().map(|us| (f64::from(*us) - mean).powi(2)).sum::<f64>() / n;
        Some(LatencyStatus {
            samples: us.len(),
            last_us,
            min_us: us[0],
            p50_us: rank(50),
            p90_us: rank(90),
            p99_us: rank(99),
            max_us: us[us.len() - 1],
            jitter_us: variance.sqrt().round() as u32,
        })
    }

    /// Bytes on the heap.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.samples.capacity() * size_of::<Sample>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_samples_in_whatever_order_they_came() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.summary(0), None);
        // 7 and 101 have no common divisor: every number from 1 to 100 once.
        (1..=100).for_each(|i| trips.add(i * 7 % 101, 0));
        let all = LatencyStatus {
            samples: 100,
            last_us: 94,
            min_us: 1,
            p50_us: 50,
            p90_us: 90,
            p99_us: 99,
            max_us: 100,
            jitter_us: 29, // of 1..=100: sqrt((100^2 - 1) / 12) = 28.9
        };
        assert_eq!(trips.summary(0), Some(all));
        let mut one = RoundTrips::default();
        one.add(5, 0);
        let us = one.summary(0).map(|l| (l.samples, l.p50_us, l.p99_us, l.max_us, l.jitter_us));
        assert_eq!(us, Some((1, 5, 5, 5, 0)));
    }

    #[test]
    fn a_few_slow_round_trips_move_the_99th_percentile_and_not_the_median() {
        let mut trips = RoundTrips::default();
        (0..98).for_each(|_| trips.add(20_000, 0));
        (0..2).for_each(|_| trips.add(300_000, 0));
        let l = trips.summary(0).unwrap();
        assert_eq!((l.p50_us, l.p90_us, l.p99_us, l.jitter_us), (20_000, 20_000, 300_000, 39_200));
    }

    #[test]
    fn old_samples_go_also_when_the_counter_of_milliseconds_turns() {
        let (mut trips, turn) = (RoundTrips::default(), 1 << 32);
        trips.add(1, turn - 10);
        trips.add(2, turn + 10);
        assert_eq!(trips.summary(turn + 10).map(|l| l.samples), Some(2));
        assert_eq!(trips.summary(turn + LATENCY_WINDOW_MS - 10).map(|l| (l.samples, l.max_us)), Some((1, 2)));
        assert_eq!(trips.summary(turn + LATENCY_WINDOW_MS + 10), None);
        trips.add(3, turn + LATENCY_WINDOW_MS + 10);
        assert_eq!(trips.samples.len(), 1);
    }

    #[test]
    fn a_path_kept_alive_for_a_day_holds_half_a_kilobyte_and_no_path_more_than_four() {
        let (mut idle, mut busy) = (RoundTrips::default(), RoundTrips::default());
        assert_eq!((idle.bytes(), size_of::<RoundTrips>()), (0, 32));
        for s in 0..86_400_u64 {
            if s % 14 == 0 || s % 60 == 0 {
                idle.add(20_000, s * 1000);
            }
            (0..3).for_each(|_| busy.add(20_000, s * 1000));
        }
        assert_eq!((idle.bytes(), busy.bytes()), (512, 4096));
        assert_eq!(busy.summary(86_400_000).map(|l| l.samples), Some(LATENCY_SAMPLES_MAX));
    }
}
