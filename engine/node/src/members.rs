//! Between the peers and the virtual networks: messages of network verbs go down to [`Networks`], what it wants done
//! comes back up, and the controller beside us is served. What the messages mean is not known here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use network::{Action, Networks, Sender};
use wire::message::{ConfigRequest, ErrorMessage, InRe, OkMessage};
use wire::{Address, MulticastGroup, NetworkId, Now, Reader, Verb};

use crate::Node;
use crate::around::Around;
use crate::dispatch::{Handled, Heard};
use crate::io::{Output, StateKey};
use crate::limits::*;
use crate::send::Arrival;
use crate::waiting::Message;

/// Members to whom our controller sent a configuration not long ago. // spec: networks, "MULTICAST_LIKE (0x09)"
#[derive(Debug, Default)]
pub(crate) struct Authorised {
    since: BTreeMap<(NetworkId, Address), u64>,
}

impl Authorised {
    /// False if there is no room.
    fn insert(&mut self, network: NetworkId, member: Address, now_ms: u64) -> bool {
        if self.since.len() >= AUTHORISED_MAX {
            self.expire(now_ms);
        }
        let room = self.since.len() < AUTHORISED_MAX || self.since.contains_key(&(network, member));
        if room {
            self.since.insert((network, member), now_ms);
        }
        room
    }

    pub(crate) fn contains(&self, network: NetworkId, member: Address, now_ms: u64) -> bool {
        self.since.get(&(network, member)).is_some_and(|at| now_ms.saturating_sub(*at) < AUTHORISED_MS)
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.since.retain(|_, at| now_ms.saturating_sub(*at) < AUTHORISED_MS);
    }

    pub(crate) fn len(&self) -> usize {
        self.since.len()
    }
}

