//! What a user would measure: echo round trips, a TCP transfer, CPU time of a process. Real sockets, called on a thread
//! that is inside the namespace in question.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::ClockId;
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{IoContext, Result};

/// Round trips of a run of ICMP echoes.
pub struct Pings {
    /// Echo requests sent.
    pub sent: u64,
    /// Distinct answers that came in time.
    pub answered: u64,
    /// Answers that came more than once.
    pub duplicates: u64,
    /// Round trips in microseconds.
    pub us: Histogram<u64>,
}

impl std::fmt::Debug for Pings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pings { sent, answered, duplicates, .. } = self;
        write!(f, "{sent} sent, {answered} answered, {duplicates} duplicates, p50 {} ms", self.ms(50.0))
    }
}

impl Pings {
    /// Adds what another run saw.
    pub fn add(&mut self, other: &Pings) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.duplicates += other.duplicates;
        // Both histograms have the same bounds.
        let _ = self.us.add(&other.us);
    }

    /// Requests without an answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }

    /// A percentile in milliseconds.
    pub fn ms(&self, percentile: f64) -> f64 {
        self.us.value_at_percentile(percentile) as f64 / 1000.0
    }
}

/// How to ping: how often, how far apart, how large, and how long to wait for each answer.
#[derive(Clone, Copy, Debug)]
pub struct PingPlan {
    /// Echo requests.
    pub count: u64,
    /// Time between two requests.
    pub interval: Duration,
    /// ICMP payload bytes, at least 16.
    pub size: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Stop at the first answer: the time to the first answer is what is asked for.
    pub stop_at_first: bool,
}

impl Default for PingPlan {
    fn default() -> PingPlan {
        PingPlan {
            count: 10,
            interval: Duration::from_millis(20),
            size: 56,
            timeout: Duration::from_secs(2),
            stop_at_first: false,
        }
    }
}

impl Default for Pings {
    fn default() -> Pings {
        // Up to a minute; `new` alone would clamp at two milliseconds.
        let us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("legal bounds");
        Pings { sent: 0, answered: 0, duplicates: 0, us }
    }
}

/// Sends ICMP or ICMPv6 echo requests to `to` and collects the answers.
pub fn ping(to: IpAddr, plan: PingPlan) -> Result<Pings> {
    let v6 = to.is_ipv6();
    let (domain, protocol) = if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).doing("open an ICMP socket")?;
    socket.connect(&SocketAddr::new(to, 0).into()).doing(format!("ping {to}"))?;
    let id = std::process::id() as u16 ^ (Instant::now().elapsed().as_nanos() as u16);
    let mut pings = Pings::default();
    let mut sent_at: Vec<Option<Instant>> = Vec::new();
    let mut request = vec![0xa5u8; 8 + plan.size.max(16)];
    let mut answer = vec![0u8; 65536];
    let start = Instant::now();
    loop {
        let due = start + plan.interval * pings.sent as u32;
        let more = pings.sent < plan.count;
        if more && Instant::now() >= due {
            echo_request(&mut request, v6, id, pings.sent as u16);
            sent_at.push(Some(Instant::now()));
            pings.sent += 1;
            // No route or no neighbour yet is a lost packet, not an error.
            let _ = socket.send(&request);
            continue;
        }
        let end = if more { due } else { start + plan.interval * pings.sent.saturating_sub(1) as u32 + plan.timeout };
        let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
            if more {
                continue;
            }
            return Ok(pings);
        };
        socket.set_read_timeout(Some(left.max(Duration::from_micros(1)))).doing("set a timeout")?;
        let Ok(n) = (&socket).read(&mut answer) else { continue };
        let Some(sequence) = echo_answer(&answer[..n], v6, id) else { continue };
        match sent_at.get_mut(usize::from(sequence)).map(Option::take) {
            Some(Some(at)) => {
                pings.answered += 1;
                pings.us.saturating_record(at.elapsed().as_micros() as u64);
                if plan.stop_at_first || pings.answered == plan.count {
                    return Ok(pings);
                }
            }
            Some(None) => pings.duplicates += 1,
            None => {}
        }
    }
}

