//! The recorded behaviour of the reference's member node, case by case. Where this crate differs on purpose, the case is
//! named here together with the rule that says so.

mod support;

use std::collections::BTreeMap;

use network::membership::{Acceptance, Credential, Membership, Signed};
use network::{Action, Config, Networks, Sender, Status};
use serde_json::Value;
use support::*;
use wire::chunk::ConfigChunk;
use wire::credential::{Capability, Com, Ownership, Revocation, Tag};
use wire::dictionary::{Dictionary, DictionaryWriter};
use wire::message::{ConfigRequest, Credentials, ErrorMessage, OkMessage, OkNetworkConfig};
use wire::{Address, Identity, Mac, MulticastGroup, NetworkId, Now, Reader, Verb};

// ---- network-frames.json -------------------------------------------------------------------------------------------

/// Held frames go on the moment the sender's credentials arrive, not at the next retry: what the recording shows at a
/// later step happens at these. // spec: networks, "The gate: may this peer talk to us on this network" (Gateway)
const HELD_FRAMES_GO_ON_HERE: &[(&str, &str)] = &[
    ("unicast receive", "credentials"),
    ("EXT_FRAME receive", "credentials"),
    ("MULTICAST_FRAME receive", "credentials"),
    ("credential pushes are rate limited to one packet per peer per 1000 ms", "own certificate 1000 ms later"),
    ("revocation with fast propagation", "newer certificate for c restores it"),
];

/// The recording of these ends without a retry: the held frame is delivered here although it is not delivered there.
const NEVER_RETRIED_THERE: &[(&str, usize)] =
    &[("EXT_FRAME receive", 1), ("MULTICAST_FRAME receive", 1), ("revocation with fast propagation", 1)];

/// One ERROR a second per peer and network: a failing retry sends no other.
// spec: networks, "The gate: may this peer talk to us on this network" (Gateway)
const ERROR_NOT_REPEATED: &[(&str, &str)] = &[("unicast receive", "")];

/// One explicit gather a second per group while nobody is known. // spec: networks, "Sending" (Gateway)
const GATHER_NOT_REPEATED: &[(&str, &str)] =
    &[("ARP variants", "short arp"), ("ARP variants", "arp with hardware length 8")];

/// More members than the limit: which of them get a copy is random, and so is who needs credentials first.
const RANDOM_RECIPIENTS: &[&str] = &["broadcast reaches two of b,c,d", "broadcast: bridge d and one of b,c"];

/// Credentials are packed by their size on the wire, and packets after the first follow at the receiver's pace.
// spec: networks, "Pushing our credentials" (Gateway)
const SPACED_CREDENTIALS: &str = "credentials that do not fit one packet";

#[test]
fn vectors_of_network_frames() {
    for (name, file) in vectors::family("network-frames") {
        frames_file(&name, &file);
    }
}

fn frames_file(name: &str, file: &Value) {
    let identities = identities(file);
    let sequences = list(file, "sequences");
    for sequence in sequences {
        Member::new(sequence, &identities).run(sequence);
    }
    vectors::ran(name, sequences.len());
}

/// The member node that a sequence is about.
struct Member<'a> {
    name: &'a str,
    identities: &'a BTreeMap<String, Identity>,
    networks: Networks,
    around: Around,
    network: NetworkId,
    now: Now,
    subscriptions: Vec<MulticastGroup>,
    /// What happened here before the step at which the recording shows it.
    early: Step,
    /// The gate's verdicts as the shards know them.
    allowed: BTreeMap<Address, bool>,
}

/// What a step caused.
#[derive(Clone, Debug, Default, PartialEq)]
struct Step {
    sent: Vec<Sent>,
    delivered: Vec<Vec<u8>>,
}

