//! Two data planes over real sockets and TAPs, each with a network namespace for its overlay side; and the bounds.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use shard::{Egress, Gso, Offload, Route, Shard, SocketId, TapSlot, ToControl, Update};
use socket2::{Domain, Socket, Type};
use uring::tap::Tap;
use wire::keys::{Keys, SharedKey};
use wire::message::Features;
use wire::packet::Suite;
use wire::{Address, Mac, NetworkId, Now};

use super::queues::{Drops, Inbox};
use super::worker::Alarm;
use super::{Config, DataPlane, FRAMES_MAX, FromShard, QUEUE_BYTES_MAX, QUEUE_MAX, SENDS_MAX};

const NETWORK: NetworkId = NetworkId(0x6af3_745e_9700_0001);
const LINK: SocketId = SocketId(1);
const MTU: u16 = 2800;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is needed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A TAP in a namespace of its own, and a socket in that namespace, whose neighbour `10.9.0.<peer>` is across the TAP.
fn overlay(own: Address, host: u8, peer: Address, peer_host: u8, queues: usize) -> (Tap, UdpSocket) {
    let (tap, udp, _) = overlay_of(own, host, peer, peer_host, queues, false, false);
    (tap, udp)
}

/// The same with or without super-frames, and with a TCP socket at port 701, over IPv4 or IPv6.
fn overlay_of(
    own: Address,
    host: u8,
    peer: Address,
    peer_host: u8,
    queues: usize,
    super_frames: bool,
    v6: bool,
) -> (Tap, UdpSocket, Socket) {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces and TAP devices: run it as root");
    let make = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs CAP_SYS_ADMIN for a network namespace");
        // or it would speak of its own accord
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let options = uring::tap::Options { name: "overlay0".to_owned(), queues, super_frames };
        let tap = uring::tap::open(&options).unwrap();
        uring::tap::set_mac("overlay0", Mac::of_member(NETWORK, own).0).unwrap();
        ip(&format!("link set overlay0 mtu {MTU} up"));
        ip(&format!("address add 10.9.0.{host}/24 dev overlay0"));
        let mac = Mac::of_member(NETWORK, peer);
        ip(&format!("neighbor replace 10.9.0.{peer_host} lladdr {mac} dev overlay0"));
        let socket = UdpSocket::bind(format!("10.9.0.{host}:700")).unwrap();
        socket.connect(format!("10.9.0.{peer_host}:700")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        if v6 {
            std::fs::write("/proc/sys/net/ipv6/conf/overlay0/disable_ipv6", "0").unwrap();
            ip(&format!("address add fd09::{host}/64 dev overlay0 nodad"));
            ip(&format!("neighbor replace fd09::{peer_host} lladdr {mac} dev overlay0"));
        }
        let at = tcp_address(host, v6);
        let tcp = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        tcp.bind(&at.into()).unwrap();
        (tap, socket, tcp)
    };
    thread::spawn(make).join().unwrap()
}

fn tcp_address(host: u8, v6: bool) -> SocketAddr {
    let address = if v6 { format!("[fd09::{host}]:701") } else { format!("10.9.0.{host}:701") };
    address.parse().unwrap()
}

fn links(shards: usize) -> (Vec<UdpSocket>, SocketAddr) {
    let mut options = uring::udp::Options::new("127.0.0.1:0".parse().unwrap());
    options.reuse_port = true;
    let first = uring::udp::bind(&options).unwrap();
    options.address = first.local_addr().unwrap();
    let rest = (1..shards).map(|_| uring::udp::bind(&options).unwrap());
    (std::iter::once(first).chain(rest).collect(), options.address)
}

/// A data plane that knows one peer, member of one network, at `remote`.
fn plane(own: Address, peer: Address, shards: usize, sockets: Vec<UdpSocket>, remote: SocketAddr) -> DataPlane {
    plane_on(uring::Backend::Auto, own, peer, shards, sockets, remote)
}

