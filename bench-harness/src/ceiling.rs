//! The ceilings of this very host: what the kernel alone takes for a UDP datagram and for a TAP frame, each way, singly
//! and in batches, through the same rings as the gateway's. No tunnel on this host can be faster than these.
//!
//! Costs are CPU time of the thread that makes the calls (`CLOCK_THREAD_CPUTIME_ID`) per packet, so a thousand divided by
//! them is the Mpps of one fully used core. Softirq work that runs in the thread's context is included. A queue is filled
//! by one core and emptied by another, in turns: nobody waits for anybody inside what is measured.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use lab::netns::{self, Namespace};
use nix::time::{ClockId, clock_gettime};
use shard::{Gso, Offload as Virtio, Partial};
use uring::tap::SuperFrames;
use uring::{Event, Handler, Io, Ring, Token};

use crate::record::{Better, Cell, FORMAT, Record};
use crate::rig::Offload;
use crate::tunnel::plain::ring_config;
use crate::{Error, IoContext, Result};

/// Payload bytes of the datagrams.
pub const SIZES: [usize; 3] = [64, 512, 1400];
/// What the cells of a host are filed under.
pub const HOST: &str = "host";
/// The metric of costs.
pub const CPU: &str = "thread CPU per packet";

/// CPU time after which a cost is known well enough in one repetition.
const ENOUGH: Duration = Duration::from_millis(60);
/// Wall time of one repetition at most, of one live flow exactly.
const AT_MOST: Duration = Duration::from_secs(1);
const FLOW: Duration = Duration::from_millis(300);
/// Steps before counting begins.
const WARM_UP: u32 = 3;
/// Datagrams of one step; single TAP frames of one step.
const DATAGRAMS: usize = 1024;
const FRAMES: usize = 256;
/// Datagrams handed over with one entry into the kernel: singly, and joined to GSO sends.
const SINGLES_PER_TURN: usize = 64;
const JOINED_PER_TURN: usize = 256;
/// Segments of a super-frame written to the TAP.
const SEGMENTS: usize = 44;
const ONLY: Token = 1;

const WIRE: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const SINK: &str = "10.99.1.2:9";
const TAP_REMOTE: &str = "10.99.2.2:9";

/// Options of `bench-harness ceilings`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Repetitions
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// What the wire does with super-packets; repeatable with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Offload::Hw, Offload::Sw])]
    pub offload: Vec<Offload>,
    /// Cores of the two ends, with a comma [default: 0,1]
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "CORE,CORE")]
    pub cores: Vec<usize>,
    /// Save the result here
    #[arg(long, value_name = "FILE")]
    pub json: Option<std::path::PathBuf>,
    /// No progress bar
    #[arg(long)]
    pub quiet: bool,
}

impl Options {
    /// The cores of both ends: as asked for, else those of the rig.
    pub fn both_cores(&self) -> [Vec<usize>; 2] {
        match self.cores[..] {
            [near, far] => [vec![near], vec![far]],
            [only] => [vec![only], vec![only]],
            _ => crate::rig::RigOptions::default().cores,
        }
    }

    /// Measures with a progress bar.
    pub fn measure(&self, what: Selection) -> Result<Vec<Cell>> {
        let bar = if self.quiet { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new(0) };
        let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").map_err(unusable)?;
        bar.set_style(style);
        let cells = measure(what, &self.offload, &self.both_cores(), self.repeat, |nth, all, name| {
            bar.set_length(all as u64);
            bar.set_position(nth as u64);
            bar.set_message(name.to_owned());
        });
        bar.finish_and_clear();
        cells
    }
}

/// Measures, prints the table, saves.
pub fn run(options: &Options) -> Result<()> {
    let cells = options.measure(Selection::All)?;
    println!("{}", table(&cells));
    save(options, cells)
}

/// Saves cells of this host, if that is asked for.
pub fn save(options: &Options, cells: Vec<Cell>) -> Result<()> {
    let Some(path) = &options.json else { return Ok(()) };
    let offload: Vec<String> = options.offload.iter().map(Offload::to_string).collect();
    let settings = [
        ("command", std::env::args().nth(1).unwrap_or_default()),
        ("repeat", options.repeat.to_string()),
        ("offload", offload.join(",")),
        ("cores", format!("{:?}", options.both_cores())),
    ];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let record = Record {
        format: FORMAT,
        command: std::env::args().skip(1).collect(),
        begun_unix_s: now.as_secs(),
        machine: crate::machine::facts(),
        options: settings.map(|(name, value)| (name.to_owned(), value)).into(),
        tunnels: [(HOST.to_owned(), "the kernel alone, through the gateway's rings".to_owned())].into(),
        cells,
        notes: vec![],
    };
    record.save(path)
}

