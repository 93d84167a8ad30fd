//! Planet, moons, and who our upstreams are. Knows which worlds may replace which and which upstream is best; it sends
//! nothing.
// spec: paths, "Roots and worlds"

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use wire::message::WorldRevision;
use wire::{Address, Identity, World, WorldKind};

use crate::limits::*;
use crate::peer::{Peer, Peers};

/// What became of a world that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It replaced the one we had, or is a moon we waited for.
    Taken,
    /// It is the one we have, or older.
    Known,
    /// Wrong signature, unknown ID, or told by somebody who may not.
    Refused,
}

/// One root of the planet or a moon, ourselves excepted.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) identity: Arc<Identity>,
    /// Stable endpoints in any world.
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// The worlds and what follows from them.
#[derive(Debug)]
pub(crate) struct Roots {
    own: Address,
    planet: Option<World>,
    moons: BTreeMap<u64, World>,
    /// Moons to come: their ID and the seed that will bring them.
    wanted: BTreeMap<u64, Address>,
    upstreams: BTreeMap<Address, Upstream>,
    is_upstream: bool,
    best: Option<Address>,
    /// Which upstream said when that another node has our address.
    collisions: BTreeMap<Address, u64>,
}

impl Roots {
    pub(crate) fn new(own: Address) -> Roots {
        Roots {
            own,
            planet: None,
            moons: BTreeMap::new(),
            wanted: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            is_upstream: false,
            best: None,
            collisions: BTreeMap::new(),
        }
    }

    fn worlds(&self) -> impl Iterator<Item = &World> {
        self.planet.iter().chain(self.moons.values())
    }

    fn rebuild(&mut self) {
        let mut upstreams: BTreeMap<Address, Upstream> = BTreeMap::new();
        for root in self.worlds().flat_map(|w| &w.roots) {
            let entry = || Upstream { identity: Arc::new(root.identity.clone()), endpoints: Vec::new() };
            let known = upstreams.entry(root.identity.address()).or_insert_with(entry);
            known.endpoints.extend(root.endpoints.iter().filter(|e| e.port() != 0));
        }
        self.is_upstream = upstreams.remove(&self.own).is_some();
        self.best = self.best.filter(|b| upstreams.contains_key(b));
        self.upstreams = upstreams;
    }

    /// Takes a planet at the start: unverified if there is none yet, else if it replaces the present one.
    pub(crate) fn install_planet(&mut self, world: World) -> bool {
        if self.planet.is_some() && !world.replaces(self.planet.as_ref()) {
            return false;
        }
        self.planet = Some(world);
        self.rebuild();
        true
    }

    /// Takes a moon from our own disk. False if there are too many.
    pub(crate) fn install_moon(&mut self, world: World) -> bool {
        let known = self.moons.contains_key(&world.id) || self.wanted.contains_key(&world.id);
        if !known && self.moons_full() {
            return false;
        }
        self.wanted.remove(&world.id);
        self.moons.insert(world.id, world);
        self.rebuild();
        true
    }

    fn moons_full(&self) -> bool {
        self.moons.len() + self.wanted.len() >= MOONS_MAX
    }

    /// Waits for a moon that `seed` will bring.
    pub(crate) fn orbit(&mut self, moon: u64, seed: Address) -> bool {
        if self.moons.contains_key(&moon) || !self.wanted.contains_key(&moon) && self.moons_full() {
            return false;
        }
        self.wanted.insert(moon, seed);
        true
    }

