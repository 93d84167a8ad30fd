//! Whether what we send over one path arrives, judged by the acknowledgements of our own packets and by nothing else: a path
//! that only brings packets in is no path out. // defects B1, B5, B6
// spec: bonding, "Probing, liveness, loss"

use std::collections::VecDeque;

use crate::limits::*;
use crate::trips::{Summary, Trips};

/// How far a path is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxState {
    /// New: nothing was acknowledged yet.
    Probing,
    /// What we send arrives.
    Good,
    /// Something should have been acknowledged by now.
    Suspect,
    /// It does not arrive.
    Down,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first answer.
    Answers(u64),
    /// Good, now suspect: age of the oldest unanswered request, RTO. us.
    Suspect(u64, u64),
    /// Suspect, now good.
    Cleared,
    /// Now down: probes unanswered, us since the suspicion.
    Down(u8, u64),
    /// Down, now good: us it was down.
    Up(u64),
}

/// The sender's record of one path. Times are us.
#[derive(Clone, Debug)]
pub struct Tx {
    state: TxState,
    since: u64,
    srtt: u64,
    rttvar: u64,
    min_rtt: u64,
    /// Acknowledged requests on their way: packet ID, time sent.
    outstanding: VecDeque<(u64, u64)>,
    last_probe: Option<u64>,
    last_ack: Option<u64>,
    /// When the newest request that was acknowledged had been sent.
    proven: Option<u64>,
    probes: u8,
    backoff: u64,
    /// Down, and something came in over it since the last probe.
    called: bool,
    acks: u8,
    first_ack: u64,
    /// Down: since when it is answered again, and its last answer.
    revived: u64,
    revived_ack: Option<u64>,
    penalty: f64,
    penalty_at: u64,
    requests: u64,
    lost: u64,
    unknown: u64,
    trips: Trips,
    /// The last requests whose fate is known, the newest lowest: a set bit was lost.
    fates: u128,
    /// How many of these bits mean something.
    known: u32,
}

impl Tx {
    /// Of a path that was just learned.
    pub fn new(now: u64) -> Tx {
        Tx {
            state: TxState::Probing,
            since: now,
            srtt: 0,
            rttvar: 0,
            min_rtt: u64::MAX,
            outstanding: VecDeque::new(),
            last_probe: None,
            last_ack: None,
            proven: None,
            probes: 0,
            backoff: BACKOFF_FIRST_US,
            called: false,
            acks: 0,
            first_ack: now,
            revived: now,
            revived_ack: None,
            penalty: 0.0,
            penalty_at: now,
            requests: 0,
            lost: 0,
            unknown: 0,
            trips: Trips::default(),
            fates: 0,
            known: 0,
        }
    }

    /// How far it is trusted.
    pub fn state(&self) -> TxState {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Smoothed round trip. None before the first.
    pub fn rtt(&self) -> Option<u64> {
        (self.min_rtt != u64::MAX).then_some(self.srtt)
    }

    /// Mean deviation of round trips.
    pub fn rttvar(&self) -> u64 {
        self.rttvar
    }

    /// Share of requests that were lost.
    pub fn loss(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.lost as f64 / self.requests as f64 }
    }

