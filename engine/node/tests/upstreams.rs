//! Worlds, moons, roots and what is kept on disk; trusted paths, hints, and what shards report.

mod common;

use std::sync::Arc;

use common::*;
use node::{Activity, Event, LocalSocketId, Output, PhysicalNetwork, PlanChange, RestoreError, Settings, StateKey};
use wire::message::ErrorCode;
use wire::message::{ErrorMessage, InRe, WorldRevision};
use wire::{Address, DEFAULT_PLANET, SecretIdentity, Suite, Verb, World, WorldKind};

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";

/// A world like `of` at another time, signed by `signer`.
fn revised(of: &World, timestamp: u64, signer: &SecretIdentity) -> World {
    World::make(of.kind, of.id, timestamp, of.update_key, of.roots.clone(), signer)
}

/// `from` answers the next HELLO sent to it with these worlds.
fn offer(b: &mut Bench, from: Address, remote: &str, worlds: &[u8]) {
    b.silence(from);
    b.take();
    let hello = (0..70).find_map(|_| {
        b.advance(1000);
        b.take_to(from).into_iter().rfind(|s| s.verb == Some(Verb::Hello))
    });
    let hello = hello.expect("a HELLO");
    let body = ok_hello_body(&hello.payload, V12, addr("44.5.6.7:1"), worlds);
    b.receive(from, 5, remote, Verb::Ok, &ok_payload(Verb::Hello, hello.id, &body));
}

#[test]
fn a_planet_is_replaced_only_by_a_newer_one_that_is_rightly_signed_and_comes_from_an_upstream() {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    let world = b.install_planet(&[(root, &[AT_ROOT])]);
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 0);
    b.advance(1000);
    let signer = made_up(999);
    let older = revised(&world, 900, &signer).to_bytes();
    let forged = revised(&world, 2000, &made_up(998)).to_bytes();
    let newer = revised(&world, 3000, &signer);
    for wrong in [older, forged] {
        offer(&mut b, root, AT_ROOT, &wrong);
        assert_eq!(b.node.planet().unwrap().timestamp, 1000);
    }
    assert_eq!(b.node.counters().world_refused, 1);
    // A malformed world ends the packet's processing, and nothing else.
    offer(&mut b, root, AT_ROOT, &[1, 2, 3]);
    assert!(b.node.counters().dropped_malformed >= 1);
    // From a peer that is no upstream.
    let p = b.actor(10);
    b.receive_hello(p, 5, AT_P);
    let hello = b.take_to(p).remove(1);
    let body = ok_hello_body(&hello.payload, V12, addr("44.5.6.7:1"), &newer.to_bytes());
    b.receive(p, 5, AT_P, Verb::Ok, &ok_payload(Verb::Hello, hello.id, &body));
    assert_eq!(b.node.planet().unwrap().timestamp, 1000);
    offer(&mut b, root, AT_ROOT, &newer.to_bytes());
    assert_eq!(b.node.planet().unwrap().timestamp, 3000);
    assert_eq!(b.stored[&StateKey::Planet], Some(newer.to_bytes()));
    assert!(b.events.contains(&Event::WorldUpdated { id: 0xfeed }));
}

#[test]
fn saved_worlds_are_taken_or_refused_with_a_reason() {
    let mut b = Bench::new(1);
    assert!(matches!(b.node.restore_planet(b.now, &DEFAULT_PLANET[..569]), Err(RestoreError::World(_))));
    assert!(b.node.planet().is_none());
    b.node.restore_planet(b.now, DEFAULT_PLANET).unwrap();
    assert_eq!(b.node.peers(b.now).iter().filter(|p| p.upstream && p.planet).count(), 4);
    assert_eq!(b.node.restore_moon(b.now, DEFAULT_PLANET), Err(RestoreError::WorldKind));
    // Another planet stays out once there is one.
    let other = planet(&[(made_up(2).public(), &[AT_ROOT])], u64::MAX);
    b.node.restore_planet(b.now, &other.to_bytes()).unwrap();
    assert_eq!(b.node.planet().unwrap().id, 149_604_618);
    assert!(matches!(b.node.restore_peer(&[2, 1]), Err(RestoreError::Peer(_))));
}

