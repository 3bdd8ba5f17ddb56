//! Export: a dense graph as an ONNX model with its weights outside.
//!
//! Standard operators of opset 17, and ONNX Runtime's own (`com.microsoft`) where one of them does the work of several
//! in one pass: `MultiHeadAttention`, `Gelu`, `QuickGelu`.

mod attention;
mod attributes;
mod builder;
mod norms;
mod older;
mod operators;
mod ports;

use fisec_ir::{Graph, GraphError, Op};
use fisec_tensor::Constant;
use prost::Message;
use thiserror::Error;

use builder::Builder;

/// How the inputs and outputs of an exported model lie in memory. Inside it maps are `[N, C, H, W]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// as in the graph
    #[default]
    Plain,
    /// maps are `[N, H, W, C]`
    ChannelsLast,
    /// what floats are is f16 rows as a device's kernels have them: maps `[N, H, W, C]`, channels of everything padded with
    /// zeros to a multiple of `vector`
    DeviceRows {
        /// channels of a vector
        vector: usize,
    },
}

/// Where an initializer's bytes stand, in the terms of ONNX external data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// file, relative to the model
    pub file: String,
    /// first byte
    pub offset: u64,
    /// number of bytes
    pub length: u64,
}

/// Takes the bytes of initializers that are too large to stand in the model.
pub trait WeightSink {
    /// Stores `data` and says where.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being stored.
    fn place(&mut self, name: &str, data: &Constant) -> Result<Location, SinkError>;
}

/// A weight could not be stored.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SinkError(String);

impl SinkError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        SinkError(message.into())
    }
}

/// A graph cannot be written as ONNX.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExportError {
    /// the operator exists in sparse programs only
    #[error("`{node}`: `{op}` has no ONNX form")]
    NoForm {
        /// label of the node
        node: String,
        /// operator
        op: String,
    },
    /// the graph has a cycle
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// a weight could not be stored
    #[error("weight `{name}` could not be stored: {cause}")]
    Weight {
        /// the weight
        name: String,
        /// why
        cause: SinkError,
    },
}

/// The bytes of an ONNX model that computes `graph`. Inputs and outputs keep their names; `cache.write`s are left out.
///
/// # Errors
/// Fails on operators of sparse programs, on cycles, and when `weights` refuses a tensor.
pub fn export(graph: &Graph, ports: Ports, weights: &mut dyn WeightSink) -> Result<Vec<u8>, ExportError> {
    let mut builder = Builder::new(graph);
    for id in graph.ordered()? {
        operators::emit(&mut builder, ports, id)?;
    }
    Ok(builder.finish(weights)?.encode_to_vec())
}

/// Whether an operator can stand in an exported graph.
pub fn has_onnx_form(op: &Op) -> bool {
    !matches!(
        op,
        Op::CacheRead(_) | Op::Gather | Op::Scatter(_) | Op::GroupNormStatsUpdate { .. }
    )
}
