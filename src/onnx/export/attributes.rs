//! Attributes in protobuf form.

use fisec_ir::Attribute;
use fisec_tensor::HostTensor;

use crate::element::onnx_number;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, TensorProto};

/// An attribute with its name.
pub fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto {
        name: Some(name.to_owned()),
        ..AttributeProto::default()
    };
    let text = |text: &String| text.clone().into_bytes().into();
    let kind = match value {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::String(value) => {
            proto.s = Some(text(value));
            AttributeType::String
        }
        Attribute::Ints(values) => {
            proto.ints = values.clone();
            AttributeType::Ints
        }
        Attribute::Floats(values) => {
            proto.floats = values.clone();
            AttributeType::Floats
        }
        Attribute::Strings(values) => {
            proto.strings = values.iter().map(text).collect();
            AttributeType::Strings
        }
        Attribute::Tensor(value) => {
            proto.t = Some(tensor("", value));
            AttributeType::Tensor
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}

/// A tensor with its bytes inside.
pub fn tensor(name: &str, value: &HostTensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: value.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: Some(onnx_number(value.dtype())),
        raw_data: Some(value.data().clone()),
        ..TensorProto::default()
    }
}
