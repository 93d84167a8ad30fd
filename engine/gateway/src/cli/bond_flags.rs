//! The flags of bonding, which say what the bonding keys of local.conf say and count above them. Here they are read and
//! laid over the file; what they mean together is judged where the file's settings are.
// spec: bonding, "local.conf"

use std::collections::BTreeMap;

use bond::config::{LinkMode, LinkSettings, Mode, Policy, PolicySettings, QUALITY_KEYS, SelectMethod, Settings};
use clap::Args;
use wire::Address;

use crate::local_conf::bonding::{Refused, capacity, nearest_policy};
use crate::local_conf::nearest;

/// The default policy that flags make, as messages name it.
const DEFAULT: &str = "--bond-policy";

/// Bonding on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct BondArgs {
    /// How the links to one peer are used together, e.g. active-backup,up-delay=2s: active-backup, broadcast, balance-rr,
    /// balance-xor, balance-aware, none, or a policy of local.conf. Keys: failover-interval, up-delay, down-delay (500,
    /// 500ms, 2s), select (always|better|failure|optimize), negotiate (on|off), packets-per-link, and of compat mode
    /// lat-max, pdv-max, plr-max, per-max, lat-weight, pdv-weight, plr-weight, per-weight
    /// [default: defaultBondingPolicy of local.conf, else none]
    #[arg(long, value_name = "POLICY[,KEY=VALUE...]", value_parser = policy)]
    pub bond_policy: Option<PolicyFlag>,
    /// Bond over this interface, e.g. wwan0,mode=spare,capacity=20M, and no others but those named so; repeatable. Keys:
    /// mode (primary|spare), capacity (200M, 1.5G, 512k: bits per second), failover-to (an interface), ipv (4|6: only,
    /// 46|64: first, 0: both), mtu (bytes of UDP payload), enabled (on|off). Of --bond-policy, or of the default policy of
    /// local.conf in place of its links
    #[arg(long = "link", value_name = "INTERFACE[,KEY=VALUE...]", value_parser = link)]
    pub links: Vec<LinkFlag>,
    /// The policy for one peer; repeatable [default: peerSpecificBonds of local.conf]
    #[arg(long = "bond-peer", value_name = "ADDRESS=POLICY", value_parser = peer)]
    pub bond_peers: Vec<(Address, String)>,
    /// Who decides: better (acknowledgements and measured rates), or compat, as ZeroTierOne 1.14 decides
    /// [default: bondingMode of local.conf, else better]
    #[arg(long, value_name = "better|compat", value_parser = mode)]
    pub bond_mode: Option<Mode>,
}

/// `--bond-policy`
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFlag {
    name: String,
    /// What was said beside the name, nothing else.
    said: PolicySettings,
}

/// `--link`
#[derive(Clone, Debug, PartialEq)]
pub struct LinkFlag {
    name: String,
    said: LinkSettings,
}

impl BondArgs {
    /// The settings of the file with the flags laid over them.
    pub fn over(&self, file: &Settings) -> Result<Settings, Refused> {
        let refused = |what: String| Refused { what, nearest: None };
        let exists =
            |flag: &str, name: &str| match Policy::from_name(name).is_some() || file.policies.contains_key(name) {
                true => Ok(()),
                false => {
                    let nearest = nearest_policy(name, file).map(str::to_owned);
                    Err(Refused { what: format!("{flag}: policy {name} does not exist"), nearest })
                }
            };
        let mut settings = file.clone();
        settings.mode = self.bond_mode.unwrap_or(settings.mode);
        if let Some(policy) = &self.bond_policy {
            exists(DEFAULT, &policy.name)?;
            settings.default.clone_from(&policy.name);
        }
        let mut links = BTreeMap::new();
        for link in &self.links {
            if links.insert(link.name.clone(), link.said.clone()).is_some() {
                return Err(refused(format!("--link {} was said twice", link.name)));
            }
        }
        // A policy of the file, or a standard one, with what flags say of it.
        let made = |name: &str, said: &PolicySettings| {
            let base = || PolicySettings { base: Some(name.to_owned()), ..PolicySettings::default() };
            let mut policy = file.policies.get(name).cloned().unwrap_or_else(base);
            lay_over(&mut policy, said);
            if !links.is_empty() {
                policy.links.clone_from(&links);
            }
            policy
        };
        let said = self.bond_policy.as_ref().map(|p| p.said.clone()).unwrap_or_default();
        if !links.is_empty() || said != PolicySettings::default() {
            if matches!(settings.default.as_str(), "" | "none") {
                let what = "--link and the keys of --bond-policy need a policy: name one with --bond-policy";
                return Err(refused(what.to_owned()));
            }
            settings.policies.insert(DEFAULT.to_owned(), made(&settings.default, &said));
            settings.default = DEFAULT.to_owned();
        }
        let mut peers = BTreeMap::new();
        for (address, name) in &self.bond_peers {
            exists("--bond-peer", name)?;
            // In any mode a flag means what it names, over the links of the other flags.
            let mut named = name.clone();
            if Policy::from_name(name).is_some_and(|p| p != Policy::None) {
                named = format!("--bond-peer {name}");
                settings.policies.insert(named.clone(), made(name, &PolicySettings::default()));
            }
            if peers.insert(address.to_u64(), named).is_some() {
                return Err(refused(format!("--bond-peer {address} was said twice")));
            }
        }
        settings.peers.extend(peers);
        Ok(settings)
    }
}