#[test]
fn a_moon_is_brought_by_its_seed_and_only_if_it_signed_itself() {
    let (mut b, root) = Bench::leaf();
    let seed = b.actor(40);
    let signer = made_up(41);
    let roots = vec![wire::Root { identity: b.actors[&seed].identity(), endpoints: vec![addr("44.3.3.3:9993")] }];
    let make = |by: &Arc<SecretIdentity>| {
        World::make(WorldKind::Moon, 0xabc, 5, *signer.public().public_key(), roots.clone(), by)
    };
    assert!(b.node.orbit(b.now, 0xabc, seed));
    b.drain();
    assert_eq!(b.stored[&StateKey::Seed(0xabc)], Some(seed.to_string().into_bytes()), "a restart goes on waiting");
    b.advance(600);
    // The seed is unknown: asked for, then greeted by relay with the moon among the wanted ones.
    let whois = b.take_to(root).into_iter().find(|s| s.verb == Some(Verb::Whois)).unwrap();
    let mut body = Vec::new();
    b.actors[&seed].identity().write(&mut body);
    b.receive(root, 5, AT_ROOT, Verb::Ok, &ok_payload(Verb::Whois, whois.id, &body));
    b.advance(6000);
    let greeting = b.take_to(seed).into_iter().find(|s| s.verb == Some(Verb::Hello)).expect("a HELLO by relay");
    assert_eq!((greeting.remote, greeting.len), (addr(AT_ROOT), 137 + 17));
    let answer = |b: &mut Bench, hello: &Sent, moon: &World| {
        let body = ok_hello_body(&hello.payload, V12, addr("44.5.6.7:1"), &moon.to_bytes());
        b.receive_over(seed, 5, AT_ROOT, Verb::Ok, &ok_payload(Verb::Hello, hello.id, &body), 1);
    };
    answer(&mut b, &greeting, &make(&made_up(42)));
    assert_eq!(b.node.moons().count(), 0);
    b.advance(35_000);
    let again = b.take_to(seed).into_iter().find(|s| s.verb == Some(Verb::Hello)).expect("another");
    answer(&mut b, &again, &make(&signer));
    assert_eq!(b.node.moons().count(), 1);
    assert!(b.stored[&StateKey::Moon(0xabc)].is_some());
    assert_eq!(b.stored[&StateKey::Seed(0xabc)], None);
    // Now it is an upstream, greeted at its endpoint.
    b.advance(6000);
    assert!(b.take_to(seed).iter().any(|s| s.remote == addr("44.3.3.3:9993")));
    b.node.deorbit(b.now, 0xabc);
    b.drain();
    assert_eq!(b.stored[&StateKey::Moon(0xabc)], None);
    assert!(!b.node.peers(b.now).iter().any(|p| p.upstream && p.address == seed));
}

#[test]
fn worlds_that_the_real_tool_signed_are_taken_if_newer_and_signed_by_the_key_that_is_in_force() {
    let (_, file) = vectors::family("wire-world").remove(0);
    let real = |name: &str| {
        let case = file["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
        hex::decode(case["serialized"].as_str().unwrap()).unwrap()
    };
    let mut b = Bench::new(1);
    b.node.restore_planet(b.now, &real("planet-1")).unwrap();
    let real_moon = b.node.restore_moon(b.now, &real("moon-1")).unwrap();
    // A moon of ours beside them has the root that tells of the others.
    let root = b.actor(2);
    let roots = vec![wire::Root { identity: b.actors[&root].identity(), endpoints: vec![addr(AT_ROOT)] }];
    let signer = made_up(41);
    let ours = World::make(WorldKind::Moon, 0xabc, 5, *signer.public().public_key(), roots, &signer);
    b.node.restore_moon(b.now, &ours.to_bytes()).unwrap();
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 0);
    b.advance(1000);
    let offers = [
        ("planet-1", false),
        ("planet-0-no-roots", false),
        ("planet-5-foreign-key", false),
        ("planet-6-other-id", false),
        ("planet-with-moon-id", false),
        ("planet-2-same-key", true),
        ("planet-4-new-key", false),
        ("planet-3-rotate-key", true),
        ("planet-4-new-key", true),
        ("planet-1", false),
        ("moon-3-foreign", false),
        ("moon-2", true),
        ("moon-1", false),
    ];
    let revisions = |b: &Bench| {
        let moons = b.node.moons().map(|m| (m.id, m.timestamp)).collect::<Vec<_>>();
        (b.node.planet().unwrap().timestamp, moons)
    };
    for (name, taken) in offers {
        let before = revisions(&b);
        offer(&mut b, root, AT_ROOT, &real(name));
        assert_eq!(revisions(&b) != before, taken, "{name}");
    }
    assert_eq!(b.stored[&StateKey::Planet], Some(real("planet-4-new-key")));
    assert_eq!(b.stored[&StateKey::Moon(real_moon)], Some(real("moon-2")));
}

