//! `nat`: every pair of routers, who goes direct and how soon. In `sim`, seeded and in virtual time, and through the
//! kernel's own NAT with daemons, with each other and with the real ZeroTier core; beside it what ZeroTierOne does.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use lab::meeting::{Core, Meeting, Planet, Side};
use lab::nat::Kind;
use serde::{Deserialize, Serialize};
use sim::meeting::Behind;
use sim::{Link, NatKind, Ports, Unsolicited};

use crate::machine;
use crate::record::{Machine, median};
use crate::{Error, IoContext, Result};

/// Runs of each pair in `sim`, and of each pair and placement through the kernel, unless told otherwise.
const SIM_RUNS: u32 = 20;
const REAL_RUNS: u32 = 3;
/// Ways of the simulated internet take as long as this and up to [`JITTER_US`] longer.
const DELAY_MS: u64 = 10;
const JITTER_US: u64 = 5000;

/// `nat`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only a part [default: all]
    #[arg(long, value_enum)]
    pub only: Option<Part>,
    /// Runs of each pair [default: 20 in sim; 3 through the kernel, of each placement of the programs]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: Option<u32>,
    /// Pairs with this kind of router, or one pair, KIND/KIND; repeatable. Kinds: public, full-cone, address-restricted,
    /// port-restricted, answering, symmetric-in-sequence, symmetric-at-random, carrier
    #[arg(long = "pair", value_name = "KIND[/KIND]", value_parser = wanted)]
    pub pairs: Vec<Wanted>,
    /// Save all runs here; what the file has of other pairs stays and is printed too
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How long a pair behind the kernel's NAT may take to go direct; seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub limit: u64,
    /// Worlds at a time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub worlds: u8,
    /// The hawser program [default: the one beside this program, else target/release/hawser]
    #[arg(long, value_name = "PATH")]
    pub hawser: Option<PathBuf>,
    /// No progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// Which world, and who in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Hawser on both sides, simulated, in virtual time
    Sim,
    /// Hawser on one side or both, behind the kernel's NAT
    Real,
    /// The real ZeroTier core on both sides, behind the kernel's NAT
    Zerotier,
}

/// One or two words of `--pair`.
#[derive(Clone, Debug)]
pub struct Wanted(Vec<String>);

fn wanted(text: &str) -> std::result::Result<Wanted, String> {
    let words: Vec<String> = text.split('/').map(str::to_owned).collect();
    let known: Vec<String> = Kind::ALL.map(slug).into_iter().chain(["carrier".to_owned()]).collect();
    match words.iter().find(|word| !known.contains(word)) {
        Some(word) => Err(format!("{word:?} is none of {}", known.join(", "))),
        None if words.len() > 2 => Err("KIND or KIND/KIND".into()),
        None => Ok(Wanted(words)),
    }
}

fn slug(kind: Kind) -> String {
    kind.name().replace(", ", "-").replace(' ', "-")
}

/// Two kinds of routers, in the order of [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    /// Both homes are behind one carrier's port-restricted router without hairpin.
    carrier: bool,
    kinds: [Kind; 2],
}

impl Pair {
    fn all() -> Vec<Pair> {
        let with = |(i, a): (usize, Kind)| Kind::ALL[i..].iter().map(move |&b| [a, b]).collect::<Vec<_>>();
        let pairs = Kind::ALL.into_iter().enumerate().flat_map(with).map(|kinds| Pair { carrier: false, kinds });
        let homes = [[Kind::FullCone; 2], [Kind::PortRestricted; 2]];
        pairs.chain(homes.map(|kinds| Pair { carrier: true, kinds })).collect()
    }

    fn name(self) -> String {
        let [a, b] = self.kinds.map(Kind::name);
        if self.carrier { format!("one carrier: {a} – {b}") } else { format!("{a} – {b}") }
    }

    fn is(self, wanted: &[Wanted]) -> bool {
        let own = self.kinds.map(slug);
        let matches = |Wanted(words): &Wanted| match &words[..] {
            [one] => own.contains(one) && !self.carrier || self.carrier && one == "carrier",
            [a, b] => !self.carrier && (own == [a.clone(), b.clone()] || own == [b.clone(), a.clone()]),
            _ => false,
        };
        wanted.is_empty() || wanted.iter().any(matches)
    }

