//! All joined networks and the multicast database: the member's side of every verb above the peer-to-peer layer. Must
//! never know paths, packets or TAP devices, and asks [`Surroundings`] for everything about peers.

mod controller;
mod credentials;

use std::collections::BTreeMap;

use wire::message::{ConfigRequest, ErrorCode, ErrorMessage, InRe};
use wire::{Address, Identity, MulticastGroup, NetworkId, Now, Verb};

use crate::action::{Action, Handled, Sender, Surroundings};
use crate::constants::{HOUSEKEEPING_MS, TICK_MS};
use crate::counters::Counters;
use crate::held::{Held, HeldMessage, WaitsFor};
use crate::multicast::Database;
use crate::network::Network;
use crate::senders::Senders;
use crate::turn::Turn;

/// The networks of this node.
///
/// Sans-I/O: every call is given the time and its [`Surroundings`] and adds to `out` what is to be done, in order. Call
/// [`Networks::tick`] when [`Networks::poll_timeout`] says so.
#[derive(Debug, Default)]
pub struct Networks {
    tables: Tables,
    counters: Counters,
}

/// How full the bounded tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Messages held for credentials or an identity.
    pub held: usize,
    /// Members on record, in all networks.
    pub members: usize,
    /// Multicast groups known.
    pub groups: usize,
    /// Members of them.
    pub group_members: usize,
    /// Bytes of multicasts that wait for recipients.
    pub queued_multicast_bytes: usize,
    /// MACs known to be behind bridges, in all networks.
    pub bridge_routes: usize,
}

impl Networks {
    /// No networks yet.
    pub fn new() -> Networks {
        Networks::default()
    }

    /// Joins a network and asks for its configuration at once. `cached` is the dictionary kept by
    /// [`Action::StoreConfig`]; if it is good it is in force from now on, without waiting for the controller.
    // spec: networks, "When a request is sent"
    pub fn join(
        &mut self,
        now: Now,
        id: NetworkId,
        cached: Option<&[u8]>,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) {
        self.turn(now, s, out, |tables, turn| {
            if tables.joined.contains_key(&id) {
                return;
            }
            let mut network = Network::new(id, turn.own());
            if !cached.is_some_and(|dictionary| network.restore(turn, dictionary)) {
                turn.out.push(Action::Changed(id));
            }
            network.request(turn);
            tables.joined.insert(id, network);
        });
    }

    /// Leaves a network; nothing is sent. // spec: networks, "Leaving"
    pub fn leave(&mut self, id: NetworkId, out: &mut Vec<Action>) {
        if self.tables.joined.remove(&id).is_some() {
            self.tables.multicast.leave(id);
            self.tables.held.drop_where(|m| m.waits_for == WaitsFor::Gate(id));
            out.extend([Action::ForgetConfig(id), Action::Changed(id)]);
        }
    }

    /// One joined network.
    pub fn get(&self, id: NetworkId) -> Option<&Network> {
        self.tables.joined.get(&id)
    }

