//! Dealing with upstreams: taking worlds, greeting roots until they answer, keeping in touch with them, noticing that
//! our own address changed, being online or not.
// spec: paths, "Roots and worlds", "Self-awareness"

use std::net::SocketAddr;

use wire::endpoint::{Scope, scope};
use wire::message::OkHello;
use wire::{Address, Malformed, Now, World, WorldKind};

use crate::Node;
use crate::io::{Event, LocalSocketId, Output, RestoreError, StateKey};
use crate::limits::*;
use crate::path::Path;
use crate::peer::Proof;
use crate::roots::Offer;
use crate::send::Arrival;
use crate::surface::{Reporter, Verdict};

impl Node {
    /// Takes a planet from disk or the built-in one: unverified if there is none yet, else only if it is newer and
    /// rightly signed; an older one is passed over silently.
    pub fn restore_planet(&mut self, now: Now, bytes: &[u8]) -> Result<(), RestoreError> {
        let world = World::parse(bytes).map_err(RestoreError::World)?;
        if world.kind != WorldKind::Planet {
            return Err(RestoreError::WorldKind);
        }
        if self.roots.install_planet(world) {
            self.worlds_changed(now);
        }
        Ok(())
    }

    /// Takes a moon from disk, unverified.
    pub fn restore_moon(&mut self, now: Now, bytes: &[u8]) -> Result<u64, RestoreError> {
        let world = World::parse(bytes).map_err(RestoreError::World)?;
        if world.kind != WorldKind::Moon {
            return Err(RestoreError::WorldKind);
        }
        let id = world.id;
        if !self.roots.install_moon(world) {
            return Err(RestoreError::TooManyMoons);
        }
        self.worlds_changed(now);
        Ok(id)
    }

    /// Starts to follow a moon that `seed`, one of its roots, will bring; a restart goes on waiting for it. True if the
    /// moon is held or waited for, false if there are too many.
    pub fn orbit(&mut self, now: Now, moon: u64, seed: Address) -> bool {
        let waits = self.restore_seed(now, moon, seed);
        if waits {
            self.output(Output::Store(StateKey::Seed(moon), Some(seed.to_string().into_bytes())));
        }
        waits || self.roots.world(WorldKind::Moon, moon).is_some()
    }

    /// Waits for a moon again, as before the restart. False if it is held, or there are too many.
    pub fn restore_seed(&mut self, now: Now, moon: u64, seed: Address) -> bool {
        let waits = self.roots.orbit(moon, seed);
        if waits {
            // The moon rides in the answer to a HELLO that asks for it: a seed that we talk to anyway is greeted now.
            if let Some(peer) = self.peers.get_mut(seed) {
                peer.last_full_hello.clear();
            }
            self.timers.next_ping_ms = now.ms();
        }
        waits
    }

    /// Stops following a moon, or waiting for it, and deletes what is on disk of it.
    pub fn deorbit(&mut self, now: Now, moon: u64) {
        self.stop_waiting(moon);
        if self.roots.deorbit(moon) {
            self.output(Output::Store(StateKey::Moon(moon), None));
        }
        self.worlds_changed(now);
    }

    fn stop_waiting(&mut self, moon: u64) {
        if self.roots.wanted().any(|(id, _)| id == moon) {
            self.output(Output::Store(StateKey::Seed(moon), None));
        }
    }

    /// The planet, if there is one.
    pub fn planet(&self) -> Option<&World> {
        self.roots.planet()
    }

    /// The moons held.
    pub fn moons(&self) -> impl Iterator<Item = &World> {
        self.roots.moons()
    }

    /// The moons waited for, and who will bring them.
    pub fn awaited_moons(&self) -> impl Iterator<Item = (u64, Address)> {
        self.roots.wanted()
    }

    /// Worlds that rode in an OK(HELLO). A malformed one ends the packet's processing.
    pub(crate) fn worlds_offered(&mut self, now: Now, from: Address, ok: &OkHello<'_>) -> Result<(), Malformed> {
        if !self.roots.is_upstream_address(from) && !self.roots.seeds().contains(&from) {
            self.counters.world_refused += u64::from(!ok.worlds.is_empty());
            return Ok(());
        }
        for world in ok.worlds() {
            let world = world?;
            let (kind, id) = (world.kind, world.id);
            let awaited = self.roots.wanted().any(|(moon, _)| moon == id);
            match self.roots.offered(world, from) {
                Offer::Known => {}
                Offer::Refused => self.counters.world_refused += 1,
                Offer::Taken => {
                    let bytes = self.roots.world(kind, id).map(World::to_bytes);
                    let key = if kind == WorldKind::Planet { StateKey::Planet } else { StateKey::Moon(id) };
                    self.output(Output::Store(key, bytes));
                    if awaited && kind == WorldKind::Moon {
                        self.output(Output::Store(StateKey::Seed(id), None));
                    }
                    self.event(Event::WorldUpdated { id });
                    self.worlds_changed(now);
                }
            }
        }
        Ok(())
    }

