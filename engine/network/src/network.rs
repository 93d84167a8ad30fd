//! One joined network: its configuration, the gate, who was shown what and when. Must never know how a frame travels, nor
//! what waits for this network elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use wire::dictionary::DictionaryWriter;
use wire::message::{ConfigRequest, Credentials, Like};
use wire::{Address, Identity, Mac, MulticastGroup, NetworkId, Now, Revocation, Verb};

use crate::action::{Action, Surroundings};
use crate::addressing::AdHocRefusal;
use crate::assembly::Assembly;
use crate::bridge::{BridgeRoutes, BridgedGroups};
use crate::config::{Authentication, Config, Specialist};
use crate::constants::{
    CAPABILITIES_MAX, CAPABILITY_RULES_MAX, CONFIG_REFRESH_MS, CONFIG_VERSION, CREDENTIALS_PUSH_AGE_MS,
    CREDENTIALS_PUSH_ON_REQUEST_MS, CREDENTIALS_SPACING_MS, FLOOD_RECIPIENTS_MAX, LIKE_PERIOD_MS, LIKES_PER_PACKET,
    MEMBERS_MAX, MTU_DEFAULT, RULES_MAX, SPACED_PUSHES_MAX, SUBSCRIPTIONS_MAX, TAGS_MAX, TICK_MS,
};
use crate::counters::Counters;
use crate::ethernet::Ethernet;
use crate::membership::Membership;
use crate::rules::{self, Context, Direction, Emulated, Verdict};

/// One call into this room: the time, the world around, and what is to be done in the end.
pub(crate) struct Turn<'a> {
    pub now: Now,
    pub s: &'a mut dyn Surroundings,
    pub out: &'a mut Vec<Action>,
    pub counters: &'a mut Counters,
}

impl Turn<'_> {
    pub fn ms(&self) -> u64 {
        self.now.ms()
    }

    pub fn own(&self) -> Address {
        self.s.own().address()
    }

    /// The identity of an address, our own included.
    pub fn identity(&self, address: Address) -> Option<Arc<Identity>> {
        if address == self.own() { Some(Arc::new(self.s.own().clone())) } else { self.s.identity(address) }
    }

    /// Sends in the ordinary way; what is for ourselves vanishes.
    pub fn send(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool) {
        self.emit(to, verb, payload, compress, false);
    }

    /// Sends what is answered by an OK.
    pub fn request(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool) {
        self.emit(to, verb, payload, compress, true);
    }

    pub fn emit(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool, expect_reply: bool) {
        if payload.len() > wire::packet::MAX_PAYLOAD {
            self.counters.too_long += 1;
        } else if to != self.own() || verb == Verb::NetworkConfigRequest {
            self.out.push(Action::Send { to, verb, payload, compress, expect_reply });
        }
    }
}

/// How a network stands, with the number and name the service API gives it. // spec: networks, "Status values"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// No configuration yet, and no refusal.
    RequestingConfiguration = 0,
    /// A configuration is held.
    Ok = 1,
    /// The controller refuses us.
    AccessDenied = 2,
    /// The controller does not know the network, or is none.
    NotFound = 3,
    /// The TAP could not be set up.
    PortError = 4,
    /// The user must prove who he is.
    AuthenticationRequired = 6,
}

impl Status {
    /// The name the service API gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Status::RequestingConfiguration => "REQUESTING_CONFIGURATION",
            Status::Ok => "OK",
            Status::AccessDenied => "ACCESS_DENIED",
            Status::NotFound => "NOT_FOUND",
            Status::PortError => "PORT_ERROR",
            Status::AuthenticationRequired => "AUTHENTICATION_REQUIRED",
        }
    }
}

/// Why the controller gave no configuration. It does not take away the one held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    AccessDenied,
    NotFound,
    AuthenticationRequired,
}

/// What became of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Changed,
    Same,
    Refused,
}

/// A packet of credentials that waits for its distance to the one before.
#[derive(Debug)]
struct SpacedPush {
    due_ms: u64,
    to: Address,
    generation: u64,
    packet: usize,
}

