//! WireGuard in user space, whoever wrote it: the programs differ in name and switches only. Keys are made anew for each
//! start; `wg` of wireguard-tools gives them to the program through its socket.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lab::netns;

use super::{Programs, Running, Tunnel, rival};
use crate::rig::{Guard, Rig};
use crate::{Error, IoContext, Result};

const OVERLAY: [&str; 2] = ["10.66.0.1", "10.66.0.2"];
const PORT: u16 = 51820;
/// What a packet grows by at most, IPv6 outside; wg-quick takes as much off the wire's MTU.
const OVERHEAD: u32 = 80;
/// Where all implementations put their sockets, whatever namespace they are in.
const SOCKETS: &str = "/var/run/wireguard";
const SOCKET_LIMIT: Duration = Duration::from_secs(5);

/// One implementation.
#[derive(Clone, Debug)]
pub struct WireGuard {
    name: &'static str,
    program: PathBuf,
    switches: &'static [&'static str],
    wg: PathBuf,
}

impl WireGuard {
    /// The implementation called `name`; `switches` keep the program in the foreground.
    pub(super) fn find(
        programs: &Programs,
        name: &'static str,
        program: &str,
        switches: &'static [&'static str],
    ) -> Result<WireGuard> {
        Ok(WireGuard { name, program: programs.find(program)?, switches, wg: programs.find("wg")? })
    }
}

struct Pair {
    daemons: [Guard; 2],
    // Some programs leave their socket behind.
    _sockets: [Socket; 2],
}

struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Tunnel for WireGuard {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> String {
        format!("{}, ChaCha20-Poly1305", rival::version(&self.program, "--version"))
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        // Unlike the devices, the sockets of all namespaces share one folder.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let n = STARTED.fetch_add(1, Ordering::Relaxed) % 100;
        let devices = ["a", "b"].map(|end| format!("hb{}-{n}{end}", std::process::id()));
        let sockets = devices.each_ref().map(|device| Socket(Path::new(SOCKETS).join(format!("{device}.sock"))));
        let launch = |i: usize| -> Result<Guard> {
            let _ = std::fs::remove_file(&sockets[i].0);
            let log = rig.files.path().join(format!("{}.log", devices[i]));
            let mut command = Command::new(&self.program);
            command.args(self.switches).arg(&devices[i]).env("LOG_LEVEL", "error");
            let mut daemon = rig.sites[i].spawn(&mut command, &log)?;
            rival::wait_for(&mut daemon, self.name, &log, "its socket", SOCKET_LIMIT, || Ok(sockets[i].0.exists()))?;
            Ok(daemon)
        };
        let daemons = [launch(0)?, launch(1)?];
        let secrets = [self.answer("genkey", "")?, self.answer("genkey", "")?];
        let mtu = rig.options.wan_mtu.saturating_sub(OVERHEAD).to_string();
        for i in [0, 1] {
            let (site, far, device) = (&rig.sites[i], &rig.sites[1 - i], &devices[i]);
            let key = rig.files.path().join(format!("{device}.key"));
            std::fs::write(&key, &secrets[i]).doing("write a key")?;
            let words = [
                "set",
                device,
                "listen-port",
                &PORT.to_string(),
                "private-key",
                &key.display().to_string(),
                "peer",
                &self.answer("pubkey", &secrets[1 - i])?,
                "endpoint",
                &format!("{}:{PORT}", far.wan),
                "allowed-ips",
                &format!("{}/32,{}", OVERLAY[1 - i], far.lan_net),
            ];
            site.gateway.inside(|| netns::run(&self.wg.display().to_string(), &words))?;
            site.gateway.ip(&["addr", "add", &format!("{}/24", OVERLAY[i]), "dev", device])?;
            site.gateway.ip(&["link", "set", device, "mtu", &mtu, "up"])?;
            rig.route(i, &["dev", device])?;
        }
        Ok(Box::new(Pair { daemons, _sockets: sockets }))
    }
}

impl WireGuard {
    /// What `wg <word>` prints when it reads `input`.
    fn answer(&self, word: &str, input: &str) -> Result<String> {
        let command = || format!("{} {word}", self.wg.display());
        let mut wg =
            Command::new(&self.wg).arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing(command())?;
        // Dropped at once: the program reads to the end.
        wg.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes())).doing(command())?;
        let out = wg.wait_with_output().doing(command())?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
            false => Err(Error::Command { command: command(), reason: out.status.to_string() }),
        }
    }
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        self.daemons.each_ref().map(|d| vec![d.pid()])
    }

    fn overlay(&self) -> [IpAddr; 2] {
        rival::addresses(OVERLAY)
    }
}
