//! io_uring for UDP links and TAP queues: one [`Ring`] per thread, multishot receive into provided buffers, sends from
//! fixed slots with GSO, wake-ups from other threads, and the opening of sockets and TAP devices themselves. Where there is
//! no io_uring, the same ring works by `recvmmsg`, `sendmmsg` and epoll.
//! This crate moves datagrams and Ethernet frames and knows nothing of the protocol inside them; it is the one room of
//! the house where `unsafe` lives.
//!
//! # The loop
//! ```no_run
//! use std::{net::SocketAddr, time::Duration};
//! use uring::{Config, Event, Handler, Io, Ring, Token};
//!
//! struct Echo;
//! impl Handler for Echo {
//!     fn datagrams(&mut self, io: &mut Io, socket: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize) {
//!         for datagram in bytes.chunks(segment) {
//!             let _ = io.send(socket, remote, None, datagram); // leaves with the next turn's one `io_uring_enter`
//!         }
//!     }
//!     fn frame(&mut self, _: &mut Io, _: Token, _: &mut [u8]) {}
//!     fn event(&mut self, _: &mut Io, event: Event) {
//!         eprintln!("{event:?}");
//!     }
//! }
//!
//! let mut ring = Ring::new(Config::default())?;
//! let socket = uring::udp::bind(&uring::udp::Options::new("0.0.0.0:9993".parse().unwrap()))?;
//! ring.io().add_udp(7, socket)?;
//! loop {
//!     ring.turn(Some(Duration::from_secs(1)), &mut Echo)?;
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), uring::Error>(())
//! ```
//!
//! # What the loop promises
//! * One `io_uring_enter` (or round of the older calls) per turn: it submits what the handler committed and waits for what comes next. More only when
//!   the send slots run out inside a turn.
//! * What is committed in a turn leaves with the next `enter`, which follows at once: batching never holds a lone packet.
//! * A multishot request that the kernel ends (no buffers, full completion queue, a socket error) is armed again in the
//!   same turn, after the buffers went back.
//! * A socket whose send buffer is full keeps its datagrams, in order, in their slots. When slots become scarce the TAP
//!   queues are not read any more: their backlog stays in the kernel until slots are free again. A socket that stays full
//!   while others have room keeps only a share of the slots: what exceeds it is dropped, so that no link stops another.
//! * A socket or TAP queue that dies is reported by [`Event`] and removed; the loop goes on.

mod buffers;
mod io;
mod kernel;
mod memory;
mod mmsg;
mod native;
pub mod probe;
mod ring;
mod send;
mod slots;
pub mod steer;
mod sys;
pub mod tap;
pub mod udp;
mod waker;
mod write;

use std::{
    fmt, io as std_io,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use io::{Io, Refused};
pub use ring::Ring;
pub use send::Room;
pub use sys::retry_while_busy;
pub use waker::Waker;
pub use write::{FrameRoom, HeldFrame};

/// The caller's name for a socket or a TAP queue; sockets and TAP queues are named independently.
pub type Token = u64;

/// Most UDP sockets one ring carries.
pub const SOCKETS_MAX: usize = 400;
/// Most TAP queues one ring carries.
pub const TAPS_MAX: usize = 64;
/// Most datagrams in one GSO send: kernels before mid-2024 refuse more.
pub const GSO_SEGMENTS_MAX: usize = 64;
/// Most payload bytes in one GSO send; the kernel's own limit is 65 507 for IPv4.
pub const GSO_BYTES_MAX: usize = 65_000;
/// A datagram that waits longer than this for room in its socket's send buffer is given up, with those behind it.
pub const SEND_WAIT_MAX: Duration = Duration::from_secs(1);

/// By which system calls a ring works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring if the probe finds all that is needed of it, else the other.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// `recvmmsg`, `sendmmsg` and epoll.
    Mmsg,
}

