//! The command line: what can be said, and which part of the house does it. Every failure is one message that says what
//! to do next, and an exit code that says which kind it was.

pub mod bond;
mod bond_flags;

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};
use wire::endpoint::Prefix;
use wire::{Address, NetworkId};

use crate::api::parse_moon_id;
use crate::client::{Client, ClientError};
use crate::home::{DEFAULT_HOME, Home};
use crate::local_conf::parse_endpoint;
use crate::{daemon, show, tools};

pub use bond_flags::BondArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the message says why and what to do
  2  the command line is wrong
  3  no daemon answers for this home
  4  the daemon does not know the network, peer or member named

Environment:
  HAWSER_HOME  the home folder, if --home is not given
  HAWSER_LOG   what the daemon logs: error, warn, info (default), debug, trace, or per part: info,gateway::taps=debug";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, about = "A ZeroTier-compatible gateway for Linux", after_help = EXIT_CODES)]
pub struct Cli {
    /// Folder with identity, planet, networks and settings
    #[arg(long, global = true, env = "HAWSER_HOME", default_value = DEFAULT_HOME, value_name = "DIR")]
    pub home: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground (as root)
    Up(Box<UpArgs>),
    /// Show the running gateway
    Status,
    /// Show the peers it knows, or one of them with all its paths
    Peers {
        /// 10 hex digits
        peer: Option<Address>,
    },
    /// Bonds: what the paths to a peer are worth, which are used, and why
    #[command(subcommand)]
    Bond(bond::BondCommand),
    /// Show the networks it has joined
    Networks,
    /// Join a network, or change what a joined one may do to this host
    Join(JoinArgs),
    /// Leave a network
    Leave {
        /// 16 hex digits
        network: NetworkId,
    },
    /// Show the moons it follows: roots of your own beside the planet's
    #[command(alias = "listmoons")]
    Moons,
    /// Follow a moon
    Orbit {
        /// World ID, 10 or 16 hex digits
        #[arg(value_parser = moon_id)]
        moon: u64,
        /// Address of one of its roots, which will bring the definition; 10 hex digits
        seed: Address,
    },
    /// Stop following a moon
    Deorbit {
        /// World ID, 10 or 16 hex digits
        #[arg(value_parser = moon_id)]
        moon: u64,
    },
    /// Make and examine moons
    #[command(subcommand)]
    Moon(MoonCommand),
    /// Make and examine identities
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Make and examine planets
    #[command(subcommand)]
    Planet(PlanetCommand),
    /// Run networks of your own on this node's controller
    #[command(subcommand)]
    Controller(ControllerCommand),
    /// Build a private planet in network namespaces, send traffic through it, measure, clean up (as root)
    Lab(LabArgs),
}

