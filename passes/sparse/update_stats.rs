//! Correct recorded statistics by what changed instead of reading the whole map.
//!
//! Before: `%z = scatter %x, %r; %s = group_norm_stats %z`
//!
//! After: `%t = cache.read "….stats"; %s = group_norm_stats_update %x, %r, %t`
//!
//! Exact, because the map differs from the recorded one only where `%x` is active.

use fisec_ir::{Graph, NodeId, Op, Operand, Origin, ValueId};

use super::{Recorded, Sparsity};
use crate::{Changes, PassError};

/// Rewrites the statistics of scattered maps.
pub fn update_stats(graph: &mut Graph, sparsity: &mut Sparsity) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Op::GroupNormStats { groups } = *graph.op(id) else {
            continue;
        };
        let Some((active, recorded)) = scattered(graph, graph.operands(id)[0]) else {
            continue;
        };
        rewrite(graph, sparsity, id, groups, active, recorded);
        changes += Changes(1);
    }
    graph.prune();
    sparsity.compact_slots(graph);
    Ok(changes)
}

fn scattered(graph: &Graph, operand: Operand) -> Option<(ValueId, ValueId)> {
    let scatter = operand.value()?.node;
    match (graph.op(scatter), graph.operands(scatter)) {
        (Op::Scatter(_), [Operand::Value(active), Operand::Value(recorded)])
            if matches!(graph.op(recorded.node), Op::CacheRead(_)) =>
        {
            Some((*active, *recorded))
        }
        _ => None,
    }
}

fn rewrite(graph: &mut Graph, sparsity: &mut Sparsity, id: NodeId, groups: usize, active: ValueId, recorded: ValueId) {
    let stats_type = graph.node(id).outputs()[0].clone();
    let origin = Origin::merged("update_stats", [graph.origin(id)]).because("recorded sums - old active + new active");
    let name = format!("{}.stats", graph.origin(id).label());
    let slot = sparsity.slot(graph, &name, stats_type.clone(), Recorded::Stats { of: active, groups });
    let old = graph.add_value(Op::CacheRead(slot), vec![], stats_type.clone(), origin.clone());
    let op = Op::GroupNormStatsUpdate { groups };
    let updated = graph.add_value(op, vec![active.into(), recorded.into(), old.into()], stats_type, origin);
    graph.replace_uses(ValueId { node: id, output: 0 }, updated);
    graph.remove(id);
}
