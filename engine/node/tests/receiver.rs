//! What a real node did with each datagram, against what ours does: the recorded stimuli in their order, for an ordinary
//! node and a root. Where we differ on purpose, the case is named here with the rule that says so.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use node::{Event, PhysicalNetwork, Settings};
use serde_json::Value;
use wire::{Address, Packet, SecretIdentity, Suite, Verb};

/// How ours differs from the recorded behaviour. Each with the section that wants it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deviation {
    /// wire, "Gateway hardening": suite 0 is for HELLO and measurements only. Nothing is sent or handed upward.
    ClearVerb,
    /// paths, "Hardening bounds": no worlds to an address that is not verified.
    NoWorld,
    /// wire, "HELLO": a collision ERROR is armoured with the claimant's key, which the script does not play.
    CollisionKey,
    /// paths, "RENDEZVOUS": an unknown peer is asked for, and the RENDEZVOUS kept meanwhile.
    AsksForNamed,
    /// paths, "Cluster redirect": of an ordinary peer only a probe; its path stays, so no challenge follows later.
    PathKept,
    /// paths, "Expected replies": zero IDs are never expected, so the version in such an OK is not taken, then or later.
    VersionKept,
    /// wire, "ERROR payloads": a collision is believed only in reply to a HELLO.
    NotBelieved,
    /// paths, "Receive pipeline": beacons are ignored.
    NoBeacon,
    /// wire, "Gateway hardening": address zero is dropped.
    NoZero,
    /// wire, "Sizes": replies that exceed the MTU are fragmented.
    Fragmented,
}

fn deviation(case: &str) -> Option<Deviation> {
    use Deviation::*;
    Some(match case {
        "suite-0-user-message" | "suite-0-echo" | "suite-0-echo-proto11" | "unknown-source-s0" => ClearVerb,
        "hello-old-planet" => NoWorld,
        "hello-collision" | "hello-collision-proto11" => CollisionKey,
        "rendezvous-unknown-peer" => AsksForNamed,
        "pdp-redirect" | "pdp-ext" | "pdp-unknown-type" | "pdp-ten" | "pdp-loopback" | "netconf-request" => PathKept,
        "ok-hello-zero-high-id" | "ok-hello-restore" => VersionKept,
        "error-collision-from-root" => NotBelieved,
        "beacon-known" => NoBeacon,
        "source-zero" => NoZero,
        "echo-fragmented" => Fragmented,
        _ => return None,
    })
}

/// Milliseconds between a case and the one before.
fn gap(case: &str) -> u64 {
    match case {
        "ok-hello-solicited" | "ok-hello-proto11" | "root-ok" | "root-ok-2" => 200,
        "hello-rate-limit-later" => 2000,
        "echo-rate-166" => 166,
        "echo-rate-165" => 165,
        "beacon-rate" => 2499,
        _ => 6000,
    }
}

/// A reply, as far as it can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reply {
    to: String,
    verb: String,
    destination: String,
    suite: Option<u64>,
    len: u64,
    payload: String,
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn recorded(reply: &Value) -> Reply {
    let verb = text(&reply["verb_name"]);
    let mut payload = hex::decode(text(&reply["payload"])).unwrap();
    blur(&verb, &mut payload);
    let junk = reply["length"] == 4;
    Reply {
        to: text(&reply["to"]),
        verb,
        destination: text(&reply["destination"]),
        suite: reply["suite"].as_u64(),
        len: reply["length"].as_u64().unwrap(),
        payload: if junk { String::new() } else { hex::encode(payload) + &text(&reply["raw"]) },
    }
}

/// Our clock is not theirs.
fn blur(verb: &str, payload: &mut [u8]) {
    if verb == "HELLO" {
        payload[5..13].fill(0);
    }
}

fn sent(bench: &Bench, s: &Sent) -> Reply {
    let to = format!("{}/{}", s.remote.ip(), s.remote.port());
    let len = s.len as u64;
    let Some(verb) = s.verb else {
        let payload = if s.len == 4 { String::new() } else { hex::encode(&s.raw) };
        return Reply { to, verb: String::new(), destination: String::new(), suite: None, len, payload };
    };
    let mut payload = s.payload.clone();
    if verb == Verb::Hello {
        let clear = wire::message::Hello::parse(&payload).unwrap().tail.len();
        let at = payload.len() - clear;
        bench.actors[&s.to].keys.obscure_hello_tail(s.id, &mut payload[at..]);
        blur("HELLO", &mut payload);
    }
    Reply {
        to,
        verb: verb.name().to_owned(),
        destination: s.to.to_string(),
        suite: s.suite.map(|s| s as u64),
        len,
        payload: hex::encode(payload),
    }
}

