//! What two Hawsers agree on: who asks, who answers, what the shards are told of it, how it is renewed and ends; receive
//! reports; and what comes of such messages that is bad.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use std::sync::Arc;

use bond::config::{Bonding, Settings as Written};
use bond::limits::{PACT_ANSWERS_PER_MINUTE, PACT_GIVEN_MS, PACT_HELD_MS, PACT_OFFERS_PER_MINUTE};
use common::*;
use lab::{Lab, at, ip, network_with};
use node::limits::*;
use node::{Event, LocalSocketId, Output, PlanChange, Port, Receipt, Settings, Socket};
use proptest::prelude::*;
use sim::{Link, Realm};
use wire::message::{ExtFrame, Features, OrderMark, PactMessage, ReceiveReport, UserMessage};
use wire::{Address, Mac, Suite, Verb};

/// Our socket and the peer's endpoint.
const WAY: (u64, &str) = (5, "44.9.9.9:9993");
const OTHER: (u64, &str) = (6, "44.8.8.8:9993");

fn settings(policy: &str) -> Settings {
    let (bonding, problems) = Bonding::read(&Written { default: policy.into(), ..Written::default() });
    assert!(problems.is_empty(), "{problems:?}");
    Settings { bonding: Arc::new(bonding), ..Settings::default() }
}

// With a scripted peer.

/// A leaf on the open network and a peer on it with two paths.
fn met() -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    for (socket, remote) in [WAY, OTHER] {
        b.befriend(p, socket, remote);
        b.answer(p, remote, 10);
    }
    b.receive_frame(p, WAY.0, WAY.1, 0);
    b.advance(1000);
    b.take();
    (b, p)
}

/// The same with a bond of ours.
fn bonded(policy: &str) -> (Bench, Address) {
    let (mut b, p) = met();
    b.node.set_settings(b.now, settings(policy));
    // Until the bond has its first answers and sends by its own plan.
    b.advance(1000);
    (b, p)
}

fn payload(message: PactMessage) -> Vec<u8> {
    let mut payload = Vec::new();
    message.write(&mut payload);
    payload
}

fn says(b: &mut Bench, p: Address, message: PactMessage) {
    b.receive(p, WAY.0, WAY.1, Verb::UserMessage, &payload(message));
}

fn offer(nonce: u64) -> PactMessage {
    PactMessage::Offer { features: Features::ALL, nonce }
}

/// Our messages among what was sent.
fn told(sent: &[Sent]) -> Vec<PactMessage> {
    let of = |s: &Sent| PactMessage::parse(&UserMessage::parse(&s.payload).unwrap());
    sent.iter().filter(|s| s.verb == Some(Verb::UserMessage)).map(|s| of(s).unwrap()).collect()
}

/// Has the peer take up our next offer.
fn agrees(b: &mut Bench, p: Address, features: Features) {
    for _ in 0..100 {
        if let Some(PactMessage::Offer { nonce, .. }) = told(&b.take_to(p)).last() {
            return says(b, p, PactMessage::Answer { features, nonce: *nonce, window: 8192 });
        }
        b.advance(100);
    }
    panic!("no offer");
}

/// What the shards were told last: what the peer does for us, what we do for it.
fn shards(b: &mut Bench, p: Address) -> (Option<(bool, bool)>, Option<Features>) {
    b.drain();
    let mut last = (None, None);
    for output in b.others.drain(..) {
        match output {
            Output::Plan(PlanChange::Bond { address, bond: Some(bond) }) if address == p => {
                last.0 = Some((bond.marks, bond.duplicates_dropped));
            }
            Output::Plan(PlanChange::Given { address, given }) if address == p => last.1 = Some(given),
            _ => {}
        }
    }
    last
}

#[test]
fn without_a_bond_and_without_an_offer_nothing_is_said() {
    let (mut b, p) = met();
    for _ in 0..600 {
        b.receive_frame(p, WAY.0, WAY.1, 0);
        b.send_frame(p);
        b.advance(1000);
        assert_eq!(told(&b.take_to(p)), []);
    }
    assert_eq!((b.node.gauges().pacts, b.node.counters().pact_offers), (0, 0));
}

