//! Convolution: every output row is the sum over channels and taps of shifted input rows.

use fisec_ir::{Activation, Conv, ConvOperand};
use rayon::prelude::*;

use super::{concat, upsample};
use crate::Tensor;
use crate::math::{TOGETHER, add_scaled};

/// Geometry of a convolution.
pub(crate) struct Window {
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    /// zero rows above and columns left of the input
    pub(crate) before: [usize; 2],
    /// rows and columns of the result
    pub(crate) output: [usize; 2],
    pub(crate) groups: usize,
}

/// [`fisec_ir::Op::Conv`] with everything that is fused into it.
pub(super) fn conv(op: &Conv, operands: &[&Tensor]) -> Tensor {
    let operand = |name| op.operand_index(name).map(|position| operands[position]);
    let mut x = operands[0].clone();
    if let Some(second) = operand(ConvOperand::SecondInput) {
        x = concat(&[&x, second], 1);
    }
    if let Some(coefficients) = operand(ConvOperand::Coefficients) {
        x = super::norm::affine(&x, coefficients, Activation::None);
    }
    x = super::pointwise::activate(&x, op.activation);
    if let Some(size) = op.upsample {
        x = upsample(&x, size);
    }
    let output = op
        .output_size(operands[0].shape[2], operands[0].shape[3])
        .expect("typed");
    let window = Window {
        stride: op.stride,
        dilation: [1, 1],
        before: [op.padding.top, op.padding.left],
        output,
        groups: 1,
    };
    let weight = operand(ConvOperand::Weight).expect("always present");
    let mut y = convolve(&x, weight, operand(ConvOperand::Bias), &window);
    if let Some(vector) = operand(ConvOperand::Vector) {
        y = super::pointwise::add_vector(&y, vector);
    }
    if let Some(residual) = operand(ConvOperand::Residual) {
        y.data
            .iter_mut()
            .zip(&residual.data)
            .for_each(|(y, residual)| *y += residual);
    }
    y
}

/// `x[N, Cin, H, W]` convolved with `weight[Cout, Cin/groups, kh, kw]`, plus `bias[Cout]`.
pub(crate) fn convolve(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: &Window) -> Tensor {
    let [images, inputs, height, width] = x.shape[..] else {
        unreachable!("a map")
    };
    let [outputs, group_inputs, kernel_rows, kernel_columns] = weight.shape[..] else {
        unreachable!("typed")
    };
    let [rows, columns] = window.output;
    let mut data = vec![0.0; images * outputs * rows * columns];
    let plane = (rows * columns).max(1);
    data.par_chunks_mut(plane).enumerate().for_each(|(index, result)| {
        let (image, output) = (index / outputs, index % outputs);
        let group = output / (outputs / window.groups);
        result.fill(bias.map_or(0.0, |bias| bias.data[output]));
        let taps = kernel_rows * kernel_columns;
        let plane = |channel: usize| {
            let start = (image * inputs + group * group_inputs + channel) * height * width;
            &x.data[start..start + height * width]
        };
        let factor = |channel: usize, tap: usize| weight.data[(output * group_inputs + channel) * taps + tap];
        let together = group_inputs - group_inputs % TOGETHER;
        for tap in 0..taps {
            let place = Place {
                tap: [tap / kernel_columns, tap % kernel_columns],
                size: [height, width],
                window,
            };
            for first in (0..together).step_by(TOGETHER) {
                let inputs: [&[f64]; TOGETHER] = std::array::from_fn(|more| plane(first + more));
                place.add(result, inputs, std::array::from_fn(|more| factor(first + more, tap)));
            }
            for channel in together..group_inputs {
                place.add(result, [plane(channel)], [factor(channel, tap)]);
            }
        }
    });
    x.like([images, outputs, rows, columns], data)
}

/// One tap of the kernel over an image of `size`.
struct Place<'w> {
    tap: [usize; 2],
    size: [usize; 2],
    window: &'w Window,
}

impl Place<'_> {
    /// Adds the tap's share of some input planes to one output plane.
    fn add<const COUNT: usize>(&self, result: &mut [f64], inputs: [&[f64]; COUNT], factors: [f64; COUNT]) {
        let Place { tap, size, window } = self;
        let [rows, columns] = [0, 1].map(|axis| inside(axis, *size, *tap, window));
        if columns.is_empty() {
            return;
        }
        let width = window.output[1];
        for row in rows {
            let from = row * window.stride[0] + tap[0] * window.dilation[0] - window.before[0];
            let start = columns.start * window.stride[1] + tap[1] * window.dilation[1] - window.before[1];
            let inputs = inputs.map(|input| &input[from * size[1] + start..(from + 1) * size[1]]);
            let result = &mut result[row * width + columns.start..row * width + columns.end];
            match window.stride[1] {
                1 => add_scaled(result, factors, inputs),
                stride => add_strided(result, factors, inputs, stride),
            }
        }
    }
}

fn add_strided<const COUNT: usize>(y: &mut [f64], factors: [f64; COUNT], x: [&[f64]; COUNT], stride: usize) {
    for (index, y) in y.iter_mut().enumerate() {
        for (factor, x) in factors.iter().zip(x) {
            *y += factor * x[index * stride];
        }
    }
}

/// The output rows (or columns) for which the tap lies inside the image.
fn inside(axis: usize, size: [usize; 2], tap: [usize; 2], window: &Window) -> std::ops::Range<usize> {
    let offset = tap[axis] * window.dilation[axis];
    let (stride, before) = (window.stride[axis], window.before[axis]);
    let first = before.saturating_sub(offset).div_ceil(stride);
    let end = (size[axis] + before).saturating_sub(offset).div_ceil(stride);
    let end = end.min(window.output[axis]);
    first.min(end)..end
}
