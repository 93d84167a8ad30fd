//! What the other tunnels' files have in common: asking a program for its version, waiting until it is up.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::Guard;
use crate::{Error, Result};

/// First line of what the program says of itself, on either output.
pub fn version(program: &Path, switch: &str) -> String {
    let Ok(out) = Command::new(program).arg(switch).output() else { return String::new() };
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Two addresses inside a tunnel.
pub fn addresses(text: [&str; 2]) -> [IpAddr; 2] {
    text.map(|ip| ip.parse().expect("an address of this file's constants"))
}

/// Asks `probe` every 20 ms until it says yes; gives up when the daemon ends or after `limit`, with the daemon's last words.
pub fn wait_for(
    daemon: &mut Guard,
    name: &str,
    log: &Path,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !probe()? {
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
        if !daemon.alive() {
            return Err(Error::Command { command: name.into(), reason: format!("ended{}", last_words(log)) });
        }
        if Instant::now() > end {
            let what = format!("{name}: {what}");
            return Err(Error::Timeout { what, seconds: limit.as_secs(), detail: last_words(log) });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The end of a log, with a separator in front; empty if there is none.
fn last_words(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0 => String::new(),
        n => format!("; its last words:\n{}", lines[n.saturating_sub(8)..].join("\n")),
    }
}
