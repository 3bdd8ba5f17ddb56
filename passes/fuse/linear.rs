//! Let a linear normalise its input, gate and add the residual.
//!
//! Before: `%n = layer_norm %x; %h = linear %n, @w; %g = geglu %h`  and  `%h = linear %x, @w; %y = add %h, %r`
//!
//! After: `%g = linear %x, @w, @gamma, @beta, layer_norm geglu`  and  `%y = linear %x, @w, %r, residual`

use fisec_ir::{Graph, Linear, LinearOperand, NodeId, Op, Operand, ValueId};

use super::operands::{absorb_origin, set_linear};
use crate::{Changes, PassError};

/// Folds single-use layer norms, GEGLU and residual sums into linears.
pub fn fuse_linear(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let fused = match graph.op(id) {
            Op::Linear(linear) => fold_layer_norm(graph, id, *linear),
            Op::Geglu => fold_geglu(graph, id),
            Op::Add => (0..2).any(|position| fold_residual(graph, id, position)),
            _ => false,
        };
        changes += Changes(usize::from(fused));
    }
    graph.prune();
    Ok(changes)
}

fn fold_layer_norm(graph: &mut Graph, id: NodeId, linear: Linear) -> bool {
    let Some(value) = graph.operands(id)[0].value() else {
        return false;
    };
    let Op::LayerNorm { epsilon } = *graph.op(value.node) else {
        return false;
    };
    if linear.layer_norm.is_some() || graph.sole_user(value) != Some(id) {
        return false;
    }
    let [x, gamma, beta] = graph.operands(value.node)[..] else {
        return false;
    };
    let fused = Linear {
        layer_norm: Some(epsilon),
        ..linear
    };
    let given = [
        (LinearOperand::Input, x),
        (LinearOperand::Gamma, gamma),
        (LinearOperand::Beta, beta),
    ];
    set_linear(graph, id, fused, &given);
    absorb_origin(graph, id, value.node, "fuse_linear");
    true
}

/// The linear behind an operand, when the node is its only user.
fn foldable_linear(graph: &Graph, id: NodeId, position: usize) -> Option<(Linear, NodeId)> {
    let value = graph.operands(id)[position].value()?;
    let Op::Linear(linear) = graph.op(value.node) else {
        return None;
    };
    let same_extent = graph.value_type(value).extent == graph.node(id).outputs()[0].extent;
    (graph.sole_user(value) == Some(id) && same_extent).then_some((*linear, value.node))
}

fn fold_geglu(graph: &mut Graph, id: NodeId) -> bool {
    let Some((linear, node)) = foldable_linear(graph, id, 0).filter(|(linear, _)| !linear.geglu && !linear.residual)
    else {
        return false;
    };
    take_over(graph, id, node, Linear { geglu: true, ..linear }, &[]);
    true
}

fn fold_residual(graph: &mut Graph, id: NodeId, position: usize) -> bool {
    let Some((linear, node)) = foldable_linear(graph, id, position).filter(|(linear, _)| !linear.residual) else {
        return false;
    };
    let other = graph.operands(id)[1 - position];
    let shape = |operand: Operand| graph.operand_type(operand).map(|value| value.shape);
    if shape(other) != shape(graph.operands(id)[position]) {
        return false;
    }
    take_over(
        graph,
        id,
        node,
        Linear {
            residual: true,
            ..linear
        },
        &[(LinearOperand::Residual, other)],
    );
    true
}

fn take_over(graph: &mut Graph, id: NodeId, node: NodeId, fused: Linear, given: &[(LinearOperand, Operand)]) {
    let output = graph.node(id).outputs()[0].clone();
    set_linear(graph, node, fused, given);
    absorb_origin(graph, node, id, "fuse_linear");
    graph.set_outputs(node, vec![output]);
    graph.replace_uses(ValueId { node: id, output: 0 }, ValueId { node, output: 0 });
    graph.remove(id);
}
