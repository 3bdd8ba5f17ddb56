//! JSON, version 1; `docs/ir.md` documents every field.

use serde_json::{Value, json};

use super::{Dump, Kind};
use crate::{NodeId, Op, Operand, ValueId, ValueType};

/// Raised when a field changes its meaning or goes away; new fields do not raise it.
const VERSION: u32 = 1;

impl Dump<'_> {
    /// The whole graph, without the data of its weights.
    pub fn json(&self) -> Value {
        let slots = self.graph.slots().iter().enumerate().map(|(id, slot)| {
            let level = slot.level.map(|level| level.0);
            json!({"id": id, "name": slot.name, "level": level, "type": value_type(&slot.value_type)})
        });
        let weights = self.graph.weights().iter().map(|weight| {
            let (dtype, shape) = (weight.data.dtype(), weight.data.shape());
            let bytes = shape.elements().saturating_mul(dtype.size());
            json!({"name": weight.name, "dtype": dtype.name(), "shape": shape.dims(), "bytes": bytes})
        });
        json!({
            "format": "fisec-graph",
            "version": VERSION,
            "name": self.graph.name(),
            "slots": slots.collect::<Vec<_>>(),
            "weights": weights.collect::<Vec<_>>(),
            "nodes": self.printer.order().iter().map(|&id| self.node(id)).collect::<Vec<_>>(),
        })
    }

    /// One node, as in the array `nodes`.
    pub(super) fn node(&self, id: NodeId) -> Value {
        let node = self.graph.node(id);
        let outputs = node.outputs().iter().enumerate().map(|(output, declared)| {
            let mut entry = value_type(declared);
            entry["value"] = json!(self.printer.number(ValueId {
                node: id,
                output: output as u32
            }));
            entry
        });
        let origin = node.origin();
        let mut entry = json!({
            "op": node.op().name(),
            "kind": Kind::of(node.op()).name(),
            "text": self.printer.statement(id),
            "operands": node.operands().iter().map(|&operand| self.operand_json(operand)).collect::<Vec<_>>(),
            "outputs": outputs.collect::<Vec<_>>(),
            "origin": {"names": origin.names, "pass": origin.pass, "reason": origin.reason},
        });
        match node.op() {
            Op::Onnx(onnx) => {
                entry["onnx"] = json!({"domain": onnx.domain, "type": onnx.op_type, "opset": onnx.opset});
            }
            Op::CacheRead(slot) | Op::CacheWrite(slot) => entry["slot"] = json!(slot.0),
            _ => {}
        }
        let details = (self.details)(id);
        if let Some(macs) = details.macs {
            entry["macs"] = json!(macs);
        }
        if let Some(macs) = details.predicted_macs {
            entry["predicted_macs"] = json!(macs);
        }
        if !details.notes.is_empty() {
            entry["notes"] = json!(details.notes);
        }
        entry
    }

    fn operand_json(&self, operand: Operand) -> Value {
        match operand {
            Operand::Value(value) => json!({"value": self.printer.number(value)}),
            Operand::Weight(weight) => {
                let name = self.graph.weights().get(weight.0 as usize).map(|weight| &weight.name);
                json!({"weight": name})
            }
            Operand::Absent => Value::Null,
        }
    }
}

fn value_type(value: &ValueType) -> Value {
    let level = value.extent.level().map(|level| level.0);
    let ring = value.extent.ring();
    let bytes = value.shape.elements().saturating_mul(value.dtype.size());
    json!({"dtype": value.dtype.name(), "shape": value.shape.dims(), "active": level, "ring": ring, "bytes": bytes})
}
