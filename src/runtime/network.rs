//! The networks beside the denoiser that a plan's device computes by itself.

use std::time::Duration;

use fisec_tensor::HostTensor;

use crate::cuda::NetworkProgram;
use crate::{NodeTime, RuntimeError};

/// A text encoder, VAE decoder or VAE encoder, ready to run: [`crate::Executor::network`].
pub struct Network(pub(crate) Box<NetworkProgram>);

impl Network {
    /// The output for a map `[N, C, H, W]` or token ids `[N, L]`: a map `[N, C, H, W]` or tokens `[N, L, C]`, f32.
    ///
    /// # Errors
    /// [`RuntimeError::Overflow`] when a value is no number: half precision does not hold what the network computes.
    pub fn run(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        self.0.run(input)
    }

    /// The same as the device holds it: f16 `[N, H, W, C]` or `[N, L, C]`, the channels padded with zeros to a multiple of
    /// eight.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn run_rows(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        self.0.run_rows(input)
    }

    /// What the device worked on the last run.
    pub fn device_time(&self) -> Duration {
        self.0.device_time()
    }

    /// Runs over the last input, launch by launch: the time of every node, in order.
    ///
    /// # Errors
    /// Fails when the device does.
    pub fn measure(&mut self) -> Result<Vec<NodeTime>, RuntimeError> {
        self.0.measure()
    }
}
