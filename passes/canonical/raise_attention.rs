//! Recognise scaled dot-product attention in any arrangement of heads, scales and casts.
//!
//! Before: `MatMul(Softmax(MatMul(Mul(Q, s), Mul(Kt, s))), V)` between reshapes and transposes that split and join heads.
//! After: `attention %q, %k, %v, heads=H, scale=s²` on `[N, L, H*D]`.
//!
//! A guard against rows without any key, `Where(IsNaN(p), 0, p)` behind the softmax, goes with it.
//!
//! With a constant added to the scores that hides every later token (a text encoder's): `causal_attention`.
//!
//! Heads are found by what their reshapes and transposes do, not by how they are written: see [`view`](super::view).

use fisec_ir::{Attribute, Graph, NodeId, Op, Operand, ValueId};
use fisec_tensor::Shape;

use super::order;
use super::pattern::{
    REACH, Rewriter, close, constant, is, made_by, onnx, result, scalar, scaled, value_at, weight_floats, with_constant,
};
use super::view::{Factor, Step, View, reordering, trace_through};
use crate::{Changes, PassError};

const PASS: &str = "raise_attention";

/// Raises every attention without a mask, or with a causal one. Other masks leave it as it is.
pub fn raise_attention(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Op::Onnx(op) = rewriter.graph.op(id) else { continue };
        if op.is("Attention") {
            operator(&mut rewriter, id);
        } else if is_product(rewriter.graph, result(id)) {
            decomposed(&mut rewriter, id);
        }
    }
    Ok(rewriter.finish())
}

/// One operand of attention, before its heads were split: `[N, L, heads * D]` once reshaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub source: ValueId,
    pub heads: usize,
    pub batch: usize,
    pub length: usize,
    pub width: usize,
}

impl Sequence {
    fn shape(&self) -> Shape {
        vec![self.batch, self.length, self.heads * self.width].into()
    }
}

/// A matrix product of two computed values, `alpha` times.
fn is_product(graph: &Graph, value: ValueId) -> bool {
    product_factor(graph, value).is_some()
}

fn product_factor(graph: &Graph, value: ValueId) -> Option<f64> {
    let op = onnx(graph, value)?;
    let computed = graph
        .operands(value.node)
        .iter()
        .all(|operand| operand.value().is_some());
    let rank = graph.value_type(value).shape.len();
    if !computed || rank < 3 || graph.operands(value.node).len() != 2 {
        return None;
    }
    if op.is("MatMul") {
        return Some(1.0);
    }
    let fused = op.domain == "com.microsoft" && op.op_type == "FusedMatMul";
    let simple = op.int("transA", 0) == 0 && op.int("transBatchA", 0) == 0 && op.int("transBatchB", 0) == 0;
    (fused && simple).then(|| f64::from(op.float("alpha", 1.0)))
}

/// Whether the product transposes its second operand itself.
fn flips_second(graph: &Graph, value: ValueId) -> bool {
    onnx(graph, value).is_some_and(|op| op.int("transB", 0) != 0)
}

fn decomposed(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let weighted = result(id);
    if product_factor(graph, weighted)? != 1.0 || flips_second(graph, weighted) {
        return None;
    }
    let weights = value_at(graph, id, 0)?;
    let guard = guarded(graph, weights);
    let (softmax, _, mut sources) = peel(graph, guard.map_or(weights, |(before, _)| before));
    sources.extend(guard.into_iter().flat_map(|(_, nodes)| nodes));
    let op = onnx(graph, softmax).filter(|op| op.is("Softmax"))?;
    let rank = graph.value_type(softmax).shape.len() as i64;
    let default = if op.opset < 13 { 1 } else { -1 };
    if !matches!(op.int("axis", default), axis if axis == -1 || axis == rank - 1) {
        return None;
    }
    let (mut scores, mut scale, nodes) = peel(graph, value_at(graph, softmax.node, 0)?);
    sources.extend(nodes);
    let masked = causal(graph, scores);
    if let Some(before) = masked {
        sources.push(scores.node);
        let (product, factor, nodes) = peel(graph, before);
        sources.extend(nodes);
        scores = product;
        scale *= factor;
    }
    scale *= product_factor(graph, scores)?;
    let (query, query_scale) = sequence(graph, value_at(graph, scores.node, 0)?, false)?;
    let key_rows_last = !flips_second(graph, scores);
    let (key, key_scale) = sequence(graph, value_at(graph, scores.node, 1)?, key_rows_last)?;
    let (value, value_scale) = sequence(graph, value_at(graph, id, 1)?, false)?;
    let agree = |a: Sequence, b: Sequence| (a.heads, a.batch, a.width) == (b.heads, b.batch, b.width);
    if !agree(query, key) || !agree(key, value) || key.length != value.length || value_scale != 1.0 {
        return None;
    }
    sources.extend([scores.node, softmax.node, id]);
    let scale = exact_scale(scale * query_scale * key_scale, query.width);
    let op = attention(query.heads, scale, masked.is_some());
    replace(rewriter, weighted, [query, key, value], op, &sources);
    Some(())
}

