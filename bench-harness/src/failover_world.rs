//! The world in which ways fail: two gateways and two roots around a router that can forget, drop and cut, a home router
//! before the first gateway if wanted. Here is who stands where and how each failure is made; not what it does to traffic.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::netns::{self, Namespace};
use serde_json::json;

use crate::{Error, IoContext, Result};

/// Addresses of A and B in the virtual network.
pub const OVERLAY: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const ROOTS: [&str; 2] = ["10.4.0.2", "10.5.0.2"];
const NAMES: [&str; 4] = ["a", "b", "root1", "root2"];
const LIMIT: Duration = Duration::from_secs(30);

/// What stands between the gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// A is behind a home router that translates to random ports.
    pub home: bool,
    /// Once direct, A gets a second uplink.
    pub second: bool,
    /// Nothing passes straight between A and B.
    pub relayed: bool,
}

/// Identities and planet, made once: an identity takes seconds of CPU time.
pub struct Homes {
    exe: PathBuf,
    more: Vec<String>,
    folder: tempfile::TempDir,
}

impl Homes {
    /// Makes them with the program, which will get the words `more` at A and B.
    pub fn new(exe: PathBuf, more: Vec<String>) -> Result<Homes> {
        let folder = tempfile::Builder::new().prefix("bench-harness-id-").tempdir().doing("make a folder")?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let program = exe.display().to_string();
        NAMES.iter().try_for_each(|name| netns::run(&program, &["identity", "new", "--out", &path(name)]))?;
        let root = |i: usize| format!("{}@{}/9993", path(NAMES[2 + i]), ROOTS[i]);
        let planet = path("planet");
        netns::run(&program, &["planet", "make", "--root", &root(0), "--root", &root(1), "--out", &planet])?;
        Ok(Homes { exe, more, folder })
    }

    fn install(&self, name: &str, to: &Path) -> Result<PathBuf> {
        let home = to.join(name);
        std::fs::create_dir_all(&home).doing("make a home")?;
        for (source, target) in
            [(name, "identity.secret"), (&format!("{name}.public"), "identity.public"), ("planet", "planet")]
        {
            std::fs::copy(self.folder.path().join(source), home.join(target)).doing(format!("install {target}"))?;
        }
        Ok(home)
    }
}

/// It runs until dropped.
pub struct World {
    // Ended in this order.
    /// A and B.
    pub gateways: [Daemon; 2],
    addresses: [String; 2],
    roots: [Option<Daemon>; 2],
    /// Where A and B are.
    pub places: [Namespace; 2],
    home: Option<Namespace>,
    net: Namespace,
    _root_places: [Namespace; 2],
    _files: tempfile::TempDir,
}

fn namespace(name: &str) -> Result<Namespace> {
    let ns = Namespace::new(&format!("f_{name}"))?;
    for which in ["all", "default"] {
        ns.sysctl(&format!("net/ipv4/conf/{which}/rp_filter"), "0")?;
        ns.sysctl(&format!("net/ipv4/conf/{which}/promote_secondaries"), "1")?;
    }
    Ok(ns)
}

/// An uplink of `host` to the router, which has `.1` on it, with a default route.
fn uplink(net: &Namespace, port: &str, host: &Namespace, dev: &str, subnet: &str, metric: &str) -> Result<()> {
    netns::link((net, port, &format!("{subnet}.1/24")), (host, dev, &format!("{subnet}.2/24")))?;
    host.ip(&["route", "add", "default", "via", &format!("{subnet}.1"), "dev", dev, "metric", metric])
}

fn nft(ns: &Namespace, commands: &[&str]) -> Result<()> {
    ns.inside(|| commands.iter().try_for_each(|words| netns::run("nft", &[words])))
}

