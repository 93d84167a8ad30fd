//! Segments over several paths come out once each, in order as far as waiting is allowed, and nothing waits longer.

use bond::inner::IPV4;
use bond::limits::*;
use bond::resequence::{Counters, Resequencer, Segment, Source};
use proptest::prelude::*;

const FLOW: u64 = 77;
const ACK: u8 = 0x10;

/// One receiver, and what came out of it: number of the segment, when.
struct Rig {
    resequencer: Resequencer,
    source: Source<u8>,
    came: Vec<(u32, u64)>,
}

impl Rig {
    fn new() -> Rig {
        Rig { resequencer: Resequencer::new(1), source: Source::new(0, 0), came: Vec::new() }
    }

    /// Lets the time pass.
    fn until(&mut self, now: u64) {
        while let Some(due) = self.resequencer.due_us().filter(|due| *due <= now) {
            let came = &mut self.came;
            self.resequencer.expire(due, &mut |tag, _| came.push((tag as u32, due)));
        }
    }

    fn segment(&mut self, now: u64, path: u8, number: u32, segment: Segment, frame: &[u8]) {
        self.until(now);
        let came = &mut self.came;
        let mut out = |tag, _: &[u8]| came.push((tag as u32, now));
        match self.source.heard(now, path) {
            Some(path) => {
                self.resequencer.segment(now, &mut self.source, path, &segment, number.into(), frame, &mut out);
            }
            None => out(number.into(), frame),
        }
        assert!(self.resequencer.len() <= RESEQUENCE_SEGMENTS_MAX);
        assert!(self.resequencer.bytes() <= RESEQUENCE_BYTES_MAX);
    }

    /// A full segment of the flow.
    fn data(&mut self, now: u64, path: u8, number: u32) {
        self.data_from(now, path, number, 0)
    }

    fn data_from(&mut self, now: u64, path: u8, number: u32, first: u32) {
        let sequence = first.wrapping_add(number.wrapping_mul(1000));
        self.segment(now, path, number, Segment { flow: FLOW, sequence, len: 1000, flags: ACK }, &[7; 1000]);
    }

    fn numbers(&self) -> Vec<u32> {
        self.came.iter().map(|came| came.0).collect()
    }

    fn counters(&self) -> Counters {
        self.resequencer.counters()
    }

    /// Makes the flow one that comes over both paths; 0 to 3 are out.
    fn striped() -> Rig {
        let mut rig = Rig::new();
        for number in 0..4 {
            rig.data(u64::from(number), number as u8 % 2, number);
        }
        rig
    }
}

#[test]
fn what_is_ahead_waits_until_the_gap_closes() {
    let mut rig = Rig::striped();
    for number in [6, 7, 4] {
        rig.data(1000, if number == 4 { 1 } else { 0 }, number);
    }
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4]);
    rig.data(1100, 1, 5);
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((rig.counters().held, rig.counters().closed, rig.resequencer.due_us()), (2, 1, None));
}

#[test]
fn a_flow_on_one_path_never_waits() {
    let mut rig = Rig::new();
    for number in 0..50 {
        rig.data(1000 * u64::from(number), 3, 2 * number);
    }
    assert_eq!((rig.came.len(), rig.counters()), (50, Counters::default()));
    // also if another flow of the peer is striped
    let mut rig = Rig::striped();
    for number in 0..50 {
        let other = Segment { flow: 1, sequence: 5000 * number, len: 1000, flags: ACK };
        rig.segment(1000 + u64::from(number), 1, number, other, &[0; 1000]);
    }
    assert_eq!((rig.came.len(), rig.counters().held), (54, 0));
}

#[test]
fn a_gap_that_stays_is_waited_for_no_longer_than_allowed() {
    let mut rig = Rig::striped();
    for number in 5..10 {
        rig.data(1000 * u64::from(number), 0, number);
    }
    assert_eq!(rig.resequencer.due_us(), Some(5000 + RESEQUENCE_HOLD_MAX_US));
    rig.until(5000 + RESEQUENCE_HOLD_MAX_US);
    assert_eq!(rig.numbers()[4..], [5, 6, 7, 8, 9]);
    // sent anew: passes at once
    rig.data(60_000, 0, 4);
    assert_eq!(rig.numbers()[9..], [4]);
    assert_eq!((rig.counters().expired, rig.counters().late), (1, 0));
}

