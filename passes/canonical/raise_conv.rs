//! Recognise convolutions, with the bias and the padding that exporters keep apart.
//!
//! Before: `Add(Conv(Pad(%x), w), b[C,1,1])`.  After: `conv %x, w, b`.

use fisec_ir::{Activation, Attribute, Conv, Graph, NodeId, OnnxOp, Op, Operand, Padding};
use fisec_tensor::DType;

use super::order;
use super::pattern::{Rewriter, constant, either_way, is, result, scalar, weight_ints};
use crate::{Changes, PassError};

const PASS: &str = "raise_conv";

/// Raises every ungrouped, undilated convolution of maps.
pub fn raise_conv(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        if matches!(rewriter.graph.op(id), Op::Onnx(op) if op.is("Conv")) {
            raise(&mut rewriter, id);
        } else if matches!(rewriter.graph.op(id), Op::Onnx(op) if op.is("Add")) {
            absorb_bias(&mut rewriter, id);
        }
    }
    Ok(rewriter.finish())
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let Op::Onnx(op) = graph.op(id) else { return None };
    let mut conv = convolution(graph, id, op)?;
    let mut operands = graph.operands(id).to_vec();
    operands.retain(|operand| *operand != Operand::Absent);
    let mut sources = vec![id];
    if let Some((pad, padding)) = zero_pad(graph, operands[0]) {
        conv.padding = sum(conv.padding, padding);
        operands[0] = graph.operands(pad)[0];
        sources.insert(0, pad);
    }
    conv.bias = operands.len() == 3;
    rewriter.replace(result(id), Op::Conv(conv), operands, &sources);
    Some(())
}

fn convolution(graph: &Graph, id: NodeId, op: &OnnxOp) -> Option<Conv> {
    let weight = graph.operands(id).get(1)?.weight()?;
    let [_, _, rows, columns] = graph.weight(weight).data.shape()[..] else {
        return None;
    };
    let pair = |name: &str| match op.ints(name) {
        None => Some([1, 1]),
        Some(&[a, b]) => Some([usize::try_from(a).ok()?, usize::try_from(b).ok()?]),
        Some(_) => None,
    };
    let explicit = match op.attributes.get("auto_pad") {
        None => true,
        Some(Attribute::String(mode)) => mode == "NOTSET",
        Some(_) => false,
    };
    let bias = match graph.operands(id).get(2) {
        None | Some(Operand::Absent) => true,
        Some(bias) => bias.weight().is_some(),
    };
    if op.int("group", 1) != 1 || pair("dilations")? != [1, 1] || !explicit || !bias {
        return None;
    }
    Some(Conv {
        kernel: [rows, columns],
        stride: pair("strides")?,
        padding: match op.ints("pads") {
            None => Padding::default(),
            Some(pads) => padding(pads)?,
        },
        upsample: None,
        concat: false,
        bias: true,
        affine: false,
        activation: Activation::None,
        vector: false,
        residual: false,
    })
}

fn padding(pads: &[i64]) -> Option<Padding> {
    let sizes: Vec<usize> = pads
        .iter()
        .map(|&pad| usize::try_from(pad).ok())
        .collect::<Option<_>>()?;
    let [top, left, bottom, right] = sizes[..] else {
        return None;
    };
    Some(Padding {
        top,
        left,
        bottom,
        right,
    })
}

fn sum(a: Padding, b: Padding) -> Padding {
    Padding {
        top: a.top + b.top,
        left: a.left + b.left,
        bottom: a.bottom + b.bottom,
        right: a.right + b.right,
    }
}

/// A `Pad` of rows and columns with zeros that only this convolution reads.
fn zero_pad(graph: &Graph, operand: Operand) -> Option<(NodeId, Padding)> {
    let value = operand.value().filter(|&value| is(graph, value, "Pad"))?;
    graph.sole_user(value)?;
    let Op::Onnx(op) = graph.op(value.node) else {
        return None;
    };
    let constant_mode = match op.attributes.get("mode") {
        None => true,
        Some(Attribute::String(mode)) => mode == "constant",
        Some(_) => false,
    };
    let operands = graph.operands(value.node);
    let fill = match operands.get(2) {
        None | Some(Operand::Absent) => f64::from(op.float("value", 0.0)),
        Some(fill) => scalar(graph, *fill)?,
    };
    let pads = match op.ints("pads") {
        Some(pads) => pads.to_vec(),
        None => weight_ints(graph, *operands.get(1)?)?,
    };
    let axes = operands.get(3).is_some_and(|axes| *axes != Operand::Absent);
    let &[0, 0, top, left, 0, 0, bottom, right] = &pads[..] else {
        return None;
    };
    if !constant_mode || fill != 0.0 || axes {
        return None;
    }
    Some((value.node, padding(&[top, left, bottom, right])?))
}

/// `Add(conv, constant per channel)`.
fn absorb_bias(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let (product, bias) = either_way(graph, id).into_iter().find_map(|(product, bias)| {
        let product = product.value()?;
        let plain = matches!(graph.op(product.node), Op::Conv(_));
        (plain && graph.sole_user(product).is_some()).then_some((product, bias))
    })?;
    let channels = graph.value_type(product).shape[1];
    let shape = constant(graph, bias)?.shape().to_vec();
    let per_channel = matches!(shape[..], [c, 1, 1] | [1, c, 1, 1] if c == channels);
    if !per_channel || graph.value_type(product) != graph.value_type(result(id)) {
        return None;
    }
    let Op::Conv(conv) = graph.op(product.node).clone() else {
        return None;
    };
    let dtype: DType = graph.value_type(product).dtype;
    let mut operands = graph.operands(product.node).to_vec();
    let bias = rewriter.vector(bias, dtype);
    match operands.get(2).copied() {
        Some(own) => operands[2] = rewriter.sum(own, bias)?,
        None => operands.push(bias),
    }
    let conv = Conv { bias: true, ..conv };
    rewriter.replace(result(id), Op::Conv(conv), operands, &[product.node, id]);
    Some(())
}
