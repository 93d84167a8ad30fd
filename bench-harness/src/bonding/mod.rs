//! `bench-harness bonding`: several lines as one. Two gateways behind which a LAN host each stands are joined by lines with
//! rates, delays and losses of their own; measured is what gets through, what a failing line costs, and how shares follow.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use crate::record::Machine;
use crate::tunnel::Tunnel;
use crate::tunnel::hawser::{self, Hawser};
use crate::tunnel::reference::Core;
use crate::{Error, IoContext, Result, machine};

pub mod failover;
pub mod links;
pub mod quality;
pub mod throughput;
pub mod traffic;

use links::{Cut, Line, World};
use quality::Decline;

/// What bonds at the far end, gateway B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Far {
    /// Hawser without bonding: like any peer that knows nothing of it
    Plain,
    /// Hawser with the same policy as A
    Bonded,
    /// The real ZeroTier core, without bonding: only a stream, no TCP
    Core,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// TCP over 40 Mbit/s 10 ms + 10 Mbit/s 30 ms
    U,
    /// TCP over twice 25 Mbit/s 10 ms
    E,
    /// TCP over twice 200 Mbit/s 10 ms
    #[value(name = "2x200")]
    Two200,
    /// TCP over 200 + 100 Mbit/s 10 ms
    #[value(name = "200+100")]
    Two100,
    /// TCP over 300 Mbit/s 10 ms + 80 Mbit/s 30 ms
    #[value(name = "300+80")]
    Far80,
    /// TCP over four of 100 Mbit/s 10 ms
    #[value(name = "4x100")]
    Four100,
    /// TCP over the lines of --links
    Links,
    /// A stream while the line in use fails
    Failover,
    /// Shares while a line gets worse
    Quality,
    /// A stream over all lines while one loses 30 %
    Broadcast,
    /// What an idle peer costs
    Idle,
}

/// A bonding policy by its name; `none`: no bonding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(String);

impl Policy {
    /// The standard ones, no bonding first.
    pub const ALL: [&str; 6] = ["none", "active-backup", "broadcast", "balance-rr", "balance-xor", "balance-aware"];

    /// No bonding.
    pub fn none() -> Policy {
        Policy("none".into())
    }

    /// There is bonding.
    pub fn bonds(&self) -> bool {
        self.0 != "none"
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The command line of this measurement.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The hawser program [default: the one beside this program, else target/release/hawser]
    #[arg(long, value_name = "PATH")]
    pub hawser: Option<PathBuf>,
    /// What to measure; several with commas [default: everything but `links`]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Bonding policies of A, standard ones or such as --settings brings; several with commas [default: by measurement]
    #[arg(long = "policy", value_name = "NAME", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// The far end
    #[arg(long, value_enum, default_value_t = Far::Plain)]
    pub far: Far,
    /// Repetitions; failures of the line [default: 1 of TCP, 5 failures]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: Option<u32>,
    /// Seconds of each TCP measurement (6), of a failure (2.5), of a decline (20), of broadcast (10), of idleness (60)
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<f64>,
    /// TCP flows; several numbers with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8], value_parser = flows)]
    pub flows: Vec<usize>,
    /// Lines of failover, quality, broadcast, idle, links: RATE/DELAY[/JITTER[/LOSS]] in Mbit/s, ms, ms, percent, with commas
    #[arg(long, value_delimiter = ',', default_values = ["25/10", "25/10"])]
    pub links: Vec<Line>,
    /// Milliseconds that a frame waits in the buffer of a line at most
    #[arg(long, default_value_t = 50.0, value_parser = milliseconds)]
    pub buffer: f64,
    /// Milliseconds of jitter on every line
    #[arg(long, default_value_t = 0.0, value_parser = milliseconds)]
    pub jitter: f64,
    /// Percent of frames lost on every line
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub loss: f64,
    /// How the line in use fails; several with commas [default: in every way]
    #[arg(long = "cut", value_enum, value_delimiter = ',')]
    pub cuts: Vec<Cut>,
    /// How a line gets worse; several with commas [default: in every way]
    #[arg(long = "decline", value_enum, value_delimiter = ',')]
    pub declines: Vec<Decline>,
    /// More `settings` of A's local.conf, e.g. '{"policies": ...}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub settings: Option<Value>,
    /// More `settings` of B's local.conf
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub far_settings: Option<Value>,
    /// Another word for `hawser up` of A; repeatable
    #[arg(long = "up", value_name = "WORD", allow_hyphen_values = true)]
    pub up: Vec<String>,
    /// Another word for `hawser up` of B; repeatable
    #[arg(long = "far-up", value_name = "WORD", allow_hyphen_values = true)]
    pub far_up: Vec<String>,
    /// Seconds between the last path found and the first measurement, for a bond to know its links
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub settle: f64,
    /// Save the result here
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Put plots into this folder
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    /// No progress
    #[arg(long)]
    pub quiet: bool,
    #[arg(skip)]
    kept: std::rc::Rc<std::cell::RefCell<Option<Hawser>>>,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|s| (0.2..=3600.0).contains(s)).ok_or_else(|| "0.2 to 3600 seconds".into())
}

