//! Constants that may be large: a memory map plus transformations that happen only when the values are needed.

use std::sync::Arc;

use bytes::Bytes;

use crate::permute::permute;
use crate::{DType, HostTensor, Shape, TensorError};

/// A constant tensor. Gigabytes of weights stay in their memory map; layout changes are recorded and applied by
/// [`Constant::materialize`], one tensor at a time.
#[derive(Clone, Debug)]
pub struct Constant {
    dtype: DType,
    shape: Shape,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Host(Bytes),
    Fill(f64),
    Derived(Arc<Constant>, Transform),
}

/// A change of representation, applied when the values are needed.
#[derive(Clone, Debug, PartialEq)]
pub enum Transform {
    /// The same elements in the same order under another shape.
    Reshape(Shape),
    /// `output[i0, i1, …] = input[…]` with output axis `a` being input axis `permutation[a]`.
    Permute(Vec<usize>),
    /// Conversion of the element type.
    Cast(DType),
    /// A range of one axis.
    Slice {
        /// axis to cut
        axis: usize,
        /// first index kept
        start: usize,
        /// number of indices kept
        length: usize,
    },
    /// `(input - zero_point) * scale` with both per index of `axis`.
    Dequantize {
        /// axis of the scales
        axis: usize,
        /// one scale per index of the axis
        scales: Arc<Vec<f32>>,
        /// one zero point per index of the axis
        zero_points: Arc<Vec<f32>>,
        /// type of the result
        dtype: DType,
    },
}

impl Constant {
    /// A constant over existing bytes (shared or memory-mapped).
    pub fn from_bytes(dtype: DType, shape: impl Into<Shape>, data: Bytes) -> Result<Self, TensorError> {
        HostTensor::new(dtype, shape, data).map(Self::from)
    }

