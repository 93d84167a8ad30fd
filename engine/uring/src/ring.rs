//! The loop: one turn enters the kernel once, hands what arrived to the handler, gives the buffers back and arms again
//! what the kernel has ended. This file knows how a received message is laid out, and nothing of what it means.

use std::{
    io as std_io,
    time::{Duration, Instant},
};

use io_uring::cqueue;

use crate::{
    Backend, Config, Error, Gather, Handler, Waker,
    buffers::BufferGroup,
    io::{Arrival, Io, Port, RECEIVE_CONTROL_BYTES, RECEIVE_HEADER_BYTES, RECEIVE_NAME_BYTES, RECEIVE_PREFIX_BYTES},
    kernel::{TAP_GROUP, UDP_GROUP, Wait},
    native,
    probe::{self, Choice, Setup},
    sys,
};

/// A message of at least this many bytes is a batch already, and not worth waiting for more of.
const BATCH_BYTES: i32 = 4096;
/// How long messages are counted before it is said how fast they come.
const LOAD_WINDOW: Duration = Duration::from_millis(1);
/// Receive errors in a row after which a socket is given up.
const RECEIVE_FAILURES_MAX: u8 = 16;
/// While a send is parked the loop looks after it at least this often.
const PARKED_CHECK: Duration = Duration::from_millis(50);

/// One thread's ring. It belongs to the thread that made it.
pub struct Ring {
    // dropped in this order: the ring inside `io` before the buffers it writes to
    io: Io,
    udp: BufferGroup,
    tap: BufferGroup,
    load: Load,
    /// The last turn that brought anything.
    last_traffic: Instant,
}

/// How fast messages come that are no batches themselves.
struct Load {
    since: Instant,
    lone: u32,
    /// So fast that a turn should wait for more of them.
    high: bool,
}

impl Load {
    fn new() -> Load {
        Load { since: Instant::now(), lone: 0, high: false }
    }

    /// Takes in what a turn brought.
    fn note(&mut self, now: Instant, lone: u32, gather: Option<Gather>) {
        self.lone += lone;
        let window = now.saturating_duration_since(self.since);
        if window < LOAD_WINDOW {
            return;
        }
        self.high = gather.is_some_and(|gather| f64::from(self.lone) >= f64::from(gather.rate) * window.as_secs_f64());
        (self.since, self.lone) = (now, 0);
    }
}

impl Ring {
    /// Makes a ring with the best set-up this kernel allows, within what the configuration says.
    pub fn new(config: Config) -> Result<Ring, Error> {
        match config.backend {
            Backend::IoUring => Ring::with(config, &Setup::ALL),
            Backend::Mmsg => Ring::with(config, &[Setup::Mmsg]),
            Backend::Auto => {
                let Choice { backend, .. } = probe::choose(Backend::Auto)?;
                Ring::new(Config { backend, ..config })
            }
        }
    }

    fn with(config: Config, setups: &[Setup]) -> Result<Ring, Error> {
        let sizes = native::queue_sizes(&config);
        Ring::sized(config, setups, sizes)
    }

    fn sized(config: Config, setups: &[Setup], sizes: (u32, u32)) -> Result<Ring, Error> {
        let mut io = Io::new(config, setups, sizes)?;
        let Config { udp_buffers, udp_buffer_bytes, tap_buffers, tap_buffer_bytes, .. } = io.config;
        let lacking = |error| Error::Missing(probe::too_old(&format!("provided-buffer rings ({error})")));
        let mut group = |id, count, bytes| {
            // SAFETY: `io`, and with it the kernel's ring, is dropped before the groups are; or they are leaked.
            let register = |entries| unsafe { io.kernel.register_buffers(id, entries, count) };
            BufferGroup::new(count, bytes, register).map_err(lacking)
        };
        let udp = group(UDP_GROUP, udp_buffers, udp_buffer_bytes)?;
        let tap = group(TAP_GROUP, tap_buffers, tap_buffer_bytes)?;
        Ok(Ring { io, udp, tap, load: Load::new(), last_traffic: Instant::now() })
    }

    /// What wakes this ring from other threads.
    pub fn waker(&self) -> Waker {
        self.io.waker.clone()
    }

