//! What a peer costs a root and a gateway, as far as that does not depend on the machine: bytes and packets. The bounds
//! are those of docs/PERFORMANCE.md; `cargo bench -p sim --bench planet` has the figures for ten thousand.

#[path = "planet/mod.rs"]
mod crowd;

use std::time::Duration;

use crowd::{Counting, Crowd};

#[global_allocator]
static COUNTING: Counting = Counting;

const LEAVES: usize = 150;
/// ECHO at least every 14 s and its answer both ways, HELLO every 54 to 66 s and its answer both ways; frames none.
const PACKETS_PER_MIN: f64 = 15.0;

#[test]
fn a_peer_costs_few_packets_and_few_bytes() {
    let mut empty = Crowd::new(0, true);
    let fixed = [empty.bytes(empty.root), empty.bytes(empty.gateway.unwrap())];
    let mut crowd = Crowd::new(LEAVES, true);
    let gateway = crowd.gateway.unwrap();
    assert_eq!((crowd.direct(gateway), crowd.direct(crowd.root)), (LEAVES, LEAVES));
    let still = || Duration::ZERO;
    for host in [crowd.root, gateway] {
        let cost = crowd.cost(host, 180, false, still);
        let (out, back) = (cost.sent_per_peer_min(), cost.received_per_peer_min());
        println!("{out:.2} packets a minute to a peer, {back:.2} from it");
        assert!((4.0..PACKETS_PER_MIN).contains(&out) && (4.0..PACKETS_PER_MIN).contains(&back));
        let counters = crowd.world.host(host).node.counters();
        assert_eq!((counters.echo_gated, counters.challenge_over_rate, counters.outputs_full), (0, 0, 0));
    }
    for (host, fixed, max) in [(crowd.root, fixed[0], 8 << 10), (gateway, fixed[1], 40 << 10)] {
        let each = (crowd.bytes(host) - fixed) / LEAVES;
        println!("{each} bytes a peer");
        assert!(each > 500 && each < max, "{each} bytes");
    }
}