#[test]
fn who_is_bonded_with_is_asked_once_and_the_shards_are_told_when_it_agrees() {
    let (mut b, p) = bonded("balance-aware");
    let sent = b.take_to(p);
    let offers: Vec<&Sent> = only(&sent, Verb::UserMessage);
    assert_eq!((offers.len(), offers[0].len, offers[0].suite), (1, 48, Some(Suite::AesGmacSiv)));
    let PactMessage::Offer { features: Features::ALL, nonce } = told(&sent)[0] else { panic!("{sent:?}") };
    assert_eq!(shards(&mut b, p), (Some((false, false)), None));
    says(&mut b, p, PactMessage::Answer { features: Features::ALL, nonce, window: 8192 });
    assert_eq!(shards(&mut b, p), (Some((true, true)), None));
    assert_eq!(b.node.agreed(p).map(|a| (a.features, a.window)), Some((Features::ALL, 8192)));
    assert_eq!(told(&b.take_to(p)), [], "nothing more for now");
}

#[test]
fn an_agreement_that_is_not_renewed_ends() {
    let (mut b, p) = bonded("balance-aware");
    agrees(&mut b, p, Features::ALL);
    shards(&mut b, p);
    for _ in 0..PACT_HELD_MS / 1000 - 3 {
        b.receive_frame(p, WAY.0, WAY.1, 0);
        b.advance(1000);
    }
    assert!(b.node.agreed(p).is_some());
    b.advance(4000);
    assert_eq!((b.node.agreed(p), shards(&mut b, p).0), (None, Some((false, false))));
    assert_eq!(b.node.counters().pacts_ended, 1);
}

#[test]
fn a_peer_that_lost_the_agreement_says_so_and_is_asked_again() {
    let (mut b, p) = bonded("balance-aware");
    agrees(&mut b, p, Features::ALL);
    shards(&mut b, p);
    says(&mut b, p, PactMessage::Answer { features: Features::NONE, nonce: 0, window: 0 });
    assert_eq!((b.node.agreed(p), shards(&mut b, p).0), (None, Some((false, false))));
    agrees(&mut b, p, Features::ALL);
    assert_eq!(shards(&mut b, p).0, Some((true, true)));
}

#[test]
fn a_stock_peer_is_asked_less_and_less_often_and_warned_of_if_it_gets_copies() {
    let (mut b, p) = bonded("broadcast");
    let mut offers = 0;
    for s in 0..3600 {
        b.receive_frame(p, WAY.0, WAY.1, 0);
        b.advance(1000);
        offers += told(&b.take_to(p)).len();
        assert!(s > 58 || offers <= 5, "{offers} within a minute");
    }
    assert!((5..=21).contains(&offers), "{offers} within an hour");
    let warnings = b.events.iter().filter(|e| **e == Event::CopiesDelivered { peer: p }).count();
    assert_eq!(warnings, 1);
}

#[test]
fn a_node_without_a_bond_gives_what_it_is_asked_for_until_it_is_not_asked_any_more() {
    let (mut b, p) = met();
    says(&mut b, p, offer(7));
    let sent = b.take_to(p);
    assert_eq!(told(&sent), [PactMessage::Answer { features: Features::ALL, nonce: 7, window: 8192 }]);
    let first = only(&sent, Verb::UserMessage)[0];
    assert_eq!((first.socket, first.remote, first.hops), (Some(WAY.0), addr(WAY.1), 0));
    assert_eq!(shards(&mut b, p), (None, Some(Features::ALL)));
    says(&mut b, p, PactMessage::Offer { features: Features::REPORTS, nonce: 8 });
    assert_eq!(shards(&mut b, p), (None, Some(Features::REPORTS)));
    b.advance(PACT_GIVEN_MS + 1000);
    assert_eq!(shards(&mut b, p), (None, Some(Features::NONE)));
    b.advance(PACT_IDLE_MS + 1000);
    assert_eq!((b.node.gauges().pacts, b.node.agreed(p)), (0, None));
}

