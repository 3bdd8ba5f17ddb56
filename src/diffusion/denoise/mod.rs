//! The loops: from noise to latents, with a denoiser, a sampler and guidance. No words, no pixels, no files.

mod edit;
mod generate;

use std::ops::ControlFlow;

use fisec_tensor::HostTensor;

pub use edit::{Base, EditOptions, Edited, GuideSteps, Outcome, Region, edit};
pub use generate::generate;

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
    observer: &'a mut Observer<'a>,
}

impl<'a> Run<'a> {
    /// Prepares the denoiser: nothing of an earlier run stays.
    fn start(
        denoiser: &'a mut dyn Denoiser,
        conditions: &Conditions,
        observer: &'a mut Observer<'a>,
    ) -> Result<Self, DiffusionError> {
        let mut sampler = conditions.sampler.clone();
        sampler.restart();
        denoiser.set_timesteps(sampler.timesteps())?;
        denoiser.set_context(&conditions.context)?;
        Ok(Run {
            denoiser,
            sampler,
            guidance: conditions.guidance,
            work: Work::default(),
            observer,
        })
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

    /// The network's input at a call: both halves of guidance see the same latents.
    fn input(&self, call: usize, latents: &[f32]) -> Vec<f32> {
        self.sampler.scale_input(call, latents).repeat(2)
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
        let (without, given) = output.split_at(latents.len());
        let guided = |(without, given): (&f32, &f32)| without + self.guidance * (given - without);
        let prediction: Vec<f32> = without.iter().zip(given).map(guided).collect();
        let next = self.sampler.step(call, &prediction, latents);
        match next.iter().all(|value| value.is_finite()) {
            true => Ok(next),
            false => Err(DiffusionError::NotFinite(call)),
        }
    }
}
