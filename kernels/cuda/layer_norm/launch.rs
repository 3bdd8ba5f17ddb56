//! Launching `layer_norm`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Launch};

/// Most channels that the kernel takes.
pub const LARGEST_LAYER_NORM: usize = 2048;

/// Parameters of `layer_norm`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct LayerNormParams {
    /// f16 `[images * live, source_stride]`
    pub source: Address,
    /// f16 `[images * live, output_stride]`
    pub output: Address,
    /// f16 `[channels]`
    pub gamma: u64,
    /// f16 `[channels]`
    pub beta: u64,
    /// this step's table
    pub slots: u64,
    /// rows of one image
    pub live: Count,
    /// images
    pub images: i32,
    /// channels
    pub channels: i32,
    /// elements
    pub source_stride: i32,
    /// elements
    pub output_stride: i32,
    /// added to the variance
    pub epsilon: f32,
    /// zero
    pub reserved: i32,
}

/// Norm of at most `rows` rows of all images.
pub fn layer_norm(params: &LayerNormParams, rows: usize) -> Launch {
    Launch::new("layer_norm", "layer_norm", [rows.div_ceil(4), 1, 1], 128, params)
}
