//! USER_MESSAGE (0x14) and REMOTE_TRACE (0x15): data for the application above, and telemetry.
//!
//! ```text
//! USER_MESSAGE  0      8                 REMOTE_TRACE
//!               +------+---------+       +------------+----+------------+----+- - -
//!               | kind | content |       | dictionary | 00 | dictionary | 00 | ...
//!               +------+---------+       +------------+----+------------+----+- - -
//! ```
// spec: wire, "USER_MESSAGE (0x14)", "REMOTE_TRACE (0x15)"

use crate::dictionary::TRACE_MAX;
use crate::read::{Malformed, Reader};

/// Opaque data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMessage<'a> {
    /// What it is; 0 to 65535 are reserved by ZeroTier.
    pub kind: u64,
    /// Anything.
    pub content: &'a [u8],
}

impl<'a> UserMessage<'a> {
    /// Reads a message.
    pub fn parse(payload: &'a [u8]) -> Result<UserMessage<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        Ok(UserMessage { kind: r.u64("user message type")?, content: r.rest() })
    }

    /// Writes the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(self.content);
    }
}

/// Telemetry: any number of dictionaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteTrace<'a> {
    /// None empty, none longer than [`TRACE_MAX`], none with a NUL.
    pub dictionaries: Vec<&'a [u8]>,
}

impl<'a> RemoteTrace<'a> {
    /// Reads the dictionaries. Empty and overlong ones are skipped, an unterminated last one is ignored; never
    /// malformed.
    pub fn parse(payload: &'a [u8]) -> Result<RemoteTrace<'a>, Malformed> {
        let terminated = payload.iter().rposition(|&b| b == 0).map_or(&[][..], |last| &payload[..last]);
        let dictionaries =
            terminated.split(|&b| b == 0).filter(|text| !text.is_empty() && text.len() <= TRACE_MAX).collect();
        Ok(RemoteTrace { dictionaries })
    }

    /// Writes the dictionaries, each with its NUL.
    pub fn write(&self, out: &mut Vec<u8>) {
        for dictionary in &self.dictionaries {
            out.extend_from_slice(dictionary);
            out.push(0);
        }
    }
}
