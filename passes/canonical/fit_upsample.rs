//! Upsample to the size of the skip that the map will meet.
//!
//! Before: `%u = onnx Resize %x, scales=[1,1,2,2] : [2,64,66,96]; %c = onnx Conv %u; onnx Concat %c, %skip`, where
//! `%skip` has 65 rows because 65 rows were halved to 33.
//!
//! After: `%u = onnx Resize %x, sizes=[2,64,65,96]`.
//!
//! Exporters write a factor when the size they saw could be halved; diffusers itself takes the skip's size when one cannot.
//! Part of `fold_constants`: shapes that are computed from the upsampled map must not be folded before.

use fisec_ir::{Graph, NodeId, Op, Operand, ValueId, WeightInfo};
use fisec_tensor::HostTensor;

use super::infer_shapes::axis;
use super::pattern::{onnx, result};
use super::raise_upsample::is_nearest;
use crate::Changes;

/// The operator set since which `Resize` takes sizes.
const SIZES_SINCE: i64 = 13;

/// Nodes between an upsampling and its concatenation: a convolution, and what exporters put around one.
const REACH: usize = 6;

/// Gives a doubling whose result is one row or column larger than the skip the skip's size. Its type must be inferred.
pub(super) fn fit_upsample(graph: &mut Graph, id: NodeId) -> Changes {
    let Some(sizes) = fitting_sizes(graph, id) else {
        return Changes(0);
    };
    let Op::Onnx(mut op) = graph.op(id).clone() else {
        return Changes(0);
    };
    op.op_type = "Resize".into();
    op.opset = op.opset.max(SIZES_SINCE);
    let rule = [
        ("coordinate_transformation_mode", "asymmetric"),
        ("nearest_mode", "floor"),
    ];
    let attributes = rule.map(|(name, value)| (name.to_owned(), fisec_ir::Attribute::String(value.into())));
    op.attributes.extend(attributes);
    let name = format!("{}.sizes", graph.origin(id).label());
    let data = HostTensor::from_i64([4], sizes.map(|size| size as i64).to_vec()).into();
    let sizes = graph.add_weight(WeightInfo { name, data });
    let x = graph.operands(id)[0];
    graph.set_op(id, Op::Onnx(op));
    graph.set_operands(id, vec![x, Operand::Absent, Operand::Absent, sizes.into()]);
    Changes(1)
}

fn fitting_sizes(graph: &Graph, id: NodeId) -> Option<[usize; 4]> {
    let op = onnx(graph, result(id)).filter(|op| op.is("Resize") || op.is("Upsample"))?;
    let from = graph.operand_type(*graph.operands(id).first()?)?.shape;
    let (&[_, _, rows, columns], &[batch, channels, height, width]) =
        (&from[..], &graph.value_type(result(id)).shape[..])
    else {
        return None;
    };
    if [height, width] != [2 * rows, 2 * columns] || !is_nearest(op, true) {
        return None;
    }
    let [skip_height, skip_width] = skip_size(graph, result(id))?;
    let fits = |doubled: usize, skip: usize| doubled == skip || doubled == skip + 1;
    let differs = [height, width] != [skip_height, skip_width];
    (differs && fits(height, skip_height) && fits(width, skip_width)).then_some([
        batch,
        channels,
        skip_height,
        skip_width,
    ])
}

/// Rows and columns of what the map will be concatenated with.
fn skip_size(graph: &Graph, upsampled: ValueId) -> Option<[usize; 2]> {
    let mut value = upsampled;
    for _ in 0..REACH {
        let user = graph.sole_user(value)?;
        let op = onnx(graph, result(user))?;
        if !op.is("Concat") {
            let keeps_size = matches!(op.op_type.as_str(), "Conv" | "NhwcConv" | "Transpose" | "Cast" | "Add");
            value = keeps_size.then_some(result(user))?;
            continue;
        }
        let mut others = graph.operands(user).iter().filter(|&&operand| operand != value.into());
        let skip = graph.operand_type(*others.next()?)?.shape;
        let &[_, a, b, c] = &skip[..] else { return None };
        return match axis(op.int("axis", 0), 4)? {
            1 => Some([b, c]),
            3 => Some([a, b]),
            _ => None,
        };
    }
    None
}
