//! MULTICAST_LIKE (0x09), MULTICAST_GATHER (0x0d), MULTICAST_FRAME (0x0e): subscriptions, who has them, and frames to
//! them. A group is a MAC (6) and additional distinguishing information, ADI (4).
//!
//! ```text
//! LIKE    0         8       18
//!         +---------+-------+- - -  records of 18 bytes to the end
//!         | network | group | ...
//!         +---------+-------+- - -
//! GATHER  0         8       9       19      23
//!         +---------+-------+-------+-------+- - - -+
//!         | network | flags | group | limit | (COM) |
//!         +---------+-------+-------+-------+- - - -+
//! FRAME   0         8       9
//!         +---------+-------+- - - -+- - - - - -+- - - - -+-------+-----------+---------+
//!         | network | flags | (COM) | (limit 4) | (from 6)| group | ethertype | payload |
//!         +---------+-------+- - - -+- - - - - -+- - - - -+-------+-----------+---------+
//! ```
// spec: wire, "MULTICAST_LIKE (0x09)", "MULTICAST_GATHER (0x0d)", "MULTICAST_FRAME (0x0e)"

use crate::address::{Address, Mac, MulticastGroup, NetworkId};
use crate::credential::Com;
use crate::read::{Malformed, Reader};

pub(super) fn write_group(group: &MulticastGroup, out: &mut Vec<u8>) {
    out.extend_from_slice(&group.mac.0);
    out.extend_from_slice(&group.adi.to_be_bytes());
}

/// One subscription: the sender wants frames to this group of this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Like {
    /// The network.
    pub network: NetworkId,
    /// The group.
    pub group: MulticastGroup,
}

impl Like {
    /// Bytes of one record.
    pub const LEN: usize = 18;
    /// Records the reference puts into one packet at most.
    pub const MAX_PER_PACKET: usize = 554;

    /// The records of a payload, one after the other.
    pub fn records(payload: &[u8]) -> LikeRecords<'_> {
        LikeRecords { rest: Reader::new(payload) }
    }

    /// Writes one record.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        write_group(&self.group, out);
    }
}

/// Yields the records of a MULTICAST_LIKE; a partial last one is an error after the complete ones, which count.
#[derive(Clone, Debug)]
pub struct LikeRecords<'a> {
    rest: Reader<'a>,
}

impl Iterator for LikeRecords<'_> {
    type Item = Result<Like, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if self.rest.remaining() < Like::LEN {
            self.rest = Reader::new(&[]);
            return Some(Err(Malformed { what: "partial multicast like" }));
        }
        let r = &mut self.rest;
        Some(NetworkId::read(r).and_then(|network| Ok(Like { network, group: MulticastGroup::read(r)? })))
    }
}

/// Asks for members of a group: 23 bytes, 295 with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The network.
    pub network: NetworkId,
    /// The group.
    pub group: MulticastGroup,
    /// Most members wanted; 0 asks for nothing.
    pub limit: u32,
    /// The asker's certificate; a malformed one is ignored.
    pub com: Option<Com>,
}

impl Gather {
    const COM: u8 = 0x01;

    /// Reads a request; bytes after it are ignored.
    pub fn parse(payload: &[u8]) -> Result<Gather, Malformed> {
        let r = &mut Reader::new(payload);
        let network = NetworkId::read(r)?;
        let flags = r.u8("gather flags")?;
        let group = MulticastGroup::read(r)?;
        let limit = r.u32("gather limit")?;
        let com = if flags & Gather::COM != 0 { Com::read(r).ok() } else { None };
        Ok(Gather { network, group, limit, com })
    }

    /// Writes the request.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.push(if self.com.is_some() { Gather::COM } else { 0 });
        write_group(&self.group, out);
        out.extend_from_slice(&self.limit.to_be_bytes());
        if let Some(com) = &self.com {
            com.write(out);
        }
    }
}

/// Members of a group, as OK(MULTICAST_GATHER) and OK(MULTICAST_FRAME) name them.
///
/// ```text
/// 0       4       6
/// +-------+-------+-------------+
/// | total | count | count x 5   |
/// +-------+-------+-------------+
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Members the responder knows in all.
    pub total: u32,
    /// Some of them, at most 65535.
    pub members: Vec<Address>,
}

impl Gathered {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Gathered, Malformed> {
        let total = r.u32("gathered total")?;
        let count = usize::from(r.u16("gathered count")?);
        let list = &mut Reader::new(r.take(count * Address::LEN, "gathered members")?);
        let members = (0..count).map(|_| Address::read(list)).collect::<Result<_, _>>()?;
        Ok(Gathered { total, members })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let members = &self.members[..self.members.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&self.total.to_be_bytes());
        out.extend_from_slice(&(members.len() as u16).to_be_bytes());
        super::write_addresses(members, out);
    }
}

/// A frame to a multicast group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MulticastFrame<'a> {
    /// The network it travels on.
    pub network: NetworkId,
    /// The receiver is a replicator and shall pass it on.
    pub replicate: bool,
    /// The sender's certificate, inline; legacy.
    pub com: Option<Com>,
    /// Most further members that the receiver shall name in an OK.
    pub gather_limit: Option<u32>,
    /// Source MAC; none: the one that the packet's source has on this network.
    pub from: Option<Mac>,
    /// Destination.
    pub group: MulticastGroup,
    /// EtherType.
    pub ethertype: u16,
    /// What follows the Ethernet header: 1 to 10000 bytes, or nothing is delivered.
    pub payload: &'a [u8],
}

impl<'a> MulticastFrame<'a> {
    const COM: u8 = 0x01;
    const GATHER_LIMIT: u8 = 0x02;
    const FROM: u8 = 0x04;
    const REPLICATE: u8 = 0x08;

    /// Reads a frame.
    pub fn parse(payload: &'a [u8]) -> Result<MulticastFrame<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let network = NetworkId::read(r)?;
        let flags = r.u8("multicast frame flags")?;
        let has = |flag| flags & flag != 0;
        let com = if has(MulticastFrame::COM) { Some(Com::read(r)?) } else { None };
        let gather_limit = if has(MulticastFrame::GATHER_LIMIT) { Some(r.u32("gather limit")?) } else { None };
        let from = if has(MulticastFrame::FROM) { Some(Mac::read(r)?) } else { None };
        let group = MulticastGroup::read(r)?;
        let ethertype = r.u16("ethertype")?;
        let replicate = has(MulticastFrame::REPLICATE);
        Ok(MulticastFrame { network, replicate, com, gather_limit, from, group, ethertype, payload: r.rest() })
    }

    /// Writes the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flag = |present: bool, flag: u8| if present { flag } else { 0 };
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.push(
            flag(self.com.is_some(), MulticastFrame::COM)
                | flag(self.gather_limit.is_some(), MulticastFrame::GATHER_LIMIT)
                | flag(self.from.is_some(), MulticastFrame::FROM)
                | flag(self.replicate, MulticastFrame::REPLICATE),
        );
        if let Some(com) = &self.com {
            com.write(out);
        }
        if let Some(limit) = self.gather_limit {
            out.extend_from_slice(&limit.to_be_bytes());
        }
        if let Some(from) = self.from {
            out.extend_from_slice(&from.0);
        }
        write_group(&self.group, out);
        out.extend_from_slice(&self.ethertype.to_be_bytes());
        out.extend_from_slice(self.payload);
    }
}
