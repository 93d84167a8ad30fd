//! The tables of packet IDs behind QOS_MEASUREMENT, as a stock node keeps them: in order of ID, first come.
// spec: bonding, "QoS measurement"

use wire::message::qos::{QOS_MAX, QOS_MIN, QOS_RECORDS, QosRecord};

use crate::limits::QOS_PENDING_MAX;

/// IDs with the time at which they were sent or received, ms.
#[derive(Clone, Debug, Default)]
pub struct Table {
    ids: Vec<(u64, u64)>,
}

impl Table {
    /// Remembers one. False when the table is full.
    pub fn insert(&mut self, id: u64, at_ms: u64) -> bool {
        match self.ids.binary_search_by_key(&id, |e| e.0) {
            Ok(i) => self.ids[i].1 = at_ms,
            Err(_) if self.ids.len() >= QOS_PENDING_MAX => return false,
            Err(i) => self.ids.insert(i, (id, at_ms)),
        }
        true
    }

    /// Takes one out.
    pub fn remove(&mut self, id: u64) -> Option<u64> {
        let i = self.ids.binary_search_by_key(&id, |e| e.0).ok()?;
        Some(self.ids.remove(i).1)
    }

    /// Forgets what is older than `max_age_ms`.
    pub fn expire(&mut self, now_ms: u64, max_age_ms: u64) {
        self.ids.retain(|e| now_ms.saturating_sub(e.1) <= max_age_ms);
    }

    /// IDs in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids.iter().map(|e| e.0)
    }

    /// Takes the records of one report out: those with the smallest IDs. `taken` is how many were noted since the last report.
    pub fn report(&mut self, now_ms: u64, taken: usize) -> Vec<QosRecord> {
        let n = taken.min(QOS_RECORDS).min(self.ids.len());
        self.ids
            .drain(..n)
            .map(|(packet_id, at)| QosRecord { packet_id, holding_ms: now_ms.wrapping_sub(at) as u16 })
            .collect()
    }

    /// What a report about our packets says about latency, ms, sample by sample. A negative one becomes a large one, as there.
    pub fn samples(&mut self, now_ms: u64, records: impl IntoIterator<Item = QosRecord>, mut sample: impl FnMut(u16)) {
        for record in records {
            if let Some(sent) = self.remove(record.packet_id) {
                let round = i32::from(now_ms.wrapping_sub(sent) as u16) - i32::from(record.holding_ms);
                sample((round / 2) as u16);
            }
        }
    }
}

/// The whole records of a payload. None if its length is refused. A record cut off at the end is left out.
pub fn records(payload: &[u8]) -> Option<impl Iterator<Item = QosRecord> + '_> {
    (QOS_MIN..=QOS_MAX).contains(&payload.len()).then(|| {
        payload.as_chunks::<{ QosRecord::LEN }>().0.iter().map(|&[a, b, c, d, e, f, g, h, i, j]| QosRecord {
            packet_id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            holding_ms: u16::from_le_bytes([i, j]),
        })
    })
}
