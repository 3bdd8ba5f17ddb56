//! An edit of a recorded image.
//!
//! The first steps run dense with the new prompt from the base's initial latents, until the difference to the recorded
//! latents tells which region changes. From then on only that region is computed; outside it the latents are set to the
//! recorded ones after every step. Samplers treat every latent by itself, so their history outside the mask is never
//! seen inside.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use fisec_runtime::{SampledSteps, SlotSink, SlotSource};
use fisec_tensor::Mask;

use super::{Base, Conditions, EditOptions, Edited, GuideSteps, Outcome, Region, Run};
use crate::mask::{Convergence, Findings, Listener};
use crate::pieces;
use crate::samplers::restore;
use crate::words::Words;
use crate::{Denoiser, DiffusionError, Event, Notice, Observer, Phase, Timings, Trajectory};

/// Edits `base` under `conditions` (its schedule, the new prompt); `words` says how its attention is followed. With a `sink`, records the edited image as a base for
/// further edits; when the outcome [is the base](Outcome::is_base), what was recorded is to be thrown away.
pub fn edit<'a>(
    denoiser: &'a mut dyn Denoiser,
    conditions: &Conditions,
    base: Base<'_>,
    words: &Words,
    options: &EditOptions,
    mut sink: Option<&mut dyn SlotSink>,
    observer: &'a mut Observer<'a>,
) -> Result<Edited, DiffusionError> {
    check(&*denoiser, conditions, base, options)?;
    let mut run = Run::start(denoiser, conditions, observer)?;
    let macs_dense = run.denoiser.dense_macs();
    let started = Instant::now();
    let (mut path, findings) = run.guide(base, words, options, &mut sink)?;
    let timings = Timings {
        guide: started.elapsed(),
        on_device: [run.work.device_time, Duration::ZERO, Duration::ZERO],
        ..Timings::default()
    };

    let started = Instant::now();
    let mask = findings.region(&options.region)?;
    run.tell(Event::Mask {
        share: mask.share(),
        pieces: pieces(&mask),
    })?;
    let mut edited = Edited {
        guided_steps: path.calls(),
        controlled_steps: path.calls().min(words.control.len()),
        work: run.work,
        macs_dense: macs_dense * run.calls() as u64,
        timings,
        ..Edited::unchanged(base.trajectory)
    };
    if mask.is_empty() {
        run.tell(Event::Notice(Notice::EmptyMask))?;
        return Ok(Edited {
            outcome: Outcome::EmptyMask,
            ..edited
        });
    }
    let outcome = run.choose(&mask, options)?;
    if outcome == Outcome::Sparse {
        run.denoiser.bind(&mask, sink.is_some())?;
    }
    edited.timings.bind = started.elapsed();

    let started = Instant::now();
    path.restore_last(base.trajectory, &mask);
    if outcome == Outcome::Sparse {
        run.sparse_rest(&mut path, base, &mut sink)?;
    }
    for step in path.calls()..run.calls() {
        let next = match outcome {
            Outcome::Sparse => run.sparse_step(step, path.last(), base.slots, &mut sink)?,
            _ => run.dense_step(step, path.last(), None, lend(&mut sink))?,
        };
        path.push(next);
        path.restore_last(base.trajectory, &mask);
        let phase = if outcome == Outcome::Sparse {
            Phase::Sparse
        } else {
            Phase::Dense
        };
        run.tell(Event::Step {
            phase,
            step,
            steps: run.calls(),
        })?;
    }
    path.drift_outside(base.trajectory, &mask, edited.guided_steps);
    edited.timings.edit = started.elapsed();
    let steps = run.calls() - edited.guided_steps;
    edited.sparse_steps = if outcome == Outcome::Sparse { steps } else { 0 };
    edited.dense_steps = run.dense_calls - edited.guided_steps;
    edited.timings.on_device[1] = run.work.device_time - edited.timings.on_device[0];
    edited.work = run.work;
    Ok(Edited {
        trajectory: path,
        mask,
        outcome,
        ..edited
    })
}

fn check(
    denoiser: &dyn Denoiser,
    conditions: &Conditions,
    base: Base<'_>,
    options: &EditOptions,
) -> Result<(), DiffusionError> {
    let (latent, calls) = (denoiser.latent(), conditions.sampler.timesteps().len());
    if base.trajectory.shape() != latent {
        let reason = format!("its latents are {:?}, the plan's {latent:?}", base.trajectory.shape());
        return Err(DiffusionError::Base(reason));
    }
    if base.trajectory.calls() != calls {
        let reason = format!("it was made in {} steps, the edit has {calls}", base.trajectory.calls());
        return Err(DiffusionError::Base(reason));
    }
    match &options.region {
        Region::Share(share) if !(*share > 0.0 && *share <= 1.0) => Err(DiffusionError::EditSize(*share)),
        Region::Given(mask) if [mask.height(), mask.width()] != latent[1..] => {
            let (height, width) = (mask.height(), mask.width());
            Err(DiffusionError::MaskSize {
                width,
                height,
                image_width: latent[2],
                image_height: latent[1],
            })
        }
        _ => Ok(()),
    }
}

