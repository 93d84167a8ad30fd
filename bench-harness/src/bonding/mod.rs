//! `bench-harness bonding`: several lines as one. Two gateways behind which a LAN host each stands are joined by lines with
//! rates, delays and losses of their own; measured is what gets through, what a failing line costs, and how shares follow.

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::record::Machine;
use crate::{Error, IoContext, Result, machine};

pub mod broadcast;
pub mod decline;
pub mod failover;
pub mod idle;
pub mod links;
pub mod options;
pub mod throughput;
pub mod traffic;

use links::Line;
pub use options::{Far, Options, Part, Policy};

/// What is saved.
#[derive(Debug, Default, Serialize)]
struct Saved {
    command: Vec<String>,
    begun_unix_s: u64,
    machine: Machine,
    hawser: String,
    far: String,
    /// Congestion control of the hosts' TCP.
    congestion: String,
    tcp: Vec<throughput::Outcome>,
    failover: Vec<failover::Outcome>,
    quality: Vec<decline::Outcome>,
    broadcast: Vec<broadcast::Outcome>,
    idle: Vec<idle::Outcome>,
    failures: Vec<String>,
}

/// Measures, prints, saves.
pub fn run(options: &Options) -> Result<()> {
    links::check(options.congestion.as_deref())?;
    // Threads and daemons started from here on go before other work of this host, where that is permitted.
    let _ = lab::netns::run("renice", &["-n", "-10", "-p", &std::process::id().to_string()]);
    let parts: Vec<Part> = match options.only.as_slice() {
        [] => Part::value_variants().iter().copied().filter(|part| *part != Part::Links).collect(),
        asked => asked.to_vec(),
    };
    let begun = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let mut saved = Saved {
        command: std::env::args().skip(1).collect(),
        begun_unix_s: begun.map_or(0, |since| since.as_secs()),
        machine: machine::facts(),
        hawser: options.tunnel(&Policy::none(), 0)?.about(),
        far: format!("{:?}", options.far).to_lowercase(),
        congestion: options.congestion(),
        ..Saved::default()
    };
    for part in parts {
        // What was measured before is kept, whatever happens to this one.
        if let Err(e) = measure(options, part, &mut saved) {
            saved.failures.push(format!("{part:?}: {e}"));
        }
        if lab::interrupted() {
            break;
        }
    }
    saved.failures.iter().for_each(|failure| eprintln!("failed: {failure}"));
    if let Some(file) = &options.out {
        let text = serde_json::to_string_pretty(&saved).expect("plain data");
        std::fs::write(file, text + "\n").doing(format!("write {}", file.display()))?;
    }
    if let Some(folder) = &options.plots {
        plots(options, folder, &saved)?;
    }
    match saved.failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Unusable("something could not be measured".into())),
    }
}

fn measure(options: &Options, part: Part, saved: &mut Saved) -> Result<()> {
    let lines: Vec<Line> = options.links.iter().map(|line| options.adjusted(*line)).collect();
    match part {
        Part::Failover => {
            println!("{}", failover::head());
            let outcomes = failover::measure(options, &lines)?;
            saved.failures.extend(outcomes.iter().flat_map(|o| o.failures().to_vec()));
            saved.failover.extend(outcomes);
        }
        Part::Quality => {
            let outcomes = decline::measure(options, &lines, &mut saved.failures)?;
            println!("{}", decline::table(&outcomes));
            saved.quality.extend(outcomes);
        }
        Part::Broadcast => {
            let outcomes = broadcast::measure(options, &lines)?;
            println!("{}", broadcast::table(&outcomes));
            saved.broadcast.extend(outcomes);
        }
        Part::Idle => {
            let outcomes = idle::measure(options, &lines)?;
            println!("{}", idle::table(&outcomes));
            saved.idle.extend(outcomes);
        }
        tcp => {
            let name = tcp.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
            let known = throughput::SCENARIOS.iter().find(|scenario| scenario.name == name);
            let outcome = throughput::measure(options, &name, known.map_or(&lines, |scenario| scenario.lines))?;
            println!("{}", outcome.table(&options.flows));
            saved.failures.extend(outcome.failures().to_vec());
            saved.tcp.push(outcome);
        }
    }
    Ok(())
}

fn plots(options: &Options, folder: &Path, saved: &Saved) -> Result<()> {
    std::fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
    let save = |name: String, svg: String| {
        let file = folder.join(format!("bonding-{name}.svg"));
        std::fs::write(&file, svg).doing(format!("write {}", file.display()))
    };
    for &flows in &options.flows {
        if let Some(svg) = throughput::plot(&saved.tcp, flows) {
            save(format!("tcp-{flows}"), svg)?;
        }
    }
    if let Some(svg) = failover::plot(&saved.failover) {
        save("failover".into(), svg)?;
    }
    decline::plots(&saved.quality).into_iter().try_for_each(|(kind, svg)| save(format!("quality-{kind}"), svg))
}

/// The nearest rank of sorted values.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&values, share)), [Some(50.0), Some(99.0), Some(100.0)]);
        assert_eq!((percentile(&[3.0], 0.99), percentile(&[], 0.99)), (Some(3.0), None));
    }

    #[test]
    fn every_set_of_lines_is_a_part_that_can_be_asked_for() {
        let parts: Vec<String> =
            Part::value_variants().iter().filter_map(|p| Some(p.to_possible_value()?.get_name().to_owned())).collect();
        assert!(throughput::SCENARIOS.iter().all(|scenario| parts.contains(&scenario.name.to_owned())));
    }
}
