//! The sockets and TAP queues of one ring: adding and removing them, asking the kernel for what arrives, and the one
//! place where the ring is entered. What arrives is only collected here; `ring` hands it to the handler. What leaves is
//! in `send` and `write`.

use std::{
    collections::VecDeque,
    io as std_io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use io_uring::cqueue;

use crate::{
    Config, Counters, Error, Event, SOCKETS_MAX, TAPS_MAX, Token,
    kernel::{Completion, KIND_READ, KIND_RECEIVE, KIND_SEND, KIND_WAKE, KIND_WRITE, Kernel, Request, Wait},
    mmsg::Mmsg,
    native::{self, Native},
    probe::Setup,
    send::{Parked, Sends},
    udp,
    waker::Waker,
    write::Writes,
};

/// Bytes reserved in front of a received payload: header, name (fits IPv6), control (fits the GRO size).
pub(crate) const RECEIVE_HEADER_BYTES: usize = 16;
pub(crate) const RECEIVE_NAME_BYTES: usize = 28;
pub(crate) const RECEIVE_CONTROL_BYTES: usize = 24;
pub(crate) const RECEIVE_PREFIX_BYTES: usize = RECEIVE_HEADER_BYTES + RECEIVE_NAME_BYTES + RECEIVE_CONTROL_BYTES;
/// A whole GRO message with what is in front of it.
const GRO_BUFFER_BYTES: usize = u16::MAX as usize + RECEIVE_PREFIX_BYTES;

/// [`Event::SendFailed`]s waiting for the next turn; more are counted and dropped.
const EVENTS_MAX: usize = 1024;
/// Single reads kept armed on a TAP queue where the kernel lacks multishot reads.
pub(crate) const SINGLE_READS: u16 = 16;
/// How long a dropped ring waits for the kernel to let go of its memory.
const TEARDOWN_WAIT: Duration = Duration::from_secs(1);

/// A socket or a TAP queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Socket(u16),
    Tap(u16),
}

/// A completion that waits for the handler.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) port: Port,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// Why a port is being removed: an errno, or nothing if it was asked for.
type Cause = Option<i32>;

pub(crate) struct Socket {
    pub(crate) token: Token,
    fd: OwnedFd,
    pub(crate) v6: bool,
    pub(crate) gso: bool,
    pub(crate) armed: bool,
    /// The send that met a full socket buffer and waits for room in it, and those behind it, in order.
    pub(crate) parked: Option<Parked>,
    pub(crate) held: VecDeque<u16>,
    /// Receive errors since the last datagram.
    pub(crate) failures: u8,
    pub(crate) closing: Option<Cause>,
}

pub(crate) struct Tap {
    pub(crate) token: Token,
    _fd: OwnedFd,
    armed: u16,
    /// The device can be told not to wait, so that success may be silent.
    pub(crate) nowait: bool,
    pub(crate) closing: Option<Cause>,
}

/// Why there is no room for a datagram or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No socket or TAP queue of this name.
    #[error("no such socket or queue")]
    Unknown,
    /// The remote's address family is not the socket's.
    #[error("the remote's address family is not the socket's")]
    Family,
    /// Longer than a slot, or than any datagram can be.
    #[error("too long")]
    TooLong,
    /// Every slot is in use: the kernel does not take what was given to it. Counted.
    #[error("no slot is free")]
    NoSlot,
}

/// Sockets, TAP queues and the way out of a ring. Every [`Handler`](crate::Handler) call gets it; between turns it is
/// at [`Ring::io`](crate::Ring::io).
pub struct Io {
    // dropped in this order: the kernel's ring before the memory it works on
    pub(crate) kernel: Kernel,
    pub(crate) sends: Sends,
    pub(crate) writes: Writes,
    setup: Setup,
    pub(crate) sockets: Vec<Option<Socket>>,
    pub(crate) taps: Vec<Option<Tap>>,
    pub(crate) closing: usize,
    /// Ports to arm again when this turn's buffers are back.
    pub(crate) rearm: Vec<Port>,
    pub(crate) arrived: VecDeque<Arrival>,
    /// Frames taken from TAP that wait for free send slots.
    pub(crate) stalled: VecDeque<Arrival>,
    /// Ports found dead while completions were collected.
    pub(crate) dead: Vec<(Port, i32)>,
    pub(crate) events: VecDeque<Event>,
    completions: Vec<Completion>,
    pub(crate) waker_armed: bool,
    pub(crate) multishot_read: bool,
    pub(crate) min_wait: bool,
    busy_poll_refused: Option<std_io::Error>,
    pub(crate) now: Instant,
    pub(crate) counters: Counters,
    pub(crate) config: Config,
    pub(crate) waker: Waker,
}

