//! CPU kernels: f32, rows of channels (NHWC), over the active pixels of a mask or over everything.
//!
//! Kernels run on the current rayon pool. They read and write slices and allocate only scratch, which is kept per
//! thread. Sizes that contradict each other are programming errors and panic: plans are validated before they run.

mod attention;
mod conv;
mod group_norm;
mod layer_norm;
mod linear;
mod map;
mod matmul;
mod pointwise;
mod rows;
mod scratch;
mod simd;
mod table;

pub use attention::{Attention, attention};
pub use conv::{Conv, conv, sum_weights_by_parity};
pub use group_norm::{GroupNormUpdate, group_norm_stats, norm_coefficients, update_group_norm_stats};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, Residual, linear};
pub use map::{Map, RecordedRows};
pub use pointwise::{add, affine, geglu, silu};
pub use rows::{concat, fill_map, gather, nchw_to_nhwc, nhwc_to_nchw, scatter_into_recorded};
pub use table::{ConvGeometry, ConvTable};
