//! The loops: from noise to latents, with a denoiser, a sampler and guidance. No words, no pixels, no files.

mod edit;
mod generate;
mod invert;
mod methods;
mod options;

use std::ops::ControlFlow;

use fisec_tensor::HostTensor;

pub use edit::edit;
pub use generate::generate;
pub use invert::{Inverted, invert};
pub use methods::{Method, Subject, edit_by, prompt_to_prompt_calls};
pub use options::{Base, EditOptions, Edited, GuideSteps, MaskFrom, Outcome, Region};

use crate::samplers::Sampler;
use crate::{Denoiser, DiffusionError, Event, Observer, Work};

/// Guidance at or below this is none.
pub(crate) const NO_GUIDANCE: f32 = 1.0;

/// What generating and editing have in common.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// the schedule, at its start
    pub sampler: Sampler,
    /// f32 `[N, tokens, width]` with `N` of [`Denoiser::images`]: embedding of the negative prompt, then of the prompt
    pub context: HostTensor,
    /// factor of classifier-free guidance: more than 1 exaggerates the prompt; at or below 1 there is no guidance, the
    /// prediction is that for the prompt alone
    pub guidance: f32,
}

/// A run through a schedule.
struct Run<'a> {
    denoiser: &'a mut dyn Denoiser,
    sampler: Sampler,
    /// 1 without guidance
    guidance: f32,
    work: Work,
    /// dense calls so far
    dense_calls: usize,
    observer: &'a mut Observer<'a>,
}

impl<'a> Run<'a> {
    /// Prepares the denoiser: nothing of an earlier run stays.
    fn start(
        denoiser: &'a mut dyn Denoiser,
        conditions: &Conditions,
        observer: &'a mut Observer<'a>,
    ) -> Result<Self, DiffusionError> {
        let mut run = Run {
            denoiser,
            sampler: conditions.sampler.clone(),
            guidance: conditions.guidance,
            work: Work::default(),
            dense_calls: 0,
            observer,
        };
        run.switch(conditions)?;
        Ok(run)
    }

    /// The same run under other conditions, from the start.
    fn switch(&mut self, conditions: &Conditions) -> Result<(), DiffusionError> {
        let is_guided = conditions.guidance > NO_GUIDANCE;
        if is_guided && self.denoiser.images() < 2 {
            return Err(DiffusionError::GuidanceBatch(conditions.guidance));
        }
        self.sampler = conditions.sampler.clone();
        self.sampler.restart();
        self.guidance = if is_guided { conditions.guidance } else { NO_GUIDANCE };
        self.denoiser.set_timesteps(self.sampler.timesteps())?;
        self.denoiser.set_context(&conditions.context)
    }

    fn calls(&self) -> usize {
        self.sampler.timesteps().len()
    }

    fn tell(&mut self, event: Event) -> Result<(), DiffusionError> {
        match (self.observer)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(DiffusionError::Interrupted),
        }
    }

    /// The network's input at a call.
    fn input(&self, call: usize, latents: &[f32]) -> Vec<f32> {
        self.sampler.scale_input(call, latents)
    }

    /// The latents after a call, from the network's output.
    fn advance(&mut self, call: usize, output: &[f32], latents: &[f32]) -> Result<Vec<f32>, DiffusionError> {
        let prediction = self.guided(call, output)?;
        let next = self.sampler.step(call, &prediction, latents);
        match next.iter().all(|value| value.is_finite()) {
            true => Ok(next),
            false => Err(DiffusionError::NotFinite(call)),
        }
    }

    /// The prediction that guidance makes of the network's output at a call: the place where everything that the network
    /// predicts is checked.
    fn guided(&self, call: usize, output: &[f32]) -> Result<Vec<f32>, DiffusionError> {
        let size: usize = self.denoiser.latent().iter().product();
        let expected = self.denoiser.images() * size;
        if output.len() != expected {
            let reason = format!("its prediction has {} values instead of {expected}", output.len());
            return Err(DiffusionError::Network {
                network: "denoiser",
                reason,
            });
        }
        if output.iter().any(|value| !value.is_finite()) {
            return Err(DiffusionError::NotFinite(call));
        }
        let (without, given) = output.split_at(expected - size);
        if self.guidance <= NO_GUIDANCE {
            return Ok(given.to_vec());
        }
        let guided = |(without, given): (&f32, &f32)| without + self.guidance * (given - without);
        Ok(without.iter().zip(given).map(guided).collect())
    }

    /// The guided prediction at a call, without a step.
    fn prediction(&mut self, call: usize, latents: &[f32]) -> Result<Vec<f32>, DiffusionError> {
        let input = self.input(call, latents);
        let output = self.denoiser.dense(call, &input, None)?;
        self.dense_calls += 1;
        self.work += self.denoiser.last_step();
        self.guided(call, &output)
    }
}
