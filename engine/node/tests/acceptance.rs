//! The acceptance scenarios of the protocol's description, with the numbers of its gateway column. Each script is one
//! row of the table. // spec: paths, "Acceptance scenarios"

mod common;

use common::*;
use wire::message::{PathRecord, Rendezvous, WorldRevision};
use wire::{Address, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";

fn times(sent: &[&Sent]) -> Vec<u64> {
    sent.iter().map(|s| s.at_ms).collect()
}

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
        records.iter().map(|(flags, e)| PathRecord { flags: *flags, endpoint: addr(e) }).collect();
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
    let records: Vec<String> =
        (0..20).flat_map(|n| [format!("44.9.8.{n}:1"), format!("10.1.1.{n}:1"), format!("[2600::{n:x}]:1")]).collect();
    push(&mut b, p, &records.iter().map(|r| (0, r.as_str())).collect::<Vec<_>>());
    let sent = b.take_to(p);
    assert_eq!(only(&sent, Verb::Echo).len(), 24);
    assert_eq!(sent.iter().filter(|s| s.remote.is_ipv6()).count(), 8);
    assert_eq!(b.node.counters().push_over_class, 36);
    push(&mut b, p, &[(0, "44.9.8.77:1")]);
    assert!(b.take_to(p).is_empty());
    assert_eq!(b.node.counters().push_over_rate, 1);
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
    assert_eq!(sent[0].remote, addr("44.9.9.50:7777"));
    assert_eq!((sent[1].verb, sent[1].socket, sent[1].len), (Some(Verb::Echo), Some(6), 28));
    b.advance(2000);
    let retries = b.take_to(p);
    assert_eq!(times(&only(&retries, Verb::Echo)).len(), 3);

    // One per named peer and two seconds.
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "44.9.9.51:7777");
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "44.9.9.52:7777");
    assert_eq!(b.take().iter().filter(|s| s.len == 4).count(), 1);

    // Of unknown version: HELLO from all links.
    b.actors.get_mut(&old).unwrap().version.protocol = 4;
    b.befriend(old, 5, "44.9.9.60:9993");
    rendezvous(&mut b, root, "44.1.1.1:9993", old, "44.9.9.61:7777");
    let sent = b.take_to(old);
    assert_eq!((sent[0].verb, sent[0].socket), (Some(Verb::Hello), None));

    // About somebody unknown: asked for, and met when known in time.
    rendezvous(&mut b, root, "44.1.1.1:9993", unknown, "44.9.9.70:7777");
    let sent = b.take();
    assert_eq!(verbs(&sent), [(Some(Verb::Whois), addr("44.1.1.1:9993"))]);
    tell_identity(&mut b, root, &sent[0], unknown);
    assert_eq!(b.take().iter().filter(|s| s.remote == addr("44.9.9.70:7777")).count(), 2);

    // From somebody who is no upstream, and to an address that is no path.
    rendezvous(&mut b, p, AT_P, old, "44.9.9.80:7777");
    assert!(b.take().iter().all(|s| s.remote != addr("44.9.9.80:7777")));
    b.advance(2500);
    b.take();
    rendezvous(&mut b, root, "44.1.1.1:9993", p, "127.0.0.1:7777");
    assert!(b.take().is_empty());
    assert_eq!(b.node.counters().rendezvous_stranger, 1);
}

