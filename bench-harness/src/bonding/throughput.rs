//! What one TCP flow and several get over all lines together, as a share of what one flow gets over each line alone; with
//! every policy and without bonding, measured side by side within each repetition.

use std::time::Instant;

use serde::Serialize;

use super::links::Line;
use super::traffic::{self, Tcp};
use super::{Far, Options, Policy};
use crate::plot::{self, Bar};
use crate::record::{self, Latency, median};
use crate::{Error, Result};

/// Seconds, unless said otherwise.
const WINDOW: f64 = 5.0;

/// Several lines with a name.
pub struct Scenario {
    /// As the command line says it.
    pub name: &'static str,
    /// Its lines, the fastest first.
    pub lines: &'static [Line],
}

const fn line(rate: f64, delay: f64) -> Line {
    Line::new(rate, delay)
}

/// What is measured if nothing else is asked for.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "u", lines: &[line(40.0, 10.0), line(10.0, 30.0)] },
    Scenario { name: "e", lines: &[line(25.0, 10.0), line(25.0, 10.0)] },
    Scenario { name: "2x200", lines: &[line(200.0, 10.0), line(200.0, 10.0)] },
    Scenario { name: "200+100", lines: &[line(200.0, 10.0), line(100.0, 10.0)] },
    Scenario { name: "300+80", lines: &[line(300.0, 10.0), line(80.0, 30.0)] },
    Scenario { name: "4x100", lines: &[line(100.0, 10.0); 4] },
];

/// One flow over one line, the others absent.
#[derive(Clone, Debug, Serialize)]
struct Alone {
    line: Line,
    idle_ping: Latency,
    tcp: Tcp,
}

/// One policy in one repetition.
#[derive(Clone, Debug, Serialize)]
struct Together {
    policy: String,
    /// Until every line was a path, and all of it.
    seconds: [f64; 2],
    idle_ping: Latency,
    /// By number of flows.
    tcp: Vec<(usize, Tcp)>,
}

#[derive(Clone, Debug, Serialize)]
struct Repetition {
    /// One of each distinct kind of line.
    alone: Vec<Alone>,
    /// Mbit/s: the sum over all lines of what one flow gets over each alone.
    ideal: f64,
    together: Vec<Together>,
}

/// What was seen over one set of lines.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    name: String,
    lines: Vec<Line>,
    /// Congestion control of the hosts' TCP.
    congestion: String,
    repetitions: Vec<Repetition>,
    failures: Vec<String>,
}

/// Measures one set of lines.
pub fn measure(options: &Options, name: &str, lines: &[Line]) -> Result<Outcome> {
    if options.far == Far::Core {
        return Err(Error::Unusable("--far core has no TCP".into()));
    }
    let lines: Vec<Line> = lines.iter().map(|line| options.adjusted(*line)).collect();
    let mut outcome = Outcome {
        name: name.into(),
        lines: lines.clone(),
        congestion: options.congestion(),
        repetitions: vec![],
        failures: vec![],
    };
    let window = options.window(WINDOW);
    for _ in 0..options.runs(1) {
        let mut alone: Vec<Alone> = Vec::new();
        for line in &lines {
            if alone.iter().all(|known| known.line != *line) {
                options.say(&format!("{name}: {line} alone"));
                let world = options.world(&Policy::none(), &[*line])?;
                let idle_ping = traffic::idle_ping(&world, window / 6)?;
                alone.push(Alone { line: *line, idle_ping, tcp: traffic::tcp(&world, 1, true, window)? });
            }
        }
        let rate = |line: &Line| alone.iter().find(|one| one.line == *line).map_or(0.0, |one| one.tcp.mbit_s);
        let ideal = lines.iter().map(rate).sum();
        let mut together = Vec::new();
        for policy in options.policies(&Policy::ALL) {
            options.say(&format!("{name}: {policy}"));
            match one(options, &policy, &lines) {
                Ok(one) => together.push(one),
                Err(e) => outcome.failures.push(format!("{name}, {policy}: {e}")),
            }
            if lab::interrupted() {
                break;
            }
        }
        outcome.repetitions.push(Repetition { alone, ideal, together });
        if lab::interrupted() {
            break;
        }
    }
    Ok(outcome)
}

fn one(options: &Options, policy: &Policy, lines: &[Line]) -> Result<Together> {
    let (window, began) = (options.window(WINDOW), Instant::now());
    let world = options.world(policy, lines)?;
    let set_up = began.elapsed().as_secs_f64();
    let idle_ping = traffic::idle_ping(&world, window / 6)?;
    let tcp = options.flows.iter().map(|&n| Ok((n, traffic::tcp(&world, n, n == 1, window)?)));
    let tcp = tcp.collect::<Result<_>>()?;
    let seconds = [set_up, began.elapsed().as_secs_f64()];
    options.say(&format!("  set up in {set_up:.1} s, {:.1} s in all", seconds[1]));
    Ok(Together { policy: policy.to_string(), seconds, idle_ping, tcp })
}

