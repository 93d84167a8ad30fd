//! Port spread: how a pair goes direct although one side's router gives every flow a port that nobody can foresee and
//! the other side's router insists on it. Both agree to it first. The one side opens many flows towards the other, each
//! from a socket of its own; the other probes ports of the one until it meets such a flow. How sockets are opened and
//! which of them carry frames is not known here. // ours; spec: paths, "Which NAT pairs work", Gateway

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wire::endpoint::{Scope, scope};
use wire::message::{PathRecord, SpreadNat, SpreadOffer};
use wire::{Address, Now, Verb};

use crate::Node;
use crate::gate::Stamp;
use crate::io::{LocalSocketId, Mapping, Output};
use crate::limits::*;
use crate::path::Path;
use crate::peer::takes_echo;
use crate::waiting::Message;

/// Ports below are not given out by routers.
const PORT_MIN: u16 = 1024;

/// A peer to whom frames go by a relay, and how agreeing with it stands.
#[derive(Clone, Copy, Debug)]
struct Relayed {
    last_frame_ms: u64,
    /// When it is looked at again.
    due_ms: u64,
    /// Offers sent since the last pause, and the number that they all have.
    offers: usize,
    nonce: u64,
    /// The number of its latest offer, and when that was answered last.
    heard: Option<u64>,
    answered: Stamp,
    ended_ms: Option<u64>,
}

/// A spread under way.
#[derive(Debug)]
struct Spread {
    ticket: u64,
    peer: Address,
    /// Our socket that an upstream knows: it probes, and the others are opened beside it.
    beside: LocalSocketId,
    target: SocketAddr,
    started_ms: u64,
    /// Where our flows are opened to.
    aims: Vec<SocketAddr>,
    sockets: Vec<LocalSocketId>,
    junk_rounds: usize,
    probing: Option<Probing>,
    /// When the peer was reached.
    done_ms: Option<u64>,
    adopted: usize,
}

/// The ports of the target that are probed, first those that a router that counts has given to its flows: from the last
/// of them down, then those above. The ports next to the one last seen may have knocked in vain before. To answer these
/// costs us our port where our router took such a knock for its own: Linux gives us another one for all that follows.
#[derive(Debug)]
struct Probing {
    next_ms: u64,
    last_seen: u16,
    opened: u16,
    near: u16,
    probed: BTreeSet<u16>,
}

/// A socket that was opened for a spread and found its peer.
#[derive(Clone, Copy, Debug)]
struct Adopted {
    peer: Address,
    beside: LocalSocketId,
}

/// All spreads, and whom they may be for.
#[derive(Debug, Default)]
pub(crate) struct Spreads {
    relayed: BTreeMap<Address, Relayed>,
    /// None of them is due before.
    look_ms: Option<u64>,
    active: Vec<Spread>,
    adopted: BTreeMap<LocalSocketId, Adopted>,
}

impl Probing {
    /// The next port; each once. `None` when enough were probed.
    fn next(&mut self, random: impl Fn(&BTreeSet<u16>) -> u16) -> Option<u16> {
        if self.probed.len() >= SPREAD_PROBES_MAX {
            return None;
        }
        let nth = self.probed.len() as u16 + 1;
        let port = if nth <= self.opened {
            above(self.last_seen, self.opened + 1 - nth)
        } else if nth <= self.near {
            above(self.last_seen, nth)
        } else {
            random(&self.probed)
        };
        self.probed.insert(port);
        Some(port)
    }
}

/// The port that a counting router gives out `n` flows after `port`.
fn above(port: u16, n: u16) -> u16 {
    let ports = u32::from(u16::MAX - PORT_MIN) + 1;
    PORT_MIN + ((u32::from(port.saturating_sub(PORT_MIN)) + u32::from(n)) % ports) as u16
}

/// How many flows each socket opens towards a side with this NAT.
fn aims_at(nat: SpreadNat) -> u16 {
    if nat == SpreadNat::Unknown { 2 } else { 1 }
}

