//! Constants that may be large: a memory map plus transformations that happen only when the values are needed.

use std::hash::{DefaultHasher, Hash, Hasher};
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
    /// `(input - zero_point) * scale` with both per group of indices of `axis`.
    DequantizeGroups {
        /// axis that the groups are of
        axis: usize,
        /// the group of each index of the axis
        groups: Arc<Vec<u32>>,
        /// one scale per group: the shape of the input with as many indices along the axis as there are groups
        scales: HostTensor,
        /// one zero point per group, likewise; all zero when absent
        zero_points: Option<HostTensor>,
        /// type of the result
        dtype: DType,
    },
    /// The integers of `bits` bits (1, 2, 4 or 8) that stand in each byte, the first in the lowest bits: the last axis
    /// grows by as many as a byte holds.
    Unpack {
        /// bits of an integer
        bits: usize,
        /// two's complement: `I8` instead of `U8`
        signed: bool,
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
            Transform::Cast(_)
            | Transform::Dequantize { .. }
            | Transform::DequantizeGroups { .. }
            | Transform::Unpack { .. } => None,
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

    /// Equal for all constants that [`Constant::is_same`] takes for one, and hardly ever for others.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_source(&mut hasher);
        hasher.finish()
    }

    fn hash_source(&self, hasher: &mut DefaultHasher) {
        (self.dtype, &self.shape).hash(hasher);
        match &self.source {
            Source::Host(data) => (data.as_ptr().addr(), data.len()).hash(hasher),
            Source::Fill(value) => value.to_bits().hash(hasher),
            Source::Derived(of, transform) => {
                match transform {
                    Transform::Reshape(_) | Transform::Cast(_) => {} // seen in shape and type
                    Transform::Permute(order) => order.hash(hasher),
                    Transform::Slice { axis, start, .. } => (axis, start).hash(hasher),
                    Transform::Dequantize { axis, .. } | Transform::DequantizeGroups { axis, .. } => axis.hash(hasher),
                    Transform::Unpack { bits, signed } => (bits, signed).hash(hasher),
                }
                of.hash_source(hasher);
            }
        }
    }

    /// Number of transformations that wait to be applied.
    pub fn pending(&self) -> usize {
        match &self.source {
            Source::Derived(of, _) => 1 + of.pending(),
            Source::Host(_) | Source::Fill(_) => 0,
        }
    }

    /// Bytes that the values take once they are materialised; saturates.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }

    /// Bytes that materialising touches: what every pending transformation reads, converts and writes. Nothing for values
    /// that exist as bytes already; saturates.
    pub fn work(&self) -> usize {
        let own = match &self.source {
            Source::Host(_) | Source::Derived(_, Transform::Reshape(_)) => 0,
            Source::Fill(_) | Source::Derived(_, Transform::Permute(_) | Transform::Slice { .. }) => self.bytes(),
            // most conversions go by way of f64
            Source::Derived(
                _,
                Transform::Cast(_)
                | Transform::Dequantize { .. }
                | Transform::DequantizeGroups { .. }
                | Transform::Unpack { .. },
            ) => self
                .bytes()
                .saturating_add(self.shape.elements().saturating_mul(size_of::<f64>())),
        };
        match &self.source {
            Source::Derived(of, _) => own.saturating_add(of.work()),
            Source::Host(_) | Source::Fill(_) => own,
        }
    }

    /// Bytes of memory, or of a memory map, that the values are made of. None for a fill.
    pub fn source_bytes(&self) -> usize {
        match &self.source {
            Source::Host(data) => data.len(),
            Source::Fill(_) => 0,
            Source::Derived(of, _) => of.source_bytes(),
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
            Transform::DequantizeGroups {
                axis,
                groups,
                scales,
                zero_points,
                dtype,
            } => {
                assert_eq!(groups.len(), self.shape[*axis], "one group per index");
                let count = scales.shape()[*axis];
                assert!(
                    groups.iter().all(|&group| (group as usize) < count),
                    "a scale per group"
                );
                let mut dims = self.shape.to_vec();
                dims[*axis] = count;
                let fits = |tensor: &HostTensor| tensor.shape()[..] == dims[..];
                assert!(fits(scales) && zero_points.iter().all(fits), "scales per group");
                (*dtype, self.shape.clone())
            }
            Transform::Unpack { bits, signed } => {
                assert_eq!(self.dtype, DType::U8, "bytes are unpacked");
                let mut dims = self.shape.to_vec();
                *dims.last_mut().expect("an axis of bytes") *= 8 / bits;
                (if *signed { DType::I8 } else { DType::U8 }, dims.into())
            }
        };
        let is_noop = matches!(&transform, Transform::Cast(to) if *to == self.dtype)
            || matches!(&transform, Transform::Reshape(to) if *to == self.shape)
            || matches!(&transform, Transform::Permute(order) if order.iter().enumerate().all(|(a, &b)| a == b));
        if is_noop {
            return self.clone();
        }
        let keeps_value = !matches!(
            transform,
            Transform::Dequantize { .. } | Transform::DequantizeGroups { .. } | Transform::Unpack { .. }
        );
        if let (Source::Fill(value), true) = (&self.source, keeps_value) {
            let element = fill(self.dtype, &Shape::scalar(), *value).cast(dtype);
            return Constant {
                dtype,
                shape,
                source: Source::Fill(element.to_f64_vec()[0]),
            };
        }
        let (of, transform) = self.joined(transform);
        Constant {
            dtype,
            shape,
            source: Source::Derived(of, transform),
        }
    }

    /// What `transform` applies to, and `transform` itself; one transformation where the last pending one is of its kind.
    fn joined(&self, transform: Transform) -> (Arc<Self>, Transform) {
        if let Source::Derived(of, last) = &self.source {
            let both = match (last, &transform) {
                (Transform::Reshape(_), Transform::Reshape(_)) => Some(transform.clone()),
                (Transform::Permute(first), Transform::Permute(second)) => {
                    Some(Transform::Permute(second.iter().map(|&axis| first[axis]).collect()))
                }
                (
                    &Transform::Slice { axis, start, .. },
                    &Transform::Slice {
                        axis: again,
                        start: further,
                        length,
                    },
                ) if axis == again => Some(Transform::Slice {
                    axis,
                    start: start + further,
                    length,
                }),
                _ => None,
            };
            if let Some(both) = both {
                return (Arc::clone(of), both);
            }
        }
        (Arc::new(self.clone()), transform)
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
        Transform::DequantizeGroups {
            axis,
            groups,
            scales,
            zero_points,
            dtype,
        } => {
            let values = dequantized(input, *axis, groups, scales, zero_points.as_ref());
            HostTensor::from_f32(shape.clone(), values).cast(*dtype)
        }
        Transform::Unpack { bits, signed } => {
            let unpacked = unpack(input.data(), *bits, *signed);
            let dtype = if *signed { DType::I8 } else { DType::U8 };
            HostTensor::new(dtype, shape.clone(), unpacked.into()).expect("as many integers as the bytes hold")
        }
    }
}

