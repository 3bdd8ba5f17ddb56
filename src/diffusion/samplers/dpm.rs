//! DPM-Solver++ (Lu et al. 2022), multistep, first and second order, on the predicted image.

use super::Call;
use super::config::{FinalSigma, PredictionType, SamplerConfig, SolverType, Spacing};
use super::schedule::{NoiseLevels, interpolate, karras_sigmas, last_sigma, sigma_to_timestep, whole_timesteps};

/// A noise level in the solver's terms: signal, noise, and half the log signal-to-noise ratio.
#[derive(Clone, Copy)]
struct Level {
    alpha: f64,
    sigma: f64,
    lambda: f64,
}

impl Level {
    fn new(sigma: f64) -> Self {
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        Level {
            alpha,
            sigma: sigma * alpha,
            lambda: -sigma.ln(),
        }
    }
}

pub(super) fn calls(config: &SamplerConfig, steps: usize) -> Vec<Call> {
    let (timesteps, sigmas) = schedule(config, steps);
    let levels: Vec<Level> = sigmas.into_iter().map(Level::new).collect();
    (0..timesteps.len())
        .map(|index| {
            let previous = index
                .checked_sub(1)
                .filter(|_| !first_order(config, index, timesteps.len()));
            let (latent, outputs) = match previous {
                None => first(levels[index], levels[index + 1]),
                Some(previous) => second(config.solver_type, levels[previous], levels[index], levels[index + 1]),
            };
            let Level { alpha, sigma, .. } = levels[index];
            let convert = match config.prediction_type {
                PredictionType::Epsilon => [1.0 / alpha, -sigma / alpha],
                PredictionType::Velocity => [alpha, -sigma],
            };
            Call {
                convert,
                keep: true,
                latent,
                outputs,
                ..Call::plain(timesteps[index], 1.0, 0.0)
            }
        })
        .collect()
}

/// Timesteps, and one sigma more.
fn schedule(config: &SamplerConfig, steps: usize) -> (Vec<f32>, Vec<f64>) {
    let train = NoiseLevels::new(config).sigmas();
    let (timesteps, mut sigmas) = if config.use_karras_sigmas.unwrap_or(false) {
        let sigmas = karras_sigmas(f64::from(train[train.len() - 1]), f64::from(train[0]), steps);
        let timestep = |&sigma: &f64| sigma_to_timestep(sigma, &train).round_ties_even() as f32;
        (sigmas.iter().map(timestep).collect(), sigmas)
    } else {
        let spacing = config.timestep_spacing.unwrap_or(Spacing::Linspace);
        let timesteps = whole_timesteps(config, spacing, steps, steps + 1);
        let sigma = |&timestep: &i64| interpolate(&train, timestep as f64);
        (
            timesteps.iter().map(|&timestep| timestep as f32).collect::<Vec<f32>>(),
            timesteps.iter().map(sigma).collect(),
        )
    };
    sigmas.push(last_sigma(config, &train));
    (
        timesteps,
        sigmas.into_iter().map(|sigma| f64::from(sigma as f32)).collect(),
    )
}

fn first_order(config: &SamplerConfig, index: usize, steps: usize) -> bool {
    let short = config.lower_order_final && steps < 15;
    let last = config.euler_at_final || short || config.final_sigmas_type == FinalSigma::Zero;
    config.solver_order == 1 || (index + 1 == steps && last)
}

fn first(here: Level, next: Level) -> (f64, [f64; 4]) {
    let growth = next.alpha * ((here.lambda - next.lambda).exp() - 1.0);
    (next.sigma / here.sigma, [-growth, 0.0, 0.0, 0.0])
}

fn second(solver: SolverType, before: Level, here: Level, next: Level) -> (f64, [f64; 4]) {
    let step = next.lambda - here.lambda;
    let ratio = step / (here.lambda - before.lambda);
    let growth = next.alpha * ((-step).exp() - 1.0);
    let slope = match solver {
        SolverType::Midpoint => -0.5 * growth,
        SolverType::Heun => growth / step + next.alpha,
    };
    (
        next.sigma / here.sigma,
        [slope * ratio - growth, -slope * ratio, 0.0, 0.0],
    )
}
