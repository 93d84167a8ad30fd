//! Three ports of one link: all make contact, the first one is used while it works, what only another one reaches is kept
//! alive over that one, and peers are told of them in order.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use node::{LocalSocketId, Port, Socket};
use wire::message::PathRecord;
use wire::{Address, Verb};

const AT_P: &str = "44.9.9.9:9993";
const ROOT: &str = "44.1.1.1:9993";

/// A leaf with one link, whose sockets are 5, 15 and 25, and one root that answers.
fn three_ports() -> (Bench, Address) {
    let mut b = Bench::new(1);
    let root = b.actor(2);
    b.install_planet(&[(root, &[ROOT])]);
    let ports = [(5, Port::Primary, 9993), (15, Port::Secondary, 40001), (25, Port::Tertiary, 40002)];
    for (id, port, number) in ports {
        let local = addr(&format!("172.16.5.1:{number}"));
        b.node.add_socket(b.now, Socket { id: LocalSocketId(id), local, link: "eth0".into(), port });
    }
    b.answer(root, ROOT, 0);
    b.advance(1000);
    b.take();
    b.join_open();
    (b, root)
}

fn fan_out(b: &Bench) -> Vec<u64> {
    b.node.fan_out(addr(AT_P)).iter().map(|s| s.0).collect()
}

#[test]
fn contact_is_made_from_every_port_of_the_first_address_of_a_link_in_order() {
    let (mut b, _) = three_ports();
    assert_eq!(fan_out(&b), [5, 15, 25]);
    let other =
        Socket { id: LocalSocketId(4), local: addr("172.16.4.1:9993"), link: "wwan0".into(), port: Port::Primary };
    let second =
        Socket { id: LocalSocketId(6), local: addr("172.16.5.2:9993"), link: "eth0".into(), port: Port::Primary };
    b.node.add_socket(b.now, other);
    b.node.add_socket(b.now, second);
    assert_eq!(fan_out(&b), [4, 5, 15, 25], "first ports first, one address of a link");
    assert_eq!(b.node.fan_out(addr("[2001:db8::1]:1")), []);
}

#[test]
fn a_host_that_the_first_port_reaches_has_one_path_and_every_port_greets_the_root_in_use_alone() {
    let (mut b, root) = three_ports();
    assert_eq!(b.paths(root), [(5, addr(ROOT))]);
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 0);
    b.receive_frame(p, 5, AT_P, 0);
    b.take();
    b.advance(130_000);
    let sent = b.take();
    let hellos = |who: Address| -> Vec<Option<u64>> {
        let to = |s: &&Sent| s.to == who && s.verb == Some(Verb::Hello);
        sent.iter().filter(to).map(|s| s.socket).collect()
    };
    assert!(hellos(root).len() >= 2 && hellos(root).iter().all(Option::is_none), "every port: {:?}", hellos(root));
    assert!(hellos(p).len() >= 2 && hellos(p).iter().all(|s| *s == Some(5)), "the first one: {:?}", hellos(p));
    assert_eq!((b.paths(root), b.paths(p)), (vec![(5, addr(ROOT))], vec![(5, addr(AT_P))]));
}

#[test]
fn what_only_a_further_port_reaches_is_kept_alive_over_it() {
    let (mut b, _) = three_ports();
    let p = b.actor(10);
    b.befriend(p, 15, AT_P);
    b.answer(p, AT_P, 0);
    b.actors.get_mut(&p).unwrap().only_socket = Some(15);
    b.receive_frame(p, 15, AT_P, 0);
    b.take();
    b.advance(200_000);
    let sent = b.take_to(p);
    let over = |verb, socket| only(&sent, verb).iter().filter(|s| s.socket == Some(socket)).count();
    assert!(over(Verb::Hello, 15) >= 2, "{:?}", verbs(&sent));
    assert!(over(Verb::Echo, 15) >= 8, "{:?}", verbs(&sent));
    assert_eq!(over(Verb::Echo, 5), 0);
    assert_eq!(b.preferred(p), Some((15, addr(AT_P))));
}

#[test]
fn a_flow_goes_over_to_the_first_port_once_and_never_back_while_that_works() {
    let (mut b, _) = three_ports();
    let p = b.actor(10);
    b.befriend(p, 15, AT_P);
    b.receive_frame(p, 15, AT_P, 0);
    assert_eq!(b.preferred(p), Some((15, addr(AT_P))));
    b.befriend(p, 5, AT_P);
    assert_eq!(b.paths(p), [(15, addr(AT_P)), (5, addr(AT_P))], "both are proven");
    b.answer(p, AT_P, 400); // the first port is the slower one from now on
    b.actors.get_mut(&p).unwrap().only_socket = Some(5);
    for n in 0..60 {
        b.send_frame(p);
        b.receive_frame(p, [5, 15][n % 2], AT_P, 0);
        assert_eq!(b.preferred(p), Some((5, addr(AT_P))), "after {n} s");
        b.advance(1000);
    }
    assert!(b.take_to(p).iter().all(|s| s.socket != Some(15)), "not kept alive");
    let latency = b.node.peers(b.now).into_iter().find(|peer| peer.address == p).unwrap().latency_us.unwrap();
    assert!(latency >= 300_000, "measured: {latency}");
}

/// The endpoints of the pushes to `who`.
fn pushed(b: &mut Bench, who: Address) -> Vec<String> {
    let sent = b.take_to(who);
    let pushes = only(&sent, Verb::PushDirectPaths);
    pushes.iter().flat_map(|p| PathRecord::records(&p.payload).map(|r| r.unwrap().endpoint.to_string())).collect()
}

#[test]
fn peers_are_told_of_what_routers_map_first_and_of_every_port() {
    let (mut b, _) = three_ports();
    b.node.set_mapped(LocalSocketId(25), Some(addr("44.7.7.1:50000")));
    b.node.set_mapped(LocalSocketId(99), Some(addr("44.7.7.1:50001"))); // nobody's
    let p = b.actor(10);
    b.befriend(p, 5, AT_P);
    b.answer(p, AT_P, 0);
    b.receive_frame(p, 5, AT_P, 0);
    let local = ["172.16.5.1:9993", "172.16.5.1:40001", "172.16.5.1:40002"];
    assert_eq!(pushed(&mut b, p), [&["44.7.7.1:50000", "44.5.6.7:9993"][..], &local].concat());
    b.advance(20_000);
    assert!(pushed(&mut b, p).is_empty(), "nothing new");
    b.node.remove_socket(b.now, LocalSocketId(25));
    b.advance(20_000);
    b.receive_frame(p, 5, AT_P, 0);
    assert_eq!(pushed(&mut b, p), [&["44.5.6.7:9993"][..], &local[..2]].concat());
}
