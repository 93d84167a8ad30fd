//! The world that the tests of whole daemons share: a root with a controller and two gateways on one Ethernet, each in a
//! namespace, with a LAN host behind each gateway if asked for. It knows how to get packets flowing, not what a test looks at.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod striped;
pub mod two_links;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{PingPlan, Pings, ping};
use lab::netns::{self, Namespace};
use serde_json::{Value, json};

pub const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
/// How long anything may take that is waited for.
pub const SOON: Duration = Duration::from_secs(20);
/// Gateway B in the network.
pub const GATEWAY_B: [u8; 4] = [10, 77, 0, 2];
/// The host behind gateway B.
pub const HOST_B: [u8; 4] = [192, 168, 12, 2];

/// What differs between worlds.
pub struct Options<'a> {
    /// Words for the root's command line.
    pub root: &'a [&'a str],
    /// Words for the gateways' command lines.
    pub gateways: &'a [&'a str],
    /// A LAN with one host behind each gateway, 192.168.11.0/24 and 192.168.12.0/24.
    pub lans: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { root: &["--shards", "1"], gateways: &["--shards", "1"], lans: false }
    }
}

/// A root at 10.90.0.1 and gateways at 10.90.0.2 and 10.90.0.3. Daemons go before what they live in.
pub struct World {
    pub root: Daemon,
    pub gateways: [Daemon; 2],
    /// The gateways' namespaces.
    pub spaces: [Namespace; 2],
    /// None without LANs.
    pub hosts: Vec<Namespace>,
    /// The Ethernet, and the root's namespace.
    pub wan: Namespace,
    pub dir: tempfile::TempDir,
}

impl World {
    /// Daemons that run and know the root, in no network yet.
    pub fn new(name: &str, options: &Options) -> World {
        netns::check_privilege().expect("these tests make namespaces");
        let space = |tag: &str| Namespace::new(&format!("{name}{tag}")).expect("namespace");
        let (wan, spaces) = (space("w"), [space("a"), space("b")]);
        netns::bridge(&wan, "br0", "10.90.0.1/24").expect("bridge");
        for (i, gateway) in spaces.iter().enumerate() {
            netns::plug(&wan, "br0", (gateway, "wan0", &format!("10.90.0.{}/24", i + 2))).expect("WAN");
        }
        let mut hosts = Vec::new();
        if options.lans {
            hosts.extend(["la", "lb"].map(space));
        }
        for (i, (gateway, host)) in spaces.iter().zip(&hosts).enumerate() {
            let net = format!("192.168.{}", 11 + i);
            netns::link((gateway, "lan0", &format!("{net}.1/24")), (host, "lan0", &format!("{net}.2/24")))
                .expect("LAN");
            host.ip(&["route", "add", "default", "via", &format!("{net}.1")]).expect("route");
            gateway.sysctl("net/ipv4/ip_forward", "1").expect("forwarding");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let planet = dir.path().join("planet").display().to_string();
        let secret = dir.path().join("root/identity.secret").display().to_string();
        netns::run(HAWSER, &["identity", "new", "--out", &secret]).expect("identity");
        netns::run(HAWSER, &["planet", "make", "--root", &format!("{secret}@10.90.0.1/9993"), "--out", &planet])
            .expect("planet");
        let start = |ns: &Namespace, home: PathBuf, more: &[&str]| {
            std::fs::create_dir_all(&home).expect("home");
            std::fs::copy(&planet, home.join("planet")).expect("planet");
            if options.lans {
                let conf = json!({"settings": {"interfacePrefixBlacklist": ["lan"]}});
                std::fs::write(home.join("local.conf"), conf.to_string()).expect("local.conf");
            }
            Daemon::start(Path::new(HAWSER), ns, &home, more).expect("daemon")
        };
        let root = start(&wan, dir.path().join("root"), options.root);
        let gateways = [(0, "a"), (1, "b")].map(|(i, home)| start(&spaces[i], dir.path().join(home), options.gateways));
        World { root, gateways, spaces, hosts, wan, dir }
    }

    /// A network of this configuration with the gateways in it as 10.77.0.1 and 10.77.0.2; its ID, as soon as echoes come
    /// back and both ways are direct.
    pub fn network(&mut self, config: &Value) -> String {
        let words = ["controller", "network", "create", "--config", &config.to_string()];
        let made = self.root.cli(&words).expect("network");
        let id = made["id"].as_str().expect("id").to_owned();
        for (i, gateway) in self.gateways.iter_mut().enumerate() {
            let config = json!({"authorized": true, "ipAssignments": [format!("10.77.0.{}", i + 1)]}).to_string();
            let member = gateway.address().expect("address");
            self.root.cli(&["controller", "member", "set", &id, &member, "--config", &config]).expect("member");
            gateway.join(&id, SOON).expect("joined");
        }
        self.until("echoes on a direct path", || self.pings(3).answered > 0 && self.is_direct());
        id
    }

    /// Echo requests from host A to host B, or between the gateways where there are no hosts.
    pub fn pings(&self, count: u64) -> Pings {
        let (from, to) = match self.hosts.first() {
            Some(host) => (host, HOST_B),
            None => (&self.spaces[0], GATEWAY_B),
        };
        let plan = PingPlan { count, ..PingPlan::default() };
        from.inside(|| ping(IpAddr::from(to), plan)).unwrap_or_default()
    }

    /// Each gateway has a live path of its own to the other.
    pub fn is_direct(&self) -> bool {
        let [a, b] = &self.gateways;
        let sees = |from: &Daemon, to: &Daemon| {
            to.address().and_then(|to| from.direct_paths(&to)).is_ok_and(|paths| !paths.is_empty())
        };
        sees(a, b) && sees(b, a)
    }

    /// All counters of both gateways.
    pub fn counters(&self) -> [lab::Result<Value>; 2] {
        self.gateways.each_ref().map(|gateway| gateway.status().map(|status| status["counters"].clone()))
    }

    /// A counter of gateway `i`.
    pub fn counter(&self, i: usize, room: &str, name: &str) -> u64 {
        let status = self.gateways[i].status().expect("status");
        status["counters"][room][name].as_u64().unwrap_or(0)
    }

    /// Waits for `probe`; in vain, it fails with the counters.
    pub fn until(&self, what: &str, probe: impl FnMut() -> bool) {
        assert!(soon(probe), "{what}: not in time; {:#?}", self.counters());
    }
}

/// Whether `probe` comes true in time.
pub fn soon(mut probe: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + SOON;
    while !probe() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}
