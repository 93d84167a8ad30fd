//! What goes into the node and what comes out of it, besides datagrams and frames. Plain data: the gateway translates
//! it to sockets, shards, files and logs, and nothing here knows how.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use network::{Policy, Standing};
use wire::keys::Keys;
use wire::message::Features;
use wire::packet::Suite;
use wire::{Address, Identity, NetworkId};

/// Names one UDP socket of ours. Never reused: a closed socket's number stays dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalSocketId(pub u64);

/// Which of our ports a socket has: three are three chances to get through a NAT.
// spec: paths, "Sockets and ports"
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// The one that is known, and used while it works.
    #[default]
    Primary,
    /// A random one.
    Secondary,
    /// A random one that routers are asked to map.
    Tertiary,
}

/// A bound UDP socket that the node may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its name.
    pub id: LocalSocketId,
    /// The local address it is bound to; may be unspecified. A tunnel, which is no link, has port 0.
    pub local: SocketAddr,
    /// The link (interface) it belongs to. Of each link and family the primary socket with the lowest id, and the further
    /// ports of its address, make contact.
    pub link: String,
    /// Which of our ports it has.
    pub port: Port,
}

impl Socket {
    /// What goes over it goes over whatever link there is: a bond has no use for it.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.local.port() == 0
    }
}

/// One thing to do. Drain them with [`crate::Node::poll_output`] after every call.
pub enum Output {
    /// Send a datagram.
    Send {
        /// From this socket; `None`: a copy from each of [`crate::Node::fan_out`].
        socket: Option<LocalSocketId>,
        /// To here.
        remote: SocketAddr,
        /// With this IP time-to-live instead of the usual one (IPv4).
        ttl: Option<u8>,
        /// The UDP payload.
        datagram: Vec<u8>,
    },
    /// Hand an Ethernet frame (14-byte header) to the network's TAP.
    Deliver {
        /// The network.
        network: NetworkId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Configuration, status or addresses of a network changed: look at [`crate::Node::networks`].
    NetworkChanged(NetworkId),
    /// The shards' tables change.
    Plan(PlanChange),
    /// Ask the controller beside us; its answer comes back through [`crate::Node::controller_reply`].
    ControllerRequest {
        /// The network asked for.
        network: NetworkId,
        /// Who asks, authenticated.
        member: Arc<Identity>,
        /// The request's packet ID, for the reply.
        packet_id: u64,
        /// The metadata dictionary.
        metadata: Vec<u8>,
        /// Where the request came from, if directly.
        physical: Option<SocketAddr>,
    },
    /// Have a worker run [`Identity::validate`] (25 ms); answer with [`crate::Node::handle_proof`].
    Prove {
        /// Names the question in the answer.
        ticket: u64,
        /// The identity in doubt.
        identity: Identity,
    },
    /// Open `count` UDP sockets on the link and address of `beside`, each on any port, and name them to
    /// [`crate::Node::add_spread_socket`]. What comes to them goes to [`crate::Node::handle_datagram`]. Fewer will do.
    OpenSockets {
        /// The socket whose link they share.
        beside: LocalSocketId,
        /// How many.
        count: u16,
        /// Names the request.
        ticket: u64,
    },
    /// One of those sockets will carry frames.
    AdoptSocket {
        /// The socket.
        socket: LocalSocketId,
        /// The socket beside which it was opened; it ends with that one.
        beside: LocalSocketId,
    },
    /// One of those sockets is not needed any more.
    CloseSocket(LocalSocketId),
    /// Keep bytes on disk, or delete them.
    Store(StateKey, Option<Vec<u8>>),
    /// Something an operator wants to know.
    Event(Event),
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Send { socket, remote, ttl, datagram } => f
                .debug_struct("Send")
                .field("socket", socket)
                .field("remote", remote)
                .field("ttl", ttl)
                .field("bytes", &datagram.len())
                .finish(),
            Output::Deliver { network, frame } => write!(f, "Deliver({network}, {} bytes)", frame.len()),
            Output::NetworkChanged(network) => write!(f, "NetworkChanged({network})"),
            Output::Plan(change) => write!(f, "Plan({change:?})"),
            Output::ControllerRequest { network, member, packet_id, .. } => {
                write!(f, "ControllerRequest({network}, {}, {packet_id:016x})", member.address())
            }
            Output::Prove { ticket, identity } => write!(f, "Prove({ticket}, {})", identity.address()),
            Output::OpenSockets { beside, count, .. } => write!(f, "OpenSockets({beside:?}, {count})"),
            Output::AdoptSocket { socket, .. } => write!(f, "AdoptSocket({socket:?})"),
            Output::CloseSocket(socket) => write!(f, "CloseSocket({socket:?})"),
            Output::Store(key, bytes) => write!(f, "Store({key:?}, {:?} bytes)", bytes.as_ref().map(Vec::len)),
            Output::Event(event) => write!(f, "Event({event:?})"),
        }
    }
}

