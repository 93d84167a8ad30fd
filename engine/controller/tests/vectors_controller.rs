//! Recorded behaviour of the reference's controller: address assignment, record normalisation, revocation, management,
//! configurations and rules. Where we differ on purpose the case says by which rule, and the difference itself is
//! checked.

mod common;

use std::collections::BTreeMap;

use common::*;
use controller::record::{self, NetworkSettings};
use controller::rules_json;
use controller::{Controller, Error, FileStorage, MemoryStorage, Output, Request, Storage};
use network::Config;
use serde_json::{Value, json};
use wire::chunk::ConfigChunk;
use wire::message::{Credentials, OkMessage};
use wire::{Address, Dictionary, Identity, NetworkId, Now, Reader, Rule};

/// Every vector file of a family, with its name.
fn cases<'a>(file: &'a Value, key: &str) -> &'a Vec<Value> {
    file[key].as_array().unwrap_or_else(|| panic!("no {key}"))
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or_else(|| panic!("no text {field} in {v}"))
}

fn network_id(v: &Value) -> NetworkId {
    text(v, "network_id").parse().unwrap()
}

fn bytes(v: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(v, field)).unwrap()
}

fn remove(v: &mut Value, fields: &[&str]) {
    for field in fields {
        v.as_object_mut().unwrap().remove(*field);
    }
}

fn refused_field(e: Error) -> String {
    match e {
        Error::Invalid(invalid) => invalid.field,
        other => panic!("{other}"),
    }
}

#[test]
fn vectors_of_address_assignment() {
    for (name, file) in vectors::family("network-controller") {
        let cases = cases(&file, "address_assignment");
        for case in cases {
            assign_addresses(case);
        }
        vectors::ran(&format!("{name} address_assignment"), cases.len());
    }
}

fn assign_addresses(case: &Value) {
    let id = network_id(case);
    // As a record: operators could not write a reversed pool, see `network_normalisation`.
    let mut network = json!({ "private": false, "creationTime": 1 });
    network.as_object_mut().unwrap().extend(object(case["network"].clone()));
    let mut storage = memory([(id, None, network)]);
    for member in case["existing_members"].as_array().unwrap() {
        storage.records.insert((id, Some(text(member, "address").parse().unwrap())), object(member["fields"].clone()));
    }
    let mut controller = new_controller(storage);
    for (n, member) in case["members_in_request_order"].as_array().unwrap().iter().enumerate() {
        let address: Address = text(member, "address").parse().unwrap();
        controller.handle_request(at(n as u64), request(id, &identity(address.to_u64())));
        let config = answer(&drain(&mut controller)).config();
        let static_ips: Vec<Value> = config.addresses.iter().map(|a| a.to_string().into()).collect();
        assert_eq!(Value::from(static_ips), member["static_ips"], "{}: {address}", case["name"]);
        let stored = &controller.member(id, address).unwrap()["ipAssignments"];
        assert_eq!(*stored, member["stored_ip_assignments"], "{}: {address}", case["name"]);
    }
}

/// Updates that the reference accepts and we refuse, because something in them would be left out silently: the field
/// that we name, and the update without that part.
// spec: controller, "REST interface": validate strictly; "Traps"
fn refused_update(case: &str, body: &Value) -> Option<(&'static str, Value)> {
    let mut body = body.clone();
    let field = match case {
        "v6AssignMode string" => {
            body["v6AssignMode"] = "zt,6plane,zt".into();
            "v6AssignMode"
        }
        // A gateway of another family: the reference keeps the route without it.
        "routes filtered" => {
            let routes = body["routes"].as_array_mut().unwrap();
            routes.truncate(2);
            remove(&mut routes[1], &["via"]);
            "routes[1].via"
        }
        "routes, dns, mtu, trace" => {
            remove(&mut body["routes"][5], &["via"]);
            "routes[5].via"
        }
        "pools filtered" => {
            body["ipAssignmentPools"].as_array_mut().unwrap().drain(..2);
            "ipAssignmentPools[0].ipRangeEnd"
        }
        "rules filtered and normalised" => {
            body["rules"].as_array_mut().unwrap().remove(1);
            "rules[1].type"
        }
        "rule types the controller refuses to compile" => {
            body["rules"].as_array_mut().unwrap().drain(..2);
            "rules[0].type"
        }
        "authTokens" => {
            remove(&mut body["authTokens"], &["neg", "str"]);
            "authTokens.neg"
        }
        "trace target bad" => {
            body = json!({});
            "remoteTraceTarget"
        }
        _ => return None,
    };
    Some((field, body))
}

