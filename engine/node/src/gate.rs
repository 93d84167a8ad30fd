//! Rate gates: when something last happened, and token buckets. They count time in milliseconds and know nothing of
//! what passes through them.

/// When something last happened, on the monotonic clock; `None` is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Option<u64>);

impl Stamp {
    pub(crate) const NEVER: Stamp = Stamp(None);

    pub(crate) fn at(ms: u64) -> Stamp {
        Stamp(Some(ms))
    }

    pub(crate) fn set(&mut self, now_ms: u64) {
        self.0 = Some(now_ms);
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Milliseconds since; the longest of times if never.
    pub(crate) fn age(self, now_ms: u64) -> u64 {
        self.0.map_or(u64::MAX, |at| now_ms.saturating_sub(at))
    }

    pub(crate) fn within(self, window_ms: u64, now_ms: u64) -> bool {
        self.age(now_ms) < window_ms
    }

    pub(crate) fn is_set(self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn get(self) -> Option<u64> {
        self.0
    }

    /// Passes at most once per `interval_ms`.
    pub(crate) fn pass(&mut self, interval_ms: u64, now_ms: u64) -> bool {
        if self.within(interval_ms, now_ms) {
            return false;
        }
        self.set(now_ms);
        true
    }
}

/// What a [`Bucket`] lets through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Tokens that flow in per second, in thousandths.
    milli_per_s: u32,
    /// Tokens it holds when full.
    burst: u32,
}

impl Rate {
    pub(crate) const fn per_second(n: u32) -> Rate {
        Rate { milli_per_s: n * 1000, burst: n }
    }

    /// One token in so many milliseconds.
    pub(crate) const fn one_per(ms: u32, burst: u32) -> Rate {
        Rate { milli_per_s: 1_000_000 / ms, burst }
    }

    pub(crate) const fn per_10_seconds(n: u32, burst: u32) -> Rate {
        Rate { milli_per_s: n * 100, burst }
    }
}

/// A token bucket, full at first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    spent_milli: u64,
    at_ms: u64,
}

impl Bucket {
    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        let spent = self.spent_milli(rate, now_ms);
        if spent + 1000 > u64::from(rate.burst) * 1000 {
            return false;
        }
        self.spent_milli = spent + 1000;
        self.at_ms = now_ms;
        true
    }

    /// It holds as much as one that was never used.
    pub(crate) fn is_full(&self, rate: Rate, now_ms: u64) -> bool {
        self.spent_milli(rate, now_ms) == 0
    }

    fn spent_milli(&self, rate: Rate, now_ms: u64) -> u64 {
        let flowed = now_ms.saturating_sub(self.at_ms).saturating_mul(u64::from(rate.milli_per_s)) / 1000;
        self.spent_milli.saturating_sub(flowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_second(4));
        assert_eq!((0..10).filter(|_| bucket.take(rate, 1000)).count(), 4);
        assert_eq!((0..10).filter(|_| bucket.take(rate, 1500)).count(), 2);
        assert!(!bucket.take(rate, 1600));
        assert_eq!((0..10).filter(|_| bucket.take(rate, 99_000)).count(), 4);
    }

    #[test]
    fn a_bucket_of_a_low_rate_refills_although_it_is_asked_often() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_10_seconds(16, 24));
        assert_eq!((0..100).filter(|_| bucket.take(rate, 0)).count(), 24);
        assert_eq!((1..=10_000).filter(|&ms| bucket.take(rate, ms)).count(), 16);
    }

    #[test]
    fn a_stamp_that_never_was_set_is_infinitely_old() {
        let mut stamp = Stamp::NEVER;
        assert!(!stamp.within(u64::MAX, 5));
        assert!(stamp.pass(100, 5) && !stamp.pass(100, 104) && stamp.pass(100, 105));
    }
}
