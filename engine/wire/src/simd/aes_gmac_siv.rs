//! AES-256-GMAC-SIV: the scheduled keys, and the way to the two implementations. // spec: wire, "Suite 3
//! (AES-GMAC-SIV), step by step"
//!
//! GHASH is computed as POLYVAL over byte-swapped blocks with the key `H * x`, which needs no bit reflection (RFC 8452,
//! appendix A). Blocks are multiplied by descending powers of that key, so that many are reduced at once.

mod narrow;
mod wide;

use std::arch::x86_64::*;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Backend;
use super::bytes::{load128, load128_partial, store128};

/// Blocks of one group of the wide implementation.
const WIDE_GROUP: usize = 16;
/// Powers of the hash key: as many as a packet of one datagram has blocks, with the lengths behind it.
const POWERS: usize = 6 * WIDE_GROUP + 1;
/// `powers[POWERS_END - n]` is the n-th power of the hash key.
const POWERS_END: usize = POWERS.next_multiple_of(4);

/// Everything that can be computed before there is a packet. The powers of the hash key descend, so that the last sixteen
/// fill whole cache lines; the zeros behind them are multiplied with blocks that are not there.
#[derive(Clone)]
#[repr(C, align(64))]
struct Schedule {
    powers: [__m128i; POWERS_END + 4],
    k0: [__m128i; 15],
    k1: [__m128i; 15],
    k1_inverse: [__m128i; 15],
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.powers.zeroize();
        self.k0.zeroize();
        self.k1.zeroize();
        self.k1_inverse.zeroize();
    }
}

/// The suite on AES instructions. That one exists proves that the processor has what its backend takes.
#[derive(Clone)]
pub(crate) struct GmacSiv {
    schedule: Schedule,
    wide: bool,
}

impl GmacSiv {
    /// Schedules K0, which authenticates, and K1, which encrypts. None if the processor cannot, or if `backend` is the
    /// portable one.
    pub fn new(k0: &[u8; 32], k1: &[u8; 32], backend: Backend) -> Option<GmacSiv> {
        if backend == Backend::Portable || !backend.is_available() {
            return None;
        }
        // SAFETY: either backend includes AES-NI, PCLMULQDQ and AVX2, and it is available.
        let schedule = unsafe { Schedule::new(k0, k1) };
        Some(GmacSiv { schedule, wide: backend == Backend::Avx512 })
    }

    /// Encrypts `data` in place and returns the tag. Of `data` only the front is there yet: the last `payload.len()`
    /// bytes are taken from `payload`. `aad` is authenticated too, and is
    /// zero-padded to whole blocks.
    pub fn seal(&self, iv: [u8; 8], aad: &[u8], data: &mut [u8], payload: &[u8]) -> [u8; 16] {
        // SAFETY: `new` found the features of the chosen backend.
        unsafe {
            match self.wide {
                true => wide::seal(&self.schedule, iv, aad, data, payload),
                false => narrow::seal(&self.schedule, iv, aad, data, payload),
            }
        }
    }

    /// Decrypts in place and says whether the plaintext is authentic. If not, wiping it is up to the caller.
    #[must_use]
    pub fn open(&self, tag: &[u8; 16], aad: &[u8], data: &mut [u8]) -> bool {
        // SAFETY: `new` found the features of the chosen backend.
        let [computed, received] = unsafe {
            match self.wide {
                true => wide::open(&self.schedule, tag, aad, data),
                false => narrow::open(&self.schedule, tag, aad, data),
            }
        };
        computed.ct_eq(&received).into()
    }
}

impl Schedule {
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn new(k0: &[u8; 32], k1: &[u8; 32]) -> Schedule {
        let (k0, k1) = (expand(k0), expand(k1));
        let mut k1_inverse = k1;
        k1_inverse.reverse();
        for key in &mut k1_inverse[1..14] {
            *key = _mm_aesimc_si128(*key);
        }
        let h = double(encrypt_block(&k0, _mm_setzero_si128()));
        let mut powers = [_mm_setzero_si128(); POWERS_END + 4];
        let mut power = h;
        for n in 1..=POWERS {
            powers[POWERS_END - n] = power;
            power = multiply(power, h);
        }
        Schedule { powers, k0, k1, k1_inverse }
    }

    /// The powers `n`, `n - 1` and so on, with zeros behind the first.
    #[inline]
    fn powers_from(&self, n: usize) -> &[__m128i] {
        &self.powers[POWERS_END - n..]
    }

    /// The AAD hashed.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn absorb_aad(&self, aad: &[u8]) -> __m128i {
        let (blocks, end) = aad.as_chunks();
        let h = self.powers_from(1)[0];
        let mut hash = _mm_setzero_si128();
        for block in blocks {
            hash = multiply(_mm_xor_si128(hash, swap_bytes(load128(block))), h);
        }
        if !end.is_empty() {
            hash = multiply(_mm_xor_si128(hash, swap_bytes(load128_partial(end))), h);
        }
        hash
    }

    /// E(K0) of the pre-counter block of GCM, which masks the hash.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn mask(&self, iv: u64) -> __m128i {
        encrypt_block(&self.k0, _mm_set_epi64x(i64::from_be(1), iv as i64))
    }

    /// From the hash to the 8 bytes that are sent, encrypted.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn fold(hash: __m128i, mask: __m128i) -> __m128i {
        let tag = _mm_xor_si128(swap_bytes(hash), mask);
        _mm_xor_si128(tag, _mm_shuffle_epi32(tag, SWAP_HALVES))
    }

    /// The tag of a packet: IV and folded hash, encrypted.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn tag(&self, iv: u64, hash: __m128i, mask: __m128i) -> __m128i {
        let folded = Self::fold(hash, mask);
        encrypt_block(&self.k1, _mm_unpacklo_epi64(_mm_cvtsi64_si128(iv as i64), folded))
    }

    /// The IV and the folded hash that a tag holds.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn open_tag(&self, tag: __m128i) -> (u64, u64) {
        let mut block = _mm_xor_si128(tag, self.k1_inverse[0]);
        for key in &self.k1_inverse[1..14] {
            block = _mm_aesdec_si128(block, *key);
        }
        block = _mm_aesdeclast_si128(block, self.k1_inverse[14]);
        (_mm_cvtsi128_si64(block) as u64, _mm_extract_epi64::<1>(block) as u64)
    }
}

