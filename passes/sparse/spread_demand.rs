//! Find out who needs values outside the active set, and give nobody more than that.
//!
//! Before: every marked value is scattered over its recorded map, and every user reads the result.
//!
//! After: users that work pixel by pixel read the active value; convolutions read a scatter of demand `halo`; dense
//! users and full keys one of demand `full`; cheap pixel-wise operators in front of a convolution (norm, activation,
//! concatenation) are repeated on the halo, so that only their inputs are recorded. Slots that nobody reads go away.
//!
//! Repeating is exact for frozen statistics. With live ones it is the definition: a norm applies to the map in front of
//! it everywhere, and only what computes that map is restored.

use std::collections::HashMap;

use fisec_ir::dependence::is_pixelwise;
use fisec_ir::{Conv, Demand, Extent, Graph, GraphError, NodeId, Op, Operand, Origin, ValueId};

use super::Sparsity;
use crate::{Changes, PassError};

/// Narrows scatters to what their users read and drops the slots that become unused.
pub fn spread_demand(graph: &mut Graph, sparsity: &mut Sparsity) -> Result<Changes, PassError> {
    let mut changes = share_recorded(graph);
    changes += repeat_on_halo(graph).map_err(cycle)?;
    changes += read_active(graph);
    graph.prune();
    changes += narrow(graph).map_err(cycle)?;
    sparsity.compact_slots(graph);
    Ok(changes)
}

fn cycle(error: GraphError) -> PassError {
    PassError {
        pass: "spread_demand",
        node: String::new(),
        message: error.to_string(),
        hint: None,
    }
}

/// What is recorded of one image stands for all that repeat it.
fn share_recorded(graph: &mut Graph) -> Changes {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Some(active) = scattered_active(graph, id) else {
            continue;
        };
        let Op::Repeat { images } = *graph.op(active.node) else {
            continue;
        };
        let is_recorded = |operand: Operand| {
            let read = operand.value().map(|value| graph.op(value.node));
            matches!(read, Some(Op::CacheRead(_)))
        };
        let image = graph.operands(active.node)[0].value().map(|image| image.node);
        let image = image.filter(|&image| scattered_active(graph, image).is_some());
        let Some(recorded) = image
            .map(|image| graph.operands(image)[1])
            .filter(|&base| is_recorded(base))
        else {
            continue;
        };
        if !is_recorded(graph.operands(id)[1]) {
            continue;
        }
        let all = graph.value_type(ValueId { node: id, output: 0 }).clone();
        let origin = Origin::merged("spread_demand", [graph.origin(id)]).because("recorded of one image");
        let repeated = graph.add_value(Op::Repeat { images }, vec![recorded], all, origin);
        graph.set_operand(id, 1, repeated.into());
        changes += Changes(1);
    }
    changes
}

/// Gives every use outside the active set of a transparent operator a full version of it that reads scattered inputs.
///
/// Users come after their operands, so walking backwards lets the demand pass through chains.
fn repeat_on_halo(graph: &mut Graph) -> Result<Changes, GraphError> {
    let mut changes = Changes::default();
    for id in graph.ordered()?.into_iter().rev() {
        let Some(active) = scattered_active(graph, id).filter(|value| is_repeatable(graph, value.node)) else {
            continue;
        };
        let scatter = ValueId { node: id, output: 0 };
        let there = graph.value_type(active).extent;
        let far: Vec<_> = graph
            .users(scatter)
            .into_iter()
            .filter(|&(user, at)| !reads_only(graph, user, at, there))
            .collect();
        if far.is_empty() {
            continue;
        }
        let node = graph.node(active.node);
        let reason = "repeated on the halo instead of being recorded";
        let origin = Origin::merged("spread_demand", [node.origin()]).because(reason);
        let full = graph.value_type(scatter).clone();
        let repeated = graph.add_value(node.op().clone(), node.operands().to_vec(), full, origin);
        for (user, at) in far {
            graph.set_operand(user, at, repeated.into());
        }
        changes += Changes(1);
    }
    Ok(changes)
}

/// Lets pixel-wise users of a scatter read the active value in front of it.
fn read_active(graph: &mut Graph) -> Changes {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Some(active) = scattered_active(graph, id) else {
            continue;
        };
        for (user, at) in graph.users(ValueId { node: id, output: 0 }) {
            if reads_only(graph, user, at, graph.value_type(active).extent) {
                graph.set_operand(user, at, active.into());
                changes += Changes(1);
            }
        }
    }
    changes
}

