//! One path measured on purpose, for an operator who asks what it can do: probes in even steps, then, if he wants it, a load
//! of padded frames of which a few ask for acknowledgement. It says what is to be sent and when, and what the answers come
//! to; it does not know what a frame looks like.
// spec: bonding, "Probing, liveness, loss", "Being good to the remote"

use std::collections::BTreeMap;

use crate::limits::*;
use crate::trips::Summary;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order {
    /// How long it is probed, and then how long it is loaded, us. Held to [`TEST_MAX_US`] and [`TEST_LOAD_MAX_US`].
    pub length_us: u64,
    /// Bytes of UDP payload per second of the load; none without one. Held to [`TEST_LOAD_MAX`].
    pub load: Option<f64>,
    /// UDP payload of one padded frame, bytes.
    pub frame: usize,
}

/// What is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// An empty request that is acknowledged; then say [`LinkTest::requested`].
    Probe,
    /// A padded frame. If it asks for acknowledgement: as with a probe.
    Padded {
        /// It does.
        ask: bool,
    },
}

/// Requests of one kind and what became of them.
#[derive(Clone, Debug, Default)]
struct Tally {
    asked: u64,
    trips: Vec<u32>,
    first_us: u64,
    last_us: u64,
}

impl Tally {
    fn answered(&mut self, now: u64, sent: u64) {
        if self.trips.is_empty() {
            self.first_us = now;
        }
        self.last_us = now;
        if self.trips.len() < TEST_SAMPLES_MAX {
            self.trips.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
        }
    }
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Requests that left.
    pub asked: u64,
    /// Of these were answered.
    pub answered: u64,
    /// Their round trips.
    pub trips: Option<Summary>,
}

impl Found {
    fn of(tally: &Tally) -> Found {
        let trips = Summary::of(tally.trips.iter().copied());
        Found { asked: tally.asked, answered: tally.trips.len() as u64, trips }
    }

    /// Share that was not answered.
    pub fn loss(&self) -> f64 {
        if self.asked == 0 { 0.0 } else { 1.0 - self.answered as f64 / self.asked as f64 }
    }
}

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loaded {
    /// Bytes per second that were really sent.
    pub offered: f64,
    /// Bytes per second that arrived, by the times of the acknowledgements.
    pub delivered: f64,
    /// Those that asked for acknowledgement.
    pub found: Found,
}

impl Loaded {
    /// The path took no more than this; otherwise it can do at least this.
    pub fn is_full(&self) -> bool {
        self.delivered < TEST_FULL * self.offered
    }
}

/// A path under test. Times are us.
#[derive(Clone, Debug)]
pub struct LinkTest {
    began: u64,
    probes_end: u64,
    load_end: u64,
    frame: usize,
    /// Between two padded frames.
    gap: f64,
    /// One of so many asks.
    every: u64,
    next_probe: u64,
    next_load: f64,
    padded: u64,
    last_padded: u64,
    /// Packet ID: when it left, and whether it belongs to the load.
    waiting: BTreeMap<u64, (u64, bool)>,
    probes: Tally,
    load: Tally,
    stopped: bool,
}

impl LinkTest {
    /// Begins now.
    pub fn new(now: u64, order: Order) -> LinkTest {
        let probes_end = now + order.length_us.min(TEST_MAX_US);
        let load = order.load.filter(|r| r.is_finite() && *r > 0.0).map(|r| r.clamp(RATE_MIN, TEST_LOAD_MAX));
        let load_us = load.map_or(0, |_| order.length_us.min(TEST_LOAD_MAX_US));
        let frame = order.frame.max(1);
        let gap = load.map_or(f64::MAX, |rate| 1e6 * frame as f64 / rate);
        LinkTest {
            began: now,
            probes_end,
            load_end: probes_end + load_us,
            frame,
            gap,
            every: ((TEST_ACK_GAP_US / gap) as u64).clamp(1, TEST_ACK_EVERY_MAX),
            next_probe: now,
            next_load: probes_end as f64,
            padded: 0,
            last_padded: probes_end,
            waiting: BTreeMap::new(),
            probes: Tally::default(),
            load: Tally::default(),
            stopped: false,
        }
    }

