//! One joined network: its configuration, the gate, who was shown what and when. Must never know how a frame travels, nor
//! what waits for this network elsewhere.

mod announce;
mod credentials;
mod filter;
mod gate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::dictionary::DictionaryWriter;
use wire::message::ConfigRequest;
use wire::{Address, Mac, MulticastGroup, NetworkId, Verb};

use crate::action::Action;
use crate::addressing::AdHocRefusal;
use crate::assembly::Assembly;
use crate::bridge::{BridgeRoutes, BridgedGroups};
use crate::config::{Authentication, Config};
use crate::constants::{
    CAPABILITIES_MAX, CAPABILITY_RULES_MAX, CONFIG_REFRESH_MS, CONFIG_VERSION, MTU_DEFAULT, RULES_MAX, TAGS_MAX,
    TICK_MS,
};
use crate::membership::Membership;
use crate::policy::{Policy, Standing};
use crate::rules::{self, Emulated};
use crate::turn::Turn;

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
    spaced: VecDeque<credentials::SpacedPush>,
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

    /// Counts the configurations that were in force: [`Network::policy`] and every [`Network::standing`] may be others
    /// when it has changed. [`Action::Standing`] tells of the rest.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Our side of the rules, as of now.
    pub fn policy(&self) -> Option<Policy> {
        self.config.as_ref().map(Policy::of)
    }

    /// What a member may claim, as of now.
    pub fn standing(&self, member: Address) -> Option<Standing> {
        let config = self.config.as_ref()?;
        self.members.get(&member).map(|m| Standing::of(m.usable(config)))
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
        self.credentials = credentials::credential_packets(&config);
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
