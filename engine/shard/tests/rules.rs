//! Networks with rules: a shard does to a frame what the rules engine says, the recorded behaviour of the reference
//! included, and leaves to the control plane what it cannot do alone.

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use network::membership::{Acceptance, Credential, Membership, Signed};
use network::rules::{self, Direction, Verdict};
use network::{Config, Policy, Standing};
use proptest::prelude::*;
use serde_json::Value;
use shard::{Gso, Offload, Partial, Shard, Update};
use support::*;
use wire::credential::{Capability, Custody, Ownership, Tag, Thing};
use wire::message::credentials::Credentials;
use wire::packet::Suite;
use wire::rule::{NET_MAX_RULES, RuleKind, RuleTable};
use wire::{Address, Mac, Prefix};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    Dropped,
    Control,
}

fn table(bytes: &[u8]) -> RuleTable {
    RuleTable::parse(bytes, NET_MAX_RULES).unwrap()
}

/// The configuration of `own` with these rules.
fn config(own: Address, rules: RuleTable) -> Config {
    let bare = Config::parse(format!("v=7\nnwid={NETWORK}\nid={own}\n").as_bytes()).unwrap();
    Config { rules, ..bare }
}

fn tag(of: Address, id: u32, value: u32) -> Tag {
    Tag { network: NETWORK, timestamp: 0, id, value, issued_to: of, signer: NETWORK.controller(), signature: None }
}

fn ownership(of: Address, things: Vec<Thing>) -> Ownership {
    let signer = NETWORK.controller();
    Ownership { network: NETWORK, timestamp: 0, flags: 0, id: 1, things, issued_to: of, signer, signature: None }
}

fn capability(of: Address, id: u32, rules: RuleTable) -> Capability {
    let custody = vec![Custody { to: of, from: NETWORK.controller(), signature: None }];
    Capability { network: NETWORK, timestamp: 0, id, rules, max_custody: 1, custody }
}

/// What a member with these credentials may claim.
fn standing<'a>(config: &Config, credentials: impl IntoIterator<Item = Credential<'a>>) -> Standing {
    let mut member = Membership::default();
    for credential in credentials {
        assert_eq!(member.accept(&credential, || Signed::Good), Acceptance::New);
    }
    Standing::of(member.usable(config))
}

/// A shard of `own` on a network with such rules, of which `peer` is a member.
fn filtering(own: Address, peer: Address, policy: Policy, standing: Standing) -> Shard {
    let mut shard = member(own, peer, Suite::AesGmacSiv);
    shard.apply(network(own, false));
    shard.apply(Update::Standing { network: NETWORK, address: peer, standing: Arc::new(standing) });
    shard.apply(Update::Policy { network: NETWORK, policy: Some(Arc::new(policy)) });
    shard
}

/// One that accepts everything, of whatever ethertype.
fn accepting(own: Address, peer: Address) -> Shard {
    filtering(own, peer, Policy::of(&config(own, table(&[1, 0]))), Standing::default())
}

/// What becomes of one frame; every fate but the control plane's is counted exactly once.
fn fate(shard: &mut Shard, direction: Direction, ethertype: u16, payload: &[u8]) -> Fate {
    let before = shard.counters();
    let (out, carried) = match direction {
        Direction::Outbound => {
            let out = outbound(shard, &frame(ALICE, BOB, ethertype, payload));
            let sent = !out.datagrams.is_empty();
            (out, sent)
        }
        Direction::Inbound => {
            let mut bob = accepting(BOB, ALICE);
            // each comes from the same seed: one packet ID further every time
            (0..before.frames_in + before.filtered_in)
                .for_each(|_| drop(outbound(&mut bob, &frame(BOB, ALICE, ethertype, payload))));
            let sent = outbound(&mut bob, &frame(BOB, ALICE, ethertype, payload));
            let mut all = Outside::default();
            for (_, _, mut datagram) in sent.datagrams {
                shard.inbound(NOW, SOCKET, remote(), &mut datagram, &mut all);
            }
            shard.flush(&mut all);
            let delivered = !all.frames.is_empty();
            (all, delivered)
        }
    };
    let after = shard.counters();
    let filtered = after.filtered_in + after.filtered_out - before.filtered_in - before.filtered_out;
    match (carried, out.control.len(), filtered) {
        (true, 0, 0) => Fate::Passed,
        (false, 1, 0) => Fate::Control,
        (false, 0, 1) => Fate::Dropped,
        odd => panic!("{odd:?}"),
    }
}

