//! Operators that move elements about.

use fisec_tensor::Shape;

use super::shapes::dims;
use super::{Answer, Call, axes, axis, checked_elements};
use crate::Tensor;
use crate::semantic;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match call.op.op_type.as_str() {
        "Reshape" => reshape(call),
        "Flatten" => flatten(call),
        "Squeeze" => squeeze(call),
        "Unsqueeze" => unsqueeze(call),
        "Transpose" => transpose(call),
        "Slice" => slice(call),
        "Split" => return Some(split(call)),
        "Concat" => concat(call),
        "Gather" => gather(call),
        "GatherND" => gather_nd(call),
        "Pad" => pad(call),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

fn reshape(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let keep_zero = call.op.int("allowzero", 0) != 0;
    let mut shape = call.operand(1)?.integers();
    for (axis, dim) in shape.iter_mut().enumerate() {
        if *dim == 0 && !keep_zero {
            *dim = *x.shape.get(axis).ok_or("`0` copies an axis that is not there")? as i64;
        }
    }
    let known = shape
        .iter()
        .filter(|&&dim| dim != -1)
        .try_fold(1i64, |known, &dim| known.checked_mul(dim));
    let known = known.ok_or("the shape is too large")?;
    for dim in shape.iter_mut().filter(|dim| **dim == -1) {
        *dim = (x.data.len() as i64).checked_div(known).unwrap_or(0);
    }
    reshaped(x, dims(&shape)?)
}

pub(super) fn reshaped(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor, String> {
    let shape = shape.into();
    if shape.checked_elements() != Some(x.data.len()) {
        return Err(format!("[{}] does not reshape to [{shape}]", x.shape));
    }
    Ok(x.like(shape, x.data.clone()))
}

fn flatten(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    let axis = match call.op.int("axis", 1) {
        end if end == rank as i64 => rank,
        other => axis(other, rank)?,
    };
    reshaped(
        x,
        [
            x.shape[..axis].iter().product::<usize>(),
            x.shape[axis..].iter().product(),
        ],
    )
}

fn squeeze(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let removed = match call.integers(1, "axes") {
        Some(list) => axes(&list, x.shape.len())?,
        None => (0..x.shape.len()).filter(|&axis| x.shape[axis] == 1).collect(),
    };
    let kept: Vec<usize> = (0..x.shape.len())
        .filter(|axis| !removed.contains(axis))
        .map(|axis| x.shape[axis])
        .collect();
    reshaped(x, kept)
}

fn unsqueeze(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let list = call.integers(1, "axes").ok_or("no axes are given")?;
    let rank = x.shape.len() + list.len();
    let added = axes(&list, rank)?;
    let mut own = x.shape.iter();
    let shape: Option<Vec<usize>> = (0..rank)
        .map(|axis| {
            if added.contains(&axis) {
                Some(1)
            } else {
                own.next().copied()
            }
        })
        .collect();
    reshaped(x, shape.ok_or("an axis is added twice")?)
}

fn transpose(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    let order = match call.op.ints("perm") {
        Some(list) => axes(list, rank)?,
        None => (0..rank).rev().collect(),
    };
    let mut seen = order.clone();
    seen.sort_unstable();
    if seen != (0..rank).collect::<Vec<_>>() {
        return Err(format!("{order:?} is not an order of {rank} axes"));
    }
    Ok(permuted(x, &order))
}

/// Result axis `a` is axis `order[a]` of `x`.
pub(super) fn permuted(x: &Tensor, order: &[usize]) -> Tensor {
    let shape: Shape = order.iter().map(|&axis| x.shape[axis]).collect();
    let strides = x.shape.strides();
    let strides: Vec<i64> = order.iter().map(|&axis| strides[axis] as i64).collect();
    let data = strided(x, &shape, 0, &strides);
    x.like(shape, data)
}

/// The elements at `start + Σ index · stride` for all indices of `shape`.
fn strided(x: &Tensor, shape: &[usize], start: i64, strides: &[i64]) -> Vec<f64> {
    let mut data = Vec::with_capacity(shape.iter().product());
    collect(&x.data, shape, start, strides, &mut data);
    data
}

fn collect(x: &[f64], shape: &[usize], start: i64, strides: &[i64], data: &mut Vec<f64>) {
    match shape {
        [] => data.push(x[start as usize]),
        [length] => data.extend((0..*length as i64).map(|index| x[(start + index * strides[0]) as usize])),
        [length, inner @ ..] => {
            for index in 0..*length as i64 {
                collect(x, inner, start + index * strides[0], &strides[1..], data);
            }
        }
    }
}

fn slice(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    let starts = call.integers(1, "starts").ok_or("no starts are given")?;
    let ends = call.integers(2, "ends").ok_or("no ends are given")?;
    let list = call
        .integers(3, "axes")
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.integers(4, "steps").unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), list.len(), steps.len()]
        .iter()
        .any(|&length| length != starts.len())
    {
        return Err("starts, ends, axes and steps differ in length".to_owned());
    }
    let mut shape = x.shape.to_vec();
    let mut strides: Vec<i64> = x.shape.strides().into_iter().map(|stride| stride as i64).collect();
    let mut first = 0;
    for (index, axis) in axes(&list, rank)?.into_iter().enumerate() {
        let (start, count) = cut(x.shape[axis] as i64, starts[index], ends[index], steps[index])?;
        first += start * strides[axis];
        // no stride is followed where only one index is kept
        strides[axis] = strides[axis].wrapping_mul(steps[index]);
        shape[axis] = count;
    }
    let data = if shape.contains(&0) {
        Vec::new()
    } else {
        strided(x, &shape, first, &strides)
    };
    Ok(x.like(shape, data))
}

