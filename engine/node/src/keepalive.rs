//! Keeping paths of active peers open: heartbeats, the full HELLO once a minute, removal of what expired. Also what
//! happens to paths when one of our sockets comes or goes.
// spec: paths, "Keep-alive and latency"

use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::io::{Activity, LocalSocketId, Port, Socket};
use crate::limits::*;
use crate::path::{Path, Slot};
use crate::send::Way;
use crate::timers::NEW_SOCKET_MS;

/// Which address families something was sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeted {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

impl Node {
    /// The keep-alive routine for one peer: `full` sends HELLO to each remote, else ECHO where nothing went for a
    /// while.
    pub(crate) fn keep_alive(&mut self, now: Now, address: Address, full: bool) -> Greeted {
        let now_ms = now.ms();
        let mut greeted = Greeted::default();
        let Some(peer) = self.peers.get_mut(address) else { return greeted };
        if full {
            peer.last_full_hello.set(now_ms);
        }
        let removed = peer.prune(now_ms);
        let needed = |s: &&Slot| (full || s.needs_heartbeat(now_ms)) && !peer.stands_back(s, now_ms);
        let due: Vec<Path> = peer.slots.iter().filter(needed).map(|s| s.path).collect();
        // The root in use shows how a NAT maps each of our ports.
        let every_port = self.roots.best() == Some(address);
        let mut hellos: Vec<SocketAddr> = Vec::new();
        for Path { socket, remote } in due {
            greeted.ipv4 |= remote.is_ipv4();
            greeted.ipv6 |= remote.is_ipv6();
            if !full {
                self.contact(now, address, Some(socket), remote, false);
                continue;
            }
            // A HELLO leaves from all links, so one per remote greets every slot that has it.
            if !hellos.contains(&remote) {
                hellos.push(remote);
                match every_port {
                    true => self.send_hello(now, address, None, remote),
                    false => self.send_hello_by_links(now, address, remote),
                }
            }
            let beside = self.place(socket).1 != Port::Primary || self.spreads.is_adopted(socket);
            if !every_port && beside {
                self.send_hello(now, address, Some(socket), remote);
            }
        }
        if removed {
            self.path_changed(now, address);
        }
        greeted
    }

    /// Heartbeats of active peers and of upstreams, at every tick.
    pub(crate) fn keep_peers_alive(&mut self, now: Now) {
        let now_ms = now.ms();
        let mut due = Vec::new();
        for (&address, peer) in self.peers.iter() {
            let wants = |s: &Slot| s.expired(now_ms) || s.needs_heartbeat(now_ms) && !peer.stands_back(s, now_ms);
            // Upstreams get their HELLO from the ping check.
            let full = !peer.upstream && !peer.last_full_hello.within(peer.ping_ms, now_ms);
            let kept = peer.upstream || peer.active(now_ms);
            if kept && !peer.slots.is_empty() && (full || peer.slots.iter().any(wants)) {
                due.push((address, full));
            }
        }
        for (address, full) in due {
            self.keep_alive(now, address, full);
        }
    }

    /// A socket was bound. Upstreams are greeted from it within a second.
    pub fn add_socket(&mut self, now: Now, socket: Socket) {
        let id = socket.id;
        self.sockets.insert(id, socket);
        self.surface_generation += 1;
        self.timers.new_sockets.push(id);
        self.timers.next_tick_ms = self.timers.next_tick_ms.min(now.ms() + NEW_SOCKET_MS);
    }

    /// A socket was closed: every path on it is dead at once, and what used it is looked for elsewhere.
    // spec: paths, "When an interface goes away", Gateway
    pub fn remove_socket(&mut self, now: Now, id: LocalSocketId) {
        let spread = self.spread_socket_gone(now, id);
        let told_of = self.sockets.remove(&id).is_some();
        if !told_of && spread.is_empty() {
            return;
        }
        self.surface_generation += u64::from(told_of);
        self.mapped.remove(&id);
        self.surfaces.socket_gone(id);
        self.lanes_gone(id);
        let mut lost: Vec<(Address, SocketAddr)> = Vec::new();
        for (&address, peer) in self.peers.iter_mut() {
            let goes = |s: &Slot| s.path.socket == id || spread.contains(&s.path.socket);
            lost.extend(peer.slots.extract_if(.., |s| goes(s)).map(|s| (address, s.path.remote)));
        }
        for &(address, remote) in &lost {
            let active = self.peers.get(address).is_some_and(|p| p.upstream || p.active(now.ms()));
            if active && self.gates.challenge(now.ms()) {
                self.send_hello(now, address, None, remote);
                self.remember_lost(now, address, remote);
            }
        }
        self.upstreams_changed(now);
        lost.dedup_by_key(|(address, _)| *address);
        for (address, _) in lost {
            self.path_changed(now, address);
        }
        self.timers.next_ping_ms = now.ms();
    }

    /// The path went with its socket: the next socket that appears tries it.
    fn remember_lost(&mut self, now: Now, address: Address, remote: SocketAddr) {
        let lost = &mut self.timers.lost_paths;
        if !self.settings.fast_failover || lost.iter().any(|(a, r, _)| (*a, *r) == (address, remote)) {
            return;
        }
        if lost.len() >= LOST_PATHS_MAX {
            lost.pop_front();
            self.counters.lost_paths_full += 1;
        }
        lost.push_back((address, remote, now.ms()));
    }