/// Which ceilings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// What the stages of one long packet are made of: batches of the longest datagrams, no live flows.
    Stages,
}

impl Selection {
    fn wants(self, kind: Kind, batch: Batch, bytes: usize) -> bool {
        let stage = batch == Batch::Joined && bytes == SIZES[2] && kind != Kind::Flow;
        self == Selection::All || stage
    }
}

/// How one costs or flows: singly or in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    Single,
    Joined,
}

/// Measures the ceilings `repeat` times, one after the other in every repetition. `progress` is called before each cell
/// with its number, the number of all, and its name.
pub fn measure(
    what: Selection,
    offloads: &[Offload],
    cores: &[Vec<usize>; 2],
    repeat: u32,
    mut progress: impl FnMut(usize, usize, &str),
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    let fields: Vec<Field> = offloads.iter().map(|&offload| Field::new(offload, cores)).collect::<Result<_>>()?;
    let plan: Vec<(&Field, Kind, Batch, usize)> = fields
        .iter()
        .enumerate()
        .flat_map(|(nth, field)| {
            let kinds = [Kind::Send, Kind::Receive, Kind::Flow, Kind::TapRead, Kind::TapWrite];
            let all = kinds.into_iter().flat_map(|kind| {
                [Batch::Single, Batch::Joined]
                    .into_iter()
                    .flat_map(move |batch| SIZES.map(|bytes| (kind, batch, bytes)))
            });
            // What the wire's offload does not touch is measured once.
            all.filter(move |(kind, batch, _)| nth == 0 || (*batch == Batch::Joined && kind.on_the_wire()))
                .filter(move |&(kind, batch, bytes)| what.wants(kind, batch, bytes))
                .map(move |(kind, batch, bytes)| (field, kind, batch, bytes))
        })
        .collect();
    let total = plan.len() * repeat as usize;
    for repetition in 0..repeat {
        for (nth, &(field, kind, batch, bytes)) in plan.iter().enumerate() {
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            progress(repetition as usize * plan.len() + nth, total, &kind.name(batch));
            let seen = match kind {
                Kind::Send => field.send(batch, bytes),
                Kind::Receive => field.receive(batch, bytes),
                Kind::Flow => field.flow(batch, bytes),
                Kind::TapRead => field.tap_read(batch, bytes),
                Kind::TapWrite => field.tap_write(batch, bytes),
            };
            let seen = seen.unwrap_or_else(|error| vec![Seen::failed(&kind.name(batch), error)]);
            for seen in seen {
                seen.note(&mut cells, field.offload, kind, bytes);
            }
        }
    }
    cells.sort_by_key(order);
    Ok(cells)
}

/// By load, then offload, then size, as tables want them.
fn order(cell: &Cell) -> (String, String, usize, String) {
    let of = |key: &str| cell.setup.get(key).cloned().unwrap_or_default();
    (cell.load.clone(), of("offload"), of("bytes").parse().unwrap_or(0), cell.metric.clone())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Send,
    Receive,
    Flow,
    TapRead,
    TapWrite,
}

impl Kind {
    fn on_the_wire(self) -> bool {
        matches!(self, Kind::Send | Kind::Receive | Kind::Flow)
    }

    fn name(self, batch: Batch) -> String {
        let joined = batch == Batch::Joined;
        match self {
            Kind::Send if joined => "UDP send, GSO",
            Kind::Send => "UDP send, single",
            Kind::Receive if joined => "UDP receive, GRO",
            Kind::Receive => "UDP receive, single",
            Kind::Flow if joined => "UDP flow, GSO and GRO",
            Kind::Flow => "UDP flow, single",
            Kind::TapRead if joined => "TAP read, super-frames",
            Kind::TapRead => "TAP read, single",
            Kind::TapWrite if joined => "TAP write, super-frames",
            Kind::TapWrite => "TAP write, single",
        }
        .into()
    }
}

/// One value of one cell, or why there is none.
struct Seen {
    load: String,
    metric: &'static str,
    unit: &'static str,
    value: std::result::Result<f64, String>,
}

impl Seen {
    fn cpu(load: impl Into<String>, ns: f64) -> Seen {
        Seen { load: load.into(), metric: CPU, unit: "ns", value: Ok(ns) }
    }

