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

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use crate::{
    Config, Counters, Error, Event, SOCKETS_MAX, TAPS_MAX, Token,
    memory::Region,
    probe::{self, Setup},
    send::{Parked, Sends},
    udp,
    waker::Waker,
    write::Writes,
};

/// Buffer groups.
pub(crate) const UDP_GROUP: u16 = 0;
pub(crate) const TAP_GROUP: u16 = 1;
/// Bytes reserved in front of a received payload: header, name (fits IPv6), control (fits the GRO size).
pub(crate) const RECEIVE_HEADER_BYTES: usize = 16;
pub(crate) const RECEIVE_NAME_BYTES: usize = 28;
pub(crate) const RECEIVE_CONTROL_BYTES: usize = 24;
pub(crate) const RECEIVE_PREFIX_BYTES: usize = RECEIVE_HEADER_BYTES + RECEIVE_NAME_BYTES + RECEIVE_CONTROL_BYTES;
/// A whole GRO message with what is in front of it.
const GRO_BUFFER_BYTES: usize = u16::MAX as usize + RECEIVE_PREFIX_BYTES;

/// Submission queue: one turn's sends, TAP writes and re-arms; more than that submits early.
const SQ_ENTRIES: u32 = 512;
/// Completions beyond buffers and slots: errors, cancellations, the waker.
const CQ_SPARE: u32 = 64 + (SOCKETS_MAX + TAPS_MAX) as u32;
/// [`Event::SendFailed`]s waiting for the next turn; more are counted and dropped.
const EVENTS_MAX: usize = 1024;
/// Single reads kept armed on a TAP queue where the kernel lacks multishot reads.
const SINGLE_READS: u16 = 16;
/// How long a dropped ring waits for the kernel to let go of its memory.
const TEARDOWN_WAIT: Duration = Duration::from_secs(1);

// user_data of a request: what it is, and the index of its port or slot
const KIND_RECEIVE: u64 = 0;
const KIND_READ: u64 = 1;
pub(crate) const KIND_SEND: u64 = 2;
pub(crate) const KIND_WRITE: u64 = 3;
const KIND_WAKE: u64 = 4;
pub(crate) const KIND_CANCEL: u64 = 5;

pub(crate) const fn user_data(kind: u64, index: u16) -> u64 {
    kind << 16 | index as u64
}

/// Registered-file index of a socket; TAP queues come after the sockets.
pub(crate) const fn socket_file(index: u16) -> u32 {
    index as u32
}

pub(crate) const fn tap_file(index: u16) -> u32 {
    SOCKETS_MAX as u32 + index as u32
}

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

/// How long an `enter` waits.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// For one completion.
    One(Option<Duration>),
    /// For a batch, as [`Gather`](crate::Gather) says.
    Batch(Option<Duration>),
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
    // dropped in this order: the ring before the memory it works on
    ring: IoUring,
    pub(crate) sends: Sends,
    pub(crate) writes: Writes,
    receive_header: Box<libc::msghdr>,
    wake_count: Region,

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
    completions: Vec<cqueue::Entry>,
    waker_armed: bool,
    pub(crate) multishot_read: bool,
    pub(crate) min_wait: bool,
    pub(crate) now: Instant,
    pub(crate) counters: Counters,
    pub(crate) config: Config,
    pub(crate) waker: Waker,
}

