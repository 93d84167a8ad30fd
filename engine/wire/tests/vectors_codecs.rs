//! The recorded behaviour of the reference, for everything that has a layout: endpoints, dictionaries, worlds,
//! credentials, chunks and every verb's payload. Every case of every file of these families is run; what we do
//! differently on purpose is said where it happens.

mod common;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use common::{Case, family, unhex, unknown_kind};
use serde_json::{Value, json};
use wire::chunk::ConfigChunk;
use wire::compress::decompress;
use wire::credential::{Capability, Com, Custody, Ownership, Qualifier, Revocation, Tag, Thing};
use wire::dictionary::{Dictionary, DictionaryWriter};
use wire::endpoint;
use wire::fragment::Reassembler;
use wire::message::*;
use wire::rule::Rule;
use wire::world::{Root, World, WorldKind};
use wire::{
    Address, DEFAULT_PLANET, Datagram, Identity, Keys, Mac, Malformed, MulticastGroup, NetworkId, Now, Packet, Reader,
    SecretIdentity, SharedKey, Signature, Suite, Verb, classify,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Bytes as the vectors print dictionaries: what is not printable ASCII as `<hex>`.
fn printable(bytes: &[u8]) -> String {
    let text = |&b: &u8| match b {
        b'\n' | b' '..=b'~' => char::from(b).to_string(),
        _ => format!("<{b:02x}>"),
    };
    bytes.iter().map(text).collect()
}

fn text_of(endpoint: Option<SocketAddr>) -> String {
    endpoint.map_or_else(String::new, endpoint::to_text)
}

#[test]
fn vectors_inetaddress() {
    family("inetaddress", |_, c| {
        let name = c.name();
        match c.kind() {
            "encode" => {
                let endpoint = match c.str("text") {
                    "" => None,
                    text => Some(endpoint::from_text(text).expect(name)),
                };
                assert_eq!(written(|out| endpoint::write(endpoint, out)), c.hex("bytes"), "{name}");
                assert_eq!(endpoint::read(&mut Reader::new(&c.hex("bytes"))), Ok(endpoint), "{name}");
                assert_eq!(text_of(endpoint), c.str("text"), "{name}");
                let scope = endpoint.map_or(endpoint::Scope::None, |e| endpoint::scope(e.ip()));
                assert_eq!(scope as usize, c.num("scope"), "{name}: {}", c.str("text"));
            }
            "decode" => {
                let bytes = c.hex("in");
                let r = &mut Reader::new(&bytes);
                match endpoint::read(r) {
                    Ok(endpoint) => {
                        assert!(c.is("ok"), "{name}");
                        assert_eq!(text_of(endpoint), c.str("text"), "{name}");
                        assert_eq!(r.position(), c.num("consumed"), "{name}");
                    }
                    Err(Malformed { .. }) => assert!(!c.is("ok") || c.marked("reject_ok"), "{name}"),
                }
            }
            _ => unknown_kind(&c),
        }
    });
}

#[test]
fn vectors_mac() {
    let mac = |c: &Case<'_>| Mac(c.array("mac"));
    family("mac", |_, c| {
        let name = c.name();
        match c.kind() {
            "mac" => {
                let (network, member) = (c.network("network_id"), c.address("address"));
                assert_eq!(usize::from(network.mac_octet()), c.num("first_octet"), "{name}");
                assert_eq!(Mac::of_member(network, member), mac(&c), "{name}");
                assert_eq!(mac(&c).member(network), Some(c.address("inverse")), "{name}");
            }
            "arp_group" => {
                let group = MulticastGroup { mac: mac(&c), adi: c.num("adi") as u32 };
                assert_eq!(c.id("adi_hex"), u64::from(group.adi), "{name}");
                let ip: IpAddr = c.str("ip").parse().expect(name);
                assert_eq!(MulticastGroup::for_resolving(ip), group, "{name}");
                let mut request = [0; 28];
                request[..8].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
                request[24..].copy_from_slice(&group.adi.to_be_bytes());
                assert_eq!(MulticastGroup::of_frame(Mac::BROADCAST, 0x0806, &request), group, "{name}");
            }
            "ndp_group" => {
                let group = MulticastGroup { mac: mac(&c), adi: c.num("adi") as u32 };
                assert_eq!(MulticastGroup::for_resolving(c.str("ip").parse().expect(name)), group, "{name}");
                assert_eq!(MulticastGroup::of_frame(group.mac, 0x86dd, &[0; 72]), group, "{name}");
            }
            // The addresses themselves are computed in `network`; here only that text, bytes and parts agree.
            "unicast6" => {
                let (network, member) = (c.network("network_id"), c.address("address").to_bytes());
                for (form, bits) in [("rfc4193", 88), ("6plane", 40)] {
                    let bytes: [u8; 16] = c.array(&format!("{form}_bytes"));
                    let prefix: endpoint::Prefix = c.str(form).parse().expect(name);
                    assert_eq!((prefix.addr, prefix.bits), (Ipv6Addr::from(bytes).into(), bits), "{name}");
                    let id = network.0.to_be_bytes();
                    match form {
                        "rfc4193" => {
                            assert_eq!((bytes[0], &bytes[1..9], &bytes[9..11]), (0xfd, &id[..], &[0x99, 0x93][..]));
                            assert_eq!(bytes[11..], member, "{name}");
                        }
                        _ => {
                            let folded = ((network.0 >> 32) as u32 ^ network.0 as u32).to_be_bytes();
                            assert_eq!((bytes[0], &bytes[1..5]), (0xfc, &folded[..]), "{name}");
                            assert_eq!((&bytes[5..10], &bytes[10..]), (&member[..], &[0, 0, 0, 0, 0, 1][..]), "{name}");
                        }
                    }
                }
            }
            _ => unknown_kind(&c),
        }
    });
}

#[test]
fn vectors_dictionary() {
    family("dictionary", |_, c| {
        let (name, encoded) = (c.name(), c.hex("encoded"));
        match c.kind() {
            "build" => {
                let mut writer = DictionaryWriter::new();
                for entry in c.list("entries") {
                    let entry = Case(entry);
                    let (key, value) = (entry.str("key"), entry.str("value"));
                    match entry.str("type") {
                        "bytes" => writer.bytes(key, &unhex(value)),
                        "u64" => writer.u64(key, value.parse().expect(name)),
                        "i64" => writer.i64(key, value.parse().expect(name)),
                        "bool" => writer.bool(key, value == "true"),
                        "address" => writer.address(key, value.parse().expect(name)),
                        other => panic!("{name}: value type {other} is not known"),
                    };
                }
                if c.has("encoded_text") {
                    assert_eq!(encoded, c.str("encoded_text").as_bytes(), "{name}");
                }
                assert_eq!(writer.len(), encoded.len(), "{name}");
                assert_eq!(writer.finish(), encoded, "{name}");
            }
            "lookup" => {
                let dictionary = Dictionary::parse(&encoded).expect(name);
                let key = c.str("key");
                let value = dictionary.get(key);
                assert_eq!(value.is_some(), c.is("found"), "{name}");
                let Some(value) = value else {
                    assert_eq!((dictionary.u64(key), dictionary.i64(key), dictionary.bool(key)), (None, None, None));
                    return;
                };
                assert_eq!(value[..], c.hex("value"), "{name}");
                assert_eq!(dictionary.u64(key), Some(c.id("as_u64")), "{name}");
                assert_eq!(dictionary.i64(key), c.str("as_i64").parse().ok(), "{name}");
                assert_eq!(dictionary.bool(key), Some(c.is("as_bool")), "{name}");
                assert_eq!(dictionary.address(key), Some(Address::from_u64(c.id("as_u64"))), "{name}");
            }
            _ => unknown_kind(&c),
        }
    });
}

fn world_kind(number: usize) -> WorldKind {
    match number {
        0 => WorldKind::Null,
        1 => WorldKind::Planet,
        127 => WorldKind::Moon,
        other => panic!("world type {other}"),
    }
}

fn roots(c: &Case<'_>) -> Vec<Root> {
    let endpoint = |text: &Value| endpoint::from_text(text.as_str().expect("text")).expect("an endpoint");
    let root = |root: &Value| Root {
        identity: Case(root).identity("identity"),
        endpoints: Case(root).list("endpoints").iter().map(endpoint).collect(),
    };
    c.list("roots").iter().map(root).collect()
}

#[test]
fn vectors_world() {
    family("world", |_, c| {
        let name = c.name();
        match c.kind() {
            "make" => {
                let signer = {
                    let text = format!("0000000001:0:{}:{}", c.str("signing_public"), c.str("signing_private"));
                    text.parse::<SecretIdentity>().expect(name)
                };
                let (kind, id, timestamp) = (world_kind(c.num("type")), c.id("id"), c.num("timestamp") as u64);
                let world = World::make(kind, id, timestamp, c.array("updates_key"), roots(&c), &signer);
                assert_eq!(world.signed_bytes(), c.hex("signed_bytes"), "{name}");
                assert_eq!(world.signature.0[..], c.hex("signature"), "{name}");
                assert_eq!(world.to_bytes(), c.hex("serialized"), "{name}");
                assert!(world.verify(&c.array("signing_public")), "{name}");
                assert_eq!(World::parse(&c.hex("serialized")), Ok(world), "{name}");
            }
            "parse" => {
                let bytes = c.hex("in");
                let r = &mut Reader::new(&bytes);
                let world = match World::read(r) {
                    Ok(world) => world,
                    Err(Malformed { .. }) => return assert!(!c.is("ok") || c.marked("reject_ok"), "{name}"),
                };
                assert!(c.is("ok"), "{name}");
                assert_eq!(r.position(), c.num("consumed"), "{name}");
                assert_eq!(world.kind, world_kind(c.num("type")), "{name}");
                assert_eq!((world.id, world.timestamp), (c.id("id"), c.num("timestamp") as u64), "{name}");
                assert_eq!(world.update_key[..], c.hex("updates_key"), "{name}");
                assert_eq!(world.signature.0[..], c.hex("signature"), "{name}");
                assert_eq!(world.roots, roots(&c), "{name}");
                assert_eq!(world.is_self_signed(), c.is("self_signed"), "{name}");
                assert_eq!(World::parse(&bytes).is_ok(), r.is_empty(), "{name}");
                // A moon's attachment is skipped, and written back empty.
                let (back, attached) = (world.to_bytes(), if world.kind == WorldKind::Moon { 2 } else { 0 });
                assert!(bytes.starts_with(&back[..back.len() - attached]), "{name}");
                if name == "earth-2022" {
                    assert_eq!(bytes, DEFAULT_PLANET, "the planet in the house is the public one");
                }
            }
            "replace" => {
                let world = |key| World::read(&mut Reader::new(&c.hex(key))).expect(name);
                let current = (!c.str("current").is_empty()).then(|| world("current"));
                let candidate = world("candidate");
                assert_eq!(candidate.replaces(current.as_ref()), c.is("replace"), "{name}");
            }
            _ => unknown_kind(&c),
        }
    });
}

/// Reads with `read`, and compares what was consumed and what is written back with what the reference does.
fn check_parse<T>(
    c: &Case<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    write: impl FnOnce(&T, &mut Vec<u8>),
) -> Option<T> {
    let (name, bytes) = (c.name(), c.hex("in"));
    let r = &mut Reader::new(&bytes);
    let Ok(object) = read(r) else {
        assert!(!c.is("ok") || c.marked("reject_ok"), "{name}");
        return None;
    };
    assert!(c.is("ok") || c.marked("lenient_ok"), "{name}");
    assert_eq!(r.position(), c.num("consumed"), "{name}");
    let back = written(|out| write(&object, out));
    let expected = if c.has("reserialized") { c.hex("reserialized") } else { bytes[..c.num("consumed")].to_vec() };
    if back != expected {
        // Unknown rules are kept with their content, so that a capability verifies over the bytes it came in.
        assert_eq!((c.str("type"), back), ("capability", bytes), "{name}");
        assert!(c.str("why").contains("unknown rule"), "{name}");
    }
    Some(object)
}

/// A signed object: the recorded bytes parse, verify and come back; signing the unsigned object gives the same bytes;
/// nobody else's signature and no changed byte of the signed part is accepted.
fn check_signed<T: Clone + PartialEq + std::fmt::Debug>(
    c: &Case<'_>,
    controller: &SecretIdentity,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
    write: impl Fn(&T, &mut Vec<u8>),
    signed_bytes: impl Fn(&T) -> Vec<u8>,
    sign: impl Fn(&mut T, &SecretIdentity),
    verify: impl Fn(&T, &Identity) -> bool,
) -> T {
    let (name, serialized) = (c.name(), c.hex("serialized"));
    let r = &mut Reader::new(&serialized);
    let object = read(r).expect(name);
    assert!(r.is_empty(), "{name}");
    assert_eq!(written(|out| write(&object, out)), serialized, "{name}");
    assert_eq!(signed_bytes(&object), c.hex("signed_bytes"), "{name}");
    assert_eq!(verify(&object, controller.public()), c.has("signature"), "{name}");
    if c.has("signature") {
        let mut again = object.clone();
        sign(&mut again, controller);
        assert_eq!(again, object, "{name}: signing is deterministic");
        let stranger = Identity::from_parts(Address::from_u64(7), *controller.public().public_key());
        assert!(!verify(&object, &stranger), "{name}: only the controller's signature counts");
    }
    object
}

#[test]
fn vectors_credentials() {
    family("credentials", |file, c| {
        let (name, head) = (c.name(), Case(file));
        let controller = head.secret("controller_secret");
        let holders = [head.secret("member_secret"), head.secret("member2_secret")];
        match c.kind() {
            "rule" => {
                let bytes = c.hex("bytes");
                let r = &mut Reader::new(&bytes);
                let rule = Rule::read(r).expect(name);
                assert!(r.is_empty(), "{name}");
                assert_eq!((rule.not, rule.or), (c.is("not"), c.is("or")), "{name}");
                assert_eq!(usize::from(rule.kind.code()), c.num("rule_type"), "{name}");
                assert_eq!(usize::from(bytes[0]), c.num("type_byte"), "{name}");
                assert_eq!(written(|out| rule.write(out)), bytes, "{name}");
            }
            "com" => {
                let com =
                    check_signed(&c, &controller, Com::read, Com::write, Com::signed_bytes, Com::sign, Com::verify);
                let qualifier = |q: &Value| {
                    let q = Case(q);
                    Qualifier { id: q.num("id") as u64, value: q.id("value"), max_delta: q.id("max_delta") }
                };
                let qualifiers: Vec<_> = c.list("qualifiers").iter().map(qualifier).collect();
                // Some cases list only the first qualifiers.
                assert!(com.qualifiers.starts_with(&qualifiers), "{name}");
                assert_eq!(com.signer, c.address("signed_by"), "{name}");
                let unsigned = Com { signer: Address::ZERO, signature: None, ..com.clone() };
                assert_eq!(written(|out| unsigned.write(out)).len(), 8 + 24 * com.qualifiers.len(), "{name}");
                if c.has("unsigned") {
                    assert_eq!(written(|out| unsigned.write(out)), c.hex("unsigned"), "{name}");
                }
                let holder = holders.iter().find(|h| h.public().address() == com.issued_to());
                if let (7, Some(holder)) = (com.qualifiers.len(), holder) {
                    let max_delta = com.qualifiers[0].max_delta;
                    assert_eq!(
                        Com::new(com.network(), holder.public(), com.timestamp(), max_delta),
                        unsigned,
                        "{name}"
                    );
                }
            }
            "com_agree" => {
                let com = |key| Com::read(&mut Reader::new(&c.hex(key))).expect(name);
                let agrees = com("mine").agrees_with(&com("theirs"), &c.identity("their_identity"));
                assert_eq!(agrees, c.is("agrees"), "{name}: {}", c.str("why"));
            }
            "tag" => {
                let tag =
                    check_signed(&c, &controller, Tag::read, Tag::write, Tag::signed_bytes, Tag::sign, Tag::verify);
                assert_eq!(tag.network, head.network("network_id"), "{name}");
                assert_eq!((tag.id as usize, tag.value as usize), (c.num("id"), c.num("value")), "{name}");
                assert_eq!(
                    (tag.timestamp, tag.issued_to),
                    (c.num("timestamp") as i64, c.address("issued_to")),
                    "{name}"
                );
            }
            "revocation" => {
                let revocation = check_signed(
                    &c,
                    &controller,
                    Revocation::read,
                    Revocation::write,
                    Revocation::signed_bytes,
                    Revocation::sign,
                    Revocation::verify,
                );
                let expected = Revocation {
                    id: c.num("id") as u32,
                    network: head.network("network_id"),
                    credential_id: c.num("credential_id") as u32,
                    threshold: c.num("threshold") as i64,
                    flags: c.num("flags") as u64,
                    target: c.address("target"),
                    signer: controller.public().address(),
                    kind: c.num("credential_type") as u8,
                    signature: Some(Signature(c.array("signature"))),
                };
                assert_eq!(revocation, expected, "{name}");
            }
            "coo" => {
                let ownership = check_signed(
                    &c,
                    &controller,
                    Ownership::read,
                    Ownership::write,
                    Ownership::signed_bytes,
                    Ownership::sign,
                    Ownership::verify,
                );
                assert_eq!((ownership.id as usize, ownership.flags), (c.num("id"), c.num("flags") as u64), "{name}");
                assert_eq!(ownership.timestamp, c.num("timestamp") as i64, "{name}");
                assert_eq!(ownership.issued_to, c.address("issued_to"), "{name}");
                for thing in c.list("things") {
                    let value = Case(thing).hex("value");
                    let thing = match Case(thing).num("type") {
                        1 => Thing::from(Mac(value.try_into().expect(name))),
                        2 => IpAddr::from(<[u8; 4]>::try_from(value).expect(name)).into(),
                        _ => IpAddr::from(<[u8; 16]>::try_from(value).expect(name)).into(),
                    };
                    assert!(ownership.owns(thing), "{name}");
                }
                assert!(!ownership.owns(Mac::BROADCAST), "{name}");
            }
            "capability" => check_capability(&c, &controller, &holders),
            "parse" => match c.str("type") {
                "com" => {
                    if let Some(com) = check_parse(&c, Com::read, Com::write) {
                        assert_eq!(com.qualifiers.len(), c.num("qualifiers"), "{name}");
                    }
                }
                "tag" => drop(check_parse(&c, Tag::read, Tag::write)),
                "capability" => drop(check_parse(&c, Capability::read, Capability::write)),
                "revocation" => drop(check_parse(&c, Revocation::read, Revocation::write)),
                "coo" => drop(check_parse(&c, Ownership::read, Ownership::write)),
                other => panic!("{name}: object {other} is not known"),
            },
            _ => unknown_kind(&c),
        }
    });
}

fn check_capability(c: &Case<'_>, controller: &SecretIdentity, holders: &[SecretIdentity]) {
    let (name, serialized) = (c.name(), c.hex("serialized"));
    let r = &mut Reader::new(&serialized);
    let capability = Capability::read(r).expect(name);
    assert!(r.is_empty(), "{name}");
    assert_eq!((capability.id as usize, capability.timestamp), (c.num("id"), c.num("timestamp") as i64), "{name}");
    assert_eq!(usize::from(capability.max_custody), c.num("max_custody"), "{name}");
    assert_eq!(capability.rules.rules().len(), c.num("rule_count"), "{name}");
    assert_eq!(capability.signed_bytes(), c.hex("signed_bytes"), "{name}");
    assert_eq!(written(|out| capability.write(out)), serialized, "{name}");
    if c.has("issued_to") {
        assert_eq!(capability.issued_to(), c.address("issued_to"), "{name}");
    }
    if c.has("chain") {
        let link = |l: &Custody| Value::from(format!("{}>{}", l.from, l.to));
        assert_eq!(capability.custody.iter().map(link).collect::<Vec<_>>(), c.list("chain"), "{name}");
    }

    let known: HashMap<Address, &Identity> =
        holders.iter().chain([controller]).map(|secret| (secret.public().address(), secret.public())).collect();
    let verdict = capability.verify(|a| known.get(&a).copied());
    assert_eq!(verdict.is_ok(), !capability.custody.is_empty(), "{name}: {verdict:?}");
    assert!(capability.verify(|_| None).is_err(), "{name}");
    let mut altered = capability.clone();
    altered.id = altered.id.wrapping_add(1);
    assert!(altered.verify(|a| known.get(&a).copied()).is_err(), "{name}");

    let mut again = Capability { custody: Vec::new(), ..capability.clone() };
    for link in &capability.custody {
        let by = holders.iter().chain([controller]).find(|s| s.public().address() == link.from).expect(name);
        assert!(again.sign(by, link.to), "{name}");
    }
    assert_eq!(again, capability, "{name}: signing is deterministic");
}

#[test]
fn vectors_configchunk() {
    family("configchunk", |file, c| {
        let (name, payload) = (c.name(), c.hex("payload"));
        let controller = Case(file).secret("controller_secret");
        assert_eq!(controller.public(), &Case(file).identity("controller"));
        let Ok(chunk) = ConfigChunk::parse(&payload) else {
            return assert!(!c.is("ok"), "{name}");
        };
        assert_eq!(written(|out| chunk.write(out)), payload, "{name}");
        assert_eq!(chunk.data.len(), c.num("chunk_length"), "{name}");
        assert_eq!(chunk.signed_bytes(), payload[..c.num("signed_length")], "{name}");
        assert_eq!(chunk.verify(controller.public()), c.is("ok"), "{name}: {}", c.str("why"));
        if c.is("ok") {
            let mut again = ConfigChunk { signature: None, ..chunk.clone() };
            again.sign(&controller);
            assert_eq!(again, chunk, "{name}: signing is deterministic");
            let legacy = &payload[..10 + chunk.data.len()];
            let unsigned = ConfigChunk::parse(legacy).expect(name);
            assert_eq!((unsigned.data, unsigned.signature.is_none()), (chunk.data, true), "{name}");
            assert!(!unsigned.verify(controller.public()), "{name}");
            assert_eq!(written(|out| unsigned.write(out)), legacy, "{name}");
        }
        let signature = &payload[payload.len() - 96..];
        let folded: Vec<u8> = (0..8).map(|i| signature[i] ^ signature[i + 8]).collect();
        assert_eq!(folded, c.hex("dedup_id"), "{name}");
    });
}

/// The nodes of a file by address.
fn secrets(file: &Value) -> HashMap<Address, SecretIdentity> {
    let nodes = file["nodes"].as_object().expect("nodes");
    let secret = |node: &Value| Case(node).secret("secret");
    nodes.values().map(secret).map(|secret| (secret.public().address(), secret)).collect()
}

#[test]
fn vectors_hello() {
    family("hello", |file, c| {
        let (name, mut packet) = (c.name(), c.hex("wire"));
        let keys = Keys::new(SharedKey::from_bytes(c.array("agreed_key")));
        keys.open(&mut packet).expect(name);
        let header = Packet::new(&packet[..]).expect(name);
        match c.kind() {
            "hello" => {
                assert_eq!(header.payload(), c.hex("payload_on_wire"), "{name}");
                let hello = Hello::parse(header.payload()).expect(name);
                assert_eq!(hello.tail, c.hex("tail_on_wire"), "{name}");
                assert_eq!(header.payload().len() - hello.tail.len(), c.num("crypt_at"), "{name}");
                assert_eq!(text_of(hello.sent_to), c.str("physical_destination"), "{name}");
                let mut tail = hello.tail.to_vec();
                keys.obscure_hello_tail(header.id(), &mut tail);
                assert_eq!(tail, c.hex("tail_clear"), "{name}");
                check_layout(&c, Verb::Hello, &c.hex("payload"));
                assert_eq!(written(|out| hello.write(out)), header.payload(), "{name}");
            }
            "ok_hello" => {
                assert_eq!(header.payload(), c.hex("payload"), "{name}");
                let ok = OkMessage::parse(header.payload()).expect(name);
                assert_eq!(ok.in_re.verb(), Some(Verb::Hello), "{name}");
                let hello = OkHello::parse(ok.body).expect(name);
                let heads = [Case(file).hex("planet"), Case(file).hex("moon")];
                for world in hello.worlds() {
                    let world = world.expect(name);
                    assert!(world.is_self_signed(), "{name}");
                    assert!(heads.contains(&world.to_bytes()), "{name}");
                }
                check_layout(&c, Verb::Ok, header.payload());
            }
            _ => unknown_kind(&c),
        }
    });
}

/// The packet that a case sent: decrypted with the keys of its ends, decompressed, as (packet, payload).
fn open_captured(c: &Case<'_>, nodes: &HashMap<Address, SecretIdentity>, trusted_path: u64) -> (Vec<u8>, Vec<u8>) {
    let name = c.name();
    let mut packet = c.hex("wire");
    if c.has("datagrams") {
        let mut reassembler = Reassembler::new(0);
        let mut whole = None;
        for datagram in c.datagrams("datagrams") {
            assert!(whole.is_none(), "{name}: complete before its last datagram");
            whole = match classify(&datagram) {
                Datagram::Head => reassembler.head(Now::default(), (), &datagram),
                Datagram::Fragment => reassembler.fragment(Now::default(), (), &datagram),
                other => panic!("{name}: {other:?}"),
            };
        }
        assert_eq!(whole.as_ref(), Some(&packet), "{name}: reassembled");
    }

    let sealed = Packet::new(&packet[..]).expect(name);
    let (source, destination) = (sealed.source(), sealed.destination());
    assert_eq!((source, destination), (c.address("source"), c.address("destination")), "{name}");
    assert_eq!(sealed.id(), c.id("packet_id"), "{name}");
    assert_eq!(usize::from(sealed.hops()), c.num("hops"), "{name}");
    assert_eq!(sealed.fragmented(), c.has("datagrams"), "{name}");
    assert_eq!(sealed.suite().map(|s| s as usize), Some(c.num("suite")), "{name}");
    match sealed.suite() {
        Some(Suite::TrustedPath) => assert_eq!(sealed.trusted_path(), trusted_path, "{name}"),
        _ => {
            let shared = nodes[&destination].agree(nodes[&source].public()).expect(name);
            Keys::new(shared).open(&mut packet).expect(name);
        }
    }

    let opened = Packet::new(&packet[..]).expect(name);
    assert_eq!(usize::from(opened.verb_number()), c.num("verb"), "{name}");
    assert_eq!(opened.compressed(), c.marked("compressed"), "{name}");
    let mut payload = Vec::new();
    if opened.compressed() {
        decompress(opened.payload(), &mut payload).expect(name);
    } else {
        payload.extend_from_slice(opened.payload());
    }
    (packet, payload)
}

#[test]
fn vectors_verbs() {
    let mut seen = std::collections::BTreeSet::new();
    family("verbs", |file, c| {
        let name = c.name();
        if c.kind() == "raw_datagram" {
            return assert_eq!(classify(&c.hex("wire")), Datagram::Ignored, "{name}");
        }
        let verb = Verb::from_u8(c.num("verb") as u8).expect(name);
        assert_eq!(verb.name(), c.str("verb_name"), "{name}");
        seen.insert(verb);
        match c.kind() {
            "captured" => {
                let nodes = secrets(file);
                let (packet, mut payload) = open_captured(&c, &nodes, Case(file).id("trusted_path_id"));
                if verb == Verb::Hello {
                    assert_eq!(payload, c.hex("payload_on_wire"), "{name}");
                    let id = Packet::new(&packet[..]).expect(name).id();
                    let tail_at = payload.len() - Hello::parse(&payload).expect(name).tail.len();
                    let shared = nodes[&c.address("destination")].agree(nodes[&c.address("source")].public());
                    Keys::new(shared.expect(name)).obscure_hello_tail(id, &mut payload[tail_at..]);
                }
                assert_eq!(payload, c.hex("payload"), "{name}");
            }
            "constructed" => {}
            _ => unknown_kind(&c),
        }
        let payload = c.hex("payload");
        check_layout(&c, verb, &payload);
        if !has_skipped_parts(&c) {
            assert_eq!(rewritten(verb, &payload).expect(name), payload, "{name}: written back");
        }
    });
    println!("verbs seen: {}", seen.iter().map(|v| v.name()).collect::<Vec<_>>().join(" "));
}

/// Parses a payload with the type of its verb and writes it back.
fn rewritten(verb: Verb, payload: &[u8]) -> Result<Vec<u8>, Malformed> {
    let out = &mut Vec::new();
    match verb {
        Verb::Nop => {}
        Verb::Hello => {
            let hello = Hello::parse(payload)?;
            hello.write(out);
        }
        Verb::Error => ErrorMessage::parse(payload)?.write(out),
        Verb::Ok => {
            let ok = OkMessage::parse(payload)?;
            OkMessage { body: &[], ..ok }.write(out);
            match ok.in_re.verb() {
                Some(Verb::Hello) => OkHello::parse(ok.body)?.write(out),
                Some(Verb::Whois) => OkWhois::parse(ok.body)?.write(out),
                Some(Verb::ExtFrame) => OkExtFrame::parse(ok.body)?.write(out),
                Some(Verb::NetworkConfigRequest) => ConfigChunk::parse(ok.body)?.write(out),
                Some(Verb::MulticastGather) => OkGather::parse(ok.body)?.write(out),
                Some(Verb::NetworkConfig) => OkNetworkConfig::parse(ok.body)?.write(out),
                Some(Verb::MulticastFrame) => OkMulticastFrame::parse(ok.body)?.write(out),
                _ => Echo::parse(ok.body)?.write(out),
            }
        }
        Verb::Whois => Whois::parse(payload)?.write(out),
        Verb::Rendezvous => Rendezvous::parse(payload)?.write(out),
        Verb::Frame => Frame::parse(payload)?.write(out),
        Verb::ExtFrame => ExtFrame::parse(payload)?.write(out),
        Verb::Echo => Echo::parse(payload)?.write(out),
        Verb::MulticastLike => {
            for like in Like::records(payload) {
                like?.write(out);
            }
        }
        Verb::NetworkCredentials => Credentials::parse(payload)?.write(out),
        Verb::NetworkConfigRequest => ConfigRequest::parse(payload)?.write(out),
        Verb::NetworkConfig => ConfigChunk::parse(payload)?.write(out),
        Verb::MulticastGather => Gather::parse(payload)?.write(out),
        Verb::MulticastFrame => MulticastFrame::parse(payload)?.write(out),
        Verb::PushDirectPaths => {
            PathRecord::write_all(&PathRecord::records(payload).collect::<Result<Vec<_>, _>>()?, out);
        }
        Verb::Ack => Ack::parse(payload)?.write(out),
        Verb::QosMeasurement => QosMeasurement::parse(payload)?.write(out),
        Verb::UserMessage => UserMessage::parse(payload)?.write(out),
        Verb::RemoteTrace => RemoteTrace::parse(payload)?.write(out),
        Verb::PathNegotiationRequest => PathNegotiation::parse(payload)?.write(out),
    }
    Ok(std::mem::take(out))
}

/// What our types make of a payload, field by field, in the words of the vectors.
#[derive(Default)]
struct Layout {
    at: usize,
    fields: Vec<(String, usize, usize, Value)>,
}

impl Layout {
    /// The next field; one without bytes is left out.
    fn put(&mut self, field: &str, len: usize, value: impl Into<Value>) {
        if len > 0 {
            self.fields.push((field.to_owned(), self.at, len, value.into()));
        }
        self.at += len;
    }

    fn id(&mut self, field: &str, value: u64) {
        self.put(field, 8, format!("{value:016x}"));
    }

    fn bytes(&mut self, field: &str, value: &[u8]) {
        self.put(field, value.len(), hex::encode(value));
    }

    fn network(&mut self, network: NetworkId) {
        self.id("network_id", network.0);
    }

    fn address(&mut self, field: &str, address: Address) {
        self.put(field, 5, address.to_string());
    }

    fn mac(&mut self, field: &str, mac: Mac) {
        self.bytes(field, &mac.0);
    }

    fn group(&mut self, group: MulticastGroup) {
        self.mac("group_mac", group.mac);
        self.put("group_adi", 4, format!("{:08x}", group.adi));
    }

    fn com(&mut self, com: Option<&Com>) {
        if let Some(com) = com {
            self.bytes("com", &written(|out| com.write(out)));
        }
    }

    fn endpoint(&mut self, field: &str, endpoint: Option<SocketAddr>) {
        let len = endpoint.map_or(1, |e| if e.is_ipv4() { 7 } else { 19 });
        self.put(field, len, text_of(endpoint));
    }

    fn version(&mut self, v: Version) {
        self.put("protocol_version", 1, v.protocol);
        self.put("major", 1, v.major);
        self.put("minor", 1, v.minor);
        self.put("revision", 2, v.revision);
    }

    fn in_re(&mut self, in_re: InRe) {
        self.put("in_re_verb", 1, in_re.verb);
        self.id("in_re_packet_id", in_re.packet_id);
    }

    fn chunk(&mut self, chunk: &ConfigChunk<'_>) {
        let start = self.at;
        self.network(chunk.network);
        self.put("chunk_length", 2, chunk.data.len());
        self.bytes("chunk", chunk.data);
        self.put("flags", 1, chunk.flags);
        self.id("config_update_id", chunk.update_id);
        self.put("total_length", 4, chunk.total);
        self.put("chunk_index", 4, chunk.index);
        let region = ("signed_region".to_owned(), start, chunk.signed_bytes().len());
        assert_eq!(region.1 + region.2, self.at);
        self.fields.push((region.0, region.1, region.2, json!("(from network_id through chunk_index)")));
        self.put("signature_type", 1, 1);
        self.put("signature_length", 2, 96);
        self.bytes("signature", &chunk.signature.as_ref().expect("a signed chunk").0);
    }

    fn gathered(&mut self, gathered: &Gathered) {
        self.put("total_known", 4, gathered.total);
        self.put("count", 2, gathered.members.len());
        gathered.members.iter().for_each(|&member| self.address("member", member));
    }

    fn credentials<T>(&mut self, count: &str, field: &str, items: &[T], write: impl Fn(&T, &mut Vec<u8>)) {
        self.put(count, 2, items.len());
        items.iter().for_each(|item| self.bytes(field, &written(|out| write(item, out))));
    }

    fn frame(&mut self, ethertype: u16, payload: &[u8]) {
        self.put("ethertype", 2, ethertype);
        self.bytes("frame", payload);
    }
}

fn layout_of(verb: Verb, payload: &[u8]) -> Result<Layout, Malformed> {
    let mut l = Layout::default();
    match verb {
        Verb::Nop => {}
        Verb::Hello => {
            let hello = Hello::parse(payload)?;
            l.version(hello.version);
            l.put("timestamp", 8, hello.timestamp);
            l.put("identity", 71, hello.identity.to_string());
            l.endpoint("destination_physical_address", hello.sent_to);
            if let Some(planet) = hello.planet {
                l.id("planet_world_id", planet.id);
                l.put("planet_timestamp", 8, planet.timestamp);
            }
            if hello.tail.is_empty() {
                return Ok(l);
            }
            l.fields.push(("(encrypted from here)".to_owned(), l.at, hello.tail.len(), json!("")));
            let tail = HelloTail::parse(hello.tail)?;
            l.put("moon_count", 2, tail.moons.len());
            for moon in tail.moons {
                l.put("moon_type", 1, 127);
                l.id("moon_id", moon.id);
                l.put("moon_timestamp", 8, moon.timestamp);
            }
        }
        Verb::Error => {
            let error = ErrorMessage::parse(payload)?;
            l.in_re(error.in_re);
            l.put("error_code", 1, error.code.number());
            if let Some(network) = error.code.network() {
                l.network(network);
            }
            match error.code {
                ErrorCode::UnwantedMulticast(_, group) => l.group(group),
                ErrorCode::NetworkAuthenticationRequired(_, dictionary) => {
                    l.put("error_data_length", 2, dictionary.len());
                    let text = printable(dictionary);
                    let entry = ("error_data_text".to_owned(), l.at, dictionary.len(), json!(text));
                    l.bytes("error_data", dictionary);
                    l.fields.push(entry);
                }
                _ => {}
            }
        }
        Verb::Ok => {
            let ok = OkMessage::parse(payload)?;
            l.in_re(ok.in_re);
            match ok.in_re.verb() {
                Some(Verb::Hello) => {
                    let hello = OkHello::parse(ok.body)?;
                    l.put("timestamp_echo", 8, hello.timestamp);
                    l.version(hello.version);
                    l.endpoint("your_physical_address", hello.seen_from);
                    l.put("worlds_length", 2, hello.worlds.len());
                    for world in hello.worlds() {
                        l.bytes("world", &world?.to_bytes());
                    }
                }
                Some(Verb::Whois) => {
                    let identities = OkWhois::parse(ok.body)?.identities;
                    identities.iter().for_each(|identity| l.put("identity", 71, identity.to_string()));
                }
                Some(Verb::ExtFrame) => l.network(OkExtFrame::parse(ok.body)?.network),
                Some(Verb::NetworkConfigRequest) => l.chunk(&ConfigChunk::parse(ok.body)?),
                Some(Verb::MulticastGather) => {
                    let gather = OkGather::parse(ok.body)?;
                    l.network(gather.network);
                    l.group(gather.group);
                    l.gathered(&gather.gathered);
                }
                Some(Verb::MulticastFrame) => {
                    let frame = OkMulticastFrame::parse(ok.body)?;
                    l.network(frame.network);
                    l.group(frame.group);
                    let flags = u8::from(frame.com.is_some()) | u8::from(frame.gathered.is_some()) << 1;
                    l.put("flags", 1, flags);
                    l.com(frame.com.as_ref());
                    frame.gathered.iter().for_each(|gathered| l.gathered(gathered));
                }
                // OK for NETWORK_CONFIG claims to answer an ECHO, so it is found here too.
                _ => l.bytes("echoed_payload", Echo::parse(ok.body)?.content),
            }
        }
        Verb::Whois => Whois::parse(payload)?.addresses.into_iter().for_each(|a| l.address("address", a)),
        Verb::Rendezvous => {
            let rendezvous = Rendezvous::parse(payload)?;
            let endpoint = rendezvous.endpoint.ok_or(Malformed { what: "no endpoint" })?;
            let len = if endpoint.is_ipv4() { 4 } else { 16 };
            l.put("flags", 1, rendezvous.flags);
            l.address("peer_address", rendezvous.peer);
            l.put("port", 2, endpoint.port());
            l.put("address_length", 1, len);
            l.put("ip", len, endpoint::to_text(endpoint));
        }
        Verb::Frame => {
            let frame = Frame::parse(payload)?;
            l.network(frame.network);
            l.frame(frame.ethertype, frame.payload);
        }
        Verb::ExtFrame => {
            let frame = ExtFrame::parse(payload)?;
            l.network(frame.network);
            l.put("flags", 1, frame.flags);
            l.com(frame.com.as_ref());
            l.mac("dest_mac", frame.to);
            l.mac("source_mac", frame.from);
            l.frame(frame.ethertype, frame.payload);
            if frame.copy() != Some(FrameCopy::Normal) {
                assert_eq!(frame.copy().map(FrameCopy::flags), Some(frame.flags));
            }
        }
        Verb::Echo => {
            l.bytes("payload", Echo::parse(payload)?.content);
        }
        Verb::MulticastLike => {
            for like in Like::records(payload) {
                let like = like?;
                l.network(like.network);
                l.group(like.group);
            }
        }
        Verb::NetworkCredentials => {
            let all = Credentials::parse(payload)?;
            all.coms.iter().for_each(|com| l.com(Some(com)));
            l.put("com_terminator", 1, 0);
            l.credentials("capability_count", "capability", &all.capabilities, Capability::write);
            l.credentials("tag_count", "tag", &all.tags, Tag::write);
            l.credentials("revocation_count", "revocation", &all.revocations, Revocation::write);
            l.credentials("ownership_count", "ownership", &all.ownerships, Ownership::write);
        }
        Verb::NetworkConfigRequest => {
            let request = ConfigRequest::parse(payload)?;
            l.network(request.network);
            l.put("metadata_length", 2, request.metadata.len());
            l.put("metadata", request.metadata.len(), printable(request.metadata));
            l.put("have_revision", 8, request.revision);
            l.put("have_timestamp", 8, request.timestamp);
        }
        Verb::NetworkConfig => l.chunk(&ConfigChunk::parse(payload)?),
        Verb::MulticastGather => {
            let gather = Gather::parse(payload)?;
            l.network(gather.network);
            l.put("flags", 1, u8::from(gather.com.is_some()));
            l.group(gather.group);
            l.put("gather_limit", 4, gather.limit);
            l.com(gather.com.as_ref());
        }
        Verb::MulticastFrame => {
            let frame = MulticastFrame::parse(payload)?;
            l.network(frame.network);
            l.put("flags", 1, payload[8]);
            l.com(frame.com.as_ref());
            frame.gather_limit.iter().for_each(|&limit| l.put("gather_limit", 4, limit));
            frame.from.iter().for_each(|&from| l.mac("source_mac", from));
            l.group(frame.group);
            l.frame(frame.ethertype, frame.payload);
        }
        Verb::PushDirectPaths => {
            let records: Vec<_> = PathRecord::records(payload).collect::<Result<_, _>>()?;
            l.put("path_count", 2, records.len());
            for record in records {
                let len = if record.endpoint.is_ipv4() { 6 } else { 18 };
                l.put("path_flags", 1, record.flags);
                l.put("extension_length", 2, 0);
                l.put("address_type", 1, if record.endpoint.is_ipv4() { 4 } else { 6 });
                l.put("address_length", 1, len);
                l.put("address", len, endpoint::to_text(record.endpoint));
            }
        }
        Verb::Ack => l.put("acked_bytes", 4, Ack::parse(payload)?.bytes),
        Verb::QosMeasurement => {
            for record in QosMeasurement::parse(payload)?.records {
                l.id("packet_id_le", record.packet_id);
                l.put("holding_time_ms_le", 2, record.holding_ms);
            }
        }
        Verb::UserMessage => {
            let message = UserMessage::parse(payload)?;
            l.id("type_id", message.kind);
            l.bytes("message", message.content);
        }
        Verb::RemoteTrace => {
            for dictionary in RemoteTrace::parse(payload)?.dictionaries {
                l.put("dictionary", dictionary.len(), printable(dictionary));
                l.at += 1;
            }
        }
        Verb::PathNegotiationRequest => l.put("utility", 2, PathNegotiation::parse(payload)?.utility),
    }
    Ok(l)
}

/// Our reading of a payload is the recorded one, field by field, and covers all of it.
fn check_layout(c: &Case<'_>, verb: Verb, payload: &[u8]) {
    let name = if c.has("name") { c.name() } else { verb.name() };
    let ours = layout_of(verb, payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    let theirs: Vec<_> = c
        .list("layout")
        .iter()
        .map(|entry| {
            let e = Case(entry);
            (e.str("field").to_owned(), e.num("at"), e.num("len"), e.get("value").clone())
        })
        .filter(|field| field.2 > 0)
        .collect();
    if has_skipped_parts(c) {
        let text = |record: PathRecord| (json!(record.flags), json!(endpoint::to_text(record.endpoint)));
        let records = PathRecord::records(payload).map(|record| record.map(text));
        return assert_eq!(records.collect::<Result<Vec<_>, _>>(), Ok(recorded_paths(&theirs)), "{name}");
    }
    let trailing_nul = usize::from(verb == Verb::RemoteTrace && ours.at > payload.len());
    assert_eq!(ours.at - trailing_nul, payload.len(), "{name}: bytes accounted for");
    assert_eq!(ours.fields, theirs, "{name}");
}

/// Pushed paths with extensions or of unknown types, which are skipped, not kept.
fn has_skipped_parts(c: &Case<'_>) -> bool {
    c.list("layout").iter().map(Case).any(|field| match field.str("field") {
        "extension" => true,
        "address_type" => ![4, 6].contains(&field.num("value")),
        _ => false,
    })
}

/// Flags and address of the recorded paths whose address type is known.
fn recorded_paths(layout: &[(String, usize, usize, Value)]) -> Vec<(Value, Value)> {
    let values = |field: &str| layout.iter().filter(move |f| f.0 == field).map(|f| f.3.clone()).collect::<Vec<_>>();
    let (flags, kinds, addresses) = (values("path_flags"), values("address_type"), values("address"));
    let records = flags.into_iter().zip(kinds).zip(addresses);
    records.filter(|((_, kind), _)| *kind == json!(4) || *kind == json!(6)).map(|((f, _), a)| (f, a)).collect()
}

#[test]
fn vectors_receiver() {
    family("receiver", |file, c| {
        if c.kind() != "stimulus" {
            unknown_kind(&c);
        }
        let mut secrets = secrets(file);
        for secret in file["peers"].as_object().expect("peers").values() {
            let secret: SecretIdentity = secret.as_str().expect("text").parse().expect("a secret identity");
            secrets.entry(secret.public().address()).or_insert(secret);
        }
        for stimulus in c.list("stimulus") {
            let mut packet = Case(stimulus).hex("wire");
            check_stimulus(&mut packet, &secrets);
        }
        let name = c.name();
        for reply in c.list("replies").iter().map(Case) {
            if !reply.has("payload") {
                continue;
            }
            let verb = Verb::from_u8(reply.num("verb") as u8).expect(name);
            let payload = reply.hex("payload");
            if verb == Verb::Hello {
                Hello::parse(&payload).expect(name);
            } else {
                if reply.has("layout") {
                    check_layout(&reply, verb, &payload);
                }
                assert_eq!(rewritten(verb, &payload).as_deref(), Ok(&payload[..]), "{name}");
            }
        }
    });
}

/// What a stimulus says on purpose may be malformed; our types read it or refuse it, and never panic.
fn check_stimulus(datagram: &mut [u8], secrets: &HashMap<Address, SecretIdentity>) {
    if classify(datagram) != Datagram::Head {
        return;
    }
    let Ok(header) = Packet::new(&*datagram) else { return };
    let (Some(to), Some(from)) = (secrets.get(&header.destination()), secrets.get(&header.source())) else { return };
    if header.fragmented() {
        return;
    }
    let Some(shared) = to.agree(from.public()) else { return };
    if Keys::new(shared).open(datagram).is_err() {
        return;
    }
    let Ok(opened) = Packet::new(&*datagram) else { return };
    let Some(verb) = Verb::from_u8(opened.verb_number()) else { return };
    let _ = rewritten(verb, opened.payload());
    let _ = layout_of(verb, opened.payload());
}
