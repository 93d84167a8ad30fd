//! Everything that grows has an end: each bound is filled, and what happens then is seen.

mod common;

use common::*;
use controller::constants::*;
use controller::{Error, Output, Request};
use serde_json::json;
use wire::{Address, NetworkId};

fn addr(member: u64) -> Address {
    Address::from_u64(member)
}

#[test]
fn networks_max() {
    let records = (1..=NETWORKS_MAX as u64).map(|n| (NetworkId(NETWORK.0 + n), None, json!({})));
    let mut controller = new_controller(memory(records));
    assert_eq!((controller.networks().count(), controller.faults().len()), (NETWORKS_MAX, 0));
    assert!(matches!(controller.create_network(at(0), &json!({})), Err(Error::Full { limit: NETWORKS_MAX, .. })));
    let first = NetworkId(NETWORK.0 + 1);
    controller.update_network(at(0), first, &json!({ "name": "those that are there still work" })).unwrap();
    controller.delete_network(at(0), first).unwrap();
    controller.create_network(at(0), &json!({})).unwrap();
}

#[test]
fn stored_networks_beyond_the_bound_are_left_alone_and_named() {
    let records = (1..=NETWORKS_MAX as u64 + 2).map(|n| (NetworkId(NETWORK.0 + n), None, json!({})));
    let controller = new_controller(memory(records));
    assert_eq!((controller.networks().count(), controller.faults().len()), (NETWORKS_MAX, 2));
}

#[test]
fn members_max() {
    let members = (1..=MEMBERS_MAX as u64).map(|n| (NETWORK, Some(addr(n)), json!({ "authorized": true })));
    let network = [(NETWORK, None, json!({ "private": false }))];
    let mut controller = new_controller(memory(network.into_iter().chain(members)));
    assert_eq!(controller.faults().len(), 0);
    let next = MEMBERS_MAX as u64 + 1;
    assert!(matches!(
        controller.update_member(at(0), NETWORK, addr(next), &json!({})),
        Err(Error::Full { limit: MEMBERS_MAX, .. })
    ));
    assert!(ask(&mut controller, at(0), &identity(next)).is_error(7));
    assert_eq!(controller.counters().refused_members_full, 1);
    ask(&mut controller, at(0), &identity(1)).config();
    controller.delete_member(at(10), NETWORK, addr(2)).unwrap();
    ask(&mut controller, at(5_000), &identity(next)).config();
}

#[test]
fn strangers_max() {
    let strangers = (1..=STRANGERS_MAX as u64).map(|n| (NETWORK, Some(addr(n)), json!({})));
    let mut controller = new_controller(memory([(NETWORK, None, json!({}))].into_iter().chain(strangers)));
    let next = STRANGERS_MAX as u64 + 1;
    assert!(ask(&mut controller, at(0), &identity(next)).is_error(7));
    assert!(controller.member(NETWORK, addr(next)).is_none());
    assert_eq!(controller.counters().refused_members_full, 1);
    // Operators are not hindered by them, nor are those whom they know.
    controller.update_member(at(0), NETWORK, addr(next), &json!({ "authorized": true })).unwrap();
    ask(&mut controller, at(5_000), &identity(next)).config();
    // One known better makes room for another.
    controller.update_member(at(5_000), NETWORK, addr(1), &json!({ "authorized": true })).unwrap();
    assert!(ask(&mut controller, at(5_000), &identity(next + 1)).is_error(7));
    assert!(controller.member(NETWORK, addr(next + 1)).is_some());
}

fn replies(outputs: &[Output]) -> usize {
    outputs.iter().filter(|o| matches!(o, Output::Reply { .. })).count()
}

#[test]
fn gate_max_and_pending_strangers_max() {
    let mut controller = with_members(json!({}), &[]);
    for n in 1..=GATE_MAX as u64 + 5 {
        controller.handle_request(at(0), request(NETWORK, &identity(n)));
        drain(&mut controller);
    }
    let counters = controller.counters();
    assert_eq!(counters.requests_dropped_gate_full, 5);
    // The burst was answered at once, the next wait, the others were dropped.
    assert_eq!(counters.refused_denied, PACKETS_BURST);
    let waiting = PENDING_STRANGERS_MAX as u64;
    assert_eq!(counters.requests_dropped_queue_full, GATE_MAX as u64 - PACKETS_BURST - waiting);
    assert_eq!(replies(&run(&mut controller, 0, 20_000)), PENDING_STRANGERS_MAX);
    // Afterwards everything is as before.
    assert!(ask(&mut controller, at(30_000), &identity(GATE_MAX as u64 + 5)).is_error(7));
}

