//! Our own bonds, over a network that fails in every way it can: a frame a millisecond is sent, and what counts is how
//! long nothing comes. The frames pass through the node, which carries them as a shard would, but for striping.
// spec: bonding, "Gateway acceptance"
#![allow(clippy::unwrap_used)]

#[path = "../../sim/tests/common/mod.rs"]
mod lab;

use std::collections::BTreeMap;
use std::sync::Arc;

use bond::config::{Bonding, LinkSettings, Mode, PolicySettings, Settings as Written};
use bond::tx::TxState;
use lab::{Lab, at, ip, network_with};
use node::{BondError, LocalSocketId, PlanChange, Settings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sim::{HostId, Link, Realm};
use wire::Address;

/// The two addresses of each leaf.
const A: [&str; 2] = ["44.0.1.1", "44.0.11.1"];
const B: [&str; 2] = ["44.0.2.1", "44.0.12.1"];

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

/// Probes of three seconds, then a load of `load` bytes/s for as long, over one path of leaf 0's bond, beside a stream.
fn test_path(lab: &mut Lab, link: usize, load: Option<f64>) -> Vec<Option<usize>> {
    let (host, peer) = leaf0(lab);
    let order = bond::link_test::Order { length_us: 3_000_000, load, frame: 0 };
    let ids: Vec<_> = {
        let node = &lab.world.host(host).node;
        let leads = |id| node.bond_path(peer, id).is_some_and(|(_, remote)| remote.ip() == ip(B[link]));
        node.bond(peer).unwrap().paths().iter().map(|p| p.id).filter(|id| leads(*id)).collect()
    };
    lab.world.with(host, |node, now| node.test_bond_path(now, peer, ids[0], order, true)).expect("begun");
    let again = lab.world.with(host, |node, now| node.test_bond_path(now, peer, ids[0], order, true));
    assert_eq!(again, Err(node::BondError::Testing));
    let mut forced = Vec::new();
    stream(lab, 8500, false, |lab, t| {
        if t % 1000 == 500 {
            let node = &lab.world.host(host).node;
            let to = node.forced_bond_path(peer).and_then(|id| node.bond_path(peer, id));
            forced.push(to.and_then(|(_, remote)| B.iter().position(|b| ip(b) == remote.ip())));
        }
    });
    forced
}

#[test]
fn a_path_is_tested_alone_and_with_a_load_and_data_goes_back_where_it_was() {
    let mut lab = bonded(17, "active-backup");
    let (host, peer) = leaf0(&lab);
    let (before, other) = (in_use(&lab), 1 - in_use(&lab).expect("direct"));
    let forced = test_path(&mut lab, other, Some(250_000.0));
    let there = Some(other);
    assert_eq!(
        forced[..4],
        [there, there, there, None],
        "data goes by it while it is probed, and not while it is loaded"
    );
    let node = &lab.world.host(host).node;
    let test = node.path_test().expect("a test");
    let (probes, load) = (test.test.probes(), test.test.loaded().expect("a load"));
    assert!(test.test.is_over(lab.world.now().mono_us) && test.aborted.is_none() && test.peer == peer);
    assert_eq!((probes.asked, probes.answered), (60, 60));
    assert!((load.delivered / 250_000.0 - 1.0).abs() < 0.05 && !load.is_full(), "{load:?}");
    // A frame a millisecond.
    assert!((40_000.0..100_000.0).contains(&test.carried()), "{}", test.carried());
    assert_eq!((in_use(&lab), node.forced_bond_path(peer)), (before, None));
    assert!(node.counters().test_frames > 400);
    let padded = |(_, frame): &(_, Vec<u8>)| frame[12..14] == [0x88, 0xb5];
    let seen = lab.world.host(lab.leaves[1]).delivered.iter().filter(|f| padded(f)).count();
    assert_eq!(seen, 0, "the rules of the network let IP and ARP pass");
}

#[test]
fn a_path_that_does_not_answer_is_tested_without_data_and_one_that_falls_silent_loses_it_at_once() {
    let mut lab = bonded(18, "active-backup");
    let (host, other) = (leaf0(&lab).0, 1 - in_use(&lab).expect("direct"));
    cut(&mut lab, other);
    assert!(test_path(&mut lab, other, None).iter().all(Option::is_none));
    let aborted = |lab: &Lab| lab.world.host(host).node.path_test().and_then(|t| t.aborted);
    assert_eq!(aborted(&lab), Some("it does not answer"));
    heal(&mut lab, other);
    stream(&mut lab, 9000, false, |_, _| ());
    let (peer, mut gone) = (leaf0(&lab).1, None);
    let order = bond::link_test::Order { length_us: 20_000_000, load: None, frame: 0 };
    let id = lab.world.host(host).node.bond(peer).unwrap().plan().paths[0].id;
    lab.world.with(host, |node, now| node.test_bond_path(now, peer, id, order, true)).expect("begun");
    let link = in_use(&lab).expect("direct");
    stream(&mut lab, 3000, false, |lab, t| {
        if t == 1000 {
            cut(lab, link);
        }
        let forced = lab.world.host(host).node.forced_bond_path(peer);
        gone = gone.or((t > 1000 && forced.is_none()).then_some(t));
    });
    assert!(gone.is_some_and(|t| t < 1650), "{gone:?}");
    assert_eq!((aborted(&lab), in_use(&lab)), (Some("it fell silent"), Some(1 - link)));
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

/// The socket of one of leaf 0's links.
fn socket(lab: &Lab, link: usize) -> LocalSocketId {
    let sockets = &lab.world.host(lab.leaves[0]).sockets;
    *sockets.iter().find(|(_, local)| local.ip() == ip(A[link])).expect("it is there").0
}

fn unplug(lab: &mut Lab, link: usize) {
    let (host, id) = (lab.leaves[0], socket(lab, link));
    lab.world.remove_socket(host, id);
}

fn plug(lab: &mut Lab, link: usize) {
    lab.world.add_socket(lab.leaves[0], &format!("{}:9993", A[link]));
}

#[test]
fn an_address_that_is_lost_costs_nothing_and_no_frame_goes_through_a_root() {
    for policy in POLICIES {
        let mut lab = bonded(3, policy);
        let link = in_use(&lab).expect("direct");
        let relayed = lab.world.host(lab.root).node.counters().relayed;
        let [got, _] = stream(&mut lab, 2000, false, once(1000, |lab| unplug(lab, link)));
        assert!(got.gap_ms(900) <= 20, "{policy}: {} ms", got.gap_ms(900));
        // On its way when the socket was closed.
        assert!(got.lost() <= 1, "{policy}: {}", got.lost());
        assert_eq!(lab.world.host(lab.root).node.counters().relayed, relayed, "{policy}");
    }
}

#[test]
fn what_the_kernel_refuses_to_send_is_noticed_at_once() {
    let mut lab = bonded(4, "active-backup");
    let link = in_use(&lab).expect("direct");
    let id = socket(&lab, link);
    let [got, _] = stream(&mut lab, 1000, false, |lab, t| {
        if t == 500 {
            cut(lab, link);
            let remote = format!("{}:9993", B[link]).parse().unwrap();
            lab.world.with(lab.leaves[0], |node, now| node.handle_send_refused(now, id, remote));
        }
    });
    assert!(got.gap_ms(400) <= 2, "{} ms", got.gap_ms(400));
    assert_eq!(in_use(&lab), Some(1 - link));
}

#[test]
fn a_link_that_was_just_learned_is_left_as_soon_as_any_other() {
    let mut lab = bonded(5, "active-backup");
    unplug(&mut lab, 0);
    stream(&mut lab, 2000, false, |_, _| ());
    assert_eq!(in_use(&lab), Some(1));
    plug(&mut lab, 0);
    let back = lab.world.run_until(5000, |w| w.host(lab.leaves[0]).node.gauges().bond_paths == 2);
    assert!(back, "it is found again");
    lab.world.run_ms(1000);
    let [got, _] = stream(&mut lab, 1000, false, once(300, |lab| cut(lab, 1)));
    assert!(got.gap_ms(200) <= 150, "{} ms {:#?}", got.gap_ms(200), why(&lab));
}

#[test]
fn a_path_that_brings_junk_and_nothing_else_is_left_all_the_same() {
    let mut lab = bonded(6, "active-backup");
    let link = in_use(&lab).expect("direct");
    let (host, id) = (lab.leaves[0], socket(&lab, link));
    let [got, _] = stream(&mut lab, 2000, false, |lab, t| {
        if t == 500 {
            cut(lab, link);
        }
        if t > 500 && t % 10 == 0 {
            let remote = format!("{}:9993", B[link]).parse().unwrap();
            lab.world.with(host, |node, now| node.handle_datagram(now, id, remote, &mut [t as u8; 60]));
        }
    });
    assert!(got.gap_ms(400) <= 150, "{} ms", got.gap_ms(400));
}

#[test]
fn a_link_that_returns_carries_data_after_its_up_delay() {
    let links = |p: &mut PolicySettings| {
        p.up_delay = Some(2000);
        let mode = |mode: &str| LinkSettings { mode: Some(mode.into()), ..LinkSettings::default() };
        p.links = [("link-44.0.1.1".into(), mode("primary")), ("link-44.0.11.1".into(), mode("spare"))].into();
    };
    for unplugged in [false, true] {
        let mut lab = pair(7, &custom("active-backup", links), &Written::default());
        assert_eq!(in_use(&lab), Some(0));
        let mut used = Vec::new();
        stream(&mut lab, 7000, false, |lab, t| {
            match (t, unplugged) {
                (500, false) => cut(lab, 0),
                (500, true) => unplug(lab, 0),
                (1500, false) => heal(lab, 0),
                (1500, true) => plug(lab, 0),
                _ => {}
            }
            used.push(in_use(lab));
        });
        assert_eq!((used[1400], used[3400]), (Some(1), Some(1)), "not before two seconds");
        let back = used.iter().skip(1500).position(|link| *link == Some(0)).expect("it is back");
        assert!((2000..=3000).contains(&back), "unplugged {unplugged}: after {back} ms {:#?}", why(&lab));
    }
}

#[test]
fn a_link_that_flaps_gets_no_data_after_the_third_time_and_the_other_one_does_not_notice() {
    for unplugged in [false, true] {
        let links = |p: &mut PolicySettings| {
            let mode = |mode: &str| LinkSettings { mode: Some(mode.into()), ..LinkSettings::default() };
            p.links = [("link-44.0.1.1".into(), mode("primary")), ("link-44.0.11.1".into(), mode("spare"))].into();
        };
        let mut lab = pair(8, &custom("active-backup", links), &Written::default());
        let mut used = Vec::new();
        let [got, _] = stream(&mut lab, 30_000, false, |lab, t| {
            if t % 1000 == 0 && t < 30_000 {
                match ((t / 1000) % 2 == 0, unplugged) {
                    (true, false) => cut(lab, 0),
                    (true, true) => unplug(lab, 0),
                    (false, false) => heal(lab, 0),
                    (false, true) => plug(lab, 0),
                }
            }
            used.push(in_use(lab));
        });
        assert!(got.gap_ms(1) <= 150, "unplugged {unplugged}: {} ms {:#?}", got.gap_ms(1), why(&lab));
        let later = used.iter().skip(7000).filter(|link| **link != Some(1)).count();
        assert_eq!(later, 0, "unplugged {unplugged}: {:#?}", why(&lab));
    }
}

#[test]
fn with_all_direct_paths_dead_data_goes_through_the_root_and_comes_back() {
    for policy in POLICIES {
        let mut lab = bonded(9, policy);
        let [got, _] = stream(&mut lab, 8000, false, |lab, t| match t {
            1000 => (0..2).for_each(|link| cut(lab, link)),
            5000 => (0..2).for_each(|link| heal(lab, link)),
            _ => {}
        });
        println!("{policy}: relay after {} ms", got.gap_ms(900));
        assert!(got.gap_ms(900) <= 2500, "{policy}: {} ms {:#?}", got.gap_ms(900), why(&lab));
        assert!(in_use(&lab).is_some(), "{policy}: direct again {:#?}", why(&lab));
    }
}

#[test]
fn a_path_ten_times_as_slow_stays_in_use_or_is_left_without_a_gap() {
    for policy in ["active-backup", "balance-xor"] {
        let mut lab = bonded(10, policy);
        let link = in_use(&lab).expect("direct");
        let slow = |lab: &mut Lab| lab.world.set_link(ip(A[link]), ip(B[link]), Link::delay_ms(100));
        let [got, _] = stream(&mut lab, 3000, false, once(1000, slow));
        assert!(got.gap_ms(900) <= 150, "{policy}: {} ms", got.gap_ms(900));
        assert!(got.lost() <= 100, "{policy}: {}", got.lost());
    }
}

#[test]
fn half_the_packets_lost_on_a_path_does_not_stop_the_others() {
    let mut lab = bonded(11, "broadcast");
    let lossy = |lab: &mut Lab| {
        lab.world.set_link(ip(A[0]), ip(B[0]), Link { loss_ppm: 300_000, ..Link::delay_ms(10) });
    };
    let [got, _] = stream(&mut lab, 5000, false, once(100, lossy));
    assert_eq!((got.lost(), got.twice()), (0, 0), "each frame once");
}

#[test]
fn a_new_link_joins_within_seconds() {
    for policy in ["active-backup", "balance-aware"] {
        let mut lab = bonded(12, policy);
        unplug(&mut lab, 1);
        lab.world.run_ms(3000);
        assert_eq!(paths(&lab).len(), 1);
        let start = lab.world.now().ms();
        plug(&mut lab, 1);
        let leaf = lab.leaves[0];
        let found = lab.world.run_until(5000, |w| w.host(leaf).node.gauges().bond_paths == 2);
        assert!(found && lab.world.now().ms() - start < 2000, "after {} ms", lab.world.now().ms() - start);
        lab.world.run_ms(3000);
        assert!(paths(&lab).iter().all(|p| p.1 == TxState::Good), "{:?}", paths(&lab));
    }
}

#[test]
fn two_bonds_towards_each_other_both_fail_over() {
    let mut lab = pair(13, &standard("active-backup"), &standard("balance-xor"));
    let link = in_use(&lab).expect("direct");
    let got = stream(&mut lab, 3000, true, once(1000, |lab| cut(lab, link)));
    for got in got {
        assert!(got.gap_ms(900) <= 120, "{} ms", got.gap_ms(900));
        assert_eq!(got.twice(), 0);
    }
}

#[test]
fn a_peer_that_acknowledges_nothing_but_echo_is_not_taken_for_dead() {
    // As when it does not take us for a member of the network any more.
    let mut lab = bonded(14, "active-backup");
    lab.update_member(0, serde_json::json!({ "authorized": false }));
    lab.world.run_ms(5000);
    stream(&mut lab, 5000, false, |_, _| ());
    lab.world.run_ms(3000);
    assert!(in_use(&lab).is_some() && paths(&lab).iter().all(|p| p.1 == TxState::Good), "{:#?}", why(&lab));
}

/// Bytes of UDP payload that leaf 0 and leaf 1 sent and got within a second, on average, while nothing is to be said.
#[test]
fn an_idle_bond_of_two_paths_costs_less_than_a_kilobyte_a_second() {
    for both in [false, true] {
        let theirs = if both { standard("active-backup") } else { Written::default() };
        let mut lab = pair(15, &standard("balance-aware"), &theirs);
        lab.world.run_ms(10_000);
        let before = lab.world.datagrams();
        lab.world.run_ms(60_000);
        let per_s = (lab.world.datagrams() - before) as f64 / 60.0;
        // ECHO is 28 bytes and its OK 37, and each HELLO 137 and 59.
        println!("both {both}: {per_s:.1} datagrams/s");
        assert!(per_s < 15.0, "{per_s} datagrams/s, of 33 bytes on average");
    }
}

#[test]
fn the_operator_rotates_and_tests_and_is_told_what_cannot_be() {
    let mut lab = bonded(16, "active-backup");
    let (host, peer) = leaf0(&lab);
    let link = in_use(&lab).unwrap();
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, peer)), Ok(true));
    assert_eq!(in_use(&lab), Some(1 - link));
    let stranger = Address::from_u64(0x99_0000_0001);
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, stranger)), Err(BondError::NoBond));
    let ids: Vec<_> = lab.world.host(host).node.bond(peer).unwrap().paths().iter().map(|p| p.id).collect();
    for id in ids {
        lab.world.host_mut(host).plan.clear();
        assert_eq!(lab.world.with(host, |node, now| node.force_bond_path(now, peer, Some(id))), Ok(()));
        let told = lab.world.host(host).plan.iter().rev().find_map(|change| match change {
            PlanChange::Bond { bond: Some(bond), .. } => Some(bond.clone()),
            _ => None,
        });
        let told = told.expect("the shards are told");
        assert_eq!(told.plan.paths.iter().map(|p| p.id).collect::<Vec<_>>(), [id]);
        assert_eq!(told.routes.len(), 1);
    }
    assert_eq!(lab.world.with(host, |node, now| node.force_bond_path(now, peer, None)), Ok(()));
    let mut lab = bonded(16, "balance-xor");
    assert_eq!(lab.world.with(host, |node, now| node.rotate_bond(now, peer)), Err(BondError::Policy));
}

