//! One harness for every parser of payloads and what is in them: nothing may panic, whatever comes, and what is read
//! and written again is read the same. As ordinary tests they run a bounded number of inputs, random ones and recorded
//! ones with damage; `cargo bolero test` runs the same harnesses under a fuzzer.

mod common;

use std::fmt::Debug;

use common::{Case, files};
use serde_json::Value;
use wire::chunk::ConfigChunk;
use wire::credential::{Capability, Com, Ownership, Revocation, Tag};
use wire::dictionary::Dictionary;
use wire::endpoint;
use wire::icmp::Unreachable;
use wire::message::*;
use wire::raw::{Beacon, TcpGreeting, TcpRelayed, tcp_record};
use wire::rule::{NET_MAX_RULES, Rule, RuleTable};
use wire::{DEFAULT_PLANET, Malformed, Reader, Verb, World};

/// Inputs per harness and kind of input.
const ITERATIONS: usize = 4000;
/// Longest random input, bytes.
const MAX_LEN: usize = 1500;
/// Damage done to a recorded input at most.
const MAX_EDITS: usize = 6;

/// Feeds `harness` with random bytes, then with damaged copies of `seeds`.
fn fuzz(seeds: &[Vec<u8>], harness: impl Fn(&[u8])) {
    let harness = std::panic::AssertUnwindSafe(harness);
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_max_len(2 * MAX_LEN)
        .with_generator(bolero::produce::<Vec<u8>>().with().len(0..=MAX_LEN))
        .for_each(|bytes: &Vec<u8>| harness(bytes));
    if seeds.is_empty() {
        return;
    }
    seeds.iter().for_each(|seed| harness(seed));
    let edits = bolero::produce::<Vec<(u16, u8)>>().with().len(0..=MAX_EDITS);
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_generator((bolero::produce::<u16>(), bolero::produce::<u16>(), edits))
        .for_each(|(which, cut, edits): &(u16, u16, Vec<(u16, u8)>)| {
            let mut bytes = seeds[usize::from(*which) % seeds.len()].clone();
            for (at, byte) in edits.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = usize::from(*at) % bytes.len();
                bytes[at] = *byte;
            }
            // Every other input is cut short.
            if cut & 1 == 0 {
                bytes.truncate(usize::from(cut / 2) % (bytes.len() + 1));
            }
            harness(&bytes);
        });
}

/// What is read and written is read the same.
fn stable<'a, T: PartialEq + Debug>(
    bytes: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<T, Malformed>,
    write: impl Fn(&T, &mut Vec<u8>),
    again: impl Fn(&[u8], &T) -> bool,
) {
    let Ok(read) = parse(bytes) else { return };
    let mut out = Vec::new();
    write(&read, &mut out);
    assert!(again(&out, &read), "{read:?} does not survive {}", hex::encode(&out));
}

macro_rules! stable {
    ($bytes:expr, $type:ident) => {
        stable($bytes, $type::parse, |m, out| m.write(out), |bytes, m| $type::parse(bytes).as_ref() == Ok(m))
    };
    ($bytes:expr, read $type:ident) => {
        stable(
            $bytes,
            |bytes| $type::read(&mut Reader::new(bytes)),
            |m, out| m.write(out),
            |bytes, m| $type::read(&mut Reader::new(bytes)).as_ref() == Ok(m),
        )
    };
}

/// Recorded payloads of a verb.
fn payloads(verb: Verb) -> Vec<Vec<u8>> {
    recorded("verbs", "payload", |c| c.num("verb") == verb as usize)
}

/// Recorded OK bodies, without the reply prefix.
fn ok_bodies(in_re: &[Verb]) -> Vec<Vec<u8>> {
    let answers = |payload: &Vec<u8>| in_re.iter().any(|&verb| payload.first() == Some(&(verb as u8)));
    payloads(Verb::Ok).into_iter().filter(answers).map(|payload| payload[InRe::LEN..].to_vec()).collect()
}

