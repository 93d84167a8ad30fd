//! Turns of the loop by every backend, as a handler sees them, and the small judgements made inside one.

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

/// Counts how often it was called from another thread.
struct Calls(usize);

impl Handler for Calls {
    fn datagrams(&mut self, _: &mut Io, _: Token, _: SocketAddr, _: &mut [u8], _: usize) {}

    fn frame(&mut self, _: &mut Io, _: Token, _: &mut [u8]) {}

    fn woken(&mut self, _: &mut Io) {
        self.0 += 1;
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
            let mut calls = Calls(0);
            while calls.0 == 0 {
                let called = other.is_finished();
                ring.turn(Some(Duration::from_secs(10)), &mut calls).unwrap();
                assert!(!called || calls.0 > 0, "{setup:?} slept through a call");
            }
            other.join().unwrap();
        }
    }
}

#[test]
fn completions_that_do_not_fit_end_a_receive_and_none_is_lost() {
    let config = Config { udp_buffers: 64, udp_buffer_bytes: 2048, ..Config::default() };
    for setup in Setup::ALL {
        let mut ring = Ring::sized(config.clone(), &[setup], (8, 16)).unwrap();
        let options = crate::udp::Options { gro: false, ..crate::udp::Options::new("127.0.0.1:0".parse().unwrap()) };
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
