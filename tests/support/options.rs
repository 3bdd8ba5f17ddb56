//! What random U-Nets are compiled with.

use fisec_plan::{CompileOptions, Halos, Keys, Norm, Samples};
use fisec_tensor::DType;

/// Exact slots, every cross-attention under control, one latent for all images.
pub fn options(keys: Keys, norm: Norm, sparse_levels: usize) -> CompileOptions {
    CompileOptions {
        keys,
        norm,
        sparse_levels: Some(sparse_levels),
        cache_dtype: DType::F32,
        control_levels: None,
        samples: Samples::Shared,
        remainder: fisec_plan::Remainder::Native,
        halos: Halos::Recorded,
    }
}
