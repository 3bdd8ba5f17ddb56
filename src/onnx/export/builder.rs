//! A model under construction.

use std::collections::{BTreeMap, HashMap};

use fisec_ir::{Attribute, Graph, NodeId, Op, Operand, ValueId, ValueType, WeightId};
use fisec_tensor::{Constant, DType, HostTensor, Shape, Transform};

use super::attributes::{attribute, tensor};
use super::{ExportError, WeightSink};
use crate::element::onnx_number;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};

/// Version of the standard operator set that is written.
pub const OPSET: i64 = 17;
/// ONNX IR version that goes with it.
const IR_VERSION: i64 = 8;
/// Initializers of at most this many bytes stand in the model itself.
const INLINE_BYTES: usize = 1024;
/// Constants of one value with more bytes are not stored: ONNX Runtime expands them.
const LARGEST_FILL: usize = 1 << 20;

/// Collects nodes and initializers under unique names.
pub struct Builder<'a> {
    pub graph: &'a Graph,
    names: HashMap<ValueId, String>,
    opsets: BTreeMap<String, i64>,
    initializers: BTreeMap<String, Constant>,
    proto: GraphProto,
    fresh: usize,
}

impl<'a> Builder<'a> {
    pub fn new(graph: &'a Graph) -> Self {
        let proto = GraphProto {
            name: Some(graph.name().to_owned()),
            ..GraphProto::default()
        };
        let opsets = BTreeMap::from([(String::new(), standard_opset(graph))]);
        let (names, initializers) = (HashMap::new(), BTreeMap::new());
        Builder {
            graph,
            names,
            opsets,
            initializers,
            proto,
            fresh: 0,
        }
    }

    /// A name that nothing else has.
    pub fn fresh(&mut self) -> String {
        self.fresh += 1;
        format!("t{}", self.fresh)
    }

    /// Gives a value of the graph its name in the model.
    pub fn bind(&mut self, value: ValueId, name: String) {
        self.names.insert(value, name);
    }

    /// The name of an operand; empty for an absent one.
    pub fn name(&mut self, operand: Operand) -> String {
        match operand {
            Operand::Value(value) => self.names[&value].clone(),
            Operand::Weight(weight) => self.weight(weight),
            Operand::Absent => String::new(),
        }
    }

    /// The name of operand `position` of a node.
    pub fn operand(&mut self, id: NodeId, position: usize) -> String {
        self.name(self.graph.operands(id)[position])
    }

    /// The type of operand `position` of a node.
    pub fn operand_type(&self, id: NodeId, position: usize) -> ValueType {
        let operand = self.graph.operands(id)[position];
        self.graph
            .operand_type(operand)
            .unwrap_or_else(|| ValueType::full(DType::F32, Shape::scalar()))
    }

    fn weight(&mut self, id: WeightId) -> String {
        let info = self.graph.weight(id);
        self.initializers
            .entry(info.name.clone())
            .or_insert_with(|| info.data.clone());
        info.name.clone()
    }

    /// A weight operand under another shape, e.g. `[C]` as `[C, 1, 1]`.
    pub fn weight_shaped(&mut self, operand: Operand, shape: &[usize]) -> String {
        let Operand::Weight(id) = operand else {
            let source = self.name(operand);
            return self.reshape(source, shape);
        };
        let info = self.graph.weight(id);
        let name = format!("{} as {}", info.name, Shape::from(shape));
        let data = info.data.transformed(Transform::Reshape(shape.into()));
        self.initializers.entry(name.clone()).or_insert(data);
        name
    }

    /// A range of one axis of a weight operand.
    pub fn weight_range(&mut self, operand: Operand, axis: usize, start: usize, length: usize) -> String {
        let Operand::Weight(id) = operand else {
            return self.name(operand);
        };
        let info = self.graph.weight(id);
        let name = format!("{} [{start}..{}]", info.name, start + length);
        let slice = Transform::Slice { axis, start, length };
        let data = info.data.transformed(slice);
        self.initializers.entry(name.clone()).or_insert(data);
        name
    }

    /// A small constant; equal ones are stored once.
    pub fn constant(&mut self, value: HostTensor) -> String {
        let bits: Vec<String> = value.to_f64_vec().iter().take(64).map(ToString::to_string).collect();
        let name = format!("const {}[{}] {}", value.dtype(), value.shape(), bits.join(" "));
        self.initializers.entry(name.clone()).or_insert_with(|| value.into());
        name
    }

