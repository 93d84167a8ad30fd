//! The rules engine: does a table accept a frame, and to whom do copies of it go. Everything is borrowed and nothing is
//! allocated, so that a shard may run it on every packet. Must never know how credentials are checked: what a member may
//! claim comes in through [`Claims`].
//!
//! This is the form of ZeroTier 1.14: a match that does not apply to a frame is false whether or not it carries NOT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::message::frame::{ExtFrame, FrameCopy};
use wire::rule::{Forward, IntegerRange, Range16, Rule, RuleKind, TagMatch};
use wire::{Address, Mac, NetworkId};

use crate::addressing;

/// Most copies one frame can cause: the capability's TEE or WATCH, the base table's, and a REDIRECT.
pub const MAX_COPIES: usize = 3;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_DSTOPTS: u8 = 60;
const IPPROTO_SCTP: u8 = 132;
const IPPROTO_MOBILITY: u8 = 135;
const IPPROTO_UDPLITE: u8 = 136;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const ARP_LEN: usize = 28;
/// IPv6 header, then an ICMPv6 neighbour solicitation or advertisement without options.
const NDP_LEN: usize = 64;
const ND_NEIGHBOR_SOLICIT: u8 = 0x87;
const ND_NEIGHBOR_ADVERT: u8 = 0x88;
/// Flag of an ICMP match: the code must fit too.
const ICMP_CODE_COUNTS: u8 = 0x01;

// spec: networks, "Characteristics bits"
const CHARACTERISTIC_INBOUND: u64 = 1 << 63;
const CHARACTERISTIC_MULTICAST: u64 = 1 << 62;
const CHARACTERISTIC_BROADCAST: u64 = 1 << 61;
const CHARACTERISTIC_SENDER_IP_AUTHENTICATED: u64 = 1 << 60;
const CHARACTERISTIC_SENDER_MAC_AUTHENTICATED: u64 = 1 << 59;

/// Which way the frame goes, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From our TAP to a member.
    Outbound,
    /// From a member to our TAP.
    Inbound,
}

/// What a member may claim by the credentials that are usable now. The implementor answers for their being verified,
/// in time and not revoked.
pub trait Claims {
    /// Value of the member's tag `id`.
    fn tag(&self, id: u32) -> Option<u32>;
    /// A certificate says that the member owns this IP address.
    fn owns_ip(&self, ip: IpAddr) -> bool;
    /// A certificate says that the member owns this MAC.
    fn owns_mac(&self, mac: Mac) -> bool;
}

/// The frame as the rules see it. VLAN tags are not looked into: a tagged frame has ethertype 0x8100.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Member that sends the frame.
    pub source: Address,
    /// Member that gets the frame; [`Address::ZERO`] in the first pass of multicast and of bridged unicast.
    pub destination: Address,
    /// Ethernet source.
    pub mac_source: Mac,
    /// Ethernet destination.
    pub mac_destination: Mac,
    /// Ethernet type.
    pub ethertype: u16,
    /// What follows the Ethernet header.
    pub payload: &'a [u8],
}

/// Which of our own addresses are computed ones, so that computed addresses of others count as owned by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emulated {
    six_plane: bool,
    rfc4193: bool,
}

impl Emulated {
    /// Flag of the configuration that switches NDP emulation on. // spec: networks, "Flags"
    const FLAG: u64 = 0x04;

    /// From the configuration's flags and static addresses.
    pub fn new(network: NetworkId, own: Address, flags: u64, static_ips: impl IntoIterator<Item = IpAddr>) -> Emulated {
        let mut emulated = Emulated::default();
        if flags & Emulated::FLAG == 0 {
            return emulated;
        }
        for ip in static_ips {
            emulated.six_plane |= ip == addressing::six_plane(network, own);
            emulated.rfc4193 |= ip == addressing::rfc4193(network, own);
        }
        emulated
    }

    /// `ip` is computed from the sender's own address. The reference takes any member's computed address from any
    /// member; an honest sender has no use for that. // spec: networks, "Traps and hardening"
    fn belongs_to(self, ip: Ipv6Addr, network: NetworkId, sender: Address) -> bool {
        (self.six_plane && addressing::six_plane_member(network, ip) == Some(sender))
            || (self.rfc4193 && addressing::rfc4193_member(network, ip) == Some(sender))
    }
}