// ---- the recorded behaviour of the reference ---------------------------------------------------------------------------

#[test]
fn vectors_of_network_rules() {
    for (name, file) in vectors::family("network-rules") {
        let evaluations = file["evaluation"].as_array().unwrap().iter().filter(|case| unicast(case));
        let evaluated = evaluations.map(evaluation).count();
        let whole = file["whole_filter"].as_array().unwrap().iter().filter(|case| case["no_tee"] == false);
        let filtered = whole.map(whole_filter).count();
        assert!(evaluated > 1000 && filtered > 30, "{evaluated}, {filtered}");
        vectors::ran(&name, evaluated + filtered);
    }
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no text {key} in {case}"))
}

fn direction(case: &Value) -> Direction {
    if case["inbound"] == true { Direction::Inbound } else { Direction::Outbound }
}

/// Between us and a member on record, from own MAC to own MAC, and not left to chance.
fn unicast(case: &Value) -> bool {
    let chance = table(&hex::decode(text(case, "rules")).unwrap())
        .rules()
        .iter()
        .any(|rule| matches!(rule.kind, RuleKind::Random(p) if p != 0 && p != u32::MAX));
    let (from, to) = match direction(case) {
        Direction::Outbound => (ALICE, BOB),
        Direction::Inbound => (BOB, ALICE),
    };
    let macs = [Mac::of_member(NETWORK, from).to_string(), Mac::of_member(NETWORK, to).to_string()];
    let addresses = text(case, "zt_source") == from.to_string() && text(case, "zt_dest") == to.to_string();
    let macs = [text(case, "src_mac"), text(case, "dst_mac")] == macs;
    !chance && addresses && macs && case["peer_known"] == true && !text(case, "frame").is_empty()
}

fn tags(of: Address, list: &Value) -> Vec<Tag> {
    let number = |n: &Value| n.as_u64().unwrap() as u32;
    list.as_array().unwrap().iter().map(|t| tag(of, number(&t[0]), number(&t[1]))).collect()
}

fn owned(of: Address, list: &Value) -> Ownership {
    let things = list.as_array().unwrap().iter().map(|thing| match thing.as_str().unwrap().parse::<IpAddr>() {
        Ok(ip) => Thing::from(ip),
        Err(_) => {
            let mut octets = [0; 6];
            hex::decode_to_slice(thing.as_str().unwrap().replace(':', ""), &mut octets).unwrap();
            Thing::from(Mac(octets))
        }
    });
    ownership(of, things.collect())
}

/// A table that is all the network has: what it does not accept is dropped.
fn evaluation(case: &Value) {
    assert_eq!(text(case, "self"), ALICE.to_string());
    let addresses = case["static_ips"].as_array().unwrap().iter().map(|ip| {
        let (ip, bits) = ip.as_str().unwrap().split_once('/').unwrap();
        Prefix::new(ip.parse().unwrap(), bits.parse().unwrap()).unwrap()
    });
    let mut local = tags(ALICE, &case["local_tags"]);
    local.sort_by_key(|t| t.id);
    let config = Config {
        flags: u64::from_str_radix(text(case, "config_flags"), 16).unwrap(),
        addresses: addresses.collect(),
        tags: local,
        ownerships: vec![owned(ALICE, &case["local_owned"])],
        ..config(ALICE, table(&hex::decode(text(case, "rules")).unwrap()))
    };
    let (tags, owned) = (tags(BOB, &case["peer_tags"]), owned(BOB, &case["peer_owned"]));
    let credentials = tags.iter().map(Credential::Tag).chain([Credential::Ownership(&owned)]);
    let standing = standing(&config, credentials);
    let mut shard = filtering(ALICE, BOB, Policy::of(&config), standing);

    let wants_copy = !case["tee_to"].is_null();
    let expected = match text(case, "result") {
        // Another member's computed address does not count as the sender's. // spec: networks, "Traps and hardening"
        _ if text(case, "name").contains("V1 behaviour: not tied to the sender") => Fate::Dropped,
        "NO_MATCH" | "DROP" => Fate::Dropped,
        "REDIRECT" => Fate::Control,
        "ACCEPT" | "SUPER_ACCEPT" if wants_copy => Fate::Control,
        "ACCEPT" | "SUPER_ACCEPT" => Fate::Passed,
        other => panic!("result {other} is new: {case}"),
    };
    let ethertype = case["ethertype"].as_u64().unwrap() as u16;
    let found = fate(&mut shard, direction(case), ethertype, &hex::decode(text(case, "frame")).unwrap());
    assert_eq!(found, expected, "{case}");
}