impl Spread {
    fn step_ms(&self) -> u64 {
        let end_ms = self.done_ms.map_or(self.started_ms + SPREAD_LIFE_MS, |at| at + SPREAD_GRACE_MS);
        let junk_ms = SPREAD_JUNK.get(self.junk_rounds).map(|(after_ms, _)| self.started_ms + after_ms);
        let probe_ms = self.probing.as_ref().map(|p| p.next_ms);
        let steps = [junk_ms, probe_ms].into_iter().flatten().filter(|_| self.done_ms.is_none());
        steps.fold(end_ms, u64::min)
    }
}

impl Spreads {
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.look_ms.into_iter().chain(self.active.iter().map(Spread::step_ms)).min()
    }

    /// A relayed peer is due then.
    fn look_at(&mut self, due_ms: u64) {
        self.look_ms = Some(self.look_ms.map_or(due_ms, |at| at.min(due_ms)));
    }

    /// Sockets that we open on a side with this NAT, as long as one that is met can be kept.
    fn sockets_for(&self, nat: SpreadNat) -> u16 {
        let none = nat == SpreadNat::EndpointIndependent || self.adopted.len() >= SPREAD_ADOPTED_MAX;
        if none { 0 } else { SPREAD_SOCKETS }
    }

    /// The socket was opened for a spread, whether that is over or not.
    pub(crate) fn has(&self, socket: LocalSocketId) -> bool {
        self.is_adopted(socket) || self.active.iter().any(|s| s.sockets.contains(&socket))
    }

    /// The socket beside which a kept one was opened.
    pub(crate) fn beside(&self, socket: LocalSocketId) -> Option<LocalSocketId> {
        self.adopted.get(&socket).map(|a| a.beside)
    }

    pub(crate) fn is_adopted(&self, socket: LocalSocketId) -> bool {
        self.adopted.contains_key(&socket)
    }

    /// Peers that may need one, sockets that are open.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        let open: usize = self.active.iter().map(|s| s.sockets.len()).sum();
        [self.relayed.len(), open + self.adopted.len()]
    }

    pub(crate) fn forget_idle(&mut self, now_ms: u64) {
        let busy = |peer: &Address| self.active.iter().any(|s| s.peer == *peer);
        self.relayed.retain(|peer, r| now_ms.saturating_sub(r.last_frame_ms) < 2 * SPREAD_PAUSE_MS || busy(peer));
    }
}

impl Node {
    /// A frame to `peer` went by a relay: if that lasts, we shall offer it a spread.
    pub(crate) fn spread_wanted(&mut self, now: Now, peer: Address) {
        if !self.settings.port_spread {
            return;
        }
        let now_ms = now.ms();
        if let Some(relayed) = self.spreads.relayed.get_mut(&peer) {
            if now_ms.saturating_sub(relayed.last_frame_ms) >= SPREAD_IDLE_MS {
                relayed.due_ms = relayed.due_ms.max(now_ms + SPREAD_AFTER_MS);
            }
            relayed.last_frame_ms = now_ms;
        } else {
            self.note_relayed(now_ms, peer);
        }
    }

    fn note_relayed(&mut self, now_ms: u64, peer: Address) -> bool {
        if !self.spreads.relayed.contains_key(&peer) {
            if self.spreads.relayed.len() >= SPREAD_PEERS_MAX {
                self.counters.spread_full += 1;
                return false;
            }
            let (nonce, due_ms) = (self.random_id(), now_ms + SPREAD_AFTER_MS);
            let new = Relayed {
                last_frame_ms: now_ms,
                due_ms,
                offers: 0,
                nonce,
                heard: None,
                answered: Stamp::NEVER,
                ended_ms: None,
            };
            self.spreads.relayed.insert(peer, new);
            self.spreads.look_at(due_ms);
        }
        true
    }

