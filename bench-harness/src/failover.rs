//! `bench-harness failover`: what a stream of numbered datagrams loses while a root, an address, an interface or a NAT
//! mapping goes away. One datagram a millisecond each way; the ends say which came, when, and in which order.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failover_world::{Homes, OVERLAY, Setup, World};
use crate::record::Machine;
use crate::{Error, IoContext, Result, machine};

const PORT: u16 = 5700;
const BYTES: usize = 1000;
const EVERY: Duration = Duration::from_millis(1);
/// How long the stream runs before the failure, once every path is there.
const BEFORE: Duration = Duration::from_millis(3000);
/// Addresses are pushed once in 15 s.
const SECOND_LIMIT: Duration = Duration::from_secs(20);
/// What comes later than this after the last datagram was sent counts as lost.
const DRAIN: Duration = Duration::from_millis(300);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The best root is killed; the pair is direct
    RootDirect,
    /// The best root is killed; the pair is relayed by it
    RootRelayed,
    /// The best root is cut off silently; the pair is relayed by it
    RootCut,
    /// A's only address is replaced by another one
    Address,
    /// A's home router gets another external address
    NatAddress,
    /// A's home router forgets its mappings
    NatFlushed,
    /// The line of A's home router goes down and up
    NatRestarted,
    /// A's uplink loses its carrier; there is another one
    Carrier,
    /// A's uplink is deleted; there is another one
    Deleted,
    /// A's uplink swallows everything both ways; there is another one
    Swallowed,
    /// A's uplink swallows what A sends; there is another one
    SwallowedOut,
    /// The way between A and B swallows everything; the relay remains
    Blackhole,
    /// The way from A to B swallows everything; the relay remains
    BlackholeOneWay,
}

impl Case {
    fn setup(self) -> Setup {
        use Case::*;
        Setup {
            home: matches!(self, NatAddress | NatFlushed | NatRestarted),
            second: matches!(self, Carrier | Deleted | Swallowed | SwallowedOut),
            relayed: matches!(self, RootRelayed | RootCut),
        }
    }

    fn happen(self, world: &mut World) -> Result<()> {
        match self {
            Case::RootDirect | Case::RootRelayed => world.kill_best_root(),
            Case::RootCut => world.cut_best_root(),
            Case::Address => world.renumber(),
            Case::NatAddress => world.renumber_home(),
            Case::NatFlushed => world.flush_home(),
            Case::NatRestarted => world.restart_home(),
            Case::Carrier => world.carrier_down(),
            Case::Deleted => world.delete_uplink(),
            Case::Swallowed => world.cut("iifname a0").and_then(|()| world.cut("oifname a0")),
            Case::SwallowedOut => world.cut("iifname a0"),
            Case::Blackhole => world
                .cut("ip saddr 10.1.0.0/16 ip daddr 10.3.0.0/16")
                .and_then(|()| world.cut("ip saddr 10.3.0.0/16 ip daddr 10.1.0.0/16")),
            Case::BlackholeOneWay => world.cut("ip saddr 10.1.0.0/16 ip daddr 10.3.0.0/16"),
        }
    }

    fn about(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|v| v.get_help().map(ToString::to_string)).unwrap_or_default()
    }
}

/// The command line of this measurement.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The hawser program [default: the one beside this program, else target/release/hawser]
    #[arg(long, value_name = "PATH")]
    pub hawser: Option<PathBuf>,
    /// What goes wrong; several with commas [default: everything]
    #[arg(long = "case", value_enum, value_delimiter = ',')]
    pub cases: Vec<Case>,
    /// Runs of each, in a world of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Seconds of stream after it happened
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Another word for `hawser up` of A and B; repeatable
    #[arg(long = "up", value_name = "WORD", allow_hyphen_values = true)]
    pub up: Vec<String>,
    /// Save the result here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What became of one direction of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Direction {
    pub sent: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Longest time without an arrival after it happened, milliseconds.
    pub gap_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    a_to_b: Direction,
    b_to_a: Direction,
    /// When a gateway was last seen without a direct path, milliseconds after it happened; none if it has none.
    direct_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Row {
    case: String,
    about: String,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    command: Vec<String>,
    machine: Machine,
    rows: Vec<Row>,
}

