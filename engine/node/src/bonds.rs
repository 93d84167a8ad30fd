//! Our own bonds: one [`bond::Bond`] for each peer that the settings name. This room tells it what happens to the peer's
//! paths, calls it when it is due, and carries its plans to the shards. What to do with the paths it does not know.
// spec: bonding, "Life of a bond", "A better bond on the same wire"

mod measure;
mod probe;
mod search;
mod seen;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bond::config::{Family, Mode, Params, Policy};
use bond::{Bond, NewPath, PathId, PlanPath, Refused};
use rand::Rng;
use wire::message::Features;
use wire::{Address, Now};

use crate::Node;
use crate::io::{Bonding, LocalSocketId, Output, PlanChange, Route};
use crate::limits::*;
use crate::path::Path;

pub use measure::PathTest;
use probe::{Asking, Probed};
use search::Search;
use seen::{Carried, Sampled};

/// Why a bond cannot be told what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BondError {
    /// We do not bond with this peer.
    #[error("there is no bond with this peer")]
    NoBond,
    /// Only active-backup has one path that another can take over from.
    #[error("the bond with this peer is not active-backup")]
    Policy,
    /// The path is gone, or never was.
    #[error("the bond has no such path")]
    NoPath,
    /// One path is tested at a time.
    #[error("another path is being tested")]
    Testing,
    /// What tests a path are frames of a network.
    #[error("there is no network that we and this peer are members of")]
    NoNetwork,
}

/// The bonds, and when each of them is due.
#[derive(Default)]
pub(crate) struct Bonds {
    /// Some peer may have one.
    in_use: bool,
    table: BTreeMap<Address, Held>,
    due: BTreeSet<(u64, Address)>,
    /// Whose the paths are.
    by_path: BTreeMap<Path, Address>,
    actions: Vec<bond::Action>,
}

/// One bond, and what is kept beside it.
struct Held {
    bond: Bond,
    lines: Vec<Line>,
    /// Paths that the policy does not take.
    refused: Vec<Path>,
    /// What the shards know.
    told: Option<Arc<Bonding>>,
    /// The plan that peer and shards were last told of.
    told_serial: u64,
    /// It is looked at then; what is due at another time is found out by then.
    due_us: u64,
    /// It was last called.
    ticked_us: u64,
    /// All data over this path: the operator tests it.
    forced: Option<PathId>,
    /// Data was last sent.
    data_us: Option<u64>,
    /// Since when there is no path.
    empty_ms: Option<u64>,
    asking: Asking,
    search: Search,
}

/// One path of a bond.
struct Line {
    id: PathId,
    path: Path,
    probed: Probed,
    carried: Carried,
    sampled: Sampled,
    /// A shard took an answer that came over it.
    answered: bool,
    /// What an operator set.
    mtu: Option<u16>,
}

/// Which way a bond sends what is sent now.
pub(crate) enum BondWay {
    Path(Path),
    Relay,
}

impl Held {
    fn line(&self, id: PathId) -> Option<&Line> {
        self.lines.get(self.place(id)?)
    }

    fn line_mut(&mut self, id: PathId) -> Option<&mut Line> {
        let at = self.place(id)?;
        self.lines.get_mut(at)
    }

    fn place(&self, id: PathId) -> Option<usize> {
        // As long as none was forgotten they are in the order of their slots.
        let slot = usize::from(id.slot);
        let there = self.lines.get(slot).is_some_and(|l| l.id == id);
        if there { Some(slot) } else { self.lines.iter().position(|l| l.id == id) }
    }

    fn line_of(&mut self, path: &Path) -> Option<&mut Line> {
        self.lines.iter_mut().find(|l| l.path == *path)
    }

