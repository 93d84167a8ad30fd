//! `bench-harness nat` as a person runs it: a table comes out, and a saved one grows pair by pair.

use std::process::{Command, Output};

fn nat(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench-harness"))
        .args(["nat", "--only", "sim", "--quiet"])
        .args(words)
        .output()
        .unwrap()
}

#[test]
fn simulated_pairs_fill_a_table_that_is_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nat.json").display().to_string();
    for pair in ["public/port-restricted", "port-restricted/port-restricted"] {
        let out = nat(&["--runs", "3", "--pair", pair, "--out", &file]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let out = nat(&["--runs", "2", "--pair", "public/port-restricted", "--out", &file]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let row = |pair: &str| said.lines().find(|line| line.starts_with(&format!("| {pair} |"))).unwrap();
    assert!(row("public – port-restricted").contains("| 2 of 2: "), "{said}");
    assert!(row("port-restricted – port-restricted").contains("| 3 of 3: "), "{said}");
}

#[test]
fn a_kind_that_does_not_exist_is_named() {
    let out = nat(&["--pair", "cone"]);
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("\"cone\" is none of public"));
}
