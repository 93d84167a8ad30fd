//! What share of several links' sum one TCP connection reaches once it has found its rate, and how much out of order it
//! arrives. The whole grid of rates, delays, jitter, loss and buffers: `cargo bench -p bond --bench grid`.

mod common;

use common::{Link, Setup, Tolerance, run};

/// The sum of what one connection reaches over each link alone, through the same queue.
fn sum_alone(links: &[Link], tolerance: Tolerance) -> f64 {
    links.iter().map(|l| run(&[*l], Setup { tolerance, ..Setup::default() }).goodput).sum()
}

fn row(name: &str, links: &[Link], tolerance: Tolerance) -> f64 {
    let alone = sum_alone(links, tolerance);
    let o = run(links, Setup { tolerance, ..Setup::default() });
    let share = o.goodput / alone;
    println!(
        "{name:<20} {:<5} G {alone:>6.1}  got {:>6.1} = {:>5.1} % (first 8 s {:>5.1} %)  reordered {:>5.2} %  late p99 \
         {:>5.2} ms  spurious {:>4}  recoveries {:>3}  timeouts {}  dropped here {:>4}, there {:>4}  rates {:.1?}  shares {:.2?}",
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
    );
    share
}

const U: [Link; 2] = [Link::new(40.0, 10.0), Link::new(10.0, 30.0)];

#[test]
fn one_connection_gets_the_sum_of_40_and_10_mbit() {
    assert!(row("U 40/10 + 10/30", &U, Tolerance::Rack) >= 0.90);
}

#[test]
fn shallow_buffers_and_jitter_cost_little() {
    assert!(row("U, buffers of 10 ms", &U.map(|l| Link { buffer: 10.0, ..l }), Tolerance::Rack) >= 0.90);
    assert!(row("U, jitter 3 ms", &U.map(|l| Link { jitter: 3.0, ..l }), Tolerance::Rack) >= 0.80);
}

#[test]
fn eight_connections_behind_one_striper_or_two_get_all_of_it_and_the_same() {
    for stripers in [1, 2] {
        let o = run(&U, Setup { flows: 8, stripers, ..Setup::default() });
        assert!(o.goodput >= 0.95 * 50.0 && o.jain() >= 0.95, "{stripers}: {} {:?}", o.goodput, o.each);
    }
}

#[test]
fn a_light_connection_beside_waits_little() {
    let (median, _) = run(&U, Setup::default()).ping;
    assert!(median <= 5.0, "{median} ms");
}

#[test]
fn a_rate_that_halves_is_followed() {
    let halved = [Link { change: Some((4.0, 0.5)), ..U[0] }, U[1]];
    let o = run(&halved, Setup::default());
    assert!(o.goodput >= 0.9 * 30.0 && o.ping.0 <= 10.0, "{} {:?}", o.goodput, o.ping);
}

#[test]
fn a_receiver_that_counts_to_three_is_served_too() {
    assert!(row("U, three", &U, Tolerance::Three) >= 0.75);
}

#[test]
fn one_connection_gets_the_sum_of_equal_links() {
    assert!(row("E 25/10 + 25/10", &[Link::new(25.0, 10.0); 2], Tolerance::Rack) >= 0.90);
}

#[test]
fn one_connection_gets_the_sum_of_200_and_100_mbit() {
    assert!(row("200/10 + 100/10", &[Link::new(200.0, 10.0), Link::new(100.0, 10.0)], Tolerance::Rack) >= 0.85);
}

#[test]
fn one_connection_gets_the_sum_of_200_and_200_mbit() {
    assert!(row("200/10 + 200/10", &[Link::new(200.0, 10.0); 2], Tolerance::Rack) >= 0.90);
}

#[test]
fn one_connection_gets_the_sum_of_300_and_80_mbit() {
    assert!(row("300/10 + 80/30", &[Link::new(300.0, 10.0), Link::new(80.0, 30.0)], Tolerance::Rack) >= 0.85);
}

mod plans {
    use std::collections::BTreeSet;

    use bond::model::PathModel;
    use bond::striper::{Lane, Out, Striper};

    fn model(rtt_ms: u64) -> PathModel {
        PathModel::new(0, Some(rtt_ms * 1_000_000), Some(1_250_000.0))
    }

    fn sent(striper: &mut Striper<u32>, until_ns: u64) -> Vec<(usize, u32)> {
        let mut out = Vec::new();
        let mut now = 0;
        while now <= until_ns {
            while let Some(Out::Send { path, item, .. }) = striper.poll(now) {
                out.push((path, item));
            }
            now = striper.next_ns().unwrap_or(u64::MAX).max(now + 1);
        }
        out
    }

