//! Salsa20/12 key stream, several blocks at a time. It only makes key stream: mixing keys, XOR and MAC are elsewhere.
//!
//! A block's sixteen words lie in four rows so that each step of a round is one instruction for its four words: the rows
//! are the diagonals (0, 5, 10, 15), (4, 9, 14, 3), (8, 13, 2, 7) and (12, 1, 6, 11). A register holds that row of as
//! many blocks as it is wide, so that even a short packet, which is all latency, uses all of it.

use std::arch::x86_64::*;

use super::bytes::{store256, store512};
use super::{Backend, QUAD_LEN};

/// Double rounds.
const DOUBLE_ROUNDS: usize = 6;
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The generator on vector units. That one exists proves that the processor has what its backend takes.
#[derive(Clone, Copy)]
pub(crate) struct Salsa2012 {
    wide: bool,
}

impl Salsa2012 {
    /// None if the processor cannot, or if `backend` is the portable one.
    pub fn new(backend: Backend) -> Option<Salsa2012> {
        (backend != Backend::Portable && backend.is_available())
            .then_some(Salsa2012 { wide: backend == Backend::Avx512 })
    }

    /// The key stream from block `first` on. Not for streams of 2^32 blocks: the upper half of the counter stays 0.
    pub fn write(self, key: &[u32; 8], nonce: &[u32; 2], first: u32, quads: &mut [[u8; QUAD_LEN]]) {
        // SAFETY: `new` found the features of the chosen backend.
        unsafe {
            match self.wide {
                true => write_wide(key, nonce, first, quads),
                false => write_narrow(key, nonce, first, quads),
            }
        }
    }
}

/// The rows of a first block.
fn rows(k: &[u32; 8], n: &[u32; 2], counter: u32) -> [[u32; 4]; 4] {
    [CONSTANTS, [k[3], 0, k[7], k[2]], [counter, k[6], k[1], n[1]], [k[5], k[0], n[0], k[4]]]
}

/// The twelve rounds for `N` registers full of blocks, and the sum with what they began with. Both widths do the same; the
/// names of their instructions differ.
macro_rules! rounds {
    ($name:ident, $features:literal, $register:ty, $add:ident, $xor:ident, $rotate:ident, $shuffle:ident) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn $name<const N: usize>(start: [[$register; 4]; N]) -> [[$register; 4]; N] {
            let mut sets = start;
            for _ in 0..DOUBLE_ROUNDS {
                for [a, b, c, d] in &mut sets {
                    *b = $xor(*b, $rotate::<7>($add(*a, *d)));
                    *c = $xor(*c, $rotate::<9>($add(*b, *a)));
                    *d = $xor(*d, $rotate::<13>($add(*c, *b)));
                    *a = $xor(*a, $rotate::<18>($add(*d, *c)));
                    *b = $shuffle::<0x93>(*b);
                    *c = $shuffle::<0x4e>(*c);
                    *d = $shuffle::<0x39>(*d);
                }
                for [a, b, c, d] in &mut sets {
                    *d = $xor(*d, $rotate::<7>($add(*a, *b)));
                    *c = $xor(*c, $rotate::<9>($add(*d, *a)));
                    *b = $xor(*b, $rotate::<13>($add(*c, *d)));
                    *a = $xor(*a, $rotate::<18>($add(*b, *c)));
                    *b = $shuffle::<0x39>(*b);
                    *c = $shuffle::<0x4e>(*c);
                    *d = $shuffle::<0x93>(*d);
                }
            }
            for (set, start) in sets.iter_mut().zip(start) {
                for (row, start) in set.iter_mut().zip(start) {
                    *row = $add(*row, start);
                }
            }
            sets
        }
    };
}

rounds!(rounds256, "avx2", __m256i, _mm256_add_epi32, _mm256_xor_si256, rotate256, _mm256_shuffle_epi32);
rounds!(rounds512, "avx512f", __m512i, _mm512_add_epi32, _mm512_xor_si512, _mm512_rol_epi32, _mm512_shuffle_epi32);

#[inline]
#[target_feature(enable = "avx2")]
fn rotate256<const BITS: i32>(x: __m256i) -> __m256i {
    let right = _mm256_srl_epi32(x, _mm_cvtsi32_si128(32 - BITS));
    _mm256_or_si256(_mm256_slli_epi32::<BITS>(x), right)
}