/// The same by system calls of choice.
fn plane_on(
    backend: uring::Backend,
    own: Address,
    peer: Address,
    shards: usize,
    sockets: Vec<UdpSocket>,
    remote: SocketAddr,
) -> DataPlane {
    let mut config = Config::new(own, shards);
    config.ring.backend = backend;
    let plane = DataPlane::start(config).unwrap();
    plane.add_socket(LINK, sockets);
    plane.update(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, own), mtu: MTU, fast: true });
    plane.update(Update::Member { network: NETWORK, address: peer, allowed: true });
    let keys = Arc::new(Keys::new(SharedKey::from_bytes([7; 48])));
    let route = Some(Route { socket: LINK, remote, mtu: 1432 });
    plane.update(Update::Peer { address: peer, keys, suite: Suite::AesGmacSiv, route, bonded: false });
    plane
}

fn add_tap(plane: &DataPlane, tap: Tap) {
    plane.add_tap(NETWORK, tap.queues, tap.super_frames);
}

fn within_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn next_that<T>(plane: &mut DataPlane, mut wanted: impl FnMut(FromShard) -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = wanted(plane.recv().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), look).await.expect("the message never came")
}

const A: Address = Address::from_u64(0x92_514c_dce8);
const B: Address = Address::from_u64(0x8b_d712_bf36);

#[test]
fn sealed_frames_carry_an_overlay_between_two_data_planes() {
    within_runtime(async {
        for shards in [1, 2] {
            let ((sockets_a, at_a), (sockets_b, at_b)) = (links(shards), links(shards));
            let (tap_a, host_a) = overlay(A, 1, B, 2, shards);
            let (tap_b, host_b) = overlay(B, 2, A, 1, shards);
            let mut a = plane(A, B, shards, sockets_a, at_b);
            let b = plane(B, A, shards, sockets_b, at_a);
            add_tap(&a, tap_a);
            add_tap(&b, tap_b);
            // two in one datagram, three in two, up to the largest frame
            let sizes = [1, 900, 1400, 1900, usize::from(MTU) - 28];
            let mut buffer = [0; 4096];
            for round in 0..20u8 {
                for size in sizes {
                    host_a.send(&vec![round; size]).unwrap();
                    assert_eq!(host_b.recv(&mut buffer).unwrap(), size);
                    host_b.send(&buffer[..size]).unwrap();
                    assert_eq!(host_a.recv(&mut buffer).unwrap(), size);
                    assert!(buffer[..size].iter().all(|byte| *byte == round));
                }
            }
            let activity = next_that(&mut a, |message| match message {
                FromShard::Activity { report, .. } => Some(report),
                _ => None,
            });
            let activity = activity.await;
            assert!(activity.activity.iter().all(|line| line.peer == B && line.remote == at_b && line.socket == LINK));
            thread::sleep(Duration::from_millis(1500));
            let counters = a.counters();
            let sum = |field: fn(&shard::Counters) -> u64| counters.shards.iter().map(|s| field(&s.shard)).sum::<u64>();
            assert_eq!((sum(|c| c.frames_out), sum(|c| c.frames_in)), (100, 100));
            assert_eq!(sum(|c| c.datagrams_out), 160);
            let turns: u64 = counters.shards.iter().map(|shard| shard.ring.turns).sum();
            thread::sleep(Duration::from_millis(1000));
            let later: u64 = a.counters().shards.iter().map(|shard| shard.ring.turns).sum();
            assert_eq!(turns, later, "an idle shard sleeps");
            a.stop();
            b.stop();
        }
    });
}

/// Bytes that tell where they belong.
/// What a shard of the test seals.
#[derive(Default)]
struct Sealed(Vec<u8>);

impl Egress for Sealed {
    fn tap(&mut self, _: NetworkId, _: &[u8]) {}

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        None
    }

    fn tap_slot(&mut self, _: TapSlot) -> &mut [u8] {
        &mut []
    }

    fn tap_close(&mut self, _: TapSlot, _: usize, _: Offload) {}

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.0 = vec![0; len];
        Some(&mut self.0)
    }

    fn control(&mut self, _: ToControl<'_>) {}
}

#[test]
fn a_flow_that_is_striped_over_the_sockets_of_two_shards_meets_in_one() {
    for marked in [false, true] {
        meets_in_one(marked);
    }
}

