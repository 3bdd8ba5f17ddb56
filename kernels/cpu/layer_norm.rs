//! Layer norm over rows.

use rayon::prelude::*;

use super::simd::{LANES, vectorised};

/// Gamma, beta and epsilon of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[C]`
    pub gamma: &'a [f32],
    /// `[C]`
    pub beta: &'a [f32],
    /// added to the variance
    pub epsilon: f32,
}

vectorised! {
    fn sum(values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane += value;
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

vectorised! {
    fn squared_distance(values: &[f32], from: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane += (value - from) * (value - from);
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().map(|value| (value - from) * (value - from)).sum::<f32>()
    }
}

vectorised! {
    fn normalise(input: &[f32], mean: f32, factor: f32, gamma: &[f32], beta: &[f32], output: &mut [f32]) {
        for (((out, value), gamma), beta) in output.iter_mut().zip(input).zip(gamma).zip(beta) {
            *out = (value - mean) * factor * gamma + beta;
        }
    }
}

impl LayerNorm<'_> {
    /// Normalises one row.
    pub(crate) fn row(&self, input: &[f32], output: &mut [f32]) {
        let mean = sum(input) / input.len() as f32;
        let variance = squared_distance(input, mean) / input.len() as f32;
        let factor = 1.0 / (variance + self.epsilon).sqrt();
        normalise(input, mean, factor, self.gamma, self.beta, output);
    }
}

/// Layer norm of every row.
pub fn layer_norm(norm: &LayerNorm<'_>, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "output like the input");
    let channels = norm.gamma.len();
    output
        .par_chunks_exact_mut(channels)
        .with_min_len(8192usize.div_ceil(channels))
        .zip(input.par_chunks_exact(channels))
        .for_each(|(output, input)| norm.row(input, output));
}
