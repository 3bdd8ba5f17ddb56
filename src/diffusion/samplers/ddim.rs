//! DDIM (Song et al. 2020, equation 12 with eta 0) and its inverse.

use super::Call;
use super::config::{PredictionType, SamplerConfig, Spacing};
use super::schedule::{NoiseLevels, whole_timesteps};
use crate::DiffusionError;

pub(super) fn calls(config: &SamplerConfig, steps: usize) -> Vec<Call> {
    let levels = NoiseLevels::new(config);
    let stride = (config.num_train_timesteps / steps) as i64;
    let last = if config.set_alpha_to_one.unwrap_or(true) {
        1.0
    } else {
        levels.alpha(0)
    };
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Leading);
    let transfer = |timestep: i64| {
        let next = usize::try_from(timestep - stride).map_or(last, |next| levels.alpha(next));
        call(
            config.prediction_type,
            timestep,
            levels.alpha(timestep.max(0) as usize),
            next,
        )
    };
    whole_timesteps(config, spacing, steps, steps)
        .into_iter()
        .map(transfer)
        .collect()
}

/// From image to noise: each call goes to the noise level that a DDIM call of the same index starts from.
pub(super) fn inverse_calls(config: &SamplerConfig, steps: usize) -> Result<Vec<Call>, DiffusionError> {
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Leading);
    if spacing == Spacing::Linspace {
        return Err(DiffusionError::Schedule(
            "DDIM inversion needs leading or trailing spacing".into(),
        ));
    }
    let levels = NoiseLevels::new(config);
    let stride = (config.num_train_timesteps / steps) as i64;
    let first = if config.set_alpha_to_one.unwrap_or(true) {
        1.0
    } else {
        levels.alpha(0)
    };
    let transfer = |timestep: i64| {
        let from = usize::try_from(timestep - stride).map_or(first, |from| levels.alpha(from));
        call(
            config.prediction_type,
            timestep,
            from,
            levels.alpha(timestep.max(0) as usize),
        )
    };
    Ok(whole_timesteps(config, spacing, steps, steps)
        .into_iter()
        .rev()
        .map(transfer)
        .collect())
}

/// `x' = sqrt(next) image + sqrt(1 - next) noise`, both estimated at noise level `alpha`.
fn call(prediction: PredictionType, timestep: i64, alpha: f64, next: f64) -> Call {
    let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    let (next_signal, next_noise) = (next.sqrt(), (1.0 - next).sqrt());
    let (latent, output) = match prediction {
        PredictionType::Epsilon => (next_signal / signal, next_noise - next_signal * noise / signal),
        PredictionType::Velocity => (
            next_signal * signal + next_noise * noise,
            next_noise * signal - next_signal * noise,
        ),
    };
    Call::plain(timestep as f32, latent, output)
}
