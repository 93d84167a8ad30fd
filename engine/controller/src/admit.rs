//! The way of a request: who asks, whether he may, and what he gets. Everything here runs to its end before the next
//! request is looked at, so two members can never be given the same address.
// spec: controller, "Handling a request"

use rand::Rng;
use serde_json::Value;
use wire::message::{ErrorCode, ErrorMessage, InRe, OkMessage};
use wire::{Address, Dictionary, DictionaryWriter, Identity, NetworkId, Now, Verb};

use crate::assign::assign;
use crate::build::{Parts, chunks};
use crate::constants::{MEMBERS_MAX, STRANGERS_MAX};
use crate::record::{self, MemberSettings, Record};
use crate::store::{Key, Storage};
use crate::{Controller, Event, MemberKey, Output, Request};

/// How a join token is marked in the request's metadata.
const TOKEN_PREFIX: &str = "token:";
/// Flow version of the authentication that we can ask for: a URL, which this controller does not know.
const AUTHENTICATION_FLOW: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Denied,
    Authenticate,
}

impl<S: Storage> Controller<S> {
    pub(crate) fn answer(&mut self, now: Now, request: Request) {
        let Ok(metadata) = Dictionary::parse(&request.metadata) else {
            self.counters.requests_malformed += 1;
            return;
        };
        let (network, to) = (request.network, request.member.address());
        let in_re = InRe::new(Verb::NetworkConfigRequest, request.packet_id);
        let granted = self.admit(now, &request, &metadata).and_then(|record| {
            let listener = self.audiences.entry(network).or_default().entry(to);
            listener.granted_ms = Some(now.ms());
            self.configure(now, network, &request.member, record, &metadata).ok_or(Refusal::NotFound)
        });
        match granted {
            Ok(chunks) => {
                self.counters.configurations += 1;
                for chunk in chunks {
                    let mut payload = Vec::with_capacity(InRe::LEN + chunk.len());
                    OkMessage { in_re, body: &chunk }.write(&mut payload);
                    self.out.push_back(Output::Reply { to, packet_id: request.packet_id, verb: Verb::Ok, payload });
                }
                if self.audiences.get(&network).is_some_and(|a| a.has_news_for(to)) {
                    self.news.add((network, to), now.ms());
                }
            }
            Err(refusal) => {
                let mut login = DictionaryWriter::new();
                login.u64("aV", AUTHENTICATION_FLOW).text("aU", "");
                let login = login.finish();
                let code = match refusal {
                    Refusal::NotFound => ErrorCode::ObjectNotFound(network),
                    Refusal::Denied => ErrorCode::NetworkAccessDenied(network),
                    Refusal::Authenticate => ErrorCode::NetworkAuthenticationRequired(network, &login),
                };
                let mut payload = Vec::new();
                ErrorMessage { in_re, code }.write(&mut payload);
                self.out.push_back(Output::Reply { to, packet_id: request.packet_id, verb: Verb::Error, payload });
            }
        }
    }

    /// Decides. The record it returns is a copy, to be completed and saved; a refused member's record is saved here.
    fn admit(&mut self, now: Now, request: &Request, metadata: &Dictionary<'_>) -> Result<Record, Refusal> {
        let (id, address) = (request.network, request.member.address());
        let Some(network) = self.networks.get(&id).filter(|_| !self.faulty.contains(&(id, Some(address)))) else {
            self.counters.refused_unknown_network += 1;
            return Err(Refusal::NotFound);
        };
        let (private, sso) = (network.settings.private, network.settings.sso);
        let known = network.members.get(&address);
        let is_new = known.is_none();
        let is_full = network.members.len() >= MEMBERS_MAX;
        let are_strangers_full = network.strangers >= STRANGERS_MAX;
        let mut record = known.map_or_else(|| record::new_member(id, address, now.unix_ms), |m| m.record.clone());

        // The address is 40 bits; the membership belongs to the whole key that had it first.
        let identity = request.member.to_string();
        let member = MemberSettings::of(&record);
        if member.identity.as_ref().is_some_and(|pinned| *pinned != identity) {
            self.counters.refused_other_identity += 1;
            return Err(Refusal::Denied);
        }
        if is_new && is_full {
            self.counters.refused_members_full += 1;
            return Err(Refusal::Denied);
        }
        record.insert("identity".into(), identity.into());

        let token = metadata.text("a").and_then(|a| a.strip_prefix(TOKEN_PREFIX).map(str::to_owned));
        if !member.authorised && !private {
            record::authorise(&mut record, "public", None, now.unix_ms);
        } else if let Some(token) = token.filter(|_| !member.authorised)
            && network.settings.tokens.get(&token).is_some_and(|&expiry| expiry == 0 || expiry > now.unix_ms)
        {
            record::authorise(&mut record, "token", Some(&token), now.unix_ms);
        }
        let settings = MemberSettings::of(&record);
        let must_authenticate = sso && !settings.sso_exempt && settings.authentication_expiry_ms <= now.unix_ms;

        if is_new && !settings.authorised && are_strangers_full {
            self.counters.refused_members_full += 1;
            return Err(Refusal::Denied);
        }
        if is_new {
            self.event(Event::NewMember { network: id, member: address, authorised: settings.authorised });
        }
        // Unlike the reference we remember the metadata of refused requests too: an operator's "yes" then reaches the
        // member at once instead of with its next poll.
        let listener = self.audiences.entry(id).or_default().entry(address);
        (listener.seen, listener.physical) = (now, request.physical);
        listener.metadata.clone_from(&request.metadata);
        if must_authenticate || !settings.authorised {
            listener.granted_ms = None;
            self.save_member(now, (id, address), record);
            let (counter, refusal) = if must_authenticate {
                (&mut self.counters.refused_authentication, Refusal::Authenticate)
            } else {
                (&mut self.counters.refused_denied, Refusal::Denied)
            };
            *counter += 1;
            return Err(refusal);
        }
        for (field, key) in [("vMajor", "majv"), ("vMinor", "minv"), ("vRev", "revv"), ("vProto", "pv")] {
            let version = metadata.u64(key).map_or(-1, |v| v.min(i32::MAX as u64) as i64);
            record.insert(field.into(), version.into());
        }
        Ok(record)
    }

