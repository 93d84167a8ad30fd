//! A bond in a small world of paths that answer, are silent, or lose: virtual time, 1 ms per step, every fifth packet of data
//! asks for acknowledgement.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bond::config::{Family, IpPreference, LinkConfig, LinkMode, Mode, Params, Policy, SelectMethod};
use bond::tx::TxState;
use bond::{Action, Bond, Choice, Hint, NewPath, Observed, PathId, Reason, Refused, Selector, Why};
use wire::Now;
use wire::icmp::Cause;

struct Line {
    id: PathId,
    rtt_us: u64,
    /// Ours arrives.
    out: bool,
    /// Theirs arrives.
    back: bool,
    sent: u64,
}

struct World {
    us: u64,
    bond: Bond,
    shard: Selector,
    lines: Vec<Line>,
    acks: BinaryHeap<Reverse<(u64, usize, u64)>>,
    packets: u64,
    probes: u64,
    /// Arrivals at the remote of our stream: time, path.
    arrived: Vec<(u64, usize)>,
    relayed: u64,
}

impl World {
    fn new(params: Params, lines: &[(&str, u64)]) -> World {
        let us = 1_000_000;
        let mut bond = Bond::new(at(us), Arc::new(params), true, false, 7);
        let lines = lines
            .iter()
            .enumerate()
            .map(|(i, (link, rtt_us))| {
                let new = NewPath { link, family: Family::V4, key: i as u64 + 100, remote_port: 9993 };
                let id = bond.learn(at(us), new).expect("a path that is allowed");
                Line { id, rtt_us: *rtt_us, out: true, back: true, sent: 0 }
            })
            .collect();
        let shard = Selector::new(bond.plan().clone(), 1024);
        let acks = BinaryHeap::new();
        World { us, bond, shard, lines, acks, packets: 0, probes: 0, arrived: Vec::new(), relayed: 0 }
    }

    fn line(&self, id: PathId) -> usize {
        self.lines.iter().position(|l| l.id == id).expect("a path of the world")
    }

    fn request(&mut self, i: usize, probe: bool) {
        self.packets += 1;
        let (id, packet) = (self.lines[i].id, self.packets);
        self.bond.requested(at(self.us), id, packet, probe);
        if self.lines[i].out && self.lines[i].back {
            self.acks.push(Reverse((self.us + self.lines[i].rtt_us, i, packet)));
        }
    }

    fn send(&mut self, i: usize) {
        self.lines[i].sent += 1;
        if self.lines[i].sent % 5 == 1 {
            self.request(i, false);
        }
        if self.lines[i].out {
            self.arrived.push((self.us + self.lines[i].rtt_us / 2, i));
        }
    }

    fn step(&mut self, data: bool) {
        self.us += 1000;
        while let Some(Reverse((due, i, packet))) = self.acks.peek().copied().filter(|a| a.0.0 <= self.us) {
            self.acks.pop();
            if self.lines[i].back {
                self.bond.heard(at(due), self.lines[i].id);
                self.bond.acked(at(due), self.lines[i].id, packet);
            }
        }
        if self.us.is_multiple_of(10_000) {
            let mut actions = Vec::new();
            self.bond.tick(at(self.us), &mut actions);
            for action in actions {
                if let Action::Probe(id) = action {
                    self.probes += 1;
                    let i = self.line(id);
                    self.request(i, true);
                }
            }
        }
        self.shard.adopt(self.bond.plan().clone());
        if data {
            match self.shard.select(42, 1000, self.us) {
                Choice::Path(id) => {
                    let i = self.line(id);
                    self.send(i);
                }
                // No striper here: any of them will do.
                Choice::Striped => {
                    let i = self.line(self.bond.plan().paths[0].id);
                    self.send(i);
                }
                Choice::Copies => {
                    for p in self.bond.plan().clone().paths.iter() {
                        let i = self.line(p.id);
                        self.send(i);
                    }
                }
                Choice::Relay => self.relayed += 1,
                Choice::Unbonded => assert!(self.arrived.is_empty(), "never again"),
            }
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step(true);
        }
    }

    /// The longest time without an arrival after `from`, ms.
    fn longest_gap(&self, from: u64) -> u64 {
        let mut times: Vec<u64> = self.arrived.iter().map(|a| a.0).filter(|t| *t >= from).collect();
        times.sort_unstable();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(u64::MAX) / 1000
    }

    fn active(&self) -> usize {
        self.line(self.bond.plan().paths[0].id)
    }

