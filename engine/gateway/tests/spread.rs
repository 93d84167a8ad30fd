//! Port spread through real routers, the kernel's NAT: two Hawsers that no other exchange brings together, and the real
//! core, which takes an offer for an ordinary push.

use std::path::Path;
use std::time::Duration;

use lab::meeting::{Core, Planet, Side};
use lab::nat::Kind;

const HAWSER: &str = env!("CARGO_BIN_EXE_hawser");
/// An offer after 1.5 s, 5 s of probes, and what starting takes.
const LIMIT: Duration = Duration::from_secs(12);
/// One spread in fifty between a random and a fixed port meets nobody.
const TRIES: usize = 2;
/// Long enough for every offer.
const OFFERS: Duration = Duration::from_secs(6);

fn side(core: Core, kind: Kind) -> Side {
    Side { core, kind }
}

#[test]
fn two_hawsers_meet_where_one_side_is_symmetric_and_the_other_insists_on_the_port() {
    let mut planet = Planet::new("spread", Path::new(HAWSER), Core::Hawser).expect("a planet");
    for kinds in [
        [Kind::SymmetricAtRandom, Kind::PortRestricted],
        [Kind::PortRestricted, Kind::SymmetricAtRandom],
        [Kind::SymmetricInSequence, Kind::PortRestricted],
        [Kind::SymmetricInSequence, Kind::Answering],
    ] {
        let met = (0..TRIES).find_map(|_| {
            let meeting = planet.meet(kinds.map(|kind| side(Core::Hawser, kind)), LIMIT).expect("a meeting");
            assert!(meeting.reachable(), "{kinds:?}");
            meeting.direct
        });
        println!("{} with {}: direct after {met:.2?}", kinds[0].name(), kinds[1].name());
        assert!(met.is_some(), "{kinds:?}");
    }
}

#[test]
fn the_real_core_is_offered_a_spread_in_vain_and_stays_reachable() {
    let mut planet = Planet::new("offer", Path::new(HAWSER), Core::Reference).expect("a planet");
    let sides = [side(Core::Hawser, Kind::SymmetricAtRandom), side(Core::Reference, Kind::PortRestricted)];
    let meeting = planet.meet(sides, OFFERS).expect("a meeting");
    assert!(meeting.direct.is_none() && meeting.reachable());
}
