//! Tables of a graph: weights (constants) and cache slots.

use std::fmt;

use fisec_tensor::Constant;
use serde::{Deserialize, Serialize};

use crate::{LevelId, ValueType};

/// Index into a graph's weight table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A constant of the graph. The data may be a memory map with pending transformations; it is shared between graphs.
#[derive(Clone, Debug)]
pub struct WeightInfo {
    /// unique within the graph; the ONNX initializer's name where there is one
    pub name: String,
    /// the values
    pub data: Constant,
}

/// Index into a graph's slot table; the same slot has the same id in `record` and `edit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// A recorded activation: written by `record` once per step, read by `edit` at the same step.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotInfo {
    /// unique, readable name: the producing layer's, e.g. `down_blocks.0/resnets.0/conv1`
    pub name: String,
    /// type of the recorded value: always full extent
    pub value_type: ValueType,
    /// level of the value, or `None` for statistics
    pub level: Option<LevelId>,
}
