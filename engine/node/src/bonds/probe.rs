//! What a bond wants sent: probes that will be acknowledged, by the cheapest means that the remote answers now, and
//! requests for a path. And what comes back: whose request an acknowledgement names.
// spec: bonding, "Probing, liveness, loss", "Being good to the remote"

use std::net::SocketAddr;

use bond::config::{Mode, Policy};
use bond::{Action, PathId};
use wire::message::{ExtFrame, Frame, PathNegotiation};
use wire::{Address, Mac, NetworkId, Now, Suite, Verb};

use super::Held;
use crate::Node;
use crate::dispatch::{Handled, Heard};
use crate::gate::{Bucket, Rate};
use crate::io::{LocalSocketId, Output, PlanChange};
use crate::limits::*;
use crate::path::Path;
use crate::send::{Arrival, Way};
use crate::waiting::Message;

const ACKS: Rate = Rate::per_second(BOND_ACKS_PER_S);

/// What a path was last probed by, us.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probed {
    echo_us: Option<u64>,
    frame_us: Option<u64>,
    hello_us: Option<u64>,
    /// Data that asks for acknowledgement.
    pub(super) data_us: Option<u64>,
}

fn since(at_us: Option<u64>, now_us: u64) -> u64 {
    at_us.map_or(u64::MAX, |at| now_us.saturating_sub(at))
}

/// Whether the remote acknowledges frames: it does as soon as it takes us for a member of a network that we share.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// A network on which it did.
    pub(super) network: Option<NetworkId>,
    /// The last one on which it was tried.
    trial: Option<NetworkId>,
    tried_us: Option<u64>,
    /// How often in a row that found nothing.
    trials: u32,
    /// Frames in a row that were not acknowledged, and since when.
    unanswered: u32,
    unanswered_us: u64,
    /// Acknowledgements that are handed on to the shards.
    acks: Bucket,
}

