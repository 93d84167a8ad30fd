//! Timing reports to peers that bond: who gets them, when, over which path and what they say; and what comes of theirs, good
//! and bad: nothing.
#![allow(clippy::unwrap_used)]

mod common;

use bond::compat::eligibility::{Ages, Rules, Verdict, judge};
use bond::compat::qos::{Table, records};
use bond::config::{Bonding, Family, IpPreference, Mode, Policy, PolicySettings, Settings as Written};
use bond::limits::{GATE_COUNT, LATENCY_MAX_US, QOS_RECORDS_OURS};
use common::*;
use node::limits::*;
use node::{Arrival, LocalSocketId, Output, PlanChange, Port, Settings, Socket};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;
use wire::message::qos::{QOS_MAX, QOS_MIN, QOS_RECORDS, QosMeasurement, QosRecord};
use wire::{Address, Packet, Suite, Verb};

/// Our socket and the peer's endpoint.
type Way = (u64, &'static str);

const WAYS: [Way; 2] = [(5, "44.9.9.9:9993"), (6, "44.8.8.8:9993")];

/// A leaf on the open network and a peer on it with two paths.
fn two_paths() -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    for (socket, remote) in WAYS {
        b.befriend(p, socket, remote);
        b.answer(p, remote, 10);
    }
    b.receive_frame(p, 5, WAYS[0].1, 0);
    b.advance(1000);
    b.take();
    assert!(WAYS.iter().all(|&(socket, remote)| b.paths(p).contains(&(socket, addr(remote)))));
    (b, p)
}

/// A report of the peer's, as V1 sends it: in clear.
fn reports(b: &mut Bench, p: Address, way: Way, payload: &[u8]) {
    let datagram = b.packet(p, Verb::QosMeasurement, payload, Suite::Poly1305, 0);
    b.deliver(way.0, way.1, datagram);
}

/// The peer sends packets of this kind until one has an odd ID.
fn odd(b: &mut Bench, p: Address, (socket, remote): Way, verb: Verb, payload: &[u8], hops: u8) -> u64 {
    loop {
        let datagram = b.packet(p, verb, payload, Suite::AesGmacSiv, hops);
        let id = Packet::new(&datagram[..]).unwrap().id();
        if id % 2 == 1 {
            b.deliver(socket, remote, datagram);
            return id;
        }
    }
}

/// A report of ours: when, over which socket, to where, and its records.
type Told = (u64, Option<u64>, String, Vec<(u64, u16)>);

/// The reports among what was sent, without the record that says of each that it is an answer.
fn told(sent: &[Sent]) -> Vec<Told> {
    let of = |s: &Sent| {
        const ANSWER: u64 = u64::from_be_bytes(*b"hawser.\0");
        let mut all: Vec<_> = records(&s.payload).unwrap().map(|r| (r.packet_id, r.holding_ms)).collect();
        let before = all.len();
        all.retain(|r| *r != (ANSWER, 0));
        assert_eq!(before - all.len(), 1, "we report because the peer does");
        all
    };
    only(sent, Verb::QosMeasurement).iter().map(|s| (s.at_ms, s.socket, s.remote.to_string(), of(s))).collect()
}

/// What the shards were told last of the peer, if anything new.
fn plan_says(b: &mut Bench, p: Address) -> Option<bool> {
    b.drain();
    b.others.drain(..).rev().find_map(|o| match o {
        Output::Plan(PlanChange::Peer { address, bonded, .. }) if address == p => Some(bonded),
        _ => None,
    })
}

const RECORD: [u8; QosRecord::LEN] = [7; QosRecord::LEN];

#[test]
fn a_peer_that_sends_no_report_gets_none_however_busy_it_is_on_however_many_paths() {
    let (mut b, p) = two_paths();
    let mut sent = Vec::new();
    for n in 0..6000 {
        let (socket, remote) = WAYS[n % 2];
        b.receive_frame(p, socket, remote, 0);
        b.receive(p, socket, remote, Verb::Echo, &[]);
        b.send_frame(p);
        b.advance(100);
        sent.extend(b.take_to(p));
    }
    assert!(sent.len() > 6000 && told(&sent).is_empty());
    assert_eq!((b.node.gauges().bonded_peers, b.node.counters().qos_sent), (0, 0));
    assert_eq!(plan_says(&mut b, p), Some(false));
}

