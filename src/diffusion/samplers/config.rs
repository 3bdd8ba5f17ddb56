//! `scheduler_config.json`, as diffusers writes it.

use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;

use crate::DiffusionError;

/// A sampler by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// deterministic DDIM (eta 0)
    Ddim,
    /// Euler's method on sigmas
    Euler,
    /// DPM-Solver++, second order, multistep
    DpmPlusPlus,
    /// pseudo linear multistep without the Runge–Kutta start; one call more than steps
    Pndm,
    /// DDIM from image to noise
    DdimInverse,
}

impl SamplerKind {
    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            SamplerKind::Ddim => "ddim",
            SamplerKind::Euler => "euler",
            SamplerKind::DpmPlusPlus => "dpm++",
            SamplerKind::Pndm => "pndm",
            SamplerKind::DdimInverse => "ddim-inverse",
        }
    }
}

impl FromStr for SamplerKind {
    type Err = DiffusionError;

    /// One of `ddim`, `euler`, `dpm++`, `pndm`.
    fn from_str(name: &str) -> Result<Self, DiffusionError> {
        match name.to_ascii_lowercase().as_str() {
            "ddim" => Ok(SamplerKind::Ddim),
            "euler" => Ok(SamplerKind::Euler),
            "dpm++" | "dpmpp" => Ok(SamplerKind::DpmPlusPlus),
            "pndm" => Ok(SamplerKind::Pndm),
            _ => Err(DiffusionError::UnknownSampler(name.to_string())),
        }
    }
}

/// What the network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PredictionType {
    /// the noise
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// `sqrt(alpha) noise - sqrt(1 - alpha) image`
    #[serde(rename = "v_prediction")]
    Velocity,
}

/// How steps are spread over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// multiples of a whole step, plus `steps_offset`
    Leading,
    /// from the last timestep down
    Trailing,
    /// both ends included
    Linspace,
}

/// How noise grows over the training timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// betas are equally spaced
    #[default]
    Linear,
    /// their square roots are
    ScaledLinear,
}

/// The last sigma of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// no noise left
    #[default]
    Zero,
    /// the noise of the first training timestep
    SigmaMin,
}

/// How DPM-Solver++ uses the second derivative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// midpoint rule
    #[default]
    Midpoint,
    /// Heun's rule
    Heun,
}

/// The part of `scheduler_config.json` that changes numbers. Absent fields take the defaults of the diffusers class in
/// use; unknown ones are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct SamplerConfig {
    /// diffusers class that the model came with
    #[serde(rename = "_class_name", default)]
    pub class: Option<String>,
    /// training timesteps
    #[serde(default = "thousand")]
    pub num_train_timesteps: usize,
    /// first beta
    #[serde(default = "first_beta")]
    pub beta_start: f64,
    /// last beta
    #[serde(default = "last_beta")]
    pub beta_end: f64,
    /// betas between
    #[serde(default)]
    pub beta_schedule: BetaSchedule,
    /// what the network predicts
    #[serde(default)]
    pub prediction_type: PredictionType,
    /// how steps are spread
    pub timestep_spacing: Option<Spacing>,
    /// added to leading timesteps
    #[serde(default)]
    pub steps_offset: i64,
    /// whether no noise is left before the first timestep (DDIM, PNDM)
    pub set_alpha_to_one: Option<bool>,
    /// rescale betas so that the last timestep is pure noise
    #[serde(default)]
    pub rescale_betas_zero_snr: bool,
    /// last sigma (Euler, DPM-Solver++)
    #[serde(default)]
    pub final_sigmas_type: FinalSigma,
    /// spread sigmas as Karras et al. do (Euler, DPM-Solver++)
    #[serde(default)]
    pub use_karras_sigmas: Option<bool>,
    /// order of DPM-Solver++: 1 or 2
    #[serde(default = "second_order")]
    pub solver_order: usize,
    /// second-order rule of DPM-Solver++
    #[serde(default)]
    pub solver_type: SolverType,
    /// first order at the end of schedules under 15 steps (DPM-Solver++)
    #[serde(default = "yes")]
    pub lower_order_final: bool,
    /// first order at the end (DPM-Solver++)
    #[serde(default)]
    pub euler_at_final: bool,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

fn thousand() -> usize {
    1000
}

fn first_beta() -> f64 {
    0.0001
}

fn last_beta() -> f64 {
    0.02
}

fn second_order() -> usize {
    2
}

fn yes() -> bool {
    true
}

impl SamplerConfig {
    /// Reads a `scheduler_config.json`.
    pub fn read(path: &Path) -> Result<Self, DiffusionError> {
        Self::parse(&crate::error::read_text(path)?).map_err(|error| error.at(path))
    }

    /// Parses the text of a `scheduler_config.json`; refuses options that would change the image and are not built.
    pub fn parse(json: &str) -> Result<Self, DiffusionError> {
        let config: SamplerConfig =
            serde_json::from_str(json).map_err(|error| DiffusionError::SchedulerConfig(error.to_string()))?;
        config.refuse_unsupported()?;
        Ok(config)
    }

    /// The sampler that the model came with.
    pub fn default_kind(&self) -> Result<SamplerKind, DiffusionError> {
        match self.class.as_deref().unwrap_or_default() {
            "DDIMScheduler" => Ok(SamplerKind::Ddim),
            "EulerDiscreteScheduler" => Ok(SamplerKind::Euler),
            "DPMSolverMultistepScheduler" => Ok(SamplerKind::DpmPlusPlus),
            "PNDMScheduler" => Ok(SamplerKind::Pndm),
            "DDIMInverseScheduler" => Ok(SamplerKind::DdimInverse),
            other => Err(DiffusionError::UnknownSchedulerClass(other.to_string())),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), DiffusionError> {
        let set = |name: &str| {
            self.other
                .get(name)
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false)
        };
        let switches = [
            "clip_sample",
            "thresholding",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
        ];
        if let Some(name) = switches.into_iter().find(|name| set(name)) {
            return Err(DiffusionError::SchedulerConfig(format!("`{name}` is not supported")));
        }
        let only = [
            ("algorithm_type", "dpmsolver++"),
            ("interpolation_type", "linear"),
            ("timestep_type", "discrete"),
        ];
        for (name, supported) in only {
            let value = self.other.get(name).and_then(serde_json::Value::as_str);
            if let Some(value) = value.filter(|value| *value != supported) {
                let reason = format!("`{name}` is `{value}`, only `{supported}` is supported");
                return Err(DiffusionError::SchedulerConfig(reason));
            }
        }
        if self.other.get("trained_betas").is_some_and(|betas| !betas.is_null()) {
            return Err(DiffusionError::SchedulerConfig(
                "`trained_betas` is not supported".into(),
            ));
        }
        if !(1..=2).contains(&self.solver_order) {
            let reason = format!("`solver_order` is {}, 1 and 2 are supported", self.solver_order);
            return Err(DiffusionError::SchedulerConfig(reason));
        }
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            let reason = format!("`num_train_timesteps` is {}", self.num_train_timesteps);
            return Err(DiffusionError::SchedulerConfig(reason));
        }
        let betas = [self.beta_start, self.beta_end];
        if betas
            .iter()
            .any(|beta| !(beta.is_finite() && (0.0..1.0).contains(beta)))
            || betas[0] == 0.0
        {
            return Err(DiffusionError::SchedulerConfig("betas lie outside 0 to 1".into()));
        }
        Ok(())
    }
}
