//! Convolution over listed output pixels: gather rows, one product per layer, epilogue.

use fisec_tensor::{PARITIES, PARITY_TAPS, tap_of_parity};
use rayon::prelude::*;

use super::map::Map;
use super::matmul::{Left, RowProduct};
use super::pointwise::affine_row;
use super::scratch::with_scratch;
use super::simd::add_to;
use super::table::ConvTable;

/// `output = conv(activation(concat(sources) * scale + shift), weight) + bias + vector + residual` over the table's
/// outputs. Pixels outside the image are zero after the activation.
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    /// N
    pub images: usize,
    /// maps that are concatenated along channels
    pub sources: &'a [Map<'a>],
    /// what is read and computed
    pub table: &'a ConvTable,
    /// `[kh, kw, Cin, Cout]`, or [`sum_weights_by_parity`] of it for a table by parity
    pub weight: &'a [f32],
    /// `[Cout]`
    pub bias: Option<&'a [f32]>,
    /// `[N, 2, Cin]` scale and shift
    pub coefficients: Option<&'a [f32]>,
    /// SiLU after scale and shift
    pub silu: bool,
    /// `[N, Cout]` added to every pixel
    pub vector: Option<&'a [f32]>,
    /// map of output size added to the output
    pub residual: Option<Map<'a>>,
}

/// Computes the convolution. `output`: rows `[N, kept, Cout]`, in the order of the table.
pub fn conv(call: &Conv<'_>, output: &mut [f32]) {
    let rows = call.images * call.table.outputs().len();
    let Some(kept) = call.table.kept() else {
        return conv_rows(call, output);
    };
    let columns = output.len() / (call.images * kept.len()).max(1);
    if columns == 0 {
        return;
    }
    with_scratch(rows * columns, |computed| {
        conv_rows(call, computed);
        keep_rows(computed, output, call.table.outputs().len(), kept, columns);
    });
}

/// Copies the kept rows of every image.
fn keep_rows(computed: &[f32], output: &mut [f32], computed_per_image: usize, kept: &[u32], columns: usize) {
    for (index, into) in output.chunks_exact_mut(columns).enumerate() {
        let row = index / kept.len() * computed_per_image + kept[index % kept.len()] as usize;
        into.copy_from_slice(&computed[row * columns..(row + 1) * columns]);
    }
}

fn conv_rows(call: &Conv<'_>, output: &mut [f32]) {
    let table = call.table;
    let channels: usize = call.sources.iter().map(|source| source.channels).sum();
    let per_image = table.outputs().len();
    let rows = call.images * per_image;
    if rows == 0 || output.is_empty() {
        return;
    }
    let columns = output.len() / rows;
    let inner = table.taps_per_output() * channels;
    let read = table.reads().len();
    with_scratch(call.images * read * channels, |input| {
        gather_input(call, channels, input);
        let input = &*input;
        if let Some(parities) = table.by_parity() {
            return product_by_parity(call, parities, input, channels, output);
        }
        let fill = |row: usize, into: &mut [f32]| {
            let image = &input[row / per_image * read * channels..][..read * channels];
            copy_taps(image, table.taps(row % per_image), channels, into);
        };
        let product = RowProduct {
            rows,
            inner,
            columns,
            left: if table.is_pointwise() {
                Left::Stored(input)
            } else {
                Left::Computed(&fill)
            },
            weight: call.weight,
        };
        product.run(output, &|row, values| {
            finish_row(call, row / per_image, table.outputs()[row % per_image] as usize, values);
        });
    });
}

