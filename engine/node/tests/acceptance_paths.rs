//! The acceptance scenarios of the protocol's description, with the numbers of its gateway column, one script a row:
//! how paths and roots change, are kept, and are not stolen. // spec: paths, "Acceptance scenarios"

mod common;

use common::*;
use node::limits::IDENTITY_BURST;
use wire::message::{PathRecord, WorldRevision};
use wire::{Address, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";

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
    // The first verified packet has it probed, and the answer brings it back: a path may be dead one way only.
    b.answer(p, AT_P, 10);
    b.advance(200);
    b.receive(p, 5, AT_P, Verb::Nop, b"");
    b.send_frame(p);
    assert_eq!(only(&b.take_to(p), Verb::Frame)[0].remote, addr("44.1.1.1:9993"));
    b.advance(100);
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
fn s29_a_few_new_identities_per_prefix_and_then_one_every_two_seconds() {
    let (mut b, _) = Bench::leaf();
    for n in 0..IDENTITY_BURST as u64 {
        let p = b.actor(100 + n);
        b.receive_hello(p, 5, "44.9.9.1:1");
        assert!(b.knows(p));
    }
    let (q, r) = (b.actor(11), b.actor(12));
    b.advance(100);
    b.receive_hello(q, 5, "44.9.9.2:1");
    b.receive_hello(r, 5, "44.9.10.1:1");
    assert!(!b.knows(q) && b.knows(r));
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
