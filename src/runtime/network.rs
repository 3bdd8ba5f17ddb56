//! The networks beside the denoiser that a plan's device computes by itself.

use std::time::Duration;

use fisec_tensor::{Area, HostTensor};

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

    /// Scale and shift of the norms that [`Network::run_part`] takes, as the last whole run left them: f32 `[values]`. `None`
    /// for networks of which no part can be computed by itself.
    ///
    /// # Errors
    /// Fails when the device does.
    pub fn norms(&self) -> Result<Option<HostTensor>, RuntimeError> {
        self.0.norms()
    }

    /// Makes ready what a part of the output takes, so that its first run takes no longer than others. `false` where the
    /// whole is better run.
    ///
    /// # Errors
    /// Fails when the device does.
    pub fn prepare_part(&mut self, area: &Area) -> Result<bool, RuntimeError> {
        self.0.prepare_part(area)
    }

    /// The rows of a part of the output as in [`Network::run_rows`], `area` counting pixels of the input, and the area that
    /// they are of: as large or larger, exact in `area`. Norms behind the first doubling are those of `norms`. `None` where
    /// the whole is better run: for large parts, and where something behind the first doubling sees more than its surroundings.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn run_part(
        &mut self,
        input: &HostTensor,
        area: &Area,
        norms: &HostTensor,
    ) -> Result<Option<(HostTensor, Area)>, RuntimeError> {
        self.0.run_part(input, area, norms)
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