    /// The plan in force: the bond's, or all over one path.
    fn plan(&self) -> Arc<bond::Plan> {
        let plan = self.bond.plan();
        let Some(path) = self.forced.and_then(|id| self.bond.paths().get(id)) else { return plan.clone() };
        let delay_us = path.tx.rtt().unwrap_or(0) / 2;
        let only = PlanPath { id: path.id, key: path.key, weight: 1.0, rate: path.weight(), delay_us };
        Arc::new(bond::Plan {
            epoch: plan.epoch.wrapping_add(1 << 31),
            policy: Policy::ActiveBackup,
            paths: vec![only],
            striping: false,
            relief: None,
            relay: false,
            ..(**plan).clone()
        })
    }

    /// When it is due next.
    fn next_us(&self, now: Now) -> u64 {
        self.bond.next_due_us(now).min(self.look_us(now)).max(self.ticked_us + BOND_TICK_US)
    }

    /// When it is looked at whatever its paths do.
    fn look_us(&self, now: Now) -> u64 {
        let busy = self.data_us.is_some_and(|at| now.mono_us.saturating_sub(at) < BOND_BUSY_US);
        let look = if busy { self.ticked_us + BOND_LOOK_US } else { u64::MAX };
        self.search.next_us().min(self.trial_due_us()).min(look)
    }

    fn set_due(&mut self, due: &mut BTreeSet<(u64, Address)>, peer: Address, us: u64) {
        if self.due_us != us {
            due.remove(&(self.due_us, peer));
            self.due_us = us;
            due.insert((us, peer));
        }
    }

    fn way(&self) -> Option<BondWay> {
        if let Some(line) = self.forced.and_then(|id| self.line(id)) {
            return Some(BondWay::Path(line.path));
        }
        let plan = self.bond.plan();
        if plan.policy == Policy::None {
            return None; // not ready: as without a bond
        }
        let first = plan.paths.first().and_then(|p| self.line(p.id));
        Some(first.map_or(BondWay::Relay, |line| BondWay::Path(line.path)))
    }

    /// What the operator said about a path, or the policy about its link.
    fn link_mtu(&self, id: PathId) -> Option<u16> {
        let set = self.line(id).and_then(|line| line.mtu);
        set.or_else(|| self.policy_mtu(id))
    }

    fn policy_mtu(&self, id: PathId) -> Option<u16> {
        self.bond.paths().get(id).map(|p| p.link.mtu).filter(|mtu| *mtu > 0)
    }
}

impl Bonds {
    /// `in_use`: some peer may get one.
    pub(crate) fn new(in_use: bool) -> Bonds {
        Bonds { in_use, ..Bonds::default() }
    }

    /// Bonds, their paths.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.table.len(), self.by_path.len()]
    }

    pub(crate) fn contains(&self, peer: Address) -> bool {
        self.table.contains_key(&peer)
    }

    /// Which way the bond sends, if there is one and it knows.
    pub(crate) fn way(&self, peer: Address) -> Option<BondWay> {
        self.table.get(&peer)?.way()
    }

    /// The soonest that a bond is due, ms.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|(us, _)| us.div_ceil(1000))
    }

    fn set_due(&mut self, peer: Address, us: u64) {
        let Some(held) = self.table.get_mut(&peer) else { return };
        held.set_due(&mut self.due, peer, us);
    }

    fn remove(&mut self, peer: Address) -> Option<Held> {
        let held = self.table.remove(&peer)?;
        self.due.remove(&(held.due_us, peer));
        for line in &held.lines {
            self.forget_path(&line.path, peer);
        }
        Some(held)
    }

    fn forget_path(&mut self, path: &Path, peer: Address) {
        if self.by_path.get(path) == Some(&peer) {
            self.by_path.remove(path);
        }
    }
}