    fn cut(&mut self, i: usize, back: bool) {
        (self.lines[i].out, self.lines[i].back) = (false, back);
    }

    fn heal(&mut self, i: usize) {
        (self.lines[i].out, self.lines[i].back) = (true, true);
    }
}

fn at(us: u64) -> Now {
    Now { mono_us: us, unix_ms: 1_700_000_000_000 + us / 1000 }
}

fn params(policy: Policy) -> Params {
    Params::standard(policy, Mode::Better)
}

fn link(name: &str, mode: LinkMode) -> LinkConfig {
    LinkConfig { mode, ..LinkConfig::automatic(name) }
}

#[test]
fn a_silent_cut_costs_a_few_round_trips() {
    // Cuts at every phase of the tick and of the requests, both ways and one way.
    for (rtt, limit) in [(20_000, 60), (40_000, 80)] {
        let mut gaps = Vec::new();
        for one_way in [false, true] {
            for phase in 0..25 {
                let mut w = World::new(params(Policy::ActiveBackup), &[("a", rtt), ("b", rtt + 1000)]);
                w.run(2000 + phase);
                let first = w.active();
                let cut = w.us;
                w.cut(first, one_way);
                w.run(2000);
                assert_ne!(w.active(), first);
                gaps.push(w.longest_gap(cut));
            }
        }
        gaps.sort_unstable();
        println!("rtt {} ms: gap p50 {} ms, max {} ms", rtt / 1000, gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        assert!(gaps[gaps.len() - 1] <= limit, "{gaps:?}");
    }
}

#[test]
fn a_link_that_the_kernel_reports_is_left_at_once() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 20_000)]);
    w.run(1500);
    let (first, cut) = (w.active(), w.us);
    w.cut(first, false);
    w.bond.link_lost(at(w.us), w.lines[first].id);
    w.run(500);
    assert!(w.longest_gap(cut) <= 1, "{}", w.longest_gap(cut));
    assert!(w.bond.decisions().any(|d| d.reason == Reason::LinkLost(w.lines[first].id)));
}

#[test]
fn a_path_that_only_brings_packets_in_is_no_path_out() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    let first = w.active();
    w.cut(first, true);
    for _ in 0..500 {
        w.bond.heard(at(w.us), w.lines[first].id);
        w.step(true);
    }
    assert_ne!(w.active(), first);
}

#[test]
fn a_new_path_is_not_trusted_before_it_answers() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 5_000)]);
    w.cut(1, true);
    w.run(3000);
    assert_eq!(w.active(), 0);
    assert_eq!(w.arrived.iter().filter(|a| a.1 == 1).count(), 0);
}

