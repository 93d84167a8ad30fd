//! The bonding keys of `settings`, in ZeroTierOne's schema and as its daemon really reads it. What the keys mean together is
//! judged by [`bond::config`]; here is only what JSON can say, which older spellings are gone, and which name was meant.
// spec: bonding, "local.conf", "Versions"

use bond::config::{
    Bonding, LinkMode, LinkSettings, Mode, Policy, PolicySettings, Problem as Judged, QUALITY_KEYS, SelectMethod,
    Settings,
};
use serde_json::{Map, Value};
use wire::Address;

use super::values::{boolean, bounded, nearest, object, signed, unknown, wrong};
use super::{MAX_ENTRIES, Problem};

/// The keys of `settings`. The last is ours.
pub(super) const KEYS: [&str; 4] = ["defaultBondingPolicy", "peerSpecificBonds", "policies", "bondingMode"];
/// The keys of a policy. The last is ours.
const POLICY: [&str; 10] = [
    "basePolicy",
    "failoverInterval",
    "upDelay",
    "downDelay",
    "packetsPerLink",
    "activeReselect",
    "linkSelectMethod",
    "linkQuality",
    "links",
    "negotiate",
];
/// The keys of a link.
const LINK: [&str; 6] = ["mode", "failoverTo", "ipvPref", "capacity", "mtu", "enabled"];

/// Keys that ZeroTierOne read before 1.10, or that only documentation knows: what to do instead.
fn former(key: &str) -> Option<&'static str> {
    Some(match key {
        "speed" => "write capacity, in bits per second or with a unit (\"200M\")",
        "qualityWeights" => "write linkQuality with lat_weight, pdv_weight, plr_weight, per_weight",
        "flowRebalanceStrategy" => "remove it: flows move by themselves when their link is full, lost or back",
        "monitorInterval" => "remove it: it is a third of failoverInterval",
        "multipathMode" => "write defaultBondingPolicy",
        _ if key.starts_with("maxAcceptable") => "write linkQuality with lat_max, pdv_max, plr_max, per_max",
        _ => return None,
    })
}

/// What `capacity` takes.
const CAPACITY: &str = "bits per second, as a number or with a unit, like \"200M\", \"1.5G\" or \"512k\"";

/// A capacity as text, and whether it has a unit: `200M`, `1.5Gbit/s`, `512k`; without one it is as a number.
pub fn capacity(text: &str) -> Result<(i64, bool), &'static str> {
    let text = text.trim();
    let short = ["bit/s", "bps", "bit"].into_iter().find_map(|unit| text.strip_suffix(unit));
    let number = short.unwrap_or(text).trim_end();
    let (digits, factor) = match number.char_indices().last() {
        Some((at, 'k' | 'K')) => (&number[..at], 1e3),
        Some((at, 'm' | 'M')) => (&number[..at], 1e6),
        Some((at, 'g' | 'G')) => (&number[..at], 1e9),
        _ => (number, 1.0),
    };
    let plain = digits.trim_end();
    let is_number = plain.starts_with(|c: char| c.is_ascii_digit())
        && plain.chars().all(|c| c.is_ascii_digit() || c == '.')
        && plain.len() <= 18;
    let n = plain.parse::<f64>().ok().filter(|_| is_number).ok_or(CAPACITY)?;
    Ok(((n * factor).round() as i64, factor > 1.0 || short.is_some()))
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", .nearest.as_deref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
pub struct Refused {
    /// What is wrong, and with which name.
    pub what: String,
    /// The name that was meant, perhaps.
    pub nearest: Option<String>,
}

/// Settings that hold, and what is to be said of them; or the first thing for which they are refused.
pub fn judge(settings: &Settings) -> Result<(Bonding, Vec<String>), Refused> {
    let (bonding, problems) = Bonding::read(settings);
    if let Some(problem) = problems.iter().find(|p| p.is_error()) {
        let nearest = meant(problem, settings).map(str::to_owned);
        return Err(Refused { what: problem.to_string(), nearest });
    }
    Ok((bonding, problems.iter().map(Judged::to_string).collect()))
}

