//! `hawser bond ...`: what can be asked about bonds, and how the answers are fetched.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wire::Address;

use super::{CliError, emit};
use crate::client::{Client, ClientError};
use crate::show;

/// `hawser bond ...`
#[derive(Debug, Subcommand)]
pub enum BondCommand {
    /// List the peers that we bond with
    List,
    /// Show one bond: its paths with what was measured, and its last decisions with their reasons
    Show {
        /// 10 hex digits
        peer: Address,
    },
    /// Show one bond, or all, again and again until interrupted; with --json one line each time
    Watch {
        /// 10 hex digits; none: all bonds
        peer: Option<Address>,
        /// Seconds between two looks
        #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
        every: f64,
        /// End after so many looks
        #[arg(long, value_name = "N")]
        times: Option<u64>,
    },
    /// Make an active-backup bond use its next path that works; it stays there until that path fails
    Rotate {
        /// 10 hex digits
        peer: Address,
    },
    /// Limit the UDP payload on the paths of all bonds over one link to one remote address, until the next start
    Setmtu {
        /// Bytes
        mtu: u32,
        /// Interface
        link: String,
        /// Remote IP address
        ip: IpAddr,
    },
    /// Try the paths to a peer one after the other and tell what each can do
    ///
    /// On the wire: on the path under test 20 empty frames a second that the peer acknowledges (51 bytes there, 45 back);
    /// nothing of them reaches its TAP. From them come round trips and loss. Meanwhile all data to the peer goes over this
    /// one path, so start the traffic that matters beforehand; `sent meanwhile` is what it came to. A path that does not
    /// answer for half a second gets its data taken away again. --leave-traffic tests without moving data.
    ///
    /// With --load each path is then loaded for up to 10 s with padded frames of full size at that rate: Ethernet frames of
    /// type 0x88b5, which is for experiments and for which no system has a handler, or which the network's rules drop. The
    /// peer acknowledges one in so many, about 200 a second. What was acknowledged in which time is the rate that the path
    /// carried. The load competes with everything else on the link; nothing makes the far end send. Data is where the bond
    /// puts it while a load is on.
    ///
    /// The daemon ends each test by itself, also when this command is interrupted.
    Test(TestArgs),
}

/// `hawser bond test`
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// 10 hex digits
    pub peer: Address,
    /// How long each path is probed, 1 to 60; a load lasts as long, but 10 s at most
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Load each path at this rate, e.g. 20M; bits of UDP payload per second, 200M at most
    #[arg(long, value_name = "RATE", value_parser = bits)]
    pub load: Option<f64>,
    /// Only this path, by the name that `hawser bond show` gives it; repeatable
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Leave data where the bond puts it
    #[arg(long)]
    pub leave_traffic: bool,
}

/// Bits per second, perhaps with k, M or G.
fn bits(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let most = 8.0 * ::bond::limits::TEST_LOAD_MAX;
    match number.parse::<f64>() {
        Ok(n) if n * unit > most => Err(format!("more than {}M is not sent", most / 1e6)),
        Ok(n) if n * unit >= 1.0 => Ok(n * unit),
        _ => Err("it is no rate like 800k, 20M or 20000000".to_owned()),
    }
}

/// The words of ZeroTierOne's command line as ours: `listbonds`, `bond <peer> show`, `bond <peer> rotate`.
pub fn spoken(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let at = |word: &str| words.iter().skip(1).position(|w| w == word).map(|i| i + 1);
    if let Some(at) = at("listbonds") {
        words.splice(at..=at, ["bond".into(), "list".into()]);
    } else if let Some(at) = at("bond")
        && let [_, peer, verb, ..] = &words[at..]
        && peer.to_str().is_some_and(|p| p.parse::<Address>().is_ok())
        && (verb == "show" || verb == "rotate")
    {
        words.swap(at + 1, at + 2);
    }
    words
}

