//! One path for both directions, as far as both sides are asked: when to ask the remote, and what its asking means.
// spec: bonding, "ACK and path negotiation"

use wire::Now;

use super::{Action, Bond};
use crate::config::Policy;
use crate::explain::{Reason, Why};
use crate::limits::*;
use crate::negotiation::Step;
use crate::path::PathId;
use crate::tx::TxState;

impl Bond {
    /// The remote asks us to send on the path that it sends on. A stock core asks over its second path whichever that is, and
    /// asks again for what it counted before we followed: so the request's own path only counts where no data tells.
    // spec: bonding, "ACK and path negotiation"
    pub fn negotiation_request(&mut self, now: Now, id: PathId, theirs: i16) {
        if !self.negotiation_gate.pass(now.ms()) {
            self.counters.gated += 1;
            return;
        }
        let Some(active) = self.active else { return };
        let id = self.inbound.map_or(id, |(most, ..)| most);
        let usable = self.paths.get(id).is_some_and(|p| p.tx.state() == TxState::Good);
        if !self.negotiates || self.params.policy != Policy::ActiveBackup || !usable {
            return;
        }
        let ours = self.utility(active, id);
        if self.negotiation.asked(now.ms(), active != id, ours, theirs) {
            self.note(now, Reason::Yielded(id));
            self.activate(now, Some(id), Why::Negotiated);
            self.forced = true;
            self.decide(now);
        }
    }

    pub(super) fn check_negotiation(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.negotiates || self.params.policy != Policy::ActiveBackup {
            return;
        }
        let heard = self.paths.iter().filter(|p| p.inbound > 0).max_by_key(|p| p.inbound).map(|p| p.id);
        let (Some(out), Some(inbound)) = (self.active, heard) else { return };
        let utility = self.utility(out, inbound);
        let step = self.negotiation.check(now.ms(), out != inbound, utility);
        match step {
            Step::Rest => return,
            Step::Request(utility) => actions.push(Action::Negotiate(out, utility)),
            Step::Yield => {
                self.note(now, Reason::Yielded(inbound));
                self.activate(now, Some(inbound), Why::Negotiated);
                self.forced = true;
                self.decide(now);
            }
        }
        for path in self.paths.iter_mut() {
            (path.inbound, path.outbound) = (0, 0);
        }
    }

    /// What we gain by `ours` over `other`: rank of the link first, then tenths of milliseconds.
    fn utility(&self, ours: PathId, other: PathId) -> i16 {
        let score = |id| {
            let Some(p) = self.paths.get(id) else { return i64::MIN / 4 };
            let rtt = p.tx.rtt().unwrap_or(LATENCY_MAX_US).min(LATENCY_MAX_US) as i64;
            1000 * i64::from(!p.is_spare()) - rtt / 100
        };
        (score(ours) - score(other)).clamp(-30_000, 30_000) as i16
    }
}
