//! What a real node did with each datagram, against what ours does: the recorded stimuli in their order, for an
//! ordinary node and a root. Where we differ on purpose, the difference is told from what the stimulus is, with the rule
//! that wants it so.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::*;
use node::{Event, PhysicalNetwork, Settings};
use serde_json::Value;
use wire::message::{ErrorCode, ErrorMessage, Hello, OkMessage, OkWhois, Rendezvous};
use wire::{Address, Datagram, Packet, SecretIdentity, Suite, Verb, classify};

/// The only socket of the node under test.
const SOCKET: u64 = 1;

/// A stimulus as its sender made it.
struct Stimulus {
    remote: String,
    wire: Vec<u8>,
    source: Option<Address>,
    suite: Option<Suite>,
    /// Verb and payload, if the sender's key is one we play and the packet is whole.
    opened: Option<(Option<Verb>, Vec<u8>)>,
}

impl Stimulus {
    fn read(bench: &Bench, v: &Value) -> Stimulus {
        let wire = hex::decode(text(&v["wire"])).unwrap();
        let remote = wire::endpoint::from_text(&text(&v["from"])).unwrap().to_string();
        let packet = Packet::new(&wire[..]).ok().filter(|p| classify(p.as_bytes()) == Datagram::Head);
        let source = packet.as_ref().map(|p| p.source());
        let suite = packet.as_ref().and_then(|p| p.suite());
        let opened = source.and_then(|s| bench.actors.get(&s)).and_then(|actor| {
            let mut plain = wire.clone();
            actor.keys.open(&mut plain).ok()?;
            let packet = Packet::new(&plain[..]).ok()?;
            Some((Verb::from_u8(packet.verb_number()), packet.payload().to_vec()))
        });
        Stimulus { remote, wire, source, suite, opened }
    }

    fn payload(&self, verb: Verb) -> Option<&[u8]> {
        self.opened.as_ref().filter(|(v, _)| *v == Some(verb)).map(|(_, payload)| &payload[..])
    }