pub(super) fn attention(heads: usize, scale: f64, causal: bool) -> Op {
    match causal {
        true => Op::CausalAttention { heads, scale },
        false => Op::Attention {
            heads,
            scale,
            control: None,
        },
    }
}

/// The weights before a guard that makes zeros of the rows in which a mask hides every key, `Where(IsNaN(p), 0, p)`, and the
/// guard's nodes. The attentions raised here hide no whole row, so the guard changes nothing of finite scores.
fn guarded(graph: &Graph, value: ValueId) -> Option<(ValueId, [NodeId; 2])> {
    let test = made_by(graph, *graph.operands(value.node).first()?, "IsNaN").filter(|_| is(graph, value, "Where"))?;
    let weights = value_at(graph, value.node, 2)?;
    let zero = scalar(graph, graph.operands(value.node)[1])?;
    (value_at(graph, test, 0)? == weights && zero == 0.0).then_some((weights, [test, value.node]))
}

/// Scores from which a mask takes no weight in f32, whatever the others are.
const HIDDEN: f64 = -1e4;

/// The scores before a mask that hides every later key and nothing else was added to them. A mask over factors would be
/// scaled with the scores, so none may stand between.
fn causal(graph: &Graph, masked: ValueId) -> Option<ValueId> {
    let (scores, mask) = is(graph, masked, "Add").then(|| with_constant(graph, masked.node))??;
    let shape = constant(graph, mask)?.shape().clone();
    let [.., queries, keys] = shape[..] else { return None };
    let same = graph.value_type(masked).shape.ends_with(&[queries, keys]);
    if !same || queries != keys {
        return None;
    }
    let values = weight_floats(graph, mask)?;
    // the same mask for every image and head
    let fits = |(index, value): (usize, &f64)| match index % keys > index / keys % queries {
        true => *value <= HIDDEN,
        false => *value == 0.0,
    };
    values.iter().enumerate().all(fits).then_some(scores)
}

/// The scale as the model means it: `D^-1/2` when that is what half-precision constants come close to.
pub(super) fn exact_scale(scale: f64, width: usize) -> f64 {
    let usual = (width as f64).powf(-0.5);
    if close(scale, usual) { usual } else { scale }
}

/// What a value is a multiple of, through casts and scalar factors, [`REACH`] at most; the factor; the nodes passed.
fn peel(graph: &Graph, mut value: ValueId) -> (ValueId, f64, Vec<NodeId>) {
    let (mut factor, mut nodes) = (1.0, Vec::new());
    while let Some((before, own)) = multiple(graph, value).filter(|_| nodes.len() < REACH) {
        nodes.push(value.node);
        factor *= own;
        value = before;
    }
    (value, factor, nodes)
}

fn multiple(graph: &Graph, value: ValueId) -> Option<(ValueId, f64)> {
    if is(graph, value, "Cast") && graph.value_type(value).dtype.is_float() {
        return Some((value_at(graph, value.node, 0)?, 1.0));
    }
    scaled(graph, value)
}

/// The sequence that a `[…, L, D]` operand (or `[…, D, L]`, rows last) was split from, and its scalar factor.
pub(super) fn sequence(graph: &Graph, operand: ValueId, rows_last: bool) -> Option<(Sequence, f64)> {
    let mut factor = 1.0;
    let (source, view) = trace_through(graph, operand, |graph, value| {
        if let Some((before, own)) = multiple(graph, value) {
            factor *= own;
            return Some((before, vec![]));
        }
        reordering(graph, value)
    });
    let shape = &graph.value_type(operand).shape;
    let rank = shape.len();
    if rank < 3 || shape.contains(&0) {
        return None;
    }
    let (row_axis, column_axis) = if rows_last {
        (rank - 1, rank - 2)
    } else {
        (rank - 2, rank - 1)
    };
    let (length, width) = (shape[row_axis], shape[column_axis]);
    let images: usize = shape[..rank - 2].iter().product();
    let heads = match view.axis(row_axis)[..] {
        [] => graph.value_type(source).shape.last()? / width,
        [Factor { stride, .. }] => stride / width,
        _ => return None,
    };
    if heads == 0 || !images.is_multiple_of(heads) {
        return None;
    }
    let split = Sequence {
        source,
        heads,
        batch: images / heads,
        length,
        width,
    };
    let order = if rows_last { vec![0, 2, 3, 1] } else { vec![0, 2, 1, 3] };
    let expected = View::whole(&vec![split.batch, length, heads, width].into()).then(&Step::Permute(order))?;
    let elements = graph.value_type(source).shape.elements();
    (view.layout() == expected.layout() && elements == split.shape().elements()).then_some((split, factor))
}