    /// The same of the last [`FATES_MAX`] whose fate is known.
    pub fn recent_loss(&self) -> f64 {
        if self.known == 0 { 0.0 } else { f64::from(self.fates.count_ones()) / f64::from(self.known) }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The last round trips, in figures. None before the first.
    pub fn round_trips(&self) -> Option<Summary> {
        self.trips.summary()
    }

    /// The quickest of the last round trips: nearest to what the path takes without what waits in it. None before the first.
    pub fn least_rtt(&self) -> Option<u64> {
        self.trips.least().map(u64::from)
    }

    /// Acknowledgements of nothing that we know.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// When the last acknowledgement came.
    pub fn last_ack(&self) -> Option<u64> {
        self.last_ack
    }

    /// When the newest acknowledged request had been sent.
    pub fn proven(&self) -> Option<u64> {
        self.proven
    }

    /// How long an acknowledgement may take.
    pub fn rto(&self) -> u64 {
        if self.min_rtt == u64::MAX {
            return RTO_FIRST_US;
        }
        (self.srtt + (4 * self.rttvar).max(RTO_SLACK_US)).clamp(RTO_MIN_US, RTO_MAX_US)
    }

    /// What the last failures add up to.
    pub fn penalty(&self, now: u64) -> f64 {
        self.penalty * (-(now.saturating_sub(self.penalty_at) as f64) / PENALTY_HALF_US).exp2()
    }

    /// Whether it is to be held back though it works.
    pub fn is_held(&self, now: u64) -> bool {
        self.penalty(now) > PENALTY_HELD && now.saturating_sub(self.since) < HELD_US
    }

    /// A packet left that will be acknowledged: a probe, or data that asks for it.
    pub fn requested(&mut self, now: u64, id: u64, probe: bool) {
        if self.outstanding.len() == OUTSTANDING_MAX {
            // The oldest still counts, else a flood of requests would hide that none is answered.
            self.outstanding.pop_back();
        }
        // Several shards tell what they sent, each in order of time.
        let at = self.outstanding.iter().rposition(|o| o.1 <= now).map_or(0, |i| i + 1);
        self.outstanding.insert(at, (id, now));
        self.requests += 1;
        if probe {
            self.last_probe = Some(now);
            self.probes = self.probes.saturating_add(1);
            self.called = false;
            if self.state == TxState::Down && !self.is_reviving(now) {
                let soon = now.saturating_sub(self.since) < BACKOFF_SOON_US;
                self.backoff = (self.backoff * 2).min(if soon { BACKOFF_SOON_MAX_US } else { BACKOFF_MAX_US });
            }
        }
    }

    /// An authenticated acknowledgement came in.
    pub fn acked(&mut self, now: u64, id: u64, up_delay: u64) -> Option<Event> {
        let Some(at) = self.outstanding.iter().position(|o| o.0 == id) else {
            self.unknown += 1;
            return None;
        };
        let sent = self.outstanding[at].1;
        // What was sent before it is lost, or overtaken; either way it says nothing about now.
        self.lose(at);
        self.outstanding.drain(..=at);
        self.settle(false);
        let rtt = now.saturating_sub(sent);
        if rtt > LATENCY_MAX_US {
            return None;
        }
        if self.min_rtt == u64::MAX {
            (self.srtt, self.rttvar) = (rtt, rtt / 2);
        } else {
            self.rttvar = (3 * self.rttvar + rtt.abs_diff(self.srtt)) / 4;
            self.srtt = (7 * self.srtt + rtt) / 8;
        }
        self.min_rtt = self.min_rtt.min(rtt);
        self.trips.add(rtt as u32);
        self.last_ack = Some(now);
        self.proven = Some(self.proven.map_or(sent, |p| p.max(sent)));
        match self.state {
            TxState::Probing => {
                self.enter(TxState::Good, now);
                Some(Event::Answers(rtt))
            }
            TxState::Good => None,
            TxState::Suspect if sent >= self.since => {
                self.enter(TxState::Good, now);
                Some(Event::Cleared)
            }
            TxState::Suspect => None,
            TxState::Down => {
                if !self.is_reviving(now) {
                    (self.acks, self.revived) = (0, now);
                }
                if self.acks == 0 || now.saturating_sub(self.first_ack) > self.window() {
                    (self.acks, self.first_ack) = (0, now);
                }
                self.acks = self.acks.saturating_add(1);
                self.revived_ack = Some(now);
                if self.acks < UP_ACKS || now.saturating_sub(self.revived) < up_delay {
                    return None;
                }
                let down_for = now.saturating_sub(self.since);
                self.enter(TxState::Good, now);
                Some(Event::Up(down_for))
            }
        }
    }

    /// What time alone tells. `others_at`: the newest acknowledged request of any other path was sent then.
    pub fn check(&mut self, now: u64, others_at: Option<u64>) -> Option<Event> {
        let rto = self.rto();
        match self.state {
            TxState::Good => {
                let oldest = self.outstanding.front()?.1;
                let age = now.saturating_sub(oldest);
                let again = self.outstanding.len() > 1 || others_at.is_some_and(|at| at >= oldest);
                if age <= rto || !(again || age > 2 * rto) {
                    return None;
                }
                self.enter(TxState::Suspect, now);
                Some(Event::Suspect(age, rto))
            }
            TxState::Suspect => {
                let after = now.saturating_sub(self.since);
                let unanswered = self.outstanding.iter().filter(|o| o.1 >= self.since && now - o.1 > rto).count();
                if unanswered < usize::from(DOWN_PROBES) && after <= 3 * rto {
                    return None;
                }
                let probes = self.probes;
                self.fail(now);
                Some(Event::Down(probes, after))
            }
            TxState::Probing | TxState::Down => {
                // What takes this long is not worth waiting for; it must not fill the table.
                while self.outstanding.front().is_some_and(|o| now.saturating_sub(o.1) > LATENCY_MAX_US) {
                    self.outstanding.pop_front();
                    self.lose(1);
                }
                None
            }
        }
    }

    /// Something is said against a good path: the next answer tells.
    pub fn doubt(&mut self, now: u64) {
        if self.state == TxState::Good {
            self.enter(TxState::Suspect, now);
        }
    }

    /// An authenticated packet came in. That is no proof, but a path that is down is asked for one. True if it is to be soon.
    pub fn heard(&mut self) -> bool {
        let news = self.state == TxState::Down && !self.called;
        self.called |= news;
        news
    }

    /// The kernel says that nothing can leave. False if that is known already.
    pub fn link_lost(&mut self, now: u64) -> bool {
        let news = self.state != TxState::Down;
        // What was acknowledged before says nothing any more.
        self.last_ack = None;
        if news {
            self.fail(now);
        }
        news
    }

    /// Whether a probe should leave now. `idle`: after how long without an acknowledgement a good path gets one.
    pub fn wants_probe(&self, now: u64, idle: u64) -> bool {
        let since_probe = self.last_probe.map_or(u64::MAX, |t| now.saturating_sub(t));
        let gap = match self.state {
            TxState::Good => {
                // Something is late, and nothing after it will tell: ask.
                let late = self.outstanding.front().is_some_and(|o| now.saturating_sub(o.1) > self.rto());
                if late {
                    self.rto() / 2
                } else {
                    let quiet = self.last_ack.map_or(u64::MAX, |t| now.saturating_sub(t));
                    return quiet >= idle && since_probe >= idle && self.outstanding.is_empty();
                }
            }
            TxState::Suspect if self.probes >= SUSPECT_PROBES => return false,
            TxState::Suspect => self.rto() / 2,
            TxState::Probing | TxState::Down => self.probe_gap(now),
        };
        since_probe >= gap.max(PROBE_GAP_MIN_US)
    }

    /// Whether it is one of its requests that this packet ID names.
    pub fn awaits(&self, id: u64) -> bool {
        self.outstanding.iter().any(|o| o.0 == id)
    }

    /// When [`Tx::check`] and [`Tx::wants_probe`] have something to say at the latest; `idle` as there.
    pub fn next_due(&self, now: u64, idle: u64) -> u64 {
        let after_probe = |gap: u64| self.last_probe.map_or(now, |t| t + gap.max(PROBE_GAP_MIN_US));
        match self.state {
            TxState::Good => match self.outstanding.front() {
                Some(&(_, sent)) if now.saturating_sub(sent) <= self.rto() => sent + self.rto() + 1,
                Some(&(_, sent)) => after_probe(self.rto() / 2).min(sent + 2 * self.rto() + 1),
                None => self.last_ack.max(self.last_probe).map_or(now, |t| t + idle),
            },
            TxState::Suspect => {
                let unanswered = self.outstanding.iter().filter(|o| o.1 >= self.since).map(|o| o.1 + self.rto() + 1);
                let over = unanswered.take(usize::from(DOWN_PROBES)).max().unwrap_or(u64::MAX);
                let probe = if self.probes >= SUSPECT_PROBES { u64::MAX } else { after_probe(self.rto() / 2) };
                probe.min(over.max(now)).min(self.since + 3 * self.rto() + 1)
            }
            TxState::Probing | TxState::Down => after_probe(self.probe_gap(now)),
        }
    }

    /// Between two probes of a path that does not work.
    fn probe_gap(&self, now: u64) -> u64 {
        match self.state {
            TxState::Probing => RTO_FIRST_US.min(BACKOFF_FIRST_US << self.probes.min(7)),
            _ if self.is_reviving(now) => self.srtt.min(UP_WITHIN_US / 4),
            _ if self.called => self.backoff.min(HEARD_GAP_US),
            _ => self.backoff,
        }
    }

    /// It is down, and was answered lately.
    fn is_reviving(&self, now: u64) -> bool {
        self.revived_ack.is_some_and(|at| now.saturating_sub(at) <= self.window())
    }

    /// Answers that are further apart are not in a row.
    fn window(&self) -> u64 {
        UP_WITHIN_US.max(4 * self.srtt)
    }

    fn fail(&mut self, now: u64) {
        if self.state != TxState::Probing {
            self.penalty = (self.penalty(now) + PENALTY).min(PENALTY_MAX);
            self.penalty_at = now;
        }
        self.lose(self.outstanding.len());
        self.outstanding.clear();
        self.enter(TxState::Down, now);
    }

    fn lose(&mut self, requests: usize) {
        self.lost += requests as u64;
        (0..requests).for_each(|_| self.settle(true));
    }

    fn settle(&mut self, lost: bool) {
        self.fates = self.fates << 1 | u128::from(lost);
        self.known = (self.known + 1).min(FATES_MAX);
    }

    fn enter(&mut self, state: TxState, now: u64) {
        (self.state, self.since) = (state, now);
        (self.probes, self.acks, self.backoff) = (0, 0, BACKOFF_FIRST_US / 2);
        (self.called, self.revived_ack) = (false, None);
        if state == TxState::Suspect {
            self.last_probe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_loss_is_that_of_the_last_requests_and_not_of_all_time() {
        let mut tx = Tx::new(0);
        assert_eq!((tx.recent_loss(), tx.round_trips()), (0.0, None));
        let mut send = |id: u64, answered: bool| {
            let now = id * 20_000;
            tx.requested(now, id, false);
            if answered {
                tx.acked(now + 10_000, id, 0);
            }
            (tx.loss(), tx.recent_loss())
        };
        // One of two is lost, which the next answer shows.
        (0..256).for_each(|id| _ = send(id, id % 2 == 1));
        assert_eq!(send(257, true).1, 0.5 - 1.0 / 128.0);
        (258..500).for_each(|id| _ = send(id, true));
        let (ever, lately) = send(500, true);
        assert!(lately == 0.0 && ever > 0.2, "{ever} {lately}");
        assert_eq!(tx.round_trips().map(|t| (t.p50, t.max, t.samples)), Some((10_000, 10_000, TRIPS_MAX)));
    }
}
