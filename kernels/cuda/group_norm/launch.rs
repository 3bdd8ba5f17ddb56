//! Launching `group_norm_sums` and `group_norm_statistics`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Launch, Rows};

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
