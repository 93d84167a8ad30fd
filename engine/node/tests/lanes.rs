//! Lanes of busy pairs: proven by ECHO, kept alive, given up, and never shown to those who would take them for paths.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use node::{LocalSocketId, Output, PlanChange};
use wire::message::Version;
use wire::{Address, Verb};

const AT_P: &str = "44.9.9.9:9993";
const LANES: [(u16, u64); 2] = [(1, 1005), (2, 2005)];

/// A leaf with three shards whose link is socket 5, and a peer `p` of this version with a path there.
fn pair(version: Version) -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    for (shard, lane) in LANES {
        b.node.add_lane(LocalSocketId(5), shard, LocalSocketId(lane));
    }
    b.join_open();
    let p = b.actor(10);
    b.actors.get_mut(&p).unwrap().version = version;
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 10);
    b.receive_frame(p, 5, AT_P, 0);
    b.take();
    (b, p)
}

/// A frame a second for so long.
fn busy(b: &mut Bench, p: Address, seconds: u64) -> Vec<Sent> {
    let mut sent = Vec::new();
    for _ in 0..seconds {
        b.send_frame(p);
        b.advance(1000);
        sent.extend(b.take());
    }
    sent
}

/// The lanes that the shards were told last, if they were told anything new.
fn told(b: &mut Bench, p: Address) -> Option<Vec<(u16, LocalSocketId)>> {
    b.drain();
    b.others.drain(..).rev().find_map(|o| match o {
        Output::Plan(PlanChange::Peer { address, lanes, .. }) if address == p => Some(lanes),
        _ => None,
    })
}

fn over_lanes(sent: &[Sent]) -> Vec<&Sent> {
    sent.iter().filter(|s| s.socket.is_some_and(|id| id > 1000)).collect()
}

#[test]
fn a_busy_pair_proves_each_lane_by_an_echo_and_keeps_it_alive() {
    let (mut b, p) = pair(V12);
    told(&mut b, p);
    let sent = busy(&mut b, p, 60);
    assert_eq!(told(&mut b, p), Some(LANES.map(|(shard, id)| (shard, LocalSocketId(id))).to_vec()));
    for (_, lane) in LANES {
        let own: Vec<&Sent> = over_lanes(&sent).into_iter().filter(|s| s.socket == Some(lane)).collect();
        assert!(
            own.iter().all(|s| (s.verb, s.remote, s.to) == (Some(Verb::Echo), addr(AT_P), p)),
            "only probes: {own:?}"
        );
        let times = times(&own);
        assert!((5..=6).contains(&times.len()), "about every 14 s: {times:?}");
        assert!(times.windows(2).all(|t| t[1] - t[0] <= 15_000), "{times:?}");
    }
    assert!(b.paths(p).iter().all(|(socket, _)| *socket < 1000), "a lane is no path: {:?}", b.paths(p));
}

#[test]
fn a_lane_over_which_nothing_comes_back_is_given_up_and_another_stays() {
    let (mut b, p) = pair(V12);
    busy(&mut b, p, 5);
    assert_eq!(told(&mut b, p).map(|lanes| lanes.len()), Some(2));
    b.actors.get_mut(&p).unwrap().only_socket = Some(2005);
    b.actors.get_mut(&p).unwrap().answers.clear();
    // The path and one lane are answered by hand, the other lane is dead.
    let mut lanes = None;
    for _ in 0..400 {
        b.send_frame(p);
        b.advance(50);
        for echo in b.take().into_iter().filter(|s| s.verb == Some(Verb::Echo) && s.to == p) {
            if let Some(socket) = echo.socket.filter(|id| *id != 1005) {
                let ok = ok_payload(Verb::Echo, echo.id, &echo.payload);
                b.receive(p, socket, AT_P, Verb::Ok, &ok);
            }
        }
        lanes = told(&mut b, p).or(lanes);
    }
    assert_eq!(lanes, Some(vec![(2, LocalSocketId(2005))]));
    assert_eq!(b.node.counters().lanes_lost, 1);
    assert_eq!(b.preferred(p), Some((5, addr(AT_P))));
}

