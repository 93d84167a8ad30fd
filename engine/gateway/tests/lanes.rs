//! One pair of gateways with two packet threads each, several flows: both threads work at both ends, no segment overtakes
//! another, and with one thread there is one port on the wire. Needs root and iproute2.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{self, KernelCounters, PingPlan, ping};
use lab::netns::{self, Namespace};
use serde_json::json;

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
const SOON: Duration = Duration::from_secs(20);
const TRANSFER: Duration = Duration::from_secs(2);
const FLOWS: u16 = 12;
const PORT: u16 = 5300;

/// A root at 10.90.0.1 and two gateways on the same Ethernet that reach each other directly.
struct World {
    _dir: tempfile::TempDir,
    _root: Daemon,
    gateways: [Daemon; 2],
    spaces: [Namespace; 2],
    _wan: Namespace,
}

impl World {
    fn new(name: &str, more: &[&str]) -> World {
        netns::check_privilege().expect("these tests make namespaces");
        let space = |tag: &str| Namespace::new(&format!("{name}{tag}")).expect("namespace");
        let (wan, spaces) = (space("w"), [space("a"), space("b")]);
        netns::bridge(&wan, "br0", "10.90.0.1/24").expect("bridge");
        for (i, gateway) in spaces.iter().enumerate() {
            netns::plug(&wan, "br0", (gateway, "wan0", &format!("10.90.0.{}/24", i + 2))).expect("WAN");
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
            Daemon::start(Path::new(HAWSER), ns, &home, more).expect("daemon")
        };
        let root = start(&wan, dir.path().join("root"), &["--shards", "1"]);
        let mut gateways = [0, 1].map(|i| start(&spaces[i], dir.path().join(format!("gateway{i}")), more));
        let config = json!({"name": "lanes", "routes": [{"target": "10.77.0.0/24", "via": null}]});
        let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).expect("network");
        let id = made["id"].as_str().expect("id");
        for (i, gateway) in gateways.iter_mut().enumerate() {
            let config = json!({"authorized": true, "ipAssignments": [format!("10.77.0.{}", i + 1)]});
            let member = gateway.address().expect("address");
            root.cli(&["controller", "member", "set", id, &member, "--config", &config.to_string()]).expect("member");
            gateway.join(id, SOON).expect("joined");
        }
        let world = World { _dir: dir, _root: root, gateways, spaces, _wan: wan };
        world.until("a direct path", || {
            let far = world.gateways[1].address().expect("address");
            world.pings() > 0 && world.gateways[0].direct_paths(&far).is_ok_and(|paths| !paths.is_empty())
        });
        world
    }

    fn until(&self, what: &str, mut probe: impl FnMut() -> bool) {
        let end = Instant::now() + SOON;
        while !probe() {
            let counters = self.gateways.each_ref().map(|g| g.status().map(|s| s["counters"].clone()));
            assert!(Instant::now() < end, "{what}: not in time; {counters:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn pings(&self) -> u64 {
        let to = IpAddr::from([10, 77, 0, 2]);
        let plan = PingPlan { count: 3, timeout: Duration::from_secs(1), ..PingPlan::default() };
        self.spaces[0].inside(|| ping(to, plan)).unwrap_or_default().answered
    }

    /// A counter of gateway `i`, of each of its packet threads.
    fn of_shards(&self, i: usize, room: &str, name: &str) -> Vec<u64> {
        let status = self.gateways[i].status().expect("status");
        let shards = status["counters"]["perShard"].as_array().expect("shards");
        shards.iter().map(|shard| shard[room][name].as_u64().unwrap_or(0)).collect()
    }

    fn kernel(&self, i: usize) -> KernelCounters {
        self.spaces[i].inside(|| Ok(KernelCounters::read())).expect("counters")
    }

    /// TCP from gateway A to gateway B, [`FLOWS`] at once; every byte arrives.
    fn transfer(&self) {
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let ready = [const { AtomicBool::new(false) }; FLOWS as usize];
        let moved: u64 = thread::scope(|scope| {
            let sinks: Vec<_> = (0..FLOWS)
                .zip(&ready)
                .map(|(n, ready)| {
                    let at = SocketAddr::from(([10, 77, 0, 2], PORT + n));
                    let (received, stop, space) = (&received, &stop, &self.spaces[1]);
                    scope.spawn(move || space.inside(|| measure::tcp_sink(at, received, ready, stop)))
                })
                .collect();
            self.until("the sinks", || ready.iter().all(|ready| ready.load(Ordering::Acquire)));
            let sources: Vec<_> = (0..FLOWS)
                .map(|n| {
                    let to = SocketAddr::from(([10, 77, 0, 2], PORT + n));
                    scope.spawn(move || self.spaces[0].inside(|| measure::tcp_source(to, TRANSFER)))
                })
                .collect();
            for source in sources {
                source.join().expect("source").expect("sent");
            }
            thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Release);
            sinks.into_iter().map(|sink| sink.join().expect("sink").expect("received").bytes).sum()
        });
        assert!(moved > 10_000_000, "{moved} bytes");
    }
}

fn risen(after: &[u64], before: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

#[test]
fn several_flows_of_one_pair_keep_both_threads_busy_at_both_ends_and_nothing_is_overtaken() {
    let world = World::new("lanes", &["--shards", "2"]);
    world.pings(); // lanes are proven as soon as frames go
    thread::sleep(Duration::from_millis(500));
    let sent = world.of_shards(0, "shards", "frames_out");
    let received = world.of_shards(1, "shards", "frames_in");
    let (kernel_a, kernel_b) = (world.kernel(0), world.kernel(1));
    world.transfer();
    thread::sleep(Duration::from_millis(300));
    let sent = risen(&world.of_shards(0, "shards", "frames_out"), &sent);
    let received = risen(&world.of_shards(1, "shards", "frames_in"), &received);
    assert!(sent.len() == 2 && sent.iter().all(|&n| n > 1000), "sent {sent:?}");
    assert!(received.len() == 2 && received.iter().all(|&n| n > 1000), "received {received:?}");
    let reordered: Vec<(&str, u64)> = ["TcpExt.TCPSACKReorder", "TcpExt.TCPTSReorder", "TcpExt.TCPRenoReorder"]
        .iter()
        .map(|&name| (name, world.kernel(0).since(&kernel_a, name)))
        .collect();
    let queued = world.kernel(1).since(&kernel_b, "TcpExt.TCPOFOQueue");
    let again = world.kernel(0).since(&kernel_a, "Tcp.RetransSegs");
    assert!(reordered.iter().all(|(_, n)| *n == 0), "{reordered:?}; {queued} queued out of order, {again} sent again");
}

#[test]
fn without_lanes_everything_leaves_by_one_port() {
    for more in [&["--shards", "1"][..], &["--shards", "2", "--no-lanes"]] {
        let world = World::new("nolanes", more);
        world.pings();
        let open = world.spaces[0]
            .inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default()))
            .expect("sockets");
        // local address and port, in hex: 10.90.0.2
        let ports: Vec<&str> = open.lines().filter_map(|line| line.split("02005A0A:").nth(1)?.get(..4)).collect();
        assert!(!ports.is_empty() && ports.iter().all(|port| *port == "2709"), "{more:?}: {open}");
    }
}
