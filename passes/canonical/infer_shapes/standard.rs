//! Operators of the standard domain.

use fisec_ir::{Attribute, Equation, OnnxOp, ValueType};
use fisec_onnx::element_type;
use fisec_tensor::{DType, Shape};

use super::{Inputs, axis, broadcast, contrib, shape_range, slice_ranges};

/// Operators whose output has the type of the first operand.
const SAME: &[&str] = &[
    "Identity",
    "Sigmoid",
    "Tanh",
    "Relu",
    "Erf",
    "Gelu",
    "Sqrt",
    "Exp",
    "Log",
    "Neg",
    "Abs",
    "Sin",
    "Cos",
    "Floor",
    "Ceil",
    "Round",
    "Reciprocal",
    "Softmax",
    "LogSoftmax",
    "InstanceNormalization",
    "GroupNormalization",
    "Clip",
    "Dropout",
    "HardSigmoid",
    "LeakyRelu",
    "Softplus",
    "Swish",
    "Trilu",
    "CumSum",
    "ScatterND",
    "ScatterElements",
    "Sign",
    "Not",
    "RMSNormalization",
    "BatchNormalization",
    "RandomNormalLike",
    "RandomUniformLike",
    "Mish",
    "Elu",
    "Tan",
    "Cosh",
    "Sinh",
    "Asin",
    "Acos",
    "Atan",
    "Asinh",
    "Acosh",
    "Atanh",
    "Selu",
    "Celu",
    "HardSwish",
    "Softsign",
    "ThresholdedRelu",
    "Shrink",
    "Hardmax",
    "LpNormalization",
    "LRN",
    "MeanVarianceNormalization",
    "BitwiseNot",
    "ReverseSequence",
    "Bernoulli",
];
/// Operators that broadcast their operands and keep the element type.
const BROADCAST: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Min",
    "Max",
    "PRelu",
    "And",
    "Or",
    "Xor",
    "Sum",
    "Mean",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "BitShift",
];
/// Operators that broadcast their operands and give Booleans.
const COMPARE: &[&str] = &["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"];
const REDUCE: &[&str] = &[
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceLogSum",
    "ReduceLogSumExp",
];

