//! `hawser lab`: a root with an embedded controller, two gateways with a LAN host each, two WAN links; first contact, direct
//! path, echo, TCP transfer, summary. Everything it makes is gone when it returns, unless it was asked to keep it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::measure::{self, PingPlan, Pings};
use crate::netns::{self, Namespace};
use crate::reference::ReferenceNode;
use crate::{Error, IoContext, Result};

/// Overlay address of gateway A; B's first one is the next.
const OVERLAY: [u8; 3] = [10, 77, 0];
const LAN_A_HOST: &str = "192.168.11.2";
const LAN_B_HOST: &str = "192.168.12.2";
const TCP_PORT: u16 = 5201;
const UDP_PORT: u16 = 5202;
const UDP_SIZE: usize = 1200;
/// A first contact slower than this counts as failed.
const FIRST_PING_LIMIT: Duration = Duration::from_secs(15);
const DIRECT_LIMIT: Duration = Duration::from_secs(30);

/// What stands at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A second Hawser gateway.
    Hawser,
    /// The real ZeroTier core (the reference node).
    Reference,
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program to run as daemons.
    pub hawser: PathBuf,
    /// Length of the transfer.
    pub seconds: u64,
    /// How often two members meet for the first time.
    pub first_contacts: u32,
    /// Shards of each gateway.
    pub shards: usize,
    /// The far end.
    pub peer: Peer,
    /// Leave the world standing.
    pub keep: bool,
    /// No progress on the terminal.
    pub quiet: bool,
}

/// What was seen. `failures` says in words what was not as it should be.
#[derive(Debug, Default)]
pub struct Summary {
    first_contacts_ms: Vec<f64>,
    direct: bool,
    paths: Vec<String>,
    idle: Option<Pings>,
    loaded: Option<Pings>,
    tcp_bits_per_s: Option<f64>,
    udp_bits_per_s: Option<f64>,
    udp_packets_per_s: Option<f64>,
    udp_lost: Option<u64>,
    retransmits: Option<u64>,
    cpu_s_per_gb: Option<f64>,
    peak_rss_kib: u64,
    failures: Vec<String>,
}

impl Summary {
    /// Nothing failed.
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }

    fn first_ping_ms(&self) -> Option<f64> {
        let mut sorted = self.first_contacts_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// One object for programs.
    pub fn to_json(&self) -> Value {
        let percentile = |p: &Option<Pings>, at| p.as_ref().filter(|p| p.answered > 0).map(|p| p.ms(at));
        json!({
            "ok": self.ok(),
            "direct": self.direct,
            "paths": self.paths,
            "first_ping_ms": self.first_ping_ms(),
            "first_pings_ms": self.first_contacts_ms,
            "ping_p50_ms": percentile(&self.idle, 50.0),
            "ping_p99_ms": percentile(&self.idle, 99.0),
            "ping_lost": self.idle.as_ref().map(Pings::lost),
            "loaded_ping_p50_ms": percentile(&self.loaded, 50.0),
            "loaded_ping_p99_ms": percentile(&self.loaded, 99.0),
            "tcp_bits_per_s": self.tcp_bits_per_s,
            "tcp_retransmits": self.retransmits,
            "udp_bits_per_s": self.udp_bits_per_s,
            "udp_packets_per_s": self.udp_packets_per_s,
            "udp_lost": self.udp_lost,
            "cpu_s_per_gb": self.cpu_s_per_gb,
            "peak_rss_kib": self.peak_rss_kib,
            "failures": self.failures,
        })
    }

    /// Rows of (what, value) for people.
    pub fn rows(&self) -> Vec<(String, String)> {
        let number = |v: Option<f64>, unit: &str| v.map_or("-".into(), |v| format!("{v:.2} {unit}"));
        let mut rows = vec![
            ("result".to_owned(), if self.ok() { "ok".to_owned() } else { "failed".to_owned() }),
            (
                "way".into(),
                if self.direct { format!("direct over {}", self.paths.join(", ")) } else { "relayed".into() },
            ),
            ("first ping between members that never met, median".into(), number(self.first_ping_ms(), "ms")),
        ];
        for (name, pings) in [("idle", &self.idle), ("under load", &self.loaded)] {
            if let Some(p) = pings {
                let value = format!(
                    "p50 {:.3}  p90 {:.3}  p99 {:.3} ms, {} of {} lost",
                    p.ms(50.0),
                    p.ms(90.0),
                    p.ms(99.0),
                    p.lost(),
                    p.sent
                );
                rows.push((format!("ping {name}"), value));
            }
        }
        if let Some(bits) = self.tcp_bits_per_s {
            let again = self.retransmits.unwrap_or(0);
            rows.push(("TCP, LAN to LAN".into(), format!("{:.3} Gbit/s, {again} segments retransmitted", bits / 1e9)));
        }
        if let Some(bits) = self.udp_bits_per_s {
            let lost = self.udp_lost.unwrap_or(0);
            let packets = self.udp_packets_per_s.unwrap_or(0.0) / 1e3;
            let value = format!("{:.3} Gbit/s, {packets:.1} thousand datagrams/s arrived, {lost} lost", bits / 1e9);
            rows.push(("UDP, 1200 bytes".into(), value));
        }
        rows.push(("CPU of both gateways".into(), number(self.cpu_s_per_gb, "s per GB")));
        rows.push(("peak memory of a gateway".into(), format!("{:.1} MiB", self.peak_rss_kib as f64 / 1024.0)));
        rows.extend(self.failures.iter().map(|f| ("failure".to_owned(), f.clone())));
        rows
    }
}