impl Asking {
    /// A frame was acknowledged.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
    }

    /// A frame left that asks for it.
    pub(super) fn asked(&mut self, now_us: u64) {
        if self.unanswered == 0 {
            self.unanswered_us = now_us;
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// The path is answered by other means: whoever leaves so many frames unanswered then gives no answers to them, and a
    /// path is not judged by that.
    fn answered_otherwise(&mut self, now_us: u64) {
        let long = now_us.saturating_sub(self.unanswered_us) >= BOND_UNANSWERED_US;
        if self.unanswered >= BOND_UNANSWERED_MAX && long {
            (self.network, self.tried_us, self.trials, self.unanswered) = (None, None, 0, 0);
        }
    }

    /// When it is to be found out. A peer that is met has our credential in a moment, so the first trials follow quickly.
    fn next_trial_us(&self) -> u64 {
        let gap = (BOND_TRIAL_MIN_US << self.trials.min(16)).min(BOND_TRIAL_US);
        self.tried_us.map_or(0, |at| at + gap)
    }
}

/// By which means a path is probed.
enum Means {
    Echo,
    Frame(NetworkId),
    Hello,
}

impl Held {
    /// The cheapest means that is answered now.
    fn means(&self, id: PathId, takes_echo: bool, us: u64) -> Option<Means> {
        let probed = self.line(id)?.probed;
        if takes_echo && since(probed.echo_us, us) >= BOND_ECHO_GAP_US {
            return Some(Means::Echo);
        }
        if let Some(network) = self.asking.network.filter(|_| since(probed.frame_us, us) >= BOND_FRAME_GAP_US) {
            return Some(Means::Frame(network));
        }
        (since(probed.hello_us, us) >= BOND_HELLO_GAP_US).then_some(Means::Hello)
    }

    /// When it is to be found out if the remote acknowledges frames.
    pub(super) fn trial_due_us(&self) -> u64 {
        let compat = self.bond.params().mode == Mode::Compat;
        let idle = compat || self.asking.network.is_some() || self.bond.plan().paths.is_empty();
        if idle { u64::MAX } else { self.asking.next_trial_us() }
    }
}

impl Node {
    pub(super) fn bond_act(&mut self, now: Now, peer: Address, action: Action) {
        match action {
            Action::Probe(id) => self.probe_path(now, peer, id),
            Action::Negotiate(id, utility) => self.negotiate_path(peer, id, utility),
        }
    }

    fn probe_path(&mut self, now: Now, peer: Address, id: PathId) {
        let us = now.mono_us;
        let Some(known) = self.peers.get(peer) else { return };
        let gated = crate::peer::answers_echo_slowly(known.version)
            && known.last_echo_out.within(BOND_ECHO_GAP_SLOW_MS, now.ms());
        let takes_echo = crate::peer::takes_echo(known.version) && !gated;
        let Some(held) = self.bonds.table.get(&peer) else { return };
        let (Some(means), Some(path)) = (held.means(id, takes_echo, us), held.line(id).map(|l| l.path)) else {
            self.counters.bond_probes_held += 1;
            return;
        };
        match means {
            // Noted where every ECHO passes.
            Means::Echo => {
                self.send_echo(now, peer, Some(path.socket), path.remote, None);
                self.note_echo(now, peer);
            }
            Means::Frame(network) => {
                if let Some(packet_id) = self.send_asking(now, peer, path, network) {
                    self.bond_requested(now, peer, id, packet_id);
                    if let Some(held) = self.bonds.table.get_mut(&peer) {
                        held.asking.asked(now.mono_us);
                    }
                }
            }
            Means::Hello => {
                if let Some(packet_id) = self.send_hello_over(now, peer, Some(path.socket), path.remote, false) {
                    self.bond_requested(now, peer, id, packet_id);
                }
                if let Some(line) = self.bonds.table.get_mut(&peer).and_then(|held| held.line_mut(id)) {
                    line.probed.hello_us = Some(us);
                }
            }
        }
        self.counters.bond_probes += 1;
    }

    fn bond_requested(&mut self, now: Now, peer: Address, id: PathId, packet_id: u64) {
        if let Some(held) = self.bonds.table.get_mut(&peer) {
            held.bond.requested(now, id, packet_id, true);
        }
    }

    /// An ECHO left over one path or, without a socket, over all that lead to `remote`. Whoever sends it, it tells of the
    /// path, unless the remote need not answer so soon after another.
    pub(crate) fn bond_echo_sent(
        &mut self,
        now: Now,
        peer: Address,
        socket: Option<LocalSocketId>,
        remote: SocketAddr,
        packet_id: u64,
    ) {
        let us = now.mono_us;
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let Held { bond, lines, .. } = held;
        for line in lines.iter_mut().filter(|l| l.path.remote == remote) {
            if socket.is_some_and(|s| s != line.path.socket) {
                continue;
            }
            if socket.is_some() && since(line.probed.echo_us, us) >= BOND_ECHO_GAP_US {
                bond.requested(now, line.id, packet_id, true);
            }
            line.probed.echo_us = Some(us);
        }
    }

    /// A frame without content that asks for acknowledgement: nothing of it reaches a TAP.
    pub(super) fn send_asking(&mut self, now: Now, peer: Address, path: Path, network: NetworkId) -> Option<u64> {
        let (to, from) = (Mac::of_member(network, peer), Mac::of_member(network, self.address()));
        let frame = ExtFrame { network, flags: ExtFrame::ACK, com: None, to, from, ethertype: 0, payload: &[] };
        let mut payload = Vec::with_capacity(32);
        frame.write(&mut payload);
        let Path { socket, remote } = path;
        let id = self.send_straight(now, peer, Some(socket), remote, Verb::ExtFrame, &payload, false)?;
        self.expectations.register(id, Verb::ExtFrame, peer, Some(socket), Some(remote), None, now);
        if let Some(line) = self.bonds.table.get_mut(&peer).and_then(|held| held.line_of(&path)) {
            line.probed.frame_us = Some(now.mono_us);
        }
        Some(id)
    }

    /// Finds out, now and then, whether the remote acknowledges frames.
    pub(super) fn ask_for_acks(&mut self, now: Now, peer: Address) {
        let us = now.mono_us;
        let networks = self.plan.networks_of(peer);
        let Some(held) = self.bonds.table.get_mut(&peer).filter(|held| held.trial_due_us() <= us) else { return };
        held.asking.tried_us = Some(us);
        held.asking.trials = if networks.is_empty() { u32::MAX } else { held.asking.trials.saturating_add(1) };
        let Some(path) = held.bond.plan().paths.first().and_then(|p| held.line(p.id)).map(|l| l.path) else { return };
        // Another one each time.
        let after = held.asking.trial;
        let next = networks.iter().find(|n| after.is_some_and(|after| **n > after)).or(networks.first());
        held.asking.trial = next.copied();
        if let Some(&network) = next {
            self.send_asking(now, peer, path, network);
        }
    }

    /// We share a network with this peer from now on: it may answer on that one.
    pub(crate) fn bond_shares(&mut self, now: Now, peer: Address) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        (held.asking.tried_us, held.asking.trials) = (None, 0);
        self.arm_bond(now, peer);
    }

    /// Sends a frame of the node's own over the paths of a bond, and asks for acknowledgement now and then.
    pub(crate) fn transmit_bonded(&mut self, now: Now, to: Address, way: Way, message: &Message) {
        let copies = self.bond_copies(now, to, way.path);
        let asking = if copies.len() > 1 { None } else { self.asking_frame(now, to, &way.path, message) };
        let (verb, payload) = asking.as_deref().map_or((message.verb, &message.payload[..]), |p| (Verb::ExtFrame, p));
        let Some(packet) = self.build(to, verb, payload, message.compress) else { return };
        let len = packet.len();
        let Some(packet_id) = self.seal_and_emit_copies(to, packet, &copies) else { return };
        self.counters.bond_copies += copies.len() as u64 - 1;
        for path in &copies {
            self.bond_carried(now, to, path, len);
            self.bond_sampled(now, to, path, packet_id);
        }
        let asks = asking.is_some();
        if asks || message.expect_reply {
            let Path { socket, remote } = way.path;
            self.expectations.register(packet_id, verb, to, Some(socket), Some(remote), None, now);
        }
        if asks {
            self.bond_asked(now, to, &way.path, packet_id);
        }
        for path in copies.into_iter().skip(1) {
            self.sent_over(now, to, Way { path, owner: to }, true);
        }
        self.sent_over(now, to, way, true);
    }

    /// The paths that one frame takes, `first` among them.
    fn bond_copies(&self, now: Now, to: Address, first: Path) -> Vec<Path> {
        let mut paths = vec![first];
        let Some(held) = self.bonds.table.get(&to) else { return paths };
        let plan = held.bond.plan();
        if held.forced.is_some() {
            return paths;
        }
        if plan.policy == Policy::Broadcast {
            paths.extend(plan.paths.iter().filter_map(|p| held.line(p.id)).map(|l| l.path).filter(|p| *p != first));
        }
        // Nothing is certain any more.
        paths.extend(self.relay_beside(to, now.ms()).filter(|_| plan.relay));
        paths
    }

    /// The same frame as one that asks for acknowledgement, if that is due and will be heeded.
    fn asking_frame(&self, now: Now, to: Address, path: &Path, message: &Message) -> Option<Vec<u8>> {
        let held = self.bonds.table.get(&to)?;
        let line = held.lines.iter().find(|l| l.path == *path)?;
        if message.verb != Verb::Frame || since(line.probed.data_us, now.mono_us) < BOND_ASK_GAP_US {
            return None;
        }
        let Frame { network, ethertype, payload } = Frame::parse(&message.payload).ok()?;
        if held.asking.network != Some(network) {
            return None;
        }
        let (to, from) = (Mac::of_member(network, to), Mac::of_member(network, self.address()));
        let mut out = Vec::with_capacity(message.payload.len() + 13);
        ExtFrame { network, flags: ExtFrame::ACK, com: None, to, from, ethertype, payload }.write(&mut out);
        Some(out)
    }

    fn bond_asked(&mut self, now: Now, peer: Address, path: &Path, packet_id: u64) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let Some(line) = held.line_of(path) else { return };
        line.probed.data_us = Some(now.mono_us);
        let id = line.id;
        held.bond.requested(now, id, packet_id, false);
        held.asking.asked(now.mono_us);
        self.arm_bond(now, peer);
    }

    fn negotiate_path(&mut self, peer: Address, id: PathId, utility: i16) {
        let Some(path) = self.bonds.table.get(&peer).and_then(|held| held.line(id)).map(|l| l.path) else { return };
        let mut payload = Vec::with_capacity(2);
        PathNegotiation { utility }.write(&mut payload);
        let Some(packet) = self.build(peer, Verb::PathNegotiationRequest, &payload, false) else { return };
        self.seal_and_emit(peer, packet, Some(path.socket), path.remote, None, Some(Suite::Poly1305));
        self.counters.negotiations_sent += 1;
    }

    /// Handles PATH_NEGOTIATION_REQUEST.
    pub(crate) fn path_negotiation(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        packet_id: u64,
        payload: &[u8],
    ) -> Handled {
        let request = PathNegotiation::parse(payload)?;
        let known = self.bonds.table.get_mut(&from).filter(|_| arrival.direct());
        let Some(held) = known.filter(|held| held.bond.params().negotiate) else {
            self.counters.bonding_ignored += 1;
            return Ok(Heard::NO);
        };
        if !self.peers.get(from).is_some_and(|p| p.keys.first_time(packet_id)) {
            self.counters.dropped_repeat += 1;
            return Ok(Heard::NO);
        }
        if let Some(id) = held.line_of(&arrival.path).map(|l| l.id) {
            held.bond.negotiation_request(now, id, request.utility);
            self.counters.negotiations_received += 1;
            self.bond_decided(now, from);
        }
        Ok(Heard::NO)
    }

    /// A reply that was awaited came: if it acknowledges a request of the bond, that path works.
    pub(crate) fn bond_answered(&mut self, now: Now, peer: Address, packet_id: u64) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        held.asking.answered_otherwise(now.mono_us);
        let acknowledged = held.bond.acknowledged(now, packet_id);
        if held.bond.set_mute(held.asking.network.is_none()) {
            self.tick_bond(now, peer);
        } else if acknowledged {
            self.bond_decided(now, peer);
            self.arm_bond(now, peer);
        }
    }

    /// A frame of the node's own was acknowledged; `body` names its network.
    pub(crate) fn bond_frame_acked(&mut self, now: Now, peer: Address, packet_id: u64, body: &[u8]) {
        let tested = self.path_test_acked(now, peer, packet_id);
        let named = body.first_chunk().map(|network| NetworkId(u64::from_be_bytes(*network)));
        let shared = named.filter(|network| self.plan.networks_of(peer).contains(network));
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        held.asking.network = held.asking.network.or(shared);
        held.asking.answered();
        if held.bond.set_mute(held.asking.network.is_none()) {
            self.tick_bond(now, peer);
        }
        if !tested {
            self.bond_answered(now, peer, packet_id);
        }
    }

    /// An acknowledgement of a frame that the node did not send: perhaps a shard did. False if it is none of ours either.
    pub(crate) fn hand_ack_on(&mut self, now: Now, peer: Address, path: &Path, packet_id: u64) -> bool {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return false };
        if !held.asking.acks.take(ACKS, now.ms()) {
            self.counters.bond_acks_over_rate += 1;
            return false;
        }
        self.counters.bond_acks += 1;
        let &Path { socket, remote } = path;
        let acked = PlanChange::Acked { address: peer, packet_id, socket, remote, at_us: now.mono_us };
        self.output(Output::Plan(acked));
        true
    }
}
