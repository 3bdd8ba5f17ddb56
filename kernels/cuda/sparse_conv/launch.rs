//! Launching `sparse_conv`, `sparse_conv_wgmma` and `sparse_conv_stream`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Gpu, Launch, Rows};

#[path = "choice.rs"]
mod choice;

/// Columns come as 8 values, 8 gates, …: the result is `value * gelu(gate)`, half as wide.
pub const CONV_GEGLU: i32 = 1;
/// SiLU in the second output.
pub const CONV_NORMED_SILU: i32 = 2;

/// Columns that a row's mean and deviation are said of: see [`Epilogue::row_parts`].
pub const ROW_PART_COLUMNS: usize = 32;
/// Rows of an image that take the same block of weights.
pub const BLOCK_ROWS: usize = 64;

/// Channels of a tile of K.
const TILE_K: usize = 64;

/// What happens to a row before it leaves the chip.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Epilogue {
    /// f16 `[cout]`
    pub bias: Address,
    /// f16 `[images, time_stride]`
    pub time: Address,
    /// f16
    pub residual: Address,
    /// f16
    pub output: Address,
    /// f16, where the second and the third `part_columns` of columns go, as the first ones go to `output`
    pub beside: [Address; 2],
    /// f16, the output after scale, shift and activation
    pub normed: Address,
    /// f32 `[images, 2, affine_channels]`
    pub affine: Address,
    /// where residual rows are
    pub residual_rows: Rows,
    /// where output rows go
    pub output_rows: Rows,
    /// where normed rows go
    pub normed_rows: Rows,
    /// elements
    pub time_stride: i32,
    /// elements
    pub residual_stride: i32,
    /// elements
    pub output_stride: i32,
    /// elements
    pub normed_stride: i32,
    /// channels of `affine`
    pub affine_channels: i32,
    /// [`CONV_GEGLU`], [`CONV_NORMED_SILU`]
    pub flags: i32,
    /// f32 `[images * live, row_part_count, 2]`, written: mean and squared deviations of [`ROW_PART_COLUMNS`] of the output
    pub row_parts: u64,
    /// the same of the source's rows, read: a layer norm folded into the weights
    pub norm_parts: u64,
    /// f32 `[cout]`, sums of the weights, read with `norm_parts`
    pub column_sums: u64,
    /// parts of a row
    pub row_part_count: i32,
    /// parts of a row
    pub norm_part_count: i32,
    /// added to the variance
    pub norm_epsilon: f32,
    /// columns of each of `output` and `beside`, a multiple of 8; 0: all go to `output`
    pub part_columns: i32,
}

/// Parameters of the convolutions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ConvParams {
    /// f16 `[images * source_rows, stride]`; the second one's channels follow the first one's
    pub source: [Address; 2],
    /// of each source, multiples of 8
    pub channels: [i32; 2],
    /// elements
    pub source_stride: [i32; 2],
    /// i32 `[live, taps]`: source row of every tap, -1 = zero; 0: row `i` reads source row `i`
    pub table: u64,
    /// rows of one image in the sources
    pub source_rows: Rows,
    /// output rows of one image
    pub live: Count,
    /// packed weights
    pub weights: u64,
    /// i32: which block of weights every [`BLOCK_ROWS`] rows of an image take; 0: there is one
    pub blocks: u64,
    /// f32 `[splits][images * live][cout]`, where there are several splits
    pub workspace: u64,
    /// this step's table
    pub slots: u64,
    /// images
    pub images: i32,
    /// kernel rows times kernel columns
    pub taps: i32,
    /// output columns, before GEGLU
    pub cout: i32,
    /// blocks along K
    pub splits: i32,
    /// what happens to a row before it leaves
    pub epilogue: Epilogue,
}

impl ConvParams {
    /// Whether columns are values and gates.
    fn is_gated(&self) -> bool {
        self.epilogue.flags & CONV_GEGLU != 0
    }
}

