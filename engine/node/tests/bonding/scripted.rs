//! A bond with a peer that is played by a script: what leaves over which of its paths, and when.

use bond::config::{LinkSettings, PolicySettings};
use bond::tx::TxState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::{Address, Mac, Verb};

use crate::common::{Bench, OPEN_NETWORK, Sent, addr};
use crate::rig::{custom, settings};

const WAYS: [(u64, &str); 2] = [(5, "44.9.9.9:9993"), (6, "44.8.8.8:9993")];

/// A leaf that bonds with a peer over two links.
fn bonded(base: &str, change: impl FnOnce(&mut PolicySettings)) -> (Bench, Address) {
    let (mut b, _) = Bench::leaf();
    b.join_open();
    let p = b.actor(10);
    for (socket, remote) in WAYS {
        b.befriend(p, socket, remote);
        b.answer(p, remote, 10);
    }
    meets(&mut b, p, &WAYS);
    b.node.set_settings(b.now, settings(&custom(base, change)));
    b.receive_frame(p, WAYS[0].0, WAYS[0].1, 0);
    b.advance(2000);
    b.take();
    assert_eq!(b.node.bond(p).expect("a bond").paths().iter().count(), 2);
    (b, p)
}

/// From now on the peer answers here only.
fn meets(b: &mut Bench, p: Address, ways: &[(u64, &str)]) {
    let pairs = ways.iter().map(|(socket, remote)| (*socket, addr(remote))).collect();
    b.actors.get_mut(&p).unwrap().pairs = Some(pairs);
}

fn longest(sent: &[Sent], (socket, remote): (u64, &str)) -> usize {
    let over = sent.iter().filter(|s| s.socket == Some(socket) && s.remote == addr(remote));
    over.map(|s| s.len).max().unwrap_or(0)
}

#[test]
fn all_that_leaves_over_a_link_is_cut_to_its_size() {
    let narrow = |p: &mut PolicySettings| {
        let link = |mtu| LinkSettings { mtu: Some(mtu), ..LinkSettings::default() };
        p.links = [("link5".into(), link(1000)), ("link6".into(), LinkSettings::default())].into();
    };
    let (mut b, p) = bonded("broadcast", narrow);
    let (to, from) = (Mac::of_member(OPEN_NETWORK, p), Mac::of_member(OPEN_NETWORK, b.own.address()));
    let mut payload = vec![0x60; 1300];
    payload[6] = 59;
    let frame = [&to.0[..], &from.0, &[0x86, 0xdd], &payload].concat();
    b.node.handle_tap_frame(b.now, OPEN_NETWORK, &frame);
    let sent = b.take();
    // One packet with one ID: cut for the narrowest.
    assert!((900..=1000).contains(&longest(&sent, WAYS[0])), "{}", longest(&sent, WAYS[0]));
    assert!((900..=1000).contains(&longest(&sent, WAYS[1])), "{}", longest(&sent, WAYS[1]));
    // What goes over one of them alone.
    for (way, limit) in [(0, 900..=1000), (1, 1300..=1432)] {
        let leads = |id| b.node.bond_path(p, id).unwrap().0.0 == WAYS[way].0;
        let id = b.node.bond(p).unwrap().paths().iter().map(|path| path.id).find(|id| leads(*id)).unwrap();
        b.node.force_bond_path(b.now, p, Some(id)).unwrap();
        b.take();
        b.node.handle_tap_frame(b.now, OPEN_NETWORK, &frame);
        let mut noise = [0; 1300];
        StdRng::seed_from_u64(1).fill_bytes(&mut noise);
        b.node.send_user_message(b.now, p, 7, &noise);
        let sent = b.take();
        assert!(limit.contains(&longest(&sent, WAYS[way])), "way {way}: {}", longest(&sent, WAYS[way]));
        assert_eq!(longest(&sent, WAYS[1 - way]), 0, "all over the other");
        let bytes: usize = sent.iter().filter(|s| s.remote == addr(WAYS[way].1)).map(|s| s.len).sum();
        assert!(bytes > 2600, "both went, whole: {bytes}");
    }
}

/// What the node asked over a way.
fn asked(sent: &[Sent], (socket, remote): (u64, &str)) -> usize {
    sent.iter().filter(|s| s.socket == Some(socket) && s.remote == addr(remote) && s.verb != Some(Verb::Ok)).count()
}

#[test]
fn a_path_taken_for_dead_is_asked_as_soon_as_something_comes_in_over_it_and_no_more_often_in_a_flood() {
    let (mut b, p) = bonded("active-backup", |_| ());
    meets(&mut b, p, &WAYS[..1]);
    for _ in 0..60 {
        b.advance(1000);
        b.receive_frame(p, WAYS[0].0, WAYS[0].1, 0);
    }
    let state = |b: &Bench| {
        let bond = b.node.bond(p).unwrap();
        let second = bond.paths().iter().find(|path| b.node.bond_path(p, path.id).unwrap().0.0 == WAYS[1].0);
        second.map(|path| path.tx.state())
    };
    assert_eq!(state(&b), Some(TxState::Down));
    // It is asked seldom by now; somewhere between.
    b.take();
    while asked(&b.take(), WAYS[1]) == 0 {
        b.advance(10);
    }
    b.advance(1000);
    assert_eq!(asked(&b.take(), WAYS[1]), 0);
    b.receive(p, WAYS[1].0, WAYS[1].1, Verb::Nop, &[]);
    b.advance(10);
    assert_eq!(asked(&b.take(), WAYS[1]), 1);
    // Ten seconds of a thousand packets each, and nothing of ours arrives.
    let mut questions = 0;
    for _ in 0..10_000 {
        b.receive(p, WAYS[1].0, WAYS[1].1, Verb::Nop, &[]);
        b.advance(1);
        questions += asked(&b.take(), WAYS[1]);
    }
    assert!((15..=22).contains(&questions), "{questions} questions");
    assert_eq!(state(&b), Some(TxState::Down), "what comes in is no proof");
    // It heals; the next packet brings it back.
    meets(&mut b, p, &WAYS);
    b.advance(600);
    b.receive(p, WAYS[1].0, WAYS[1].1, Verb::Nop, &[]);
    b.advance(100);
    assert_eq!(state(&b), Some(TxState::Good));
}
