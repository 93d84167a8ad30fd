//! What is sent again when a path fails: all that nobody acknowledged, the oldest first, and nothing else.

use std::collections::VecDeque;

use bond::PathId;
use bond::inner::{IPV4, IPV6};
use bond::limits::{RECALL_AGE_MAX_US, RECALL_BYTES_MAX, RECALL_IDLE_US, RECALL_PACKETS_MAX};
use bond::recall::{Recall, bears_repetition};
use proptest::prelude::*;

const A: PathId = PathId { slot: 0, generation: 1 };
const B: PathId = PathId { slot: 1, generation: 2 };
const RTO: u64 = 60_000;

fn all(recall: &mut Recall, now: u64, on: PathId) -> Vec<u8> {
    std::iter::from_fn(|| recall.next_lost(now, on).map(|kept| kept.packet[0])).collect()
}

#[test]
fn what_is_not_covered_is_sent_again_oldest_first_and_once() {
    let mut recall = Recall::new();
    for n in 0..10u8 {
        let path = if n % 2 == 0 { A } else { B };
        recall.keep(1000 * u64::from(n), path, &[n; 100], 1432, true);
    }
    recall.covered(A, 4000); // 0 and 2 left before
    recall.lost(10_000, A);
    assert_eq!(all(&mut recall, 10_000, B), [4, 6, 8]);
    assert_eq!(all(&mut recall, 10_000, B), []);
    // they are on B now
    recall.covered(B, 7001);
    recall.lost(11_000, B);
    assert_eq!(all(&mut recall, 11_000, A), [4, 6, 8, 9]);
}

#[test]
fn a_path_that_was_lost_and_works_again_keeps_what_left_after() {
    let mut recall = Recall::new();
    recall.keep(1000, A, &[1], 1432, true);
    recall.lost(2000, A);
    recall.keep(3000, A, &[2], 1432, true);
    assert_eq!(all(&mut recall, 3000, B), [1]);
}

#[test]
fn a_path_in_the_slot_of_one_that_is_gone_is_another_path() {
    let mut recall = Recall::new();
    let next = PathId { slot: 0, generation: 3 };
    recall.keep(1000, A, &[1], 1432, true);
    recall.keep(1000, next, &[2], 1432, true);
    recall.covered(next, 5000);
    recall.lost(6000, A);
    assert_eq!(all(&mut recall, 6000, B), [1]);
}

#[test]
fn packets_live_for_two_rto_unless_they_wait_to_be_sent_again() {
    let mut recall = Recall::new();
    recall.keep(0, A, &[1], 1432, true);
    recall.keep(0, A, &[2], 1432, true);
    recall.expire(2 * RTO, RTO);
    assert_eq!(recall.len(), 2);
    recall.lost(2 * RTO, A);
    recall.expire(3 * RTO, RTO);
    assert_eq!(recall.next_lost(3 * RTO, B).unwrap().packet, [1]);
    recall.expire(RECALL_AGE_MAX_US + 1, RTO);
    assert_eq!(recall.next_lost(RECALL_AGE_MAX_US + 1, B), None);
    assert!(recall.is_empty());
}

#[test]
fn what_does_not_bear_repetition_is_kept_only_for_who_drops_repetitions() {
    let mut recall = Recall::new();
    recall.keep(0, A, &[1], 1432, false);
    assert_eq!((recall.len(), recall.counters().refused, recall.memory()), (0, 1, 0));
    recall.keep_all(true);
    recall.keep(0, A, &[1], 1432, false);
    assert_eq!(recall.len(), 1);
}

#[test]
fn too_much_pushes_out_the_oldest() {
    let mut recall = Recall::new();
    for _ in 0..RECALL_PACKETS_MAX + 1 {
        recall.keep(0, A, &[0; 100], 1432, true);
    }
    assert_eq!((recall.len(), recall.counters().evicted), (RECALL_PACKETS_MAX, 1));
    for n in 0..8000 {
        recall.keep(1, A, &[(n % 251) as u8; 1400], 1432, true);
        assert!(recall.memory() <= RECALL_BYTES_MAX);
    }
    assert!(recall.len() * 1400 > RECALL_BYTES_MAX * 9 / 10);
    recall.lost(1, A);
    let again = all(&mut recall, 1, B);
    assert_eq!(*again.last().unwrap(), (7999 % 251) as u8);
}

#[test]
fn an_idle_bond_holds_no_memory() {
    let mut recall = Recall::new();
    for n in 0..1000 {
        recall.keep(n, A, &[0; 1400], 1432, true);
    }
    assert!(recall.memory() > 1_000_000);
    for tick in 0..100 {
        recall.expire(tick * RECALL_IDLE_US / 20, RTO);
    }
    assert_eq!((recall.memory(), recall.len()), (0, 0));
}