#[test]
fn a_waited_for_moon_is_asked_of_a_seed_that_we_talk_to_at_once_and_may_be_given_up() {
    let (mut b, root) = Bench::leaf();
    b.advance(20_000);
    b.take();
    assert!(b.node.orbit(b.now, 0xabc, root));
    b.advance(6000);
    assert!(b.take_to(root).iter().any(|s| s.verb == Some(Verb::Hello) && s.len == 137 + 17), "names the moon");
    assert_eq!(b.node.awaited_moons().collect::<Vec<_>>(), [(0xabc, root)]);
    b.node.deorbit(b.now, 0xabc);
    b.drain();
    assert_eq!((b.node.awaited_moons().count(), &b.stored[&StateKey::Seed(0xabc)]), (0, &None));
}

#[test]
fn a_collision_is_believed_when_two_upstreams_answer_our_hello_with_it() {
    let mut b = Bench::new(1);
    let roots = [b.actor(2), b.actor(3)];
    b.install_planet(&[(roots[0], &[AT_ROOT]), (roots[1], &["44.2.2.2:9993"])]);
    b.sockets(&[5]);
    b.advance(1000);
    let hellos: Vec<Sent> = b.take().into_iter().filter(|s| s.verb == Some(Verb::Hello)).collect();
    let collision = |id| {
        let mut payload = Vec::new();
        ErrorMessage { in_re: InRe::new(Verb::Hello, id), code: ErrorCode::IdentityCollision }.write(&mut payload);
        payload
    };
    b.receive(roots[0], 5, AT_ROOT, Verb::Error, &collision(77));
    assert_eq!(b.events, [Event::Online], "not a HELLO of ours");
    for (n, root) in roots.into_iter().enumerate() {
        let hello = hellos.iter().find(|s| s.to == root).unwrap();
        b.receive(root, 5, &hello.remote.to_string(), Verb::Error, &collision(hello.id));
        assert_eq!(b.events.pop(), Some(Event::IdentityCollision { reporter: root, confirmed: n == 1 }));
    }
    b.take();
    b.advance(60_000);
    assert!(b.take().is_empty(), "the identity is given up");
    assert!(b.node.counters().halted > 0);
}

#[test]
fn trusted_paths_carry_queued_packets_in_clear_and_answers_to_them_are_taken() {
    let trusted = PhysicalNetwork {
        prefix: "44.1.0.0/16".parse().unwrap(),
        blacklist: false,
        trusted_path_id: 0xabcd,
        mtu: Some(1400),
    };
    let mut b = Bench::with(made_up(1), Settings { physical: vec![trusted], ..Settings::default() });
    let root = b.actor(2);
    b.install_planet(&[(root, &[AT_ROOT])]);
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 0);
    b.advance(1000);
    b.take();
    let q = b.actor(20);
    b.node.send_user_message(b.now, q, 1, &[7; 3000]);
    let whois = b.take_to(root).remove(0);
    assert_eq!((whois.suite, whois.verb), (Some(Suite::TrustedPath), Some(Verb::Whois)));
    let mut body = Vec::new();
    b.actors[&q].identity().write(&mut body);
    b.receive(root, 5, AT_ROOT, Verb::Ok, &ok_payload(Verb::Whois, whois.id, &body));
    assert!(b.knows(q));
    let parts = b.take();
    assert!(parts.iter().all(|s| s.len <= 1400 && s.remote == addr(AT_ROOT)));
    // From elsewhere, or under another ID, such packets are nothing.
    let mut forged = whois.raw.clone();
    forged[8..13].copy_from_slice(&b.own.address().to_bytes());
    forged[13..18].copy_from_slice(&root.to_bytes());
    b.deliver(5, AT_P, forged.clone());
    forged[26] ^= 1;
    b.deliver(5, AT_ROOT, forged);
    assert_eq!(b.node.counters().dropped_untrusted_path, 2);
}

