//! The latents of an image after every call of the network.

use fisec_tensor::{HostTensor, Mask};

use crate::DiffusionError;

/// Latents `[C, H, W]`: the initial ones, then those after every call.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    shape: [usize; 3],
    latents: Vec<Vec<f32>>,
    /// what each call misses the recorded latents by; empty for images that were generated
    drift: Vec<Vec<f32>>,
}

impl Trajectory {
    /// The initial latents alone. Panics when they do not match `shape`.
    pub fn new(shape: [usize; 3], initial: Vec<f32>) -> Self {
        let mut trajectory = Trajectory {
            shape,
            latents: Vec::new(),
            drift: Vec::new(),
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
            drift: Vec::new(),
        })
    }

    /// Sets what each call misses the recorded latents by, one entry per call.
    pub fn set_drift(&mut self, drift: Vec<Vec<f32>>) {
        assert_eq!(drift.len(), self.calls(), "one drift per call");
        self.drift = drift;
    }

    /// The drift of another trajectory of as many calls; from call `first` on only where `mask` is not active.
    pub(crate) fn drift_outside(&mut self, other: &Trajectory, mask: &Mask, first: usize) {
        self.drift.clone_from(&other.drift);
        for drift in self.drift.iter_mut().skip(first) {
            let active = drift
                .iter_mut()
                .zip(mask.bits().iter().cycle())
                .filter(|(_, active)| **active);
            active.for_each(|(drift, _)| *drift = 0.0);
        }
    }

    /// Adds the drift of a call to latents after it.
    pub(crate) fn add_drift(&self, call: usize, latents: &mut [f32]) {
        let drift = self.drift.get(call).into_iter().flatten();
        latents
            .iter_mut()
            .zip(drift)
            .for_each(|(latent, drift)| *latent += drift);
    }

    /// The drift, f32 `[calls, C, H, W]`, when there is any.
    pub fn drift_tensor(&self) -> Option<HostTensor> {
        let [channels, height, width] = self.shape;
        let shape = [self.drift.len(), channels, height, width];
        (!self.drift.is_empty()).then(|| HostTensor::from_f32(shape, self.drift.concat()))
    }

    /// The trajectory with a drift `[calls, C, H, W]`.
    pub fn with_drift(mut self, drift: Option<&HostTensor>) -> Result<Self, DiffusionError> {
        let Some(drift) = drift else { return Ok(self) };
        let [channels, height, width] = self.shape;
        if *drift.shape().dims() != [self.calls(), channels, height, width] {
            return Err(DiffusionError::Base(format!("its drift has shape [{}]", drift.shape())));
        }
        let size = channels * height * width;
        self.drift = drift.to_f32_vec().chunks_exact(size).map(<[f32]>::to_vec).collect();
        Ok(self)
    }
}
