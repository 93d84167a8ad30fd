//! ICMP errors about what a bond sent: true ones move its data at once, forged ones cost nothing. Two leaves with two links
//! each, a frame a millisecond from the first to the second, and a router that says what it refuses as seldom as Linux does.
#![allow(clippy::unwrap_used)]

#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use std::net::SocketAddr;
use std::sync::Arc;

use bond::Reason;
use bond::config::{Bonding, Settings as Written};
use bond::tx::TxState;
use lab::{Lab, at, ip, network_with};
use node::{LocalSocketId, Node, Settings};
use sim::Realm;
use wire::icmp::Cause;

/// The two addresses of each leaf.
const A: [&str; 2] = ["44.0.1.1", "44.0.11.1"];
const B: [&str; 2] = ["44.0.2.1", "44.0.12.1"];

/// Leaf 0 bonds with leaf 1, whose link of the same number each of its links leads to.
fn bonded(seed: u64, policy: &str) -> Lab {
    let mut lab = network_with(seed, 2, |_, n| (Realm::INTERNET, at(n)));
    for (leaf, address) in [(0, A[1]), (1, B[1])] {
        lab.world.add_socket(lab.leaves[leaf], &format!("{address}:9993"));
    }
    lab.world.block(ip(A[0]), ip(B[1]));
    lab.world.block(ip(A[1]), ip(B[0]));
    let (bonding, problems) = Bonding::read(&Written { default: policy.into(), ..Written::default() });
    assert!(problems.is_empty(), "{problems:?}");
    let settings = Settings { bonding: Arc::new(bonding), ..Settings::default() };
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings));
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    stream(&mut lab, 5000, |_, _| ());
    if policy != "none" {
        assert_eq!(states(&lab), [TxState::Good; 2], "{policy}");
    }
    lab
}

/// A frame every millisecond for `ms`; before each `happens` is called with the time. When the frames arrived.
fn stream(lab: &mut Lab, ms: u64, mut happens: impl FnMut(&mut Lab, u64)) -> Vec<u64> {
    let (stacks, leaves) = ([lab.stack(0), lab.stack(1)], lab.leaves.clone());
    let mut arrivals = Vec::new();
    lab.world.host_mut(leaves[1]).delivered.clear();
    for t in 0..ms {
        happens(lab, t);
        let mut packet = vec![0; 24];
        (packet[0], packet[9]) = (0x45, 253); // RFC 3692: for experiments
        lab.world.tap(leaves[0], lab.network, &sim::ethernet(stacks[1].mac, stacks[0].mac, 0x0800, &packet));
        lab.world.run_ms(1);
        let delivered = std::mem::take(&mut lab.world.host_mut(leaves[1]).delivered);
        arrivals.extend(delivered.iter().filter(|(_, frame)| frame.len() == 38 && frame[23] == 253).map(|_| t));
    }
    arrivals
}

fn longest_gap(arrivals: &[u64]) -> u64 {
    arrivals.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(u64::MAX)
}

fn node(lab: &Lab) -> &Node {
    &lab.world.host(lab.leaves[0]).node
}

fn states(lab: &Lab) -> Vec<TxState> {
    node(lab).bond(lab.address(1)).expect("a bond").paths().iter().map(|p| p.tx.state()).collect()
}

/// The paths of the bond: from which socket, to where. Those in use first.
fn ways(lab: &Lab) -> Vec<(LocalSocketId, SocketAddr)> {
    let (node, peer) = (node(lab), lab.address(1));
    let bond = node.bond(peer).expect("a bond");
    let planned = |id| bond.plan().paths.iter().any(|p| p.id == id);
    let mut ids: Vec<_> = bond.paths().iter().map(|p| p.id).collect();
    ids.sort_by_key(|id| !planned(*id));
    ids.iter().map(|id| node.bond_path(peer, *id).expect("a path of it")).collect()
}

fn link_to(remote: SocketAddr) -> usize {
    B.iter().position(|b| ip(b) == remote.ip()).expect("one of the two")
}

