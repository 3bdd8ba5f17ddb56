//! ONNX files changed for a test, at the level of protobuf fields.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::HashSet;

use half::f16;

/// Fields of `onnx.proto`.
mod field {
    pub const MODEL_GRAPH: u32 = 7;
    pub const GRAPH_NODE: u32 = 1;
    pub const GRAPH_INITIALIZER: u32 = 5;
    pub const GRAPH_INPUT: u32 = 11;
    pub const GRAPH_OUTPUT: u32 = 12;
    pub const GRAPH_VALUE_INFO: u32 = 13;
    pub const NODE_INPUT: u32 = 1;
    pub const NODE_OUTPUT: u32 = 2;
    pub const NODE_OP_TYPE: u32 = 4;
    pub const NODE_ATTRIBUTE: u32 = 5;
    pub const ATTRIBUTE_NAME: u32 = 1;
    pub const ATTRIBUTE_INT: u32 = 3;
    pub const ATTRIBUTE_TENSOR: u32 = 5;
    pub const TENSOR_DIMS: u32 = 1;
    pub const TENSOR_TYPE: u32 = 2;
    pub const TENSOR_FLOATS: u32 = 4;
    pub const TENSOR_NAME: u32 = 8;
    pub const TENSOR_RAW: u32 = 9;
    pub const TENSOR_EXTERNAL_DATA: u32 = 13;
    pub const TENSOR_LOCATION: u32 = 14;
    pub const VALUE_TYPE: u32 = 2;
    pub const TYPE_TENSOR: u32 = 1;
    pub const TENSOR_TYPE_ELEMENT: u32 = 1;
}

/// ONNX's numbers of element types.
const FLOAT: u64 = 1;
const HALF: u64 = 10;
/// ONNX's number for data in another file.
const EXTERNAL: u64 = 1;

/// The model with a value that is no number at the beginning of every float initializer.
pub fn poisoned(model: &[u8]) -> Vec<u8> {
    with_weights(model, |_, values| values[0] = f32::NAN)
}

/// The model with the values of the initializers changed whose names `change` is told.
pub fn with_weights(model: &[u8], mut change: impl FnMut(&str, &mut [f32])) -> Vec<u8> {
    let mut changed = 0;
    let edited = with_graph(model, |graph| {
        for tensor in graph.messages(field::GRAPH_INITIALIZER) {
            changed += usize::from(change_tensor(tensor, &mut change));
        }
    });
    assert!(changed > 0, "the model has float initializers");
    edited
}

/// The model computing in half precision: values, weights and casts, as converters do it; weights stored as int8 are made
/// halves too.
pub fn halved(model: &[u8]) -> Vec<u8> {
    with_graph(model, |graph| {
        dequantize(graph);
        let floats = kept_floats(graph);
        for tensor in graph.messages(field::GRAPH_INITIALIZER) {
            if !floats.contains(&tensor.text(field::TENSOR_NAME)) {
                halve_tensor(tensor);
            }
        }
        for port in [field::GRAPH_INPUT, field::GRAPH_OUTPUT] {
            graph.messages(port).for_each(|value| set_element(value, FLOAT, HALF));
        }
        graph.0.retain(|(number, _)| *number != field::GRAPH_VALUE_INFO);
        for node in graph.messages(field::GRAPH_NODE) {
            if floats.contains(&node.text(field::NODE_OUTPUT)) {
                continue;
            }
            let is_cast = node.text(field::NODE_OP_TYPE) == "Cast";
            for attribute in node.messages(field::NODE_ATTRIBUTE) {
                if is_cast && attribute.number(field::ATTRIBUTE_INT) == Some(FLOAT) {
                    attribute.set_number(field::ATTRIBUTE_INT, HALF);
                }
                if attribute.text(field::ATTRIBUTE_NAME) == "value" {
                    attribute.messages(field::ATTRIBUTE_TENSOR).for_each(halve_tensor);
                }
            }
        }
    })
}

/// Constants that stay floats: the scales of `Resize`.
fn kept_floats(graph: &mut Message) -> HashSet<String> {
    let mut kept = HashSet::new();
    for node in graph.messages(field::GRAPH_NODE) {
        if node.text(field::NODE_OP_TYPE) == "Resize" {
            kept.extend(node.texts(field::NODE_INPUT).skip(1));
        }
    }
    kept
}

/// A model that [`halved`] made, with the same values in an f32 file.
pub fn rewidened(model: &[u8]) -> Vec<u8> {
    with_graph(model, |graph| {
        graph.messages(field::GRAPH_INITIALIZER).for_each(widen_tensor);
        for port in [field::GRAPH_INPUT, field::GRAPH_OUTPUT] {
            graph.messages(port).for_each(|value| set_element(value, HALF, FLOAT));
        }
        for node in graph.messages(field::GRAPH_NODE) {
            let is_cast = node.text(field::NODE_OP_TYPE) == "Cast";
            for attribute in node.messages(field::NODE_ATTRIBUTE) {
                if is_cast && attribute.number(field::ATTRIBUTE_INT) == Some(HALF) {
                    attribute.set_number(field::ATTRIBUTE_INT, FLOAT);
                }
                if attribute.text(field::ATTRIBUTE_NAME) == "value" {
                    attribute.messages(field::ATTRIBUTE_TENSOR).for_each(widen_tensor);
                }
            }
        }
    })
}

