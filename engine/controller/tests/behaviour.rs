//! The controller as members and operators see it, driven by a virtual clock.

mod common;

use std::collections::BTreeSet;

use common::*;
use controller::constants::*;
use controller::{Controller, Error, Event, FileStorage, MemoryStorage, Output, Request};
use network::Config;
use serde_json::json;
use wire::credential::Com;
use wire::{Address, Dictionary, NetworkId, Now};

fn addr(member: u64) -> Address {
    Address::from_u64(member)
}

const YES: fn() -> serde_json::Value = || json!({ "authorized": true });
const NO: fn() -> serde_json::Value = || json!({ "authorized": false });

mod admission {
    use super::*;

    #[test]
    fn a_member_is_answered_once_a_second_and_the_rest_is_dropped() {
        let mut controller = with_members(private_network(), &[1]);
        let member = identity(1);
        ask(&mut controller, at(0), &member).config();
        assert_eq!(ask(&mut controller, at(1000), &member), Answer::Nothing);
        ask(&mut controller, at(1001), &member).config();
        // Refused requests count too.
        assert!(ask(&mut controller, at(1001), &identity(2)).is_error(7));
        assert_eq!(ask(&mut controller, at(1500), &identity(2)), Answer::Nothing);
        assert_eq!(controller.counters().requests_too_soon, 2);
    }

    #[test]
    fn requests_for_other_controllers_are_ignored_and_unknown_networks_are_not_found() {
        let mut controller = with_members(private_network(), &[]);
        controller.handle_request(at(0), request(NetworkId(0xaaaa_aaaa_aa00_0001), &identity(1)));
        assert_eq!(drain(&mut controller), []);
        controller.handle_request(at(0), request(NetworkId(NETWORK.0 + 1), &identity(1)));
        assert_eq!(answer(&drain(&mut controller)), Answer::Error(3, (NETWORK.0 + 1).to_be_bytes().to_vec()));
    }

    #[test]
    fn a_stranger_becomes_visible_and_an_operators_yes_reaches_it_at_once() {
        let mut controller = with_members(private_network(), &[]);
        run(&mut controller, 0, 1_000);
        controller.handle_request(at(1_000), request(NETWORK, &identity(1)));
        let outputs = drain(&mut controller);
        assert!(answer(&outputs).is_error(7));
        let event = Event::NewMember { network: NETWORK, member: addr(1), authorised: false };
        assert!(outputs.contains(&Output::Event(event)));
        assert_eq!(controller.member(NETWORK, addr(1)).unwrap()["authorized"], false);

        controller.update_member(at(3_000), NETWORK, addr(1), &YES()).unwrap();
        let outputs = run(&mut controller, 3_000, 3_000 + PUSH_COALESCE_MS);
        assert_eq!(pushed(&outputs), [1]);
        let Some(Output::Push { payload, .. }) = outputs.last() else { panic!() };
        let config = Config::parse(&join(std::slice::from_ref(payload))).unwrap();
        assert_eq!(config.addresses.len(), 1);
        assert!(controller.recently_authorised(at(3_500), NETWORK, addr(1)));
    }

    #[test]
    fn a_public_network_admits_everybody_and_keeps_them_when_it_becomes_private() {
        let mut controller = with_members(json!({ "private": false }), &[]);
        let config = ask(&mut controller, at(0), &identity(1)).config();
        assert!(config.public);
        assert_eq!(controller.member(NETWORK, addr(1)).unwrap()["lastAuthorizedCredentialType"], "public");
        controller.update_network(at(10), NETWORK, &json!({ "private": true })).unwrap();
        ask(&mut controller, at(2_000), &identity(1)).config();
        assert!(ask(&mut controller, at(2_000), &identity(2)).is_error(7));
    }

    #[test]
    fn another_key_with_the_same_address_gets_nothing_and_changes_nothing() {
        let mut controller = with_members(private_network(), &[1]);
        let member = identity(1);
        ask(&mut controller, at(0), &member).config();
        let record = controller.member(NETWORK, addr(1)).unwrap().clone();
        let seen = controller.seen(at(5_000), NETWORK, addr(1));
        let impostor = std::sync::Arc::new(wire::Identity::from_parts(addr(1), [9; 64]));
        assert!(ask(&mut controller, at(5_000), &impostor).is_error(7));
        assert_eq!(controller.member(NETWORK, addr(1)), Some(&record));
        assert_eq!(controller.seen(at(5_000), NETWORK, addr(1)), seen);
        assert_eq!(controller.counters().refused_other_identity, 1);
        ask(&mut controller, at(10_000), &member).config();
    }

