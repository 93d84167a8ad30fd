//! AES-NI and PCLMULQDQ: eight blocks at a time, each in its own register.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::super::bytes::{load128, load128_partial, store128};
use super::{Product, Schedule, first_counter, length_block, swap_bytes};

const BLOCK: usize = 16;
const GROUP: usize = 8;
const GROUP_LEN: usize = GROUP * BLOCK;

#[target_feature(enable = "avx2,aes,pclmulqdq")]
pub fn seal(s: &Schedule, iv: [u8; 8], aad: &[u8], data: &mut [u8], payload: &[u8]) -> [u8; 16] {
    let iv = u64::from_le_bytes(iv);
    let mask = s.mask(iv);
    // The front becomes whole groups, so that source and destination are cut alike from there on.
    let front_len = data.len() - payload.len();
    let seam = front_len.next_multiple_of(GROUP_LEN).min(data.len());
    let (fill, payload) = payload.split_at(seam - front_len);
    data[front_len..seam].copy_from_slice(fill);

    let mut hash = Hash::new(s, aad, data.len());
    let (front, rest) = data.split_at_mut(seam);
    let (front_groups, front_tail) = front.as_chunks_mut::<GROUP_LEN>();
    let (rest_groups, rest_tail) = rest.as_chunks_mut::<GROUP_LEN>();
    let (payload_groups, payload_tail) = payload.as_chunks::<GROUP_LEN>();
    hash.absorb(front_groups);
    hash.absorb(payload_groups);
    let tag = s.tag(iv, hash.finish(if rest_tail.is_empty() { front_tail } else { payload_tail }), mask);

    let mut stream = Stream::new(s, tag);
    for group in front_groups {
        stream.apply(group);
    }
    for (group, payload) in rest_groups.iter_mut().zip(payload_groups) {
        *group = *payload;
        stream.apply(group);
    }
    rest_tail.copy_from_slice(payload_tail);
    stream.apply_last(if rest_tail.is_empty() { front_tail } else { rest_tail });
    let mut out = [0; BLOCK];
    store128(&mut out, tag);
    out
}

/// The folded hash as it is and as the tag says it should be.
#[target_feature(enable = "avx2,aes,pclmulqdq")]
pub fn open(s: &Schedule, tag: &[u8; 16], aad: &[u8], data: &mut [u8]) -> [u64; 2] {
    let tag = load128(tag);
    let (iv, received) = s.open_tag(tag);
    let mask = s.mask(iv);
    let mut hash = Hash::new(s, aad, data.len());
    let mut stream = Stream::new(s, tag);
    let (groups, tail) = data.as_chunks_mut::<GROUP_LEN>();
    for group in groups {
        stream.apply(group);
        hash.absorb(std::slice::from_ref(group));
    }
    stream.apply_last(tail);
    [_mm_cvtsi128_si64(Schedule::fold(hash.finish(tail), mask)) as u64, received]
}

struct Hash<'a> {
    schedule: &'a Schedule,
    length: __m128i,
    so_far: __m128i,
}

impl<'a> Hash<'a> {
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn new(schedule: &'a Schedule, aad: &[u8], data_len: usize) -> Hash<'a> {
        Hash { schedule, length: length_block(aad, data_len), so_far: schedule.absorb_aad(aad) }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn absorb(&mut self, groups: &[[u8; GROUP_LEN]]) {
        let powers = self.schedule.powers_from(GROUP);
        for group in groups {
            let mut sum = Product::zero();
            for (block, power) in group.as_chunks().0.iter().zip(powers) {
                let block = _mm_xor_si128(swap_bytes(load128(block)), self.so_far);
                self.so_far = _mm_setzero_si128();
                sum = sum.plus(Product::of(block, *power));
            }
            self.so_far = sum.reduced();
        }
    }

    /// The hash after less than a group and the block of lengths.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn finish(self, tail: &[u8]) -> __m128i {
        let (blocks, end) = tail.as_chunks();
        let powers = self.schedule.powers_from(tail.len().div_ceil(BLOCK) + 1);
        let mut sum = Product::of(self.length, self.schedule.powers_from(1)[0]);
        for (block, power) in blocks.iter().zip(powers) {
            sum = sum.plus(Product::of(swap_bytes(load128(block)), *power));
        }
        if !end.is_empty() {
            sum = sum.plus(Product::of(swap_bytes(load128_partial(end)), self.schedule.powers_from(2)[0]));
        }
        sum.plus(Product::of(self.so_far, powers[0])).reduced()
    }
}

struct Stream<'a> {
    keys: &'a [__m128i; 15],
    counter: __m128i,
}

impl<'a> Stream<'a> {
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn new(schedule: &'a Schedule, tag: __m128i) -> Stream<'a> {
        Stream { keys: &schedule.k1, counter: first_counter(tag) }
    }

    /// The next `N` blocks of the key stream.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn next<const N: usize>(&mut self) -> [__m128i; N] {
        let mut blocks = [self.counter; N];
        for block in &mut blocks {
            *block = _mm_xor_si128(swap_counter(self.counter), self.keys[0]);
            self.counter = _mm_add_epi32(self.counter, _mm_set_epi32(1, 0, 0, 0));
        }
        // Unrolled, the rounds of one block would come before those of the next, each waiting for the one before.
        for key in black_box(&self.keys[1..14]) {
            for block in &mut blocks {
                *block = _mm_aesenc_si128(*block, *key);
            }
        }
        for block in &mut blocks {
            *block = _mm_aesenclast_si128(*block, self.keys[14]);
        }
        blocks
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn apply(&mut self, group: &mut [u8; GROUP_LEN]) {
        for (bytes, key) in group.as_chunks_mut().0.iter_mut().zip(self.next::<GROUP>()) {
            store128(bytes, _mm_xor_si128(load128(bytes), key));
        }
    }

    /// Less than a group.
    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn apply_last(&mut self, tail: &mut [u8]) {
        let mut key_stream = [0; GROUP_LEN];
        match tail.len().div_ceil(BLOCK) {
            0 => return,
            1..=2 => self.write::<2>(&mut key_stream),
            3..=5 => self.write::<5>(&mut key_stream),
            _ => self.write::<GROUP>(&mut key_stream),
        }
        for (byte, key) in tail.iter_mut().zip(key_stream) {
            *byte ^= key;
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,aes,pclmulqdq")]
    fn write<const N: usize>(&mut self, key_stream: &mut [u8; GROUP_LEN]) {
        for (bytes, key) in key_stream.as_chunks_mut().0.iter_mut().zip(self.next::<N>()) {
            store128(bytes, key);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn swap_counter(counter: __m128i) -> __m128i {
    _mm_shuffle_epi8(counter, _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
}