/// What was said replaces what was written.
fn lay_over(policy: &mut PolicySettings, said: &PolicySettings) {
    let lay = |to: &mut Option<i64>, said: Option<i64>| *to = said.or(*to);
    lay(&mut policy.failover_interval, said.failover_interval);
    lay(&mut policy.up_delay, said.up_delay);
    lay(&mut policy.down_delay, said.down_delay);
    lay(&mut policy.packets_per_link, said.packets_per_link);
    if said.active_reselect.is_some() {
        policy.active_reselect.clone_from(&said.active_reselect);
        policy.link_select_method = None;
    }
    if said.negotiate.is_some() {
        policy.negotiate = said.negotiate;
    }
    policy.quality.extend(said.quality.clone());
}

/// Keys and values as said.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// The name, and the pairs after it.
fn parts(text: &str) -> Result<(String, Pairs<'_>), String> {
    let mut parts = text.split(',').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains('=')).ok_or("it begins with no name")?;
    let pairs: Result<Pairs<'_>, _> =
        parts.map(|part| part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))).collect();
    let pairs = pairs?;
    let twice = pairs.iter().enumerate().find(|(at, (key, _))| pairs[..*at].iter().any(|(before, _)| before == key));
    match twice {
        Some((_, (key, _))) => Err(format!("{key} was said twice")),
        None => Ok((name.to_owned(), pairs)),
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let nearest = nearest(key, known.iter().copied());
    let hint = nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
    format!("unknown key {key:?}{hint}")
}

/// One of `names`, or which of them was meant.
fn one_of(key: &str, value: &str, names: &[&'static str]) -> Result<String, String> {
    if names.contains(&value) {
        return Ok(value.to_owned());
    }
    let hint = nearest(value, names.iter().copied()).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
    Err(format!("{key}: {value:?} is none of {}{hint}", names.join(", ")))
}

fn number(key: &str, value: &str) -> Result<i64, String> {
    let n = value.parse().ok().filter(|n| *n >= 0);
    n.ok_or_else(|| format!("{key}: {value:?} is not a number from 0 upwards"))
}

/// Milliseconds: `500`, `500ms` or `2s`.
fn milliseconds(key: &str, value: &str) -> Result<i64, String> {
    let (digits, factor) = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => (value, 1),
    };
    let n = number(key, digits).map_err(|_| format!("{key}: {value:?} is no time, like 500ms or 2s"))?;
    Ok(n.saturating_mul(factor))
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("{key}: {value:?} is neither on nor off")),
    }
}

fn policy(text: &str) -> Result<PolicyFlag, String> {
    const KEYS: [&str; 14] = [
        "failover-interval",
        "up-delay",
        "down-delay",
        "packets-per-link",
        "select",
        "negotiate",
        "lat-max",
        "pdv-max",
        "plr-max",
        "per-max",
        "lat-weight",
        "pdv-weight",
        "plr-weight",
        "per-weight",
    ];
    let (name, pairs) = parts(text)?;
    let mut said = PolicySettings::default();
    for (key, value) in pairs {
        let quality = QUALITY_KEYS.into_iter().find(|quality| *quality == key.replace('-', "_"));
        match (key, quality) {
            ("failover-interval", _) => said.failover_interval = Some(milliseconds(key, value)?),
            ("up-delay", _) => said.up_delay = Some(milliseconds(key, value)?),
            ("down-delay", _) => said.down_delay = Some(milliseconds(key, value)?),
            ("packets-per-link", _) => said.packets_per_link = Some(number(key, value)?),
            ("select", _) => {
                said.active_reselect = Some(one_of(key, value, &SelectMethod::ALL.map(SelectMethod::name))?)
            }
            ("negotiate", _) => said.negotiate = Some(switch(key, value)?),
            (_, Some(quality)) => {
                let n = value.parse().ok().filter(|n: &f64| n.is_finite());
                let n = n.ok_or_else(|| format!("{key}: {value:?} is no number"))?;
                said.quality.insert(quality.to_owned(), n);
            }
            _ => return Err(unknown(key, &KEYS)),
        }
    }
    Ok(PolicyFlag { name, said })
}

