//! A real core that spreads its packets over two links towards a gateway that does not bond: it is told what came by which
//! link, so its bond stays whole, past the trial of its paths and for half an hour, and it measures both ways.

mod support;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{PingPlan, ping};
use lab::netns::{self, Namespace};
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};
use support::{HAWSER, SOON};

/// Failover interval of the real core's bond; its clock goes fifty times as fast, its remote does not.
const FAILOVER_MS: u64 = 20_000;
/// How far its clock is put forward at a time, and how long it then gets.
const STEP_MS: u64 = 5_000;
const STEP: Duration = Duration::from_millis(90);

/// A gateway and a real core with two links between them, and a root on the first.
struct World {
    hawser: Daemon,
    real: ReferenceNode,
    hawser_ip: String,
    real_ip: String,
    _root: Daemon,
    gateway: Namespace,
    _spaces: [Namespace; 2],
    _dir: tempfile::TempDir,
}

fn start(ns: &Namespace, home: PathBuf, planet: &Path) -> Daemon {
    std::fs::create_dir_all(&home).expect("home");
    std::fs::copy(planet, home.join("planet")).expect("planet");
    // One path per link.
    let conf = json!({"settings": {"allowSecondaryPort": false, "portMappingEnabled": false}});
    std::fs::write(home.join("local.conf"), conf.to_string()).expect("local.conf");
    Daemon::start(Path::new(HAWSER), ns, &home, &["--shards", "1"]).expect("daemon")
}

impl World {
    fn new() -> World {
        netns::check_privilege().expect("these tests make namespaces");
        reference::set_up().expect("the reference node needs python3, pip, gcc and the package registry");
        let space = |tag: &str| Namespace::new(&format!("bp{tag}")).expect("namespace");
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
        let root = start(&wan, dir.path().join("root"), &planet);
        let mut hawser = start(&a, dir.path().join("a"), &planet);
        let failover = format!("failover_interval={FAILOVER_MS}");
        let mut args = vec!["--planet", &planet_text, "--bond-param", &failover, "--trace"];
        args.extend(["--bind", "10.90.0.3:9993@l0", "--bind", "10.91.0.3:9993@l1"]);
        let mut real = ReferenceNode::start(&b, &dir.path().join("real.log"), &args).expect("reference node");
        let peer = hawser.address().expect("address");
        // The root is not a peer to bond with.
        real.command(json!({"cmd": "bond-policy", "policy": "balance-xor", "peer": peer})).expect("policy");

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
        World { hawser, real, hawser_ip, real_ip, _root: root, gateway: a, _spaces: [wan, b], _dir: dir }
    }

    /// Waits until the real core has made its bond over both links.
    fn bonded(&mut self) {
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
    fn traffic(&mut self) {
        let stream =
            json!({"cmd": "stream", "dst": self.hawser_ip, "pps": 400, "count": 32, "flows": 16, "linger_ms": 1});
        self.real.command(stream).expect("stream");
        let plan = PingPlan { count: 5, interval: Duration::from_millis(5), ..PingPlan::default() };
        let to = self.real_ip.parse().expect("address");
        let _ = self.gateway.inside(|| ping(to, plan));
    }

    /// The real core's view of its paths to the gateway, by link.
    fn paths(&mut self) -> Vec<Value> {
        let peer = self.hawser.address().expect("address");
        self.paths_to(&peer)
    }

    fn paths_to(&mut self, peer: &str) -> Vec<Value> {
        let bonds = self.real.command(json!({"cmd": "bond", "peer": peer})).expect("bond");
        let paths = bonds["bonds"][peer]["paths"].as_array().cloned().unwrap_or_default();
        assert_eq!(paths.len(), 2, "{paths:?}");
        paths
    }

    /// The same after some seconds of traffic in which its clock did not jump.
    fn measured(&mut self) -> Vec<Value> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            self.traffic();
        }
        // It is due to estimate now.
        self.real.command(json!({"cmd": "clock", "add_ms": 2 * FAILOVER_MS})).expect("clock");
        self.real.tick().expect("tick");
        self.paths()
    }

    /// QOS_MEASUREMENT that the real core received and sent so far, per link.
    fn reports(&mut self) -> Vec<[u64; 2]> {
        let stats = self.real.command(json!({"cmd": "stats"})).expect("stats");
        let sockets = stats["sockets"].as_array().cloned().unwrap_or_default();
        let count = |s: &Value, dir: &str| s[dir]["QOS_MEASUREMENT"].as_u64().unwrap_or(0);
        sockets.iter().map(|s| [count(s, "rx_verbs"), count(s, "tx_verbs")]).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        let status = self.hawser.status().expect("status");
        status["counters"]["node"][name].as_u64().unwrap_or(0)
    }

    /// So much time passes for the real core; its bond stays whole.
    fn pass(&mut self, time_ms: u64, busy: bool) {
        let (peer, before) = (self.hawser.address().expect("address"), self.reports());
        for step in 0..time_ms / STEP_MS {
            self.real.command(json!({"cmd": "clock", "add_ms": STEP_MS})).expect("clock");
            if busy && step % 4 == 0 {
                self.traffic();
            } else {
                thread::sleep(STEP);
            }
            let paths = self.paths_to(&peer);
            let whole = paths.iter().all(|p| p["alive"] == true && p["eligible"] == true && p["bonded"] == true);
            assert!(whole, "after {} ms, busy {busy}: {paths:?}", step * STEP_MS);
        }
        for (was, is) in before.iter().zip(self.reports()) {
            assert!(is[0] > was[0] && is[1] > was[1], "reports per link: {before:?}, then {is:?}");
        }
    }
}

#[test]
fn a_real_balance_bond_towards_a_gateway_without_one_stays_whole_for_half_an_hour_idle_and_busy() {
    let mut world = World::new();
    world.traffic();
    assert_eq!((world.counter("qos_received"), world.counter("qos_sent")), (0, 0), "nobody bonds yet");
    world.bonded();
    // Past the trial, then a quarter of an hour each.
    world.pass(60_000, true);
    world.pass(900_000, false);
    world.pass(900_000, true);
    // It measures latency by our reports alone. When its clock jumps between a packet and the report on it, that is latency.
    let latencies = |paths: Vec<Value>| paths.iter().map(|p| p["latency_ms"].as_f64().expect("ms")).collect::<Vec<_>>();
    let (jumping, clean) = (latencies(world.paths()), latencies(world.measured()));
    assert!(jumping.iter().all(|ms| *ms > 0.0), "{jumping:?}");
    assert!(clean.iter().all(|ms| *ms < 200.0), "{clean:?}, where a packet takes no time");
    assert!(world.counter("qos_received") > 10 && world.counter("qos_sent") > 10);
    assert_eq!(world.counter("qos_refused") + world.counter("qos_full"), 0);
    world.real.command(json!({"cmd": "status"})).expect("status");
    let bad = |e: &&Value| matches!(e["kind"].as_str(), Some("packet-invalid"));
    assert_eq!(world.real.events.iter().find(bad), None);
}