/// Makes the network of a recorded update, after having seen that the parts we refuse are refused.
fn post<S: Storage>(controller: &mut Controller<S>, now: Now, case: &str, id: NetworkId, body: &Value) -> Value {
    let accepted = match refused_update(case, body) {
        Some((field, accepted)) => {
            assert_eq!(refused_field(controller.update_network(now, id, body).unwrap_err()), field, "{case}");
            assert!(controller.network(id).is_none(), "{case}: a refused update changes nothing");
            accepted
        }
        None => body.clone(),
    };
    controller.update_network(now, id, &accepted).unwrap_or_else(|e| panic!("{case}: {e}")).clone().into()
}

#[test]
fn vectors_of_network_normalisation() {
    for (name, file) in vectors::family("network-controller") {
        let cases = cases(&file, "network_normalisation");
        let mut controller = new_controller(MemoryStorage::default());
        for case in cases {
            let mut record = post(&mut controller, at(0), text(case, "name"), network_id(case), &case["body"]);
            assert_eq!(record["creationTime"], json!(START_MS));
            remove(&mut record, &["creationTime"]);
            assert_eq!(record, case["result_without_creationTime"], "{}", case["name"]);
        }
        vectors::ran(&format!("{name} network_normalisation"), cases.len());
    }
}

#[test]
fn vectors_of_deauthorisation() {
    for (name, file) in vectors::family("network-controller") {
        let case = &file["deauthorise"];
        let id = network_id(case);
        let identity_of = |label: &str| -> std::sync::Arc<Identity> {
            std::sync::Arc::new(text(&file["identities"][label], "public").parse().unwrap())
        };
        let online: Vec<_> = case["online_members"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        let silent = text(case, "member_last_seen_120000ms_ago");
        let mut controller = new_controller(MemoryStorage::default());
        controller.update_network(at(0), id, &json!({})).unwrap();
        for label in online.iter().copied().chain([silent]) {
            let address = identity_of(label).address();
            controller.update_member(at(0), id, address, &json!({ "authorized": true })).unwrap();
        }
        controller.handle_request(at(1_000), request(id, &identity_of(silent)));
        for label in &online {
            controller.handle_request(at(60_000), request(id, &identity_of(label)));
        }
        drain(&mut controller);

        let target = identity_of(text(case, "deauthorised")).address();
        controller.update_member(at(121_000), id, target, &json!({ "authorized": false })).unwrap();
        let sent = run(&mut controller, 121_000, 125_000);

        let mut expected = BTreeMap::new();
        for message in case["messages"].as_array().unwrap() {
            assert_eq!(text(message, "verb"), "NETWORK_CREDENTIALS");
            expected.insert(text(message, "to").to_owned(), bytes(message, "payload"));
        }
        assert_eq!(sent.len(), expected.len(), "{sent:?}");
        for output in sent {
            let Output::Revoke { to, payload } = output else { panic!("{output:?}") };
            let expected = &expected[&to.to_string()];
            let recorded = Credentials::parse(expected).unwrap();
            let mut ours = Credentials::parse(&payload).unwrap();
            assert_eq!(ours.revocations[0].threshold as u64, at(121_000).unix_ms);
            // The id is random and the threshold is the time; with those of the recording every byte is the same.
            (ours.revocations[0].id, ours.revocations[0].threshold) =
                (recorded.revocations[0].id, recorded.revocations[0].threshold);
            ours.revocations[0].sign(&controller_identity());
            let mut payload = Vec::new();
            ours.write(&mut payload);
            assert_eq!(payload, *expected);
        }
        vectors::ran(&format!("{name} deauthorise"), case["messages"].as_array().unwrap().len());
    }
}

#[test]
fn vectors_of_the_management_interface() {
    for (name, file) in vectors::family("network-controller") {
        let folder = tempfile::tempdir().unwrap();
        let mut rest = Rest {
            controller: new_controller(FileStorage::open(folder.path().join("controller.d")).unwrap()),
            ids: BTreeMap::new(),
            ms: 0,
        };
        let exchanges = cases(&file, "rest");
        // Authorisation, JSON syntax and unknown paths are HTTP's: they are the gateway's to answer, and not counted.
        let is_ours =
            |e: &&Value| ![401, 500].contains(&e["status"].as_u64().unwrap()) && e["path"] != "/controller/nosuch";
        let ours: Vec<&Value> = exchanges.iter().filter(is_ours).collect();
        assert_eq!(exchanges.len() - ours.len(), 4);
        ours.iter().for_each(|exchange| rest.exchange(exchange));
        let mut left: Vec<String> = std::fs::read_dir(folder.path().join("controller.d/network"))
            .unwrap()
            .map(|e| format!("controller.d/network/{}", e.unwrap().file_name().to_string_lossy()))
            .map(|path| rest.recorded_ids(path))
            .collect();
        left.sort();
        assert_eq!(json!(left), file["rest_files_left_on_disk"]);
        vectors::ran(&format!("{name} rest"), ours.len());
    }
}

/// The management interface without HTTP.
struct Rest {
    controller: Controller<FileStorage>,
    /// Networks that got a random number: ours, recorded.
    ids: BTreeMap<String, String>,
    ms: u64,
}

impl Rest {
    fn exchange(&mut self, exchange: &Value) {
        let (method, path, body) = (text(exchange, "method"), text(exchange, "path"), &exchange["body"]);
        let status = exchange["status"].as_u64().unwrap();
        self.ms += 10;
        let (unstable, path) = match path.strip_prefix("/unstable") {
            Some(path) => (true, path),
            None => (false, path),
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let ours = match (method, unstable, parts.as_slice()) {
            ("GET", false, ["controller"]) => Some(self.controller.status_json(at(self.ms))),
            ("GET", false, ["controller", "network"]) => Some(self.controller.networks_json()),
            ("GET", true, ["controller", "network"]) => Some(self.controller.networks_full_json()),
            ("GET", false, ["controller", "network", id]) => self.controller.network(network(id)).map(|r| json!(r)),
            ("GET", false, ["controller", "network", id, "member"]) => self.controller.members_json(network(id)),
            ("GET", true, ["controller", "network", id, "member"]) => self.controller.members_full_json(network(id)),
            ("GET", false, ["controller", "network", id, "member", member]) => {
                self.controller.member(network(id), member.parse().unwrap()).map(|r| json!(r))
            }
            ("DELETE", false, ["controller", "network", id]) => {
                self.controller.delete_network(at(self.ms), network(id)).unwrap().map(Value::from)
            }
            ("DELETE", false, ["controller", "network", id, "member", member]) => {
                let member = member.parse().unwrap();
                self.controller.delete_member(at(self.ms), network(id), member).unwrap().map(Value::from)
            }
            ("POST" | "PUT", false, ["controller", "network", rest @ ..]) => self.post(rest, body, exchange),
            other => panic!("{other:?}"),
        };
        let Some(ours) = ours else {
            assert!(status == 404 || status == 400, "{method} {path}: {exchange}");
            return;
        };
        assert_eq!(status, 200, "{method} {path}");
        let ours: Value = serde_json::from_str(&self.recorded_ids(ours.to_string())).unwrap();
        assert_eq!(comparable(ours), comparable(exchange["response"].clone()), "{method} {path}");
    }

    fn post(&mut self, rest: &[&str], body: &Value, exchange: &Value) -> Option<Value> {
        let now = at(self.ms);
        match rest {
            [] => Some(self.create(now, body, exchange)),
            [wildcard] if wildcard.ends_with("______") => {
                let is_ours = wildcard.strip_suffix("______") == Some(&self.controller.address().to_string());
                is_ours.then(|| self.create(now, body, exchange))
            }
            [id] => Some(self.controller.update_network(now, network(id), body).unwrap().clone().into()),
            [id, "member", member] => {
                let (id, member) = (network(id), member.parse().unwrap());
                let mut body = body.clone();
                match self.controller.update_member(now, id, member, &body) {
                    Ok(record) => return Some(record.clone().into()),
                    Err(Error::UnknownNetwork(_)) => return None,
                    // The reference leaves out what it does not understand; we refuse it and name it.
                    Err(e) => assert!(["ipAssignments[2]", "tags[3]"].contains(&refused_field(e).as_str())),
                }
                body["ipAssignments"].as_array_mut().unwrap().pop();
                body["tags"].as_array_mut().unwrap().pop();
                Some(self.controller.update_member(now, id, member, &body).unwrap().clone().into())
            }
            _ => panic!("{rest:?}"),
        }
    }

    fn create(&mut self, now: Now, body: &Value, exchange: &Value) -> Value {
        let (id, record) = self.controller.create_network(now, body).unwrap();
        self.ids.insert(id.to_string(), text(&exchange["response"], "id").to_owned());
        record.clone().into()
    }

    fn recorded_ids(&self, text: String) -> String {
        self.ids.iter().fold(text, |text, (ours, recorded)| text.replace(ours, recorded))
    }
}

fn network(id: &str) -> NetworkId {
    id.parse().unwrap()
}

/// Without what differs by nature: times (their presence counts) and the order that random numbers cause.
fn comparable(mut v: Value) -> Value {
    match &mut v {
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                let is_time = field == "clock" || field.ends_with("Time") && field != "authenticationExpiryTime";
                if is_time && value.as_u64().is_some_and(|ms| ms > 0) {
                    *value = "a time".into();
                }
                // The reference forgets the level whenever an update does not carry it, by a typo; we touch only what
                // an update carries. spec: controller, "Network"
                if field == "remoteTraceLevel" {
                    *value = "a level".into();
                }
                *value = comparable(value.take());
            }
        }
        Value::Array(entries) => {
            entries.iter_mut().for_each(|entry| *entry = comparable(entry.take()));
            entries.sort_by_key(|entry| entry.get("id").map_or_else(|| entry.to_string(), Value::to_string));
        }
        _ => {}
    }
    v
}