fn link(text: &str) -> Result<LinkFlag, String> {
    let (name, pairs) = parts(text)?;
    let mut said = LinkSettings::default();
    for (key, value) in pairs {
        match key {
            "mode" => said.mode = Some(one_of(key, value, &LinkMode::ALL.map(LinkMode::name))?),
            "failover-to" => said.failover_to = Some(value.to_owned()),
            "ipv" => {
                one_of(key, value, &["0", "4", "6", "46", "64"])?;
                said.ip_preference = Some(number(key, value)?);
            }
            "capacity" => {
                let (n, has_unit) =
                    capacity(value).map_err(|expected| format!("{key}: {value:?} is not {expected}"))?;
                (said.capacity, said.capacity_has_unit) = (Some(n), has_unit);
            }
            "mtu" => said.mtu = Some(number(key, value)?),
            "enabled" => said.enabled = Some(switch(key, value)?),
            _ => return Err(unknown(key, &["mode", "failover-to", "ipv", "capacity", "mtu", "enabled"])),
        }
    }
    Ok(LinkFlag { name, said })
}

fn peer(text: &str) -> Result<(Address, String), String> {
    let (address, policy) = text.split_once('=').ok_or("it is not ADDRESS=POLICY")?;
    let address = address.parse().map_err(|_| format!("{address:?} is not an address of 10 hex digits"))?;
    Ok((address, policy.to_owned()))
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::from_name(text).ok_or_else(|| "it is neither better nor compat".to_owned())
}

#[cfg(test)]
mod tests {
    use bond::config::{Bonding, Params};
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::local_conf::bonding::judge;

    fn args(words: &str) -> Result<BondArgs, String> {
        let cli = Cli::try_parse_from(format!("hawser up {words}").split_whitespace()).map_err(|e| e.to_string())?;
        let Command::Up(up) = cli.command else { panic!("{words}") };
        Ok(up.bond)
    }

    /// What flags give over a file, or why not.
    fn over(words: &str, file: &Settings) -> Result<Bonding, String> {
        let settings = args(words)?.over(file).map_err(|e| e.to_string())?;
        judge(&settings).map(|(bonding, _)| bonding).map_err(|e| e.to_string())
    }

    fn held(words: &str, file: &Settings) -> Params {
        Params::clone(&over(words, file).expect(words).of(1).expect("a bond"))
    }

    /// A file whose default is a policy of its own.
    fn file() -> Settings {
        let links = [("eth5".to_owned(), LinkSettings::default())].into();
        let said = PolicySettings { base: Some("balance-xor".into()), up_delay: Some(70), links, ..Default::default() };
        Settings { default: "x".into(), policies: [("x".to_owned(), said)].into(), ..Settings::default() }
    }

    #[track_caller]
    fn refused(words: &str, want: &str) {
        let said = over(words, &Settings::default()).expect_err(words);
        assert!(said.contains(want), "{said}");
    }

    #[test]
    fn without_flags_the_file_says_what_holds() {
        assert_eq!(args("").expect("none").over(&file()), Ok(file()));
        assert!(!over("", &Settings::default()).expect("none").in_use());
    }

    #[test]
    fn every_flag_and_key_is_heeded() {
        let p = held(
            "--bond-mode compat --bond-policy active-backup,failover-interval=2s,up-delay=300,down-delay=50ms,\
             select=better,negotiate=on,lat-max=300,pdv-max=30,plr-max=0.1,per-max=0.1,lat-weight=0.4,pdv-weight=0.3,\
             plr-weight=0.2,per-weight=0.1 --link eth0,mode=primary,failover-to=wwan0,capacity=200M \
             --link wwan0,mode=spare,ipv=4,mtu=1400 --link eth9,enabled=off",
            &Settings::default(),
        );
        assert_eq!((p.policy, p.mode, p.select), (Policy::ActiveBackup, Mode::Compat, SelectMethod::Better));
        assert_eq!((p.failover_interval, p.up_delay, p.down_delay, p.negotiate), (2000, 300, 50, true));
        assert_eq!((p.quality.latency_max, p.quality.weights), (300.0, [0.4, 0.3, 0.2, 0.1]));
        let (eth0, wwan0) = (p.link("eth0").expect("eth0"), p.link("wwan0").expect("wwan0"));
        assert_eq!(
            (eth0.mode, eth0.capacity, eth0.failover_to.as_deref()),
            (LinkMode::Primary, 200_000_000, Some("wwan0"))
        );
        assert_eq!((wwan0.mode, wwan0.ip.0, wwan0.mtu), (LinkMode::Spare, 4, 1400));
        assert!(p.link("eth9").is_none() && p.link("eth1").is_none());
        assert_eq!(held("--bond-policy balance-rr,packets-per-link=8", &Settings::default()).packets_per_link, 8);
    }

