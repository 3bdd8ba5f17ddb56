//! Operators of `com.microsoft` that ONNX Runtime's optimizer writes.

use fisec_ir::{OnnxOp, ValueType};
use fisec_tensor::{DType, Shape};

use super::Inputs;
use super::standard::{conv, matmul};

/// The types of all outputs; none at all for an operator that is not known here.
pub(super) fn output_types(op: &OnnxOp, inputs: &Inputs, count: usize) -> Option<Vec<ValueType>> {
    if op.domain != "com.microsoft" {
        return Some(vec![]);
    }
    let first = inputs.ty(0)?;
    let with = |shape: Vec<usize>| ValueType::full(first.dtype, shape);
    let last = |dims: &Shape, size: usize| -> Vec<usize> {
        let mut dims = dims.to_vec();
        if let Some(end) = dims.last_mut() {
            *end = size;
        }
        dims
    };
    Some(match op.op_type.as_str() {
        "Gelu" | "FastGelu" | "QuickGelu" | "BiasGelu" | "BiasAdd" | "GroupNorm" => vec![first],
        "SkipGroupNorm" => vec![first.clone(), first],
        "SkipLayerNormalization" => {
            let stats = ValueType::full(DType::F32, last(&first.shape, 1));
            let mut types = vec![first.clone(), stats.clone(), stats, first];
            types.truncate(count.max(1));
            types
        }
        "BiasSplitGelu" => vec![with(last(&first.shape, first.shape.last()? / 2))],
        "NhwcConv" => {
            let (x, w) = (first.shape.clone(), inputs.shape(1)?);
            if x.len() != 4 || w.len() != 4 {
                return None;
            }
            let nchw = conv(
                op,
                &vec![x[0], x[3], x[1], x[2]].into(),
                &vec![w[0], w[3], w[1], w[2]].into(),
            )?;
            vec![with(vec![nchw[0], nchw[2], nchw[3], nchw[1]])]
        }
        "FusedMatMul" => {
            let flip = |shape: Shape, name: &str| {
                let mut dims = shape.to_vec();
                let rank = dims.len();
                if op.int(name, 0) != 0 && rank >= 2 {
                    dims.swap(rank - 2, rank - 1);
                }
                Shape::from(dims)
            };
            let (a, b) = (flip(first.shape.clone(), "transA"), flip(inputs.shape(1)?, "transB"));
            vec![with(matmul(&a, &b)?.to_vec())]
        }
        "MatMulNBits" => vec![with(last(&first.shape, usize::try_from(op.int("N", 0)).ok()?))],
        "MultiHeadAttention" => {
            let q = &first.shape;
            match (q.len(), inputs.given(2)) {
                (5, _) => vec![with(vec![q[0], q[1], q[2] * q[4]])],
                (3, true) => vec![with(last(
                    q,
                    *inputs.shape(2)?.last()?
                        * if inputs.shape(2)?.len() == 4 {
                            inputs.shape(2)?[1]
                        } else {
                            1
                        },
                ))],
                (3, false) => vec![first],
                _ => return None,
            }
        }
        "Attention" => {
            let v = match op.ints("qkv_hidden_sizes") {
                Some(sizes) => usize::try_from(*sizes.get(2)?).ok()?,
                None => inputs.shape(1)?.last()? / 3,
            };
            vec![with(last(&first.shape, v))]
        }
        _ => vec![],
    })
}
