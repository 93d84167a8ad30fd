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
