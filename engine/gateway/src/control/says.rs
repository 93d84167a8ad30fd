//! What node, controller and shards say, and who is told: every `Output` and every `FromShard` has its arm here, and what
//! takes more than a few lines has a function in the room of its topic.

use std::net::SocketAddr;

use node::{LocalSocketId, Output, PlanChange, StateKey};
use tracing::{debug, error, info, trace, warn};
use wire::Now;
use wire::endpoint::to_text;
use wire::world::{World, WorldKind};

use super::translate::{node_activity, node_arrival, node_receipt, node_socket, shard_socket, shard_update};
use super::{Control, REDRAW_MS};
use crate::dataplane::FromShard;
use crate::home::{PUBLIC, signer_file};

impl Control {
    pub(super) fn node_says(&mut self, now: Now, output: Output) {
        match output {
            Output::Send { socket, remote, ttl, datagram } => self.send(socket, remote, ttl, datagram),
            Output::Deliver { network, frame } => self.deliver(network, frame),
            Output::NetworkChanged(network) => {
                self.dirty.insert(network);
                self.tell_overlay();
                self.subscribe(now, network);
            }
            Output::Plan(mut change) => {
                let lanes = match &mut change {
                    PlanChange::Peer { lanes, .. } => std::mem::take(lanes),
                    _ => Vec::new(),
                };
                let lanes: Vec<_> = lanes.into_iter().map(|(shard, id)| (shard, shard_socket(id))).collect();
                self.p.dataplane.update_peer(shard_update(self.p.node.address(), change), &lanes);
            }
            Output::ControllerRequest { network, member, packet_id, metadata, physical } => {
                let request = controller::Request { network, member, packet_id, metadata, physical };
                self.p.controller.handle_request(now, request);
            }
            Output::Prove { ticket, identity } => {
                if !self.p.prover.ask(ticket, identity) {
                    debug!(ticket, "too many identities to prove");
                }
            }
            Output::OpenSockets { beside, count, ticket } => self.open_spread(beside, count, ticket),
            Output::AdoptSocket { socket, .. } => match self.spread.adopt(socket, self.p.shards) {
                Ok(sockets) => self.p.dataplane.add_socket(shard_socket(socket), sockets),
                Err(e) => {
                    warn!("a socket of a port spread cannot be kept: {e}");
                    self.p.node.remove_socket(now, socket);
                }
            },
            Output::CloseSocket(socket) => {
                if !self.spread.close(socket) {
                    self.p.dataplane.remove_socket(shard_socket(socket));
                }
            }
            Output::Store(key, bytes) => self.store(key, bytes),
            Output::Event(event) => self.report(&event),
        }
    }

    pub(super) fn controller_says(&mut self, now: Now, output: controller::Output) {
        use controller::Output::{Event, Push, Reply, Revoke};
        match output {
            Reply { to, verb, payload, .. } => self.p.node.controller_reply(now, to, verb, payload),
            Push { to, payload } => self.p.node.controller_reply(now, to, wire::Verb::NetworkConfig, payload),
            Revoke { to, payload } => self.p.node.controller_reply(now, to, wire::Verb::NetworkCredentials, payload),
            Event(controller::Event::StorageFailed { name, reason }) => {
                error!("controller record {name}: {reason}; served from memory, written again later");
            }
            Event(controller::Event::NewMember { network, member, authorised }) => {
                info!(%network, %member, authorised, "a new member asks to join");
            }
        }
    }