#[test]
fn vectors_of_the_remembered_trace_level() {
    // The one place where `comparable` looks away: partial updates leave the level as it was.
    let mut controller = with_members(json!({ "remoteTraceLevel": 5 }), &[1]);
    let record = controller.update_network(at(0), NETWORK, &json!({ "name": "x" })).unwrap();
    assert_eq!(record["remoteTraceLevel"], 5);
}

#[test]
fn vectors_of_configurations() {
    for (name, file) in vectors::family("network-config") {
        let cases = cases(&file, "cases");
        for case in cases {
            let outputs = run_configuration(&file, case, 0x0102_0304_0506_0708);
            assert!(!outputs.is_empty());
        }
        vectors::ran(&format!("{name} cases (controller)"), cases.len());
    }
}

/// Runs one case and compares everything; returns what the controller sent.
fn run_configuration(file: &Value, case: &Value, packet_id: u64) -> Vec<Output> {
    let (name, id) = (text(case, "name"), network_id(case));
    let member: Identity = text(&file["identities"][text(case, "member")], "public").parse().unwrap();
    let (before, after) = (&case["member_record_before"], &case["member_record_after"]);
    let now_ms = case["decoded"]["timestamp"].as_u64().or(after["creationTime"].as_u64()).unwrap();
    let now = Now { mono_us: 1_000_000, unix_ms: now_ms };

    if !case["rest_post_body"].is_null() {
        let mut fresh = Controller::new(controller_identity(), MemoryStorage::default(), 1, now);
        let mut posted = post(&mut fresh, now, name, id, &case["rest_post_body"]);
        let mut recorded = case["network_record"].clone();
        // Set in the file by hand, with a change of revision.
        for record in [&mut posted, &mut recorded] {
            remove(record, &["creationTime", "revision", "certificateTimeoutWindowSize"]);
        }
        assert_eq!(posted, recorded, "{name}");
    }

    let mut storage = memory([(id, None, network_record(case))]);
    let others = case["other_member_records"].as_array().unwrap().iter();
    for record in others.chain(Some(before).filter(|r| !r.is_null())) {
        storage.records.insert((id, Some(text(record, "id").parse().unwrap())), object(record.clone()));
    }
    let mut controller = Controller::new(controller_identity(), storage, 1, now);
    assert_eq!(controller.faults(), [], "{name}");
    controller.handle_request(
        now,
        Request {
            network: id,
            member: std::sync::Arc::new(member),
            packet_id,
            metadata: bytes(case, "request_metadata"),
            physical: None,
        },
    );
    let outputs = drain(&mut controller);
    compare_records(name, &controller, id, after, now_ms);
    match (text(case, "result"), answer(&outputs)) {
        ("access_denied", Answer::Error(7, data)) => {
            assert_eq!(text(case, "error_data"), "");
            assert_eq!(data, id.0.to_be_bytes(), "{name}");
        }
        ("config", Answer::Configuration(_)) => compare_dictionaries(name, case, &outputs),
        (expected, got) => panic!("{name}: {got:?} instead of {expected}"),
    }
    outputs
}