#[test]
fn an_operators_hint_is_tried_every_30_s_while_there_is_no_path() {
    let mut settings = Settings::default();
    let q = made_up(20).address();
    settings.peer_hints.insert(q, vec![addr("44.7.7.7:1")]);
    let mut b = Bench::with(made_up(1), settings);
    let (root, q) = (b.actor(2), b.actor(20));
    b.install_planet(&[(root, &[AT_ROOT])]);
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 0);
    b.advance(1000);
    b.receive_hello(q, 5, "44.1.1.1:9993"); // known, but over the relay's address
    b.take();
    for _ in 0..61 {
        b.node.send_user_message(b.now, q, 1, b"x");
        b.advance(1000);
    }
    let sent = b.take_to(q);
    assert_eq!(sent.iter().filter(|s| s.remote == addr("44.7.7.7:1") && s.verb == Some(Verb::Hello)).count(), 3);
}

#[test]
fn a_forgotten_peer_comes_back_from_the_cache_with_one_hello_to_each_endpoint() {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.receive_frame(p, 5, AT_P, 0);
    b.advance(540_000);
    let file = b.stored[&StateKey::Peer(p)].clone().expect("written when forgotten");
    assert!(!b.knows(p));
    let (mut c, root) = Bench::leaf();
    let p = c.actor(10);
    assert_eq!(c.node.restore_peer(&file), Ok(p));
    c.node.send_user_message(c.now, p, 1, b"x");
    let sent = c.take();
    assert_eq!(only(&sent, Verb::Hello)[0].remote, addr(AT_P));
    let message = only(&sent, Verb::UserMessage)[0];
    assert_eq!((message.remote, message.suite), (addr(AT_ROOT), Some(Suite::AesGmacSiv)), "its version is known too");
    assert!(only(&sent, Verb::Whois).is_empty() && c.knows(root));
    c.node.save_peers();
    c.drain();
    assert!(c.stored[&StateKey::Peer(root)].is_some());
}

/// A leaf with a member that the shards know of.
fn with_member() -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 5);
    b.actors.get_mut(&p).unwrap().only_socket = Some(5);
    b.receive_frame(p, 5, AT_P, 0);
    b.advance(1000);
    b.take();
    (b, p)
}

#[test]
fn shards_are_told_of_networks_members_and_routes_in_an_order_they_can_use() {
    let (b, p) = with_member();
    let mut peer = None;
    let mut member = false;
    for output in &b.others {
        match output {
            Output::Plan(PlanChange::Peer { address, suite, route, paths, .. }) if *address == p => {
                peer = Some((*suite, route.unwrap(), paths.clone()));
            }
            Output::Plan(PlanChange::Member { address, allowed, .. }) if *address == p => {
                assert!(*allowed && peer.is_some());
                member = true;
            }
            _ => {}
        }
    }
    let (suite, route, paths) = peer.unwrap();
    assert!(member && route.direct);
    assert_eq!((suite, route.mtu, route.remote), (Suite::AesGmacSiv, 1432, addr(AT_P)));
    assert_eq!(paths, [(LocalSocketId(5), addr(AT_P))]);
}

#[test]
fn an_operator_may_have_everything_encrypted_with_salsa() {
    let (mut b, p) = with_member();
    b.others.clear();
    b.node.set_settings(b.now, Settings { salsa_only: true, ..Settings::default() });
    b.advance(6000);
    let mut suites = b.others.iter().filter_map(|output| match output {
        Output::Plan(PlanChange::Peer { address, suite, .. }) if *address == p => Some(*suite),
        _ => None,
    });
    assert_eq!(suites.next_back(), Some(Suite::Salsa2012Poly1305));
}

