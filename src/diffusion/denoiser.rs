//! The network as the loops see it.

use fisec_runtime::{SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use crate::DiffusionError;

/// A denoising network in its three forms: `record`, `guide` (both dense) and `edit` (sparse).
///
/// `sample` and the result are f32 `[2, H, W, C]`: both halves of guidance, unconditional first. `step` counts the calls
/// of the schedule that [`Denoiser::set_timesteps`] gave.
pub trait Denoiser {
    /// Latent channels, rows and columns.
    fn latent(&self) -> [usize; 3];

    /// Prepares for a schedule.
    fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), DiffusionError>;

    /// Prepares for a prompt: f32 `[2, tokens, width]`, unconditional first.
    fn set_context(&mut self, context: &HostTensor) -> Result<(), DiffusionError>;

    /// The dense prediction; every recorded activation goes to `sink`.
    fn record(
        &mut self,
        step: usize,
        sample: &HostTensor,
        sink: &mut dyn SlotSink,
    ) -> Result<HostTensor, DiffusionError>;

    /// The dense prediction.
    fn guide(&mut self, step: usize, sample: &HostTensor) -> Result<HostTensor, DiffusionError>;

    /// Whether there is a sparse form.
    fn can_edit(&self) -> bool;

    /// Prepares for a mask at the latents' size.
    fn bind(&mut self, mask: &Mask) -> Result<(), DiffusionError>;

    /// The prediction inside the bound mask; zero outside. What is not computed is read from `recorded`; `sink` gets
    /// every activation of the edited image: recorded outside, computed inside.
    fn edit(
        &mut self,
        step: usize,
        sample: &HostTensor,
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<HostTensor, DiffusionError>;

    /// Multiply-accumulates of a dense step.
    fn dense_macs(&self) -> u64;

    /// Multiply-accumulates of a sparse step with the bound mask.
    fn edit_macs(&self) -> u64;
}