/// The name that looks most like the one that means nothing.
fn meant<'a>(problem: &Judged, settings: &'a Settings) -> Option<&'a str> {
    match problem {
        Judged::UnknownBase(_, base) => {
            nearest(base, Policy::ALL.map(Policy::name).into_iter().filter(|n| *n != "none"))
        }
        Judged::UnknownDefault(name) | Judged::UnknownPeerPolicy(_, name) => nearest_policy(name, settings),
        Judged::UnknownLinkMode(_, mode) => nearest(mode, LinkMode::ALL.map(LinkMode::name)),
        Judged::UnknownSelect(_, method) => nearest(method, SelectMethod::ALL.map(SelectMethod::name)),
        Judged::UnknownQuality(_, key) => nearest(key, QUALITY_KEYS),
        Judged::UnknownFailover(link, to) => {
            let links = settings.policies.values().filter(|p| p.links.contains_key(link)).flat_map(|p| p.links.keys());
            nearest(to, links.map(String::as_str).filter(|name| name != link))
        }
        _ => None,
    }
}

/// The policy, standard or of the operator's own, whose name looks most like this one.
pub fn nearest_policy<'a>(name: &str, settings: &'a Settings) -> Option<&'a str> {
    let own = settings.policies.keys().map(String::as_str);
    nearest(name, own.chain(Policy::ALL.map(Policy::name)))
}

/// Reads one of [`KEYS`].
pub(super) fn set(to: &mut Settings, key: &str, value: &Value) -> Result<(), Problem> {
    let at = format!("settings.{key}");
    match key {
        "defaultBondingPolicy" => to.default = text(value, &at, "the name of a policy")?,
        "peerSpecificBonds" => {
            for (peer, policy) in table(value, &at)? {
                let address: Address =
                    peer.parse().map_err(|_| wrong(&at, &Value::from(peer.as_str()), "an address of 10 hex digits"))?;
                let name = text(policy, &format!("{at}.{peer:?}"), "the name of a policy")?;
                to.peers.insert(address.to_u64(), name);
            }
        }
        "policies" => {
            for (name, written) in table(value, &at)? {
                to.policies.insert(name.clone(), policy(written, &format!("{at}.{name:?}"))?);
            }
        }
        _ => {
            let mode = value.as_str().and_then(Mode::from_name);
            to.mode = mode.ok_or_else(|| wrong(&at, value, "\"better\" or \"compat\""))?;
        }
    }
    Ok(())
}

fn policy(value: &Value, place: &str) -> Result<PolicySettings, Problem> {
    let mut p = PolicySettings::default();
    for (key, value) in object(value, place)? {
        let at = format!("{place}.{key}");
        match key.as_str() {
            "basePolicy" => p.base = Some(text(value, &at, "the name of a standard policy")?),
            "failoverInterval" => p.failover_interval = Some(signed(value, &at)?),
            "upDelay" => p.up_delay = Some(signed(value, &at)?),
            "downDelay" => p.down_delay = Some(signed(value, &at)?),
            "packetsPerLink" => p.packets_per_link = Some(signed(value, &at)?),
            "activeReselect" => p.active_reselect = Some(text(value, &at, METHODS)?),
            "linkSelectMethod" => p.link_select_method = Some(text(value, &at, METHODS)?),
            "negotiate" => p.negotiate = Some(boolean(value, &at)?),
            "linkQuality" => {
                for (key, value) in table(value, &at)? {
                    let Some(known) = QUALITY_KEYS.into_iter().find(|known| known == key) else {
                        return Err(strange(key, &at, &QUALITY_KEYS));
                    };
                    p.quality.insert(known.to_owned(), decimal(value, &format!("{at}.{key}"))?);
                }
            }
            "links" => {
                for (name, value) in table(value, &at)? {
                    p.links.insert(name.clone(), link(value, &format!("{at}.{name:?}"))?);
                }
            }
            _ => return Err(strange(key, place, &POLICY)),
        }
    }
    Ok(p)
}

const METHODS: &str = "\"always\", \"better\", \"failure\" or \"optimize\"";

