//! Network and member records: JSON objects in ZeroTierOne's controller.d form, whose unknown fields are kept. Here are
//! their defaults, what an operator may change and how, and their typed reading. Knows nothing of files or packets.
//!
//! Updates are strict where the reference is silent: an entry that it would drop, and thereby widen a rule set or lose a
//! route, refuses the whole update and names the field. Harmless normal forms are kept: the MTU is clamped, ids are
//! sorted, prefix lengths of plain addresses are cut off.

use std::collections::BTreeMap;
use std::net::IpAddr;

use network::constants::{
    CAPABILITY_RULES_MAX, DNS_DOMAIN_LEN, MTU_DEFAULT, MTU_MAX, MTU_MIN, NAME_MAX, ROUTES_MAX, RULES_MAX,
};
use serde_json::{Map, Value, json};
use wire::{Address, NetworkId, Prefix, Rule};

use crate::constants::{
    ARRAY_MAX, CREDENTIAL_WINDOW_MAX_MS, CREDENTIAL_WINDOW_MIN_MS, CREDENTIAL_WINDOW_MS, MULTICAST_LIMIT_DEFAULT,
    TEXT_MAX_BYTES,
};

use crate::json::{At, Invalid, array, boolean, integer, ip, object, parse_ip, prefix, text, unsigned};
use crate::rules_json;

/// A record as it is stored and shown.
pub type Record = Map<String, Value>;

/// Our own field of a member: default capabilities that it was given once, or that an operator's own list replaced.
/// The reference gives them only to members that are authorised by their very first request, which on a private
/// network never happens; giving them once to every authorised member needs this memory.
// spec: controller, "Traps"
const GIVEN_CAPABILITIES: &str = "defaultCapabilities";

/// Fields that older controllers wrote and that are not part of a record.
const NETWORK_TRANSIENT: [&str; 5] =
    ["clock", "authorizedMemberCount", "activeMemberCount", "totalMemberCount", "lastModified"];
const MEMBER_TRANSIENT: [&str; 7] = [
    "clock",
    "physicalAddr",
    "recentLog",
    "lastModified",
    "lastRequestMetaData",
    "authenticationURL",
    "authenticationClientID",
];

/// A network's record with all its defaults.
pub fn new_network(id: NetworkId, now_ms: u64) -> Record {
    let mut record = Record::new();
    record.insert("creationTime".into(), now_ms.into());
    complete_network(&mut record, id);
    record
}

/// Adds the fields that are missing, forces those that name the record, removes transient ones.
pub fn complete_network(record: &mut Record, id: NetworkId) {
    // `authTokens` and `dns` are arrays until set, as in the reference: typed clients know these shapes.
    let defaults = json!({
        "name": "", "private": true, "creationTime": 0, "revision": 0, "multicastLimit": MULTICAST_LIMIT_DEFAULT,
        "enableBroadcast": true, "mtu": MTU_DEFAULT, "v4AssignMode": { "zt": false },
        "v6AssignMode": { "rfc4193": false, "6plane": false, "zt": false }, "ipAssignmentPools": [], "routes": [],
        "rules": [{ "not": false, "or": false, "type": "ACTION_ACCEPT" }], "capabilities": [], "tags": [], "dns": [],
        "authTokens": [null], "remoteTraceTarget": null, "remoteTraceLevel": 0, "rulesSource": "",
        "ssoEnabled": false, "clientId": "", "authorizationEndpoint": "",
    });
    complete(record, defaults, &NETWORK_TRANSIENT);
    record.insert("id".into(), id.to_string().into());
    record.insert("nwid".into(), id.to_string().into());
    record.insert("objtype".into(), "network".into());
}

/// A member's record with all its defaults.
pub fn new_member(network: NetworkId, address: Address, now_ms: u64) -> Record {
    let mut record = Record::new();
    record.insert("creationTime".into(), now_ms.into());
    complete_member(&mut record, network, address);
    record
}

