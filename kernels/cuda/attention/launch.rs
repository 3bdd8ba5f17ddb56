//! Launching `attention`, `attention_wgmma`, `attention_stream` and `attention_wide`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Arch, Count, Gpu, Launch, Rows};

/// Head dimensions that have a kernel.
pub const ATTENTION_DIMS: [usize; 13] = [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 256, 512];

/// Keys of a tile.
const KEYS: usize = 64;

/// Parameters of the attention kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct AttentionParams {
    /// f16
    pub query: Address,
    /// f16; values lie `value_offset` elements behind their keys
    pub key: Address,
    /// f16, packed rows
    pub fresh_key: Address,
    /// f16, packed rows
    pub output: Address,
    /// where queries are
    pub query_rows: Rows,
    /// of one image
    pub queries: Count,
    /// where keys are
    pub key_rows: Rows,
    /// of one image
    pub keys: Count,
    /// fresh ones of one image
    pub fresh: Count,
    /// parts of split keys
    pub partial: u64,
    /// this step's table
    pub slots: u64,
    /// elements
    pub query_stride: i32,
    /// elements
    pub key_stride: i32,
    /// elements
    pub fresh_stride: i32,
    /// elements
    pub output_stride: i32,
    /// elements
    pub value_offset: i32,
    /// elements
    pub fresh_value_offset: i32,
    /// images
    pub images: i32,
    /// heads
    pub heads: i32,
    /// parts that the keys are split into
    pub splits: i32,
    /// factor on the scores times log2(e)
    pub scale_log2: f32,
}

/// A kernel for one head dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionVariant {
    entry: &'static str,
    combine: &'static str,
    dim: usize,
    queries: usize,
    way: Way,
    /// parts that the keys are split into
    pub splits: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Mma,
    Wgmma,
    /// dealt out evenly to so many blocks
    Stream(usize),
    /// so many keys of a tile, a row's columns by two warps
    Wide(usize),
}

/// Widest head of the kernels whose warps hold whole rows.
const WIDEST: usize = 160;
/// What a split costs beside its share of the keys, in parts of a whole pass: it writes sums that are joined later.
const WIDE_SPLIT: f64 = 0.02;

/// Keys from which dealing out evenly pays.
const STREAM_KEYS: usize = 300;
/// Blocks of 64 queries for each multiprocessor from which it pays for few keys too.
const STREAM_BLOCKS: usize = 4;
/// Parts of rows that a block may leave to another.
const STREAM_PARTS: usize = 9;

impl AttentionVariant {
    /// The kernel for at most `queries` queries and `keys` keys of one image, `pairs` images and heads; `None` for a head
    /// dimension without one.
    pub fn choose(gpu: Gpu, dim: usize, queries: usize, keys: usize, pairs: usize) -> Option<Self> {
        let (entry, combine) = entries(dim)?;
        let variant = AttentionVariant {
            entry,
            combine,
            dim,
            queries: 64,
            way: Way::Mma,
            splits: 1,
        };
        if dim > WIDEST {
            return Some(variant.wide(gpu, queries, keys, pairs));
        }
        let blocks = queries.div_ceil(variant.queries) * pairs;
        if dim == 64 && gpu.arch.has_wgmma() && (keys > STREAM_KEYS || blocks > STREAM_BLOCKS * gpu.multiprocessors) {
            let (entry, queries) = match queries {
                ..640 => ("attention_d64_stream_128", 128),
                _ => ("attention_d64_stream_192", 192),
            };
            return Some(AttentionVariant {
                entry,
                queries,
                way: Way::Stream(gpu.multiprocessors),
                ..variant
            });
        }
        let variant = match dim == 64 && gpu.arch.has_wgmma() {
            true => AttentionVariant {
                entry: "attention_d64_wgmma_narrow",
                way: Way::Wgmma,
                ..variant
            },
            false => variant,
        };
        let wanted = 2 * gpu.multiprocessors / blocks.max(1);
        // a part takes at least four tiles of keys, or joining the parts costs more than it saves
        let splits = wanted.clamp(1, (keys / (4 * KEYS)).clamp(1, 16));
        Some(AttentionVariant { splits, ..variant })
    }

