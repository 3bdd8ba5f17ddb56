//! Operators.
//!
//! The *semantic* set is what raising produces and every later pass speaks; [`Op::Onnx`] is anything else, kept opaque
//! and run by ONNX Runtime.

use std::collections::BTreeMap;

use fisec_tensor::{HostTensor, Shape};

use crate::SlotId;

/// An operator. Operand lists are in the order of the documentation of each variant; `?` marks an operand that is
/// present only when the attribute says so.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A graph input with its ONNX name. No operands.
    Input(String),
    /// Any ONNX operator; operands and outputs as ONNX has them.
    Onnx(OnnxOp),

    /// Convolution of a map. Operands: `x, x2?, w[Cout,Cin,kh,kw], b[Cout]?, coefficients[N,2,Cin]?, vector[N,Cout]?,
    /// residual[N,Cout,H,W]?`; see [`Conv`].
    Conv(Conv),
    /// Group norm of a map, statistics over the map itself. Operands: `x, gamma[C], beta[C]`.
    GroupNorm(GroupNorm),
    /// Mean and variance per group of a map: `x -> f32[N, groups, 2]`. Biased variance; accumulate in at least f32.
    GroupNormStats {
        /// number of channel groups
        groups: usize,
    },
    /// [`Op::GroupNormStats`] of a map that differs from the recorded one only in the active set, from the recorded
    /// statistics: `x (active), recorded x, recorded stats -> f32[N, groups, 2]`. Exact up to rounding.
    GroupNormStatsUpdate {
        /// number of channel groups
        groups: usize,
    },
    /// Scale and shift per image and channel from statistics: `stats[N,groups,2], gamma[C], beta[C] -> f32[N, 2, C]`,
    /// `scale = gamma / sqrt(var + epsilon)`, `shift = beta - mean * scale`.
    NormCoefficients {
        /// number of channel groups
        groups: usize,
        /// added to the variance
        epsilon: f64,
    },
    /// `activation(x * scale + shift)` per image and channel. Operands: `x, coefficients[N, 2, C]`.
    Affine {
        /// applied after scale and shift
        activation: Activation,
    },
    /// Nearest-neighbour upsampling to `height × width`: row `i` reads row `i * H / height` (floor). Operands: `x`.
    Upsample {
        /// rows of the result
        height: usize,
        /// columns of the result
        width: usize,
    },
    /// Map to tokens: `[N, C, H, W] -> [N, H*W, C]`. Operands: `x`.
    Tokens,
    /// Tokens to map: `[N, H*W, C] -> [N, C, H, W]`. Operands: `x`.
    Spatial {
        /// rows
        height: usize,
        /// columns
        width: usize,
    },

    /// Layer norm over the last axis. Operands: `x, gamma[C], beta[C]`.
    LayerNorm {
        /// added to the variance
        epsilon: f64,
    },
    /// Matrix product over the last axis. Operands: `x, w[Cin,Cout], b[Cout]?, gamma[Cin]?, beta[Cin]?, residual?`; see
    /// [`Linear`].
    Linear(Linear),
    /// Scaled dot-product attention. Operands: `q[N,L,heads*D], k[N,S,heads*D], v[N,S,heads*D] -> [N,L,heads*D]`,
    /// `softmax(q k^T * scale) v` per head. Keys of active extent take part only where active.
    Attention {
        /// number of heads
        heads: usize,
        /// factor on the scores
        scale: f64,
        /// cross-attention control of a guided step, with more operands; see [`Control`]
        control: Option<Control>,
    },
    /// Self-attention in which a token sees itself and those before it. Operands: `q, k, v`, all `[N, L, heads*D]`, to
    /// `[N, L, heads*D]`.
    CausalAttention {
        /// number of heads
        heads: usize,
        /// factor on the scores
        scale: f64,
    },
    /// The probability that each head gives each key, of the conditioned images (the second half, see [`conditioned`]),
    /// kept for control: `q, k -> f32[conditioned * heads, L, S]`.
    AttentionMaps {
        /// number of heads
        heads: usize,
        /// factor on the scores
        scale: f64,
    },
    /// `a * gelu(g)` with `[a | g]` the halves of the last axis, exact (erf) GELU. Operands: `x[…, 2C] -> […, C]`.
    Geglu,

    /// Element-wise activation. Operands: `x`.
    Activate(Activation),
    /// Element-wise sum with ONNX broadcasting. Operands: `a, b`.
    Add,
    /// Map plus one vector per image: `x[N,C,H,W], vector[N,C]`.
    AddVector,
    /// One image `images` times: `x[1, …] -> [images, …]`, for what all images of a step have in common. Operands: `x`.
    Repeat {
        /// images of the result
        images: usize,
    },
    /// Concatenation along the channel axis (1 for maps, last for tokens and vectors). Operands: two or more.
    Concat(Concat),
    /// Sinusoidal embedding of timesteps: `t[N]`, `t[1]` or a scalar, to `[N, width]` in any float type.
    TimestepEmbedding(TimestepEmbedding),

    /// The recorded value of a slot at the current step. No operands.
    CacheRead(SlotId),
    /// Records a value. Operands: `x`. No outputs.
    CacheWrite(SlotId),
    /// Restriction of a full value to the active set. Operands: `x`.
    Gather,
    /// `where(A, x, base)`: operands `x` (active), `base` (full). Only what `demand` names is ever read, so only that
    /// needs to exist.
    Scatter(Demand),

    /// A graph output with its ONNX name. Operands: `x`. No outputs.
    Output(String),
}

