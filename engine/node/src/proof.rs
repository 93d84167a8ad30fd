//! Proofs of work: identities that a worker is to check, because one check takes 25 ms. Newcomers wait for the verdict;
//! peers told by an upstream are used meanwhile. // spec: paths, "Hardening bounds", new identities

use std::collections::{BTreeMap, BTreeSet};
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
    Peer(Address),
}

impl Question {
    fn address(&self) -> Address {
        match self {
            Question::Newcomer { identity, .. } => identity.address(),
            Question::Peer(address) => *address,
        }
    }
}

/// The questions that the worker has.
#[derive(Default)]
pub(crate) struct Proofs {
    next_ticket: u64,
    pending: BTreeMap<u64, (u64, Question)>,
    refused: BTreeSet<Address>,
}

impl Proofs {
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PROOF_QUEUE_MAX
    }

    pub(crate) fn is_pending(&self, address: Address) -> bool {
        self.pending.values().any(|(_, q)| q.address() == address)
    }

    /// An identity of this address failed before.
    pub(crate) fn is_refused(&self, address: Address) -> bool {
        self.refused.contains(&address)
    }

    fn ask(&mut self, question: Question, now_ms: u64) -> u64 {
        self.next_ticket += 1;
        self.pending.insert(self.next_ticket, (now_ms, question));
        self.next_ticket
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
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
                Question::Peer(address) => {
                    if let Some(peer) = self.peers.get_mut(address) {
                        peer.proof = Proof::Known;
                    }
                }
            }
        }
        self.prove_wanted(now);
    }

    fn refuse(&mut self, now: Now, question: &Question) {
        self.counters.identity_proof_failed += 1;
        // A newcomer's address may belong to somebody honest, whom the forger must not lock out.
        let Question::Peer(address) = question else { return };
        if self.proofs.refused.len() < REFUSED_IDENTITIES_MAX {
            self.proofs.refused.insert(*address);
        }
        self.cache.remove(*address);
        self.forget_silently(now, *address);
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
            if let (_, Question::Peer(address)) = asked
                && let Some(peer) = self.peers.get_mut(*address)
            {
                peer.proof = Proof::Wanted;
            }
        }
        self.proofs.pending.retain(|_, asked| !lost(asked));
    }

    /// Gives the worker peers that are still to be checked, as far as its queue has room. Half of it is kept for
    /// newcomers.
    pub(crate) fn prove_wanted(&mut self, now: Now) {
        while self.proofs.len() < PROOF_QUEUE_MAX / 2 {
            let wanted = self.peers.iter_mut().find(|(_, p)| p.proof == Proof::Wanted);
            let Some((&address, peer)) = wanted else { return };
            peer.proof = Proof::Asked;
            let identity = (*peer.identity).clone();
            let ticket = self.proofs.ask(Question::Peer(address), now.ms());
            self.output(Output::Prove { ticket, identity });
        }
    }
}