impl<'a> Member<'a> {
    fn new(sequence: &'a Value, identities: &'a BTreeMap<String, Identity>) -> Member<'a> {
        let mut around = Around::new(identities[text(sequence, "self")].clone());
        around.upstreams = vec![identities["root"].address()];
        around.know(&identities["root"]);
        for name in list(sequence, "peers_with_known_identity") {
            around.know(&identities[name.as_str().unwrap()]);
        }
        let mut member = Member {
            name: text(sequence, "name"),
            identities,
            networks: Networks::new(),
            around,
            network: text(sequence, "network_id").parse().unwrap(),
            now: Now::at_ms(number(sequence, "start_time")),
            subscriptions: Vec::new(),
            early: Step::default(),
            allowed: BTreeMap::new(),
        };
        let config = sequence["config_dictionary"].as_str().map(|text| hex::decode(text).unwrap());
        member.act(|m, out| m.networks.join(m.now, m.network, config.as_deref(), &mut m.around, out));
        assert_eq!(member.networks.get(member.network).unwrap().mac(), mac(text(sequence, "our_mac")));
        member
    }

    fn run(mut self, sequence: &Value) {
        for step in list(sequence, "steps") {
            self.step(step);
        }
        let never = NEVER_RETRIED_THERE.iter().find(|(name, _)| *name == self.name).map_or(0, |(_, n)| *n);
        assert_eq!(self.early.delivered.len(), never, "{}: delivered here only", self.name);
        assert_eq!(self.early.sent, [], "{}: sent here only", self.name);
    }

    fn step(&mut self, step: &Value) {
        let held = self.networks.gauges().held;
        let mut actual = match text(step, "op") {
            "advance_time" => {
                let d = std::time::Duration::from_millis(number(step, "ms"));
                self.now = self.now.after(d);
                return;
            }
            "tap_frame" => self.tap_frame(step),
            "receive" => self.receive(step),
            // Here nothing is retried by a timer, and queues expire without a sweep.
            "retry_held_packets" | "multicast_housekeeping" => Step::default(),
            "subscribe" => {
                let adi = number(step, "adi") as u32;
                self.subscriptions.push(MulticastGroup { mac: mac(text(step, "mac")), adi });
                let groups = self.subscriptions.clone();
                self.act(|m, out| m.networks.set_subscriptions(m.now, m.network, groups, &mut m.around, out))
            }
            "periodic_member_update" => {
                let mut ticked = self.act(|m, out| m.networks.tick(m.now, &mut m.around, out));
                ticked.sent.retain(|s| s.verb == Verb::MulticastLike);
                ticked
            }
            "new_configuration" => self.new_configuration(step),
            other => panic!("{other}"),
        };
        let what = step["what"].as_str().unwrap_or_default();
        let mut expected = expected(step);
        let here = |table: &[(&str, &str)]| table.contains(&(self.name, what));

        if here(ERROR_NOT_REPEATED) && step["still_held"] == 1 {
            assert!(expected.sent.iter().all(|s| s.verb == Verb::Error));
            expected.sent.clear();
        }
        if here(GATHER_NOT_REPEATED) {
            assert!(expected.sent.iter().all(|s| s.verb == Verb::MulticastGather));
            expected.sent.clear();
        }
        if RANDOM_RECIPIENTS.contains(&what) {
            return self.compare_random(what, &expected, &actual);
        }
        if self.name == SPACED_CREDENTIALS {
            return self.compare_spaced(&expected, &actual);
        }
        if here(HELD_FRAMES_GO_ON_HERE) {
            move_surplus(&mut actual.sent, &expected.sent, &mut self.early.sent);
            move_surplus(&mut actual.delivered, &expected.delivered, &mut self.early.delivered);
            assert_eq!((self.early.sent.len(), self.early.delivered.len()), (1, 1), "{}: {what}", self.name);
            assert_eq!(self.early.sent[0].verb, Verb::MulticastLike);
        } else {
            take_early(&mut expected.sent, &actual.sent, &mut self.early.sent);
            take_early(&mut expected.delivered, &actual.delivered, &mut self.early.delivered);
        }
        assert_eq!(by_recipient(&actual.sent), by_recipient(&expected.sent), "{}: {what}", self.name);
        assert_eq!(actual.delivered, expected.delivered, "{}: {what}", self.name);
        if let Some(expected) = step["held"].as_bool() {
            assert_eq!(self.networks.gauges().held > held, expected, "{}: {what}: held", self.name);
        }
        let status = self.networks.get(self.network).unwrap().status() as u64;
        assert_eq!(status, number(step, "status"), "{}: {what}: status", self.name);
        self.check_verdicts();
    }

    fn tap_frame(&mut self, step: &Value) -> Step {
        let (to, from) = (mac(text(step, "dst_mac")), mac(text(step, "src_mac")));
        let frame = ethernet(to, from, number(step, "ethertype") as u16, &bytes(step, "frame"));
        self.act(|m, out| m.networks.handle_tap_frame(m.now, m.network, &frame, &mut m.around, out))
    }

    fn receive(&mut self, step: &Value) -> Step {
        let identity = self.identities[text(step, "from")].clone();
        let from = Sender { identity: &identity };
        let payload = bytes(step, "payload");
        let packet_id = u64::from_str_radix(text(step, "packet_id"), 16).unwrap();
        match text(step, "verb") {
            "OK" => {
                let ok = OkMessage::parse(&payload).unwrap();
                let verb = ok.in_re.verb().unwrap();
                self.act(|m, out| {
                    let id = ok.in_re.packet_id;
                    m.networks.handle_ok(m.now, &from, verb, id, ok.body, &mut m.around, out);
                })
            }
            "ERROR" => {
                let error = ErrorMessage::parse(&payload).unwrap();
                self.act(|m, out| {
                    m.networks.handle_error(m.now, &from, &error, &mut m.around, out);
                })
            }
            name => {
                let verb = *Verb::ALL.iter().find(|v| v.name() == name).unwrap();
                self.act(|m, out| {
                    m.networks.handle_message(m.now, &from, packet_id, verb, &payload, &mut m.around, out);
                })
            }
        }
    }

    /// As an answer of the controller.
    fn new_configuration(&mut self, step: &Value) -> Step {
        let dictionary = bytes(step, "config_dictionary");
        let body = [&self.network.0.to_be_bytes()[..], &(dictionary.len() as u16).to_be_bytes(), &dictionary].concat();
        let controller = self.identities["ctl"].clone();
        let from = Sender { identity: &controller };
        self.act(|m, out| {
            m.networks.handle_ok(m.now, &from, Verb::NetworkConfigRequest, 1, &body, &mut m.around, out);
        })
    }

    fn act(&mut self, work: impl FnOnce(&mut Member<'_>, &mut Vec<Action>)) -> Step {
        let mut out = Vec::new();
        work(self, &mut out);
        for action in &out {
            if let Action::Member { address, allowed, .. } = action {
                assert_ne!(self.allowed.insert(*address, *allowed), Some(*allowed), "a verdict is told twice");
            }
        }
        Step { sent: sent(&out), delivered: delivered(&out) }
    }

    /// The shards know the same verdicts as we.
    fn check_verdicts(&self) {
        for (address, member) in self.networks.get(self.network).unwrap().members() {
            let told = self.allowed.get(&address).copied().unwrap_or(false);
            assert_eq!(told, member.allowed(), "{}: {address}", self.name);
        }
    }

    fn compare_random(&self, what: &str, expected: &Step, actual: &Step) {
        let frames = |step: &Step| -> Vec<_> {
            let frames = step.sent.iter().filter(|s| s.verb == Verb::MulticastFrame);
            frames.map(|s| (s.to, s.payload.clone())).collect()
        };
        let (mut expected, mut actual) = (frames(expected), frames(actual));
        assert_eq!(actual.len(), expected.len(), "{what}");
        if what.starts_with("broadcast: bridge d") {
            assert_eq!(actual[0].0, self.identities["d"].address(), "the bridge comes first");
        }
        let candidates = ["b", "c", "d"].map(|name| self.identities[name].address());
        assert!(actual.iter().all(|(to, _)| candidates.contains(to)));
        actual.sort();
        actual.dedup_by_key(|(to, _)| *to);
        expected.sort();
        let payloads = |frames: &[(Address, Vec<u8>)]| frames.iter().map(|f| f.1.clone()).collect::<Vec<_>>();
        assert_eq!(payloads(&actual), payloads(&expected), "{what}");
    }

    fn compare_spaced(&mut self, expected: &Step, actual: &Step) {
        let (credentials, frames): (Vec<_>, Vec<_>) =
            expected.sent.iter().partition(|s| s.verb == Verb::NetworkCredentials);
        let mut got = actual.sent[..1].to_vec();
        assert_eq!(actual.sent[1..].iter().collect::<Vec<_>>(), frames, "one packet of credentials, then the frame");
        while got.len() < credentials.len() {
            let due = self.networks.poll_timeout();
            assert!(due >= self.now.ms() + 1000 || got.len() == 1);
            self.now = self.now.after(std::time::Duration::from_millis(1001));
            let early = self.act(|m, out| m.networks.tick(m.now, &mut m.around, out));
            assert!(early.sent.iter().all(|s| s.verb != Verb::NetworkCredentials), "the receiver would not read it");
            self.now = self.now.after(std::time::Duration::from_millis(99));
            let more = self.act(|m, out| m.networks.tick(m.now, &mut m.around, out));
            got.extend(more.sent.into_iter().filter(|s| s.verb == Verb::NetworkCredentials));
        }
        let union = |sent: &[Sent]| {
            let all: Vec<_> = sent.iter().map(|s| Credentials::parse(&s.payload).unwrap()).collect();
            let mut tags: Vec<_> = all.iter().flat_map(|c| &c.tags).map(|t| t.id).collect();
            let mut capabilities: Vec<_> = all.iter().flat_map(|c| &c.capabilities).map(|c| c.id).collect();
            tags.sort();
            capabilities.sort();
            let rest = all.iter().map(|c| (c.coms.len(), c.ownerships.len(), c.revocations.len()));
            (tags, capabilities, rest.fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2)))
        };
        assert_eq!(union(&got), union(&credentials.into_iter().cloned().collect::<Vec<_>>()));
    }
}