/// What an evaluation knows besides the table and the frame.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The network the frame is on.
    pub network: NetworkId,
    /// Our own address.
    pub own: Address,
    /// Which way the frame goes.
    pub direction: Direction,
    /// Result of a match of unknown type: flag 0x08 of the configuration.
    pub unknown_matches: bool,
    /// Computed addresses that count as owned.
    pub emulated: Emulated,
    /// Our own tags and certificates of ownership.
    pub own_claims: &'a dyn Claims,
    /// Those of the other side: of the destination outbound, of the source inbound. None for a stranger.
    pub peer_claims: Option<&'a dyn Claims>,
}

/// How one table ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No ACCEPT, DROP or REDIRECT fired, or BREAK did.
    NoMatch,
    /// The frame is refused.
    Drop,
    /// The frame is accepted.
    Accept,
    /// Inbound: accepted even if the frame is not addressed to us, because a rule names us as observer.
    SuperAccept,
    /// The frame goes to this member instead.
    Redirect(Address),
}

/// A TEE or WATCH that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The observer.
    pub to: Address,
    /// Bytes of payload it gets.
    pub len: usize,
    /// WATCH: the observer acknowledges.
    pub watch: bool,
}

/// Result of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// How the table ended.
    pub decision: Decision,
    /// The last TEE or WATCH that fired. It counts only if the frame is accepted in the end.
    pub mirror: Option<Mirror>,
}

/// What the filter as a whole says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame stops here. Copies may still go out: that is how a redirected frame leaves.
    Drop,
    /// The frame goes its way if it is properly addressed.
    Accept,
    /// Inbound: the frame is delivered however it is addressed.
    SuperAccept,
}

/// One EXT_FRAME to send: the original MACs and ethertype, and the first `len` bytes of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyTo {
    /// Who gets it.
    pub to: Address,
    /// Why.
    pub kind: FrameCopy,
    /// Bytes of payload.
    pub len: usize,
}

impl CopyTo {
    /// The message that carries this copy of `frame`.
    pub fn message<'a>(&self, network: NetworkId, frame: &Frame<'a>) -> ExtFrame<'a> {
        ExtFrame {
            network,
            flags: self.kind.flags(),
            com: None,
            to: frame.mac_destination,
            from: frame.mac_source,
            ethertype: frame.ethertype,
            payload: &frame.payload[..self.len.min(frame.payload.len())],
        }
    }
}

/// Verdict and copies of the whole filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// What becomes of the frame.
    pub verdict: Verdict,
    copies: [Option<CopyTo>; MAX_COPIES],
}

impl Filtered {
    const DROP: Filtered = Filtered { verdict: Verdict::Drop, copies: [None; MAX_COPIES] };

    /// The copies to send, in the order in which the reference sends them.
    pub fn copies(&self) -> impl Iterator<Item = CopyTo> {
        self.copies.into_iter().flatten()
    }
}

/// The whole filter: base table, then capabilities (our own in ascending id outbound, the sender's usable ones inbound).
/// `mirrors` is false in the per-recipient pass of multicast and bridging, where TEE and WATCH were done before.
// spec: networks, "Base rules, capabilities, and what is done"
pub fn filter<'r>(
    base: &[Rule],
    capabilities: impl IntoIterator<Item = &'r [Rule]>,
    frame: &Frame<'_>,
    context: &Context<'_>,
    mirrors: bool,
    random: &mut dyn FnMut() -> u32,
) -> Filtered {
    let first = evaluate(base, frame, context, random);
    let accepted = match first.decision {
        Decision::Drop => return Filtered::DROP,
        Decision::NoMatch => capabilities
            .into_iter()
            .map(|rules| evaluate(rules, frame, context, random))
            .find(|e| !matches!(e.decision, Decision::Drop | Decision::NoMatch)),
        _ => Some(Evaluation { mirror: None, ..first }),
    };
    let Some(accepted) = accepted else { return Filtered::DROP };

    let mut filtered = match accepted.decision {
        Decision::SuperAccept if context.direction == Direction::Inbound => {
            Filtered { verdict: Verdict::SuperAccept, ..Filtered::DROP }
        }
        Decision::Redirect(to) => {
            let kind = match context.direction {
                Direction::Outbound => FrameCopy::RedirectOutbound,
                Direction::Inbound => FrameCopy::RedirectInbound,
            };
            let whole = CopyTo { to, kind, len: frame.payload.len() };
            Filtered { verdict: Verdict::Drop, copies: [None, None, Some(whole)] }
        }
        _ => Filtered { verdict: Verdict::Accept, ..Filtered::DROP },
    };
    if mirrors {
        filtered.copies[0] = accepted.mirror.map(|m| m.copy(context.direction));
        filtered.copies[1] = first.mirror.map(|m| m.copy(context.direction));
    }
    filtered
}

