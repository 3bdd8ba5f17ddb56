//! Take ONNX Runtime's fused operators apart into what the raising passes know.
//!
//! Before: `com.microsoft NhwcConv`, `SkipGroupNorm`, `BiasSplitGelu`, `MultiHeadAttention` over packed weights,
//! `MatMulNBits`.
//! After: `Conv`, `group_norm`, `Add`, `geglu` between transposes that cancel, `attention` over separate linears, `MatMul`
//! with the numbers that the bits stand for.

mod attention;
mod narrow_weights;

use fisec_ir::{Activation, Attribute, Graph, GroupNorm, NodeId, OnnxOp, Op, Operand, ValueId, ValueType};
use fisec_tensor::{Shape, Transform};

use super::order;
use super::pattern::{Rewriter, constant, exact, onnx, result, standard, value_at};
use crate::{Changes, PassError};

const PASS: &str = "lower_contrib";
const TO_NCHW: [usize; 4] = [0, 3, 1, 2];
const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

/// Lowers every operator of `com.microsoft` that has an equal in other operators; others stay.
pub fn lower_contrib(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let Some(op) = onnx(rewriter.graph, result(id)).filter(|op| op.domain == "com.microsoft") else {
            continue;
        };
        let op = op.clone();
        match op.op_type.as_str() {
            "NhwcConv" => nhwc_conv(&mut rewriter, id, &op),
            "GroupNorm" => group_norm(&mut rewriter, id, &op),
            "SkipGroupNorm" => skip_group_norm(&mut rewriter, id, &op),
            "SkipLayerNormalization" => skip_layer_norm(&mut rewriter, id, &op),
            "BiasSplitGelu" => bias_split_gelu(&mut rewriter, id),
            "BiasGelu" => bias_gelu(&mut rewriter, id),
            "BiasAdd" => bias_add(&mut rewriter, id),
            "MultiHeadAttention" => attention::multi_head(&mut rewriter, id, &op),
            "MatMulNBits" => narrow_weights::product(&mut rewriter, id, &op),
            "Attention" => attention::packed(&mut rewriter, id, &op),
            _ => None,
        };
    }
    Ok(rewriter.finish())
}

fn add(rewriter: &mut Rewriter, a: Operand, b: Operand, ty: ValueType, id: NodeId) -> ValueId {
    rewriter.add(standard("Add", &[]), vec![a, b], ty, &[id])
}

/// Whether an optional operand is there.
fn given(graph: &Graph, id: NodeId, position: usize) -> Option<Operand> {
    graph
        .operands(id)
        .get(position)
        .copied()
        .filter(|operand| *operand != Operand::Absent)
}

fn nhwc_conv(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let x = value_at(rewriter.graph, id, 0)?;
    let weight = given(rewriter.graph, id, 1)?;
    constant(rewriter.graph, weight)?;
    let weight = rewriter.derived(weight, &[Transform::Permute(TO_NCHW.to_vec())]);
    let x = rewriter.permuted(x, &TO_NCHW, &[id]);
    let mut operands = vec![x.into(), weight];
    operands.extend(given(rewriter.graph, id, 2));
    let old = rewriter.graph.value_type(result(id)).clone();
    let ty = ValueType::full(old.dtype, permuted(&old.shape, &TO_NCHW));
    let conv = Op::Onnx(OnnxOp {
        domain: String::new(),
        op_type: "Conv".into(),
        opset: 17,
        attributes: op.attributes.clone(),
    });
    let y = rewriter.add(conv, operands, ty, &[id]);
    let y = rewriter.permuted(y, &TO_NHWC, &[id]);
    rewriter.forward(result(id), y);
    Some(())
}

fn permuted(shape: &Shape, order: &[usize]) -> Shape {
    order.iter().map(|&axis| shape[axis]).collect()
}

fn norm(op: &OnnxOp) -> Option<GroupNorm> {
    Some(GroupNorm {
        groups: usize::try_from(op.int("groups", 1)).ok()?,
        epsilon: exact(op.float("epsilon", 1e-5)),
        activation: if op.int("activation", 0) == 1 {
            Activation::Silu
        } else {
            Activation::None
        },
    })
}

/// The map in `[N, C, H, W]`, whatever the operator's layout.
fn as_map(rewriter: &mut Rewriter, x: ValueId, channels_last: bool, id: NodeId) -> ValueId {
    if channels_last {
        rewriter.permuted(x, &TO_NCHW, &[id])
    } else {
        x
    }
}

fn from_map(rewriter: &mut Rewriter, x: ValueId, channels_last: bool, id: NodeId) -> ValueId {
    if channels_last {
        rewriter.permuted(x, &TO_NHWC, &[id])
    } else {
        x
    }
}

fn normed(rewriter: &mut Rewriter, x: ValueId, norm: GroupNorm, affine: [Operand; 2], id: NodeId) -> ValueId {
    let ty = rewriter.graph.value_type(x).clone();
    let [gamma, beta] = affine.map(|operand| rewriter.vector(operand, ty.dtype));
    rewriter.add(Op::GroupNorm(norm), vec![x.into(), gamma, beta], ty, &[id])
}

