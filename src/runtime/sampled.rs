//! The rest of a schedule as sparse steps that a device runs by itself.

use std::ops::ControlFlow;

use fisec_plan::Plan;

use crate::{RuntimeError, SlotSink, SlotSource};

/// Entries of the history that a step looks back on.
pub const HISTORY: usize = 3;

/// What a step does to the latents `x`, linear in them. `e` is the prediction that guidance makes of the two halves,
/// `without + guidance * (given - without)`; `h` are entries that earlier steps have kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepUpdate {
    /// strength of the prompt; 1 takes its half of the prediction as it is
    pub guidance: f32,
    /// factor on `x`
    pub latents: f32,
    /// factor on `e`
    pub prediction: f32,
    /// factors on `h`, newest first; those on entries that are not there are zero
    pub history: [f32; HISTORY],
    /// factors on `x` and `e` that make an entry for later steps
    pub kept: Option<[f32; 2]>,
    /// factor on the new latents that makes the next step's sample
    pub sample_scale: f32,
}

/// Sparse steps up to the last one. Latents are f32 `[C, H, W]`.
#[derive(Clone, Copy)]
pub struct SampledSteps<'a> {
    /// index of the first one in the schedule
    pub first: usize,
    /// one per step
    pub updates: &'a [StepUpdate],
    /// latents before the first step
    pub latents: &'a [f32],
    /// factor on them that makes its sample
    pub sample_scale: f32,
    /// what earlier steps have kept, newest first, at most [`HISTORY`]
    pub history: &'a [&'a [f32]],
    /// the recorded latents after every step: what stands outside the mask
    pub recorded: &'a [&'a [f32]],
    /// the recorded activations
    pub source: &'a dyn SlotSource,
}

/// Called when a step has been handed to the device; breaks off after it.
pub type Progress<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// A sink for a step.
pub(crate) type Sink<'a> = Option<&'a mut dyn SlotSink>;

impl SampledSteps<'_> {
    /// Fails when the lengths contradict each other or the plan.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), RuntimeError> {
        let expected = plan.latent.iter().product();
        let given = self.history.iter().chain(self.recorded).chain([&self.latents]);
        match given.into_iter().find(|values| values.len() != expected) {
            Some(wrong) => Err(RuntimeError::SampleSize {
                expected,
                got: wrong.len(),
            }),
            None if self.recorded.len() != self.updates.len() || self.history.len() > HISTORY => {
                Err(RuntimeError::NotPrepared("recorded latents"))
            }
            None => Ok(()),
        }
    }
}
