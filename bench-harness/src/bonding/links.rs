//! Two gateways joined by several impaired lines, and how each line is made to fail. Here is who stands where; not what runs
//! over it. The box between the lines counts what each carries, so that nobody has to ask a gateway.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use lab::impair::{self, Impairment, Ports, Shape, Tally};
use lab::netns::{self, Namespace};
use serde::Serialize;
use serde_json::Value;

use crate::load::{Bed, Ends, Place};
use crate::rig::{Rig, RigOptions};
use crate::tunnel::Tunnel;
use crate::{Error, Result};

/// Addresses are pushed once in 15 s; a second path may take as long.
const PATHS_LIMIT: Duration = Duration::from_secs(40);
/// Who does not bond has no need of more than one.
const FEWER_AFTER: Duration = Duration::from_secs(5);
/// What the kernel offers for TCP.
const OFFERED: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const USUAL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Socket buffers of the LAN hosts, so that the lines limit a flow and not its window.
const WINDOW: &str = "4096 131072 33554432";

/// One line, the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Mbit/s.
    pub rate: f64,
    /// Milliseconds, one way.
    pub delay: f64,
    /// Milliseconds at most beside the delay; frames keep their order.
    pub jitter: f64,
    /// Share of frames lost.
    pub loss: f64,
    /// Milliseconds that a frame waits at most.
    pub buffer: f64,
}

impl Line {
    /// With a buffer of 50 ms, without jitter and loss.
    pub const fn new(rate: f64, delay: f64) -> Line {
        Line { rate, delay, jitter: 0.0, loss: 0.0, buffer: 50.0 }
    }

    /// What the box makes of it.
    pub fn shape(&self) -> Shape {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        Shape {
            rate: Some(self.rate * 1e6),
            buffer: ms(self.buffer),
            delay: ms(self.delay),
            jitter: ms(self.jitter),
            loss: self.loss,
            ..Shape::default()
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Mbit/s {} ms", self.rate, self.delay)?;
        if self.jitter > 0.0 {
            write!(f, " +{} ms", self.jitter)?;
        }
        if self.loss > 0.0 {
            write!(f, " {} % lost", (self.loss * 1000.0).round() / 10.0)?;
        }
        Ok(())
    }
}

impl FromStr for Line {
    type Err = String;

    /// `RATE/DELAY`, then optionally `/JITTER`, `/LOSS` in percent.
    fn from_str(text: &str) -> std::result::Result<Line, String> {
        let wrong = || format!("{text:?} is not RATE/DELAY[/JITTER[/LOSS]] in Mbit/s, ms, ms, percent");
        let numbers: Vec<f64> =
            text.split('/').map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| wrong())?;
        if !(2..=4).contains(&numbers.len()) || !numbers.iter().all(|n| (0.0..1e6).contains(n)) || numbers[0] < 0.01 {
            return Err(wrong());
        }
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
        Ok(Line { jitter: at(2), loss: (at(3) / 100.0).min(1.0), ..Line::new(at(0), at(1)) })
    }
}

/// How a line fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cut {
    /// A's interface loses its carrier
    Carrier,
    /// A's address is removed
    Address,
    /// Nothing passes any more, either way
    Blackhole,
    /// Nothing passes from A to B
    Out,
    /// Nothing passes from B to A
    In,
    /// Half of the frames are lost, both ways
    Loss50,
    /// The delay is ten times what it was, both ways
    Delay10,
}

/// The gateways at work over the lines. Dropping it ends everything.
pub struct World {
    // Ended in this order: the daemons, the box, the namespaces.
    bed: Bed,
    /// Between the gateways.
    pub wires: Impairment,
    hub: Namespace,
    lines: Vec<Line>,
    /// Congestion control of the hosts' TCP, if not this machine's usual one.
    pub congestion: Option<String>,
    /// How long after the first ping every line was a path.
    pub paths_after: Duration,
}

/// What gateway A's bond says of the path over one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Data may go over it.
    pub good: bool,
    /// It gets none all the same while another will do, since it failed too often.
    pub held: bool,
}

fn ports(line: usize) -> Ports {
    [format!("a{line}"), format!("b{line}")]
}

fn device(line: usize) -> String {
    format!("link{line}")
}

fn address(line: usize, site: usize) -> String {
    format!("10.{}.0.{}/24", 100 + line, site + 1)
}

