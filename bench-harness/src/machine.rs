//! Facts about the host that a reader of a result needs to judge it.

use crate::meter;
use crate::record::Machine;

/// Of a CPU's flags those that decide which cryptography runs.
const FLAGS: [&str; 7] = ["aes", "pclmulqdq", "avx2", "vaes", "vpclmulqdq", "avx512f", "avx512ifma"];

/// This host, now.
pub fn facts() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let there: Vec<&str> = field("flags").split_whitespace().collect();
    let memory = read("/proc/meminfo");
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let load: Vec<f64> = read("/proc/loadavg").split_whitespace().take(3).filter_map(|n| n.parse().ok()).collect();
    Machine {
        cpu: field("model name").to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        memory_mib: kib / 1024,
        cpu_flags: FLAGS.iter().filter(|flag| there.contains(flag)).map(|&flag| flag.to_owned()).collect(),
        virtual_machine: there.contains(&"hypervisor"),
        no_perf_events: meter::no_perf_events(),
        load_average: [0, 1, 2].map(|i| load.get(i).copied().unwrap_or(0.0)),
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
    }
}
