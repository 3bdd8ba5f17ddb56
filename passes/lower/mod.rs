//! From programs of the IR to programs of a plan.

mod early_constants;
mod islands;
mod kernels;
mod native;
mod network;
mod pack;
mod program;
mod values;
mod weights;

pub use islands::DenseLevels;
pub use kernels::slot_demands;
pub use network::{lower_network, lower_prompt};
pub use program::{ProgramLowering, lower_program};
pub use weights::{PlanBuilder, WeightTarget};

use thiserror::Error;

/// A program cannot be lowered.
#[derive(Debug, Error)]
pub enum LowerError {
    /// The compiler met a node that the target cannot run: a defect.
    #[error("`{node}` cannot be lowered: {message}")]
    Unsupported {
        /// label of the node
        node: String,
        /// what is wrong
        message: String,
    },
    /// The graph is not an order of operators.
    #[error(transparent)]
    Graph(#[from] fisec_ir::GraphError),
    /// An island could not be written.
    #[error(transparent)]
    Export(#[from] fisec_onnx::ExportError),
    /// The model makes more of its constants than its files hold.
    #[error(
        "the model's constants are expanded too far: `{weight}` takes {bytes} bytes of work, and the whole model may take \
         {budget}, in proportion to its files"
    )]
    TooMuch {
        /// the weight at which the budget ended
        weight: String,
        /// bytes that it would take
        bytes: usize,
        /// bytes that all constants may take
        budget: usize,
    },
    /// The bundle could not be written.
    #[error(transparent)]
    Plan(#[from] fisec_plan::PlanError),
}
