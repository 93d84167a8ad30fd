//! Salsa20/12 key stream in batches, from the vector units or from the crate, and its way onto bytes.

use salsa20::Salsa12;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use zeroize::{Zeroize, Zeroizing};

use crate::simd::{self, QUAD_LEN};

/// Quads of blocks made together: enough to keep vector units busy, few enough not to be a loss for a short packet.
const BATCH: usize = 2;
/// Bytes of a block.
pub const BLOCK: usize = 64;

/// Salsa20/12 key stream of one packet, made in batches.
pub struct KeyStream {
    source: Source,
    batch: [[u8; QUAD_LEN]; BATCH],
    used: usize,
    made: usize,
}

enum Source {
    Portable(Salsa12),
    Simd { salsa: simd::Salsa2012, key: Zeroizing<[u32; 8]>, nonce: [u32; 2], next_block: u32 },
}

impl KeyStream {
    /// On the vector units if there is `salsa`.
    pub fn new(key: &[u8; 32], nonce: &[u8; 8], salsa: Option<simd::Salsa2012>) -> KeyStream {
        let source = match salsa {
            Some(salsa) => Source::Simd { salsa, key: Zeroizing::new(words(key)), nonce: words(nonce), next_block: 0 },
            None => Source::Portable(Salsa12::new(key.into(), nonce.into())),
        };
        KeyStream { source, batch: [[0; QUAD_LEN]; BATCH], used: 0, made: 0 }
    }

    /// Makes key stream for `wanted` bytes, or as much as fits: whole blocks, or quads of them.
    fn refill(&mut self, wanted: usize) {
        self.used = 0;
        match &mut self.source {
            Source::Portable(stream) => {
                let batch = self.batch.as_flattened_mut();
                self.made = wanted.next_multiple_of(BLOCK).min(batch.len());
                stream.write_keystream(&mut batch[..self.made]);
            }
            Source::Simd { salsa, key, nonce, next_block } => {
                let quads = &mut self.batch[..wanted.div_ceil(QUAD_LEN).min(BATCH)];
                self.made = quads.as_flattened().len();
                salsa.write(key, nonce, *next_block, quads);
                *next_block = next_block.wrapping_add((self.made / BLOCK) as u32);
            }
        }
    }

    /// The next bytes of key stream, at most `wanted` and at least one of them; `later` more will be wanted.
    pub fn next(&mut self, wanted: usize, later: usize) -> &[u8] {
        if self.used == self.made {
            self.refill(wanted + later);
        }
        let from = self.used;
        self.used = self.made.min(from + wanted);
        &self.batch.as_flattened()[from..self.used]
    }

    pub fn apply(&mut self, mut data: &mut [u8]) {
        while !data.is_empty() {
            let key_stream = self.next(data.len(), 0);
            let (now, later) = data.split_at_mut(key_stream.len());
            for (byte, key) in now.iter_mut().zip(key_stream) {
                *byte ^= key;
            }
            data = later;
        }
    }

    /// Encrypts `plain` into `out`, which is as long.
    pub fn apply_copying(&mut self, mut plain: &[u8], mut out: &mut [u8]) {
        while !plain.is_empty() {
            let key_stream = self.next(plain.len(), 0);
            let (now, later) = out.split_at_mut(key_stream.len());
            let (plain_now, plain_later) = plain.split_at(key_stream.len());
            for ((byte, plain), key) in now.iter_mut().zip(plain_now).zip(key_stream) {
                *byte = plain ^ key;
            }
            (plain, out) = (plain_later, later);
        }
    }
}

impl Drop for KeyStream {
    fn drop(&mut self) {
        // The MAC key, if it is still there.
        self.batch[0][..32].zeroize();
    }
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    let words = bytes.as_chunks().0;
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}
