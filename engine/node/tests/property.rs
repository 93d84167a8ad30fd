//! Thousands of small random worlds with the real node in them, against a simple model of who must reach whom how:
//! everybody with whom a root is shared, always; directly, where ZeroTier's exchange opens the way; never directly, where
//! nothing can pass.
//!
//! A world that fails is printed with its seed: `HAWSER_SEED=<seed> cargo test -p node --test property` plays it again.
//! `HAWSER_SCENARIOS=<n>` plays more of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use node::limits::*;
use node::{Event, LocalSocketId, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sim::{Filter, HostId, Link, Mapping, NatKind, Ports, Realm, Unsolicited, World, ethernet, identity, planet};
use wire::{Mac, NetworkId, SecretIdentity};

/// Worlds played unless told otherwise.
const SCENARIOS: u64 = 2000;
/// Everybody is a member of it, and its configuration is made on the spot.
const OPEN_NETWORK: NetworkId = NetworkId(0xff00_00ff_ff00_0000);
/// Each has a frame for each this often. ms
const FRAME_MS: u64 = 250;
/// Until every node has met a root. ms
const ONLINE_MS: u64 = 40_000;
/// Until the first frames go through: whom a root does not know yet is asked for again, and a HELLO that was lost comes
/// again after 5 s. ms
const FIRST_MS: u64 = 12_000;
/// Until frames go through after most events. ms
const SETTLED_MS: u64 = 6_000;
/// The same when a router restarted or a node moved: a root that it does not talk through hears of it at the next
/// heartbeat that is not lost, and believes another port of the same host only when the old one is dead.
// spec: paths, "Constants", heartbeat and alive window
const MOVED_MS: u64 = 2 * PATH_HEARTBEAT_MS + PATH_ALIVE_MS + SETTLED_MS;
/// Until a dead root is replaced, or one that came back is found. ms
const OTHER_ROOT_MS: u64 = 20_000;
/// Nothing of twelve frames came through: not reachable. ms
const SILENCE_MS: u64 = 12 * FRAME_MS;
/// Until a pair that can be direct is, at first: introductions and pushes come every 15 to 30 s, and may be lost. ms
const DIRECT_MS: u64 = 40_000;
/// The same when a router restarted or a node moved: others must hear of it first. ms
const DIRECT_AGAIN_MS: u64 = 130_000;

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Public,
    Home(NatKind),
    Carried {
        home: NatKind,
        carrier: NatKind,
    },
    /// In the home of an earlier one.
    WithHome(usize),
    /// In a home of its own behind the carrier of an earlier one.
    WithCarrier(usize, NatKind),
}

/// What happens to a world that has settled.
#[derive(Clone, Copy, Debug)]
enum Happens {
    RouterRestarts(usize),
    Moves(usize),
    RootDies,
    OnlyRootGoesAndComes,
    Blocked(usize, usize),
    Quiet(u64),
}

#[derive(Clone, Debug)]
struct Scenario {
    seed: u64,
    roots: usize,
    places: Vec<Place>,
    link: Link,
    far_root_ms: u64,
    blocked: Vec<(usize, usize)>,
    happens: Vec<Happens>,
}