/// A sink for one step.
fn lend<'a>(sink: &'a mut Option<&mut dyn SlotSink>) -> Option<&'a mut dyn SlotSink> {
    sink.as_mut().map(|sink| &mut **sink as &mut dyn SlotSink)
}

impl Run<'_> {
    /// Dense steps with the new prompt, and what they show of the region.
    pub(super) fn guide(
        &mut self,
        base: Base<'_>,
        words: &Words,
        options: &EditOptions,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<(Trajectory, Findings), DiffusionError> {
        let [_, height, width] = base.trajectory.shape();
        let mut path = Trajectory::new(base.trajectory.shape(), base.trajectory.at(0).to_vec());
        let mut findings = Findings::new(height, width, options.mask_from);
        let mut convergence = Convergence::new(self.calls());
        for step in 0..self.most_guided(options, &convergence) {
            let mut next = self.guided_step(step, path.last(), base, words, &mut findings, sink)?;
            base.trajectory.add_drift(step, &mut next);
            findings.difference.add(&next, base.trajectory.at(step + 1));
            path.push(next);
            self.tell(Event::Step {
                phase: Phase::Guide,
                step,
                steps: self.calls(),
            })?;
            if options.guide_steps == GuideSteps::Auto && convergence.is_done(findings.core(&options.region)?) {
                break;
            }
        }
        Ok((path, findings))
    }

    fn most_guided(&self, options: &EditOptions, convergence: &Convergence) -> usize {
        let is_given = matches!(options.region, Region::Given(_));
        match options.guide_steps {
            GuideSteps::Exactly(steps) => steps.max(usize::from(!is_given)).min(self.calls()),
            GuideSteps::Auto if is_given => 0,
            GuideSteps::Auto => convergence.most(),
        }
    }

    fn guided_step(
        &mut self,
        step: usize,
        latents: &[f32],
        base: Base<'_>,
        words: &Words,
        findings: &mut Findings,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let control = words.control.get(step).map(|control| (control, base.slots));
        if !findings.listens() {
            return self.dense_step(step, latents, control, lend(sink));
        }
        let slots = self.denoiser.map_slots();
        if step < base.map_calls {
            findings.attention.add_recorded(base.slots, step, &slots, &words.gone)?;
        }
        let mut listener = Listener {
            slots: &slots,
            tokens: &words.added,
            attention: &mut findings.attention,
            sink: lend(sink),
        };
        self.dense_step(step, latents, control, Some(&mut listener))
    }

    /// Sparse or dense, said aloud when it is not what was asked for.
    fn choose(&mut self, mask: &Mask, options: &EditOptions) -> Result<Outcome, DiffusionError> {
        let (share, break_even) = (mask.share(), options.break_even);
        if options.dense {
            return Ok(Outcome::Dense);
        }
        let notice = if !self.denoiser.can_edit() {
            Notice::NoSparseProgram
        } else if share > break_even {
            Notice::LargeMask { share, break_even }
        } else {
            return Ok(Outcome::Sparse);
        };
        self.tell(Event::Notice(notice))?;
        Ok(Outcome::Dense)
    }

    /// The steps that are left, if the denoiser and the sampler can do them without the host; none otherwise.
    fn sparse_rest(
        &mut self,
        path: &mut Trajectory,
        base: Base<'_>,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<(), DiffusionError> {
        let (first, calls) = (path.calls(), self.calls());
        let Some(updates) = self.sampler.updates(first, self.guidance) else {
            return Ok(());
        };
        let recorded: Vec<&[f32]> = (first..calls).map(|step| base.trajectory.at(step + 1)).collect();
        let steps = SampledSteps {
            first,
            updates: &updates,
            latents: path.last(),
            sample_scale: self.sampler.input_scale(first),
            history: &self.sampler.history(),
            recorded: &recorded,
            source: base.slots,
        };
        let (phase, mut told) = (Phase::Sparse, ControlFlow::Continue(()));
        let observer = &mut self.observer;
        let mut progress = |step| {
            told = observer(Event::Step {
                phase,
                step,
                steps: calls,
            });
            told
        };
        let made = self.denoiser.edit_steps(&steps, lend(sink), &mut progress)?;
        if told.is_break() {
            return Err(DiffusionError::Interrupted);
        }
        for latents in made.into_iter().flatten() {
            self.work += self.denoiser.last_step();
            path.push(latents);
        }
        Ok(())
    }

    fn sparse_step(
        &mut self,
        step: usize,
        latents: &[f32],
        recorded: &dyn SlotSource,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let input = self.input(step, latents);
        let output = self.denoiser.edit(step, &input, recorded, lend(sink))?;
        self.work += self.denoiser.last_step();
        self.advance(step, &output, latents)
    }
}

impl Trajectory {
    /// Sets the last latents to those of `base` after the same call wherever `mask` is not active.
    fn restore_last(&mut self, base: &Trajectory, mask: &Mask) {
        let call = self.calls();
        restore(self.last_mut(), base.at(call), mask.bits());
    }
}
