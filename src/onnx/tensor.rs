//! Tensors: inline in every field that ONNX allows, or in external files.

use bytes::Bytes;
use fisec_tensor::{Constant, DType, Shape, Transform};

use crate::element::{dtype, packed_integer};
use crate::files::ModelFiles;
use crate::proto::TensorProto;
use crate::proto::tensor_proto::{DataLocation, DataType};
use crate::{ImportError, error};

/// The constant that `tensor` holds, over mapped bytes where the layout allows. `place` names it in errors.
pub(crate) fn constant(files: &mut ModelFiles, place: &str, tensor: &TensorProto) -> Result<Constant, ImportError> {
    let fail = |message: String| error::ImportError::new(files.model(), place, message);
    let number = tensor.data_type.unwrap_or(0);
    if let Some((bits, signed)) = packed_integer(number) {
        return packed(files, place, tensor, bits, signed);
    }
    let dtype = dtype(number).ok_or_else(|| fail(format!("element type {} is not supported", type_name(number))))?;
    let shape = shape(&tensor.dims).ok_or_else(|| fail(format!("impossible dimensions {:?}", tensor.dims)))?;
    if tensor.segment.is_some() {
        return Err(fail("segmented tensors are not supported".into()));
    }
    let data = if tensor.data_location == Some(DataLocation::External as i32) {
        external(files, place, tensor, &shape, dtype)?
    } else if let Some(raw) = &tensor.raw_data {
        raw.clone()
    } else {
        typed(tensor, dtype)
    };
    Constant::from_bytes(dtype, shape, data)
        .map_err(|error| ImportError::new(files.model(), place, error.to_string()).hint("the file is damaged"))
}

/// Integers that stand several in a byte, one behind the other over all axes, as 8-bit integers.
fn packed(
    files: &mut ModelFiles,
    place: &str,
    tensor: &TensorProto,
    bits: usize,
    signed: bool,
) -> Result<Constant, ImportError> {
    let dims = tensor.dims.clone();
    let shape = shape(&dims)
        .ok_or_else(|| ImportError::new(files.model(), place, format!("impossible dimensions {dims:?}")))?;
    let elements = shape.elements();
    let bytes = elements.div_ceil(8 / bits);
    let stored = TensorProto {
        data_type: Some(DataType::Uint8 as i32),
        dims: vec![bytes as i64],
        ..tensor.clone()
    };
    let stored = constant(files, place, &stored)?;
    let all = stored.transformed(Transform::Unpack { bits, signed });
    let own = Transform::Slice {
        axis: 0,
        start: 0,
        length: elements,
    };
    Ok(all.transformed(own).transformed(Transform::Reshape(shape)))
}

fn type_name(number: i32) -> String {
    DataType::try_from(number).map_or_else(|_| number.to_string(), |known| known.as_str_name().to_lowercase())
}

/// The shape, when all dimensions are non-negative and the elements can be counted.
fn shape(dims: &[i64]) -> Option<Shape> {
    let shape: Shape = dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<Vec<_>>>()?
        .into();
    shape.checked_elements()?.checked_mul(8)?;
    Some(shape)
}

fn external(
    files: &mut ModelFiles,
    place: &str,
    tensor: &TensorProto,
    shape: &Shape,
    dtype: DType,
) -> Result<Bytes, ImportError> {
    let entry = |key: &str| {
        tensor
            .external_data
            .iter()
            .find(|entry| entry.key.as_deref() == Some(key))
            .and_then(|entry| entry.value.as_deref())
    };
    let number = |key: &str| match entry(key).map(|text| (text, text.trim().parse::<u64>())) {
        None => Ok(None),
        Some((_, Ok(value))) => Ok(Some(value)),
        Some((text, Err(_))) => {
            let message = format!("external data has the {key} `{text}`, which is no number");
            Err(ImportError::new(files.model(), place, message))
        }
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let location = entry("location")
        .ok_or_else(|| ImportError::new(files.model(), place, "external data without a location"))?
        .to_owned();
    // Without offset and length the file is the tensor and nothing else; with an offset alone, the shape says how much.
    let needed = (shape.elements() * dtype.size()) as u64;
    let length = length.or((offset > 0).then_some(needed));
    files.external(place, &location, offset, length)
}

/// The bytes of the typed fields (`float_data`, `int32_data`, …), little-endian.
fn typed(tensor: &TensorProto, dtype: DType) -> Bytes {
    let narrow = |size: usize| -> Vec<u8> {
        tensor
            .int32_data
            .iter()
            .flat_map(|value| value.to_le_bytes().into_iter().take(size))
            .collect()
    };
    let bytes: Vec<u8> = match dtype {
        DType::F32 => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => tensor
            .uint64_data
            .iter()
            .flat_map(|&v| (v as u32).to_le_bytes())
            .collect(),
        other => narrow(other.size()),
    };
    bytes.into()
}