#[test]
fn a_path_that_returns_waits_for_its_up_delay() {
    let params = Params {
        up_delay: 2000,
        links: vec![link("a", LinkMode::Primary), link("b", LinkMode::Spare)],
        ..params(Policy::ActiveBackup)
    };
    let mut w = World::new(params, &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    assert_eq!(w.active(), 0);
    w.cut(0, false);
    w.run(1000);
    assert_eq!(w.active(), 1);
    let down = w.bond.decisions().rev().find(|d| matches!(d.reason, Reason::Down { .. })).unwrap().at.mono_us;
    w.heal(0);
    w.run(4500);
    assert_eq!(w.active(), 0);
    let back = w.bond.decisions().rev().find(|d| matches!(d.reason, Reason::Active { .. })).unwrap();
    assert!(matches!(back.reason, Reason::Active { why: Why::Preferred, .. }));
    // It was healed a second after it was cut, and answers the next probe.
    let waited = (back.at.mono_us - down) / 1000;
    assert!((2900..=4500).contains(&waited), "{waited}");
}

#[test]
fn a_flapping_link_is_held_back_after_the_third_time() {
    let params = Params {
        links: vec![link("a", LinkMode::Primary), link("b", LinkMode::Spare)],
        ..params(Policy::ActiveBackup)
    };
    let mut w = World::new(params, &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    let mut third = 0;
    for n in 0..30 {
        w.cut(0, false);
        w.run(1000);
        w.heal(0);
        w.run(1000);
        if n == 2 {
            third = w.us;
        }
    }
    assert!(w.longest_gap(1_500_000) <= 150, "{}", w.longest_gap(1_500_000));
    let late = w.arrived.iter().filter(|a| a.1 == 0 && a.0 > third).count();
    assert_eq!(late, 0);
    w.run(60_000);
    assert_eq!(w.active(), 0, "once it stands still it is used again");
}

#[test]
fn without_any_path_data_is_relayed_until_one_answers() {
    for policy in [Policy::ActiveBackup, Policy::Broadcast, Policy::BalanceXor, Policy::BalanceAware, Policy::BalanceRr]
    {
        let mut w = World::new(params(policy), &[("a", 20_000), ("b", 20_000)]);
        w.run(1000);
        w.cut(0, false);
        w.cut(1, false);
        let cut = w.us;
        w.run(3000);
        assert!(w.bond.plan().relay, "{policy}");
        let relay = w.bond.decisions().rev().find(|d| d.reason == Reason::Relay).unwrap();
        assert!(relay.at.mono_us - cut <= 2_500_000, "{policy}");
        assert!(w.relayed > 0, "{policy}");
        w.heal(1);
        w.run(8000);
        assert!(!w.bond.plan().relay, "{policy}");
        assert_eq!(w.bond.plan().paths.len(), 1, "{policy}");
        assert_eq!(w.active(), 1, "{policy}");
    }
}

#[test]
fn spares_work_only_when_no_primary_does() {
    let links = vec![link("a", LinkMode::Primary), link("b", LinkMode::Primary), link("c", LinkMode::Spare)];
    let mut w =
        World::new(Params { links, ..params(Policy::BalanceXor) }, &[("a", 20_000), ("b", 20_000), ("c", 10_000)]);
    w.run(1000);
    let members = |w: &World| -> Vec<usize> { w.bond.plan().paths.iter().map(|p| w.line(p.id)).collect() };
    assert_eq!(members(&w), [0, 1]);
    w.cut(0, false);
    w.cut(1, false);
    w.run(5000);
    assert_eq!(members(&w), [2]);
    w.heal(1);
    w.run(10_000);
    assert_eq!(members(&w), [1]);
}

#[test]
fn failover_goes_to_the_link_that_is_named() {
    let mut a = link("a", LinkMode::Primary);
    a.failover_to = Some("c".into());
    let links = vec![a, link("b", LinkMode::Spare), link("c", LinkMode::Spare)];
    let mut w =
        World::new(Params { links, ..params(Policy::ActiveBackup) }, &[("a", 20_000), ("b", 5_000), ("c", 30_000)]);
    w.run(1000);
    assert_eq!(w.active(), 0);
    w.cut(0, false);
    w.run(1000);
    assert_eq!(w.active(), 2);
}

#[test]
fn select_methods_differ_when_the_preferred_link_returns() {
    for (select, slow, returns) in [
        (SelectMethod::Always, 30_000, true),
        (SelectMethod::Better, 30_000, false),
        (SelectMethod::Better, 10_000, true),
        (SelectMethod::Failure, 10_000, false),
        (SelectMethod::Optimize, 10_000, true),
        (SelectMethod::Optimize, 19_500, false),
    ] {
        let links = vec![link("a", LinkMode::Primary), link("b", LinkMode::Spare)];
        let mut w = World::new(Params { links, select, ..params(Policy::ActiveBackup) }, &[("a", slow), ("b", 20_000)]);
        w.run(1000);
        assert_eq!(w.active(), 0, "{select:?}");
        w.cut(0, false);
        w.run(1000);
        assert_eq!(w.active(), 1, "{select:?}");
        w.heal(0);
        w.run(30_000);
        assert_eq!(w.active() == 0, returns, "{select:?} {slow}");
    }
}

#[test]
fn rotation_stays_until_the_path_fails() {
    let links = vec![link("a", LinkMode::Primary), link("b", LinkMode::Spare)];
    let mut w = World::new(Params { links, ..params(Policy::ActiveBackup) }, &[("a", 10_000), ("b", 20_000)]);
    w.run(1000);
    assert!(w.bond.rotate(at(w.us)));
    w.run(30_000);
    assert_eq!(w.active(), 1);
    w.cut(1, false);
    w.run(1000);
    assert_eq!(w.active(), 0);
    assert!(!w.bond.rotate(at(w.us)), "there is nobody to rotate to");
}

#[test]
fn broadcast_sends_one_copy_per_link() {
    let mut w = World::new(params(Policy::Broadcast), &[("a", 20_000), ("a", 30_000), ("b", 20_000)]);
    w.run(1000);
    let members: Vec<usize> = w.bond.plan().paths.iter().map(|p| w.line(p.id)).collect();
    assert_eq!(members, [0, 2]);
    let cut = w.us;
    w.cut(0, false);
    w.run(2000);
    assert!(w.longest_gap(cut) <= 2, "the other copy arrives: {}", w.longest_gap(cut));
}

#[test]
fn suspicion_of_all_paths_keeps_the_best() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 100_000), ("b", 120_000)]);
    w.run(3000);
    w.cut(0, false);
    w.cut(1, false);
    let mut seen = false;
    for _ in 0..400 {
        w.step(true);
        let suspects = w.lines.iter().all(|l| w.bond.paths().get(l.id).unwrap().tx.state() == TxState::Suspect);
        if suspects {
            seen = true;
            assert_eq!(w.bond.plan().paths.len(), 1);
        }
    }
    assert!(seen && w.bond.decisions().any(|d| d.reason == Reason::AllSuspect));
}

