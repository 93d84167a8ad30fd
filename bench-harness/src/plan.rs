//! What is measured with what, in which order: contestants take turns within each repetition, so that the machine's mood
//! hits all of them alike. The result is a list of cells.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lab::measure::UdpPlan;

use crate::cli::Shared;
use crate::load::{self, Bed, Load, Traffic, Ways};
use crate::record::{self, Better, Cell, Run};
use crate::rig::RigOptions;
use crate::tunnel::Tunnel;
use crate::{Error, Result};

/// A tunnel on a kind of rig.
pub struct Contestant {
    /// As tables call it: the tunnel's name and how it differs from its defaults.
    pub label: String,
    /// The tunnel.
    pub tunnel: Box<dyn Tunnel>,
    /// The rig.
    pub rig: RigOptions,
}

impl Contestant {
    /// What a fair comparison has in common, by name.
    fn setup(&self) -> BTreeMap<String, String> {
        let RigOptions { offload, lan_mtu, wan_mtu, cores } = &self.rig;
        let list = |cores: &[usize]| match cores {
            [] => "all".to_owned(),
            some => some.iter().map(usize::to_string).collect::<Vec<_>>().join("+"),
        };
        BTreeMap::from([
            ("offload".to_owned(), offload.to_string()),
            ("lan_mtu".to_owned(), lan_mtu.to_string()),
            ("wan_mtu".to_owned(), wan_mtu.to_string()),
            ("cores".to_owned(), format!("{} and {}", list(&cores[0]), list(&cores[1]))),
        ])
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// How much arrives: Gbit/s of TCP payload, datagrams per second of UDP.
    Rate(Load),
    /// The median round trip, all percentiles beside it.
    Ping(Load),
    /// CPU time of both daemons for each datagram of a thin stream.
    Lone(Load),
    /// The highest datagram rate without loss.
    Lossless(UdpPlan, Ways),
    /// Twice that rate for a while: the time until nothing of a thin stream is lost any more.
    Overload(UdpPlan),
}

impl Job {
    /// Measures it.
    pub fn run(&self, bed: &Bed, window: Duration) -> Result<(f64, Run)> {
        match *self {
            Job::Rate(load) => {
                let run = load::run(bed, load, window)?;
                let rate = match load.traffic {
                    Traffic::Udp(_) => run.packets as f64 / run.seconds,
                    _ => run.bytes as f64 * 8e-9 / run.seconds,
                };
                if rate > 0.0 { Ok((rate, run)) } else { Err(Error::Unusable("nothing arrived".into())) }
            }
            Job::Ping(load) => {
                let run = load::run(bed, load, window)?;
                match run.latency {
                    Some(latency) if latency.count > 0 => Ok((latency.p50_us / 1e3, run)),
                    _ => Err(Error::Unusable("no ping was answered".into())),
                }
            }
            Job::Lone(load) => {
                let run = load::run(bed, load, window)?;
                let cpu = run.cpu_us_per_packet().ok_or_else(|| Error::Unusable("nothing arrived".into()))?;
                Ok((cpu, run))
            }
            Job::Lossless(plan, ways) => load::lossless(bed, plan, ways, window.min(Duration::from_secs(2))),
            Job::Overload(plan) => {
                let (rate, _) = load::lossless(bed, plan, Ways::One, Duration::from_secs(1))?;
                load::overload(bed, plan, rate)
            }
        }
    }

    /// It means something for this tunnel.
    fn applies(&self, bed: &Bed) -> bool {
        let no_daemons = || bed.running().pids().iter().all(Vec::is_empty);
        !matches!(self, Job::Lone(_) | Job::Overload(_)) || !no_daemons()
    }

