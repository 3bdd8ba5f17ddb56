//! The plan: what the compiler hands to the runtime, and the only door between them.
//!
//! A plan is a directory, the *bundle*: `plan.json` (this crate's types, readable), `graph.fir` (the rewritten programs
//! as text), `weights.bin` (constants in kernel layout, content-addressed), islands as ONNX files with external
//! initializers in `weights.bin`, and the neighbours of the U-Net that a pipeline needs. Every file's hash stands in
//! `plan.json`.
//!
//! Memory layouts here are concrete: maps are `[N, H, W, C]`, tokens `[N, L, C]` (the same bytes, `L = H * W`), vectors
//! `[N, C]`. A value of active extent holds packed rows `[N, active, C]`, see `fisec_tensor::ActiveSet`.

mod cost;
mod kernel;
mod plan;

pub use cost::{TileCandidate, TileCost};
pub use kernel::{
    AttentionKernel, ConvKernel, ConvSource, IslandCall, Kernel, LinearKernel, NormKernel, ResidualSource, StatsUpdate,
};
pub use plan::{
    CompileOptions, Extent, FORMAT, FileHash, Island, IslandId, Keys, Level, Node, Norm, PipelineFiles, Plan, Port,
    Program, ProgramKind, Programs, Provenance, Slot, SlotId, SlotKind, Stage, Value, ValueId, Weight, WeightId,
};