    /// A constant whose elements are all `value`; takes no memory whatever its shape.
    pub fn filled(dtype: DType, shape: impl Into<Shape>, value: f64) -> Self {
        Constant {
            dtype,
            shape: shape.into(),
            source: Source::Fill(value),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The value that every element has, when that is known without reading them.
    pub fn fill_value(&self) -> Option<f64> {
        match &self.source {
            Source::Fill(value) => Some(*value),
            Source::Derived(of, Transform::Reshape(_) | Transform::Permute(_) | Transform::Slice { .. }) => {
                of.fill_value()
            }
            _ => None,
        }
    }

    /// The values, when they exist as bytes already: no transformation but of the shape is pending.
    pub fn stored(&self) -> Option<HostTensor> {
        match &self.source {
            Source::Host(_) => Some(self.materialize()),
            Source::Derived(of, Transform::Reshape(_)) => of.stored()?.reshaped(self.shape.clone()).ok(),
            _ => None,
        }
    }

    /// These values in the half-precision type that they were widened from, in the same layout: exactly the same numbers
    /// in half the bytes. `None` when they were never half precision.
    pub fn unwidened(&self) -> Option<Self> {
        let Source::Derived(of, transform) = &self.source else {
            return None;
        };
        match transform {
            Transform::Cast(DType::F32) if matches!(of.dtype, DType::F16 | DType::BF16) => Some(of.as_ref().clone()),
            Transform::Reshape(_) | Transform::Permute(_) | Transform::Slice { .. } => {
                Some(of.unwidened()?.transformed(transform.clone()))
            }
            Transform::Cast(_) | Transform::Dequantize { .. } => None,
        }
    }

    /// Whether both are the same bytes in memory, seen through the same transformations. Equal values elsewhere in memory
    /// do not count: nothing is read.
    pub fn is_same(&self, other: &Self) -> bool {
        if (self.dtype, &self.shape) != (other.dtype, &other.shape) {
            return false;
        }
        match (&self.source, &other.source) {
            (Source::Host(a), Source::Host(b)) => a.as_ptr() == b.as_ptr() && a.len() == b.len(),
            (Source::Fill(a), Source::Fill(b)) => a.to_bits() == b.to_bits(),
            (Source::Derived(a, x), Source::Derived(b, y)) => x == y && (Arc::ptr_eq(a, b) || a.is_same(b)),
            _ => false,
        }
    }

    /// The first byte of the values in memory, the same for all constants that [`Constant::is_same`] takes for one.
    pub fn address(&self) -> usize {
        match &self.source {
            Source::Host(data) => data.as_ptr().addr(),
            Source::Fill(_) => 0,
            Source::Derived(of, _) => of.address(),
        }
    }

    /// This constant seen through `transform`. Panics when the transform does not fit the shape.
    pub fn transformed(&self, transform: Transform) -> Self {
        let (dtype, shape) = match &transform {
            Transform::Reshape(shape) => {
                assert_eq!(
                    shape.elements(),
                    self.shape.elements(),
                    "reshape keeps the number of elements"
                );
                (self.dtype, shape.clone())
            }
            Transform::Permute(permutation) => {
                assert_eq!(permutation.len(), self.shape.len(), "one entry per axis");
                (self.dtype, permutation.iter().map(|&axis| self.shape[axis]).collect())
            }
            Transform::Cast(dtype) => (*dtype, self.shape.clone()),
            Transform::Slice { axis, start, length } => {
                assert!(start + length <= self.shape[*axis], "slice inside the axis");
                let mut dims = self.shape.to_vec();
                dims[*axis] = *length;
                (self.dtype, dims.into())
            }
            Transform::Dequantize {
                axis,
                scales,
                zero_points,
                dtype,
            } => {
                assert_eq!(scales.len(), self.shape[*axis], "one scale per index");
                assert_eq!(zero_points.len(), scales.len(), "one zero point per scale");
                (*dtype, self.shape.clone())
            }
        };
        let is_noop = matches!(&transform, Transform::Cast(to) if *to == self.dtype)
            || matches!(&transform, Transform::Reshape(to) if *to == self.shape)
            || matches!(&transform, Transform::Permute(order) if order.iter().enumerate().all(|(a, &b)| a == b));
        if is_noop {
            return self.clone();
        }
        if let (Source::Fill(value), false) = (&self.source, matches!(transform, Transform::Dequantize { .. })) {
            return Constant {
                dtype,
                shape,
                source: Source::Fill(*value),
            };
        }
        Constant {
            dtype,
            shape,
            source: Source::Derived(Arc::new(self.clone()), transform),
        }
    }

    /// The values, with every pending transformation applied. Shares the bytes when there is none.
    pub fn materialize(&self) -> HostTensor {
        match &self.source {
            Source::Host(data) => {
                HostTensor::new(self.dtype, self.shape.clone(), data.clone()).expect("checked on construction")
            }
            Source::Fill(value) => fill(self.dtype, &self.shape, *value),
            Source::Derived(of, transform) => apply(&of.materialize(), transform, &self.shape),
        }
    }
}

impl From<HostTensor> for Constant {
    fn from(tensor: HostTensor) -> Self {
        Constant {
            dtype: tensor.dtype(),
            shape: tensor.shape().clone(),
            source: Source::Host(tensor.data().clone()),
        }
    }
}

fn fill(dtype: DType, shape: &Shape, value: f64) -> HostTensor {
    let element = HostTensor::from_f64(dtype, Shape::scalar(), &[value]).expect("one element");
    HostTensor::new(dtype, shape.clone(), element.data().repeat(shape.elements()).into()).expect("elements of one type")
}

fn apply(input: &HostTensor, transform: &Transform, shape: &Shape) -> HostTensor {
    match transform {
        Transform::Reshape(_) => input.reshaped(shape.clone()).expect("same number of elements"),
        Transform::Cast(dtype) => input.cast(*dtype),
        Transform::Permute(permutation) => permute(input, permutation),
        Transform::Slice { axis, start, length } => slice(input, *axis, *start, *length, shape),
        Transform::Dequantize {
            axis,
            scales,
            zero_points,
            dtype,
        } => {
            let inner: usize = input.shape()[axis + 1..].iter().product();
            let values: Vec<f32> = input
                .to_f32_vec()
                .iter()
                .enumerate()
                .map(|(index, value)| {
                    let channel = index / inner % scales.len();
                    (value - zero_points[channel]) * scales[channel]
                })
                .collect();
            HostTensor::from_f32(shape.clone(), values).cast(*dtype)
        }
    }
}

fn slice(input: &HostTensor, axis: usize, start: usize, length: usize, shape: &Shape) -> HostTensor {
    let row: usize = input.shape()[axis + 1..].iter().product::<usize>() * input.dtype().size();
    let block = row * input.shape()[axis];
    let outer: usize = input.shape()[..axis].iter().product();
    let mut output = Vec::with_capacity(outer * length * row);
    for index in 0..outer {
        let from = index * block + start * row;
        output.extend_from_slice(&input.data()[from..from + length * row]);
    }
    HostTensor::new(input.dtype(), shape.clone(), output.into()).expect("a slice of the input")
}