#[test]
fn a_narrow_way_makes_datagrams_smaller_but_never_smaller_than_ipv6_carries() {
    let (mut b, p) = with_member();
    let mtu = |b: &mut Bench| {
        b.others.drain(..).rev().find_map(|output| match output {
            Output::Plan(PlanChange::Peer { address, route: Some(route), .. }) if address == p => Some(route.mtu),
            _ => None,
        })
    };
    let at = addr(AT_P).ip();
    mtu(&mut b);
    let narrow = |b: &mut Bench, to| {
        let done = b.node.narrow(b.now, at, to);
        b.drain();
        (done, mtu(b))
    };
    assert_eq!(narrow(&mut b, 1432), (false, None), "as configured");
    assert_eq!(narrow(&mut b, 1372), (true, Some(1372)));
    assert_eq!(narrow(&mut b, 0), (true, Some(1232)), "what IPv6 guarantees is the least");
    assert_eq!(narrow(&mut b, 1000), (false, None));
    assert_eq!(b.node.counters().narrowed, 2);
}

#[test]
fn what_shards_report_keeps_paths_alive_teaches_new_ones_and_finds_dead_ones() {
    let (mut b, p) = with_member();
    let report = |remote: &str, rx, tx| Activity {
        peer: p,
        socket: LocalSocketId(5),
        remote: addr(remote),
        hops0: true,
        rx_packets: rx,
        tx_packets: tx,
        rx_bytes: 100 * rx,
        tx_bytes: 100 * tx,
        nontrivial: rx > 0,
    };
    // Traffic both ways: no probes, however long.
    b.silence(p);
    for _ in 0..300 {
        b.node.handle_activity(b.now, &[report(AT_P, 10, 10)]);
        b.advance(100);
    }
    let sent = b.take_to(p);
    assert!(only(&sent, Verb::Echo).is_empty(), "{:?}", verbs(&sent));
    assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
    // From an unknown path: challenged.
    b.node.handle_activity(b.now, &[report("44.9.9.77:1", 1, 0)]);
    assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Hello), addr("44.9.9.77:1"))]);
    // Out only, and no answers: dead.
    let start = b.ms();
    while b.take_plan_route(p).as_deref() != Some(AT_ROOT) {
        b.node.handle_activity(b.now, &[report(AT_P, 0, 10)]);
        b.advance(50);
        assert!(b.ms() - start <= 2000);
    }
    assert_eq!(b.node.counters().path_suspected, 1);
    // Frames that come by that path again have it probed, and the answer brings it back.
    b.answer(p, AT_P, 10);
    b.advance(200);
    b.node.handle_activity(b.now, &[report(AT_P, 5, 0)]);
    b.advance(100);
    assert_eq!(b.take_plan_route(p).as_deref(), Some(AT_P));
}

#[test]
fn a_packet_that_a_shard_opened_is_handled_like_one_that_came_by_wire() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    let mut packet = b.packet(p, Verb::Echo, b"abc", Suite::AesGmacSiv, 0);
    b.actors[&p].keys.open(&mut packet).unwrap();
    b.node.handle_opened(b.now, LocalSocketId(5), addr(AT_P), &mut packet);
    assert_eq!(only(&b.take_to(p), Verb::Ok)[0].payload[9..], *b"abc");
    let mut whole = b.packet(p, Verb::Nop, b"", Suite::AesGmacSiv, 0);
    b.node.handle_reassembled(b.now, LocalSocketId(5), addr(AT_P), &mut whole);
    assert_eq!(b.node.counters().dropped_unauthenticated, 0);
}

#[test]
fn new_addresses_of_ours_are_pushed_without_waiting_two_minutes() {
    let (mut b, p) = with_member();
    b.advance(20_000);
    b.take();
    b.sockets(&[8]);
    b.advance(1000);
    let sent = b.take_to(p);
    let push = only(&sent, Verb::PushDirectPaths);
    assert_eq!(push.len(), 1);
    let told: Vec<_> = wire::message::PathRecord::records(&push[0].payload).map(|r| r.unwrap().endpoint).collect();
    assert!(told.contains(&addr("172.16.8.1:9993")));
}

