//! What happens by itself: the half-second tick, the ping check, housekeeping. Each is told the time and knows when it
//! wants to be called again.
// spec: paths, "Timers"

use std::collections::VecDeque;
use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::io::LocalSocketId;
use crate::limits::*;

/// How soon after a socket appeared upstreams are greeted from it; sockets that appear together share it. ms.
pub(crate) const NEW_SOCKET_MS: u64 = 20;

/// When what is due.
#[derive(Debug)]
pub(crate) struct Timers {
    pub(crate) next_tick_ms: u64,
    pub(crate) next_ping_ms: u64,
    pub(crate) next_watch_ms: u64,
    next_housekeeping_ms: u64,
    pub(crate) new_sockets: Vec<LocalSocketId>,
    /// Where peers were reached over sockets that are gone, and since when.
    pub(crate) lost_paths: VecDeque<(Address, SocketAddr, u64)>,
}

impl Timers {
    pub(crate) fn new(now: Now) -> Timers {
        let now_ms = now.ms();
        Timers {
            next_tick_ms: now_ms,
            next_ping_ms: now_ms,
            next_watch_ms: now_ms,
            next_housekeeping_ms: now_ms + HOUSEKEEPING_MS,
            new_sockets: Vec::new(),
            lost_paths: VecDeque::new(),
        }
    }
}

impl Node {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now_ms = now.ms();
        self.fire_probes(now);
        self.end_warm_ups(now);
        self.spread_step(now);
        self.send_reports(now);
        self.bonds_step(now);
        self.pacts_step(now);
        self.step_path_test(now);
        if now_ms >= self.timers.next_watch_ms && !self.watched.is_empty() {
            self.watch_tick(now);
        }
        if now_ms >= self.timers.next_tick_ms {
            self.timers.next_tick_ms = now_ms + TICK_MS;
            self.tick(now);
        }
        // Roots are greeted as soon as there is a socket to greet them from.
        if now_ms >= self.timers.next_ping_ms && !self.sockets.is_empty() {
            let jitter = self.random_below(2 * PING_CHECK_JITTER_MS + 1);
            self.timers.next_ping_ms = now_ms + PING_CHECK_MS - PING_CHECK_JITTER_MS + jitter;
            self.ping_check(now);
        }
        self.network_timeout(now);
    }

    fn tick(&mut self, now: Now) {
        let now_ms = now.ms();
        self.greet_from_new_sockets(now);
        self.counters.waiting_timeout += self.waiting.expire(now_ms);
        self.counters.queue_timeout += self.queue.expire(now_ms);
        self.expire_rendezvous(now);
        self.expectations.expire(now_ms);
        self.reassembler.expire(now);
        self.repeat_whois(now);
        for waiting in self.queue.destinations() {
            self.flush(now, waiting);
        }
        self.upstreams_changed(now);
        self.keep_peers_alive(now);
        self.push_after_change(now);
        self.lanes_tick(now);
        self.close_spread_sockets();
        self.expire_proofs(now);
        self.prove_wanted(now);
        self.plan_all(now);
        if now_ms >= self.timers.next_housekeeping_ms {
            self.timers.next_housekeeping_ms = now_ms + HOUSEKEEPING_MS;
            self.housekeeping(now);
        }
    }

    fn ping_check(&mut self, now: Now) {
        self.contact_upstreams(now);
        self.check_online(now);
    }

    fn housekeeping(&mut self, now: Now) {
        let now_ms = now.ms();
        let silent = |p: &crate::peer::Peer| !p.alive(now_ms) && !p.upstream;
        // Who was just told to us has not had the time to speak.
        let settled = |p: &crate::peer::Peer| now_ms.saturating_sub(p.created_ms) >= HOUSEKEEPING_MS;
        let gone: Vec<Address> = self.peers.iter().filter(|(_, p)| silent(p) && settled(p)).map(|(&a, _)| a).collect();
        for address in gone {
            self.forget(now, address);
        }
        self.peers.count_strangers();
        self.surfaces.expire(now_ms);
        self.timers.lost_paths.retain(|(_, _, at)| now_ms.saturating_sub(*at) < LOST_PATHS_MS);
        self.narrowed.expire(now_ms);
        self.spreads.forget_idle(now_ms);
        self.gates.expire(now_ms);
        self.targets.expire(now_ms);
        self.introductions.expire(now_ms);
        self.authorised.expire(now_ms);
        self.expire_reports(now);
        self.expire_bonds(now);
    }
}
