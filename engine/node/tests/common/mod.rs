//! A bench for scripts: one real node, scripted others, a clock that is moved by hand. Others answer only if told to.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node::{Event, LocalSocketId, Node, Output, PlanChange, Settings, Socket, StateKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::message::{ExtFrame, Hello, HelloTail, InRe, OkHello, OkMessage, Version, WorldRevision};
use wire::packet::{self, HDR_LEN};
use wire::{
    Address, Datagram, Identity, Keys, NetworkId, Now, Packet, Root, SecretIdentity, Suite, Verb, World, WorldKind,
    classify, compress,
};

pub const V12: Version = Version { protocol: 12, major: 1, minor: 14, revision: 1 };
/// Everybody is a member of it, and its configuration is made on the spot.
pub const OPEN_NETWORK: NetworkId = NetworkId(0xff00_00ff_ff00_0000);
pub const START_MS: u64 = 1_700_000_000_000;

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A node with made-up keys: its proof of work is wrong, but nobody checks unless told to.
pub fn made_up(n: u64) -> Arc<SecretIdentity> {
    let mut rng = StdRng::seed_from_u64(n);
    let mut key = zeroize::Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut key[..]);
    Arc::new(SecretIdentity::from_parts(Address::from_u64(0x10_0000_0000 + n), key))
}

/// Another node, played by the script.
#[derive(Clone)]
pub struct Actor {
    pub secret: Arc<SecretIdentity>,
    pub keys: Arc<Keys>,
    /// Where it answers HELLO and ECHO, and after how long in ms.
    pub answers: Vec<(SocketAddr, u64)>,
    /// It answers only over this socket of ours.
    pub only_socket: Option<u64>,
    /// It answers only from these sockets of ours to these endpoints of its own, and frames that ask for it too.
    pub pairs: Option<Vec<(u64, SocketAddr)>>,
    pub version: Version,
}

impl Actor {
    pub fn address(&self) -> Address {
        self.secret.address()
    }

    pub fn identity(&self) -> Identity {
        self.secret.public().clone()
    }
}

/// A datagram that the node sent, opened.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at_ms: u64,
    pub socket: Option<u64>,
    pub remote: SocketAddr,
    pub ttl: Option<u8>,
    pub len: usize,
    pub to: Address,
    pub from: Address,
    pub id: u64,
    pub suite: Option<Suite>,
    pub hops: u8,
    pub verb: Option<Verb>,
    pub payload: Vec<u8>,
    pub raw: Vec<u8>,
}

/// Who checks proofs of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    Says(bool),
    Validates,
    Silent,
}

struct Incoming {
    socket: u64,
    remote: SocketAddr,
    datagram: Vec<u8>,
}

pub struct Bench {
    pub node: Node,
    pub own: Arc<SecretIdentity>,
    pub now: Now,
    pub actors: BTreeMap<Address, Actor>,
    pub events: Vec<Event>,
    pub stored: BTreeMap<StateKey, Option<Vec<u8>>>,
    pub others: Vec<Output>,
    pub prover: Prover,
    pub proofs: VecDeque<(u64, Identity)>,
    /// What calling the node cost while time passed. No test asks for it.
    pub spent: Duration,
    /// When the last answer came by each way.
    pub answered: BTreeMap<(u64, SocketAddr), u64>,
    sent: Vec<Sent>,
    incoming: BTreeMap<(u64, u64), Incoming>,
    rng: StdRng,
    serial: u64,
}

/// A planet of these roots, signed by nobody in particular.
pub fn planet(roots: &[(&Identity, &[&str])], timestamp: u64) -> World {
    let roots = roots
        .iter()
        .map(|(identity, endpoints)| Root {
            identity: (*identity).clone(),
            endpoints: endpoints.iter().map(|e| addr(e)).collect(),
        })
        .collect();
    let signer = made_up(999);
    World::make(WorldKind::Planet, 0xfeed, timestamp, *signer.public().public_key(), roots, &signer)
}

