//! PATH_NEGOTIATION_REQUEST as the reference would do it if its switch could be turned on.
// spec: bonding, "ACK and path negotiation"

use crate::config::SelectMethod;
use crate::limits::{NEGOTIATION_CUTOFF_MS, NEGOTIATION_GIVE_UP_MS, NEGOTIATION_TRIES};

/// What one check sees of a path.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Data packets received over it since the last check.
    pub inbound: u64,
    /// Sent.
    pub outbound: u64,
    /// Of active-backup.
    pub score: i32,
    /// Whether it was agreed on.
    pub negotiated: bool,
}

/// What one check decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Both directions use one path, or one of them none.
    Synchronized,
    /// They differ.
    Differs {
        /// What we would gain if the remote came to our path.
        utility: i32,
        /// Say so, on this path.
        send_on: Option<usize>,
        /// Come to the remote's path.
        yield_to: Option<usize>,
    },
}

/// What was asked so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Requests of this round.
    pub sent: u8,
    /// Time of the last, ms.
    pub last: Option<u64>,
}

impl Asked {
    /// One check, every 15 s.
    pub fn check(&mut self, now_ms: u64, select: SelectMethod, paths: &[Seen]) -> Check {
        let most = |count: fn(&Seen) -> u64| {
            let mut best: Option<usize> = None;
            for (i, path) in paths.iter().enumerate() {
                if count(path) > best.map_or(0, |b| count(&paths[b])) {
                    best = Some(i);
                }
            }
            best
        };
        let (Some(inbound), Some(outbound)) = (most(|p| p.inbound), most(|p| p.outbound)) else {
            return Check::Synchronized;
        };
        if inbound == outbound {
            return Check::Synchronized;
        }
        let bonus = if paths[outbound].negotiated { 5000 } else { 0 };
        let utility = paths[outbound].score.saturating_sub(paths[inbound].score).saturating_sub(bonus);
        let age = self.last.map_or(u64::MAX, |last| now_ms.saturating_sub(last));
        if age > NEGOTIATION_CUTOFF_MS {
            self.sent = 0;
        }
        let (mut send_on, mut yield_to) = (None, None);
        if self.sent < NEGOTIATION_TRIES {
            if utility >= 0 && select == SelectMethod::Optimize {
                (self.sent, self.last) = (self.sent + 1, Some(now_ms));
                send_on = Some(outbound);
            }
        } else if age > NEGOTIATION_GIVE_UP_MS && utility == 0 {
            yield_to = Some(inbound);
        }
        Check::Differs { utility, send_on, yield_to }
    }
}

/// Whether a remote's request is followed. `local` is our utility from our own last check; None before the first one.
pub fn accepts(select: SelectMethod, local: Option<i32>, remote: i16, remote_address_greater: bool) -> bool {
    let Some(local) = local else { return false };
    select == SelectMethod::Optimize
        && (i32::from(remote) > local || (i32::from(remote) == local && remote_address_greater))
}