/// The root answers a WHOIS of ours.
fn tell_identity(b: &mut Bench, root: Address, whois: &Sent, who: Address) {
    let mut body = Vec::new();
    b.actors[&who].identity().write(&mut body);
    let payload = ok_payload(Verb::Whois, whois.id, &body);
    let over = whois.remote.to_string();
    b.receive(root, whois.socket.unwrap(), &over, Verb::Ok, &payload);
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

/// An OK(HELLO) of a root to its next HELLO, seeing us at `surface`; the root answers nothing else meanwhile.
fn seen_at(b: &mut Bench, root: Address, surface: &str) {
    b.silence(root);
    b.advance(67_000);
    let hello = b.take_to(root).into_iter().rfind(|s| s.verb == Some(Verb::Hello)).unwrap();
    let body = ok_hello_body(&hello.payload, V12, addr(surface), &[]);
    let over = hello.remote.to_string();
    b.receive(root, 5, &over, Verb::Ok, &ok_payload(Verb::Hello, hello.id, &body));
}

#[test]
fn s18_only_an_upstream_that_sees_us_at_another_ip_resets_paths() {
    let (mut b, root) = Bench::leaf();
    let p = b.actor(10);
    seen_at(&mut b, root, "44.5.6.7:1234");
    b.befriend(p, 5, AT_P);
    b.take();
    // A stranger says something else.
    let hello = b.hello(p, Some(addr("99.1.1.1:9993")), WorldRevision { id: 0xfeed, timestamp: 1000 });
    b.deliver(5, AT_P, hello);
    assert_eq!(b.node.counters().surface_resets, 0);
    assert_eq!(b.node.counters().surface_stranger, 3);
    seen_at(&mut b, root, "44.5.6.7:4321");
    assert_eq!(b.node.counters().surface_resets, 0);
    b.take();
    // The root does.
    let hello = b.hello(root, Some(addr("99.1.1.1:9993")), WorldRevision { id: 0xfeed, timestamp: 1000 });
    b.deliver(5, "44.1.1.1:9993", hello);
    let sent = b.take();
    assert!(
        sent.iter().any(|s| s.to == p && s.verb == Some(Verb::Echo) && s.remote == addr(AT_P) && s.socket == Some(5))
    );
    assert_eq!(b.preferred(p), None);
    b.join_open();
    b.send_frame(p);
    assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr("44.1.1.1:9993"));
    let echo = sent.iter().find(|s| s.to == p).unwrap();
    b.receive(p, 5, AT_P, Verb::Ok, &ok_payload(Verb::Echo, echo.id, b""));
    b.send_frame(p);
    assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr(AT_P));
}

/// Sends a frame a second until one takes another way than `dead`; returns the milliseconds that took.
fn time_to_leave(b: &mut Bench, to: Address, dead: &[&str]) -> u64 {
    let start = b.ms();
    for _ in 0..600 {
        b.send_frame(to);
        let taken = b.take_to(to);
        let frame = only(&taken, Verb::Frame)[0];
        if !dead.contains(&frame.remote.to_string().as_str()) {
            return b.ms() - start;
        }
        for _ in 0..10 {
            b.advance(100);
            let way = b.take_plan_route(to);
            if way.is_some_and(|r| !dead.contains(&r.as_str())) {
                return b.ms() - start;
            }
        }
    }
    panic!("never left the dead path");
}

/// A leaf that exchanges a frame a second with `p` over these paths of socket 5, every one of which answers.
fn busy(paths: &[&str]) -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    for path in paths {
        b.befriend(p, 5, path);
        b.actors.get_mut(&p).unwrap().only_socket = Some(5);
        b.answer(p, path, 10);
    }
    b.receive_frame(p, 5, paths[0], 0);
    b.advance(1000);
    for _ in 0..5 {
        b.send_frame(p);
        b.advance(1000);
    }
    b.take();
    (b, p)
}

#[test]
fn s19_a_single_dead_path_is_left_for_the_relay_within_two_seconds() {
    let (mut b, p) = busy(&[AT_P]);
    assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
    b.silence(p);
    let took = time_to_leave(&mut b, p, &[AT_P]);
    assert!(took <= 2000, "{took} ms");
    assert_eq!(b.events.last(), Some(&node::Event::PeerRelayed { peer: p }));
    // The first verified packet brings it back.
    b.receive(p, 5, AT_P, Verb::Nop, b"");
    b.send_frame(p);
    assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr(AT_P));
}

#[test]
fn s20_the_better_of_two_paths_dies_and_the_other_is_taken_within_a_second() {
    let (mut b, p) = busy(&["44.9.9.10:9993", AT_P]);
    let (_, best) = b.preferred(p).unwrap();
    b.actors.get_mut(&p).unwrap().answers.retain(|(remote, _)| *remote != best);
    let took = time_to_leave(&mut b, p, &[&best.to_string()]);
    assert!(took <= 1000, "{took} ms");
    assert_eq!(b.paths(p).len(), 2);
}

#[test]
fn s21_junk_from_the_dead_paths_source_keeps_nothing_alive() {
    let (mut b, p) = busy(&["44.9.9.10:9993", AT_P]);
    let (_, best) = b.preferred(p).unwrap();
    b.actors.get_mut(&p).unwrap().answers.retain(|(remote, _)| *remote != best);
    let start = b.ms();
    for _ in 0..10 {
        b.send_frame(p);
        b.advance(250);
        b.deliver(5, &best.to_string(), vec![7; 20]);
        b.advance(250);
        if b.preferred(p).unwrap().1 != best {
            break;
        }
    }
    assert!(b.ms() - start <= 1000);
}