fn milliseconds(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|ms| (0.0..=10_000.0).contains(ms)).ok_or_else(|| "0 to 10000 ms".into())
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|p| (0.0..=100.0).contains(p)).ok_or_else(|| "0 to 100".into())
}

fn flows(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| "1 to 64".into())
}

fn object(text: &str) -> std::result::Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("a JSON object is wanted".into()),
        Err(e) => Err(e.to_string()),
    }
}

impl Options {
    /// The line with what was asked of every line.
    fn adjusted(&self, line: Line) -> Line {
        let (jitter, loss) = (line.jitter.max(self.jitter), line.loss.max(self.loss / 100.0));
        Line { buffer: self.buffer, jitter, loss, ..line }
    }

    fn runs(&self, usual: u32) -> u32 {
        self.runs.unwrap_or(usual)
    }

    fn window(&self, usual: f64) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(usual))
    }

    fn policies(&self, usual: &[&str]) -> Vec<Policy> {
        match self.policy.as_slice() {
            [] => usual.iter().map(|name| Policy((*name).to_owned())).collect(),
            asked => asked.iter().cloned().map(Policy).collect(),
        }
    }

    fn cuts(&self) -> Vec<Cut> {
        if self.cuts.is_empty() { Cut::value_variants().to_vec() } else { self.cuts.clone() }
    }

    fn declines(&self) -> Vec<Decline> {
        if self.declines.is_empty() { Decline::value_variants().to_vec() } else { self.declines.clone() }
    }

    fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }

    /// The gateways at work over these lines, A bonding by this policy; a bond has had time to know its links.
    fn world(&self, policy: &Policy, lines: &[Line]) -> Result<World> {
        let world = World::start(&*self.tunnel(policy, lines.len())?, lines, !policy.bonds())?;
        self.say(&format!("  every path after {:.1} s", world.paths_after.as_secs_f64()));
        if policy.bonds() {
            crate::load::pause(Duration::from_secs_f64(self.settle));
        }
        Ok(world)
    }

    /// Hawser at both ends, bonding by this policy at A. The same identities every time.
    fn tunnel(&self, policy: &Policy, lines: usize) -> Result<Box<dyn Tunnel>> {
        let mut kept = self.kept.borrow_mut();
        if kept.is_none() {
            *kept = Some(Hawser::new(hawser::program(self.hawser.as_deref())?));
        }
        let mut tunnel = kept.clone().expect("just made");
        let settings = |more: &Option<Value>, bonds: bool| {
            let mut all = more.clone().unwrap_or_else(|| json!({}));
            if bonds {
                all["defaultBondingPolicy"] = policy.to_string().into();
            }
            all
        };
        if policy.bonds() {
            tunnel.settings = [settings(&self.settings, true), settings(&self.far_settings, self.far == Far::Bonded)];
            tunnel.up = [self.up.clone(), self.far_up.clone()];
        }
        if self.far == Far::Core {
            return Ok(Box::new(Core { near: tunnel, bind: links::binds(lines), words: self.far_up.clone() }));
        }
        Ok(Box::new(tunnel))
    }
}

/// What is saved.
#[derive(Debug, Default, Serialize)]
struct Saved {
    command: Vec<String>,
    begun_unix_s: u64,
    machine: Machine,
    hawser: String,
    far: String,
    tcp: Vec<throughput::Outcome>,
    failover: Vec<failover::Outcome>,
    quality: Vec<quality::Outcome>,
    broadcast: Vec<quality::Broadcast>,
    idle: Vec<quality::Idle>,
    failures: Vec<String>,
}

