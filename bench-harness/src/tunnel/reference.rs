//! Hawser at A, the real ZeroTier core (the reference node) at B: a far end that is certainly not ours. It has no TAP and no
//! TCP; it takes B's host address for itself and says which datagrams came.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use lab::daemon::Daemon;
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};

use super::hawser::{Hawser, OVERLAY};
use super::{Running, Tunnel};
use crate::Result;
use crate::rig::Rig;

const DIRECT_LIMIT: Duration = Duration::from_secs(30);
const PATIENCE_MS: u64 = 20_000;

/// The pair.
#[derive(Clone, Debug)]
pub struct Core {
    /// Gateway A.
    pub near: Hawser,
    /// B's sockets towards A: `ADDRESS:PORT@INTERFACE`.
    pub bind: Vec<String>,
    /// More words for the reference node.
    pub words: Vec<String>,
}

struct Pair {
    // Ended in this order.
    near: Daemon,
    far: RefCell<ReferenceNode>,
    _root: Daemon,
}

impl Tunnel for Core {
    fn name(&self) -> &str {
        "hawser and the core"
    }

    fn about(&self) -> String {
        format!("{}; at B the ZeroTier core of the reference node", self.near.about())
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        reference::set_up()?;
        let (root, network) = self.near.start_root(rig)?;
        let mut near = self.near.start_gateway(rig, 0, &root, &network)?;
        let planet = rig.files.path().join("gw_a").join("planet").display().to_string();
        let binds = self.bind.iter().map(String::as_str).chain(["10.91.2.2:9993@root0"]).flat_map(|b| ["--bind", b]);
        let words: Vec<&str> =
            ["--planet", &planet].into_iter().chain(binds).chain(self.words.iter().map(String::as_str)).collect();
        let gateway = &rig.sites[1].gateway;
        let log = rig.files.path().join("core.log");
        let mut far = ReferenceNode::start(gateway, &log, &words)?;
        // Its own address in the network, and that of the host for which it stands.
        let addresses = [OVERLAY[1].to_owned(), rig.sites[1].host_address.to_string()];
        let member = json!({"authorized": true, "ipAssignments": addresses}).to_string();
        root.cli(&["controller", "member", "set", &network, far.address(), "--config", &member])?;
        far.tick()?;
        far.command(json!({"cmd": "wait", "for": "online", "timeout_ms": PATIENCE_MS}))?;
        far.command(json!({"cmd": "join", "nwid": network}))?;
        far.tick()?;
        far.command(json!({"cmd": "wait", "for": "network", "nwid": network, "timeout_ms": PATIENCE_MS}))?;
        far.command(json!({"cmd": "events", "enable": ["udp"]}))?;
        let _ = rig.wait_for_ping(DIRECT_LIMIT);
        let address = far.address().to_owned();
        near.wait_for("a direct path", DIRECT_LIMIT, |d| d.direct_paths(&address).ok().filter(|p| !p.is_empty()))?;
        Ok(Box::new(Pair { near, far: far.into(), _root: root }))
    }
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        [vec![self.near.pid()], vec![self.far.borrow().pid()]]
    }

    fn overlay(&self) -> [IpAddr; 2] {
        OVERLAY.map(|ip| ip.parse().expect("an address of the rig"))
    }

    fn direct_paths(&self, site: usize) -> Option<Vec<String>> {
        (site == 0).then(|| self.near.direct_paths(self.far.borrow().address()).ok())?
    }

    fn ask(&self, site: usize, words: &[&str]) -> Option<Value> {
        (site == 0).then(|| self.near.cli(words).ok())?
    }

    fn datagrams(&self) -> Option<Vec<(SystemTime, Vec<u8>)>> {
        let mut far = self.far.borrow_mut();
        far.gather();
        let one = |event: Value| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(event["t"].as_u64()?);
            Some((at, unhex(event["data"].as_str()?)?))
        };
        let all = std::mem::take(&mut far.events);
        Some(all.into_iter().filter(|event| event["event"] == "udp").filter_map(one).collect())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hex_is_nothing() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!((unhex("0g"), unhex("")), (None, Some(vec![])));
    }
}
