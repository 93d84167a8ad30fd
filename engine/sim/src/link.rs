//! How the way between two addresses behaves. Knows odds and delays; it decides nothing by itself but what the given
//! random source says.

use rand::Rng;

/// Delay, loss, repetition and disorder, the same both ways. Odds are in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One way, microseconds.
    pub delay_us: u64,
    /// Added at random, uniform, microseconds. More than the spacing of datagrams puts them out of order.
    pub jitter_us: u64,
    /// Datagrams lost.
    pub loss_ppm: u32,
    /// Datagrams that arrive twice.
    pub repeat_ppm: u32,
}

impl Link {
    /// Loses nothing and takes this long one way.
    pub const fn delay_ms(ms: u64) -> Link {
        Link { delay_us: ms * 1000, jitter_us: 0, loss_ppm: 0, repeat_ppm: 0 }
    }

    /// When the copies of one datagram arrive after it was sent, microseconds; none if it is lost.
    pub(crate) fn arrivals(&self, rng: &mut impl Rng) -> Vec<u64> {
        let mut happens = |ppm: u32| rng.next_u64() % 1_000_000 < u64::from(ppm);
        let (lost, repeated) = (happens(self.loss_ppm), happens(self.repeat_ppm));
        let copies = if lost { 0 } else { 1 + usize::from(repeated) };
        (0..copies).map(|_| self.delay_us + rng.next_u64() % (self.jitter_us + 1)).collect()
    }
}