    /// An empty cell for it.
    pub(crate) fn cell(&self, contestant: &Contestant) -> Cell {
        let udp = |plan: &UdpPlan, ways: &Ways| Load { ways: *ways, ..Load::new(Traffic::Udp(*plan)) }.to_string();
        let (load, metric, unit, better) = match self {
            Job::Rate(load) => match load.traffic {
                Traffic::Udp(_) => (load.to_string(), "delivered", "packets/s", Better::Higher),
                _ => (load.to_string(), "rate", "Gbit/s", Better::Higher),
            },
            Job::Ping(load) => (load.to_string(), "ping p50", "ms", Better::Lower),
            Job::Lone(load) => (load.to_string(), "CPU per packet", "us", Better::Lower),
            Job::Lossless(plan, ways) => (udp(plan, ways), "without loss", "packets/s", Better::Higher),
            Job::Overload(plan) => (udp(plan, &Ways::One), "recovery after overload", "ms", Better::Lower),
        };
        Cell::new(&contestant.label, contestant.setup(), &load, metric, unit, better)
    }
}

/// What a plan brought.
pub struct Outcome {
    /// What was measured.
    pub cells: Vec<Cell>,
    /// Version and settings of each contestant, by label.
    pub tunnels: BTreeMap<String, String>,
}

/// Everything that one command measures.
pub struct Plan {
    /// With what.
    pub contestants: Vec<Contestant>,
    /// What, in this order.
    pub jobs: Vec<Job>,
    /// How often.
    pub repeat: u32,
    /// How long each.
    pub window: Duration,
    /// Without progress on the terminal.
    pub quiet: bool,
    /// All contestants are up at the same time and take turns job by job, not one after the other with all jobs: closer in
    /// time, at the price of idle daemons beside the measured ones.
    pub side_by_side: bool,
    /// Where the result will be saved: that this is possible is better known before.
    pub saved_as: Option<PathBuf>,
}

impl Plan {
    /// An empty plan with the shared options.
    pub fn new(shared: &Shared) -> Plan {
        Plan {
            contestants: vec![],
            jobs: vec![],
            repeat: shared.repetitions(),
            window: shared.window(),
            quiet: shared.quiet,
            side_by_side: false,
            saved_as: shared.json.clone(),
        }
    }

    /// Adds a contestant.
    pub fn enter(&mut self, label: &str, tunnel: Box<dyn Tunnel>, rig: RigOptions) {
        self.contestants.push(Contestant { label: label.to_owned(), tunnel, rig });
    }

    /// Measures everything. What fails is written into its cell; only an interruption ends it early.
    pub fn run(&self) -> Result<Outcome> {
        if self.jobs.is_empty() || self.contestants.is_empty() {
            return Err(Error::Unusable("nothing to measure: every tunnel or every load was switched off".into()));
        }
        self.saved_as.as_deref().map_or(Ok(()), record::check_writable)?;
        // Cells of one job stand together: that is how tables are read.
        let (n, jobs) = (self.contestants.len(), self.jobs.len());
        let mut cells: Vec<Cell> =
            self.jobs.iter().flat_map(|job| self.contestants.iter().map(|c| job.cell(c))).collect();
        let bar = if self.quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(u64::from(self.repeat) * (n * jobs) as u64)
        };
        bar.set_style(
            ProgressStyle::with_template("[{elapsed_precise}, {eta} left] {bar:30} {pos}/{len} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(250));
        for repetition in 0..self.repeat {
            // Another one begins each time.
            let order: Vec<usize> = (0..n).map(|turn| (turn + repetition as usize) % n).collect();
            for together in order.chunks(if self.side_by_side { n } else { 1 }) {
                let start = |&index: &usize| {
                    let contestant = &self.contestants[index];
                    bar.set_message(format!("starting {}", contestant.label));
                    (index, Bed::start(&*contestant.tunnel, contestant.rig.clone()))
                };
                let beds: Vec<_> = together.iter().map(start).collect();
                let turns = self.jobs.iter().enumerate().flat_map(|job| beds.iter().map(move |bed| (job, bed)));
                for ((j, job), (index, bed)) in turns {
                    let (index, contestant) = (*index, &self.contestants[*index]);
                    if lab::interrupted() {
                        return Err(Error::Interrupted);
                    }
                    let cell = &mut cells[j * n + index];
                    bar.set_message(format!("{}: {}, {}", contestant.label, cell.load, cell.metric));
                    if bed.as_ref().is_ok_and(|bed| !job.applies(bed)) {
                        bar.inc(1);
                        continue;
                    }
                    let result = match bed {
                        Ok(bed) => job.run(bed, self.window),
                        Err(e) => Err(Error::Unusable(format!("did not start: {e}"))),
                    };
                    match result {
                        Ok((value, run)) => {
                            cell.repetitions.push(value);
                            cell.runs.push(Run { repetition, ..run });
                        }
                        Err(Error::Interrupted) => return Err(Error::Interrupted),
                        Err(e) => cell.failures.push(format!("repetition {}: {e}", repetition + 1)),
                    }
                    bar.inc(1);
                }
            }
        }
        bar.finish_and_clear();
        cells.retain(|cell| !(cell.repetitions.is_empty() && cell.failures.is_empty()));
        let tunnels = self.contestants.iter().map(|c| (c.label.clone(), c.tunnel.about())).collect();
        Ok(Outcome { cells, tunnels })
    }
}
