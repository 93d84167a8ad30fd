//! What every room counted, as one JSON object; what never happened is left out.

use serde_json::{Map, Value, json};

use super::Control;
use crate::dataplane::ShardCounters;

/// Adds fields of a counter struct to a map, by their names.
macro_rules! add {
    ($to:expr, $from:expr; $($field:ident)*) => {
        $(add_to(&mut $to, stringify!($field), $from.$field);)*
    };
}

fn add_to(to: &mut Map<String, Value>, name: &str, n: u64) {
    let sum = to.get(name).and_then(Value::as_u64).unwrap_or(0) + n;
    if sum > 0 {
        to.insert(name.to_owned(), sum.into());
    }
}

/// Every counter that is not zero, by room. Shards are added up, and also one by one in `perShard`.
pub(super) fn all(control: &Control) -> Value {
    let (mut node, mut networks, mut gateway) = (Map::new(), Map::new(), Map::new());
    control.p.node.counters().iter().for_each(|(name, n)| add_to(&mut node, name, n));
    control.p.node.networks().counters().iter().for_each(|(name, n)| add_to(&mut networks, name, n));

    add!(gateway, control.counters; sends_refused unreachable_foreign frames_not_held);
    add!(gateway, control.unreachables.counters; unreachable_heard unreachable_other unreachable_unavailable);
    add_to(&mut gateway, "links_left_out", control.links.left_out());
    add_to(&mut gateway, "proofs_dropped", control.p.prover.dropped);
    add_to(&mut gateway, "writes_failed", control.p.writer.failures());
    add_to(&mut gateway, "api_refused", control.p.gate.refused());

    let (mut tunnel, mut relay) = (Map::new(), Map::new());
    add!(tunnel, control.fallback.counters; opened lost sent received bad_size bad_destination outbox_full);
    let relayed = control.p.relay_server.iter().flat_map(|server| server.counters());
    relayed.for_each(|(name, n)| add_to(&mut relay, name, n));

    let (mut controller, c) = (Map::new(), control.p.controller.counters());
    add!(controller, c; requests requests_for_other_controllers requests_malformed requests_too_soon
        requests_dropped_gate_full requests_dropped_queue_full refused_unknown_network refused_denied
        refused_other_identity refused_authentication refused_members_full refused_too_large configurations pushes
        pushes_dropped_queue_full revocations revocation_packets revocations_forgotten storage_failures
        events_dropped);

    let plane = control.p.dataplane.counters();
    let (mut shards, mut reassembly, mut rings, mut queues) = (Map::new(), Map::new(), Map::new(), Map::new());
    let mut reordering = Map::new();
    let mut per_shard = Vec::new();
    for one in &plane.shards {
        let [packets, fragments, ring, order] = of_shard(one);
        sum(&mut shards, &packets);
        sum(&mut reassembly, &fragments);
        sum(&mut rings, &ring);
        sum(&mut reordering, &order);
        per_shard.push(json!({"shards": packets, "reassembly": fragments, "rings": ring, "reordering": order}));
    }
    add!(queues, plane.queues; foreign datagrams opened opened_frames tap_frames reports refusals sends frames strays);

    let rooms = [
        ("node", node),
        ("networks", networks),
        ("bonds", crate::objects::bond::counters(control.p.node.bonds().map(|(_, bond)| bond))),
        ("controller", controller),
        ("gateway", gateway),
        ("tcpFallback", tunnel),
        ("tcpRelay", relay),
        ("shards", shards),
        ("reassembly", reassembly),
        ("rings", rings),
        ("reordering", reordering),
        ("queuesFull", queues),
    ];
    let mut counts: Map<_, _> = rooms.into_iter().map(|(name, map)| (name.to_owned(), map.into())).collect();
    counts.insert("perShard".to_owned(), per_shard.into());
    counts.into()
}

/// Packets, fragments, ring and order of one shard.
fn of_shard(one: &ShardCounters) -> [Map<String, Value>; 4] {
    let (mut shards, mut reassembly, mut rings, mut reordering) = (Map::new(), Map::new(), Map::new(), Map::new());
    add!(reordering, one.reordering; held closed expired given_up late overflowed evicted);
    add!(shards, one.shard; strays_given strays_taken frames_in frames_out datagrams_out super_frames_in joined_in
        super_frames_out cut_out mss_clamped odd_out foreign control_foreign control_unopened control_opened
        control_frames not_a_packet own_source undefined_suite clear_verb forged duplicate filtered_in filtered_out oversized_in runt_out
        oversized_out unsplittable no_buffer bond_requests bond_acks bond_answers copies striped marks_out stripe_dropped
        recalled seen_full peers_full networks_full members_full activity_full);
    add!(reassembly, one.reassembly; completed duplicates malformed disagreeing oversized expired evicted);
    add!(rings, one.ring; turns enters datagrams_in messages_in bytes_in datagrams_out messages_out bytes_out
        frames_in frames_out rearmed buffers_exhausted completions_overflowed dropped_truncated
        dropped_control_truncated dropped_malformed receive_errors sends_parked dropped_send_expired
        dropped_socket_full dropped_send_failed dropped_no_send_slot dropped_socket_gone gso_refused frames_stalled
        writes_waiting dropped_no_tap_slot dropped_tap_down dropped_tap_failed dropped_events);
    [shards, reassembly, rings, reordering]
}

fn sum(to: &mut Map<String, Value>, from: &Map<String, Value>) {
    from.iter().for_each(|(name, n)| add_to(to, name, n.as_u64().unwrap_or(0)));
}