    pub(super) fn shard_says(&mut self, now: Now, event: FromShard) {
        let node = &mut self.p.node;
        match event {
            FromShard::Datagram { socket, remote, mut bytes } => {
                node.handle_datagram(now, node_socket(socket), remote, &mut bytes);
            }
            FromShard::Reassembled { socket, remote, mut packet } => {
                node.handle_reassembled(now, node_socket(socket), remote, &mut packet);
            }
            FromShard::Opened { socket, remote, mut packet } => {
                node.handle_opened(now, node_socket(socket), remote, &mut packet);
            }
            FromShard::Frame { network, frame } => node.handle_tap_frame(now, network, &frame),
            FromShard::Activity { shard, report: seen } => {
                let activity: Vec<node::Activity> = seen.activity.iter().map(node_activity).collect();
                node.handle_activity(now, &activity);
                let arrivals: Vec<node::Arrival> = seen.arrivals.iter().map(node_arrival).collect();
                node.handle_arrivals(now, &arrivals);
                let receipts: Vec<node::Receipt> = seen.receipts.iter().map(node_receipt).collect();
                node.handle_receipts(now, &receipts);
                node.handle_bonds(now, shard, &seen.bonds);
            }
            FromShard::Narrow { socket, remote, bytes } => self.narrow(now, socket, remote, bytes),
            FromShard::SendFailed { socket, remote, bytes, error } => {
                self.counters.sends_refused += 1;
                debug!(socket = socket.0, remote = to_text(remote), bytes, "cannot send: {error}");
                match error.raw_os_error() {
                    Some(nix::libc::EMSGSIZE) => self.narrow(now, socket, remote, bytes),
                    // No route, a firewall of our own, a device that is down: the way is looked into at once.
                    _ => self.p.node.handle_send_refused(now, node_socket(socket), remote),
                }
            }
            FromShard::SocketGone { socket, error: None, .. } => trace!(socket = socket.0, "socket closed"),
            FromShard::SocketGone { socket, error: Some(error), .. } => self.link_lost(now, socket, &error),
            FromShard::TapGone { network, error: None, .. } => trace!(%network, "TAP queue closed"),
            FromShard::TapGone { network, error: Some(error), .. } => {
                warn!(%network, "TAP queue lost: {error}");
                self.p.dataplane.remove_tap(network);
                self.broken_taps.insert(network);
            }
            FromShard::ShardGone { shard, error } => {
                error!(shard, "packet thread ended: {error}");
                self.failed = Some(error);
            }
        }
    }

    fn send(&mut self, socket: Option<LocalSocketId>, remote: SocketAddr, ttl: Option<u8>, datagram: Vec<u8>) {
        trace!(?socket, remote = to_text(remote), bytes = datagram.len(), "send");
        match socket {
            Some(socket) if self.spread.send(socket, remote, ttl, &datagram) => {}
            Some(socket) => self.send_from(socket, remote, ttl, datagram),
            None => {
                for socket in self.p.node.fan_out(remote) {
                    self.send_from(socket, remote, ttl, datagram.clone());
                }
            }
        }
    }

    fn store(&mut self, key: StateKey, bytes: Option<Vec<u8>>) {
        let file = match key {
            StateKey::Planet => self.p.home.planet(),
            StateKey::Moon(id) => self.p.home.moon(id),
            StateKey::Seed(id) => self.p.home.moon_seed(id),
            StateKey::NetworkConfig(id) => self.p.home.network(id),
            StateKey::Peer(address) => self.p.home.peer(address),
        };
        let Some(bytes) = bytes else { return self.p.writer.remove(file) };
        if let (StateKey::Planet, Ok(world)) = (key, World::parse(&bytes))
            && world.kind == WorldKind::Planet
        {
            if !world.is_self_signed() {
                let key = hex::encode(self.p.planet.update_key).into_bytes();
                self.p.writer.replace(signer_file(&file), PUBLIC, key);
            }
            self.p.planet = world;
        }
        self.p.writer.replace(file, PUBLIC, bytes);
    }

    fn report(&mut self, event: &node::Event) {
        use node::Event::{
            CopiesDelivered, ExternalAddressChanged, IdentityCollision, Offline, Online, PeerDirect, PeerRelayed,
            UserMessage, WorldUpdated,
        };
        match event {
            Online => info!("online"),
            Offline => warn!("offline: no root answers"),
            PeerDirect { peer, socket, remote } => {
                let link = self.links.get(*socket).map_or("", |l| l.name.as_str());
                info!(%peer, remote = to_text(*remote), link, "direct path");
            }
            PeerRelayed { peer } => info!(%peer, "no direct path any more: relayed"),
            IdentityCollision { reporter, confirmed: false } => {
                warn!(%reporter, "says that another node has our address")
            }
            IdentityCollision { reporter, confirmed: true } => {
                error!(%reporter, "another node has our address: move identity.* away and start again");
            }
            WorldUpdated { id } => info!(id, "planet or moon updated"),
            UserMessage { from, kind, data } => debug!(%from, kind, bytes = data.len(), "user message"),
            CopiesDelivered { peer } => {
                warn!(%peer, "broadcast to a peer that drops no duplicates: every copy reaches its TAP");
            }
            ExternalAddressChanged { reporter, surface } => {
                info!(%reporter, surface = to_text(*surface), "we are seen at another address");
            }
        }
        if matches!(event, Online | Offline) {
            let offline = *event == Offline && self.p.redraw;
            self.redraw_at_ms = offline.then(|| self.p.clock.now().ms() + REDRAW_MS);
            self.dirty.extend(self.networks.keys());
        }
    }
}
