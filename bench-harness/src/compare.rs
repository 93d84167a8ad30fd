//! `compare`: Hawser and the other tunnels of this host, side by side. Only ratios within one repetition are trusted:
//! absolute figures drift with the machine's mood, and by more than the tunnels differ.

use std::collections::BTreeMap;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use lab::measure::UdpPlan;

use crate::cli::Shared;
use crate::load::{Ends, Load, Traffic, Ways};
use crate::plan::{Job, Plan};
use crate::record::{Cell, median, spread};
use crate::table::number;
use crate::tunnel::hawser::{self, Hawser};
use crate::tunnel::{Programs, Tunnel, boringtun, gotatun, nebula, none, plain, tinc, wireguard_go, zerotier_one};
use crate::{Error, Result};

/// Packets a second of a stream in which each packet is alone.
const LONE_PER_S: f64 = 2000.0;
/// MTU of the virtual network that a controller gives unasked.
const VIRTUAL_MTU: u32 = 2800;

/// What can be compared, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// No tunnel: the gateways route over the bare wire
    None,
    /// A tunnel without a cipher: what this kernel lets a tunnel carry
    Plain,
    /// Hawser
    Hawser,
    /// boringtun-cli
    Boringtun,
    /// gotatun
    Gotatun,
    /// wireguard-go
    WireguardGo,
    /// nebula
    Nebula,
    /// tincd
    Tinc,
    /// zerotier-one
    ZerotierOne,
}

impl Which {
    fn find(self, shared: &Shared, programs: &Programs) -> Result<Box<dyn Tunnel>> {
        let hawser = || hawser::program(shared.hawser.as_deref());
        Ok(match self {
            Which::None => Box::new(none::None),
            Which::Plain => Box::new(plain::Plain::new(VIRTUAL_MTU)?),
            Which::Hawser => Box::new(Hawser::new(hawser()?)),
            Which::Boringtun => Box::new(boringtun::find(programs)?),
            Which::Gotatun => Box::new(gotatun::find(programs)?),
            Which::WireguardGo => Box::new(wireguard_go::find(programs)?),
            Which::Nebula => Box::new(nebula::find(programs)?),
            Which::Tinc => Box::new(tinc::find(programs)?),
            Which::ZerotierOne => Box::new(zerotier_one::find(programs, hawser()?)?),
        })
    }
}

/// `compare`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What all measurements share.
    #[command(flatten)]
    pub shared: Shared,
    /// What to compare, with commas [default: all that is found]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub tunnels: Vec<Which>,
    /// What to compare with, with commas: names as in the tables
    #[arg(long, value_delimiter = ',', default_values_t = ["boringtun".to_owned(), "nebula".to_owned()])]
    pub yardstick: Vec<String>,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let (shared, programs) = (&options.shared, options.shared.programs());
    let mut plan = Plan { side_by_side: true, ..Plan::new(shared) };
    let mut notes = vec![];
    let wanted = if options.tunnels.is_empty() { Which::value_variants() } else { &options.tunnels };
    for which in wanted {
        for (offload, lan_mtu) in shared.rigs() {
            match which.find(shared, &programs) {
                Ok(tunnel) => {
                    let name = tunnel.name().to_owned();
                    plan.enter(&name, tunnel, shared.rig(offload, lan_mtu));
                }
                Err(why) => {
                    let note = format!("skipped: {why}");
                    eprintln!("{note}");
                    notes.push(note);
                    break;
                }
            }
        }
    }
    if plan.contestants.len() < 2 {
        return Err(Error::Unusable("fewer than two tunnels were found: see scripts/rivals".into()));
    }
    plan.jobs = jobs();
    let outcome = plan.run()?;
    let (cells, about) = (outcome.cells.clone(), outcome.tunnels.clone());
    let concluded = crate::cli::conclude(shared, outcome, notes);
    print(&cells, &about, &options.yardstick);
    concluded
}

fn jobs() -> Vec<Job> {
    let tcp = |streams| Load::new(Traffic::Tcp(streams));
    let udp = |size, packets_per_s| Load::new(Traffic::Udp(UdpPlan { size, packets_per_s, gso: false }));
    vec![
        Job::Rate(tcp(1)),
        Job::Rate(tcp(4)),
        Job::Rate(Load { ways: Ways::Both, ..tcp(1) }),
        Job::Rate(Load { ends: Ends::Gateways, ..tcp(1) }),
        Job::Rate(udp(64, None)),
        Job::Rate(udp(1200, None)),
        Job::Lone(udp(64, Some(LONE_PER_S))),
        Job::Ping(Load::new(Traffic::Idle)),
        Job::Ping(Load { ping: true, ..tcp(1) }),
    ]
}

/// One line of the tables: a quantity, and in which cell it is.
struct Line {
    title: &'static str,
    /// Load and metric of the cell; none: all cells of the tunnel, and the most counts.
    cell: Option<(&'static str, &'static str)>,
    value: fn(&Cell, usize) -> Option<f64>,
    /// Its column in [`PUBLISHED`].
    published: Option<usize>,
}

