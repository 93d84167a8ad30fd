//! ICMP errors about what we sent over a path of a bond. Anyone can write one, so what it says is asked of the path itself
//! and never believed. Who receives them, and how they look, it does not know.

use std::net::SocketAddr;

use bond::{Action, Hint};
use wire::Now;
use wire::icmp::Cause;

use crate::Node;
use crate::io::LocalSocketId;
use crate::path::Path;

impl Node {
    /// An ICMP error says that a datagram of ours from this socket did not reach `remote`. `packet_id`: what that datagram
    /// begins with, if the error quotes it. There may be any number of these.
    pub fn handle_unreachable(
        &mut self,
        now: Now,
        socket: LocalSocketId,
        remote: SocketAddr,
        packet_id: Option<u64>,
        cause: Cause,
    ) {
        let path = Path { socket, remote };
        let peer = self.bonds.by_path.get(&path).copied();
        let held = peer.and_then(|peer| self.bonds.table.get_mut(&peer).map(|held| (peer, held)));
        let line = held.and_then(|(peer, held)| held.line_of(&path).map(|line| line.id).map(|id| (peer, id, held)));
        let Some((peer, id, held)) = line else {
            self.counters.bond_unreachable_dropped += 1;
            return;
        };
        match held.bond.unreachable(now, id, packet_id, cause) {
            Hint::Suspect => {
                self.counters.bond_unreachable += 1;
                self.tick_bond(now, peer);
            }
            Hint::Ask => {
                self.counters.bond_unreachable_asked += 1;
                // If the error is true there is soon another one, which names this request.
                self.bond_act(now, peer, Action::Probe(id));
                self.arm_bond(now, peer);
            }
            Hint::Nothing => self.counters.bond_unreachable_dropped += 1,
        }
    }
}