#[test]
fn a_gap_that_every_path_has_passed_is_given_up_at_once() {
    let mut rig = Rig::striped();
    rig.data(1000, 0, 5);
    rig.data(1010, 0, 6);
    assert_eq!(rig.came.len(), 4);
    rig.data(1020, 1, 7);
    assert_eq!(rig.numbers()[4..], [5, 6, 7]);
    assert_eq!((rig.counters().given_up, rig.counters().expired), (1, 0));
}

#[test]
fn waits_in_vain_are_not_repeated_until_something_was_late_again() {
    let mut rig = Rig::striped();
    rig.data(10_000, 0, 10);
    rig.until(60_000);
    assert_eq!(rig.counters().expired, 1);
    rig.data(100_000, 0, 12);
    assert_eq!((rig.numbers()[4..].to_vec(), rig.counters().held), (vec![10, 12], 1));
    rig.data(110_000, 1, 11); // late, not lost
    rig.data(110_000, 0, 14);
    rig.data(115_000, 1, 13);
    rig.data(115_000, 0, 16);
    assert_eq!((rig.counters().late, rig.counters().held), (2, 2));
}

#[test]
fn acknowledgements_syn_fin_and_rst_never_wait() {
    let mut rig = Rig::striped();
    rig.data(1000, 0, 6);
    let bare = |sequence, flags| Segment { flow: FLOW, sequence, len: 0, flags };
    rig.segment(1000, 0, 100, bare(9000, ACK), &[0; 60]);
    rig.segment(1000, 0, 101, Segment { flow: FLOW, sequence: 9000, len: 10, flags: ACK | 1 }, &[0; 60]);
    assert_eq!(rig.numbers()[4..], [100, 101]);
    // what waits goes before it
    rig.segment(1000, 0, 102, bare(9000, 4), &[0; 60]);
    assert_eq!(rig.numbers()[6..], [6, 102]);
    rig.segment(1001, 0, 103, bare(899_999, 2), &[0; 60]);
    rig.data(1002, 1, 900);
    assert_eq!(rig.numbers()[8..], [103, 900]);
}

#[test]
fn a_flow_that_jumps_begins_anew() {
    let mut rig = Rig::striped();
    rig.data(1000, 0, 6);
    rig.data(1000, 1, 3_000_000);
    rig.data(1000, 0, 3_000_001);
    assert_eq!(rig.numbers()[4..], [6, 3_000_000, 3_000_001]);
}

#[test]
fn what_came_while_the_peer_was_heard_over_one_path_is_not_missed() {
    let mut rig = Rig::striped();
    for number in 4..100 {
        rig.data(1_000_000 * u64::from(number), 0, number); // after a minute they pass by
    }
    rig.data(100_000_000, 1, 100);
    rig.data(100_000_001, 0, 101);
    assert_eq!((rig.came.len(), rig.counters().held), (102, 0));
}

#[test]
fn after_a_pause_a_flow_that_begins_on_the_slow_path_is_in_order_when_it_goes_on_over_the_fast_one() {
    let mut rig = Rig::striped();
    (4..10).for_each(|number| rig.data(30_000_000, 1, number));
    (20..30).for_each(|number| rig.data(30_005_000, 0, number));
    (10..20).for_each(|number| rig.data(30_010_000, 1, number));
    assert_eq!(rig.numbers(), (0..30).collect::<Vec<_>>());
}

#[test]
fn a_flow_of_which_the_fast_path_brings_the_middle_first_is_in_order_from_its_syn_on() {
    let begin = |rig: &mut Rig| {
        let syn = Segment { flow: FLOW, sequence: 999, len: 0, flags: 2 };
        rig.segment(1000, 0, 100, syn, &[7; 40]);
        (3..6).for_each(|number| rig.data(30_000, 0, number));
    };
    let mut rig = Rig::striped();
    begin(&mut rig);
    (1..3).for_each(|number| rig.data(50_000, 1, number));
    assert_eq!(rig.numbers()[4..], [100, 1, 2, 3, 4, 5]);
    // What was lost is waited for once.
    let mut rig = Rig::striped();
    begin(&mut rig);
    rig.until(30_000 + RESEQUENCE_HOLD_MAX_US);
    assert_eq!(rig.numbers()[4..], [100, 3, 4, 5]);
    rig.data(80_000, 0, 7);
    assert_eq!(rig.numbers()[8..], [7], "nothing came over another path");
}

