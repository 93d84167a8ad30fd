//! The rules of one network applied to its frames, and the copies they cause.
// spec: networks, "Base rules, capabilities, and what is done"

use wire::{Address, Verb};

use super::Network;
use crate::config::Config;
use crate::ethernet::Ethernet;
use crate::rules::{self, Context, Direction, Verdict};
use crate::turn::Turn;

impl Network {
    /// Whether a frame from our TAP may go to `to` (nobody yet: [`Address::ZERO`]). Copies that the rules want are sent.
    pub(crate) fn may_send(&self, turn: &mut Turn<'_>, frame: &Ethernet<'_>, to: Address, mirrors: bool) -> bool {
        let Some(config) = &self.config else { return false };
        let peer = self.members.get(&to).map(|m| m.usable(config));
        let context = self.context(config, Direction::Outbound, peer.as_ref().map(|p| p as _));
        let capabilities = config.capabilities.iter().map(|c| c.rules.rules());
        let frame = &frame.for_rules(self.own, to);
        let random = &mut || turn.s.random() as u32;
        let filtered = rules::filter(config.rules.rules(), capabilities, frame, &context, mirrors, random);
        self.send_copies(turn, frame, &filtered);
        if filtered.verdict == Verdict::Drop {
            turn.counters.filtered_outbound += 1;
        }
        filtered.verdict != Verdict::Drop
    }

    /// What becomes of a frame from a member. Copies that the rules want are sent.
    pub(crate) fn may_receive(&self, turn: &mut Turn<'_>, frame: &Ethernet<'_>, from: Address) -> Verdict {
        let Some(config) = &self.config else { return Verdict::Drop };
        let peer = self.members.get(&from).map(|m| m.usable(config));
        let context = self.context(config, Direction::Inbound, peer.as_ref().map(|p| p as _));
        let capabilities = peer.into_iter().flat_map(|p| p.capabilities());
        let frame = &frame.for_rules(from, self.own);
        let random = &mut || turn.s.random() as u32;
        let filtered = rules::filter(config.rules.rules(), capabilities, frame, &context, true, random);
        self.send_copies(turn, frame, &filtered);
        if filtered.verdict == Verdict::Drop {
            turn.counters.filtered_inbound += 1;
        }
        filtered.verdict
    }

    fn context<'a>(
        &'a self,
        config: &'a Config,
        direction: Direction,
        peer_claims: Option<&'a dyn rules::Claims>,
    ) -> Context<'a> {
        Context {
            network: self.id,
            own: self.own,
            direction,
            unknown_matches: config.has(Config::UNKNOWN_MATCHES),
            emulated: self.emulated,
            own_claims: config,
            peer_claims,
        }
    }

    fn send_copies(&self, turn: &mut Turn<'_>, frame: &rules::Frame<'_>, filtered: &rules::Filtered) {
        for copy in filtered.copies() {
            let mut payload = Vec::new();
            copy.message(self.id, frame).write(&mut payload);
            turn.send(copy.to, Verb::ExtFrame, payload, true);
        }
    }
}