    fn ok(&self) -> Option<OkMessage<'_>> {
        self.payload(Verb::Ok).and_then(|p| OkMessage::parse(p).ok())
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

fn ours(bench: &Bench, s: &Sent) -> Reply {
    let to = format!("{}/{}", s.remote.ip(), s.remote.port());
    let len = s.len as u64;
    let Some(verb) = s.verb else {
        let payload = if s.len == 4 { String::new() } else { hex::encode(&s.raw) };
        return Reply { to, verb: String::new(), destination: String::new(), suite: None, len, payload };
    };
    let mut payload = s.payload.clone();
    if verb == Verb::Hello {
        let tail = Hello::parse(&payload).unwrap().tail.len();
        let at = payload.len() - tail;
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

/// Milliseconds between a case and the one before. The recording waits 6 s unless the case says otherwise.
fn gap(case: &Value) -> u64 {
    let why = text(&case["why"]);
    let words: Vec<&str> = why.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let later = words.windows(3).find(|w| w[1] == "ms" && matches!(w[2], "later" | "after"));
    later.and_then(|w| w[0].parse().ok()).unwrap_or(6000)
}

/// The recorded trusted path: its ID, and the network of the source from which it was accepted.
fn trusted_path(vectors: &Value) -> Option<PhysicalNetwork> {
    vectors["cases"].as_array()?.iter().find_map(|case| {
        let wire = hex::decode(text(&case["stimulus"][0]["wire"])).ok()?;
        let packet = Packet::new(&wire[..]).ok()?;
        let accepted = packet.suite() == Some(Suite::TrustedPath) && case["events"].as_array()?.len() == 1;
        let ip = wire::endpoint::from_text(&text(&case["stimulus"][0]["from"])).ok()?.ip();
        accepted.then_some(PhysicalNetwork {
            prefix: wire::Prefix::new(ip, 24)?,
            blacklist: false,
            trusted_path_id: packet.trusted_path(),
            mtu: None,
        })
    })
}

fn secret(v: &Value) -> Arc<SecretIdentity> {
    Arc::new(text(v).parse().unwrap())
}

fn bench(vectors: &Value, name: &str) -> Bench {
    let settings = Settings { physical: trusted_path(vectors).into_iter().collect(), ..Settings::default() };
    let mut bench = Bench::with(secret(&vectors["nodes"][name]["secret"]), settings);
    bench.prover = Prover::Validates;
    let root = secret(&vectors["nodes"]["R"]["secret"]);
    for actor in vectors["peers"].as_object().unwrap().values().map(secret).chain([root.clone()]) {
        // Some of them claim an address that another one had first.
        if actor.address() != bench.own.address() && !bench.actors.contains_key(&actor.address()) {
            bench.play(actor);
        }
    }
    bench.node.restore_planet(bench.now, &hex::decode(text(&vectors["planet"])).unwrap()).unwrap();
    bench.sockets(&[SOCKET]);
    if bench.actors.contains_key(&root.address()) {
        let physical = wire::endpoint::from_text(&text(&vectors["nodes"]["R"]["physical"])).unwrap();
        bench.answer(root.address(), &physical.to_string(), 0);
    }
    bench.advance(1000);
    bench.take();
    bench
}

/// What the run so far has left behind.
#[derive(Default)]
struct History {
    /// Time in the last HELLO that the recording sent to each peer.
    their_hellos: BTreeMap<Address, u64>,
    /// Our own last HELLO to each peer.
    our_hellos: BTreeMap<Address, Sent>,
    /// Versions on record here where the recording has another one, until the peer says HELLO again.
    kept_versions: BTreeMap<Address, u64>,
}

#[test]
fn vectors_of_the_receiver_are_answered_as_recorded_or_better() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors");
    let folder = std::env::var("HAWSER_VECTORS").unwrap_or_else(|_| default.to_owned());
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.retain(|path| name(path).starts_with("wire-receiver") && name(path).ends_with(".json"));
    assert!(!files.is_empty(), "no wire-receiver*.json in {folder}");
    for path in &files {
        let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(!cases.is_empty(), "{}", name(path));
        run_all(&vectors, cases);
        println!("{}: {} cases", name(path), cases.len());
    }
}

/// A second new identity from one prefix at once: dropped in the recording, which says that other limits are fine. Ours is a
/// burst, tested in acceptance_paths.rs. // spec: paths, "Hardening bounds", new identities
const MORE_NEWCOMERS: &str = "hello-rate-limit";

fn run_all(vectors: &Value, cases: &[Value]) {
    let mut nodes = BTreeMap::from([("B", bench(vectors, "B")), ("R", bench(vectors, "R"))]);
    let mut history = History::default();
    for case in cases {
        let bench = nodes.get_mut(text(&case["target"]).as_str()).unwrap();
        run(bench, &mut history, case);
        nodes.values_mut().for_each(|b| b.advance(0));
    }
}

fn run(bench: &mut Bench, history: &mut History, case: &Value) {
    let name = text(&case["name"]);
    assert_eq!(case["kind"], "stimulus", "{name}");
    bench.advance(gap(case));
    if name == MORE_NEWCOMERS {
        return;
    }
    bench.take();
    bench.events.clear();
    let stimuli: Vec<Stimulus> =
        case["stimulus"].as_array().unwrap().iter().map(|v| Stimulus::read(bench, v)).collect();
    let known_before: Vec<Address> = bench.node.peers(bench.now).iter().map(|p| p.address).collect();
    for stimulus in &stimuli {
        match solicited(history, stimulus) {
            // The recorded OK names the packet ID of the recording's HELLO: ours names that of ours.
            Some(hello) => {
                let payload = ok_payload(Verb::Hello, hello.id, stimulus.ok().unwrap().body);
                bench.receive(stimulus.source.unwrap(), SOCKET, &stimulus.remote, Verb::Ok, &payload);
            }
            None => bench.deliver(SOCKET, &stimulus.remote, stimulus.wire.clone()),
        }
    }
    let replies = bench.take();
    note_versions(bench, history, &stimuli);
    compare_replies(&name, case, bench, history, &stimuli, &replies, &known_before);
    compare_events(&name, case, bench, &stimuli);
    compare_version(&name, case, bench, history, &stimuli);

    for s in replies.iter().filter(|s| s.verb == Some(Verb::Hello)) {
        history.our_hellos.insert(s.to, s.clone());
    }
    for reply in case["replies"].as_array().unwrap().iter().filter(|r| r["verb_name"] == "HELLO") {
        let payload = hex::decode(text(&reply["payload"])).unwrap();
        let to = text(&reply["destination"]).parse().unwrap();
        history.their_hellos.insert(to, Hello::parse(&payload).unwrap().timestamp);
    }
}

/// Our HELLO, if this is an OK to the HELLO that the recording sent at the same point.
fn solicited<'a>(history: &'a History, stimulus: &Stimulus) -> Option<&'a Sent> {
    let ok = stimulus.ok().filter(|ok| ok.in_re.verb == Verb::Hello as u8)?;
    let echoed = wire::Reader::new(ok.body).u64("timestamp").ok()?;
    let from = stimulus.source?;
    history.our_hellos.get(&from).filter(|_| history.their_hellos.get(&from) == Some(&echoed))
}

