//! Two members of one network meet for the first time, each behind a router of some kind: do they go direct, and how
//! soon? Daemons and reference nodes stand on either side and as roots; the kernel translates between them ([`crate::nat`]).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::measure::{self, PingPlan};
use crate::nat::{Home, Internet, Kind};
use crate::netns::{self, Namespace};
use crate::reference::{self, ReferenceNode};
use crate::{Error, IoContext, Result};

/// Two, because a symmetric router shows only to somebody who sees two of its ports.
const ROOTS: [Ipv4Addr; 2] = [Ipv4Addr::new(44, 0, 1, 1), Ipv4Addr::new(44, 0, 2, 1)];
const PORT: u16 = 9993;
/// Time to start a member and to have it join.
const SOON: Duration = Duration::from_secs(30);
/// From joining to the first frame: the roots know by then who listens to which group.
const SETTLE: Duration = Duration::from_millis(1500);
/// Who begins sends an echo request this often, and it is looked this often whether both are direct.
const FRAMES: Duration = Duration::from_millis(100);
const LOOKS: Duration = Duration::from_millis(10);
/// Echo requests each way at the end.
const ECHOES: u64 = 5;
/// Meetings before addresses of homes are used again.
const PLACES: u8 = 120;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// `hawser up`.
    Hawser,
    /// The reference node.
    Reference,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// What runs there.
    pub core: Core,
    /// What it is behind.
    pub kind: Kind,
}

/// How a meeting went.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// From the first frame until each side had a direct path to the other. Shown to be one: echoes came back while the
    /// roots could not be reached.
    pub direct: Option<Duration>,
    /// Echoes that came back at the end, of [`Meeting::ASKED`], from him who began and from the other.
    pub echoes: [u64; 2],
}

impl Meeting {
    /// Echo requests each way at the end.
    pub const ASKED: u64 = ECHOES;

    /// Every echo came back.
    pub fn reachable(&self) -> bool {
        self.echoes == [ECHOES; 2]
    }
}

