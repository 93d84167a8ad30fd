//! The loop itself: sleeping, waking, timeouts, tear-down.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::support::*;
use uring::{Config, Ring, udp};

#[test]
fn a_quiet_turn_ends_at_its_timeout() {
    let (mut ring, _) = loopback_ring(config());
    let mut seen = Seen::default();
    ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
    let started = Instant::now();
    assert_eq!(ring.turn(Some(Duration::from_millis(40)), &mut seen).unwrap(), 0);
    let slept = started.elapsed();
    assert!(slept >= Duration::from_millis(40), "slept {slept:?}");
    assert_eq!(ring.turn(Some(Duration::ZERO), &mut seen).unwrap(), 0);
}

#[test]
fn a_wake_from_another_thread_ends_the_sleep() {
    let (give, take) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        let mut ring = Ring::new(config()).unwrap();
        give.send(ring.waker()).unwrap();
        let mut seen = Seen::default();
        while seen.wakes < 50 {
            ring.turn(None, &mut seen).unwrap();
        }
    });
    let waker = take.recv().unwrap();
    let mut rounds = 0;
    while !sleeper.is_finished() {
        waker.wake();
        rounds += 1;
        assert!(rounds < 5000, "the sleeper never woke");
        thread::sleep(Duration::from_millis(1));
    }
    sleeper.join().unwrap();
    assert!(waker.asked() >= 50 && waker.written() <= waker.asked());
}

#[test]
fn many_wakes_of_a_working_ring_are_one_and_cost_no_system_call() {
    let mut ring = Ring::new(config()).unwrap();
    let waker = ring.waker();
    for _ in 0..1000 {
        waker.wake();
    }
    let mut seen = Seen::default();
    ring.turn(None, &mut seen).unwrap(); // would sleep for ever without the note
    assert_eq!((seen.wakes, waker.asked(), waker.written()), (1, 1000, 0));
    ring.turn(Some(Duration::ZERO), &mut seen).unwrap();
    assert_eq!(seen.wakes, 1);
}

#[test]
fn no_wake_is_lost_between_working_and_sleeping() {
    let (give, take) = mpsc::channel();
    let (work, queue) = mpsc::channel::<u32>();
    let worker = thread::spawn(move || {
        let mut ring = Ring::new(config()).unwrap();
        give.send(ring.waker()).unwrap();
        let mut seen = Seen::default();
        let mut sum = 0u64;
        loop {
            ring.turn(None, &mut seen).unwrap();
            while let Ok(n) = queue.try_recv() {
                if n == 0 {
                    return sum;
                }
                sum += u64::from(n);
            }
        }
    });
    let waker = take.recv().unwrap();
    for n in 1..=20_000u32 {
        work.send(n).unwrap();
        waker.wake();
        if n % 64 == 0 {
            thread::yield_now();
        }
    }
    work.send(0).unwrap();
    waker.wake();
    assert_eq!(worker.join().unwrap(), 20_000 * 20_001 / 2);
    assert!(waker.written() < waker.asked());
}

#[test]
fn a_dropped_ring_lets_go_of_its_port() {
    let (mut ring, address) = loopback_ring(config());
    ring.turn(Some(Duration::ZERO), &mut Seen::default()).unwrap();
    drop(ring);
    // the ring itself goes some time later; its files do not
    udp::bind(&udp::Options::new(address)).unwrap();
}

#[test]
fn a_ring_that_was_never_turned_can_be_dropped() {
    let (mut ring, address) = loopback_ring(config());
    ring.io().send(1, address, None, b"to myself").unwrap();
    let started = Instant::now();
    drop(ring);
    assert!(started.elapsed() < Duration::from_millis(500));
}

#[test]
fn nonsense_in_the_configuration_is_an_error() {
    for config in [
        Config { udp_buffers: 3, ..config() },
        Config { udp_buffer_bytes: 10, ..config() },
        Config { tap_reserve: 200, ..config() },
    ] {
        assert!(Ring::new(config).is_err());
    }
}

#[test]
fn the_probe_needs_no_network() {
    in_namespace_without_loopback(|| {
        uring::probe::probe().unwrap();
    });
}