impl World {
    /// Builds it, joins both gateways to a network, and waits until they are as `setup` says.
    pub fn start(homes: &Homes, setup: Setup) -> Result<World> {
        let files = tempfile::Builder::new().prefix("bench-harness-").tempdir().doing("make a folder")?;
        let [a, b, net] = ["a", "b", "net"].map(namespace);
        let (a, b, net) = (a?, b?, net?);
        let [root1, root2] = ["root1", "root2"].map(namespace);
        let root_places = [root1?, root2?];
        net.sysctl("net/ipv4/ip_forward", "1")?;
        let home = setup.home.then(|| namespace("home")).transpose()?;
        match &home {
            Some(home) => {
                home.sysctl("net/ipv4/ip_forward", "1")?;
                uplink(home, "lan", &a, "up0", "192.168.5", "10")?;
                uplink(&net, "a0", home, "wan", "10.1.0", "10")?;
                nft(
                    home,
                    &[
                        "add table ip home",
                        "add chain ip home out { type nat hook postrouting priority 100; }",
                        "add rule ip home out oifname wan masquerade fully-random",
                    ],
                )?;
            }
            None => uplink(&net, "a0", &a, "up0", "10.1.0", "10")?,
        }
        uplink(&net, "b0", &b, "up0", "10.3.0", "10")?;
        uplink(&net, "r1", &root_places[0], "up0", "10.4.0", "10")?;
        uplink(&net, "r2", &root_places[1], "up0", "10.5.0", "10")?;
        nft(&net, &["add table ip f", "add chain ip f cut { type filter hook forward priority 0; }"])?;
        let roots = start_roots(homes, &root_places, files.path())?;
        let network = network_of(&roots[1])?;
        let places = [a, b];
        let start = |i: usize| -> Result<Daemon> {
            let home = homes.install(NAMES[i], files.path())?;
            let words: Vec<&str> = ["--shards", "1"].into_iter().chain(homes.more.iter().map(String::as_str)).collect();
            let mut daemon = Daemon::start(&homes.exe, &places[i], &home, &words)?;
            let config = json!({"authorized": true, "ipAssignments": [OVERLAY[i]]}).to_string();
            roots[1].cli(&["controller", "member", "set", &network, &daemon.address()?, "--config", &config])?;
            daemon.join(&network, LIMIT)?;
            Ok(daemon)
        };
        let gateways = [start(0)?, start(1)?];
        let addresses = [gateways[0].address()?, gateways[1].address()?];
        let roots = roots.map(Some);
        let mut world =
            World { gateways, addresses, roots, places, home, net, _root_places: root_places, _files: files };
        if setup.relayed {
            world.cut("ip saddr 10.1.0.0/16 ip daddr 10.3.0.0/16")?;
            world.cut("ip saddr 10.3.0.0/16 ip daddr 10.1.0.0/16")?;
        }
        world.meet(setup)?;
        Ok(world)
    }

