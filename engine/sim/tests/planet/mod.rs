//! A planet with many nodes on it, and what one of them costs: bytes counted by the allocator, packets by the node, time
//! by a clock that the caller brings. Who includes this must install [`Counting`] as the global allocator.
#![allow(dead_code, reason = "the test has no clock")]
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one counts and forwards to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use node::{Activity, LocalSocketId, Node, Settings};
use sim::{HostId, World, ethernet, identity, planet};
use wire::{Address, Mac, NetworkId};

/// Everybody is a member of it, and its configuration is made on the spot.
const OPEN_NETWORK: NetworkId = NetworkId(0xff00_00ff_ff00_0000);
const ROOT: &str = "44.0.0.1:9993";
const GATEWAY: &str = "44.0.1.1:9993";
/// Shards report this often what frames went where.
const REPORTS_PER_S: u64 = 10;
/// Newcomers a second; a root takes twenty.
const NEWCOMERS_PER_S: usize = 18;

static LIVE: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, and how many bytes it has handed out.
pub struct Counting;

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What one node did in a while.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub peers: usize,
    pub seconds: u64,
    pub sent: u64,
    pub received: u64,
    pub spent: Duration,
    pub longest: Duration,
}

impl Cost {
    fn per_peer(&self, packets: u64, per_s: u64) -> f64 {
        (packets * per_s) as f64 / (self.peers as u64 * self.seconds) as f64
    }

    /// Packets to one peer in a minute.
    pub fn sent_per_peer_min(&self) -> f64 {
        self.per_peer(self.sent, 60)
    }

    /// Packets from one peer in a minute.
    pub fn received_per_peer_min(&self) -> f64 {
        self.per_peer(self.received, 60)
    }

    /// Time for one peer in a second, microseconds.
    pub fn us_per_peer_s(&self) -> f64 {
        self.spent.as_secs_f64() * 1e6 / (self.peers as u64 * self.seconds) as f64
    }
}

/// A root, perhaps a gateway, and leaves, all on the internet and each in a network of its own.
pub struct Crowd {
    pub world: World,
    pub root: HostId,
    pub gateway: Option<HostId>,
    pub leaves: Vec<HostId>,
    planet: Vec<u8>,
}

fn at(n: usize) -> String {
    format!("{}.{}.{}.1:9993", 60 + n / 62_500, n / 250 % 250, n % 250)
}

fn address(n: usize) -> Address {
    identity(100 + n as u64).address()
}

impl Crowd {
    /// A root and so many leaves; `gateway`: and a gateway with whom every leaf talks.
    pub fn new(leaves: usize, gateway: bool) -> Crowd {
        let mut world = World::new(1);
        let own = identity(1);
        let planet = planet(&[(own.public(), vec![ROOT.parse().unwrap_or_else(|_| unreachable!())])]).to_bytes();
        let root = world.add_host(own, Settings::default(), &[ROOT]);
        let mut crowd = Crowd { world, root, gateway: None, leaves: Vec::new(), planet };
        crowd.settle(root);
        if gateway {
            crowd.gateway = Some(crowd.add(identity(2), GATEWAY));
        }
        crowd.world.run_ms(3000);
        while crowd.leaves.len() < leaves {
            let from = crowd.leaves.len();
            for n in from..leaves.min(from + NEWCOMERS_PER_S) {
                let leaf = crowd.add(identity(100 + n as u64), &at(n));
                crowd.leaves.push(leaf);
            }
            crowd.world.run_ms(500);
            // Who came a second ago has met the root by now.
            crowd.talk(from.saturating_sub(NEWCOMERS_PER_S)..from);
            crowd.world.run_ms(500);
        }
        crowd.world.run_ms(1000);
        crowd.talk(leaves.saturating_sub(2 * NEWCOMERS_PER_S)..leaves);
        crowd.world.run_ms(30_000);
        crowd.talk(0..leaves);
        crowd.world.run_ms(10_000);
        crowd
    }

