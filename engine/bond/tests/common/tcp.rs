//! One TCP connection, both halves. The sender is CUBIC with selective acknowledgements; what it takes for loss is either the
//! plain rule of three (RFC 6675) or time, as in Linux (RACK: RFC 8985, with undo after proven mistakes). Like Linux it sends
//! in bursts: large frames that are cut into packets on their way.

use std::collections::{BTreeSet, VecDeque};

use super::MS;

/// Packets that one large frame is cut into.
const BURST: usize = 45;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Three packets above a hole: it is lost.
    Three,
    /// As Linux.
    Rack,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Flying,
    Sacked,
    Lost,
}

#[derive(Clone, Copy)]
pub struct Segment {
    sent: u64,
    pub state: State,
    pub again: u32,
}

/// The sending half of a TCP connection, always with something to send.
pub struct Sender {
    tolerance: Tolerance,
    pub una: u64,
    next: u64,
    pub flight: VecDeque<Segment>,
    sacked: usize,
    lost: usize,
    fack: u64,
    cwnd: f64,
    ssthresh: f64,
    w_max: f64,
    /// Start of the cubic, its K, its plateau.
    epoch: Option<(u64, f64, f64)>,
    recovery: Option<u64>,
    /// After a timeout: growing from the start, though in recovery.
    restarting: bool,
    /// HyStart: end of the round, its smallest round trip, samples.
    round: (u64, u64, u32),
    prior: (f64, f64, f64),
    undo: Option<u32>,
    srtt: f64,
    rttvar: f64,
    min_rtt: u64,
    rack: (u64, u64),
    reordering_seen: bool,
    steps: u64,
    last_dsack_round: u64,
    timer: Option<u64>,
    /// In the middle of a frame.
    bursting: bool,
    progress: u64,
    pub spurious: u64,
    pub recoveries: u64,
    pub timeouts: u64,
}

pub struct Ack {
    cum: u64,
    /// What arrived, and whether it was a repetition: timestamps tell.
    seqs: Vec<(u64, bool)>,
    duplicate: bool,
}

impl Sender {
    pub fn new(tolerance: Tolerance) -> Sender {
        Sender {
            tolerance,
            una: 0,
            next: 0,
            flight: VecDeque::new(),
            sacked: 0,
            lost: 0,
            fack: 0,
            cwnd: 10.0,
            ssthresh: f64::MAX,
            w_max: 0.0,
            epoch: None,
            recovery: None,
            restarting: false,
            round: (0, u64::MAX, 0),
            prior: (0.0, 0.0, 0.0),
            undo: None,
            srtt: 0.0,
            rttvar: 0.0,
            min_rtt: u64::MAX,
            rack: (0, 0),
            reordering_seen: false,
            steps: 1,
            last_dsack_round: 0,
            timer: None,
            bursting: false,
            progress: 0,
            spurious: 0,
            recoveries: 0,
            timeouts: 0,
        }
    }

    fn in_flight(&self) -> usize {
        self.flight.len() - self.sacked - self.lost
    }

