//! The control thread: it holds the node and the controller, tells them what happened, and does what they say. Every
//! other part of the gateway is reached from here by a bounded queue, and none of them is ever waited for.

mod answers;
mod bonding;
mod bonds;
mod counts;
mod tcp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bond::config::Bonding;
use controller::{Controller, FileStorage};
use node::{LocalSocketId, Node, Output, PlanChange, StateKey};
use shard::{SocketId, Update};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, trace, warn};
use wire::endpoint::{Prefix, to_text};
use wire::world::{World, WorldKind};
use wire::{Address, Mac, MulticastGroup, NetworkId, Now, SecretIdentity};

use crate::api::{Gate, Pending};
use crate::cli::BondArgs;
use crate::dataplane::{DataPlane, FromShard};
use crate::home::{Home, PUBLIC, signer_file};
use crate::links::{self, Filter, Link, LinkChange, Links, MAX_LINKS, Ports};
use crate::local_conf::LocalConf;
use crate::netlink::{Interface, InterfaceAddress};
use crate::network_conf::NetworkConf;
use crate::portmap::{self, Mapped, Mapper};
use crate::proof::Prover;
use crate::spread::SpreadSockets;
use crate::taps::{Desired, Order, PortError, Report};
use crate::tcp_relay::{Fallback, is_tunnel};
use crate::tcp_relay_server::RelayServer;
use crate::writer::Writer;

pub use bonding::Bonds;
pub use tcp::FallbackArgs;

/// Events of shards handled before everything else gets its turn again.
const MAX_BATCH: usize = 256;
/// Frames of one network held while its TAP gets its addresses; more are dropped and counted.
pub const MAX_HELD_FRAMES: usize = 64;
/// How often local.conf is looked at. // spec: service, "Periodic work visible to operators"
const CONF_CHECK_MS: u64 = 10_000;
/// How often old files of cached peers are removed.
const SWEEP_MS: u64 = 3_600_000;
/// A node without roots for this long tries another secondary port. // spec: paths, "Sockets and ports"
const REDRAW_MS: u64 = 120_000;
/// How long the end of the program waits for the TAPs to be cleared.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The gateway's own notion of time.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// When it was started.
    pub fn origin(&self) -> Instant {
        self.0
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Now { mono_us: self.0.elapsed().as_micros() as u64, unix_ms }
    }

    /// When the monotonic clock will say `ms`.
    fn at(&self, ms: u64) -> tokio::time::Instant {
        (self.0 + Duration::from_millis(ms)).into()
    }
}

/// What the gateway keeps of a joined network beside the node.
#[derive(Debug, Default)]
struct Port {
    conf: NetworkConf,
    device: Option<String>,
    error: Option<PortError>,
    problem: Option<String>,
    /// Multicast groups that the kernel listens to.
    groups: Vec<MulticastGroup>,
    /// Groups that the node was told last.
    subscribed: BTreeSet<MulticastGroup>,
    /// Orders that the TAP task has not carried out yet.
    settling: u32,
    /// Frames that wait until it has: a kernel that does not have its address yet would drop what is for it.
    held: Vec<Vec<u8>>,
}

/// What was dropped or failed on this thread, by cause.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sends_refused: u64,
    frames_not_held: u64,
}

/// Everything the control thread holds.
pub struct Control {
    p: Parts,
    filter: Filter,
    next_conf_check_ms: u64,
    next_sweep_ms: u64,
    links: Links,
    spread: SpreadSockets,
    /// Interfaces that the operator names and that are not there.
    missing: BTreeSet<String>,
    /// Interfaces that a bond is to use and that are no links of ours.
    left_out: BTreeSet<String>,
    /// What is wrong with a local.conf that was written since the start.
    conf_fault: Option<String>,
    /// When another secondary port is drawn, unless a root answers before.
    redraw_at_ms: Option<u64>,
    /// Where routers let others reach our sockets.
    mapped: BTreeMap<LocalSocketId, Mapped>,
    networks: BTreeMap<NetworkId, Port>,
    /// Networks whose TAP is to be looked at.
    dirty: BTreeSet<NetworkId>,
    /// Networks whose TAP queues failed, until the TAP task knows.
    broken_taps: BTreeSet<NetworkId>,
    interfaces: Vec<Interface>,
    addresses: Vec<InterfaceAddress>,
    counters: Counters,
    /// The way out where UDP is blocked.
    fallback: Fallback,
    /// The shards were told that we relay.
    relays: bool,
    /// What ended a packet thread; nothing goes on without it.
    failed: Option<io::Error>,
}

/// The queues that lead to the control thread.
pub struct Inbox {
    /// From the TAP task.
    pub reports: mpsc::Receiver<Report>,
    /// From the API.
    pub asks: mpsc::Receiver<Pending>,
    /// From the proof worker.
    pub verdicts: mpsc::Receiver<(u64, bool)>,
    /// From the port mapper.
    pub mappings: mpsc::Receiver<portmap::Report>,
}