impl Io {
    pub(crate) fn new(config: Config, setups: &[Setup]) -> Result<Io, Error> {
        if !config.udp_buffers.is_power_of_two() || !config.tap_buffers.is_power_of_two() {
            return Err(Error::Config("buffer counts must be powers of two"));
        }
        if config.udp_buffer_bytes <= RECEIVE_PREFIX_BYTES || config.tap_buffer_bytes == 0 {
            return Err(Error::Config("receive buffers are too short"));
        }
        if config.tap_reserve > config.send_slots / 2 {
            return Err(Error::Config("tap_reserve must leave half of the send slots"));
        }
        let parts = [config.udp_buffers, config.tap_buffers, config.send_slots, config.tap_slots];
        let completions = parts.into_iter().map(u32::from).sum::<u32>() + CQ_SPARE;
        let (ring, setup) = probe::build(SQ_ENTRIES, completions.next_power_of_two(), setups)?;
        probe::essentials(&ring)?;
        ring.submitter().register_files_sparse((SOCKETS_MAX + TAPS_MAX) as u32)?;
        let cq_entries = ring.params().cq_entries() as usize;
        Ok(Io {
            setup,
            multishot_read: probe::has_multishot_read(&ring),
            min_wait: ring.params().is_feature_min_timeout(),
            ring,
            sends: Sends::new(&config)?,
            writes: Writes::new(&config)?,
            receive_header: receive_header(),
            wake_count: Region::new(size_of::<u64>())?,
            sockets: (0..SOCKETS_MAX).map(|_| None).collect(),
            taps: (0..TAPS_MAX).map(|_| None).collect(),
            closing: 0,
            rearm: Vec::with_capacity(SOCKETS_MAX + TAPS_MAX),
            arrived: VecDeque::with_capacity(2 * cq_entries),
            stalled: VecDeque::with_capacity(config.tap_buffers.into()),
            dead: Vec::new(),
            events: VecDeque::new(),
            completions: Vec::with_capacity(cq_entries),
            waker_armed: false,
            now: Instant::now(),
            counters: Counters::default(),
            config,
            waker: Waker::new()?,
        })
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// The clock, as read at the start of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What was done and lost so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the ring was set up on this kernel.
    pub fn setup(&self) -> Setup {
        self.setup
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
        self.ring.submitter().register_files_update(socket_file(index as u16), &[fd.as_raw_fd()])?;
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
        self.ring.submitter().register_files_update(tap_file(index as u16), &[queue.as_raw_fd()])?;
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
                let header = &raw const *self.receive_header;
                let Some(socket) = self.socket(index).filter(|s| !s.armed && s.closing.is_none()) else { return };
                socket.armed = true;
                let request = opcode::RecvMsgMulti::new(types::Fixed(socket_file(index)), header, UDP_GROUP);
                self.push(request.build().user_data(user_data(KIND_RECEIVE, index)));
            }
            Port::Tap(index) => {
                let multishot = self.multishot_read;
                let wanted = if multishot { 1 } else { SINGLE_READS };
                let bytes = self.config.tap_buffer_bytes as u32;
                let file = types::Fixed(tap_file(index));
                while let Some(tap) = self.tap(index).filter(|t| t.armed < wanted && t.closing.is_none()) {
                    tap.armed += 1;
                    let request = if multishot {
                        // io-uring 0.7 forgets the flag for multishot reads
                        opcode::ReadMulti::new(file, 0, TAP_GROUP).build().flags(squeue::Flags::FIXED_FILE)
                    } else {
                        let read = opcode::Read::new(file, std::ptr::null_mut(), bytes).buf_group(TAP_GROUP);
                        read.build().flags(squeue::Flags::BUFFER_SELECT)
                    };
                    self.push(request.user_data(user_data(KIND_READ, index)));
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
        let count = self.wake_count.at(0, size_of::<u64>());
        let read = opcode::Read::new(types::Fd(self.waker.fd()), count, size_of::<u64>() as u32);
        self.push(read.build().user_data(user_data(KIND_WAKE, 0)));
    }

    /// Stops a port. It is removed by [`finish_closing`](Self::finish_closing) when nothing of it is left in the kernel.
    pub(crate) fn close(&mut self, port: Port, cause: Cause) {
        let file = match port {
            Port::Socket(index) => {
                let Some(socket) = self.socket(index).filter(|socket| socket.closing.is_none()) else { return };
                socket.closing = Some(cause);
                for slot in std::mem::take(&mut socket.held) {
                    self.drop_send(slot, |counters| &mut counters.dropped_socket_gone);
                }
                socket_file(index)
            }
            Port::Tap(index) => {
                let Some(tap) = self.tap(index).filter(|tap| tap.closing.is_none()) else { return };
                tap.closing = Some(cause);
                tap_file(index)
            }
        };
        self.closing += 1;
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::fd(types::Fixed(file)).all()).build();
        self.push(cancel.user_data(user_data(KIND_CANCEL, 0)));
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
            let error = self.forget(socket_file(index), socket.closing);
            self.event(Event::SocketGone { socket: socket.token, error });
        }
        for index in 0..TAPS_MAX as u16 {
            let quiet = |t: &mut Tap| t.closing.is_some() && t.armed == 0;
            let busy = self.waits_for_handler(Port::Tap(index)) || self.writes.busy_with(index);
            if busy || !self.tap(index).is_some_and(quiet) {
                continue;
            }
            let Some(tap) = self.taps[usize::from(index)].take() else { continue };
            let error = self.forget(tap_file(index), tap.closing);
            self.event(Event::TapGone { tap: tap.token, error });
        }
    }

