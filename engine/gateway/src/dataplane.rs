//! The packet threads: N pinned shards, each with a ring, its own sockets and TAP queues, and a [`Shard`]; and the
//! bounded queues between them and the control thread. Carries bytes and decisions to and fro; what either means is
//! known to the shard and to the control plane only.
//!
//! # Use
//! [`DataPlane`] belongs to the control thread. Everything but [`recv`](DataPlane::recv) returns at once; `recv` waits in
//! any tokio runtime.
//! ```no_run
//! # async fn control(config: gateway::dataplane::Config) -> Result<(), gateway::dataplane::Error> {
//! use gateway::dataplane::{DataPlane, FromShard};
//!
//! let mut plane = DataPlane::start(config)?;
//! // one socket per shard, all on one port (`reuse_port`); one TAP queue per shard, all alike:
//! // plane.add_socket(id, sockets); plane.add_tap(network, tap.queues, tap.super_frames); plane.update(shard::Update::Peer { .. });
//! loop {
//!     match plane.recv().await {
//!         FromShard::Datagram { socket, remote, mut bytes, .. } => { /* node.handle_datagram(.., &mut bytes) */ }
//!         FromShard::Opened { .. } | FromShard::Reassembled { .. } => { /* node.handle_opened(..) ... */ }
//!         FromShard::Frame { .. } => { /* node.handle_tap_frame(..) */ }
//!         FromShard::Activity { .. } => { /* node.handle_activity(..) */ }
//!         FromShard::Narrow { .. } => { /* node.narrow(..) */ }
//!         FromShard::SendFailed { .. } => { /* a path became narrower, or nobody is there */ }
//!         FromShard::SocketGone { .. } | FromShard::TapGone { .. } => { /* open it again, after a pause */ }
//!         FromShard::ShardGone { .. } => break, // its ring broke: the gateway cannot go on
//!     }
//! }
//! plane.stop();
//! # Ok(()) }
//! ```
//!
//! # What is bounded, and how
//! * Decisions ([`update`](DataPlane::update), sockets, TAP queues) are never lost: a revoked member must not stay. If a
//!   shard is [`COMMANDS_MAX`] behind, the control thread waits for it; shards never wait for the control thread.
//! * What a shard lost (a socket, a TAP queue, itself) is never dropped either; there is no more of it than was made.
//! * Sends, frames and everything else from the shards is dropped, the newest first, when its queue is full, and counted
//!   by cause in [`QueueCounters`]. Each kind has a queue of its own, and [`recv`](DataPlane::recv) takes from them in turn,
//!   so that a flood of one kind starves no other: not the control plane's sends, not what authenticated peers say.
//! * Packets that cross threads are copied into [`Buffer`]s, whose bytes are bounded per queue ([`QUEUE_BYTES_MAX`]) until
//!   the control plane drops them. Their memory is used again.
//! * An idle shard sleeps without a timer. After traffic it reports what went over which path every [`TICK`], and what it
//!   saw of the paths of bonds every [`BOND_TICK`].

mod meeting;
mod queues;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender, bounded};
use shard::{Report, SocketId, Update};
use tracing::warn;
use uring::Waker;
use uring::tap::SuperFrames;
use wire::{Address, NetworkId};

pub use queues::{Buffer, QueueCounters};
pub use worker::ShardCounters;

use meeting::Meeting;
use queues::{Drops, Inbox};
use worker::{Command, Mail, Outgoing};

/// Decisions on their way to one shard. More make the control thread wait.
pub const COMMANDS_MAX: usize = 4096;
/// Datagrams of the control plane on their way to one shard.
pub const SENDS_MAX: usize = 4096;
/// Frames of the control plane on their way to the TAPs.
pub const FRAMES_MAX: usize = 1024;
/// Messages in each of the queues to the control thread.
pub const QUEUE_MAX: usize = 4096;
/// Bytes in each of them.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;
/// A shard with something to report does so this often.
pub const TICK: Duration = Duration::from_millis(100);
/// A shard that saw something of a bond's paths says so within this time.
pub const BOND_TICK: Duration = Duration::from_millis(5);