/// Does it.
pub fn run(client: &Client, command: &BondCommand, as_json: bool) -> Result<(), CliError> {
    let print = |value: &Value, table: fn(&Value) -> String| {
        if as_json { emit(&show::pretty(value)) } else { emit(&table(value)) }
    };
    match command {
        BondCommand::List => {
            let peers = client.get("/peer")?;
            if !as_json {
                return emit(&show::bond::bonds(&peers));
            }
            let bonded = peers.as_array().into_iter().flatten().filter(|p| p["isBonded"] == true);
            emit(&show::pretty(&bonded.cloned().collect()))
        }
        BondCommand::Show { peer } => print(&bond_of(client, *peer)?, show::bond::bond),
        BondCommand::Watch { peer, every, times } => watch(client, *peer, *every, *times, as_json),
        BondCommand::Rotate { peer } => rotate(client, *peer, as_json),
        BondCommand::Setmtu { mtu, link, ip } => {
            let done = client.post(&format!("/bond/setmtu/{mtu}/{link}/{ip}"), &json!({}));
            print(&done.map_err(|e| in_words(e, "the MTU was not set"))?, |_| "set".into())
        }
        BondCommand::Test(args) => test(client, args, as_json),
    }
}

/// What a refusal means: its body is words.
fn in_words(e: ClientError, what: &str) -> CliError {
    match e {
        ClientError::Status { code: 400, body, .. } => CliError::Failed(format!("{what}: {body}")),
        other => other.into(),
    }
}

/// A bonded peer, or why it is none.
fn bond_of(client: &Client, peer: Address) -> Result<Value, CliError> {
    match client.get(&format!("/bond/show/{peer}")) {
        Err(ClientError::Status { code: 400, .. }) => {
            let object = client.get(&format!("/peer/{peer}"))?;
            let why = match (object.get("address").is_some(), object["role"].as_str()) {
                (false, _) => return Err(ClientError::NotFound { path: format!("peer {peer}") }.into()),
                (true, Some("PLANET" | "MOON")) => "it is a root, and roots have none",
                (true, _) => "no bonding policy of ours holds for it, or nothing was sent to it lately",
            };
            Err(CliError::Failed(format!("there is no bond with {peer}: {why}")))
        }
        other => Ok(other?),
    }
}

fn watch(
    client: &Client,
    peer: Option<Address>,
    every: f64,
    times: Option<u64>,
    as_json: bool,
) -> Result<(), CliError> {
    let pause = Duration::try_from_secs_f64(every.max(0.1)).unwrap_or(Duration::from_secs(1));
    for look in 0..times.unwrap_or(u64::MAX) {
        if look > 0 {
            thread::sleep(pause);
        }
        let value = match peer {
            Some(peer) => bond_of(client, peer)?,
            None => client.get("/peer")?,
        };
        let shown = match peer {
            _ if as_json => value.to_string(),
            Some(_) => show::bond::bond(&value),
            None => show::bond::bonds(&value),
        };
        // A terminal shows one look at a time, anything else all of them.
        let (before, after) = match (as_json, stdout().is_terminal()) {
            (true, _) => ("", ""),
            (false, true) => ("\x1b[H\x1b[2J", ""),
            (false, false) => ("", "\n"),
        };
        match writeln!(stdout(), "{before}{shown}{after}") {
            // Whoever read it has seen enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            written => written.map_err(CliError::failed)?,
        }
    }
    Ok(())
}

/// Link and remote of the path that an active-backup bond uses.
fn active(bond: &Value) -> Option<String> {
    let paths = bond["bond"]["paths"].as_array()?;
    let path = paths.iter().find(|p| p["id"] == bond["bond"]["active"])?;
    Some(format!("{} to {}", path["link"].as_str()?, path["address"].as_str()?))
}

fn rotate(client: &Client, peer: Address, as_json: bool) -> Result<(), CliError> {
    let before = bond_of(client, peer)?;
    match client.post(&format!("/bond/rotate/{peer}"), &json!({})) {
        Err(ClientError::Status { code: 400, .. }) => {
            let policy = before["bondingPolicyStr"].as_str().unwrap_or_default();
            let why =
                format!("the bond with {peer} is {policy}: only active-backup has one path that another can replace");
            return Err(CliError::Failed(why));
        }
        other => other?,
    };
    let after = bond_of(client, peer)?;
    let (was, is) = (active(&before), active(&after));
    if as_json {
        return emit(&show::pretty(&json!({"rotated": was != is, "from": was, "to": is})));
    }
    let name = |path: Option<String>| path.unwrap_or_else(|| "none".to_owned());
    if was != is {
        return emit(&format!("rotated: {} -> {}", name(was), name(is)));
    }
    let others = after["numAliveLinks"].as_u64().unwrap_or(0);
    let why = if others > 1 { "the daemon kept it" } else { "no other path works; see `hawser bond show`" };
    emit(&format!("nothing changed, {} stays in use: {why}", name(is)))
}

