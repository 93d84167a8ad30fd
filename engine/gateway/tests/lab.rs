//! `hawser lab` as a person runs it: it shows everything at work, says so, and leaves nothing behind.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn lab(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    command.args(["lab", "--json"]).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn summary(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// Namespaces that process `pid` made.
fn left_by(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(&format!("hawser-{pid}-")))
        .collect()
}

#[test]
fn the_lab_sees_first_contact_direct_path_echo_and_transfer_and_leaves_nothing_behind() {
    let child = lab(&["--seconds", "2", "--first-contacts", "2"]).spawn().unwrap();
    let pid = child.id();
    let out = child.wait_with_output().unwrap();
    let seen = summary(&out);
    assert!(out.status.success(), "{seen}");
    assert_eq!((&seen["ok"], &seen["direct"], &seen["failures"]), (&true.into(), &true.into(), &Value::Array(vec![])));
    for number in ["first_ping_ms", "ping_p50_ms", "ping_p99_ms", "tcp_bits_per_s", "cpu_s_per_gb"] {
        assert!(seen[number].as_f64().is_some_and(|n| n > 0.0), "{number}: {seen}");
    }
    // A second is the kernel's ARP retry: nothing of the first contact was left to it.
    assert!(seen["first_ping_ms"].as_f64().unwrap() < 1000.0, "{seen}");
    assert_eq!(left_by(pid), Vec::<String>::new());
}

#[test]
fn the_real_core_can_stand_at_the_far_end() {
    let out = lab(&["--seconds", "2", "--first-contacts", "1", "--peer", "reference"]).output().unwrap();
    let seen = summary(&out);
    assert!(out.status.success() && seen["udp_bits_per_s"].as_f64().is_some_and(|n| n > 0.0), "{seen}");
}

#[test]
fn an_interrupted_lab_says_so_and_leaves_nothing_behind() {
    let child = lab(&["--seconds", "60"]).spawn().unwrap();
    let pid = child.id();
    let start = Instant::now();
    while left_by(pid).len() < 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "no namespaces");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(pid as i32), Signal::SIGINT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = summary(&out);
    assert_eq!((&said["ok"], &said["failures"][0]), (&false.into(), &"interrupted".into()), "{said}");
    assert_eq!(left_by(pid), Vec::<String>::new());
}