/// One product for the outputs of each parity, whose rows then go where they belong.
fn product_by_parity(
    call: &Conv<'_>,
    parities: &[Vec<u32>; PARITIES],
    input: &[f32],
    channels: usize,
    output: &mut [f32],
) {
    let (table, images) = (call.table, call.images);
    let (per_image, read) = (table.outputs().len(), table.reads().len());
    let columns = output.len() / (images * per_image);
    let inner = table.taps_per_output() * channels;
    for (positions, weight) in parities.iter().zip(call.weight.chunks_exact(inner * columns)) {
        if positions.is_empty() {
            continue;
        }
        let place = |row: usize| (row / positions.len(), positions[row % positions.len()] as usize);
        let fill = |row: usize, into: &mut [f32]| {
            let (image, position) = place(row);
            let image = &input[image * read * channels..][..read * channels];
            copy_taps(image, table.taps(position), channels, into);
        };
        let product = RowProduct {
            rows: images * positions.len(),
            inner,
            columns,
            left: Left::Computed(&fill),
            weight,
        };
        with_scratch(product.rows * columns, |computed| {
            product.run(computed, &|row, values| {
                let (image, position) = place(row);
                finish_row(call, image, table.outputs()[position] as usize, values);
            });
            for (row, values) in computed.chunks_exact(columns).enumerate() {
                let (image, position) = place(row);
                output[(image * per_image + position) * columns..][..columns].copy_from_slice(values);
            }
        });
    }
}

/// `[3, 3, Cin, Cout]` as `[4, 2, 2, Cin, Cout]`: for each parity of an output behind a doubling, the weights whose taps
/// fall on one pixel summed.
pub fn sum_weights_by_parity(weight: &[f32]) -> Vec<f32> {
    let plane = weight.len() / 9;
    let mut sums = Vec::with_capacity(PARITY_TAPS * PARITIES * plane);
    for (parity, tap) in (0..PARITIES).flat_map(|parity| (0..PARITY_TAPS).map(move |tap| (parity, tap))) {
        let kernel = |at: usize| std::array::from_fn(|tap| weight[tap * plane + at]);
        sums.extend((0..plane).map(|at| tap_of_parity(kernel(at), parity, tap)));
    }
    sums
}

/// Every input row that is read, once, after scale, shift and activation: `[N, reads, Cin]`.
fn gather_input(call: &Conv<'_>, channels: usize, input: &mut [f32]) {
    let reads = call.table.reads();
    input
        .par_chunks_exact_mut(channels)
        .with_min_len(4096usize.div_ceil(channels))
        .enumerate()
        .for_each(|(index, into)| {
            let (image, pixel) = (index / reads.len(), reads[index % reads.len()] as usize);
            let mut start = 0;
            for source in call.sources {
                source.read_row(call.images, image, pixel, &mut into[start..start + source.channels]);
                start += source.channels;
            }
            if let Some(coefficients) = call.coefficients {
                affine_row(into, &coefficients[image * 2 * channels..][..2 * channels], call.silu);
            } else if call.silu {
                super::pointwise::silu_in_place(into);
            }
        });
}

/// One row of the product's left side. Neighbouring taps that stand side by side in the input are one copy.
fn copy_taps(input: &[f32], taps: &[i32], channels: usize, into: &mut [f32]) {
    let mut tap = 0;
    while tap < taps.len() {
        let first = taps[tap];
        let mut end = tap + 1;
        if first < 0 {
            while end < taps.len() && taps[end] < 0 {
                end += 1;
            }
            into[tap * channels..end * channels].fill(0.0);
        } else {
            while end < taps.len() && taps[end] == first + (end - tap) as i32 {
                end += 1;
            }
            let start = first as usize * channels;
            into[tap * channels..end * channels].copy_from_slice(&input[start..start + (end - tap) * channels]);
        }
        tap = end;
    }
}

fn finish_row(call: &Conv<'_>, image: usize, pixel: usize, values: &mut [f32]) {
    if let Some(bias) = call.bias {
        add_to(values, bias);
    }
    if let Some(vector) = call.vector {
        add_to(values, &vector[image * values.len()..][..values.len()]);
    }
    if let Some(residual) = &call.residual
        && let Some(row) = residual.fresh_row(call.images, image, pixel)
    {
        add_to(values, row);
    }
}