#[test]
fn offers_that_are_relayed_repeated_broken_or_of_strangers_have_no_effect() {
    let (mut b, p) = met();
    let body = payload(offer(7));
    b.receive_over(p, WAY.0, WAY.1, Verb::UserMessage, &body, 1);
    b.receive(p, 7, "44.7.7.7:9993", Verb::UserMessage, &body);
    let q = b.actor(11);
    b.befriend(q, 5, "44.6.6.6:9993");
    b.take();
    b.receive(q, 5, "44.6.6.6:9993", Verb::UserMessage, &body);
    assert_eq!(b.node.counters().pact_refused, 3);
    for broken in [&body[..19], &[&body[..], &[0]].concat()] {
        b.receive(p, WAY.0, WAY.1, Verb::UserMessage, broken);
    }
    assert_eq!((b.node.counters().pact_unknown, b.node.gauges().pacts), (2, 0));
    let datagram = b.packet(p, Verb::UserMessage, &body, Suite::AesGmacSiv, 0);
    b.deliver(WAY.0, WAY.1, datagram.clone());
    b.deliver(WAY.0, WAY.1, datagram);
    assert_eq!(told(&b.take_to(p)).len(), 1, "each packet counts once");
    assert!(!b.events.iter().any(|e| matches!(e, Event::UserMessage { .. })), "applications hear nothing of it");
    says(&mut b, p, PactMessage::Report(ReceiveReport::default()));
    says(&mut b, p, PactMessage::Answer { features: Features::ALL, nonce: 9, window: 1 });
    assert_eq!((b.node.counters().pact_refused, b.node.agreed(p)), (5, None));
}

#[test]
fn floods_of_offers_and_of_withdrawals_cause_few_packets() {
    let (mut b, p) = bonded("balance-aware");
    agrees(&mut b, p, Features::ALL);
    b.advance(100);
    b.take();
    let mut sent = Vec::new();
    for n in 0..5800 {
        says(&mut b, p, offer(n + 1));
        says(&mut b, p, PactMessage::Answer { features: Features::NONE, nonce: 0, window: 0 });
        if let Some(PactMessage::Offer { nonce, .. }) = sent.last() {
            says(&mut b, p, PactMessage::Answer { features: Features::ALL, nonce: *nonce, window: 8192 });
        }
        b.advance(10);
        sent.extend(told(&b.take_to(p)));
    }
    let offers = sent.iter().filter(|m| matches!(m, PactMessage::Offer { .. })).count();
    assert!(offers <= PACT_OFFERS_PER_MINUTE, "{offers} offers");
    assert!(sent.len() - offers <= PACT_ANSWERS_PER_MINUTE, "{} answers", sent.len() - offers);
}

/// An EXT_FRAME of the peer's to us with these flags, and its IP packet.
fn ext_frame(b: &Bench, p: Address, flags: u8, mark: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (to, from) = (Mac::of_member(OPEN_NETWORK, b.own.address()), Mac::of_member(OPEN_NETWORK, p));
    let ip = frame_payload()[10..].to_vec();
    let payload = [&ip[..], mark].concat();
    let frame = ExtFrame { network: OPEN_NETWORK, flags, com: None, to, from, ethertype: 0x86dd, payload: &payload };
    let mut out = Vec::new();
    frame.write(&mut out);
    (out, ip)
}

fn delivered(b: &mut Bench) -> Vec<Vec<u8>> {
    b.drain();
    let mut frames = Vec::new();
    for output in b.others.drain(..) {
        if let Output::Deliver { frame, .. } = output {
            frames.push(frame);
        }
    }
    frames
}

#[test]
fn a_marked_frame_loses_its_mark_agreement_or_not_and_who_did_not_agree_says_so() {
    let (mut b, p) = met();
    let mark = OrderMark(77).to_bytes();
    let (frame, ip) = ext_frame(&b, p, ExtFrame::MARKED | ExtFrame::ACK, &mark);
    delivered(&mut b);
    b.receive(p, WAY.0, WAY.1, Verb::ExtFrame, &frame);
    assert_eq!(delivered(&mut b).iter().map(|f| &f[14..]).collect::<Vec<_>>(), [&ip[..]]);
    let sent = b.take_to(p);
    assert_eq!(told(&sent), [PactMessage::Answer { features: Features::NONE, nonce: 0, window: 0 }]);
    assert_eq!(only(&sent, Verb::Ok).len(), 1, "and it is acknowledged");
    b.receive(p, WAY.0, WAY.1, Verb::ExtFrame, &frame);
    assert_eq!(told(&b.take_to(p)), [], "not each time");
    says(&mut b, p, offer(7));
    b.advance(2000);
    b.take();
    delivered(&mut b);
    b.receive(p, WAY.0, WAY.1, Verb::ExtFrame, &frame);
    assert_eq!(delivered(&mut b)[0][14..], ip);
    assert_eq!((told(&b.take_to(p)), b.node.counters().marks_removed), (vec![], 3));
}

