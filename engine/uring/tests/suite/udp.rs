//! Sockets on a ring: echo, batches both ways, starvation, full socket buffers, removal.

use std::{net::SocketAddr, os::fd::AsRawFd, thread, time::Duration};

use super::support::*;
use uring::{Config, Error, Event, Refused, Ring, retry_while_busy, tap, udp};

#[test]
fn a_datagram_is_echoed_over_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut ring = Ring::new(config()).unwrap();
        let socket = udp::bind(&udp::Options::new(address.parse().unwrap())).unwrap();
        let client = client(socket.local_addr().unwrap());
        ring.io().add_udp(1, socket).unwrap();
        let mut seen = Seen { echo: true, ..Seen::default() };
        client.send(b"once more").unwrap();
        turn_until(&mut ring, &mut seen, "the echo", |ring, _| ring.io().counters().datagrams_out == 1);
        let mut buffer = [0; 64];
        assert_eq!(client.recv(&mut buffer).unwrap(), 9);
        assert_eq!(seen.datagrams, [(1, client.local_addr().unwrap(), b"once more".to_vec())]);
        // a lone datagram costs two turns: one that brings it, one that sends the answer and waits again
        assert!(ring.io().counters().enters <= 3, "{:?}", ring.io().counters());
    }
}

#[test]
fn equal_datagrams_leave_and_arrive_in_one_message_and_in_order() {
    let (mut sender, _) = loopback_ring(config());
    let (mut receiver, to) = loopback_ring(config());
    let sent: Vec<Vec<u8>> = (0..150u8).map(|n| vec![n; if n == 149 { 500 } else { 1000 }]).collect();
    for datagram in &sent {
        sender.io().send(1, to, None, datagram).unwrap();
    }
    sender.turn(Some(Duration::ZERO), &mut Seen::default()).unwrap();
    let counters = *sender.io().counters();
    // 64 segments or 65 000 bytes close a batch: 64 + 64 + 22
    assert_eq!((counters.datagrams_out, counters.messages_out, counters.bytes_out), (150, 3, 149_500));
    let mut seen = Seen::default();
    turn_until(&mut receiver, &mut seen, "all datagrams", |_, seen| seen.datagrams.len() == 150);
    let received: Vec<Vec<u8>> = seen.datagrams.into_iter().map(|(_, _, bytes)| bytes).collect();
    assert_eq!(received, sent);
    let counters = receiver.io().counters();
    assert_eq!((counters.datagrams_in, counters.messages_in), (150, 3));
}

#[test]
fn different_sizes_and_remotes_keep_their_order_per_remote() {
    let (mut sender, _) = loopback_ring(config());
    let (mut left, to_left) = loopback_ring(config());
    let (mut right, to_right) = loopback_ring(config());
    let sizes = [100, 100, 40, 100, 300, 300, 20, 1, 1];
    for (n, &size) in sizes.iter().enumerate() {
        sender.io().send(1, to_left, None, &vec![n as u8; size]).unwrap();
        sender.io().send(1, to_right, None, &vec![n as u8; size]).unwrap();
    }
    sender.turn(Some(Duration::ZERO), &mut Seen::default()).unwrap();
    for ring in [&mut left, &mut right] {
        let mut seen = Seen::default();
        turn_until(ring, &mut seen, "all datagrams", |_, seen| seen.datagrams.len() == sizes.len());
        let received: Vec<(u8, usize)> = seen.datagrams.iter().map(|(_, _, d)| (d[0], d.len())).collect();
        let sent: Vec<(u8, usize)> = sizes.iter().enumerate().map(|(n, &size)| (n as u8, size)).collect();
        assert_eq!(received, sent);
    }
}

#[test]
fn a_starved_receive_is_armed_again_and_loses_nothing() {
    let (mut ring, to) = loopback_ring(Config { udp_buffers: 4, ..config() });
    let client = client(to);
    for n in 0..200u32 {
        // sizes that differ keep the kernel from coalescing them
        client.send(&vec![n as u8; 10 + n as usize]).unwrap();
    }
    let mut seen = Seen::default();
    turn_until(&mut ring, &mut seen, "all datagrams", |_, seen| seen.datagrams.len() == 200);
    assert!(seen.datagrams.iter().enumerate().all(|(n, (_, _, bytes))| bytes[0] == n as u8));
    let counters = ring.io().counters();
    assert!(counters.buffers_exhausted > 0 && counters.rearmed >= counters.buffers_exhausted, "{counters:?}");
}

