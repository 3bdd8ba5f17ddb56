//! Host tensors to and from ONNX Runtime values.

use ::ort::memory::MemoryInfo;
use ::ort::session::SessionInputValue;
use ::ort::value::{DynValue, Shape, TensorElementType, TensorRefMut};
use bytes::Bytes;
use fisec_tensor::{DType, HostTensor};

/// The fisec element type, or `None` for one that it does not have.
pub(super) fn element_type(element: TensorElementType) -> Option<DType> {
    Some(match element {
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}

/// Calls `$body` with `$t` bound to the Rust type of a `DType`.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F16 => {
                type $t = half::f16;
                $body
            }
            DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::Bool => {
                type $t = bool;
                $body
            }
        }
    };
}

/// A view of the tensor's bytes. The tensor must be aligned to its elements.
pub(super) fn to_value(tensor: &HostTensor) -> ::ort::Result<SessionInputValue<'_>> {
    let shape = Shape::new(tensor.shape().iter().map(|&dim| dim as i64));
    let data = tensor.data().as_ptr().cast_mut().cast();
    with_element!(tensor.dtype(), T => {
        // SAFETY: the pointer covers the shape's elements (checked by `HostTensor`) and outlives the view, which borrows
        // `tensor`; ONNX Runtime does not write to inputs.
        let view: TensorRefMut<'_, T> = unsafe { TensorRefMut::from_raw(MemoryInfo::default(), data, shape)? };
        Ok(view.into_dyn().into())
    })
}

/// Copies an output out of ONNX Runtime's memory.
pub(super) fn from_value(value: &DynValue) -> ::ort::Result<HostTensor> {
    let unsupported = || ::ort::Error::new("an output is no tensor of a supported element type");
    let dtype = value
        .dtype()
        .tensor_type()
        .and_then(element_type)
        .ok_or_else(unsupported)?;
    with_element!(dtype, T => {
        let (shape, elements) = value.try_extract_tensor::<T>()?;
        let dims: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
        // SAFETY: the elements are plain numbers (or bools, one byte each), readable as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        HostTensor::new(dtype, dims, aligned_copy(bytes)).map_err(|error| ::ort::Error::new(error.to_string()))
    })
}

/// A copy that is aligned for every element type.
pub(super) fn aligned_copy(bytes: &[u8]) -> Bytes {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(AlignedBytes(words)).slice(..bytes.len())
}

struct AlignedBytes(Vec<u64>);

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
