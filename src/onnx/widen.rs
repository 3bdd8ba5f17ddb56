//! The f32 form of a model that computes in half precision.
//!
//! Before: `%y = Conv(%x, @w) : f16`, `@w : f16`
//!
//! After: `@w.half : f16` where the model's file has it, `%w = Cast(@w.half) : f32`, `%y = Conv(%x, %w) : f32`
//!
//! Weights stay where they are: an initializer of the new model is external data in the file of the old one. Nothing is
//! inferred and nothing is recognised, so this works for every operator that ONNX Runtime knows in both types.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use half::{bf16, f16};
use prost::Message;

use crate::ImportError;
use crate::files::ModelFiles;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::{DataLocation, DataType};
use crate::proto::type_proto::Value;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, TypeProto, ValueInfoProto,
};
use crate::read;

const FLOAT: i32 = DataType::Float as i32;

/// Attributes that hold the number of an element type.
const TYPE_ATTRIBUTES: [&str; 6] = [
    "to",
    "dtype",
    "output_datatype",
    "precision",
    "softmax_precision",
    "stash_type",
];

/// Tensors of at most this many bytes stand in the new model itself.
const INLINE_BYTES: usize = 1024;

/// A model that computes in f32 what `model` computes in half precision; `None` when that computes nothing in half
/// precision. It finds its weights in a file `name` beside it, which has the contents of `model`.
///
/// # Errors
/// Fails when the file cannot be read, or is no ONNX model.
pub fn widened(model: &Path, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
    let (_, bytes) = ModelFiles::open(model)?;
    let mut proto = read::model(model, bytes.clone())?;
    if !computes_in_half(&proto) {
        return Ok(None);
    }
    let file = ModelFile {
        name: name.to_owned(),
        bytes,
    };
    if let Some(graph) = &mut proto.graph {
        file.widen_graph(graph);
    }
    for function in &mut proto.functions {
        function.node.iter_mut().for_each(|node| file.widen_node(node));
        function
            .attribute_proto
            .iter_mut()
            .for_each(|attribute| file.widen_attribute(attribute));
        function.value_info.iter_mut().for_each(widen_value);
    }
    Ok(Some(proto.encode_to_vec()))
}

fn is_half(element: i32) -> bool {
    element == DataType::Float16 as i32 || element == DataType::Bfloat16 as i32
}

fn is_half_tensor(tensor: &TensorProto) -> bool {
    is_half(tensor.data_type.unwrap_or_default())
}

/// Whether an operator other than `Cast` reads a value in half precision. A model that only stores its weights in half
/// precision does not compute in it.
fn computes_in_half(model: &ModelProto) -> bool {
    let graph = model.graph.iter().any(|graph| reads_half(graph, &HashSet::new()));
    let functions = || model.functions.iter();
    graph || functions().any(|function| nodes_read_half(&function.node, HashSet::new()))
}

/// `outer`: names in half precision around the graph.
fn reads_half(graph: &GraphProto, outer: &HashSet<&str>) -> bool {
    let initializers = graph.initializer.iter().filter(|tensor| is_half_tensor(tensor));
    let inputs = graph.input.iter().filter(|input| {
        let tensor = input.r#type.as_ref().and_then(|of| of.value.as_ref());
        matches!(tensor, Some(Value::TensorType(tensor)) if is_half(tensor.elem_type.unwrap_or_default()))
    });
    let names = initializers
        .map(TensorProto::name)
        .chain(inputs.map(ValueInfoProto::name));
    nodes_read_half(&graph.node, outer.iter().copied().chain(names).collect())
}

fn nodes_read_half<'a>(nodes: &'a [NodeProto], mut halves: HashSet<&'a str>) -> bool {
    halves.extend(
        nodes
            .iter()
            .filter(|node| makes_half(node))
            .flat_map(|node| node.output.iter().map(String::as_str)),
    );
    nodes.iter().any(|node| {
        let reads = node.op_type() != "Cast" && node.input.iter().any(|name| halves.contains(name.as_str()));
        let graphs = || {
            node.attribute
                .iter()
                .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
        };
        reads || graphs().any(|graph| reads_half(graph, &halves))
    })
}

/// Whether a node that reads nothing in half precision gives something in it.
fn makes_half(node: &NodeProto) -> bool {
    node.attribute.iter().any(|attribute| match attribute.name() {
        "value" => attribute.t.as_ref().is_some_and(is_half_tensor),
        name => TYPE_ATTRIBUTES.contains(&name) && is_half(attribute.i() as i32),
    })
}

/// The file that is widened.
struct ModelFile {
    name: String,
    bytes: Bytes,
}

