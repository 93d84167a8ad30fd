//! Vector files: finding them, and one case of them with accessors that say which case is at fault.
#![allow(dead_code, reason = "every test binary uses another part")]

use serde_json::Value;
use wire::{Address, Identity, NetworkId, SecretIdentity};

/// One case of a vector file, or a part of one.
#[derive(Clone, Copy)]
pub struct Case<'a>(pub &'a Value);

impl<'a> Case<'a> {
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    pub fn get(&self, key: &str) -> &'a Value {
        self.0.get(key).unwrap_or_else(|| panic!("{}: no {key}", self.0["name"]))
    }

    pub fn str(&self, key: &str) -> &'a str {
        self.get(key).as_str().unwrap_or_else(|| panic!("{}: {key} is no text", self.0["name"]))
    }

    pub fn num(&self, key: &str) -> usize {
        self.get(key).as_u64().unwrap_or_else(|| panic!("{}: {key} is no number", self.0["name"])) as usize
    }

    pub fn is(&self, key: &str) -> bool {
        self.get(key).as_bool().unwrap_or_else(|| panic!("{}: {key} is no truth", self.0["name"]))
    }

    pub fn marked(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|mark| *mark != Value::Bool(false))
    }

    pub fn list(&self, key: &str) -> &'a [Value] {
        self.get(key).as_array().unwrap_or_else(|| panic!("{}: {key} is no list", self.0["name"]))
    }

    pub fn name(&self) -> &'a str {
        self.str("name")
    }

    pub fn kind(&self) -> &'a str {
        self.str("kind")
    }

    pub fn hex(&self, key: &str) -> Vec<u8> {
        unhex(self.str(key))
    }

    pub fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        self.hex(key).try_into().unwrap_or_else(|_| panic!("{}: {key} is not {N} bytes", self.0["name"]))
    }

    pub fn id(&self, key: &str) -> u64 {
        u64::from_str_radix(self.str(key), 16).expect("an ID in hex")
    }

    pub fn address(&self, key: &str) -> Address {
        self.str(key).parse().expect("an address")
    }

    pub fn network(&self, key: &str) -> NetworkId {
        self.str(key).parse().expect("a network ID")
    }

    pub fn identity(&self, key: &str) -> Identity {
        self.str(key).parse().expect("an identity")
    }

    pub fn secret(&self, key: &str) -> SecretIdentity {
        self.str(key).parse().expect("a secret identity")
    }

    pub fn datagrams(&self, key: &str) -> Vec<Vec<u8>> {
        self.list(key).iter().map(|d| unhex(d.as_str().expect("hex"))).collect()
    }
}

pub fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hex")
}

/// Runs `check` over all cases of all files of a family and prints how many each file has.
pub fn family(family: &str, mut check: impl FnMut(&Value, Case<'_>)) {
    for (name, file) in files(family) {
        let cases = file["cases"].as_array().expect("cases");
        assert!(!cases.is_empty(), "{name} has no cases");
        if let Some(count) = file["case_count"].as_u64() {
            assert_eq!(count as usize, cases.len(), "{name} says how many cases it has");
        }
        for case in cases {
            check(&file, Case(case));
        }
        vectors::ran(&name, cases.len());
    }
}

/// Every file of a family by name: `wire-FAMILY.json` and whatever continues it.
pub fn files(family: &str) -> Vec<(String, Value)> {
    vectors::family(&format!("wire-{family}"))
}

pub fn unknown_kind(c: &Case<'_>) -> ! {
    panic!("{}: kind {} is not known", c.name(), c.kind())
}
