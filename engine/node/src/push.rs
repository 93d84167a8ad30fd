//! PUSH_DIRECT_PATHS, both ways: telling trusted peers where we can be reached, and trying where others say they can.
//! What is tried is bounded per push, per peer and in all.
// spec: paths, "PUSH_DIRECT_PATHS"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::endpoint::{self, Scope};
use wire::message::{PathRecord, SpreadOffer};
use wire::{Address, Now, Verb};

use crate::Node;
use crate::dispatch::{Handled, Heard};
use crate::gate::Rate;
use crate::limits::*;
use crate::peer::{Push, Redirect};
use crate::send::Arrival;
use crate::waiting::Message;

const PER_PEER: Rate = Rate::per_10_seconds(PUSH_PROBES_PER_10_S, PUSH_PROBES_BURST);

/// Scope and family: addresses of one class compete with each other.
fn class(endpoint: SocketAddr) -> (Scope, bool) {
    (endpoint::scope(endpoint.ip()), endpoint.is_ipv4())
}

impl Push {
    /// The least time between two pushes to a peer.
    fn interval(&self, direct: bool) -> u64 {
        match direct {
            true => PUSH_DIRECT_MS,
            false => PUSH_RELAYED_MS[self.relayed_in_a_row.saturating_sub(1).min(PUSH_RELAYED_MS.len() - 1)],
        }
    }

    /// A push may go now. A change of our addresses does not wait for the whole interval.
    fn due(&self, direct: bool, generation: u64, now_ms: u64) -> bool {
        let changed = self.last_sent.is_set() && self.generation != generation;
        let interval = if changed { PUSH_RELAYED_MS[0] } else { self.interval(direct) };
        !self.last_sent.within(interval, now_ms)
    }

    fn sent(&mut self, direct: bool, generation: u64, now_ms: u64) {
        self.last_sent.set(now_ms);
        self.generation = generation;
        self.relayed_in_a_row = if direct { 0 } else { self.relayed_in_a_row + 1 };
    }
}

impl Node {
    /// Where we can be reached, best first, eight of each class: what routers map, surfaces confirmed by upstreams, then our
    /// own sockets; the first port before the others.
    fn reachable_at(&self, now_ms: u64) -> Vec<SocketAddr> {
        let usable = |e: &SocketAddr| {
            endpoint::is_valid_path(*e) || (self.settings.allow_loopback && class(*e).0 == Scope::Loopback)
        };
        let mut classes: BTreeMap<(Scope, bool), usize> = BTreeMap::new();
        let mut list: Vec<SocketAddr> = Vec::new();
        for endpoint in self.external_endpoints(now_ms).into_iter().chain(self.local_endpoints()).filter(usable) {
            let of_class = classes.entry(class(endpoint)).or_default();
            if *of_class < PUSH_PER_CLASS && !list.contains(&endpoint) {
                *of_class += 1;
                list.push(endpoint);
            }
        }
        list
    }

    fn pushes(&self, now_ms: u64) -> Vec<Vec<u8>> {
        let records: Vec<PathRecord> = self.reachable_at(now_ms).into_iter().map(PathRecord::to).collect();
        // An IPv6 record is 23 bytes; so many always fit.
        let per_packet = (PUSH_PACKET_MAX - 2) / 23;
        let payload = |records: &[PathRecord]| {
            let mut out = Vec::new();
            PathRecord::write_all(records, &mut out);
            out
        };
        records.chunks(per_packet).map(payload).collect()
    }

    /// A trusted peer was heard: tell it where we are, over the path it was heard on, if that is due.
    pub(crate) fn maybe_push(&mut self, now: Now, arrival: &Arrival, to: Address) {
        let generation = self.surface_generation;
        let Some(peer) = self.peers.get_mut(to) else { return };
        if !peer.push.due(arrival.direct(), generation, now.ms()) {
            return;
        }
        let pushes = self.pushes(now.ms());
        if pushes.is_empty() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(to) {
            peer.push.sent(arrival.direct(), generation, now.ms());
        }
        for payload in pushes {
            let (socket, remote) = (Some(arrival.path.socket), arrival.path.remote);
            self.send_straight(now, to, socket, remote, Verb::PushDirectPaths, &payload, true);
        }
    }

