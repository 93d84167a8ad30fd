//! The world itself: what is on its way, who is due next, and what the internet and the routers before it do to
//! datagrams. Everything happens in one order, by virtual time and then by the order in which it was caused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use node::{Event, LocalSocketId, Node, Output, Settings, Socket};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::icmp::Cause;
use wire::{NetworkId, Now, SecretIdentity};

use crate::link::Loss;
use crate::reject::{ROUTER_US, Rejects};
use crate::{Beside, Host, HostId, Link, Nat, NatKind};

/// UDP payloads above this never reach a ZeroTierOne node; nobody should send them. bytes
const DATAGRAM_MAX: usize = 1500;
/// How long a proof of work takes a worker.
const PROOF: Duration = Duration::from_millis(25);
/// Routers of the internet between any two addresses: a datagram that has no more TTL than that dies on the way.
const ROUTERS: u8 = 5;
/// Ways with a rate whose queues are known at a time; a datagram that needs one more is lost.
const QUEUES_MAX: usize = 65_536;
/// Sockets that a node asks for get ports from here on.
const FURTHER_PORTS: u16 = 40_000;
/// TTL of datagrams that ask for none.
const USUAL_TTL: u8 = 64;

/// Where an address means something: the internet, or the network behind a router that translates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(usize);

impl Realm {
    /// The internet. // RFC 2663 calls both kinds realms.
    pub const INTERNET: Realm = Realm(0);
}

/// What became of datagrams that did not arrive; a router's own reasons are [`Nat::drops`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// By the odds of a link.
    pub odds: u64,
    /// Their TTL ended between the routers.
    pub ttl: u64,
    /// Longer than a link's MTU.
    pub mtu: u64,
    /// The queue before a link was full.
    pub queue: u64,
    /// Nothing passes there: [`World::block`].
    pub blocked: u64,
    /// Nobody has that address.
    pub nowhere: u64,
    /// A router let them not through.
    pub nat: u64,
}

/// A datagram on its way, with the addresses that it has on this stretch.
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    ttl: u8,
    /// A router let it in: it goes to somebody there, and never out again.
    inward: bool,
    datagram: Vec<u8>,
}

/// One direction of a way: the two addresses on the internet; behind a router all share the line.
type Way = (Realm, bool, Option<(IpAddr, IpAddr)>);

enum Happening {
    Arrival { realm: Realm, packet: Packet },
    Proof { host: HostId, ticket: u64 },
    Unreachable { host: HostId, socket: LocalSocketId, remote: SocketAddr, packet_id: Option<u64> },
}

/// What calling the node of one host costs, by a clock that the caller brought.
struct Meter {
    host: HostId,
    clock: fn() -> Duration,
    spent: Duration,
    longest: Duration,
}

/// A router and the networks on its two sides.
struct Router {
    nat: Nat,
    outside: Realm,
    link: Link,
}

/// Hosts and the internet between them.
pub struct World {
    now: Now,
    rng: StdRng,
    hosts: Vec<Host>,
    addresses: BTreeMap<(Realm, SocketAddr), (HostId, LocalSocketId)>,
    realms: BTreeMap<LocalSocketId, Realm>,
    /// The one of realm n is at n - 1.
    routers: Vec<Router>,
    happenings: BTreeMap<(u64, u64), Happening>,
    /// When each host wants to be called, the soonest first, and the same by host.
    timeouts: BTreeSet<(u64, HostId)>,
    armed: Vec<Option<u64>>,
    meter: Option<Meter>,
    serial: u64,
    default_link: Link,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    blocked: BTreeSet<(IpAddr, IpAddr)>,
    /// From the first to the second only.
    blocked_one_way: BTreeSet<(IpAddr, IpAddr)>,
    rejects: Rejects,
    /// When ways with a rate are free again.
    busy_until_us: BTreeMap<Way, u64>,
    trace: u64,
    datagrams: u64,
    lost: Lost,
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
            realms: BTreeMap::new(),
            routers: Vec::new(),
            happenings: BTreeMap::new(),
            timeouts: BTreeSet::new(),
            armed: Vec::new(),
            meter: None,
            serial: 0,
            default_link: Link::delay_ms(10),
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            blocked_one_way: BTreeSet::new(),
            rejects: Rejects::default(),
            busy_until_us: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            datagrams: 0,
            lost: Lost::default(),
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

