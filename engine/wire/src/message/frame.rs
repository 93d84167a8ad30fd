//! FRAME (0x06) and EXT_FRAME (0x07): Ethernet frames to one member.
//!
//! ```text
//! FRAME      0         8           10
//!            +---------+-----------+---------+
//!            | network | ethertype | payload |
//!            +---------+-----------+---------+
//! EXT_FRAME  0         8       9           +6    +12          +14
//!            +---------+-------+- - - -+----+------+-----------+---------+
//!            | network | flags | (COM) | to | from | ethertype | payload |
//!            +---------+-------+- - - -+----+------+-----------+---------+
//! ```
// spec: wire, "FRAME (0x06)", "EXT_FRAME (0x07)"

use crate::address::{Mac, NetworkId};
use crate::credential::Com;
use crate::read::{Malformed, Reader};

/// A frame between the two members' own MACs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The network it travels on.
    pub network: NetworkId,
    /// EtherType.
    pub ethertype: u16,
    /// What follows the Ethernet header; may be empty, then nothing is delivered.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Bytes before the Ethernet payload.
    pub const HEADER_LEN: usize = 10;

    /// Reads a frame.
    pub fn parse(payload: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        Ok(Frame { network: NetworkId::read(r)?, ethertype: r.u16("ethertype")?, payload: r.rest() })
    }

    /// The bytes before the Ethernet payload, for senders that encrypt while copying.
    pub fn header(network: NetworkId, ethertype: u16) -> [u8; Frame::HEADER_LEN] {
        let mut header = [0; Frame::HEADER_LEN];
        header[..8].copy_from_slice(&network.0.to_be_bytes());
        header[8..].copy_from_slice(&ethertype.to_be_bytes());
        header
    }

    /// Writes the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&Frame::header(self.network, self.ethertype));
        out.extend_from_slice(self.payload);
    }
}

/// Why an EXT_FRAME was sent: bits 1 to 3 of its flags. Receivers do not act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameCopy {
    /// The frame itself.
    Normal = 0,
    /// Copy by a TEE rule of the sender.
    TeeOutbound = 1,
    /// Sent here instead of to its destination.
    RedirectOutbound = 2,
    /// Copy by a WATCH rule of the sender.
    WatchOutbound = 3,
    /// Copy by a TEE rule of the receiver.
    TeeInbound = 4,
    /// Passed on by a REDIRECT rule of the receiver.
    RedirectInbound = 5,
    /// Copy by a WATCH rule of the receiver.
    WatchInbound = 6,
}

impl FrameCopy {
    /// The flags byte the reference sends with such a frame: WATCH asks for acknowledgement.
    pub const fn flags(self) -> u8 {
        let ack = match self {
            FrameCopy::WatchOutbound | FrameCopy::WatchInbound => ExtFrame::ACK,
            _ => 0,
        };
        (self as u8) << 1 | ack
    }
}

/// A frame with explicit MACs: bridged, or sent by a TEE, WATCH or REDIRECT rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtFrame<'a> {
    /// The network it travels on.
    pub network: NetworkId,
    /// [`ExtFrame::ACK`] and the bits of a [`FrameCopy`]. [`ExtFrame::INLINE_COM`] follows from `com` when writing.
    pub flags: u8,
    /// The sender's certificate, inline; not sent since 1.2.
    pub com: Option<Com>,
    /// Destination MAC.
    pub to: Mac,
    /// Source MAC.
    pub from: Mac,
    /// EtherType.
    pub ethertype: u16,
    /// What follows the Ethernet header.
    pub payload: &'a [u8],
}

impl<'a> ExtFrame<'a> {
    /// Flag: an inline certificate follows.
    pub const INLINE_COM: u8 = 0x01;
    /// Flags: an [`OrderMark`](super::OrderMark) follows the payload. To receivers it is a WATCH copy.
    pub const MARKED: u8 = 0x06;
    /// Flag: the receiver shall answer OK.
    pub const ACK: u8 = 0x10;
    /// Bytes before the Ethernet payload, without a certificate.
    pub const HEADER_LEN: usize = 23;

    /// Reads a frame.
    pub fn parse(payload: &'a [u8]) -> Result<ExtFrame<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let network = NetworkId::read(r)?;
        let flags = r.u8("frame flags")?;
        let com = if flags & ExtFrame::INLINE_COM != 0 { Some(Com::read(r)?) } else { None };
        let (to, from) = (Mac::read(r)?, Mac::read(r)?);
        Ok(ExtFrame { network, flags, com, to, from, ethertype: r.u16("ethertype")?, payload: r.rest() })
    }

    /// An answer is wanted.
    pub const fn wants_ack(&self) -> bool {
        self.flags & ExtFrame::ACK != 0
    }

    /// It may have an [`OrderMark`](super::OrderMark).
    pub const fn is_marked(&self) -> bool {
        self.flags & !ExtFrame::ACK == ExtFrame::MARKED
    }

    /// Why it was sent; none for a number that has no meaning.
    pub const fn copy(&self) -> Option<FrameCopy> {
        Some(match self.flags >> 1 & 7 {
            0 => FrameCopy::Normal,
            1 => FrameCopy::TeeOutbound,
            2 => FrameCopy::RedirectOutbound,
            3 => FrameCopy::WatchOutbound,
            4 => FrameCopy::TeeInbound,
            5 => FrameCopy::RedirectInbound,
            6 => FrameCopy::WatchInbound,
            _ => return None,
        })
    }

    /// Writes the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.push(self.flags & !ExtFrame::INLINE_COM | if self.com.is_some() { ExtFrame::INLINE_COM } else { 0 });
        if let Some(com) = &self.com {
            com.write(out);
        }
        out.extend_from_slice(&self.to.0);
        out.extend_from_slice(&self.from.0);
        out.extend_from_slice(&self.ethertype.to_be_bytes());
        out.extend_from_slice(self.payload);
    }
}
