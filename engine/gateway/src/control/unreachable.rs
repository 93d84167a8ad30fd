//! ICMP errors on their way to the node: whose datagrams they are about. They are heard only while something is to be
//! bonded; without bonds nothing hears them and nothing is changed by them.

use std::net::SocketAddr;

use node::LocalSocketId;
use tracing::debug;
use wire::Now;
use wire::endpoint::to_text;
use wire::icmp::Unreachable;

use super::Control;

impl Control {
    /// As the settings say.
    pub(super) fn set_unreachables(&mut self) {
        self.unreachables.listen(self.p.bonds.bonding.in_use());
    }

    /// Somewhere a datagram ended, perhaps one of ours.
    pub(super) fn unreachable(&mut self, now: Now, said: Unreachable) {
        let Some(socket) = self.socket_from(said.from) else {
            self.counters.unreachable_foreign += 1;
            return;
        };
        debug!(from = to_text(said.from), remote = to_text(said.to), id = ?said.packet_id, "ICMP: {}", said.cause);
        self.p.node.handle_unreachable(now, socket, said.to, said.packet_id, said.cause);
    }

    fn socket_from(&self, local: SocketAddr) -> Option<LocalSocketId> {
        self.links.iter().flat_map(|link| link.endpoints()).find(|(_, at)| *at == local).map(|(id, _)| id)
    }
}
