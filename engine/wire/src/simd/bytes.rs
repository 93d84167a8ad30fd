//! Between byte arrays and registers of the same size, and the one place for the ends of slices. No arithmetic here.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "sse2")]
pub fn load128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference is good for 16 bytes, and the load asks for no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
pub fn store128(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: the reference is good for 16 bytes, and the store asks for no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}

/// Less than a block, followed by zeros.
#[inline]
#[target_feature(enable = "sse2")]
pub fn load128_partial(bytes: &[u8]) -> __m128i {
    let mut block = [0; 16];
    block[..bytes.len()].copy_from_slice(bytes);
    load128(&block)
}

#[inline]
#[target_feature(enable = "avx")]
pub fn store256(bytes: &mut [u8; 32], value: __m256i) {
    // SAFETY: the reference is good for 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn load512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference is good for 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn store512(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: the reference is good for 64 bytes, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

/// Four blocks that lie one after another.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_lanes(lanes: &[__m128i; 4]) -> __m512i {
    // SAFETY: the reference is good for 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: the reference is good for 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Up to 64 bytes, followed by zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn load512_partial(bytes: &[u8]) -> __m512i {
    // SAFETY: the mask selects no more bytes than the slice has, and what it leaves out is not accessed.
    unsafe { _mm512_maskz_loadu_epi8(mask64(bytes.len()), bytes.as_ptr().cast()) }
}

/// The first bytes of `value`, as many as the slice has, at most 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn store512_partial(bytes: &mut [u8], value: __m512i) {
    // SAFETY: the mask selects no more bytes than the slice has, and what it leaves out is not accessed.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask64(bytes.len()), value) }
}

/// The lowest `len` bits, all from 64 on.
pub fn mask64(len: usize) -> u64 {
    if len >= 64 { u64::MAX } else { (1 << len) - 1 }
}
