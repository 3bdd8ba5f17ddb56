//! Evaluate what depends on constants and known shapes only.
//!
//! Before: `Gather(Shape(%x), 2)`, `Transpose(weight)`.  After: the constants `96` and `weight` permuted.
//!
//! Layout changes and dequantisation of large weights stay lazy: nothing is read from the weights' files here. What would
//! take more than the model's [`Budget`] stays as it is, for ONNX Runtime to compute.

use fisec_ir::{Graph, NodeId, Op, Operand, ValueId, WeightInfo};
use fisec_tensor::{Constant, HostTensor};

use super::fit_upsample::fit_upsample;
use super::infer_shapes::{NoTypes, Types, infer_node, shape_range};
use super::sequences::slice_of_sequence;
use super::{evaluate, order};
use crate::{Budget, Changes, PassError};

const PASS: &str = "fold_constants";

/// Infers types in execution order and replaces computable values by weights.
pub fn fold_constants(graph: &mut Graph) -> Result<Changes, PassError> {
    fold_constants_with(graph, &mut NoTypes)
}

/// [`fold_constants`] that asks `types` about operators that the compiler does not know.
pub fn fold_constants_with(graph: &mut Graph, types: &mut dyn Types) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    let budget = Budget::of([&*graph]);
    for id in order(graph, PASS)? {
        slice_of_sequence(graph, id);
        changes += infer_node(graph, id, types)?;
        if fit_upsample(graph, id) != Changes(0) {
            changes += infer_node(graph, id, types)?;
        }
        let Some(values) = known_values(graph, id, &budget) else {
            continue;
        };
        for (output, data) in values.into_iter().enumerate() {
            let name = format!("{}.folded", graph.origin(id).label());
            let weight = graph.add_weight(WeightInfo { name, data });
            let value = ValueId {
                node: id,
                output: output as u32,
            };
            graph.replace_uses(value, weight);
            changes += Changes(1);
        }
    }
    graph.prune();
    Ok(changes)
}

fn known_values(graph: &Graph, id: NodeId, budget: &Budget) -> Option<Vec<Constant>> {
    let Op::Onnx(op) = graph.op(id) else { return None };
    let operands = graph.operands(id);
    if op.is("Shape") {
        let shape = graph.operand_type(*operands.first()?)?.shape;
        let (start, end) = shape_range(op, shape.len());
        let dims: Vec<i64> = shape[start..end.max(start)].iter().map(|&dim| dim as i64).collect();
        return Some(vec![HostTensor::from_i64(vec![dims.len()], dims).into()]);
    }
    if op.is("Size") {
        let elements = graph.operand_type(*operands.first()?)?.shape.elements();
        return Some(vec![HostTensor::from_i64(vec![], vec![elements as i64]).into()]);
    }
    let inputs = operands
        .iter()
        .enumerate()
        .map(|(position, &operand)| match operand {
            Operand::Weight(weight) => Some(Some(graph.weight(weight).data.clone())),
            Operand::Absent => Some(None),
            Operand::Value(_) if op.is("CastLike") && position == 1 => Some(None), // only its type matters
            Operand::Value(_) => None,
        })
        .collect::<Option<Vec<_>>>()?;
    evaluate::evaluate(op, &inputs, graph.node(id).outputs(), budget)
}