/// TCP segments, or UDP datagrams with order marks.
fn meets_in_one(marked: bool) {
    let lane = || uring::udp::bind(&uring::udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let (lanes, ours) = ([lane(), lane()], [lane(), lane()]);
    let to = [lanes[0].local_addr().unwrap(), lanes[1].local_addr().unwrap()];
    let mut plane = plane(A, B, 2, Vec::new(), ours[0].local_addr().unwrap());
    for (shard, lane) in lanes.into_iter().enumerate() {
        plane.add_lane(SocketId(10 + shard as u64), shard as u16, lane);
    }
    let route = Route { socket: LINK, remote: to[0], mtu: 1432 };
    let peer = |address, bonded| {
        let keys = Arc::new(Keys::new(SharedKey::from_bytes([7; 48])));
        Update::Peer { address, keys, suite: Suite::AesGmacSiv, route: Some(route), bonded }
    };
    plane.update(peer(B, !marked));
    let mut far = Shard::new(B, shard::Config { seed: [3; 32], shards: 1 });
    far.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, B), mtu: MTU, fast: true });
    far.apply(peer(A, false));
    far.apply(Update::Member { network: NETWORK, address: A, allowed: true });
    if marked {
        plane.update(Update::Given { address: B, given: Features::ORDER_MARK });
        far.apply(Update::Bond { address: A, bond: Some(Arc::new(striping(route))) });
    }
    let mut clock = Now::default();
    let mut number = 0u32;
    let mut seal = || {
        number += 1;
        let (mac_a, mac_b) = (Mac::of_member(NETWORK, A), Mac::of_member(NETWORK, B));
        let ethernet = [&mac_a.0[..], &mac_b.0, &[8, 0]].concat();
        let [s0, s1, s2, s3] = (number * 100).to_be_bytes();
        let protocol = if marked { 17 } else { 6 };
        let ip = [0x45, 0, 0, 140, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
        let tcp = [1, 0, 2, 0, s0, s1, s2, s3, 0, 0, 0, 1, 0x50, 0x10, 1, 1, 0, 0, 0, 0];
        let mut sealed = Sealed::default();
        clock.mono_us += 20_000; // enough for any pace
        far.outbound(clock, NETWORK, &[&ethernet[..], &ip, &tcp, &[5; 100]].concat(), &mut sealed);
        far.poll(clock, &mut sealed);
        assert!(!sealed.0.is_empty());
        sealed.0
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // a run of four over the second path overtakes one over the first
        let run: Vec<Vec<u8>> = (0..8).map(|_| seal()).collect();
        for (path, part, pause_ms) in [(1, &run[4..], 1), (0, &run[..4], 4)] {
            for datagram in part {
                ours[path].send_to(datagram, to[path]).unwrap();
            }
            thread::sleep(Duration::from_millis(pause_ms));
        }
        let shards = plane.counters().shards;
        let given: Vec<u64> = shards.iter().map(|one| one.shard.strays_given).collect();
        let closed: Vec<u64> = shards.iter().map(|one| one.reordering.closed).collect();
        let taken: u64 = shards.iter().map(|one| one.shard.strays_taken).sum();
        // each shard publishes in its own time
        if closed.iter().sum::<u64>() > 20 && given.iter().sum::<u64>() > 80 && taken > 80 {
            let home = usize::from(closed[1] > 0);
            assert!(closed[1 - home] == 0 && given[home] == 0, "{shards:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{shards:?}");
    }
    plane.stop();
}

/// All over two paths that are one, with order marks.
fn striping(route: Route) -> shard::Bonding {
    let path = |n: u8| {
        let id = bond::PathId { slot: n, generation: 1 };
        bond::PlanPath { id, key: n.into(), weight: 1.0, rate: 1e6, delay_us: 1000 }
    };
    let policy = bond::config::Policy::BalanceRr;
    let plan = bond::Plan { policy, striping: true, paths: vec![path(0), path(1)], ..bond::Plan::default() };
    let routes = vec![route, route];
    shard::Bonding { plan: Arc::new(plan), routes, relay: None, marks: true, duplicates_dropped: false }
}

fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[test]
fn super_frames_are_cut_joined_and_lose_nothing_with_either_kind_of_tap_at_the_far_end() {
    const BYTES: usize = 20 << 20;
    use uring::Backend::{IoUring, Mmsg};
    let cases = [
        (IoUring, 1, true, true, false),
        (IoUring, 2, true, true, false),
        (IoUring, 1, true, false, false),
        (IoUring, 1, false, true, false),
        (IoUring, 1, true, true, true),
        (Mmsg, 1, true, true, false),
        (Mmsg, 2, true, true, true),
        (Mmsg, 1, true, false, false),
    ];
    for (backend, shards, supers_a, supers_b, v6) in cases {
        let ((sockets_a, at_a), (sockets_b, at_b)) = (links(shards), links(shards));
        let (tap_a, udp_a, tcp_a) = overlay_of(A, 1, B, 2, shards, supers_a, v6);
        let (tap_b, udp_b, tcp_b) = overlay_of(B, 2, A, 1, shards, supers_b, v6);
        let a = plane_on(backend, A, B, shards, sockets_a, at_b);
        let b = plane_on(backend, B, A, shards, sockets_b, at_a);
        add_tap(&a, tap_a);
        add_tap(&b, tap_b);
        // lone frames with open checksums, both ways
        let mut buffer = [0; 4096];
        udp_a.send(&[1; 700]).unwrap();
        assert_eq!(udp_b.recv(&mut buffer).unwrap(), 700);
        udp_b.send(&buffer[..700]).unwrap();
        assert_eq!(udp_a.recv(&mut buffer).unwrap(), 700);
        // a stream, which comes back
        tcp_b.listen(1).unwrap();
        let echo = thread::spawn(move || {
            let mut stream = TcpStream::from(tcp_b.accept().unwrap().0);
            let mut copy = stream.try_clone().unwrap();
            io::copy(&mut stream, &mut copy).unwrap();
        });
        tcp_a.connect(&tcp_address(2, v6).into()).unwrap();
        let mut stream = TcpStream::from(tcp_a);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent = thread::spawn(move || {
            for at in (0..BYTES).step_by(1 << 16) {
                writer.write_all(&pattern(at, 1 << 16)).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = vec![0; 1 << 16];
        for at in (0..BYTES).step_by(1 << 16) {
            stream.read_exact(&mut got).unwrap();
            assert!(got == pattern(at, 1 << 16), "at {at}");
        }
        sent.join().unwrap();
        echo.join().unwrap();
        drop(stream);
        thread::sleep(Duration::from_millis(300));
        let sum = |plane: &DataPlane, field: fn(&shard::Counters) -> u64| {
            plane.counters().shards.iter().map(|s| field(&s.shard)).sum::<u64>()
        };
        for (plane, supers) in [(&a, supers_a), (&b, supers_b)] {
            let cut = (sum(plane, |c| c.super_frames_out), sum(plane, |c| c.cut_out));
            let joined = (sum(plane, |c| c.super_frames_in), sum(plane, |c| c.joined_in));
            println!("{backend}, {shards} shards, super-frames {supers}: {cut:?} cut, {joined:?} joined");
            assert_eq!((cut.0 > 0, joined.0 > 0), (supers, supers));
            assert_eq!(sum(plane, |c| c.odd_out + c.oversized_out + c.forged + c.unsplittable), 0);
        }
        a.stop();
        b.stop();
    }
}

#[test]
fn what_is_not_for_a_shard_reaches_the_control_thread_and_its_answer_leaves() {
    within_runtime(async {
        let (sockets, at) = links(1);
        let (tap, host) = overlay(A, 1, B, 2, 1);
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut plane = plane(A, B, 1, sockets, "127.0.0.1:9".parse().unwrap());
        add_tap(&plane, tap);
        let hello = hello(64);
        stranger.send_to(&hello, at).unwrap();
        let (socket, remote, bytes) = next_that(&mut plane, |message| match message {
            FromShard::Datagram { socket, remote, bytes } => Some((socket, remote, bytes.to_vec())),
            _ => None,
        })
        .await;
        assert_eq!((socket, remote, bytes), (LINK, stranger.local_addr().unwrap(), hello));
        plane.send(socket, remote, Some(9), b"an answer".to_vec());
        let mut buffer = [0; 64];
        assert_eq!(stranger.recv(&mut buffer).unwrap(), 9);
        // a broadcast is the control plane's
        host.set_broadcast(true).unwrap();
        host.send_to(b"everybody", "10.9.0.255:700").unwrap();
        let frame = next_that(&mut plane, |message| match message {
            FromShard::Frame { network: NETWORK, frame } if frame[..6] == [0xff; 6] => Some(frame.to_vec()),
            _ => None,
        })
        .await;
        // and comes back from it: from B, to all
        let mut back = frame;
        back[6..12].copy_from_slice(&Mac::of_member(NETWORK, B).0);
        let (from, to) = ([10, 9, 0, 2], [10, 9, 0, 1]);
        back[..6].copy_from_slice(&Mac::of_member(NETWORK, A).0);
        back[26..30].copy_from_slice(&from);
        back[30..34].copy_from_slice(&to);
        fix_checksums(&mut back);
        plane.deliver(NETWORK, back);
        assert_eq!(host.recv(&mut buffer).unwrap(), 9);
        plane.stop();
    });
}

/// What looks like a HELLO to A from a node nobody knows.
fn hello(len: usize) -> Vec<u8> {
    let stranger = Address::from_u64(0x01_0203_0405);
    let mut packet = wire::packet::header(1, A, stranger, wire::Verb::Hello as u8).to_vec();
    packet.resize(len, 0);
    packet
}

/// Recomputes the IPv4 header checksum and drops that of UDP.
fn fix_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    frame[40..42].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&folded.to_be_bytes());
}

#[test]
fn a_flood_of_strangers_is_bounded_counted_and_starves_nobody() {
    within_runtime(async {
        let (sockets, at) = links(1);
        let (tap, host) = overlay(A, 1, B, 2, 1);
        let mut plane = plane(A, B, 1, sockets, "127.0.0.1:9".parse().unwrap());
        add_tap(&plane, tap);
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let packet = hello(1400);
        let started = Instant::now();
        while plane.counters().queues.datagrams == 0 {
            assert!(started.elapsed() < Duration::from_secs(5), "the queue never filled");
            for _ in 0..64 {
                stranger.send_to(&packet, at).unwrap();
            }
        }
        // the queue is full of strangers; a frame of our own still gets through, soon
        host.set_broadcast(true).unwrap();
        host.send_to(b"everybody", "10.9.0.255:700").unwrap();
        thread::sleep(Duration::from_millis(100));
        let mut datagrams = Vec::new();
        let mut before_frame = None;
        while let Some(message) = plane.try_recv() {
            match message {
                FromShard::Datagram { bytes, .. } => datagrams.push(bytes),
                FromShard::Frame { frame, .. } if frame[..6] == [0xff; 6] => before_frame = Some(datagrams.len()),
                _ => {}
            }
        }
        assert!(before_frame.is_some_and(|before| before < 64), "{before_frame:?} datagrams before the frame");
        let bytes: usize = datagrams.iter().map(|datagram| datagram.len()).sum();
        assert!(bytes <= QUEUE_BYTES_MAX && datagrams.len() <= QUEUE_MAX);
        assert!(bytes > QUEUE_BYTES_MAX / 2, "only {bytes} bytes were held");
        // as long as they are held there is room for no more; then there is
        let dropped = plane.counters().queues.datagrams;
        stranger.send_to(&packet, at).unwrap();
        stranger.send_to(&packet, at).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(plane.counters().queues.datagrams > dropped);
        drop(datagrams);
        stranger.send_to(&packet, at).unwrap();
        next_that(&mut plane, |message| matches!(message, FromShard::Datagram { .. }).then_some(())).await;
        plane.stop();
    });
}

#[test]
fn the_control_planes_own_queues_drop_the_newest_and_count() {
    within_runtime(async {
        let mut config = Config::new(A, 1);
        config.pin = false;
        let plane = DataPlane::start(config).unwrap();
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let started = Instant::now();
        // no socket: the shard empties its queues as fast as it can
        while plane.counters().queues.sends == 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "the queue never filled");
            for _ in 0..2 * SENDS_MAX {
                plane.send(LINK, to, None, Vec::new());
            }
        }
        while plane.counters().queues.frames == 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "the queue never filled");
            for _ in 0..2 * FRAMES_MAX {
                plane.deliver(NETWORK, Vec::new());
            }
        }
        // decisions are waited for: many more than fit, and none is lost
        for n in 0..10_000u64 {
            plane.update(Update::PeerGone(Address::from_u64(n)));
        }
        plane.stop();
    });
}

