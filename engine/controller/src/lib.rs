//! The network controller: it admits members, assigns their addresses, and issues signed configurations and
//! certificates to ZeroTier nodes and to our own. Storage is behind a small trait; sockets, clocks, threads and the HTTP
//! that operators speak are the gateway's.
//!
//! [`Controller`] is a state machine. After every call that takes the time, drain [`Controller::poll_output`], then call
//! [`Controller::handle_timeout`] no later than [`Controller::poll_timeout`] says:
//!
//! ```
//! # use controller::{Controller, MemoryStorage, Output, Request};
//! # use std::sync::Arc;
//! # fn example(identity: Arc<wire::SecretIdentity>, member: Arc<wire::Identity>, now: wire::Now) -> Result<(), controller::Error> {
//! let mut controller = Controller::new(identity, MemoryStorage::default(), 7, now);
//! let (network, _) = controller.create_network(now, &serde_json::json!({ "private": false }))?;
//! controller.handle_request(now, Request { network, member, packet_id: 1, metadata: Vec::new(), physical: None });
//! while let Some(output) = controller.poll_output() {
//!     match output {
//!         Output::Reply { to, verb, payload, .. } => println!("{} to {to}: {} bytes", verb.name(), payload.len()),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::{Address, Identity, NetworkId, Now, SecretIdentity, Verb};

mod assign;
mod build;
pub mod constants;
mod file_store;
mod json;
pub mod record;
pub mod rules_json;
pub mod store;

mod admit;
mod audience;
mod clock;
mod manage;
mod queue;

pub use file_store::FileStorage;
pub use json::Invalid;
pub use manage::Error;
pub use record::Record;
pub use store::{Fault, Key, MemoryStorage, Storage, StoreError};

use audience::Audience;
use clock::Clock;
use constants::*;
use queue::{Budget, Gate, Line, Schedule};
use record::{MemberSettings, NetworkSettings};

/// A network and one of its members.
type MemberKey = (NetworkId, Address);

/// A NETWORK_CONFIG_REQUEST from an authenticated peer, or from this node itself.
#[derive(Clone, Debug)]
pub struct Request {
    /// The network asked for.
    pub network: NetworkId,
    /// Who asks.
    pub member: Arc<Identity>,
    /// ID of the request's packet; anything for a request of our own node.
    pub packet_id: u64,
    /// The dictionary in the request.
    pub metadata: Vec<u8>,
    /// Where it came from; none if it was relayed.
    pub physical: Option<SocketAddr>,
}

/// What the controller wants done. Payloads are complete: what follows the verb byte. They take the ordinary way of a
/// packet (queue, WHOIS, relay), not the request's arrival path, and should be compressed where that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// One answer to a request; a configuration of several chunks is several of them.
    Reply {
        /// Who asked.
        to: Address,
        /// [`Request::packet_id`], which the payload carries too.
        packet_id: u64,
        /// OK or ERROR.
        verb: Verb,
        /// In-re verb, in-re packet id, and the rest.
        payload: Vec<u8>,
    },
    /// One chunk of an unsolicited configuration: a NETWORK_CONFIG.
    Push {
        /// The member.
        to: Address,
        /// The chunk.
        payload: Vec<u8>,
    },
    /// Revocations: a NETWORK_CREDENTIALS.
    Revoke {
        /// The member who is told.
        to: Address,
        /// The credentials.
        payload: Vec<u8>,
    },
    /// Something for the log.
    Event(Event),
}

/// What an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record could not be written. Its members are served from memory; the write is tried again.
    StorageFailed {
        /// The record's file.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// A member asked for the first time.
    NewMember {
        /// The network.
        network: NetworkId,
        /// The member.
        member: Address,
        /// It was admitted at once.
        authorised: bool,
    },
}

/// When a member was last heard. Exported because the reference tells nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its last genuine request, ms since 1970.
    pub unix_ms: u64,
    /// Where that came from; none if it was relayed.
    pub physical: Option<SocketAddr>,
    /// That was less than two minutes ago.
    pub is_online: bool,
}

/// What happened so far, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub requests: u64,
    pub requests_for_other_controllers: u64,
    pub requests_malformed: u64,
    pub requests_too_soon: u64,
    pub requests_dropped_gate_full: u64,
    pub requests_dropped_queue_full: u64,
    pub refused_unknown_network: u64,
    pub refused_denied: u64,
    pub refused_other_identity: u64,
    pub refused_authentication: u64,
    pub refused_members_full: u64,
    pub refused_too_large: u64,
    pub configurations: u64,
    pub pushes: u64,
    pub pushes_dropped_queue_full: u64,
    pub revocations: u64,
    pub revocation_packets: u64,
    pub revocations_forgotten: u64,
    pub storage_failures: u64,
    pub events_dropped: u64,
}

