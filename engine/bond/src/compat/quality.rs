//! How good the paths of a bond are, relative to each other.
// spec: bonding, "Quality"

use crate::config::QualityLimits;

/// What one path's quality is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// ms.
    pub latency: f32,
    /// ms.
    pub pdv: f32,
    /// Ratio.
    pub loss: f32,
    /// Ratio.
    pub error: f32,
    /// Of its link, any unit.
    pub capacity: u64,
    /// Carries traffic.
    pub bonded: bool,
    /// Relative quality so far.
    pub before: f32,
}

/// What follows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Share of the sum of all.
    pub relative: f32,
    /// Share of the largest capacity. None: no link has one.
    pub capacity: Option<f32>,
    /// Beyond one of the limits.
    pub violates: bool,
}

/// Estimates all paths of a bond anew, into `out`.
pub fn estimate(limits: &QualityLimits, paths: &[Measured], out: &mut Vec<Quality>) {
    let maxima = [limits.latency_max, limits.pdv_max, limits.loss_max, limits.error_max];
    let values = |p: &Measured| [p.latency, p.pdv, p.loss, p.error];
    // exp(-4 x value / max). A limit of 0 makes every value but 0 infinitely bad.
    let x = |p: &Measured, k: usize| {
        let (value, max) = (values(p)[k], maxima[k]);
        if value <= 0.0 { 1.0 } else { (-4.0 * value / max.max(f32::MIN_POSITIVE)).exp() }
    };
    let best = [0, 1, 2, 3].map(|k| paths.iter().map(|p| x(p, k)).fold(0.0, f32::max));
    let largest = paths.iter().map(|p| p.capacity).max().unwrap_or(0);
    let start = out.len();
    for p in paths {
        let capacity = (largest > 0).then(|| p.capacity as f32 / largest as f32);
        let of_best = |k: usize| if best[k] > 0.0 { x(p, k) / best[k] } else { 1.0 };
        let sum: f32 = (0..4).map(|k| limits.weights[k] * of_best(k)).sum();
        let absolute = if p.bonded { capacity.unwrap_or(0.0) * sum } else { 0.0 };
        let violates = (0..4).any(|k| values(p)[k] > maxima[k]);
        out.push(Quality { relative: absolute, capacity, violates });
    }
    let estimates = &mut out[start..];
    let sum: f32 = estimates.iter().map(|q| q.relative).sum();
    for (q, p) in estimates.iter_mut().zip(paths) {
        q.relative = if sum > 0.0 { q.relative / sum } else { p.before };
    }
}

/// The next avoid mark: one that was set is always taken away (defect B7, recorded).
pub fn avoid_next(before: bool, violates: bool) -> bool {
    !before && violates
}
