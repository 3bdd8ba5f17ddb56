//! What a `scheduler_config.json` asks for that is not built and would make another image.
//!
//! A field matters to the samplers whose diffusers class has it. The same field in the file of another class is ignored,
//! as diffusers does when a scheduler is made from another's configuration.

use super::config::{SamplerConfig, SamplerKind};
use super::schedule::NoiseLevels;
use crate::json::Json;

use SamplerKind::{Ddim, DdimInverse, DpmPlusPlus, Euler, Pndm};

/// A field with what samplers can do with it.
struct Rule {
    samplers: &'static [SamplerKind],
    field: &'static str,
    demand: Demand,
}

enum Demand {
    /// false, null or absent
    Off,
    /// null or absent
    Absent,
    /// one of these texts, null or absent
    OneOf(&'static [&'static str]),
}

const EVERY: &[SamplerKind] = &[Ddim, Euler, DpmPlusPlus, Pndm, DdimInverse];
const SIGMAS: &[SamplerKind] = &[Euler, DpmPlusPlus];

const fn rule(samplers: &'static [SamplerKind], field: &'static str, demand: Demand) -> Rule {
    Rule {
        samplers,
        field,
        demand,
    }
}

const RULES: &[Rule] = &[
    rule(EVERY, "trained_betas", Demand::Absent),
    rule(EVERY, "beta_schedule", Demand::OneOf(&["linear", "scaled_linear"])),
    rule(EVERY, "prediction_type", Demand::OneOf(&["epsilon", "v_prediction"])),
    rule(
        EVERY,
        "timestep_spacing",
        Demand::OneOf(&["leading", "trailing", "linspace"]),
    ),
    rule(&[Ddim, DdimInverse], "clip_sample", Demand::Off),
    rule(&[Ddim, DdimInverse, DpmPlusPlus], "thresholding", Demand::Off),
    rule(SIGMAS, "use_exponential_sigmas", Demand::Off),
    rule(SIGMAS, "use_beta_sigmas", Demand::Off),
    rule(SIGMAS, "final_sigmas_type", Demand::OneOf(&["zero", "sigma_min"])),
    rule(&[Euler], "interpolation_type", Demand::OneOf(&["linear"])),
    rule(&[Euler], "timestep_type", Demand::OneOf(&["discrete"])),
    rule(&[Euler], "sigma_min", Demand::Absent),
    rule(&[Euler], "sigma_max", Demand::Absent),
    rule(&[DpmPlusPlus], "use_lu_lambdas", Demand::Off),
    rule(&[DpmPlusPlus], "use_flow_sigmas", Demand::Off),
    // diffusers takes DEIS's algorithm for dpmsolver++
    rule(
        &[DpmPlusPlus],
        "algorithm_type",
        Demand::OneOf(&["dpmsolver++", "deis"]),
    ),
    // and the rules of UniPC and DEIS for the midpoint rule
    rule(
        &[DpmPlusPlus],
        "solver_type",
        Demand::OneOf(&["midpoint", "heun", "logrho", "bh1", "bh2"]),
    ),
    rule(
        &[DpmPlusPlus],
        "variance_type",
        Demand::OneOf(&["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]),
    ),
];

/// Starts of classes whose models take other inputs or predict something else than noise.
const OTHER_MODELS: [&str; 5] = ["FlowMatch", "EDM", "CMStochastic", "VQDiffusion", "ScoreSde"];

/// Why a sampler cannot do what the file asks for; `None`: it can.
pub(super) fn refusal(config: &SamplerConfig, kind: SamplerKind) -> Option<String> {
    let mut rules = RULES.iter().filter(|rule| rule.samplers.contains(&kind));
    refusal_of_class(config)
        .or_else(|| rules.find_map(|rule| refusal_of(rule, config.file.get(rule.field))))
        .or_else(|| match kind {
            DpmPlusPlus => refusal_of_solver(config),
            Pndm => refusal_of_start(config),
            _ => None,
        })
}

/// Why no sampler can do what the file asks for.
pub(super) fn refusal_of_all(config: &SamplerConfig) -> Option<String> {
    let mut rules = RULES.iter().filter(|rule| rule.samplers.len() == EVERY.len());
    refusal_of_class(config).or_else(|| rules.find_map(|rule| refusal_of(rule, config.file.get(rule.field))))
}

fn refusal_of_class(config: &SamplerConfig) -> Option<String> {
    let class = config.class.as_deref().unwrap_or_default();
    let is_other = OTHER_MODELS.iter().any(|start| class.starts_with(start));
    is_other.then(|| "models of this scheduler do not predict noise of a DDPM schedule".to_owned())
}

fn refusal_of(rule: &Rule, value: &Json) -> Option<String> {
    let field = rule.field;
    match &rule.demand {
        Demand::Off => value.is_true().then(|| format!("`{field}` is not supported")),
        Demand::Absent => (!value.is_null()).then(|| format!("`{field}` is not supported")),
        Demand::OneOf(known) if value.is_null() || value.as_str().is_some_and(|text| known.contains(&text)) => None,
        Demand::OneOf(_) => Some(format!("`{field}` {value} is not supported")),
    }
}

fn refusal_of_solver(config: &SamplerConfig) -> Option<String> {
    let order = config.file.get("solver_order");
    if !order.is_null() && !order.as_usize().is_some_and(|order| (1..=2).contains(&order)) {
        return Some(format!("`solver_order` is {order}, 1 and 2 are supported"));
    }
    // the limit drops timesteps of more noise than it allows; below all of them it drops none
    let clipped = config.file.get("lambda_min_clipped");
    let largest = NoiseLevels::new(config).sigmas().last().copied().unwrap_or(1.0);
    let is_limit = match clipped.as_f64() {
        Some(limit) => limit.is_nan() || limit > -f64::from(largest).ln(),
        None => !clipped.is_null(),
    };
    is_limit.then(|| format!("`lambda_min_clipped` {clipped} is not supported"))
}

fn refusal_of_start(config: &SamplerConfig) -> Option<String> {
    let skips = config.file.find("skip_prk_steps")?;
    (!skips.is_true()).then(|| "the Runge-Kutta start (`skip_prk_steps` false) is not supported".to_owned())
}