fn bench(vectors: &Value, name: &str) -> Bench {
    let secret = |v: &Value| Arc::new(text(v).parse::<SecretIdentity>().unwrap());
    let own = secret(&vectors["nodes"][name]["secret"]);
    let trusted = PhysicalNetwork {
        prefix: "10.20.20.0/24".parse().unwrap(),
        blacklist: false,
        trusted_path_id: 0xabcd_ef01_2345_6789,
        mtu: None,
    };
    let settings = Settings { physical: vec![trusted], ..Settings::default() };
    let mut bench = Bench::with(own, settings);
    bench.prover = Prover::Validates;
    let root = secret(&vectors["nodes"]["R"]["secret"]);
    for actor in vectors["peers"].as_object().unwrap().values().map(secret).chain([root]) {
        // Two of them claim an address that another one had first.
        if actor.address() != bench.own.address() && !bench.actors.contains_key(&actor.address()) {
            let address = bench.play(actor);
            bench.actors.get_mut(&address).unwrap().version.protocol = 12;
        }
    }
    bench.node.restore_planet(bench.now, &hex::decode(text(&vectors["planet"])).unwrap()).unwrap();
    bench.sockets(&[1]);
    let root: Address = text(&vectors["nodes"]["R"]["secret"])[..10].parse().unwrap();
    if bench.actors.contains_key(&root) {
        bench.answer(root, "10.20.1.2:9993", 0);
    }
    bench.advance(1000);
    bench.take();
    bench
}

/// The recorded OK names the packet ID of the reference's own HELLO: ours names that of ours.
fn ok_to_our_hello(bench: &mut Bench, hellos: &BTreeMap<Address, Sent>, stimulus: &[u8], remote: &str) {
    let from = Packet::new(stimulus).unwrap().source();
    let mut theirs = stimulus.to_vec();
    bench.actors[&from].keys.open(&mut theirs).unwrap();
    let body = &theirs[28 + 9..];
    let payload = ok_payload(Verb::Hello, hellos[&from].id, body);
    bench.receive(from, 1, remote, Verb::Ok, &payload);
}

fn endpoint(text: &str) -> String {
    wire::endpoint::from_text(text).unwrap().to_string()
}

#[test]
fn vectors_of_the_receiver_are_answered_as_recorded_or_better() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors");
    let folder = std::env::var("HAWSER_VECTORS").unwrap_or_else(|_| default.to_owned());
    let file = std::fs::read_to_string(format!("{folder}/wire-receiver.json")).unwrap();
    let vectors: Value = serde_json::from_str(&file).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    println!("wire-receiver.json: {} cases", cases.len());
    assert!(!cases.is_empty());

    let mut nodes = BTreeMap::from([("B", bench(&vectors, "B")), ("R", bench(&vectors, "R"))]);
    let mut hellos: BTreeMap<Address, Sent> = BTreeMap::new();
    for case in cases {
        let name = text(&case["name"]);
        nodes.values_mut().for_each(|b| b.advance(gap(&name)));
        let bench = nodes.get_mut(text(&case["target"]).as_str()).unwrap();
        bench.take();
        bench.events.clear();
        let mut source = Address::ZERO;
        let mut relayed = Vec::new();
        for stimulus in case["stimulus"].as_array().unwrap() {
            let wire = hex::decode(text(&stimulus["wire"])).unwrap();
            let from = endpoint(&text(&stimulus["from"]));
            source = Packet::new(&wire[..]).map(|p| p.source()).unwrap_or(source);
            if name == "ok-whois-from-peer" {
                // Here the record is about the identity that the OK brings.
                let mut plain = wire.clone();
                bench.actors[&source].keys.open(&mut plain).unwrap();
                source = Address::read(&mut wire::Reader::new(&plain[28 + 9..])).unwrap();
            }
            match gap(&name) {
                200 => ok_to_our_hello(bench, &hellos, &wire, &from),
                _ => bench.deliver(1, &from, wire.clone()),
            }
            relayed.push(wire);
        }
        let replies = bench.take();
        hellos.extend(replies.iter().filter(|s| s.verb == Some(Verb::Hello)).map(|s| (s.to, s.clone())));
        compare_replies(&name, case, bench, &replies, &relayed);
        compare_events(&name, case, bench);
        if let Some(expected) = case.get("peer_protocol").filter(|_| !source.is_reserved()) {
            let peers = bench.node.peers(bench.now);
            let ours = peers.iter().find(|p| p.address == source).map(|p| u64::from(p.version.0));
            let expected = if deviation(&name) == Some(Deviation::VersionKept) { Some(12) } else { expected.as_u64() };
            assert_eq!(ours, expected, "{name}: protocol version on record for {source}");
        }
    }
}

