//! The command line: what can be measured, and the options that all measurements share.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::Result;
use crate::rig::{Offload, RigOptions};
use crate::tunnel::Programs;

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
    /// What the kernel alone takes for UDP datagrams and TAP frames on this host: no tunnel can be faster
    Ceilings(crate::ceiling::Options),
    /// What one 1400-byte packet costs, stage by stage, next to a budget
    Stages(crate::ceiling::Options),
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

/// Runs the program with the process's own arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-harness: {e}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    // It measures nothing itself.
    if let Command::PlainForwarder(args) = &cli.command {
        return crate::tunnel::plain::forward(args);
    }
    lab::netns::check_privilege()?;
    lab::netns::sweep();
    lab::catch_signals()?;
    match &cli.command {
        Command::Throughput(options) => crate::throughput::run(options),
        Command::Ceilings(options) => crate::ceiling::run(options),
        Command::Stages(options) => crate::stages::run(options),
        Command::PlainForwarder(_) => Ok(()),
    }
}
