//! Credentials that members show: each is filed under its own member, and may open the gate for what is held.
// spec: networks, "NETWORK_CREDENTIALS (verb 0x0a)", "Storing others' credentials"

use wire::message::Credentials;
use wire::{Identity, Malformed};

use super::{Message, Outcome, Ready, Tables};
use crate::action::{Action, Handled};
use crate::membership::{Acceptance, Credential, Membership, Signed};
use crate::turn::Turn;

impl Tables {
    pub(super) fn receive_credentials(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message<'_>,
    ) -> Result<Outcome, Malformed> {
        let from = message.from;
        if !message.retried && !self.senders.may_show_credentials(turn.ms(), from.address()) {
            turn.counters.credentials_too_soon += 1;
            return Ok(Outcome::Done(Handled::IGNORED));
        }
        let all = Credentials::parse(message.payload)?;
        let credentials = (all.coms.iter().map(Credential::Com))
            .chain(all.capabilities.iter().map(Credential::Capability))
            .chain(all.tags.iter().map(Credential::Tag))
            .chain(all.revocations.iter().map(Credential::Revocation))
            .chain(all.ownerships.iter().map(Credential::Ownership));
        let (mut trust, mut needs) = (false, None);
        for credential in credentials {
            match self.file(turn, from, &credential) {
                Acceptance::New | Acceptance::Redundant => trust = true,
                Acceptance::Unknown(address) => needs = Some(address),
                Acceptance::Rejected => {}
            }
        }
        let handled = Handled { trust, heard: true };
        Ok(needs.map_or(Outcome::Done(handled), |address| Outcome::Needs(address, handled)))
    }

    /// Files a credential under its own member, whoever showed it. // spec: networks, "Storing others' credentials"
    pub(crate) fn file(&mut self, turn: &mut Turn<'_>, from: &Identity, credential: &Credential<'_>) -> Acceptance {
        let (id, address) = (credential.network(), credential.member());
        let Some(network) = self.joined.get_mut(&id) else { return Acceptance::Rejected };
        let senders = &mut self.senders;
        let verify = || {
            if senders.may_cost_signature(turn.ms(), from.address()) {
                return credential.verify(|address| turn.identity(address));
            }
            turn.counters.signatures_over_budget += 1;
            Signed::Bad
        };
        let acceptance = match network.member_mut(address) {
            Some(member) => member.accept(credential, verify),
            None => {
                let mut stranger = Membership::default();
                let acceptance = stranger.accept(credential, verify);
                if acceptance == Acceptance::New && !network.add_member(turn, address, stranger) {
                    return Acceptance::Rejected;
                }
                acceptance
            }
        };
        turn.counters.credentials_rejected += u64::from(acceptance == Acceptance::Rejected);
        let own = address == from.address();
        if own && acceptance != Acceptance::Rejected {
            network.heard(turn, from);
        }
        if acceptance == Acceptance::New {
            let admitted = if own { network.judge_as(turn, from) } else { network.judge(turn, address) };
            if admitted {
                self.ready.push(Ready::Member(id, address));
            }
            if !matches!(credential, Credential::Com(_)) {
                turn.out.push(Action::Standing { network: id, address });
            }
            if let Credential::Revocation(revocation) = credential {
                network.pass_on(turn, revocation, from.address());
            }
        }
        acceptance
    }
}