fn expected(step: &Value) -> Step {
    let sent = |m: &Value| {
        let name = text(m, "verb");
        let verb = *Verb::ALL.iter().find(|v| v.name() == name).unwrap();
        Sent { to: text(m, "to").parse().unwrap(), verb, payload: bytes(m, "payload") }
    };
    let frame = |d: &Value| {
        let (to, from) = (mac(text(d, "dst_mac")), mac(text(d, "src_mac")));
        ethernet(to, from, number(d, "ethertype") as u16, &bytes(d, "frame"))
    };
    let each = |key: &str| step[key].as_array().cloned().unwrap_or_default();
    Step { sent: each("messages").iter().map(sent).collect(), delivered: each("delivered").iter().map(frame).collect() }
}

/// Messages of each recipient in order; the order of recipients is random in the reference.
fn by_recipient(sent: &[Sent]) -> BTreeMap<Address, Vec<(Verb, String)>> {
    let mut map: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for s in sent {
        map.entry(s.to).or_default().push((s.verb, hex::encode(&s.payload)));
    }
    map
}

fn move_surplus<T: PartialEq + Clone>(actual: &mut Vec<T>, expected: &[T], early: &mut Vec<T>) {
    let mut wanted = expected.to_vec();
    actual.retain(|item| match wanted.iter().position(|w| w == item) {
        Some(at) => {
            wanted.remove(at);
            true
        }
        None => {
            early.push(item.clone());
            false
        }
    });
}

