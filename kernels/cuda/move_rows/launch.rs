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

/// Most jobs of a launch.
pub const MOVE_JOBS: usize = 127;

const THREADS: usize = 256;
/// Blocks of a launch, as many as run at once: measured, more of them are slower (8.5 instead of 11 microseconds for a map
/// of 96 x 96 x 320).
const MOST_BLOCKS: usize = 528;

/// Parameters of `move_rows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct MoveParams {
    /// device address of the jobs
    pub jobs: u64,
    /// this step's table
    pub slots: u64,
    /// jobs
    pub count: i32,
    /// block of every job, and of the one after the last
    pub first: [u16; MOVE_JOBS + 1],
    /// zero
    pub reserved: i32,
}

/// The jobs at a device address; of each, how many groups of eight channels it moves at most. There are at most
/// [`MOVE_JOBS`]. Blocks are dealt out by that, so that none has nothing to do while another works for two.
pub fn move_rows(jobs: u64, slots: u64, vectors: &[usize]) -> Launch {
    let all: usize = vectors.iter().map(|vectors| vectors.div_ceil(THREADS)).sum();
    let given = |vectors: usize| {
        let wanted = vectors.div_ceil(THREADS);
        let share = if all > MOST_BLOCKS {
            wanted * MOST_BLOCKS / all
        } else {
            wanted
        };
        share.max(1)
    };
    let mut first = [0; MOVE_JOBS + 1];
    let mut blocks = 0;
    for (job, &vectors) in vectors.iter().enumerate() {
        first[job] = blocks as u16;
        blocks += given(vectors);
    }
    first[vectors.len()] = blocks as u16;
    let params = MoveParams {
        jobs,
        slots,
        count: vectors.len() as i32,
        first,
        reserved: 0,
    };
    Launch::new("move_rows", "move_rows", [blocks, 1, 1], THREADS as u32, &params)
}
