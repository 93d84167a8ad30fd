//! A gateway whose UDP is blocked: it reaches its root, joins and talks by TCP through a relay, and returns to UDP when
//! that gets through again. Against a Hawser root that is the relay itself, and against the real core behind one.

mod support;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{PingPlan, ping};
use lab::netns::{self, Namespace};
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};
use support::{HAWSER, SOON, soon};

/// Roots are greeted by UDP every 10 s while the tunnel is open.
const BACK_TO_UDP: Duration = Duration::from_secs(30);

/// Hosts on one Ethernet that pretend to be on the Internet: 44.0.0.1, 44.0.0.2, and so on.
struct Internet {
    hosts: Vec<Namespace>,
    dir: tempfile::TempDir,
}

impl Internet {
    fn new(name: &str, hosts: usize) -> Internet {
        netns::check_privilege().expect("these tests make namespaces");
        let space = |n: usize| Namespace::new(&format!("{name}{n}")).expect("namespace");
        let hosts: Vec<Namespace> = (1..=hosts).map(space).collect();
        netns::bridge(&hosts[0], "br0", "44.0.0.1/24").expect("bridge");
        for (i, host) in hosts.iter().enumerate().skip(1) {
            netns::plug(&hosts[0], "br0", (host, "wan0", &format!("44.0.0.{}/24", i + 1))).expect("WAN");
        }
        Internet { hosts, dir: tempfile::tempdir().expect("tempdir") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A gateway on 44.0.0.`host`, with these settings.
    fn gateway(&self, host: usize, settings: &Value, more: &[&str]) -> Daemon {
        let home = self.path(&host.to_string());
        std::fs::create_dir_all(&home).expect("home");
        std::fs::copy(self.path("planet"), home.join("planet")).expect("planet");
        std::fs::write(home.join("local.conf"), json!({"settings": settings}).to_string()).expect("local.conf");
        let words = [&["--shards", "1"], more].concat();
        Daemon::start(Path::new(HAWSER), &self.hosts[host - 1], &home, &words).expect("daemon")
    }

    fn nft(&self, host: usize, words: &str) {
        netns::run("ip", &["netns", "exec", self.hosts[host - 1].name(), "nft", words]).expect("nft");
    }

    /// No UDP passes the host's interface.
    fn block_udp(&self, host: usize) {
        self.nft(
            host,
            "table inet blocked { \
                chain in { type filter hook input priority 0; iifname wan0 meta l4proto udp drop; }; \
                chain out { type filter hook output priority 0; oifname wan0 meta l4proto udp drop; }; }",
        );
    }

    fn unblock_udp(&self, host: usize) {
        self.nft(host, "delete table inet blocked");
    }
}

fn tunnels(of: &Daemon) -> bool {
    let status = of.status().expect("status");
    status["tcpFallbackActive"] == true && status["online"] == true
}

fn counter(of: &Daemon, room: &str, name: &str) -> u64 {
    of.status().expect("status")["counters"][room][name].as_u64().unwrap_or(0)
}

fn answered(from: &Namespace, to: &str) -> u64 {
    let to: IpAddr = to.parse().expect("address");
    let plan = PingPlan { count: 5, ..PingPlan::default() };
    from.inside(|| ping(to, plan)).unwrap_or_default().answered
}

#[test]
fn with_udp_blocked_a_gateway_joins_and_talks_through_its_roots_relay_and_returns_to_udp() {
    let net = Internet::new("tr", 3);
    let (secret, planet) = (net.path("1/identity.secret").display().to_string(), net.path("planet"));
    netns::run(HAWSER, &["identity", "new", "--out", &secret]).expect("identity");
    let at = format!("{secret}@44.0.0.1/9993");
    netns::run(HAWSER, &["planet", "make", "--root", &at, "--out", &planet.display().to_string()]).expect("planet");
    let root = net.gateway(1, &json!({}), &["--tcp-relay", "44.0.0.1/443"]);
    net.block_udp(2);
    let fallback = json!({
        "allowTcpFallbackRelay": true, "tcpFallbackRelay": "44.0.0.1/443", "tcpFallbackAfter": 2, "portMappingEnabled": false
    });
    let mut blocked = net.gateway(2, &fallback, &[]);
    let mut other = net.gateway(3, &json!({"portMappingEnabled": false}), &[]);
    assert!(soon(|| tunnels(&blocked)), "{}", blocked.log_tail());

    let config = json!({
        "private": false, "v4AssignMode": {"zt": true},
        "ipAssignmentPools": [{"ipRangeStart": "10.77.0.10", "ipRangeEnd": "10.77.0.20"}],
        "routes": [{"target": "10.77.0.0/24", "via": null}],
    });
    let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).expect("network");
    let network = made["id"].as_str().expect("id").to_owned();
    blocked.join(&network, SOON).expect("joined by TCP");
    let to = other.join(&network, SOON).expect("joined");
    assert!(soon(|| answered(&net.hosts[1], &to) == 5), "{}", blocked.log_tail());

    // To the other member it is at the relay's address, on a port of its own.
    let address = blocked.address().expect("address");
    let seen = || other.direct_paths(&address).expect("paths");
    let by_relay = |at: &String| at.starts_with("44.0.0.1/") && at != "44.0.0.1/9993";
    assert!(soon(|| seen().iter().any(by_relay)), "{:?}", seen());
    assert!(answered(&net.hosts[1], &to) > 0 && tunnels(&blocked));
    let peers = blocked.cli(&["peers"]).expect("peers");
    assert!(peers.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|p| p["tunneled"] == true)));
    assert!(counter(&blocked, "tcpFallback", "received") > 0 && counter(&root, "tcpRelay", "from_udp") > 0);
    assert_eq!(counter(&root, "tcpRelay", "clients"), 1);

    net.unblock_udp(2);
    let start = Instant::now();
    assert!(soon(|| !tunnels(&blocked)), "UDP is back");
    assert!(start.elapsed() < BACK_TO_UDP);
    assert!(soon(|| answered(&net.hosts[1], &to) == 5), "{}", blocked.log_tail());
    assert!(soon(|| seen().contains(&"44.0.0.2/9993".to_owned())), "{:?}", seen());
    let closed = blocked.wait_for("the end of the connection", BACK_TO_UDP + SOON, |_| {
        (counter(&root, "tcpRelay", "clients") == 0).then_some(())
    });
    closed.expect("closed");
    assert_eq!(counter(&blocked, "tcpFallback", "opened"), 1);
}

