//! Fast failover: a path that carries frames and brings nothing back is probed, and after two missed probes it is
//! suspect, so that frames take another path or the relay within two seconds. The first verified packet clears it.
//! ZeroTierOne waits 19 s for another path and 243 s for the relay.
// spec: paths, "Path selection", Gateway

use wire::{Address, Now};

use crate::Node;
use crate::limits::*;
use crate::path::{Path, Slot};

/// What looking at one slot came to.
enum Look {
    Fine,
    Probe,
    Suspect,
}

impl Node {
    /// A frame went to `peer`, or over one of its paths.
    pub(crate) fn watch(&mut self, now: Now, peer: Address) {
        if !self.settings.fast_failover || self.watched.contains(&peer) {
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
        for address in self.watched.iter().copied().collect::<Vec<_>>() {
            if !self.watch_peer(now, address) {
                self.watched.remove(&address);
            }
        }
    }

    /// False if no frames go there any more.
    fn watch_peer(&mut self, now: Now, address: Address) -> bool {
        let now_ms = now.ms();
        let Some(peer) = self.peers.get_mut(address) else { return false };
        let busy = peer.last_frame_out.within(TRAFFIC_WINDOW_MS, now_ms);
        let slow_echo = crate::peer::answers_echo_slowly(peer.version);
        let may_echo = !slow_echo || !peer.last_echo_out.within(WATCH_PROBE_SLOW_MS, now_ms);
        let slow = peer.upstream || slow_echo;
        let (mut probes, mut suspected, mut watching) = (Vec::new(), false, busy);
        for slot in &mut peer.slots {
            let carries = slot.last_frame_out.within(TRAFFIC_WINDOW_MS, now_ms);
            // A suspect path is probed for as long as frames go to the peer some other way.
            if slot.expired(now_ms) || !(carries || slot.watch.suspect && busy || slot.watch.pending.is_set()) {
                continue;
            }
            watching = true;
            match look(slot, slow, may_echo, now_ms) {
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

fn look(slot: &mut Slot, slow: bool, may_echo: bool, now_ms: u64) -> Look {
    let latency_ms = u64::from(slot.latency_us.unwrap_or(0)) / 1000;
    let watch = &mut slot.watch;
    if watch.pending.is_set() && watch.pending.age(now_ms) >= WATCH_MISS_MS.max(2 * latency_ms) {
        watch.pending.clear();
        watch.missed = watch.missed.saturating_add(1);
        if watch.missed == WATCH_MISSES && !watch.suspect {
            watch.suspect = true;
            return Look::Suspect;
        }
    }
    let interval = match (watch.suspect, watch.missed) {
        (true, _) => WATCH_PROBE_SLOW_MS,
        (false, 1..) => 0,
        (false, 0) if slow => WATCH_PROBE_SLOW_MS,
        (false, 0) => WATCH_PROBE_MS,
    };
    let silence = slot.last_verified.age(now_ms).min(watch.last_probe.age(now_ms));
    if watch.pending.is_set() || silence < interval || !may_echo {
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