    /// Sockets, TAP queues and the way out, between turns.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Submits what was committed, waits until something arrives, a wake-up or `timeout` (`None`: for ever), and hands
    /// everything to the handler. Returns the number of messages. An error means that the ring itself is broken.
    pub fn turn(&mut self, timeout: Option<Duration>, handler: &mut impl Handler) -> std_io::Result<usize> {
        self.io.counters.turns += 1;
        self.io.arm_waker();
        let wait = match self.wait(timeout) {
            Wait::No => Wait::No,
            wait => self.spin(wait)?,
        };
        let entered = self.io.enter(wait);
        let woken = self.io.waker.awake();
        entered?;
        self.io.now = std::time::Instant::now();

        self.io.expire_parked();
        while let Some((port, errno)) = self.io.dead.pop() {
            self.io.close(port, Some(errno));
        }
        let due = self.io.arrived.len();
        let busy = woken || due > 0 || !self.io.stalled.is_empty() || !self.io.events.is_empty();
        if due > 0 {
            self.last_traffic = self.io.now;
        }
        if busy {
            handler.begin(self.io.now);
        }
        if woken {
            handler.woken(&mut self.io);
        }
        self.deliver_stalled(handler);
        let mut lone = 0;
        for _ in 0..due {
            let Some(arrival) = self.io.arrived.pop_front() else { break };
            lone += u32::from((1..BATCH_BYTES).contains(&arrival.result));
            match arrival.port {
                Port::Socket(_) => self.deliver_datagrams(arrival, handler),
                Port::Tap(_) => self.deliver_frame(arrival, handler),
            }
        }
        if busy {
            handler.end(&mut self.io);
        }
        self.load.note(self.io.now, lone, self.io.config.gather);

        self.udp.publish();
        self.tap.publish();
        self.rearm();
        self.io.finish_closing();
        while let Some(event) = self.io.events.pop_front() {
            handler.event(&mut self.io, event);
        }
        Ok(due)
    }

    /// How long to wait. Announces sleep to the waker if at all.
    fn wait(&self, timeout: Option<Duration>) -> Wait {
        let io = &self.io;
        let unfinished =
            !io.arrived.is_empty() || !io.events.is_empty() || (!io.stalled.is_empty() && room_for_frames(io));
        if unfinished || timeout == Some(Duration::ZERO) || !io.waker.sleep() {
            return Wait::No;
        }
        let timeout = if io.sends.parked > 0 {
            Some(timeout.map_or(PARKED_CHECK, |timeout| timeout.min(PARKED_CHECK)))
        } else {
            timeout
        };
        match io.config.gather {
            Some(gather) if io.min_wait && self.load.high => Wait::Batch(gather, timeout),
            _ => Wait::One(timeout),
        }
    }

    /// Looks for work for a moment before the thread sleeps, if that was asked for. Says how to wait after it.
    fn spin(&mut self, wait: Wait) -> std_io::Result<Wait> {
        let Some(until) = self.io.config.spin.map(|spin| self.last_traffic + spin) else { return Ok(wait) };
        if Instant::now() >= until {
            return Ok(wait);
        }
        self.io.enter(Wait::No)?; // what was committed leaves first
        // that may have brought a call, or what is no arrival: not to be slept on
        let quiet = |io: &Io| {
            io.arrived.is_empty()
                && io.waker_armed
                && io.events.is_empty()
                && io.dead.is_empty()
                && io.sends.parked == 0
        };
        while quiet(&self.io) {
            if self.io.kernel.due() {
                return Ok(Wait::No);
            }
            if Instant::now() >= until {
                return Ok(wait);
            }
            std::hint::spin_loop();
        }
        Ok(Wait::No)
    }

    fn deliver_datagrams(&mut self, arrival: Arrival, handler: &mut impl Handler) {
        let Port::Socket(index) = arrival.port else { return };
        let buffer = cqueue::buffer_select(arrival.flags).and_then(|buffer| self.udp.take(buffer));
        match buffer {
            Some(buffer) if arrival.result >= 0 => {
                self.deliver_message(index, buffer, arrival.result as usize, handler);
            }
            _ => self.receive_failed(index, -arrival.result),
        }
        if let Some(buffer) = buffer {
            self.udp.give_back(buffer);
        }
    }

    fn deliver_message(&mut self, index: u16, buffer: u16, len: usize, handler: &mut impl Handler) {
        let Some(socket) = self.io.socket(index).filter(|socket| socket.closing.is_none()) else { return };
        socket.failures = 0;
        let token = socket.token;
        let counters = &mut self.io.counters;
        let Some(message) = Message::parse(self.udp.bytes(buffer, len)) else {
            counters.dropped_malformed += 1;
            return;
        };
        if message.flags & libc::MSG_TRUNC != 0 {
            counters.dropped_truncated += 1;
            return;
        }
        if message.flags & libc::MSG_CTRUNC != 0 {
            counters.dropped_control_truncated += 1;
            return;
        }
        let (Some(remote), false) = (sys::read_name(message.name), message.payload.is_empty()) else {
            counters.dropped_malformed += 1;
            return;
        };
        let segment = segment_bytes(message.control, message.payload.len());
        counters.messages_in += 1;
        counters.datagrams_in += message.payload.len().div_ceil(segment) as u64;
        counters.bytes_in += message.payload.len() as u64;
        handler.datagrams(&mut self.io, token, remote, message.payload, segment);
    }

    /// A receive ended without a datagram.
    fn receive_failed(&mut self, index: u16, errno: i32) {
        match errno {
            libc::ENOBUFS => self.io.counters.buffers_exhausted += 1,
            0 | libc::EAGAIN | libc::EINTR | libc::ECANCELED => {}
            errno => {
                self.io.counters.receive_errors += 1;
                let Some(socket) = self.io.socket(index) else { return };
                socket.failures += 1;
                if socket.failures >= RECEIVE_FAILURES_MAX {
                    self.io.close(Port::Socket(index), Some(errno));
                }
            }
        }
    }

