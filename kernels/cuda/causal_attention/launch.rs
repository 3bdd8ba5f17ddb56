//! Launching `causal_attention`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Launch};

/// Parameters of `causal_attention`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct CausalParams {
    /// f16 `[images * tokens, query_stride]`, heads side by side
    pub query: Address,
    /// likewise
    pub key: Address,
    /// likewise
    pub value: Address,
    /// likewise
    pub output: Address,
    /// this step's table
    pub slots: u64,
    /// images
    pub images: i32,
    /// tokens of an image
    pub tokens: i32,
    /// heads
    pub heads: i32,
    /// channels of a head
    pub dim: i32,
    /// elements
    pub query_stride: i32,
    /// elements
    pub key_stride: i32,
    /// elements
    pub value_stride: i32,
    /// elements
    pub output_stride: i32,
    /// factor on the scores times log2(e)
    pub scale_log2: f32,
    /// zero
    pub reserved: i32,
}

/// Queries of a block.
const QUERIES: usize = 4;

/// Attention of every token to itself and those before it.
pub fn causal_attention(params: &CausalParams) -> Launch {
    let (tokens, dim) = (params.tokens as usize, params.dim as usize);
    let grid = [tokens.div_ceil(QUERIES), (params.images * params.heads) as usize, 1];
    Launch {
        shared: (QUERIES * (dim + tokens) * size_of::<f32>()) as u32,
        ..Launch::new("causal_attention", "causal_attention", grid, 128, params)
    }
}
