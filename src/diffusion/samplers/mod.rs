//! Samplers: the latents after every call of the network, equal step by step to diffusers'.
//!
//! Every sampler here is linear in its latents and predictions, and treats each latent by itself. So a schedule is a
//! table: call by call, with which weights the latents, this call's prediction and the kept ones are added. The tables
//! are computed in f64 from f32 noise levels, and applied in f64.
//!
//! Because no latent looks at another, what stands outside an edit's mask, in latents or in a multistep sampler's
//! history, cannot change what comes out inside: setting the latents there to recorded ones is all an edit needs.

mod config;
mod ddim;
mod dpm;
mod euler;
mod pndm;
mod schedule;
mod supported;

pub use config::{BetaSchedule, FinalSigma, PredictionType, SamplerConfig, SamplerKind, SolverType, Spacing};

use fisec_runtime::{HISTORY, StepUpdate};

use crate::DiffusionError;

/// How many outputs a multistep sampler looks back on, the current one included.
const ORDER: usize = HISTORY + 1;

/// What one call of the network does to the latents.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// what the network is given as time
    timestep: f32,
    /// factor on the latents before the network
    input_scale: f64,
    /// output = latents * convert[0] + prediction * convert[1]
    convert: [f64; 2],
    /// whether the output is kept for later calls
    keep: bool,
    /// the latents that this call steps from
    from: StartingFrom,
    /// factor on those latents
    latent: f64,
    /// factors on the output and the kept ones before it, newest first
    outputs: [f64; ORDER],
}

/// Which latents a call steps from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartingFrom {
    /// those given
    Given,
    /// those given, which the next call steps from again
    GivenAndSaved,
    /// those saved by the call before
    Saved,
}

impl Call {
    /// A call whose output is the plain prediction and that has no memory.
    fn plain(timestep: f32, latent: f64, prediction: f64) -> Self {
        Call {
            timestep,
            input_scale: 1.0,
            convert: [0.0, 1.0],
            keep: false,
            from: StartingFrom::Given,
            latent,
            outputs: [prediction, 0.0, 0.0, 0.0],
        }
    }

    /// The call as one linear update; where fewer outputs are `kept` than it looks back on, its own stands in.
    fn update(&self, guidance: f32, kept: usize, sample_scale: f64) -> StepUpdate {
        let own = self.outputs[0] + self.outputs[1 + kept..].iter().sum::<f64>();
        let mut history = [0.0; HISTORY];
        for (factor, output) in history.iter_mut().zip(&self.outputs[1..=kept]) {
            *factor = *output as f32;
        }
        let [from_latents, from_prediction] = self.convert;
        StepUpdate {
            guidance,
            latents: (self.latent + own * from_latents) as f32,
            prediction: (own * from_prediction) as f32,
            history,
            kept: self.keep.then_some(self.convert.map(|factor| factor as f32)),
            sample_scale: sample_scale as f32,
        }
    }
}

/// A schedule and the state of a run through it.
#[derive(Clone, Debug)]
pub struct Sampler {
    kind: SamplerKind,
    calls: Vec<Call>,
    timesteps: Vec<f32>,
    initial_scale: f64,
    /// signal and noise in the latents before each call, and in the last ones
    levels: Vec<[f64; 2]>,
    /// converted outputs of past calls, oldest first, at most `ORDER - 1`
    history: Vec<Vec<f32>>,
    saved: Option<Vec<f32>>,
}

impl Sampler {
    /// A schedule of `steps` steps, at its start.
    pub fn new(kind: SamplerKind, config: &SamplerConfig, steps: usize) -> Result<Self, DiffusionError> {
        let most = config.num_train_timesteps;
        if !(1..=most).contains(&steps) {
            return Err(DiffusionError::StepCount { steps, most });
        }
        config.check(kind)?;
        let (calls, initial_scale) = match kind {
            SamplerKind::Ddim => (ddim::calls(config, steps), 1.0),
            SamplerKind::DdimInverse => (ddim::inverse_calls(config, steps)?, 1.0),
            SamplerKind::Euler => euler::calls(config, steps),
            SamplerKind::DpmPlusPlus => (dpm::calls(config, steps), 1.0),
            SamplerKind::Pndm => (pndm::calls(config, steps)?, 1.0),
        };
        let timesteps = calls.iter().map(|call| call.timestep).collect();
        let finite = |call: &Call| {
            call.outputs
                .iter()
                .chain([&call.latent])
                .all(|weight| weight.is_finite())
        };
        if !calls.iter().all(finite) {
            return Err(DiffusionError::Schedule(format!(
                "no finite {} schedule of {steps} steps",
                kind.name()
            )));
        }
        Ok(Sampler {
            kind,
            levels: levels(kind, config, &calls),
            calls,
            timesteps,
            initial_scale,
            history: Vec::new(),
            saved: None,
        })
    }

    /// Which sampler this is.
    pub fn kind(&self) -> SamplerKind {
        self.kind
    }

