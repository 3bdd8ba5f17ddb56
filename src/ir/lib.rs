//! The intermediate representation: a graph of operators over typed values, its verifier and its text form.
//!
//! One [`Graph`] is one program (`record`, `guide`, `edit`, or the model as imported). Values are single-assignment
//! and carry a [`ValueType`]: element type, logical shape and *extent*. Feature maps are logically `[N, C, H, W]`,
//! token sequences `[N, L, C]`; memory layout is a backend's concern and is not spoken of here.

pub mod dependence;
pub mod dump;
mod einsum;
mod graph;
mod infer;
mod op;
mod origin;
pub mod text;
mod traverse;
mod users;
mod value;
pub mod verify;
mod weight;

pub use dependence::{Dependence, Reading};
pub use einsum::{Equation, Label};
pub use graph::{Graph, GraphError, Node, NodeId};
pub use infer::{broadcast, operand_counts, result_type};
pub use op::{
    Activation, Attribute, Concat, Control, Conv, ConvOperand, Demand, GroupNorm, Linear, LinearOperand, OnnxOp, Op,
    Padding, TimestepEmbedding, conditioned, maps_shape, stats_shape,
};
pub use origin::Origin;
pub use value::{Extent, LevelId, Operand, RING, Stage, ValueId, ValueType};
pub use weight::{SlotId, SlotInfo, WeightId, WeightInfo};