impl Node {
    /// The bonds that there are.
    pub fn bonds(&self) -> impl Iterator<Item = (Address, &Bond)> + '_ {
        self.bonds.table.iter().map(|(&peer, held)| (peer, &held.bond))
    }

    /// The bond with a peer.
    pub fn bond(&self, peer: Address) -> Option<&Bond> {
        self.bonds.table.get(&peer).map(|held| &held.bond)
    }

    /// Where a path of a bond leads: from this socket to this endpoint.
    pub fn bond_path(&self, peer: Address, id: PathId) -> Option<(LocalSocketId, SocketAddr)> {
        let line = self.bonds.table.get(&peer)?.line(id)?;
        Some((line.path.socket, line.path.remote))
    }

    /// Has an active-backup bond take its next path. False if there is no other that works.
    pub fn rotate_bond(&mut self, now: Now, peer: Address) -> Result<bool, BondError> {
        let held = self.bonds.table.get_mut(&peer).ok_or(BondError::NoBond)?;
        if held.bond.params().policy != Policy::ActiveBackup {
            return Err(BondError::Policy);
        }
        let rotated = held.bond.rotate(now);
        self.bond_decided(now, peer);
        Ok(rotated)
    }

    /// Sends all data to a peer over one path, whatever the bond thinks of it; `None`: as the bond decides.
    pub fn force_bond_path(&mut self, now: Now, peer: Address, path: Option<PathId>) -> Result<(), BondError> {
        let held = self.bonds.table.get_mut(&peer).ok_or(BondError::NoBond)?;
        if path.is_some_and(|id| held.line(id).is_none()) {
            return Err(BondError::NoPath);
        }
        held.forced = path;
        self.path_changed(now, peer);
        Ok(())
    }

    /// The path that all data to a peer is sent over because of [`Node::force_bond_path`].
    pub fn forced_bond_path(&self, peer: Address) -> Option<PathId> {
        self.bonds.table.get(&peer)?.forced
    }

    /// Datagrams over all bonds' paths from one link to one remote address are no longer than `mtu` from now on. How many
    /// paths that are.
    pub fn set_bond_mtu(&mut self, now: Now, link: &str, remote: IpAddr, mtu: u16) -> usize {
        let (mut paths, mut peers) = (0, Vec::new());
        for (&peer, held) in &mut self.bonds.table {
            let Held { bond, lines, .. } = held;
            let over = |l: &Line| bond.paths().get(l.id).is_some_and(|p| &*p.link.name == link);
            for line in lines.iter_mut().filter(|l| l.path.remote.ip() == remote && over(l)) {
                line.mtu = Some(mtu.max(NARROW_MTU_MIN as u16));
                paths += 1;
                peers.push(peer);
            }
        }
        peers.into_iter().for_each(|peer| self.path_changed(now, peer));
        paths
    }

    /// The settings changed: bonds whose parameters are others begin anew with the same paths.
    pub(crate) fn bonds_configured(&mut self, now: Now) {
        self.bonds.in_use = self.settings.bonding.in_use();
        for peer in self.bonds.table.keys().copied().collect::<Vec<_>>() {
            let params = self.bond_params(peer);
            if self.bonds.table.get(&peer).is_some_and(|held| Some(held.bond.params()) != params.as_ref()) {
                self.drop_bond(now, peer);
            }
        }
        if self.bonds.in_use {
            let peers: Vec<Address> = self.peers.iter().map(|(&address, _)| address).collect();
            peers.into_iter().for_each(|peer| self.want_bond(now, peer));
        }
    }

    /// What holds for a bond with this peer, if there may be one.
    fn bond_params(&self, peer: Address) -> Option<Arc<Params>> {
        let known = self.peers.get(peer).filter(|p| !p.upstream)?;
        self.settings.bonding.of(known.address().to_u64()).filter(|p| p.policy != Policy::None)
    }

    /// Something was heard of a peer: if it is to have a bond and has none, it gets one.
    pub(crate) fn want_bond(&mut self, now: Now, peer: Address) {
        if !self.bonds.in_use || self.bonds.contains(peer) {
            return;
        }
        let now_ms = now.ms();
        let busy = |p: &crate::peer::Peer| p.active(now_ms) || p.last_frame_out.within(PEER_ACTIVITY_MS, now_ms);
        let usable = |p: &crate::peer::Peer| busy(p) && p.slots.iter().any(|s| s.alive(now_ms));
        if !self.peers.get(peer).is_some_and(usable) {
            return;
        }
        let Some(params) = self.bond_params(peer) else { return };
        if self.bonds.table.len() >= BONDS_MAX {
            self.counters.bonds_full += 1;
            return;
        }
        let secret = self.rng.next_u64();
        let negotiates = params.negotiate;
        let reports_ms = (params.mode == Mode::Compat).then(|| 2 * u64::from(params.failover_interval));
        let mut bond = Bond::new(now, params, true, peer > self.address(), secret);
        bond.negotiate(negotiates);
        bond.set_mute(true); // until it answers one
        let held = Held {
            bond,
            lines: Vec::new(),
            refused: Vec::new(),
            told: None,
            told_serial: 0,
            due_us: now.mono_us,
            ticked_us: 0,
            forced: None,
            data_us: None,
            empty_ms: None,
            asking: Asking::default(),
            search: Search::new(now.mono_us),
        };
        self.bonds.due.insert((held.due_us, peer));
        self.bonds.table.insert(peer, held);
        self.counters.bonds_made += 1;
        // From now on the bond judges its paths, and nobody else.
        if let Some(known) = self.peers.get_mut(peer) {
            known.slots.iter_mut().for_each(|s| s.watch = Default::default());
        }
        self.warming.remove(&peer);
        if let Some(every_ms) = reports_ms {
            self.report_of_our_own(now, peer, Some(every_ms));
        }
        self.path_changed(now, peer);
        self.tick_bond(now, peer);
        self.bond_agrees(now, peer);
    }

    /// What we want of a peer that we bond with, if it is a Hawser. // ours
    fn bond_agrees(&mut self, now: Now, peer: Address) {
        let better = self.bonds.table.get(&peer).is_some_and(|held| held.bond.params().mode == Mode::Better);
        self.pact_wanted(now, peer, if better { Features::ALL } else { Features::NONE });
    }

    fn drop_bond(&mut self, now: Now, peer: Address) {
        if self.bonds.remove(peer).is_some() {
            self.counters.bonds_ended += 1;
            self.report_of_our_own(now, peer, None);
            if self.plan.has(peer) {
                self.output(Output::Plan(PlanChange::Bond { address: peer, bond: None }));
            }
            self.path_changed(now, peer);
            self.bond_agrees(now, peer);
        }
    }

    /// A peer is none any more.
    pub(crate) fn bond_gone(&mut self, peer: Address) {
        self.counters.bonds_ended += u64::from(self.bonds.remove(peer).is_some());
    }

    /// Ends the bonds that nobody needs, and those whose paths did not come back.
    pub(crate) fn expire_bonds(&mut self, now: Now) {
        let now_ms = now.ms();
        for peer in self.bonds.table.keys().copied().collect::<Vec<_>>() {
            let Some(held) = self.bonds.table.get(&peer) else { continue };
            let idle = |p: &crate::peer::Peer| {
                p.upstream || !(p.active(now_ms) || p.last_frame_out.within(PEER_ACTIVITY_MS, now_ms))
            };
            let lost = held.empty_ms.is_some_and(|at| now_ms.saturating_sub(at) >= PATH_EXPIRATION_MS);
            if lost || self.peers.get(peer).is_none_or(idle) {
                self.drop_bond(now, peer);
            }
        }
    }

    /// Makes the paths of a bond those of its peer.
    pub(crate) fn bond_paths(&mut self, now: Now, peer: Address) {
        self.want_bond(now, peer);
        if !self.bonds.contains(peer) {
            return;
        }
        let slots: Vec<Path> =
            self.peers.get(peer).map(|p| p.slots.iter().map(|s| s.path).collect()).unwrap_or_default();
        let names: Vec<_> = slots.iter().map(|path| self.bond_line(*path)).collect();
        let Node { bonds: Bonds { table, by_path, .. }, sockets, spreads, .. } = self;
        let named_gone = |path: &Path| !sockets.contains_key(&path.socket) && !spreads.is_adopted(path.socket);
        let Some(held) = table.get_mut(&peer) else { return };
        held.refused.retain(|path| slots.contains(path));
        let Held { bond, lines, .. } = held;
        let mut news = false;
        lines.retain(|line| {
            let stays = slots.contains(&line.path) && bond.paths().get(line.id).is_some();
            if !stays {
                if bond.paths().get(line.id).is_some() {
                    // What is still on its way out of a socket that is closed never leaves.
                    if named_gone(&line.path) {
                        bond.link_lost(now, line.id);
                    }
                    bond.forget(now, line.id);
                }
                if by_path.get(&line.path) == Some(&peer) {
                    by_path.remove(&line.path);
                }
                news = true;
            }
            stays
        });
        for (path, named) in slots.iter().zip(names) {
            let Some((link, key)) = named else { continue };
            if held.refused.contains(path) || held.lines.iter().any(|l| l.path == *path) {
                continue;
            }
            let family = if path.remote.is_ipv4() { Family::V4 } else { Family::V6 };
            let new = NewPath { link: &link, family, key, remote_port: path.remote.port() };
            match held.bond.learn(now, new) {
                Ok(id) => {
                    held.lines.push(Line {
                        id,
                        path: *path,
                        probed: Probed::default(),
                        carried: Carried::default(),
                        sampled: Sampled::default(),
                        answered: false,
                        mtu: None,
                    });
                    by_path.insert(*path, peer);
                    held.search.learned(path.remote, now.mono_us);
                    news = true;
                }
                Err(Refused::Link | Refused::Family | Refused::Known(_) | Refused::Full) => held.refused.push(*path),
            }
        }
        held.empty_ms = if held.lines.is_empty() { held.empty_ms.or(Some(now.ms())) } else { None };
        if held.forced.is_some_and(|id| held.line(id).is_none()) {
            held.forced = None;
        }
        if news {
            self.bonds.set_due(peer, now.mono_us);
        }
    }

    /// The link of a path, and the number by which flows know it. Tunnels are none.
    fn bond_line(&self, path: Path) -> Option<(String, u64)> {
        let socket = self.sockets.get(&self.spreads.beside(path.socket).unwrap_or(path.socket))?;
        if socket.is_tunnel() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (socket.local, path.socket == socket.id, path.remote).hash(&mut hasher);
        Some((socket.link.clone(), hasher.finish()))
    }

    /// Calls every bond that is due.
    pub(crate) fn bonds_step(&mut self, now: Now) {
        // Each at most once, or one that is due at once would be called for ever.
        for _ in 0..self.bonds.table.len() {
            let Some(&(us, peer)) = self.bonds.due.first() else { return };
            if us > now.mono_us {
                return;
            }
            // What it was due for may have come meanwhile.
            if self.bonds.table.get(&peer).is_some_and(|held| held.next_us(now) > now.mono_us) {
                self.arm_bond(now, peer);
            } else {
                self.tick_bond(now, peer);
            }
        }
    }

    fn tick_bond(&mut self, now: Now, peer: Address) {
        let Node { bonds: Bonds { table, due, actions, .. }, peers, .. } = self;
        let Some(held) = table.get_mut(&peer) else { return };
        let us = now.mono_us;
        held.ticked_us = us;
        held.observe(now);
        held.bond.tick(now, actions);
        if held.lines.iter().any(|l| l.answered) {
            held.prove(now, peers.get_mut(peer));
        }
        let rests = actions.is_empty() && held.trial_due_us() > us && held.search.next_us() > us;
        if rests && held.told_serial == held.bond.plan().serial {
            let next = held.next_us(now);
            return held.set_due(due, peer, next);
        }
        let mut actions = std::mem::take(actions);
        for action in actions.drain(..) {
            self.bond_act(now, peer, action);
        }
        self.bonds.actions = actions;
        self.ask_for_acks(now, peer);
        self.search_paths(now, peer);
        self.bond_decided(now, peer);
        self.arm_bond(now, peer);
    }

    /// When the bond is due next.
    fn arm_bond(&mut self, now: Now, peer: Address) {
        let Some(held) = self.bonds.table.get(&peer) else { return };
        let due = held.next_us(now);
        self.bonds.set_due(peer, due);
    }

    /// If the bond's plan is another one, whoever goes by it is told at once.
    fn bond_decided(&mut self, now: Now, peer: Address) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let serial = held.bond.plan().serial;
        if held.told_serial != serial {
            held.told_serial = serial;
            self.path_changed(now, peer);
        }
    }

    /// Tells the shards how frames to a peer are spread, if that changed. They know the peer.
    pub(crate) fn plan_bond(&mut self, now: Now, peer: Address) {
        let Some(held) = self.bonds.table.get(&peer) else { return };
        let known = self.plan.has(peer);
        let present = if known { self.spread_of(now, peer) } else { None };
        if held.told.as_deref() == present.as_ref() {
            return;
        }
        let present = present.map(Arc::new);
        if let Some(held) = self.bonds.table.get_mut(&peer) {
            held.told = present.clone();
        }
        if known {
            self.output(Output::Plan(PlanChange::Bond { address: peer, bond: present }));
        }
    }

    fn spread_of(&self, now: Now, peer: Address) -> Option<Bonding> {
        let held = self.bonds.table.get(&peer)?;
        let plan = held.plan();
        if plan.policy == Policy::None || self.halted {
            return None;
        }
        let route = |p: &PlanPath| {
            let path = held.line(p.id)?.path;
            // Frames over a trusted path go through the node, which knows the path's ID.
            self.settings.trusted_path_to(path.remote.ip()).is_none().then_some(())?;
            let mtu = self.mtu_over(peer, Some(path.socket), path.remote) as u16;
            Some(Route { socket: path.socket, remote: path.remote, mtu, direct: true })
        };
        let routes = plan.paths.iter().map(route).collect::<Option<Vec<Route>>>()?;
        let relay = self.relay_beside(peer, now.ms()).map(|path| Route {
            socket: path.socket,
            remote: path.remote,
            mtu: self.mtu(path.remote.ip()) as u16,
            direct: false,
        });
        let agreed = self.pacts.agreed(peer).map_or(Features::NONE, |agreed| agreed.features);
        let (marks, duplicates_dropped) = (agreed.has(Features::ORDER_MARK), agreed.has(Features::DUPLICATES));
        Some(Bonding { plan, routes, relay, marks, duplicates_dropped })
    }

    /// UDP payload bytes per datagram to a peer from this socket, or from any, to this endpoint. A path of a bond may have
    /// a link of its own size.
    pub(crate) fn mtu_over(&self, to: Address, socket: Option<LocalSocketId>, remote: SocketAddr) -> usize {
        let mtu = self.mtu(remote.ip());
        let Some(held) = self.bonds.table.get(&to) else { return mtu };
        let socket = socket.map(|socket| self.arrival(Path { socket, remote }, 0).path.socket);
        let over = |l: &&Line| l.path.remote == remote && socket.is_none_or(|s| s == l.path.socket);
        let links = held.lines.iter().filter(over).filter_map(|l| held.link_mtu(l.id));
        links.map(usize::from).min().map_or(mtu, |link| link.min(mtu))
    }

    /// A peer answered over this path what was asked over it.
    pub(crate) fn bond_proven(&mut self, now: Now, peer: Address, path: &Path) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        if let Some(id) = held.line_of(path).map(|line| line.id) {
            held.bond.answered(now, id);
            self.bond_decided(now, peer);
        }
    }

    /// The kernel says that nothing leaves by this path: no route, no device, no address.
    pub(crate) fn bond_path_lost(&mut self, now: Now, path: &Path) {
        let Some(&peer) = self.bonds.by_path.get(path) else { return };
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let Some(id) = held.lines.iter().find(|l| l.path == *path).map(|l| l.id) else { return };
        held.bond.link_lost(now, id);
        self.bond_decided(now, peer);
        self.arm_bond(now, peer);
    }
}