#[test]
fn a_peer_that_bonds_is_told_of_the_first_packet_of_a_path_at_once_over_that_path() {
    let (mut b, p) = two_paths();
    plan_says(&mut b, p);
    reports(&mut b, p, WAYS[0], &RECORD);
    assert!(b.take().is_empty(), "nothing to report yet, and no reply");
    assert_eq!(plan_says(&mut b, p), Some(true));
    for (socket, remote) in [WAYS[1], WAYS[0]] {
        let id = odd(&mut b, p, (socket, remote), Verb::Frame, &frame_payload(), 0);
        let sent = b.take();
        assert_eq!(told(&sent), [(b.ms(), Some(socket), remote.to_owned(), vec![(id, 0)])]);
        assert_eq!((sent[0].suite, sent[0].len, sent[0].hops), (Some(Suite::AesGmacSiv), 48, 0));
    }
    assert_eq!((b.node.gauges().bonded_peers, b.node.gauges().reported_paths), (1, 2));
}

#[test]
fn then_of_the_newest_hundred_odd_packets_each_second_while_there_are_any() {
    let (mut b, p) = two_paths();
    b.silence(p);
    b.advance(100);
    reports(&mut b, p, WAYS[0], &RECORD);
    odd(&mut b, p, WAYS[0], Verb::Frame, &frame_payload(), 0);
    let first = b.ms();
    b.take();
    let (mut came, mut sent) = (Vec::new(), Vec::new());
    for _ in 0..2400 {
        let id = b.receive(p, WAYS[0].0, WAYS[0].1, Verb::Frame, &frame_payload());
        came.push((id, b.ms()));
        sent.extend(b.take_to(p));
        b.advance(2);
    }
    let told = told(&sent);
    assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2, 3, 4].map(|n| first + n * 1000));
    for (at, _, remote, records) in told {
        let newest = came.iter().rev().filter(|(id, ms)| id % 2 == 1 && *ms <= at);
        let held = |&(id, ms): &(u64, u64)| (id, (at - ms) as u16);
        let mut newest: Vec<_> = newest.take(QOS_RECORDS_OURS).map(held).collect();
        newest.sort_unstable();
        // One that came in the same millisecond may not have been there yet.
        assert_eq!(records.len(), QOS_RECORDS_OURS);
        let differs = records.iter().filter(|r| !newest.contains(r)).count();
        assert!(differs <= 1 && remote == WAYS[0].1, "{records:?} and {newest:?}");
        assert!(records.is_sorted());
    }
    assert!(b.node.counters().qos_unreported > 500);
    // What is left goes a second after the last; then there is silence.
    b.take();
    b.advance(10_000);
    let rest: Vec<u64> = only(&b.take_to(p), Verb::QosMeasurement).iter().map(|s| s.at_ms).collect();
    assert_eq!(rest, [first + 5000]);
}