    #[test]
    fn a_token_admits_until_it_expires() {
        let tokens = json!({ "authTokens": { "always": 0, "later": START_MS + 5_000 } });
        let mut controller = with_members(tokens, &[]);
        let mut with_token = |ms, member, token: &str| {
            let metadata = metadata(&format!("\na=token:{token}"));
            controller.handle_request(at(ms), Request { metadata, ..request(NETWORK, &identity(member)) });
            answer(&drain(&mut controller))
        };
        with_token(0, 1, "always").config();
        with_token(4_999, 2, "later").config();
        assert!(with_token(5_000, 3, "later").is_error(7));
        assert!(with_token(5_000, 4, "").is_error(7));
        let record = controller.member(NETWORK, addr(2)).unwrap();
        assert_eq!(
            (&record["lastAuthorizedCredentialType"], &record["lastAuthorizedCredential"]),
            (&json!("token"), &json!("later"))
        );
    }

    #[test]
    fn third_party_authentication_is_asked_for_and_its_end_revokes() {
        let mut network = private_network();
        network["ssoEnabled"] = true.into(); // Not by an operator's update: by hand in the file.
        let member = |expiry: u64, exempt: bool| json!({ "authorized": true, "authenticationExpiryTime": expiry, "ssoExempt": exempt });
        let mut controller = new_controller(memory([
            (NETWORK, None, network),
            (NETWORK, Some(addr(1)), member(0, false)),
            (NETWORK, Some(addr(2)), member(0, true)),
            (NETWORK, Some(addr(3)), member(START_MS + 9_000, false)),
        ]));
        let Answer::Error(9, data) = ask(&mut controller, at(0), &identity(1)) else { panic!() };
        assert_eq!(data[..8], NETWORK.0.to_be_bytes());
        let login = Dictionary::parse(&data[10..]).unwrap();
        assert_eq!((login.u64("aV"), login.text("aU")), (Some(0), Some(String::new())));
        ask(&mut controller, at(0), &identity(2)).config();
        ask(&mut controller, at(0), &identity(3)).config();
        assert!(revoked(&run(&mut controller, 0, 8_999)).is_empty());
        assert_eq!(revoked(&run(&mut controller, 9_000, 12_000)), [(2, 3), (3, 3)]);
        assert_eq!(controller.member(NETWORK, addr(3)).unwrap()["authorized"], true);
        assert!(matches!(ask(&mut controller, at(20_000), &identity(3)), Answer::Error(9, _)));
    }

    #[test]
    fn a_member_without_rules_engine_gets_one_rule_and_no_tags() {
        let network = json!({
            "private": false, "tags": [{ "id": 1, "default": 2 }], "rules": [{ "type": "ACTION_DROP" }],
            "capabilities": [{ "id": 3, "default": true, "rules": [] }],
        });
        let mut controller = with_members(network, &[]);
        controller.handle_request(at(0), Request { metadata: Vec::new(), ..request(NETWORK, &identity(1)) });
        let config = answer(&drain(&mut controller)).config();
        assert_eq!(config.rules.bytes(), [1, 0]);
        assert!(config.tags.is_empty() && config.capabilities.is_empty());
        assert_eq!(controller.member(NETWORK, addr(1)).unwrap()["vMajor"], -1);
        let config = ask(&mut controller, at(2_000), &identity(1)).config();
        assert_eq!((config.rules.bytes(), config.tags.len(), config.capabilities.len()), (&[0, 0][..], 1, 1));
    }

    #[test]
    fn the_controllers_own_node_joins_like_any_other() {
        let mut controller = with_members(private_network(), &[]);
        let own = std::sync::Arc::new(controller_identity().public().clone());
        controller.update_member(at(0), NETWORK, own.address(), &YES()).unwrap();
        controller.handle_request(at(0), Request { packet_id: u64::MAX, ..request(NETWORK, &own) });
        let config = answer(&drain(&mut controller)).config();
        assert_eq!((config.issued_to, config.addresses.len()), (controller.address(), 1));
    }

    #[test]
    fn who_asked_when_from_where_is_told() {
        let mut controller = with_members(private_network(), &[1]);
        assert_eq!(controller.seen(at(0), NETWORK, addr(1)), None);
        let physical = Some("192.0.2.7:9993".parse().unwrap());
        controller.handle_request(at(0), Request { physical, ..request(NETWORK, &identity(1)) });
        let seen = controller.seen(at(ONLINE_MS - 1), NETWORK, addr(1)).unwrap();
        assert_eq!((seen.unix_ms, seen.physical, seen.is_online), (START_MS, physical, true));
        assert!(!controller.seen(at(ONLINE_MS), NETWORK, addr(1)).unwrap().is_online);
    }
}

mod addresses {
    use super::*;