    /// Does what is due: offers, flows, probes, ends.
    pub(crate) fn spread_step(&mut self, now: Now) {
        let now_ms = now.ms();
        if self.spreads.next_ms().is_none_or(|at| at > now_ms) {
            return;
        }
        if self.spreads.look_ms.is_some_and(|at| at <= now_ms) {
            let due = self.spreads.relayed.iter().filter(|(_, r)| r.due_ms <= now_ms).map(|(&peer, _)| peer);
            for peer in due.collect::<Vec<_>>() {
                self.offer_spread(now, peer);
            }
            self.spreads.look_ms = self.spreads.relayed.values().map(|r| r.due_ms).min();
        }
        let (mut going, mut ended) = (Vec::new(), Vec::new());
        for mut spread in std::mem::take(&mut self.spreads.active) {
            if self.is_direct(now, spread.peer) {
                // Also if it came back by itself: nobody is probed for what is there.
                spread.done_ms.get_or_insert(now_ms);
            }
            let over_ms = spread.done_ms.map_or(spread.started_ms + SPREAD_LIFE_MS, |at| at + SPREAD_GRACE_MS);
            if now_ms >= over_ms || !self.settings.port_spread {
                ended.push(spread);
                continue;
            }
            if spread.done_ms.is_none() {
                self.open_flows(now, &mut spread);
                self.probe_ports(now, &mut spread);
            }
            going.push(spread);
        }
        self.spreads.active = going;
        ended.into_iter().for_each(|spread| self.end_spread(now, spread));
    }

    /// What is sent to `peer` goes by a path of its own.
    fn is_direct(&self, now: Now, peer: Address) -> bool {
        self.way(peer, now.ms()).is_some_and(|way| way.owner == peer)
    }

    /// Where `peer`, with whom we share a network, may be met by an upstream's word: our socket and its endpoint. Nobody
    /// else's word is enough to have many packets sent there.
    fn spread_place(&mut self, now: Now, peer: Address) -> Option<Path> {
        let now_ms = now.ms();
        let path = self.rendezvous.met_at(peer, now_ms).filter(|p| self.sockets.contains_key(&p.socket))?;
        let relayed = self.way(peer, now_ms).is_some_and(|way| way.owner != peer);
        let trusted = self.peers.get(peer).is_some_and(|p| p.trusted(now_ms));
        let global = matches!(scope(path.remote.ip()), Scope::Global | Scope::PseudoPrivate);
        (relayed && trusted && global && path.remote.is_ipv4() && self.acceptable(peer, path.remote)).then_some(path)
    }

    /// What we say of the NAT before our socket, and how we are seen there.
    fn spread_self(&self, now: Now, socket: LocalSocketId) -> Option<(SpreadNat, SocketAddr)> {
        let seen = self.surfaces.seen(socket, now.ms()).filter(SocketAddr::is_ipv4)?;
        let nat = match self.mapping(socket, now.ms()) {
            Mapping::Unknown => SpreadNat::Unknown,
            Mapping::None | Mapping::EndpointIndependent => SpreadNat::EndpointIndependent,
            Mapping::Symmetric { .. } => SpreadNat::Symmetric,
        };
        Some((nat, seen))
    }

    fn offer_spread(&mut self, now: Now, peer: Address) {
        let now_ms = now.ms();
        let nonce = self.random_id();
        let place = self.spread_place(now, peer).and_then(|path| self.spread_self(now, path.socket));
        let direct = self.is_direct(now, peer);
        let busy = self.spreads.active.iter().any(|s| s.peer == peer);
        let Some(relayed) = self.spreads.relayed.get_mut(&peer) else { return };
        relayed.due_ms = now_ms + SPREAD_ANSWER_MS;
        let idle = now_ms.saturating_sub(relayed.last_frame_ms) >= SPREAD_IDLE_MS;
        if direct || idle || !self.settings.port_spread {
            relayed.due_ms = now_ms + SPREAD_PAUSE_MS;
            // What it offered and when one ended is remembered, and the pause after offers of ours.
            if relayed.ended_ms.is_none() && relayed.heard.is_none() && relayed.offers == 0 {
                self.spreads.relayed.remove(&peer);
            } else {
                relayed.offers = 0;
            }
            return;
        }
        if relayed.offers >= SPREAD_OFFERS {
            relayed.offers = 0;
            relayed.due_ms = now_ms + SPREAD_PAUSE_MS;
            return;
        }
        let Some((nat, seen)) = place.filter(|_| !busy) else { return };
        if relayed.offers == 0 {
            relayed.nonce = nonce;
        }
        relayed.offers += 1;
        let nonce = relayed.nonce;
        self.tell_spread(
            now,
            peer,
            seen,
            SpreadOffer { answer: false, nat, sockets: self.spreads.sockets_for(nat), nonce },
        );
    }