/// The table accepts every IPv4, ARP and IPv6 frame by its ethertype alone, in both directions and without copies: a
/// shard may then pass such frames between allowed members without asking. True of the usual default table.
pub fn accepts_all_ip(rules: &[Rule]) -> bool {
    [ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6].into_iter().all(|ethertype| {
        let mut set = true;
        for rule in rules {
            match rule.kind {
                RuleKind::Ethertype(wanted) => set = combine(set, rule, wanted == ethertype),
                RuleKind::Accept if set => return true,
                RuleKind::Drop if !set => set = true,
                _ => return false,
            }
        }
        false
    })
}

/// Evaluates one table. `random` gives the number a RANDOM match compares with.
// spec: networks, "Evaluation of one table"
pub fn evaluate(
    rules: &[Rule],
    frame: &Frame<'_>,
    context: &Context<'_>,
    random: &mut dyn FnMut() -> u32,
) -> Evaluation {
    let inbound = context.direction == Direction::Inbound;
    let layers = Layers::of(frame);
    let mut set = true;
    let mut skip_drop = false;
    let mut named_us = false;
    let mut mirror = None;
    let end = |decision, mirror| Evaluation { decision, mirror };

    for rule in rules {
        if !rule.kind.is_action() {
            if !set && !rule.or {
                continue;
            }
            let matched = match matches(&rule.kind, frame, &layers, context, named_us, random) {
                Match::Plain(hit) => hit != rule.not,
                Match::Hard(hit) => hit,
                Match::Benevolent => {
                    skip_drop = true;
                    true
                }
            };
            set = if rule.or { set || matched } else { set && matched };
            continue;
        }
        let observer = match rule.kind {
            RuleKind::Tee(f) | RuleKind::Watch(f) | RuleKind::Redirect(f) => Some(f.address),
            _ => None,
        };
        if !set {
            named_us |= inbound && observer == Some(context.own);
            set = true;
            continue;
        }
        if let Some(to) = observer {
            if to == frame.source || (to == context.own && !inbound) {
                continue;
            }
            if to == context.own {
                return end(Decision::SuperAccept, mirror);
            }
            if to == frame.destination {
                continue;
            }
        }
        match rule.kind {
            RuleKind::Drop if skip_drop => skip_drop = false,
            RuleKind::Drop => return end(Decision::Drop, mirror),
            RuleKind::Accept if named_us => return end(Decision::SuperAccept, mirror),
            RuleKind::Accept | RuleKind::Priority => return end(Decision::Accept, mirror),
            RuleKind::Break => return end(Decision::NoMatch, mirror),
            RuleKind::Redirect(f) => return end(Decision::Redirect(f.address), mirror),
            RuleKind::Tee(f) => mirror = Some(Mirror::new(f, false, frame)),
            RuleKind::Watch(f) => mirror = Some(Mirror::new(f, true, frame)),
            _ => {}
        }
    }
    end(Decision::NoMatch, mirror)
}

impl Mirror {
    fn new(forward: Forward, watch: bool, frame: &Frame<'_>) -> Mirror {
        let all = frame.payload.len();
        let len = if forward.length == 0 { all } else { all.min(forward.length.into()) };
        Mirror { to: forward.address, len, watch }
    }

    fn copy(self, direction: Direction) -> CopyTo {
        let kind = match (direction, self.watch) {
            (Direction::Outbound, false) => FrameCopy::TeeOutbound,
            (Direction::Outbound, true) => FrameCopy::WatchOutbound,
            (Direction::Inbound, false) => FrameCopy::TeeInbound,
            (Direction::Inbound, true) => FrameCopy::WatchInbound,
        };
        CopyTo { to: self.to, kind, len: self.len }
    }
}

fn combine(set: bool, rule: &Rule, hit: bool) -> bool {
    let matched = hit != rule.not;
    if rule.or { set || matched } else { set && matched }
}

/// Result of one match.
enum Match {
    /// Inverted by NOT.
    Plain(bool),
    /// Whatever NOT says.
    Hard(bool),
    /// True whatever NOT says, because the receiver knows better; the next DROP does not fire.
    Benevolent,
}

use Match::{Benevolent, Hard, Plain};

/// What of IP can be found in a frame.
struct Layers<'a> {
    ip: Ip<'a>,
    /// Protocol above IP and where its header starts.
    transport: Option<(u8, usize)>,
}

