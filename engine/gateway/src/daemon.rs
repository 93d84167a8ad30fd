//! `hawser up`: reads the home, starts the threads, hosts the control thread, and cleans up. The order of things at start
//! and at stop is here and nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use controller::{Controller, FileStorage};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use node::Node;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tracing::{debug, error, info, warn};
use uring::Backend;
use uring::probe::Choice;
use wire::{NetworkId, SecretIdentity};

use crate::api::{self, Gate, MAX_PENDING_ASKS};
use crate::cli::UpArgs;
use crate::control::{Bonds, Clock, Control, FailoverArgs, FallbackArgs, Inbox, Parts, node_settings};
use crate::dataplane::{self, DataPlane};
use crate::home::{DEFAULT_PORT, Home, HomeError, Loaded, PUBLIC};
use crate::links::{self, Ports};
use crate::local_conf::{ConfError, LocalConf};
use crate::netlink::Netlink;
use crate::portmap::Mapper;
use crate::proof::Prover;
use crate::store::{StateStore, StdStore, UringStore};
use crate::taps::{self, MAX_PENDING_ORDERS, MAX_PENDING_REPORTS, Taps};
use crate::tcp_relay_server::{self, RelayServer};
use crate::writer::Writer;

/// Most packet threads.
pub const MAX_SHARDS: usize = 256;
/// Descriptors asked for: each shard has sockets of its own on every port of every link, port spreads and clients of a
/// relay take hundreds more, and 1024 are usual.
const DESCRIPTORS: u64 = 16_384;
/// Draws of a port before there is none.
const DRAWS: usize = 4;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The settings cannot be used.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// The port is taken.
    #[error("port {port} cannot be used: {source}; choose another with --port, or primaryPort in local.conf")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The second or third port cannot be used.
    #[error(
        "{which} port {port} cannot be used: {why}; choose another with --{which}-port, or {which}Port in local.conf"
    )]
    FurtherPort {
        /// `secondary` or `tertiary`.
        which: &'static str,
        /// The port.
        port: u16,
        /// Why.
        why: String,
    },
    /// The relay for others cannot listen there.
    #[error("no TCP relay at {at}: {source}; choose another place with --tcp-relay, or tcpRelay in local.conf")]
    Relay {
        /// Where.
        at: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel lacks something that was asked for.
    #[error("io_uring was asked for: {0}; or take --io auto")]
    Kernel(#[from] uring::probe::Missing),
    /// The packet threads do not run.
    #[error(transparent)]
    DataPlane(#[from] dataplane::Error),
    /// Something else that the operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Something that was read at start and is not what it should be.
    #[error("{0}")]
    State(String),
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> UpError {
    move |source| UpError::System { what, source }
}

/// Runs until a signal says stop.
pub fn run(home: &Home, args: &UpArgs) -> Result<(), UpError> {
    start_logging();
    raise_descriptors();
    let _lock = home.lock()?;
    let conf_modified = home.local_conf_modified();
    let conf = LocalConf::load(&home.local_conf())?;
    let bonds = Bonds::new(&conf, &args.bond, &fallback(args)).map_err(|e| UpError::State(format!("bonding: {e}")))?;
    bonds.say(&Bonds::default());
    if !home.identity_secret().exists() {
        info!("making an identity; its address is a proof of work, this takes some seconds");
    }
    let loaded = home.load()?;
    let home = &Home::new(fs::canonicalize(home.root()).map_err(system("find the home"))?);
    let wanted = args.port.or(conf.settings.primary_port).unwrap_or(DEFAULT_PORT);
    let port = links::choose_port(wanted).map_err(|source| UpError::Port { port: wanted, source })?;
    let ports = choose_ports(port, args, &conf)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let shards = args.shards.map_or(cores, usize::from).clamp(1, MAX_SHARDS);
    let wanted = args.io.or(conf.settings.io).unwrap_or_default();
    let io = uring::probe::choose(wanted)?;
    report_kernel(wanted, &io);
    info!(address = %loaded.identity.public().address(), home = %home.root().display(), port, shards, "hawser");
    if !nix::unistd::geteuid().is_root() {
        warn!("not root: TAP devices cannot be made, so networks will be in state PORT_ERROR");
    }
    let (home, args, conf) = (home.clone(), args.clone(), (conf, conf_modified, bonds));
    match io.backend {
        Backend::Mmsg => {
            let plain = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let plain = plain.map_err(system("start the control thread's loop"))?;
            LocalSet::new().block_on(&plain, up(home, args, conf, loaded, ports, (shards, io), StdStore))
        }
        _ => tokio_uring::start(up(home, args, conf, loaded, ports, (shards, io), UringStore)),
    }
}

/// The ports beside the primary one: as asked for, or random.
fn choose_ports(primary: u16, args: &UpArgs, conf: &LocalConf) -> Result<Ports, UpError> {
    let conf = &conf.settings;
    let secondary = !args.no_secondary_port && (args.secondary_port.is_some() || !conf.no_secondary_port);
    let tertiary = !args.no_port_mapping && (args.tertiary_port.is_some() || !conf.no_port_mapping);
    let choose = |which: &'static str, asked: Option<u16>, taken: [Option<u16>; 2]| {
        let is_taken = |port: &u16| taken.contains(&Some(*port));
        let Some(port) = asked.filter(|port| *port != 0) else {
            return Ok((0..DRAWS).filter_map(|_| links::draw_port()).find(|port| !is_taken(port)));
        };
        let free = if is_taken(&port) { Err("another of our own".into()) } else { Ok(()) };
        let free = free.and_then(|()| links::udp_port_is_free(port).map_err(|e| e.to_string()));
        free.map(|()| Some(port)).map_err(|why| UpError::FurtherPort { which, port, why })
    };
    let asked = (args.secondary_port.or(conf.secondary_port), args.tertiary_port.or(conf.tertiary_port));
    let secondary = if secondary { choose("secondary", asked.0, [Some(primary), None])? } else { None };
    let tertiary = if tertiary { choose("tertiary", asked.1, [Some(primary), secondary])? } else { None };
    Ok(Ports { primary, secondary, tertiary })
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HAWSER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let plain = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    // Tests in one process may have started it already.
    let _ = plain.try_init();
}

/// As many descriptors as this process may give itself, up to [`DESCRIPTORS`].
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS);
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) } else { Ok(()) }
    });
    if let Err(e) = raised {
        warn!("the number of descriptors stays as it is: {e}");
    }
}