fn one_of<T: Copy>(rng: &mut StdRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

fn router(rng: &mut StdRng) -> NatKind {
    let mapping =
        one_of(rng, &[Mapping::EndpointIndependent, Mapping::EndpointIndependent, Mapping::AddressAndPortDependent]);
    let filter = match mapping {
        Mapping::EndpointIndependent => one_of(rng, &[Filter::Open, Filter::Address, Filter::AddressAndPort]),
        Mapping::AddressAndPortDependent => one_of(rng, &[Filter::Address, Filter::AddressAndPort]),
    };
    NatKind {
        mapping,
        filter,
        ports: one_of(rng, &[Ports::Preserved, Ports::Sequential, Ports::Random]),
        hairpin: rng.random_bool(0.3),
        unsolicited: if rng.random_bool(0.15) { Unsolicited::Answered } else { Unsolicited::Dropped },
        // What is shorter than a heartbeat is not kept open by anybody. // spec: paths, "Keep-alive and latency"
        timeout_us: rng.random_range(17..120) * 1_000_000,
        ..NatKind::full_cone()
    }
}

impl Scenario {
    fn new(seed: u64) -> Scenario {
        let rng = &mut StdRng::seed_from_u64(seed);
        let nodes = one_of(rng, &[2, 2, 2, 2, 3, 3, 3, 4, 5]);
        let mut places: Vec<Place> = Vec::new();
        for n in 0..nodes {
            let homes: Vec<usize> =
                (0..n).filter(|&i| matches!(places[i], Place::Home(_) | Place::Carried { .. })).collect();
            let carriers: Vec<usize> = (0..n).filter(|&i| matches!(places[i], Place::Carried { .. })).collect();
            places.push(match rng.random_range(0..10) {
                0 | 1 => Place::Public,
                2..6 => Place::Home(router(rng)),
                6 if !homes.is_empty() => Place::WithHome(one_of(rng, &homes)),
                7 | 8 if !carriers.is_empty() => Place::WithCarrier(one_of(rng, &carriers), router(rng)),
                _ => Place::Carried { home: router(rng), carrier: router(rng) },
            });
        }
        let delay_us = rng.random_range(1_000..60_000);
        let odds = |rng: &mut StdRng, most: u32| if rng.random_bool(0.5) { 0 } else { rng.random_range(0..most) };
        let link = Link {
            delay_us,
            jitter_us: u64::from(odds(rng, delay_us as u32)),
            loss_ppm: odds(rng, 80_000),
            repeat_ppm: odds(rng, 50_000),
            reorder_ppm: odds(rng, 100_000),
            mtu: one_of(rng, &[1500, 1500, 1500, 1400, 1280]),
            ..Link::delay_ms(0)
        };
        let roots = rng.random_range(1..3);
        let pair = |rng: &mut StdRng| {
            let a = rng.random_range(0..nodes);
            (a, (a + rng.random_range(1..nodes)) % nodes)
        };
        let blocked = if rng.random_bool(0.15) { vec![pair(rng)] } else { Vec::new() };
        let happens = (0..one_of(rng, &[0, 0, 1, 1, 2]))
            .map(|_| match rng.random_range(0..6) {
                0 => Happens::RouterRestarts(rng.random_range(0..nodes)),
                1 => Happens::Moves(rng.random_range(0..nodes)),
                2 if roots == 2 => Happens::RootDies,
                2 | 3 => Happens::OnlyRootGoesAndComes,
                4 => {
                    let (a, b) = pair(rng);
                    Happens::Blocked(a, b)
                }
                _ => Happens::Quiet(rng.random_range(20..300)),
            })
            .collect();
        Scenario { seed, roots, places, link, far_root_ms: rng.random_range(0..80), blocked, happens }
    }

    /// The routers between a node and the internet, the nearest first.
    fn routers(&self, n: usize) -> Vec<NatKind> {
        match self.places[n] {
            Place::Public => Vec::new(),
            Place::Home(kind) => vec![kind],
            Place::Carried { home, carrier } => vec![home, carrier],
            Place::WithHome(other) => self.routers(other),
            Place::WithCarrier(other, home) => vec![home, self.routers(other)[1]],
        }
    }

    /// Whose home a node is in, and behind whose carrier.
    fn household(&self, n: usize) -> usize {
        if let Place::WithHome(other) = self.places[n] { self.household(other) } else { n }
    }

    fn carrier(&self, n: usize) -> Option<usize> {
        match self.places[self.household(n)] {
            Place::Carried { .. } => Some(self.household(n)),
            Place::WithCarrier(other, _) => self.carrier(other),
            _ => None,
        }
    }
}

/// What the model says of two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// ZeroTier's exchange opens it.
    Direct,
    /// It may or may not.
    Maybe,
    /// Nothing passes.
    Relayed,
}

fn symmetric(routers: &[NatKind]) -> bool {
    routers.iter().any(|r| r.mapping == Mapping::AddressAndPortDependent)
}

/// The port that others are told of lets in nobody but whom it was opened for.
fn insists(routers: &[NatKind]) -> bool {
    symmetric(routers) || routers.iter().any(|r| r.filter == Filter::AddressAndPort)
}