/// First index and number of indices of a slice.
fn cut(dim: i64, start: i64, end: i64, step: i64) -> Result<(i64, usize), String> {
    let from_end = |index: i64| if index < 0 { index.saturating_add(dim) } else { index };
    let (start, end) = match step {
        _ if dim == 0 => (0, 0),
        0 => return Err("a step of zero".to_owned()),
        1.. => (from_end(start).clamp(0, dim), from_end(end).clamp(0, dim)),
        _ => (from_end(start).clamp(0, dim - 1), from_end(end).clamp(-1, dim - 1)),
    };
    let span = if step > 0 { end - start } else { start - end };
    Ok((start, (span.max(0) as u64).div_ceil(step.unsigned_abs()) as usize))
}

fn split(call: &Call) -> Answer {
    let x = call.operand(0)?;
    let axis = call.axis(0, x.shape.len())?;
    let dim = x.shape[axis];
    let parts = call.outputs.max(1);
    let lengths = match call.integers(1, "split") {
        Some(list) => dims(&list)?,
        None => {
            let length = dim.div_ceil(parts);
            (0..parts)
                .map(|part| length.min(dim.saturating_sub(part * length)))
                .collect()
        }
    };
    let sum = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    if sum != Some(dim) {
        return Err(format!("parts of {lengths:?} do not make {dim}"));
    }
    let strides: Vec<i64> = x.shape.strides().into_iter().map(|stride| stride as i64).collect();
    let mut start = 0;
    let part = |length: usize| {
        let mut shape = x.shape.to_vec();
        shape[axis] = length;
        let data = strided(x, &shape, start * strides[axis], &strides);
        start += length as i64;
        x.like(shape, data)
    };
    Ok(lengths.into_iter().map(part).collect())
}

fn concat(call: &Call) -> Result<Tensor, String> {
    let operands: Vec<&Tensor> = (0..call.operands.len())
        .map(|at| call.operand(at))
        .collect::<Result<_, _>>()?;
    let first = operands.first().ok_or("nothing to concatenate")?;
    let axis = call.axis(0, first.shape.len())?;
    for x in &operands {
        let agrees = x.shape.len() == first.shape.len()
            && (0..x.shape.len()).all(|other| other == axis || x.shape[other] == first.shape[other]);
        if !agrees {
            return Err(format!(
                "[{}] does not continue [{}] along axis {axis}",
                x.shape, first.shape
            ));
        }
    }
    let some: Vec<&Tensor> = operands.iter().copied().filter(|x| !x.data.is_empty()).collect();
    Ok(if some.is_empty() {
        (*first).clone()
    } else {
        semantic::concat(&some, axis)
    })
}

