//! Traffic between the two sites of a rig: TCP streams, UDP floods and paced UDP, pings; one way and both. Every load
//! warms up, is metered over a window, and is then drained, so that what is lost is known exactly.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use lab::measure::{self, PingPlan, Pings, UdpPlan};
use lab::netns::Namespace;

use crate::meter::Meter;
use crate::record::{Latency, Run};
use crate::rig::Rig;
use crate::tunnel::{Running, Tunnel};
use crate::{Error, Result};

const TCP_PORT: u16 = 5201;
const UDP_PORT: u16 = 5301;
/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(700);
/// Between the last datagram sent and the last one counted.
const DRAIN: Duration = Duration::from_millis(300);
/// For a tunnel to carry its first ping.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two echo requests beside other traffic, and on an idle tunnel.
const PING_INTERVAL: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(5)];

/// A tunnel at work on a rig.
pub struct Bed {
    // The tunnel goes before the namespaces.
    running: Box<dyn Running>,
    /// Where it runs.
    pub rig: Rig,
}

impl Bed {
    /// Builds the rig, starts the tunnel on it and waits until the hosts hear each other.
    pub fn start(tunnel: &dyn Tunnel, options: crate::rig::RigOptions) -> Result<Bed> {
        Bed::on(Rig::new(options)?, tunnel)
    }

    /// Starts the tunnel on a rig that is built already.
    pub fn on(rig: Rig, tunnel: &dyn Tunnel) -> Result<Bed> {
        let running = tunnel.start(&rig)?;
        rig.wait_for_ping(START_LIMIT)?;
        Ok(Bed { running, rig })
    }

    /// The tunnel.
    pub fn running(&self) -> &dyn Running {
        &*self.running
    }

    /// Where traffic of A and of B begins and ends.
    pub fn places(&self, ends: Ends) -> [Place<'_>; 2] {
        let overlay = self.running.overlay();
        [0, 1].map(|i| {
            let site = &self.rig.sites[i];
            let (namespace, address) = match ends {
                Ends::Hosts => (&site.host, site.host_address),
                Ends::Gateways => (&site.gateway, overlay[i]),
            };
            Place { namespace, address, cores: &site.cores }
        })
    }

    /// A meter for traffic between these ends.
    pub fn meter(&self, ends: Ends) -> Meter<'_> {
        Meter::new(self.running.pids(), self.places(ends).map(|place| place.namespace))
    }
}

/// One end of traffic.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The host.
    pub namespace: &'a Namespace,
    /// Its address, as the other end reaches it.
    pub address: IpAddr,
    /// Where its traffic threads run; empty: anywhere.
    pub cores: &'a [usize],
}

impl Place<'_> {
    /// Runs it there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace.inside_on(self.cores, f)
    }
}

/// Between whom traffic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ends {
    /// From LAN host to LAN host
    #[value(name = "lan")]
    Hosts,
    /// From gateway to gateway, over their addresses in the tunnel
    #[value(name = "gateway")]
    Gateways,
}

/// One way or both ways at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ways {
    /// From A to B
    One,
    /// Both ways at the same time
    Both,
}

impl Ways {
    fn pairs(self) -> &'static [(usize, usize)] {
        match self {
            Ways::One => &[(0, 1)],
            Ways::Both => &[(0, 1), (1, 0)],
        }
    }
}

/// The kind of traffic.
#[derive(Clone, Copy, Debug)]
pub enum Traffic {
    /// Nothing but pings.
    Idle,
    /// So many TCP streams each way.
    Tcp(usize),
    /// One UDP stream each way.
    Udp(UdpPlan),
}

/// What runs, between whom, and which way.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The traffic.
    pub traffic: Traffic,
    /// Its ends.
    pub ends: Ends,
    /// Its directions.
    pub ways: Ways,
    /// Pings from A to B beside it.
    pub ping: bool,
}