#[test]
fn forced_to_tcp_a_gateway_binds_no_udp_and_reaches_a_real_root_through_a_relay_elsewhere() {
    reference::set_up().expect("the reference node needs python3, pip, gcc and the package registry");
    let net = Internet::new("tf", 3);
    let [id, planet] = ["root.id", "planet"].map(|name| net.path(name).display().to_string());
    reference::tool(&["make-identity", "--out", &id]).expect("identity");
    reference::tool(&["make-planet", "--root", &format!("{id}@44.0.0.1:9993"), "--out", &planet]).expect("planet");
    let args = ["--identity", &id, "--planet", &planet, "--bind", "44.0.0.1:9993", "--allow-public"];
    let mut root = ReferenceNode::start(&net.hosts[0], &net.path("root.log"), &args).expect("reference node");
    let relay = net.gateway(3, &json!({"tcpRelay": "44.0.0.3/443"}), &[]);
    let forced = net.gateway(2, &json!({}), &["--force-tcp-relay", "--tcp-fallback-relay", "44.0.0.3/443"]);
    assert!(soon(|| tunnels(&forced)), "{}", forced.log_tail());
    let status = forced.status().expect("status");
    assert_eq!(status["config"]["settings"]["listeningOn"], json!([]));
    assert_eq!(status["config"]["settings"]["forceTcpRelay"], true);
    let paths = root.command(json!({"cmd": "paths", "peer": forced.address().expect("address")})).expect("paths");
    let at = paths[0]["address"].as_str().expect("a path").to_owned();
    assert!(at.starts_with("44.0.0.3:") || at.starts_with("44.0.0.3/"), "{paths}");
    assert!(!at.ends_with("9993"), "a port of its own: {at}");
    assert!(counter(&relay, "tcpRelay", "to_udp") > 0);
}
