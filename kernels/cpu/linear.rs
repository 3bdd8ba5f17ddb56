//! Matrix product over rows, with layer norm before and GEGLU or a residual after.

use super::layer_norm::LayerNorm;
use super::map::Map;
use super::matmul::{Left, RowProduct};
use super::pointwise::geglu;
use super::scratch::with_scratch;
use super::simd::add_to;

/// `output = geglu?(layer_norm?(input) weight + bias) + residual`.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// rows `[N, rows, Cin]`
    pub input: &'a [f32],
    /// N
    pub images: usize,
    /// applied first
    pub layer_norm: Option<LayerNorm<'a>>,
    /// `[Cin, Cout]`
    pub weight: &'a [f32],
    /// columns of the weight
    pub columns: usize,
    /// `[Cout]`
    pub bias: Option<&'a [f32]>,
    /// the product's columns are `[a | g]`, the result `a * gelu(g)`
    pub geglu: bool,
    /// added to the result
    pub residual: Option<Residual<'a>>,
}

/// Rows added to a result: those of `map` at `pixels`, per image.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// where the rows come from
    pub map: Map<'a>,
    /// pixel of every result row; `None`: row `i` is pixel `i`
    pub pixels: Option<&'a [u32]>,
}

/// Computes the product. `output`: rows of `Cout`, half of that with GEGLU.
pub fn linear(call: &Linear<'_>, output: &mut [f32]) {
    let inner = call.weight.len() / call.columns;
    let rows = call.input.len() / inner;
    let normalise = |row: usize, into: &mut [f32]| {
        let norm = call.layer_norm.as_ref().expect("only called with a layer norm");
        norm.row(&call.input[row * inner..(row + 1) * inner], into);
    };
    let product = RowProduct {
        rows,
        inner,
        columns: call.columns,
        left: if call.layer_norm.is_some() {
            Left::Computed(&normalise)
        } else {
            Left::Stored(call.input)
        },
        weight: call.weight,
    };
    let add_bias = |values: &mut [f32]| {
        if let Some(bias) = call.bias {
            add_to(values, bias);
        }
    };
    if !call.geglu {
        return product.run(output, &|row, values| {
            add_bias(values);
            add_residual(call, rows, row, values);
        });
    }
    let channels = call.columns / 2;
    with_scratch(rows * call.columns, |gated| {
        product.run(gated, &|_, values| add_bias(values));
        geglu(gated, channels, output);
    });
    for (row, values) in output.chunks_exact_mut(channels).enumerate() {
        add_residual(call, rows, row, values);
    }
}

fn add_residual(call: &Linear<'_>, rows: usize, row: usize, values: &mut [f32]) {
    let Some(residual) = &call.residual else { return };
    let per_image = rows / call.images;
    let index = row % per_image;
    let pixel = residual.pixels.map_or(index, |pixels| pixels[index] as usize);
    if let Some(other) = residual.map.fresh_row(call.images, row / per_image, pixel) {
        add_to(values, other);
    }
}
