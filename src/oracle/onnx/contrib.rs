//! Operators that ONNX Runtime's optimizer fuses: domain `com.microsoft`.

use super::elementwise::broadcast;
use super::math::{matmul, window};
use super::norm::{checked_depth, row_moments, score_mask};
use super::views::{permuted, reshaped};
use super::{Answer, Call, expect};
use crate::Tensor;
use crate::math::{gelu, sigmoid};
use crate::semantic::{Heads, add, attend, convolve, group_norm, layer_norm};

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let one = |result: Result<Tensor, String>| result.map(|y| vec![y]);
    Some(match call.op.op_type.as_str() {
        "NhwcConv" => one(nhwc_conv(call)),
        "GroupNorm" => call.operand(0).and_then(|x| one(nhwc_group_norm(call, x))),
        "SkipGroupNorm" => skip_group_norm(call),
        "SkipLayerNormalization" => skip_layer_norm(call),
        "BiasSplitGelu" => one(bias_split_gelu(call)),
        "BiasAdd" => one(bias_add(call)),
        "BiasGelu" => one(call.operand(0).and_then(|x| Ok(add(x, call.operand(1)?)?.map(gelu)))),
        "Gelu" => one(call.operand(0).map(|x| x.map(gelu))),
        "QuickGelu" => {
            let alpha = call.float("alpha", 1.702);
            one(call.operand(0).map(|x| x.map(|value| value * sigmoid(alpha * value))))
        }
        "FusedMatMul" => one(fused_matmul(call)),
        "MultiHeadAttention" => one(multi_head_attention(call)),
        "Attention" => one(packed_attention(call)),
        _ => return None,
    })
}

fn channels_first(x: &Tensor) -> Result<Tensor, String> {
    match x.shape.len() {
        4 => Ok(permuted(x, &[0, 3, 1, 2])),
        _ => Err(format!("a map of shape [{}]", x.shape)),
    }
}

fn channels_last(x: &Tensor) -> Tensor {
    permuted(x, &[0, 2, 3, 1])
}

/// Maps `[N, H, W, C]`, weights `[O, kh, kw, I]`.
fn nhwc_conv(call: &Call) -> Result<Tensor, String> {
    let (x, weight) = (channels_first(call.operand(0)?)?, channels_first(call.operand(1)?)?);
    let window = window(call, &x, &weight)?;
    if let Some(bias) = call.optional(2) {
        expect("the bias", bias, &weight.shape[..1])?;
    }
    Ok(channels_last(&convolve(&x, &weight, call.optional(2), &window)))
}

fn nhwc_group_norm(call: &Call, x: &Tensor) -> Result<Tensor, String> {
    let last = call.op.int("channels_last", 1) != 0;
    let map = if last { channels_first(x)? } else { x.clone() };
    let groups = usize::try_from(call.op.int("groups", 0)).unwrap_or(0);
    let channels = *map.shape.get(1).ok_or("a group norm of a vector")?;
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{channels} channels in {groups} groups"));
    }
    let (gamma, beta) = (call.operand(1)?, call.operand(2)?);
    expect("gamma", gamma, &[channels])?;
    expect("beta", beta, &[channels])?;
    let mut y = group_norm(&map, gamma, beta, groups, call.float("epsilon", 1e-5));
    if call.op.int("activation", 0) == 1 {
        y = y.map(|value| value * sigmoid(value));
    }
    Ok(if last { channels_last(&y) } else { y })
}

/// `y = group_norm(x + skip + bias)`, and the sum. A skip of `[N, C]` or `[N, 1, 1, C]` is one vector per image.
fn skip_group_norm(call: &Call) -> Answer {
    let (x, skip) = (call.operand(0)?, call.operand(3)?);
    let skip = match skip.shape[..] {
        [images, channels] => reshaped(skip, [images, 1, 1, channels])?,
        _ => skip.clone(),
    };
    let mut sum = add(x, &skip)?;
    if let Some(bias) = call.optional(4) {
        sum = add(&sum, bias)?;
    }
    Ok(vec![nhwc_group_norm(call, &sum)?, sum])
}

