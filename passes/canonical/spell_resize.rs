//! Write a resize of some axes as one of all axes.
//!
//! Before: `onnx Resize %x, -, -, [64,64], axes=[2,3]`.  After: `onnx Resize %x, -, -, [2,320,64,64]`.
//!
//! ONNX Runtime's optimizer moves transposes through a resize as if its sizes named every axis.

use fisec_ir::{Attribute, Graph, NodeId, OnnxOp, Op, Operand, WeightInfo};
use fisec_tensor::HostTensor;

use super::order;
use super::pattern::{Rewriter, onnx, result, weight_floats, weight_ints};
use crate::{Changes, PassError};

const PASS: &str = "spell_resize";

/// Positions of the operands of `Resize`.
const REGION: usize = 1;
const SCALES: usize = 2;
const SIZES: usize = 3;

/// Writes every resize of named axes, where its scales or sizes are constants, without naming axes.
pub fn spell_resize(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        spell(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn spell(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id)).filter(|op| op.is("Resize"))?.clone();
    let shape = graph.operand_type(*graph.operands(id).first()?)?.shape;
    let axes = op.ints("axes")?.iter().map(|&axis| {
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < shape.len())
    });
    let axes: Vec<usize> = axes.collect::<Option<_>>()?;
    let operand = |position: usize| graph.operands(id).get(position).copied().unwrap_or(Operand::Absent);
    // a region, and a ratio that is kept, are of the named axes
    let keeps_ratio = matches!(
        op.attributes.get("keep_aspect_ratio_policy"),
        Some(Attribute::String(policy)) if policy != "stretch"
    );
    if keeps_ratio || !is_empty(graph, operand(REGION)) {
        return None;
    }
    let mut operands = graph.operands(id).to_vec();
    let (position, data) = match is_empty(graph, operand(SIZES)) {
        true => {
            let mut scales = vec![1.0; shape.len()];
            spread(&mut scales, &axes, weight_floats(graph, operand(SCALES))?)?;
            let scales = scales.into_iter().map(|scale| scale as f32).collect();
            (SCALES, HostTensor::from_f32([shape.len()], scales))
        }
        false => {
            let mut sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
            spread(&mut sizes, &axes, weight_ints(graph, operand(SIZES))?)?;
            (SIZES, HostTensor::from_i64([shape.len()], sizes))
        }
    };
    let name = format!("{}.all_axes", graph.origin(id).label());
    let constant = rewriter.graph.add_weight(WeightInfo {
        name,
        data: data.into(),
    });
    operands[position] = constant.into();
    let mut attributes = op.attributes;
    attributes.remove("axes");
    rewriter.replace(result(id), Op::Onnx(OnnxOp { attributes, ..op }), operands, &[id]);
    Some(())
}

/// Puts `values` at `axes`; `None` where there are more or fewer.
fn spread<T>(all: &mut [T], axes: &[usize], values: Vec<T>) -> Option<()> {
    if values.len() != axes.len() {
        return None;
    }
    for (&axis, value) in axes.iter().zip(values) {
        all[axis] = value;
    }
    Some(())
}

/// Whether an operand is absent, or a constant without elements, as exporters write absent ones too.
fn is_empty(graph: &Graph, operand: Operand) -> bool {
    match operand {
        Operand::Absent => true,
        Operand::Weight(weight) => graph.weight(weight).data.shape().elements() == 0,
        Operand::Value(_) => false,
    }
}
