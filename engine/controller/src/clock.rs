//! The controller's clock: the `ts` of everything it signs. Members compare certificates by it and by nothing else, so
//! it never goes back, not over a restart and not when somebody sets the wall clock back.
// spec: controller, "What can wait, what cannot"

use wire::Now;

use crate::constants::CLOCK_LEASE_MS;

/// Timestamps that never decrease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    last_ms: u64,
    /// Monotonic clock when `last_ms` was reached.
    reached_ms: u64,
    /// What is stored: no timestamp is above it.
    lease_ms: u64,
}

impl Clock {
    /// Goes on after `last_ms`, the highest timestamp that may have been issued before.
    pub fn new(last_ms: u64, now: Now) -> Clock {
        Clock { last_ms, reached_ms: now.ms(), lease_ms: last_ms }
    }

    /// The timestamp of something signed now. While the wall clock is behind, time passes at half its speed until the
    /// wall clock has caught up.
    pub fn timestamp(&mut self, now: Now) -> u64 {
        let elapsed = now.ms().saturating_sub(self.reached_ms);
        let slewed = self.last_ms + elapsed / 2;
        let next = now.unix_ms.max(slewed);
        if next > self.last_ms {
            (self.last_ms, self.reached_ms) = (next, now.ms());
        }
        self.last_ms
    }

    /// The threshold of a revocation: at or above everything issued, and below everything issued later.
    pub fn threshold(&mut self, now: Now) -> u64 {
        let threshold = self.timestamp(now);
        self.last_ms += 1;
        threshold
    }

    /// What has to be stored before anything with the present timestamp is sent, if it is not stored yet.
    pub fn renew_lease(&mut self) -> Option<u64> {
        if self.last_ms < self.lease_ms {
            return None;
        }
        self.lease_ms = self.last_ms + CLOCK_LEASE_MS;
        Some(self.lease_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ms: u64, unix_ms: u64) -> Now {
        Now { mono_us: mono_ms * 1000, unix_ms }
    }

    #[test]
    fn timestamps_follow_the_wall_clock_but_never_back() {
        let mut clock = Clock::new(0, now(0, 1_000_000));
        assert_eq!(clock.timestamp(now(0, 1_000_000)), 1_000_000);
        assert_eq!(clock.timestamp(now(10, 1_000_010)), 1_000_010);
        // Set back by an hour: time goes on, slower.
        assert_eq!(clock.timestamp(now(1_010, 900_000)), 1_000_510);
        assert_eq!(clock.timestamp(now(1_010, 900_000)), 1_000_510);
        // Repaired.
        assert_eq!(clock.timestamp(now(1_020, 1_002_000)), 1_002_000);
    }

    #[test]
    fn a_restart_goes_on_above_the_stored_lease() {
        let mut clock = Clock::new(0, now(0, 1_000_000));
        clock.timestamp(now(0, 1_000_000));
        let lease = clock.renew_lease().unwrap();
        assert_eq!(clock.renew_lease(), None);
        let last = clock.timestamp(now(50_000, 1_050_000));
        assert!(last <= lease);
        assert!(Clock::new(lease, now(0, 5)).timestamp(now(0, 5)) >= last);
    }

    #[test]
    fn what_is_issued_after_a_revocation_is_above_its_threshold() {
        let mut clock = Clock::new(0, now(0, 1_000_000));
        let before = clock.timestamp(now(0, 1_000_000));
        let threshold = clock.threshold(now(0, 1_000_000));
        assert!(before <= threshold && threshold < clock.timestamp(now(0, 1_000_000)));
    }
}