    /// Greets peers that were reached over a socket that is gone, and are not otherwise, from a new one.
    fn greet_lost(&mut self, now: Now, socket: LocalSocketId, local: SocketAddr) {
        for (address, remote, at) in self.timers.lost_paths.clone() {
            let usable = |p: &crate::peer::Peer| p.slots.iter().any(|s| s.alive(now.ms()));
            let needed = self.peers.get(address).is_some_and(|p| !usable(p));
            let fresh = now.ms().saturating_sub(at) < LOST_PATHS_MS && remote.is_ipv4() == local.is_ipv4();
            if needed && fresh && self.gates.challenge(now.ms()) {
                self.send_hello(now, address, Some(socket), remote);
            }
        }
    }

    /// Greets upstreams from sockets that are new, and peers that lost a socket.
    pub(crate) fn greet_from_new_sockets(&mut self, now: Now) {
        let new = std::mem::take(&mut self.timers.new_sockets);
        if new.is_empty() {
            return;
        }
        self.bonds_have_new_socket(now);
        let reached = |(u, _): (Address, _)| self.peers.get(u).is_some_and(|p| !p.slots.is_empty());
        if !self.roots.upstreams().any(reached) {
            self.timers.next_ping_ms = now.ms(); // which greets them from all sockets
        }
        for socket in new {
            let Some(local) = self.sockets.get(&socket).map(|s| s.local) else { continue };
            for (address, remote) in self.places_of_reached_upstreams(local.is_ipv4()) {
                self.send_hello(now, address, Some(socket), remote);
            }
            if self.place(socket).1 == Port::Primary {
                self.greet_lost(now, socket, local);
            }
        }
    }

    /// Where the upstreams that we reach are greeted by this family: at the ends of their paths, or at an endpoint if no
    /// path is of that family.
    fn places_of_reached_upstreams(&self, ipv4: bool) -> Vec<(Address, SocketAddr)> {
        let mut places = Vec::new();
        for (address, upstream) in self.roots.upstreams() {
            let slots = self.peers.get(address).map(|p| &p.slots[..]).unwrap_or_default();
            if slots.is_empty() {
                continue;
            }
            let of_family = |e: &SocketAddr| e.is_ipv4() == ipv4;
            let mut at: Vec<SocketAddr> = slots.iter().map(|s| s.path.remote).filter(of_family).collect();
            at.dedup();
            if at.is_empty() {
                let endpoints: Vec<SocketAddr> = upstream.endpoints.iter().copied().filter(of_family).collect();
                at.extend(endpoints.get(self.endpoint_turn % endpoints.len().max(1)));
            }
            places.extend(at.into_iter().map(|remote| (address, remote)));
        }
        places
    }

    /// What the shards saw and sent since their last report. Frames on their fast path never come here, so this is how
    /// the node knows that paths work, that peers are active, and which paths carry traffic.
    pub fn handle_activity(&mut self, now: Now, activities: &[Activity]) {
        for activity in activities {
            self.activity(now, activity);
        }
    }

    fn activity(&mut self, now: Now, a: &Activity) {
        let arrival = self.arrival(Path { socket: a.socket, remote: a.remote }, u8::from(!a.hops0));
        let path = arrival.path;
        if !self.peers.contains(a.peer) {
            return;
        }
        if self.peers.get_mut(a.peer).is_some_and(|p| p.last_activity.pass(ACTIVITY_TO_NETWORKS_MS, now.ms())) {
            self.network_activity(now, a.peer);
        }
        if a.rx_packets > 0 {
            if a.hops0 {
                self.bond_heard(now, a.peer, &path, a.rx_packets);
            }
            let heard = crate::dispatch::Heard { heard: true, trust: a.nontrivial, proves_path: false };
            self.received(now, &arrival, a.peer, a.nontrivial.then_some(wire::Verb::Frame), heard);
        }
        if a.tx_packets > 0 {
            let own = self.peers.get(a.peer).is_some_and(|p| p.slot(&path).is_some());
            let relay = || {
                let has = |u: &Address| self.peers.get(*u).is_some_and(|p| p.slot(&path).is_some());
                self.roots.upstreams().map(|(u, _)| u).find(has)
            };
            if let Some(owner) = if own { Some(a.peer) } else { relay() } {
                self.sent_over(now, a.peer, Way { path, owner }, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_went_with_their_socket_are_remembered_up_to_a_bound_and_for_a_minute() {
        let (mut node, now) = (crate::tests::node(), Now::at_ms(1000));
        let remote = "192.0.2.1:9993".parse().unwrap();
        for n in 0..LOST_PATHS_MAX as u64 + 10 {
            node.remember_lost(now, Address::from_u64(n + 1), remote);
            node.remember_lost(now, Address::from_u64(n + 1), remote);
        }
        assert_eq!((node.gauges().lost_paths, node.counters.lost_paths_full), (LOST_PATHS_MAX, 10));
        for _ in 0..3 {
            node.handle_timeout(Now::at_ms(1000 + LOST_PATHS_MS));
        }
        assert_eq!(node.gauges().lost_paths, 0);
    }
}