    #[test]
    fn flags_count_above_the_file_and_what_they_do_not_say_stays() {
        assert_eq!(held("--bond-policy broadcast", &file()).policy, Policy::Broadcast);
        assert!(!over("--bond-policy none", &file()).expect("none").in_use());
        let p = held("--bond-policy x,down-delay=9 --link eth0 --link eth1", &file());
        assert_eq!((p.policy, p.up_delay, p.down_delay), (Policy::BalanceXor, 70, 9));
        assert!(p.link("eth0").is_some() && p.link("eth5").is_none(), "in place of the file's");
        let p = held("--link eth0", &file());
        assert!(p.policy == Policy::BalanceXor && p.link("eth5").is_none());
        assert_eq!(held("--bond-mode compat", &file()).mode, Mode::Compat);
    }

    #[test]
    fn single_peers_have_what_their_flag_names_over_the_links_of_the_others_in_any_mode() {
        let mut file = file();
        file.peers = [(3, "x".to_owned()), (4, "x".to_owned())].into();
        for mode in ["better", "compat"] {
            let words = format!(
                "--bond-mode {mode} --bond-policy active-backup --link eth0 --link eth1 \
                 --bond-peer 0000000002=broadcast --bond-peer 0000000003=none"
            );
            let bonding = over(&words, &file).expect("good");
            let policies = [1, 2, 3, 4].map(|peer| bonding.of(peer).map(|p| (p.policy, p.links.len())));
            let (backup, copies, own) = ((Policy::ActiveBackup, 2), (Policy::Broadcast, 2), (Policy::BalanceXor, 1));
            assert_eq!(policies, [Some(backup), Some(copies), None, Some(own)], "{mode}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_the_nearest_name_told() {
        refused(
            "--bond-policy balance-awre",
            "--bond-policy: policy balance-awre does not exist; did you mean \"balance-aware\"?",
        );
        refused("--bond-policy balance-awre --link eth0", "did you mean \"balance-aware\"?");
        refused(
            "--bond-peer 0000000001=brodcast",
            "--bond-peer: policy brodcast does not exist; did you mean \"broadcast\"?",
        );
        refused("--link eth0", "name one with --bond-policy");
        refused("--bond-policy none --link eth0", "name one with --bond-policy");
        refused("--bond-policy balance-xor --link eth0 --link eth0", "--link eth0 was said twice");
        refused("--bond-peer 0000000001=none --bond-peer 0000000001=none", "was said twice");
        refused("--bond-policy active-backup --link eth0,failover-to=eth0", "is no other link of the policy");
        refused("--bond-policy active-backup --link eth0,failover-to=eth2 --link eth1", "did you mean \"eth1\"?");
        refused("--bond-policy balance-aware --link eth0,capacity=200", "or with a unit");
        refused("--bond-policy balance-aware,lat-max=0", "linkQuality needs limits above 0");
    }

    #[test]
    fn a_flag_that_is_not_understood_is_a_usage_error() {
        for (words, want) in [
            ("--bond-policy ,select=better", "it begins with no name"),
            ("--bond-policy active-backup,selct=better", "unknown key \"selct\"; did you mean \"select\"?"),
            ("--bond-policy active-backup,select=fail", "did you mean \"failure\"?"),
            ("--bond-policy active-backup,up-delay=-1", "is no time, like 500ms or 2s"),
            ("--bond-policy active-backup,up-delay=1,up-delay=2", "up-delay was said twice"),
            ("--bond-policy active-backup,negotiate=maybe", "neither on nor off"),
            ("--bond-policy balance-rr,packets-per-link=x", "not a number from 0 upwards"),
            ("--bond-policy balance-rr,lat-max=inf", "is no number"),
            ("--link mode=spare", "it begins with no name"),
            ("--link eth0,spare", "\"spare\" is not KEY=VALUE"),
            ("--link eth0,capcity=1M", "unknown key \"capcity\"; did you mean \"capacity\"?"),
            ("--link eth0,capacity=fast", "is not bits per second"),
            ("--link eth0,mode=spar", "did you mean \"spare\"?"),
            ("--link eth0,ipv=5", "is none of 0, 4, 6, 46, 64"),
            ("--link eth0,mtu=big", "not a number from 0 upwards"),
            ("--link eth0,enabled=2", "neither on nor off"),
            ("--bond-peer x=none", "not an address of 10 hex digits"),
            ("--bond-peer 0000000001", "it is not ADDRESS=POLICY"),
            ("--bond-mode stock", "neither better nor compat"),
        ] {
            let said = args(words).expect_err(words);
            assert!(said.contains(want), "{words}: {said}");
        }
    }
}
