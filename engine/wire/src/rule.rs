//! Rules as they travel: type, length, value. Knows what a rule says, never what it does to a frame.
// spec: wire, "Rules (TLV)"

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::address::{Address, Mac};
use crate::read::{Malformed, Reader};

/// Rules per network configuration at most.
pub const NET_MAX_RULES: usize = 1024;
/// Rules per capability at most.
pub const CAP_MAX_RULES: usize = 64;

const NOT: u8 = 0x80;
const OR: u8 = 0x40;
const TYPE: u8 = 0x3f;

/// Where TEE, WATCH and REDIRECT send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// The receiving node.
    pub address: Address,
    /// Flags; none is defined.
    pub flags: u32,
    /// Bytes of the frame to send, for TEE and WATCH.
    pub length: u16,
}

/// A tag and the number it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TagMatch {
    /// Tag ID.
    pub id: u32,
    /// Value to compare with.
    pub value: u32,
}

/// Compares an integer found in the frame's payload with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntegerRange {
    /// Smallest integer that matches.
    pub start: u64,
    /// Largest integer that matches, as sent; receivers use [`IntegerRange::span`].
    pub end: u64,
    /// Offset in the Ethernet payload.
    pub index: u16,
    /// Low 6 bits: width in bits - 1; 0x80: little-endian.
    pub format: u8,
}

impl IntegerRange {
    /// Distance from `start` to the last matching integer. A range wider than 2^32 - 1 loses its upper bits: every
    /// implementation in the field holds it in 32 bits.
    pub const fn span(&self) -> u32 {
        self.end.wrapping_sub(self.start) as u32
    }

    /// Width of the integer, 1 to 64 bits.
    pub const fn bits(&self) -> u32 {
        (self.format & 0x3f) as u32 + 1
    }

    /// Byte order of the integer in the frame.
    pub const fn is_little_endian(&self) -> bool {
        self.format & 0x80 != 0
    }
}

/// An inclusive range of u16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range16 {
    /// First value that matches.
    pub low: u16,
    /// Last value that matches.
    pub high: u16,
}

/// What a rule does or matches. Numbers 0 to 15 are actions, 16 to 63 matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleKind {
    /// 0: drop the frame.
    Drop,
    /// 1: accept the frame.
    Accept,
    /// 2: send a copy.
    Tee(Forward),
    /// 3: send a copy and ask for acknowledgement.
    Watch(Forward),
    /// 4: send it there instead.
    Redirect(Forward),
    /// 5: stop evaluating this table.
    Break,
    /// 6: quality of service bucket; the number itself is not transmitted.
    Priority,
    /// 24
    SourceAddress(Address),
    /// 25
    DestAddress(Address),
    /// 26
    VlanId(u16),
    /// 27
    VlanPcp(u8),
    /// 28
    VlanDei(u8),
    /// 29
    MacSource(Mac),
    /// 30
    MacDest(Mac),
    /// 31: address and mask bits.
    Ipv4Source(Ipv4Addr, u8),
    /// 32: address and mask bits.
    Ipv4Dest(Ipv4Addr, u8),
    /// 33: address and mask bits.
    Ipv6Source(Ipv6Addr, u8),
    /// 34: address and mask bits.
    Ipv6Dest(Ipv6Addr, u8),
    /// 35
    IpTos {
        /// Bits of the field that count.
        mask: u8,
        /// First masked value that matches.
        low: u8,
        /// Last masked value that matches.
        high: u8,
    },
    /// 36
    IpProtocol(u8),
    /// 37
    Ethertype(u16),
    /// 38
    Icmp {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// 1: the code counts too.
        flags: u8,
    },
    /// 39
    SourcePorts(Range16),
    /// 40
    DestPorts(Range16),
    /// 41: bits of which any must be set.
    Characteristics(u64),
    /// 42
    FrameSize(Range16),
    /// 43: probability, 0xffffffff = always.
    Random(u32),
    /// 44
    TagsDifference(TagMatch),
    /// 45
    TagsAnd(TagMatch),
    /// 46
    TagsOr(TagMatch),
    /// 47
    TagsXor(TagMatch),
    /// 48
    TagsEqual(TagMatch),
    /// 49
    TagSender(TagMatch),
    /// 50
    TagReceiver(TagMatch),
    /// 51
    IntegerRange(IntegerRange),
    /// Any other number: kept as it came, so that a signature over it still holds.
    Unknown {
        /// Number, 0 to 63.
        code: u8,
        /// Value, at most 255 bytes.
        value: Vec<u8>,
    },
}

