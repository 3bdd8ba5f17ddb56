//! Matrix products of f32 slices.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::scratch::with_scratch;

/// A matrix over a slice: element `(row, column)` stands at `row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` contiguous elements.
    pub(crate) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Matrix {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// Rows that are `stride` elements apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Matrix {
            row_stride: stride,
            ..Matrix::dense(data, rows, columns)
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn check(&self) {
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride;
            assert!(last < self.data.len(), "matrix inside its slice");
        }
    }
}

/// `output = left * right`, or `output += left * right` with `accumulate`; output rows are contiguous.
pub(crate) fn multiply(output: &mut [f32], left: Matrix<'_>, right: Matrix<'_>, accumulate: bool, threads: usize) {
    assert_eq!(left.columns, right.rows, "inner dimensions agree");
    assert_eq!(output.len(), left.rows * right.columns, "output of the product's size");
    left.check();
    right.check();
    if output.is_empty() {
        return;
    }
    let parallelism = if threads > 1 {
        Parallelism::Rayon(threads)
    } else {
        Parallelism::None
    };
    // SAFETY: `check` and the assertions above keep every element that the strides reach inside its slice; `output` is
    // exclusive.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            output.as_mut_ptr(),
            1,
            right.columns as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The left side of a product over rows.
pub(crate) enum Left<'a> {
    /// rows as they stand in memory
    Stored(&'a [f32]),
    /// rows made when they are needed: `fill(row, into)`
    Computed(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// `rows × inner` times `inner × columns`.
pub(crate) struct RowProduct<'a> {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
    pub(crate) left: Left<'a>,
    pub(crate) weight: &'a [f32],
}

/// Weights up to this size stay in a core's cache while blocks of rows pass by.
const SMALL_WEIGHT: usize = 256 * 1024;
/// Elements of a block's left side: half of a common L2 cache.
const BLOCK: usize = 128 * 1024;
/// Products with fewer multiply-accumulates are not worth a second thread.
const SERIAL: usize = 200_000;

impl RowProduct<'_> {
    /// Computes the product into `output` (`rows × columns`) and calls `finish(row, values)` on every row of it.
    pub(crate) fn run(&self, output: &mut [f32], finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        assert_eq!(output.len(), self.rows * self.columns, "output of the product's size");
        assert_eq!(
            self.weight.len(),
            self.inner * self.columns,
            "weight of the product's size"
        );
        let threads = rayon::current_num_threads();
        if threads == 1 || self.rows * self.inner * self.columns < SERIAL {
            self.block(0..self.rows, output, finish);
        } else if self.weight.len() <= SMALL_WEIGHT && self.rows >= 32 * threads {
            let rows = self.block_rows(threads);
            output
                .par_chunks_mut(rows * self.columns)
                .enumerate()
                .for_each(|(index, block)| {
                    let start = index * rows;
                    self.block(start..start + block.len() / self.columns, block, finish);
                });
        } else {
            self.whole(threads, output, finish);
        }
    }

    /// Rows per block: fits the cache, a few blocks per thread, whole register tiles.
    fn block_rows(&self, threads: usize) -> usize {
        let fitting = (BLOCK / self.inner).max(48);
        let even = self.rows.div_ceil(threads * self.rows.div_ceil(threads * fitting));
        even.next_multiple_of(16)
    }

    fn block(&self, rows: Range<usize>, output: &mut [f32], finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let weight = Matrix::dense(self.weight, self.inner, self.columns);
        match self.left {
            Left::Stored(values) => {
                let values = &values[rows.start * self.inner..rows.end * self.inner];
                multiply(output, Matrix::dense(values, rows.len(), self.inner), weight, false, 1);
            }
            Left::Computed(fill) => with_scratch(rows.len() * self.inner, |values| {
                for (row, into) in rows.clone().zip(values.chunks_exact_mut(self.inner)) {
                    fill(row, into);
                }
                multiply(output, Matrix::dense(values, rows.len(), self.inner), weight, false, 1);
            }),
        }
        for (row, values) in rows.zip(output.chunks_exact_mut(self.columns)) {
            finish(row, values);
        }
    }

    /// One product on all threads: large weights must be read once, not once per block.
    fn whole(&self, threads: usize, output: &mut [f32], finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let weight = Matrix::dense(self.weight, self.inner, self.columns);
        match self.left {
            Left::Stored(values) => {
                multiply(
                    output,
                    Matrix::dense(values, self.rows, self.inner),
                    weight,
                    false,
                    threads,
                );
            }
            Left::Computed(fill) => with_scratch(self.rows * self.inner, |values| {
                values
                    .par_chunks_exact_mut(self.inner)
                    .with_min_len(8)
                    .enumerate()
                    .for_each(|(row, into)| fill(row, into));
                multiply(
                    output,
                    Matrix::dense(values, self.rows, self.inner),
                    weight,
                    false,
                    threads,
                );
            }),
        }
        output
            .par_chunks_exact_mut(self.columns)
            .with_min_len(16)
            .enumerate()
            .for_each(|(row, values)| finish(row, values));
    }
}