#[test]
fn pending_max() {
    let count = PACKETS_BURST + PENDING_MAX as u64 + 5;
    let members = (1..=count).map(|n| (NETWORK, Some(addr(n)), json!({ "authorized": true })));
    let mut controller = new_controller(memory([(NETWORK, None, json!({}))].into_iter().chain(members)));
    for n in 1..=count {
        controller.handle_request(at(0), request(NETWORK, &identity(n)));
    }
    assert_eq!(controller.counters().requests_dropped_queue_full, 5);
    assert_eq!(replies(&run(&mut controller, 0, 20_000)), count as usize - 5);
}

#[test]
fn a_flood_of_strangers_does_not_delay_members() {
    let mut controller = with_members(json!({}), &[7]);
    for n in 1_000..20_000 {
        controller.handle_request(at(0), request(NETWORK, &identity(n)));
    }
    drain(&mut controller);
    controller.handle_request(at(1), request(NETWORK, &identity(7)));
    let outputs = run(&mut controller, 1, 5);
    assert!(outputs.iter().any(|o| matches!(o, Output::Reply { to, .. } if *to == addr(7))));
    // Nor do numbers of networks that do not exist help one of them to many answers.
    let mut controller = with_members(json!({}), &[]);
    for n in 1..1_000 {
        controller.handle_request(at(0), request(NetworkId(NETWORK.0 + n), &identity(1)));
    }
    assert_eq!(replies(&drain(&mut controller)) as u64, UNKNOWN_NETWORKS_PER_GATE);
}

#[test]
fn metadata_max_bytes() {
    let mut controller = with_members(json!({ "private": false }), &[]);
    let with = |bytes| Request { metadata: vec![b'x'; bytes], ..request(NETWORK, &identity(1)) };
    controller.handle_request(at(0), with(METADATA_MAX_BYTES + 1));
    assert_eq!((answer(&drain(&mut controller)), controller.counters().requests_malformed), (Answer::Nothing, 1));
    controller.handle_request(at(0), with(METADATA_MAX_BYTES));
    answer(&drain(&mut controller)).config();
}

#[test]
fn revocations_max() {
    let count = REVOCATIONS_MAX as u64 + 3;
    let members = (1..=count).map(|n| (NETWORK, Some(addr(n)), json!({ "authorized": true })));
    let mut controller = new_controller(memory([(NETWORK, None, json!({}))].into_iter().chain(members)));
    for member in 2..=count {
        controller.delete_member(at(0), NETWORK, addr(member)).unwrap();
    }
    assert_eq!(controller.counters().revocations_forgotten, 2);
    // Whoever comes online is told the newest of them, fifty at a time.
    controller.handle_request(at(0), request(NETWORK, &identity(1)));
    let told = revoked(&run(&mut controller, 0, 110_000));
    assert_eq!(told.len(), REVOCATIONS_MAX);
    assert_eq!(told.first(), Some(&(1, 4)));
}

#[test]
fn events_max() {
    let mut controller = with_members(json!({ "private": false }), &[]);
    for n in 1..=EVENTS_MAX as u64 + 7 {
        // Time enough to answer each at once.
        controller.handle_request(at(n * 10), request(NETWORK, &identity(n)));
    }
    assert_eq!(controller.counters().events_dropped, 7);
    let events = drain(&mut controller).iter().filter(|o| matches!(o, Output::Event(_))).count();
    assert_eq!(events, EVENTS_MAX);
}

#[test]
fn record_sizes() {
    let mut controller = with_members(json!({}), &[1]);
    let tags: Vec<_> = (0..ARRAY_MAX as u32).map(|id| json!({ "id": id, "default": null })).collect();
    controller.update_network(at(0), NETWORK, &json!({ "tags": tags })).unwrap();
    let mut too_many = tags.clone();
    too_many.push(json!({ "id": 0 }));
    assert!(controller.update_network(at(0), NETWORK, &json!({ "tags": too_many })).is_err());
    let rule = json!({ "type": "MATCH_IPV6_SOURCE", "ip": "2001:db8:1111:2222:3333:4444:5555:6666/128" });
    let capabilities: Vec<_> = (0..1_000).map(|id| json!({ "id": id, "rules": vec![rule.clone(); 64] })).collect();
    match controller.update_network(at(0), NETWORK, &json!({ "capabilities": capabilities })) {
        Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, "record", "{invalid}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let name = "x".repeat(TEXT_MAX_BYTES + 1);
    assert!(controller.update_member(at(0), NETWORK, addr(1), &json!({ "name": name })).is_err());
}

#[test]
fn pushes_max_is_above_what_can_be_online() {
    // Only who was answered within the last two minutes is online, and answers are paced; a push waits once for each.
    const { assert!(PUSHES_MAX as u64 >= PACKETS_PER_SECOND * ONLINE_MS / 1000 + PACKETS_BURST) };
}