/// The types of all outputs; none at all for an operator that is not known here, whose types a file may declare.
pub(super) fn output_types(op: &OnnxOp, inputs: &Inputs, count: usize) -> Option<Vec<ValueType>> {
    if !op.domain.is_empty() {
        return contrib::output_types(op, inputs, count);
    }
    let name = op.op_type.as_str();
    if SAME.contains(&name) {
        let mut types = vec![inputs.ty(0)?];
        if name == "Dropout" {
            types.push(ValueType::full(DType::Bool, inputs.shape(0)?));
        }
        return Some(types);
    }
    if BROADCAST.contains(&name) || COMPARE.contains(&name) {
        let mut shape = inputs.shape(0)?;
        for position in 1..inputs.operands.len() {
            shape = broadcast(&shape, &inputs.shape(position)?)?;
        }
        let dtype = if COMPARE.contains(&name) {
            DType::Bool
        } else {
            inputs.ty(0)?.dtype
        };
        return Some(vec![ValueType::full(dtype, shape)]);
    }
    if REDUCE.contains(&name) {
        return reduced(op, inputs);
    }
    if let "Split" = name {
        return split(op, inputs, count);
    }
    let (dtype, shape) = match name {
        "Conv" => (inputs.ty(0)?.dtype, conv(op, &inputs.shape(0)?, &inputs.shape(1)?)?),
        "MatMul" => (inputs.ty(0)?.dtype, matmul(&inputs.shape(0)?, &inputs.shape(1)?)?),
        "Gemm" => (inputs.ty(0)?.dtype, gemm(op, &inputs.shape(0)?, &inputs.shape(1)?)?),
        "Einsum" => (inputs.ty(0)?.dtype, einsum(op, inputs)?),
        "Where" => {
            let branches = broadcast(&inputs.shape(1)?, &inputs.shape(2)?)?;
            (inputs.ty(1)?.dtype, broadcast(&inputs.shape(0)?, &branches)?)
        }
        "Cast" => (element_type(op.int("to", 0))?, inputs.shape(0)?),
        "CastLike" => (inputs.ty(1)?.dtype, inputs.shape(0)?),
        "Shape" => {
            let (start, end) = shape_range(op, inputs.shape(0)?.len());
            (DType::I64, vec![end.saturating_sub(start)].into())
        }
        "IsNaN" | "IsInf" => (DType::Bool, inputs.shape(0)?),
        "TopK" => {
            let mut dims = inputs.shape(0)?.to_vec();
            let at = axis(op.int("axis", -1), dims.len())?;
            let count = op.ints("k").map(<[i64]>::to_vec).or_else(|| inputs.ints(1));
            let count = count
                .and_then(|count| count.first().copied())
                .unwrap_or_else(|| op.int("k", -1));
            dims[at] = usize::try_from(count).ok().filter(|&count| count <= dims[at])?;
            let dtype = inputs.ty(0)?.dtype;
            return Some(vec![
                ValueType::full(dtype, dims.clone()),
                ValueType::full(DType::I64, dims),
            ]);
        }
        "GridSample" => {
            let (of, grid) = (inputs.shape(0)?, inputs.shape(1)?);
            let (_, places) = grid.split_last()?;
            if of.len() < 3 || grid.len() != of.len() {
                return None;
            }
            let mut dims = vec![of[0], of[1]];
            dims.extend_from_slice(&places[1..]);
            (inputs.ty(0)?.dtype, dims.into())
        }
        "DepthToSpace" | "SpaceToDepth" => (inputs.ty(0)?.dtype, blocks(op, &inputs.shape(0)?)?),
        "Size" => (DType::I64, Shape::scalar()),
        "Reshape" => (
            inputs.ty(0)?.dtype,
            reshape(op, &inputs.shape(0)?, &inputs.ints_of(op, "shape", 1)?)?,
        ),
        "Flatten" => {
            let of = inputs.shape(0)?;
            let at = op.int("axis", 1);
            let at = if at < 0 { at + of.len() as i64 } else { at };
            let at = usize::try_from(at).ok().filter(|&at| at <= of.len())?;
            let dims = vec![of[..at].iter().product(), of[at..].iter().product::<usize>()];
            (inputs.ty(0)?.dtype, dims.into())
        }
        "Transpose" => (inputs.ty(0)?.dtype, transpose(op, &inputs.shape(0)?)?),
        "Unsqueeze" => (
            inputs.ty(0)?.dtype,
            unsqueeze(&inputs.shape(0)?, &inputs.ints_of(op, "axes", 1)?)?,
        ),
        "Squeeze" => (
            inputs.ty(0)?.dtype,
            squeeze(&inputs.shape(0)?, inputs.ints_of(op, "axes", 1))?,
        ),
        "Concat" => (inputs.ty(0)?.dtype, concat(op, inputs)?),
        "Slice" => {
            let mut dims = inputs.shape(0)?.to_vec();
            for range in slice_ranges(op, &inputs.shape(0)?, |position| inputs.ints(position))? {
                dims[range.axis] = range.length;
            }
            (inputs.ty(0)?.dtype, dims.into())
        }
        "Gather" => {
            let of = inputs.shape(0)?;
            let at = axis(op.int("axis", 0), of.len())?;
            let mut dims = of[..at].to_vec();
            dims.extend_from_slice(&inputs.shape(1)?);
            dims.extend_from_slice(&of[at + 1..]);
            (inputs.ty(0)?.dtype, dims.into())
        }
        "GatherElements" => (inputs.ty(0)?.dtype, inputs.shape(1)?),
        "GatherND" => (
            inputs.ty(0)?.dtype,
            gather_nd(op, &inputs.shape(0)?, &inputs.shape(1)?)?,
        ),
        "Expand" => {
            let target: Shape = sizes(&inputs.ints(1)?)?.into();
            (inputs.ty(0)?.dtype, broadcast(&inputs.shape(0)?, &target)?)
        }
        "Tile" => {
            let repeats = sizes(&inputs.ints(1)?)?;
            let of = inputs.shape(0)?;
            (
                inputs.ty(0)?.dtype,
                of.iter()
                    .zip(&repeats)
                    .map(|(dim, times)| dim.saturating_mul(*times))
                    .collect(),
            )
        }
        "ConstantOfShape" => {
            let dtype = match op.attributes.get("value") {
                Some(Attribute::Tensor(tensor)) => tensor.dtype(),
                _ => DType::F32,
            };
            (dtype, sizes(&inputs.ints(0)?)?.into())
        }
        "Range" => {
            let scalar =
                |position: usize| crate::canonical::pattern::scalar(inputs.graph, *inputs.operands.get(position)?);
            let length = ((scalar(1)? - scalar(0)?) / scalar(2)?).ceil().max(0.0);
            (inputs.ty(0)?.dtype, vec![length as usize].into())
        }
        "Resize" | "Upsample" => (inputs.ty(0)?.dtype, resize(op, inputs)?),
        "Pad" => (inputs.ty(0)?.dtype, pad(op, inputs)?),
        "ArgMax" | "ArgMin" => {
            let of = inputs.shape(0)?;
            (
                DType::I64,
                without(&of, &[op.int("axis", 0)], op.int("keepdims", 1) != 0)?,
            )
        }
        "DequantizeLinear" => {
            let declared = element_type(op.int("output_dtype", 0));
            (declared.unwrap_or(inputs.ty(1)?.dtype), inputs.shape(0)?)
        }
        "QuantizeLinear" => {
            let declared = element_type(op.int("output_dtype", 0)).unwrap_or(DType::U8);
            (inputs.ty(2).map_or(declared, |ty| ty.dtype), inputs.shape(0)?)
        }
        "LayerNormalization" => return layer_norm(op, inputs),
        "Attention" => (inputs.ty(0)?.dtype, attention(op, inputs)?),
        "RandomNormal" | "RandomUniform" => {
            let dtype = element_type(op.int("dtype", 1))?;
            (dtype, sizes(op.ints("shape")?)?.into())
        }
        "GlobalAveragePool" => {
            let of = inputs.shape(0)?;
            let dims = of.iter().enumerate().map(|(axis, &dim)| if axis < 2 { dim } else { 1 });
            (inputs.ty(0)?.dtype, dims.collect())
        }
        "SplitToSequence" | "SequenceConstruct" => (inputs.ty(0)?.dtype, inputs.shape(0)?),
        _ => return Some(vec![]),
    };
    Some(vec![ValueType::full(dtype, shape)])
}

