//! How shares follow a line that gets worse, what broadcast makes of a line that loses, and what a bonded peer costs while
//! nothing is to be said.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::links::Line;
use super::{Options, Policy, traffic};
use crate::failover::judge;
use crate::plot::{self, Line as Curve};
use crate::{Error, Result};

/// How a line gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Decline {
    /// From its rate to 2 Mbit/s
    Rate,
    /// From no loss to 5 %
    Loss,
    /// From its delay to 100 ms
    Delay,
}

impl Decline {
    /// The line once it has become worse by this share.
    fn of(self, line: Line, share: f64) -> Line {
        let between = |from: f64, to: f64| from + (to - from) * share;
        match self {
            Decline::Rate => Line { rate: between(line.rate, 2.0), ..line },
            Decline::Loss => Line { loss: between(line.loss, 0.05), ..line },
            Decline::Delay => Line { delay: between(line.delay, 100.0), ..line },
        }
    }
}

/// The line is well for this share of the time at the beginning, and as bad as it gets at the end.
const STEADY: f64 = 0.2;
const STEP: Duration = Duration::from_millis(250);
/// TCP flows meanwhile.
const FLOWS: usize = 8;

#[derive(Clone, Debug, Serialize)]
struct Sample {
    at_s: f64,
    /// The line that gets worse, as it is now.
    line: Line,
    /// Payload of all flows since the last sample, Mbit/s.
    mbit_s: f64,
    /// What each line carried from A to B, Mbit/s.
    lines: Vec<f64>,
}

/// How the shares followed, with one policy.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    policy: String,
    decline: String,
    lines: Vec<Line>,
    flows: usize,
    samples: Vec<Sample>,
}

/// Everything that was asked for. The last line gets worse.
pub fn measure(options: &Options, lines: &[Line], failures: &mut Vec<String>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for decline in options.declines() {
        for policy in options.policies(&["none", "balance-xor", "balance-aware"]) {
            options.say(&format!("quality: {policy}, {decline:?}"));
            match one(options, &policy, decline, lines) {
                Ok(outcome) => outcomes.push(outcome),
                Err(e) => failures.push(format!("quality, {policy}, {decline:?}: {e}")),
            }
            if lab::interrupted() {
                return Ok(outcomes);
            }
        }
    }
    Ok(outcomes)
}

fn one(options: &Options, policy: &Policy, decline: Decline, lines: &[Line]) -> Result<Outcome> {
    let lines: Vec<Line> = lines.iter().map(|line| options.adjusted(*line)).collect();
    let Some(&well) = lines.last() else { return Err(Error::Unusable("no line at all".into())) };
    let world = options.world(policy, &lines)?;
    let time = options.window(20.0);
    let samples = traffic::pour(&world, FLOWS, |received| {
        crate::load::pause(traffic::WARM_UP);
        let bytes = || received.iter().map(|n| n.load(Ordering::Relaxed)).sum::<u64>();
        let (start, mut samples) = (Instant::now(), Vec::new());
        let mut last = (start, bytes(), world.carried());
        while start.elapsed() < time && !lab::interrupted() {
            let share =
                ((start.elapsed().as_secs_f64() / time.as_secs_f64() - STEADY) / (1.0 - 2.0 * STEADY)).clamp(0.0, 1.0);
            let line = decline.of(well, share);
            world.becomes(lines.len() - 1, &line);
            std::thread::sleep(STEP);
            let now = (Instant::now(), bytes(), world.carried());
            let mbit = |bytes: u64| bytes as f64 * 8e-6 / (now.0 - last.0).as_secs_f64();
            samples.push(Sample {
                at_s: (now.0 - start).as_secs_f64(),
                line,
                mbit_s: mbit(now.1 - last.1),
                lines: now.2.iter().zip(&last.2).map(|(to, from)| mbit(to[0].bytes - from[0].bytes)).collect(),
            });
            last = now;
        }
        Ok(samples)
    })?;
    let decline = format!("{decline:?}").to_lowercase();
    Ok(Outcome { policy: policy.to_string(), decline, lines, flows: FLOWS, samples })
}

impl Sample {
    /// Share of the line that gets worse, percent.
    fn share(&self) -> f64 {
        self.lines.last().copied().unwrap_or(0.0) / self.lines.iter().sum::<f64>().max(1e-9) * 100.0
    }

    /// What it would be if every line were full.
    fn full(&self, lines: &[Line]) -> f64 {
        let others: f64 = lines.iter().rev().skip(1).map(|line| line.rate).sum();
        self.line.rate / (self.line.rate + others) * 100.0
    }
}