/// What is made before the control thread's loop begins.
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// The home.
    pub home: Home,
    /// The operator's settings.
    pub conf: LocalConf,
    /// When that file was last written.
    pub conf_modified: Option<SystemTime>,
    /// Loopback addresses are links too.
    pub allow_loopback: bool,
    /// Failover, as the command line wants it.
    pub failover: FailoverArgs,
    /// The MSS of TCP connections may be lowered.
    pub mss_clamp: bool,
    /// What the command line says of port spreads.
    pub port_spread: Option<bool>,
    /// What the command line says of the TCP fallback.
    pub fallback: FallbackArgs,
    /// What the command line says of bonding.
    pub bond_args: BondArgs,
    /// What command line and settings say of it together.
    pub bonds: Bonds,
    /// The TCP relay that we run for others.
    pub relay_server: Option<RelayServer>,
    /// Who may use the API.
    pub gate: Arc<Gate>,
    /// Ports in use at start.
    pub ports: Ports,
    /// Another secondary port may be drawn.
    pub redraw: bool,
    /// Interfaces named on the command line, which count more than those in the settings.
    pub interfaces: Vec<String>,
    /// The port mapper, unless nothing is to be mapped.
    pub mapper: Option<Mapper>,
    /// Packet threads.
    pub shards: usize,
    /// Each but the first has sockets of its own beside the common ones.
    pub lanes: bool,
    /// System calls that carry packets.
    pub io: uring::probe::Choice,
    /// Our identity.
    pub identity: Arc<SecretIdentity>,
    /// The planet in force.
    pub planet: World,
    /// The node.
    pub node: Node,
    /// The controller beside it.
    pub controller: Controller<FileStorage>,
    /// The shards.
    pub dataplane: DataPlane,
    /// The file writer.
    pub writer: Writer,
    /// The proof worker.
    pub prover: Prover,
    /// The way to the TAP task.
    pub orders: mpsc::Sender<Order>,
}

/// What the command line says of failover, above local.conf.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailoverArgs {
    /// Paths that carry frames and bring nothing back are not probed.
    pub off: bool,
    /// How new direct paths are warmed up.
    pub warm_up: Option<node::WarmUp>,
}

/// The settings that the node acts on.
pub fn node_settings(
    conf: &LocalConf,
    allow_loopback: bool,
    port_spread: Option<bool>,
    failover: FailoverArgs,
    bonding: Arc<Bonding>,
) -> node::Settings {
    let physical = conf.physical.iter().map(|p| node::PhysicalNetwork {
        prefix: p.net,
        blacklist: p.blacklist,
        trusted_path_id: p.trusted_path_id,
        mtu: p.mtu,
    });
    node::Settings {
        physical: physical.collect(),
        peer_blacklists: conf.peers.iter().map(|(peer, v)| (*peer, v.blacklist.clone())).collect(),
        peer_hints: conf.peers.iter().map(|(peer, v)| (*peer, v.try_at.clone())).collect(),
        controller: true,
        allow_loopback,
        port_spread: port_spread.unwrap_or(!conf.settings.no_port_spread),
        salsa_only: conf.settings.salsa_only,
        fast_failover: !(failover.off || conf.settings.no_fast_failover),
        warm_up: failover.warm_up.unwrap_or(conf.settings.warm_up),
        bonding,
    }
}

fn node_socket(id: SocketId) -> LocalSocketId {
    LocalSocketId(id.0)
}

fn shard_socket(id: LocalSocketId) -> SocketId {
    SocketId(id.0)
}

fn node_activity(a: &shard::Activity) -> node::Activity {
    node::Activity {
        peer: a.peer,
        socket: node_socket(a.socket),
        remote: a.remote,
        hops0: a.hops0,
        rx_packets: a.rx_packets,
        tx_packets: a.tx_packets,
        rx_bytes: a.rx_bytes,
        tx_bytes: a.tx_bytes,
        // Shards count nothing else as received.
        nontrivial: a.rx_packets > 0,
    }
}

fn node_arrival(a: &shard::Arrival) -> node::Arrival {
    node::Arrival {
        peer: a.peer,
        socket: node_socket(a.socket),
        remote: a.remote,
        packet_id: a.packet_id,
        age_us: a.age_us,
    }
}

fn node_receipt(r: &shard::Receipt) -> node::Receipt {
    node::Receipt {
        peer: r.peer,
        socket: node_socket(r.socket),
        remote: r.remote,
        packets: r.packets,
        bytes: r.bytes,
        newest: r.newest,
        age_us: r.age_us,
    }
}

fn shard_route(r: node::Route) -> shard::Route {
    shard::Route { socket: shard_socket(r.socket), remote: r.remote, mtu: r.mtu }
}