enum Ip<'a> {
    V4(&'a [u8; IPV4_HEADER_LEN]),
    V6(&'a [u8; IPV6_HEADER_LEN]),
    Neither,
}

impl<'a> Layers<'a> {
    fn of(frame: &Frame<'a>) -> Layers<'a> {
        let payload = frame.payload;
        match frame.ethertype {
            ETHERTYPE_IPV4 => match payload.first_chunk() {
                Some(ip) => Layers { ip: Ip::V4(ip), transport: Some((ip[9], usize::from(ip[0] & 0x0f) * 4)) },
                None => Layers { ip: Ip::Neither, transport: None },
            },
            ETHERTYPE_IPV6 => match payload.first_chunk() {
                Some(ip) => Layers { ip: Ip::V6(ip), transport: ipv6_transport(ip, payload) },
                None => Layers { ip: Ip::Neither, transport: None },
            },
            _ => Layers { ip: Ip::Neither, transport: None },
        }
    }
}

/// Walks the extension headers that may precede the transport header. // spec: networks, "Matches"
fn ipv6_transport(ip: &[u8; IPV6_HEADER_LEN], payload: &[u8]) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (ip[6], IPV6_HEADER_LEN);
    while matches!(protocol, IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS | IPPROTO_MOBILITY) {
        let header: &[u8; 8] = payload.get(at..)?.first_chunk()?;
        protocol = header[0];
        at += (usize::from(header[1]) + 1) * 8;
        if at > payload.len() {
            return None;
        }
    }
    Some((protocol, at))
}

/// One match against the frame. // spec: networks, "Matches"
fn matches(
    kind: &RuleKind,
    frame: &Frame<'_>,
    layers: &Layers<'_>,
    context: &Context<'_>,
    named_us: bool,
    random: &mut dyn FnMut() -> u32,
) -> Match {
    let never = Hard(false);
    match *kind {
        RuleKind::SourceAddress(a) => Plain(a == frame.source),
        RuleKind::DestAddress(a) => Plain(a == frame.destination),
        RuleKind::VlanId(id) => Plain(id == 0),
        RuleKind::VlanPcp(n) | RuleKind::VlanDei(n) => Plain(n == 0),
        RuleKind::MacSource(mac) => Plain(mac == frame.mac_source),
        RuleKind::MacDest(mac) => Plain(mac == frame.mac_destination),
        RuleKind::Ipv4Source(ip, bits) => match layers.ip {
            Ip::V4(h) => Plain(same_ipv4_network(ipv4_at(h, 12), ip, bits)),
            _ => never,
        },
        RuleKind::Ipv4Dest(ip, bits) => match layers.ip {
            Ip::V4(h) => Plain(same_ipv4_network(ipv4_at(h, 16), ip, bits)),
            _ => never,
        },
        RuleKind::Ipv6Source(ip, bits) => match layers.ip {
            Ip::V6(h) => Plain(masked_ipv6(ipv6_at(h, 8), bits) == ip),
            _ => never,
        },
        RuleKind::Ipv6Dest(ip, bits) => match layers.ip {
            Ip::V6(h) => Plain(masked_ipv6(ipv6_at(h, 24), bits) == ip),
            _ => never,
        },
        RuleKind::IpTos { mask, low, high } => {
            let tos = match layers.ip {
                Ip::V4(h) => h[1],
                Ip::V6(h) => (h[0] << 4) | (h[1] >> 4),
                Ip::Neither => return never,
            };
            Plain((low..=high).contains(&(tos & mask)))
        }
        RuleKind::IpProtocol(wanted) => match layers.transport {
            Some((protocol, _)) => Plain(protocol == wanted),
            None => never,
        },
        RuleKind::Ethertype(t) => Plain(t == frame.ethertype),
        RuleKind::Icmp { kind, code, flags } => match icmp_header(frame, layers) {
            Some((k, _)) if k != kind => never,
            Some(_) if flags & ICMP_CODE_COUNTS == 0 => Hard(true),
            Some((_, c)) => Plain(c == code),
            None => never,
        },
        RuleKind::SourcePorts(range) => port_in_range(frame, layers, 0, range),
        RuleKind::DestPorts(range) => port_in_range(frame, layers, 2, range),
        RuleKind::Characteristics(mask) => Plain(characteristics(frame, layers, context) & mask != 0),
        RuleKind::FrameSize(Range16 { low, high }) => {
            Plain((usize::from(low)..=usize::from(high)).contains(&frame.payload.len()))
        }
        RuleKind::Random(probability) => Plain(random() <= probability),
        RuleKind::TagsDifference(t) => compare_tags(t.id, context, named_us, |o, p| o.abs_diff(p) <= t.value),
        RuleKind::TagsAnd(t) => compare_tags(t.id, context, named_us, |o, p| o & p == t.value),
        RuleKind::TagsOr(t) => compare_tags(t.id, context, named_us, |o, p| o | p == t.value),
        RuleKind::TagsXor(t) => compare_tags(t.id, context, named_us, |o, p| o ^ p == t.value),
        RuleKind::TagsEqual(t) => compare_tags(t.id, context, named_us, |o, p| o == t.value && p == t.value),
        RuleKind::TagSender(t) => one_tag(t, Direction::Inbound, context, named_us),
        RuleKind::TagReceiver(t) => one_tag(t, Direction::Outbound, context, named_us),
        RuleKind::IntegerRange(range) => {
            let n = integer_at(frame.payload, &range);
            Plain(n.checked_sub(range.start).is_some_and(|beyond| beyond <= u64::from(range.span())))
        }
        _ => Plain(context.unknown_matches),
    }
}

fn ipv4_at(header: &[u8; IPV4_HEADER_LEN], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
}

fn ipv6_at(header: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    octets.into()
}

fn same_ipv4_network(a: Ipv4Addr, b: Ipv4Addr, bits: u8) -> bool {
    let ignored = 32 - u32::from(bits.min(32));
    (u64::from(a.to_bits()) >> ignored) == (u64::from(b.to_bits()) >> ignored)
}

fn masked_ipv6(ip: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
    Ipv6Addr::from_bits(ip.to_bits() & mask)
}

/// Type and code, if the frame is ICMP over IPv4 or ICMPv6 over IPv6.
fn icmp_header(frame: &Frame<'_>, layers: &Layers<'_>) -> Option<(u8, u8)> {
    let wanted = match layers.ip {
        Ip::V4(_) => IPPROTO_ICMP,
        Ip::V6(_) => IPPROTO_ICMPV6,
        Ip::Neither => return None,
    };
    let (protocol, at) = layers.transport?;
    match frame.payload.get(at..)? {
        [t, code, ..] if protocol == wanted => Some((*t, *code)),
        _ => None,
    }
}

/// The port `offset` bytes into the transport header.
fn port_in_range(frame: &Frame<'_>, layers: &Layers<'_>, offset: usize, range: Range16) -> Match {
    let Some((protocol, at)) = layers.transport else { return Hard(false) };
    if !matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP | IPPROTO_UDPLITE) || frame.payload.len() <= at + 4
    {
        return Plain(false);
    }
    let port = u16::from_be_bytes([frame.payload[at + offset], frame.payload[at + offset + 1]]);
    let readable = port != 0 || matches!(layers.ip, Ip::V4(_));
    Plain(readable && (range.low..=range.high).contains(&port))
}

