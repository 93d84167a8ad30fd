//! TAP queues on a ring, in a network namespace that each test makes for itself.

use std::{net::UdpSocket, time::Duration};

use super::support::*;
use uring::{Config, Event, Handler, Io, Refused, Ring, Token, tap, udp};

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// A ring with one TAP queue, token 5, and a socket in the overlay whose frames come out of it.
fn overlay(config: Config) -> (Ring, UdpSocket) {
    let options = tap::Options { name: "overlay0".to_owned(), queues: 1, super_frames: false };
    let mut device = tap::open(&options).unwrap();
    assert_eq!(device.name, "overlay0");
    tap::set_mac("overlay0", MAC).unwrap();
    ip("address add 10.9.0.1/24 dev overlay0");
    ip("link set overlay0 up");
    ip("neighbor replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev overlay0");
    let mut ring = Ring::new(config).unwrap();
    ring.io().add_tap(5, device.queues.remove(0)).unwrap();
    let socket = UdpSocket::bind("10.9.0.1:700").unwrap();
    socket.connect("10.9.0.2:700").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (ring, socket)
}

/// Sends every IPv4 frame back where it came from, as a host at 10.9.0.2 would.
#[derive(Default)]
struct Mirror {
    frames: usize,
}

impl Handler for Mirror {
    fn datagrams(&mut self, _: &mut Io, _: Token, _: std::net::SocketAddr, _: &mut [u8], _: usize) {}

    fn frame(&mut self, io: &mut Io, tap: Token, frame: &mut [u8]) {
        if frame[12..14] != [0x08, 0x00] || frame[23] != 17 {
            return;
        }
        self.frames += 1;
        let mut back = io.frame(tap, frame.len() + 10).unwrap();
        back[..6].copy_from_slice(&frame[6..12]);
        back[6..12].copy_from_slice(&frame[..6]);
        back[12..frame.len()].copy_from_slice(&frame[12..]);
        // the checksums are sums: swapping addresses and ports leaves them as they are
        back[26..30].copy_from_slice(&frame[30..34]);
        back[30..34].copy_from_slice(&frame[26..30]);
        back.commit(frame.len());
    }

    fn event(&mut self, _: &mut Io, event: Event) {
        panic!("{event:?}");
    }
}

#[test]
fn frames_go_out_and_come_back() {
    in_namespace(|| {
        let (mut ring, socket) = overlay(Config { tap_buffers: 4, tap_slots: 4, ..config() });
        let mut mirror = Mirror::default();
        for round in 0..10u8 {
            for n in 0..20u8 {
                socket.send(&[round, n, 3]).unwrap();
            }
            let mut got = 0;
            socket.set_nonblocking(true).unwrap();
            for _ in 0..200 {
                ring.turn(Some(Duration::from_millis(5)), &mut mirror).unwrap();
                let mut answer = [0; 16];
                while let Ok(len) = socket.recv(&mut answer) {
                    assert_eq!(answer[..len], [round, got, 3]);
                    got += 1;
                }
                if got == 20 {
                    break;
                }
            }
            assert_eq!(got, 20, "{:?}", ring.io().counters());
        }
        let counters = ring.io().counters();
        assert_eq!((mirror.frames, counters.frames_out), (200, 200));
        assert!(counters.buffers_exhausted > 0, "20 frames into 4 buffers: {counters:?}");
        assert_eq!(counters.dropped_no_tap_slot, 0);
    });
}