    /// What each of two links of 10 Mbit/s, 10 and 30 ms, carries in three seconds of a sender that never has more than five
    /// packets wait, and by how much they came too late after a second.
    fn short_queue(numbered: bool) -> ([u32; 2], u64) {
        const RATE: u64 = 1_250_000;
        let delays = [10_000_000, 30_000_000];
        let mut striper = Striper::new(0, [model(20), model(60)]);
        let (mut free, mut acks, mut carried) = ([0; 2], BTreeSet::<(u64, usize, u64)>::new(), [0; 2]);
        let (mut newest, mut late) = (0, 0);
        for now in (0..3_000_000_000).step_by(100_000) {
            while striper.len() < 5 {
                let _ = match numbered {
                    true => striper.offer_numbered(now, 7, 0, 1400),
                    false => striper.offer(now, 7, 0, 1400),
                };
            }
            while acks.first().is_some_and(|(at, ..)| *at <= now) {
                let Some((_, path, request)) = acks.pop_first() else { break };
                striper.acked(now, path, request);
            }
            while let Some(out) = striper.poll(now) {
                let Out::Send { path, request, .. } = out else { continue };
                free[path] = now.max(free[path]) + 1400 * 1_000_000_000 / RATE;
                let arrives = free[path] + delays[path];
                acks.extend(request.map(|request| (arrives + 10_000_000, path, request)));
                carried[path] += 1;
                if now > 1_000_000_000 {
                    late = late.max(newest - arrives.min(newest));
                }
                newest = newest.max(arrives);
            }
        }
        (carried, late)
    }

    #[test]
    fn a_sender_with_a_short_queue_fills_a_farther_path_only_if_the_receiver_puts_in_order() {
        let (carried, late) = short_queue(false);
        assert!(carried[0] > 2400 && carried[1] < 50 && late == 0, "{carried:?} {late}");
        let (carried, late) = short_queue(true);
        assert!(carried[0] > 2400 && carried[1] > 2000 && late < 25_000_000, "{carried:?} {late}");
    }

    #[test]
    fn packets_bound_to_a_path_that_goes_leave_by_the_others_in_order() {
        let mut striper = Striper::new(0, [model(20), model(20), model(20)]);
        for n in 0..60 {
            striper.offer(0, 7, n, 1400).unwrap();
        }
        let _ = striper.poll(0);
        striper.rebuild(0, [Lane::Kept(2), Lane::Kept(0)]);
        let rest = sent(&mut striper, 1_000_000_000);
        let order: Vec<u32> = rest.iter().map(|s| s.1).collect();
        assert_eq!(order, (1..60).collect::<Vec<_>>());
        assert!(rest.iter().any(|s| s.0 == 0) && rest.iter().any(|s| s.0 == 1));
    }

    #[test]
    fn what_was_learned_of_a_path_that_stays_is_kept() {
        let mut striper: Striper<u32> = Striper::new(0, [model(20), model(50)]);
        striper.rebuild(0, [Lane::New(model(90)), Lane::Kept(1)]);
        assert_eq!(striper.model(0).unwrap().min_rtt_ns(), 90_000_000);
        assert_eq!(striper.model(1).unwrap().min_rtt_ns(), 50_000_000);
        // A path that is named twice or was never there is none.
        striper.rebuild(0, [Lane::Kept(1), Lane::Kept(1), Lane::Kept(9)]);
        assert_eq!(striper.model(0).unwrap().min_rtt_ns(), 50_000_000);
        assert!(striper.model(1).is_none());
    }

    #[test]
    fn answers_in_any_order_and_clocks_that_go_back_do_no_harm() {
        let mut striper = Striper::new(9_000_000_000, [model(20), model(50)]);
        let mut requests = Vec::new();
        for n in 0..20_000u64 {
            let now = 9_000_000_000 + n * 300_000 - (n % 7) * 40_000_000;
            let _ = striper.offer(now, n % 3, n as u32, 1400);
            while let Some(out) = striper.poll(now) {
                if let Out::Send { path, request: Some(request), .. } = out {
                    requests.push((path, request));
                }
            }
            if n % 5 == 0 && !requests.is_empty() {
                let (path, request) = requests.remove(n as usize % requests.len());
                striper.acked(now - (n % 3) * 500_000_000, path, request);
            }
        }
        for i in 0..2 {
            let model = striper.model(i).unwrap();
            assert!(model.rate().is_finite() && model.pace() > 0.0, "{model:?}");
        }
    }

    #[test]
    fn a_striper_without_paths_keeps_its_packets_until_they_are_taken_back() {
        let mut striper = Striper::new(0, [model(20), model(20)]);
        striper.offer_light(99, 100).unwrap();
        for n in 0..40 {
            striper.offer(0, 7, n, 1400).unwrap();
        }
        striper.rebuild(0, []);
        assert_eq!((striper.poll(0), striper.next_ns()), (None, None));
        assert_eq!(striper.offer(0, 7, 41, 1400), Err(41));
        assert_eq!(striper.drain().collect::<Vec<_>>(), [99].into_iter().chain(0..40).collect::<Vec<_>>());
        assert!(striper.is_empty());
    }
}
