//! A thousand random sequences of what can happen to the paths of a bond, played to one real node whose peer answers by a
//! script: sockets come and go, ways are cut and healed, answers are lost. Whatever happened: while some way answered
//! within the last second there is a path.
//!
//! A sequence that fails is printed with its seed: `HAWSER_SEED=<seed> cargo test -p node --test bonding sequences` plays
//! it again.
// spec: bonding, "Gateway acceptance"

use std::net::SocketAddr;

use node::LocalSocketId;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use wire::{Address, Verb};

use crate::common::{Bench, addr};
use crate::rig::{POLICIES, settings, standard};

const SEQUENCES: u64 = 1000;
/// How long an answer counts. ms
const FRESH_MS: u64 = 1000;
/// Between two frames, and between two looks. ms
const STEP_MS: u64 = 10;
/// The peer's endpoint on each of our three links, and after how long it answers there, ms.
const ENDS: [(&str, u64); 3] = [("44.9.9.9:9993", 10), ("44.8.8.8:9993", 25), ("44.7.7.7:9993", 60)];

/// What is so of one link.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Whole,
    /// Nothing passes.
    Cut,
    /// What we send is lost, what the peer sends is not.
    Deaf,
    /// It has no socket.
    Gone,
}

struct World {
    b: Bench,
    peer: Address,
    states: [State; 3],
    sockets: [u64; 3],
    story: Vec<String>,
    rng: StdRng,
}

impl World {
    fn new(seed: u64) -> World {
        let (mut b, _) = Bench::leaf();
        b.join_open();
        b.node.set_settings(b.now, settings(&standard(POLICIES[seed as usize % POLICIES.len()])));
        let peer = b.actor(10);
        let (mut rng, sockets) = (StdRng::seed_from_u64(seed), [5, 6, 7]);
        // One or two of the links may join later.
        let links = rng.random_range(1..=3);
        for (remote, delay_ms) in ENDS {
            b.answer(peer, remote, delay_ms);
        }
        let states = std::array::from_fn(|link| if link < links { State::Whole } else { State::Gone });
        let mut w = World { b, peer, states, sockets, story: Vec::new(), rng };
        for socket in &sockets[links..] {
            w.b.node.remove_socket(w.b.now, LocalSocketId(*socket));
        }
        w.wire();
        for link in 0..links {
            w.b.befriend(peer, sockets[link], ENDS[link].0);
        }
        w.b.receive_frame(peer, sockets[0], ENDS[0].0, 0);
        (0..50).for_each(|_| w.pass());
        assert!(w.b.node.bond(peer).is_some_and(|bond| !bond.plan().paths.is_empty()), "seed {seed}");
        w
    }

    /// Tells the peer where it answers.
    fn wire(&mut self) {
        let open = (0..3).filter(|link| self.states[*link] == State::Whole);
        let pairs = open.map(|link| (self.sockets[link], addr(ENDS[link].0))).collect();
        self.b.actors.get_mut(&self.peer).unwrap().pairs = Some(pairs);
    }

    fn pass(&mut self) {
        self.b.send_frame(self.peer);
        self.b.advance(STEP_MS);
        self.b.take();
        self.b.others.clear();
    }

    fn happens(&mut self) {
        let link = self.rng.random_range(0..3);
        let before = self.states[link];
        let after = match self.rng.next_u64() % 6 {
            0 => State::Cut,
            1 => State::Deaf,
            2 => State::Gone,
            _ => State::Whole,
        };
        let after = if before == State::Gone && after != State::Gone { State::Whole } else { after };
        self.states[link] = after;
        self.story.push(format!("{} ms: link {link} {after:?}", self.b.ms()));
        match (before, after) {
            (State::Gone, State::Gone) => {}
            (_, State::Gone) => {
                let id = self.sockets[link];
                self.b.answered.remove(&(id, addr(ENDS[link].0)));
                self.b.node.remove_socket(self.b.now, LocalSocketId(id));
            }
            (State::Gone, _) => self.plug(link),
            _ => {}
        }
        self.wire();
    }

    /// A new socket on a link, which is never one that was there before.
    fn plug(&mut self, link: usize) {
        self.sockets[link] += 10;
        let socket = node::Socket {
            id: LocalSocketId(self.sockets[link]),
            local: addr(&format!("172.16.{}.1:9993", 5 + link)),
            link: format!("link{}", 5 + link),
            port: node::Port::Primary,
        };
        self.b.node.add_socket(self.b.now, socket);
    }

    /// A way that answered within the last second, though the bond has no path.
    fn forgotten(&self) -> Option<(u64, SocketAddr)> {
        let bond = self.b.node.bond(self.peer)?;
        let (now_ms, here) = (self.b.ms(), bond.plan().paths.len());
        let here_is = |link: usize, way: &(u64, SocketAddr)| {
            self.states[link] != State::Gone && *way == (self.sockets[link], addr(ENDS[link].0))
        };
        let of_peer = |way: &(u64, SocketAddr)| (0..3).any(|link| here_is(link, way));
        let fresh = |(way, at): (&(u64, SocketAddr), &u64)| (of_peer(way) && now_ms - at < FRESH_MS).then_some(*way);
        self.b.answered.iter().find_map(fresh).filter(|_| here == 0)
    }

    fn look(&self, seed: u64) {
        if let Some(way) = self.forgotten() {
            let decisions = self.b.node.bond(self.peer).unwrap().decisions();
            let start = crate::common::START_MS;
            let told: Vec<String> =
                decisions.map(|d| format!("{} {}", d.at.ms().saturating_sub(start), d.reason)).collect();
            panic!(
                "no path at {} ms, though {way:?} answered at {}\n{:#?}\n{told:#?}\nplay it again with HAWSER_SEED={seed}",
                self.b.ms(),
                self.b.answered[&way],
                self.story
            );
        }
    }
}

fn play(seed: u64) {
    let mut w = World::new(seed);
    for _ in 0..8 {
        w.happens();
        let deaf = w.rng.next_u64().is_multiple_of(2);
        for n in 0..w.rng.random_range(3..60) {
            w.pass();
            w.look(seed);
            // The peer has something to say too, also where it does not hear us.
            for link in (0..3).filter(|_| deaf && n % 8 == 0) {
                if matches!(w.states[link], State::Whole | State::Deaf) {
                    w.b.receive(w.peer, w.sockets[link], ENDS[link].0, Verb::Nop, &[]);
                }
            }
        }
    }
    // When all is well again so is the bond.
    for link in 0..3 {
        if w.states[link] == State::Gone {
            w.plug(link);
        }
        w.states[link] = State::Whole;
    }
    w.wire();
    (0..700).for_each(|n| {
        if n % 7 == 0 {
            w.pass();
        } else {
            w.b.advance(STEP_MS);
        }
        w.look(seed);
    });
    let bond = w.b.node.bond(w.peer).expect("a bond");
    assert!(!bond.plan().paths.is_empty(), "seed {seed}: {:#?}", w.story);
}

#[test]
fn after_any_sequence_of_events_there_is_a_path_while_one_answers() {
    if let Some(seed) = std::env::var("HAWSER_SEED").ok().and_then(|text| text.parse().ok()) {
        return play(seed);
    }
    (0..SEQUENCES).for_each(play);
}
