//! What a run costs: snapshots of clocks and counters of the daemons, the machine and the kernel, and what lies between
//! two of them.

use std::time::{Duration, Instant};

use lab::measure::{self, KernelCounters};
use lab::netns::Namespace;
use nix::unistd::{SysconfVar, sysconf};
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use crate::Result;
use crate::record::Run;

/// Reads everything that is counted beside the traffic itself.
pub struct Meter<'a> {
    pids: [Vec<u32>; 2],
    ends: [&'a Namespace; 2],
    perf: Option<Perf>,
}

/// All of it at one moment.
pub struct Snapshot {
    at: Instant,
    daemon_cpu: [Duration; 2],
    machine_cpu_s: f64,
    kernel: [KernelCounters; 2],
    perf: Option<[u64; 2]>,
}

impl<'a> Meter<'a> {
    /// For these daemons and for traffic that ends in these namespaces.
    pub fn new(pids: [Vec<u32>; 2], ends: [&'a Namespace; 2]) -> Meter<'a> {
        let all: Vec<u32> = pids.iter().flatten().copied().collect();
        Meter { perf: Perf::of(&all).ok().filter(|_| !all.is_empty()), pids, ends }
    }

    /// Now.
    pub fn read(&mut self) -> Result<Snapshot> {
        let kernel = |ns: &Namespace| ns.inside(|| Ok(KernelCounters::read()));
        Ok(Snapshot {
            kernel: [kernel(self.ends[0])?, kernel(self.ends[1])?],
            at: Instant::now(),
            daemon_cpu: [0, 1].map(|i| self.pids[i].iter().map(|&pid| measure::cpu_time(pid)).sum()),
            machine_cpu_s: machine_cpu_s(),
            perf: self.perf.as_mut().and_then(Perf::read),
        })
    }

    /// Memory of both daemons together now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.pids.iter().flatten().map(|&pid| measure::rss_kib(pid)).sum()
    }

    /// Puts what lies between two snapshots into `run`.
    pub fn fill(&self, run: &mut Run, from: &Snapshot, to: &Snapshot) {
        run.seconds = (to.at - from.at).as_secs_f64();
        run.daemon_cpu_s = [0, 1].map(|i| to.daemon_cpu[i].saturating_sub(from.daemon_cpu[i]).as_secs_f64());
        run.machine_cpu_s = to.machine_cpu_s - from.machine_cpu_s;
        run.peak_kib = [0, 1].map(|i| self.pids[i].iter().map(|&pid| measure::peak_rss_kib(pid)).sum());
        let kernel = |name: &str| (0..2).map(|i| to.kernel[i].since(&from.kernel[i], name)).sum::<u64>();
        run.retransmits = kernel("Tcp.RetransSegs");
        run.out_of_order = kernel("TcpExt.TCPOFOQueue");
        run.reorder_events = ["TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"]
            .iter()
            .map(|name| kernel(&format!("TcpExt.{name}")))
            .sum();
        if let (Some(from), Some(to)) = (from.perf, to.perf) {
            run.cycles = Some(to[0].saturating_sub(from[0]));
            run.instructions = Some(to[1].saturating_sub(from[1]));
        }
    }

    /// By how much the sockets' own drops (buffer full) rose between two snapshots.
    pub fn dropped_at_sockets(from: &Snapshot, to: &Snapshot) -> u64 {
        (0..2).map(|i| to.kernel[i].since(&from.kernel[i], "Udp.RcvbufErrors")).sum()
    }
}

/// Busy seconds of all processors since boot, whoever used them; what a hypervisor took is not in it.
fn machine_cpu_s() -> f64 {
    let ticks_per_s = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|&i| ticks.get(i)).sum();
    busy / ticks_per_s
}

/// Why cycles and instructions cannot be counted here; none: they can.
pub fn no_perf_events() -> Option<String> {
    let why = Perf::of(&[std::process::id()]).err()?;
    let hint = match why.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::EOPNOTSUPP) => " (no performance counters: usual in virtual machines)",
        Some(nix::libc::EACCES | nix::libc::EPERM) => " (see the sysctl kernel.perf_event_paranoid)",
        _ => "",
    };
    Some(format!("{why}{hint}"))
}

/// Cycles and instructions of every thread of some processes, in user space and in the kernel.
struct Perf([Vec<Counter>; 2]);

impl Perf {
    /// Threads that the processes start later are not in it.
    fn of(pids: &[u32]) -> std::io::Result<Perf> {
        let mut perf = Perf([vec![], vec![]]);
        for pid in pids {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                for (list, event) in perf.0.iter_mut().zip([Hardware::CPU_CYCLES, Hardware::INSTRUCTIONS]) {
                    let mut counter = Builder::new(event).observe_pid(thread).include_kernel().build()?;
                    counter.enable()?;
                    list.push(counter);
                }
            }
        }
        Ok(perf)
    }

    fn read(&mut self) -> Option<[u64; 2]> {
        let mut sums = [0; 2];
        for (sum, counters) in sums.iter_mut().zip(&mut self.0) {
            for counter in counters {
                *sum += counter.read().ok()?;
            }
        }
        Some(sums)
    }
}