    #[test]
    fn no_two_members_ever_get_the_same_address() {
        let network = json!({
            "private": false, "v4AssignMode": "zt", "routes": [{ "target": "10.1.0.0/24" }],
            "ipAssignmentPools": [{ "ipRangeStart": "10.1.0.1", "ipRangeEnd": "10.1.0.200" }],
        });
        let mut controller = with_members(network, &[]);
        // All at the same moment, all wanting the same address first.
        for n in 0..250u64 {
            controller.handle_request(at(0), request(NETWORK, &identity(n << 32 | 77)));
        }
        let mut taken = BTreeSet::new();
        let mut without = 0;
        for output in run(&mut controller, 0, 5_000) {
            if let Answer::Configuration(config) = answer(&[output]) {
                without += usize::from(config.addresses.is_empty());
                assert!(config.addresses.into_iter().all(|a| taken.insert(a.addr)));
            }
        }
        assert_eq!((taken.len(), without), (199, 51));
    }

    #[test]
    fn an_ipv6_pool_too_small_for_whole_addresses_is_used_at_random_without_repeats() {
        let network = json!({
            "private": false, "v6AssignMode": { "zt": true }, "routes": [{ "target": "fd00::/64" }],
            "ipAssignmentPools": [{ "ipRangeStart": "fd00::10", "ipRangeEnd": "fd00::20" }],
        });
        let mut controller = with_members(network, &[]);
        let mut taken = BTreeSet::new();
        for n in 0..16 {
            let config = ask(&mut controller, at(n * 10), &identity(100 + n)).config();
            assert!(taken.insert(config.addresses[0].addr));
        }
        assert!(ask(&mut controller, at(900), &identity(200)).config().addresses.is_empty());
        // Stored, so stable.
        let again = ask(&mut controller, at(5_000), &identity(100)).config();
        assert!(taken.contains(&again.addresses[0].addr));
    }

    #[test]
    fn every_address_of_a_member_is_covered_by_a_certificate_of_ownership() {
        let mut controller = with_members(json!({ "routes": [{ "target": "10.1.0.0/16" }] }), &[1]);
        let ips: Vec<String> = (0..40).map(|n| format!("10.1.0.{n}")).collect();
        controller.update_member(at(0), NETWORK, addr(1), &json!({ "ipAssignments": ips })).unwrap();
        let config = ask(&mut controller, at(0), &identity(1)).config();
        assert_eq!(config.addresses.len(), 32);
        assert_eq!(config.ownerships.iter().map(|o| (o.id, o.things.len())).collect::<Vec<_>>(), [(1, 16), (2, 16)]);
        assert!(config.ownerships.iter().all(|o| o.verify(controller_identity().public())));
        assert!(config.addresses.iter().all(|a| config.ownerships.iter().any(|o| o.owns(a.addr))));
    }

    #[test]
    fn an_address_freed_by_its_member_is_given_out_again() {
        let network = json!({
            "private": false, "v4AssignMode": "zt", "routes": [{ "target": "10.1.0.0/24" }],
            "ipAssignmentPools": [{ "ipRangeStart": "10.1.0.9", "ipRangeEnd": "10.1.0.9" }],
        });
        let mut controller = with_members(network, &[]);
        assert_eq!(ask(&mut controller, at(0), &identity(1)).config().addresses.len(), 1);
        assert_eq!(ask(&mut controller, at(0), &identity(2)).config().addresses.len(), 0);
        controller.delete_member(at(10), NETWORK, addr(1)).unwrap();
        assert_eq!(ask(&mut controller, at(5_000), &identity(2)).config().addresses.len(), 1);
    }
}

mod capabilities {
    use super::*;

    fn network() -> serde_json::Value {
        json!({ "capabilities": [{ "id": 3, "default": true, "rules": [{ "type": "ACTION_ACCEPT" }] }] })
    }

    fn held(config: &Config) -> Vec<u32> {
        config.capabilities.iter().map(|c| c.id).collect()
    }

    #[test]
    fn a_default_capability_is_given_once_and_stays_removed_when_it_was_removed_by_hand() {
        let mut controller = with_members(network(), &[]);
        assert!(ask(&mut controller, at(0), &identity(1)).is_error(7));
        controller.update_member(at(10), NETWORK, addr(1), &YES()).unwrap();
        assert_eq!(held(&ask(&mut controller, at(2_000), &identity(1)).config()), [3]);
        controller.update_member(at(2_010), NETWORK, addr(1), &json!({ "capabilities": [] })).unwrap();
        assert!(held(&ask(&mut controller, at(4_000), &identity(1)).config()).is_empty());
        // Removed before it was ever given.
        let body = json!({ "authorized": true, "capabilities": [] });
        controller.update_member(at(4_000), NETWORK, addr(2), &body).unwrap();
        assert!(held(&ask(&mut controller, at(4_000), &identity(2)).config()).is_empty());
        // A new default reaches everybody.
        let two = json!({ "capabilities": [{ "id": 3, "default": true }, { "id": 4, "default": true }] });
        controller.update_network(at(5_000), NETWORK, &two).unwrap();
        assert_eq!(held(&ask(&mut controller, at(6_000), &identity(2)).config()), [4]);
    }
}