impl ModelFile {
    fn widen_graph(&self, graph: &mut GraphProto) {
        graph.node.iter_mut().for_each(|node| self.widen_node(node));
        let mut casts = Vec::new();
        let mut stored = HashSet::new();
        for tensor in &mut graph.initializer {
            self.move_out(tensor);
            if is_half_tensor(tensor) {
                let name = tensor.name().to_owned();
                tensor.name = Some(half_name(&name));
                casts.push(cast(&name));
                stored.insert(name);
            }
        }
        graph.node.splice(0..0, casts);
        // models of old list initializers as inputs too
        let (kept, widened): (Vec<_>, Vec<_>) = graph.input.iter_mut().partition(|input| stored.contains(input.name()));
        kept.into_iter()
            .for_each(|input| input.name = Some(half_name(input.name())));
        widened
            .into_iter()
            .chain(&mut graph.output)
            .chain(&mut graph.value_info)
            .for_each(widen_value);
    }

    fn widen_node(&self, node: &mut NodeProto) {
        node.attribute
            .iter_mut()
            .for_each(|attribute| self.widen_attribute(attribute));
    }

    fn widen_attribute(&self, attribute: &mut AttributeProto) {
        let is_number = attribute.r#type == Some(AttributeType::Int as i32) || attribute.i.is_some();
        if is_number && TYPE_ATTRIBUTES.contains(&attribute.name()) && is_half(attribute.i() as i32) {
            attribute.i = Some(FLOAT.into());
        }
        attribute
            .t
            .iter_mut()
            .chain(&mut attribute.tensors)
            .for_each(widen_tensor);
        attribute
            .g
            .iter_mut()
            .chain(&mut attribute.graphs)
            .for_each(|graph| self.widen_graph(graph));
        attribute
            .tp
            .iter_mut()
            .chain(&mut attribute.type_protos)
            .for_each(widen_type);
    }

    /// Lets a large initializer point at its bytes in the file instead of holding them.
    fn move_out(&self, tensor: &mut TensorProto) {
        let Some(data) = tensor.raw_data.as_ref().filter(|data| data.len() > INLINE_BYTES) else {
            return;
        };
        let Some(offset) = (data.as_ptr().addr()).checked_sub(self.bytes.as_ptr().addr()) else {
            return;
        };
        if offset.saturating_add(data.len()) > self.bytes.len() {
            return;
        }
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        tensor.external_data = vec![
            entry("location", self.name.clone()),
            entry("offset", offset.to_string()),
            entry("length", data.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.raw_data = None;
    }
}

/// The name of an initializer that a cast makes `name` of.
fn half_name(name: &str) -> String {
    format!("{name}.half")
}

/// Makes an initializer f32; ONNX Runtime does it once, when it opens the model.
fn cast(name: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("{name}.widened")),
        op_type: Some("Cast".into()),
        input: vec![half_name(name)],
        output: vec![name.to_owned()],
        attribute: vec![AttributeProto {
            name: Some("to".into()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(FLOAT.into()),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

fn widen_value(value: &mut ValueInfoProto) {
    value.r#type.iter_mut().for_each(widen_type);
}

fn widen_type(of: &mut TypeProto) {
    match &mut of.value {
        Some(Value::TensorType(tensor)) if is_half(tensor.elem_type.unwrap_or_default()) => {
            tensor.elem_type = Some(FLOAT);
        }
        Some(Value::SequenceType(sequence)) => sequence.elem_type.iter_mut().for_each(|of| widen_type(of)),
        Some(Value::OptionalType(optional)) => optional.elem_type.iter_mut().for_each(|of| widen_type(of)),
        _ => {}
    }
}

/// A tensor of an attribute: small, and with nowhere else to be.
fn widen_tensor(tensor: &mut TensorProto) {
    if !is_half_tensor(tensor) {
        return;
    }
    let halves: Vec<u16> = match &tensor.raw_data {
        Some(raw) => raw
            .chunks_exact(2)
            .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
            .collect(),
        None => tensor.int32_data.iter().map(|&bits| bits as u16).collect(),
    };
    let is_brain = tensor.data_type == Some(DataType::Bfloat16 as i32);
    let value = |bits: u16| match is_brain {
        true => bf16::from_bits(bits).to_f32(),
        false => f16::from_bits(bits).to_f32(),
    };
    let bytes: Vec<u8> = halves.into_iter().flat_map(|bits| value(bits).to_le_bytes()).collect();
    tensor.raw_data = Some(bytes.into());
    tensor.int32_data = Vec::new();
    tensor.data_type = Some(FLOAT);
}