/// A kernel of one block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTile {
    /// function
    pub entry: &'static str,
    /// function for values and gates
    gated: &'static str,
    kernel: &'static str,
    rows: usize,
    columns: usize,
    threads: u32,
    stages: usize,
}

const fn tile(entry: &'static str, rows: usize, columns: usize, threads: u32, stages: usize) -> ConvTile {
    ConvTile {
        entry,
        gated: entry,
        kernel: "sparse_conv",
        rows,
        columns,
        threads,
        stages,
    }
}

/// A tile of another kernel, which has a twin for gated columns.
const fn with_twin(kernel: &'static str, gated: &'static str, tile: ConvTile) -> ConvTile {
    ConvTile { gated, kernel, ..tile }
}

impl ConvTile {
    /// Output rows of a block.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Blocks that run on one multiprocessor at once.
    fn per_multiprocessor(&self) -> usize {
        match (self.rows, self.columns) {
            (64, 64) => 3,
            (64, _) => 2,
            _ => 1,
        }
    }

    /// Bytes beside the stages: barriers, rows' layer norms, what a stream's sums need on their way out.
    fn shared_beside_stages(&self, taps: usize) -> usize {
        match self.kernel {
            "sparse_conv" => 0,
            "sparse_conv_stream" => 128 + self.rows * 161 + (self.stages + 2) * 960,
            _ if taps == 1 => 128 + self.rows * 8,
            _ => 128,
        }
    }
}

const MMA_128X160: ConvTile = tile("sparse_conv_128x160", 128, 160, 128, 3);
const MMA_64X160: ConvTile = tile("sparse_conv_64x160", 64, 160, 128, 4);
const MMA_64X64: ConvTile = tile("sparse_conv_64x64", 64, 64, 128, 4);
const WGMMA_64X160: ConvTile = with_twin(
    "sparse_conv_wgmma",
    "sparse_conv_wgmma_64x160_gated",
    tile("sparse_conv_wgmma_64x160", 64, 160, 256, 4),
);
const WGMMA_128X160: ConvTile = with_twin(
    "sparse_conv_wgmma",
    "sparse_conv_wgmma_128x160_gated",
    tile("sparse_conv_wgmma_128x160", 128, 160, 384, 5),
);
const WGMMA_192X160: ConvTile = with_twin(
    "sparse_conv_wgmma",
    "sparse_conv_wgmma_192x160_gated",
    tile("sparse_conv_wgmma_192x160", 192, 160, 512, 5),
);
const STREAM_64X160: ConvTile = with_twin(
    "sparse_conv_stream",
    "sparse_conv_stream_64x160_gated",
    tile("sparse_conv_stream_64x160", 64, 160, 256, 3),
);
const STREAM_128X160: ConvTile = with_twin(
    "sparse_conv_stream",
    "sparse_conv_stream_128x160_gated",
    tile("sparse_conv_stream_128x160", 128, 160, 384, 5),
);
const STREAM_192X160: ConvTile = with_twin(
    "sparse_conv_stream",
    "sparse_conv_stream_192x160_gated",
    tile("sparse_conv_stream_192x160", 192, 160, 512, 4),
);

/// How the blocks along K meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// one block
    None,
    /// so many, through a workspace and a second kernel
    Workspace(usize),
    /// all tiles of K of all outputs dealt out to so many blocks
    Stream(usize),
}

impl Splits {
    /// Blocks along K.
    pub fn count(self) -> usize {
        match self {
            Splits::None | Splits::Stream(_) => 1,
            Splits::Workspace(count) => count,
        }
    }

    /// Bytes of the workspace for at most `rows` rows of all images.
    pub fn workspace_bytes(self, tile: ConvTile, rows: usize, cout: usize) -> usize {
        match self {
            Splits::Workspace(count) => count * rows * cout * size_of::<f32>(),
            Splits::Stream(blocks) => blocks * tile.rows * tile.columns * size_of::<f32>(),
            Splits::None => 0,
        }
    }