impl World {
    /// Builds it and waits until the LAN hosts hear each other and every line is a path, as far as the tunnel tells. It may
    /// do with fewer paths after a while, if that is permitted.
    pub fn start(tunnel: &dyn Tunnel, lines: &[Line], fewer: bool, congestion: Option<String>) -> Result<World> {
        let everywhere = [vec![], vec![]];
        let rig = Rig::new(RigOptions { cores: everywhere, ..RigOptions::default() })?;
        // The lines take its place.
        rig.sites[0].gateway.ip(&["link", "del", "wan0"])?;
        for site in &rig.sites {
            for (path, value) in [("tcp_rmem", WINDOW), ("tcp_wmem", WINDOW), ("tcp_no_metrics_save", "1")] {
                site.host.sysctl(&format!("net/ipv4/{path}"), value)?;
            }
            for which in ["all", "default"] {
                site.gateway.sysctl(&format!("net/ipv4/conf/{which}/rp_filter"), "0")?;
            }
        }
        let hub = Namespace::new("bonding_wires")?;
        let gateways = rig.sites.each_ref().map(|site| &site.gateway);
        for line in 0..lines.len() {
            let (dev, at) = (device(line), [address(line, 0), address(line, 1)]);
            impair::line(&hub, &ports(line), [(gateways[0], &dev, &at[0]), (gateways[1], &dev, &at[1])])?;
        }
        let shaped: Vec<_> = lines.iter().enumerate().map(|(i, line)| (ports(i), [line.shape(); 2])).collect();
        let wires = Impairment::start(&hub, &shaped)?;
        let bed = Bed::on(rig, tunnel)?;
        let world = World { bed, wires, hub, lines: lines.to_vec(), congestion, paths_after: Duration::ZERO };
        let (limit, began) = (if fewer { FEWER_AFTER } else { PATHS_LIMIT }, Instant::now());
        if !world.wait_for_paths(limit)? && !fewer {
            let what = format!("a path over each of {} lines", lines.len());
            let paths = |site| world.bed.running().direct_paths(site).unwrap_or_default();
            let detail = format!(": A has {:?}, B has {:?}", paths(0), paths(1));
            return Err(Error::Timeout { what, seconds: limit.as_secs(), detail });
        }
        Ok(World { paths_after: began.elapsed(), ..world })
    }

    /// Waits until both gateways have a path over every line, if they tell; answers whether they have.
    pub fn wait_for_paths(&self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        while self.without_path().is_some_and(|lines| lines > 0) {
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(true)
    }

    /// How many lines are missing among the paths of a gateway, both together; none: it does not tell.
    fn without_path(&self) -> Option<usize> {
        let missing = |site: usize| {
            let paths = self.bed.running().direct_paths(site)?;
            let to = |line: &usize| address(*line, 1 - site).replace("/24", "/");
            Some((0..self.lines.len()).filter(|line| !paths.iter().any(|path| path.starts_with(&to(line)))).count())
        };
        // One end may tell and the other not.
        [missing(0), missing(1)].into_iter().flatten().reduce(|a, b| a + b)
    }

    /// What A's bond says of every line; none: A has no bond, or does not tell.
    pub fn bond(&self) -> Option<Vec<Standing>> {
        let bonds = self.bed.running().ask(0, &["bond", "list"])?;
        let paths: Vec<&Value> =
            bonds.as_array()?.iter().flat_map(|peer| peer["bond"]["paths"].as_array()).flatten().collect();
        (!paths.is_empty()).then(|| (0..self.lines.len()).map(|line| standing(&paths, line)).collect())
    }

    /// Waits until A's bond is content with every line, also as to past failures if `calm`; answers whether it is.
    pub fn wait_for_bond(&self, calm: bool, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        let content = |lines: Vec<Standing>| lines.iter().all(|line| line.good && !(calm && line.held));
        while !self.bond().is_some_and(content) {
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(true)
    }

    /// The lines as they were asked for.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The tunnel and the rig.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The LAN hosts.
    pub fn hosts(&self) -> [Place<'_>; 2] {
        self.bed.places(Ends::Hosts)
    }

    /// What the lines carried so far, each direction.
    pub fn carried(&self) -> Vec<[Tally; 2]> {
        self.wires.tallies()
    }

    /// Bytes that gateway A sent and received by the interface that only the root is behind.
    pub fn by_root(&self) -> Result<u64> {
        let text = self.bed.rig.sites[0]
            .gateway
            .inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default()))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("root0:"));
        let numbers: Vec<u64> = line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect();
        Ok(numbers.first().unwrap_or(&0) + numbers.get(8).unwrap_or(&0))
    }

    /// The line that carries most from A to B, by what passes within `time`.
    pub fn busiest(&self, time: Duration) -> usize {
        let before = self.carried();
        std::thread::sleep(time);
        let after = self.carried();
        let bytes = |i: &usize| after[*i][0].bytes - before[*i][0].bytes;
        (0..self.lines.len()).max_by_key(bytes).unwrap_or(0)
    }

    fn ends(&self, line: usize, f: impl FnOnce([(&Namespace, &str, &str); 2]) -> Result<()>) -> Result<()> {
        let sites = &self.bed.rig.sites;
        let (dev, at) = (device(line), [address(line, 0), address(line, 1)]);
        f([(&sites[0].gateway, &dev, &at[0]), (&sites[1].gateway, &dev, &at[1])])
    }

    fn both(&self, line: usize, change: impl Fn(&mut Shape)) {
        [0, 1].into_iter().for_each(|way| self.one(line, way, &change));
    }

    fn one(&self, line: usize, way: usize, change: impl Fn(&mut Shape)) {
        let mut shape = self.wires.shape(line, way);
        change(&mut shape);
        self.wires.set(line, way, shape);
    }

    /// Gives the line other properties, both ways.
    pub fn becomes(&self, line: usize, now: &Line) {
        [0, 1].into_iter().for_each(|way| self.wires.set(line, way, now.shape()));
    }

    /// The line fails.
    pub fn cut(&self, line: usize, how: Cut) -> Result<()> {
        match how {
            Cut::Carrier => self.hub.ip(&["link", "set", &ports(line)[0], "down"])?,
            Cut::Address => {
                let gateway = &self.bed.rig.sites[0].gateway;
                gateway.ip(&["addr", "del", &address(line, 0), "dev", &device(line)])?;
            }
            Cut::Blackhole => self.both(line, |shape| shape.cut = true),
            Cut::Out => self.one(line, 0, |shape| shape.cut = true),
            Cut::In => self.one(line, 1, |shape| shape.cut = true),
            Cut::Loss50 => self.both(line, |shape| shape.loss = 0.5),
            Cut::Delay10 => self.both(line, |shape| shape.delay *= 10),
        }
        Ok(())
    }

    /// The line is as it was asked for.
    pub fn heal(&self, line: usize, how: Cut) -> Result<()> {
        match how {
            Cut::Carrier => self.hub.ip(&["link", "set", &ports(line)[0], "up"]),
            Cut::Address => self.ends(line, |ends| {
                let (gateway, dev, at) = ends[0];
                gateway.ip(&["addr", "add", at, "dev", dev])?;
                impair::acquaint(ends)
            }),
            _ => {
                self.becomes(line, &self.lines[line]);
                Ok(())
            }
        }
    }
}

