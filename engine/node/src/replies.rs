//! OK and ERROR: what comes back. An OK counts only if it names a packet we sent to that peer; an ERROR only from whom
//! its code entitles.
// spec: paths, "Expected replies"; wire, "Reply matching", "ERROR payloads (verb 0x02)"

use wire::message::{ErrorCode, ErrorMessage, OkHello, OkMessage, OkWhois};
use wire::packet::PROTO_MIN;
use wire::{Address, Now, Verb};

use crate::Node;
use crate::dispatch::{Handled, Heard};
use crate::expect::Matched;
use crate::io::Event;
use crate::limits::*;
use crate::path::Path;
use crate::send::Arrival;

impl Node {
    /// Handles an OK.
    pub(crate) fn ok(&mut self, now: Now, arrival: &Arrival, from: Address, payload: &[u8]) -> Handled {
        let ok = OkMessage::parse(payload)?;
        let (id, Path { socket, remote }) = (ok.in_re.packet_id, arrival.path);
        let socket = arrival.lane.unwrap_or(socket);
        let matched = self.expectations.matched(id, ok.in_re.verb, from, socket, remote, now.ms());
        let Some(matched) = matched else {
            if ok.in_re.verb == Verb::ExtFrame as u8 && self.hand_ack_on(now, from, &arrival.path, id) {
                return Ok(Heard::NO);
            }
            self.counters.reply_unexpected += 1;
            return Ok(Heard::NO);
        };
        let mut heard = Heard { proves_path: matched.proves_path && arrival.direct(), ..Heard::YES };
        match matched.verb {
            Verb::Hello => {
                self.ok_hello(now, arrival, from, &matched, ok.body)?;
                self.bond_answered(now, from, id);
            }
            Verb::Echo => {
                if matched.cookie.is_some_and(|cookie| cookie != ok.body) {
                    self.counters.reply_unexpected += 1;
                    return Ok(Heard::NO);
                }
                if let Some(lane) = arrival.lane {
                    if heard.proves_path {
                        self.lane_answered(now, from, lane, remote);
                    }
                    return Ok(Heard::NO); // says nothing of the path beside it
                }
                self.measure(now, arrival, from, &matched);
                self.bond_answered(now, from, id);
            }
            Verb::ExtFrame => {
                heard.trust = self.network_ok(now, arrival, from, Verb::ExtFrame, id, ok.body);
                self.bond_frame_acked(now, from, id, ok.body);
            }
            Verb::NetworkConfig => {} // a configuration that we pushed has arrived
            Verb::Whois => self.ok_whois(now, from, ok.body)?,
            verb => heard.trust = self.network_ok(now, arrival, from, verb, id, ok.body),
        }
        Ok(heard)
    }

    fn ok_hello(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        matched: &Matched,
        body: &[u8],
    ) -> Result<(), wire::Malformed> {
        let ok = OkHello::parse(body)?;
        if ok.version.protocol < PROTO_MIN {
            return Err(wire::Malformed { what: "protocol version" });
        }
        self.set_version(now, from, ok.version);
        self.measure(now, arrival, from, matched);
        if arrival.direct()
            && let Some(surface) = ok.seen_from
        {
            self.surface_reported(now, arrival, from, surface);
        }
        self.worlds_offered(now, from, &ok)
    }

    /// A round trip of our own packet over one path. Remote-echoed time is never looked at.
    // spec: paths, "Latency"
    fn measure(&mut self, now: Now, arrival: &Arrival, from: Address, matched: &Matched) {
        if !arrival.direct() || !matched.proves_path {
            return;
        }
        let sample_us = now.mono_us.saturating_sub(matched.sent_us);
        if sample_us > LATENCY_SAMPLE_MAX_US {
            self.counters.latency_refused += 1;
            return;
        }
        // The path may be new: it is learned first, and measured again right after.
        self.learn_proven(now, arrival, from);
        if let Some(slot) = self.peers.get_mut(from).and_then(|p| p.slot_mut(&arrival.path)) {
            slot.measured(sample_us as u32, now.ms());
        }
    }

    /// Identities from an upstream, if we asked for them. // spec: paths, "Created by WHOIS"
    fn ok_whois(&mut self, now: Now, from: Address, body: &[u8]) -> Result<(), wire::Malformed> {
        if !self.roots.is_upstream_address(from) {
            self.counters.whois_answer_refused += 1;
            return Ok(());
        }
        for identity in OkWhois::parse(body)?.identities {
            self.identity_told(now, identity);
        }
        Ok(())
    }

    /// Handles an ERROR.
    pub(crate) fn error(&mut self, now: Now, arrival: &Arrival, from: Address, payload: &[u8]) -> Handled {
        let error = ErrorMessage::parse(payload)?;
        self.counters.errors_received += 1;
        if matches!(error.code, ErrorCode::IdentityCollision) {
            self.told_of_collision(now, from, error.in_re.packet_id);
            return Ok(Heard::YES);
        }
        let trust = self.network_error(now, arrival, from, &error);
        Ok(Heard { trust, ..Heard::YES })
    }

    /// Believed only from an upstream, in reply to a HELLO of ours, and acted on when a second upstream says the same,
    /// or there is no second one. // spec: wire, "ERROR payloads (verb 0x02)", Gateway
    fn told_of_collision(&mut self, now: Now, from: Address, in_re: u64) {
        let asked = self.expectations.peek(in_re, from, now.ms()).is_some_and(|e| e.verb == Verb::Hello);
        if !asked || !self.roots.is_upstream_address(from) {
            self.counters.reply_unexpected += 1;
            return;
        }
        let confirmed = self.roots.collision_reported(from, now.ms());
        self.event(Event::IdentityCollision { reporter: from, confirmed });
        if confirmed && !self.halted {
            self.halted = true;
            self.plan_all(now);
        }
    }
}
