//! Fast failover: a path that carries frames and brings nothing back is probed, and after two missed probes it is
//! suspect, so that frames take another path or the relay within a second. An answer over it clears it. What a peer does
//! may cast doubt on a path sooner: it speaks some other way, or asks whether we are there while frames go to it.
//! ZeroTierOne waits 19 s for another path and 243 s for the relay.
// spec: paths, "Path selection", Gateway

use std::collections::BTreeSet;
use std::net::SocketAddr;

use wire::{Address, Now, Verb};

use crate::Node;
use crate::io::LocalSocketId;
use crate::limits::*;
use crate::path::{Path, Slot, Watch};
use crate::send::Arrival;

/// What looking at one slot came to.
enum Look {
    Fine,
    Probe,
    Suspect,
}

impl Node {
    /// A frame went to `peer`, or over one of its paths.
    pub(crate) fn watch(&mut self, now: Now, peer: Address) {
        // Who has a bond has somebody else to look after its paths.
        if !self.settings.fast_failover || self.watched.contains(&peer) || self.bonds.contains(peer) {
            return;
        }
        if self.watched.len() >= WATCHED_MAX {
            self.counters.watched_full += 1;
            return;
        }
        if self.watched.is_empty() {
            self.timers.next_watch_ms = now.ms() + WATCH_MS;
        }
        self.watched.insert(peer);
    }

    /// Looks at every path that carries frames, or did until it became suspect.
    pub(crate) fn watch_tick(&mut self, now: Now) {
        let now_ms = now.ms();
        self.timers.next_watch_ms = now_ms + WATCH_MS;
        if !self.settings.fast_failover {
            // Switched off a moment ago: nothing is held against a path any more.
            self.watched.clear();
            self.refused.clear();
            let slots = self.peers.iter_mut().flat_map(|(_, p)| &mut p.slots);
            slots.for_each(|s| s.watch = Watch::default());
            return self.plan_all(now);
        }
        let refused = std::mem::take(&mut self.refused);
        for address in self.watched.iter().copied().collect::<Vec<_>>() {
            if !self.watch_peer(now, address, &refused) {
                self.watched.remove(&address);
            }
        }
    }

    /// False if no frames go there any more. `refused`: paths over which the kernel did not send of late.
    fn watch_peer(&mut self, now: Now, address: Address, refused: &BTreeSet<Path>) -> bool {
        let now_ms = now.ms();
        let Some(peer) = self.peers.get_mut(address).filter(|_| !self.bonds.contains(address)) else { return false };
        let busy = peer.last_frame_out.within(TRAFFIC_WINDOW_MS, now_ms);
        let slow_echo = crate::peer::answers_echo_slowly(peer.version);
        let may_echo = !slow_echo || !peer.last_echo_out.within(WATCH_PROBE_SLOW_MS, now_ms);
        let silence_ms = match (slow_echo, peer.upstream) {
            (true, _) => WATCH_PROBE_SLOW_MS,
            (false, true) => WATCH_PROBE_UPSTREAM_MS,
            (false, false) => WATCH_PROBE_MS,
        };
        let (mut probes, mut suspected, mut watching) = (Vec::new(), false, busy);
        for slot in &mut peer.slots {
            if refused.contains(&slot.path) {
                self.counters.path_doubted += u64::from(slot.doubt(now_ms));
            }
            let carries = slot.last_frame_out.within(TRAFFIC_WINDOW_MS, now_ms);
            // A suspect path is probed for as long as frames go to the peer some other way.
            if slot.expired(now_ms) || !(carries || slot.watch.suspect && busy || slot.watch.pending.is_set()) {
                continue;
            }
            watching = true;
            match look(slot, silence_ms, may_echo, now_ms) {
                Look::Fine => {}
                Look::Probe => probes.push(slot.path),
                Look::Suspect => suspected = true,
            }
        }
        for Path { socket, remote } in probes {
            self.contact(now, address, Some(socket), remote, false);
        }
        if suspected {
            self.counters.path_suspected += 1;
            self.path_changed(now, address);
        }
        watching
    }
}

