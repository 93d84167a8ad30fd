//! PATH_NEGOTIATION_REQUEST between two of us: both directions on one path, agreed in a bounded number of messages, and
//! never back and forth. The bytes are the reference's; who wins is one order over (utility, address) that both sides see
//! alike, so that never both give in.
// spec: bonding, "ACK and path negotiation"

use crate::limits::{NEGOTIATION_CHECK_MS, NEGOTIATION_CUTOFF_MS, NEGOTIATION_GIVE_UP_MS, NEGOTIATION_TRIES};

/// What a check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Send our utility on the path that we send data on.
    Request(i16),
    /// Send data on the remote's path from now on.
    Yield,
}

/// Our side of it.
#[derive(Clone, Copy, Debug)]
pub struct Negotiation {
    remote_greater: bool,
    next_check_ms: u64,
    tries: u8,
    last_ms: Option<u64>,
    held_until_ms: u64,
    /// Moved once more within that time.
    spent: bool,
}

impl Negotiation {
    /// With a remote whose address is greater than ours, or not.
    pub fn new(now_ms: u64, remote_greater: bool) -> Negotiation {
        let next_check_ms = now_ms + NEGOTIATION_CHECK_MS;
        Negotiation { remote_greater, next_check_ms, tries: 0, last_ms: None, held_until_ms: 0, spent: false }
    }

    /// Run often; acts every 15 s. `apart`: we and the remote send over different paths. `utility`: our score of our path
    /// less that of the remote's.
    pub fn check(&mut self, now_ms: u64, apart: bool, utility: i16) -> Step {
        if now_ms < self.next_check_ms {
            return Step::Rest;
        }
        self.next_check_ms = now_ms + NEGOTIATION_CHECK_MS;
        if !apart {
            self.tries = 0;
            return Step::Rest;
        }
        let age = self.last_ms.map_or(u64::MAX, |last| now_ms.saturating_sub(last));
        if age > NEGOTIATION_CUTOFF_MS {
            self.tries = 0;
        }
        // Only the side with the lower address ever gives in by itself, or both would, and be apart again.
        let may_yield = self.remote_greater && now_ms >= self.held_until_ms;
        if utility < 0 {
            return if may_yield { self.moved(now_ms, Step::Yield) } else { Step::Rest };
        }
        if self.tries < NEGOTIATION_TRIES {
            (self.tries, self.last_ms) = (self.tries + 1, Some(now_ms));
            return Step::Request(utility);
        }
        if age >= NEGOTIATION_GIVE_UP_MS && utility == 0 && may_yield {
            return self.moved(now_ms, Step::Yield);
        }
        Step::Rest
    }

    /// A request came in on the path that the remote sends on. True: send on that one too.
    pub fn asked(&mut self, now_ms: u64, apart: bool, ours: i16, theirs: i16) -> bool {
        // Who moved lately moves again only for the one who is always right, and only once, however often that one asks.
        let again = now_ms < self.held_until_ms;
        let held = again && (!self.remote_greater || self.spent);
        let wins = theirs > ours || (theirs == ours && self.remote_greater);
        if !apart || held || !wins {
            return false;
        }
        self.moved(now_ms, true);
        self.spent = again;
        true
    }

    fn moved<T>(&mut self, now_ms: u64, result: T) -> T {
        self.held_until_ms = now_ms + 2 * NEGOTIATION_CHECK_MS;
        (self.tries, self.spent) = (0, false);
        result
    }
}
