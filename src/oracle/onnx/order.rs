//! Operators that depend on the order of elements along an axis: running sums and the largest ones.

use fisec_tensor::DType;

use super::views::permuted;
use super::{Answer, Call};
use crate::Tensor;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    match call.op.op_type.as_str() {
        "CumSum" => Some(cumulative_sum(call).map(|y| vec![y])),
        "TopK" => Some(top(call)),
        _ => None,
    }
}

/// The axes with `last` behind the others, and the order that brings them back.
fn turned(rank: usize, last: usize) -> [Vec<usize>; 2] {
    let mut there: Vec<usize> = (0..rank).filter(|&axis| axis != last).collect();
    there.push(last);
    let place = |axis: usize| there.iter().position(|&other| other == axis).expect("all axes");
    let back = (0..rank).map(place).collect();
    [there, back]
}

fn cumulative_sum(call: &Call) -> Result<Tensor, String> {
    let (x, axis) = (call.operand(0)?, call.operand(1)?.integers());
    let axis = super::axis(*axis.first().ok_or("no axis")?, x.shape.len())?;
    let (exclusive, reverse) = (call.op.int("exclusive", 0) != 0, call.op.int("reverse", 0) != 0);
    let [there, back] = turned(x.shape.len(), axis);
    let mut rows = permuted(x, &there);
    for row in rows.data.chunks_mut(x.shape[axis].max(1)) {
        let mut sum = 0.0;
        let mut step = |value: &mut f64| {
            let before = sum;
            sum += *value;
            *value = if exclusive { before } else { sum };
        };
        match reverse {
            true => row.iter_mut().rev().for_each(&mut step),
            false => row.iter_mut().for_each(&mut step),
        }
    }
    Ok(permuted(&rows, &back))
}

/// The largest (or smallest) elements of each row, in order, and where they stand; equal ones in the order of their places.
fn top(call: &Call) -> Answer {
    let x = call.operand(0)?;
    let count = call.operand(1)?.integers();
    let axis = call.axis(-1, x.shape.len())?;
    let size = x.shape[axis];
    let count = count.first().and_then(|&count| usize::try_from(count).ok());
    let count = count.filter(|&count| count <= size).ok_or("more than there are")?;
    let largest = call.op.int("largest", 1) != 0;
    let [there, back] = turned(x.shape.len(), axis);
    let rows = permuted(x, &there);
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for row in rows.data.chunks(size.max(1)) {
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|&a, &b| match largest {
            true => row[b].total_cmp(&row[a]),
            false => row[a].total_cmp(&row[b]),
        });
        values.extend(order[..count].iter().map(|&place| row[place]));
        places.extend(order[..count].iter().map(|&place| place as f64));
    }
    let mut shape = rows.shape.to_vec();
    *shape.last_mut().expect("an axis") = count;
    let values = permuted(&rows.like(shape.clone(), values), &back);
    let places = permuted(&Tensor::typed(DType::I64, shape, places), &back);
    Ok(vec![values, places])
}
