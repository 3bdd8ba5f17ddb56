//! Each operator of the IR in ONNX operators.

use fisec_ir::{Attribute, Conv, ConvOperand, Linear, LinearOperand, NodeId, OnnxOp, Op, TimestepEmbedding, ValueId};
use fisec_tensor::{DType, HostTensor, Shape};

use super::attention::{attention, attention_maps, causal_attention, controlled_attention};
use super::attributes::attribute;
use super::builder::{Builder, NodeParts};
use super::norms::{activate, affine, group_norm, group_norm_stats, norm_coefficients};
use super::ports::{NCHW_TO_NHWC, NHWC_TO_NCHW};
use super::{ExportError, Ports, has_onnx_form, older, ports};

pub const MICROSOFT: &str = "com.microsoft";

/// Adds the ONNX nodes of one node of the graph.
pub fn emit(builder: &mut Builder<'_>, ports: Ports, id: NodeId) -> Result<(), ExportError> {
    let op = builder.graph.op(id).clone();
    if !has_onnx_form(&op) {
        let node = builder.graph.origin(id).label().to_owned();
        return Err(ExportError::NoForm {
            node,
            op: op.name().to_owned(),
        });
    }
    let result = match op {
        Op::Input(name) => ports::input(builder, ports, id, &name),
        Op::Output(name) => {
            ports::output(builder, ports, id, &name);
            return Ok(());
        }
        Op::CacheWrite(_) => return Ok(()),
        Op::Onnx(onnx) => {
            opaque(builder, id, &onnx);
            return Ok(());
        }
        Op::Conv(conv) => self::conv(builder, id, &conv),
        Op::GroupNorm(norm) => group_norm(builder, id, norm),
        Op::GroupNormStats { groups } => group_norm_stats(builder, id, groups),
        Op::NormCoefficients { groups, epsilon } => norm_coefficients(builder, id, groups, epsilon),
        Op::Affine { activation } => {
            let rank = builder.operand_type(id, 0).shape.len();
            let (x, coefficients) = (builder.operand(id, 0), builder.operand(id, 1));
            affine(builder, x, rank, &coefficients, activation)
        }
        Op::Upsample { height, width } => {
            let (x, shape) = (builder.operand(id, 0), builder.operand_type(id, 0).shape);
            upsample(builder, &x, &shape, [height, width])
        }
        Op::Tokens => tokens(builder, id),
        Op::Spatial { height, width } => spatial(builder, id, height, width),
        Op::LayerNorm { epsilon } => {
            let (x, gamma, beta) = (builder.operand(id, 0), builder.operand(id, 1), builder.operand(id, 2));
            layer_norm(builder, &x, &gamma, &beta, epsilon)
        }
        Op::Linear(_) if gates(builder, id) => return Ok(()),
        Op::Linear(linear) => self::linear(builder, id, linear),
        Op::Attention {
            heads,
            scale,
            control: None,
        } => attention(builder, id, heads, scale),
        Op::CausalAttention { heads, scale } => causal_attention(builder, id, heads, scale),
        Op::Attention {
            heads,
            scale,
            control: Some(_),
        } => controlled_attention(builder, id, heads, scale),
        Op::AttentionMaps { heads, scale } => attention_maps(builder, id, heads, scale),
        Op::Geglu => geglu(builder, id),
        Op::Activate(activation) => {
            let x = builder.operand(id, 0);
            activate(builder, x, activation)
        }
        Op::Add => {
            let (a, b) = (builder.operand(id, 0), builder.operand(id, 1));
            builder.op("Add", &[&a, &b], &[])
        }
        Op::AddVector => {
            let (x, vector) = (builder.operand(id, 0), builder.operand(id, 1));
            add_vector(builder, &x, &vector)
        }
        Op::Repeat { images } => repeat(builder, id, images),
        Op::Concat(concat) => {
            let count = builder.graph.operands(id).len();
            let inputs: Vec<String> = (0..count).map(|position| builder.operand(id, position)).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            builder.op("Concat", &inputs, &[("axis", Attribute::Int(concat.axis as i64))])
        }
        Op::TimestepEmbedding(embedding) => timestep_embedding(builder, id, embedding),
        Op::CacheRead(_) | Op::Gather | Op::Scatter(_) | Op::GroupNormStatsUpdate { .. } => {
            unreachable!("refused above")
        }
    };
    builder.bind(ValueId { node: id, output: 0 }, result);
    Ok(())
}

