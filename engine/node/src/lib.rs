//! The control plane as a state machine: peers, paths, roots, networks. Sans-I/O.
//!
//! A [`Node`] is told what happened and asked what to do; it never touches a socket, a clock, a file or a thread. The
//! contract, in full:
//!
//! 1. Tell it things with the `handle_*` methods and the few setters, each with the present time. The monotonic half of
//!    [`Now`] must never go back.
//! 2. After every call, drain [`Node::poll_output`] until it is empty, and do what it says, in order.
//! 3. Then ask [`Node::poll_timeout`]: by that time at the latest call [`Node::handle_timeout`]. Calling it early is
//!    harmless.
//!
//! Randomness is a seed given at the start, so the same calls give the same outputs.
//!
//! ```
//! use std::sync::Arc;
//! use node::{LocalSocketId, Node, Output, Port, Settings, Socket};
//! use wire::{Address, DEFAULT_PLANET, Now, SecretIdentity};
//!
//! let text = "1b9dded647:0:3731e2a1c0cdad9219af4b7c47ebfb36840665d41c3918652e54c657f61d532c1bff6100bc603d8ca06a69a65f\
//!     ffeedcec46ba64770e53cbec09a5043695309e:e0a1fdf35349a589b3ef04eb107c651bc28c99fd146211337c6455a58c1e08880\
//!     c106ed33377ff82581813677094d34f2ff01c6a9acbf3eed164b14411411150";
//! let identity: SecretIdentity = text.parse().unwrap();
//! let start = Now::at_ms(1_700_000_000_000);
//! let mut node = Node::new(start, Arc::new(identity), Settings::default(), [7; 32]);
//! node.restore_planet(start, DEFAULT_PLANET).unwrap();
//! let local = "192.0.2.7:9993".parse().unwrap();
//! node.add_socket(start, Socket { id: LocalSocketId(1), local, link: "eth0".into(), port: Port::Primary });
//!
//! let mut now = start;
//! let mut hellos = 0;
//! for _ in 0..20 {
//!     node.handle_timeout(now);
//!     while let Some(output) = node.poll_output() {
//!         match output {
//!             Output::Send { remote, datagram, .. } => {
//!                 assert_eq!(datagram.len(), if remote.is_ipv4() { 137 } else { 149 });
//!                 hellos += 1;
//!             }
//!             Output::Prove { ticket, identity } => node.handle_proof(now, ticket, identity.validate()),
//!             _ => {}
//!         }
//!     }
//!     let due = node.poll_timeout().unwrap().max(now.ms());
//!     now = now.after(std::time::Duration::from_millis(due - now.ms()));
//! }
//! assert!(hellos >= 4); // the four public roots were greeted
//! ```

mod around;
mod bonds;
mod cache;
mod counters;
mod dispatch;
mod expect;
mod filters;
mod follow;
mod gate;
mod gates;
mod hello;
mod io;
mod keepalive;
mod lanes;
mod latency;
mod learn;
pub mod limits;
mod members;
mod narrow;
mod pact;
mod path;
mod peer;
mod plan;
mod ports;
mod proof;
mod push;
mod qos;
mod receive;
mod relay;
mod rendezvous;
mod replies;
mod roots;
mod send;
mod settings;
mod spread;
mod status;
mod surface;
mod targets;
mod timers;
mod upstream;
mod waiting;
mod warm;
mod watch;
mod whois;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::fragment::Reassembler;
use wire::{Address, Now, Prefix, SecretIdentity};

pub use bonds::{BondError, PathTest};
pub use counters::{Counters, Gauges};
pub use io::{
    Activity, Arrival, Bonding, Event, LatencyStatus, LocalSocketId, Mapping, NatStatus, Output, PathStatus,
    PeerStatus, PlanChange, Port, Receipt, Relayed, RestoreError, Route, Socket, StateKey,
};
pub use network::Networks;
pub use settings::{PhysicalNetwork, Settings, WarmUp};

use path::Path;

