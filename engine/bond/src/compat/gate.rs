//! The receive gates: how often a remote may say something.
// spec: bonding, "Receiving", "Heartbeat", "ACK and path negotiation"

use crate::limits::{ECHO_GAP_MS, GATE_COUNT, NEGOTIATION_GAP_MS};

/// Shuts after [`GATE_COUNT`] arrivals that each came close after the one before; any longer gap opens it.
#[derive(Clone, Copy, Debug)]
pub struct BurstGate {
    gap_ms: u64,
    last: Option<u64>,
    count: u32,
}

impl BurstGate {
    /// A gap of at most `gap_ms` is close.
    pub fn new(gap_ms: u64) -> BurstGate {
        BurstGate { gap_ms, last: None, count: 0 }
    }

    /// For QOS_MEASUREMENT under this failover interval.
    pub fn qos(failover_interval_ms: u32) -> BurstGate {
        BurstGate::new(2 * u64::from(failover_interval_ms) / 64)
    }

    /// For PATH_NEGOTIATION_REQUEST.
    pub fn negotiation() -> BurstGate {
        BurstGate::new(NEGOTIATION_GAP_MS)
    }

    /// Whether an arrival may pass.
    pub fn pass(&mut self, now_ms: u64) -> bool {
        let close = self.last.is_some_and(|last| now_ms.saturating_sub(last) <= self.gap_ms);
        self.count = if close { self.count.saturating_add(1) } else { 0 };
        self.last = Some(now_ms);
        self.count < GATE_COUNT
    }
}

/// Whether a stock node answers an ECHO: one per [`ECHO_GAP_MS`] and path.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoGate {
    last: Option<u64>,
}

impl EchoGate {
    /// Whether this one is answered.
    pub fn pass(&mut self, now_ms: u64) -> bool {
        let open = self.last.is_none_or(|last| now_ms.saturating_sub(last) >= ECHO_GAP_MS);
        if open {
            self.last = Some(now_ms);
        }
        open
    }
}
