//! The one notion of time that the sans-I/O rooms share. They are told it; they never ask for it.

use std::time::Duration;

/// One moment, as the two clocks of the caller tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic clock, microseconds since an arbitrary start. Everything that measures or times out uses this one.
    pub mono_us: u64,
    /// Wall clock, milliseconds since 1970-01-01 UTC. Only for timestamps that go on the wire or to disk.
    pub unix_ms: u64,
}

impl Now {
    /// A moment at which both clocks stand at the same number of milliseconds; for tests and simulations.
    pub fn at_ms(ms: u64) -> Now {
        Now { mono_us: ms * 1000, unix_ms: ms }
    }

    /// The monotonic clock in whole milliseconds.
    pub fn ms(self) -> u64 {
        self.mono_us / 1000
    }

    /// This moment plus `d`, on both clocks.
    pub fn after(self, d: Duration) -> Now {
        let us = d.as_micros() as u64;
        Now { mono_us: self.mono_us + us, unix_ms: self.unix_ms + us / 1000 }
    }
}
