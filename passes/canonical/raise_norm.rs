//! Recognise group norm and layer norm, decomposed or as operators, with casts around them.
//!
//! Before: `Add(Mul(Reshape(InstanceNormalization(Reshape(%x, [N,G,-1]), 1, 0), shape), gamma[C,1,1]), beta[C,1,1])`.
//! After: `group_norm %x, gamma, beta, groups=G`.

use fisec_ir::{Activation, Graph, GroupNorm, NodeId, Op, Operand, ValueId};
use fisec_tensor::{Constant, HostTensor, Shape};

use super::order;
use super::pattern::{
    REACH, Rewriter, before_casts, close, constant, exact, is, made_by, onnx, result, scalar, value_at, weight_floats,
    weight_ints, with_constant,
};
use super::view::{Step, reordering};
use crate::{Changes, PassError};

const PASS: &str = "raise_norm";

/// Raises all group norms and layer norms over the last axis.
pub fn raise_norm(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Op::Onnx(op) = rewriter.graph.op(id) else { continue };
        match (op.domain.as_str(), op.op_type.as_str()) {
            ("", "Add") => {
                decomposed_group_norm(&mut rewriter, id).or_else(|| decomposed_layer_norm(&mut rewriter, id));
            }
            ("", "GroupNormalization") => {
                group_norm_operator(&mut rewriter, id);
            }
            ("", "LayerNormalization") => {
                layer_norm_operator(&mut rewriter, id);
            }
            _ => {}
        }
    }
    Ok(rewriter.finish())
}

/// A group norm found in a graph.
struct Found {
    norm: GroupNorm,
    /// the normalised map
    x: ValueId,
    gamma: Operand,
    beta: Operand,
    sources: Vec<NodeId>,
}

/// Scale and shift per channel: `Add(Mul(normalised, gamma), beta)`, both broadcast along axis 1.
struct ScaleShift {
    normalised: ValueId,
    gamma: Operand,
    beta: Operand,
    multiply: NodeId,
}

fn scale_shift(graph: &Graph, id: NodeId) -> Option<ScaleShift> {
    let (scaled, beta) = with_constant(graph, id)?;
    let multiply = before_casts(graph, scaled);
    if !is(graph, multiply, "Mul") {
        return None;
    }
    let (normalised, gamma) = with_constant(graph, multiply.node)?;
    Some(ScaleShift {
        normalised,
        gamma,
        beta,
        multiply: multiply.node,
    })
}

fn decomposed_group_norm(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let ScaleShift {
        normalised,
        gamma,
        beta,
        multiply,
    } = scale_shift(graph, id)?;
    let shape = graph.value_type(result(id)).shape.clone();
    let channels = *shape.get(1)?;
    for affine in [gamma, beta] {
        if !is_per_channel(constant(graph, affine)?, shape.len(), channels) {
            return None;
        }
    }
    let core = contiguous(graph, normalised, |value| is(graph, value, "InstanceNormalization"))?;
    let [batch, groups, _] = graph.value_type(core).shape[..] else {
        return None;
    };
    let operands = graph.operands(core.node);
    let neutral = |position: usize, wanted: f64| {
        let values = weight_floats(graph, *operands.get(position)?)?;
        values.iter().all(|&value| value == wanted).then_some(())
    };
    neutral(1, 1.0)?;
    neutral(2, 0.0)?;
    let is_map = |shape: &Shape| shape.len() >= 3 && shape[..2] == [batch, channels];
    let x = contiguous(graph, value_at(graph, core.node, 0)?, |value| {
        let shape = &graph.value_type(value).shape;
        shape.len() == 4 && is_map(shape)
    })
    .or_else(|| {
        contiguous(graph, value_at(graph, core.node, 0)?, |value| {
            is_map(&graph.value_type(value).shape)
        })
    })?;
    let norm = GroupNorm {
        groups,
        epsilon: exact(onnx(graph, core)?.float("epsilon", 1e-5)),
        activation: Activation::None,
    };
    let found = Found {
        norm,
        x,
        gamma,
        beta,
        sources: vec![core.node, multiply, id],
    };
    replace_group_norm(rewriter, result(id), found);
    Some(())
}

/// Whether a constant broadcasts along axis 1 of a value of `rank` with that many channels.
fn is_per_channel(constant: &Constant, rank: usize, channels: usize) -> bool {
    let shape = constant.shape();
    constant.shape().elements() == channels
        && (shape.len() <= rank)
        && (0..shape.len()).all(|axis| shape[axis] == 1 || axis + rank - shape.len() == 1)
}

