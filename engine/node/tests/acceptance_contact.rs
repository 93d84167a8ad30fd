//! The acceptance scenarios of the protocol's description, with the numbers of its gateway column, one script a row:
//! how others are met and answered. // spec: paths, "Acceptance scenarios"

mod common;

use common::*;
use node::limits::{PUNCH_WAIT_MAX_MS, PUNCH_WAIT_MIN_MS};
use wire::message::{PathRecord, Rendezvous, WorldRevision};
use wire::{Address, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";

#[test]
fn s01_silent_roots_get_hello_on_ipv4_and_ipv6_every_five_seconds() {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    b.install_planet(&[(root, &["44.1.1.1:9993", "[2600::1]:9993"])]);
    b.sockets(&[5]);
    b.advance(21_000);
    let sent = b.take();
    let (v4, v6): (Vec<_>, Vec<_>) = only(&sent, Verb::Hello).into_iter().partition(|s| s.remote.is_ipv4());
    assert_eq!(sent.len(), v4.len() + v6.len());
    for hellos in [v4, v6] {
        assert!((4..=5).contains(&hellos.len()), "{:?}", times(&hellos));
        assert!(hellos[0].at_ms <= 500);
        assert!(times(&hellos).windows(2).all(|w| (4400..=5600).contains(&(w[1] - w[0]))), "{:?}", times(&hellos));
        assert!(hellos.iter().all(|s| s.socket.is_none() && s.suite == Some(Suite::Poly1305)));
        assert!(hellos.iter().all(|s| s.len == if s.remote.is_ipv4() { 137 } else { 149 }));
    }
}

#[test]
fn s02_an_answering_root_gets_echo_every_14_s_and_hello_every_60_s_and_no_whois() {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    b.install_planet(&[(root, &["44.1.1.1:9993", "[2600::1]:9993"])]);
    b.sockets(&[5]);
    b.answer(root, "44.1.1.1:9993", 0);
    b.advance(1_200_000);
    let sent = b.take();
    assert!(only(&sent, Verb::Whois).is_empty());
    let hellos: Vec<&Sent> = only(&sent, Verb::Hello).into_iter().filter(|s| s.remote.is_ipv4()).collect();
    assert!((18..=21).contains(&hellos.len()), "{:?}", times(&hellos));
    let contacts: Vec<u64> = sent.iter().filter(|s| s.remote.is_ipv4()).map(|s| s.at_ms).collect();
    assert!(contacts.windows(2).all(|w| w[1] - w[0] <= 14_500), "{contacts:?}");
    assert!(only(&sent, Verb::Echo).len() >= 60);
    assert!(b.node.is_online());
}

#[test]
fn s03_a_newcomer_is_answered_and_challenged_and_its_path_used_only_when_proven() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.receive_hello(p, 5, AT_P);
    let sent = b.take_to(p);
    assert_eq!(verbs(&sent), [(Some(Verb::Ok), addr(AT_P)), (Some(Verb::Hello), addr(AT_P))]);
    assert_eq!((sent[0].len, sent[0].socket, sent[0].suite), (59, Some(5), Some(Suite::Salsa2012Poly1305)));
    assert_eq!(sent[1].socket, None);
    assert_eq!(b.preferred(p), None);
    b.receive_ok_hello(p, 5, AT_P, &sent[1]);
    assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
}

#[test]
fn s04_other_sockets_and_addresses_of_a_peer_are_challenged_but_not_another_port() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.receive(p, 5, "44.9.9.9:1111", Verb::Echo, b"");
    assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Ok), addr("44.9.9.9:1111"))]);
    for (socket, remote) in [(6, AT_P), (5, "44.9.9.10:9993")] {
        b.receive(p, socket, remote, Verb::Echo, b"");
        let challenged = [(Some(Verb::Ok), addr(remote)), (Some(Verb::Hello), addr(remote))];
        assert_eq!(verbs(&b.take_to(p)), challenged);
        b.advance(200);
        b.take();
        b.receive(p, socket, remote, Verb::Echo, b"");
        assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Ok), addr(remote))]);
        b.advance(1000);
        b.take();
        b.receive(p, socket, remote, Verb::Echo, b"");
        assert_eq!(verbs(&b.take_to(p)), challenged);
    }
}

#[test]
fn s05_echo_is_answered_every_166_ms_per_path() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.receive(p, 5, AT_P, Verb::Echo, b"1");
    b.advance(100);
    b.receive(p, 5, AT_P, Verb::Echo, b"2");
    b.advance(70);
    b.receive(p, 5, AT_P, Verb::Echo, b"3");
    let answers = b.take_to(p);
    let answers = only(&answers, Verb::Ok);
    assert_eq!(answers.iter().map(|s| s.payload[9]).collect::<Vec<_>>(), b"13");
    assert_eq!(b.node.counters().echo_gated, 1);
}

