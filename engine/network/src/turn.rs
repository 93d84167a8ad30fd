//! What every call into this room brings along: the time, the world around, the list of what is to be done, the
//! counters. Knows nothing of networks.

use std::sync::Arc;

use wire::{Address, Identity, Now, Verb};

use crate::action::{Action, Surroundings};
use crate::counters::Counters;

/// One call into this room: the time, the world around, and what is to be done in the end.
pub(crate) struct Turn<'a> {
    pub now: Now,
    pub s: &'a mut dyn Surroundings,
    pub out: &'a mut Vec<Action>,
    pub counters: &'a mut Counters,
}

impl Turn<'_> {
    pub fn ms(&self) -> u64 {
        self.now.ms()
    }

    pub fn own(&self) -> Address {
        self.s.own().address()
    }

    /// The identity of an address, our own included.
    pub fn identity(&self, address: Address) -> Option<Arc<Identity>> {
        if address == self.own() { Some(Arc::new(self.s.own().clone())) } else { self.s.identity(address) }
    }

    /// Sends in the ordinary way; what is for ourselves vanishes.
    pub fn send(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool) {
        self.emit(to, verb, payload, compress, false);
    }

    /// Sends what is answered by an OK.
    pub fn request(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool) {
        self.emit(to, verb, payload, compress, true);
    }

    pub fn emit(&mut self, to: Address, verb: Verb, payload: Vec<u8>, compress: bool, expect_reply: bool) {
        if payload.len() > wire::packet::MAX_PAYLOAD {
            self.counters.too_long += 1;
        } else if to != self.own() || verb == Verb::NetworkConfigRequest {
            self.out.push(Action::Send { to, verb, payload, compress, expect_reply });
        }
    }
}
