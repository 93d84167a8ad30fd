//! The command line: what can be measured, and the options that all measurements share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::plan::Outcome;
use crate::record::{FORMAT, Record};
use crate::rig::{Offload, RigOptions};
use crate::tunnel::Programs;
use crate::{Error, Result, machine, table};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "bench-harness", version, about = "Measures what this host carries through Hawser and other tunnels")]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How much gets through, and what it costs
    Throughput(crate::throughput::Options),
    /// Round trips, idle and beside a TCP stream, and what a lone packet costs
    Latency(crate::latency::Options),
    /// What more packet threads bring, and whether they keep segments in order
    Scale(crate::scale::Options),
    /// Hawser and the other tunnels of this host side by side, and the ratios between them
    Compare(crate::compare::Options),
    /// What the kernel alone takes for UDP datagrams and TAP frames on this host: no tunnel can be faster
    Ceilings(crate::ceiling::Options),
    /// What one 1400-byte packet costs, stage by stage, next to a budget
    Stages(crate::ceiling::Options),
    /// What a stream loses while a root, an address, an interface or a NAT mapping goes away
    Failover(crate::failover::Options),
    /// Several links as one: rates, failover, and how shares follow the links, over impaired lines
    Bonding(crate::bonding::Options),
    /// Every pair of NAT routers: who goes direct and how soon, simulated and through the kernel's NAT
    Nat(crate::nat::Options),
    /// Makes one page of a saved result, and compares it with an older one
    Report(crate::report::Options),
    /// One end of the tunnel without a cipher
    #[command(name = crate::tunnel::plain::FORWARDER, hide = true)]
    PlainForwarder(crate::tunnel::plain::ForwarderArgs),
}

/// Options of everything that measures.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// The hawser program [default: the one beside this program, else target/release/hawser]
    #[arg(long, value_name = "PATH")]
    pub hawser: Option<PathBuf>,
    /// Where another program is, e.g. nebula=/opt/nebula; repeatable [default: the search path]
    #[arg(long = "program", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub programs: Vec<(String, PathBuf)>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    pub seconds: f64,
    /// Repetitions; what is compared is measured side by side within each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Save the result here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What the wire between the gateways does with super-packets; repeatable with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Offload::Hw])]
    pub offload: Vec<Offload>,
    /// MTU of the LANs; several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1500], value_parser = clap::value_parser!(u32).range(1280..=9000))]
    pub lan_mtu: Vec<u32>,
    /// MTU of the wire between the gateways
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub wan_mtu: u32,
    /// Cores of gateway A and its LAN host, with commas; `all` for no pinning [default: 0]
    #[arg(long, value_name = "CORES", value_parser = cores)]
    pub cores_a: Option<Cores>,
    /// Cores of gateway B and its LAN host [default: 1]
    #[arg(long, value_name = "CORES", value_parser = cores)]
    pub cores_b: Option<Cores>,
    /// Few and short measurements, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// No progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// A list of cores; empty: all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

fn cores(text: &str) -> std::result::Result<Cores, String> {
    if text == "all" {
        return Ok(Cores(vec![]));
    }
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    let one = |word: &str| match word.trim().parse::<usize>() {
        Ok(core) if core < there => Ok(core),
        Ok(core) => Err(format!("there is no core {core}: this host has 0 to {}", there - 1)),
        Err(_) => Err(format!("{word:?} is neither a core nor `all`")),
    };
    text.split(',').map(one).collect::<std::result::Result<_, _>>().map(Cores)
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.2..=3600.0).contains(&s) => Ok(s),
        _ => Err("0.2 to 3600 seconds".into()),
    }
}

fn name_and_path(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("NAME=PATH".into()),
    }
}

impl Shared {
    /// The programs the user named.
    pub fn programs(&self) -> Programs {
        Programs { given: self.programs.iter().cloned().collect() }
    }

