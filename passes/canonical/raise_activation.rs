//! Recognise SiLU, GELU and quick GELU, and fold SiLU into the group norm before it.
//!
//! Before: `Mul(%x, Sigmoid(%x))`, `Div(%x, Add(Exp(Neg(%x)), 1))`.  After: `silu %x`.
//!
//! Before: `Mul(Mul(%x, Add(Erf(Div(%x, 1.414)), 1)), 0.5)`.  After: `gelu %x`.

use fisec_ir::{Activation, Attribute, Graph, GroupNorm, NodeId, Op, Operand, ValueId};

use super::order;
use super::pattern::{REACH, Rewriter, close, either_way, is, onnx, result, scalar, scaled, value_at, with_scalar};
use crate::{Changes, PassError};

const PASS: &str = "raise_activation";

/// Raises activations, then fuses those that alone read a group norm.
pub fn raise_activation(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Op::Onnx(op) = rewriter.graph.op(id) else { continue };
        let found = match (op.domain.as_str(), op.op_type.as_str()) {
            ("", "Mul") => sigmoid_product(rewriter.graph, id).or_else(|| erf_product(rewriter.graph, id)),
            ("", "Div") => exponential_quotient(rewriter.graph, id),
            ("", "Gelu" | "Swish") | ("com.microsoft", "Gelu" | "QuickGelu") => operator(rewriter.graph, id),
            _ => None,
        };
        let Some((activation, x, mut sources)) = found else {
            continue;
        };
        sources.push(id);
        rewriter.replace(result(id), Op::Activate(activation), vec![x.into()], &sources);
    }
    rewriter.graph.prune();
    for id in order(rewriter.graph, PASS)? {
        fuse_into_norm(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

type Found = (Activation, ValueId, Vec<NodeId>);

/// `x * sigmoid(x)` and `x * sigmoid(1.702 x)`.
fn sigmoid_product(graph: &Graph, id: NodeId) -> Option<Found> {
    either_way(graph, id).into_iter().find_map(|(x, gate)| {
        let (x, gate) = (x.value()?, gate.value()?);
        if !is(graph, gate, "Sigmoid") {
            return None;
        }
        let inner = value_at(graph, gate.node, 0)?;
        if inner == x {
            return Some((Activation::Silu, x, vec![gate.node]));
        }
        let (of, factor) = scaled(graph, inner)?;
        (of == x && close(factor, 1.702)).then(|| (Activation::QuickGelu, x, vec![inner.node, gate.node]))
    })
}

/// `x / (1 + exp(-x))`: SiLU of exporters without a sigmoid.
fn exponential_quotient(graph: &Graph, id: NodeId) -> Option<Found> {
    let (x, sum) = (value_at(graph, id, 0)?, value_at(graph, id, 1)?);
    let (exponential, one) = is(graph, sum, "Add").then(|| with_scalar(graph, sum.node))??;
    if !is(graph, exponential, "Exp") || one != 1.0 {
        return None;
    }
    let exponent = value_at(graph, exponential.node, 0)?;
    let negated = match is(graph, exponent, "Neg") {
        true => value_at(graph, exponent.node, 0)?,
        false => scaled(graph, exponent).filter(|&(_, factor)| factor == -1.0)?.0,
    };
    (negated == x).then(|| (Activation::Silu, x, vec![exponent.node, exponential.node, sum.node]))
}

/// Products of `x`, `1 + erf(x / sqrt(2))` and constants that multiply to one half, in any order.
fn erf_product(graph: &Graph, id: NodeId) -> Option<Found> {
    let (mut values, mut factor, mut sources) = (Vec::new(), 1.0, Vec::new());
    collect_product(graph, result(id), &mut values, &mut factor, &mut sources);
    let [a, b] = values[..] else { return None };
    if !close(factor, 0.5) {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let (erf, one) = is(graph, gate, "Add").then(|| with_scalar(graph, gate.node))??;
        if !is(graph, erf, "Erf") || !close(one, 1.0) {
            return None;
        }
        let (of, root) = scaled(graph, value_at(graph, erf.node, 0)?)?;
        if of != x || !close(root, std::f64::consts::FRAC_1_SQRT_2) {
            return None;
        }
        let mut sources = sources.clone();
        sources.extend([erf.node, gate.node]);
        Some((Activation::Gelu, x, sources))
    })
}

/// Flattens nested products, [`REACH`] at most, into their values and the product of their scalars.
fn collect_product(
    graph: &Graph,
    value: ValueId,
    values: &mut Vec<ValueId>,
    factor: &mut f64,
    nodes: &mut Vec<NodeId>,
) {
    if values.len() > 2 || nodes.len() >= REACH || !is(graph, value, "Mul") {
        values.push(value);
        return;
    }
    nodes.push(value.node);
    for &operand in graph.operands(value.node) {
        match (scalar(graph, operand), operand.value()) {
            (Some(scalar), _) => *factor *= scalar,
            (None, Some(inner)) => collect_product(graph, inner, values, factor, nodes),
            (None, None) => values.extend([value; 3]), // a constant per channel: no activation
        }
    }
}

fn operator(graph: &Graph, id: NodeId) -> Option<Found> {
    let op = onnx(graph, result(id))?;
    let x = value_at(graph, id, 0)?;
    let activation = match op.op_type.as_str() {
        "Gelu" if matches!(op.attributes.get("approximate"), Some(Attribute::String(kind)) if kind != "none") => {
            return None;
        }
        "Gelu" => Activation::Gelu,
        "Swish" => (op.float("alpha", 1.0) == 1.0).then_some(Activation::Silu)?,
        _ => match f64::from(op.float("alpha", 1.702)) {
            1.0 => Activation::Silu,
            alpha => close(alpha, 1.702).then_some(Activation::QuickGelu)?,
        },
    };
    Some((activation, x, vec![]))
}

fn fuse_into_norm(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let Op::Activate(Activation::Silu) = graph.op(id) else {
        return None;
    };
    let normed = value_at(graph, id, 0)?;
    let Op::GroupNorm(norm) = *graph.op(normed.node) else {
        return None;
    };
    if graph.sole_user(normed).is_none() || norm.activation != Activation::None {
        return None;
    }
    let norm = GroupNorm {
        activation: Activation::Silu,
        ..norm
    };
    let operands: Vec<Operand> = graph.operands(normed.node).to_vec();
    rewriter.replace(result(id), Op::GroupNorm(norm), operands, &[normed.node, id]);
    Some(())
}