/// A network that this node has joined.
#[derive(Debug)]
pub struct Network {
    id: NetworkId,
    own: Address,
    mac: Mac,
    config: Option<Config>,
    /// Counts the configurations that were applied.
    generation: u64,
    /// NETWORK_CREDENTIALS payloads that show our credentials.
    credentials: Vec<Vec<u8>>,
    emulated: Emulated,
    fast: bool,
    updated_ms: Option<u64>,
    requested_ms: Option<u64>,
    failure: Option<Failure>,
    port_error: bool,
    authentication: Option<Authentication>,
    members: BTreeMap<Address, Membership>,
    spaced: VecDeque<SpacedPush>,
    subscriptions: BTreeSet<MulticastGroup>,
    announced_ms: Option<u64>,
    pub(crate) bridged: BridgedGroups,
    pub(crate) routes: BridgeRoutes,
    pub(crate) assembly: Assembly,
}

/// What others may know of a network.
impl Network {
    /// Its ID.
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// Our MAC on it.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        match (self.port_error, self.failure, &self.config) {
            (true, ..) => Status::PortError,
            (_, Some(Failure::AccessDenied), _) => Status::AccessDenied,
            (_, Some(Failure::NotFound), _) => Status::NotFound,
            (_, Some(Failure::AuthenticationRequired), _) => Status::AuthenticationRequired,
            (_, None, Some(_)) => Status::Ok,
            (_, None, None) => Status::RequestingConfiguration,
        }
    }

    /// The configuration held.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// MTU of the TAP, bytes.
    pub fn mtu(&self) -> u16 {
        self.config.as_ref().map_or(MTU_DEFAULT, |c| c.mtu)
    }

    /// How the user is to prove who he is, if the controller said so.
    pub fn authentication(&self) -> Option<&Authentication> {
        self.authentication.as_ref()
    }

    /// Groups the TAP is subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = MulticastGroup> + '_ {
        self.subscriptions.iter().copied()
    }

    /// Members on record.
    pub fn members(&self) -> impl Iterator<Item = (Address, &Membership)> {
        self.members.iter().map(|(&a, m)| (a, m))
    }

    /// The record of one member.
    pub fn member(&self, address: Address) -> Option<&Membership> {
        self.members.get(&address)
    }

    /// The base rules provably accept every IPv4, IPv6 and ARP frame from member to member, both ways and without side
    /// effects, so that such unicast frames need not be evaluated.
    pub fn fast(&self) -> bool {
        self.fast
    }
}

impl Network {
    pub(crate) fn new(id: NetworkId, own: Address) -> Network {
        Network {
            id,
            own,
            mac: Mac::of_member(id, own),
            config: None,
            generation: 0,
            credentials: Vec::new(),
            emulated: Emulated::default(),
            fast: false,
            updated_ms: None,
            requested_ms: None,
            failure: None,
            port_error: false,
            authentication: None,
            members: BTreeMap::new(),
            spaced: VecDeque::new(),
            subscriptions: BTreeSet::new(),
            announced_ms: None,
            bridged: BridgedGroups::default(),
            routes: BridgeRoutes::default(),
            assembly: Assembly::default(),
        }
    }

    pub(crate) fn is_subscribed(&self, group: &MulticastGroup) -> bool {
        self.subscriptions.contains(group) || self.bridged.contains(group)
    }

    pub(crate) fn has_role(&self, address: Address, role: u64) -> bool {
        self.config.as_ref().is_some_and(|c| c.has_role(address, role))
    }

    pub(crate) fn set_port_error(&mut self, turn: &mut Turn<'_>, error: bool) {
        if self.port_error != error {
            self.port_error = error;
            turn.out.push(Action::Changed(self.id));
        }
    }

    pub(crate) fn fail(&mut self, turn: &mut Turn<'_>, failure: Failure, authentication: Option<Authentication>) {
        if self.failure != Some(failure) || self.authentication != authentication {
            self.failure = Some(failure);
            self.authentication = authentication;
            turn.out.push(Action::Changed(self.id));
        }
    }
}

/// Configuration.
impl Network {
    /// When the next request for a configuration is due.
    // spec: networks, "When a request is sent"
    pub(crate) fn request_due_ms(&self) -> u64 {
        let retry = self.requested_ms.map_or(0, |at| at + TICK_MS);
        match (&self.config, self.updated_ms) {
            (Some(_), Some(at)) => retry.max(at + CONFIG_REFRESH_MS),
            _ => retry,
        }
    }