#[test]
fn scarce_send_slots_stop_the_reading_of_tap_and_lose_nothing() {
    in_namespace(|| {
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        ip("address add 10.7.0.1/24 dev left");
        let config = Config { send_slots: 16, tap_reserve: 8, tap_buffers: 8, gso: false, ..config() };
        let (mut ring, socket) = overlay(config);
        let mut options = udp::Options::new("10.7.0.1:0".parse().unwrap());
        options.buffer_bytes = 4096;
        ring.io().add_udp(1, udp::bind(&options).unwrap()).unwrap();
        // nobody answers for 10.7.0.2 yet: what is sent there fills the socket's buffer
        let forward = Some((1, "10.7.0.2:9993".parse().unwrap()));
        let mut seen = Seen { forward, ..Seen::default() };
        ring.turn(Some(Duration::from_millis(50)), &mut seen).unwrap(); // whatever the new interface says by itself
        for n in 0..100u8 {
            socket.send(&[n; 1000]).unwrap();
        }
        for _ in 0..20 {
            ring.turn(Some(Duration::from_millis(5)), &mut seen).unwrap();
        }
        let ours = |seen: &Seen| seen.frames.iter().filter(|(_, frame)| frame.len() == 1042).count();
        assert!(ours(&seen) < 30, "{} frames were read with 16 slots", ours(&seen));
        assert!(ring.io().counters().frames_stalled > 0);
        ip("neighbor replace 10.7.0.2 lladdr 02:00:00:00:00:07 dev left");
        turn_until(&mut ring, &mut seen, "all frames", |_, seen| ours(seen) == 100);
        let sent = seen.frames.len() as u64;
        turn_until(&mut ring, &mut seen, "all sends", |ring, _| ring.io().counters().datagrams_out >= sent);
        let frames: Vec<u8> = seen.frames.iter().filter(|(_, f)| f.len() == 1042).map(|(_, f)| f[100]).collect();
        assert_eq!(frames, (0..100).collect::<Vec<u8>>(), "in order");
        assert_eq!((seen.refused, ring.io().counters().dropped_no_send_slot), (0, 0));
    });
}

#[test]
fn a_link_that_stays_full_does_not_stop_the_frames_of_the_others() {
    in_namespace(|| {
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        ip("address add 10.7.0.1/24 dev left");
        let config = Config { send_slots: 16, tap_reserve: 8, tap_buffers: 8, gso: false, ..config() };
        let (mut ring, socket) = overlay(config);
        let mut options = udp::Options::new("10.7.0.1:0".parse().unwrap());
        options.buffer_bytes = 4096;
        ring.io().add_udp(1, udp::bind(&options).unwrap()).unwrap();
        let other = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let far = client(other.local_addr().unwrap());
        ring.io().add_udp(2, other).unwrap();
        // nobody ever answers for 10.7.0.2
        let mut seen = Seen { forward: Some((1, "10.7.0.2:9993".parse().unwrap())), ..Seen::default() };
        ring.turn(Some(Duration::from_millis(50)), &mut seen).unwrap();
        for n in 0..100u8 {
            socket.send(&[n; 1000]).unwrap();
        }
        let ours = |seen: &Seen| seen.frames.iter().filter(|(_, frame)| frame.len() == 1042).count();
        turn_until(&mut ring, &mut seen, "all frames", |_, seen| ours(seen) == 100);
        let counters = *ring.io().counters();
        assert!(counters.dropped_socket_full > 0, "{counters:?}");
        assert_eq!(counters.dropped_send_expired, 0, "long before anything was given up");
        seen.forward = Some((2, far.local_addr().unwrap()));
        socket.send(&[100; 1000]).unwrap();
        turn_until(&mut ring, &mut seen, "one more frame", |_, seen| ours(seen) == 101);
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        assert_eq!(far.recv(&mut [0; 2000]).unwrap(), 1042);
    });
}

