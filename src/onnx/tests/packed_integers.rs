//! Four-bit integers, which stand two in a byte.

use std::path::Path;

use fisec_onnx::{Bindings, import};
use fisec_tensor::DType;
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use protobuf::{Message, MessageField};

const UINT4: i32 = 21;
const INT4: i32 = 22;

fn tensor(name: &str, data_type: i32, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type,
        dims: dims.to_vec(),
        raw_data: bytes.to_vec(),
        ..TensorProto::default()
    }
}

/// One node over constants alone, whose result is the output.
fn write(path: &Path, op_type: &str, initializers: Vec<TensorProto>) {
    let node = NodeProto {
        op_type: op_type.into(),
        input: initializers.iter().map(|tensor| tensor.name.clone()).collect(),
        output: vec!["y".into()],
        ..NodeProto::default()
    };
    let output = ValueInfoProto {
        name: "y".into(),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        initializer: initializers,
        output: vec![output],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        version: 21,
        ..OperatorSetIdProto::default()
    };
    let model = ModelProto {
        ir_version: 10,
        opset_import: vec![opset],
        graph: MessageField::some(graph),
        ..ModelProto::default()
    };
    std::fs::write(path, model.write_to_bytes().expect("encodes")).expect("a file");
}

#[test]
fn four_bit_weights_are_eight_bit_ones_of_the_same_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    // an odd number of elements leaves the last half of a byte unused
    let bytes = [0x21, 0xf8, 0x07];
    for (data_type, dtype, expected) in [
        (UINT4, DType::U8, [1, 2, 8, 15, 7]),
        (INT4, DType::I8, [1, 2, -8, -1, 7]),
    ] {
        let weight = tensor("w", data_type, &[1, 5], &bytes);
        let scale = tensor("s", 1, &[], &0.5f32.to_le_bytes());
        write(&path, "DequantizeLinear", vec![weight, scale]);
        let graph = import(&path, &Bindings::new()).expect("imports").graph;
        let data = &graph.weight(graph.weight_named("w").expect("kept")).data;
        assert_eq!((data.dtype(), &data.shape()[..]), (dtype, &[1, 5][..]));
        assert_eq!(data.materialize().to_i64_vec(), expected);
    }
}

/// Eight bits would overflow elsewhere than four.
#[test]
fn other_operators_may_not_read_four_bit_integers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    let value = tensor("x", 1, &[], &3.0f32.to_le_bytes());
    let scale = tensor("s", 1, &[], &0.5f32.to_le_bytes());
    let zero = tensor("zero", INT4, &[], &[0x03]);
    write(&path, "QuantizeLinear", vec![value, scale, zero]);
    let error = import(&path, &Bindings::new()).expect_err("refused").to_string();
    assert!(error.contains("`zero` holds 4-bit integers"), "{error}");
}
