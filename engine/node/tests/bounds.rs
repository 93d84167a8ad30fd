//! Every bound on what others may cause, filled to the brim. // spec: paths, "Hardening bounds"

mod common;

use common::*;
use node::limits::*;
use node::{LocalSocketId, Settings};
use wire::message::{ConfigRequest, PathRecord, Rendezvous, SpreadNat, SpreadOffer, Whois, WorldRevision};
use wire::{Address, NetworkId, Packet, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";

fn node(n: u64) -> Address {
    Address::from_u64(n)
}

/// A packet of somebody whose key we do not have.
fn gibberish(own: Address, from: u64, flags: u8, len: usize) -> Vec<u8> {
    let mut bytes = wire::packet::head(from, own, node(from), 0x5a);
    bytes.resize(len, 0xa5);
    bytes[18] = flags;
    bytes
}

#[test]
fn what_does_not_authenticate_leaves_no_state_behind() {
    let (mut b, root) = Bench::leaf();
    let own = b.own.address();
    let before = b.node.gauges();
    for n in 0..20_000u32 {
        let remote = format!("{}.{}.{}.1:9", 1 + n % 90, n / 90 % 250, n / 22_500);
        b.deliver(5, &remote, vec![1; (n % 28) as usize]);
        b.deliver(5, &remote, gibberish(own, root.to_u64(), 0x18, 40));
    }
    assert_eq!(b.node.gauges(), before);
    assert_eq!(b.node.counters().dropped_unauthenticated, 20_000);
    assert!(b.take().is_empty());
}

#[test]
fn a_flood_of_unknown_senders_is_held_within_bounds_and_asks_for_50_a_second() {
    let (mut b, root) = Bench::leaf();
    let own = b.own.address();
    for n in 0..5000u64 {
        for _ in 0..6 {
            b.deliver(5, "44.66.66.66:9", gibberish(own, 0x30_0000_0000 + n, 0x18, 1400));
        }
    }
    let gauges = b.node.gauges();
    assert_eq!(gauges.waiting_packets, WAITING_MAX);
    assert!(gauges.waiting_bytes <= WAITING_BYTES_MAX && gauges.whois_pending <= 2 * WHOIS_PENDING_MAX);
    let asked = only(&b.take_to(root), Verb::Whois).len();
    assert_eq!(asked, WHOIS_PER_S as usize);
    assert_eq!(b.node.counters().waiting_full, 5000 * 6 - WAITING_MAX as u64);
    // What we want to send ourselves is asked for all the same.
    let friend = b.actor(50);
    b.node.send_user_message(b.now, friend, 1, b"hello");
    let sent = b.take_to(root);
    assert_eq!(only(&sent, Verb::Whois)[0].payload, friend.to_bytes());
    b.advance(1000);
    let sent = b.take_to(root);
    assert!(only(&sent, Verb::Whois).len() <= 2 * WHOIS_PER_S as usize, "batched");
    b.advance(WAITING_MS + 1000);
    assert_eq!(b.node.gauges().waiting_packets, 0);
    b.advance(REPLY_TIMEOUT_MS + 1000);
    assert_eq!(b.node.gauges().whois_pending, 0);
}

#[test]
fn a_flood_of_heads_without_fragments_is_bounded_and_expires() {
    let (mut b, _) = Bench::leaf();
    let own = b.own.address();
    for n in 0..5000u64 {
        let remote = format!("44.{}.{}.1:9", n % 200, n / 200);
        b.deliver(5, &remote, gibberish(own, n + 1, 0x58, 1432));
    }
    let gauges = b.node.gauges();
    assert!(gauges.reassembly_sets <= wire::fragment::SETS_TOTAL);
    assert!(gauges.reassembly_bytes <= wire::fragment::REASSEMBLY_BYTES);
    assert!(b.node.counters().dropped_fragment > 3000);
    b.advance(1100);
    assert_eq!(b.node.gauges().reassembly_sets, 0);
}

#[test]
fn new_identities_pass_20_a_second_and_64_wait_for_the_worker() {
    let (mut b, _) = Bench::leaf();
    b.prover = Prover::Silent;
    for n in 0..200 {
        let p = b.actor(100 + n);
        b.receive_hello(p, 5, &format!("44.50.{n}.1:9993"));
    }
    assert_eq!(b.proofs.len(), IDENTITIES_PER_S as usize);
    assert_eq!(b.node.counters().hello_over_identity_gate, 200 - u64::from(IDENTITIES_PER_S));
    for n in 0..200 {
        let p = b.actor(400 + n);
        b.receive_hello(p, 5, &format!("44.51.{n}.1:9993"));
        b.advance(60);
    }
    assert_eq!((b.proofs.len(), b.node.gauges().proofs), (PROOF_QUEUE_MAX, PROOF_QUEUE_MAX));
    assert!(b.node.counters().hello_proof_queue_full > 100);
    // Verdicts: a wrong one is no peer, a right one is.
    let (wrong, right) = (b.proofs[0].clone(), b.proofs[1].clone());
    b.node.handle_proof(b.now, wrong.0, false);
    b.node.handle_proof(b.now, right.0, true);
    assert!(!b.knows(wrong.1.address()) && b.knows(right.1.address()));
    assert_eq!(b.node.counters().identity_proof_failed, 1);
    // A worker that never answers does not block newcomers for ever.
    b.advance(PROOF_TIMEOUT_MS + 1000);
    assert_eq!(b.node.gauges().proofs, 0);
}

#[test]
fn strangers_are_at_most_4096_and_the_longest_silent_goes() {
    let (mut b, _) = Bench::leaf();
    let friend = b.actor(50);
    b.join_open();
    b.befriend(friend, 5, AT_P);
    b.receive_frame(friend, 5, AT_P, 0);
    for n in 0..STRANGERS_MAX as u64 + 50 {
        let p = b.actor(1000 + n);
        b.receive_hello(p, 5, &format!("45.{}.{}.1:9993", n / 250, n % 250));
        b.actors.remove(&p);
        b.advance(50);
        b.take();
    }
    let gauges = b.node.gauges();
    assert!(gauges.peers <= STRANGERS_MAX + 2, "{}", gauges.peers);
    assert!(b.node.counters().peers_evicted >= 50);
    assert!(b.knows(friend));
    assert!(b.knows(made_up(1000 + STRANGERS_MAX as u64 + 49).address()));
    assert!(!b.knows(made_up(1000).address()));
}

#[test]
fn a_peer_that_echoes_from_every_port_is_answered_64_times_a_second_and_takes_up_as_many_gates() {
    let (mut b, _) = Bench::leaf();
    let (p, q) = (b.actor(10), b.actor(11));
    b.befriend(p, 5, AT_P);
    b.befriend(q, 5, "44.8.8.8:9993");
    b.advance(2000);
    b.take();
    let before = b.node.gauges().path_gates;
    for port in 1..=5000 {
        b.receive(p, 5, &format!("44.9.9.9:{port}"), Verb::Echo, b"");
    }
    assert_eq!(only(&b.take_to(p), Verb::Ok).len(), ECHO_ANSWERS_PER_PEER_PER_S as usize);
    assert!(b.node.gauges().path_gates <= before + ECHO_ANSWERS_PER_PEER_PER_S as usize);
    b.receive(q, 5, "44.8.8.8:1", Verb::Echo, b"");
    assert_eq!(only(&b.take_to(q), Verb::Ok).len(), 1, "others are none the worse");
}

#[test]
fn unknown_paths_are_challenged_4_times_a_second_per_peer_and_200_times_in_all() {
    let (mut b, _) = Bench::leaf();
    let peers: Vec<Address> = (0..100).map(|n| b.actor(100 + n)).collect();
    for (n, &p) in peers.iter().enumerate() {
        b.receive_hello(p, 5, &format!("44.40.{n}.1:9993"));
        b.advance(100);
    }
    b.advance(2000);
    b.take();
    for (i, &p) in peers.iter().enumerate() {
        for n in 0..10 {
            b.receive(p, 5, &format!("44.{}.{n}.1:9993", 41 + i), Verb::Nop, b"");
        }
    }
    let sent = b.take();
    let hellos = only(&sent, Verb::Hello);
    let most = peers.iter().map(|p| hellos.iter().filter(|s| s.to == *p).count()).max();
    assert_eq!(most, Some(CHALLENGES_PER_PEER_PER_S as usize));
    assert_eq!(hellos.len(), CHALLENGES_PER_S as usize);
    assert_eq!(b.node.counters().challenge_over_rate, 1000 - u64::from(CHALLENGES_PER_S));
}

#[test]
fn an_ok_from_another_address_is_challenged_with_a_cookie_that_must_come_back() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.receive_hello(p, 5, AT_P);
    let hello = b.take_to(p).remove(1);
    let elsewhere = "44.66.66.66:9993";
    b.receive_ok_hello(p, 5, elsewhere, &hello);
    assert!(b.paths(p).is_empty());
    let echo = b.take_to(p).remove(0);
    assert_eq!((echo.verb, echo.remote, echo.payload.len()), (Some(Verb::Echo), addr(elsewhere), 8));
    b.receive(p, 5, elsewhere, Verb::Ok, &ok_payload(Verb::Echo, echo.id, b"another!"));
    assert!(b.paths(p).is_empty());
    assert_eq!(b.node.counters().path_unproven, 1);
    b.advance(1100);
    b.receive(p, 5, elsewhere, Verb::Nop, b"");
    b.take();
    b.advance(1100);
    // Again, honestly this time.
    b.receive_hello(p, 5, AT_P);
    let hello = b.take_to(p).into_iter().find(|s| s.verb == Some(Verb::Hello)).unwrap();
    b.receive_ok_hello(p, 5, elsewhere, &hello);
    let echo = b.take_to(p).remove(0);
    let cookie = echo.payload.clone();
    b.receive(p, 5, elsewhere, Verb::Ok, &ok_payload(Verb::Echo, echo.id, &cookie));
    assert_eq!(b.paths(p), [(5, addr(elsewhere))]);
}

