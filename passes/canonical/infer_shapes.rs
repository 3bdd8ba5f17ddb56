//! Element types and shapes of ONNX values.
//!
//! Before: `%7 = onnx Reshape %6, [0,4,-1] : ?`.  After: `… : f32[2,4,8192]`.
//!
//! Shapes depend on constants and constants on shapes, so [`fold_constants`](super::fold_constants) infers as it goes;
//! this pass alone serves graphs whose shape arithmetic is folded already.

use fisec_ir::{Attribute, Graph, NodeId, OnnxOp, Op, Operand, ValueType};
use fisec_onnx::{element_type, unknown_type};
use fisec_tensor::{DType, Shape};

use super::pattern::weight_ints;
use crate::{Changes, PassError};

const PASS: &str = "infer_shapes";

/// Infers the types of all ONNX nodes.
pub fn infer_shapes(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in super::order(graph, PASS)? {
        changes += infer_node(graph, id)?;
    }
    Ok(changes)
}

/// Infers the types of one node; its operands' types are known.
pub(super) fn infer_node(graph: &mut Graph, id: NodeId) -> Result<Changes, PassError> {
    let Op::Onnx(op) = graph.op(id) else {
        return Ok(Changes(0));
    };
    let inputs = Inputs {
        graph,
        operands: graph.operands(id),
    };
    let count = graph.node(id).outputs().len();
    let declared = !graph.node(id).outputs().contains(&unknown_type());
    let types = match output_types(op, &inputs, count) {
        Some(types) if types.len() >= count => types[..count].to_vec(),
        Some(types) if types.is_empty() && declared => return Ok(Changes(0)),
        _ => return Err(unknown_shape(graph, id, op)),
    };
    if types
        .iter()
        .any(|ty| ty.shape.checked_elements().and_then(|n| n.checked_mul(8)).is_none())
    {
        return Err(unknown_shape(graph, id, op));
    }
    if graph.node(id).outputs() == types {
        return Ok(Changes(0));
    }
    graph.set_outputs(id, types);
    Ok(Changes(1))
}

fn unknown_shape(graph: &Graph, id: NodeId, op: &OnnxOp) -> PassError {
    let operands: Vec<String> = graph
        .operands(id)
        .iter()
        .map(|&operand| graph.operand_type(operand).map_or("-".into(), |ty| ty.to_string()))
        .collect();
    PassError {
        pass: PASS,
        node: graph.origin(id).label().to_owned(),
        message: format!("cannot infer the shape of `{}` of {}", op.op_type, operands.join(", ")),
        hint: Some(
            "shapes that depend on computed values are not supported; simplify the model, e.g. with onnxsim".into(),
        ),
    }
}

/// What an operator's output types may depend on.
struct Inputs<'a> {
    graph: &'a Graph,
    operands: &'a [Operand],
}

impl Inputs<'_> {
    fn ty(&self, position: usize) -> Option<ValueType> {
        self.graph.operand_type(*self.operands.get(position)?)
    }

    fn shape(&self, position: usize) -> Option<Shape> {
        Some(self.ty(position)?.shape)
    }

    fn ints(&self, position: usize) -> Option<Vec<i64>> {
        weight_ints(self.graph, *self.operands.get(position)?)
    }

    fn given(&self, position: usize) -> bool {
        !matches!(self.operands.get(position), None | Some(Operand::Absent))
    }

    /// Integers from an attribute in older operator sets, from an operand in newer ones.
    fn ints_of(&self, op: &OnnxOp, attribute: &str, position: usize) -> Option<Vec<i64>> {
        op.ints(attribute).map(<[i64]>::to_vec).or_else(|| self.ints(position))
    }
}

/// A non-negative axis of a tensor of `rank`.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// One axis of a `Slice`: indices `start + i * step` for `i < length`.
pub(super) struct SliceRange {
    pub axis: usize,
    pub start: i64,
    pub length: usize,
    pub step: i64,
}

