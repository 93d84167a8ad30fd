//! ECHO (0x08): asks for the same bytes back. OK(ECHO) has them after its reply prefix.
//!
//! ```text
//! 0
//! +- - - - - - - -+
//! | anything      |
//! +- - - - - - - -+
//! ```
// spec: wire, "ECHO (0x08)"

use crate::read::Malformed;

/// What is to come back; empty in keep-alives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Anything.
    pub content: &'a [u8],
}

impl<'a> Echo<'a> {
    /// The whole payload. Never malformed.
    pub fn parse(payload: &'a [u8]) -> Result<Echo<'a>, Malformed> {
        Ok(Echo { content: payload })
    }

    /// Writes the content.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.content);
    }
}