/// Measures, prints, saves.
pub fn run(options: &Options) -> Result<()> {
    links::check()?;
    // Threads and daemons started from here on go before other work of this host, where that is permitted.
    let _ = lab::netns::run("renice", &["-n", "-10", "-p", &std::process::id().to_string()]);
    let parts: Vec<Part> = match options.only.as_slice() {
        [] => Part::value_variants().iter().copied().filter(|part| *part != Part::Links).collect(),
        asked => asked.to_vec(),
    };
    let begun = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let mut saved = Saved {
        command: std::env::args().skip(1).collect(),
        begun_unix_s: begun.map_or(0, |since| since.as_secs()),
        machine: machine::facts(),
        hawser: options.tunnel(&Policy::none(), 0)?.about(),
        far: format!("{:?}", options.far).to_lowercase(),
        ..Saved::default()
    };
    for part in parts {
        // What was measured before is kept, whatever happens to this one.
        if let Err(e) = measure(options, part, &mut saved) {
            saved.failures.push(format!("{part:?}: {e}"));
        }
        if lab::interrupted() {
            break;
        }
    }
    saved.failures.iter().for_each(|failure| eprintln!("failed: {failure}"));
    if let Some(file) = &options.out {
        let text = serde_json::to_string_pretty(&saved).expect("plain data");
        std::fs::write(file, text + "\n").doing(format!("write {}", file.display()))?;
    }
    if let Some(folder) = &options.plots {
        plots(options, folder, &saved)?;
    }
    match saved.failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Unusable("something could not be measured".into())),
    }
}

fn measure(options: &Options, part: Part, saved: &mut Saved) -> Result<()> {
    let lines: Vec<Line> = options.links.iter().map(|line| options.adjusted(*line)).collect();
    match part {
        Part::Failover => {
            println!("{}", failover::head());
            let outcomes = failover::measure(options, &lines)?;
            saved.failures.extend(outcomes.iter().flat_map(|o| o.failures().to_vec()));
            saved.failover.extend(outcomes);
        }
        Part::Quality => {
            let outcomes = quality::measure(options, &lines, &mut saved.failures)?;
            println!("{}", quality::table(&outcomes));
            saved.quality.extend(outcomes);
        }
        Part::Broadcast => {
            let outcomes = quality::broadcast(options, &lines)?;
            println!("{}", quality::broadcast_table(&outcomes));
            saved.broadcast.extend(outcomes);
        }
        Part::Idle => {
            let outcomes = quality::idle(options, &lines)?;
            println!("{}", quality::idle_table(&outcomes));
            saved.idle.extend(outcomes);
        }
        tcp => {
            let name = tcp.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
            let known = throughput::SCENARIOS.iter().find(|scenario| scenario.name == name);
            let outcome = throughput::measure(options, &name, known.map_or(&lines, |scenario| scenario.lines))?;
            println!("{}", outcome.table(&options.flows));
            saved.failures.extend(outcome.failures().to_vec());
            saved.tcp.push(outcome);
        }
    }
    Ok(())
}

fn plots(options: &Options, folder: &Path, saved: &Saved) -> Result<()> {
    std::fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
    let save = |name: String, svg: String| {
        let file = folder.join(format!("bonding-{name}.svg"));
        std::fs::write(&file, svg).doing(format!("write {}", file.display()))
    };
    for &flows in &options.flows {
        if let Some(svg) = throughput::plot(&saved.tcp, flows) {
            save(format!("tcp-{flows}"), svg)?;
        }
    }
    if let Some(svg) = failover::plot(&saved.failover) {
        save("failover".into(), svg)?;
    }
    quality::plots(&saved.quality).into_iter().try_for_each(|(kind, svg)| save(format!("quality-{kind}"), svg))
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[sorted.len() / 2 - 1] + upper) / 2.0 } else { *upper })
}

/// The nearest rank of sorted values.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (median(&values), percentile(&values, 0.99), percentile(&values, 1.0)),
            (Some(50.5), Some(99.0), Some(100.0))
        );
        assert_eq!((median(&[3.0]), percentile(&[3.0], 0.99)), (Some(3.0), Some(3.0)));
        assert_eq!((median(&[]), percentile(&[], 0.99)), (None, None));
    }

    #[test]
    fn every_set_of_lines_is_a_part_that_can_be_asked_for() {
        let parts: Vec<String> =
            Part::value_variants().iter().filter_map(|p| Some(p.to_possible_value()?.get_name().to_owned())).collect();
        assert!(throughput::SCENARIOS.iter().all(|scenario| parts.contains(&scenario.name.to_owned())));
    }
}
