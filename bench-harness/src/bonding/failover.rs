//! What a stream of one datagram a millisecond from A to B loses while the line that carries it fails, in every way a line can;
//! what a thin TCP flow beside it had to send again; and when the line is used again once it is well.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::links::{Cut, Line, World};
use super::traffic::{self, Clock, Moment, Seen};
use super::{Options, Policy, median, percentile};
use crate::failover::judge;
use crate::plot::{self, Bar};
use crate::{Error, Result};

/// For the paths to be there again before the next run; who never finds them again runs without.
const PATHS_LIMIT: Duration = Duration::from_secs(20);
/// How long a line must have been well before it fails.
const CALM: Duration = Duration::from_millis(1500);
/// Datagrams sent up to so long before the failure count as exposed to it.
const EXPOSED: Duration = Duration::from_millis(200);
/// A line counts as used once it carries this share of what it carried before.
const USED: f64 = 0.1;
/// How often its bytes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// For the healed line to be used again.
const AGAIN_LIMIT: Duration = Duration::from_secs(5);

/// One failure of one line.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    /// The line that carried most.
    line: usize,
    /// Longest time without an arrival before anything failed.
    calm_gap_ms: f64,
    /// From the failure until the line was healed.
    gap_ms: f64,
    sent: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    /// Segments of the thin TCP flow that were sent again.
    tcp_sent_again: u64,
    /// Of these, what had arrived before: only the acknowledgement was lost or late.
    tcp_needless: u64,
    /// Longest time in which nothing of the TCP flow arrived; none: there was no such flow.
    tcp_gap_ms: Option<f64>,
    /// Longest time without an arrival after the line was healed, and what was lost then.
    healed_gap_ms: f64,
    healed_lost: u64,
    /// Until the healed line carried data again; none: not within the limit.
    again_ms: Option<f64>,
    /// Bytes that went by the root meanwhile.
    by_root: u64,
}

/// All runs of one kind of failure with one policy.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    policy: String,
    cut: String,
    lines: Vec<Line>,
    runs: Vec<Run>,
    failures: Vec<String>,
}

/// Everything that was asked for; each policy in a world of its own for each kind of failure.
pub fn measure(options: &Options, lines: &[Line]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for policy in options.policies(&["none", "active-backup", "balance-aware"]) {
        for cut in options.cuts() {
            options.say(&format!("failover: {policy}, {cut:?}"));
            let lines: Vec<Line> = lines.iter().map(|line| options.adjusted(*line)).collect();
            let (policy_name, cut_name) = (policy.to_string(), format!("{cut:?}").to_lowercase());
            let mut outcome = Outcome { policy: policy_name, cut: cut_name, lines, runs: vec![], failures: vec![] };
            if let Err(e) = several(options, &policy, cut, &mut outcome) {
                outcome.failures.push(format!("failover, {policy}, {cut:?}: {e}"));
            }
            println!("{}", outcome.row());
            outcomes.push(outcome);
            if lab::interrupted() {
                return Ok(outcomes);
            }
        }
    }
    Ok(outcomes)
}

struct Raw {
    line: usize,
    calm: Moment,
    from: Moment,
    until: Moment,
    end: Moment,
    again_ms: Option<f64>,
    by_root: u64,
}

fn several(options: &Options, policy: &Policy, cut: Cut, outcome: &mut Outcome) -> Result<()> {
    let world = options.world(policy, &outcome.lines)?;
    let mut all = Vec::new();
    let (failed, seen) = traffic::stream(&world, true, |clock| {
        // What was measured before something broke is still worth telling.
        Ok((0..options.runs(5)).try_for_each(|_| one(options, &world, cut, clock).map(|raw| all.push(raw))))
    })?;
    outcome.runs = all.iter().map(|raw| raw.judge(&seen)).collect();
    failed
}

fn one(options: &Options, world: &World, cut: Cut, clock: &Clock<'_>) -> Result<Raw> {
    let _ = world.wait_for_paths(PATHS_LIMIT)?;
    let calm = clock.now()?;
    std::thread::sleep(CALM);
    let line = world.busiest(Duration::from_millis(100));
    let carries = |time: Duration| {
        let before = world.carried()[line][0].bytes;
        std::thread::sleep(time);
        (world.carried()[line][0].bytes - before) as f64 / time.as_secs_f64()
    };
    let usual = carries(LOOK * 4);
    let by_root = world.by_root()?;
    let from = clock.now()?;
    world.cut(line, cut)?;
    crate::load::pause(options.window(2.5));
    let until = clock.now()?;
    let by_root = world.by_root()? - by_root;
    world.heal(line, cut)?;
    let (healed, mut again_ms) = (Instant::now(), None);
    while again_ms.is_none() && healed.elapsed() < AGAIN_LIMIT {
        let at = healed.elapsed();
        if carries(LOOK) > usual * USED {
            again_ms = Some(at.as_secs_f64() * 1e3);
        }
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
    }
    std::thread::sleep(EXPOSED);
    Ok(Raw { line, calm, from, until, end: clock.now()?, again_ms, by_root })
}

