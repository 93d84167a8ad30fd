//! A gateway and a real core with two links between them, l0 and l1, and a root on the first: the world in which bonds are
//! judged. It knows how to get them bonded and talking, not what a test looks at.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::IoContext;
use lab::daemon::Daemon;
use lab::measure::{PingPlan, ping};
use lab::netns::{self, Namespace};
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};

use super::{HAWSER, SOON};

pub struct TwoLinks {
    pub hawser: Daemon,
    pub real: ReferenceNode,
    pub hawser_ip: String,
    pub real_ip: String,
    _root: Daemon,
    /// Where the gateway is.
    pub gateway: Namespace,
    /// The Ethernets br0 and br1, and where the real core is.
    pub spaces: [Namespace; 2],
    _dir: tempfile::TempDir,
}

fn start(ns: &Namespace, home: PathBuf, planet: &Path, settings: &Value) -> Daemon {
    std::fs::create_dir_all(&home).expect("home");
    std::fs::copy(planet, home.join("planet")).expect("planet");
    // One path per link.
    let mut conf = json!({"settings": {"allowSecondaryPort": false, "portMappingEnabled": false}});
    for (key, value) in settings.as_object().into_iter().flatten() {
        conf["settings"][key] = value.clone();
    }
    std::fs::write(home.join("local.conf"), conf.to_string()).expect("local.conf");
    Daemon::start(Path::new(HAWSER), ns, &home, &["--shards", "1"]).expect("daemon")
}

impl TwoLinks {
    /// `settings` are the gateway's, `policy` is how the real core bonds with it, `tune` that bond's parameters.
    pub fn new(name: &str, settings: &Value, policy: Option<&str>, tune: &[&str]) -> TwoLinks {
        netns::check_privilege().expect("these tests make namespaces");
        reference::set_up().expect("the reference node needs python3, pip, gcc and the package registry");
        let space = |tag: &str| Namespace::new(&format!("{name}{tag}")).expect("namespace");
        let (wan, a, b) = (space("w"), space("a"), space("b"));
        for (bridge, link, net) in [("br0", "l0", "10.90.0"), ("br1", "l1", "10.91.0")] {
            netns::bridge(&wan, bridge, &format!("{net}.1/24")).expect("bridge");
            netns::plug(&wan, bridge, (&a, link, &format!("{net}.2/24"))).expect("link");
            netns::plug(&wan, bridge, (&b, link, &format!("{net}.3/24"))).expect("link");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let (planet, secret) = (dir.path().join("planet"), dir.path().join("root/identity.secret"));
        let (planet_text, secret) = (planet.display().to_string(), secret.display().to_string());
        netns::run(HAWSER, &["identity", "new", "--out", &secret]).expect("identity");
        let at = format!("{secret}@10.90.0.1/9993");
        netns::run(HAWSER, &["planet", "make", "--root", &at, "--out", &planet_text]).expect("planet");
        let root = start(&wan, dir.path().join("root"), &planet, &json!({}));
        let mut hawser = start(&a, dir.path().join("a"), &planet, settings);
        let mut args = vec!["--planet", &planet_text, "--trace"];
        args.extend(tune.iter().flat_map(|param| ["--bond-param", param]));
        args.extend(["--bind", "10.90.0.3:9993@l0", "--bind", "10.91.0.3:9993@l1"]);
        let mut real = ReferenceNode::start(&b, &dir.path().join("real.log"), &args).expect("reference node");
        let peer = hawser.address().expect("address");
        // The root is not a peer to bond with.
        if let Some(policy) = policy {
            real.command(json!({"cmd": "bond-policy", "policy": policy, "peer": peer})).expect("policy");
        }

        let config = json!({"private": true, "routes": [{"target": "10.77.0.0/24"}]});
        let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).expect("network");
        let network = made["id"].as_str().expect("id").to_owned();
        let (hawser_ip, real_ip) = ("10.77.0.1".to_owned(), "10.77.0.2".to_owned());
        for (member, ip) in [(peer.as_str(), &hawser_ip), (real.address(), &real_ip)] {
            let config = json!({"authorized": true, "ipAssignments": [ip]}).to_string();
            root.cli(&["controller", "member", "set", &network, member, "--config", &config]).expect("member");
        }
        hawser.join(&network, SOON).expect("joined");
        real.command(json!({"cmd": "wait", "for": "online", "timeout_ms": 20000})).expect("online");
        real.command(json!({"cmd": "join", "nwid": network})).expect("join");
        real.tick().expect("tick");
        real.command(json!({"cmd": "wait", "for": "network", "nwid": network, "timeout_ms": 20000})).expect("network");
        TwoLinks { hawser, real, hawser_ip, real_ip, _root: root, gateway: a, spaces: [wan, b], _dir: dir }
    }

    /// Waits until the real core has made its bond over both links.
    pub fn bonded(&mut self) {
        let peer = self.hawser.address().expect("address");
        let end = Instant::now() + SOON;
        loop {
            self.traffic();
            self.real.tick().expect("tick");
            let wait = json!({"cmd": "wait", "for": "bond", "peer": peer, "links": 2, "timeout_ms": 500});
            if self.real.command(wait).is_ok() {
                return;
            }
            assert!(Instant::now() < end, "no bond over two links: {:?}", self.hawser.peer(self.real.address()));
        }
    }

    /// Frames both ways, of sixteen flows.
    pub fn traffic(&mut self) {
        let stream =
            json!({"cmd": "stream", "dst": self.hawser_ip, "pps": 400, "count": 32, "flows": 16, "linger_ms": 1});
        self.real.command(stream).expect("stream");
        let plan = PingPlan { count: 5, interval: Duration::from_millis(5), ..PingPlan::default() };
        let to = self.real_ip.parse().expect("address");
        let _ = self.gateway.inside(|| ping(to, plan));
    }

    /// The real core's view of its two paths to the gateway.
    pub fn paths(&mut self) -> Vec<Value> {
        let peer = self.hawser.address().expect("address");
        let bonds = self.real.command(json!({"cmd": "bond", "peer": peer})).expect("bond");
        let paths = bonds["bonds"][peer]["paths"].as_array().cloned().unwrap_or_default();
        assert_eq!(paths.len(), 2, "{paths:?}");
        paths
    }

    /// QOS_MEASUREMENT that the real core received and sent so far, per link.
    pub fn reports(&mut self) -> Vec<[u64; 2]> {
        let stats = self.real.command(json!({"cmd": "stats"})).expect("stats");
        let sockets = stats["sockets"].as_array().cloned().unwrap_or_default();
        let count = |s: &Value, dir: &str| s[dir]["QOS_MEASUREMENT"].as_u64().unwrap_or(0);
        sockets.iter().map(|s| [count(s, "rx_verbs"), count(s, "tx_verbs")]).collect()
    }

    /// The real core's host takes nothing that comes by a link any more, and says so by ICMP as a router would.
    pub fn reject(spaces: &[Namespace; 2], link: usize) {
        let host = &spaces[1];
        let rule = format!("add rule ip f i iifname l{link} meta l4proto udp reject with icmp type host-unreachable");
        let chain = "add table ip f; add chain ip f i { type filter hook input priority 0; }";
        let script = format!("{chain}; {rule}");
        // However busy the machine is: a few errors, and then one a second, may all be said before one is heard.
        host.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").doing("lift the limit of ICMP"))
            .expect("sysctl");
        host.inside(|| netns::run("nft", &[&script])).expect("nft");
    }

    /// One of the gateway's counters.
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.hawser.status().expect("status");
        status["counters"]["node"][name].as_u64().unwrap_or(0)
    }
}