/// Channels to blocks of pixels, and back.
fn blocks(op: &OnnxOp, of: &Shape) -> Option<Shape> {
    let &[images, channels, height, width] = &of[..] else {
        return None;
    };
    let side = positive(op.int("blocksize", 0))?;
    let area = side.checked_mul(side)?;
    let dims = match op.op_type.as_str() {
        "DepthToSpace" if channels.is_multiple_of(area) => [images, channels / area, height * side, width * side],
        "SpaceToDepth" if height.is_multiple_of(side) && width.is_multiple_of(side) => {
            [images, channels * area, height / side, width / side]
        }
        _ => return None,
    };
    Some(dims.into())
}

fn sizes(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|&value| usize::try_from(value).ok()).collect()
}

pub(super) fn conv(op: &OnnxOp, x: &Shape, w: &Shape) -> Option<Shape> {
    let spatial = x.len().checked_sub(2).filter(|_| w.len() == x.len())?;
    let ones = vec![1; spatial];
    let strides = op.ints("strides").unwrap_or(&ones);
    let dilations = op.ints("dilations").unwrap_or(&ones);
    let zeros = vec![0; 2 * spatial];
    let pads = op.ints("pads").unwrap_or(&zeros);
    if strides.len() != spatial || dilations.len() != spatial || pads.len() != 2 * spatial || x[1] == 0 {
        return None;
    }
    if w[1].checked_mul(positive(op.int("group", 1))?) != Some(x[1]) {
        return None;
    }
    let mut dims = vec![x[0], w[0]];
    for axis in 0..spatial {
        let (size, kernel) = (x[axis + 2] as i64, w[axis + 2] as i64);
        let span = dilations[axis].checked_mul(kernel - 1)? + 1;
        let reach = size
            .checked_add(pads[axis])?
            .checked_add(pads[axis + spatial])?
            .checked_sub(span)?;
        dims.push(match op.attributes.get("auto_pad") {
            Some(Attribute::String(mode)) if mode.starts_with("SAME") => {
                (size as usize).div_ceil(positive(strides[axis])?)
            }
            _ if reach < 0 => return None,
            _ => reach as usize / positive(strides[axis])? + 1,
        });
    }
    Some(dims.into())
}

pub(super) fn positive(value: i64) -> Option<usize> {
    usize::try_from(value).ok().filter(|&value| value > 0)
}

pub(super) fn matmul(a: &Shape, b: &Shape) -> Option<Shape> {
    let (a, b) = (a.to_vec(), b.to_vec());
    if a.len() < 2 || b.len() < 2 || a[a.len() - 1] != b[b.len() - 2] {
        return None;
    }
    let batch = broadcast(&a[..a.len() - 2].to_vec().into(), &b[..b.len() - 2].to_vec().into())?;
    let mut dims = batch.to_vec();
    dims.extend([a[a.len() - 2], b[b.len() - 1]]);
    Some(dims.into())
}