#[test]
fn what_only_looks_like_a_mark_stays() {
    let (mut b, p) = met();
    for (flags, mark) in
        [(0, &[1, 2, 3, 4][..]), (ExtFrame::MARKED, &[]), (ExtFrame::MARKED, &[1, 2, 3]), (0x0e, &[0; 4])]
    {
        let (frame, ip) = ext_frame(&b, p, flags, mark);
        delivered(&mut b);
        b.receive(p, WAY.0, WAY.1, Verb::ExtFrame, &frame);
        assert_eq!(delivered(&mut b)[0][14..], [&ip[..], mark].concat(), "{flags:x} {mark:?}");
    }
    assert_eq!((told(&b.take_to(p)), b.node.counters().marks_removed), (vec![], 0));
}

fn receipt(p: Address, (socket, remote): (u64, &str), packets: u64, newest: u64) -> Receipt {
    let (socket, remote) = (LocalSocketId(socket), addr(remote));
    Receipt { peer: p, socket, remote, packets, bytes: packets * 1400, newest, age_us: 500 }
}

/// The reports among what was sent: when, over which socket, and what.
fn reports(sent: &[Sent]) -> Vec<(u64, Option<u64>, ReceiveReport)> {
    let of = |s: &Sent| match told(std::slice::from_ref(s)).pop() {
        Some(PactMessage::Report(report)) => Some((s.at_ms, s.socket, report)),
        _ => None,
    };
    sent.iter().filter_map(of).collect()
}

#[test]
fn under_load_each_path_is_reported_every_25_ms_over_itself_and_when_idle_never() {
    let (mut b, p) = met();
    b.node.handle_receipts(b.now, &[receipt(p, WAY, 5, 9)]);
    assert_eq!(reports(&b.take_to(p)), [], "nobody asked");
    says(&mut b, p, offer(7));
    b.take();
    let mut sent = Vec::new();
    for n in 1..=200 {
        // 5 ms: 2.2 Mbit/s on one path, a packet per second on the other
        b.node.handle_receipts(b.now, &[receipt(p, WAY, 8, n)]);
        if n % 200 == 1 {
            b.node.handle_receipts(b.now, &[receipt(p, OTHER, 1, 1000 + n)]);
        }
        b.advance(5);
        sent.extend(b.take_to(p));
    }
    let all = reports(&sent);
    let over = |way: (u64, &str)| all.iter().filter(|(_, socket, _)| *socket == Some(way.0)).collect::<Vec<_>>();
    let (fast, slow) = (over(WAY), over(OTHER));
    assert!((38..=41).contains(&fast.len()), "{} reports in a second", fast.len());
    assert_eq!(slow.len(), 1);
    let (.., last) = fast.last().unwrap();
    assert_eq!((last.packets, last.bytes), (8 * last.newest, 8 * 1400 * last.newest));
    assert!(last.newest > 190, "{last:?}");
    assert!(last.held_us >= 500 && last.held_us < 11_000, "{last:?}");
    let bytes: usize = sent.iter().filter(|s| s.verb == Some(Verb::UserMessage)).map(|s| s.len + 28).sum();
    assert!(bytes as u64 <= 8 * 1400 * 200 / 100, "{bytes} bytes of reports");
    b.advance(1100);
    assert!(reports(&b.take_to(p)).len() <= 1, "the rest");
    b.advance(60_000);
    assert_eq!(reports(&b.take_to(p)), []);
    assert_eq!(b.node.gauges().receipt_paths, 2);
}

/// Frames of the peer come over these ways in turn, one a millisecond, and ours go back.
fn stream(b: &mut Bench, p: Address, ms: u64, ways: &[(u64, &str)]) {
    for ms in 0..ms {
        b.node.handle_receipts(b.now, &[receipt(p, ways[ms as usize % ways.len()], 1, ms)]);
        b.send_frame(p);
        b.advance(1);
    }
}