/// What is special about a frame, as a set of bits. // spec: networks, "Characteristics bits"
fn characteristics(frame: &Frame<'_>, layers: &Layers<'_>, context: &Context<'_>) -> u64 {
    let inbound = context.direction == Direction::Inbound;
    let claims = if inbound { context.peer_claims } else { Some(context.own_claims) };
    let mut bits = tcp_bits(frame, layers);
    if inbound {
        bits |= CHARACTERISTIC_INBOUND;
    }
    if frame.mac_destination.is_multicast() {
        bits |= CHARACTERISTIC_MULTICAST;
    }
    if frame.mac_destination == Mac::BROADCAST {
        bits |= CHARACTERISTIC_BROADCAST;
    }
    let ip_is_authentic = match sender_ip(frame, layers) {
        SenderIp::Unspecified => false,
        SenderIp::Solicitation => true,
        SenderIp::Is(ip) => {
            let emulated = match ip {
                IpAddr::V6(v6) => inbound && context.emulated.belongs_to(v6, context.network, frame.source),
                IpAddr::V4(_) => false,
            };
            emulated || claims.is_some_and(|c| c.owns_ip(ip))
        }
    };
    if ip_is_authentic {
        bits |= CHARACTERISTIC_SENDER_IP_AUTHENTICATED;
    }
    if claims.is_some_and(|c| c.owns_mac(frame.mac_source)) {
        bits |= CHARACTERISTIC_SENDER_MAC_AUTHENTICATED;
    }
    bits
}

/// Reserved bits and flags of a TCP header. Bytes beyond the end of an IPv4 frame are read as 0.
fn tcp_bits(frame: &Frame<'_>, layers: &Layers<'_>) -> u64 {
    let Some((IPPROTO_TCP, at)) = layers.transport else { return 0 };
    let byte = |i: usize| u64::from(frame.payload.get(at + i).copied().unwrap_or(0));
    match layers.ip {
        Ip::V6(_) if frame.payload.len() <= at + 14 => 0,
        _ => ((byte(12) & 0x0f) << 8) | byte(13),
    }
}