/// What the data plane is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our own address.
    pub own: Address,
    /// Packet threads; at least one.
    pub shards: usize,
    /// Keep each on a core of its own.
    pub pin: bool,
    /// The core of the first, counted among those this process may use; the others follow. Gateways that share a host
    /// should not all begin with the same.
    pub first_core: usize,
    /// Instead: exactly these cores, one after the other, by the kernel's numbers. What a thread's ring and tables need
    /// is touched first by the thread itself, so that it lies in the memory next to its core.
    pub cores: Vec<usize>,
    /// Sizes of each shard's ring.
    pub ring: uring::Config,
    /// Where the monotonic clock of all threads begins: what one notes, another may compare.
    pub origin: Instant,
}

impl Config {
    /// Pinned shards with rings of the usual size.
    pub fn new(own: Address, shards: usize) -> Config {
        Config { own, shards, pin: true, first_core: 0, cores: Vec::new(), ring: ring_config(), origin: Instant::now() }
    }
}

/// A shard's ring: every buffer has room for a super-frame, so there are few, and little memory is hot.
fn ring_config() -> uring::Config {
    const SUPER_FRAME: usize = 68 << 10;
    uring::Config {
        tap_buffers: 64,
        tap_buffer_bytes: SUPER_FRAME,
        tap_slots: 64,
        tap_slot_bytes: SUPER_FRAME,
        send_slots: 128,
        ..uring::Config::default()
    }
}

/// Why the data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread cannot be made.
    #[error("a packet thread cannot be started: {0}")]
    Thread(io::Error),
    /// A shard cannot have a ring.
    #[error("packet thread {shard}: {error}")]
    Ring {
        /// Which shard.
        shard: usize,
        /// Why.
        error: uring::Error,
    },
}

/// What shards tell the control thread. A socket or network is named as in [`DataPlane::add_socket`] and
/// [`DataPlane::add_tap`].
#[derive(Debug)]
pub enum FromShard {
    /// A datagram as it came: for another node, or a whole packet for us of an unknown sender, or a HELLO.
    Datagram {
        /// The socket it came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The UDP payload.
        bytes: Buffer,
    },
    /// The same, put together from fragments by the shard; unopened, its fragmented flag still set.
    Reassembled {
        /// The socket the head came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The whole packet.
        packet: Buffer,
    },
    /// A whole packet for us, authenticated and decrypted by the shard.
    Opened {
        /// The socket it came to.
        socket: SocketId,
        /// Where it came from.
        remote: SocketAddr,
        /// The whole packet, verb and payload in clear.
        packet: Buffer,
    },
    /// An Ethernet frame from a TAP that is not for a shard.
    Frame {
        /// The network of the TAP.
        network: NetworkId,
        /// The frame, header included.
        frame: Buffer,
    },
    /// What frames went over which paths since the shard's last report.
    Activity {
        /// Which shard's.
        shard: usize,
        /// What it says.
        report: Report,
    },
    /// Datagrams as long as this take several IP packets to get there.
    Narrow {
        /// The socket they leave by.
        socket: SocketId,
        /// Where they go.
        remote: SocketAddr,
        /// Their length.
        bytes: usize,
    },
    /// The kernel refused a datagram for good.
    SendFailed {
        /// The socket it should have left by.
        socket: SocketId,
        /// Where it was meant to go.
        remote: SocketAddr,
        /// Its length.
        bytes: usize,
        /// The kernel's reason: `EMSGSIZE` if the path is narrower than thought.
        error: io::Error,
    },
    /// A shard's socket is closed: on request (no error), or because it died.
    SocketGone {
        /// Which shard's.
        shard: usize,
        /// The socket.
        socket: SocketId,
        /// Why, if nobody asked for it.
        error: Option<io::Error>,
    },
    /// A shard's TAP queue is closed: on request (no error), or because the device vanished.
    TapGone {
        /// Which shard's.
        shard: usize,
        /// The network of the TAP.
        network: NetworkId,
        /// Why, if nobody asked for it.
        error: Option<io::Error>,
    },
    /// A packet thread ended because its ring broke, or it panicked.
    ShardGone {
        /// Which.
        shard: usize,
        /// Why.
        error: io::Error,
    },
}