/// Says what the kernel can do, and what is used of it.
fn report_kernel(wanted: Backend, io: &Choice) {
    let features = &io.features;
    for line in features.to_string().lines() {
        debug!("kernel: {line}");
    }
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let missing: Vec<_> = features.missing().collect();
    let (minimum, recommended) = (uring::probe::MINIMUM_KERNEL, uring::probe::RECOMMENDED_KERNEL);
    info!(
        release,
        minimum,
        recommended,
        "kernel: {} of {} features",
        features.0.len() - missing.len(),
        features.0.len()
    );
    for feature in missing {
        warn!("kernel: no {} (Linux {}): {}", feature.name, feature.since, feature.without);
    }
    match (wanted, io.backend) {
        (Backend::Auto, Backend::Mmsg) => warn!("packets go by {}, which costs more CPU: {}", io.backend, io.why),
        _ => info!("packets go by {}: {}", io.backend, io.why),
    }
}

fn make_node(
    clock: Clock,
    identity: &Arc<SecretIdentity>,
    loaded: &Loaded,
    settings: node::Settings,
) -> Result<Node, UpError> {
    let now = clock.now();
    let mut node = Node::new(now, identity.clone(), settings, rand::random());
    let planet = loaded.planet.to_bytes();
    node.restore_planet(now, &planet).map_err(|e| UpError::State(format!("planet: {e}")))?;
    for moon in &loaded.moons {
        let restored = node.restore_moon(now, &moon.to_bytes());
        restored.map_err(|e| UpError::State(format!("moons.d/{:016x}.moon: {e}", moon.id)))?;
    }
    for (moon, seed) in &loaded.seeds {
        node.restore_seed(now, *moon, *seed);
    }
    for (address, bytes) in &loaded.peers {
        if let Err(e) = node.restore_peer(bytes) {
            warn!("peers.d/{address}.peer: {e}; it is learned anew");
        }
    }
    Ok(node)
}

