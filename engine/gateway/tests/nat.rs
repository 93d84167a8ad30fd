//! Hawser behind real routers, the kernel's NAT, with the real ZeroTier core on the other side: every pair of kinds, and
//! each side begins in its turn. Whole worlds run side by side, each with an internet and two roots of its own.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use lab::meeting::{Core, Meeting, Planet, Side};
use lab::nat::Kind;

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
/// What the roots of each world run.
const WORLDS: [Core; 3] = [Core::Hawser, Core::Reference, Core::Hawser];
const KINDS: [Kind; 5] =
    [Kind::Public, Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::SymmetricAtRandom];
/// For pairs that must go direct: a probe that is lost is followed by others after 15 and 30 s.
const LIMIT: Duration = Duration::from_secs(40);
/// For pairs that need not.
const TRY: Duration = Duration::from_secs(4);

/// Two who meet; the first one begins.
#[derive(Clone, Copy, Debug)]
struct Case {
    sides: [Side; 2],
    carrier: bool,
    must_go_direct: bool,
}

/// All cases in all worlds, each in the one that is free first.
fn meet(name: &str, cases: Vec<Case>) -> Vec<(Case, Core, Meeting)> {
    let cases = Mutex::new(VecDeque::from(cases));
    let met = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for (n, roots) in WORLDS.into_iter().enumerate() {
            let (cases, met) = (&cases, &met);
            s.spawn(move || {
                let mut planet = Planet::new(&format!("{name}{n}"), Path::new(HAWSER), roots).expect("a planet");
                loop {
                    let Some(case) = cases.lock().expect("cases").pop_front() else { return };
                    let limit = if case.must_go_direct { LIMIT } else { TRY };
                    let meeting = match case.carrier {
                        true => planet.meet_behind_carrier(case.sides, limit),
                        false => planet.meet(case.sides, limit),
                    };
                    let meeting = meeting.unwrap_or_else(|e| panic!("{case:?}, {roots:?} roots: {e}"));
                    met.lock().expect("met").push((case, roots, meeting));
                }
            });
        }
    });
    met.into_inner().expect("met")
}

/// ZeroTier's exchange opens a pair unless one side's port is not to be foreseen and the other insists on it.
fn can_go_direct(a: Kind, b: Kind) -> bool {
    let insists = |kind: Kind| kind == Kind::PortRestricted || kind.symmetric();
    !(a.symmetric() && insists(b) || b.symmetric() && insists(a))
}

fn check(met: &[(Case, Core, Meeting)]) {
    println!("{:<34}{:<34}{:<11}way", "begins", "with", "roots");
    let text = |side: Side| format!("{:?}, {}", side.core, side.kind.name());
    for (case, roots, meeting) in met {
        let way = meeting.direct.map_or("relayed".to_owned(), |after| format!("direct after {after:.2?}"));
        println!("{:<34}{:<34}{:<11}{way}", text(case.sides[0]), text(case.sides[1]), format!("{roots:?}"));
    }
    let wrong: Vec<_> = met
        .iter()
        .filter(|(case, _, meeting)| case.must_go_direct && meeting.direct.is_none() || !meeting.reachable())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_pair_with_the_real_core_goes_direct_where_its_exchange_can_open_it_and_is_reachable_always() {
    let mut cases = Vec::new();
    for hawser in KINDS {
        for real in KINDS {
            let own = Side { core: Core::Hawser, kind: hawser };
            let other = Side { core: Core::Reference, kind: real };
            let must_go_direct = can_go_direct(hawser, real);
            // Each begins in half of the cases; `bench-harness nat` has all of both.
            let sides = if cases.len() % 2 == 0 { [own, other] } else { [other, own] };
            cases.push(Case { sides, carrier: false, must_go_direct });
        }
    }
    let met = meet("m", cases);
    assert_eq!(met.len(), 25);
    check(&met);
}

#[test]
fn routers_that_answer_and_a_carriers_router_without_hairpin_never_make_a_pair_unreachable() {
    let mut cases = Vec::new();
    for (carrier, kinds) in [
        (true, [Kind::FullCone, Kind::PortRestricted]),
        (false, [Kind::Answering, Kind::PortRestricted]),
        (false, [Kind::Answering; 2]),
    ] {
        for cores in [[Core::Hawser; 2], [Core::Hawser, Core::Reference], [Core::Reference, Core::Hawser]] {
            let sides = [0, 1].map(|i| Side { core: cores[i], kind: kinds[i] });
            cases.push(Case { sides, carrier, must_go_direct: false });
        }
    }
    check(&meet("u", cases));
}