    /// All joined networks, by ID.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.tables.joined.values()
    }

    /// A message of one of the verbs FRAME, EXT_FRAME, MULTICAST_LIKE, NETWORK_CREDENTIALS, NETWORK_CONFIG_REQUEST,
    /// NETWORK_CONFIG, MULTICAST_GATHER, MULTICAST_FRAME; others do nothing. A controller handles
    /// NETWORK_CONFIG_REQUEST itself: here it is refused. `payload` is what follows the verb byte, decompressed.
    #[allow(clippy::too_many_arguments)]
    pub fn handle_message(
        &mut self,
        now: Now,
        from: &Sender<'_>,
        packet_id: u64,
        verb: Verb,
        payload: &[u8],
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) -> Handled {
        let message = Message { from: from.identity, packet_id, verb, payload, retried: false };
        self.turn(now, s, out, |tables, turn| tables.handle(turn, &message))
    }

    /// An OK to a message that was sent with `expect_reply`, from the peer it was sent to. `body` is what follows verb
    /// and packet ID.
    #[allow(clippy::too_many_arguments)]
    pub fn handle_ok(
        &mut self,
        now: Now,
        from: &Sender<'_>,
        in_re_verb: Verb,
        in_re_id: u64,
        body: &[u8],
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.turn(now, s, out, |tables, turn| tables.handle_ok(turn, from.identity, in_re_verb, in_re_id, body))
    }

    /// An ERROR of any code; those that are not about networks do nothing.
    // spec: networks, "Errors from the controller"
    pub fn handle_error(
        &mut self,
        now: Now,
        from: &Sender<'_>,
        error: &ErrorMessage<'_>,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.turn(now, s, out, |tables, turn| tables.handle_error(turn, from.identity, error))
    }

    /// A frame from a network's TAP: 14-byte header and payload.
    pub fn handle_tap_frame(
        &mut self,
        now: Now,
        network: NetworkId,
        frame: &[u8],
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) {
        self.turn(now, s, out, |tables, turn| tables.send_frame(turn, network, frame));
    }

    /// Frames went to or came from this member by a way that does not pass through here: its credentials and
    /// announcements are kept up as if they had.
    pub fn handle_activity(
        &mut self,
        now: Now,
        network: NetworkId,
        member: &Identity,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) {
        self.turn(now, s, out, |tables, turn| {
            if let Some(network) = tables.joined.get_mut(&network)
                && network.config().is_some()
            {
                network.push_before_frame(turn, member.address());
                network.admits(turn, member);
            }
        });
    }

    /// The groups that a network's TAP is subscribed to now, ARP groups of its IPv4 addresses included.
    pub fn set_subscriptions(
        &mut self,
        now: Now,
        network: NetworkId,
        groups: Vec<MulticastGroup>,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) {
        self.turn(now, s, out, |tables, turn| {
            if let Some(network) = tables.joined.get_mut(&network) {
                network.subscribe(turn, groups.into_iter().collect());
            }
        });
    }

    /// A network's TAP could, or could not, be set up.
    pub fn set_port_error(
        &mut self,
        now: Now,
        network: NetworkId,
        error: bool,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
    ) {
        self.turn(now, s, out, |tables, turn| {
            if let Some(network) = tables.joined.get_mut(&network) {
                network.set_port_error(turn, error);
            }
        });
    }

    /// An identity became known, or another one than before: what waited for it goes on.
    pub fn peer_known(&mut self, now: Now, identity: &Identity, s: &mut dyn Surroundings, out: &mut Vec<Action>) {
        self.turn(now, s, out, |tables, turn| tables.peer_known(turn, identity));
    }

    /// Upstreams came within reach: groups are announced to them on the next [`Networks::tick`], which is due at once,
    /// and configurations not held yet are asked for again.
    pub fn upstream_online(&mut self) {
        for network in self.tables.joined.values_mut() {
            network.announce_soon();
            network.request_soon();
        }
    }

    /// Does what is due: requests, announcements, housekeeping. Harmless at any other time.
    pub fn tick(&mut self, now: Now, s: &mut dyn Surroundings, out: &mut Vec<Action>) {
        self.turn(now, s, out, |tables, turn| tables.tick(turn));
    }

    /// When [`Networks::tick`] is due next, milliseconds of the monotonic clock.
    pub fn poll_timeout(&self) -> u64 {
        let urgent = |n: &Network| {
            [Some(n.request_due_ms()), n.announce_due_ms(), n.spaced_due_ms()].into_iter().flatten().min()
        };
        let gathers = self.tables.multicast.repeats_due_ms();
        let urgent = self.tables.joined.values().filter_map(urgent).chain(gathers).min();
        urgent.map_or(self.tables.ticked_ms + TICK_MS, |at| at.min(self.tables.ticked_ms + TICK_MS))
    }

    /// What was dropped, cut short or refused.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full the tables are.
    pub fn gauges(&self) -> Gauges {
        let (groups, group_members, queued_multicast_bytes) = self.tables.multicast.len();
        Gauges {
            held: self.tables.held.len(),
            members: self.iter().map(|n| n.members().count()).sum(),
            groups,
            group_members,
            queued_multicast_bytes,
            bridge_routes: self.iter().map(|n| n.routes.len()).sum(),
        }
    }

    fn turn<R>(
        &mut self,
        now: Now,
        s: &mut dyn Surroundings,
        out: &mut Vec<Action>,
        work: impl FnOnce(&mut Tables, &mut Turn<'_>) -> R,
    ) -> R {
        let turn = &mut Turn { now, s, out, counters: &mut self.counters };
        let result = work(&mut self.tables, turn);
        self.tables.settle(turn);
        result
    }
}

