//! What a pass returns.

use thiserror::Error;

/// How many rewrites a pass made; zero means that the graph is as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub usize);

impl std::ops::AddAssign for Changes {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// A pass cannot go on.
#[derive(Debug, Error)]
#[error("{message}\n  --> node {node}")]
pub struct PassError {
    /// name of the pass
    pub pass: &'static str,
    /// ONNX name or IR label of the node concerned
    pub node: String,
    /// what is wrong, lower case, no trailing period
    pub message: String,
    /// what the user can do
    pub hint: Option<String>,
}