/// `hawser up`
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// UDP and API port; 0 picks a free one [default: primaryPort of local.conf, else 9993]
    #[arg(long, short)]
    pub port: Option<u16>,
    /// Never probe a path that carries frames and brings nothing back: a dead path is left after 19 s, for the relay after
    /// four minutes, as in ZeroTierOne [default: probe, unless fastFailover of local.conf is false]
    #[arg(long)]
    pub no_fast_failover: bool,
    /// While a direct path is new, so many frames, e.g. 64, or those of so many milliseconds, e.g. 200ms, or 64,200ms,
    /// go by the relay as well. A Hawser delivers each once; ZeroTierOne delivers both copies
    /// [default: warmUp of local.conf, else off]
    #[arg(long, value_name = "FRAMES,MSms", value_parser = crate::local_conf::warm_up)]
    pub warm_up: Option<node::WarmUp>,
    /// Second UDP port, beside the first: one more chance to get through a NAT; 0 picks a free one, and another one after
    /// two minutes without a root [default: secondaryPort of local.conf, else 0]
    #[arg(long, value_name = "PORT")]
    pub secondary_port: Option<u16>,
    /// Third UDP port, the one that routers are asked to map (PCP, NAT-PMP, UPnP); 0 picks a free one
    /// [default: tertiaryPort of local.conf, else 0]
    #[arg(long, value_name = "PORT")]
    pub tertiary_port: Option<u16>,
    /// No second port [default: there is one, unless allowSecondaryPort of local.conf is false]
    #[arg(long, conflicts_with = "secondary_port")]
    pub no_secondary_port: bool,
    /// No third port, and ask no router for anything [default: ask, unless portMappingEnabled of local.conf is false]
    #[arg(long, conflicts_with = "tertiary_port")]
    pub no_port_mapping: bool,
    /// Use this network interface; repeatable. One that is not there is used when it appears [default: interfaces of
    /// local.conf, else all but loopback, tunnels and overlays]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// System calls that carry packets: io-uring, mmsg (recvmmsg, sendmmsg, epoll; costs more CPU), or auto, which is
    /// io-uring where the kernel has it and allows it [default: io of local.conf, else auto]
    #[arg(long, value_name = "auto|io-uring|mmsg", value_parser = backend)]
    pub io: Option<uring::Backend>,
    /// After traffic a packet thread looks for more for so many microseconds before it sleeps: a core for latency
    /// [default: spin of local.conf, else 0: off]
    #[arg(long, value_name = "MICROSECONDS")]
    pub spin: Option<u16>,
    /// Before a packet thread sleeps, the kernel polls the network card for so many microseconds (NAPI busy poll): CPU for
    /// latency [default: busyPoll of local.conf, else 0: off]
    #[arg(long, value_name = "MICROSECONDS")]
    pub busy_poll: Option<u16>,
    /// Packet threads [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,
    /// Core of the first packet thread, counted among those that may be used; the others follow. Gateways that share a
    /// host should not all begin with the same
    #[arg(long, default_value_t = 0, value_name = "CORE")]
    pub first_core: u16,
    /// Exactly these cores instead, one for each packet thread, e.g. 2,4-7: those next to the network card, say
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse, conflicts_with = "first_core")]
    pub cores: Option<CoreList>,
    /// Send everything from one port: packet threads have no ports of their own [default: they have, towards peers that
    /// tolerate it, so that one busy peer keeps several cores busy at both ends]
    #[arg(long)]
    pub no_lanes: bool,
    /// Leave the MSS of TCP connections as their ends announce it [default: lowered so that a segment is one datagram,
    /// unless tcpMssClamp of local.conf is false]
    #[arg(long)]
    pub no_mss_clamp: bool,
    /// Where UDP does not get through, send by TCP through a relay: after a minute without an answer from the Internet,
    /// until there is one [default: allowTcpFallbackRelay of local.conf, else not]
    #[arg(long)]
    pub allow_tcp_fallback_relay: bool,
    /// No UDP at all, everything by TCP through the relay
    #[arg(long)]
    pub force_tcp_relay: bool,
    /// That relay [default: tcpFallbackRelay of local.conf, else 204.80.128.1/443]
    #[arg(long, value_name = "IP/PORT", value_parser = endpoint_v4)]
    pub tcp_fallback_relay: Option<SocketAddrV4>,
    /// Be such a relay for others, beside a root: listen here for their TCP connections [default: tcpRelay of local.conf,
    /// else none]
    #[arg(long, value_name = "IP/PORT", value_parser = endpoint)]
    pub tcp_relay: Option<SocketAddr>,
    /// Its clients may send into this network, though it is not the Internet; repeatable [default: tcpRelayAllow of
    /// local.conf, else none]
    #[arg(long, value_name = "IP/BITS")]
    pub tcp_relay_allow: Vec<Prefix>,
    /// Whether to agree with other Hawsers on a port spread where nothing else gets a pair direct: up to 1024 probes of
    /// the other's router, which it may take for a port scan [default: portSpread of local.conf, else on]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    pub port_spread: Option<bool>,
    /// Use loopback addresses as links too
    #[arg(long, hide = true)]
    pub allow_loopback: bool,
    /// Several links as one.
    #[command(flatten, next_help_heading = "Bonding: several links as one, off unless a policy is named")]
    pub bond: BondArgs,
}

