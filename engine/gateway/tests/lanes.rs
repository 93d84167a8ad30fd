//! One pair of gateways with two packet threads each, several flows: both threads work at both ends, no segment overtakes
//! another, and with one thread there is one port on the wire. Needs root and iproute2.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lab::measure::{self, KernelCounters};
use serde_json::json;
use support::{GATEWAY_B, Options, World};

const TRANSFER: Duration = Duration::from_secs(2);
const FLOWS: u16 = 12;
const PORT: u16 = 5300;

/// Two gateways with these words on their command lines, in one network.
fn world(name: &str, gateways: &[&str]) -> World {
    let mut world = World::new(name, &Options { gateways, ..Options::default() });
    world.network(&json!({"name": "lanes", "routes": [{"target": "10.77.0.0/24", "via": null}]}));
    world
}

impl World {
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
                    let at = SocketAddr::from((GATEWAY_B, PORT + n));
                    let (received, stop, space) = (&received, &stop, &self.spaces[1]);
                    scope.spawn(move || space.inside(|| measure::tcp_sink(at, received, ready, stop)))
                })
                .collect();
            self.until("the sinks", || ready.iter().all(|ready| ready.load(Ordering::Acquire)));
            let sources: Vec<_> = (0..FLOWS)
                .map(|n| {
                    let to = SocketAddr::from((GATEWAY_B, PORT + n));
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
    let world = world("lanes", &["--shards", "2"]);
    world.pings(3); // lanes are proven as soon as frames go
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
        // The further ports, which make contact, are another matter.
        let more = &[more, &["--no-secondary-port", "--no-port-mapping"]].concat();
        let world = world("nolanes", more);
        world.pings(3);
        let open = world.spaces[0]
            .inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default()))
            .expect("sockets");
        // local address and port, in hex: 10.90.0.2
        let ports: Vec<&str> = open.lines().filter_map(|line| line.split("02005A0A:").nth(1)?.get(..4)).collect();
        assert!(!ports.is_empty() && ports.iter().all(|port| *port == "2709"), "{more:?}: {open}");
    }
}
