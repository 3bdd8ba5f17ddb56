//! Compute in f32 what the model stores in half precision, for backends without half-precision arithmetic.
//!
//! Before: `%y = conv %x, @w : f16[…]`, `@w : f16`
//!
//! After: `%y = conv %x, @w : f32[…]`, `@w : f32` (converted when the weight is written, not before)

use std::collections::HashMap;

use fisec_ir::{Attribute, Graph, Op, Operand, ValueType, WeightId, WeightInfo};
use fisec_tensor::{DType, Transform};

use crate::{Changes, PassError};

/// ONNX's number for 32-bit floats.
const ONNX_FLOAT: i64 = 1;
/// ONNX's numbers for half-precision floats: float16 and bfloat16.
const ONNX_HALVES: [i64; 2] = [10, 16];

/// Rewrites every half-precision value and weight to f32.
pub fn widen_floats(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    let mut widened: HashMap<WeightId, WeightId> = HashMap::new();
    for id in graph.ids() {
        let outputs: Vec<ValueType> = graph.node(id).outputs().iter().map(widen).collect();
        let operands: Vec<Operand> = graph
            .operands(id)
            .to_vec()
            .into_iter()
            .map(|operand| weight(graph, &mut widened, operand))
            .collect();
        let op = cast_to_float(graph.op(id));
        let node = graph.node(id);
        if outputs == node.outputs() && operands == node.operands() && op.is_none() {
            continue;
        }
        graph.set_outputs(id, outputs);
        graph.set_operands(id, operands);
        if let Some(op) = op {
            graph.set_op(id, op);
        }
        changes += Changes(1);
    }
    Ok(changes)
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn widen(value: &ValueType) -> ValueType {
    let dtype = if is_half(value.dtype) { DType::F32 } else { value.dtype };
    ValueType { dtype, ..value.clone() }
}

fn weight(graph: &mut Graph, widened: &mut HashMap<WeightId, WeightId>, operand: Operand) -> Operand {
    let Operand::Weight(id) = operand else { return operand };
    if !is_half(graph.weight(id).data.dtype()) {
        return operand;
    }
    let new = *widened.entry(id).or_insert_with(|| {
        let WeightInfo { name, data } = graph.weight(id).clone();
        graph.add_weight(WeightInfo {
            name,
            data: data.transformed(Transform::Cast(DType::F32)),
        })
    });
    new.into()
}

/// A cast to half precision becomes one to f32.
fn cast_to_float(op: &Op) -> Option<Op> {
    let Op::Onnx(onnx) = op else { return None };
    if !onnx.is("Cast") || !ONNX_HALVES.contains(&onnx.int("to", 0)) {
        return None;
    }
    let mut cast = onnx.clone();
    cast.attributes.insert("to".into(), Attribute::Int(ONNX_FLOAT));
    Some(Op::Onnx(cast))
}