    /// An offer rides on a record of a push; who does not know it sees one more of our addresses.
    fn tell_spread(&mut self, now: Now, to: Address, seen: SocketAddr, offer: SpreadOffer) {
        let extension = offer.to_bytes();
        let mut payload = Vec::new();
        PathRecord::write_all(&[PathRecord { extension: &extension, ..PathRecord::to(seen) }], &mut payload);
        self.counters.spread_offers += 1;
        self.send(now, to, Message::new(Verb::PushDirectPaths, payload));
    }

    /// A peer offers a spread, or takes up ours.
    pub(crate) fn spread_offered(&mut self, now: Now, from: Address, endpoint: SocketAddr, offer: SpreadOffer) {
        if !self.settings.port_spread || self.halted || endpoint.port() == 0 {
            self.counters.spread_refused += 1;
            return;
        }
        let place = self.spread_place(now, from).filter(|path| path.remote.ip() == endpoint.ip());
        let own = place.and_then(|path| Some((path.socket, self.spread_self(now, path.socket)?)));
        let Some((beside, (nat, seen))) = own else {
            self.counters.spread_refused += 1;
            return;
        };
        let answer = SpreadOffer { answer: true, nat, sockets: self.spreads.sockets_for(nat), nonce: offer.nonce };
        if self.spreads.active.iter().any(|s| s.peer == from) {
            // An answer was lost, perhaps; copies of an offer in one push are one.
            let again =
                |r: &mut Relayed| r.heard == Some(offer.nonce) && r.answered.pass(SPREAD_ANSWER_MS / 2, now.ms());
            if !offer.answer && self.spreads.relayed.get_mut(&from).is_some_and(again) {
                self.tell_spread(now, from, seen, answer);
            }
            return;
        }
        let rested = |r: &Relayed| r.ended_ms.is_none_or(|at| now.ms().saturating_sub(at) >= SPREAD_REST_MS);
        let known = self.spreads.relayed.get(&from).copied();
        let right = match offer.answer {
            true => known.is_some_and(|r| r.offers > 0 && r.nonce == offer.nonce),
            false => known.is_none_or(|r| r.heard != Some(offer.nonce) && rested(&r)),
        };
        let useful = offer.sockets > 0 || answer.sockets > 0;
        let room = self.spreads.active.len() < SPREADS_MAX
            && self.spreads.active.iter().all(|s| s.target.ip() != endpoint.ip());
        if !right || !useful || !room || !self.note_relayed(now.ms(), from) {
            self.counters.spread_refused += 1;
            return;
        }
        if !offer.answer {
            if let Some(relayed) = self.spreads.relayed.get_mut(&from) {
                relayed.heard = Some(offer.nonce);
                relayed.answered.set(now.ms());
            }
            self.tell_spread(now, from, seen, answer);
        }
        self.begin_spread(now, Path { socket: beside, remote: endpoint }, from, &offer, nat);
    }

    fn begin_spread(&mut self, now: Now, at: Path, peer: Address, theirs: &SpreadOffer, nat: SpreadNat) {
        let (now_ms, target) = (now.ms(), at.remote);
        let ticket = self.random_id();
        // Its router has given out a port for each flow that it opens towards us by the time that it probes.
        let opened = theirs.sockets.min(SPREAD_SOCKETS) * aims_at(nat);
        let counted = SocketAddr::new(target.ip(), above(target.port(), opened + SPREAD_AHEAD));
        let aims = match theirs.nat {
            SpreadNat::EndpointIndependent => vec![target],
            SpreadNat::Symmetric => vec![counted],
            SpreadNat::Unknown => vec![counted, target],
        };
        let probing = (theirs.sockets > 0).then(|| Probing {
            next_ms: now_ms + self.opening_ms(now, target),
            last_seen: target.port(),
            opened: theirs.sockets.min(SPREAD_SOCKETS),
            near: opened + SPREAD_AHEAD,
            probed: BTreeSet::new(),
        });
        let spread = Spread {
            ticket,
            peer,
            beside: at.socket,
            target,
            started_ms: now_ms,
            aims,
            sockets: Vec::new(),
            junk_rounds: 0,
            probing,
            done_ms: None,
            adopted: 0,
        };
        self.spreads.active.push(spread);
        self.counters.spreads += 1;
        let count = self.spreads.sockets_for(nat);
        if count > 0 {
            self.output(Output::OpenSockets { beside: at.socket, count, ticket });
        }
    }