/// Sets the demand of every scatter to the union of what its users read.
fn narrow(graph: &mut Graph) -> Result<Changes, GraphError> {
    let mut changes = Changes::default();
    // users come after their operands: backwards, what a transparent one passes on is known
    let mut passed_on: HashMap<NodeId, Demand> = HashMap::new();
    for id in graph.ordered()?.into_iter().rev() {
        let is_scatter = matches!(graph.op(id), Op::Scatter(_));
        if !is_scatter && !is_transparent(graph, id) {
            continue;
        }
        let demand = demand_on(graph, ValueId { node: id, output: 0 }, &passed_on);
        if is_scatter {
            graph.set_op(id, Op::Scatter(demand));
            changes += Changes(1);
        } else {
            passed_on.insert(id, demand);
        }
    }
    Ok(changes)
}

/// What users read of a value; `passed_on`: what the users of transparent ones read of these.
fn demand_on(graph: &Graph, value: ValueId, passed_on: &HashMap<NodeId, Demand>) -> Demand {
    let demands = graph.uses(value).map(|(user, at)| match graph.op(user) {
        Op::Conv(conv) if is_conv_input(conv, at) && extent_of(graph, user) != Extent::Full => {
            Demand::Halo(extent_of(graph, user).ring() + reach(conv))
        }
        _ if is_transparent(graph, user) && is_pixelwise(graph, user, at) => passed_on[&user],
        _ => Demand::Full,
    });
    demands.reduce(Demand::or).unwrap_or(Demand::Full)
}

/// How far from the active set of its input's level a convolution reads.
///
/// Stride 2: an active output covers a 2×2 block with at least one active pixel, so its window of three reaches two
/// pixels beyond. Upsampling halves distances: one coarse pixel.
fn reach(conv: &Conv) -> usize {
    match (conv.kernel, conv.stride) {
        ([1, 1], _) => 0,
        (_, [2, 2]) => 2,
        _ => 1,
    }
}

/// The active value behind a scatter node.
fn scattered_active(graph: &Graph, id: NodeId) -> Option<ValueId> {
    match (graph.op(id), graph.operands(id)) {
        (Op::Scatter(_), [Operand::Value(active), _]) => Some(*active),
        _ => None,
    }
}

/// Transparent operators, and their results for all images.
fn is_repeatable(graph: &Graph, id: NodeId) -> bool {
    let image = || {
        let scatter = graph.operands(id).first()?.value()?.node;
        scattered_active(graph, scatter)
    };
    let of_transparent = || image().is_some_and(|image| is_transparent(graph, image.node));
    is_transparent(graph, id) || matches!(graph.op(id), Op::Repeat { .. }) && of_transparent()
}

/// Cheap pixel-wise operators, worth repeating where only a halo needs them.
fn is_transparent(graph: &Graph, id: NodeId) -> bool {
    let is_cheap = matches!(
        graph.op(id),
        Op::Affine { .. } | Op::Activate(_) | Op::Concat(_) | Op::Tokens | Op::Spatial { .. }
    );
    is_cheap && is_pixelwise(graph, id, 0)
}

fn extent_of(graph: &Graph, id: NodeId) -> Extent {
    let output = graph.node(id).outputs().first();
    output.map_or(Extent::Full, |output| output.extent)
}

fn is_conv_input(conv: &Conv, position: usize) -> bool {
    position == 0 || (conv.concat && position == 1)
}

/// Whether the user reads this operand only where the value behind a scatter is there.
fn reads_only(graph: &Graph, user: NodeId, position: usize, there: Extent) -> bool {
    let computed = extent_of(graph, user);
    match graph.op(user) {
        Op::Output(_) => true,
        _ if computed == Extent::Full => false,
        Op::Conv(conv) if is_conv_input(conv, position) && conv.kernel != [1, 1] => {
            let is_around = there.level() == computed.level() && there.ring() > computed.ring();
            is_around && conv.reads_neighbours()
        }
        Op::Conv(conv) if is_conv_input(conv, position) => conv.stride == [1, 1] && computed == there,
        _ => is_pixelwise(graph, user, position) && computed == there,
    }
}
