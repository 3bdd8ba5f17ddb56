//! Attention operators of ONNX Runtime, whose projections may be packed into one matrix.

use fisec_ir::{Graph, NodeId, OnnxOp, Op, Operand, ValueId, ValueType};
use fisec_tensor::{Shape, Transform};

use super::super::pattern::{Rewriter, constant, made_by, result, standard, value_at};
use super::super::view::reordering;
use super::{add, given};

/// Where the channels of one projection stand in a packed weight.
#[derive(Clone, Copy)]
enum Packing {
    /// `[part | part | …]`, each `width` channels
    Blocks { start: usize, width: usize },
    /// `[heads, parts, size]`, one part of every head after another
    PerHead {
        heads: usize,
        parts: usize,
        part: usize,
        size: usize,
    },
}

/// `MultiHeadAttention`: `q, k, v` apart, `q` and packed `kv [N,S,H,2,D]`, or packed `qkv [N,L,H,3,D]`.
pub(super) fn multi_head(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let graph = &*rewriter.graph;
    let heads = usize::try_from(op.int("num_heads", 0))
        .ok()
        .filter(|&heads| heads > 0)?;
    let masked = (4..8).any(|position| given(graph, id, position).is_some());
    if masked || op.int("unidirectional", 0) != 0 || only_first_output(graph, id).is_none() {
        return None;
    }
    let first = value_at(graph, id, 0)?;
    let bias = given(graph, id, 3);
    let sequences = match graph.value_type(first).shape.len() {
        5 => unpack(rewriter, first, 3, id)?,
        3 => {
            let second = value_at(graph, id, 1)?;
            let others = match (graph.value_type(second).shape.len(), value_at(graph, id, 2)) {
                (5, None) => unpack(rewriter, second, 2, id)?,
                (3, Some(third)) if graph.value_type(third).shape.len() == 3 => vec![second, third],
                _ => return None,
            };
            [vec![first], others].concat()
        }
        _ => return None,
    };
    let sequences = biased(rewriter, sequences, bias, id)?;
    attend(rewriter, id, op, heads, &sequences)
}

/// `Attention`: `x [N,L,C], w [C,3·H·D], b`.
pub(super) fn packed(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let graph = &*rewriter.graph;
    let heads = usize::try_from(op.int("num_heads", 0))
        .ok()
        .filter(|&heads| heads > 0)?;
    let masked = (3..7).any(|position| given(graph, id, position).is_some());
    if masked || op.int("unidirectional", 0) != 0 || only_first_output(graph, id).is_none() {
        return None;
    }
    let (x, weight) = (value_at(graph, id, 0)?, given(graph, id, 1)?);
    let columns = *constant(graph, weight)?.shape().get(1)?;
    let widths: Vec<usize> = match op.ints("qkv_hidden_sizes") {
        Some(sizes) => sizes
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect::<Option<_>>()?,
        None => vec![columns / 3; 3],
    };
    if widths.len() != 3 || widths.iter().sum::<usize>() != columns || widths[0] != widths[2] {
        return None;
    }
    let bias = given(graph, id, 2);
    let mut sequences = Vec::new();
    let mut start = 0;
    for width in widths {
        sequences.push(project(rewriter, x, weight, Packing::Blocks { start, width }, id)?);
        start += width;
    }
    let sequences = biased(rewriter, sequences, bias, id)?;
    attend(rewriter, id, op, heads, &sequences)
}

fn only_first_output(graph: &Graph, id: NodeId) -> Option<()> {
    (1..graph.node(id).outputs().len() as u32)
        .all(|output| !graph.is_used(ValueId { node: id, output }))
        .then_some(())
}

