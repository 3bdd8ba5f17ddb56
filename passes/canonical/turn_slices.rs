//! Cut first and transpose then, so that a range of heads is a range of the heads that were split.
//!
//! Before: `Slice(Transpose(%k, [0,2,1]), heads 0..1)`.  After: `Transpose(Slice(%k, heads 0..1), [0,2,1])`.

use fisec_ir::{Attribute, Graph, NodeId, ValueType};
use fisec_tensor::Shape;

use super::order;
use super::pattern::{Rewriter, is, onnx, result, standard, value_at};
use super::raise_geglu::part;
use crate::{Changes, PassError};

const PASS: &str = "turn_slices";

/// Turns every range of a leading axis of transposed matrices.
pub fn turn_slices(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        turn(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn turn(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let cut = is(graph, result(id), "Slice").then(|| part(graph, result(id)))??;
    let transpose = onnx(graph, cut.of).filter(|op| op.is("Transpose"))?.clone();
    let rank = graph.value_type(cut.of).shape.len();
    let order: Vec<usize> = match transpose.attributes.get("perm") {
        Some(Attribute::Ints(order)) => order.iter().map(|&axis| axis as usize).collect(),
        _ => return None,
    };
    if cut.axis + 2 >= rank || order[cut.axis] != cut.axis {
        return None;
    }
    let source = value_at(graph, cut.of.node, 0)?;
    let ty = graph.value_type(source).clone();
    let mut dims = ty.shape.to_vec();
    dims[cut.axis] = cut.length;
    // axis numbers stay what they are: the cut axis keeps its place, and negative ones count from the same rank
    let mut operands = graph.operands(id).to_vec();
    operands[0] = source.into();
    let slice = graph.op(id).clone();
    let sliced = rewriter.add(slice, operands, ValueType::full(ty.dtype, Shape::from(dims)), &[id]);
    let perm = Attribute::Ints(order.iter().map(|&axis| axis as i64).collect());
    let transpose = standard("Transpose", &[("perm", perm)]);
    rewriter.replace(result(id), transpose, vec![sliced.into()], &[cut.of.node]);
    Some(())
}