/// What is kept on disk, by its place in a ZeroTierOne home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKey {
    /// `planet`
    Planet,
    /// `moons.d/<id>.moon`
    Moon(u64),
    /// `moons.d/<id>.seed`, ours: the address of who will bring a moon that is waited for
    Seed(u64),
    /// `networks.d/<id>.conf`
    NetworkConfig(NetworkId),
    /// `peers.d/<address>.peer`
    Peer(Address),
}

/// News for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An upstream hears us.
    Online,
    /// No upstream hears us any more.
    Offline,
    /// A peer can be reached directly.
    PeerDirect {
        /// The peer.
        peer: Address,
        /// Over this socket.
        socket: LocalSocketId,
        /// At this endpoint.
        remote: SocketAddr,
    },
    /// A peer that was reached directly is now relayed.
    PeerRelayed {
        /// The peer.
        peer: Address,
    },
    /// Another node has our address. After confirmation the node sends nothing any more.
    IdentityCollision {
        /// The upstream that says so.
        reporter: Address,
        /// Enough upstreams said so: the identity is given up.
        confirmed: bool,
    },
    /// The planet or a moon was replaced by a newer one.
    WorldUpdated {
        /// The world's ID.
        id: u64,
    },
    /// A message for an application above.
    UserMessage {
        /// Who sent it, authenticated.
        from: Address,
        /// Its type.
        kind: u64,
        /// Its content.
        data: Vec<u8>,
    },
    /// Frames go to this peer over several paths at once, and it has not agreed to drop the copies.
    CopiesDelivered {
        /// The peer.
        peer: Address,
    },
    /// An upstream sees us at another IP address than before.
    ExternalAddressChanged {
        /// The upstream.
        reporter: Address,
        /// What it sees now.
        surface: SocketAddr,
    },
}