/// Base rules and capabilities.
fn whole_filter(case: &Value) {
    let config = Config::parse(&hex::decode(text(case, "config_dictionary")).unwrap()).unwrap();
    assert_eq!((config.issued_to, config.network), (ALICE, NETWORK));
    let shown = Credentials::parse(&hex::decode(text(case, "peer_network_credentials_payload")).unwrap()).unwrap();
    let standing = standing(&config, shown.capabilities.iter().map(Credential::Capability));
    let mut shard = filtering(ALICE, BOB, Policy::of(&config), standing);
    let copies = !case["messages"].as_array().unwrap().is_empty();
    let expected = match text(case, "result") {
        _ if copies => Fate::Control,
        "drop" => Fate::Dropped,
        _ => Fate::Passed,
    };
    let ethertype = case["ethertype"].as_u64().unwrap() as u16;
    let found = fate(&mut shard, direction(case), ethertype, &hex::decode(text(case, "frame")).unwrap());
    assert_eq!(found, expected, "{}", case["name"]);
}

// ---- any rules, any frame -----------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Sides {
    tags: [Option<u32>; 2],
    capabilities: [Vec<u8>; 2],
}

/// Tables without chance; many of their numbers fit the frames made here.
fn rule_bytes() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        3 => 0u8..7,
        3 => Just(1u8),
        2 => Just(39u8),
        2 => Just(40u8),
        3 => Just(41u8),
        3 => Just(42u8),
        2 => 44u8..52,
        3 => 24u8..43,
    ];
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 19),
        proptest::collection::vec(prop_oneof![Just(0u8), Just(6), Just(8), Just(0xff)], 19),
        Just([&[0; 4][..], &[5, 0xff], &[0; 13]].concat()),
        Just([&[0; 7][..], &[9], &[0; 11]].concat()),
    ];
    let rule = (code, any::<[bool; 2]>(), value).prop_map(|(code, [not, or], value)| {
        [&[code | u8::from(not) << 7 | u8::from(or) << 6, 19][..], &value].concat()
    });
    proptest::collection::vec(rule, 0..8).prop_map(|rules| rules.concat())
}

fn sides() -> impl Strategy<Value = Sides> {
    let tag = proptest::option::of(0u32..3);
    (tag.clone(), tag, rule_bytes(), rule_bytes())
        .prop_map(|(ours, theirs, own, peer)| Sides { tags: [ours, theirs], capabilities: [own, peer] })
}

/// Our configuration and what the other may claim.
fn told(rules: &[u8], sides: &Sides) -> (Config, Standing) {
    let config = Config {
        tags: sides.tags[0].iter().map(|&value| tag(ALICE, 0, value)).collect(),
        capabilities: vec![capability(ALICE, 3, table(&sides.capabilities[0]))],
        ..config(ALICE, table(rules))
    };
    let (tag, theirs) =
        (sides.tags[1].map(|value| tag(BOB, 0, value)), capability(BOB, 4, table(&sides.capabilities[1])));
    let shown = tag.iter().map(Credential::Tag).chain([Credential::Capability(&theirs)]);
    let standing = standing(&config, shown);
    (config, standing)
}

/// What the engine says, asked as the control plane asks it.
fn reference(
    config: &Config,
    member: &Standing,
    sides: &Sides,
    direction: Direction,
    ethertype: u16,
    payload: &[u8],
) -> Fate {
    let (source, destination, capability) = match direction {
        Direction::Outbound => (ALICE, BOB, &sides.capabilities[0]),
        Direction::Inbound => (BOB, ALICE, &sides.capabilities[1]),
    };
    let (mac_source, mac_destination) = (Mac::of_member(NETWORK, source), Mac::of_member(NETWORK, destination));
    let frame = rules::Frame { source, destination, mac_source, mac_destination, ethertype, payload };
    let context = rules::Context {
        network: NETWORK,
        own: ALICE,
        direction,
        unknown_matches: false,
        emulated: rules::Emulated::default(),
        own_claims: config,
        peer_claims: Some(member),
    };
    let found = rules::filter(
        config.rules.rules(),
        [table(capability).rules()],
        &frame,
        &context,
        true,
        &mut || unreachable!(),
    );
    match found.verdict {
        _ if found.copies().next().is_some() => Fate::Control,
        Verdict::Drop => Fate::Dropped,
        _ => Fate::Passed,
    }
}

