//! Suite 3's construction over bytes: the way to the vector units, and its twin made of crates.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipherCore};
use aes::{Aes256Dec, Aes256Enc};
use ctr::CtrCore;
use ctr::flavors::Ctr32BE;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::{BLOCK, Forged, halves};
use crate::simd::{self, Backend};

/// Key stream made in one go, blocks: 1536 bytes.
const STREAM_BLOCKS: usize = 96;

/// AES-GMAC-SIV with its two keys scheduled. // spec: wire, "Suite 3 (AES-GMAC-SIV), step by step"
#[derive(Clone)]
pub struct GmacSiv(Siv);

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and a packet pays for no indirection")]
enum Siv {
    Portable(PortableSiv),
    Simd(simd::GmacSiv),
}

impl GmacSiv {
    /// Schedules K0, which authenticates, and K1, which encrypts, for the best instructions there are.
    pub fn new(k0: &[u8; 32], k1: &[u8; 32]) -> GmacSiv {
        GmacSiv::with_backend(k0, k1, Backend::best())
    }

    /// Likewise, for given instructions; the portable ones if the processor does not have them.
    pub fn with_backend(k0: &[u8; 32], k1: &[u8; 32], backend: Backend) -> GmacSiv {
        GmacSiv(match simd::GmacSiv::new(k0, k1, backend) {
            Some(siv) => Siv::Simd(siv),
            None => Siv::Portable(PortableSiv::new(k0, k1)),
        })
    }

    /// Encrypts `data` in place, whose last bytes come from `payload`, and returns the tag: first half for the packet
    /// ID, second for the MAC field. `aad` is authenticated too.
    pub fn seal(&self, iv: [u8; 8], aad: &[u8], data: &mut [u8], payload: &[u8]) -> [u8; BLOCK] {
        match &self.0 {
            Siv::Portable(siv) => {
                let (first, rest) = data.split_at_mut(data.len() - payload.len());
                siv.seal(iv, aad, first, payload, rest)
            }
            Siv::Simd(siv) => siv.seal(iv, aad, data, payload),
        }
    }

    /// Decrypts in place; what does not authenticate is wiped and refused.
    pub fn open(&self, tag: [u8; BLOCK], aad: &[u8], data: &mut [u8]) -> Result<(), Forged> {
        let authentic = match &self.0 {
            Siv::Portable(siv) => siv.open(tag, aad, data),
            Siv::Simd(siv) => siv.open(&tag, aad, data),
        };
        if authentic {
            return Ok(());
        }
        data.zeroize();
        Err(Forged)
    }
}

impl fmt::Debug for GmacSiv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GmacSiv(secret)")
    }
}

/// The suite made of crates, for any processor.
#[derive(Clone)]
struct PortableSiv {
    gmac: Aes256Enc,
    hash: GHash,
    encrypt: Aes256Enc,
    decrypt: Aes256Dec,
}

impl PortableSiv {
    fn new(k0: &[u8; 32], k1: &[u8; 32]) -> PortableSiv {
        let gmac = Aes256Enc::new(k0.into());
        let mut h = Array::from([0; BLOCK]);
        gmac.encrypt_block(&mut h);
        let hash = GHash::new(&h);
        h.zeroize();
        PortableSiv { gmac, hash, encrypt: Aes256Enc::new(k1.into()), decrypt: Aes256Dec::new(k1.into()) }
    }

    /// GMAC with the nonce `iv || 0` over `aad`, zero-padded to whole blocks, and the plaintext, which is `first`
    /// followed by `rest`; then folded to 8 bytes.
    fn mac(&self, iv: [u8; 8], aad: &[u8], first: &[u8], rest: &[u8]) -> [u8; 8] {
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        let seam = first.len() - first.len() % BLOCK;
        let (whole, tail) = first.split_at(seam);
        hash.update_padded(whole);
        if tail.is_empty() {
            hash.update_padded(rest);
        } else {
            let mut block = [0; BLOCK];
            let fill = rest.len().min(BLOCK - tail.len());
            let (fill, rest) = rest.split_at(fill);
            block[..tail.len()].copy_from_slice(tail);
            block[tail.len()..tail.len() + fill.len()].copy_from_slice(fill);
            hash.update_padded(&block);
            hash.update_padded(rest);
        }
        let bytes = aad.len().next_multiple_of(BLOCK) + first.len() + rest.len();
        hash.update_padded(&(((bytes as u128) * 8) << 64).to_be_bytes());

        let mut pre_counter = Array::from([0; BLOCK]);
        pre_counter[..8].copy_from_slice(&iv);
        pre_counter[15] = 1;
        self.gmac.encrypt_block(&mut pre_counter);
        let tag = hash.finalize();
        std::array::from_fn(|i| tag[i] ^ tag[i + 8] ^ pre_counter[i] ^ pre_counter[i + 8])
    }

    /// XORs the key stream onto `first` in place, and onward onto `payload` into `out`. The block cipher prepares
    /// itself anew for every call, so one call makes as many blocks as a packet of one datagram takes.
    fn apply_key_stream(&self, tag: &[u8; BLOCK], first: &mut [u8], payload: &[u8], out: &mut [u8]) {
        let mut counter = *tag;
        counter[12] &= 0x7f;
        let mut stream = CtrCore::<_, Ctr32BE>::inner_iv_init(&self.encrypt, &counter.into());
        let mut blocks = [Array::from([0; BLOCK]); STREAM_BLOCKS];
        let (mut first, mut payload, mut out) = (first, payload, out);
        while !(first.is_empty() && payload.is_empty()) {
            let len = (first.len() + payload.len()).min(STREAM_BLOCKS * BLOCK);
            let blocks = &mut blocks[..len.div_ceil(BLOCK)];
            stream.write_keystream_blocks(blocks);
            let key_stream = &Array::slice_as_flattened(blocks)[..len];

            let (ours, theirs) = key_stream.split_at(len.min(first.len()));
            let (now, later) = first.split_at_mut(ours.len());
            for (byte, key) in now.iter_mut().zip(ours) {
                *byte ^= key;
            }
            first = later;
            let (plain, plain_later) = payload.split_at(theirs.len());
            let (now, later) = out.split_at_mut(theirs.len());
            for ((byte, plain), key) in now.iter_mut().zip(plain).zip(theirs) {
                *byte = plain ^ key;
            }
            (payload, out) = (plain_later, later);
        }
    }

    /// Encrypts `first` in place and `payload` into `out`, which is as long; returns the tag.
    fn seal(&self, iv: [u8; 8], aad: &[u8], first: &mut [u8], payload: &[u8], out: &mut [u8]) -> [u8; BLOCK] {
        let mut tag = Array::from([0; BLOCK]);
        tag[..8].copy_from_slice(&iv);
        tag[8..].copy_from_slice(&self.mac(iv, aad, first, payload));
        self.encrypt.encrypt_block(&mut tag);
        self.apply_key_stream(&tag.0, first, payload, out);
        tag.0
    }

    /// Decrypts in place and says whether the plaintext is authentic.
    fn open(&self, tag: [u8; BLOCK], aad: &[u8], data: &mut [u8]) -> bool {
        let mut opened = Array::from(tag);
        self.decrypt.decrypt_block(&mut opened);
        let (iv, mac) = halves(&opened.0);
        self.apply_key_stream(&tag, data, &[], &mut []);
        self.mac(iv, aad, data, &[]).ct_eq(&mac).into()
    }
}
