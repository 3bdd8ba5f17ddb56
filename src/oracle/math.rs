//! Loops that all operators share.

use rayon::prelude::*;

/// Rows of a product that are computed together, so that each row of the right-hand side is read once for all of them.
const ROW_BLOCK: usize = 8;

/// Rows that are added to another in one go, so that it is loaded and stored once for all of them.
pub(crate) const TOGETHER: usize = 4;

/// `a[m, k] · b[k, n]`, sums in the order of `k`.
pub(crate) fn matmul(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut product = vec![0.0; m * n];
    if n == 0 {
        return product;
    }
    product
        .par_chunks_mut(ROW_BLOCK * n)
        .zip(a.par_chunks(ROW_BLOCK * k.max(1)))
        .for_each(|(rows, left)| {
            for start in (0..k).step_by(TOGETHER) {
                let count = TOGETHER.min(k - start);
                let right = &b[start * n..(start + count) * n];
                for (row, left) in rows.chunks_exact_mut(n).zip(left.chunks_exact(k)) {
                    add_scaled_rows(row, &left[start..start + count], right);
                }
            }
        });
    product
}

/// `y += Σ factors[r] * rows[r]`, in the order of the rows; `rows` holds one after the other.
pub(crate) fn add_scaled_rows(y: &mut [f64], factors: &[f64], rows: &[f64]) {
    let width = y.len();
    if width == 0 {
        return;
    }
    let mut quads = factors.chunks_exact(TOGETHER);
    let mut blocks = rows.chunks_exact(TOGETHER * width);
    for (factors, block) in quads.by_ref().zip(blocks.by_ref()) {
        let rows = std::array::from_fn(|row| &block[row * width..(row + 1) * width]);
        add_scaled::<TOGETHER>(y, factors.try_into().expect("as many"), rows);
    }
    for (factor, row) in quads.remainder().iter().zip(blocks.remainder().chunks_exact(width)) {
        add_scaled(y, [*factor], [row]);
    }
}

/// `y += Σ factors[r] * x[r]`, one after the other for every element.
pub(crate) fn add_scaled<const COUNT: usize>(y: &mut [f64], factors: [f64; COUNT], x: [&[f64]; COUNT]) {
    let x = x.map(|x| &x[..y.len()]);
    for (index, y) in y.iter_mut().enumerate() {
        for (factor, x) in factors.iter().zip(x) {
            *y += factor * x[index];
        }
    }
}

/// `[rows, columns]` transposed.
pub(crate) fn transpose(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut turned = vec![0.0; x.len()];
    for row in 0..rows {
        for column in 0..columns {
            turned[column * rows + row] = x[row * columns + column];
        }
    }
    turned
}

/// Makes probabilities of scores, in place. A row without a finite score has none: zero throughout.
pub(crate) fn softmax(scores: &mut [f64]) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return scores.fill(0.0);
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Mean and biased variance.
pub(crate) fn moments(values: &[f64]) -> [f64; 2] {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    [mean, variance]
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}