impl Io {
    /// `sizes`: entries of io_uring's submission and completion queues.
    pub(crate) fn new(config: Config, setups: &[Setup], sizes: (u32, u32)) -> Result<Io, Error> {
        if !config.udp_buffers.is_power_of_two() || !config.tap_buffers.is_power_of_two() {
            return Err(Error::Config("buffer counts must be powers of two"));
        }
        if config.udp_buffer_bytes <= RECEIVE_PREFIX_BYTES || config.tap_buffer_bytes == 0 {
            return Err(Error::Config("receive buffers are too short"));
        }
        if config.tap_reserve > config.send_slots / 2 {
            return Err(Error::Config("tap_reserve must leave half of the send slots"));
        }
        let waker = Waker::new()?;
        let (kernel, setup, multishot_read, min_wait, completions) = if setups == [Setup::Mmsg] {
            (Kernel::Mmsg(Mmsg::new(waker.fd())?), Setup::Mmsg, true, false, native::queue_sizes(&config).1 as usize)
        } else {
            let native = Native::new(sizes, setups, waker.fd())?;
            let (setup, multishot_read, min_wait) = (native.setup, native.multishot_read, native.min_wait);
            let completions = native.completions_max();
            (Kernel::Native(native), setup, multishot_read, min_wait, completions)
        };
        let busy_poll_refused = config.busy_poll.and_then(|time| kernel.busy_poll(time).err());
        Ok(Io {
            kernel,
            setup,
            multishot_read,
            min_wait,
            busy_poll_refused,
            sends: Sends::new(&config)?,
            writes: Writes::new(&config)?,
            sockets: (0..SOCKETS_MAX).map(|_| None).collect(),
            taps: (0..TAPS_MAX).map(|_| None).collect(),
            closing: 0,
            rearm: Vec::with_capacity(SOCKETS_MAX + TAPS_MAX),
            arrived: VecDeque::with_capacity(2 * completions),
            stalled: VecDeque::with_capacity(config.tap_buffers.into()),
            dead: Vec::new(),
            events: VecDeque::new(),
            completions: Vec::with_capacity(completions),
            waker_armed: false,
            now: Instant::now(),
            counters: Counters::default(),
            config,
            waker,
        })
    }

    /// The clock, as read at the start of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What was done and lost so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the ring was set up: by which system calls, and with which flags.
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// Why there is no busy poll although the configuration asked for it: `EINVAL` before Linux 6.9.
    pub fn busy_poll_refused(&self) -> Option<&std_io::Error> {
        self.busy_poll_refused.as_ref()
    }

    /// Adds a UDP socket and starts to receive from it.
    pub fn add_udp(&mut self, token: Token, socket: UdpSocket) -> Result<(), Error> {
        if self.socket_index(token).is_some() {
            return Err(Error::InUse(token));
        }
        if udp::has_gro(socket.as_fd()) && self.config.udp_buffer_bytes < GRO_BUFFER_BYTES {
            return Err(Error::Config("a socket with GRO needs receive buffers of 68 KiB"));
        }
        let index = self.sockets.iter().position(Option::is_none).ok_or(Error::Full(SOCKETS_MAX))?;
        let v6 = socket.local_addr()?.is_ipv6();
        let gso = self.config.gso && udp::has_gso(socket.as_fd());
        let fd = OwnedFd::from(socket);
        self.kernel.add_file(Port::Socket(index as u16), fd.as_raw_fd())?;
        self.sockets[index] = Some(Socket {
            token,
            fd,
            v6,
            gso,
            armed: false,
            parked: None,
            held: VecDeque::new(),
            failures: 0,
            closing: None,
        });
        self.arm(Port::Socket(index as u16));
        Ok(())
    }

    /// Adds one queue of a TAP device and starts to read from it. The descriptor must be nonblocking.
    pub fn add_tap(&mut self, token: Token, queue: OwnedFd) -> Result<(), Error> {
        if self.tap_index(token).is_some() {
            return Err(Error::InUse(token));
        }
        let index = self.taps.iter().position(Option::is_none).ok_or(Error::Full(TAPS_MAX))?;
        self.kernel.add_file(Port::Tap(index as u16), queue.as_raw_fd())?;
        self.taps[index] = Some(Tap { token, _fd: queue, armed: 0, nowait: true, closing: None });
        self.arm(Port::Tap(index as u16));
        Ok(())
    }