fn echo_request(packet: &mut [u8], v6: bool, id: u16, sequence: u16) {
    packet[0] = if v6 { 128 } else { 8 };
    packet[1] = 0;
    packet[2..4].fill(0);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if !v6 {
        // The kernel computes ICMPv6 checksums itself.
        let sum = internet_checksum(packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn echo_answer(packet: &[u8], v6: bool, id: u16) -> Option<u16> {
    let icmp = if v6 { packet } else { packet.get(usize::from(packet.first()? & 15) * 4..)? };
    let reply = if v6 { 129 } else { 0 };
    (*icmp.first()? == reply && icmp.get(4..6)? == id.to_be_bytes()).then_some(())?;
    Some(u16::from_be_bytes([*icmp.get(6)?, *icmp.get(7)?]))
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a transfer moved.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// From the first byte to the last.
    pub elapsed: Duration,
    /// Segments the sender's kernel sent again.
    pub retransmits: u64,
}

impl Transfer {
    /// Payload bits that arrived per second.
    pub fn bits_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A TCP sink: accepts one connection on `at` and reads until the far end closes, adding to `received`.
pub fn tcp_sink(at: SocketAddr, received: &AtomicU64, ready: &AtomicBool, stop: &AtomicBool) -> Result<Transfer> {
    let listener = TcpListener::bind(at).doing(format!("listen on {at}"))?;
    listener.set_nonblocking(true).doing("listen")?;
    ready.store(true, Ordering::Release);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if stop.load(Ordering::Acquire) => return Err(crate::Error::Interrupted),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    stream.set_nonblocking(false).doing("receive")?;
    stream.set_read_timeout(Some(Duration::from_millis(200))).doing("receive")?;
    let (mut buffer, mut first, mut last, mut bytes) = (vec![0u8; 1 << 18], None, Instant::now(), 0u64);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                last = Instant::now();
                first.get_or_insert(last);
                bytes += n as u64;
                received.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if stop.load(Ordering::Acquire) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    Ok(Transfer { bytes, elapsed: first.map_or(Duration::ZERO, |f| last - f), retransmits: 0 })
}

/// A TCP source: connects to `to` and writes for `duration`; answers the retransmissions it caused.
pub fn tcp_source(to: SocketAddr, duration: Duration) -> Result<u64> {
    let (before, end) = (KernelCounters::read(), Instant::now() + duration);
    tcp_pour(to, || Instant::now() < end)?;
    Ok(KernelCounters::read().since(&before, "Tcp.RetransSegs"))
}

/// Connects to `to` and writes as long as `go_on` says so.
pub fn tcp_pour(to: SocketAddr, go_on: impl Fn() -> bool) -> Result<()> {
    tcp_pour_with(to, None, go_on)
}

/// The same with a congestion control of the kernel's by its name, else the usual one.
pub fn tcp_pour_with(to: SocketAddr, congestion: Option<&str>, go_on: impl Fn() -> bool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).doing(format!("connect to {to}"))?;
    congest(&stream, congestion)?;
    stream.set_write_timeout(Some(Duration::from_millis(200))).doing("send")?;
    let buffer = vec![0x5au8; 1 << 17];
    while go_on() && !crate::interrupted() {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Gives the connection this congestion control, if any is named; the default of a namespace cannot be one that only the
/// administrator may use, that of a socket can.
pub fn congest(stream: &TcpStream, congestion: Option<&str>) -> Result<()> {
    let Some(name) = congestion else { return Ok(()) };
    setsockopt(stream, sockopt::TcpCongestion, &OsString::from(name)).doing(format!("use {name}"))
}

/// What the kernel counted in one namespace: /proc/net/snmp and /proc/net/netstat, by names like `Tcp.RetransSegs`.
#[derive(Clone, Debug, Default)]
pub struct KernelCounters(HashMap<String, u64>);

impl KernelCounters {
    /// Those of the calling thread's namespace.
    pub fn read() -> KernelCounters {
        let mut all = HashMap::new();
        for file in ["snmp", "netstat"] {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            // Pairs of lines: the names, then the values, both after the same group.
            let mut lines = text.lines();
            while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
                let Some((group, names)) = names.split_once(':') else { continue };
                let values = values.split_whitespace().skip(1);
                for (name, value) in names.split_whitespace().zip(values) {
                    all.insert(format!("{group}.{name}"), value.parse().unwrap_or(0));
                }
            }
        }
        KernelCounters(all)
    }

    /// By how much a counter rose since `before`; 0 for one that this kernel does not have.
    pub fn since(&self, before: &KernelCounters, name: &str) -> u64 {
        let of = |counters: &KernelCounters| counters.0.get(name).copied().unwrap_or(0);
        of(self).saturating_sub(of(before))
    }
}

/// User and system CPU time that all threads of process `pid` have used so far, dead ones too.
pub fn cpu_time(pid: u32) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32));
    clock.and_then(ClockId::now).map_or(Duration::ZERO, Duration::from)
}

/// Most memory that process `pid` ever had resident, in KiB.
pub fn peak_rss_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmHWM:")
}