impl Scenario {
    fn way(&self, a: usize, b: usize) -> Way {
        if self.household(a) == self.household(b) {
            return Way::Direct;
        }
        let [ra, rb] = [self.routers(a), self.routers(b)];
        let answers = ra.iter().chain(&rb).any(|r| r.unsolicited == Unsolicited::Answered);
        let closed = symmetric(&ra) && insists(&rb) || symmetric(&rb) && insists(&ra);
        if self.carrier(a).is_some() && self.carrier(a) == self.carrier(b) {
            // Never on the internet: through the carrier's router if it turns datagrams around.
            let turned = ra[1].hairpin && !answers && !symmetric(&ra) && !symmetric(&rb);
            return if turned { Way::Direct } else { Way::Maybe };
        }
        if self.blocked.contains(&(a, b)) || self.blocked.contains(&(b, a)) {
            return Way::Relayed;
        }
        if answers || closed { Way::Maybe } else { Way::Direct }
    }
}

/// Made once: keys cost more than the rest of a world.
fn actor(n: usize) -> Arc<SecretIdentity> {
    static ACTORS: OnceLock<Vec<Arc<SecretIdentity>>> = OnceLock::new();
    ACTORS.get_or_init(|| (1..10).map(identity).collect())[n].clone()
}

const ROOT_AT: [&str; 2] = ["44.0.0.1:9993", "44.0.1.1:9993"];

fn planet_of(roots: usize) -> &'static [u8] {
    static PLANETS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let make = |n: usize| {
        let identities: Vec<_> = (0..n).map(actor).collect();
        let roots: Vec<_> =
            identities.iter().zip(ROOT_AT).map(|(i, at)| (i.public(), vec![at.parse().unwrap()])).collect();
        planet(&roots).to_bytes()
    };
    &PLANETS.get_or_init(|| vec![make(1), make(2)])[roots - 1]
}

/// What was seen of all worlds.
#[derive(Default)]
struct Seen {
    direct: AtomicU64,
    relayed: AtomicU64,
    slowest_ms: AtomicU64,
    slowest_again_ms: AtomicU64,
}

/// A scenario being played.
struct Play<'a> {
    scenario: Scenario,
    world: World,
    roots: Vec<HostId>,
    leaves: Vec<HostId>,
    /// The networks of each leaf's home and carrier, and the address that it has outside.
    realms: Vec<Vec<Realm>>,
    outside: Vec<String>,
    /// When each last heard each.
    heard: Vec<Vec<u64>>,
    moves: usize,
    seen: &'a Seen,
}

