//! What runs between the LAN hosts: TCP flows with what each of them got, and one numbered datagram a millisecond with one
//! TCP segment a millisecond beside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lab::measure::{self, KernelCounters, PingPlan, Pings};
use serde::Serialize;

use super::links::World;
use crate::failover::{self, Arrivals};
use crate::load::{self, Place, join};
use crate::record::Latency;
use crate::{Error, IoContext, Result};

const TCP_PORT: u16 = 5201;
const STREAM_PORT: u16 = 5701;
const SEGMENT_PORT: u16 = 5702;
/// Before anything is counted: slow start is over.
pub const WARM_UP: Duration = Duration::from_millis(2000);
/// After the sources ended.
const DRAIN: Duration = Duration::from_millis(300);
/// Bytes of one segment of the thin TCP flow, one each millisecond.
const SEGMENT: usize = 1000;

/// What TCP flows got within a window.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tcp {
    /// Payload of all, Mbit/s.
    pub mbit_s: f64,
    /// Payload of each.
    pub flows: Vec<f64>,
    /// 1: all got the same.
    pub jain: f64,
    /// Segments that host A sent again.
    pub retransmitted: u64,
    /// Segments that host B had to keep until an earlier one came.
    pub out_of_order: u64,
    /// What each line carried from A to B, Mbit/s on the wire.
    pub lines: Vec<f64>,
    /// Frames that found the buffer of their line full, A to B.
    pub overflowed: u64,
    /// What went by the root, both ways, Mbit/s.
    pub by_root: f64,
    /// Pings beside it, if wanted.
    pub ping: Option<Latency>,
    /// Cores that both gateways used, and the box between them.
    pub gateways_cores: f64,
    /// The box is part of the rig, not of what is measured.
    pub box_cores: f64,
}

/// Fairness of shares after Jain: 1 if all are equal, 1/n if one has it all.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|x| x * x).sum::<f64>());
    if squares > 0.0 { sum * sum / (shares.len() as f64 * squares) } else { 0.0 }
}

fn kernel(at: Place<'_>) -> Result<KernelCounters> {
    at.run(|| Ok(KernelCounters::read()))
}

