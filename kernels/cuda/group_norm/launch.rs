//! Launching `group_norm_sums` and `group_norm_statistics`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Arch, Count, Launch, Rows};

/// Rows that a block of `group_norm_sums` takes at once.
const CHUNK_ROWS: usize = 64;
/// Blocks per image of a large map.
const MOST_CHUNKS: usize = 132;

/// Parameters of `group_norm_sums`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct SumParams {
    /// f16; the second one's channels follow the first one's
    pub source: [Address; 2],
    /// multiples of 8
    pub channels: [i32; 2],
    /// elements
    pub source_stride: [i32; 2],
    /// where rows are
    pub source_rows: Rows,
    /// of one image
    pub rows: Count,
    /// f32 `[images][chunks][2][channels]`
    pub partial: u64,
    /// this step's table
    pub slots: u64,
}

/// Parameters of `group_norm_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StatisticsParams {
    /// partial sums over the rows as they are
    pub added: u64,
    /// partial sums over the same rows as they were; 0: live statistics
    pub removed: u64,
    /// f32 `[images][groups][2]`, mean and variance; read where `removed` is set
    pub recorded: Address,
    /// f32 `[images][groups][2]`, mean and variance, written where present
    pub statistics: Address,
    /// f32 `[images][2][channels]`, scale and shift, written where present
    pub affine: Address,
    /// f16 `[channels]`
    pub gamma: u64,
    /// f16 `[channels]`
    pub beta: u64,
    /// this step's table
    pub slots: u64,
    /// rows of one image that the statistics are over
    pub rows: Count,
    /// channels
    pub channels: i32,
    /// groups
    pub groups: i32,
    /// chunks of `added`
    pub added_chunks: i32,
    /// chunks of `removed`
    pub removed_chunks: i32,
    /// added to the variance
    pub epsilon: f32,
    /// zero
    pub reserved: i32,
}

/// Flag of a whole norm: SiLU after it.
pub const NORM_SILU: i32 = 1;
/// Blocks that a whole norm is shared among, where there are rows for them.
const WHOLE_BLOCKS: usize = 256;
/// Fewest rows of a block of a whole norm.
const WHOLE_ROWS: usize = 64;
const WHOLE_THREADS: usize = 512;

/// Parameters of `group_norm_whole`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct NormParams {
    /// f16; the second one's channels follow the first one's
    pub source: [Address; 2],
    /// f16, likewise
    pub output: [Address; 2],
    /// f32 `[images][groups][2]`, mean and variance, written where present
    pub statistics: Address,
    /// f32 `[images][2][channels]`, scale and shift, written where present
    pub affine: Address,
    /// f16 `[channels]`
    pub gamma: u64,
    /// f16 `[channels]`
    pub beta: u64,
    /// this step's table
    pub slots: u64,
    /// multiples of 8
    pub channels: [i32; 2],
    /// elements
    pub source_stride: [i32; 2],
    /// elements
    pub output_stride: [i32; 2],
    /// rows of one image
    pub rows: i32,
    /// groups
    pub groups: i32,
    /// channels of a block: [`norm_slice`]
    pub slice: i32,
    /// [`NORM_SILU`]
    pub flags: i32,
    /// added to the variance
    pub epsilon: f32,
    /// zero
    pub reserved: i32,
}

/// Channels that a block of `group_norm_whole` takes: whole groups and whole vectors; `None` where there is no such slice.
pub fn norm_slice(arch: Arch, channels: usize, groups: usize) -> Option<usize> {
    let width = channels / groups.max(1);
    let slice = (1..=8).map(|many| many * width).find(|slice| slice.is_multiple_of(8))?;
    let fits = slice > 0 && slice <= 8 * WHOLE_THREADS && channels.is_multiple_of(slice);
    (arch.has_clusters() && fits && channels.is_multiple_of(groups)).then_some(slice)
}

/// Statistics and norm of whole maps in one launch.
pub fn group_norm_whole(params: &NormParams, images: usize) -> Launch {
    let channels = (params.channels[0] + params.channels[1]) as usize;
    let (slice, rows) = (params.slice as usize, params.rows as usize);
    let tasks = channels / slice * images;
    let enough = |blocks: &usize| tasks * blocks >= WHOLE_BLOCKS || rows < 2 * blocks * WHOLE_ROWS;
    let blocks = [1, 2, 4].into_iter().find(enough).unwrap_or(8);
    let grid = [channels / slice, images, blocks];
    let floats = 16 * WHOLE_THREADS + 2 * slice + 4 * 16;
    Launch {
        shared: (floats * size_of::<f32>()) as u32,
        cluster: blocks as u32,
        ..Launch::new("group_norm", "group_norm_whole", grid, WHOLE_THREADS as u32, params)
    }
}

/// Chunks per image for at most `rows` rows.
pub fn sum_chunks(rows: usize) -> usize {
    rows.div_ceil(CHUNK_ROWS).clamp(1, MOST_CHUNKS)
}

/// Bytes of the partial sums.
pub fn group_norm_sums_bytes(images: usize, chunks: usize, channels: usize) -> usize {
    images * chunks * 2 * channels * size_of::<f32>()
}

/// Partial sums in `chunks` chunks per image.
pub fn group_norm_sums(params: &SumParams, images: usize, chunks: usize) -> Launch {
    Launch {
        // measured: better without
        overlap: false,
        ..Launch::new("group_norm", "group_norm_sums", [chunks, images, 1], 256, params)
    }
}

/// Statistics and coefficients from partial sums.
pub fn group_norm_statistics(params: &StatisticsParams, images: usize) -> Launch {
    let grid = [params.groups as usize, images, 1];
    Launch {
        overlap: false,
        ..Launch::new("group_norm", "group_norm_statistics", grid, 128, params)
    }
}