#[test]
fn a_datagram_longer_than_a_buffer_is_counted_and_dropped() {
    let config = Config { udp_buffer_bytes: 2048, ..config() };
    let mut ring = Ring::new(config).unwrap();
    let mut options = udp::Options::new("127.0.0.1:0".parse().unwrap());
    let with_gro = udp::bind(&options).unwrap();
    assert!(matches!(ring.io().add_udp(1, with_gro), Err(Error::Config(_))), "GRO needs 68 KiB");
    options.gro = false;
    let socket = udp::bind(&options).unwrap();
    let client = client(socket.local_addr().unwrap());
    ring.io().add_udp(1, socket).unwrap();
    client.send(&[1; 5000]).unwrap();
    client.send(&[2; 100]).unwrap();
    let mut seen = Seen::default();
    turn_until(&mut ring, &mut seen, "the short one", |_, seen| seen.datagrams.len() == 1);
    assert_eq!(seen.datagrams[0].2, [2; 100]);
    assert_eq!(ring.io().counters().dropped_truncated, 1);
}

#[test]
fn empty_datagrams_do_not_stop_a_socket() {
    let (mut ring, to) = loopback_ring(config());
    let client = client(to);
    for _ in 0..40 {
        client.send(&[]).unwrap();
    }
    client.send(b"full").unwrap();
    let mut seen = Seen::default();
    turn_until(&mut ring, &mut seen, "the full one", |_, seen| seen.datagrams.len() == 1);
    assert!(seen.events.is_empty());
}

#[test]
fn more_datagrams_than_slots_leave_early_instead_of_being_lost() {
    let (mut sender, _) = loopback_ring(Config { send_slots: 8, tap_reserve: 4, gso: false, ..config() });
    let (mut receiver, to) = loopback_ring(config());
    for n in 0..100u8 {
        sender.io().send(1, to, None, &[n; 64]).unwrap();
    }
    sender.turn(Some(Duration::ZERO), &mut Seen::default()).unwrap();
    let mut seen = Seen::default();
    turn_until(&mut receiver, &mut seen, "all datagrams", |_, seen| seen.datagrams.len() == 100);
    assert_eq!(sender.io().counters().dropped_no_send_slot, 0);
    assert_eq!(sender.io().free_send_slots(), 8);
}

#[test]
fn a_route_that_refuses_gso_gets_its_datagrams_one_by_one() {
    in_namespace(|| {
        ip("link set lo mtu 1500");
        let (mut sender, _) = loopback_ring(config());
        let (mut receiver, to) = loopback_ring(config());
        for round in 1..=2 {
            for n in 0..5u8 {
                sender.io().send(1, to, None, &[n; 2000]).unwrap();
            }
            let mut seen = Seen::default();
            turn_until(&mut sender, &mut Seen::default(), "five sends", |ring, _| {
                ring.io().counters().datagrams_out == 5 * round
            });
            turn_until(&mut receiver, &mut seen, "five datagrams", |_, seen| seen.datagrams.len() == 5);
            assert!(seen.datagrams.iter().enumerate().all(|(n, (_, _, bytes))| bytes == &[n as u8; 2000]));
        }
        // asked once; the second round did not try again
        assert_eq!(sender.io().counters().gso_refused, 1);
    });
}