/// Adds the fields that are missing, forces those that name the record, removes transient ones.
pub fn complete_member(record: &mut Record, network: NetworkId, address: Address) {
    let defaults = json!({
        "authorized": false, "activeBridge": false, "ipAssignments": [], "noAutoAssignIps": false, "tags": [],
        "capabilities": [], "creationTime": 0, "revision": 0, "lastAuthorizedTime": 0, "lastDeauthorizedTime": 0,
        "lastAuthorizedCredentialType": null, "lastAuthorizedCredential": null, "authenticationExpiryTime": 0,
        "ssoExempt": false, "vMajor": -1, "vMinor": -1, "vRev": -1, "vProto": -1, "remoteTraceTarget": null,
        "remoteTraceLevel": 0,
    });
    complete(record, defaults, &MEMBER_TRANSIENT);
    record.insert("id".into(), address.to_string().into());
    record.insert("address".into(), address.to_string().into());
    record.insert("nwid".into(), network.to_string().into());
    record.insert("objtype".into(), "member".into());
}

fn complete(record: &mut Record, defaults: Value, transient: &[&str]) {
    if let Value::Object(defaults) = defaults {
        for (field, value) in defaults {
            record.entry(field).or_insert(value);
        }
    }
    for field in transient {
        record.remove(*field);
    }
}

/// Equal but for `revision`: saving such a record changes nothing.
pub fn same_content(a: &Record, b: &Record) -> bool {
    let content = |r: &Record| r.iter().filter(|(field, _)| *field != "revision").count();
    content(a) == content(b) && a.iter().all(|(field, value)| field == "revision" || b.get(field) == Some(value))
}

/// The number of saves that changed a record.
pub fn revision(record: &Record) -> u64 {
    record.get("revision").and_then(|v| integer(v).ok()).map_or(0, |n| n.max(0) as u64)
}

/// Applies an operator's changes to a network. Fields he may not set are ignored, so a record that was read can be
/// posted back.
pub fn update_network(record: &mut Record, body: &Value) -> Result<(), Invalid> {
    for (field, v) in object(body).at("body")? {
        let value = match field.as_str() {
            "name" => text(v, TEXT_MAX_BYTES).at(field)?.into(),
            "private" | "enableBroadcast" => boolean(v).at(field)?.into(),
            "multicastLimit" => unsigned(v, u32::MAX.into()).at(field)?.into(),
            "mtu" => integer(v).at(field)?.clamp(MTU_MIN.into(), MTU_MAX.into()).into(),
            "v4AssignMode" => v4_mode(v).at(field)?,
            "v6AssignMode" => v6_mode(v).at(field)?,
            "ipAssignmentPools" => each(v, ARRAY_MAX, pool).at(field)?,
            "routes" => each(v, ROUTES_MAX, route).at(field)?,
            "rules" => rules(v, RULES_MAX).at(field)?,
            "capabilities" => capabilities(v).at(field)?,
            "tags" => network_tags(v).at(field)?,
            "dns" => dns(v).at(field)?,
            "authTokens" => tokens(v).at(field)?,
            "remoteTraceTarget" => trace_target(v).at(field)?,
            "remoteTraceLevel" => unsigned(v, u32::MAX.into()).at(field)?.into(),
            _ => continue,
        };
        record.insert(field.clone(), value);
    }
    Ok(())
}

/// Applies an operator's changes to a member. Fields he may not set are ignored.
pub fn update_member(record: &mut Record, body: &Value, defaults: &[u32], now_ms: u64) -> Result<(), Invalid> {
    let was_authorised = MemberSettings::of(record).authorised;
    for (field, v) in object(body).at("body")? {
        let value = match field.as_str() {
            "name" => text(v, TEXT_MAX_BYTES).at(field)?.into(),
            "authorized" | "activeBridge" | "noAutoAssignIps" => boolean(v).at(field)?.into(),
            "ipAssignments" => each(v, ARRAY_MAX, |v| Ok(ip(v).at("")?.to_string().into())).at(field)?,
            "tags" => member_tags(v).at(field)?,
            "capabilities" => {
                // The operator's list is final: defaults that it leaves out are not given again.
                give_capabilities(record, defaults, false);
                member_capabilities(v).at(field)?
            }
            "authenticationExpiryTime" => unsigned(v, i64::MAX as u64).at(field)?.into(),
            "remoteTraceTarget" => trace_target(v).at(field)?,
            "remoteTraceLevel" => unsigned(v, u32::MAX.into()).at(field)?.into(),
            _ => continue,
        };
        record.insert(field.clone(), value);
    }
    match (was_authorised, MemberSettings::of(record).authorised) {
        (false, true) => authorise(record, "api", None, now_ms),
        (true, false) => drop(record.insert("lastDeauthorizedTime".into(), now_ms.into())),
        _ => {}
    }
    Ok(())
}

