//! Give the prompt's stage its own copy of constants that are computed.
//!
//! Before: `%c = onnx Erf @w`, read by an operator of the prompt's stage and by one of the timestep's.
//!
//! After: two copies, each read by one stage. The stages before the steps run apart from each other, so that neither can read
//! what the other has computed.

use std::collections::HashMap;

use fisec_ir::{Graph, GraphError, NodeId, Op, Operand, Stage, ValueId};

use crate::analysis::Stages;

/// Which stages read a constant, directly or through other constants.
#[derive(Clone, Copy, Default)]
struct Readers {
    prompt: bool,
    other: bool,
}

/// The graph with such copies, and the stages of its nodes: constants that only the prompt's stage reads belong to it. The graph
/// is `None` where nothing had to be copied.
pub fn own_constants(graph: &Graph, stages: &mut Stages) -> Result<Option<Graph>, GraphError> {
    let order = graph.ordered()?;
    let readers = readers(graph, stages, &order);
    let of_prompt: Vec<NodeId> = order
        .into_iter()
        .filter(|id| readers.get(id).is_some_and(|readers| readers.prompt))
        .collect();
    if of_prompt.is_empty() {
        return Ok(None);
    }
    let mut copied = graph.clone();
    let mut copies: HashMap<NodeId, NodeId> = HashMap::new();
    for id in of_prompt {
        let own = match readers[&id].other {
            true => copy(&mut copied, id, &copies),
            false => id,
        };
        stages.assign(own, Stage::Prompt);
        copies.insert(id, own);
    }
    for (&id, &own) in copies.iter().filter(|(id, own)| id != own) {
        for output in 0..graph.node(id).outputs().len() as u32 {
            for (user, position) in graph.users(ValueId { node: id, output }) {
                // a constant that the prompt alone reads moved as a whole; a copy has its operands already
                if stages.get(user) == Stage::Prompt {
                    copied.set_operand(user, position, ValueId { node: own, output }.into());
                }
            }
        }
    }
    Ok(Some(copied))
}

fn readers(graph: &Graph, stages: &Stages, order: &[NodeId]) -> HashMap<NodeId, Readers> {
    let mut readers: HashMap<NodeId, Readers> = HashMap::new();
    for &id in order.iter().rev() {
        let stage = stages.get(id);
        let own = match stage {
            Stage::Constant => readers.get(&id).copied().unwrap_or_default(),
            _ => Readers {
                prompt: stage == Stage::Prompt,
                other: stage != Stage::Prompt,
            },
        };
        for operand in graph.operands(id) {
            let Operand::Value(value) = operand else { continue };
            if stages.get(value.node) == Stage::Constant && !matches!(graph.op(value.node), Op::Input(_)) {
                let known = readers.entry(value.node).or_default();
                known.prompt |= own.prompt;
                known.other |= own.other;
            }
        }
    }
    readers
}

fn copy(graph: &mut Graph, id: NodeId, copies: &HashMap<NodeId, NodeId>) -> NodeId {
    let node = graph.node(id);
    let (op, outputs, origin) = (node.op().clone(), node.outputs().to_vec(), node.origin().clone());
    let own = |operand: &Operand| match operand {
        Operand::Value(value) => Operand::Value(ValueId {
            node: copies.get(&value.node).copied().unwrap_or(value.node),
            output: value.output,
        }),
        other => *other,
    };
    let operands = node.operands().iter().map(own).collect();
    graph.add(op, operands, outputs, origin)
}
