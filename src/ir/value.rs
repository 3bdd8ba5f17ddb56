//! Values: what flows along the edges of a graph.

use std::fmt;

use fisec_tensor::{DType, Shape};
use serde::{Deserialize, Serialize};

use crate::{NodeId, WeightId};

/// A resolution of the U-Net. Level 0 is the latent's; each next one has half the rows and columns, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LevelId(pub u32);

impl fmt::Display for LevelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

/// Where a value is defined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Extent {
    /// Every pixel or token.
    #[default]
    Full,
    /// Only the active pixels or tokens of the level; the rest must not be read.
    Active(LevelId),
    /// The active pixels of the level and those next to them, [`RING`] pixels (Chebyshev) wide.
    Around(LevelId),
}

/// Pixels around the active ones that [`Extent::Around`] adds.
pub const RING: usize = 1;

impl Extent {
    /// The level, unless everything is there.
    pub fn level(self) -> Option<LevelId> {
        match self {
            Extent::Full => None,
            Extent::Active(level) | Extent::Around(level) => Some(level),
        }
    }

    /// How far beyond the active pixels of its level it goes.
    pub fn ring(self) -> usize {
        match self {
            Extent::Around(_) => RING,
            Extent::Full | Extent::Active(_) => 0,
        }
    }
}

/// Element type, logical shape and extent of a value.
///
/// The shape is always that of the full map or sequence, also where only active pixels are defined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// element type
    pub dtype: DType,
    /// `[N, C, H, W]` for maps, `[N, L, C]` for tokens, anything for opaque values
    pub shape: Shape,
    /// pixels or tokens that are defined
    pub extent: Extent,
}

impl ValueType {
    /// A value that is defined everywhere.
    pub fn full(dtype: DType, shape: impl Into<Shape>) -> Self {
        ValueType {
            dtype,
            shape: shape.into(),
            extent: Extent::Full,
        }
    }

    /// The same element type and shape with another extent.
    pub fn with_extent(&self, extent: Extent) -> Self {
        ValueType { extent, ..self.clone() }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Full => f.write_str("every pixel"),
            Extent::Active(level) => write!(f, "{level}"),
            Extent::Around(LevelId(level)) => write!(f, "r{level}"),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.dtype, self.shape)?;
        match self.extent {
            Extent::Full => Ok(()),
            extent => write!(f, "@{extent}"),
        }
    }
}

/// One output of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// the node that computes it
    pub node: NodeId,
    /// which of the node's outputs
    pub output: u32,
}

/// What an operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// a value computed by another node
    Value(ValueId),
    /// a constant of the graph's weight table
    Weight(WeightId),
    /// an optional ONNX input that is not given
    Absent,
}

impl Operand {
    /// The value, when it is one.
    pub fn value(self) -> Option<ValueId> {
        match self {
            Operand::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The weight, when it is one.
    pub fn weight(self) -> Option<WeightId> {
        match self {
            Operand::Weight(weight) => Some(weight),
            _ => None,
        }
    }
}

impl From<ValueId> for Operand {
    fn from(value: ValueId) -> Self {
        Operand::Value(value)
    }
}

impl From<WeightId> for Operand {
    fn from(weight: WeightId) -> Self {
        Operand::Weight(weight)
    }
}

/// What a value depends on, hence how often it is computed. Ordered: a node's stage is the largest of its operands'.
///
/// A value that depends on both timestep and text, but not on the latent, counts as `Step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// nothing: folded at compile time
    Constant,
    /// the timestep only: one table per schedule
    Timestep,
    /// the text only: once per prompt
    Prompt,
    /// the latent: every step
    Step,
}
