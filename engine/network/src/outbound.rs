//! From our TAP to members. The counterpart of `inbound.rs`.

use wire::message::{ExtFrame, Frame, Gather, MulticastFrame};
use wire::{Address, Mac, MulticastGroup, NetworkId, Verb};

use crate::action::Action;
use crate::bridge;
use crate::config::{Config, Specialist};
use crate::constants::{BRIDGE_FAN_OUT, GATHER_RECIPIENTS_MAX, GROUP_MEMBERS_MAX};
use crate::ethernet::Ethernet;
use crate::multicast::{self, Multicast};
use crate::ndp;
use crate::network::Network;
use crate::networks::Tables;
use crate::turn::Turn;

impl Tables {
    // spec: networks, "From the TAP"
    pub(crate) fn send_frame(&mut self, turn: &mut Turn<'_>, id: NetworkId, frame: &[u8]) {
        let Some(network) = self.joined.get_mut(&id) else { return };
        let Some(frame) = Ethernet::parse(frame) else {
            turn.counters.malformed += 1;
            return;
        };
        if network.config().is_none() {
            turn.counters.unsendable += 1;
            return;
        }
        let bridged = frame.from != network.mac();
        if bridged && !network.has_role(turn.own(), Specialist::ACTIVE_BRIDGE) {
            turn.counters.foreign_source += 1;
            return;
        }
        if frame.to.is_multicast() {
            return self.send_multicast(turn, id, &frame, bridged);
        }
        if frame.to == network.mac() {
            turn.out.push(Action::Deliver { network: id, frame: frame.to_vec() });
            return;
        }
        match frame.to.member(id) {
            Some(member) if member.is_reserved() => turn.counters.unsendable += 1,
            Some(member) => send_unicast(turn, network, &frame, member, bridged),
            None => send_behind_bridge(turn, network, &frame),
        }
    }

    // spec: networks, "Sending"
    fn send_multicast(&mut self, turn: &mut Turn<'_>, id: NetworkId, frame: &Ethernet<'_>, bridged: bool) {
        let Some(network) = self.joined.get_mut(&id) else { return };
        let Some(config) = network.config() else { return };
        let group = MulticastGroup::of_frame(frame.to, frame.ethertype, frame.payload);
        let plain_broadcast = frame.to == Mac::BROADCAST && !frame.is_arp_request();
        if plain_broadcast && !config.has(Config::BROADCAST) {
            turn.counters.unsendable += 1;
            return;
        }
        if frame.to != Mac::BROADCAST
            && let Some(answer) = ndp::answer(config, turn.own(), frame.from, frame.ethertype, frame.payload)
        {
            turn.out.push(Action::Deliver { network: id, frame: answer });
            return;
        }
        if config.multicast_limit == 0 {
            turn.counters.unsendable += 1;
            return;
        }
        if bridged {
            match network.bridged.note(turn.ms(), group) {
                bridge::Noted::Known => {}
                bridge::Noted::New => network.announce_new(turn, &[group]),
                bridge::Noted::NoRoom => turn.counters.bridged_groups_full += 1,
            }
        }
        if !network.may_send(turn, frame, Address::ZERO, true) {
            return;
        }
        if let Some(replicator) = replicator(turn, network) {
            return send_to_replicator(turn, network, frame, group, replicator);
        }
        let source = bridged.then_some(frame.from);
        let multicast =
            Multicast { source, group, ethertype: frame.ethertype, payload: frame.payload.to_vec(), gather_limit: 1 };
        self.fan_out(turn, id, multicast, None);
    }

    /// Sends on what a member asked us to replicate.
    pub(crate) fn replicate(&mut self, turn: &mut Turn<'_>, m: &MulticastFrame<'_>, source: Mac, origin: Address) {
        let multicast = Multicast {
            source: Some(source),
            group: m.group,
            ethertype: m.ethertype,
            payload: m.payload.to_vec(),
            gather_limit: 1,
        };
        self.fan_out(turn, m.network, multicast, Some(origin));
    }