#[test]
fn an_answer_over_a_lane_keeps_no_path_alive() {
    let (mut b, p) = pair(V12);
    busy(&mut b, p, 5);
    b.silence(p);
    let mut way = None;
    for _ in 0..60 {
        b.send_frame(p);
        b.advance(50);
        for echo in b.take().into_iter().filter(|s| s.verb == Some(Verb::Echo) && s.socket > Some(1000)) {
            let ok = ok_payload(Verb::Echo, echo.id, &echo.payload);
            b.receive(p, echo.socket.unwrap(), AT_P, Verb::Ok, &ok);
        }
        way = b.take_plan_route(p).or(way);
    }
    assert!(way.is_some_and(|remote| remote != AT_P), "the relay was taken");
}

#[test]
fn a_pair_that_falls_silent_has_no_lanes_and_sends_nothing_over_them() {
    let (mut b, p) = pair(V12);
    busy(&mut b, p, 5);
    b.advance(61_000);
    assert_eq!(told(&mut b, p), Some(vec![]));
    b.take();
    b.advance(100_000);
    assert!(over_lanes(&b.take()).is_empty());
    assert_eq!(b.node.gauges().lane_peers, 0);
}

#[test]
fn peers_that_would_take_a_lane_for_a_path_never_see_one() {
    for (major, minor, revision) in [(1, 8, 4), (1, 10, 5), (0, 0, 0)] {
        let (mut b, p) = pair(Version { protocol: 12, major, minor, revision });
        let sent = busy(&mut b, p, 60);
        assert!(only(&sent, Verb::Frame).len() >= 60 && over_lanes(&sent).is_empty(), "{major}.{minor}.{revision}");
    }
}

#[test]
fn what_comes_in_by_a_lane_counts_as_if_it_had_come_to_the_first_socket_and_is_answered_there() {
    let (mut b, p) = pair(V12);
    let echo = b.receive(p, 1005, AT_P, Verb::Echo, b"hi");
    let sent = b.take_to(p);
    let [answer] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((answer.verb, answer.socket), (Some(Verb::Ok), Some(1005)), "to {echo:x}");
    assert_eq!(b.paths(p), [(5, addr(AT_P))]);
    // A lane of theirs: the same host, another port.
    b.receive(p, 5, "44.9.9.9:9994", Verb::Echo, b"hi");
    let sent = b.take_to(p);
    assert!(only(&sent, Verb::Hello).is_empty() && only(&sent, Verb::Ok).len() == 1, "{sent:?}");
}

#[test]
fn greetings_leave_by_one_socket_of_a_link_and_a_closed_link_takes_its_lanes_along() {
    let (mut b, p) = pair(V12);
    assert_eq!(b.node.fan_out(addr(AT_P)).iter().filter(|id| id.0 > 1000).count(), 0);
    busy(&mut b, p, 5);
    told(&mut b, p);
    b.node.remove_socket(b.now, LocalSocketId(5));
    assert!(told(&mut b, p).unwrap_or_default().is_empty());
    b.take();
    assert!(over_lanes(&busy(&mut b, p, 5)).is_empty());
}

#[test]
fn frames_stay_on_their_path_while_another_is_hardly_better() {
    let (mut b, p) = pair(V12);
    const OTHER: &str = "44.9.9.10:9993";
    b.befriend(p, 5, OTHER);
    b.answer(p, OTHER, 10);
    busy(&mut b, p, 5);
    let (_, held) = b.preferred(p).unwrap();
    let (better, worse) = if held == addr(AT_P) { (OTHER, AT_P) } else { (AT_P, OTHER) };
    b.silence(p);
    b.answer(p, better, 8);
    b.answer(p, worse, 12);
    let sent = busy(&mut b, p, 120);
    assert!(only(&sent, Verb::Frame).iter().all(|s| s.remote == held));
    b.silence(p);
    b.answer(p, better, 8);
    b.answer(p, worse, 200);
    let sent = busy(&mut b, p, 300);
    assert_eq!(only(&sent, Verb::Frame).last().unwrap().remote, addr(better));
}
