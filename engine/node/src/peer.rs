//! What is known of other nodes: identity, keys, version, when they were last heard, and their slots. The table of
//! peers is bounded; who goes when it is full is decided here, and nothing here sends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::message::Version;
use wire::{Address, Identity, Keys, Suite};

use crate::gate::{Bucket, Stamp};
use crate::io::Port;
use crate::limits::*;
use crate::path::{Path, Slot};
use crate::settings::Settings;

/// It answers ECHO probes. // spec: paths, "Keep-alive and latency"
pub(crate) fn takes_echo(v: Version) -> bool {
    v.protocol >= 5 && (v.major, v.minor, v.revision) != (1, 1, 0)
}

/// It answers one ECHO per second over all paths. // spec: paths, "ECHO responder"
pub(crate) fn answers_echo_slowly(v: Version) -> bool {
    v.protocol != 0 && (v.major, v.minor, v.revision) <= (1, 8, 8)
}

/// How far the proof of work of an identity has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Checked, or vouched for by our own disk.
    Known,
    /// To be given to the worker when its queue has room.
    Wanted,
    /// The worker has it.
    Asked,
}

/// How pushing our addresses to a peer stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Push {
    pub(crate) last_sent: Stamp,
    /// Pushes sent over a relay since the peer was last reached directly.
    pub(crate) relayed_in_a_row: usize,
    /// The state of our addresses that it was told.
    pub(crate) generation: u64,
    /// Probes that its own pushes may cause.
    pub(crate) probes: Bucket,
}

/// A cluster redirect that waits for its target to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redirect {
    pub(crate) remote: SocketAddr,
    pub(crate) priority: u16,
    pub(crate) until_ms: u64,
}

/// Another node whose identity is known.
pub(crate) struct Peer {
    pub(crate) identity: Arc<Identity>,
    pub(crate) keys: Arc<Keys>,
    /// What it says it runs; protocol 0 is unknown.
    pub(crate) version: Version,
    pub(crate) proof: Proof,
    /// It is a root of the planet or a moon.
    pub(crate) upstream: bool,
    /// It controls a network that we joined.
    pub(crate) controller: bool,
    pub(crate) created_ms: u64,
    /// Last authenticated packet, direct or relayed.
    pub(crate) last_receive: Stamp,
    /// Last frame or configuration packet.
    pub(crate) last_nontrivial: Stamp,
    pub(crate) last_trust: Stamp,
    pub(crate) last_full_hello: Stamp,
    /// Its own period of full HELLOs.
    pub(crate) ping_ms: u64,
    pub(crate) last_whois_answered: Stamp,
    pub(crate) last_hint: Stamp,
    pub(crate) last_world_sent: Stamp,
    /// Last frame sent to it, directly or relayed.
    pub(crate) last_frame_out: Stamp,
    /// Last ECHO of ours, whichever the path.
    pub(crate) last_echo_out: Stamp,
    /// Last time the networks heard of frames that shards carry.
    pub(crate) last_activity: Stamp,
    pub(crate) echo_answers: Bucket,
    pub(crate) hello_answers: Bucket,
    pub(crate) challenges: Bucket,
    /// Unconfirmed paths probed within the last second.
    pub(crate) challenged: Vec<(Path, Stamp)>,
    pub(crate) rendezvous: Bucket,
    pub(crate) push: Push,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) slots: Vec<Slot>,
    /// Where it says that it can be reached, for a bond that is not made yet, the latest last.
    pub(crate) told: Vec<SocketAddr>,
    /// Endpoints of paths that expired, the latest last.
    former: Vec<SocketAddr>,
    /// The last news about its reachability said "direct".
    pub(crate) announced_direct: bool,
    /// The direct path that was warmed up last.
    pub(crate) warmed: Option<Path>,
}

