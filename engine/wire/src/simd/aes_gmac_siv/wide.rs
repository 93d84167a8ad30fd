//! VAES, VPCLMULQDQ and AVX-512: sixteen blocks at a time, four in each register.

use std::arch::x86_64::*;

use super::super::bytes::{
    load_lanes, load128, load512, load512_partial, mask64, store128, store512, store512_partial,
};
use super::{POWERS, Product, Schedule, WIDE_GROUP, first_counter, length_block};

const BLOCK: usize = 16;
const LINE: usize = 4 * BLOCK;
const GROUP_LEN: usize = WIDE_GROUP * BLOCK;

#[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
pub fn seal(s: &Schedule, iv: [u8; 8], aad: &[u8], data: &mut [u8], payload: &[u8]) -> [u8; 16] {
    let iv = u64::from_le_bytes(iv);
    let mask = s.mask(iv);
    // The front becomes whole groups, so that source and destination are cut alike from there on.
    let data_len = data.len();
    let front_len = data_len - payload.len();
    let seam = front_len.next_multiple_of(GROUP_LEN).min(data_len);
    let (fill, payload) = payload.split_at(seam - front_len);
    copy_fill(&mut data[front_len..seam], fill);

    let mut hash = Hash::new(s, aad, data_len);
    let (front, rest) = data.split_at_mut(seam);
    let (front_groups, front_tail) = front.as_chunks_mut::<GROUP_LEN>();
    let (rest_groups, rest_tail) = rest.as_chunks_mut::<GROUP_LEN>();
    let (payload_groups, payload_tail) = payload.as_chunks::<GROUP_LEN>();
    for group in front_groups.iter().chain(payload_groups) {
        hash.absorb(load_group(group));
    }
    let tail_len = data_len % GROUP_LEN;
    let tail = load_tail(if rest_tail.is_empty() { front_tail } else { payload_tail });
    let tag = s.tag(iv, hash.finish(tail, tail_len), mask);

    let mut stream = Stream::new(s, tag);
    for group in front_groups {
        let plain = load_group(group);
        store_group(group, xor(plain, stream.next()));
    }
    for (group, payload) in rest_groups.iter_mut().zip(payload_groups) {
        store_group(group, xor(load_group(payload), stream.next()));
    }
    let end = if rest_tail.is_empty() { front_tail } else { rest_tail };
    store_tail(end, xor(tail, stream.last(tail_len)));
    let mut out = [0; BLOCK];
    store128(&mut out, tag);
    out
}

/// The folded hash as it is and as the tag says it should be.
#[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
pub fn open(s: &Schedule, tag: &[u8; 16], aad: &[u8], data: &mut [u8]) -> [u64; 2] {
    let tag = load128(tag);
    let (iv, received) = s.open_tag(tag);
    let mask = s.mask(iv);
    let mut hash = Hash::new(s, aad, data.len());
    let mut stream = Stream::new(s, tag);
    let (groups, tail) = data.as_chunks_mut::<GROUP_LEN>();
    // Two loops, not one: here one pass after the other keeps the units busier, and the packet is in the nearest cache.
    for group in &mut *groups {
        let cipher = load_group(group);
        store_group(group, xor(cipher, stream.next()));
    }
    for group in groups {
        hash.absorb(load_group(group));
    }
    let plain = xor(load_tail(tail), stream.last(tail.len()));
    store_tail(tail, plain);
    [_mm_cvtsi128_si64(Schedule::fold(hash.finish(plain, tail.len()), mask)) as u64, received]
}

/// Sixteen blocks.
type Group = [__m512i; 4];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_group(bytes: &[u8; GROUP_LEN]) -> Group {
    let lines = bytes.as_chunks().0;
    [load512(&lines[0]), load512(&lines[1]), load512(&lines[2]), load512(&lines[3])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_group(bytes: &mut [u8; GROUP_LEN], group: Group) {
    for (line, value) in bytes.as_chunks_mut().0.iter_mut().zip(group) {
        store512(line, value);
    }
}

/// Less than a group, followed by zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_tail(tail: &[u8]) -> Group {
    let mut group = [_mm512_setzero_si512(); 4];
    for (at, value) in group.iter_mut().enumerate() {
        if at * LINE < tail.len() {
            *value = load512_partial(&tail[at * LINE..]);
        }
    }
    group
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_tail(tail: &mut [u8], group: Group) {
    for (at, value) in group.into_iter().enumerate() {
        if at * LINE < tail.len() {
            store512_partial(&mut tail[at * LINE..], value);
        }
    }
}

/// Copies less than a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn copy_fill(to: &mut [u8], from: &[u8]) {
    store_tail(to, load_tail(from));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn xor(a: Group, b: Group) -> Group {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        *out = _mm512_xor_si512(*out, b);
    }
    out
}

/// A hash that is reduced once if all its blocks have a power of their own, else once for each group before those.
struct Hash<'a> {
    schedule: &'a Schedule,
    length: __m128i,
    /// What was reduced already, and the power it is multiplied by in the end.
    so_far: __m128i,
    weight: usize,
    sum: Sum,
    /// Blocks to come, that of the lengths included.
    left: usize,
}