fn shard_bonding(bonding: &node::Bonding) -> shard::Bonding {
    shard::Bonding {
        plan: Arc::clone(&bonding.plan),
        routes: bonding.routes.iter().copied().map(shard_route).collect(),
        relay: bonding.relay.filter(|r| !is_tunnel(r.socket)).map(shard_route),
        marks: bonding.marks,
        duplicates_dropped: bonding.duplicates_dropped,
    }
}

fn shard_update(own: Address, change: PlanChange) -> Update {
    match change {
        PlanChange::Peer { address, keys, suite, route, bonded, .. } => {
            // Shards do not have the tunnel: its frames come to the node.
            let route = route.filter(|r| !is_tunnel(r.socket));
            let route = route.map(shard_route);
            Update::Peer { address, keys, suite, route, bonded }
        }
        PlanChange::PeerGone(address) => Update::PeerGone(address),
        PlanChange::Bond { address, bond } => Update::Bond { address, bond: bond.map(|b| Arc::new(shard_bonding(&b))) },
        PlanChange::Given { address, given } => Update::Given { address, given },
        PlanChange::Acked { address, packet_id, at_us } => Update::Acked { address, packet_id, at_us },
        PlanChange::Network { id, mtu, fast } => Update::Network { id, mac: Mac::of_member(id, own), mtu, fast },
        PlanChange::NetworkGone(id) => Update::NetworkGone(id),
        PlanChange::Member { network, address, allowed } => Update::Member { network, address, allowed },
        PlanChange::Policy { network, policy } => Update::Policy { network, policy },
        PlanChange::Standing { network, address, standing } => Update::Standing { network, address, standing },
    }
}

/// Which addresses are links, by settings and command line.
fn filter_of(parts: &Parts) -> Filter {
    let mut filter = Filter::new(&parts.conf, parts.allow_loopback);
    if !parts.interfaces.is_empty() {
        filter.interfaces = parts.interfaces.clone();
    }
    filter
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Go,
    Stop,
}

impl Control {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Control {
        Control {
            filter: filter_of(&parts),
            fallback: Control::fallback_of(&parts),
            next_conf_check_ms: parts.clock.now().ms() + CONF_CHECK_MS,
            next_sweep_ms: parts.clock.now().ms(),
            links: Links::new(parts.ports, parts.shards, parts.lanes),
            spread: SpreadSockets::default(),
            missing: BTreeSet::new(),
            left_out: BTreeSet::new(),
            conf_fault: None,
            redraw_at_ms: parts.redraw.then(|| parts.clock.now().ms() + REDRAW_MS),
            mapped: BTreeMap::new(),
            p: parts,
            networks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            broken_taps: BTreeSet::new(),
            interfaces: Vec::new(),
            addresses: Vec::new(),
            counters: Counters::default(),
            relays: false,
            failed: None,
        }
    }

    /// Rejoins a network of the home.
    pub fn rejoin(&mut self, id: NetworkId, cached: Option<&[u8]>, conf: NetworkConf) {
        self.networks.insert(id, Port { conf, ..Port::default() });
        self.p.node.join(self.p.clock.now(), id, cached);
        self.dirty.insert(id);
    }

    /// Runs until a signal says stop, then takes everything down in order.
    pub async fn run(mut self, mut inbox: Inbox) -> io::Result<()> {
        let clock = self.p.clock;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        self.set_mss_clamp();
        self.set_resequencing();
        self.settle(self.p.clock.now());
        loop {
            let due = self.p.clock.at(self.next_due_ms());
            let step = tokio::select! {
                event = self.p.dataplane.recv() => {
                    let now = self.p.clock.now();
                    self.shard_says(now, event);
                    for _ in 1..MAX_BATCH {
                        let Some(event) = self.p.dataplane.try_recv() else { break };
                        self.shard_says(now, event);
                    }
                    Step::Go
                }
                Some(report) = inbox.reports.recv() => {
                    self.taps_say(self.p.clock.now(), report);
                    Step::Go
                }
                event = self.fallback.recv(|| clock.now()) => {
                    self.tunnel_says(clock.now(), event);
                    Step::Go
                }
                Some(arrived) = self.spread.recv() => {
                    let (now, mut bytes) = (self.p.clock.now(), arrived.bytes);
                    self.p.node.handle_datagram(now, arrived.socket, arrived.remote, &mut bytes);
                    Step::Go
                }
                Some((ask, reply)) = inbox.asks.recv() => {
                    self.answer(self.p.clock.now(), ask, reply);
                    Step::Go
                }
                Some((ticket, valid)) = inbox.verdicts.recv() => {
                    self.p.node.handle_proof(self.p.clock.now(), ticket, valid);
                    Step::Go
                }
                Some(report) = inbox.mappings.recv() => {
                    self.mapper_says(report);
                    Step::Go
                }
                () = tokio::time::sleep_until(due) => Step::Go,
                _ = terminate.recv() => Step::Stop,
                _ = interrupt.recv() => Step::Stop,
                _ = quit.recv() => Step::Stop,
                _ = hang_up.recv() => {
                    info!("hang-up ignored: settings are read again by themselves when their file changes");
                    Step::Go
                }
            };
            if step == Step::Stop || self.failed.is_some() {
                break;
            }
            self.due(self.p.clock.now());
            self.settle(self.p.clock.now());
        }
        // Nobody may wait for this thread any more.
        drop(inbox);
        let failed = self.failed.take();
        self.stop().await;
        failed.map_or(Ok(()), Err)
    }

