//! Euler's method on `dx/dsigma` (Karras et al. 2022, algorithm 2 without churn).

use super::Call;
use super::config::{PredictionType, SamplerConfig, Spacing};
use super::schedule::{
    NoiseLevels, interpolate, karras_sigmas, last_sigma, linspace, sigma_to_timestep, whole_timesteps,
};

/// The calls and the factor on unit noise.
pub(super) fn calls(config: &SamplerConfig, steps: usize) -> (Vec<Call>, f64) {
    let train = NoiseLevels::new(config).sigmas();
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Linspace);
    let mut timesteps = real_timesteps(config, spacing, steps);
    let mut sigmas: Vec<f64> = timesteps
        .iter()
        .map(|&timestep| interpolate(&train, f64::from(timestep)))
        .collect();
    if config.use_karras_sigmas.unwrap_or(false) {
        sigmas = karras_sigmas(sigmas[0], sigmas[steps - 1], steps);
        timesteps = sigmas
            .iter()
            .map(|&sigma| sigma_to_timestep(sigma, &train) as f32)
            .collect();
    }
    sigmas.push(last_sigma(config, &train));
    let sigmas: Vec<f64> = sigmas.into_iter().map(|sigma| f64::from(sigma as f32)).collect();
    let largest = sigmas.iter().copied().fold(0.0, f64::max);
    let initial_scale = match spacing {
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
        Spacing::Linspace | Spacing::Trailing => largest,
    };
    let calls = timesteps
        .iter()
        .zip(sigmas.windows(2))
        .map(|(&timestep, pair)| call(config, timestep, pair));
    (calls.collect(), initial_scale)
}

fn real_timesteps(config: &SamplerConfig, spacing: Spacing, steps: usize) -> Vec<f32> {
    match spacing {
        Spacing::Linspace => linspace(0.0, (config.num_train_timesteps - 1) as f64, steps)
            .into_iter()
            .rev()
            .map(|timestep| timestep as f32)
            .collect(),
        _ => whole_timesteps(config, spacing, steps, steps)
            .into_iter()
            .map(|timestep| timestep as f32)
            .collect(),
    }
}

fn call(config: &SamplerConfig, timestep: f32, sigmas: &[f64]) -> Call {
    let (sigma, step) = (sigmas[0], sigmas[1] - sigmas[0]);
    let variance = sigma * sigma + 1.0;
    // (x - image) / sigma = x * latent + prediction * output
    let (latent, output) = match config.prediction_type {
        PredictionType::Epsilon => (0.0, 1.0),
        PredictionType::Velocity => (sigma / variance, 1.0 / variance.sqrt()),
    };
    Call {
        input_scale: 1.0 / variance.sqrt(),
        ..Call::plain(timestep, 1.0 + step * latent, step * output)
    }
}
