//! What is agreed on with one peer, if that is a Hawser: what it does for us while we have a bond for it, and what we do for
//! it while it has one for us. The halves know nothing of each other: each begins with an offer of the side that sends frames
//! and holds while the answers come back. It knows no path, and not what is done about an agreement.
//!
//! The sender's half ends before the receiver's: it counts from when an offer left, the receiver from when it came, and
//! longer. A receiver that lost its half says so when it sees a mark.

use std::collections::VecDeque;

use wire::message::{Features, PactMessage};

use crate::limits::{
    PACT_ANSWER_MS, PACT_ANSWERS_PER_MINUTE, PACT_GAP_FIRST_MS, PACT_GAP_MAX_MS, PACT_GIVEN_MS, PACT_HELD_MS,
    PACT_OFFERS_PER_MINUTE, PACT_RENEW_MS, PACT_STRAY_MS,
};

const MINUTE_MS: u64 = 60_000;

/// What the peer does for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// All of it.
    pub features: Features,
    /// Packet IDs that it remembers, at least.
    pub window: u32,
}

/// Why a message of the peer had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheeded {
    /// It answers no offer of ours, or one of long ago.
    Unasked,
    /// It came too often.
    TooOften,
}

/// Both halves of what was agreed on with one peer. Times are ms.
#[derive(Clone, Debug, Default)]
pub struct Pact {
    asking: Option<Asking>,
    /// What we do for the peer, and until when.
    given: Option<(Features, u64)>,
    answers: Recent<PACT_ANSWERS_PER_MINUTE>,
    stray_ms: Option<u64>,
}

/// The sender's half.
#[derive(Clone, Debug)]
struct Asking {
    wanted: Features,
    /// Offers that no answer came to since the last answer.
    unanswered: u32,
    due_ms: u64,
    /// The last offers: when, and their nonces.
    offers: Recent<PACT_OFFERS_PER_MINUTE>,
    nonces: VecDeque<(u64, u64)>,
    agreed: Option<(Agreed, u64)>,
}

/// When the last `N` of something were, to have no more of them within a minute.
#[derive(Clone, Debug, Default)]
struct Recent<const N: usize> {
    at_ms: VecDeque<u64>,
}

impl<const N: usize> Recent<N> {
    /// The next one may be then.
    fn next_ms(&self) -> u64 {
        if self.at_ms.len() < N { 0 } else { self.at_ms.front().map_or(0, |at| at + MINUTE_MS) }
    }

    /// One more, if it may be.
    fn pass(&mut self, now_ms: u64) -> bool {
        if now_ms < self.next_ms() {
            return false;
        }
        if self.at_ms.len() == N {
            self.at_ms.pop_front();
        }
        self.at_ms.push_back(now_ms);
        true
    }
}

impl Asking {
    /// How long after the last offer the next one is due if no answer comes.
    fn gap_ms(&self) -> u64 {
        PACT_GAP_MAX_MS.min(PACT_GAP_FIRST_MS << self.unanswered.saturating_sub(1).min(16))
    }

    fn next_ms(&self) -> u64 {
        self.due_ms.max(self.offers.next_ms())
    }
}

impl Pact {
    /// Nothing is agreed on.
    pub fn new() -> Pact {
        Pact::default()
    }

    /// What we want of the peer from now on: something while we have a bond for it, nothing when it ends.
    pub fn want(&mut self, now_ms: u64, wanted: Features) {
        match &mut self.asking {
            Some(asking) if asking.wanted == wanted => {}
            Some(asking) => {
                let told = asking.agreed.is_some();
                (asking.wanted, asking.agreed) = (wanted, None);
                (asking.unanswered, asking.due_ms) = (0, now_ms);
                asking.nonces.clear();
                if wanted.is_none() && !told {
                    self.asking = None;
                }
            }
            None if wanted.is_none() => {}
            None => {
                self.asking = Some(Asking {
                    wanted,
                    unanswered: 0,
                    due_ms: now_ms,
                    offers: Recent::default(),
                    nonces: VecDeque::new(),
                    agreed: None,
                });
            }
        }
    }

    /// The offer that is due. `nonce` is random.
    pub fn poll(&mut self, now_ms: u64, nonce: u64) -> Option<PactMessage> {
        let asking = self.asking.as_mut().filter(|asking| asking.next_ms() <= now_ms)?;
        if !asking.offers.pass(now_ms) {
            return None;
        }
        let (nonce, features) = (nonce.max(1), asking.wanted);
        if asking.nonces.len() == PACT_OFFERS_PER_MINUTE {
            asking.nonces.pop_front();
        }
        asking.nonces.push_back((nonce, now_ms));
        asking.unanswered = asking.unanswered.saturating_add(1);
        asking.due_ms = now_ms + asking.gap_ms();
        if features.is_none() {
            self.asking = None;
        }
        Some(PactMessage::Offer { features, nonce })
    }

