//! The parts of the lab measure what they say, on plain veth links without any tunnel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lab::measure::{self, KernelCounters, PingPlan, UdpPlan};
use lab::netns::{self, Namespace};

fn two_hosts(name: &str) -> (Namespace, Namespace) {
    netns::check_privilege().expect("these tests make namespaces");
    let (a, b) = (Namespace::new(&format!("{name}_a")).unwrap(), Namespace::new(&format!("{name}_b")).unwrap());
    netns::link((&a, "v0", "10.99.0.1/24"), (&b, "v0", "10.99.0.2/24")).unwrap();
    // A new link carries nothing for a moment.
    let plan = PingPlan { count: 50, interval: Duration::from_millis(50), stop_at_first: true, ..PingPlan::default() };
    assert_eq!(a.inside(|| measure::ping("10.99.0.2".parse().unwrap(), plan)).unwrap().answered, 1);
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
        while !ready.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        a.inside(|| measure::tcp_source(at, Duration::from_millis(200))).unwrap();
        sink.join().unwrap().unwrap()
    });
    assert!(moved.bytes > 1_000_000, "{moved:?}");
    assert_eq!(moved.bytes, received.load(Ordering::Relaxed));
}

#[test]
fn segmented_and_single_datagrams_arrive_alike_and_in_order() {
    let (a, b) = two_hosts("udp");
    for gso in [false, true] {
        let (sent, ready, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let at = "10.99.0.2:5301".parse().unwrap();
        let plan = UdpPlan { size: 300, packets_per_s: Some(20_000.0), gso };
        let arrived = std::thread::scope(|s| {
            let sink = s.spawn(|| {
                let mut arrived = Vec::new();
                let take = |datagram: &[u8]| arrived.push((datagram.len(), datagram[..8].to_vec()));
                b.inside(|| measure::udp_sink(at, &ready, &stop, take)).map(|()| arrived)
            });
            while !ready.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            a.inside(|| measure::udp_pour(at, plan, &sent, || sent.load(Ordering::Relaxed) < 1000)).unwrap();
            stop.store(true, Ordering::Release);
            sink.join().unwrap().unwrap()
        });
        let expected: Vec<_> = (0..sent.into_inner()).map(|n| (300, n.to_le_bytes().to_vec())).collect();
        assert!(expected.len() >= 1000);
        assert!(arrived == expected, "GSO {gso}: {} of {} arrived", arrived.len(), expected.len());
    }
}

#[test]
fn a_paced_stream_is_never_faster_than_its_pace() {
    let (a, _b) = two_hosts("pace");
    let (sent, start) = (AtomicU64::new(0), Instant::now());
    let plan = UdpPlan { size: 64, packets_per_s: Some(1000.0), gso: false };
    // Nobody listens: the answers that say so must not end the stream.
    a.inside(|| measure::udp_pour("10.99.0.2:9".parse().unwrap(), plan, &sent, || start.elapsed().as_millis() < 200))
        .unwrap();
    let most = start.elapsed().as_secs_f64() * 1000.0 + 1.0;
    let sent = sent.into_inner();
    assert!(sent > 0 && (sent as f64) <= most, "{sent} of at most {most}");
}

#[test]
fn a_thread_on_one_core_stays_there() {
    let (a, _b) = two_hosts("pin");
    let status = a.inside_on(&[0], || Ok(std::fs::read_to_string("/proc/thread-self/status").unwrap())).unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(str::trim);
    assert_eq!(allowed, Some("0"));
    assert!(a.inside_on(&[100_000], || Ok(())).is_err(), "a core that is not there");
}

#[test]
fn kernel_counters_are_those_of_the_namespace() {
    let (a, b) = two_hosts("count");
    let read = |ns: &Namespace| ns.inside(|| Ok(KernelCounters::read())).unwrap();
    let before = [read(&a), read(&b)];
    let plan = PingPlan { count: 3, interval: Duration::from_millis(2), ..PingPlan::default() };
    a.inside(|| measure::ping("10.99.0.2".parse().unwrap(), plan)).unwrap();
    assert_eq!(read(&a).since(&before[0], "Icmp.InEchoReps"), 3);
    assert_eq!(read(&b).since(&before[1], "Icmp.InEchos"), 3);
    assert_eq!(read(&b).since(&before[1], "Icmp.InEchoReps"), 0);
}

#[test]
fn cpu_time_counts_threads_that_are_gone() {
    let before = measure::cpu_time(std::process::id());
    std::thread::spawn(|| {
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        while Duration::from(clock.now().unwrap()) < Duration::from_millis(20) {}
    })
    .join()
    .unwrap();
    assert!(measure::cpu_time(std::process::id()) - before >= Duration::from_millis(20));
}

#[test]
fn a_namespace_is_gone_when_dropped() {
    let name = {
        let (a, _b) = two_hosts("gone");
        a.name().to_owned()
    };
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}