/// Runs so many flows from A to B while `watch` does, and tells what each had received when.
pub fn pour<T>(world: &World, flows: usize, watch: impl FnOnce(&[AtomicU64]) -> Result<T>) -> Result<T> {
    let ([a, b], congestion) = (world.hosts(), world.congestion.as_deref());
    let (stop, drained) = (AtomicBool::new(false), AtomicBool::new(false));
    let received: Vec<AtomicU64> = (0..flows).map(|_| AtomicU64::new(0)).collect();
    let ready: Vec<AtomicBool> = (0..flows).map(|_| AtomicBool::new(false)).collect();
    let at = |i: usize| SocketAddr::new(b.address, TCP_PORT + i as u16);
    std::thread::scope(|s| {
        let (stop, drained, received, ready) = (&stop, &drained, &received, &ready);
        let sinks: Vec<_> = (0..flows)
            .map(|i| s.spawn(move || b.run(|| measure::tcp_sink(at(i), &received[i], &ready[i], drained))))
            .collect();
        while ready.iter().zip(&sinks).any(|(ready, sink)| !ready.load(Ordering::Acquire) && !sink.is_finished()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let sources: Vec<_> = (0..flows)
            .map(|i| {
                s.spawn(move || a.run(|| measure::tcp_pour_with(at(i), congestion, || !stop.load(Ordering::Acquire))))
            })
            .collect();
        let watched = watch(received);
        stop.store(true, Ordering::Release);
        let sent: Result<Vec<()>> = sources.into_iter().map(join).collect();
        std::thread::sleep(DRAIN);
        drained.store(true, Ordering::Release);
        let sunk: Result<Vec<_>> = sinks.into_iter().map(join).collect();
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
        let watched = watched?;
        sent?;
        sunk?;
        Ok(watched)
    })
}

/// So many TCP flows for `window` after slow start, with pings beside them if wanted.
pub fn tcp(world: &World, flows: usize, ping: bool, window: Duration) -> Result<Tcp> {
    let [a, b] = world.hosts();
    let gateways: Vec<u32> = world.bed().running().pids().into_iter().flatten().collect();
    let cpu = || gateways.iter().map(|&pid| measure::cpu_time(pid)).sum::<Duration>();
    pour(world, flows, |received| {
        load::pause(WARM_UP);
        let now = || received.iter().map(|n| n.load(Ordering::Relaxed)).collect::<Vec<u64>>();
        let counted = || Ok::<_, Error>((kernel(a)?, kernel(b)?, world.by_root()?));
        let (before, boxed, busy) = (counted()?, world.wires.cpu(), cpu());
        let (carried, first, start) = (world.carried(), now(), Instant::now());
        let pings = if ping { Some(a.run(|| pings(b, window))?) } else { None };
        load::pause(window.saturating_sub(start.elapsed()));
        let (last, took) = (now(), start.elapsed().as_secs_f64());
        let (tallies, after) = (world.carried(), counted()?);
        let mbit = |bytes: u64| bytes as f64 * 8e-6 / took;
        let flows: Vec<f64> = last.iter().zip(&first).map(|(last, first)| mbit(last - first)).collect();
        Ok(Tcp {
            mbit_s: flows.iter().sum(),
            jain: jain(&flows),
            flows,
            retransmitted: after.0.since(&before.0, "Tcp.RetransSegs"),
            out_of_order: after.1.since(&before.1, "TcpExt.TCPOFOQueue"),
            lines: tallies.iter().zip(&carried).map(|(to, from)| mbit(to[0].bytes - from[0].bytes)).collect(),
            overflowed: tallies.iter().zip(&carried).map(|(to, from)| to[0].overflowed - from[0].overflowed).sum(),
            by_root: mbit(after.2 - before.2),
            ping: pings.as_ref().map(load::latency),
            gateways_cores: (cpu() - busy).as_secs_f64() / took,
            box_cores: (world.wires.cpu() - boxed).as_secs_f64() / took,
        })
    })
}

/// Pings to `to`, 50 a second, for so long.
fn pings(to: Place<'_>, time: Duration) -> Result<Pings> {
    let plan = PingPlan {
        count: (time.as_millis() as u64 / 20).max(1),
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        ..PingPlan::default()
    };
    measure::ping(to.address, plan)
}

/// Round trips with nothing beside them.
pub fn idle_ping(world: &World, time: Duration) -> Result<Latency> {
    let [a, b] = world.hosts();
    Ok(load::latency(&a.run(|| pings(b, time))?))
}

/// The clock and the sender's counts of a stream that runs, for who makes things fail meanwhile.
pub struct Clock<'a> {
    start: Instant,
    sent: &'a AtomicU64,
    hosts: [Place<'a>; 2],
}

/// One moment of it.
pub struct Moment {
    /// Since the stream began.
    pub at: Duration,
    /// Datagrams sent.
    pub sent: u64,
    kernel: [KernelCounters; 2],
}

impl Clock<'_> {
    /// Now.
    pub fn now(&self) -> Result<Moment> {
        let (at, sent) = (self.start.elapsed(), self.sent.load(Ordering::Acquire));
        Ok(Moment { at, sent, kernel: [kernel(self.hosts[0])?, kernel(self.hosts[1])?] })
    }
}

impl Moment {
    /// Segments that host A sent again since `before`; only the thin TCP flow can.
    pub fn retransmitted_since(&self, before: &Moment) -> u64 {
        self.kernel[0].since(&before.kernel[0], "Tcp.RetransSegs")
    }

    /// Segments that host B had already, as when its acknowledgements were lost and not the data. B counts those that came
    /// joined as one, and what it says of them may be lost: the greater of what it counted and what A heard of it.
    pub fn needless_since(&self, before: &Moment) -> u64 {
        let of = |host: usize, name: &str| self.kernel[host].since(&before.kernel[host], name);
        let counted = of(1, "TcpExt.TCPDSACKOldSent") + of(1, "TcpExt.TCPDSACKOfoSent");
        counted.max(of(0, "TcpExt.TCPDSACKRecvSegs"))
    }
}

/// What arrived of a stream, and when.
#[derive(Debug, Default)]
pub struct Seen {
    /// Datagrams by number.
    pub datagrams: Arrivals,
    /// Moments at which bytes of the TCP flow arrived.
    pub segments: Vec<Duration>,
}

