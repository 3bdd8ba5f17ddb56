//! Element types and shapes of ONNX values.
//!
//! Before: `%7 = onnx Reshape %6, [0,4,-1] : ?`.  After: `… : f32[2,4,8192]`.
//!
//! Shapes depend on constants and constants on shapes, so [`fold_constants`](super::fold_constants) infers as it goes;
//! this pass alone serves graphs whose shape arithmetic is folded already.

mod contrib;
mod standard;

use fisec_ir::{Graph, NodeId, OnnxOp, Op, Operand, ValueType};
use fisec_onnx::unknown_type;
use fisec_tensor::Shape;

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
    let types = match standard::output_types(op, &inputs, count) {
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
    let target = graph
        .operands(id)
        .get(1)
        .and_then(|&operand| weight_ints(graph, operand));
    let hint = match target.filter(|_| op.is("Reshape")) {
        Some(_) => {
            "the model's own sizes do not add up at this one: give a width and height that are multiples of 64 pixels, or \
             export it with TorchScript, which writes down fewer of them"
        }
        None => "shapes that depend on computed values are not supported; simplify the model, e.g. with onnxsim",
    };
    PassError {
        pass: PASS,
        node: graph.origin(id).label().to_owned(),
        message: format!("cannot infer the shape of `{}` of {}", op.op_type, operands.join(", ")),
        hint: Some(hint.into()),
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

/// First and last axis (exclusive) that a `Shape` reports.
pub(super) fn shape_range(op: &OnnxOp, rank: usize) -> (usize, usize) {
    let clip = |axis: i64| (if axis < 0 { axis + rank as i64 } else { axis }).clamp(0, rank as i64) as usize;
    (clip(op.int("start", 0)), clip(op.int("end", rank as i64)))
}