#[test]
fn the_time_to_live_of_one_datagram_is_set_and_of_the_next_is_not() {
    let (mut sender, _) = loopback_ring(config());
    let receiver = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
    receiver.set_nonblocking(false).unwrap();
    let on: libc::c_int = 1;
    // SAFETY: the option is one integer.
    let set = unsafe {
        libc::setsockopt(receiver.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, (&raw const on).cast(), 4)
    };
    assert_eq!(set, 0);
    let to = receiver.local_addr().unwrap();
    for ttl in [Some(3), None] {
        sender.io().send(1, to, ttl, b"how far").unwrap();
        sender.turn(Some(Duration::ZERO), &mut Seen::default()).unwrap();
        let mut payload = [0u8; 64];
        let mut control = [0u64; 8];
        let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: zeroes are a valid msghdr; the pointers stored in it outlive the call.
        let got = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut vector;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = 64;
            libc::recvmsg(receiver.as_raw_fd(), &raw mut message, 0)
        };
        assert_eq!(got, 7);
        // length, then level 0 and type IP_TTL (2), then the value
        assert_eq!(control[1] >> 32, 2);
        let expected = if ttl.is_some() { 3 } else { 64 };
        assert_eq!(control[2] as i32, expected);
    }
}

/// A socket on the interface `left`, where 10.7.0.2 is never resolved, so that what is sent there fills its buffer.
fn unresolved_neighbour() -> (Ring, SocketAddr) {
    ip("address add 10.7.0.1/24 dev left");
    ip("link set left up");
    let config = Config { send_slots: 16, tap_reserve: 8, ..config() };
    let mut options = udp::Options::new("10.7.0.1:0".parse().unwrap());
    options.buffer_bytes = 4096;
    let mut ring = Ring::new(config).unwrap();
    ring.io().add_udp(1, udp::bind(&options).unwrap()).unwrap();
    (ring, "10.7.0.2:9993".parse().unwrap())
}

#[test]
fn a_full_socket_buffer_keeps_datagrams_in_order_until_there_is_room() {
    in_namespace(|| {
        let options = tap::Options { name: "left".to_owned(), queues: 1, super_frames: false };
        let wire = tap::open(&options).unwrap().queues.remove(0);
        let (mut ring, to) = unresolved_neighbour();
        let mut seen = Seen::default();
        let sizes: Vec<usize> = (0..12).map(|n| 1000 + n).collect();
        for &size in &sizes[..8] {
            ring.io().send(1, to, None, &vec![1; size]).unwrap();
        }
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        for &size in &sizes[8..] {
            ring.io().send(1, to, None, &vec![1; size]).unwrap();
            ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        }
        let counters = *ring.io().counters();
        assert!(counters.sends_parked == 1 && counters.datagrams_out < 6, "{counters:?}");
        ip("neighbor replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev left");
        turn_until(&mut ring, &mut seen, "all sent", |ring, _| ring.io().counters().datagrams_out == 12);
        assert_eq!(ring.io().free_send_slots(), 16);
        assert!(seen.events.is_empty());
        let mut frame = [0; 2048];
        let frames = std::iter::from_fn(|| nix::unistd::read(&wire, &mut frame).ok().filter(|len| *len > 0));
        let arrived: Vec<usize> = frames.map(|len| len - 42).filter(|len| *len >= 1000).collect();
        assert_eq!(arrived, sizes);
    });
}

#[test]
fn a_socket_that_stays_full_gives_its_slots_up_after_a_second() {
    in_namespace(|| {
        ip("link add left type veth peer name right");
        ip("link set right up");
        let (mut ring, to) = unresolved_neighbour();
        let mut seen = Seen::default();
        let mut refused = 0;
        for n in 0..40u8 {
            refused += usize::from(ring.io().send(1, to, None, &[n; 1000]) == Err(Refused::NoSlot));
            ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        }
        assert!(refused > 0 && ring.io().free_send_slots() == 0);
        assert_eq!(ring.io().counters().dropped_no_send_slot, refused as u64);
        turn_until(&mut ring, &mut seen, "slots given up", |ring, _| ring.io().free_send_slots() == 16);
        assert_eq!(ring.io().counters().dropped_send_expired, 16);
    });
}