impl Bench {
    /// A node with made-up identity `n`, no world and no sockets.
    pub fn new(n: u64) -> Bench {
        Bench::with(made_up(n), Settings::default())
    }

    pub fn with(own: Arc<SecretIdentity>, settings: Settings) -> Bench {
        let now = Now::at_ms(START_MS);
        Bench {
            node: Node::new(now, own.clone(), settings, [own.address().to_u64() as u8; 32]),
            own,
            now,
            actors: BTreeMap::new(),
            events: Vec::new(),
            stored: BTreeMap::new(),
            others: Vec::new(),
            prover: Prover::Says(true),
            proofs: VecDeque::new(),
            spent: Duration::ZERO,
            answered: BTreeMap::new(),
            sent: Vec::new(),
            incoming: BTreeMap::new(),
            rng: StdRng::seed_from_u64(1),
            serial: 0,
        }
    }

    /// A leaf with the sockets 5, 6 and 7 on three links, and one root that answers at 44.1.1.1:9993.
    pub fn leaf() -> (Bench, Address) {
        let mut bench = Bench::new(1);
        let root = bench.actor(2);
        bench.install_planet(&[(root, &["44.1.1.1:9993"])]);
        bench.sockets(&[5, 6, 7]);
        bench.answer(root, "44.1.1.1:9993", 0);
        bench.advance(1000);
        bench.take();
        (bench, root)
    }

    pub fn actor(&mut self, n: u64) -> Address {
        self.play(made_up(n))
    }

    pub fn play(&mut self, secret: Arc<SecretIdentity>) -> Address {
        let keys = Arc::new(Keys::new(secret.agree(self.own.public()).unwrap()));
        let address = secret.address();
        self.actors
            .insert(address, Actor { secret, keys, answers: Vec::new(), only_socket: None, pairs: None, version: V12 });
        address
    }

    /// From now on `who` answers HELLO and ECHO at `remote`, after `delay_ms`.
    pub fn answer(&mut self, who: Address, remote: &str, delay_ms: u64) {
        self.actors.get_mut(&who).unwrap().answers.push((addr(remote), delay_ms));
    }

    pub fn silence(&mut self, who: Address) {
        self.actors.get_mut(&who).unwrap().answers.clear();
    }

    pub fn install_planet(&mut self, roots: &[(Address, &[&str])]) -> World {
        let identities: Vec<Identity> = roots.iter().map(|(a, _)| self.actors[a].identity()).collect();
        let roots: Vec<_> = identities.iter().zip(roots).map(|(i, (_, e))| (i, *e)).collect();
        let world = planet(&roots, 1000);
        self.node.restore_planet(self.now, &world.to_bytes()).unwrap();
        self.drain();
        world
    }

    pub fn sockets(&mut self, ids: &[u64]) {
        for &id in ids {
            let socket = |n, local: &str| Socket {
                id: LocalSocketId(n),
                local: addr(local),
                link: format!("link{n}"),
                port: node::Port::Primary,
            };
            self.node.add_socket(self.now, socket(id, &format!("172.16.{id}.1:9993")));
            self.node.add_socket(self.now, socket(id + 100, &format!("[fd00::{id}]:9993")));
        }
        self.drain();
    }

    pub fn ms(&self) -> u64 {
        self.now.ms() - START_MS
    }

