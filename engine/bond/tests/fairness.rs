//! Large flows that share several paths get the same, wherever the queue stands and whatever their senders do: these have
//! windows that never shrink, as those of a sender that loss does not slow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bond::model::PathModel;
use bond::striper::{Out, Striper};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MS: u64 = 1_000_000;
const TICK: u64 = MS / 10;
const PACKET: usize = 1400;
const START: u64 = 1000 * MS;

/// Mbit/s, ms one way.
struct Line {
    rate: f64,
    delay: u64,
    busy_until: f64,
}

struct Outcome {
    /// Mbit/s of each flow over the last second.
    each: Vec<f64>,
    /// What is believed of the lines, Mbit/s.
    rates: Vec<f64>,
}

impl Outcome {
    fn jain(&self) -> f64 {
        let squares: f64 = self.each.iter().map(|x| x * x).sum();
        self.sum() * self.sum() / (self.each.len() as f64 * squares)
    }

    fn sum(&self) -> f64 {
        self.each.iter().sum()
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Delivered(usize),
    Acked(usize, u64),
}

/// Flows with these windows (bytes) over lines with a buffer of 50 ms.
fn run(lines: &[(f64, u64)], windows: &[usize], seconds: u64) -> Outcome {
    let models = lines.iter().map(|l| PathModel::new(START, Some(2 * l.1 * MS), None)).collect();
    run_with(models, lines, windows, seconds)
}

/// The same with what is known of the lines at the start.
fn run_with(models: Vec<PathModel>, lines: &[(f64, u64)], windows: &[usize], seconds: u64) -> Outcome {
    let mut lines: Vec<Line> =
        lines.iter().map(|&(rate, delay)| Line { rate, delay: delay * MS, busy_until: 0.0 }).collect();
    let back = lines.iter().map(|l| l.delay).min().unwrap();
    let mut striper: Striper<usize> = Striper::new(START, models);
    let mut room: Vec<usize> = windows.iter().map(|w| w / PACKET).collect();
    // What is dropped is sent again after a while.
    let mut dropped: VecDeque<(u64, usize)> = VecDeque::new();
    let mut events: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
    let mut got = vec![0u64; windows.len()];
    for now in (START..START + seconds * 1000 * MS).step_by(TICK as usize) {
        while events.peek().is_some_and(|e| e.0.0 <= now) {
            match events.pop().unwrap().0.1 {
                Event::Delivered(flow) => {
                    room[flow] += 1;
                    got[flow] += u64::from(now > START + (seconds - 1) * 1000 * MS);
                }
                Event::Acked(path, request) => {
                    striper.acked(now, path, request);
                }
            }
        }
        while dropped.front().is_some_and(|d| d.0 <= now) {
            room[dropped.pop_front().unwrap().1] += 1;
        }
        for (flow, room) in room.iter_mut().enumerate() {
            for _ in 0..std::mem::take(room) {
                if let Err(flow) = striper.offer(now, flow as u64, flow, PACKET) {
                    dropped.push_back((now + 50 * MS, flow));
                }
            }
        }
        while let Some(out) = striper.poll(now) {
            match out {
                Out::Drop(flow) => dropped.push_back((now + 50 * MS, flow)),
                Out::Send { path, item, request } => {
                    let line = &mut lines[path];
                    if line.busy_until - now as f64 > 50e6 {
                        dropped.push_back((now + 50 * MS, item));
                        continue;
                    }
                    line.busy_until = line.busy_until.max(now as f64) + PACKET as f64 * 8e3 / line.rate;
                    let arrival = line.busy_until as u64 + line.delay;
                    events.push(Reverse((arrival + back, Event::Delivered(item))));
                    events.extend(request.map(|r| Reverse((arrival + line.delay, Event::Acked(path, r)))));
                }
            }
        }
    }
    Outcome {
        each: got.iter().map(|n| *n as f64 * PACKET as f64 * 8e-6).collect(),
        rates: (0..lines.len()).map(|i| striper.model(i).unwrap().rate() * 8e-6).collect(),
    }
}

const BIG: [(f64, u64); 2] = [(300.0, 10), (80.0, 30)];

#[test]
fn rates_are_learned_though_more_requests_are_on_their_way_than_are_remembered() {
    // As much as fills the buffer of the fast line at once: its answers take 70 ms, in which 1900 packets pass it.
    let o = run(&BIG, &[300_000; 8], 2);
    assert!((o.rates[0] - 300.0).abs() < 30.0 && (o.rates[1] - 80.0).abs() < 8.0, "{:?}", o.rates);
    assert!(o.sum() > 0.95 * 380.0, "{:?}", o.each);
}

#[test]
fn flows_get_the_same_though_the_queue_is_all_bound_to_paths() {
    // Together they make a queue no longer than the delays differ.
    let windows: Vec<usize> = (0..8).map(|n| if n % 2 == 0 { 131_000 } else { 393_000 }).collect();
    let o = run(&BIG, &windows, 4);
    assert!(o.jain() > 0.95 && o.sum() > 0.95 * 380.0, "{} {:?}", o.jain(), o.each);
}

#[test]
fn flows_whose_hashes_are_alike_get_the_same() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        let mut striper: Striper<usize> = Striper::new(0, [PathModel::new(0, Some(20 * MS), Some(1e6))]);
        let flows: Vec<u64> = (0..32).map(|_| rng.random()).collect();
        for n in 0..32 * 20 {
            striper.offer(0, flows[n % 32], n % 32, PACKET).unwrap();
        }
        let mut sent = vec![0; 32];
        let mut now = 0;
        while sent.iter().sum::<usize>() < 32 * 10 {
            while let Some(Out::Send { item, .. }) = striper.poll(now) {
                sent[item] += 1;
            }
            now += TICK;
        }
        assert!(sent.iter().all(|n| (8..=12).contains(n)), "{sent:?}");
    }
}

#[test]
fn a_far_end_that_stood_still_for_a_moment_is_not_taken_for_a_slow_path() {
    let mut model = PathModel::new(0, Some(20 * MS), None);
    model.unpaced();
    for n in 0..100u64 {
        // A packet every 2 ms, as of a sender that begins; one answer in 13 is 12 ms late, and those behind it with it.
        let answer = |n: u64| (2 * n + 20) * MS + n % 3 * MS / 20;
        let late = |n: u64| answer(n).max(answer(n / 13 * 13) + 12 * MS);
        model.sent(2 * n * MS, PACKET, false, Some(n));
        for m in n.saturating_sub(40)..=n {
            if late(m) > 2 * n * MS && late(m) <= 2 * (n + 1) * MS {
                model.acked(late(m), m);
            }
        }
    }
    assert!(model.is_new(), "{:.1} Mbit/s", model.rate() * 8e-6);
}

#[test]
fn a_path_that_was_taken_for_a_far_slower_one_is_full_two_seconds_later() {
    let mut model = PathModel::new(0, Some(20 * MS), None);
    model.unpaced();
    for n in 0..5u64 {
        model.sent((1 + n) * MS, PACKET, false, Some(n));
    }
    for n in 0..5u64 {
        model.acked((25 + 6 * n) * MS, n);
    }
    let rate = |model: &PathModel| model.rate() * 8e-6;
    assert!(rate(&model) < 5.0, "{}", rate(&model));
    let o = run_with(vec![model], &[(200.0, 10)], &[300_000; 4], 3);
    assert!((o.rates[0] - 200.0).abs() < 20.0 && o.sum() > 0.9 * 200.0, "{:?} {:?}", o.rates, o.each);
}