/// The network's record; of the case that has none, one whose rules are those of the dictionary and some more.
fn network_record(case: &Value) -> Value {
    if !case["network_record"].is_null() {
        return case["network_record"].clone();
    }
    let dictionary = bytes(case, "dictionary");
    let config = Config::parse(&dictionary).unwrap();
    let mut rules: Vec<Value> = config.rules.rules().iter().map(|r| rules_json::to_json(r).unwrap()).collect();
    assert_eq!(rules.len(), network::constants::RULES_MAX);
    rules.push(json!({ "type": "ACTION_DROP" }));
    // An operator's update with more rules than members can hold is refused: the last ones would be lost.
    let too_many =
        controller::record::update_network(&mut record::new_network(network_id(case), 1), &json!({ "rules": rules }));
    assert_eq!(too_many.unwrap_err().field, "rules");
    json!({ "id": case["network_id"], "name": config.name, "rules": rules, "revision": config.revision, "creationTime": 1 })
}

fn compare_records<S: Storage>(name: &str, controller: &Controller<S>, id: NetworkId, after: &Value, now_ms: u64) {
    let address: Address = text(after, "id").parse().unwrap();
    let mut ours: Value = controller.member(id, address).unwrap().clone().into();
    // Ours: which default capabilities were given already. Fields may be added.
    remove(&mut ours, &["defaultCapabilities"]);
    let mut recorded = after.clone();
    // The recorded clock moved on by a millisecond or two between the steps.
    for field in ["creationTime", "lastAuthorizedTime"] {
        if ours[field].as_u64().is_some_and(|ms| ms.abs_diff(now_ms) < 10) {
            ours[field] = recorded[field].clone();
        }
    }
    if name == "default capability not given to an already recorded member" {
        assert_eq!(ours["capabilities"], json!([3]));
        recorded["capabilities"] = json!([3]);
    }
    assert_eq!(ours, recorded, "{name}");
}

