//! What controllers say: configurations in chunks, refusals; and the other replies that concern networks.
// spec: networks, "Accepting chunks", "Errors from the controller"

use wire::chunk::ConfigChunk;
use wire::message::{ErrorCode, ErrorMessage, InRe, OkGather, OkMulticastFrame, OkNetworkConfig};
use wire::{Identity, NetworkId, Verb};

use super::{Message, Ready, Tables, reply};
use crate::action::{Action, Handled};
use crate::assembly::Stored;
use crate::config::{Authentication, Config};
use crate::membership::Credential;
use crate::network::{Applied, Failure};
use crate::turn::Turn;

impl Tables {
    pub(super) fn receive_config(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Handled {
        let Message { from, packet_id, payload, .. } = *message;
        if let Some((network, update_id)) = self.accept_chunk(turn, from, packet_id, payload, false) {
            // The reference answers in the name of ECHO; nobody evaluates it. // spec: networks, "Accepting chunks"
            let in_re = InRe::new(Verb::Echo, packet_id);
            reply(turn, from.address(), in_re, |out| OkNetworkConfig { network, update_id }.write(out));
        }
        Handled::HEARD
    }

    /// Takes in one chunk; the update's ID if it completed a configuration that can be read.
    // spec: networks, "Accepting chunks"
    fn accept_chunk(
        &mut self,
        turn: &mut Turn<'_>,
        from: &Identity,
        packet_id: u64,
        payload: &[u8],
        answer: bool,
    ) -> Option<(NetworkId, u64)> {
        let refuse = |turn: &mut Turn<'_>| turn.counters.chunks_refused += 1;
        let Ok(chunk) = ConfigChunk::parse(payload) else {
            refuse(turn);
            return None;
        };
        let (id, controller) = (chunk.network, chunk.network.controller());
        let network = self.joined.get_mut(&id)?;
        let asked_for = answer && from.address() == controller;
        if chunk.signature.is_none() {
            if from.address() != controller {
                refuse(turn);
                return None;
            }
            return self.configure(turn, id, chunk.data, asked_for).then_some((id, packet_id));
        }
        if network.assembly.holds(&chunk) {
            return None;
        }
        let Some(signer) = turn.identity(controller) else {
            turn.out.push(Action::Whois(controller));
            return None;
        };
        if !self.senders.may_cost_signature(turn.ms(), from.address()) {
            turn.counters.signatures_over_budget += 1;
            return None;
        }
        if !chunk.verify(&signer) {
            refuse(turn);
            return None;
        }
        if chunk.flags & ConfigChunk::FAST_PROPAGATE != 0 {
            network.flood(turn, Verb::NetworkConfig, payload, [from.address(), controller]);
        }
        match network.assembly.store(turn.ms(), &chunk, asked_for) {
            Stored::Partial => None,
            Stored::Refused => {
                refuse(turn);
                None
            }
            Stored::Whole(whole) => {
                self.configure(turn, id, &whole.dictionary, whole.asked_for).then_some((id, whole.update_id))
            }
        }
    }

    /// Applies a dictionary; false if it is none.
    fn configure(&mut self, turn: &mut Turn<'_>, id: NetworkId, dictionary: &[u8], asked_for: bool) -> bool {
        let (Some(network), Ok(config)) = (self.joined.get_mut(&id), Config::parse(dictionary)) else {
            turn.counters.configs_refused += 1;
            return false;
        };
        if network.apply(turn, config, asked_for) == Applied::Changed {
            self.ready.push(Ready::Network(id));
        }
        true
    }

    pub(super) fn handle_ok(
        &mut self,
        turn: &mut Turn<'_>,
        from: &Identity,
        in_re_verb: Verb,
        in_re_id: u64,
        body: &[u8],
    ) -> Handled {
        let understood = match in_re_verb {
            Verb::NetworkConfigRequest => {
                self.accept_chunk(turn, from, in_re_id, body, true);
                Ok(())
            }
            Verb::MulticastGather => {
                OkGather::parse(body).map(|ok| self.note_gathered(turn, ok.network, ok.group, &ok.gathered))
            }
            Verb::MulticastFrame => OkMulticastFrame::parse(body).map(|ok| {
                if let Some(com) = &ok.com {
                    self.file(turn, from, &Credential::Com(com));
                }
                if let Some(gathered) = &ok.gathered {
                    self.note_gathered(turn, ok.network, ok.group, gathered);
                }
            }),
            _ => Ok(()),
        };
        if understood.is_err() {
            turn.counters.malformed += 1;
            return Handled::IGNORED;
        }
        Handled::HEARD
    }

    // spec: networks, "Errors from the controller"
    pub(super) fn handle_error(&mut self, turn: &mut Turn<'_>, from: &Identity, error: &ErrorMessage<'_>) -> Handled {
        let Some(id) = error.code.network() else { return Handled::HEARD };
        let Some(network) = self.joined.get_mut(&id) else { return Handled::HEARD };
        let from_controller = from.address() == id.controller();
        let about_request = error.in_re.verb() == Some(Verb::NetworkConfigRequest);
        match error.code {
            ErrorCode::ObjectNotFound(_) | ErrorCode::UnsupportedOperation(_) if from_controller && about_request => {
                network.fail(turn, Failure::NotFound, None);
            }
            ErrorCode::NetworkAccessDenied(_) if from_controller => network.fail(turn, Failure::AccessDenied, None),
            ErrorCode::NetworkAuthenticationRequired(_, how) if from_controller => {
                network.fail(turn, Failure::AuthenticationRequired, Authentication::parse_error(how));
            }
            ErrorCode::NeedMembershipCertificate(_) => network.push_on_request(turn, from.address()),
            ErrorCode::UnwantedMulticast(_, group) if network.admits(turn, from) => {
                self.multicast.forget(id, group, from.address());
            }
            _ => {}
        }
        Handled::HEARD
    }
}