/// Cores by the kernel's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl CoreList {
    /// The largest number believed.
    const LAST: usize = 4095;

    fn parse(text: &str) -> Result<CoreList, String> {
        let number = |text: &str| {
            let core = text.parse().map_err(|_| format!("`{text}` is no number of a core"))?;
            if core <= CoreList::LAST { Ok(core) } else { Err(format!("there is no core {core}")) }
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        if cores.is_empty() { Err(format!("`{text}` names no core")) } else { Ok(CoreList(cores)) }
    }
}

fn backend(name: &str) -> Result<uring::Backend, String> {
    uring::Backend::named(name).ok_or_else(|| "it is not auto, io-uring or mmsg".to_owned())
}

/// `hawser lab`
#[derive(Clone, Debug, Args)]
pub struct LabArgs {
    /// Length of the TCP transfer
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// How often two members meet that never met before
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub first_contacts: u32,
    /// Packet threads of each gateway
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// What stands at the far end: another Hawser, or the real ZeroTier core (the reference node)
    #[arg(long, default_value = "hawser", value_parser = ["hawser", "reference"])]
    pub peer: String,
    /// Leave it standing afterwards and print how to enter it
    #[arg(long)]
    pub keep: bool,
}

/// `hawser join`
#[derive(Clone, Debug, Args)]
pub struct JoinArgs {
    /// 16 hex digits
    pub network: NetworkId,
    /// Apply addresses and routes that the controller gives
    #[arg(long, value_name = "BOOL")]
    pub allow_managed: Option<bool>,
    /// Also those of global scope
    #[arg(long, value_name = "BOOL")]
    pub allow_global: Option<bool>,
    /// Also default routes
    #[arg(long, value_name = "BOOL")]
    pub allow_default: Option<bool>,
}

/// `hawser identity ...`
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Make a new identity (takes up to some seconds: the address is a proof of work)
    New {
        /// Write the secret here, and the public part beside it as *.public; otherwise the secret is printed
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Print the public part of an identity
    Show {
        /// A file, or the text itself; none: the identity of --home
        identity: Option<String>,
    },
    /// Verify an identity's proof of work
    Check {
        /// A file, or the text itself; none: the identity of --home
        identity: Option<String>,
    },
}

/// `hawser planet ...`
#[derive(Debug, Subcommand)]
pub enum PlanetCommand {
    /// Make a signed planet file
    Make {
        /// A root: its identity (file or text) and where it is reached; up to 4 times
        #[arg(long = "root", required = true, value_name = "IDENTITY@IP/PORT[,IP/PORT]")]
        roots: Vec<String>,
        /// The planet file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The signing key, made if missing; without it a throw-away key signs, and the planet can never be changed
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// World ID; none: a random one
        #[arg(long)]
        id: Option<u64>,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Print a planet or moon file
    Show {
        /// The file; none: the planet of --home
        file: Option<PathBuf>,
    },
}

/// `hawser moon ...`
#[derive(Debug, Subcommand)]
pub enum MoonCommand {
    /// Make a signed moon file. Put it into moons.d of each of its roots' homes; others follow it with `hawser orbit`
    Make {
        /// A root: its identity (file or text) and where it is reached; up to 4 times
        #[arg(long = "root", required = true, value_name = "IDENTITY@IP/PORT[,IP/PORT]")]
        roots: Vec<String>,
        /// The moon file [default: <16 hex digits of the ID>.moon]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The signing key, made if missing; without it a throw-away key signs, and the moon can never be changed
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// World ID, 10 or 16 hex digits [default: the address of the first root]
        #[arg(long, value_parser = moon_id)]
        id: Option<u64>,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Print a moon file
    Show {
        /// The file
        file: PathBuf,
    },
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    parse_endpoint(text).ok_or_else(|| "it is not IP/PORT, like 192.0.2.1/443".to_owned())
}

fn endpoint_v4(text: &str) -> Result<SocketAddrV4, String> {
    match endpoint(text)? {
        at if at.port() == 0 => Err("no relay has port 0".to_owned()),
        SocketAddr::V4(v4) => Ok(v4),
        SocketAddr::V6(_) => Err("relays have IPv4 addresses".to_owned()),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is neither on nor off".to_owned()),
    }
}

fn moon_id(text: &str) -> Result<u64, String> {
    parse_moon_id(text).ok_or_else(|| "it is not 10 or 16 hex digits".to_owned())
}

/// `hawser controller ...`
#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Networks of this controller
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Members of a network
    #[command(subcommand)]
    Member(MemberCommand),
}

/// `hawser controller network ...`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network
    Create {
        /// What to begin with
        #[command(flatten)]
        settings: NetworkSettings,
    },
    /// List the networks
    List,
    /// Show a network's record
    Show {
        /// 16 hex digits
        network: NetworkId,
    },
    /// Change a network
    Set {
        /// 16 hex digits
        network: NetworkId,
        /// What to change
        #[command(flatten)]
        settings: NetworkSettings,
    },
    /// Delete a network and its members
    Delete {
        /// 16 hex digits
        network: NetworkId,
    },
}

