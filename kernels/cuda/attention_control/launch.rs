//! Launching `attention_control`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Launch};

/// Most tokens of a prompt whose probabilities are recorded or controlled.
pub const CONTROLLED_TOKENS: usize = 80;

/// Queries of a block.
const QUERIES: usize = 64;

/// Parameters of `attention_maps` and `attention_control`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ControlParams {
    /// f16 `[images * queries, query_stride]`
    pub query: Address,
    /// f16 `[images * keys, key_stride]`
    pub key: Address,
    /// f16 `[images * keys, value_stride]`
    pub value: Address,
    /// f16 `[images * queries, output_stride]`
    pub output: Address,
    /// f16 `[conditioned * heads][queries][map_stride]`: written, or what was recorded
    pub maps: Address,
    /// f16 `[keys][map_stride]`
    pub mapper: Address,
    /// f16 `[map_stride]`
    pub blend: Address,
    /// f16 `[map_stride]`
    pub weight: Address,
    /// this step's table
    pub slots: u64,
    /// elements
    pub query_stride: i32,
    /// elements
    pub key_stride: i32,
    /// elements
    pub value_stride: i32,
    /// elements
    pub output_stride: i32,
    /// elements: the keys with padding
    pub map_stride: i32,
    /// images
    pub images: i32,
    /// heads
    pub heads: i32,
    /// of one image
    pub queries: i32,
    /// of one image
    pub keys: i32,
    /// channels of a head
    pub dim: i32,
    /// factor on the scores times log2(e)
    pub scale_log2: f32,
    /// zero
    pub reserved: i32,
}

impl ControlParams {
    fn pitch(&self) -> usize {
        16 * (((self.dim as usize).div_ceil(16) * 2) | 1)
    }

    fn grid(&self, images: i32) -> [usize; 3] {
        let blocks = (self.queries as usize).div_ceil(QUERIES);
        [blocks, (images * self.heads) as usize, 1]
    }
}

/// Writes the probabilities of the conditioned images.
pub fn attention_maps(params: &ControlParams) -> Launch {
    let grid = params.grid(params.images - params.images / 2);
    let shared = (QUERIES + CONTROLLED_TOKENS) * params.pitch();
    Launch {
        shared: shared as u32,
        ..Launch::new("attention_control", "attention_maps", grid, 128, params)
    }
}

/// Attention that follows recorded probabilities.
pub fn attention_control(params: &ControlParams) -> Launch {
    let map_pitch = 2 * (CONTROLLED_TOKENS + 8);
    let shared = (QUERIES + 2 * CONTROLLED_TOKENS) * params.pitch() + (QUERIES + CONTROLLED_TOKENS) * map_pitch;
    Launch {
        shared: shared as u32,
        ..Launch::new(
            "attention_control",
            "attention_control",
            params.grid(params.images),
            128,
            params,
        )
    }
}
