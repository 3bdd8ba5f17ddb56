//! Operators that write some elements or pick them one by one.

use super::{Answer, Call, axis};
use crate::Tensor;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match call.op.op_type.as_str() {
        "ScatterND" => scatter_nd(call),
        "ScatterElements" => scatter_elements(call),
        "GatherElements" => gather_elements(call),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

/// What becomes of an element that an update meets.
fn reduction(call: &Call) -> Result<fn(f64, f64) -> f64, String> {
    Ok(match call.text("reduction", "none") {
        "none" => |_, update| update,
        "add" => |old, update| old + update,
        "mul" => |old, update| old * update,
        "max" => f64::max,
        "min" => f64::min,
        other => return Err(format!("reduction `{other}`")),
    })
}

/// Runs of `data` at the places that the rows of `indices` name become the runs of `updates`, in their order.
fn scatter_nd(call: &Call) -> Result<Tensor, String> {
    let (data, indices, updates) = (call.operand(0)?, call.operand(1)?, call.operand(2)?);
    let reduce = reduction(call)?;
    let depth = indices.shape.last().copied().ok_or("indices are a scalar")?;
    if depth == 0 || depth > data.shape.len() {
        return Err(format!("indices [{}] into [{}]", indices.shape, data.shape));
    }
    let strides = data.shape.strides();
    let run: usize = data.shape[depth..].iter().product();
    let rows = indices.data.len() / depth;
    if updates.data.len() != rows * run {
        return Err(format!("updates [{}] for {rows} places of {run}", updates.shape));
    }
    let mut result = data.clone();
    for (row, index) in indices.integers().chunks(depth).enumerate() {
        let mut start = 0;
        for (place, &at) in index.iter().enumerate() {
            start +=
                axis(at, data.shape[place]).map_err(|message| format!("index outside: {message}"))? * strides[place];
        }
        for at in 0..run {
            let old = &mut result.data[start + at];
            *old = reduce(*old, updates.data[row * run + at]);
        }
    }
    Ok(result)
}

/// For every element of `indices` where it stands in `data`: at its own place, but for one axis.
fn places(call: &Call, data: &Tensor, indices: &Tensor) -> Result<Vec<usize>, String> {
    let rank = data.shape.len();
    let along = call.axis(0, rank)?;
    let fits = |other: usize| other == along || indices.shape[other] <= data.shape[other];
    if indices.shape.len() != rank || !(0..rank).all(fits) {
        return Err(format!("indices [{}] into [{}]", indices.shape, data.shape));
    }
    let (own, strides) = (indices.shape.strides(), data.shape.strides());
    let place = |(at, &index): (usize, &i64)| {
        let index = axis(index, data.shape[along]).map_err(|message| format!("index outside: {message}"))?;
        let step = |other: usize| match other == along {
            true => index * strides[other],
            false => at / own[other] % indices.shape[other] * strides[other],
        };
        Ok((0..rank).map(step).sum())
    };
    indices.integers().iter().enumerate().map(place).collect()
}

fn scatter_elements(call: &Call) -> Result<Tensor, String> {
    let (data, indices, updates) = (call.operand(0)?, call.operand(1)?, call.operand(2)?);
    let reduce = reduction(call)?;
    if updates.shape != indices.shape {
        return Err(format!("updates [{}] for indices [{}]", updates.shape, indices.shape));
    }
    let mut result = data.clone();
    for (place, update) in places(call, data, indices)?.into_iter().zip(&updates.data) {
        result.data[place] = reduce(result.data[place], *update);
    }
    Ok(result)
}

fn gather_elements(call: &Call) -> Result<Tensor, String> {
    let (data, indices) = (call.operand(0)?, call.operand(1)?);
    let found = places(call, data, indices)?;
    let data = data.like(
        indices.shape.clone(),
        found.into_iter().map(|place| data.data[place]).collect(),
    );
    Ok(data)
}
