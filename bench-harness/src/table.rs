//! Cells as tables for people: medians with spread, and what each cost.

use comfy_table::{ContentArrangement, Table, presets};

use crate::record::{Cell, Run, median};

type Column = (&'static str, fn(&Cell) -> Option<String>);

/// Columns of which those are shown that have something to say.
const COLUMNS: [Column; 19] = [
    ("load", |c| Some(c.load.clone())),
    ("rig", |c| Some(format!("{}, LAN MTU {}", c.setup.get("offload")?, c.setup.get("lan_mtu")?))),
    ("tunnel", |c| Some(c.tunnel.clone())),
    ("", |c| Some(format!("{}, {}", c.metric, c.unit))),
    ("median", |c| c.median().map(number)),
    ("least to most", |c| {
        c.spread().filter(|_| c.repetitions.len() > 1).map(|(a, b)| format!("{} to {}", number(a), number(b)))
    }),
    ("p90 ms", |c| c.median_of(|r| r.latency.map(|l| l.p90_us / 1e3)).map(number)),
    ("p99 ms", |c| c.median_of(|r| r.latency.map(|l| l.p99_us / 1e3)).map(number)),
    ("p99.9 ms", |c| c.median_of(|r| r.latency.map(|l| l.p999_us / 1e3)).map(number)),
    ("Gbit/s", |c| {
        (c.unit == "packets/s").then(|| c.median_of(|r| Some(r.bytes as f64 * 8e-9 / r.seconds)).map(number))?
    }),
    ("CPU s/GB", |c| c.median_of(|r| r.cpu_s_per_gb().filter(|_| has_daemons(r) && r.packets == 0)).map(number)),
    ("CPU us/packet", |c| {
        c.median_of(|r| r.cpu_us_per_packet().filter(|_| has_daemons(r)))
            .filter(|_| c.metric != "CPU per packet")
            .map(number)
    }),
    ("machine busy", |c| c.median_of(|r| Some(r.machine_cpu_s / r.seconds)).map(|cores| format!("{cores:.2} cores"))),
    ("cycles/packet", |c| c.median_of(|r| per_packet(r, r.cycles)).map(number)),
    ("instr./packet", |c| c.median_of(|r| per_packet(r, r.instructions)).map(number)),
    ("lost", |c| {
        let share = c.median_of(|r| (r.sent > 0).then(|| r.loss() * 100.0))?;
        let socket =
            c.median_of(|r| Some(r.lost_at_socket as f64 / r.sent as f64 * 100.0)).filter(|&share| share > 0.0);
        let socket = socket.map(|share| format!(", at the socket {}", number(share))).unwrap_or_default();
        Some(format!("{} %{socket}", number(share)))
    }),
    ("sent again", |c| sum(c, |r| r.retransmits)),
    ("out of order", |c| sum(c, |r| r.out_of_order)),
    ("peak MiB", |c| {
        let mib = |i: usize| {
            median(c.runs.iter().filter(|r| has_daemons(r)).map(|r| r.peak_kib[i] as f64 / 1024.0).collect())
        };
        Some(format!("{:.1} {:.1}", mib(0)?, mib(1)?))
    }),
];

fn has_daemons(run: &Run) -> bool {
    run.peak_kib != [0, 0]
}

fn per_packet(run: &Run, n: Option<u64>) -> Option<f64> {
    (run.packets > 0).then(|| n.map(|n| n as f64 / run.packets as f64))?
}

/// Over all repetitions of a TCP load.
fn sum(cell: &Cell, f: impl Fn(&Run) -> u64) -> Option<String> {
    cell.load.starts_with("TCP").then(|| cell.runs.iter().map(f).sum::<u64>().to_string())
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// One row a cell.
pub fn of(cells: &[Cell]) -> Table {
    let shown: Vec<&Column> =
        COLUMNS.iter().filter(|(_, text)| cells.iter().any(|c| !c.runs.is_empty() && text(c).is_some())).collect();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(shown.iter().map(|(title, _)| *title));
    for cell in cells {
        table.add_row(shown.iter().map(|(_, text)| text(cell).unwrap_or_default()));
    }
    table
}

/// What failed, one line each.
pub fn failures(cells: &[Cell]) -> Vec<String> {
    let of = |c: &Cell| {
        c.failures.iter().map(|f| format!("{}, {}, {}: {f}", c.tunnel, c.load, c.metric)).collect::<Vec<_>>()
    };
    cells.iter().flat_map(of).collect()
}

/// What happened under overload, one line a cell.
pub fn overloads(cells: &[Cell]) -> Vec<String> {
    let told = |cell: &Cell| -> Option<String> {
        let run = cell.runs.last()?;
        let [offered, delivered, carried, thin_lost] =
            ["offered_per_s", "delivered_per_s", "without_loss_per_s", "thin_stream_lost"]
                .map(|name| run.more.get(name));
        let (offered, carried) = (*offered?, *carried?);
        let drops: Vec<_> =
            run.counters.iter().filter(|(name, _)| is_drop(name)).map(|(name, n)| format!("{name} {n}")).collect();
        Some(format!(
            "{}, {}: offered {} packets/s ({} times what is carried without loss), delivered {}; a thin stream afterwards lost {}; \
             memory of both {} MiB before, {} after; drops counted: {}",
            cell.tunnel,
            cell.load,
            number(offered),
            number(offered / carried),
            number(*delivered?),
            thin_lost?,
            number(run.resident_kib[0] as f64 / 1024.0),
            number(run.resident_kib[1] as f64 / 1024.0),
            if drops.is_empty() { "none".to_owned() } else { drops.join(", ") }
        ))
    };
    cells.iter().filter_map(told).collect()
}

/// Names of counters that tell of a loss, a full queue or a failure.
fn is_drop(name: &str) -> bool {
    let words =
        ["drop", "full", "exhausted", "overflow", "evicted", "expired", "failed", "no_buffer", "refused", "suspected"];
    words.iter().any(|word| name.to_lowercase().contains(word))
}