    /// When something changes by time alone: an offer is due, a half ends.
    pub fn next_ms(&self) -> Option<u64> {
        let asking = self.asking.as_ref();
        let ends = asking.and_then(|a| a.agreed).map(|(_, until_ms)| until_ms);
        [asking.map(Asking::next_ms), ends, self.given.map(|(_, until_ms)| until_ms)].into_iter().flatten().min()
    }

    /// Ends what is over.
    pub fn expire(&mut self, now_ms: u64) {
        if let Some(asking) = &mut self.asking {
            asking.agreed = asking.agreed.filter(|(_, until_ms)| now_ms < *until_ms);
        }
        self.given = self.given.filter(|(_, until_ms)| now_ms < *until_ms);
    }

    /// An offer of the peer came: the answer, which is all that we can do of what it asks for.
    pub fn offered(
        &mut self,
        now_ms: u64,
        wanted: Features,
        nonce: u64,
        window: u32,
    ) -> Result<Option<PactMessage>, Unheeded> {
        if wanted.is_none() {
            self.given = None;
            return Ok(None);
        }
        if !self.answers.pass(now_ms) {
            return Err(Unheeded::TooOften);
        }
        let features = wanted.and(Features::ALL);
        self.given = Some((features, now_ms + PACT_GIVEN_MS));
        Ok(Some(PactMessage::Answer { features, nonce, window }))
    }

    /// An answer of the peer came.
    pub fn answered(&mut self, now_ms: u64, features: Features, nonce: u64, window: u32) -> Result<(), Unheeded> {
        let asking = self.asking.as_mut().ok_or(Unheeded::Unasked)?;
        if nonce == 0 {
            // It was started anew, or ours was. Nothing holds until it says so again.
            let (Some(_), true) = (asking.agreed.take(), features.is_none()) else { return Err(Unheeded::Unasked) };
            (asking.unanswered, asking.due_ms) = (0, now_ms);
            return Ok(());
        }
        let offer = asking.nonces.iter().find(|(n, at)| *n == nonce && now_ms.saturating_sub(*at) < PACT_ANSWER_MS);
        let &(_, sent_ms) = offer.ok_or(Unheeded::Unasked)?;
        let features = features.and(asking.wanted);
        // Earlier ones are of no use any more.
        asking.nonces.clear();
        if features.is_none() {
            (asking.agreed, asking.due_ms) = (None, now_ms + PACT_GAP_MAX_MS);
            return Ok(());
        }
        asking.agreed = Some((Agreed { features, window }, sent_ms + PACT_HELD_MS));
        (asking.unanswered, asking.due_ms) = (0, now_ms + PACT_RENEW_MS);
        Ok(())
    }

    /// Frames are not put in order any more. The peer hears of it as soon as it marks one.
    pub fn stop_ordering(&mut self) {
        self.given = self.given.map(|(features, until_ms)| (features.without(Features::ORDER_MARK), until_ms));
    }

    /// A marked frame came although nothing is agreed on: what to tell the peer, now and then.
    pub fn stray_mark(&mut self, now_ms: u64) -> Option<PactMessage> {
        let given = self.given(now_ms).has(Features::ORDER_MARK);
        if given || self.stray_ms.is_some_and(|at| now_ms.saturating_sub(at) < PACT_STRAY_MS) {
            return None;
        }
        self.stray_ms = Some(now_ms);
        let none = PactMessage::Answer { features: Features::NONE, nonce: 0, window: 0 };
        self.answers.pass(now_ms).then_some(none)
    }

    /// Offers since the last answer.
    pub fn unanswered(&self) -> u32 {
        self.asking.as_ref().map_or(0, |asking| asking.unanswered)
    }

    /// What the peer does for us.
    pub fn agreed(&self, now_ms: u64) -> Option<Agreed> {
        let (agreed, until_ms) = self.asking.as_ref()?.agreed?;
        (now_ms < until_ms).then_some(agreed)
    }

    /// What we do for the peer.
    pub fn given(&self, now_ms: u64) -> Features {
        self.given.filter(|(_, until_ms)| now_ms < *until_ms).map_or(Features::NONE, |(features, _)| features)
    }