/// A recorded field of the cases of a family that have it and match.
fn recorded(family: &str, key: &str, matches: impl Fn(&Case<'_>) -> bool) -> Vec<Vec<u8>> {
    let of_file = |file: &Value| {
        let cases = file["cases"].as_array().expect("cases").iter().map(Case);
        cases.filter(|c| c.has(key) && matches(c)).map(|c| c.hex(key)).collect::<Vec<_>>()
    };
    files(family).iter().flat_map(|(_, file)| of_file(file)).collect()
}

#[test]
fn endpoints() {
    fuzz(&recorded("inetaddress", "bytes", |_| true), |bytes| {
        stable(
            bytes,
            |bytes| endpoint::read(&mut Reader::new(bytes)),
            |e, out| endpoint::write(*e, out),
            |bytes, e| endpoint::read(&mut Reader::new(bytes)) == Ok(*e),
        );
        if let Ok(Some(endpoint)) = endpoint::read(&mut Reader::new(bytes)) {
            assert_eq!(endpoint::from_text(&endpoint::to_text(endpoint)), Ok(endpoint));
            let _ = endpoint::is_valid_path(endpoint);
        }
        let text = String::from_utf8_lossy(bytes);
        let _ = (endpoint::from_text(&text), text.parse::<endpoint::Prefix>());
    });
}

#[test]
fn dictionaries() {
    fuzz(&recorded("dictionary", "encoded", |_| true), |bytes| {
        let Ok(dictionary) = Dictionary::parse(bytes) else { return };
        for key in dictionary.keys().filter_map(|key| std::str::from_utf8(key).ok()) {
            assert!(dictionary.get(key).is_some());
            let _ = (dictionary.u64(key), dictionary.i64(key), dictionary.bool(key), dictionary.address(key));
            let _ = dictionary.text(key);
        }
    });
}

#[test]
fn worlds() {
    let seeds = [recorded("world", "in", |_| true), vec![DEFAULT_PLANET.to_vec()]].concat();
    fuzz(&seeds, |bytes| {
        stable!(bytes, read World);
        if let Ok(world) = World::parse(bytes) {
            let _ = (world.is_self_signed(), world.replaces(Some(&world)));
        }
    });
}

#[test]
fn certificates_of_membership() {
    fuzz(&recorded("credentials", "serialized", |c| c.kind() == "com"), |bytes| stable!(bytes, read Com));
}

#[test]
fn tags() {
    fuzz(&recorded("credentials", "serialized", |c| c.kind() == "tag"), |bytes| stable!(bytes, read Tag));
}

#[test]
fn revocations() {
    fuzz(&recorded("credentials", "serialized", |c| c.kind() == "revocation"), |bytes| stable!(bytes, read Revocation));
}

#[test]
fn certificates_of_ownership() {
    fuzz(&recorded("credentials", "serialized", |c| c.kind() == "coo"), |bytes| stable!(bytes, read Ownership));
}

#[test]
fn capabilities() {
    fuzz(&recorded("credentials", "serialized", |c| c.kind() == "capability"), |bytes| stable!(bytes, read Capability));
}

#[test]
fn rules() {
    fuzz(&recorded("credentials", "bytes", |c| c.kind() == "rule"), |bytes| {
        stable!(bytes, read Rule);
        if let Ok(table) = RuleTable::parse(bytes, NET_MAX_RULES) {
            assert!(bytes.starts_with(table.bytes()), "kept as it came");
            assert_eq!(RuleTable::parse(table.bytes(), NET_MAX_RULES), Ok(table));
        }
    });
}

#[test]
fn configuration_chunks() {
    fuzz(&recorded("configchunk", "payload", |_| true), |bytes| stable!(bytes, ConfigChunk));
}

#[test]
fn hello() {
    fuzz(&payloads(Verb::Hello), |bytes| {
        stable!(bytes, Hello);
        stable!(bytes, HelloTail);
        if let Ok(hello) = Hello::parse(bytes) {
            stable!(hello.tail, HelloTail);
        }
    });
}

#[test]
fn error() {
    fuzz(&payloads(Verb::Error), |bytes| stable!(bytes, ErrorMessage));
}

#[test]
fn ok() {
    fuzz(&payloads(Verb::Ok), |bytes| stable!(bytes, OkMessage));
}

#[test]
fn ok_hello() {
    fuzz(&ok_bodies(&[Verb::Hello]), |bytes| {
        stable!(bytes, OkHello);
        if let Ok(ok) = OkHello::parse(bytes) {
            let worlds: Vec<_> = ok.worlds().collect();
            assert!(worlds.iter().rev().skip(1).all(Result::is_ok), "nothing after the first malformed one");
        }
    });
}

#[test]
fn ok_whois() {
    fuzz(&ok_bodies(&[Verb::Whois]), |bytes| stable!(bytes, OkWhois));
}

#[test]
fn ok_frames_and_configurations() {
    fuzz(&ok_bodies(&[Verb::ExtFrame, Verb::Echo]), |bytes| {
        stable!(bytes, OkExtFrame);
        stable!(bytes, OkNetworkConfig);
    });
}

#[test]
fn ok_multicasts() {
    fuzz(&ok_bodies(&[Verb::MulticastGather, Verb::MulticastFrame]), |bytes| {
        stable!(bytes, OkGather);
        stable!(bytes, OkMulticastFrame);
    });
}

#[test]
fn whois() {
    fuzz(&payloads(Verb::Whois), |bytes| stable!(bytes, Whois));
}

#[test]
fn rendezvous() {
    fuzz(&payloads(Verb::Rendezvous), |bytes| stable!(bytes, Rendezvous));
}

#[test]
fn frames() {
    fuzz(&payloads(Verb::Frame), |bytes| stable!(bytes, Frame));
}

#[test]
fn ext_frames() {
    fuzz(&payloads(Verb::ExtFrame), |bytes| {
        stable!(bytes, ExtFrame);
        if let Ok(frame) = ExtFrame::parse(bytes) {
            let _ = (frame.wants_ack(), frame.copy().map(FrameCopy::flags));
        }
    });
}

#[test]
fn echo() {
    fuzz(&payloads(Verb::Echo), |bytes| stable!(bytes, Echo));
}

#[test]
fn multicast_likes() {
    fuzz(&payloads(Verb::MulticastLike), |bytes| {
        let records: Vec<_> = Like::records(bytes).collect();
        assert_eq!(records.len(), bytes.len().div_ceil(Like::LEN));
        assert!(records.iter().rev().skip(1).all(Result::is_ok), "an error is the last");
    });
}

#[test]
fn multicast_gathers() {
    fuzz(&payloads(Verb::MulticastGather), |bytes| stable!(bytes, Gather));
}

#[test]
fn multicast_frames() {
    fuzz(&payloads(Verb::MulticastFrame), |bytes| stable!(bytes, MulticastFrame));
}

#[test]
fn network_credentials() {
    fuzz(&payloads(Verb::NetworkCredentials), |bytes| stable!(bytes, Credentials));
}

#[test]
fn network_config_requests() {
    fuzz(&payloads(Verb::NetworkConfigRequest), |bytes| stable!(bytes, ConfigRequest));
}

#[test]
fn network_configs() {
    fuzz(&payloads(Verb::NetworkConfig), |bytes| stable!(bytes, ConfigChunk));
}

#[test]
fn pushed_paths() {
    fuzz(&payloads(Verb::PushDirectPaths), |bytes| {
        let records: Vec<_> = PathRecord::records(bytes).collect();
        assert!(records.len() <= 1 + bytes.len() / 11);
        assert!(records.iter().rev().skip(1).all(Result::is_ok), "an error is the last");
    });
}

#[test]
fn measurements() {
    let seeds = [payloads(Verb::QosMeasurement), payloads(Verb::Ack), payloads(Verb::PathNegotiationRequest)].concat();
    fuzz(&seeds, |bytes| {
        stable!(bytes, QosMeasurement);
        stable!(bytes, Ack);
        stable!(bytes, PathNegotiation);
    });
}

#[test]
fn user_messages_and_traces() {
    let seeds = [payloads(Verb::UserMessage), payloads(Verb::RemoteTrace)].concat();
    fuzz(&seeds, |bytes| {
        stable!(bytes, UserMessage);
        stable!(bytes, RemoteTrace);
    });
}

#[test]
fn what_hawsers_agree_on() {
    let body = |what: u8, len: usize| [&PACT_KIND.to_be_bytes()[..], &[1, what], &vec![0x11; len]].concat();
    fuzz(&[body(1, 10), body(2, 14), body(3, 32)], |bytes| {
        let Some(message) = UserMessage::parse(bytes).ok().and_then(|m| PactMessage::parse(&m)) else { return };
        let mut again = Vec::new();
        message.write(&mut again);
        let parsed = UserMessage::parse(&again).ok().and_then(|m| PactMessage::parse(&m));
        assert_eq!((again.len(), parsed), (bytes.len(), Some(message)));
    });
    let frame = [&[0x45, 0, 0, 24][..], &[0; 20], &[1, 2, 3, 4]].concat();
    fuzz(&[frame], |bytes| {
        for ethertype in [0x0800, 0x86dd] {
            if let Some((packet, mark)) = OrderMark::split(ethertype, bytes) {
                assert!(OrderMark::fits(ethertype, packet));
                assert_eq!([packet, &mark.to_bytes()[..]].concat(), bytes);
            }
        }
    });
}

#[test]
fn what_is_no_packet() {
    let greeting = b"\x17\x03\x03\x00\x04\x01\x0e\x00\x01\x17\x03\x03\x00\x0a\x04\x0a\x01\x02\x03\x27\x09abc".to_vec();
    fuzz(&[greeting], |bytes| {
        stable!(bytes, Beacon);
        if let Ok(Some((body, len))) = tcp_record(bytes) {
            assert!(len == body.len() + 5 && len <= bytes.len());
            let _ = (TcpGreeting::parse(body), TcpRelayed::parse(body));
        }
    });
}

#[test]
fn icmp_errors() {
    let quoted = |len: usize, protocol_at: usize, version: u8| {
        let mut packet = vec![0; len + 8 + 8];
        (packet[0], packet[protocol_at]) = (version, 17);
        packet
    };
    let error = |kind: u8| vec![kind, 1, 0, 0, 0, 0, 0, 0];
    let mut outer = vec![0; 20];
    (outer[0], outer[9]) = (0x45, 1);
    let v4 = [outer, error(3), quoted(20, 9, 0x45)].concat();
    let v6 = [error(1), quoted(40, 6, 0x60)].concat();
    assert!(Unreachable::parse_v4(&v4).is_some() && Unreachable::parse_v6(&v6).is_some());
    fuzz(&[v4, v6], |bytes| {
        let said = [Unreachable::parse_v4(bytes), Unreachable::parse_v6(bytes)];
        assert!(said.iter().flatten().all(|said| said.packet_id.is_none() || bytes.len() >= 64));
    });
}