    /// Every combination of offload model and LAN MTU.
    pub fn rigs(&self) -> Vec<(Offload, u32)> {
        self.offload.iter().flat_map(|&offload| self.lan_mtu.iter().map(move |&mtu| (offload, mtu))).collect()
    }

    /// How often each measurement is repeated.
    pub fn repetitions(&self) -> u32 {
        if self.quick { 1 } else { self.repeat }
    }

    /// How long each measurement takes, beside its warm-up.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { self.seconds.min(1.0) } else { self.seconds })
    }

    /// The rig for one offload model and LAN MTU.
    pub fn rig(&self, offload: Offload, lan_mtu: u32) -> RigOptions {
        let mut options = RigOptions { offload, lan_mtu, wan_mtu: self.wan_mtu, ..RigOptions::default() };
        for (to, from) in options.cores.iter_mut().zip([&self.cores_a, &self.cores_b]) {
            if let Some(Cores(cores)) = from {
                to.clone_from(cores);
            }
        }
        options
    }
}

/// Makes the record of what was measured, saves it if that was asked for, and prints the table. `notes` go beside those
/// that hold for every measurement.
pub fn conclude(shared: &Shared, outcome: Outcome, notes: Vec<String>) -> Result<()> {
    let Outcome { cells, tunnels } = outcome;
    let mut record = Record {
        format: FORMAT,
        command: std::env::args().skip(1).collect(),
        begun_unix_s: BEGUN.get().copied().unwrap_or_default(),
        machine: machine::facts(),
        options: asked(),
        tunnels,
        cells,
        notes,
    };
    if let Some(why) = &record.machine.no_perf_events {
        record.notes.push(format!("cycles and instructions per packet are not counted here: {why}"));
    }
    println!("{}", table::of(&record.cells));
    record.notes.iter().for_each(|note| println!("{note}"));
    table::overloads(&record.cells).iter().for_each(|line| println!("{line}"));
    let failures = table::failures(&record.cells);
    failures.iter().for_each(|failure| eprintln!("failed: {failure}"));
    if let Some(file) = &shared.json {
        record.save(file)?;
        println!("saved as {}", file.display());
    }
    match record.cells.iter().any(|cell| !cell.repetitions.is_empty()) {
        true => Ok(()),
        false => Err(Error::Unusable("nothing could be measured".into())),
    }
}

static BEGUN: OnceLock<u64> = OnceLock::new();

/// What the process was asked for, defaults included, by option name.
fn asked() -> BTreeMap<String, String> {
    let matches = Cli::command().get_matches();
    let Some((command, matches)) = matches.subcommand() else { return BTreeMap::new() };
    let value = |id: &clap::Id| {
        let raw = matches.try_get_raw(id.as_str()).ok().flatten()?;
        Some((id.to_string(), raw.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(",")))
    };
    [("command".to_owned(), command.to_owned())].into_iter().chain(matches.ids().filter_map(value)).collect()
}

/// Runs the program with the process's own arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let _ = BEGUN.set(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-harness: {e}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::PlainForwarder(args) => return crate::tunnel::plain::forward(args),
        Command::Report(options) => return crate::report::run(options),
        Command::Nat(options) => return crate::nat::run(options),
        _ => {}
    }
    lab::netns::check_privilege()?;
    lab::netns::sweep();
    lab::catch_signals()?;
    match &cli.command {
        Command::Throughput(options) => crate::throughput::run(options),
        Command::Latency(options) => crate::latency::run(options),
        Command::Scale(options) => crate::scale::run(options),
        Command::Compare(options) => crate::compare::run(options),
        Command::Ceilings(options) => crate::ceiling::run(options),
        Command::Stages(options) => crate::stages::run(options),
        Command::Failover(options) => crate::failover::run(options),
        Command::Bonding(options) => crate::bonding::run(options),
        Command::PlainForwarder(_) | Command::Nat(_) | Command::Report(_) => Ok(()),
    }
}
