//! NETWORK_CONFIG_REQUEST (0x0b): asks a controller for a network's configuration. The answer, and NETWORK_CONFIG
//! (0x0c), are a [`ConfigChunk`](crate::chunk::ConfigChunk).
//!
//! ```text
//! 0         8   10         10+d       18+d
//! +---------+---+----------+----------+-----------+
//! | network | d | metadata | revision | timestamp |
//! +---------+---+----------+----------+-----------+
//! ```
// spec: wire, "NETWORK_CONFIG_REQUEST (0x0b)"

use crate::address::NetworkId;
use crate::read::{Malformed, Reader};

/// A request for configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRequest<'a> {
    /// The network.
    pub network: NetworkId,
    /// A dictionary about the asker, at most [`METADATA_DICT`](crate::dictionary::METADATA_DICT) bytes from us.
    pub metadata: &'a [u8],
    /// Revision of the configuration held, 0 if none. Controllers ignore it.
    pub revision: u64,
    /// Timestamp of the configuration held, 0 if none. Controllers ignore it.
    pub timestamp: u64,
}

impl<'a> ConfigRequest<'a> {
    /// Reads a request. The last two fields may be missing; bytes after them are ignored.
    pub fn parse(payload: &'a [u8]) -> Result<ConfigRequest<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let network = NetworkId::read(r)?;
        let len = r.u16("metadata length")?;
        let metadata = r.take(usize::from(len), "metadata")?;
        let held = |r: &mut Reader<'_>| r.u64("configuration held").unwrap_or(0);
        Ok(ConfigRequest { network, metadata, revision: held(r), timestamp: held(r) })
    }

    /// Writes the request; metadata beyond 65535 bytes is cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let metadata = &self.metadata[..self.metadata.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&(metadata.len() as u16).to_be_bytes());
        out.extend_from_slice(metadata);
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
    }
}
