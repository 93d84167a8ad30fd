//! What a shard knows of peers and networks, as the control plane told it. Read on every packet, changed only between
//! batches, shared with nobody. It must never know why somebody is a member or where a route comes from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use network::{Policy, Standing};
use wire::keys::Keys;
use wire::message::Features;
use wire::packet::Suite;
use wire::{Address, Mac, NetworkId, Now};

use crate::activity::{Ledger, Report};
use crate::bonded::{Bonded, Bonds};
use crate::filter::Rules;
use crate::reorder::Heard;
use crate::{Counters, ETHERNET_HEADER_LEN, Path, SocketId};

/// Peers a shard knows. More are refused: their packets go to the control plane. // spec: paths, "Hardening bounds", peers
pub const PEERS_MAX: usize = 65_536;
/// Networks a shard knows. More are refused.
pub const NETWORKS_MAX: usize = 1024;
/// Members of one network that a shard knows. More are refused.
pub const MEMBERS_MAX: usize = PEERS_MAX;

/// Where frames to a peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// From this socket.
    pub socket: SocketId,
    /// To this endpoint: the peer's own, or that of the root that relays.
    pub remote: SocketAddr,
    /// UDP payload bytes per datagram.
    pub mtu: u16,
}

/// How frames to a peer that we bond with are spread, by our routes.
pub type Bonding = bond::Routed<Route>;

/// A change of what a shard knows.
#[derive(Clone)]
pub enum Update {
    /// A peer; replaces what was known of it.
    Peer {
        /// The peer.
        address: Address,
        /// Its keys.
        keys: Arc<Keys>,
        /// The suite for frames to it.
        suite: Suite,
        /// Where frames to it go; none: to the control plane.
        route: Option<Route>,
        /// It bonds: [`crate::Report::arrivals`] tells which of its packets came.
        bonded: bool,
    },
    /// Forget a peer.
    PeerGone(Address),
    /// How frames to a peer that we bond with are spread; none: we do not. The peer must be known.
    Bond {
        /// The peer.
        address: Address,
        /// Plan and routes.
        bond: Option<Arc<Bonding>>,
    },
    /// A peer acknowledged a frame that some shard sent.
    Acked {
        /// The peer.
        address: Address,
        /// The frame's ID.
        packet_id: u64,
        /// The socket to which the acknowledgement came.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// When the acknowledgement came, us.
        at_us: u64,
    },
    /// What we do for a peer, as agreed: at first nothing. The peer must be known.
    Given {
        /// The peer.
        address: Address,
        /// Marks are taken off its frames and obeyed; [`crate::Report::receipts`] tells what came.
        given: Features,
    },
    /// A network; replaces what was known of it, but for its members.
    Network {
        /// The network.
        id: NetworkId,
        /// Our MAC on it.
        mac: Mac,
        /// Largest payload of a frame, bytes.
        mtu: u16,
        /// Its rules accept every IP frame.
        fast: bool,
    },
    /// Forget a network and its members.
    NetworkGone(NetworkId),
    /// Whether frames may pass between us and this member. Its network must be known.
    Member {
        /// The network.
        network: NetworkId,
        /// The member.
        address: Address,
        /// They may.
        allowed: bool,
    },
    /// The rules of a network that is not fast; none: its frames go to the control plane.
    Policy {
        /// The network. It must be known.
        network: NetworkId,
        /// Our side of them.
        policy: Option<Arc<Policy>>,
    },
    /// What a member may claim under the rules. Until it is known, frames to and from the member go to the control plane,
    /// unless the network is fast.
    Standing {
        /// The network.
        network: NetworkId,
        /// The member. It must be allowed.
        address: Address,
        /// What it may claim.
        standing: Arc<Standing>,
    },
    /// Whether the MSS of TCP connections is lowered until a full segment fits one datagram. At first it is not.
    ClampMss(bool),
    /// Whether datagrams for other nodes go to the control plane, which relays them. At first they do not.
    Relay(bool),
    /// Whether TCP segments of a peer that is heard over several paths are put in order. At first they are.
    Resequence(bool),
}

pub(crate) struct Tables {
    pub(crate) peers: HashMap<Address, Peer, FixedState>,
    pub(crate) networks: HashMap<NetworkId, Network, FixedState>,
    /// Peers with something in their ledger.
    pub(crate) active: Vec<Address>,
    /// Peers of whom something came that they want to be told.
    pub(crate) told: Vec<Address>,
    pub(crate) clamp_mss: bool,
    pub(crate) relay: bool,
    pub(crate) bonds: Bonds,
    hasher: FixedState,
}

