//! The parts of the lab measure what they say, on plain veth links without any tunnel.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use lab::measure::{self, PingPlan};
use lab::netns::{self, Namespace};

fn two_hosts(name: &str) -> (Namespace, Namespace) {
    netns::check_privilege().expect("these tests make namespaces");
    let (a, b) = (Namespace::new(&format!("{name}_a")).unwrap(), Namespace::new(&format!("{name}_b")).unwrap());
    netns::link((&a, "v0", "10.99.0.1/24"), (&b, "v0", "10.99.0.2/24")).unwrap();
    (a, b)
}

#[test]
fn pings_are_answered_once_each_and_absent_hosts_not_at_all() {
    let (a, _b) = two_hosts("ping");
    let plan =
        PingPlan { interval: Duration::from_millis(2), timeout: Duration::from_millis(300), ..PingPlan::default() };
    let there = a.inside(|| measure::ping("10.99.0.2".parse().unwrap(), plan)).unwrap();
    assert_eq!((there.sent, there.answered, there.duplicates), (10, 10, 0));
    let nowhere = a.inside(|| measure::ping("10.99.0.77".parse().unwrap(), plan)).unwrap();
    assert_eq!((nowhere.sent, nowhere.answered), (10, 0));
}

#[test]
fn a_transfer_counts_every_byte() {
    let (a, b) = two_hosts("tcp");
    let (received, ready, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let at = "10.99.0.2:5201".parse().unwrap();
    let moved = std::thread::scope(|s| {
        let sink = s.spawn(|| b.inside(|| measure::tcp_sink(at, &received, &ready, &stop)));
        while !ready.load(std::sync::atomic::Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        a.inside(|| measure::tcp_source(at, Duration::from_millis(200))).unwrap();
        sink.join().unwrap().unwrap()
    });
    assert!(moved.bytes > 1_000_000, "{moved:?}");
    assert_eq!(moved.bytes, received.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn a_namespace_is_gone_when_dropped() {
    let name = {
        let (a, _b) = two_hosts("gone");
        a.name().to_owned()
    };
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}