    /// Roots came or went: they are peers without being asked for. // spec: paths, "Created from a world or the cache"
    fn worlds_changed(&mut self, now: Now) {
        let upstreams: Vec<_> = self.roots.upstreams().map(|(a, u)| (a, u.identity.clone())).collect();
        for (address, peer) in self.peers.iter_mut() {
            peer.upstream = upstreams.iter().any(|(a, _)| a == address);
        }
        self.peers.count_strangers();
        for (address, identity) in upstreams {
            // The world's word counts more than a key that somebody else told us.
            if self.peers.get(address).is_some_and(|p| *p.identity != *identity) {
                self.forget_silently(now, address);
                self.cache.remove(address);
            }
            if !self.peers.contains(address)
                && !self.proofs.is_refused(&identity)
                && self.meet(now, identity, Proof::Wanted)
            {
                self.release(now, address);
            }
        }
        self.upstreams_changed(now);
        self.timers.next_ping_ms = now.ms();
        self.update_online();
    }

    /// Judges anew which upstream is best; if it is another one, relayed peers take another way.
    pub(crate) fn upstreams_changed(&mut self, now: Now) {
        if self.roots.choose(&self.peers, now.ms()) {
            self.plan_all(now);
            self.upstream_reachable(now);
        }
    }

    /// What waited for an upstream goes on: questions, and packets to be relayed.
    pub(crate) fn upstream_reachable(&mut self, now: Now) {
        self.repeat_whois(now);
        for waiting in self.queue.destinations() {
            self.flush(now, waiting);
        }
    }

    /// An upstream was heard.
    pub(crate) fn upstream_heard(&mut self, now: Now) {
        if self.roots.best().is_none_or(|b| self.peers.get(b).is_none_or(|p| p.slots.is_empty())) {
            self.upstreams_changed(now);
        }
        if !self.online {
            self.set_online(true);
        }
    }

    pub(crate) fn update_online(&mut self) {
        if self.roots.is_upstream() {
            self.set_online(true);
        }
    }

    /// Some upstream is reached at an IPv4 address of the Internet.
    pub fn has_internet_root(&self) -> bool {
        let far = |e: &SocketAddr| e.is_ipv4() && scope(e.ip()) == Scope::Global;
        self.roots.upstreams().any(|(_, upstream)| upstream.endpoints.iter().any(far))
    }

    /// When an authenticated packet last came straight from an address of the Internet to one of these sockets, in
    /// milliseconds of the monotonic clock. // spec: paths, "TCP fallback", Gateway: only authenticated UDP counts
    pub fn heard_from_the_internet_ms(&self, over: impl Fn(LocalSocketId) -> bool) -> Option<u64> {
        let slots = self.peers.iter().flat_map(|(_, peer)| &peer.slots);
        let from_there = slots.filter(|s| s.scope() == Scope::Global && over(s.path.socket));
        from_there.filter_map(|s| s.last_verified.get()).max()
    }

    /// Greets every upstream from those of the sockets that make contact: does one of them get through?
    pub fn greet_upstreams(&mut self, now: Now, over: impl Fn(LocalSocketId) -> bool) {
        let upstreams: Vec<_> = self.roots.upstreams().map(|(a, u)| (a, u.endpoints.clone())).collect();
        self.endpoint_turn = self.endpoint_turn.wrapping_add(1);
        for (address, endpoints) in upstreams {
            let Some(&remote) = endpoints.get(self.endpoint_turn % endpoints.len().max(1)) else { continue };
            for socket in self.fan_out(remote).into_iter().filter(|&socket| over(socket)) {
                self.send_hello(now, address, Some(socket), remote);
            }
        }
    }

    /// Online while some upstream was heard within 500 s, or we are one. // spec: paths, "Online"
    pub(crate) fn check_online(&mut self, now: Now) {
        let heard = self.roots.upstreams().any(|(a, _)| self.peers.get(a).is_some_and(|p| p.alive(now.ms())));
        self.set_online(heard || self.roots.is_upstream());
    }

    fn set_online(&mut self, online: bool) {
        if self.online != online {
            self.online = online;
            if online {
                self.networks.upstream_online();
            }
            self.event(if online { Event::Online } else { Event::Offline });
        }
    }

