//! From members to our TAP, and what members ask about multicast groups. The counterpart of `outbound.rs`.

use wire::message::{
    ExtFrame, Frame, Gather, Gathered, InRe, Like, MulticastFrame, OkExtFrame, OkGather, OkMulticastFrame,
};
use wire::{Address, Identity, Mac, Malformed, MulticastGroup, NetworkId, Verb};

use crate::action::{Action, Handled};
use crate::config::Specialist;
use crate::constants::{GATHER_LIMIT_MAX, MTU_MAX};
use crate::ethernet::Ethernet;
use crate::membership::Credential;
use crate::multicast::{self, Noted};
use crate::network::Network;
use crate::networks::{Message, Outcome, Tables, reply};
use crate::rules::Verdict;
use crate::turn::Turn;

/// Bytes before the addresses in OK(MULTICAST_GATHER) and OK(MULTICAST_FRAME), the longer one.
const GATHERED_PREFIX: usize = InRe::LEN + 8 + 10 + 1 + 4 + 2;
/// Addresses that fit one answer to a gather.
const GATHERED_MAX: usize = (wire::packet::MAX_PAYLOAD - GATHERED_PREFIX) / Address::LEN;

impl Tables {
    // spec: networks, "To the TAP: FRAME"
    pub(crate) fn receive_frame(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Result<Outcome, Malformed> {
        let frame = Frame::parse(message.payload)?;
        let Some(network) = self.joined.get_mut(&frame.network) else { return Ok(Outcome::Done(Handled::HEARD)) };
        if !network.admits(turn, message.from) {
            return Ok(Outcome::Refused(frame.network));
        }
        let from = message.from.address();
        let frame = Ethernet {
            to: network.mac(),
            from: Mac::of_member(network.id(), from),
            ethertype: frame.ethertype,
            payload: frame.payload,
        };
        if !frame.payload.is_empty() && network.may_receive(turn, &frame, from) != Verdict::Drop {
            deliver(turn, network, &frame);
        }
        Ok(Outcome::Done(Handled::TRUSTED))
    }

    // spec: networks, "To the TAP: EXT_FRAME"
    pub(crate) fn receive_ext_frame(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message<'_>,
    ) -> Result<Outcome, Malformed> {
        let ext = ExtFrame::parse(message.payload)?;
        if !self.joined.contains_key(&ext.network) {
            return Ok(Outcome::Done(Handled::HEARD));
        }
        let from = message.from.address();
        if let Some(com) = &ext.com {
            self.file_inline(turn, message.from, &Credential::Com(com));
        }
        let Some(network) = self.joined.get_mut(&ext.network) else { return Ok(Outcome::Done(Handled::HEARD)) };
        if !network.admits(turn, message.from) {
            return Ok(Outcome::Refused(ext.network));
        }
        let frame = Ethernet { to: ext.to, from: ext.from, ethertype: ext.ethertype, payload: ext.payload };
        if receive_bridged(turn, network, &frame, from) && ext.wants_ack() {
            let in_re = InRe::new(Verb::ExtFrame, message.packet_id);
            reply(turn, from, in_re, |out| OkExtFrame { network: ext.network }.write(out));
        }
        Ok(Outcome::Done(Handled::TRUSTED))
    }

    // spec: networks, "Receiving a MULTICAST_FRAME"
    pub(crate) fn receive_multicast_frame(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message<'_>,
    ) -> Result<Outcome, Malformed> {
        let m = MulticastFrame::parse(message.payload)?;
        if !self.joined.contains_key(&m.network) {
            return Ok(Outcome::Done(Handled::IGNORED));
        }
        let from = message.from.address();
        if let Some(com) = &m.com {
            self.file_inline(turn, message.from, &Credential::Com(com));
        }
        let Some(network) = self.joined.get_mut(&m.network) else { return Ok(Outcome::Done(Handled::IGNORED)) };
        if !network.admits(turn, message.from) {
            return Ok(Outcome::Refused(m.network));
        }
        if network.config().is_none_or(|c| c.multicast_limit == 0) {
            return Ok(Outcome::Done(Handled::HEARD));
        }
        let own_source = Mac::of_member(m.network, from);
        let source = m.from.unwrap_or(own_source);
        let frame = Ethernet { to: m.group.mac, from: source, ethertype: m.ethertype, payload: m.payload };
        if !m.payload.is_empty() && m.payload.len() <= usize::from(MTU_MAX) {
            let impossible = source == Mac::default() || source.is_multicast() || source == network.mac();
            if !m.group.mac.is_multicast() || impossible {
                turn.counters.misaddressed += 1;
                return Ok(Outcome::Done(Handled::TRUSTED));
            }
            if m.replicate && network.has_role(turn.own(), Specialist::REPLICATOR) {
                self.replicate(turn, &m, source, from);
            }
            let Some(network) = self.joined.get_mut(&m.network) else { return Ok(Outcome::Done(Handled::TRUSTED)) };
            if source != own_source && !learn(turn, network, source, from) {
                return Ok(Outcome::Done(Handled::TRUSTED));
            }
            if network.may_receive(turn, &frame, from) != Verdict::Drop {
                deliver(turn, network, &frame);
            }
        }
        let gathered = self.gather(turn, m.network, m.group, from, m.gather_limit.unwrap_or(0));
        if let Some(gathered) = gathered {
            let ok = OkMulticastFrame { network: m.network, group: m.group, com: None, gathered: Some(gathered) };
            reply(turn, from, InRe::new(Verb::MulticastFrame, message.packet_id), |out| ok.write(out));
        }
        Ok(Outcome::Done(Handled::TRUSTED))
    }

    /// Entries before a malformed one take effect. // spec: networks, "MULTICAST_LIKE (0x09)"
    pub(crate) fn receive_likes(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Handled {
        let mut verdict = None;
        for like in Like::records(message.payload) {
            let Ok(like) = like else {
                turn.counters.malformed += 1;
                return Handled::IGNORED;
            };
            let may = match verdict {
                Some((network, may)) if network == like.network => may,
                _ => self.may_multicast(turn, like.network, message.from).0,
            };
            verdict = Some((like.network, may));
            if may {
                self.note_members(turn, like.network, like.group, &[message.from.address()]);
            } else {
                turn.counters.multicast_unauthorised += 1;
            }
        }
        Handled::HEARD
    }

    // spec: networks, "MULTICAST_GATHER (0x0d)"
    pub(crate) fn receive_gather(&mut self, turn: &mut Turn<'_>, message: &Message<'_>) -> Result<Outcome, Malformed> {
        let gather = Gather::parse(message.payload)?;
        let from = message.from.address();
        if let Some(com) = &gather.com {
            self.file_inline(turn, message.from, &Credential::Com(com));
        }
        let (may, trust) = self.may_multicast(turn, gather.network, message.from);
        if !may {
            turn.counters.multicast_unauthorised += 1;
        } else if let Some(gathered) = self.gather(turn, gather.network, gather.group, from, gather.limit) {
            let ok = OkGather { network: gather.network, group: gather.group, gathered };
            reply(turn, from, InRe::new(Verb::MulticastGather, message.packet_id), |out| ok.write(out));
        }
        Ok(Outcome::Done(Handled { trust, heard: true }))
    }

    /// Members of a group turned up: multicasts that wait for them go out.
    fn note_members(&mut self, turn: &mut Turn<'_>, id: NetworkId, group: MulticastGroup, members: &[Address]) {
        for &member in members {
            if member == turn.own() || member.is_reserved() {
                continue;
            }
            match self.multicast.note(turn.ms(), id, group, member) {
                Noted::Known => {}
                Noted::NoRoom => turn.counters.multicast_members_full += 1,
                Noted::New => self.release_queued(turn, id, group, member),
            }
        }
    }

    /// What an answer to a gather of ours says.
    pub(crate) fn note_gathered(
        &mut self,
        turn: &mut Turn<'_>,
        id: NetworkId,
        group: MulticastGroup,
        gathered: &Gathered,
    ) {
        if self.joined.contains_key(&id) {
            self.note_members(turn, id, group, &gathered.members);
        }
    }

    /// A certificate that came inside another message; if it cannot be checked yet, the message waits at the gate.
    fn file_inline(&mut self, turn: &mut Turn<'_>, from: &Identity, credential: &Credential<'_>) {
        if let crate::membership::Acceptance::Unknown(address) = self.file(turn, from, credential) {
            turn.out.push(Action::Whois(address));
        }
    }

    /// Whether a peer may say who is in a network's groups and ask for it; and whether it passes our own gate. Each
    /// network is judged for itself. // spec: networks, "MULTICAST_LIKE (0x09)"
    fn may_multicast(&mut self, turn: &mut Turn<'_>, id: NetworkId, peer: &Identity) -> (bool, bool) {
        let admitted = self.joined.get_mut(&id).is_some_and(|network| network.admits(turn, peer));
        let may = admitted || turn.s.is_upstream() || turn.s.authorised_by_our_controller(id, peer.address());
        (may, admitted)
    }

    /// The answer to a gather: ourselves first, then a random choice of the others. None if it names nobody.
    fn gather(
        &self,
        turn: &mut Turn<'_>,
        id: NetworkId,
        group: MulticastGroup,
        asker: Address,
        limit: u32,
    ) -> Option<Gathered> {
        let limit = (limit.min(GATHER_LIMIT_MAX) as usize).min(GATHERED_MAX);
        let ourselves = self.joined.get(&id).is_some_and(|n| n.is_subscribed(&group)).then_some(turn.own());
        let mut others = self.multicast.members(turn.ms(), id, group);
        let total = others.len() + ourselves.iter().len();
        others.retain(|&a| a != asker);
        multicast::shuffle(&mut others, limit, || turn.s.random());
        let members: Vec<_> = ourselves.into_iter().chain(others).take(limit).collect();
        (!members.is_empty()).then_some(Gathered { total: total as u32, members })
    }
}

/// Takes in a frame with explicit MACs; false if it is refused for them, in which case it is not acknowledged.
fn receive_bridged(turn: &mut Turn<'_>, network: &mut Network, frame: &Ethernet<'_>, from: Address) -> bool {
    if frame.payload.is_empty() {
        return true;
    }
    if frame.from == Mac::default() || frame.from == network.mac() {
        turn.counters.misaddressed += 1;
        return false;
    }
    match network.may_receive(turn, frame, from) {
        Verdict::Drop => return true,
        Verdict::SuperAccept => {}
        Verdict::Accept if frame.from != Mac::of_member(network.id(), from) => {
            if !learn(turn, network, frame.from, from) {
                return false;
            }
        }
        Verdict::Accept if frame.to != network.mac() => {
            let reaches_us = match frame.to.is_multicast() {
                true => network.config().is_some_and(|c| c.multicast_limit > 0),
                false => network.has_role(turn.own(), Specialist::ACTIVE_BRIDGE),
            };
            if !reaches_us {
                turn.counters.misaddressed += 1;
                return false;
            }
        }
        Verdict::Accept => {}
    }
    deliver(turn, network, frame);
    true
}

/// Notes a foreign MAC as being behind a member; false if that member is no bridge.
// spec: networks, "Bridge routes"
fn learn(turn: &mut Turn<'_>, network: &mut Network, mac: Mac, behind: Address) -> bool {
    if !network.has_role(behind, Specialist::ACTIVE_BRIDGE) {
        turn.counters.misaddressed += 1;
        return false;
    }
    // The address behind such a MAC is computed, never looked up.
    let computed = mac.member(network.id()).is_some() || mac.is_multicast();
    if !computed && !network.routes.learn(turn.ms(), mac, behind) {
        turn.counters.bridge_routes_full += 1;
    }
    true
}

fn deliver(turn: &mut Turn<'_>, network: &Network, frame: &Ethernet<'_>) {
    if frame.payload.len() > usize::from(network.mtu()) {
        turn.counters.too_long += 1;
        return;
    }
    turn.out.push(Action::Deliver { network: network.id(), frame: frame.to_vec() });
}