/// One ZeroTier node. The contract is at the top of this crate.
pub struct Node {
    own: Arc<SecretIdentity>,
    settings: Settings,
    rng: StdRng,
    /// Which of an upstream's endpoints is greeted next: at first any, then one after the other.
    endpoint_turn: usize,
    sockets: BTreeMap<LocalSocketId, Socket>,
    /// Where routers let others reach our sockets.
    mapped: BTreeMap<LocalSocketId, SocketAddr>,
    /// Addresses and prefixes of our own overlay interfaces: never the way to a peer.
    overlay: Vec<Prefix>,
    peers: peer::Peers,
    cache: cache::Cache,
    roots: roots::Roots,
    gates: gates::Gates,
    expectations: expect::Expectations,
    whois: whois::Whois,
    waiting: waiting::Waiting,
    queue: waiting::Queue,
    reassembler: Reassembler<Path>,
    surfaces: surface::Surfaces,
    targets: targets::Targets,
    /// Counts the states of the addresses at which we can be reached.
    surface_generation: u64,
    proofs: proof::Proofs,
    introductions: relay::Introductions,
    rendezvous: rendezvous::Rendezvous,
    spreads: spread::Spreads,
    watched: BTreeSet<Address>,
    /// Paths over which the kernel would not send since they were last looked at.
    refused: BTreeSet<Path>,
    warming: warm::Warming,
    networks: Networks,
    authorised: members::Authorised,
    lanes: lanes::Lanes,
    reports: qos::Reports,
    pacts: pact::Pacts,
    bonds: bonds::Bonds,
    path_test: Option<PathTest>,
    plan: plan::Plan,
    narrowed: narrow::Narrowed,
    timers: timers::Timers,
    counters: Counters,
    outputs: VecDeque<Output>,
    online: bool,
    /// The identity collided with another one and is not used any more.
    halted: bool,
}

impl Node {
    /// A node with this identity, no world, no sockets. `seed` must be unpredictable to others.
    pub fn new(now: Now, own: Arc<SecretIdentity>, settings: Settings, seed: [u8; 32]) -> Node {
        let mut rng = StdRng::from_seed(seed);
        let endpoint_turn = rng.next_u32() as usize;
        let reassembler = Reassembler::new(rng.next_u64());
        Node {
            bonds: bonds::Bonds::new(settings.bonding.in_use()),
            path_test: None,
            settings,
            sockets: BTreeMap::new(),
            mapped: BTreeMap::new(),
            overlay: Vec::new(),
            peers: peer::Peers::default(),
            cache: cache::Cache::default(),
            roots: roots::Roots::new(own.address()),
            gates: gates::Gates::default(),
            expectations: expect::Expectations::default(),
            whois: whois::Whois::default(),
            waiting: waiting::Waiting::default(),
            queue: waiting::Queue::default(),
            reassembler,
            surfaces: surface::Surfaces::default(),
            targets: targets::Targets::default(),
            surface_generation: 0,
            proofs: proof::Proofs::default(),
            introductions: relay::Introductions::default(),
            rendezvous: rendezvous::Rendezvous::default(),
            spreads: spread::Spreads::default(),
            watched: BTreeSet::new(),
            refused: BTreeSet::new(),
            warming: warm::Warming::new(),
            networks: Networks::new(),
            authorised: members::Authorised::default(),
            lanes: lanes::Lanes::default(),
            reports: qos::Reports::default(),
            pacts: pact::Pacts::default(),
            plan: plan::Plan::default(),
            narrowed: narrow::Narrowed::default(),
            timers: timers::Timers::new(now),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            online: false,
            halted: false,
            own,
            rng,
            endpoint_turn,
        }
    }

