//! What timing reports tell: the mean and the spread of one path's latency, from the newest samples.
// spec: bonding, "What is computed"

use crate::limits::{SAMPLES_MAX, SAMPLES_MIN};

/// The newest [`SAMPLES_MAX`] samples.
#[derive(Clone, Debug)]
pub struct Window {
    samples: [f32; SAMPLES_MAX],
    next: usize,
    len: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { samples: [0.0; SAMPLES_MAX], next: 0, len: 0 }
    }
}

impl Window {
    /// One more, in ms. What is no number is none.
    pub fn push(&mut self, ms: f32) {
        if ms.is_finite() && ms >= 0.0 {
            self.samples[self.next] = ms;
            self.next = (self.next + 1) % SAMPLES_MAX;
            self.len = (self.len + 1).min(SAMPLES_MAX);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Mean, ms. None before there are [`SAMPLES_MIN`].
    pub fn mean(&self) -> Option<f32> {
        let samples = self.filled()?;
        Some(samples.iter().sum::<f32>() / samples.len() as f32)
    }

    /// Standard deviation of the sample ("PDV", "latency variance"), ms.
    pub fn deviation(&self) -> Option<f32> {
        let (samples, mean) = (self.filled()?, self.mean()?);
        let squares: f32 = samples.iter().map(|s| (s - mean) * (s - mean)).sum();
        Some((squares / (samples.len() - 1) as f32).sqrt())
    }

    fn filled(&self) -> Option<&[f32]> {
        (self.len >= SAMPLES_MIN).then(|| &self.samples[..self.len])
    }
}
