//! ACK (0x12), QOS_MEASUREMENT (0x13), PATH_NEGOTIATION_REQUEST (0x16): measuring paths and agreeing on one. All are
//! sent authenticated in clear.
//!
//! ```text
//! ACK                       0         4        QOS_MEASUREMENT           0           8      10
//!                           +---------+        (records to the end,      +-----------+------+- - -
//!                           | bytes   |         little-endian)           | packet id | held | ...
//!                           +---------+                                  +-----------+------+- - -
//! PATH_NEGOTIATION_REQUEST  0         2
//!                           +---------+
//!                           | utility |  signed
//!                           +---------+
//! ```
// spec: wire, "ACK (0x12)", "QOS_MEASUREMENT (0x13)", "PATH_NEGOTIATION_REQUEST (0x16)"

use crate::read::{Malformed, Reader};

/// Smallest QOS_MEASUREMENT payload that the reference accepts, bytes. Ours are at least one record.
pub const QOS_MIN: usize = 9;
/// Largest QOS_MEASUREMENT payload, bytes.
pub const QOS_MAX: usize = 1400;
/// Records per QOS_MEASUREMENT at most.
pub const QOS_RECORDS: usize = 140;

/// Bytes received since the last ACK. Sent by 1.4 to 1.6 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Bytes.
    pub bytes: u32,
}

impl Ack {
    /// Reads exactly 4 bytes.
    pub fn parse(payload: &[u8]) -> Result<Ack, Malformed> {
        exactly(payload, "ack").map(|b| Ack { bytes: u32::from_be_bytes(b) })
    }

    /// Writes the 4 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes.to_be_bytes());
    }
}

/// How long one received packet was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QosRecord {
    /// Its ID as in its header.
    pub packet_id: u64,
    /// From its reception to this report, ms modulo 65536.
    pub holding_ms: u16,
}

impl QosRecord {
    /// Bytes of one record.
    pub const LEN: usize = 10;
}

/// A report about received packets. Every field is little-endian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QosMeasurement {
    /// At most [`QOS_RECORDS`].
    pub records: Vec<QosRecord>,
}

impl QosMeasurement {
    /// Reads 1 to [`QOS_RECORDS`] whole records.
    pub fn parse(payload: &[u8]) -> Result<QosMeasurement, Malformed> {
        let (chunks, rest) = payload.as_chunks::<{ QosRecord::LEN }>();
        if payload.len() < QOS_MIN || payload.len() > QOS_MAX || !rest.is_empty() {
            return Err(Malformed { what: "qos measurement length" });
        }
        let record = |[a, b, c, d, e, f, g, h, i, j]: [u8; QosRecord::LEN]| QosRecord {
            packet_id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            holding_ms: u16::from_le_bytes([i, j]),
        };
        Ok(QosMeasurement { records: chunks.iter().copied().map(record).collect() })
    }

    /// Writes the records, the first [`QOS_RECORDS`] at most.
    pub fn write(&self, out: &mut Vec<u8>) {
        for record in self.records.iter().take(QOS_RECORDS) {
            out.extend_from_slice(&record.packet_id.to_le_bytes());
            out.extend_from_slice(&record.holding_ms.to_le_bytes());
        }
    }
}

/// How much the sender would gain if both directions used this path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathNegotiation {
    /// Score of the wanted path less that of the present one.
    pub utility: i16,
}

impl PathNegotiation {
    /// Reads exactly 2 bytes.
    pub fn parse(payload: &[u8]) -> Result<PathNegotiation, Malformed> {
        exactly(payload, "path negotiation").map(|b| PathNegotiation { utility: i16::from_be_bytes(b) })
    }

    /// Writes the 2 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.utility.to_be_bytes());
    }
}

fn exactly<const N: usize>(payload: &[u8], what: &'static str) -> Result<[u8; N], Malformed> {
    let r = &mut Reader::new(payload);
    let bytes = r.array(what)?;
    if r.is_empty() { Ok(bytes) } else { Err(Malformed { what }) }
}