    fn meet(&mut self, setup: Setup) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let plan = lab::measure::PingPlan {
            count: 2,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            ..Default::default()
        };
        let to = OVERLAY[1].parse().expect("an address of this world");
        loop {
            let answered = self.places[0].inside(|| lab::measure::ping(to, plan))?.answered > 0;
            if answered && (setup.relayed || (self.direct(0)? && self.direct(1)?)) {
                break;
            }
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > end {
                let what = format!("a first contact as wanted ({setup:?})");
                return Err(Error::Timeout { what, seconds: LIMIT.as_secs(), detail: String::new() });
            }
        }
        if setup.second {
            uplink(&self.net, "a1", &self.places[0], "up1", "10.2.0", "20")?;
        }
        Ok(())
    }

    /// Gateway `i` has a path to the other one that works.
    pub fn direct(&self, i: usize) -> Result<bool> {
        Ok(self.paths(i)? > 0)
    }

    /// Paths of gateway `i` to the other one that work.
    pub fn paths(&self, i: usize) -> Result<usize> {
        Ok(self.gateways[i].direct_paths(&self.addresses[1 - i])?.len())
    }

    /// Forwards nothing more that matches.
    pub fn cut(&self, matching: &str) -> Result<()> {
        nft(&self.net, &[&format!("add rule ip f cut {matching} drop")])
    }

    /// Ends the root through which A relays, at once.
    pub fn kill_best_root(&mut self) -> Result<()> {
        let best = self.best_root()?;
        let daemon = self.roots[best].as_ref().expect("ended once only");
        let pid = nix::unistd::Pid::from_raw(daemon.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).doing("end a root")
    }

    /// Nothing reaches the root through which A relays any more, nor comes from it.
    pub fn cut_best_root(&mut self) -> Result<()> {
        let ip = ROOTS[self.best_root()?];
        self.cut(&format!("ip saddr {ip}"))?;
        self.cut(&format!("ip daddr {ip}"))
    }

    /// The root that carries more: the rig's clock is the traffic itself.
    fn best_root(&self) -> Result<usize> {
        let carried = || -> Result<[u64; 2]> {
            let read = |dev: &str| -> Result<u64> {
                let path = format!("/sys/class/net/{dev}/statistics/rx_packets");
                let text = self.net.inside(|| {
                    let out = std::process::Command::new("ip")
                        .args(["-s", "-j", "link", "show", "dev", dev])
                        .output()
                        .doing(path.clone())?;
                    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
                })?;
                let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                Ok(value[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0))
            };
            Ok([read("r1")?, read("r2")?])
        };
        let before = carried()?;
        std::thread::sleep(Duration::from_millis(100));
        let after = carried()?;
        Ok(usize::from(after[1].saturating_sub(before[1]) > after[0].saturating_sub(before[0])))
    }

    /// A's address is replaced by another one.
    pub fn renumber(&self) -> Result<()> {
        let a = &self.places[0];
        a.ip(&["addr", "add", "10.1.0.3/24", "dev", "up0"])?;
        a.ip(&["addr", "del", "10.1.0.2/24", "dev", "up0"])?;
        a.ip(&["route", "replace", "default", "via", "10.1.0.1", "dev", "up0", "metric", "10"])
    }

    fn home(&self) -> Result<&Namespace> {
        self.home.as_ref().ok_or_else(|| Error::Unusable("there is no home router".into()))
    }

    /// The home router gets another address from its provider.
    pub fn renumber_home(&self) -> Result<()> {
        let home = self.home()?;
        home.ip(&["addr", "add", "10.1.0.3/24", "dev", "wan"])?;
        home.ip(&["addr", "del", "10.1.0.2/24", "dev", "wan"])?;
        home.ip(&["route", "replace", "default", "via", "10.1.0.1", "dev", "wan", "metric", "10"])
    }

    /// The home router forgets its mappings and loses no packet otherwise.
    pub fn flush_home(&self) -> Result<()> {
        self.home()?.inside(|| netns::run("conntrack", &["-F"]))
    }

    /// The home router's line goes down and up again at once, which makes it forget its mappings.
    pub fn restart_home(&self) -> Result<()> {
        let home = self.home()?;
        home.ip(&["link", "set", "wan", "down"])?;
        home.ip(&["link", "set", "wan", "up"])?;
        home.ip(&["route", "replace", "default", "via", "10.1.0.1", "dev", "wan", "metric", "10"])
    }

    /// The far end of A's first uplink is switched off.
    pub fn carrier_down(&self) -> Result<()> {
        self.net.ip(&["link", "set", "a0", "down"])
    }

    /// A's first uplink is gone altogether.
    pub fn delete_uplink(&self) -> Result<()> {
        self.places[0].ip(&["link", "del", "up0"])
    }
}

fn start_roots(homes: &Homes, places: &[Namespace; 2], files: &Path) -> Result<[Daemon; 2]> {
    let start = |i: usize| {
        let home = homes.install(NAMES[2 + i], files)?;
        Daemon::start(&homes.exe, &places[i], &home, &["--shards", "1"])
    };
    Ok([start(0)?, start(1)?])
}

fn network_of(controller: &Daemon) -> Result<String> {
    let config = json!({
        "name": "failover", "private": true, "v4AssignMode": {"zt": true},
        "ipAssignmentPools": [{"ipRangeStart": "10.77.0.100", "ipRangeEnd": "10.77.0.200"}],
        "routes": [{"target": "10.77.0.0/24", "via": null}],
    });
    let made = controller.cli(&["controller", "network", "create", "--config", &config.to_string()])?;
    Ok(made["id"].as_str().unwrap_or_default().to_owned())
}