struct Stage<'a> {
    options: &'a Options,
    bar: ProgressBar,
}

impl Stage<'_> {
    fn say(&self, what: impl Into<String>) -> Result<()> {
        self.bar.set_message(what.into());
        if crate::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Builds the world, measures, takes it down. An error means that nothing useful was measured.
pub fn run(options: &Options) -> Result<Summary> {
    netns::check_privilege()?;
    netns::sweep();
    crate::catch_signals()?;
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(
        ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    let stage = Stage { options, bar };
    let (mut world, result) = match World::build(&stage) {
        Ok(mut world) => {
            let result = world.measure(&stage);
            (Some(world), result)
        }
        Err(e) => (None, Err(e)),
    };
    stage.bar.finish_and_clear();
    if options.keep && result.is_ok() {
        eprintln!("{}", world.take().map(World::keep).unwrap_or_default());
    }
    // Whatever failed because the user asked to stop is no finding.
    if crate::interrupted() { Err(Error::Interrupted) } else { result }
}

enum Far {
    Hawser(Box<Daemon>),
    Reference(Box<ReferenceNode>),
}

impl Far {
    fn pid(&self) -> u32 {
        match self {
            Far::Hawser(d) => d.pid(),
            Far::Reference(r) => r.pid(),
        }
    }
}

struct World {
    // Declared in the order in which things must go: programs, then namespaces, then files.
    far: Option<Far>,
    near: Daemon,
    root: Daemon,
    network: String,
    wan: Namespace,
    gateway: [Namespace; 2],
    host: [Namespace; 2],
    files: tempfile::TempDir,
}

fn overlay(host: u32) -> IpAddr {
    IpAddr::from([OVERLAY[0], OVERLAY[1], OVERLAY[2], host as u8])
}

impl World {
    fn build(stage: &Stage<'_>) -> Result<World> {
        let options = stage.options;
        stage.say("making namespaces and links")?;
        let wan = Namespace::new("wan")?;
        let gateway = [Namespace::new("gw_a")?, Namespace::new("gw_b")?];
        let host = [Namespace::new("host_a")?, Namespace::new("host_b")?];
        for (i, net) in ["10.90.0", "10.91.0"].iter().enumerate() {
            netns::bridge(&wan, &format!("wan{i}"), &format!("{net}.1/24"))?;
            for (g, gw) in gateway.iter().enumerate() {
                let address = format!("{net}.{}/24", g + 2);
                netns::plug(&wan, &format!("wan{i}"), (gw, &format!("wan{i}"), &address))?;
            }
        }
        for (i, (gw, lan)) in gateway.iter().zip(&host).enumerate() {
            let net = format!("192.168.{}", 11 + i);
            netns::link((gw, "lan0", &format!("{net}.1/24")), (lan, "lan0", &format!("{net}.2/24")))?;
            lan.ip(&["route", "add", "default", "via", &format!("{net}.1")])?;
            gw.sysctl("net/ipv4/ip_forward", "1")?;
        }
        let files = tempfile::Builder::new().prefix("hawser-lab-").tempdir().doing("make a folder")?;

        stage.say("making a planet and starting its root")?;
        let root_home = files.path().join("root");
        let planet = files.path().join("planet");
        std::fs::create_dir_all(&root_home).doing("make the root's home")?;
        let secret = root_home.join("identity.secret").display().to_string();
        hawser(options, &["identity", "new", "--out", &secret])?;
        let root_at = format!("{secret}@10.90.0.1/9993,10.91.0.1/9993");
        hawser(options, &["planet", "make", "--root", &root_at, "--out", &planet.display().to_string()])?;
        std::fs::copy(&planet, root_home.join("planet")).doing("install the planet")?;
        let root = Daemon::start(&options.hawser, &wan, &root_home, &["--shards", "1"])?;

        stage.say("making a network")?;
        let last = options.first_contacts.max(1) + 1;
        let config = json!({
            "name": "lab",
            "private": true,
            "v4AssignMode": {"zt": true},
            "ipAssignmentPools": [{"ipRangeStart": overlay(100).to_string(), "ipRangeEnd": overlay(200).to_string()}],
            "routes": [
                {"target": "10.77.0.0/24", "via": null},
                {"target": "192.168.11.0/24", "via": overlay(1).to_string()},
                {"target": "192.168.12.0/24", "via": overlay(last).to_string()},
            ],
        });
        let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()])?;
        let network = made["id"].as_str().unwrap_or_default().to_owned();

        stage.say("starting gateway A")?;
        let mut near = start_gateway(stage, &gateway[0], &files.path().join("gw_a"), &planet, 0)?;
        admit(&root, &network, &near.address()?, 1)?;
        near.join(&network, Duration::from_secs(20))?;
        Ok(World { far: None, near, root, network, wan, gateway, host, files })
    }

    /// A new identity at the far end, authorised with overlay address `host`, joined and ready.
    fn newcomer(&mut self, stage: &Stage<'_>, host: u32) -> Result<()> {
        self.far = None;
        let home = self.files.path().join(format!("gw_b{host}"));
        let planet = self.files.path().join("planet");
        match stage.options.peer {
            Peer::Hawser => {
                let mut far = start_gateway(stage, &self.gateway[1], &home, &planet, stage.options.shards)?;
                admit(&self.root, &self.network, &far.address()?, host)?;
                far.join(&self.network, Duration::from_secs(20))?;
                self.far = Some(Far::Hawser(Box::new(far)));
            }
            Peer::Reference => {
                crate::reference::set_up()?;
                std::fs::create_dir_all(&home).doing("make a home")?;
                let planet = planet.display().to_string();
                let args = ["--planet", &planet, "--bind", "10.90.0.3:9993@wan0", "--bind", "10.91.0.3:9993@wan1"];
                let mut far = ReferenceNode::start(&self.gateway[1], &home.join("log"), &args)?;
                admit(&self.root, &self.network, far.address(), host)?;
                far.tick()?;
                far.command(json!({"cmd": "wait", "for": "online", "timeout_ms": 20000}))?;
                far.command(json!({"cmd": "join", "nwid": self.network}))?;
                far.tick()?;
                far.command(json!({"cmd": "wait", "for": "network", "nwid": self.network, "timeout_ms": 20000}))?;
                self.far = Some(Far::Reference(Box::new(far)));
            }
        }
        Ok(())
    }

    fn far_address(&self) -> Result<String> {
        match &self.far {
            Some(Far::Hawser(d)) => d.address(),
            Some(Far::Reference(r)) => Ok(r.address().to_owned()),
            None => Ok(String::new()),
        }
    }

    fn measure(&mut self, stage: &Stage<'_>) -> Result<Summary> {
        let mut seen = Summary::default();
        let contacts = stage.options.first_contacts.max(1);
        for round in 0..contacts {
            stage.say(format!("first contact {} of {contacts}", round + 1))?;
            self.newcomer(stage, round + 2)?;
            match self.first_ping(overlay(round + 2))? {
                Some(took) => seen.first_contacts_ms.push(took.as_secs_f64() * 1e3),
                None => {
                    seen.failures.push(format!("first contact {}: no answer within {FIRST_PING_LIMIT:?}", round + 1))
                }
            }
        }
        stage.say("waiting for a direct path")?;
        let (peer, far) = (self.far_address()?, overlay(contacts + 1));
        match self
            .near
            .wait_for("a direct path", DIRECT_LIMIT, |d| d.direct_paths(&peer).ok().filter(|p| !p.is_empty()))
        {
            Ok(paths) => (seen.direct, seen.paths) = (true, paths),
            Err(e) => seen.failures.push(e.to_string()),
        }
        stage.say("pinging, idle")?;
        let plan = PingPlan { count: 200, interval: Duration::from_millis(5), ..PingPlan::default() };
        let reference = stage.options.peer == Peer::Reference;
        let (from, to) =
            if reference { (&self.gateway[0], far) } else { (&self.host[0], LAN_B_HOST.parse().unwrap_or(far)) };
        let idle = from.inside(|| measure::ping(to, plan))?;
        if idle.answered == 0 {
            seen.failures.push(format!("no answer to {} echo requests to {to}", idle.sent));
        }
        seen.idle = Some(idle);
        if reference {
            self.stream(stage, &mut seen)?;
        } else {
            self.transfer(stage, &peer, &mut seen)?;
            self.flood(stage, &mut seen)?;
        }
        let pids = [self.near.pid(), self.far.as_ref().map_or(0, Far::pid)];
        seen.peak_rss_kib =
            measure::peak_rss_kib(if reference { pids[0] } else { pids[1] }).max(measure::peak_rss_kib(pids[0]));
        Ok(seen)
    }

    fn first_ping(&self, to: IpAddr) -> Result<Option<Duration>> {
        let plan = PingPlan {
            count: FIRST_PING_LIMIT.as_secs(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            stop_at_first: true,
            ..PingPlan::default()
        };
        let start = Instant::now();
        let pings = self.gateway[0].inside(|| measure::ping(to, plan))?;
        Ok((pings.answered > 0).then(|| start.elapsed()))
    }

    /// TCP from LAN host A to LAN host B, pings beside it.
    fn transfer(&self, stage: &Stage<'_>, peer: &str, seen: &mut Summary) -> Result<()> {
        let (received, ready, done) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (echoes, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        let duration = Duration::from_secs(stage.options.seconds);
        let to: SocketAddr = SocketAddr::new(LAN_B_HOST.parse().unwrap_or(overlay(2)), TCP_PORT);
        let pids = [self.near.pid(), self.far.as_ref().map_or(0, Far::pid)];
        let cpu = || pids.iter().map(|&p| measure::cpu_time(p)).sum::<Duration>();
        let before = cpu();
        let (near, host) = (&self.near, &self.host);
        let (sunk, sent, loaded) = std::thread::scope(|s| {
            let sink = s.spawn(|| host[1].inside(|| measure::tcp_sink(to, &received, &ready, &done)));
            while !ready.load(Ordering::Acquire) && !sink.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let source = s.spawn(|| {
                let sent = host[0].inside(|| measure::tcp_source(to, duration));
                // What is under way may still arrive.
                std::thread::sleep(Duration::from_millis(300));
                done.store(true, Ordering::Release);
                sent
            });
            // In short runs, so that losses can be shown while they happen.
            let pinger = s.spawn(|| {
                let plan = PingPlan { timeout: Duration::from_millis(500), ..PingPlan::default() };
                let mut all = Pings::default();
                while !done.load(Ordering::Acquire) {
                    all.add(&host[0].inside(|| measure::ping(to.ip(), plan))?);
                    echoes.store(all.sent, Ordering::Relaxed);
                    lost.store(all.lost(), Ordering::Relaxed);
                }
                Ok::<_, Error>(all)
            });
            let (start, mut last) = (Instant::now(), (Instant::now(), 0));
            while !source.is_finished() {
                std::thread::sleep(Duration::from_millis(250));
                let (at, bytes) = (Instant::now(), received.load(Ordering::Relaxed));
                let rate = (bytes - last.1) as f64 * 8.0 / (at - last.0).as_secs_f64() / 1e9;
                last = (at, bytes);
                let paths = near.direct_paths(peer).map_or(0, |p| p.len());
                stage.bar.set_message(format!(
                    "TCP {:4.1} of {} s: {rate:.2} Gbit/s, {:.2} GB, {} of {} echoes lost, {paths} direct paths",
                    start.elapsed().as_secs_f64(),
                    duration.as_secs(),
                    bytes as f64 / 1e9,
                    lost.load(Ordering::Relaxed),
                    echoes.load(Ordering::Relaxed),
                ));
            }
            (join(sink), join(source), join(pinger))
        });
        let used = cpu() - before;
        let (sunk, retransmits) = match (sunk, sent) {
            (Ok(sunk), Ok(retransmits)) => (sunk, retransmits),
            (Err(e), _) | (_, Err(e)) => {
                seen.failures.push(format!("TCP transfer: {e}"));
                return Ok(());
            }
        };
        if sunk.bytes == 0 {
            seen.failures.push("TCP transfer: not a byte arrived".into());
            return Ok(());
        }
        seen.tcp_bits_per_s = Some(sunk.bits_per_s());
        seen.retransmits = Some(retransmits);
        seen.cpu_s_per_gb = Some(used.as_secs_f64() / (sunk.bytes as f64 / 1e9));
        seen.loaded = loaded.ok();
        Ok(())
    }

    /// UDP from LAN host A to LAN host B, offered as fast as the host can: what arrives is what the way can carry.
    fn flood(&self, stage: &Stage<'_>, seen: &mut Summary) -> Result<()> {
        let duration = Duration::from_secs(stage.options.seconds.min(3));
        stage.say(format!("UDP flood of {UDP_SIZE}-byte datagrams for {} s", duration.as_secs()))?;
        let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let to = SocketAddr::new(LAN_B_HOST.parse().unwrap_or(overlay(2)), UDP_PORT);
        let host = &self.host;
        let (counted, sent) = std::thread::scope(|s| {
            let sink = s.spawn(|| host[1].inside(|| measure::udp_count(to, &ready, &done)));
            while !ready.load(Ordering::Acquire) && !sink.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let sent = host[0].inside(|| measure::udp_flood(to, UDP_SIZE, duration));
            std::thread::sleep(Duration::from_millis(200));
            done.store(true, Ordering::Release);
            (join(sink), sent)
        });
        let ((packets, bytes), sent) = (counted?, sent?);
        seen.udp_bits_per_s = Some(bytes as f64 * 8.0 / duration.as_secs_f64());
        seen.udp_packets_per_s = Some(packets as f64 / duration.as_secs_f64());
        seen.udp_lost = Some(sent.saturating_sub(packets));
        if packets == 0 {
            seen.failures.push("UDP flood: not a datagram arrived".into());
        }
        Ok(())
    }

    /// The reference node has no TCP stack of its own: a paced UDP stream of its making takes the transfer's place.
    fn stream(&mut self, stage: &Stage<'_>, seen: &mut Summary) -> Result<()> {
        const PACKETS_PER_SECOND: u64 = 2000;
        let Some(Far::Reference(far)) = &mut self.far else { return Ok(()) };
        let seconds = stage.options.seconds.min(20);
        stage.say(format!("UDP stream of {PACKETS_PER_SECOND} packets/s from the reference node for {seconds} s"))?;
        let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let at = SocketAddr::new(overlay(1), 9001);
        let before = measure::cpu_time(self.near.pid());
        let (near, gateway) = (&self.near, &self.gateway[0]);
        let (counted, streamed) = std::thread::scope(|s| {
            let sink = s.spawn(|| gateway.inside(|| measure::udp_count(at, &ready, &done)));
            while !ready.load(Ordering::Acquire) && !sink.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let streamed = far.command(json!({
                "cmd": "stream", "dst": at.ip().to_string(), "port": at.port(), "pps": PACKETS_PER_SECOND,
                "seconds": seconds, "size": UDP_SIZE,
            }));
            done.store(true, Ordering::Release);
            (join(sink), streamed)
        });
        let ((packets, bytes), _) = (counted?, streamed?);
        let sent = PACKETS_PER_SECOND * seconds;
        let used = measure::cpu_time(near.pid()) - before;
        seen.udp_bits_per_s = Some(bytes as f64 * 8.0 / seconds as f64);
        seen.udp_packets_per_s = Some(packets as f64 / seconds as f64);
        seen.udp_lost = Some(sent.saturating_sub(packets));
        if packets == 0 {
            seen.failures.push("UDP stream: not a datagram arrived".into());
        } else {
            seen.cpu_s_per_gb = Some(used.as_secs_f64() / (bytes as f64 / 1e9));
        }
        Ok(())
    }

    /// Leaves everything standing and says how to enter and how to remove it.
    fn keep(mut self) -> String {
        let mut text = String::from("The lab is left standing. Enter it with:\n");
        let names: Vec<_> =
            [&self.wan].into_iter().chain(&self.gateway).chain(&self.host).map(|n| n.name().to_owned()).collect();
        for name in &names {
            let _ = writeln!(text, "  ip netns exec {name} bash");
        }
        let _ = writeln!(text, "Homes of the daemons (for hawser --home): {}", self.files.path().display());
        let _ = writeln!(text, "LAN host A is {LAN_A_HOST}, LAN host B is {LAN_B_HOST}. Remove it with:");
        let mut pids = vec![self.near.pid().to_string(), self.root.pid().to_string()];
        pids.extend(self.far.as_ref().map(|f| f.pid().to_string()));
        let _ = writeln!(text, "  kill {}; for n in {}; do ip netns del $n; done", pids.join(" "), names.join(" "));
        self.wan.keep();
        self.gateway.iter_mut().chain(&mut self.host).for_each(Namespace::keep);
        // Neither the daemons' Drop nor the folder's must run.
        std::mem::forget(self);
        text
    }
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn hawser(options: &Options, words: &[&str]) -> Result<()> {
    netns::run(&options.hawser.display().to_string(), words)
}

fn start_gateway(
    stage: &Stage<'_>,
    ns: &Namespace,
    home: &std::path::Path,
    planet: &std::path::Path,
    first_core: usize,
) -> Result<Daemon> {
    std::fs::create_dir_all(home).doing("make a home")?;
    std::fs::copy(planet, home.join("planet")).doing("install the planet")?;
    // The LAN side is not an underlay.
    let conf = json!({"settings": {"interfacePrefixBlacklist": ["lan"]}});
    std::fs::write(home.join("local.conf"), conf.to_string()).doing("write local.conf")?;
    // The gateways share a host: their packet threads shall not share cores as long as there are others.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (shards, first_core) = (stage.options.shards.to_string(), (first_core % cores).to_string());
    Daemon::start(&stage.options.hawser, ns, home, &["--shards", &shards, "--first-core", &first_core])
}

fn admit(root: &Daemon, network: &str, member: &str, host: u32) -> Result<()> {
    let config = json!({"authorized": true, "ipAssignments": [overlay(host).to_string()]});
    root.cli(&["controller", "member", "set", network, member, "--config", &config.to_string()]).map(|_| ())
}
