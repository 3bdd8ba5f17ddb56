//! Normalisations and the attention operator of opset 23.

use super::views::{permuted, reshaped};
use super::{Answer, Call, expect};
use crate::Tensor;
use crate::math::moments;
use crate::semantic::{Heads, attend, group_norm, layer_norm};

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match call.op.op_type.as_str() {
        "InstanceNormalization" => instance(call),
        "LayerNormalization" => layer(call),
        "GroupNormalization" => group(call),
        "BatchNormalization" => batch(call),
        "Attention" => attention(call),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

fn instance(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let channels = *x.shape.get(1).ok_or("an instance norm of a vector")?;
    per_channel(call, channels)?;
    Ok(group_norm(
        x,
        call.operand(1)?,
        call.operand(2)?,
        channels.max(1),
        call.float("epsilon", 1e-5),
    ))
}

fn group(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let channels = *x.shape.get(1).ok_or("a group norm of a vector")?;
    let groups = usize::try_from(call.op.int("num_groups", 0)).unwrap_or(0);
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{channels} channels in {groups} groups"));
    }
    let [gamma, beta] = [call.operand(1)?, call.operand(2)?].map(|factors| match factors.data.len() == groups {
        // operator set 18 has one factor per group
        true => factors.like(
            [channels],
            (0..channels).map(|c| factors.data[c / (channels / groups)]).collect(),
        ),
        false => factors.clone(),
    });
    expect("the scale", &gamma, &[channels])?;
    expect("the bias", &beta, &[channels])?;
    Ok(group_norm(x, &gamma, &beta, groups, call.float("epsilon", 1e-5)))
}

fn per_channel(call: &Call, channels: usize) -> Result<(), String> {
    expect("the scale", call.operand(1)?, &[channels])?;
    expect("the bias", call.operand(2)?, &[channels])
}

fn layer(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let axis = call.axis(-1, x.shape.len())?;
    let width: usize = x.shape[axis..].iter().product();
    for factors in [call.optional(1), call.optional(2)].into_iter().flatten() {
        if factors.data.len() != width {
            return Err(format!("{} factors for rows of {width}", factors.data.len()));
        }
    }
    let rows = reshaped(x, [x.data.len() / width.max(1), width])?;
    let y = layer_norm(&rows, call.optional(1), call.optional(2), call.float("epsilon", 1e-5));
    reshaped(&y, x.shape.clone())
}

fn batch(call: &Call) -> Result<Tensor, String> {
    let mut x = call.operand(0)?.clone();
    if x.shape.len() < 2 {
        return Err(format!("a batch norm of [{}]", x.shape));
    }
    let [_, channels, pixels] = x.planes();
    let factors: Vec<&Tensor> = (1..5)
        .map(|position| call.operand(position))
        .collect::<Result<_, _>>()?;
    for factor in &factors {
        expect("a factor", factor, &[channels])?;
    }
    let epsilon = call.float("epsilon", 1e-5);
    for (plane, values) in x.data.chunks_exact_mut(pixels.max(1)).enumerate() {
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|which| factors[which].data[plane % channels]);
        values
            .iter_mut()
            .for_each(|value| *value = (*value - mean) / (variance + epsilon).sqrt() * scale + bias);
    }
    Ok(x)
}

/// `Attention` of operator set 23: `[N, heads, L, D]`, or `[N, L, heads * D]` with the numbers of heads.
fn attention(call: &Call) -> Result<Tensor, String> {
    if (4..6).any(|position| call.optional(position).is_some()) || call.float("softcap", 0.0) != 0.0 {
        return Err("past keys or a soft cap".to_owned());
    }
    let operands = [call.operand(0)?, call.operand(1)?, call.operand(2)?];
    let split = operands[0].shape.len() == 4;
    let heads = match split {
        true => operands[0].shape[1] as i64,
        false => call.op.int("q_num_heads", 0),
    };
    let key_heads = if split {
        operands[1].shape.get(1).map_or(0, |&heads| heads as i64)
    } else {
        call.op.int("kv_num_heads", heads)
    };
    if heads < 1 || key_heads != heads {
        return Err(format!("{heads} heads of queries, {key_heads} of keys"));
    }
    let [q, k, v] = operands.map(|x| if split { merged(x) } else { Ok(x.clone()) });
    let (q, k, v) = (q?, k?, v?);
    let heads = heads as usize;
    let depth = checked_depth(&q, &k, &v, heads)?;
    let scale = call.float("scale", 1.0 / (depth as f64).sqrt());
    let mask = call
        .optional(3)
        .map(|mask| score_mask(mask, &q, &k, heads))
        .transpose()?;
    let causal = call.op.int("is_causal", 0) != 0;
    let (queries, keys) = (q.shape[1], k.shape[1]);
    let before = |[image, head, query]: [usize; 3], row: &mut [f64]| {
        if let Some(mask) = &mask {
            let start = ((image * heads + head) * queries + query) * keys;
            row.iter_mut()
                .zip(&mask.data[start..])
                .for_each(|(score, mask)| *score += mask);
        }
        if causal {
            row.iter_mut()
                .skip(query + 1)
                .for_each(|score| *score = f64::NEG_INFINITY);
        }
    };
    let y = attend(&q, &k, &v, Heads { count: heads, scale }, &before, &|_, _| {});
    if !split {
        return Ok(y);
    }
    let [images, rows, width] = y.shape[..] else {
        unreachable!("tokens")
    };
    Ok(permuted(
        &reshaped(&y, [images, rows, heads, width / heads])?,
        &[0, 2, 1, 3],
    ))
}

/// `[N, heads, L, D]` as `[N, L, heads * D]`.
fn merged(x: &Tensor) -> Result<Tensor, String> {
    let [images, heads, rows, depth] = x.shape[..] else {
        return Err(format!("heads of shape [{}]", x.shape));
    };
    reshaped(&permuted(x, &[0, 2, 1, 3]), [images, rows, heads * depth])
}

/// Channels per head, once queries, keys and values fit each other.
pub(super) fn checked_depth(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<usize, String> {
    let ([n, _, width], [kn, keys, k_width], [vn, v_keys, v_width]) = (&q.shape[..], &k.shape[..], &v.shape[..]) else {
        return Err("queries, keys or values are not tokens".to_owned());
    };
    let fit = n == kn && kn == vn && keys == v_keys && width == k_width && width % heads == 0 && v_width % heads == 0;
    fit.then_some(width / heads)
        .ok_or_else(|| format!("[{}], [{}], [{}] in {heads} heads", q.shape, k.shape, v.shape))
}

/// A mask as an addend to the scores `[N, heads, L, S]`.
pub(super) fn score_mask(mask: &Tensor, q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor, String> {
    let addend = match mask.dtype {
        fisec_tensor::DType::Bool => mask.map(|allowed| if allowed != 0.0 { 0.0 } else { f64::NEG_INFINITY }),
        _ => mask.clone(),
    };
    super::elementwise::expanded(&addend, &[q.shape[0], heads, q.shape[1], k.shape[1]].into())
}

/// Statistics of rows, for operators that also return them.
pub(super) fn row_moments(x: &Tensor) -> [Vec<f64>; 2] {
    let [_, width] = x.rows();
    let moments: Vec<[f64; 2]> = x.data.chunks_exact(width.max(1)).map(moments).collect();
    [0, 1].map(|which| moments.iter().map(|moments| moments[which]).collect())
}
