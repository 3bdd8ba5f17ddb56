use crate::Op;

/// What an operator is for, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Port,
    Conv,
    Linear,
    Attention,
    Norm,
    Pointwise,
    View,
    Cache,
    Opaque,
}

impl Kind {
    /// Every kind, in the order of legends.
    pub const ALL: [Kind; 9] = [
        Kind::Port,
        Kind::Conv,
        Kind::Linear,
        Kind::Attention,
        Kind::Norm,
        Kind::Pointwise,
        Kind::View,
        Kind::Cache,
        Kind::Opaque,
    ];

    /// The kind of an operator.
    pub fn of(op: &Op) -> Self {
        match op {
            Op::Input(_) | Op::Output(_) => Kind::Port,
            Op::Onnx(_) => Kind::Opaque,
            Op::Conv(_) => Kind::Conv,
            Op::Linear(_) => Kind::Linear,
            Op::Attention { .. } | Op::CausalAttention { .. } | Op::AttentionMaps { .. } => Kind::Attention,
            Op::GroupNorm(_)
            | Op::GroupNormStats { .. }
            | Op::GroupNormStatsUpdate { .. }
            | Op::NormCoefficients { .. }
            | Op::Affine { .. }
            | Op::LayerNorm { .. } => Kind::Norm,
            Op::Geglu | Op::Activate(_) | Op::Add | Op::AddVector | Op::TimestepEmbedding(_) => Kind::Pointwise,
            Op::Upsample { .. } | Op::Tokens | Op::Spatial { .. } | Op::Repeat { .. } | Op::Concat(_) => Kind::View,
            Op::CacheRead(_) | Op::CacheWrite(_) | Op::Gather | Op::Scatter(_) => Kind::Cache,
        }
    }

    /// Its name in JSON and legends.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Port => "port",
            Kind::Conv => "conv",
            Kind::Linear => "linear",
            Kind::Attention => "attention",
            Kind::Norm => "norm",
            Kind::Pointwise => "pointwise",
            Kind::View => "view",
            Kind::Cache => "cache",
            Kind::Opaque => "opaque",
        }
    }

    /// Its colour, light enough for black text.
    pub fn colour(self) -> &'static str {
        match self {
            Kind::Port => "#d5d9e0",
            Kind::Conv => "#8fb8f0",
            Kind::Linear => "#9fd8a4",
            Kind::Attention => "#f2b36d",
            Kind::Norm => "#d7b5ee",
            Kind::Pointwise => "#f0e08a",
            Kind::View => "#c9e4e7",
            Kind::Cache => "#f5a3ad",
            Kind::Opaque => "#b9b2a8",
        }
    }
}