fn einsum(op: &OnnxOp, inputs: &Inputs) -> Option<Shape> {
    let Some(Attribute::String(text)) = op.attributes.get("equation") else {
        return None;
    };
    let shapes = (0..inputs.operands.len()).map(|position| inputs.shape(position));
    let shapes = shapes.collect::<Option<Vec<Shape>>>()?;
    let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
    let equation = Equation::parse(text, &ranks).ok()?;
    equation.result_shape(&shapes.iter().collect::<Vec<_>>()).ok()
}

fn gemm(op: &OnnxOp, a: &Shape, b: &Shape) -> Option<Shape> {
    let [a, b] = [a, b].map(|shape| <[usize; 2]>::try_from(&shape[..]).ok());
    let flip = |[rows, columns]: [usize; 2], name: &str| {
        if op.int(name, 0) != 0 {
            [columns, rows]
        } else {
            [rows, columns]
        }
    };
    let ([rows, inner], [again, columns]) = (flip(a?, "transA"), flip(b?, "transB"));
    (inner == again).then(|| vec![rows, columns].into())
}

fn reshape(op: &OnnxOp, of: &Shape, target: &[i64]) -> Option<Shape> {
    let literal_zero = op.int("allowzero", 0) != 0;
    let mut dims = Vec::with_capacity(target.len());
    let mut open = None;
    for (axis, &size) in target.iter().enumerate() {
        dims.push(match size {
            0 if !literal_zero => *of.get(axis)?,
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            size => usize::try_from(size).ok()?,
        });
    }
    let known = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
    let elements = of.elements();
    if let Some(axis) = open {
        dims[axis] = elements.checked_div(known)?;
    }
    let shape: Shape = dims.into();
    (shape.checked_elements()? == elements).then_some(shape)
}

fn transpose(op: &OnnxOp, of: &Shape) -> Option<Shape> {
    let Some(perm) = op.ints("perm") else {
        return Some(of.iter().rev().copied().collect());
    };
    let mut seen = vec![false; of.len()];
    let unique = perm.iter().all(|&axis| {
        let slot = usize::try_from(axis).ok().and_then(|axis| seen.get_mut(axis));
        slot.is_some_and(|slot| !std::mem::replace(slot, true))
    });
    (unique && perm.len() == of.len()).then(|| perm.iter().map(|&axis| of[axis as usize]).collect())
}

fn unsqueeze(of: &Shape, axes: &[i64]) -> Option<Shape> {
    let rank = of.len() + axes.len();
    let new = axes.iter().map(|&at| axis(at, rank)).collect::<Option<Vec<_>>>()?;
    let mut rest = of.iter();
    let dims: Vec<usize> = (0..rank)
        .map(|at| {
            if new.contains(&at) {
                Some(1)
            } else {
                rest.next().copied()
            }
        })
        .collect::<Option<_>>()?;
    rest.next().is_none().then(|| dims.into())
}

fn squeeze(of: &Shape, axes: Option<Vec<i64>>) -> Option<Shape> {
    let Some(axes) = axes else {
        return Some(of.iter().copied().filter(|&dim| dim != 1).collect());
    };
    without(of, &axes, false).filter(|shape| shape.elements() == of.elements())
}

/// The shape without some axes, or with these of size 1.
fn without(of: &Shape, axes: &[i64], keep: bool) -> Option<Shape> {
    let axes = axes.iter().map(|&at| axis(at, of.len())).collect::<Option<Vec<_>>>()?;
    let dims = of.iter().enumerate().filter_map(|(at, &dim)| match axes.contains(&at) {
        true if keep => Some(1),
        true => None,
        false => Some(dim),
    });
    Some(dims.collect())
}

fn reduced(op: &OnnxOp, inputs: &Inputs) -> Option<Vec<ValueType>> {
    let of = inputs.ty(0)?;
    let axes = inputs.ints_of(op, "axes", 1).filter(|axes| !axes.is_empty());
    if axes.is_none() && op.int("noop_with_empty_axes", 0) != 0 {
        return Some(vec![of]);
    }
    let axes = axes.unwrap_or_else(|| (0..of.shape.len() as i64).collect());
    let shape = without(&of.shape, &axes, op.int("keepdims", 1) != 0)?;
    Some(vec![ValueType::full(of.dtype, shape)])
}

