//! The semantic operators.

use super::{Reading, broadcast, same_but, shape_of};
use crate::{Conv, ConvOperand, Graph, Linear, LinearOperand, NodeId, Op, ValueType};

/// For every operand, for every axis of the result.
pub(super) fn readings(graph: &Graph, id: NodeId, op: &Op, result: &ValueType) -> Vec<Vec<Reading>> {
    use Reading::{Joined, Near, Placed, Same, Split, Whole};
    let rank = result.shape.len();
    let operands = graph.operands(id);
    let all = || same_but(rank, &[], Same);
    let whole = || vec![Whole; rank];
    let images = || same_but(rank, &(1..rank).collect::<Vec<_>>(), |_| Whole);
    match op {
        Op::Input(_) | Op::CacheRead(_) => Vec::new(),
        Op::CacheWrite(_) | Op::Output(_) => vec![whole()],
        Op::Onnx(_) => unreachable!("an opaque operator"),
        Op::Conv(conv) => conv_readings(conv, operands.len()),
        Op::GroupNorm(_) => vec![same_but(rank, &[1, 2, 3], Placed), whole(), whole()],
        Op::GroupNormStats { .. } => vec![images()],
        Op::GroupNormStatsUpdate { .. } => vec![images(); 3],
        Op::NormCoefficients { .. } => vec![images(), whole(), whole()],
        Op::Affine { .. } => vec![all(), vec![Same(0), Same(2), Whole, Whole]],
        Op::Upsample { .. } => vec![same_but(rank, &[2, 3], Near)],
        Op::Tokens => vec![vec![Same(0), Joined(2, 3), Same(1)]],
        Op::Spatial { .. } => vec![vec![Same(0), Same(2), Split(1, false), Split(1, true)]],
        Op::LayerNorm { .. } => vec![same_but(rank, &[rank - 1], Placed), whole(), whole()],
        Op::Linear(linear) => linear_readings(linear, operands.len(), rank),
        Op::Attention { .. } => {
            let mut readings = vec![whole(); operands.len()];
            readings[0] = vec![Same(0), Same(1), Whole];
            readings[1..3].fill(images());
            readings
        }
        Op::CausalAttention { .. } => vec![vec![Same(0), Same(1), Whole], images(), images()],
        Op::AttentionMaps { .. } => vec![vec![Whole, Same(1), Whole], vec![Whole, Whole, Placed(1)]],
        Op::Geglu => vec![same_but(rank, &[rank - 1], |_| Whole)],
        Op::Activate(_) | Op::Gather => vec![all()],
        Op::Add => {
            let shapes = operands.iter().filter_map(|&operand| shape_of(graph, operand));
            shapes.map(|shape| broadcast(&shape, &result.shape)).collect()
        }
        Op::AddVector => vec![all(), vec![Same(0), Same(1), Whole, Whole]],
        // one image for all of them
        Op::Repeat { .. } => vec![same_but(rank, &[0], |_| Whole)],
        Op::Concat(concat) => vec![same_but(rank, &[concat.axis], |_| Whole); operands.len()],
        Op::TimestepEmbedding(_) => {
            let times = operands.first().and_then(|&times| shape_of(graph, times));
            let each = times.is_some_and(|times| times.first() == result.shape.first());
            vec![vec![if each { Same(0) } else { Whole }, Whole]]
        }
        Op::Scatter(_) => vec![all(), all()],
    }
}

fn conv_readings(conv: &Conv, count: usize) -> Vec<Vec<Reading>> {
    use Reading::{Same, Whole};
    let window = |axis: usize| window(conv, axis);
    let mut readings = vec![vec![Whole; 4]; count];
    let mut set = |operand: ConvOperand, reading: [Reading; 4]| {
        if let Some(axes) = conv.operand_index(operand).and_then(|at| readings.get_mut(at)) {
            *axes = reading.to_vec();
        }
    };
    let map = [Same(0), Whole, window(2), window(3)];
    set(ConvOperand::Input, map);
    set(ConvOperand::SecondInput, map);
    set(ConvOperand::Coefficients, [Same(0), Whole, Whole, Whole]);
    set(ConvOperand::Vector, [Same(0), Same(1), Whole, Whole]);
    set(ConvOperand::Residual, [Same(0), Same(1), Same(2), Same(3)]);
    readings
}

/// Along rows or columns: the pixel itself, or a window that holds the pixel at the place of the result's.
fn window(conv: &Conv, axis: usize) -> Reading {
    let padding = &conv.padding;
    let (at, before, behind) = match axis {
        2 => (0, padding.top, padding.bottom),
        _ => (1, padding.left, padding.right),
    };
    let (kernel, stride) = (conv.kernel[at], conv.stride[at]);
    match (kernel, stride, before, behind) {
        (1, 1, 0, 0) if conv.upsample.is_none() => Reading::Same(axis),
        _ if before < kernel => Reading::Near(axis),
        _ => Reading::Whole,
    }
}

fn linear_readings(linear: &Linear, count: usize, rank: usize) -> Vec<Vec<Reading>> {
    let mut readings = vec![vec![Reading::Whole; rank]; count];
    readings[0] = same_but(rank, &[rank - 1], |_| Reading::Whole);
    if let Some(axes) = linear
        .operand_index(LinearOperand::Residual)
        .and_then(|at| readings.get_mut(at))
    {
        *axes = same_but(rank, &[], Reading::Same);
    }
    readings
}
