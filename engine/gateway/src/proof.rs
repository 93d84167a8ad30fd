//! One thread that checks identities' proofs of work, 25 ms each, so that nobody else waits for it. Its queue is short:
//! whoever floods us with new identities fills this queue and nothing else.

use std::thread;

use crossbeam::channel::{Sender, TrySendError, bounded};
use tokio::sync::mpsc;
use wire::Identity;

/// Identities that wait to be checked; more are dropped and counted.
pub const MAX_PENDING_PROOFS: usize = 64;

/// The way to the thread.
#[derive(Debug)]
pub struct Prover {
    questions: Sender<(u64, Identity)>,
    /// Questions dropped because the queue was full.
    pub dropped: u64,
}

impl Prover {
    /// Starts the thread, which ends with this handle. Verdicts come as (ticket, valid).
    pub fn start() -> std::io::Result<(Prover, mpsc::Receiver<(u64, bool)>)> {
        let (questions, todo) = bounded::<(u64, Identity)>(MAX_PENDING_PROOFS);
        let (verdicts, done) = mpsc::channel(MAX_PENDING_PROOFS);
        thread::Builder::new().name("proof".into()).spawn(move || {
            for (ticket, identity) in todo {
                if verdicts.blocking_send((ticket, identity.validate())).is_err() {
                    return;
                }
            }
        })?;
        Ok((Prover { questions, dropped: 0 }, done))
    }

    /// Has an identity checked. False if there is no room; the node asks again when the peer does.
    pub fn ask(&mut self, ticket: u64, identity: Identity) -> bool {
        match self.questions.try_send((ticket, identity)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped += 1;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::SecretIdentity;

    use super::*;

    #[test]
    fn a_flood_of_new_identities_fills_the_queue_and_no_more() {
        let good = SecretIdentity::generate(&mut rand::rng()).public().clone();
        let forged = Identity::from_parts(wire::Address::from_u64(0x01_2345_6789), *good.public_key());
        let (mut prover, mut verdicts) = Prover::start().expect("thread");
        assert!(prover.ask(1, good) && prover.ask(2, forged.clone()));
        let taken = (3..500).filter(|ticket| prover.ask(*ticket, forged.clone())).count();
        assert!(taken <= MAX_PENDING_PROOFS + 3, "{taken} taken");
        assert_eq!(prover.dropped as usize, 497 - taken);
        assert_eq!((verdicts.blocking_recv(), verdicts.blocking_recv()), (Some((1, true)), Some((2, false))));
    }
}