/// The model with its float initializers as external data in a file `name`, and what that file holds.
pub fn with_external_data(model: &[u8], name: &str) -> (Vec<u8>, Vec<u8>) {
    let mut data = Vec::new();
    let entry = |key: &str, value: &str| {
        let field = |number: u32, text: &str| (number, Payload::Bytes(text.as_bytes().to_vec()));
        Payload::Message(Message(vec![field(1, key), field(2, value)]))
    };
    let model = with_graph(model, |graph| {
        for tensor in graph.messages(field::GRAPH_INITIALIZER) {
            let Some(raw) = tensor.bytes_mut(field::TENSOR_RAW).map(std::mem::take) else {
                continue;
            };
            tensor.0.retain(|(number, _)| *number != field::TENSOR_RAW);
            let numbers = [("offset", data.len().to_string()), ("length", raw.len().to_string())];
            let place = [("location", name.to_owned())].into_iter().chain(numbers);
            let entries = place.map(|(key, value)| (field::TENSOR_EXTERNAL_DATA, entry(key, &value)));
            tensor.0.extend(entries);
            tensor.0.push((field::TENSOR_LOCATION, Payload::Varint(EXTERNAL)));
            data.extend(raw);
        }
    });
    (model, data)
}

/// Replaces int8 weights with scales along an axis, and the nodes that dequantize them, by floats.
fn dequantize(graph: &mut Message) {
    let mut floats = Vec::new();
    let mut nodes = Vec::new();
    for node in graph.messages(field::GRAPH_NODE) {
        if node.text(field::NODE_OP_TYPE) == "DequantizeLinear" {
            let inputs: Vec<String> = node.texts(field::NODE_INPUT).collect();
            let output = node.text(field::NODE_OUTPUT);
            let mut attributes = node.messages(field::NODE_ATTRIBUTE);
            let axis = attributes.find(|attribute| attribute.text(field::ATTRIBUTE_NAME) == "axis");
            nodes.push((
                inputs,
                output,
                axis.and_then(|axis| axis.number(field::ATTRIBUTE_INT)).unwrap_or(1),
            ));
        }
    }
    for (inputs, output, axis) in nodes {
        let mut raw = |name: &String| {
            let mut tensors = graph.messages(field::GRAPH_INITIALIZER);
            let tensor = tensors.find(|tensor| tensor.text(field::TENSOR_NAME) == *name).unwrap();
            (tensor.bytes_mut(field::TENSOR_RAW).unwrap().clone(), tensor.dims())
        };
        let ((quantized, dims), (scales, _)) = (raw(&inputs[0]), raw(&inputs[1]));
        let scales: Vec<f32> = scales
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        let stride: u64 = dims[axis as usize + 1..].iter().product();
        let scale = |index: usize| scales[index / stride as usize % scales.len()];
        let values = quantized.iter().enumerate();
        let values = values.flat_map(|(index, &value)| (f32::from(value as i8) * scale(index)).to_le_bytes());
        let mut tensor = Message::default();
        tensor
            .0
            .extend(dims.into_iter().map(|dim| (field::TENSOR_DIMS, Payload::Varint(dim))));
        tensor.0.push((field::TENSOR_TYPE, Payload::Varint(FLOAT)));
        tensor.0.push((field::TENSOR_NAME, Payload::Bytes(output.into_bytes())));
        tensor.0.push((field::TENSOR_RAW, Payload::Bytes(values.collect())));
        floats.push((field::GRAPH_INITIALIZER, Payload::Message(tensor)));
    }
    let is_dequantize = |payload: &Payload| matches!(payload, Payload::Message(node) if node.text(field::NODE_OP_TYPE) == "DequantizeLinear");
    graph
        .0
        .retain(|(number, payload)| *number != field::GRAPH_NODE || !is_dequantize(payload));
    graph.0.extend(floats);
}

fn with_graph(model: &[u8], edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut model = Message::parse(model);
    let mut graphs = model.messages(field::MODEL_GRAPH);
    edit(graphs.next().expect("a graph"));
    assert!(graphs.next().is_none());
    drop(graphs);
    model.encode()
}

fn change_tensor(tensor: &mut Message, change: &mut impl FnMut(&str, &mut [f32])) -> bool {
    let name = tensor.text(field::TENSOR_NAME);
    let element = tensor.number(field::TENSOR_TYPE);
    let Some(raw) = tensor.bytes_mut(field::TENSOR_RAW).filter(|raw| !raw.is_empty()) else {
        return false;
    };
    match element {
        Some(FLOAT) => {
            let mut values: Vec<f32> = raw
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect();
            change(&name, &mut values);
            *raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        }
        Some(HALF) => {
            let halves = raw.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes));
            let mut values: Vec<f32> = halves.map(f16::to_f32).collect();
            change(&name, &mut values);
            *raw = values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect();
        }
        _ => return false,
    }
    true
}

