//! Host evaluation of ONNX operators over constants.
//!
//! Layout changes of large constants stay lazy, uniform constants stay uniform. Nothing here materialises more than
//! [`LARGEST`] elements at once, or more than the model's [`Budget`] together.

use std::sync::Arc;

use fisec_ir::{Attribute, OnnxOp, ValueType};
use fisec_tensor::{Constant, DType, HostTensor, Shape, Transform};

use crate::Budget;

/// Most elements that an evaluated tensor may have. Shape arithmetic is tiny; masks and position tables are larger.
const LARGEST: usize = 1 << 21;
/// Layout changes of fewer elements are done at once, so that chains of them do not grow.
const SMALL: usize = 1 << 12;

/// Layout changes that may wait one behind the other; more are done at once, so that no chain of them grows long.
const MOST_PENDING: usize = 16;

/// The outputs of `op`, whose types are `outputs`, or `None` when it cannot be evaluated here or `budget` does not allow it.
pub(super) fn evaluate(
    op: &OnnxOp,
    inputs: &[Option<Constant>],
    outputs: &[ValueType],
    budget: &Budget,
) -> Option<Vec<Constant>> {
    if op.is("Split") {
        return split(op, &shallow(inputs, budget)?, outputs);
    }
    let output = outputs.first()?;
    let constant = layout(op, inputs, output, budget)
        .or_else(|| uniform(op, inputs, output, budget))
        .or_else(|| elements(op, inputs, output, budget))?;
    debug_assert_eq!(constant.shape(), &output.shape, "{}", op.op_type);
    let is_small = constant.shape().elements() <= SMALL && constant.fill_value().is_none();
    let settled = match is_small && budget.spend(constant.work()) {
        true => constant.materialize().into(),
        false => constant,
    };
    Some(vec![settled])
}

/// The inputs with no long chain of pending layout changes.
fn shallow(inputs: &[Option<Constant>], budget: &Budget) -> Option<Vec<Option<Constant>>> {
    let shallow = |input: &Option<Constant>| match input {
        Some(constant) if constant.pending() >= MOST_PENDING => Some(Some(read(constant, budget)?.into())),
        other => Some(other.clone()),
    };
    inputs.iter().map(shallow).collect()
}

/// The values of an input of at most [`LARGEST`] elements, paid for.
fn read(constant: &Constant, budget: &Budget) -> Option<HostTensor> {
    let elements = constant.shape().elements();
    let work = constant
        .work()
        .saturating_add(elements.saturating_mul(size_of::<f64>()));
    (elements <= LARGEST && budget.spend(work)).then(|| constant.materialize())
}

fn input(inputs: &[Option<Constant>], position: usize) -> Option<&Constant> {
    inputs.get(position)?.as_ref()
}

/// Integers of a small input.
fn ints(inputs: &[Option<Constant>], position: usize, budget: &Budget) -> Option<Vec<i64>> {
    Some(read(input(inputs, position)?, budget)?.to_i64_vec())
}

/// Layout changes: recorded in the constant, not carried out.
fn layout(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    if !CHANGES_LAYOUT.contains(&op.op_type.as_str()) {
        return None;
    }
    let inputs = &shallow(inputs, budget)?;
    let of = input(inputs, 0)?;
    match op.op_type.as_str() {
        "Identity" => Some(of.clone()),
        "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten" => {
            Some(of.transformed(Transform::Reshape(output.shape.clone())))
        }
        "Expand" | "Tile" if of.shape() == &output.shape => Some(of.clone()),
        "Transpose" => {
            let rank = of.shape().len();
            let order: Vec<usize> = match op.ints("perm") {
                Some(perm) => perm.iter().map(|&axis| axis as usize).collect(),
                None => (0..rank).rev().collect(),
            };
            Some(of.transformed(Transform::Permute(order)))
        }
        "Cast" | "CastLike" if of.dtype() != DType::Bool || of.shape().elements() <= LARGEST => {
            Some(of.transformed(Transform::Cast(output.dtype)))
        }
        "Slice" => slice(op, inputs, budget),
        "DequantizeLinear" => dequantize(op, inputs, output, budget),
        _ => None,
    }
}