    /// Copies to the active bridges and to members of the group, in random order, up to the limit. While the group is
    /// short of members, more are asked for and the multicast waits for them.
    fn fan_out(&mut self, turn: &mut Turn<'_>, id: NetworkId, mut multicast: Multicast, origin: Option<Address>) {
        let Some(network) = self.joined.get_mut(&id) else { return };
        let Some(config) = network.config() else { return };
        let limit = usize::try_from(config.multicast_limit).unwrap_or(usize::MAX).min(GROUP_MEMBERS_MAX);
        let mut members = self.multicast.members(turn.ms(), id, multicast.group);
        let known = members.len();
        let short = known < limit;
        let excluded = origin.filter(|_| !short);
        let bridges: Vec<_> =
            config.with_role(Specialist::ACTIVE_BRIDGE).filter(|&a| a != turn.own() && Some(a) != excluded).collect();
        members.retain(|a| !bridges.contains(a) && Some(*a) != excluded);
        multicast::shuffle(&mut members, limit, || turn.s.random());
        let recipients: Vec<_> = bridges.into_iter().chain(members).take(limit).collect();

        if short {
            multicast.gather_limit = (limit - known + 1) as u32;
            if self.multicast.gather_due(turn.ms(), id, multicast.group, known) {
                send_gathers(turn, network, &multicast);
            } else {
                turn.counters.gathers_suppressed += 1;
            }
        }
        for &to in &recipients {
            send_copy(turn, network, &multicast, to);
        }
        let left = limit - recipients.len();
        if short && left > 0 && !self.multicast.enqueue(turn.ms(), id, multicast, recipients, left) {
            turn.counters.multicast_queue_full += 1;
        }
    }

    /// Asks again for members of groups where a multicast waits and nobody is known.
    pub(crate) fn repeat_gathers(&mut self, turn: &mut Turn<'_>) {
        for (id, multicast) in self.multicast.repeats_due(turn.ms()) {
            if let Some(network) = self.joined.get(&id) {
                send_gathers(turn, network, &multicast);
            }
        }
    }

    /// A new member of a group gets what waits for it.
    pub(crate) fn release_queued(
        &mut self,
        turn: &mut Turn<'_>,
        id: NetworkId,
        group: MulticastGroup,
        member: Address,
    ) {
        let Some(network) = self.joined.get_mut(&id) else { return };
        for multicast in self.multicast.release_to(turn.ms(), id, group, member) {
            send_copy(turn, network, &multicast, member);
        }
    }
}

fn send_unicast(turn: &mut Turn<'_>, network: &mut Network, frame: &Ethernet<'_>, to: Address, bridged: bool) {
    if !network.may_send(turn, frame, to, true) {
        return;
    }
    network.push_before_frame(turn, to);
    if bridged {
        return send_ext_frame(turn, network.id(), frame, to);
    }
    let mut payload = Vec::with_capacity(Frame::HEADER_LEN + frame.payload.len());
    Frame { network: network.id(), ethertype: frame.ethertype, payload: frame.payload }.write(&mut payload);
    turn.send(to, Verb::Frame, payload, false);
}

/// To the bridge behind which the MAC was seen, or to bridges in general.
fn send_behind_bridge(turn: &mut Turn<'_>, network: &mut Network, frame: &Ethernet<'_>) {
    if !network.may_send(turn, frame, Address::ZERO, true) {
        return;
    }
    let learned = network.routes.bridge_of(turn.ms(), frame.to).filter(|&a| a != turn.own());
    let learned = learned.filter(|&a| network.has_role(a, Specialist::ACTIVE_BRIDGE));
    let bridges = match (learned, network.config()) {
        (Some(bridge), _) => vec![bridge],
        (None, Some(config)) => {
            let mut all: Vec<_> = config.with_role(Specialist::ACTIVE_BRIDGE).filter(|&a| a != turn.own()).collect();
            if all.len() > BRIDGE_FAN_OUT {
                multicast::shuffle(&mut all, BRIDGE_FAN_OUT, || turn.s.random());
                all.truncate(BRIDGE_FAN_OUT);
            }
            all
        }
        (None, None) => return,
    };
    if bridges.is_empty() {
        turn.counters.unsendable += 1;
    }
    for bridge in bridges {
        if network.may_send(turn, frame, bridge, false) {
            send_ext_frame(turn, network.id(), frame, bridge);
        }
    }
}