/// The nearest value, going back through [`REACH`] reshapes and runs of casts at most, that satisfies `wanted`.
fn contiguous(graph: &Graph, mut value: ValueId, wanted: impl Fn(ValueId) -> bool) -> Option<ValueId> {
    for _ in 0..REACH {
        if wanted(value) {
            return Some(value);
        }
        let before = before_casts(graph, value);
        if before != value {
            value = before;
            continue;
        }
        let (source, steps) = reordering(graph, value)?;
        if !steps.iter().all(|step| matches!(step, Step::Reshape(_))) {
            return None;
        }
        value = source;
    }
    None
}

/// Puts the semantic group norm in the place of `old`, which may have another rank and element type.
fn replace_group_norm(rewriter: &mut Rewriter, old: ValueId, found: Found) {
    let Found {
        norm,
        x,
        gamma,
        beta,
        sources,
    } = found;
    let ty = rewriter.graph.value_type(x).clone();
    let map: Shape = match ty.shape[..] {
        [batch, channels, height, width] => vec![batch, channels, height, width].into(),
        [batch, channels, ..] => vec![batch, channels, ty.shape[2..].iter().product(), 1].into(),
        _ => unreachable!("checked by the matcher"),
    };
    let x = rewriter.reshaped(x, &map, &sources);
    let affine = [gamma, beta].map(|operand| rewriter.vector(operand, ty.dtype));
    let map_type = rewriter.graph.value_type(x).clone();
    let normed = rewriter.add(
        Op::GroupNorm(norm),
        vec![x.into(), affine[0], affine[1]],
        map_type,
        &sources,
    );
    let wanted = rewriter.graph.value_type(old).clone();
    let shaped = rewriter.reshaped(normed, &wanted.shape, &sources);
    let new = rewriter.cast(shaped, wanted.dtype, &sources);
    rewriter.forward(old, new);
}

/// `GroupNormalization`, whose scale is per channel since operator set 21 and per group before.
fn group_norm_operator(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id))?;
    let x = value_at(graph, id, 0)?;
    let groups = usize::try_from(op.int("num_groups", 1)).ok()?;
    let norm = GroupNorm {
        groups,
        epsilon: exact(op.float("epsilon", 1e-5)),
        activation: Activation::None,
    };
    let shape = graph.value_type(x).shape.clone();
    if shape.len() < 3 || groups == 0 || !shape[1].is_multiple_of(groups) {
        return None;
    }
    let affine = [1, 2].map(|position| graph.operands(id).get(position).copied());
    let mut per_channel = Vec::new();
    for operand in affine {
        let given = constant(graph, operand?)?;
        per_channel.push(match given.shape().elements() {
            elements if elements == shape[1] => None,
            elements if elements == groups => Some(repeated(given, shape[1] / groups)?),
            _ => return None,
        });
    }
    let operands: Vec<Operand> = [1, 2]
        .into_iter()
        .zip(per_channel)
        .map(|(position, values)| {
            let operand = rewriter.graph.operands(id)[position];
            match (values, operand.weight()) {
                (Some(data), Some(weight)) => {
                    let name = rewriter.graph.weight(weight).name.clone();
                    rewriter.graph.add_weight(fisec_ir::WeightInfo { name, data }).into()
                }
                _ => operand,
            }
        })
        .collect();
    let found = Found {
        norm,
        x,
        gamma: operands[0],
        beta: operands[1],
        sources: vec![id],
    };
    replace_group_norm(rewriter, result(id), found);
    Some(())
}

/// Channels that a vector is made for.
const MOST_CHANNELS: usize = 1 << 20;

/// Each value `times` over; `None` for more channels than networks have.
fn repeated(constant: &Constant, times: usize) -> Option<Constant> {
    constant
        .shape()
        .elements()
        .checked_mul(times)
        .filter(|&count| count <= MOST_CHANNELS)?;
    let values = constant.materialize().to_f64_vec();
    let repeated: Vec<f64> = values
        .iter()
        .flat_map(|&value| std::iter::repeat_n(value, times))
        .collect();
    let tensor = HostTensor::from_f64(constant.dtype(), vec![repeated.len()], &repeated);
    Some(tensor.expect("one value per channel").into())
}

fn layer_norm_operator(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id))?;
    let x = value_at(graph, id, 0)?;
    let ty = graph.value_type(x).clone();
    let axis = op.int("axis", -1);
    let statistics_used =
        (1..graph.node(id).outputs().len() as u32).any(|output| graph.is_used(ValueId { node: id, output }));
    if !(axis == -1 || axis == ty.shape.len() as i64 - 1) || statistics_used {
        return None;
    }
    let (gamma, beta) = (*graph.operands(id).get(1)?, graph.operands(id).get(2).copied());
    constant(graph, gamma)?;
    let epsilon = exact(op.float("epsilon", 1e-5));
    let beta = beta.unwrap_or(Operand::Absent);
    let channels = *ty.shape.last()?;
    let gamma = rewriter.vector(gamma, ty.dtype);
    let beta = match beta {
        Operand::Weight(_) => rewriter.vector(beta, ty.dtype),
        Operand::Absent => zeros(rewriter, channels, ty.dtype),
        Operand::Value(_) => return None,
    };
    rewriter.replace(
        result(id),
        Op::LayerNorm { epsilon },
        vec![x.into(), gamma, beta],
        &[id],
    );
    Some(())
}