#[test]
fn s06_an_active_peer_is_kept_alive_for_500_s_and_then_forgotten() {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 0);
    b.receive_frame(p, 5, AT_P, 0);
    let start = b.ms();
    b.advance(600_000);
    let sent = b.take_to(p);
    let contacts: Vec<&Sent> = sent.iter().filter(|s| matches!(s.verb, Some(Verb::Hello | Verb::Echo))).collect();
    assert!(times(&contacts).windows(2).all(|w| w[1] - w[0] <= 14_500), "{:?}", times(&contacts));
    let last = contacts.last().unwrap().at_ms - start;
    assert!((485_000..=501_000).contains(&last), "{last}");
    assert!(b.knows(p));
    b.silence(p);
    b.advance(start + last + 499_000 - b.ms());
    assert!(b.knows(p));
    b.advance(32_000);
    assert!(!b.knows(p));
    assert!(b.stored[&node::StateKey::Peer(p)].is_some());
}

fn push(b: &mut Bench, from: Address, records: &[(u8, &str)]) {
    let records: Vec<PathRecord> =
        records.iter().map(|(flags, e)| PathRecord { flags: *flags, ..PathRecord::to(addr(e)) }).collect();
    let mut payload = Vec::new();
    PathRecord::write_all(&records, &mut payload);
    b.receive(from, 5, AT_P, Verb::PushDirectPaths, &payload);
}

#[test]
fn s07_pushes_are_heard_as_long_as_their_budget_lasts() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    for n in 0..20 {
        let pushed = format!("44.9.8.{n}:9993");
        push(&mut b, p, &[(0, &pushed)]);
        let sent = b.take();
        assert_eq!((sent.len(), sent[0].len, sent[0].ttl), (1, 4, Some(2)), "it opens our own NAT only");
        assert_eq!((sent[0].remote, sent[0].socket), (addr(&pushed), None));
        b.advance(PUNCH_WAIT_MAX_MS);
        let sent = b.take_to(p);
        assert_eq!(verbs(&sent), [(Some(Verb::Echo), addr(&pushed))]);
        assert_eq!(sent[0].socket, None);
        b.advance(15_000);
        b.take();
    }
}

#[test]
fn s08_eight_addresses_of_a_class_are_tried() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.join_open();
    b.receive_frame(p, 5, AT_P, 0);
    b.take();
    let records: Vec<String> =
        (0..20).flat_map(|n| [format!("44.9.8.{n}:1"), format!("10.1.1.{n}:1"), format!("[2600::{n:x}]:1")]).collect();
    push(&mut b, p, &records.iter().map(|r| (0, r.as_str())).collect::<Vec<_>>());
    let at_once = b.take_to(p);
    assert!(at_once.iter().all(|s| s.remote.is_ipv6() || s.remote.to_string().starts_with("10.")));
    b.advance(PUNCH_WAIT_MAX_MS);
    let sent: Vec<_> = at_once.into_iter().chain(b.take_to(p)).collect();
    assert_eq!(only(&sent, Verb::Echo).len(), 24);
    assert_eq!(sent.iter().filter(|s| s.remote.is_ipv6()).count(), 8);
    assert_eq!(b.node.counters().push_over_class, 36);
    push(&mut b, p, &[(0, "44.9.8.77:1")]);
    b.advance(PUNCH_WAIT_MAX_MS);
    assert!(b.take().iter().all(|s| s.remote != addr("44.9.8.77:1")));
    assert_eq!(b.node.counters().push_over_rate, 1);
}

#[test]
fn a_place_that_its_owner_takes_back_is_not_probed_any_more() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    push(&mut b, p, &[(0, "44.9.8.1:1"), (0, "44.9.8.2:1")]);
    push(&mut b, p, &[(PathRecord::FORGET, "44.9.8.1:1")]);
    b.take();
    b.advance(PUNCH_WAIT_MAX_MS);
    assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Echo), addr("44.9.8.2:1"))]);
    assert_eq!(b.paths(p).len(), 1, "and the path that is there stays");
}