fn push(b: &mut Bench, from: Address, socket: u64, endpoints: impl Iterator<Item = String>) {
    let records: Vec<PathRecord> = endpoints.map(|e| PathRecord::to(addr(&e))).collect();
    let mut payload = Vec::new();
    PathRecord::write_all(&records, &mut payload);
    b.receive(from, socket, AT_P, Verb::PushDirectPaths, &payload);
}

#[test]
fn a_spread_goes_only_where_an_upstream_says_that_the_peer_is_and_never_beyond_its_bounds() {
    const AT_ROOT: &str = "44.1.1.1:9993";
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.receive_frame(p, 5, AT_ROOT, 1);
    let whois = b.take_to(root).into_iter().find(|s| s.verb == Some(Verb::Whois)).unwrap();
    tell_identity(&mut b, root, &whois, p);
    let mut payload = Vec::new();
    Rendezvous { flags: 0, peer: p, endpoint: Some(addr("44.9.9.50:7777")) }.write(&mut payload);
    b.receive(root, 5, AT_ROOT, Verb::Rendezvous, &payload);
    b.advance(3000);
    b.take();
    let offer = |b: &mut Bench, at: &str, nonce: u64| {
        let offer = SpreadOffer { answer: false, nat: SpreadNat::Symmetric, sockets: u16::MAX, nonce }.to_bytes();
        let mut payload = Vec::new();
        PathRecord::write_all(&[PathRecord { extension: &offer, ..PathRecord::to(addr(at)) }], &mut payload);
        b.receive_over(p, 5, AT_ROOT, Verb::PushDirectPaths, &payload, 1);
        b.advance(SPREAD_LIFE_MS + 100);
        let probes = b.take().into_iter().filter(|s| s.remote.ip() == addr(at).ip() && s.len > 4).count();
        (probes, b.node.counters().spreads, b.node.counters().spread_refused)
    };
    assert_eq!(offer(&mut b, "44.8.8.8:7777", 1), (1, 0, 1), "probed as any pushed address, and no more");
    let (probes, spreads, refused) = offer(&mut b, "44.9.9.50:7777", 2);
    assert!((SPREAD_PROBES_MAX..=SPREAD_PROBES_MAX + 1).contains(&probes), "{probes}");
    assert_eq!((spreads, refused, b.node.counters().spread_probes), (1, 1, SPREAD_PROBES_MAX as u64));
    assert_eq!(offer(&mut b, "44.9.9.50:7777", 2), (1, 1, 2), "a replay");
    assert_eq!(offer(&mut b, "44.9.9.50:7777", 3), (1, 1, 3), "too soon");
    assert_eq!(b.node.gauges().spread_sockets, 0);
}

