//! TCP connections over several links, for a grid of rates, delays, jitter, loss, buffers, flows and shards: share of the sum
//! of what one connection gets over each link alone (G) and of the sum of the links' rates, disorder at the receiver, and what
//! it costs a light connection beside. Deterministic. `cargo bench -p bond --bench grid [-- <part of a row's name>]`

#[allow(dead_code, reason = "the tests look at more of an outcome")]
#[path = "../tests/common/mod.rs"]
mod common;

use common::{Link, Setup, run};

const SEEDS: u64 = 2;

fn row(name: &str, links: &[Link], setup: Setup) {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if !only.is_empty() && !only.iter().any(|o| name.contains(o.as_str())) {
        return;
    }
    let change = |l: &Link| l.change.map_or(1.0, |c| c.1);
    let ideal: f64 = links.iter().map(|l| l.rate * change(l)).sum();
    let alone = |seed| {
        let one = Setup { flows: 1, stripers: 1, seed, ..setup };
        links.iter().map(|l| run(&[*l], one).goodput).sum::<f64>()
    };
    let g = (0..SEEDS).map(alone).sum::<f64>() / SEEDS as f64;
    let runs: Vec<_> = (0..SEEDS).map(|seed| run(links, Setup { seed, ..setup })).collect();
    let mean = |of: &dyn Fn(&common::Outcome) -> f64| runs.iter().map(of).sum::<f64>() / SEEDS as f64;
    let worst = runs.iter().map(|o| o.goodput).fold(f64::MAX, f64::min);
    println!(
        "| {name:<34} | {g:>7.1} | {:>7.1} | {:>5.1} | {:>5.1} | {:>5.1} | {:>5.1} | {:>5.3} | {:>5.2} | {:>5.1} | {:>4.1} | {:>4.1} | {:>5.0} | {:>5.0} | {:>5.0} | {:.1?}",
        mean(&|o| o.goodput),
        100.0 * mean(&|o| o.goodput) / g,
        100.0 * worst / g,
        100.0 * mean(&|o| o.goodput) / ideal,
        100.0 * mean(&|o| o.start) / ideal,
        runs.iter().map(common::Outcome::jain).fold(f64::MAX, f64::min),
        100.0 * mean(&|o| o.reordered),
        mean(&|o| o.late_p99),
        mean(&|o| o.ping.0),
        mean(&|o| o.ping.1),
        mean(&|o| o.spurious as f64),
        mean(&|o| o.codel as f64),
        mean(&|o| o.overflow as f64),
        runs[0].rates,
    );
}

fn main() {
    // Not when everything there is gets run as a test.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    println!(
        "| links Mbit/s / ms | G | Mbit/s | of G % | worst % | of the links % | at first % | Jain | reordered % | late p99 ms | ping + p50 ms | p99 | spurious | dropped here | there | rates"
    );
    let l = Link::new;
    let u = [l(40.0, 10.0), l(10.0, 30.0)];
    let e = [l(25.0, 10.0); 2];
    let big = [l(300.0, 10.0), l(80.0, 30.0)];
    let two = [l(200.0, 10.0), l(200.0, 10.0)];
    let half = [l(200.0, 10.0), l(100.0, 10.0)];
    let four = [l(100.0, 10.0); 4];
    let one = Setup::default();
    let eight = Setup { flows: 8, ..one };
    let split = Setup { flows: 8, stripers: 2, ..one };
    for (name, links) in [
        ("U 40/10+10/30", &u[..]),
        ("E 25/10+25/10", &e),
        ("300/10+80/30", &big),
        ("200/10+200/10", &two),
        ("200/10+100/10", &half),
        ("4x100/10", &four),
    ] {
        row(&format!("{name} 1 flow"), links, one);
        row(&format!("{name} 8 flows"), links, eight);
        row(&format!("{name} 8 flows 2 shards"), links, split);
    }
    for (name, links) in [("U", u), ("300+80", big), ("200+100", half)] {
        let with = |f: &dyn Fn(Link) -> Link| links.map(f);
        row(&format!("{name} buffer 10 ms"), &with(&|l| Link { buffer: 10.0, ..l }), one);
        row(&format!("{name} buffer 400 ms"), &with(&|l| Link { buffer: 400.0, ..l }), one);
        row(&format!("{name} loss 0.1 %"), &with(&|l| Link { loss: 0.001, ..l }), one);
        row(&format!("{name} loss 1 %"), &with(&|l| Link { loss: 0.01, ..l }), one);
        row(&format!("{name} loss 1 % 8 flows"), &with(&|l| Link { loss: 0.01, ..l }), eight);
        row(&format!("{name} jitter 1 ms"), &with(&|l| Link { jitter: 1.0, ..l }), one);
        row(&format!("{name} jitter 5 ms"), &with(&|l| Link { jitter: 5.0, ..l }), one);
        row(&format!("{name} acks lost 30 %"), &links, Setup { ack_loss: 0.3, ..one });
        let changed = |f: f64| [Link { change: Some((4.0, f)), ..links[0] }, links[1]];
        row(&format!("{name} fast x0.5 at 4 s"), &changed(0.5), one);
        row(&format!("{name} fast x2 at 4 s"), &changed(2.0), one);
        let slow = |f: f64| [links[0], Link { change: Some((4.0, f)), ..links[1] }];
        row(&format!("{name} slow x0.5 at 4 s"), &slow(0.5), one);
        row(&format!("{name} slow x2 at 4 s"), &slow(2.0), one);
        row(&format!("{name} counts to three"), &links, Setup { tolerance: common::Tolerance::Three, ..one });
    }
    for (name, links) in [("U", &u[..]), ("E", &e), ("300+80", &big), ("200+100", &half), ("4x100", &four)] {
        let late = Setup { second_ms: 4000, ..split };
        row(&format!("{name} 8 flows 2nd shard at 4 s alone"), links, Setup { alone: true, ..late });
        row(&format!("{name} 8 flows 2nd shard at 4 s"), links, late);
    }
    let minute = Setup { seconds: 60, warm_up: 30, ..split };
    row("U 8 flows 2 shards 1 minute", &u, minute);
    row("200+100 8 flows 2 shards 1 minute", &half, minute);
    row("2/20+1/40", &[l(2.0, 20.0), l(1.0, 40.0)], one);
    row("20/15+2/40", &[l(20.0, 15.0), l(2.0, 40.0)], one);
    row("1000/5+1000/5", &[l(1000.0, 5.0), l(1000.0, 5.0)], Setup { seconds: 10, warm_up: 5, ..one });
    row("1000/1+300/10", &[l(1000.0, 1.0), l(300.0, 10.0)], Setup { seconds: 10, warm_up: 5, ..one });
    let cpu = Setup { seconds: 6, warm_up: 3, cpu: 3000, ..one };
    row("10G/0.2 cpu 3.7G", &[l(10_000.0, 0.2)], cpu);
    row("2x10G/0.2 cpu 3.7G", &[l(10_000.0, 0.2); 2], cpu);
    row("2x10G/0.2 cpu 3.7G 8 flows", &[l(10_000.0, 0.2); 2], Setup { flows: 8, ..cpu });
}
