//! Launching `attention`, `attention_wgmma` and `attention_stream`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Count, Gpu, Launch, Rows};

/// Head dimensions that have a kernel.
pub const ATTENTION_DIMS: [usize; 11] = [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160];

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
}

/// Keys from which dealing out evenly pays.
const STREAM_KEYS: usize = 300;
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
        if dim == 64 && gpu.arch.has_wgmma() && keys > STREAM_KEYS {
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
        let blocks = queries.div_ceil(variant.queries) * pairs;
        let wanted = 2 * gpu.multiprocessors / blocks.max(1);
        // a part takes at least four tiles of keys, or joining the parts costs more than it saves
        let splits = wanted.clamp(1, (keys / (4 * KEYS)).clamp(1, 16));
        Some(AttentionVariant { splits, ..variant })
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
