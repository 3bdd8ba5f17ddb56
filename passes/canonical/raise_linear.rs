//! Recognise linear layers: products with a constant matrix, in either bias order, as `Gemm`, merged, or reshaped.
//!
//! Before: `Add(b, MatMul(%x, w))`; `Reshape(Gemm(Reshape(%x, [-1,C]), w^T, b))`; `Split(MatMul(%x, [wq|wk|wv]))`.
//! After: `linear %x, w, b`; the same; three linears over slices of the weight.

use fisec_ir::{Graph, Linear, NodeId, Op, Operand, ValueId, ValueType};
use fisec_tensor::{Shape, Transform};

use super::order;
use super::pattern::{Rewriter, constant, either_way, onnx, result, value_at};
use super::raise_geglu::part;
use super::view::{REACH, Step, reordering};
use crate::{Changes, PassError};

const PASS: &str = "raise_linear";

/// Raises products with constant matrices; products of two computed values stay.
pub fn raise_linear(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        product(&mut rewriter, id);
    }
    for id in order(rewriter.graph, PASS)? {
        absorb_bias(&mut rewriter, id).or_else(|| absorb_map_bias(&mut rewriter, id));
    }
    rewriter.graph.prune();
    for id in order(rewriter.graph, PASS)? {
        read_before_reshape(&mut rewriter, id);
    }
    rewriter.graph.prune();
    for id in order(rewriter.graph, PASS)? {
        cut_merged(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn product(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let op = onnx(rewriter.graph, result(id))?.clone();
    match (op.domain.as_str(), op.op_type.as_str()) {
        ("", "MatMul") => {
            let weight = *rewriter.graph.operands(id).get(1)?;
            linear(rewriter, id, weight, Operand::Absent)
        }
        ("", "Gemm") => {
            let plain = op.float("alpha", 1.0) == 1.0 && op.int("transA", 0) == 0;
            let weight = *rewriter.graph.operands(id).get(1)?;
            constant(rewriter.graph, weight)?;
            let bias = rewriter.graph.operands(id).get(2).copied().unwrap_or(Operand::Absent);
            if !plain || (bias != Operand::Absent && op.float("beta", 1.0) != 1.0) || bias.value().is_some() {
                return None;
            }
            let weight = match op.int("transB", 0) {
                0 => weight,
                _ => rewriter.derived(weight, &[Transform::Permute(vec![1, 0])]),
            };
            linear(rewriter, id, weight, bias)
        }
        ("com.microsoft", "FusedMatMul") => {
            let plain = op.float("alpha", 1.0) == 1.0 && op.int("transA", 0) == 0;
            let weight = *rewriter.graph.operands(id).get(1)?;
            if !plain || constant(rewriter.graph, weight)?.shape().len() != 2 {
                return None;
            }
            let weight = match op.int("transB", 0) {
                0 => weight,
                _ => rewriter.derived(weight, &[Transform::Permute(vec![1, 0])]),
            };
            linear(rewriter, id, weight, Operand::Absent)
        }
        _ => None,
    }
}

fn linear(rewriter: &mut Rewriter, id: NodeId, weight: Operand, bias: Operand) -> Option<()> {
    let graph = &*rewriter.graph;
    let x = value_at(graph, id, 0)?;
    let dims = constant(graph, weight)?.shape().clone();
    let channels = *dims.get(1)?;
    if dims.len() != 2 || (bias != Operand::Absent && constant(graph, bias)?.shape().elements() != channels) {
        return None;
    }
    let dtype = graph.value_type(x).dtype;
    let mut operands = vec![x.into(), rewriter.derived(weight, &[Transform::Cast(dtype)])];
    if bias != Operand::Absent {
        operands.push(rewriter.vector(bias, dtype));
    }
    let op = Op::Linear(Linear::plain(bias != Operand::Absent));
    rewriter.replace(result(id), op, operands, &[id]);
    Some(())
}

/// `Add` of a linear and a constant per channel.
fn absorb_bias(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    if !onnx(graph, result(id))?.is("Add") {
        return None;
    }
    let (product, bias) = either_way(graph, id).into_iter().find_map(|(product, bias)| {
        let product = product.value()?;
        let plain = matches!(graph.op(product.node), Op::Linear(linear) if *linear == Linear::plain(linear.bias));
        let channels = *graph.value_type(product).shape.last()?;
        let shape = constant(graph, bias)?.shape();
        let fits = shape.elements() == channels && shape.last() == Some(&channels);
        (plain && fits && graph.sole_user(product).is_some()).then_some((product, bias))
    })?;
    if graph.value_type(product) != graph.value_type(result(id)) {
        return None;
    }
    let dtype = graph.value_type(product).dtype;
    let mut operands = graph.operands(product.node).to_vec();
    let bias = rewriter.vector(bias, dtype);
    match operands.get(2).copied() {
        Some(own) => operands[2] = rewriter.sum(own, bias)?,
        None => operands.push(bias),
    }
    let op = Op::Linear(Linear::plain(true));
    rewriter.replace(result(id), op, operands, &[product.node, id]);
    Some(())
}

/// `Add` of a linear as a map and a constant per channel.
fn absorb_map_bias(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    if !onnx(graph, result(id))?.is("Add") {
        return None;
    }
    let (map, product, bias) = either_way(graph, id).into_iter().find_map(|(map, bias)| {
        let map = map
            .value()
            .filter(|map| matches!(graph.op(map.node), Op::Spatial { .. }))?;
        let product = value_at(graph, map.node, 0)?;
        let plain = matches!(graph.op(product.node), Op::Linear(linear) if *linear == Linear::plain(linear.bias));
        let channels = graph.value_type(map).shape[1];
        let per_channel = matches!(constant(graph, bias)?.shape()[..], [c, 1, 1] | [1, c, 1, 1] if c == channels);
        let alone = graph.sole_user(map).is_some() && graph.sole_user(product).is_some();
        (plain && per_channel && alone).then_some((map, product, bias))
    })?;
    let ty = graph.value_type(product).clone();
    let mut operands = graph.operands(product.node).to_vec();
    let bias = rewriter.vector(bias, ty.dtype);
    match operands.get(2).copied() {
        Some(own) => operands[2] = rewriter.sum(own, bias)?,
        None => operands.push(bias),
    }
    let biased = rewriter.add(Op::Linear(Linear::plain(true)), operands, ty, &[product.node, id]);
    let spatial = rewriter.graph.op(map.node).clone();
    rewriter.replace(result(id), spatial, vec![biased.into()], &[map.node]);
    Some(())
}

/// A linear that reads a reshape of leading axes reads what was reshaped; the result is reshaped instead.
fn read_before_reshape(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let Op::Linear(linear) = *graph.op(id) else { return None };
    if linear.residual {
        return None;
    }
    let x = value_at(graph, id, 0)?;
    let channels = *graph.value_type(x).shape.last()?;
    let mut source = x;
    for _ in 0..REACH {
        let Some((before, steps)) = reordering(graph, source) else {
            break;
        };
        let keeps_channels = graph.value_type(before).shape.last() == Some(&channels);
        if !keeps_channels || !steps.iter().all(|step| matches!(step, Step::Reshape(_))) {
            break;
        }
        source = before;
    }
    if source == x || graph.value_type(source).shape.len() < 2 {
        return None;
    }
    let old = graph.value_type(result(id)).clone();
    let mut dims = graph.value_type(source).shape.to_vec();
    *dims.last_mut()? = *old.shape.last()?;
    let mut operands = graph.operands(id).to_vec();
    operands[0] = source.into();
    let origin = graph.origin(id).clone();
    let ty = ValueType::full(old.dtype, Shape::from(dims));
    let new = rewriter.graph.add_value(Op::Linear(linear), operands, ty, origin);
    let reshaped = rewriter.reshaped(new, &old.shape, &[id]);
    rewriter.forward(result(id), reshaped);
    Some(())
}

/// A range of the channels of a linear is a linear over that range of its weight.
fn cut_merged(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let outputs = rewriter.graph.node(id).outputs().len() as u32;
    for output in 0..outputs {
        cut(rewriter, ValueId { node: id, output });
    }
    Some(())
}

fn cut(rewriter: &mut Rewriter, value: ValueId) -> Option<()> {
    let graph = &*rewriter.graph;
    let part = part(graph, value)?;
    let Op::Linear(linear) = *graph.op(part.of.node) else {
        return None;
    };
    let last = graph.value_type(part.of).shape.len() - 1;
    if part.axis != last || linear != Linear::plain(linear.bias) || !graph.is_used(value) {
        return None;
    }
    let slice = |axis: usize| Transform::Slice {
        axis,
        start: part.start,
        length: part.length,
    };
    let operands = graph.operands(part.of.node).to_vec();
    let mut cut = vec![operands[0], rewriter.derived(operands[1], &[slice(1)])];
    if linear.bias {
        cut.push(rewriter.derived(operands[2], &[slice(0)]));
    }
    rewriter.replace(value, Op::Linear(linear), cut, &[part.of.node, value.node]);
    Some(())
}