    /// One block per multiprocessor: splits that fill its rounds best.
    fn wide(self, gpu: Gpu, queries: usize, keys: usize, pairs: usize) -> Self {
        let (entry, tile) = match (self.dim, gpu.arch) {
            (512, Arch::Sm80) => ("attention_wide_d512_small", 32),
            _ => (self.entry, KEYS),
        };
        let blocks = queries.div_ceil(self.queries) * pairs;
        let time = |splits: usize| {
            let rounds = (blocks * splits).div_ceil(gpu.multiprocessors.max(1));
            rounds as f64 / splits as f64 + WIDE_SPLIT * (splits - 1) as f64
        };
        let most = (keys / (4 * KEYS)).clamp(1, 16);
        let best = (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b)));
        AttentionVariant {
            entry,
            way: Way::Wide(tile),
            splits: best.unwrap_or(1),
            ..self
        }
    }

    /// Bytes of the parts of at most `rows` query rows of all images.
    pub fn partial_bytes(&self, rows: usize, heads: usize) -> usize {
        match (self.way, self.splits) {
            (Way::Stream(blocks), _) => blocks * STREAM_PARTS * 4 * 2 * self.queries * size_of::<f32>(),
            (_, 1) => 0,
            (_, splits) => splits * rows * heads * (self.dim + 2) * size_of::<f32>(),
        }
    }

    /// Whether `attention_combine` must follow.
    pub fn is_combined_later(&self) -> bool {
        self.splits > 1
    }
}

fn entries(dim: usize) -> Option<(&'static str, &'static str)> {
    Some(match dim {
        8 => ("attention_d8", "attention_combine_d8"),
        16 => ("attention_d16", "attention_combine_d16"),
        24 => ("attention_d24", "attention_combine_d24"),
        32 => ("attention_d32", "attention_combine_d32"),
        40 => ("attention_d40", "attention_combine_d40"),
        48 => ("attention_d48", "attention_combine_d48"),
        64 => ("attention_d64", "attention_combine_d64"),
        80 => ("attention_d80", "attention_combine_d80"),
        96 => ("attention_d96", "attention_combine_d96"),
        128 => ("attention_d128", "attention_combine_d128"),
        160 => ("attention_d160", "attention_combine_d160"),
        256 => ("attention_wide_d256", "attention_combine_d256"),
        512 => ("attention_wide_d512", "attention_combine_d512"),
        _ => return None,
    })
}

/// Attention of at most `queries` queries per image.
pub fn attention(variant: &AttentionVariant, params: &AttentionParams, queries: usize) -> Launch {
    let grid = [
        queries.div_ceil(variant.queries),
        (params.images * params.heads) as usize,
        params.splits as usize,
    ];
    let (kernel, grid, threads, shared) = match variant.way {
        Way::Mma => {
            let pitch = 16 * ((variant.dim.div_ceil(16) * 2) | 1);
            ("attention", grid, 128, 256 * pitch)
        }
        Way::Wgmma => {
            let shared = (8 * 64 + variant.queries) * 128 + 128;
            ("attention_wgmma", grid, 2 * variant.queries + 128, shared)
        }
        Way::Wide(keys) => {
            let (pitch, shares) = (16 * (variant.dim / 8 + 1), 16 * (keys / 8 + 1));
            let rows = variant.queries * (pitch + shares + 2 * size_of::<f32>());
            ("attention_wide", grid, 256, rows + 2 * keys * pitch)
        }
        Way::Stream(blocks) => {
            let stages = if variant.queries == 192 { 4 } else { 5 };
            let shared = stages * 2 * 128 * 128 + 2 * variant.queries * 128 + 128;
            ("attention_stream", [blocks, 1, 1], 2 * variant.queries + 128, shared)
        }
    };
    Launch {
        shared: shared as u32,
        ..Launch::new(kernel, variant.entry, grid, threads as u32, params)
    }
}

/// Joins the parts of split keys.
pub fn attention_combine(variant: &AttentionVariant, params: &AttentionParams, queries: usize) -> Launch {
    let items = queries * (params.images * params.heads) as usize;
    Launch::new("attention", variant.combine, [items.div_ceil(4), 1, 1], 128, params)
}