#[test]
fn a_removed_socket_frees_its_port_while_traffic_goes_on() {
    let (mut ring, to) = loopback_ring(config());
    let (mut other, to_other) = loopback_ring(config());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = {
        let stop = stop.clone();
        thread::spawn(move || {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = client.send_to(&[7; 300], to);
                let _ = client.send_to(&[8; 300], to_other);
            }
        })
    };
    let mut seen = Seen { echo: true, ..Seen::default() };
    turn_until(&mut ring, &mut seen, "traffic", |_, seen| seen.datagrams.len() > 100);
    assert!(ring.io().remove_udp(1));
    assert!(!ring.io().remove_udp(1), "already on its way out");
    assert_eq!(ring.io().send(1, to_other, None, b"too late"), Err(Refused::Unknown));
    let before = seen.datagrams.len();
    turn_until(&mut ring, &mut seen, "the socket is gone", |_, seen| {
        matches!(seen.events.last(), Some(Event::SocketGone { socket: 1, error: None }))
    });
    assert_eq!(seen.datagrams.len(), before, "nothing is delivered after removal");
    let again = retry_while_busy(Duration::from_secs(2), || udp::bind(&udp::Options::new(to))).unwrap();
    ring.io().add_udp(1, again).unwrap();
    turn_until(&mut ring, &mut seen, "traffic again", |_, seen| seen.datagrams.len() > before + 100);
    let mut seen = Seen::default();
    turn_until(&mut other, &mut seen, "the other ring", |_, seen| seen.datagrams.len() > 10);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn a_vanished_interface_fails_sends_and_not_the_loop() {
    in_namespace(|| {
        ip("link add left type veth peer name right");
        ip("address add 10.7.0.1/24 dev left");
        ip("link set left up");
        ip("link set right up");
        ip("neighbor replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev left");
        let mut options = udp::Options::new("10.7.0.1:0".parse().unwrap());
        options.device = Some("left".to_owned());
        let mut ring = Ring::new(config()).unwrap();
        ring.io().add_udp(1, udp::bind(&options).unwrap()).unwrap();
        let loopback = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let client_of_loopback = client(loopback.local_addr().unwrap());
        ring.io().add_udp(2, loopback).unwrap();
        let mut seen = Seen::default();
        let to: SocketAddr = "10.7.0.2:9993".parse().unwrap();
        ring.io().send(1, to, None, b"there").unwrap();
        turn_until(&mut ring, &mut seen, "one send", |ring, _| ring.io().counters().datagrams_out == 1);
        ip("link del left");
        ring.io().send(1, to, None, b"gone").unwrap();
        turn_until(&mut ring, &mut seen, "a failed send", |_, seen| !seen.events.is_empty());
        assert!(matches!(seen.events[0], Event::SendFailed { socket: 1, remote, bytes: 4, .. } if remote == to));
        assert_eq!(ring.io().counters().dropped_send_failed, 1);
        client_of_loopback.send(b"alive").unwrap();
        turn_until(&mut ring, &mut seen, "the other socket", |_, seen| seen.datagrams.len() == 1);
    });
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() {
    let (mut ring, to) = loopback_ring(config());
    let io = ring.io();
    assert_eq!(io.send(9, to, None, b"x"), Err(Refused::Unknown));
    assert_eq!(io.send(1, "[::1]:9".parse().unwrap(), None, b"x"), Err(Refused::Family));
    assert_eq!(io.send(1, to, None, &[0; 65_508]), Err(Refused::TooLong));
    assert!(matches!(io.add_udp(1, client(to)), Err(Error::InUse(1))));
    drop(io.datagram(1, to, None, 100).unwrap());
    io.datagram(1, to, None, 100).unwrap().commit(0);
    assert_eq!(io.free_send_slots(), 256);
    let counters = *io.counters();
    assert_eq!(counters.messages_out, 0);
}

fn set_option(socket: &std::net::UdpSocket, level: i32, option: i32, value: i32) {
    // SAFETY: the option is one integer.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(set, 0);
}

#[test]
fn a_message_whose_control_data_was_cut_off_is_counted_and_dropped() {
    let mut ring = Ring::new(config()).unwrap();
    let socket = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let same = socket.try_clone().unwrap();
    let client = client(socket.local_addr().unwrap());
    ring.io().add_udp(1, socket).unwrap();
    // more than there is room for beside the size of the segments, which might be what is lost
    set_option(&same, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
    let mut seen = Seen::default();
    client.send(&[1; 100]).unwrap();
    turn_until(&mut ring, &mut seen, "a drop", |ring, _| ring.io().counters().dropped_control_truncated == 1);
    set_option(&same, libc::IPPROTO_IP, libc::IP_PKTINFO, 0);
    client.send(&[2; 100]).unwrap();
    turn_until(&mut ring, &mut seen, "a datagram", |_, seen| seen.datagrams.len() == 1);
    assert_eq!(seen.datagrams[0].2, [2; 100]);
}

/// Sends five datagrams each of 1000 and 2000 bytes to two remotes in one turn, and wants to see all of them arrive.
fn five_to_each(sender: &mut Ring, receivers: &mut [(Ring, SocketAddr); 2]) {
    let before = sender.io().counters().datagrams_out;
    for n in 0..5u8 {
        for ((_, to), size) in receivers.iter().zip([1000, 2000]) {
            sender.io().send(1, *to, None, &vec![n; size]).unwrap();
        }
    }
    turn_until(sender, &mut Seen::default(), "ten sends", |ring, _| ring.io().counters().datagrams_out == before + 10);
    for ((receiver, _), size) in receivers.iter_mut().zip([1000, 2000]) {
        let mut seen = Seen::default();
        turn_until(receiver, &mut seen, "five datagrams", |_, seen| seen.datagrams.len() == 5);
        assert!(seen.datagrams.iter().enumerate().all(|(n, (_, _, bytes))| *bytes == vec![n as u8; size]));
    }
    let counters = *sender.io().counters();
    assert_eq!((counters.dropped_send_failed, counters.dropped_send_expired), (0, 0), "{counters:?}");
}

#[test]
fn a_path_that_becomes_narrower_steps_down_alone() {
    in_namespace(|| {
        let (mut sender, _) = loopback_ring(config());
        let mut receivers = [loopback_ring(config()), loopback_ring(config())];
        five_to_each(&mut sender, &mut receivers);
        let counters = *sender.io().counters();
        assert_eq!((counters.messages_out, counters.gso_refused), (2, 0));
        ip("link set lo mtu 1500");
        five_to_each(&mut sender, &mut receivers);
        five_to_each(&mut sender, &mut receivers);
        let counters = *sender.io().counters();
        // the remote of small datagrams still gets them in one message; the other is spared, at least for a moment
        assert_eq!(counters.messages_out, 2 + 2 * (1 + 5));
        assert!((1..=2).contains(&counters.gso_refused), "{counters:?}");
    });
}

#[test]
fn a_socket_whose_sends_cannot_be_segmented_steps_down() {
    let mut sender = Ring::new(config()).unwrap();
    let socket = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let same = socket.try_clone().unwrap();
    sender.io().add_udp(1, socket).unwrap();
    set_option(&same, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1); // EINVAL: segments need a checksum
    let mut receivers = [loopback_ring(config()), loopback_ring(config())];
    five_to_each(&mut sender, &mut receivers);
    assert_eq!(sender.io().counters().gso_refused, 2, "once for each path");
}

#[test]
fn a_device_without_checksum_offload_gets_all_datagrams() {
    in_namespace(|| {
        ip("link add left type veth peer name right");
        let offload =
            std::process::Command::new("ethtool").args(["-K", "left", "tx", "off"]).output().expect("ethtool");
        assert!(offload.status.success(), "{offload:?}");
        ip("address add 10.7.0.1/24 dev left");
        ip("link set left up");
        ip("link set right up");
        ip("neighbor replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev left");
        let mut ring = Ring::new(config()).unwrap();
        ring.io().add_udp(1, udp::bind(&udp::Options::new("10.7.0.1:0".parse().unwrap())).unwrap()).unwrap();
        for n in 0..5 {
            ring.io().send(1, "10.7.0.2:9993".parse().unwrap(), None, &[n; 1000]).unwrap();
        }
        let mut seen = Seen::default();
        turn_until(&mut ring, &mut seen, "five sends", |ring, _| ring.io().counters().datagrams_out == 5);
        let counters = *ring.io().counters();
        // kernels before 6.11 refuse (EIO), later ones compute the checksums themselves
        assert_eq!(counters.messages_out, if counters.gso_refused == 1 { 5 } else { 1 }, "{counters:?}");
        assert!(counters.dropped_send_failed == 0 && seen.events.is_empty());
    });
}
