//! Launching `advance_step`.

use bytemuck::{Pod, Zeroable};

use super::Launch;

/// Parameters of `advance_step`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct AdvanceParams {
    /// `u64 [steps][slot_count]`
    pub all_slots: u64,
    /// `u64 [slot_count]`, written
    pub slots: u64,
    /// i32: the step to run; incremented
    pub next: u64,
    /// i32: the step that runs, written
    pub step: u64,
    /// entries of the table
    pub slot_count: i32,
    /// rows of `all_slots`
    pub steps: i32,
}

/// Before a step's graph.
pub fn advance_step(params: &AdvanceParams) -> Launch {
    Launch::new("advance_step", "advance_step", [1, 1, 1], 256, params)
}