#[test]
fn what_a_router_refuses_goes_by_the_other_link_within_a_few_milliseconds() {
    for policy in ["active-backup", "balance-xor"] {
        let (mut gaps, mut asked) = (Vec::new(), 0);
        // Every fifth frame asks for acknowledgement. An error about another one is followed by a question.
        for begin in 1000..1005 {
            let mut lab = bonded(1, policy);
            let peer = lab.address(1);
            let bond = node(&lab).bond(peer).unwrap();
            let id = bond.paths().iter().max_by_key(|p| p.sent_packets).map(|p| p.id).unwrap();
            let link = link_to(node(&lab).bond_path(peer, id).unwrap().1);
            let arrivals = stream(&mut lab, 2000, |lab, t| {
                if t == begin {
                    lab.world.reject(ip(A[link]), ip(B[link]));
                }
            });
            gaps.push(longest_gap(&arrivals));
            let why: Vec<Reason> = node(&lab).bond(peer).unwrap().decisions().map(|d| d.reason).collect();
            assert!(why.contains(&Reason::Unreachable { path: id, cause: Cause::Host }), "{policy}: {why:?}");
            assert_eq!(node(&lab).counters().bond_unreachable, 1, "{policy}");
            asked += node(&lab).counters().bond_unreachable_asked;
            assert!(states(&lab).contains(&TxState::Down), "{policy}: no answer confirmed it: {:?}", states(&lab));
            lab.world.unblock(ip(A[link]), ip(B[link]));
            stream(&mut lab, 10_000, |_, _| ());
            assert_eq!(states(&lab), [TxState::Good; 2], "{policy}: it is taken up again");
        }
        println!("{policy}: gaps {gaps:?} ms, asked {asked}");
        assert!(gaps.iter().all(|gap| *gap <= 5) && (1..=5).contains(&asked), "{policy}: {gaps:?}, {asked}");
    }
}

#[test]
fn forged_errors_without_end_do_not_stop_the_data_nor_move_it() {
    let mut lab = bonded(2, "active-backup");
    let ways_before = ways(&lab);
    let decisions = |lab: &Lab| node(lab).bond(lab.address(1)).unwrap().decisions_total();
    let (before, probes) = (decisions(&lab), node(&lab).counters().bond_probes);
    let arrivals = stream(&mut lab, 5000, |lab, t| {
        let leaf = lab.leaves[0];
        for (n, (socket, remote)) in ways(lab).into_iter().enumerate() {
            for copy in 0..20 {
                let named = (copy > 9).then_some(t << 20 | copy << 4 | n as u64);
                lab.world.with(leaf, |node, now| node.handle_unreachable(now, socket, remote, named, Cause::Port));
            }
        }
    });
    assert!(longest_gap(&arrivals) <= 2, "{}", longest_gap(&arrivals));
    assert_eq!((ways(&lab), decisions(&lab)), (ways_before, before));
    let counters = node(&lab).counters();
    assert_eq!(counters.bond_unreachable, 0);
    assert!(counters.bond_unreachable_asked <= 2 * 26, "{}", counters.bond_unreachable_asked);
    assert!(counters.bond_unreachable_dropped > 190_000 && counters.bond_probes - probes <= 2 * 26 + 12);
}

#[test]
fn without_a_bond_or_about_others_an_error_sends_nothing() {
    let mut lab = bonded(3, "none");
    let (leaf, before) = (lab.leaves[0], lab.world.datagrams());
    let remotes: Vec<SocketAddr> = B.iter().map(|b| format!("{b}:9993").parse().unwrap()).collect();
    let sockets: Vec<LocalSocketId> = lab.world.host(leaf).sockets.keys().copied().collect();
    for (socket, remote) in sockets.iter().flat_map(|s| remotes.iter().map(move |r| (*s, *r))) {
        lab.world.with(leaf, |node, now| node.handle_unreachable(now, socket, remote, Some(1), Cause::Host));
    }
    assert_eq!((lab.world.datagrams(), node(&lab).counters().bond_unreachable_dropped), (before, 4));
}
