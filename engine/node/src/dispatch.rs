//! From verb to handler. Handlers of this room are small and stand here; networks, replies, HELLO and the NAT verbs
//! have rooms of their own. Afterwards the peer-received hook runs for what counts as received.
// spec: wire, "Who may send what"

use wire::message::{Ack, ConfigRequest, ErrorCode, ErrorMessage, InRe, RemoteTrace};
use wire::message::{OkMessage, OkWhois, PACT_KIND, UserMessage, Whois};
use wire::{Address, Malformed, Now, Verb};

use crate::Node;
use crate::gate::Rate;
use crate::io::{Event, Output};
use crate::limits;
use crate::peer::Proof;
use crate::send::Arrival;

const ECHO_ANSWERS: Rate = Rate::per_second(limits::ECHO_ANSWERS_PER_PEER_PER_S);

/// What a handled packet proves about its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It counts as a sign of life.
    pub(crate) heard: bool,
    /// It proves a relationship beyond a known identity.
    pub(crate) trust: bool,
    /// It is an OK that proves the path it came over.
    pub(crate) proves_path: bool,
}

impl Heard {
    pub(crate) const NO: Heard = Heard { heard: false, trust: false, proves_path: false };
    pub(crate) const YES: Heard = Heard { heard: true, trust: false, proves_path: false };
}

/// Handlers end early on payloads that are shorter or other than they should be.
pub(crate) type Handled = Result<Heard, Malformed>;

