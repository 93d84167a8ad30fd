//! The recorded flow IDs of the reference, and properties that hold for any packet.

use proptest::prelude::*;
use serde_json::Value;
use wire::flow::flow_id;

#[test]
fn vectors_flow_ids() {
    for (name, file) in vectors::family("bonding-flowid") {
        let cases = file["cases"].as_array().expect("a list of cases");
        for case in cases {
            let text = |key: &str| case[key].as_str().expect(key).to_owned();
            let ethertype = u16::from_str_radix(text("ethertype").trim_start_matches("0x"), 16).expect("an ethertype");
            let frame = hex::decode(text("frame")).expect("hex");
            let expected = case["flow_id"].as_i64().expect("a number");
            let expected = u16::try_from(expected).ok();
            assert_eq!(flow_id(ethertype, &frame), expected, "{}", case.get("name").unwrap_or(&Value::Null));
        }
        vectors::ran(&name, cases.len());
    }
}

proptest! {
    #[test]
    fn no_packet_is_too_odd(ethertype in prop_oneof![Just(0x0800), Just(0x86dd), any::<u16>()], packet: Vec<u8>) {
        let _ = flow_id(ethertype, &packet);
    }

    #[test]
    fn both_directions_are_one_flow(ports: [u16; 2], payload in 1..100usize) {
        let packet = |[from, to]: [u16; 2]| {
            let mut packet = vec![0; 20 + 8 + payload];
            (packet[0], packet[9]) = (0x45, 17);
            packet[20..22].copy_from_slice(&from.to_be_bytes());
            packet[22..24].copy_from_slice(&to.to_be_bytes());
            packet
        };
        let there = flow_id(0x0800, &packet(ports));
        prop_assert!(there.is_some());
        prop_assert_eq!(there, flow_id(0x0800, &packet([ports[1], ports[0]])));
    }
}