/// The ranges that a `Slice` keeps; `ints` gives the integers of an operand.
pub(super) fn slice_ranges(
    op: &OnnxOp,
    shape: &Shape,
    ints: impl Fn(usize) -> Option<Vec<i64>>,
) -> Option<Vec<SliceRange>> {
    let pick = |name: &str, position: usize| op.ints(name).map(<[i64]>::to_vec).or_else(|| ints(position));
    let (starts, ends) = (pick("starts", 1)?, pick("ends", 2)?);
    let axes = pick("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = pick("steps", 4).unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return None;
    }
    let range = |i: usize| {
        let axis = axis(axes[i], shape.len())?;
        let (size, step) = (shape[axis] as i64, steps[i]);
        let wrap = |index: i64| if index < 0 { index.saturating_add(size) } else { index };
        let (start, length) = if size == 0 {
            (0, 0)
        } else if step > 0 {
            let (start, end) = (wrap(starts[i]).clamp(0, size), wrap(ends[i]).clamp(0, size));
            (start, (end - start).max(0).checked_add(step - 1)? / step)
        } else if step < 0 {
            let (start, end) = (wrap(starts[i]).clamp(0, size - 1), wrap(ends[i]).clamp(-1, size - 1));
            let step = step.checked_neg()?;
            (start, (start - end).max(0).checked_add(step - 1)? / step)
        } else {
            return None;
        };
        Some(SliceRange {
            axis,
            start: if length == 0 { 0 } else { start },
            length: length as usize,
            step,
        })
    };
    (0..starts.len()).map(range).collect()
}

/// NumPy broadcasting.
pub(super) fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let dim = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |own| shape[own]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}

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
];
/// Operators that broadcast their operands and keep the element type.
const BROADCAST: &[&str] = &[
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "PRelu", "And", "Or", "Xor", "Sum", "Mean",
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
];

/// The types of all outputs; none at all for an operator that is not known here, whose types a file may declare.
fn output_types(op: &OnnxOp, inputs: &Inputs, count: usize) -> Option<Vec<ValueType>> {
    if !op.domain.is_empty() {
        return contrib_types(op, inputs, count);
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
            let scalar = |position: usize| super::pattern::scalar(inputs.graph, *inputs.operands.get(position)?);
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
        "DequantizeLinear" => (inputs.ty(1)?.dtype, inputs.shape(0)?),
        "QuantizeLinear" => (inputs.ty(2).map_or(DType::U8, |ty| ty.dtype), inputs.shape(0)?),
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

/// First and last axis (exclusive) that a `Shape` reports.
pub(super) fn shape_range(op: &OnnxOp, rank: usize) -> (usize, usize) {
    let clip = |axis: i64| (if axis < 0 { axis + rank as i64 } else { axis }).clamp(0, rank as i64) as usize;
    (clip(op.int("start", 0)), clip(op.int("end", rank as i64)))
}

fn sizes(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|&value| usize::try_from(value).ok()).collect()
}

fn conv(op: &OnnxOp, x: &Shape, w: &Shape) -> Option<Shape> {
    let spatial = x.len().checked_sub(2).filter(|_| w.len() == x.len())?;
    let ones = vec![1; spatial];
    let strides = op.ints("strides").unwrap_or(&ones);
    let dilations = op.ints("dilations").unwrap_or(&ones);
    let zeros = vec![0; 2 * spatial];
    let pads = op.ints("pads").unwrap_or(&zeros);
    if strides.len() != spatial || dilations.len() != spatial || pads.len() != 2 * spatial || x[1] == 0 {
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

fn positive(value: i64) -> Option<usize> {
    usize::try_from(value).ok().filter(|&value| value > 0)
}

fn matmul(a: &Shape, b: &Shape) -> Option<Shape> {
    let (a, b) = (a.to_vec(), b.to_vec());
    if a.len() < 2 || b.len() < 2 || a[a.len() - 1] != b[b.len() - 2] {
        return None;
    }
    let batch = broadcast(&a[..a.len() - 2].to_vec().into(), &b[..b.len() - 2].to_vec().into())?;
    let mut dims = batch.to_vec();
    dims.extend([a[a.len() - 2], b[b.len() - 1]]);
    Some(dims.into())
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
        dims[at] += other[at];
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
    let scales = super::pattern::weight_floats(inputs.graph, *inputs.operands.get(scales_at)?)?;
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

/// Operators of com.microsoft that ONNX Runtime's optimizer writes.
fn contrib_types(op: &OnnxOp, inputs: &Inputs, count: usize) -> Option<Vec<ValueType>> {
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