fn super_frame(udp: bool, flags: u8, bytes: u16, payload: &[u8]) -> (Offload, Vec<u8>) {
    let transport_len = if udp { 8 } else { 20 };
    let (len, protocol) = (transport_len + payload.len() as u16, if udp { 17u8 } else { 6 });
    let ip =
        [&[0x45, 0][..], &(20 + len).to_be_bytes(), &[0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]];
    let pseudo = (0x0a00u16 * 2 + 3 + u16::from(protocol) + len).to_be_bytes();
    let transport = if udp {
        [&[1, 0, 2, 0][..], &len.to_be_bytes(), &pseudo].concat()
    } else {
        [&[1, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, flags, 1, 1][..], &pseudo, &[0, 0]].concat()
    };
    let checksum = Some(Partial { start: 34, offset: if udp { 6 } else { 16 } });
    let kind = if udp { Gso::Udp } else { Gso::Tcp4 };
    let offload = Offload { checksum, segments: Some((kind, bytes)), headers_len: 34 + transport_len };
    (offload, frame(ALICE, BOB, 0x0800, &[&ip.concat()[..], &transport, payload].concat()))
}

/// The segments of a super-frame as complete frames: what a shard without rules leaves to the control plane.
fn cut((offload, bytes): &(Offload, Vec<u8>)) -> Vec<Vec<u8>> {
    let mut out = Outside::default();
    member_without_rules().outbound_offloaded(NOW, NETWORK, Ok(*offload), &mut bytes.clone(), &mut out);
    frames_of(out.control)
}

fn frames_of(said: Vec<Said>) -> Vec<Vec<u8>> {
    let frame = |said| match said {
        Said::Frame(_, frame) => frame,
        other => panic!("{other:?}"),
    };
    said.into_iter().map(frame).collect()
}

fn member_without_rules() -> Shard {
    let mut shard = member(ALICE, BOB, Suite::AesGmacSiv);
    shard.apply(network(ALICE, false));
    shard
}

proptest! {
    #[test]
    fn a_shard_judges_as_the_rules_engine_does(
        rules in rule_bytes(),
        sides in sides().prop_filter("parses", |s| s.capabilities.iter().all(|c| RuleTable::parse(c, 64).is_ok())),
        ethertype in prop_oneof![Just(0x0800), Just(0x86dd), Just(0x0806), any::<u16>()],
        payload in proptest::collection::vec(prop_oneof![any::<u8>(), Just(6), Just(0x45)], 1..120),
    ) {
        prop_assume!(RuleTable::parse(&rules, NET_MAX_RULES).is_ok());
        let (config, standing) = told(&rules, &sides);
        let mut shard = filtering(ALICE, BOB, Policy::of(&config), standing.clone());
        for direction in [Direction::Outbound, Direction::Inbound] {
            let expected = reference(&config, &standing, &sides, direction, ethertype, &payload);
            prop_assert_eq!(fate(&mut shard, direction, ethertype, &payload), expected, "{:?}", direction);
        }
    }

    #[test]
    fn every_segment_of_a_super_frame_meets_the_fate_it_would_meet_alone(
        rules in rule_bytes(),
        sides in sides().prop_filter("parses", |s| s.capabilities.iter().all(|c| RuleTable::parse(c, 64).is_ok())),
        udp in any::<bool>(),
        flags in any::<u8>(),
        bytes in 1u16..60,
        payload in proptest::collection::vec(any::<u8>(), 1..400),
    ) {
        prop_assume!(RuleTable::parse(&rules, NET_MAX_RULES).is_ok());
        let (config, standing) = told(&rules, &sides);
        let mut shard = filtering(ALICE, BOB, Policy::of(&config), standing.clone());
        let whole = super_frame(udp, flags, bytes, &payload);
        let (mut passed, mut control, mut dropped) = (Vec::new(), Vec::new(), 0);
        for segment in cut(&whole) {
            match reference(&config, &standing, &sides, Direction::Outbound, 0x0800, &segment[14..]) {
                Fate::Passed => passed.push(segment),
                Fate::Control => control.push(segment),
                Fate::Dropped => dropped += 1,
            }
        }
        let mut out = Outside::default();
        shard.outbound_offloaded(NOW, NETWORK, Ok(whole.0), &mut whole.1.clone(), &mut out);
        let mut bob = accepting(BOB, ALICE);
        let arrived: Vec<_> =
            out.datagrams.iter().flat_map(|(_, _, datagram)| inbound(&mut bob, datagram).frames).map(|(_, f)| f).collect();
        prop_assert_eq!((arrived, frames_of(out.control)), (passed, control));
        prop_assert_eq!(shard.counters().filtered_out, dropped);
    }
}