    /// Our addresses changed: trusted peers are told without waiting for a packet of theirs.
    // spec: paths, "PUSH_DIRECT_PATHS", Gateway, sending
    pub(crate) fn push_after_change(&mut self, now: Now) {
        let (now_ms, generation) = (now.ms(), self.surface_generation);
        let outdated = |p: &crate::peer::Peer| {
            p.push.last_sent.is_set()
                && p.push.generation != generation
                && p.trusted(now_ms)
                && p.alive(now_ms)
                && p.push.due(true, generation, now_ms)
        };
        let due: Vec<Address> =
            self.peers.iter().filter(|(_, p)| outdated(p)).map(|(&a, _)| a).take(PUSH_ON_CHANGE_PER_TICK).collect();
        if due.is_empty() {
            return;
        }
        let pushes = self.pushes(now_ms);
        for to in due {
            let direct = self.way(to, now_ms).is_some_and(|w| w.owner == to);
            if let Some(peer) = self.peers.get_mut(to) {
                peer.push.sent(direct, generation, now_ms);
            }
            for payload in &pushes {
                let message = Message { compress: true, ..Message::new(Verb::PushDirectPaths, payload.clone()) };
                self.send(now, to, message);
            }
        }
    }

    /// A peer tells where it can be reached.
    pub(crate) fn push_received(&mut self, now: Now, arrival: &Arrival, from: Address, payload: &[u8]) -> Handled {
        let mut classes: BTreeMap<(Scope, bool), usize> = BTreeMap::new();
        for record in PathRecord::records(payload) {
            let PathRecord { flags, extension, endpoint } = record?;
            if let Some(offer) = SpreadOffer::parse(extension) {
                self.spread_offered(now, from, endpoint, offer);
            }
            if flags & PathRecord::FORGET != 0 {
                // Nothing is forgotten on somebody's word; a probe not sent yet is saved.
                self.rendezvous.cancel(from, endpoint);
                continue;
            }
            let redirect = flags & PathRecord::CLUSTER_REDIRECT != 0;
            let known = |s: &crate::path::Slot| s.path.remote == endpoint && !s.expired(now.ms());
            let Some(peer) = self.peers.get(from) else { break };
            // Who shares a network with us may share a LAN too, and who speaks from our LAN does; nobody else has business there.
            let neighbour = arrival.direct() && wire::endpoint::scope(arrival.path.remote.ip()) != Scope::Global;
            if peer.stranger() && !neighbour && class(endpoint).0 != Scope::Global {
                self.counters.push_stranger += 1;
                self.bond_told(now, from, endpoint);
                continue;
            }
            let known = !redirect && peer.slots.iter().any(known);
            self.bond_told(now, from, endpoint);
            if known || !self.acceptable(from, endpoint) {
                continue;
            }
            let of_class = classes.entry(class(endpoint)).or_default();
            *of_class += 1;
            if *of_class > PUSH_PER_CLASS {
                self.counters.push_over_class += 1;
                continue;
            }
            if !self.may_probe_pushed(now, from) {
                self.counters.push_over_rate += 1;
                continue;
            }
            if redirect {
                self.redirected(now, from, endpoint);
            }
            match redirect {
                true => self.contact(now, from, None, endpoint, true),
                false => self.try_pushed(now, from, endpoint),
            }
        }
        Ok(Heard::YES)
    }

    fn may_probe_pushed(&mut self, now: Now, from: Address) -> bool {
        let of_peer = self.peers.get_mut(from).is_some_and(|p| p.push.probes.take(PER_PEER, now.ms()));
        of_peer && self.gates.push_probe(now.ms())
    }

    /// A cluster redirect is a probe, and takes effect when its target answers; and only for upstreams and controllers,
    /// who alone have reason for it. // spec: paths, "Cluster redirect", Gateway
    fn redirected(&mut self, now: Now, from: Address, remote: SocketAddr) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        if !peer.upstream && !peer.controller {
            return;
        }
        let highest = peer.slots.iter().map(|s| s.priority).max().unwrap_or(1);
        let until_ms = now.ms() + REDIRECT_TIMEOUT_MS;
        peer.redirect = Some(Redirect { remote, priority: highest.saturating_add(2), until_ms });
    }
}