pub(crate) struct Peer {
    pub(crate) keys: Arc<Keys>,
    pub(crate) suite: Suite,
    pub(crate) route: Option<Route>,
    /// What we do for it.
    pub(crate) given: Features,
    pub(crate) bond: Option<Box<Bonded>>,
    pub(crate) heard: Heard,
    pub(crate) ledger: Ledger,
}

pub(crate) struct Network {
    pub(crate) mac: Mac,
    pub(crate) mtu: u16,
    fast: bool,
    policy: Option<Arc<Policy>>,
    members: HashMap<Address, Option<Arc<Standing>>, FixedState>,
}

/// Where a frame from our TAP goes and how.
pub(crate) struct Way<'t> {
    pub(crate) to: Address,
    pub(crate) ethertype: u16,
    /// Largest payload of a frame, bytes.
    pub(crate) mtu: usize,
    pub(crate) rules: Rules<'t>,
    pub(crate) peer: &'t mut Peer,
    pub(crate) route: Route,
    pub(crate) active: &'t mut Vec<Address>,
    pub(crate) bonds: &'t mut Bonds,
}

impl Peer {
    /// A route of the bond, for a peer that has none of its own.
    #[cold]
    fn bond_route(&self) -> Option<Route> {
        self.bond.as_ref()?.any_route()
    }

    /// The fewest bytes that a datagram to it may have.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.bond.as_ref().and_then(|bond| bond.mtu()).or(Some(self.route?.mtu))
    }

    /// Whether it bonds, as its timing reports or what we agreed on with it say.
    pub(crate) fn bonds(&self) -> bool {
        self.ledger.is_bonded() || !self.given.is_none()
    }

    /// The ledger of this peer, which is `address`, to write a line into.
    pub(crate) fn ledger(&mut self, address: Address, active: &mut Vec<Address>) -> &mut Ledger {
        if self.ledger.is_empty() {
            active.push(address);
        }
        &mut self.ledger
    }
}

impl Network {
    /// Frames may pass between us and this member.
    pub(crate) fn admits(&self, member: Address) -> bool {
        self.members.contains_key(&member)
    }

    /// The rules for frames between us and `member`, if it may be talked to and a shard may judge them.
    pub(crate) fn rules(&self, member: Address, ethertype: u16) -> Option<Rules<'_>> {
        const IPV4: u16 = 0x0800;
        const ARP: u16 = 0x0806;
        const IPV6: u16 = 0x86dd;
        let standing = self.members.get(&member)?;
        if self.fast {
            return matches!(ethertype, IPV4 | ARP | IPV6).then_some(Rules::AcceptAll);
        }
        Some(Rules::Tables(self.policy.as_deref()?, standing.as_deref()?))
    }
}

impl Tables {
    /// `seed` keeps remotes from choosing addresses that collide in our tables.
    pub(crate) fn new(seed: u64) -> Tables {
        let hasher = FixedState::with_seed(seed);
        Tables {
            peers: HashMap::with_hasher(hasher.clone()),
            networks: HashMap::with_hasher(hasher.clone()),
            active: Vec::new(),
            told: Vec::new(),
            clamp_mss: false,
            relay: false,
            bonds: Bonds::default(),
            hasher,
        }
    }