#[test]
fn pushes_cause_16_probes_in_10_s_per_peer_after_the_first_burst_and_200_a_second_in_all() {
    let (mut b, _) = Bench::leaf();
    let peers: Vec<Address> = (0..40).map(|n| b.actor(100 + n)).collect();
    for (n, &p) in peers.iter().enumerate() {
        b.receive_hello(p, 5, &format!("44.40.{n}.1:9993"));
        b.advance(100);
    }
    b.advance(2000);
    b.take();
    let p = peers[0];
    for round in 0..10 {
        push(&mut b, p, 5, (0..8).map(|n| format!("44.60.{round}.{n}:1")));
    }
    b.advance(PUNCH_WAIT_MAX_MS);
    assert_eq!(only(&b.take_to(p), Verb::Echo).len(), PUSH_PROBES_BURST as usize);
    b.advance(10_000 - PUNCH_WAIT_MAX_MS);
    b.take();
    for round in 0..10 {
        push(&mut b, p, 5, (0..8).map(|n| format!("44.61.{round}.{n}:1")));
    }
    b.advance(PUNCH_WAIT_MAX_MS);
    assert_eq!(only(&b.take_to(p), Verb::Echo).len(), PUSH_PROBES_PER_10_S as usize);
    b.advance(2000);
    b.take();
    for (n, &p) in peers.iter().enumerate() {
        push(&mut b, p, 5, (0..8).map(|i| format!("44.62.{n}.{i}:1")));
    }
    b.advance(PUNCH_WAIT_MAX_MS);
    let sent = b.take();
    assert_eq!(only(&sent, Verb::Echo).len(), PUSH_PROBES_PER_S as usize);
}

