//! One pair of gateways on a network with rules: what they allow takes the packet threads, what they forbid is dropped
//! there and counted, and other rules are in force as soon as the controller says so. Needs root and iproute2.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lab::measure;
use serde_json::json;
use support::{GATEWAY_B, Options, World};

const TRANSFER: Duration = Duration::from_secs(1);
const ALLOWED: u16 = 5300;
/// Where nobody may send to.
const FORBIDDEN: u16 = 5400;
/// What nobody takes in.
const REFUSED: u16 = 5401;

impl World {
    /// A counter of gateway `i`, of all its packet threads, when it has come to rest.
    fn count(&self, i: usize, name: &str) -> u64 {
        thread::sleep(Duration::from_millis(300));
        self.counter(i, "shards", name)
    }

    /// Host A can connect to host B, where somebody listens.
    fn connects(&self, port: u16) -> bool {
        let at = SocketAddr::from((GATEWAY_B, port));
        let _listener = self.spaces[1].inside(|| Ok(TcpListener::bind(at))).expect("inside").expect("listens");
        let connect = || Ok(TcpStream::connect_timeout(&at, Duration::from_millis(700)).is_ok());
        self.spaces[0].inside(connect).expect("inside")
    }

    /// TCP from host A to host B. Bytes that arrived.
    fn transfer(&self) -> u64 {
        let at = SocketAddr::from((GATEWAY_B, ALLOWED));
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
    let mut world = World::new("rules", &Options { gateways: &["--shards", "2"], ..Options::default() });
    let routes = json!([{"target": "10.77.0.0/24", "via": null}]);
    let id = world.network(&json!({"name": "rules", "routes": routes, "rules": rules(FORBIDDEN)}));
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
    world.root.cli(&["controller", "network", "set", &id, "--config", &config]).expect("other rules");
    world.until("other rules", || world.connects(FORBIDDEN));
    let frames = world.count(0, "control_frames");
    assert!(!world.connects(ALLOWED), "forbidden now");
    assert!(world.count(0, "control_frames") < frames + 10, "by the packet threads still");
}
