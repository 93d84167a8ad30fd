//! Two leaves of a [`crate::lab`] meet for the first time, each behind a router of some kind: do they go direct, and how
//! soon? Knows which kinds there are and how to bring two leaves together; what must come of it is for others to say.

use node::Event;

use crate::lab::{Lab, at, network_with};
use crate::{NatKind, Ports, Realm, World, icmp_echo};

/// What a leaf is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing: it is on the internet.
    Nothing,
    /// A router that translates.
    Nat(NatKind),
}

/// Virtual time that a pair has, unless told otherwise. ms
pub const LIMIT_MS: u64 = 30_000;
/// Each way has a frame this often. ms
const FRAME_MS: u64 = 100;

/// Leaf `n` at home behind a router at `external` in `outside`: its network and its address there.
pub fn home(world: &mut World, n: usize, outside: Realm, external: &str, kind: NatKind) -> (Realm, String) {
    (world.add_nat(outside, external, kind), format!("192.168.{}.10:9993", 10 + n))
}

/// Two members of a network who have joined it, each behind what is said.
pub fn pair(seed: u64, behind: [Behind; 2]) -> Lab {
    let lab = network_with(seed, 2, |world, n| match behind[n] {
        Behind::Nothing => (Realm::INTERNET, at(n)),
        Behind::Nat(kind) => home(world, n, Realm::INTERNET, &format!("44.0.{}.1", n + 1), kind),
    });
    settle(lab)
}

/// Everybody joins, and the root knows who listens to which group.
pub fn settle(mut lab: Lab) -> Lab {
    // The root takes four new identities of a /24 at once; who is refused asks again after 5 s.
    lab.join_all(10_000);
    lab.world.run_ms(1000);
    lab
}

/// Two members of a network in homes of these kinds, both behind a carrier's router of that kind.
pub fn behind_one_carrier(seed: u64, homes: [NatKind; 2], carrier_kind: NatKind) -> Lab {
    let carrier = std::cell::OnceCell::new();
    let lab = network_with(seed, 2, |world, n| {
        let carrier = *carrier.get_or_init(|| world.add_nat(Realm::INTERNET, "44.7.7.7", carrier_kind));
        home(world, n, carrier, &format!("100.64.0.{}", n + 1), homes[n])
    });
    settle(lab)
}

/// Leaf 0 begins, then frames go both ways until both are direct. Milliseconds from the first frame, unless that takes
/// longer than `limit_ms`. Panics if one cannot reach the other at all.
pub fn meet(lab: &mut Lab, limit_ms: u64) -> Option<u64> {
    let start = lab.world.now().ms();
    assert!(lab.first_ping(0, 1, 56, 5000).is_some(), "reachable from the start");
    let stacks = [lab.stack(0), lab.stack(1)];
    for number in 0..limit_ms.div_ceil(FRAME_MS) as u16 {
        if lab.direct(0, 1) && lab.direct(1, 0) {
            let went = |n: usize| lab.world.last_event(lab.leaves[n], |e| is_direct(e, lab.address(1 - n)));
            return Some(went(0).max(went(1))? - start);
        }
        for n in [0, 1] {
            let ping = icmp_echo(stacks[n], stacks[1 - n], number.wrapping_add(1000), 56);
            lab.world.tap(lab.leaves[n], lab.network, &ping);
        }
        lab.world.run_ms(FRAME_MS);
    }
    None
}

fn is_direct(event: &Event, with: wire::Address) -> bool {
    matches!(event, Event::PeerDirect { peer, .. } if *peer == with)
}

/// Round trip of one ping each way, milliseconds.
pub fn round_trips(lab: &mut Lab) -> [Option<u64>; 2] {
    [lab.ping(0, 1, 7, 56, 1000), lab.ping(1, 0, 8, 56, 1000)]
}

/// The kinds of which every pair is tried, the most open one first.
pub const KINDS: [(&str, Behind); 6] = [
    ("public", Behind::Nothing),
    ("full cone", Behind::Nat(NatKind::full_cone())),
    ("address-restricted", Behind::Nat(NatKind::address_restricted())),
    ("port-restricted", Behind::Nat(NatKind::port_restricted())),
    ("symmetric, in sequence", Behind::Nat(NatKind::symmetric(Ports::Sequential))),
    ("symmetric, at random", Behind::Nat(NatKind::symmetric(Ports::Random))),
];
