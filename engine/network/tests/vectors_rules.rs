//! The recorded behaviour of the reference for rules and computed addresses, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use network::addressing::{self, AdHoc, AdHocRefusal};
use network::rules::{Claims, Context, Decision, Direction, Emulated, Frame, Verdict, evaluate, filter};
use serde_json::{Value, json};
use wire::credential::Capability;
use wire::dictionary::Dictionary;
use wire::message::credentials::Credentials;
use wire::rule::{NET_MAX_RULES, RuleTable};
use wire::{Address, Mac, MulticastGroup, NetworkId, Reader};

#[test]
fn vectors_of_network_rules() {
    for (name, file) in vectors::family("network-rules") {
        vectors::ran(&name, rules(&file));
    }
}

fn rules(file: &Value) -> usize {
    let mut cases = 0;
    for case in list(file, "codec") {
        cases += 1;
        codec(case);
    }
    for case in list(file, "binary") {
        cases += 1;
        binary(case);
    }
    for case in list(file, "evaluation") {
        cases += 1;
        evaluation(case);
    }
    let addresses = addresses_of_identities(file);
    for case in list(file, "whole_filter") {
        cases += 1;
        whole_filter(case, &addresses);
    }
    cases
}

#[test]
fn vectors_of_network_addressing() {
    for (name, file) in vectors::family("network-addressing") {
        vectors::ran(&name, computed_addresses(&file));
    }
}

fn computed_addresses(file: &Value) -> usize {
    let addresses = addresses_of_identities(file);
    let mut cases = 0;
    for case in list(file, "mac") {
        cases += 1;
        let (network, member) = (network_id(case), case["address"].as_str().unwrap().parse().unwrap());
        let mac = Mac::of_member(network, member);
        assert_eq!(u64::from(network.mac_octet()), case["first_octet"].as_u64().unwrap(), "{case}");
        assert_eq!(mac.to_string(), text(case, "mac"), "{case}");
        assert_eq!(mac.member(network).unwrap().to_string(), text(case, "mac_to_address"), "{case}");
    }
    for case in list(file, "ipv6") {
        cases += 1;
        let (network, member) = (network_id(case), text(case, "address").parse().unwrap());
        let (rfc4193, six_plane) = (addressing::rfc4193(network, member), addressing::six_plane(network, member));
        assert_eq!(format!("{rfc4193}/{}", addressing::RFC4193_BITS), text(case, "rfc4193"), "{case}");
        assert_eq!(format!("{six_plane}/{}", addressing::SIX_PLANE_BITS), text(case, "sixplane"), "{case}");
        assert_eq!(hex::encode(rfc4193.octets()), text(case, "rfc4193_bytes"), "{case}");
        assert_eq!(hex::encode(six_plane.octets()), text(case, "sixplane_bytes"), "{case}");
    }
    for case in list(file, "tap_name") {
        cases += 1;
        let collisions = case["collisions"].as_u64().unwrap();
        assert_eq!(addressing::tap_name(network_id(case), collisions), text(case, "name"), "{case}");
    }
    for case in list(file, "resolution_group") {
        cases += 1;
        let group = MulticastGroup::for_resolving(text(case, "ip").parse().unwrap());
        assert_eq!(group.mac.to_string(), text(case, "mac"), "{case}");
        assert_eq!(u64::from(group.adi), case["adi"].as_u64().unwrap(), "{case}");
    }
    for case in list(file, "adhoc") {
        cases += 1;
        ad_hoc(case, &addresses);
    }
    cases
}

fn ad_hoc(case: &Value, addresses: &BTreeMap<String, Address>) {
    let made = AdHoc::configuration(network_id(case), addresses[text(case, "self")]);
    match text(case, "outcome") {
        "config" => {
            let made = made.unwrap();
            assert_eq!(made.name, text(case, "name"), "{case}");
            assert_eq!("public", text(case, "type"), "{case}");
            assert_eq!(format!("{:016x}", AdHoc::FLAGS), text(case, "flags"), "{case}");
            assert_eq!(case["mtu"], AdHoc::MTU, "{case}");
            assert_eq!(case["multicast_limit"], made.multicast_limit, "{case}");
            assert_eq!(case["revision"], AdHoc::REVISION, "{case}");
            assert_eq!(case["credential_time_max_delta"], AdHoc::CREDENTIAL_WINDOW_MS, "{case}");
            let ips: Vec<_> = made.static_ips.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            assert_eq!(case["static_ips"], json!(ips), "{case}");
            let specialists: Vec<_> = made.specialists.iter().map(|s| format!("{s:016x}")).collect();
            assert_eq!(case["specialists"], json!(specialists), "{case}");
            assert_eq!(hex::encode(made.rules), text(case, "rules"), "{case}");
        }
        "not_found" => assert_eq!(made, Err(AdHocRefusal::EmptyPortRange), "{case}"),
        "no_config" => assert_eq!(made, Err(AdHocRefusal::UnknownForm), "{case}"),
        other => panic!("outcome {other} is new: {case}"),
    }
}