fn make_controller(
    clock: Clock,
    home: &Home,
    identity: &Arc<SecretIdentity>,
) -> Result<Controller<FileStorage>, UpError> {
    let storage = FileStorage::open(home.controller()).map_err(|e| UpError::State(e.to_string()))?;
    let controller = Controller::new(identity.clone(), storage, rand::random(), clock.now());
    for fault in controller.faults() {
        error!("{}: {}; it is not served, and the file was left as it is", fault.name, fault.reason);
    }
    Ok(controller)
}

async fn up<S: StateStore + 'static>(
    home: Home,
    args: UpArgs,
    (conf, conf_modified, bonds): (LocalConf, Option<SystemTime>, Bonds),
    loaded: Loaded,
    ports: Ports,
    (shards, io): (usize, Choice),
    store: S,
) -> Result<(), UpError> {
    let clock = Clock::start();
    let (networks, token) = (loaded.networks.iter().map(|n| n.id).collect::<Vec<_>>(), loaded.token.clone());
    let bonding = Arc::clone(&bonds.bonding);
    let settings = node_settings(&conf, args.allow_loopback, args.port_spread, failover(&args), bonding);
    let identity = loaded.identity.clone();
    let node = make_node(clock, &identity, &loaded, settings)?;
    let controller = make_controller(clock, &home, &identity)?;

    // The API answers before the port file is there, and that before the pid file: tools wait for these files.
    let gate = Arc::new(Gate::new(token, conf.settings.allow_management_from.clone()));
    let (asks, asked) = mpsc::channel(MAX_PENDING_ASKS);
    serve_api(ports.primary, &gate, &asks)?;
    home.write(&home.port(), PUBLIC, ports.primary.to_string().as_bytes())?;

    let mut config = dataplane::Config::new(identity.public().address(), shards);
    config.origin = clock.origin();
    config.first_core = args.first_core.into();
    config.cores = args.cores.clone().map(|cores| cores.0).unwrap_or_default();
    config.ring.backend = io.backend;
    let micros = |asked: Option<u16>| asked.filter(|n| *n > 0).map(|n| Duration::from_micros(n.into()));
    config.ring.spin = micros(args.spin.or(conf.settings.spin));
    config.ring.busy_poll = micros(args.busy_poll.or(conf.settings.busy_poll));
    let dataplane = DataPlane::start(config)?;
    let (prover, verdicts) = Prover::start().map_err(system("start the proof worker"))?;
    let (netlink, changes) = Netlink::open().map_err(system("open rtnetlink"))?;
    let (mapper, mappings) = Mapper::new(netlink.clone(), format!("Hawser/{}", identity.public().address()));
    let random = |asked: Option<u16>, set: Option<u16>| asked.or(set).unwrap_or(0) == 0;
    let redraw = ports.secondary.is_some() && random(args.secondary_port, conf.settings.secondary_port);
    let (orders, ordered) = mpsc::channel(MAX_PENDING_ORDERS);
    let (reports, reported) = mpsc::channel(MAX_PENDING_REPORTS);
    let taps = Taps::new(netlink, shards, device_names(&home), reports);
    let taps = tokio::task::spawn_local(taps.run(ordered, changes));
    let relay_server = start_relay(&args, &conf)?;

    let writer = Writer::start(store);
    writer.replace(home.pid(), PUBLIC, std::process::id().to_string().into_bytes());
    let mut control = Control::new(Parts {
        clock,
        home,
        conf,
        conf_modified,
        allow_loopback: args.allow_loopback,
        failover: failover(&args),
        mss_clamp: !args.no_mss_clamp,
        port_spread: args.port_spread,
        fallback: fallback(&args),
        bond_args: args.bond.clone(),
        bonds,
        relay_server,
        gate,
        ports,
        redraw,
        interfaces: args.interfaces.clone(),
        mapper: ports.tertiary.is_some().then_some(mapper),
        shards,
        lanes: !args.no_lanes,
        io,
        identity,
        planet: loaded.planet,
        node,
        controller,
        dataplane,
        writer,
        prover,
        orders,
    });
    debug!(networks = networks.len(), "rejoining");
    for network in loaded.networks {
        control.rejoin(network.id, network.cached.as_deref(), network.conf);
    }
    let inbox = Inbox { reports: reported, asks: asked, verdicts, mappings };
    control.run(inbox).await.map_err(system("wait for signals"))?;
    let _ = taps.await;
    info!("stopped");
    Ok(())
}