    pub(crate) fn request_soon(&mut self) {
        if self.config.is_none() {
            self.requested_ms = None;
        }
    }

    /// Asks the controller, or makes the configuration of an ad-hoc network.
    pub(crate) fn request(&mut self, turn: &mut Turn<'_>) {
        self.requested_ms = Some(turn.ms());
        if self.id.is_ad_hoc() {
            return self.configure_ad_hoc(turn);
        }
        let held = self.config.as_ref();
        let request = ConfigRequest {
            network: self.id,
            metadata: &request_metadata(),
            revision: held.map_or(0, |c| c.revision),
            timestamp: held.map_or(0, |c| c.timestamp),
        };
        let mut payload = Vec::new();
        request.write(&mut payload);
        turn.request(self.id.controller(), Verb::NetworkConfigRequest, payload, true);
    }

    fn configure_ad_hoc(&mut self, turn: &mut Turn<'_>) {
        match Config::ad_hoc(self.id, self.own, turn.now.unix_ms) {
            Ok(config) => {
                self.apply(turn, config, true);
            }
            Err(AdHocRefusal::EmptyPortRange) => self.fail(turn, Failure::NotFound, None),
            Err(AdHocRefusal::UnknownForm) => {}
        }
    }

    /// Takes the configuration kept from the last run; false if it is none of ours.
    pub(crate) fn restore(&mut self, turn: &mut Turn<'_>, dictionary: &[u8]) -> bool {
        match Config::parse(dictionary) {
            Ok(config) if self.is_ours(&config) => {
                self.install(turn, config);
                true
            }
            _ => false,
        }
    }

    /// Takes a new configuration. `asked_for`: it answers our own request and came from the controller itself, or we made
    /// it; only such a one may be older than the one held. // spec: networks, "Applying"
    pub(crate) fn apply(&mut self, turn: &mut Turn<'_>, config: Config, asked_for: bool) -> Applied {
        if !self.is_ours(&config) {
            turn.counters.configs_refused += 1;
            return Applied::Refused;
        }
        if let Some(held) = &self.config {
            if *held == config {
                return Applied::Same;
            }
            if config.timestamp < held.timestamp && !asked_for {
                turn.counters.configs_rolled_back += 1;
                return Applied::Refused;
            }
        }
        self.updated_ms = Some(turn.ms());
        self.failure = None;
        self.authentication = None;
        if !self.id.is_ad_hoc() {
            turn.out.push(Action::StoreConfig { network: self.id, dictionary: config.to_dictionary() });
        }
        self.install(turn, config);
        Applied::Changed
    }

    fn is_ours(&self, config: &Config) -> bool {
        config.network == self.id && config.issued_to == self.own
    }

    fn install(&mut self, turn: &mut Turn<'_>, config: Config) {
        self.generation += 1;
        self.credentials = credential_packets(&config);
        self.emulated = Emulated::new(self.id, self.own, config.flags, config.addresses.iter().map(|p| p.addr));
        self.fast = rules::accepts_all_ip(config.rules.rules());
        self.config = Some(config);
        turn.out.push(Action::Changed(self.id));
        let members: Vec<Address> = self.members.keys().copied().collect();
        for address in members {
            self.judge(turn, address);
        }
    }
}

/// The gate.
impl Network {
    /// Judges a member anew; says so if the verdict changed, and returns true if it is allowed now and was not before.
    pub(crate) fn judge(&mut self, turn: &mut Turn<'_>, address: Address) -> bool {
        let Some(member) = self.members.get_mut(&address) else { return false };
        if let Some(identity) = turn.identity(address) {
            member.is(&identity);
        }
        self.tell(turn, address)
    }

    /// As [`Network::judge`], for somebody whose identity is at hand.
    pub(crate) fn judge_as(&mut self, turn: &mut Turn<'_>, identity: &Identity) -> bool {
        let Some(member) = self.members.get_mut(&identity.address()) else { return false };
        member.is(identity);
        self.tell(turn, identity.address())
    }