impl Outcome {
    /// What failed.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// In the order of the first repetition.
    fn policies(&self) -> Vec<&str> {
        let first = self.repetitions.iter().max_by_key(|r| r.together.len());
        first.map_or(vec![], |r| r.together.iter().map(|one| one.policy.as_str()).collect())
    }

    /// A value of every repetition that has it, with the repetition.
    fn of(&self, policy: &str, flows: usize, value: impl Fn(&Repetition, &Together, &Tcp) -> Option<f64>) -> Vec<f64> {
        let one = |r: &Repetition| {
            let together = r.together.iter().find(|one| one.policy == policy)?;
            let (_, tcp) = together.tcp.iter().find(|(n, _)| *n == flows)?;
            value(r, together, tcp)
        };
        self.repetitions.iter().filter_map(one).collect()
    }

    /// Markdown: the lines alone, then a row for each policy and number of flows.
    pub fn table(&self, flows: &[usize]) -> String {
        let mut text = format!("\n### {}: {}, TCP {}\n\n", self.name, list(&self.lines), self.congestion);
        let mut alone: Vec<&Line> = Vec::new();
        self.lines.iter().for_each(|line| {
            if !alone.contains(&line) {
                alone.push(line)
            }
        });
        for line in alone {
            let of = |value: &dyn Fn(&Alone) -> f64| {
                let all = self.repetitions.iter().flat_map(|r| &r.alone).filter(|one| one.line == *line);
                spread(all.map(value).collect(), 1)
            };
            text += &format!(
                "{line} alone: {} Mbit/s, ping p50 {} ms idle, {} ms beside it, {} segments sent again  \n",
                of(&|one| one.tcp.mbit_s),
                of(&|one| one.idle_ping.p50_us / 1e3),
                of(&|one| one.tcp.ping.map_or(0.0, |ping| ping.p50_us / 1e3)),
                of(&|one| one.tcp.retransmitted as f64),
            );
        }
        text += &format!("G = {} Mbit/s\n\n", spread(self.repetitions.iter().map(|r| r.ideal).collect(), 1));
        text += "| policy | flows | Mbit/s | of G, % | Jain | sent again | kept until an earlier one came | lines, Mbit/s | dropped by full buffers | ping p50 beside it, ms | p99 | by root, Mbit/s | gateways, cores | box |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for policy in self.policies() {
            for &n in flows {
                let of = |digits, value: &dyn Fn(&Tcp) -> Option<f64>| {
                    spread(self.of(policy, n, |_, _, tcp| value(tcp)), digits)
                };
                let share = self.of(policy, n, |r, _, tcp| Some(tcp.mbit_s / r.ideal * 100.0));
                let lines: Vec<String> =
                    (0..self.lines.len()).map(|i| of(1, &|tcp| tcp.lines.get(i).copied())).collect();
                text += &format!(
                    "| {policy} | {n} | {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                    of(1, &|tcp| Some(tcp.mbit_s)),
                    spread(share, 1),
                    if n > 1 { of(3, &|tcp| Some(tcp.jain)) } else { String::new() },
                    of(0, &|tcp| Some(tcp.retransmitted as f64)),
                    of(0, &|tcp| Some(tcp.out_of_order as f64)),
                    lines.join(" + "),
                    of(0, &|tcp| Some(tcp.overflowed as f64)),
                    of(1, &|tcp| tcp.ping.map(|ping| ping.p50_us / 1e3)),
                    of(1, &|tcp| tcp.ping.map(|ping| ping.p99_us / 1e3)),
                    of(1, &|tcp| Some(tcp.by_root)),
                    of(2, &|tcp| Some(tcp.gateways_cores)),
                    of(2, &|tcp| Some(tcp.box_cores)),
                );
            }
        }
        text
    }
}

/// Bars of every set of lines: what each policy gets of G.
pub fn plot(outcomes: &[Outcome], flows: usize) -> Option<String> {
    let mut bars = Vec::new();
    let names: Vec<String> = Policy::ALL.iter().map(|policy| (*policy).to_owned()).collect();
    for outcome in outcomes {
        for policy in outcome.policies() {
            let shares = outcome.of(policy, flows, |r, _, tcp| Some(tcp.mbit_s / r.ideal * 100.0));
            let Some(spread) = record::spread(&shares) else { continue };
            let median = median(shares).unwrap_or(0.0);
            bars.push(Bar {
                group: format!("{}: {}, {flows} TCP flow(s)", outcome.name, list(&outcome.lines)),
                label: policy.to_owned(),
                median,
                spread,
                text: format!("{median:.0} %"),
                colour: plot::colour(policy, &names),
            });
        }
    }
    plot::bars(&bars, "% of G")
}

fn list(lines: &[Line]) -> String {
    lines.iter().map(Line::to_string).collect::<Vec<_>>().join(" + ")
}

/// The median, and from where to where the values go if there are several.
fn spread(values: Vec<f64>, digits: usize) -> String {
    let (several, ends) = (values.len() > 1, record::spread(&values));
    match (median(values), ends) {
        (Some(median), Some((least, most))) if several => {
            format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
        }
        (Some(median), _) => format!("{median:.digits$}"),
        (None, _) => "-".to_owned(),
    }
}
