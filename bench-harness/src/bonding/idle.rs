//! What a bonded peer costs while nothing is to be said: probes, keep-alives and reports over every line.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Options;
use super::links::Line;
use crate::{Error, Result};

/// What passes while nothing is to be said.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
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
pub fn measure(options: &Options, lines: &[Line]) -> Result<Vec<Outcome>> {
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
        outcomes.push(Outcome {
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
pub fn table(outcomes: &[Outcome]) -> String {
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
