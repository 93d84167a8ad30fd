//! Pauses between attempts that fail: they double, up to a limit. Knows nothing of what is attempted.

/// Pause after the first failure, ms.
pub const FIRST_PAUSE_MS: u64 = 500;
/// Longest pause, ms.
pub const LONGEST_PAUSE_MS: u64 = 30_000;

/// How long to wait before something that failed is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    pause_ms: u64,
    until_ms: u64,
}

impl Backoff {
    /// It failed now.
    pub fn failed(&mut self, now_ms: u64) {
        self.pause_ms = (self.pause_ms * 2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
        self.until_ms = now_ms + self.pause_ms;
    }

    /// When the pause ends.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// It may be tried again.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_over(0));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff.failed(1000);
            pauses.push(backoff.until_ms() - 1000);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    }
}