#[test]
fn a_lost_packet_is_no_lost_path() {
    // Each 50th answer is missing; the next one tells that it was a loss.
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 40_000)]);
    for n in 0..20_000 {
        w.lines[0].back = n % 250 < 245;
        w.step(true);
    }
    let left = w.bond.decisions().filter(|d| matches!(d.reason, Reason::Down { .. })).count();
    assert_eq!(left, 0);
    assert!(w.bond.paths().get(w.lines[0].id).unwrap().tx.loss() > 0.0);
}

#[test]
fn probes_are_polite() {
    // One path works and is idle, one is silent: a minute of both.
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 20_000)]);
    w.run(2000);
    w.cut(1, false);
    for _ in 0..10_000 {
        w.step(false);
    }
    let before = w.probes;
    for _ in 0..60_000 {
        w.step(false);
    }
    let per_minute = w.probes - before;
    println!("probes of two idle paths, one dead: {per_minute} per minute");
    // 51 + 45 bytes each: within 1 kB/s.
    assert!(per_minute * 96 <= 60 * 1000, "{per_minute}");
    assert!(per_minute >= 12 + 30, "{per_minute}");
}

#[test]
fn a_full_path_gives_one_large_flow_away() {
    let mut w = World::new(params(Policy::BalanceXor), &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    let observe = |w: &mut World, i: usize, load: f64| {
        let id = w.lines[i].id;
        w.bond.observe(id, Observed { rate: Some(1e6), load, ..Observed::default() });
    };
    let on = match w.shard.select(42, 1000, w.us) {
        Choice::Path(id) => w.line(id),
        other => panic!("{other:?}"),
    };
    for _ in 0..3000 {
        let now_on = w.arrived.last().map_or(on, |a| a.1);
        observe(&mut w, now_on, if now_on == on { 0.99e6 } else { 0.5e6 });
        observe(&mut w, 1 - now_on, 0.1e6);
        w.step(true);
    }
    assert_eq!(w.arrived.last().unwrap().1, 1 - on);
    assert_eq!(w.shard.counters().relieved, 1, "and it does not come back");
    assert!(w.bond.decisions().any(|d| matches!(d.reason, Reason::Relief { .. })));
}

#[test]
fn a_flow_that_fills_every_path_is_moved_once_and_a_path_of_unknown_rate_is_never_full() {
    for (known, moves) in [(true, 1), (false, 0)] {
        let mut w = World::new(params(Policy::BalanceXor), &[("a", 20_000), ("b", 20_000)]);
        w.run(1000);
        for _ in 0..20_000 {
            let on = w.arrived.last().map_or(0, |a| a.1);
            for i in 0..2 {
                let (id, load) = (w.lines[i].id, if i == on { 9e6 } else { 0.0 });
                w.bond.observe(id, Observed { rate: known.then_some(9e6), load, ..Observed::default() });
            }
            w.step(true);
        }
        assert_eq!(w.shard.counters().relieved, moves, "known {known}");
    }
}

#[test]
fn a_path_that_is_slow_because_it_is_full_is_left_ever_more_seldom() {
    let optimize = Params { select: SelectMethod::Optimize, ..params(Policy::ActiveBackup) };
    let mut w = World::new(optimize, &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    for _ in 0..600_000 {
        let on = w.active();
        for (i, line) in w.lines.iter_mut().enumerate() {
            line.rtt_us = if i == on { 70_000 } else { 20_000 };
        }
        w.step(true);
    }
    let moves = w.bond.decisions().filter(|d| matches!(d.reason, Reason::Active { why: Why::Faster, .. })).count();
    assert!((1..=6).contains(&moves), "{moves} moves in ten minutes");
}

#[test]
fn who_answered_first_gives_way_to_who_is_much_faster() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("slow", 60_000), ("fast", 20_000)]);
    w.cut(1, false);
    w.run(200);
    assert_eq!(w.active(), 0);
    w.heal(1);
    w.run(1000);
    assert_eq!(w.active(), 1);
}