    fn failed(load: &str, error: Error) -> Seen {
        Seen { load: load.into(), metric: CPU, unit: "ns", value: Err(error.to_string()) }
    }

    fn note(self, cells: &mut Vec<Cell>, offload: Offload, kind: Kind, bytes: usize) {
        let mut setup = std::collections::BTreeMap::from([("bytes".to_owned(), bytes.to_string())]);
        if kind.on_the_wire() {
            setup.insert("offload".into(), offload.to_string());
        }
        let same = |c: &&mut Cell| c.load == self.load && c.metric == self.metric && c.setup == setup;
        let cell = match cells.iter_mut().find(same) {
            Some(cell) => cell,
            None => {
                let better = if self.unit == "ns" { Better::Lower } else { Better::Higher };
                cells.push(Cell::new(HOST, setup, &self.load, self.metric, self.unit, better));
                cells.last_mut().expect("just pushed")
            }
        };
        match self.value {
            Ok(value) => cell.repetitions.push(value),
            Err(failure) => cell.failures.push(failure),
        }
    }
}

/// What is measured on: two namespaces joined by a veth; in the first a device that drops what it is given, and a TAP.
struct Field {
    offload: Offload,
    cores: [Vec<usize>; 2],
    near: Namespace,
    far: Namespace,
    tap: OwnedFd,
    carries: SuperFrames,
}