#[test]
fn an_upstream_introduces_ten_peers_a_second_and_64_unknown_ones_are_held() {
    let (mut b, root) = Bench::leaf();
    let rendezvous = |b: &mut Bench, n: u64| {
        let mut payload = Vec::new();
        let endpoint = Some(addr(&format!("44.70.{}.{}:1", n / 250, n % 250)));
        Rendezvous { flags: 0, peer: node(0x40_0000_0000 + n), endpoint }.write(&mut payload);
        b.receive(root, 5, AT_ROOT, Verb::Rendezvous, &payload);
    };
    (0..50).for_each(|n| rendezvous(&mut b, n));
    assert_eq!(b.node.gauges().rendezvous_held, RENDEZVOUS_PER_UPSTREAM_PER_S as usize);
    assert_eq!(b.node.counters().rendezvous_over_rate, 40);
    for n in 50..400 {
        b.advance(10);
        rendezvous(&mut b, n);
        assert!(b.node.gauges().rendezvous_held <= RENDEZVOUS_HELD_MAX);
    }
    b.advance(RENDEZVOUS_HELD_MS + 1000);
    assert_eq!(b.node.gauges().rendezvous_held, 0);
    assert!(b.node.counters().rendezvous_dropped >= 40);
}

#[test]
fn a_refused_request_is_answered_by_one_error_a_second() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    let mut payload = Vec::new();
    ConfigRequest { network: NetworkId(7), metadata: b"", revision: 0, timestamp: 0 }.write(&mut payload);
    for _ in 0..10 {
        b.receive(p, 5, AT_P, Verb::NetworkConfigRequest, &payload);
    }
    assert_eq!(only(&b.take_to(p), Verb::Error).len(), 1);
    assert_eq!(b.node.counters().error_gated, 9);
    b.advance(1000);
    b.receive(p, 5, AT_P, Verb::NetworkConfigRequest, &payload);
    assert_eq!(only(&b.take_to(p), Verb::Error).len(), 1);
}