    /// Unregisters a file before its descriptor is closed, or the port would stay taken as long as the ring lives.
    fn forget(&mut self, file: u32, closing: Option<Cause>) -> Option<std_io::Error> {
        self.closing -= 1;
        let _ = self.ring.submitter().register_files_update(file, &[-1]);
        closing.flatten().map(std_io::Error::from_raw_os_error)
    }

    fn waits_for_handler(&self, port: Port) -> bool {
        self.arrived.iter().chain(&self.stalled).any(|arrival| arrival.port == port)
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX && matches!(event, Event::SendFailed { .. }) {
            self.counters.dropped_events += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// Puts one request into the submission queue, submitting first if that is full. Never called while completions are
    /// being dealt with.
    pub(crate) fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: requests point into `sends`, `writes`, `wake_count`, `receive_header`, a buffer group, or nowhere. All
        // of these outlive the ring, or are leaked: see `Drop` of `Ring`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            if self.enter_ring(Wait::No).is_err() {
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
        self.enter_ring(wait)?;
        self.collect();
        Ok(())
    }

    fn enter_ring(&mut self, wait: Wait) -> std_io::Result<()> {
        self.counters.enters += 1;
        let queued = self.ring.submission().len();
        let submitter = self.ring.submitter();
        let mut arguments = types::SubmitArgs::new();
        let (wanted, timeout) = match wait {
            Wait::No => (0, None),
            Wait::One(timeout) => (1, timeout),
            Wait::Batch(timeout) => {
                let gather = self.config.gather.unwrap_or_default();
                arguments = arguments.min_wait_usec(gather.wait.as_micros() as u32);
                (gather.messages, timeout)
            }
        };
        let timeout = timeout.map(types::Timespec::from);
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        let entered = if wanted == 0 {
            // the kernel's deferred work runs only with GETEVENTS, also when nothing is waited for
            // SAFETY: the queue holds `queued` requests, and there is no argument.
            unsafe { submitter.enter::<libc::sigset_t>(queued as u32, 0, EnterFlags::GETEVENTS.bits(), None) }
        } else {
            submitter.submit_with_args(wanted, &arguments)
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// Takes all completions: those of sends and writes are dealt with, arrivals are noted for the handler. Then settles
    /// the requests whose silence means success.
    fn collect(&mut self) {
        if self.ring.submission().cq_overflow() {
            self.counters.completions_overflowed += 1;
        }
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for completion in completions.drain(..) {
            self.complete(&completion);
        }
        self.completions = completions;
        if self.ring.submission().is_empty() {
            self.settle_sends();
            self.settle_writes();
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        let index = completion.user_data() as u16;
        match completion.user_data() >> 16 {
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
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
        self.push(cancel.user_data(user_data(KIND_CANCEL, 0)));
        let started = Instant::now();
        while self.in_kernel() {
            // entered directly: nothing new may be submitted now
            if started.elapsed() > TEARDOWN_WAIT || self.enter_ring(Wait::One(Some(TEARDOWN_WAIT / 10))).is_err() {
                return false;
            }
            self.collect();
        }
        let _ = self.ring.submitter().unregister_files();
        true
    }

    /// Keeps the memory that the kernel would not let go of.
    pub(crate) fn leak(&mut self) {
        self.sends.leak();
        self.writes.leak();
        self.wake_count.leak();
    }

    fn in_kernel(&self) -> bool {
        self.waker_armed
            || self.sockets.iter().flatten().any(|socket| socket.armed)
            || self.taps.iter().flatten().any(|tap| tap.armed > 0)
            || self.sends.in_kernel()
            || self.writes.in_kernel()
    }
}

/// What a multishot receive is armed with: how much room to keep in front of each payload.
pub(crate) fn receive_header() -> Box<libc::msghdr> {
    // SAFETY: zeroes are a valid msghdr: null pointers with zero lengths.
    let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    header.msg_namelen = RECEIVE_NAME_BYTES as libc::socklen_t;
    header.msg_controllen = RECEIVE_CONTROL_BYTES as _;
    header
}