#[test]
fn settings_take_effect_at_once_and_back_again() {
    let mut lab = bonded(17, "active-backup");
    let (host, peer) = leaf0(&lab);
    let set =
        |lab: &mut Lab, written: &Written| lab.world.with(host, |node, now| node.set_settings(now, settings(written)));
    let [got, _] = stream(&mut lab, 4000, false, |lab, t| match t {
        1000 => set(lab, &standard("balance-xor")),
        2000 => set(lab, &Written::default()),
        3000 => set(lab, &standard("broadcast")),
        _ => {}
    });
    assert!(got.gap_ms(500) <= 2 && got.lost() == 0, "{} ms", got.gap_ms(500));
    let plan = lab.world.host(host).node.bond(peer).unwrap().plan().clone();
    assert_eq!((plan.policy.name(), plan.paths.len()), ("broadcast", 2));
}

#[test]
fn two_of_us_agree_on_one_path_and_stay_there() {
    for seed in 0..5 {
        let negotiates = custom("active-backup", |p| {
            p.negotiate = Some(true);
            p.active_reselect = Some("failure".into());
        });
        let mut lab = pair(100 + seed, &negotiates, &negotiates);
        let (host, peer) = leaf0(&lab);
        // Apart, whatever they chose.
        if in_use(&lab) == used_by_other(&lab) {
            lab.world.with(host, |node, now| node.rotate_bond(now, peer)).unwrap();
        }
        assert_ne!(in_use(&lab), used_by_other(&lab));
        let mut changes = Vec::new();
        stream(&mut lab, 100_000, true, |lab, t| {
            let now = (in_use(lab), used_by_other(lab));
            if changes.last().is_none_or(|(_, last)| *last != now) {
                changes.push((t, now));
            }
        });
        let (_, last) = changes.last().unwrap();
        assert!(last.0 == last.1 && changes.len() <= 4, "seed {seed}: {changes:?}");
        let sent: u64 = (0..2).map(|n| lab.world.host(lab.leaves[n]).node.counters().negotiations_sent).sum();
        assert!(sent <= 8, "{sent} requests");
    }
}

