//! A gateway that bonds with a real core over two links, under each policy: both links carry what the policy says, timing
//! reports go both ways, and a link that is cut, silently or with a word, loses its traffic to the other one.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lab::netns::Namespace;
use lab::reference::ReferenceNode;
use lab::{Error, Result};
use serde_json::{Value, json};
use support::soon;
use support::two_links::TwoLinks;

/// The core counts streams that come to any port.
const PORT: u16 = 9001;
const FLOWS: usize = 16;
/// Failover interval of the real core's bond, ms.
const FAILOVER_MS: u64 = 600;

/// What the real core received of one stream.
#[derive(Debug)]
struct Stream {
    lost: u64,
    duplicates: u64,
    longest_gap: u64,
    /// By link.
    links: [u64; 2],
}

/// Sends `count` datagrams of a stream from the gateway's host, one a millisecond, in turn from all flows.
fn send(to: SocketAddr, stream: u32, count: u32) -> Result<()> {
    let failed = |e: std::io::Error| Error::Unusable(format!("a stream: {e}"));
    let sockets: Vec<UdpSocket> =
        (0..FLOWS).map(|_| UdpSocket::bind("0.0.0.0:0")).collect::<std::io::Result<_>>().map_err(failed)?;
    let start = Instant::now();
    for number in 0..count {
        // spec: the reference node's README, "Stream payload"
        let mut payload = [0; 200];
        payload[..4].copy_from_slice(b"RFS1");
        payload[4..8].copy_from_slice(&stream.to_be_bytes());
        payload[8..12].copy_from_slice(&number.to_be_bytes());
        let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_err(|e| failed(e.into()))?;
        let ns = clock.tv_sec() as u64 * 1_000_000_000 + clock.tv_nsec() as u64;
        payload[12..20].copy_from_slice(&ns.to_be_bytes());
        let due = start + Duration::from_millis(number.into());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        sockets[number as usize % FLOWS].send_to(&payload, to).map_err(failed)?;
    }
    Ok(())
}

/// The links between a gateway and a real core that both bond by `policy`, and one path alive on each.
fn bonded(name: &str, policy: &str) -> TwoLinks {
    let settings = json!({"defaultBondingPolicy": policy});
    let mut links = TwoLinks::new(name, &settings, Some(policy), &[&format!("failover_interval={FAILOVER_MS}")]);
    links.bonded();
    let peer = links.real.address().to_owned();
    let alive = || links.hawser.peer(&peer).ok().flatten().is_some_and(|p| p["numAliveLinks"] == 2);
    assert!(soon(alive), "{:?}", links.hawser.peer(&peer));
    links
}

/// A stream to the real core, which is told to do `meanwhile` after a third of it.
fn stream(links: &mut TwoLinks, count: u32, meanwhile: Option<Value>) -> Stream {
    stream_while(links, count, |real, _| {
        if let Some(command) = meanwhile {
            real.command(command).expect("what happens meanwhile");
        }
    })
}

/// The same, with whatever is to happen to the real core or its host.
fn stream_while(
    links: &mut TwoLinks,
    count: u32,
    meanwhile: impl FnOnce(&mut ReferenceNode, &[Namespace; 2]),
) -> Stream {
    links.real.command(json!({"cmd": "stream-reset"})).expect("reset");
    let to = SocketAddr::new(links.real_ip.parse().expect("address"), PORT);
    let TwoLinks { gateway, real, spaces, .. } = links;
    thread::scope(|scope| {
        let sender = scope.spawn(|| gateway.inside(|| send(to, 1, count)));
        thread::sleep(Duration::from_millis(u64::from(count) / 3));
        meanwhile(real, spaces);
        sender.join().expect("no panic").expect("sent");
    });
    thread::sleep(Duration::from_millis(300));
    let report = real.command(json!({"cmd": "stream-report"})).expect("report");
    let report = &report["received"][0];
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let paths = report["paths"].as_object().cloned().unwrap_or_default();
    let by = |link: &str| paths.iter().filter(|(p, _)| p.starts_with(link)).filter_map(|(_, n)| n.as_u64()).sum();
    Stream {
        lost: u64::from(count) - number("unique"),
        duplicates: number("duplicates"),
        longest_gap: number("longest_gap"),
        links: [by("l0"), by("l1")],
    }
}

/// The link in use goes silent; what follows goes over the other.
fn cut(links: &mut TwoLinks, link: usize) {
    let cut = stream(links, 1500, Some(json!({"cmd": "socket-down", "socket": format!("l{link}")})));
    assert!(cut.longest_gap < 300 && cut.links[1 - link] > 800, "{cut:?}");
    let after = stream(links, 300, None);
    assert_eq!((after.lost, after.links[link]), (0, 0), "{after:?}");
}

#[test]
fn under_active_backup_one_link_carries_all_and_the_other_takes_over() {
    let mut links = bonded("bda", "active-backup");
    let all = stream(&mut links, 600, None);
    let used = usize::from(all.links[1] > 0);
    assert_eq!((all.lost, all.duplicates, all.links[used]), (0, 0, 600), "{all:?}");
    cut(&mut links, used);
}

#[test]
fn under_the_balance_policies_both_links_carry_and_each_can_stand_in_for_the_other() {
    for (name, policy) in [("bdr", "balance-rr"), ("bdx", "balance-xor"), ("bdw", "balance-aware")] {
        let mut links = bonded(name, policy);
        let all = stream(&mut links, 900, None);
        assert_eq!((all.lost, all.duplicates), (0, 0), "{policy}: {all:?}");
        assert!(policy == "balance-rr" || all.links.iter().all(|n| *n > 90), "{policy}: {all:?}");
        let went = |reports: &[[u64; 2]]| reports.iter().all(|[rx, tx]| *rx > 0 && *tx > 0);
        let mut reports = links.reports();
        for _ in 0..10 {
            if !went(&reports) {
                let _ = stream(&mut links, 300, None);
                reports = links.reports();
            }
        }
        assert!(went(&reports), "{policy}, received and sent: {reports:?}");
        cut(&mut links, 0);
    }
}

#[test]
fn under_broadcast_each_link_carries_all_and_the_loss_of_one_costs_nothing() {
    let mut links = bonded("bdb", "broadcast");
    let all = stream(&mut links, 600, None);
    // A stock core delivers each copy.
    assert_eq!((all.lost, all.links), (0, [600, 600]), "{all:?}");
    let cut = stream(&mut links, 900, Some(json!({"cmd": "socket-down", "socket": "l0"})));
    assert_eq!((cut.lost, cut.links[1]), (0, 900), "{cut:?}");
}

#[test]
fn what_a_router_refuses_and_says_so_goes_by_the_other_link_at_once_and_the_bond_says_why() {
    let mut links = bonded("bdi", "active-backup");
    let used = usize::from(stream(&mut links, 100, None).links[1] > 0);
    let refused = stream_while(&mut links, 1500, |_, spaces| TwoLinks::reject(spaces, used));
    println!("refused by ICMP: longest gap {} ms, lost {}", refused.longest_gap, refused.lost);
    assert!(refused.links[1 - used] > 800 && refused.longest_gap < 300, "{refused:?}");
    let peer = links.real.address().to_owned();
    let shown = links.hawser.cli(&["bond", "show", &peer]).expect("bond show");
    let decisions = shown["bond"]["decisions"].as_array().cloned().unwrap_or_default();
    let said = |d: &Value| d["text"].as_str().is_some_and(|t| t.contains("an ICMP error says: host unreachable"));
    assert!(decisions.iter().any(said), "{refused:?} {decisions:#?}");
    assert!(links.counter("bond_unreachable") >= 1);
}
