//! ONNX element types.

use fisec_tensor::DType;

use crate::proto::tensor_proto::DataType;

/// The element type with this ONNX number, when the compiler knows it.
pub(crate) fn dtype(number: i32) -> Option<DType> {
    Some(match DataType::try_from(number).ok()? {
        DataType::Float => DType::F32,
        DataType::Double => DType::F64,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Int64 => DType::I64,
        DataType::Int32 => DType::I32,
        DataType::Int16 => DType::I16,
        DataType::Int8 => DType::I8,
        DataType::Uint64 => DType::U64,
        DataType::Uint32 => DType::U32,
        DataType::Uint16 => DType::U16,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The ONNX number of an element type, e.g. for the `to` of a `Cast`.
pub fn onnx_number(dtype: DType) -> i32 {
    (match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::F16 => DataType::Float16,
        DType::BF16 => DataType::Bfloat16,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I16 => DataType::Int16,
        DType::I8 => DataType::Int8,
        DType::U64 => DataType::Uint64,
        DType::U32 => DataType::Uint32,
        DType::U16 => DataType::Uint16,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    }) as i32
}

/// The element type with this ONNX number, when the compiler knows it.
pub fn element_type(number: i64) -> Option<DType> {
    dtype(i32::try_from(number).ok()?)
}

/// Bits and sign of integers that stand several in a byte.
pub(crate) fn packed_integer(number: i32) -> Option<(usize, bool)> {
    match DataType::try_from(number).ok()? {
        DataType::Uint4 => Some((4, false)),
        DataType::Int4 => Some((4, true)),
        _ => None,
    }
}
