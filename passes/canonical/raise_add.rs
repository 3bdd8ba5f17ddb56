//! Recognise residual additions.
//!
//! Before: `onnx Add %a, %b`.  After: `add %a, %b`.

use fisec_ir::{Graph, NodeId, Op};

use super::order;
use super::pattern::{Rewriter, onnx, result};
use crate::{Changes, PassError};

const PASS: &str = "raise_add";

/// Raises sums of two computed values of one type; sums with constants stay as they are.
pub fn raise_add(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        raise(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    onnx(graph, result(id)).filter(|op| op.is("Add"))?;
    let ty = graph.value_type(result(id));
    let operands = graph.operands(id).to_vec();
    let same = operands
        .iter()
        .all(|operand| operand.value().is_some_and(|value| graph.value_type(value) == ty));
    if !same || !ty.dtype.is_float() {
        return None;
    }
    rewriter.replace(result(id), Op::Add, operands, &[id]);
    Some(())
}