fn compare_replies(name: &str, case: &Value, bench: &Bench, replies: &[Sent], relayed: &[Vec<u8>]) {
    let mut expected: Vec<Reply> = Vec::new();
    for reply in case["replies"].as_array().unwrap() {
        let source = text(&reply["source"]);
        if !source.is_empty() && source != bench.own.address().to_string() {
            // Relayed for somebody else: the same bytes, one hop more.
            let mut raw = relayed[0].clone();
            Packet::new(&mut raw[..]).unwrap().increment_hops();
            let mut relayed = recorded(reply);
            relayed = Reply { verb: String::new(), destination: String::new(), suite: None, ..relayed };
            expected.push(Reply { payload: hex::encode(raw), ..relayed });
        } else {
            expected.push(recorded(reply));
        }
    }
    let root = |r: &Reply| r.to == "10.20.1.2/9993";
    let mut ours: Vec<Reply> = replies.iter().map(|s| sent(bench, s)).collect();
    match deviation(name) {
        None => {}
        Some(Deviation::ClearVerb | Deviation::NoZero | Deviation::NoBeacon) => expected.clear(),
        Some(Deviation::NotBelieved) => {}
        Some(Deviation::NoWorld) => {
            let ok = expected.iter_mut().find(|r| r.verb == "OK").unwrap();
            ok.len = 59;
            ok.payload.truncate(2 * (59 - 28) - 4);
            ok.payload += "0000";
        }
        Some(Deviation::CollisionKey) => {
            assert_eq!(
                replies.iter().map(|s| (s.len, s.suite)).collect::<Vec<_>>(),
                [(38, Some(Suite::Salsa2012Poly1305))]
            );
            return;
        }
        Some(Deviation::AsksForNamed) => {
            assert_eq!(ours.iter().filter(|r| root(r)).map(|r| r.verb.as_str()).collect::<Vec<_>>(), ["WHOIS"]);
            ours.clear();
        }
        Some(Deviation::PathKept) => expected.retain(|r| r.verb != "HELLO" || r.to != "10.20.20.21/9993"),
        Some(Deviation::VersionKept) => expected.iter_mut().for_each(|r| r.suite = Some(3)),
        Some(Deviation::Fragmented) => {
            assert_eq!(replies.iter().map(|s| s.len).collect::<Vec<_>>(), [1432, 2037 - 1432 + 16]);
            return;
        }
    }
    // Strangers have no key of ours to open with in the recording either: RENDEZVOUS and the like go in either order.
    expected.sort();
    ours.sort();
    assert_eq!(ours, expected, "{name}");
}

fn compare_events(name: &str, case: &Value, bench: &Bench) {
    let mut expected = Vec::new();
    for event in case["events"].as_array().unwrap() {
        match event["event"].as_str().unwrap() {
            "user_message" => expected.push(Event::UserMessage {
                from: text(&event["origin"]).parse().unwrap(),
                kind: u64::from_str_radix(&text(&event["type_id"]), 16).unwrap(),
                data: hex::decode(text(&event["data"])).unwrap(),
            }),
            // Counted, handed to nobody.
            "remote_trace" => assert!(bench.node.counters().remote_traces > 0),
            "identity_collision" => assert_eq!(deviation(name), Some(Deviation::NotBelieved)),
            other => panic!("{name}: unknown event {other}"),
        }
    }
    if deviation(name) == Some(Deviation::ClearVerb) {
        expected.clear();
    }
    let ours: Vec<&Event> = bench.events.iter().filter(|e| matches!(e, Event::UserMessage { .. })).collect();
    assert_eq!(ours, expected.iter().collect::<Vec<_>>(), "{name}");
    assert!(!bench.events.iter().any(|e| matches!(e, Event::IdentityCollision { .. })), "{name}");
}