/// A message being handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub from: &'a Identity,
    pub packet_id: u64,
    pub verb: Verb,
    pub payload: &'a [u8],
    /// It was held; limits on how often such messages are read were applied when it came.
    pub retried: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Handled),
    /// The sender does not pass this network's gate.
    Refused(NetworkId),
    /// It takes this identity to go on.
    Needs(Address, Handled),
}

/// Everything but the counters, so that a [`Turn`] can lend those.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub joined: BTreeMap<NetworkId, Network>,
    pub multicast: Database,
    pub senders: Senders,
    held: Held,
    /// What may have become possible in this turn: messages that wait for it are tried again at its end.
    ready: Vec<Ready>,
    ticked_ms: u64,
    swept_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Member(NetworkId, Address),
    Network(NetworkId),
    Identity(Address),
}

impl Ready {
    fn concerns(self, message: &HeldMessage) -> bool {
        match (self, message.waits_for) {
            (Ready::Member(network, member), WaitsFor::Gate(n)) => network == n && member == message.from.address(),
            (Ready::Network(network), WaitsFor::Gate(n)) => network == n,
            (Ready::Identity(signer), WaitsFor::Gate(n)) => signer == n.controller(),
            (Ready::Identity(known), WaitsFor::Identity(address)) => known == address,
            _ => false,
        }
    }
}

