//! Predicted time of a step.

use fisec_ir::{Extent, Graph, NodeId, Op, Stage};
use fisec_tensor::{Mask, active_tiles};

use super::{CostTable, candidates};
use crate::analysis::{Levels, Stages, dense_macs, representative_mask};

/// Share of active latents that levels are chosen for: the middle of what edits touch.
const TYPICAL_SHARE: f64 = 0.15;

/// Any-hit pools of a mask, one per level.
pub fn pooled_masks(mask: Mask, levels: &Levels) -> Vec<Mask> {
    let mut masks = vec![mask];
    while masks.len() < levels.sizes().len() {
        masks.push(masks.last().expect("never empty").pooled());
    }
    masks
}

/// Predicted time in ns of one step when the `sparse_levels` finest levels compute only active pixels of `mask`.
pub fn predicted_step(
    graph: &Graph,
    stages: &Stages,
    levels: &Levels,
    sparse_levels: usize,
    mask: &Mask,
    table: &CostTable,
) -> f64 {
    let masks = pooled_masks(mask.clone(), levels);
    let steps = graph.ids().into_iter().filter(|&id| stages.get(id) == Stage::Step);
    let nodes: f64 = steps
        .map(|id| node_time(graph, id, levels, sparse_levels, &masks, table))
        .sum();
    nodes + table.island * f64::from(u8::from(sparse_levels < levels.sizes().len()))
}

fn node_time(
    graph: &Graph,
    id: NodeId,
    levels: &Levels,
    sparse_levels: usize,
    masks: &[Mask],
    table: &CostTable,
) -> f64 {
    let macs = dense_macs(graph, id) as f64;
    let Some(output) = graph.node(id).outputs().first().filter(|_| macs > 0.0) else {
        return 0.0;
    };
    let level = match output.extent {
        Extent::Active(level) => Some(level),
        Extent::Full => levels.level_of(output),
    };
    let Some(level) = level.filter(|level| (level.0 as usize) < sparse_levels) else {
        return table.dense.predict(1, 0.0, macs);
    };
    let mask = &masks[level.0 as usize];
    match graph.op(id) {
        Op::Conv(conv) => {
            let Some(input) = graph.operand_type(graph.operands(id)[0]) else {
                return 0.0;
            };
            let times = candidates(conv, &input, output, table)
                .into_iter()
                .map(|candidate| candidate.predict(active_tiles(mask, candidate.tile).len()));
            times.fold(f64::INFINITY, f64::min)
        }
        _ => {
            let bytes = output.shape.elements() as f64 * output.dtype.size() as f64 * mask.share();
            table.rows.predict(1, bytes, macs * mask.share())
        }
    }
}

/// How many of the finest levels should be sparse, with the predicted time in ns for every choice (index: levels).
pub fn choose_levels(graph: &Graph, stages: &Stages, levels: &Levels, table: &CostTable) -> (usize, Vec<f64>) {
    let Some(&(height, width)) = levels.sizes().first() else {
        return (0, Vec::new());
    };
    let mask = representative_mask(height, width, TYPICAL_SHARE);
    let times: Vec<f64> = (0..=levels.sizes().len())
        .map(|count| predicted_step(graph, stages, levels, count, &mask, table))
        .collect();
    let best = (0..times.len())
        .min_by(|&a, &b| times[a].total_cmp(&times[b]))
        .unwrap_or(0);
    (best, times)
}

/// Share of active latents above which a dense step is predicted to be faster, 0 to 1.
pub fn break_even(graph: &Graph, stages: &Stages, levels: &Levels, sparse_levels: usize, table: &CostTable) -> f64 {
    let Some(&(height, width)) = levels.sizes().first() else {
        return 0.0;
    };
    let time = |share: f64, count: usize| {
        predicted_step(
            graph,
            stages,
            levels,
            count,
            &representative_mask(height, width, share),
            table,
        )
    };
    let dense = time(1.0, 0);
    let (mut low, mut high) = (0.0, 1.0);
    if time(1.0, sparse_levels) <= dense {
        return 1.0;
    }
    for _ in 0..12 {
        let middle = (low + high) / 2.0;
        if time(middle, sparse_levels) < dense {
            low = middle
        } else {
            high = middle
        }
    }
    low
}