fn concat(op: &OnnxOp, inputs: &Inputs) -> Option<Shape> {
    let mut dims = inputs.shape(0)?.to_vec();
    let at = axis(op.int("axis", 0), dims.len())?;
    for position in 1..inputs.operands.len() {
        let other = inputs.shape(position)?;
        if other.len() != dims.len() {
            return None;
        }
        dims[at] = dims[at].checked_add(other[at])?;
    }
    Some(dims.into())
}

fn split(op: &OnnxOp, inputs: &Inputs, count: usize) -> Option<Vec<ValueType>> {
    let of = inputs.ty(0)?;
    let at = axis(op.int("axis", 0), of.shape.len())?;
    let total = of.shape[at];
    let lengths = match inputs.ints_of(op, "split", 1) {
        Some(lengths) => sizes(&lengths)?,
        None => {
            let part = total.div_ceil(count.max(1));
            (0..count)
                .map(|index| part.min(total.saturating_sub(index * part)))
                .collect()
        }
    };
    if lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) != Some(total) {
        return None;
    }
    let types = lengths.into_iter().map(|length| {
        let mut dims = of.shape.to_vec();
        dims[at] = length;
        ValueType::full(of.dtype, dims)
    });
    Some(types.collect())
}

fn gather_nd(op: &OnnxOp, of: &Shape, indices: &Shape) -> Option<Shape> {
    let batch = usize::try_from(op.int("batch_dims", 0)).ok()?;
    let (&depth, lead) = indices.split_last()?;
    let mut dims = lead.to_vec();
    dims.extend_from_slice(of.get(batch + depth..)?);
    Some(dims.into())
}

fn resize(op: &OnnxOp, inputs: &Inputs) -> Option<Shape> {
    let of = inputs.shape(0)?;
    let axes: Vec<usize> = match op.ints("axes") {
        Some(axes) => axes.iter().map(|&at| axis(at, of.len())).collect::<Option<_>>()?,
        None => (0..of.len()).collect(),
    };
    let scales_at = if op.is("Upsample") || op.opset < 11 { 1 } else { 2 };
    let mut dims = of.to_vec();
    if let Some(target) = inputs.ints(3).filter(|target| !target.is_empty()) {
        let target = sizes(&target)?;
        axes.iter().zip(target).for_each(|(&at, size)| dims[at] = size);
        return Some(dims.into());
    }
    let scales = crate::canonical::pattern::weight_floats(inputs.graph, *inputs.operands.get(scales_at)?)?;
    for (&at, scale) in axes.iter().zip(scales) {
        let size = (of[at] as f64 * scale).floor();
        dims[at] = (0.0..1e9).contains(&size).then_some(size as usize)?;
    }
    Some(dims.into())
}

fn pad(op: &OnnxOp, inputs: &Inputs) -> Option<Shape> {
    let of = inputs.shape(0)?;
    let pads = inputs.ints_of(op, "pads", 1)?;
    let axes: Vec<usize> = match inputs.ints(3) {
        Some(axes) => axes.iter().map(|&at| axis(at, of.len())).collect::<Option<_>>()?,
        None => (0..of.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    let mut dims = of.to_vec();
    for (index, &at) in axes.iter().enumerate() {
        let size = (dims[at] as i64)
            .checked_add(pads[index])?
            .checked_add(pads[index + axes.len()])?;
        dims[at] = usize::try_from(size).ok()?;
    }
    Some(dims.into())
}

fn layer_norm(op: &OnnxOp, inputs: &Inputs) -> Option<Vec<ValueType>> {
    let of = inputs.ty(0)?;
    let at = axis(op.int("axis", -1), of.shape.len())?;
    let stats: Shape = of
        .shape
        .iter()
        .enumerate()
        .map(|(index, &dim)| if index < at { dim } else { 1 })
        .collect();
    let stats = ValueType::full(DType::F32, stats);
    Some(vec![of, stats.clone(), stats])
}

fn attention(op: &OnnxOp, inputs: &Inputs) -> Option<Shape> {
    let (q, v) = (inputs.shape(0)?, inputs.shape(2)?);
    if v.len() != q.len() {
        return None;
    }
    match q.len() {
        4 => Some(vec![q[0], q[1], q[2], v[3]].into()),
        3 => {
            let (heads, groups) = (op.int("q_num_heads", 1), op.int("kv_num_heads", 1));
            let width = v[2].checked_div(positive(groups)?)?.checked_mul(positive(heads)?)?;
            Some(vec![q[0], q[1], width].into())
        }
        _ => None,
    }
}
