//! Poly1305 in limbs of 44 bits: two blocks side by side with the processor's wide multiplication, or eight with AVX-512
//! IFMA, which multiplies 52 bits in each lane. Short messages pay for little but themselves.

use std::arch::x86_64::*;

use zeroize::Zeroize;

use super::Backend;
use super::bytes::{load_words, load512};

const BLOCK: usize = 16;
/// Blocks of one group of the wide implementation.
const GROUP: usize = 8;
/// Below this many blocks the powers that the wide implementation takes cost more than it gains.
const WIDE_FROM: usize = 24;

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;
/// 2^128 in the highest limb: the bit behind a whole block.
const BLOCK_END: u64 = 1 << 40;

/// The MAC on vector units. That one exists proves that the processor has what its backend takes.
#[derive(Clone, Copy)]
pub(crate) struct Poly1305 {
    wide: bool,
}

impl Poly1305 {
    /// None if the processor cannot, or if `backend` is the portable one.
    pub fn new(backend: Backend) -> Option<Poly1305> {
        (backend != Backend::Portable && backend.is_available())
            .then_some(Poly1305 { wide: backend == Backend::Avx512 })
    }

    /// The whole tag of `data` under a key that is used once.
    pub fn tag(self, key: &[u8; 32], data: &[u8]) -> [u8; 16] {
        let [k0, k1, k2, k3] = words(key);
        let mut r = Number::clamped(k0, k1);
        let (blocks, end) = data.as_chunks::<BLOCK>();
        let mut hash = if self.wide && blocks.len() >= WIDE_FROM {
            // SAFETY: `new` found the features of this backend.
            unsafe { absorb_wide(&r, blocks) }
        } else {
            absorb(&r, blocks)
        };
        if !end.is_empty() {
            let mut block = [0; BLOCK];
            block[..end.len()].copy_from_slice(end);
            block[end.len()] = 1;
            hash = hash.plus(Number::of(&block, 0)).times(&Factor::of(&r));
        }
        r.0.zeroize();
        let tag = hash.modulo_2_128().wrapping_add(u128::from(k2) | u128::from(k3) << 64);
        tag.to_le_bytes()
    }
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u64; WORDS] {
    let words = bytes.as_chunks().0;
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// A number modulo 2^130 - 5 in limbs of 44, 44 and 42 bits, lowest first, which may be a little too large.
#[derive(Clone, Copy)]
struct Number([u64; 3]);

/// A number to multiply with, and its upper limbs times 20: 2^132 is 20.
struct Factor {
    r: [u64; 3],
    r1_20: u64,
    r2_20: u64,
}

impl Factor {
    fn of(number: &Number) -> Factor {
        let [_, r1, r2] = number.0;
        Factor { r: number.0, r1_20: r1 * 20, r2_20: r2 * 20 }
    }
}

impl Number {
    const ZERO: Number = Number([0; 3]);

    /// A key's first half with the bits cleared that must be.
    fn clamped(low: u64, high: u64) -> Number {
        Number::from_words(low & 0x0fff_fffc_0fff_ffff, high & 0x0fff_fffc_0fff_fffc)
    }

    fn from_words(low: u64, high: u64) -> Number {
        Number([low & MASK_44, (low >> 44 | high << 20) & MASK_44, high >> 24])
    }

    fn of(block: &[u8; BLOCK], end: u64) -> Number {
        let [low, high] = words(block);
        let Number([a, b, c]) = Number::from_words(low, high);
        Number([a, b, c | end])
    }

    fn plus(self, other: Number) -> Number {
        let ([a, b, c], [d, e, f]) = (self.0, other.0);
        Number([a + d, b + e, c + f])
    }

    #[inline]
    fn times(self, factor: &Factor) -> Number {
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let ([h0, h1, h2], [r0, r1, r2]) = (self.0, factor.r);
        let d0 = wide(h0, r0) + wide(h1, factor.r2_20) + wide(h2, factor.r1_20);
        let d1 = wide(h0, r1) + wide(h1, r0) + wide(h2, factor.r2_20) + (d0 >> 44);
        let d2 = wide(h0, r2) + wide(h1, r1) + wide(h2, r0) + (d1 >> 44);
        let h0 = (d0 as u64 & MASK_44) + (d2 >> 42) as u64 * 5;
        Number([h0 & MASK_44, (d1 as u64 & MASK_44) + (h0 >> 44), d2 as u64 & MASK_42])
    }

    /// The one number below 2^130 - 5 that it stands for, modulo 2^128.
    fn modulo_2_128(self) -> u128 {
        let [mut h0, mut h1, mut h2] = self.0;
        // Twice around carries all there is.
        for _ in 0..2 {
            h1 += h0 >> 44;
            h2 += h1 >> 44;
            (h0, h1) = ((h0 & MASK_44) + (h2 >> 42) * 5, h1 & MASK_44);
            h2 &= MASK_42;
        }
        h1 += h0 >> 44;
        h0 &= MASK_44;
        h2 += h1 >> 44;
        h1 &= MASK_44;
        // h + 5 - 2^130, which is taken if it is not negative.
        let g0 = h0 + 5;
        let g1 = h1 + (g0 >> 44);
        let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
        let take = (g2 >> 63).wrapping_sub(1);
        let [h0, h1, h2] = [(h0, g0 & MASK_44), (h1, g1 & MASK_44), (h2, g2)].map(|(h, g)| h & !take | g & take);
        u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88
    }
}

/// Two blocks at a time: even ones and odd ones are summed apart, because each multiplication waits for the one before.
fn absorb(r: &Number, blocks: &[[u8; BLOCK]]) -> Number {
    let r1 = Factor::of(r);
    let (pairs, rest) = blocks.as_chunks::<2>();
    let mut hash = Number::ZERO;
    if let Some((last, pairs)) = pairs.split_last() {
        let r2 = Factor::of(&r.times(&r1));
        let (mut even, mut odd) = (Number::ZERO, Number::ZERO);
        for [a, b] in pairs {
            even = even.plus(Number::of(a, BLOCK_END)).times(&r2);
            odd = odd.plus(Number::of(b, BLOCK_END)).times(&r2);
        }
        let [a, b] = last;
        even = even.plus(Number::of(a, BLOCK_END)).times(&r2);
        odd = odd.plus(Number::of(b, BLOCK_END)).times(&r1);
        hash = even.plus(odd);
    }
    for block in rest {
        hash = hash.plus(Number::of(block, BLOCK_END)).times(&r1);
    }
    hash
}

/// Eight blocks at a time, each lane with its own sum.
#[target_feature(enable = "avx512f,avx512ifma")]
fn absorb_wide(r: &Number, blocks: &[[u8; BLOCK]]) -> Number {
    let one = Factor::of(r);
    let mut powers = [*r; GROUP + 1];
    powers[2] = r.times(&one);
    let two = Factor::of(&powers[2]);
    powers[3] = powers[2].times(&one);
    powers[4] = powers[2].times(&two);
    let four = Factor::of(&powers[4]);
    powers[5] = powers[4].times(&one);
    powers[6] = powers[4].times(&two);
    powers[7] = powers[4].times(&Factor::of(&powers[3]));
    powers[8] = powers[4].times(&four);

    // The first group may lack blocks in front: zeros without an end, which add nothing.
    let (first, groups) = blocks.split_at(blocks.len() % GROUP);
    let mut hash = Lanes::all(&Number::ZERO);
    let eighth = WideFactor::of(Lanes::all(&powers[8]));
    if !first.is_empty() {
        let mut padded = [[0; BLOCK]; GROUP];
        padded[GROUP - first.len()..].copy_from_slice(first);
        let ends = ORDER.map(|at| if at >= GROUP - first.len() { BLOCK_END } else { 0 });
        hash = Lanes::of(&padded, load_words(&ends)).times(&eighth);
    }
    let end = _mm512_set1_epi64(BLOCK_END as i64);
    let groups = groups.as_chunks::<GROUP>().0;
    let Some((last, groups)) = groups.split_last() else { return absorb(r, blocks) };
    for group in groups {
        hash = hash.plus(Lanes::of(group, end)).times(&eighth);
    }
    // The lanes of the last group, and with them all before, come to their own powers.
    let mut each = [[0; GROUP]; 3];
    for (lane, at) in ORDER.into_iter().enumerate() {
        for (limbs, limb) in each.iter_mut().zip(powers[GROUP - at].0) {
            limbs[lane] = limb;
        }
    }
    let each = WideFactor::of(Lanes([load_words(&each[0]), load_words(&each[1]), load_words(&each[2])]));
    hash.plus(Lanes::of(last, end)).times(&each).sum()
}

/// Which block of a group each lane holds.
const ORDER: [usize; GROUP] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Eight numbers: a register for each limb.
#[derive(Clone, Copy)]
struct Lanes([__m512i; 3]);

struct WideFactor {
    r: [__m512i; 3],
    r1_20: __m512i,
    r2_20: __m512i,
}

impl WideFactor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn of(number: Lanes) -> WideFactor {
        let [_, r1, r2] = number.0;
        let times_20 = |x| {
            let times_4 = _mm512_slli_epi64::<2>(x);
            _mm512_add_epi64(times_4, _mm512_slli_epi64::<2>(times_4))
        };
        WideFactor { r: number.0, r1_20: times_20(r1), r2_20: times_20(r2) }
    }
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn all(number: &Number) -> Lanes {
        let [a, b, c] = number.0;
        Lanes([_mm512_set1_epi64(a as i64), _mm512_set1_epi64(b as i64), _mm512_set1_epi64(c as i64)])
    }

    /// The blocks of a group, with the bit that ends each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn of(group: &[[u8; BLOCK]; GROUP], ends: __m512i) -> Lanes {
        let lines = group.as_flattened().as_chunks().0;
        let (a, b) = (load512(&lines[0]), load512(&lines[1]));
        let (low, high) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let mask = _mm512_set1_epi64(MASK_44 as i64);
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        let top = _mm512_or_si512(_mm512_srli_epi64::<24>(high), ends);
        Lanes([_mm512_and_si512(low, mask), _mm512_and_si512(middle, mask), top])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn plus(self, other: Lanes) -> Lanes {
        let ([a, b, c], [d, e, f]) = (self.0, other.0);
        Lanes([_mm512_add_epi64(a, d), _mm512_add_epi64(b, e), _mm512_add_epi64(c, f)])
    }

    /// Products come in two halves of 52 bits; the upper half of one limb is worth 2^8 in the next, and beyond the last
    /// limb, at 2^140, it is worth 5 * 2^10.
    ///
    /// Limbs below 2^46 times a factor's (2^44, times 20: 2^49) leave upper sums below 2^46 and, in the last limb, 2^40:
    /// everything fits 64 bits, and the limbs that come out are below 2^44, 2^44 + 2^9 and 2^42.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times(self, factor: &WideFactor) -> Lanes {
        let ([h0, h1, h2], [r0, r1, r2]) = (self.0, factor.r);
        let (s1, s2) = (factor.r1_20, factor.r2_20);
        let sum = |a, b, c, d, e, f| {
            let zero = _mm512_setzero_si512();
            let low = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, a, b), c, d), e, f);
            let high = _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(_mm512_madd52hi_epu64(zero, a, b), c, d), e, f);
            (low, high)
        };
        let (low0, high0) = sum(h0, r0, h1, s2, h2, s1);
        let (low1, high1) = sum(h0, r1, h1, r0, h2, s2);
        let (low2, high2) = sum(h0, r2, h1, r1, h2, r0);

        let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44 as i64), _mm512_set1_epi64(MASK_42 as i64));
        let d1 = _mm512_add_epi64(low1, _mm512_slli_epi64::<8>(high0));
        let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(low0));
        let d2 = _mm512_add_epi64(low2, _mm512_slli_epi64::<8>(high1));
        let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
        let beyond = _mm512_add_epi64(_mm512_slli_epi64::<10>(high2), _mm512_srli_epi64::<42>(d2));
        let beyond = _mm512_add_epi64(beyond, _mm512_slli_epi64::<2>(beyond));
        let d0 = _mm512_add_epi64(_mm512_and_si512(low0, mask_44), beyond);
        let h1 = _mm512_add_epi64(_mm512_and_si512(d1, mask_44), _mm512_srli_epi64::<44>(d0));
        Lanes([_mm512_and_si512(d0, mask_44), h1, _mm512_and_si512(d2, mask_42)])
    }

    /// All eight together.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn sum(self) -> Number {
        let [a, b, c] = self.0;
        let limbs = [_mm512_reduce_add_epi64(a), _mm512_reduce_add_epi64(b), _mm512_reduce_add_epi64(c)];
        Number(limbs.map(i64::cast_unsigned))
    }
}

