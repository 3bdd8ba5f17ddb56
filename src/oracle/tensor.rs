use fisec_tensor::{DType, HostTensor, Shape};

/// A dense tensor. Elements are `f64` whatever `dtype` says: the type decides how integers divide and what a cast
/// truncates, but floats are never rounded to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// element type that the value stands for
    pub dtype: DType,
    /// dimensions
    pub shape: Shape,
    /// row-major elements
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of 64-bit floats. Panics when `data` does not fill `shape`.
    pub fn new(shape: impl Into<Shape>, data: Vec<f64>) -> Self {
        Self::typed(DType::F64, shape, data)
    }

    /// A tensor of any type. Panics when `data` does not fill `shape`.
    pub fn typed(dtype: DType, shape: impl Into<Shape>, data: Vec<f64>) -> Self {
        let shape = shape.into();
        assert_eq!(data.len(), shape.elements(), "as many elements as [{shape}] has");
        Tensor { dtype, shape, data }
    }

    /// The elements of a host tensor, converted.
    pub fn from_host(host: &HostTensor) -> Self {
        Self::typed(host.dtype(), host.shape().clone(), host.to_f64_vec())
    }

    /// The tensor rounded to its element type.
    pub fn to_host(&self) -> HostTensor {
        HostTensor::from_f64(self.dtype, self.shape.clone(), &self.data).expect("as many elements as the shape has")
    }

    /// Another tensor of the same type.
    pub(crate) fn like(&self, shape: impl Into<Shape>, data: Vec<f64>) -> Self {
        Self::typed(self.dtype, shape, data)
    }

    /// The same shape and type with every element mapped.
    pub(crate) fn map(&self, function: impl Fn(f64) -> f64 + Sync) -> Self {
        use rayon::prelude::*;
        self.like(
            self.shape.clone(),
            self.data
                .par_iter()
                .with_min_len(4096)
                .map(|&value| function(value))
                .collect(),
        )
    }

    /// The elements as integers, as shape operands have them.
    pub(crate) fn integers(&self) -> Vec<i64> {
        self.data.iter().map(|&value| value as i64).collect()
    }

    /// `[N, C, everything else]` of a map.
    pub(crate) fn planes(&self) -> [usize; 3] {
        [self.shape[0], self.shape[1], self.shape[2..].iter().product()]
    }

    /// `[all rows, last axis]`.
    pub(crate) fn rows(&self) -> [usize; 2] {
        let width = self.shape.last().copied().unwrap_or(1);
        [self.shape.iter().rev().skip(1).product(), width]
    }
}