/// Operators that [`layout`] may express as a transformation.
const CHANGES_LAYOUT: &[&str] = &[
    "Identity",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
    "Expand",
    "Tile",
    "Transpose",
    "Cast",
    "CastLike",
    "Slice",
    "DequantizeLinear",
];

fn slice(op: &OnnxOp, inputs: &[Option<Constant>], budget: &Budget) -> Option<Constant> {
    let of = input(inputs, 0)?;
    let ranges = super::infer_shapes::slice_ranges(op, of.shape(), |position| ints(inputs, position, budget))?;
    let mut result = of.clone();
    for range in ranges {
        if range.step != 1 {
            return None;
        }
        result = result.transformed(Transform::Slice {
            axis: range.axis,
            start: range.start as usize,
            length: range.length,
        });
    }
    Some(result)
}

fn split(op: &OnnxOp, inputs: &[Option<Constant>], outputs: &[ValueType]) -> Option<Vec<Constant>> {
    let of = input(inputs, 0)?;
    let axis = super::infer_shapes::axis(op.int("axis", 0), of.shape().len())?;
    let mut start = 0;
    let parts = outputs.iter().map(|output| {
        let length = output.shape[axis];
        start += length;
        of.transformed(Transform::Slice {
            axis,
            start: start - length,
            length,
        })
    });
    Some(parts.collect())
}

fn dequantize(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    let (of, scales) = (input(inputs, 0)?, input(inputs, 1)?);
    if op.int("block_size", 0) != 0 {
        return dequantize_blocks(op, inputs, output);
    }
    let channels = scales.shape().elements();
    let (viewed, axis) = if scales.shape().is_empty() || (channels == 1 && of.shape().len() != 1) {
        let mut dims = vec![1];
        dims.extend_from_slice(of.shape());
        (of.transformed(Transform::Reshape(dims.into())), 0)
    } else {
        (
            of.clone(),
            super::infer_shapes::axis(op.int("axis", 1), of.shape().len())?,
        )
    };
    if viewed.shape()[axis] != channels {
        return None;
    }
    let zero_points = match input(inputs, 2) {
        Some(points) => read(points, budget)?.to_f32_vec(),
        None if channels <= LARGEST => vec![0.0; channels],
        None => return None,
    };
    if zero_points.len() != channels {
        return None;
    }
    let dequantized = viewed.transformed(Transform::Dequantize {
        axis,
        scales: read(scales, budget)?.to_f32_vec().into(),
        zero_points: zero_points.into(),
        dtype: output.dtype,
    });
    Some(dequantized.transformed(Transform::Reshape(output.shape.clone())))
}

/// Scales and zero points for blocks of indices of one axis.
fn dequantize_blocks(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    let (of, scales) = (input(inputs, 0)?, input(inputs, 1)?);
    let axis = super::infer_shapes::axis(op.int("axis", 1), of.shape().len())?;
    let block = usize::try_from(op.int("block_size", 0)).ok()?;
    let mut dims = of.shape().to_vec();
    dims[axis] = dims[axis].div_ceil(block);
    let zero_points = input(inputs, 2);
    let fits = |constant: &Constant| constant.shape()[..] == dims[..];
    if !fits(scales) || !zero_points.is_none_or(fits) {
        return None;
    }
    Some(of.transformed(Transform::DequantizeGroups {
        axis,
        groups: Arc::new((0..of.shape()[axis]).map(|index| (index / block) as u32).collect()),
        scales: scales.materialize(),
        zero_points: zero_points.map(Constant::materialize),
        dtype: output.dtype,
    }))
}