    /// Frames that had to wait for send slots go first.
    fn deliver_stalled(&mut self, handler: &mut impl Handler) {
        for _ in 0..self.io.stalled.len() {
            if !self.make_room_for_frames() {
                return;
            }
            let Some(arrival) = self.io.stalled.pop_front() else { return };
            self.deliver_frame_now(arrival, handler);
        }
    }

    fn deliver_frame(&mut self, arrival: Arrival, handler: &mut impl Handler) {
        if arrival.result < 0 {
            return self.read_failed(arrival);
        }
        // order is kept: nothing overtakes a frame that waits
        if !self.io.stalled.is_empty() || !self.make_room_for_frames() {
            self.io.counters.frames_stalled += 1;
            self.io.stalled.push_back(arrival);
            return;
        }
        self.deliver_frame_now(arrival, handler);
    }

    fn deliver_frame_now(&mut self, arrival: Arrival, handler: &mut impl Handler) {
        let Port::Tap(index) = arrival.port else { return };
        let Some(buffer) = cqueue::buffer_select(arrival.flags).and_then(|buffer| self.tap.take(buffer)) else {
            return;
        };
        if let Some(tap) = self.io.tap(index).filter(|tap| tap.closing.is_none())
            && arrival.result > 0
        {
            let token = tap.token;
            self.io.counters.frames_in += 1;
            let frame = self.tap.bytes(buffer, arrival.result as usize);
            handler.frame(&mut self.io, token, frame);
        }
        self.tap.give_back(buffer);
    }

    /// A read from TAP ended without a frame.
    fn read_failed(&mut self, arrival: Arrival) {
        if let Some(buffer) = cqueue::buffer_select(arrival.flags).and_then(|buffer| self.tap.take(buffer)) {
            self.tap.give_back(buffer);
        }
        match -arrival.result {
            libc::ENOBUFS => self.io.counters.buffers_exhausted += 1,
            libc::EAGAIN | libc::EINTR | libc::ECANCELED => {}
            libc::EINVAL | libc::EOPNOTSUPP if self.io.multishot_read => self.io.multishot_read = false,
            errno => self.io.close(arrival.port, Some(errno)),
        }
    }

    /// Whether a frame may be taken from TAP now, after a flush if need be.
    fn make_room_for_frames(&mut self) -> bool {
        if !room_for_frames(&self.io) {
            self.io.flush();
        }
        room_for_frames(&self.io)
    }

    /// Arms again what the kernel has ended. TAP queues are left alone while frames wait for send slots.
    fn rearm(&mut self) {
        let stalled = !self.io.stalled.is_empty();
        let mut ports = std::mem::take(&mut self.io.rearm);
        let mut kept = 0;
        for at in 0..ports.len() {
            let port = ports[at];
            if stalled && matches!(port, Port::Tap(_)) {
                ports[kept] = port;
                kept += 1;
                continue;
            }
            self.io.counters.rearmed += 1;
            self.io.arm(port);
        }
        ports.truncate(kept);
        // arming may have submitted early and found other requests ended
        ports.append(&mut self.io.rearm);
        self.io.rearm = ports;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.io.quiesce() {
            self.io.leak();
            self.udp.leak();
            self.tap.leak();
        }
    }
}

fn room_for_frames(io: &Io) -> bool {
    io.free_send_slots() >= usize::from(io.config.tap_reserve)
}

/// A received message: its parts lie at the reserved sizes, not the actual ones.
struct Message<'a> {
    flags: i32,
    name: &'a [u8],
    control: &'a [u8],
    payload: &'a mut [u8],
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a mut [u8]) -> Option<Message<'a>> {
        let (prefix, payload) = bytes.split_at_mut_checked(RECEIVE_PREFIX_BYTES)?;
        let (header, rest) = prefix.split_at(RECEIVE_HEADER_BYTES);
        let (name, control) = rest.split_at(RECEIVE_NAME_BYTES);
        let [name_len, control_len, payload_len, flags] =
            [0, 4, 8, 12].map(|at| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let cut = |len: u32, most: usize| (len as usize).min(most);
        let payload_len = cut(payload_len, payload.len());
        Some(Message {
            flags: flags as i32,
            name: &name[..cut(name_len, RECEIVE_NAME_BYTES)],
            control: &control[..cut(control_len, RECEIVE_CONTROL_BYTES)],
            payload: &mut payload[..payload_len],
        })
    }
}

/// Bytes of each datagram in a message: what GRO says, or the whole message.
fn segment_bytes(control: &[u8], len: usize) -> usize {
    sys::controls(control)
        .find(|control| control.level == libc::SOL_UDP && control.kind == libc::UDP_GRO)
        .and_then(|control| control.value.first_chunk::<4>())
        .and_then(|size| usize::try_from(i32::from_ne_bytes(*size)).ok())
        .filter(|size| (1..len).contains(size))
        .unwrap_or(len)
}

#[cfg(test)]
mod tests;