impl<'a> Play<'a> {
    fn new(scenario: Scenario, seen: &'a Seen) -> Play<'a> {
        let mut world = World::new(scenario.seed);
        world.set_default_link(scenario.link);
        let nodes = scenario.places.len();
        let roots = (0..scenario.roots).map(|n| world.add_host(actor(n), Settings::default(), &[ROOT_AT[n]])).collect();
        let (realms, outside, heard) =
            (vec![Vec::new(); nodes], vec![String::new(); nodes], vec![vec![0; nodes]; nodes]);
        let mut play = Play { scenario, world, roots, leaves: Vec::new(), realms, outside, heard, moves: 0, seen };
        for n in 0..nodes {
            let (realm, at) = play.settle(n);
            let leaf = play.world.add_host_in(realm, actor(2 + n), Settings::default(), &[&at]);
            play.leaves.push(leaf);
        }
        for host in play.roots.iter().chain(&play.leaves).copied().collect::<Vec<_>>() {
            play.world.with(host, |node, now| node.restore_planet(now, planet_of(play.scenario.roots))).unwrap();
        }
        for &leaf in &play.leaves.clone() {
            play.world.with(leaf, |node, now| node.join(now, OPEN_NETWORK, None));
        }
        for (a, b) in std::mem::take(&mut play.scenario.blocked) {
            play.block(a, b);
        }
        play
    }

    /// Puts up the routers of a leaf; returns where it sits.
    fn settle(&mut self, n: usize) -> (Realm, String) {
        let outside = format!("44.{}.{}.1", 10 + n, self.moves);
        // Every household uses the same addresses.
        let inside = |k: usize| format!("192.168.1.{}:9993", 10 + k);
        let router = |world: &mut World, realm, at: &str, kind| world.add_nat(realm, at, kind);
        self.outside[n] = outside.clone();
        match self.scenario.places[n] {
            Place::Public => {
                self.realms[n] = Vec::new();
                (Realm::INTERNET, format!("{outside}:9993"))
            }
            Place::Home(kind) => {
                let home = router(&mut self.world, Realm::INTERNET, &outside, kind);
                self.realms[n] = vec![home];
                (home, inside(0))
            }
            Place::Carried { home, carrier } => {
                let carrier = router(&mut self.world, Realm::INTERNET, &outside, carrier);
                let home = router(&mut self.world, carrier, &format!("100.64.0.{}", 1 + n), home);
                self.realms[n] = vec![home, carrier];
                (home, inside(0))
            }
            Place::WithHome(other) => {
                self.realms[n] = self.realms[other].clone();
                self.outside[n] = self.outside[other].clone();
                (self.realms[n][0], inside(1 + n))
            }
            Place::WithCarrier(other, kind) => {
                let carrier = self.realms[other][1];
                let home = router(&mut self.world, carrier, &format!("100.64.0.{}", 1 + n), kind);
                self.realms[n] = vec![home, carrier];
                self.outside[n] = self.outside[other].clone();
                (home, inside(0))
            }
        }
    }

    /// Cuts two off from each other on the internet, and whoever shares their addresses there.
    fn block(&mut self, a: usize, b: usize) {
        let (a, b) = (self.outside[a].clone(), self.outside[b].clone());
        if a != b {
            self.world.block(a.parse().unwrap(), b.parse().unwrap());
            let cut: Vec<_> =
                self.pairs().into_iter().filter(|&(x, y)| self.outside[x] == a && self.outside[y] == b).collect();
            self.scenario.blocked.extend(cut);
        }
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let n = self.leaves.len();
        (0..n).flat_map(|a| (0..n).filter(move |b| *b != a).map(move |b| (a, b))).collect()
    }

    /// Everybody sends everybody a frame; notes who heard whom.
    fn round(&mut self) {
        for (from, to) in self.pairs() {
            let [own, other] = [from, to].map(|n| Mac::of_member(OPEN_NETWORK, actor(2 + n).address()));
            let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
            packet.extend_from_slice(&[0xfd; 32]);
            packet.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4]);
            self.world.tap(self.leaves[from], OPEN_NETWORK, &ethernet(other, own, 0x86dd, &packet));
        }
        self.world.run_ms(FRAME_MS);
        let now_ms = self.world.now().ms();
        for (from, to) in self.pairs() {
            let mac = Mac::of_member(OPEN_NETWORK, actor(2 + from).address());
            if self.world.host(self.leaves[to]).delivered.iter().any(|(_, f)| f[6..12] == mac.0) {
                self.heard[to][from] = now_ms;
            }
        }
        for n in 0..self.leaves.len() {
            let host = self.world.host_mut(self.leaves[n]);
            host.delivered.clear();
            host.plan.clear();
        }
    }

    fn talk(&mut self, ms: u64) {
        (0..ms / FRAME_MS).for_each(|_| self.round());
    }

    fn is_direct(&self, a: usize, b: usize) -> bool {
        let peers = self.world.host(self.leaves[a]).node.peers(self.world.now());
        let other = actor(2 + b).address();
        peers.iter().any(|p| p.address == other && p.paths.iter().any(|path| path.preferred && path.alive))
    }

    fn assert_reachable(&self, when: &str) {
        let now_ms = self.world.now().ms();
        for (from, to) in self.pairs() {
            let silent = now_ms - self.heard[to][from];
            assert!(
                silent <= SILENCE_MS,
                "{when}: {to} has not heard {from} for {silent} ms, {:?}",
                self.scenario.way(from, to)
            );
        }
    }

    fn assert_bounds(&self) {
        for &host in self.roots.iter().chain(&self.leaves) {
            let g = self.world.host(host).node.gauges();
            let peers = self.leaves.len() + self.roots.len();
            let bounded = [
                (g.peers, peers),
                (g.expected_replies, EXPECTED_MAX),
                (g.whois_pending, peers),
                (g.waiting_packets, WAITING_PER_SOURCE * peers),
                (g.queued_packets, QUEUE_PER_PEER * peers),
                (g.surfaces, SURFACES_MAX),
                (g.targets, TARGETS_MAX),
                (g.proofs, PROOF_QUEUE_MAX),
                (g.introduced_pairs, peers * peers),
                (g.rendezvous_held, peers),
                (g.timed_probes, TIMED_PROBES_MAX),
                (g.path_gates, PATH_GATES_MAX),
                (g.watched, peers),
            ];
            for (n, (has, most)) in bounded.into_iter().enumerate() {
                assert!(has <= most, "gauge {n} of {host:?}: {has} of {most}: {g:?}");
            }
            let counters = self.world.host(host).node.counters();
            assert_eq!((counters.outputs_full, counters.gates_full, counters.halted), (0, 0, 0));
        }
    }

    /// Talks until all are direct that must be. Panics if that takes too long.
    fn until_direct(&mut self, limit_ms: u64, when: &str) -> u64 {
        let start = self.world.now().ms();
        loop {
            let musts = self.pairs().into_iter().filter(|&(a, b)| self.scenario.way(a, b) == Way::Direct);
            let wanting: Vec<(usize, usize)> = musts.filter(|&(a, b)| !self.is_direct(a, b)).collect();
            let took = self.world.now().ms() - start;
            if wanting.is_empty() {
                return took;
            }
            assert!(took <= limit_ms, "{when}: {wanting:?} are not direct after {took} ms");
            self.talk(4 * FRAME_MS);
        }
    }

    fn assert_never_direct(&self, since_ms: u64) {
        for (a, b) in self.pairs().into_iter().filter(|&(a, b)| self.scenario.way(a, b) == Way::Relayed) {
            let other = actor(2 + b).address();
            let went = |e: &Event| matches!(e, Event::PeerDirect { peer, .. } if *peer == other);
            let at_ms = self.world.last_event(self.leaves[a], went).filter(|at| *at >= since_ms);
            assert_eq!(at_ms, None, "{a} is direct with {b}, where nothing passes");
        }
    }

    fn run(&mut self) {
        let leaves = self.leaves.clone();
        let far = Link { delay_us: self.scenario.far_root_ms * 1000, ..self.scenario.link };
        self.world.set_link(self.outside[0].parse().unwrap(), "44.0.0.1".parse().unwrap(), far);
        let online = self.world.run_until(ONLINE_MS, |w| leaves.iter().all(|&leaf| w.host(leaf).node.is_online()));
        assert!(online, "not everybody is online");
        let start_ms = self.world.now().ms();
        self.talk(FIRST_MS);
        self.assert_reachable("at first");
        let took = self.until_direct(DIRECT_MS, "at first");
        self.seen.slowest_ms.fetch_max(took + FIRST_MS, Ordering::Relaxed);
        self.talk(SILENCE_MS);
        self.assert_reachable("when direct");
        for (a, b) in self.pairs() {
            let count = if self.is_direct(a, b) { &self.seen.direct } else { &self.seen.relayed };
            count.fetch_add(1, Ordering::Relaxed);
        }
        for (n, happens) in (0..).zip(self.scenario.happens.clone()) {
            self.happen(n, happens);
            self.assert_bounds();
        }
        self.assert_bounds();
        if !self.scenario.happens.iter().any(|h| matches!(h, Happens::Blocked(..) | Happens::Moves(_))) {
            self.assert_never_direct(start_ms);
        }
    }

    fn happen(&mut self, n: usize, happens: Happens) {
        let when = format!("after event {n}, {happens:?}");
        let mut settle_ms = SETTLED_MS;
        match happens {
            Happens::RouterRestarts(leaf) => {
                for realm in self.realms[leaf].clone() {
                    self.world.restart_nat(realm);
                }
                settle_ms = MOVED_MS;
            }
            Happens::Moves(leaf) => {
                self.move_out(leaf);
                settle_ms = MOVED_MS;
            }
            Happens::Blocked(a, b) => {
                self.block(a, b);
                settle_ms = 2 * SETTLED_MS;
            }
            Happens::RootDies => {
                self.close_root(0);
                settle_ms = OTHER_ROOT_MS;
            }
            Happens::OnlyRootGoesAndComes => {
                let before = self.pairs().into_iter().filter(|&(a, b)| self.is_direct(a, b) && self.is_direct(b, a));
                let before: Vec<(usize, usize)> = before.collect();
                (0..self.roots.len()).for_each(|root| self.close_root(root));
                self.talk(SETTLED_MS);
                let now_ms = self.world.now().ms();
                for (from, to) in before {
                    let silent = now_ms - self.heard[to][from];
                    assert!(
                        silent <= SILENCE_MS,
                        "{when}: {to} has not heard {from} for {silent} ms, and they were direct"
                    );
                }
                for (root, at) in self.roots.clone().into_iter().zip(ROOT_AT) {
                    self.world.add_socket(root, at);
                }
                settle_ms = OTHER_ROOT_MS;
            }
            Happens::Quiet(s) => self.world.run_ms(s * 1000),
        }
        self.talk(settle_ms);
        self.assert_reachable(&when);
        let took = self.until_direct(DIRECT_AGAIN_MS, &when);
        self.seen.slowest_again_ms.fetch_max(took + settle_ms, Ordering::Relaxed);
        self.talk(SILENCE_MS);
        self.assert_reachable(&when);
    }

    fn close_root(&mut self, root: usize) {
        let host = self.roots[root];
        let sockets: Vec<LocalSocketId> = self.world.host(host).sockets.keys().copied().collect();
        sockets.into_iter().for_each(|s| self.world.remove_socket(host, s));
    }

    /// A node leaves its network for another one of the same kind, with other addresses.
    fn move_out(&mut self, leaf: usize) {
        self.moves += 1;
        let alone = |kinds: &[NatKind]| match *kinds {
            [] => Place::Public,
            [home] => Place::Home(home),
            [home, carrier, ..] => Place::Carried { home, carrier },
        };
        // Whoever was in its home stays there.
        for n in 0..self.leaves.len() {
            if n != leaf && (self.household(n) == leaf || self.scenario.carrier(n) == Some(leaf)) {
                return;
            }
        }
        self.scenario.places[leaf] = alone(&self.scenario.routers(leaf));
        self.scenario.blocked.retain(|&(a, b)| a != leaf && b != leaf);
        let host = self.leaves[leaf];
        let sockets: Vec<LocalSocketId> = self.world.host(host).sockets.keys().copied().collect();
        let (realm, at) = self.settle(leaf);
        sockets.into_iter().for_each(|s| self.world.remove_socket(host, s));
        self.world.add_socket_in(realm, host, &at);
    }

    fn household(&self, n: usize) -> usize {
        self.scenario.household(n)
    }
}

