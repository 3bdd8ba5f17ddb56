//! Kernel calls: the instructions of a plan.
//!
//! Every variant names its operands; a backend walks a program's nodes in order and runs each once per stage.

use serde::{Deserialize, Serialize};

use crate::{IslandId, SlotId, TileCandidate, ValueId, WeightId};

/// One kernel call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Kernel {
    /// A dense subgraph in ONNX Runtime.
    Island(IslandCall),
    /// Convolution of a map, dense or over the output level's active pixels.
    Conv(ConvKernel),
    /// Matrix product over rows (tokens or pixels; layout `[rows, channels]`).
    Linear(LinearKernel),
    /// Scaled dot-product attention.
    Attention(AttentionKernel),
    /// Attention whose probabilities follow recorded ones. For devices only.
    ControlledAttention(ControlledAttentionKernel),
    /// The probabilities of the conditioned images. For devices only.
    AttentionMaps(AttentionMapsKernel),
    /// Layer norm over rows: `output = (x - mean) / sqrt(var + epsilon) * gamma + beta`.
    LayerNorm {
        /// rows `[.., C]`
        input: ValueId,
        /// `[C]`
        gamma: WeightId,
        /// `[C]`
        beta: WeightId,
        /// added to the variance
        epsilon: f64,
        /// like the input
        output: ValueId,
    },
    /// `output = a * gelu(g)`, input rows `[a | g]`.
    Geglu {
        /// rows `[.., 2C]`
        input: ValueId,
        /// rows `[.., C]`
        output: ValueId,
    },
    /// SiLU of every element.
    Silu {
        /// any value
        input: ValueId,
        /// like the input
        output: ValueId,
    },
    /// GELU of every element. Devices only.
    Gelu {
        /// any value
        input: ValueId,
        /// `x * sigmoid(1.702 x)` in place of the exact one
        quick: bool,
        /// like the input
        output: ValueId,
    },
    /// Rows of a table: `output[i] = table[ids[i]]`. Devices only.
    Lookup {
        /// integers `[1, L]`, the input of the program
        ids: ValueId,
        /// f16 `[entries, C]`
        table: WeightId,
        /// `[1, L, C]`
        output: ValueId,
    },
    /// Sum of a value and a constant of its shape. Devices only.
    AddConstant {
        /// `[1, L, C]`
        input: ValueId,
        /// f16 `[L, C]`
        constant: WeightId,
        /// like the input
        output: ValueId,
    },
    /// Self-attention in which a token sees itself and those before it. Devices only.
    CausalAttention(CausalKernel),
    /// Sum of two values of one shape and extent, or of one active and one full value, giving active rows.
    Add {
        /// first summand; has the output's extent
        a: ValueId,
        /// second summand
        b: ResidualSource,
        /// like `a`
        output: ValueId,
    },
    /// Mean and biased variance per image and group: `[N, groups, 2]`, f32.
    GroupNormStats {
        /// full map
        input: ConvSource,
        /// number of groups
        groups: usize,
        /// `[N, groups, 2]`
        output: ValueId,
    },
    /// Recorded statistics corrected by what changed inside the active set.
    GroupNormStatsUpdate(StatsUpdate),
    /// `[N, 2, C]` scale and shift of statistics: `scale = gamma / sqrt(var + epsilon)`, `shift = beta - mean * scale`.
    NormCoefficients(NormKernel),
    /// `silu?(x * scale + shift)` per image and channel, over rows.
    Affine {
        /// rows
        input: ValueId,
        /// `[N, 2, C]`
        coefficients: ValueId,
        /// apply SiLU
        silu: bool,
        /// like the input
        output: ValueId,
    },
    /// One image as all images.
    Repeat {
        /// rows of one image
        input: ValueId,
        /// rows of all images, of the input's extent
        output: ValueId,
    },
    /// Concatenation of rows along channels.
    Concat {
        /// rows of one extent
        inputs: Vec<ValueId>,
        /// rows
        output: ValueId,
    },
    /// The value of a slot at the current step, whole.
    ReadSlot {
        /// slot
        slot: SlotId,
        /// full value
        output: ValueId,
    },
    /// Records a value.
    WriteSlot {
        /// full value
        input: ValueId,
        /// slot
        slot: SlotId,
    },
    /// Packs the active rows of a full value.
    Gather {
        /// full
        input: ValueId,
        /// active
        output: ValueId,
    },
    /// A full value: active rows from `rows`, the others from the slot at the current step, or zero without one.
    Scatter {
        /// active rows
        rows: ValueId,
        /// what stands outside the active set
        base: Option<SlotId>,
        /// full
        output: ValueId,
    },
}

/// [`Kernel::CausalAttention`]: `softmax(q k^T * scale) v` per head, all `[N, L, heads * D]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CausalKernel {
    pub q: ValueId,
    pub k: ValueId,
    pub v: ValueId,
    pub heads: usize,
    pub scale: f64,
    pub output: ValueId,
}

/// Values handed to and taken from an island, in the order of its ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IslandCall {
    /// which island
    pub island: IslandId,
    /// one per input port
    pub inputs: Vec<ValueId>,
    /// one per output port
    pub outputs: Vec<ValueId>,
}

/// Where a convolution or statistic reads a map.
///
/// A full value is read as it is. An active value is read where active, and elsewhere from `outside` at the current step:
/// a slot of one image stands around every image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvSource {
    /// the map, full or packed
    pub value: ValueId,
    /// the recorded map that stands outside the active set
    pub outside: Option<SlotId>,
}