impl RuleKind {
    /// The number on the wire, 0 to 63.
    pub fn code(&self) -> u8 {
        match self {
            RuleKind::Drop => 0,
            RuleKind::Accept => 1,
            RuleKind::Tee(_) => 2,
            RuleKind::Watch(_) => 3,
            RuleKind::Redirect(_) => 4,
            RuleKind::Break => 5,
            RuleKind::Priority => 6,
            RuleKind::SourceAddress(_) => 24,
            RuleKind::DestAddress(_) => 25,
            RuleKind::VlanId(_) => 26,
            RuleKind::VlanPcp(_) => 27,
            RuleKind::VlanDei(_) => 28,
            RuleKind::MacSource(_) => 29,
            RuleKind::MacDest(_) => 30,
            RuleKind::Ipv4Source(..) => 31,
            RuleKind::Ipv4Dest(..) => 32,
            RuleKind::Ipv6Source(..) => 33,
            RuleKind::Ipv6Dest(..) => 34,
            RuleKind::IpTos { .. } => 35,
            RuleKind::IpProtocol(_) => 36,
            RuleKind::Ethertype(_) => 37,
            RuleKind::Icmp { .. } => 38,
            RuleKind::SourcePorts(_) => 39,
            RuleKind::DestPorts(_) => 40,
            RuleKind::Characteristics(_) => 41,
            RuleKind::FrameSize(_) => 42,
            RuleKind::Random(_) => 43,
            RuleKind::TagsDifference(_) => 44,
            RuleKind::TagsAnd(_) => 45,
            RuleKind::TagsOr(_) => 46,
            RuleKind::TagsXor(_) => 47,
            RuleKind::TagsEqual(_) => 48,
            RuleKind::TagSender(_) => 49,
            RuleKind::TagReceiver(_) => 50,
            RuleKind::IntegerRange(_) => 51,
            RuleKind::Unknown { code, .. } => code & TYPE,
        }
    }

    /// Actions end or divert an evaluation; everything else is a match.
    pub fn is_action(&self) -> bool {
        self.code() < 16
    }