/// The link that leaf 1 sends data by.
fn used_by_other(lab: &Lab) -> Option<usize> {
    let (node, peer) = (&lab.world.host(lab.leaves[1]).node, lab.address(0));
    let id = node.bond(peer)?.plan().paths.first()?.id;
    let (_, remote) = node.bond_path(peer, id)?;
    A.iter().position(|a| ip(a) == remote.ip())
}

#[test]
fn without_a_policy_not_one_packet_differs() {
    let run = |written: Option<Written>| {
        let mut lab = strangers(20);
        for (leaf, written) in lab.leaves.clone().into_iter().zip([written.clone(), written]) {
            if let Some(written) = written {
                lab.world.with(leaf, |node, now| node.set_settings(now, settings(&written)));
            }
        }
        lab.join_all(10_000);
        lab.first_ping(0, 1, 56, 5000);
        stream(&mut lab, 2000, true, once(500, |lab| cut(lab, 0)));
        lab.world.run_ms(100_000);
        (lab.world.trace(), lab.world.datagrams())
    };
    let never_told = run(None);
    assert_eq!(run(Some(Written::default())), never_told);
    // A policy that nobody is given.
    let unused = Written { default: "none".into(), ..custom("balance-xor", |_| ()) };
    assert_eq!(run(Some(unused)), never_told);
    assert_ne!(run(Some(standard("active-backup"))), never_told);
}