/// A leaf with two roots of these round trips, relaying a frame a second.
fn two_roots(rtts: [u64; 2]) -> (Bench, Address, [Address; 2]) {
    let mut b = Bench::new(1);
    let roots = [b.actor(2), b.actor(3)];
    b.install_planet(&[(roots[0], &["44.1.1.1:9993"]), (roots[1], &["44.2.2.2:9993"])]);
    b.sockets(&[5]);
    for (root, (at, rtt)) in roots.iter().zip(["44.1.1.1:9993", "44.2.2.2:9993"].into_iter().zip(rtts)) {
        b.answer(*root, at, rtt);
    }
    b.advance(2000);
    b.join_open();
    let p = b.actor(10);
    b.send_frame(p);
    let whois = b.take().into_iter().find(|s| s.verb == Some(Verb::Whois)).unwrap();
    tell_identity(&mut b, whois.to, &whois, p);
    b.take();
    (b, p, roots)
}

#[test]
fn s22_a_dead_best_root_is_replaced_within_ten_seconds() {
    for other in [30, 100, 250] {
        let (mut b, p, roots) = two_roots([20, other]);
        b.send_frame(p);
        assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr("44.1.1.1:9993"));
        b.silence(roots[0]);
        let took = time_to_leave(&mut b, p, &["44.1.1.1:9993"]);
        assert!(took <= 10_000, "{took} ms");
    }
}

#[test]
fn s23_a_root_at_0_ms_is_the_best_one() {
    let (mut b, p, _) = two_roots([150, 0]);
    b.send_frame(p);
    assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr("44.2.2.2:9993"));
}

#[test]
fn s24_a_relayed_hello_is_answered_by_the_relay_and_teaches_nothing() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    let mut hello = b.hello(p, None, WorldRevision { id: 0xfeed, timestamp: 1000 });
    wire::Packet::new(&mut hello[..]).unwrap().increment_hops();
    b.deliver(5, "44.1.1.1:9993", hello);
    assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Ok), addr("44.1.1.1:9993"))]);
    assert!(b.paths(p).is_empty());
}

#[test]
fn s25_a_relayed_trusted_peer_is_pushed_our_addresses_at_least_15_s_apart() {
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.receive_frame(p, 5, "44.1.1.1:9993", 1);
    let whois = b.take_to(root).into_iter().find(|s| s.verb == Some(Verb::Whois)).unwrap();
    tell_identity(&mut b, root, &whois, p);
    for _ in 0..30 {
        b.advance(10_000);
        b.receive_frame(p, 5, "44.1.1.1:9993", 1);
    }
    let sent = b.take_to(p);
    let pushes = only(&sent, Verb::PushDirectPaths);
    assert!(pushes.iter().all(|s| s.remote == addr("44.1.1.1:9993")));
    assert!(pushes.iter().all(|s| s.suite == Some(Suite::Salsa2012Poly1305)));
    assert!(times(&pushes).windows(2).all(|w| w[1] - w[0] >= 15_000));
    assert!(times(&pushes)[2..].windows(2).all(|w| w[1] - w[0] > 30_000), "lets the remote's counter run out");
    assert!((7..=12).contains(&pushes.len()), "{:?}", times(&pushes));
}

#[test]
fn s26_a_leaf_relays_for_nobody() {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let (p, q) = (b.actor(10), b.actor(11));
    b.befriend(p, 5, AT_P);
    b.befriend(q, 5, "44.8.8.8:9993");
    b.receive_frame(p, 5, AT_P, 0);
    b.take();
    let mut packet = wire::packet::head(7, q, p, Verb::Nop as u8);
    packet.extend_from_slice(&[0; 20]);
    for _ in 0..3 {
        b.deliver(5, AT_P, packet.clone());
    }
    assert!(b.take().is_empty());
    assert_eq!(b.node.counters().dropped_not_for_us, 3);
}

#[test]
fn s27_a_frame_that_fails_the_gate_is_answered_by_one_error() {
    let (mut b, _) = Bench::leaf();
    let (controller, p) = (b.actor(30), b.actor(10));
    let network = wire::NetworkId(controller.to_u64() << 24 | 1);
    b.node.join(b.now, network, None);
    b.befriend(p, 5, AT_P);
    let mut payload = network.0.to_be_bytes().to_vec();
    payload.extend_from_slice(&[8, 0, 1, 2, 3]);
    b.receive(p, 5, AT_P, Verb::Frame, &payload);
    b.advance(5500);
    let sent = b.take_to(p);
    assert_eq!(only(&sent, Verb::Error).len(), 1);
    assert_eq!(only(&sent, Verb::Error)[0].len, 46);
}

fn pushed(sent: &[Sent]) -> Vec<std::net::SocketAddr> {
    let pushes = only(sent, Verb::PushDirectPaths);
    pushes.iter().flat_map(|p| PathRecord::records(&p.payload).map(|r| r.unwrap().endpoint)).collect()
}

