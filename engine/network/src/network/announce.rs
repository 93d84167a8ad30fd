//! Announcing our groups on one network: those of the TAP, those behind us, and plain broadcast.
// spec: networks, "MULTICAST_LIKE (0x09)"

use std::collections::BTreeSet;

use wire::message::Like;
use wire::{Address, Mac, MulticastGroup, NetworkId, Verb};

use super::Network;
use crate::config::{Config, Specialist};
use crate::constants::{FLOOD_RECIPIENTS_MAX, LIKE_PERIOD_MS, LIKES_PER_PACKET, SUBSCRIPTIONS_MAX};
use crate::turn::Turn;

impl Network {
    /// Takes the groups of the TAP; new ones are announced at once.
    pub(crate) fn subscribe(&mut self, turn: &mut Turn<'_>, mut groups: BTreeSet<MulticastGroup>) {
        while groups.len() > SUBSCRIPTIONS_MAX {
            groups.pop_last();
            turn.counters.subscriptions_cut += 1;
        }
        let new: Vec<_> = groups.difference(&self.subscriptions).copied().collect();
        self.subscriptions = groups;
        self.announce_new(turn, &new);
    }

    /// Tells everybody who should know about groups that just appeared; a member due for all groups gets all.
    pub(crate) fn announce_new(&mut self, turn: &mut Turn<'_>, groups: &[MulticastGroup]) {
        if groups.is_empty() || self.config.is_none() {
            return;
        }
        let keepers = self.keepers(turn);
        for &to in &keepers {
            send_likes(turn, self.id, to, groups);
        }
        let members = self.members.iter().filter(|(a, m)| m.allowed() && !keepers.contains(a));
        let members: Vec<_> = members.map(|(&a, _)| a).collect();
        turn.counters.floods_cut += members.len().saturating_sub(FLOOD_RECIPIENTS_MAX) as u64;
        for to in members.into_iter().take(FLOOD_RECIPIENTS_MAX) {
            if !self.announce_to_member(turn, to) {
                send_likes(turn, self.id, to, groups);
            }
        }
    }

    /// When upstreams, controller, anchors and replicators are to be told all groups again.
    pub(crate) fn announce_due_ms(&self) -> Option<u64> {
        self.config.as_ref()?;
        Some(self.announced_ms.map_or(0, |at| at + LIKE_PERIOD_MS))
    }

    pub(crate) fn announce_soon(&mut self) {
        self.announced_ms = None;
    }

    pub(crate) fn announce_to_keepers(&mut self, turn: &mut Turn<'_>) {
        self.announced_ms = Some(turn.ms());
        let groups = self.groups();
        for to in self.keepers(turn) {
            send_likes(turn, self.id, to, &groups);
        }
    }

    pub(crate) fn announce_to_members(&mut self, turn: &mut Turn<'_>) {
        let now_ms = turn.ms();
        let due = self.members.iter().filter(|(_, m)| m.allowed() && m.like_due(now_ms));
        for member in due.map(|(&a, _)| a).collect::<Vec<_>>() {
            self.announce_to_member(turn, member);
        }
    }

    /// All groups, if that is due; false if not.
    pub(super) fn announce_to_member(&mut self, turn: &mut Turn<'_>, to: Address) -> bool {
        let now_ms = turn.ms();
        let Some(member) = self.members.get_mut(&to).filter(|m| m.like_due(now_ms)) else { return false };
        member.liked_ms = Some(now_ms);
        if !self.keepers(turn).contains(&to) {
            send_likes(turn, self.id, to, &self.groups());
        }
        true
    }

    /// Everything we announce.
    fn groups(&self) -> Vec<MulticastGroup> {
        let broadcast = self.config.as_ref().is_some_and(|c| c.has(Config::BROADCAST));
        let plain = broadcast.then_some(MulticastGroup { mac: Mac::BROADCAST, adi: 0 });
        let all: BTreeSet<_> = self.subscriptions.iter().copied().chain(self.bridged.iter()).chain(plain).collect();
        all.into_iter().collect()
    }

    /// Those who keep the network's groups: upstreams, controller, anchors, replicators.
    fn keepers(&self, turn: &Turn<'_>) -> BTreeSet<Address> {
        let mut keepers: BTreeSet<_> = turn.s.upstreams().into_iter().collect();
        if !self.id.is_ad_hoc() {
            keepers.insert(self.id.controller());
        }
        if let Some(config) = &self.config {
            keepers.extend(config.with_role(Specialist::ANCHOR | Specialist::REPLICATOR));
        }
        keepers.remove(&self.own);
        keepers
    }
}

fn send_likes(turn: &mut Turn<'_>, network: NetworkId, to: Address, groups: &[MulticastGroup]) {
    for some in groups.chunks(LIKES_PER_PACKET) {
        let mut payload = Vec::with_capacity(some.len() * Like::LEN);
        some.iter().for_each(|&group| Like { network, group }.write(&mut payload));
        turn.send(to, Verb::MulticastLike, payload, true);
    }
}
