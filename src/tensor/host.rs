//! Tensors in host memory.

use std::borrow::Cow;

use bytes::Bytes;
use half::{bf16, f16};
use thiserror::Error;

use crate::{DType, Shape};

/// A row-major tensor in host memory. The bytes are shared, never copied on clone, and may be a memory map.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    dtype: DType,
    shape: Shape,
    data: Bytes,
}

/// Why bytes are not the tensor they claim to be.
#[derive(Debug, Error, PartialEq)]
pub enum TensorError {
    /// Shape and element type ask for another number of bytes.
    #[error("{dtype}[{shape}] needs {needed} bytes, got {got}")]
    WrongLength {
        /// element type asked for
        dtype: DType,
        /// shape asked for
        shape: Shape,
        /// bytes that shape and type need
        needed: usize,
        /// bytes given
        got: usize,
    },
    /// Another element type was asked for than the tensor has.
    #[error("expected {expected} elements, the tensor has {got}")]
    WrongType {
        /// type asked for
        expected: DType,
        /// type of the tensor
        got: DType,
    },
}

impl HostTensor {
    /// Wraps `data` (little-endian, row-major). Fails when the length does not match shape and type.
    pub fn new(dtype: DType, shape: impl Into<Shape>, data: Bytes) -> Result<Self, TensorError> {
        let shape = shape.into();
        let needed = shape.elements().saturating_mul(dtype.size());
        if needed != data.len() {
            return Err(TensorError::WrongLength {
                dtype,
                shape,
                needed,
                got: data.len(),
            });
        }
        Ok(HostTensor { dtype, shape, data })
    }

    /// A tensor of 32-bit floats. Panics when `values` does not match `shape`: a programming error.
    pub fn from_f32(shape: impl Into<Shape>, values: Vec<f32>) -> Self {
        Self::from_pod(DType::F32, shape, values)
    }

    /// A tensor of 64-bit integers. Panics when `values` does not match `shape`.
    pub fn from_i64(shape: impl Into<Shape>, values: Vec<i64>) -> Self {
        Self::from_pod(DType::I64, shape, values)
    }

    /// A tensor of `dtype` from values of the matching Rust type. Panics when sizes do not match.
    pub fn from_pod<T: bytemuck::Pod + Send + Sync>(dtype: DType, shape: impl Into<Shape>, values: Vec<T>) -> Self {
        assert_eq!(
            dtype.size(),
            size_of::<T>(),
            "{dtype} elements given in a type of another size"
        );
        Self::new(dtype, shape, Bytes::from_owner(PodBytes(values))).expect("values match the shape")
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Little-endian, row-major bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same bytes under another shape of equally many elements.
    pub fn reshaped(&self, shape: impl Into<Shape>) -> Result<Self, TensorError> {
        Self::new(self.dtype, shape, self.data.clone())
    }

    /// The elements as `f32` without conversion of the type; copies only when the bytes are not aligned.
    pub fn as_f32(&self) -> Result<Cow<'_, [f32]>, TensorError> {
        self.as_pod(DType::F32)
    }

