//! The gate of one network and its table of members: who may talk to us, who is on record, who is told what others said.
// spec: networks, "The gate: may this peer talk to us on this network"

use wire::message::Credentials;
use wire::{Address, Identity, Revocation, Verb};

use super::Network;
use crate::action::Action;
use crate::constants::{FLOOD_RECIPIENTS_MAX, MEMBERS_MAX};
use crate::membership::Membership;
use crate::turn::Turn;

impl Network {
    /// Judges a member anew; says so if the verdict changed, and returns true if it is allowed now and was not before.
    pub(crate) fn judge(&mut self, turn: &mut Turn<'_>, address: Address) -> bool {
        let Some(member) = self.members.get_mut(&address) else { return false };
        if let Some(identity) = turn.identity(address) {
            member.is(&identity);
        }
        self.tell(turn, address)
    }

    /// As [`Network::judge`], for somebody whose identity is at hand.
    pub(crate) fn judge_as(&mut self, turn: &mut Turn<'_>, identity: &Identity) -> bool {
        let Some(member) = self.members.get_mut(&identity.address()) else { return false };
        member.is(identity);
        self.tell(turn, identity.address())
    }

    fn tell(&mut self, turn: &mut Turn<'_>, address: Address) -> bool {
        let Some(member) = self.members.get_mut(&address) else { return false };
        let allowed = member.judge(self.config.as_ref());
        let changed = std::mem::replace(&mut member.told_allowed, allowed) != allowed;
        if changed {
            turn.out.push(Action::Member { network: self.id, address, allowed });
        }
        changed && allowed
    }

    /// A member with this address is on record, and was taken for another one or for nobody so far.
    pub(crate) fn is_news(&self, identity: &Identity) -> bool {
        self.members.get(&identity.address()).is_some_and(|m| m.identity() != Some(identity))
    }

    /// The member gave a sign of life.
    pub(crate) fn heard(&mut self, turn: &Turn<'_>, member: &Identity) {
        if let Some(member) = self.members.get_mut(&member.address()) {
            member.heard_ms = turn.ms();
        }
    }

    pub(crate) fn member_mut(&mut self, address: Address) -> Option<&mut Membership> {
        self.members.get_mut(&address)
    }

    /// Puts a new member on record; false if there is no room.
    pub(crate) fn add_member(&mut self, turn: &mut Turn<'_>, address: Address, member: Membership) -> bool {
        let heard_ms = turn.ms();
        self.record(turn, address).map(|m| *m = member.heard(heard_ms)).is_some()
    }

    /// May this peer talk to us now? If so it is told our groups when that is due.
    // spec: networks, "The gate: may this peer talk to us on this network"
    pub(crate) fn admits(&mut self, turn: &mut Turn<'_>, peer: &Identity) -> bool {
        let address = peer.address();
        let public = self.config.as_ref().is_some_and(|c| c.public);
        if public {
            self.record(turn, address);
        }
        let Some(member) = self.members.get(&address) else { return public };
        if member.identity() != Some(peer) || (public && !member.allowed()) {
            self.judge_as(turn, peer);
        }
        let Some(member) = self.members.get_mut(&address).filter(|m| m.allowed()) else { return false };
        member.heard_ms = turn.ms();
        self.announce_to_member(turn, address);
        true
    }

    /// The record of an address, made if there is room. In a full table it takes the place of the one without credentials
    /// that was unheard for longest; those with credentials stay.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, address: Address) -> Option<&mut Membership> {
        if !self.members.contains_key(&address) && self.members.len() >= MEMBERS_MAX {
            turn.counters.members_full += 1;
            let hollow = self.members.iter().filter(|(_, m)| m.is_hollow()).min_by_key(|(_, m)| m.heard_ms);
            let evicted = hollow.map(|(&a, _)| a)?;
            if self.members.remove(&evicted).is_some_and(|m| m.told_allowed) {
                turn.out.push(Action::Member { network: self.id, address: evicted, allowed: false });
            }
        }
        Some(self.members.entry(address).or_insert_with(|| Membership::default().heard(turn.ms())))
    }

    /// Forgets members of whom nothing is lost. // spec: networks, "Storing others' credentials"
    pub(crate) fn sweep(&mut self, turn: &mut Turn<'_>) {
        let (now_ms, config) = (turn.ms(), self.config.as_ref());
        self.members.retain(|&address, member| {
            let spent = member.is_spent(now_ms, config);
            if spent && member.told_allowed {
                turn.out.push(Action::Member { network: self.id, address, allowed: false });
            }
            !spent
        });
        self.routes.sweep(now_ms);
        self.bridged.sweep(now_ms);
        self.assembly.sweep(now_ms);
    }

    /// Passes a new revocation on if it is a fast one; it ends where it is not new.
    // spec: networks, "Storing others' credentials"
    pub(crate) fn pass_on(&self, turn: &mut Turn<'_>, revocation: &Revocation, from: Address) {
        if revocation.flags & Revocation::FAST_PROPAGATE != 0 {
            let mut payload = Vec::new();
            Credentials { revocations: vec![revocation.clone()], ..Credentials::default() }.write(&mut payload);
            self.flood(turn, Verb::NetworkCredentials, &payload, [from, revocation.signer]);
        }
    }

    /// Passes a message on to everybody on record but these.
    pub(crate) fn flood(&self, turn: &mut Turn<'_>, verb: Verb, payload: &[u8], but: [Address; 2]) {
        let recipients = || self.members.keys().filter(|a| !but.contains(a));
        for &to in recipients().take(FLOOD_RECIPIENTS_MAX) {
            turn.send(to, verb, payload.to_vec(), false);
        }
        turn.counters.floods_cut += recipients().count().saturating_sub(FLOOD_RECIPIENTS_MAX) as u64;
    }
}
