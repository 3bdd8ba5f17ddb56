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

/// What generating and editing have in common.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// the schedule, at its start
    pub sampler: Sampler,
    /// f32 `[2, tokens, width]`: embedding of the negative prompt, then of the prompt
    pub context: HostTensor,
    /// factor of classifier-free guidance: 1 follows the prompt, more exaggerates it
    pub guidance: f32,
}

/// A run through a schedule.
struct Run<'a> {
    denoiser: &'a mut dyn Denoiser,
    sampler: Sampler,
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
        self.sampler = conditions.sampler.clone();
        self.sampler.restart();
        self.guidance = conditions.guidance;
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
        if output.len() != 2 * latents.len() {
            let reason = format!(
                "its prediction has {} values instead of {}",
                output.len(),
                2 * latents.len()
            );
            return Err(DiffusionError::Network {
                network: "denoiser",
                reason,
            });
        }
        let prediction = self.guided(output);
        let next = self.sampler.step(call, &prediction, latents);
        match next.iter().all(|value| value.is_finite()) {
            true => Ok(next),
            false => Err(DiffusionError::NotFinite(call)),
        }
    }

    /// Classifier-free guidance.
    fn guided(&self, output: &[f32]) -> Vec<f32> {
        let (without, given) = output.split_at(output.len() / 2);
        let guided = |(without, given): (&f32, &f32)| without + self.guidance * (given - without);
        without.iter().zip(given).map(guided).collect()
    }

    /// The guided prediction at a call, without a step.
    fn prediction(&mut self, call: usize, latents: &[f32]) -> Result<Vec<f32>, DiffusionError> {
        let input = self.input(call, latents);
        let output = self.denoiser.dense(call, &input, None)?;
        self.dense_calls += 1;
        self.work += self.denoiser.last_step();
        Ok(self.guided(&output))
    }
}