impl Load {
    /// From LAN host to LAN host, one way, no pings.
    pub fn new(traffic: Traffic) -> Load {
        Load { traffic, ends: Ends::Hosts, ways: Ways::One, ping: matches!(traffic, Traffic::Idle) }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.traffic {
            Traffic::Idle => write!(f, "idle")?,
            Traffic::Tcp(streams) => write!(f, "TCP {streams}")?,
            Traffic::Udp(plan) => {
                write!(f, "UDP {} B", plan.size)?;
                if plan.gso {
                    write!(f, " GSO")?;
                }
                if let Some(rate) = plan.packets_per_s {
                    write!(f, " at {rate:.0}/s")?;
                }
            }
        }
        if self.ends == Ends::Gateways {
            write!(f, ", gateway to gateway")?;
        }
        if self.ways == Ways::Both {
            write!(f, ", both ways")?;
        }
        Ok(())
    }
}

/// Flags and counts that the threads of one load share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    drained: AtomicBool,
    bytes: AtomicU64,
    packets: AtomicU64,
    sent: AtomicU64,
}

impl Shared {
    fn arrived(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed))
    }

    fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }
}

/// Runs `load` for `window` beside its warm-up and tells what was seen.
pub fn run(bed: &Bed, load: Load, window: Duration) -> Result<Run> {
    let shared = Shared::default();
    let (mut meter, places) = (bed.meter(load.ends), bed.places(load.ends));
    let streams = match load.traffic {
        Traffic::Idle => 0,
        Traffic::Tcp(n) => n,
        Traffic::Udp(_) => 1,
    };
    let flows: Vec<(usize, usize, u16)> =
        load.ways.pairs().iter().flat_map(|&(from, to)| (0..streams).map(move |i| (from, to, i as u16))).collect();
    let ready: Vec<AtomicBool> = flows.iter().map(|_| AtomicBool::new(false)).collect();
    let resident = meter.resident_kib();
    let mut run = Run::default();
    let before = meter.read()?;
    let pings = std::thread::scope(|s| {
        let sinks: Vec<_> = (flows.iter().zip(&ready))
            .map(|(&(_, to, i), ready)| {
                s.spawn({
                    let shared = &shared;
                    move || sink(places[to], load.traffic, i, ready, shared)
                })
            })
            .collect();
        let wait = Instant::now();
        while ready.iter().zip(&sinks).any(|(r, sink)| !r.load(Ordering::Acquire) && !sink.is_finished())
            && wait.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let sources: Vec<_> = (flows.iter())
            .map(|&(from, to, i)| {
                s.spawn({
                    let shared = &shared;
                    move || source(places[from], places[to], load.traffic, i, shared)
                })
            })
            .collect();
        if streams > 0 {
            pause(WARM_UP);
        }
        let pinger = load.ping.then(|| s.spawn(|| pinger(places, load.traffic, &shared)));
        // Whatever fails from here on, the threads must be told to end.
        let measured = (|| {
            let (from, at_first) = (meter.read()?, shared.arrived());
            pause(window);
            let (to, at_last) = (meter.read()?, shared.arrived());
            meter.fill(&mut run, &from, &to);
            (run.bytes, run.packets) = (at_last.0 - at_first.0, at_last.1 - at_first.1);
            Ok(())
        })();
        shared.stop.store(true, Ordering::Release);
        let sent: Result<Vec<()>> = sources.into_iter().map(join).collect();
        if streams > 0 {
            std::thread::sleep(DRAIN);
        }
        shared.drained.store(true, Ordering::Release);
        let received: Result<Vec<()>> = sinks.into_iter().map(join).collect();
        let pings = pinger.map(join).transpose();
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
        measured.and(sent)?;
        received?;
        pings
    })?;
    run.resident_kib = [resident, meter.resident_kib()];
    run.latency = pings.as_ref().map(latency);
    if let Traffic::Udp(_) = load.traffic {
        run.sent = shared.sent.load(Ordering::Relaxed);
        run.lost = run.sent.saturating_sub(shared.arrived().1);
        run.lost_at_socket = Meter::dropped_at_sockets(&before, &meter.read()?);
    } else if let Some(pings) = &pings {
        (run.sent, run.lost) = (pings.sent, pings.lost());
    }
    Ok(run)
}

