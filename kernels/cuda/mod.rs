//! CUDA kernels: parameter structs byte for byte as the sources have them, grids and sizes of shared memory.
//!
//! Plain data: nothing here calls the driver or reads memory. Addresses are device addresses. Each kernel's contract is
//! the `README.md` in its folder, the conventions that all share in `kernels/cuda/README.md`.

#[path = "advance_step/launch.rs"]
mod advance_step;
#[path = "attention/launch.rs"]
mod attention;
#[path = "attention_control/launch.rs"]
mod attention_control;
#[path = "causal_attention/launch.rs"]
mod causal_attention;
#[path = "fold_norm/launch.rs"]
mod fold_norm;
#[path = "geglu/launch.rs"]
mod geglu;
#[path = "group_norm/launch.rs"]
mod group_norm;
#[path = "latent/launch.rs"]
mod latent;
mod launch;
#[path = "layer_norm/launch.rs"]
mod layer_norm;
#[path = "move_rows/launch.rs"]
mod move_rows;
#[path = "sparse_conv/launch.rs"]
mod sparse_conv;
mod types;

pub use advance_step::{AdvanceParams, advance_step};
pub use attention::{ATTENTION_DIMS, AttentionParams, AttentionVariant, attention, attention_combine};
pub use attention_control::{CONTROLLED_TOKENS, ControlParams, attention_control, attention_maps};
pub use causal_attention::{CausalParams, causal_attention};
pub use fold_norm::{FoldParams, fold_norm};
pub use geglu::{GegluParams, geglu};
pub use group_norm::{
    NORM_SILU, NormParams, StatisticsParams, SumParams, group_norm_statistics, group_norm_sums, group_norm_sums_bytes,
    group_norm_whole, norm_slice, sum_chunks,
};
pub use latent::{StepCoefficients, UpdateParams, latent_update};
pub use launch::{Arch, Gpu, KERNELS, Launch};
pub use layer_norm::{LARGEST_LAYER_NORM, LayerNormParams, layer_norm};
pub use move_rows::{MOVE_GELU, MOVE_QUICK_GELU, MOVE_SILU, MoveJob, MoveParams, move_rows};
pub use sparse_conv::{
    BLOCK_ROWS, CONV_GEGLU, CONV_NORMED_SILU, ConvChoice, ConvParams, ConvTile, ConvWork, Epilogue, ROW_PART_COLUMNS,
    Splits, conv_choice, k_tiles, sparse_conv, sparse_conv_reduce,
};
pub use types::{Address, Count, Rows};

/// Checksum of the CUDA sources that this crate's parameter structs belong to: 8 hexadecimal digits, as `tools/gpu/compile.py` leaves it beside the kernels.
pub const SOURCES: &str = env!("FISEC_CUDA_SOURCES");
