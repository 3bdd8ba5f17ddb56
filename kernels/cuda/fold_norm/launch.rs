//! Launching `fold_norm`.

use bytemuck::{Pod, Zeroable};

use super::Launch;

/// Parameters of `fold_norm`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct FoldParams {
    /// f16 `[k_tiles, cout, 64]`, changed in place
    pub weights: u64,
    /// f16 `[channels]`
    pub gamma: u64,
    /// f16 `[channels]`
    pub beta: u64,
    /// f16 `[cout]`, or 0
    pub bias: u64,
    /// f16 `[cout]`, written
    pub folded_bias: u64,
    /// f32 `[cout]`, written
    pub column_sums: u64,
    /// rows of the weights
    pub channels: i32,
    /// columns
    pub cout: i32,
}

/// Folds a layer norm into the product behind it. Not twice.
pub fn fold_norm(params: &FoldParams) -> Launch {
    let grid = [(params.cout as usize).div_ceil(4), 1, 1];
    Launch {
        overlap: false,
        ..Launch::new("fold_norm", "fold_norm", grid, 128, params)
    }
}