    /// The next packet to send, if the window has room.
    pub fn poll(&mut self, now: u64) -> Option<u64> {
        let room = self.cwnd as usize - self.in_flight().min(self.cwnd as usize);
        // A third of the window or a full frame; until then it waits for more to be acknowledged.
        let worth = BURST.min(self.cwnd as usize / 3).max(1);
        if room == 0 || (room < worth && !self.bursting && self.lost == 0) {
            self.bursting = false;
            return None;
        }
        self.bursting = room > 1;
        if self.lost > 0 {
            let i = self.flight.iter().position(|s| s.state == State::Lost)?;
            self.lost -= 1;
            let s = &mut self.flight[i];
            (s.state, s.sent, s.again) = (State::Flying, now, s.again + 1);
            if let Some(n) = &mut self.undo {
                *n += 1;
            }
            return Some(self.una + i as u64);
        }
        self.flight.push_back(Segment { sent: now, state: State::Flying, again: 0 });
        if self.flight.len() == 1 {
            self.progress = now;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    fn rto(&self) -> u64 {
        ((self.srtt + (4.0 * self.rttvar).max(200e6)) as u64).max(200 * MS)
    }

    pub fn on_ack(&mut self, now: u64, ack: &Ack) {
        let mut delivered = 0u64;
        let mut rtt = None;
        let mut touch = |s: &mut Segment, seq: u64, again: bool, this: &mut (u64, u64), seen: &mut bool, fack: u64| {
            if s.again == 0 {
                rtt = Some(now - s.sent);
                if seq < fack {
                    *seen = true;
                }
            }
            if (s.again > 0) == again && s.sent >= this.0 {
                *this = (s.sent, now - s.sent);
            }
        };
        for &(seq, again) in &ack.seqs {
            if seq < self.una || seq >= ack.cum && seq - self.una >= self.flight.len() as u64 {
                continue;
            }
            let s = &mut self.flight[(seq - self.una) as usize];
            if s.state != State::Sacked {
                touch(s, seq, again, &mut self.rack, &mut self.reordering_seen, self.fack);
                if s.state == State::Lost {
                    self.lost -= 1;
                }
                s.state = State::Sacked;
                self.sacked += 1;
                delivered += 1;
            }
            self.fack = self.fack.max(seq);
        }
        while self.una < ack.cum {
            let s = self.flight.pop_front().expect("what is acknowledged was sent");
            match s.state {
                State::Sacked => self.sacked -= 1,
                State::Lost => {
                    self.lost -= 1;
                    delivered += 1;
                }
                State::Flying => delivered += 1,
            }
            self.una += 1;
            self.progress = now;
        }
        if let Some(rtt) = rtt {
            self.min_rtt = self.min_rtt.min(rtt);
            if self.srtt == 0.0 {
                (self.srtt, self.rttvar) = (rtt as f64, rtt as f64 / 2.0);
            } else {
                self.rttvar += (((rtt as f64) - self.srtt).abs() - self.rttvar) / 4.0;
                self.srtt += (rtt as f64 - self.srtt) / 8.0;
            }
        }
        if ack.duplicate {
            self.spurious += 1;
            if self.tolerance == Tolerance::Rack {
                self.reordering_seen = true;
                if self.una >= self.last_dsack_round {
                    self.steps = (self.steps + 1).min(255);
                    self.last_dsack_round = self.next;
                }
                if let Some(n) = &mut self.undo {
                    *n = n.saturating_sub(1);
                    if *n == 0 {
                        (self.cwnd, self.ssthresh, self.w_max) =
                            (self.cwnd.max(self.prior.0), self.ssthresh.max(self.prior.1), self.prior.2);
                        (self.undo, self.recovery, self.epoch) = (None, None, None);
                    }
                }
            }
        }
        if self.recovery.is_some_and(|r| self.una >= r) {
            (self.recovery, self.restarting) = (None, false);
            self.cwnd = self.cwnd.min(self.ssthresh.max(2.0));
            // Nothing was repeated, so nothing was lost: timestamps tell Linux.
            if self.tolerance == Tolerance::Rack && self.undo == Some(0) {
                (self.cwnd, self.ssthresh, self.w_max) = self.prior;
                (self.undo, self.epoch) = (None, None);
            }
        }
        self.detect(now);
        if let Some(rtt) = rtt {
            self.hystart(rtt);
        }
        if self.recovery.is_none() || self.restarting {
            self.grow(now, delivered as f64);
        }
    }

    /// Leaves slow start when round trips get longer, as Linux does.
    fn hystart(&mut self, rtt: u64) {
        if self.una >= self.round.0 {
            self.round = (self.next, u64::MAX, 0);
        }
        if self.cwnd >= self.ssthresh || self.cwnd < 16.0 || self.round.2 >= 8 {
            return;
        }
        self.round = (self.round.0, self.round.1.min(rtt), self.round.2 + 1);
        if self.round.2 == 8 && self.round.1 > self.min_rtt + (self.min_rtt / 8).clamp(4 * MS, 16 * MS) {
            self.ssthresh = self.cwnd;
            self.w_max = self.cwnd;
        }
    }

    fn grow(&mut self, now: u64, delivered: f64) {
        // Not limited by the window: no growth.
        if (self.in_flight() as f64 + delivered) * 2.0 < self.cwnd {
            return;
        }
        if self.cwnd < self.ssthresh {
            self.cwnd += delivered;
            return;
        }
        let (cwnd, w_max) = (self.cwnd, self.w_max);
        let start = || match w_max > cwnd {
            true => (now, ((w_max - cwnd) / 0.4).cbrt(), w_max),
            false => (now, 0.0, cwnd),
        };
        let (from, k, plateau) = *self.epoch.get_or_insert_with(start);
        let (t, rtt) = ((now - from) as f64 / 1e9, self.srtt / 1e9);
        let target = plateau + 0.4 * (t + rtt - k).powi(3);
        let friendly = self.w_max * 0.7 + 3.0 * 0.3 / 1.7 * t / rtt.max(1e-3);
        let target = target.max(friendly).min(self.cwnd * 1.5);
        if target > self.cwnd {
            self.cwnd += (target - self.cwnd) / self.cwnd * delivered;
        } else {
            self.cwnd += 0.01 * delivered / self.cwnd;
        }
    }

    /// Marks what is lost.
    fn detect(&mut self, now: u64) {
        let mut found = false;
        self.timer = None;
        match self.tolerance {
            Tolerance::Three => {
                let mut above = self.sacked;
                for s in &mut self.flight {
                    match s.state {
                        State::Sacked => above -= 1,
                        _ if above < 3 => break,
                        State::Flying if s.again == 0 => {
                            s.state = State::Lost;
                            self.lost += 1;
                            found = true;
                        }
                        _ => {}
                    }
                }
                // A repetition that is lost is found by time here too; only the timeout would do without.
                self.by_time(now, self.min_rtt, true, &mut found);
            }
            Tolerance::Rack => {
                let quarter = (self.min_rtt / 4).saturating_mul(self.steps).min(self.srtt as u64);
                let window = match self.reordering_seen {
                    false if self.recovery.is_some() || self.sacked >= 3 => 0,
                    _ => quarter,
                };
                self.by_time(now, window, false, &mut found);
            }
        }
        if found && self.recovery.is_none() {
            self.reduce(0.7);
        }
    }

    fn by_time(&mut self, now: u64, window: u64, repeated: bool, found: &mut bool) {
        let (newest, rtt) = self.rack;
        if self.sacked == 0 && self.recovery.is_none() {
            return;
        }
        for s in &mut self.flight {
            if s.state != State::Flying {
                continue;
            }
            if s.sent >= newest {
                if s.again == 0 {
                    break;
                }
                continue;
            }
            if repeated && s.again == 0 {
                continue;
            }
            let due = s.sent + rtt + window;
            if due <= now {
                s.state = State::Lost;
                self.lost += 1;
                *found = true;
            } else {
                self.timer = Some(self.timer.map_or(due, |t: u64| t.min(due)));
            }
        }
    }

    fn reduce(&mut self, factor: f64) {
        self.recoveries += 1;
        self.prior = (self.cwnd, self.ssthresh, self.w_max);
        self.undo = Some(0);
        self.w_max = if self.cwnd < self.w_max { self.cwnd * (1.0 + factor) / 2.0 } else { self.cwnd };
        self.ssthresh = (self.cwnd * factor).max(2.0);
        self.cwnd = self.ssthresh;
        self.epoch = None;
        self.recovery = Some(self.next);
    }

    pub fn on_timer(&mut self, now: u64) {
        if self.timer.is_some_and(|t| t <= now) {
            self.detect(now);
        }
        if !self.flight.is_empty() && now - self.progress > self.rto() {
            self.timeouts += 1;
            self.progress = now;
            self.reduce(0.7);
            (self.cwnd, self.restarting, self.undo) = (2.0, true, None);
            for s in &mut self.flight {
                if s.state == State::Flying {
                    s.state = State::Lost;
                    self.lost += 1;
                }
            }
        }
    }

    pub fn deadline(&self) -> u64 {
        let rto = if self.flight.is_empty() { u64::MAX } else { self.progress + self.rto() + 1 };
        self.timer.unwrap_or(u64::MAX).min(rto)
    }
}

/// The receiving half, which acknowledges every second packet, and at once what is out of order.
#[derive(Default)]
pub struct Receiver {
    pub cum: u64,
    ahead: BTreeSet<u64>,
    held: Vec<(u64, bool)>,
    highest: Option<(u64, u64)>,
    early: u64,
    pub late: Vec<u64>,
    pub got: u64,
}

impl Receiver {
    pub fn on_data(&mut self, now: u64, seq: u64, first_time: bool) -> Option<Ack> {
        self.got += 1;
        match self.highest {
            Some((highest, at)) if seq < highest => {
                if first_time {
                    self.late.push(now - at);
                }
            }
            _ => self.highest = Some((seq, now)),
        }
        let duplicate = seq < self.cum || self.ahead.contains(&seq);
        let mut at_once = duplicate || seq != self.cum || !self.ahead.is_empty();
        if seq == self.cum {
            self.cum += 1;
            while self.ahead.remove(&self.cum) {
                self.cum += 1;
            }
        } else if seq > self.cum {
            self.early += 1;
            self.ahead.insert(seq);
        }
        self.held.push((seq, !first_time));
        at_once |= self.held.len() >= 2;
        at_once.then(|| Ack { cum: self.cum, seqs: std::mem::take(&mut self.held), duplicate })
    }
}
