//! Remove operators that change nothing.
//!
//! Before: `Div(%x, 1.0)`, `Cast` to the type the value has, `Add(%x, zeros)`, `Slice(Concat(%a, %b))` that is `%b`.
//! After: the value itself.

use fisec_ir::{Graph, Operand, ValueId};
use fisec_tensor::{Constant, DType};

use super::infer_shapes::{axis, slice_ranges};
use super::order;
use super::pattern::{constant, either_way, is, onnx, scalar, value_at, weight_ints};
use super::raise_geglu::part;
use crate::{Changes, PassError};

const PASS: &str = "simplify";

/// Forwards the users of every operator that changes nothing to what it reads.
pub fn simplify(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in order(graph, PASS)? {
        for output in 0..graph.node(id).outputs().len() as u32 {
            let value = ValueId { node: id, output };
            let same = part_of_concat(graph, value).or_else(|| unchanged(graph, value).filter(|_| output == 0));
            let Some(same) = same else { continue };
            if graph.operand_type(same).as_ref() == Some(graph.value_type(value)) {
                graph.replace_uses(value, same);
                changes += Changes(1);
            }
        }
    }
    graph.prune();
    Ok(changes)
}

/// The operand that `value` equals, if its operator changes nothing.
fn unchanged(graph: &Graph, value: ValueId) -> Option<Operand> {
    let op = onnx(graph, value).filter(|op| op.domain.is_empty())?;
    let operands = graph.operands(value.node);
    let first = *operands.first()?;
    match op.op_type.as_str() {
        "Identity" | "Dropout" => Some(first),
        "Cast" | "CastLike" => before_round_trip(graph, value),
        "Div" | "Pow" => (scalar(graph, *operands.get(1)?)? == 1.0).then_some(first),
        "Mul" => neutral(graph, value, |constant| constant_is(constant, 1.0)),
        "Add" => neutral(graph, value, |constant| constant_is(constant, 0.0)).or_else(|| zero_term(graph, value)),
        "Sub" => constant_is(constant(graph, *operands.get(1)?)?, 0.0).then_some(first),
        "Reshape" | "Expand" | "Slice" | "Transpose" | "Unsqueeze" | "Squeeze" | "Pad" | "Tile" => {
            same_elements(graph, value).then_some(first)
        }
        "Concat" | "Split" if operands.len() == 1 && graph.node(value.node).outputs().len() == 1 => Some(first),
        _ => None,
    }
}

fn neutral(graph: &Graph, value: ValueId, is_neutral: impl Fn(&Constant) -> bool) -> Option<Operand> {
    let ty = graph.value_type(value);
    either_way(graph, value.node)
        .into_iter()
        .find(|(kept, other)| {
            graph.operand_type(*kept).as_ref() == Some(ty) && constant(graph, *other).is_some_and(&is_neutral)
        })
        .map(|(kept, _)| kept)
}

/// Whether every element has this value. Reads no further than the first that has not, and copies nothing large.
fn constant_is(constant: &Constant, wanted: f64) -> bool {
    if let Some(value) = constant.fill_value() {
        return value == wanted;
    }
    let elements = constant.shape().elements();
    if elements == 1 {
        return constant.materialize().to_f64_vec()[0] == wanted;
    }
    let Some(tensor) = constant.stored() else { return false };
    wanted == 0.0 && tensor.dtype().is_float() && elements > 1 && tensor.data().iter().all(|&byte| byte == 0)
}

/// `0 * x` as a term: what the eager attention of diffusers adds to its scores.
fn zero_term(graph: &Graph, value: ValueId) -> Option<Operand> {
    let is_zero = |operand: Operand| {
        operand.value().is_some_and(|term| {
            is(graph, term, "Mul")
                && either_way(graph, term.node)
                    .into_iter()
                    .any(|(_, factor)| constant(graph, factor).is_some_and(|factor| constant_is(factor, 0.0)))
        })
    };
    let ty = graph.value_type(value);
    either_way(graph, value.node)
        .into_iter()
        .find(|(kept, other)| is_zero(*other) && graph.operand_type(*kept).as_ref() == Some(ty))
        .map(|(kept, _)| kept)
}

/// A cast to the type that the value has, or back from a wider one.
fn before_round_trip(graph: &Graph, value: ValueId) -> Option<Operand> {
    let source = value_at(graph, value.node, 0)?;
    let (to, from) = (graph.value_type(value).dtype, graph.value_type(source).dtype);
    if to == from {
        return Some(source.into());
    }
    let widened = matches!(
        (to, from),
        (DType::F16 | DType::BF16, DType::F32 | DType::F64) | (DType::F32, DType::F64)
    );
    let before = value_at(graph, source.node, 0)?;
    (widened && is(graph, source, "Cast") && graph.value_type(before).dtype == to).then(|| before.into())
}

/// Whether the result has all elements of the first operand in their order and the same shape.
fn same_elements(graph: &Graph, value: ValueId) -> bool {
    let Some(source) = value_at(graph, value.node, 0) else {
        return false;
    };
    if graph.value_type(source) != graph.value_type(value) {
        return false;
    }
    match onnx(graph, value).map(|op| (op.op_type.as_str(), op)) {
        Some(("Transpose", op)) => op
            .ints("perm")
            .is_some_and(|perm| perm.iter().enumerate().all(|(at, &axis)| at as i64 == axis)),
        Some(("Slice", op)) => {
            let ints = |position: usize| weight_ints(graph, *graph.operands(value.node).get(position)?);
            slice_ranges(op, &graph.value_type(source).shape, ints)
                .is_some_and(|ranges| ranges.iter().all(|range| range.step == 1))
        }
        // as many before as are cut off behind would move everything
        Some(("Pad", op)) => {
            let pads = op.ints("pads").map(<[i64]>::to_vec);
            let operand = || weight_ints(graph, *graph.operands(value.node).get(1)?);
            pads.or_else(operand)
                .is_some_and(|pads| pads.iter().all(|&pad| pad == 0))
        }
        Some(_) => true,
        None => false,
    }
}

/// Operands of a `Concat` that are looked at one by one for every part that is cut out of it.
const MOST_JOINED: usize = 256;

/// The operand of a `Concat` of at most [`MOST_JOINED`] that a `Slice` or `Split` cuts out again.
fn part_of_concat(graph: &Graph, value: ValueId) -> Option<Operand> {
    let part = part(graph, value)?;
    if !is(graph, part.of, "Concat") || graph.operands(part.of.node).len() > MOST_JOINED {
        return None;
    }
    let joined = axis(
        onnx(graph, part.of)?.int("axis", 0),
        graph.value_type(part.of).shape.len(),
    )?;
    let mut start = 0;
    for &operand in graph.operands(part.of.node) {
        let length = graph.operand_type(operand)?.shape[joined];
        if (part.axis, part.start, part.length) == (joined, start, length) {
            return Some(operand);
        }
        start += length;
    }
    None
}