impl Outcome {
    /// The first and the last stretch, while the line did not change.
    fn steady(&self, last: bool, value: impl Fn(&Sample) -> f64) -> f64 {
        let n = ((self.samples.len() as f64 * STEADY) as usize).max(1).min(self.samples.len());
        let part = if last { &self.samples[self.samples.len() - n..] } else { &self.samples[..n] };
        part.iter().map(value).sum::<f64>() / part.len().max(1) as f64
    }
}

/// Markdown, one row for each policy and decline.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!("\n### The last line gets worse: {FLOWS} TCP flows\n\n");
    text += "| what | policy | its share while well, % | once bad, % | of all rates, % | Mbit/s while well | once bad |\n|---|---|---|---|---|---|---|\n";
    for o in outcomes {
        text += &format!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |\n",
            o.decline,
            o.policy,
            o.steady(false, Sample::share),
            o.steady(true, Sample::share),
            o.steady(true, |sample| sample.full(&o.lines)),
            o.steady(false, |sample| sample.mbit_s),
            o.steady(true, |sample| sample.mbit_s),
        );
    }
    text
}

/// One plot for each kind of decline: its name, and the share of the line over time.
pub fn plots(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let mut kinds: Vec<&str> = outcomes.iter().map(|o| o.decline.as_str()).collect();
    kinds.dedup();
    let names: Vec<String> = Policy::ALL.iter().map(|policy| (*policy).to_owned()).collect();
    let draw = |kind: &str| {
        let these: Vec<&Outcome> = outcomes.iter().filter(|o| o.decline == kind).collect();
        let curve = |o: &Outcome, label: String, dashed, value: &dyn Fn(&Sample) -> f64| Curve {
            colour: plot::colour(if dashed { "budget" } else { &o.policy }, &names),
            label,
            dashed,
            points: o.samples.iter().enumerate().map(|(i, s)| (second(i), i as f64, value(s))).collect(),
        };
        let mut curves: Vec<Curve> = these.iter().map(|o| curve(o, o.policy.clone(), false, &Sample::share)).collect();
        curves.extend(these.first().map(|o| curve(o, "of all rates".into(), true, &|s| s.full(&o.lines))));
        let svg = plot::lines(&curves, "seconds", "% of all", false)?;
        Some((kind.to_owned(), plot::with_legend(&svg, &curves)))
    };
    kinds.into_iter().filter_map(draw).collect()
}

/// A label every two seconds.
fn second(sample: usize) -> String {
    let steps = (2000 / STEP.as_millis()) as usize;
    if sample.is_multiple_of(steps) { (sample / steps * 2).to_string() } else { String::new() }
}

/// What arrived of a stream that goes over every line, while the last one loses.
#[derive(Clone, Debug, Serialize)]
pub struct Broadcast {
    policy: String,
    loss: f64,
    sent: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    gap_ms: f64,
    /// Frames that each line carried from A to B.
    frames: Vec<u64>,
}

/// A stream with 30 % loss on the last line; both gateways bond.
pub fn broadcast(options: &Options, lines: &[Line]) -> Result<Vec<Broadcast>> {
    const LOSS: f64 = 0.3;
    let both = Options { far: super::Far::Bonded, ..options.clone() };
    let mut outcomes = Vec::new();
    for policy in options.policies(&["broadcast"]) {
        options.say(&format!("broadcast: {policy}"));
        let world = both.world(&policy, lines)?;
        let bad = Line { loss: LOSS, ..lines[lines.len() - 1] };
        world.becomes(lines.len() - 1, &bad);
        let ((from, until, frames), seen) = traffic::stream(&world, false, |clock| {
            std::thread::sleep(Duration::from_millis(500));
            let (from, before) = (clock.now()?, world.carried());
            crate::load::pause(options.window(10.0));
            let (until, after) = (clock.now()?, world.carried());
            let frames: Vec<u64> = after.iter().zip(&before).map(|(to, from)| to[0].frames - from[0].frames).collect();
            // What is under way counts.
            std::thread::sleep(Duration::from_millis(500));
            Ok((from, until, frames))
        })?;
        let numbers = from.sent..until.sent;
        let these = seen.datagrams.iter().filter(|(n, _)| numbers.contains(n)).map(|(n, at)| (n - from.sent, *at));
        let d = judge(&these.collect(), until.sent - from.sent, from.at, until.at);
        outcomes.push(Broadcast {
            policy: policy.to_string(),
            loss: LOSS,
            sent: d.sent,
            lost: d.lost,
            duplicated: d.duplicated,
            reordered: d.reordered,
            gap_ms: d.gap_ms,
            frames,
        });
    }
    Ok(outcomes)
}

