//! Operators that make or read shapes and constants.

use fisec_ir::Attribute;
use fisec_tensor::{DType, Shape};

use super::{Answer, Call, checked_elements, elementwise};
use crate::Tensor;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match call.op.op_type.as_str() {
        "Shape" => shape_of(call),
        "Size" => call.operand(0).map(|x| integers(vec![x.data.len() as i64], true)),
        "Constant" => constant(call),
        "ConstantOfShape" => constant_of_shape(call),
        "Range" => range(call),
        "Expand" => expand(call),
        "Tile" => tile(call),
        "Trilu" => trilu(call),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

fn integers(values: Vec<i64>, scalar: bool) -> Tensor {
    let shape = if scalar {
        Shape::scalar()
    } else {
        Shape::from([values.len()])
    };
    Tensor::typed(
        DType::I64,
        shape,
        values.into_iter().map(|value| value as f64).collect(),
    )
}

fn shape_of(call: &Call) -> Result<Tensor, String> {
    let dims: Vec<i64> = call.operand(0)?.shape.iter().map(|&dim| dim as i64).collect();
    let rank = dims.len() as i64;
    let clamp = |index: i64| (if index < 0 { index + rank } else { index }).clamp(0, rank) as usize;
    let (start, end) = (clamp(call.op.int("start", 0)), clamp(call.op.int("end", rank)));
    Ok(integers(dims[start..end.max(start)].to_vec(), false))
}

fn constant(call: &Call) -> Result<Tensor, String> {
    let (_, value) = call.op.attributes.iter().next().ok_or("a constant without a value")?;
    let float =
        |values: Vec<f32>, shape: Shape| Tensor::typed(DType::F32, shape, values.into_iter().map(f64::from).collect());
    Ok(match value {
        Attribute::Tensor(tensor) => Tensor::from_host(tensor),
        Attribute::Int(value) => integers(vec![*value], true),
        Attribute::Ints(values) => integers(values.clone(), false),
        Attribute::Float(value) => float(vec![*value], Shape::scalar()),
        Attribute::Floats(values) => float(values.clone(), [values.len()].into()),
        Attribute::String(_) | Attribute::Strings(_) => return Err("a constant of strings".to_owned()),
    })
}

fn constant_of_shape(call: &Call) -> Result<Tensor, String> {
    let shape = dims(&call.operand(0)?.integers())?;
    let count = checked_elements(&shape)?;
    let (dtype, value) = match call.op.attributes.get("value") {
        Some(Attribute::Tensor(value)) => (value.dtype(), value.to_f64_vec().first().copied().unwrap_or_default()),
        _ => (DType::F32, 0.0),
    };
    Ok(Tensor::typed(dtype, shape, vec![value; count]))
}

/// Dimensions from integers.
pub(super) fn dims(values: &[i64]) -> Result<Vec<usize>, String> {
    values
        .iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| format!("a dimension of {dim}")))
        .collect()
}

fn range(call: &Call) -> Result<Tensor, String> {
    let bound = |position: usize| {
        call.operand(position)?
            .data
            .first()
            .copied()
            .ok_or_else(|| format!("operand {position} is empty"))
    };
    let (start, limit, step) = (bound(0)?, bound(1)?, bound(2)?);
    let count = ((limit - start) / step).ceil().max(0.0);
    if !count.is_finite() {
        return Err(format!("a range from {start} to {limit} in steps of {step}"));
    }
    let count = checked_elements(&[count as usize])?;
    let data = (0..count).map(|index| start + index as f64 * step).collect();
    Ok(Tensor::typed(call.operand(0)?.dtype, [count], data))
}

fn expand(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let asked: Shape = dims(&call.operand(1)?.integers())?.into();
    elementwise::expanded(x, &fisec_ir::broadcast(&x.shape, &asked)?)
}

fn tile(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let repeats = dims(&call.operand(1)?.integers())?;
    if repeats.len() != x.shape.len() {
        return Err(format!("{} repeats for {} axes", repeats.len(), x.shape.len()));
    }
    let mut tiled = x.clone();
    for (axis, &times) in repeats.iter().enumerate() {
        let mut shape = tiled.shape.to_vec();
        shape[axis] = shape[axis].checked_mul(times).ok_or("the tiles are too many")?;
        checked_elements(&shape)?;
        let run = shape[axis + 1..].iter().product::<usize>() * tiled.shape[axis];
        let data = tiled
            .data
            .chunks(run.max(1))
            .flat_map(|run| run.repeat(times))
            .collect();
        tiled = tiled.like(shape, data);
    }
    Ok(tiled)
}

fn trilu(call: &Call) -> Result<Tensor, String> {
    let mut x = call.operand(0)?.clone();
    let diagonal = call
        .optional(1)
        .and_then(|k| k.data.first().copied())
        .unwrap_or_default() as i64;
    let [.., rows, columns] = x.shape[..] else {
        return Err("a matrix is needed".to_owned());
    };
    let upper = call.op.int("upper", 1) != 0;
    for (index, value) in x.data.iter_mut().enumerate() {
        let (row, column) = ((index / columns % rows) as i64, (index % columns) as i64);
        let kept = if upper {
            column - row >= diagonal
        } else {
            column - row <= diagonal
        };
        if !kept {
            *value = 0.0;
        }
    }
    Ok(x)
}
