//! What clients of the relay may use, and what one of them may still send. // spec: paths, "TCP fallback"

use std::time::Duration;

use tokio::time::Instant;

/// What a datagram costs of a client's rate at least, bytes.
pub const DATAGRAM_COST: u64 = 128;

/// What clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at a time; more are turned away. Each takes two of the descriptors that the whole gateway shares.
    pub clients: usize,
    /// Of them from one address.
    pub clients_per_ip: usize,
    /// Bytes per second of one client; more is dropped. A short datagram counts as [`DATAGRAM_COST`].
    pub bytes_per_s: u64,
    /// A client from which so much was dropped that it would take so many seconds to send is turned away.
    pub flood_s: u64,
    /// A client that says nothing is turned away after this. // spec: paths, "TCP fallback"
    pub idle: Duration,
    /// How long a greeting, a half record, or a client that does not read may hold things up.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 256,
            clients_per_ip: 32,
            bytes_per_s: 4 << 20,
            flood_s: 8,
            idle: Duration::from_secs(300),
            stall: Duration::from_secs(10),
        }
    }
}

/// What a client may still send.
pub(super) struct Allowance {
    rate: u64,
    /// Bytes; one second's worth at most.
    left: u64,
    /// What may be dropped before it is a flood.
    patience: u64,
    patience_max: u64,
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Within,
    Over,
    Flood,
}

impl Allowance {
    pub(super) fn new(limits: &Limits, now: Instant) -> Allowance {
        let (rate, patience) = (limits.bytes_per_s, limits.bytes_per_s * limits.flood_s);
        Allowance { rate, left: rate, patience, patience_max: patience, at: now }
    }

    pub(super) fn take(&mut self, len: usize, now: Instant) -> Verdict {
        let cost = (len as u64).max(DATAGRAM_COST);
        let earned = ((now - self.at).as_micros() as u64).saturating_mul(self.rate) / 1_000_000;
        if earned > 0 {
            self.at = now;
            self.left = (self.left + earned).min(self.rate);
            self.patience = (self.patience + earned).min(self.patience_max);
        }
        if let Some(left) = self.left.checked_sub(cost) {
            self.left = left;
            return Verdict::Within;
        }
        match self.patience.checked_sub(cost) {
            Some(patience) => {
                self.patience = patience;
                Verdict::Over
            }
            None => Verdict::Flood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_comes_back_with_time() {
        let start = Instant::now();
        let mut a = Allowance::new(&Limits { bytes_per_s: 1000, flood_s: 1, ..Limits::default() }, start);
        assert_eq!(
            [a.take(1000, start), a.take(900, start), a.take(200, start)],
            [Verdict::Within, Verdict::Over, Verdict::Flood]
        );
        assert_eq!(a.take(1, start + Duration::from_millis(128)), Verdict::Within, "a short one costs 128");
        assert_eq!(a.take(1, start + Duration::from_millis(128)), Verdict::Over);
        let (year, mut a) = (Duration::from_secs(365 * 86_400), Allowance::new(&Limits::default(), start));
        assert_eq!(a.take(1000, start + year), Verdict::Within, "who said nothing worth counting for long");
    }
}