fn play(seed: u64, seen: &Seen) -> Result<(), String> {
    let scenario = Scenario::new(seed);
    let mut play = Play::new(scenario.clone(), seen);
    let result = catch_unwind(AssertUnwindSafe(|| play.run()));
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        let hosts = play.roots.iter().chain(&play.leaves);
        let counted = hosts.map(|&host| {
            let counters = play.world.host(host).node.counters();
            let some: Vec<String> =
                counters.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            let peers = play.world.host(host).node.peers(play.world.now());
            let paths = peers.iter().map(|p| {
                let paths: Vec<String> = p
                    .paths
                    .iter()
                    .map(|p| {
                        format!(
                            "{} alive {} preferred {} verified {:?} sent {:?}",
                            p.remote, p.alive, p.preferred, p.verified_ms, p.sent_ms
                        )
                    })
                    .collect();
                format!("  {} best {}: {}", p.address, p.best_upstream, paths.join("; "))
            });
            let paths: Vec<String> = paths.collect();
            format!("{host:?} {}: {}\n{}", play.world.host(host).node.address(), some.join(", "), paths.join("\n"))
        });
        let counted: Vec<String> = counted.collect();
        format!("{text}\n{scenario:?}\n{}\nplay it again with HAWSER_SEED={seed}", counted.join("\n"))
    })
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

#[test]
fn who_shares_a_root_is_always_reachable_and_direct_where_that_is_possible() {
    let seen = Seen::default();
    if let Some(seed) = from_env("HAWSER_SEED") {
        return play(seed, &seen).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let scenarios = from_env("HAWSER_SCENARIOS").unwrap_or(SCENARIOS);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let failures: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let most = from_env("HAWSER_FAILURES").unwrap_or(1) as usize;
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= scenarios {
                        return;
                    }
                    if let Err(failure) = play(seed, &seen) {
                        let mut failures = failures.lock().unwrap_or_else(|e| e.into_inner());
                        failures.push(failure);
                        failed.store(failures.len() >= most, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    println!("{scenarios} worlds, {} pairs direct, {} relayed", count(&seen.direct), count(&seen.relayed));
    println!("slowest to direct {} ms, again {} ms", count(&seen.slowest_ms), count(&seen.slowest_again_ms));
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n\n"));
}
