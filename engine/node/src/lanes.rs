//! Lanes: further sockets of a link, one for each shard but the first, so that one busy pair of gateways uses several
//! cores at both ends. A lane carries frames to a peer only while the peer answers ECHO over it, and only to peers that
//! take another port of a host they know for the same path. All else (learning, probing, HELLO) goes by the link's first
//! socket, and what comes in by a lane counts as if it had come there.
// spec: paths, "Version differences"; our own: "Lanes"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wire::message::Version;
use wire::{Address, Now};

use crate::Node;
use crate::gate::Stamp;
use crate::io::LocalSocketId;
use crate::limits::*;
use crate::path::Path;
use crate::send::Arrival;

/// The sockets that are lanes, and the peers that they are used with.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Of each lane the first socket of its link, and the shard whose it is.
    sockets: BTreeMap<LocalSocketId, (LocalSocketId, u16)>,
    peers: BTreeMap<Address, Fan>,
}

/// The lanes towards one peer.
#[derive(Debug)]
struct Fan {
    /// The path beside which they run.
    beside: Path,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    socket: LocalSocketId,
    shard: u16,
    /// When it is probed next, unless an answer is awaited.
    next_probe_ms: u64,
    /// When the probe that is still unanswered was sent.
    pending: Stamp,
    /// Probes missed one after the other.
    missed: u8,
    proven: bool,
}

/// Takes another port of a host on the same socket for a path that it knows. Others would replace the path, or learn a
/// path for each lane. // spec: paths, "Version differences"
fn tolerates_lanes(version: Version) -> bool {
    (version.major, version.minor, version.revision) >= (1, 10, 6)
}

impl Lanes {
    pub(crate) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The proven lanes beside `path` to `peer`: shard and socket.
    pub(crate) fn proven(&self, peer: Address, path: &Path) -> Vec<(u16, LocalSocketId)> {
        let fan = self.peers.get(&peer).filter(|fan| fan.beside == *path);
        let lanes = fan.map(|fan| &fan.lanes[..]).unwrap_or_default();
        lanes.iter().filter(|lane| lane.proven).map(|lane| (lane.shard, lane.socket)).collect()
    }

    /// Unproven lanes for a path.
    fn fan(&self, beside: Path, now_ms: u64) -> Fan {
        let of_link = self.sockets.iter().filter(|(_, (first, _))| *first == beside.socket);
        let lane = |(&socket, &(_, shard)): (&LocalSocketId, &(LocalSocketId, u16))| Lane {
            socket,
            shard,
            next_probe_ms: now_ms,
            pending: Stamp::NEVER,
            missed: 0,
            proven: false,
        };
        Fan { beside, lanes: of_link.map(lane).collect() }
    }
}

impl Node {
    /// A lane was bound: one more socket of the link whose first socket is `first`, belonging to shard number `shard`.
    pub fn add_lane(&mut self, first: LocalSocketId, shard: u16, lane: LocalSocketId) {
        self.lanes.sockets.insert(lane, (first, shard));
    }

    /// The first socket of a link was closed, and its lanes with it.
    pub(crate) fn lanes_gone(&mut self, first: LocalSocketId) {
        self.lanes.sockets.retain(|_, (of, _)| *of != first);
        self.lanes.peers.retain(|_, fan| fan.beside.socket != first);
    }

    /// What came to `socket` from `remote` after `hops` hops.
    pub(crate) fn arrival(&self, Path { socket, remote }: Path, hops: u8) -> Arrival {
        match self.lanes.sockets.get(&socket) {
            Some(&(first, _)) => Arrival { path: Path { socket: first, remote }, hops, lane: Some(socket) },
            None => Arrival { path: Path { socket, remote }, hops, lane: None },
        }
    }

    /// A frame went to `peer` over its own path: if it has no lanes yet, it gets them.
    pub(crate) fn want_lanes(&mut self, now: Now, peer: Address) {
        if self.lanes.sockets.is_empty() || self.lanes.peers.contains_key(&peer) || self.bonds.contains(peer) {
            return;
        }
        let Some(beside) = self.lane_path(now, peer) else { return };
        if self.lanes.peers.len() >= LANE_PEERS_MAX {
            self.counters.lanes_full += 1;
            return;
        }
        let fan = self.lanes.fan(beside, now.ms());
        if !fan.lanes.is_empty() {
            self.lanes.peers.insert(peer, fan);
            self.look_at_lanes(now, peer);
        }
    }

