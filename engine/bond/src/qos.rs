//! Timing reports: what ours say, the newest packets that came over a path and how long ago; and what those of others tell,
//! the mean and the spread of one path's latency, from the newest samples.
// spec: bonding, "QoS measurement", "What is computed"

use wire::message::qos::{QOS_RECORDS, QosRecord};

use crate::limits::{QOS_RECORDS_OURS, SAMPLES_MAX, SAMPLES_MIN};

const _: () = assert!(QOS_RECORDS_OURS <= QOS_RECORDS);

/// Half of all packets are reported: those with an odd ID. // spec: bonding, "Which packets are sampled"
pub fn is_sampled(packet_id: u64) -> bool {
    packet_id & 1 == 1
}

/// The newest packets that came over one path and were not reported yet: ID, and when in us.
#[derive(Clone, Debug)]
pub struct Arrivals<const N: usize = QOS_RECORDS_OURS> {
    ring: [(u64, u64); N],
    next: usize,
    len: usize,
}

impl<const N: usize> Default for Arrivals<N> {
    fn default() -> Self {
        Arrivals { ring: [(0, 0); N], next: 0, len: 0 }
    }
}

impl<const N: usize> Arrivals<N> {
    /// One more came. False if an older one went for it.
    pub fn note(&mut self, packet_id: u64, at_us: u64) -> bool {
        if let Some(slot) = self.ring.get_mut(self.next) {
            *slot = (packet_id, at_us);
        }
        self.next = if self.next + 1 < N { self.next + 1 } else { 0 };
        let room = self.len < N;
        self.len += usize::from(room);
        room
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// This one is among them.
    pub fn contains(&self, packet_id: u64) -> bool {
        self.iter().any(|(id, _)| id == packet_id)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        let (newer, older) = self.ring.split_at(self.next);
        let wrapped = self.len.saturating_sub(self.next);
        older[older.len() - wrapped..].iter().chain(&newer[newer.len() - (self.len - wrapped)..]).copied()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The newest `max` in order of ID, as V1 writes them, and how long they were held. The others are forgotten.
    pub fn report(&mut self, now_us: u64, max: usize) -> Vec<QosRecord> {
        let held = |at_us| (now_us.saturating_sub(at_us) / 1000) as u16; // modulo 65536, as it is meant
        let newest = self.iter().rev().take(max.min(QOS_RECORDS));
        let mut records: Vec<_> =
            newest.map(|(packet_id, at_us)| QosRecord { packet_id, holding_ms: held(at_us) }).collect();
        records.sort_unstable_by_key(|record| record.packet_id);
        self.clear();
        records
    }
}

/// The newest [`SAMPLES_MAX`] samples.
#[derive(Clone, Debug)]
pub struct Window {
    samples: [f32; SAMPLES_MAX],
    next: usize,
    len: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { samples: [0.0; SAMPLES_MAX], next: 0, len: 0 }
    }
}

impl Window {
    /// One more, in ms. What is no number is none.
    pub fn push(&mut self, ms: f32) {
        if ms.is_finite() && ms >= 0.0 {
            self.samples[self.next] = ms;
            self.next = (self.next + 1) % SAMPLES_MAX;
            self.len = (self.len + 1).min(SAMPLES_MAX);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Mean, ms. None before there are [`SAMPLES_MIN`].
    pub fn mean(&self) -> Option<f32> {
        let samples = self.filled()?;
        Some(samples.iter().sum::<f32>() / samples.len() as f32)
    }

    /// Standard deviation of the sample ("PDV", "latency variance"), ms.
    pub fn deviation(&self) -> Option<f32> {
        let (samples, mean) = (self.filled()?, self.mean()?);
        let squares: f32 = samples.iter().map(|s| (s - mean) * (s - mean)).sum();
        Some((squares / (samples.len() - 1) as f32).sqrt())
    }

    fn filled(&self) -> Option<&[f32]> {
        (self.len >= SAMPLES_MIN).then(|| &self.samples[..self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_reported_once() {
        let mut arrivals = Arrivals::<4>::default();
        assert!((1..=4).all(|id| arrivals.note(id, id * 1000)));
        assert!(!arrivals.note(5, 5000), "an older one went");
        assert_eq!(arrivals.iter().collect::<Vec<_>>(), [(2, 2000), (3, 3000), (4, 4000), (5, 5000)]);
        assert!(arrivals.contains(2) && !arrivals.contains(1));
        let records = arrivals.report(6900, 3);
        let told: Vec<_> = records.iter().map(|r| (r.packet_id, r.holding_ms)).collect();
        assert_eq!(told, [(3, 3), (4, 2), (5, 1)]);
        assert!(arrivals.is_empty() && arrivals.report(7000, 3).is_empty());
        assert!(arrivals.note(6, 6000) && arrivals.note(7, 7000));
        assert_eq!(arrivals.iter().collect::<Vec<_>>(), [(6, 6000), (7, 7000)]);
    }

    #[test]
    fn a_holding_time_is_never_negative_and_counts_modulo_65536() {
        let mut arrivals = Arrivals::<2>::default();
        arrivals.note(1, 5000);
        arrivals.note(3, 70_000_000);
        let held: Vec<_> = arrivals.report(4000 + 65_536_000 + 1000, 2).iter().map(|r| r.holding_ms).collect();
        assert_eq!(held, [0, 0]);
    }
}
