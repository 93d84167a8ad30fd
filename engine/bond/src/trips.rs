//! The last round trips of a path, and what they come to: exact percentiles of the samples that are held. It knows no time:
//! under load it holds seconds, on a path that is only kept alive minutes.

use std::collections::VecDeque;

use crate::limits::TRIPS_MAX;

/// Round trips in figures, us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many there were.
    pub samples: usize,
    /// The latest.
    pub last: u32,
    /// The quickest.
    pub min: u32,
    /// Half took no longer.
    pub p50: u32,
    /// Of ten, nine took no longer.
    pub p90: u32,
    /// Of a hundred, 99 took no longer.
    pub p99: u32,
    /// The slowest.
    pub max: u32,
    /// Standard deviation.
    pub jitter: u32,
}

impl Summary {
    /// Of samples in the order in which they came. None if there are none.
    pub fn of(samples: impl IntoIterator<Item = u32>) -> Option<Summary> {
        let mut us: Vec<u32> = samples.into_iter().collect();
        let last = *us.last()?;
        us.sort_unstable();
        let rank = |percent: usize| us[(us.len() * percent).div_ceil(100) - 1];
        let n = us.len() as f64;
        let mean = us.iter().map(|us| f64::from(*us)).sum::<f64>() / n;
        let variance = us.iter().map(|us| (f64::from(*us) - mean).powi(2)).sum::<f64>() / n;
        Some(Summary {
            samples: us.len(),
            last,
            min: us[0],
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: us[us.len() - 1],
            jitter: variance.sqrt().round() as u32,
        })
    }
}

/// The last [`TRIPS_MAX`] round trips.
#[derive(Clone, Debug, Default)]
pub struct Trips {
    us: VecDeque<u32>,
}

impl Trips {
    /// The quickest of them.
    pub fn least(&self) -> Option<u32> {
        self.us.iter().min().copied()
    }

    /// One more.
    pub fn add(&mut self, us: u32) {
        if self.us.len() == TRIPS_MAX {
            self.us.pop_front();
        }
        self.us.push_back(us);
    }

    /// In figures.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(self.us.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_samples_in_whatever_order_they_came() {
        assert_eq!(Summary::of([]), None);
        // 7 and 101 have no common divisor: every number from 1 to 100 once.
        let all = Summary::of((1..=100).map(|i| i * 7 % 101));
        let jitter = 29; // of 1..=100: sqrt((100^2 - 1) / 12) = 28.9
        assert_eq!(all, Some(Summary { samples: 100, last: 94, min: 1, p50: 50, p90: 90, p99: 99, max: 100, jitter }));
        let one = Summary { samples: 1, last: 5, min: 5, p50: 5, p90: 5, p99: 5, max: 5, jitter: 0 };
        assert_eq!(Summary::of([5]), Some(one));
    }

    #[test]
    fn only_the_last_ones_are_held() {
        let mut trips = Trips::default();
        (0..2 * TRIPS_MAX as u32).for_each(|us| trips.add(us));
        let held = trips.summary().expect("samples");
        assert_eq!((held.samples, held.min, held.last), (TRIPS_MAX, TRIPS_MAX as u32, 2 * TRIPS_MAX as u32 - 1));
    }
}