/// Marks a member as authorised, by `kind` of credential.
pub fn authorise(record: &mut Record, kind: &str, credential: Option<&str>, now_ms: u64) {
    record.insert("authorized".into(), true.into());
    record.insert("lastAuthorizedTime".into(), now_ms.into());
    record.insert("lastAuthorizedCredentialType".into(), kind.into());
    record.insert("lastAuthorizedCredential".into(), credential.into());
}

/// Gives the member those default capabilities that it was not given before; `really` false only notes them as given.
pub fn give_capabilities(record: &mut Record, defaults: &[u32], really: bool) {
    let (mut given, mut held) = (ids(record.get(GIVEN_CAPABILITIES)), ids(record.get("capabilities")));
    let new: Vec<u32> = defaults.iter().copied().filter(|id| !given.contains(id)).collect();
    if new.is_empty() {
        return;
    }
    given.extend(&new);
    given.sort_unstable();
    record.insert(GIVEN_CAPABILITIES.into(), given.into());
    if really {
        let missing: Vec<u32> = new.into_iter().filter(|id| !held.contains(id)).collect();
        held.extend(missing);
        record.insert("capabilities".into(), held.into());
    }
}

/// Adds the default tags that the member lacks.
pub fn give_tags(record: &mut Record, defaults: &[(u32, u32)]) {
    let held = MemberSettings::of(record).tags;
    let Some(tags) = record.get_mut("tags").and_then(Value::as_array_mut) else { return };
    tags.extend(defaults.iter().filter(|(id, _)| !held.contains_key(id)).map(|(id, value)| json!([id, value])));
}

fn each(v: &Value, most: usize, entry: impl Fn(&Value) -> Result<Value, Invalid>) -> Result<Value, Invalid> {
    let entries = array(v, most).at("")?.iter().enumerate();
    entries.map(|(i, v)| entry(v).at(&format!("[{i}]"))).collect::<Result<Vec<_>, _>>().map(Value::from)
}

fn v4_mode(v: &Value) -> Result<Value, Invalid> {
    let zt = match v {
        Value::String(mode) => named_modes(mode, &["zt"])?.contains(&"zt"),
        _ => object(v).at("")?.get("zt").map_or(Ok(false), boolean).at("zt")?,
    };
    Ok(json!({ "zt": zt }))
}

/// An object replaces the whole: modes that it leaves out stay out of the record, as in the reference.
fn v6_mode(v: &Value) -> Result<Value, Invalid> {
    const MODES: [&str; 3] = ["rfc4193", "6plane", "zt"];
    let mut modes = Map::new();
    if let Value::String(named) = v {
        let named = named_modes(named, &MODES)?;
        modes.extend(MODES.map(|mode| (mode.to_owned(), named.contains(&mode).into())));
        return Ok(modes.into());
    }
    let given = object(v).at("")?;
    for mode in MODES {
        if let Some(on) = given.get(mode) {
            modes.insert(mode.into(), boolean(on).at(mode)?.into());
        }
    }
    Ok(modes.into())
}

fn named_modes<'a>(list: &'a str, known: &[&str]) -> Result<Vec<&'a str>, Invalid> {
    let named: Vec<&str> = list.split(',').map(str::trim).filter(|mode| !mode.is_empty()).collect();
    match named.iter().find(|mode| !known.contains(mode)) {
        Some(mode) => Err(Invalid::new("", format!("{mode:?} is not one of {}", known.join(", ")))),
        None => Ok(named),
    }
}

