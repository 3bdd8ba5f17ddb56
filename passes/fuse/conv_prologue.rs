//! Let a convolution normalise, activate and concatenate while it gathers.
//!
//! Before: `%m = concat %a, %b; %n = affine %m, %c, activation=silu; %y = conv %n, @w`
//!
//! After: `%y = conv %a, %b, @w, %c, concat affine activation=silu`
//!
//! Padding stays zero after the activation: the convolution pads what it has normalised.

use fisec_ir::{Activation, Conv, ConvOperand, Graph, NodeId, Op, Operand};

use super::operands::{absorb_origin, set_conv};
use crate::{Changes, PassError};

/// Folds affine norms and two-input concatenations into the convolutions that read them.
pub fn fuse_conv_prologue(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        if !matches!(graph.op(id), Op::Conv(_)) {
            continue;
        }
        changes += Changes(usize::from(fold_affine(graph, id)));
        changes += Changes(usize::from(fold_concat(graph, id)));
    }
    graph.prune();
    Ok(changes)
}

fn producer(graph: &Graph, id: NodeId) -> Option<(Conv, NodeId)> {
    let Op::Conv(conv) = graph.op(id) else { return None };
    Some((conv.clone(), graph.operands(id)[0].value()?.node))
}

fn fold_affine(graph: &mut Graph, id: NodeId) -> bool {
    let Some((conv, affine)) = producer(graph, id) else {
        return false;
    };
    let Op::Affine { activation } = *graph.op(affine) else {
        return false;
    };
    if conv.affine || conv.concat || conv.activation != Activation::None {
        return false;
    }
    let [x, coefficients] = graph.operands(affine)[..] else {
        return false;
    };
    let fused = Conv {
        affine: true,
        activation,
        ..conv
    };
    set_conv(
        graph,
        id,
        fused,
        &[(ConvOperand::Input, x), (ConvOperand::Coefficients, coefficients)],
    );
    absorb_origin(graph, id, affine, "fuse_conv_prologue");
    true
}

fn fold_concat(graph: &mut Graph, id: NodeId) -> bool {
    let Some((conv, concat)) = producer(graph, id) else {
        return false;
    };
    if conv.concat || !matches!(graph.op(concat), Op::Concat(fisec_ir::Concat { axis: 1 })) {
        return false;
    }
    let [a, b]: [Operand; 2] = match graph.operands(concat).try_into() {
        Ok(pair) => pair,
        Err(_) => return false,
    };
    let fused = Conv { concat: true, ..conv };
    set_conv(
        graph,
        id,
        fused,
        &[(ConvOperand::Input, a), (ConvOperand::SecondInput, b)],
    );
    absorb_origin(graph, id, concat, "fuse_conv_prologue");
    true
}
