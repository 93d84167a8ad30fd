//! A box between two ends of a wire that makes of it a line with a rate, a buffer, a delay, jitter and loss, each direction
//! on its own and changeable while it runs; for kernels without netem. One thread forwards Ethernet frames between pairs of
//! interfaces of one namespace; what happens to a frame is [`pipe`]'s business.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::netns::{self, Namespace};
use crate::{Error, IoContext, Result};

pub mod pipe;

pub use pipe::{Shape, Tally};

/// Interfaces of the namespace that become one line: frames from the first go out of the second and back.
pub type Ports = [String; 2];

/// Under load the thread works this often: what a frame is late at most, and what keeps the thread from waking for each.
const TURN: Duration = Duration::from_micros(200);
/// How old counts may be while there is traffic.
const ACCOUNT: Duration = Duration::from_millis(1);
/// It looks at least this often whether it shall end.
const IDLE: Duration = Duration::from_millis(20);
/// Longest frame; longer ones (segmentation offload is on at the far end) are counted and dropped.
const FRAME: usize = 2048;
/// Frames taken from one interface at a time.
const BATCH: usize = 64;
const SEED: u64 = 0x6861_7773_6572;

/// The running box. Dropping it ends the thread; the lines are dead then.
#[derive(Debug)]
pub struct Impairment {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    version: AtomicU64,
    shapes: Mutex<Vec<[Shape; 2]>>,
    tallies: Mutex<Vec<[Tally; 2]>>,
    cpu_ns: AtomicU64,
    oversized: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Impairment {
    /// Starts it in `ns` between these interfaces, which are up and have no addresses. Direction 0 of a line is from its
    /// first port to its second.
    pub fn start(ns: &Namespace, lines: &[(Ports, [Shape; 2])]) -> Result<Impairment> {
        let sockets = ns.inside(|| {
            let both = |ports: &Ports| Ok([open(&ports[0])?, open(&ports[1])?]);
            lines.iter().map(|(ports, _)| both(ports)).collect::<Result<Vec<_>>>()
        })?;
        let shapes: Vec<[Shape; 2]> = lines.iter().map(|(_, shapes)| *shapes).collect();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            version: AtomicU64::new(0),
            tallies: Mutex::new(vec![[Tally::default(); 2]; shapes.len()]),
            shapes: Mutex::new(shapes),
            cpu_ns: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
        });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("impairment".into())
            .spawn(move || Worker::new(sockets, for_thread).run())
            .doing("start the impairment box")?;
        Ok(Impairment { shared, thread: Some(thread) })
    }

    /// What direction `way` of a line does now.
    pub fn shape(&self, line: usize, way: usize) -> Shape {
        lock(&self.shared.shapes)[line][way]
    }

    /// Changes it from the next frame on.
    pub fn set(&self, line: usize, way: usize, shape: Shape) {
        lock(&self.shared.shapes)[line][way] = shape;
        self.shared.version.fetch_add(1, Ordering::Release);
    }

    /// What became of the frames of every line, each direction.
    pub fn tallies(&self) -> Vec<[Tally; 2]> {
        lock(&self.shared.tallies).clone()
    }

    /// CPU time that the box has used.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.shared.cpu_ns.load(Ordering::Relaxed))
    }

    /// Frames dropped because they were longer than any wire's.
    pub fn oversized(&self) -> u64 {
        self.shared.oversized.load(Ordering::Relaxed)
    }
}