    /// What ZeroTierOne does. // spec: paths, "Which NAT pairs work"
    fn known(self) -> &'static str {
        use Kind::*;
        let symmetric = self.kinds.iter().filter(|kind| kind.symmetric()).count();
        let has = |kind: Kind| self.kinds.contains(&kind);
        match self.kinds {
            _ if self.carrier || symmetric == 2 => "never",
            [Answering, Answering] => "never",
            _ if symmetric == 1 && (has(PortRestricted) || has(Answering)) => "never",
            _ if symmetric == 1 && has(AddressRestricted) => "0.4 s, 15 s if the symmetric side begins",
            // Only a lab with real daemons had that kind.
            _ if has(Answering) => "2.2 s",
            [Public | FullCone, Public | FullCone] => "0.2 s",
            _ if has(Public) || has(FullCone) => "0.2 or 0.4 s, by who begins",
            _ => "0.4 s",
        }
    }
}

/// What is saved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// Where it was measured last.
    machine: Machine,
    /// By name of the pair.
    pairs: BTreeMap<String, Row>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Row {
    /// What is known of ZeroTierOne.
    known: String,
    /// The real core on both sides.
    zerotier: Vec<Run>,
    /// Hawser on both sides, simulated.
    sim: Vec<Run>,
    /// Hawser on both sides.
    hawser: Vec<Run>,
    /// Hawser on one side, the real core on the other.
    mixed: Vec<Run>,
}