/// The projections that a packed `[N, L, H, parts, D]` value holds, computed one by one.
fn unpack(rewriter: &mut Rewriter, packed: ValueId, parts: usize, id: NodeId) -> Option<Vec<ValueId>> {
    let graph = &*rewriter.graph;
    let [_, _, heads, count, size] = graph.value_type(packed).shape[..] else {
        return None;
    };
    if count != parts {
        return None;
    }
    let mut source = packed;
    while let Some((before, _)) = reordering(graph, source) {
        source = before;
    }
    let product = made_by(graph, source.into(), "MatMul")?;
    let (x, weight) = (value_at(graph, product, 0)?, graph.operands(product)[1]);
    let straight = graph.value_type(source).shape[..] == *with_last(&graph.value_type(x).shape, heads * parts * size);
    if !straight || constant(graph, weight)?.shape()[..] != [*graph.value_type(x).shape.last()?, heads * parts * size] {
        return None;
    }
    let packing = |part| Packing::PerHead {
        heads,
        parts,
        part,
        size,
    };
    (0..parts)
        .map(|part| project(rewriter, x, weight, packing(part), id))
        .collect()
}

fn with_last(shape: &Shape, size: usize) -> Shape {
    let mut dims = shape.to_vec();
    if let Some(last) = dims.last_mut() {
        *last = size;
    }
    dims.into()
}

/// `x` times the columns of `weight` that `packing` names.
fn project(rewriter: &mut Rewriter, x: ValueId, weight: Operand, packing: Packing, id: NodeId) -> Option<ValueId> {
    let [rows, _] = constant(rewriter.graph, weight)?.shape()[..] else {
        return None;
    };
    let slice = |axis: usize, start: usize, length: usize| Transform::Slice { axis, start, length };
    let (transforms, width) = match packing {
        Packing::Blocks { start, width } => (vec![slice(1, start, width)], width),
        Packing::PerHead {
            heads,
            parts,
            part,
            size,
        } => {
            let width = heads * size;
            let split = Transform::Reshape(vec![rows, heads, parts, size].into());
            let joined = Transform::Reshape(vec![rows, width].into());
            (vec![split, slice(2, part, 1), joined], width)
        }
    };
    let weight = rewriter.derived(weight, &transforms);
    let ty = rewriter.graph.value_type(x).clone();
    let ty = ValueType::full(ty.dtype, with_last(&ty.shape, width));
    Some(rewriter.add(standard("MatMul", &[]), vec![x.into(), weight], ty, &[id]))
}

/// Adds the parts of a bias `[q | k | v]` to the projections.
fn biased(rewriter: &mut Rewriter, sequences: Vec<ValueId>, bias: Option<Operand>, id: NodeId) -> Option<Vec<ValueId>> {
    let Some(bias) = bias else { return Some(sequences) };
    let total = constant(rewriter.graph, bias)?.shape().elements();
    let mut start = 0;
    let mut result = Vec::new();
    for sequence in sequences {
        let ty = rewriter.graph.value_type(sequence).clone();
        let length = *ty.shape.last()?;
        if start + length > total {
            return None;
        }
        let slice = Transform::Slice { axis: 0, start, length };
        let part = rewriter.derived(bias, &[Transform::Reshape(vec![total].into()), slice]);
        result.push(add(rewriter, sequence.into(), part, ty, id));
        start += length;
    }
    Some(result)
}

fn attend(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp, heads: usize, sequences: &[ValueId]) -> Option<()> {
    let widths: Vec<usize> = sequences
        .iter()
        .map(|&sequence| rewriter.graph.value_type(sequence).shape.last().copied())
        .collect::<Option<_>>()?;
    let &[q, k, v] = &widths[..] else { return None };
    if q != k || k != v || q % heads != 0 {
        return None;
    }
    let scale = match op.float("scale", 0.0) {
        0.0 => ((q / heads) as f64).powf(-0.5),
        scale => f64::from(scale),
    };
    let op = Op::Attention {
        heads,
        scale,
        control: None,
    };
    let operands = sequences.iter().map(|&sequence| sequence.into()).collect();
    rewriter.replace(result(id), op, operands, &[id]);
    Some(())
}