fn sink(at: Place<'_>, traffic: Traffic, i: u16, ready: &AtomicBool, shared: &Shared) -> Result<()> {
    at.run(|| match traffic {
        Traffic::Idle => Ok(()),
        Traffic::Tcp(_) => {
            let at = SocketAddr::new(at.address, TCP_PORT + i);
            measure::tcp_sink(at, &shared.bytes, ready, &shared.drained).map(|_| ())
        }
        Traffic::Udp(_) => {
            measure::udp_sink(SocketAddr::new(at.address, UDP_PORT + i), ready, &shared.drained, |datagram| {
                shared.packets.fetch_add(1, Ordering::Relaxed);
                shared.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
            })
        }
    })
}

fn source(from: Place<'_>, to: Place<'_>, traffic: Traffic, i: u16, shared: &Shared) -> Result<()> {
    from.run(|| match traffic {
        Traffic::Idle => Ok(()),
        Traffic::Tcp(_) => measure::tcp_pour(SocketAddr::new(to.address, TCP_PORT + i), || shared.go_on()),
        Traffic::Udp(plan) => {
            measure::udp_pour(SocketAddr::new(to.address, UDP_PORT + i), plan, &shared.sent, || shared.go_on())
        }
    })
}

/// In short runs: a run ends only when its answers are in, and numbers at most 65536 requests.
fn pinger([from, to]: [Place<'_>; 2], traffic: Traffic, shared: &Shared) -> Result<Pings> {
    let interval = PING_INTERVAL[usize::from(matches!(traffic, Traffic::Idle))];
    let plan = PingPlan { count: 10, interval, timeout: Duration::from_millis(500), ..PingPlan::default() };
    from.run(|| {
        let mut all = Pings::default();
        while shared.go_on() && !lab::interrupted() {
            all.add(&measure::ping(to.address, plan)?);
        }
        Ok(all)
    })
}

/// Percentiles of round trips.
pub fn latency(pings: &Pings) -> Latency {
    let at = |percentile: f64| pings.us.value_at_percentile(percentile) as f64;
    Latency {
        count: pings.answered,
        lost: pings.lost(),
        min_us: pings.us.min() as f64,
        p50_us: at(50.0),
        p90_us: at(90.0),
        p99_us: at(99.0),
        p999_us: at(99.9),
        max_us: pings.us.max() as f64,
        mean_us: pings.us.mean(),
    }
}

/// Sleeps, but not past an interruption.
pub fn pause(time: Duration) {
    let end = Instant::now() + time;
    while !lab::interrupted() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What the thread came to; its panic is ours.
pub fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A datagram rate counts as carried without loss up to this share.
pub const LOSSLESS: f64 = 1e-4;
/// Steps of the search for the highest rate without loss.
const SEARCH_STEPS: u32 = 7;

/// The highest rate (datagrams per second) that is carried without loss, searched by halving between 0 and what a flood
/// delivers; and the run at that rate.
pub fn lossless(bed: &Bed, plan: UdpPlan, ways: Ways, window: Duration) -> Result<(f64, Run)> {
    let offer = |rate: Option<f64>| {
        let load = Load { ways, ..Load::new(Traffic::Udp(UdpPlan { packets_per_s: rate, ..plan })) };
        run(bed, load, window)
    };
    let flood = offer(None)?;
    let directions = ways.pairs().len() as f64;
    let (mut carried, mut not) = (0.0, flood.packets as f64 / flood.seconds / directions * 1.2);
    let mut best = None;
    for _ in 0..SEARCH_STEPS {
        let rate = (carried + not) / 2.0;
        let run = offer(Some(rate))?;
        if run.packets > 0 && run.loss_on_the_way() <= LOSSLESS {
            // What really went through: the sender itself may have been too slow for the rate.
            carried = rate;
            best = Some((run.packets as f64 / run.seconds, run));
        } else {
            not = rate;
        }
    }
    best.ok_or_else(|| Error::Unusable("no rate was carried without loss".into()))
}

/// Offers twice what is carried without loss for five seconds, then a thin stream: how long until nothing of that is
/// lost, whether memory grew, and where the daemons say they dropped. `rate` is what is carried without loss.
pub fn overload(bed: &Bed, plan: UdpPlan, rate: f64) -> Result<(f64, Run)> {
    const OVERLOAD: Duration = Duration::from_secs(5);
    const THIN_PER_S: f64 = 2000.0;
    const THIN_FOR: Duration = Duration::from_secs(3);
    let counters = bed.running().counters();
    let twice = UdpPlan { packets_per_s: Some(rate * 2.0), ..plan };
    let mut run = run(bed, Load::new(Traffic::Udp(twice)), OVERLOAD - WARM_UP)?;
    let seen = thin_stream(bed, UdpPlan { packets_per_s: Some(THIN_PER_S.min(rate / 4.0)), ..plan }, THIN_FOR)?;
    if let (Some(before), Some(after)) = (counters, bed.running().counters()) {
        for (site, (before, after)) in ["A", "B"].iter().zip(before.iter().zip(&after)) {
            rises(site, before, after, &mut run.counters);
        }
    }
    let offered = run.sent as f64 / OVERLOAD.as_secs_f64();
    run.more.insert("offered_per_s".into(), offered);
    run.more.insert("delivered_per_s".into(), run.packets as f64 / run.seconds);
    run.more.insert("without_loss_per_s".into(), rate);
    run.more.insert("thin_stream_lost".into(), seen.lost as f64);
    Ok((seen.recovered_after_s * 1e3, run))
}

struct Thin {
    lost: u64,
    recovered_after_s: f64,
}

/// A numbered stream; the number of the last lost datagram says when loss ended.
fn thin_stream(bed: &Bed, plan: UdpPlan, time: Duration) -> Result<Thin> {
    let rate = plan.packets_per_s.unwrap_or(1.0).max(1.0);
    let [from, to] = bed.places(Ends::Hosts);
    // Not the flooded port: its socket may still be full.
    let at = SocketAddr::new(to.address, UDP_PORT + 100);
    let (ready, done, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut arrived = vec![false; (rate * time.as_secs_f64()) as usize + 64];
    std::thread::scope(|s| {
        let sink = s.spawn(|| {
            to.run(|| {
                measure::udp_sink(at, &ready, &done, |datagram| {
                    let number = datagram.first_chunk().map(|n| u64::from_le_bytes(*n) as usize);
                    if let Some(slot) = number.and_then(|n| arrived.get_mut(n)) {
                        *slot = true;
                    }
                })
            })
        });
        while !ready.load(Ordering::Acquire) && !sink.is_finished() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let end = Instant::now() + time;
        let source = from.run(|| measure::udp_pour(at, plan, &sent, || Instant::now() < end));
        std::thread::sleep(DRAIN);
        done.store(true, Ordering::Release);
        join(sink).and(source)
    })?;
    arrived.truncate(sent.load(Ordering::Relaxed) as usize);
    let lost = arrived.iter().filter(|&&there| !there).count() as u64;
    let last = arrived.iter().rposition(|&there| !there).map_or(0, |i| i + 1);
    Ok(Thin { lost, recovered_after_s: last as f64 / rate })
}

/// Adds every counter that rose, by its path.
fn rises(
    path: &str,
    before: &serde_json::Value,
    after: &serde_json::Value,
    to: &mut std::collections::BTreeMap<String, u64>,
) {
    if let Some(fields) = after.as_object() {
        for (name, value) in fields {
            rises(&format!("{path}.{name}"), &before[name.as_str()], value, to);
        }
    } else if let Some(n) = after.as_u64() {
        let rise = n.saturating_sub(before.as_u64().unwrap_or(0));
        if rise > 0 {
            to.insert(path.to_owned(), rise);
        }
    }
}