/// spec: paths, "Expected replies": zero IDs are never expected, so a version told in such an OK is not taken.
fn note_versions(bench: &Bench, history: &mut History, stimuli: &[Stimulus]) {
    for stimulus in stimuli {
        let Some(from) = stimulus.source else { continue };
        if stimulus.ok().is_some_and(|ok| ok.in_re.packet_id >> 32 == 0) {
            history.kept_versions.insert(from, u64::from(version(bench, from).unwrap()));
        }
    }
}

fn version(bench: &Bench, of: Address) -> Option<u8> {
    bench.node.peers(bench.now).iter().find(|p| p.address == of).map(|p| p.version.0)
}

#[allow(clippy::too_many_arguments)]
fn compare_replies(
    name: &str,
    case: &Value,
    bench: &Bench,
    history: &mut History,
    stimuli: &[Stimulus],
    replies: &[Sent],
    known_before: &[Address],
) {
    let mut expected: Vec<Reply> = Vec::new();
    for reply in case["replies"].as_array().unwrap() {
        let mut wanted = recorded(reply);
        let source = text(&reply["source"]);
        if !source.is_empty() && source != bench.own.address().to_string() {
            // Relayed for somebody else: the same bytes, one hop more.
            let mut raw = stimuli[0].wire.clone();
            Packet::new(&mut raw[..]).unwrap().increment_hops();
            let (verb, destination) = (String::new(), String::new());
            wanted = Reply { verb, destination, suite: None, payload: hex::encode(raw), ..wanted };
        }
        expected.push(wanted);
    }
    let mut ours: Vec<Reply> = replies.iter().map(|s| ours(bench, s)).collect();
    for stimulus in stimuli {
        let source = stimulus.source.unwrap_or_default();
        let verb = stimulus.opened.as_ref().and_then(|(verb, _)| *verb);
        // spec: wire, "Gateway hardening", suite 0: for HELLO and measurements only
        let clear = stimulus.suite == Some(Suite::Poly1305)
            && Packet::new(&stimulus.wire[..])
                .is_ok_and(|p| !Verb::from_u8(p.verb_number()).is_some_and(Verb::may_be_clear));
        // spec: wire, "Gateway hardening", addresses; paths, "Receive pipeline", beacons
        let nobody = stimulus.source == Some(Address::ZERO) || stimulus.wire.len() == 13;
        if clear || nobody {
            expected.clear();
        }
        // spec: paths, "RENDEZVOUS", Gateway: an unknown peer is asked for
        if let Some(Ok(rendezvous)) = stimulus.payload(Verb::Rendezvous).map(Rendezvous::parse)
            && rendezvous.endpoint.is_some()
            && !known_before.contains(&rendezvous.peer)
            && bench.node.peers(bench.now).iter().any(|p| p.address == source && p.upstream)
        {
            assert_eq!(ours.iter().map(|r| &r.verb[..]).collect::<Vec<_>>(), ["WHOIS"], "{name}");
            ours.clear();
        }
        // spec: paths, "Cluster redirect", Gateway: a path that the recording gave up stands here and is not challenged
        let paths: Vec<String> = bench.paths(source).iter().map(|(_, e)| format!("{}/{}", e.ip(), e.port())).collect();
        if verb != Some(Verb::Hello) {
            expected.retain(|r| r.verb != "HELLO" || !paths.contains(&r.to));
        }
        if let Some(&kept) = history.kept_versions.get(&source) {
            let suite = if kept >= 12 { 3 } else { 1 };
            expected.iter_mut().filter(|r| r.suite != Some(0)).for_each(|r| r.suite = Some(suite));
            if verb == Some(Verb::Hello) {
                history.kept_versions.remove(&source);
            }
        }
    }
    for wanted in &mut expected {
        withhold_world(wanted);
        // spec: wire, "HELLO", Gateway: a collision ERROR under the claimant's key, in suite 1
        if wanted.verb == "ERROR" && wanted.payload.starts_with("01") && wanted.payload.ends_with("04") {
            assert!(replies.iter().any(|s| s.len as u64 == wanted.len && s.suite == Some(Suite::Salsa2012Poly1305)));
            return;
        }
        // spec: wire, "Sizes", Gateway: replies that exceed the MTU are fragmented
        if wanted.len > 1432 {
            let lens: Vec<u64> = replies.iter().map(|s| s.len as u64).collect();
            assert_eq!(lens, [1432, wanted.len - 1432 + 16], "{name}");
            return;
        }
    }
    // The recording tells the two ends of an introduction in random order.
    expected.sort();
    ours.sort();
    assert_eq!(ours, expected, "{name}");
}