#[test]
fn a_family_that_appears_later_has_the_root_greeted_in_it_within_a_second() {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    let at_root_v6 = "[2600::1]:9993";
    b.install_planet(&[(root, &[AT_ROOT, at_root_v6])]);
    let socket = |id: u64, local: &str| node::Socket {
        id: LocalSocketId(id),
        local: addr(local),
        link: "eth0".into(),
        port: node::Port::Primary,
    };
    b.node.add_socket(b.now, socket(5, "172.16.5.1:9993"));
    b.answer(root, AT_ROOT, 10);
    b.advance(10_000);
    b.take();
    b.node.add_socket(b.now, socket(105, "[fd00::5]:9993"));
    b.advance(1000);
    let sent = b.take_to(root);
    assert_eq!(verbs(&sent), [(Some(Verb::Hello), addr(at_root_v6))]);
    assert_eq!(sent[0].socket, Some(105));
}

#[test]
fn a_closed_socket_takes_its_paths_with_it_and_peers_are_sought_from_the_others() {
    let (mut b, p) = with_member();
    b.actors.get_mut(&p).unwrap().only_socket = None;
    b.node.remove_socket(b.now, LocalSocketId(5));
    let sent = b.take();
    assert!(sent.iter().any(|s| s.to == p && s.verb == Some(Verb::Hello) && s.remote == addr(AT_P)));
    assert!(sent.iter().any(|s| s.verb == Some(Verb::Hello) && s.remote == addr(AT_ROOT)));
    assert!(b.paths(p).iter().all(|(socket, _)| *socket != 5));
    b.advance(100);
    assert!(b.preferred(p).is_some_and(|(socket, _)| socket != 5), "learned over another socket");
}

#[test]
fn a_peer_at_1_8_8_is_probed_once_a_second() {
    let (mut b, p) = with_member();
    b.actors.get_mut(&p).unwrap().version = wire::message::Version { protocol: 12, major: 1, minor: 8, revision: 8 };
    let hello = b.hello(p, None, WorldRevision { id: 0, timestamp: 0 });
    b.deliver(5, AT_P, hello);
    b.take();
    for _ in 0..10 {
        b.send_frame(p);
        b.advance(1000);
    }
    let sent = b.take_to(p);
    let echoes: Vec<u64> = only(&sent, Verb::Echo).iter().map(|s| s.at_ms).collect();
    assert!(!echoes.is_empty() && echoes.windows(2).all(|w| w[1] - w[0] >= 1000), "{echoes:?}");
}

#[test]
fn with_fast_failover_off_not_one_more_packet_is_sent_than_zerotierone_would() {
    let (mut b, p) = with_member();
    b.node.set_settings(b.now, Settings { fast_failover: false, ..Settings::default() });
    b.advance(3000);
    b.take();
    for _ in 0..20 {
        b.send_frame(p);
        b.advance(500);
    }
    let sent = b.take_to(p);
    assert!(sent.iter().all(|s| s.verb == Some(Verb::Frame)), "{:?}", verbs(&sent));
}

#[test]
fn a_lie_of_an_upstream_does_not_lock_out_the_honest_owner_of_the_address() {
    let (mut b, root) = Bench::leaf();
    b.prover = Prover::Silent;
    let honest = made_up(10);
    let p = honest.address();
    let key = zeroize::Zeroizing::new([9; 64]);
    let told = |b: &mut Bench| {
        b.node.send_user_message(b.now, p, 1, b"hello");
        let whois = only(&b.take_to(root), Verb::Whois)[0].clone();
        tell_identity(b, root, &whois, p);
    };
    b.play(Arc::new(wire::SecretIdentity::from_parts(p, key)));
    told(&mut b);
    assert!(b.knows(p), "used at once");
    let (ticket, liar) = b.proofs.pop_back().unwrap();
    assert_eq!(liar.address(), p);
    b.node.handle_proof(b.now, ticket, false);
    assert!(!b.knows(p));
    // The same lie is not believed again, the truth is.
    b.advance(1000);
    b.take();
    told(&mut b);
    assert!(!b.knows(p));
    assert_eq!(b.node.counters().whois_answer_refused, 1);
    b.play(honest);
    b.receive_hello(p, 5, "44.9.9.9:9993");
    let (ticket, _) = b.proofs.pop_back().unwrap();
    b.node.handle_proof(b.now, ticket, true);
    assert!(b.knows(p));
}