/// `y = layer_norm(x + skip + bias)`, mean, inverse deviation, and the sum.
fn skip_layer_norm(call: &Call) -> Answer {
    let mut sum = add(call.operand(0)?, call.operand(1)?)?;
    if let Some(bias) = call.optional(4) {
        sum = add(&sum, bias)?;
    }
    let width = sum.rows()[1];
    let gamma = call.operand(2)?;
    expect("gamma", gamma, &[width])?;
    if let Some(beta) = call.optional(3) {
        expect("beta", beta, &[width])?;
    }
    let epsilon = call.float("epsilon", 1e-12);
    let y = layer_norm(&sum, Some(gamma), call.optional(3), epsilon);
    let [mean, variance] = row_moments(&sum);
    let mut shape = sum.shape.to_vec();
    *shape.last_mut().ok_or("a norm of a scalar")? = 1;
    let deviation = variance
        .iter()
        .map(|variance| 1.0 / (variance + epsilon).sqrt())
        .collect();
    Ok(vec![y, sum.like(shape.clone(), mean), sum.like(shape, deviation), sum])
}

fn bias_split_gelu(call: &Call) -> Result<Tensor, String> {
    let x = add(call.operand(0)?, call.operand(1)?)?;
    let [_, width] = x.rows();
    let half = width / 2;
    let gated = |row: &[f64]| (0..half).map(|c| row[c] * gelu(row[half + c])).collect::<Vec<f64>>();
    let data = x.data.chunks_exact(width.max(1)).flat_map(gated).collect();
    let mut shape = x.shape.to_vec();
    *shape.last_mut().ok_or("a scalar")? = half;
    Ok(x.like(shape, data))
}

fn bias_add(call: &Call) -> Result<Tensor, String> {
    add(&add(call.operand(0)?, call.operand(1)?)?, call.operand(2)?)
}

