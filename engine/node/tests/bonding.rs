//! Our own bonds, over a network that fails in every way it can: a frame a millisecond is sent, and what counts is how
//! long nothing comes. The frames pass through the node, which carries them as a shard would, but for striping.
// spec: bonding, "Gateway acceptance"
#![allow(clippy::unwrap_used)]

#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bond::config::{Bonding, LinkSettings, Mode, Policy, PolicySettings, Settings as Written};
use bond::tx::TxState;
use lab::{Lab, at, ip, network_with};
use node::{LocalSocketId, PlanChange, Settings};
use sim::{HostId, Realm};
use wire::Address;

/// The two addresses of each leaf.
const A: [&str; 2] = ["44.0.1.1", "44.0.11.1"];
const B: [&str; 2] = ["44.0.2.1", "44.0.12.1"];
const ROOT: &str = "44.0.0.1";

fn standard(policy: &str) -> Written {
    Written { default: policy.into(), ..Written::default() }
}

fn custom(base: &str, change: impl FnOnce(&mut PolicySettings)) -> Written {
    let mut policy = PolicySettings { base: Some(base.into()), ..PolicySettings::default() };
    change(&mut policy);
    Written { default: "mine".into(), policies: BTreeMap::from([("mine".into(), policy)]), ..Written::default() }
}

fn settings(written: &Written) -> Settings {
    let (bonding, problems) = Bonding::read(written);
    assert!(problems.is_empty(), "{problems:?}");
    Settings { bonding: Arc::new(bonding), ..Settings::default() }
}

/// Two members with two links each that lead to the other's link of the same number.
fn pair(seed: u64, ours: &Written, theirs: &Written) -> Lab {
    let mut lab = strangers(seed);
    for (leaf, written) in [(0, ours), (1, theirs)] {
        lab.world.with(lab.leaves[leaf], |node, now| node.set_settings(now, settings(written)));
    }
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    stream(&mut lab, 5000, true, |_, _| ());
    lab
}

fn strangers(seed: u64) -> Lab {
    let mut lab = network_with(seed, 2, |_, n| (Realm::INTERNET, at(n)));
    for (leaf, address) in [(0, A[1]), (1, B[1])] {
        lab.world.add_socket(lab.leaves[leaf], &format!("{address}:9993"));
    }
    lab.world.block(ip(A[0]), ip(B[1]));
    lab.world.block(ip(A[1]), ip(B[0]));
    lab
}

fn bonded(seed: u64, policy: &str) -> Lab {
    pair(seed, &standard(policy), &Written::default())
}

/// What leaf 1 got of leaf 0, and the other way round.
#[derive(Debug, Default)]
struct Got {
    sent: u32,
    /// Number and time of arrival, ms since the stream began.
    arrivals: Vec<(u32, u64)>,
}

impl Got {
    /// Longest time between two arrivals within this time.
    fn gap_within(&self, from_ms: u64, to_ms: u64) -> u64 {
        let mut times: Vec<u64> = self.arrivals.iter().map(|a| a.1).filter(|t| (from_ms..=to_ms).contains(t)).collect();
        times.sort();
        times.push(to_ms.min(u64::from(self.sent)));
        times.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap_or(u64::MAX)
    }

    fn gap_ms(&self, from_ms: u64) -> u64 {
        self.gap_within(from_ms, u64::MAX)
    }

    fn lost(&self) -> usize {
        (0..self.sent).filter(|n| !self.arrivals.iter().any(|(number, _)| number == n)).count()
    }

    fn twice(&self) -> usize {
        let mut numbers: Vec<u32> = self.arrivals.iter().map(|(n, _)| *n).collect();
        numbers.sort();
        numbers.windows(2).filter(|w| w[0] == w[1]).count()
    }
}

/// A frame each way, or only from leaf 0, every millisecond for `ms`; before each `happens` is called with the time.
fn stream(lab: &mut Lab, ms: u64, both: bool, mut happens: impl FnMut(&mut Lab, u64)) -> [Got; 2] {
    const DRAIN_MS: u64 = 300;
    let stacks = [lab.stack(0), lab.stack(1)];
    let mut got = [Got::default(), Got::default()];
    for &leaf in &lab.leaves {
        lab.world.host_mut(leaf).delivered.clear();
        lab.world.host_mut(leaf).plan.clear();
    }
    for t in 0..ms + DRAIN_MS {
        happens(lab, t);
        for from in (0..2).filter(|from| t < ms && (both || *from == 0)) {
            let mut ip = vec![0; 24];
            (ip[0], ip[9]) = (0x45, 253); // RFC 3692: for experiments
            ip[20..].copy_from_slice(&(t as u32).to_be_bytes());
            let frame = sim::ethernet(stacks[1 - from].mac, stacks[from].mac, 0x0800, &ip);
            lab.world.tap(lab.leaves[from], lab.network, &frame);
            got[from].sent += 1;
        }
        lab.world.run_ms(1);
        for to in 0..2 {
            for (_, frame) in std::mem::take(&mut lab.world.host_mut(lab.leaves[to]).delivered) {
                if frame.len() == 38 && frame[23] == 253 {
                    got[1 - to].arrivals.push((u32::from_be_bytes(frame[34..].try_into().unwrap()), t));
                }
            }
        }
    }
    got
}

