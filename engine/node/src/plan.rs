//! What the shards are told: which peers frames may go to and come from, by which route and suite, and on which
//! networks. Kept as it was last told, so that only changes go out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use wire::{Address, Keys, NetworkId, Now, Suite};

use crate::Node;
use crate::filters::Filter;
use crate::io::{LocalSocketId, Output, PlanChange, Route};

/// A peer as the shards know it.
#[derive(Clone)]
struct Planned {
    keys: Arc<Keys>,
    suite: Suite,
    route: Option<Route>,
    paths: Vec<(LocalSocketId, SocketAddr)>,
    lanes: Vec<(u16, LocalSocketId)>,
    bonded: bool,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
            && (self.suite, self.route, self.bonded) == (other.suite, other.route, other.bonded)
            && (&self.paths, &self.lanes) == (&other.paths, &other.lanes)
    }
}

/// What the shards were told last.
#[derive(Default)]
pub(crate) struct Plan {
    networks: BTreeMap<NetworkId, (u16, bool)>,
    /// Peers that pass the gate of at least one network.
    pub(crate) members: BTreeMap<Address, BTreeSet<NetworkId>>,
    peers: BTreeMap<Address, Planned>,
    pub(crate) filters: BTreeMap<NetworkId, Filter>,
}

impl Plan {
    /// The shards know this peer.
    pub(crate) fn has(&self, peer: Address) -> bool {
        self.peers.contains_key(&peer)
    }

    /// The networks whose gate `peer` passes.
    pub(crate) fn networks_of(&self, peer: Address) -> Vec<NetworkId> {
        self.members.get(&peer).into_iter().flatten().copied().collect()
    }
}

impl Node {
    /// Tells what became of a network, if that changed.
    pub(crate) fn plan_network(&mut self, id: NetworkId) {
        let present = self.networks.get(id).map(|n| (n.mtu(), n.fast()));
        if self.plan.networks.get(&id).copied() == present {
            return self.plan_rules(id);
        }
        let change = match present {
            Some((mtu, fast)) => {
                self.plan.networks.insert(id, (mtu, fast));
                PlanChange::Network { id, mtu, fast }
            }
            None => {
                self.plan.networks.remove(&id);
                let mut gone = Vec::new();
                for (&peer, networks) in &mut self.plan.members {
                    if networks.remove(&id) && networks.is_empty() && self.plan.peers.remove(&peer).is_some() {
                        gone.push(peer);
                    }
                }
                self.plan.members.retain(|_, networks| !networks.is_empty());
                gone.into_iter().for_each(|peer| self.output(Output::Plan(PlanChange::PeerGone(peer))));
                PlanChange::NetworkGone(id)
            }
        };
        self.output(Output::Plan(change));
        self.plan_rules(id);
    }

    /// The gate of a network judged a member.
    pub(crate) fn plan_member(&mut self, now: Now, network: NetworkId, address: Address, allowed: bool) {
        self.plan_network(network);
        if allowed {
            if self.plan.members.entry(address).or_default().insert(network) {
                self.bond_shares(now, address);
            }
            self.plan_peer(now, address);
        } else if let Some(networks) = self.plan.members.get_mut(&address) {
            networks.remove(&network);
        }
        self.output(Output::Plan(PlanChange::Member { network, address, allowed }));
        self.plan_standing(network, address);
        if !allowed && self.plan.members.get(&address).is_some_and(BTreeSet::is_empty) {
            self.plan.members.remove(&address);
            self.plan_peer(now, address);
        }
    }

    /// Tells what became of a peer, if that changed and frames concern it.
    pub(crate) fn plan_peer(&mut self, now: Now, address: Address) {
        self.warm_up(now, address);
        let present = self.planned(now, address);
        if self.plan.peers.get(&address) == present.as_ref() {
            self.plan_given(address);
            return self.plan_bond(now, address);
        }
        let change = match present {
            Some(planned) => {
                self.plan.peers.insert(address, planned.clone());
                let Planned { keys, suite, route, paths, lanes, bonded } = planned;
                PlanChange::Peer { address, keys, suite, route, paths, lanes, bonded }
            }
            None => {
                self.plan.peers.remove(&address);
                PlanChange::PeerGone(address)
            }
        };
        self.output(Output::Plan(change));
        self.plan_given(address);
        self.plan_bond(now, address);
    }

    /// Tells what became of all peers: time alone changes routes.
    pub(crate) fn plan_all(&mut self, now: Now) {
        for address in self.plan.members.keys().copied().collect::<Vec<_>>() {
            self.plan_peer(now, address);
        }
    }

    fn planned(&self, now: Now, address: Address) -> Option<Planned> {
        if self.halted || !self.plan.members.contains_key(&address) {
            return None;
        }
        let peer = self.peers.get(address)?;
        let way = self.way(address, now.ms());
        // Frames over a trusted path go through the node, which knows the path's ID.
        let way = way.filter(|w| self.settings.trusted_path_to(w.path.remote.ip()).is_none());
        let way = way.filter(|_| !self.is_warming(address, now.ms()));
        let route = way.map(|way| Route {
            socket: way.path.socket,
            remote: way.path.remote,
            mtu: self.mtu(way.path.remote.ip()) as u16,
            direct: way.owner == address,
        });
        let lanes = way
            .filter(|_| !self.bonds.contains(address))
            .map(|way| self.lanes.proven(address, &way.path))
            .unwrap_or_default();
        let usable = peer.slots.iter().filter(|s| !s.expired(now.ms()));
        let paths = usable.map(|s| (s.path.socket, s.path.remote)).collect();
        let (suite, bonded) = (peer.suite(&self.settings), self.reports.is_bonded(address));
        Some(Planned { keys: peer.keys.clone(), suite, route, paths, lanes, bonded })
    }
}