#[test]
fn requests_for_ever_new_networks_cause_one_error_a_second_and_one_entry() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    for n in 0..5000 {
        let mut payload = Vec::new();
        ConfigRequest { network: NetworkId(n), metadata: b"", revision: 0, timestamp: 0 }.write(&mut payload);
        b.receive(p, 5, AT_P, Verb::NetworkConfigRequest, &payload);
    }
    assert_eq!(only(&b.take_to(p), Verb::Error).len(), 1);
    assert_eq!((b.node.gauges().error_gates, b.node.counters().error_gated), (1, 4999));
}

#[test]
fn a_frame_that_comes_twice_is_delivered_once() {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    let mut payload = OPEN_NETWORK.0.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0x86, 0xdd]);
    payload.extend_from_slice(&[0x60; 40]);
    let frame = b.packet(p, Verb::Frame, &payload, Suite::AesGmacSiv, 0);
    b.deliver(5, AT_P, frame.clone());
    b.deliver(5, AT_P, frame);
    assert_eq!(b.node.counters().dropped_repeat, 1);
}

#[test]
fn an_ordinary_node_answers_ten_whois_a_second_per_peer() {
    let (mut b, _) = Bench::leaf();
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    let mut payload = Vec::new();
    Whois { addresses: vec![p; 100] }.write(&mut payload);
    for _ in 0..20 {
        b.receive(p, 5, AT_P, Verb::Whois, &payload);
        b.advance(50);
    }
    let sent = b.take_to(p);
    assert_eq!(only(&sent, Verb::Ok).len(), 10);
    assert!(sent.iter().all(|s| s.len <= 1432), "sixteen of the hundred addresses are looked at");
    assert_eq!(b.node.counters().whois_answer_gated, 10);
}

#[test]
fn own_packets_without_a_way_wait_within_bounds() {
    let mut b = Bench::new(1);
    for n in 0..6000u64 {
        b.node.send_user_message(b.now, node(0x50_0000_0000 + n), 1, &[1; 4000]);
    }
    let gauges = b.node.gauges();
    assert!(gauges.queued_bytes <= QUEUE_BYTES_MAX && gauges.queued_packets <= QUEUE_MAX);
    assert_eq!(b.node.counters().queue_full as usize, 6000 - gauges.queued_packets);
    b.sockets(&[5]);
    b.advance(QUEUE_MS + 1000);
    assert_eq!(b.node.gauges().queued_packets, 0);
}

#[test]
fn forgotten_peers_come_back_for_50_packets_of_strangers_a_second() {
    let (mut b, _) = Bench::leaf();
    let own = b.own.address();
    for n in 0..300u64 {
        let mut file = vec![2];
        made_up(2000 + n).public().write(&mut file);
        file.extend_from_slice(&[0, 12, 0, 1, 0, 14, 0, 1, 0, 0]);
        b.node.restore_peer(&file).unwrap();
    }
    assert_eq!(b.node.gauges().cached_peers, 300);
    for n in 0..300u64 {
        b.deliver(5, AT_P, gibberish(own, made_up(2000 + n).address().to_u64(), 0x18, 40));
    }
    assert_eq!(b.node.gauges().peers, 1 + WHOIS_PER_S as usize);
}

/// A node that is the only root of its planet.
fn root() -> Bench {
    let mut b = Bench::new(1);
    let world = planet(&[(b.own.public(), &[AT_ROOT])], 1000);
    b.node.restore_planet(b.now, &world.to_bytes()).unwrap();
    b.sockets(&[5]);
    b
}

/// Somebody else's packet from `from` to `to`.
fn between(from: Address, to: Address, hops: u8) -> Vec<u8> {
    let mut bytes = wire::packet::head(3, to, from, 0x44);
    bytes.resize(60, 9);
    bytes[18] = 0x18 | hops;
    bytes
}