fn pool(v: &Value) -> Result<Value, Invalid> {
    let range = object(v).at("")?;
    let end_of = |field: &str| ip(range.get(field).unwrap_or(&Value::Null)).at(field);
    let (start, end) = (end_of("ipRangeStart")?, end_of("ipRangeEnd")?);
    if start.is_ipv4() != end.is_ipv4() {
        return Err(Invalid::new("ipRangeEnd", format!("{end} is of another family than {start}")));
    }
    if end < start {
        return Err(Invalid::new("ipRangeEnd", format!("{end} comes before {start}")));
    }
    Ok(json!({ "ipRangeStart": start.to_string(), "ipRangeEnd": end.to_string() }))
}

fn route(v: &Value) -> Result<Value, Invalid> {
    let route = object(v).at("")?;
    let target = prefix(route.get("target").unwrap_or(&Value::Null)).at("target")?;
    let via = match route.get("via") {
        None | Some(Value::Null) => None,
        Some(Value::String(none)) if none.is_empty() => None,
        Some(v) => Some(ip(v).at("via")?),
    };
    // The reference drops such a gateway and keeps the route, which then means "on this network".
    if let Some(via) = via.filter(|via| via.is_ipv4() != target.addr.is_ipv4()) {
        return Err(Invalid::new("via", format!("{via} is of another family than {target}")));
    }
    Ok(json!({ "target": target.to_string(), "via": via.map(|via| via.to_string()) }))
}

fn rules(v: &Value, most: usize) -> Result<Value, Invalid> {
    // Types without JSON form are refused on reading, so every rule has one here.
    Ok(rules_json::table(v, most)?.iter().filter_map(rules_json::to_json).collect::<Vec<_>>().into())
}

fn id_of(v: Option<&Value>) -> Result<u32, Invalid> {
    unsigned(v.unwrap_or(&Value::Null), u32::MAX.into()).map(|id| id as u32).at("id")
}

fn capabilities(v: &Value) -> Result<Value, Invalid> {
    let mut by_id = BTreeMap::new();
    for (i, v) in array(v, ARRAY_MAX).at("")?.iter().enumerate() {
        let (id, capability) = capability(v).at(&format!("[{i}]"))?;
        by_id.insert(id, capability);
    }
    Ok(by_id.into_values().collect::<Vec<_>>().into())
}

fn capability(v: &Value) -> Result<(u32, Value), Invalid> {
    let given = object(v).at("")?;
    let id = id_of(given.get("id"))?;
    let default = given.get("default").map_or(Ok(false), boolean).at("default")?;
    let rules = given.get("rules").map_or(Ok(json!([])), |v| rules(v, CAPABILITY_RULES_MAX)).at("rules")?;
    Ok((id, json!({ "id": id, "default": default, "rules": rules })))
}

fn network_tags(v: &Value) -> Result<Value, Invalid> {
    let mut by_id = BTreeMap::new();
    for (i, v) in array(v, ARRAY_MAX).at("")?.iter().enumerate() {
        let (id, default) = network_tag(v).at(&format!("[{i}]"))?;
        by_id.insert(id, json!({ "id": id, "default": default }));
    }
    Ok(by_id.into_values().collect::<Vec<_>>().into())
}

fn network_tag(v: &Value) -> Result<(u32, Option<u64>), Invalid> {
    let given = object(v).at("")?;
    let default = match given.get("default") {
        None | Some(Value::Null) => None,
        Some(v) => Some(unsigned(v, u32::MAX.into()).at("default")?),
    };
    Ok((id_of(given.get("id"))?, default))
}

fn member_tags(v: &Value) -> Result<Value, Invalid> {
    let mut by_id = BTreeMap::new();
    for (i, v) in array(v, ARRAY_MAX).at("")?.iter().enumerate() {
        let (id, value) = match v.as_array().map(Vec::as_slice) {
            Some([id, value]) => (id, value),
            _ => return Err(Invalid::new(format!("[{i}]"), "not a pair [id, value]")),
        };
        let number = |v| unsigned(v, u32::MAX.into()).at(&format!("[{i}]"));
        by_id.insert(number(id)?, number(value)?);
    }
    Ok(by_id.into_iter().map(|(id, value)| json!([id, value])).collect::<Vec<_>>().into())
}