fn zeros(rewriter: &mut Rewriter, channels: usize, dtype: fisec_tensor::DType) -> Operand {
    let data = Constant::filled(dtype, vec![channels], 0.0);
    let name = format!("zeros[{channels}]");
    rewriter.graph.add_weight(fisec_ir::WeightInfo { name, data }).into()
}

/// `d = x - mean(x); d / sqrt(mean(d^2) + eps) * gamma + beta`.
fn decomposed_layer_norm(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let ScaleShift {
        normalised,
        gamma,
        beta,
        multiply,
    } = scale_shift(graph, id)?;
    let divide = before_casts(graph, normalised);
    if !is(graph, divide, "Div") {
        return None;
    }
    let centred = before_casts(graph, value_at(graph, divide.node, 0)?);
    let (mean, x) = centring(graph, centred)?;
    let root = before_casts(graph, value_at(graph, divide.node, 1)?);
    let root = made_by(graph, root.into(), "Sqrt")?;
    let sum = made_by(graph, graph.operands(root)[0], "Add")?;
    let (variance, epsilon) = super::pattern::with_scalar(graph, sum)?;
    let epsilon = exact(epsilon as f32);
    let squared = mean_of(graph, variance)?;
    if !is_square_of(graph, squared, centred) {
        return None;
    }
    let x = before_casts(graph, x);
    let shape = graph.value_type(x).shape.clone();
    let channels = *shape.last()?;
    for affine in [gamma, beta] {
        let affine = constant(graph, affine)?.shape();
        if affine.elements() != channels || affine.last() != Some(&channels) {
            return None;
        }
    }
    let dtype = graph.value_type(x).dtype;
    let sources = [mean.node, centred.node, divide.node, multiply, id];
    let operands = vec![x.into(), rewriter.vector(gamma, dtype), rewriter.vector(beta, dtype)];
    let ty = rewriter.graph.value_type(x).clone();
    let normed = rewriter.add(Op::LayerNorm { epsilon }, operands, ty, &sources);
    let wanted = rewriter.graph.value_type(result(id)).dtype;
    let new = rewriter.cast(normed, wanted, &sources);
    rewriter.forward(result(id), new);
    Some(())
}

/// `Sub(x, ReduceMean(x))` over the last axis: the mean and x.
fn centring(graph: &Graph, centred: ValueId) -> Option<(ValueId, ValueId)> {
    if !is(graph, centred, "Sub") {
        return None;
    }
    let x = value_at(graph, centred.node, 0)?;
    let mean = before_casts(graph, value_at(graph, centred.node, 1)?);
    (before_casts(graph, mean_of(graph, mean)?) == before_casts(graph, x)).then_some((mean, x))
}

/// What a `ReduceMean` over the last axis averages.
fn mean_of(graph: &Graph, mean: ValueId) -> Option<ValueId> {
    let mean = before_casts(graph, mean);
    let op = onnx(graph, mean).filter(|op| op.is("ReduceMean"))?;
    let of = value_at(graph, mean.node, 0)?;
    let rank = graph.value_type(of).shape.len() as i64;
    let axes = match op.ints("axes") {
        Some(axes) => axes.to_vec(),
        None => weight_ints(graph, *graph.operands(mean.node).get(1)?)?,
    };
    (matches!(axes[..], [axis] if axis == -1 || axis == rank - 1) && op.int("keepdims", 1) == 1).then_some(of)
}

fn is_square_of(graph: &Graph, squared: ValueId, of: ValueId) -> bool {
    let uncast = |operand: Operand| operand.value().map(|value| before_casts(graph, value));
    let squared = before_casts(graph, squared);
    let operands = graph.operands(squared.node);
    match onnx(graph, squared).map(|op| op.op_type.as_str()) {
        Some("Pow") => {
            uncast(operands[0]) == Some(of)
                && operands
                    .get(1)
                    .and_then(|&power| scalar(graph, power))
                    .is_some_and(|p| close(p, 2.0))
        }
        Some("Mul") => operands.iter().all(|&operand| uncast(operand) == Some(of)),
        _ => false,
    }
}
