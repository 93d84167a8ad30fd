//! A saved result: the machine, what was asked, and for every cell each repetition with all that was seen beside it. The
//! JSON of [`Record`] is the format of `--json`; readers refuse another [`FORMAT`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, IoContext, Result};

/// Version of the saved form; counts up when an old reader would misread a new file.
pub const FORMAT: u32 = 1;

/// A whole result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The command line that made it, without the program.
    pub command: Vec<String>,
    /// Seconds since 1970 when it was begun.
    pub begun_unix_s: u64,
    /// Where it was measured.
    pub machine: Machine,
    /// What was asked for, defaults included, by option name.
    pub options: BTreeMap<String, String>,
    /// Version and settings of each tunnel, by name.
    pub tunnels: BTreeMap<String, String>,
    /// What was measured, in the order of the tables.
    pub cells: Vec<Cell>,
    /// What a reader must know: what is missing here and why.
    pub notes: Vec<String>,
}

/// Facts about the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Of the CPU's flags those that matter for cryptography.
    pub cpu_flags: Vec<String>,
    /// A hypervisor is below.
    pub virtual_machine: bool,
    /// Why cycles and instructions cannot be counted; none: they can.
    pub no_perf_events: Option<String>,
    /// Load averages of 1, 5 and 15 minutes at the beginning.
    pub load_average: [f64; 3],
    /// TCP congestion control.
    pub congestion_control: String,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One measured quantity of one tunnel in one setup, over all repetitions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the tunnel.
    pub tunnel: String,
    /// What is varied beside tunnel and load, e.g. offload, lan_mtu, virtual_mtu, shards, rules.
    pub setup: BTreeMap<String, String>,
    /// The traffic, e.g. "TCP 4, LAN to LAN, both ways".
    pub load: String,
    /// What `repetitions` holds, e.g. "rate", "delivered", "ping p50".
    pub metric: String,
    /// Its unit, e.g. "Gbit/s".
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// One value for each repetition that succeeded.
    pub repetitions: Vec<f64>,
    /// What else was seen in it, parallel to `repetitions`.
    pub runs: Vec<Run>,
    /// Repetitions that failed, in words.
    pub failures: Vec<String>,
}

/// One run of one load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Which repetition it belongs to, from 0: equal numbers of different tunnels were measured next to each other.
    pub repetition: u32,
    /// Length of the window in which everything below was counted.
    pub seconds: f64,
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Datagrams that arrived; 0 for TCP.
    pub packets: u64,
    /// Datagrams or echoes sent over the whole run.
    pub sent: u64,
    /// Of these never arrived.
    pub lost: u64,
    /// Of these dropped by the receiving socket: the receiver's own fault, not the tunnel's.
    pub lost_at_socket: u64,
    /// TCP segments the senders' kernels sent again.
    pub retransmits: u64,
    /// TCP segments that came out of order at the receivers (TCPOFOQueue), lost ones' successors included.
    pub out_of_order: u64,
    /// Reordering events the senders' kernels inferred (TCPSACKReorder, TCPTSReorder, TCPRenoReorder).
    pub reorder_events: u64,
    /// User and system seconds of the daemons of A and of B.
    pub daemon_cpu_s: [f64; 2],
    /// Busy seconds of all processors of the machine, whoever used them.
    pub machine_cpu_s: f64,
    /// Cycles of both daemons, kernel included, where they can be counted.
    pub cycles: Option<u64>,
    /// Instructions likewise.
    pub instructions: Option<u64>,
    /// Most memory the daemons of A and of B ever had resident, in KiB.
    pub peak_kib: [u64; 2],
    /// Memory before and after the load, both daemons together, in KiB.
    pub resident_kib: [u64; 2],
    /// Round trips.
    pub latency: Option<Latency>,
    /// What the daemons' counters rose by, "A.shards.forged" = n; filled where it is asked for.
    pub counters: BTreeMap<String, u64>,
    /// Anything else, by name with unit.
    pub more: BTreeMap<String, f64>,
}

/// Round trips of pings in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Answers.
    pub count: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Shortest.
    pub min_us: f64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 90 of 100.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
}

impl Run {
    /// CPU seconds of both daemons per GB of payload.
    pub fn cpu_s_per_gb(&self) -> Option<f64> {
        let cpu: f64 = self.daemon_cpu_s.iter().sum();
        (self.bytes > 0).then(|| cpu / (self.bytes as f64 / 1e9))
    }

    /// CPU microseconds of both daemons per datagram.
    pub fn cpu_us_per_packet(&self) -> Option<f64> {
        let cpu: f64 = self.daemon_cpu_s.iter().sum();
        (self.packets > 0).then(|| cpu * 1e6 / self.packets as f64)
    }

    /// Busy seconds of the whole machine per GB of payload.
    pub fn machine_s_per_gb(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.machine_cpu_s / (self.bytes as f64 / 1e9))
    }

    /// Share of what was sent that was lost before it reached the receiver's socket.
    pub fn loss_on_the_way(&self) -> f64 {
        self.lost.saturating_sub(self.lost_at_socket) as f64 / self.sent.max(1) as f64
    }

    /// Share of what was sent that never arrived.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}

impl Cell {
    /// An empty cell.
    pub fn new(
        tunnel: &str,
        setup: BTreeMap<String, String>,
        load: &str,
        metric: &str,
        unit: &str,
        better: Better,
    ) -> Cell {
        Cell {
            tunnel: tunnel.into(),
            setup,
            load: load.into(),
            metric: metric.into(),
            unit: unit.into(),
            better,
            repetitions: vec![],
            runs: vec![],
            failures: vec![],
        }
    }

    /// The setup as text, without what is not varied.
    pub fn setup_text(&self) -> String {
        let parts: Vec<String> = self.setup.iter().map(|(k, v)| format!("{k} {v}")).collect();
        parts.join(", ")
    }

    /// Median of the repetitions.
    pub fn median(&self) -> Option<f64> {
        median(self.repetitions.clone())
    }

    /// Least and most of the repetitions.
    pub fn spread(&self) -> Option<(f64, f64)> {
        spread(&self.repetitions)
    }

    /// Median of something derived from each run.
    pub fn median_of(&self, f: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(f).collect())
    }
}

/// The middle value, or the mean of the two middle ones.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

/// Least and most.
pub fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

/// Says early that a result could not be saved as `file`.
pub fn check_writable(file: &Path) -> Result<()> {
    let there = file.exists();
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.map_err(|e| Error::Unusable(format!("--json {}: {e}", file.display())))?;
    if !there {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

impl Record {
    /// Reads a saved result and refuses what is none.
    pub fn load(path: &Path) -> Result<Record> {
        let bad = |why: String| Error::Unusable(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).doing(format!("read {}", path.display()))?;
        let any: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| bad(format!("not a saved result: {e}")))?;
        match any["format"].as_u64() {
            Some(n) if n == u64::from(FORMAT) => {}
            Some(n) => return Err(bad(format!("saved in format {n}, this program reads format {FORMAT}"))),
            None => return Err(bad("not a saved result: it has no format number".into())),
        }
        serde_json::from_value(any).map_err(|e| bad(format!("not a saved result: {e}")))
    }

    /// Writes it to `path`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Unusable(e.to_string()))?;
        std::fs::write(path, text + "\n").doing(format!("write {}", path.display()))
    }

    /// The cell of this tunnel with the same load, metric and setup as `like`.
    pub fn counterpart(&self, tunnel: &str, like: &Cell) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|c| c.tunnel == tunnel && c.load == like.load && c.metric == like.metric && c.setup == like.setup)
    }
}