impl Backend {
    /// Each by its name, as operators write it.
    pub const NAMES: [(&str, Backend); 3] =
        [("auto", Backend::Auto), ("io-uring", Backend::IoUring), ("mmsg", Backend::Mmsg)];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Backend> {
        Backend::NAMES.iter().find(|(known, _)| *known == name).map(|(_, backend)| *backend)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Backend::NAMES.iter().find(|(_, backend)| backend == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// Sizes of a ring's tables. The defaults suit UDP with GRO and TAP without super-frames; memory is only touched as far
/// as it is used.
#[derive(Clone, Debug)]
pub struct Config {
    /// By which system calls.
    pub backend: Backend,
    /// Receive buffers shared by all UDP sockets; a power of two.
    pub udp_buffers: u16,
    /// Bytes of one UDP receive buffer. With GRO a message may be 64 KiB, so anything less than 68 KiB loses data then.
    pub udp_buffer_bytes: usize,
    /// Receive buffers shared by all TAP queues; a power of two. Also the most frames taken from TAP in one turn.
    pub tap_buffers: u16,
    /// Bytes of one TAP receive buffer: the largest frame, or 68 KiB with super-frames.
    pub tap_buffer_bytes: usize,
    /// Send slots shared by all UDP sockets.
    pub send_slots: u16,
    /// Bytes of a send slot: how much one GSO send can carry.
    pub send_slot_bytes: usize,
    /// Slots for frames on their way to TAP.
    pub tap_slots: u16,
    /// Bytes of such a slot.
    pub tap_slot_bytes: usize,
    /// A frame is taken from TAP only while at least this many send slots are free.
    pub tap_reserve: u16,
    /// Use GSO for equal-sized datagrams to one remote.
    pub gso: bool,
    /// How to wait under load; `None` always wakes for the first completion.
    pub gather: Option<Gather>,
    /// After traffic a thread looks for more for this long before it sleeps: a core for the time that waking takes.
    pub spin: Option<Duration>,
    /// Before it sleeps, the kernel asks the network card's queues for this long whether something came (NAPI busy poll):
    /// CPU for latency. For cards with an interrupt per queue; see [`Io::busy_poll_refused`].
    pub busy_poll: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            backend: Backend::Auto,
            udp_buffers: 64,
            udp_buffer_bytes: 68 << 10,
            tap_buffers: 64,
            tap_buffer_bytes: 10 << 10,
            send_slots: 256,
            send_slot_bytes: 64 << 10,
            tap_slots: 256,
            tap_slot_bytes: 10 << 10,
            tap_reserve: 64,
            gso: true,
            gather: Some(Gather::default()),
            spin: None,
            busy_poll: None,
        }
    }
}

/// Waiting for a batch while messages come fast one by one: woken for each, a thread that shares its core would be called
/// more often than there is work. Never applied to slower ones, so that a ping is not delayed.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// Messages per second from which on it is worth waiting. Super-frames and GRO messages do not count: they are
    /// batches already.
    pub rate: u32,
    /// Messages to wait for.
    pub messages: usize,
    /// For at most this long.
    pub wait: Duration,
}

impl Default for Gather {
    fn default() -> Self {
        Gather { rate: 50_000, messages: 32, wait: Duration::from_micros(50) }
    }
}

/// Receives what a turn brings. Every call gets the ring's [`Io`], through which answers leave.
pub trait Handler {
    /// The first call of every turn that brought anything: the place to read the clock once.
    fn begin(&mut self, now: Instant) {
        let _ = now;
    }

    /// One or many datagrams of one sender: `bytes` holds them back to back, each `segment` bytes long but the last,
    /// which may be shorter. `segment` is never zero; for a lone datagram it is `bytes.len()`.
    fn datagrams(&mut self, io: &mut Io, socket: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize);

    /// One read from a TAP queue: an Ethernet frame, with the virtio-net header in front if the queue was opened so.
    fn frame(&mut self, io: &mut Io, tap: Token, bytes: &mut [u8]);

