//! The semantic operators, each as its documentation in the IR says.

mod attention;
mod conv;
mod norm;
mod pointwise;
mod sparse;

use fisec_ir::{Op, ValueType, result_type};
use fisec_tensor::Mask;

use crate::Tensor;

pub(crate) use attention::{Heads, attend};
pub(crate) use conv::{Window, convolve};
pub(crate) use norm::{group_norm, layer_norm};
pub(crate) use pointwise::{add, concat, upsample};

/// The result of a semantic operator. `active` holds for every operand the mask outside which it is not defined.
pub(crate) fn evaluate(op: &Op, operands: &[&Tensor], active: &[Option<&Mask>]) -> Result<Tensor, String> {
    let types: Vec<ValueType> = operands
        .iter()
        .map(|x| ValueType::full(x.dtype, x.shape.clone()))
        .collect();
    let result = result_type(op, &types)?;
    let x = operands[0];
    let value = match op {
        Op::Conv(op) => conv::conv(op, operands),
        Op::GroupNorm(op) => norm::group_norm_op(op, operands),
        Op::GroupNormStats { groups } => norm::stats(x, *groups),
        Op::GroupNormStatsUpdate { groups } => norm::updated_stats(operands, *groups, active[0])?,
        Op::NormCoefficients { groups, epsilon } => norm::coefficients(operands, *groups, *epsilon),
        Op::Affine { activation } => norm::affine(x, operands[1], *activation),
        Op::Upsample { height, width } => upsample(x, [*height, *width]),
        Op::Tokens => pointwise::tokens(x),
        Op::Spatial { height, width } => pointwise::spatial(x, [*height, *width]),
        Op::LayerNorm { epsilon } => layer_norm(x, Some(operands[1]), Some(operands[2]), *epsilon),
        Op::Linear(op) => pointwise::linear(op, operands),
        Op::Attention { heads, scale, control } => {
            let keys = active[1].or(active[2]);
            attention::attention(
                operands,
                Heads {
                    count: *heads,
                    scale: *scale,
                },
                *control,
                keys,
            )?
        }
        Op::CausalAttention { heads, scale } => attention::causal(
            operands,
            Heads {
                count: *heads,
                scale: *scale,
            },
        ),
        Op::AttentionMaps { heads, scale } => attention::maps(
            x,
            operands[1],
            Heads {
                count: *heads,
                scale: *scale,
            },
            active[1],
        )?,
        Op::Geglu => pointwise::geglu(x),
        Op::Activate(activation) => pointwise::activate(x, *activation),
        Op::Add => add(x, operands[1])?,
        Op::AddVector => pointwise::add_vector(x, operands[1]),
        Op::Repeat { images } => pointwise::repeat(x, *images),
        Op::Concat(op) => concat(operands, op.axis),
        Op::TimestepEmbedding(op) => pointwise::timestep_embedding(op, x),
        Op::Gather => x.clone(),
        Op::Scatter(demand) => sparse::scatter(x, operands[1], *demand, active[0])?,
        Op::Input(_) | Op::Onnx(_) | Op::CacheRead(_) | Op::CacheWrite(_) | Op::Output(_) => {
            unreachable!("not semantic")
        }
    };
    Ok(Tensor {
        dtype: result.dtype,
        ..value
    })
}
