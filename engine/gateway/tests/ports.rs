//! Ports and interfaces of a daemon: three ports are three chances, white lists, interfaces that flap, and routers (a real
//! miniupnpd in a namespace) that map a port. Needs root, iproute2, nftables and miniupnpd.

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::daemon::Daemon;
use lab::netns::{self, Namespace};
use serde_json::{Value, json};
use support::{HAWSER, Options, World, soon};

/// The UDP ports of a daemon, as its status tells.
fn listening(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status().expect("status");
    let list = status["config"]["settings"]["listeningOn"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|at| at.as_str().map(str::to_owned)).collect()
}

fn setting(daemon: &Daemon, key: &str) -> u64 {
    daemon.status().expect("status")["config"]["settings"][key].as_u64().unwrap_or(0)
}

/// Runs a program inside a namespace.
fn inside(ns: &Namespace, words: &[&str]) {
    netns::run("ip", &[&["netns", "exec", ns.name()], words].concat()).expect("inside");
}

/// Of each live path from one daemon to another: our port, the other's endpoint, whether it is used.
fn paths(from: &Daemon, to: &Daemon) -> Vec<(u64, String, bool)> {
    let peer = from.peer(&to.address().expect("address")).expect("peers").unwrap_or_default();
    let paths = peer["paths"].as_array().cloned().unwrap_or_default();
    let text = |p: &Value| p["address"].as_str().unwrap_or_default().to_owned();
    paths.iter().map(|p| (p["localPort"].as_u64().unwrap_or(0), text(p), p["preferred"] == true)).collect()
}

const OPEN: &str = r#"{"name": "ports", "routes": [{"target": "10.77.0.0/24", "via": null}]}"#;

fn network(world: &mut World) {
    world.network(&serde_json::from_str(OPEN).expect("JSON"));
}

#[test]
fn a_daemon_has_three_ports_and_two_that_meet_use_the_first_one() {
    let mut world = World::new("three", &Options::default());
    let [a, b] = &world.gateways;
    let (second, third) = (setting(a, "secondaryPort"), setting(a, "tertiaryPort"));
    assert!((20000..65536).contains(&second) && (20000..65536).contains(&third) && second != third);
    let ports = |d: &Daemon| -> BTreeSet<u64> {
        listening(d).iter().filter_map(|at| at.rsplit('/').next()?.parse().ok()).collect()
    };
    assert_eq!(ports(a), BTreeSet::from([9993, second, third]));
    assert_ne!(ports(a), ports(b), "random ones");
    network(&mut world);
    world.pings(20);
    let [a, b] = &world.gateways;
    for (from, to) in [(a, b), (b, a)] {
        let used: Vec<_> = paths(from, to).into_iter().filter(|(_, _, preferred)| *preferred).collect();
        assert!(matches!(used.as_slice(), [(9993, _, _)]), "{used:?}");
    }
}

#[test]
fn ports_are_as_the_operator_says_and_without_the_further_ones_there_is_one() {
    let words = ["--shards", "1", "--secondary-port", "40001", "--tertiary-port", "40002"];
    let world = World::new("said", &Options { gateways: &words, ..Options::default() });
    assert_eq!(listening(&world.gateways[0]), ["10.90.0.2/9993", "10.90.0.2/40001", "10.90.0.2/40002"]);
    drop(world);
    let words = ["--shards", "1", "--no-secondary-port", "--no-port-mapping"];
    let world = World::new("one", &Options { gateways: &words, ..Options::default() });
    assert_eq!(listening(&world.gateways[0]), ["10.90.0.2/9993"]);
    assert_eq!(setting(&world.gateways[0], "tertiaryPort"), 0);
}

#[test]
fn two_that_cannot_meet_at_their_first_ports_meet_at_others() {
    let mut world = World::new("other", &Options::default());
    // Nothing that A's first port sends to B arrives, nor the other way round; the root is not concerned.
    let rules = "table inet t {
        chain i {
            type filter hook input priority 0
            ip saddr 10.90.0.3 udp dport 9993 drop
        }
        chain o {
            type filter hook output priority 0
            ip daddr 10.90.0.3 udp sport 9993 drop
        }
    }";
    inside(&world.spaces[0], &["nft", rules]);
    network(&mut world);
    let [a, b] = &world.gateways;
    assert!(paths(a, b).iter().all(|(port, _, _)| *port != 9993), "{:?}", paths(a, b));
    assert!(paths(b, a).iter().all(|(_, remote, _)| !remote.ends_with("/9993")), "{:?}", paths(b, a));
    let pings = world.pings(20);
    assert_eq!(pings.answered, 20, "{pings:?}");
}