    /// Moves the clock, with everything that becomes due on the way.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.ms() + ms;
        loop {
            let incoming = self.incoming.keys().next().map(|&(at, _)| at);
            let due = self.node.poll_timeout().into_iter().chain(incoming).min().unwrap().max(self.now.ms());
            if due > end {
                break;
            }
            self.now = self.now.after(Duration::from_millis(due - self.now.ms()));
            match incoming {
                Some(at) if at <= due => {
                    let (_, mut i) = self.incoming.pop_first().unwrap();
                    self.answered.insert((i.socket, i.remote), self.now.ms() - START_MS);
                    let start = Instant::now();
                    self.node.handle_datagram(self.now, LocalSocketId(i.socket), i.remote, &mut i.datagram);
                    self.spent += start.elapsed();
                }
                _ => {
                    let start = Instant::now();
                    self.node.handle_timeout(self.now);
                    self.spent += start.elapsed();
                }
            }
            self.drain();
        }
        self.now = self.now.after(Duration::from_millis(end - self.now.ms()));
    }

    /// What was sent since the last time.
    pub fn take(&mut self) -> Vec<Sent> {
        self.drain();
        std::mem::take(&mut self.sent)
    }

    /// What was sent to `who` since the last time; the rest is forgotten.
    pub fn take_to(&mut self, who: Address) -> Vec<Sent> {
        self.take().into_iter().filter(|s| s.to == who).collect()
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { socket, remote, ttl, datagram } => {
                    let sent = self.open(socket.map(|s| s.0), remote, ttl, datagram);
                    self.respond(&sent);
                    self.sent.push(sent);
                }
                Output::Prove { ticket, identity } => match self.prover {
                    Prover::Says(verdict) => self.node.handle_proof(self.now, ticket, verdict),
                    Prover::Validates => self.node.handle_proof(self.now, ticket, identity.validate()),
                    Prover::Silent => self.proofs.push_back((ticket, identity)),
                },
                Output::Event(event) => self.events.push(event),
                Output::Store(key, bytes) => {
                    self.stored.insert(key, bytes);
                }
                other => self.others.push(other),
            }
        }
    }

    fn open(&self, socket: Option<u64>, remote: SocketAddr, ttl: Option<u8>, raw: Vec<u8>) -> Sent {
        let mut sent = Sent {
            at_ms: self.ms(),
            socket,
            remote,
            ttl,
            len: raw.len(),
            to: Address::ZERO,
            from: Address::ZERO,
            id: 0,
            suite: None,
            hops: 0,
            verb: None,
            payload: Vec::new(),
            raw,
        };
        if classify(&sent.raw) != Datagram::Head {
            return sent;
        }
        let mut bytes = sent.raw.clone();
        let head = Packet::new(&bytes[..]).unwrap();
        (sent.to, sent.from, sent.id, sent.suite, sent.hops) =
            (head.destination(), head.source(), head.id(), head.suite(), head.hops());
        let fragmented = head.fragmented();
        let Some(actor) = self.actors.get(&sent.to) else { return sent };
        let trusted = sent.suite == Some(Suite::TrustedPath);
        if sent.from != self.own.address() || fragmented || !(trusted || actor.keys.open(&mut bytes).is_ok()) {
            return sent;
        }
        let packet = Packet::new(&bytes[..]).unwrap();
        sent.verb = Verb::from_u8(packet.verb_number());
        sent.payload = packet.payload().to_vec();
        if packet.compressed() {
            sent.payload.clear();
            compress::decompress(packet.payload(), &mut sent.payload).unwrap();
        }
        sent
    }

    fn respond(&mut self, sent: &Sent) {
        let Some(actor) = self.actors.get(&sent.to).cloned() else { return };
        let Some(&(_, delay_ms)) = actor.answers.iter().find(|(remote, _)| *remote == sent.remote) else { return };
        let body = match sent.verb {
            Some(Verb::Hello) => ok_hello_body(&sent.payload, actor.version, addr("44.5.6.7:9993"), &[]),
            Some(Verb::Echo) => sent.payload.clone(),
            Some(Verb::ExtFrame) if actor.pairs.is_some() => match ExtFrame::parse(&sent.payload) {
                Ok(frame) if frame.flags & ExtFrame::ACK != 0 => frame.network.0.to_be_bytes().to_vec(),
                _ => return,
            },
            _ => return,
        };
        let sockets = match sent.socket {
            Some(socket) => vec![socket],
            None => self.node.fan_out(sent.remote).into_iter().map(|s| s.0).collect(),
        };
        let pairs = actor.pairs.as_ref();
        let there = |s: &u64| pairs.is_none_or(|pairs| pairs.contains(&(*s, sent.remote)));
        for socket in sockets.into_iter().filter(|s| actor.only_socket.is_none_or(|only| only == *s) && there(s)) {
            let payload = ok_payload(sent.verb.unwrap(), sent.id, &body);
            let datagram = self.packet(sent.to, Verb::Ok, &payload, Suite::AesGmacSiv, 0);
            self.serial += 1;
            let key = (self.now.ms() + delay_ms, self.serial);
            self.incoming.insert(key, Incoming { socket, remote: sent.remote, datagram });
        }
    }

    /// A sealed packet from an actor to the node.
    pub fn packet(&mut self, from: Address, verb: Verb, payload: &[u8], suite: Suite, hops: u8) -> Vec<u8> {
        let id = self.rng.next_u64();
        let mut bytes = packet::head(id, self.own.address(), from, verb as u8);
        bytes.extend_from_slice(payload);
        self.actors[&from].keys.seal(&mut bytes, suite);
        for _ in 0..hops {
            Packet::new(&mut bytes[..]).unwrap().increment_hops();
        }
        bytes
    }

    pub fn deliver(&mut self, socket: u64, remote: &str, mut datagram: Vec<u8>) {
        self.node.handle_datagram(self.now, LocalSocketId(socket), addr(remote), &mut datagram);
        self.drain();
    }

    /// The node receives a message of `from`, directly. Returns its ID.
    pub fn receive(&mut self, from: Address, socket: u64, remote: &str, verb: Verb, payload: &[u8]) -> u64 {
        self.receive_over(from, socket, remote, verb, payload, 0)
    }

    pub fn receive_over(
        &mut self,
        from: Address,
        socket: u64,
        remote: &str,
        verb: Verb,
        payload: &[u8],
        hops: u8,
    ) -> u64 {
        let datagram = self.packet(from, verb, payload, Suite::AesGmacSiv, hops);
        let id = Packet::new(&datagram[..]).unwrap().id();
        self.deliver(socket, remote, datagram);
        id
    }

    /// A HELLO of `from`, sealed as HELLOs are.
    pub fn hello(&mut self, from: Address, sent_to: Option<SocketAddr>, planet: WorldRevision) -> Vec<u8> {
        let actor = self.actors[&from].clone();
        let id = self.rng.next_u64();
        let mut bytes = packet::head(id, self.own.address(), from, Verb::Hello as u8);
        let (version, identity) = (actor.version, actor.identity());
        let hello = Hello { version, timestamp: 77, identity, sent_to, planet: Some(planet), tail: &[] };
        hello.write(&mut bytes);
        let clear = bytes.len();
        HelloTail::default().write(&mut bytes);
        actor.keys.obscure_hello_tail(id, &mut bytes[clear..]);
        actor.keys.seal(&mut bytes, Suite::Poly1305);
        bytes
    }

    pub fn receive_hello(&mut self, from: Address, socket: u64, remote: &str) {
        let hello = self.hello(from, Some(addr("44.5.6.7:9993")), WorldRevision { id: 0xfeed, timestamp: 1000 });
        self.deliver(socket, remote, hello);
    }

    /// Makes `who` a peer with a verified path, and forgets what that took to send.
    pub fn befriend(&mut self, who: Address, socket: u64, remote: &str) {
        self.receive_hello(who, socket, remote);
        let challenge = self.take_to(who).into_iter().find(|s| s.verb == Some(Verb::Hello) && s.remote == addr(remote));
        if let Some(challenge) = challenge {
            self.receive_ok_hello(who, socket, remote, &challenge);
        }
        self.take();
    }

    /// OK to a HELLO that the node sent.
    pub fn receive_ok_hello(&mut self, from: Address, socket: u64, remote: &str, hello: &Sent) {
        let version = self.actors[&from].version;
        let body = ok_hello_body(&hello.payload, version, addr("44.5.6.7:9993"), &[]);
        let payload = ok_payload(Verb::Hello, hello.id, &body);
        self.receive(from, socket, remote, Verb::Ok, &payload);
    }

    /// A frame of `from` on the open network: a sign of trust.
    pub fn receive_frame(&mut self, from: Address, socket: u64, remote: &str, hops: u8) {
        let payload = frame_payload();
        self.receive_over(from, socket, remote, Verb::Frame, &payload, hops);
    }

    /// A frame to `to` on the open network from our TAP.
    pub fn send_frame(&mut self, to: Address) {
        let mut frame = wire::Mac::of_member(OPEN_NETWORK, to).0.to_vec();
        frame.extend_from_slice(&wire::Mac::of_member(OPEN_NETWORK, self.own.address()).0);
        frame.extend_from_slice(&[0x86, 0xdd]);
        frame.extend_from_slice(&ipv6_udp());
        self.node.handle_tap_frame(self.now, OPEN_NETWORK, &frame);
        self.drain();
    }

    pub fn join_open(&mut self) {
        self.node.join(self.now, OPEN_NETWORK, None);
        self.take();
    }

    /// Where the shards were last told to send frames to `who`, if they were told anything new.
    pub fn take_plan_route(&mut self, who: Address) -> Option<String> {
        self.drain();
        let route = self.others.drain(..).rev().find_map(|o| match o {
            Output::Plan(PlanChange::Peer { address, route: Some(route), .. }) if address == who => Some(route),
            _ => None,
        });
        route.map(|r| r.remote.to_string())
    }

    /// The preferred path of a peer, if any.
    pub fn preferred(&self, who: Address) -> Option<(u64, SocketAddr)> {
        let peer = self.node.peers(self.now).into_iter().find(|p| p.address == who)?;
        peer.paths.iter().find(|p| p.preferred).map(|p| (p.socket.0, p.remote))
    }

    pub fn paths(&self, who: Address) -> Vec<(u64, SocketAddr)> {
        let peer = self.node.peers(self.now).into_iter().find(|p| p.address == who);
        peer.map(|p| p.paths.iter().map(|p| (p.socket.0, p.remote)).collect()).unwrap_or_default()
    }

    pub fn knows(&self, who: Address) -> bool {
        self.node.peers(self.now).iter().any(|p| p.address == who)
    }
}