#[test]
fn compat_bonds_ask_for_reports_and_get_them_and_two_of_us_stop_when_one_does() {
    let compat = Written { mode: Mode::Compat, ..standard("balance-xor") };
    let mut lab = pair(21, &compat, &Written::default());
    stream(&mut lab, 30_000, true, |_, _| ());
    let (host, peer) = leaf0(&lab);
    let reports = |lab: &Lab, n: usize| lab.world.host(lab.leaves[n]).node.counters().qos_sent;
    assert!(reports(&lab, 0) > 2 && reports(&lab, 1) > 2, "{} {}", reports(&lab, 0), reports(&lab, 1));
    let bond = lab.world.host(host).node.bond(peer).unwrap();
    assert_eq!(bond.plan().paths.len(), 2, "it is whole after its trial: {:#?}", why(&lab));
    for path in bond.paths().iter() {
        let ms = path.reported.mean().expect("latency by the remote's reports");
        assert!((9.0..12.0).contains(&ms), "{ms} ms");
    }
    lab.world.with(host, |node, now| node.set_settings(now, Settings::default()));
    for _ in 0..7 {
        stream(&mut lab, 500, true, |_, _| ());
        lab.world.run_ms(100_000);
    }
    let before = (reports(&lab, 0), reports(&lab, 1));
    stream(&mut lab, 5000, true, |_, _| ());
    assert_eq!((reports(&lab, 0), reports(&lab, 1)), before, "nobody keeps the other at it");
}