#[derive(Debug)]
struct Network {
    record: Record,
    settings: NetworkSettings,
    members: BTreeMap<Address, Member>,
    /// Addresses in `ipAssignments` of any member, with the number of members.
    in_use: HashMap<IpAddr, u32, RandomState>,
    /// Authorised members that may bridge. The reference lists unauthorised ones too.
    // spec: controller, "Traps"
    bridges: BTreeSet<Address>,
    /// Members that were never authorised.
    strangers: usize,
}

#[derive(Debug)]
struct Member {
    record: Record,
    settings: MemberSettings,
    /// Its third-party authentication of that expiry was revoked.
    expiry_revoked_ms: u64,
}

impl Network {
    fn new(record: Record, settings: NetworkSettings) -> Network {
        Network {
            record,
            settings,
            members: BTreeMap::new(),
            in_use: HashMap::default(),
            bridges: BTreeSet::new(),
            strangers: 0,
        }
    }

    /// Puts a member's record in place of the old one, or removes it. True if the list of bridges changed.
    fn replace_member(&mut self, address: Address, record: Option<Record>) -> bool {
        let old = self.members.remove(&address);
        let expiry_revoked_ms = old.as_ref().map_or(0, |m| m.expiry_revoked_ms);
        if let Some(member) = old {
            for ip in &member.settings.ips {
                if let Some(count) = self.in_use.get_mut(ip) {
                    *count -= 1;
                    if *count == 0 {
                        self.in_use.remove(ip);
                    }
                }
            }
            self.strangers -= usize::from(is_stranger(&member.record, &member.settings));
        }
        let mut is_bridge = false;
        if let Some(record) = record {
            let settings = MemberSettings::of(&record);
            for ip in &settings.ips {
                *self.in_use.entry(*ip).or_default() += 1;
            }
            self.strangers += usize::from(is_stranger(&record, &settings));
            is_bridge = settings.bridge && settings.authorised;
            self.members.insert(address, Member { record, settings, expiry_revoked_ms });
        }
        if is_bridge { self.bridges.insert(address) } else { self.bridges.remove(&address) }
    }
}

/// Asked, but was never authorised, and no operator wrote anything about it.
fn is_stranger(record: &Record, settings: &MemberSettings) -> bool {
    !settings.authorised && settings.deauthorised_ms == 0 && !record.contains_key("name")
}

/// The controller of all networks whose ids begin with its address.
#[derive(Debug)]
pub struct Controller<S> {
    identity: Arc<SecretIdentity>,
    storage: S,
    rng: StdRng,
    clock: Clock,
    networks: BTreeMap<NetworkId, Network>,
    audiences: HashMap<NetworkId, Audience, RandomState>,
    /// What was found unusable; nothing is written in its place.
    faults: Vec<Fault>,
    faulty: BTreeSet<Key>,
    gate: Gate<MemberKey>,
    pending: HashMap<MemberKey, Request, RandomState>,
    /// Requests of authorised members, and those of all others.
    answers: Line<MemberKey>,
    strangers: Line<MemberKey>,
    /// Configurations to push, once changes have come to rest: to one member or to all that are online.
    changes: Schedule<Key>,
    pushes: Line<MemberKey>,
    /// Members to be told of revocations.
    news: Schedule<MemberKey>,
    /// The last NETWORK_CREDENTIALS sent to each address, ms: receivers drop a second one within a second.
    told_ms: HashMap<Address, u64, RandomState>,
    budget: Budget,
    unsaved: BTreeSet<Key>,
    retry_ms: u64,
    sweep_ms: u64,
    authentication_ms: u64,
    out: VecDeque<Output>,
    events: usize,
    counters: Counters,
}

impl<S: Storage> Controller<S> {
    /// Loads what is stored. What cannot be used is listed by [`Controller::faults`]. `seed` makes the random numbers
    /// of update ids, revocation ids, network numbers and IPv6 addresses; none of them is a secret.
    pub fn new(identity: Arc<SecretIdentity>, mut storage: S, seed: u64, now: Now) -> Controller<S> {
        let loaded = storage.load();
        let mut controller = Controller {
            identity,
            storage,
            rng: StdRng::seed_from_u64(seed),
            clock: Clock::new(loaded.clock_ms, now),
            networks: BTreeMap::new(),
            audiences: HashMap::default(),
            faulty: loaded.faults.iter().filter_map(|f| f.key).collect(),
            faults: loaded.faults,
            gate: Gate::new(REQUEST_GATE_MS, GATE_MAX),
            pending: HashMap::default(),
            answers: Line::new(PENDING_MAX),
            strangers: Line::new(PENDING_STRANGERS_MAX),
            changes: Schedule::new(),
            pushes: Line::new(PUSHES_MAX),
            news: Schedule::new(),
            told_ms: HashMap::default(),
            budget: Budget::new(PACKETS_PER_SECOND, PACKETS_BURST, now.ms()),
            unsaved: BTreeSet::new(),
            retry_ms: 0,
            sweep_ms: now.ms() + SWEEP_MS,
            authentication_ms: now.ms(),
            out: VecDeque::new(),
            events: 0,
            counters: Counters::default(),
        };
        controller.take_over(loaded.records, loaded.clock_ms, now);
        controller
    }

