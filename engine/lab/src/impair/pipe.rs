//! One direction of a line as arithmetic: how long a frame waits for the ones before it, how long it is under way, and
//! whether it arrives at all. Knows no clock and no socket; the time is an argument, so the same seed gives the same fate.

use std::collections::VecDeque;
use std::time::Duration;

/// What one direction of a line does to frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Bits per second, Ethernet header included; none: at once.
    pub rate: Option<f64>,
    /// Frames that would wait longer than this for the ones before them are dropped.
    pub buffer: Duration,
    /// What every frame takes.
    pub delay: Duration,
    /// At most so much more, evenly distributed.
    pub jitter: Duration,
    /// Frames may overtake others by jitter.
    pub reorder: bool,
    /// Share of frames that never arrive.
    pub loss: f64,
    /// Nothing enters; what is under way arrives.
    pub cut: bool,
}

impl Default for Shape {
    /// A wire without any fault; once it has a rate, with a buffer of 50 ms.
    fn default() -> Shape {
        Shape {
            rate: None,
            buffer: Duration::from_millis(50),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: false,
            loss: 0.0,
            cut: false,
        }
    }
}

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that arrived or are under way.
    pub frames: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Frames that found the buffer full.
    pub overflowed: u64,
    /// Frames lost at random.
    pub lost: u64,
    /// Frames that met the cut.
    pub cut: u64,
}

/// One direction, with what is under way in it.
#[derive(Debug)]
pub struct Pipe<T> {
    shape: Shape,
    /// When the last bit that was let in has left the buffer, ns.
    free_at: u64,
    last_due: u64,
    random: u64,
    /// In order of their due times, ns.
    under_way: VecDeque<(u64, T)>,
    /// What became of the frames so far.
    pub tally: Tally,
}

impl<T> Pipe<T> {
    /// An empty one.
    pub fn new(shape: Shape, seed: u64) -> Pipe<T> {
        let (free_at, last_due) = (0, 0);
        Pipe { shape, free_at, last_due, random: seed, under_way: VecDeque::new(), tally: Tally::default() }
    }

    /// From `now` on it does this; what waits in the buffer leaves at the new rate.
    pub fn reshape(&mut self, now: u64, shape: Shape) {
        let waiting = self.free_at.saturating_sub(now) as f64;
        self.free_at = match (self.shape.rate, shape.rate) {
            (Some(old), Some(new)) => now + (waiting * old / new) as u64,
            _ => now,
        };
        self.shape = shape;
    }

    /// When a frame of so many bytes that comes at `now` arrives; none: never.
    pub fn admit(&mut self, now: u64, bytes: usize) -> Option<u64> {
        let Shape { rate, buffer, delay, jitter, reorder, loss, cut } = self.shape;
        if cut {
            self.tally.cut += 1;
            return None;
        }
        let mut left = now;
        if let Some(rate) = rate {
            let begins = self.free_at.max(now);
            if begins - now > buffer.as_nanos() as u64 {
                self.tally.overflowed += 1;
                return None;
            }
            left = begins + (bytes as f64 * 8e9 / rate) as u64;
            self.free_at = left;
        }
        // What is lost at random has taken its room on the line.
        if loss > 0.0 && self.chance() < loss {
            self.tally.lost += 1;
            return None;
        }
        let more = if jitter.is_zero() { 0 } else { (self.chance() * jitter.as_nanos() as f64) as u64 };
        let mut due = left + delay.as_nanos() as u64 + more;
        if !reorder {
            due = due.max(self.last_due);
        }
        self.last_due = self.last_due.max(due);
        self.tally.frames += 1;
        self.tally.bytes += bytes as u64;
        Some(due)
    }

    /// Puts an admitted frame among those under way.
    pub fn push(&mut self, due: u64, frame: T) {
        let later = self.under_way.iter().rev().take_while(|(at, _)| *at > due).count();
        self.under_way.insert(self.under_way.len() - later, (due, frame));
    }

    /// The next frame that has arrived by `now`.
    pub fn pop(&mut self, now: u64) -> Option<T> {
        self.under_way.pop_front_if(|(due, _)| *due <= now).map(|(_, frame)| frame)
    }

    /// When the next frame arrives.
    pub fn next_due(&self) -> Option<u64> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// Evenly in 0..1. The step of splitmix64.
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const FRAME: usize = 1250;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// 10 Mbit/s: a frame of 1250 bytes takes one millisecond.
    fn slow() -> Shape {
        Shape { rate: Some(10e6), delay: ms(10), ..Shape::default() }
    }

