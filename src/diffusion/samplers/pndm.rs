//! PNDM (Liu et al. 2022) with linear multistep only: formula 9 over Adams–Bashforth combinations of predictions.

use super::config::{PredictionType, SamplerConfig, Spacing};
use super::schedule::{NoiseLevels, whole_timesteps};
use super::{Call, ORDER, StartingFrom};
use crate::DiffusionError;

/// Weights of the predictions, newest first, by call; the second call averages with the first from the same latents.
const COMBINATIONS: [[f64; ORDER]; 5] = [
    [1.0, 0.0, 0.0, 0.0],
    [0.5, 0.5, 0.0, 0.0],
    [1.5, -0.5, 0.0, 0.0],
    [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
    [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

pub(super) fn calls(config: &SamplerConfig, steps: usize) -> Result<Vec<Call>, DiffusionError> {
    if steps < 2 {
        return Err(DiffusionError::Schedule("pndm needs 2 steps or more".into()));
    }
    let levels = NoiseLevels::new(config);
    let stride = (config.num_train_timesteps / steps) as i64;
    let last = if config.set_alpha_to_one.unwrap_or(false) {
        1.0
    } else {
        levels.alpha(0)
    };
    let alpha = |timestep: i64| usize::try_from(timestep).map_or(last, |timestep| levels.alpha(timestep));
    let mut timesteps = whole_timesteps(
        config,
        config.timestep_spacing.unwrap_or(Spacing::Leading),
        steps,
        steps,
    );
    timesteps.insert(1, timesteps[1]);
    let call = |(index, &timestep): (usize, &i64)| {
        let (from, to) = if index == 1 {
            (timestep + stride, timestep)
        } else {
            (timestep, timestep - stride)
        };
        let (latent, output) = transfer(config.prediction_type, alpha(from), alpha(to));
        Call {
            keep: index != 1,
            from: match index {
                0 => StartingFrom::GivenAndSaved,
                1 => StartingFrom::Saved,
                _ => StartingFrom::Given,
            },
            outputs: COMBINATIONS[index.min(4)].map(|weight| weight * output),
            ..Call::plain(timestep as f32, latent, 0.0)
        }
    };
    Ok(timesteps.iter().enumerate().map(call).collect())
}

/// Factors on latents and combined prediction.
fn transfer(prediction: PredictionType, alpha: f64, next: f64) -> (f64, f64) {
    let denominator = alpha * (1.0 - next).sqrt() + (alpha * (1.0 - alpha) * next).sqrt();
    let output = -(next - alpha) / denominator;
    let latent = (next / alpha).sqrt();
    match prediction {
        PredictionType::Epsilon => (latent, output),
        PredictionType::Velocity => (latent + output * (1.0 - alpha).sqrt(), output * alpha.sqrt()),
    }
}