    /// A socket that [`Output::OpenSockets`] asked for; one that is not wanted any more is closed again.
    pub fn add_spread_socket(&mut self, ticket: u64, socket: LocalSocketId) {
        let spread = self.spreads.active.iter_mut().find(|s| s.ticket == ticket && s.done_ms.is_none());
        match spread.filter(|s| s.sockets.len() < usize::from(SPREAD_SOCKETS)) {
            Some(spread) => spread.sockets.push(socket),
            None => self.output(Output::CloseSocket(socket)),
        }
    }

    /// Opens flows with packets that die on the way. One aim after the other, so that a router that counts gives the
    /// flows of each aim neighbouring ports.
    fn open_flows(&mut self, now: Now, spread: &mut Spread) {
        let Some(&(after_ms, ttl)) = SPREAD_JUNK.get(spread.junk_rounds) else { return };
        if now.ms() < spread.started_ms + after_ms {
            return;
        }
        spread.junk_rounds += 1;
        for &aim in &spread.aims {
            spread.sockets.iter().for_each(|&socket| self.open_own_nat(Some(socket), aim, ttl));
        }
    }

    fn probe_ports(&mut self, now: Now, spread: &mut Spread) {
        let Some(probing) = &mut spread.probing else { return };
        if now.ms() < probing.next_ms {
            return;
        }
        probing.next_ms = now.ms() + SPREAD_BATCH_MS;
        for _ in 0..SPREAD_BATCH {
            let start = PORT_MIN + self.random_below(u64::from(u16::MAX - PORT_MIN) + 1) as u16;
            let free = |probed: &BTreeSet<u16>| {
                (start..=u16::MAX).chain(PORT_MIN..start).find(|port| !probed.contains(port)).unwrap_or(start)
            };
            let Some(port) = probing.next(free) else {
                spread.probing = None;
                return;
            };
            self.counters.spread_probes += 1;
            self.contact_from(now, spread.peer, spread.beside, SocketAddr::new(spread.target.ip(), port));
        }
    }

    /// Probes an endpoint from one socket only.
    pub(crate) fn contact_from(&mut self, now: Now, to: Address, socket: LocalSocketId, remote: SocketAddr) {
        if self.peers.get(to).is_some_and(|p| takes_echo(p.version)) {
            self.send_echo(now, to, Some(socket), remote, None);
        } else {
            self.send_hello(now, to, Some(socket), remote);
        }
    }

    /// A path over a socket of a spread may be learned: those are for its peer, and the first to find it are kept.
    pub(crate) fn spread_learns(&mut self, path: Path, from: Address) -> bool {
        if let Some(adopted) = self.spreads.adopted.get(&path.socket) {
            return adopted.peer == from;
        }
        let room = self.spreads.adopted.len() < SPREAD_ADOPTED_MAX;
        let Some(spread) = self.spreads.active.iter_mut().find(|s| s.sockets.contains(&path.socket)) else {
            return false;
        };
        if spread.peer != from || spread.target.ip() != path.remote.ip() || spread.adopted >= SPREAD_KEPT || !room {
            return false;
        }
        spread.adopted += 1;
        spread.sockets.retain(|&socket| socket != path.socket);
        let adopted = Adopted { peer: from, beside: spread.beside };
        self.spreads.adopted.insert(path.socket, adopted);
        self.output(Output::AdoptSocket { socket: path.socket, beside: adopted.beside });
        true
    }

    /// A path to `peer` was learned: its spread has done what it was for.
    pub(crate) fn spread_learned(&mut self, now: Now, path: Path, peer: Address) {
        let Some(spread) = self.spreads.active.iter_mut().find(|s| s.peer == peer) else { return };
        if spread.done_ms.is_none() {
            spread.done_ms = Some(now.ms());
            self.counters.spread_successes += u64::from(spread.target.ip() == path.remote.ip());
        }
    }

