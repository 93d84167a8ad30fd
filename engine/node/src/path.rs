//! One path to one peer: over which socket and to which endpoint, when it last proved itself, how good it is. It knows
//! how to compare itself with others; it never sends anything.

use std::net::SocketAddr;

use wire::endpoint::{Scope, scope};

use crate::gate::Stamp;
use crate::io::{LocalSocketId, Port};
use crate::latency::RoundTrips;
use crate::limits::*;

/// A physical path: one of our sockets and a remote endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Path {
    pub(crate) socket: LocalSocketId,
    pub(crate) remote: SocketAddr,
}

impl Path {
    /// Same remote IP on the same socket; the port does not count. // spec: paths, "Path learning"
    pub(crate) fn same_host(&self, other: &Path) -> bool {
        self.socket == other.socket && self.remote.ip() == other.remote.ip()
    }
}

/// How probing of a path that carries frames stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    /// When the probe that is still unanswered was sent.
    pub(crate) pending: Stamp,
    /// When any probe was last sent.
    pub(crate) last_probe: Stamp,
    /// Probes missed one after the other.
    pub(crate) missed: u8,
    /// Enough of them: not to be used while there is another way, until a probe is answered.
    pub(crate) suspect: bool,
    /// Something said that what we send over it does not arrive: probed at once, and only an answer helps.
    pub(crate) doubted: bool,
    pub(crate) last_doubt: Stamp,
    /// When the peer was last followed away from it.
    pub(crate) last_left: Stamp,
    /// When something last came that its owner, an upstream, relayed.
    pub(crate) relayed: Stamp,
}

/// A path that a peer proved, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) path: Path,
    /// The first port at the address of our socket, and which port that socket has.
    pub(crate) first: LocalSocketId,
    pub(crate) port: Port,
    /// Last authenticated packet of this peer over this path, not relayed. The only clock that decides anything.
    // spec: paths, "Hardening bounds", Path liveness
    pub(crate) last_verified: Stamp,
    pub(crate) last_out: Stamp,
    /// Last frame sent over it, by us or by a shard.
    pub(crate) last_frame_out: Stamp,
    /// What paths are compared by.
    pub(crate) latency_us: Option<u32>,
    /// What the operator is told.
    pub(crate) round_trips: RoundTrips,
    /// 1, or more after a cluster redirect.
    pub(crate) priority: u16,
    /// Silence of ours after which it gets a heartbeat.
    pub(crate) heartbeat_ms: u64,
    pub(crate) watch: Watch,
}

impl Slot {
    pub(crate) fn new(path: Path, priority: u16, heartbeat_ms: u64, now_ms: u64) -> Slot {
        Slot {
            path,
            first: path.socket,
            port: Port::Primary,
            last_verified: Stamp::at(now_ms),
            last_out: Stamp::NEVER,
            last_frame_out: Stamp::NEVER,
            latency_us: None,
            round_trips: RoundTrips::default(),
            priority: priority.max(1),
            heartbeat_ms,
            watch: Watch::default(),
        }
    }

    /// An authenticated packet came straight over it; `answer` to something that we sent there. What comes by itself says
    /// nothing of the way out: a path that lost it is usable again when it brings an answer.
    pub(crate) fn verified(&mut self, now_ms: u64, answer: bool) {
        self.last_verified.set(now_ms);
        if answer || !(self.watch.suspect || self.watch.doubted) {
            let Watch { last_probe, last_doubt, last_left, relayed, .. } = self.watch;
            self.watch = Watch { last_probe, last_doubt, last_left, relayed, ..Watch::default() };
        }
    }

    /// Something says that what we send over it does not arrive. False if that was just looked into.
    pub(crate) fn doubt(&mut self, now_ms: u64) -> bool {
        let news = !self.watch.suspect && self.watch.last_doubt.pass(WATCH_DOUBT_MS, now_ms);
        self.watch.doubted |= news;
        news
    }

    pub(crate) fn alive(&self, now_ms: u64) -> bool {
        self.last_verified.within(PATH_ALIVE_MS, now_ms) && !self.watch.suspect
    }

    pub(crate) fn expired(&self, now_ms: u64) -> bool {
        !self.last_verified.within(PATH_EXPIRATION_MS, now_ms)
    }

    pub(crate) fn needs_heartbeat(&self, now_ms: u64) -> bool {
        !self.last_out.within(self.heartbeat_ms, now_ms)
    }

    pub(crate) fn scope(&self) -> Scope {
        scope(self.path.remote.ip())
    }

    /// Lower is better. // spec: paths, "Path selection"
    pub(crate) fn score(&self, now_ms: u64) -> u64 {
        let latency = self.latency_us.map_or(UNKNOWN_LATENCY_MS, |us| u64::from(us) / 1000);
        let age = self.last_verified.age(now_ms).min(QUALITY_AGE_CAP_MS);
        let latency = if self.alive(now_ms) { latency } else { latency + DEAD_PATH_PENALTY_MS + age };
        latency * (8 - self.scope() as u64) / u64::from(self.priority)
    }

    /// It leads to the same host as `other` and leaves by an earlier port of the same address. What goes there goes by it,
    /// and never to and fro.
    pub(crate) fn stands_before(&self, other: &Slot) -> bool {
        self.port < other.port
            && self.first == other.first
            && self.path.remote.ip() == other.path.remote.ip()
            && self.priority >= other.priority
    }

    /// Frames that go over it stay, although `better` has a lower score.
    pub(crate) fn holds_against(&self, better: &Slot, now_ms: u64) -> bool {
        let margin = PATH_HOLD_MS * (8 - self.scope() as u64);
        self.priority >= better.priority && self.score(now_ms) <= 2 * better.score(now_ms) + margin
    }

    /// Takes a round trip into account. // spec: paths, "Latency"
    pub(crate) fn measured(&mut self, sample_us: u32, now_ms: u64) {
        self.round_trips.add(sample_us, now_ms);
        self.latency_us =
            Some(self.latency_us.map_or(sample_us, |us| ((u64::from(us) + u64::from(sample_us)) / 2) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(remote: &str, latency_ms: Option<u32>) -> Slot {
        let path = Path { socket: LocalSocketId(1), remote: remote.parse().unwrap() };
        Slot { latency_us: latency_ms.map(|ms| ms * 1000), ..Slot::new(path, 1, PATH_HEARTBEAT_MS, 0) }
    }

    #[test]
    fn a_private_path_of_39_ms_beats_a_global_path_of_10_ms() {
        assert!(slot("10.0.0.1:1", Some(39)).score(0) < slot("8.8.8.8:1", Some(10)).score(0));
        assert!(slot("10.0.0.1:1", Some(41)).score(0) > slot("8.8.8.8:1", Some(10)).score(0));
    }

    #[test]
    fn a_private_path_of_unknown_latency_loses_to_a_measured_global_one() {
        assert!(slot("10.0.0.1:1", None).score(0) > slot("8.8.8.8:1", Some(100)).score(0));
    }

    #[test]
    fn a_path_is_dead_after_19_s_and_expired_after_243_s() {
        let slot = slot("8.8.8.8:1", Some(1));
        assert!(slot.alive(18_999) && !slot.alive(19_000));
        assert!(!slot.expired(242_999) && slot.expired(243_000));
        assert!(slot.score(19_000) > slot.score(18_999) + 65_535);
    }
}