impl Drop for Impairment {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Joins `a` and `b` by two veth pairs whose inner ends, named as `ports`, are in `hub`; nothing passes before a box stands
/// between them. Each end is (namespace, interface, address/bits). The ends do no offload, since a frame leaves the box as
/// it came, and know each other's hardware address for good, so that a dead line is silent.
pub fn line(hub: &Namespace, ports: &Ports, ends: [(&Namespace, &str, &str); 2]) -> Result<()> {
    let mac = |i: usize| hardware_address(ends[i].2, i);
    for (i, (ns, dev, address)) in ends.into_iter().enumerate() {
        netns::link((hub, &ports[i], ""), (ns, dev, ""))?;
        for (ns, dev) in [(ns, dev), (hub, ports[i].as_str())] {
            // Absent where the kernel has no IPv6.
            let _ = ns.sysctl(&format!("net/ipv6/conf/{dev}/disable_ipv6"), "1");
            let off = ["-K", dev, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
            ns.inside(|| netns::run("ethtool", &off)).map_err(|e| match e {
                Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    Error::Unusable("an impaired line needs the command `ethtool`: install it".into())
                }
                other => other,
            })?;
        }
        ns.ip(&["link", "set", dev, "address", &mac(i)])?;
        ns.ip(&["addr", "add", address, "dev", dev])?;
    }
    acquaint(ends)
}

/// Tells both ends of a [`line`] each other's hardware address; again after an address was taken away.
pub fn acquaint(ends: [(&Namespace, &str, &str); 2]) -> Result<()> {
    for (i, (ns, dev, _)) in ends.into_iter().enumerate() {
        let far = ends[1 - i].2;
        let ip = far.split('/').next().unwrap_or(far);
        let mac = hardware_address(far, 1 - i);
        ns.ip(&["neigh", "replace", ip, "lladdr", &mac, "dev", dev, "nud", "permanent"])?;
    }
    Ok(())
}

/// A locally administered one, made of the IPv4 address.
fn hardware_address(address: &str, end: usize) -> String {
    let ip: std::net::Ipv4Addr = address.split('/').next().and_then(|ip| ip.parse().ok()).unwrap_or([0; 4].into());
    let [a, b, c, d] = ip.octets();
    format!("02:{end:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// A raw socket that hears and says everything on an interface of the calling thread's namespace.
fn open(dev: &str) -> Result<OwnedFd> {
    let all = nix::ifaddrs::getifaddrs().doing("list the interfaces")?;
    let found = all.filter(|one| one.interface_name == dev).find_map(|one| one.address?.as_link_addr().copied());
    let address: LinkAddr = found.ok_or_else(|| Error::Unusable(format!("there is no interface {dev}")))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .doing("open a packet socket")?;
    let _ = socket::setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20));
    socket::bind(fd.as_raw_fd(), &address).doing(format!("listen on {dev}"))?;
    Ok(fd)
}

/// A buffer of [`FRAME`] bytes, and how many of them are the frame.
type Frame = (Vec<u8>, usize);

struct Worker {
    sockets: Vec<[OwnedFd; 2]>,
    pipes: Vec<[pipe::Pipe<Frame>; 2]>,
    spare: Vec<Vec<u8>>,
    shared: Arc<Shared>,
    start: Instant,
    version: u64,
}

impl Worker {
    fn new(sockets: Vec<[OwnedFd; 2]>, shared: Arc<Shared>) -> Worker {
        let seed = |line: usize, way: u64| SEED ^ ((line as u64) << 32) ^ (way << 16);
        let shapes = lock(&shared.shapes).clone();
        let pipes = shapes
            .iter()
            .enumerate()
            .map(|(i, shapes)| [pipe::Pipe::new(shapes[0], seed(i, 0)), pipe::Pipe::new(shapes[1], seed(i, 1))]);
        let (pipes, version) = (pipes.collect(), shared.version.load(Ordering::Acquire));
        Worker { sockets, pipes, spare: Vec::new(), shared, start: Instant::now(), version }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn run(mut self) {
        // Sleeps end within a few microseconds, and before whoever else wants the core, if this host permits that.
        let _ = nix::sys::prctl::set_timerslack(1);
        let _ = netns::run("chrt", &["-f", "-p", "10", &nix::unistd::gettid().to_string()]);
        let (mut busy, mut accounted) = (false, Instant::now());
        while !self.shared.stop.load(Ordering::Acquire) {
            if busy {
                std::thread::sleep(TURN);
            }
            let wait = if busy { Duration::ZERO } else { self.idle_for() };
            let ready = self.ready(wait);
            self.reshape();
            busy = false;
            for (line, way) in ready {
                busy |= self.take(line, way);
            }
            self.deliver();
            if accounted.elapsed() > ACCOUNT {
                accounted = Instant::now();
                self.account();
            }
        }
    }

    fn idle_for(&self) -> Duration {
        let now = self.now();
        let next = self.pipes.iter().flatten().filter_map(pipe::Pipe::next_due).min();
        next.map_or(IDLE, |due| Duration::from_nanos(due.saturating_sub(now)).min(IDLE))
    }

    /// Which interfaces have something to say.
    fn ready(&self, wait: Duration) -> Vec<(usize, usize)> {
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().flatten().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        if !matches!(ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None), Ok(n) if n > 0) {
            return vec![];
        }
        let any = polled.iter().enumerate().filter(|(_, p)| p.any().unwrap_or(true));
        any.map(|(i, _)| (i / 2, i % 2)).collect()
    }

    fn reshape(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            let now = self.now();
            let shapes = lock(&self.shared.shapes);
            for (pipe, shape) in self.pipes.iter_mut().flatten().zip(shapes.iter().flatten()) {
                pipe.reshape(now, *shape);
            }
        }
    }

    /// Takes what has come in at one port; there was something.
    fn take(&mut self, line: usize, way: usize) -> bool {
        let now = self.now();
        let fd = self.sockets[line][way].as_fd();
        let pipe = &mut self.pipes[line][way];
        for taken in 0..BATCH {
            let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; FRAME]);
            match receive(fd, &mut buffer[..]) {
                Ok(len) if len <= FRAME => {
                    if let Some(due) = pipe.admit(now, len) {
                        pipe.push(due, (buffer, len));
                        continue;
                    }
                }
                Ok(_) => drop(self.shared.oversized.fetch_add(1, Ordering::Relaxed)),
                // Nothing more, or the interface is down.
                Err(_) => {
                    self.spare.push(buffer);
                    return taken > 0;
                }
            }
            self.spare.push(buffer);
        }
        true
    }

    fn deliver(&mut self) {
        let now = self.now();
        for (pipes, sockets) in self.pipes.iter_mut().zip(&self.sockets) {
            for (way, pipe) in pipes.iter_mut().enumerate() {
                while let Some((buffer, len)) = pipe.pop(now) {
                    // A port that is down swallows it.
                    let _ = socket::send(sockets[1 - way].as_raw_fd(), &buffer[..len], MsgFlags::MSG_DONTWAIT);
                    self.spare.push(buffer);
                }
            }
        }
    }

    fn account(&self) {
        let mut tallies = lock(&self.shared.tallies);
        for (to, from) in tallies.iter_mut().flatten().zip(self.pipes.iter().flatten()) {
            *to = from.tally;
        }
        let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        self.shared.cpu_ns.store(cpu.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// One frame; the answer is its real length, which may be more than there was room for.
fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> std::result::Result<usize, Errno> {
    socket::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
}