mod changes {
    use super::*;

    #[test]
    fn changes_are_pushed_once_they_have_come_to_rest_to_those_who_listen() {
        let mut controller = with_members(private_network(), &[1, 2, 3]);
        run(&mut controller, 0, 1_000);
        ask(&mut controller, at(1_000), &identity(1)).config();
        ask(&mut controller, at(60_000), &identity(2)).config();
        run(&mut controller, 60_000, ONLINE_MS + 1_000);
        for n in 0..10 {
            let name = json!({ "name": format!("name {n}") });
            controller.update_network(at(ONLINE_MS + 1_000 + 10 * n), NETWORK, &name).unwrap();
        }
        let early = run(&mut controller, ONLINE_MS + 1_000, ONLINE_MS + 1_000 + PUSH_COALESCE_MS - 1);
        assert!(pushed(&early).is_empty());
        let outputs = run(&mut controller, ONLINE_MS + 1_000 + PUSH_COALESCE_MS, ONLINE_MS + 5_000);
        assert_eq!(pushed(&outputs), [2]);
        // An update that changes nothing pushes nothing and leaves the revision alone.
        let revision = controller.network(NETWORK).unwrap()["revision"].clone();
        controller.update_network(at(ONLINE_MS + 6_000), NETWORK, &json!({ "name": "name 9" })).unwrap();
        assert_eq!(controller.network(NETWORK).unwrap()["revision"], revision);
        assert!(pushed(&run(&mut controller, ONLINE_MS + 6_000, ONLINE_MS + 8_000)).is_empty());
    }

    #[test]
    fn a_new_bridge_is_made_known_to_all() {
        let mut controller = with_members(private_network(), &[1, 2]);
        run(&mut controller, 0, 1_000);
        ask(&mut controller, at(1_000), &identity(1)).config();
        ask(&mut controller, at(1_000), &identity(2)).config();
        controller.update_member(at(2_000), NETWORK, addr(2), &json!({ "activeBridge": true })).unwrap();
        assert_eq!(pushed(&run(&mut controller, 2_000, 3_000)), [1, 2]);
        let config = ask(&mut controller, at(3_000), &identity(1)).config();
        assert_eq!(config.specialists.iter().map(|s| s.0).collect::<Vec<_>>(), [0x0000_0200_0000_0002]);
    }

    #[test]
    fn pushes_to_many_members_are_paced() {
        let members: Vec<u64> = (1..=1000).collect();
        let mut controller = with_members(json!({}), &members);
        for chunk in 0..10 {
            for member in members.iter().skip(chunk * 100).take(100) {
                controller.handle_request(at(chunk as u64 * 1000), request(NETWORK, &identity(*member)));
            }
            run(&mut controller, chunk as u64 * 1000, chunk as u64 * 1000 + 900);
        }
        controller.update_network(at(20_000), NETWORK, &json!({ "name": "new" })).unwrap();
        let first = run(&mut controller, 20_000, 20_000 + PUSH_COALESCE_MS + 1_000);
        let count = pushed(&first).len() as u64;
        assert!((PACKETS_PER_SECOND..=PACKETS_PER_SECOND + PACKETS_BURST + 1).contains(&count), "{count}");
        let rest = run(&mut controller, 20_000 + PUSH_COALESCE_MS + 1_001, 24_000);
        assert_eq!(count as usize + pushed(&rest).len(), 1000);
    }
}

mod revocation {
    use super::*;

    fn com(config: &Config) -> &Com {
        config.com.as_ref().unwrap()
    }

    #[test]
    fn whoever_is_online_is_told_and_whoever_comes_online_within_the_window() {
        let mut controller = with_members(private_network(), &[1, 2, 3, 4]);
        for member in [1, 2, 3] {
            ask(&mut controller, at(member), &identity(member)).config();
        }
        run(&mut controller, 10, 60_000);
        ask(&mut controller, at(60_000), &identity(1)).config();
        ask(&mut controller, at(60_000), &identity(2)).config();
        run(&mut controller, 60_000, 130_000);
        controller.update_member(at(130_000), NETWORK, addr(1), &NO()).unwrap();
        // The target is told too, and the push that the change would be is refused.
        let outputs = run(&mut controller, 130_000, 140_000);
        assert_eq!((revoked(&outputs), pushed(&outputs)), (vec![(1, 1), (2, 1)], vec![]));
        assert!(ask(&mut controller, at(140_000), &identity(1)).is_error(7));

        controller.handle_request(at(300_000), request(NETWORK, &identity(3)));
        assert_eq!(revoked(&run(&mut controller, 300_000, 310_000)), [(3, 1)]);
        // Not twice.
        controller.handle_request(at(360_000), request(NETWORK, &identity(3)));
        assert!(revoked(&run(&mut controller, 360_000, 370_000)).is_empty());
        // After the window certificates of before agree with nobody's.
        let late = 130_000 + CREDENTIAL_WINDOW_MS + SWEEP_MS + 1;
        run(&mut controller, 370_000, late);
        controller.handle_request(at(late), request(NETWORK, &identity(4)));
        assert!(revoked(&run(&mut controller, late, late + 5_000)).is_empty());
    }