/// Constants with one value everywhere, whatever their size.
fn uniform(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    if op.is("ConstantOfShape") {
        let value = match op.attributes.get("value") {
            Some(Attribute::Tensor(tensor)) => *tensor.to_f64_vec().first()?,
            _ => 0.0,
        };
        return Some(Constant::filled(output.dtype, output.shape.clone(), value));
    }
    if matches!(op.op_type.as_str(), "Expand" | "Tile") {
        let value = uniform_value(input(inputs, 0)?, budget)?;
        return Some(Constant::filled(output.dtype, output.shape.clone(), value));
    }
    if output.shape.elements() <= SMALL || output.dtype == DType::I64 {
        return None;
    }
    let values = inputs
        .iter()
        .map(|input| {
            let input = input.as_ref()?;
            let value = uniform_value(input, budget)?;
            Some(Constant::filled(input.dtype(), Shape::scalar(), value))
        })
        .map(|constant| constant.map(Some))
        .collect::<Option<Vec<_>>>()?;
    let scalar = ValueType::full(output.dtype, Shape::scalar());
    let value = pointwise(op, &values, &scalar)?.materialize().to_f64_vec()[0];
    Some(Constant::filled(output.dtype, output.shape.clone(), value))
}

fn uniform_value(constant: &Constant, budget: &Budget) -> Option<f64> {
    let only = || read(constant, budget)?.to_f64_vec().first().copied();
    constant
        .fill_value()
        .or_else(|| (constant.shape().elements() == 1).then(only)?)
}

fn elements(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    let largest = inputs.iter().flatten().map(|input| input.shape().elements()).max();
    if output.shape.elements().max(largest.unwrap_or(0)) > LARGEST || !budget.spend(work(op, inputs, output)) {
        return None;
    }
    match op.op_type.as_str() {
        "Concat" => concat(op, inputs, output),
        "Gather" => gather(op, inputs, output, budget),
        "Range" => range(inputs, output),
        "Slice" => strided_slice(op, inputs, output, budget),
        "Expand" => expand(inputs, output),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" if output.shape.elements() == 1 => {
            reduce(op, inputs, output)
        }
        _ => pointwise(op, inputs, output),
    }
}

/// Bytes that evaluating element by element touches: every input as it is read and, where it is broadcast, as it is
/// repeated; the output.
fn work(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType) -> usize {
    let wide = |elements: usize| elements.saturating_mul(size_of::<f64>());
    let repeats = !matches!(op.op_type.as_str(), "Concat" | "Gather" | "Slice") && !op.op_type.starts_with("Reduce");
    let of_input = |input: &Constant| {
        let elements = input.shape().elements();
        let read = if repeats {
            elements.max(output.shape.elements())
        } else {
            elements
        };
        input.work().saturating_add(wide(read))
    };
    let of_inputs = inputs.iter().flatten().map(of_input);
    of_inputs.fold(wide(output.shape.elements()), usize::saturating_add)
}

fn concat(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    let axis = super::infer_shapes::axis(op.int("axis", 0), output.shape.len())?;
    let outer: usize = output.shape[..axis].iter().product();
    let parts: Vec<HostTensor> = inputs.iter().flatten().map(Constant::materialize).collect();
    let mut data = Vec::with_capacity(output.shape.elements() * output.dtype.size());
    for index in 0..outer {
        for part in &parts {
            let row = part.data().len() / outer;
            data.extend_from_slice(&part.data()[index * row..(index + 1) * row]);
        }
    }
    HostTensor::new(output.dtype, output.shape.clone(), data.into())
        .ok()
        .map(Constant::from)
}

fn gather(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    let (of, indices) = (input(inputs, 0)?.materialize(), ints(inputs, 1, budget)?);
    let axis = super::infer_shapes::axis(op.int("axis", 0), of.shape().len())?;
    let size = of.shape()[axis] as i64;
    let row: usize = of.shape()[axis + 1..].iter().product::<usize>() * of.dtype().size();
    let outer: usize = of.shape()[..axis].iter().product();
    let mut data = Vec::with_capacity(output.shape.elements() * output.dtype.size());
    for block in 0..outer {
        for &index in &indices {
            let index = if index < 0 { index + size } else { index };
            if !(0..size).contains(&index) {
                return None;
            }
            let start = (block * size as usize + index as usize) * row;
            data.extend_from_slice(&of.data()[start..start + row]);
        }
    }
    HostTensor::new(output.dtype, output.shape.clone(), data.into())
        .ok()
        .map(Constant::from)
}