impl Node {
    /// Runs one call on the networks and does what it wants done.
    fn with_networks<R>(
        &mut self,
        now: Now,
        arrival: Option<&Arrival>,
        call: impl FnOnce(&mut Networks, &mut Around<'_>, &mut Vec<Action>) -> R,
    ) -> R {
        let Node { networks, own, peers, roots, authorised, rng, .. } = self;
        let mut around = Around { own, peers, roots, authorised, rng, now_ms: now.ms() };
        let mut actions = Vec::new();
        let result = call(networks, &mut around, &mut actions);
        for action in actions {
            self.act(now, arrival, action);
        }
        result
    }

    fn act(&mut self, now: Now, arrival: Option<&Arrival>, action: Action) {
        match action {
            Action::Send { to, verb, payload, .. } if to == self.address() => self.send_to_ourselves(verb, &payload),
            Action::Send { to, verb, payload, compress, expect_reply } => {
                self.send(now, to, Message { verb, payload, compress, expect_reply });
            }
            Action::Reply { to, verb, payload } => match arrival {
                Some(arrival) => self.reply(now, to, arrival, verb, &payload),
                None => self.send(now, to, Message::new(verb, payload)),
            },
            Action::Deliver { network, frame } => self.output(Output::Deliver { network, frame }),
            Action::Whois(address) => {
                self.recall(now, address);
                self.ask_identity(now, address, true);
            }
            Action::Changed(network) => {
                self.output(Output::NetworkChanged(network));
                self.plan_network(network);
            }
            Action::StoreConfig { network, dictionary } => {
                self.output(Output::Store(StateKey::NetworkConfig(network), Some(dictionary)));
            }
            Action::ForgetConfig(network) => self.output(Output::Store(StateKey::NetworkConfig(network), None)),
            Action::Member { network, address, allowed } => self.plan_member(now, network, address, allowed),
            Action::Standing { network, address } => {
                self.plan_network(network);
                self.plan_standing(network, address);
            }
        }
    }

    /// A request to a network whose controller is beside us.
    fn send_to_ourselves(&mut self, verb: Verb, payload: &[u8]) {
        let Ok(request) = ConfigRequest::parse(payload) else { return };
        if verb != Verb::NetworkConfigRequest || !self.settings.controller {
            return;
        }
        let packet_id = self.random_id();
        let member = std::sync::Arc::new(self.own.public().clone());
        let (network, metadata) = (request.network, request.metadata.to_vec());
        self.output(Output::ControllerRequest { network, member, packet_id, metadata, physical: None });
    }

    /// What the controller beside us wants sent: its replies, configurations and revocations, complete payloads each.
    pub fn controller_reply(&mut self, now: Now, to: Address, verb: Verb, payload: Vec<u8>) {
        // A configuration, asked for or pushed, begins with its network.
        let configuration = match verb {
            Verb::Ok => OkMessage::parse(&payload).ok().map(|ok| ok.body),
            Verb::NetworkConfig => Some(&payload[..]),
            _ => None,
        };
        if let Some(Ok(network)) = configuration.map(|body| NetworkId::read(&mut Reader::new(body))) {
            self.counters.authorised_full += u64::from(!self.authorised.insert(network, to, now.ms()));
        }
        if to != self.address() {
            let expect_reply = verb == Verb::NetworkConfig;
            return self.send(now, to, Message { verb, payload, compress: true, expect_reply });
        }
        let own = self.own.clone();
        let sender = Sender { identity: own.public() };
        self.with_networks(now, None, |networks, around, actions| match verb {
            Verb::Ok => {
                let Ok(ok) = OkMessage::parse(&payload) else { return };
                let InRe { packet_id, .. } = ok.in_re;
                networks.handle_ok(now, &sender, Verb::NetworkConfigRequest, packet_id, ok.body, around, actions);
            }
            Verb::Error => {
                let Ok(error) = ErrorMessage::parse(&payload) else { return };
                networks.handle_error(now, &sender, &error, around, actions);
            }
            _ => {
                networks.handle_message(now, &sender, 0, verb, &payload, around, actions);
            }
        });
    }

    /// FRAME, EXT_FRAME, MULTICAST_FRAME: each packet once. // spec: paths, "Hardening bounds", duplicates
    pub(crate) fn frame(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        verb: Verb,
        payload: &[u8],
    ) -> Handled {
        if !self.peers.get(from).is_some_and(|p| p.keys.first_time(id)) {
            self.counters.dropped_repeat += 1;
            return Ok(Heard::NO);
        }
        let payload = if verb == Verb::ExtFrame { self.unmarked(now, arrival, from, payload) } else { payload };
        Ok(self.network_message(now, arrival, from, id, verb, payload))
    }

    pub(crate) fn network_message(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        verb: Verb,
        payload: &[u8],
    ) -> Heard {
        let Some(identity) = self.peers.get(from).map(|p| p.identity.clone()) else { return Heard::NO };
        let sender = Sender { identity: &identity };
        let handled = self.with_networks(now, Some(arrival), |networks, around, actions| {
            networks.handle_message(now, &sender, id, verb, payload, around, actions)
        });
        Heard { heard: handled.heard, trust: handled.trust, proves_path: false }
    }

    /// An OK that the networks waited for. True if it proves a relationship.
    pub(crate) fn network_ok(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        verb: Verb,
        id: u64,
        body: &[u8],
    ) -> bool {
        let Some(identity) = self.peers.get(from).map(|p| p.identity.clone()) else { return false };
        let sender = Sender { identity: &identity };
        let handled = self.with_networks(now, Some(arrival), |networks, around, actions| {
            networks.handle_ok(now, &sender, verb, id, body, around, actions)
        });
        handled.trust
    }

    pub(crate) fn network_error(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        error: &ErrorMessage<'_>,
    ) -> bool {
        let Some(identity) = self.peers.get(from).map(|p| p.identity.clone()) else { return false };
        let sender = Sender { identity: &identity };
        let handled = self.with_networks(now, Some(arrival), |networks, around, actions| {
            networks.handle_error(now, &sender, error, around, actions)
        });
        handled.trust
    }

    /// An identity became known: networks may have waited for it.
    pub(crate) fn identity_known(&mut self, now: Now, address: Address) {
        let Some(identity) = self.peers.get(address).map(|p| p.identity.clone()) else { return };
        self.with_networks(now, None, |networks, around, actions| {
            networks.peer_known(now, &identity, around, actions);
        });
    }

    pub(crate) fn network_timeout(&mut self, now: Now) {
        if self.networks.poll_timeout() <= now.ms() {
            self.with_networks(now, None, |networks, around, actions| networks.tick(now, around, actions));
        }
    }

    /// Frames of a peer went by a way that does not pass through here.
    pub(crate) fn network_activity(&mut self, now: Now, peer: Address) {
        let Some(identity) = self.peers.get(peer).map(|p| p.identity.clone()) else { return };
        for network in self.plan.networks_of(peer) {
            self.with_networks(now, None, |networks, around, actions| {
                networks.handle_activity(now, network, &identity, around, actions);
            });
        }
    }

    /// Joins a network; `cached` is the configuration kept from last time.
    pub fn join(&mut self, now: Now, network: NetworkId, cached: Option<&[u8]>) {
        self.with_networks(now, None, |networks, around, actions| networks.join(now, network, cached, around, actions));
        self.plan_network(network);
        if let Some(peer) = self.peers.get_mut(network.controller()) {
            peer.controller = true;
        }
    }

    /// Leaves a network and deletes its configuration.
    pub fn leave(&mut self, now: Now, network: NetworkId) {
        self.with_networks(now, None, |networks, _, actions| networks.leave(network, actions));
        self.plan_network(network);
        let still = self.is_our_controller(network.controller());
        if let Some(peer) = self.peers.get_mut(network.controller()) {
            peer.controller = still;
        }
        self.peers.count_strangers();
    }

    /// It controls a network that we joined.
    pub(crate) fn is_our_controller(&self, address: Address) -> bool {
        self.networks.iter().any(|n| n.id().controller() == address)
    }

    /// A frame (14-byte header) from a network's TAP that no shard could send by itself.
    pub fn handle_tap_frame(&mut self, now: Now, network: NetworkId, frame: &[u8]) {
        self.with_networks(now, None, |networks, around, actions| {
            networks.handle_tap_frame(now, network, frame, around, actions);
        });
    }

    /// The multicast groups that a network's TAP is subscribed to.
    pub fn set_subscriptions(&mut self, now: Now, network: NetworkId, groups: Vec<MulticastGroup>) {
        self.with_networks(now, None, |networks, around, actions| {
            networks.set_subscriptions(now, network, groups, around, actions);
        });
    }

    /// A network's TAP could, or could not, be set up.
    pub fn set_port_error(&mut self, now: Now, network: NetworkId, error: bool) {
        self.with_networks(now, None, |networks, around, actions| {
            networks.set_port_error(now, network, error, around, actions);
        });
    }

    /// Sends a USER_MESSAGE in the ordinary way.
    pub fn send_user_message(&mut self, now: Now, to: Address, kind: u64, content: &[u8]) {
        let mut payload = Vec::with_capacity(8 + content.len());
        wire::message::UserMessage { kind, content }.write(&mut payload);
        self.send(now, to, Message { compress: true, ..Message::new(Verb::UserMessage, payload) });
    }

    /// `ip` lies in a prefix that a joined network gives us: it would be reached through the overlay itself.
    pub(crate) fn managed_prefixes_contain(&self, ip: IpAddr) -> bool {
        let configs = self.networks.iter().filter_map(|n| n.config());
        configs.flat_map(|c| &c.addresses).any(|prefix| prefix.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorised_members_are_bounded_and_expire() {
        let (mut authorised, network) = (Authorised::default(), NetworkId(7));
        let max = AUTHORISED_MAX as u64;
        (0..max).for_each(|n| assert!(authorised.insert(network, Address::from_u64(n), 0)));
        assert!(!authorised.insert(network, Address::from_u64(max), 1), "full");
        assert!(authorised.insert(network, Address::from_u64(3), 1), "there already");
        assert_eq!(authorised.len(), AUTHORISED_MAX);
        assert!(authorised.insert(network, Address::from_u64(max), AUTHORISED_MS));
        assert!(authorised.contains(network, Address::from_u64(3), AUTHORISED_MS));
        assert_eq!(authorised.len(), 2);
    }
}
