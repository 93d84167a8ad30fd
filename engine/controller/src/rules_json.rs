//! Flow rules between their JSON form (what operators and the rule compiler write) and [`wire::rule`]. Knows names and
//! fields of rules, never what a rule does to a frame.
// spec: controller, "Rules in JSON"

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};
use wire::rule::{Forward, Range16, Rule, RuleKind, TagMatch};
use wire::{Address, Mac};

use crate::json::{At, Invalid, array, boolean, integer, object, unsigned};

const U8: u64 = u8::MAX as u64;
const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;

/// The rules of a JSON array, at most `most`. One rule that cannot be issued refuses them all: leaving an unknown match
/// out of a set would widen the set.
pub fn table(rules: &Value, most: usize) -> Result<Vec<Rule>, Invalid> {
    let entries = array(rules, most).at("")?;
    entries.iter().enumerate().map(|(i, rule)| from_json(rule).at(&format!("[{i}]"))).collect()
}

/// One rule from its JSON form. Fields that its type does not have are ignored.
pub fn from_json(rule: &Value) -> Result<Rule, Invalid> {
    let rule = Fields(object(rule).at("")?);
    let name = rule.0.get("type").and_then(Value::as_str).ok_or_else(|| Invalid::new("type", "missing"))?;
    Ok(Rule { not: rule.flag("not")?, or: rule.flag("or")?, kind: rule.kind(name)? })
}

/// The normal form of a rule; none for PRIORITY, INTEGER_RANGE and unknown types, which have no JSON form.
pub fn to_json(rule: &Rule) -> Option<Value> {
    use RuleKind::*;
    let (name, fields) = match &rule.kind {
        Drop => ("ACTION_DROP", json!({})),
        Accept => ("ACTION_ACCEPT", json!({})),
        Break => ("ACTION_BREAK", json!({})),
        Tee(f) => ("ACTION_TEE", forward_json(f, true)),
        Watch(f) => ("ACTION_WATCH", forward_json(f, true)),
        Redirect(f) => ("ACTION_REDIRECT", forward_json(f, false)),
        SourceAddress(a) => ("MATCH_SOURCE_ZEROTIER_ADDRESS", json!({ "zt": a.to_string() })),
        DestAddress(a) => ("MATCH_DEST_ZEROTIER_ADDRESS", json!({ "zt": a.to_string() })),
        VlanId(n) => ("MATCH_VLAN_ID", json!({ "vlanId": n })),
        VlanPcp(n) => ("MATCH_VLAN_PCP", json!({ "vlanPcp": n })),
        VlanDei(n) => ("MATCH_VLAN_DEI", json!({ "vlanDei": n })),
        MacSource(m) => ("MATCH_MAC_SOURCE", json!({ "mac": m.to_string() })),
        MacDest(m) => ("MATCH_MAC_DEST", json!({ "mac": m.to_string() })),
        Ipv4Source(ip, bits) => ("MATCH_IPV4_SOURCE", json!({ "ip": format!("{ip}/{bits}") })),
        Ipv4Dest(ip, bits) => ("MATCH_IPV4_DEST", json!({ "ip": format!("{ip}/{bits}") })),
        Ipv6Source(ip, bits) => ("MATCH_IPV6_SOURCE", json!({ "ip": format!("{ip}/{bits}") })),
        Ipv6Dest(ip, bits) => ("MATCH_IPV6_DEST", json!({ "ip": format!("{ip}/{bits}") })),
        IpTos { mask, low, high } => ("MATCH_IP_TOS", json!({ "mask": mask, "start": low, "end": high })),
        IpProtocol(n) => ("MATCH_IP_PROTOCOL", json!({ "ipProtocol": n })),
        Ethertype(n) => ("MATCH_ETHERTYPE", json!({ "etherType": n })),
        Icmp { kind, code, flags } => {
            ("MATCH_ICMP", json!({ "icmpType": kind, "icmpCode": (flags & ICMP_CODE_COUNTS != 0).then_some(code) }))
        }
        SourcePorts(r) => ("MATCH_IP_SOURCE_PORT_RANGE", range_json(r)),
        DestPorts(r) => ("MATCH_IP_DEST_PORT_RANGE", range_json(r)),
        Characteristics(mask) => ("MATCH_CHARACTERISTICS", json!({ "mask": format!("{mask:016x}") })),
        FrameSize(r) => ("MATCH_FRAME_SIZE_RANGE", range_json(r)),
        Random(p) => ("MATCH_RANDOM", json!({ "probability": p })),
        TagsDifference(t) => ("MATCH_TAGS_DIFFERENCE", tag_json(t)),
        TagsAnd(t) => ("MATCH_TAGS_BITWISE_AND", tag_json(t)),
        TagsOr(t) => ("MATCH_TAGS_BITWISE_OR", tag_json(t)),
        TagsXor(t) => ("MATCH_TAGS_BITWISE_XOR", tag_json(t)),
        TagsEqual(t) => ("MATCH_TAGS_EQUAL", tag_json(t)),
        TagSender(t) => ("MATCH_TAG_SENDER", tag_json(t)),
        TagReceiver(t) => ("MATCH_TAG_RECEIVER", tag_json(t)),
        Priority | IntegerRange(_) | Unknown { .. } => return None,
    };
    let Value::Object(mut fields) = fields else { return None };
    fields.insert("type".into(), name.into());
    // The normal form has NOT and OR always on matches, never on actions.
    if !rule.kind.is_action() {
        fields.insert("not".into(), rule.not.into());
        fields.insert("or".into(), rule.or.into());
    }
    Some(fields.into())
}