fn value(cell: &Cell, i: usize) -> Option<f64> {
    cell.repetitions.get(i).copied()
}

/// Without daemons there is nothing to count.
fn counted(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

#[rustfmt::skip]
const LINES: [Line; 12] = [
    Line { title: "TCP 1, Gbit/s", cell: Some(("TCP 1", "rate")), value, published: Some(0) },
    Line { title: "TCP 4, Gbit/s", cell: Some(("TCP 4", "rate")), value, published: Some(1) },
    Line { title: "TCP both ways, Gbit/s", cell: Some(("TCP 1, both ways", "rate")), value, published: Some(2) },
    Line { title: "TCP 1 gateway to gateway, Gbit/s", cell: Some(("TCP 1, gateway to gateway", "rate")), value, published: Some(3) },
    Line { title: "UDP 64 B, packets/s", cell: Some(("UDP 64 B", "delivered")), value, published: Some(4) },
    Line { title: "UDP 1200 B, packets/s", cell: Some(("UDP 1200 B", "delivered")), value, published: Some(5) },
    Line { title: "CPU s/GB, TCP 1", cell: Some(("TCP 1", "rate")), value: |c, i| counted(c.runs.get(i)?.cpu_s_per_gb()?), published: Some(6) },
    Line { title: "CPU us/packet, UDP 64 B", cell: Some(("UDP 64 B", "delivered")), value: |c, i| counted(c.runs.get(i)?.cpu_us_per_packet()?), published: Some(7) },
    Line { title: "CPU us/lone packet", cell: Some(("UDP 64 B at 2000/s", "CPU per packet")), value: |c, i| counted(value(c, i)?), published: None },
    Line { title: "ping p50 idle, ms", cell: Some(("idle", "ping p50")), value, published: Some(8) },
    Line { title: "ping p50 under TCP, ms", cell: Some(("TCP 1", "ping p50")), value, published: Some(9) },
    Line { title: "peak memory, MiB", cell: None, value: |c, i| counted(*c.runs.get(i)?.peak_kib.iter().max()? as f64 / 1024.0), published: Some(10) },
];

/// What tunnels did measured beside ZeroTierOne 1.14.1 on a machine of this kind (2 virtual cores of a Xeon with VAES and
/// AVX-512, Linux 6.18, veth as it comes, MTU 1500, this same rig with iperf3): name, version, and the medians of the
/// ratios to ZeroTierOne within one repetition, by [`Line::published`].
const PUBLISHED: [(&str, &str, [f64; 11]); 7] = [
    ("wireguard-go", "0.0.2023", [2.89, 2.62, 2.38, 1.92, 0.59, 0.53, 0.32, 1.91, 1.30, 0.47, 31.6]),
    ("wireguard-go", "0.0.20220316", [0.72, 0.60, 0.71, 0.40, 0.76, 0.60, 1.00, 1.22, 3.15, 0.72, 9.80]),
    ("nebula", "1.6.1", [1.18, 0.96, 1.01, 0.63, 1.06, 1.23, 0.71, 1.13, 0.99, 0.56, 1.23]),
    ("gotatun", "0.10.2", [0.94, 1.02, 0.74, 0.42, 0.88, 0.82, 0.89, 1.16, 1.29, 0.83, 1.94]),
    ("boringtun", "0.7.1", [0.93, 1.16, 1.09, 0.62, 1.03, 1.25, 0.72, 1.16, 0.90, 0.38, 0.29]),
    ("tinc", "1.0.36", [0.73, 0.62, 0.60, 0.37, 0.71, 0.65, 1.35, 1.54, 1.18, 0.72, 0.45]),
    ("zerotier-one", "1.14.1", [1.0; 11]),
];

/// The published ratios of a tunnel in the version at hand.
fn published(name: &str, about: &str) -> Option<&'static [f64; 11]> {
    PUBLISHED.iter().find(|(n, version, _)| *n == name && about.contains(version)).map(|(.., ratios)| ratios)
}

type Setup = BTreeMap<String, String>;
type ByRepetition = BTreeMap<u32, f64>;

/// The quantity of one tunnel by number of the repetition.
fn values(cells: &[Cell], setup: &Setup, tunnel: &str, line: &Line) -> ByRepetition {
    let mut all = ByRepetition::new();
    let is_in = |c: &&Cell| line.cell.is_none_or(|(load, metric)| c.load == load && c.metric == metric);
    for cell in cells.iter().filter(|c| c.tunnel == tunnel && c.setup == *setup).filter(is_in) {
        for (i, run) in cell.runs.iter().enumerate() {
            if let Some(value) = (line.value)(cell, i) {
                let most = all.entry(run.repetition).or_insert(value);
                *most = most.max(value);
            }
        }
    }
    all
}

/// How often `to` goes into `of`, in each repetition that has both.
fn ratios(of: &ByRepetition, to: &ByRepetition) -> Vec<f64> {
    of.iter().filter_map(|(repetition, value)| Some(value / to.get(repetition)?)).collect()
}

