//! Whatever comes in, nothing panics and no table grows beyond its bound: random datagrams, damaged real packets, and
//! random payloads under every verb from senders that authenticate.

mod common;

use common::*;
use node::Gauges;
use node::limits::*;
use proptest::prelude::*;
use wire::{Address, Packet, Suite, Verb};

const AT_P: &str = "44.9.9.9:9993";

fn within_bounds(g: &Gauges) {
    let bounds = [
        (g.peers, PEERS_MAX),
        (g.cached_peers, CACHED_PEERS_MAX),
        (g.expected_replies, EXPECTED_MAX),
        (g.whois_pending, 2 * WHOIS_PENDING_MAX),
        (g.waiting_packets, WAITING_MAX),
        (g.waiting_bytes, WAITING_BYTES_MAX),
        (g.queued_packets, QUEUE_MAX),
        (g.queued_bytes, QUEUE_BYTES_MAX),
        (g.reassembly_sets, wire::fragment::SETS_TOTAL),
        (g.reassembly_bytes, wire::fragment::REASSEMBLY_BYTES),
        (g.surfaces, SURFACES_MAX),
        (g.targets, TARGETS_MAX),
        (g.proofs, PROOF_QUEUE_MAX),
        (g.introduced_pairs, INTRODUCED_PAIRS_MAX),
        (g.rendezvous_held, RENDEZVOUS_HELD_MAX),
        (g.timed_probes, TIMED_PROBES_MAX),
        (g.rendezvous_peers, RENDEZVOUS_PEERS_MAX),
        (g.spread_peers, SPREAD_PEERS_MAX),
        (g.spread_sockets, SPREADS_MAX * usize::from(SPREAD_SOCKETS) + SPREAD_ADOPTED_MAX),
        (g.path_gates, PATH_GATES_MAX),
        (g.identity_prefixes, IDENTITY_PREFIXES_MAX),
        (g.error_gates, ERROR_GATE_MAX),
        (g.watched, WATCHED_MAX),
        (g.warming, WARMING_MAX),
        (g.lost_paths, LOST_PATHS_MAX),
        (g.authorised, AUTHORISED_MAX),
        (g.lane_peers, LANE_PEERS_MAX),
        (g.bonded_peers, QOS_PEERS_MAX),
        (g.reported_paths, QOS_PATHS_MAX),
        (g.pacts, PACTS_MAX),
        (g.receipt_paths, PACT_PATHS_MAX),
        (g.bonds, BONDS_MAX),
        (g.bond_paths, BONDS_MAX * SLOTS_MAX),
    ];
    assert_eq!(bounds.len(), g.iter().count(), "every gauge has its bound here");
    for ((name, value), (_, bound)) in g.iter().zip(bounds) {
        assert!(value as usize <= bound, "{name}: {value} of {bound}");
    }
}

/// A node with a root, a friend and a stranger; or the root itself.
fn scene(as_root: bool) -> (Bench, [Address; 3]) {
    let mut b = match as_root {
        false => Bench::leaf().0,
        true => {
            let mut b = Bench::new(1);
            let world = planet(&[(b.own.public(), &["44.1.1.1:9993"])], 1000);
            b.node.restore_planet(b.now, &world.to_bytes()).unwrap();
            b.sockets(&[5, 6]);
            b
        }
    };
    b.join_open();
    let (friend, stranger) = (b.actor(10), b.actor(11));
    b.befriend(friend, 5, AT_P);
    b.befriend(stranger, 5, "44.8.8.8:9993");
    b.receive_frame(friend, 5, AT_P, 0);
    let upstream = b.actors.keys().copied().find(|a| *a != friend && *a != stranger).unwrap_or(friend);
    b.take();
    (b, [upstream, friend, stranger])
}

#[derive(Clone, Debug)]
enum Step {
    Raw { bytes: Vec<u8>, remote: u8 },
    Sealed { from: usize, verb: u8, payload: Vec<u8>, suite: u8, hops: u8, remote: u8 },
    Damaged { from: usize, at: usize, with: u8 },
    Reply { from: usize, verb: u8, body: Vec<u8>, nth: usize },
    Wait { ms: u64 },
    Tap { frame: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        3 => (bytes(120), any::<u8>()).prop_map(|(bytes, remote)| Step::Raw { bytes, remote }),
        8 => (0..3usize, 0..0x20u8, bytes(300), 0..4u8, 0..8u8, any::<u8>()).prop_map(
            |(from, verb, payload, suite, hops, remote)| Step::Sealed { from, verb, payload, suite, hops, remote }
        ),
        2 => (0..3usize, 0..200usize, any::<u8>()).prop_map(|(from, at, with)| Step::Damaged { from, at, with }),
        4 => (0..3usize, 0..0x18u8, bytes(200), 0..8usize)
            .prop_map(|(from, verb, body, nth)| Step::Reply { from, verb, body, nth }),
        2 => (0..3000u64).prop_map(|ms| Step::Wait { ms }),
        1 => bytes(100).prop_map(|frame| Step::Tap { frame }),
    ]
}