#[test]
fn what_bears_repetition() {
    let v4 = |protocol: u8, fragment: u16, rest: &[u8]| {
        let [f0, f1] = fragment.to_be_bytes();
        [&[0x45, 0, 0, 20 + rest.len() as u8, 0, 1, f0, f1, 64, protocol, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], rest].concat()
    };
    let v6 = |next: u8, rest: &[u8]| [&[0x60, 0, 0, 0, 0, rest.len() as u8, next, 9], &[1; 32][..], rest].concat();
    let (quic, dns) = ([0xc0, 0, 1, 187, 0, 8, 0, 0], [0xc0, 0, 0, 53, 0, 8, 0, 0]);
    for (bears, ethertype, packet) in [
        (true, IPV4, v4(6, 0, &[0; 20])),
        (true, IPV4, v4(6, 0x2000, &[0; 20])),
        (false, IPV4, v4(6, 0x2001, &[0; 20])),
        (true, IPV4, v4(132, 0, &[0; 20])),
        (true, IPV4, v4(17, 0, &quic)),
        (false, IPV4, v4(17, 0, &dns)),
        (false, IPV4, v4(17, 0x0010, &quic)),
        (true, IPV4, v4(1, 0, &[8, 0, 0, 0])),
        (true, IPV4, v4(1, 0, &[0, 0, 0, 0])),
        (false, IPV4, v4(1, 0, &[5, 0, 0, 0])),
        (false, IPV4, v4(1, 0, &[])),
        (false, IPV4, v4(58, 0, &[128])),
        (false, IPV4, v4(50, 0, &[0; 20])),
        (true, IPV6, v6(6, &[0; 20])),
        (true, IPV6, v6(0, &[&[17, 0, 0, 0, 0, 0, 0, 0][..], &quic].concat())),
        (true, IPV6, v6(58, &[129, 0])),
        (false, IPV6, v6(58, &[135, 0])),
        (false, 0x0806, vec![0; 28]),
        (true, 0x8100, [&[0, 7, 8, 0][..], &v4(6, 0, &[0; 20])].concat()),
        (true, 0x88a8, [&[0, 7, 0x81, 0, 0, 8, 0x86, 0xdd][..], &v6(6, &[0; 20])].concat()),
        (false, 0x8100, vec![0, 7, 8]),
    ] {
        assert_eq!(bears_repetition(ethertype, &packet), bears, "{packet:?}");
        // its headers alone tell the same
        assert_eq!(bears_repetition(ethertype, &packet[..packet.len().min(60)]), bears, "{packet:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Keep(u8, u16),
    Covered(u8, u64),
    Lost(u8),
    Again(u8, usize),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 1..3000u16).prop_map(|(path, len)| Step::Keep(path, len)),
        2 => (0..3u8, 0..100_000u64).prop_map(|(path, ago)| Step::Covered(path, ago)),
        1 => (0..3u8).prop_map(Step::Lost),
        2 => (0..3u8, 0..20usize).prop_map(|(path, packets)| Step::Again(path, packets)),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    /// Against a list that is searched.
    #[test]
    fn it_does_what_a_plain_list_does(steps in prop::collection::vec((step(), 0..30_000u64), 0..300)) {
        struct Plain {
            path: usize,
            sent: u64,
            tag: u32,
            len: usize,
        }
        let path = |slot: u8| PathId { slot, generation: 7 };
        let (mut recall, mut list) = (Recall::new(), VecDeque::<Plain>::new());
        let (mut now, mut tag, mut passed) = (0u64, 0u32, 0u32);
        let (mut covered, mut lost) = ([0u64; 3], [None; 3]);
        for (step, after) in steps {
            now += after;
            let is_lost = |kept: &Plain, covered: &[u64], lost: &[Option<u64>]| {
                lost[kept.path].is_some_and(|lost| kept.sent <= lost)
                    && kept.sent >= covered[kept.path]
                    && now - kept.sent <= RECALL_AGE_MAX_US
            };
            match step {
                Step::Keep(p, len) => {
                    tag += 1;
                    let mut packet = vec![0; usize::from(len) + 4];
                    packet[..4].copy_from_slice(&tag.to_be_bytes());
                    recall.keep(now, path(p), &packet, 1432, true);
                    list.push_back(Plain { path: p.into(), sent: now, tag, len: packet.len() });
                }
                Step::Covered(p, ago) => {
                    let sent = now.saturating_sub(ago);
                    recall.covered(path(p), sent);
                    covered[usize::from(p)] = covered[usize::from(p)].max(sent);
                }
                Step::Lost(p) => {
                    recall.lost(now, path(p));
                    (lost[usize::from(p)], passed) = (Some(now), 0);
                }
                Step::Again(on, packets) => {
                    for _ in 0..packets {
                        let to = usize::from(on);
                        let mut waiting = list.iter_mut().filter(|kept| kept.tag > passed && kept.path != to);
                        let expected = waiting.find(|kept| is_lost(kept, &covered, &lost));
                        let kept = recall.next_lost(now, path(on));
                        prop_assert_eq!(kept.is_some(), expected.is_some());
                        passed = expected.as_ref().map_or(tag, |kept| kept.tag);
                        if let (Some(kept), Some(expected)) = (kept, expected) {
                            prop_assert_eq!(&kept.packet[..4], &expected.tag.to_be_bytes());
                            prop_assert_eq!(kept.packet.len(), expected.len);
                            (expected.path, expected.sent) = (to, now);
                        }
                    }
                }
                Step::Expire => {
                    recall.expire(now, RTO);
                    while let Some(kept) = list.front() {
                        let done = now - kept.sent > 2 * RTO || kept.sent < covered[kept.path];
                        if !done || (kept.tag > passed && is_lost(kept, &covered, &lost)) {
                            break;
                        }
                        list.pop_front();
                    }
                    prop_assert_eq!(recall.len(), list.len());
                }
            }
        }
    }
}