/// The first counter block of a tag as 32-bit lanes; the last lane, now in our byte order, counts.
#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn first_counter(tag: __m128i) -> __m128i {
    let swapped = _mm_shuffle_epi8(tag, _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    _mm_and_si128(swapped, _mm_set_epi32(i32::MAX, -1, -1, -1))
}

/// The block that ends the hash: the bits of padded AAD and data, all of it AAD for GMAC.
#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn length_block(aad: &[u8], data_len: usize) -> __m128i {
    _mm_set_epi64x(((aad.len().next_multiple_of(16) + data_len) * 8) as i64, 0)
}

const SWAP_HALVES: i32 = 0b01_00_11_10;

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn swap_bytes(x: __m128i) -> __m128i {
    _mm_shuffle_epi8(x, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn encrypt_block(keys: &[__m128i; 15], block: __m128i) -> __m128i {
    let mut block = _mm_xor_si128(block, keys[0]);
    for key in &keys[1..14] {
        block = _mm_aesenc_si128(block, *key);
    }
    _mm_aesenclast_si128(block, keys[14])
}

/// The key schedule of FIPS 197.
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn expand(key: &[u8; 32]) -> [__m128i; 15] {
    let halves = key.as_chunks().0;
    let mut keys = [_mm_setzero_si128(); 15];
    (keys[0], keys[1]) = (load128(&halves[0]), load128(&halves[1]));
    expand_pair::<0x01>(&mut keys, 2);
    expand_pair::<0x02>(&mut keys, 4);
    expand_pair::<0x04>(&mut keys, 6);
    expand_pair::<0x08>(&mut keys, 8);
    expand_pair::<0x10>(&mut keys, 10);
    expand_pair::<0x20>(&mut keys, 12);
    keys[14] = expand_even::<0x40>(keys[12], keys[13]);
    keys
}

#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn expand_pair<const ROUND: i32>(keys: &mut [__m128i; 15], at: usize) {
    keys[at] = expand_even::<ROUND>(keys[at - 2], keys[at - 1]);
    let word = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[at], 0), 0xaa);
    keys[at + 1] = _mm_xor_si128(running_xor(keys[at - 1]), word);
}

#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn expand_even<const ROUND: i32>(even: __m128i, odd: __m128i) -> __m128i {
    let word = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(odd, ROUND), 0xff);
    _mm_xor_si128(running_xor(even), word)
}

/// Each word XOR all words below it.
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn running_xor(x: __m128i) -> __m128i {
    let x = _mm_xor_si128(x, _mm_slli_si128(x, 4));
    _mm_xor_si128(x, _mm_slli_si128(x, 8))
}

/// x^127 + x^126 + x^121 + 1 in POLYVAL's order of bits; x^128 falls off.
const POLYNOMIAL: u128 = 0xc2 << 120 | 1;

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn polynomial() -> __m128i {
    _mm_set_epi64x((POLYNOMIAL >> 64) as i64, POLYNOMIAL as i64)
}

/// A GHASH key as POLYVAL wants it.
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn double(h: __m128i) -> __m128i {
    let mut bytes = [0; 16];
    store128(&mut bytes, h);
    let h = u128::from_be_bytes(bytes);
    let doubled = (h << 1) ^ ((h >> 127).wrapping_neg() & POLYNOMIAL);
    let result = load128(&doubled.to_le_bytes());
    bytes.zeroize();
    result
}

/// A sum of products before its reduction: low, middle and high part.
#[derive(Clone, Copy)]
struct Product {
    low: __m128i,
    middle: __m128i,
    high: __m128i,
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn zero() -> Product {
        let zero = _mm_setzero_si128();
        Product { low: zero, middle: zero, high: zero }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn of(a: __m128i, b: __m128i) -> Product {
        Product {
            low: _mm_clmulepi64_si128(a, b, 0x00),
            middle: _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10)),
            high: _mm_clmulepi64_si128(a, b, 0x11),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn plus(self, other: Product) -> Product {
        Product {
            low: _mm_xor_si128(self.low, other.low),
            middle: _mm_xor_si128(self.middle, other.middle),
            high: _mm_xor_si128(self.high, other.high),
        }
    }

    /// Montgomery's reduction, 64 bits a step.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn reduced(self) -> __m128i {
        let mut low = _mm_xor_si128(self.low, _mm_slli_si128(self.middle, 8));
        let high = _mm_xor_si128(self.high, _mm_srli_si128(self.middle, 8));
        for _ in 0..2 {
            let step = _mm_clmulepi64_si128(low, polynomial(), 0x10);
            low = _mm_xor_si128(_mm_shuffle_epi32(low, SWAP_HALVES), step);
        }
        _mm_xor_si128(high, low)
    }
}

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn multiply(a: __m128i, b: __m128i) -> __m128i {
    Product::of(a, b).reduced()
}