/// Rows added to a result of active or full extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResidualSource {
    /// rows; a full value is read at the active pixels when the result is active
    pub value: ValueId,
}

/// `output = conv(activation(concat(sources) * scale + shift), weight) + bias + vector + residual`.
///
/// Pixels outside the image are zero after scale, shift and activation. The output's extent says what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvKernel {
    /// one map, or two that are concatenated along channels
    pub sources: Vec<ConvSource>,
    /// size of the input maps, before upsampling
    pub input_size: [usize; 2],
    /// the input is upsampled to this size first (nearest)
    pub upsample: Option<[usize; 2]>,
    /// size of the output map
    pub output_size: [usize; 2],
    /// `[kh, kw, Cin, Cout]`
    pub weight: WeightId,
    /// for a 3×3 convolution behind a doubling: its weights by the parity of the output pixel, those of taps that fall on
    /// one input pixel summed, `[4, 2, 2, Cin, Cout]`. Four products of 2×2 taps compute the same with 4/9 of the work. On
    /// the CPU this is `weight` itself, summed when it is loaded
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_parity: Option<WeightId>,
    /// `[Cout]`
    pub bias: Option<WeightId>,
    /// kernel rows and columns
    pub kernel: [usize; 2],
    /// stride of rows and columns
    pub stride: [usize; 2],
    /// zero rows above and columns left of the (upsampled) input
    pub padding: [usize; 2],
    /// `[N, 2, Cin]` scale and shift applied to the input
    pub coefficients: Option<ValueId>,
    /// SiLU after scale and shift
    pub silu: bool,
    /// `[N, Cout]` added to every pixel
    pub vector: Option<ValueId>,
    /// map added to the output
    pub residual: Option<ResidualSource>,
    /// map
    pub output: ValueId,
    /// tile sizes to choose from when the mask is bound; empty for dense convolutions
    pub candidates: Vec<TileCandidate>,
}

/// `output = geglu?(layer_norm?(input) weight + bias) + residual`, over rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearKernel {
    /// rows `[.., Cin]`
    pub input: ValueId,
    /// gamma `[Cin]`, beta `[Cin]` and epsilon of a layer norm applied first
    pub layer_norm: Option<(WeightId, WeightId, f64)>,
    /// `[Cin, Cout]`
    pub weight: WeightId,
    /// `[Cout]`
    pub bias: Option<WeightId>,
    /// the product's columns are `[a | g]`, the result `a * gelu(g)`
    pub geglu: bool,
    /// rows added to the result
    pub residual: Option<ResidualSource>,
    /// rows
    pub output: ValueId,
    /// results of further columns, one value behind the other: products of one input as one. For devices only, without
    /// residual or gate
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub siblings: Vec<ValueId>,
}

/// `output = softmax(q k^T * scale) v` per image and head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionKernel {
    /// `[N, rows, heads * D]`
    pub q: ValueId,
    /// `[N, keys, heads * D]`: full, or active (then only active keys take part)
    pub k: ValueId,
    /// like `k`
    pub v: ValueId,
    /// recorded keys that stand outside the active set; `k` is then active rows
    pub k_outside: Option<SlotId>,
    /// recorded values that stand outside the active set; `v` is then active rows
    pub v_outside: Option<SlotId>,
    /// number of heads
    pub heads: usize,
    /// factor on the scores
    pub scale: f64,
    /// like `q`
    pub output: ValueId,
}

/// `output = p v`, `p` being the softmax of [`AttentionKernel`] and, for the conditioned images (the second half), mixed with
/// recorded probabilities as [`crate::ControlInput`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlledAttentionKernel {
    /// `[N, rows, heads * D]`, full
    pub q: ValueId,
    /// `[N, tokens, heads * D]`, full
    pub k: ValueId,
    /// like `k`
    pub v: ValueId,
    /// probabilities as [`AttentionMapsKernel`] gave them
    pub recorded: ValueId,
    /// `[tokens, tokens]`
    pub mapper: ValueId,
    /// `[tokens]`
    pub blend: ValueId,
    /// `[tokens]`
    pub weight: ValueId,
    /// number of heads
    pub heads: usize,
    /// factor on the scores
    pub scale: f64,
    /// like `q`
    pub output: ValueId,
}

/// `output = softmax(q k^T * scale)` of the conditioned images, the second half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionMapsKernel {
    /// `[N, rows, heads * D]`, full
    pub q: ValueId,
    /// `[N, tokens, heads * D]`, full
    pub k: ValueId,
    /// number of heads
    pub heads: usize,
    /// factor on the scores
    pub scale: f64,
    /// `[conditioned * heads, rows, tokens]`, image by image, head by head
    pub output: ValueId,
}

/// Statistics of `where(active, input, recorded)` from the recorded statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsUpdate {
    /// active rows
    pub input: ValueId,
    /// the recorded map
    pub recorded: SlotId,
    /// its statistics
    pub recorded_stats: SlotId,
    /// number of groups
    pub groups: usize,
    /// `[N, groups, 2]`
    pub output: ValueId,
}

/// Scale and shift from group statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormKernel {
    /// `[N, groups, 2]` mean and variance
    pub stats: ValueId,
    /// `[C]`
    pub gamma: WeightId,
    /// `[C]`
    pub beta: WeightId,
    /// number of groups
    pub groups: usize,
    /// added to the variance
    pub epsilon: f64,
    /// `[N, 2, C]`
    pub output: ValueId,
}