/// One change of what shards need to know.
pub enum PlanChange {
    /// A peer that frames may go to or come from; replaces what was known of it.
    Peer {
        /// The peer.
        address: Address,
        /// Its keys.
        keys: Arc<Keys>,
        /// The suite for frames to it.
        suite: Suite,
        /// Where frames to it go; `None`: give them to the node, which queues them or knows a way.
        route: Option<Route>,
        /// Paths over which it is heard directly.
        paths: Vec<(LocalSocketId, SocketAddr)>,
        /// Shards that send to it from a socket of their own instead of the route's ([`crate::Node::add_lane`]).
        lanes: Vec<(u16, LocalSocketId)>,
        /// It bonds: the node wants to hear which of its packets came ([`crate::Node::handle_arrivals`]).
        bonded: bool,
    },
    /// Forget a peer.
    PeerGone(Address),
    /// How frames to a peer that we bond with are spread; `None`: we do not. Comes after its [`PlanChange::Peer`].
    Bond {
        /// The peer.
        address: Address,
        /// Plan and routes.
        bond: Option<Arc<Bonding>>,
    },
    /// A peer acknowledged a frame that some shard sent.
    Acked {
        /// The peer.
        address: Address,
        /// The frame's ID.
        packet_id: u64,
        /// The socket to which the acknowledgement came, which is that by which its copy of the frame left.
        socket: LocalSocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// When the acknowledgement came, us.
        at_us: u64,
    },
    /// What we do for a peer, as agreed. Nothing at first; comes after its [`PlanChange::Peer`].
    Given {
        /// The peer.
        address: Address,
        /// Marks are taken off its frames and obeyed; [`crate::Node::handle_receipts`] hears what comes.
        given: Features,
    },
    /// A network that runs.
    Network {
        /// The network.
        id: NetworkId,
        /// Largest frame payload in bytes.
        mtu: u16,
        /// Its rules accept every IP frame: nobody need ask them.
        fast: bool,
    },
    /// Forget a network.
    NetworkGone(NetworkId),
    /// Whether a peer may talk to us on a network.
    Member {
        /// The network.
        network: NetworkId,
        /// The peer.
        address: Address,
        /// The verdict of the gate.
        allowed: bool,
    },
    /// The rules of a network that is not fast.
    Policy {
        /// The network.
        network: NetworkId,
        /// Our side of them; `None`: give its frames to the node.
        policy: Option<Arc<Policy>>,
    },
    /// What a member that passes the gate may claim under those rules.
    Standing {
        /// The network.
        network: NetworkId,
        /// The member.
        address: Address,
        /// What it may claim.
        standing: Arc<Standing>,
    },
}

impl fmt::Debug for PlanChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanChange::Peer { address, suite, route, paths, lanes, bonded, .. } => f
                .debug_struct("Peer")
                .field("address", address)
                .field("suite", suite)
                .field("route", route)
                .field("paths", paths)
                .field("lanes", lanes)
                .field("bonded", bonded)
                .finish_non_exhaustive(),
            PlanChange::PeerGone(address) => write!(f, "PeerGone({address})"),
            PlanChange::Bond { address, bond } => write!(f, "Bond({address}, {bond:?})"),
            PlanChange::Acked { address, packet_id, .. } => write!(f, "Acked({address}, {packet_id:016x})"),
            PlanChange::Given { address, given } => write!(f, "Given({address}, {given:?})"),
            PlanChange::Network { id, mtu, fast } => write!(f, "Network({id}, mtu {mtu}, fast {fast})"),
            PlanChange::NetworkGone(id) => write!(f, "NetworkGone({id})"),
            PlanChange::Member { network, address, allowed } => {
                write!(f, "Member({network}, {address}, allowed {allowed})")
            }
            PlanChange::Policy { network, policy } => write!(f, "Policy({network}, known {})", policy.is_some()),
            PlanChange::Standing { network, address, .. } => write!(f, "Standing({network}, {address})"),
        }
    }
}

/// Where frames to a peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// From this socket.
    pub socket: LocalSocketId,
    /// To this endpoint: the peer's own, or that of the root that relays.
    pub remote: SocketAddr,
    /// UDP payload bytes per datagram.
    pub mtu: u16,
    /// It is the peer's own endpoint.
    pub direct: bool,
}

/// How frames to a peer that we bond with are spread, by our routes.
pub type Bonding = bond::Routed<Route>;

/// What a shard saw and sent on one path of one peer since its last report. A reception counts only if it was
/// authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: LocalSocketId,
    /// The remote endpoint: the peer's own, or that of the root that relays.
    pub remote: SocketAddr,
    /// The packets received had hop count 0.
    pub hops0: bool,
    /// Packets received and authenticated.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes of the packets received.
    pub rx_bytes: u64,
    /// Bytes of the packets sent.
    pub tx_bytes: u64,
    /// Some of the packets received were frames of a network whose gate the peer passes.
    pub nontrivial: bool,
}

/// A packet of a peer that bonds, which a shard received directly: one of those with an odd ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: LocalSocketId,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// The packet's ID.
    pub packet_id: u64,
    /// How long ago it came. us.
    pub age_us: u64,
}

