//! A root with the real controller beside it, and leaves on one private network of that controller. Where they sit is for
//! the test to say; what must never be in here is a judgement of how it went.
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use controller::{Controller, MemoryStorage, Output, Request};
use node::Settings;
use serde_json::json;
use wire::{Address, Identity, Mac, NetworkId, Now, SecretIdentity, Verb};

use crate::{Beside, HostId, Realm, Stack, World, identity, planet};

/// Underlay address of the root.
pub const ROOT: &str = "44.0.0.1:9993";

type Shared = Rc<RefCell<Controller<MemoryStorage>>>;

/// The controller as the gateway would put it beside a node.
struct Glue(Shared);

impl Beside for Glue {
    fn request(
        &mut self,
        now: Now,
        network: NetworkId,
        member: Arc<Identity>,
        packet_id: u64,
        metadata: Vec<u8>,
        physical: Option<SocketAddr>,
    ) {
        self.0.borrow_mut().handle_request(now, Request { network, member, packet_id, metadata, physical });
    }

    fn poll(&mut self) -> Option<(Address, Verb, Vec<u8>)> {
        loop {
            return Some(match self.0.borrow_mut().poll_output()? {
                Output::Reply { to, verb, payload, .. } => (to, verb, payload),
                Output::Push { to, payload } => (to, Verb::NetworkConfig, payload),
                Output::Revoke { to, payload } => (to, Verb::NetworkCredentials, payload),
                Output::Event(_) => continue,
            });
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        self.0.borrow().poll_timeout()
    }

    fn timeout(&mut self, now: Now) {
        self.0.borrow_mut().handle_timeout(now);
    }
}

/// The world, and who is who in it.
pub struct Lab {
    /// Everything happens in it.
    pub world: World,
    /// Root and controller.
    pub root: HostId,
    /// Members, in the order in which they were placed.
    pub leaves: Vec<HostId>,
    /// The network; 0 where there is none.
    pub network: NetworkId,
    identities: Vec<Arc<SecretIdentity>>,
    controller: Option<Shared>,
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Underlay address of leaf `n`.
pub fn at(n: usize) -> String {
    format!("44.0.{}.1:9993", n + 1)
}

/// A root, and `n` leaves that know its planet, on the internet.
pub fn planet_of(seed: u64, leaves: usize) -> Lab {
    planet_with(seed, leaves, |_, n| (Realm::INTERNET, at(n)))
}

/// The same, but each leaf sits in the network and has the address that `place` says.
fn planet_with(seed: u64, leaves: usize, place: impl Fn(&mut World, usize) -> (Realm, String)) -> Lab {
    let mut world = World::new(seed);
    let root_identity = identity(1);
    let bytes = planet(&[(root_identity.public(), vec![ROOT.parse().unwrap()])]).to_bytes();
    let settings = Settings { controller: true, ..Settings::default() };
    let root = world.add_host(root_identity.clone(), settings, &[ROOT]);
    world.with(root, |node, now| node.restore_planet(now, &bytes)).unwrap();
    let mut lab =
        Lab { world, root, leaves: Vec::new(), network: NetworkId(0), identities: Vec::new(), controller: None };
    for n in 0..leaves {
        let own = identity(10 + n as u64);
        let (realm, address) = place(&mut lab.world, n);
        let leaf = lab.world.add_host_in(realm, own.clone(), Settings::default(), &[&address]);
        lab.world.with(leaf, |node, now| node.restore_planet(now, &bytes)).unwrap();
        lab.leaves.push(leaf);
        lab.identities.push(own);
    }
    lab
}

/// The same with a private network 10.77.0.0/24 of which every leaf is a member; nobody has joined yet.
pub fn network_of(seed: u64, leaves: usize) -> Lab {
    network_with(seed, leaves, |_, n| (Realm::INTERNET, at(n)))
}

/// The same, but each leaf sits in the network and has the address that `place` says.
pub fn network_with(seed: u64, leaves: usize, place: impl Fn(&mut World, usize) -> (Realm, String)) -> Lab {
    let mut lab = planet_with(seed, leaves, place);
    let now = lab.world.now();
    let mut controller = Controller::new(identity(1), MemoryStorage::default(), seed, now);
    let body = json!({
        "name": "lab", "private": true, "v4AssignMode": { "zt": true },
        "ipAssignmentPools": [{ "ipRangeStart": "10.77.0.1", "ipRangeEnd": "10.77.0.99" }],
        "routes": [{ "target": "10.77.0.0/24" }],
    });
    let (network, _) = controller.create_network(now, &body).unwrap();
    for own in &lab.identities {
        controller.update_member(now, network, own.address(), &json!({ "authorized": true })).unwrap();
    }
    lab.network = network;
    let controller = Rc::new(RefCell::new(controller));
    lab.world.put_beside(lab.root, Box::new(Glue(controller.clone())));
    lab.controller = Some(controller);
    lab
}

impl Lab {
    /// ZeroTier address of a leaf.
    pub fn address(&self, leaf: usize) -> Address {
        self.identities[leaf].address()
    }

