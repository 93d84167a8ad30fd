//! Hawser at both ends: two `hawser up`, and a third in the root as planet root and controller. Driven through its own
//! command line, as an operator would.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use lab::daemon::Daemon;
use lab::netns;
use serde_json::{Value, json};

use super::{Running, Tunnel};
use crate::rig::Rig;
use crate::{Error, IoContext, Result};

/// Addresses of the gateways in the virtual network.
pub(super) const OVERLAY: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const JOIN_LIMIT: Duration = Duration::from_secs(20);
const DIRECT_LIMIT: Duration = Duration::from_secs(30);

/// The rules of the virtual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rules {
    /// The usual ethertypes, everything in them
    Accept,
    /// A table that looks into ethertypes, protocols and ports, and accepts what is measured here
    Table,
}

/// The cipher suite of the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// AES-GMAC-SIV
    Aes,
    /// Salsa20/12 and Poly1305, as with peers before ZeroTierOne 1.6
    Salsa,
}

/// Hawser, and how it is set up.
#[derive(Clone, Debug)]
pub struct Hawser {
    /// The program.
    pub exe: PathBuf,
    /// Packet threads of each gateway.
    pub shards: usize,
    /// MTU of the virtual network; none: the controller's default.
    pub mtu: Option<u32>,
    /// How the gateways encrypt.
    pub suite: Suite,
    /// Microseconds of `--spin`.
    pub spin: u16,
    /// Its rules.
    pub rules: Rules,
    /// More of `settings` in the local.conf of A and of B.
    pub settings: [Value; 2],
    /// More words for `hawser up` of A and of B.
    pub up: [Vec<String>; 2],
    // Making an identity takes seconds of CPU time: all starts use the same three.
    homes: Rc<OnceCell<tempfile::TempDir>>,
}

/// The program `hawser`: what the user said, else beside this program, else in target/release of the working folder.
pub fn program(given: Option<&Path>) -> Result<PathBuf> {
    let unusable = |text| Err(Error::Unusable(text));
    if let Some(path) = given {
        return match super::executable(path) {
            true => Ok(path.to_owned()),
            false => unusable(format!("--hawser {}: no such program", path.display())),
        };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("hawser")));
    let places: Vec<PathBuf> = beside.into_iter().chain(["target/release/hawser".into()]).collect();
    match places.iter().find(|path| super::executable(path)) {
        Some(path) => Ok(path.clone()),
        None => {
            let list: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            unusable(format!(
                "the program hawser was found neither as {}: build it (cargo build --release -p gateway) or say --hawser PATH",
                list.join(" nor as ")
            ))
        }
    }
}

impl Hawser {
    /// One packet thread, the controller's own MTU, everything accepted.
    pub fn new(exe: PathBuf) -> Hawser {
        Hawser {
            exe,
            shards: 1,
            mtu: None,
            suite: Suite::Aes,
            spin: 0,
            rules: Rules::Accept,
            settings: [Value::Null, Value::Null],
            up: [vec![], vec![]],
            homes: Rc::default(),
        }
    }

    /// Its name, and how it differs from [`Hawser::new`].
    pub fn label(&self) -> String {
        let shards = (self.shards != 1).then(|| format!(", {} shards", self.shards));
        let mtu = self.mtu.map(|mtu| format!(", virtual MTU {mtu}"));
        let suite = (self.suite == Suite::Salsa).then(|| ", Salsa".to_owned());
        let spin = (self.spin > 0).then(|| format!(", spin {} us", self.spin));
        let rules = (self.rules == Rules::Table).then(|| ", rules table".to_owned());
        ["hawser".to_owned()].into_iter().chain(shards).chain(mtu).chain(suite).chain(spin).chain(rules).collect()
    }

    fn homes(&self) -> Result<&Path> {
        if self.homes.get().is_none() {
            let folder = tempfile::Builder::new().prefix("bench-harness-id-").tempdir().doing("make a folder")?;
            for name in NAMES {
                let secret = folder.path().join(name);
                self.run(&["identity", "new", "--out", &secret.display().to_string()])?;
            }
            let root =
                format!("{}@{}/9993,{}/9993", folder.path().join(NAMES[2]).display(), Rig::ROOT[0], Rig::ROOT[1]);
            let planet = folder.path().join("planet").display().to_string();
            self.run(&["planet", "make", "--root", &root, "--out", &planet])?;
            let _ = self.homes.set(folder);
        }
        Ok(self.homes.get().expect("just set").path())
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        netns::run(&self.exe.display().to_string(), words)
    }

    /// A home with identity and planet, fresh otherwise.
    pub(super) fn home(&self, rig: &Rig, name: &str) -> Result<PathBuf> {
        let (from, home) = (self.homes()?, rig.files.path().join(name));
        std::fs::create_dir_all(&home).doing("make a home")?;
        for (source, target) in
            [(name, "identity.secret"), (&format!("{name}.public"), "identity.public"), ("planet", "planet")]
        {
            std::fs::copy(from.join(source), home.join(target)).doing(format!("install {target}"))?;
        }
        // The LAN side is not an underlay.
        let mut conf = json!({"settings": {"interfacePrefixBlacklist": ["lan"]}});
        if self.suite == Suite::Salsa {
            conf["settings"]["suite"] = "salsa2012-poly1305".into();
        }
        let more = NAMES.iter().position(|known| *known == name).and_then(|i| self.settings.get(i)?.as_object());
        for (key, value) in more.into_iter().flatten() {
            conf["settings"][key] = value.clone();
        }
        std::fs::write(home.join("local.conf"), conf.to_string()).doing("write local.conf")?;
        Ok(home)
    }