    #[test]
    fn a_member_authorised_again_is_pushed_a_certificate_above_the_revocation() {
        let mut controller = with_members(private_network(), &[1, 2]);
        let first = ask(&mut controller, at(0), &identity(1)).config();
        ask(&mut controller, at(0), &identity(2)).config();
        let other = ask(&mut controller, at(1_001), &identity(2)).config();
        controller.update_member(at(1_001), NETWORK, addr(1), &NO()).unwrap();
        let told = run(&mut controller, 1_001, 1_001);
        let Some(Output::Revoke { payload, .. }) = told.first() else { panic!("{told:?}") };
        let threshold = wire::message::Credentials::parse(payload).unwrap().revocations[0].threshold as u64;
        assert!(com(&first).timestamp() <= threshold && com(&other).timestamp() <= threshold);
        controller.update_member(at(1_001), NETWORK, addr(1), &YES()).unwrap();
        let outputs = run(&mut controller, 1_001, 1_500);
        let Some(Output::Push { to, payload }) = outputs.iter().find(|o| matches!(o, Output::Push { .. })) else {
            panic!()
        };
        assert_eq!(*to, addr(1));
        let config = Config::parse(&join(std::slice::from_ref(payload))).unwrap();
        assert!(com(&config).timestamp() > threshold);
        assert!(com(&config).agrees_with(com(&other), &identity(2)));
    }

    #[test]
    fn a_deleted_member_is_revoked_and_comes_back_unauthorised() {
        let mut controller = with_members(private_network(), &[1, 2]);
        ask(&mut controller, at(0), &identity(1)).config();
        ask(&mut controller, at(0), &identity(2)).config();
        assert!(controller.delete_member(at(1_000), NETWORK, addr(1)).unwrap().is_some());
        assert!(controller.delete_member(at(1_000), NETWORK, addr(1)).unwrap().is_none());
        assert_eq!(revoked(&run(&mut controller, 1_000, 3_000)), [(1, 1), (2, 1)]);
        assert!(ask(&mut controller, at(5_000), &identity(1)).is_error(7));
        assert_eq!(controller.members_json(NETWORK).unwrap(), json!({ "0000000001": 1, "0000000002": 2 }));
    }

    #[test]
    fn a_deleted_network_revokes_all_members_in_packets_that_receivers_will_read() {
        let members: Vec<u64> = (1..=120).collect();
        let mut controller = with_members(json!({}), &members);
        controller.update_member(at(0), NETWORK, addr(999), &NO()).unwrap();
        for member in [1, 2, 3] {
            ask(&mut controller, at(member), &identity(member)).config();
        }
        run(&mut controller, 4, 5_000);
        assert!(controller.delete_network(at(6_000), NETWORK).unwrap().is_some());
        let mut sent = Vec::new();
        for ms in (6_000..20_000).step_by(10) {
            controller.handle_timeout(at(ms));
            for output in drain(&mut controller) {
                let Output::Revoke { to, payload } = &output else { panic!("{output:?}") };
                assert!(payload.len() < 9_900);
                sent.push((ms, to.to_u64()));
                assert!(revoked(&[output]).len() <= REVOCATIONS_PER_PACKET);
            }
        }
        for member in [1, 2, 3] {
            let times: Vec<u64> = sent.iter().filter(|(_, to)| *to == member).map(|(ms, _)| *ms).collect();
            assert_eq!(times.len(), 120usize.div_ceil(REVOCATIONS_PER_PACKET));
            assert!(times.windows(2).all(|w| w[1] - w[0] > 1_000), "{times:?}");
        }
        assert!(ask(&mut controller, at(20_000), &identity(1)).is_error(3));
        assert!(controller.delete_network(at(20_000), NETWORK).unwrap().is_none());
    }