    /// A constant list of 64-bit integers.
    pub fn ints(&mut self, values: &[i64]) -> String {
        self.constant(HostTensor::from_i64([values.len()], values.to_vec()))
    }

    /// A scalar in element type `dtype`.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> String {
        self.constant(HostTensor::from_f64(dtype, Shape::scalar(), &[value]).expect("one element"))
    }

    /// A constant of any size under a name of its own.
    pub fn large_constant(&mut self, value: Constant) -> String {
        let name = format!("{} const", self.fresh());
        self.initializers.insert(name.clone(), value);
        name
    }

    /// Adds a standard operator with one result.
    pub fn op(&mut self, op_type: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.op_of("", op_type, inputs, attributes)
    }

    /// Adds an operator of `domain` with one result.
    pub fn op_of(&mut self, domain: &str, op_type: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = self.fresh();
        let attributes = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
        let opset = if domain.is_empty() { OPSET } else { 1 };
        self.node(NodeParts {
            domain,
            op_type,
            opset,
            inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
            outputs: vec![output.clone()],
            attributes,
        });
        output
    }

    /// Adds a node as it is.
    pub fn node(&mut self, parts: NodeParts<'_>) {
        let known = self.opsets.entry(parts.domain.to_owned()).or_insert(parts.opset);
        *known = (*known).max(parts.opset);
        self.proto.node.push(NodeProto {
            name: Some(format!("n{}", self.proto.node.len())),
            op_type: Some(parts.op_type.to_owned()),
            domain: (!parts.domain.is_empty()).then(|| parts.domain.to_owned()),
            input: parts.inputs,
            output: parts.outputs,
            attribute: parts.attributes,
            ..NodeProto::default()
        });
    }

    /// `x` under another shape.
    pub fn reshape(&mut self, x: String, shape: &[usize]) -> String {
        let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let dims = self.ints(&dims);
        self.op("Reshape", &[&x, &dims], &[])
    }

    /// The mean over one axis, which stays with size 1. The axis is an operand since operator set 18.
    pub fn mean(&mut self, x: &str, axis: i64) -> String {
        if self.opsets[""] < 18 {
            let attributes = [("axes", Attribute::Ints(vec![axis])), ("keepdims", Attribute::Int(1))];
            return self.op("ReduceMean", &[x], &attributes);
        }
        let axes = self.ints(&[axis]);
        self.op("ReduceMean", &[x, &axes], &[("keepdims", Attribute::Int(1))])
    }

    /// `x` with its axes permuted.
    pub fn transpose(&mut self, x: &str, permutation: &[i64]) -> String {
        self.op("Transpose", &[x], &[("perm", Attribute::Ints(permutation.to_vec()))])
    }

    /// Declares a model input.
    pub fn input(&mut self, name: &str, value: &ValueType) {
        self.proto.input.push(value_info(name, value));
    }

    /// Makes `x` the model output `name`.
    pub fn output(&mut self, name: &str, x: &str, value: &ValueType) {
        self.forward(name, x);
        self.proto.output.push(value_info(name, value));
    }

    /// Makes `x` the model output `name` and leaves its type to be inferred.
    pub fn untyped_output(&mut self, name: &str, x: &str) {
        self.forward(name, x);
        self.proto.output.push(ValueInfoProto {
            name: Some(name.to_owned()),
            ..ValueInfoProto::default()
        });
    }

    fn forward(&mut self, name: &str, x: &str) {
        self.proto.node.push(NodeProto {
            name: Some(format!("n{}", self.proto.node.len())),
            op_type: Some("Identity".into()),
            input: vec![x.to_owned()],
            output: vec![name.to_owned()],
            ..NodeProto::default()
        });
    }

    /// The finished model.
    pub fn finish(mut self, sink: &mut dyn WeightSink) -> Result<ModelProto, ExportError> {
        let mut widened = Vec::new();
        for (name, data) in &self.initializers {
            if let Some(value) = data.fill_value().filter(|_| is_large_fill(data)) {
                self.proto.initializer.extend(expansion(name, data, value));
                widened.push(expand(name, widened.len()));
                continue;
            }
            match data.unwidened().filter(|_| is_large(data)) {
                Some(half) => {
                    let stored = format!("{name} {}", half.dtype());
                    self.proto.initializer.push(initializer(&stored, &half, sink)?);
                    widened.push(widen(stored, name.clone(), widened.len()));
                }
                None => self.proto.initializer.push(initializer(name, data, sink)?),
            }
        }
        self.proto.node.splice(0..0, widened);
        let opset = |(domain, version): (String, i64)| OperatorSetIdProto {
            domain: Some(domain),
            version: Some(version),
        };
        Ok(ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("fisec".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            opset_import: self.opsets.into_iter().map(opset).collect(),
            graph: Some(self.proto),
            ..ModelProto::default()
        })
    }
}

