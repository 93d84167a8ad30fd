//! A saved result as one self-contained HTML page: what was measured where, plots, tables with medians and spreads, and,
//! if an older result is given, what changed. It shows records and judges nothing itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::compare_saved::{self, Comparison, Verdict};
use crate::plot::{self, Bar, Line};
use crate::record::{Cell, Record, Run, median};
use crate::table::number;
use crate::{IoContext, Result, ceiling};

/// Options of `bench-harness report`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The saved result
    #[arg(value_name = "RESULT.json")]
    pub result: PathBuf,
    /// An older one to compare it with, cell by cell
    #[arg(long, value_name = "OLDER.json")]
    pub against: Option<PathBuf>,
    /// Write the page here
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
}

/// Prints the comparison, if there is one, and writes the page.
pub fn run(options: &Options) -> Result<()> {
    let record = Record::load(&options.result)?;
    let older = options.against.as_deref().map(Record::load).transpose()?;
    let comparison = older.as_ref().map(|older| compare_saved::compare(&record, older));
    match &comparison {
        Some(comparison) => println!("{}", changes_as_text(comparison)),
        None if options.html.is_none() => println!("{}", crate::table::of(&record.cells)),
        None => {}
    }
    if let Some(path) = &options.html {
        std::fs::write(path, page(&record, comparison.as_ref())).doing(format!("write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6875; --line: #d9dee4; --paper: #ffffff; --panel: #f5f7f9;
  --good: #14804a; --bad: #c0362c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #9aa7b4; --line: #333d48; --paper: #14191f;
  --panel: #1b2229; --good: #4cc38a; --bad: #ff8078; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.soft { color: var(--soft); } code { font: .86em ui-monospace, 'DejaVu Sans Mono', monospace; background: var(--panel); padding: .1em .35em; border-radius: 4px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: .1rem 1.5rem; margin: 1rem 0; padding: .8rem 1rem;
  background: var(--panel); border-radius: 8px; }
.facts div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--line); padding: .2rem 0; }
.facts div b { font-weight: 500; text-align: right; } .facts span { color: var(--soft); white-space: nowrap; }
figure { margin: 1rem 0 1.6rem; } figcaption { font-weight: 600; margin-bottom: .2rem; } figcaption small { font-weight: 400; color: var(--soft); }
svg { width: 100%; height: auto; display: block; color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .86rem; color: var(--soft); } .legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: baseline; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; } td.better, td.worse, td.soft { white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.first td { border-top: 2px solid var(--line); } .better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
.note { border-left: 3px solid var(--line); padding: .1rem .8rem; margin: .4rem 0; color: var(--soft); } .fail { border-color: var(--bad); }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem; }
";

/// The whole page.
pub fn page(record: &Record, comparison: Option<&Comparison>) -> String {
    let mut html = String::with_capacity(1 << 18);
    let title = format!("bench-harness {}", record.options.get("command").cloned().unwrap_or_default());
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body>\
         <h1>{0}</h1><p class=\"soft\">{1} &middot; <code>bench-harness {2}</code></p>",
        escape(title.trim()),
        utc(record.begun_unix_s),
        escape(&record.command.join(" "))
    );
    facts(&mut html, record);
    let tunnels: Vec<&Cell> = record.cells.iter().filter(|cell| cell.tunnel != ceiling::HOST).collect();
    let labels = labels(&tunnels);
    if let Some(comparison) = comparison {
        changes(&mut html, comparison);
    }
    for (setup, cells) in by_setup(&tunnels) {
        let _ = write!(html, "<h2>{}</h2>", escape(&if setup.is_empty() { "Tunnels".into() } else { setup.clone() }));
        plots(&mut html, &cells, &labels);
        cell_table(&mut html, &cells);
    }
    let host: Vec<&Cell> = record.cells.iter().filter(|cell| cell.tunnel == ceiling::HOST).collect();
    host_cells(&mut html, &host);
    failures(&mut html, &record.cells);
    html.push_str(
        "<footer>Bars and numbers are medians over the repetitions, whiskers and ranges the least and the most. CPU is \
         user and system time of the tunnel's daemons at both ends; traffic generators and the kernel work charged to \
         others are not in it.</footer></body></html>\n",
    );
    html
}