// ---- what a shard must know ---------------------------------------------------------------------------------------------

const DROP: &[u8] = &[0, 0];
const ACCEPT: &[u8] = &[1, 0];

#[test]
fn frames_go_to_the_control_plane_until_the_rules_and_what_the_member_may_claim_are_known() {
    let policy = |rules| Some(Arc::new(Policy::of(&config(ALICE, table(rules)))));
    let mut a = member_without_rules();
    let mut fates = |update| {
        a.apply(update);
        [Direction::Outbound, Direction::Inbound].map(|direction| fate(&mut a, direction, 0x0800, &[0x45; 40]))
    };
    assert_eq!(fates(Update::Policy { network: NETWORK, policy: policy(ACCEPT) }), [Fate::Control; 2]);
    let standing = Arc::new(Standing::default());
    assert_eq!(fates(Update::Standing { network: NETWORK, address: BOB, standing }), [Fate::Passed; 2]);
    assert_eq!(fates(Update::Policy { network: NETWORK, policy: policy(DROP) }), [Fate::Dropped; 2]);
    assert_eq!(fates(Update::Policy { network: NETWORK, policy: None }), [Fate::Control; 2]);
    assert_eq!(fates(Update::Policy { network: NETWORK, policy: policy(ACCEPT) }), [Fate::Passed; 2]);
    fates(Update::Member { network: NETWORK, address: BOB, allowed: false });
    let again = Update::Member { network: NETWORK, address: BOB, allowed: true };
    assert_eq!(fates(again), [Fate::Control; 2], "what it could claim is forgotten with it");
}

#[test]
fn when_chance_decides_about_copies_the_dice_are_rolled_once_by_the_control_plane() {
    // random: tee; accept
    let rules = [&[43, 4, 0x80, 0, 0, 0][..], &[2, 14, 0, 0, 0], &STRANGER.to_bytes(), &[0; 6], ACCEPT].concat();
    let chance = RuleTable::parse(&rules, NET_MAX_RULES).unwrap();
    let mut a = filtering(ALICE, BOB, Policy::of(&config(ALICE, chance)), Standing::default());
    for _ in 0..50 {
        assert_eq!(fate(&mut a, Direction::Outbound, 0x0800, &[0x45; 40]), Fate::Control);
        assert_eq!(fate(&mut a, Direction::Inbound, 0x0800, &[0x45; 40]), Fate::Control);
    }
}

#[test]
fn chance_drops_about_as_often_as_the_rule_says() {
    // random: drop; accept
    let rules = [&[43, 4, 0x40, 0, 0, 0][..], DROP, ACCEPT].concat();
    let mut a = filtering(ALICE, BOB, Policy::of(&config(ALICE, table(&rules))), Standing::default());
    let dropped = (0..4000).filter(|_| fate(&mut a, Direction::Outbound, 0x0800, &[0x45; 40]) == Fate::Dropped).count();
    assert!((850..1150).contains(&dropped), "{dropped} of 4000");
}

#[test]
fn a_refused_frame_is_counted_once_though_it_comes_twice_and_still_is_a_sign_of_life() {
    let mut a = filtering(ALICE, BOB, Policy::of(&config(ALICE, table(DROP))), Standing::default());
    let sent = outbound(&mut accepting(BOB, ALICE), &frame(BOB, ALICE, 0x0800, &[0x45; 40]));
    let (_, _, datagram) = &sent.datagrams[0];
    for _ in 0..2 {
        let out = inbound(&mut a, datagram);
        assert!(out.frames.is_empty() && out.control.is_empty());
    }
    assert_eq!((a.counters().filtered_in, a.counters().duplicate), (1, 1));
    let mut report = shard::Report::default();
    a.tick(NOW, &mut report);
    assert_eq!((report.activity.len(), report.activity[0].rx_packets), (1, 1));
}
