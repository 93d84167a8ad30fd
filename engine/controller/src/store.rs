//! What the controller asks of its storage, and a storage in memory for tests and simulations. Knows records and their
//! names, never what they mean.

use std::collections::BTreeMap;

use wire::{Address, NetworkId};

use crate::record::Record;

/// Names a record: a network, or one of its members.
pub type Key = (NetworkId, Option<Address>);

/// A record could not be written or removed. What was stored before is still there.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct StoreError {
    /// The file, or whatever names the record for an operator.
    pub name: String,
    /// What went wrong.
    pub reason: String,
}

/// Something that is stored but cannot be used. It is left as it is, and nothing is ever written in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or whatever names the record for an operator.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// The record it would be; none if it is not one.
    pub key: Option<Key>,
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which record.
    pub key: Key,
    /// Its content.
    pub record: Record,
    /// The file, or whatever names the record for an operator.
    pub name: String,
}

/// Everything that is stored.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Usable records; a member only together with its network.
    pub records: Vec<Found>,
    /// What was left out.
    pub faults: Vec<Fault>,
    /// The last value of [`Storage::put_clock`], 0 if there is none.
    pub clock_ms: u64,
}

/// Keeps records over restarts. Each call is complete when it returns: after a crash at any moment a record is as it
/// was before the call or as it is after it.
pub trait Storage {
    /// Reads everything; called once, first.
    fn load(&mut self) -> Loaded;
    /// Writes a record.
    fn put(&mut self, key: Key, record: &Record) -> Result<(), StoreError>;
    /// Removes a record, a network together with its members. One that does not exist is removed already.
    fn remove(&mut self, key: Key) -> Result<(), StoreError>;
    /// Writes the time that no timestamp issued so far exceeds, ms.
    fn put_clock(&mut self, clock_ms: u64) -> Result<(), StoreError>;
}

/// Records in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    /// What is stored.
    pub records: BTreeMap<Key, Record>,
    /// The last clock written, ms.
    pub clock_ms: u64,
    /// Writing fails, as on a full disk.
    pub is_full: bool,
    /// Records written so far.
    pub writes: u64,
}

impl MemoryStorage {
    fn writable(&mut self, key: Key) -> Result<(), StoreError> {
        if self.is_full {
            return Err(StoreError { name: format!("{key:?}"), reason: "no space left".into() });
        }
        self.writes += 1;
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> Loaded {
        let found =
            |(key, record): (&Key, &Record)| Found { key: *key, record: record.clone(), name: format!("{key:?}") };
        Loaded { records: self.records.iter().map(found).collect(), faults: Vec::new(), clock_ms: self.clock_ms }
    }

    fn put(&mut self, key: Key, record: &Record) -> Result<(), StoreError> {
        self.writable(key)?;
        self.records.insert(key, record.clone());
        Ok(())
    }

    fn remove(&mut self, key: Key) -> Result<(), StoreError> {
        self.writable(key)?;
        self.records.retain(|&k, _| k != key && (key.1.is_some() || k.0 != key.0));
        Ok(())
    }

    fn put_clock(&mut self, clock_ms: u64) -> Result<(), StoreError> {
        self.writable((NetworkId(0), None))?;
        self.clock_ms = clock_ms;
        Ok(())
    }
}
