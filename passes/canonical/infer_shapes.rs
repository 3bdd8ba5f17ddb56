//! Element types and shapes of ONNX values.
//!
//! Before: `%7 = onnx Reshape %6, [0,4,-1] : ?`.  After: `… : f32[2,4,8192]`.
//!
//! Shapes depend on constants and constants on shapes, so [`fold_constants`](super::fold_constants) infers as it goes;
//! this pass alone serves graphs whose shape arithmetic is folded already.

mod ask;
mod contrib;
mod standard;

use fisec_ir::{Graph, NodeId, OnnxOp, Op, Operand, ValueId, ValueType, WeightInfo};
use fisec_onnx::unknown_type;
use fisec_tensor::Shape;

use super::pattern::weight_ints;
use crate::{Changes, PassError};
pub use ask::{Answer, NoTypes, Refusal, Types};

const PASS: &str = "infer_shapes";

/// Infers the types of all ONNX nodes.
pub fn infer_shapes(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for id in super::order(graph, PASS)? {
        changes += infer_node(graph, id, &mut NoTypes)?;
    }
    Ok(changes)
}

/// Infers the types of one node; its operands' types are known. An operator that is not known here keeps the types that the
/// file declares; without them `types` is asked, and what it computes of constants alone is a weight.
pub(super) fn infer_node(graph: &mut Graph, id: NodeId, types: &mut dyn Types) -> Result<Changes, PassError> {
    let Op::Onnx(op) = graph.op(id) else {
        return Ok(Changes(0));
    };
    let inputs = Inputs {
        graph,
        operands: graph.operands(id),
    };
    let count = graph.node(id).outputs().len();
    match standard::output_types(op, &inputs, count) {
        Some(found) if found.len() >= count => set_types(graph, id, found[..count].to_vec()),
        Some(found) if found.is_empty() && is_declared(graph, id) => Ok(Changes(0)),
        None if op.is("Conv") => Err(refused(graph, id, unfit_weight())),
        _ => asked(graph, id, types),
    }
}

/// Whether the file declares the types of all outputs that something reads.
fn is_declared(graph: &Graph, id: NodeId) -> bool {
    let outputs = graph.node(id).outputs().iter().enumerate();
    let mut read = outputs.filter(|(output, _)| {
        let output = *output as u32;
        output == 0 || !graph.users(ValueId { node: id, output }).is_empty()
    });
    read.all(|(_, declared)| *declared != unknown_type())
}

/// Takes the types, and the values where they are constant, from the runtime that will run the operator.
fn asked(graph: &mut Graph, id: NodeId, types: &mut dyn Types) -> Result<Changes, PassError> {
    if matches!(graph.op(id), Op::Onnx(op) if op.op_type.contains("Sequence") || op.op_type.starts_with("Optional")) {
        return Err(refused(graph, id, no_tensor()));
    }
    let answers = ask::ask(graph, id, types).map_err(|refusal| refused(graph, id, refusal))?;
    let declared = graph.node(id).outputs().to_vec();
    let found = declared.into_iter().zip(&answers);
    let found = found.map(|(declared, answer)| answer.as_ref().map_or(declared, |answer| answer.value_type.clone()));
    let changes = set_types(graph, id, found.collect())?;
    let depends_on_chance = matches!(graph.op(id), Op::Onnx(op) if is_random(op));
    for (output, answer) in answers.into_iter().enumerate().filter(|_| !depends_on_chance) {
        let Some(value) = answer.and_then(|answer| answer.value) else {
            continue;
        };
        let name = format!("{}.folded", graph.origin(id).label());
        let weight = graph.add_weight(WeightInfo {
            name,
            data: value.into(),
        });
        let output = output as u32;
        graph.replace_uses(ValueId { node: id, output }, weight);
    }
    Ok(changes)
}

/// The refusal of values that are lists of tensors, or perhaps none.
fn no_tensor() -> Refusal {
    Refusal {
        reason: "sequences and optional values are not supported".into(),
        hint: Some("simplify the model, e.g. with onnxsim, or export it anew: newer exporters write tensors".into()),
    }
}

/// The refusal of a convolution whose operands do not meet; a runtime finds that out only when it computes it.
fn unfit_weight() -> Refusal {
    Refusal {
        reason: "its weight and its input do not fit".into(),
        hint: Some("check the sizes that are given, `--size` and `--bind`: they do not fit the model's weights".into()),
    }
}

/// Whether two runs of an operator differ.
fn is_random(op: &OnnxOp) -> bool {
    let names = ["Random", "Bernoulli", "Multinomial", "Dropout"];
    names.iter().any(|name| op.op_type.contains(name))
}

fn set_types(graph: &mut Graph, id: NodeId, types: Vec<ValueType>) -> Result<Changes, PassError> {
    let is_countable = |value: &ValueType| value.shape.checked_elements().and_then(|n| n.checked_mul(8)).is_some();
    if !types.iter().all(is_countable) {
        let refusal = Refusal {
            reason: "it has too many elements".into(),
            hint: None,
        };
        return Err(refused(graph, id, refusal));
    }
    if graph.node(id).outputs() == types {
        return Ok(Changes(0));
    }
    graph.set_outputs(id, types);
    Ok(Changes(1))
}

fn refused(graph: &Graph, id: NodeId, refusal: Refusal) -> PassError {
    let Op::Onnx(op) = graph.op(id) else {
        unreachable!("only ONNX operators are inferred")
    };
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
    let name = match op.domain.as_str() {
        "" => format!("`{}`", op.op_type),
        domain => format!("`{}` of domain `{domain}`", op.op_type),
    };
    let mut message = format!("cannot infer the shape of {name} of {}", operands.join(", "));
    if !refusal.reason.is_empty() {
        message = format!("{message}: {}", refusal.reason);
    }
    PassError {
        pass: PASS,
        node: graph.origin(id).label().to_owned(),
        message,
        hint: Some(refusal.hint.unwrap_or_else(|| hint.into())),
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
