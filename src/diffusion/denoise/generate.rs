//! A first image.

use fisec_runtime::{Control, SlotSink, SlotSource};

use super::{Conditions, Run};
use crate::{Denoiser, DiffusionError, Event, Observer, Phase, Trajectory, Work};

/// Denoises `noise` (unit variance, `[C, H, W]`), every step dense. With a `sink`, records what edits will need.
/// Returns the latents after every call, and what it cost.
pub fn generate<'a>(
    denoiser: &'a mut dyn Denoiser,
    conditions: &Conditions,
    noise: &[f32],
    mut sink: Option<&mut dyn SlotSink>,
    observer: &'a mut Observer<'a>,
) -> Result<(Trajectory, Work), DiffusionError> {
    let shape = denoiser.latent();
    let scale = conditions.sampler.initial_scale();
    let mut run = Run::start(denoiser, conditions, observer)?;
    let mut path = Trajectory::new(shape, noise.iter().map(|value| value * scale).collect());
    for step in 0..run.calls() {
        let sink = sink.as_mut().map(|sink| &mut **sink as &mut dyn SlotSink);
        let next = run.dense_step(step, path.last(), None, sink)?;
        path.push(next);
        run.tell(Event::Step {
            phase: Phase::Generate,
            step,
            steps: run.calls(),
        })?;
    }
    Ok((path, run.work))
}

impl Run<'_> {
    /// One dense step, recorded when there is a sink; under control of recorded attention where that is given.
    pub(super) fn dense_step(
        &mut self,
        step: usize,
        latents: &[f32],
        control: Option<(&Control, &dyn SlotSource)>,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let input = self.input(step, latents);
        let output = match control {
            Some((control, source)) => self.denoiser.guide(step, &input, control, source, sink)?,
            None => self.denoiser.dense(step, &input, sink)?,
        };
        self.dense_calls += 1;
        self.work += self.denoiser.last_step();
        self.advance(step, &output, latents)
    }
}
