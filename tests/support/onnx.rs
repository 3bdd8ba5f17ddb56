//! ONNX models written byte by byte: hostile ones need nothing that an exporter would make.

/// A model under construction, with the three inputs of a denoiser: `sample` `[2, 4, 16, 16]`, `timestep` and
/// `encoder_hidden_states`.
#[derive(Default)]
pub struct Model {
    nodes: Vec<Vec<u8>>,
    initializers: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// Shape of `sample`, which most outputs have.
pub const SAMPLE: [i64; 4] = [2, 4, 16, 16];

/// Element types by their numbers in ONNX.
pub const FLOAT: i64 = 1;
pub const INT64: i64 = 7;

impl Model {
    pub fn node(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Value)]) {
        let mut node = Vec::new();
        inputs.iter().for_each(|name| bytes(&mut node, 1, name.as_bytes()));
        outputs.iter().for_each(|name| bytes(&mut node, 2, name.as_bytes()));
        bytes(&mut node, 4, op.as_bytes());
        for (name, value) in attributes {
            bytes(&mut node, 5, &value.attribute(name));
        }
        self.nodes.push(node);
    }

    pub fn initializer(&mut self, name: &str, dtype: i64, dims: &[i64], raw: &[u8]) {
        let mut tensor = Vec::new();
        dims.iter().for_each(|&dim| number(&mut tensor, 1, dim));
        number(&mut tensor, 2, dtype);
        bytes(&mut tensor, 8, name.as_bytes());
        bytes(&mut tensor, 9, raw);
        self.initializers.push(tensor);
    }

    /// An initializer of 64-bit integers.
    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i64]) {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, INT64, dims, &raw);
    }

    /// An initializer of 32-bit floats.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, FLOAT, dims, &raw);
    }

    /// An initializer whose bytes stand in a file.
    pub fn external(&mut self, name: &str, dims: &[i64], location: &str) {
        let mut tensor = Vec::new();
        dims.iter().for_each(|&dim| number(&mut tensor, 1, dim));
        number(&mut tensor, 2, FLOAT);
        bytes(&mut tensor, 8, name.as_bytes());
        let mut entry = Vec::new();
        bytes(&mut entry, 1, b"location");
        bytes(&mut entry, 2, location.as_bytes());
        bytes(&mut tensor, 13, &entry);
        number(&mut tensor, 14, 1);
        self.initializers.push(tensor);
    }

    pub fn output(&mut self, name: &str, dims: &[i64]) {
        self.outputs.push(value_info(name, FLOAT, dims));
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut graph = Vec::new();
        self.nodes.iter().for_each(|node| bytes(&mut graph, 1, node));
        bytes(&mut graph, 2, b"g");
        self.initializers.iter().for_each(|tensor| bytes(&mut graph, 5, tensor));
        for input in [
            value_info("sample", FLOAT, &SAMPLE),
            value_info("timestep", INT64, &[]),
            value_info("encoder_hidden_states", FLOAT, &[2, 77, 24]),
        ] {
            bytes(&mut graph, 11, &input);
        }
        self.outputs.iter().for_each(|output| bytes(&mut graph, 12, output));
        let mut opset = Vec::new();
        number(&mut opset, 2, 17);
        let mut model = Vec::new();
        number(&mut model, 1, 8);
        bytes(&mut model, 7, &graph);
        bytes(&mut model, 8, &opset);
        model
    }
}

/// The value of an attribute.
pub enum Value {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
}

impl Value {
    fn attribute(&self, name: &str) -> Vec<u8> {
        let mut attribute = Vec::new();
        bytes(&mut attribute, 1, name.as_bytes());
        let kind = match self {
            Value::Int(value) => {
                number(&mut attribute, 3, *value);
                2
            }
            Value::Float(value) => {
                varint(&mut attribute, 2 << 3 | 5);
                attribute.extend(value.to_le_bytes());
                1
            }
            Value::Ints(values) => {
                values.iter().for_each(|&value| number(&mut attribute, 8, value));
                7
            }
        };
        number(&mut attribute, 20, kind);
        attribute
    }
}

fn value_info(name: &str, dtype: i64, dims: &[i64]) -> Vec<u8> {
    let (mut shape, mut tensor, mut kind, mut info) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for &dim in dims {
        let mut size = Vec::new();
        number(&mut size, 1, dim);
        bytes(&mut shape, 1, &size);
    }
    number(&mut tensor, 1, dtype);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut kind, 1, &tensor);
    bytes(&mut info, 1, name.as_bytes());
    bytes(&mut info, 2, &kind);
    info
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 & 127 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: i64) {
    varint(out, field << 3);
    varint(out, value as u64);
}

fn bytes(out: &mut Vec<u8>, field: u64, payload: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}
