//! The Internet checksum (RFC 1071) over whatever bytes it is given. It must never know a protocol.

/// The ones' complement sum of `bytes` as big-endian 16-bit words, the last padded with zero, folded to 16 bits. Wide
/// words are summed as they lie in memory, which the sum allows, and the order of bytes is put right at the end.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    const LANES: usize = 8;
    let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
    let mut lanes = [0u64; LANES];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, tail) = rest.as_chunks::<2>();
    let mut total: u64 = lanes.iter().sum();
    total += words.iter().map(|&word| u64::from(u16::from_ne_bytes(word))).sum::<u64>();
    if let [last] = tail {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(total).to_be()
}

/// Adds the carries back in. Zero only if every word was zero.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of folded sums.
pub(crate) fn join<const N: usize>(sums: [u16; N]) -> u16 {
    fold(sums.iter().map(|&sum| u64::from(sum)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_equals_that_of_single_words_for_every_length() {
        let bytes: Vec<u8> = (0..300u32).map(|n| (n * 151 + (n >> 3) * 77) as u8).collect();
        for from in 0..9 {
            for to in from..bytes.len() {
                let bytes = &bytes[from..to];
                let plain = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
                assert_eq!(sum(bytes), fold(plain.sum()));
            }
        }
        assert_eq!(sum(&[0xff; 65_536]), 0xffff);
        assert_eq!(sum(&[0; 65_536]), 0);
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
