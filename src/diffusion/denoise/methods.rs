//! Other ways to edit, made of the same parts, to compare with: nothing is recorded and every step is dense.

use std::collections::HashMap;
use std::time::Instant;

use fisec_plan::SlotId;
use fisec_runtime::{RuntimeError, SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use super::{Base, Conditions, EditOptions, Edited, Outcome, Region, Run};
use crate::mask::MapSlot;
use crate::samplers::restore;
use crate::words::Words;
use crate::{Denoiser, DiffusionError, Event, Notice, Observer, Phase, Timings, Trajectory};

/// Share of the schedule in which Prompt-to-Prompt follows recorded attention (its authors' default).
const PROMPT_TO_PROMPT: f64 = 0.8;

/// How a picture is edited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Method {
    /// cached and sparse: [`super::edit`]
    #[default]
    Fisec,
    /// the same noise, everything anew
    Regenerate,
    /// in-painting by blending: dense from the noise, outside the mask the base's latents, noised anew for every step
    Blend,
    /// Prompt-to-Prompt (Hertz et al. 2022): dense and without a mask, attention follows the base's
    PromptToPrompt,
    /// SDEdit (Meng et al. 2021): the base, noised to this strength (0 to 1), is denoised with the new prompt
    SdEdit(f64),
    /// DiffEdit (Couairon et al. 2022): a mask from how predictions differ, DDIM inversion, restored outside
    DiffEdit,
}

/// Both sides of a comparison.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// the base's prompt, same schedule
    pub old: &'a Conditions,
    /// the new prompt
    pub new: &'a Conditions,
    /// the base
    pub base: Base<'a>,
    /// unit noise that the base was made from
    pub noise: &'a [f32],
    /// the base's prompt, the schedule backwards: what DiffEdit inverts with
    pub inverse: Option<&'a Conditions>,
}

/// Edits by another method than [`Method::Fisec`].
pub fn edit_by<'a>(
    method: Method,
    denoiser: &'a mut dyn Denoiser,
    subject: Subject<'_>,
    words: &Words,
    options: &EditOptions,
    observer: &'a mut Observer<'a>,
) -> Result<Edited, DiffusionError> {
    let macs_dense = denoiser.dense_macs();
    let started = Instant::now();
    let mut run = Run::start(denoiser, subject.new, observer)?;
    let calls = run.calls();
    let [_, height, width] = subject.base.trajectory.shape();
    let whole = Mask::filled(height, width, true);
    let (trajectory, mask) = match method {
        Method::Fisec | Method::Regenerate => (run.regenerate(subject)?, whole),
        Method::Blend => run.blend(subject, words, options)?,
        Method::PromptToPrompt => (run.prompt_to_prompt(subject, words)?, whole),
        Method::SdEdit(strength) => (run.sdedit(subject, strength)?, whole),
        Method::DiffEdit => run.diffedit(subject, options)?,
    };
    let outcome = if mask.is_empty() {
        Outcome::EmptyMask
    } else {
        Outcome::Dense
    };
    Ok(Edited {
        trajectory,
        mask,
        outcome,
        controlled_steps: if method == Method::PromptToPrompt {
            words.control.len()
        } else {
            0
        },
        dense_steps: run.dense_calls,
        work: run.work,
        macs_dense: macs_dense * calls as u64,
        timings: Timings {
            edit: started.elapsed(),
            ..Timings::default()
        },
        ..Edited::unchanged(subject.base.trajectory)
    })
}

/// Calls in which Prompt-to-Prompt follows recorded attention.
pub fn prompt_to_prompt_calls(calls: usize) -> usize {
    (calls as f64 * PROMPT_TO_PROMPT).round() as usize
}

