//! Spell a group norm as statistics, coefficients and a scale, so that a convolution can apply it while it gathers.
//!
//! Before: `%y = group_norm %x, @gamma, @beta, activation=silu`
//!
//! After: `%s = group_norm_stats %x; %c = norm_coefficients %s, @gamma, @beta; %y = affine %x, %c, activation=silu`

use fisec_ir::{Activation, Graph, Op, Operand, Origin, ValueType, stats_shape};
use fisec_tensor::DType;

use crate::{Changes, PassError};

/// Rewrites every group norm whose activation a kernel applies.
pub fn spell_norms(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Op::GroupNorm(norm) = *graph.op(id) else { continue };
        let (Activation::None | Activation::Silu) = norm.activation else {
            continue;
        };
        let [x, gamma, beta] = graph.operands(id)[..] else {
            unreachable!("verified: group_norm has three operands")
        };
        if !matches!((gamma, beta), (Operand::Weight(_), Operand::Weight(_))) {
            continue;
        }
        let output = graph.node(id).outputs()[0].clone();
        let (batch, channels) = (output.shape[0], output.shape[1]);
        let origin = Origin::merged("spell_norms", [graph.origin(id)]).because("applied by whoever reads the map");
        let stats = graph.add_value(
            Op::GroupNormStats { groups: norm.groups },
            vec![x],
            ValueType::full(DType::F32, stats_shape(batch, norm.groups)),
            origin.clone(),
        );
        let coefficients = graph.add_value(
            Op::NormCoefficients {
                groups: norm.groups,
                epsilon: norm.epsilon,
            },
            vec![stats.into(), gamma, beta],
            ValueType::full(DType::F32, [batch, 2, channels]),
            origin.clone(),
        );
        graph.set_op(
            id,
            Op::Affine {
                activation: norm.activation,
            },
        );
        graph.set_operands(id, vec![x, coefficients.into()]);
        graph.set_origin(id, origin);
        changes += Changes(1);
    }
    Ok(changes)
}
