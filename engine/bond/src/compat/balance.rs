//! Which path of the bonded set a packet or a new flow takes.
// spec: bonding, "balance-rr", "balance-xor", "balance-aware"

/// balance-rr: packets in turn.
#[derive(Clone, Copy, Debug)]
pub struct RoundRobin {
    position: usize,
    used: u32,
    packets_per_link: u32,
}

impl RoundRobin {
    /// After a rebuild of the set: the first packet moves on, so the first turn is the second path's.
    pub fn new(packets_per_link: u32) -> RoundRobin {
        RoundRobin { position: 0, used: packets_per_link, packets_per_link }
    }

    /// The bonded index of the next packet in a set of `n`. A turn has one packet more than asked for (defect B16, recorded).
    pub fn next(&mut self, n: usize, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        if n == 0 {
            return None;
        }
        self.position %= n;
        if self.used < self.packets_per_link {
            self.used += 1;
        } else {
            self.used = 0;
            let others = (1..n).map(|k| (self.position + k) % n);
            self.position = others.into_iter().find(|i| eligible(*i)).unwrap_or(self.position);
        }
        Some(self.position)
    }
}

/// balance-xor: the bonded index of a flow in a set of `n`. Since Linux gives outgoing connections ports of one parity, the
/// connections to one server port are all on one of two paths (defect B9, recorded).
pub fn xor(flow: u16, n: usize) -> Option<usize> {
    usize::from(flow).checked_rem(n)
}

/// One path of the set, as balance-aware looks at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Beyond a limit.
    pub avoid: bool,
    /// Share of the largest capacity. None: no link has one.
    pub capacity: Option<f32>,
    /// Share of the sum.
    pub quality: f32,
}

/// balance-aware: the bonded index of a new flow. `random` gives bytes. Where the reference finds none (defect B2: it then
/// relays), the first draw is taken.
pub fn aware(candidates: &[Candidate], mut random: impl FnMut() -> u8) -> Option<usize> {
    let n = candidates.len();
    if n == 0 {
        return None;
    }
    random();
    let r = f32::from(random()) / 255.0;
    let (mut best, mut best_quality, mut first) = (None, 0.0, None);
    for k in 0..n {
        let i = (usize::from(random()) + k) % n;
        let c = candidates[i];
        first.get_or_insert(i);
        // Without capacities all are equal, which is what an operator who gave none means.
        if !c.avoid && r <= c.capacity.unwrap_or(1.0) {
            return Some(i);
        }
        if c.quality > best_quality {
            (best, best_quality) = (Some(i), c.quality);
        }
    }
    best.or(first)
}