    /// What is to leave now; call it until there is nothing more.
    pub fn poll(&mut self, now: u64) -> Option<Emit> {
        if self.stopped {
            return None;
        }
        if now < self.probes_end {
            if now < self.next_probe {
                return None;
            }
            self.next_probe = (self.next_probe + TEST_PROBE_GAP_US).max(now);
            return Some(Emit::Probe);
        }
        if now >= self.load_end || self.next_load > now as f64 {
            return None;
        }
        // What was missed by more than a moment is not made up for: bursts would fill a queue that the rate does not.
        self.next_load = (self.next_load + self.gap).max(now as f64 - TEST_LATE_US);
        let (group, place) = (self.padded / self.every, self.padded % self.every);
        self.padded += 1;
        self.last_padded = now;
        // One of each group, not always at the same place: queues overflow in step.
        Some(Emit::Padded { ask: place == group.wrapping_mul(5) % self.every })
    }

    /// A request left.
    pub fn requested(&mut self, now: u64, packet_id: u64) {
        let loaded = now >= self.probes_end;
        let tally = if loaded { &mut self.load } else { &mut self.probes };
        tally.asked += 1;
        if self.waiting.len() < TEST_SAMPLES_MAX {
            self.waiting.insert(packet_id, (now, loaded));
        }
    }

    /// An acknowledgement came. False if it is none of this test's.
    pub fn acked(&mut self, now: u64, packet_id: u64) -> bool {
        let Some((sent, loaded)) = self.waiting.remove(&packet_id) else { return false };
        if loaded {
            self.load.answered(now, sent)
        } else {
            self.probes.answered(now, sent)
        }
        true
    }

    /// Sends nothing more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Probes leave; data may be sent the same way.
    pub fn is_probing(&self, now: u64) -> bool {
        !self.stopped && now < self.probes_end
    }

    /// Probes left and nothing came back for so long that nothing should be sent this way.
    pub fn is_silent(&self, now: u64) -> bool {
        let last = if self.probes.trips.is_empty() { self.began } else { self.probes.last_us };
        self.is_probing(now) && now.saturating_sub(last) > TEST_SILENCE_US
    }

    /// All that will be found was found.
    pub fn is_over(&self, now: u64) -> bool {
        let sent = self.stopped || now >= self.load_end;
        sent && (self.waiting.is_empty() || now >= self.load_end + TEST_WAIT_US || self.stopped)
    }

    /// When to ask [`LinkTest::poll`] again. None: never, it is over.
    pub fn next_due(&self, now: u64) -> Option<u64> {
        if self.is_over(now) {
            return None;
        }
        Some(match now {
            _ if now < self.probes_end => self.next_probe.min(self.probes_end),
            _ if now < self.load_end => (self.next_load.ceil() as u64).min(self.load_end),
            _ => self.load_end + TEST_WAIT_US,
        })
    }

    /// For so long it is probed or was, us.
    pub fn probed_us(&self, now: u64) -> u64 {
        now.min(self.probes_end).saturating_sub(self.began)
    }

    /// What the probes found.
    pub fn probes(&self) -> Found {
        Found::of(&self.probes)
    }

