//! What the tests share: identities, a controller over records in memory, and reading what it sends.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use controller::{Controller, MemoryStorage, Output, Record, Request, Storage};
use network::Config;
use serde_json::{Value, json};
use wire::chunk::ConfigChunk;
use wire::message::{Credentials, ErrorMessage, OkMessage};
use wire::{Address, Identity, NetworkId, Now, SecretIdentity, Verb};

pub const CONTROLLER: &str = "01ec4f9b42:0:0cff12066bd550623217970b5d4309b5971d6424c605102bde37d866af69602d01556fc55a06a4b\
ac6f4aaa6d8ddfea746e50857423af32f7c1ee5a28bbdc0f6:7c696507f2b42592939babe7f508fc83120a90b2001a07c4cebbdf2c2f18fe4b0d\
be085e1f4b95f52bcce9ea897511f64ade72ccd21f01e3aca4ead6a2f1ab96";
pub const NETWORK: NetworkId = NetworkId(0x01ec_4f9b_4200_0001);
/// A wall clock to start tests at, ms.
pub const START_MS: u64 = 1_800_000_000_000;

pub fn controller_identity() -> Arc<SecretIdentity> {
    Arc::new(CONTROLLER.parse().unwrap())
}

/// An identity with this address. Its key is not one that the address follows from, which a controller never checks:
/// whoever asks has been authenticated.
pub fn identity(address: u64) -> Arc<Identity> {
    let mut key = [7; 64];
    key[..8].copy_from_slice(&address.to_be_bytes());
    Arc::new(Identity::from_parts(Address::from_u64(address), key))
}

/// `ms` after the start, on both clocks.
pub fn at(ms: u64) -> Now {
    Now { mono_us: (50_000 + ms) * 1000, unix_ms: START_MS + ms }
}

pub fn memory(records: impl IntoIterator<Item = (NetworkId, Option<Address>, Value)>) -> MemoryStorage {
    let mut storage = MemoryStorage::default();
    for (network, member, record) in records {
        storage.records.insert((network, member), object(record));
    }
    storage
}

pub fn object(value: Value) -> Record {
    match value {
        Value::Object(record) => record,
        other => panic!("{other} is not an object"),
    }
}

pub fn new_controller<S: Storage>(storage: S) -> Controller<S> {
    Controller::new(controller_identity(), storage, 1, at(0))
}

/// Metadata of a member as the reference sends it, with `extra` lines.
pub fn metadata(extra: &str) -> Vec<u8> {
    format!(
        "v=0000000000000007\nvend=0000000000000001\npv=000000000000000c\nmajv=0000000000000001\nminv=000000000000000e\n\
         revv=0000000000000001\nrevr=0000000000000001{extra}"
    )
    .into_bytes()
}

pub fn request(network: NetworkId, member: &Arc<Identity>) -> Request {
    Request { network, member: member.clone(), packet_id: 0xabcd, metadata: metadata(""), physical: None }
}

pub fn ask<S: Storage>(controller: &mut Controller<S>, now: Now, member: &Arc<Identity>) -> Answer {
    controller.handle_request(now, request(NETWORK, member));
    answer(&drain(controller))
}

pub fn drain<S: Storage>(controller: &mut Controller<S>) -> Vec<Output> {
    std::iter::from_fn(|| controller.poll_output()).collect()
}

/// Lets time pass until `until`, waking the controller when it wants to be.
pub fn run<S: Storage>(controller: &mut Controller<S>, from_ms: u64, until_ms: u64) -> Vec<Output> {
    let mut out = drain(controller);
    let mut ms = from_ms;
    while let Some(due) = controller.poll_timeout() {
        ms = ms.max(due.saturating_sub(at(0).ms()));
        if ms > until_ms {
            break;
        }
        controller.handle_timeout(at(ms));
        out.extend(drain(controller));
        ms += 1;
    }
    out
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Nothing,
    Error(u8, Vec<u8>),
    Configuration(Box<Config>),
}

