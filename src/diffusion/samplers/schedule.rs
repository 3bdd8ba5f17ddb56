//! Noise levels of the training timesteps, and which of them a schedule visits.

use super::config::{BetaSchedule, FinalSigma, SamplerConfig, Spacing};

/// Cumulative products of `1 - beta`, one per training timestep.
///
/// In f32 where torch has f32: the betas and what is derived from them; products accumulate in f64 as torch's do.
#[derive(Clone, Debug)]
pub(super) struct NoiseLevels {
    alphas: Vec<f32>,
    zero_snr: bool,
}

impl NoiseLevels {
    pub(super) fn new(config: &SamplerConfig) -> Self {
        let count = config.num_train_timesteps;
        let betas = match config.beta_schedule {
            BetaSchedule::Linear => linspace_f32(config.beta_start, config.beta_end, count),
            BetaSchedule::ScaledLinear => linspace_f32(config.beta_start.sqrt(), config.beta_end.sqrt(), count)
                .into_iter()
                .map(|root| root * root)
                .collect(),
        };
        let mut alphas = cumulative_product(betas.iter().map(|beta| 1.0 - beta));
        if config.rescale_betas_zero_snr {
            alphas = cumulative_product(zero_snr_alphas(&alphas).into_iter());
        }
        NoiseLevels {
            alphas,
            zero_snr: config.rescale_betas_zero_snr,
        }
    }

    /// Share of signal variance at a timestep.
    pub(super) fn alpha(&self, timestep: usize) -> f64 {
        f64::from(self.alphas[timestep.min(self.alphas.len() - 1)])
    }

    /// Noise over signal, `sqrt((1 - alpha) / alpha)`, of every timestep.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        let mut alphas = self.alphas.clone();
        if self.zero_snr
            && let Some(last) = alphas.last_mut()
        {
            *last = 2f32.powi(-24); // no infinite sigma
        }
        alphas.into_iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
    }
}

/// `torch.linspace` in f32: from both ends towards the middle.
fn linspace_f32(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1) as f32;
    let value = |index: usize| match index < count / 2 {
        true => start + step * index as f32,
        false => end - step * (count - 1 - index) as f32,
    };
    (0..count).map(value).collect()
}

fn cumulative_product(factors: impl Iterator<Item = f32>) -> Vec<f32> {
    factors
        .scan(1.0f64, |product, factor| {
            *product *= f64::from(factor);
            Some(*product as f32)
        })
        .collect()
}

/// Factors whose cumulative product ends at zero (Lin et al., "Common diffusion noise schedules", algorithm 1).
fn zero_snr_alphas(alphas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = alphas.iter().map(|alpha| alpha.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let shifted: Vec<f32> = roots
        .iter()
        .map(|root| (root - last) * (first / (first - last)))
        .map(|root| root * root)
        .collect();
    let ratios = shifted.windows(2).map(|pair| 1.0 - (1.0 - pair[1] / pair[0]));
    std::iter::once(1.0 - (1.0 - shifted[0])).chain(ratios).collect()
}

/// `numpy.linspace` in f64.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    (0..count)
        .map(|index| {
            if index > 0 && index == count - 1 {
                end
            } else {
                start + step * index as f64
            }
        })
        .collect()
}

/// Whole timesteps from most noise to least; `intervals` is how many the training range is cut into.
pub(super) fn whole_timesteps(config: &SamplerConfig, spacing: Spacing, steps: usize, intervals: usize) -> Vec<i64> {
    let train = config.num_train_timesteps;
    match spacing {
        Spacing::Linspace => linspace(0.0, (train - 1) as f64, intervals)
            .into_iter()
            .rev()
            .take(steps)
            .map(|timestep| timestep.round_ties_even() as i64)
            .collect(),
        Spacing::Leading => (0..intervals)
            .rev()
            .take(steps)
            .map(|index| (index * (train / intervals)) as i64 + config.steps_offset)
            .collect(),
        Spacing::Trailing => trailing(train, steps),
    }
}

fn trailing(train: usize, steps: usize) -> Vec<i64> {
    let ratio = train as f64 / steps as f64;
    (0..steps)
        .map(|index| (train as f64 - ratio * index as f64).round_ties_even() as i64 - 1)
        .collect()
}

/// Linear interpolation of `values` at a real index, clamped at both ends.
pub(super) fn interpolate(values: &[f32], index: f64) -> f64 {
    let index = index.clamp(0.0, (values.len() - 1) as f64);
    let below = (index as usize).min(values.len() - 2);
    let (low, high) = (f64::from(values[below]), f64::from(values[below + 1]));
    (high - low) * (index - below as f64) + low
}

/// The last sigma of a schedule.
pub(super) fn last_sigma(config: &SamplerConfig, sigmas: &[f32]) -> f64 {
    match config.final_sigmas_type {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => f64::from(sigmas[0]),
    }
}

/// Sigmas between `largest` and `smallest` as in Karras et al. 2022, equation 5 with rho 7.
pub(super) fn karras_sigmas(largest: f64, smallest: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps)
        .into_iter()
        .map(|ramp| (from + ramp * (to - from)).powf(RHO))
        .collect()
}

/// The real timestep whose sigma this is: linear in the logarithm.
pub(super) fn sigma_to_timestep(sigma: f64, sigmas: &[f32]) -> f64 {
    let logarithm = |index: usize| f64::from(sigmas[index].ln());
    let target = sigma.max(1e-10).ln();
    let below = (0..sigmas.len())
        .rev()
        .find(|&index| target >= logarithm(index))
        .unwrap_or(0);
    let below = below.min(sigmas.len() - 2);
    let (low, high) = (logarithm(below), logarithm(below + 1));
    below as f64 + ((low - target) / (low - high)).clamp(0.0, 1.0)
}