fn compare_dictionaries(name: &str, case: &Value, outputs: &[Output]) {
    let chunks: Vec<Vec<u8>> = outputs
        .iter()
        .filter_map(|o| match o {
            Output::Reply { payload, .. } => Some(OkMessage::parse(payload).unwrap().body.to_vec()),
            _ => None,
        })
        .collect();
    let (ours, recorded) = (join(&chunks), bytes(case, "dictionary"));
    let mut expected = Config::parse(&recorded).unwrap();
    match name {
        // A default route does not cover an address; the reference assigns it as 0.0.0.0/0. spec: controller, "Traps"
        "routes, dns, mtu, trace" => {
            let uncovered = expected.addresses.pop().unwrap();
            assert_eq!(uncovered.to_string(), "203.0.113.5/0");
            expected.ownerships[0].things.pop();
            expected.ownerships[0].sign(&controller_identity());
        }
        // A bridge that is not authorised is no bridge. spec: controller, "Traps"
        "active bridges" => {
            assert_eq!(expected.specialists.pop().unwrap().address().to_string(), "e9914e0982");
        }
        // Default capabilities go to every authorised member once. spec: controller, "Traps"
        "default capability not given to an already recorded member" => {
            assert!(expected.capabilities.is_empty());
            expected.capabilities = Config::parse(&ours).unwrap().capabilities;
            assert_eq!(expected.capabilities.iter().map(|c| c.id).collect::<Vec<_>>(), [3]);
            let signer = controller_identity();
            assert_eq!(expected.capabilities[0].verify(|_| Some(signer.public())), Ok(()));
        }
        _ => assert_eq!(hex::encode(&ours), text(case, "dictionary"), "{name}"),
    }
    assert_eq!(Config::parse(&ours).unwrap(), expected, "{name}");
    let keys = |d: &[u8]| Dictionary::parse(d).unwrap().keys().map(<[u8]>::to_vec).collect::<Vec<_>>();
    if name != "default capability not given to an already recorded member" && name != "active bridges" {
        assert_eq!(keys(&ours), keys(&recorded), "{name}");
    }
}