/// Puts an attention in the place of `old`, `[N, H, L, D]` or `[N*H, L, D]`; its heads are split again for whoever
/// reads them so, and [`raise_tokens`](super::raise_tokens) removes the pairs that cancel.
pub(super) fn replace(rewriter: &mut Rewriter, old: ValueId, [q, k, v]: [Sequence; 3], op: Op, sources: &[NodeId]) {
    let dtype = rewriter.graph.value_type(q.source).dtype;
    let operands: Vec<Operand> = [q, k, v]
        .into_iter()
        .map(|sequence| {
            let joined = rewriter.reshaped(sequence.source, &sequence.shape(), sources);
            rewriter.cast(joined, dtype, sources).into()
        })
        .collect();
    let ty = rewriter.graph.operand_type(operands[0]).expect("a value has a type");
    let joined = rewriter.add(op, operands, ty, sources);
    let split: Shape = vec![q.batch, q.length, q.heads, q.width].into();
    let split = rewriter.reshaped(joined, &split, sources);
    let turned = rewriter.permuted(split, &[0, 2, 1, 3], sources);
    let wanted = rewriter.graph.value_type(old).clone();
    let shaped = rewriter.reshaped(turned, &wanted.shape, sources);
    let new = rewriter.cast(shaped, wanted.dtype, sources);
    rewriter.forward(old, new);
}

/// The `Attention` operator of operator set 23.
fn operator(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id))?;
    let operands = graph.operands(id);
    let extras = operands.get(3..).unwrap_or_default();
    let masked = extras.iter().any(|operand| !is_zero_mask(graph, *operand));
    let causal = op.int("is_causal", 0) != 0;
    let plain = op.float("softcap", 0.0) == 0.0;
    let more_outputs =
        (1..graph.node(id).outputs().len() as u32).any(|output| graph.is_used(ValueId { node: id, output }));
    if masked || !plain || more_outputs {
        return None;
    }
    let [q, k, v] = match graph.value_type(value_at(graph, id, 0)?).shape.len() {
        4 => [0, 1, 2].map(|position| sequence(graph, value_at(graph, id, position)?, false)),
        3 => [0, 1, 2].map(|position| {
            let heads = op.int(if position == 0 { "q_num_heads" } else { "kv_num_heads" }, 0);
            joined_sequence(graph, value_at(graph, id, position)?, usize::try_from(heads).ok()?)
        }),
        _ => return None,
    };
    let ((q, q_scale), (k, k_scale), (v, v_scale)) = (q?, k?, v?);
    let agree = (q.heads, q.batch, q.width) == (k.heads, k.batch, k.width)
        && (k.heads, k.batch, k.width, k.length) == (v.heads, v.batch, v.width, v.length)
        && !(causal && q.length != k.length);
    if !agree || v_scale != 1.0 {
        return None;
    }
    let usual = (q.width as f64).powf(-0.5);
    let own = match op.attributes.get("scale") {
        Some(Attribute::Float(scale)) => f64::from(*scale),
        _ => usual,
    };
    let scale = exact_scale(own * q_scale * k_scale, q.width);
    let raised = attention(q.heads, scale, causal);
    if graph.value_type(result(id)).shape.len() == 4 {
        replace(rewriter, result(id), [q, k, v], raised, &[id]);
    } else {
        join(rewriter, result(id), [q, k, v], raised, &[id]);
    }
    Some(())
}

fn is_zero_mask(graph: &Graph, operand: Operand) -> bool {
    operand == Operand::Absent || constant(graph, operand).is_some() && scalar(graph, operand) == Some(0.0)
}

/// A `[N, L, heads * D]` operand as it is.
pub(super) fn joined_sequence_shape(graph: &Graph, source: ValueId, heads: usize) -> Option<[usize; 4]> {
    let [batch, length, channels] = graph.value_type(source).shape[..] else {
        return None;
    };
    (heads > 0 && channels.is_multiple_of(heads)).then(|| [batch, length, heads, channels / heads])
}

fn joined_sequence(graph: &Graph, source: ValueId, heads: usize) -> Option<(Sequence, f64)> {
    let [batch, length, heads, width] = joined_sequence_shape(graph, source, heads)?;
    let sequence = Sequence {
        source,
        heads,
        batch,
        length,
        width,
    };
    Some((sequence, 1.0))
}

fn join(rewriter: &mut Rewriter, old: ValueId, [q, k, v]: [Sequence; 3], op: Op, sources: &[NodeId]) {
    let operands = [q, k, v].into_iter().map(|sequence| sequence.source.into()).collect();
    rewriter.replace(old, op, operands, sources);
}