    /// Who signs.
    pub fn address(&self) -> Address {
        self.identity.address()
    }

    /// What was found unusable in the storage. It is as it was, and none of it is served or overwritten.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A member asks for its configuration. The answer comes now or, under load, by [`Controller::handle_timeout`].
    // spec: controller, "Handling a request"
    pub fn handle_request(&mut self, now: Now, request: Request) {
        self.counters.requests += 1;
        if request.network.controller() != self.address() {
            self.counters.requests_for_other_controllers += 1;
            return;
        }
        if request.metadata.len() > METADATA_MAX_BYTES {
            self.counters.requests_malformed += 1;
            return;
        }
        let key = (request.network, request.member.address());
        let network = self.networks.get(&key.0);
        // Numbers of networks that do not exist cost an asker nothing, so they share a few places at the gate.
        let gated = (network.map_or(NetworkId(key.0.0 % UNKNOWN_NETWORKS_PER_GATE), |_| key.0), key.1);
        match self.gate.pass(now.ms(), gated) {
            Ok(()) => {}
            Err(queue::Closed::TooSoon) => return self.counters.requests_too_soon += 1,
            Err(queue::Closed::Full) => return self.counters.requests_dropped_gate_full += 1,
        }
        let is_member = network.and_then(|n| n.members.get(&key.1)).is_some_and(|m| m.settings.authorised);
        let line = if is_member { &mut self.answers } else { &mut self.strangers };
        if !line.push(key) {
            self.counters.requests_dropped_queue_full += 1;
            return;
        }
        self.pending.insert(key, request);
        self.work(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.ms() >= self.sweep_ms {
            self.sweep_ms = now.ms() + SWEEP_MS;
            self.sweep(now);
        }
        if now.ms() >= self.authentication_ms {
            self.authentication_ms = now.ms() + AUTHENTICATION_CHECK_MS;
            self.revoke_expired(now);
        }
        if !self.unsaved.is_empty() && now.ms() >= self.retry_ms {
            self.retry_unsaved(now);
        }
        self.work(now);
    }

    /// When [`Controller::handle_timeout`] is due, in the milliseconds of [`Now::ms`].
    pub fn poll_timeout(&self) -> Option<u64> {
        let has_work = !self.answers.is_empty() || !self.strangers.is_empty() || !self.pushes.is_empty();
        let ready_ms = self.budget.ready_ms();
        let due = [
            Some(self.sweep_ms),
            self.needs_authentication().then_some(self.authentication_ms),
            (!self.unsaved.is_empty()).then_some(self.retry_ms),
            has_work.then_some(ready_ms),
            self.news.next().map(|at_ms| at_ms.max(ready_ms)),
            self.changes.next(),
        ];
        due.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.out.pop_front();
        self.events -= usize::from(matches!(output, Some(Output::Event(_))));
        output
    }

    /// `member` got a configuration of `network` lately and is still authorised: it may LIKE and GATHER here.
    // spec: controller, "Sending"
    pub fn recently_authorised(&self, now: Now, network: NetworkId, member: Address) -> bool {
        let is_authorised = |n: &Network| n.members.get(&member).is_some_and(|m| m.settings.authorised);
        self.networks.get(&network).is_some_and(is_authorised)
            && self.listener(network, member).is_some_and(|l| l.may_use_registry(now.ms()))
    }

    /// When and from where `member` last asked; none if it did not since the start.
    pub fn seen(&self, now: Now, network: NetworkId, member: Address) -> Option<Seen> {
        let listener = self.listener(network, member)?;
        Some(Seen {
            unix_ms: listener.seen.unix_ms,
            physical: listener.physical,
            is_online: listener.is_online(now.ms()),
        })
    }

    fn listener(&self, network: NetworkId, member: Address) -> Option<&audience::Listener> {
        self.audiences.get(&network)?.get(member)
    }

    /// Does what waits, as far as the budget goes: revocations first, then members, unsolicited configurations, and
    /// strangers last.
    fn work(&mut self, now: Now) {
        self.budget.fill(now.ms());
        while let Some(changed) = self.changes.pop(now.ms()) {
            self.line_up_pushes(now, changed);
        }
        while self.budget.has_token() {
            if let Some(key) = self.news.pop(now.ms()) {
                self.tell(now, key);
            } else if let Some(key) = self.answers.pop() {
                self.answer_pending(now, key);
            } else if let Some(key) = self.pushes.pop() {
                self.budget.spend();
                self.push(now, key);
            } else if let Some(key) = self.strangers.pop() {
                self.answer_pending(now, key);
            } else {
                return;
            }
        }
    }

    fn answer_pending(&mut self, now: Now, key: MemberKey) {
        if let Some(request) = self.pending.remove(&key) {
            self.budget.spend();
            self.answer(now, request);
        }
    }

    fn line_up_pushes(&mut self, now: Now, (network, member): Key) {
        let Some(audience) = self.audiences.get(&network) else { return };
        let to: Vec<Address> = match member {
            Some(member) => vec![member],
            None => self.networks.get(&network).map_or(Vec::new(), |n| n.members.keys().copied().collect()),
        };
        for member in to {
            let listens = audience.get(member).is_some_and(|l| l.is_online(now.ms()));
            if listens && !self.pushes.push((network, member)) {
                self.counters.pushes_dropped_queue_full += 1;
            }
        }
    }

    /// Tells a member the next revocations it was not told of.
    fn tell(&mut self, now: Now, key: MemberKey) {
        let (network, member) = key;
        let free_ms = self.told_ms.get(&member).map_or(0, |at| at + network::constants::CREDENTIALS_SPACING_MS);
        if now.ms() < free_ms {
            return self.news.add(key, free_ms);
        }
        let Some(audience) = self.audiences.get_mut(&network) else { return };
        let Some(payload) = audience.news_for(member, &self.identity) else { return };
        if audience.has_news_for(member) {
            self.news.add(key, now.ms() + network::constants::CREDENTIALS_SPACING_MS);
        }
        self.budget.spend();
        self.told_ms.insert(member, now.ms());
        self.counters.revocation_packets += 1;
        self.out.push_back(Output::Revoke { to: member, payload });
    }

    /// Voids the certificates of a member that is one no longer, and tells those who are online.
    // spec: controller, "Revocation"
    fn revoke(&mut self, now: Now, network: NetworkId, target: Address) {
        let threshold_ms = self.clock.threshold(now);
        self.renew_lease(now);
        let id = self.rng.next_u32();
        let audience = self.audiences.entry(network).or_default();
        self.counters.revocations += 1;
        self.counters.revocations_forgotten += u64::from(audience.revoke(network, target, threshold_ms, id, now.ms()));
        for member in audience.members(now.ms()) {
            self.news.add((network, member), now.ms());
        }
    }

    fn sweep(&mut self, now: Now) {
        let networks = &self.networks;
        self.audiences.retain(|id, audience| {
            let network = networks.get(id);
            let window_ms = network.map_or(CREDENTIAL_WINDOW_MS, |n| n.settings.window_ms);
            audience.sweep(now.ms(), window_ms, |member| network.is_some_and(|n| n.members.contains_key(&member)));
            network.is_some() || !audience.is_empty()
        });
        self.told_ms.retain(|_, at| now.ms() < *at + network::constants::CREDENTIALS_SPACING_MS);
    }

    fn event(&mut self, event: Event) {
        if self.events >= EVENTS_MAX {
            self.counters.events_dropped += 1;
            return;
        }
        self.events += 1;
        self.out.push_back(Output::Event(event));
    }

    fn storage_failed(&mut self, now: Now, e: StoreError) {
        self.counters.storage_failures += 1;
        self.retry_ms = now.ms() + STORE_RETRY_MS;
        self.event(Event::StorageFailed { name: e.name, reason: e.reason });
    }

    /// Writes a record that members already depend on. If that fails it is tried again later.
    fn save(&mut self, now: Now, key: Key) {
        let record = self.networks.get(&key.0).and_then(|network| match key.1 {
            None => Some(&network.record),
            Some(member) => network.members.get(&member).map(|m| &m.record),
        });
        let Some(record) = record else { return };
        match self.storage.put(key, record) {
            Ok(()) => drop(self.unsaved.remove(&key)),
            Err(e) => {
                self.unsaved.insert(key);
                self.storage_failed(now, e);
            }
        }
    }

    fn retry_unsaved(&mut self, now: Now) {
        for key in std::mem::take(&mut self.unsaved) {
            self.save(now, key);
        }
    }

    /// Makes sure that nothing after a restart is older than what is sent now.
    fn renew_lease(&mut self, now: Now) {
        if let Some(lease_ms) = self.clock.renew_lease()
            && let Err(e) = self.storage.put_clock(lease_ms)
        {
            self.storage_failed(now, e);
        }
    }
}
