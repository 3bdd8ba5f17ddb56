use thiserror::Error;

/// Why a graph cannot be evaluated.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OracleError {
    /// An input, slot or mask was not given, or does not fit the graph.
    #[error("{0}")]
    Data(String),
    /// A node cannot be evaluated.
    #[error("`{node}` ({op}): {message}")]
    Node {
        /// its ONNX name, or the pass that made it
        node: String,
        /// its operator
        op: String,
        /// what is wrong
        message: String,
    },
    /// The graph has no execution order.
    #[error(transparent)]
    Order(#[from] fisec_ir::GraphError),
}
