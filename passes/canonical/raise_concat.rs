//! Recognise concatenation along channels.
//!
//! Before: `onnx Concat %up, %skip {axis=1}`.  After: `concat %up, %skip`.

use fisec_ir::{Concat, Graph, NodeId, Op};

use super::infer_shapes::axis;
use super::order;
use super::pattern::{Rewriter, onnx, result};
use crate::{Changes, PassError};

const PASS: &str = "raise_concat";

/// Raises concatenations of two or more maps, or of two or more token sequences or vectors.
pub fn raise_concat(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        raise(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id)).filter(|op| op.is("Concat"))?;
    let ty = graph.value_type(result(id));
    let rank = ty.shape.len();
    let axis = axis(op.int("axis", 0), rank)?;
    let channels = if rank == 4 { 1 } else { rank - 1 };
    let operands = graph.operands(id).to_vec();
    let computed = operands.iter().all(|operand| operand.value().is_some());
    if axis != channels || rank < 2 || operands.len() < 2 || !computed || !ty.dtype.is_float() {
        return None;
    }
    rewriter.replace(result(id), Op::Concat(Concat { axis }), operands, &[id]);
    Some(())
}