fn member_capabilities(v: &Value) -> Result<Value, Invalid> {
    let Value::Array(mut ids) = each(v, ARRAY_MAX, |v| Ok(unsigned(v, u32::MAX.into()).at("")?.into()))? else {
        return Ok(json!([]));
    };
    ids.sort_by_key(Value::as_u64);
    ids.dedup();
    Ok(ids.into())
}

/// An object, or the empty array that stands for "none".
fn dns(v: &Value) -> Result<Value, Invalid> {
    if v.as_array().is_some_and(Vec::is_empty) {
        return Ok(json!([]));
    }
    let given = object(v).at("")?;
    let domain = given.get("domain").map_or(Ok(String::new()), |v| text(v, DNS_DOMAIN_LEN - 1)).at("domain")?;
    let server = |v: &Value| Ok(ip(v).at("")?.to_string().into());
    let servers = given.get("servers").map_or(Ok(json!([])), |v| each(v, ARRAY_MAX, server)).at("servers")?;
    Ok(json!({ "domain": domain, "servers": servers }))
}

/// An object token -> expiry time in ms, 0 for never; or the array of nulls that stands for "none".
fn tokens(v: &Value) -> Result<Value, Invalid> {
    if v.as_array().is_some_and(|entries| entries.iter().all(Value::is_null)) {
        return Ok(json!([null]));
    }
    let given = object(v).at("")?;
    if given.len() > ARRAY_MAX {
        return Err(Invalid::new("", format!("{} tokens, at most {ARRAY_MAX} are possible", given.len())));
    }
    for (token, expiry) in given {
        if token.len() > TEXT_MAX_BYTES {
            return Err(Invalid::new("", format!("a token is longer than {TEXT_MAX_BYTES} bytes")));
        }
        if expiry.as_u64().is_none() {
            return Err(Invalid::new(token, "its expiry is not a time in ms, nor 0 for never"));
        }
    }
    Ok(given.clone().into())
}

fn trace_target(v: &Value) -> Result<Value, Invalid> {
    match v {
        Value::Null => Ok(Value::Null),
        Value::String(none) if none.is_empty() => Ok(Value::Null),
        _ => {
            let address = v.as_str().and_then(|s| s.parse::<Address>().ok());
            let address = address.ok_or_else(|| Invalid::new("", "not a node address of 10 hex digits"))?;
            Ok(address.to_string().into())
        }
    }
}

/// Where a member's events are to be sent, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The receiving node.
    pub target: Address,
    /// Level of detail.
    pub level: u64,
}

impl Trace {
    fn of(record: &Record) -> Option<Trace> {
        let target = record.get("remoteTraceTarget")?.as_str()?.parse().ok()?;
        Some(Trace { target, level: uint(record, "remoteTraceLevel", 0) })
    }
}

/// A route of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: Prefix,
    /// Through which member; none: on the network itself.
    pub via: Option<IpAddr>,
}

/// A capability as the network defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityRules {
    /// Its number.
    pub id: u32,
    /// Every member gets it.
    pub default: bool,
    /// What it permits.
    pub rules: Vec<Rule>,
}

/// A network's record, read. Fields of a wrong type read as their defaults, as the reference does.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// At most [`NAME_MAX`].
    pub name: String,
    /// Members must be authorised.
    pub private: bool,
    /// Saves so far.
    pub revision: u64,
    /// Most recipients of one multicast.
    pub multicast_limit: u64,
    /// Plain broadcast is possible.
    pub broadcast: bool,
    /// Bytes.
    pub mtu: u16,
    /// Addresses out of IPv4 pools.
    pub v4_pool: bool,
    /// Addresses out of IPv6 pools.
    pub v6_pool: bool,
    /// RFC 4193 addresses.
    pub rfc4193: bool,
    /// 6PLANE addresses.
    pub six_plane: bool,
    /// First and last address, of one family.
    pub pools: Vec<(IpAddr, IpAddr)>,
    /// At most [`ROUTES_MAX`].
    pub routes: Vec<Route>,
    /// Base rules, at most [`RULES_MAX`].
    pub rules: Vec<Rule>,
    /// Ascending by id.
    pub capabilities: Vec<CapabilityRules>,
    /// Tags that every member gets, with their values.
    pub default_tags: Vec<(u32, u32)>,
    /// DNS search domain.
    pub dns_domain: String,
    /// DNS servers.
    pub dns_servers: Vec<IpAddr>,
    /// Tokens that authorise, with their expiry in ms; 0 is never.
    pub tokens: BTreeMap<String, u64>,
    /// Where members shall report to.
    pub trace: Option<Trace>,
    /// Members must authenticate at a third party too.
    pub sso: bool,
    /// How far certificates of two members may be apart, ms.
    pub window_ms: u64,
}

