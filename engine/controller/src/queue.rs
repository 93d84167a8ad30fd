//! Bounded waiting: a line in which each key stands once, a schedule of deadlines, the request gate, and the budget that
//! paces signing. Knows keys and milliseconds, never what they stand for.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Keys in order of arrival, each once, at most `most`.
#[derive(Debug)]
pub(crate) struct Line<K> {
    order: VecDeque<K>,
    waiting: HashSet<K, RandomState>,
    most: usize,
}

impl<K: Copy + Eq + Hash> Line<K> {
    pub fn new(most: usize) -> Line<K> {
        Line { order: VecDeque::new(), waiting: HashSet::default(), most }
    }

    /// False if the line is full. A key that waits already keeps its place.
    pub fn push(&mut self, key: K) -> bool {
        if self.waiting.contains(&key) {
            return true;
        }
        if self.order.len() >= self.most {
            return false;
        }
        self.waiting.insert(key);
        self.order.push_back(key);
        true
    }

    pub fn pop(&mut self) -> Option<K> {
        let key = self.order.pop_front()?;
        self.waiting.remove(&key);
        Some(key)
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Deadlines, one for each key.
#[derive(Debug)]
pub(crate) struct Schedule<K> {
    order: BTreeSet<(u64, K)>,
    at: HashMap<K, u64, RandomState>,
}

impl<K: Copy + Ord + Hash> Schedule<K> {
    pub fn new() -> Schedule<K> {
        Schedule { order: BTreeSet::new(), at: HashMap::default() }
    }

    /// An earlier deadline of the same key stands.
    pub fn add(&mut self, key: K, at_ms: u64) {
        self.at.entry(key).or_insert_with(|| {
            self.order.insert((at_ms, key));
            at_ms
        });
    }

    pub fn next(&self) -> Option<u64> {
        self.order.first().map(|&(at_ms, _)| at_ms)
    }

    /// The first key whose deadline has come.
    pub fn pop(&mut self, now_ms: u64) -> Option<K> {
        let &(at_ms, key) = self.order.first().filter(|&&(at_ms, _)| at_ms <= now_ms)?;
        self.order.remove(&(at_ms, key));
        self.at.remove(&key);
        Some(key)
    }
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    TooSoon,
    Full,
}

/// Lets each key through at most once in `period_ms`, and remembers at most `most` keys.
#[derive(Debug)]
pub(crate) struct Gate<K> {
    last: HashSet<K, RandomState>,
    order: VecDeque<(u64, K)>,
    period_ms: u64,
    most: usize,
}

impl<K: Copy + Eq + Hash> Gate<K> {
    pub fn new(period_ms: u64, most: usize) -> Gate<K> {
        Gate { last: HashSet::default(), order: VecDeque::new(), period_ms, most }
    }

    pub fn pass(&mut self, now_ms: u64, key: K) -> Result<(), Closed> {
        // Entries stand in the order of time, so those that no longer count are all in front.
        while let Some(&(at_ms, old)) = self.order.front() {
            if now_ms.saturating_sub(at_ms) <= self.period_ms {
                break;
            }
            self.order.pop_front();
            self.last.remove(&old);
        }
        if self.last.contains(&key) {
            return Err(Closed::TooSoon);
        }
        if self.last.len() >= self.most {
            return Err(Closed::Full);
        }
        self.last.insert(key);
        self.order.push_back((now_ms, key));
        Ok(())
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Thousandths of a token.
    milli: u64,
    filled_ms: u64,
    per_second: u64,
    burst: u64,
}

impl Budget {
    pub fn new(per_second: u64, burst: u64, now_ms: u64) -> Budget {
        Budget { milli: burst * 1000, filled_ms: now_ms, per_second, burst }
    }

    pub fn fill(&mut self, now_ms: u64) {
        let gained = now_ms.saturating_sub(self.filled_ms).saturating_mul(self.per_second);
        self.milli = self.milli.saturating_add(gained).min(self.burst * 1000);
        self.filled_ms = self.filled_ms.max(now_ms);
    }

    pub fn has_token(&self) -> bool {
        self.milli >= 1000
    }

    pub fn spend(&mut self) {
        self.milli = self.milli.saturating_sub(1000);
    }

    /// When there is a token again.
    pub fn ready_ms(&self) -> u64 {
        self.filled_ms + 1000u64.saturating_sub(self.milli).div_ceil(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_each_key_through_once_a_period_and_forgets() {
        let mut gate = Gate::new(1000, 2);
        assert_eq!(gate.pass(0, 'a'), Ok(()));
        assert_eq!(gate.pass(1000, 'a'), Err(Closed::TooSoon));
        assert_eq!(gate.pass(1000, 'b'), Ok(()));
        assert_eq!(gate.pass(1000, 'c'), Err(Closed::Full));
        assert_eq!(gate.pass(1001, 'a'), Ok(()));
        assert_eq!(gate.pass(2000, 'c'), Err(Closed::Full));
        assert_eq!(gate.pass(2001, 'c'), Ok(()));
    }

    #[test]
    fn a_line_holds_each_key_once_and_has_an_end() {
        let mut line = Line::new(2);
        assert!(line.push(1) && line.push(1) && line.push(2) && !line.push(3));
        assert_eq!((line.pop(), line.pop(), line.pop()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_schedule_keeps_the_first_deadline_of_a_key() {
        let mut schedule = Schedule::new();
        schedule.add('a', 20);
        schedule.add('a', 10);
        schedule.add('b', 15);
        assert_eq!(schedule.next(), Some(15));
        assert_eq!((schedule.pop(14), schedule.pop(15), schedule.pop(19)), (None, Some('b'), None));
        assert_eq!((schedule.pop(20), schedule.next()), (Some('a'), None));
    }

    #[test]
    fn a_budget_allows_a_burst_and_then_its_rate() {
        let mut budget = Budget::new(500, 3, 0);
        let mut spent = 0;
        for now_ms in 0..=20 {
            budget.fill(now_ms);
            while budget.has_token() {
                budget.spend();
                spent += 1;
            }
        }
        assert_eq!(spent, 3 + 10);
        assert_eq!(budget.ready_ms(), 22);
    }
}
