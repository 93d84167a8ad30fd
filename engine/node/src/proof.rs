//! Proofs of work: identities that a worker is to check, because one check takes 25 ms. Newcomers wait for the verdict;
//! peers told by an upstream are used meanwhile. // spec: paths, "Hardening bounds", new identities

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use wire::{Address, Identity, Keys, Now};

use crate::Node;
use crate::io::Output;
use crate::limits::*;
use crate::peer::Proof;
use crate::send::Arrival;

/// Why an identity is checked.
enum Question {
    /// Its HELLO waits here, opened.
    Newcomer { arrival: Arrival, identity: Identity, keys: Arc<Keys>, hello: Vec<u8> },
    /// It is a peer already.
    Peer(Identity),
}

impl Question {
    fn address(&self) -> Address {
        match self {
            Question::Newcomer { identity, .. } | Question::Peer(identity) => identity.address(),
        }
    }
}

/// The questions that the worker has.
#[derive(Default)]
pub(crate) struct Proofs {
    next_ticket: u64,
    pending: BTreeMap<u64, (u64, Question)>,
    /// Peers that are still to be checked.
    wanted: BTreeSet<Address>,
    /// Identities that failed, the oldest first: address and key, because the address may have an honest owner.
    refused: VecDeque<Fingerprint>,
}

/// Of an address and its public key together.
type Fingerprint = [u8; 48];

impl Proofs {
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PROOF_QUEUE_MAX
    }

    pub(crate) fn is_pending(&self, address: Address) -> bool {
        self.pending.values().any(|(_, q)| q.address() == address)
    }

    /// This very identity failed before.
    pub(crate) fn is_refused(&self, identity: &Identity) -> bool {
        !self.refused.is_empty() && self.refused.contains(&identity.fingerprint())
    }

    /// Notes an identity that failed. Returns how many older ones went for it.
    fn note_refused(&mut self, identity: &Identity) -> u64 {
        if self.is_refused(identity) {
            return 0;
        }
        let full = self.refused.len() >= REFUSED_IDENTITIES_MAX;
        if full {
            self.refused.pop_front();
        }
        self.refused.push_back(identity.fingerprint());
        u64::from(full)
    }

    fn ask(&mut self, question: Question, now_ms: u64) -> u64 {
        self.next_ticket += 1;
        self.pending.insert(self.next_ticket, (now_ms, question));
        self.next_ticket
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A peer is to be checked when the worker has room.
    pub(crate) fn want(&mut self, peer: Address) {
        self.wanted.insert(peer);
    }

    /// A peer is none any more.
    pub(crate) fn forget(&mut self, peer: Address) {
        self.wanted.remove(&peer);
    }
}

impl Node {
    /// The worker's verdict on [`Output::Prove`].
    pub fn handle_proof(&mut self, now: Now, ticket: u64, valid: bool) {
        let Some((_, question)) = self.proofs.pending.remove(&ticket) else { return };
        if !valid {
            self.refuse(now, &question);
        } else {
            match question {
                Question::Newcomer { arrival, identity, keys, mut hello } => {
                    self.newcomer_proven(now, &arrival, identity, keys, &mut hello);
                }
                Question::Peer(identity) => {
                    let peer = self.peers.get_mut(identity.address());
                    if let Some(peer) = peer.filter(|p| *p.identity == identity) {
                        peer.proof = Proof::Known;
                    }
                }
            }
        }
        self.prove_wanted(now);
    }

    fn refuse(&mut self, now: Now, question: &Question) {
        self.counters.identity_proof_failed += 1;
        // Newcomers are not noted: anybody can make them at will, and push out what an upstream told.
        let Question::Peer(identity) = question else { return };
        self.counters.refused_forgotten += self.proofs.note_refused(identity);
        self.cache.remove_identity(identity);
        let address = identity.address();
        if self.peers.get(address).is_some_and(|p| *p.identity == *identity) {
            self.forget_silently(now, address);
        }
    }

    /// Has a newcomer checked whose HELLO authenticated.
    pub(crate) fn prove_newcomer(
        &mut self,
        now: Now,
        arrival: Arrival,
        identity: Identity,
        keys: Arc<Keys>,
        hello: Vec<u8>,
    ) {
        let question = Question::Newcomer { arrival, identity: identity.clone(), keys, hello };
        let ticket = self.proofs.ask(question, now.ms());
        self.output(Output::Prove { ticket, identity });
    }

    /// Gives up questions that the worker never answered.
    pub(crate) fn expire_proofs(&mut self, now: Now) {
        let lost = |(since_ms, _): &(u64, Question)| now.ms().saturating_sub(*since_ms) > PROOF_TIMEOUT_MS;
        for asked in self.proofs.pending.values().filter(|asked| lost(asked)) {
            if let (_, Question::Peer(identity)) = asked
                && let Some(peer) = self.peers.get_mut(identity.address()).filter(|p| *p.identity == *identity)
            {
                peer.proof = Proof::Wanted;
                self.proofs.wanted.insert(identity.address());
            }
        }
        self.proofs.pending.retain(|_, asked| !lost(asked));
    }

    /// Gives the worker peers that are still to be checked, as far as its queue has room. Half of it is kept for
    /// newcomers.
    pub(crate) fn prove_wanted(&mut self, now: Now) {
        while self.proofs.len() < PROOF_QUEUE_MAX / 2 {
            let Some(address) = self.proofs.wanted.pop_first() else { return };
            let Some(peer) = self.peers.get_mut(address).filter(|p| p.proof == Proof::Wanted) else { continue };
            peer.proof = Proof::Asked;
            let identity = (*peer.identity).clone();
            let ticket = self.proofs.ask(Question::Peer(identity.clone()), now.ms());
            self.output(Output::Prove { ticket, identity });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_1024_refused_identities_are_remembered_by_address_and_key() {
        let mut proofs = Proofs::default();
        let identity = |n: u64, key: u8| Identity::from_parts(Address::from_u64(n), [key; 64]);
        let max = REFUSED_IDENTITIES_MAX as u64;
        let forgotten: u64 = (1..=max + 10).map(|n| proofs.note_refused(&identity(n, 1))).sum();
        assert_eq!((proofs.refused.len(), forgotten), (REFUSED_IDENTITIES_MAX, 10));
        assert_eq!(proofs.note_refused(&identity(max, 1)), 0, "known already");
        assert!(!proofs.is_refused(&identity(10, 1)) && proofs.is_refused(&identity(11, 1)));
        assert!(!proofs.is_refused(&identity(11, 2)), "the honest owner of the address");
    }
}