/// Settings of a network, in words.
#[derive(Clone, Debug, Default, Args)]
pub struct NetworkSettings {
    /// Name
    #[arg(long)]
    pub name: Option<String>,
    /// Give members IPv4 addresses of this subnet, e.g. 10.147.20.0/24
    #[arg(long, value_name = "IP/BITS")]
    pub subnet: Option<String>,
    /// Give members IPv6 addresses made from their own: rfc4193 or 6plane
    #[arg(long, value_name = "MODE", value_parser = ["rfc4193", "6plane"])]
    pub ipv6: Vec<String>,
    /// A route, e.g. 192.168.7.0/24 or 192.168.7.0/24@10.147.20.2; repeatable, replaces the routes there are
    #[arg(long = "route", value_name = "TARGET[@VIA]")]
    pub routes: Vec<String>,
    /// Everyone may join without being authorised
    #[arg(long, value_name = "BOOL")]
    pub public: Option<bool>,
    /// Fields of the record as JSON, over all of the above
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
}

/// `hawser controller member ...`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members of a network
    List {
        /// 16 hex digits
        network: NetworkId,
    },
    /// Let a member in
    Authorize {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
        /// Give it this address; repeatable
        #[arg(long = "ip", value_name = "IP")]
        ips: Vec<String>,
    },
    /// Shut a member out
    Deauthorize {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
    /// Change a member's record
    Set {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
        /// Fields of the record as JSON
        #[arg(long, value_name = "JSON")]
        config: String,
    },
    /// Show a member's record
    Show {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
    /// Forget a member
    Delete {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
}

/// Why a command failed, by exit code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit codes 1, 3 and 4.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl CliError {
    /// A failure with its reason.
    pub fn failed(e: impl std::fmt::Display) -> CliError {
        CliError::Failed(e.to_string())
    }

    fn exit_code(&self) -> u8 {
        use crate::home::HomeError;
        match self {
            CliError::Client(ClientError::Unreachable { .. } | ClientError::Home(HomeError::NotRunning { .. })) => 3,
            CliError::Client(ClientError::NotFound { .. }) => 4,
            _ => 1,
        }
    }
}

/// Runs the program with the process's own arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse_from(bond::spoken(std::env::args_os()));
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hawser: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run_lab(args: &LabArgs, as_json: bool) -> Result<(), CliError> {
    let options = lab::run::Options {
        hawser: std::env::current_exe().map_err(CliError::failed)?,
        seconds: args.seconds,
        first_contacts: args.first_contacts,
        shards: args.shards.into(),
        peer: if args.peer == "reference" { lab::run::Peer::Reference } else { lab::run::Peer::Hawser },
        keep: args.keep,
        quiet: as_json,
    };
    let summary = match lab::run::run(&options) {
        Ok(summary) => summary,
        Err(e) => {
            if as_json {
                emit(&show::pretty(&json!({"ok": false, "failures": [e.to_string()]})))?;
            }
            return Err(CliError::failed(e));
        }
    };
    if as_json {
        emit(&show::pretty(&summary.to_json()))?;
    } else {
        emit(&show::rows(&summary.rows()))?;
    }
    if summary.ok() { Ok(()) } else { Err(CliError::failed("the lab did not see what it should have seen")) }
}

fn dispatch(cli: &Cli) -> Result<(), CliError> {
    let home = Home::new(&cli.home);
    let client = || Client::of(&home).map_err(CliError::from);
    let print = |value: Value, table: fn(&Value) -> String| {
        if cli.json { emit(&show::pretty(&value)) } else { emit(&table(&value)) }
    };
    match &cli.command {
        Command::Up(args) => daemon::run(&home, args).map_err(CliError::failed),
        Command::Lab(args) => run_lab(args, cli.json),
        Command::Status => {
            let client = client()?;
            if cli.json {
                return print(client.get("/status")?, show::status);
            }
            let (status, networks, peers) = (client.get("/status")?, client.get("/network")?, client.get("/peer")?);
            emit(&show::overview(&status, &networks, &peers))
        }
        Command::Peers { peer: None } => print(client()?.get("/peer")?, show::peers),
        Command::Peers { peer: Some(peer) } => {
            let object = client()?.get(&format!("/peer/{peer}"))?;
            if object.get("address").is_none() {
                return Err(ClientError::NotFound { path: format!("peer {peer}") }.into());
            }
            print(object, show::peer)
        }
        Command::Bond(command) => bond::run(&client()?, command, cli.json),
        Command::Networks => print(client()?.get("/network")?, show::networks),
        Command::Join(args) => {
            let mut body = Map::new();
            let flags = [
                ("allowManaged", args.allow_managed),
                ("allowGlobal", args.allow_global),
                ("allowDefault", args.allow_default),
            ];
            body.extend(flags.into_iter().filter_map(|(key, v)| Some((key.to_owned(), Value::from(v?)))));
            print(client()?.post(&format!("/network/{}", args.network), &body.into())?, show::joined)
        }
        Command::Leave { network } => {
            let left = client()?.delete(&format!("/network/{network}"))?;
            if left.get("result").is_none() {
                return Err(ClientError::NotFound { path: format!("network {network}: it was not joined") }.into());
            }
            print(left, |_| "left".into())
        }
        Command::Moons => print(client()?.get("/moon")?, show::moons),
        Command::Orbit { moon, seed } => {
            let body = json!({"seed": seed.to_string()});
            let object = client()?.post(&format!("/moon/{moon:016x}"), &body)?;
            if object.get("id").is_none() {
                return Err(CliError::Failed(format!("{seed} cannot be a seed")));
            }
            print(object, |moon| show::moons(&json!([moon])))
        }
        Command::Deorbit { moon } => print(client()?.delete(&format!("/moon/{moon:016x}"))?, |_| "deorbited".into()),
        Command::Moon(command) => emit(&tools::moon(command, &home, cli.json)?),
        Command::Identity(command) => emit(&tools::identity(command, &home, cli.json)?),
        Command::Planet(command) => emit(&tools::planet(command, &home, cli.json)?),
        Command::Controller(command) => {
            let (value, table) = controller(&client()?, command)?;
            print(value, table)
        }
    }
}

type Table = fn(&Value) -> String;

fn controller(client: &Client, command: &ControllerCommand) -> Result<(Value, Table), CliError> {
    let base = |network: &NetworkId| format!("/controller/network/{network}");
    let member_of = |network: &NetworkId, member: &Address| format!("/controller/network/{network}/member/{member}");
    Ok(match command {
        ControllerCommand::Network(command) => match command {
            NetworkCommand::Create { settings } => {
                (client.post("/controller/network", &settings.to_record()?)?, show::controller_network)
            }
            NetworkCommand::List => {
                let list = client.get("/unstable/controller/network")?;
                (list.get("data").cloned().unwrap_or_default(), show::controller_networks)
            }
            NetworkCommand::Show { network } => (client.get(&base(network))?, show::controller_network),
            NetworkCommand::Set { network, settings } => {
                client.get(&base(network))?;
                (client.post(&base(network), &settings.to_record()?)?, show::controller_network)
            }
            NetworkCommand::Delete { network } => (client.delete(&base(network))?, |_| "deleted".into()),
        },
        ControllerCommand::Member(command) => match command {
            MemberCommand::List { network } => {
                let list = client.get(&format!("/unstable/controller/network/{network}/member"))?;
                (list.get("data").cloned().unwrap_or_default(), show::controller_members)
            }
            MemberCommand::Authorize { network, member, ips } => {
                let mut record = json!({"authorized": true});
                if !ips.is_empty() {
                    record["ipAssignments"] = json!(ips);
                }
                (client.post(&member_of(network, member), &record)?, show::controller_member)
            }
            MemberCommand::Deauthorize { network, member } => {
                (client.post(&member_of(network, member), &json!({"authorized": false}))?, show::controller_member)
            }
            MemberCommand::Set { network, member, config } => {
                (client.post(&member_of(network, member), &parse_object(config)?)?, show::controller_member)
            }
            MemberCommand::Show { network, member } => {
                (client.get(&member_of(network, member))?, show::controller_member)
            }
            MemberCommand::Delete { network, member } => {
                (client.delete(&member_of(network, member))?, |_| "deleted".into())
            }
        },
    })
}

impl NetworkSettings {
    /// The fields of a controller's network record that these words mean.
    pub fn to_record(&self) -> Result<Value, CliError> {
        let mut record = Map::new();
        if let Some(name) = &self.name {
            record.insert("name".into(), json!(name));
        }
        if let Some(public) = self.public {
            record.insert("private".into(), json!(!public));
        }
        let mut routes: Vec<Value> = Vec::new();
        if let Some(subnet) = &self.subnet {
            let (first, last) = tools::hosts(subnet).ok_or_else(|| {
                CliError::Failed(format!("--subnet {subnet}: not an IPv4 subnet like 10.147.20.0/24"))
            })?;
            record.insert("ipAssignmentPools".into(), json!([{"ipRangeStart": first, "ipRangeEnd": last}]));
            record.insert("v4AssignMode".into(), json!({"zt": true}));
            routes.push(json!({"target": subnet, "via": null}));
        }
        for route in &self.routes {
            let (target, via) = route.split_once('@').map_or((route.as_str(), None), |(t, v)| (t, Some(v)));
            if target.parse::<wire::endpoint::Prefix>().is_err()
                || via.is_some_and(|v| v.parse::<std::net::IpAddr>().is_err())
            {
                return Err(CliError::Failed(format!(
                    "--route {route}: not TARGET or TARGET@VIA, like 10.1.0.0/16@10.147.20.2"
                )));
            }
            routes.push(json!({"target": target, "via": via}));
        }
        if !routes.is_empty() {
            record.insert("routes".into(), routes.into());
        }
        if !self.ipv6.is_empty() {
            let mode = |m: &str| self.ipv6.iter().any(|i| i == m);
            record.insert(
                "v6AssignMode".into(),
                json!({"zt": false, "rfc4193": mode("rfc4193"), "6plane": mode("6plane")}),
            );
        }
        if let Some(config) = &self.config {
            record.extend(parse_object(config)?.as_object().cloned().unwrap_or_default());
        }
        Ok(Value::Object(record))
    }
}

fn parse_object(text: &str) -> Result<Value, CliError> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(CliError::Failed("--config: must be a JSON object".into())),
        Err(e) => Err(CliError::Failed(format!("--config: not JSON: {e}"))),
    }
}

