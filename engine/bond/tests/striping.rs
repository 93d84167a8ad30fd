//! What share of several links' sum one TCP connection reaches, and how much out of order it arrives.

mod common;

use common::{Link, Outcome, Tolerance, run};

const SECONDS: u64 = 16;
const WARM_UP: u64 = 8;

/// The sum of what one connection reaches over each link alone, through the same queue.
fn sum_alone(links: &[Link], tolerance: Tolerance) -> f64 {
    links.iter().map(|l| run(&[*l], tolerance, SECONDS, WARM_UP, 1).goodput).sum()
}

fn row(name: &str, links: &[Link], tolerance: Tolerance) -> (f64, Outcome) {
    let alone = sum_alone(links, tolerance);
    let began = std::time::Instant::now();
    let o = run(links, tolerance, SECONDS, WARM_UP, 1);
    let share = o.goodput / alone;
    println!(
        "{name:<26} {:<5} G {alone:>6.1}  got {:>6.1} = {:>5.1} % (first 8 s {:>5.1} %)  reordered {:>5.2} %  late p99 {:>5.2} ms  spurious {:>4} recoveries {:>3} timeouts {} codel {:>4} overflow {:>4} rates {:.1?} shares {:.2?} {:?}",
        format!("{tolerance:?}"),
        o.goodput,
        100.0 * share,
        100.0 * o.start / alone,
        100.0 * o.reordered,
        o.late_p99,
        o.spurious,
        o.recoveries,
        o.timeouts,
        o.codel,
        o.overflow,
        o.rates,
        o.shares,
        began.elapsed(),
    );
    (share, o)
}

#[test]
fn one_connection_gets_the_sum_of_unequal_links() {
    let link = Link::new;
    row("U 40/10 + 10/30", &[link(40.0, 10.0), link(10.0, 30.0)], Tolerance::Rack);
    let rough = |l: Link| Link { jitter: 3.0, ..l };
    row("U, jitter 3", &[rough(link(40.0, 10.0)), rough(link(10.0, 30.0))], Tolerance::Rack);
    let shallow = |l: Link| Link { buffer: 10.0, ..l };
    row("U, buffer 10 ms", &[shallow(link(40.0, 10.0)), shallow(link(10.0, 30.0))], Tolerance::Rack);
    row("U, three", &[link(40.0, 10.0), link(10.0, 30.0)], Tolerance::Three);
    row("E", &[link(25.0, 10.0), link(25.0, 10.0)], Tolerance::Rack);
    row("300/10 + 80/30", &[link(300.0, 10.0), link(80.0, 30.0)], Tolerance::Rack);
    row("200/10 + 100/10", &[link(200.0, 10.0), link(100.0, 10.0)], Tolerance::Rack);
}