fn facts(html: &mut String, record: &Record) {
    let machine = &record.machine;
    let mut rows = vec![
        ("Processor", machine.cpu.clone()),
        ("Processors used", machine.cores.to_string()),
        ("Kernel", machine.kernel.clone()),
        ("Memory", format!("{} MiB", machine.memory_mib)),
        ("Instructions", machine.cpu_flags.join(" ")),
        ("Virtual machine", if machine.virtual_machine { "yes" } else { "no" }.into()),
        ("Load average before", machine.load_average.map(|load| format!("{load:.2}")).join(" ")),
        ("Congestion control", machine.congestion_control.clone()),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    html.push_str("<div class=\"facts\">");
    for (name, value) in rows {
        let _ = write!(html, "<div><span>{name}</span><b>{}</b></div>", escape(&value));
    }
    html.push_str("</div>");
    if !record.tunnels.is_empty() {
        html.push_str("<div class=\"scroll\"><table><tr><th>tunnel</th><th>version and settings</th></tr>");
        for (name, about) in &record.tunnels {
            let _ = write!(html, "<tr><td><b>{}</b></td><td>{}</td></tr>", escape(name), escape(about));
        }
        html.push_str("</table></div>");
    }
    for note in &record.notes {
        let _ = write!(html, "<p class=\"note\">{}</p>", escape(note));
    }
}

/// Tunnels in the order of their appearance.
fn labels(cells: &[&Cell]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for cell in cells {
        if !labels.contains(&cell.tunnel) {
            labels.push(cell.tunnel.clone());
        }
    }
    labels
}

/// Cells that can be compared with one another, in the order of their appearance.
fn by_setup<'a>(cells: &[&'a Cell]) -> Vec<(String, Vec<&'a Cell>)> {
    group(cells, |cell| {
        let of = |key: &str| cell.setup.get(key);
        let words = [
            of("offload").map(|model| match model.as_str() {
                "hw" => "Super-packets pass the wire whole (hw)".to_owned(),
                "sw" => "The kernel segments and coalesces (sw)".to_owned(),
                other => format!("offload {other}"),
            }),
            of("lan_mtu").map(|mtu| format!("LAN MTU {mtu}")),
            of("wan_mtu").map(|mtu| format!("wire MTU {mtu}")),
            of("cores").map(|cores| format!("cores {cores}")),
        ];
        let others =
            cell.setup.iter().filter(|(key, _)| !["offload", "lan_mtu", "wan_mtu", "cores"].contains(&key.as_str()));
        words
            .into_iter()
            .flatten()
            .chain(others.map(|(key, value)| format!("{key} {value}")))
            .collect::<Vec<_>>()
            .join(", ")
    })
}

fn group<'a>(cells: &[&'a Cell], key: impl Fn(&Cell) -> String) -> Vec<(String, Vec<&'a Cell>)> {
    let mut groups: Vec<(String, Vec<&Cell>)> = Vec::new();
    for &cell in cells {
        let key = key(cell);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((key, vec![cell])),
        }
    }
    groups
}