    #[test]
    fn a_restart_does_not_forget_recent_revocations() {
        let mut controller = with_members(private_network(), &[1, 2]);
        ask(&mut controller, at(0), &identity(1)).config();
        controller.update_member(at(1_000), NETWORK, addr(1), &NO()).unwrap();
        let records = controller.networks().map(|(id, r)| ((id, None), r.clone()));
        let members = controller.members(NETWORK).map(|(a, r)| ((NETWORK, Some(a)), r.clone()));
        let storage = MemoryStorage { records: records.chain(members).collect(), ..Default::default() };
        let mut restarted = Controller::new(controller_identity(), storage, 2, at(10_000));
        restarted.handle_request(at(10_000), request(NETWORK, &identity(2)));
        assert_eq!(revoked(&run(&mut restarted, 10_000, 11_000)), [(2, 1)]);
    }

    #[test]
    fn a_revoked_member_is_no_longer_served_as_multicast_registry() {
        let mut controller = with_members(private_network(), &[1, 2]);
        ask(&mut controller, at(0), &identity(1)).config();
        ask(&mut controller, at(0), &identity(2)).config();
        assert!(controller.recently_authorised(at(MULTICAST_AUTHORISATION_MS - 1), NETWORK, addr(1)));
        assert!(!controller.recently_authorised(at(MULTICAST_AUTHORISATION_MS), NETWORK, addr(1)));
        controller.update_member(at(10), NETWORK, addr(2), &NO()).unwrap();
        assert!(!controller.recently_authorised(at(10), NETWORK, addr(2)));
        assert!(!controller.recently_authorised(at(10), NETWORK, addr(3)));
    }
}

mod time {
    use super::*;

    #[test]
    fn timestamps_do_not_go_back_over_a_restart_with_a_wrong_clock() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |seed, now| Controller::new(controller_identity(), FileStorage::open(folder.path()).unwrap(), seed, now);
        let mut controller = open(1, at(0));
        controller.update_network(at(0), NETWORK, &json!({ "private": false })).unwrap();
        let mut last = 0;
        for ms in [0, 30_000, 61_000, 90_000] {
            last = ask(&mut controller, at(ms), &identity(1)).config().timestamp;
            assert_eq!(last, START_MS + ms);
        }
        drop(controller);
        // The wall clock is set back by a day; the monotonic one starts anew.
        let wrong = Now { mono_us: 0, unix_ms: START_MS - 86_400_000 };
        let mut controller = open(2, wrong);
        let first = ask(&mut controller, wrong, &identity(1)).config().timestamp;
        assert!(first >= last, "{first} after {last}");
        let later = wrong.after(std::time::Duration::from_secs(60));
        let second = ask(&mut controller, later, &identity(1)).config().timestamp;
        assert!(second >= first + 30_000 && second <= first + 60_000, "time goes on");
    }
}

mod storage {
    use super::*;

    #[test]
    fn an_update_that_cannot_be_stored_changes_nothing() {
        let mut storage = memory([(NETWORK, None, private_network()), (NETWORK, Some(addr(1)), YES())]);
        storage.is_full = true;
        let mut controller = new_controller(storage);
        let before = controller.networks_full_json();
        assert!(matches!(controller.update_network(at(0), NETWORK, &json!({ "name": "x" })), Err(Error::Storage(_))));
        assert!(matches!(controller.create_network(at(0), &json!({})), Err(Error::Storage(_))));
        assert!(matches!(controller.update_member(at(0), NETWORK, addr(1), &NO()), Err(Error::Storage(_))));
        assert!(matches!(controller.delete_member(at(0), NETWORK, addr(1)), Err(Error::Storage(_))));
        assert!(matches!(controller.delete_network(at(0), NETWORK), Err(Error::Storage(_))));
        assert_eq!(controller.networks_full_json(), before);
        assert_eq!(controller.member(NETWORK, addr(1)).unwrap()["authorized"], true);
    }

    /// A disk that is full until it is not.
    #[derive(Default)]
    struct Disk(MemoryStorage, std::rc::Rc<std::cell::Cell<bool>>);

    impl controller::Storage for Disk {
        fn load(&mut self) -> controller::store::Loaded {
            self.0.load()
        }
        fn put(&mut self, key: controller::Key, record: &controller::Record) -> Result<(), controller::StoreError> {
            self.0.is_full = self.1.get();
            self.0.put(key, record)
        }
        fn remove(&mut self, key: controller::Key) -> Result<(), controller::StoreError> {
            self.0.is_full = self.1.get();
            self.0.remove(key)
        }
        fn put_clock(&mut self, clock_ms: u64) -> Result<(), controller::StoreError> {
            self.0.is_full = self.1.get();
            self.0.put_clock(clock_ms)
        }
    }

