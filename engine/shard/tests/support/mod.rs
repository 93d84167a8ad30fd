//! Two nodes that know each other, and an outside that writes down what a shard does.
#![allow(dead_code)] // each test file uses its part

use std::net::SocketAddr;
use std::sync::Arc;

use shard::{Config, Egress, Gso, Offload, Route, Shard, SocketId, Stray, TapSlot, ToControl, Update};
use wire::keys::Keys;
use wire::message::OrderMark;
use wire::packet::Suite;
use wire::{Address, Mac, NetworkId, Now, SharedKey};

pub const ALICE: Address = Address::from_u64(0xfcac9e2c1f);
pub const BOB: Address = Address::from_u64(0x92514cdce8);
pub const STRANGER: Address = Address::from_u64(0x89ec7f4bb8);
pub const NETWORK: NetworkId = NetworkId(0x01ec4f9b42000042);
pub const SOCKET: SocketId = SocketId(7);
pub const MTU: u16 = 2800;
pub const PATH_MTU: u16 = 1432;
pub const NOW: Now = Now { mono_us: 1_000_000, unix_ms: 1_700_000_000_000 };

pub fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9993))
}

pub fn keys() -> Arc<Keys> {
    Arc::new(Keys::new(SharedKey::from_bytes([0x5a; 48])))
}

pub fn new_shard(own: Address, seed: u8) -> Shard {
    Shard::new(own, Config { seed: [seed; 32], shards: 1 })
}

/// A shard of `own` on the fast network, of which `peer` is an allowed member with a route.
pub fn member(own: Address, peer: Address, suite: Suite) -> Shard {
    let mut shard = new_shard(own, own.to_u64() as u8);
    shard.apply(network(own, true));
    shard.apply(known(peer, suite));
    shard.apply(Update::Member { network: NETWORK, address: peer, allowed: true });
    shard
}

pub fn network(own: Address, fast: bool) -> Update {
    Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, own), mtu: MTU, fast }
}

pub fn known(peer: Address, suite: Suite) -> Update {
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: PATH_MTU });
    Update::Peer { address: peer, keys: keys(), suite, route, bonded: false }
}

/// The same; it bonds.
pub fn bonded(peer: Address, suite: Suite) -> Update {
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: PATH_MTU });
    Update::Peer { address: peer, keys: keys(), suite, route, bonded: true }
}

/// An Ethernet frame between two members.
pub fn frame(from: Address, to: Address, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (Mac::of_member(NETWORK, from), Mac::of_member(NETWORK, to));
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// What another shard got.
pub type Given = (Address, SocketId, SocketAddr, Vec<u8>, Option<OrderMark>);

/// Writes down what comes out of a shard.
#[derive(Default)]
pub struct Outside {
    pub frames: Vec<(NetworkId, Vec<u8>)>,
    pub datagrams: Vec<(SocketId, SocketAddr, Vec<u8>)>,
    pub control: Vec<Said>,
    /// Kinds of super-frames the TAP takes.
    pub takes: Vec<Gso>,
    /// What went to it, super-frames too, in order.
    pub delivered: Vec<(Offload, Vec<u8>)>,
    pub open: Vec<Option<(NetworkId, Vec<u8>)>>,
    /// Send buffers that are left; none: no limit.
    pub room: Option<usize>,
    /// Another shard takes frames that can be put in order.
    pub meets: bool,
    pub strays: Vec<Given>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Foreign(Vec<u8>),
    Datagram(Vec<u8>),
    Reassembled(Vec<u8>),
    Opened(Vec<u8>),
    Frame(NetworkId, Vec<u8>),
}

impl Egress for Outside {
    fn tap(&mut self, network: NetworkId, frame: &[u8]) {
        self.delivered.push((Offload::default(), frame.to_vec()));
        self.frames.push((network, frame.to_vec()));
    }

    fn tap_open(&mut self, network: NetworkId, kind: Gso) -> Option<TapSlot> {
        self.takes.contains(&kind).then(|| {
            self.open.push(Some((network, vec![0xee; 66_000])));
            TapSlot(self.open.len() as u16 - 1)
        })
    }

    fn tap_slot(&mut self, slot: TapSlot) -> &mut [u8] {
        &mut self.open[usize::from(slot.0)].as_mut().unwrap().1
    }

    fn tap_close(&mut self, slot: TapSlot, len: usize, offload: Offload) {
        let (network, mut frame) = self.open[usize::from(slot.0)].take().unwrap();
        frame.truncate(len);
        if offload == Offload::default() {
            self.frames.push((network, frame.clone()));
        }
        self.delivered.push((offload, frame));
    }

    fn udp(&mut self, socket: SocketId, remote: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1)?;
        }
        self.datagrams.push((socket, remote, vec![0xee; len]));
        self.datagrams.last_mut().map(|(_, _, buffer)| &mut buffer[..])
    }

    fn meet(&mut self, stray: &Stray<'_>) -> bool {
        let Stray { peer, socket, remote, frame, mark, .. } = *stray;
        if self.meets {
            self.strays.push((peer, socket, remote, frame.to_vec(), mark));
        }
        self.meets
    }

    fn control(&mut self, what: ToControl<'_>) {
        self.control.push(match what {
            ToControl::Foreign { bytes, .. } => Said::Foreign(bytes.to_vec()),
            ToControl::Datagram { bytes, .. } => Said::Datagram(bytes.to_vec()),
            ToControl::Reassembled { packet, .. } => Said::Reassembled(packet.to_vec()),
            ToControl::Opened { packet, .. } => Said::Opened(packet.to_vec()),
            ToControl::Frame { network, frame } => Said::Frame(network, frame.to_vec()),
        });
    }
}

/// Everything that came out after one datagram went in.
pub fn inbound(shard: &mut Shard, datagram: &[u8]) -> Outside {
    let mut out = Outside::default();
    shard.inbound(NOW, SOCKET, remote(), &mut datagram.to_vec(), &mut out);
    shard.flush(&mut out);
    out
}

/// Everything that came out after one frame went in.
pub fn outbound(shard: &mut Shard, frame: &[u8]) -> Outside {
    let mut out = Outside::default();
    shard.outbound(NOW, NETWORK, frame, &mut out);
    out
}