/// An internet with two roots and a controller.
#[derive(Debug)]
pub struct Planet {
    // Programs go before namespaces, and these before files.
    controller: Root,
    _second: Root,
    _spaces: [Namespace; 2],
    internet: Internet,
    network: String,
    hawser: PathBuf,
    met: u8,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
enum Root {
    Hawser(Box<Daemon>),
    Reference(Box<ReferenceNode>),
}

impl Planet {
    /// A planet whose roots run `roots`; `hawser` is the program for everything that is Hawser.
    pub fn new(tag: &str, hawser: &Path, roots: Core) -> Result<Planet> {
        reference::set_up()?;
        let internet = Internet::new(tag)?;
        let spaces = [internet.host("r1", ROOTS[0])?, internet.host("r2", ROOTS[1])?];
        let dir = tempfile::Builder::new().prefix("hawser-nat-").tempdir().doing("make a folder")?;
        let program = hawser.display().to_string();
        let homes = [dir.path().join("r1"), dir.path().join("r2")];
        let planet = dir.path().join("planet");
        let mut words: Vec<String> = ["planet", "make", "--out"].map(str::to_owned).into();
        words.push(planet.display().to_string());
        for (home, address) in homes.iter().zip(ROOTS) {
            std::fs::create_dir_all(home).doing("make a root's home")?;
            let secret = home.join("identity.secret").display().to_string();
            netns::run(&program, &["identity", "new", "--out", &secret])?;
            words.extend(["--root".to_owned(), format!("{secret}@{address}/{PORT}")]);
        }
        netns::run(&program, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let start = |i: usize| match roots {
            Core::Hawser => {
                std::fs::copy(&planet, homes[i].join("planet")).doing("install the planet")?;
                Daemon::start(hawser, &spaces[i], &homes[i], &["--shards", "1"]).map(|d| Root::Hawser(Box::new(d)))
            }
            Core::Reference => {
                let (identity, planet) = (homes[i].join("identity.secret"), planet.display().to_string());
                let (identity, bind) = (identity.display().to_string(), format!("{}:{PORT}", ROOTS[i]));
                let args = ["--identity", &identity, "--planet", &planet, "--bind", &bind, "--allow-public"];
                let args: Vec<&str> = args.into_iter().chain((i == 0).then_some("--controller")).collect();
                ReferenceNode::start(&spaces[i], &homes[i].join("log"), &args).map(|r| Root::Reference(Box::new(r)))
            }
        };
        let (mut controller, second) = (start(0)?, start(1)?);
        let network = controller.make_network()?;
        let (hawser, met) = (hawser.to_owned(), 0);
        Ok(Planet { controller, _second: second, _spaces: spaces, internet, network, hawser, met, dir })
    }

    /// Two members that nobody has seen before join; the first one begins to send. They have `limit` to go direct.
    pub fn meet(&mut self, sides: [Side; 2], limit: Duration) -> Result<Meeting> {
        let n = self.met;
        self.met = (n + 1) % PLACES;
        let place = |i: u8, side: Side| {
            // No two homes have the same addresses inside.
            self.internet.home(&format!("h{i}"), Ipv4Addr::new(44, 1 + i, 2 * n + i + 1, 1), side.kind)
        };
        let homes = [place(0, sides[0])?, place(1, sides[1])?];
        self.meet_at(sides.map(|side| side.core), &homes, limit)
    }

    /// The same in two homes behind one carrier's router that does not turn datagrams around.
    pub fn meet_behind_carrier(&mut self, sides: [Side; 2], limit: Duration) -> Result<Meeting> {
        let n = self.met;
        self.met = (n + 1) % PLACES;
        let kinds = sides.map(|side| side.kind);
        let (_carrier, homes) = self.internet.behind_carrier("c", Ipv4Addr::new(44, 3, n + 1, 1), &kinds)?;
        let homes: [Home; 2] = homes.try_into().map_err(|_| Error::Unusable("two homes are two homes".into()))?;
        self.meet_at(sides.map(|side| side.core), &homes, limit)
    }

    fn meet_at(&mut self, cores: [Core; 2], homes: &[Home; 2], limit: Duration) -> Result<Meeting> {
        let (planet, hawser) = (self.dir.path().join("planet"), self.hawser.clone());
        let folder = tempfile::tempdir_in(self.dir.path()).doing("make a folder")?;
        let start = |i: usize| Member::start(cores[i], &homes[i], &folder.path().join(i.to_string()), &planet, &hawser);
        let started = std::thread::scope(|s| [0, 1].map(|i| s.spawn(move || start(i))).map(join));
        let [first, second] = started;
        let mut members = [first?, second?];
        for (host, member) in (1..).zip(&members) {
            self.controller.admit(&self.network, &member.address, host)?;
        }
        let network = &self.network;
        let joined =
            std::thread::scope(|s| members.each_mut().map(|member| s.spawn(move || member.join(network))).map(join));
        joined.into_iter().collect::<Result<()>>()?;
        pause(SETTLE)?;

        let done = AtomicBool::new(false);
        let direct = std::thread::scope(|s| {
            let [first, second] = &mut members;
            let start = Instant::now();
            let sending = first.send_frames(s, &homes[0], second.overlay, limit, &done);
            let direct = sending.and_then(|()| wait_direct(first, &homes[0], second, &homes[1], start, limit));
            done.store(true, Ordering::Release);
            direct
        })?;
        let echoes = match direct {
            None => self.echoes(&mut members, homes)?,
            Some(after) => {
                ROOTS.iter().try_for_each(|&root| self.internet.cut(root, true))?;
                let echoes = self.echoes(&mut members, homes);
                ROOTS.iter().try_for_each(|&root| self.internet.cut(root, false))?;
                let echoes = echoes?;
                if echoes.contains(&0) {
                    return Err(Error::Unusable(format!("direct after {after:?}, but nothing passes without roots")));
                }
                echoes
            }
        };
        Ok(Meeting { direct, echoes })
    }

    fn echoes(&self, members: &mut [Member; 2], homes: &[Home; 2]) -> Result<[u64; 2]> {
        let overlay = members.each_ref().map(|member| member.overlay);
        let [first, second] = members;
        Ok([first.echoes(&homes[0], overlay[1])?, second.echoes(&homes[1], overlay[0])?])
    }
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pause(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    if crate::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Looks until both have a direct path, and says how long after `start` that was.
fn wait_direct(
    first: &mut Member,
    first_home: &Home,
    second: &mut Member,
    second_home: &Home,
    start: Instant,
    limit: Duration,
) -> Result<Option<Duration>> {
    while start.elapsed() < limit {
        if first.is_direct(first_home, &second.address)? && second.is_direct(second_home, &first.address)? {
            return Ok(Some(start.elapsed()));
        }
        pause(LOOKS)?;
    }
    Ok(None)
}

impl Root {
    /// A private network with IPv4 addresses.
    fn make_network(&mut self) -> Result<String> {
        let id = match self {
            Root::Hawser(root) => {
                let config = json!({
                    "name": "nat", "private": true, "v4AssignMode": {"zt": true},
                    "ipAssignmentPools": [{"ipRangeStart": "10.77.0.10", "ipRangeEnd": "10.77.255.250"}],
                    "routes": [{"target": "10.77.0.0/16", "via": null}],
                });
                let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()])?;
                made["id"].as_str().map(str::to_owned)
            }
            Root::Reference(root) => {
                let config = json!({"name": "nat", "private": true, "pools": ["10.77.0.0/16"]});
                let made = root.command(json!({"cmd": "controller-network", "config": config}))?;
                made["nwid"].as_str().map(str::to_owned)
            }
        };
        id.ok_or_else(|| Error::Unusable("the controller made no network".into()))
    }

    fn admit(&mut self, network: &str, member: &str, host: u8) -> Result<()> {
        match self {
            Root::Hawser(root) => {
                // Addresses of members that are gone are given again.
                let config = json!({"authorized": true, "ipAssignments": [format!("10.77.0.{host}")]}).to_string();
                root.cli(&["controller", "member", "set", network, member, "--config", &config]).map(|_| ())
            }
            Root::Reference(root) => {
                let config = json!({"authorized": true});
                let request = json!({"cmd": "controller-member", "nwid": network, "member": member, "config": config});
                root.command(request).map(|_| ())
            }
        }
    }
}

/// A member at work.
struct Member {
    node: Node,
    address: String,
    overlay: IpAddr,
}

enum Node {
    Hawser(Box<Daemon>, String),
    Reference(Box<ReferenceNode>),
}

impl Member {
    fn start(core: Core, home: &Home, folder: &Path, planet: &Path, hawser: &Path) -> Result<Member> {
        std::fs::create_dir_all(folder).doing("make a home")?;
        let (node, address) = match core {
            Core::Hawser => {
                std::fs::copy(planet, folder.join("planet")).doing("install the planet")?;
                let daemon = Daemon::start(hawser, &home.host, folder, &["--shards", "1"])?;
                let token = std::fs::read_to_string(folder.join("authtoken.secret")).doing("read the token")?;
                let address = daemon.address()?;
                (Node::Hawser(Box::new(daemon), token.trim().to_owned()), address)
            }
            Core::Reference => {
                // Three ports, as ZeroTierOne has them.
                let binds = [PORT, 0, 0].map(|port| format!("{}:{port}@{}", home.inner, crate::nat::WAN));
                let (planet, mut args) = (planet.display().to_string(), vec!["--allow-public", "--planet"]);
                args.push(&planet);
                binds.iter().for_each(|bind| args.extend(["--bind", bind]));
                let node = ReferenceNode::start(&home.host, &folder.join("log"), &args)?;
                let address = node.address().to_owned();
                (Node::Reference(Box::new(node)), address)
            }
        };
        Ok(Member { node, address, overlay: IpAddr::from([0; 4]) })
    }

