//! `scheduler_config.json`, as diffusers writes it.

use std::path::Path;
use std::str::FromStr;

use super::supported;
use crate::DiffusionError;
use crate::json::Json;

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

impl SamplerKind {
    /// The samplers that make images, in the order in which they are named to users.
    pub const ALL: [SamplerKind; 4] = [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ];
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PredictionType {
    /// the noise
    #[default]
    Epsilon,
    /// `sqrt(alpha) noise - sqrt(1 - alpha) image`
    Velocity,
}

/// How steps are spread over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// multiples of a whole step, plus `steps_offset`
    Leading,
    /// from the last timestep down
    Trailing,
    /// both ends included
    Linspace,
}

/// How noise grows over the training timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BetaSchedule {
    /// betas are equally spaced
    #[default]
    Linear,
    /// their square roots are
    ScaledLinear,
}

/// The last sigma of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinalSigma {
    /// no noise left
    #[default]
    Zero,
    /// the noise of the first training timestep
    SigmaMin,
}

/// How DPM-Solver++ uses the second derivative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SolverType {
    /// midpoint rule
    #[default]
    Midpoint,
    /// Heun's rule
    Heun,
}

/// The part of `scheduler_config.json` that changes numbers. Absent fields take the defaults of the diffusers class in
/// use. Which samplers the file allows, [`SamplerConfig::check`] says: a field matters only to the samplers that read it.
#[derive(Clone, Debug)]
pub struct SamplerConfig {
    /// diffusers class that the model came with
    pub class: Option<String>,
    /// training timesteps
    pub num_train_timesteps: usize,
    /// first beta
    pub beta_start: f64,
    /// last beta
    pub beta_end: f64,
    /// betas between
    pub beta_schedule: BetaSchedule,
    /// what the network predicts
    pub prediction_type: PredictionType,
    /// how steps are spread
    pub timestep_spacing: Option<Spacing>,
    /// added to leading timesteps
    pub steps_offset: i64,
    /// whether no noise is left before the first timestep (DDIM, PNDM)
    pub set_alpha_to_one: Option<bool>,
    /// rescale betas so that the last timestep is pure noise
    pub rescale_betas_zero_snr: bool,
    /// last sigma (Euler, DPM-Solver++)
    pub final_sigmas_type: FinalSigma,
    /// spread sigmas as Karras et al. do (Euler, DPM-Solver++)
    pub use_karras_sigmas: Option<bool>,
    /// order of DPM-Solver++: 1 or 2
    pub solver_order: usize,
    /// second-order rule of DPM-Solver++
    pub solver_type: SolverType,
    /// first order at the end of schedules under 15 steps (DPM-Solver++)
    pub lower_order_final: bool,
    /// first order at the end (DPM-Solver++)
    pub euler_at_final: bool,
    /// the file
    pub(super) file: Json,
}

