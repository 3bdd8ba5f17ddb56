//! One element at a time, with broadcasting.

use fisec_ir::broadcast as broadcast_shapes;
use fisec_tensor::{DType, Shape};

use super::{Answer, Call, data_type};
use crate::Tensor;
use crate::math::{gelu, sigmoid};

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let name = call.op.op_type.as_str();
    let result = if let Some(function) = unary(name) {
        call.operand(0).map(|x| x.map(function))
    } else if let Some(function) = arithmetic(name) {
        fold(call, function)
    } else if let Some(function) = comparison(name) {
        both(call, |a, b| f64::from(u8::from(function(a, b)))).map(|y| Tensor {
            dtype: DType::Bool,
            ..y
        })
    } else {
        match name {
            "Div" => divide(call),
            "IsNaN" => test(call, f64::is_nan),
            "IsInf" => infinite(call),
            "Pow" => both(call, f64::powf),
            "Mod" => modulo(call),
            "Gelu" => call.operand(0).map(|x| match call.text("approximate", "none") {
                "tanh" => x.map(gelu_tanh),
                _ => x.map(gelu),
            }),
            "Clip" => clip(call),
            "Cast" => data_type(call.op.int("to", 0)).and_then(|dtype| Ok(cast(call.operand(0)?, dtype))),
            "CastLike" => call.operand(1).and_then(|like| Ok(cast(call.operand(0)?, like.dtype))),
            "Where" => select(call),
            "Identity" | "Dropout" => call.operand(0).cloned(),
            "DequantizeLinear" => dequantize(call),
            _ => return None,
        }
    };
    Some(result.map(|y| vec![y]))
}