/// Drops from `expected` what does not happen now because it happened early.
fn take_early<T: PartialEq + Clone>(expected: &mut Vec<T>, actual: &[T], early: &mut Vec<T>) {
    let mut happening = actual.to_vec();
    expected.retain(|item| {
        if let Some(at) = happening.iter().position(|h| h == item) {
            happening.remove(at);
            return true;
        }
        match early.iter().position(|e| e == item) {
            Some(at) => {
                early.remove(at);
                false
            }
            None => true,
        }
    });
}

// ---- network-config.json -------------------------------------------------------------------------------------------

#[test]
fn vectors_of_network_config() {
    for (name, file) in vectors::family("network-config") {
        config_file(&name, &file);
    }
}

fn config_file(name: &str, file: &Value) {
    let identities = identities(file);
    let mut cases = 0;
    for case in list(file, "cases") {
        cases += 1;
        match text(case, "result") {
            "config" => configuration(case),
            refused => refusal(case, refused, &identities),
        }
    }
    for case in list(file, "chunks") {
        cases += 1;
        chunks(case, file, &identities);
    }
    for case in list(file, "acceptance") {
        cases += 1;
        acceptance(case, &identities);
    }
    for case in list(file, "dictionary") {
        cases += 1;
        dictionary(case);
    }
    cases += 2;
    request(&file["node_request"], None, &identities);
    let held = &file["node_request_with_config"];
    let case = named(file, "cases", text(held, "held_config_case"));
    request(held, Some(bytes(case, "dictionary")), &identities);
    vectors::ran(name, cases);
}

fn named<'a>(file: &'a Value, key: &str, name: &str) -> &'a Value {
    list(file, key).iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name} in {key}"))
}

fn configuration(case: &Value) {
    let name = text(case, "name");
    let original = bytes(case, "dictionary");
    let config = Config::parse(&original).unwrap_or_else(|e| panic!("{name}: {e}"));
    // A reader sorts capabilities by id; one alone is where it was.
    if config.capabilities.len() < 2 {
        assert_eq!(String::from_utf8_lossy(&config.to_dictionary()), String::from_utf8_lossy(&original), "{name}");
    }
    assert_eq!(Config::parse(&config.to_dictionary()).as_ref(), Ok(&config), "{name}");

    let decoded = &case["decoded"];
    assert_eq!(config.network.to_string(), text(decoded, "network_id"), "{name}");
    assert_eq!(config.timestamp, number(decoded, "timestamp"), "{name}");
    assert_eq!(config.credential_window_ms, number(decoded, "credential_time_max_delta"), "{name}");
    assert_eq!(config.revision, number(decoded, "revision"), "{name}");
    assert_eq!(config.issued_to.to_string(), text(decoded, "issued_to"), "{name}");
    let target = config.trace_target.unwrap_or(Address::ZERO);
    assert_eq!(target.to_string(), text(decoded, "remote_trace_target"), "{name}");
    assert_eq!(config.trace_level, number(decoded, "remote_trace_level"), "{name}");
    assert_eq!(format!("{:016x}", config.flags), text(decoded, "flags"), "{name}");
    assert_eq!(config.multicast_limit, number(decoded, "multicast_limit"), "{name}");
    assert_eq!(config.public, text(decoded, "type") == "public", "{name}");
    assert_eq!(hex::encode(&config.name), text(decoded, "name_hex"), "{name}");
    assert_eq!(u64::from(config.mtu), number(decoded, "mtu"), "{name}");
    let com = config.com.as_ref().map(|c| written(|out| c.write(out))).unwrap_or_default();
    assert_eq!(com, decoded["com"].as_str().unwrap_or_default(), "{name}");
    let serialized =
        |key: &str| list(decoded, key).iter().map(|c| text(c, "serialized").to_owned()).collect::<Vec<_>>();
    let capabilities: Vec<_> = config.capabilities.iter().map(|c| written(|out| c.write(out))).collect();
    assert_eq!(capabilities, serialized("capabilities"), "{name}");
    let tags: Vec<_> = config.tags.iter().map(|t| written(|out| t.write(out))).collect();
    assert_eq!(tags, serialized("tags"), "{name}");
    let ownerships: Vec<_> = config.ownerships.iter().map(|o| written(|out| o.write(out))).collect();
    assert_eq!(ownerships, serialized("ownership"), "{name}");
    let specialists: Vec<_> = config.specialists.iter().map(|s| format!("{:016x}", s.0)).collect();
    assert_eq!(specialists, strings(decoded, "specialists"), "{name}");
    let addresses: Vec<_> = config.addresses.iter().map(|p| p.to_string()).collect();
    assert_eq!(addresses, strings(decoded, "static_ips"), "{name}");
    assert_eq!(config.routes.len(), list(decoded, "routes").len(), "{name}");
    for (route, expected) in config.routes.iter().zip(list(decoded, "routes")) {
        assert_eq!(route.target.to_string(), text(expected, "target"), "{name}");
        assert_eq!(route.via.map(|v| v.to_string()).as_deref(), expected["via"].as_str(), "{name}");
        let (flags, metric) = (u64::from(route.flags), u64::from(route.metric));
        assert_eq!((flags, metric), (number(expected, "flags"), number(expected, "metric")), "{name}");
    }
    assert_eq!(config.rules.rules().len() as u64, number(decoded, "rule_count"), "{name}");
    assert_eq!(config.dns.domain, text(&decoded["dns"], "domain"), "{name}");
    let servers: Vec<_> = config.dns.servers.iter().map(|s| s.to_string()).collect();
    assert_eq!(servers, strings(&decoded["dns"], "servers"), "{name}");
    assert_eq!(config.authentication.enabled, yes(decoded, "sso_enabled"), "{name}");
    assert_eq!(config.authentication.version, number(decoded, "sso_version"), "{name}");
}

