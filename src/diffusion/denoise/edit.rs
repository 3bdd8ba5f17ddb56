//! An edit of a recorded image.
//!
//! The first steps run dense with the new prompt from the base's initial latents, until the difference to the recorded
//! latents tells which region changes. From then on only that region is computed; outside it the latents are set to the
//! recorded ones after every step. Samplers treat every latent by itself, so their history outside the mask is never
//! seen inside.

use std::time::Instant;

use fisec_runtime::{SlotSink, SlotSource};
use fisec_tensor::Mask;

use super::{Conditions, Run};
use crate::mask::{Convergence, Difference};
use crate::samplers::restore;
use crate::{Denoiser, DiffusionError, Event, Notice, Observer, Phase, Timings, Trajectory, Work};

/// What is recorded of the image to edit.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// its latents after every call of the same schedule
    pub trajectory: &'a Trajectory,
    /// its activations
    pub slots: &'a dyn SlotSource,
}

/// Which latents may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Region {
    /// those that the new prompt moves (Otsu's threshold, opening), made whole and grown by `grow` latents; see
    /// [`Difference::region`]
    Changed {
        /// Chebyshev distance in latents
        grow: usize,
    },
    /// this share of all latents, 0 to 1: those that the new prompt moves most
    Share(f64),
    /// these, at the latents' size
    Given(Mask),
}

/// How many of the first steps are dense with the new prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuideSteps {
    /// until the mask stays the same; none for a given region
    #[default]
    Auto,
    /// this many, at most the whole schedule; a region that has to be found needs one
    Exactly(usize),
}

/// How to edit.
#[derive(Clone, Debug, PartialEq)]
pub struct EditOptions {
    /// which latents may change
    pub region: Region,
    /// dense steps before
    pub guide_steps: GuideSteps,
    /// compute the same edit with no sparsity
    pub dense: bool,
    /// share of active latents above which dense steps are used
    pub break_even: f64,
}

/// What an edit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// the prompt means the same: the base is the result
    Unchanged,
    /// no latent changes: the base is the result
    EmptyMask,
    /// sparse steps
    Sparse,
    /// dense steps inside the mask
    Dense,
}

impl Outcome {
    /// Whether the result is the base, so that there is nothing to remember.
    pub fn is_base(self) -> bool {
        matches!(self, Outcome::Unchanged | Outcome::EmptyMask)
    }
}

/// An edited image's latents and what they cost.
#[derive(Clone, Debug)]
pub struct Edited {
    /// latents after every call; after the guided ones, the recorded ones outside the mask
    pub trajectory: Trajectory,
    /// active latents
    pub mask: Mask,
    /// what happened
    pub outcome: Outcome,
    /// dense steps that found the mask
    pub guided_steps: usize,
    /// sparse steps after them; the rest of the schedule ran dense
    pub sparse_steps: usize,
    /// what all steps cost
    pub work: Work,
    /// multiply-accumulates of the whole schedule, dense
    pub macs_dense: u64,
    /// where the time went
    pub timings: Timings,
}

impl Edited {
    /// The base itself, at no cost.
    pub fn unchanged(base: &Trajectory) -> Self {
        let [_, height, width] = base.shape();
        Edited {
            trajectory: base.clone(),
            mask: Mask::filled(height, width, false),
            outcome: Outcome::Unchanged,
            guided_steps: 0,
            sparse_steps: 0,
            work: Work::default(),
            macs_dense: 0,
            timings: Timings::default(),
        }
    }
}

/// Edits `base` under `conditions` (its schedule, the new prompt). With a `sink`, records the edited image as a base for
/// further edits; when the outcome [is the base](Outcome::is_base), what was recorded is to be thrown away.
pub fn edit<'a>(
    denoiser: &'a mut dyn Denoiser,
    conditions: &Conditions,
    base: Base<'_>,
    options: &EditOptions,
    mut sink: Option<&mut dyn SlotSink>,
    observer: &'a mut Observer<'a>,
) -> Result<Edited, DiffusionError> {
    check(&*denoiser, conditions, base, options)?;
    let mut run = Run::start(denoiser, conditions, observer)?;
    let macs_dense = run.denoiser.dense_macs();
    let started = Instant::now();
    let (mut path, difference) = run.guide(base.trajectory, options, &mut sink)?;
    let timings = Timings {
        guide: started.elapsed(),
        ..Timings::default()
    };

    let started = Instant::now();
    let mask = match options.region {
        Region::Changed { grow } => difference.region(grow),
        _ => found(&options.region, &difference)?,
    };
    run.tell(Event::Mask { share: mask.share() })?;
    let mut edited = Edited {
        guided_steps: path.calls(),
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
        run.denoiser.bind(&mask)?;
    }
    edited.timings.bind = started.elapsed();

    let started = Instant::now();
    path.restore_last(base.trajectory, &mask);
    for step in path.calls()..run.calls() {
        let next = match outcome {
            Outcome::Sparse => run.sparse_step(step, path.last(), base.slots, &mut sink)?,
            _ => run.dense_step(step, path.last(), &mut sink)?,
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
    edited.timings.edit = started.elapsed();
    let steps = run.calls() - edited.guided_steps;
    edited.sparse_steps = if outcome == Outcome::Sparse { steps } else { 0 };
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

/// The region before it is grown: what has to stay the same for guiding to stop.
fn found(region: &Region, difference: &Difference) -> Result<Mask, DiffusionError> {
    match region {
        Region::Changed { .. } => Ok(difference.mask()),
        Region::Share(share) => difference.largest(*share),
        Region::Given(mask) => Ok(mask.clone()),
    }
}

impl Run<'_> {
    /// Dense steps with the new prompt, and how far they move away from the base.
    fn guide(
        &mut self,
        base: &Trajectory,
        options: &EditOptions,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<(Trajectory, Difference), DiffusionError> {
        let [_, height, width] = base.shape();
        let mut path = Trajectory::new(base.shape(), base.at(0).to_vec());
        let mut difference = Difference::new(height, width);
        let mut convergence = Convergence::new(self.calls());
        let is_given = matches!(options.region, Region::Given(_));
        let most = match options.guide_steps {
            GuideSteps::Exactly(steps) => steps.max(usize::from(!is_given)).min(self.calls()),
            GuideSteps::Auto if is_given => 0,
            GuideSteps::Auto => convergence.most(),
        };
        for step in 0..most {
            let next = self.dense_step(step, path.last(), sink)?;
            difference.add(&next, base.at(step + 1));
            path.push(next);
            self.tell(Event::Step {
                phase: Phase::Guide,
                step,
                steps: self.calls(),
            })?;
            if options.guide_steps == GuideSteps::Auto && convergence.is_done(found(&options.region, &difference)?) {
                break;
            }
        }
        Ok((path, difference))
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

    fn sparse_step(
        &mut self,
        step: usize,
        latents: &[f32],
        recorded: &dyn SlotSource,
        sink: &mut Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let input = self.input(step, latents);
        let sink = sink.as_mut().map(|sink| &mut **sink as &mut dyn SlotSink);
        let output = self.denoiser.edit(step, &input, recorded, sink)?;
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