    /// `now_us`: when the shard was last told the time.
    pub(crate) fn apply(&mut self, now_us: u64, update: Update, counters: &mut Counters) {
        let (peers_full, networks_full) = (self.peers.len() == PEERS_MAX, self.networks.len() == NETWORKS_MAX);
        match update {
            Update::Peer { address, keys, suite, route, bonded } => match self.peers.get_mut(&address) {
                Some(peer) => {
                    (peer.keys, peer.suite, peer.route) = (keys, suite, route);
                    peer.ledger.set_bonded(bonded);
                }
                None if peers_full => counters.peers_full += 1,
                None => {
                    let mut ledger = Ledger::default();
                    ledger.set_bonded(bonded);
                    self.peers.insert(
                        address,
                        Peer { keys, suite, route, bond: None, given: Features::NONE, heard: Heard::default(), ledger },
                    );
                }
            },
            Update::Given { address, given } => {
                if let Some(peer) = self.peers.get_mut(&address) {
                    peer.given = given;
                    peer.ledger.set_reported(given.has(Features::REPORTS));
                }
            }
            Update::PeerGone(address) => {
                if let Some(mut bond) = self.peers.remove(&address).and_then(|peer| peer.bond) {
                    bond.discard(&mut self.bonds.pool, counters);
                }
                self.active.retain(|&active| active != address);
                self.told.retain(|&told| told != address);
                self.bonds.forget(address);
            }
            Update::Bond { address, bond } => {
                let Some(peer) = self.peers.get_mut(&address) else { return };
                match (&mut peer.bond, bond) {
                    (Some(bonded), Some(bond)) => bonded.adopt(now_us, bond),
                    (Some(bonded), None) => bonded.end(),
                    (None, Some(bond)) => peer.bond = Some(Box::new(Bonded::new(now_us, bond))),
                    (None, None) => {}
                }
                if let Some(bonded) = &mut peer.bond {
                    bonded.enlist(address, &mut self.bonds);
                }
            }
            Update::Acked { address, packet_id, socket, remote, at_us } => {
                if let Some(bonded) = self.peers.get_mut(&address).and_then(|peer| peer.bond.as_deref_mut())
                    && bonded.acked(at_us, packet_id, Path { socket, remote }, counters)
                {
                    bonded.enlist(address, &mut self.bonds);
                }
            }
            Update::Network { id, mac, mtu, fast } => match self.networks.get_mut(&id) {
                Some(network) => (network.mac, network.mtu, network.fast) = (mac, mtu, fast),
                None if networks_full => counters.networks_full += 1,
                None => {
                    let members = HashMap::with_hasher(self.hasher.clone());
                    self.networks.insert(id, Network { mac, mtu, fast, policy: None, members });
                }
            },
            Update::NetworkGone(id) => {
                self.networks.remove(&id);
            }
            Update::Member { network, address, allowed } => match self.networks.get_mut(&network) {
                Some(network) if !allowed => {
                    network.members.remove(&address);
                }
                Some(network) if network.members.len() < MEMBERS_MAX || network.members.contains_key(&address) => {
                    network.members.entry(address).or_default();
                }
                _ => counters.members_full += u64::from(allowed),
            },
            Update::Policy { network, policy } => {
                if let Some(network) = self.networks.get_mut(&network) {
                    network.policy = policy;
                }
            }
            Update::Standing { network, address, standing } => {
                if let Some(member) = self.networks.get_mut(&network).and_then(|n| n.members.get_mut(&address)) {
                    *member = Some(standing);
                }
            }
            Update::ClampMss(on) => self.clamp_mss = on,
            Update::Relay(on) => self.relay = on,
            Update::Resequence(_) => {}
        }
    }

    /// The way of a frame with this Ethernet header from our TAP, if a shard may send it: unicast from ourselves to an
    /// allowed member with a route. Multicast, bridged frames and frames to ourselves are not of that kind.
    #[inline(always)] // what it finds is large, and used at once
    pub(crate) fn way(&mut self, id: NetworkId, ethernet: &[u8; ETHERNET_HEADER_LEN]) -> Option<Way<'_>> {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, e0, e1] = *ethernet;
        let ethertype = u16::from_be_bytes([e0, e1]);
        let network = self.networks.get(&id)?;
        if network.mac != Mac([s0, s1, s2, s3, s4, s5]) {
            return None;
        }
        // spec: networks, "MAC of a member"
        let to = Mac([d0, d1, d2, d3, d4, d5]).member(id)?;
        let rules = network.rules(to, ethertype)?;
        let peer = self.peers.get_mut(&to)?;
        if !matches!(peer.suite, Suite::Salsa2012Poly1305 | Suite::AesGmacSiv) {
            return None;
        }
        let route = match peer.route {
            Some(route) => route,
            None => peer.bond_route()?,
        };
        let (active, bonds) = (&mut self.active, &mut self.bonds);
        Some(Way { to, ethertype, mtu: network.mtu.into(), rules, peer, route, active, bonds })
    }

    /// Appends what the ledgers hold and empties them.
    pub(crate) fn report(&mut self, now: Now, report: &mut Report) {
        self.told.clear();
        for address in self.active.drain(..) {
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.ledger.drain(now, address, report);
            }
        }
    }
}