#[test]
fn what_is_reported_is_what_counts_as_received() {
    let (mut b, p) = two_paths();
    reports(&mut b, p, WAYS[0], &RECORD);
    let mut is_told = |verb: Verb, payload: &[u8], hops| {
        b.advance(2000);
        b.take();
        let id = odd(&mut b, p, WAYS[0], verb, payload, hops);
        b.advance(2000);
        told(&b.take_to(p)).iter().any(|(.., records)| records.iter().any(|r| r.0 == id))
    };
    for (verb, payload) in [
        (Verb::Nop, &[][..]),
        (Verb::Echo, &[]),
        (Verb::Frame, &frame_payload()),
        (Verb::UserMessage, &[0; 9]),
        (Verb::RemoteTrace, b"t=1\0"),
    ] {
        assert!(is_told(verb, payload, 0), "{verb}");
        assert!(!is_told(verb, payload, 1), "{verb}, relayed");
    }
    let unexpected = ok_payload(Verb::Echo, 77, &[]);
    for (verb, payload) in [
        (Verb::Ack, &[0; 4][..]),
        (Verb::QosMeasurement, &RECORD),
        (Verb::PathNegotiationRequest, &[0; 2]),
        (Verb::Ok, &unexpected),
        (Verb::Frame, &[1]),
    ] {
        assert!(!is_told(verb, payload, 0), "{verb}");
    }
    // The second ECHO within 166 ms is not answered, the second copy of a frame is not delivered.
    b.advance(2000);
    b.take();
    odd(&mut b, p, WAYS[0], Verb::Echo, &[], 0);
    odd(&mut b, p, WAYS[0], Verb::Echo, &[], 0);
    let frame = b.packet(p, Verb::Frame, &frame_payload(), Suite::AesGmacSiv, 0);
    (0..2).for_each(|_| b.deliver(WAYS[1].0, WAYS[1].1, frame.clone()));
    b.advance(2000);
    let odd_frame = u64::from_be_bytes(frame[..8].try_into().unwrap()) % 2;
    let count: usize = told(&b.take_to(p)).iter().map(|(.., records)| records.len()).sum();
    assert_eq!(count as u64, 1 + odd_frame);
    // A HELLO and a verb that nobody has assigned do count.
    b.advance(2000);
    b.take();
    let mut hellos = 0;
    while hellos == 0 {
        b.receive_hello(p, WAYS[0].0, WAYS[0].1);
        b.advance(2000);
        hellos = told(&b.take_to(p)).len();
    }
}

#[test]
fn a_path_that_the_peer_never_proved_gets_no_report() {
    let (mut b, p) = two_paths();
    reports(&mut b, p, WAYS[0], &RECORD);
    for _ in 0..20 {
        odd(&mut b, p, (5, "44.66.66.66:1"), Verb::Frame, &frame_payload(), 0);
        b.advance(500);
    }
    let sent = b.take_to(p);
    assert!(only(&sent, Verb::QosMeasurement).iter().all(|s| s.remote != addr("44.66.66.66:1")));
    assert!(only(&sent, Verb::Hello).iter().any(|s| s.remote == addr("44.66.66.66:1")), "it is asked to prove it");
}

#[test]
fn a_bond_that_sends_to_a_port_of_ours_that_we_have_no_path_from_is_reported_to_from_there() {
    let (mut b, p) = two_paths();
    let (id, local) = (LocalSocketId(15), addr("172.16.5.1:40001"));
    b.node.add_socket(b.now, Socket { id, local, link: "link5".into(), port: Port::Secondary });
    let here = (15, WAYS[0].1);
    reports(&mut b, p, here, &RECORD);
    for _ in 0..20 {
        odd(&mut b, p, here, Verb::Frame, &frame_payload(), 0);
        b.advance(500);
    }
    assert!(!b.paths(p).contains(&(15, addr(here.1))));
    let told = told(&b.take_to(p));
    assert!(told.iter().filter(|(_, socket, ..)| *socket == Some(15)).count() >= 9, "{told:?}");
}

#[test]
fn a_path_whose_socket_is_gone_gets_no_report_and_is_forgotten() {
    let (mut b, p) = two_paths();
    b.silence(p);
    b.advance(100);
    reports(&mut b, p, WAYS[0], &RECORD);
    odd(&mut b, p, WAYS[1], Verb::Frame, &frame_payload(), 0);
    odd(&mut b, p, WAYS[1], Verb::Frame, &frame_payload(), 0);
    assert_eq!(b.node.gauges().reported_paths, 1);
    b.node.remove_socket(b.now, LocalSocketId(WAYS[1].0));
    b.take();
    b.advance(HOUSEKEEPING_MS);
    assert!(told(&b.take_to(p)).is_empty());
    assert_eq!((b.node.gauges().bonded_peers, b.node.gauges().reported_paths), (1, 0));
}