/// spec: paths, "Hardening bounds", HELLO answers: no worlds to an address that is not verified.
fn withhold_world(wanted: &mut Reply) {
    const WORLDS_LENGTH: usize = 9 + 20; // behind an IPv4 address
    let payload = hex::decode(&wanted.payload).unwrap();
    if wanted.verb == "OK" && payload.first() == Some(&1) && payload.len() > WORLDS_LENGTH + 2 {
        wanted.len = (28 + WORLDS_LENGTH + 2) as u64;
        wanted.payload = hex::encode(&payload[..WORLDS_LENGTH]) + "0000";
    }
}

fn compare_events(name: &str, case: &Value, bench: &Bench, stimuli: &[Stimulus]) {
    let mut expected = Vec::new();
    for event in case["events"].as_array().unwrap() {
        match event["event"].as_str().unwrap() {
            "user_message" => expected.push(Event::UserMessage {
                from: text(&event["origin"]).parse().unwrap(),
                kind: u64::from_str_radix(&text(&event["type_id"]), 16).unwrap(),
                data: hex::decode(text(&event["data"])).unwrap(),
            }),
            // Counted, handed to nobody.
            "remote_trace" => assert!(bench.node.counters().remote_traces > 0, "{name}"),
            // spec: wire, "ERROR payloads", Gateway: believed only in reply to a HELLO
            "identity_collision" => assert!(stimuli.iter().any(|s| {
                let error = s.payload(Verb::Error).map(ErrorMessage::parse);
                matches!(error, Some(Ok(ErrorMessage { code: ErrorCode::IdentityCollision, .. })))
            })),
            other => panic!("{name}: unknown event {other}"),
        }
    }
    if stimuli.iter().any(|s| s.suite == Some(Suite::Poly1305)) {
        expected.clear();
    }
    let ours: Vec<&Event> = bench.events.iter().filter(|e| matches!(e, Event::UserMessage { .. })).collect();
    assert_eq!(ours, expected.iter().collect::<Vec<_>>(), "{name}");
    assert!(!bench.events.iter().any(|e| matches!(e, Event::IdentityCollision { .. })), "{name}");
}

fn compare_version(name: &str, case: &Value, bench: &Bench, history: &History, stimuli: &[Stimulus]) {
    let Some(expected) = case.get("peer_protocol") else { return };
    let Some(stimulus) = stimuli.iter().rfind(|s| s.source.is_some()) else { return };
    let mut source = stimulus.source.unwrap();
    // For OK(WHOIS) the record is about the identity that it brings.
    if let Some(ok) = stimulus.ok().filter(|ok| ok.in_re.verb == Verb::Whois as u8) {
        source = OkWhois::parse(ok.body).unwrap().identities[0].address();
    }
    let expected = history.kept_versions.get(&source).copied().or(expected.as_u64());
    assert_eq!(version(bench, source).map(u64::from), expected, "{name}: protocol version on record for {source}");
}