    /// Removes a socket: what was committed leaves, what waits for room in the socket buffer is dropped.
    /// [`Event::SocketGone`] follows when the kernel has let go. False if there is no such socket.
    pub fn remove_udp(&mut self, token: Token) -> bool {
        let Some(index) = self.socket_index(token) else { return false };
        self.flush();
        self.close(Port::Socket(index), None);
        true
    }

    /// Removes a TAP queue; [`Event::TapGone`] follows. False if there is no such queue.
    pub fn remove_tap(&mut self, token: Token) -> bool {
        let Some(index) = self.tap_index(token) else { return false };
        self.flush();
        self.close(Port::Tap(index), None);
        true
    }

    /// The address a socket is bound to.
    pub fn local_addr(&self, token: Token) -> Option<SocketAddr> {
        let socket = self.sockets[usize::from(self.socket_index(token)?)].as_ref()?;
        UdpSocket::from(socket.fd.try_clone().ok()?).local_addr().ok()
    }

    pub(crate) fn socket(&mut self, index: u16) -> Option<&mut Socket> {
        self.sockets[usize::from(index)].as_mut()
    }

    pub(crate) fn tap(&mut self, index: u16) -> Option<&mut Tap> {
        self.taps[usize::from(index)].as_mut()
    }

    pub(crate) fn socket_index(&self, token: Token) -> Option<u16> {
        let live = |socket: &Socket| socket.token == token && socket.closing.is_none();
        self.sockets.iter().position(|socket| socket.as_ref().is_some_and(live)).map(|index| index as u16)
    }

    pub(crate) fn tap_index(&self, token: Token) -> Option<u16> {
        let live = |tap: &Tap| tap.token == token && tap.closing.is_none();
        self.taps.iter().position(|tap| tap.as_ref().is_some_and(live)).map(|index| index as u16)
    }

    /// Asks the kernel for what arrives next at a port, unless that is asked for already.
    pub(crate) fn arm(&mut self, port: Port) {
        match port {
            Port::Socket(index) => {
                let Some(socket) = self.socket(index).filter(|s| !s.armed && s.closing.is_none()) else { return };
                socket.armed = true;
                self.push(Request::Receive { socket: index });
            }
            Port::Tap(index) => {
                let once = (!self.multishot_read).then_some(self.config.tap_buffer_bytes as u32);
                let wanted = if once.is_some() { SINGLE_READS } else { 1 };
                while let Some(tap) = self.tap(index).filter(|t| t.armed < wanted && t.closing.is_none()) {
                    tap.armed += 1;
                    self.push(Request::Read { tap: index, once });
                }
            }
        }
    }

    /// Asks the kernel to end the turn's wait when the waker is used.
    pub(crate) fn arm_waker(&mut self) {
        if self.waker_armed {
            return;
        }
        self.waker_armed = true;
        self.push(Request::Wake);
    }

    /// Stops a port. It is removed by [`finish_closing`](Self::finish_closing) when nothing of it is left in the kernel.
    pub(crate) fn close(&mut self, port: Port, cause: Cause) {
        match port {
            Port::Socket(index) => {
                let Some(socket) = self.socket(index).filter(|socket| socket.closing.is_none()) else { return };
                socket.closing = Some(cause);
                for slot in std::mem::take(&mut socket.held) {
                    self.drop_send(slot, |counters| &mut counters.dropped_socket_gone);
                }
            }
            Port::Tap(index) => {
                let Some(tap) = self.tap(index).filter(|tap| tap.closing.is_none()) else { return };
                tap.closing = Some(cause);
            }
        }
        self.closing += 1;
        self.push(Request::CancelPort(port));
    }

    /// Removes every closing port that the kernel has let go of.
    pub(crate) fn finish_closing(&mut self) {
        if self.closing == 0 {
            return;
        }
        for index in 0..SOCKETS_MAX as u16 {
            let quiet = |s: &mut Socket| s.closing.is_some() && !s.armed && s.parked.is_none();
            let busy = self.waits_for_handler(Port::Socket(index)) || self.sends.busy_with(index);
            if busy || !self.socket(index).is_some_and(quiet) {
                continue;
            }
            let Some(socket) = self.sockets[usize::from(index)].take() else { continue };
            let error = self.forget(Port::Socket(index), socket.closing);
            self.event(Event::SocketGone { socket: socket.token, error });
        }
        for index in 0..TAPS_MAX as u16 {
            let quiet = |t: &mut Tap| t.closing.is_some() && t.armed == 0;
            let busy = self.waits_for_handler(Port::Tap(index)) || self.writes.busy_with(index);
            if busy || !self.tap(index).is_some_and(quiet) {
                continue;
            }
            let Some(tap) = self.taps[usize::from(index)].take() else { continue };
            let error = self.forget(Port::Tap(index), tap.closing);
            self.event(Event::TapGone { tap: tap.token, error });
        }
    }

