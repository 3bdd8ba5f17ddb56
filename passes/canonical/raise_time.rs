//! Recognise the sinusoidal timestep embedding, and maps to which one vector per image is added.
//!
//! Before: `Concat(Cos(%a), Sin(%a))`, `%a = Mul(Cast(Reshape(%t, [N,1])), frequencies)`; `Add(%map, Reshape(%v, [N,C,1,1]))`.
//! After: `timestep_embedding %t`; `add_vector %map, %v`.

use fisec_ir::{Graph, NodeId, Op, Operand, TimestepEmbedding, ValueId};
use fisec_tensor::DType;

use super::infer_shapes::axis;
use super::order;
use super::pattern::{
    Rewriter, before_casts, constant, either_way, is, made_by, onnx, result, value_at, weight_floats, with_constant,
};
use super::view::reordering;
use crate::{Changes, PassError};

const PASS: &str = "raise_time";
/// The longest period of every known model; other periods show as another downscale shift.
const MAX_PERIOD: f64 = 10_000.0;

/// Raises timestep embeddings and the additions of time vectors.
pub fn raise_time(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Op::Onnx(op) = rewriter.graph.op(id) else { continue };
        if op.is("Concat") {
            embedding(&mut rewriter, id);
        } else if op.is("Add") {
            add_vector(&mut rewriter, id);
        }
    }
    rewriter.graph.prune();
    for id in order(rewriter.graph, PASS)? {
        absorb_cast(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn embedding(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let shape = graph.value_type(result(id)).shape.clone();
    let &[first, second] = graph.operands(id) else {
        return None;
    };
    let concat = onnx(graph, result(id))?;
    if shape.len() != 2 || axis(concat.int("axis", 0), 2)? != 1 {
        return None;
    }
    let (flip_sin_to_cos, cos, sin) = match (made_by(graph, first, "Cos"), made_by(graph, first, "Sin")) {
        (Some(cos), _) => (true, cos, made_by(graph, second, "Sin")?),
        (_, Some(sin)) => (false, made_by(graph, second, "Cos")?, sin),
        _ => return None,
    };
    let angle = value_at(graph, cos, 0)?;
    if value_at(graph, sin, 0)? != angle || !is(graph, angle, "Mul") {
        return None;
    }
    let (position, frequencies) = with_constant(graph, angle.node)?;
    let frequencies = weight_floats(graph, frequencies)?;
    if frequencies.len() * 2 != shape[1] {
        return None;
    }
    let shift = downscale_shift(&frequencies)?;
    let timesteps = timesteps(graph, position);
    let op = Op::TimestepEmbedding(TimestepEmbedding {
        rows: shape[0],
        width: shape[1],
        flip_sin_to_cos,
        shift,
        max_period: MAX_PERIOD,
    });
    let count = graph.value_type(timesteps).shape.elements();
    if count != 1 && count != shape[0] {
        return None;
    }
    let timesteps = match graph.value_type(timesteps).shape.len() {
        0 | 1 => timesteps,
        _ => rewriter.reshaped(timesteps, &vec![count].into(), &[id]),
    };
    rewriter.replace(result(id), op, vec![timesteps.into()], &[angle.node, cos, sin, id]);
    Some(())
}

/// The downscale shift with which `exp(-ln(max_period) * i / (half - shift))` gives these frequencies.
fn downscale_shift(frequencies: &[f64]) -> Option<f64> {
    let half = frequencies.len() as f64;
    let decay = -frequencies.get(1)?.ln();
    let exact = half - MAX_PERIOD.ln() / decay;
    let shift = if (exact - exact.round()).abs() < 1e-2 {
        exact.round()
    } else {
        exact
    };
    let fits = frequencies.iter().enumerate().all(|(index, &frequency)| {
        let wanted = (-MAX_PERIOD.ln() * index as f64 / (half - shift)).exp();
        (frequency - wanted).abs() <= 2e-3 * wanted
    });
    fits.then_some(shift)
}

/// The timesteps themselves, before casts, reshapes and the repetition of a scalar over the batch.
fn timesteps(graph: &Graph, mut value: ValueId) -> ValueId {
    loop {
        let before = match onnx(graph, value).map(|op| op.op_type.as_str()) {
            Some("Cast" | "Expand") => value_at(graph, value.node, 0),
            _ => reordering(graph, value).map(|(before, _)| before),
        };
        match before {
            Some(before) if is_list(&graph.value_type(before).shape) => value = before,
            _ => return value,
        }
    }
}

/// Whether a tensor is one number, or a list of them along one axis.
fn is_list(shape: &[usize]) -> bool {
    shape.len() <= 1 || shape.len() == 2 && shape.contains(&1)
}

/// `Add(map, vector[N,C,1,1])`.
fn add_vector(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let ty = graph.value_type(result(id)).clone();
    let [batch, channels, _, _] = ty.shape[..] else {
        return None;
    };
    let (map, vector) = either_way(graph, id).into_iter().find_map(|(map, vector)| {
        let (map, vector) = (map.value()?, vector.value()?);
        let fits = *graph.value_type(map) == ty && graph.value_type(vector).shape[..] == [batch, channels, 1, 1];
        // At one pixel the map has the vector's shape too: then the vector is what was made of `[N, C]`.
        let told_apart = ty.shape[2..] != [1, 1] || (is_vector(graph, vector) && !is_vector(graph, map));
        (fits && told_apart).then_some((map, vector))
    })?;
    let source = before_reshapes(graph, vector);
    let source = if graph.value_type(source).shape[..] == [batch, channels] {
        source
    } else {
        vector
    };
    let source = rewriter.reshaped(source, &vec![batch, channels].into(), &[id]);
    let source = rewriter.cast(source, ty.dtype, &[id]);
    rewriter.replace(result(id), Op::AddVector, vec![map.into(), source.into()], &[id]);
    Some(())
}

/// The value before reorderings and casts.
fn before_reshapes(graph: &Graph, mut value: ValueId) -> ValueId {
    loop {
        value = before_casts(graph, value);
        match reordering(graph, value) {
            Some((before, _)) => value = before,
            None => return value,
        }
    }
}

/// Whether a value is a reshape of one vector per image.
fn is_vector(graph: &Graph, value: ValueId) -> bool {
    graph.value_type(before_reshapes(graph, value)).shape.len() == 2
}

/// The embedding is computed in `f32` whatever its type; a cast behind it only names the type.
fn absorb_cast(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let source = value_at(graph, id, 0)?;
    let Op::TimestepEmbedding(embedding) = *graph.op(source.node) else {
        return None;
    };
    let dtype = graph.value_type(result(id)).dtype;
    if !is(graph, result(id), "Cast") || !matches!(dtype, DType::F16 | DType::BF16 | DType::F32) {
        return None;
    }
    let operands: Vec<Operand> = graph.operands(source.node).to_vec();
    debug_assert!(operands.iter().all(|&operand| constant(graph, operand).is_none()));
    rewriter.replace(
        result(id),
        Op::TimestepEmbedding(embedding),
        operands,
        &[source.node, id],
    );
    Some(())
}