fn strings(case: &Value, key: &str) -> Vec<String> {
    list(case, key).iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    hex::encode(out)
}

/// The controller's refusal reaches the member as an ERROR.
fn refusal(case: &Value, result: &str, identities: &BTreeMap<String, Identity>) {
    let network: NetworkId = text(case, "network_id").parse().unwrap();
    let (mut networks, mut around) = joined(&identities["a"], network, identities);
    let (code, status) = match result {
        "access_denied" => (7, Status::AccessDenied),
        "not_found" => (3, Status::NotFound),
        "authentication_required" => (9, Status::AuthenticationRequired),
        other => panic!("{other}"),
    };
    let mut payload = vec![Verb::NetworkConfigRequest as u8, 0, 0, 0, 0, 0, 0, 0, 1, code];
    payload.extend_from_slice(&network.0.to_be_bytes());
    payload.extend_from_slice(&bytes(case, "error_data"));
    let error = ErrorMessage::parse(&payload).unwrap();
    let mut out = Vec::new();
    let stranger = Sender { identity: &identities["b"] };
    networks.handle_error(Now::at_ms(0), &stranger, &error, &mut around, &mut out);
    assert_eq!(networks.get(network).unwrap().status(), Status::RequestingConfiguration);
    let controller = Sender { identity: &identities["ctl"] };
    networks.handle_error(Now::at_ms(0), &controller, &error, &mut around, &mut out);
    assert_eq!(networks.get(network).unwrap().status(), status);
    assert_eq!(out, [Action::Changed(network)]);
}

/// A member that just joined and knows everybody.
fn joined(own: &Identity, network: NetworkId, identities: &BTreeMap<String, Identity>) -> (Networks, Around) {
    let mut around = Around::new(own.clone());
    identities.values().for_each(|identity| around.know(identity));
    let mut networks = Networks::new();
    networks.join(Now::at_ms(0), network, None, &mut around, &mut Vec::new());
    (networks, around)
}

fn chunks(case: &Value, file: &Value, identities: &BTreeMap<String, Identity>) {
    let name = text(case, "name");
    let config = named(file, "cases", text(case, "config_case"));
    let network: NetworkId = text(config, "network_id").parse().unwrap();
    let (mut networks, mut around) = joined(&identities["a"], network, identities);
    let from = Sender { identity: &identities["ctl"] };
    let mut out = Vec::new();
    for packet in list(case, "packets") {
        assert!(networks.get(network).unwrap().config().is_none(), "{name}: complete too early");
        let payload = bytes(packet, "payload");
        let chunk = match text(packet, "verb") {
            "OK" => {
                let ok = OkMessage::parse(&payload).unwrap();
                let (verb, id) = (ok.in_re.verb().unwrap(), ok.in_re.packet_id);
                networks.handle_ok(Now::at_ms(0), &from, verb, id, ok.body, &mut around, &mut out);
                ConfigChunk::parse(ok.body).unwrap()
            }
            _ => {
                networks.handle_message(Now::at_ms(0), &from, 1, Verb::NetworkConfig, &payload, &mut around, &mut out);
                ConfigChunk::parse(&payload).unwrap()
            }
        };
        assert!(chunk.verify(&identities["ctl"]), "{name}");
    }
    let dictionary = bytes(config, "dictionary");
    let expected = Config::parse(&dictionary).unwrap();
    assert_eq!(networks.get(network).unwrap().config(), Some(&expected), "{name}");
    assert!(out.contains(&Action::StoreConfig { network, dictionary }), "{name}");
}