    /// Nothing is wanted, given, or to be remembered for the sake of a bound.
    pub fn is_idle(&self, now_ms: u64) -> bool {
        let answered = self.answers.at_ms.back().is_some_and(|at| now_ms.saturating_sub(*at) < MINUTE_MS);
        self.asking.is_none() && self.given(now_ms).is_none() && !answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two nodes and what is lost between them.
    struct Two {
        pacts: [Pact; 2],
        now_ms: u64,
        nonce: u64,
        sent: [usize; 2],
        lost: Box<dyn FnMut() -> bool>,
    }

    const WINDOW: u32 = 8192;

    impl Two {
        fn new(lost: impl FnMut() -> bool + 'static) -> Two {
            Two { pacts: Default::default(), now_ms: 1000, nonce: 0, sent: [0; 2], lost: Box::new(lost) }
        }

        fn carry(&mut self, from: usize, message: PactMessage) {
            self.sent[from] += 1;
            if (self.lost)() {
                return;
            }
            let (to, now_ms) = (1 - from, self.now_ms);
            match message {
                PactMessage::Offer { features, nonce } => {
                    if let Ok(Some(answer)) = self.pacts[to].offered(now_ms, features, nonce, WINDOW) {
                        self.carry(to, answer);
                    }
                }
                PactMessage::Answer { features, nonce, window } => {
                    let _ = self.pacts[to].answered(now_ms, features, nonce, window);
                }
                PactMessage::Report(_) => unreachable!(),
            }
        }

        fn run(&mut self, ms: u64) {
            let end_ms = self.now_ms + ms;
            loop {
                for i in 0..2 {
                    self.pacts[i].expire(self.now_ms);
                    self.nonce += 1;
                    if let Some(offer) = self.pacts[i].poll(self.now_ms, self.nonce) {
                        self.carry(i, offer);
                    }
                }
                let next = self.pacts.iter().filter_map(Pact::next_ms).min().unwrap_or(end_ms);
                if next >= end_ms {
                    break;
                }
                assert!(next > self.now_ms, "time stands still at {next}");
                self.now_ms = next;
            }
            self.now_ms = end_ms;
        }

        /// What each has of the other.
        fn agreed(&self) -> [Features; 2] {
            [0, 1].map(|i| self.pacts[i].agreed(self.now_ms).map_or(Features::NONE, |a| a.features))
        }

        /// A marked frame goes from one to the other, if it may.
        fn frame(&mut self, from: usize) {
            if self.agreed()[from].has(Features::ORDER_MARK)
                && let Some(message) = self.pacts[1 - from].stray_mark(self.now_ms)
            {
                self.carry(1 - from, message);
            }
        }
    }

    #[test]
    fn one_exchange_is_enough_and_each_direction_is_agreed_on_by_itself() {
        let mut two = Two::new(|| false);
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(100);
        assert_eq!((two.agreed(), two.sent), ([Features::ALL, Features::NONE], [1, 1]));
        assert_eq!(two.pacts[1].given(two.now_ms), Features::ALL);
        assert_eq!(two.pacts[0].agreed(two.now_ms).map(|a| a.window), Some(WINDOW));
        two.pacts[1].want(two.now_ms, Features::REPORTS);
        two.run(100);
        assert_eq!(two.agreed(), [Features::ALL, Features::REPORTS]);
    }

    #[test]
    fn nobody_says_anything_who_wants_nothing() {
        let mut two = Two::new(|| false);
        two.pacts[0].want(two.now_ms, Features::NONE);
        two.run(1_000_000);
        assert_eq!((two.sent, two.pacts[0].next_ms()), ([0, 0], None));
        assert!(two.pacts[0].is_idle(two.now_ms));
    }

    #[test]
    fn who_gets_no_answer_asks_less_and_less_often() {
        let mut two = Two::new(|| true);
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(60_000);
        assert_eq!(two.sent[0], 5);
        two.run(3_600_000);
        assert!(two.sent[0] < 5 + 3 + 13, "{} offers", two.sent[0]);
    }

    #[test]
    fn an_agreement_is_kept_alive_and_ends_on_the_senders_side_first() {
        let mut two = Two::new(|| false);
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(3_600_000);
        assert_eq!((two.agreed()[0], two.sent), (Features::ALL, [60, 60]));
        two.lost = Box::new(|| true);
        while !two.agreed()[0].is_none() {
            assert_eq!(two.pacts[1].given(two.now_ms), Features::ALL, "while the sender reckons with it");
            two.run(1000);
        }
        two.run(PACT_GIVEN_MS);
        assert!(two.pacts[1].given(two.now_ms).is_none());
        assert!(two.pacts[1].is_idle(two.now_ms));
    }

    #[test]
    fn a_receiver_that_was_restarted_says_so_at_the_first_mark_and_is_asked_again() {
        let mut two = Two::new(|| false);
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(10_000);
        two.pacts[1] = Pact::new();
        two.frame(0);
        assert!(two.agreed()[0].is_none(), "no mark goes out any more");
        two.run(1);
        assert_eq!(two.agreed()[0], Features::ALL);
        two.frame(0);
        assert_eq!(two.agreed()[0], Features::ALL);
    }

    #[test]
    fn a_sender_that_was_restarted_asks_again_and_one_that_has_no_bond_any_more_says_so() {
        let mut two = Two::new(|| false);
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(10_000);
        two.pacts[0] = Pact::new();
        assert!(two.agreed()[0].is_none());
        two.pacts[0].want(two.now_ms, Features::ALL);
        two.run(10);
        assert_eq!(two.agreed()[0], Features::ALL);
        two.pacts[0].want(two.now_ms, Features::NONE);
        two.run(10);
        assert!(two.agreed()[0].is_none() && two.pacts[1].given(two.now_ms).is_none());
        assert_eq!(two.sent[0], 3);
    }

    #[test]
    fn answers_to_nothing_and_to_what_is_long_ago_have_no_effect() {
        let mut pact = Pact::new();
        assert_eq!(pact.answered(0, Features::ALL, 7, WINDOW), Err(Unheeded::Unasked));
        pact.want(0, Features::ALL);
        assert!(pact.poll(0, 7).is_some());
        assert_eq!(pact.answered(1, Features::ALL, 8, WINDOW), Err(Unheeded::Unasked));
        assert_eq!(pact.answered(1, Features::NONE, 0, 0), Err(Unheeded::Unasked), "there is nothing to give up");
        assert_eq!(pact.answered(PACT_ANSWER_MS, Features::ALL, 7, WINDOW), Err(Unheeded::Unasked));
        assert_eq!(pact.agreed(PACT_ANSWER_MS), None);
        assert_eq!(pact.answered(5, Features::ALL, 7, WINDOW), Ok(()));
        assert_eq!(pact.answered(5, Features::ALL, 7, WINDOW), Err(Unheeded::Unasked), "each answer counts once");
    }

    #[test]
    fn a_flood_of_offers_or_of_marks_gets_few_answers() {
        let mut pact = Pact::new();
        let answers = (0..60_000).filter(|ms| matches!(pact.offered(*ms, Features::ALL, ms + 1, WINDOW), Ok(Some(_))));
        assert_eq!(answers.count(), PACT_ANSWERS_PER_MINUTE);
        let mut pact = Pact::new();
        let strays = (0..60_000).filter(|ms| pact.stray_mark(*ms).is_some()).count();
        assert_eq!(strays, PACT_ANSWERS_PER_MINUTE);
    }

    #[test]
    fn a_flood_of_withdrawals_causes_few_offers() {
        let mut pact = Pact::new();
        pact.want(0, Features::ALL);
        let mut offers = 0;
        for ms in 0..60_000 {
            if let Some(PactMessage::Offer { nonce, .. }) = pact.poll(ms, ms + 1) {
                offers += 1;
                pact.answered(ms, Features::ALL, nonce, WINDOW).unwrap();
            }
            let _ = pact.answered(ms, Features::NONE, 0, 0);
        }
        assert_eq!(offers, PACT_OFFERS_PER_MINUTE);
    }

    proptest! {
        #[test]
        fn under_loss_they_agree_within_bounded_time_and_stay_agreed(seed in prop::collection::vec(0..100u32, 400), percent in 0..60u32, both: bool) {
            let mut draws = seed.clone().into_iter().cycle();
            let mut two = Two::new(move || draws.next().is_some_and(|n| n < percent));
            two.pacts[0].want(two.now_ms, Features::ALL);
            if both {
                two.pacts[1].want(two.now_ms, Features::ALL);
            }
            two.run(120_000);
            two.lost = Box::new(|| false);
            // The next offer that arrives settles it.
            two.run(PACT_GAP_FIRST_MS << 7);
            prop_assert_eq!(two.agreed()[0], Features::ALL);
            prop_assert_eq!(two.agreed()[1].is_none(), !both);
            for _ in 0..20 {
                two.run(60_000);
                prop_assert_eq!(two.agreed()[0], Features::ALL);
            }
        }

        #[test]
        fn the_sender_never_reckons_with_what_the_receiver_does_not_do(
            steps in prop::collection::vec((0..200_000u64, 0..6u8, any::<u16>()), 0..60),
            lost in prop::collection::vec(any::<bool>(), 50),
        ) {
            let mut lost = lost.into_iter().cycle();
            let mut two = Two::new(move || lost.next().unwrap_or_default());
            for (ms, what, bits) in steps {
                match what {
                    0 => two.pacts[0].want(two.now_ms, Features::from_bits(bits)),
                    1 => two.pacts[0] = Pact::new(),
                    2 => { two.pacts[1].want(two.now_ms, Features::from_bits(bits)); }
                    3 => { let _ = two.pacts[0].answered(two.now_ms, Features::from_bits(bits), u64::from(bits) + (1 << 40), 1); }
                    _ => {}
                }
                two.run(ms);
                // The other is never started anew here.
                let (given, agreed) = (two.pacts[1].given(two.now_ms), two.agreed()[0]);
                prop_assert!(given.has(agreed), "one reckons with {:?}, the other does {:?}", agreed, given);
            }
        }
    }
}
