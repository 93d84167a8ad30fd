//! The world itself: what is on its way, who is due next, and what the internet does to datagrams. Everything happens
//! in one order, by virtual time and then by the order in which it was caused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use node::{Event, LocalSocketId, Node, Output, Settings, Socket};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::{NetworkId, Now, SecretIdentity};

use crate::{Beside, Host, HostId, Link};

/// UDP payloads above this never reach a ZeroTierOne node; nobody should send them. bytes
const DATAGRAM_MAX: usize = 1500;
/// How long a proof of work takes a worker.
const PROOF: Duration = Duration::from_millis(25);
/// Routers between any two hosts: a datagram with a smaller TTL dies on the way.
const ROUTERS: u8 = 5;

enum Happening {
    Arrival { to: SocketAddr, from: SocketAddr, datagram: Vec<u8> },
    Proof { host: HostId, ticket: u64 },
}

/// Hosts and the internet between them.
pub struct World {
    now: Now,
    rng: StdRng,
    hosts: Vec<Host>,
    addresses: BTreeMap<SocketAddr, (HostId, LocalSocketId)>,
    happenings: BTreeMap<(u64, u64), Happening>,
    serial: u64,
    default_link: Link,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    blocked: BTreeSet<(IpAddr, IpAddr)>,
    trace: u64,
    datagrams: u64,
}

fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

