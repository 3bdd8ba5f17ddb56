//! Convolution: every output row is the sum over channels and taps of shifted input rows.

use fisec_ir::{Activation, Conv, ConvOperand};
use rayon::prelude::*;

use super::{concat, upsample};
use crate::Tensor;

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
        for channel in 0..group_inputs {
            let input = (image * inputs + group * group_inputs + channel) * height * width;
            let input = &x.data[input..input + height * width];
            for tap in 0..kernel_rows * kernel_columns {
                let factor = weight.data[(output * group_inputs + channel) * kernel_rows * kernel_columns + tap];
                let at = [tap / kernel_columns, tap % kernel_columns];
                add_tap(result, input, [height, width], factor, at, window);
            }
        }
    });
    x.like([images, outputs, rows, columns], data)
}

/// Adds one tap's share of one input plane to one output plane.
fn add_tap(result: &mut [f64], input: &[f64], size: [usize; 2], factor: f64, tap: [usize; 2], window: &Window) {
    let [rows, columns] = [0, 1].map(|axis| inside(axis, size, tap, window));
    let width = window.output[1];
    for row in rows {
        let from = row * window.stride[0] + tap[0] * window.dilation[0] - window.before[0];
        let input = &input[from * size[1]..(from + 1) * size[1]];
        let result = &mut result[row * width + columns.start..row * width + columns.end];
        let start = columns.start * window.stride[1] + tap[1] * window.dilation[1];
        if result.is_empty() {
            continue;
        }
        let input = &input[start - window.before[1]..];
        match window.stride[1] {
            1 => crate::math::add_scaled(result, factor, input),
            stride => result
                .iter_mut()
                .zip(input.iter().step_by(stride))
                .for_each(|(y, x)| *y += factor * x),
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
