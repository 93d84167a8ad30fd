//! RENDEZVOUS obeyed: an upstream tells where a peer may be met; we open our own NAT towards it at once, knock when the
//! peer has had the time to do the same, and a few times more. Also the timed probes that takes, those that pushes cause
//! included. Only upstreams are obeyed, and not too often.
// spec: paths, "RENDEZVOUS", receiver; "NAT traversal as a whole"

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::Rng;
use wire::endpoint::{self, Scope};
use wire::message::Rendezvous as RendezvousMessage;
use wire::{Address, Now};

use crate::Node;
use crate::dispatch::{Handled, Heard};
use crate::gate::Rate;
use crate::io::LocalSocketId;
use crate::limits::*;
use crate::path::Path;
use crate::send::Arrival;

const PER_UPSTREAM: Rate = Rate::per_second(RENDEZVOUS_PER_UPSTREAM_PER_S);

/// An introduction of a peer that is not known yet.
#[derive(Clone, Copy, Debug)]
struct Held {
    peer: Address,
    path: Path,
    until_ms: u64,
}

/// A probe that is to be sent unless the peer was heard from that address before.
#[derive(Clone, Copy, Debug)]
struct TimedProbe {
    at_ms: u64,
    peer: Address,
    /// `None`: from all links.
    socket: Option<LocalSocketId>,
    remote: SocketAddr,
    since_ms: u64,
}

/// Introductions under way.
#[derive(Debug, Default)]
pub(crate) struct Rendezvous {
    held: Vec<Held>,
    /// In the order of their time.
    probes: Vec<TimedProbe>,
    /// When each named peer was last met, and where.
    met: BTreeMap<Address, (u64, Path)>,
}

impl Rendezvous {
    pub(crate) fn next_probe_ms(&self) -> Option<u64> {
        self.probes.first().map(|p| p.at_ms)
    }

    /// Peers not known yet of whom an introduction waits.
    pub(crate) fn held_peers(&self) -> impl Iterator<Item = Address> {
        self.held.iter().map(|h| h.peer)
    }

    /// One introduction per named peer and two seconds.
    fn pass(&mut self, peer: Address, path: Path, now_ms: u64) -> bool {
        let gated = |(at, _): &(u64, Path)| now_ms.saturating_sub(*at) < RENDEZVOUS_GATE_MS;
        if self.met.get(&peer).is_some_and(gated) {
            return false;
        }
        if self.met.len() >= RENDEZVOUS_PEERS_MAX {
            self.met.retain(|_, met| gated(met));
        }
        if self.met.len() >= RENDEZVOUS_PEERS_MAX {
            return false;
        }
        self.met.insert(peer, (now_ms, path));
        true
    }

    /// Where an upstream said lately that `peer` may be met.
    pub(crate) fn met_at(&self, peer: Address, now_ms: u64) -> Option<Path> {
        let lately = |(at, _): &&(u64, Path)| now_ms.saturating_sub(*at) < SPREAD_VOUCHED_MS;
        self.met.get(&peer).filter(lately).map(|(_, path)| *path)
    }

    fn schedule(&mut self, probe: TimedProbe) -> bool {
        if self.probes.len() >= TIMED_PROBES_MAX {
            return false;
        }
        let at = self.probes.partition_point(|p| p.at_ms <= probe.at_ms);
        self.probes.insert(at, probe);
        true
    }

    /// Drops probes of `peer` at `remote`: it does not want to be met there any more.
    pub(crate) fn cancel(&mut self, peer: Address, remote: SocketAddr) {
        self.probes.retain(|p| p.peer != peer || p.remote != remote);
    }

    /// A probe of `peer` at `remote` waits for its time.
    pub(crate) fn is_probing(&self, peer: Address, remote: SocketAddr) -> bool {
        self.probes.iter().any(|p| p.peer == peer && p.remote == remote)
    }

    /// Introductions held, probes waiting, peers remembered.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.held.len(), self.probes.len(), self.met.len()]
    }
}

impl Node {
    pub(crate) fn rendezvous_received(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        payload: &[u8],
    ) -> Handled {
        let rendezvous = RendezvousMessage::parse(payload)?;
        if !self.roots.is_upstream_address(from) {
            self.counters.rendezvous_stranger += 1;
            return Ok(Heard::YES);
        }
        let Some(remote) = rendezvous.endpoint else { return Ok(Heard::YES) };
        let (named, path) = (rendezvous.peer, Path { socket: arrival.path.socket, remote });
        if named == self.address() || named.is_reserved() {
            return Ok(Heard::YES);
        }
        self.recall(now, named);
        if !self.acceptable(named, remote) {
            return Ok(Heard::YES);
        }
        let allowed = self.peers.get_mut(from).is_some_and(|p| p.rendezvous.take(PER_UPSTREAM, now.ms()));
        if !allowed || !self.rendezvous.pass(named, path, now.ms()) {
            self.counters.rendezvous_over_rate += 1;
            return Ok(Heard::YES);
        }
        if self.peers.contains(named) {
            self.meet_at(now, named, path);
        } else if self.rendezvous.held.len() < RENDEZVOUS_HELD_MAX {
            // ZeroTierOne forgets it, which costs a cold start up to 30 s.
            self.rendezvous.held.push(Held { peer: named, path, until_ms: now.ms() + RENDEZVOUS_HELD_MS });
            self.ask_identity(now, named, true);
        } else {
            self.counters.rendezvous_dropped += 1;
        }
        Ok(Heard::YES)
    }