#[test]
fn s09_a_redirect_is_followed_only_when_its_target_answers_and_only_from_upstreams_and_controllers() {
    let (mut b, root) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    push(&mut b, p, &[(PathRecord::CLUSTER_REDIRECT, "44.9.9.20:9993")]);
    let sent = b.take_to(p);
    assert_eq!(verbs(&sent), [(Some(Verb::Hello), addr("44.9.9.20:9993"))]);
    b.receive_ok_hello(p, 5, "44.9.9.20:9993", &sent[0]);
    assert_eq!(b.paths(p).len(), 2);

    // The same from the controller of a network of ours.
    b.node.join(b.now, wire::NetworkId(p.to_u64() << 24 | 1), None);
    b.take();
    push(&mut b, p, &[(PathRecord::CLUSTER_REDIRECT, "44.9.9.30:9993")]);
    let sent = b.take_to(p);
    assert_eq!(verbs(&sent), [(Some(Verb::Hello), addr("44.9.9.30:9993"))]);
    assert_ne!(b.preferred(p).unwrap().1, addr("44.9.9.30:9993"));
    b.receive_ok_hello(p, 5, "44.9.9.30:9993", &sent[0]);
    assert_eq!(b.paths(p), [(5, addr("44.9.9.30:9993"))]);
    assert!(b.knows(root));
}

fn rendezvous(b: &mut Bench, from: Address, over: &str, peer: Address, endpoint: &str) {
    let mut payload = Vec::new();
    Rendezvous { flags: 0, peer, endpoint: Some(addr(endpoint)) }.write(&mut payload);
    b.receive(from, 6, over, Verb::Rendezvous, &payload);
}

#[test]
fn s10_a_rendezvous_of_an_upstream_is_obeyed_with_junk_and_timed_probes() {
    let (mut b, root) = Bench::leaf();
    let (p, old, unknown) = (b.actor(10), b.actor(11), b.actor(12));
    b.befriend(p, 5, AT_P);
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "44.9.9.50:7777");
    let sent = b.take();
    assert_eq!((sent[0].len, sent[0].ttl, sent[0].socket), (4, Some(2), Some(6)));
    assert_eq!((sent[0].remote, sent.len()), (addr("44.9.9.50:7777"), 1));
    let asked = b.ms();
    b.advance(2000);
    let probes = b.take_to(p);
    assert_eq!((probes[0].verb, probes[0].socket, probes[0].len), (Some(Verb::Echo), Some(6), 28));
    let after: Vec<u64> = times(&only(&probes, Verb::Echo)).iter().map(|at| at - asked).collect();
    assert!((PUNCH_WAIT_MIN_MS..=PUNCH_WAIT_MAX_MS).contains(&after[0]), "{after:?}");
    assert_eq!(after, [0, 200, 600, 1500].map(|ms| after[0] + ms));

    // One per named peer and two seconds.
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "44.9.9.51:7777");
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "44.9.9.52:7777");
    assert_eq!(b.take().iter().filter(|s| s.len == 4).count(), 1);

    // Of unknown version: HELLO from all links.
    b.actors.get_mut(&old).unwrap().version.protocol = 4;
    b.befriend(old, 5, "44.9.9.60:9993");
    rendezvous(&mut b, root, "44.1.1.1:9993", old, "44.9.9.61:7777");
    b.advance(PUNCH_WAIT_MAX_MS);
    let sent = b.take_to(old);
    assert_eq!((sent[0].verb, sent[0].socket), (Some(Verb::Hello), None));

    // About somebody unknown: asked for, and met when known in time.
    rendezvous(&mut b, root, "44.1.1.1:9993", unknown, "44.9.9.70:7777");
    let sent = b.take();
    assert_eq!(verbs(&sent), [(Some(Verb::Whois), addr("44.1.1.1:9993"))]);
    tell_identity(&mut b, root, &sent[0], unknown);
    b.advance(PUNCH_WAIT_MAX_MS);
    let sent: Vec<_> = b.take().into_iter().filter(|s| s.remote == addr("44.9.9.70:7777")).collect();
    assert_eq!((sent[0].len, sent[1].verb), (4, Some(Verb::Hello)));

    // From somebody who is no upstream, and to an address that is no path.
    rendezvous(&mut b, p, AT_P, old, "44.9.9.80:7777");
    assert!(b.take().iter().all(|s| s.remote != addr("44.9.9.80:7777")));
    b.advance(2500);
    b.take();
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "127.0.0.1:7777");
    assert!(b.take().is_empty());
    assert_eq!(b.node.counters().rendezvous_stranger, 1);
}

#[test]
fn s11_an_unknown_sender_is_asked_for_every_half_second_for_five_seconds() {
    let (mut b, root) = Bench::leaf();
    let q = b.actor(20);
    b.receive(q, 5, "44.7.7.7:9993", Verb::Echo, b"x");
    b.advance(10_000);
    let sent = b.take_to(root);
    let asked = times(&only(&sent, Verb::Whois));
    assert!((10..=12).contains(&asked.len()), "{asked:?}");
    assert!(asked.last().unwrap() - asked[0] <= 5_600);
    assert_eq!(b.node.counters().waiting_timeout, 1);
}

