//! Two saved results side by side, cell by cell: what changed, by how much, and whether that is more than noise. It knows
//! records only; how to show the answer is `report`'s business.

use std::collections::BTreeMap;

use crate::record::{Better, Cell, Record, median, spread};

/// A median that moved by less than this share is called noise whatever the spreads say.
pub const SMALLEST: f64 = 0.02;

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No repetition of the newer result is as bad as the best of the older.
    Better,
    /// No repetition of the newer result is as good as the worst of the older.
    Worse,
    /// The repetitions overlap, or the medians lie closer than [`SMALLEST`].
    WithinNoise,
    /// One of the results has a single repetition, which says nothing about noise.
    Unknown,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::WithinNoise => "within noise",
            Verdict::Unknown => "one repetition: noise unknown",
        })
    }
}

/// Median, least and most of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Side {
    /// Median.
    pub median: f64,
    /// Least and most.
    pub spread: (f64, f64),
    /// How many repetitions.
    pub repetitions: usize,
}

/// One quantity in both results.
#[derive(Clone, Debug)]
pub struct Change {
    /// The tunnel.
    pub tunnel: String,
    /// The load.
    pub load: String,
    /// The setup as text.
    pub setup: String,
    /// What it is, e.g. "rate", "CPU".
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The older result.
    pub older: Side,
    /// The newer result.
    pub newer: Side,
    /// Median of the newer by that of the older.
    pub ratio: f64,
    /// What it means.
    pub verdict: Verdict,
}

/// Two results, compared.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What is in both, in the order of the newer one.
    pub changes: Vec<Change>,
    /// Cells of the newer result only.
    pub only_newer: Vec<String>,
    /// Cells of the older result only.
    pub only_older: Vec<String>,
    /// Why the two may not be comparable at all.
    pub warnings: Vec<String>,
}

/// One number of a cell: its own, or one that follows from its runs.
pub struct Quantity {
    /// What it is.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// One value for each repetition.
    pub values: Vec<f64>,
}

/// The cell's own quantity, and the daemons' CPU time for it if there are daemons.
pub fn quantities(cell: &Cell) -> Vec<Quantity> {
    let own = Quantity {
        metric: cell.metric.clone(),
        unit: cell.unit.clone(),
        better: cell.better,
        values: cell.repetitions.clone(),
    };
    let runs = || cell.runs.iter().filter(|run| run.daemon_cpu_s.iter().sum::<f64>() > 0.0);
    let (unit, values): (&str, Vec<f64>) = if cell.metric == "rate" {
        ("s/GB", runs().filter_map(|run| run.cpu_s_per_gb()).collect())
    } else if cell.metric == "delivered" {
        ("us/packet", runs().filter_map(|run| run.cpu_us_per_packet()).collect())
    } else {
        ("", vec![])
    };
    let cpu = Quantity { metric: "CPU of both daemons".into(), unit: unit.into(), better: Better::Lower, values };
    [own, cpu].into_iter().filter(|quantity| !quantity.values.is_empty()).collect()
}

/// Compares `newer` with `older`.
pub fn compare(newer: &Record, older: &Record) -> Comparison {
    let mut comparison = Comparison { warnings: warnings(newer, older), ..Comparison::default() };
    for cell in &newer.cells {
        let Some(before) = older.counterpart(&cell.tunnel, cell) else {
            comparison.only_newer.push(name(cell));
            continue;
        };
        let before: BTreeMap<String, Quantity> =
            quantities(before).into_iter().map(|q| (q.metric.clone(), q)).collect();
        for now in quantities(cell) {
            let sides = before.get(&now.metric).and_then(|then| side(&then.values)).zip(side(&now.values));
            let Some((older, newer)) = sides else { continue };
            comparison.changes.push(Change {
                tunnel: cell.tunnel.clone(),
                load: cell.load.clone(),
                setup: cell.setup_text(),
                metric: now.metric,
                unit: now.unit,
                older,
                newer,
                ratio: newer.median / older.median,
                verdict: verdict(&older, &newer, now.better),
            });
        }
    }
    let gone = older.cells.iter().filter(|cell| newer.counterpart(&cell.tunnel, cell).is_none());
    comparison.only_older = gone.map(name).collect();
    comparison
}