/// What one end received: number and time since the start.
pub(crate) type Arrivals = Vec<(u64, Duration)>;

/// It happened at `from`, and the last datagram was sent at `until`.
pub(crate) fn judge(arrivals: &Arrivals, sent: u64, from: Duration, until: Duration) -> Direction {
    let mut seen = vec![false; sent as usize];
    let mut d = Direction { sent, ..Direction::default() };
    let (mut highest, mut last) = (0, None::<Duration>);
    for &(number, at) in arrivals {
        if let Some(last) = last.filter(|_| at >= from) {
            d.gap_ms = d.gap_ms.max((at.saturating_sub(last)).as_secs_f64() * 1e3);
        }
        last = Some(at);
        match seen.get_mut(number as usize) {
            Some(true) => d.duplicated += 1,
            Some(first) => {
                *first = true;
                d.reordered += u64::from(number < highest);
                highest = highest.max(number);
            }
            None => {}
        }
    }
    // Who never comes back is silent until the end.
    d.gap_ms = d.gap_ms.max(until.saturating_sub(last.unwrap_or(from)).as_secs_f64() * 1e3);
    d.lost = seen.iter().filter(|there| !**there).count() as u64;
    d
}

/// Sends a numbered datagram every millisecond until `done`.
pub(crate) fn send(socket: &UdpSocket, to: SocketAddr, sent: &AtomicU64, done: &AtomicBool) {
    let (start, mut datagram) = (Instant::now(), [0; BYTES]);
    while !done.load(Ordering::Acquire) {
        let number = sent.load(Ordering::Relaxed);
        let due = EVERY * number as u32;
        if let Some(early) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(early);
        }
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        // What the kernel refuses counts as sent and lost.
        let _ = socket.send_to(&datagram, to);
        sent.store(number + 1, Ordering::Release);
    }
}

pub(crate) fn receive(socket: &UdpSocket, start: Instant, done: &AtomicBool) -> Arrivals {
    let (mut arrivals, mut datagram) = (Vec::new(), [0; BYTES + 1]);
    while !done.load(Ordering::Acquire) {
        if let Ok((len, _)) = socket.recv_from(&mut datagram)
            && let Some(number) = datagram[..len].first_chunk()
        {
            arrivals.push((u64::from_le_bytes(*number), start.elapsed()));
        }
    }
    arrivals
}

