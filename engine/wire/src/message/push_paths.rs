//! PUSH_DIRECT_PATHS (0x10): tells a peer where we can be reached. Not the InetAddress encoding: the length byte
//! includes the port.
//!
//! ```text
//! 0       2
//! +-------+- - - - - -   records:   0       1    3    3+e    4+e   5+e
//! | count | records ...             +-------+----+----+------+-----+----------+------+
//! +-------+- - - - - -              | flags |  e | ext| type | len | ip 4/16  | port |
//!                                   +-------+----+----+------+-----+----------+------+
//! ```
// spec: wire, "PUSH_DIRECT_PATHS (0x10)"

use std::net::SocketAddr;

use crate::endpoint;
use crate::read::{Malformed, Reader};

/// Payload bytes at which the reference closes a packet. Ours too: one datagram on any path.
pub const PUSH_MAX_BYTES: usize = 1200;

/// One place where the sender can be reached: 11 or 23 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathRecord {
    /// [`PathRecord::FORGET`], [`PathRecord::CLUSTER_REDIRECT`] or 0.
    pub flags: u8,
    /// The place.
    pub endpoint: SocketAddr,
}

impl PathRecord {
    /// Flag: do not use this path any more. Receivers ignore such records.
    pub const FORGET: u8 = 0x01;
    /// Flag: use this path instead of the one this came over.
    pub const CLUSTER_REDIRECT: u8 = 0x02;

    /// The records of a payload, one after the other.
    pub fn records(payload: &[u8]) -> PathRecords<'_> {
        PathRecords::new(payload)
    }

    /// Bytes on the wire.
    pub fn len_on_wire(&self) -> usize {
        if self.endpoint.is_ipv4() { 11 } else { 23 }
    }

    /// Writes a whole payload with these records; the caller keeps it within [`PUSH_MAX_BYTES`].
    pub fn write_all(records: &[PathRecord], out: &mut Vec<u8>) {
        out.extend_from_slice(&(records.len() as u16).to_be_bytes());
        records.iter().for_each(|record| record.write(out));
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.flags, 0, 0]);
        out.extend_from_slice(if self.endpoint.is_ipv4() { &[4, 6] } else { &[6, 18] });
        endpoint::write_ip(self.endpoint.ip(), out);
        out.extend_from_slice(&self.endpoint.port().to_be_bytes());
    }
}

/// Yields the records of a PUSH_DIRECT_PATHS; what does not fit is an error after the ones before it, which count.
/// Records of an unknown address type are skipped.
#[derive(Clone, Debug)]
pub struct PathRecords<'a> {
    rest: Reader<'a>,
    /// None until the count itself has been read.
    left: Option<u16>,
}

impl<'a> PathRecords<'a> {
    fn new(payload: &'a [u8]) -> PathRecords<'a> {
        PathRecords { rest: Reader::new(payload), left: None }
    }

    fn read(&mut self) -> Result<Option<PathRecord>, Malformed> {
        let r = &mut self.rest;
        let mut left = match self.left {
            Some(left) => left,
            None => r.u16("path count")?,
        };
        while left > 0 {
            left -= 1;
            self.left = Some(left);
            if let Some(record) = read_record(r)? {
                return Ok(Some(record));
            }
        }
        self.left = Some(0);
        Ok(None)
    }
}

fn read_record(r: &mut Reader<'_>) -> Result<Option<PathRecord>, Malformed> {
    let flags = r.u8("path flags")?;
    let extension = r.u16("path extension length")?;
    r.take(usize::from(extension), "path extension")?;
    let kind = r.u8("path address type")?;
    let len = r.u8("path address length")?;
    let address = &mut Reader::new(r.take(usize::from(len), "path address")?);
    let ip = match (kind, len) {
        (4, 6) => endpoint::read_v4(address)?,
        (6, 18) => endpoint::read_v6(address)?,
        (4 | 6, _) => return Err(Malformed { what: "path address length" }),
        _ => return Ok(None),
    };
    Ok(Some(PathRecord { flags, endpoint: SocketAddr::new(ip, address.u16("path port")?) }))
}

impl Iterator for PathRecords<'_> {
    type Item = Result<PathRecord, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.left = Some(0);
        }
        item
    }
}