    /// Looks at all lanes that are used.
    pub(crate) fn lanes_tick(&mut self, now: Now) {
        for peer in self.lanes.peers.keys().copied().collect::<Vec<_>>() {
            self.look_at_lanes(now, peer);
        }
    }

    /// The path to `peer` beside which lanes may run now, if frames go there.
    fn lane_path(&self, now: Now, address: Address) -> Option<Path> {
        let now_ms = now.ms();
        let peer = self.peers.get(address)?;
        let busy = peer.last_frame_out.within(LANE_IDLE_MS, now_ms) && !self.bonds.contains(address);
        let way =
            self.way(address, now_ms).filter(|way| busy && way.owner == address && tolerates_lanes(peer.version))?;
        // Frames over a trusted path do not come from shards.
        let remote = way.path.remote;
        self.settings.trusted_path_to(remote.ip()).is_none().then_some(way.path)
    }

    fn look_at_lanes(&mut self, now: Now, peer: Address) {
        let now_ms = now.ms();
        let Some(beside) = self.lane_path(now, peer) else {
            self.lanes.peers.remove(&peer);
            return self.plan_peer(now, peer);
        };
        if self.lanes.peers.get(&peer).is_some_and(|fan| fan.beside != beside) {
            let fan = self.lanes.fan(beside, now_ms);
            self.lanes.peers.insert(peer, fan);
            self.plan_peer(now, peer);
        }
        let Some(fan) = self.lanes.peers.get_mut(&peer) else { return };
        let (mut lost, mut probes) = (0, Vec::new());
        for lane in &mut fan.lanes {
            if lane.pending.is_set() && lane.pending.age(now_ms) >= LANE_MISS_MS {
                lane.pending.clear();
                lane.missed = lane.missed.saturating_add(1);
                lane.next_probe_ms = now_ms;
                if lane.missed >= LANE_MISSES {
                    lost += u64::from(std::mem::take(&mut lane.proven));
                    lane.next_probe_ms = now_ms + LANE_RETRY_MS;
                }
            }
            if !lane.pending.is_set() && now_ms >= lane.next_probe_ms {
                lane.pending.set(now_ms);
                probes.push(lane.socket);
            }
        }
        for lane in probes {
            let cookie = self.random_id().to_be_bytes();
            self.send_echo(now, peer, Some(lane), beside.remote, Some(cookie));
        }
        if lost > 0 {
            self.counters.lanes_lost += lost;
            self.plan_peer(now, peer);
        }
    }

    /// `peer` answered an ECHO that had left by the lane, where it came back.
    pub(crate) fn lane_answered(&mut self, now: Now, peer: Address, socket: LocalSocketId, remote: SocketAddr) {
        let heartbeat_ms = LANE_PROBE_MS - self.random_below(LANE_PROBE_JITTER_MS);
        let fan = self.lanes.peers.get_mut(&peer).filter(|fan| fan.beside.remote == remote);
        let lane = fan.and_then(|fan| fan.lanes.iter_mut().find(|lane| lane.socket == socket));
        let Some(lane) = lane else { return };
        lane.pending.clear();
        lane.missed = 0;
        lane.next_probe_ms = now.ms() + heartbeat_ms;
        if !std::mem::replace(&mut lane.proven, true) {
            self.plan_peer(now, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_know_a_host_by_its_address_have_lanes() {
        let version = |major, minor, revision| Version { protocol: 12, major, minor, revision };
        assert!(tolerates_lanes(version(1, 10, 6)) && tolerates_lanes(version(1, 14, 1)));
        assert!(!tolerates_lanes(version(1, 10, 5)) && !tolerates_lanes(version(1, 8, 4)));
        assert!(!tolerates_lanes(Version::default()), "not known");
    }
}
