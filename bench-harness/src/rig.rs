//! The rig: two gateways joined by one veth (the WAN), a LAN host behind each, and a root that only Hawser uses and that
//! does not forward. Here is who stands where and what the wires can do; not what runs on them.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::measure::{self, PingPlan};
use lab::netns::{self, Namespace};
use serde::{Deserialize, Serialize};

use crate::{Error, IoContext, Result};

/// What the wire does with super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// veth as it comes: super-packets pass whole, like a NIC with segmentation and receive offload in hardware
    Hw,
    /// TSO and UDP segmentation off and GRO on at both ends of the wire: the kernel segments and coalesces
    Sw,
}

impl std::fmt::Display for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Offload::Hw => "hw",
            Offload::Sw => "sw",
        })
    }
}

/// How a rig is built.
#[derive(Clone, Debug)]
pub struct RigOptions {
    /// What the wire between the gateways does with super-packets.
    pub offload: Offload,
    /// MTU of both LANs.
    pub lan_mtu: u32,
    /// MTU of the wire between the gateways.
    pub wan_mtu: u32,
    /// Cores of site A and of site B: its daemon and its LAN host. None: all.
    pub cores: [Vec<usize>; 2],
}

impl Default for RigOptions {
    /// veth as it comes, 1500 bytes everywhere, site A on core 0, site B on core 1 (or 0, if there is no other).
    fn default() -> RigOptions {
        let last = std::thread::available_parallelism().map_or(1, usize::from).min(2) - 1;
        RigOptions { offload: Offload::Hw, lan_mtu: 1500, wan_mtu: 1500, cores: [vec![0], vec![last]] }
    }
}

/// One end: a gateway and the host behind it.
#[derive(Debug)]
pub struct Site {
    /// Where the tunnel's daemon runs. Interfaces: `wan0`, `lan0`, `root0`.
    pub gateway: Namespace,
    /// Where traffic begins and ends. Interface: `lan0`.
    pub host: Namespace,
    /// Cores of daemon and traffic; empty: all.
    pub cores: Vec<usize>,
    /// The gateway on the wire to the other gateway (a /24).
    pub wan: IpAddr,
    /// The gateway in its LAN.
    pub lan: IpAddr,
    /// The host in the LAN.
    pub host_address: IpAddr,
    /// The LAN, as `ip route` takes it.
    pub lan_net: &'static str,
}

impl Site {
    /// Runs `f` inside the gateway on the site's cores; processes that it starts stay there.
    pub fn on_gateway<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.gateway.inside_on(&self.cores, f)
    }

    /// Runs `f` inside the LAN host on the site's cores.
    pub fn on_host<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.host.inside_on(&self.cores, f)
    }

    /// Starts a daemon inside the gateway on the site's cores, out of reach of the terminal's Ctrl-C, with both outputs in
    /// the file `log`.
    pub fn spawn(&self, command: &mut Command, log: &Path) -> Result<Guard> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        let out = std::fs::File::create(log).doing(format!("make {}", log.display()))?;
        let also = out.try_clone().doing("share the log")?;
        self.on_gateway(|| {
            let child = command.stdin(Stdio::null()).stdout(out).stderr(also).process_group(0).spawn();
            Ok(Guard { child: child.doing(format!("start {name}"))? })
        })
    }
}