fn repeat(builder: &mut Builder<'_>, id: NodeId, images: usize) -> String {
    let x = builder.operand(id, 0);
    let mut dims = vec![1; builder.operand_type(id, 0).shape.len()];
    dims[0] = images as i64;
    let dims = builder.ints(&dims);
    builder.op("Expand", &[&x, &dims], &[])
}

/// Whether outputs behind the first may be left out. The number of outputs of other standard operators is fixed, or says
/// what they do: a `Split` without one of its outputs splits otherwise.
fn has_optional_outputs(onnx: &OnnxOp) -> bool {
    const OPTIONAL: [&str; 9] = [
        "Attention",
        "BatchNormalization",
        "Dropout",
        "GRU",
        "LSTM",
        "LayerNormalization",
        "MaxPool",
        "RNN",
        "Unique",
    ];
    !onnx.domain.is_empty() || OPTIONAL.contains(&onnx.op_type.as_str())
}

fn opaque(builder: &mut Builder<'_>, id: NodeId, onnx: &OnnxOp) {
    if let Some(result) = older::flattened(builder, id, onnx) {
        builder.bind(ValueId { node: id, output: 0 }, result);
        return;
    }
    let count = builder.graph.operands(id).len();
    let mut inputs: Vec<String> = (0..count).map(|position| builder.operand(id, position)).collect();
    let attributes = older::renewed(builder, onnx, &mut inputs);
    let mut outputs = Vec::new();
    for output in 0..builder.graph.node(id).outputs().len() as u32 {
        let value = ValueId { node: id, output };
        // an optional output that nothing reads is left out: computing it may be another kernel, or none
        let is_needed = output == 0 || !has_optional_outputs(onnx) || !builder.graph.users(value).is_empty();
        let name = if is_needed { builder.fresh() } else { String::new() };
        builder.bind(value, name.clone());
        outputs.push(name);
    }
    while outputs.last().is_some_and(String::is_empty) {
        outputs.pop();
    }
    let attributes = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    builder.node(NodeParts {
        domain: &onnx.domain,
        op_type: &onnx.op_type,
        opset: onnx.opset,
        inputs,
        outputs,
        attributes,
    });
}

fn conv(builder: &mut Builder<'_>, id: NodeId, conv: &Conv) -> String {
    let at = |which| conv.operand_index(which);
    let mut shape = builder.operand_type(id, 0).shape;
    let mut x = builder.operand(id, 0);
    if let Some(second) = at(ConvOperand::SecondInput) {
        let other = builder.operand(id, second);
        let channels = shape[1] + builder.operand_type(id, second).shape[1];
        shape = [shape[0], channels, shape[2], shape[3]].into();
        x = builder.op("Concat", &[&x, &other], &[("axis", Attribute::Int(1))]);
    }
    if let Some(coefficients) = at(ConvOperand::Coefficients) {
        let coefficients = builder.operand(id, coefficients);
        x = affine(builder, x, 4, &coefficients, conv.activation);
    } else {
        x = activate(builder, x, conv.activation);
    }
    if let Some(size) = conv.upsample {
        x = upsample(builder, &x, &shape, size);
    }
    let weight = builder.operand(id, at(ConvOperand::Weight).expect("always there"));
    let bias = at(ConvOperand::Bias).map(|position| builder.operand(id, position));
    let mut inputs = vec![x.as_str(), weight.as_str()];
    inputs.extend(bias.as_deref());
    let ints = |values: &[usize]| Attribute::Ints(values.iter().map(|&value| value as i64).collect());
    let pads = [
        conv.padding.top,
        conv.padding.left,
        conv.padding.bottom,
        conv.padding.right,
    ];
    let attributes = [
        ("kernel_shape", ints(&conv.kernel)),
        ("strides", ints(&conv.stride)),
        ("pads", ints(&pads)),
    ];
    let mut y = builder.op("Conv", &inputs, &attributes);
    if let Some(vector) = at(ConvOperand::Vector) {
        let vector = builder.operand(id, vector);
        y = add_vector(builder, &y, &vector);
    }
    if let Some(residual) = at(ConvOperand::Residual) {
        let residual = builder.operand(id, residual);
        y = builder.op("Add", &[&y, &residual], &[]);
    }
    y
}

