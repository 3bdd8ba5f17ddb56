//! Launching `geglu`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Launch};

/// Parameters of `geglu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct GegluParams {
    /// f16 `[images * live, source_stride]`
    pub source: Address,
    /// f16 `[images * live, output_stride]`
    pub output: Address,
    /// this step's table
    pub slots: u64,
    /// rows of one image
    pub live: Count,
    /// images
    pub images: i32,
    /// of the output
    pub channels: i32,
    /// elements
    pub source_stride: i32,
    /// elements
    pub output_stride: i32,
}

/// At most `rows` rows of all images.
pub fn geglu(params: &GegluParams, rows: usize) -> Launch {
    let vectors = rows * params.channels as usize / 8;
    Launch::new("geglu", "geglu", [vectors.div_ceil(256), 1, 1], 256, params)
}
