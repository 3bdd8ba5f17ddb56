//! The latents of an image after every call of the network.

use fisec_tensor::HostTensor;

use crate::DiffusionError;

/// Latents `[C, H, W]`: the initial ones, then those after every call.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    shape: [usize; 3],
    latents: Vec<Vec<f32>>,
}

impl Trajectory {
    /// The initial latents alone. Panics when they do not match `shape`.
    pub fn new(shape: [usize; 3], initial: Vec<f32>) -> Self {
        let mut trajectory = Trajectory {
            shape,
            latents: Vec::new(),
        };
        trajectory.push(initial);
        trajectory
    }

    /// Adds the latents after one more call. Panics when they do not match the shape.
    pub fn push(&mut self, latents: Vec<f32>) {
        assert_eq!(
            latents.len(),
            self.shape.iter().product::<usize>(),
            "latents of shape {:?}",
            self.shape
        );
        self.latents.push(latents);
    }

    /// Channels, rows and columns.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Calls of the network so far.
    pub fn calls(&self) -> usize {
        self.latents.len() - 1
    }

    /// The latents before call `call`, channel by channel; `call == calls()` gives the last ones.
    pub fn at(&self, call: usize) -> &[f32] {
        &self.latents[call]
    }

    /// The latents after the last call.
    pub fn last(&self) -> &[f32] {
        &self.latents[self.calls()]
    }

    pub(crate) fn last_mut(&mut self) -> &mut [f32] {
        self.latents.last_mut().expect("the initial latents at least")
    }

    /// The latents after the last call, f32 `[1, C, H, W]`.
    pub fn last_tensor(&self) -> HostTensor {
        let [channels, height, width] = self.shape;
        HostTensor::from_f32([1, channels, height, width], self.last().to_vec())
    }

    /// Everything, f32 `[calls + 1, C, H, W]`.
    pub fn to_tensor(&self) -> HostTensor {
        let [channels, height, width] = self.shape;
        HostTensor::from_f32([self.latents.len(), channels, height, width], self.latents.concat())
    }

    /// From `[calls + 1, C, H, W]` of any float type.
    pub fn from_tensor(tensor: &HostTensor) -> Result<Self, DiffusionError> {
        let [count, channels, height, width] = **tensor.shape() else {
            return Err(DiffusionError::Base(format!(
                "its latents have shape [{}]",
                tensor.shape()
            )));
        };
        let size = channels * height * width;
        if count == 0 || size == 0 {
            return Err(DiffusionError::Base("it has no latents".into()));
        }
        let latents = tensor.to_f32_vec().chunks_exact(size).map(<[f32]>::to_vec).collect();
        Ok(Trajectory {
            shape: [channels, height, width],
            latents,
        })
    }
}