#[test]
fn s12_the_held_packet_goes_on_when_the_sender_is_known() {
    let (mut b, root) = Bench::leaf();
    let q = b.actor(20);
    b.receive(q, 5, "44.7.7.7:9993", Verb::Echo, b"x");
    let whois = b.take_to(root).remove(0);
    tell_identity(&mut b, root, &whois, q);
    let sent = b.take_to(q);
    assert_eq!(verbs(&sent), [(Some(Verb::Ok), addr("44.7.7.7:9993")), (Some(Verb::Hello), addr("44.7.7.7:9993"))]);
    assert_eq!((sent[0].suite, sent[1].socket), (Some(Suite::Salsa2012Poly1305), None));
}

#[test]
fn s13_spoofed_senders_do_not_push_out_the_held_packet() {
    let (mut b, root) = Bench::leaf();
    let q = b.actor(20);
    b.receive(q, 5, "44.7.7.7:9993", Verb::Echo, b"x");
    let whois = b.take_to(root).remove(0);
    for n in 0..32 {
        let spoofed = b.actor(100 + n);
        b.receive(spoofed, 5, &format!("44.7.8.{n}:9993"), Verb::Echo, b"");
    }
    b.take();
    tell_identity(&mut b, root, &whois, q);
    assert_eq!(only(&b.take_to(q), Verb::Ok).len(), 1);
}

#[test]
fn s14_frames_to_somebody_unknown_wait_and_leave_in_order() {
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let q = b.actor(20);
    for _ in 0..40 {
        b.send_frame(q);
    }
    let sent = b.take();
    assert_eq!(verbs(&sent), [(Some(Verb::Whois), addr("44.1.1.1:9993"))]);
    tell_identity(&mut b, root, &sent[0], q);
    let sent = b.take_to(q);
    assert_eq!(only(&sent, Verb::Frame).len(), 40);
    assert!(sent.iter().all(|s| s.remote == addr("44.1.1.1:9993")), "by relay");
}

#[test]
fn s15_hello_is_no_amplifier() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.advance(5000);
    b.take();
    for _ in 0..20 {
        let hello = b.hello(p, None, WorldRevision { id: 0xfeed, timestamp: 0 });
        b.deliver(5, "44.66.66.66:9993", hello);
    }
    let sent = b.take_to(p);
    assert_eq!(only(&sent, Verb::Ok).len(), 2);
    assert_eq!(only(&sent, Verb::Hello).len(), 1);
    assert!(sent.iter().all(|s| s.len <= 137), "no world to an address that is not verified");
    // Where it is verified, once a minute.
    for _ in 0..2 {
        let hello = b.hello(p, None, WorldRevision { id: 0xfeed, timestamp: 0 });
        b.deliver(5, AT_P, hello);
    }
    let sent = b.take_to(p);
    assert_eq!(sent.iter().filter(|s| s.len > 200).count(), 1);
    // And not more than eight a second in all.
    b.advance(2000);
    b.take();
    for n in 0..30 {
        b.receive_hello(p, 5, &format!("44.66.67.{n}:9993"));
    }
    assert_eq!(only(&b.take_to(p), Verb::Ok).len(), 8);
}

#[test]
fn s16_a_replayed_ok_teaches_nothing() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.receive_hello(p, 5, AT_P);
    let hello = b.take_to(p).remove(1);
    let payload = ok_payload(Verb::Hello, hello.id, &ok_hello_body(&hello.payload, V12, addr("44.5.6.7:1"), &[]));
    let ok = b.packet(p, Verb::Ok, &payload, Suite::AesGmacSiv, 0);
    b.deliver(5, AT_P, ok.clone());
    assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
    b.deliver(5, "44.66.66.66:9993", ok.clone());
    b.advance(60_000);
    b.take();
    b.deliver(5, "44.66.66.66:9993", ok);
    assert_eq!(b.paths(p), [(5, addr(AT_P))]);
    assert_eq!(b.node.counters().reply_unexpected, 2);
}

#[test]
fn s17_an_ok_to_a_packet_never_sent_teaches_nothing() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.receive(p, 5, "44.66.66.66:9993", Verb::Ok, &ok_payload(Verb::Echo, 0x1234_5678, b""));
    assert_eq!(b.paths(p), [(5, addr(AT_P))]);
    assert!(b.take_to(p).is_empty());
}