#[test]
fn a_root_relays_only_from_verified_paths_and_with_few_hops() {
    let mut b = root();
    let (p, q) = (b.actor(10), b.actor(11));
    b.befriend(p, 5, AT_P);
    b.befriend(q, 5, "44.8.8.8:9993");
    b.deliver(5, "44.66.66.66:1", between(p, q, 0));
    assert_eq!(b.node.counters().relay_unverified_source, 1);
    b.deliver(5, AT_P, between(p, q, 3));
    assert_eq!(b.node.counters().relay_hop_limit, 1);
    assert!(b.take().is_empty());
    for hops in 0..3 {
        b.deliver(5, "44.9.9.9:1111", between(p, q, hops)); // another socket of the same host
        let sent = b.take();
        assert_eq!(Packet::new(&sent[0].raw[..]).unwrap().hops(), hops + 1);
        assert_eq!(sent[0].remote, addr("44.8.8.8:9993"));
        assert_eq!(sent.len(), if hops == 0 { 3 } else { 1 }, "one introduction");
    }
    b.deliver(5, AT_P, between(p, node(77), 0));
    assert_eq!(b.node.counters().relay_no_route, 1);
    // Fragments: from hosts whose heads were relayed.
    let mut fragment = between(p, q, 0);
    fragment[13] = 0xff;
    fragment[14] = 0x21;
    fragment[15] = 2;
    b.deliver(5, AT_P, fragment.clone());
    assert_eq!(b.take()[0].raw[15], 3);
    b.deliver(5, "44.66.66.66:1", fragment.clone());
    fragment[15] = 3;
    b.deliver(5, AT_P, fragment);
    assert!(b.take().is_empty());
}

#[test]
fn a_root_relays_10000_packets_a_second_per_host() {
    let mut b = root();
    let (p, q) = (b.actor(10), b.actor(11));
    b.befriend(p, 5, AT_P);
    b.befriend(q, 5, "44.8.8.8:9993");
    for _ in 0..RELAYED_PER_PATH_PER_S + 500 {
        b.deliver(5, AT_P, between(p, q, 0));
    }
    assert_eq!(b.node.counters().relayed, u64::from(RELAYED_PER_PATH_PER_S));
    assert_eq!(b.node.counters().relay_over_rate, 500);
}

#[test]
fn a_root_introduces_a_pair_every_30_s_and_100_pairs_a_second() {
    let mut b = root();
    let peers: Vec<Address> = (0..16).map(|n| b.actor(100 + n)).collect();
    for (n, &p) in peers.iter().enumerate() {
        b.befriend(p, 5, &format!("44.40.{n}.1:9993"));
        b.advance(100);
    }
    b.advance(2000);
    b.take();
    for (n, &from) in peers.iter().enumerate() {
        for &to in peers.iter().filter(|&&to| to != from) {
            b.deliver(5, &format!("44.40.{n}.1:9993"), between(from, to, 0));
        }
    }
    let sent = b.take();
    assert_eq!(only(&sent, Verb::Rendezvous).len(), 2 * INTRODUCTIONS_PER_S as usize);
    assert_eq!(b.node.gauges().introduced_pairs, INTRODUCTIONS_PER_S as usize);
    assert!(b.node.counters().introductions_over_rate > 0);
    let again = |b: &mut Bench| {
        b.deliver(5, "44.40.0.1:9993", between(peers[0], peers[1], 0));
        only(&b.take(), Verb::Rendezvous).len()
    };
    b.advance(INTRODUCTION_GATE_MS - 1000);
    b.take();
    assert_eq!(again(&mut b), 0);
    b.advance(1000);
    b.take();
    assert_eq!(again(&mut b), 2);
}

