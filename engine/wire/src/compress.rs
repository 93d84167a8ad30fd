//! LZ4 blocks for payloads. What decides which packets are worth compressing lives elsewhere.
// spec: wire, "Compression"

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::packet::MAX_PAYLOAD;
use crate::read::Malformed;

/// Payloads of this many bytes or fewer are never compressed.
pub const COMPRESS_MIN: usize = 64;

/// The payload as an LZ4 block, if that is shorter; set the packet's compressed flag then.
pub fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() <= COMPRESS_MIN {
        return None;
    }
    let mut block = vec![0; get_maximum_output_size(payload.len())];
    let len = compress_into(payload, &mut block).ok()?;
    block.truncate(len);
    (len < payload.len()).then_some(block)
}

/// Puts the payload that `block` stands for into `out`, 1 to [`MAX_PAYLOAD`] bytes. An empty block is an empty payload
/// whose flag means nothing. What `out` held before is gone, also on error.
pub fn decompress(block: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.clear();
    if block.is_empty() {
        return Ok(());
    }
    out.resize(MAX_PAYLOAD, 0);
    let len = decompress_into(block, out).unwrap_or(0);
    out.truncate(len);
    if len == 0 { Err(Malformed { what: "compressed payload" }) } else { Ok(()) }
}
