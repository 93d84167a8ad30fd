//! What one sender may cost us: how often its credentials are read, how many signatures are checked on its word, how
//! often it is sent an error. Knows addresses and times, nothing of messages.

use std::collections::BTreeMap;

use wire::{Address, NetworkId};

use crate::constants::{
    CREDENTIALS_RECEIVE_GATE_MS, ERROR_PERIOD_MS, ERRORS_REMEMBERED_MAX, SENDERS_MAX, SIGNATURE_WINDOW_MS,
    SIGNATURES_PER_SENDER_MAX,
};

#[derive(Debug, Default)]
struct Spent {
    credentials_at_ms: Option<u64>,
    window_start_ms: u64,
    signatures: u32,
}

/// Budgets of all senders.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    spent: BTreeMap<Address, Spent>,
    errors: BTreeMap<(Address, NetworkId, u8), u64>,
}

impl Senders {
    /// May a NETWORK_CREDENTIALS of this sender be read now? // spec: networks, "NETWORK_CREDENTIALS (verb 0x0a)"
    pub fn may_show_credentials(&mut self, now_ms: u64, sender: Address) -> bool {
        let Some(spent) = self.of(now_ms, sender) else { return false };
        let open = spent.credentials_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= CREDENTIALS_RECEIVE_GATE_MS);
        if open {
            spent.credentials_at_ms = Some(now_ms);
        }
        open
    }

    /// Takes one signature check from the sender's budget; false if it is used up.
    // spec: networks, "Traps and hardening"
    pub fn may_cost_signature(&mut self, now_ms: u64, sender: Address) -> bool {
        let Some(spent) = self.of(now_ms, sender) else { return false };
        if now_ms.saturating_sub(spent.window_start_ms) >= SIGNATURE_WINDOW_MS {
            spent.window_start_ms = now_ms;
            spent.signatures = 0;
        }
        spent.signatures += 1;
        spent.signatures <= SIGNATURES_PER_SENDER_MAX
    }

    /// May this ERROR go out now? // spec: paths, "Hardening bounds", ERROR sent
    pub fn may_send_error(&mut self, now_ms: u64, to: Address, network: NetworkId, code: u8) -> bool {
        let key = (to, network, code);
        if self.errors.get(&key).is_some_and(|&at| now_ms.saturating_sub(at) < ERROR_PERIOD_MS) {
            return false;
        }
        if self.errors.len() >= ERRORS_REMEMBERED_MAX && !self.errors.contains_key(&key) {
            self.sweep(now_ms);
            if self.errors.len() >= ERRORS_REMEMBERED_MAX {
                return false;
            }
        }
        self.errors.insert(key, now_ms);
        true
    }

    /// Forgets whoever has his full budget again.
    pub fn sweep(&mut self, now_ms: u64) {
        self.errors.retain(|_, &mut at| now_ms.saturating_sub(at) < ERROR_PERIOD_MS);
        self.spent.retain(|_, s| {
            s.credentials_at_ms.is_some_and(|at| now_ms.saturating_sub(at) < CREDENTIALS_RECEIVE_GATE_MS)
                || now_ms.saturating_sub(s.window_start_ms) < SIGNATURE_WINDOW_MS
        });
    }

    fn of(&mut self, now_ms: u64, sender: Address) -> Option<&mut Spent> {
        if self.spent.len() >= SENDERS_MAX && !self.spent.contains_key(&sender) {
            self.sweep(now_ms);
            if self.spent.len() >= SENDERS_MAX {
                return None;
            }
        }
        let fresh = Spent { window_start_ms: now_ms, ..Spent::default() };
        Some(self.spent.entry(sender).or_insert(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u64) -> Address {
        Address::from_u64(n + 1)
    }

    #[test]
    fn credentials_of_one_sender_are_read_once_a_second() {
        let mut senders = Senders::default();
        assert!(senders.may_show_credentials(0, address(1)));
        assert!(!senders.may_show_credentials(999, address(1)));
        assert!(senders.may_show_credentials(999, address(2)));
        assert!(senders.may_show_credentials(1000, address(1)));
    }

    #[test]
    fn a_sender_cannot_cause_more_signature_checks_than_its_budget() {
        let mut senders = Senders::default();
        let allowed = (0..10_000).filter(|_| senders.may_cost_signature(5, address(1))).count();
        assert_eq!(allowed, SIGNATURES_PER_SENDER_MAX as usize);
        assert!(senders.may_cost_signature(5, address(2)));
        assert!(senders.may_cost_signature(5 + SIGNATURE_WINDOW_MS, address(1)));
    }

    #[test]
    fn a_full_table_of_senders_refuses_newcomers_until_the_old_ones_have_their_budget_back() {
        let mut senders = Senders::default();
        for n in 0..SENDERS_MAX as u64 {
            assert!(senders.may_show_credentials(0, address(n)));
        }
        assert!(!senders.may_show_credentials(1, address(SENDERS_MAX as u64)));
        assert!(!senders.may_cost_signature(1, address(SENDERS_MAX as u64)));
        assert_eq!(senders.spent.len(), SENDERS_MAX);
        assert!(senders.may_show_credentials(1000, address(SENDERS_MAX as u64)));
    }

    #[test]
    fn a_full_table_of_errors_sends_none_until_it_drains() {
        let mut senders = Senders::default();
        for n in 0..ERRORS_REMEMBERED_MAX as u64 {
            assert!(senders.may_send_error(0, address(n), NetworkId(1), 6));
        }
        let late = address(ERRORS_REMEMBERED_MAX as u64);
        assert!(!senders.may_send_error(1, late, NetworkId(1), 6));
        assert_eq!(senders.errors.len(), ERRORS_REMEMBERED_MAX);
        assert!(senders.may_send_error(1000, late, NetworkId(1), 6));
    }
}