    /// What was lost so far.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Puts a router with this external address into `outside`, which may be behind another one; returns the network
    /// behind it, whose links take 1 ms.
    pub fn add_nat(&mut self, outside: Realm, external: &str, kind: NatKind) -> Realm {
        let external = external.parse().expect("an address without a port");
        let nat = Nat::new(kind, external, &mut self.rng);
        self.routers.push(Router { nat, outside, link: Link::delay_ms(1) });
        Realm(self.routers.len())
    }

    /// The network that a host's first socket is in.
    pub fn realm(&self, host: HostId) -> Realm {
        let first = self.hosts[host.0].sockets.keys().next();
        first.and_then(|socket| self.realms.get(socket)).copied().unwrap_or_default()
    }

    /// The router before a network other than the internet.
    pub fn nat(&self, realm: Realm) -> &Nat {
        &self.routers[realm.0 - 1].nat
    }

    /// The router before a network restarts and has forgotten every mapping.
    pub fn restart_nat(&mut self, realm: Realm) {
        self.routers[realm.0 - 1].nat.forget(&mut self.rng);
    }

    /// Adds a host with these local addresses on the internet, one link each.
    pub fn add_host(&mut self, identity: Arc<SecretIdentity>, settings: Settings, addresses: &[&str]) -> HostId {
        self.add_host_in(Realm::INTERNET, identity, settings, addresses)
    }

    /// Adds a host with these local addresses in a network, one link each.
    pub fn add_host_in(
        &mut self,
        realm: Realm,
        identity: Arc<SecretIdentity>,
        settings: Settings,
        addresses: &[&str],
    ) -> HostId {
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
        self.armed.push(None);
        self.arm(id);
        for address in addresses {
            self.add_socket_in(realm, id, address);
        }
        id
    }

    /// Gives a host another socket on the internet, on a link of its own.
    pub fn add_socket(&mut self, host: HostId, address: &str) -> LocalSocketId {
        self.add_socket_in(Realm::INTERNET, host, address)
    }

    /// Gives a host another socket in a network, on a link of its own.
    pub fn add_socket_in(&mut self, realm: Realm, host: HostId, address: &str) -> LocalSocketId {
        let local: SocketAddr = address.parse().expect("an address with a port");
        self.serial += 1;
        let id = LocalSocketId(self.serial);
        self.addresses.insert((realm, local), (host, id));
        self.realms.insert(id, realm);
        self.hosts[host.0].sockets.insert(id, local);
        let socket = Socket { id, local, link: format!("link-{}", local.ip()), port: node::Port::Primary };
        self.with(host, |node, now| node.add_socket(now, socket));
        id
    }

    /// Takes a socket away, as when its interface goes down.
    pub fn remove_socket(&mut self, host: HostId, id: LocalSocketId) {
        self.close_socket(host, id);
        self.with(host, |node, now| node.remove_socket(now, id));
    }

    /// Puts a controller beside a host's node.
    pub fn put_beside(&mut self, host: HostId, controller: Box<dyn Beside>) {
        self.hosts[host.0].beside = Some(controller);
        self.arm(host);
    }

    /// From now on counts what calling one host's node costs by this clock.
    pub fn set_meter(&mut self, host: HostId, clock: fn() -> Duration) {
        self.meter = Some(Meter { host, clock, spent: Duration::ZERO, longest: Duration::ZERO });
    }

    /// What was counted since [`World::set_meter`]: all calls together, and the longest.
    pub fn metered(&self) -> (Duration, Duration) {
        self.meter.as_ref().map(|m| (m.spent, m.longest)).unwrap_or_default()
    }

