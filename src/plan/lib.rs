//! The plan: what the compiler hands to the runtime, and the only door between them.
//!
//! A plan is a directory, the *bundle*: `plan.json` (this crate's types, readable), `graph.fir` (the rewritten programs
//! as text), `weights.bin` (constants in kernel layout, content-addressed), islands as ONNX files with external
//! initializers in `weights.bin`, and the neighbours of the U-Net that a pipeline needs. Every file's hash stands in
//! `plan.json`.
//!
//! Memory layouts here are concrete: maps are `[N, H, W, C]`, tokens `[N, L, C]` (the same bytes, `L = H * W`), vectors
//! `[N, C]`. A value of active extent holds packed rows `[N, active, C]`, see `fisec_tensor::ActiveSet`.

mod bundle;
mod control;
mod cost;
pub mod cuda;
mod error;
pub mod json;
mod kernel;
mod network_output;
mod operand_shapes;
mod operands;
mod plan;
mod program;
mod scratch;
mod text;
mod validate;
mod weights_file;
mod write;

pub use bundle::Bundle;
pub use control::ControlInput;
pub use cost::{TileCandidate, TileCost};
pub use error::PlanError;
pub use kernel::{
    AttentionKernel, AttentionMapsKernel, CausalKernel, ControlledAttentionKernel, ConvKernel, ConvSource, IslandCall,
    Kernel, LinearKernel, NormKernel, ResidualSource, StatsUpdate,
};
pub use plan::{
    CompileOptions, Extent, FORMAT, FileHash, Halos, Island, IslandId, Keys, Level, NetworkKind, Node, Norm,
    PipelineFiles, Plan, Port, Program, ProgramKind, Programs, PromptProgram, Provenance, Remainder, Samples, Slot,
    SlotId, SlotKind, Stage, Value, ValueId, Weight, WeightId,
};
pub use scratch::{
    Scratch, ScratchFolder, bytes_on_disk, list_scratch, remove_all_scratch, remove_leftover, remove_leftovers,
    restore_replaced,
};
pub use text::program_text;
pub use write::{ALIGNMENT, BundleWriter, Placement};
