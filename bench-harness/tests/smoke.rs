//! The harness as a person runs it: figures come out, bad options are named, nothing is left behind.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bench_harness::record::Record;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The harness, with a `hawser` of the same build beside it.
fn harness(words: &[&str]) -> Command {
    let exe = Path::new(env!("CARGO_BIN_EXE_bench-harness"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "-p", "gateway", "--bin", "hawser", "--target-dir"]);
    // .../<target>/<profile>/bench-harness
    let profile = exe.parent().unwrap();
    build.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "hawser does not build");
    let mut command = Command::new(exe);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Namespaces that process `pid` made.
fn left_by(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let ours = format!("hawser-{pid}-");
    names.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(&ours)).collect()
}

#[test]
fn a_quick_throughput_run_measures_every_cell_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result.json");
    let child = harness(&["throughput", "--quick", "--quiet", "--json", file.to_str().unwrap()]).spawn().unwrap();
    let pid = child.id();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    let record = Record::load(&file).unwrap();
    let seen: Vec<_> = record.cells.iter().map(|c| (c.load.as_str(), c.tunnel.as_str())).collect();
    assert_eq!(seen, [("TCP 1", "hawser"), ("TCP 1", "none"), ("UDP 64 B", "hawser"), ("UDP 64 B", "none")]);
    for cell in &record.cells {
        assert!(cell.failures.is_empty() && cell.repetitions.len() == 1 && cell.repetitions[0] > 0.0, "{cell:?}");
        let run = &cell.runs[0];
        assert!(run.bytes > 0 && run.machine_cpu_s > 0.0, "{cell:?}");
        let daemons = cell.tunnel == "hawser";
        assert_eq!(daemons, run.daemon_cpu_s.iter().all(|&s| s > 0.0), "{cell:?}");
        assert_eq!(daemons, run.peak_kib.iter().all(|&kib| kib > 0), "{cell:?}");
    }
    assert!(said(&out).contains("Gbit/s"), "{}", said(&out));
    assert_eq!(left_by(pid), Vec::<String>::new());
}

#[test]
fn what_cannot_be_done_is_said() {
    for (words, expected) in [
        (&["throughput", "--hawser", "/nowhere/hawser"][..], "--hawser /nowhere/hawser: no such program"),
        (&["throughput", "--cores-a", "4096"], "there is no core 4096"),
        (&["throughput", "--seconds", "0"], "0.2 to 3600 seconds"),
        (&["throughput", "--udp", "9"], "16 to 8900 bytes"),
        (&["latency", "--lan-mtu", "576"], "576 is not in 1280..=9000"),
        (&["scale", "--shards", "0"], "0 is not in 1..=256"),
        (&["scale", "--offload", "soft"], "possible values: hw, sw"),
        (&["throughput", "--json", "/nowhere/result.json"], "--json /nowhere/result.json: No such file"),
        (&["throughput", "--tcp", "0", "--udp", "0"], "nothing to measure"),
    ] {
        let out = harness(words).output().unwrap();
        assert!(!out.status.success() && said(&out).contains(expected), "{words:?}: {}", said(&out));
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let child = harness(&["throughput", "--seconds", "60", "--quiet"]).spawn().unwrap();
    let pid = child.id();
    let start = Instant::now();
    while left_by(pid).len() < 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "no namespaces");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(pid as i32), Signal::SIGINT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(!out.status.success() && said(&out).contains("interrupted"), "{}", said(&out));
    assert_eq!(left_by(pid), Vec::<String>::new());
}
