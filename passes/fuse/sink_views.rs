//! Move the change from tokens to a map behind a sum, so that the sum meets the product in front of it.
//!
//! Before: `%m = spatial %t; %y = add %m, %r`
//!
//! After: `%u = tokens %r; %s = add %t, %u; %y = spatial %s`
//!
//! Tokens and maps are the same rows in the runtime's layout: the views cost nothing.

use fisec_ir::{Graph, NodeId, Op, Operand, Origin, ValueId, ValueType};

use crate::{Changes, PassError};

/// Rewrites every sum of a map with tokens seen as a map.
pub fn sink_views(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        if !matches!(graph.op(id), Op::Add) {
            continue;
        }
        let Some(position) = (0..2).find(|&position| is_view(graph, graph.operands(id)[position], id)) else {
            continue;
        };
        sink(graph, id, position);
        changes += Changes(1);
    }
    graph.prune();
    Ok(changes)
}

fn is_view(graph: &Graph, operand: Operand, user: NodeId) -> bool {
    let Operand::Value(value) = operand else { return false };
    let shapes_match = graph.value_type(value).shape == graph.node(user).outputs()[0].shape;
    matches!(graph.op(value.node), Op::Spatial { .. }) && graph.sole_user(value) == Some(user) && shapes_match
}

fn sink(graph: &mut Graph, id: NodeId, position: usize) {
    let view = graph.operands(id)[position].value().expect("a view is a value").node;
    let (tokens, residual) = (graph.operands(view)[0], graph.operands(id)[1 - position]);
    let tokens_type = graph.operand_type(tokens).expect("tokens are a value");
    let residual_extent = graph.operand_type(residual).expect("a summand is given").extent;
    let origin = Origin::merged("sink_views", [graph.origin(id)]).because("the sum joins the product before it");
    let residual_type = ValueType {
        extent: residual_extent,
        ..tokens_type.clone()
    };
    let residual = graph.add_value(Op::Tokens, vec![residual], residual_type, origin.clone());
    let output = graph.node(id).outputs()[0].clone();
    // an active sum may read full tokens and a full residual, so neither says where the sum is there
    let sum_type = tokens_type.with_extent(output.extent);
    let sum = graph.add_value(Op::Add, vec![tokens, residual.into()], sum_type, origin);
    let view_op = graph.op(view).clone();
    let view_origin = graph.origin(view).clone();
    let result = graph.add_value(view_op, vec![sum.into()], output, view_origin);
    graph.replace_uses(ValueId { node: id, output: 0 }, result);
    graph.remove(id);
}