/// A started process. Dropping it ends it: SIGTERM, SIGKILL after two seconds.
#[derive(Debug)]
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let end = Instant::now() + Duration::from_secs(2);
        if self.alive() {
            let _ = kill(nix::unistd::Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        }
        while self.alive() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole rig. Dropping it removes every namespace; what runs in them must be gone before.
#[derive(Debug)]
pub struct Rig {
    /// A and B.
    pub sites: [Site; 2],
    /// Only for tunnels that need a third party. Its addresses are in [`Rig::ROOT`]; it does not forward.
    pub root: Namespace,
    /// How it was built.
    pub options: RigOptions,
    /// For configurations, keys and logs; gone with the rig.
    pub files: tempfile::TempDir,
}

impl Rig {
    /// Addresses of the root towards site A and site B.
    pub const ROOT: [&'static str; 2] = ["10.91.1.1", "10.91.2.1"];

    /// Builds it. The sites can reach each other's `wan` address, and hosts have their gateway as default route.
    pub fn new(options: RigOptions) -> Result<Rig> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let n = BUILT.fetch_add(1, Ordering::Relaxed);
        let make = |name: &str| Namespace::new(&format!("b{n}_{name}"));
        let files = tempfile::Builder::new().prefix("bench-harness-").tempdir().doing("make a folder")?;
        let site = |i: usize, name: &str, lan_net| -> Result<Site> {
            let ip = |text: String| text.parse::<IpAddr>().expect("an address of the rig");
            Ok(Site {
                gateway: make(&format!("gw_{name}"))?,
                host: make(&format!("host_{name}"))?,
                cores: options.cores[i].clone(),
                wan: ip(format!("10.90.0.{}", i + 1)),
                lan: ip(format!("192.168.{}.1", i + 11)),
                host_address: ip(format!("192.168.{}.2", i + 11)),
                lan_net,
            })
        };
        let sites = [site(0, "a", "192.168.11.0/24")?, site(1, "b", "192.168.12.0/24")?];
        let root = make("root")?;
        let wan = |s: &Site| format!("{}/24", s.wan);
        let [a, b] = &sites;
        netns::link((&a.gateway, "wan0", &wan(a)), (&b.gateway, "wan0", &wan(b)))?;
        for (i, s) in sites.iter().enumerate() {
            let gateway = s.lan.to_string();
            netns::link(
                (&s.gateway, "lan0", &format!("{gateway}/24")),
                (&s.host, "lan0", &format!("{}/24", s.host_address)),
            )?;
            let root_side = format!("{}/24", Rig::ROOT[i]);
            netns::link(
                (&root, ["root_a", "root_b"][i], &root_side),
                (&s.gateway, "root0", &format!("10.91.{}.2/24", i + 1)),
            )?;
            s.host.ip(&["route", "add", "default", "via", &gateway])?;
            s.gateway.sysctl("net/ipv4/ip_forward", "1")?;
            let (lan, wan) = (options.lan_mtu.to_string(), options.wan_mtu.to_string());
            s.gateway.ip(&["link", "set", "lan0", "mtu", &lan])?;
            s.host.ip(&["link", "set", "lan0", "mtu", &lan])?;
            s.gateway.ip(&["link", "set", "wan0", "mtu", &wan])?;
            if options.offload == Offload::Sw {
                segment_in_software(&s.gateway)?;
            }
        }
        Ok(Rig { sites, root, options, files })
    }

    /// Sends each site's packets for the other site's LAN to `via` (the far end's address in the tunnel) or into `dev`.
    pub fn route(&self, site: usize, words: &[&str]) -> Result<()> {
        let mut all = vec!["route", "replace", self.sites[1 - site].lan_net];
        all.extend(words);
        self.sites[site].gateway.ip(&all)
    }

    /// Waits until host A hears from host B.
    pub fn wait_for_ping(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let to = self.sites[1].host_address;
        let plan = PingPlan {
            count: 2,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(200),
            stop_at_first: true,
            ..PingPlan::default()
        };
        while self.sites[0].on_host(|| measure::ping(to, plan))?.answered == 0 {
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > end {
                let what = format!("a ping from host A to {to}");
                return Err(Error::Timeout { what, seconds: limit.as_secs(), detail: String::new() });
            }
        }
        Ok(())
    }
}

fn segment_in_software(gateway: &Namespace) -> Result<()> {
    let words = ["-K", "wan0", "tso", "off", "tx-udp-segmentation", "off", "gro", "on"];
    gateway.inside(|| netns::run("ethtool", &words)).map_err(|e| match e {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::Unusable("--offload sw needs the command `ethtool`: install it".into())
        }
        other => other,
    })
}