    #[test]
    fn members_are_served_while_the_disk_is_full_and_their_records_are_written_later() {
        let is_full = std::rc::Rc::new(std::cell::Cell::new(false));
        let mut controller = new_controller(Disk(MemoryStorage::default(), is_full.clone()));
        controller.update_network(at(0), NETWORK, &json!({ "private": false })).unwrap();
        is_full.set(true);
        controller.handle_request(at(0), request(NETWORK, &identity(1)));
        let outputs = drain(&mut controller);
        answer(&outputs).config();
        assert!(outputs.iter().any(|o| matches!(o, Output::Event(Event::StorageFailed { .. }))));
        let failed = controller.counters().storage_failures;
        run(&mut controller, 0, 2 * STORE_RETRY_MS);
        assert!(controller.counters().storage_failures > failed);
        is_full.set(false);
        run(&mut controller, 2 * STORE_RETRY_MS, 4 * STORE_RETRY_MS);
        let failed = controller.counters().storage_failures;
        run(&mut controller, 4 * STORE_RETRY_MS, 8 * STORE_RETRY_MS);
        assert_eq!(controller.counters().storage_failures, failed);
    }

    #[test]
    fn nothing_is_served_from_or_written_over_an_unusable_file() {
        let folder = tempfile::tempdir().unwrap();
        let open = || new_controller(FileStorage::open(folder.path()).unwrap());
        let mut controller = open();
        let bad = NetworkId(NETWORK.0 + 1);
        for id in [NETWORK, bad] {
            controller.update_network(at(0), id, &json!({ "private": false })).unwrap();
        }
        controller.update_member(at(0), NETWORK, addr(1), &YES()).unwrap();
        drop(controller);
        let network_file = folder.path().join(format!("network/{bad}.json"));
        let member_file = folder.path().join(format!("network/{NETWORK}/member/0000000001.json"));
        // A rule of a kind that we cannot issue: without it the network would let more through.
        let rules =
            json!({ "id": bad.to_string(), "rules": [{ "type": "INTEGER_RANGE" }, { "type": "ACTION_ACCEPT" }] });
        std::fs::write(&network_file, rules.to_string()).unwrap();
        std::fs::write(&member_file, "{").unwrap();

        let mut controller = open();
        let mut named: Vec<&str> = controller.faults().iter().map(|f| f.name.as_str()).collect();
        named.sort_unstable();
        assert_eq!(named, [member_file.to_str().unwrap(), network_file.to_str().unwrap()]);
        assert!(controller.faults().iter().any(|f| f.reason.contains("rules[0].type")));
        assert!(ask(&mut controller, at(0), &identity(1)).is_error(3));
        controller.handle_request(at(0), request(bad, &identity(2)));
        assert!(answer(&drain(&mut controller)).is_error(3));
        assert!(matches!(controller.update_network(at(0), bad, &json!({})), Err(Error::Faulty { .. })));
        assert!(matches!(controller.update_member(at(0), NETWORK, addr(1), &YES()), Err(Error::Faulty { .. })));
        assert_eq!(std::fs::read_to_string(&member_file).unwrap(), "{");
        assert_eq!(std::fs::read_to_string(&network_file).unwrap(), rules.to_string());
        // The rest goes on.
        ask(&mut controller, at(2_000), &identity(5)).config();
    }

    #[test]
    fn everything_comes_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut controller = new_controller(FileStorage::open(folder.path().join("controller.d")).unwrap());
        controller.update_network(at(0), NETWORK, &private_network()).unwrap();
        controller.update_member(at(0), NETWORK, addr(1), &YES()).unwrap();
        ask(&mut controller, at(0), &identity(1)).config();
        ask(&mut controller, at(0), &identity(2));
        let (networks, members) = (controller.networks_full_json(), controller.members_full_json(NETWORK));
        drop(controller);
        let mut controller = new_controller(FileStorage::open(folder.path().join("controller.d")).unwrap());
        assert_eq!(controller.faults(), []);
        assert_eq!((controller.networks_full_json(), controller.members_full_json(NETWORK)), (networks, members));
        controller.delete_network(at(10), NETWORK).unwrap();
        let controller = new_controller(FileStorage::open(folder.path().join("controller.d")).unwrap());
        assert_eq!((controller.networks_json(), controller.faults().len()), (json!([]), 0));
    }

    #[test]
    fn fields_that_we_do_not_know_survive_every_change() {
        let network = json!({ "private": false, "ofAnotherProgram": { "x": [1, 2] }, "clock": 5 });
        let mut controller =
            new_controller(memory([(NETWORK, None, network), (NETWORK, Some(addr(1)), json!({ "note": "hi" }))]));
        controller.update_network(at(0), NETWORK, &json!({ "name": "n" })).unwrap();
        ask(&mut controller, at(0), &identity(1)).config();
        assert_eq!(controller.network(NETWORK).unwrap()["ofAnotherProgram"], json!({ "x": [1, 2] }));
        assert!(!controller.network(NETWORK).unwrap().contains_key("clock"));
        assert_eq!(controller.member(NETWORK, addr(1)).unwrap()["note"], "hi");
    }
}