fn dequantized(
    input: &HostTensor,
    axis: usize,
    groups: &[u32],
    scales: &HostTensor,
    zero_points: Option<&HostTensor>,
) -> Vec<f32> {
    let inner: usize = input.shape()[axis + 1..].iter().product();
    let count = scales.shape()[axis];
    let scales = scales.to_f32_vec();
    let zero_points = zero_points.map(HostTensor::to_f32_vec);
    let values = input.to_f32_vec().into_iter().enumerate();
    let dequantize = |(index, value): (usize, f32)| {
        let (outer, along) = (index / inner / groups.len(), index / inner % groups.len());
        let at = (outer * count + groups[along] as usize) * inner + index % inner;
        let zero_point = zero_points.as_ref().map_or(0.0, |points| points[at]);
        (value - zero_point) * scales[at]
    };
    values.map(dequantize).collect()
}

fn unpack(bytes: &[u8], bits: usize, signed: bool) -> Vec<u8> {
    let high = 8 - bits;
    let integer = |byte: u8, place: usize| {
        let shifted = byte << (high - place * bits);
        match signed {
            true => (shifted as i8 >> high) as u8,
            false => shifted >> high,
        }
    };
    let integers = |byte: &u8| (0..8 / bits).map(|place| integer(*byte, place)).collect::<Vec<_>>();
    bytes.iter().flat_map(integers).collect()
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