impl Run<'_> {
    fn regenerate(&mut self, subject: Subject<'_>) -> Result<Trajectory, DiffusionError> {
        self.dense_from(0, subject, subject.base.trajectory.at(0).to_vec(), |_, _| {})
    }

    fn sdedit(&mut self, subject: Subject<'_>, strength: f64) -> Result<Trajectory, DiffusionError> {
        let first = skipped(self.calls(), strength);
        let noisy = self
            .sampler
            .noised(first, subject.base.trajectory.last(), subject.noise);
        self.dense_from(first, subject, noisy, |_, _| {})
    }

    fn blend(
        &mut self,
        subject: Subject<'_>,
        words: &Words,
        options: &EditOptions,
    ) -> Result<(Trajectory, Mask), DiffusionError> {
        let (_, findings) = self.guide(subject.base, words, options, &mut None)?;
        let mask = findings.region(&options.region)?;
        self.found(&mask)?;
        self.switch(subject.new)?;
        let sampler = self.sampler.clone();
        let picture = subject.base.trajectory.last();
        let start = subject.base.trajectory.at(0).to_vec();
        let path = self.dense_from(0, subject, start, |next_call, latents| {
            restore(latents, &sampler.noised(next_call, picture, subject.noise), mask.bits());
        })?;
        Ok((path, mask))
    }

    /// The base is denoised again, beside the edit as Prompt-to-Prompt does it, for its maps.
    fn prompt_to_prompt(&mut self, subject: Subject<'_>, words: &Words) -> Result<Trajectory, DiffusionError> {
        let slots = self.denoiser.map_slots();
        let mut maps = Maps::new(&slots);
        self.switch(subject.old)?;
        for step in 0..words.control.len() {
            let latents = subject.base.trajectory.at(step);
            self.dense_step(step, latents, None, Some(&mut maps))?;
        }
        self.switch(subject.new)?;
        let mut path = Trajectory::new(subject.base.trajectory.shape(), subject.base.trajectory.at(0).to_vec());
        for step in 0..self.calls() {
            let control = words
                .control
                .get(step)
                .map(|control| (control, &maps as &dyn SlotSource));
            let next = self.dense_step(step, path.last(), control, None)?;
            path.push(next);
            self.step_done(step)?;
        }
        Ok(path)
    }

    fn diffedit(&mut self, subject: Subject<'_>, options: &EditOptions) -> Result<(Trajectory, Mask), DiffusionError> {
        let picture = subject.base.trajectory.last();
        let mask = match &options.region {
            Region::Given(mask) => mask.clone(),
            _ => self.predicted_difference(subject)?,
        };
        self.found(&mask)?;
        if mask.is_empty() {
            return Ok((subject.base.trajectory.clone(), mask));
        }
        let inverse = subject
            .inverse
            .ok_or(DiffusionError::InversionSampler(self.sampler.kind().name()))?;
        let inverted = self.invert(inverse, picture)?;
        self.switch(subject.new)?;
        let first = skipped(self.calls(), DIFFEDIT_STRENGTH);
        let path = self.dense_from(first, subject, inverted.at(first).to_vec(), |next_call, latents| {
            restore(latents, inverted.at(next_call), mask.bits());
        })?;
        Ok((path, mask))
    }

    /// Where noise predictions for the old and the new prompt differ, at half of the schedule, over several noises.
    fn predicted_difference(&mut self, subject: Subject<'_>) -> Result<Mask, DiffusionError> {
        let call = self.calls() / 2;
        let [channels, height, width] = subject.base.trajectory.shape();
        let noises: Vec<Vec<f32>> = (1..=DIFFEDIT_NOISES)
            .map(|seed| crate::noise::randn(channels * height * width, seed))
            .collect();
        let mut predictions = [Vec::new(), Vec::new()];
        for (found, conditions) in predictions.iter_mut().zip([subject.old, subject.new]) {
            self.switch(conditions)?;
            for noise in &noises {
                let noisy = self.sampler.noised(call, subject.base.trajectory.last(), noise);
                found.push(self.prediction(call, &noisy)?);
            }
        }
        let mut sums = vec![0.0f64; height * width];
        for (old, new) in predictions[0].iter().zip(&predictions[1]) {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                sums[index % (height * width)] += f64::from((old - new).abs());
            }
        }
        // diffusers' pipeline: clamped to three times the mean, then half of the range
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        let clamped: Vec<f64> = sums.iter().map(|sum| sum.min(3.0 * mean)).collect();
        let most = clamped.iter().copied().fold(0.0, f64::max);
        let bits = clamped.iter().map(|&sum| most > 0.0 && sum / most > 0.5).collect();
        Ok(Mask::new(height, width, bits))
    }

    /// Dense steps from a call on; `after` sees the index of the next call and may change the latents before it.
    fn dense_from(
        &mut self,
        first: usize,
        subject: Subject<'_>,
        latents: Vec<f32>,
        mut after: impl FnMut(usize, &mut [f32]),
    ) -> Result<Trajectory, DiffusionError> {
        let mut path = Trajectory::new(subject.base.trajectory.shape(), latents.clone());
        (0..first).for_each(|_| path.push(latents.clone()));
        for step in first..self.calls() {
            let mut next = self.dense_step(step, path.last(), None, None)?;
            after(step + 1, &mut next);
            path.push(next);
            self.step_done(step)?;
        }
        Ok(path)
    }

    fn step_done(&mut self, step: usize) -> Result<(), DiffusionError> {
        self.tell(Event::Step {
            phase: Phase::Dense,
            step,
            steps: self.calls(),
        })
    }

    fn found(&mut self, mask: &Mask) -> Result<(), DiffusionError> {
        self.tell(Event::Mask {
            share: mask.share(),
            pieces: crate::pieces(mask),
        })?;
        match mask.is_empty() {
            true => self.tell(Event::Notice(Notice::EmptyMask)),
            false => Ok(()),
        }
    }
}

/// Strength of DiffEdit's inversion (diffusers' default).
const DIFFEDIT_STRENGTH: f64 = 0.8;

/// Noises over which predictions are compared. The paper takes ten; more than this changes masks little.
const DIFFEDIT_NOISES: u64 = 4;

/// Calls that a strength leaves out; at least one remains.
fn skipped(calls: usize, strength: f64) -> usize {
    let taken = (calls as f64 * strength.clamp(0.0, 1.0)).round() as usize;
    calls - taken.clamp(1, calls)
}

/// Cross-attention maps in memory.
struct Maps<'a> {
    slots: &'a [MapSlot],
    values: HashMap<(usize, SlotId), HostTensor>,
}

impl<'a> Maps<'a> {
    fn new(slots: &'a [MapSlot]) -> Self {
        let values = HashMap::new();
        Maps { slots, values }
    }
}

impl SlotSink for Maps<'_> {
    fn wants(&self, _: usize, slot: SlotId) -> bool {
        self.slots.iter().any(|map| map.slot == slot)
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        self.values.insert((step, slot), value.cast(fisec_tensor::DType::F16));
        Ok(())
    }
}

impl SlotSource for Maps<'_> {
    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        let missing = || RuntimeError::MissingSlot {
            slot: slot.0.to_string(),
            step,
        };
        self.values.get(&(step, slot)).cloned().ok_or_else(missing)
    }
}