#[test]
fn sockets_and_taps_come_and_go() {
    within_runtime(async {
        let (sockets, at) = links(2);
        let (tap, _host) = overlay(A, 1, B, 2, 2);
        let mut plane = plane(A, B, 2, sockets, "127.0.0.1:9".parse().unwrap());
        add_tap(&plane, tap);
        plane.remove_socket(LINK);
        plane.remove_tap(NETWORK);
        let (mut sockets_gone, mut taps_gone) = (0, 0);
        while (sockets_gone, taps_gone) != (2, 2) {
            match tokio::time::timeout(Duration::from_secs(5), plane.recv()).await.expect("both go") {
                FromShard::SocketGone { socket: LINK, error: None, .. } => sockets_gone += 1,
                FromShard::TapGone { network: NETWORK, error: None, .. } => taps_gone += 1,
                FromShard::Frame { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        // the port is free again, and the name is not in the way
        uring::retry_while_busy(Duration::from_secs(2), || UdpSocket::bind(at)).unwrap();
        let (sockets, _) = links(2);
        plane.add_socket(LINK, sockets);
        let (more, _) = links(1);
        plane.add_socket(LINK, more);
        next_that(&mut plane, |message| match message {
            FromShard::SocketGone { shard: 0, socket: LINK, error: Some(error) } => Some(error),
            _ => None,
        })
        .await;
        plane.stop();
    });
}

#[test]
fn a_storm_of_refused_datagrams_hides_neither_a_lost_link_nor_activity() {
    let drops = Arc::new(Drops::default());
    let (mut inbox, mut outbox) = Inbox::new(Arc::clone(&drops));
    let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for _ in 0..QUEUE_MAX + 10 {
        let error = io::ErrorKind::HostUnreachable.into();
        outbox.refused(FromShard::SendFailed { socket: LINK, remote, bytes: 1, error });
    }
    outbox.report(FromShard::Activity { shard: 0, report: shard::Report::default() });
    let error = Some(io::ErrorKind::NotConnected.into());
    outbox.lost(FromShard::SocketGone { shard: 0, socket: LINK, error });
    let first: Vec<_> = (0..3).filter_map(|_| inbox.try_recv()).collect();
    assert!(first.iter().any(|message| matches!(message, FromShard::SocketGone { .. })), "{first:?}");
    assert!(first.iter().any(|message| matches!(message, FromShard::Activity { .. })), "{first:?}");
    assert_eq!((drops.counters().refusals, drops.counters().reports), (10, 0));
}

#[test]
fn bulk_for_the_control_plane_hides_no_packet_that_keeps_a_peer_alive() {
    let drops = Arc::new(Drops::default());
    let (mut inbox, mut outbox) = Inbox::new(Arc::clone(&drops));
    let (socket, remote) = (LINK, "127.0.0.1:9".parse().unwrap());
    for _ in 0..QUEUE_MAX + 10 {
        outbox.foreign(&[1], |bytes| FromShard::Datagram { socket, remote, bytes });
        outbox.opened_frame(&[2], |packet| FromShard::Opened { socket, remote, packet });
    }
    outbox.datagram(&[3], |bytes| FromShard::Datagram { socket, remote, bytes });
    outbox.opened(&[4], |packet| FromShard::Opened { socket, remote, packet });
    let first: Vec<_> = (0..4).filter_map(|_| inbox.try_recv()).collect();
    assert!(
        first.iter().any(|message| matches!(message, FromShard::Datagram { bytes, .. } if bytes[0] == 3)),
        "{first:?}"
    );
    assert!(
        first.iter().any(|message| matches!(message, FromShard::Opened { packet, .. } if packet[0] == 4)),
        "{first:?}"
    );
    let counted = drops.counters();
    assert_eq!((counted.foreign, counted.opened_frames, counted.datagrams, counted.opened), (10, 10, 0, 0));
}

#[test]
fn a_packet_thread_that_panics_is_reported_at_once() {
    let (mut inbox, outbox) = Inbox::new(Arc::default());
    let dies = move || {
        let _alarm = Alarm { shard: 3, outbox };
        panic!("as a packet thread might");
    };
    assert!(thread::spawn(dies).join().is_err());
    within_runtime(async {
        let told = tokio::time::timeout(Duration::from_secs(5), inbox.recv()).await.expect("the bell was rung");
        assert!(matches!(told, FromShard::ShardGone { shard: 3, .. }), "{told:?}");
    });
    let (mut inbox, outbox) = Inbox::new(Arc::default());
    drop(Alarm { shard: 3, outbox });
    assert!(inbox.try_recv().is_none(), "one that ends in order is no news");
}