#[test]
fn paths_are_in_use_once_one_of_known_rate_is_half_full_and_until_all_are_nearly_empty() {
    let mut w = World::new(params(Policy::BalanceAware), &[("a", 20_000), ("b", 20_000)]);
    w.run(1000);
    let mut busy = |rate: [Option<f64>; 2], load: [f64; 2]| {
        for i in 0..2 {
            w.bond.observe(w.lines[i].id, Observed { rate: rate[i], load: load[i], ..Observed::default() });
        }
        (0..1100).for_each(|_| w.step(true));
        w.bond.plan().busy
    };
    assert!(!busy([Some(1e6), None], [0.9e6, 0.9e6]), "nobody knows what the second carries");
    assert!(!busy([None, Some(1e6)], [0.4e6, 0.4e6]));
    assert!(busy([None, None], [0.4e6, 0.6e6]));
    assert!(busy([None, None], [0.05e6, 0.15e6]));
    assert!(!busy([None, None], [0.05e6, 0.05e6]));
}

#[test]
fn contradictory_links_are_refused_and_counted() {
    let mut off = link("off", LinkMode::Primary);
    off.off = true;
    let mut six = link("six", LinkMode::Primary);
    six.ip = IpPreference(6);
    let params = Params { links: vec![link("a", LinkMode::Primary), off, six], ..params(Policy::BalanceAware) };
    let mut bond = Bond::new(at(1), Arc::new(params), true, false, 7);
    let mut learn = |link: &str, key| bond.learn(at(1), NewPath { link, family: Family::V4, key, remote_port: 9993 });
    assert_eq!(learn("unknown", 1), Err(Refused::Link));
    assert_eq!(learn("off", 2), Err(Refused::Link));
    assert_eq!(learn("six", 3), Err(Refused::Family));
    let id = learn("a", 4).unwrap();
    assert_eq!(learn("a", 4), Err(Refused::Known(id)));
    for key in 5..68 {
        assert!(learn("a", key).is_ok());
    }
    assert_eq!(learn("a", 99), Err(Refused::Full));
    let c = bond.counters();
    assert_eq!((c.refused_link, c.refused_family, c.refused_full), (2, 1, 1));
}

#[test]
fn compat_mode_fails_over_as_the_specification_says() {
    // Both paths answer each tick; the active one is cut at 20 s and noticed after the failover interval.
    let params = Params::standard(Policy::ActiveBackup, Mode::Compat);
    let mut bond = Bond::new(at(0), Arc::new(params), true, false, 7);
    let ids: Vec<PathId> = ["a", "b"]
        .iter()
        .zip(1..)
        .map(|(link, key)| bond.learn(at(0), NewPath { link, family: Family::V4, key, remote_port: 9993 }).unwrap())
        .collect();
    let mut moved = None;
    for tick in 1..=120u64 {
        let us = tick * 500_000;
        for (i, id) in ids.iter().enumerate() {
            if i == 1 || us <= 20_000_000 {
                bond.heard(at(us - 100_000), *id);
            }
        }
        bond.tick(at(us), &mut Vec::new());
        if tick == 1 {
            assert_eq!(bond.plan().paths[0].id, ids[0]);
        }
        if moved.is_none() && bond.plan().paths.first().map(|p| p.id) == Some(ids[1]) {
            moved = Some(us);
        }
    }
    assert_eq!(moved, Some(25_000_000));
}

#[test]
fn who_took_over_and_is_late_for_all_that_it_must_carry_keeps_the_data() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 22_000)]);
    w.run(3000);
    w.cut(0, false);
    while w.bond.plan().paths[0].id != w.lines[1].id {
        w.step(true);
    }
    // What is sent again fills its queue for a while.
    w.lines[1].rtt_us = 60_000;
    let (second, before) = (w.lines[1].id, w.lines[0].sent);
    for _ in 0..60 {
        w.step(true);
        assert_eq!(w.bond.plan().paths[0].id, second);
    }
    assert_eq!(w.lines[0].sent, before);
    assert!(w.bond.decisions().any(|d| d.reason == Reason::AllSuspect), "it was late");
}

