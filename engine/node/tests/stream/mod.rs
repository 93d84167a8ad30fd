//! A stream of numbered frames between two members, and what came of it. It knows nothing of what happens to their lines.

use crate::lab::Lab;

/// What leaf 1 got of leaf 0, and the other way round.
#[derive(Debug, Default)]
pub struct Got {
    pub sent: u32,
    /// Number and time of arrival, ms since the stream began.
    pub arrivals: Vec<(u32, u64)>,
}

impl Got {
    pub fn lost(&self) -> usize {
        (0..self.sent).filter(|n| !self.arrivals.iter().any(|(number, _)| number == n)).count()
    }

    pub fn twice(&self) -> usize {
        let mut numbers: Vec<u32> = self.arrivals.iter().map(|(n, _)| *n).collect();
        numbers.sort();
        numbers.windows(2).filter(|w| w[0] == w[1]).count()
    }
}

/// A frame each way, or only from leaf 0, every millisecond for `ms`; before each `happens` is called with the time.
pub fn stream(lab: &mut Lab, ms: u64, both: bool, mut happens: impl FnMut(&mut Lab, u64)) -> [Got; 2] {
    const DRAIN_MS: u64 = 300;
    let stacks = [lab.stack(0), lab.stack(1)];
    let mut got = [Got::default(), Got::default()];
    for &leaf in &lab.leaves {
        lab.world.host_mut(leaf).delivered.clear();
        lab.world.host_mut(leaf).plan.clear();
    }
    for t in 0..ms + DRAIN_MS {
        happens(lab, t);
        for from in (0..2).filter(|from| t < ms && (both || *from == 0)) {
            let mut ip = vec![0; 24];
            (ip[0], ip[9]) = (0x45, 253); // RFC 3692: for experiments
            ip[20..].copy_from_slice(&(t as u32).to_be_bytes());
            let frame = sim::ethernet(stacks[1 - from].mac, stacks[from].mac, 0x0800, &ip);
            lab.world.tap(lab.leaves[from], lab.network, &frame);
            got[from].sent += 1;
        }
        lab.world.run_ms(1);
        for to in 0..2 {
            for (_, frame) in std::mem::take(&mut lab.world.host_mut(lab.leaves[to]).delivered) {
                if frame.len() == 38 && frame[23] == 253 {
                    got[1 - to].arrivals.push((u32::from_be_bytes(frame[34..].try_into().unwrap()), t));
                }
            }
        }
    }
    got
}
