//! The tunnel without a cipher between real hosts. Needs root; run with `--test-threads=1`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bench_harness::rig::{Offload, Rig, RigOptions};
use bench_harness::tunnel::{Tunnel, plain::Plain};
use lab::measure;

#[test]
fn the_tunnel_without_a_cipher_carries_pings_and_tcp_from_lan_to_lan() {
    for (offload, mtu) in [(Offload::Hw, 1500), (Offload::Sw, 2800)] {
        let rig = Rig::new(RigOptions { offload, ..RigOptions::default() }).unwrap();
        let plain = Plain { exe: env!("CARGO_BIN_EXE_bench-harness").into(), mtu };
        let running = plain.start(&rig).unwrap();
        rig.wait_for_ping(Duration::from_secs(10)).unwrap();
        let at = SocketAddr::new(rig.sites[1].host_address, 5001);
        let (received, ready, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let transfer = std::thread::scope(|s| {
            let sink = s.spawn(|| rig.sites[1].on_host(|| measure::tcp_sink(at, &received, &ready, &stop)));
            while !ready.load(Ordering::Acquire) && !sink.is_finished() {
                std::thread::yield_now();
            }
            let sent = rig.sites[0].on_host(|| measure::tcp_source(at, Duration::from_secs(1)));
            stop.store(true, Ordering::Release);
            sent.unwrap();
            sink.join().unwrap().unwrap()
        });
        println!("{offload}, MTU {mtu}: {:.2} Gbit/s", transfer.bits_per_s() / 1e9);
        assert!(transfer.bytes > 1 << 20, "{} bytes arrived", transfer.bytes);
        let pids = running.pids();
        drop(running);
        for pid in pids.concat() {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a forwarder outlived its tunnel");
        }
    }
}
