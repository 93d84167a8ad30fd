//! A Hawser daemon in a namespace, driven through its own command line, as an operator would.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::netns::Namespace;
use crate::{Error, IoContext, Result};

/// A running `hawser up` and the words to talk to it. Dropping it stops the daemon.
#[derive(Debug)]
pub struct Daemon {
    exe: PathBuf,
    namespace: String,
    home: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `hawser up` with `home` inside `ns` and waits until its API answers.
    pub fn start(exe: &Path, ns: &Namespace, home: &Path, more: &[&str]) -> Result<Daemon> {
        let log_path = home.join("daemon.log");
        std::fs::create_dir_all(home).doing(format!("make {}", home.display()))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .doing(format!("open {}", log_path.display()))?;
        let child = ns.inside(|| {
            Command::new(exe)
                .arg("up")
                .arg("--home")
                .arg(home)
                .args(more)
                .stdin(Stdio::null())
                // Ctrl-C at the terminal is for the lab, which then stops its daemons in order.
                .process_group(0)
                .stdout(log.try_clone().doing("share the log")?)
                .stderr(log)
                .spawn()
                .doing(format!("start {}", exe.display()))
        })?;
        let mut daemon = Daemon { exe: exe.into(), namespace: ns.name().to_owned(), home: home.to_owned(), child };
        daemon.wait_for("the daemon's API", Duration::from_secs(20), |d| d.status().ok().map(|_| ()))?;
        Ok(daemon)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The daemon's home folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs `hawser <words> --home HOME --json` in the daemon's namespace and parses what it prints.
    pub fn cli(&self, words: &[&str]) -> Result<Value> {
        let command = || format!("hawser {}", words.join(" "));
        let out = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .arg(&self.exe)
            .args(words)
            .args(["--json", "--home"])
            .arg(&self.home)
            .output()
            .doing(command())?;
        if !out.status.success() {
            let reason = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            return Err(Error::Command { command: command(), reason });
        }
        serde_json::from_slice(&out.stdout).map_err(|e| Error::Command { command: command(), reason: e.to_string() })
    }

    /// The status object.
    pub fn status(&self) -> Result<Value> {
        self.cli(&["status"])
    }

    /// The node's address.
    pub fn address(&self) -> Result<String> {
        let status = self.status()?;
        Ok(status["address"].as_str().unwrap_or_default().to_owned())
    }

    /// Network object of `nwid`, if joined.
    pub fn network(&self, nwid: &str) -> Result<Option<Value>> {
        let all = self.cli(&["networks"])?;
        Ok(all.as_array().and_then(|a| a.iter().find(|n| n["id"] == nwid)).cloned())
    }

    /// Peer object of `address`, if known.
    pub fn peer(&self, address: &str) -> Result<Option<Value>> {
        let all = self.cli(&["peers"])?;
        Ok(all.as_array().and_then(|a| a.iter().find(|p| p["address"] == address)).cloned())
    }

    /// Direct paths to `address` that are alive.
    pub fn direct_paths(&self, address: &str) -> Result<Vec<String>> {
        let peer = self.peer(address)?.unwrap_or_default();
        let paths = peer["paths"].as_array().cloned().unwrap_or_default();
        Ok(paths
            .iter()
            .filter(|p| p["active"] == true && p["expired"] != true)
            .filter_map(|p| p["address"].as_str().map(str::to_owned))
            .collect())
    }

    /// Asks `probe` every 20 ms until it answers.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&Daemon) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = probe(self) {
                return Ok(found);
            }
            if crate::interrupted() {
                return Err(Error::Interrupted);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let reason = format!("ended with {status}\n{}", self.log_tail());
                return Err(Error::Command { command: "hawser up".into(), reason });
            }
            if Instant::now() > end {
                let detail = format!("; the daemon's last words:\n{}", self.log_tail());
                return Err(Error::Timeout { what: what.into(), seconds: limit.as_secs(), detail });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Joins `nwid` and waits until the network is OK; answers its first IPv4 address, or any other, without prefix.
    pub fn join(&mut self, nwid: &str, limit: Duration) -> Result<String> {
        self.cli(&["join", nwid])?;
        self.wait_for("the network configuration", limit, |d| {
            let network = d.network(nwid).ok()??;
            let addresses: Vec<&str> =
                network["assignedAddresses"].as_array()?.iter().filter_map(|a| a.as_str()).collect();
            let one = addresses.iter().find(|a| a.contains('.')).or(addresses.first())?;
            (network["status"] == "OK").then(|| one.split('/').next().unwrap_or(one).to_owned())
        })
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks the daemon to stop and waits; kills it after five seconds.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