impl Peer {
    pub(crate) fn new(identity: Arc<Identity>, keys: Arc<Keys>, proof: Proof, now_ms: u64) -> Peer {
        Peer {
            identity,
            keys,
            version: Version::default(),
            proof,
            upstream: false,
            controller: false,
            created_ms: now_ms,
            last_receive: Stamp::NEVER,
            last_nontrivial: Stamp::NEVER,
            last_trust: Stamp::NEVER,
            last_full_hello: Stamp::NEVER,
            ping_ms: PEER_PING_MS,
            last_whois_answered: Stamp::NEVER,
            last_hint: Stamp::NEVER,
            last_world_sent: Stamp::NEVER,
            last_frame_out: Stamp::NEVER,
            last_echo_out: Stamp::NEVER,
            last_activity: Stamp::NEVER,
            echo_answers: Bucket::default(),
            hello_answers: Bucket::default(),
            challenges: Bucket::default(),
            challenged: Vec::new(),
            rendezvous: Bucket::default(),
            push: Push::default(),
            redirect: None,
            slots: Vec::new(),
            told: Vec::new(),
            former: Vec::new(),
            announced_direct: false,
            warmed: None,
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.identity.address()
    }

    pub(crate) fn alive(&self, now_ms: u64) -> bool {
        self.last_receive.within(PEER_SILENCE_MS, now_ms)
    }

    pub(crate) fn active(&self, now_ms: u64) -> bool {
        self.last_nontrivial.within(PEER_ACTIVITY_MS, now_ms)
    }

    pub(crate) fn trusted(&self, now_ms: u64) -> bool {
        self.last_trust.within(TRUST_EXPIRATION_MS, now_ms)
    }

    /// It never proved a relationship beyond having an identity.
    pub(crate) fn stranger(&self) -> bool {
        !self.last_trust.is_set() && !self.upstream && !self.controller
    }

    /// The suite for what is encrypted to it. // spec: wire, "Which suite the reference sends"
    pub(crate) fn suite(&self, settings: &Settings) -> Suite {
        if self.version.protocol >= 12 && !settings.salsa_only { Suite::AesGmacSiv } else { Suite::Salsa2012Poly1305 }
    }

    pub(crate) fn slot(&self, path: &Path) -> Option<&Slot> {
        self.slots.iter().find(|s| s.path == *path)
    }

    pub(crate) fn slot_mut(&mut self, path: &Path) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|s| s.path == *path)
    }

    /// An earlier port of ours reaches the same host: the slot is neither used nor kept alive.
    pub(crate) fn stands_back(&self, slot: &Slot, now_ms: u64) -> bool {
        slot.port != Port::Primary && self.slots.iter().any(|s| s.stands_before(slot) && s.alive(now_ms))
    }

    /// The best slot that is not expired; of equals the later one. // spec: paths, "Path selection"
    pub(crate) fn best_slot(&self, now_ms: u64) -> Option<&Slot> {
        let usable = |s: &&Slot| !s.expired(now_ms) && !self.stands_back(s, now_ms);
        let best = self.slots.iter().filter(usable).rev().min_by_key(|s| s.score(now_ms))?;
        let carries = |s: &&Slot| usable(s) && s.alive(now_ms) && s.last_frame_out.within(TRAFFIC_WINDOW_MS, now_ms);
        let carrying = self.slots.iter().filter(carries).max_by_key(|s| s.last_frame_out.get());
        Some(carrying.filter(|s| s.holds_against(best, now_ms)).unwrap_or(best))
    }

    /// The best slot, expired ones included: the last resort.
    pub(crate) fn any_slot(&self, now_ms: u64) -> Option<&Slot> {
        self.best_slot(now_ms).or_else(|| self.slots.iter().rev().min_by_key(|s| s.score(now_ms)))
    }

    pub(crate) fn latency_us(&self, now_ms: u64) -> Option<u32> {
        self.best_slot(now_ms).and_then(|s| s.latency_us)
    }

    /// Removes slots that expired or lost to a redirect. True if any was removed.
    // spec: paths, "Removal and expiry"
    pub(crate) fn prune(&mut self, now_ms: u64) -> bool {
        let highest = self.slots.iter().map(|s| s.priority).max().unwrap_or(1);
        let goes = |s: &Slot| s.expired(now_ms) || s.priority < highest;
        let before = self.slots.len();
        for gone in self.slots.extract_if(.., |s| goes(s)) {
            self.former.retain(|e| *e != gone.path.remote);
            self.former.push(gone.path.remote);
        }
        let excess = self.former.len().saturating_sub(CACHED_ENDPOINTS_MAX);
        self.former.drain(..excess);
        self.slots.len() < before
    }

    /// Where it was reached, the present paths first.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        let mut endpoints: Vec<SocketAddr> = Vec::new();
        for remote in self.slots.iter().map(|s| s.path.remote).chain(self.former.iter().rev().copied()) {
            if !endpoints.contains(&remote) && endpoints.len() < CACHED_ENDPOINTS_MAX {
                endpoints.push(remote);
            }
        }
        endpoints
    }

    /// Takes in a path that was proven. Returns how many slots went for it, or `None` if no slot may go.
    // spec: paths, "Path learning" and "Hardening bounds", slots per peer
    pub(crate) fn learn(&mut self, path: Path, heartbeat_ms: u64, now_ms: u64) -> Option<usize> {
        if let Some(redirect) = self.redirect.filter(|r| r.remote == path.remote) {
            self.redirect = None;
            if now_ms < redirect.until_ms {
                return Some(self.redirected(path, redirect.priority, heartbeat_ms, now_ms));
            }
        }
        if let Some(known) = self.slot_mut(&path) {
            known.verified(now_ms, true);
            return Some(0);
        }
        let slot = Slot::new(path, 1, heartbeat_ms, now_ms);
        if let Some(old) = self.slots.iter_mut().find(|s| s.path.same_host(&path) && !s.alive(now_ms)) {
            *old = slot;
            return Some(1);
        }
        let room = if self.stranger() { STRANGER_SLOTS_MAX } else { SLOTS_MAX };
        if self.slots.len() < room {
            self.slots.push(slot);
            return Some(0);
        }
        let index = self.replaceable(now_ms)?;
        self.slots.remove(index);
        self.slots.push(slot);
        Some(1)
    }

    /// Expired before dead before oldest; never the one verified last.
    fn replaceable(&self, now_ms: u64) -> Option<usize> {
        let latest = self.slots.iter().map(|s| s.last_verified.get()).max()?;
        let keep = self.slots.iter().rposition(|s| s.last_verified.get() == latest);
        let candidates = self.slots.iter().enumerate().filter(|&(i, _)| Some(i) != keep);
        candidates
            .max_by_key(|(_, s)| (s.expired(now_ms), !s.alive(now_ms), s.last_verified.age(now_ms)))
            .map(|(i, _)| i)
    }

    /// The target of a cluster redirect answered: it takes over. // spec: paths, "Cluster redirect"
    fn redirected(&mut self, path: Path, priority: u16, heartbeat_ms: u64, now_ms: u64) -> usize {
        let before = self.slots.len();
        self.slots.retain(|s| s.priority >= priority && !same_network(&s.path, &path));
        let gone = before - self.slots.len();
        if self.slots.len() >= SLOTS_MAX {
            self.slots.remove(0);
        }
        self.slots.push(Slot::new(path, priority, heartbeat_ms, now_ms));
        gone
    }
}