impl NetworkSettings {
    /// Reads a record. Fails only on rules that cannot be issued: without them the network would let more through than
    /// its record says.
    pub fn of(record: &Record) -> Result<NetworkSettings, Invalid> {
        let v6 = |mode| flag(sub(record, "v6AssignMode"), mode, false);
        let dns = sub(record, "dns");
        Ok(NetworkSettings {
            name: cut(record.get("name").and_then(|v| text(v, usize::MAX).ok()).unwrap_or_default(), NAME_MAX),
            private: flag(Some(record), "private", true),
            revision: revision(record),
            multicast_limit: uint(record, "multicastLimit", MULTICAST_LIMIT_DEFAULT.into()),
            broadcast: flag(Some(record), "enableBroadcast", true),
            mtu: uint(record, "mtu", MTU_DEFAULT.into()).clamp(MTU_MIN.into(), MTU_MAX.into()) as u16,
            v4_pool: flag(sub(record, "v4AssignMode"), "zt", false),
            v6_pool: v6("zt"),
            rfc4193: v6("rfc4193"),
            six_plane: v6("6plane"),
            pools: entries(record, "ipAssignmentPools").filter_map(read_pool).collect(),
            routes: entries(record, "routes").filter_map(read_route).take(ROUTES_MAX).collect(),
            rules: read_rules(record.get("rules"), RULES_MAX).at("rules")?,
            capabilities: read_capabilities(record).at("capabilities")?,
            default_tags: entries(record, "tags").filter_map(read_default_tag).collect(),
            dns_domain: cut(
                dns.and_then(|d| d.get("domain")?.as_str()).unwrap_or_default().to_owned(),
                DNS_DOMAIN_LEN - 1,
            ),
            dns_servers: dns.map_or(Vec::new(), |d| entries(d, "servers").filter_map(|v| ip(v).ok()).collect()),
            tokens: sub(record, "authTokens").map_or_else(BTreeMap::new, |tokens| {
                tokens.iter().filter_map(|(token, expiry)| Some((token.clone(), expiry.as_u64()?))).collect()
            }),
            trace: Trace::of(record),
            sso: flag(Some(record), "ssoEnabled", false),
            window_ms: uint(record, "certificateTimeoutWindowSize", CREDENTIAL_WINDOW_MS)
                .clamp(CREDENTIAL_WINDOW_MIN_MS, CREDENTIAL_WINDOW_MAX_MS),
        })
    }

    /// Numbers of the capabilities that every member gets.
    pub fn default_capabilities(&self) -> Vec<u32> {
        self.capabilities.iter().filter(|c| c.default).map(|c| c.id).collect()
    }
}

/// A member's record, read.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// May take part.
    pub authorised: bool,
    /// The public identity that this membership is bound to, as text.
    pub identity: Option<String>,
    /// May carry frames of other MACs.
    pub bridge: bool,
    /// Addresses assigned by hand and out of pools.
    pub ips: Vec<IpAddr>,
    /// Only addresses assigned by hand.
    pub no_auto_ips: bool,
    /// Value by tag number.
    pub tags: BTreeMap<u32, u32>,
    /// Numbers of capabilities, in the record's order.
    pub capabilities: Vec<u32>,
    /// Third-party authentication holds until then, ms.
    pub authentication_expiry_ms: u64,
    /// Needs no third-party authentication.
    pub sso_exempt: bool,
    /// When it was last de-authorised, ms.
    pub deauthorised_ms: u64,
    /// Where it shall report to; overrides the network's.
    pub trace: Option<Trace>,
}