    fn join(&mut self, network: &str) -> Result<()> {
        let text = match &mut self.node {
            Node::Hawser(daemon, _) => daemon.join(network, SOON)?,
            Node::Reference(node) => {
                let wait = |what: &str| {
                    let ms = SOON.as_millis() as u64;
                    json!({"cmd": "wait", "for": what, "nwid": network, "address": true, "timeout_ms": ms})
                };
                node.tick()?;
                node.command(wait("online"))?;
                node.command(json!({"cmd": "join", "nwid": network}))?;
                node.tick()?;
                let joined = node.command(wait("network"))?;
                let addresses = joined["value"]["addresses"].as_array().cloned().unwrap_or_default();
                let one = addresses.iter().filter_map(Value::as_str).find(|a| a.contains('.')).unwrap_or_default();
                one.split('/').next().unwrap_or_default().to_owned()
            }
        };
        self.overlay = text.parse().map_err(|_| Error::Unusable(format!("{text:?} is no address of a member")))?;
        Ok(())
    }

    /// A live path of its own to `peer`.
    fn is_direct(&mut self, home: &Home, peer: &str) -> Result<bool> {
        let alive = |path: &Value| path["expired"] != true;
        Ok(match &mut self.node {
            Node::Hawser(_, token) => {
                let peer = home.host.inside(|| get(token, &format!("/peer/{peer}")))?;
                peer["paths"].as_array().is_some_and(|paths| paths.iter().any(alive))
            }
            Node::Reference(node) => {
                let paths = node.command(json!({"cmd": "paths", "peer": peer}))?;
                paths.as_array().is_some_and(|paths| paths.iter().any(alive))
            }
        })
    }

