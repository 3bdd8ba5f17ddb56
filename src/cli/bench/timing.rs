//! Times of repeated runs, and inputs that are the same on every machine.

use std::time::Duration;

/// Seconds of repeated runs.
#[derive(Clone, Debug, Default)]
pub struct Timing(Vec<f64>);

impl Timing {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle one, or the mean of both middle ones.
    pub fn median(&self) -> f64 {
        let count = self.0.len();
        match count {
            0 => 0.0,
            _ => (self.0[(count - 1) / 2] + self.0[count / 2]) / 2.0,
        }
    }

    pub fn fastest(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    pub fn slowest(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }
}

/// Reproducible values of about unit variance.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    // The sum of three uniform numbers has variance 1/4.
    (0..count)
        .map(|_| 2.0 * (uniform() + uniform() + uniform() - 1.5))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_mind_one_slow_run() {
        let mut timing = Timing::default();
        for milliseconds in [5, 900, 4, 6] {
            timing.add(Duration::from_millis(milliseconds));
        }
        assert!((timing.median() - 0.0055).abs() < 1e-9);
        assert_eq!((timing.fastest(), timing.slowest()), (0.004, 0.9));
    }

    #[test]
    fn noise_has_unit_variance() {
        let values = noise(100_000, 3);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