    fn tell(&mut self, turn: &mut Turn<'_>, address: Address) -> bool {
        let Some(member) = self.members.get_mut(&address) else { return false };
        let allowed = member.judge(self.config.as_ref());
        let changed = std::mem::replace(&mut member.told_allowed, allowed) != allowed;
        if changed {
            turn.out.push(Action::Member { network: self.id, address, allowed });
        }
        changed && allowed
    }

    /// A member with this address is on record, and was taken for another one or for nobody so far.
    pub(crate) fn is_news(&self, address: Address, identity: &Identity) -> bool {
        self.members.get(&address).is_some_and(|m| m.identity() != Some(identity))
    }

    /// The member gave a sign of life.
    pub(crate) fn heard(&mut self, turn: &Turn<'_>, member: &Identity) {
        if let Some(member) = self.members.get_mut(&member.address()) {
            member.heard_ms = turn.ms();
        }
    }

    pub(crate) fn member_mut(&mut self, address: Address) -> Option<&mut Membership> {
        self.members.get_mut(&address)
    }

    /// Puts a new member on record; false if there is no room.
    pub(crate) fn add_member(&mut self, turn: &mut Turn<'_>, address: Address, member: Membership) -> bool {
        let heard_ms = turn.ms();
        self.record(turn, address).map(|m| *m = member.heard(heard_ms)).is_some()
    }

    /// May this peer talk to us now? If so it is told our groups when that is due.
    // spec: networks, "The gate: may this peer talk to us on this network"
    pub(crate) fn admits(&mut self, turn: &mut Turn<'_>, peer: &Identity) -> bool {
        let address = peer.address();
        let public = self.config.as_ref().is_some_and(|c| c.public);
        if public {
            self.record(turn, address);
        }
        let Some(member) = self.members.get(&address) else { return public };
        if member.identity() != Some(peer) || (public && !member.allowed()) {
            self.judge_as(turn, peer);
        }
        let Some(member) = self.members.get_mut(&address).filter(|m| m.allowed()) else { return false };
        member.heard_ms = turn.ms();
        self.announce_to_member(turn, address);
        true
    }

    /// The record of an address, made if there is room. In a full table it takes the place of the one without credentials
    /// that was unheard for longest; those with credentials stay.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, address: Address) -> Option<&mut Membership> {
        if !self.members.contains_key(&address) && self.members.len() >= MEMBERS_MAX {
            turn.counters.members_full += 1;
            let hollow = self.members.iter().filter(|(_, m)| m.is_hollow()).min_by_key(|(_, m)| m.heard_ms);
            let evicted = hollow.map(|(&a, _)| a)?;
            if self.members.remove(&evicted).is_some_and(|m| m.told_allowed) {
                turn.out.push(Action::Member { network: self.id, address: evicted, allowed: false });
            }
        }
        Some(self.members.entry(address).or_insert_with(|| Membership::default().heard(turn.ms())))
    }

    /// Forgets members of whom nothing is lost. // spec: networks, "Storing others' credentials"
    pub(crate) fn sweep(&mut self, turn: &mut Turn<'_>) {
        let (now_ms, config) = (turn.ms(), self.config.as_ref());
        self.members.retain(|&address, member| {
            let spent = member.is_spent(now_ms, config);
            if spent && member.told_allowed {
                turn.out.push(Action::Member { network: self.id, address, allowed: false });
            }
            !spent
        });
        self.routes.sweep(now_ms);
        self.bridged.sweep(now_ms);
        self.assembly.sweep(now_ms);
    }

    /// Passes a new revocation on if it is a fast one; it ends where it is not new.
    // spec: networks, "Storing others' credentials"
    pub(crate) fn pass_on(&self, turn: &mut Turn<'_>, revocation: &Revocation, from: Address) {
        if revocation.flags & Revocation::FAST_PROPAGATE != 0 {
            let mut payload = Vec::new();
            Credentials { revocations: vec![revocation.clone()], ..Credentials::default() }.write(&mut payload);
            self.flood(turn, Verb::NetworkCredentials, &payload, [from, revocation.signer]);
        }
    }

    /// Passes a message on to everybody on record but these.
    pub(crate) fn flood(&self, turn: &mut Turn<'_>, verb: Verb, payload: &[u8], but: [Address; 2]) {
        let recipients = || self.members.keys().filter(|a| !but.contains(a));
        for &to in recipients().take(FLOOD_RECIPIENTS_MAX) {
            turn.send(to, verb, payload.to_vec(), false);
        }
        turn.counters.floods_cut += recipients().count().saturating_sub(FLOOD_RECIPIENTS_MAX) as u64;
    }
}

