//! `compare` as a person runs it, with the contestants that every host has.

use std::process::Command;

use bench_harness::record::Record;

#[test]
fn tunnels_are_compared_side_by_side_and_a_missing_one_is_said_and_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result.json");
    let out = Command::new(env!("CARGO_BIN_EXE_bench-harness"))
        .args(["compare", "--quick", "--quiet", "--seconds", "0.2", "--tunnels", "none,plain,nebula"])
        .args(["--program", "nebula=/nonexistent/nebula", "--yardstick", "none,nebula", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}{complained}");
    let record = Record::load(&file).unwrap();
    let skipped = "skipped: /nonexistent/nebula: no such program";
    assert!(complained.contains(skipped), "{complained}");
    assert!(record.notes.iter().any(|note| note.starts_with(skipped)), "{:?}", record.notes);
    for load in ["TCP 1", "TCP 4", "TCP 1, both ways", "TCP 1, gateway to gateway", "UDP 64 B", "UDP 1200 B", "idle"] {
        for tunnel in ["none", "plain"] {
            let cell = record.cells.iter().find(|c| c.tunnel == tunnel && c.load == load);
            let cell = cell.unwrap_or_else(|| panic!("{tunnel}, {load}: not measured"));
            assert!(cell.failures.is_empty() && cell.repetitions[0] > 0.0, "{cell:?}");
        }
    }
    assert!(said.contains("ratios to none") && said.contains("no ratios to nebula: it was not measured"), "{said}");
}
