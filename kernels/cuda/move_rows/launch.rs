//! Launching `move_rows`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Launch, Rows};

/// Flag of a job: SiLU after scale and shift.
pub const MOVE_SILU: i32 = 1;
/// Flag of a job: GELU, exact.
pub const MOVE_GELU: i32 = 2;
/// Flag of a job: GELU as `x * sigmoid(1.702 x)`.
pub const MOVE_QUICK_GELU: i32 = 4;

/// One job of a launch, in device memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct MoveJob {
    /// f16
    pub source: Address,
    /// f16, found like the source
    pub addend: Address,
    /// f32 `[images, 2, affine_channels]`
    pub affine: Address,
    /// f16
    pub output: Address,
    /// where rows come from
    pub source_rows: Rows,
    /// where they go
    pub output_rows: Rows,
    /// added to the output row
    pub output_first: Count,
    /// of one image
    pub rows: Count,
    /// images
    pub images: i32,
    /// multiple of 8
    pub channels: i32,
    /// elements
    pub source_stride: i32,
    /// elements
    pub output_stride: i32,
    /// channels of `affine`
    pub affine_channels: i32,
    /// [`MOVE_SILU`], [`MOVE_GELU`] or [`MOVE_QUICK_GELU`]
    pub flags: i32,
}

/// Blocks of a job: measured, more of them are slower (8.5 instead of 11 microseconds for a map of 96 x 96 x 320).
const MOST_BLOCKS: usize = 528;

/// Parameters of `move_rows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct MoveParams {
    /// device address of the jobs
    pub jobs: u64,
    /// this step's table
    pub slots: u64,
}

/// `jobs` jobs of which the largest moves at most `vectors` groups of eight channels.
pub fn move_rows(params: &MoveParams, jobs: usize, vectors: usize) -> Launch {
    let blocks = vectors.div_ceil(256).min(MOST_BLOCKS);
    Launch::new("move_rows", "move_rows", [blocks, jobs, 1], 256, params)
}