/// Showing our credentials. // spec: networks, "Pushing our credentials"
impl Network {
    /// Before a frame to a member.
    pub(crate) fn push_before_frame(&mut self, turn: &mut Turn<'_>, to: Address) {
        self.push(turn, to, CREDENTIALS_PUSH_AGE_MS);
    }

    /// A peer says that it lacks them.
    pub(crate) fn push_on_request(&mut self, turn: &mut Turn<'_>, to: Address) {
        if self.config.as_ref().is_some_and(|c| c.com.is_some()) {
            self.push(turn, to, CREDENTIALS_PUSH_ON_REQUEST_MS);
        }
    }

    fn push(&mut self, turn: &mut Turn<'_>, to: Address, age_ms: u64) {
        if self.credentials.is_empty() || to == self.own {
            return;
        }
        let (now_ms, generation) = (turn.ms(), self.generation);
        let Some(member) = self.record(turn, to) else { return };
        let shown = |(from, at): (u64, u64)| from == generation && now_ms.saturating_sub(at) <= age_ms;
        if member.pushed.is_some_and(shown) {
            return;
        }
        member.pushed = Some((generation, now_ms));
        self.push_packet(turn, to, 0);
    }

    /// Sends one packet of the set and puts the next one in line. A receiver reads one packet a second.
    fn push_packet(&mut self, turn: &mut Turn<'_>, to: Address, packet: usize) {
        let Some(payload) = self.credentials.get(packet) else { return };
        turn.send(to, Verb::NetworkCredentials, payload.clone(), true);
        if packet + 1 >= self.credentials.len() {
            return;
        }
        if self.spaced.len() >= SPACED_PUSHES_MAX {
            turn.counters.spaced_pushes_full += 1;
            return;
        }
        let due_ms = turn.ms() + CREDENTIALS_SPACING_MS;
        self.spaced.push_back(SpacedPush { due_ms, to, generation: self.generation, packet: packet + 1 });
    }

    pub(crate) fn spaced_due_ms(&self) -> Option<u64> {
        self.spaced.front().map(|p| p.due_ms)
    }

    /// Sends the packets whose time has come; those of a former configuration are superseded.
    pub(crate) fn push_spaced(&mut self, turn: &mut Turn<'_>) {
        while self.spaced.front().is_some_and(|p| p.due_ms <= turn.ms()) {
            if let Some(push) = self.spaced.pop_front()
                && push.generation == self.generation
            {
                self.push_packet(turn, push.to, push.packet);
            }
        }
    }
}

/// Announcing our groups. // spec: networks, "MULTICAST_LIKE (0x09)"
impl Network {
    /// Takes the groups of the TAP; new ones are announced at once.
    pub(crate) fn subscribe(&mut self, turn: &mut Turn<'_>, mut groups: BTreeSet<MulticastGroup>) {
        while groups.len() > SUBSCRIPTIONS_MAX {
            groups.pop_last();
            turn.counters.subscriptions_cut += 1;
        }
        let new: Vec<_> = groups.difference(&self.subscriptions).copied().collect();
        self.subscriptions = groups;
        self.announce_new(turn, &new);
    }

    /// Tells everybody who should know about groups that just appeared; a member due for all groups gets all.
    pub(crate) fn announce_new(&mut self, turn: &mut Turn<'_>, groups: &[MulticastGroup]) {
        if groups.is_empty() || self.config.is_none() {
            return;
        }
        let keepers = self.keepers(turn);
        for &to in &keepers {
            send_likes(turn, self.id, to, groups);
        }
        let members = self.members.iter().filter(|(a, m)| m.allowed() && !keepers.contains(a));
        let members: Vec<_> = members.map(|(&a, _)| a).collect();
        turn.counters.floods_cut += members.len().saturating_sub(FLOOD_RECIPIENTS_MAX) as u64;
        for to in members.into_iter().take(FLOOD_RECIPIENTS_MAX) {
            if !self.announce_to_member(turn, to) {
                send_likes(turn, self.id, to, groups);
            }
        }
    }