/// The newest standard operator set among the opaque nodes, at least [`OPSET`].
fn standard_opset(graph: &Graph) -> i64 {
    let opset = |id: NodeId| match graph.op(id) {
        Op::Onnx(op) if op.domain.is_empty() => Some(op.opset),
        _ => None,
    };
    graph.ids().into_iter().filter_map(opset).fold(OPSET, i64::max)
}

/// An ONNX node before it is written.
pub struct NodeParts<'a> {
    pub domain: &'a str,
    pub op_type: &'a str,
    pub opset: i64,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<crate::proto::AttributeProto>,
}

/// Whether a constant stands outside of the model.
fn is_large(data: &Constant) -> bool {
    data.shape().elements().saturating_mul(data.dtype().size()) > INLINE_BYTES
}

/// Whether a constant of one value is expanded by ONNX Runtime, which has no such operator for bf16.
fn is_large_fill(data: &Constant) -> bool {
    data.bytes() > LARGEST_FILL && data.dtype() != DType::BF16
}

/// What [`expand`] reads: the value and the shape.
fn expansion(name: &str, data: &Constant, value: f64) -> [TensorProto; 2] {
    let dims: Vec<i64> = data.shape().iter().map(|&dim| dim as i64).collect();
    let value = HostTensor::from_f64(data.dtype(), Shape::scalar(), &[value]).expect("one element");
    let shape = HostTensor::from_i64([dims.len()], dims);
    [
        tensor(&format!("{name} value"), &value),
        tensor(&format!("{name} shape"), &shape),
    ]
}

/// Makes a constant of one value as large as the graph has it.
fn expand(name: &str, index: usize) -> NodeProto {
    NodeProto {
        name: Some(format!("w{index}")),
        op_type: Some("Expand".into()),
        input: vec![format!("{name} value"), format!("{name} shape")],
        output: vec![name.to_owned()],
        ..NodeProto::default()
    }
}

/// Makes an initializer of half precision `f32` again; ONNX Runtime does it once, when it opens the model.
fn widen(stored: String, name: String, index: usize) -> NodeProto {
    NodeProto {
        name: Some(format!("w{index}")),
        op_type: Some("Cast".into()),
        input: vec![stored],
        output: vec![name],
        attribute: vec![attribute("to", &Attribute::Int(onnx_number(DType::F32).into()))],
        ..NodeProto::default()
    }
}

fn initializer(name: &str, data: &Constant, sink: &mut dyn WeightSink) -> Result<TensorProto, ExportError> {
    if !is_large(data) {
        return Ok(tensor(name, &data.materialize()));
    }
    let place = sink.place(name, data).map_err(|cause| ExportError::Weight {
        name: name.to_owned(),
        cause,
    })?;
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    Ok(TensorProto {
        name: Some(name.to_owned()),
        dims: data.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: Some(onnx_number(data.dtype())),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            entry("location", place.file),
            entry("offset", place.offset.to_string()),
            entry("length", place.length.to_string()),
        ],
        ..TensorProto::default()
    })
}

fn value_info(name: &str, value: &ValueType) -> ValueInfoProto {
    let dim = |&dim: &usize| Dimension {
        value: Some(dimension::Value::DimValue(dim as i64)),
        ..Dimension::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(onnx_number(value.dtype)),
        shape: Some(TensorShapeProto {
            dim: value.shape.iter().map(dim).collect(),
        }),
    };
    let value = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::default()
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(value),
        ..ValueInfoProto::default()
    }
}
