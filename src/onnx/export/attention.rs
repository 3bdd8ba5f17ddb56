//! Attention in ONNX: one operator of ONNX Runtime, or spelled out where its probabilities are looked at.

use fisec_ir::{Attribute, NodeId, conditioned};
use fisec_tensor::DType;

use super::builder::Builder;
use super::operators::MICROSOFT;
use crate::element::onnx_number;

/// `softmax(q k^T * scale) v` per head.
pub fn attention(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64) -> String {
    multi_head(builder, id, heads, scale, false)
}

/// The same, a query seeing no key behind its own place.
pub fn causal_attention(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64) -> String {
    multi_head(builder, id, heads, scale, true)
}

fn multi_head(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64, causal: bool) -> String {
    let inputs = [0, 1, 2].map(|position| builder.operand(id, position));
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut attributes = vec![
        ("num_heads", Attribute::Int(heads as i64)),
        ("scale", Attribute::Float(scale as f32)),
    ];
    if causal {
        attributes.push(("unidirectional", Attribute::Int(1)));
    }
    builder.op_of(MICROSOFT, "MultiHeadAttention", &inputs, &attributes)
}

/// The same with the conditioned images' probabilities mixed with recorded ones.
pub fn controlled_attention(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64) -> String {
    let [images, queries, channels] = *builder.graph.node(id).outputs()[0].shape.dims() else {
        unreachable!("verified: tokens")
    };
    let first = images / 2;
    let all = probabilities(builder, id, heads, scale);
    let own = images_from(builder, &all, first, images);
    let steered = steered(builder, id, &own, heads);
    let shares = if first == 0 {
        steered
    } else {
        let unconditional = images_from(builder, &all, 0, first);
        builder.op("Concat", &[&unconditional, &steered], &[("axis", Attribute::Int(0))])
    };
    let values = heads_of(builder, id, 2, heads, &[0, 2, 1, 3]);
    let attended = builder.op("MatMul", &[&shares, &values], &[]);
    let joined = builder.transpose(&attended, &[0, 2, 1, 3]);
    builder.reshape(joined, &[images, queries, channels])
}

/// The probabilities of the conditioned images, f32 `[conditioned * heads, L, S]`.
pub fn attention_maps(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64) -> String {
    let images = builder.operand_type(id, 0).shape[0];
    let shape = builder.graph.node(id).outputs()[0].shape.clone();
    let all = probabilities(builder, id, heads, scale);
    let own = images_from(builder, &all, images / 2, images);
    let maps = builder.reshape(own, &shape);
    cast(builder, maps, builder.operand_type(id, 0).dtype, DType::F32)
}

/// `(blend * recorded mapper + (1 - blend) * own) * weight`, all `[conditioned, heads, L, S]`.
fn steered(builder: &mut Builder<'_>, id: NodeId, own: &str, heads: usize) -> String {
    let dtype = builder.operand_type(id, 0).dtype;
    let [recorded, mapper, blend, weight] = [3, 4, 5, 6].map(|position| {
        let (name, given) = (builder.operand(id, position), builder.operand_type(id, position).dtype);
        cast(builder, name, given, dtype)
    });
    let [images, ..] = *builder.graph.node(id).outputs()[0].shape.dims() else {
        unreachable!("verified: tokens")
    };
    let (queries, keys) = (
        builder.operand_type(id, 3).shape[1],
        builder.operand_type(id, 3).shape[2],
    );
    let mapped = builder.op("MatMul", &[&recorded, &mapper], &[]);
    let mapped = builder.reshape(mapped, &[conditioned(images), heads, queries, keys]);
    let kept = builder.op("Mul", &[&mapped, &blend], &[]);
    let one = builder.scalar(dtype, 1.0);
    let rest = builder.op("Sub", &[&one, &blend], &[]);
    let fresh = builder.op("Mul", &[own, &rest], &[]);
    let mixed = builder.op("Add", &[&kept, &fresh], &[]);
    builder.op("Mul", &[&mixed, &weight], &[])
}

/// `[N, heads, L, S]` for operands `q, k`.
fn probabilities(builder: &mut Builder<'_>, id: NodeId, heads: usize, scale: f64) -> String {
    let q = heads_of(builder, id, 0, heads, &[0, 2, 1, 3]);
    let k = heads_of(builder, id, 1, heads, &[0, 2, 3, 1]);
    let scale = builder.scalar(builder.operand_type(id, 0).dtype, scale);
    let q = builder.op("Mul", &[&q, &scale], &[]);
    let scores = builder.op("MatMul", &[&q, &k], &[]);
    builder.op("Softmax", &[&scores], &[("axis", Attribute::Int(-1))])
}

/// An operand `[N, L, heads * D]` as `[N, L, heads, D]` with its axes permuted.
fn heads_of(builder: &mut Builder<'_>, id: NodeId, position: usize, heads: usize, permutation: &[i64]) -> String {
    let value = builder.operand_type(id, position);
    let [batch, rows, channels] = value.shape[..] else {
        unreachable!("verified: tokens")
    };
    let x = builder.operand(id, position);
    let x = builder.reshape(x, &[batch, rows, heads, channels / heads]);
    builder.transpose(&x, permutation)
}

fn images_from(builder: &mut Builder<'_>, x: &str, start: usize, end: usize) -> String {
    let bounds = [start, end, 0].map(|bound| builder.ints(&[bound as i64]));
    builder.op("Slice", &[x, &bounds[0], &bounds[1], &bounds[2]], &[])
}

fn cast(builder: &mut Builder<'_>, x: String, from: DType, to: DType) -> String {
    if from == to {
        return x;
    }
    builder.op("Cast", &[&x], &[("to", Attribute::Int(i64::from(onnx_number(to))))])
}
