//! Asking upstreams who an address is: one question per address and half second, with one budget for strangers' packets
//! and another for our own, so that no flood of strangers keeps us from anybody we want to talk to.
// spec: paths, "Created by WHOIS"

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use wire::message::Whois as WhoisMessage;
use wire::{Address, Identity, Keys, Now, Verb};

use crate::Node;
use crate::gate::{Bucket, Rate, Stamp};
use crate::limits::*;
use crate::peer::{Peer, Proof};
use crate::waiting::Message;

const STRANGERS: Rate = Rate::per_second(WHOIS_PER_S);
const OURS: Rate = Rate::per_second(OWN_WHOIS_PER_S);

/// One address that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    last: Stamp,
    ours: bool,
}

/// The questions under way.
#[derive(Debug, Default)]
pub(crate) struct Whois {
    asked: BTreeMap<Address, Asked>,
    /// How many of them are for packets of our own.
    asked_ours: usize,
    strangers: Bucket,
    ours: Bucket,
    /// Which upstream is asked again next.
    turn: usize,
}

impl Whois {
    /// The question about `address` may be put now, as far as its own gate is concerned. Registers it.
    fn due(&mut self, address: Address, ours: bool, now_ms: u64) -> bool {
        let room = match ours {
            true => self.asked_ours < WHOIS_PENDING_MAX,
            false => self.asked.len() - self.asked_ours < WHOIS_PENDING_MAX,
        };
        let entry = match self.asked.entry(address) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if !room => return false,
            Entry::Vacant(entry) => {
                self.asked_ours += usize::from(ours);
                entry.insert(Asked { last: Stamp::NEVER, ours })
            }
        };
        if ours && !entry.ours && room {
            entry.ours = true;
            self.asked_ours += 1;
        }
        entry.last.pass(WHOIS_RETRY_MS, now_ms)
    }

    /// The question could not be put: it is due again.
    fn postpone(&mut self, address: Address) {
        if let Some(asked) = self.asked.get_mut(&address) {
            asked.last = Stamp::NEVER;
        }
    }

    fn take(&mut self, ours: bool, now_ms: u64) -> bool {
        if ours { self.ours.take(OURS, now_ms) } else { self.strangers.take(STRANGERS, now_ms) }
    }

    fn was_asked(&self, address: Address, now_ms: u64) -> bool {
        self.asked.get(&address).is_some_and(|a| a.last.within(REPLY_TIMEOUT_MS, now_ms))
    }

    fn expire(&mut self, now_ms: u64) {
        self.asked.retain(|_, a| {
            let keep = a.last.within(REPLY_TIMEOUT_MS, now_ms);
            self.asked_ours -= usize::from(!keep && a.ours);
            keep
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }
}

impl Node {
    /// Asks the best upstream who `address` is, unless it was just asked. `ours`: we want to send something to it.
    pub(crate) fn ask_identity(&mut self, now: Now, address: Address, ours: bool) {
        if address.is_reserved() || address == self.address() || self.peers.contains(address) {
            return;
        }
        if !self.whois.due(address, ours, now.ms()) {
            return;
        }
        let best = self.roots.best().filter(|&u| self.way(u, now.ms()).is_some());
        self.send_whois(now, &[address], ours, best);
    }

    /// Who is asked again: the upstreams in turn, for the best one may be dead and nobody knows yet.
    fn asked_again(&mut self, now: Now) -> Option<Address> {
        let ranked = self.roots.ranked(&self.peers, now.ms()).into_iter();
        let reachable: Vec<Address> = ranked.filter(|&u| self.way(u, now.ms()).is_some()).collect();
        self.whois.turn = self.whois.turn.wrapping_add(1);
        reachable.get(self.whois.turn % reachable.len().max(1)).copied()
    }

    fn send_whois(&mut self, now: Now, addresses: &[Address], ours: bool, upstream: Option<Address>) {
        let Some(upstream) = upstream else {
            return addresses.iter().for_each(|&a| self.whois.postpone(a)); // until an upstream answers
        };
        if !self.whois.take(ours, now.ms()) {
            self.counters.whois_over_rate += 1;
            return;
        }
        let mut payload = Vec::with_capacity(addresses.len() * Address::LEN);
        WhoisMessage { addresses: addresses.to_vec() }.write(&mut payload);
        self.send(now, upstream, Message::new(Verb::Whois, payload).expecting_reply());
    }

    /// Repeats the questions for everything that still waits, several in one packet.
    pub(crate) fn repeat_whois(&mut self, now: Now) {
        self.whois.expire(now.ms());
        let wanted = self.queue.destinations().into_iter().chain(self.rendezvous.held_peers());
        let wanted: Vec<Address> = wanted.filter(|&a| !self.peers.contains(a)).collect();
        let strangers: Vec<Address> = self.waiting.sources().collect();
        for (addresses, ours) in [(wanted, true), (strangers, false)] {
            let due: Vec<Address> = addresses.into_iter().filter(|&a| self.whois.due(a, ours, now.ms())).collect();
            if due.is_empty() {
                continue;
            }
            let upstream = self.asked_again(now);
            for batch in due.chunks(WHOIS_BATCH) {
                self.send_whois(now, batch, ours, upstream);
            }
        }
    }

    /// An upstream told us an identity. It is used at once and its proof of work checked in the background.
    pub(crate) fn identity_told(&mut self, now: Now, identity: Identity) {
        let address = identity.address();
        if !self.whois.was_asked(address, now.ms()) || self.proofs.is_refused(&identity) || address.is_reserved() {
            self.counters.whois_answer_refused += 1;
            return;
        }
        if self.peers.contains(address) || address == self.address() {
            return;
        }
        if self.meet(now, Arc::new(identity), Proof::Wanted) {
            self.release(now, address);
        }
    }

    /// Agrees on keys with an identity and makes it a peer. False if that is not possible.
    pub(crate) fn meet(&mut self, now: Now, identity: Arc<Identity>, proof: Proof) -> bool {
        let Some(key) = self.own.agree(&identity) else {
            self.counters.no_agreement += 1;
            return false;
        };
        self.add_peer(now, identity, Arc::new(Keys::new(key)), proof)
    }

    /// Adds a peer, making room if necessary.
    pub(crate) fn add_peer(&mut self, now: Now, identity: Arc<Identity>, keys: Arc<Keys>, proof: Proof) -> bool {
        // A root knows nobody but strangers. // spec: paths, "Hardening bounds", peers
        let strangers_max = if self.roots.is_upstream() { PEERS_MAX } else { STRANGERS_MAX };
        match self.peers.make_room(strangers_max, now.ms()) {
            Ok(None) => {}
            Ok(Some(victim)) => {
                self.counters.peers_evicted += 1;
                self.forget(now, victim);
            }
            Err(crate::peer::Full) => {
                self.counters.peers_full += 1;
                return false;
            }
        }
        let address = identity.address();
        let mut peer = Peer::new(identity, keys, proof, now.ms());
        peer.ping_ms = PEER_PING_MS - PEER_PING_JITTER_MS + self.random_below(2 * PEER_PING_JITTER_MS);
        peer.upstream = self.roots.is_upstream_address(address);
        peer.controller = self.is_our_controller(address);
        if peer.proof == Proof::Wanted {
            self.proofs.want(address);
        }
        self.peers.insert(peer);
        self.prove_wanted(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_strangers_and_ours_are_counted_apart_and_each_kind_is_bounded() {
        let mut whois = Whois::default();
        let due = |whois: &mut Whois, from: u64, ours| {
            (from..from + 3000).filter(|&n| whois.due(Address::from_u64(n), ours, 0)).count()
        };
        assert_eq!(due(&mut whois, 1, false), WHOIS_PENDING_MAX);
        // What strangers asked for becomes ours, which makes room for strangers, but not for more of ours.
        (1..=500).for_each(|n| assert!(!whois.due(Address::from_u64(n), true, 1), "just asked"));
        assert_eq!((whois.len(), whois.asked_ours), (WHOIS_PENDING_MAX, 500));
        assert_eq!(due(&mut whois, 10_000, true), WHOIS_PENDING_MAX - 500);
        assert_eq!(due(&mut whois, 20_000, false), 500);
        (501..=1024).for_each(|n| assert!(!whois.due(Address::from_u64(n), true, 1)));
        assert_eq!((whois.len(), whois.asked_ours), (2 * WHOIS_PENDING_MAX, WHOIS_PENDING_MAX));
        whois.expire(REPLY_TIMEOUT_MS);
        assert_eq!((whois.len(), whois.asked_ours), (0, 0));
    }
}