impl Answer {
    pub fn config(self) -> Config {
        match self {
            Answer::Configuration(config) => *config,
            other => panic!("{other:?} instead of a configuration"),
        }
    }

    pub fn is_error(&self, code: u8) -> bool {
        matches!(self, Answer::Error(found, _) if *found == code)
    }
}

/// Reads the replies among `outputs`, of one request.
pub fn answer(outputs: &[Output]) -> Answer {
    let mut chunks = Vec::new();
    for output in outputs {
        let Output::Reply { verb, payload, packet_id, .. } = output else { continue };
        if *verb == Verb::Error {
            let error = ErrorMessage::parse(payload).unwrap();
            assert_eq!((error.in_re.verb(), error.in_re.packet_id), (Some(Verb::NetworkConfigRequest), *packet_id));
            return Answer::Error(error.code.number(), payload[10..].to_vec());
        }
        let ok = OkMessage::parse(payload).unwrap();
        assert_eq!((ok.in_re.verb(), ok.in_re.packet_id), (Some(Verb::NetworkConfigRequest), *packet_id));
        chunks.push(ok.body.to_vec());
    }
    if chunks.is_empty() {
        return Answer::Nothing;
    }
    Answer::Configuration(Box::new(Config::parse(&join(&chunks)).unwrap()))
}

/// The dictionary of signed chunks, which must tile it.
pub fn join(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut dictionary = Vec::new();
    let mut update = None;
    for payload in chunks {
        let chunk = ConfigChunk::parse(payload).unwrap();
        assert!(chunk.verify(controller_identity().public()));
        assert_eq!(chunk.index as usize, dictionary.len());
        assert_eq!((chunk.flags, *update.get_or_insert(chunk.update_id)), (0, chunk.update_id));
        assert_ne!(chunk.update_id, 0);
        dictionary.extend_from_slice(chunk.data);
        if dictionary.len() == chunk.total as usize {
            return dictionary;
        }
    }
    panic!("chunks are missing");
}

/// Members that got an unsolicited configuration.
pub fn pushed(outputs: &[Output]) -> Vec<u64> {
    let to = |o: &Output| matches!(o, Output::Push { .. }).then(|| receiver(o)).flatten();
    let mut to: Vec<u64> = outputs.iter().filter_map(to).collect();
    to.sort_unstable();
    to
}

/// Who was told of whose revocation.
pub fn revoked(outputs: &[Output]) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    for output in outputs {
        let Output::Revoke { to, payload } = output else { continue };
        for revocation in Credentials::parse(payload).unwrap().revocations {
            assert!(revocation.verify(controller_identity().public()));
            told.push((to.to_u64(), revocation.target.to_u64()));
        }
    }
    told.sort_unstable();
    told
}

fn receiver(output: &Output) -> Option<u64> {
    match output {
        Output::Reply { to, .. } | Output::Push { to, .. } | Output::Revoke { to, .. } => Some(to.to_u64()),
        Output::Event(_) => None,
    }
}

/// A private network with an IPv4 pool.
pub fn private_network() -> Value {
    json!({
        "name": "lab", "private": true, "v4AssignMode": { "zt": true },
        "ipAssignmentPools": [{ "ipRangeStart": "10.1.0.1", "ipRangeEnd": "10.1.255.254" }],
        "routes": [{ "target": "10.1.0.0/16", "via": null }],
    })
}

/// A controller with one network, and members 1.. authorised on it.
pub fn with_members(network: Value, members: &[u64]) -> Controller<MemoryStorage> {
    let mut controller = new_controller(MemoryStorage::default());
    controller.update_network(at(0), NETWORK, &network).unwrap();
    for &member in members {
        let body = json!({ "authorized": true });
        controller.update_member(at(0), NETWORK, Address::from_u64(member), &body).unwrap();
    }
    controller
}