impl Node {
    /// What the arrival of a packet says of other paths than its own.
    pub(crate) fn watch_arrival(&mut self, now: Now, arrival: &Arrival, from: Address, verb: Option<Verb>) {
        let now_ms = now.ms();
        if !self.settings.fast_failover {
            return;
        }
        if !arrival.direct() {
            let relays = |u: &Address| self.peers.get(*u).is_some_and(|p| p.slot(&arrival.path).is_some());
            let owner = self.roots.upstreams().map(|(u, _)| u).find(relays);
            if let Some(slot) = owner.and_then(|u| self.peers.get_mut(u)?.slot_mut(&arrival.path)) {
                slot.watch.relayed.set(now_ms);
            }
        }
        let frame = verb.is_some_and(crate::learn::is_nontrivial);
        let (link, _) = self.place(arrival.path.socket);
        let Some(peer) = self.peers.get_mut(from).filter(|_| !self.bonds.contains(from)) else { return };
        let carries = |s: &&mut Slot| s.last_frame_out.within(WATCH_PROBE_MS, now_ms) && s.alive(now_ms);
        let Some(slot) = peer.slots.iter_mut().filter(carries).max_by_key(|s| s.last_frame_out.get()) else { return };
        // Perhaps to a port of ours that we have no path from.
        let here = arrival.direct() && slot.first == link && slot.path.remote == arrival.path.remote;
        let silent = !slot.last_verified.within(WATCH_DOUBT_SILENCE_MS, now_ms);
        if here && verb == Some(Verb::Echo) || !here && frame && silent {
            self.counters.path_doubted += u64::from(slot.doubt(now_ms));
        }
    }

    /// The kernel would not send a datagram there: no route, say. There may be as many of these as of datagrams.
    pub fn handle_send_refused(&mut self, now: Now, socket: LocalSocketId, remote: SocketAddr) {
        self.bond_path_lost(now, &Path { socket, remote });
        if self.settings.fast_failover && !self.watched.is_empty() && self.refused.len() < WATCHED_MAX {
            self.refused.insert(Path { socket, remote });
        }
    }
}

fn look(slot: &mut Slot, silence_ms: u64, may_echo: bool, now_ms: u64) -> Look {
    let latency_ms = u64::from(slot.latency_us.unwrap_or(0)) / 1000;
    let watch = &mut slot.watch;
    let miss_ms = if watch.doubted { WATCH_MISS_DOUBTED_MS } else { WATCH_MISS_MS };
    if watch.pending.is_set() && watch.pending.age(now_ms) >= miss_ms.max(2 * latency_ms) {
        watch.pending.clear();
        watch.missed = watch.missed.saturating_add(1);
        let misses = if watch.doubted { WATCH_MISSES_DOUBTED } else { WATCH_MISSES };
        if watch.missed >= misses && !watch.suspect {
            watch.suspect = true;
            watch.doubted = false;
            return Look::Suspect;
        }
    }
    let heard = slot.last_verified.age(now_ms).min(watch.relayed.age(now_ms));
    let interval = match watch.suspect {
        // Something comes over it again: perhaps the way out works as well.
        true if heard < watch.last_probe.age(now_ms) => silence_ms,
        true => WATCH_PROBE_SLOW_MS,
        false if watch.doubted || watch.missed > 0 => 0,
        // What an upstream relayed came all the time, and stopped.
        false if watch.relayed.within(TRAFFIC_WINDOW_MS, now_ms) => silence_ms.min(WATCH_PROBE_MS),
        false => silence_ms,
    };
    let silence = if interval == 0 || watch.suspect { u64::MAX } else { heard };
    if watch.pending.is_set() || silence.min(watch.last_probe.age(now_ms)) < interval || !may_echo {
        return Look::Fine;
    }
    watch.pending.set(now_ms);
    watch.last_probe.set(now_ms);
    Look::Probe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_noted_once_a_path_and_within_bounds_until_the_next_look() {
        let (mut node, now) = (crate::tests::node(), Now::at_ms(1000));
        let refuse = |node: &mut Node, paths: u64| {
            let remote = "192.0.2.1:9993".parse().unwrap();
            (0..paths).for_each(|n| node.handle_send_refused(now, LocalSocketId(n % 10_000), remote));
            node.refused.len()
        };
        assert_eq!(refuse(&mut node, 3), 0, "nobody is watched");
        node.watch(now, Address::from_u64(1));
        assert_eq!(refuse(&mut node, 3), 3);
        assert_eq!(refuse(&mut node, 50_000), WATCHED_MAX);
        node.watch_tick(now);
        assert!(node.refused.is_empty());
    }

    #[test]
    fn watched_peers_are_bounded_and_those_without_frames_are_let_go() {
        let (mut node, now) = (crate::tests::node(), Now::at_ms(1000));
        (0..WATCHED_MAX as u64 + 10).for_each(|n| node.watch(now, Address::from_u64(n + 1)));
        assert_eq!((node.watched.len(), node.counters.watched_full), (WATCHED_MAX, 10));
        node.watch(now, Address::from_u64(1));
        assert_eq!(node.counters.watched_full, 10, "watched already");
        node.watch_tick(now);
        assert!(node.watched.is_empty());
    }
}