fn halve_tensor(tensor: &mut Message) {
    if tensor.number(field::TENSOR_TYPE) != Some(FLOAT) {
        return;
    }
    assert!(tensor.bytes_mut(field::TENSOR_FLOATS).is_none(), "values are raw data");
    if let Some(raw) = tensor.bytes_mut(field::TENSOR_RAW) {
        let values = raw.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        // a mask's "minus infinity" becomes the lowest half
        let half = |value: f32| f16::from_f32(value.clamp(-65504.0, 65504.0));
        *raw = values.flat_map(|value| half(value).to_le_bytes()).collect();
    }
    tensor.set_number(field::TENSOR_TYPE, HALF);
}

fn widen_tensor(tensor: &mut Message) {
    if tensor.number(field::TENSOR_TYPE) != Some(HALF) {
        return;
    }
    if let Some(raw) = tensor.bytes_mut(field::TENSOR_RAW) {
        let values = raw.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes));
        *raw = values.flat_map(|value| value.to_f32().to_le_bytes()).collect();
    }
    tensor.set_number(field::TENSOR_TYPE, FLOAT);
}

/// Changes the element type of an input or output.
fn set_element(value: &mut Message, from: u64, to: u64) {
    for of in value.messages(field::VALUE_TYPE) {
        for tensor in of.messages(field::TYPE_TENSOR) {
            if tensor.number(field::TENSOR_TYPE_ELEMENT) == Some(from) {
                tensor.set_number(field::TENSOR_TYPE_ELEMENT, to);
            }
        }
    }
}

/// A protobuf message: its fields in order. A field that was looked into is a message, others are bytes.
#[derive(Debug, Default)]
struct Message(Vec<(u32, Payload)>);

#[derive(Debug)]
enum Payload {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Message(Message),
    Fixed32([u8; 4]),
}

impl Message {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let payload = match key & 7 {
                0 => Payload::Varint(varint(&mut bytes)),
                1 => Payload::Fixed64(take(&mut bytes, 8).try_into().unwrap()),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    Payload::Bytes(take(&mut bytes, length).to_vec())
                }
                5 => Payload::Fixed32(take(&mut bytes, 4).try_into().unwrap()),
                wire => panic!("wire type {wire}"),
            };
            fields.push(((key >> 3) as u32, payload));
        }
        Message(fields)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, payload) in &self.0 {
            let (wire, payload): (u64, Vec<u8>) = match payload {
                Payload::Varint(value) => (0, encoded_varint(*value)),
                Payload::Fixed64(bytes) => (1, bytes.to_vec()),
                Payload::Bytes(bytes) => (2, with_length(bytes)),
                Payload::Message(message) => (2, with_length(&message.encode())),
                Payload::Fixed32(bytes) => (5, bytes.to_vec()),
            };
            bytes.extend(encoded_varint(u64::from(*number) << 3 | wire));
            bytes.extend(payload);
        }
        bytes
    }

    /// The messages of a field.
    fn messages(&mut self, number: u32) -> impl Iterator<Item = &mut Message> {
        let found = self.0.iter_mut().filter(move |(of, _)| *of == number);
        found.filter_map(|(_, payload)| {
            if let Payload::Bytes(bytes) = payload {
                *payload = Payload::Message(Message::parse(bytes));
            }
            match payload {
                Payload::Message(message) => Some(message),
                _ => None,
            }
        })
    }

    fn texts(&self, number: u32) -> impl Iterator<Item = String> {
        let found = self.0.iter().filter(move |(of, _)| *of == number);
        found.filter_map(|(_, payload)| match payload {
            Payload::Bytes(bytes) => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        })
    }

    /// The text of a field; empty where it is missing.
    fn text(&self, number: u32) -> String {
        self.texts(number).next().unwrap_or_default()
    }

    /// The dimensions of a tensor, packed or not.
    fn dims(&self) -> Vec<u64> {
        let fields = self.0.iter().filter(|(of, _)| *of == field::TENSOR_DIMS);
        let dims = fields.flat_map(|(_, payload)| match payload {
            Payload::Varint(dim) => vec![*dim],
            Payload::Bytes(packed) => {
                let mut packed = packed.as_slice();
                std::iter::from_fn(|| (!packed.is_empty()).then(|| varint(&mut packed))).collect()
            }
            _ => Vec::new(),
        });
        dims.collect()
    }

    fn number(&self, number: u32) -> Option<u64> {
        self.0.iter().find_map(|(of, payload)| match payload {
            Payload::Varint(value) if *of == number => Some(*value),
            _ => None,
        })
    }

    fn set_number(&mut self, number: u32, value: u64) {
        for (of, payload) in &mut self.0 {
            if *of == number {
                *payload = Payload::Varint(value);
            }
        }
    }

    fn bytes_mut(&mut self, number: u32) -> Option<&mut Vec<u8>> {
        self.0.iter_mut().find_map(|(of, payload)| match payload {
            Payload::Bytes(bytes) if *of == number => Some(bytes),
            _ => None,
        })
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a varint of more than 64 bits")
}

fn encoded_varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut whole = encoded_varint(bytes.len() as u64);
    whole.extend(bytes);
    whole
}