#[test]
fn whatever_is_cut_and_healed_there_is_a_path_while_one_answers() {
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let policy = POLICIES[seed as usize % POLICIES.len()];
        let mut lab = bonded_lightly(1000 + seed, policy);
        let (host, peer) = leaf0(&lab);
        for _ in 0..10 {
            let link = (rng.next_u64() % 2) as usize;
            let here = lab.world.host(host).sockets.values().any(|s| s.ip() == ip(A[link]));
            match rng.next_u64() % 5 {
                0 => cut(&mut lab, link),
                1 => lab.world.block_one_way(ip(A[link]), ip(B[link])),
                2 | 3 => heal(&mut lab, link),
                _ if here => unplug(&mut lab, link),
                _ => plug(&mut lab, link),
            }
            for _ in 0..5 + rng.next_u64() % 100 {
                trickle(&mut lab, 10);
                let Some(bond) = lab.world.host(host).node.bond(peer) else { continue };
                let now = lab.world.now().mono_us;
                let works = bond.paths().iter().any(|p| {
                    let fresh = p.tx.last_ack().is_some_and(|at| now - at < 1_000_000);
                    fresh && p.tx.state() == TxState::Good
                });
                assert!(!works || !bond.plan().paths.is_empty(), "seed {seed} {policy}: {:#?}", why(&lab));
            }
        }
        for (link, address) in A.into_iter().enumerate().take(2) {
            heal(&mut lab, link);
            if !lab.world.host(host).sockets.values().any(|s| s.ip() == ip(address)) {
                plug(&mut lab, link);
            }
        }
        (0..1000).for_each(|_| trickle(&mut lab, 10));
        assert!(in_use(&lab).is_some(), "seed {seed} {policy}: {:#?}", why(&lab));
    }
}

/// A frame from leaf 0, and some time.
fn trickle(lab: &mut Lab, ms: u64) {
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
fn bonded_lightly(seed: u64, policy: &str) -> Lab {
    let mut lab = strangers(seed);
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings(&standard(policy))));
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    (0..200).for_each(|_| trickle(&mut lab, 10));
    lab
}

fn tells_the_shards_to_ask(lab: &Lab) -> Vec<bool> {
    let told = lab.world.host(lab.leaves[0]).plan.iter().filter_map(|change| match change {
        PlanChange::Bond { bond: Some(bond), .. } => Some(!bond.plan.mute),
        _ => None,
    });
    let mut told: Vec<bool> = told.collect();
    told.dedup();
    told
}

#[test]
fn frames_ask_for_acknowledgement_only_once_the_peer_gave_one() {
    let mut lab = strangers(22);
    lab.world.with(lab.leaves[0], |node, now| node.set_settings(now, settings(&standard("balance-xor"))));
    lab.join_all(10_000);
    assert!(lab.first_ping(0, 1, 56, 5000).is_some());
    lab.world.run_ms(2000);
    assert_eq!(tells_the_shards_to_ask(&lab), [false, true]);
}