    /// Whether `sparse_conv_reduce` must follow.
    pub fn is_reduced_later(self) -> bool {
        matches!(self, Splits::Workspace(_))
    }
}

/// What a product's tile and splits are chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvWork {
    /// most rows of all images
    pub rows: usize,
    /// output columns, before GEGLU
    pub cout: usize,
    /// tiles of K: see [`k_tiles`]
    pub k_tiles: usize,
    /// whether columns are values and gates
    pub gated: bool,
    /// whether a layer norm stands before the product or after it
    pub normed: bool,
    /// equal parts that the rows come in, each filled up to whole tiles of rows
    pub parts: usize,
    /// blocks of weights
    pub blocks: usize,
}

impl ConvWork {
    /// Rows of a part.
    fn part_rows(&self) -> usize {
        self.rows.div_ceil(self.parts)
    }

    /// Blocks of outputs.
    fn tiles(&self, tile: ConvTile) -> usize {
        self.parts * self.part_rows().div_ceil(tile.rows) * self.cout.div_ceil(tile.columns)
    }
}

/// How a product is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvChoice {
    /// block size
    pub tile: ConvTile,
    /// blocks along K
    pub splits: Splits,
    /// predicted time, comparable on one GPU
    pub time: f32,
}

/// Tiles of K: per source and tap, 64 channels each.
pub fn k_tiles(taps: usize, channels: &[usize]) -> usize {
    taps * channels.iter().map(|channels| channels.div_ceil(TILE_K)).sum::<usize>()
}

/// Columns from which tiles of 160 columns are used: four fifths of one are quicker than tiles of 64 without `wgmma`.
const LEAST_COLUMNS: usize = 128;

/// Tile and splits for a product.
pub fn conv_choice(gpu: Gpu, work: ConvWork) -> ConvChoice {
    if gpu.arch.has_wgmma() && work.cout >= LEAST_COLUMNS {
        return choice::quickest(gpu, work);
    }
    let tile = match work.cout {
        ..160 => MMA_64X64,
        _ if work.tiles(MMA_128X160) >= gpu.multiprocessors => MMA_128X160,
        _ => MMA_64X160,
    };
    let slots = gpu.multiprocessors * tile.per_multiprocessor();
    // every part keeps enough tiles of K to hide the loads of its first ones
    let most = (work.k_tiles / 5).clamp(1, 16);
    let splits = match (slots / work.tiles(tile).max(1)).clamp(1, most) {
        1 => Splits::None,
        splits => Splits::Workspace(splits),
    };
    let products = work.tiles(tile) * work.k_tiles * tile.rows * tile.columns;
    ConvChoice {
        tile,
        splits,
        time: products as f32,
    }
}

/// A product of at most `rows` output rows of all images.
pub fn sparse_conv(choice: ConvChoice, params: &ConvParams, rows: usize) -> Launch {
    let tile = choice.tile;
    let grid = match choice.splits {
        Splits::Stream(blocks) => [blocks, 1, 1],
        _ => [
            (params.cout as usize).div_ceil(tile.columns),
            rows.div_ceil(tile.rows),
            params.splits as usize,
        ],
    };
    let table = tile.rows * params.taps as usize * size_of::<i32>();
    let entry = if params.is_gated() { tile.gated } else { tile.entry };
    Launch {
        shared: (tile.stages * (tile.rows + tile.columns) * 2 * TILE_K
            + tile.shared_beside_stages(params.taps as usize)
            + table) as u32,
        ..Launch::new(tile.kernel, entry, grid, tile.threads, params)
    }
}

/// Adds the parts in the workspace and finishes at most `rows` rows of all images.
pub fn sparse_conv_reduce(params: &ConvParams, rows: usize) -> Launch {
    let vectors = rows * params.cout as usize / 8;
    let grid = [vectors.div_ceil(256), 1, 1];
    let entry = match params.is_gated() {
        true => "sparse_conv_reduce_gated",
        false => "sparse_conv_reduce",
    };
    Launch::new("sparse_conv", entry, grid, 256, params)
}