fn fused_matmul(call: &Call) -> Result<Tensor, String> {
    let turned = |position: usize, attribute: &str| {
        let x = call.operand(position)?;
        let rank = x.shape.len();
        if call.op.int(attribute, 0) == 0 || rank < 2 {
            return Ok(x.clone());
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        Ok::<Tensor, String>(permuted(x, &order))
    };
    let alpha = call.float("alpha", 1.0);
    Ok(matmul(&turned(0, "transA")?, &turned(1, "transB")?)?.map(|value| alpha * value))
}

/// `query, key?, value?, bias?, key_padding_mask?, attention_bias?`, with queries, keys and values apart
/// (`[N, L, C]`), keys and values packed (`[N, S, heads, 2, D]`) or all three (`[N, L, heads, 3, D]`).
fn multi_head_attention(call: &Call) -> Result<Tensor, String> {
    let heads = usize::try_from(call.op.int("num_heads", 0))
        .ok()
        .filter(|&heads| heads > 0)
        .ok_or("no heads")?;
    if call.optional(4).is_some() || call.optional(6).is_some() {
        return Err("key padding or past keys".to_owned());
    }
    let query = call.operand(0)?;
    let parts = match (query.shape.len(), call.optional(1).map(|key| key.shape.len())) {
        (5, _) => unpacked(query)?,
        (_, Some(5)) => [vec![query.clone()], unpacked(call.operand(1)?)?].concat(),
        _ => vec![
            query.clone(),
            heads_merged(call.operand(1)?)?,
            heads_merged(call.operand(2)?)?,
        ],
    };
    let [mut q, mut k, mut v]: [Tensor; 3] = parts.try_into().map_err(|_| "packing".to_owned())?;
    if let Some(bias) = call.optional(3) {
        let ([_, _, q_width], [_, _, k_width]) = (&q.shape[..], &k.shape[..]) else {
            return Err(format!("queries [{}], keys [{}]", q.shape, k.shape));
        };
        let (q_width, k_width) = (*q_width, *k_width);
        let cut = |from: usize, to: usize| {
            bias.data
                .get(from..to)
                .map(|part| bias.like([to - from], part.to_vec()))
        };
        let short = || "a bias that is too short".to_owned();
        q = add(&q, &cut(0, q_width).ok_or_else(short)?)?;
        k = add(&k, &cut(q_width, q_width + k_width).ok_or_else(short)?)?;
        v = add(&v, &cut(q_width + k_width, bias.data.len()).ok_or_else(short)?)?;
    }
    let depth = checked_depth(&q, &k, &v, heads)?;
    // a scale of zero stands for the default
    let scale = match call.float("scale", 0.0) {
        0.0 => 1.0 / (depth as f64).sqrt(),
        scale => scale,
    };
    biased_attention(call, [&q, &k, &v], Heads { count: heads, scale }, 5)
}

/// Scores plus the optional bias operand at `position`, or a causal mask.
fn biased_attention(call: &Call, [q, k, v]: [&Tensor; 3], heads: Heads, position: usize) -> Result<Tensor, String> {
    let bias = call
        .optional(position)
        .map(|bias| score_mask(bias, q, k, heads.count))
        .transpose()?;
    let causal = call.op.int("unidirectional", 0) != 0;
    let (queries, keys) = (q.shape[1], k.shape[1]);
    let before = |[image, head, query]: [usize; 3], row: &mut [f64]| {
        if let Some(bias) = &bias {
            let start = ((image * heads.count + head) * queries + query) * keys;
            row.iter_mut()
                .zip(&bias.data[start..])
                .for_each(|(score, bias)| *score += bias);
        }
        if causal {
            row.iter_mut()
                .skip(query + 1)
                .for_each(|score| *score = f64::NEG_INFINITY);
        }
    };
    Ok(attend(q, k, v, heads, &before, &|_, _| {}))
}

/// `[N, heads, S, D]` or `[N, S, C]` as `[N, S, C]`.
fn heads_merged(x: &Tensor) -> Result<Tensor, String> {
    match x.shape[..] {
        [images, heads, keys, depth] => reshaped(&permuted(x, &[0, 2, 1, 3]), [images, keys, heads * depth]),
        _ => Ok(x.clone()),
    }
}

/// `[N, L, heads, parts, D]` as parts of `[N, L, heads * D]`.
fn unpacked(x: &Tensor) -> Result<Vec<Tensor>, String> {
    let [images, rows, heads, parts, depth] = x.shape[..] else {
        return Err(format!("packed as [{}]", x.shape));
    };
    let apart = permuted(x, &[3, 0, 1, 2, 4]);
    let size = images * rows * heads * depth;
    Ok((0..parts)
        .map(|part| {
            x.like(
                [images, rows, heads * depth],
                apart.data[part * size..(part + 1) * size].to_vec(),
            )
        })
        .collect())
}

/// `input[N, L, C], weights[C, 3C], bias[3C]`: plain `[q | k | v]`.
fn packed_attention(call: &Call) -> Result<Tensor, String> {
    let heads = usize::try_from(call.op.int("num_heads", 0))
        .ok()
        .filter(|&heads| heads > 0)
        .ok_or("no heads")?;
    if call.optional(3).is_some() || call.optional(4).is_some() {
        return Err("a mask index or past keys".to_owned());
    }
    let mut packed = matmul(call.operand(0)?, call.operand(1)?)?;
    if let Some(bias) = call.optional(2) {
        packed = broadcast(&packed, bias, |x, bias| x + bias)?;
    }
    let [images, rows, width] = packed.shape[..] else {
        return Err(format!("tokens of shape [{}]", packed.shape));
    };
    let part = |index: usize| {
        let third = width / 3;
        let row = |row: &[f64]| row[index * third..(index + 1) * third].to_vec();
        packed.like(
            [images, rows, third],
            packed.data.chunks_exact(width.max(1)).flat_map(row).collect(),
        )
    };
    let (q, k, v) = (part(0), part(1), part(2));
    let depth = checked_depth(&q, &k, &v, heads)?;
    let scale = match call.float("scale", 0.0) {
        0.0 => 1.0 / (depth as f64).sqrt(),
        scale => scale,
    };
    biased_attention(call, [&q, &k, &v], Heads { count: heads, scale }, 5)
}