    /// What the load found. None if there was none.
    pub fn loaded(&self) -> Option<Loaded> {
        if self.padded == 0 {
            return None;
        }
        let rate =
            |frames: u64, us: u64| if us == 0 { 0.0 } else { (frames * self.frame as u64) as f64 * 1e6 / us as f64 };
        let found = Found::of(&self.load);
        let over = self.load.last_us.saturating_sub(self.load.first_us);
        Some(Loaded {
            offered: rate(self.padded - 1, self.last_padded.saturating_sub(self.probes_end)),
            delivered: rate(found.answered.saturating_sub(1) * self.every, over),
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test over a link of `rate` bytes/s with `buffer` bytes and 10 ms each way; it is silent from `dead_us` on.
    fn run(order: Order, rate: f64, buffer: f64, dead_us: u64) -> LinkTest {
        let mut test = LinkTest::new(0, order);
        let (mut free, mut id, mut answers) = (0.0_f64, 0, BTreeMap::new());
        let mut now = 0;
        while !test.is_over(now) {
            while let Some((at, ids)) = answers.first_key_value().map(|(at, ids): (&u64, &Vec<u64>)| (*at, ids.clone()))
            {
                if at > now {
                    break;
                }
                answers.remove(&at);
                ids.into_iter().for_each(|id| assert!(test.acked(at, id)));
            }
            while let Some(emit) = test.poll(now) {
                let (bytes, ask) = match emit {
                    Emit::Probe => (51.0, true),
                    Emit::Padded { ask } => (order.frame as f64, ask),
                };
                id += 1;
                if ask {
                    test.requested(now, id);
                }
                let queued = (free - now as f64).max(0.0) * rate / 1e6;
                if queued + bytes > buffer || now >= dead_us {
                    continue;
                }
                free = free.max(now as f64) + bytes * 1e6 / rate;
                if ask {
                    answers.entry(free as u64 + 20_000).or_insert_with(Vec::new).push(id);
                }
            }
            now += 1000;
        }
        assert!(!test.acked(now, id + 1), "an ID that was never sent");
        test
    }

    fn order(load: Option<f64>) -> Order {
        Order { length_us: 5_000_000, load, frame: 1400 }
    }

    #[test]
    fn probes_tell_round_trip_and_loss_and_never_exceed_twenty_a_second() {
        let test = run(order(None), 1e6, 1e5, u64::MAX);
        let found = test.probes();
        assert_eq!((found.asked, found.answered, found.loss()), (100, 100, 0.0));
        assert_eq!(found.trips.map(|t| (t.p50, t.p99)), Some((20_051, 20_051)));
        assert_eq!((test.loaded(), test.probed_us(u64::MAX)), (None, 5_000_000));
    }

    #[test]
    fn a_link_slower_than_the_load_shows_its_rate_and_a_faster_one_that_it_took_all() {
        let slow = run(order(Some(2.5e6)), 1.25e6, 50_000.0, u64::MAX).loaded().expect("a load");
        assert!((slow.delivered / 1.25e6 - 1.0).abs() < 0.03 && slow.is_full(), "{slow:?}");
        assert!((slow.found.loss() - 0.5).abs() < 0.05, "{slow:?}");
        assert!(slow.found.trips.is_some_and(|t| t.p50 > 50_000), "its queue is full: {slow:?}");
        let fast = run(order(Some(2.5e6)), 25e6, 50_000.0, u64::MAX).loaded().expect("a load");
        assert!((fast.offered / 2.5e6 - 1.0).abs() < 0.02 && !fast.is_full(), "{fast:?}");
        assert!(fast.found.asked <= 1200 && fast.found.loss() == 0.0, "an answer in 4.5 ms: {fast:?}");
    }

    #[test]
    fn a_path_that_does_not_answer_is_found_silent_and_the_test_ends_all_the_same() {
        let test = run(order(None), 1e6, 1e5, 1_000_000);
        assert!((0.7..0.85).contains(&test.probes().loss()), "{:?}", test.probes());
        assert!(!test.is_silent(1_020_000) && test.is_silent(2_000_000) && !test.is_silent(6_000_000));
        let mut stopped = LinkTest::new(0, order(Some(1e6)));
        assert_eq!(stopped.poll(0), Some(Emit::Probe));
        stopped.requested(0, 1);
        stopped.stop();
        assert!(stopped.is_over(1) && stopped.poll(50_000).is_none() && stopped.next_due(1).is_none());
    }

    #[test]
    fn no_order_makes_it_send_for_long_or_much() {
        let absurd = Order { length_us: u64::MAX / 4, load: Some(f64::INFINITY), frame: 0 };
        let test = LinkTest::new(0, absurd);
        assert_eq!((test.probes_end, test.load_end), (TEST_MAX_US, TEST_MAX_US), "such a load is none");
        let fast = LinkTest::new(0, Order { load: Some(1e18), frame: 1432, ..absurd });
        assert_eq!(fast.load_end, TEST_MAX_US + TEST_LOAD_MAX_US);
        assert_eq!(fast.gap, 1e6 * 1432.0 / TEST_LOAD_MAX);
    }
}