fn plots(html: &mut String, cells: &[&Cell], labels: &[String]) {
    for (key, cells) in group(cells, |cell| format!("{}\n{}", cell.metric, cell.unit)) {
        let (metric, unit) = key.split_once('\n').unwrap_or((&key, ""));
        let bars: Vec<Bar> = cells.iter().filter_map(|cell| bar(cell, &cell.repetitions, labels)).collect();
        let better = match cells[0].better {
            crate::record::Better::Higher => "longer is better",
            crate::record::Better::Lower => "shorter is better",
        };
        figure(html, &format!("{metric}, {unit}"), better, plot::bars(&bars, unit), None);
        let cpu: Vec<(&str, Bar)> = cells
            .iter()
            .filter_map(|cell| {
                let cpu = compare_saved::quantities(cell).into_iter().nth(1)?;
                let unit = if cpu.unit == "s/GB" { "CPU seconds per GB" } else { "CPU microseconds per packet" };
                Some((unit, bar(cell, &cpu.values, labels)?))
            })
            .collect();
        for (unit, short) in [("CPU seconds per GB", "s/GB"), ("CPU microseconds per packet", "us")] {
            let bars: Vec<Bar> = cpu.iter().filter(|(of, _)| *of == unit).map(|(_, bar)| bar.clone()).collect();
            figure(html, &format!("{unit}, both daemons"), "shorter is better", plot::bars(&bars, short), None);
        }
        for (kind, what) in [("TCP", "TCP streams"), ("UDP", "payload bytes")] {
            let lines = scale(&cells, kind, labels);
            let svg = plot::lines(&lines, what, unit, false);
            figure(html, &format!("{metric} by {what}"), unit, svg, Some(&lines));
        }
    }
    for (load, cells) in group(cells, |cell| cell.load.clone()) {
        let lines: Vec<Line> = cells.iter().filter_map(|cell| percentiles(cell, labels)).collect();
        let svg = plot::lines(&lines, "percentile", "us", true);
        figure(html, &format!("round trips, {load}"), "microseconds by percentile, logarithmic", svg, Some(&lines));
    }
}

fn figure(html: &mut String, title: &str, small: &str, svg: Option<String>, legend: Option<&[Line]>) {
    let Some(svg) = svg else { return };
    let _ = write!(html, "<figure><figcaption>{} <small>{}</small></figcaption>", escape(title), escape(small));
    if let Some(lines) = legend {
        html.push_str("<div class=\"legend\">");
        for line in lines {
            let _ =
                write!(html, "<span><i style=\"background:{}\"></i>{}</span>", line.colour.css(), escape(&line.label));
        }
        html.push_str("</div>");
    }
    let _ = write!(html, "{svg}</figure>");
}

fn bar(cell: &Cell, values: &[f64], labels: &[String]) -> Option<Bar> {
    Some(Bar {
        group: cell.load.clone(),
        label: cell.tunnel.clone(),
        median: median(values.to_vec())?,
        spread: crate::record::spread(values)?,
        text: number(median(values.to_vec())?),
        colour: plot::colour(&cell.tunnel, labels),
    })
}

/// One line a tunnel and way: the first number in the load is what grows. Fewer than two points are no line.
fn scale(cells: &[&Cell], kind: &str, labels: &[String]) -> Vec<Line> {
    let of = |cell: &Cell| -> Option<(f64, String)> {
        let rest = cell.load.strip_prefix(kind)?.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some((rest[..digits].parse().ok()?, rest[digits..].trim_matches([',', ' ', 'B']).to_owned()))
    };
    let loads: Vec<&Cell> = cells.iter().copied().filter(|cell| of(cell).is_some()).collect();
    let lines = group(&loads, |cell| {
        let rest = of(cell).map(|(_, rest)| rest).unwrap_or_default();
        if rest.is_empty() { cell.tunnel.clone() } else { format!("{}, {rest}", cell.tunnel) }
    });
    let line = |(label, cells): (String, Vec<&Cell>)| {
        let mut points: Vec<(String, f64, f64)> = cells
            .iter()
            .filter_map(|cell| of(cell).zip(cell.median()).map(|((x, _), y)| (format!("{x}"), x, y)))
            .collect();
        points.sort_by(|a, b| a.1.total_cmp(&b.1));
        Line { colour: plot::colour(&cells[0].tunnel, labels), dashed: label != cells[0].tunnel, label, points }
    };
    lines.into_iter().map(line).filter(|line| line.points.len() > 1).collect()
}