#[test]
fn what_shards_received_is_reported_with_its_age_over_the_lane_it_came_by() {
    let (mut b, p) = two_paths();
    b.node.add_lane(LocalSocketId(5), 1, LocalSocketId(1005));
    let came = |socket, packet_id, age_ms: u64| Arrival {
        peer: p,
        socket: LocalSocketId(socket),
        remote: addr(WAYS[0].1),
        packet_id,
        age_us: age_ms * 1000,
    };
    let all = [came(5, 11, 70), came(1005, 13, 90), came(5, 14, 1), came(77, 15, 1)];
    b.node.handle_arrivals(b.now, &all);
    assert!(b.take().is_empty(), "it does not bond yet");
    reports(&mut b, p, WAYS[0], &RECORD);
    b.node.handle_arrivals(b.now, &all);
    let told: Vec<_> = told(&b.take()).into_iter().map(|(_, socket, _, records)| (socket, records)).collect();
    assert_eq!(told, [(Some(5), vec![(11, 70)]), (Some(1005), vec![(13, 90)])]);
}

#[test]
fn a_peer_that_sent_no_report_for_ten_minutes_gets_none_any_more_until_its_next() {
    let (mut b, p) = two_paths();
    reports(&mut b, p, WAYS[0], &RECORD);
    let mut last_told = 0;
    for _ in 0..QOS_LIFE_MS / 1000 + 60 {
        odd(&mut b, p, WAYS[0], Verb::Frame, &frame_payload(), 0);
        b.advance(1000);
        last_told = told(&b.take_to(p)).last().map_or(last_told, |t| t.0);
    }
    let silent_ms = b.ms() - last_told;
    assert!((29_000..61_000).contains(&silent_ms), "{silent_ms}");
    assert_eq!((plan_says(&mut b, p), b.node.gauges().bonded_peers), (Some(false), 0));
    reports(&mut b, p, WAYS[0], &RECORD);
    odd(&mut b, p, WAYS[0], Verb::Frame, &frame_payload(), 0);
    assert_eq!(told(&b.take_to(p)).len(), 1);
}

/// One path as a stock peer with a balance-xor bond sees it.
struct Stock {
    way: Way,
    sent: Table,
    heard_ms: u64,
    qos_ms: Option<u64>,
    reported_ms: u64,
    to_report: Vec<QosRecord>,
    samples: Vec<u16>,
}

impl Stock {
    /// 20 ms pass on the way here.
    fn takes(&mut self, s: &Sent, now_ms: u64) {
        self.heard_ms = now_ms;
        if s.verb == Some(Verb::QosMeasurement) {
            self.qos_ms = Some(now_ms);
            let samples = &mut self.samples;
            self.sent.samples(now_ms + 20, records(&s.payload).unwrap(), |sample| samples.push(sample));
        } else if s.id % 2 == 1 {
            self.to_report.push(QosRecord { packet_id: s.id, holding_ms: 0 });
        }
    }

    fn eligible(&self, now_ms: u64, start_ms: u64) -> bool {
        let rules =
            Rules { policy: Policy::BalanceXor, leaf: true, failover_interval: 5000, up_delay: 0, down_delay: 0 };
        let ages = Ages {
            heard: now_ms - self.heard_ms,
            nominated: now_ms - start_ms,
            revived: None,
            qos: self.qos_ms.map(|at| now_ms - at),
            eligible: 0,
        };
        judge(rules, ages, IpPreference(0), Family::V4) == Verdict::Kept { alive: true, eligible: true }
    }
}

