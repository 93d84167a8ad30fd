//! Ten thousand nodes on one planet: what a root pays for each of them, and a gateway with ten thousand direct peers.
//! `cargo bench -p sim --bench planet`; `HAWSER_LEAVES` for another number.

#[path = "../tests/planet/mod.rs"]
mod crowd;

use std::time::Duration;

use crowd::{Cost, Counting, Crowd};
use nix::time::{ClockId, clock_gettime};
use sim::HostId;

#[global_allocator]
static COUNTING: Counting = Counting;

const LEAVES: usize = 10_000;
/// Virtual time that is measured: every node's HELLO of a minute comes twice. s
const SECONDS: u64 = 120;
/// The same for peers that carry frames.
const BUSY_SECONDS: u64 = 20;

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn show(what: &str, cost: Cost) {
    let per_node = |packets: u64| packets as f64 / cost.seconds as f64;
    println!(
        "{what:<22}{:>8.2}{:>9.2}{:>9.0}{:>9.0}{:>10.2}{:>8.2}{:>10.1}",
        cost.sent_per_peer_min(),
        cost.received_per_peer_min(),
        per_node(cost.sent),
        per_node(cost.received),
        cost.us_per_peer_s(),
        cost.spent.as_secs_f64() * 100.0 / cost.seconds as f64,
        cost.longest.as_secs_f64() * 1e3,
    );
}

fn refused(crowd: &Crowd, host: HostId) {
    let counters = crowd.world.host(host).node.counters();
    let idle = ["received_datagrams", "received_packets", "sent_datagrams", "relayed", "introductions"];
    let refused: Vec<String> = counters
        .iter()
        .filter(|(name, n)| *n > 0 && !idle.contains(name))
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    println!("  counted: {}", refused.join(", "));
}

fn main() {
    let leaves = std::env::var("HAWSER_LEAVES").ok().and_then(|n| n.parse().ok()).unwrap_or(LEAVES);
    let empty = {
        let mut crowd = Crowd::new(0, true);
        let gateway = crowd.gateway.expect("a gateway");
        [crowd.bytes(crowd.root), crowd.bytes(gateway)]
    };
    println!(
        "{leaves} leaves; packets a minute and peer; packets a second; CPU: us a second and peer, %, longest call ms"
    );
    println!("{:<22}{:>8}{:>9}{:>9}{:>9}{:>10}{:>8}{:>10}", "", "to", "from", "out", "in", "us", "%", "longest");
    let mut crowd = Crowd::new(leaves, false);
    let root = crowd.root;
    let known = crowd.direct(root);
    show("root", crowd.cost(root, SECONDS, false, thread_time));
    refused(&crowd, root);
    let one = crowd.leaves[0];
    println!("root: {known} leaves with a path; {} bytes a leaf", (crowd.bytes(root) - empty[0]) / leaves);
    println!("a leaf that knows the root only: {} bytes", crowd.bytes(one));
    drop(crowd);
    let mut crowd = Crowd::new(leaves, true);
    let gateway = crowd.gateway.expect("a gateway");
    let direct = crowd.direct(gateway);
    show("gateway, idle peers", crowd.cost(gateway, SECONDS, false, thread_time));
    show("gateway, busy peers", crowd.cost(gateway, BUSY_SECONDS, true, thread_time));
    refused(&crowd, gateway);
    println!("gateway: {direct} direct peers; {} bytes a peer", (crowd.bytes(gateway) - empty[1]) / leaves);
}
