//! Looking for the further paths of a bonded peer: every link of ours is tried towards every endpoint at which the peer
//! was met or that it names. Without a bond one path to a host is enough, and nobody looks for more.
// spec: bonding, "Model"; paths, "Path learning"

use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::io::LocalSocketId;
use crate::limits::*;

/// Where a peer may be met, and when all of it is tried next.
#[derive(Debug)]
pub(super) struct Search {
    /// The latest last.
    remotes: Vec<SocketAddr>,
    /// Rounds since there was news.
    round: usize,
    next_us: u64,
}

impl Search {
    /// Begins at once.
    pub(super) fn new(now_us: u64) -> Search {
        Search { remotes: Vec::new(), round: 0, next_us: now_us }
    }

    pub(super) fn next_us(&self) -> u64 {
        self.next_us
    }

    /// The peer was met there.
    pub(super) fn learned(&mut self, remote: SocketAddr, now_us: u64) {
        let known = self.remotes.contains(&remote);
        self.remotes.retain(|r| *r != remote);
        if self.remotes.len() >= BOND_REMOTES_MAX {
            self.remotes.remove(0);
        }
        self.remotes.push(remote);
        if !known {
            self.again(now_us);
        }
    }

    /// There is news: all is tried anew.
    fn again(&mut self, now_us: u64) {
        (self.round, self.next_us) = (0, now_us);
    }

    fn tried(&mut self, now_us: u64) {
        self.next_us = BOND_SEARCH_MS.get(self.round).map_or(u64::MAX, |ms| now_us + ms * 1000);
        self.round += 1;
    }
}

impl Node {
    /// The peer says that it can be reached there. Who has no bond yet may get one, and does not say it again soon.
    pub(crate) fn bond_told(&mut self, now: Now, peer: Address, remote: SocketAddr) {
        let Some(held) = self.bonds.table.get_mut(&peer) else {
            if self.settings.bonding.of(peer.to_u64()).is_some()
                && let Some(known) = self.peers.get_mut(peer)
                && !known.told.contains(&remote)
            {
                if known.told.len() >= BOND_REMOTES_MAX {
                    known.told.remove(0);
                }
                known.told.push(remote);
            }
            return;
        };
        if !held.search.remotes.contains(&remote) {
            held.search.learned(remote, now.mono_us);
            self.arm_bond(now, peer);
        }
    }

    /// A socket is new: it may be one more path to each bonded peer.
    pub(crate) fn bonds_have_new_socket(&mut self, now: Now) {
        for peer in self.bonds.table.keys().copied().collect::<Vec<_>>() {
            if let Some(held) = self.bonds.table.get_mut(&peer) {
                held.search.again(now.mono_us);
            }
            self.bonds.set_due(peer, now.mono_us);
        }
    }

    /// Greets the peer over every link by which it is not reached yet, at every endpoint.
    pub(super) fn search_paths(&mut self, now: Now, peer: Address) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        if held.search.next_us > now.mono_us {
            return;
        }
        let told = self.peers.get_mut(peer).map(|known| std::mem::take(&mut known.told));
        for remote in told.into_iter().flatten() {
            held.search.learned(remote, now.mono_us);
        }
        held.search.tried(now.mono_us);
        let remotes = held.search.remotes.clone();
        let Some(known) = self.peers.get(peer) else { return };
        let params = held.bond.params().clone();
        let mut missing: Vec<(LocalSocketId, SocketAddr)> = Vec::new();
        for &remote in remotes.iter().rev() {
            for socket in self.first_of_links(remote) {
                let there = known.slots.iter().any(|s| s.path.socket == socket.id && s.path.remote.ip() == remote.ip());
                if !there && !socket.is_tunnel() && params.link(&socket.link).is_some() {
                    missing.push((socket.id, remote));
                }
            }
        }
        for (socket, remote) in missing.into_iter().take(BOND_SEARCH_MAX) {
            let proven = self.peers.get(peer).is_some_and(|p| p.slots.iter().any(|s| s.path.remote == remote));
            if self.acceptable(peer, remote) && (proven || self.may_probe(now, peer, remote, 1)) {
                self.counters.bond_searches += 1;
                self.send_hello(now, peer, Some(socket), remote);
            }
        }
    }
}
