//! Values in host memory.

use std::borrow::Cow;

use fisec_tensor::{DType, HostTensor};

use crate::RuntimeError;

/// A value, in the plan's layout.
#[derive(Debug)]
pub(crate) enum CpuValue {
    /// memory of the arena, of which the first `used` floats count
    Owned { memory: Vec<f32>, used: usize },
    /// a host tensor
    Shared(Floats),
    /// integers or Booleans that go from one island to another, and their values as floats
    Exact { tensor: HostTensor, floats: Floats },
}

impl CpuValue {
    /// A tensor as an island returns it.
    pub(crate) fn of(tensor: &HostTensor) -> Result<Self, RuntimeError> {
        if tensor.dtype().is_float() {
            return Ok(CpuValue::Shared(Floats::new(tensor)?));
        }
        Ok(CpuValue::Exact {
            floats: Floats::new(&tensor.cast(DType::F32))?,
            tensor: tensor.clone(),
        })
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        match self {
            CpuValue::Owned { memory, used } => &memory[..*used],
            CpuValue::Shared(floats) | CpuValue::Exact { floats, .. } => floats.as_slice(),
        }
    }

    /// Panics for shared values: kernels write to memory of the arena only.
    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        match self {
            CpuValue::Owned { memory, used } => &mut memory[..*used],
            CpuValue::Shared(_) | CpuValue::Exact { .. } => panic!("a shared value is not written"),
        }
    }
}

/// A host tensor that is known to hold aligned `f32`.
#[derive(Clone, Debug)]
pub(crate) struct Floats(HostTensor);

impl Floats {
    /// Converts other float types; shares the bytes when nothing has to change.
    pub(crate) fn new(tensor: &HostTensor) -> Result<Self, RuntimeError> {
        let tensor = match tensor.dtype() {
            dtype if dtype.is_float() => tensor.cast(DType::F32),
            got => {
                return Err(fisec_tensor::TensorError::WrongType {
                    expected: DType::F32,
                    got,
                }
                .into());
            }
        };
        if let Cow::Owned(aligned) = tensor.as_f32()? {
            return Ok(Floats(HostTensor::from_f32(tensor.shape().clone(), aligned)));
        }
        Ok(Floats(tensor))
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.data())
    }

    pub(crate) fn tensor(&self) -> &HostTensor {
        &self.0
    }
}
