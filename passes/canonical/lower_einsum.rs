//! Spell `Einsum` with the operators that the patterns are made of.
//!
//! Before: `Einsum(%q, %k) {equation="bhqd,bhkd->bhqk"}`.
//! After: `MatMul(%q, Transpose(%k, [0,1,3,2]))`; one operand alone: `Transpose`.
//!
//! What sums an axis of one operand, walks a diagonal or repeats an axis of length 1 stays as it is.

use fisec_ir::{Attribute, Equation, Graph, Label, NodeId, Operand, ValueId, ValueType};
use fisec_tensor::{Shape, Transform};

use super::order;
use super::pattern::{Rewriter, onnx, result, standard};
use crate::{Changes, PassError};

const PASS: &str = "lower_einsum";

/// Lowers every sum of products of two operands, and every reordering of one.
pub fn lower_einsum(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        lower(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

/// An operand with the labels of its axes.
type Labelled = (Operand, Vec<Label>);

fn lower(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id)).filter(|op| op.is("Einsum"))?;
    let Some(Attribute::String(text)) = op.attributes.get("equation") else {
        return None;
    };
    let operands = graph.operands(id).to_vec();
    let shapes = operands.iter().map(|&operand| Some(graph.operand_type(operand)?.shape));
    let shapes = shapes.collect::<Option<Vec<Shape>>>()?;
    let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
    let equation = Equation::parse(text, &ranks).ok()?;
    let sizes = equation.sizes(&shapes.iter().collect::<Vec<_>>()).ok()?;
    for (labels, shape) in equation.operands.iter().zip(&shapes) {
        let repeats = labels
            .iter()
            .zip(shape.iter())
            .any(|(label, size)| sizes[label] != *size);
        let has_diagonal = (1..labels.len()).any(|later| labels[..later].contains(&labels[later]));
        if repeats || has_diagonal {
            return None;
        }
    }
    match (&operands[..], &equation.operands[..]) {
        (&[x], [labels]) => reordered(rewriter, id, (x, labels.clone()), &equation.result),
        (&[a, b], [of_a, of_b]) => product(
            rewriter,
            id,
            [(a, of_a.clone()), (b, of_b.clone())],
            &equation.result,
            |label| sizes[&label],
        ),
        _ => None,
    }
}

fn reordered(rewriter: &mut Rewriter, id: NodeId, (x, labels): Labelled, wanted: &[Label]) -> Option<()> {
    let x = x.value().filter(|_| labels.len() == wanted.len())?;
    let new = rewriter.permuted(x, &places(&labels, wanted)?, &[id]);
    rewriter.forward(result(id), new);
    Some(())
}

/// Where each wanted label stands.
fn places(labels: &[Label], wanted: &[Label]) -> Option<Vec<usize>> {
    let place = |label: &Label| labels.iter().position(|known| known == label);
    wanted.iter().map(place).collect()
}

/// `[shared…, rows, depth]` times `[shared…, depth, columns]`; several rows, columns or depths are joined to one axis for
/// that. A constant on the left changes sides, so that it meets the product as a weight.
fn product(
    rewriter: &mut Rewriter,
    id: NodeId,
    [a, b]: [Labelled; 2],
    wanted: &[Label],
    size: impl Fn(Label) -> usize,
) -> Option<()> {
    let [a, b] = if a.0.weight().is_some() { [b, a] } else { [a, b] };
    a.0.value()?;
    let (of_a, of_b) = (&a.1, &b.1);
    let is_wanted = |label: &&Label| wanted.contains(label);
    let shared: Vec<Label> = wanted
        .iter()
        .filter(|label| of_a.contains(label) && of_b.contains(label))
        .copied()
        .collect();
    let rows: Vec<Label> = wanted.iter().filter(|label| !of_b.contains(label)).copied().collect();
    let columns: Vec<Label> = wanted.iter().filter(|label| !of_a.contains(label)).copied().collect();
    let depth: Vec<Label> = of_a.iter().filter(|label| !is_wanted(label)).copied().collect();
    let mut depth_of_b: Vec<Label> = of_b.iter().filter(|label| !is_wanted(label)).copied().collect();
    depth_of_b.sort_unstable();
    let mut sorted = depth.clone();
    sorted.sort_unstable();
    if sorted != depth_of_b {
        return None; // an axis of one operand alone is summed
    }
    let left = arranged(rewriter, id, &a, [&shared, &rows, &depth], &size)?;
    let right = arranged(rewriter, id, &b, [&shared, &depth, &columns], &size)?;
    let length = |labels: &[Label]| labels.iter().map(|&label| size(label)).product::<usize>();
    let mut dims: Vec<usize> = shared.iter().map(|&label| size(label)).collect();
    dims.extend([length(&rows), length(&columns)]);
    let old = rewriter.graph.value_type(result(id)).clone();
    let made = rewriter.add(
        standard("MatMul", &[]),
        vec![left, right],
        ValueType::full(old.dtype, dims),
        &[id],
    );
    let found: Vec<Label> = [&shared[..], &rows, &columns].concat();
    let apart: Shape = found.iter().map(|&label| size(label)).collect();
    let made: ValueId = rewriter.reshaped(made, &apart, &[id]);
    let order = places(&found, wanted)?;
    let new = match is_identity(&order) {
        true => made,
        false => rewriter.permuted(made, &order, &[id]),
    };
    rewriter.forward(result(id), new);
    Some(())
}

fn is_identity(order: &[usize]) -> bool {
    order.iter().enumerate().all(|(at, &axis)| at == axis)
}

/// The operand as a matrix per index of the shared axes.
fn arranged(
    rewriter: &mut Rewriter,
    id: NodeId,
    (x, labels): &Labelled,
    [shared, rows, columns]: [&[Label]; 3],
    size: &impl Fn(Label) -> usize,
) -> Option<Operand> {
    let order = places(labels, &[shared, rows, columns].concat())?;
    let length = |labels: &[Label]| labels.iter().map(|&label| size(label)).product::<usize>();
    let mut dims: Vec<usize> = shared.iter().map(|&label| size(label)).collect();
    dims.extend([length(rows), length(columns)]);
    let shape = Shape::from(dims);
    let Some(value) = x.value() else {
        return Some(rewriter.derived(*x, &[Transform::Permute(order), Transform::Reshape(shape)]));
    };
    let turned = match is_identity(&order) {
        true => value,
        false => rewriter.permuted(value, &order, &[id]),
    };
    Some(rewriter.reshaped(turned, &shape, &[id]).into())
}