fn used_and_other(b: &Bench, p: Address) -> [(u64, &'static str); 2] {
    let used = b.preferred(p).expect("a path").0;
    if used == WAY.0 { [WAY, OTHER] } else { [OTHER, WAY] }
}

#[test]
fn what_we_send_follows_a_peer_that_bonds_with_us_when_it_leaves_a_path() {
    for agreed in [true, false] {
        let (mut b, p) = met();
        if agreed {
            says(&mut b, p, offer(7));
        }
        stream(&mut b, p, 1000, &[WAY, OTHER]);
        let [used, other] = used_and_other(&b, p);
        stream(&mut b, p, 1000, &[used]);
        assert_eq!(b.preferred(p).map(|way| way.0), Some(used.0), "both carry; so does one");
        // As a bond does, which makes us look whether we are heard.
        b.receive(p, used.0, used.1, Verb::Echo, &[7; 8]);
        assert!(b.node.counters().path_doubted > 0);
        stream(&mut b, p, 100, &[used]);
        b.silence(p);
        stream(&mut b, p, 60, &[other]);
        let (now, followed) = (b.preferred(p).map(|way| way.0), b.node.counters().paths_followed);
        assert_eq!((now, followed), if agreed { (Some(other.0), 1) } else { (Some(used.0), 0) });
    }
}

#[test]
fn a_line_of_the_peer_is_left_whichever_of_our_sockets_its_frames_came_to() {
    let (mut b, p) = met();
    says(&mut b, p, offer(7));
    stream(&mut b, p, 1000, &[WAY, OTHER]);
    let [used, other] = used_and_other(&b, p);
    stream(&mut b, p, 1000, &[(other.0, used.1)]);
    b.silence(p);
    let here = further_port(&mut b, p, other);
    stream(&mut b, p, 60, &[here]);
    assert_eq!(b.preferred(p).map(|way| way.0), Some(other.0));
}

/// The same way to a port of ours that we have no path from, because the peer is reached from the first.
fn further_port(b: &mut Bench, p: Address, (first, remote): (u64, &'static str)) -> (u64, &'static str) {
    let (id, local, link) =
        (LocalSocketId(first + 10), addr(&format!("172.16.{first}.1:40001")), format!("link{first}"));
    b.node.add_socket(b.now, Socket { id, local, link, port: Port::Secondary });
    b.receive_frame(p, id.0, remote, 0);
    b.advance(1);
    assert!(!b.paths(p).contains(&(id.0, addr(remote))));
    (id.0, remote)
}

#[test]
fn frames_to_a_port_of_ours_that_we_have_no_path_from_cast_no_doubt_on_the_first() {
    let (mut b, p) = met();
    let [used, _] = used_and_other(&b, p);
    let here = further_port(&mut b, p, used);
    for _ in 0..20 {
        b.send_frame(p);
        b.advance(150);
        b.receive_frame(p, here.0, here.1, 0);
    }
    assert_eq!(b.node.counters().path_doubted, 0);
}

#[test]
fn who_asks_at_a_port_of_ours_that_we_have_no_path_from_is_answered_and_told_there() {
    let (mut b, p) = met();
    let here = further_port(&mut b, p, WAY);
    b.take();
    b.receive(p, here.0, here.1, Verb::UserMessage, &payload(offer(7)));
    b.node.handle_receipts(b.now, &[receipt(p, here, 1, 1)]);
    b.advance(1000);
    let sent = b.take_to(p);
    assert!(matches!(told(&sent)[..], [PactMessage::Answer { nonce: 7, .. }, PactMessage::Report(_)]), "{sent:?}");
    let there = |s: &&Sent| s.verb == Some(Verb::UserMessage);
    assert!(sent.iter().filter(there).all(|s| s.socket == Some(here.0)), "{sent:?}");
}

#[test]
fn a_path_that_was_left_though_it_works_is_as_good_as_before_once_it_answered() {
    let (mut b, p) = met();
    says(&mut b, p, offer(7));
    let [used, other] = used_and_other(&b, p);
    for way in [used, other, used, other] {
        stream(&mut b, p, 3000, &[way]);
        assert_eq!(b.preferred(p).map(|way| way.0), Some(way.0));
    }
}

#[test]
fn what_comes_slowly_is_reported_once_a_second() {
    let (mut b, p) = met();
    says(&mut b, p, offer(7));
    b.take();
    let mut sent = Vec::new();
    for n in 0..50 {
        b.node.handle_receipts(b.now, &[receipt(p, WAY, 1, n)]);
        b.advance(200);
        sent.extend(b.take_to(p));
    }
    assert!((9..=11).contains(&reports(&sent).len()), "{}", reports(&sent).len());
}

#[test]
fn paths_that_are_counted_have_bounds_and_a_path_that_is_gone_gets_no_report() {
    let (mut b, p) = met();
    says(&mut b, p, offer(7));
    b.take();
    for n in 0..100 {
        b.node.handle_receipts(b.now, &[receipt(p, (5, &format!("44.1.2.{n}:9")), 1, 1)]);
    }
    b.advance(1000);
    assert_eq!(reports(&b.take_to(p)), [], "it was never proven to be there");
    assert_eq!(b.node.gauges().receipt_paths, 0);
    says(&mut b, p, PactMessage::Offer { features: Features::NONE, nonce: 8 });
    b.node.handle_receipts(b.now, &[receipt(p, WAY, 1, 1)]);
    b.advance(2000);
    assert_eq!(reports(&b.take_to(p)), []);
}

#[test]
fn a_peers_reports_reach_the_bond_and_floods_of_absurd_ones_do_nothing() {
    let (mut b, p) = bonded("balance-aware");
    agrees(&mut b, p, Features::ALL);
    for n in 0..10_000u64 {
        let report = ReceiveReport { epoch: 1, packets: n << 40, bytes: u64::MAX - n, newest: n, held_us: u32::MAX };
        says(&mut b, p, PactMessage::Report(report));
    }
    let c = b.node.counters();
    assert_eq!(c.receipts_received + c.receipts_over_rate, 10_000);
    assert!(c.receipts_received <= u64::from(PACT_REPORTS_PER_S));
    b.advance(1000);
    let bond = b.node.bond(p).unwrap();
    assert!(bond.paths().iter().all(|path| path.weight().is_finite()));
    assert!(!bond.plan().paths.is_empty(), "{:?}", bond.plan());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_peer_says_tables_stay_bounded(
        messages in prop::collection::vec((0..4u8, any::<u16>(), any::<u64>(), any::<u32>(), any::<u64>(), 0..3000u64), 1..60),
        bond: bool,
    ) {
        let (mut b, p) = if bond { bonded("broadcast") } else { met() };
        for (what, bits, word, half, more, ms) in messages {
            let features = Features::from_bits(bits);
            let message = match what {
                0 => PactMessage::Offer { features, nonce: word.max(1) },
                1 => PactMessage::Answer { features, nonce: word, window: half },
                2 => PactMessage::Answer { features, nonce: 0, window: half },
                _ => PactMessage::Report(ReceiveReport { epoch: half % 2, packets: word % 10_000, bytes: more, newest: more, held_us: half }),
            };
            says(&mut b, p, message);
            b.node.handle_receipts(b.now, &[receipt(p, WAY, word % 100, more)]);
            b.advance(ms);
        }
        prop_assert!(b.node.gauges().pacts <= 1 && b.node.gauges().receipt_paths <= 1);
    }
}

// Two nodes.

/// Two members with two links each; leaf 0 has a bond.
fn pair(seed: u64, theirs: Settings) -> Lab {
    let mut lab = network_with(seed, 2, |_, n| (Realm::INTERNET, at(n)));
    for (leaf, address) in [(0, "44.0.11.1"), (1, "44.0.12.1")] {
        lab.world.add_socket(lab.leaves[leaf], &format!("{address}:9993"));
    }
    lab.world.block(ip("44.0.1.1"), ip("44.0.12.1"));
    lab.world.block(ip("44.0.11.1"), ip("44.0.2.1"));
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings("balance-aware")));
    lab.world.with(lab.leaves[1], |node, now| node.set_settings(now, theirs));
    lab.join_all(20_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    lab
}

/// What each has of the other.
fn agreed(lab: &Lab) -> [Option<Features>; 2] {
    [0, 1].map(|i| lab.world.host(lab.leaves[i]).node.agreed(lab.address(1 - i)).map(|a| a.features))
}

fn exchanges(lab: &Lab) -> [(u64, u64); 2] {
    [0, 1].map(|i| {
        let counters = lab.world.host(lab.leaves[i]).node.counters();
        (counters.pact_offers, counters.pact_answers)
    })
}

fn pings(lab: &mut Lab, seconds: u64) {
    for n in 0..seconds {
        let _ = lab.ping(0, 1, n as u16, 56, 1000);
        lab.world.run_ms(1000);
    }
}

#[test]
fn two_hawsers_agree_in_one_exchange_and_only_on_what_a_bond_profits_from() {
    let mut lab = pair(1, Settings::default());
    pings(&mut lab, 5);
    assert_eq!(agreed(&lab), [Some(Features::ALL), None]);
    let [(first, 0), (0, 1)] = exchanges(&lab) else { panic!("{:?}", exchanges(&lab)) };
    assert!(first <= 2, "the first may come before the path is proven there: {first}");
    pings(&mut lab, 600);
    assert_eq!(agreed(&lab), [Some(Features::ALL), None]);
    let [(offers, 0), (0, answers)] = exchanges(&lab) else { panic!("{:?}", exchanges(&lab)) };
    assert!(offers - first == answers - 1 && (9..=12).contains(&answers), "{offers}, {answers} in ten minutes");
}

#[test]
fn two_that_bond_agree_on_both_directions() {
    let mut lab = pair(2, settings("balance-rr"));
    pings(&mut lab, 5);
    assert_eq!(agreed(&lab), [Some(Features::ALL); 2]);
    let told = exchanges(&lab);
    assert!(told.iter().all(|(offers, answers)| *offers <= 2 && *answers == 1), "{told:?}");
}

#[test]
fn they_agree_over_paths_that_lose_every_fifth_packet_each_way() {
    for seed in 3..6 {
        let mut lab = pair(seed, settings("balance-aware"));
        lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, Settings::default()));
        lab.world.set_default_link(Link { loss_ppm: 200_000, ..Link::delay_ms(10) });
        lab.world.run_ms(1000);
        lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings("balance-aware")));
        let both = (0..60).any(|_| {
            pings(&mut lab, 1);
            agreed(&lab) == [Some(Features::ALL); 2]
        });
        assert!(both, "seed {seed}: {:?}", exchanges(&lab));
    }
}

