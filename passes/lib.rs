//! Passes: graph to graph, one file each, and the lowering of graphs to a plan.

mod pass;

pub use pass::{Changes, PassError};
