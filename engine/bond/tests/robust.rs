//! Whatever is said to a bond, in whatever order: it stands, its plan holds, its numbers are numbers.

use std::sync::Arc;

use bond::config::{
    Bonding, Family, LinkConfig, LinkMode, LinkSettings, Mode, Params, Policy, PolicySettings, Settings,
};
use bond::limits::{DECISIONS_MAX, LAST_RESORT_US, LINK_MTU_MAX, LINK_MTU_MIN, RATE_MAX, RATE_MIN};
use bond::model::PathModel;
use bond::path::BondPath;
use bond::tx::TxState;
use bond::{Action, Bond, Choice, NewPath, Observed, PathId, Selector};
use proptest::prelude::*;
use wire::Now;

#[derive(Clone, Debug)]
enum Op {
    Learn(u8, u8),
    Forget(u8),
    LinkLost(u8),
    Unreachable(u8, Option<u64>),
    Heard(u8),
    Ack(u8, u64),
    Flood(u8, u16),
    Answer(u8),
    Reported(u8, i64),
    Observe(u8, f64, f64),
    Negotiation(u8, i16),
    Rotate,
    Wait(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let rate = prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(0.0), Just(-1.0), 1e3..1e9f64];
    let op = prop_oneof![
        (any::<u8>(), any::<u8>()).prop_map(|(l, k)| Op::Learn(l % 5, k)),
        any::<u8>().prop_map(Op::Forget),
        any::<u8>().prop_map(Op::LinkLost),
        (any::<u8>(), prop::option::of(0_u64..8)).prop_map(|(p, id)| Op::Unreachable(p, id)),
        any::<u8>().prop_map(Op::Heard),
        (any::<u8>(), any::<u64>()).prop_map(|(p, id)| Op::Ack(p, id)),
        (any::<u8>(), 0u16..500).prop_map(|(p, n)| Op::Flood(p, n)),
        any::<u8>().prop_map(Op::Answer),
        any::<u8>().prop_map(Op::Answer),
        (any::<u8>(), any::<i64>()).prop_map(|(p, us)| Op::Reported(p, us)),
        (any::<u8>(), rate.clone(), rate).prop_map(|(p, r, l)| Op::Observe(p, r, l)),
        (any::<u8>(), any::<i16>()).prop_map(|(p, u)| Op::Negotiation(p, u)),
        Just(Op::Rotate),
        (0u32..200_000).prop_map(Op::Wait),
        (0u32..5_000_000).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 1..200)
}

