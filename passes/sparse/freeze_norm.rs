//! Replace live group norm statistics by recorded ones.
//!
//! Before: `%y = group_norm %x, @gamma, @beta`
//!
//! After (frozen): `%s = cache.read "….stats"; %c = norm_coefficients %s, @gamma, @beta; %y = affine %x, %c`
//!
//! After (live): the same with `%s = group_norm_stats %x`. `update_stats` turns that into an update where asked for.

use fisec_ir::{Activation, Graph, GroupNorm, NodeId, Op, Operand, Origin, ValueId, ValueType, stats_shape};
use fisec_plan::Norm;
use fisec_tensor::DType;

use super::{Recorded, Sparsity};
use crate::{Changes, PassError};

/// Rewrites every group norm of a sparse level.
pub fn freeze_norm(graph: &mut Graph, sparsity: &mut Sparsity, norm: Norm) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Op::GroupNorm(group_norm) = *graph.op(id) else {
            continue;
        };
        let has_kernel = matches!(group_norm.activation, Activation::None | Activation::Silu);
        if !has_kernel || sparsity.sparse_level(ValueId { node: id, output: 0 }).is_none() {
            continue;
        }
        rewrite(graph, sparsity, id, group_norm, norm);
        changes += Changes(1);
    }
    Ok(changes)
}

fn rewrite(graph: &mut Graph, sparsity: &mut Sparsity, id: NodeId, norm: GroupNorm, which: Norm) {
    let [x, gamma, beta] = graph.operands(id)[..] else {
        unreachable!("verified: group_norm has three operands")
    };
    let Operand::Value(map) = x else {
        unreachable!("verified: a map is a value")
    };
    let output = graph.node(id).outputs()[0].clone();
    let (batch, channels) = (output.shape[0], output.shape[1]);
    let origin = Origin::merged("freeze_norm", [graph.origin(id)]);
    let stats_type = ValueType::full(DType::F32, stats_shape(batch, norm.groups));
    let stats = match which {
        Norm::Frozen => {
            let name = format!("{}.stats", graph.origin(id).label());
            let slot = sparsity.slot(
                graph,
                &name,
                stats_type.clone(),
                Recorded::Stats {
                    of: map,
                    groups: norm.groups,
                },
            );
            let origin = origin.clone().because("statistics recorded at the same step");
            graph.add_value(Op::CacheRead(slot), vec![], stats_type, origin)
        }
        Norm::Live | Norm::Updated => {
            let op = Op::GroupNormStats { groups: norm.groups };
            graph.add_value(
                op,
                vec![x],
                stats_type,
                origin.clone().because("statistics of the edited map"),
            )
        }
    };
    let coefficients = Op::NormCoefficients {
        groups: norm.groups,
        epsilon: norm.epsilon,
    };
    let coefficients_type = ValueType::full(DType::F32, [batch, 2, channels]);
    let coefficients = graph.add_value(
        coefficients,
        vec![stats.into(), gamma, beta],
        coefficients_type,
        origin.clone(),
    );
    // in place: the node keeps its identity, by which the dense program's value is found
    graph.set_op(
        id,
        Op::Affine {
            activation: norm.activation,
        },
    );
    graph.set_operands(id, vec![x, coefficients.into()]);
    graph.set_origin(id, origin);
}