fn range(inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    let scalar = |position: usize| Some(*input(inputs, position)?.materialize().to_f64_vec().first()?);
    let (start, step) = (scalar(0)?, scalar(2)?);
    let values: Vec<f64> = (0..output.shape.elements()).map(|i| start + i as f64 * step).collect();
    HostTensor::from_f64(output.dtype, output.shape.clone(), &values)
        .ok()
        .map(Constant::from)
}

fn strided_slice(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType, budget: &Budget) -> Option<Constant> {
    let of = input(inputs, 0)?.materialize();
    let ranges = super::infer_shapes::slice_ranges(op, of.shape(), |position| ints(inputs, position, budget))?;
    let mut starts = vec![0i64; of.shape().len()];
    let mut steps = vec![1i64; of.shape().len()];
    for range in ranges {
        starts[range.axis] = range.start;
        steps[range.axis] = range.step;
    }
    let (strides, size) = (of.shape().strides(), of.dtype().size());
    let mut data = Vec::with_capacity(output.shape.elements() * size);
    for index in Indices::new(&output.shape) {
        let position: i64 = (0..index.len())
            .map(|axis| (starts[axis] + index[axis] as i64 * steps[axis]) * strides[axis] as i64)
            .sum();
        let at = position as usize * size;
        data.extend_from_slice(&of.data()[at..at + size]);
    }
    HostTensor::new(output.dtype, output.shape.clone(), data.into())
        .ok()
        .map(Constant::from)
}

fn expand(inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    let of = [input(inputs, 0)?.materialize()];
    if output.dtype.is_float() {
        let values = broadcast(&of, output, HostTensor::to_f64_vec)?.remove(0);
        let expanded = HostTensor::from_f64(output.dtype, output.shape.clone(), &values);
        return expanded.ok().map(Constant::from);
    }
    let values = broadcast(&of, output, HostTensor::to_i64_vec)?.remove(0);
    Some(
        HostTensor::from_i64(output.shape.clone(), values)
            .cast(output.dtype)
            .into(),
    )
}

fn reduce(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    let values = input(inputs, 0)?.materialize().to_f64_vec();
    let value = match op.op_type.as_str() {
        "ReduceProd" => values.iter().product(),
        "ReduceSum" => values.iter().sum(),
        "ReduceMax" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        _ => values.iter().copied().fold(f64::INFINITY, f64::min),
    };
    HostTensor::from_f64(output.dtype, output.shape.clone(), &[value])
        .ok()
        .map(Constant::from)
}

/// All multi-indices of a shape, row-major.
struct Indices<'a> {
    shape: &'a [usize],
    next: Option<Vec<usize>>,
}

impl<'a> Indices<'a> {
    fn new(shape: &'a [usize]) -> Self {
        let next = (!shape.contains(&0)).then(|| vec![0; shape.len()]);
        Indices { shape, next }
    }
}

impl Iterator for Indices<'_> {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for axis in (0..self.shape.len()).rev() {
            following[axis] += 1;
            if following[axis] < self.shape[axis] {
                self.next = Some(following);
                break;
            }
            following[axis] = 0;
        }
        Some(current)
    }
}

/// Element-wise operators with broadcasting: integers in i64, the rest in f64 rounded to the output type.
fn pointwise(op: &OnnxOp, inputs: &[Option<Constant>], output: &ValueType) -> Option<Constant> {
    if !op.domain.is_empty() {
        return None;
    }
    let tensors: Vec<HostTensor> = inputs
        .iter()
        .map(|input| Some(input.as_ref()?.materialize()))
        .collect::<Option<_>>()?;
    let whole = tensors.iter().all(|tensor| !tensor.dtype().is_float()) && !output.dtype.is_float();
    if whole {
        let columns = broadcast(&tensors, output, HostTensor::to_i64_vec)?;
        let values = rows(&columns, output.shape.elements(), |row| integer(&op.op_type, row))?;
        return Some(
            HostTensor::from_i64(output.shape.clone(), values)
                .cast(output.dtype)
                .into(),
        );
    }
    let columns = broadcast(&tensors, output, HostTensor::to_f64_vec)?;
    let values = rows(&columns, output.shape.elements(), |row| float(op, row))?;
    HostTensor::from_f64(output.dtype, output.shape.clone(), &values)
        .ok()
        .map(Constant::from)
}