#[cfg(test)]
mod tests {
    use poly1305::universal_hash::KeyInit;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn check(key: &[u8; 32], data: &[u8]) {
        let expected = poly1305::Poly1305::new(key.into()).compute_unpadded(data);
        for backend in Backend::available() {
            if let Some(mac) = Poly1305::new(backend) {
                assert_eq!(mac.tag(key, data), expected[..], "{backend:?}, {} bytes, key {key:02x?}", data.len());
            }
        }
    }

    #[test]
    fn tags_are_those_of_the_crate_for_every_length() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut key, mut data) = ([0; 32], [0; 3000]);
        for len in 0..=data.len() {
            rng.fill_bytes(&mut key);
            rng.fill_bytes(&mut data[..len]);
            check(&key, &data[..len]);
        }
    }

    /// Keys and blocks of ones and zeros make the longest carries and the results around 2^130 - 5.
    #[test]
    fn tags_are_those_of_the_crate_at_the_edges_of_arithmetic() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut choose = |bytes: &mut [u8], of: &[u8]| {
            for word in bytes.chunks_mut(4) {
                word.fill(of[rng.next_u32() as usize % of.len()]);
            }
        };
        for len in (0..600).chain([1401, 2801, 9997]) {
            for (keys, blocks) in [(&[0xff][..], &[0xff][..]), (&[0, 0xff], &[0, 0xff]), (&[1, 2], &[0xff, 0xfb, 0])] {
                let (mut key, mut data) = ([0; 32], vec![0; len]);
                choose(&mut key, keys);
                choose(&mut data, blocks);
                check(&key, &data);
                // r = 1 and r = 2: the hash is the sum of the blocks, or nearly.
                key[..16].copy_from_slice(&(1u128 + (len as u128 & 1)).to_le_bytes());
                check(&key, &data);
            }
        }
        for low in 0xf0..=0xffu8 {
            let mut key = [0; 32];
            key[0] = 1;
            let mut block = [0xff; 16];
            block[0] = low;
            check(&key, &block);
            check(&key, &[block, [0xff; 16], [0xff; 16], [0xff; 16]].concat());
        }
    }
}
