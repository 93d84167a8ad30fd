//! Showing our credentials on one network: to whom, when, and in how many packets.
// spec: networks, "Pushing our credentials"

use wire::message::Credentials;
use wire::{Address, Verb};

use super::Network;
use crate::config::Config;
use crate::constants::{
    CREDENTIALS_PUSH_AGE_MS, CREDENTIALS_PUSH_ON_REQUEST_MS, CREDENTIALS_SPACING_MS, SPACED_PUSHES_MAX,
};
use crate::turn::Turn;

/// A packet of credentials that waits for its distance to the one before.
#[derive(Debug)]
pub(super) struct SpacedPush {
    due_ms: u64,
    to: Address,
    generation: u64,
    packet: usize,
}

impl Network {
    /// Before a frame to a member.
    pub(crate) fn push_before_frame(&mut self, turn: &mut Turn<'_>, to: Address) {
        self.push(turn, to, CREDENTIALS_PUSH_AGE_MS);
    }

    /// A peer says that it lacks them.
    pub(crate) fn push_on_request(&mut self, turn: &mut Turn<'_>, to: Address) {
        if self.config.as_ref().is_some_and(|c| c.com.is_some()) {
            self.push(turn, to, CREDENTIALS_PUSH_ON_REQUEST_MS);
        }
    }

    fn push(&mut self, turn: &mut Turn<'_>, to: Address, age_ms: u64) {
        if self.credentials.is_empty() || to == self.own {
            return;
        }
        let (now_ms, generation) = (turn.ms(), self.generation);
        let Some(member) = self.record(turn, to) else { return };
        let shown = |(from, at): (u64, u64)| from == generation && now_ms.saturating_sub(at) <= age_ms;
        if member.pushed.is_some_and(shown) {
            return;
        }
        member.pushed = Some((generation, now_ms));
        self.push_packet(turn, to, 0);
    }

    /// Sends one packet of the set and puts the next one in line. A receiver reads one packet a second.
    fn push_packet(&mut self, turn: &mut Turn<'_>, to: Address, packet: usize) {
        let Some(payload) = self.credentials.get(packet) else { return };
        turn.send(to, Verb::NetworkCredentials, payload.clone(), true);
        if packet + 1 >= self.credentials.len() {
            return;
        }
        if self.spaced.len() >= SPACED_PUSHES_MAX {
            turn.counters.spaced_pushes_full += 1;
            return;
        }
        let due_ms = turn.ms() + CREDENTIALS_SPACING_MS;
        self.spaced.push_back(SpacedPush { due_ms, to, generation: self.generation, packet: packet + 1 });
    }

    pub(crate) fn spaced_due_ms(&self) -> Option<u64> {
        self.spaced.front().map(|p| p.due_ms)
    }

    /// Sends the packets whose time has come; those of a former configuration are superseded.
    pub(crate) fn push_spaced(&mut self, turn: &mut Turn<'_>) {
        while self.spaced.front().is_some_and(|p| p.due_ms <= turn.ms()) {
            if let Some(push) = self.spaced.pop_front()
                && push.generation == self.generation
            {
                self.push_packet(turn, push.to, push.packet);
            }
        }
    }
}

/// Our credentials as payloads that fit a packet, filled by their size on the wire.
// spec: networks, "Pushing our credentials"
pub(super) fn credential_packets(config: &Config) -> Vec<Vec<u8>> {
    /// End of certificates and four counts.
    const FRAME: usize = 1 + 4 * 2;
    let mut packets = Vec::new();
    let mut packet = Credentials::default();
    let mut room = wire::packet::MAX_PAYLOAD - FRAME;
    let mut add = |size: usize, put: &mut dyn FnMut(&mut Credentials)| {
        if size > room && !packet.is_empty() {
            packets.push(std::mem::take(&mut packet));
            room = wire::packet::MAX_PAYLOAD - FRAME;
        }
        room = room.saturating_sub(size);
        put(&mut packet);
    };
    if let Some(com) = &config.com {
        add(size(|out| com.write(out)), &mut |p| p.coms.push(com.clone()));
    }
    for c in &config.capabilities {
        add(size(|out| c.write(out)), &mut |p| p.capabilities.push(c.clone()));
    }
    for t in &config.tags {
        add(size(|out| t.write(out)), &mut |p| p.tags.push(t.clone()));
    }
    for o in &config.ownerships {
        add(size(|out| o.write(out)), &mut |p| p.ownerships.push(o.clone()));
    }
    packets.push(packet);
    let written = |p: &Credentials| {
        let mut out = Vec::new();
        p.write(&mut out);
        out
    };
    packets.iter().filter(|p| !p.is_empty()).map(written).collect()
}

fn size(write: impl FnOnce(&mut Vec<u8>)) -> usize {
    let mut out = Vec::new();
    write(&mut out);
    out.len()
}