#[test]
fn a_relay_that_hides_its_hops_does_not_become_the_path_of_those_behind_it() {
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.node.send_user_message(b.now, p, 1, b"hello");
    let whois = only(&b.take_to(root), Verb::Whois)[0].clone();
    tell_identity(&mut b, root, &whois, p);
    b.take();
    let dictionary = OPEN_NETWORK.0.to_be_bytes().to_vec();
    b.node.controller_reply(b.now, p, Verb::NetworkConfig, dictionary);
    let pushed = only(&b.take_to(p), Verb::NetworkConfig)[0].clone();
    assert_eq!(pushed.remote, addr(AT_ROOT));
    // spec: wire, "OK for NETWORK_CONFIG": it claims to answer an ECHO
    b.receive(p, 5, AT_ROOT, Verb::Ok, &ok_payload(Verb::Echo, pushed.id, b""));
    assert!(b.paths(p).is_empty());
    assert!(b.take_to(p).is_empty(), "and no challenge, which the relay would pass on too");
}

const AT_OTHER_ROOT: &str = "44.2.2.2:9993";

/// A leaf with two roots that answer after so many milliseconds, and a member at [`AT_P`] with a direct path.
fn between_two_roots(delays: [u64; 2]) -> (Bench, [Address; 2], Address) {
    let mut b = Bench::new(1);
    let roots = [b.actor(2), b.actor(3)];
    b.install_planet(&[(roots[0], &[AT_ROOT]), (roots[1], &[AT_OTHER_ROOT])]);
    b.sockets(&[5]);
    b.answer(roots[0], AT_ROOT, delays[0]);
    b.answer(roots[1], AT_OTHER_ROOT, delays[1]);
    b.advance(2000);
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 5);
    b.actors.get_mut(&p).unwrap().only_socket = Some(5);
    b.receive_frame(p, 5, AT_P, 0);
    b.advance(1000);
    b.take();
    (b, roots, p)
}

fn best_root(b: &Bench) -> Option<Address> {
    b.node.peers(b.now).into_iter().find(|p| p.best_upstream).map(|p| p.address)
}

#[test]
fn a_root_keeps_its_place_until_another_is_better_by_a_fifth() {
    let (mut b, roots, _) = between_two_roots([100, 105]);
    assert_eq!(best_root(&b), Some(roots[0]));
    let delay = |b: &mut Bench, ms| {
        b.silence(roots[1]);
        b.answer(roots[1], AT_OTHER_ROOT, ms);
        b.advance(600_000);
    };
    delay(&mut b, 85);
    assert_eq!(best_root(&b), Some(roots[0]), "15 % better");
    delay(&mut b, 70);
    assert_eq!(best_root(&b), Some(roots[1]), "30 % better");
    delay(&mut b, 110);
    assert_eq!(best_root(&b), Some(roots[1]), "10 % worse");
}

#[test]
fn when_a_root_dies_direct_paths_do_not_notice_and_who_is_asked_for_is_found_through_the_other() {
    let (mut b, roots, p) = between_two_roots([20, 50]);
    b.events.clear();
    b.silence(roots[0]);
    // Frames both ways over the direct path go on as before, for as long as it takes to see that the root is gone.
    for _ in 0..120 {
        b.send_frame(p);
        b.receive_frame(p, 5, AT_P, 0);
        b.advance(500);
        let sent = b.take_to(p);
        assert!(only(&sent, Verb::Frame).iter().all(|frame| frame.remote == addr(AT_P)), "{:?}", verbs(&sent));
        assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
    }
    assert_eq!((best_root(&b), b.events.len()), (Some(roots[1]), 0), "{:?}", b.events);
}

#[test]
fn a_question_that_a_dead_root_does_not_answer_reaches_another_root_within_ten_seconds() {
    let (mut b, roots, _) = between_two_roots([20, 50]);
    b.silence(roots[0]);
    let (q, start) = (b.actor(20), b.ms());
    b.node.send_user_message(b.now, q, 1, b"hello");
    let asked = loop {
        assert!(b.ms() - start <= 10_000, "never asked of the other root");
        b.advance(100);
        let whois = b.take().into_iter().find(|s| s.verb == Some(Verb::Whois) && s.to == roots[1]);
        if let Some(whois) = whois {
            break whois;
        }
    };
    tell_identity(&mut b, roots[1], &asked, q);
    assert!(only(&b.take_to(q), Verb::UserMessage).len() == 1, "and the message leaves");
}