    /// Keeps in touch with every upstream and moon seed; part of the ping check.
    // spec: paths, "Contacting upstreams", Gateway: ECHO 14 s, HELLO 60 s, no WHOIS trick
    pub(crate) fn contact_upstreams(&mut self, now: Now) {
        let upstreams: Vec<_> = self.roots.upstreams().map(|(a, u)| (a, u.endpoints.clone())).collect();
        self.endpoint_turn = self.endpoint_turn.wrapping_add(1);
        for (address, endpoints) in upstreams {
            self.contact_upstream(now, address, &endpoints);
        }
        for seed in self.always_contact() {
            self.contact_seed(now, seed);
        }
    }

    fn contact_upstream(&mut self, now: Now, address: Address, endpoints: &[SocketAddr]) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let full = !peer.last_full_hello.within(peer.ping_ms, now.ms());
        if !peer.slots.is_empty() && !full {
            return; // its heartbeats are the keep-alive's business
        }
        let greeted = self.keep_alive(now, address, full);
        for (family_greeted, ipv4) in [(greeted.ipv4, true), (greeted.ipv6, false)] {
            if family_greeted {
                continue;
            }
            let of_family: Vec<SocketAddr> = endpoints.iter().copied().filter(|e| e.is_ipv4() == ipv4).collect();
            if let Some(&remote) = of_family.get(self.endpoint_turn % of_family.len().max(1)) {
                self.send_hello(now, address, None, remote);
            }
        }
        let silent = !greeted.ipv4 && !greeted.ipv6 && endpoints.is_empty();
        if silent {
            self.hello_by_relay(now, address);
        }
    }

    /// Nodes without endpoints of their own that we want to hear from: seeds of moons to come.
    fn always_contact(&self) -> Vec<Address> {
        self.roots.seeds().into_iter().filter(|&s| s != self.address()).collect()
    }

    fn contact_seed(&mut self, now: Now, seed: Address) {
        self.recall(now, seed);
        let Some(peer) = self.peers.get(seed) else { return self.ask_identity(now, seed, true) };
        if peer.last_full_hello.within(ALWAYS_CONTACT_MS, now.ms()) {
            return;
        }
        let greeted = self.keep_alive(now, seed, true);
        if !greeted.ipv4 && !greeted.ipv6 {
            self.hello_by_relay(now, seed);
        }
    }

    /// HELLO addressed to a node, sent to where the best upstream is. // spec: paths, "Contacting upstreams", step 4
    fn hello_by_relay(&mut self, now: Now, to: Address) {
        let relay = self.roots.best().filter(|&b| b != to).and_then(|b| self.peers.get(b)?.any_slot(now.ms()));
        let Some(path) = relay.map(|s| s.path) else { return };
        if let Some(peer) = self.peers.get_mut(to) {
            peer.last_full_hello.set(now.ms());
        }
        self.send_hello_over(now, to, Some(path.socket), path.remote, true);
    }

    /// Somebody tells how they see us. // spec: paths, "Self-awareness"
    pub(crate) fn surface_reported(&mut self, now: Now, arrival: &Arrival, from: Address, surface: SocketAddr) {
        if self.spreads.has(arrival.path.socket) {
            return; // nobody else can reach us there
        }
        let trust = match self.peers.get(from) {
            Some(peer) if peer.upstream => Reporter::Upstream,
            Some(peer) if peer.trusted(now.ms()) => Reporter::Trusted,
            _ => Reporter::Stranger,
        };
        // What is seen of a lane is no view of the socket beside it.
        let path = Path { socket: arrival.lane.unwrap_or(arrival.path.socket), ..arrival.path };
        match self.surfaces.report(from, trust, path, surface, now.ms()) {
            Verdict::Ignored | Verdict::Noted => {}
            Verdict::Stranger => self.counters.surface_stranger += 1,
            Verdict::Full => self.counters.surface_full += 1,
            Verdict::New => self.surface_generation += 1,
            Verdict::Moved => {
                self.surface_generation += 1;
                self.event(Event::ExternalAddressChanged { reporter: from, surface });
                self.reset_paths(now, surface);
            }
        }
    }

    /// Our address changed as seen from outside: every path of that scope and family must prove itself again.
    // spec: paths, "Reset on change"
    fn reset_paths(&mut self, now: Now, surface: SocketAddr) {
        self.counters.surface_resets += 1;
        let concerned =
            |s: &crate::path::Slot| s.scope() == scope(surface.ip()) && s.path.remote.is_ipv4() == surface.is_ipv4();
        let mut reset = Vec::new();
        for (&address, peer) in self.peers.iter_mut() {
            for slot in peer.slots.iter_mut().filter(|s| concerned(s)) {
                slot.last_verified.clear();
                reset.push((address, slot.path));
            }
        }
        for &(address, path) in &reset {
            self.contact(now, address, Some(path.socket), path.remote, false);
        }
        self.upstreams_changed(now);
        for (address, _) in reset {
            self.path_changed(now, address);
        }
    }
}
