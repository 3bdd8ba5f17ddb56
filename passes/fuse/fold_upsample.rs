//! Let a convolution read the upsampled map without there being one.
//!
//! Before: `%u = upsample %x, 64x64; %y = conv %u, kernel=3x3`
//!
//! After: `%y = conv %x, kernel=3x3 upsample=64x64`

use fisec_ir::{Graph, Op};

use super::operands::absorb_origin;
use crate::{Changes, PassError};

/// Folds every upsampling whose only user is a convolution.
pub fn fold_upsample(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in graph.ids() {
        let Op::Conv(conv) = graph.op(id).clone() else { continue };
        let Some(input) = graph.operands(id)[0].value() else {
            continue;
        };
        let Op::Upsample { height, width } = *graph.op(input.node) else {
            continue;
        };
        if conv.upsample.is_some() || conv.affine || conv.concat || graph.sole_user(input).is_none() {
            continue;
        }
        let source = graph.operands(input.node)[0];
        graph.set_op(
            id,
            Op::Conv(fisec_ir::Conv {
                upsample: Some([height, width]),
                ..conv
            }),
        );
        graph.set_operand(id, 0, source);
        absorb_origin(graph, id, input.node, "fold_upsample");
        changes += Changes(1);
    }
    graph.prune();
    Ok(changes)
}