impl World {
    /// An empty world whose links take 10 ms and lose nothing.
    pub fn new(seed: u64) -> World {
        World {
            now: Now::at_ms(1_700_000_000_000),
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            addresses: BTreeMap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            default_link: Link::delay_ms(10),
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            datagrams: 0,
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Now {
        self.now
    }

    /// A fingerprint of every datagram sent so far: time, addresses, bytes.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Datagrams sent so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// Adds a host with these local addresses, one link each.
    pub fn add_host(&mut self, identity: Arc<SecretIdentity>, settings: Settings, addresses: &[&str]) -> HostId {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let id = HostId(self.hosts.len());
        self.hosts.push(Host {
            node: Node::new(self.now, identity, settings, seed),
            sockets: BTreeMap::new(),
            delivered: Vec::new(),
            events: Vec::new(),
            stored: BTreeMap::new(),
            plan: Vec::new(),
            stack: None,
            beside: None,
        });
        for address in addresses {
            self.add_socket(id, address);
        }
        id
    }

    /// Gives a host another socket, on a link of its own.
    pub fn add_socket(&mut self, host: HostId, address: &str) -> LocalSocketId {
        let local: SocketAddr = address.parse().expect("an address with a port");
        self.serial += 1;
        let id = LocalSocketId(self.serial);
        self.addresses.insert(local, (host, id));
        self.hosts[host.0].sockets.insert(id, local);
        let socket = Socket { id, local, link: format!("link-{}", local.ip()) };
        self.with(host, |node, now| node.add_socket(now, socket));
        id
    }

    /// Takes a socket away, as when its interface goes down.
    pub fn remove_socket(&mut self, host: HostId, id: LocalSocketId) {
        if let Some(local) = self.hosts[host.0].sockets.remove(&id) {
            self.addresses.remove(&local);
        }
        self.with(host, |node, now| node.remove_socket(now, id));
    }

    /// Puts a controller beside a host's node.
    pub fn put_beside(&mut self, host: HostId, controller: Box<dyn Beside>) {
        self.hosts[host.0].beside = Some(controller);
    }

    /// How all links behave that have no behaviour of their own.
    pub fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
    }

    /// How the way between two IP addresses behaves.
    pub fn set_link(&mut self, a: IpAddr, b: IpAddr, link: Link) {
        self.links.insert(pair(a, b), link);
    }

    /// From now on nothing passes between two IP addresses, either way.
    pub fn block(&mut self, a: IpAddr, b: IpAddr) {
        self.blocked.insert(pair(a, b));
    }

    /// Undoes [`World::block`].
    pub fn unblock(&mut self, a: IpAddr, b: IpAddr) {
        self.blocked.remove(&pair(a, b));
    }

    /// A host.
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0]
    }

    /// A host, to be looked into and emptied; talk to its node through [`World::with`].
    pub fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    /// Talks to a host's node now, and carries out what it wants done.
    pub fn with<R>(&mut self, host: HostId, talk: impl FnOnce(&mut Node, Now) -> R) -> R {
        let result = talk(&mut self.hosts[host.0].node, self.now);
        self.drain(host);
        result
    }

    /// A host's own stack sends a frame.
    pub fn tap(&mut self, host: HostId, network: NetworkId, frame: &[u8]) {
        self.with(host, |node, now| node.handle_tap_frame(now, network, frame));
    }

    /// Runs for so long.
    pub fn run_ms(&mut self, ms: u64) {
        let end = self.now.after(Duration::from_millis(ms));
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done` holds, at most so long. True if it held.
    pub fn run_until(&mut self, limit_ms: u64, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now.after(Duration::from_millis(limit_ms));
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
    }

    /// Does the next thing that is due by `end`; false if there is none.
    fn step(&mut self, end: Now) -> bool {
        let happening = self.happenings.keys().next().map(|&(at_us, _)| at_us);
        let timeout = self.timeouts().min();
        let due_us = [happening, timeout.map(|(at_us, _)| at_us)].into_iter().flatten().min();
        let Some(due_us) = due_us.map(|us| us.max(self.now.mono_us)).filter(|&us| us <= end.mono_us) else {
            return false;
        };
        self.now = self.now.after(Duration::from_micros(due_us - self.now.mono_us));
        if happening.is_some_and(|at| at <= due_us)
            && let Some((_, happening)) = self.happenings.pop_first()
        {
            self.happen(happening);
            return true;
        }
        if let Some((_, host)) = timeout {
            if let Some(beside) = &mut self.hosts[host.0].beside {
                beside.timeout(self.now);
            }
            self.with(host, |node, now| node.handle_timeout(now));
        }
        true
    }

    fn timeouts(&self) -> impl Iterator<Item = (u64, HostId)> {
        self.hosts.iter().enumerate().flat_map(|(i, host)| {
            let beside = host.beside.as_ref().and_then(|b| b.poll_timeout());
            let due = [host.node.poll_timeout(), beside].into_iter().flatten();
            due.map(move |ms| (ms * 1000, HostId(i)))
        })
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { to, from, mut datagram } => {
                if let Some(&(host, socket)) = self.addresses.get(&to) {
                    self.with(host, |node, now| node.handle_datagram(now, socket, from, &mut datagram));
                }
            }
            Happening::Proof { host, ticket } => self.with(host, |node, now| node.handle_proof(now, ticket, true)),
        }
    }

    /// Carries out what a node and the controller beside it want done, until they want nothing more.
    fn drain(&mut self, id: HostId) {
        loop {
            while let Some(output) = self.hosts[id.0].node.poll_output() {
                self.carry_out(id, output);
            }
            let Some((to, verb, payload)) = self.hosts[id.0].beside.as_mut().and_then(|b| b.poll()) else { return };
            self.hosts[id.0].node.controller_reply(self.now, to, verb, payload);
        }
    }

    fn carry_out(&mut self, id: HostId, output: Output) {
        let host = &mut self.hosts[id.0];
        match output {
            Output::Send { socket, remote, ttl, datagram } => self.send(id, socket, remote, ttl, datagram),
            Output::Deliver { network, frame } => {
                let answer = host.stack.and_then(|stack| stack.answer(&frame));
                host.delivered.push((network, frame));
                if let Some(answer) = answer {
                    host.node.handle_tap_frame(self.now, network, &answer);
                }
            }
            Output::Prove { ticket, .. } => {
                let at = self.now.mono_us + PROOF.as_micros() as u64;
                self.schedule(at, Happening::Proof { host: id, ticket });
            }
            Output::ControllerRequest { network, member, packet_id, metadata, physical } => {
                if let Some(beside) = &mut host.beside {
                    beside.request(self.now, network, member, packet_id, metadata, physical);
                }
            }
            Output::Store(key, Some(bytes)) => {
                host.stored.insert(key, bytes);
            }
            Output::Store(key, None) => {
                host.stored.remove(&key);
            }
            Output::Event(event) => host.events.push((self.now.ms(), event)),
            Output::Plan(change) => host.plan.push(change),
            Output::NetworkChanged(_) => {}
        }
    }

    fn send(
        &mut self,
        id: HostId,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        ttl: Option<u8>,
        datagram: Vec<u8>,
    ) {
        assert!(datagram.len() <= DATAGRAM_MAX, "a datagram of {} bytes", datagram.len());
        let host = &self.hosts[id.0];
        let from: Vec<SocketAddr> = match socket {
            Some(socket) => host.sockets.get(&socket).copied().into_iter().collect(),
            None => host.node.fan_out(remote).into_iter().filter_map(|s| host.sockets.get(&s).copied()).collect(),
        };
        for local in from.into_iter().filter(|local| local.is_ipv4() == remote.is_ipv4()) {
            self.record(local, remote, &datagram);
            if ttl.is_some_and(|ttl| ttl < ROUTERS) || self.blocked.contains(&pair(local.ip(), remote.ip())) {
                continue;
            }
            let link = self.links.get(&pair(local.ip(), remote.ip())).copied().unwrap_or(self.default_link);
            for delay_us in link.arrivals(&mut self.rng) {
                let arrival = Happening::Arrival { to: remote, from: local, datagram: datagram.clone() };
                self.schedule(self.now.mono_us + delay_us, arrival);
            }
        }
    }

    fn schedule(&mut self, at_us: u64, happening: Happening) {
        self.serial += 1;
        self.happenings.insert((at_us, self.serial), happening);
    }

    /// FNV-1a over what identifies a datagram.
    fn record(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.datagrams += 1;
        let head = format!("{} {from} {to} ", self.now.mono_us);
        for byte in head.bytes().chain(datagram.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The last thing a host reported that `wanted` accepts, with its time in milliseconds.
    pub fn last_event(&self, host: HostId, wanted: impl Fn(&Event) -> bool) -> Option<u64> {
        self.hosts[host.0].events.iter().rfind(|(_, event)| wanted(event)).map(|(at, _)| *at)
    }
}