    /// When upstreams, controller, anchors and replicators are to be told all groups again.
    pub(crate) fn announce_due_ms(&self) -> Option<u64> {
        self.config.as_ref()?;
        Some(self.announced_ms.map_or(0, |at| at + LIKE_PERIOD_MS))
    }

    pub(crate) fn announce_soon(&mut self) {
        self.announced_ms = None;
    }

    pub(crate) fn announce_to_keepers(&mut self, turn: &mut Turn<'_>) {
        self.announced_ms = Some(turn.ms());
        let groups = self.groups();
        for to in self.keepers(turn) {
            send_likes(turn, self.id, to, &groups);
        }
    }

    pub(crate) fn announce_to_members(&mut self, turn: &mut Turn<'_>) {
        let now_ms = turn.ms();
        let due = self.members.iter().filter(|(_, m)| m.allowed() && m.like_due(now_ms));
        for member in due.map(|(&a, _)| a).collect::<Vec<_>>() {
            self.announce_to_member(turn, member);
        }
    }

    /// All groups, if that is due; false if not.
    fn announce_to_member(&mut self, turn: &mut Turn<'_>, to: Address) -> bool {
        let now_ms = turn.ms();
        let Some(member) = self.members.get_mut(&to).filter(|m| m.like_due(now_ms)) else { return false };
        member.liked_ms = Some(now_ms);
        if !self.keepers(turn).contains(&to) {
            send_likes(turn, self.id, to, &self.groups());
        }
        true
    }

    /// Everything we announce.
    fn groups(&self) -> Vec<MulticastGroup> {
        let broadcast = self.config.as_ref().is_some_and(|c| c.has(Config::BROADCAST));
        let plain = broadcast.then_some(MulticastGroup { mac: Mac::BROADCAST, adi: 0 });
        let all: BTreeSet<_> = self.subscriptions.iter().copied().chain(self.bridged.iter()).chain(plain).collect();
        all.into_iter().collect()
    }

    /// Those who keep the network's groups: upstreams, controller, anchors, replicators.
    fn keepers(&self, turn: &Turn<'_>) -> BTreeSet<Address> {
        let mut keepers: BTreeSet<_> = turn.s.upstreams().into_iter().collect();
        if !self.id.is_ad_hoc() {
            keepers.insert(self.id.controller());
        }
        if let Some(config) = &self.config {
            keepers.extend(config.with_role(Specialist::ANCHOR | Specialist::REPLICATOR));
        }
        keepers.remove(&self.own);
        keepers
    }
}

/// Rules. // spec: networks, "Base rules, capabilities, and what is done"
impl Network {
    /// Whether a frame from our TAP may go to `to` (nobody yet: [`Address::ZERO`]). Copies that the rules want are sent.
    pub(crate) fn may_send(&self, turn: &mut Turn<'_>, frame: &Ethernet<'_>, to: Address, mirrors: bool) -> bool {
        let Some(config) = &self.config else { return false };
        let peer = self.members.get(&to).map(|m| m.usable(config));
        let context = self.context(config, Direction::Outbound, peer.as_ref().map(|p| p as _));
        let capabilities = config.capabilities.iter().map(|c| c.rules.rules());
        let frame = &frame.for_rules(self.own, to);
        let random = &mut || turn.s.random() as u32;
        let filtered = rules::filter(config.rules.rules(), capabilities, frame, &context, mirrors, random);
        self.send_copies(turn, frame, &filtered);
        if filtered.verdict == Verdict::Drop {
            turn.counters.filtered_outbound += 1;
        }
        filtered.verdict != Verdict::Drop
    }