/// An element-wise function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Activation {
    #[default]
    None,
    Silu,
    Gelu,
    QuickGelu,
}

/// Convolution, with what fusion folds into it: `y = conv(prologue(concat(x, x2)), w) + b + vector + residual`.
/// Padding is zero and applies after the prologue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// kernel rows and columns
    pub kernel: [usize; 2],
    /// stride of rows and columns
    pub stride: [usize; 2],
    /// zero padding
    pub padding: Padding,
    /// rows and columns to upsample the input to (nearest) before the convolution
    pub upsample: Option<[usize; 2]>,
    /// a second input is concatenated behind the first along channels
    pub concat: bool,
    /// a bias is given
    pub bias: bool,
    /// coefficients `[N, 2, Cin]` scale and shift the input (over the concatenated channels)
    pub affine: bool,
    /// applied to the input after scale and shift
    pub activation: Activation,
    /// a vector `[N, Cout]` is added
    pub vector: bool,
    /// a map of the output's shape is added
    pub residual: bool,
}

/// Zero padding of a map, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Padding {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

/// Group norm over `[N, C, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// number of channel groups
    pub groups: usize,
    /// added to the variance
    pub epsilon: f64,
    /// applied to the result
    pub activation: Activation,
}

/// Matrix product over the last axis, with what fusion folds into it:
/// `y = activation(layer_norm(x) w + b) + residual`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// a bias is given
    pub bias: bool,
    /// the input is layer-normed with this epsilon first; gamma and beta are given
    pub layer_norm: Option<f64>,
    /// the product's last axis is `[a | g]` and `a * gelu(g)` is the result
    pub geglu: bool,
    /// a value of the result's shape is added
    pub residual: bool,
}

/// Concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    /// non-negative axis
    pub axis: usize,
}

/// Cross-attention control (Prompt-to-Prompt): probabilities of the conditioned images are mixed with recorded ones.
///
/// Further operands after `q, k, v`: `recorded` as [`Op::AttentionMaps`] gave it and the per-prompt tables
/// `mapper[S, S]` (column `j` says which recorded tokens make new token `j`), `blend[S]` (share of the recorded map per
/// token) and `weight[S]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Control;

/// Sinusoidal timestep embedding: frequencies `exp(-ln(max_period) * i / (width/2 - shift))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// rows of the result; a single timestep is repeated for all of them
    pub rows: usize,
    /// width of the embedding, even
    pub width: usize,
    /// cosines before sines
    pub flip_sin_to_cos: bool,
    /// downscale frequency shift
    pub shift: f64,
    /// longest period
    pub max_period: f64,
}

/// Which part of a scattered value its users read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// every pixel or token
    Full,
    /// pixels within this Chebyshev distance of the active set
    Halo(usize),
}

impl Demand {
    /// What both read together.
    pub fn or(self, other: Demand) -> Demand {
        match (self, other) {
            (Demand::Halo(a), Demand::Halo(b)) => Demand::Halo(a.max(b)),
            _ => Demand::Full,
        }
    }
}

/// An ONNX operator as imported.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxOp {
    /// operator set domain; empty for ai.onnx
    pub domain: String,
    /// operator type, e.g. `Conv`
    pub op_type: String,
    /// version of the operator set that the model imports for the domain
    pub opset: i64,
    /// attributes by name
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute of an ONNX operator.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
    Tensor(HostTensor),
}

impl OnnxOp {
    /// The integer attribute, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// The float attribute, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// The integer list, when there is one.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// Whether this is the operator `op_type` of the standard domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.op_type == op_type && matches!(self.domain.as_str(), "" | "ai.onnx")
    }
}

