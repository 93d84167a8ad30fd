//! The control thread's part in sockets: it opens and closes them as interfaces come and go, tells node and shards, and has
//! routers map their ports. Which addresses are links is decided by `links`, what goes over them by the node.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use node::LocalSocketId;
use shard::SocketId;
use tracing::{debug, info, warn};
use wire::Now;
use wire::endpoint::to_text;

use super::translate::{node_socket, shard_socket};
use super::{Control, REDRAW_MS};
use crate::links::{self, Link, LinkChange, MAX_LINKS};
use crate::netlink::Interface;
use crate::portmap;

impl Control {
    pub(super) fn bind_links(&mut self, now: Now) {
        let overlay = self.overlay().map(|p| p.addr).collect();
        let ours: BTreeSet<&str> = self.networks.values().filter_map(|port| port.device.as_deref()).collect();
        let others: Vec<Interface> =
            self.interfaces.iter().filter(|i| !ours.contains(i.name.as_str())).cloned().collect();
        let mut wanted = self.filter.wanted(&others, &self.addresses, &overlay);
        if self.fallback.settings().force {
            wanted.clear();
        }
        self.look_for_missing();
        for change in self.links.reconcile(now.ms(), &wanted) {
            match change {
                LinkChange::Opened(link, sockets) => {
                    info!(link = link.name, address = to_text(link.local), "link up");
                    self.p.dataplane.add_socket(shard_socket(link.id), sockets.primary);
                    let (id, local, name) = (link.id, link.local, link.name.clone());
                    self.p.node.add_socket(now, node::Socket { id, local, link: name, port: node::Port::Primary });
                    for (further, sockets) in link.further.iter().zip(sockets.further) {
                        debug!(port = further.number, "{:?} port", further.port);
                        self.add_further(now, &link, *further, sockets);
                    }
                    for (lane, socket) in link.lanes.iter().zip(sockets.lanes) {
                        debug!(port = lane.port, shard = lane.shard, "lane");
                        self.p.dataplane.add_lane(shard_socket(lane.id), lane.shard, socket);
                        self.p.node.add_lane(link.id, lane.shard, lane.id);
                    }
                }
                LinkChange::Added(link, further, sockets) => self.add_further(now, &link, further, sockets),
                LinkChange::Closed(link) => {
                    info!(link = link.name, address = to_text(link.local), "link gone");
                    self.close_link(now, &link);
                }
                LinkChange::LeftOut(count) => {
                    warn!(count, "more than {MAX_LINKS} link addresses: some are left out; see `bind` in local.conf");
                }
                LinkChange::Failed(wanted, e) => {
                    warn!(link = wanted.link, address = %wanted.ip, "cannot bind: {e}; tried again later");
                }
            }
        }
        self.map_ports();
    }

    fn add_further(&mut self, now: Now, link: &Link, further: links::Further, sockets: Vec<UdpSocket>) {
        let local = SocketAddr::new(link.local.ip(), further.number);
        self.p.dataplane.add_socket(shard_socket(further.id), sockets);
        let socket = node::Socket { id: further.id, local, link: link.name.clone(), port: further.port };
        self.p.node.add_socket(now, socket);
    }

    /// Datagrams of `bytes` are too long for the way to `remote`: the kernel knows how long they may be.
    pub(super) fn narrow(&mut self, now: Now, socket: SocketId, remote: SocketAddr, bytes: usize) {
        let Some(link) = self.links.get(node_socket(socket)) else { return };
        // A kernel that does not say: as little as the node ever goes down to.
        let fits = link.payload_towards(remote).unwrap_or(0);
        if fits >= bytes {
            return; // it is wide enough again
        }
        if self.p.node.narrow(now, remote.ip(), fits) {
            info!(link = link.name, remote = to_text(remote), bytes, fits, "narrow path: datagrams are cut smaller");
        }
    }

    pub(super) fn link_lost(&mut self, now: Now, socket: SocketId, error: &io::Error) {
        let Some(link) = self.links.broken(now.ms(), node_socket(socket)) else {
            return self.p.node.remove_socket(now, node_socket(socket)); // that of a port spread, if any
        };
        warn!(link = link.name, address = to_text(link.local), "link lost: {error}; tried again later");
        self.close_link(now, &link);
        self.map_ports();
    }

    fn close_link(&mut self, now: Now, link: &Link) {
        for id in link.sockets() {
            self.p.dataplane.remove_socket(shard_socket(id));
        }
        for (id, _) in link.endpoints() {
            self.mapped.remove(&id);
            self.p.node.remove_socket(now, id);
        }
    }

    /// No root answers: another secondary port may get through where the old one does not.
    pub(super) fn redraw_secondary(&mut self, now: Now) {
        self.redraw_at_ms = Some(now.ms() + REDRAW_MS);
        let Some(number) = links::draw_port() else { return };
        info!(port = number, "offline: another secondary port");
        for redrawn in self.links.redraw_secondary(now.ms(), number) {
            if let Some(old) = redrawn.old {
                self.p.dataplane.remove_socket(shard_socket(old));
                self.p.node.remove_socket(now, old);
            }
            if let Some((further, sockets)) = redrawn.new {
                self.add_further(now, &redrawn.link, further, sockets);
            }
        }
    }

    pub(super) fn open_spread(&mut self, beside: LocalSocketId, count: u16, ticket: u64) {
        let Some(options) = self.links.get(beside).map(Link::options_beside) else { return };
        for _ in 0..count {
            let id = self.links.next_id();
            if let Err(e) = self.spread.open(id, options.clone()) {
                return debug!("no further sockets for a port spread: {e}");
            }
            self.p.node.add_spread_socket(ticket, id);
        }
    }

    pub(super) fn mapper_says(&mut self, report: portmap::Report) {
        // It may speak of a link that is gone meanwhile.
        let mapped = report.mapped.filter(|_| self.links.get(report.socket).is_some());
        match mapped {
            Some(mapped) => self.mapped.insert(report.socket, mapped),
            None => self.mapped.remove(&report.socket),
        };
        self.p.node.set_mapped(report.socket, mapped.map(|m| m.external));
    }

    /// Has the tertiary port of every link mapped.
    fn map_ports(&mut self) {
        let Some(mapper) = &mut self.p.mapper else { return };
        let tertiary = |link: &Link| {
            let further = link.further.iter().find(|f| f.port == node::Port::Tertiary)?;
            let local = SocketAddr::new(link.local.ip(), further.number);
            Some(portmap::Wanted { socket: further.id, local, link: link.name.clone() })
        };
        let wanted: Vec<portmap::Wanted> = self.links.iter().filter_map(tertiary).collect();
        mapper.want(&wanted);
    }
}