#[test]
fn who_does_not_put_in_order_agrees_to_the_rest_and_says_so_when_that_changes() {
    let (mut b, p) = met();
    let answers = |b: &mut Bench| -> Vec<(Features, u64)> {
        let answer =
            |m| if let PactMessage::Answer { features, nonce, .. } = m { Some((features, nonce)) } else { None };
        told(&b.take_to(p)).into_iter().filter_map(answer).collect()
    };
    says(&mut b, p, offer(7));
    assert_eq!(answers(&mut b), [(Features::ALL, 7)]);
    b.node.set_settings(b.now, Settings { resequence: false, ..Settings::default() });
    let rest = Features::ALL.without(Features::ORDER_MARK);
    assert_eq!(shards(&mut b, p).1, Some(rest));
    let (frame, _) = ext_frame(&b, p, ExtFrame::MARKED, &OrderMark(77).to_bytes());
    b.receive(p, WAY.0, WAY.1, Verb::ExtFrame, &frame);
    assert_eq!(answers(&mut b), [(Features::NONE, 0)], "so that it asks again");
    says(&mut b, p, offer(8));
    assert_eq!(answers(&mut b), [(rest, 8)]);
}

#[test]
fn a_bond_that_ends_takes_the_agreement_back() {
    let mut lab = pair(7, Settings::default());
    pings(&mut lab, 5);
    let given = |lab: &mut Lab| {
        let plan = std::mem::take(&mut lab.world.host_mut(lab.leaves[1]).plan);
        plan.into_iter().rev().find_map(|change| match change {
            PlanChange::Given { given, .. } => Some(given),
            _ => None,
        })
    };
    assert_eq!(given(&mut lab), Some(Features::ALL));
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, Settings::default()));
    lab.world.run_ms(1000);
    assert_eq!((agreed(&lab), given(&mut lab)), ([None; 2], Some(Features::NONE)));
}
