//! Whatever bytes a member sends as metadata and whatever JSON an operator posts or a file holds: an answer or an error,
//! never a panic, and never a record that is not in its own normal form.

mod common;

use common::*;
use controller::record::{self, NetworkSettings};
use controller::{Request, rules_json};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use wire::{Address, Rule};

#[test]
fn any_metadata_is_answered_or_dropped() {
    bolero::check!().for_each(|metadata: &[u8]| {
        let mut controller = with_members(json!({ "private": false, "authTokens": { "t": 0 } }), &[]);
        controller.handle_request(at(0), Request { metadata: metadata.to_vec(), ..request(NETWORK, &identity(1)) });
        answer(&drain(&mut controller));
    });
}

#[test]
fn any_bytes_as_json_are_read_or_refused() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
            try_everywhere(&value);
        }
    });
}

fn try_everywhere(value: &Value) {
    let _ = rules_json::from_json(value);
    let mut network = record::new_network(NETWORK, 1);
    if record::update_network(&mut network, value).is_ok() {
        let before = network.clone();
        NetworkSettings::of(&network).expect("what an update accepts can be issued");
        let posted_back = Value::from(network.clone());
        record::update_network(&mut network, &posted_back).expect("what is stored is accepted");
        if before["rules"] != record::new_network(NETWORK, 1)["rules"] {
            assert_eq!(network, before, "what is stored is in normal form");
        }
    }
    let mut member = record::new_member(NETWORK, Address::from_u64(1), 1);
    if record::update_member(&mut member, value, &[1, 2], 5).is_ok() {
        let before = member.clone();
        record::update_member(&mut member, &Value::from(before.clone()), &[1, 2], 6)
            .expect("what is stored is accepted");
        for (field, value) in &before {
            assert!(member.get(field) == Some(value) || field == "defaultCapabilities", "{field}");
        }
    }
    // The same as content of files.
    let Value::Object(record) = value else { return };
    let storage =
        memory([(NETWORK, None, record.clone().into()), (NETWORK, Some(Address::from_u64(1)), record.clone().into())]);
    let mut controller = new_controller(storage);
    if controller.faults().is_empty() {
        answer(&{
            controller.handle_request(at(0), request(NETWORK, &identity(1)));
            run(&mut controller, 0, 2_000)
        });
    }
}

/// Names that mean something somewhere.
const FIELDS: [&str; 44] = [
    "name",
    "private",
    "enableBroadcast",
    "multicastLimit",
    "mtu",
    "v4AssignMode",
    "v6AssignMode",
    "zt",
    "6plane",
    "rfc4193",
    "ipAssignmentPools",
    "ipRangeStart",
    "ipRangeEnd",
    "routes",
    "target",
    "via",
    "rules",
    "type",
    "not",
    "or",
    "capabilities",
    "id",
    "default",
    "tags",
    "dns",
    "domain",
    "servers",
    "authTokens",
    "remoteTraceTarget",
    "remoteTraceLevel",
    "authorized",
    "activeBridge",
    "noAutoAssignIps",
    "ipAssignments",
    "authenticationExpiryTime",
    "ssoEnabled",
    "revision",
    "creationTime",
    "certificateTimeoutWindowSize",
    "start",
    "ip",
    "etherType",
    "lastDeauthorizedTime",
    "identity",
];
const TEXTS: [&str; 14] = [
    "",
    "zt",
    "10.1.0.1",
    "10.1.0.1/16",
    "fd00::/64",
    "fd00::1",
    "0.0.0.0/0",
    "ACTION_ACCEPT",
    "MATCH_ETHERTYPE",
    "true",
    "0000000001",
    "2048",
    "rfc4193,zt",
    "MATCH_IPV4_SOURCE",
];

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..70_000i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(&TEXTS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let field = prop_oneof![4 => prop::sample::select(&FIELDS[..]).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((field, inner), 0..8).prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// Values in the shape of records, so that the deeper readers are reached.
fn records() -> impl Strategy<Value = Value> {
    let entry = || prop::collection::vec((prop::sample::select(&FIELDS[..]).prop_map(str::to_owned), values()), 0..6);
    let entries = move || prop::collection::vec(entry().prop_map(|f| Value::Object(Map::from_iter(f))), 0..4);
    let field = prop::sample::select(&FIELDS[..]).prop_map(str::to_owned);
    prop::collection::vec((field, prop_oneof![values(), entries().prop_map(Value::from)]), 0..12)
        .prop_map(|fields| Value::Object(Map::from_iter(fields)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_read_or_refused(value in values()) {
        try_everywhere(&value);
    }

    #[test]
    fn any_record_is_read_or_refused(value in records()) {
        try_everywhere(&value);
    }

    #[test]
    fn every_rule_that_has_a_json_form_is_the_same_again(bytes in prop::collection::vec(any::<u8>(), 2..40)) {
        let Ok(mut rule) = Rule::read(&mut wire::Reader::new(&bytes)) else { return Ok(()) };
        let Some(json) = rules_json::to_json(&rule) else { return Ok(()) };
        if rule.kind.is_action() {
            (rule.not, rule.or) = (false, false);
        }
        let read = rules_json::from_json(&json);
        let normal = read.as_ref().ok().and_then(rules_json::to_json);
        // Mask bits beyond the address, ICMP flags without meaning and a REDIRECT's length are not part of the form.
        prop_assert_eq!(normal.as_ref().map(Value::to_string).is_some(), true, "{:?}", read);
        prop_assert_eq!(rules_json::from_json(&normal.unwrap()), read);
    }

    #[test]
    fn members_never_share_an_address(
        start in 1u32..0xffff_0000, span in 0u32..40, members in prop::collection::btree_set(1u64..0xfe_ffff_ffff, 1..30),
    ) {
        let ip = |n: u32| std::net::Ipv4Addr::from(n).to_string();
        let network = json!({
            "private": false, "v4AssignMode": "zt",
            "ipAssignmentPools": [{ "ipRangeStart": ip(start), "ipRangeEnd": ip(start.saturating_add(span)) }],
            "routes": [{ "target": "0.0.0.0/1" }, { "target": "128.0.0.0/1" }],
        });
        let mut controller = with_members(network, &[]);
        let mut taken = std::collections::BTreeSet::new();
        for member in members {
            controller.handle_request(at(0), request(NETWORK, &identity(member)));
            let config = answer(&drain(&mut controller)).config();
            for address in config.addresses {
                prop_assert!(taken.insert(address.addr), "{} twice", address.addr);
            }
        }
    }
}

#[test]
fn a_storage_full_of_nonsense_is_survived() {
    let storage = memory([
        (NETWORK, None, json!({ "revision": -1, "creationTime": u64::MAX, "mtu": null, "routes": {}, "rules": [] })),
        (NETWORK, Some(Address::from_u64(1)), json!({ "revision": u64::MAX, "tags": 7, "ipAssignments": [null, "x"] })),
        (NETWORK, Some(Address::from_u64(2)), json!({ "authorized": true, "lastDeauthorizedTime": u64::MAX })),
    ]);
    let mut controller = new_controller(storage);
    for member in [1, 2] {
        controller.handle_request(at(0), request(NETWORK, &identity(member)));
    }
    run(&mut controller, 0, 5_000);
}