/// The binary side of a rule: it reads, and writes back to the same bytes. The JSON side is the controller's.
fn codec(case: &Value) {
    let Some(binary) = case.get("binary").and_then(Value::as_str) else {
        assert_eq!(case["controller_accepts"], false, "{case}");
        return;
    };
    let bytes = hex::decode(binary).unwrap();
    let table = RuleTable::parse(&bytes, NET_MAX_RULES).unwrap();
    assert_eq!(hex::encode(RuleTable::new(table.rules().to_vec()).bytes()), binary, "{case}");
}

fn binary(case: &Value) {
    let bytes = hex::decode(text(case, "binary")).unwrap();
    let parsed = RuleTable::parse(&bytes, NET_MAX_RULES);
    // A known type with a length below its fields is malformed here. // spec: networks, "Binary form"
    let shorter_than_its_fields = text(case, "why").contains("shorter length byte");
    if case["parses"] == false || shorter_than_its_fields {
        assert!(parsed.is_err(), "{case}");
        return;
    }
    let table = parsed.unwrap();
    let codes: Vec<_> = table.rules().iter().map(|r| r.kind.code()).collect();
    assert_eq!(case["types"], json!(codes), "{case}");
    assert_eq!(case["count"], codes.len(), "{case}");
    // The reference forgets the value of a type it does not know; here it stays.
    let known = |code: &u8| matches!(code, 0..=6 | 24..=51);
    if codes.iter().all(known) {
        let again = RuleTable::new(table.rules().to_vec());
        assert_eq!(hex::encode(again.bytes()), text(case, "reserialised"), "{case}");
    }
}

#[derive(Default)]
struct Side {
    tags: BTreeMap<u32, u32>,
    ips: BTreeSet<IpAddr>,
    macs: BTreeSet<Mac>,
}

impl Side {
    fn of(tags: &Value, owned: &Value) -> Side {
        let mut side = Side::default();
        for tag in tags.as_array().unwrap() {
            side.tags.insert(tag[0].as_u64().unwrap() as u32, tag[1].as_u64().unwrap() as u32);
        }
        for thing in owned.as_array().unwrap() {
            let thing = thing.as_str().unwrap();
            match thing.parse::<IpAddr>() {
                Ok(ip) => assert!(side.ips.insert(ip)),
                Err(_) => assert!(side.macs.insert(mac(thing))),
            }
        }
        side
    }
}

impl Claims for Side {
    fn tag(&self, id: u32) -> Option<u32> {
        self.tags.get(&id).copied()
    }
    fn owns_ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
    }
    fn owns_mac(&self, mac: Mac) -> bool {
        self.macs.contains(&mac)
    }
}

fn evaluation(case: &Value) {
    let table = RuleTable::parse(&hex::decode(text(case, "rules")).unwrap(), NET_MAX_RULES).unwrap();
    let payload = hex::decode(text(case, "frame")).unwrap();
    let flags = u64::from_str_radix(text(case, "config_flags"), 16).unwrap();
    let (network, own) = (network_id(case), text(case, "self").parse().unwrap());
    let static_ips = case["static_ips"].as_array().unwrap().iter().map(|ip| {
        let (ip, _bits) = ip.as_str().unwrap().split_once('/').unwrap();
        ip.parse().unwrap()
    });
    let own_claims = Side::of(&case["local_tags"], &case["local_owned"]);
    let peer_claims = Side::of(&case["peer_tags"], &case["peer_owned"]);
    let frame = Frame {
        source: text(case, "zt_source").parse().unwrap(),
        destination: text(case, "zt_dest").parse().unwrap(),
        mac_source: mac(text(case, "src_mac")),
        mac_destination: mac(text(case, "dst_mac")),
        ethertype: case["ethertype"].as_u64().unwrap() as u16,
        payload: &payload,
    };
    let context = Context {
        network,
        own,
        direction: direction(case),
        unknown_matches: flags & 0x08 != 0,
        emulated: Emulated::new(network, own, flags, static_ips),
        own_claims: &own_claims,
        peer_claims: (case["peer_known"] == true).then_some(&peer_claims as &dyn Claims),
    };
    let found = evaluate(table.rules(), &frame, &context, &mut || 0x8000_0000);

    let redirected = text(case, "zt_dest_after").parse().unwrap();
    let expected = match text(case, "result") {
        // Another member's computed address does not count as the sender's. // spec: networks, "Traps and hardening"
        _ if text(case, "name").contains("V1 behaviour: not tied to the sender") => Decision::NoMatch,
        "NO_MATCH" => Decision::NoMatch,
        "DROP" => Decision::Drop,
        "ACCEPT" => Decision::Accept,
        "SUPER_ACCEPT" => Decision::SuperAccept,
        "REDIRECT" => Decision::Redirect(redirected),
        other => panic!("result {other} is new: {case}"),
    };
    assert_eq!(found.decision, expected, "{case}");
    let mirror = found.mirror.map(|m| (m.to.to_string(), m.len as u64, m.watch));
    let expected = case["tee_to"]
        .as_str()
        .map(|to| (to.to_owned(), case["tee_length"].as_u64().unwrap(), case["tee_is_watch"].as_bool().unwrap()));
    assert_eq!(mirror, expected, "{case}");
}