impl Node {
    /// Handles an authentic, decrypted, decompressed packet.
    pub(crate) fn dispatch(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        verb: u8,
        payload: &mut [u8],
    ) {
        let Some(known) = Verb::from_u8(verb) else {
            self.counters.unassigned_verbs += 1;
            self.received(now, arrival, from, None, Heard::YES);
            return self.note_arrival(now, arrival, from, id, 0);
        };
        let handled = match known {
            Verb::Nop => Ok(Heard::YES),
            Verb::Hello => return self.sealed_hello(now, arrival, from, id, payload),
            Verb::Error => self.error(now, arrival, from, payload),
            Verb::Ok => self.ok(now, arrival, from, payload),
            Verb::Whois => self.whois_asked(now, arrival, from, id, payload),
            Verb::Rendezvous => self.rendezvous_received(now, arrival, from, payload),
            Verb::Echo => Ok(self.echo(now, arrival, from, id, payload)),
            Verb::PushDirectPaths => self.push_received(now, arrival, from, payload),
            Verb::NetworkConfigRequest => self.config_request(now, arrival, from, id, payload),
            Verb::Frame | Verb::ExtFrame | Verb::MulticastFrame => self.frame(now, arrival, from, id, known, payload),
            Verb::MulticastLike | Verb::MulticastGather | Verb::NetworkCredentials | Verb::NetworkConfig => {
                Ok(self.network_message(now, arrival, from, id, known, payload))
            }
            Verb::UserMessage => self.user_message_received(now, arrival, from, id, payload),
            Verb::RemoteTrace => self.remote_trace(payload),
            Verb::Ack => self.bonding(Ack::parse(payload).map(|_| ())),
            Verb::QosMeasurement => self.qos_measurement(now, arrival, from, id, payload),
            Verb::PathNegotiationRequest => self.path_negotiation(now, arrival, from, id, payload),
        };
        match handled {
            Ok(Heard { heard: false, .. }) => {}
            Ok(heard) => {
                self.received(now, arrival, from, Some(known), heard);
                if arrival.direct() && matches!(known, Verb::Frame | Verb::ExtFrame) {
                    self.bond_heard(now, from, &arrival.path, 1);
                }
                self.note_arrival(now, arrival, from, id, 0);
            }
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    /// Parsed, counted, and without any effect while there is no bond. // spec: bonding, "ACK and path negotiation"
    fn bonding(&mut self, parsed: Result<(), Malformed>) -> Handled {
        parsed?;
        self.counters.bonding_ignored += 1;
        Ok(Heard::NO)
    }

    fn echo(&mut self, now: Now, arrival: &Arrival, from: Address, id: u64, payload: &[u8]) -> Heard {
        let (known, friends) = (self.peers.len(), self.peers.friends());
        let of_peer = || self.peers.get_mut(from).is_some_and(|p| p.echo_answers.take(ECHO_ANSWERS, now.ms()));
        let friends = if self.roots.is_upstream() { known } else { friends };
        if !self.gates.echo(arrival.path, now.ms(), friends, of_peer) {
            self.counters.echo_gated += 1;
            return Heard::NO;
        }
        let mut ok = Vec::with_capacity(InRe::LEN + payload.len());
        OkMessage { in_re: InRe::new(Verb::Echo, id), body: payload }.write(&mut ok);
        self.reply(now, from, arrival, Verb::Ok, &ok);
        Heard::YES
    }

    /// Answers with the identities we know, and asks upstream for the others. // spec: paths, "Answering WHOIS"
    fn whois_asked(&mut self, now: Now, arrival: &Arrival, from: Address, id: u64, payload: &[u8]) -> Handled {
        let upstream = self.roots.is_upstream();
        let Some(asker) = self.peers.get_mut(from) else { return Ok(Heard::NO) };
        if !upstream && !asker.last_whois_answered.pass(limits::WHOIS_ANSWER_GATE_MS, now.ms()) {
            self.counters.whois_answer_gated += 1;
            return Ok(Heard::NO);
        }
        let mut answer = OkWhois::default();
        for &address in Whois::parse(payload)?.addresses.iter().take(limits::WHOIS_ADDRESSES_MAX) {
            self.recall(now, address);
            if address == self.address() {
                answer.identities.push(self.own.public().clone());
            } else if let Some(peer) = self.peers.get(address) {
                if peer.proof == Proof::Known {
                    answer.identities.push((*peer.identity).clone());
                }
            } else {
                self.ask_identity(now, address, false);
            }
        }
        if !answer.identities.is_empty() {
            let mut body = Vec::new();
            answer.write(&mut body);
            let mut ok = Vec::with_capacity(InRe::LEN + body.len());
            OkMessage { in_re: InRe::new(Verb::Whois, id), body: &body }.write(&mut ok);
            self.reply(now, from, arrival, Verb::Ok, &ok);
        }
        Ok(Heard::YES)
    }

    /// For the controller beside us, or an ERROR if there is none. // spec: paths, "Event table"
    fn config_request(&mut self, now: Now, arrival: &Arrival, from: Address, id: u64, payload: &[u8]) -> Handled {
        let request = ConfigRequest::parse(payload)?;
        let Some(member) = self.peers.get(from).map(|p| p.identity.clone()) else { return Ok(Heard::NO) };
        if self.settings.controller && request.network.controller() == self.address() {
            self.output(Output::ControllerRequest {
                network: request.network,
                member,
                packet_id: id,
                metadata: request.metadata.to_vec(),
                physical: arrival.direct().then_some(arrival.path.remote),
            });
            return Ok(Heard::YES);
        }
        let code = ErrorCode::UnsupportedOperation(request.network);
        self.send_error(now, arrival, from, InRe::new(Verb::NetworkConfigRequest, id), code);
        Ok(Heard::YES)
    }

    /// Sends an ERROR unless the same was just sent. Networks that we are not in count as one: their IDs are free.
    pub(crate) fn send_error(&mut self, now: Now, arrival: &Arrival, to: Address, in_re: InRe, code: ErrorCode<'_>) {
        let network = code.network().filter(|id| self.networks.get(*id).is_some()).unwrap_or_default();
        if !self.gates.error(to, code.number(), network, now.ms()) {
            self.counters.error_gated += 1;
            return;
        }
        let mut payload = Vec::new();
        ErrorMessage { in_re, code }.write(&mut payload);
        self.reply(now, to, arrival, Verb::Error, &payload);
    }

    fn user_message_received(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        payload: &[u8],
    ) -> Handled {
        let message = UserMessage::parse(payload)?;
        if message.kind == PACT_KIND {
            return Ok(self.pact_message(now, arrival, from, id, &message));
        }
        self.event(Event::UserMessage { from, kind: message.kind, data: message.content.to_vec() });
        Ok(Heard::YES)
    }

    fn remote_trace(&mut self, payload: &[u8]) -> Handled {
        self.counters.remote_traces += RemoteTrace::parse(payload)?.dictionaries.len() as u64;
        Ok(Heard::YES)
    }
}
