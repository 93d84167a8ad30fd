//! How the shares of the lines follow one that slowly gets worse, with several TCP flows over them: a plot over time for each
//! way in which a line declines, and the same as a table.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::links::Line;
use super::{Options, Policy, traffic};
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
/// From one label of the time axis, or one row of the table, to the next.
const LABEL: Duration = Duration::from_secs(2);
const PER_LABEL: usize = (LABEL.as_millis() / STEP.as_millis()) as usize;
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

/// Markdown: a row for each policy and decline, then the shares by time for each decline.
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
    text + &kinds(outcomes).into_iter().map(|(kind, these)| by_time(kind, &these)).collect::<String>()
}

/// The outcomes of each kind of decline.
fn kinds(outcomes: &[Outcome]) -> Vec<(&str, Vec<&Outcome>)> {
    let mut kinds: Vec<(&str, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        match kinds.iter_mut().find(|(kind, _)| *kind == outcome.decline) {
            Some((_, these)) => these.push(outcome),
            None => kinds.push((&outcome.decline, vec![outcome])),
        }
    }
    kinds
}

/// The mean share of every two seconds, with what the line was in their middle.
fn by_time(kind: &str, outcomes: &[&Outcome]) -> String {
    let Some(first) = outcomes.first() else { return String::new() };
    let mut text = format!(
        "\nShare of the last line, percent, while its {kind} gets worse; in brackets Mbit/s of all\n\n| s | the line |"
    );
    outcomes.iter().for_each(|o| text += &format!(" {} |", o.policy));
    text += &format!(" of all rates |\n|---|---|{}---|\n", "---|".repeat(outcomes.len()));
    let mean =
        |part: &[Sample], value: &dyn Fn(&Sample) -> f64| part.iter().map(value).sum::<f64>() / part.len() as f64;
    for (nth, part) in first.samples.chunks(PER_LABEL).enumerate() {
        let line = part[part.len() / 2].line;
        let line =
            Line { rate: line.rate.round(), delay: line.delay.round(), loss: (line.loss * 1e3).round() / 1e3, ..line };
        text += &format!("| {} | {line} |", nth as f64 * LABEL.as_secs_f64());
        for o in outcomes {
            text += &o.samples.chunks(PER_LABEL).nth(nth).map_or(" |".into(), |part| {
                format!(" {:.0} ({:.1}) |", mean(part, &Sample::share), mean(part, &|sample| sample.mbit_s))
            });
        }
        text += &format!(" {:.0} |\n", mean(part, &|sample| sample.full(&first.lines)));
    }
    text
}

/// One plot for each kind of decline: its name, and the share of the line over time.
pub fn plots(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let names: Vec<String> = Policy::ALL.iter().map(|policy| (*policy).to_owned()).collect();
    let draw = |(kind, these): (&str, Vec<&Outcome>)| {
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
    kinds(outcomes).into_iter().filter_map(draw).collect()
}

/// A label every two seconds.
fn second(sample: usize) -> String {
    match sample.is_multiple_of(PER_LABEL) {
        true => (sample / PER_LABEL * LABEL.as_secs() as usize).to_string(),
        false => String::new(),
    }
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
