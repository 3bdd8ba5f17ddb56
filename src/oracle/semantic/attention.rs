//! Scaled dot-product attention.

use fisec_ir::{Control, conditioned};
use fisec_tensor::{DType, Mask};
use rayon::prelude::*;

use crate::Tensor;
use crate::math::{TOGETHER, add_scaled, add_scaled_rows, softmax, transpose};

/// How queries and keys split into heads.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    /// factor on the scores
    pub(crate) scale: f64,
}

/// Everything that may change the scores or probabilities of one row: image, head, query, and the row itself.
pub(crate) type Adjust<'a> = &'a (dyn Fn([usize; 3], &mut [f64]) + Sync);

pub(super) fn attention(
    operands: &[&Tensor],
    heads: Heads,
    control: Option<Control>,
    keys: Option<&Mask>,
) -> Result<Tensor, String> {
    let [q, k, v] = [operands[0], operands[1], operands[2]];
    let restrict = restriction(k, keys)?;
    let first = q.shape[0] / 2;
    let tables = control.map(|Control| [operands[3], operands[4], operands[5], operands[6]]);
    let mix = |[image, head, query]: [usize; 3], row: &mut [f64]| {
        if let Some(tables) = tables.filter(|_| image >= first) {
            steer(tables, [(image - first) * heads.count + head, query], row);
        }
    };
    Ok(attend(q, k, v, heads, &restrict, &mix))
}

/// A query sees no key behind its own place.
pub(super) fn causal(operands: &[&Tensor], heads: Heads) -> Tensor {
    let hide = |[_, _, query]: [usize; 3], row: &mut [f64]| row[query + 1..].fill(f64::NEG_INFINITY);
    attend(operands[0], operands[1], operands[2], heads, &hide, &|_, _| {})
}

/// Probabilities of the conditioned images, `[conditioned * heads, L, S]`.
pub(super) fn maps(q: &Tensor, k: &Tensor, heads: Heads, keys: Option<&Mask>) -> Result<Tensor, String> {
    let restrict = restriction(k, keys)?;
    let [images, queries, _] = q.shape[..] else {
        unreachable!("tokens")
    };
    let (key_count, first) = (k.shape[1], images / 2);
    let count = conditioned(images) * heads.count;
    let mut data = vec![0.0; count * queries * key_count];
    let block = (queries * key_count).max(1);
    data.par_chunks_mut(block).enumerate().for_each(|(index, block)| {
        let (image, head) = (first + index / heads.count, index % heads.count);
        let k = head_of(k, image, head, heads.count);
        let turned = transpose(&k, key_count, k.len() / key_count.max(1));
        let q = head_of(q, image, head, heads.count);
        let depth = q.len() / queries.max(1);
        for (query, row) in block.chunks_exact_mut(key_count.max(1)).enumerate() {
            scores(&q[query * depth..(query + 1) * depth], &turned, heads.scale, row);
            restrict([image, head, query], row);
            softmax(row);
        }
    });
    Ok(Tensor::typed(DType::F32, [count, queries, key_count], data))
}

/// `softmax(before(q k^T * scale))` after `after`, times `v`. The width of `v` may differ from that of the keys.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, before: Adjust, after: Adjust) -> Tensor {
    let [images, queries, _] = q.shape[..] else {
        unreachable!("tokens")
    };
    let (keys, width) = (k.shape[1], v.shape[2]);
    let value_depth = width / heads.count;
    let blocks: Vec<Vec<f64>> = (0..images * heads.count)
        .into_par_iter()
        .map(|index| {
            let (image, head) = (index / heads.count, index % heads.count);
            let [q, k, v] = [q, k, v].map(|x| head_of(x, image, head, heads.count));
            let depth = q.len() / queries.max(1);
            let turned = transpose(&k, keys, depth);
            let mut result = vec![0.0; queries * value_depth];
            result.par_chunks_mut(value_depth.max(1)).enumerate().for_each_init(
                || vec![0.0; keys],
                |row, (query, result)| {
                    scores(&q[query * depth..(query + 1) * depth], &turned, heads.scale, row);
                    before([image, head, query], row);
                    softmax(row);
                    after([image, head, query], row);
                    weigh(result, row, &v);
                },
            );
            result
        })
        .collect();
    let mut data = vec![0.0; images * queries * width];
    for (index, block) in blocks.iter().enumerate() {
        let (image, head) = (index / heads.count, index % heads.count);
        for (query, row) in block.chunks_exact(value_depth.max(1)).enumerate() {
            let at = (image * queries + query) * width + head * value_depth;
            data[at..at + value_depth].copy_from_slice(row);
        }
    }
    q.like([images, queries, width], data)
}

/// `Σ share · value`. What has no share is not even looked at: it may be poison.
fn weigh(result: &mut [f64], shares: &[f64], values: &[f64]) {
    let depth = result.len();
    for (shares, values) in shares.chunks(TOGETHER).zip(values.chunks((TOGETHER * depth).max(1))) {
        if shares.iter().all(|share| *share != 0.0) {
            add_scaled_rows(result, shares, values);
            continue;
        }
        for (share, value) in shares.iter().zip(values.chunks_exact(depth.max(1))) {
            if *share != 0.0 {
                add_scaled(result, [*share], [value]);
            }
        }
    }
}

fn scores(q: &[f64], turned_keys: &[f64], scale: f64, row: &mut [f64]) {
    row.fill(0.0);
    let factors: Vec<f64> = q.iter().map(|factor| factor * scale).collect();
    add_scaled_rows(row, &factors, turned_keys);
}

/// `[rows, depth]` of one image and head of `[N, rows, heads * depth]`.
fn head_of(x: &Tensor, image: usize, head: usize, heads: usize) -> Vec<f64> {
    let [_, rows, width] = x.shape[..] else {
        unreachable!("tokens")
    };
    let depth = width / heads;
    let start = image * rows * width + head * depth;
    (0..rows)
        .flat_map(|row| x.data[start + row * width..start + row * width + depth].iter().copied())
        .collect()
}

/// Takes keys outside the mask out of the competition.
fn restriction(k: &Tensor, keys: Option<&Mask>) -> Result<impl Fn([usize; 3], &mut [f64]) + Sync, String> {
    if let Some(mask) = keys.filter(|mask| mask.bits().len() != k.shape[1]) {
        return Err(format!(
            "{} keys, but a mask of {}x{}",
            k.shape[1],
            mask.height(),
            mask.width()
        ));
    }
    Ok(move |_: [usize; 3], row: &mut [f64]| {
        let Some(mask) = keys else { return };
        let inactive = row.iter_mut().zip(mask.bits()).filter(|(_, active)| !**active);
        inactive.for_each(|(score, _)| *score = f64::NEG_INFINITY);
    })
}

/// Cross-attention control: `(blend * recorded mapper + (1 - blend) * p) * weight`, per new token.
fn steer(tables: [&Tensor; 4], [map, query]: [usize; 2], row: &mut [f64]) {
    let [recorded, mapper, blend, weight] = tables;
    let keys = row.len();
    let start = (map * recorded.shape[1] + query) * keys;
    let recorded = &recorded.data[start..start + keys];
    for (token, share) in row.iter_mut().enumerate() {
        let mapped: f64 = recorded
            .iter()
            .enumerate()
            .map(|(old, share)| share * mapper.data[old * keys + token])
            .sum();
        let blend = blend.data[token];
        *share = (blend * mapped + (1.0 - blend) * *share) * weight.data[token];
    }
}