    /// A configuration that nobody asked for, because something changed.
    // spec: controller, "Unsolicited updates"
    pub(crate) fn push(&mut self, now: Now, (id, address): MemberKey) {
        let Some(network) = self.networks.get(&id) else { return };
        let Some(member) = network.members.get(&address) else { return };
        let settings = &member.settings;
        let must_authenticate =
            network.settings.sso && !settings.sso_exempt && settings.authentication_expiry_ms <= now.unix_ms;
        if !settings.authorised || must_authenticate {
            return;
        }
        let record = member.record.clone();
        let Some(identity) = settings.identity.as_ref().and_then(|text| text.parse::<Identity>().ok()) else { return };
        let Some(listener) = self.audiences.get_mut(&id).and_then(|a| a.get_mut(address)) else { return };
        // From now on it may hold a certificate, so it has to hear of revocations.
        listener.granted_ms = Some(listener.seen.ms());
        let metadata = listener.metadata.clone();
        let Ok(metadata) = Dictionary::parse(&metadata) else { return };
        let Some(chunks) = self.configure(now, id, &identity, record, &metadata) else { return };
        self.counters.pushes += 1;
        self.out.extend(chunks.into_iter().map(|payload| Output::Push { to: address, payload }));
    }

    /// Completes and saves the record of an admitted member, and builds its configuration. None if that would be larger
    /// than any member could take.
    fn configure(
        &mut self,
        now: Now,
        id: NetworkId,
        member: &Identity,
        mut record: Record,
        metadata: &Dictionary<'_>,
    ) -> Option<Vec<Vec<u8>>> {
        let network = self.networks.get(&id)?;
        let rules_engine = metadata.u64("revr").unwrap_or(0) > 0;
        if rules_engine {
            record::give_capabilities(&mut record, &network.settings.default_capabilities(), true);
            record::give_tags(&mut record, &network.settings.default_tags);
        }
        let address = member.address();
        let rng = &mut self.rng;
        let assigned = assign(
            id,
            &network.settings,
            address,
            &MemberSettings::of(&record),
            |ip| network.in_use.contains_key(&ip),
            || rng.next_u64(),
        );
        if let Some(ips) = record.get_mut("ipAssignments").and_then(Value::as_array_mut) {
            ips.extend(assigned.taken.iter().map(|ip| Value::from(ip.to_string())));
        }
        let settings = MemberSettings::of(&record);
        self.save_member(now, (id, address), record);

        let timestamp_ms = self.clock.timestamp(now);
        self.renew_lease(now);
        let network = self.networks.get(&id)?;
        let bridges: Vec<Address> = network.bridges.iter().copied().collect();
        let configuration = Parts {
            controller: &self.identity,
            network: id,
            settings: &network.settings,
            member,
            record: &settings,
            assigned: &assigned,
            bridges: &bridges,
            timestamp_ms,
            rules_engine,
        }
        .build();
        let update_id = self.rng.next_u64().max(1);
        let chunks = chunks(&self.identity, id, &configuration.to_dictionary(), update_id);
        if chunks.is_none() {
            self.counters.refused_too_large += 1;
        }
        if let Some(listener) = self.audiences.get_mut(&id).and_then(|a| a.get_mut(address)) {
            listener.configured_ms = chunks.is_some().then(|| now.ms()).or(listener.configured_ms);
        }
        chunks
    }

    /// Saves a member's record if it differs from the one held.
    // spec: controller, "Saving"
    fn save_member(&mut self, now: Now, (id, address): MemberKey, mut record: Record) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        let old = network.members.get(&address);
        if old.is_some_and(|old| record::same_content(&old.record, &record)) {
            return;
        }
        let key: Key = (id, Some(address));
        record.insert("revision".into(), (old.map_or(0, |m| record::revision(&m.record)) + 1).into());
        if network.replace_member(address, Some(record)) {
            self.changes.add((id, None), now.ms() + crate::constants::PUSH_COALESCE_MS);
        }
        self.save(now, key);
    }
}
