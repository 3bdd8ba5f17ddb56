//! The network as the loops see it.

use std::time::Duration;

use fisec_runtime::{Control, Progress, SampledSteps, SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use crate::DiffusionError;
use crate::mask::MapSlot;

/// A denoising network in its three forms: dense, dense under control of recorded attention, and sparse.
///
/// `sample` is one latent `[C, H, W]`, which both halves of guidance see; the result is `[N, C, H, W]` with `N` of
/// [`Denoiser::images`], unconditional first. `step` counts the calls of the schedule that [`Denoiser::set_timesteps`] gave.
pub trait Denoiser {
    /// Latent channels, rows and columns.
    fn latent(&self) -> [usize; 3];

    /// Images of a step: 2, the halves of guidance, or 1, which sees the prompt alone.
    fn images(&self) -> usize {
        2
    }

    /// Prepares for a schedule.
    fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), DiffusionError>;

    /// Prepares for a prompt: f32 `[N, tokens, width]`, unconditional first.
    fn set_context(&mut self, context: &HostTensor) -> Result<(), DiffusionError>;

    /// The dense prediction; every recorded activation that `sink` wants goes there.
    fn dense(
        &mut self,
        step: usize,
        sample: &[f32],
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError>;

    /// Slots of cross-attention maps; without any there is no control.
    fn map_slots(&self) -> Vec<MapSlot>;

    /// The dense prediction under control of the cross-attention maps in `recorded`.
    fn guide(
        &mut self,
        step: usize,
        sample: &[f32],
        control: &Control,
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError>;

    /// Whether there is a sparse form.
    fn can_edit(&self) -> bool;

    /// Prepares for sparse steps inside a mask at the latents' size, recorded ones where `remember` says so.
    fn bind(&mut self, mask: &Mask, remember: bool) -> Result<(), DiffusionError>;

    /// The prediction inside the bound mask; zero outside. What is not computed is read from `recorded`; `sink` gets
    /// every activation of the edited image: recorded outside, computed inside.
    fn edit(
        &mut self,
        step: usize,
        sample: &[f32],
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError>;

    /// The rest of a schedule as sparse steps, where the device can run a sampler's updates by itself: the latents after
    /// every step. `None` where it cannot, or when `progress` broke off.
    fn edit_steps(
        &mut self,
        _steps: &SampledSteps<'_>,
        _sink: Option<&mut dyn SlotSink>,
        _progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<Vec<f32>>>, DiffusionError> {
        Ok(None)
    }

    /// Multiply-accumulates of a dense step.
    fn dense_macs(&self) -> u64;

    /// What the last step cost.
    fn last_step(&self) -> Work;
}

/// What steps cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// multiply-accumulates
    pub macs: u64,
    /// bytes read from recorded activations
    pub slot_bytes: u64,
    /// what a device worked; zero on the CPU
    pub device_time: Duration,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.macs += other.macs;
        self.slot_bytes += other.slot_bytes;
        self.device_time += other.device_time;
    }
}