fn add_vector(builder: &mut Builder<'_>, x: &str, vector: &str) -> String {
    let axes = builder.ints(&[2, 3]);
    let vector = builder.op("Unsqueeze", &[vector, &axes], &[]);
    builder.op("Add", &[x, &vector], &[])
}

/// By factors where the size doubles, else by sizes: ONNX Runtime has a fast path for factors.
fn upsample(builder: &mut Builder<'_>, x: &str, shape: &Shape, size: [usize; 2]) -> String {
    let attributes = [
        ("mode", Attribute::String("nearest".into())),
        ("coordinate_transformation_mode", Attribute::String("asymmetric".into())),
        ("nearest_mode", Attribute::String("floor".into())),
    ];
    if size == [2 * shape[2], 2 * shape[3]] {
        let scales = builder.constant(HostTensor::from_f32([4], vec![1.0, 1.0, 2.0, 2.0]));
        return builder.op("Resize", &[x, "", &scales], &attributes);
    }
    let sizes = builder.ints(&[shape[0] as i64, shape[1] as i64, size[0] as i64, size[1] as i64]);
    builder.op("Resize", &[x, "", "", &sizes], &attributes)
}

fn tokens(builder: &mut Builder<'_>, id: NodeId) -> String {
    let shape = builder.operand_type(id, 0).shape;
    let x = builder.operand(id, 0);
    let x = builder.transpose(&x, &NCHW_TO_NHWC);
    builder.reshape(x, &[shape[0], shape[2] * shape[3], shape[1]])
}

fn spatial(builder: &mut Builder<'_>, id: NodeId, height: usize, width: usize) -> String {
    let shape = builder.operand_type(id, 0).shape;
    let x = builder.operand(id, 0);
    let x = builder.reshape(x, &[shape[0], height, width, shape[2]]);
    builder.transpose(&x, &NHWC_TO_NCHW)
}

fn layer_norm(builder: &mut Builder<'_>, x: &str, gamma: &str, beta: &str, epsilon: f64) -> String {
    let attributes = [
        ("axis", Attribute::Int(-1)),
        ("epsilon", Attribute::Float(epsilon as f32)),
    ];
    builder.op("LayerNormalization", &[x, gamma, beta], &attributes)
}

fn linear(builder: &mut Builder<'_>, id: NodeId, linear: Linear) -> String {
    let at = |which| linear.operand_index(which);
    let mut x = builder.operand(id, 0);
    if let (Some(epsilon), Some(gamma), Some(beta)) =
        (linear.layer_norm, at(LinearOperand::Gamma), at(LinearOperand::Beta))
    {
        let (gamma, beta) = (builder.operand(id, gamma), builder.operand(id, beta));
        x = layer_norm(builder, &x, &gamma, &beta, epsilon);
    }
    let mut y = if linear.geglu {
        gated_product(builder, &x, id)
    } else {
        let weight = builder.operand(id, 1);
        let bias = at(LinearOperand::Bias).map(|position| builder.operand(id, position));
        product(builder, &x, &weight, bias.as_deref())
    };
    if let Some(residual) = at(LinearOperand::Residual) {
        let residual = builder.operand(id, residual);
        y = builder.op("Add", &[&y, &residual], &[]);
    }
    y
}

fn product(builder: &mut Builder<'_>, x: &str, weight: &str, bias: Option<&str>) -> String {
    let y = builder.op("MatMul", &[x, weight], &[]);
    match bias {
        Some(bias) => builder.op("Add", &[&y, bias], &[]),
        None => y,
    }
}

