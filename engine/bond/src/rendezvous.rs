//! Which path a flow belongs to, by weighted rendezvous hashing: shares are as the weights, and a path that goes or comes
//! moves only its own flows. // defect B9: ports of one parity do not meet here
// spec: bonding, "Flow assignment"

/// A hash of flow and path under a secret of ours.
pub fn hash(secret: u64, flow: u64, path: u64) -> u64 {
    // Two rounds of a 64-bit finaliser: every bit of any of the three reaches every bit of the result.
    mix(mix(flow ^ secret).wrapping_add(path.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ secret.rotate_left(32))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The index of the path with the highest score: -weight / ln(u).
pub fn choose(secret: u64, flow: u64, paths: impl IntoIterator<Item = (u64, f64)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, (key, weight)) in paths.into_iter().enumerate() {
        // In (0, 1), so the logarithm is negative and finite.
        let u = ((hash(secret, flow, key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = -weight / u.ln();
        if best.is_none_or(|b| score > b.1) {
            best = Some((i, score));
        }
    }
    best.map(|b| b.0)
}