#[test]
fn vectors_of_chunks() {
    for (name, file) in vectors::family("network-config") {
        let chunks = cases(&file, "chunks");
        for case in chunks {
            let of = cases(&file, "cases").iter().find(|c| c["name"] == case["config_case"]).unwrap();
            let packets = case["packets"].as_array().unwrap();
            let is_reply = text(&packets[0], "verb") == "OK";
            let recorded: Vec<Vec<u8>> = packets.iter().map(|p| bytes(p, "payload")).collect();
            let packet_id = if is_reply { OkMessage::parse(&recorded[0]).unwrap().in_re.packet_id } else { 1 };
            let ours = run_configuration(&file, of, packet_id);
            assert_eq!(ours.iter().filter(|o| matches!(o, Output::Reply { .. })).count(), recorded.len());
            let ours = ours.iter().filter_map(|o| match o {
                Output::Reply { payload, .. } => Some(payload),
                _ => None,
            });
            for (ours, recorded) in ours.zip(&recorded) {
                let prefix = if is_reply { 9 } else { 0 };
                let update_id = ConfigChunk::parse(&recorded[prefix..]).unwrap().update_id;
                // The update id is random; with that of the recording every byte is the same.
                let mut payload = ours[..prefix].to_vec();
                let mut chunk = ConfigChunk { update_id, ..ConfigChunk::parse(&ours[9..]).unwrap() };
                chunk.sign(&controller_identity());
                chunk.write(&mut payload);
                assert_eq!(hex::encode(&payload), hex::encode(recorded), "{}", case["name"]);
            }
        }
        vectors::ran(&format!("{name} chunks (controller)"), chunks.len());
    }
}

#[test]
fn vectors_of_rules_in_json() {
    for (name, file) in vectors::family("network-rules") {
        let cases = cases(&file, "codec");
        for case in cases {
            rule_codec(case);
        }
        vectors::ran(&format!("{name} codec"), cases.len());
    }
}

fn rule_codec(case: &Value) {
    let rule = rules_json::from_json(&case["json"]);
    if case["controller_accepts"] == false {
        assert!(rule.is_err(), "{case}");
        return;
    }
    let read = Rule::read(&mut Reader::new(&bytes(case, "binary"))).unwrap();
    assert_eq!(rules_json::to_json(&read), Some(case["normalised_json"].clone()), "{case}");
    // No prefix length: the reference takes 0, which matches everything; we refuse. spec: controller, "Traps"
    if case["json"]["ip"] == "10.11.12.9" {
        assert_eq!(rule.unwrap_err().field, "ip");
        return;
    }
    let rule = rule.unwrap_or_else(|e| panic!("{case}: {e}"));
    let mut written = Vec::new();
    rule.write(&mut written);
    assert_eq!(hex::encode(written), text(case, "binary"), "{case}");
    assert_eq!(rule, read);
    // The normal form is its own normal form, and what a network's record holds.
    let mut record = record::new_network(NETWORK, 1);
    record::update_network(&mut record, &json!({ "rules": [case["json"]] })).unwrap();
    assert_eq!(record["rules"], json!([case["normalised_json"]]), "{case}");
    let stored = NetworkSettings::of(&record).unwrap().rules;
    assert_eq!(stored.iter().map(rules_json::to_json).collect::<Vec<_>>(), [Some(case["normalised_json"].clone())]);
}