/// Markdown.
pub fn broadcast_table(outcomes: &[Broadcast]) -> String {
    let mut text = "\n### One datagram a millisecond, 30 % lost on the last line, both gateways bond\n\n".to_owned();
    text += "| policy | sent | lost | twice | out of order | longest gap, ms | frames by line |\n|---|---|---|---|---|---|---|\n";
    for b in outcomes {
        let Broadcast { policy, sent, lost, duplicated, reordered, gap_ms, frames, .. } = b;
        text += &format!("| {policy} | {sent} | {lost} | {duplicated} | {reordered} | {gap_ms:.1} | {frames:?} |\n");
    }
    text
}

/// What passes while nothing is to be said.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    policy: String,
    seconds: f64,
    /// Bytes a second over each line, both ways together, Ethernet headers included.
    lines: Vec<f64>,
    /// Of these how many go from A to B.
    out: Vec<f64>,
    frames_per_s: f64,
    by_root: f64,
    gateways_cores: f64,
}

/// An idle peer.
pub fn idle(options: &Options, lines: &[Line]) -> Result<Vec<Idle>> {
    let mut outcomes = Vec::new();
    for policy in options.policies(&["none", "active-backup"]) {
        options.say(&format!("idle: {policy}"));
        let world = options.world(&policy, lines)?;
        let pids: Vec<u32> = world.bed().running().pids().into_iter().flatten().collect();
        let cpu = || pids.iter().map(|&pid| lab::measure::cpu_time(pid)).sum::<Duration>();
        let (start, before, root, busy) = (Instant::now(), world.carried(), world.by_root()?, cpu());
        crate::load::pause(options.window(60.0));
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
        let (took, after) = (start.elapsed().as_secs_f64(), world.carried());
        let pairs = || after.iter().zip(&before);
        let rate = |n: u64| n as f64 / took;
        outcomes.push(Idle {
            policy: policy.to_string(),
            seconds: took,
            lines: pairs().map(|(to, from)| (0..2).map(|way| rate(to[way].bytes - from[way].bytes)).sum()).collect(),
            out: pairs().map(|(to, from)| rate(to[0].bytes - from[0].bytes)).collect(),
            frames_per_s: pairs()
                .flat_map(|(to, from)| (0..2).map(|way| rate(to[way].frames - from[way].frames)))
                .sum(),
            by_root: rate(world.by_root()? - root),
            gateways_cores: (cpu() - busy).as_secs_f64() / took,
        });
    }
    Ok(outcomes)
}

/// Markdown.
pub fn idle_table(outcomes: &[Idle]) -> String {
    let mut text = "\n### Nothing is said\n\n".to_owned();
    text += "| policy | bytes/s both ways, all lines | by line | from A to B | frames/s | root, bytes/s | gateways, cores |\n|---|---|---|---|---|---|---|\n";
    let list = |values: &[f64]| values.iter().map(|v| format!("{v:.0}")).collect::<Vec<_>>().join(" + ");
    for i in outcomes {
        text += &format!(
            "| {} | **{:.0}** | {} | {} | {:.1} | {:.0} | {:.4} |\n",
            i.policy,
            i.lines.iter().sum::<f64>(),
            list(&i.lines),
            list(&i.out),
            i.frames_per_s,
            i.by_root,
            i.gateways_cores,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_declines_in_one_thing_only_and_to_its_end() {
        let well = Line::new(25.0, 10.0);
        assert_eq!(Decline::Rate.of(well, 0.0), well);
        assert_eq!(Decline::Rate.of(well, 1.0), Line { rate: 2.0, ..well });
        assert_eq!(Decline::Loss.of(well, 0.5), Line { loss: 0.025, ..well });
        assert_eq!(Decline::Delay.of(well, 1.0), Line { delay: 100.0, ..well });
    }

    #[test]
    fn the_share_of_full_lines_is_that_of_their_rates() {
        let lines = [Line::new(30.0, 10.0), Line::new(25.0, 10.0)];
        let sample = Sample { at_s: 1.0, line: Line { rate: 10.0, ..lines[1] }, mbit_s: 36.0, lines: vec![27.0, 9.0] };
        assert_eq!((sample.share(), sample.full(&lines)), (25.0, 25.0));
    }
}