/// Once, at this time.
fn once(at_ms: u64, happens: impl FnOnce(&mut Lab)) -> impl FnMut(&mut Lab, u64) {
    let mut happens = Some(happens);
    move |lab, t| {
        if t == at_ms
            && let Some(happens) = happens.take()
        {
            happens(lab);
        }
    }
}

fn leaf0(lab: &Lab) -> (HostId, Address) {
    (lab.leaves[0], lab.address(1))
}

/// The links of leaf 0's paths to leaf 1, and how far each is trusted.
fn paths(lab: &Lab) -> Vec<(String, TxState)> {
    let (host, peer) = leaf0(lab);
    let bond = lab.world.host(host).node.bond(peer).expect("a bond");
    bond.paths().iter().map(|p| (p.link.name.to_string(), p.tx.state())).collect()
}

/// The number of the link that data of leaf 0 goes by; `None`: by the root.
fn in_use(lab: &Lab) -> Option<usize> {
    let (host, peer) = leaf0(lab);
    let node = &lab.world.host(host).node;
    let id = node.bond(peer).expect("a bond").plan().paths.first()?.id;
    let (_, remote) = node.bond_path(peer, id).expect("of the plan");
    B.iter().position(|b| ip(b) == remote.ip())
}

fn cut(lab: &mut Lab, link: usize) {
    lab.world.block(ip(A[link]), ip(B[link]));
}

fn heal(lab: &mut Lab, link: usize) {
    lab.world.unblock(ip(A[link]), ip(B[link]));
}

fn why(lab: &Lab) -> Vec<String> {
    let (host, peer) = leaf0(lab);
    let bond = lab.world.host(host).node.bond(peer).unwrap();
    bond.decisions().map(|d| format!("{} {}", d.at.mono_us / 1000, d.reason)).collect()
}

const POLICIES: [&str; 5] = ["active-backup", "broadcast", "balance-rr", "balance-xor", "balance-aware"];

#[test]
fn both_links_are_found_within_seconds_and_a_bond_is_made_of_them() {
    for policy in POLICIES {
        let lab = bonded(1, policy);
        let links: Vec<(String, TxState)> = paths(&lab);
        let good = |n: usize| (format!("link-{}", A[n]), TxState::Good);
        assert!(links.len() == 2 && links.contains(&good(0)) && links.contains(&good(1)), "{policy}: {links:?}");
        let (host, peer) = leaf0(&lab);
        let plan = lab.world.host(host).node.bond(peer).unwrap().plan().clone();
        assert_eq!(plan.policy.name(), policy);
        assert_eq!(plan.paths.len(), if policy == "active-backup" { 1 } else { 2 }, "{policy}");
        let other = &lab.world.host(lab.leaves[1]).node;
        assert_eq!(other.bonds().count(), 0, "the other side has none");
    }
}

#[test]
fn a_tunnel_is_no_link_of_a_bond() {
    let mut lab = strangers(9);
    let settings = settings(&standard("balance-xor"));
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings));
    lab.world.add_socket(lab.leaves[0], "44.0.21.1:0");
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    stream(&mut lab, 5000, true, |_, _| ());
    let links: Vec<String> = paths(&lab).into_iter().map(|(link, _)| link).collect();
    assert_eq!(links.len(), 2, "{links:?}");
    assert!(A.iter().all(|a| links.contains(&format!("link-{a}"))), "{links:?}");
}

#[test]
fn a_silent_cut_costs_less_than_150_ms_under_every_policy_one_way_or_both() {
    for policy in POLICIES {
        for one_way in [false, true] {
            let mut lab = bonded(2, policy);
            let link = in_use(&lab).expect("direct");
            let fail = |lab: &mut Lab| match one_way {
                false => cut(lab, link),
                true => lab.world.block_one_way(ip(A[link]), ip(B[link])),
            };
            let [got, _] = stream(&mut lab, 3000, false, once(1000, fail));
            println!("{policy} one way {one_way}: gap {} ms, lost {}", got.gap_ms(900), got.lost());
            let limit = if policy == "broadcast" { 2 } else { 120 };
            assert!(got.gap_ms(900) <= limit, "{policy}: {} ms {:#?}", got.gap_ms(900), why(&lab));
            assert_eq!((got.twice(), in_use(&lab)), (0, Some(1 - link)), "{policy}");
        }
    }
}
