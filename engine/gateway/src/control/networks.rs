//! The control thread's part in joined networks: what their TAPs are to be like, the frames that wait until they are, the
//! groups to subscribe to. How a TAP gets there is `taps`' work; who is a member, the node's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wire::endpoint::Prefix;
use wire::{MulticastGroup, NetworkId, Now};

use super::Control;
use crate::network_conf::NetworkConf;
use crate::taps::{Desired, Order, PortError, Report};

/// Frames of one network held while its TAP gets its addresses; more are dropped and counted.
pub const MAX_HELD_FRAMES: usize = 64;

/// What the gateway keeps of a joined network beside the node.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) conf: NetworkConf,
    pub(super) device: Option<String>,
    pub(super) error: Option<PortError>,
    pub(super) problem: Option<String>,
    /// Multicast groups that the kernel listens to.
    pub(super) groups: Vec<MulticastGroup>,
    /// Groups that the node was told last.
    pub(super) subscribed: BTreeSet<MulticastGroup>,
    /// Orders that the TAP task has not carried out yet.
    pub(super) settling: u32,
    /// Frames that wait until it has: a kernel that does not have its address yet would drop what is for it.
    pub(super) held: Vec<Vec<u8>>,
}

impl Control {
    /// Rejoins a network of the home.
    pub fn rejoin(&mut self, id: NetworkId, cached: Option<&[u8]>, conf: NetworkConf) {
        self.networks.insert(id, Port { conf, ..Port::default() });
        self.p.node.join(self.p.clock.now(), id, cached);
        self.dirty.insert(id);
    }

    pub(super) fn taps_say(&mut self, now: Now, report: Report) {
        match report {
            Report::Up(id, tap) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.device = Some(tap.name);
                port.error = None;
                self.p.dataplane.add_tap(id, tap.queues, tap.super_frames);
                self.p.node.set_port_error(now, id, false);
            }
            Report::Down(id, error) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.device = None;
                port.error = Some(error);
                self.p.dataplane.remove_tap(id);
                self.p.node.set_port_error(now, id, true);
            }
            Report::Applied(id) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.settling = port.settling.saturating_sub(1);
                if port.settling == 0 {
                    port.held.drain(..).for_each(|frame| self.p.dataplane.deliver(id, frame));
                }
            }
            Report::Problem(id, problem) => {
                if let Some(port) = self.networks.get_mut(&id) {
                    port.problem = problem;
                }
            }
            Report::Groups(id, groups) => {
                if let Some(port) = self.networks.get_mut(&id) {
                    port.groups = groups;
                    self.subscribe(now, id);
                }
            }
            Report::Interfaces(interfaces, addresses) => {
                (self.interfaces, self.addresses) = (interfaces, addresses);
                self.bind_links(now);
            }
        }
    }

    pub(super) fn deliver(&mut self, network: NetworkId, frame: Vec<u8>) {
        let settling = self.networks.get_mut(&network).filter(|port| port.settling > 0);
        let Some(port) = settling else { return self.p.dataplane.deliver(network, frame) };
        if port.held.len() < MAX_HELD_FRAMES {
            port.held.push(frame);
        } else {
            self.counters.frames_not_held += 1;
        }
    }

    /// Tells the TAP task what the networks that changed want. What it has no room for now is told later.
    pub(super) fn order_taps(&mut self) {
        while let Some(id) = self.broken_taps.first().copied() {
            if self.p.orders.try_send(Order::Broken(id)).is_err() {
                return;
            }
            self.broken_taps.remove(&id);
        }
        while let Some(id) = self.dirty.first().copied() {
            let order = match self.desired(id) {
                Some(desired) => Order::Set(id, desired),
                None => Order::Remove(id),
            };
            let is_set = matches!(order, Order::Set(..));
            if self.p.orders.try_send(order).is_err() {
                return;
            }
            self.dirty.remove(&id);
            if let Some(port) = self.networks.get_mut(&id).filter(|_| is_set) {
                port.settling += 1;
            }
        }
    }

    pub(super) fn desired(&self, id: NetworkId) -> Option<Desired> {
        let (network, port) = (self.p.node.networks().get(id)?, self.networks.get(&id)?);
        let config = network.config();
        let addresses = config.map(|c| port.conf.addresses(&c.addresses)).unwrap_or_default();
        let managed: Vec<(Prefix, Option<IpAddr>)> =
            config.map(|c| c.routes.iter().map(|r| (r.target, r.via)).collect()).unwrap_or_default();
        let routes = port.conf.routes(&managed, &addresses, self.p.node.is_online());
        Some(Desired { mac: network.mac(), mtu: network.mtu(), addresses, routes })
    }

    /// Subscribes to the groups of the kernel and to those of the managed addresses, which the kernel joins a moment
    /// later: whoever asks for us in between must not wait for its next attempt.
    pub(super) fn subscribe(&mut self, now: Now, id: NetworkId) {
        let Some(port) = self.networks.get_mut(&id) else { return };
        let config = self.p.node.networks().get(id).and_then(|n| n.config());
        let managed = config.map(|c| port.conf.addresses(&c.addresses)).unwrap_or_default();
        let resolving = managed.iter().map(|(ip, _)| MulticastGroup::for_resolving(*ip));
        let groups: BTreeSet<MulticastGroup> = port.groups.iter().copied().chain(resolving).collect();
        if port.subscribed != groups {
            self.p.node.set_subscriptions(now, id, groups.iter().copied().collect());
            port.subscribed = groups;
        }
    }

    /// Addresses that networks gave us.
    pub(super) fn overlay(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.p.node.networks().iter().filter_map(|n| n.config()).flat_map(|c| c.addresses.iter().copied())
    }

    pub(super) fn tell_overlay(&mut self) {
        let prefixes: Vec<Prefix> = self.overlay().collect();
        if let Some(server) = &self.p.relay_server {
            // What networks route too, but for their default route: that is the Internet itself, in halves.
            let routes = self.networks.keys().filter_map(|id| self.desired(*id)).flat_map(|d| d.routes);
            let routed = routes.filter(|r| r.bits > 1).map(|r| Prefix { addr: r.target, bits: r.bits });
            server.set_overlay(prefixes.iter().copied().chain(routed).collect());
        }
        self.p.node.set_overlay_prefixes(prefixes);
    }
}