fn send_ext_frame(turn: &mut Turn<'_>, network: NetworkId, frame: &Ethernet<'_>, to: Address) {
    let Ethernet { to: mac_to, from, ethertype, payload: bytes } = *frame;
    let mut payload = Vec::with_capacity(23 + bytes.len());
    ExtFrame { network, flags: 0, com: None, to: mac_to, from, ethertype, payload: bytes }.write(&mut payload);
    turn.send(to, Verb::ExtFrame, payload, false);
}

/// The replicator that is alive and nearest, if it falls to one to fan our multicasts out.
fn replicator(turn: &Turn<'_>, network: &Network) -> Option<Address> {
    let own = turn.own();
    if network.has_role(own, Specialist::ACTIVE_BRIDGE) || network.has_role(own, Specialist::REPLICATOR) {
        return None;
    }
    let replicators = network.config()?.with_role(Specialist::REPLICATOR);
    let alive = replicators.filter_map(|a| Some((turn.s.peer_latency_ms(a)?, a)));
    alive.min().map(|(_, address)| address)
}

fn send_to_replicator(
    turn: &mut Turn<'_>,
    network: &mut Network,
    frame: &Ethernet<'_>,
    group: MulticastGroup,
    to: Address,
) {
    let message = MulticastFrame {
        network: network.id(),
        replicate: true,
        com: None,
        gather_limit: None,
        from: Some(frame.from),
        group,
        ethertype: frame.ethertype,
        payload: frame.payload,
    };
    send_multicast_frame(turn, network, &message, to);
}

/// One copy of a multicast, if the rules let this recipient have it.
fn send_copy(turn: &mut Turn<'_>, network: &mut Network, multicast: &Multicast, to: Address) {
    let frame = Ethernet {
        to: multicast.group.mac,
        from: multicast.source.unwrap_or(network.mac()),
        ethertype: multicast.ethertype,
        payload: &multicast.payload,
    };
    if !network.may_send(turn, &frame, to, false) {
        return;
    }
    network.push_before_frame(turn, to);
    let message = MulticastFrame {
        network: network.id(),
        replicate: false,
        com: None,
        gather_limit: Some(multicast.gather_limit),
        from: multicast.source,
        group: multicast.group,
        ethertype: multicast.ethertype,
        payload: &multicast.payload,
    };
    send_multicast_frame(turn, network, &message, to);
}

fn send_multicast_frame(turn: &mut Turn<'_>, network: &Network, message: &MulticastFrame<'_>, to: Address) {
    let mut payload = Vec::new();
    message.write(&mut payload);
    let compress = network.config().is_some_and(|c| !c.has(Config::NO_COMPRESSION));
    turn.emit(to, Verb::MulticastFrame, payload, compress, message.gather_limit.is_some());
}

/// Asks the best root, the controller, and twice the anchors for members of a group.
fn send_gathers(turn: &mut Turn<'_>, network: &Network, multicast: &Multicast) {
    let Some(config) = network.config() else { return };
    let anchors: Vec<_> = config.with_role(Specialist::ANCHOR).collect();
    let mut helpers: Vec<_> = config.with_role(Specialist::ANCHOR | Specialist::REPLICATOR).collect();
    let all = helpers.len();
    multicast::shuffle(&mut helpers, all, || turn.s.random());
    let root = turn.s.upstreams().first().copied();
    let controller = Some(network.id().controller()).filter(|&c| !network.id().is_ad_hoc() && Some(c) != root);
    let gather = Gather {
        network: network.id(),
        group: multicast.group,
        limit: multicast.gather_limit,
        com: config.com.clone(),
    };
    let mut payload = Vec::new();
    gather.write(&mut payload);
    let recipients = root.into_iter().chain(controller).chain(helpers).chain(anchors);
    for to in recipients.take(GATHER_RECIPIENTS_MAX) {
        turn.request(to, Verb::MulticastGather, payload.clone(), false);
    }
}