    /// Our address.
    pub fn address(&self) -> Address {
        self.own.address()
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Node::handle_timeout`] at the latest, in milliseconds of the monotonic clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        let ping = (!self.sockets.is_empty()).then_some(self.timers.next_ping_ms);
        let watch = (!self.watched.is_empty()).then_some(self.timers.next_watch_ms);
        let probe = self.rendezvous.next_probe_ms();
        let spread = self.spreads.next_ms();
        let sometimes = [ping, watch, probe, spread, self.next_warm_ms(), self.reports.next_ms()];
        let bonding = [self.bonds.next_ms(), self.pacts.next_ms(), self.next_path_test_ms()];
        let sometimes = sometimes.into_iter().chain(bonding).flatten();
        sometimes.chain([self.timers.next_tick_ms, self.networks.poll_timeout()]).min()
    }

    /// What happened and what was dropped since the start.
    pub fn counters(&self) -> Counters {
        let parts = self.reassembler.counters();
        Counters {
            dropped_fragment: parts.malformed + parts.disagreeing + parts.oversized + parts.expired + parts.evicted,
            expected_full: self.expectations.evicted,
            gates_full: self.gates.full,
            path_gates_evicted: self.gates.evicted,
            ..self.counters.clone()
        }
    }

    /// How full the bounded tables are.
    pub fn gauges(&self) -> Gauges {
        let [path_gates, identity_prefixes, error_gates] = self.gates.sizes();
        let [rendezvous_held, timed_probes, rendezvous_peers] = self.rendezvous.sizes();
        let [spread_peers, spread_sockets] = self.spreads.sizes();
        let [bonded_peers, reported_paths] = self.reports.sizes();
        let [bonds, bond_paths] = self.bonds.sizes();
        let [pacts, receipt_paths] = self.pacts.sizes();
        Gauges {
            peers: self.peers.len(),
            cached_peers: self.cache.len(),
            expected_replies: self.expectations.len(),
            whois_pending: self.whois.len(),
            waiting_packets: self.waiting.len(),
            waiting_bytes: self.waiting.bytes(),
            queued_packets: self.queue.len(),
            queued_bytes: self.queue.bytes(),
            reassembly_sets: self.reassembler.sets(),
            reassembly_bytes: self.reassembler.bytes(),
            surfaces: self.surfaces.len(),
            targets: self.targets.len(),
            proofs: self.proofs.len(),
            introduced_pairs: self.introductions.len(),
            rendezvous_held,
            timed_probes,
            rendezvous_peers,
            spread_peers,
            spread_sockets,
            path_gates,
            identity_prefixes,
            error_gates,
            watched: self.watched.len(),
            warming: self.warming.len(),
            lost_paths: self.timers.lost_paths.len(),
            authorised: self.authorised.len(),
            lane_peers: self.lanes.peers(),
            bonded_peers,
            reported_paths,
            pacts,
            receipt_paths,
            bonds,
            bond_paths,
        }
    }

    /// The virtual networks and what is known of them.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// An upstream hears us, or we are one ourselves.
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// We are a root of the planet or a moon.
    pub fn is_upstream(&self) -> bool {
        self.roots.is_upstream()
    }

    /// Changes the operator's settings. Learned paths stay, as in ZeroTierOne.
    pub fn set_settings(&mut self, now: Now, settings: Settings) {
        self.settings = settings;
        self.bonds_configured(now);
        self.pacts_configured(now);
        self.plan_all(now);
    }

    /// Tells the prefixes configured on our overlay interfaces, so that no peer is ever reached through the overlay.
    pub fn set_overlay_prefixes(&mut self, prefixes: Vec<Prefix>) {
        self.overlay = prefixes;
    }

    fn random_id(&mut self) -> u64 {
        // Zero stands for "no packet" in the table of expected replies.
        self.rng.next_u64().max(1)
    }

    /// Uniform in `0..n`, or 0 if `n` is.
    fn random_below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.rng.next_u64() % n }
    }

    /// Hands out one thing to do. What the tables count as told or asked must not be lost, and they bound it; the rest is
    /// as lossy as a network.
    fn output(&mut self, output: Output) {
        use Output::*;
        let kept = matches!(
            output,
            Plan(_) | NetworkChanged(_) | Prove { .. } | OpenSockets { .. } | AdoptSocket { .. } | CloseSocket(_)
        );
        if !kept && self.outputs.len() >= limits::OUTPUTS_MAX {
            self.counters.outputs_full += 1;
            return;
        }
        self.outputs.push_back(output);
    }

    fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::NetworkId;

    pub(crate) fn node() -> Node {
        let key = zeroize::Zeroizing::new([1; 64]);
        let own = SecretIdentity::from_parts(Address::from_u64(0x10_0000_0001), key);
        Node::new(Now::at_ms(1000), Arc::new(own), Settings::default(), [1; 32])
    }

    #[test]
    fn outputs_nobody_drains_are_bounded_but_what_the_shards_must_hear_is_kept() {
        let (mut node, now) = (node(), Now::at_ms(1000));
        let (network, member) = (NetworkId(7), Address::from_u64(2));
        for _ in 0..limits::OUTPUTS_MAX + 10 {
            node.emit(None, "192.0.2.1:1".parse().unwrap(), None, vec![0]);
        }
        assert_eq!((node.outputs.len(), node.counters.outputs_full), (limits::OUTPUTS_MAX, 10));
        node.event(Event::Online);
        assert_eq!((node.outputs.len(), node.counters.outputs_full), (limits::OUTPUTS_MAX, 11));
        node.plan_member(now, network, member, false);
        let last = node.outputs.back();
        assert!(matches!(last, Some(Output::Plan(PlanChange::Member { allowed: false, .. }))), "{last:?}");
    }
}