/// Whose address a frame claims to come from.
enum SenderIp {
    Is(IpAddr),
    /// Neighbour solicitations always pass as authenticated.
    Solicitation,
    Unspecified,
}

fn sender_ip(frame: &Frame<'_>, layers: &Layers<'_>) -> SenderIp {
    let payload = frame.payload;
    match layers.ip {
        Ip::V4(h) => SenderIp::Is(ipv4_at(h, 12).into()),
        Ip::V6(h) if payload.len() >= NDP_LEN && h[6] == IPPROTO_ICMPV6 => match payload[IPV6_HEADER_LEN] {
            ND_NEIGHBOR_SOLICIT => SenderIp::Solicitation,
            ND_NEIGHBOR_ADVERT => SenderIp::Is(ipv6_at(payload, 48).into()),
            _ => SenderIp::Is(ipv6_at(h, 8).into()),
        },
        Ip::V6(h) => SenderIp::Is(ipv6_at(h, 8).into()),
        Ip::Neither => match payload.first_chunk::<ARP_LEN>() {
            Some(arp) if frame.ethertype == ETHERTYPE_ARP => {
                SenderIp::Is(Ipv4Addr::new(arp[14], arp[15], arp[16], arp[17]).into())
            }
            _ => SenderIp::Unspecified,
        },
    }
}

/// Both sides' tags together. // spec: networks, "Tags"
fn compare_tags(id: u32, context: &Context<'_>, named_us: bool, holds: impl Fn(u32, u32) -> bool) -> Match {
    let Some(own) = context.own_claims.tag(id) else { return Hard(false) };
    match context.peer_claims.and_then(|c| c.tag(id)) {
        Some(peer) => Plain(holds(own, peer)),
        None if context.direction == Direction::Inbound && !named_us => Hard(false),
        None => Benevolent,
    }
}

/// One side's tag: the peer's if the frame goes in `peers_in`, else ours. // spec: networks, "Tags"
fn one_tag(tag: TagMatch, peers_in: Direction, context: &Context<'_>, named_us: bool) -> Match {
    if named_us {
        return Benevolent;
    }
    if context.direction != peers_in {
        return context.own_claims.tag(tag.id).map_or(Hard(false), |own| Plain(own == tag.value));
    }
    match context.peer_claims.and_then(|c| c.tag(tag.id)) {
        Some(peer) => Plain(peer == tag.value),
        None if peers_in == Direction::Outbound => Benevolent,
        None => Hard(false),
    }
}