fn link(value: &Value, place: &str) -> Result<LinkSettings, Problem> {
    let mut l = LinkSettings::default();
    for (key, value) in object(value, place)? {
        let at = format!("{place}.{key}");
        match key.as_str() {
            "mode" => l.mode = Some(text(value, &at, "\"primary\" or \"spare\"")?),
            "failoverTo" => l.failover_to = Some(text(value, &at, "the name of an interface")?),
            "ipvPref" => l.ip_preference = Some(signed(value, &at)?),
            "capacity" => {
                let (n, has_unit) = match value {
                    Value::String(text) => capacity(text).map_err(|expected| wrong(&at, value, expected))?,
                    _ => (signed(value, &at).map_err(|_| wrong(&at, value, CAPACITY))?, false),
                };
                (l.capacity, l.capacity_has_unit) = (Some(n), has_unit);
            }
            "mtu" => l.mtu = Some(signed(value, &at)?),
            "enabled" => l.enabled = Some(boolean(value, &at)?),
            _ => return Err(strange(key, place, &LINK)),
        }
    }
    Ok(l)
}

/// A key that is not taken: one of former versions, or one that nobody knows.
pub(super) fn strange(key: &str, place: &str, known: &[&'static str]) -> Problem {
    match former(key) {
        Some(instead) => Problem::Former { key: key.to_owned(), place: place.to_owned(), instead },
        None => unknown(key, place, known),
    }
}

fn table<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>, Problem> {
    let table = object(value, key)?;
    bounded(key, table.len(), MAX_ENTRIES)?;
    Ok(table)
}

fn text(value: &Value, key: &str, expected: &'static str) -> Result<String, Problem> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, value, expected))
}

// spec: bonding, "local.conf": numbers may be texts or booleans
fn decimal(value: &Value, key: &str) -> Result<f64, Problem> {
    let n = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.parse().ok(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    };
    n.filter(|n| n.is_finite()).ok_or_else(|| wrong(key, value, "a number"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bond::config::Params;

    use super::super::LocalConf;
    use super::*;

    /// What a file with these `settings` says, or why it is refused.
    fn read(settings: &str) -> Result<Settings, String> {
        let text = format!(r#"{{"settings": {{{settings}}}}}"#);
        let conf = LocalConf::parse(&text, Path::new("local.conf")).map_err(|e| e.to_string())?;
        Ok(conf.settings.bonding)
    }

    /// A file whose default is a policy of these keys.
    fn of_policy(keys: &str) -> String {
        format!(r#""defaultBondingPolicy": "x", "policies": {{"x": {{"basePolicy": "active-backup"{keys}}}}}"#)
    }

    fn of_link(keys: &str) -> String {
        of_policy(&format!(r#", "links": {{"eth0": {{{keys}}}, "eth1": {{}}}}"#))
    }

    fn held(settings: &str) -> Params {
        let (bonding, _) = judge(&read(settings).expect(settings)).expect(settings);
        Params::clone(&bonding.of(1).expect("a bond"))
    }

    #[track_caller]
    fn refused(settings: &str, want: &str) {
        let said = read(settings).expect_err(settings);
        assert!(said.contains(want), "{said}");
    }

    #[test]
    fn without_the_keys_there_is_no_bond() {
        for none in ["", r#""defaultBondingPolicy": "", "policies": {}, "peerSpecificBonds": {}"#] {
            assert_eq!(read(none), Ok(Settings::default()));
        }
    }

    #[test]
    fn every_key_of_the_schema_is_read() {
        let file = r#"
            "bondingMode": "compat", "defaultBondingPolicy": "backup", "peerSpecificBonds": {"1558449d0a": "turns"},
            "policies": {
                "turns": {"basePolicy": "balance-rr", "packetsPerLink": 8},
                "backup": {
                    "basePolicy": "active-backup", "failoverInterval": "700", "upDelay": 3000, "downDelay": "1500",
                    "activeReselect": "optimize", "linkSelectMethod": "optimize", "negotiate": true,
                    "linkQuality": {"lat_max": 400, "pdv_max": "20", "plr_max": 0.1, "per_max": 0.2,
                                    "lat_weight": true, "pdv_weight": 0, "plr_weight": 0.0, "per_weight": false},
                    "links": {
                        "eth0": {"mode": "primary", "failoverTo": "wwan0", "capacity": 1000, "enabled": "true"},
                        "wwan0": {"mode": "spare", "ipvPref": "46", "mtu": 1400, "capacity": "20M"},
                        "eth9": {"enabled": false}
                    }
                }
            }"#;
        let p = held(file);
        assert_eq!((p.policy, p.mode, p.negotiate), (Policy::ActiveBackup, Mode::Compat, true));
        assert_eq!((p.failover_interval, p.up_delay, p.down_delay), (700, 3000, 1500));
        assert_eq!(p.select, SelectMethod::Optimize);
        let q = p.quality;
        assert_eq!((q.latency_max, q.pdv_max, q.loss_max, q.error_max), (400.0, 20.0, 0.1, 0.2));
        assert_eq!(q.weights, [1.0, 0.0, 0.0, 0.0]);
        let (eth0, wwan0) = (p.link("eth0").expect("eth0"), p.link("wwan0").expect("wwan0"));
        assert_eq!((eth0.mode, eth0.capacity, eth0.failover_to.as_deref()), (LinkMode::Primary, 1000, Some("wwan0")));
        assert_eq!((wwan0.mode, wwan0.ip.0, wwan0.mtu, wwan0.capacity), (LinkMode::Spare, 46, 1400, 20_000_000));
        assert!(p.link("eth9").is_none() && p.link("eth1").is_none(), "disabled; not listed");
        let (bonding, said) = judge(&read(file).expect("read")).expect("good");
        let turns = bonding.of(0x15_5844_9d0a).expect("a bond");
        assert_eq!((turns.policy, turns.packets_per_link), (Policy::BalanceRr, 8));
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one() {
        refused(r#""defaultBondPolicy": "x""#, r#"in settings; did you mean "defaultBondingPolicy"?"#);
        refused(r#""peerSpecificBond": {}"#, r#"did you mean "peerSpecificBonds"?"#);
        refused(r#""bondMode": "better""#, r#"did you mean "bondingMode"?"#);
        for (typo, key) in POLICY.map(|key| (&key[..key.len() - 1], key)) {
            let want = format!(r#"unknown key "{typo}" in settings.policies."x"; did you mean "{key}"?"#);
            refused(&of_policy(&format!(r#", "{typo}": 1"#)), &want);
        }
        for (typo, key) in LINK.map(|key| (format!("{key}s"), key)) {
            let want = format!(r#"unknown key "{typo}" in settings.policies."x".links."eth0"; did you mean "{key}"?"#);
            refused(&of_link(&format!(r#""{typo}": 1"#)), &want);
        }
        for (typo, key) in QUALITY_KEYS.map(|key| (format!("{key}s"), key)) {
            let want = format!(r#""{typo}" in settings.policies."x".linkQuality; did you mean "{key}"?"#);
            refused(&of_policy(&format!(r#", "linkQuality": {{"{typo}": 1}}"#)), &want);
        }
    }

    #[test]
    fn keys_of_former_versions_are_refused_with_what_to_write_instead() {
        for (key, instead) in [
            ("qualityWeights", "write linkQuality with lat_weight"),
            ("maxAcceptableLatency", "write linkQuality with lat_max"),
            ("maxAcceptablePacketLossRatio", "write linkQuality with lat_max, pdv_max, plr_max"),
            ("flowRebalanceStrategy", "remove it: flows move by themselves"),
            ("monitorInterval", "a third of failoverInterval"),
        ] {
            let want = format!(r#"{key} in settings.policies."x" is not read any more: "#);
            refused(&of_policy(&format!(r#", "{key}": 1"#)), &want);
            refused(&of_policy(&format!(r#", "{key}": 1"#)), instead);
        }
        refused(
            &of_link(r#""speed": 100"#),
            r#"speed in settings.policies."x".links."eth0" is not read any more: write cap"#,
        );
        refused(r#""multipathMode": 1"#, "multipathMode in settings is not read any more: write defaultBondingPolicy");
    }

    #[test]
    fn a_name_that_means_nothing_is_refused_with_the_nearest_that_does() {
        let typo = |settings: &str, want: &str| refused(settings, &format!("did you mean {want:?}?"));
        typo(r#""defaultBondingPolicy": "balance-awre""#, "balance-aware");
        typo(&of_policy("").replace(r#""x","#, r#""xx","#), "x");
        typo(r#""policies": {"x": {"basePolicy": "active-bakup"}}"#, "active-backup");
        typo(r#""peerSpecificBonds": {"1558449d0a": "brodcast"}"#, "broadcast");
        typo(&of_policy(r#", "activeReselect": "fail""#), "failure");
        typo(&of_policy(r#", "linkSelectMethod": "allways""#), "always");
        typo(&of_link(r#""mode": "primry""#), "primary");
        typo(&of_link(r#""failoverTo": "eth11""#), "eth1");
        refused(&of_link(r#""failoverTo": "eth0""#), "failoverTo eth0 is no other link of the policy");
        refused(r#""bondingMode": "stock""#, r#"settings.bondingMode: "stock" is not "better" or "compat""#);
        refused(r#""policies": {"none": {"basePolicy": "broadcast"}}"#, "the name belongs to a standard policy");
        refused(r#""policies": {"x": {}}"#, "policy x has no basePolicy");
        refused(&of_link(r#""ipvPref": 5"#), "ipvPref 5 is none of 0, 4, 6, 46, 64");
        refused(&of_link(r#""capacity": 200"#), "write it in full (200000000) or with a unit");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_place() {
        for (settings, at) in [
            (r#""defaultBondingPolicy": 5"#.to_owned(), "settings.defaultBondingPolicy: 5 is not the name of a policy"),
            (r#""policies": []"#.to_owned(), "settings.policies: [] is not an object"),
            (r#""policies": {"x": 1}"#.to_owned(), r#"settings.policies."x": 1 is not an object"#),
            (r#""peerSpecificBonds": {"15584": "x"}"#.to_owned(), "\"15584\" is not an address of 10 hex digits"),
            (r#""peerSpecificBonds": {"1558449d0a": 1}"#.to_owned(), "1 is not the name of a policy"),
            (of_policy(r#", "upDelay": 1.5"#), r#""x".upDelay: 1.5 is not a whole number"#),
            (of_policy(r#", "failoverInterval": "5s""#), r#"failoverInterval: "5s" is not a whole number"#),
            (of_policy(r#", "negotiate": "banana""#), r#"negotiate: "banana" is not true or false"#),
            (of_policy(r#", "linkQuality": {"lat_max": "x"}"#), r#"linkQuality.lat_max: "x" is not a number"#),
            (of_policy(r#", "links": ["eth0"]"#), r#"links: ["eth0"] is not an object"#),
            (of_link(r#""mode": 1"#), r#""eth0".mode: 1 is not "primary" or "spare""#),
            (of_link(r#""capacity": "fast""#), r#""eth0".capacity: "fast" is not bits per second"#),
            (of_link(r#""mtu": {}"#), r#""eth0".mtu: {} is not a whole number"#),
            (of_link(r#""enabled": []"#), r#""eth0".enabled: [] is not true or false"#),
        ] {
            refused(&settings, at);
        }
        let many: Vec<_> = (0..=MAX_ENTRIES).map(|n| format!(r#""l{n}": {{}}"#)).collect();
        refused(&of_policy(&format!(r#", "links": {{{}}}"#, many.join(","))), "has 1025 entries, at most 1024");
        refused(&of_policy(&format!(r#", "links": {{{}}}"#, many[..65].join(","))), "more than 64 links");
    }

    #[test]
    fn a_capacity_has_a_unit_or_is_a_plain_number() {
        for (text, bits, has_unit) in [
            ("200M", 200_000_000, true),
            ("1.5G", 1_500_000_000, true),
            ("512k", 512_000, true),
            ("20 Mbit/s", 20_000_000, true),
            ("300bps", 300, true),
            ("7mbit", 7_000_000, true),
            ("1000000", 1_000_000, false),
            ("0", 0, false),
        ] {
            assert_eq!(capacity(text), Ok((bits, has_unit)), "{text}");
        }
        for bad in ["", "M", "-1M", "1T", "1e9", "NaN", "inf", "1.2.3M", "1M5", "0x10", "9999999999999999999G"] {
            assert_eq!(capacity(bad), Err(CAPACITY), "{bad}");
        }
    }
}