    /// The elements as `i64` without conversion of the type; copies only when the bytes are not aligned.
    pub fn as_i64(&self) -> Result<Cow<'_, [i64]>, TensorError> {
        self.as_pod(DType::I64)
    }

    /// The elements as the Rust type of `dtype`; copies only when the bytes are not aligned.
    pub fn as_pod<T: bytemuck::Pod>(&self, dtype: DType) -> Result<Cow<'_, [T]>, TensorError> {
        if self.dtype != dtype || dtype.size() != size_of::<T>() {
            return Err(TensorError::WrongType {
                expected: dtype,
                got: self.dtype,
            });
        }
        Ok(match bytemuck::try_cast_slice(&self.data) {
            Ok(aligned) => Cow::Borrowed(aligned),
            Err(_) => Cow::Owned(
                self.data
                    .chunks_exact(size_of::<T>())
                    .map(bytemuck::pod_read_unaligned)
                    .collect(),
            ),
        })
    }

    /// All elements converted to `f64`, whatever the type. `Bool` gives 0 and 1.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        let bytes: &[u8] = &self.data;
        match self.dtype {
            DType::F64 => collect(bytes, f64::from_le_bytes),
            DType::F32 => collect(bytes, |b| f64::from(f32::from_le_bytes(b))),
            DType::F16 => collect(bytes, |b| f16::from_le_bytes(b).to_f64()),
            DType::BF16 => collect(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            DType::I64 => collect(bytes, |b| i64::from_le_bytes(b) as f64),
            DType::I32 => collect(bytes, |b| f64::from(i32::from_le_bytes(b))),
            DType::I16 => collect(bytes, |b| f64::from(i16::from_le_bytes(b))),
            DType::I8 => collect(bytes, |b| f64::from(i8::from_le_bytes(b))),
            DType::U64 => collect(bytes, |b| u64::from_le_bytes(b) as f64),
            DType::U32 => collect(bytes, |b| f64::from(u32::from_le_bytes(b))),
            DType::U16 => collect(bytes, |b| f64::from(u16::from_le_bytes(b))),
            DType::U8 => collect(bytes, |b: [u8; 1]| f64::from(b[0])),
            DType::Bool => collect(bytes, |b: [u8; 1]| f64::from(u8::from(b[0] != 0))),
        }
    }

    /// All elements converted to `f32`, whatever the type.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => collect(&self.data, f32::from_le_bytes),
            DType::F16 => collect(&self.data, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => collect(&self.data, |b| bf16::from_le_bytes(b).to_f32()),
            _ => self.to_f64_vec().into_iter().map(|value| value as f32).collect(),
        }
    }

    /// All elements converted to `i64`; floats are truncated towards zero.
    pub fn to_i64_vec(&self) -> Vec<i64> {
        match self.dtype {
            DType::I64 => collect(&self.data, i64::from_le_bytes),
            DType::U64 => collect(&self.data, |b| u64::from_le_bytes(b) as i64),
            _ => self.to_f64_vec().into_iter().map(|value| value as i64).collect(),
        }
    }

    /// A tensor of type `dtype` from `f64` values, rounded to nearest for narrower floats, truncated for integers.
    pub fn from_f64(dtype: DType, shape: impl Into<Shape>, values: &[f64]) -> Result<Self, TensorError> {
        let data: Vec<u8> = match dtype {
            DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect(),
            DType::I64 => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
            DType::I32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            DType::I16 => values.iter().flat_map(|&v| (v as i16).to_le_bytes()).collect(),
            DType::I8 => values.iter().flat_map(|&v| (v as i8).to_le_bytes()).collect(),
            DType::U64 => values.iter().flat_map(|&v| (v as u64).to_le_bytes()).collect(),
            DType::U32 => values.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
            DType::U16 => values.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
            DType::U8 => values.iter().map(|&v| v as u8).collect(),
            DType::Bool => values.iter().map(|&v| u8::from(v != 0.0)).collect(),
        };
        Self::new(dtype, shape, data.into())
    }

    /// The same values in another element type; shares the bytes when the type does not change.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let shape = self.shape.clone();
        match (self.dtype, dtype) {
            (DType::F16 | DType::BF16, DType::F32) => Self::from_f32(shape, self.to_f32_vec()),
            (DType::F32, DType::F16) => {
                let values: Vec<f16> = collect(&self.data, |b| f16::from_f32(f32::from_le_bytes(b)));
                Self::from_pod(dtype, shape, values)
            }
            (from, to) if !from.is_float() && !to.is_float() && to != DType::Bool => {
                let values: Vec<u8> = self
                    .to_i64_vec()
                    .iter()
                    .flat_map(|v| v.to_le_bytes().into_iter().take(to.size()))
                    .collect();
                Self::new(dtype, shape, values.into()).expect("same number of elements")
            }
            _ => Self::from_f64(dtype, shape, &self.to_f64_vec()).expect("same number of elements"),
        }
    }
}

struct PodBytes<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for PodBytes<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn collect<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(N)
        .map(|chunk| convert(chunk.try_into().expect("chunk of N bytes")))
        .collect()
}
