//! What a stream of one datagram a millisecond from A to B loses while the line that carries it fails, in every way a line can;
//! what a thin TCP flow beside it had to send again; and when the line is used again once it is well.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::links::{Cut, Line, World};
use super::traffic::{self, Clock, Moment, Seen};
use super::{Options, Policy, percentile};
use crate::failover::judge;
use crate::plot::{self, Bar};
use crate::record::median;
use crate::{Error, Result};

/// For the paths to be there again before the next run; who never finds them again runs without.
const PATHS_LIMIT: Duration = Duration::from_secs(20);
/// How long all lines must have been well before one fails.
const CALM: Duration = Duration::from_millis(500);
/// Failures come at every phase of what is done once in so long.
const PHASES: u64 = 100;
/// Datagrams sent up to so long before the failure count as exposed to it.
const EXPOSED: Duration = Duration::from_millis(200);
/// A line counts as used once it carries this share of what it carried before.
const USED: f64 = 0.1;
/// How often its bytes are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// For the healed line to be used again.
const AGAIN_LIMIT: Duration = Duration::from_secs(5);
/// Who has found the line good for so long and does not use it stays where it is.
const STAYS: Duration = Duration::from_millis(500);

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
    /// Segments of the thin TCP flow that were lost: sent again, less the needless ones.
    tcp_lost: u64,
    /// Segments of it that were sent again.
    tcp_sent_again: u64,
    /// Of these, what had arrived before: only the acknowledgement was lost or late.
    tcp_needless: u64,
    /// Frames to B that found the buffer of a line full from the failure on: a flow that stood still and then sends at once what
    /// it could not send loses them, and a datagram beside it.
    overflowed: u64,
    /// Longest time in which nothing of the TCP flow arrived, until some time after the line was healed; none: no such flow.
    tcp_gap_ms: Option<f64>,
    /// Longest time without an arrival after the line was healed, and what was lost then.
    healed_gap_ms: f64,
    healed_lost: u64,
    /// Until A's bond found the healed line good; none: not within the limit, or there is no bond.
    usable_ms: Option<f64>,
    /// Until the healed line carried data again; none: not within the limit, or the bond stayed where it was.
    again_ms: Option<f64>,
    /// The bond held the healed line back, since it failed too often.
    held: bool,
    /// Bytes that went by the root meanwhile.
    by_root: u64,
}

/// All runs of one kind of failure with one policy.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    policy: String,
    cut: String,
    lines: Vec<Line>,
    /// The set-up, and all runs.
    seconds: [f64; 2],
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
            let (runs, failures) = (vec![], vec![]);
            let mut outcome = Outcome { policy: policy_name, cut: cut_name, lines, seconds: [0.0; 2], runs, failures };
            if let Err(e) = several(options, &policy, cut, &mut outcome) {
                outcome.failures.push(format!("failover, {policy}, {cut:?}: {e}"));
            }
            let [set_up, all] = outcome.seconds;
            options.say(&format!("  set up in {set_up:.1} s, {} failures in {all:.1} s", outcome.runs.len()));
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
    usable_ms: Option<f64>,
    again_ms: Option<f64>,
    held: bool,
    overflowed: u64,
    by_root: u64,
}

fn several(options: &Options, policy: &Policy, cut: Cut, outcome: &mut Outcome) -> Result<()> {
    let began = Instant::now();
    let world = options.world(policy, &outcome.lines)?;
    outcome.seconds[0] = began.elapsed().as_secs_f64();
    let (began, mut all) = (Instant::now(), Vec::new());
    let (failed, seen) = traffic::stream(&world, true, |clock| {
        let one = |nth| one(options, policy, &world, cut, nth, clock).map(|raw| all.push(raw));
        // What was measured before something broke is still worth telling.
        Ok((0..options.runs(5)).try_for_each(one))
    })?;
    outcome.seconds[1] = began.elapsed().as_secs_f64();
    outcome.runs = all.iter().map(|raw| raw.judge(&seen)).collect();
    failed
}