fn test(client: &Client, args: &TestArgs, as_json: bool) -> Result<(), CliError> {
    let peer = args.peer;
    let bond = bond_of(client, peer)?;
    let paths: Vec<&Value> = bond["bond"]["paths"].as_array().into_iter().flatten().collect();
    if let Some(unknown) = args.paths.iter().find(|name| !paths.iter().any(|p| p["id"] == name.as_str())) {
        return Err(ClientError::NotFound { path: format!("path {unknown} of the bond with {peer}") }.into());
    }
    let wanted = |p: &&Value| args.paths.is_empty() || args.paths.iter().any(|name| p["id"] == name.as_str());
    let at = format!("/hawser/bond/test/{peer}");
    let mut found = Vec::new();
    for path in paths.into_iter().filter(wanted) {
        let order = json!({"path": path["id"], "seconds": args.seconds, "load": args.load.unwrap_or(0.0),
            "force": !args.leave_traffic});
        client.post(&at, &order).map_err(|e| in_words(e, "the test was refused"))?;
        let mut result = loop {
            thread::sleep(Duration::from_millis(200));
            let result = client.get(&at).map_err(|e| in_words(e, "the test is gone"))?;
            if result["over"] == true {
                break result;
            }
        };
        result["link"] = path["link"].clone();
        result["address"] = path["address"].clone();
        found.push(result);
    }
    let found = Value::Array(found);
    if as_json { emit(&show::pretty(&found)) } else { emit(&show::bond::tests(&found)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(line: &str) -> Result<BondCommand, clap::error::ErrorKind> {
        let words = spoken(line.split_whitespace().map(OsString::from));
        match Cli::try_parse_from(words).map_err(|e| e.kind())?.command {
            Command::Bond(command) => Ok(command),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn bonds_are_asked_for_in_our_words_and_in_those_of_zerotier_cli() {
        for line in ["hawser bond list", "hawser listbonds", "hawser --json --home /x listbonds"] {
            assert!(matches!(parse(line), Ok(BondCommand::List)), "{line}");
        }
        for line in ["hawser bond show bddd488d45", "hawser bond bddd488d45 show", "hawser --json bond bddd488d45 show"]
        {
            assert!(
                matches!(parse(line), Ok(BondCommand::Show { peer }) if peer.to_string() == "bddd488d45"),
                "{line}"
            );
        }
        for line in ["hawser bond rotate bddd488d45 --json", "hawser bond bddd488d45 rotate --json"] {
            assert!(matches!(parse(line), Ok(BondCommand::Rotate { .. })), "{line}");
        }
        assert!(matches!(parse("hawser bond watch"), Ok(BondCommand::Watch { peer: None, .. })));
        assert!(matches!(parse("hawser bond watch bddd488d45 --every 0.5 --times 3"), Ok(BondCommand::Watch { .. })));
        let set = parse("hawser bond setmtu 1400 eth0 fd00::1");
        assert!(matches!(set, Ok(BondCommand::Setmtu { mtu: 1400, .. })), "{set:?}");
        for wrong in [
            "hawser bond",
            "hawser bond show",
            "hawser bond show xyz",
            "hawser bond bddd488d45",
            "hawser bond setmtu 1 e",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_test_has_bounds_that_the_command_line_names() {
        let Ok(BondCommand::Test(args)) = parse("hawser bond test bddd488d45 --load 20M --path 0.1 --path 1.2") else {
            panic!("a test");
        };
        assert_eq!((args.seconds, args.load, args.paths.len(), args.leave_traffic), (5, Some(20e6), 2, false));
        assert_eq!((bits("800k"), bits("1.5G").is_err(), bits("20000000")), (Ok(800e3), true, Ok(20e6)));
        for wrong in ["", "M", "x", "-3M", "nan", "0", "inf"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
        for wrong in ["--seconds 0", "--seconds 61", "--load 300M"] {
            assert!(parse(&format!("hawser bond test bddd488d45 {wrong}")).is_err(), "{wrong}");
        }
    }
}