    /// Moons to come and their seeds.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (u64, Address)> {
        self.wanted.iter().map(|(&moon, &seed)| (moon, seed))
    }

    /// Gives a moon up. True if it was held.
    pub(crate) fn deorbit(&mut self, moon: u64) -> bool {
        self.wanted.remove(&moon);
        let held = self.moons.remove(&moon).is_some();
        self.rebuild();
        held
    }

    /// A world came in OK(HELLO) from `from`.
    // spec: paths, "Worlds"; a new moon must also be signed by itself: wire, "Gateway hardening", worlds
    pub(crate) fn offered(&mut self, world: World, from: Address) -> Offer {
        let current = match world.kind {
            WorldKind::Planet => self.planet.as_ref().filter(|p| p.id == world.id),
            WorldKind::Moon => self.moons.get(&world.id),
            WorldKind::Null => None,
        };
        if let Some(current) = current {
            if world.timestamp <= current.timestamp {
                return Offer::Known;
            }
            if !self.upstreams.contains_key(&from) && !self.wanted.values().any(|s| *s == from)
                || !world.replaces(Some(current))
            {
                return Offer::Refused;
            }
        } else {
            let seed = self.wanted.get(&world.id).copied();
            let brought = seed == Some(from) && world.roots.iter().any(|r| r.identity.address() == from);
            if world.kind != WorldKind::Moon || !brought || !world.is_self_signed() {
                return Offer::Refused;
            }
        }
        match world.kind {
            WorldKind::Planet => self.planet = Some(world),
            _ => {
                self.wanted.remove(&world.id);
                self.moons.insert(world.id, world);
            }
        }
        self.rebuild();
        Offer::Taken
    }

    pub(crate) fn is_upstream(&self) -> bool {
        self.is_upstream
    }

    pub(crate) fn is_upstream_address(&self, address: Address) -> bool {
        self.upstreams.contains_key(&address)
    }

    pub(crate) fn upstreams(&self) -> impl Iterator<Item = (Address, &Upstream)> {
        self.upstreams.iter().map(|(&address, upstream)| (address, upstream))
    }

    pub(crate) fn in_planet(&self, address: Address) -> bool {
        self.planet.iter().flat_map(|p| &p.roots).any(|r| r.identity.address() == address)
    }

    /// Seeds that have not brought their moon yet.
    pub(crate) fn seeds(&self) -> Vec<Address> {
        let seeds: BTreeSet<Address> = self.wanted.values().copied().collect();
        seeds.into_iter().filter(|s| !self.upstreams.contains_key(s)).collect()
    }

    /// The only IPs at which this upstream may be reached, if its world names any. // spec: paths, "Acceptable path"
    pub(crate) fn pins(&self, address: Address) -> Option<&[SocketAddr]> {
        self.upstreams.get(&address).map(|u| &u.endpoints[..]).filter(|e| !e.is_empty())
    }

    /// Where a node other than `peer` relays for us: whatever comes from there, it is no path to `peer`.
    pub(crate) fn relays_from(&self, remote: SocketAddr, peer: Address, peers: &Peers) -> bool {
        let at = |a: &Address| peers.get(*a).is_some_and(|p| p.slots.iter().any(|s| s.path.remote == remote));
        self.upstreams.iter().any(|(a, u)| *a != peer && (u.endpoints.contains(&remote) || at(a)))
    }

    /// What HELLO says of our planet.
    pub(crate) fn planet_revision(&self) -> WorldRevision {
        self.planet.as_ref().map_or(WorldRevision { id: 0, timestamp: 0 }, revision)
    }

    /// What HELLO says of our moons: those held, then those wanted.
    pub(crate) fn moon_revisions(&self) -> Vec<WorldRevision> {
        let wanted = self.wanted.keys().map(|&id| WorldRevision { id, timestamp: 0 });
        self.moons.values().map(revision).chain(wanted).collect()
    }

    /// Serialised worlds that are newer than what a HELLO announced. // spec: paths, "Created by HELLO"
    pub(crate) fn newer_than(&self, planet: Option<WorldRevision>, moons: &[WorldRevision]) -> Vec<u8> {
        let newer = |mine: &&World, theirs: &WorldRevision| mine.id == theirs.id && mine.timestamp > theirs.timestamp;
        let mut out = Vec::new();
        let planet = planet.filter(|p| p.id != 0);
        if let Some(ours) = self.planet.as_ref().filter(|w| planet.is_some_and(|p| newer(w, &p))) {
            ours.write(&mut out);
        }
        for ours in self.moons.values().filter(|w| moons.iter().any(|m| newer(w, m))) {
            ours.write(&mut out);
        }
        out
    }

    pub(crate) fn world(&self, kind: WorldKind, id: u64) -> Option<&World> {
        match kind {
            WorldKind::Planet => self.planet.as_ref(),
            _ => self.moons.get(&id),
        }
    }

    pub(crate) fn moons(&self) -> impl Iterator<Item = &World> {
        self.moons.values()
    }

    pub(crate) fn planet(&self) -> Option<&World> {
        self.planet.as_ref()
    }

    /// The upstream through which we relay and ask.
    pub(crate) fn best(&self) -> Option<Address> {
        self.best
    }

    /// The upstreams, the best first.
    pub(crate) fn ranked(&self, peers: &Peers, now_ms: u64) -> Vec<Address> {
        let mut all: Vec<Address> = self.upstreams.keys().copied().filter(|&a| peers.contains(a)).collect();
        all.sort_by_key(|&a| (Some(a) != self.best, peers.get(a).map(|p| rank(p, now_ms))));
        all
    }

    /// Judges anew which upstream is best. True if it is another one now.
    // spec: paths, "Upstreams", Gateway: by own measured RTT, fresh, with hysteresis
    pub(crate) fn choose(&mut self, peers: &Peers, now_ms: u64) -> bool {
        let ranked = self.upstreams.keys().filter_map(|&a| peers.get(a).map(|p| (rank(p, now_ms), a)));
        let Some((first, candidate)) = ranked.min_by_key(|&(rank, a)| (rank, std::cmp::Reverse(a))) else {
            return self.best.take().is_some();
        };
        let present = self.best.and_then(|b| peers.get(b).map(|p| (rank(p, now_ms), b)));
        if let Some((present, address)) = present
            && (address == candidate || present.keeps_against(&first))
        {
            return false;
        }
        self.best = Some(candidate);
        true
    }

    /// An upstream says that another node has our address. True once that is beyond doubt.
    pub(crate) fn collision_reported(&mut self, by: Address, now_ms: u64) -> bool {
        self.collisions.insert(by, now_ms);
        let fresh = |at: u64| now_ms.saturating_sub(at) < COLLISION_REPORTS_MS;
        self.collisions.retain(|a, at| self.upstreams.contains_key(a) && fresh(*at));
        self.collisions.len() >= 2.min(self.upstreams.len()).max(1)
    }
}

