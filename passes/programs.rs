//! The three programs of a plan, made of one dense graph.

use std::collections::BTreeMap;

use fisec_ir::{Graph, LevelId, NodeId, Op, Origin, SlotId, ValueType, stats_shape};
use fisec_plan::{Keys, Norm};
use fisec_tensor::DType;

use crate::analysis::Stages;
use crate::control::{Controlled, control_attention, expose_maps};
use crate::fuse::{fuse_conv_epilogue, fuse_conv_prologue, fuse_linear, sink_views};
use crate::sparse::{Recorded, Sparsity, freeze_norm, mark_sparse, spread_demand, update_stats};
use crate::{PassError, Pipeline};

/// The dense graph with writes to every slot: the same ids as in `edit`.
pub fn record(dense: &Graph, edit: &Graph, sparsity: &Sparsity) -> Result<Graph, PassError> {
    let mut graph = dense.clone();
    graph.set_name("record");
    graph.set_slots(edit.slots().to_vec());
    let ordered: BTreeMap<SlotId, Recorded> = sparsity.recorded.iter().map(|(slot, what)| (*slot, *what)).collect();
    for (slot, recorded) in ordered {
        let origin = Origin {
            pass: "record".into(),
            reason: "read by edit".into(),
            ..Origin::default()
        };
        let value = match recorded {
            Recorded::Value(value) => value,
            Recorded::Stats { of, groups } => {
                let batch = graph.value_type(of).shape[0];
                let stats = ValueType::full(DType::F32, stats_shape(batch, groups));
                graph.add_value(Op::GroupNormStats { groups }, vec![of.into()], stats, origin.clone())
            }
        };
        graph.add(Op::CacheWrite(slot), vec![value.into()], vec![], origin);
    }
    Ok(graph)
}

/// `record` with the maps of `attentions`, and the `guide` that follows them; without any, the dense graph guides.
pub fn guide(
    dense: Graph,
    record: &mut Graph,
    attentions: &[(NodeId, LevelId)],
    pipeline: &mut Pipeline<'_>,
) -> Result<(Graph, Vec<Controlled>), PassError> {
    let mut controlled = Vec::new();
    if attentions.is_empty() {
        return Ok((dense, controlled));
    }
    pipeline.run("expose_maps", record, |graph| {
        expose_maps(graph, attentions, &mut controlled)
    })?;
    let mut guide = record.clone();
    guide.set_name("guide");
    // after the maps are exposed: what an edit gives is recorded for the next
    pipeline.run("control_attention", &mut guide, |graph| {
        control_attention(graph, &controlled)
    })?;
    Ok((guide, controlled))
}

/// The sparse program.
pub fn edit(
    dense: &Graph,
    sparsity: &mut Sparsity,
    stages: &Stages,
    norm: Norm,
    keys: Keys,
    pipeline: &mut Pipeline<'_>,
) -> Result<Graph, PassError> {
    let mut graph = dense.clone();
    graph.set_name("edit");
    // first: live statistics would make every tile active
    pipeline.run("freeze_norm", &mut graph, |graph| freeze_norm(graph, sparsity, norm))?;
    // before anything is fused: the semantics are spelled out per operator
    pipeline.run("mark_sparse", &mut graph, |graph| {
        mark_sparse(graph, sparsity, stages, keys)
    })?;
    // before fusion: what is recorded must be a value of the dense graph
    pipeline.run("spread_demand", &mut graph, |graph| spread_demand(graph, sparsity))?;
    if norm == Norm::Updated {
        pipeline.run("update_stats", &mut graph, |graph| update_stats(graph, sparsity))?;
        // again: the statistics no longer read whole maps
        pipeline.run("narrow_demand", &mut graph, |graph| spread_demand(graph, sparsity))?;
    }
    pipeline.run("fuse_conv_prologue", &mut graph, fuse_conv_prologue)?;
    pipeline.run("fuse_conv_epilogue", &mut graph, fuse_conv_epilogue)?;
    // before linears are fused: the sum behind the last product of a transformer is on maps
    pipeline.run("sink_views", &mut graph, sink_views)?;
    pipeline.run("fuse_linear", &mut graph, fuse_linear)?;
    Ok(graph)
}
