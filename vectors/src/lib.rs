//! Recorded behaviour of the real ZeroTier code, and the way tests find it. The files beside this crate are described in
//! README.md; `HAWSER_VECTORS` names another folder with files of the same families. Panics, because only tests use it.

use std::path::PathBuf;

use serde_json::Value;

/// Every file of a family, by name: `FAMILY.json` and whatever continues it, like `FAMILY-more.json`.
pub fn family(family: &str) -> Vec<(String, Value)> {
    let folder =
        std::env::var_os("HAWSER_VECTORS").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("a readable folder").file_name().into_string().expect("a plain name"))
        .filter(|name| {
            let rest = name.strip_suffix(".json").and_then(|stem| stem.strip_prefix(family));
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
        })
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no {family}*.json in {}", folder.display());
    let read = |name: String| {
        let bytes = std::fs::read(folder.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, file)
    };
    names.into_iter().map(read).collect()
}

/// Says how many cases of a file were run. A file of which none was is a failure.
pub fn ran(name: &str, cases: usize) {
    println!("{name}: {cases} cases");
    assert!(cases > 0, "{name} has no case that this test knows");
}