/// Memory that process `pid` has resident now, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmRSS:")
}

fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field)).and_then(|v| v.split_whitespace().next());
    value.and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// A stream of UDP datagrams. Each begins with its number, little endian, from 0.
#[derive(Clone, Copy, Debug)]
pub struct UdpPlan {
    /// Payload bytes of each, at least 8.
    pub size: usize,
    /// Datagrams per second, evenly spaced; none: as fast as the socket takes them.
    pub packets_per_s: Option<f64>,
    /// Up to 64 in one send, which the kernel or the device cuts (UDP_SEGMENT); else one send for each.
    pub gso: bool,
}

/// Payload bytes of the longest UDP_SEGMENT send.
const MAX_GSO_BYTES: usize = 65_000;
const MAX_GSO_SEGMENTS: usize = 64;

/// Sends a stream to `to` while `go_on` says so, keeping `sent` up to date. A datagram that the kernel refuses is not
/// counted.
pub fn udp_pour(to: SocketAddr, plan: UdpPlan, sent: &AtomicU64, go_on: impl Fn() -> bool) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0)).doing("open a UDP socket")?;
    socket.connect(to).doing(format!("send to {to}"))?;
    let size = plan.size.max(8);
    let most = if plan.gso { (MAX_GSO_BYTES / size).clamp(1, MAX_GSO_SEGMENTS) } else { 1 };
    if plan.gso {
        let cut = i32::try_from(size).unwrap_or(i32::MAX);
        setsockopt(&socket, sockopt::UdpGsoSegment, &cut).doing("set UDP_SEGMENT")?;
    }
    // Sleeps end within a few microseconds, not within the usual fifty.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut payload = vec![0x42u8; size * most];
    let (start, mut number) = (Instant::now(), 0u64);
    while go_on() && !crate::interrupted() {
        let due = match plan.packets_per_s {
            Some(rate) => {
                // The first one at once, the second after one interval.
                let due = (start.elapsed().as_secs_f64() * rate) as u64 + 1;
                if due <= number {
                    let next = start + Duration::from_secs_f64(number as f64 / rate);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
                    continue;
                }
                due - number
            }
            None => 64,
        };
        // In bursts, so that `go_on` and the clock are asked seldom.
        let (mut left, mut taken) = (due.min(64) as usize, 0);
        while left > 0 {
            let n = left.min(most);
            for i in 0..n {
                payload[i * size..i * size + 8].copy_from_slice(&(number + i as u64).to_le_bytes());
            }
            if socket.send(&payload[..n * size]).is_ok() {
                taken += n as u64;
            }
            number += n as u64;
            left -= n;
        }
        sent.fetch_add(taken, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends UDP datagrams of `size` payload bytes to `to` as fast as the socket takes them; answers how many.
pub fn udp_flood(to: SocketAddr, size: usize, duration: Duration) -> Result<u64> {
    let (sent, end) = (AtomicU64::new(0), Instant::now() + duration);
    udp_pour(to, UdpPlan { size, packets_per_s: None, gso: false }, &sent, || Instant::now() < end)?;
    Ok(sent.into_inner())
}

/// Counts UDP datagrams that arrive at `at` until `stop` is set and none came for a moment.
pub fn udp_count(at: SocketAddr, ready: &AtomicBool, stop: &AtomicBool) -> Result<(u64, u64)> {
    let (packets, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    udp_sink(at, ready, stop, |datagram| {
        packets.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
    })?;
    Ok((packets.into_inner(), bytes.into_inner()))
}

/// Hands every UDP datagram that arrives at `at` to `take` until `stop` is set and none came for a moment.
pub fn udp_sink(at: SocketAddr, ready: &AtomicBool, stop: &AtomicBool, mut take: impl FnMut(&[u8])) -> Result<()> {
    let socket = std::net::UdpSocket::bind(at).doing(format!("listen on {at}"))?;
    // Beyond the system's usual maximum where that is permitted.
    if setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).is_err() {
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).doing("receive")?;
    ready.store(true, Ordering::Release);
    let mut buffer = vec![0u8; 65536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(n) => take(&buffer[..n]),
            Err(_) if stop.load(Ordering::Acquire) => return Ok(()),
            Err(_) => {}
        }
    }
}
