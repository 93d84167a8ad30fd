//! What an evaluation of a network's rules needs, detached from the network: so that packet threads can filter frames
//! themselves. A snapshot is made anew when something in it changes and never changes itself. Must never know why a
//! member may claim what it claims, nor who asks.

use std::net::IpAddr;

use wire::rule::{Rule, RuleKind};
use wire::{Address, Mac, NetworkId};

use crate::config::Config;
use crate::membership::Usable;
use crate::rules::{self, Claims, Context, Direction, Emulated, Filtered, Frame};

/// TCP flags that differ between the segments that a super-frame is cut into: FIN, PSH and CWR.
const FLAGS_OF_SEGMENTS: u64 = 0x89;

/// Our side of a network: its rules, and what we may claim ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    network: NetworkId,
    own: Address,
    unknown_matches: bool,
    emulated: Emulated,
    base: Vec<Rule>,
    base_traits: Traits,
    ours: Standing,
}

/// What one side may claim by its usable credentials: tags, addresses, and the rules of its capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// By ascending id.
    tags: Vec<(u32, u32)>,
    ips: Vec<IpAddr>,
    macs: Vec<Mac>,
    /// By ascending id of the capability.
    capabilities: Vec<Vec<Rule>>,
    traits: Traits,
}

/// What is special about a set of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits {
    /// The answer for one frame is not always the same.
    random: bool,
    /// Copies may be wanted.
    copies: bool,
    /// Segments of one super-frame may be told apart.
    segments: bool,
}

impl Traits {
    fn of<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Traits {
        rules.into_iter().fold(Traits::default(), |found, rule| match rule.kind {
            RuleKind::Random(_) => Traits { random: true, segments: true, ..found },
            RuleKind::Tee(_) | RuleKind::Watch(_) | RuleKind::Redirect(_) => Traits { copies: true, ..found },
            RuleKind::FrameSize(_) | RuleKind::IntegerRange(_) => Traits { segments: true, ..found },
            RuleKind::Characteristics(mask) if mask & FLAGS_OF_SEGMENTS != 0 => Traits { segments: true, ..found },
            _ => found,
        })
    }

    fn and(self, other: Traits) -> Traits {
        Traits {
            random: self.random || other.random,
            copies: self.copies || other.copies,
            segments: self.segments || other.segments,
        }
    }
}

impl Policy {
    /// That of the member for whom the configuration is.
    pub fn of(config: &Config) -> Policy {
        let (network, own) = (config.network, config.issued_to);
        let base = config.rules.rules().to_vec();
        let ids = config.tags.iter().map(|t| t.id);
        let tags = ids.filter_map(|id| Some((id, config.tag(id)?))).collect();
        let capabilities = config.capabilities.iter().map(|c| c.rules.rules());
        let ips = config.ownerships.iter().flat_map(|o| o.ips()).collect();
        let macs = config.ownerships.iter().flat_map(|o| o.macs()).collect();
        Policy {
            network,
            own,
            unknown_matches: config.has(Config::UNKNOWN_MATCHES),
            emulated: Emulated::new(network, own, config.flags, config.addresses.iter().map(|p| p.addr)),
            base_traits: Traits::of(&base),
            base,
            ours: Standing::new(tags, ips, macs, capabilities),
        }
    }

    /// The whole filter, for a unicast frame between us and a member on record. Copies are wanted, not sent.
    pub fn filter(
        &self,
        direction: Direction,
        member: &Standing,
        frame: &Frame<'_>,
        random: &mut dyn FnMut() -> u32,
    ) -> Filtered {
        let context = Context {
            network: self.network,
            own: self.own,
            direction,
            unknown_matches: self.unknown_matches,
            emulated: self.emulated,
            own_claims: &self.ours,
            peer_claims: Some(member),
        };
        let capabilities = self.sender(direction, member).capabilities.iter().map(Vec::as_slice);
        rules::filter(&self.base, capabilities, frame, &context, true, random)
    }

    /// Whether frames that want copies wait for chance too: they must be judged once, by whoever sends the copies.
    pub fn chance_copies(&self, direction: Direction, member: &Standing) -> bool {
        let traits = self.base_traits.and(self.sender(direction, member).traits);
        traits.random && traits.copies
    }

    /// Segments of one super-frame of ours may get different verdicts.
    pub fn tells_segments_apart(&self) -> bool {
        self.base_traits.and(self.ours.traits).segments
    }

    /// Whose capabilities count.
    fn sender<'a>(&'a self, direction: Direction, member: &'a Standing) -> &'a Standing {
        match direction {
            Direction::Outbound => &self.ours,
            Direction::Inbound => member,
        }
    }
}

impl Standing {
    /// That of a member on record.
    pub fn of(member: Usable<'_>) -> Standing {
        let ips = member.ownerships().flat_map(|o| o.ips()).collect();
        let macs = member.ownerships().flat_map(|o| o.macs()).collect();
        Standing::new(member.tags().collect(), ips, macs, member.capabilities())
    }

    fn new<'r>(
        mut tags: Vec<(u32, u32)>,
        ips: Vec<IpAddr>,
        macs: Vec<Mac>,
        capabilities: impl Iterator<Item = &'r [Rule]>,
    ) -> Standing {
        tags.sort_unstable_by_key(|(id, _)| *id);
        let capabilities: Vec<Vec<Rule>> = capabilities.map(<[Rule]>::to_vec).collect();
        let traits = Traits::of(capabilities.iter().flatten());
        Standing { tags, ips, macs, capabilities, traits }
    }
}

impl Claims for Standing {
    fn tag(&self, id: u32) -> Option<u32> {
        let at = self.tags.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.tags[at].1)
    }

    fn owns_ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
    }

    fn owns_mac(&self, mac: Mac) -> bool {
        self.macs.contains(&mac)
    }
}