impl Row {
    /// Runs with these programs.
    fn of(&mut self, sides: &[Side; 2]) -> &mut Vec<Run> {
        match sides.iter().filter(|side| side.core == Core::Hawser).count() {
            2 => &mut self.hawser,
            1 => &mut self.mixed,
            _ => &mut self.zerotier,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    /// Who began, behind what.
    begins: String,
    with: String,
    /// What the roots run, or the seed.
    world: String,
    /// Milliseconds from the first frame until both were direct; none: relayed.
    direct_ms: Option<f64>,
    /// Every echo came back at the end.
    reachable: bool,
}

/// One meeting to be had.
#[derive(Clone, Copy, Debug)]
enum Job {
    Sim { pair: Pair, seed: u64 },
    Real { pair: Pair, sides: [Side; 2], roots: Core },
}

impl Job {
    fn pair(&self) -> Pair {
        match self {
            Job::Sim { pair, .. } | Job::Real { pair, .. } => *pair,
        }
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let pairs: Vec<Pair> = Pair::all().into_iter().filter(|pair| pair.is(&options.pairs)).collect();
    let mut saved = match &options.out {
        Some(file) if file.exists() => load(file)?,
        _ => Saved::default(),
    };
    let asked = |part: Part| options.only.is_none_or(|only| only == part);
    let mut jobs = Vec::new();
    let mut hawser = PathBuf::new();
    if asked(Part::Sim) {
        jobs.extend(sim_jobs(&pairs, options));
    }
    if asked(Part::Real) || asked(Part::Zerotier) {
        lab::nat::check()?;
        lab::netns::sweep();
        hawser = crate::tunnel::hawser::program(options.hawser.as_deref())?;
        jobs.extend(real_jobs(&pairs, options, asked));
    }
    lab::catch_signals()?;
    for job in &jobs {
        let row = saved.pairs.entry(job.pair().name()).or_default();
        job.pair().known().clone_into(&mut row.known);
        match job {
            Job::Sim { .. } => row.sim.clear(),
            Job::Real { sides, .. } => row.of(sides).clear(),
        }
    }
    let failures = measure(options, jobs, &hawser, &mut saved);
    saved.machine = machine::facts();
    if let Some(file) = &options.out {
        let text = serde_json::to_string_pretty(&saved).map_err(|e| Error::Unusable(e.to_string()))?;
        std::fs::write(file, text + "\n").doing(format!("write {}", file.display()))?;
    }
    println!("{}", table(&saved));
    failures.iter().for_each(|failure| eprintln!("failed: {failure}"));
    let ours = |row: &Row| [&row.sim, &row.hawser, &row.mixed].map(|runs| runs.to_vec()).concat();
    let lost = saved.pairs.values().flat_map(ours).filter(|run| !run.reachable).count();
    match (failures.len(), lost) {
        _ if lab::interrupted() => Err(Error::Interrupted),
        (0, 0) => Ok(()),
        (failed, lost) => Err(Error::Unusable(format!("{failed} runs failed, echoes were lost in {lost}"))),
    }
}

fn load(file: &Path) -> Result<Saved> {
    let bad = |e: String| Error::Unusable(format!("{}: {e}; not made by this command", file.display()));
    let text = std::fs::read_to_string(file).doing(format!("read {}", file.display()))?;
    serde_json::from_str(&text).map_err(|e| bad(e.to_string()))
}

fn sim_jobs(pairs: &[Pair], options: &Options) -> Vec<Job> {
    let seeds = 1..=u64::from(options.runs.unwrap_or(SIM_RUNS));
    pairs.iter().flat_map(|&pair| seeds.clone().map(move |seed| Job::Sim { pair, seed })).collect()
}

/// Every placement of the programs before the two routers, everybody begins in turn, and the roots take turns too.
fn real_jobs(pairs: &[Pair], options: &Options, asked: impl Fn(Part) -> bool) -> Vec<Job> {
    use Core::*;
    let mut placements = Vec::new();
    if asked(Part::Real) {
        placements.extend([[Hawser, Hawser], [Hawser, Reference], [Reference, Hawser]]);
    }
    if asked(Part::Zerotier) {
        placements.push([Reference, Reference]);
    }
    let mut jobs = Vec::new();
    for &pair in pairs {
        let [a, b] = pair.kinds;
        // Between equals the two mixed placements are one.
        for &[at_a, at_b] in placements.iter().filter(|&&cores| a != b || cores != [Reference, Hawser]) {
            for run in 0..options.runs.unwrap_or(REAL_RUNS) {
                let mut sides = [Side { core: at_a, kind: a }, Side { core: at_b, kind: b }];
                if run % 2 == 1 {
                    sides.reverse();
                }
                let roots = if [at_a, at_b] == [Reference; 2] || run % 3 == 1 { Reference } else { Hawser };
                jobs.push(Job::Real { pair, sides, roots });
            }
        }
    }
    jobs
}

/// Works the jobs off, several at a time, until a signal comes; answers what failed.
fn measure(options: &Options, jobs: Vec<Job>, hawser: &Path, saved: &mut Saved) -> Vec<String> {
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new(jobs.len() as u64) };
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} [{elapsed_precise}, {eta} left] {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let jobs = Mutex::new(VecDeque::from(jobs));
    let (tx, results) = channel();
    let mut failures = Vec::new();
    std::thread::scope(|s| {
        for world in 0..options.worlds {
            let (tx, jobs, limit) = (tx.clone(), &jobs, Duration::from_secs(options.limit));
            s.spawn(move || work(world, jobs, hawser, limit, &tx));
        }
        drop(tx);
        for (job, result) in results {
            let name = job.pair().name();
            bar.inc(1);
            match result {
                Ok(run) => {
                    let way = run.direct_ms.map_or("relayed".to_owned(), |ms| format!("direct after {ms:.0} ms"));
                    bar.set_message(format!("{name}: {way}"));
                    let row = saved.pairs.entry(name).or_default();
                    match job {
                        Job::Sim { .. } => row.sim.push(run),
                        Job::Real { sides, .. } => row.of(&sides).push(run),
                    }
                }
                Err(e) => failures.push(format!("{job:?}: {e}")),
            }
        }
    });
    bar.finish_and_clear();
    failures
}

fn work(world: u8, jobs: &Mutex<VecDeque<Job>>, hawser: &Path, limit: Duration, tx: &Sender<(Job, Result<Run>)>) {
    let next = || jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
    let mut planets = [None, None];
    while let Some(job) = next() {
        let result = match job {
            Job::Sim { pair, seed } => Ok(simulate(pair, seed)),
            Job::Real { pair, sides, roots } => real(world, &mut planets, hawser, pair, sides, roots, limit),
        };
        if lab::interrupted() || tx.send((job, result)).is_err() {
            return;
        }
    }
}

fn real(
    world: u8,
    planets: &mut [Option<Planet>; 2],
    hawser: &Path,
    pair: Pair,
    sides: [Side; 2],
    roots: Core,
    limit: Duration,
) -> Result<Run> {
    let place = &mut planets[usize::from(roots == Core::Reference)];
    let tag = format!("n{world}{}", if roots == Core::Reference { "z" } else { "h" });
    let planet = match place {
        Some(planet) => planet,
        None => place.insert(Planet::new(&tag, hawser, roots)?),
    };
    let met = if pair.carrier { planet.meet_behind_carrier(sides, limit) } else { planet.meet(sides, limit) };
    let meeting: Meeting = met?;
    let text = |side: Side| format!("{:?} behind {}", side.core, side.kind.name());
    Ok(Run {
        begins: text(sides[0]),
        with: text(sides[1]),
        world: format!("{roots:?} roots"),
        direct_ms: meeting.direct.map(|after| after.as_secs_f64() * 1e3),
        reachable: meeting.reachable(),
    })
}

fn simulate(pair: Pair, seed: u64) -> Run {
    let mut kinds = pair.kinds;
    if seed.is_multiple_of(2) {
        kinds.reverse();
    }
    let mut lab = if pair.carrier {
        sim::meeting::behind_one_carrier(seed, kinds.map(router), NatKind::port_restricted())
    } else {
        let behind = |kind| if kind == Kind::Public { Behind::Nothing } else { Behind::Nat(router(kind)) };
        sim::meeting::pair(seed, kinds.map(behind))
    };
    lab.world.set_default_link(Link { jitter_us: JITTER_US, ..Link::delay_ms(DELAY_MS) });
    let direct_ms = sim::meeting::meet(&mut lab, sim::meeting::LIMIT_MS).map(|ms| ms as f64);
    let [begins, with] = kinds.map(|kind| format!("Hawser behind {}", kind.name()));
    let reachable = sim::meeting::round_trips(&mut lab).iter().all(Option::is_some);
    Run { begins, with, world: format!("seed {seed}"), direct_ms, reachable }
}

fn router(kind: Kind) -> NatKind {
    match kind {
        Kind::Public | Kind::FullCone => NatKind::full_cone(),
        Kind::AddressRestricted => NatKind::address_restricted(),
        Kind::PortRestricted => NatKind::port_restricted(),
        Kind::Answering => NatKind { unsolicited: Unsolicited::Answered, ..NatKind::port_restricted() },
        Kind::SymmetricInSequence => NatKind::symmetric(Ports::Sequential),
        Kind::SymmetricAtRandom => NatKind::symmetric(Ports::Random),
    }
}

/// Markdown, one row a pair, in the order of [`Pair::all`].
fn table(saved: &Saved) -> String {
    let mut lines = vec![
        "| pair | ZeroTierOne, known | ZeroTier's core, kernel | Hawser, sim | Hawser, kernel | one of each, kernel |"
            .to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for pair in Pair::all() {
        let Some(row) = saved.pairs.get(&pair.name()) else { continue };
        let cells = [&row.zerotier, &row.sim, &row.hawser, &row.mixed].map(|runs| summary(runs));
        lines.push(format!("| {} | {} | {} |", pair.name(), row.known, cells.join(" | ")));
    }
    lines.join("\n")
}

/// How many went direct, and the median and the worst of their times.
fn summary(runs: &[Run]) -> String {
    let took: Vec<f64> = runs.iter().filter_map(|run| run.direct_ms).collect();
    let worst = took.iter().copied().max_by(f64::total_cmp);
    let count = match (took.len(), runs.len()) {
        (_, 0) => return String::new(),
        (0, all) => format!("relayed ({all} runs)"),
        (direct, all) => format!("{direct} of {all}"),
    };
    match (median(took), worst) {
        (Some(median), Some(worst)) => format!("{count}: {:.2}, {:.2} s", median / 1e3, worst / 1e3),
        _ => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_there_once_and_is_found_by_its_words() {
        let all = Pair::all();
        assert_eq!(all.len(), 7 * 8 / 2 + 2);
        let found = |words: &str| all.iter().filter(|pair| pair.is(&[wanted(words).unwrap()])).count();
        assert_eq!((found("public"), found("carrier"), found("symmetric-at-random/port-restricted")), (7, 2, 1));
        assert!(wanted("cone").is_err() && wanted("public/public/public").is_err());
    }

    #[test]
    fn a_row_tells_how_many_went_direct_and_how_soon() {
        let run = |direct_ms| Run {
            begins: String::new(),
            with: String::new(),
            world: String::new(),
            direct_ms,
            reachable: true,
        };
        assert_eq!(summary(&[run(Some(100.0)), run(Some(300.0)), run(Some(200.0))]), "3 of 3: 0.20, 0.30 s");
        assert_eq!(summary(&[run(None), run(Some(15_100.0))]), "1 of 2: 15.10, 15.10 s");
        assert_eq!(summary(&[run(None)]), "relayed (1 runs)");
    }
}