impl Field {
    fn new(offload: Offload, cores: &[Vec<usize>; 2]) -> Result<Field> {
        let (near, far) = (Namespace::new(&format!("near_{offload}"))?, Namespace::new(&format!("far_{offload}"))?);
        for ns in [&near, &far] {
            ns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        let wire = WIRE.map(|address| format!("{address}/24"));
        netns::link((&near, "wire0", &wire[0]), (&far, "wire0", &wire[1]))?;
        // A NIC that takes everything and sends nothing; some kernels lack the one, some the other.
        let sink = |kind| near.ip(&["link", "add", "sink0", "type", kind]);
        sink("dummy").or_else(|_| sink("ifb"))?;
        let options = uring::tap::Options { name: "tap0".into(), queues: 1, super_frames: true };
        let mut tap = near.inside(|| uring::tap::open(&options).doing("open a TAP device"))?;
        for (device, address, remote) in [("sink0", "10.99.1.1/24", SINK), ("tap0", "10.99.2.1/24", TAP_REMOTE)] {
            near.ip(&["link", "set", device, "txqueuelen", "1000", "up"])?;
            near.ip(&["addr", "add", address, "dev", device])?;
            let remote = remote.split(':').next().unwrap_or(remote);
            let neighbour =
                ["neigh", "replace", remote, "lladdr", "02:00:00:00:00:02", "dev", device, "nud", "permanent"];
            near.ip(&neighbour)?;
        }
        if offload == Offload::Sw {
            let off = ["tso", "off", "tx-udp-segmentation", "off", "gro", "on"];
            for (ns, device) in [(&near, "wire0"), (&far, "wire0"), (&near, "sink0")] {
                ns.inside(|| netns::run("ethtool", &[&["-K", device][..], &off].concat()))?;
            }
        }
        let queue = tap.queues.pop().ok_or_else(|| Error::Unusable("a TAP device without queues".into()))?;
        Ok(Field { offload, cores: cores.clone(), near, far, tap: queue, carries: tap.super_frames })
    }

    /// Transmission alone: into a device that drops.
    fn send(&self, batch: Batch, bytes: usize) -> Result<Vec<Seen>> {
        let sender: Make = Box::new(move || send_step(batch, "10.99.1.1:0", SINK, bytes, DATAGRAMS));
        let cost = cost(vec![(&self.near, &self.cores[0], sender)])?;
        Ok(vec![Seen::cpu(Kind::Send.name(batch), cost[0])])
    }

    /// Emptying a full socket, and what filling it over the wire cost the sender, the receiver's softirq included.
    fn receive(&self, batch: Batch, bytes: usize) -> Result<Vec<Seen>> {
        let (from, to) = (format!("{}:0", WIRE[0]), format!("{}:9995", WIRE[1]));
        let at = to.clone();
        let filler: Make = Box::new(move || send_step(batch, &from, &to, bytes, DATAGRAMS));
        let drainer: Make = Box::new(move || {
            let mut ring = udp_ring(Batch::Joined, &at, batch == Batch::Joined)?;
            Ok(Box::new(move || drain(&mut ring)))
        });
        let cost = cost(vec![(&self.near, &self.cores[0], filler), (&self.far, &self.cores[1], drainer)])?;
        let sent = format!("{} over the wire", Kind::Send.name(batch));
        Ok(vec![Seen::cpu(sent, cost[0]), Seen::cpu(Kind::Receive.name(batch), cost[1])])
    }

    /// A sender that never pauses and a receiver that waits as the gateway does.
    fn flow(&self, batch: Batch, bytes: usize) -> Result<Vec<Seen>> {
        let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (from, to) = (format!("{}:0", WIRE[0]), format!("{}:9996", WIRE[1]));
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                self.far.inside_on(&self.cores[1], || {
                    let ring = udp_ring(Batch::Joined, &to, batch == Batch::Joined);
                    ready.store(true, Ordering::Release);
                    let (mut ring, mut count) = (ring?, Count::default());
                    let (cpu, begun) = (thread_cpu(), Instant::now());
                    let mut last = begun;
                    while !stop.load(Ordering::Acquire) {
                        if ring.turn(Some(Duration::from_millis(20)), &mut count).doing("turn the ring")? > 0 {
                            last = Instant::now();
                        }
                    }
                    Ok((count.packets, thread_cpu() - cpu, last - begun))
                })
            });
            while !ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let sent = self.near.inside_on(&self.cores[0], || {
                let mut step = send_step(batch, &from, &to, bytes, JOINED_PER_TURN)?;
                let (cpu, begun, mut sent) = (thread_cpu(), Instant::now(), 0);
                while begun.elapsed() < FLOW {
                    sent += step()?;
                }
                Ok((sent, thread_cpu() - cpu))
            });
            stop.store(true, Ordering::Release);
            let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let ((sent, sender_cpu), (received, receiver_cpu, elapsed)) = (sent?, received?);
            if received == 0 || sent == 0 {
                return Err(Error::Unusable("nothing arrived".into()));
            }
            let load = Kind::Flow.name(batch);
            let mpps = received as f64 / elapsed.as_secs_f64() / 1e6;
            let rate = |metric, unit, value| Seen { load: load.clone(), metric, unit, value: Ok(value) };
            Ok(vec![
                Seen::cpu(format!("{load}, sender"), per_packet(sender_cpu, sent)),
                Seen::cpu(format!("{load}, receiver"), per_packet(receiver_cpu, received)),
                rate("packet rate", "Mpps", mpps),
                rate("rate", "Gbit/s", mpps * bytes as f64 * 8.0 / 1e3),
            ])
        })
    }

    /// Emptying a TAP's queue.
    fn tap_read(&self, batch: Batch, bytes: usize) -> Result<Vec<Seen>> {
        if batch == Batch::Joined && self.carries != SuperFrames::TcpAndUdp {
            return Err(Error::Unusable("this kernel's TAP devices give no UDP super-frames (Linux 6.2)".into()));
        }
        let frames = if batch == Batch::Single { FRAMES } else { DATAGRAMS };
        let filler: Make = Box::new(move || send_step(batch, "10.99.2.1:0", TAP_REMOTE, bytes, frames));
        let drainer = self.tap_ring(|mut ring| Box::new(move || drain(&mut ring)));
        let cost = cost(vec![(&self.near, &self.cores[0], filler), (&self.near, &self.cores[1], drainer?)])?;
        Ok(vec![Seen::cpu(Kind::TapRead.name(batch), cost[1])])
    }

    /// Writing frames that the kernel drops at the door of IP: they are for somebody else's MAC.
    fn tap_write(&self, batch: Batch, bytes: usize) -> Result<Vec<Seen>> {
        let segments = if batch == Batch::Joined { SEGMENTS } else { 1 };
        let frame = stranger(bytes, segments);
        let writer = self.tap_ring(move |mut ring| {
            // The slots keep what was written into them: filled once, they are handed over again and again.
            let (slots, mut filled) = (usize::from(ring_config().tap_slots), false);
            Box::new(move || {
                for _ in 0..slots {
                    let mut room = ring.io().frame(ONLY, frame.len()).map_err(unusable)?;
                    if !filled {
                        room.copy_from_slice(&frame);
                    }
                    room.commit(frame.len());
                }
                filled = true;
                let before = ring.io().counters().frames_out;
                ring.turn(Some(Duration::ZERO), &mut Count::default()).doing("turn the ring")?;
                Ok((ring.io().counters().frames_out - before) * segments as u64)
            })
        });
        let cost = cost(vec![(&self.near, &self.cores[0], writer?)])?;
        Ok(vec![Seen::cpu(Kind::TapWrite.name(batch), cost[0])])
    }

    fn tap_ring(&self, step: impl FnOnce(Ring) -> Step + Send + 'static) -> Result<Make> {
        let queue = self.tap.try_clone().doing("share the TAP queue")?;
        Ok(Box::new(move || {
            let mut ring = Ring::new(ring_config()).map_err(unusable)?;
            ring.io().add_tap(ONLY, queue).map_err(unusable)?;
            ring.turn(Some(Duration::ZERO), &mut Count::default()).doing("turn the ring")?;
            Ok(step(ring))
        }))
    }
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Unusable(error.to_string())
}

