//! Operators that look at one pixel, token or element at a time, and changes of shape.

use fisec_ir::{Activation, Linear, LinearOperand, TimestepEmbedding};
use fisec_tensor::{DType, Shape};
use rayon::prelude::*;

use crate::Tensor;
use crate::math::{gelu, matmul, sigmoid, transpose};
use crate::onnx::broadcast;

pub(super) fn activate(x: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::None => x.clone(),
        Activation::Silu => x.map(|value| value * sigmoid(value)),
        Activation::Gelu => x.map(gelu),
        Activation::QuickGelu => x.map(|value| value * sigmoid(1.702 * value)),
    }
}

/// `x · w` over the last axis, with what is fused into it.
pub(super) fn linear(op: &Linear, operands: &[&Tensor]) -> Tensor {
    let operand = |name| op.operand_index(name).map(|position| operands[position]);
    let weight = operand(LinearOperand::Weight).expect("always present");
    let mut x = operands[0].clone();
    if let Some(epsilon) = op.layer_norm {
        x = super::layer_norm(&x, operand(LinearOperand::Gamma), operand(LinearOperand::Beta), epsilon);
    }
    let [rows, inputs] = x.rows();
    let outputs = weight.shape[1];
    let mut product = matmul(&x.data, &weight.data, [rows, inputs, outputs]);
    if let Some(bias) = operand(LinearOperand::Bias) {
        for row in product.chunks_exact_mut(outputs.max(1)) {
            row.iter_mut().zip(&bias.data).for_each(|(y, bias)| *y += bias);
        }
    }
    let mut y = x.like(with_width(&x.shape, outputs), product);
    if op.geglu {
        y = geglu(&y);
    }
    if let Some(residual) = operand(LinearOperand::Residual) {
        y.data
            .iter_mut()
            .zip(&residual.data)
            .for_each(|(y, residual)| *y += residual);
    }
    y
}

/// `a * gelu(g)` with `[a | g]` the halves of the last axis.
pub(super) fn geglu(x: &Tensor) -> Tensor {
    let [_, width] = x.rows();
    let half = width / 2;
    let rows = x.data.par_chunks_exact(width.max(1));
    let data = rows
        .flat_map_iter(|row| (0..half).map(move |column| row[column] * gelu(row[half + column])))
        .collect();
    x.like(with_width(&x.shape, half), data)
}

fn with_width(shape: &Shape, width: usize) -> Shape {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape.into()
}

/// Sum with broadcasting.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    broadcast(a, b, |a, b| a + b)
}

/// A map plus one number per image and channel.
pub(super) fn add_vector(x: &Tensor, vector: &Tensor) -> Tensor {
    let [_, _, pixels] = x.planes();
    let mut y = x.clone();
    for (plane, addend) in y.data.chunks_exact_mut(pixels.max(1)).zip(&vector.data) {
        plane.iter_mut().for_each(|value| *value += addend);
    }
    y
}

/// One image as many.
pub(super) fn repeat(x: &Tensor, images: usize) -> Tensor {
    let mut shape = x.shape.to_vec();
    shape[0] = images;
    x.like(shape, x.data.repeat(images))
}

/// Concatenation along `axis`.
pub(crate) fn concat(operands: &[&Tensor], axis: usize) -> Tensor {
    let mut shape = operands[0].shape.to_vec();
    shape[axis] = operands.iter().map(|x| x.shape[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let mut data = Vec::with_capacity(shape.iter().product());
    for index in 0..outer {
        for x in operands {
            let run = x.data.len() / outer;
            data.extend_from_slice(&x.data[index * run..(index + 1) * run]);
        }
    }
    operands[0].like(shape, data)
}

/// Nearest neighbour: row `i` reads row `i * H / height`.
pub(crate) fn upsample(x: &Tensor, [height, width]: [usize; 2]) -> Tensor {
    let [images, channels, rows, columns] = x.shape[..] else {
        unreachable!("a map")
    };
    let mut data = Vec::with_capacity(images * channels * height * width);
    for plane in x.data.chunks_exact((rows * columns).max(1)) {
        for row in 0..height {
            let source = &plane[row * rows / height * columns..];
            data.extend((0..width).map(|column| source[column * columns / width]));
        }
    }
    x.like([images, channels, height, width], data)
}

/// `[N, C, H, W] -> [N, H*W, C]`.
pub(super) fn tokens(x: &Tensor) -> Tensor {
    let [images, channels, pixels] = x.planes();
    let data = per_image(x, channels, pixels);
    x.like([images, pixels, channels], data)
}

/// `[N, H*W, C] -> [N, C, H, W]`.
pub(super) fn spatial(x: &Tensor, [height, width]: [usize; 2]) -> Tensor {
    let [images, pixels, channels] = x.shape[..] else {
        unreachable!("tokens")
    };
    let data = per_image(x, pixels, channels);
    x.like([images, channels, height, width], data)
}

fn per_image(x: &Tensor, rows: usize, columns: usize) -> Vec<f64> {
    let images = x.data.par_chunks_exact((rows * columns).max(1));
    images.flat_map_iter(|image| transpose(image, rows, columns)).collect()
}

/// Cosines and sines of the timestep at falling frequencies.
pub(super) fn timestep_embedding(op: &TimestepEmbedding, t: &Tensor) -> Tensor {
    let half = op.width / 2;
    let angle = |t: f64, index: usize| {
        let exponent = -op.max_period.ln() * index as f64 / (half as f64 - op.shift);
        t * exponent.exp()
    };
    let row = |&t: &f64| {
        let sines = (0..half).map(|index| angle(t, index).sin());
        let cosines = (0..half).map(|index| angle(t, index).cos());
        match op.flip_sin_to_cos {
            true => cosines.chain(sines).collect::<Vec<f64>>(),
            false => sines.chain(cosines).collect(),
        }
    };
    let timesteps = t.data.iter().cycle().take(op.rows);
    Tensor::typed(DType::F32, [op.rows, op.width], timesteps.flat_map(row).collect())
}