/// What the data plane did and dropped so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Of each shard, as of its last report (at most [`TICK`] old while there is traffic).
    pub shards: Vec<ShardCounters>,
    /// Of the queues between the threads.
    pub queues: QueueCounters,
}

/// The packet threads, as the control thread sees them. Dropping it stops them.
pub struct DataPlane {
    shards: Vec<Handle>,
    inbox: Inbox,
    drops: Arc<Drops>,
    /// Sockets that only one shard has.
    lanes: BTreeMap<SocketId, usize>,
}

/// The control thread's end of one shard.
struct Handle {
    commands: Sender<Command>,
    sends: Sender<Outgoing>,
    frames: Sender<(NetworkId, Vec<u8>)>,
    waker: Waker,
    counters: Arc<std::sync::Mutex<ShardCounters>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl DataPlane {
    /// Starts the packet threads.
    pub fn start(config: Config) -> Result<DataPlane, Error> {
        let drops = Arc::new(Drops::default());
        let (inbox, outbox) = Inbox::new(Arc::clone(&drops));
        let meeting = Meeting::new(config.shards).map(Arc::new);
        let mut plane = DataPlane { shards: Vec::new(), inbox, drops, lanes: BTreeMap::new() };
        let cores = if config.pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        for shard in 0..config.shards.max(1) {
            let core = match config.cores.get(shard % config.cores.len().max(1)) {
                Some(&id) => Some(core_affinity::CoreId { id }),
                None => cores.get((config.first_core + shard) % cores.len().max(1)).copied(),
            };
            let (commands, command_mail) = bounded(COMMANDS_MAX);
            let (sends, send_mail) = bounded(SENDS_MAX);
            let (frames, frame_mail) = bounded(FRAMES_MAX);
            let mail = Mail { commands: command_mail, sends: send_mail, frames: frame_mail };
            let counters = Arc::default();
            let setup = worker::Setup {
                shard,
                shards: config.shards,
                own: config.own,
                ring: config.ring.clone(),
                origin: config.origin,
                mail,
                outbox: outbox.clone(),
                meeting: meeting.clone(),
                counters: Arc::clone(&counters),
            };
            let (started, start) = bounded(1);
            let thread = thread::Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(move || {
                    if core.is_some_and(|core| !core_affinity::set_for_current(core)) {
                        warn!(shard, "cannot be kept on one core");
                    }
                    worker::run(setup, &started);
                })
                .map_err(Error::Thread)?;
            let waker = wait_for_start(shard, &start)?;
            plane.shards.push(Handle { commands, sends, frames, waker, counters, thread: Some(thread) });
        }
        Ok(plane)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Takes the next message of the shards, waiting for one if need be. May be cancelled without loss.
    pub async fn recv(&mut self) -> FromShard {
        self.inbox.recv().await
    }

    /// The next message, if there is one.
    pub fn try_recv(&mut self) -> Option<FromShard> {
        self.inbox.try_recv()
    }

    /// Tells all shards what the control plane decided.
    pub fn update(&self, update: Update) {
        for shard in &self.shards {
            shard.command(Command::Update(update.clone()));
        }
    }

    /// Tells all shards of a peer. Those with a lane towards it send from there: shard and socket.
    pub fn update_peer(&self, update: Update, lanes: &[(u16, SocketId)]) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut update = update.clone();
            if let Update::Peer { route: Some(route), .. } = &mut update
                && let Some(&(_, lane)) = lanes.iter().find(|(of, _)| usize::from(*of) == number)
            {
                route.socket = lane;
            }
            shard.command(Command::Update(update));
        }
    }

    /// Gives a socket to one shard alone. It is closed by [`DataPlane::remove_socket`] too.
    pub fn add_lane(&mut self, id: SocketId, shard: u16, socket: UdpSocket) {
        let number = usize::from(shard);
        let Some(shard) = self.shards.get(number) else { return };
        self.lanes.insert(id, number);
        shard.command(Command::AddSocket(id, socket));
    }