fn rows<T: Copy>(columns: &[Vec<T>], count: usize, compute: impl Fn(&[T]) -> Option<T>) -> Option<Vec<T>> {
    let mut row = Vec::with_capacity(columns.len());
    (0..count)
        .map(|index| {
            row.clear();
            row.extend(columns.iter().map(|column| column[index]));
            compute(&row)
        })
        .collect()
}

fn broadcast<T: Copy>(
    tensors: &[HostTensor],
    output: &ValueType,
    values: impl Fn(&HostTensor) -> Vec<T>,
) -> Option<Vec<Vec<T>>> {
    let column = |tensor: &HostTensor| {
        let values = values(tensor);
        if tensor.shape() == &output.shape {
            return Some(values);
        }
        let pad = output.shape.len().checked_sub(tensor.shape().len())?;
        let strides = tensor.shape().strides();
        let position = |index: &[usize]| -> usize {
            (0..strides.len())
                .filter(|&axis| tensor.shape()[axis] != 1)
                .map(|axis| index[axis + pad] * strides[axis])
                .sum()
        };
        Indices::new(&output.shape)
            .map(|index| values.get(position(&index)).copied())
            .collect()
    };
    tensors.iter().map(column).collect()
}

fn integer(op_type: &str, row: &[i64]) -> Option<i64> {
    Some(match (op_type, row) {
        ("Add", &[a, b]) => a.wrapping_add(b),
        ("Sub", &[a, b]) => a.wrapping_sub(b),
        ("Mul", &[a, b]) => a.wrapping_mul(b),
        ("Div", &[a, b]) => a.checked_div(b)?,
        ("Mod", &[a, b]) => a.checked_rem_euclid(b)?,
        ("Min", _) => *row.iter().min()?,
        ("Max", _) => *row.iter().max()?,
        ("Neg", &[a]) => a.wrapping_neg(),
        ("Abs", &[a]) => a.wrapping_abs(),
        ("Equal", &[a, b]) => i64::from(a == b),
        ("Less", &[a, b]) => i64::from(a < b),
        ("LessOrEqual", &[a, b]) => i64::from(a <= b),
        ("Greater", &[a, b]) => i64::from(a > b),
        ("GreaterOrEqual", &[a, b]) => i64::from(a >= b),
        ("And", &[a, b]) => a & b,
        ("Or", &[a, b]) => a | b,
        ("Not", &[a]) => i64::from(a == 0),
        ("Where", &[condition, a, b]) => {
            if condition != 0 {
                a
            } else {
                b
            }
        }
        _ => return None,
    })
}

fn float(op: &OnnxOp, row: &[f64]) -> Option<f64> {
    Some(match (op.op_type.as_str(), row) {
        ("Add", &[a, b]) => a + b,
        ("Sub", &[a, b]) => a - b,
        ("Mul", &[a, b]) => a * b,
        ("Div", &[a, b]) => a / b,
        ("Pow", &[a, b]) => a.powf(b),
        ("Sqrt", &[a]) => a.sqrt(),
        ("Reciprocal", &[a]) => 1.0 / a,
        ("Exp", &[a]) => a.exp(),
        ("Log", &[a]) => a.ln(),
        ("Neg", &[a]) => -a,
        ("Abs", &[a]) => a.abs(),
        ("Floor", &[a]) => a.floor(),
        ("Ceil", &[a]) => a.ceil(),
        ("Sin", &[a]) => a.sin(),
        ("Cos", &[a]) => a.cos(),
        ("Min", _) => row.iter().copied().reduce(f64::min)?,
        ("Max", _) => row.iter().copied().reduce(f64::max)?,
        ("Equal", &[a, b]) => f64::from(a == b),
        ("Less", &[a, b]) => f64::from(a < b),
        ("LessOrEqual", &[a, b]) => f64::from(a <= b),
        ("Greater", &[a, b]) => f64::from(a > b),
        ("GreaterOrEqual", &[a, b]) => f64::from(a >= b),
        ("Where", &[condition, a, b]) => {
            if condition != 0.0 {
                a
            } else {
                b
            }
        }
        _ => return None,
    })
}