fn name(cell: &Cell) -> String {
    format!("{}, {}, {} ({})", cell.tunnel, cell.load, cell.metric, cell.setup_text())
}

fn side(values: &[f64]) -> Option<Side> {
    Some(Side { median: median(values.to_vec())?, spread: spread(values)?, repetitions: values.len() })
}

fn verdict(older: &Side, newer: &Side, better: Better) -> Verdict {
    if older.repetitions < 2 || newer.repetitions < 2 {
        return Verdict::Unknown;
    }
    let overlap = newer.spread.0 <= older.spread.1 && older.spread.0 <= newer.spread.1;
    if overlap || (newer.median - older.median).abs() <= SMALLEST * older.median.abs() {
        return Verdict::WithinNoise;
    }
    match (newer.median > older.median) == (better == Better::Higher) {
        true => Verdict::Better,
        false => Verdict::Worse,
    }
}

fn warnings(newer: &Record, older: &Record) -> Vec<String> {
    let (now, then) = (&newer.machine, &older.machine);
    let mut warnings = Vec::new();
    let mut differ = |what: &str, now: &str, then: &str| {
        if now != then {
            warnings.push(format!("the {what} differs: {then} then, {now} now"));
        }
    };
    differ("processor", &now.cpu, &then.cpu);
    differ("number of processors", &now.cores.to_string(), &then.cores.to_string());
    differ("kernel", &now.kernel, &then.kernel);
    differ("congestion control", &now.congestion_control, &then.congestion_control);
    let load = |machine: &crate::record::Machine| machine.load_average[0];
    if load(now).max(load(then)) > now.cores as f64 / 2.0 {
        let (then, now) = (load(then), load(now));
        warnings.push(format!("the machine had other work: load average {then:.1} then, {now:.1} now"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(values: &[f64]) -> Side {
        super::side(values).unwrap()
    }

    #[test]
    fn what_does_not_overlap_is_better_or_worse_by_the_direction_that_is_good() {
        let (slow, fast) = (side(&[1.0, 1.1, 1.2]), side(&[2.0, 2.1, 2.2]));
        assert_eq!(verdict(&slow, &fast, Better::Higher), Verdict::Better);
        assert_eq!(verdict(&slow, &fast, Better::Lower), Verdict::Worse);
        assert_eq!(verdict(&fast, &slow, Better::Lower), Verdict::Better);
    }

    #[test]
    fn overlap_and_tiny_steps_are_noise_and_one_repetition_says_nothing() {
        let older = side(&[1.0, 1.1, 1.2]);
        assert_eq!(verdict(&older, &side(&[1.15, 1.5, 1.9]), Better::Higher), Verdict::WithinNoise);
        assert_eq!(verdict(&side(&[1.0, 1.001]), &side(&[1.01, 1.011]), Better::Higher), Verdict::WithinNoise);
        assert_eq!(verdict(&older, &side(&[9.0]), Better::Higher), Verdict::Unknown);
    }

    #[test]
    fn cells_are_matched_by_tunnel_load_metric_and_setup() {
        let record = |cells: Vec<Cell>| Record {
            format: crate::record::FORMAT,
            command: vec![],
            begun_unix_s: 0,
            machine: Default::default(),
            options: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            cells,
            notes: vec![],
        };
        let cell = |load: &str, values: &[f64]| {
            let mut cell = Cell::new("hawser", BTreeMap::new(), load, "rate", "Gbit/s", Better::Higher);
            cell.repetitions = values.to_vec();
            cell
        };
        let older = record(vec![cell("TCP 1", &[4.0, 4.2]), cell("TCP 4", &[5.0, 5.1])]);
        let newer = record(vec![cell("TCP 1", &[8.0, 8.4]), cell("TCP 16", &[5.0, 5.1])]);
        let comparison = compare(&newer, &older);
        assert_eq!(comparison.changes.len(), 1);
        assert_eq!((comparison.changes[0].ratio, comparison.changes[0].verdict), (2.0, Verdict::Better));
        assert!(comparison.only_newer[0].contains("TCP 16") && comparison.only_older[0].contains("TCP 4"));
    }
}
