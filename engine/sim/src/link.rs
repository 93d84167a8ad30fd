//! How the way between two addresses behaves. Knows odds, delays and rates; it decides nothing by itself but what the
//! given random source says.

use rand::Rng;

/// Bytes of IP and UDP headers around a datagram, as far as rates and MTUs are concerned.
const HEADERS: usize = 28;

/// Delay, loss, repetition, disorder, rate and MTU, the same both ways. Odds are in parts per million.
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
    /// Datagrams that take twice the delay, so that others overtake them.
    pub reorder_ppm: u32,
    /// Bits per second each way, headers included; 0: any.
    pub rate_bps: u64,
    /// How long a datagram may wait for those before it; a longer queue is cut at its end. us
    pub queue_us: u64,
    /// Longest packet, headers included. What is longer is lost, and nobody is told.
    pub mtu: usize,
}

/// Why a datagram did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Odds,
    Queue,
    Mtu,
}

impl Link {
    /// Loses nothing and takes this long one way.
    pub const fn delay_ms(ms: u64) -> Link {
        Link {
            delay_us: ms * 1000,
            jitter_us: 0,
            loss_ppm: 0,
            repeat_ppm: 0,
            reorder_ppm: 0,
            rate_bps: 0,
            queue_us: 100_000,
            mtu: 1500,
        }
    }

    /// When the copies of one datagram of `len` bytes arrive. `busy_until_us` is when the last one before it, in the
    /// same direction, was out of the way.
    pub(crate) fn arrivals(
        &self,
        now_us: u64,
        len: usize,
        busy_until_us: &mut u64,
        rng: &mut impl Rng,
    ) -> Result<Vec<u64>, Loss> {
        if len + HEADERS > self.mtu {
            return Err(Loss::Mtu);
        }
        let begins_us = now_us.max(*busy_until_us);
        if begins_us - now_us > self.queue_us {
            return Err(Loss::Queue);
        }
        let sent_us = begins_us + ((len + HEADERS) as u64 * 8_000_000).checked_div(self.rate_bps).unwrap_or(0);
        *busy_until_us = sent_us;
        let mut happens = |ppm: u32| rng.next_u64() % 1_000_000 < u64::from(ppm);
        let (lost, repeated, late) = (happens(self.loss_ppm), happens(self.repeat_ppm), happens(self.reorder_ppm));
        if lost {
            return Err(Loss::Odds);
        }
        let delay_us = if late { 2 * self.delay_us } else { self.delay_us };
        let mut copy = || sent_us + delay_us + rng.next_u64() % (self.jitter_us + 1);
        Ok((0..1 + usize::from(repeated)).map(|_| copy()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Arrivals of `n` datagrams of 972 bytes (1000 on the way), sent 1 ms apart.
    fn arrivals(link: Link, n: u64) -> Vec<Result<Vec<u64>, Loss>> {
        let (mut rng, mut busy) = (StdRng::seed_from_u64(1), 0);
        (0..n).map(|i| link.arrivals(i * 1000, 972, &mut busy, &mut rng)).collect()
    }

    #[test]
    fn without_a_rate_a_datagram_takes_the_delay_and_no_more() {
        let all = arrivals(Link::delay_ms(10), 3);
        assert_eq!(all, [Ok(vec![10_000]), Ok(vec![11_000]), Ok(vec![12_000])]);
    }

    #[test]
    fn at_twice_the_rate_the_queue_grows_to_its_bound_and_then_half_is_lost() {
        // 1000 bytes in 2 ms.
        let link = Link { rate_bps: 4_000_000, queue_us: 20_000, ..Link::delay_ms(10) };
        let all = arrivals(link, 1000);
        assert_eq!(all[0], Ok(vec![12_000]));
        let lost = all.iter().filter(|a| **a == Err(Loss::Queue)).count();
        assert!((480..=500).contains(&lost), "{lost}");
        let came: Vec<u64> = all.into_iter().flatten().flatten().collect();
        assert!(came.windows(2).all(|w| w[1] - w[0] == 2000), "at the rate of the link");
    }

    #[test]
    fn what_is_longer_than_the_mtu_is_lost_and_takes_no_time() {
        let link = Link { mtu: 1000, rate_bps: 8_000_000, ..Link::delay_ms(1) };
        let (mut rng, mut busy) = (StdRng::seed_from_u64(1), 0);
        assert_eq!(link.arrivals(0, 973, &mut busy, &mut rng), Err(Loss::Mtu));
        assert_eq!(link.arrivals(0, 972, &mut busy, &mut rng), Ok(vec![2000]));
    }

    #[test]
    fn odds_are_kept() {
        let tenth = 100_000;
        let link = Link { loss_ppm: tenth, repeat_ppm: tenth, reorder_ppm: tenth, ..Link::delay_ms(10) };
        let all = arrivals(link, 10_000);
        let lost = all.iter().filter(|a| a.is_err()).count();
        let twice = all.iter().filter(|a| a.as_ref().is_ok_and(|a| a.len() == 2)).count();
        let is_late = |(a, i): &(&Result<Vec<u64>, Loss>, u64)| a.as_ref().is_ok_and(|a| a[0] == i * 1000 + 20_000);
        let late = all.iter().zip(0..).filter(is_late).count();
        assert!([lost, twice, late].iter().all(|n| (850..1150).contains(n)), "{lost} {twice} {late}");
    }

    #[test]
    fn jitter_stays_within_its_bound_and_disorders() {
        let all = arrivals(Link { jitter_us: 5000, ..Link::delay_ms(10) }, 1000);
        let came: Vec<u64> = all.into_iter().flatten().flatten().collect();
        assert!(came.iter().zip(0..).all(|(at, i)| (10_000..=15_000).contains(&(at - i * 1000))));
        assert!(!came.is_sorted());
    }
}