    /// Reads the value of a rule. A value longer than its fields is cut; a shorter one is malformed.
    fn parse(code: u8, value: &[u8]) -> Result<RuleKind, Malformed> {
        const WHAT: &str = "rule value";
        let r = &mut Reader::new(value);
        Ok(match code {
            0 => RuleKind::Drop,
            1 => RuleKind::Accept,
            2 => RuleKind::Tee(Forward::read(r)?),
            3 => RuleKind::Watch(Forward::read(r)?),
            4 => RuleKind::Redirect(Forward::read(r)?),
            5 => RuleKind::Break,
            6 => RuleKind::Priority,
            24 => RuleKind::SourceAddress(Address::read(r)?),
            25 => RuleKind::DestAddress(Address::read(r)?),
            26 => RuleKind::VlanId(r.u16(WHAT)?),
            27 => RuleKind::VlanPcp(r.u8(WHAT)?),
            28 => RuleKind::VlanDei(r.u8(WHAT)?),
            29 => RuleKind::MacSource(Mac::read(r)?),
            30 => RuleKind::MacDest(Mac::read(r)?),
            31 => RuleKind::Ipv4Source(r.array::<4>(WHAT)?.into(), r.u8(WHAT)?),
            32 => RuleKind::Ipv4Dest(r.array::<4>(WHAT)?.into(), r.u8(WHAT)?),
            33 => RuleKind::Ipv6Source(r.array::<16>(WHAT)?.into(), r.u8(WHAT)?),
            34 => RuleKind::Ipv6Dest(r.array::<16>(WHAT)?.into(), r.u8(WHAT)?),
            35 => RuleKind::IpTos { mask: r.u8(WHAT)?, low: r.u8(WHAT)?, high: r.u8(WHAT)? },
            36 => RuleKind::IpProtocol(r.u8(WHAT)?),
            37 => RuleKind::Ethertype(r.u16(WHAT)?),
            38 => RuleKind::Icmp { kind: r.u8(WHAT)?, code: r.u8(WHAT)?, flags: r.u8(WHAT)? },
            39 => RuleKind::SourcePorts(Range16::read(r)?),
            40 => RuleKind::DestPorts(Range16::read(r)?),
            41 => RuleKind::Characteristics(r.u64(WHAT)?),
            42 => RuleKind::FrameSize(Range16::read(r)?),
            43 => RuleKind::Random(r.u32(WHAT)?),
            44 => RuleKind::TagsDifference(TagMatch::read(r)?),
            45 => RuleKind::TagsAnd(TagMatch::read(r)?),
            46 => RuleKind::TagsOr(TagMatch::read(r)?),
            47 => RuleKind::TagsXor(TagMatch::read(r)?),
            48 => RuleKind::TagsEqual(TagMatch::read(r)?),
            49 => RuleKind::TagSender(TagMatch::read(r)?),
            50 => RuleKind::TagReceiver(TagMatch::read(r)?),
            51 => RuleKind::IntegerRange(IntegerRange {
                start: r.u64(WHAT)?,
                end: r.u64(WHAT)?,
                index: r.u16(WHAT)?,
                format: r.u8(WHAT)?,
            }),
            code => RuleKind::Unknown { code, value: value.to_vec() },
        })
    }

    fn write_value(&self, out: &mut Vec<u8>) {
        match self {
            RuleKind::Drop | RuleKind::Accept | RuleKind::Break | RuleKind::Priority => {}
            RuleKind::Tee(f) | RuleKind::Watch(f) | RuleKind::Redirect(f) => {
                out.extend_from_slice(&f.address.to_u64().to_be_bytes());
                out.extend_from_slice(&f.flags.to_be_bytes());
                out.extend_from_slice(&f.length.to_be_bytes());
            }
            RuleKind::SourceAddress(a) | RuleKind::DestAddress(a) => out.extend_from_slice(&a.to_bytes()),
            RuleKind::VlanId(n) | RuleKind::Ethertype(n) => out.extend_from_slice(&n.to_be_bytes()),
            RuleKind::VlanPcp(n) | RuleKind::VlanDei(n) | RuleKind::IpProtocol(n) => out.push(*n),
            RuleKind::MacSource(m) | RuleKind::MacDest(m) => out.extend_from_slice(&m.0),
            RuleKind::Ipv4Source(ip, bits) | RuleKind::Ipv4Dest(ip, bits) => {
                out.extend_from_slice(&ip.octets());
                out.push(*bits);
            }
            RuleKind::Ipv6Source(ip, bits) | RuleKind::Ipv6Dest(ip, bits) => {
                out.extend_from_slice(&ip.octets());
                out.push(*bits);
            }
            RuleKind::IpTos { mask, low, high } => out.extend_from_slice(&[*mask, *low, *high]),
            RuleKind::Icmp { kind, code, flags } => out.extend_from_slice(&[*kind, *code, *flags]),
            RuleKind::SourcePorts(r) | RuleKind::DestPorts(r) | RuleKind::FrameSize(r) => {
                out.extend_from_slice(&r.low.to_be_bytes());
                out.extend_from_slice(&r.high.to_be_bytes());
            }
            RuleKind::Characteristics(n) => out.extend_from_slice(&n.to_be_bytes()),
            RuleKind::Random(n) => out.extend_from_slice(&n.to_be_bytes()),
            RuleKind::TagsDifference(t)
            | RuleKind::TagsAnd(t)
            | RuleKind::TagsOr(t)
            | RuleKind::TagsXor(t)
            | RuleKind::TagsEqual(t)
            | RuleKind::TagSender(t)
            | RuleKind::TagReceiver(t) => {
                out.extend_from_slice(&t.id.to_be_bytes());
                out.extend_from_slice(&t.value.to_be_bytes());
            }
            RuleKind::IntegerRange(i) => {
                out.extend_from_slice(&i.start.to_be_bytes());
                out.extend_from_slice(&i.end.to_be_bytes());
                out.extend_from_slice(&i.index.to_be_bytes());
                out.push(i.format);
            }
            RuleKind::Unknown { value, .. } => out.extend_from_slice(&value[..value.len().min(255)]),
        }
    }
}