/// Messages.
impl Tables {
    fn handle(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Handled {
        let (waits_for, handled) = match self.receive(turn, message) {
            Outcome::Done(handled) => return handled,
            Outcome::Refused(network) => {
                turn.counters.refused_by_gate += 1;
                self.refuse(turn, message, ErrorCode::NeedMembershipCertificate(network));
                (WaitsFor::Gate(network), Handled::IGNORED)
            }
            Outcome::Needs(address, handled) => {
                turn.out.push(Action::Whois(address));
                (WaitsFor::Identity(address), handled)
            }
        };
        let kept = self.held.hold(HeldMessage {
            from: message.from.clone(),
            packet_id: message.packet_id,
            verb: message.verb,
            payload: message.payload.to_vec(),
            waits_for,
            since_ms: turn.ms(),
        });
        turn.counters.held_dropped += u64::from(!kept);
        handled
    }

    fn receive(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Outcome {
        let outcome = match message.verb {
            Verb::Frame => self.receive_frame(turn, message),
            Verb::ExtFrame => self.receive_ext_frame(turn, message),
            Verb::MulticastFrame => self.receive_multicast_frame(turn, message),
            Verb::MulticastLike => Ok(Outcome::Done(self.receive_likes(turn, message))),
            Verb::MulticastGather => self.receive_gather(turn, message),
            Verb::NetworkCredentials => self.receive_credentials(turn, message),
            Verb::NetworkConfig => Ok(Outcome::Done(self.receive_config(turn, message))),
            Verb::NetworkConfigRequest => ConfigRequest::parse(message.payload).map(|request| {
                self.refuse(turn, message, ErrorCode::UnsupportedOperation(request.network));
                Outcome::Done(Handled::HEARD)
            }),
            _ => Ok(Outcome::Done(Handled::HEARD)),
        };
        outcome.unwrap_or_else(|_| {
            turn.counters.malformed += 1;
            Outcome::Done(Handled::IGNORED)
        })
    }

    /// Tries what was held for the events of this turn, which may cause more of them.
    // spec: networks, "The gate: may this peer talk to us on this network"
    fn settle(&mut self, turn: &mut Turn<'_>) {
        if !self.ready.is_empty() {
            turn.counters.held_expired += self.held.expire(turn.ms()) as u64;
        }
        while let Some(ready) = self.ready.pop() {
            for held in self.held.release(|m| ready.concerns(m)) {
                let HeldMessage { ref from, packet_id, verb, ref payload, .. } = held;
                match self.receive(turn, &Message { from, packet_id, verb, payload, retried: true }) {
                    Outcome::Done(_) => {}
                    Outcome::Refused(network) => {
                        self.held.put_back(HeldMessage { waits_for: WaitsFor::Gate(network), ..held });
                    }
                    Outcome::Needs(address, _) => {
                        turn.out.push(Action::Whois(address));
                        self.held.put_back(HeldMessage { waits_for: WaitsFor::Identity(address), ..held });
                    }
                }
            }
        }
    }

    /// Answers with an ERROR, once a second per peer, network and code. // spec: paths, "Hardening bounds"
    fn refuse(&mut self, turn: &mut Turn<'_>, message: &Message<'_>, code: ErrorCode<'_>) {
        let to = message.from.address();
        // All networks that are none of ours count as one, or their number would have no bound.
        let network = code.network().filter(|n| self.joined.contains_key(n)).unwrap_or_default();
        if !self.senders.may_send_error(turn.ms(), to, network, code.number()) {
            turn.counters.errors_suppressed += 1;
            return;
        }
        let mut payload = Vec::new();
        ErrorMessage { in_re: InRe::new(message.verb, message.packet_id), code }.write(&mut payload);
        turn.out.push(Action::Reply { to, verb: Verb::Error, payload });
    }

    fn peer_known(&mut self, turn: &mut Turn<'_>, identity: &Identity) {
        let address = identity.address();
        for (&id, network) in &mut self.joined {
            if network.is_news(identity) && network.judge_as(turn, identity) {
                self.ready.push(Ready::Member(id, address));
            }
        }
        self.ready.push(Ready::Identity(address));
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        let now_ms = turn.ms();
        self.repeat_gathers(turn);
        let ticking = now_ms.saturating_sub(self.ticked_ms) >= TICK_MS;
        let sweeping = now_ms.saturating_sub(self.swept_ms) >= HOUSEKEEPING_MS;
        for (&id, network) in &mut self.joined {
            network.push_spaced(turn);
            if network.request_due_ms() <= now_ms {
                network.request(turn);
                self.ready.push(Ready::Network(id));
            }
            if network.announce_due_ms().is_some_and(|due| due <= now_ms) {
                network.announce_to_keepers(turn);
            }
            network.announce_to_members(turn);
            if sweeping {
                network.sweep(turn);
            }
        }
        if ticking {
            self.ticked_ms = now_ms;
            turn.counters.held_expired += self.held.expire(now_ms) as u64;
        }
        if sweeping {
            self.swept_ms = now_ms;
            self.multicast.sweep(now_ms);
            self.senders.sweep(now_ms);
        }
    }
}

/// An OK straight back.
pub(crate) fn reply(turn: &mut Turn<'_>, to: Address, in_re: InRe, body: impl FnOnce(&mut Vec<u8>)) {
    if to == turn.own() {
        return;
    }
    let mut payload = vec![in_re.verb];
    payload.extend_from_slice(&in_re.packet_id.to_be_bytes());
    body(&mut payload);
    turn.out.push(Action::Reply { to, verb: Verb::Ok, payload });
}