    /// Opens our own NAT, knocks as soon as the peer has opened its own, and will knock again.
    fn meet_at(&mut self, now: Now, peer: Address, path: Path) {
        let Path { socket, remote } = path;
        let wait_ms = self.opening_ms(now, remote);
        if self.may_probe(now, peer, remote, 1) {
            self.open_own_nat(Some(socket), remote, HOLE_PUNCH_TTL);
        }
        if wait_ms == 0 {
            self.contact(now, peer, Some(socket), remote, false);
        }
        let first = (wait_ms > 0).then_some(0);
        for delay_ms in first.into_iter().chain(RENDEZVOUS_RETRIES_MS) {
            self.probe_later(now, wait_ms + delay_ms, peer, Some(socket), remote);
        }
    }

    /// `peer` says that it can be reached at `remote`: the same from all links, once, unless it is being met there.
    pub(crate) fn try_pushed(&mut self, now: Now, peer: Address, remote: SocketAddr) {
        let wait_ms = self.opening_ms(now, remote);
        if wait_ms == 0 {
            return self.contact(now, peer, None, remote, false);
        }
        if !self.rendezvous.is_probing(peer, remote) && self.may_probe(now, peer, remote, self.fan_out(remote).len()) {
            self.open_own_nat(None, remote, HOLE_PUNCH_TTL);
        }
        self.probe_later(now, wait_ms, peer, None, remote);
    }

    /// Sends what opens our own NAT towards `remote` and dies on the way.
    pub(crate) fn open_own_nat(&mut self, socket: Option<LocalSocketId>, remote: SocketAddr, ttl: u8) {
        let mut junk = vec![0; HOLE_PUNCH_BYTES];
        self.rng.fill_bytes(&mut junk);
        self.emit(socket, remote, remote.is_ipv4().then_some(ttl), junk);
    }

    /// How long the other side may take to open its own NAT towards us: one round trip by the relay, both halves of
    /// which we take to be like our own. A router without a filter towards the internet takes what comes before that for
    /// its own, and from then on gives the flow another port. Nothing is translated between private addresses and for
    /// IPv6, so nothing is waited for there.
    pub(crate) fn opening_ms(&self, now: Now, remote: SocketAddr) -> u64 {
        if remote.is_ipv6() || !matches!(endpoint::scope(remote.ip()), Scope::Global | Scope::PseudoPrivate) {
            return 0;
        }
        let relay = self.roots.best().and_then(|upstream| self.peers.get(upstream)?.latency_us(now.ms()));
        let round_trip_ms = relay.map_or(PUNCH_WAIT_MAX_MS, |us| 2 * u64::from(us) / 1000);
        round_trip_ms.clamp(PUNCH_WAIT_MIN_MS, PUNCH_WAIT_MAX_MS)
    }

    fn probe_later(
        &mut self,
        now: Now,
        wait_ms: u64,
        peer: Address,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
    ) {
        let probe = TimedProbe { at_ms: now.ms() + wait_ms, peer, socket, remote, since_ms: now.ms() };
        if !self.rendezvous.schedule(probe) {
            self.counters.timed_probes_full += 1;
        }
    }

    /// `peer` became known: introductions that waited for it go on.
    pub(crate) fn release_rendezvous(&mut self, now: Now, peer: Address) {
        let (ready, waiting): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.rendezvous.held).into_iter().partition(|h| h.peer == peer);
        self.rendezvous.held = waiting;
        for held in ready {
            if now.ms() <= held.until_ms && self.acceptable(peer, held.path.remote) {
                self.meet_at(now, peer, held.path);
            } else {
                self.counters.rendezvous_dropped += 1;
            }
        }
    }

    pub(crate) fn expire_rendezvous(&mut self, now: Now) {
        let before = self.rendezvous.held.len();
        self.rendezvous.held.retain(|h| now.ms() <= h.until_ms);
        self.counters.rendezvous_dropped += (before - self.rendezvous.held.len()) as u64;
    }

    /// Sends the probes whose time has come, to peers not heard from that IP since.
    pub(crate) fn fire_probes(&mut self, now: Now) {
        let due = self.rendezvous.probes.partition_point(|p| p.at_ms <= now.ms());
        for probe in self.rendezvous.probes.drain(..due).collect::<Vec<_>>() {
            let heard = self.peers.get(probe.peer).is_none_or(|peer| {
                peer.slots.iter().any(|s| {
                    s.path.remote.ip() == probe.remote.ip()
                        && s.last_verified.get().is_some_and(|at| at >= probe.since_ms)
                })
            });
            if !heard {
                self.contact(now, probe.peer, probe.socket, probe.remote, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Path = Path {
        socket: LocalSocketId(1),
        remote: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 1),
    };

    #[test]
    fn timed_probes_and_remembered_peers_are_bounded_and_in_order() {
        let mut r = Rendezvous::default();
        for n in 0..5000u64 {
            r.pass(Address::from_u64(n + 1), AT, 0);
            let at_ms = n % 7 * 100;
            let remote = AT.remote;
            r.schedule(TimedProbe { at_ms, peer: Address::from_u64(1), socket: None, remote, since_ms: 0 });
        }
        assert_eq!(r.sizes(), [0, TIMED_PROBES_MAX, RENDEZVOUS_PEERS_MAX]);
        assert!(r.probes.is_sorted_by_key(|p| p.at_ms));
        assert!(r.pass(Address::from_u64(9999), AT, RENDEZVOUS_GATE_MS));
        r.cancel(Address::from_u64(1), AT.remote);
        assert_eq!(r.next_probe_ms(), None);
    }
}
