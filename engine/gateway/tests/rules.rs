//! One pair of gateways on a network with rules: what they allow takes the packet threads, what they forbid is dropped
//! there and counted, and other rules are in force as soon as the controller says so. Needs root and iproute2.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::daemon::Daemon;
use lab::measure::{self, PingPlan, ping};
use lab::netns::{self, Namespace};
use serde_json::json;

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
const SOON: Duration = Duration::from_secs(20);
const TRANSFER: Duration = Duration::from_secs(1);
const ALLOWED: u16 = 5300;
/// Where nobody may send to.
const FORBIDDEN: u16 = 5400;
/// What nobody takes in.
const REFUSED: u16 = 5401;

/// A root at 10.90.0.1 and two gateways on the same Ethernet that reach each other directly.
struct World {
    _dir: tempfile::TempDir,
    root: Daemon,
    id: String,
    gateways: [Daemon; 2],
    spaces: [Namespace; 2],
    _wan: Namespace,
}

impl World {
    fn new(name: &str) -> World {
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
        let mut gateways =
            [0, 1].map(|i| start(&spaces[i], dir.path().join(format!("gateway{i}")), &["--shards", "2"]));
        let config =
            json!({"name": "rules", "routes": [{"target": "10.77.0.0/24", "via": null}], "rules": rules(FORBIDDEN)});
        let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).expect("network");
        let id = made["id"].as_str().expect("id").to_owned();
        for (i, gateway) in gateways.iter_mut().enumerate() {
            let config = json!({"authorized": true, "ipAssignments": [format!("10.77.0.{}", i + 1)]});
            let member = gateway.address().expect("address");
            root.cli(&["controller", "member", "set", &id, &member, "--config", &config.to_string()]).expect("member");
            gateway.join(&id, SOON).expect("joined");
        }
        let world = World { _dir: dir, root, id, gateways, spaces, _wan: wan };
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

    /// A counter of gateway `i`, of all its packet threads, when it has come to rest.
    fn count(&self, i: usize, name: &str) -> u64 {
        thread::sleep(Duration::from_millis(300));
        let status = self.gateways[i].status().expect("status");
        status["counters"]["shards"][name].as_u64().unwrap_or(0)
    }

    /// Host A can connect to host B, where somebody listens.
    fn connects(&self, port: u16) -> bool {
        let at = SocketAddr::from(([10, 77, 0, 2], port));
        let _listener = self.spaces[1].inside(|| Ok(TcpListener::bind(at))).expect("inside").expect("listens");
        let connect = || Ok(TcpStream::connect_timeout(&at, Duration::from_millis(700)).is_ok());
        self.spaces[0].inside(connect).expect("inside")
    }

    /// TCP from host A to host B. Bytes that arrived.
    fn transfer(&self) -> u64 {
        let at = SocketAddr::from(([10, 77, 0, 2], ALLOWED));
        let (received, ready, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let sink = scope.spawn(|| self.spaces[1].inside(|| measure::tcp_sink(at, &received, &ready, &stop)));
            while !ready.load(Ordering::Acquire) && !sink.is_finished() {
                thread::sleep(Duration::from_millis(10));
            }
            self.spaces[0].inside(|| measure::tcp_source(at, TRANSFER)).expect("sent");
            thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Release);
            sink.join().expect("sink").expect("received").bytes
        })
    }
}

/// Nobody sends TCP or UDP to `port`, nobody takes it in at [`REFUSED`]; all else goes.
fn rules(port: u16) -> serde_json::Value {
    json!([
        {"type": "MATCH_IP_DEST_PORT_RANGE", "start": port, "end": port},
        {"type": "ACTION_DROP"},
        {"type": "MATCH_CHARACTERISTICS", "mask": "8000000000000000"},
        {"type": "MATCH_IP_DEST_PORT_RANGE", "start": REFUSED, "end": REFUSED},
        {"type": "ACTION_DROP"},
        {"type": "ACTION_ACCEPT"},
    ])
}

#[test]
fn what_rules_allow_takes_the_packet_threads_and_what_they_forbid_is_dropped_there() {
    let world = World::new("rules");
    let before = [world.count(0, "frames_out"), world.count(0, "control_frames"), world.count(1, "control_opened")];
    let bytes = world.transfer();
    let after = [world.count(0, "frames_out"), world.count(0, "control_frames"), world.count(1, "control_opened")];
    let [sent, by_control, opened] = [0, 1, 2].map(|i| after[i] - before[i]);
    assert!(bytes > 5_000_000 && sent * 2800 > bytes, "{bytes} bytes in {sent} frames");
    // what is not a unicast frame, announcements above all
    assert!(by_control < 50 && opened < 50, "{by_control} frames and {opened} packets took the control thread");

    assert_eq!((world.count(0, "filtered_out"), world.count(1, "filtered_in")), (0, 0));
    assert!(!world.connects(FORBIDDEN) && world.count(0, "filtered_out") > 0, "stopped where it starts");
    assert!(!world.connects(REFUSED) && world.count(1, "filtered_in") > 0, "stopped where it arrives");

    let config = json!({ "rules": rules(ALLOWED) }).to_string();
    world.root.cli(&["controller", "network", "set", &world.id, "--config", &config]).expect("other rules");
    world.until("other rules", || world.connects(FORBIDDEN));
    let frames = world.count(0, "control_frames");
    assert!(!world.connects(ALLOWED), "forbidden now");
    assert!(world.count(0, "control_frames") < frames + 10, "by the packet threads still");
}