    /// Gives each shard one of `sockets`, in order; they are one link, `id`, to everybody above.
    pub fn add_socket(&self, id: SocketId, sockets: Vec<UdpSocket>) {
        for (shard, socket) in self.shards.iter().zip(sockets) {
            shard.command(Command::AddSocket(id, socket));
        }
    }

    /// Closes a link's sockets. [`FromShard::SocketGone`] follows from each shard.
    pub fn remove_socket(&mut self, id: SocketId) {
        if let Some(shard) = self.lanes.remove(&id).and_then(|number| self.shards.get(number)) {
            return shard.command(Command::RemoveSocket(id));
        }
        for shard in &self.shards {
            shard.command(Command::RemoveSocket(id));
        }
    }

    /// Gives each shard one of the TAP's `queues`, in order. All carry the same.
    pub fn add_tap(&self, network: NetworkId, queues: Vec<OwnedFd>, carries: SuperFrames) {
        for (shard, queue) in self.shards.iter().zip(queues) {
            shard.command(Command::AddTap(network, queue, carries));
        }
    }

    /// Closes a TAP's queues. [`FromShard::TapGone`] follows from each shard.
    pub fn remove_tap(&self, network: NetworkId) {
        for shard in &self.shards {
            shard.command(Command::RemoveTap(network));
        }
    }

    /// Sends a datagram of the control plane. All to one remote leave by one shard, in order.
    pub fn send(&self, socket: SocketId, remote: SocketAddr, ttl: Option<u8>, datagram: Vec<u8>) {
        let lane = self.lanes.get(&socket).copied();
        let number = lane.unwrap_or_else(|| spread(remote) % self.shards.len().max(1));
        let Some(shard) = self.shards.get(number) else { return };
        let sent = shard.sends.try_send(Outgoing { socket, remote, ttl, datagram });
        self.drops.count(sent.is_err(), |drops| &drops.sends);
        shard.waker.wake();
    }

    /// Hands a frame of the control plane to a network's TAP.
    pub fn deliver(&self, network: NetworkId, frame: Vec<u8>) {
        let Some(shard) = self.shards.first() else { return };
        let sent = shard.frames.try_send((network, frame));
        self.drops.count(sent.is_err(), |drops| &drops.frames);
        shard.waker.wake();
    }

    /// What was done and dropped so far.
    pub fn counters(&self) -> Counters {
        let shards = self.shards.iter().map(|shard| *lock(&shard.counters)).collect();
        Counters { shards, queues: self.drops.counters() }
    }

    /// Ends the packet threads; what they were given before still leaves.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for shard in &self.shards {
            shard.command(Command::Stop);
        }
        for shard in &mut self.shards {
            if shard.thread.take().is_some_and(|thread| thread.join().is_err()) {
                warn!("a packet thread panicked");
            }
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    /// Decisions are not lost: a full queue is waited for. A shard that is gone was reported already.
    fn command(&self, command: Command) {
        let Err(refused) = self.commands.try_send(command) else { return self.waker.wake() };
        self.waker.wake();
        let _ = self.commands.send(refused.into_inner());
        self.waker.wake();
    }
}

fn wait_for_start(shard: usize, start: &Receiver<Result<Waker, uring::Error>>) -> Result<Waker, Error> {
    match start.recv() {
        Ok(Ok(waker)) => Ok(waker),
        Ok(Err(error)) => Err(Error::Ring { shard, error }),
        Err(_) => Err(Error::Thread(io::Error::other("it ended at once"))),
    }
}

/// A number that is the same for all datagrams to one remote.
fn spread(remote: SocketAddr) -> usize {
    let octets = match remote.ip() {
        std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u128::from(ip),
    };
    ((octets ^ octets >> 64) as u64 % 65_521) as usize + usize::from(remote.port())
}

/// A counter snapshot stays usable whatever happened to the thread that held it.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
