//! Scaled dot-product attention of some queries over all keys, block by block.

use rayon::prelude::*;

use super::matmul::{Matrix, multiply};
use super::scratch::with_scratch;
use super::simd::{exponentials, largest, scale_by};

/// `output = softmax(q k^T * scale) v` per image and head.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// N
    pub images: usize,
    /// number of heads; channels are `heads * D`
    pub heads: usize,
    /// `heads * D`
    pub channels: usize,
    /// `[N, queries, channels]`
    pub q: &'a [f32],
    /// `[N, keys, channels]`
    pub k: &'a [f32],
    /// `[N, keys, channels]`
    pub v: &'a [f32],
    /// factor on the scores
    pub scale: f32,
}

/// Keys per block: scores of a block of queries stay in the cache.
const KEYS: usize = 512;
/// Most queries per block.
const QUERIES: usize = 256;

/// Computes attention. `output`: `[N, queries, channels]`. Without keys it is zero.
pub fn attention(call: &Attention<'_>, output: &mut [f32]) {
    assert_eq!(output.len(), call.q.len(), "output like the queries");
    assert_eq!(call.k.len(), call.v.len(), "as many keys as values");
    let width = call.channels / call.heads;
    let queries = call.q.len() / (call.images * call.channels);
    if queries == 0 {
        return;
    }
    let block = queries_per_block(call, queries);
    let blocks = queries.div_ceil(block);
    let shared = Output {
        start: output.as_mut_ptr(),
        length: output.len(),
    };
    (0..call.images * call.heads * blocks)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let (image, head, first) = (
                task / blocks / call.heads,
                task / blocks % call.heads,
                task % blocks * block,
            );
            let count = block.min(queries - first);
            let place = Place {
                image,
                column: head * width,
                width,
                row: image * queries + first,
                count,
            };
            attend(call, &place, &shared);
        });
}

/// Enough blocks for every thread, none larger than the cache likes.
fn queries_per_block(call: &Attention<'_>, queries: usize) -> usize {
    let wanted = (2 * rayon::current_num_threads()).div_ceil(call.images * call.heads);
    queries.div_ceil(wanted).clamp(16, QUERIES)
}

struct Place {
    image: usize,
    column: usize,
    width: usize,
    row: usize,
    count: usize,
}

/// The output rows, written by several threads at disjoint places.
struct Output {
    start: *mut f32,
    length: usize,
}

// SAFETY: every task writes other rows or columns, see `store`.
unsafe impl Sync for Output {}

fn attend(call: &Attention<'_>, place: &Place, output: &Output) {
    let keys = call.k.len() / (call.images * call.channels);
    let (count, width) = (place.count, place.width);
    with_scratch(count * (KEYS + 2 * width + 2), |scratch| {
        let (scores, rest) = scratch.split_at_mut(count * KEYS);
        let (sums, rest) = rest.split_at_mut(count * width);
        let (queries, rest) = rest.split_at_mut(count * width);
        let (peaks, totals) = rest.split_at_mut(count);
        sums.fill(0.0);
        peaks.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        for (query, into) in queries.chunks_exact_mut(width).enumerate() {
            into.copy_from_slice(&call.q[(place.row + query) * call.channels + place.column..][..width]);
        }
        for first in (0..keys).step_by(KEYS) {
            let block = KEYS.min(keys - first);
            let start = (place.image * keys + first) * call.channels + place.column;
            let k = Matrix::strided(&call.k[start..], block, width, call.channels);
            let v = Matrix::strided(&call.v[start..], block, width, call.channels);
            let scores = &mut scores[..count * block];
            multiply(scores, Matrix::dense(queries, count, width), k.transposed(), false, 1);
            for query in 0..count {
                let scores = &mut scores[query * block..(query + 1) * block];
                let shrink = soften(scores, call.scale, &mut peaks[query], &mut totals[query]);
                scale_by(&mut sums[query * width..(query + 1) * width], shrink);
            }
            multiply(sums, Matrix::dense(scores, count, block), v, true, 1);
        }
        store(sums, totals, call.channels, place, output);
    });
}

/// Turns scores into exponentials relative to the peak so far. Returns the factor on everything summed before.
fn soften(scores: &mut [f32], scale: f32, peak: &mut f32, total: &mut f32) -> f32 {
    let higher = peak.max(largest(scores) * scale);
    let shrink = (*peak - higher).exp();
    *peak = higher;
    *total = *total * shrink + exponentials(scores, scale, higher);
    shrink
}

fn store(sums: &[f32], totals: &[f32], channels: usize, place: &Place, output: &Output) {
    for (query, (sums, total)) in sums.chunks_exact(place.width).zip(totals).enumerate() {
        let start = (place.row + query) * channels + place.column;
        assert!(start + place.width <= output.length, "rows inside the output");
        // SAFETY: inside the output by the assertion; tasks differ in image, head or query block, so no two tasks share
        // an element, and nobody reads the output meanwhile.
        let into = unsafe { std::slice::from_raw_parts_mut(output.start.add(start), place.width) };
        let factor = if *total > 0.0 { 1.0 / total } else { 0.0 };
        into.copy_from_slice(sums);
        scale_by(into, factor);
    }
}