fn revision(world: &World) -> WorldRevision {
    WorldRevision { id: world.id, timestamp: world.timestamp }
}

/// How good an upstream is; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Not heard within three probe intervals, or suspect.
    stale: bool,
    /// No path at all.
    unreachable: bool,
    /// Latency if fresh, else the age of its last verified packet in milliseconds.
    measure: u64,
}

impl Rank {
    /// A fresh upstream keeps its place unless the other is better by a fifth.
    fn keeps_against(&self, other: &Rank) -> bool {
        !self.stale && (other.stale || other.measure * 100 >= self.measure * (100 - UPSTREAM_HYSTERESIS_PERCENT))
    }
}

fn rank(peer: &Peer, now_ms: u64) -> Rank {
    let Some(slot) = peer.best_slot(now_ms) else {
        return Rank { stale: true, unreachable: true, measure: peer.last_receive.age(now_ms) };
    };
    let stale = slot.watch.suspect || !slot.last_verified.within(UPSTREAM_FRESH_MS, now_ms);
    let measure = match stale {
        true => slot.last_verified.age(now_ms),
        false => slot.latency_us.map_or(UNKNOWN_LATENCY_MS * 1000, u64::from),
    };
    Rank { stale, unreachable: false, measure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Root, Signature};

    fn world(kind: WorldKind, id: u64, roots: &[u64]) -> World {
        let root = |&n: &u64| Root { identity: Identity::from_parts(Address::from_u64(n), [1; 64]), endpoints: vec![] };
        let roots = roots.iter().map(root).collect();
        World { kind, id, timestamp: 1, update_key: [0; 64], signature: Signature([0; 96]), roots }
    }

    #[test]
    fn moons_held_and_wanted_are_32_together() {
        let mut roots = Roots::new(Address::from_u64(1));
        for n in 0..20 {
            assert!(roots.install_moon(world(WorldKind::Moon, n, &[])));
        }
        let wanted = (100..200).filter(|&n| roots.orbit(n, Address::from_u64(2))).count();
        assert_eq!(wanted, MOONS_MAX - 20);
        assert!(!roots.install_moon(world(WorldKind::Moon, 50, &[])));
        assert!(
            roots.install_moon(world(WorldKind::Moon, 0, &[])) && roots.install_moon(world(WorldKind::Moon, 100, &[]))
        );
        assert_eq!(roots.moons.len() + roots.wanted.len(), MOONS_MAX);
        assert!(roots.deorbit(0) && roots.orbit(200, Address::from_u64(2)));
    }

    #[test]
    fn a_collision_takes_two_present_upstreams_within_ten_minutes() {
        let mut roots = Roots::new(Address::from_u64(1));
        let [a, b, c] = [2, 3, 4].map(Address::from_u64);
        roots.install_planet(world(WorldKind::Planet, 1, &[2, 3, 4]));
        assert!(!roots.collision_reported(a, 0) && !roots.collision_reported(a, 1000));
        assert!(!roots.collision_reported(b, 1000 + COLLISION_REPORTS_MS), "too late");
        assert!(roots.collision_reported(c, 2000 + COLLISION_REPORTS_MS));
        let mut roots = Roots::new(Address::from_u64(1));
        roots.install_planet(world(WorldKind::Planet, 1, &[3, 4]));
        assert!(!roots.collision_reported(a, 0) && !roots.collision_reported(b, 1), "the first is no upstream");
        assert!(roots.collision_reported(c, 2));
    }
}
