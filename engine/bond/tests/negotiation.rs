//! Two of us agree on a path, whatever is lost and whatever either would gain.

use bond::negotiation::{Negotiation, Step};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

struct Side {
    machine: Negotiation,
    path: usize,
    /// What this side thinks of each path.
    scores: [i16; 2],
    moves: u32,
}

impl Side {
    fn utility(&self, other: usize) -> i16 {
        self.scores[self.path] - self.scores[other]
    }
}

struct Run {
    agreed_ms: Option<u64>,
    /// Until they agreed: to those who moved.
    decisive: u32,
    requests: u32,
    moves: u32,
    apart_after: bool,
}

/// Two sides on different paths. `noise`: scores wander by so much.
fn run(scores: [[i16; 2]; 2], loss: f64, noise: i16, seed: u64) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sides: Vec<Side> = (0..2)
        .map(|i| Side {
            machine: Negotiation::new(rng.random_range(0..15_000), i == 0),
            path: i,
            scores: scores[i],
            moves: 0,
        })
        .collect();
    let mut mail: Vec<(u64, usize, usize, i16)> = Vec::new();
    let mut delivered = [0; 2];
    let mut out = Run { agreed_ms: None, decisive: 0, requests: 0, moves: 0, apart_after: false };
    for now in (0..1_200_000).step_by(500) {
        if noise > 0 && now % 10_000 == 0 {
            for side in &mut sides {
                for s in &mut side.scores {
                    *s = s.saturating_add(rng.random_range(-noise..=noise)).clamp(-10_000, 10_000);
                }
            }
        }
        for i in 0..2 {
            let (other, apart) = (sides[1 - i].path, sides[0].path != sides[1].path);
            let utility = sides[i].utility(other);
            match sides[i].machine.check(now, apart, utility) {
                Step::Rest => {}
                Step::Request(utility) => {
                    out.requests += 1;
                    if rng.random::<f64>() >= loss {
                        mail.push((now + rng.random_range(10..3000), 1 - i, sides[i].path, utility));
                    }
                }
                Step::Yield => (sides[i].path, sides[i].moves) = (other, sides[i].moves + 1),
            }
        }
        let (due, later): (Vec<_>, Vec<_>) = mail.into_iter().partition(|m| m.0 <= now);
        mail = later;
        for (_, to, path, theirs) in due {
            delivered[to] += u32::from(out.agreed_ms.is_none());
            let ours = sides[to].utility(path);
            let apart = sides[to].path != path;
            if sides[to].machine.asked(now, apart, ours, theirs) {
                (sides[to].path, sides[to].moves) = (path, sides[to].moves + 1);
            }
        }
        if sides[0].path == sides[1].path {
            out.agreed_ms.get_or_insert(now);
        }
    }
    out.decisive = (0..2).filter(|i| sides[*i].moves > 0).map(|i| delivered[i]).sum();
    out.moves = sides[0].moves + sides[1].moves;
    out.apart_after = sides[0].path != sides[1].path;
    out
}

#[test]
fn a_flood_of_requests_moves_us_twice_in_half_a_minute_at_most() {
    for (remote_greater, most) in [(false, 2), (true, 4)] {
        let mut machine = Negotiation::new(0, remote_greater);
        // Each about the path that we are not on, and better than what we have.
        let moves = (0..60_000).step_by(10).filter(|now| machine.asked(*now, true, 0, i16::MAX)).count();
        assert_eq!(moves, most);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn they_agree_once_and_stay(a in any::<[i16; 2]>(), b in any::<[i16; 2]>(), loss in 0.0f64..0.6, seed in any::<u64>()) {
        let clamp = |s: [i16; 2]| s.map(|v| v / 4);
        let r = run([clamp(a), clamp(b)], loss, 0, seed);
        prop_assert!(r.agreed_ms.is_some() && !r.apart_after, "never agreed");
        prop_assert_eq!(r.moves, 1, "moved more than once");
        // However many were lost: the first that came through to the one who is to move decides it.
        prop_assert!(r.decisive <= 1, "{} requests", r.decisive);
    }

    #[test]
    fn wandering_scores_do_not_make_them_swing(a in any::<[i8; 2]>(), b in any::<[i8; 2]>(), seed in any::<u64>()) {
        let wide = |s: [i8; 2]| s.map(i16::from);
        let r = run([wide(a), wide(b)], 0.3, 50, seed);
        prop_assert!(!r.apart_after);
        prop_assert!(r.moves <= 3, "{} moves in 20 minutes", r.moves);
    }
}