/// Runs the numbered stream, and the thin TCP flow if wanted and if B has TCP, from A to B while `watch` does.
pub fn stream<T>(world: &World, segments: bool, watch: impl FnOnce(&Clock<'_>) -> Result<T>) -> Result<(T, Seen)> {
    let [a, b] = world.hosts();
    let socket = |at: Place<'_>| {
        at.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(at.address, STREAM_PORT)).doing("bind a stream's socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(20))).doing("set a time limit")?;
            Ok(socket)
        })
    };
    let running = world.bed().running();
    // What came before is of no interest.
    let far_tells = running.datagrams().is_some();
    let (from, to) = (socket(a)?, if far_tells { None } else { Some(socket(b)?) });
    let epoch = SystemTime::now();
    let (start, sent) = (Instant::now(), AtomicU64::new(0));
    let (silent, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let came = Mutex::new(Vec::new());
    let thin = if segments && !far_tells { Some(connect(a, b, world.congestion.as_deref())?) } else { None };
    std::thread::scope(|s| {
        let (silent, done, sent, came) = (&silent, &done, &sent, &came);
        let receiver = to.as_ref().map(|to| s.spawn(move || failover::receive(to, start, done)));
        s.spawn({
            let (from, to) = (&from, SocketAddr::new(b.address, STREAM_PORT));
            move || failover::send(from, to, sent, silent)
        });
        if let Some([out, back]) = thin {
            s.spawn(move || trickle(out, start, silent));
            s.spawn(move || collect(back, start, done, came));
        }
        let watched = watch(&Clock { start, sent, hosts: [a, b] });
        silent.store(true, Ordering::Release);
        std::thread::sleep(DRAIN);
        done.store(true, Ordering::Release);
        let datagrams = match receiver {
            Some(receiver) => join(receiver),
            None => running.datagrams().unwrap_or_default().iter().filter_map(|one| arrival(one, epoch)).collect(),
        };
        Ok((watched?, datagrams))
    })
    .map(|(watched, datagrams)| {
        let segments = came.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        (watched, Seen { datagrams, segments })
    })
}

/// Number and time of a datagram that the far end says it took in.
fn arrival((at, payload): &(SystemTime, Vec<u8>), epoch: SystemTime) -> Option<(u64, Duration)> {
    Some((u64::from_le_bytes(*payload.first_chunk()?), at.duration_since(epoch).ok()?))
}

/// A TCP connection from `a` to `b`: both ends of it.
fn connect(a: Place<'_>, b: Place<'_>, congestion: Option<&str>) -> Result<[TcpStream; 2]> {
    let at = SocketAddr::new(b.address, SEGMENT_PORT);
    let listener = b.run(|| TcpListener::bind(at).doing(format!("listen on {at}")))?;
    let out = a.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(5)).doing(format!("connect to {at}")))?;
    let (back, _) = listener.accept().doing("accept a connection")?;
    measure::congest(&out, congestion)?;
    out.set_nodelay(true).doing("send at once")?;
    out.set_nonblocking(true).doing("send at once")?;
    back.set_read_timeout(Some(Duration::from_millis(20))).doing("set a time limit")?;
    Ok([out, back])
}

/// One segment each millisecond; what the full socket refuses is not sent later.
fn trickle(mut out: TcpStream, start: Instant, silent: &AtomicBool) {
    let mut due = start.elapsed();
    while !silent.load(Ordering::Acquire) {
        let _ = out.write(&[0x5a; SEGMENT]);
        due += Duration::from_millis(1);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
}

fn collect(mut back: TcpStream, start: Instant, done: &AtomicBool, came: &Mutex<Vec<Duration>>) {
    let mut buffer = vec![0; 1 << 16];
    let mut seen = Vec::new();
    while !done.load(Ordering::Acquire) {
        match back.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => seen.push(start.elapsed()),
            Err(_) => {}
        }
    }
    *came.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = seen;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equals_and_falls_to_one_nth() {
        assert_eq!(jain(&[3.0; 8]), 1.0);
        assert_eq!(jain(&[5.0, 0.0, 0.0, 0.0]), 0.25);
        assert!((jain(&[2.0, 1.0]) - 0.9).abs() < 1e-9);
        assert_eq!(jain(&[0.0, 0.0]), 0.0);
    }
}