/// The tables of ratios to each yardstick, and of the same in units of ZeroTierOne.
fn print(cells: &[Cell], about: &BTreeMap<String, String>, yardsticks: &[String]) {
    // In the order of the cells.
    let (mut setups, mut tunnels): (Vec<&Setup>, Vec<&str>) = (vec![], vec![]);
    for cell in cells {
        if !setups.contains(&&cell.setup) {
            setups.push(&cell.setup);
        }
        if !tunnels.contains(&cell.tunnel.as_str()) {
            tunnels.push(&cell.tunnel);
        }
    }
    for setup in setups {
        let text: Vec<String> = setup.iter().map(|(name, value)| format!("{name} {value}")).collect();
        for yardstick in yardsticks {
            if !tunnels.contains(&yardstick.as_str()) {
                println!("\nno ratios to {yardstick}: it was not measured");
                continue;
            }
            let of = |tunnel: &str, line: &Line| {
                ratios(&values(cells, setup, tunnel, line), &values(cells, setup, yardstick, line))
            };
            println!("\nratios to {yardstick}, median (least to most) of the repetitions; {}", text.join(", "));
            println!("{}", table(&tunnels, |tunnel, line| spread_text(&of(tunnel, line))));
            let own = about.get(yardstick).map_or("", String::as_str);
            let Some(published_of_yardstick) = published(yardstick, own) else {
                println!("no ratio of {own:?} to ZeroTierOne is known: not converted");
                continue;
            };
            println!(
                "\ntimes ZeroTierOne 1.14.1, by what {yardstick} was measured to be beside it [what the tunnel itself was]"
            );
            let converted = table(&tunnels, |tunnel, line| {
                let column = line.published?;
                let ratio = median(of(tunnel, line))? * published_of_yardstick[column];
                let known = published(tunnel, about.get(tunnel)?).filter(|_| tunnel != yardstick);
                Some(known.map_or(number(ratio), |known| format!("{} [{}]", number(ratio), number(known[column]))))
            });
            println!("{converted}");
        }
    }
}

fn spread_text(ratios: &[f64]) -> Option<String> {
    let (least, most) = spread(ratios)?;
    let middle = number(median(ratios.to_vec())?);
    Some(if ratios.len() == 1 { middle } else { format!("{middle} ({} to {})", number(least), number(most)) })
}

fn table(tunnels: &[&str], text: impl Fn(&str, &Line) -> Option<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(std::iter::once("").chain(tunnels.iter().copied()));
    for line in &LINES {
        let row = tunnels.iter().map(|tunnel| text(tunnel, line).unwrap_or_else(|| "-".to_owned()));
        table.add_row(std::iter::once(line.title.to_owned()).chain(row));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Better, Run};

    fn cell(tunnel: &str, repetitions: &[(u32, f64)]) -> Cell {
        let mut cell = Cell::new(tunnel, Setup::new(), "TCP 1", "rate", "Gbit/s", Better::Higher);
        for &(repetition, value) in repetitions {
            cell.repetitions.push(value);
            cell.runs.push(Run { repetition, peak_kib: [1024, 2048 << repetition], ..Run::default() });
        }
        cell
    }

    #[test]
    fn ratios_are_taken_within_a_repetition_and_what_failed_is_left_out() {
        let cells = [cell("hawser", &[(0, 8.0), (1, 6.0), (2, 9.0)]), cell("boringtun", &[(0, 2.0), (2, 1.0)])];
        let of = |tunnel| values(&cells, &Setup::new(), tunnel, &LINES[0]);
        assert_eq!(ratios(&of("hawser"), &of("boringtun")), [4.0, 9.0]);
    }

    #[test]
    fn peak_memory_is_the_larger_gateway_s_and_the_most_of_all_loads() {
        let mut later = cell("hawser", &[(0, 1.0)]);
        later.load = "TCP 4".into();
        later.runs[0].peak_kib = [9 << 10, 1 << 10];
        let cells = [cell("hawser", &[(0, 8.0), (1, 6.0)]), later];
        let memory = LINES.iter().find(|line| line.cell.is_none()).unwrap();
        assert_eq!(values(&cells, &Setup::new(), "hawser", memory), ByRepetition::from([(0, 9.0), (1, 4.0)]));
    }

    #[test]
    fn every_line_finds_its_cell_among_what_is_measured() {
        let contestant = crate::plan::Contestant {
            label: "none".into(),
            tunnel: Box::new(none::None),
            rig: crate::rig::RigOptions::default(),
        };
        let cells: Vec<Cell> = jobs().iter().map(|job| job.cell(&contestant)).collect();
        for line in &LINES {
            let found = |(load, metric)| cells.iter().any(|c| c.load == load && c.metric == metric);
            assert!(line.cell.is_none_or(found), "{}", line.title);
        }
    }

    #[test]
    fn a_yardstick_is_converted_only_in_the_version_that_was_measured() {
        assert_eq!(published("wireguard-go", "wireguard-go v0.0.20220316, x").unwrap()[0], 0.72);
        assert_eq!(published("wireguard-go", "wireguard-go v0.0.20231211, x").unwrap()[0], 2.89);
        assert!(published("boringtun", "boringtun 0.8.0").is_none());
    }
}