/// ICMP rule flag: the code counts too.
const ICMP_CODE_COUNTS: u8 = 0x01;

fn forward_json(f: &Forward, with_length: bool) -> Value {
    let mut fields = json!({ "address": f.address.to_string(), "flags": f.flags });
    if with_length {
        fields["length"] = f.length.into();
    }
    fields
}

fn range_json(r: &Range16) -> Value {
    json!({ "start": r.low, "end": r.high })
}

fn tag_json(t: &TagMatch) -> Value {
    json!({ "id": t.id, "value": t.value })
}

/// The fields of one rule object. A number too large for its field is refused: the reference keeps its low bits, which
/// is another rule than the one written.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn kind(&self, name: &str) -> Result<RuleKind, Invalid> {
        use RuleKind::*;
        Ok(match name {
            "ACTION_DROP" => Drop,
            "ACTION_ACCEPT" => Accept,
            "ACTION_BREAK" => Break,
            "ACTION_TEE" => Tee(self.forward(self.length()?)?),
            "ACTION_WATCH" => Watch(self.forward(self.length()?)?),
            "ACTION_REDIRECT" => Redirect(self.forward(0)?),
            "MATCH_SOURCE_ZEROTIER_ADDRESS" => SourceAddress(self.address("zt")?),
            "MATCH_DEST_ZEROTIER_ADDRESS" => DestAddress(self.address("zt")?),
            "MATCH_VLAN_ID" => VlanId(self.u16("vlanId")?),
            "MATCH_VLAN_PCP" => VlanPcp(self.u8("vlanPcp")?),
            "MATCH_VLAN_DEI" => VlanDei(self.u8("vlanDei")?),
            "MATCH_MAC_SOURCE" => MacSource(self.mac()?),
            "MATCH_MAC_DEST" => MacDest(self.mac()?),
            "MATCH_IPV4_SOURCE" => self.ipv4().map(|(ip, bits)| Ipv4Source(ip, bits))?,
            "MATCH_IPV4_DEST" => self.ipv4().map(|(ip, bits)| Ipv4Dest(ip, bits))?,
            "MATCH_IPV6_SOURCE" => self.ipv6().map(|(ip, bits)| Ipv6Source(ip, bits))?,
            "MATCH_IPV6_DEST" => self.ipv6().map(|(ip, bits)| Ipv6Dest(ip, bits))?,
            "MATCH_IP_TOS" => {
                let low = self.u8("start")?;
                IpTos { mask: self.u8("mask")?, low, high: self.number_or("end", U8, low.into())? as u8 }
            }
            "MATCH_IP_PROTOCOL" => IpProtocol(self.u8("ipProtocol")?),
            "MATCH_ETHERTYPE" => Ethertype(self.u16("etherType")?),
            "MATCH_ICMP" => {
                let kind = self.u8("icmpType")?;
                match self.0.get("icmpCode") {
                    None | Some(Value::Null) => Icmp { kind, code: 0, flags: 0 },
                    Some(_) => Icmp { kind, code: self.u8("icmpCode")?, flags: ICMP_CODE_COUNTS },
                }
            }
            "MATCH_IP_SOURCE_PORT_RANGE" => SourcePorts(self.range()?),
            "MATCH_IP_DEST_PORT_RANGE" => DestPorts(self.range()?),
            "MATCH_CHARACTERISTICS" => Characteristics(self.mask()?),
            "MATCH_FRAME_SIZE_RANGE" => FrameSize(self.range()?),
            "MATCH_RANDOM" => Random(self.u32("probability")?),
            "MATCH_TAGS_DIFFERENCE" => TagsDifference(self.tag()?),
            "MATCH_TAGS_BITWISE_AND" => TagsAnd(self.tag()?),
            "MATCH_TAGS_BITWISE_OR" => TagsOr(self.tag()?),
            "MATCH_TAGS_BITWISE_XOR" => TagsXor(self.tag()?),
            "MATCH_TAGS_EQUAL" => TagsEqual(self.tag()?),
            "MATCH_TAG_SENDER" => TagSender(self.tag()?),
            "MATCH_TAG_RECEIVER" => TagReceiver(self.tag()?),
            "ACTION_PRIORITY" => {
                return Err(Invalid::new(
                    "type",
                    "ACTION_PRIORITY cannot be issued: the wire does not carry its bucket",
                ));
            }
            "INTEGER_RANGE" | "MATCH_INTEGER_RANGE" => {
                return Err(Invalid::new("type", format!("{name} cannot be issued: no V1 controller does")));
            }
            _ => return Err(Invalid::new("type", format!("{name} is not a rule type"))),
        })
    }

    fn flag(&self, field: &str) -> Result<bool, Invalid> {
        self.0.get(field).map_or(Ok(false), boolean).at(field)
    }

    fn required(&self, field: &str) -> Result<&Value, Invalid> {
        self.0.get(field).ok_or_else(|| Invalid::new(field, "missing"))
    }

    fn number(&self, field: &str, most: u64) -> Result<u64, Invalid> {
        unsigned(self.required(field)?, most).at(field)
    }

    fn number_or(&self, field: &str, most: u64, absent: u64) -> Result<u64, Invalid> {
        self.0.get(field).map_or(Ok(absent), |v| unsigned(v, most)).at(field)
    }

    fn u8(&self, field: &str) -> Result<u8, Invalid> {
        self.number(field, U8).map(|n| n as u8)
    }

    fn u16(&self, field: &str) -> Result<u16, Invalid> {
        self.number(field, U16).map(|n| n as u16)
    }

    fn u32(&self, field: &str) -> Result<u32, Invalid> {
        self.number(field, U32).map(|n| n as u32)
    }

    fn text(&self, field: &str) -> Result<&str, Invalid> {
        self.required(field)?.as_str().ok_or_else(|| Invalid::new(field, "not text"))
    }

    fn address(&self, field: &str) -> Result<Address, Invalid> {
        self.text(field)?.parse().map_err(|e: wire::address::NotHex| Invalid::new(field, e.to_string()))
    }

    fn forward(&self, length: u16) -> Result<Forward, Invalid> {
        let flags = self.number_or("flags", U32, 0)? as u32;
        Ok(Forward { address: self.address("address")?, flags, length })
    }

    /// Bytes of the frame to copy. The rule compiler writes -1 for "all"; V1 stores that as 65535.
    fn length(&self) -> Result<u16, Invalid> {
        match self.0.get("length").map(integer) {
            Some(Ok(-1)) => Ok(u16::MAX),
            _ => self.number_or("length", U16, 0).map(|n| n as u16),
        }
    }

    fn mac(&self) -> Result<Mac, Invalid> {
        let text = self.text("mac")?;
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        let bad = || Invalid::new("mac", format!("{text:?} is not a MAC"));
        let bytes = hex::decode(digits).map_err(|_| bad())?;
        bytes.try_into().map(Mac).map_err(|_| bad())
    }

    /// Address and mask bits. Bits beyond the address are cut; a length that is missing is refused, because the
    /// reference reads it as 0, which matches everything.
    // spec: controller, "Traps"
    fn prefix(&self) -> Result<(IpAddr, u8), Invalid> {
        let text = self.text("ip")?;
        let bad = || Invalid::new("ip", format!("{text:?} is not an IP address with /bits"));
        let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let bits: u16 = bits.parse().map_err(|_| bad())?;
        Ok((ip, bits.min(if ip.is_ipv4() { 32 } else { 128 }) as u8))
    }

    fn ipv4(&self) -> Result<(Ipv4Addr, u8), Invalid> {
        match self.prefix()? {
            (IpAddr::V4(ip), bits) => Ok((ip, bits)),
            (ip, _) => Err(Invalid::new("ip", format!("{ip} is not an IPv4 address"))),
        }
    }

    fn ipv6(&self) -> Result<(Ipv6Addr, u8), Invalid> {
        match self.prefix()? {
            (IpAddr::V6(ip), bits) => Ok((ip, bits)),
            (ip, _) => Err(Invalid::new("ip", format!("{ip} is not an IPv6 address"))),
        }
    }

    fn range(&self) -> Result<Range16, Invalid> {
        let low = self.u16("start")?;
        Ok(Range16 { low, high: self.number_or("end", U16, low.into())? as u16 })
    }

    /// 16 hex digits, or a number.
    fn mask(&self) -> Result<u64, Invalid> {
        let bad = || Invalid::new("mask", "not a number nor 1 to 16 hex digits");
        match self.required("mask")? {
            Value::String(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).map_err(|_| bad()),
            number => number.as_u64().ok_or_else(bad),
        }
    }

    fn tag(&self) -> Result<TagMatch, Invalid> {
        Ok(TagMatch { id: self.u32("id")?, value: self.u32("value")? })
    }
}