    /// What becomes of a frame from a member. Copies that the rules want are sent.
    pub(crate) fn may_receive(&self, turn: &mut Turn<'_>, frame: &Ethernet<'_>, from: Address) -> Verdict {
        let Some(config) = &self.config else { return Verdict::Drop };
        let peer = self.members.get(&from).map(|m| m.usable(config));
        let context = self.context(config, Direction::Inbound, peer.as_ref().map(|p| p as _));
        let capabilities = peer.into_iter().flat_map(|p| p.capabilities());
        let frame = &frame.for_rules(from, self.own);
        let random = &mut || turn.s.random() as u32;
        let filtered = rules::filter(config.rules.rules(), capabilities, frame, &context, true, random);
        self.send_copies(turn, frame, &filtered);
        if filtered.verdict == Verdict::Drop {
            turn.counters.filtered_inbound += 1;
        }
        filtered.verdict
    }

    fn context<'a>(
        &'a self,
        config: &'a Config,
        direction: Direction,
        peer_claims: Option<&'a dyn rules::Claims>,
    ) -> Context<'a> {
        Context {
            network: self.id,
            own: self.own,
            direction,
            unknown_matches: config.has(Config::UNKNOWN_MATCHES),
            emulated: self.emulated,
            own_claims: config,
            peer_claims,
        }
    }

    fn send_copies(&self, turn: &mut Turn<'_>, frame: &rules::Frame<'_>, filtered: &rules::Filtered) {
        for copy in filtered.copies() {
            let mut payload = Vec::new();
            copy.message(self.id, frame).write(&mut payload);
            turn.send(copy.to, Verb::ExtFrame, payload, true);
        }
    }
}

fn send_likes(turn: &mut Turn<'_>, network: NetworkId, to: Address, groups: &[MulticastGroup]) {
    for some in groups.chunks(LIKES_PER_PACKET) {
        let mut payload = Vec::with_capacity(some.len() * Like::LEN);
        some.iter().for_each(|&group| Like { network, group }.write(&mut payload));
        turn.send(to, Verb::MulticastLike, payload, true);
    }
}

/// What a controller is told about the member that asks. Some controllers judge by it; the values are those of the
/// release whose behaviour this crate follows. // spec: networks, "NETWORK_CONFIG_REQUEST (verb 0x0b)"
fn request_metadata() -> Vec<u8> {
    let mut d = DictionaryWriter::new();
    d.u64("v", CONFIG_VERSION)
        .u64("vend", 1)
        .u64("pv", wire::packet::PROTO_VERSION.into())
        .u64("majv", 1)
        .u64("minv", 14)
        .u64("revv", 1)
        .u64("mr", RULES_MAX as u64)
        .u64("mc", CAPABILITIES_MAX as u64)
        .u64("mcr", CAPABILITY_RULES_MAX as u64)
        .u64("mt", TAGS_MAX as u64)
        .u64("f", 0)
        .u64("revr", 1)
        .text("o", &format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH));
    d.finish()
}

/// Our credentials as payloads that fit a packet, filled by their size on the wire.
// spec: networks, "Pushing our credentials"
fn credential_packets(config: &Config) -> Vec<Vec<u8>> {
    /// End of certificates and four counts.
    const FRAME: usize = 1 + 4 * 2;
    let mut packets = Vec::new();
    let mut packet = Credentials::default();
    let mut room = wire::packet::MAX_PAYLOAD - FRAME;
    let mut add = |size: usize, put: &mut dyn FnMut(&mut Credentials)| {
        if size > room && !packet.is_empty() {
            packets.push(std::mem::take(&mut packet));
            room = wire::packet::MAX_PAYLOAD - FRAME;
        }
        room = room.saturating_sub(size);
        put(&mut packet);
    };
    if let Some(com) = &config.com {
        add(size(|out| com.write(out)), &mut |p| p.coms.push(com.clone()));
    }
    for c in &config.capabilities {
        add(size(|out| c.write(out)), &mut |p| p.capabilities.push(c.clone()));
    }
    for t in &config.tags {
        add(size(|out| t.write(out)), &mut |p| p.tags.push(t.clone()));
    }
    for o in &config.ownerships {
        add(size(|out| o.write(out)), &mut |p| p.ownerships.push(o.clone()));
    }
    packets.push(packet);
    let written = |p: &Credentials| {
        let mut out = Vec::new();
        p.write(&mut out);
        out
    };
    packets.iter().filter(|p| !p.is_empty()).map(written).collect()
}

fn size(write: impl FnOnce(&mut Vec<u8>)) -> usize {
    let mut out = Vec::new();
    write(&mut out);
    out.len()
}
