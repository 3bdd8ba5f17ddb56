//! The loops: from noise to latents, with a denoiser, a sampler and guidance. No words, no pixels, no files.

mod edit;
mod generate;

use std::ops::ControlFlow;

use fisec_tensor::{DType, HostTensor};

pub use edit::{Base, EditOptions, Edited, GuideSteps, Outcome, Region, edit};
pub use generate::generate;

use crate::samplers::Sampler;
use crate::{Denoiser, DiffusionError, Event, Observer};

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
    fn input(&self, call: usize, latents: &[f32]) -> HostTensor {
        let [channels, height, width] = self.denoiser.latent();
        let scaled = self.sampler.scale_input(call, latents);
        let plane = height * width;
        let one = (0..scaled.len()).map(|index| scaled[index % channels * plane + index / channels]);
        HostTensor::from_f32([2, height, width, channels], one.clone().chain(one).collect())
    }

    /// The latents after a call, from the network's output `[2, H, W, C]`.
    fn advance(&mut self, call: usize, output: &HostTensor, latents: &[f32]) -> Result<Vec<f32>, DiffusionError> {
        let [channels, height, width] = self.denoiser.latent();
        if **output.shape() != [2, height, width, channels] || output.dtype() != DType::F32 {
            let reason = format!("its prediction is {}[{}]", output.dtype(), output.shape());
            return Err(DiffusionError::Network {
                network: "denoiser",
                reason,
            });
        }
        let values = output.as_f32()?;
        let (without, given) = values.split_at(latents.len());
        let plane = height * width;
        let guided = |index: usize| {
            let place = index % plane * channels + index / plane;
            without[place] + self.guidance * (given[place] - without[place])
        };
        let prediction: Vec<f32> = (0..latents.len()).map(guided).collect();
        let next = self.sampler.step(call, &prediction, latents);
        match next.iter().all(|value| value.is_finite()) {
            true => Ok(next),
            false => Err(DiffusionError::NotFinite(call)),
        }
    }
}
