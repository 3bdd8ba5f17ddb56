//! What a step cost.

use std::time::Duration;

/// Work and time of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// the whole step
    pub time: Duration,
    /// what a device worked on it, between its input's arrival and its prediction's departure
    pub device_time: Option<Duration>,
    /// multiply-accumulates of matrix products, convolutions and islands
    pub macs: u64,
    /// bytes read from recorded slots
    pub slot_bytes: u64,
    /// every node in execution order, when they are measured
    pub nodes: Vec<NodeTime>,
}

/// One node of a measured step.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTime {
    /// name of the plan's node
    pub node: String,
    /// its kernel
    pub kernel: &'static str,
    /// time taken
    pub time: Duration,
    /// multiply-accumulates
    pub macs: u64,
}