impl SamplerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// As [`SamplerConfig::parse`]; the error names the file.
    pub fn read(path: &Path) -> Result<Self, DiffusionError> {
        Self::parse(&crate::error::read_text(path)?).map_err(|error| error.at(path))
    }

    /// Parses the text of a `scheduler_config.json`, as Python writes it.
    ///
    /// # Errors
    /// Fails when it is no JSON object, or when what every sampler reads is not what it should be: training timesteps,
    /// betas, offset.
    pub fn parse(json: &str) -> Result<Self, DiffusionError> {
        let file = match Json::parse(json) {
            Ok(file @ Json::Map(_)) => file,
            Ok(_) => return Err(DiffusionError::SchedulerConfig("it is no JSON object".into())),
            Err(error) => return Err(DiffusionError::SchedulerConfig(error.to_string())),
        };
        let text = |key: &str| file.get(key).as_str();
        // null counts as false, as it does in Python
        let flag = |key: &str| file.find(key).map(Json::is_true);
        let config = SamplerConfig {
            class: text("_class_name").map(str::to_owned),
            num_train_timesteps: number(&file, "num_train_timesteps", Json::as_usize)?.unwrap_or(1000),
            beta_start: number(&file, "beta_start", Json::as_f64)?.unwrap_or(0.0001),
            beta_end: number(&file, "beta_end", Json::as_f64)?.unwrap_or(0.02),
            beta_schedule: match text("beta_schedule") {
                Some("scaled_linear") => BetaSchedule::ScaledLinear,
                _ => BetaSchedule::Linear,
            },
            prediction_type: match text("prediction_type") {
                Some("v_prediction") => PredictionType::Velocity,
                _ => PredictionType::Epsilon,
            },
            timestep_spacing: match text("timestep_spacing") {
                Some("leading") => Some(Spacing::Leading),
                Some("trailing") => Some(Spacing::Trailing),
                Some("linspace") => Some(Spacing::Linspace),
                _ => None,
            },
            steps_offset: number(&file, "steps_offset", Json::as_i64)?.unwrap_or(0),
            set_alpha_to_one: flag("set_alpha_to_one"),
            rescale_betas_zero_snr: flag("rescale_betas_zero_snr").unwrap_or(false),
            final_sigmas_type: match text("final_sigmas_type") {
                Some("sigma_min") => FinalSigma::SigmaMin,
                _ => FinalSigma::Zero,
            },
            use_karras_sigmas: flag("use_karras_sigmas"),
            solver_order: file.get("solver_order").as_usize().unwrap_or(2),
            solver_type: match text("solver_type") {
                Some("heun") => SolverType::Heun,
                _ => SolverType::Midpoint, // UniPC's and DEIS's rules too, as in diffusers
            },
            lower_order_final: flag("lower_order_final").unwrap_or(true),
            euler_at_final: flag("euler_at_final").unwrap_or(false),
            file,
        };
        config.check_ranges()?;
        Ok(config)
    }

    /// The sampler that the model came with.
    ///
    /// # Errors
    /// [`DiffusionError::Scheduler`] says why there is none, and which samplers can be chosen instead.
    pub fn default_kind(&self) -> Result<SamplerKind, DiffusionError> {
        let kind = match self.class.as_deref().unwrap_or_default() {
            "DDIMScheduler" => SamplerKind::Ddim,
            "EulerDiscreteScheduler" => SamplerKind::Euler,
            "DPMSolverMultistepScheduler" => SamplerKind::DpmPlusPlus,
            "PNDMScheduler" => SamplerKind::Pndm,
            "DDIMInverseScheduler" => SamplerKind::DdimInverse,
            _ => {
                let reason = supported::refusal_of_all(self);
                return Err(self.refused(None, reason.unwrap_or_default()));
            }
        };
        self.check(kind)?;
        Ok(kind)
    }

    /// Whether a sampler can do what the file asks of it.
    ///
    /// # Errors
    /// [`DiffusionError::Scheduler`] names the setting that is not built and would change the image, and the samplers
    /// that can be chosen instead.
    pub fn check(&self, kind: SamplerKind) -> Result<(), DiffusionError> {
        match supported::refusal(self, kind) {
            None => Ok(()),
            Some(reason) => Err(self.refused(Some(kind), reason)),
        }
    }

    /// The samplers that can do what the file asks of them.
    pub fn choices(&self) -> Vec<SamplerKind> {
        let can = |kind: &SamplerKind| supported::refusal(self, *kind).is_none();
        SamplerKind::ALL.into_iter().filter(can).collect()
    }

    fn refused(&self, kind: Option<SamplerKind>, reason: String) -> DiffusionError {
        DiffusionError::Scheduler {
            class: self.class.clone().unwrap_or_default(),
            sampler: kind.map(SamplerKind::name),
            reason,
            choices: self.choices().into_iter().map(SamplerKind::name).collect(),
        }
    }

    fn check_ranges(&self) -> Result<(), DiffusionError> {
        let wrong = |reason: String| Err(DiffusionError::SchedulerConfig(reason));
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            return wrong(format!("`num_train_timesteps` is {}", self.num_train_timesteps));
        }
        if self.steps_offset.unsigned_abs() > self.num_train_timesteps as u64 {
            return wrong(format!("`steps_offset` is {}", self.steps_offset));
        }
        let is_share = |beta: f64| beta.is_finite() && (0.0..1.0).contains(&beta);
        match is_share(self.beta_start) && is_share(self.beta_end) && self.beta_start > 0.0 {
            true => Ok(()),
            false => wrong(format!(
                "betas from {} to {} lie outside 0 to 1",
                self.beta_start, self.beta_end
            )),
        }
    }
}

/// The number of a field; `None` where it is absent or null.
fn number<T>(file: &Json, key: &str, read: impl Fn(&Json) -> Option<T>) -> Result<Option<T>, DiffusionError> {
    match file.get(key) {
        Json::Null => Ok(None),
        value => match read(value) {
            Some(number) => Ok(Some(number)),
            None => Err(DiffusionError::SchedulerConfig(format!("`{key}` is {value}"))),
        },
    }
}
