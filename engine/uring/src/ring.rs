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
mod tests {
    use std::{
        fs::File,
        io::Read,
        net::{SocketAddr, UdpSocket},
        os::{
            fd::{AsRawFd, FromRawFd, OwnedFd},
            unix::net::UnixDatagram,
        },
    };

    use super::*;
    use crate::{Event, Token};

    /// Sends everything back.
    struct Echo;

    impl Handler for Echo {
        fn datagrams(&mut self, io: &mut Io, socket: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize) {
            for datagram in bytes.chunks(segment) {
                io.send(socket, remote, None, datagram).unwrap();
            }
        }

        fn frame(&mut self, io: &mut Io, tap: Token, bytes: &mut [u8]) {
            io.write(tap, bytes).unwrap();
        }

        fn event(&mut self, _: &mut Io, event: Event) {
            panic!("{event:?}");
        }
    }

    /// A ring with a socket and, in place of a TAP queue, one end of a pair of datagram sockets.
    fn echo(ring: &mut Ring) -> (UdpSocket, UnixDatagram) {
        let socket = crate::udp::bind(&crate::udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(socket.local_addr().unwrap()).unwrap();
        let (queue, host) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        ring.io().add_udp(1, socket).unwrap();
        ring.io().add_tap(1, OwnedFd::from(queue)).unwrap();
        (client, host)
    }

    fn exchange(ring: &mut Ring) {
        let (client, host) = echo(ring);
        for round in 0..50u8 {
            let messages: Vec<Vec<u8>> = (1..6).map(|n| vec![round; 10 * n]).collect();
            for message in &messages {
                client.send(message).unwrap();
                host.send(message).unwrap();
            }
            let done = 5 * (u64::from(round) + 1);
            for _ in 0..100 {
                ring.turn(Some(Duration::from_millis(10)), &mut Echo).unwrap();
                let counters = ring.io.counters();
                if counters.datagrams_out >= done && counters.frames_out >= done {
                    break;
                }
            }
            let mut buffer = [0; 100];
            for message in &messages {
                assert_eq!(client.recv(&mut buffer).unwrap(), message.len());
                assert_eq!(host.recv(&mut buffer).unwrap(), message.len());
                assert_eq!(buffer[..message.len()], message[..]);
            }
        }
    }

    #[test]
    fn every_set_up_carries_datagrams_and_frames() {
        for setup in Setup::ALL.into_iter().chain([Setup::Mmsg]) {
            let mut ring = Ring::with(Config::default(), &[setup]).unwrap();
            assert_eq!(ring.io.setup(), setup);
            exchange(&mut ring);
        }
    }

    /// Forbids io_uring to this thread, as the sandboxes of containers do.
    fn forbid_io_uring() {
        let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let statement = |code, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let mut filter = [
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // the number of the call
            libc::sock_filter { code: jump, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program is valid for the time of the call, which copies it, and binds this thread only.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
        }
    }

    #[test]
    fn where_io_uring_is_forbidden_the_older_calls_carry_datagrams_and_frames() {
        let sandboxed = std::thread::spawn(|| {
            forbid_io_uring();
            let choice = probe::choose(Backend::Auto).unwrap();
            assert_eq!(choice.backend, Backend::Mmsg);
            assert!(choice.why.starts_with("io_uring is not usable"), "{}", choice.why);
            assert!(probe::choose(Backend::IoUring).is_err());
            assert!(Ring::new(Config { backend: Backend::IoUring, ..Config::default() }).is_err());
            let mut ring = Ring::new(Config::default()).unwrap();
            assert_eq!(ring.io.setup(), Setup::Mmsg);
            exchange(&mut ring);
        });
        sandboxed.join().unwrap();
    }

    #[test]
    fn busy_poll_is_registered_or_said_to_be_refused_and_datagrams_flow_either_way() {
        for setup in [Setup::Deferred, Setup::Mmsg] {
            let config = Config { busy_poll: Some(Duration::from_micros(20)), ..Config::default() };
            let mut ring = Ring::with(config, &[setup]).unwrap();
            let refused = ring.io.busy_poll_refused().map(std_io::Error::kind);
            match setup {
                Setup::Mmsg => assert_eq!(refused, Some(std_io::ErrorKind::Unsupported)),
                _ => assert!(matches!(refused, None | Some(std_io::ErrorKind::InvalidInput)), "{refused:?}"),
            }
            exchange(&mut ring);
        }
    }

    #[test]
    fn a_thread_that_looks_before_it_sleeps_carries_datagrams_and_wakes() {
        for setup in Setup::ALL.into_iter().chain([Setup::Mmsg]) {
            let config = Config { spin: Some(Duration::from_millis(5)), ..Config::default() };
            let mut ring = Ring::with(config, &[setup]).unwrap();
            exchange(&mut ring);
            // within the time to look, and from sleep
            for pause in [1, 30] {
                let waker = ring.waker();
                let other = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(pause));
                    waker.wake();
                });
                let start = Instant::now();
                while !other.is_finished() {
                    ring.turn(Some(Duration::from_secs(10)), &mut Echo).unwrap();
                }
                assert!(start.elapsed() < Duration::from_secs(10), "{setup:?} slept through a call");
                other.join().unwrap();
            }
        }
    }

    #[test]
    fn completions_that_do_not_fit_end_a_receive_and_none_is_lost() {
        let config = Config { udp_buffers: 64, udp_buffer_bytes: 2048, ..Config::default() };
        for setup in Setup::ALL {
            let mut ring = Ring::sized(config.clone(), &[setup], (8, 16)).unwrap();
            let options =
                crate::udp::Options { gro: false, ..crate::udp::Options::new("127.0.0.1:0".parse().unwrap()) };
            let socket = crate::udp::bind(&options).unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(socket.local_addr().unwrap()).unwrap();
            ring.io().add_udp(1, socket).unwrap();
            ring.turn(Some(Duration::ZERO), &mut Echo).unwrap();
            for n in 0..100u8 {
                client.send(&[n]).unwrap();
            }
            for _ in 0..100 {
                ring.turn(Some(Duration::from_millis(10)), &mut Echo).unwrap();
                if ring.io.counters().datagrams_out == 100 {
                    break;
                }
            }
            let mut byte = [0];
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for n in 0..100u8 {
                assert_eq!((client.recv(&mut byte).unwrap(), byte), (1, [n]));
            }
            let counters = ring.io.counters();
            assert!(counters.completions_overflowed > 0 && counters.rearmed > 0, "{setup:?} {counters:?}");
            assert_eq!(counters.buffers_exhausted, 0, "{setup:?} {counters:?}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_told_not_to_wait_gets_its_frames_all_the_same() {
        let (mut queue, mut host) = (0, 0);
        let none = std::ptr::null_mut();
        // SAFETY: two writable integers; no name, settings or size are asked for.
        assert_eq!(unsafe { libc::openpty(&mut queue, &mut host, none, none.cast(), none.cast()) }, 0);
        // SAFETY: the descriptors were just made and belong to nobody else.
        let [queue, mut host] = [queue, host].map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        // SAFETY: zeroes are valid settings, which the calls fill and read.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            libc::cfmakeraw(&raw mut settings);
            assert_eq!(libc::tcsetattr(host.as_raw_fd(), libc::TCSANOW, &raw const settings), 0);
        }
        let mut ring = Ring::new(Config { backend: Backend::IoUring, ..Config::default() }).unwrap();
        ring.io().add_tap(1, OwnedFd::from(queue)).unwrap();
        for n in 0..10 {
            ring.io().write(1, &[n; 60]).unwrap();
        }
        for _ in 0..20 {
            ring.turn(Some(Duration::from_millis(5)), &mut Echo).unwrap();
        }
        let counters = *ring.io.counters();
        assert_eq!((counters.frames_out, counters.dropped_tap_failed), (10, 0), "{counters:?}");
        assert!(counters.writes_waiting > 0, "{counters:?}");
        let mut bytes = [0; 600];
        host.read_exact(&mut bytes).unwrap();
        assert!(bytes.chunks(60).enumerate().all(|(n, frame)| frame == [n as u8; 60]), "in order");
    }

    #[test]
    fn single_reads_stand_in_for_multishot_reads() {
        let mut ring = Ring::new(Config::default()).unwrap();
        ring.io.multishot_read = false;
        exchange(&mut ring);
    }

    #[test]
    fn waiting_without_a_minimum_carries_datagrams_too() {
        let mut ring = Ring::new(Config { gather: None, ..Config::default() }).unwrap();
        ring.io.min_wait = false;
        exchange(&mut ring);
    }

    #[test]
    fn only_fast_messages_are_worth_waiting_for() {
        let gather = Some(Gather { rate: 50_000, ..Gather::default() });
        let (start, mut load) = (Instant::now(), Load::new());
        load.since = start;
        let at = |us| start + Duration::from_micros(us);
        // one message each 500 µs, then 100 within one window, then none for a while
        (1..=10).for_each(|n| load.note(at(500 * n), 1, gather));
        assert!(!load.high);
        (1..=100).for_each(|n| load.note(at(5000 + 10 * n), 1, gather));
        assert!(load.high);
        load.note(at(50_000), 1, gather);
        assert!(!load.high);
        (1..=100).for_each(|n| load.note(at(50_000 + 10 * n), 1, None));
        assert!(!load.high, "without a rule nothing waits");
    }

    #[test]
    fn a_message_is_read_at_the_reserved_sizes_and_never_beyond_the_buffer() {
        let mut bytes = vec![0u8; RECEIVE_PREFIX_BYTES + 100];
        assert!(Message::parse(&mut bytes[..RECEIVE_PREFIX_BYTES - 1]).is_none());
        bytes[0..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes[8..12].copy_from_slice(&200u32.to_ne_bytes());
        let message = Message::parse(&mut bytes).unwrap();
        assert_eq!((message.name.len(), message.control.len(), message.payload.len()), (28, 24, 100));
    }

    #[test]
    fn the_size_of_segments_is_believed_only_if_it_makes_sense() {
        let control = |size: i32| {
            let mut writer = sys::ControlWriter::<24>::default();
            writer.push(libc::SOL_UDP, libc::UDP_GRO, &size.to_ne_bytes());
            writer.finish::<3>().0.map(u64::to_ne_bytes).concat()
        };
        assert_eq!(segment_bytes(&control(100), 250), 100);
        for nonsense in [0, -5, 250, 70_000] {
            assert_eq!(segment_bytes(&control(nonsense), 250), 250);
        }
        assert_eq!(segment_bytes(&[], 250), 250);
    }
}