/// The integer an INTEGER_RANGE looks at; 0 if any of its bytes is outside. // spec: networks, "INTEGER_RANGE"
fn integer_at(payload: &[u8], range: &IntegerRange) -> u64 {
    let bits = range.bits();
    let len = bits.div_ceil(8) as usize;
    let start = usize::from(range.index) + if range.is_little_endian() { 0 } else { 8 - len };
    let Some(bytes) = payload.get(start..start + len) else { return 0 };
    let mut word = [0; 8];
    word[8 - len..].copy_from_slice(bytes);
    if range.is_little_endian() {
        u64::from_le_bytes(word) >> (64 - bits)
    } else {
        u64::from_be_bytes(word) & (u64::MAX >> (64 - bits))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::rule::{NET_MAX_RULES, RuleTable};

    use super::*;

    const NETWORK: NetworkId = NetworkId(0x01ec4f9b42000042);
    const ALICE: Address = Address::from_u64(0xfcac9e2c1f);
    const BOB: Address = Address::from_u64(0x92514cdce8);

    /// The usual default network: drop unless IPv4, ARP or IPv6; accept.
    const DEFAULT_TABLE: &str = "a5020800a5020806a50286dd00000100";
    // spec: networks, "Worked examples", SSH only to tagged servers
    const SSH_TO_TAGGED: &str = "320800000064000000072401062804001600160100a908000000000000000224010601000000";

    struct Nobody;
    impl Claims for Nobody {
        fn tag(&self, _: u32) -> Option<u32> {
            None
        }
        fn owns_ip(&self, _: IpAddr) -> bool {
            false
        }
        fn owns_mac(&self, _: Mac) -> bool {
            false
        }
    }

    struct Tag100(u32);
    impl Claims for Tag100 {
        fn tag(&self, id: u32) -> Option<u32> {
            (id == 100).then_some(self.0)
        }
        fn owns_ip(&self, _: IpAddr) -> bool {
            false
        }
        fn owns_mac(&self, _: Mac) -> bool {
            false
        }
    }

    fn table(hex: &str) -> RuleTable {
        RuleTable::parse(&hex::decode(hex).unwrap(), NET_MAX_RULES).unwrap()
    }

    fn context<'a>(direction: Direction, own: &'a dyn Claims, peer: Option<&'a dyn Claims>) -> Context<'a> {
        Context {
            network: NETWORK,
            own: ALICE,
            direction,
            unknown_matches: false,
            emulated: Emulated::default(),
            own_claims: own,
            peer_claims: peer,
        }
    }

    fn frame(direction: Direction, ethertype: u16, payload: &[u8]) -> Frame<'_> {
        let (source, destination) = match direction {
            Direction::Outbound => (ALICE, BOB),
            Direction::Inbound => (BOB, ALICE),
        };
        Frame {
            source,
            destination,
            mac_source: Mac::of_member(NETWORK, source),
            mac_destination: Mac::of_member(NETWORK, destination),
            ethertype,
            payload,
        }
    }

    fn decide(rules: &str, frame: &Frame<'_>, context: &Context<'_>) -> Decision {
        evaluate(table(rules).rules(), frame, context, &mut || 0).decision
    }

    fn ipv4(protocol: u8, port: u16, tcp_flags: u8) -> Vec<u8> {
        let mut p = vec![0; 40];
        p[0] = 0x45;
        p[9] = protocol;
        p[22..24].copy_from_slice(&port.to_be_bytes());
        p[33] = tcp_flags;
        p
    }

    #[test]
    fn the_default_table_accepts_ip_and_drops_the_rest() {
        let nobody = context(Direction::Outbound, &Nobody, None);
        assert_eq!(decide(DEFAULT_TABLE, &frame(Direction::Outbound, 0x0800, &[]), &nobody), Decision::Accept);
        assert_eq!(decide(DEFAULT_TABLE, &frame(Direction::Outbound, 0x88cc, &[]), &nobody), Decision::Drop);
    }

    #[test]
    fn a_sender_lets_pass_what_only_the_receiver_can_judge() {
        let (syn, udp) = (ipv4(6, 22, 0x02), ipv4(17, 22, 0));
        let out = context(Direction::Outbound, &Nobody, None);
        assert_eq!(decide(SSH_TO_TAGGED, &frame(Direction::Outbound, 0x0800, &syn), &out), Decision::Accept);
        // The DROP at the end is consumed, not fired.
        assert_eq!(decide(SSH_TO_TAGGED, &frame(Direction::Outbound, 0x0800, &udp), &out), Decision::NoMatch);
    }

    #[test]
    fn known_tags_decide_strictly_on_both_sides() {
        let (ssh, web, ack) = (ipv4(6, 22, 0x02), ipv4(6, 80, 0x02), ipv4(6, 80, 0x10));
        let tag = Tag100(5);
        let out = context(Direction::Outbound, &Nobody, Some(&tag));
        assert_eq!(decide(SSH_TO_TAGGED, &frame(Direction::Outbound, 0x0800, &web), &out), Decision::Drop);
        let inbound = context(Direction::Inbound, &tag, None);
        assert_eq!(decide(SSH_TO_TAGGED, &frame(Direction::Inbound, 0x0800, &ssh), &inbound), Decision::Drop);
        assert_eq!(decide(SSH_TO_TAGGED, &frame(Direction::Inbound, 0x0800, &ack), &inbound), Decision::Accept);
    }

    #[test]
    fn a_match_that_does_not_apply_is_false_even_with_not() {
        let arp = frame(Direction::Outbound, 0x0806, &[0; 28]);
        let nobody = context(Direction::Outbound, &Nobody, None);
        // not IP protocol 6: drop; accept
        assert_eq!(decide("a4010600000100", &arp, &nobody), Decision::Accept);
    }

    #[test]
    fn only_tables_that_decide_ip_by_its_ethertype_may_be_skipped() {
        assert!(accepts_all_ip(table(DEFAULT_TABLE).rules()));
        assert!(accepts_all_ip(table("0100").rules()));
        assert!(!accepts_all_ip(&[]));
        assert!(!accepts_all_ip(table("0000").rules()));
        assert!(!accepts_all_ip(table("250208000100").rules()), "IPv6 falls off its end");
        assert!(!accepts_all_ip(table(SSH_TO_TAGGED).rules()));
        assert!(!accepts_all_ip(table("020e00000089ec7f4bb800000000000801 00".replace(' ', "").as_str()).rules()));
        let port_form = addressing::AdHoc::configuration(NetworkId(0xff00160016000000), ALICE).unwrap();
        assert!(!accepts_all_ip(table(&hex::encode(port_form.rules)).rules()));
    }

    #[test]
    fn truncated_tcp_headers_have_no_flags() {
        let characteristics_any_tcp_flag = "29080000000000000fff0100";
        let short = &ipv4(6, 22, 0xff)[..33];
        let nobody = context(Direction::Outbound, &Nobody, None);
        let cut = frame(Direction::Outbound, 0x0800, short);
        assert_eq!(decide(characteristics_any_tcp_flag, &cut, &nobody), Decision::NoMatch);
    }

    #[test]
    fn an_emulated_address_counts_only_for_the_member_it_is_computed_from() {
        let emulated = Emulated::new(NETWORK, ALICE, 0x04, [addressing::six_plane(NETWORK, ALICE).into()]);
        assert!(emulated.belongs_to(addressing::six_plane(NETWORK, BOB), NETWORK, BOB));
        assert!(!emulated.belongs_to(addressing::six_plane(NETWORK, ALICE), NETWORK, BOB));
        assert!(!emulated.belongs_to(addressing::rfc4193(NETWORK, BOB), NETWORK, BOB));
        let off = Emulated::new(NETWORK, ALICE, 0x02, [addressing::six_plane(NETWORK, ALICE).into()]);
        assert_eq!(off, Emulated::default());
    }

    /// Every table that parses, every frame, both directions: an answer and no panic, and copies never longer than the
    /// frame.
    fn answers(rules: &[u8], ethertype: u16, payload: &[u8], tags: Option<u32>, random: u32) {
        let Ok(table) = RuleTable::parse(rules, NET_MAX_RULES) else { return };
        let tag = Tag100(tags.unwrap_or(0));
        let peer = tags.is_some().then_some(&tag as &dyn Claims);
        for direction in [Direction::Outbound, Direction::Inbound] {
            let frame = frame(direction, ethertype, payload);
            let context = context(direction, &tag, peer);
            let filtered = filter(table.rules(), [table.rules()], &frame, &context, true, &mut || random);
            assert!(filtered.copies().all(|copy| copy.len <= payload.len()));
        }
        if accepts_all_ip(table.rules()) && matches!(ethertype, 0x0800 | 0x0806 | 0x86dd) {
            let frame = frame(Direction::Inbound, ethertype, payload);
            let inbound = context(Direction::Inbound, &tag, peer);
            assert_eq!(evaluate(table.rules(), &frame, &inbound, &mut || random).decision, Decision::Accept);
        }
    }

    fn rule_bytes() -> impl Strategy<Value = Vec<u8>> {
        let code = prop_oneof![0u8..8, 24u8..53, any::<u8>().prop_map(|c| c & 63)];
        let rule =
            (code, any::<[bool; 2]>(), proptest::collection::vec(any::<u8>(), 19)).prop_map(|(code, bits, value)| {
                let flags = u8::from(bits[0]) << 7 | u8::from(bits[1]) << 6;
                let mut bytes = vec![code | flags, value.len() as u8];
                bytes.extend(value);
                bytes
            });
        proptest::collection::vec(rule, 0..12).prop_map(|rules| rules.concat())
    }

    proptest! {
        #[test]
        fn any_table_answers_for_any_frame(
            rules in rule_bytes(),
            ethertype in prop_oneof![Just(0x0800), Just(0x86dd), Just(0x0806), any::<u16>()],
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            tags in any::<Option<u32>>(),
            random in any::<u32>(),
        ) {
            answers(&rules, ethertype, &payload, tags, random);
        }

        #[test]
        fn any_chain_of_ipv6_headers_ends(
            chain in proptest::collection::vec(
                (prop_oneof![Just(0u8), Just(43), Just(60), Just(135), any::<u8>()], any::<u8>()),
                0..8,
            ),
            rules in rule_bytes(),
        ) {
            let mut payload = vec![0u8; 40];
            payload[0] = 0x60;
            payload[6] = 0;
            for (next, len) in chain {
                payload.extend([next, len & 3, 0, 0, 0, 0, 0, 0]);
            }
            answers(&rules, 0x86dd, &payload, None, 0);
        }
    }

    #[test]
    fn fuzz_tables_and_frames() {
        bolero::check!()
            .with_type::<(Vec<u8>, u16, Vec<u8>, Option<u32>, u32)>()
            .for_each(|(rules, ethertype, payload, tags, random)| answers(rules, *ethertype, payload, *tags, *random));
    }
}