impl Raw {
    fn judge(&self, seen: &Seen) -> Run {
        let between = |from: &Moment, until: &Moment| {
            let first = from.sent.saturating_sub(EXPOSED.as_millis() as u64);
            let numbers = first..until.sent.max(first);
            let sent = numbers.end - numbers.start;
            let exposed: Vec<(u64, Duration)> =
                seen.datagrams.iter().filter(|(n, _)| numbers.contains(n)).map(|(n, at)| (n - first, *at)).collect();
            judge(&exposed, sent, from.at, until.at)
        };
        let (calm, hit, healed) =
            (between(&self.calm, &self.from), between(&self.from, &self.until), between(&self.until, &self.end));
        Run {
            line: self.line,
            calm_gap_ms: calm.gap_ms,
            gap_ms: hit.gap_ms,
            sent: hit.sent,
            lost: hit.lost,
            duplicated: hit.duplicated,
            reordered: hit.reordered,
            tcp_sent_again: self.end.retransmitted_since(&self.from),
            tcp_needless: self.end.needless_since(&self.from),
            tcp_gap_ms: (!seen.segments.is_empty()).then(|| longest(&seen.segments, self.from.at, self.until.at)),
            healed_gap_ms: healed.gap_ms,
            healed_lost: healed.lost,
            again_ms: self.again_ms,
            by_root: self.by_root,
        }
    }
}

/// Longest time between two moments, or before the end, within `from..until`.
fn longest(moments: &[Duration], from: Duration, until: Duration) -> f64 {
    let within = moments.iter().copied().filter(|at| (from..until).contains(at));
    let (gap, last) = within.fold((Duration::ZERO, from), |(gap, last), at| (gap.max(at - last), at));
    gap.max(until.saturating_sub(last)).as_secs_f64() * 1e3
}

/// The head of the rows.
pub fn head() -> &'static str {
    "\n### Failover of the line in use, one datagram a millisecond: p50 / p99 / most of all runs\n\n\
     | policy | failure | runs | longest gap, ms | lost | twice | out of order | TCP segments sent again | of these needless | TCP gap, ms | gap when it heals, ms | used again after, ms | by root, kB | gap before, ms |\n\
     |---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
}

impl Outcome {
    /// What failed.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    fn sorted(&self, value: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        let mut all: Vec<f64> = self.runs.iter().filter_map(value).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn row(&self) -> String {
        let of = |value: &dyn Fn(&Run) -> f64| three(&self.sorted(|run| Some(value(run))));
        let again = self.sorted(|run| run.again_ms);
        let never = self.runs.len() - again.len();
        format!(
            "| {} | {} | {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {}{} | {} | {} |",
            self.policy,
            self.cut,
            self.runs.len(),
            of(&|run| run.gap_ms),
            of(&|run| run.lost as f64),
            of(&|run| run.duplicated as f64),
            of(&|run| run.reordered as f64),
            of(&|run| run.tcp_sent_again as f64),
            of(&|run| run.tcp_needless as f64),
            three(&self.sorted(|run| run.tcp_gap_ms)),
            of(&|run| run.healed_gap_ms),
            three(&again),
            if never > 0 { format!(", {never} not within {} s", AGAIN_LIMIT.as_secs()) } else { String::new() },
            of(&|run| run.by_root as f64 / 1e3),
            of(&|run| run.calm_gap_ms),
        )
    }
}

fn three(sorted: &[f64]) -> String {
    match (median(sorted), percentile(sorted, 0.99), sorted.last()) {
        (Some(p50), Some(p99), Some(most)) => format!("{p50:.0} / {p99:.0} / {most:.0}"),
        _ => "-".to_owned(),
    }
}

/// Bars of the longest gaps.
pub fn plot(outcomes: &[Outcome]) -> Option<String> {
    let names: Vec<String> = Policy::ALL.iter().map(|policy| (*policy).to_owned()).collect();
    let bar = |outcome: &Outcome| {
        let gaps = outcome.sorted(|run| Some(run.gap_ms));
        let median = median(&gaps)?;
        Some(Bar {
            group: outcome.cut.clone(),
            label: outcome.policy.clone(),
            median,
            spread: (*gaps.first()?, *gaps.last()?),
            text: format!("{median:.0} ms"),
            colour: plot::colour(&outcome.policy, &names),
        })
    };
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| a.cut.cmp(&b.cut));
    plot::bars(&sorted.into_iter().filter_map(bar).collect::<Vec<_>>(), "ms, longest gap")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_counts_at_both_ends() {
        let ms = Duration::from_millis;
        let moments = [ms(0), ms(100), ms(130), ms(140)];
        assert_eq!(longest(&moments, ms(90), ms(145)), 30.0);
        assert_eq!(longest(&moments, ms(20), ms(145)), 80.0, "silent at first");
        assert_eq!(longest(&moments, ms(90), ms(300)), 160.0, "silent to the end");
        assert_eq!(longest(&[], ms(90), ms(100)), 10.0);
    }
}