    /// How all links of the internet behave that have no behaviour of their own.
    pub fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
    }

    /// How the network behind a router behaves, between its hosts and to the router; a rate is that of the whole line,
    /// each way.
    pub fn set_link_in(&mut self, realm: Realm, link: Link) {
        self.routers[realm.0 - 1].link = link;
    }

    /// How the way between two IP addresses of the internet behaves.
    pub fn set_link(&mut self, a: IpAddr, b: IpAddr, link: Link) {
        self.links.insert(pair(a, b), link);
    }

    /// From now on nothing passes between two IP addresses of the internet, either way.
    pub fn block(&mut self, a: IpAddr, b: IpAddr) {
        self.blocked.insert(pair(a, b));
    }

    /// From now on nothing passes from one IP address of the internet to the other; the way back is not touched.
    pub fn block_one_way(&mut self, from: IpAddr, to: IpAddr) {
        self.blocked_one_way.insert((from, to));
    }

    /// The same, and a router says so by ICMP.
    pub fn reject(&mut self, from: IpAddr, to: IpAddr) {
        self.rejects.insert(from, to);
    }

    /// Undoes [`World::block`], [`World::block_one_way`] and [`World::reject`].
    pub fn unblock(&mut self, a: IpAddr, b: IpAddr) {
        self.blocked.remove(&pair(a, b));
        self.blocked_one_way.remove(&(a, b));
        self.blocked_one_way.remove(&(b, a));
        self.rejects.remove(a, b);
        self.rejects.remove(b, a);
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
        let meter = self.meter.as_mut().filter(|m| m.host == host);
        let before = meter.as_ref().map(|m| (m.clock)());
        let result = talk(&mut self.hosts[host.0].node, self.now);
        if let (Some(meter), Some(before)) = (meter, before) {
            let took = (meter.clock)().saturating_sub(before);
            meter.spent += took;
            meter.longest = meter.longest.max(took);
        }
        self.drain(host);
        self.arm(host);
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
        let timeout = self.timeouts.first().copied();
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

    /// Notes when a host wants to be called.
    fn arm(&mut self, id: HostId) {
        let host = &self.hosts[id.0];
        let beside = host.beside.as_ref().and_then(|b| b.poll_timeout());
        let due_us = [host.node.poll_timeout(), beside].into_iter().flatten().min().map(|ms| ms * 1000);
        let armed_us = std::mem::replace(&mut self.armed[id.0], due_us);
        if armed_us != due_us {
            armed_us.map(|us| self.timeouts.remove(&(us, id)));
            due_us.map(|us| self.timeouts.insert((us, id)));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { realm, packet } => self.arrive(realm, packet),
            Happening::Proof { host, ticket } => self.with(host, |node, now| node.handle_proof(now, ticket, true)),
            Happening::Unreachable { host, socket, remote, packet_id } => {
                self.with(host, |node, now| node.handle_unreachable(now, socket, remote, packet_id, Cause::Host));
            }
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
            Output::OpenSockets { beside, count, ticket } => self.open_sockets(id, beside, count, ticket),
            Output::CloseSocket(socket) => self.close_socket(id, socket),
            Output::AdoptSocket { .. } => {}
            Output::Event(event) => host.events.push((self.now.ms(), event)),
            Output::Plan(change) => host.plan.push(change),
            Output::NetworkChanged(_) => {}
        }
    }

    /// Opens sockets beside another one, each on the next port that is free.
    fn open_sockets(&mut self, id: HostId, beside: LocalSocketId, count: u16, ticket: u64) {
        let host = &mut self.hosts[id.0];
        let (Some(&realm), Some(&first)) = (self.realms.get(&beside), host.sockets.get(&beside)) else { return };
        let ports = (FURTHER_PORTS..=u16::MAX).map(|port| SocketAddr::new(first.ip(), port));
        let free: Vec<_> = ports.filter(|l| !self.addresses.contains_key(&(realm, *l))).take(count.into()).collect();
        for local in free {
            self.serial += 1;
            let socket = LocalSocketId(self.serial);
            self.addresses.insert((realm, local), (id, socket));
            self.realms.insert(socket, realm);
            host.sockets.insert(socket, local);
            host.node.add_spread_socket(ticket, socket);
        }
    }

    fn close_socket(&mut self, id: HostId, socket: LocalSocketId) {
        if let (Some(local), Some(realm)) = (self.hosts[id.0].sockets.remove(&socket), self.realms.remove(&socket)) {
            self.addresses.remove(&(realm, local));
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
        let sockets = socket.map_or_else(|| host.node.fan_out(remote), |socket| vec![socket]);
        let place = |s: LocalSocketId| Some((*self.realms.get(&s)?, *host.sockets.get(&s)?));
        let from: Vec<(Realm, SocketAddr)> = sockets.into_iter().filter_map(place).collect();
        for (realm, local) in from.into_iter().filter(|(_, local)| local.is_ipv4() == remote.is_ipv4()) {
            self.record(local, remote, &datagram);
            let ttl = ttl.unwrap_or(USUAL_TTL);
            self.travel(realm, Packet { from: local, to: remote, ttl, inward: false, datagram: datagram.clone() });
        }
    }

    /// One stretch of the way: from whoever has `packet` now to a host or router of that network.
    fn travel(&mut self, realm: Realm, mut packet: Packet) {
        let (from, to) = (packet.from.ip(), packet.to.ip());
        let mut link = self.default_link;
        if realm == Realm::INTERNET {
            if packet.ttl <= ROUTERS {
                return self.lost.ttl += 1;
            }
            packet.ttl -= ROUTERS;
            if self.blocked.contains(&pair(from, to)) || self.blocked_one_way.contains(&(from, to)) {
                return self.lost.blocked += 1;
            }
            if let Some(said) = self.rejects.refuse(from, to, self.now.mono_us) {
                if let Some(&(host, socket)) = self.addresses.get(&(realm, packet.from)).filter(|_| said) {
                    let packet_id = packet.datagram.first_chunk().map(|id| u64::from_be_bytes(*id));
                    let word = Happening::Unreachable { host, socket, remote: packet.to, packet_id };
                    self.schedule(self.now.mono_us + ROUTER_US, word);
                }
                return self.lost.blocked += 1;
            }
            link = self.links.get(&pair(from, to)).copied().unwrap_or(link);
        } else {
            link = self.routers[realm.0 - 1].link;
        }
        let now_us = self.now.mono_us;
        let mut free = now_us;
        let way = (realm, packet.inward, (realm == Realm::INTERNET).then_some((from, to)));
        let busy_until_us = match link.rate_bps {
            0 => &mut free,
            _ if !self.room_for_queue(way) => return self.lost.queue += 1,
            _ => self.busy_until_us.entry(way).or_default(),
        };
        match link.arrivals(now_us, packet.datagram.len(), busy_until_us, &mut self.rng) {
            Err(Loss::Odds) => self.lost.odds += 1,
            Err(Loss::Queue) => self.lost.queue += 1,
            Err(Loss::Mtu) => self.lost.mtu += 1,
            Ok(arrivals) => {
                for at_us in arrivals {
                    let packet = Packet { datagram: packet.datagram.clone(), ..packet };
                    self.schedule(at_us, Happening::Arrival { realm, packet });
                }
            }
        }
    }

    fn room_for_queue(&mut self, way: Way) -> bool {
        if self.busy_until_us.len() >= QUEUES_MAX && !self.busy_until_us.contains_key(&way) {
            let now_us = self.now.mono_us;
            self.busy_until_us.retain(|_, until_us| *until_us > now_us);
        }
        self.busy_until_us.len() < QUEUES_MAX || self.busy_until_us.contains_key(&way)
    }

    /// The end of a stretch: a host that has the address, a router that has it outside, or the router towards outside.
    fn arrive(&mut self, realm: Realm, mut packet: Packet) {
        if let Some(&(host, socket)) = self.addresses.get(&(realm, packet.to)) {
            return self.with(host, |node, now| node.handle_datagram(now, socket, packet.from, &mut packet.datagram));
        }
        let owner = |r: &Router| r.outside == realm && r.nat.external() == packet.to.ip();
        let inside = self.routers.iter().position(owner);
        let out = realm.0.checked_sub(1).filter(|_| !packet.inward);
        let Some(router) = inside.or(out) else { return self.lost.nowhere += 1 };
        packet.ttl = packet.ttl.saturating_sub(1);
        if packet.ttl == 0 {
            return self.lost.ttl += 1;
        }
        let (from, to, now_us) = (packet.from, packet.to, self.now.mono_us);
        let Router { nat, outside, .. } = &mut self.routers[router];
        let behind = Realm(router + 1);
        let translated = if inside.is_some() {
            nat.inbound(now_us, from, to.port()).map(|to| (behind, true, from, to))
        } else if to.ip() == nat.external() {
            nat.hairpin(now_us, from, to.port(), &mut self.rng).map(|(from, to)| (behind, true, from, to))
        } else {
            nat.outbound(now_us, from, to, &mut self.rng).map(|from| (*outside, false, from, to))
        };
        match translated {
            Some((realm, inward, from, to)) => self.travel(realm, Packet { from, to, inward, ..packet }),
            None => self.lost.nat += 1,
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
