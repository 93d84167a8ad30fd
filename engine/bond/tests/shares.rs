//! How flows are shared among paths, and which of them move.

use std::collections::BTreeMap;

use bond::rendezvous::choose;
use proptest::prelude::*;

fn assign(secret: u64, paths: &[(u64, f64)]) -> Vec<u64> {
    let flow = |n: u64| n.wrapping_mul(0x2545_f491_4f6c_dd1d);
    (0..10_000).map(|n| paths[choose(secret, flow(n), paths.iter().copied()).unwrap()].0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn shares_are_as_the_weights_within_two_percent(
        secret in any::<u64>(),
        weights in prop::collection::vec(1.0f64..20.0, 2..6),
    ) {
        let paths: Vec<(u64, f64)> = weights.iter().enumerate().map(|(i, w)| (1000 + i as u64, *w)).collect();
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for path in assign(secret, &paths) {
            *counts.entry(path).or_default() += 1;
        }
        let sum: f64 = weights.iter().sum();
        for (key, weight) in &paths {
            let (got, want) = (f64::from(counts.get(key).copied().unwrap_or(0)) / 10_000.0, weight / sum);
            prop_assert!((got - want).abs() <= 0.02, "{got} for {want}");
        }
    }

    #[test]
    fn a_path_that_goes_moves_its_own_flows_only(
        secret in any::<u64>(),
        weights in prop::collection::vec(1.0f64..20.0, 2..6),
        gone in any::<prop::sample::Index>(),
    ) {
        let paths: Vec<(u64, f64)> = weights.iter().enumerate().map(|(i, w)| (1000 + i as u64, *w)).collect();
        let gone = gone.get(&paths).0;
        let rest: Vec<(u64, f64)> = paths.iter().copied().filter(|p| p.0 != gone).collect();
        for (before, after) in assign(secret, &paths).into_iter().zip(assign(secret, &rest)) {
            prop_assert!(before == gone || before == after);
        }
    }
}

#[test]
fn ports_of_one_parity_use_both_paths() {
    // What defeats the reference's hash: clients take even ports only.
    let paths = [(1, 1.0), (2, 1.0)];
    let on_first = (0..300u64).filter(|n| choose(9, 0x0a00_0001_0000 + 32_768 + 2 * n, paths) == Some(0)).count();
    assert!((100..200).contains(&on_first), "{on_first}");
}

mod near {
    use std::sync::Arc;

    use bond::config::Policy;
    use bond::plan::PlanPath;
    use bond::{Choice, PathId, Plan, Selector};

    /// Paths of 8 and 2 MB/s, 10 and 30 ms.
    fn shard(policy: Policy, delays_us: [u64; 2]) -> Selector {
        let path = |slot: u8| PlanPath {
            id: PathId { slot, generation: 1 },
            key: u64::from(slot),
            weight: [8e6, 2e6][usize::from(slot)],
            rate: [8e6, 2e6][usize::from(slot)],
            delay_us: delays_us[usize::from(slot)],
        };
        let paths = vec![path(0), path(1)];
        Selector::new(Arc::new(Plan { epoch: 1, policy, secret: 9, paths, striping: true, ..Plan::default() }), 4096)
    }

    /// Shares of `flows` new flows, ten packets of each, so many bytes/s of them, that go to the second path.
    fn share_of_second(shard: &mut Selector, flows: u64, rate: f64) -> f64 {
        let mut second = 0;
        for n in 0..10 * flows {
            let now_us = 1_000_000 + (n as f64 * 1400.0 * 1e6 / rate) as u64;
            let choice = shard.select(n % flows, 1400, now_us);
            second += u64::from(choice == Choice::Path(PathId { slot: 1, generation: 1 }));
        }
        second as f64 / (10 * flows) as f64
    }

    #[test]
    fn light_flows_keep_to_the_nearest_path_while_they_leave_half_of_it_free() {
        let second = |policy, delays_us, rate| share_of_second(&mut shard(policy, delays_us), 1000, rate);
        let (far, near) = ([10_000, 30_000], [10_000, 14_000]);
        assert_eq!(second(Policy::BalanceAware, far, 2e6), 0.0);
        // 1,000 flows come within the first 0.2 s, and those after 0.1 s fall as the weights say.
        let beyond = second(Policy::BalanceAware, far, 7e6);
        assert!((0.05..0.17).contains(&beyond), "{beyond}");
        let equal = second(Policy::BalanceAware, near, 2e6);
        assert!((equal - 0.2).abs() < 0.05, "{equal}");
        assert!(second(Policy::BalanceXor, far, 2e6) > 0.1, "by the weights alone");
    }
}

mod compat {
    use std::sync::Arc;

    use bond::compat::balance::Candidate;
    use bond::config::Policy;
    use bond::plan::{CompatRules, PlanPath};
    use bond::{Choice, PathId, Plan, Selector};

    fn id(slot: u8) -> PathId {
        PathId { slot, generation: u32::from(slot) + 1 }
    }

    fn plan(policy: Policy, slots: &[u8], avoid: &[u8], epoch: u32) -> Arc<Plan> {
        let path = |s: &u8| PlanPath { id: id(*s), key: u64::from(*s), weight: 1.0, rate: 1e6, delay_us: 10_000 };
        let candidate = |s: &u8| Candidate { avoid: avoid.contains(s), capacity: None, quality: 0.0 };
        let candidates = slots.iter().map(candidate).collect();
        Arc::new(Plan {
            epoch,
            policy,
            secret: 9,
            paths: slots.iter().map(path).collect(),
            compat: Some(CompatRules { packets_per_link: 3, candidates }),
            ..Plan::default()
        })
    }

    fn slots(shard: &mut Selector, flows: impl Iterator<Item = u64>, now_us: u64) -> Vec<u8> {
        let slot = |flow| match shard.select(flow, 1400, now_us) {
            Choice::Path(id) => id.slot,
            other => panic!("{other:?}"),
        };
        flows.map(slot).collect()
    }

    #[test]
    fn a_turn_of_balance_rr_has_as_many_packets_as_asked_for() {
        let mut shard = Selector::new(plan(Policy::BalanceRr, &[0, 1], &[], 1), 16);
        // The first turn is the second path's, as with the reference.
        assert_eq!(slots(&mut shard, 0..9, 1), [1, 1, 1, 0, 0, 0, 1, 1, 1]);
        // News that change no path do not end a turn; another set begins anew.
        shard.adopt(plan(Policy::BalanceRr, &[0, 1], &[0], 1));
        assert_eq!(slots(&mut shard, 0..2, 2), [0, 0]);
        shard.adopt(plan(Policy::BalanceRr, &[0, 1, 2], &[], 2));
        assert_eq!(slots(&mut shard, 0..4, 3), [1, 1, 1, 2]);
    }

    #[test]
    fn flows_whose_ports_have_one_parity_are_spread_evenly() {
        for policy in [Policy::BalanceXor, Policy::BalanceAware] {
            for n in 2..6u8 {
                let set: Vec<u8> = (0..n).collect();
                let mut shard = Selector::new(plan(policy, &set, &[], 1), 4096);
                let on = slots(&mut shard, (0..1200).map(|f| 2 * f), 1);
                for slot in set {
                    let count = on.iter().filter(|s| **s == slot).count();
                    let fair = 1200 / usize::from(n);
                    assert!(count.abs_diff(fair) < fair / 4, "{policy}: {count} of {n}");
                }
            }
        }
    }

    #[test]
    fn a_path_that_goes_moves_its_own_flows_and_its_return_brings_them_back() {
        for policy in [Policy::BalanceXor, Policy::BalanceAware] {
            let mut shard = Selector::new(plan(policy, &[0, 1, 2], &[], 1), 1024);
            let before = slots(&mut shard, 0..100, 1_000);
            shard.adopt(plan(policy, &[0, 2], &[], 2));
            let during = slots(&mut shard, 0..100, 2_000);
            for (b, d) in before.iter().zip(&during) {
                assert!(*d != 1 && (*b == 1 || b == d), "{b} {d}");
            }
            // And again in the other order of epochs: they stay where they are while their path is away.
            shard.adopt(plan(policy, &[0, 2, 3], &[], 3));
            assert_eq!(slots(&mut shard, 0..100, 3_000), during);
            shard.adopt(plan(policy, &[0, 1, 2], &[], 4));
            assert_eq!(slots(&mut shard, 0..100, 1_000_000), before);
        }
    }

    #[test]
    fn flows_leave_a_path_that_is_to_be_avoided_one_at_a_time() {
        let mut shard = Selector::new(plan(Policy::BalanceAware, &[0, 1], &[], 1), 1024);
        let before = slots(&mut shard, 0..40, 1);
        let there = before.iter().filter(|s| **s == 0).count();
        assert!(there > 5);
        shard.adopt(plan(Policy::BalanceAware, &[0, 1], &[0], 1));
        for tick in 1..=3u64 {
            let now = slots(&mut shard, 0..40, tick * 600_000);
            assert_eq!(now.iter().filter(|s| **s == 0).count(), there - tick as usize);
        }
        // No new one goes there, and none goes back when the mark is gone.
        assert!(slots(&mut shard, 1000..1040, 2_000_000).iter().all(|s| *s == 1));
        shard.adopt(plan(Policy::BalanceAware, &[0, 1], &[], 1));
        assert_eq!(slots(&mut shard, 0..40, 2_000_001).iter().filter(|s| **s == 0).count(), there - 3);
    }

    #[test]
    fn without_paths_all_is_relayed_and_with_one_all_goes_there() {
        let mut shard = Selector::new(plan(Policy::BalanceXor, &[], &[], 1), 16);
        assert_eq!(shard.select(1, 100, 1), Choice::Relay);
        for policy in [Policy::BalanceRr, Policy::BalanceXor, Policy::BalanceAware] {
            shard.adopt(plan(policy, &[2], &[], 2));
            assert_eq!(slots(&mut shard, 0..5, 2), [2; 5]);
        }
    }
}
