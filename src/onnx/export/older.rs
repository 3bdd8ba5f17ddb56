//! Operators of operator sets before 13 in the form that later sets have.

use std::collections::BTreeMap;

use fisec_ir::{Attribute, NodeId, OnnxOp};

use super::builder::Builder;

/// The operator set from which lists are operands and softmaxes are along one axis.
const CHANGED: i64 = 13;

/// Moves attributes that became operands behind `inputs`, and returns the attributes that are left.
pub fn renewed(builder: &mut Builder<'_>, onnx: &OnnxOp, inputs: &mut Vec<String>) -> BTreeMap<String, Attribute> {
    let mut attributes = onnx.attributes.clone();
    let moved = match onnx.op_type.as_str() {
        _ if !onnx.domain.is_empty() || onnx.opset >= CHANGED => return attributes,
        "Squeeze" | "Unsqueeze" | "ReduceSum" => "axes",
        "Split" => "split",
        _ => return attributes,
    };
    if let (Some(Attribute::Ints(values)), 1) = (attributes.remove(moved), inputs.len()) {
        inputs.push(builder.ints(&values));
    }
    attributes
}

/// A softmax of an older set over all axes from one on; `None` where a later one is the same.
pub fn flattened(builder: &mut Builder<'_>, id: NodeId, onnx: &OnnxOp) -> Option<String> {
    let is_softmax = matches!(onnx.op_type.as_str(), "Softmax" | "LogSoftmax" | "Hardmax");
    if !is_softmax || !onnx.domain.is_empty() || onnx.opset >= CHANGED {
        return None;
    }
    let shape = builder.operand_type(id, 0).shape;
    let (axis, rank) = (onnx.int("axis", 1), shape.len() as i64);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis })
        .ok()
        .filter(|&axis| axis <= shape.len())?;
    let (rows, columns) = shape.split_at(axis);
    let flat = [rows.iter().product(), columns.iter().product()];
    let x = builder.operand(id, 0);
    let x = builder.reshape(x, &flat);
    let y = builder.op(&onnx.op_type, &[&x], &[("axis", Attribute::Int(-1))]);
    Some(builder.reshape(y, &shape))
}