fn affine_operands(graph: &Graph, id: NodeId, first: usize) -> Option<[Operand; 2]> {
    let (gamma, beta) = (given(graph, id, first)?, given(graph, id, first + 1)?);
    constant(graph, gamma)?;
    constant(graph, beta)?;
    Some([gamma, beta])
}

fn group_norm(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let x = value_at(rewriter.graph, id, 0).filter(|&x| rewriter.graph.value_type(x).shape.len() == 4)?;
    let (norm, affine) = (norm(op)?, affine_operands(rewriter.graph, id, 1)?);
    let last = op.int("channels_last", 1) != 0;
    let x = as_map(rewriter, x, last, id);
    let y = normed(rewriter, x, norm, affine, id);
    let y = from_map(rewriter, y, last, id);
    rewriter.forward(result(id), y);
    Some(())
}

/// `x, gamma, beta, skip, bias? -> group_norm(x + skip + bias), x + skip + bias`.
fn skip_group_norm(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let x = value_at(rewriter.graph, id, 0).filter(|&x| rewriter.graph.value_type(x).shape.len() == 4)?;
    let skip = value_at(rewriter.graph, id, 3)?;
    let (norm, affine) = (norm(op)?, affine_operands(rewriter.graph, id, 1)?);
    let last = op.int("channels_last", 1) != 0;
    let mut sum = as_map(rewriter, x, last, id);
    let ty = rewriter.graph.value_type(sum).clone();
    if let Some(bias) = given(rewriter.graph, id, 4) {
        let channels = constant(rewriter.graph, bias)?.shape().elements();
        let bias = rewriter.derived(bias, &[Transform::Reshape(vec![channels, 1, 1].into())]);
        sum = add(rewriter, sum.into(), bias, ty.clone(), id);
    }
    let skip = match rewriter.graph.value_type(skip).shape.clone()[..] {
        [_, _, _, _] if rewriter.graph.value_type(skip) == rewriter.graph.value_type(x) => {
            as_map(rewriter, skip, last, id)
        }
        [batch, channels] => rewriter.reshaped(skip, &vec![batch, channels, 1, 1].into(), &[id]),
        [batch, 1, 1, channels] if last => rewriter.reshaped(skip, &vec![batch, channels, 1, 1].into(), &[id]),
        _ => return None,
    };
    let sum = add(rewriter, sum.into(), skip.into(), ty, id);
    let y = normed(rewriter, sum, norm, affine, id);
    let (y, sum) = (from_map(rewriter, y, last, id), from_map(rewriter, sum, last, id));
    rewriter.forward(result(id), y);
    if rewriter.graph.node(id).outputs().len() > 1 {
        rewriter.forward(ValueId { node: id, output: 1 }, sum);
    }
    Some(())
}

/// `x, skip, gamma, beta?, bias? -> layer_norm(x + skip + bias), _, _, x + skip + bias`.
fn skip_layer_norm(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let ty = rewriter.graph.value_type(result(id)).clone();
    let (mut x, skip) = (given(rewriter.graph, id, 0)?, given(rewriter.graph, id, 1)?);
    if let Some(bias) = given(rewriter.graph, id, 4) {
        x = add(rewriter, x, bias, ty.clone(), id).into();
    }
    let sum = add(rewriter, x, skip, ty.clone(), id);
    let mut operands = vec![sum.into(), given(rewriter.graph, id, 2)?];
    operands.extend(given(rewriter.graph, id, 3));
    let attributes = [
        ("axis", Attribute::Int(-1)),
        ("epsilon", Attribute::Float(op.float("epsilon", 1e-12))),
    ];
    let y = rewriter.add(standard("LayerNormalization", &attributes), operands, ty, &[id]);
    rewriter.forward(result(id), y);
    if rewriter.graph.node(id).outputs().len() > 3 {
        rewriter.forward(ValueId { node: id, output: 3 }, sum);
    }
    Some(())
}

fn bias_split_gelu(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let (x, bias) = (given(rewriter.graph, id, 0)?, given(rewriter.graph, id, 1)?);
    let wide = rewriter.graph.operand_type(x)?;
    let biased = add(rewriter, x, bias, wide, id);
    rewriter.replace(result(id), Op::Geglu, vec![biased.into()], &[id]);
    Some(())
}

fn bias_gelu(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let ty = rewriter.graph.value_type(result(id)).clone();
    let (x, bias) = (given(rewriter.graph, id, 0)?, given(rewriter.graph, id, 1)?);
    let biased = add(rewriter, x, bias, ty, id);
    rewriter.replace(result(id), Op::Activate(Activation::Gelu), vec![biased.into()], &[id]);
    Some(())
}

/// `x, bias, skip -> x + bias + skip`.
fn bias_add(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let ty = rewriter.graph.value_type(result(id)).clone();
    let (x, bias) = (given(rewriter.graph, id, 0)?, given(rewriter.graph, id, 1)?);
    let skip = given(rewriter.graph, id, 2)?;
    let biased = add(rewriter, x, bias, ty, id);
    rewriter.replace(result(id), standard("Add", &[]), vec![biased.into(), skip], &[id]);
    Some(())
}
