//! One core's packet work: open, filter, deliver; address, seal, send. Sans-I/O over buffers: a [`Shard`] is handed
//! datagrams and frames in the caller's memory and writes into the caller's send buffers through [`Egress`]. It must
//! never know a socket, a ring, a clock or another shard; what it cannot do alone goes to the control plane.
//!
//! The two ways of a packet are [`Shard::inbound`] and [`Shard::outbound`], one file each. Neither allocates, locks or
//! logs once buffers have found their size. Super-frames from the TAP are cut while they are sealed
//! ([`Shard::outbound_offloaded`]); frames to the TAP that continue one another are joined to super-frames, which leave
//! when the caller ends its batch with [`Shard::flush`]. What the control plane knows reaches the shard as [`Update`]s, and what the
//! shard saw goes back with [`Shard::tick`], in batches.
//!
//! A shard handles unicast frames between members that passed the gate. In *fast* networks, whose rules accept every IPv4,
//! ARP and IPv6 frame by its ethertype alone (`network::rules::accepts_all_ip`), such frames pass unasked and any other
//! ethertype is left to the control plane. In other networks the shard runs the rules on every frame, with what the
//! control plane says of either side; frames that want copies are the control plane's.

mod activity;
mod answer;
mod bonded;
mod checksum;
mod clamp;
mod coalesce;
mod egress;
mod filter;
mod inbound;
mod offload;
mod outbound;
mod reorder;
mod seal;
mod segment;
mod tables;

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::fragment::{Reassembler, ReassemblyCounters};
use wire::packet::MAX_PACKET;
use wire::{Address, Now};

pub use activity::{ACTIVITY_PATHS_MAX, ARRIVALS_MAX, Activity, Arrival, Receipt, Report};
pub use bonded::{BOND_FLOWS, REQUESTS_MAX, SEEN_MAX, WAITING_BYTES_MAX, WAITING_PACKETS_MAX, flow};
pub use clamp::MSS_MIN;
pub use coalesce::{Coalescer, DATAGRAMS_MAX, FLOWS_MAX};
pub use egress::{Egress, Stray, TapSlot, ToControl};
pub use offload::{Gso, Offload, Partial, UnknownOffload};
pub use segment::Segments;
pub use tables::{Bonding, MEMBERS_MAX, NETWORKS_MAX, PEERS_MAX, Route, Update};

/// Bytes of an Ethernet header without VLAN tag.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Names one UDP socket of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// A way datagrams take: our socket and the remote endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Path {
    socket: SocketId,
    remote: SocketAddr,
}

/// What a shard is told once, when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unpredictable, and another one for every shard and every start: packet IDs and table hashing come from it.
    pub seed: [u8; 32],
    /// How many shards the gateway has: they share what the node may keep for incomplete packets.
    pub shards: usize,
}

/// The tables, buffers and counters of one core.
pub struct Shard {
    own: Address,
    tables: tables::Tables,
    reassembler: Reassembler<Path>,
    coalescer: coalesce::Coalescer,
    reorder: reorder::Reorder,
    /// Packet IDs. Random ones are unique enough for suite 1 and unpredictable. // spec: wire, "Packet ID"
    ids: StdRng,
    /// A packet that is too long for one datagram is sealed here before it is split.
    scratch: Box<[u8; MAX_PACKET]>,
    counters: Counters,
    /// The last time it was told, us.
    now_us: u64,
}

impl Shard {
    /// A shard of the node `own` that knows nobody yet.
    pub fn new(own: Address, config: Config) -> Shard {
        let mut ids = StdRng::from_seed(config.seed);
        Shard {
            own,
            tables: tables::Tables::new(ids.next_u64()),
            reassembler: Reassembler::with_share(ids.next_u64(), config.shards),
            coalescer: coalesce::Coalescer::new(ids.next_u64()),
            reorder: reorder::Reorder::new(ids.next_u64()),
            ids,
            scratch: Box::new([0; MAX_PACKET]),
            counters: Counters::default(),
            now_us: 0,
        }
    }

    /// Takes in what the control plane decided. Between batches, never on the packet path: tables may grow here.
    pub fn apply(&mut self, update: Update) {
        if let Update::Resequence(on) = update {
            self.reorder.set(on);
        }
        self.tables.apply(self.now_us, update, &mut self.counters);
    }

