//! A node's surroundings for tests: known identities, roots, a seeded random source.
#![allow(dead_code)]

pub mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use network::{Action, Surroundings};
use serde_json::Value;
use wire::{Address, Identity, Mac, NetworkId, Verb};

pub struct Around {
    pub own: Identity,
    pub known: BTreeMap<Address, Arc<Identity>>,
    pub upstreams: Vec<Address>,
    pub is_upstream: bool,
    pub authorised: BTreeSet<(NetworkId, Address)>,
    pub latencies: BTreeMap<Address, u32>,
    pub seed: u64,
}

impl Around {
    pub fn new(own: Identity) -> Around {
        Around {
            own,
            known: BTreeMap::new(),
            upstreams: Vec::new(),
            is_upstream: false,
            authorised: BTreeSet::new(),
            latencies: BTreeMap::new(),
            seed: 1,
        }
    }

    pub fn know(&mut self, identity: &Identity) {
        self.known.insert(identity.address(), Arc::new(identity.clone()));
    }
}

impl Surroundings for Around {
    fn own(&self) -> &Identity {
        &self.own
    }

    fn identity(&self, address: Address) -> Option<Arc<Identity>> {
        self.known.get(&address).cloned()
    }

    fn upstreams(&self) -> Vec<Address> {
        self.upstreams.clone()
    }

    fn is_upstream(&self) -> bool {
        self.is_upstream
    }

    fn authorised_by_our_controller(&self, network: NetworkId, member: Address) -> bool {
        self.authorised.contains(&(network, member))
    }

    fn peer_latency_ms(&self, peer: Address) -> Option<u32> {
        self.latencies.get(&peer).copied()
    }

    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.seed >> 20
    }
}

/// A message that left, however it travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    pub to: Address,
    pub verb: Verb,
    pub payload: Vec<u8>,
}

pub fn sent(actions: &[Action]) -> Vec<Sent> {
    actions
        .iter()
        .filter_map(|action| match action.clone() {
            Action::Send { to, verb, payload, .. } | Action::Reply { to, verb, payload } => {
                Some(Sent { to, verb, payload })
            }
            _ => None,
        })
        .collect()
}

pub fn delivered(actions: &[Action]) -> Vec<Vec<u8>> {
    let frame = |action: &Action| match action {
        Action::Deliver { frame, .. } => Some(frame.clone()),
        _ => None,
    };
    actions.iter().filter_map(frame).collect()
}

pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

pub fn mac(text: &str) -> Mac {
    let bytes = hex::decode(text.replace(':', "")).unwrap();
    Mac(bytes.try_into().unwrap())
}

/// The file of this family that the repository holds.
pub fn load(family: &str) -> Value {
    vectors::family(family).swap_remove(0).1
}

pub fn list<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    file[key].as_array().unwrap_or_else(|| panic!("no list {key} in {file}"))
}

pub fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no text {key} in {case}"))
}

pub fn bytes(case: &Value, key: &str) -> Vec<u8> {
    hex::decode(text(case, key)).unwrap()
}

pub fn number(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {case}"))
}

pub fn yes(case: &Value, key: &str) -> bool {
    case[key].as_bool().unwrap_or_else(|| panic!("no truth value {key} in {case}"))
}

/// The file's identities by their short names.
pub fn identities(file: &Value) -> BTreeMap<String, Identity> {
    let named = file["identities"].as_object().unwrap();
    named.iter().map(|(name, i)| (name.clone(), text(i, "public").parse().unwrap())).collect()
}