/// Sockets of B on every line, as the reference node takes them.
pub fn binds(lines: usize) -> Vec<String> {
    (0..lines).map(|line| format!("{}:9993@{}", address(line, 1).replace("/24", ""), device(line))).collect()
}

/// Of several paths over a line the best counts.
fn standing(paths: &[&Value], line: usize) -> Standing {
    let far = address(line, 1).replace("/24", "/");
    let over = |path: &&Value| path["address"].as_str().is_some_and(|at| at.starts_with(&far));
    let good: Vec<&Value> = paths.iter().copied().filter(|path| over(path) && path["state"] == "good").collect();
    Standing { good: !good.is_empty(), held: !good.is_empty() && good.iter().all(|path| path["held"] == true) }
}

/// `ethtool`, this congestion control and the rest that a world needs.
pub fn check(congestion: Option<&str>) -> Result<()> {
    netns::run("ethtool", &["--version"])
        .map_err(|_| Error::Unusable("this needs the command `ethtool`: install it".into()))?;
    let offered = std::fs::read_to_string(OFFERED).unwrap_or_default();
    congestion.map_or(Ok(()), |name| among(name, &offered))
}

fn among(name: &str, offered: &str) -> Result<()> {
    match offered.split_whitespace().any(|one| one == name) {
        true => Ok(()),
        false => Err(Error::Unusable(format!("--congestion {name}: this kernel offers {}", offered.trim()))),
    }
}

/// What TCP of the hosts does unless told otherwise.
pub fn usual_congestion() -> String {
    std::fs::read_to_string(USUAL).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_stands_as_the_best_of_its_paths() {
        let path = |address: &str, state: &str, held: bool| json!({"address": address, "state": state, "held": held});
        let all = [
            path("10.100.0.2/9993", "down", true),
            path("10.100.0.2/21000", "good", false),
            path("10.101.0.2/9993", "good", true),
            path("10.102.0.2/9993", "suspect", false),
        ];
        let paths: Vec<&Value> = all.iter().collect();
        let found: Vec<Standing> = (0..3).map(|line| standing(&paths, line)).collect();
        let of = |good, held| Standing { good, held };
        assert_eq!(found, [of(true, false), of(true, true), of(false, false)]);
    }

    #[test]
    fn a_congestion_control_must_be_one_of_the_kernel() {
        assert!(among("cubic", "reno bbr cubic\n").is_ok());
        let refused = among("cub", "reno bbr cubic\n").unwrap_err().to_string();
        assert!(refused.contains("--congestion cub: this kernel offers reno bbr cubic"), "{refused}");
        assert!(among("cubic", "").is_err());
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        assert_eq!("40/10".parse(), Ok(Line::new(40.0, 10.0)));
        let bad = Line { jitter: 5.0, loss: 0.3, ..Line::new(10.0, 30.0) };
        assert_eq!("10/30/5/30".parse(), Ok(bad));
        assert_eq!(bad.to_string(), "10 Mbit/s 30 ms +5 ms 30 % lost");
        for wrong in ["", "40", "40/x", "0/10", "-1/10", "1/2/3/4/5"] {
            assert!(wrong.parse::<Line>().is_err(), "{wrong}");
        }
    }
}