#[target_feature(enable = "avx2")]
fn write_narrow(key: &[u32; 8], nonce: &[u32; 2], first: u32, quads: &mut [[u8; QUAD_LEN]]) {
    let mut start = [_mm256_setzero_si256(); 4];
    for (row, [a, b, c, d]) in start.iter_mut().zip(rows(key, nonce, first)) {
        *row = _mm256_broadcastsi128_si256(_mm_set_epi32(d as i32, c as i32, b as i32, a as i32));
    }
    start[2] = _mm256_add_epi32(start[2], _mm256_set_epi32(0, 0, 0, 1, 0, 0, 0, 0));
    let two = _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 2);
    for quad in quads {
        let mut next = start;
        next[2] = _mm256_add_epi32(start[2], two);
        let sets = rounds256([start, next]);
        start[2] = _mm256_add_epi32(next[2], two);
        for (blocks, set) in quad.as_chunks_mut::<128>().0.iter_mut().zip(sets) {
            // Each row of the result has one word of each diagonal, at that word's place.
            let [a, b, c, d] = set;
            let (ac, ca) = (_mm256_blend_epi32::<0b1100_1100>(a, c), _mm256_blend_epi32::<0b1100_1100>(c, a));
            let (bd, db) = (_mm256_blend_epi32::<0b1100_1100>(b, d), _mm256_blend_epi32::<0b1100_1100>(d, b));
            let row_0 = _mm256_blend_epi32::<0b1010_1010>(ac, db);
            let row_1 = _mm256_blend_epi32::<0b1010_1010>(bd, ac);
            let row_2 = _mm256_blend_epi32::<0b1010_1010>(ca, bd);
            let row_3 = _mm256_blend_epi32::<0b1010_1010>(db, ca);
            let [first_half, second_half, third, fourth] = blocks.as_chunks_mut().0 else { return };
            store256(first_half, _mm256_permute2x128_si256::<0x20>(row_0, row_1));
            store256(second_half, _mm256_permute2x128_si256::<0x20>(row_2, row_3));
            store256(third, _mm256_permute2x128_si256::<0x31>(row_0, row_1));
            store256(fourth, _mm256_permute2x128_si256::<0x31>(row_2, row_3));
        }
    }
}

#[target_feature(enable = "avx512f")]
fn write_wide(key: &[u32; 8], nonce: &[u32; 2], first: u32, quads: &mut [[u8; QUAD_LEN]]) {
    let mut start = [_mm512_setzero_si512(); 4];
    for (row, [a, b, c, d]) in start.iter_mut().zip(rows(key, nonce, first)) {
        *row = _mm512_broadcast_i32x4(_mm_set_epi32(d as i32, c as i32, b as i32, a as i32));
    }
    start[2] = _mm512_add_epi32(start[2], _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0));
    let (together, rest) = quads.as_chunks_mut::<WIDE_QUADS>();
    for quads in together {
        wide_quads(&mut start, quads);
    }
    match rest {
        [] => {}
        [a] => wide_quads(&mut start, std::array::from_mut(a)),
        _ => {
            let (pairs, last) = rest.as_chunks_mut::<2>();
            for pair in pairs {
                wide_quads(&mut start, pair);
            }
            for quad in last {
                wide_quads(&mut start, std::array::from_mut(quad));
            }
        }
    }
}

/// Registers full of blocks that are worked on side by side, so that one's latency is the other's work.
const WIDE_QUADS: usize = 4;

/// Writes the next `N` quads.
#[inline]
#[target_feature(enable = "avx512f")]
fn wide_quads<const N: usize>(start: &mut [__m512i; 4], quads: &mut [[u8; QUAD_LEN]; N]) {
    let four = _mm512_set_epi32(0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4);
    let mut sets = [*start; N];
    for set in &mut sets {
        set[2] = start[2];
        start[2] = _mm512_add_epi32(start[2], four);
    }
    for (quad, [a, b, c, d]) in quads.iter_mut().zip(rounds512(sets)) {
        // Each row of the result has one word of each diagonal, at that word's place.
        const HALVES: u16 = 0b1100_1100_1100_1100;
        const ODD: u16 = 0b1010_1010_1010_1010;
        let (ac, ca) = (_mm512_mask_blend_epi32(HALVES, a, c), _mm512_mask_blend_epi32(HALVES, c, a));
        let (bd, db) = (_mm512_mask_blend_epi32(HALVES, b, d), _mm512_mask_blend_epi32(HALVES, d, b));
        let row_0 = _mm512_mask_blend_epi32(ODD, ac, db);
        let row_1 = _mm512_mask_blend_epi32(ODD, bd, ac);
        let row_2 = _mm512_mask_blend_epi32(ODD, ca, bd);
        let row_3 = _mm512_mask_blend_epi32(ODD, db, ca);
        // From rows of four blocks to four blocks of rows.
        let (low_01, high_01) =
            (_mm512_shuffle_i32x4::<0x44>(row_0, row_1), _mm512_shuffle_i32x4::<0xee>(row_0, row_1));
        let (low_23, high_23) =
            (_mm512_shuffle_i32x4::<0x44>(row_2, row_3), _mm512_shuffle_i32x4::<0xee>(row_2, row_3));
        let [block_0, block_1, block_2, block_3] = quad.as_chunks_mut().0 else { return };
        store512(block_0, _mm512_shuffle_i32x4::<0x88>(low_01, low_23));
        store512(block_1, _mm512_shuffle_i32x4::<0xdd>(low_01, low_23));
        store512(block_2, _mm512_shuffle_i32x4::<0x88>(high_01, high_23));
        store512(block_3, _mm512_shuffle_i32x4::<0xdd>(high_01, high_23));
    }
}
