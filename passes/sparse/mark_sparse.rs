//! Make the operators of sparse levels compute active pixels only, and say what stands elsewhere.
//!
//! Before: `%y = conv %x : f32[2,64,64,64]`
//!
//! After: `%y = conv %x : f32[2,64,64,64]@a0; %c = cache.read s7; %z = scatter %y, %c, demand=full`, users read `%z`.
//!
//! This is the whole semantics of an edit, `where(A, op(x), recorded)`, spelled out; later passes only avoid work.

use std::collections::HashSet;

use fisec_ir::dependence::pixel_axes;
use fisec_ir::{Activation, Demand, Dependence, Extent, Graph, LevelId, NodeId, Op, Origin, Reading, Stage, ValueId};
use fisec_plan::Keys;

use super::{Recorded, Sparsity};
use crate::analysis::Stages;
use crate::{Changes, PassError};

/// Marks every operator of a sparse level that has a sparse kernel and runs every step.
///
/// With [`Keys::Masked`] self-attention reads its keys and values in front of the scatter: recorded ones take no part.
pub fn mark_sparse(
    graph: &mut Graph,
    sparsity: &mut Sparsity,
    stages: &Stages,
    keys: Keys,
) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    // decided before anything changes: marking puts scatters between operators
    let candidates: HashSet<NodeId> = graph
        .ids()
        .into_iter()
        .filter(|&id| has_sparse_form(graph, id) && reads_places(graph, id))
        .collect();
    let level_of = |graph: &Graph, id: NodeId| {
        let is_candidate = stages.get(id) == Stage::Step && candidates.contains(&id);
        let level = sparsity.sparse_level(ValueId { node: id, output: 0 });
        level.filter(|_| is_candidate && !matches!(graph.op(id), Op::Repeat { .. }))
    };
    let marked: Vec<(NodeId, LevelId)> = graph
        .ids()
        .into_iter()
        .filter_map(|id| {
            // an image that is computed everywhere stands for all of them everywhere
            let made = match graph.op(id) {
                Op::Repeat { .. } => graph.operands(id)[0].value()?.node,
                _ => id,
            };
            Some((id, level_of(graph, made)?))
        })
        .collect();
    for (id, level) in marked {
        mark(graph, sparsity, id, level);
        changes += Changes(1);
    }
    if keys == Keys::Masked {
        graph.ids().into_iter().for_each(|id| mask_keys(graph, id));
    }
    Ok(changes)
}

/// Keys and values of other levels, and those of operators that are not marked, are read whole.
fn mask_keys(graph: &mut Graph, id: NodeId) {
    let extent = graph.node(id).outputs().first().map(|output| output.extent);
    let extent = extent.filter(|_| matches!(graph.op(id), Op::Attention { .. }));
    let Some(extent) = extent.filter(|extent| *extent != Extent::Full) else {
        return;
    };
    let active = [1, 2].map(|position| {
        let scatter = graph.operands(id)[position].value()?.node;
        let active = match graph.op(scatter) {
            Op::Scatter(_) => graph.operands(scatter)[0].value()?,
            _ => return None,
        };
        (graph.value_type(active).extent == extent).then_some(active)
    });
    if let [Some(keys), Some(values)] = active {
        graph.set_operand(id, 1, keys.into());
        graph.set_operand(id, 2, values.into());
    }
}

/// Operators that can compute some pixels or tokens without the others, in a form that has a kernel.
fn has_sparse_form(graph: &Graph, id: NodeId) -> bool {
    // kernels compute floats; views of integers belong to the operators around them
    if !graph.node(id).outputs().iter().all(|output| output.dtype.is_float()) {
        return false;
    }
    match graph.op(id) {
        Op::Conv(conv) => is_local(conv),
        Op::Affine { activation } | Op::Activate(activation) => {
            matches!(activation, Activation::None | Activation::Silu)
        }
        Op::Linear(_) => graph.operands(id)[1].weight().is_some(),
        Op::Add => same_shapes(graph, id),
        Op::AddVector => follows_conv(graph, id),
        Op::Concat(concat) => concat.axis == 1,
        Op::Tokens
        | Op::Spatial { .. }
        | Op::LayerNorm { .. }
        | Op::Attention { control: None, .. }
        | Op::Geglu
        | Op::Repeat { .. } => true,
        _ => false,
    }
}

/// Whether each pixel or token of the result needs those at and near its own place of the first operand only.
fn reads_places(graph: &Graph, id: NodeId) -> bool {
    let dependence = Dependence::of(graph, id, 0);
    let rank = graph.node(id).outputs().first().map_or(0, |output| output.shape.len());
    let is_near = |&axis: &usize| {
        let reading = dependence.reading(0, axis);
        reading.is_local() || matches!(reading, Reading::Near(_))
    };
    pixel_axes(rank).iter().all(is_near)
}

fn same_shapes(graph: &Graph, id: NodeId) -> bool {
    let shape = |position: usize| {
        graph
            .operand_type(graph.operands(id)[position])
            .map(|value| value.shape)
    };
    graph.operands(id).iter().all(|operand| operand.value().is_some()) && shape(0) == shape(1)
}

/// The sum with a vector is done by the convolution in front of it.
fn follows_conv(graph: &Graph, id: NodeId) -> bool {
    let Some(map) = graph.operands(id)[0].value() else {
        return false;
    };
    matches!(graph.op(map.node), Op::Conv(conv) if is_local(conv)) && graph.sole_user(map) == Some(id)
}

/// Convolutions that the sparse kernels cover: 1×1, and 3×3 with padding 1 at stride 1 or 2.
fn is_local(conv: &fisec_ir::Conv) -> bool {
    let padding = [
        conv.padding.top,
        conv.padding.left,
        conv.padding.bottom,
        conv.padding.right,
    ];
    match (conv.kernel, conv.stride) {
        ([1, 1], [1, 1]) => padding == [0; 4] && conv.upsample.is_none(),
        ([3, 3], [1, 1]) => padding == [1; 4],
        ([3, 3], [2, 2]) => padding == [1; 4] && conv.upsample.is_none(),
        _ => false,
    }
}

fn mark(graph: &mut Graph, sparsity: &mut Sparsity, id: NodeId, level: LevelId) {
    let full = graph.node(id).outputs()[0].clone();
    let value = ValueId { node: id, output: 0 };
    let users = graph.users(value);
    let name = graph.origin(id).label().to_owned();
    let slot = sparsity.slot(graph, &name, full.clone(), Recorded::Value(value));
    let reason = format!("level {level} is sparse");
    let origin = Origin::merged("mark_sparse", [graph.origin(id)]).because(reason);
    let extent = match sparsity.rings.contains(&id) {
        true => Extent::Around(level),
        false => Extent::Active(level),
    };
    graph.set_outputs(id, vec![full.with_extent(extent)]);
    graph.set_origin(id, origin.clone());
    let recorded = graph.add_value(Op::CacheRead(slot), vec![], full.clone(), origin.clone());
    let scatter = Op::Scatter(Demand::Full);
    let scattered = graph.add_value(scatter, vec![value.into(), recorded.into()], full, origin);
    for (user, position) in users {
        graph.set_operand(user, position, scattered.into());
    }
}