fn one(options: &Options, policy: &Policy, world: &World, cut: Cut, nth: u32, clock: &Clock<'_>) -> Result<Raw> {
    // A bond of one active line takes a line that was held back as any other, if it is the only one.
    let _ = match policy.bonds() {
        true => world.wait_for_bond(!policy.is("active-backup"), PATHS_LIMIT)?,
        false => world.wait_for_paths(PATHS_LIMIT)?,
    };
    let calm = clock.now()?;
    std::thread::sleep(CALM + Duration::from_millis(u64::from(nth) * 37 % PHASES));
    let line = world.busiest(Duration::from_millis(100));
    let carries = |time: Duration| {
        let before = world.carried()[line][0].bytes;
        std::thread::sleep(time);
        (world.carried()[line][0].bytes - before) as f64 / time.as_secs_f64()
    };
    let usual = carries(LOOK * 10);
    let by_root = world.by_root()?;
    let full = || world.carried().iter().map(|line| line[0].overflowed).sum::<u64>();
    let overflowed = full();
    let from = clock.now()?;
    world.cut(line, cut)?;
    crate::load::pause(options.window(1.5));
    let until = clock.now()?;
    let by_root = world.by_root()? - by_root;
    world.heal(line, cut)?;
    let (healed, mut usable, mut again, mut held) = (Instant::now(), None, None, false);
    while healed.elapsed() < AGAIN_LIMIT {
        let carries = carries(LOOK) > usual * USED;
        again = again.or(carries.then(|| healed.elapsed()));
        let standing = if usable.is_none() { world.bond().map(|lines| lines[line]) } else { None };
        if let Some(standing) = standing.filter(|standing| standing.good) {
            (usable, held) = (Some(healed.elapsed()), standing.held);
        }
        let stays = usable.is_some_and(|at| healed.elapsed() > at + STAYS);
        if stays || again.is_some() && (usable.is_some() || !policy.bonds()) {
            break;
        }
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
    }
    std::thread::sleep(EXPOSED);
    let [usable_ms, again_ms] = [usable, again].map(|at| at.map(|at| at.as_secs_f64() * 1e3));
    let overflowed = full() - overflowed;
    Ok(Raw { line, calm, from, until, end: clock.now()?, usable_ms, again_ms, held, overflowed, by_root })
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
        let [again, needless] = [self.end.retransmitted_since(&self.from), self.end.needless_since(&self.from)];
        Run {
            line: self.line,
            calm_gap_ms: calm.gap_ms,
            gap_ms: hit.gap_ms,
            sent: hit.sent,
            lost: hit.lost,
            duplicated: hit.duplicated,
            reordered: hit.reordered,
            tcp_lost: again.saturating_sub(needless),
            tcp_sent_again: again,
            tcp_needless: needless,
            overflowed: self.overflowed,
            tcp_gap_ms: (!seen.segments.is_empty()).then(|| longest(&seen.segments, self.from.at, self.end.at)),
            healed_gap_ms: healed.gap_ms,
            healed_lost: healed.lost,
            usable_ms: self.usable_ms,
            again_ms: self.again_ms,
            held: self.held,
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
     | policy | failure | runs | longest gap, ms | lost | twice | out of order | TCP segments lost | sent again | of these needless | dropped by full buffers | TCP gap, ms | gap when it heals, ms | lost then | found good after, ms | used again after, ms | by root, kB | gap before, ms |\n\
     |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
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
        let again = |held| self.sorted(|run| run.again_ms.filter(|_| run.held == held));
        let (never, held) = (
            self.runs.iter().filter(|run| run.again_ms.is_none()).count(),
            self.runs.iter().filter(|run| run.held).count(),
        );
        let few = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
        let whole = self.runs.iter().filter(|run| run.tcp_lost == 0).count();
        let cells = [
            self.policy.clone(),
            self.cut.clone(),
            self.runs.len().to_string(),
            format!("**{}**", of(&|run| run.gap_ms)),
            of(&|run| run.lost as f64),
            of(&|run| run.duplicated as f64),
            of(&|run| run.reordered as f64),
            format!("{}, none in {whole}", of(&|run| run.tcp_lost as f64)),
            of(&|run| run.tcp_sent_again as f64),
            of(&|run| run.tcp_needless as f64),
            of(&|run| run.overflowed as f64),
            three(&self.sorted(|run| run.tcp_gap_ms)),
            of(&|run| run.healed_gap_ms),
            of(&|run| run.healed_lost as f64),
            three(&self.sorted(|run| run.usable_ms)),
            format!("{}{}{}", three(&again(false)), few(never, "not used again"), few(held, "held back")),
            of(&|run| run.by_root as f64 / 1e3),
            of(&|run| run.calm_gap_ms),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

fn three(sorted: &[f64]) -> String {
    match (median(sorted.to_vec()), percentile(sorted, 0.99), sorted.last()) {
        (Some(p50), Some(p99), Some(most)) => format!("{p50:.0} / {p99:.0} / {most:.0}"),
        _ => "-".to_owned(),
    }
}

/// Bars of the longest gaps.
pub fn plot(outcomes: &[Outcome]) -> Option<String> {
    let names: Vec<String> = Policy::ALL.iter().map(|policy| (*policy).to_owned()).collect();
    let bar = |outcome: &Outcome| {
        let gaps = outcome.sorted(|run| Some(run.gap_ms));
        let median = median(gaps.clone())?;
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