#[test]
fn we_are_online_while_one_root_answers_and_offline_after_500_s_without_any() {
    let (mut b, roots, _) = between_two_roots([20, 50]);
    b.events.clear();
    b.silence(roots[0]);
    b.advance(700_000);
    assert!(b.node.is_online() && !b.events.contains(&Event::Offline));
    b.silence(roots[1]);
    let silent = b.ms();
    while b.node.is_online() {
        b.advance(1000);
        assert!(b.ms() - silent <= 520_000);
    }
    assert!(b.ms() - silent >= 470_000 && b.events.contains(&Event::Offline));
    b.answer(roots[0], AT_ROOT, 20);
    b.advance(10_000);
    assert!(b.node.is_online() && b.events.last() == Some(&Event::Online));
}

#[test]
fn udp_counts_as_heard_only_if_it_is_authentic_straight_and_from_the_internet() {
    let (mut b, root) = Bench::leaf();
    let heard = |b: &Bench, socket| b.node.heard_from_the_internet_ms(|s| s == LocalSocketId(socket));
    assert!(b.node.has_internet_root());
    b.silence(root);
    let before = heard(&b, 5).expect("the root was");
    b.advance(1000);
    b.deliver(5, AT_ROOT, vec![7; 100]);
    assert_eq!((heard(&b, 5), heard(&b, 42)), (Some(before), None), "junk is nothing");
    b.receive(root, 5, AT_ROOT, Verb::Nop, b"");
    assert_eq!(heard(&b, 5), Some(b.now.ms()));
    let p = b.actor(10);
    b.sockets(&[70]);
    b.befriend(p, 70, "10.9.9.9:9993");
    assert!(b.paths(p).iter().any(|(socket, _)| *socket == 70));
    assert_eq!(heard(&b, 70), None, "the LAN is not the Internet");
    b.take();
    b.node.greet_upstreams(b.now, |s| s == LocalSocketId(5));
    b.drain();
    let sent = b.take();
    assert_eq!(verbs(&sent), [(Some(Verb::Hello), addr(AT_ROOT))]);
    assert_eq!(sent[0].socket, Some(5));
    let (mut inside, root) = (Bench::new(1), b.actors[&root].identity());
    inside.node.restore_planet(inside.now, &planet(&[(&root, &["10.1.1.1:9993"])], 1).to_bytes()).unwrap();
    assert!(!inside.node.has_internet_root(), "a root in the LAN");
}

#[test]
fn what_comes_late_over_a_closed_socket_teaches_no_path() {
    let (mut b, _) = Bench::leaf();
    b.sockets(&[9]);
    b.advance(1000);
    b.take();
    let p = b.actor(10);
    b.receive_hello(p, 9, AT_P);
    let hello = b.take_to(p).into_iter().rfind(|s| s.verb == Some(Verb::Hello)).expect("a challenge");
    b.node.remove_socket(b.now, LocalSocketId(9));
    b.receive_ok_hello(p, 9, AT_P, &hello);
    assert!(b.paths(p).iter().all(|(socket, _)| *socket != 9), "{:?}", b.paths(p));
}

#[test]
fn every_endpoint_of_a_silent_root_has_its_turn() {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    let endpoints = ["44.1.1.1:9993", "44.1.1.2:9993", "44.1.1.3:9993", "44.1.1.4:9993"];
    b.install_planet(&[(root, &endpoints)]);
    b.sockets(&[5]);
    b.take();
    let mut greeted = std::collections::BTreeSet::new();
    for _ in 0..endpoints.len() {
        b.advance(6000); // one ping check, jitter included
        greeted.extend(b.take_to(root).iter().filter(|s| s.verb == Some(Verb::Hello)).map(|s| s.remote));
    }
    assert_eq!(greeted.len(), endpoints.len(), "{greeted:?}");
}