    /// Planet root and controller, and the network that it has.
    pub(super) fn start_root(&self, rig: &Rig) -> Result<(Daemon, String)> {
        let home = self.home(rig, NAMES[2])?;
        let root = Daemon::start(&self.exe, &rig.root, &home, &["--shards", "1"])?;
        let made = root.cli(&["controller", "network", "create", "--config", &self.network().to_string()])?;
        let network = made["id"].as_str().unwrap_or_default().to_owned();
        Ok((root, network))
    }

    /// Gateway `i`, which has joined the root's network.
    pub(super) fn start_gateway(&self, rig: &Rig, i: usize, root: &Daemon, network: &str) -> Result<Daemon> {
        let (site, home, shards) = (&rig.sites[i], self.home(rig, NAMES[i])?, self.shards.to_string());
        // More threads than the site has cores need all of the host's. Where the gateways share cores, the second
        // one begins at the second; the number is counted among those it may use.
        let enough = site.cores.len() >= self.shards;
        let cores: &[usize] = if enough { &site.cores } else { &[] };
        let first = if enough && site.cores != rig.sites[1 - i].cores { 0 } else { i }.to_string();
        let (exe, spin) = (&self.exe, self.spin.to_string());
        let mut words = vec!["--shards", &shards, "--first-core", &first];
        if self.spin > 0 {
            words.extend(["--spin", &spin]);
        }
        words.extend(self.up[i].iter().map(String::as_str));
        let mut daemon = site.gateway.inside_on(cores, || Daemon::start(exe, &site.gateway, &home, &words))?;
        let config = json!({"authorized": true, "ipAssignments": [OVERLAY[i]]}).to_string();
        root.cli(&["controller", "member", "set", network, &daemon.address()?, "--config", &config])?;
        daemon.join(network, JOIN_LIMIT)?;
        Ok(daemon)
    }

    fn network(&self) -> Value {
        let mut config = json!({
            "name": "bench",
            "private": true,
            "v4AssignMode": {"zt": true},
            "ipAssignmentPools": [{"ipRangeStart": "10.77.0.100", "ipRangeEnd": "10.77.0.200"}],
            "routes": [
                {"target": "10.77.0.0/24", "via": null},
                {"target": "192.168.11.0/24", "via": OVERLAY[0]},
                {"target": "192.168.12.0/24", "via": OVERLAY[1]},
            ],
        });
        if let Some(mtu) = self.mtu {
            config["mtu"] = mtu.into();
        }
        if self.rules == Rules::Table {
            config["rules"] = rules_table();
        }
        config
    }
}

const NAMES: [&str; 3] = ["gw_a", "gw_b", "root"];

struct Pair {
    // Ended in this order.
    gateways: [Daemon; 2],
    _root: Daemon,
}

impl Tunnel for Hawser {
    fn name(&self) -> &str {
        "hawser"
    }

    fn about(&self) -> String {
        let out = std::process::Command::new(&self.exe).arg("--version").output();
        let version = out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        let suite = if self.suite == Suite::Aes { "AES-GMAC-SIV" } else { "Salsa20/12-Poly1305" };
        format!("{version}, {suite}, {} shard(s)", self.shards)
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let (root, network) = self.start_root(rig)?;
        let start = |i| self.start_gateway(rig, i, &root, &network);
        let mut gateways = [start(0)?, start(1)?];
        // Until the first frame the gateways know nothing of each other.
        let _ = rig.wait_for_ping(JOIN_LIMIT);
        for i in [0, 1] {
            let far = gateways[1 - i].address()?;
            gateways[i]
                .wait_for("a direct path", DIRECT_LIMIT, |d| d.direct_paths(&far).ok().filter(|p| !p.is_empty()))?;
        }
        Ok(Box::new(Pair { gateways, _root: root }))
    }
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        [vec![self.gateways[0].pid()], vec![self.gateways[1].pid()]]
    }

    fn overlay(&self) -> [IpAddr; 2] {
        OVERLAY.map(|ip| ip.parse().expect("an address of the rig"))
    }

    fn direct_paths(&self, site: usize) -> Option<Vec<String>> {
        self.gateways[site].direct_paths(&self.gateways[1 - site].address().ok()?).ok()
    }

    fn ask(&self, site: usize, words: &[&str]) -> Option<Value> {
        self.gateways[site].cli(words).ok()
    }

    fn counters(&self) -> Option<[Value; 2]> {
        let of = |d: &Daemon| d.status().ok().map(|s| s["counters"].clone());
        Some([of(&self.gateways[0])?, of(&self.gateways[1])?])
    }
}

/// What a cautious operator might write: known ethertypes only, eight closed TCP services, the rest open.
fn rules_table() -> Value {
    let mut rules = vec![];
    for ethertype in [0x0800, 0x0806, 0x86dd] {
        rules.push(json!({"type": "MATCH_ETHERTYPE", "etherType": ethertype, "not": true, "or": false}));
    }
    rules.push(json!({"type": "ACTION_DROP"}));
    for port in [23, 25, 135, 139, 445, 1433, 3306, 3389] {
        rules.push(json!({"type": "MATCH_ETHERTYPE", "etherType": 0x0800}));
        rules.push(json!({"type": "MATCH_IP_PROTOCOL", "ipProtocol": 6}));
        rules.push(json!({"type": "MATCH_IP_DEST_PORT_RANGE", "start": port, "end": port}));
        rules.push(json!({"type": "ACTION_DROP"}));
    }
    rules.push(json!({"type": "ACTION_ACCEPT"}));
    rules.into()
}