#[test]
fn s28_surfaces_told_by_a_stranger_are_not_pushed() {
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let (p, q) = (b.actor(10), b.actor(11));
    seen_at(&mut b, root, "44.5.6.7:1234");
    b.befriend(p, 5, AT_P);
    b.befriend(q, 5, "44.8.8.8:9993");
    for n in 0..20 {
        let hello = b.hello(p, Some(addr(&format!("99.1.1.{n}:9993"))), WorldRevision { id: 0xfeed, timestamp: 1000 });
        b.deliver(5, AT_P, hello);
    }
    b.take();
    b.receive_frame(q, 5, "44.8.8.8:9993", 0);
    let pushed = pushed(&b.take_to(q));
    assert!(pushed.contains(&addr("44.5.6.7:1234")), "{pushed:?}");
    assert!(pushed.contains(&addr("172.16.5.1:9993")));
    assert!(pushed.iter().all(|e| !e.to_string().starts_with("99.")));
}

#[test]
fn s29_one_new_identity_per_prefix_and_two_seconds() {
    let (mut b, _) = Bench::leaf();
    let (p, q, r) = (b.actor(10), b.actor(11), b.actor(12));
    b.receive_hello(p, 5, "44.9.9.1:1");
    b.advance(100);
    b.receive_hello(q, 5, "44.9.9.2:1");
    b.receive_hello(r, 5, "44.9.10.1:1");
    assert!(b.knows(p) && !b.knows(q) && b.knows(r));
    assert_eq!(b.node.counters().hello_over_identity_gate, 1);
    b.advance(2000);
    b.receive_hello(q, 5, "44.9.9.2:1");
    assert!(b.knows(q));
}

/// `from` proves a path by answering a HELLO there.
fn prove(b: &mut Bench, from: Address, socket: u64, remote: &str) {
    b.receive(from, socket, remote, Verb::Nop, b"");
    let sent = b.take_to(from);
    if let Some(hello) = sent.iter().find(|s| s.verb == Some(Verb::Hello) && s.remote == addr(remote)) {
        b.receive_ok_hello(from, socket, remote, hello);
    }
    b.take();
}

#[test]
fn s30_a_peer_has_64_slots_a_stranger_4_and_the_last_verified_path_stays() {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    for n in 0..10 {
        prove(&mut b, p, 5, &format!("44.20.0.{n}:9993"));
        b.advance(1000);
    }
    assert_eq!(b.paths(p).len(), 4);
    b.receive_frame(p, 5, AT_P, 0);
    for n in 0..100 {
        prove(&mut b, p, 5, &format!("44.21.0.{n}:9993"));
        b.advance(1000);
    }
    assert_eq!(b.paths(p).len(), 64);
    assert!(b.paths(p).contains(&(5, addr("44.21.0.99:9993"))));
    assert!(b.preferred(p).is_some());
}

#[test]
fn s30a_one_remote_over_three_sockets_is_three_paths_and_the_last_is_preferred() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.receive_hello(p, 5, AT_P);
    let hello = b.take_to(p).remove(1);
    for socket in [5, 6, 7] {
        b.receive_ok_hello(p, socket, AT_P, &hello);
    }
    assert_eq!(b.paths(p), [5, 6, 7].map(|socket| (socket, addr(AT_P))));
    assert_eq!(b.preferred(p), Some((7, addr(AT_P))));
    // s30b: another port of that host on a socket where it is alive.
    prove(&mut b, p, 5, "44.9.9.9:1111");
    assert_eq!(b.paths(p).len(), 3);
}

#[test]
fn s32_a_fragment_from_somewhere_else_completes_nothing() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    let mut bytes = wire::packet::head(99, b.own.address(), p, Verb::Echo as u8);
    bytes.extend_from_slice(&[1; 2000]);
    wire::Packet::new(&mut bytes[..]).unwrap().set_fragmented(true);
    b.actors[&p].keys.seal(&mut bytes, Suite::AesGmacSiv);
    let parts: Vec<Vec<u8>> = wire::fragment::split(&bytes, 1432).unwrap().map(|part| part.to_vec()).collect();
    b.deliver(5, AT_P, parts[0].clone());
    b.deliver(5, "44.66.66.66:9993", parts[1].clone());
    assert!(b.take_to(p).is_empty());
    b.deliver(5, AT_P, parts[1].clone());
    let answer = b.take().into_iter().filter(|s| s.remote == addr(AT_P)).count();
    assert_eq!(answer, 2, "the answer is fragmented too");
}