fn acceptance(case: &Value, identities: &BTreeMap<String, Identity>) {
    let name = text(case, "name");
    let network: NetworkId = text(case, "network_id").parse().unwrap();
    let own = &identities[text(case, "self")];
    let (mut networks, mut around) = joined(own, network, identities);
    // ERROR 6 makes a record of whoever sends it, as any talk with a member does.
    for member in case["known_members"].as_array().into_iter().flatten() {
        record(&mut networks, &mut around, network, &identities[member.as_str().unwrap()]);
    }
    let mut accepted = Config::parse(b"");
    for step in list(case, "steps") {
        let from = Sender { identity: &identities[text(step, "received_from")] };
        let payload = bytes(step, "payload");
        let mut out = Vec::new();
        // The recording gives old-form configurations this packet ID.
        let packet_id = 0x5555;
        networks.handle_message(Now::at_ms(0), &from, packet_id, Verb::NetworkConfig, &payload, &mut around, &mut out);
        let answered = sent(&out).into_iter().find(|s| s.verb == Verb::Ok);
        let update_id = answered.map_or(0, |ok| {
            let ok = OkMessage::parse(&ok.payload).unwrap().body.to_vec();
            OkNetworkConfig::parse(&ok).unwrap().update_id
        });
        assert_eq!(format!("{update_id:016x}"), text(step, "returned_update_id"), "{name}");
        let mut relayed: Vec<_> = sent(&out).into_iter().filter(|s| s.verb == Verb::NetworkConfig).collect();
        assert!(relayed.iter().all(|s| s.payload == payload), "{name}");
        relayed.sort();
        let mut expected = strings(step, "relayed_to");
        expected.sort();
        assert_eq!(relayed.iter().map(|s| s.to.to_string()).collect::<Vec<_>>(), expected, "{name}");

        let config = networks.get(network).unwrap().config();
        assert_eq!(config.is_some(), yes(step, "has_config"), "{name}");
        if text(step, "what") == "older" {
            // An older configuration counts only as the controller's own answer to our request: a pushed one is ignored.
            // spec: networks, "Applying" (Gateway)
            assert_eq!(config, accepted.as_ref().ok(), "{name}");
            assert_eq!(networks.counters().configs_rolled_back, 1);
            return replay_as_answer(step, network, own, identities);
        }
        assert_eq!(config.map_or(0, |c| c.timestamp), number(step, "config_timestamp"), "{name}");
        if let Some(config) = config {
            accepted = Ok(config.clone());
        }
    }
}

/// The older configuration as an answer of a controller that was restored from a backup, and of somebody else.
fn replay_as_answer(step: &Value, network: NetworkId, own: &Identity, identities: &BTreeMap<String, Identity>) {
    let payload = bytes(step, "payload");
    let newer = {
        let mut config = Config::parse(ConfigChunk::parse(&payload).unwrap().data).unwrap();
        config.timestamp += 1;
        config.to_dictionary()
    };
    for (name, taken) in [("ctl", true), ("b", false)] {
        let mut around = Around::new(own.clone());
        identities.values().for_each(|identity| around.know(identity));
        let mut networks = Networks::new();
        let mut out = Vec::new();
        networks.join(Now::at_ms(0), network, Some(&newer), &mut around, &mut out);
        let from = Sender { identity: &identities[name] };
        let verb = Verb::NetworkConfigRequest;
        networks.handle_ok(Now::at_ms(0), &from, verb, 1, &payload, &mut around, &mut out);
        let held = networks.get(network).unwrap().config().unwrap().timestamp;
        assert_eq!(held == number(step, "config_timestamp"), taken, "{name}");
    }
}

fn record(networks: &mut Networks, around: &mut Around, network: NetworkId, member: &Identity) {
    let mut revocation = Revocation {
        id: 1,
        network,
        credential_id: 0,
        threshold: 1,
        flags: 0,
        target: member.address(),
        signer: Address::ZERO,
        kind: 1,
        signature: None,
    };
    revocation.sign(&secret("ctl"));
    let mut payload = Vec::new();
    Credentials { revocations: vec![revocation], ..Credentials::default() }.write(&mut payload);
    let from = Sender { identity: member };
    networks.handle_message(Now::at_ms(0), &from, 1, Verb::NetworkCredentials, &payload, around, &mut Vec::new());
    assert!(networks.get(network).unwrap().member(member.address()).is_some());
}

fn secret(name: &str) -> wire::SecretIdentity {
    let file = load("network-config");
    text(&file["identities"][name], "secret").parse().unwrap()
}

fn dictionary(case: &Value) {
    if case.get("encode").is_some() {
        let all: Vec<u8> = (0..=255).collect();
        let mut d = DictionaryWriter::new();
        let (u, n) = (number(case, "u"), case["n"].as_i64().unwrap());
        d.bytes("B", &all).u64("u", u).i64("n", n).bool("t", true).text("s", "x=y");
        assert_eq!(hex::encode(d.finish()), text(case, "text"));
        return;
    }
    let bytes = bytes(case, "text");
    let d = Dictionary::parse(&bytes).unwrap();
    let key = text(case, "key");
    assert_eq!(d.get(key).is_some(), yes(case, "found"), "{case}");
    if let Some(value) = d.get(key) {
        assert_eq!(hex::encode(value), text(case, "value"), "{case}");
    }
    assert_eq!(format!("{:016x}", d.u64(key).unwrap_or(0)), text(case, "as_u64"), "{case}");
    assert_eq!(d.bool(key).unwrap_or(false), yes(case, "as_bool"), "{case}");
}

