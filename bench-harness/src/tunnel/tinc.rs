//! tinc 1.0 as a router with the ciphers it comes with. Until it has found the path's MTU it sends over TCP, so a start
//! lasts until that is done: about seven seconds.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::measure::{self, PingPlan};
use lab::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Programs, Running, Tunnel, rival};
use crate::rig::{Guard, Rig};
use crate::{Error, IoContext, Result};

const OVERLAY: [&str; 2] = ["10.66.0.1", "10.66.0.2"];
const NAMES: [&str; 2] = ["a", "b"];
const DEVICE: &str = "tinc0";
const START_LIMIT: Duration = Duration::from_secs(10);
const PATH_MTU_LIMIT: Duration = Duration::from_secs(40);

/// The installed `tincd`.
#[derive(Clone, Debug)]
pub struct Tinc {
    program: PathBuf,
}

/// The installed `tincd`.
pub fn find(programs: &Programs) -> Result<Tinc> {
    Ok(Tinc { program: programs.find("tincd")? })
}

struct Pair([Guard; 2]);

impl Tunnel for Tinc {
    fn name(&self) -> &str {
        "tinc"
    }

    fn about(&self) -> String {
        format!("{}, its default cipher and digest", rival::version(&self.program, "--version"))
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let folders = NAMES.map(|name| rig.files.path().join(format!("tinc-{name}")));
        for (i, folder) in folders.iter().enumerate() {
            self.configure(rig, i, folder)?;
        }
        // Making a key also completes the file about oneself; each needs the other's.
        for (i, folder) in folders.iter().enumerate() {
            let (from, to) = (folder.join("hosts").join(NAMES[i]), folders[1 - i].join("hosts").join(NAMES[i]));
            std::fs::copy(from, to).doing("copy a tinc host file")?;
        }
        let logs = folders.each_ref().map(|folder| folder.join("log"));
        let launch = |i: usize| -> Result<Guard> {
            let (site, folder) = (&rig.sites[i], &folders[i]);
            let mut command = Command::new(&self.program);
            command.arg("-c").arg(folder).arg("-D").arg(format!("--pidfile={}", folder.join("pid").display()));
            let mut daemon = site.spawn(&mut command, &logs[i])?;
            rival::wait_for(&mut daemon, "tincd", &logs[i], "its device", START_LIMIT, || {
                Ok(site.gateway.ip(&["link", "set", DEVICE, "up"]).is_ok())
            })?;
            site.gateway.ip(&["addr", "add", &format!("{}/24", OVERLAY[i]), "dev", DEVICE])?;
            rig.route(i, &["dev", DEVICE])?;
            Ok(daemon)
        };
        let pair = Pair([launch(0)?, launch(1)?]);
        wait_for_path_mtu(rig, &pair, &logs)?;
        Ok(Box::new(pair))
    }
}

impl Tinc {
    fn configure(&self, rig: &Rig, i: usize, folder: &Path) -> Result<()> {
        let hosts = folder.join("hosts");
        std::fs::create_dir_all(&hosts).doing("make a folder for tinc")?;
        let (name, far, site) = (NAMES[i], NAMES[1 - i], &rig.sites[i]);
        let conf =
            format!("Name = {name}\nMode = router\nInterface = {DEVICE}\nAddressFamily = ipv4\nConnectTo = {far}\n");
        std::fs::write(folder.join("tinc.conf"), conf).doing("write tinc.conf")?;
        let host = format!("Address = {}\nSubnet = {}/32\nSubnet = {}\n", site.wan, OVERLAY[i], site.lan_net);
        std::fs::write(hosts.join(name), host).doing("write a tinc host file")?;
        let config = folder.display().to_string();
        netns::run(&self.program.display().to_string(), &["-c", &config, "-K2048"])
    }
}

/// Lets both daemons talk, and asks them (SIGUSR2 makes them log their nodes) until both have settled on an MTU.
fn wait_for_path_mtu(rig: &Rig, pair: &Pair, logs: &[PathBuf; 2]) -> Result<()> {
    let far: IpAddr = rival::addresses(OVERLAY)[1];
    let plan = PingPlan {
        count: 5,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
        ..PingPlan::default()
    };
    let end = Instant::now() + PATH_MTU_LIMIT;
    loop {
        rig.sites[0].on_gateway(|| measure::ping(far, plan))?;
        for daemon in &pair.0 {
            kill(Pid::from_raw(daemon.pid() as i32), Signal::SIGUSR2).doing("ask tincd")?;
        }
        std::thread::sleep(Duration::from_millis(50));
        let settled = |i: usize| {
            let log = std::fs::read_to_string(&logs[i]).unwrap_or_default();
            log.lines()
                .rev()
                .find(|line| line.contains(&format!(" {} at ", NAMES[1 - i])) && line.contains("pmtu"))
                .is_some_and(path_mtu_is_known)
        };
        if settled(0) && settled(1) {
            return Ok(());
        }
        if lab::interrupted() {
            return Err(Error::Interrupted);
        }
        if Instant::now() > end {
            let (what, seconds) = ("tincd: finding the path's MTU".into(), PATH_MTU_LIMIT.as_secs());
            return Err(Error::Timeout { what, seconds, detail: String::new() });
        }
    }
}

/// In a line "... pmtu 1451 (min 1451 max 1451)" least and most are equal.
fn path_mtu_is_known(line: &str) -> bool {
    let after = |word: &str| line.split_once(word)?.1.split([' ', ')']).next()?.parse::<u32>().ok();
    after("(min ").is_some() && after("(min ") == after(" max ")
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        self.0.each_ref().map(|d| vec![d.pid()])
    }

    fn overlay(&self) -> [IpAddr; 2] {
        rival::addresses(OVERLAY)
    }
}

#[cfg(test)]
mod tests {
    use super::path_mtu_is_known;

    #[test]
    fn an_mtu_is_known_when_least_and_most_meet() {
        let line = " b at 10.90.0.2 port 655 cipher 427 nexthop b via b pmtu";
        assert!(path_mtu_is_known(&format!("{line} 1451 (min 1451 max 1451)")));
        assert!(!path_mtu_is_known(&format!("{line} 1505 (min 1438 max 1505)")));
        assert!(!path_mtu_is_known("total bytes in: 3102"));
    }
}
