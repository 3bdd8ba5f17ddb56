//! A picture that no prompt made, as a base: DDIM inversion (Song et al. 2020; Mokady et al. 2023 on its limits).
//!
//! Going from picture to noise assumes that a step's prediction is that of the step before it, so denoising again does
//! not come back to the picture. That does no harm here: the latents on the way *are* the recorded trajectory, each step
//! is recorded at them, and what a step misses the next latents by is kept as its *drift* and added when the step guides
//! an edit. With the same words guided steps walk the recorded path exactly, so what differs with others is the words'
//! doing. Afterwards, inside the region, there is no drift: it would draw the old picture into the new thing.

use fisec_runtime::SlotSink;

use super::{Conditions, Run};
use crate::samplers::SamplerKind;
use crate::{Denoiser, DiffusionError, Event, Observer, Phase, Trajectory, Work};

/// An inverted picture.
#[derive(Clone, Debug)]
pub struct Inverted {
    /// latents from noise to picture, with the drift of every step
    pub trajectory: Trajectory,
    /// what it cost
    pub work: Work,
}

/// Inverts `picture` (latents `[C, H, W]`) under `conditions`, a DDIM schedule forwards, with the words that describe it;
/// then walks the path forwards and records every step. `inverse` is the same schedule backwards.
pub fn invert<'a>(
    denoiser: &'a mut dyn Denoiser,
    conditions: &Conditions,
    inverse: &Conditions,
    picture: &[f32],
    mut sink: Option<&mut dyn SlotSink>,
    observer: &'a mut Observer<'a>,
) -> Result<Inverted, DiffusionError> {
    if conditions.sampler.kind() != SamplerKind::Ddim {
        return Err(DiffusionError::InversionSampler(conditions.sampler.kind().name()));
    }
    let mut run = Run::start(denoiser, conditions, observer)?;
    let mut trajectory = run.invert(inverse, picture)?;
    run.switch(conditions)?;
    let mut drift = Vec::with_capacity(run.calls());
    for step in 0..run.calls() {
        let sink = sink.as_mut().map(|sink| &mut **sink as &mut dyn SlotSink);
        let next = run.dense_step(step, trajectory.at(step), None, sink)?;
        let missed = trajectory.at(step + 1).iter().zip(&next);
        drift.push(missed.map(|(recorded, next)| recorded - next).collect());
        run.step_told(step)?;
    }
    trajectory.set_drift(drift);
    Ok(Inverted {
        trajectory,
        work: run.work,
    })
}

impl Run<'_> {
    /// The latents from noise to picture, found backwards.
    pub(super) fn invert(&mut self, inverse: &Conditions, picture: &[f32]) -> Result<Trajectory, DiffusionError> {
        self.switch(inverse)?;
        let mut backwards = vec![picture.to_vec()];
        for step in 0..self.calls() {
            let next = self.dense_step(step, &backwards[step], None, None)?;
            backwards.push(next);
            self.step_told(step)?;
        }
        let mut latents = backwards.into_iter().rev();
        let mut trajectory = Trajectory::new(self.denoiser.latent(), latents.next().unwrap_or_default());
        latents.for_each(|latents| trajectory.push(latents));
        Ok(trajectory)
    }

    fn step_told(&mut self, step: usize) -> Result<(), DiffusionError> {
        self.tell(Event::Step {
            phase: Phase::Invert,
            step,
            steps: self.calls(),
        })
    }
}