    /// The last call of every turn that brought anything, but for events: what was held back to be joined goes now.
    fn end(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// Somebody called [`Waker::wake`] since the last turn: look at the queues.
    fn woken(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// Something happened that the owner of a socket or TAP queue should know.
    fn event(&mut self, io: &mut Io, event: Event);
}

/// What happened to a socket or TAP queue.
#[derive(Debug)]
pub enum Event {
    /// The socket was removed: on request (`error` is `None`) or because it died. Its port is about to be free.
    SocketGone {
        /// The socket's name.
        socket: Token,
        /// Why, if nobody asked for it.
        error: Option<std_io::Error>,
    },
    /// The TAP queue was removed: on request (`error` is `None`) or because the device vanished.
    TapGone {
        /// The TAP queue's name.
        tap: Token,
        /// Why, if nobody asked for it.
        error: Option<std_io::Error>,
    },
    /// Datagrams as long as this reach the remote in several IP packets only, so it is spared GSO for a moment.
    Narrow {
        /// The socket's name.
        socket: Token,
        /// Where they go.
        remote: SocketAddr,
        /// Their length.
        bytes: usize,
    },
    /// The kernel refused a datagram for good: `EMSGSIZE` says that the path became narrower, `ECONNREFUSED` or
    /// `EHOSTUNREACH` that nobody is there.
    SendFailed {
        /// The socket it should have left by.
        socket: Token,
        /// Where it was meant to go.
        remote: SocketAddr,
        /// Length of the datagram in bytes.
        bytes: usize,
        /// The kernel's reason.
        error: std_io::Error,
    },
}

/// What a ring has done and lost since it was made. Everything that is dropped is in here, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// `io_uring_enter` calls (or `epoll_wait`), more than `turns` by those that had to submit early.
    pub enters: u64,
    /// Datagrams received (segments of GRO messages counted each).
    pub datagrams_in: u64,
    /// Messages they came in.
    pub messages_in: u64,
    /// Bytes of these datagrams.
    pub bytes_in: u64,
    /// Datagrams handed to the kernel (GSO segments counted each).
    pub datagrams_out: u64,
    /// Sends they left in.
    pub messages_out: u64,
    /// Bytes of these datagrams.
    pub bytes_out: u64,
    /// Frames read from TAP.
    pub frames_in: u64,
    /// Frames written to TAP.
    pub frames_out: u64,
    /// Multishot requests armed again because the kernel had ended them.
    pub rearmed: u64,
    /// ... of these because the receive buffers were used up (nothing is lost while the socket buffer holds).
    pub buffers_exhausted: u64,
    /// Times the kernel had to keep completions back because the completion queue was full.
    pub completions_overflowed: u64,
    /// Datagrams dropped because they were longer than a receive buffer (`MSG_TRUNC`).
    pub dropped_truncated: u64,
    /// Messages dropped because their GRO size was lost (`MSG_CTRUNC`).
    pub dropped_control_truncated: u64,
    /// Messages dropped because they were empty or their sender's address was not understood.
    pub dropped_malformed: u64,
    /// Errors reported by receives (ICMP errors and the like).
    pub receive_errors: u64,
    /// Sends that met a full socket buffer and waited in their slot.
    pub sends_parked: u64,
    /// Datagrams given up after waiting [`SEND_WAIT_MAX`].
    pub dropped_send_expired: u64,
    /// Datagrams dropped because their socket's buffer had been full for long and its share of send slots was used, while
    /// another socket had room.
    pub dropped_socket_full: u64,
    /// Datagrams the kernel refused for good; see [`Event::SendFailed`].
    pub dropped_send_failed: u64,
    /// Datagrams refused because no send slot was free.
    pub dropped_no_send_slot: u64,
    /// Datagrams that were waiting when their socket was removed.
    pub dropped_socket_gone: u64,
    /// GSO sends that the route refused and that left one by one instead.
    pub gso_refused: u64,
    /// Frames that waited because send slots were scarce.
    pub frames_stalled: u64,
    /// Frames whose device cannot be told not to wait (`RWF_NOWAIT`), and which were written again without.
    pub writes_waiting: u64,
    /// Frames dropped because no TAP slot was free.
    pub dropped_no_tap_slot: u64,
    /// Frames the TAP device refused because it is down.
    pub dropped_tap_down: u64,
    /// Frames the TAP device refused for another reason.
    pub dropped_tap_failed: u64,
    /// Events not reported because [`Event`]s came faster than turns.
    pub dropped_events: u64,
}

/// Why a ring cannot be made, or a socket or TAP queue not be added.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks something, or does not let us use it.
    #[error(transparent)]
    Missing(#[from] probe::Missing),
    /// A value in [`Config`] makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// A second socket or TAP queue under one token.
    #[error("token {0} is in use already")]
    InUse(Token),
    /// [`SOCKETS_MAX`] or [`TAPS_MAX`] reached.
    #[error("the table is full: {0} at most")]
    Full(usize),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] std_io::Error),
}