/// Prints to standard output; a reader that went away is no error.
fn emit(text: &str) -> Result<(), CliError> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(CliError::failed(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).expect(line)
    }

    #[test]
    fn cores_are_numbers_and_ranges() {
        let cores = |list: &str| CoreList::parse(list).map(|cores| cores.0);
        assert_eq!(cores("2,4-6"), Ok(vec![2, 4, 5, 6]));
        for wrong in ["", "x", "1-", "3-1", "0-99999"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn home_and_json_may_stand_anywhere() {
        let cli = parse("hawser join 6af3745e97000001 --json --home /tmp/h");
        assert!(cli.json && cli.home.ends_with("h"));
        let cli = parse("hawser --home /tmp/h controller member list 6af3745e97000001");
        assert!(matches!(cli.command, Command::Controller(ControllerCommand::Member(MemberCommand::List { .. }))));
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "hawser up --home /x --port 0 --shards 2 --no-mss-clamp --allow-loopback",
            "hawser up --secondary-port 0 --tertiary-port 40000 --interface eth0 --interface wwan0",
            "hawser up --no-secondary-port --no-port-mapping",
            "hawser status",
            "hawser peers --json",
            "hawser peers b9fd86978b",
            "hawser networks",
            "hawser up --allow-tcp-fallback-relay --tcp-fallback-relay 192.0.2.1/443",
            "hawser up --force-tcp-relay",
            "hawser up --tcp-relay 0.0.0.0/443 --tcp-relay-allow 10.0.0.0/8 --tcp-relay-allow 192.168.0.0/16",
            "hawser moons",
            "hawser listmoons --json",
            "hawser orbit 000000b9fd86978b b9fd86978b",
            "hawser deorbit b9fd86978b",
            "hawser moon make --root id@10.0.0.1/9993 --out m --key k --id b9fd86978b --force",
            "hawser moon show m",
            "hawser leave 6af3745e97000001",
            "hawser join 6af3745e97000001 --allow-global true",
            "hawser identity new --out f",
            "hawser up --io mmsg --busy-poll 50",
            "hawser up --bond-policy balance-aware --link eth0,capacity=200M --link wwan0,mode=spare,ipv=4,mtu=1400",
            "hawser up --bond-mode compat --bond-peer b9fd86978b=broadcast",
            "hawser identity show",
            "hawser identity check f",
            "hawser planet make --root id@10.0.0.1/9993,10.1.0.1/9993 --root id2@10.0.0.2/9993 --out p --key k --force",
            "hawser planet show p",
            "hawser controller network create --name lab --subnet 10.1.0.0/24 --ipv6 rfc4193 --route 10.2.0.0/16@10.1.0.1",
            "hawser controller network list",
            "hawser controller network show 6af3745e97000001",
            "hawser controller network set 6af3745e97000001 --public true",
            "hawser controller network delete 6af3745e97000001",
            "hawser controller member authorize 6af3745e97000001 b9fd86978b --ip 10.1.0.5",
            "hawser controller member deauthorize 6af3745e97000001 b9fd86978b",
            "hawser controller member set 6af3745e97000001 b9fd86978b --config {}",
            "hawser controller member show 6af3745e97000001 b9fd86978b",
            "hawser controller member delete 6af3745e97000001 b9fd86978b",
        ] {
            parse(line);
        }
    }

    #[test]
    fn a_wrong_id_is_a_usage_error() {
        for line in ["hawser up --io epoll", "hawser up --busy-poll 65536"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in [
            "hawser up --tcp-relay 443",
            "hawser up --tcp-fallback-relay ::1/443",
            "hawser up --tcp-fallback-relay 192.0.2.1/0",
            "hawser orbit xyz b9fd86978b",
            "hawser deorbit b9fd86978b0",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in ["hawser join 123", "hawser up --shards 0", "hawser up --port 70000", "hawser planet make --out p"]
        {
            let e = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
            assert_eq!(e.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn words_become_the_fields_of_a_network_record() {
        let settings = NetworkSettings {
            name: Some("lab".into()),
            subnet: Some("10.1.2.0/24".into()),
            ipv6: vec!["6plane".into()],
            routes: vec!["10.9.0.0/16@10.1.2.3".into()],
            public: Some(false),
            config: Some(r#"{"mtu": 1500}"#.into()),
        };
        let record = settings.to_record().expect("record");
        assert_eq!(record["private"], json!(true));
        assert_eq!(record["ipAssignmentPools"], json!([{"ipRangeStart": "10.1.2.1", "ipRangeEnd": "10.1.2.254"}]));
        let routes = json!([{"target": "10.1.2.0/24", "via": null}, {"target": "10.9.0.0/16", "via": "10.1.2.3"}]);
        assert_eq!(record["routes"], routes);
        assert_eq!(record["v6AssignMode"]["6plane"], json!(true));
        assert_eq!(record["mtu"], json!(1500));
        let bad = NetworkSettings { routes: vec!["x@y".into()], ..NetworkSettings::default() };
        assert!(bad.to_record().expect_err("bad").to_string().contains("--route x@y"));
    }
}
