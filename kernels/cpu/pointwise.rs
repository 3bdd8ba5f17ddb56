//! Elementwise kernels over rows.

use rayon::prelude::*;

use super::simd::{add_to, gelu, silu_of, vectorised};

/// Elements that one thread takes at a time.
const BLOCK: usize = 16 * 1024;

vectorised! {
    /// SiLU of every element.
    pub(crate) fn silu_in_place(values: &mut [f32]) {
        for value in values {
            *value = silu_of::<FMA>(*value);
        }
    }
}

vectorised! {
    fn scale_and_shift(values: &mut [f32], scale: &[f32], shift: &[f32]) {
        for ((value, scale), shift) in values.iter_mut().zip(scale).zip(shift) {
            *value = *value * scale + shift;
        }
    }
}

vectorised! {
    fn scale_shift_silu(values: &mut [f32], scale: &[f32], shift: &[f32]) {
        for ((value, scale), shift) in values.iter_mut().zip(scale).zip(shift) {
            *value = silu_of::<FMA>(*value * scale + shift);
        }
    }
}

vectorised! {
    fn geglu_row(input: &[f32], output: &mut [f32]) {
        let (values, gates) = input.split_at(output.len());
        for ((out, value), gate) in output.iter_mut().zip(values).zip(gates) {
            *out = value * gelu::<FMA>(*gate);
        }
    }
}

/// One row through `silu?(x * scale + shift)`; `coefficients` is `[2, C]`.
pub(crate) fn affine_row(row: &mut [f32], coefficients: &[f32], silu: bool) {
    let (scale, shift) = coefficients.split_at(row.len());
    if silu {
        scale_shift_silu(row, scale, shift);
    } else {
        scale_and_shift(row, scale, shift);
    }
}

/// `output = silu(input)`.
pub fn silu(input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "output like the input");
    output
        .par_chunks_mut(BLOCK)
        .zip(input.par_chunks(BLOCK))
        .for_each(|(output, input)| {
            output.copy_from_slice(input);
            silu_in_place(output);
        });
}

/// `output = a + b`.
pub fn add(a: &[f32], b: &[f32], output: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == output.len(), "operands of one size");
    output
        .par_chunks_mut(BLOCK)
        .zip(a.par_chunks(BLOCK))
        .zip(b.par_chunks(BLOCK))
        .for_each(|((output, a), b)| {
            output.copy_from_slice(a);
            add_to(output, b);
        });
}

/// `output = silu?(input * scale + shift)`: rows `[N, rows, C]`, coefficients `[N, 2, C]`.
pub fn affine(input: &[f32], coefficients: &[f32], images: usize, silu: bool, output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "output like the input");
    let channels = coefficients.len() / (2 * images);
    let per_image = input.len() / (images * channels);
    output
        .par_chunks_exact_mut(channels)
        .with_min_len(BLOCK.div_ceil(channels))
        .zip(input.par_chunks_exact(channels))
        .enumerate()
        .for_each(|(row, (output, input))| {
            output.copy_from_slice(input);
            let image = row / per_image;
            affine_row(output, &coefficients[image * 2 * channels..][..2 * channels], silu);
        });
}

/// `output = a * gelu(g)` over input rows `[a | g]` of `2 * channels`.
pub fn geglu(input: &[f32], channels: usize, output: &mut [f32]) {
    assert_eq!(input.len(), 2 * output.len(), "input rows hold values and gates");
    output
        .par_chunks_exact_mut(channels)
        .with_min_len(BLOCK.div_ceil(channels))
        .zip(input.par_chunks_exact(2 * channels))
        .for_each(|(output, input)| geglu_row(input, output));
}
