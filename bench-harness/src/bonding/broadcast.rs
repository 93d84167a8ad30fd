//! What broadcast makes of a line that loses: of a stream over all lines nothing may be missing, and nothing come twice.

use std::time::Duration;

use serde::Serialize;

use super::links::Line;
use super::{Far, Options, traffic};
use crate::Result;
use crate::failover::judge;

/// What arrived of a stream that goes over every line, while the last one loses.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
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
pub fn measure(options: &Options, lines: &[Line]) -> Result<Vec<Outcome>> {
    const LOSS: f64 = 0.3;
    let both = Options { far: Far::Bonded, ..options.clone() };
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
        outcomes.push(Outcome {
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
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = "\n### One datagram a millisecond, 30 % lost on the last line, both gateways bond\n\n".to_owned();
    text += "| policy | sent | lost | twice | out of order | longest gap, ms | frames by line |\n|---|---|---|---|---|---|---|\n";
    for b in outcomes {
        let Outcome { policy, sent, lost, duplicated, reordered, gap_ms, frames, .. } = b;
        text += &format!("| {policy} | {sent} | {lost} | {duplicated} | {reordered} | {gap_ms:.1} | {frames:?} |\n");
    }
    text
}
