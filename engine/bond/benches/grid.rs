//! One TCP connection over two links, for a grid of rates, delays, jitter, loss and buffers: share of the sum of what it gets
//! over each alone, and disorder at the receiver. Deterministic; takes minutes. `cargo bench -p bond --bench grid`

#[allow(dead_code, reason = "the tests look at more of an outcome")]
#[path = "../tests/common/mod.rs"]
mod common;

use common::{Link, Tolerance, run};

fn main() {
    // Not when everything there is gets run as a test.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    println!(
        "rates Mbit/s  delays ms  jitter ms  loss %  buffer ms | G Mbit/s  start %  then %  reordered %  late p99 ms"
    );
    for (fast, slow) in [((40.0, 10.0), (10.0, 30.0)), ((25.0, 10.0), (25.0, 10.0)), ((100.0, 20.0), (50.0, 40.0))]
        .into_iter()
        .chain([((200.0, 10.0), (100.0, 10.0)), ((300.0, 10.0), (80.0, 30.0))])
    {
        for jitter in [0.0, 3.0] {
            for loss in [0.0, 0.0001, 0.02] {
                for buffer in [10.0, 50.0, 200.0] {
                    let link = |(rate, delay)| Link { jitter, loss, buffer, ..Link::new(rate, delay) };
                    let links = [link(fast), link(slow)];
                    let alone: f64 = links.iter().map(|l| run(&[*l], Tolerance::Rack, 16, 8, 1).goodput).sum();
                    let o = run(&links, Tolerance::Rack, 16, 8, 1);
                    println!(
                        "{:>5}+{:<5}  {:>4}+{:<4}  {jitter:>8}  {:>6}  {buffer:>9} | {alone:>8.1}  {:>7.1}  {:>6.1}  {:>11.1}  {:>11.1}",
                        fast.0,
                        slow.0,
                        fast.1,
                        slow.1,
                        loss * 100.0,
                        100.0 * o.start / alone,
                        100.0 * o.goodput / alone,
                        100.0 * o.reordered,
                        o.late_p99,
                    );
                }
            }
        }
    }
}