/// A UDP frame for nobody here, or a super-frame of `segments` of them, with its virtio-net header.
fn stranger(bytes: usize, segments: usize) -> Vec<u8> {
    let payload = bytes * segments;
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x77, 0x02, 0, 0, 0, 0, 0x78, 0x08, 0x00];
    frame.extend([0x45, 0]);
    frame.extend(((28 + payload) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 99, 2, 2, 10, 99, 2, 1]);
    frame.extend([0, 9, 0, 9]);
    frame.extend(((8 + payload) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(frame.len() + payload, 0x5a);
    let joined = segments > 1;
    let offload = Virtio {
        checksum: joined.then_some(Partial { start: 34, offset: 6 }),
        segments: joined.then_some((Gso::Udp, bytes as u16)),
        headers_len: if joined { 42 } else { 0 },
    };
    [&offload.emit()[..], &frame].concat()
}

/// Does one step of work and says how many packets it moved.
type Step = Box<dyn FnMut() -> Result<u64>>;
/// Makes the worker on the thread that will work.
type Make = Box<dyn FnOnce() -> Result<Step> + Send>;

/// Packets and CPU time of one step.
type Moved = Result<(u64, Duration)>;

/// Lets the parties, each on a thread of its own inside its namespace and on its cores, do their steps one after the
/// other until every one has used [`ENOUGH`] CPU time. CPU nanoseconds per packet of each.
fn cost(parties: Vec<(&Namespace, &Vec<usize>, Make)>) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let workers: Vec<(Sender<()>, Receiver<Moved>)> = parties
            .into_iter()
            .map(|(ns, cores, make)| {
                let ((go, gone), (done, seen)) = (channel::<()>(), channel());
                scope.spawn(move || {
                    let work = || -> Result<()> {
                        let mut step = make()?;
                        let _ = done.send(Ok((0, Duration::ZERO)));
                        while gone.recv().is_ok() {
                            let before = thread_cpu();
                            let packets = step()?;
                            let _ = done.send(Ok((packets, thread_cpu() - before)));
                        }
                        Ok(())
                    };
                    let inside = || netns::pin(cores).and_then(|()| ns.enter()).and_then(|()| work());
                    if let Err(error) = inside() {
                        let _ = done.send(Err(error));
                    }
                });
                (go, seen)
            })
            .collect();
        let ended = || Error::Unusable("a measuring thread ended".into());
        for (_, seen) in &workers {
            seen.recv().map_err(|_| ended())??;
        }
        let mut totals = vec![(0u64, Duration::ZERO); workers.len()];
        let begun = Instant::now();
        for round in 0.. {
            for ((go, seen), total) in workers.iter().zip(&mut totals) {
                let _ = go.send(());
                let (packets, cpu) = seen.recv().map_err(|_| ended())??;
                if round >= WARM_UP {
                    *total = (total.0 + packets, total.1 + cpu);
                }
            }
            if begun.elapsed() > AT_MOST || totals.iter().all(|total| total.1 > ENOUGH) {
                break;
            }
        }
        if totals.iter().any(|total| total.0 == 0) {
            return Err(Error::Unusable("no packet went through".into()));
        }
        Ok(totals.into_iter().map(|(packets, cpu)| per_packet(cpu, packets)).collect())
    })
}

