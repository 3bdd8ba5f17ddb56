//! Recognise gated GELU: the product of one half of the channels with the GELU of the other.
//!
//! Before: `Mul(Slice(%h, 0..C), gelu(Slice(%h, C..2C)))` or the same with `Split`.  After: `geglu %h`.

use fisec_ir::{Activation, Graph, NodeId, Op, Operand, ValueId};

use super::infer_shapes::{axis, slice_ranges};
use super::order;
use super::pattern::{Rewriter, either_way, onnx, result, value_at, weight_ints};
use crate::{Changes, PassError};

const PASS: &str = "raise_geglu";

/// Raises every gated GELU whose gate is the second half.
pub fn raise_geglu(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Op::Onnx(op) = rewriter.graph.op(id) else { continue };
        if op.is("Mul") {
            raise(&mut rewriter, id);
        }
    }
    Ok(rewriter.finish())
}

/// A contiguous range of one axis of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub of: ValueId,
    pub axis: usize,
    pub start: usize,
    pub length: usize,
}

/// Parts of a `Split` that are looked at one by one; exporters cut a value into two or three.
const MOST_PARTS: usize = 256;

/// The range that a `Slice` or an output of a `Split` of at most [`MOST_PARTS`] is.
pub(super) fn part(graph: &Graph, value: ValueId) -> Option<Part> {
    let op = onnx(graph, value).filter(|op| op.domain.is_empty())?;
    let of = value_at(graph, value.node, 0)?;
    let shape = &graph.value_type(of).shape;
    if op.is("Split") {
        let axis = axis(op.int("axis", 0), shape.len())?;
        let outputs = graph.node(value.node).outputs();
        if outputs.len() > MOST_PARTS {
            return None;
        }
        let before = &outputs[..value.output as usize];
        return Some(Part {
            of,
            axis,
            start: before.iter().map(|output| output.shape[axis]).sum(),
            length: graph.value_type(value).shape[axis],
        });
    }
    if !op.is("Slice") {
        return None;
    }
    let ints = |position: usize| weight_ints(graph, *graph.operands(value.node).get(position)?);
    let ranges = slice_ranges(op, shape, ints)?;
    let [range] = &ranges[..] else { return None };
    (range.step == 1).then_some(Part {
        of,
        axis: range.axis,
        start: range.start as usize,
        length: range.length,
    })
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let (h, sources) = either_way(graph, id)
        .into_iter()
        .find_map(|(a, g)| gated(graph, id, a, g))?;
    rewriter.replace(result(id), Op::Geglu, vec![h.into()], &sources);
    Some(())
}

fn gated(graph: &Graph, id: NodeId, a: Operand, g: Operand) -> Option<(ValueId, Vec<NodeId>)> {
    let (a, g) = (a.value()?, g.value()?);
    if *graph.op(g.node) != Op::Activate(Activation::Gelu) {
        return None;
    }
    let gate = value_at(graph, g.node, 0)?;
    let (first, second) = (part(graph, a)?, part(graph, gate)?);
    let shape = &graph.value_type(first.of).shape;
    let half = shape.last()? / 2;
    let halves = (first.start, first.length, second.start, second.length) == (0, half, half, half);
    let last = first.axis + 1 == shape.len() && second.axis == first.axis;
    let sources = vec![a.node, gate.node, g.node, id];
    (halves && last && first.of == second.of && shape.last()? % 2 == 0).then_some((first.of, sources))
}
