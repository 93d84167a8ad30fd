//! An installed ZeroTierOne at both ends, with homes and a planet of their own; the rig's root (a Hawser) is its planet root
//! and controller, so that nothing leaves the rig. Written from the documented command line and **never run** against the program itself.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::daemon::Daemon;
use serde_json::{Value, json};

use super::hawser::Hawser;
use super::{Programs, Running, Tunnel, rival};
use crate::rig::{Guard, Rig};
use crate::{Error, IoContext, Result};

/// Addresses of the gateways in the virtual network.
const OVERLAY: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const START_LIMIT: Duration = Duration::from_secs(15);
const JOIN_LIMIT: Duration = Duration::from_secs(30);
const DIRECT_LIMIT: Duration = Duration::from_secs(30);

/// The installed `zerotier-one`, and the Hawser that is its root.
#[derive(Debug)]
pub struct ZeroTierOne {
    program: PathBuf,
    root: Hawser,
}

/// The installed `zerotier-one`; `hawser` will be its root.
pub fn find(programs: &Programs, hawser: PathBuf) -> Result<ZeroTierOne> {
    Ok(ZeroTierOne { program: programs.find("zerotier-one")?, root: Hawser::new(hawser) })
}

struct Pair {
    // Ended in this order.
    daemons: [Guard; 2],
    _root: Daemon,
}

impl Tunnel for ZeroTierOne {
    fn name(&self) -> &str {
        "zerotier-one"
    }

    fn about(&self) -> String {
        format!("ZeroTierOne {}", rival::version(&self.program, "-v"))
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let (root, network) = self.root.start_root(rig)?;
        let launch = |i: usize| -> Result<Guard> {
            let site = &rig.sites[i];
            let home = self.root.home(rig, ["gw_a", "gw_b"][i])?;
            let log = home.join("daemon.log");
            // -U: stay root. As its own user it could not enter the home.
            let mut command = Command::new(&self.program);
            let mut daemon = site.spawn(command.args(["-U", "-p9993"]).arg(&home), &log)?;
            let mut wait = |what, limit, probe: &mut dyn FnMut() -> Result<bool>| {
                rival::wait_for(&mut daemon, "zerotier-one", &log, what, limit, probe)
            };
            wait("its API", START_LIMIT, &mut || Ok(self.cli(rig, i, &home, &["info"]).is_ok()))?;
            let address = self.address(rig, i, &home)?;
            let member = json!({"authorized": true, "ipAssignments": [OVERLAY[i]]}).to_string();
            root.cli(&["controller", "member", "set", &network, &address, "--config", &member])?;
            self.cli(rig, i, &home, &["join", &network])?;
            wait("the network configuration", JOIN_LIMIT, &mut || {
                let networks = self.cli(rig, i, &home, &["listnetworks"])?;
                Ok(networks.as_array().is_some_and(|all| all.iter().any(|n| n["status"] == "OK")))
            })?;
            Ok(daemon)
        };
        let mut daemons = [launch(0)?, launch(1)?];
        // Until the first frame the gateways know nothing of each other.
        let _ = rig.wait_for_ping(JOIN_LIMIT);
        for i in [0, 1] {
            let home = |i: usize| rig.files.path().join(["gw_a", "gw_b"][i]);
            let far = self.address(rig, 1 - i, &home(1 - i))?;
            let log = home(i).join("daemon.log");
            rival::wait_for(&mut daemons[i], "zerotier-one", &log, "a direct path", DIRECT_LIMIT, || {
                Ok(is_direct(&self.cli(rig, i, &home(i), &["listpeers"])?, &far))
            })?;
        }
        Ok(Box::new(Pair { daemons, _root: root }))
    }
}

impl ZeroTierOne {
    /// What the program answers as `zerotier-cli` (`-q`) with `-j`; null where it answers in words.
    fn cli(&self, rig: &Rig, i: usize, home: &Path, words: &[&str]) -> Result<Value> {
        let command = || format!("zerotier-cli {}", words.join(" "));
        let home = format!("-D{}", home.display());
        let mut cli = Command::new(&self.program);
        cli.args(["-q", &home, "-j"]).args(words);
        let out = rig.sites[i].gateway.inside(|| cli.output().doing(command()))?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        match out.status.success() {
            true => Ok(serde_json::from_str(&text).unwrap_or_default()),
            false => Err(Error::Command { command: command(), reason: text }),
        }
    }

    fn address(&self, rig: &Rig, i: usize, home: &Path) -> Result<String> {
        Ok(self.cli(rig, i, home, &["info"])?["address"].as_str().unwrap_or_default().to_owned())
    }
}

/// In what `listpeers -j` says, `address` has a direct path that is alive.
fn is_direct(peers: &Value, address: &str) -> bool {
    let paths = peers.as_array().and_then(|all| all.iter().find(|p| p["address"] == address)).map(|p| &p["paths"]);
    paths.and_then(Value::as_array).is_some_and(|all| all.iter().any(|p| p["active"] == true && p["expired"] != true))
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        self.daemons.each_ref().map(|d| vec![d.pid()])
    }

    fn overlay(&self) -> [IpAddr; 2] {
        rival::addresses(OVERLAY)
    }
}