pub fn times(sent: &[&Sent]) -> Vec<u64> {
    sent.iter().map(|s| s.at_ms).collect()
}

/// The root answers a WHOIS of ours.
pub fn tell_identity(b: &mut Bench, root: Address, whois: &Sent, who: Address) {
    let mut body = Vec::new();
    b.actors[&who].identity().write(&mut body);
    let payload = ok_payload(Verb::Whois, whois.id, &body);
    let over = whois.remote.to_string();
    b.receive(root, whois.socket.unwrap(), &over, Verb::Ok, &payload);
}

pub fn ok_payload(verb: Verb, id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    OkMessage { in_re: InRe::new(verb, id), body }.write(&mut out);
    out
}

pub fn ok_hello_body(hello: &[u8], version: Version, seen_from: SocketAddr, worlds: &[u8]) -> Vec<u8> {
    let timestamp = Hello::parse(hello).unwrap().timestamp;
    let mut out = Vec::new();
    OkHello { timestamp, version, seen_from: Some(seen_from), worlds }.write(&mut out);
    out
}

fn ipv6_udp() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend_from_slice(&[0xfd; 32]);
    packet.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

pub fn frame_payload() -> Vec<u8> {
    let mut out = OPEN_NETWORK.0.to_be_bytes().to_vec();
    out.extend_from_slice(&[0x86, 0xdd]);
    out.extend_from_slice(&ipv6_udp());
    out
}

/// Verbs and remotes, for comparing.
pub fn verbs(sent: &[Sent]) -> Vec<(Option<Verb>, SocketAddr)> {
    sent.iter().map(|s| (s.verb, s.remote)).collect()
}

pub fn only(sent: &[Sent], verb: Verb) -> Vec<&Sent> {
    sent.iter().filter(|s| s.verb == Some(verb)).collect()
}

const _: () = assert!(HDR_LEN == 28);