fn failover(args: &UpArgs) -> FailoverArgs {
    FailoverArgs { off: args.no_fast_failover, warm_up: args.warm_up }
}

fn fallback(args: &UpArgs) -> FallbackArgs {
    FallbackArgs { allow: args.allow_tcp_fallback_relay, force: args.force_tcp_relay, relay: args.tcp_fallback_relay }
}

/// The TCP relay for others, if it is asked for.
fn start_relay(args: &UpArgs, conf: &LocalConf) -> Result<Option<RelayServer>, UpError> {
    let Some(at) = args.tcp_relay.or(conf.settings.tcp_relay) else { return Ok(None) };
    let allow = if args.tcp_relay_allow.is_empty() { &conf.settings.tcp_relay_allow } else { &args.tcp_relay_allow };
    let config = tcp_relay_server::Config { allow: allow.clone(), ..Default::default() };
    let at_text = || wire::endpoint::to_text(at);
    let server = RelayServer::start(at, config).map_err(|source| UpError::Relay { at: at_text(), source })?;
    info!(at = %server.local(), "TCP relay for nodes whose UDP is blocked");
    Ok(Some(server))
}

/// Listens on both families; one of them is enough.
fn serve_api(port: u16, gate: &Arc<Gate>, asks: &mpsc::Sender<api::Pending>) -> Result<(), UpError> {
    let mut last = None;
    let mut listening = 0;
    for at in api::listen_addresses(port, gate) {
        match api::listen(at) {
            Ok(listener) => {
                listening += 1;
                tokio::spawn(api::serve(listener, gate.clone(), asks.clone()));
            }
            Err(e) => {
                debug!("API on {at}: {e}");
                last = Some(e);
            }
        }
    }
    match last {
        Some(source) if listening == 0 => Err(UpError::Port { port, source }),
        _ => Ok(()),
    }
}

fn device_names(home: &Home) -> BTreeMap<NetworkId, String> {
    taps::parse_device_map(&fs::read_to_string(home.device_map()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn ports(words: &str, conf: &str) -> Result<Ports, String> {
        let cli = Cli::try_parse_from(format!("hawser up {words}").split_whitespace()).expect("words");
        let Command::Up(args) = cli.command else { panic!("{words}") };
        let conf = LocalConf::parse(conf, std::path::Path::new("local.conf")).expect("conf");
        choose_ports(9993, &args, &conf).map_err(|e| e.to_string())
    }

    #[test]
    fn further_ports_are_free_ones_unless_named_and_one_that_cannot_be_is_said() {
        let drawn = ports("", "").expect("ports");
        assert!(drawn.secondary.is_some() && drawn.tertiary.is_some() && drawn.secondary != drawn.tertiary);
        let none = ports("--no-secondary-port", r#"{"settings": {"portMappingEnabled": false}}"#);
        assert_eq!(none, Ok(Ports { primary: 9993, secondary: None, tertiary: None }));
        let free = links::draw_port().expect("a free port");
        let named = ports(&format!("--secondary-port {free}"), r#"{"settings": {"secondaryPort": 9993}}"#);
        assert_eq!(named.expect("ports").secondary, Some(free), "the command line goes before the file");
        for words in ["--secondary-port 9993".to_owned(), format!("--secondary-port {free} --tertiary-port {free}")] {
            let said = ports(&words, "").expect_err("refused");
            assert!(said.contains("another of our own"), "{said}");
        }
        let taken = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
        let number = taken.local_addr().expect("address").port();
        let said = ports("", &format!(r#"{{"settings": {{"tertiaryPort": {number}}}}}"#)).expect_err("refused");
        assert!(said.contains(&format!("tertiary port {number} cannot be used")), "{said}");
        assert!(said.contains("--tertiary-port, or tertiaryPort in local.conf"), "{said}");
    }
}