fn remote(n: u8) -> String {
    match n % 4 {
        0 => AT_P.into(),
        1 => "44.8.8.8:9993".into(),
        2 => format!("44.1.{n}.1:{}", 1 + u16::from(n)),
        _ => format!("[2600::{n:x}]:1"),
    }
}

fn play(b: &mut Bench, who: &[Address; 3], sent: &mut Vec<Sent>, step: Step) {
    match step {
        Step::Raw { mut bytes, remote: r } => {
            if bytes.len() > 13 && r & 1 == 0 {
                bytes[8..13].copy_from_slice(&b.own.address().to_bytes());
            }
            b.deliver(5, &remote(r), bytes);
        }
        Step::Sealed { from, verb, payload, suite, hops, remote: r } => {
            let suites = [Suite::Poly1305, Suite::Salsa2012Poly1305, Suite::AesGmacSiv, Suite::AesGmacSiv];
            let nop = b.packet(who[from], Verb::Nop, &payload, suites[usize::from(suite)], 0);
            // Seal again under the wanted verb number, assigned or not, compressed or not.
            let keys = b.actors[&who[from]].keys.clone();
            let mut bytes = nop;
            if keys.open(&mut bytes).is_ok() {
                let mut packet = Packet::new(&mut bytes[..]).unwrap();
                packet.set_verb_byte(verb | if payload.len() % 5 == 0 { 0x80 } else { 0 });
                keys.seal(&mut bytes, suites[usize::from(suite)]);
                (0..hops).for_each(|_| Packet::new(&mut bytes[..]).unwrap().increment_hops());
                b.deliver(5 + u64::from(r % 2), &remote(r), bytes);
            }
        }
        Step::Damaged { from, at, with } => {
            let mut hello = b.hello(who[from], Some(addr(AT_P)), wire::message::WorldRevision { id: 1, timestamp: 1 });
            let at = at % hello.len();
            hello[at] = with;
            b.deliver(5, AT_P, hello);
        }
        Step::Reply { from, verb, body, nth } => {
            // Replies to packets that were really sent, so that they are looked at.
            let of_verb = |s: &&Sent| s.to == who[from] && s.verb.is_some_and(|v| v as u8 == verb);
            let request = sent.iter().rev().filter(of_verb).nth(nth).or(sent.iter().rev().find(|s| s.to == who[from]));
            if let Some((id, verb, to)) = request.and_then(|s| Some((s.id, s.verb?, s.remote))) {
                b.receive(who[from], 5, &to.to_string(), Verb::Ok, &ok_payload(verb, id, &body));
                let mut error = ok_payload(verb, id, &body);
                error.insert(9, body.first().copied().unwrap_or(3) % 11);
                b.receive(who[from], 5, &to.to_string(), Verb::Error, &error);
            }
        }
        Step::Wait { ms } => b.advance(ms),
        Step::Tap { frame } => b.node.handle_tap_frame(b.now, OPEN_NETWORK, &frame),
    }
    let new = b.take();
    assert!(new.len() < 2000, "{} datagrams for one step", new.len());
    sent.extend(new);
    let excess = sent.len().saturating_sub(200);
    sent.drain(..excess);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_comes_in_panics_or_outgrows_its_bound(
        as_root in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let (mut b, who) = scene(as_root);
        let mut sent = Vec::new();
        for step in steps {
            play(&mut b, &who, &mut sent, step);
            within_bounds(&b.node.gauges());
            prop_assert!(b.node.poll_timeout().is_some());
        }
        b.advance(60_000);
        within_bounds(&b.node.gauges());
    }

    #[test]
    fn no_saved_state_panics_whatever_it_holds(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut b = Bench::new(1);
        let _ = b.node.restore_planet(b.now, &bytes);
        let _ = b.node.restore_moon(b.now, &bytes);
        let _ = b.node.restore_peer(&bytes);
        b.node.join(b.now, OPEN_NETWORK, Some(&bytes));
        b.advance(1000);
    }
}