fn one(homes: &Homes, case: Case, options: &Options) -> Result<Run> {
    let setup = case.setup();
    let mut world = World::start(homes, setup)?;
    let at = |i: usize| SocketAddr::new(OVERLAY[i].parse().expect("an address of the world"), PORT);
    let socket = |i: usize| {
        world.places[i].inside(|| {
            let socket = UdpSocket::bind(at(i)).doing("bind a stream's socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(20))).doing("set a time limit")?;
            Ok(socket)
        })
    };
    let sockets = [socket(0)?, socket(1)?];
    let (start, sent) = (Instant::now(), [AtomicU64::new(0), AtomicU64::new(0)]);
    let (silent, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        let receivers = [0, 1].map(|i| {
            let (socket, done) = (&sockets[i], &done);
            s.spawn(move || receive(socket, start, done))
        });
        for i in [0, 1] {
            let (socket, sent, silent) = (&sockets[i], &sent[i], &silent);
            s.spawn(move || send(socket, at(1 - i), sent, silent));
        }
        let mut fail = || -> Result<(Duration, Option<f64>)> {
            while setup.second && (world.paths(0)? < 2 || world.paths(1)? < 2) {
                if start.elapsed() > SECOND_LIMIT || lab::interrupted() {
                    return Err(Error::Unusable("the second uplink brought no second path".into()));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            std::thread::sleep(BEFORE);
            let from = start.elapsed();
            case.happen(&mut world)?;
            let (happened, mut without) = (Instant::now(), None);
            while happened.elapsed() < Duration::from_secs(options.seconds) && !lab::interrupted() {
                let together = setup.relayed || world.direct(0)? && world.direct(1)?;
                if !together {
                    without = Some(happened.elapsed());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let end = happened.elapsed();
            let ever = !setup.relayed && without.is_none_or(|at| at + Duration::from_millis(500) < end);
            Ok((from, ever.then(|| without.unwrap_or_default().as_secs_f64() * 1e3)))
        };
        let failed = fail();
        let until = start.elapsed();
        silent.store(true, Ordering::Release);
        std::thread::sleep(DRAIN);
        done.store(true, Ordering::Release);
        let arrivals = receivers.map(|r| r.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let (from, direct_ms) = failed?;
        let sent = [0, 1].map(|i| sent[i].load(Ordering::Acquire));
        let [a_to_b, b_to_a] = [(1, 0), (0, 1)].map(|(to, by)| judge(&arrivals[to], sent[by], from, until));
        Ok(Run { a_to_b, b_to_a, direct_ms })
    })
}

/// Runs the measurement.
pub fn run(options: &Options) -> Result<()> {
    let exe = crate::tunnel::hawser::program(options.hawser.as_deref())?;
    let homes = Homes::new(exe, options.up.clone())?;
    let cases = if options.cases.is_empty() { Case::value_variants() } else { &options.cases };
    let mut rows = Vec::new();
    println!(
        "| what happens | worst gap ms, median (most) | lost, median (most) | twice | out of order | direct again ms |"
    );
    println!("|---|---|---|---|---|---|");
    for &case in cases {
        let mut runs = Vec::new();
        for _ in 0..options.runs {
            match one(&homes, case, options) {
                Ok(run) => runs.push(run),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(e) => eprintln!("failed: {case:?}: {e}"),
            }
        }
        let row = Row { case: format!("{case:?}"), about: case.about(), runs };
        println!("{}", line(&row));
        rows.push(row);
    }
    let outcome = Outcome { command: std::env::args().skip(1).collect(), machine: machine::facts(), rows };
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&outcome).expect("plain data");
        std::fs::write(file, text).doing(format!("write {}", file.display()))?;
    }
    match outcome.rows.iter().all(|row| !row.runs.is_empty()) {
        true => Ok(()),
        false => Err(Error::Unusable("something could not be measured".into())),
    }
}

fn line(row: &Row) -> String {
    let of = |value: fn(&Run) -> Option<f64>| {
        let mut all: Vec<f64> = row.runs.iter().filter_map(value).collect();
        all.sort_by(f64::total_cmp);
        match all.as_slice() {
            [] => "-".to_owned(),
            all => format!("{:.0} ({:.0})", all[all.len() / 2], all[all.len() - 1]),
        }
    };
    format!(
        "| {} | {} | {} | {} | {} | {} |",
        row.about,
        of(|r| Some(r.a_to_b.gap_ms.max(r.b_to_a.gap_ms))),
        of(|r| Some(r.a_to_b.lost.max(r.b_to_a.lost) as f64)),
        of(|r| Some((r.a_to_b.duplicated + r.b_to_a.duplicated) as f64)),
        of(|r| Some((r.a_to_b.reordered + r.b_to_a.reordered) as f64)),
        of(|r| r.direct_ms),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_losses_repeats_and_overtakers_are_told_apart() {
        let ms = Duration::from_millis;
        let arrivals = vec![(0, ms(0)), (1, ms(500)), (3, ms(600)), (2, ms(601)), (2, ms(602)), (5, ms(900))];
        let d = judge(&arrivals, 7, ms(550), ms(950));
        assert_eq!((d.sent, d.lost, d.duplicated, d.reordered, d.gap_ms), (7, 2, 1, 1, 298.0));
        assert_eq!(judge(&arrivals, 7, ms(550), ms(4900)).gap_ms, 4000.0, "silent to the end");
        assert_eq!(judge(&Vec::new(), 7, ms(550), ms(1550)).gap_ms, 1000.0);
    }
}
