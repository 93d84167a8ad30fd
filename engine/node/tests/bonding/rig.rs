//! Two members with two links each, what can happen to these links, and what comes through meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use bond::config::{Bonding, PolicySettings, Settings as Written};
use bond::tx::TxState;
use node::{LocalSocketId, Settings};
use sim::{HostId, Realm};
use wire::Address;

use crate::lab::{Lab, at, ip, network_with};
pub use crate::stream::{Got, stream};

/// The two addresses of each leaf.
pub const A: [&str; 2] = ["44.0.1.1", "44.0.11.1"];
pub const B: [&str; 2] = ["44.0.2.1", "44.0.12.1"];

pub fn standard(policy: &str) -> Written {
    Written { default: policy.into(), ..Written::default() }
}

pub fn custom(base: &str, change: impl FnOnce(&mut PolicySettings)) -> Written {
    let mut policy = PolicySettings { base: Some(base.into()), ..PolicySettings::default() };
    change(&mut policy);
    Written { default: "mine".into(), policies: BTreeMap::from([("mine".into(), policy)]), ..Written::default() }
}

pub fn settings(written: &Written) -> Settings {
    let (bonding, problems) = Bonding::read(written);
    assert!(problems.is_empty(), "{problems:?}");
    Settings { bonding: Arc::new(bonding), ..Settings::default() }
}

/// Two members with two links each that lead to the other's link of the same number.
pub fn pair(seed: u64, ours: &Written, theirs: &Written) -> Lab {
    let mut lab = strangers(seed);
    for (leaf, written) in [(0, ours), (1, theirs)] {
        lab.world.with(lab.leaves[leaf], |node, now| node.set_settings(now, settings(written)));
    }
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    stream(&mut lab, 5000, true, |_, _| ());
    lab
}

pub fn strangers(seed: u64) -> Lab {
    let mut lab = network_with(seed, 2, |_, n| (Realm::INTERNET, at(n)));
    for (leaf, address) in [(0, A[1]), (1, B[1])] {
        lab.world.add_socket(lab.leaves[leaf], &format!("{address}:9993"));
    }
    lab.world.block(ip(A[0]), ip(B[1]));
    lab.world.block(ip(A[1]), ip(B[0]));
    lab
}

pub fn bonded(seed: u64, policy: &str) -> Lab {
    pair(seed, &standard(policy), &Written::default())
}

impl Got {
    /// Longest time between two arrivals within this time.
    pub fn gap_within(&self, from_ms: u64, to_ms: u64) -> u64 {
        let mut times: Vec<u64> = self.arrivals.iter().map(|a| a.1).filter(|t| (from_ms..=to_ms).contains(t)).collect();
        times.sort();
        times.push(to_ms.min(u64::from(self.sent)));
        times.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap_or(u64::MAX)
    }

    pub fn gap_ms(&self, from_ms: u64) -> u64 {
        self.gap_within(from_ms, u64::MAX)
    }
}

/// Once, at this time.
pub fn once(at_ms: u64, happens: impl FnOnce(&mut Lab)) -> impl FnMut(&mut Lab, u64) {
    let mut happens = Some(happens);
    move |lab, t| {
        if t == at_ms
            && let Some(happens) = happens.take()
        {
            happens(lab);
        }
    }
}

pub fn leaf0(lab: &Lab) -> (HostId, Address) {
    (lab.leaves[0], lab.address(1))
}

/// The links of leaf 0's paths to leaf 1, and how far each is trusted.
pub fn paths(lab: &Lab) -> Vec<(String, TxState)> {
    let (host, peer) = leaf0(lab);
    let bond = lab.world.host(host).node.bond(peer).expect("a bond");
    bond.paths().iter().map(|p| (p.link.name.to_string(), p.tx.state())).collect()
}

/// The number of the link that data of leaf 0 goes by; `None`: by the root.
pub fn in_use(lab: &Lab) -> Option<usize> {
    let (host, peer) = leaf0(lab);
    let node = &lab.world.host(host).node;
    let id = node.bond(peer).expect("a bond").plan().paths.first()?.id;
    let (_, remote) = node.bond_path(peer, id).expect("of the plan");
    B.iter().position(|b| ip(b) == remote.ip())
}

pub fn cut(lab: &mut Lab, link: usize) {
    lab.world.block(ip(A[link]), ip(B[link]));
}

pub fn heal(lab: &mut Lab, link: usize) {
    lab.world.unblock(ip(A[link]), ip(B[link]));
}

pub fn why(lab: &Lab) -> Vec<String> {
    let (host, peer) = leaf0(lab);
    let bond = lab.world.host(host).node.bond(peer).unwrap();
    bond.decisions().map(|d| format!("{} {}", d.at.mono_us / 1000, d.reason)).collect()
}

pub const POLICIES: [&str; 5] = ["active-backup", "broadcast", "balance-rr", "balance-xor", "balance-aware"];

/// The socket of one of leaf 0's links.
pub fn socket(lab: &Lab, link: usize) -> LocalSocketId {
    let sockets = &lab.world.host(lab.leaves[0]).sockets;
    *sockets.iter().find(|(_, local)| local.ip() == ip(A[link])).expect("it is there").0
}

pub fn unplug(lab: &mut Lab, link: usize) {
    let (host, id) = (lab.leaves[0], socket(lab, link));
    lab.world.remove_socket(host, id);
}

pub fn plug(lab: &mut Lab, link: usize) {
    lab.world.add_socket(lab.leaves[0], &format!("{}:9993", A[link]));
}

/// The link that leaf 1 sends data by.
pub fn used_by_other(lab: &Lab) -> Option<usize> {
    let (node, peer) = (&lab.world.host(lab.leaves[1]).node, lab.address(0));
    let id = node.bond(peer)?.plan().paths.first()?.id;
    let (_, remote) = node.bond_path(peer, id)?;
    A.iter().position(|a| ip(a) == remote.ip())
}

/// A frame from leaf 0, and some time.
pub fn trickle(lab: &mut Lab, ms: u64) {
    let frame = sim::ethernet(lab.stack(1).mac, lab.stack(0).mac, 0x0800, &[0x45; 24]);
    lab.world.tap(lab.leaves[0], lab.network, &frame);
    lab.world.run_ms(ms);
    lab.leaves.clone().into_iter().for_each(|leaf| {
        let host = lab.world.host_mut(leaf);
        host.delivered.clear();
        host.plan.clear();
    });
}

/// As [`bonded`], with less traffic.
pub fn bonded_lightly(seed: u64, policy: &str) -> Lab {
    let mut lab = strangers(seed);
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings(&standard(policy))));
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    (0..200).for_each(|_| trickle(&mut lab, 10));
    lab
}