    /// Sends an echo request every [`FRAMES`] until `done`, but not longer than `limit`.
    fn send_frames<'scope>(
        &mut self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        home: &'scope Home,
        to: IpAddr,
        limit: Duration,
        done: &'scope AtomicBool,
    ) -> Result<()> {
        match &mut self.node {
            Node::Hawser(..) => {
                scope.spawn(move || {
                    home.host.inside(|| {
                        let plan = PingPlan { count: 1, timeout: FRAMES, ..PingPlan::default() };
                        let end = Instant::now() + limit;
                        while !done.load(Ordering::Acquire) && Instant::now() < end {
                            let next = Instant::now() + FRAMES;
                            measure::ping(to, plan)?;
                            std::thread::sleep(next.saturating_duration_since(Instant::now()));
                        }
                        Ok(())
                    })
                });
                Ok(())
            }
            Node::Reference(node) => {
                let count = limit.as_millis() / FRAMES.as_millis();
                let (count, interval) = (count as u64, FRAMES.as_millis() as u64);
                node.post(json!({"cmd": "ping", "dst": to.to_string(), "count": count, "interval_ms": interval}))
            }
        }
    }

    /// How many of [`ECHOES`] come back from `to`.
    fn echoes(&mut self, home: &Home, to: IpAddr) -> Result<u64> {
        match &mut self.node {
            Node::Hawser(..) => {
                let plan = PingPlan { count: ECHOES, interval: FRAMES, ..PingPlan::default() };
                Ok(home.host.inside(|| measure::ping(to, plan))?.answered)
            }
            Node::Reference(node) => {
                let interval = FRAMES.as_millis() as u64;
                let ping = json!({"cmd": "ping", "dst": to.to_string(), "count": ECHOES, "interval_ms": interval});
                Ok(node.command(ping)?["received"].as_u64().unwrap_or(0))
            }
        }
    }
}

/// Asks the daemon of this namespace over HTTP, without starting a program each time.
fn get(token: &str, path: &str) -> Result<Value> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.0\r\nX-ZT1-Auth: {token}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().doing(format!("GET {path}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let command = || format!("GET {path}");
    serde_json::from_str(body).map_err(|e| Error::Command { command: command(), reason: format!("{e}: {answer}") })
}
