//! What plans for `cuda:<arch>` share between compiler and runtime.
//!
//! Values of the step are f16 rows whose channels are padded to [`CHANNELS`], statistics and coefficients f32. Weights
//! of products are f16 `[k_tiles, columns, 64]`, see [`packed_shape`]; vectors are f16, padded likewise.

use fisec_tensor::Shape;

/// Channels of a vector: rows, strides and columns are multiples of it.
pub const CHANNELS: usize = 8;
/// Channels of a tile of a product.
pub const TILE_CHANNELS: usize = 64;
/// Head dimensions that attention has a kernel for.
pub const HEAD_DIMS: [usize; 13] = [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 256, 512];
/// Widest head whose probabilities are recorded or controlled.
const WIDEST_CONTROLLED: usize = 160;
/// Most tokens of a prompt whose probabilities are recorded or controlled.
pub const CONTROLLED_TOKENS: usize = 80;
/// Most channels of a layer norm.
pub const LARGEST_LAYER_NORM: usize = 2048;
/// Targets that kernels are compiled for.
pub const TARGETS: [&str; 3] = ["cuda:sm_80", "cuda:sm_90a", "cuda:sm_100a"];

/// Most channels of a head, and most tokens, of causal attention.
const LARGEST_CAUSAL: [usize; 2] = [256, 1024];

/// Whether attention of heads of `dim` channels can be recorded and controlled.
pub fn has_control(dim: usize) -> bool {
    HEAD_DIMS.contains(&dim) && dim <= WIDEST_CONTROLLED
}

/// Whether there is a causal attention kernel for heads of `dim` channels over `tokens` tokens.
pub fn has_causal(dim: usize, tokens: usize) -> bool {
    let [most_channels, most_tokens] = LARGEST_CAUSAL;
    dim > 0 && dim.is_multiple_of(CHANNELS) && dim <= most_channels && tokens <= most_tokens
}

/// Channels with padding.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNELS)
}

/// The shape of rows with padding.
pub fn padded_rows(shape: &Shape) -> Shape {
    let mut dims = shape.to_vec();
    if let Some(channels) = dims.last_mut() {
        *channels = padded(*channels);
    }
    dims.into()
}

/// Shape of a product's weights: tiles of 64 channels per source and tap, a line of them per output column.
pub fn packed_shape(taps: usize, sources: &[usize], columns: usize) -> [usize; 3] {
    let tiles: usize = sources.iter().map(|channels| channels.div_ceil(TILE_CHANNELS)).sum();
    [taps * tiles, padded(columns), TILE_CHANNELS]
}