/// Half an hour of a stock peer that bonds; `frames` per second each way. Bytes of reports per second and path.
fn half_an_hour(frames: u64) -> f64 {
    const TICK_MS: u64 = 500;
    let (mut b, p) = two_paths();
    let start_ms = b.ms();
    let mut paths = WAYS.map(|way| Stock {
        way,
        sent: Table::default(),
        heard_ms: start_ms,
        qos_ms: None,
        reported_ms: start_ms,
        to_report: Vec::new(),
        samples: Vec::new(),
    });
    let mut bytes = 0;
    while b.ms() < start_ms + 1_800_000 {
        for path in &mut paths {
            let (socket, remote) = path.way;
            let now_ms = b.ms();
            path.sent.expire(now_ms, 30_000);
            if now_ms - path.heard_ms >= 1666 {
                b.receive(p, socket, remote, Verb::Echo, &[]);
            }
            if now_ms - path.reported_ms >= 10_000 && !path.to_report.is_empty() {
                let mut payload = Vec::new();
                path.to_report.truncate(QOS_RECORDS);
                QosMeasurement { records: std::mem::take(&mut path.to_report) }.write(&mut payload);
                reports(&mut b, p, path.way, &payload);
                path.reported_ms = now_ms;
            }
            for _ in 0..frames * TICK_MS / 1000 {
                let id = b.receive(p, socket, remote, Verb::Frame, &frame_payload());
                path.sent.insert(id, b.ms());
            }
        }
        (0..frames * TICK_MS / 1000).for_each(|_| b.send_frame(p));
        b.advance(TICK_MS);
        for s in b.take_to(p) {
            bytes += if s.verb == Some(Verb::QosMeasurement) { s.len } else { 0 };
            let path = paths.iter_mut().find(|path| Some(path.way.0) == s.socket && addr(path.way.1) == s.remote);
            if let Some(path) = path {
                path.takes(&s, start_ms.max(s.at_ms));
            }
        }
        for path in &paths {
            assert!(path.eligible(b.ms(), start_ms), "{} after {} ms", path.way.1, b.ms() - start_ms);
        }
    }
    for path in &paths {
        assert!(path.samples.iter().all(|&half| half == 10), "{:?}", path.samples);
        assert_eq!(path.samples.len() > 1000, frames > 0);
    }
    bytes as f64 / 1800.0 / 2.0
}

#[test]
fn a_stock_bond_towards_us_stays_whole_for_half_an_hour_when_idle_at_little_cost() {
    let rate = half_an_hour(0);
    assert!(rate < 50.0, "{rate} bytes/s");
}

#[test]
fn a_stock_bond_towards_us_stays_whole_for_half_an_hour_when_busy_and_measures_the_way() {
    half_an_hour(20);
}

/// All that could have been learned from a packet of the peer's.
fn known(b: &Bench, p: Address) -> String {
    format!("{:?}", b.node.peers(b.now).into_iter().find(|peer| peer.address == p))
}

#[test]
fn reports_of_any_length_and_content_teach_nothing_and_get_no_reply() {
    let (mut b, p) = two_paths();
    let before = known(&b, p);
    for len in 0..=1500 {
        let payload: Vec<u8> = (0..len).map(|at| (at * 31 + len) as u8).collect();
        let (way, count) = (WAYS[len % 2], b.node.counters());
        reports(&mut b, p, way, &payload);
        let now = b.node.counters();
        let heeded = now.qos_received + now.qos_gated - count.qos_received - count.qos_gated;
        let accepted = (QOS_MIN..=QOS_MAX).contains(&len);
        assert_eq!((heeded == 1, now.dropped_malformed > count.dropped_malformed), (accepted, !accepted), "{len}");
    }
    assert!(b.take().is_empty());
    assert_eq!(known(&b, p), before);
}

