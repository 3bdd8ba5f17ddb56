//! What a controlled step is told about the words.

use fisec_plan::ControlInput;
use fisec_tensor::{DType, HostTensor};

use crate::RuntimeError;

/// The tables of one step under cross-attention control, f32; see [`ControlInput`] for what they mean.
#[derive(Clone, Debug)]
pub struct Control {
    mapper: HostTensor,
    blend: HostTensor,
    weight: HostTensor,
}

impl Control {
    /// Tables for prompts of `blend.len()` tokens. Fails when the lengths contradict each other.
    pub fn new(mapper: Vec<f32>, blend: Vec<f32>, weight: Vec<f32>) -> Result<Self, RuntimeError> {
        let tokens = blend.len();
        for (what, length, input) in [
            ("control mapper", mapper.len(), ControlInput::Mapper),
            ("control weights", weight.len(), ControlInput::Weight),
        ] {
            let expected = fisec_tensor::Shape::from(input.dims(tokens));
            if length != expected.elements() {
                return Err(RuntimeError::Mismatch {
                    what: what.into(),
                    expected_dtype: DType::F32,
                    expected,
                    dtype: DType::F32,
                    shape: [length].into(),
                });
            }
        }
        Ok(Control {
            mapper: HostTensor::from_f32(ControlInput::Mapper.dims(tokens), mapper),
            blend: HostTensor::from_f32(ControlInput::Blend.dims(tokens), blend),
            weight: HostTensor::from_f32(ControlInput::Weight.dims(tokens), weight),
        })
    }

    /// Tables that change nothing.
    pub fn idle(tokens: usize) -> Self {
        let mut identity = vec![0.0; tokens * tokens];
        identity.iter_mut().step_by(tokens + 1).for_each(|value| *value = 1.0);
        Control::new(identity, vec![0.0; tokens], vec![1.0; tokens]).expect("lengths agree")
    }

    /// The table for an input of the program.
    pub fn table(&self, input: ControlInput) -> &HostTensor {
        match input {
            ControlInput::Mapper => &self.mapper,
            ControlInput::Blend => &self.blend,
            ControlInput::Weight => &self.weight,
        }
    }
}