fn request(case: &Value, held: Option<Vec<u8>>, identities: &BTreeMap<String, Identity>) {
    let expected = &list(case, "messages")[0];
    let payload = bytes(expected, "payload");
    let wanted = ConfigRequest::parse(&payload).unwrap();
    let mut around = Around::new(identities["a"].clone());
    let mut out = Vec::new();
    Networks::new().join(Now::at_ms(0), wanted.network, held.as_deref(), &mut around, &mut out);
    let sent = sent(&out);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].to.to_string(), sent[0].verb.name()), (text(expected, "to").into(), text(expected, "verb")));
    let got = ConfigRequest::parse(&sent[0].payload).unwrap();
    assert_eq!((got.revision, got.timestamp), (wanted.revision, wanted.timestamp));
    let (got, wanted) = (Dictionary::parse(got.metadata).unwrap(), Dictionary::parse(wanted.metadata).unwrap());
    assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for key in wanted.keys().map(|k| std::str::from_utf8(k).unwrap()) {
        // Platform and architecture are this machine's.
        if key == "o" {
            assert_eq!(got.text(key).unwrap(), format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH));
        } else {
            assert_eq!(got.get(key), wanted.get(key), "{key}");
        }
    }
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        assert_eq!(hex::encode(&sent[0].payload), text(expected, "payload"));
    }
}

// ---- network-credentials.json --------------------------------------------------------------------------------------

#[test]
fn vectors_of_network_credentials() {
    for (name, file) in vectors::family("network-credentials") {
        credentials_file(&name, &file);
    }
}

fn credentials_file(name: &str, file: &Value) {
    let identities = identities(file);
    let mut cases = 0;
    for (key, kind) in [
        ("com", "com"),
        ("tag", "tag"),
        ("capability", "capability"),
        ("ownership", "ownership"),
        ("revocation", "revocation"),
    ] {
        for case in list(file, key) {
            cases += 1;
            credential(case, kind, &identities);
        }
    }
    for case in list(file, "agreement") {
        cases += 1;
        agreement(case, file, &identities);
    }
    for case in list(file, "ownership_lookup") {
        cases += 1;
        ownership_lookup(case, file);
    }
    for case in list(file, "parse") {
        cases += 1;
        parse(case);
    }
    for case in list(file, "membership_sequences") {
        cases += 1;
        membership_sequence(case, file, &identities);
    }
    vectors::ran(name, cases);
}

/// A credential of any kind.
enum Any {
    Com(Com),
    Tag(Tag),
    Capability(Capability),
    Ownership(Ownership),
    Revocation(Revocation),
}

