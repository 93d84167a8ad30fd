//! Hawser against the real ZeroTier core, with real sockets in network namespaces: as root, as leaf, as controller, as
//! member. The reference node judges: what it refuses is wrong.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{PingPlan, Pings, ping, udp_count};
use lab::netns::{self, Namespace};
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
const SOON: Duration = Duration::from_secs(20);

/// Three hosts on one Ethernet: the root at .1, hosts `a` at .2 and `b` at .3.
struct Planet {
    wan: Namespace,
    a: Namespace,
    b: Namespace,
    dir: tempfile::TempDir,
}

impl Planet {
    fn new(name: &str) -> Planet {
        netns::check_privilege().expect("the interop tests make namespaces");
        reference::set_up().expect("the reference node needs python3, pip, gcc and the package registry");
        let wan = Namespace::new(&format!("{name}w")).unwrap();
        let (a, b) = (Namespace::new(&format!("{name}a")).unwrap(), Namespace::new(&format!("{name}b")).unwrap());
        netns::bridge(&wan, "br0", "10.90.0.1/24").unwrap();
        netns::plug(&wan, "br0", (&a, "wan0", "10.90.0.2/24")).unwrap();
        netns::plug(&wan, "br0", (&b, "wan0", "10.90.0.3/24")).unwrap();
        let dir = tempfile::Builder::new().prefix("hawser-interop-").tempdir().unwrap();
        Planet { wan, a, b, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn planet(&self) -> String {
        self.path("planet").display().to_string()
    }

    /// A Hawser root whose identity and planet Hawser made.
    fn hawser_root(&self) -> Daemon {
        let home = self.path("root");
        std::fs::create_dir_all(&home).unwrap();
        let secret = home.join("identity.secret").display().to_string();
        netns::run(HAWSER, &["identity", "new", "--out", &secret]).unwrap();
        let at = format!("{secret}@10.90.0.1/9993");
        netns::run(HAWSER, &["planet", "make", "--root", &at, "--out", &self.planet()]).unwrap();
        std::fs::copy(self.planet(), home.join("planet")).unwrap();
        Daemon::start(Path::new(HAWSER), &self.wan, &home, &["--shards", "1"]).unwrap()
    }

    /// A real root whose identity and planet the real core's tool made.
    fn real_root(&self, more: &[&str]) -> ReferenceNode {
        let id = self.path("root.id").display().to_string();
        reference::tool(&["make-identity", "--out", &id]).unwrap();
        let at = format!("{id}@10.90.0.1:9993");
        reference::tool(&["make-planet", "--root", &at, "--out", &self.planet()]).unwrap();
        let planet = self.planet();
        let mut args = vec!["--identity", &id, "--planet", &planet, "--bind", "10.90.0.1:9993"];
        args.extend(["--wire-log", "summary", "--trace"]);
        args.extend(more);
        ReferenceNode::start(&self.wan, &self.path("root.log"), &args).unwrap()
    }

    fn leaf(&self, ns: &Namespace, name: &str, local_conf: &Value) -> Daemon {
        let home = self.path(name);
        std::fs::create_dir_all(&home).unwrap();
        std::fs::copy(self.planet(), home.join("planet")).unwrap();
        std::fs::write(home.join("local.conf"), local_conf.to_string()).unwrap();
        Daemon::start(Path::new(HAWSER), ns, &home, &["--shards", "1"]).unwrap()
    }

    fn real_leaf(&self, ns: &Namespace, bind: &str, more: &[&str]) -> ReferenceNode {
        let planet = self.planet();
        let mut args = vec!["--planet", &planet, "--bind", bind, "--wire-log", "summary", "--trace"];
        args.extend(more);
        ReferenceNode::start(ns, &self.path("leaf.log"), &args).unwrap()
    }
}

/// A private network of `root`'s controller with IPv4 and IPv6 addresses.
fn make_network(root: &Daemon) -> String {
    let config = json!({
        "name": "interop", "private": true,
        "v4AssignMode": {"zt": true}, "v6AssignMode": {"rfc4193": true, "6plane": false, "zt": false},
        "ipAssignmentPools": [{"ipRangeStart": "10.77.0.10", "ipRangeEnd": "10.77.0.200"}],
        "routes": [{"target": "10.77.0.0/24", "via": null}],
    });
    let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

fn authorise(root: &Daemon, network: &str, member: &str, yes: bool) {
    let verb = if yes { "authorize" } else { "deauthorize" };
    root.cli(&["controller", "member", verb, network, member]).unwrap();
}

/// The reference node joins and waits for its configuration; answers its addresses without prefix length.
fn real_join(leaf: &mut ReferenceNode, network: &str) -> Vec<IpAddr> {
    leaf.command(json!({"cmd": "join", "nwid": network})).unwrap();
    leaf.tick().unwrap();
    let w = leaf.command(json!({"cmd": "wait", "for": "network", "nwid": network, "timeout_ms": 20000})).unwrap();
    addresses(&w["value"]["addresses"])
}

fn addresses(list: &Value) -> Vec<IpAddr> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|a| a.as_str()?.split('/').next()?.parse().ok()).collect()
}

fn of_family(list: &[IpAddr], v6: bool) -> IpAddr {
    *list.iter().find(|a| a.is_ipv6() == v6).unwrap_or_else(|| panic!("no address of that family in {list:?}"))
}

/// The Hawser member joins; answers all its addresses.
fn join(member: &mut Daemon, network: &str) -> Vec<IpAddr> {
    member.join(network, SOON).unwrap();
    addresses(&member.network(network).unwrap().unwrap()["assignedAddresses"])
}

fn ping_from(ns: &Namespace, to: IpAddr, size: usize) -> Pings {
    let plan = PingPlan { count: 10, size, timeout: Duration::from_secs(3), ..PingPlan::default() };
    ns.inside(|| ping(to, plan)).unwrap()
}

fn real_ping(from: &mut ReferenceNode, to: IpAddr, size: usize) -> Value {
    from.command(json!({"cmd": "ping", "dst": to.to_string(), "count": 10, "interval_ms": 20, "size": size})).unwrap()
}

fn lost(answer: &Value) -> u64 {
    answer["sent"].as_u64().unwrap() - answer["received"].as_u64().unwrap()
}

fn wait_online(node: &mut ReferenceNode) {
    node.tick().unwrap();
    node.command(json!({"cmd": "wait", "for": "online", "timeout_ms": 20000})).unwrap();
}

/// A Hawser root with a controller, a Hawser member in `a`, a real member in `b`, both joined.
struct Members {
    root: Daemon,
    network: String,
    hawser: Daemon,
    hawser_ip: Vec<IpAddr>,
    real: ReferenceNode,
    real_ip: Vec<IpAddr>,
    /// Last, so that its files outlive the programs.
    planet: Planet,
}

fn members(name: &str, local_conf: Value, more: &[&str]) -> Members {
    let planet = Planet::new(name);
    let root = planet.hawser_root();
    members_of(planet, root, local_conf, more)
}

fn members_of(planet: Planet, root: Daemon, local_conf: Value, more: &[&str]) -> Members {
    let network = make_network(&root);
    let mut hawser = planet.leaf(&planet.a, "a", &local_conf);
    authorise(&root, &network, &hawser.address().unwrap(), true);
    let mut real = planet.real_leaf(&planet.b, "10.90.0.3:9993@wan0", more);
    authorise(&root, &network, real.address(), true);
    wait_online(&mut real);
    let hawser_ip = join(&mut hawser, &network);
    let real_ip = real_join(&mut real, &network);
    Members { root, network, hawser, hawser_ip, real, real_ip, planet }
}

impl Members {
    fn wait_direct(&mut self) {
        self.wait_direct_within(SOON);
    }