#[test]
fn a_root_that_passes_on_to_its_own_upstream_introduces_once_in_30_s() {
    let mut b = Bench::new(1);
    let other = b.actor(2);
    let (own, theirs) = (b.own.public().clone(), b.actors[&other].identity());
    let world = planet(&[(&own, &["44.1.1.2:9993"]), (&theirs, &[AT_ROOT])], 1000);
    b.node.restore_planet(b.now, &world.to_bytes()).unwrap();
    b.sockets(&[5]);
    b.answer(other, AT_ROOT, 1);
    b.advance(1000);
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    for _ in 0..50 {
        b.deliver(5, AT_P, between(p, node(0x77_0000_0001), 0));
    }
    let sent = b.take();
    assert_eq!(only(&sent, Verb::Rendezvous).len(), 2);
    assert_eq!(sent.iter().filter(|s| s.remote == addr(AT_ROOT) && s.verb.is_none()).count(), 50);
    // What it passes on to us is for whom we know, whoever the source is; it has been judged there.
    b.deliver(5, AT_ROOT, between(node(0x77_0000_0002), p, 1));
    let passed: Vec<_> = b.take().iter().filter(|s| s.verb.is_none()).map(|s| s.remote).collect();
    assert_eq!(passed, [addr(AT_P)]);
    b.deliver(5, "44.66.66.66:1", between(node(0x77_0000_0002), p, 1));
    assert_eq!(b.node.counters().relay_unverified_source, 1, "nobody else's word counts");
    // What that upstream sends us for somebody unknown does not go back to it.
    b.deliver(5, AT_ROOT, between(other, node(0x77_0000_0001), 0));
    b.deliver(5, AT_ROOT, between(node(0x77_0000_0002), node(0x77_0000_0001), 1));
    assert_eq!(b.node.counters().relay_no_route, 2);
}

#[test]
fn a_root_holds_more_strangers_than_a_leaf() {
    let mut b = root();
    let many = STRANGERS_MAX + 50;
    for n in 0..many as u64 {
        let p = b.actor(1000 + n);
        b.receive_hello(p, 5, &format!("45.{}.{}.1:9993", n / 250, n % 250));
        b.actors.remove(&p);
        b.advance(50);
        b.take();
    }
    assert_eq!((b.node.gauges().peers, b.node.counters().peers_evicted), (many, 0));
    assert!(b.node.is_upstream() && b.node.is_online());
}

#[test]
fn blacklists_overlay_and_managed_prefixes_and_root_pinning_are_no_paths() {
    let mut settings = Settings::default();
    settings.peer_blacklists.insert(made_up(10).address(), vec!["44.3.0.0/16".parse().unwrap()]);
    settings.physical.push(node::PhysicalNetwork {
        prefix: "44.4.0.0/16".parse().unwrap(),
        blacklist: true,
        trusted_path_id: 0,
        mtu: None,
    });
    let mut b = Bench::with(made_up(1), settings);
    let root = b.actor(2);
    b.install_planet(&[(root, &[AT_ROOT])]);
    b.sockets(&[5]);
    b.answer(root, AT_ROOT, 0);
    b.advance(1000);
    b.node.set_overlay_prefixes(vec!["44.5.0.0/16".parse().unwrap()]);
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    for remote in ["44.3.0.1:9", "44.4.0.1:9", "44.5.0.1:9", "127.0.0.1:9", "169.254.1.1:9", "[2001:470::1]:9"] {
        b.advance(1100);
        b.take();
        b.receive(p, 5, remote, Verb::Echo, b"");
        assert_eq!(verbs(&b.take_to(p)), [(Some(Verb::Ok), addr(remote))], "answered, not challenged");
    }
    b.receive(root, 5, "44.2.2.2:9993", Verb::Echo, b"");
    assert_eq!(verbs(&b.take_to(root)), [(Some(Verb::Ok), addr("44.2.2.2:9993"))]);
    assert_eq!(b.node.counters().path_refused, 7);
    let hello = b.hello(p, None, WorldRevision { id: 0, timestamp: 0 });
    b.node.handle_datagram(b.now, LocalSocketId(5), addr("44.3.0.1:9"), &mut hello.clone());
    assert_eq!(b.paths(p), [(5, addr(AT_P))]);
}
