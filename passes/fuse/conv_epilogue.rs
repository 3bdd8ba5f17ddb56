//! Let a convolution add the time embedding and the residual while it scatters.
//!
//! Before: `%h = conv %x, @w; %v = add_vector %h, %t`  and  `%h = conv %x, @w; %y = add %h, %r`
//!
//! After: `%v = conv %x, @w, %t, vector`  and  `%y = conv %x, @w, %r, residual`

use fisec_ir::{Conv, ConvOperand, Graph, NodeId, Op, Operand, ValueId};

use super::operands::{absorb_origin, set_conv};
use crate::{Changes, PassError};

/// Folds vector and residual sums into the convolutions in front of them.
pub fn fuse_conv_epilogue(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let fused = match graph.op(id) {
            Op::AddVector => fold(graph, id, 0, ConvOperand::Vector),
            Op::Add => match better_summand(graph, id) {
                Some(position) => fold(graph, id, position, ConvOperand::Residual),
                None => false,
            },
            _ => false,
        };
        changes += Changes(usize::from(fused));
    }
    graph.prune();
    Ok(changes)
}

/// The summand whose convolution does more work; the other one becomes the residual.
fn better_summand(graph: &Graph, id: NodeId) -> Option<usize> {
    let shapes: Vec<_> = graph
        .operands(id)
        .iter()
        .map(|&operand| graph.operand_type(operand))
        .collect();
    if shapes[0].as_ref()?.shape != shapes[1].as_ref()?.shape {
        return None;
    }
    let work = |position: usize| {
        let (conv, node) = foldable_conv(graph, id, position)?;
        let depth = graph.operand_type(graph.operands(node)[conv.operand_index(ConvOperand::Weight)?])?;
        (!conv.residual).then(|| depth.shape.elements())
    };
    (0..2)
        .filter(|&position| work(position).is_some())
        .max_by_key(|&position| work(position))
}

/// The convolution behind an operand, when the node is its only user and computes the same pixels.
fn foldable_conv(graph: &Graph, id: NodeId, position: usize) -> Option<(Conv, NodeId)> {
    let value = graph.operands(id)[position].value()?;
    let Op::Conv(conv) = graph.op(value.node) else {
        return None;
    };
    let same_extent = graph.value_type(value).extent == graph.node(id).outputs()[0].extent;
    (graph.sole_user(value) == Some(id) && same_extent).then(|| (conv.clone(), value.node))
}

fn fold(graph: &mut Graph, id: NodeId, position: usize, which: ConvOperand) -> bool {
    let Some((conv, node)) = foldable_conv(graph, id, position) else {
        return false;
    };
    let fused = match which {
        ConvOperand::Vector if !conv.vector => Conv { vector: true, ..conv },
        ConvOperand::Residual if !conv.residual => Conv { residual: true, ..conv },
        _ => return false,
    };
    let other: Operand = graph.operands(id)[1 - position];
    let output = graph.node(id).outputs()[0].clone();
    set_conv(graph, node, fused, &[(which, other)]);
    absorb_origin(graph, node, id, "fuse_conv_epilogue");
    graph.set_outputs(node, vec![output]);
    graph.replace_uses(ValueId { node: id, output: 0 }, ValueId { node, output: 0 });
    graph.remove(id);
    true
}