impl MemberSettings {
    /// Reads a record.
    pub fn of(record: &Record) -> MemberSettings {
        MemberSettings {
            authorised: flag(Some(record), "authorized", false),
            identity: record.get("identity").and_then(Value::as_str).map(str::to_owned),
            bridge: flag(Some(record), "activeBridge", false),
            ips: entries(record, "ipAssignments").filter_map(|v| ip(v).ok()).collect(),
            no_auto_ips: flag(Some(record), "noAutoAssignIps", false),
            tags: entries(record, "tags").filter_map(read_tag).collect(),
            capabilities: ids(record.get("capabilities")),
            authentication_expiry_ms: uint(record, "authenticationExpiryTime", 0),
            sso_exempt: flag(Some(record), "ssoExempt", false),
            deauthorised_ms: uint(record, "lastDeauthorizedTime", 0),
            trace: Trace::of(record),
        }
    }
}

fn sub<'a>(record: &'a Record, field: &str) -> Option<&'a Record> {
    record.get(field)?.as_object()
}

fn entries<'a>(record: &'a Record, field: &str) -> impl Iterator<Item = &'a Value> {
    record.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn flag(record: Option<&Record>, field: &str, absent: bool) -> bool {
    record.and_then(|r| r.get(field)).and_then(|v| boolean(v).ok()).unwrap_or(absent)
}

fn uint(record: &Record, field: &str, absent: u64) -> u64 {
    record.get(field).and_then(|v| integer(v).ok()).and_then(|n| n.try_into().ok()).unwrap_or(absent)
}

fn ids(v: Option<&Value>) -> Vec<u32> {
    v.and_then(Value::as_array).into_iter().flatten().filter_map(|v| Some(integer(v).ok()? as u32)).collect()
}

/// At most `most` bytes, whole characters.
fn cut(mut text: String, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
    text.truncate(end);
    text
}

fn read_pool(v: &Value) -> Option<(IpAddr, IpAddr)> {
    let end_of = |field| v.get(field)?.as_str().and_then(parse_ip);
    let (start, end) = (end_of("ipRangeStart")?, end_of("ipRangeEnd")?);
    (start.is_ipv4() == end.is_ipv4()).then_some((start, end))
}

fn read_route(v: &Value) -> Option<Route> {
    let target = prefix(v.get("target")?).ok()?;
    let via = v.get("via").and_then(Value::as_str).and_then(parse_ip);
    Some(Route { target, via: via.filter(|via| via.is_ipv4() == target.addr.is_ipv4()) })
}

/// A record written by another controller may hold more rules than a member can; it issues the first of them.
fn read_rules(v: Option<&Value>, most: usize) -> Result<Vec<Rule>, Invalid> {
    let mut rules = v.map_or(Ok(Vec::new()), |v| rules_json::table(v, ARRAY_MAX))?;
    rules.truncate(most);
    Ok(rules)
}

fn read_capabilities(record: &Record) -> Result<Vec<CapabilityRules>, Invalid> {
    let mut by_id = BTreeMap::new();
    for (i, v) in entries(record, "capabilities").enumerate() {
        let id = id_of(v.get("id")).at(&format!("[{i}]"))?;
        let default = v.get("default").and_then(|v| boolean(v).ok()).unwrap_or(false);
        let rules = read_rules(v.get("rules"), CAPABILITY_RULES_MAX).at(&format!("[{i}].rules"))?;
        by_id.insert(id, CapabilityRules { id, default, rules });
    }
    Ok(by_id.into_values().collect())
}

fn read_default_tag(v: &Value) -> Option<(u32, u32)> {
    Some((integer(v.get("id")?).ok()? as u32, integer(v.get("default")?).ok()? as u32))
}

fn read_tag(v: &Value) -> Option<(u32, u32)> {
    match v.as_array()?.as_slice() {
        [id, value] => Some((integer(id).ok()? as u32, integer(value).ok()? as u32)),
        _ => None,
    }
}