#[test]
fn only_the_interfaces_of_a_white_list_are_used_and_one_that_is_missing_is_used_when_it_appears() {
    let words = ["--shards", "1", "--interface", "up7"];
    let world = World::new("white", &Options { gateways: &words, ..Options::default() });
    let a = &world.gateways[0];
    assert!(soon(|| a.log_tail().contains("there is no such interface")), "{}", a.log_tail());
    assert!(a.log_tail().contains("up7") && listening(a).is_empty(), "{:?}", listening(a));
    for words in [["link", "set", "wan0", "down"].as_slice(), &["link", "set", "wan0", "name", "up7"]] {
        world.spaces[0].ip(words).expect("ip");
    }
    world.spaces[0].ip(&["link", "set", "up7", "up"]).expect("ip");
    assert!(soon(|| listening(a).first().is_some_and(|at| at == "10.90.0.2/9993")), "{:?}", listening(a));
}

/// What a daemon holds: file descriptors, UDP ports bound in its namespace, sockets it tells of, paths to a peer.
fn held(world: &World) -> [usize; 4] {
    let a = &world.gateways[0];
    let fds = std::fs::read_dir(format!("/proc/{}/fd", a.pid())).expect("fds").count();
    let bound = std::fs::read_to_string(format!("/proc/{}/net/udp", a.pid())).expect("sockets").lines().count();
    [fds, bound, listening(a).len(), paths(a, &world.gateways[1]).len()]
}

#[test]
fn an_interface_that_flaps_leaks_neither_sockets_nor_paths() {
    /// Three times as many sockets as a ring has places: if one place of each were lost, the ring would be full.
    const FLAPS: usize = 130;
    let mut world = World::new("flap", &Options { gateways: &["--shards", "2"], ..Options::default() });
    network(&mut world);
    let before = held(&world);
    let wan = &world.spaces[0];
    for n in 0..FLAPS {
        let (off, on): (&[&str], &[&str]) = match n % 2 {
            0 => (&["link", "set", "wan0", "down"], &["link", "set", "wan0", "up"]),
            _ => (&["addr", "del", "10.90.0.2/24", "dev", "wan0"], &["addr", "add", "10.90.0.2/24", "dev", "wan0"]),
        };
        wan.ip(off).expect("off");
        // Sometimes too fast for the daemon to see, mostly not.
        thread::sleep(Duration::from_millis(n as u64 % 4 * 30));
        wan.ip(on).expect("on");
        thread::sleep(Duration::from_millis(50 + n as u64 % 3 * 50));
    }
    let as_before = || {
        let now = held(&world);
        now[2] == before[2] && now.iter().zip(before).all(|(now, before)| *now <= before)
    };
    let works = || world.is_direct() && world.pings(3).answered == 3;
    assert!(soon(|| works() && as_before()), "before {before:?}, now {:?}", held(&world));
    assert_eq!(before[2], 3, "listening");
}

/// A router with miniupnpd between a host, 192.168.77.2, and the internet, 44.7.7.0/24.
struct Nat {
    daemon: Daemon,
    _upnpd: Running,
    router: Namespace,
    outside: Namespace,
    host: Namespace,
    _dir: tempfile::TempDir,
}

/// A program that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const NAT: &str = r#"table inet filter {
    chain forward { type filter hook forward priority 0; policy drop
        iifname "lan0" accept
        ct state established,related accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100
        jump postrouting_miniupnpd
        oifname "wan0" masquerade
    }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}"#;