fn percentiles(cell: &Cell, labels: &[String]) -> Option<Line> {
    let of = |f: fn(&crate::record::Latency) -> f64| cell.median_of(|run| run.latency.as_ref().map(f));
    let all = [
        ("least", of(|l| l.min_us)?),
        ("p50", of(|l| l.p50_us)?),
        ("p90", of(|l| l.p90_us)?),
        ("p99", of(|l| l.p99_us)?),
        ("p99.9", of(|l| l.p999_us)?),
        ("most", of(|l| l.max_us)?),
    ];
    let points =
        all.into_iter().enumerate().map(|(at, (name, us))| (name.to_owned(), at as f64, us.max(1.0))).collect();
    Some(Line { label: cell.tunnel.clone(), colour: plot::colour(&cell.tunnel, labels), dashed: false, points })
}

type Column = (&'static str, fn(&Cell) -> Option<String>);

/// Columns of numbers; those that nobody fills are left out.
const COLUMNS: [Column; 14] = [
    ("median", |c| c.median().map(|median| format!("<b>{}</b> {}", number(median), escape(&c.unit)))),
    ("least to most", |c| c.spread().map(|(least, most)| format!("{} to {}", number(least), number(most)))),
    ("repetitions", |c| Some(c.repetitions.len().to_string())),
    ("Gbit/s", |c| {
        let rate = |r: &Run| (r.seconds > 0.0 && r.packets > 0).then(|| r.bytes as f64 * 8e-9 / r.seconds);
        c.median_of(rate).filter(|_| c.unit != "Gbit/s").map(number)
    }),
    ("CPU s/GB", |c| c.median_of(|r| r.cpu_s_per_gb().filter(|_| cpu(r) && r.packets == 0)).map(number)),
    ("CPU us/packet", |c| c.median_of(|r| r.cpu_us_per_packet().filter(|_| cpu(r))).map(number)),
    ("machine s/GB", |c| c.median_of(|r| r.machine_s_per_gb().filter(|_| r.packets == 0)).map(number)),
    ("p50 us", |c| c.median_of(|r| r.latency.map(|l| l.p50_us)).map(number)),
    ("p99 us", |c| c.median_of(|r| r.latency.map(|l| l.p99_us)).map(number)),
    ("lost", |c| c.median_of(|r| (r.sent > 0).then(|| r.loss() * 100.0)).map(|share| format!("{} %", number(share)))),
    ("sent again", |c| tcp(c, |r| r.retransmits)),
    ("out of order", |c| tcp(c, |r| r.out_of_order)),
    ("cycles/packet", |c| {
        c.median_of(|r| Some(r.cycles? as f64 / r.packets.max(1) as f64).filter(|_| r.packets > 0)).map(number)
    }),
    ("peak MiB", |c| {
        let mib = |end: usize| c.median_of(|r| (r.peak_kib[end] > 0).then(|| r.peak_kib[end] as f64 / 1024.0));
        Some(format!("{} {}", number(mib(0)?), number(mib(1)?)))
    }),
];

fn cpu(run: &Run) -> bool {
    run.daemon_cpu_s.iter().sum::<f64>() > 0.0
}

fn tcp(cell: &Cell, f: impl Fn(&Run) -> u64) -> Option<String> {
    let tcp = cell.load.starts_with("TCP") && !cell.runs.is_empty();
    tcp.then(|| cell.runs.iter().map(f).sum::<u64>().to_string())
}

fn cell_table(html: &mut String, cells: &[&Cell]) {
    let filled = |f: fn(&Cell) -> Option<String>| cells.iter().any(|cell| f(cell).is_some());
    let shown: Vec<&Column> = COLUMNS.iter().filter(|(_, f)| filled(*f)).collect();
    html.push_str("<div class=\"scroll\"><table><tr><th>load</th><th>tunnel</th><th>what</th>");
    for (name, _) in &shown {
        let _ = write!(html, "<th class=\"n\">{name}</th>");
    }
    html.push_str("</tr>");
    let mut before = "";
    for cell in cells {
        let class = if cell.load == before { "" } else { " class=\"first\"" };
        before = &cell.load;
        let (load, tunnel, metric) = (escape(&cell.load), escape(&cell.tunnel), escape(&cell.metric));
        let _ = write!(html, "<tr{class}><td>{load}</td><td>{tunnel}</td><td>{metric}</td>");
        for (_, f) in &shown {
            let _ = write!(html, "<td class=\"n\">{}</td>", f(cell).unwrap_or_default());
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
}

/// Ceilings and stages.
fn host_cells(html: &mut String, cells: &[&Cell]) {
    let labels = ["measured".to_owned(), "budget".to_owned()];
    let (stages, ceilings): (Vec<&Cell>, Vec<&Cell>) = cells.iter().partition(|cell| cell.load.starts_with("stage, "));
    for (offload, stages) in group(&stages, |cell| cell.setup.get("offload").cloned().unwrap_or_default()) {
        let _ = write!(html, "<h2>A packet's cost, stage by stage ({})</h2>", escape(&offload));
        let with_budget =
            stages.iter().filter_map(|cell| Some((cell, cell.setup.get("budget_ns")?.parse::<f64>().ok()?)));
        let bars: Vec<Bar> = with_budget
            .filter_map(|(cell, budget)| {
                let measured = bar(cell, &cell.repetitions, &[])?;
                let group = cell.load.trim_start_matches("stage, ").to_owned();
                let measured = Bar {
                    group: group.clone(),
                    label: labels[0].clone(),
                    colour: plot::colour(&labels[0], &labels),
                    ..measured
                };
                let text = number(budget);
                let colour = plot::colour(&labels[1], &labels);
                Some([
                    measured,
                    Bar { group, label: labels[1].clone(), median: budget, spread: (budget, budget), text, colour },
                ])
            })
            .flatten()
            .collect();
        figure(html, "nanoseconds of CPU time per 1400-byte packet", "next to a budget", plot::bars(&bars, "ns"), None);
        host_table(html, &stages, true);
    }
    if !ceilings.is_empty() {
        html.push_str("<h2>Ceilings of this host</h2><p class=\"soft\">CPU time of the calling thread, softirq work in its context included.</p>");
        let batched: Vec<Bar> = ceilings
            .iter()
            .filter(|cell| cell.metric == ceiling::CPU && cell.setup.get("bytes").is_some_and(|bytes| bytes == "1400"))
            .filter_map(|cell| {
                let offload = cell.setup.get("offload").map(|model| format!(" ({model})")).unwrap_or_default();
                let one = bar(cell, &cell.repetitions, &[])?;
                Some(Bar {
                    group: String::new(),
                    label: format!("{}{offload}", cell.load),
                    colour: plot::colour("", &labels),
                    ..one
                })
            })
            .collect();
        figure(html, "CPU time per 1400-byte packet, ns", "shorter is better", plot::bars(&batched, "ns"), None);
        host_table(html, &ceilings, false);
    }
}

fn host_table(html: &mut String, cells: &[&Cell], budget: bool) {
    html.push_str("<div class=\"scroll\"><table><tr><th>what</th><th>offload</th><th class=\"n\">bytes</th><th></th><th class=\"n\">median</th><th class=\"n\">least to most</th>");
    html.push_str(if budget { "<th class=\"n\">budget</th><th class=\"n\">ratio</th></tr>" } else { "</tr>" });
    for cell in cells {
        let of = |key: &str| cell.setup.get(key).map(|text| escape(text)).unwrap_or_default();
        let (Some(median), Some((least, most))) = (cell.median(), cell.spread()) else { continue };
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\"><b>{}</b> {}</td><td class=\"n\">{} to {}</td>",
            escape(cell.load.trim_start_matches("stage, ")),
            of("offload"),
            of("bytes"),
            escape(&cell.metric),
            number(median),
            escape(&cell.unit),
            number(least),
            number(most)
        );
        if budget {
            let allowed = cell.setup.get("budget_ns").and_then(|text| text.parse::<f64>().ok());
            let ratio = allowed.map(|allowed| number(median / allowed)).unwrap_or_default();
            let allowed = allowed.map(number).unwrap_or_default();
            let _ = write!(html, "<td class=\"n\">{allowed}</td><td class=\"n\">{ratio}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
}

fn failures(html: &mut String, cells: &[Cell]) {
    let failures = crate::table::failures(cells);
    if !failures.is_empty() {
        html.push_str("<h2>What failed</h2>");
    }
    for failure in failures {
        let _ = write!(html, "<p class=\"note fail\">{}</p>", escape(&failure));
    }
}

const CHANGES_HEAD: &str = "<tr><th>tunnel</th><th>load</th><th>what</th><th class=\"n\">then</th><th class=\"n\">now</th>\
    <th class=\"n\">ratio</th><th></th></tr>";

fn changes(html: &mut String, comparison: &Comparison) {
    html.push_str("<h2>Against the older result</h2>");
    for warning in &comparison.warnings {
        let _ = write!(html, "<p class=\"note fail\">{}</p>", escape(warning));
    }
    let mut setup: Option<&str> = None;
    for change in &comparison.changes {
        if setup != Some(&change.setup) {
            let end = if setup.is_some() { "</table></div>" } else { "" };
            let _ = write!(html, "{end}<h3>{}</h3><div class=\"scroll\"><table>{CHANGES_HEAD}", escape(&change.setup));
            setup = Some(&change.setup);
        }
        let class = match change.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::WithinNoise | Verdict::Unknown => "soft",
        };
        let side = |side: &compare_saved::Side| {
            format!(
                "{} <span class=\"soft\">{} to {}</span>",
                number(side.median),
                number(side.spread.0),
                number(side.spread.1)
            )
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}, {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\"><b>{}</b></td><td class=\"{class}\">{}</td></tr>",
            escape(&change.tunnel),
            escape(&change.load),
            escape(&change.metric),
            escape(&change.unit),
            side(&change.older),
            side(&change.newer),
            number(change.ratio),
            change.verdict
        );
    }
    html.push_str(if setup.is_some() { "</table></div>" } else { "<p>Nothing is in both.</p>" });
    for (what, names) in [("Only now", &comparison.only_newer), ("Only then", &comparison.only_older)] {
        if !names.is_empty() {
            let _ = write!(html, "<p class=\"note\">{what}: {}</p>", escape(&names.join("; ")));
        }
    }
}

fn changes_as_text(comparison: &Comparison) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["tunnel", "load", "what", "then", "now", "ratio", ""]);
    for change in &comparison.changes {
        let side = |s: &compare_saved::Side| {
            format!("{} ({} to {})", number(s.median), number(s.spread.0), number(s.spread.1))
        };
        table.add_row([
            change.tunnel.clone(),
            change.load.clone(),
            format!("{}, {}", change.metric, change.unit),
            side(&change.older),
            side(&change.newer),
            number(change.ratio),
            change.verdict.to_string(),
        ]);
    }
    let mut text = table.to_string();
    for warning in &comparison.warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    for (what, names) in [("only now", &comparison.only_newer), ("only then", &comparison.only_older)] {
        names.iter().for_each(|name| _ = write!(text, "\n{what}: {name}"));
    }
    text
}

/// Text that HTML shows as it is.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// Seconds since 1970 as date and time of day.
fn utc(unix_s: u64) -> String {
    let (days, s) = (unix_s / 86_400, unix_s % 86_400);
    // The civil calendar counted from 0000-03-01, so that leap days end a year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", s / 3600, s / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_740_787_199), "2025-02-28 23:59 UTC");
        assert_eq!(utc(1_740_787_200), "2025-03-01 00:00 UTC");
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