/// Whether a linear computes nothing but what one gated GELU reads.
fn gates(builder: &Builder<'_>, id: NodeId) -> bool {
    let graph = builder.graph;
    let plain = matches!(graph.op(id), Op::Linear(linear) if *linear == Linear::plain(linear.bias));
    let user = graph.sole_user(ValueId { node: id, output: 0 });
    plain && user.is_some_and(|user| *graph.op(user) == Op::Geglu) && graph.operands(id)[1].weight().is_some()
}

/// `a * gelu(g)` of the product `[a | g]` of the linear `id` with `x`: each half from its half of the weight, which saves
/// cutting the product.
fn gated_product(builder: &mut Builder<'_>, x: &str, id: NodeId) -> String {
    let graph = builder.graph;
    let Op::Linear(linear) = graph.op(id) else {
        unreachable!("called for linears")
    };
    let (weight, bias) = (graph.operands(id)[1], linear.operand_index(LinearOperand::Bias));
    let channels = builder.operand_type(id, 1).shape[1] / 2;
    let [a, g] = [0, channels].map(|start| {
        let weight = builder.weight_range(weight, 1, start, channels);
        let bias = bias.map(|position| builder.weight_range(graph.operands(id)[position], 0, start, channels));
        product(builder, x, &weight, bias.as_deref())
    });
    let gate = builder.op_of(MICROSOFT, "Gelu", &[&g], &[]);
    builder.op("Mul", &[&a, &gate], &[])
}

/// `a * gelu(g)` of the halves `[a | g]` of the operand.
fn geglu(builder: &mut Builder<'_>, id: NodeId) -> String {
    let graph = builder.graph;
    if let Some(source) = graph.operands(id)[0]
        .value()
        .filter(|source| gates(builder, source.node))
    {
        let x = builder.operand(source.node, 0);
        return gated_product(builder, &x, source.node);
    }
    let x = builder.operand(id, 0);
    let channels = *graph.node(id).outputs()[0].shape.last().unwrap_or(&1) as i64;
    let split = builder.ints(&[channels, channels]);
    let (a, g) = (builder.fresh(), builder.fresh());
    builder.node(NodeParts {
        domain: "",
        op_type: "Split",
        opset: super::builder::OPSET,
        inputs: vec![x, split],
        outputs: vec![a.clone(), g.clone()],
        attributes: vec![attribute("axis", &Attribute::Int(-1))],
    });
    let gate = builder.op_of(MICROSOFT, "Gelu", &[&g], &[]);
    builder.op("Mul", &[&a, &gate], &[])
}

fn timestep_embedding(builder: &mut Builder<'_>, id: NodeId, embedding: TimestepEmbedding) -> String {
    let output = builder.graph.node(id).outputs()[0].clone();
    let (batch, half) = (output.shape[0], embedding.width / 2);
    let to_f32 = [("to", Attribute::Int(i64::from(crate::element::onnx_number(DType::F32))))];
    let timestep = builder.operand(id, 0);
    let timestep = builder.op("Cast", &[&timestep], &to_f32);
    let count = builder.operand_type(id, 0).shape.elements();
    let column = builder.reshape(timestep, &[count, 1]);
    let dims = builder.ints(&[batch as i64, 1]);
    let column = builder.op("Expand", &[&column, &dims], &[]);
    let frequency =
        |index: usize| (-embedding.max_period.ln() * index as f64 / (half as f64 - embedding.shift)).exp() as f32;
    let frequencies = HostTensor::from_f32([1, half], (0..half).map(frequency).collect());
    let frequencies = builder.large_constant(frequencies.into());
    let angles = builder.op("Mul", &[&column, &frequencies], &[]);
    let (sin, cos) = (builder.op("Sin", &[&angles], &[]), builder.op("Cos", &[&angles], &[]));
    let (first, second) = if embedding.flip_sin_to_cos {
        (cos, sin)
    } else {
        (sin, cos)
    };
    let embedded = builder.op("Concat", &[&first, &second], &[("axis", Attribute::Int(1))]);
    let to_model = [(
        "to",
        Attribute::Int(i64::from(crate::element::onnx_number(output.dtype))),
    )];
    if output.dtype == DType::F32 {
        embedded
    } else {
        builder.op("Cast", &[&embedded], &to_model)
    }
}