impl Nat {
    /// miniupnpd with these settings, and its own idea of the external address.
    fn new(name: &str, external: &str, upnpd_conf: &str) -> Nat {
        netns::check_privilege().expect("these tests make namespaces");
        let space = |tag: &str| Namespace::new(&format!("{name}{tag}")).expect("namespace");
        let (router, host, outside) = (space("r"), space("h"), space("o"));
        netns::link((&router, "lan0", "192.168.77.1/24"), (&host, "lan0", "192.168.77.2/24")).expect("LAN");
        netns::link((&router, "wan0", "44.7.7.1/24"), (&outside, "wan0", "44.7.7.2/24")).expect("WAN");
        host.ip(&["route", "add", "default", "via", "192.168.77.1"]).expect("route");
        router.sysctl("net/ipv4/ip_forward", "1").expect("forwarding");
        inside(&router, &["nft", NAT]);
        let dir = tempfile::tempdir().expect("tempdir");
        let file = |name: &str| dir.path().join(name).display().to_string();
        let conf = format!(
            "ext_ifname=wan0\next_ip={external}\nlistening_ip=lan0\nhttp_port=5000\nsystem_uptime=yes\n\
             uuid=00000000-0000-0000-0000-000000000001\nmin_lifetime=120\nmax_lifetime=86400\n\
             upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             {upnpd_conf}\nallow 1024-65535 192.168.77.0/24 1024-65535\n"
        );
        std::fs::write(file("conf"), conf).expect("conf");
        let log = std::fs::File::create(file("log")).expect("log");
        let upnpd: lab::Result<Running> = router.inside(|| {
            let mut command = Command::new("miniupnpd");
            command.args(["-d", "-f", &file("conf"), "-P", &file("pid")]).stdin(Stdio::null());
            let child = command.stdout(Stdio::null()).stderr(log).spawn();
            Ok(Running(child.expect("miniupnpd (package miniupnpd-nftables)")))
        });
        let upnpd = upnpd.expect("miniupnpd");
        let listens = || std::fs::read_to_string(file("log")).unwrap_or_default().contains("istening");
        assert!(soon(listens), "{}", std::fs::read_to_string(file("log")).unwrap_or_default());
        let words = ["--shards", "1", "--tertiary-port", "40002"];
        let daemon = Daemon::start(Path::new(HAWSER), &host, &dir.path().join("home"), &words).expect("daemon");
        Nat { daemon, _upnpd: upnpd, router, outside, host, _dir: dir }
    }

    /// What the daemon says is mapped.
    fn mappings(&self) -> Vec<Value> {
        self.daemon.status().expect("status")["portMappings"].as_array().cloned().unwrap_or_default()
    }

    /// The router has rules for a mapping.
    fn has_rules(&self) -> bool {
        let words = ["netns", "exec", self.router.name(), "nft", "list", "table", "inet", "filter"];
        let out = Command::new("ip").args(words).output().expect("nft");
        String::from_utf8_lossy(&out.stdout).contains("dnat")
    }

    /// A datagram from a stranger outside to `at` reaches the daemon.
    fn lets_in(&self, at: SocketAddr) -> bool {
        let received = || {
            let status = self.daemon.status().expect("status");
            status["counters"]["rings"]["datagrams_in"].as_u64().unwrap_or(0)
        };
        let before = received();
        let send = || Ok(UdpSocket::bind("44.7.7.2:0").and_then(|socket| socket.send_to(&[7; 40], at)));
        self.outside.inside(send).expect("inside").expect("sent");
        soon(|| received() == before + 1)
    }

    /// A mapping by `protocol` comes, works, and goes when the daemon stops.
    fn maps_by(mut self, protocol: &str) {
        assert!(soon(|| !self.mappings().is_empty()), "{}", self.daemon.log_tail());
        let mappings = self.mappings();
        let [mapping] = mappings.as_slice() else { panic!("{mappings:?}") };
        assert_eq!((&mapping["protocol"], &mapping["link"]), (&json!(protocol), &json!("lan0")), "{mapping}");
        assert_eq!(mapping["local"], "192.168.77.2/40002");
        let external: SocketAddr =
            mapping["external"].as_str().expect("text").replace('/', ":").parse().expect("an endpoint");
        assert_eq!(external.ip().to_string(), "44.7.7.1");
        assert!(self.has_rules());
        assert!(self.lets_in(external), "{mapping}");
        self.daemon.stop();
        assert!(soon(|| !self.has_rules()), "the mapping stays behind");
    }
}

#[test]
fn a_router_that_speaks_pcp_maps_the_third_port_until_the_daemon_stops() {
    Nat::new("pcp", "44.7.7.1", "enable_natpmp=yes\nenable_upnp=no").maps_by("PCP");
}

#[test]
fn a_router_that_speaks_upnp_only_does_so_too() {
    Nat::new("upnp", "44.7.7.1", "enable_natpmp=no\nenable_upnp=yes").maps_by("UPnP");
}

#[test]
fn a_mapping_of_a_link_that_is_gone_is_dropped_and_one_comes_with_the_link() {
    let nat = Nat::new("gone", "44.7.7.1", "enable_natpmp=yes\nenable_upnp=no");
    assert!(soon(|| !nat.mappings().is_empty()), "{}", nat.daemon.log_tail());
    nat.host.ip(&["link", "set", "lan0", "down"]).expect("down");
    assert!(soon(|| nat.mappings().is_empty()), "{:?}", nat.mappings());
    nat.host.ip(&["link", "set", "lan0", "up"]).expect("up");
    nat.host.ip(&["route", "add", "default", "via", "192.168.77.1"]).expect("route");
    assert!(soon(|| !nat.mappings().is_empty()), "{}", nat.daemon.log_tail());
}
