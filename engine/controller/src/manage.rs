//! The operator's side: records are made, changed, removed and listed in the shapes of ZeroTierOne's `/controller`
//! interface. Knows what a change means to members; HTTP and its status codes are the gateway's.
// spec: controller, "REST interface"

use rand::RngExt;
use serde_json::{Value, json};
use wire::{Address, NetworkId, Now};

use crate::clock::Clock;
use crate::constants::{
    API_VERSION, MEMBER_RECORD_MAX_BYTES, MEMBERS_MAX, NETWORK_NUMBER_TRIALS, NETWORK_RECORD_MAX_BYTES, NETWORKS_MAX,
    PUSH_COALESCE_MS, TIMESTAMP_MAX_MS,
};
use crate::json::Invalid;
use crate::record::{self, NetworkSettings, Record};
use crate::store::{Fault, Found, Key, Storage, StoreError};
use crate::{Controller, Network};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request cannot be taken over.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such network.
    #[error("there is no network {0}")]
    UnknownNetwork(NetworkId),
    /// The network's id begins with another node's address.
    #[error("network {0} belongs to controller {controller}, not to this one", controller = .0.controller())]
    Foreign(NetworkId),
    /// A table is full.
    #[error("there are {limit} {what} already, no more are possible")]
    Full {
        /// What there are too many of.
        what: &'static str,
        /// How many are possible.
        limit: usize,
    },
    /// There is a file in the record's place that cannot be used; it is left alone.
    #[error("{name} cannot be used and is not overwritten: {reason}")]
    Faulty {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The record could not be written.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

impl<S: Storage> Controller<S> {
    /// Whether this is a controller, and what time it has.
    pub fn status_json(&self, now: Now) -> Value {
        json!({ "controller": true, "apiVersion": API_VERSION, "clock": now.unix_ms, "databaseReady": true })
    }

    /// All networks, ascending.
    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &Record)> {
        self.networks.iter().map(|(id, network)| (*id, &network.record))
    }

    /// Ids of all networks.
    pub fn networks_json(&self) -> Value {
        self.networks.keys().map(NetworkId::to_string).collect::<Vec<_>>().into()
    }

    /// All networks with their records and numbers of members.
    pub fn networks_full_json(&self) -> Value {
        let full = |network: &Network| {
            let (total, authorised) = counts(network);
            let mut record = network.record.clone();
            let meta = json!({ "totalMemberCount": total, "authorizedMemberCount": authorised });
            record.insert("meta".into(), meta);
            Value::from(record)
        };
        json!({
            "data": self.networks.values().map(full).collect::<Vec<_>>(),
            "meta": { "networkCount": self.networks.len() },
        })
    }

    /// The record of a network.
    pub fn network(&self, id: NetworkId) -> Option<&Record> {
        self.networks.get(&id).map(|network| &network.record)
    }

    /// Makes a network with a random unused number.
    pub fn create_network(&mut self, now: Now, body: &Value) -> Result<(NetworkId, &Record), Error> {
        let first = self.address().to_u64() << 24;
        for _ in 0..NETWORK_NUMBER_TRIALS {
            let id = NetworkId(first | u64::from(self.rng.random_range(1..1u32 << 24)));
            if !self.networks.contains_key(&id) && !self.faulty.contains(&(id, None)) {
                return self.update_network(now, id, body).map(|record| (id, record));
            }
        }
        Err(Error::Full { what: "networks", limit: NETWORKS_MAX })
    }

    /// Changes a network, or makes it.
    pub fn update_network(&mut self, now: Now, id: NetworkId, body: &Value) -> Result<&Record, Error> {
        let old = self.networks.get(&id).map(|network| &network.record);
        let mut record = match old {
            Some(record) => record.clone(),
            None => {
                self.check_place((id, None))?;
                if id.controller() != self.address() {
                    return Err(Error::Foreign(id));
                }
                if self.networks.len() >= NETWORKS_MAX {
                    return Err(Error::Full { what: "networks", limit: NETWORKS_MAX });
                }
                record::new_network(id, now.unix_ms)
            }
        };
        record::update_network(&mut record, body)?;
        let settings = NetworkSettings::of(&record)?;
        if old.is_none_or(|old| !record::same_content(old, &record)) {
            let settings = NetworkSettings { revision: bump(&mut record), ..settings };
            check_size(&record, NETWORK_RECORD_MAX_BYTES)?;
            self.storage.put((id, None), &record)?;
            self.unsaved.remove(&(id, None));
            match self.networks.get_mut(&id) {
                Some(network) => (network.record, network.settings) = (record, settings),
                None => drop(self.networks.insert(id, Network::new(record, settings))),
            }
            self.changes.add((id, None), now.ms() + PUSH_COALESCE_MS);
        }
        self.network(id).ok_or(Error::UnknownNetwork(id))
    }

    /// Removes a network with its members, and revokes what they hold. Returns its record, none if there was none.
    pub fn delete_network(&mut self, now: Now, id: NetworkId) -> Result<Option<Record>, Error> {
        if !self.networks.contains_key(&id) {
            return Ok(None);
        }
        self.storage.remove((id, None))?;
        let Some(network) = self.networks.remove(&id) else { return Ok(None) };
        self.unsaved.retain(|key| key.0 != id);
        // The reference revokes unauthorised members too, who have nothing that could be revoked.
        for (member, _) in network.members.iter().filter(|(_, m)| m.settings.authorised) {
            self.revoke(now, id, *member);
        }
        Ok(Some(network.record))
    }

    /// Revisions of a network's members by address; none if there is no such network.
    pub fn members_json(&self, id: NetworkId) -> Option<Value> {
        let members = &self.networks.get(&id)?.members;
        let revisions = members.iter().map(|(address, m)| (address.to_string(), record::revision(&m.record).into()));
        Some(Value::Object(revisions.collect()))
    }

    /// Records of a network's members; none if there is no such network.
    pub fn members_full_json(&self, id: NetworkId) -> Option<Value> {
        let network = self.networks.get(&id)?;
        let (total, authorised) = counts(network);
        Some(json!({
            "data": network.members.values().map(|m| m.record.clone()).collect::<Vec<_>>(),
            "meta": { "totalCount": total, "authorizedCount": authorised },
        }))
    }

    /// All members of a network, ascending.
    pub fn members(&self, id: NetworkId) -> impl Iterator<Item = (Address, &Record)> {
        self.networks.get(&id).into_iter().flat_map(|n| n.members.iter().map(|(address, m)| (*address, &m.record)))
    }

    /// The record of a member.
    pub fn member(&self, id: NetworkId, address: Address) -> Option<&Record> {
        self.networks.get(&id)?.members.get(&address).map(|m| &m.record)
    }

    /// Changes a member, or makes it.
    pub fn update_member(&mut self, now: Now, id: NetworkId, address: Address, body: &Value) -> Result<&Record, Error> {
        let network = self.networks.get(&id).ok_or(Error::UnknownNetwork(id))?;
        let old = network.members.get(&address);
        let mut record = match old {
            Some(member) => member.record.clone(),
            None => {
                self.check_place((id, Some(address)))?;
                if address.is_reserved() {
                    return Err(Invalid::new("address", format!("{address} is reserved, no node has it")).into());
                }
                if network.members.len() >= MEMBERS_MAX {
                    return Err(Error::Full { what: "members", limit: MEMBERS_MAX });
                }
                record::new_member(id, address, now.unix_ms)
            }
        };
        let defaults = network.settings.default_capabilities();
        record::update_member(&mut record, body, &defaults, now.unix_ms)?;
        if old.is_none_or(|old| !record::same_content(&old.record, &record)) {
            bump(&mut record);
            check_size(&record, MEMBER_RECORD_MAX_BYTES)?;
            self.storage.put((id, Some(address)), &record)?;
            self.unsaved.remove(&(id, Some(address)));
            self.commit_member(now, id, address, Some(record));
        }
        self.member(id, address).ok_or(Error::UnknownNetwork(id))
    }

    /// Removes a member, and revokes what it holds. Returns its record, none if there was none. A member that still runs
    /// comes back with its next request, unauthorised.
    pub fn delete_member(&mut self, now: Now, id: NetworkId, address: Address) -> Result<Option<Record>, Error> {
        let Some(record) = self.member(id, address).cloned() else { return Ok(None) };
        self.storage.remove((id, Some(address)))?;
        self.unsaved.remove(&(id, Some(address)));
        self.commit_member(now, id, address, None);
        Ok(Some(record))
    }

    /// Makes a stored change of a member true, and tells whoever has to know.
    fn commit_member(&mut self, now: Now, id: NetworkId, address: Address, record: Option<Record>) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        let is_authorised = |network: &Network| network.members.get(&address).is_some_and(|m| m.settings.authorised);
        let before = is_authorised(network);
        let bridges_changed = network.replace_member(address, record);
        let after = is_authorised(network);
        if before && !after {
            self.revoke(now, id, address);
        }
        if after {
            if !before && let Some(audience) = self.audiences.get_mut(&id) {
                audience.reinstate(address);
            }
            self.changes.add((id, Some(address)), now.ms() + PUSH_COALESCE_MS);
        }
        if bridges_changed {
            self.changes.add((id, None), now.ms() + PUSH_COALESCE_MS);
        }
    }

    /// Nothing may be written where something unusable lies.
    fn check_place(&self, key: Key) -> Result<(), Error> {
        if !self.faulty.contains(&key) {
            return Ok(());
        }
        let fault = self.faults.iter().find(|f| f.key == Some(key));
        let (name, reason) = fault.map_or((format!("{key:?}"), String::new()), |f| (f.name.clone(), f.reason.clone()));
        Err(Error::Faulty { name, reason })
    }

    /// Takes over what was stored. Networks come before their members.
    pub(crate) fn take_over(&mut self, mut records: Vec<Found>, clock_ms: u64, now: Now) {
        records.sort_by_key(|found| found.key);
        let mut newest_ms = clock_ms;
        for Found { key, record, name } in records {
            newest_ms = newest_ms.max(newest_time(&record));
            if let Err(reason) = self.take_over_record(key, record) {
                self.faulty.insert(key);
                self.faults.push(Fault { name, reason, key: Some(key) });
            }
        }
        self.clock = Clock::new(newest_ms, now);
        self.revoke_again(now);
    }

    fn take_over_record(&mut self, (id, member): Key, mut record: Record) -> Result<(), String> {
        match (member, self.networks.get_mut(&id)) {
            (None, None) => {
                if self.networks.len() >= NETWORKS_MAX {
                    return Err(format!("more than {NETWORKS_MAX} networks"));
                }
                record::complete_network(&mut record, id);
                let settings = NetworkSettings::of(&record).map_err(|e| e.to_string())?;
                self.networks.insert(id, Network::new(record, settings));
            }
            (Some(address), Some(network)) => {
                if network.members.len() >= MEMBERS_MAX {
                    return Err(format!("more than {MEMBERS_MAX} members"));
                }
                record::complete_member(&mut record, id, address);
                network.replace_member(address, Some(record));
            }
            (Some(_), None) => return Err(format!("network {id} is missing or unusable")),
            (None, Some(_)) => return Err("the same network twice".into()),
        }
        Ok(())
    }

    /// Revocations are not stored. Those of members that lost their membership within the window are made anew.
    fn revoke_again(&mut self, now: Now) {
        let mut targets = Vec::new();
        for (id, network) in self.networks.iter().filter(|(id, _)| id.controller() == self.address()) {
            let is_recent = |ms: u64| ms != 0 && ms.saturating_add(network.settings.window_ms) > now.unix_ms;
            let revoked = network.members.iter().filter(|(_, m)| !m.settings.authorised);
            targets.extend(revoked.filter(|(_, m)| is_recent(m.settings.deauthorised_ms)).map(|(a, _)| (*id, *a)));
        }
        for (id, address) in targets {
            self.revoke(now, id, address);
        }
    }

    /// Some network asks for third-party authentication.
    pub(crate) fn needs_authentication(&self) -> bool {
        self.networks.values().any(|network| network.settings.sso)
    }

    /// Third-party authentications end: the members' certificates are void, their records stay.
    // spec: controller, "Unsolicited updates"
    pub(crate) fn revoke_expired(&mut self, now: Now) {
        let mut expired = Vec::new();
        for (id, network) in self.networks.iter_mut().filter(|(_, n)| n.settings.sso) {
            for (address, member) in &mut network.members {
                let expiry_ms = member.settings.authentication_expiry_ms;
                let has_expired = expiry_ms != 0 && expiry_ms <= now.unix_ms && member.expiry_revoked_ms != expiry_ms;
                if member.settings.authorised && !member.settings.sso_exempt && has_expired {
                    member.expiry_revoked_ms = expiry_ms;
                    expired.push((*id, *address));
                }
            }
        }
        for (id, address) in expired {
            self.revoke(now, id, address);
        }
    }
}

/// All members, and those authorised.
fn counts(network: &Network) -> (usize, usize) {
    (network.members.len(), network.members.values().filter(|m| m.settings.authorised).count())
}

fn bump(record: &mut Record) -> u64 {
    let revision = record::revision(record) + 1;
    record.insert("revision".into(), revision.into());
    revision
}

fn check_size(record: &Record, most: usize) -> Result<(), Invalid> {
    let size = serde_json::to_vec(record).map_or(usize::MAX, |bytes| bytes.len());
    if size > most {
        return Err(Invalid::new("record", format!("{size} bytes, at most {most} are possible")));
    }
    Ok(())
}

/// The latest moment that a record tells of, for a home whose clock was not stored.
fn newest_time(record: &Record) -> u64 {
    let times = ["creationTime", "lastAuthorizedTime", "lastDeauthorizedTime"];
    let read = times.iter().filter_map(|field| record.get(*field)?.as_u64());
    read.filter(|&ms| ms <= TIMESTAMP_MAX_MS).max().unwrap_or(0)
}