/// Frames that a shard received straight from a peer that is told what comes, over one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: LocalSocketId,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// How many, repetitions included.
    pub packets: u64,
    /// Bytes of their packets.
    pub bytes: u64,
    /// ID of the newest.
    pub newest: u64,
    /// How long ago that one came. us.
    pub age_us: u64,
}

/// What is known of a peer, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub address: Address,
    /// Protocol, major, minor, revision; zeros if unknown.
    pub version: (u8, u8, u8, u16),
    /// Latency of its best path, microseconds.
    pub latency_us: Option<u32>,
    /// It is a root of the planet or of a moon.
    pub upstream: bool,
    /// It is a root of the planet.
    pub planet: bool,
    /// It is the upstream that we use now.
    pub best_upstream: bool,
    /// Milliseconds since anything authenticated came from it.
    pub last_receive_ms: Option<u64>,
    /// Its paths.
    pub paths: Vec<PathStatus>,
    /// Why it has none that works; nothing is said of upstreams.
    pub relayed: Option<Relayed>,
}

/// Why what goes to a peer goes by a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// Nothing was said for minutes, so that no path is kept.
    Idle,
    /// It has not yet shown that it shares a network with us, so it is not told where we are.
    Untrusted,
    /// Addresses are being exchanged and tried.
    Trying,
    /// Nothing that was tried got through, and our own NAT is symmetric: peers behind filters cannot be told our port.
    SymmetricHere,
    /// Nothing that was tried got through: a firewall, or the NAT on the other side.
    Unanswered,
}

/// Round trips of a path within the last ten minutes, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyStatus {
    /// How many there were.
    pub samples: usize,
    /// The latest.
    pub last_us: u32,
    /// The quickest.
    pub min_us: u32,
    /// Half took no longer.
    pub p50_us: u32,
    /// Of ten, nine took no longer.
    pub p90_us: u32,
    /// Of a hundred, 99 took no longer.
    pub p99_us: u32,
    /// The slowest.
    pub max_us: u32,
    /// Standard deviation.
    pub jitter_us: u32,
}

/// What is known of a path, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// Our socket.
    pub socket: LocalSocketId,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// Milliseconds since it was last verified.
    pub verified_ms: Option<u64>,
    /// Milliseconds since something was last sent.
    pub sent_ms: Option<u64>,
    /// Latency that paths are compared by, microseconds: half of it is the last round trip.
    pub latency_us: Option<u32>,
    /// The round trips of the last minutes.
    pub latency: Option<LatencyStatus>,
    /// It works.
    pub alive: bool,
    /// It is the one used now.
    pub preferred: bool,
}

/// How the NAT before a socket chooses the port that others see, as far as their reports show. // RFC 4787, 4.1
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Fewer than two hosts outside told how they see it.
    #[default]
    Unknown,
    /// No NAT: it is seen as it is bound.
    None,
    /// Everybody sees the same port.
    EndpointIndependent,
    /// Each remote sees another port: a symmetric NAT.
    Symmetric {
        /// Ports seem to be taken in turn, so far apart.
        step: Option<u16>,
    },
}

/// What is known of the NAT before one socket, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatStatus {
    /// The socket.
    pub socket: LocalSocketId,
    /// Its link.
    pub link: String,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// How it is mapped.
    pub mapping: Mapping,
    /// How others see it, the latest mapping first.
    pub surfaces: Vec<SocketAddr>,
}

/// Saved state that cannot be taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The bytes are no world.
    #[error("not a world: {0}")]
    World(wire::Malformed),
    /// A moon where a planet belongs, or the other way round.
    #[error("it is a world of another kind: a planet and a moon were mixed up")]
    WorldKind,
    /// Too many moons.
    #[error("more than {max} moons", max = crate::limits::MOONS_MAX)]
    TooManyMoons,
    /// The bytes are no cached peer.
    #[error("not a cached peer: {0}")]
    Peer(wire::Malformed),
}
