//! How often each node must run.

use std::collections::HashMap;

use fisec_ir::{Graph, GraphError, NodeId, Op, Operand, Stage};

/// The stage of every node: what its value depends on.
#[derive(Clone, Debug)]
pub struct Stages(HashMap<NodeId, Stage>);

impl Stages {
    /// Follows the inputs `timestep` and `context`; every other input, and the cache, belongs to the step.
    pub fn of(graph: &Graph, timestep: &str, context: &str) -> Result<Self, GraphError> {
        let mut stages = HashMap::new();
        for id in graph.ordered()? {
            let own = match graph.op(id) {
                Op::Input(name) if name == timestep => Stage::Timestep,
                Op::Input(name) if name == context => Stage::Prompt,
                Op::Input(_) | Op::CacheRead(_) | Op::CacheWrite(_) | Op::Output(_) => Stage::Step,
                _ => Stage::Constant,
            };
            let stage = graph.operands(id).iter().filter_map(|operand| match operand {
                Operand::Value(value) => stages.get(&value.node).copied(),
                _ => None,
            });
            stages.insert(id, stage.fold(own, combine));
        }
        Ok(Stages(stages))
    }

    /// Everything at every step: a network that is run as a whole.
    pub fn whole() -> Self {
        Stages(HashMap::new())
    }

    /// Puts a node into another stage.
    pub(crate) fn assign(&mut self, id: NodeId, stage: Stage) {
        self.0.insert(id, stage);
    }

    /// The stage of a node.
    pub fn get(&self, id: NodeId) -> Stage {
        self.0.get(&id).copied().unwrap_or(Stage::Step)
    }
}

fn combine(a: Stage, b: Stage) -> Stage {
    match (a, b) {
        (Stage::Timestep, Stage::Prompt) | (Stage::Prompt, Stage::Timestep) => Stage::Step,
        _ => a.max(b),
    }
}