mod management {
    use super::*;

    #[test]
    fn ids_are_checked() {
        let mut controller = with_members(private_network(), &[]);
        let foreign = NetworkId(0xaaaa_aaaa_aa00_0001);
        assert!(matches!(controller.update_network(at(0), foreign, &json!({})), Err(Error::Foreign(_))));
        assert!(controller.update_member(at(0), NETWORK, Address::ZERO, &json!({})).is_err());
        assert!(controller.update_member(at(0), NETWORK, addr(0xff_0000_0001), &json!({})).is_err());
        assert!(matches!(controller.update_member(at(0), foreign, addr(1), &json!({})), Err(Error::UnknownNetwork(_))));
        let (id, _) = controller.create_network(at(0), &json!({})).unwrap();
        assert_eq!(id.controller(), controller.address());
        assert_ne!(id.0 & 0xff_ffff, 0);
    }

    #[test]
    fn what_is_wrong_with_an_update_is_named() {
        let mut controller = with_members(private_network(), &[]);
        for (body, field) in [
            (json!([]), "body"),
            (json!({ "private": "maybe" }), "private"),
            (json!({ "mtu": "big" }), "mtu"),
            (json!({ "multicastLimit": -1 }), "multicastLimit"),
            (json!({ "routes": [{ "target": "10.0.0.0" }] }), "routes[0].target"),
            (json!({ "routes": [{ "target": "10.0.0.0/33" }] }), "routes[0].target"),
            (json!({ "routes": vec![json!({ "target": "10.0.0.0/8" }); 129] }), "routes"),
            (
                json!({ "ipAssignmentPools": [{ "ipRangeStart": "10.0.0.9", "ipRangeEnd": "10.0.0.1" }] }),
                "ipAssignmentPools[0].ipRangeEnd",
            ),
            (json!({ "rules": [{ "type": "MATCH_IP_DEST_PORT_RANGE", "start": 70_000 }] }), "rules[0].start"),
            (json!({ "rules": [{ "type": "MATCH_ETHERTYPE" }] }), "rules[0].etherType"),
            (json!({ "rules": [{ "type": "ACTION_PRIORITY", "qosBucket": 1 }] }), "rules[0].type"),
            (json!({ "capabilities": [{ "id": 1, "rules": [{ "type": "X" }] }] }), "capabilities[0].rules[0].type"),
            (
                json!({ "capabilities": [{ "id": 1, "rules": vec![json!({ "type": "ACTION_DROP" }); 65] }] }),
                "capabilities[0].rules",
            ),
            (json!({ "tags": [{ "id": -1 }] }), "tags[0].id"),
            (json!({ "dns": { "servers": ["x"] } }), "dns.servers[0]"),
            (json!({ "dns": { "domain": "x".repeat(128) } }), "dns.domain"),
            (json!({ "v4AssignMode": "dhcp" }), "v4AssignMode"),
            (json!({ "name": ["x"] }), "name"),
        ] {
            let before = controller.network(NETWORK).unwrap().clone();
            match controller.update_network(at(0), NETWORK, &body) {
                Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, field, "{invalid}"),
                other => panic!("{body}: {other:?}"),
            }
            assert_eq!(*controller.network(NETWORK).unwrap(), before);
        }
        for (body, field) in [
            (json!({ "tags": [[1]] }), "tags[0]"),
            (json!({ "ipAssignments": [5] }), "ipAssignments[0]"),
            (json!({ "ipAssignments": ["10.147.20.300"] }), "ipAssignments[0]"),
            (json!({ "capabilities": ["x"] }), "capabilities[0]"),
            (json!({ "authorized": null }), "authorized"),
        ] {
            match controller.update_member(at(0), NETWORK, addr(1), &body) {
                Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, field, "{invalid}"),
                other => panic!("{body}: {other:?}"),
            }
            assert!(controller.member(NETWORK, addr(1)).is_none());
        }
    }

    #[test]
    fn a_record_that_was_read_can_be_posted_back() {
        let mut controller = with_members(private_network(), &[1]);
        let network = serde_json::Value::from(controller.network(NETWORK).unwrap().clone());
        let member = serde_json::Value::from(controller.member(NETWORK, addr(1)).unwrap().clone());
        assert_eq!(controller.update_member(at(10), NETWORK, addr(1), &member).unwrap()["revision"], 1);
        // The default rule is the one place where a record is not in normal form.
        let record = controller.update_network(at(10), NETWORK, &network).unwrap().clone();
        assert_eq!(record["rules"], json!([{ "type": "ACTION_ACCEPT" }]));
        let again = controller.update_network(at(10), NETWORK, &record.clone().into()).unwrap();
        assert_eq!(*again, record);
    }
}