    async fn stop(mut self) {
        info!("stopping");
        self.p.node.save_peers();
        self.settle(self.p.clock.now());
        let (done, cleared) = oneshot::channel();
        if self.p.orders.send(Order::Stop(done)).await.is_ok() {
            let _ = tokio::time::timeout(STOP_LIMIT, cleared).await;
        }
        if let Some(mapper) = self.p.mapper.take() {
            mapper.stop().await;
        }
        self.p.dataplane.stop();
        self.p.writer.remove(self.p.home.pid());
        if !self.p.writer.flush().await {
            error!("the disk took too long; some state files may be older than they should be");
        }
    }

    fn next_due_ms(&self) -> u64 {
        let (node, controller) = (self.p.node.poll_timeout(), self.p.controller.poll_timeout());
        let due = [node, controller, self.links.next_retry_ms(), self.fallback.next_due_ms(), self.redraw_at_ms];
        due.into_iter().flatten().fold(self.next_conf_check_ms.min(self.next_sweep_ms), u64::min)
    }

    fn due(&mut self, now: Now) {
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now.ms());
        if is_due(self.p.node.poll_timeout()) {
            self.p.node.handle_timeout(now);
        }
        if is_due(self.p.controller.poll_timeout()) {
            self.p.controller.handle_timeout(now);
        }
        if is_due(self.links.next_retry_ms()) {
            self.bind_links(now);
        }
        if is_due(self.fallback.next_due_ms()) {
            self.look_at_fallback(now);
        }
        if is_due(self.redraw_at_ms) {
            self.redraw_secondary(now);
        }
        if is_due(Some(self.next_conf_check_ms)) {
            self.next_conf_check_ms = now.ms() + CONF_CHECK_MS;
            self.check_conf(now);
        }
        if is_due(Some(self.next_sweep_ms)) {
            self.next_sweep_ms = now.ms() + SWEEP_MS;
            self.sweep_peers();
        }
    }

    /// Removes old files of cached peers. Looking through them is not this thread's work.
    fn sweep_peers(&self) {
        let (home, writer) = (self.p.home.clone(), self.p.writer.clone());
        tokio::task::spawn_local(async move {
            match tokio::task::spawn_blocking(move || home.stale_peers(SystemTime::now())).await {
                Ok(Ok(stale)) => stale.into_iter().for_each(|file| writer.remove(file)),
                Ok(Err(e)) => warn!("old peers stay: {e}"),
                Err(e) => warn!("old peers stay: {e}"),
            }
        });
    }

    /// Takes over a local.conf that was written since. One that is wrong changes nothing; ports change at start only.
    fn check_conf(&mut self, now: Now) {
        let modified = self.p.home.local_conf_modified();
        if modified == self.p.conf_modified {
            return;
        }
        self.p.conf_modified = modified;
        let read = LocalConf::load(&self.p.home.local_conf()).map_err(|e| e.to_string());
        let read = read.and_then(|conf| {
            let bonds = Bonds::new(&conf, &self.p.bond_args, &self.p.fallback);
            bonds.map(|bonds| (conf, bonds)).map_err(|e| e.to_string())
        });
        let (conf, bonds) = match read {
            Ok(read) => read,
            Err(e) => {
                error!("{e}; the settings in force stay");
                self.conf_fault = Some(e);
                return;
            }
        };
        info!("local.conf read again");
        self.conf_fault = None;
        bonds.say(&self.p.bonds);
        for key in self.p.conf.settings.changed_at_start_only(&conf.settings) {
            warn!("settings.{key} counts at start only: what was in force stays until the next one");
        }
        let bonding = Arc::clone(&bonds.bonding);
        let settings = node_settings(&conf, self.p.allow_loopback, self.p.port_spread, self.p.failover, bonding);
        self.p.node.set_settings(now, settings);
        self.p.bonds = bonds;
        self.p.gate.allow_from(conf.settings.allow_management_from.clone());
        self.p.conf = conf;
        self.filter = filter_of(&self.p);
        self.set_mss_clamp();
        self.set_resequencing();
        self.set_fallback(now);
        self.bind_links(now);
    }

    fn set_mss_clamp(&self) {
        let on = self.p.mss_clamp && !self.p.conf.settings.no_mss_clamp;
        self.p.dataplane.update(Update::ClampMss(on));
    }

    fn set_resequencing(&self) {
        self.p.dataplane.update(Update::Resequence(!self.p.conf.settings.no_resequence));
    }

    /// Does what node and controller say until both are silent.
    fn settle(&mut self, now: Now) {
        loop {
            if let Some(output) = self.p.node.poll_output() {
                self.node_says(now, output);
            } else if let Some(output) = self.p.controller.poll_output() {
                self.controller_says(now, output);
            } else {
                break;
            }
        }
        if self.relays != self.p.node.is_upstream() {
            self.relays = !self.relays;
            self.p.dataplane.update(Update::Relay(self.relays));
        }
        self.order_taps();
    }

    fn node_says(&mut self, now: Now, output: Output) {
        match output {
            Output::Send { socket, remote, ttl, datagram } => self.send(socket, remote, ttl, datagram),
            Output::Deliver { network, frame } => self.deliver(network, frame),
            Output::NetworkChanged(network) => {
                self.dirty.insert(network);
                self.tell_overlay();
                self.subscribe(now, network);
            }
            Output::Plan(mut change) => {
                let lanes = match &mut change {
                    PlanChange::Peer { lanes, .. } => std::mem::take(lanes),
                    _ => Vec::new(),
                };
                let lanes: Vec<_> = lanes.into_iter().map(|(shard, id)| (shard, shard_socket(id))).collect();
                self.p.dataplane.update_peer(shard_update(self.p.node.address(), change), &lanes);
            }
            Output::ControllerRequest { network, member, packet_id, metadata, physical } => {
                let request = controller::Request { network, member, packet_id, metadata, physical };
                self.p.controller.handle_request(now, request);
            }
            Output::Prove { ticket, identity } => {
                if !self.p.prover.ask(ticket, identity) {
                    debug!(ticket, "too many identities to prove");
                }
            }
            Output::OpenSockets { beside, count, ticket } => self.open_spread(beside, count, ticket),
            Output::AdoptSocket { socket, .. } => match self.spread.adopt(socket, self.p.shards) {
                Ok(sockets) => self.p.dataplane.add_socket(shard_socket(socket), sockets),
                Err(e) => {
                    warn!("a socket of a port spread cannot be kept: {e}");
                    self.p.node.remove_socket(now, socket);
                }
            },
            Output::CloseSocket(socket) => {
                if !self.spread.close(socket) {
                    self.p.dataplane.remove_socket(shard_socket(socket));
                }
            }
            Output::Store(key, bytes) => self.store(key, bytes),
            Output::Event(event) => self.report(&event),
        }
    }

    fn send(&mut self, socket: Option<LocalSocketId>, remote: SocketAddr, ttl: Option<u8>, datagram: Vec<u8>) {
        trace!(?socket, remote = to_text(remote), bytes = datagram.len(), "send");
        match socket {
            Some(socket) if self.spread.send(socket, remote, ttl, &datagram) => {}
            Some(socket) => self.send_from(socket, remote, ttl, datagram),
            None => {
                for socket in self.p.node.fan_out(remote) {
                    self.send_from(socket, remote, ttl, datagram.clone());
                }
            }
        }
    }

    fn open_spread(&mut self, beside: LocalSocketId, count: u16, ticket: u64) {
        let Some(options) = self.links.get(beside).map(Link::options_beside) else { return };
        for _ in 0..count {
            let id = self.links.next_id();
            if let Err(e) = self.spread.open(id, options.clone()) {
                return debug!("no further sockets for a port spread: {e}");
            }
            self.p.node.add_spread_socket(ticket, id);
        }
    }

    fn deliver(&mut self, network: NetworkId, frame: Vec<u8>) {
        let settling = self.networks.get_mut(&network).filter(|port| port.settling > 0);
        let Some(port) = settling else { return self.p.dataplane.deliver(network, frame) };
        if port.held.len() < MAX_HELD_FRAMES {
            port.held.push(frame);
        } else {
            self.counters.frames_not_held += 1;
        }
    }

    fn controller_says(&mut self, now: Now, output: controller::Output) {
        use controller::Output::{Event, Push, Reply, Revoke};
        match output {
            Reply { to, verb, payload, .. } => self.p.node.controller_reply(now, to, verb, payload),
            Push { to, payload } => self.p.node.controller_reply(now, to, wire::Verb::NetworkConfig, payload),
            Revoke { to, payload } => self.p.node.controller_reply(now, to, wire::Verb::NetworkCredentials, payload),
            Event(controller::Event::StorageFailed { name, reason }) => {
                error!("controller record {name}: {reason}; served from memory, written again later");
            }
            Event(controller::Event::NewMember { network, member, authorised }) => {
                info!(%network, %member, authorised, "a new member asks to join");
            }
        }
    }

    fn shard_says(&mut self, now: Now, event: FromShard) {
        let node = &mut self.p.node;
        match event {
            FromShard::Datagram { socket, remote, mut bytes } => {
                node.handle_datagram(now, node_socket(socket), remote, &mut bytes);
            }
            FromShard::Reassembled { socket, remote, mut packet } => {
                node.handle_reassembled(now, node_socket(socket), remote, &mut packet);
            }
            FromShard::Opened { socket, remote, mut packet } => {
                node.handle_opened(now, node_socket(socket), remote, &mut packet);
            }
            FromShard::Frame { network, frame } => node.handle_tap_frame(now, network, &frame),
            FromShard::Activity(seen) => {
                let activity: Vec<node::Activity> = seen.activity.iter().map(node_activity).collect();
                node.handle_activity(now, &activity);
                let arrivals: Vec<node::Arrival> = seen.arrivals.iter().map(node_arrival).collect();
                node.handle_arrivals(now, &arrivals);
                let receipts: Vec<node::Receipt> = seen.receipts.iter().map(node_receipt).collect();
                node.handle_receipts(now, &receipts);
                node.handle_bonds(now, &seen.bonds);
            }
            FromShard::Narrow { socket, remote, bytes } => self.narrow(now, socket, remote, bytes),
            FromShard::SendFailed { socket, remote, bytes, error } => {
                self.counters.sends_refused += 1;
                debug!(socket = socket.0, remote = to_text(remote), bytes, "cannot send: {error}");
                match error.raw_os_error() {
                    Some(nix::libc::EMSGSIZE) => self.narrow(now, socket, remote, bytes),
                    // No route, a firewall of our own, a device that is down: the way is looked into at once.
                    _ => self.p.node.handle_send_refused(now, node_socket(socket), remote),
                }
            }
            FromShard::SocketGone { socket, error: None, .. } => trace!(socket = socket.0, "socket closed"),
            FromShard::SocketGone { socket, error: Some(error), .. } => self.link_lost(now, socket, &error),
            FromShard::TapGone { network, error: None, .. } => trace!(%network, "TAP queue closed"),
            FromShard::TapGone { network, error: Some(error), .. } => {
                warn!(%network, "TAP queue lost: {error}");
                self.p.dataplane.remove_tap(network);
                self.broken_taps.insert(network);
            }
            FromShard::ShardGone { shard, error } => {
                error!(shard, "packet thread ended: {error}");
                self.failed = Some(error);
            }
        }
    }

    /// Datagrams of `bytes` are too long for the way to `remote`: the kernel knows how long they may be.
    fn narrow(&mut self, now: Now, socket: SocketId, remote: SocketAddr, bytes: usize) {
        let Some(link) = self.links.get(node_socket(socket)) else { return };
        // A kernel that does not say: as little as the node ever goes down to.
        let fits = link.payload_towards(remote).unwrap_or(0);
        if fits >= bytes {
            return; // it is wide enough again
        }
        if self.p.node.narrow(now, remote.ip(), fits) {
            info!(link = link.name, remote = to_text(remote), bytes, fits, "narrow path: datagrams are cut smaller");
        }
    }

    fn link_lost(&mut self, now: Now, socket: SocketId, error: &io::Error) {
        let Some(link) = self.links.broken(now.ms(), node_socket(socket)) else {
            return self.p.node.remove_socket(now, node_socket(socket)); // that of a port spread, if any
        };
        warn!(link = link.name, address = to_text(link.local), "link lost: {error}; tried again later");
        self.close_link(now, &link);
        self.map_ports();
    }

    fn close_link(&mut self, now: Now, link: &Link) {
        for id in link.sockets() {
            self.p.dataplane.remove_socket(shard_socket(id));
        }
        for (id, _) in link.endpoints() {
            self.mapped.remove(&id);
            self.p.node.remove_socket(now, id);
        }
    }

    /// No root answers: another secondary port may get through where the old one does not.
    fn redraw_secondary(&mut self, now: Now) {
        self.redraw_at_ms = Some(now.ms() + REDRAW_MS);
        let Some(number) = links::draw_port() else { return };
        info!(port = number, "offline: another secondary port");
        for redrawn in self.links.redraw_secondary(now.ms(), number) {
            if let Some(old) = redrawn.old {
                self.p.dataplane.remove_socket(shard_socket(old));
                self.p.node.remove_socket(now, old);
            }
            if let Some((further, sockets)) = redrawn.new {
                self.add_further(now, &redrawn.link, further, sockets);
            }
        }
    }

    fn add_further(&mut self, now: Now, link: &Link, further: links::Further, sockets: Vec<UdpSocket>) {
        let local = SocketAddr::new(link.local.ip(), further.number);
        self.p.dataplane.add_socket(shard_socket(further.id), sockets);
        let socket = node::Socket { id: further.id, local, link: link.name.clone(), port: further.port };
        self.p.node.add_socket(now, socket);
    }

    fn mapper_says(&mut self, report: portmap::Report) {
        // It may speak of a link that is gone meanwhile.
        let mapped = report.mapped.filter(|_| self.links.get(report.socket).is_some());
        match mapped {
            Some(mapped) => self.mapped.insert(report.socket, mapped),
            None => self.mapped.remove(&report.socket),
        };
        self.p.node.set_mapped(report.socket, mapped.map(|m| m.external));
    }

    /// Has the tertiary port of every link mapped.
    fn map_ports(&mut self) {
        let Some(mapper) = &mut self.p.mapper else { return };
        let tertiary = |link: &Link| {
            let further = link.further.iter().find(|f| f.port == node::Port::Tertiary)?;
            let local = SocketAddr::new(link.local.ip(), further.number);
            Some(portmap::Wanted { socket: further.id, local, link: link.name.clone() })
        };
        let wanted: Vec<portmap::Wanted> = self.links.iter().filter_map(tertiary).collect();
        mapper.want(&wanted);
    }

    fn taps_say(&mut self, now: Now, report: Report) {
        match report {
            Report::Up(id, tap) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.device = Some(tap.name);
                port.error = None;
                self.p.dataplane.add_tap(id, tap.queues, tap.super_frames);
                self.p.node.set_port_error(now, id, false);
            }
            Report::Down(id, error) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.device = None;
                port.error = Some(error);
                self.p.dataplane.remove_tap(id);
                self.p.node.set_port_error(now, id, true);
            }
            Report::Applied(id) => {
                let Some(port) = self.networks.get_mut(&id) else { return };
                port.settling = port.settling.saturating_sub(1);
                if port.settling == 0 {
                    port.held.drain(..).for_each(|frame| self.p.dataplane.deliver(id, frame));
                }
            }
            Report::Problem(id, problem) => {
                if let Some(port) = self.networks.get_mut(&id) {
                    port.problem = problem;
                }
            }
            Report::Groups(id, groups) => {
                if let Some(port) = self.networks.get_mut(&id) {
                    port.groups = groups;
                    self.subscribe(now, id);
                }
            }
            Report::Interfaces(interfaces, addresses) => {
                (self.interfaces, self.addresses) = (interfaces, addresses);
                self.bind_links(now);
            }
        }
    }

    fn bind_links(&mut self, now: Now) {
        let overlay = self.overlay().map(|p| p.addr).collect();
        let ours: BTreeSet<&str> = self.networks.values().filter_map(|port| port.device.as_deref()).collect();
        let others: Vec<Interface> =
            self.interfaces.iter().filter(|i| !ours.contains(i.name.as_str())).cloned().collect();
        let mut wanted = self.filter.wanted(&others, &self.addresses, &overlay);
        if self.fallback.settings().force {
            wanted.clear();
        }
        self.look_for_missing();
        for change in self.links.reconcile(now.ms(), &wanted) {
            match change {
                LinkChange::Opened(link, sockets) => {
                    info!(link = link.name, address = to_text(link.local), "link up");
                    self.p.dataplane.add_socket(shard_socket(link.id), sockets.primary);
                    let (id, local, name) = (link.id, link.local, link.name.clone());
                    self.p.node.add_socket(now, node::Socket { id, local, link: name, port: node::Port::Primary });
                    for (further, sockets) in link.further.iter().zip(sockets.further) {
                        debug!(port = further.number, "{:?} port", further.port);
                        self.add_further(now, &link, *further, sockets);
                    }
                    for (lane, socket) in link.lanes.iter().zip(sockets.lanes) {
                        debug!(port = lane.port, shard = lane.shard, "lane");
                        self.p.dataplane.add_lane(shard_socket(lane.id), lane.shard, socket);
                        self.p.node.add_lane(link.id, lane.shard, lane.id);
                    }
                }
                LinkChange::Added(link, further, sockets) => self.add_further(now, &link, further, sockets),
                LinkChange::Closed(link) => {
                    info!(link = link.name, address = to_text(link.local), "link gone");
                    self.close_link(now, &link);
                }
                LinkChange::LeftOut(count) => {
                    warn!(count, "more than {MAX_LINKS} link addresses: some are left out; see `bind` in local.conf");
                }
                LinkChange::Failed(wanted, e) => {
                    warn!(link = wanted.link, address = %wanted.ip, "cannot bind: {e}; tried again later");
                }
            }
        }
        self.map_ports();
    }

    /// Addresses that networks gave us.
    fn overlay(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.p.node.networks().iter().filter_map(|n| n.config()).flat_map(|c| c.addresses.iter().copied())
    }

    fn tell_overlay(&mut self) {
        let prefixes: Vec<Prefix> = self.overlay().collect();
        if let Some(server) = &self.p.relay_server {
            // What networks route too, but for their default route: that is the Internet itself, in halves.
            let routes = self.networks.keys().filter_map(|id| self.desired(*id)).flat_map(|d| d.routes);
            let routed = routes.filter(|r| r.bits > 1).map(|r| Prefix { addr: r.target, bits: r.bits });
            server.set_overlay(prefixes.iter().copied().chain(routed).collect());
        }
        self.p.node.set_overlay_prefixes(prefixes);
    }

    /// Subscribes to the groups of the kernel and to those of the managed addresses, which the kernel joins a moment
    /// later: whoever asks for us in between must not wait for its next attempt.
    fn subscribe(&mut self, now: Now, id: NetworkId) {
        let Some(port) = self.networks.get_mut(&id) else { return };
        let config = self.p.node.networks().get(id).and_then(|n| n.config());
        let managed = config.map(|c| port.conf.addresses(&c.addresses)).unwrap_or_default();
        let resolving = managed.iter().map(|(ip, _)| MulticastGroup::for_resolving(*ip));
        let groups: BTreeSet<MulticastGroup> = port.groups.iter().copied().chain(resolving).collect();
        if port.subscribed != groups {
            self.p.node.set_subscriptions(now, id, groups.iter().copied().collect());
            port.subscribed = groups;
        }
    }

    /// Tells the TAP task what the networks that changed want. What it has no room for now is told later.
    fn order_taps(&mut self) {
        while let Some(id) = self.broken_taps.first().copied() {
            if self.p.orders.try_send(Order::Broken(id)).is_err() {
                return;
            }
            self.broken_taps.remove(&id);
        }
        while let Some(id) = self.dirty.first().copied() {
            let order = match self.desired(id) {
                Some(desired) => Order::Set(id, desired),
                None => Order::Remove(id),
            };
            let is_set = matches!(order, Order::Set(..));
            if self.p.orders.try_send(order).is_err() {
                return;
            }
            self.dirty.remove(&id);
            if let Some(port) = self.networks.get_mut(&id).filter(|_| is_set) {
                port.settling += 1;
            }
        }
    }

    fn desired(&self, id: NetworkId) -> Option<Desired> {
        let (network, port) = (self.p.node.networks().get(id)?, self.networks.get(&id)?);
        let config = network.config();
        let addresses = config.map(|c| port.conf.addresses(&c.addresses)).unwrap_or_default();
        let managed: Vec<(Prefix, Option<IpAddr>)> =
            config.map(|c| c.routes.iter().map(|r| (r.target, r.via)).collect()).unwrap_or_default();
        let routes = port.conf.routes(&managed, &addresses, self.p.node.is_online());
        Some(Desired { mac: network.mac(), mtu: network.mtu(), addresses, routes })
    }

    fn store(&mut self, key: StateKey, bytes: Option<Vec<u8>>) {
        let file = match key {
            StateKey::Planet => self.p.home.planet(),
            StateKey::Moon(id) => self.p.home.moon(id),
            StateKey::Seed(id) => self.p.home.moon_seed(id),
            StateKey::NetworkConfig(id) => self.p.home.network(id),
            StateKey::Peer(address) => self.p.home.peer(address),
        };
        let Some(bytes) = bytes else { return self.p.writer.remove(file) };
        if let (StateKey::Planet, Ok(world)) = (key, World::parse(&bytes))
            && world.kind == WorldKind::Planet
        {
            if !world.is_self_signed() {
                let key = hex::encode(self.p.planet.update_key).into_bytes();
                self.p.writer.replace(signer_file(&file), PUBLIC, key);
            }
            self.p.planet = world;
        }
        self.p.writer.replace(file, PUBLIC, bytes);
    }

    fn report(&mut self, event: &node::Event) {
        use node::Event::{
            CopiesDelivered, ExternalAddressChanged, IdentityCollision, Offline, Online, PeerDirect, PeerRelayed,
            UserMessage, WorldUpdated,
        };
        match event {
            Online => info!("online"),
            Offline => warn!("offline: no root answers"),
            PeerDirect { peer, socket, remote } => {
                let link = self.links.get(*socket).map_or("", |l| l.name.as_str());
                info!(%peer, remote = to_text(*remote), link, "direct path");
            }
            PeerRelayed { peer } => info!(%peer, "no direct path any more: relayed"),
            IdentityCollision { reporter, confirmed: false } => {
                warn!(%reporter, "says that another node has our address")
            }
            IdentityCollision { reporter, confirmed: true } => {
                error!(%reporter, "another node has our address: move identity.* away and start again");
            }
            WorldUpdated { id } => info!(id, "planet or moon updated"),
            UserMessage { from, kind, data } => debug!(%from, kind, bytes = data.len(), "user message"),
            CopiesDelivered { peer } => {
                warn!(%peer, "broadcast to a peer that drops no duplicates: every copy reaches its TAP");
            }
            ExternalAddressChanged { reporter, surface } => {
                info!(%reporter, surface = to_text(*surface), "we are seen at another address");
            }
        }
        if matches!(event, Online | Offline) {
            let offline = *event == Offline && self.p.redraw;
            self.redraw_at_ms = offline.then(|| self.p.clock.now().ms() + REDRAW_MS);
            self.dirty.extend(self.networks.keys());
        }
    }
}
