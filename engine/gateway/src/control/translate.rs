//! The words of node and shards for the same things, translated into each other: neither knows the other, and only the
//! control thread knows both. No state, no decisions.

use std::sync::Arc;

use node::{LocalSocketId, PlanChange};
use shard::{SocketId, Update};
use wire::{Address, Mac};

use crate::tcp_relay::is_tunnel;

pub(super) fn node_socket(id: SocketId) -> LocalSocketId {
    LocalSocketId(id.0)
}

pub(super) fn shard_socket(id: LocalSocketId) -> SocketId {
    SocketId(id.0)
}

pub(super) fn node_activity(a: &shard::Activity) -> node::Activity {
    node::Activity {
        peer: a.peer,
        socket: node_socket(a.socket),
        remote: a.remote,
        hops0: a.hops0,
        rx_packets: a.rx_packets,
        tx_packets: a.tx_packets,
        rx_bytes: a.rx_bytes,
        tx_bytes: a.tx_bytes,
        // Shards count nothing else as received.
        nontrivial: a.rx_packets > 0,
    }
}

pub(super) fn node_arrival(a: &shard::Arrival) -> node::Arrival {
    node::Arrival {
        peer: a.peer,
        socket: node_socket(a.socket),
        remote: a.remote,
        packet_id: a.packet_id,
        age_us: a.age_us,
    }
}

pub(super) fn node_receipt(r: &shard::Receipt) -> node::Receipt {
    node::Receipt {
        peer: r.peer,
        socket: node_socket(r.socket),
        remote: r.remote,
        packets: r.packets,
        bytes: r.bytes,
        newest: r.newest,
        age_us: r.age_us,
    }
}

pub(super) fn shard_route(r: node::Route) -> shard::Route {
    shard::Route { socket: shard_socket(r.socket), remote: r.remote, mtu: r.mtu }
}

pub(super) fn shard_bonding(bonding: &node::Bonding) -> shard::Bonding {
    shard::Bonding {
        plan: Arc::clone(&bonding.plan),
        routes: bonding.routes.iter().copied().map(shard_route).collect(),
        relay: bonding.relay.filter(|r| !is_tunnel(r.socket)).map(shard_route),
        marks: bonding.marks,
        duplicates_dropped: bonding.duplicates_dropped,
    }
}

pub(super) fn shard_update(own: Address, change: PlanChange) -> Update {
    match change {
        PlanChange::Peer { address, keys, suite, route, bonded, .. } => {
            // Shards do not have the tunnel: its frames come to the node.
            let route = route.filter(|r| !is_tunnel(r.socket));
            let route = route.map(shard_route);
            Update::Peer { address, keys, suite, route, bonded }
        }
        PlanChange::PeerGone(address) => Update::PeerGone(address),
        PlanChange::Bond { address, bond } => Update::Bond { address, bond: bond.map(|b| Arc::new(shard_bonding(&b))) },
        PlanChange::Given { address, given } => Update::Given { address, given },
        PlanChange::Acked { address, packet_id, socket, remote, at_us } => {
            Update::Acked { address, packet_id, socket: shard_socket(socket), remote, at_us }
        }
        PlanChange::Network { id, mtu, fast } => Update::Network { id, mac: Mac::of_member(id, own), mtu, fast },
        PlanChange::NetworkGone(id) => Update::NetworkGone(id),
        PlanChange::Member { network, address, allowed } => Update::Member { network, address, allowed },
        PlanChange::Policy { network, policy } => Update::Policy { network, policy },
        PlanChange::Standing { network, address, standing } => Update::Standing { network, address, standing },
    }
}