#[test]
fn lengths_are_taken_and_refused_as_by_the_reference() {
    for (name, file) in vectors::family("bonding-qos") {
        let cases = file["payload_size"].as_array().map_or(&[][..], Vec::as_slice);
        for case in cases {
            let (mut b, p) = two_paths();
            reports(&mut b, p, WAYS[0], &vec![0; case["payload_len"].as_u64().unwrap() as usize]);
            assert_eq!(Value::from(b.node.counters().qos_received == 1), case["accepted"], "{name}: {case}");
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn floods_copies_and_reports_out_of_place_are_counted_and_change_nothing() {
    let (mut b, p) = two_paths();
    let before = known(&b, p);
    for _ in 0..1000 {
        reports(&mut b, p, WAYS[0], &RECORD);
    }
    let counters = b.node.counters();
    assert_eq!((counters.qos_received, counters.qos_gated), (u64::from(GATE_COUNT), 1000 - u64::from(GATE_COUNT)));
    b.advance(10_000);
    b.take();
    let copy = b.packet(p, Verb::QosMeasurement, &RECORD, Suite::Poly1305, 0);
    (0..100).for_each(|_| b.deliver(5, WAYS[0].1, copy.clone()));
    assert_eq!(b.node.counters().dropped_repeat - counters.dropped_repeat, 99);
    // Relayed, and from somebody with whom we share nothing.
    b.receive_over(p, 5, "44.1.1.1:9993", Verb::QosMeasurement, &RECORD, 1);
    let stranger = b.actor(11);
    b.befriend(stranger, 7, "44.7.7.7:9993");
    reports(&mut b, stranger, (7, "44.7.7.7:9993"), &RECORD);
    odd(&mut b, stranger, (7, "44.7.7.7:9993"), Verb::Nop, &[], 0);
    let counters = b.node.counters();
    assert_eq!((counters.qos_refused, counters.qos_received), (2, u64::from(GATE_COUNT) + 1));
    assert!(told(&b.take()).is_empty());
    assert_eq!(b.node.gauges().bonded_peers, 1);
    assert_eq!(b.paths(p).len(), before.matches("PathStatus").count(), "no path was learned");
}

/// The same with a bond of ours that carries traffic over both, or one of them.
fn with_a_bond(mode: Mode, base: &str) -> (Bench, Address) {
    let (mut b, p) = two_paths();
    let negotiate = (base == "active-backup").then_some(true);
    let policy = PolicySettings { base: Some(base.into()), negotiate, ..PolicySettings::default() };
    let written =
        Written { mode, default: "mine".into(), policies: [("mine".to_owned(), policy)].into(), ..Written::default() };
    let (bonding, problems) = Bonding::read(&written);
    assert!(problems.is_empty(), "{problems:?}");
    b.node.set_settings(b.now, Settings { bonding: bonding.into(), ..Settings::default() });
    answers_over(&mut b, p, &WAYS);
    for _ in 0..20 {
        carries(&mut b, p);
        b.advance(100);
    }
    b.take();
    stands(&b, p, 1);
    (b, p)
}

/// From now on the peer answers here only.
fn answers_over(b: &mut Bench, p: Address, ways: &[Way]) {
    let pairs = ways.iter().map(|(socket, remote)| (*socket, addr(remote))).collect();
    b.actors.get_mut(&p).unwrap().pairs = Some(pairs);
}

/// A frame each way.
fn carries(b: &mut Bench, p: Address) {
    b.send_frame(p);
    b.receive_frame(p, WAYS[0].0, WAYS[0].1, 0);
}

/// The bond has paths, and its numbers are numbers.
fn stands(b: &Bench, p: Address, at_least: usize) {
    let bond = b.node.bond(p).expect("a bond");
    assert!(bond.plan().paths.len() >= at_least, "{:?}", bond.plan());
    for path in bond.paths().iter() {
        assert!(path.weight().is_finite() && path.load.is_finite() && path.tx.loss().is_finite());
        let latency = path.reported.mean().unwrap_or(0.0);
        assert!((0.0..=LATENCY_MAX_US as f32 / 1000.0).contains(&latency), "{latency} ms");
        assert!(path.tx.rtt().is_none_or(|us| us < 50_000), "no report changes what acknowledgements say");
    }
    assert!(bond.plan().paths.iter().all(|path| path.rate.is_finite() && path.weight.is_finite()));
}

/// What was done with reports, all of them.
fn counted(b: &Bench) -> u64 {
    let c = b.node.counters();
    c.qos_received + c.qos_gated + c.qos_full + c.qos_refused + c.dropped_malformed + c.dropped_repeat
}

#[test]
fn a_bond_that_carries_traffic_stands_whatever_the_peer_reports() {
    for (mode, base) in [(Mode::Better, "balance-aware"), (Mode::Better, "active-backup"), (Mode::Compat, "balance-rr")]
    {
        let (mut b, p) = with_a_bond(mode, base);
        let (before, mut rng, mut said) = (counted(&b), StdRng::seed_from_u64(7), 0);
        // Odd packets of ours that it may have got.
        let mut ours: Vec<u64> = Vec::new();
        for len in 0..=1500 {
            carries(&mut b, p);
            let payload: Vec<u8> = match len % 5 {
                // Anything.
                0 => (0..len).map(|_| rng.next_u32() as u8).collect(),
                // What was never sent, what was, each several times, and held for any time, be it longer than it is old.
                kind => {
                    let known = |rng: &mut StdRng| ours.get(rng.random_range(0..ours.len().max(1))).copied();
                    let id = |rng: &mut StdRng| if kind == 1 { None } else { known(rng) }.unwrap_or(rng.next_u64() | 1);
                    let same = id(&mut rng);
                    let records = (0..len / QosRecord::LEN).map(|_| QosRecord {
                        packet_id: if kind == 2 { same } else { id(&mut rng) },
                        holding_ms: [0, 5, 10, 21, 1000, u16::MAX][rng.random_range(0..6)],
                    });
                    let mut payload = Vec::new();
                    QosMeasurement { records: records.collect() }.write(&mut payload);
                    payload.resize(len, 0xff);
                    payload
                }
            };
            let way = WAYS[len % 2];
            let datagram = b.packet(p, Verb::QosMeasurement, &payload, Suite::Poly1305, 0);
            let copies = 1 + len % 3;
            (0..copies).for_each(|_| b.deliver(way.0, way.1, datagram.clone()));
            said += copies as u64;
            b.advance(if len % 100 < 50 { 7 } else { 160 });
            ours.extend(b.take_to(p).iter().map(|s| s.id).filter(|id| id % 2 == 1));
            ours.drain(..ours.len().saturating_sub(200));
            stands(&b, p, 1);
        }
        assert_eq!(counted(&b) - before, said, "{mode:?} {base}: each is counted once");
        let bond = b.node.bond(p).unwrap();
        assert!(bond.counters().absurd_samples > 0, "held longer than it can have been: {:?}", bond.counters());
        // A flood, in one instant and at once after it.
        for n in 0..5000u64 {
            let mut payload = Vec::new();
            let record = QosRecord { packet_id: ours.last().copied().unwrap_or(1), holding_ms: n as u16 };
            QosMeasurement { records: vec![record; QOS_RECORDS] }.write(&mut payload);
            reports(&mut b, p, WAYS[n as usize % 2], &payload);
        }
        assert!(b.node.counters().qos_gated > 4800);
        b.advance(100);
        stands(&b, p, 1);
        // It still sees what fails.
        if mode == Mode::Better {
            answers_over(&mut b, p, &WAYS[1..]);
            for _ in 0..50 {
                carries(&mut b, p);
                b.advance(10);
            }
            let plan = b.node.bond(p).unwrap().plan().clone();
            let leads = |id| b.node.bond_path(p, id).unwrap().0;
            assert!(plan.paths.iter().all(|path| leads(path.id).0 == WAYS[1].0), "{base}");
            stands(&b, p, 1);
        }
    }
}

#[test]
fn a_bond_that_negotiates_is_not_moved_by_a_flood_of_requests_for_long_nor_by_what_is_no_request() {
    let (mut b, p) = with_a_bond(Mode::Better, "active-backup");
    let active = |b: &Bench| b.node.bond(p).unwrap().active();
    let asks = |b: &mut Bench, way: Way, payload: &[u8], hops| {
        b.receive_over(p, way.0, way.1, Verb::PathNegotiationRequest, payload, hops);
    };
    // Too short or too long, relayed, and from where it is not met.
    let before = active(&b);
    for len in (0..100).filter(|len| *len != 2) {
        asks(&mut b, WAYS[len % 2], &vec![0x7f; len], 0);
    }
    (0..100).for_each(|_| asks(&mut b, WAYS[1], &[0x7f, 0xff], 1));
    (0..100).for_each(|_| asks(&mut b, (7, "44.66.66.66:1"), &[0x7f, 0xff], 0));
    assert_eq!(active(&b), before);
    let (mut moves, mut last) = (0, before);
    for n in 0..5000u64 {
        let utility = [i16::MAX, i16::MIN, 0, 12_345, -1][n as usize % 5];
        asks(&mut b, WAYS[(n / 5) as usize % 2], &utility.to_be_bytes(), 0);
        carries(&mut b, p);
        b.advance(2);
        b.take();
        let now = active(&b);
        // What gets through before the gate shuts may say this now and then that.
        moves += u64::from(n > u64::from(GATE_COUNT) && now.map(|a| a.0) != last.map(|a| a.0));
        last = now;
        stands(&b, p, 1);
    }
    let bond = b.node.bond(p).unwrap();
    assert!(bond.counters().gated > 4800, "{:?}", bond.counters());
    assert_eq!(moves, 0, "in ten seconds");
}