impl Any {
    fn read(kind: &str, r: &mut Reader<'_>) -> Option<Any> {
        match kind {
            "com" => Com::read(r).ok().map(Any::Com),
            "tag" => Tag::read(r).ok().map(Any::Tag),
            "capability" => Capability::read(r).ok().map(Any::Capability),
            "ownership" => Ownership::read(r).ok().map(Any::Ownership),
            "revocation" => Revocation::read(r).ok().map(Any::Revocation),
            other => panic!("{other}"),
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        match self {
            Any::Com(c) => c.signed_bytes(),
            Any::Tag(t) => t.signed_bytes(),
            Any::Capability(c) => c.signed_bytes(),
            Any::Ownership(o) => o.signed_bytes(),
            Any::Revocation(r) => r.signed_bytes(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Any::Com(c) => c.write(out),
            Any::Tag(t) => t.write(out),
            Any::Capability(c) => c.write(out),
            Any::Ownership(o) => o.write(out),
            Any::Revocation(r) => r.write(out),
        }
    }

    fn credential(&self) -> Credential<'_> {
        match self {
            Any::Com(c) => Credential::Com(c),
            Any::Tag(t) => Credential::Tag(t),
            Any::Capability(c) => Credential::Capability(c),
            Any::Ownership(o) => Credential::Ownership(o),
            Any::Revocation(r) => Credential::Revocation(r),
        }
    }
}

fn verify(credential: &Credential<'_>, identities: &BTreeMap<String, Identity>) -> Signed {
    let known = ["ctl", "a", "b", "c", "root"].map(|name| &identities[name]);
    credential.verify(|address| known.into_iter().find(|i| i.address() == address).map(|i| i.clone().into()))
}

fn credential(case: &Value, kind: &str, identities: &BTreeMap<String, Identity>) {
    let name = text(case, "name");
    let serialized = bytes(case, "serialized");
    let r = &mut Reader::new(&serialized);
    let object = Any::read(kind, r).unwrap_or_else(|| panic!("{kind} {name}"));
    assert!(r.is_empty(), "{kind} {name}");
    assert_eq!(written(|out| object.write(out)), text(case, "serialized"), "{kind} {name}");
    assert_eq!(hex::encode(object.signed_bytes()), text(case, "signed_bytes"), "{kind} {name}");
    let expected = match case["verify"].as_i64().unwrap() {
        0 => Signed::Good,
        1 => {
            let got = verify(&object.credential(), identities);
            assert!(matches!(got, Signed::Unknown(_)), "{kind} {name}: {got:?}");
            return;
        }
        _ => Signed::Bad,
    };
    assert_eq!(verify(&object.credential(), identities), expected, "{kind} {name}");
}

fn com(file: &Value, name: &str) -> Com {
    Com::read(&mut Reader::new(&bytes(named(file, "com", name), "serialized"))).unwrap()
}

/// A configuration of a private network with this certificate of ours.
fn config_with(com: &Com, timestamp: u64, window_ms: u64) -> Config {
    let network = com.network();
    let text = format!("v=7\nnwid={:016x}\nid={}\nts={timestamp:x}\nctmd={window_ms:x}", network.0, com.issued_to());
    Config { com: Some(com.clone()), ..Config::parse(text.as_bytes()).unwrap() }
}

/// Through the gate, as frames go.
fn agreement(case: &Value, file: &Value, identities: &BTreeMap<String, Identity>) {
    let (ours, theirs) = (com(file, text(case, "ours")), com(file, text(case, "theirs")));
    let peer = &identities[text(case, "peer_identity")];
    assert_eq!(ours.agrees_with(&theirs, peer), yes(case, "agrees"), "{case}");
    let mut member = Membership::default();
    assert_eq!(member.accept(&Credential::Com(&theirs), || Signed::Good), Acceptance::New);
    member.is(peer);
    assert_eq!(member.judge(Some(&config_with(&ours, 0, 0))), yes(case, "agrees"), "{case}");
}

fn ownership_lookup(case: &Value, file: &Value) {
    let serialized = bytes(named(file, "ownership", text(case, "certificate")), "serialized");
    let certificate = Ownership::read(&mut Reader::new(&serialized)).unwrap();
    let owns = match case["ip"].as_str() {
        Some(ip) => certificate.owns(ip.parse::<std::net::IpAddr>().unwrap()),
        None => certificate.owns(Mac(mac(text(case, "mac")).0)),
    };
    assert_eq!(owns, yes(case, "owns"), "{case}");
}

fn parse(case: &Value) {
    let serialized = bytes(case, "serialized");
    let r = &mut Reader::new(&serialized);
    let parsed = Any::read(text(case, "kind"), r);
    assert_eq!(parsed.is_some(), yes(case, "parses"), "{case}");
    if let Some(consumed) = case["bytes_consumed"].as_u64() {
        assert_eq!(r.position() as u64, consumed, "{case}");
    }
}

/// Here a revocation of a tag does not touch the certificate of membership.
// spec: networks, "Traps and hardening" (tag revocation moves the COM threshold)
const TAG_REVOCATION_LEAVES_COM: &str = "tag revocation also moves the com threshold (V1 behaviour)";

fn membership_sequence(case: &Value, file: &Value, identities: &BTreeMap<String, Identity>) {
    let name = text(case, "name");
    let ours = com(file, text(case, "our_com"));
    let config = config_with(&ours, number(case, "config_timestamp"), number(case, "credential_time_max_delta"));
    let mut member = Membership::default();
    member.is(&identities[text(case, "peer")]);
    for step in list(case, "steps") {
        let what = text(step, "step");
        let (kind, rest) = what.split_once(':').unwrap();
        let serialized = match kind {
            "com" => bytes(named(file, "com", rest), "serialized"),
            _ => hex::decode(rest.rsplit(' ').next().unwrap()).unwrap(),
        };
        let object = Any::read(kind, &mut Reader::new(&serialized)).unwrap();
        let credential = object.credential();
        let expected = match text(step, "result") {
            "accepted_new" => Acceptance::New,
            "accepted_redundant" => Acceptance::Redundant,
            "rejected" => Acceptance::Rejected,
            other => panic!("{other}"),
        };
        assert_eq!(member.accept(&credential, || verify(&credential, identities)), expected, "{name}: {what}");
        let allowed = member.judge(Some(&config));
        if name == TAG_REVOCATION_LEAVES_COM {
            assert!(allowed, "{name}: {what}");
            assert_eq!(member.com_threshold(), 0, "{name}: {what}");
        } else {
            assert_eq!(allowed, yes(step, "allowed_on_network"), "{name}: {what}");
            let threshold = step["com_revocation_threshold"].as_i64().unwrap();
            assert_eq!(member.com_threshold(), threshold, "{name}: {what}");
        }
        assert_eq!(member.com().map_or(0, Com::timestamp), number(step, "com_timestamp"), "{name}: {what}");
        let tags: Vec<Value> = member.usable(&config).tags().map(|(id, _)| id.into()).collect();
        assert_eq!(&tags, list(step, "valid_tags"), "{name}: {what}");
    }
}