#[test]
fn a_vanished_device_is_reported_and_the_loop_goes_on() {
    in_namespace(|| {
        let (mut ring, _socket) = overlay(config());
        let loopback = udp::bind(&udp::Options::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let client = client(loopback.local_addr().unwrap());
        ring.io().add_udp(1, loopback).unwrap();
        let mut seen = Seen::default();
        ring.turn(Some(Duration::from_millis(20)), &mut seen).unwrap();
        ip("link del overlay0");
        turn_until(&mut ring, &mut seen, "the device is gone", |_, seen| {
            matches!(seen.events.last(), Some(Event::TapGone { tap: 5, error: Some(_) }))
        });
        assert_eq!(ring.io().write(5, &[0; 60]), Err(Refused::Unknown));
        client.send(b"alive").unwrap();
        turn_until(&mut ring, &mut seen, "the socket", |_, seen| seen.datagrams.len() == 1);
        // its name is free for a new device with the same token
        let options = tap::Options { name: "overlay0".to_owned(), queues: 2, super_frames: true };
        let mut device = tap::open(&options).unwrap();
        ring.io().add_tap(5, device.queues.remove(1)).unwrap();
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
    });
}

#[test]
fn a_device_that_is_down_counts_frames_and_works_when_it_is_up_again() {
    in_namespace(|| {
        let (mut ring, socket) = overlay(config());
        let mut seen = Seen::default();
        ip("link set overlay0 down");
        ring.io().write(5, &[0xff; 60]).unwrap();
        turn_until(&mut ring, &mut seen, "a dropped frame", |ring, _| ring.io().counters().dropped_tap_down == 1);
        ip("link set overlay0 up");
        ip("neighbor replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev overlay0");
        socket.send(&[1; 1000]).unwrap();
        turn_until(&mut ring, &mut seen, "a frame", |_, seen| seen.frames.iter().any(|(_, f)| f.len() == 1042));
        assert!(seen.events.is_empty(), "{:?}", seen.events);
    });
}

#[test]
fn a_removed_queue_gives_its_device_back() {
    in_namespace(|| {
        let (mut ring, _socket) = overlay(config());
        let mut seen = Seen::default();
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        assert!(ring.io().remove_tap(5) && !ring.io().remove_tap(5));
        turn_until(&mut ring, &mut seen, "the queue is gone", |_, seen| {
            matches!(seen.events.last(), Some(Event::TapGone { tap: 5, error: None }))
        });
        let options = tap::Options { name: "overlay0".to_owned(), queues: 1, super_frames: false };
        tap::open(&options).unwrap();
    });
}

#[test]
fn a_held_frame_grows_and_leaves_when_it_is_given_back() {
    in_namespace(|| {
        let (mut ring, socket) = overlay(Config { tap_slots: 2, ..config() });
        let mut seen = Seen::default();
        socket.send(&[7; 900]).unwrap();
        turn_until(&mut ring, &mut seen, "a frame", |_, seen| seen.frames.iter().any(|(_, f)| f.len() == 942));
        let sent = seen.frames.iter().find(|(_, f)| f.len() == 942).unwrap().1.clone();
        let mut back = sent.clone();
        back[..6].copy_from_slice(&sent[6..12]);
        back[6..12].copy_from_slice(&sent[..6]);
        back[26..30].copy_from_slice(&sent[30..34]);
        back[30..34].copy_from_slice(&sent[26..30]);

        let held = ring.io().hold_frame(5).unwrap();
        let (first, rest) = back.split_at(500);
        ring.io().held_frame(held)[..500].copy_from_slice(first);
        assert_eq!(ring.io().write(5, &back), Ok(())); // the other slot
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        ring.io().held_frame(held)[500..942].copy_from_slice(rest);
        ring.io().commit_held(held, back.len());
        assert!(ring.io().held_frame(held).is_empty(), "it is not held any more");
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        let mut answer = [0; 1000];
        for _ in 0..2 {
            assert_eq!(socket.recv(&mut answer).unwrap(), 900);
        }
        assert!(answer[..900].iter().all(|byte| *byte == 7));
        // given back unused, and given back twice
        let held = ring.io().hold_frame(5).unwrap();
        ring.io().commit_held(held, 0);
        ring.io().commit_held(held, 10);
        ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
        assert_eq!(ring.io().counters().frames_out, 2);
        assert_eq!(ring.io().hold_frame(6), Err(Refused::Unknown));
    });
}

#[test]
fn a_device_with_super_frames_says_which() {
    in_namespace(|| {
        let options = tap::Options { name: "overlay0".to_owned(), queues: 2, super_frames: true };
        let device = tap::open(&options).unwrap();
        assert_ne!(device.super_frames, tap::SuperFrames::None);
        let options = tap::Options { name: "overlay1".to_owned(), queues: 1, super_frames: false };
        assert_eq!(tap::open(&options).unwrap().super_frames, tap::SuperFrames::None);
    });
}

#[test]
fn a_name_that_no_interface_can_have_is_refused() {
    let options = tap::Options { name: "much-too-long-a-name".to_owned(), queues: 1, super_frames: false };
    assert_eq!(tap::open(&options).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