    fn wait_direct_within(&mut self, limit: Duration) {
        let real = self.real.address().to_owned();
        let (planet, to) = (&self.planet, of_family(&self.real_ip, false));
        self.hawser
            .wait_for("a direct path to the real leaf", limit, |d| {
                ping_from(&planet.a, to, 56);
                d.direct_paths(&real).ok().filter(|p| !p.is_empty())
            })
            .unwrap();
        let peer = self.hawser.address().unwrap();
        self.real.command(json!({"cmd": "wait", "for": "direct-path", "peer": peer, "timeout_ms": 20000})).unwrap();
    }
}

/// Nothing that the real core received was malformed or failed authentication. A packet that it authenticated, refused for
/// want of credentials and tried again later fails its MAC the second time, because the core decrypts in place: such a
/// failure is its own, and is told by the packet's ID.
fn assert_no_complaints(node: &mut ReferenceNode) {
    node.command(json!({"cmd": "status"})).unwrap();
    let authenticated = |pid: &Value| {
        node.events.iter().any(|e| {
            let decoded =
                e["event"] == "late-decode" || (e["event"] == "wire" && e["dir"] == "in" && !e["verb"].is_null());
            decoded && e["pid"] == *pid
        })
    };
    let complaints: Vec<_> = node
        .events
        .iter()
        .filter(|e| match e["kind"].as_str() {
            Some("mac-failure") => !authenticated(&e["pid"]),
            Some("packet-invalid" | "credential-rejected") => true,
            _ => false,
        })
        .filter(|e| e["event"] == "trace")
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_real_leaf_goes_online_with_a_hawser_root() {
    let planet = Planet::new("ia");
    let root = planet.hawser_root();
    let mut leaf = planet.real_leaf(&planet.b, "10.90.0.3:9993@wan0", &[]);
    wait_online(&mut leaf);
    assert_no_complaints(&mut leaf);
    let peer = root.peer(leaf.address()).unwrap().expect("the root knows the leaf");
    assert_eq!(peer["version"], "1.8.4");
}

#[test]
fn a_hawser_leaf_goes_online_with_a_real_root() {
    let planet = Planet::new("ib");
    let mut root = planet.real_root(&[]);
    let mut leaf = planet.leaf(&planet.a, "a", &json!({}));
    leaf.wait_for("online", SOON, |d| (d.status().ok()?["online"] == true).then_some(())).unwrap();
    assert_no_complaints(&mut root);
}

#[test]
fn a_hawser_leaf_joins_a_network_of_a_real_controller() {
    let planet = Planet::new("ij");
    let mut root = planet.real_root(&["--controller"]);
    let made = root.command(json!({"cmd": "controller-network", "config": {"pools": ["10.78.0.0/24"]}})).unwrap();
    let network = made["nwid"].as_str().unwrap().to_owned();
    let own = real_join(&mut root, &network);
    let mut leaf = planet.leaf(&planet.a, "a", &json!({}));
    let ours = join(&mut leaf, &network);
    let there = ping_from(&planet.a, of_family(&own, false), 56);
    assert_eq!(there.answered, 10, "{there:?}");
    let back = real_ping(&mut root, of_family(&ours, false), 56);
    assert_eq!(lost(&back), 0, "{back}");
    assert_no_complaints(&mut root);
}

#[test]
fn a_real_leaf_joins_a_hawser_network_and_pings_both_ways_small_and_full_frames_v4_and_v6() {
    let mut m = members("ic", json!({}), &[]);
    for v6 in [false, true] {
        let (hawser, real) = (of_family(&m.hawser_ip, v6), of_family(&m.real_ip, v6));
        // A full frame: 2800 bytes with IP and ICMP headers.
        for size in [56, 2800 - if v6 { 48 } else { 28 }] {
            let out = ping_from(&m.planet.a, real, size);
            assert_eq!((out.answered, out.duplicates), (10, 0), "to {real}, {size} bytes: {out:?}");
            let back = real_ping(&mut m.real, hawser, size);
            assert_eq!(lost(&back), 0, "to {hawser}, {size} bytes: {back}");
        }
    }
    assert_no_complaints(&mut m.real);
}

#[test]
fn every_cipher_suite_of_the_real_core_is_spoken_both_ways() {
    let mut m = members("id", json!({}), &[]);
    m.wait_direct();
    let out = ping_from(&m.planet.a, of_family(&m.real_ip, false), 56);
    assert_eq!(out.answered, 10, "{out:?}");
    let suites = |node: &ReferenceNode, dir: &str, peer: &str| -> Vec<String> {
        let side = if dir == "in" { "src" } else { "dst" };
        let mut seen: Vec<String> = node
            .events
            .iter()
            .filter(|e| e["event"] == "wire" && e["dir"] == dir && e[side] == *peer)
            .filter_map(|e| e["cipher"].as_str().map(str::to_owned))
            .collect();
        seen.sort();
        seen.dedup();
        seen
    };
    let peer = m.hawser.address().unwrap();
    m.real.command(json!({"cmd": "status"})).unwrap();
    for dir in ["in", "out"] {
        let seen = suites(&m.real, dir, &peer);
        let all = ["poly1305-none", "salsa2012-poly1305", "aes-gmac-siv"];
        assert!(all.iter().all(|s| seen.iter().any(|have| have == s)), "{dir}: suites {seen:?}");
    }
    assert_no_complaints(&mut m.real);
}

#[test]
fn a_trusted_path_is_spoken_both_ways() {
    let conf = json!({"physical": {"10.90.0.3/32": {"trustedPathId": 4711}}});
    let mut m = members("it", conf, &[]);
    m.real.command(json!({"cmd": "path-config", "network": "10.90.0.2/32", "trusted_path_id": 4711})).unwrap();
    m.wait_direct();
    let out = ping_from(&m.planet.a, of_family(&m.real_ip, false), 56);
    assert_eq!(out.answered, 10, "{out:?}");
    let back = real_ping(&mut m.real, of_family(&m.hawser_ip, false), 56);
    assert_eq!(lost(&back), 0, "{back}");
    let peer = m.hawser.address().unwrap();
    for (dir, side) in [("in", "src"), ("out", "dst")] {
        let in_clear =
            |e: &&Value| e["event"] == "wire" && e["dir"] == dir && e[side] == *peer && e["cipher"] == "trusted-path";
        assert!(m.real.events.iter().any(|e| in_clear(&e)), "no trusted packet {dir}");
    }
}

/// The two leaves cannot reach each other, in either direction; their ways to the root stay open.
fn block(planet: &Planet, yes: bool) {
    for leaf in [&planet.a, &planet.b] {
        let port = format!("br0.{}", leaf.name().rsplit('-').next().unwrap());
        let isolated = if yes { "on" } else { "off" };
        planet.wan.ip(&["link", "set", &port, "type", "bridge_slave", "isolated", isolated]).unwrap();
    }
}

#[test]
fn blocked_direct_udp_is_relayed_and_direct_again_when_opened() {
    let planet = Planet::new("ie");
    let root = planet.hawser_root();
    block(&planet, true);
    let mut m = members_of(planet, root, json!({}), &[]);
    let (hawser, real) = (of_family(&m.hawser_ip, false), of_family(&m.real_ip, false));
    let peer = m.real.address().to_owned();

    // Relayed: there is no other way yet.
    let out = ping_from(&m.planet.a, real, 2772);
    assert_eq!(out.answered, 10, "{out:?}");
    assert_eq!(lost(&real_ping(&mut m.real, hawser, 2772)), 0);
    assert_eq!(m.hawser.direct_paths(&peer).unwrap(), Vec::<String>::new());

    // Direct: the next pushed or introduced address gets through.
    block(&m.planet, false);
    m.wait_direct_within(Duration::from_secs(90));
    assert_eq!(ping_from(&m.planet.a, real, 56).answered, 10);

    // Relayed again. The real core gives a silent path 243 s: its clock is put forward, ours finds out by itself.
    block(&m.planet, true);
    m.real.command(json!({"cmd": "clock", "add_ms": 250_000})).unwrap();
    let start = Instant::now();
    while ping_from(&m.planet.a, real, 56).answered < 10 {
        m.real.tick().unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "no relay; paths {:?}", m.hawser.direct_paths(&peer));
    }
    assert_eq!(m.hawser.direct_paths(&peer).unwrap(), Vec::<String>::new());
}

#[test]
fn packets_survive_loss_and_reordering_before_the_real_parser() {
    let mut m = members("if", json!({}), &[]);
    m.wait_direct();
    m.real.command(json!({"cmd": "fault-add", "dir": "both", "remote": "10.90.0.2/32", "loss": 5, "reorder": 20, "reorder_ms": 5, "dup": 2})).unwrap();
    let plan = PingPlan {
        count: 300,
        interval: Duration::from_millis(5),
        size: 2772,
        timeout: Duration::from_secs(2),
        ..PingPlan::default()
    };
    let pings = m.planet.a.inside(|| ping(of_family(&m.real_ip, false), plan)).unwrap();
    // Two datagrams each way, 5 % of each lost: 81 % are expected back.
    assert!(pings.answered > 200, "{pings:?}");
    m.real.command(json!({"cmd": "fault-clear"})).unwrap();
    let after = ping_from(&m.planet.a, of_family(&m.real_ip, false), 2772);
    assert_eq!(after.answered, 10, "{after:?}");
    assert_no_complaints(&mut m.real);
}

/// How many of 50 datagrams that the real member sends come out of our TAP.
fn datagrams_through(m: &mut Members, to: IpAddr) -> u64 {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (a, real) = (&m.planet.a, &mut m.real);
    std::thread::scope(|s| {
        let sink = s.spawn(|| a.inside(|| udp_count(SocketAddr::new(to, 9001), &ready, &stop)));
        while !ready.load(Ordering::Acquire) && !sink.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let stream = json!({"cmd": "stream", "dst": to.to_string(), "port": 9001, "pps": 200, "count": 50});
        real.command(stream).unwrap();
        stop.store(true, Ordering::Release);
        sink.join().unwrap().unwrap().0
    })
}

#[test]
fn a_deauthorised_member_gets_no_more_frames_through() {
    let mut m = members("ig", json!({}), &[]);
    m.wait_direct();
    let (hawser, real) = (of_family(&m.hawser_ip, false), of_family(&m.real_ip, false));
    assert_eq!(ping_from(&m.planet.a, real, 56).answered, 10);
    assert!(datagrams_through(&mut m, hawser) > 0, "the sink sees what a member sends");
    authorise(&m.root, &m.network, m.real.address(), false);
    let start = Instant::now();
    while datagrams_through(&mut m, hawser) > 0 {
        assert!(start.elapsed() < SOON, "the de-authorised member still gets through");
    }
    // And for good: its own cached certificate must not open the gate again.
    assert_eq!(datagrams_through(&mut m, hawser), 0);
    assert_eq!(lost(&real_ping(&mut m.real, hawser, 56)), 10);
    authorise(&m.root, &m.network, m.real.address(), true);
    m.real.tick().unwrap();
    let start = Instant::now();
    while lost(&real_ping(&mut m.real, hawser, 56)) > 0 {
        assert!(start.elapsed() < Duration::from_secs(90), "a re-authorised member stays shut out");
        m.real.tick().unwrap();
    }
}
