//! Our ports: which sockets stand beside the first one of a link, which of them make contact, and which of several that
//! lead to the same host is used. ZeroTierOne greets from all its ports all the time; here the further ports make contact
//! and show how a NAT maps them, and what they alone reach is kept alive. Knows no port number.
// spec: paths, "Sockets and ports"

use std::net::SocketAddr;

use wire::{Address, Now};

use crate::Node;
use crate::io::{LocalSocketId, Port, Socket};
use crate::path::Path;

impl Node {
    /// The sockets from which a [`crate::Output::Send`] without a socket goes out: of each link the first that has the
    /// remote's family, then the further ports of the same addresses.
    // spec: paths, "Sockets and ports", fan-out
    pub fn fan_out(&self, remote: SocketAddr) -> Vec<LocalSocketId> {
        let first = self.first_of_links(remote);
        let beside = |s: &&Socket| first.iter().any(|f| same_place(f, s));
        let mut all: Vec<&Socket> = self.sockets.values().filter(beside).collect();
        all.sort_by_key(|s| (s.port, s.id));
        all.into_iter().map(|s| s.id).collect()
    }

    /// Of each link the first socket that has the remote's family.
    pub(crate) fn first_of_links(&self, remote: SocketAddr) -> Vec<&Socket> {
        let mut of_family: Vec<&Socket> =
            self.sockets.values().filter(|s| s.local.is_ipv4() == remote.is_ipv4()).collect();
        of_family.sort_by_key(|s| (s.port, s.id));
        let mut first: Vec<&Socket> = Vec::new();
        for socket in of_family {
            if first.iter().all(|s| s.link != socket.link) {
                first.push(socket);
            }
        }
        first
    }

    /// HELLO from one socket of each link, where every port would be too many.
    pub(crate) fn send_hello_by_links(&mut self, now: Now, to: Address, remote: SocketAddr) {
        if self.sockets.values().all(|s| s.port == Port::Primary) {
            return self.send_hello(now, to, None, remote);
        }
        let first: Vec<LocalSocketId> = self.first_of_links(remote).iter().map(|s| s.id).collect();
        for socket in first {
            self.send_hello(now, to, Some(socket), remote);
        }
    }

    /// The first socket of a link.
    pub(crate) fn is_first_of_link(&self, socket: LocalSocketId, remote: SocketAddr) -> bool {
        self.first_of_links(remote).iter().any(|s| s.id == socket)
    }

    /// The first port at the address of a socket, and which port that socket itself has.
    pub(crate) fn place(&self, socket: LocalSocketId) -> (LocalSocketId, Port) {
        let Some(own) = self.sockets.get(&socket) else { return (socket, Port::Primary) };
        let beside = self.sockets.values().filter(|s| same_place(s, own));
        let first = beside.min_by_key(|s| (s.port, s.id)).map_or(socket, |s| s.id);
        (first, own.port)
    }

    /// The host at the far end is reached from an earlier port of the same address: nobody needs this path.
    pub(crate) fn reached_from_earlier_port(&self, peer: Address, path: &Path, now_ms: u64) -> bool {
        let (first, port) = self.place(path.socket);
        let earlier = |s: &crate::path::Slot| {
            s.first == first && s.port < port && s.path.remote.ip() == path.remote.ip() && s.alive(now_ms)
        };
        port != Port::Primary && self.peers.get(peer).is_some_and(|p| p.slots.iter().any(earlier))
    }

    /// Our own sockets that others may try, the first ports before the second ones.
    pub(crate) fn local_endpoints(&self) -> Vec<SocketAddr> {
        let offered = |s: &&Socket| {
            let first = self.first_of_links(s.local);
            !s.local.ip().is_unspecified() && first.iter().any(|f| same_place(f, s))
        };
        let mut sockets: Vec<&Socket> = self.sockets.values().filter(offered).collect();
        sockets.sort_by_key(|s| (s.port, s.id));
        sockets.into_iter().map(|s| s.local).collect()
    }

    /// A router lets others reach a socket at `external`, or no longer. Peers are told of it first.
    // spec: paths, "Port mapping"
    pub fn set_mapped(&mut self, socket: LocalSocketId, external: Option<SocketAddr>) {
        let external = external.filter(|_| self.sockets.contains_key(&socket));
        let before = match external {
            Some(external) => self.mapped.insert(socket, external),
            None => self.mapped.remove(&socket),
        };
        self.surface_generation += u64::from(before != external);
    }

    /// Where others see us, the mapped and the first ports before others.
    pub(crate) fn external_endpoints(&self, now_ms: u64) -> Vec<SocketAddr> {
        let port_of = |surface: &SocketAddr| {
            let seen = self.surfaces.reports().filter(|(_, _, at)| at == surface);
            seen.filter_map(|(_, socket, _)| self.sockets.get(&socket)).map(|s| s.port).min()
        };
        let mut surfaces = self.surfaces.list(now_ms);
        surfaces.sort_by_cached_key(|s| port_of(s).unwrap_or_default());
        self.mapped.values().copied().chain(surfaces).collect()
    }
}

/// Two sockets of one link and address: they differ in the port only.
fn same_place(a: &Socket, b: &Socket) -> bool {
    a.link == b.link && a.local.ip() == b.local.ip()
}
