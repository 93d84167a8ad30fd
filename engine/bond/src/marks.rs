//! Order marks of what leaves: one counter per flow, for the flows that take several paths now. Which frames get marks is
//! not known here. What a receiver makes of them is in [`resequence`](crate::resequence).

use crate::limits::MARKED_FLOWS_MAX;
use wire::message::OrderMark;

/// Flows per bucket.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Marked {
    flow: u64,
    next: u32,
    /// 0: the place is empty.
    last_us: u64,
}

/// The counters of one peer's flows.
#[derive(Debug, Default)]
pub struct Marks {
    /// Empty until the first mark.
    flows: Vec<Marked>,
    evicted: u64,
}

impl Marks {
    /// None yet, and no memory.
    pub fn new() -> Marks {
        Marks::default()
    }

    /// The mark of the next frame of a flow. A new flow, or one that was forgotten, begins at a number that is far from any
    /// other beginning, so that nobody waits for what was before.
    pub fn next(&mut self, now_us: u64, flow: u64) -> OrderMark {
        if self.flows.is_empty() {
            self.flows = vec![Marked::default(); MARKED_FLOWS_MAX];
        }
        let first = (flow as usize & (MARKED_FLOWS_MAX / WAYS - 1)) * WAYS;
        let bucket = &mut self.flows[first..first + WAYS];
        let known = bucket.iter().position(|marked| marked.last_us != 0 && marked.flow == flow);
        let at = known.unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|at| bucket[*at].last_us).unwrap_or(0);
            self.evicted += u64::from(bucket[oldest].last_us != 0);
            let begin = (flow ^ now_us).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            bucket[oldest] = Marked { flow, next: begin as u32, last_us: 0 };
            oldest
        });
        let marked = &mut bucket[at];
        let mark = OrderMark(marked.next);
        (marked.next, marked.last_us) = (marked.next.wrapping_add(1), now_us.max(1));
        mark
    }

    /// Flows forgotten for want of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Forgets all of them, and gives the memory back.
    pub fn clear(&mut self) {
        self.flows = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_its_own_numbers_without_gaps() {
        let mut marks = Marks::new();
        let begin: Vec<u32> = (0..100u64).map(|flow| marks.next(1, flow).0).collect();
        for n in 1..50 {
            for flow in 0..100u64 {
                assert_eq!(marks.next(1 + n, flow).0, begin[flow as usize].wrapping_add(n as u32));
            }
        }
        assert_eq!(marks.evicted(), 0);
    }

    #[test]
    fn more_flows_than_there_is_room_for_push_out_the_longest_idle_and_begin_anew_elsewhere() {
        let mut marks = Marks::new();
        let same_bucket = |n: u64| n * MARKED_FLOWS_MAX as u64;
        let first = marks.next(1, same_bucket(1)).0;
        for n in 2..=5 {
            marks.next(n, same_bucket(n));
        }
        assert_eq!(marks.evicted(), 1);
        let again = marks.next(1_000_000, same_bucket(1)).0;
        assert!(again.abs_diff(first) > 1 << 16, "{first} {again}");
        marks.clear();
        assert_eq!(marks.flows.capacity(), 0);
    }
}