    #[test]
    fn a_lone_frame_takes_its_own_length_and_the_delay() {
        let mut pipe = Pipe::<()>::new(slow(), 1);
        assert_eq!(pipe.admit(5 * MS, FRAME), Some(16 * MS));
        assert_eq!(pipe.admit(100 * MS, FRAME), Some(111 * MS), "the line was idle since");
        let mut wire = Pipe::<()>::new(Shape::default(), 1);
        assert_eq!(wire.admit(7, 60_000), Some(7));
    }

    #[test]
    fn frames_leave_at_the_rate_and_the_full_buffer_drops_the_newest() {
        let mut pipe = Pipe::<()>::new(slow(), 1);
        let dues: Vec<u64> = (0..200).filter_map(|_| pipe.admit(0, FRAME)).collect();
        // One on the line, 50 ms of them waiting.
        assert_eq!(dues.len(), 51);
        assert!(dues.windows(2).all(|pair| pair[1] - pair[0] == MS));
        assert_eq!((pipe.tally.frames, pipe.tally.bytes, pipe.tally.overflowed), (51, 51 * 1250, 149));
        assert!(pipe.admit(MS / 2, FRAME).is_none() && pipe.admit(MS, FRAME).is_some(), "one has left, one may come");
    }

    #[test]
    fn twice_the_rate_offered_for_a_second_leaves_one_second_of_the_rate_and_one_buffer() {
        let mut pipe = Pipe::<()>::new(slow(), 1);
        let arrived = (0..2000).filter(|n| pipe.admit(n * MS / 2, FRAME).is_some()).count();
        assert!((1048..=1052).contains(&arrived), "{arrived}");
    }

    #[test]
    fn what_waits_leaves_at_the_new_rate() {
        let mut pipe = Pipe::<()>::new(slow(), 1);
        assert!((0..20).all(|_| pipe.admit(0, FRAME).is_some()));
        pipe.reshape(10 * MS, Shape { rate: Some(5e6), ..slow() });
        // 10 ms of the old rate are 20 ms of the new one, two milliseconds for the frame itself.
        assert_eq!(pipe.admit(10 * MS, FRAME), Some(42 * MS));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_overtakes_only_if_permitted() {
        let shape = Shape { delay: ms(10), jitter: ms(5), ..Shape::default() };
        let run = |shape| -> Vec<u64> {
            let mut pipe = Pipe::<()>::new(shape, 7);
            (0..1000).map(|n| pipe.admit(n * MS / 10, FRAME).unwrap() - n * MS / 10).collect()
        };
        let overtakers = |took: &[u64]| {
            let due: Vec<u64> = took.iter().zip(0u64..).map(|(took, n)| took + n * MS / 10).collect();
            due.windows(2).filter(|pair| pair[1] < pair[0]).count()
        };
        let (kept, free) = (run(shape), run(Shape { reorder: true, ..shape }));
        assert!(kept.iter().chain(&free).all(|took| (10 * MS..15 * MS).contains(took)));
        assert_eq!(overtakers(&kept), 0);
        assert!(overtakers(&free) > 300);
    }

    #[test]
    fn loss_is_its_share_and_the_same_for_the_same_seed() {
        let count = |seed| {
            let mut pipe = Pipe::<()>::new(Shape { loss: 0.3, ..Shape::default() }, seed);
            let arrived = (0..100_000).filter(|n| pipe.admit(*n, FRAME).is_some()).count() as u64;
            assert_eq!(pipe.tally.lost + arrived, 100_000);
            pipe.tally.lost
        };
        assert!((29_400..=30_600).contains(&count(1)), "{}", count(1));
        assert_eq!(count(1), count(1));
        assert_ne!(count(1), count(2));
    }

    #[test]
    fn a_cut_swallows_what_comes_and_spares_what_is_under_way() {
        let mut pipe = Pipe::new(slow(), 1);
        let due = pipe.admit(0, FRAME).unwrap();
        pipe.push(due, "before");
        pipe.reshape(MS, Shape { cut: true, ..slow() });
        assert_eq!((pipe.admit(2 * MS, FRAME), pipe.tally.cut), (None, 1));
        assert_eq!((pipe.pop(due - 1), pipe.pop(due), pipe.pop(u64::MAX)), (None, Some("before"), None));
    }

    #[test]
    fn frames_come_out_by_their_due_times() {
        let mut pipe = Pipe::new(Shape::default(), 1);
        for (due, frame) in [(30, 'c'), (10, 'a'), (40, 'd'), (30, 'e'), (20, 'b')] {
            pipe.push(due, frame);
        }
        assert_eq!(pipe.next_due(), Some(10));
        let out: String = std::iter::from_fn(|| pipe.pop(35)).collect();
        assert_eq!((out.as_str(), pipe.next_due()), ("abce", Some(40)));
    }
}