impl Op {
    /// The operator's name in IR text.
    pub fn name(&self) -> &str {
        match self {
            Op::Input(_) => "input",
            Op::Onnx(_) => "onnx",
            Op::Conv(_) => "conv",
            Op::GroupNorm(_) => "group_norm",
            Op::GroupNormStats { .. } => "group_norm_stats",
            Op::GroupNormStatsUpdate { .. } => "group_norm_stats_update",
            Op::NormCoefficients { .. } => "norm_coefficients",
            Op::Affine { .. } => "affine",
            Op::Upsample { .. } => "upsample",
            Op::Tokens => "tokens",
            Op::Spatial { .. } => "spatial",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Linear(_) => "linear",
            Op::Attention { .. } => "attention",
            Op::CausalAttention { .. } => "causal_attention",
            Op::AttentionMaps { .. } => "attention_maps",
            Op::Geglu => "geglu",
            Op::Activate(_) => "activate",
            Op::Add => "add",
            Op::AddVector => "add_vector",
            Op::Repeat { .. } => "repeat",
            Op::Concat(_) => "concat",
            Op::TimestepEmbedding(_) => "timestep_embedding",
            Op::CacheRead(_) => "cache.read",
            Op::CacheWrite(_) => "cache.write",
            Op::Gather => "gather",
            Op::Scatter(_) => "scatter",
            Op::Output(_) => "output",
        }
    }

    /// Whether the operator must stay although nothing uses a result of it.
    pub fn has_effect(&self) -> bool {
        matches!(self, Op::Input(_) | Op::Output(_) | Op::CacheWrite(_))
    }
}

impl Conv {
    /// An unfused convolution with symmetric padding `kernel / 2`, as the U-Net has them.
    pub fn same(kernel: usize, stride: usize) -> Self {
        let half = kernel / 2;
        Conv {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: Padding {
                top: half,
                left: half,
                bottom: half,
                right: half,
            },
            upsample: None,
            concat: false,
            bias: true,
            affine: false,
            activation: Activation::None,
            vector: false,
            residual: false,
        }
    }

    /// Whether an output pixel reads itself and the pixels next to it: 3×3, as large as its input.
    pub fn reads_neighbours(&self) -> bool {
        let padding = Conv::same(3, 1).padding;
        (self.kernel, self.stride, self.padding) == ([3, 3], [1, 1], padding) && self.upsample.is_none()
    }

    /// Rows and columns of the output for an input of `height × width`, after upsampling and padding.
    pub fn output_size(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let [height, width] = self.upsample.unwrap_or([height, width]);
        let rows = (height + self.padding.top + self.padding.bottom).checked_sub(self.kernel[0])? / self.stride[0] + 1;
        let columns =
            (width + self.padding.left + self.padding.right).checked_sub(self.kernel[1])? / self.stride[1] + 1;
        Some([rows, columns])
    }

    /// Position of each operand in the operand list.
    pub fn operand_index(&self, operand: ConvOperand) -> Option<usize> {
        let present = [
            (ConvOperand::Input, true),
            (ConvOperand::SecondInput, self.concat),
            (ConvOperand::Weight, true),
            (ConvOperand::Bias, self.bias),
            (ConvOperand::Coefficients, self.affine),
            (ConvOperand::Vector, self.vector),
            (ConvOperand::Residual, self.residual),
        ];
        let position = present.iter().position(|(name, _)| *name == operand)?;
        present[position]
            .1
            .then(|| present[..position].iter().filter(|(_, given)| *given).count())
    }
}

/// The operands of [`Op::Conv`], in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ConvOperand {
    Input,
    SecondInput,
    Weight,
    Bias,
    Coefficients,
    Vector,
    Residual,
}

/// The operands of [`Op::Linear`], in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LinearOperand {
    Input,
    Weight,
    Bias,
    Gamma,
    Beta,
    Residual,
}

impl Linear {
    /// A product without norm, activation or residual.
    pub fn plain(bias: bool) -> Self {
        Linear {
            bias,
            layer_norm: None,
            geglu: false,
            residual: false,
        }
    }

    /// Position of each operand in the operand list.
    pub fn operand_index(&self, operand: LinearOperand) -> Option<usize> {
        let present = [
            (LinearOperand::Input, true),
            (LinearOperand::Weight, true),
            (LinearOperand::Bias, self.bias),
            (LinearOperand::Gamma, self.layer_norm.is_some()),
            (LinearOperand::Beta, self.layer_norm.is_some()),
            (LinearOperand::Residual, self.residual),
        ];
        let position = present.iter().position(|(name, _)| *name == operand)?;
        present[position]
            .1
            .then(|| present[..position].iter().filter(|(_, given)| *given).count())
    }
}

/// How many of `images` follow the prompt: the second half, the first half being unconditional.
pub fn conditioned(images: usize) -> usize {
    images - images / 2
}

/// The shape of the cross-attention maps of the conditioned ones of `images`: image by image, head by head.
pub fn maps_shape(images: usize, heads: usize, queries: usize, keys: usize) -> Shape {
    [conditioned(images) * heads, queries, keys].into()
}

/// The shape `[N, groups, 2]` of group statistics.
pub fn stats_shape(batch: usize, groups: usize) -> Shape {
    [batch, groups, 2].into()
}
