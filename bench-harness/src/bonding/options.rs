//! The command line of `bench-harness bonding`, and what follows from it: which policies, lines and times, and the world that
//! a measurement runs in. It knows no measurement.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::decline::Decline;
use super::links::{self, Cut, Line, World};
use crate::Result;
use crate::tunnel::Tunnel;
use crate::tunnel::hawser::{self, Hawser};
use crate::tunnel::reference::Core;

/// What bonds at the far end, gateway B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Far {
    /// Hawser without bonding: it answers where our data comes from, as only Hawser does
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

    /// It is this one.
    pub fn is(&self, name: &str) -> bool {
        self.0 == name
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
    /// Seconds of each TCP measurement (5), of a failure (1.5), of a decline (20), of broadcast (10), of idleness (60)
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
    /// Congestion control of the hosts' TCP, such as cubic or bbr [default: the machine's]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
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
    pub(super) kept: std::rc::Rc<std::cell::RefCell<Option<Hawser>>>,
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
    pub(super) fn adjusted(&self, line: Line) -> Line {
        let (jitter, loss) = (line.jitter.max(self.jitter), line.loss.max(self.loss / 100.0));
        Line { buffer: self.buffer, jitter, loss, ..line }
    }

    /// How often, unless said otherwise.
    pub(super) fn runs(&self, usual: u32) -> u32 {
        self.runs.unwrap_or(usual)
    }

    /// Seconds, unless said otherwise.
    pub(super) fn window(&self, usual: f64) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(usual))
    }

    /// Those asked for, else these.
    pub(super) fn policies(&self, usual: &[&str]) -> Vec<Policy> {
        match self.policy.as_slice() {
            [] => usual.iter().map(|name| Policy((*name).to_owned())).collect(),
            asked => asked.iter().cloned().map(Policy).collect(),
        }
    }

    /// Those asked for, else all.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        if self.cuts.is_empty() { Cut::value_variants().to_vec() } else { self.cuts.clone() }
    }

    /// Those asked for, else all.
    pub(super) fn declines(&self) -> Vec<Decline> {
        if self.declines.is_empty() { Decline::value_variants().to_vec() } else { self.declines.clone() }
    }

    /// By its name.
    pub(super) fn congestion(&self) -> String {
        self.congestion.clone().unwrap_or_else(links::usual_congestion)
    }

    /// Tells how far it is.
    pub(super) fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }

    /// The gateways at work over these lines, A bonding by this policy; a bond has had time to know its links.
    pub(super) fn world(&self, policy: &Policy, lines: &[Line]) -> Result<World> {
        let tunnel = self.tunnel(policy, lines.len())?;
        let world = World::start(&*tunnel, lines, !policy.bonds(), self.congestion.clone())?;
        self.say(&format!("  every path after {:.1} s", world.paths_after.as_secs_f64()));
        if policy.bonds() {
            crate::load::pause(Duration::from_secs_f64(self.settle));
        }
        Ok(world)
    }

    /// Hawser at both ends, bonding by this policy at A. The same identities every time.
    pub(super) fn tunnel(&self, policy: &Policy, lines: usize) -> Result<Box<dyn Tunnel>> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn read(words: &[&str]) -> std::result::Result<Options, String> {
        let words = ["bonding"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| cli.options).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_said_is_the_usual_and_lists_have_commas() {
        let usual = read(&[]).unwrap();
        assert_eq!((usual.runs(5), usual.window(1.5), usual.cuts().len()), (5, Duration::from_millis(1500), 7));
        assert_eq!(usual.congestion(), links::usual_congestion());
        let said = "--only u,300+80,failover --policy none,balance-aware --runs 100 --seconds 2 --cut blackhole,out \
                    --decline rate --congestion cubic --loss 1";
        let said = read(&said.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(said.only, [Part::U, Part::Far80, Part::Failover]);
        assert_eq!(said.policies(&["none"]), ["none", "balance-aware"].map(|name| Policy(name.into())));
        assert_eq!((said.runs(5), said.window(1.5), said.congestion()), (100, Duration::from_secs(2), "cubic".into()));
        assert_eq!((said.cuts(), said.declines()), (vec![Cut::Blackhole, Cut::Out], vec![Decline::Rate]));
        assert_eq!(said.adjusted(Line::new(25.0, 10.0)), Line { loss: 0.01, ..Line::new(25.0, 10.0) });
    }

    #[test]
    fn absurd_numbers_and_unknown_words_are_refused() {
        for wrong in ["--runs 0", "--runs 1001", "--seconds 0", "--flows 65", "--cut up", "--decline x", "--settings 1"]
        {
            assert!(read(&wrong.split(' ').collect::<Vec<_>>()).is_err(), "{wrong}");
        }
    }
}