impl Forward {
    fn read(r: &mut Reader<'_>) -> Result<Forward, Malformed> {
        Ok(Forward {
            address: Address::from_u64(r.u64("rule address")?),
            flags: r.u32("rule flags")?,
            length: r.u16("rule length")?,
        })
    }
}

impl TagMatch {
    fn read(r: &mut Reader<'_>) -> Result<TagMatch, Malformed> {
        Ok(TagMatch { id: r.u32("rule tag id")?, value: r.u32("rule tag value")? })
    }
}

impl Range16 {
    fn read(r: &mut Reader<'_>) -> Result<Range16, Malformed> {
        Ok(Range16 { low: r.u16("rule range")?, high: r.u16("rule range")? })
    }
}

/// One rule: 2 to 257 bytes on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The match counts when it fails.
    pub not: bool,
    /// Joined to the match before by OR instead of AND.
    pub or: bool,
    /// What it does or matches.
    pub kind: RuleKind,
}

impl Rule {
    /// A rule without NOT and OR.
    pub fn new(kind: RuleKind) -> Rule {
        Rule { not: false, or: false, kind }
    }

    /// Reads one rule. Bytes of a known type beyond its fields are skipped.
    pub fn read(r: &mut Reader<'_>) -> Result<Rule, Malformed> {
        let byte = r.u8("rule type")?;
        let len = r.u8("rule length")?;
        let value = r.take(usize::from(len), "rule value")?;
        Ok(Rule { not: byte & NOT != 0, or: byte & OR != 0, kind: RuleKind::parse(byte & TYPE, value)? })
    }

    /// Writes one rule; the value of an unknown type is cut at 255 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.kind.code() | if self.not { NOT } else { 0 } | if self.or { OR } else { 0 });
        let length_at = out.len();
        out.push(0);
        self.kind.write_value(out);
        out[length_at] = (out.len() - length_at - 1) as u8;
    }
}

/// A table of rules together with the bytes it came in: signatures cover those, so a table with rules of a newer kind
/// still verifies.
// spec: networks, "Capability"
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleTable {
    rules: Vec<Rule>,
    bytes: Vec<u8>,
}

impl RuleTable {
    /// A table of our own making.
    pub fn new(rules: Vec<Rule>) -> RuleTable {
        let mut bytes = Vec::new();
        rules.iter().for_each(|rule| rule.write(&mut bytes));
        RuleTable { rules, bytes }
    }

    /// Reads exactly `count` rules.
    pub fn read(r: &mut Reader<'_>, count: usize) -> Result<RuleTable, Malformed> {
        let start = r.position();
        let rules = (0..count).map(|_| Rule::read(r)).collect::<Result<Vec<_>, _>>()?;
        Ok(RuleTable { rules, bytes: r.since(start).to_vec() })
    }

    /// Reads rules to the end of `bytes`; those beyond the first `most` are ignored.
    pub fn parse(bytes: &[u8], most: usize) -> Result<RuleTable, Malformed> {
        let r = &mut Reader::new(bytes);
        let mut rules = Vec::new();
        while !r.is_empty() && rules.len() < most {
            rules.push(Rule::read(r)?);
        }
        Ok(RuleTable { rules, bytes: r.since(0).to_vec() })
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The table as it goes on the wire, without count or length.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<Rule>> for RuleTable {
    fn from(rules: Vec<Rule>) -> RuleTable {
        RuleTable::new(rules)
    }
}
