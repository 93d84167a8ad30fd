//! The command line: what can be said, and which part of the house does it. Every failure is one message that says what
//! to do next, and an exit code that says which kind it was.

pub mod bond;
mod bond_flags;
mod controller;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};
use wire::{Address, NetworkId};

use crate::api::parse_moon_id;
use crate::client::{Client, ClientError};
use crate::home::{DEFAULT_HOME, Home};
use crate::{daemon, show, tools};

pub use bond_flags::BondArgs;
pub use up::{CoreList, UpArgs};

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
    Controller(controller::ControllerCommand),
    /// Build a private planet in network namespaces, send traffic through it, measure, clean up (as root)
    Lab(LabArgs),
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

fn moon_id(text: &str) -> Result<u64, String> {
    parse_moon_id(text).ok_or_else(|| "it is not 10 or 16 hex digits".to_owned())
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
            let (value, table) = controller::run(&client()?, command)?;
            print(value, table)
        }
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

    use super::controller::{ControllerCommand, MemberCommand};
    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).expect(line)
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
}