fn per_packet(cpu: Duration, packets: u64) -> f64 {
    cpu.as_nanos() as f64 / packets.max(1) as f64
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// A ring with one socket. `batch` says whether equal datagrams are joined when sent.
fn udp_ring(batch: Batch, at: &str, gro: bool) -> Result<Ring> {
    let address: SocketAddr = at.parse().map_err(unusable)?;
    let options = uring::udp::Options { gro, ..uring::udp::Options::new(address) };
    let socket = uring::udp::bind(&options).doing(format!("bind {at}"))?;
    let config = uring::Config { gso: batch == Batch::Joined, ..ring_config() };
    let mut ring = Ring::new(config).map_err(unusable)?;
    ring.io().add_udp(ONLY, socket).map_err(unusable)?;
    ring.turn(Some(Duration::ZERO), &mut Count::default()).doing("turn the ring")?;
    Ok(ring)
}

/// Hands `count` datagrams to the kernel per step, as they lie in the send slots: nothing is written into them.
fn send_step(batch: Batch, from: &str, to: &str, bytes: usize, count: usize) -> Result<Step> {
    let mut ring = udp_ring(batch, from, false)?;
    let to: SocketAddr = to.parse().map_err(unusable)?;
    let per_turn = if batch == Batch::Joined { JOINED_PER_TURN } else { SINGLES_PER_TURN };
    Ok(Box::new(move || {
        let before = ring.io().counters().datagrams_out;
        for _ in 0..count / per_turn {
            for _ in 0..per_turn {
                ring.io().put(ONLY, to, None, bytes).map_err(unusable)?;
            }
            ring.turn(Some(Duration::ZERO), &mut Count::default()).doing("turn the ring")?;
        }
        match ring.io().counters() {
            c if c.dropped_send_failed > 0 => Err(Error::Unusable("the kernel refused to send".into())),
            c if batch == Batch::Joined && c.gso_refused > 0 => Err(Error::Unusable("the route takes no GSO".into())),
            c => Ok(c.datagrams_out - before),
        }
    }))
}

/// Takes what is there until nothing comes any more.
fn drain(ring: &mut Ring) -> Result<u64> {
    let mut count = Count::default();
    while ring.turn(Some(Duration::ZERO), &mut count).doing("turn the ring")? > 0 {}
    Ok(count.packets)
}

/// Counts packets: segments of super-packets each.
#[derive(Default)]
struct Count {
    packets: u64,
}

impl Handler for Count {
    fn datagrams(&mut self, _: &mut Io, _: Token, _: SocketAddr, bytes: &mut [u8], segment: usize) {
        self.packets += bytes.len().div_ceil(segment) as u64;
    }

    fn frame(&mut self, _: &mut Io, _: Token, bytes: &mut [u8]) {
        let Some((header, frame)) = bytes.split_first_chunk::<{ Virtio::LEN }>() else { return };
        let segments = Virtio::parse(header).ok().and_then(|offload| offload.segments);
        // Ethernet, IPv4 and UDP headers are not cut.
        self.packets +=
            segments.map_or(1, |(_, each)| frame.len().saturating_sub(42).div_ceil(each.max(1).into()) as u64);
    }

    fn event(&mut self, _: &mut Io, _: Event) {}
}

/// The cells as a table for people.
pub fn table(cells: &[Cell]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["ceiling of this host", "offload", "bytes", "", "median", "least .. most", "one core"]);
    for cell in cells {
        let of = |key: &str| cell.setup.get(key).cloned().unwrap_or_else(|| "-".into());
        let (Some(median), Some((least, most))) = (cell.median(), cell.spread()) else {
            let why = cell.failures.first().cloned().unwrap_or_default();
            table.add_row([cell.load.clone(), of("offload"), of("bytes"), why]);
            continue;
        };
        let bytes: f64 = of("bytes").parse().unwrap_or(0.0);
        let core = match cell.metric == CPU {
            true => format!("{:.2} Mpps, {:.1} Gbit/s", 1e3 / median, 8.0 * bytes / median),
            false => String::new(),
        };
        let digits = if cell.unit == "ns" { 0 } else { 2 };
        table.add_row([
            cell.load.clone(),
            of("offload"),
            of("bytes"),
            cell.metric.clone(),
            format!("{median:.digits$} {}", cell.unit),
            format!("{least:.digits$} .. {most:.digits$}"),
            core,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_frame_for_a_stranger_is_one_that_can_be_cut() {
        let bytes = stranger(1400, SEGMENTS);
        let (header, frame) = bytes.split_first_chunk().unwrap();
        let offload = Virtio::parse(header).unwrap();
        let mut segments = shard::Segments::new(frame, &offload).unwrap();
        assert_eq!(segments.len(), SEGMENTS);
        while let Some((headers, payload)) = segments.next() {
            assert_eq!(headers.len() + payload.len(), 42 + 1400);
        }
    }
}