    /// Unregisters a file before its descriptor is closed, or the port would stay taken as long as the ring lives.
    fn forget(&mut self, port: Port, closing: Option<Cause>) -> Option<std_io::Error> {
        self.closing -= 1;
        self.kernel.remove_file(port);
        closing.flatten().map(std_io::Error::from_raw_os_error)
    }

    fn waits_for_handler(&self, port: Port) -> bool {
        self.arrived.iter().chain(&self.stalled).any(|arrival| arrival.port == port)
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX && matches!(event, Event::SendFailed { .. } | Event::Narrow { .. }) {
            self.counters.dropped_events += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// Gives the kernel one request, entering first if it takes no more. Never called while completions are being dealt
    /// with.
    #[inline]
    pub(crate) fn push(&mut self, request: Request) {
        // SAFETY: requests point into `sends` and `writes`, whose slots are left alone until they have completed. These
        // outlive the kernel's ring, or are leaked: see `Drop` of `Ring`.
        while !unsafe { self.kernel.push(request) } {
            if self.enter_kernel(Wait::No).is_err() {
                return; // the ring is broken; the next turn says so
            }
            self.collect();
        }
    }

    /// Submits everything that is committed, without waiting, so that its slots become free.
    pub(crate) fn flush(&mut self) {
        let _ = self.enter(Wait::No); // a broken ring is reported by the next turn
    }

    /// One `io_uring_enter`: submits everything that is committed, and waits. Afterwards every slot whose request
    /// succeeded at once is free, and what arrived is in `arrived`.
    pub(crate) fn enter(&mut self, wait: Wait) -> std_io::Result<()> {
        self.push_sends();
        self.push_writes();
        self.enter_kernel(wait)?;
        self.collect();
        Ok(())
    }

    fn enter_kernel(&mut self, wait: Wait) -> std_io::Result<()> {
        self.counters.enters += 1;
        self.kernel.enter(wait)
    }

    /// Takes all completions: those of sends and writes are dealt with, arrivals are noted for the handler. Then settles
    /// the requests whose silence means success.
    fn collect(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let overflowed = self.kernel.collect(&mut completions);
        self.counters.completions_overflowed += u64::from(overflowed);
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        // what was kept back may be a complaint
        if self.kernel.took_all() && !overflowed {
            self.settle_sends();
            self.settle_writes();
        }
    }

    fn complete(&mut self, Completion { user_data, result, flags }: Completion) {
        let index = user_data as u16;
        match user_data >> 16 {
            KIND_RECEIVE => {
                let port = Port::Socket(index);
                self.arrived.push_back(Arrival { port, result, flags });
                if !cqueue::more(flags)
                    && let Some(socket) = self.socket(index)
                {
                    socket.armed = false;
                    self.rearm.push(port);
                }
            }
            KIND_READ => {
                let port = Port::Tap(index);
                self.arrived.push_back(Arrival { port, result, flags });
                if !cqueue::more(flags)
                    && let Some(tap) = self.tap(index)
                {
                    tap.armed = tap.armed.saturating_sub(1);
                    self.rearm.push(port);
                }
            }
            KIND_SEND => self.send_completed(index, result),
            KIND_WRITE => self.write_completed(index, result),
            KIND_WAKE => self.waker_armed = false,
            _ => {}
        }
    }

    /// Stops all requests and waits until the kernel works on no memory of ours any more; false if it would not.
    pub(crate) fn quiesce(&mut self) -> bool {
        self.push(Request::CancelAll);
        let started = Instant::now();
        while self.in_kernel() {
            // entered directly: nothing new may be submitted now
            if started.elapsed() > TEARDOWN_WAIT || self.enter_kernel(Wait::One(Some(TEARDOWN_WAIT / 10))).is_err() {
                return false;
            }
            self.collect();
        }
        self.kernel.release_files();
        true
    }

    /// Keeps the memory that the kernel would not let go of.
    pub(crate) fn leak(&mut self) {
        self.sends.leak();
        self.writes.leak();
        self.kernel.leak();
    }

    fn in_kernel(&self) -> bool {
        self.waker_armed
            || self.sockets.iter().flatten().any(|socket| socket.armed)
            || self.taps.iter().flatten().any(|tap| tap.armed > 0)
            || self.sends.in_kernel()
            || self.writes.in_kernel()
    }
}