/// Same IP, or for IPv6 the same first 64 bits.
fn same_network(a: &Path, b: &Path) -> bool {
    use std::net::IpAddr::V6;
    match (a.remote.ip(), b.remote.ip()) {
        (V6(a), V6(b)) => a.segments()[..4] == b.segments()[..4],
        (a, b) => a == b,
    }
}

/// All peers, by address.
#[derive(Default)]
pub(crate) struct Peers {
    table: BTreeMap<Address, Peer>,
    /// No more strangers than this, so that they need not be counted for every newcomer.
    strangers_at_most: usize,
}

impl Peers {
    pub(crate) fn get(&self, address: Address) -> Option<&Peer> {
        self.table.get(&address)
    }

    pub(crate) fn get_mut(&mut self, address: Address) -> Option<&mut Peer> {
        self.table.get_mut(&address)
    }

    pub(crate) fn contains(&self, address: Address) -> bool {
        self.table.contains_key(&address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Address, &Peer)> {
        self.table.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Address, &mut Peer)> {
        self.table.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn insert(&mut self, peer: Peer) {
        self.table.insert(peer.address(), peer);
        self.strangers_at_most += 1;
    }

    pub(crate) fn remove(&mut self, address: Address) -> Option<Peer> {
        let gone = self.table.remove(&address);
        self.strangers_at_most -= usize::from(gone.as_ref().is_some_and(Peer::stranger));
        gone
    }

    /// Counts the strangers anew: now and then, and when roots or controllers may have become strangers.
    pub(crate) fn count_strangers(&mut self) {
        self.strangers_at_most = self.table.values().filter(|p| p.stranger()).count();
    }

    /// Peers that are no strangers, at least.
    pub(crate) fn friends(&self) -> usize {
        self.table.len() - self.strangers_at_most.min(self.table.len())
    }

    /// Who must go so that one more fits: the stranger silent for longest. `Err` if the table is full of peers that are
    /// no strangers.
    // spec: paths, "Hardening bounds", peers
    pub(crate) fn make_room(&mut self, strangers_max: usize, now_ms: u64) -> Result<Option<Address>, Full> {
        let full = self.table.len() >= PEERS_MAX;
        if !full && self.strangers_at_most >= strangers_max {
            self.count_strangers();
        }
        if !full && self.strangers_at_most < strangers_max {
            return Ok(None);
        }
        let silence = |p: &&Peer| (p.last_receive.age(now_ms), now_ms.saturating_sub(p.created_ms));
        let strangers = self.table.values().filter(|p| p.stranger());
        strangers.max_by_key(silence).map(|p| Some(p.address())).ok_or(Full)
    }
}

/// The table of peers has no room.
pub(crate) struct Full;

#[cfg(test)]
mod tests {
    use super::*;
    use wire::SecretIdentity;

    fn keys() -> Arc<Keys> {
        let secret = |n: u8| SecretIdentity::from_parts(Address::from_u64(n.into()), zeroize::Zeroizing::new([n; 64]));
        secret(1).agree(secret(2).public()).map(|key| Arc::new(Keys::new(key))).unwrap()
    }

    /// A peer that was made at `n` ms and never heard.
    fn peer(keys: &Arc<Keys>, n: u64, stranger: bool) -> Peer {
        let identity = Arc::new(Identity::from_parts(Address::from_u64(n), [1; 64]));
        let mut peer = Peer::new(identity, keys.clone(), Proof::Known, n);
        peer.upstream = !stranger;
        peer
    }

    #[test]
    fn a_path_that_is_known_stays_one_slot_although_a_redirect_to_it_came_to_nothing() {
        let mut peer = peer(&keys(), 5, false);
        let path = Path { socket: crate::LocalSocketId(1), remote: "192.0.2.1:1".parse().unwrap() };
        assert_eq!(peer.learn(path, PATH_HEARTBEAT_MS, 0), Some(0));
        peer.redirect = Some(Redirect { remote: path.remote, priority: 3, until_ms: 10 });
        assert_eq!(peer.learn(path, PATH_HEARTBEAT_MS, 20), Some(0));
        assert_eq!((peer.slots.len(), peer.slots[0].last_verified.get()), (1, Some(20)));
    }

    #[test]
    fn a_table_full_of_friends_takes_nobody_and_a_stranger_makes_room() {
        let (mut peers, keys, now_ms) = (Peers::default(), keys(), 1_000_000);
        (1..PEERS_MAX as u64).for_each(|n| peers.insert(peer(&keys, n, false)));
        assert!(matches!(peers.make_room(STRANGERS_MAX, now_ms), Ok(None)));
        peers.insert(peer(&keys, PEERS_MAX as u64, false));
        assert!(peers.make_room(STRANGERS_MAX, now_ms).is_err());
        peers.insert(peer(&keys, 77, true));
        peers.insert(peer(&keys, 78, true));
        assert_eq!(peers.make_room(STRANGERS_MAX, now_ms).ok(), Some(Some(Address::from_u64(77))), "silent longest");
        peers.get_mut(Address::from_u64(77)).unwrap().last_receive.set(now_ms);
        assert_eq!(peers.make_room(PEERS_MAX, now_ms).ok(), Some(Some(Address::from_u64(78))));
        assert_eq!(peers.len(), PEERS_MAX);
    }

    #[test]
    fn strangers_have_a_bound_of_their_own_and_friends_are_not_counted_against_it() {
        let (mut peers, keys) = (Peers::default(), keys());
        (1..=100).for_each(|n| peers.insert(peer(&keys, n, false)));
        for n in 0..STRANGERS_MAX as u64 {
            assert!(matches!(peers.make_room(STRANGERS_MAX, 0), Ok(None)));
            peers.insert(peer(&keys, 1000 + n, true));
        }
        assert_eq!(peers.make_room(STRANGERS_MAX, 10_000).ok(), Some(Some(Address::from_u64(1000))));
    }
}