    fn settle(&mut self, host: HostId) {
        let planet = self.planet.clone();
        self.world.with(host, |node, now| node.restore_planet(now, &planet).expect("a planet"));
    }

    fn add(&mut self, own: Arc<wire::SecretIdentity>, at: &str) -> HostId {
        let host = self.world.add_host(own, Settings::default(), &[at]);
        self.settle(host);
        self.world.with(host, |node, now| node.join(now, OPEN_NETWORK, None));
        host
    }

    /// Each of these leaves and the gateway send each other a frame.
    pub fn talk(&mut self, leaves: std::ops::Range<usize>) {
        let Some(gateway) = self.gateway else { return };
        let own = identity(2).address();
        for n in leaves {
            let leaf = self.leaves[n];
            self.world.tap(leaf, OPEN_NETWORK, &frame(own, address(n)));
            self.world.tap(gateway, OPEN_NETWORK, &frame(address(n), own));
            self.world.host_mut(leaf).delivered.clear();
            self.world.host_mut(leaf).plan.clear();
        }
        self.world.host_mut(gateway).delivered.clear();
    }

    /// Leaves with whom `host` has a path.
    pub fn direct(&self, host: HostId) -> usize {
        let peers = self.world.host(host).node.peers(self.world.now());
        let leaf = |a: Address| a != identity(1).address() && a != identity(2).address();
        peers.iter().filter(|p| leaf(p.address) && p.paths.iter().any(|path| path.preferred && path.alive)).count()
    }

    /// Runs for so long and counts what `host` does. `busy`: its shards report frames both ways with every leaf, ten
    /// times a second.
    pub fn cost(&mut self, host: HostId, seconds: u64, busy: bool, clock: fn() -> Duration) -> Cost {
        let peers = self.leaves.len();
        let counted = |w: &World| {
            let counters = w.host(host).node.counters();
            (counters.sent_datagrams, counters.received_datagrams)
        };
        let before = counted(&self.world);
        self.world.set_meter(host, clock);
        for _ in 0..seconds * REPORTS_PER_S {
            if busy {
                let socket = *self.world.host(host).sockets.keys().next().unwrap_or(&LocalSocketId(0));
                let activity = |n: usize| Activity {
                    peer: address(n),
                    socket,
                    remote: at(n).parse().unwrap_or_else(|_| unreachable!()),
                    hops0: true,
                    nontrivial: true,
                    rx_packets: 100,
                    tx_packets: 100,
                    rx_bytes: 100_000,
                    tx_bytes: 100_000,
                };
                let activities: Vec<Activity> = (0..peers).map(activity).collect();
                self.world.with(host, |node, now| node.handle_activity(now, &activities));
            }
            self.world.run_ms(1000 / REPORTS_PER_S);
        }
        let (spent, longest) = self.world.metered();
        let after = counted(&self.world);
        Cost { peers, seconds, sent: after.0 - before.0, received: after.1 - before.1, spent, longest }
    }

    /// Bytes that the node of `host` holds; it is gone afterwards.
    pub fn bytes(&mut self, host: HostId) -> usize {
        let now = self.world.now();
        let kept = self.world.host_mut(host);
        (kept.plan, kept.events, kept.delivered, kept.stored) = Default::default();
        let other = Node::new(now, identity(3), Settings::default(), [0; 32]);
        let before = LIVE.load(Ordering::Relaxed);
        let node = std::mem::replace(&mut self.world.host_mut(host).node, other);
        drop(node);
        (before - LIVE.load(Ordering::Relaxed)) as usize
    }
}

/// An IPv6 packet of UDP from one node to another.
fn frame(to: Address, from: Address) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend_from_slice(&[0xfd; 32]);
    packet.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4]);
    ethernet(Mac::of_member(OPEN_NETWORK, to), Mac::of_member(OPEN_NETWORK, from), 0x86dd, &packet)
}