    /// What the network is given as time, one per call. PNDM calls once more than it has steps.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Factor on unit noise that gives the initial latents.
    pub fn initial_scale(&self) -> f32 {
        self.initial_scale as f32
    }

    /// A picture's latents with unit noise, as the schedule has them before call `call`; behind the last call, the
    /// picture itself.
    pub fn noised(&self, call: usize, picture: &[f32], noise: &[f32]) -> Vec<f32> {
        let [signal, share] = self.levels.get(call).copied().unwrap_or([1.0, 0.0]);
        linear(&[(signal, picture), (share, noise)])
    }

    /// The network's input at a call.
    pub fn scale_input(&self, call: usize, latents: &[f32]) -> Vec<f32> {
        let scale = self.calls[call].input_scale;
        match scale == 1.0 {
            true => latents.to_vec(),
            false => latents
                .iter()
                .map(|&latent| (f64::from(latent) * scale) as f32)
                .collect(),
        }
    }

    /// The latents after a call, from the (unscaled) latents before it and the network's prediction. Calls come in order;
    /// the first may be any: where a multistep method looks back on what never was, the output of this call stands in.
    pub fn step(&mut self, call: usize, prediction: &[f32], latents: &[f32]) -> Vec<f32> {
        let weights = self.calls[call];
        let output = linear(&[(weights.convert[0], latents), (weights.convert[1], prediction)]);
        let from = match weights.from {
            StartingFrom::Saved => self.saved.take(),
            StartingFrom::GivenAndSaved => {
                self.saved = Some(latents.to_vec());
                None
            }
            StartingFrom::Given => None,
        };
        let mut terms = vec![
            (weights.latent, from.as_deref().unwrap_or(latents)),
            (weights.outputs[0], output.as_slice()),
        ];
        let kept = self.history.iter().rev().map(Vec::as_slice);
        let kept = kept.chain(std::iter::repeat(output.as_slice()));
        terms.extend(weights.outputs[1..].iter().copied().zip(kept));
        let next = linear(&terms);
        if weights.keep {
            self.history.push(output);
            let surplus = self.history.len().saturating_sub(ORDER - 1);
            self.history.drain(..surplus);
        }
        next
    }

    /// The calls from `first`, the next one, as updates that a device makes by itself; `None` when none is left, or while
    /// one steps from other latents than those before it.
    pub fn updates(&self, first: usize, guidance: f32) -> Option<Vec<StepUpdate>> {
        let calls = &self.calls[first..];
        if calls.is_empty() || self.saved.is_some() || calls.iter().any(|call| call.from != StartingFrom::Given) {
            return None;
        }
        let scales = calls.iter().skip(1).map(|call| call.input_scale).chain([1.0]);
        let mut kept = self.history.len();
        let updates = calls.iter().zip(scales).map(|(call, scale)| {
            let update = call.update(guidance, kept, scale);
            kept = (kept + usize::from(call.keep)).min(HISTORY);
            update
        });
        Some(updates.collect())
    }

    /// Factor on the latents that makes the network's input at a call.
    pub fn input_scale(&self, call: usize) -> f32 {
        self.calls[call].input_scale as f32
    }

    /// What past calls have kept, newest first.
    pub fn history(&self) -> Vec<&[f32]> {
        self.history.iter().rev().map(Vec::as_slice).collect()
    }

    /// Forgets the run, for another with the same schedule.
    pub fn restart(&mut self) {
        self.history.clear();
        self.saved = None;
    }
}

/// Signal and noise before each call. DPM-Solver++ with Karras sigmas visits levels between timesteps, which are rounded.
fn levels(kind: SamplerKind, config: &SamplerConfig, calls: &[Call]) -> Vec<[f64; 2]> {
    let train = schedule::NoiseLevels::new(config);
    let level = |call: &Call| match kind {
        SamplerKind::Euler => [1.0, (1.0 / (call.input_scale * call.input_scale) - 1.0).max(0.0).sqrt()],
        _ => {
            let alpha = train.alpha(call.timestep.max(0.0).round() as usize);
            [alpha.sqrt(), (1.0 - alpha).sqrt()]
        }
    };
    calls.iter().map(level).collect()
}

/// Sets `latents` to `recorded` wherever `active` (one entry per pixel, repeated over the channels) is false.
pub fn restore(latents: &mut [f32], recorded: &[f32], active: &[bool]) {
    for ((latent, &recorded), &active) in latents.iter_mut().zip(recorded).zip(active.iter().cycle()) {
        if !active {
            *latent = recorded;
        }
    }
}

/// `sum of weight * values`, elementwise in f64; terms of weight zero are left out.
fn linear(terms: &[(f64, &[f32])]) -> Vec<f32> {
    let used: Vec<_> = terms.iter().filter(|(weight, _)| *weight != 0.0).collect();
    let length = terms.first().map_or(0, |(_, values)| values.len());
    (0..length)
        .map(|index| {
            used.iter()
                .map(|(weight, values)| weight * f64::from(values[index]))
                .sum::<f64>() as f32
        })
        .collect()
}