/// Member a filters frames to and from member b; both hold what their credentials say, all of them usable.
fn whole_filter(case: &Value, addresses: &BTreeMap<String, Address>) {
    let config = hex::decode(text(case, "config_dictionary")).unwrap();
    let config = Dictionary::parse(&config).unwrap();
    let base = config.get("R").unwrap_or_default();
    let base = RuleTable::parse(&base, NET_MAX_RULES).unwrap();
    let ours = config.get("CAP").unwrap_or_default();
    let mut ours = Reader::new(&ours);
    let own_capabilities: Vec<_> =
        std::iter::from_fn(|| (!ours.is_empty()).then(|| Capability::read(&mut ours).unwrap())).collect();
    let theirs = hex::decode(text(case, "peer_network_credentials_payload")).unwrap();
    let peer_capabilities = Credentials::parse(&theirs).unwrap().capabilities;

    let (own, peer) = (addresses[text(case, "self")], addresses[text(case, "peer")]);
    let network = network_id(case);
    let payload = hex::decode(text(case, "frame")).unwrap();
    let direction = direction(case);
    let (source, destination, capabilities) = match direction {
        Direction::Outbound => (own, peer, own_capabilities),
        Direction::Inbound => (peer, own, peer_capabilities),
    };
    let frame = Frame {
        source,
        destination,
        mac_source: mac(text(case, "src_mac")),
        mac_destination: mac(text(case, "dst_mac")),
        ethertype: case["ethertype"].as_u64().unwrap() as u16,
        payload: &payload,
    };
    let nobody = Side::default();
    let context = Context {
        network,
        own,
        direction,
        unknown_matches: false,
        emulated: Emulated::default(),
        own_claims: &nobody,
        peer_claims: Some(&nobody),
    };
    let capabilities = capabilities.iter().map(|c| c.rules.rules());
    let filtered = filter(base.rules(), capabilities, &frame, &context, case["no_tee"] == false, &mut || 0);

    let expected = match text(case, "result") {
        "drop" => Verdict::Drop,
        "accept" => Verdict::Accept,
        "super_accept" => Verdict::SuperAccept,
        other => panic!("result {other} is new: {case}"),
    };
    assert_eq!(filtered.verdict, expected, "{}", case["name"]);
    let sent: Vec<_> = filtered
        .copies()
        .map(|copy| {
            let mut payload = Vec::new();
            copy.message(network, &frame).write(&mut payload);
            json!({ "to": copy.to.to_string(), "verb": "EXT_FRAME", "payload": hex::encode(payload) })
        })
        .collect();
    assert_eq!(case["messages"], json!(sent), "{}", case["name"]);
}

fn list<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    file[key].as_array().unwrap_or_else(|| panic!("no list {key}"))
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no text {key} in {case}"))
}

fn network_id(case: &Value) -> NetworkId {
    text(case, "network_id").parse().unwrap()
}

fn direction(case: &Value) -> Direction {
    if case["inbound"] == true { Direction::Inbound } else { Direction::Outbound }
}

fn mac(text: &str) -> Mac {
    let mut octets = [0; 6];
    hex::decode_to_slice(text.replace(':', ""), &mut octets).unwrap();
    Mac(octets)
}

fn addresses_of_identities(file: &Value) -> BTreeMap<String, Address> {
    let identities = file["identities"].as_object().unwrap();
    identities.iter().map(|(name, id)| (name.clone(), text(id, "address").parse().unwrap())).collect()
}