#[test]
fn a_flow_has_so_many_segments_at_most_and_all_come_out_when_there_are_more() {
    let mut rig = Rig::striped();
    for number in 5..6 + RESEQUENCE_SEGMENTS_MAX as u32 {
        rig.data(1000, 0, number);
    }
    assert_eq!(rig.counters().overflowed, 1);
    assert_eq!(rig.numbers()[4..], (5..6 + RESEQUENCE_SEGMENTS_MAX as u32).collect::<Vec<_>>());
}

#[test]
fn memory_is_bounded_over_all_flows_and_given_back() {
    let (mut resequencer, mut source) = (Resequencer::new(3), Source::new(0, 0));
    let mut came = 0;
    let mut now = 0;
    for n in 0..20_000u32 {
        now = u64::from(n);
        source.heard(now, n as u8 % 2);
        // every flow: a segment by either path, then two behind a gap
        let (flow, step) = (n / 4, n % 4);
        let sequence = [0, 1000, 5000, 6000][step as usize];
        let segment =
            Segment { flow: u64::from(flow).wrapping_mul(0x9e37_79b9_7f4a_7c15), sequence, len: 1000, flags: ACK };
        let path = if step == 1 { 1 } else { 0 };
        resequencer.segment(now, &mut source, path, &segment, 0, &[0; 9000], &mut |_, _| came += 1);
        assert!(resequencer.bytes() <= RESEQUENCE_BYTES_MAX);
    }
    assert!(resequencer.counters().evicted > 0 && resequencer.counters().overflowed > 0);
    resequencer.expire(now + RESEQUENCE_HOLD_MAX_US, &mut |_, _| came += 1);
    assert_eq!((came, resequencer.len()), (20_000, 0));
    resequencer.expire(now + RESEQUENCE_IDLE_US + 1, &mut |_, _| came += 1);
    assert_eq!(resequencer.bytes(), 0);
}

#[test]
fn room_that_was_full_once_is_used_again_when_it_is_empty() {
    let (mut resequencer, mut source) = (Resequencer::new(3), Source::new(0, 0));
    // As many small segments as may wait, then large ones: each of a flow goes by either path, the rest waits behind a gap.
    for (round, frame) in [(0, 400), (1, 400), (2, 4000)] {
        let now = 1_000_000 + round * RESEQUENCE_HOLD_MAX_US * 2;
        let (flows, each) = ((RESEQUENCE_HELD_MAX / 128) as u64, if frame > 400 { 8 } else { 128u32 });
        let held = resequencer.counters().held;
        for flow in 0..flows {
            for number in 0..each + 2 {
                let sequence = if number < 2 { number * 1000 } else { 1000 + number * 1000 };
                let path = number as u8 % 2;
                source.heard(now, path);
                let flow = (flow + round * flows).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let segment = Segment { flow, sequence, len: 1000, flags: ACK };
                let path = if number == 1 { 1 } else { 0 };
                resequencer.segment(now, &mut source, path, &segment, 0, &vec![0; frame], &mut |_, _| ());
                assert!(resequencer.bytes() <= RESEQUENCE_BYTES_MAX);
            }
        }
        let waited = resequencer.counters().held - held;
        assert_eq!((waited, resequencer.len()), (flows * u64::from(each), flows as usize * each as usize), "{round}");
        resequencer.expire(now + RESEQUENCE_HOLD_MAX_US, &mut |_, _| ());
        assert_eq!((resequencer.len(), resequencer.counters().overflowed), (0, 0), "{round}");
    }
}