#[test]
fn what_went_with_a_link_is_sent_again_over_the_only_path_that_is_left() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 20_000)]);
    w.run(3000);
    let gone = w.bond.plan().paths[0].id;
    w.bond.forget(at(w.us), gone);
    let plan = w.bond.plan();
    assert!(plan.lost.contains(&gone) && plan.paths.len() == 1 && plan.recall_us > 0, "{plan:?}");
}

#[test]
fn an_icmp_error_that_names_a_request_moves_the_data_at_once_and_an_answer_clears_the_path() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 22_000)]);
    w.run(3000);
    let (first, cut) = (w.active(), w.us);
    w.lines[first].out = false;
    w.request(first, true);
    let id = w.lines[first].id;
    assert_eq!(w.bond.unreachable(at(w.us), id, Some(w.packets), Cause::Host), Hint::Suspect);
    assert_ne!(w.active(), first, "in the same instant");
    assert!(w.bond.plan().lost.contains(&id) && w.bond.plan().recall_us > 0, "what was under way is sent again");
    assert!(w.bond.decisions().any(|d| d.reason == Reason::Unreachable { path: id, cause: Cause::Host }));
    w.heal(first);
    w.run(100);
    assert!(w.longest_gap(cut) <= 2, "{}", w.longest_gap(cut));
    assert_eq!(w.bond.paths().get(id).expect("kept").tx.state(), TxState::Good);
    assert!(w.bond.decisions().any(|d| d.reason == Reason::Cleared(id)));
}

#[test]
fn a_flood_of_forged_icmp_errors_takes_nothing_from_a_path_that_works() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 22_000)]);
    w.run(3000);
    let (first, from, decisions) = (w.active(), w.us, w.bond.decisions_total());
    let mut asks = 0;
    for n in 0..10_000 {
        for i in 0..2 {
            let named = (n % 3 > 0).then_some(n << 32);
            let hint = w.bond.unreachable(at(w.us), w.lines[i].id, named, Cause::Port);
            assert_ne!(hint, Hint::Suspect);
            if hint == Hint::Ask {
                asks += 1;
                w.request(i, true);
            }
        }
        w.step(true);
    }
    assert_eq!((w.active(), w.longest_gap(from), w.bond.decisions_total()), (first, 1, decisions));
    assert_eq!(asks, 2 * 50, "five a second and path");
}

#[test]
fn who_reads_our_packets_and_forges_errors_about_them_costs_a_path_one_round_trip_in_ten_seconds() {
    let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 22_000)]);
    w.run(3000);
    let (from, mut suspects, mut away) = (w.us, 0, 0);
    for _ in 0..30_000 {
        w.step(true);
        for i in 0..2 {
            w.request(i, true);
            let id = w.lines[i].id;
            let hint = w.bond.unreachable(at(w.us), id, Some(w.packets), Cause::Host);
            suspects += u32::from(hint == Hint::Suspect);
            away += u32::from(w.bond.paths().get(id).expect("kept").tx.state() != TxState::Good);
        }
    }
    assert!((2..=2 * 3).contains(&suspects) && away <= suspects * 40, "{suspects} times, {away} ms in all");
    assert!(w.longest_gap(from) <= 2 && w.relayed == 0, "{}", w.longest_gap(from));
}

#[test]
fn an_icmp_error_is_nothing_to_a_bond_that_decides_as_the_reference() {
    let mut w = World::new(Params::standard(Policy::BalanceXor, Mode::Compat), &[("a", 20_000), ("b", 20_000)]);
    w.run(3000);
    w.request(0, true);
    assert_eq!(w.bond.unreachable(at(w.us), w.lines[0].id, Some(w.packets), Cause::Host), Hint::Nothing);
}

#[test]
fn a_request_is_about_the_path_that_the_remote_sends_over_whichever_it_came_by() {
    for (sends_over_other, asks_over_other) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut w = World::new(params(Policy::ActiveBackup), &[("a", 20_000), ("b", 20_000)]);
        w.bond.negotiate(true);
        w.run(1000);
        let ours = w.active();
        let way = |other: bool| if other { 1 - ours } else { ours };
        for (line, inbound) in [(way(sends_over_other), 9), (1 - way(sends_over_other), 1)] {
            w.bond.observe(w.lines[line].id, Observed { inbound, ..Observed::default() });
        }
        w.bond.negotiation_request(at(w.us), w.lines[way(asks_over_other)].id, 30_000);
        assert_eq!(w.active(), way(sends_over_other));
    }
}
