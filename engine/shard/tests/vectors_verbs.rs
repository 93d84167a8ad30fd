//! Packets of real nodes through a shard: frames come out at the TAP byte by byte, everything else reaches the control
//! plane opened.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use shard::{Config, Shard, Update};
use support::{NOW, Outside, SOCKET, Said, remote};
use wire::keys::Keys;
use wire::packet::{HDR_LEN, Packet, Suite};
use wire::{Mac, NetworkId, SecretIdentity, Verb, compress};

#[test]
fn vectors_of_wire_verbs_through_a_shard() {
    for (name, file) in vectors::family("wire-verbs") {
        through_a_shard(&name, &file);
    }
}

fn through_a_shard(name: &str, file: &Value) {
    let nodes: BTreeMap<&str, SecretIdentity> = file["nodes"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, node)| (name.as_str(), node["secret"].as_str().unwrap().parse().unwrap()))
        .collect();
    let networks: Vec<NetworkId> =
        file["networks"].as_object().unwrap().values().map(|id| id.as_str().unwrap().parse().unwrap()).collect();
    let mut cases = 0;
    let mut delivered = 0;
    for case in file["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "captured") {
        cases += 1;
        delivered += captured(case, &nodes, &networks);
    }
    vectors::ran(&format!("{name}, captured"), cases);
    assert!(delivered >= 5, "FRAMEs of suites 1 and 3, whole, relayed and in parts");
}

/// Feeds the datagrams of one packet to its destination. Returns the number of frames delivered.
fn captured(case: &Value, nodes: &BTreeMap<&str, SecretIdentity>, networks: &[NetworkId]) -> usize {
    let by_address = |key: &str| {
        let address = case[key].as_str().unwrap();
        nodes.values().find(|node| node.public().address().to_string() == address)
    };
    let sender = by_address("source").unwrap_or_else(|| panic!("unknown source in {}", case["name"]));
    let receiver = by_address("destination").unwrap_or_else(|| panic!("unknown destination in {}", case["name"]));
    let (from, own) = (sender.public().address(), receiver.public().address());

    let mut shard = Shard::new(own, Config { seed: [1; 32], shards: 1 });
    let keys = Arc::new(Keys::new(receiver.agree(sender.public()).unwrap()));
    shard.apply(Update::Peer { address: from, keys, suite: Suite::AesGmacSiv, route: None, bonded: false });
    for &id in networks {
        shard.apply(Update::Network { id, mac: Mac::of_member(id, own), mtu: 2800, fast: true });
        shard.apply(Update::Member { network: id, address: from, allowed: true });
    }

    let wire = hex::decode(case["wire"].as_str().unwrap()).unwrap();
    let datagrams = match case.get("datagrams").and_then(Value::as_array) {
        Some(list) => list.iter().map(|d| hex::decode(d.as_str().unwrap()).unwrap()).collect(),
        None => vec![wire.clone()],
    };
    let mut out = Outside::default();
    for mut datagram in datagrams {
        shard.inbound(NOW, SOCKET, remote(), &mut datagram, &mut out);
    }

    let payload = hex::decode(case["payload"].as_str().unwrap()).unwrap();
    let verb = case["verb"].as_u64().unwrap() as u8;
    let suite = Packet::new(&wire[..]).unwrap().suite().unwrap();
    let name = &case["name"];
    if suite == Suite::TrustedPath || (suite == Suite::Poly1305 && verb == Verb::Hello as u8) {
        assert!(matches!(&out.control[..], [Said::Datagram(w) | Said::Reassembled(w)] if *w == wire), "{name}");
        return 0;
    }
    if verb == Verb::Frame as u8 && matches!(payload[8..10], [0x08, 0x00] | [0x08, 0x06] | [0x86, 0xdd]) {
        let id = NetworkId(u64::from_be_bytes(payload[..8].try_into().unwrap()));
        let (to, from) = (Mac::of_member(id, own), Mac::of_member(id, from));
        assert_eq!(out.frames, [(id, [&to.0[..], &from.0, &payload[8..]].concat())], "{name}");
        assert!(out.control.is_empty(), "{name}");
        return 1;
    }
    let [Said::Opened(opened)] = &out.control[..] else { panic!("{name}: {:?}", out.control) };
    let view = Packet::new(&opened[..]).unwrap();
    assert_eq!(view.verb_number(), verb, "{name}");
    let mut plain = Vec::new();
    if view.compressed() {
        compress::decompress(view.payload(), &mut plain).unwrap();
    } else {
        plain.extend_from_slice(&opened[HDR_LEN..]);
    }
    // The tail of a HELLO stays obscured. `payload_on_wire` is what such a case has instead.
    let expected = case.get("payload_on_wire").and_then(Value::as_str).map_or(payload, |p| hex::decode(p).unwrap());
    assert_eq!(hex::encode(plain), hex::encode(expected), "{name}");
    0
}