    /// The operator changes a member's record.
    pub fn update_member(&mut self, leaf: usize, change: serde_json::Value) {
        let (now, controller) = (self.world.now(), self.controller.clone().unwrap());
        controller.borrow_mut().update_member(now, self.network, self.address(leaf), &change).unwrap();
        self.world.with(self.root, |_, _| ());
    }

    /// The root joins the network that it controls itself, as one more leaf.
    pub fn root_joins(&mut self) {
        let change = json!({ "authorized": true });
        let now = self.world.now();
        let controller = self.controller.clone().unwrap();
        controller.borrow_mut().update_member(now, self.network, identity(1).address(), &change).unwrap();
        self.leaves.push(self.root);
        self.identities.push(identity(1));
    }

    /// Everybody joins; runs until all have addresses. Panics if that takes longer than `limit_ms`.
    pub fn join_all(&mut self, limit_ms: u64) {
        let network = self.network;
        for &leaf in &self.leaves {
            self.world.with(leaf, |node, now| node.join(now, network, None));
        }
        let leaves = self.leaves.clone();
        let joined = self.world.run_until(limit_ms, |w| {
            leaves.iter().all(|&leaf| {
                let network = w.host(leaf).node.networks().get(network).and_then(|n| n.config());
                network.is_some_and(|c| !c.addresses.is_empty())
            })
        });
        assert!(joined, "not everybody joined within {limit_ms} ms");
        for n in 0..self.leaves.len() {
            self.bring_up(n);
        }
    }

    /// Sets the leaf's stack up with the address it was given.
    fn bring_up(&mut self, leaf: usize) {
        let (host, network, own) = (self.leaves[leaf], self.network, self.address(leaf));
        let config = self.world.host(host).node.networks().get(network).and_then(|n| n.config()).unwrap();
        let IpAddr::V4(ip) = config.addresses[0].addr else { panic!("an IPv4 address") };
        self.world.host_mut(host).stack = Some(Stack { mac: Mac::of_member(network, own), ip });
        let group = wire::MulticastGroup::for_resolving(ip.into());
        self.world.with(host, |node, now| node.set_subscriptions(now, network, vec![group]));
    }

    /// The host behind a leaf's TAP.
    pub fn stack(&self, leaf: usize) -> Stack {
        self.world.host(self.leaves[leaf]).stack.unwrap()
    }

    /// Resolves `to` by ARP from `from`'s stack, asking again every second, then pings it with `len` bytes.
    /// Milliseconds until the first pong.
    pub fn first_ping(&mut self, from: usize, to: usize, len: usize, limit_ms: u64) -> Option<u64> {
        let start = self.world.now().ms();
        let (asker, wanted) = (self.stack(from), self.stack(to));
        let (host, network) = (self.leaves[from], self.network);
        self.world.host_mut(host).delivered.clear();
        let mut resolved = None;
        for _ in 0..limit_ms.div_ceil(1000) {
            self.world.tap(host, network, &crate::arp_request(asker, wanted.ip));
            self.world.run_until(1000, |w| {
                resolved = w.host(host).delivered.iter().find_map(|(_, f)| asker.arp_answer(f, wanted.ip));
                resolved.is_some()
            });
            if resolved.is_some() {
                break;
            }
        }
        assert_eq!(resolved?, wanted.mac);
        for number in 1..=limit_ms.div_ceil(1000) as u16 {
            if self.ping(from, to, number, len, 1000).is_some() {
                return Some(self.world.now().ms() - start);
            }
        }
        None
    }

    /// One ping. Milliseconds until the pong.
    pub fn ping(&mut self, from: usize, to: usize, number: u16, len: usize, limit_ms: u64) -> Option<u64> {
        let (asker, wanted) = (self.stack(from), self.stack(to));
        let (host, network, start) = (self.leaves[from], self.network, self.world.now().ms());
        self.world.host_mut(host).delivered.clear();
        self.world.tap(host, network, &crate::icmp_echo(asker, wanted, number, len));
        let ponged = |w: &mut World| w.host(host).delivered.iter().any(|(_, f)| asker.pong(f) == Some(number));
        self.world.run_until(limit_ms, ponged).then(|| self.world.now().ms() - start)
    }

    /// `from` reaches `to` over a path of its own.
    pub fn direct(&self, from: usize, to: usize) -> bool {
        let now = self.world.now();
        let peers = self.world.host(self.leaves[from]).node.peers(now);
        peers.iter().any(|p| p.address == self.address(to) && p.paths.iter().any(|path| path.preferred && path.alive))
    }
}
