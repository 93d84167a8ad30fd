//! The control thread: it holds the node and the controller, tells them what happened, and does what they say. Every
//! other part of the gateway is reached from here by a bounded queue, and none of them is ever waited for. This file is
//! what the thread holds and its loop; what it does about each thing is in the rooms below, one a topic.

mod answers;
mod bonding;
mod bonds;
mod counts;
mod links;
mod networks;
mod says;
mod settings;
mod tcp;
mod translate;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use controller::{Controller, FileStorage};
use node::{LocalSocketId, Node};
use shard::Update;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};
use wire::world::World;
use wire::{NetworkId, Now, SecretIdentity};

use crate::api::{Gate, Pending};
use crate::cli::BondArgs;
use crate::dataplane::DataPlane;
use crate::home::Home;
use crate::links::{Filter, Links, Ports};
use crate::local_conf::LocalConf;
use crate::netlink::{Interface, InterfaceAddress};
use crate::portmap::{self, Mapped, Mapper};
use crate::proof::Prover;
use crate::spread::SpreadSockets;
use crate::taps::{Order, Report};
use crate::tcp_relay::Fallback;
use crate::tcp_relay_server::RelayServer;
use crate::unreachable::Unreachables;
use crate::writer::Writer;
use networks::Port;
use settings::filter_of;

pub use bonding::Bonds;
pub use networks::MAX_HELD_FRAMES;
pub use settings::{FailoverArgs, node_settings};
pub use tcp::FallbackArgs;

/// Events of shards handled before everything else gets its turn again.
const MAX_BATCH: usize = 256;
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

/// What was dropped or failed on this thread, by cause.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sends_refused: u64,
    unreachable_foreign: u64,
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
    unreachables: Unreachables,
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
            unreachables: Unreachables::default(),
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

    /// Runs until a signal says stop, then takes everything down in order.
    pub async fn run(mut self, mut inbox: Inbox) -> io::Result<()> {
        let clock = self.p.clock;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        self.set_mss_clamp();
        self.set_resequencing();
        self.set_unreachables();
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
                said = self.unreachables.recv() => {
                    self.unreachable(self.p.clock.now(), said);
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
}