    fn end_spread(&mut self, now: Now, spread: Spread) {
        for socket in spread.sockets {
            self.output(Output::CloseSocket(socket));
        }
        let pause_ms = if spread.done_ms.is_some() { SPREAD_REST_MS } else { SPREAD_PAUSE_MS };
        if let Some(relayed) = self.spreads.relayed.get_mut(&spread.peer) {
            relayed.offers = 0;
            relayed.ended_ms = Some(now.ms());
            relayed.due_ms = now.ms() + pause_ms;
            self.spreads.look_at(now.ms() + pause_ms);
        }
    }

    /// Closes kept sockets whose path is gone.
    pub(crate) fn close_spread_sockets(&mut self) {
        let used = |id: &LocalSocketId, a: &Adopted| {
            self.peers.get(a.peer).is_some_and(|p| p.slots.iter().any(|s| s.path.socket == *id))
        };
        let unused: Vec<_> = self.spreads.adopted.iter().filter(|(id, a)| !used(id, a)).map(|(&id, _)| id).collect();
        for id in unused {
            self.spreads.adopted.remove(&id);
            self.output(Output::CloseSocket(id));
        }
    }

    /// A link's socket is gone, or one that was kept. What was opened beside it goes too; returns those sockets.
    pub(crate) fn spread_socket_gone(&mut self, now: Now, id: LocalSocketId) -> Vec<LocalSocketId> {
        for at in (0..self.spreads.active.len()).rev() {
            if self.spreads.active[at].beside == id {
                let spread = self.spreads.active.swap_remove(at);
                self.end_spread(now, spread);
            }
        }
        let gone = self.spreads.adopted.extract_if(.., |socket, a| *socket == id || a.beside == id);
        let gone: Vec<LocalSocketId> = gone.map(|(socket, _)| socket).collect();
        gone.iter().for_each(|&socket| self.output(Output::CloseSocket(socket)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counting_router_begins_again_at_its_first_port() {
        assert_eq!((above(2000, 5), above(65_535, 1), above(65_530, 10)), (2005, 1024, 1028));
    }

    #[test]
    fn who_keeps_as_many_sockets_as_it_may_opens_none_and_only_probes() {
        let (mut node, peer) = (crate::tests::node(), Address::from_u64(2));
        let beside = LocalSocketId(1);
        for n in 0..SPREAD_ADOPTED_MAX as u64 {
            assert_eq!(node.spreads.sockets_for(SpreadNat::Symmetric), SPREAD_SOCKETS);
            node.spreads.adopted.insert(LocalSocketId(2 + n), Adopted { peer, beside });
        }
        assert_eq!(node.spreads.sockets_for(SpreadNat::Symmetric), 0);
        assert_eq!(node.spreads.sockets_for(SpreadNat::EndpointIndependent), 0);
    }

    #[test]
    fn a_relayed_peer_is_looked_at_when_it_is_due_and_not_after() {
        let (mut node, now) = (crate::tests::node(), |ms| Now::at_ms(ms));
        let due = |node: &Node| node.spreads.relayed.values().map(|r| r.due_ms).min();
        for ms in 0..60_000 {
            let at = now(10_000 + ms);
            if ms % 700 < 350 {
                node.spread_wanted(at, Address::from_u64(1 + ms / 700 % 50));
            }
            let next = node.spreads.next_ms();
            assert!(next <= due(&node) && next.is_some() == due(&node).is_some(), "{next:?}");
            if next.is_some_and(|next| next <= at.ms()) {
                node.spread_step(at);
                assert!(node.spreads.next_ms().is_none_or(|next| next > at.ms()), "no turning in circles");
            }
        }
        assert!(node.counters.spread_offers == 0 && !node.spreads.relayed.is_empty());
    }

    #[test]
    fn ports_are_probed_once_each_those_of_flows_first_from_the_last_down_and_never_more_than_the_bound() {
        let mut probing = Probing { next_ms: 0, last_seen: 65_534, opened: 2, near: 3, probed: BTreeSet::new() };
        let lowest_free = |probed: &BTreeSet<u16>| (PORT_MIN..).find(|p| !probed.contains(p)).unwrap();
        let ports: Vec<u16> = std::iter::from_fn(|| probing.next(lowest_free)).collect();
        assert_eq!(ports[..5], [1024, 65_535, 1025, 1026, 1027]);
        assert_eq!(ports.len(), SPREAD_PROBES_MAX);
        assert_eq!(probing.probed.len(), SPREAD_PROBES_MAX, "each once");
    }
}
