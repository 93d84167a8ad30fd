//! One member's configuration: what the records say, with freshly signed certificates, as a dictionary in signed chunks.
//! Decides nothing: who may have it, and which addresses are his, is known when this is called.
// spec: controller, "Building the configuration"

use network::config::{Config, Dns, Route, Specialist};
use network::constants::{ADDRESSES_MAX, CAPABILITIES_MAX, DNS_SERVERS, SPECIALISTS_MAX, TAGS_MAX};
use wire::chunk::{ConfigChunk, MAX_CHUNK_DATA};
use wire::credential::{COO_MAX_THINGS, Capability, Com, Ownership, Tag};
use wire::dictionary::CONFIG_DICT;
use wire::rule::{Rule, RuleKind, RuleTable};
use wire::{Address, Identity, NetworkId, Prefix, SecretIdentity};

use crate::assign::Assigned;
use crate::record::{MemberSettings, NetworkSettings};

/// Links of a capability's custody chain: it cannot be handed on.
const CUSTODY_MAX: u8 = 1;
/// Number of the first certificate of ownership.
const OWNERSHIP_FIRST_ID: u32 = 1;

/// All that one configuration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The controller, who signs.
    pub controller: &'a SecretIdentity,
    /// The network.
    pub network: NetworkId,
    /// Its record.
    pub settings: &'a NetworkSettings,
    /// The member.
    pub member: &'a Identity,
    /// Its record.
    pub record: &'a MemberSettings,
    /// Its addresses.
    pub assigned: &'a Assigned,
    /// Members that may bridge, ascending.
    pub bridges: &'a [Address],
    /// The controller's clock, ms: timestamp of everything in it.
    pub timestamp_ms: u64,
    /// The member evaluates rules. If not it gets none, nor tags and capabilities.
    pub rules_engine: bool,
}

impl Parts<'_> {
    /// Signs the certificates and puts the configuration together.
    pub fn build(&self) -> Config {
        let settings = self.settings;
        let trace = self.record.trace.or(settings.trace);
        let emulation = if self.assigned.emulated { Config::NDP_EMULATION } else { 0 };
        let rules = if self.rules_engine { settings.rules.clone() } else { vec![Rule::new(RuleKind::Accept)] };
        let mut addresses = self.assigned.addresses.clone();
        addresses.truncate(ADDRESSES_MAX);
        Config {
            network: self.network,
            timestamp: self.timestamp_ms,
            credential_window_ms: settings.window_ms,
            revision: settings.revision,
            issued_to: self.member.address(),
            trace_target: trace.map(|t| t.target),
            trace_level: trace.map_or(0, |t| t.level),
            flags: if settings.broadcast { Config::BROADCAST } else { 0 } | emulation,
            multicast_limit: settings.multicast_limit,
            public: !settings.private,
            name: settings.name.clone(),
            mtu: settings.mtu,
            com: Some(self.com()),
            capabilities: self.capabilities(),
            tags: self.tags(),
            ownerships: self.ownerships(&addresses),
            specialists: self.bridges.iter().take(SPECIALISTS_MAX).map(|b| bridge(*b)).collect(),
            routes: settings
                .routes
                .iter()
                .map(|r| Route { target: r.target, via: r.via, flags: 0, metric: 0 })
                .collect(),
            addresses,
            rules: RuleTable::new(rules),
            dns: Dns {
                domain: settings.dns_domain.clone(),
                servers: settings.dns_servers.iter().copied().take(DNS_SERVERS).collect(),
            },
            authentication: Default::default(),
        }
    }

    fn com(&self) -> Com {
        let mut com = Com::new(self.network, self.member, self.timestamp_ms, self.settings.window_ms);
        com.sign(self.controller);
        com
    }

    fn capabilities(&self) -> Vec<Capability> {
        if !self.rules_engine {
            return Vec::new();
        }
        let defined = |id: &u32| self.settings.capabilities.iter().find(|c| c.id == *id);
        let held = self.record.capabilities.iter().filter_map(defined).take(CAPABILITIES_MAX);
        held.map(|capability| {
            let mut issued = Capability {
                network: self.network,
                timestamp: self.timestamp_ms as i64,
                id: capability.id,
                rules: RuleTable::new(capability.rules.clone()),
                max_custody: CUSTODY_MAX,
                custody: Vec::new(),
            };
            issued.sign(self.controller, self.member.address());
            issued
        })
        .collect()
    }

    fn tags(&self) -> Vec<Tag> {
        if !self.rules_engine {
            return Vec::new();
        }
        let held = self.record.tags.iter().take(TAGS_MAX);
        held.map(|(&id, &value)| {
            let mut tag = Tag {
                network: self.network,
                timestamp: self.timestamp_ms as i64,
                id,
                value,
                issued_to: self.member.address(),
                signer: Address::ZERO,
                signature: None,
            };
            tag.sign(self.controller);
            tag
        })
        .collect()
    }

    /// As many certificates as the addresses need: the reference leaves all beyond the first sixteen unowned.
    // spec: controller, "Traps"
    fn ownerships(&self, addresses: &[Prefix]) -> Vec<Ownership> {
        let certificate = |(id, owned): (u32, &[Prefix])| {
            let mut ownership = Ownership {
                network: self.network,
                timestamp: self.timestamp_ms as i64,
                flags: 0,
                id,
                things: owned.iter().map(|p| p.addr.into()).collect(),
                issued_to: self.member.address(),
                signer: Address::ZERO,
                signature: None,
            };
            ownership.sign(self.controller);
            ownership
        };
        (OWNERSHIP_FIRST_ID..).zip(addresses.chunks(COO_MAX_THINGS)).map(certificate).collect()
    }
}

fn bridge(member: Address) -> Specialist {
    Specialist(Specialist::ACTIVE_BRIDGE + member.to_u64())
}

/// The dictionary in signed chunks, each the payload of a NETWORK_CONFIG. None if it is more than members can hold.
// spec: controller, "Sending"
pub fn chunks(
    controller: &SecretIdentity,
    network: NetworkId,
    dictionary: &[u8],
    update_id: u64,
) -> Option<Vec<Vec<u8>>> {
    if dictionary.len() >= CONFIG_DICT {
        return None;
    }
    let total = dictionary.len() as u32;
    let chunk = |(n, data): (usize, &[u8])| {
        let index = (n * MAX_CHUNK_DATA) as u32;
        let mut chunk = ConfigChunk { network, data, flags: 0, update_id, total, index, signature: None };
        chunk.sign(controller);
        let mut payload = Vec::new();
        chunk.write(&mut payload);
        payload
    };
    Some(dictionary.chunks(MAX_CHUNK_DATA).enumerate().map(chunk).collect())
}