fn params(policy: u8, mode: bool, listed: bool) -> Params {
    let mode = if mode { Mode::Better } else { Mode::Compat };
    let mut params = Params::standard(Policy::ALL[usize::from(policy) % 6], mode);
    if listed {
        params.links = vec![
            LinkConfig { capacity: u64::MAX, ..LinkConfig::automatic("l0") },
            LinkConfig { mode: LinkMode::Spare, failover_to: Some("l1".into()), ..LinkConfig::automatic("l1") },
            LinkConfig { failover_to: Some("nowhere".into()), capacity: 1, ..LinkConfig::automatic("l2") },
        ];
    }
    params
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_bond_survives_anything(policy in any::<u8>(), mode: bool, listed: bool, negotiates: bool, ops in ops()) {
        let params = Arc::new(params(policy, mode, listed));
        let mut us = 1_000_000u64;
        let at = |us: u64| Now { mono_us: us, unix_ms: us / 1000 };
        let mut bond = Bond::new(at(us), params.clone(), true, policy & 1 == 0, 7);
        bond.negotiate(negotiates);
        let mut shard = Selector::new(bond.plan().clone(), 64);
        // Also the names of paths that are gone: they must name nothing.
        let mut ids: Vec<PathId> = vec![PathId { slot: 63, generation: 9 }];
        let mut asked: Vec<(PathId, u64)> = Vec::new();
        let mut packet = 0u64;
        for op in ops {
            let id = |p: u8| ids[usize::from(p) % ids.len()];
            match op {
                Op::Learn(link, key) => {
                    let name = format!("l{link}");
                    let family = if key % 2 == 0 { Family::V4 } else { Family::V6 };
                    let new = NewPath { link: &name, family, key: u64::from(key), remote_port: 9993 };
                    ids.extend(bond.learn(at(us), new));
                }
                Op::Forget(p) => bond.forget(at(us), id(p)),
                Op::LinkLost(p) => bond.link_lost(at(us), id(p)),
                Op::Unreachable(p, named) => {
                    // One of the last probes, or none of ours.
                    let named = named.map(|back| packet.wrapping_sub(back));
                    bond.unreachable(at(us), id(p), named, wire::icmp::Cause::Host);
                }
                Op::Heard(p) => {
                    bond.heard(at(us), id(p));
                }
                Op::Ack(p, id_of) => bond.acked(at(us), id(p), id_of),
                Op::Flood(p, n) => {
                    for n in 0..u64::from(n) {
                        bond.requested(at(us), id(p), (1 << 40) + n, n % 2 == 0);
                    }
                }
                Op::Answer(p) => {
                    if !asked.is_empty() {
                        let (id, packet) = asked.remove(usize::from(p) % asked.len());
                        bond.acked(at(us), id, packet);
                    }
                }
                Op::Reported(p, round) => bond.reported(at(us), id(p), round),
                Op::Observe(p, rate, load) => {
                    bond.observe(id(p), Observed { rate: Some(rate), load, inbound: 3, outbound: 1 });
                }
                Op::Negotiation(p, utility) => bond.negotiation_request(at(us), id(p), utility),
                Op::Rotate => {
                    bond.rotate(at(us));
                }
                Op::Wait(d) => us += u64::from(d),
            }
            let mut actions = Vec::new();
            bond.tick(at(us), &mut actions);
            for action in actions {
                if let Action::Probe(id) = action {
                    packet += 1;
                    bond.requested(at(us), id, packet, true);
                    asked.push((id, packet));
                }
            }
            let plan = bond.plan().clone();
            for p in &plan.paths {
                prop_assert!(bond.paths().get(p.id).is_some(), "the plan names a path that is gone");
                prop_assert!(p.weight.is_finite() && p.weight > 0.0 && (RATE_MIN..=RATE_MAX).contains(&p.rate));
            }
            prop_assert!(bond.decisions().count() <= DECISIONS_MAX);
            shard.adopt(plan.clone());
            for flow in 0..8 {
                match shard.select(flow, 1000, us) {
                    Choice::Path(id) => prop_assert!(plan.paths.iter().any(|p| p.id == id)),
                    Choice::Striped | Choice::Copies => prop_assert!(!plan.paths.is_empty()),
                    Choice::Relay => prop_assert!(plan.paths.is_empty()),
                    Choice::Unbonded => prop_assert_eq!(plan.policy, Policy::None),
                }
            }
            // Never "no path" while one is good, or answered within the last second. Before the first good one there is no bond.
            let fresh = |at: u64| us.saturating_sub(at) < LAST_RESORT_US;
            let works = |p: &BondPath| p.tx.state() == TxState::Good || p.tx.last_ack().is_some_and(fresh);
            let good = bond.paths().iter().any(|p| p.tx.state() == TxState::Good);
            let bonded = good || plan.policy != Policy::None;
            if bond.paths().iter().any(works) && mode && bonded && params.policy != Policy::None {
                prop_assert!(!plan.paths.is_empty());
            }
        }
    }

    #[test]
    fn a_bond_always_recovers(policy in 1u8..6, ops in ops()) {
        let params = Arc::new(params(policy, true, false));
        let mut us = 1_000_000u64;
        let at = |us: u64| Now { mono_us: us, unix_ms: us / 1000 };
        let mut bond = Bond::new(at(us), params, true, false, 7);
        let new = NewPath { link: "l0", family: Family::V4, key: 1, remote_port: 9993 };
        let id = bond.learn(at(us), new).unwrap();
        for op in ops {
            match op {
                Op::LinkLost(_) => bond.link_lost(at(us), id),
                Op::Unreachable(_, _) => _ = bond.unreachable(at(us), id, Some(1 << 40), wire::icmp::Cause::Port),
                Op::Ack(_, n) => bond.acked(at(us), id, n),
                Op::Flood(_, n) => (0..n).for_each(|n| bond.requested(at(us), id, (1 << 40) + u64::from(n), true)),
                Op::Observe(_, r, l) => bond.observe(id, Observed { rate: Some(r), load: l, ..Observed::default() }),
                Op::Wait(d) => us += u64::from(d),
                _ => {}
            }
            bond.tick(at(us), &mut Vec::new());
        }
        // From here on every probe is answered after 20 ms.
        let mut packet = 1 << 50;
        let mut due: Vec<(u64, u64)> = Vec::new();
        for _ in 0..3000 {
            us += 10_000;
            let now_due: Vec<(u64, u64)> = due.extract_if(.., |d| d.0 <= us).collect();
            for (_, n) in now_due {
                bond.acked(at(us), id, n);
            }
            let mut actions = Vec::new();
            bond.tick(at(us), &mut actions);
            for _ in actions {
                packet += 1;
                bond.requested(at(us), id, packet, true);
                due.push((us + 20_000, packet));
            }
        }
        prop_assert_eq!(bond.plan().paths.len(), 1);
        prop_assert!(!bond.plan().relay);
    }

    #[test]
    fn a_model_never_leaves_its_bounds(
        steps in prop::collection::vec((0u64..200_000_000, 0usize..70_000, any::<bool>(), any::<u64>()), 1..300),
        rtt in prop::option::of(any::<u64>()),
        capacity in prop::option::of(any::<f64>()),
    ) {
        let mut model = PathModel::new(0, rtt.map(|r| r % 10_000_000_000), capacity);
        let mut now = 0;
        for (n, (wait, len, limited, id)) in steps.into_iter().enumerate() {
            now += wait;
            model.sent(now, len, limited, Some(n as u64));
            model.acked(now + wait / 2, if id % 3 == 0 { id } else { n as u64 });
            now += wait / 2;
            prop_assert!(model.pace().is_finite() && (RATE_MIN..=RATE_MAX).contains(&model.pace()));
            prop_assert!(model.rate().is_finite() && model.rate() > 0.0);
        }
    }

    #[test]
    fn settings_are_judged_and_never_feared(
        default in "[a-z-]{0,14}",
        base in prop::option::of("(active-backup|broadcast|balance-rr|balance-xor|balance-aware|none|[a-z]{0,8})"),
        interval in prop::option::of(any::<i64>()),
        weight in any::<f64>(),
        ip in any::<i64>(),
        mode: bool,
    ) {
        let link = LinkSettings {
            ip_preference: Some(ip),
            capacity: interval,
            capacity_has_unit: !mode,
            mtu: interval,
            failover_to: Some(default.clone()),
            ..LinkSettings::default()
        };
        let policy = PolicySettings {
            base,
            failover_interval: interval,
            up_delay: interval,
            quality: [("lat_weight".to_owned(), weight), ("lat_max".to_owned(), weight)].into(),
            links: [("eth0".to_owned(), link)].into(),
            ..PolicySettings::default()
        };
        let settings = Settings {
            default,
            policies: [("x".to_owned(), policy)].into(),
            peers: [(1, "x".to_owned()), (2, "y".to_owned())].into(),
            mode: if mode { Mode::Better } else { Mode::Compat },
        };
        let (bonding, problems) = Bonding::read(&settings);
        if mode {
            prop_assert!(problems.iter().any(|p| p.to_string().contains("policy y does not exist")));
        }
        for peer in 0..3 {
            if let Some(p) = bonding.of(peer) {
                prop_assert!(p.failover_interval >= 500);
                prop_assert!((p.quality.weights.iter().sum::<f32>() - 1.0).abs() < 0.011);
                prop_assert!(p.quality.latency_max > 0.0 && p.quality.latency_max.is_finite());
                for link in &p.links {
                    prop_assert!(link.mtu == 0 || (LINK_MTU_MIN..=LINK_MTU_MAX).contains(&link.mtu));
                    prop_assert!(link.failover_to.as_deref().is_none_or(|to| p.links.iter().any(|l| &*l.name == to)));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_bond_that_is_looked_at_only_when_it_says_so_fails_and_probes_as_early_as_one_that_always_is(
        steps in prop::collection::vec((0..3usize, 0..8u8, 0..20_000u64), 1..400),
    ) {
        let mut us = 1_000_000;
        let now = |us| Now { mono_us: us, unix_ms: 0 };
        let params = Arc::new(Params::standard(Policy::BalanceAware, Mode::Better));
        let mut bonds = [(); 2].map(|()| Bond::new(now(us), params.clone(), true, false, 7));
        let ids: Vec<_> = (0..3u64).map(|n| {
            let link = format!("eth{n}");
            let new = NewPath { link: &link, family: Family::V4, key: n, remote_port: 9993 };
            let [one, two] = bonds.each_mut().map(|bond| bond.learn(now(us), new.clone()).expect("a path"));
            assert_eq!(one, two);
            one
        }).collect();
        let mut waiting: [Vec<u64>; 3] = Default::default();
        let mut packet = 0;
        for (n, what, step) in steps {
            us += step;
            match what {
                0..4 => {
                    packet += 1;
                    waiting[n].push(packet);
                    bonds.iter_mut().for_each(|bond| bond.requested(now(us), ids[n], packet, false));
                }
                4..7 if !waiting[n].is_empty() => {
                    let id = waiting[n].remove(0);
                    bonds.iter_mut().for_each(|bond| bond.acked(now(us), ids[n], id));
                }
                _ => waiting[n].clear(),
            }
            let mut actions = [Vec::new(), Vec::new()];
            let [always, seldom] = &mut bonds;
            always.tick(now(us), &mut actions[0]);
            if seldom.due_us(now(us)).is_none_or(|due| due <= us) {
                seldom.tick(now(us), &mut actions[1]);
            }
            prop_assert_eq!(&actions[0], &actions[1]);
            for action in actions[0].drain(..) {
                if let Action::Probe(id) = action {
                    packet += 1;
                    let n = ids.iter().position(|i| *i == id).expect("a path of ours");
                    waiting[n].push(packet);
                    bonds.iter_mut().for_each(|bond| bond.requested(now(us), id, packet, true));
                }
            }
            let state = |bond: &Bond| {
                let states: Vec<_> = bond.paths().iter().map(|p| p.tx.state()).collect();
                (states, bond.plan().paths.iter().map(|p| p.id).collect::<Vec<_>>(), bond.plan().lost.clone())
            };
            prop_assert_eq!(state(&bonds[0]), state(&bonds[1]));
        }
    }
}