#[test]
fn frames_that_the_sender_numbered_are_put_in_order_around_the_corner() {
    let (mut resequencer, mut source) = (Resequencer::new(3), Source::new(0, 0u8));
    let mut came = Vec::new();
    let first = u32::MAX - 2;
    for (n, path) in [(0u32, 0u8), (1, 1), (4, 0), (5, 0), (2, 1), (3, 1), (6, 0)] {
        let path = source.heard(10, path).unwrap_or(0);
        let counter = first.wrapping_add(n);
        resequencer.marked(10, &mut source, path, (5, counter), n.into(), &[1], &mut |tag, _| came.push(tag));
    }
    assert_eq!(came, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_segment_is_read_by_what_its_ip_header_says() {
    let resequencer = Resequencer::new(1);
    let frame = |len: u8, fragment: u8, flags: u8| {
        let mut packet = vec![0x45, 0, 0, len, 0, 1, fragment, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0, 80, 1, 2, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        packet.resize(60, 9); // padding included
        packet
    };
    let read = resequencer.read(1, IPV4, &frame(45, 0x40, ACK)).unwrap();
    assert_eq!((read.sequence, read.len, read.flags), (u32::MAX - 1, 5, ACK));
    assert_eq!(resequencer.read(1, IPV4, &frame(40, 0, ACK)).unwrap().len, 0);
    assert_ne!(resequencer.read(2, IPV4, &frame(40, 0, ACK)).unwrap().flow, read.flow);
    assert_eq!(resequencer.read(1, IPV4, &frame(39, 0, ACK)), None);
    assert_eq!(resequencer.read(1, IPV4, &frame(45, 0x20, ACK)), None);
    let tagged = |vlan: u8| [&[0, vlan, 8, 0][..], &frame(45, 0, ACK)].concat();
    let [one, other] = [3, 4].map(|vlan| resequencer.read(1, 0x8100, &tagged(vlan)).unwrap());
    assert_eq!((one.sequence, one.len), (read.sequence, read.len));
    assert!(one.flow != other.flow && one.flow != read.flow, "the same connection, elsewhere");
    let mut odd = frame(45, 0, ACK);
    odd[32] = 0xf0; // a header longer than the segment
    assert_eq!(resequencer.read(1, IPV4, &odd), None);
}

/// What arrives: when, by which path, which segment.
#[derive(Clone, Debug)]
struct Traffic {
    arrivals: Vec<(u64, u8, u32)>,
    lost: bool,
}

/// Segments over two paths, each in order in itself, of different delay and with jitter.
fn traffic(segments: std::ops::Range<usize>, losses: bool) -> impl Strategy<Value = Traffic> {
    let one = (0..300u64, any::<bool>(), 0..3000u64, 0..100u32);
    let loss = if losses { 0..20u32 } else { 0..1 };
    (prop::collection::vec(one, segments), 0..25_000u64, loss, 1..80usize).prop_map(
        move |(all, difference, loss, run)| {
            let (mut now, mut free) = (0, [0u64; 2]);
            let mut arrivals = Vec::new();
            for (n, (after, random, jitter, fate)) in all.into_iter().enumerate() {
                now += after;
                // runs, or by chance
                let path = if run > 40 { n % 2 == 0 } else { (n / run) % 2 == 0 } ^ (random && run > 60);
                let path = usize::from(path);
                let at = (now + jitter + difference * path as u64).max(free[path] + 1);
                free[path] = at;
                if fate >= loss {
                    arrivals.push((at, path as u8, n as u32));
                    if losses && fate == 99 {
                        arrivals.push((at + 500, path as u8, n as u32)); // twice
                    }
                }
            }
            arrivals.sort();
            Traffic { arrivals, lost: loss > 0 }
        },
    )
}

/// All that arrived at a flow that both paths carry already: number and time.
fn run(traffic: &Traffic, first: u32) -> (Rig, Vec<(u32, u64)>) {
    let (mut rig, mut arrived) = (Rig::new(), Vec::new());
    for number in 0..4 {
        arrived.push((number, u64::from(number)));
        rig.data_from(u64::from(number), number as u8 % 2, number, first);
    }
    for (at, path, number) in &traffic.arrivals {
        arrived.push((number + 4, at + 100));
        rig.data_from(at + 100, *path, number + 4, first);
    }
    rig.until(u64::MAX);
    (rig, arrived)
}

proptest! {
    #[test]
    fn everything_comes_out_once_and_nothing_waits_too_long(traffic in traffic(1..2000, true), first: u32) {
        let (rig, mut arrived) = run(&traffic, first);
        let mut left = rig.came.clone();
        arrived.sort();
        left.sort();
        prop_assert_eq!(arrived.len(), left.len());
        for (arrived, left) in arrived.iter().zip(&left) {
            prop_assert_eq!(arrived.0, left.0);
            prop_assert!(left.1 >= arrived.1 && left.1 - arrived.1 <= RESEQUENCE_HOLD_MAX_US);
        }
        prop_assert!(rig.resequencer.is_empty());
        prop_assert!(traffic.lost || rig.counters().given_up == 0);
    }

    /// Before it has learned how long to wait it waits as long as it may.
    #[test]
    fn without_losses_all_is_in_order(traffic in traffic(1..250, false), first: u32) {
        let (rig, _) = run(&traffic, first);
        prop_assert!(rig.numbers().is_sorted(), "{:?}", rig.numbers());
    }
}