impl<'a> Hash<'a> {
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn new(schedule: &'a Schedule, aad: &[u8], data_len: usize) -> Hash<'a> {
        let left = data_len.div_ceil(BLOCK) + 1;
        let (length, so_far) = (length_block(aad, data_len), schedule.absorb_aad(aad));
        Hash { schedule, length, so_far, weight: left, sum: Sum::zero(), left }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn absorb(&mut self, group: Group) {
        if self.left <= POWERS {
            self.sum.add_group(group, self.schedule.powers_from(self.left));
            self.left -= WIDE_GROUP;
            return;
        }
        let powers = self.schedule.powers_from(WIDE_GROUP);
        let mut sum = Sum::zero();
        sum.add_group(group, powers);
        // What was before comes last, so that nothing else waits for it.
        self.so_far = sum.folded().plus(Product::of(self.so_far, powers[0])).reduced();
        self.left -= WIDE_GROUP;
        self.weight = self.left;
    }

    /// The hash after less than a group and the block of lengths.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn finish(mut self, tail: Group, tail_len: usize) -> __m128i {
        let powers = self.schedule.powers_from(self.left);
        for (at, (blocks, powers)) in tail.into_iter().zip(powers.as_chunks().0).enumerate() {
            if at * LINE < tail_len {
                self.sum.add(swap_lanes(blocks), load_lanes(powers));
            }
        }
        let last = Product::of(self.length, self.schedule.powers_from(1)[0]);
        let first = Product::of(self.so_far, self.schedule.powers_from(self.weight)[0]);
        self.sum.folded().plus(last).plus(first).reduced()
    }
}

/// Four sums of products, not yet reduced.
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn zero() -> Sum {
        let zero = _mm512_setzero_si512();
        Sum { low: zero, middle: zero, high: zero }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vpclmulqdq")]
    fn add(&mut self, a: __m512i, b: __m512i) {
        const XOR3: i32 = 0x96;
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128(a, b, 0x00));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128(a, b, 0x11));
        let (left, right) = (_mm512_clmulepi64_epi128(a, b, 0x01), _mm512_clmulepi64_epi128(a, b, 0x10));
        self.middle = _mm512_ternarylogic_epi64(self.middle, left, right, XOR3);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vpclmulqdq")]
    fn add_group(&mut self, group: Group, powers: &[__m128i]) {
        for (blocks, powers) in group.into_iter().zip(powers.as_chunks().0) {
            self.add(swap_lanes(blocks), load_lanes(powers));
        }
    }

    /// All four together.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl")]
    fn folded(&self) -> Product {
        Product { low: fold_lanes(self.low), middle: fold_lanes(self.middle), high: fold_lanes(self.high) }
    }
}

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl")]
fn fold_lanes(x: __m512i) -> __m128i {
    let half = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn swap_lanes(x: __m512i) -> __m512i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
}

struct Stream<'a> {
    keys: &'a [__m128i; 15],
    counters: __m512i,
}

impl<'a> Stream<'a> {
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn new(schedule: &'a Schedule, tag: __m128i) -> Stream<'a> {
        let lanes = _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0);
        Stream { keys: &schedule.k1, counters: _mm512_add_epi32(_mm512_broadcast_i32x4(first_counter(tag)), lanes) }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn blocks<const N: usize>(&mut self) -> Group {
        let order = _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let (order, four) = (_mm512_broadcast_i32x4(order), _mm512_broadcast_i32x4(_mm_set_epi32(4, 0, 0, 0)));
        let mut blocks = [_mm512_setzero_si512(); 4];
        for block in &mut blocks[..N] {
            *block = _mm512_xor_si512(_mm512_shuffle_epi8(self.counters, order), _mm512_broadcast_i32x4(self.keys[0]));
            self.counters = _mm512_add_epi32(self.counters, four);
        }
        for key in &self.keys[1..14] {
            for block in &mut blocks[..N] {
                *block = _mm512_aesenc_epi128(*block, _mm512_broadcast_i32x4(*key));
            }
        }
        for block in &mut blocks[..N] {
            *block = _mm512_aesenclast_epi128(*block, _mm512_broadcast_i32x4(self.keys[14]));
        }
        blocks
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn next(&mut self) -> Group {
        self.blocks::<4>()
    }

    /// Key stream for `len` bytes, less than a group, followed by zeros.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq,avx512f,avx512bw,avx512vl,vaes,vpclmulqdq")]
    fn last(&mut self, len: usize) -> Group {
        let mut group = if len <= 2 * LINE { self.blocks::<2>() } else { self.blocks::<4>() };
        for (at, value) in group.iter_mut().enumerate() {
            *value = _mm512_maskz_mov_epi8(mask64(len.saturating_sub(at * LINE)), *value);
        }
        group
    }
}
