//! What the tests share: network namespaces of their own, and a handler that writes down what it sees.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use uring::{Config, Event, Handler, Io, Ring, Token, udp};

/// The usual sizes, on the system calls that this run of the suite is about.
pub fn config() -> Config {
    Config { backend: crate::BACKEND, ..Config::default() }
}

/// Runs a test in a thread with a network namespace of its own. Needs root, and says so.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    in_namespace_without_loopback(|| {
        ip("link set lo up");
        test();
    });
}

/// The same, with nothing up.
pub fn in_namespace_without_loopback(test: impl FnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace and TAP devices: run it as root");
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs CAP_SYS_ADMIN for a network namespace");
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the namespace of this thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is needed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a turn brought, in order.
#[derive(Debug, Default)]
pub struct Seen {
    pub datagrams: Vec<(Token, SocketAddr, Vec<u8>)>,
    pub frames: Vec<(Token, Vec<u8>)>,
    pub events: Vec<Event>,
    pub wakes: usize,
    /// Answer each datagram with itself.
    pub echo: bool,
    /// Forward each frame there.
    pub forward: Option<(Token, SocketAddr)>,
    /// Frames that could not be forwarded.
    pub refused: usize,
}

impl Handler for Seen {
    fn datagrams(&mut self, io: &mut Io, socket: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize) {
        for datagram in bytes.chunks(segment) {
            self.datagrams.push((socket, remote, datagram.to_vec()));
            if self.echo {
                io.send(socket, remote, None, datagram).unwrap();
            }
        }
    }

    fn frame(&mut self, io: &mut Io, tap: Token, bytes: &mut [u8]) {
        self.frames.push((tap, bytes.to_vec()));
        if let Some((socket, remote)) = self.forward
            && io.send(socket, remote, None, bytes).is_err()
        {
            self.refused += 1;
        }
    }

    fn woken(&mut self, _: &mut Io) {
        self.wakes += 1;
    }

    fn event(&mut self, _: &mut Io, event: Event) {
        self.events.push(event);
    }
}

/// Turns the ring until something is true; panics after five seconds.
pub fn turn_until(ring: &mut Ring, seen: &mut Seen, what: &str, mut done: impl FnMut(&mut Ring, &Seen) -> bool) {
    let started = Instant::now();
    while !done(ring, seen) {
        assert!(started.elapsed() < Duration::from_secs(5), "never happened: {what}\n{:?}", ring.io().counters());
        ring.turn(Some(Duration::from_millis(20)), seen).unwrap();
    }
}

/// A ring with one socket, token 1, on the loopback interface.
pub fn loopback_ring(config: Config) -> (Ring, SocketAddr) {
    let mut ring = Ring::new(config).unwrap();
    let socket = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = socket.local_addr().unwrap();
    ring.io().add_udp(1, socket).unwrap();
    (ring, address)
}

/// A plain socket that talks to `to`.
pub fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}
