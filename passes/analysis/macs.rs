//! Multiply-accumulates of a node.
//!
//! Counted are convolutions, matrix products and both products of attention; norms, activations and sums are not.

use fisec_ir::{Conv, ConvOperand, Extent, Graph, Linear, LinearOperand, NodeId, Op, RING};
use fisec_tensor::Mask;

use super::{input_size, multiplied_taps};

/// Multiply-accumulates when every pixel and token is computed.
pub fn dense_macs(graph: &Graph, id: NodeId) -> u64 {
    let rows = |id: NodeId| graph.node(id).outputs()[0].shape.elements() as u64;
    match graph.op(id) {
        Op::Conv(conv) => rows(id) * conv_depth(graph, id, conv),
        Op::Linear(linear) => {
            let columns = if linear.geglu { 2 } else { 1 };
            rows(id) * columns * linear_depth(graph, id, linear)
        }
        Op::Attention { .. } | Op::CausalAttention { .. } => {
            let keys = operand_shape(graph, id, 1).map_or(0, |shape| shape[1] as u64);
            2 * rows(id) * keys
        }
        Op::Onnx(op) if op.is("MatMul") => {
            let depth = operand_shape(graph, id, 0).and_then(|shape| shape.last().copied());
            rows(id) * depth.unwrap_or(0) as u64
        }
        Op::Onnx(op) if op.is("Gemm") => {
            let depth = operand_shape(graph, id, 0).map(|shape| shape[usize::from(op.int("transA", 0) == 0)]);
            rows(id) * depth.unwrap_or(0) as u64
        }
        Op::Onnx(op) if op.is("Conv") => {
            let depth = operand_shape(graph, id, 1).map(|shape| shape[1..].iter().product::<usize>());
            rows(id) * depth.unwrap_or(0) as u64
        }
        _ => 0,
    }
}

/// Multiply-accumulates when only the pixels and tokens of `active` (one mask per level) are computed, by pixel list, and
/// doubled maps by parity.
pub fn sparse_macs(graph: &Graph, id: NodeId, active: &[Mask]) -> u64 {
    let dense = dense_macs(graph, id);
    let share = |extent: Extent| match extent {
        Extent::Full => 1.0,
        Extent::Active(level) => active[level.0 as usize].share(),
        Extent::Around(level) => active[level.0 as usize].dilated(RING).share(),
    };
    let Some(computed) = graph.node(id).outputs().first().map(|output| output.extent) else {
        return dense;
    };
    if computed == Extent::Full {
        return dense;
    }
    let keys = match graph.op(id) {
        Op::Attention { .. } => graph
            .operand_type(graph.operands(id)[1])
            .map_or(1.0, |keys| share(keys.extent)),
        _ => 1.0,
    };
    (dense as f64 * taps_share(graph, id) * share(computed) * keys).round() as u64
}

/// Taps that are multiplied, of those that a convolution has.
fn taps_share(graph: &Graph, id: NodeId) -> f64 {
    match (graph.op(id), input_size(graph, id)) {
        (Op::Conv(conv), Some(input)) => {
            multiplied_taps(conv, input) as f64 / conv.kernel.iter().product::<usize>() as f64
        }
        _ => 1.0,
    }
}

fn operand_shape(graph: &Graph, id: NodeId, position: usize) -> Option<fisec_tensor::Shape> {
    graph
        .operand_type(*graph.operands(id).get(position)?)
        .map(|value| value.shape)
}

fn conv_depth(graph: &Graph, id: NodeId, conv: &Conv) -> u64 {
    let weight = conv
        .operand_index(ConvOperand::Weight)
        .and_then(|position| operand_shape(graph, id, position));
    weight.map_or(0, |shape| shape[1..].iter().product::<usize>() as u64)
}

fn linear_depth(graph: &Graph, id: NodeId, linear: &Linear) -> u64 {
    let weight = linear
        .operand_index(LinearOperand::Weight)
        .and_then(|position| operand_shape(graph, id, position));
    weight.map_or(0, |shape| shape[0] as u64)
}