    /// Ends a batch: what grew for the TAPs is handed over. To be called before the caller waits for anything.
    pub fn flush(&mut self, out: &mut impl Egress) {
        self.coalescer.flush(out, &mut self.counters);
    }

    /// Ends a batch of batches: drops packets that stayed incomplete and appends to `report` what frames went over
    /// which path since the last tick, and which packets came from peers that bond.
    pub fn tick(&mut self, now: Now, report: &mut Report) {
        self.reassembler.expire(now);
        self.tables.report(now, report);
        self.tables.tidy_bonds(now);
    }

    /// What was done and what was dropped since the start, by cause.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What became of fragments.
    pub fn reassembly(&self) -> ReassemblyCounters {
        self.reassembler.counters()
    }
}

/// Packets since the start, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames delivered to a TAP.
    pub frames_in: u64,
    /// Frames sent to a member.
    pub frames_out: u64,
    /// Datagrams those took.
    pub datagrams_out: u64,
    /// Frames given to the shard where their flow meets.
    pub strays_given: u64,
    /// Frames that others gave.
    pub strays_taken: u64,
    /// Super-frames delivered to a TAP.
    pub super_frames_in: u64,
    /// Frames they were joined from.
    pub joined_in: u64,
    /// Super-frames taken from a TAP.
    pub super_frames_out: u64,
    /// Frames they were cut into.
    pub cut_out: u64,
    /// TCP SYN segments whose MSS was lowered, either way.
    pub mss_clamped: u64,

    /// Given to control: datagrams for other nodes.
    pub control_foreign: u64,
    /// Given to control: packets of unknown senders, HELLOs, trusted paths.
    pub control_unopened: u64,
    /// Given to control: opened packets that are not for a shard.
    pub control_opened: u64,
    /// Given to control: frames that are not for a shard.
    pub control_frames: u64,

    /// Dropped: datagrams for other nodes, as we do not relay.
    pub foreign: u64,
    /// Dropped: neither packet nor fragment, or longer than any packet.
    pub not_a_packet: u64,
    /// Dropped: sent by a node with our own address.
    pub own_source: u64,
    /// Dropped: cipher suites 4 to 7.
    pub undefined_suite: u64,
    /// Dropped: a verb that must not come in clear.
    pub clear_verb: u64,
    /// Dropped: authentication failed.
    pub forged: u64,
    /// Dropped: a frame with an ID that came before.
    pub duplicate: u64,
    /// Dropped: a received frame that the network's rules refuse.
    pub filtered_in: u64,
    /// Dropped: a frame from the TAP that the network's rules refuse.
    pub filtered_out: u64,
    /// Dropped: a received frame above the network's MTU.
    pub oversized_in: u64,
    /// Dropped: a frame from the TAP that is shorter than its header.
    pub runt_out: u64,
    /// Dropped: a frame from the TAP above the network's MTU.
    pub oversized_out: u64,
    /// Dropped: a frame from the TAP whose virtio-net header does not fit it.
    pub odd_out: u64,
    /// Dropped: a frame that takes more datagrams than a receiver accepts.
    pub unsplittable: u64,
    /// Dropped: datagrams for which there was no send buffer.
    pub no_buffer: u64,

    /// Frames to peers that we bond with that asked for acknowledgement.
    pub bond_requests: u64,
    /// Of these acknowledged.
    pub bond_acks: u64,
    /// Frames that we acknowledged.
    pub bond_answers: u64,
    /// Packets sent over further paths, beside the first.
    pub copies: u64,
    /// Frames that waited for whichever path is first.
    pub striped: u64,
    /// Dropped: of these, those that waited too long or found no room.
    pub stripe_dropped: u64,
    /// Of these, marked with their order.
    pub marks_out: u64,
    /// Packets sent again over another path, because theirs was lost.
    pub recalled: u64,
    /// Things seen of paths that went unreported for want of room.
    pub seen_full: u64,

    /// Refused: the table of peers is full.
    pub peers_full: u64,
    /// Refused: the table of networks is full.
    pub networks_full: u64,
    /// Refused: a network's table of members is full, or the network is not known.
    pub members_full: u64,
    /// Packets that went uncounted because their peer used too many paths within one tick.
    pub activity_full: u64,
}