fn unary(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Sqrt" => f64::sqrt,
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Erf" => libm::erf,
        "Sigmoid" => sigmoid,
        "Tanh" => f64::tanh,
        "Sin" => f64::sin,
        "Cos" => f64::cos,
        "Relu" => |x| if x < 0.0 { 0.0 } else { x },
        "Reciprocal" => f64::recip,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sign" => |x| if x == 0.0 { 0.0 } else { x.signum() },
        "Not" => |x| f64::from(u8::from(x == 0.0)),
        "Softplus" => |x| x.exp().ln_1p(),
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match name {
        "Add" | "Sum" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Min" => |a, b| if b < a || b.is_nan() { b } else { a },
        "Max" => |a, b| if b > a || b.is_nan() { b } else { a },
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<fn(f64, f64) -> bool> {
    Some(match name {
        "Equal" => |a, b| a == b,
        "Less" => |a, b| a < b,
        "Greater" => |a, b| a > b,
        "LessOrEqual" => |a, b| a <= b,
        "GreaterOrEqual" => |a, b| a >= b,
        "And" => |a, b| a != 0.0 && b != 0.0,
        "Or" => |a, b| a != 0.0 || b != 0.0,
        "Xor" => |a, b| (a != 0.0) != (b != 0.0),
        _ => return None,
    })
}

fn test(call: &Call, function: impl Fn(f64) -> bool + Sync) -> Result<Tensor, String> {
    let found = call.operand(0)?.map(|x| f64::from(u8::from(function(x))));
    Ok(Tensor {
        dtype: DType::Bool,
        ..found
    })
}

fn infinite(call: &Call) -> Result<Tensor, String> {
    let [negative, positive] = ["detect_negative", "detect_positive"].map(|name| call.op.int(name, 1) != 0);
    test(call, |x| x.is_infinite() && (if x < 0.0 { negative } else { positive }))
}

fn both(call: &Call, function: impl Fn(f64, f64) -> f64) -> Result<Tensor, String> {
    broadcast(call.operand(0)?, call.operand(1)?, function)
}

fn fold(call: &Call, function: impl Fn(f64, f64) -> f64) -> Result<Tensor, String> {
    let mut result = call.operand(0)?.clone();
    for position in 1..call.operands.len() {
        result = broadcast(&result, call.operand(position)?, &function)?;
    }
    Ok(result)
}

/// Integers divide towards zero.
fn divide(call: &Call) -> Result<Tensor, String> {
    match call.operand(0)?.dtype.is_float() {
        true => both(call, |a, b| a / b),
        false if call.operand(1)?.data.contains(&0.0) => Err("division of integers by zero".to_owned()),
        false => both(call, |a, b| (a / b).trunc()),
    }
}

fn modulo(call: &Call) -> Result<Tensor, String> {
    match call.op.int("fmod", 0) {
        0 => both(call, |a, b| a - b * (a / b).floor()),
        _ => both(call, |a, b| a % b),
    }
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn clip(call: &Call) -> Result<Tensor, String> {
    let bound = |position: usize, name: &str, default: f64| {
        let operand = call.optional(position).and_then(|bound| bound.data.first().copied());
        operand.unwrap_or_else(|| call.float(name, default))
    };
    let (low, high) = (bound(1, "min", f64::NEG_INFINITY), bound(2, "max", f64::INFINITY));
    Ok(call.operand(0)?.map(|x| {
        if x < low {
            low
        } else if x > high {
            high
        } else {
            x
        }
    }))
}

/// To integers by truncation, to `bool` by comparison with zero; floats stay as they are.
pub(super) fn cast(x: &Tensor, dtype: DType) -> Tensor {
    let y = match dtype {
        DType::Bool => x.map(|value| f64::from(u8::from(value != 0.0))),
        dtype if dtype.is_float() => x.clone(),
        _ => x.map(f64::trunc),
    };
    Tensor { dtype, ..y }
}

fn select(call: &Call) -> Result<Tensor, String> {
    let [condition, yes, no] = [call.operand(0)?, call.operand(1)?, call.operand(2)?];
    // the sum only serves to bring all three to one shape
    let shape = broadcast(&broadcast(condition, yes, |a, _| a)?, no, |a, _| a)?.shape;
    let [condition, yes, no] = [condition, yes, no].map(|x| expanded(x, &shape));
    let (condition, yes, no) = (condition?, yes?, no?);
    let chosen = condition.data.iter().zip(yes.data.iter().zip(&no.data));
    let data = chosen
        .map(|(&condition, (&yes, &no))| if condition != 0.0 { yes } else { no })
        .collect();
    Ok(yes.like(shape, data))
}

fn dequantize(call: &Call) -> Result<Tensor, String> {
    let (x, scale) = (call.operand(0)?, call.operand(1)?);
    let per_axis = |factors: &Tensor| -> Result<Tensor, String> {
        if factors.data.len() == 1 {
            return Ok(factors.like(Shape::scalar(), factors.data.clone()));
        }
        let axis = call.axis(1, x.shape.len())?;
        let mut shape = vec![1; x.shape.len()];
        shape[axis] = factors.data.len();
        Ok(factors.like(shape, factors.data.clone()))
    };
    let centred = match call.optional(2) {
        Some(zero) => broadcast(x, &per_axis(zero)?, |x, zero| x - zero)?,
        None => x.clone(),
    };
    let y = broadcast(&centred, &per_axis(scale)?, |x, scale| x * scale)?;
    Ok(Tensor {
        dtype: scale.dtype,
        ..y
    })
}

/// The tensor repeated along axes of length one until it has `shape`.
pub(super) fn expanded(x: &Tensor, shape: &Shape) -> Result<Tensor, String> {
    super::checked_elements(shape)?;
    let frame = Tensor::typed(x.dtype, shape.clone(), vec![0.0; shape.elements()]);
    broadcast(x, &frame, |x, _| x)
}

/// `function` over two tensors that broadcast; the result has the type of the first.
pub(crate) fn broadcast(a: &Tensor, b: &Tensor, function: impl Fn(f64, f64) -> f64) -> Result<Tensor, String> {
    if a.shape == b.shape {
        let data = a.data.iter().zip(&b.data).map(|(&a, &b)| function(a, b)).collect();
        return Ok(a.like(a.shape.clone(), data));
    }
    let shape = broadcast_shapes(&a.shape, &b.shape)?;
    let width = shape.last().copied().unwrap_or(1);
    let rows = super::checked_elements(&shape)?.checked_div(width).unwrap_or(0);
    let (a_strides, b_strides) = (strides(&a.shape, shape.len()), strides(&b.shape, shape.len()));
    let step = |strides: &[usize]| strides.last().copied().unwrap_or(0);
    let mut data = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let (a_start, b_start) = (offset(row, &shape, &a_strides), offset(row, &shape, &b_strides));
        let at = |index: usize| {
            function(
                a.data[a_start + index * step(&a_strides)],
                b.data[b_start + index * step(&b_strides)],
            )
        };
        data.extend((0..width).map(at));
    }
    Ok(a.like(shape, data))
}

/// Strides of `shape` seen with `rank` axes; zero where it repeats.
fn strides(shape: &Shape, rank: usize) -> Vec<usize> {
    let own = shape
        .strides()
        .into_iter()
        .zip(shape.iter())
        .map(|(stride, &dim)| if dim == 1 { 0 } else { stride });
    std::iter::repeat_n(0, rank - shape.len()).chain(own).collect()
}

/// Where row number `row` of the result, counted over all axes but the last, starts in an operand.
fn offset(mut row: usize, shape: &[usize], strides: &[usize]) -> usize {
    let outer = shape.len().saturating_sub(1);
    let mut offset = 0;
    for axis in (0..outer).rev() {
        offset += row % shape[axis] * strides[axis];
        row /= shape[axis];
    }
    offset
}
