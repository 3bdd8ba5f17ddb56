//! Values of a plan for values of a graph.

use std::collections::HashMap;

use fisec_ir::{Extent as IrExtent, Graph, LevelId, Stage as IrStage, ValueId as IrValue, ValueType};
use fisec_plan::{Extent, Stage, Value, ValueId};

use crate::analysis::Stages;

/// The value table of a program under construction.
pub struct Values {
    table: Vec<Value>,
    /// the plan's level of each ring
    rings: HashMap<LevelId, u32>,
    known: HashMap<IrValue, ValueId>,
}

impl Values {
    /// For a plan of so many levels with the rings of some of them behind.
    pub fn new(levels: usize, rings: &[LevelId]) -> Self {
        Values {
            table: Vec::new(),
            rings: rings.iter().copied().zip(levels as u32..).collect(),
            known: HashMap::new(),
        }
    }

    /// The plan's value for a value of the graph; made when it is new.
    pub fn get(&mut self, graph: &Graph, stages: &Stages, value: IrValue) -> ValueId {
        if let Some(known) = self.known.get(&value) {
            return *known;
        }
        let id = self.anonymous(graph.value_type(value), stages.get(value.node));
        self.known.insert(value, id);
        id
    }

    /// A new value of the plan that stands for no value of the graph.
    pub fn anonymous(&mut self, value: &ValueType, stage: IrStage) -> ValueId {
        let extent = match value.extent {
            IrExtent::Full => Extent::Full,
            IrExtent::Active(level) => Extent::Active(level.0),
            IrExtent::Around(level) => Extent::Active(self.rings[&level]),
        };
        self.table.push(Value {
            dtype: value.dtype,
            shape: value.shape.channels_last(),
            extent,
            stage: plan_stage(stage),
        });
        ValueId(self.table.len() as u32 - 1)
    }

    /// Last dimension of a value.
    pub fn channels(&self, id: ValueId) -> usize {
        self.table[id.index()].shape.last().copied().unwrap_or(1)
    }

    /// Makes `view` the same rows as `of`: tokens and maps are one layout.
    pub fn alias(&mut self, view: IrValue, of: ValueId) {
        self.known.insert(view, of);
    }

    /// The finished table.
    pub fn into_table(self) -> Vec<Value> {
        self.table
    }
}

/// The plan's stage; constants run with the timesteps.
pub fn plan_stage(stage: IrStage) -> Stage {
    match stage {
        IrStage::Constant | IrStage::Timestep => Stage::Timestep,
        IrStage::Prompt => Stage::Prompt,
        IrStage::Step => Stage::Step,
    }
}
