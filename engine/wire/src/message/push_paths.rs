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

/// One place where the sender can be reached: 11 or 23 bytes and the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathRecord<'a> {
    /// [`PathRecord::FORGET`], [`PathRecord::CLUSTER_REDIRECT`] or 0.
    pub flags: u8,
    /// What receivers pass over that do not know it; see [`SpreadOffer`]. Empty in all that ZeroTierOne sends.
    pub extension: &'a [u8],
    /// The place.
    pub endpoint: SocketAddr,
}

impl<'a> PathRecord<'a> {
    /// Flag: do not use this path any more. Receivers ignore such records.
    pub const FORGET: u8 = 0x01;
    /// Flag: use this path instead of the one this came over.
    pub const CLUSTER_REDIRECT: u8 = 0x02;

    /// A plain record of this place.
    pub fn to(endpoint: SocketAddr) -> PathRecord<'static> {
        PathRecord { flags: 0, extension: &[], endpoint }
    }

    /// The records of a payload, one after the other.
    pub fn records(payload: &'a [u8]) -> PathRecords<'a> {
        PathRecords::new(payload)
    }

    /// Bytes on the wire.
    pub fn len_on_wire(&self) -> usize {
        self.extension.len() + if self.endpoint.is_ipv4() { 11 } else { 23 }
    }

    /// Writes a whole payload with these records; the caller keeps it within [`PUSH_MAX_BYTES`].
    pub fn write_all(records: &[PathRecord<'_>], out: &mut Vec<u8>) {
        out.extend_from_slice(&(records.len() as u16).to_be_bytes());
        records.iter().for_each(|record| record.write(out));
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.flags);
        out.extend_from_slice(&(self.extension.len() as u16).to_be_bytes());
        out.extend_from_slice(self.extension);
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

    fn read(&mut self) -> Result<Option<PathRecord<'a>>, Malformed> {
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

fn read_record<'a>(r: &mut Reader<'a>) -> Result<Option<PathRecord<'a>>, Malformed> {
    let flags = r.u8("path flags")?;
    let extension = r.u16("path extension length")?;
    let extension = r.take(usize::from(extension), "path extension")?;
    let kind = r.u8("path address type")?;
    let len = r.u8("path address length")?;
    let address = &mut Reader::new(r.take(usize::from(len), "path address")?);
    let ip = match (kind, len) {
        (4, 6) => endpoint::read_v4(address)?,
        (6, 18) => endpoint::read_v6(address)?,
        (4 | 6, _) => return Err(Malformed { what: "path address length" }),
        _ => return Ok(None),
    };
    Ok(Some(PathRecord { flags, extension, endpoint: SocketAddr::new(ip, address.u16("path port")?) }))
}

impl<'a> Iterator for PathRecords<'a> {
    type Item = Result<PathRecord<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.left = Some(0);
        }
        item
    }
}

/// How the NAT before a socket maps it, as its owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpreadNat {
    /// Nobody has told.
    Unknown,
    /// One port for all remotes, or no NAT at all.
    EndpointIndependent,
    /// A port for each remote.
    Symmetric,
}

/// Our own extension of a record: the sender offers a port spread, or takes up an offer. The record's place is where
/// upstreams see the socket that takes part.
///
/// ```text
/// 0       4         5       6     7         9       17
/// +-------+---------+-------+-----+---------+-------+
/// | magic | version | flags | nat | sockets | nonce |
/// +-------+---------+-------+-----+---------+-------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpreadOffer {
    /// It answers the offer with the same nonce.
    pub answer: bool,
    /// What the sender knows of its NAT.
    pub nat: SpreadNat,
    /// Sockets that the sender opens at most; 0: it only probes.
    pub sockets: u16,
    /// Names the offer.
    pub nonce: u64,
}

impl SpreadOffer {
    /// Bytes of an extension that is an offer.
    pub const LEN: usize = 17;
    const MAGIC: [u8; 4] = *b"Hwsp";
    const VERSION: u8 = 1;
    const ANSWER: u8 = 0x01;

    /// The offer in an extension, if it is one that we understand.
    pub fn parse(extension: &[u8]) -> Option<SpreadOffer> {
        let extension: &[u8; SpreadOffer::LEN] = extension.try_into().ok()?;
        let [m0, m1, m2, m3, version, flags, nat, s0, s1, nonce @ ..] = *extension;
        if [m0, m1, m2, m3] != SpreadOffer::MAGIC || version != SpreadOffer::VERSION {
            return None;
        }
        let nat = match nat {
            0 => SpreadNat::Unknown,
            1 => SpreadNat::EndpointIndependent,
            2 => SpreadNat::Symmetric,
            _ => return None,
        };
        let (answer, sockets) = (flags & SpreadOffer::ANSWER != 0, u16::from_be_bytes([s0, s1]));
        Some(SpreadOffer { answer, nat, sockets, nonce: u64::from_be_bytes(nonce) })
    }

    /// The extension.
    pub fn to_bytes(&self) -> [u8; SpreadOffer::LEN] {
        let [m0, m1, m2, m3] = SpreadOffer::MAGIC;
        let [s0, s1] = self.sockets.to_be_bytes();
        let mut out = [0; SpreadOffer::LEN];
        out[..9].copy_from_slice(&[
            m0,
            m1,
            m2,
            m3,
            SpreadOffer::VERSION,
            if self.answer { SpreadOffer::ANSWER } else { 0 },
            self.nat as u8,
            s0,
            s1,
        ]);
        out[9..].copy_from_slice(&self.nonce.to_be_bytes());
        out
    }
}
