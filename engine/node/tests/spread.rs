//! Port spreads on the wire, towards a peer that says what it likes: what its offers cause, and whom they concern.
// docs/ZEROTIER_STACK.md, "Port spread"
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use node::limits::*;
use node::{LocalSocketId, Output};
use wire::message::{ErrorCode, ErrorMessage, InRe, PathRecord, Rendezvous, SpreadNat, SpreadOffer};
use wire::{Address, Verb};

const AT_P: &str = "44.9.9.9:9993";
const AT_ROOT: &str = "44.1.1.1:9993";

/// The root says that `peer` can be met at [`AT_P`].
fn introduce(b: &mut Bench, root: Address, peer: Address) {
    let mut payload = Vec::new();
    Rendezvous { flags: 0, peer, endpoint: Some(addr(AT_P)) }.write(&mut payload);
    b.receive(root, 5, AT_ROOT, Verb::Rendezvous, &payload);
}

/// A leaf whose friend is reached by the root alone.
fn relayed_friend() -> (Bench, Address, Address) {
    let (mut b, root) = Bench::leaf();
    b.join_open();
    let friend = b.actor(10);
    b.receive_frame(friend, 5, AT_ROOT, 1);
    let sent = b.take_to(root);
    tell_identity(&mut b, root, only(&sent, Verb::Whois)[0], friend);
    introduce(&mut b, root, friend);
    b.advance(3000);
    b.take();
    b.others.clear();
    (b, root, friend)
}

/// A push by the root that offers the same thing so many times.
fn offer(b: &mut Bench, friend: Address, endpoint: &str, nonce: u64, copies: usize) {
    let extension = SpreadOffer { answer: false, nat: SpreadNat::Symmetric, sockets: 256, nonce }.to_bytes();
    let record = PathRecord { flags: 0, extension: &extension, endpoint: addr(endpoint) };
    let mut payload = Vec::new();
    PathRecord::write_all(&vec![record; copies], &mut payload);
    b.receive_over(friend, 5, AT_ROOT, Verb::PushDirectPaths, &payload, 1);
}

/// What of this offers a spread, or answers an offer.
fn offers(sent: &[Sent]) -> Vec<SpreadOffer> {
    let pushes = only(sent, Verb::PushDirectPaths);
    let records = pushes.iter().flat_map(|p| PathRecord::records(&p.payload).map(Result::unwrap));
    records.filter_map(|r| SpreadOffer::parse(r.extension)).collect()
}

#[test]
fn an_offer_is_answered_again_when_it_is_repeated_and_not_for_every_copy() {
    let (mut b, _, friend) = relayed_friend();
    offer(&mut b, friend, AT_P, 7, 40);
    assert_eq!(offers(&b.take_to(friend)).len(), 1);
    b.advance(SPREAD_ANSWER_MS);
    for _ in 0..20 {
        offer(&mut b, friend, AT_P, 7, 40);
    }
    let answers = offers(&b.take_to(friend));
    assert_eq!(answers.iter().map(|o| (o.answer, o.nonce)).collect::<Vec<_>>(), [(true, 7)]);
    assert_eq!(b.node.counters().spreads, 1);
}

#[test]
fn nobody_is_spread_to_at_port_zero() {
    let (mut b, _, friend) = relayed_friend();
    offer(&mut b, friend, "44.9.9.9:0", 7, 1);
    b.advance(5000);
    assert_eq!((b.node.counters().spreads, b.node.counters().spread_refused), (0, 1));
    assert!(b.take().iter().all(|s| s.remote.port() != 0));
}

#[test]
fn an_identity_that_was_given_up_opens_no_sockets() {
    let (mut b, root, friend) = relayed_friend();
    let hello = (0..70).find_map(|_| {
        b.advance(1000);
        Some(only(&b.take_to(root), Verb::Hello).first()?.id)
    });
    let mut payload = Vec::new();
    ErrorMessage { in_re: InRe::new(Verb::Hello, hello.unwrap()), code: ErrorCode::IdentityCollision }
        .write(&mut payload);
    b.receive(root, 5, AT_ROOT, Verb::Error, &payload);
    introduce(&mut b, root, friend);
    offer(&mut b, friend, AT_P, 7, 1);
    b.advance(5000);
    assert_eq!(b.node.counters().spreads, 0);
    assert!(!b.others.iter().any(|o| matches!(o, Output::OpenSockets { .. })));
}

#[test]
fn an_offer_after_a_pause_is_a_new_one() {
    let (mut b, root, friend) = relayed_friend();
    // A frame a second for so long; the friend's keep it trusted.
    let offered = |b: &mut Bench, seconds: u64| {
        for second in 0..seconds {
            if second % 30 == 0 {
                introduce(b, root, friend);
                b.receive_frame(friend, 5, AT_ROOT, 1);
            }
            b.send_frame(friend);
            b.advance(1000);
        }
        offers(&b.take_to(friend))
    };
    b.send_frame(friend);
    b.advance(2 * SPREAD_IDLE_MS);
    let first = offers(&b.take_to(friend));
    assert_eq!(first.len(), 2, "and no frame any more");
    let nonces: Vec<u64> = offered(&mut b, SPREAD_PAUSE_MS / 1000 + 10).iter().map(|o| o.nonce).collect();
    assert_eq!(nonces.len(), SPREAD_OFFERS, "{nonces:?}");
    assert!(!nonces.contains(&first[0].nonce), "{first:?} {nonces:?}");
}

#[test]
fn a_kept_socket_that_breaks_is_no_news_of_our_addresses() {
    let (mut b, _, friend) = relayed_friend();
    b.answer(friend, AT_P, 0);
    offer(&mut b, friend, AT_P, 7, 1);
    let asked = b.others.iter().find_map(|o| match o {
        Output::OpenSockets { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let socket = LocalSocketId(500);
    b.node.add_spread_socket(asked.unwrap(), socket);
    let echo = b.packet(friend, Verb::Nop, b"", wire::Suite::AesGmacSiv, 0);
    b.deliver(socket.0, AT_P, echo);
    b.advance(100);
    assert_eq!(b.paths(friend).first(), Some(&(socket.0, addr(AT_P))), "kept");
    b.advance(130_000);
    b.receive_frame(friend, socket.0, AT_P, 0);
    b.advance(20_000);
    b.take();
    b.node.remove_socket(b.now, socket);
    b.advance(1000);
    assert_eq!(only(&b.take_to(friend), Verb::PushDirectPaths).len(), 0);
    assert!(b.paths(friend).iter().all(|(s, _)| *s != socket.0));
}