fn gather(call: &Call) -> Result<Tensor, String> {
    let (x, indices) = (call.operand(0)?, call.operand(1)?);
    let axis = call.axis(0, x.shape.len())?;
    let dim = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let chosen = indices
        .integers()
        .into_iter()
        .map(|index| self::axis(index, dim))
        .collect::<Result<Vec<_>, _>>();
    let chosen = chosen.map_err(|message| format!("index outside: {message}"))?;
    let shape: Shape = x.shape[..axis]
        .iter()
        .chain(indices.shape.iter())
        .chain(&x.shape[axis + 1..])
        .copied()
        .collect();
    let mut data = Vec::with_capacity(checked_elements(&shape)?);
    for block in 0..outer {
        for index in &chosen {
            let start = (block * dim + index) * inner;
            data.extend_from_slice(&x.data[start..start + inner]);
        }
    }
    Ok(x.like(shape, data))
}

fn gather_nd(call: &Call) -> Result<Tensor, String> {
    let (x, indices) = (call.operand(0)?, call.operand(1)?);
    let batch = usize::try_from(call.op.int("batch_dims", 0)).map_err(|_| "negative batch_dims")?;
    let depth = indices.shape.last().copied().ok_or("indices are a scalar")?;
    if batch + depth > x.shape.len() || batch >= indices.shape.len() || x.shape[..batch] != indices.shape[..batch] {
        return Err(format!("indices [{}] do not reach into [{}]", indices.shape, x.shape));
    }
    let strides = x.shape.strides();
    let run: usize = x.shape[batch + depth..].iter().product();
    let images: usize = x.shape[..batch].iter().product();
    let rows = indices.data.len() / depth.max(1);
    let mut data = Vec::new();
    for (row, index) in indices.integers().chunks(depth.max(1)).enumerate() {
        let mut start = row / (rows / images.max(1)).max(1) * (x.data.len() / images.max(1));
        for (position, &at) in index.iter().enumerate() {
            let dim = x.shape[batch + position];
            start += axis(at, dim).map_err(|message| format!("index outside: {message}"))? * strides[batch + position];
        }
        data.extend_from_slice(&x.data[start..start + run]);
    }
    let shape: Vec<usize> = indices.shape[..indices.shape.len() - 1]
        .iter()
        .chain(&x.shape[batch + depth..])
        .copied()
        .collect();
    if checked_elements(&shape)? != data.len() {
        return Err(format!("indices [{}] are empty", indices.shape));
    }
    Ok(x.like(shape, data))
}

fn pad(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    if call.text("mode", "constant") != "constant" {
        return Err(format!("padding of mode `{}`", call.text("mode", "constant")));
    }
    let pads = call.integers(1, "pads").ok_or("no pads are given")?;
    let value = match call.optional(2) {
        Some(value) => value.data.first().copied().unwrap_or_default(),
        None => call.float("value", 0.0),
    };
    let named = match call.optional(3) {
        Some(list) => axes(&list.integers(), rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * named.len() {
        return Err(format!("{} pads for {} axes", pads.len(), named.len()));
    }
    let mut around = vec![[0, 0]; rank];
    for (index, &axis) in named.iter().enumerate() {
        around[axis] = [pads[index], pads[named.len() + index]];
    }
    let grown = (0..rank).map(|axis| {
        (x.shape[axis] as i64)
            .checked_add(around[axis][0])?
            .checked_add(around[axis][1])
    });
    let shape = dims(&grown.collect::<Option<Vec<i64>>>().ok_or("pads are too large")?)?;
    let count = checked_elements(&shape)?;
    let (own, strides) = (x.shape.strides(), Shape::from(shape.clone()).strides());
    let source = |index: usize| {
        (0..rank).try_fold(0, |at, axis| {
            let place = ((index / strides[axis] % shape[axis]) as i64).saturating_sub(around[axis][0]);
            (0..x.shape[axis] as i64)
                .contains(&place)
                .then(|| at + place as usize * own[axis])
        })
    };
    Ok(x.like(
        shape.clone(),
        (0..count)
            .map(|index| source(index).map_or(value, |at| x.data[at]))
            .collect(),
    ))
}
