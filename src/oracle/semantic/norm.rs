//! Group and layer norms, whole and in parts.

use fisec_ir::{Activation, GroupNorm};
use fisec_tensor::{DType, Mask};
use rayon::prelude::*;

use super::pointwise::activate;
use crate::Tensor;
use crate::masks::pixels;
use crate::math::moments;

pub(super) fn group_norm_op(op: &GroupNorm, operands: &[&Tensor]) -> Tensor {
    activate(
        &group_norm(operands[0], operands[1], operands[2], op.groups, op.epsilon),
        op.activation,
    )
}

/// Group norm over `[N, C, …]` with `gamma[C]` and `beta[C]`.
pub(crate) fn group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, epsilon: f64) -> Tensor {
    let coefficients = coefficients(&[&stats(x, groups), gamma, beta], groups, epsilon);
    affine(x, &coefficients, Activation::None)
}

/// Mean and biased variance per image and group: `[N, groups, 2]`.
pub(super) fn stats(x: &Tensor, groups: usize) -> Tensor {
    let [images, channels, pixels] = x.planes();
    let group = channels / groups * pixels;
    let all = (0..images * groups).into_par_iter();
    let moments = all
        .flat_map_iter(|index| moments(&x.data[index * group..(index + 1) * group]))
        .collect();
    Tensor::typed(DType::F32, [images, groups, 2], moments)
}

/// Statistics of `where(active, x, recorded)` from those of `recorded`: sums corrected by what changed.
pub(super) fn updated_stats(operands: &[&Tensor], groups: usize, active: Option<&Mask>) -> Result<Tensor, String> {
    let [x, recorded, stats] = operands else {
        unreachable!("typed")
    };
    let changed: Vec<bool> = match active {
        Some(mask) => {
            let pixel = pixels(mask, x)?;
            (0..x.data.len()).map(|at| mask.bits()[pixel(at)]).collect()
        }
        None => vec![true; x.data.len()],
    };
    let [images, channels, plane] = x.planes();
    let group = channels / groups * plane;
    let update = |index: usize| {
        let [mean, variance] = [stats.data[2 * index], stats.data[2 * index + 1]];
        let mut sum = mean * group as f64;
        let mut squares = (variance + mean * mean) * group as f64;
        for at in (index * group..(index + 1) * group).filter(|&at| changed[at]) {
            sum += x.data[at] - recorded.data[at];
            squares += x.data[at].powi(2) - recorded.data[at].powi(2);
        }
        let mean = sum / group as f64;
        [mean, squares / group as f64 - mean * mean]
    };
    let updated = (0..images * groups).flat_map(update).collect();
    Ok(Tensor::typed(DType::F32, [images, groups, 2], updated))
}

/// Scale and shift per image and channel: `[N, 2, C]`.
pub(super) fn coefficients(operands: &[&Tensor], groups: usize, epsilon: f64) -> Tensor {
    let [stats, gamma, beta] = operands else {
        unreachable!("typed")
    };
    let (images, channels) = (stats.shape[0], gamma.data.len());
    let mut data = vec![0.0; images * 2 * channels];
    for image in 0..images {
        for channel in 0..channels {
            let group = image * groups + channel / (channels / groups);
            let [mean, variance] = [stats.data[2 * group], stats.data[2 * group + 1]];
            let scale = gamma.data[channel] / (variance + epsilon).sqrt();
            data[2 * image * channels + channel] = scale;
            data[(2 * image + 1) * channels + channel] = beta.data[channel] - mean * scale;
        }
    }
    Tensor::typed(DType::F32, [images, 2, channels], data)
}

/// `activation(x * scale + shift)` per image and channel.
pub(super) fn affine(x: &Tensor, coefficients: &Tensor, activation: Activation) -> Tensor {
    let [_, channels, pixels] = x.planes();
    let mut y = x.clone();
    y.data
        .par_chunks_mut(pixels.max(1))
        .enumerate()
        .for_each(|(plane, values)| {
            let (image, channel) = (plane / channels, plane % channels);
            let scale = coefficients.data[2 * image * channels + channel];
            let shift = coefficients.data[(2 * image + 1) * channels + channel];
            values.iter_mut().for_each(|value| *value = *value * scale + shift);
        });
    activate(&y, activation)
}

/// Layer norm over the last axis.
pub(crate) fn layer_norm(x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>, epsilon: f64) -> Tensor {
    let [_, width] = x.rows();
    let mut y = x.clone();
    y.data.par_chunks_mut(width.max(1)).for_each(|row| {
        let [mean, variance] = moments(row);
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (column, value) in row.iter_mut().enumerate() {
            let gamma = gamma.map_or(1.0, |gamma| gamma.data[column]);
            let beta = beta.map_or(0.0, |beta| beta.data[column]);
            *value = (*value - mean) * scale * gamma + beta;
        }
    });
    y
}
