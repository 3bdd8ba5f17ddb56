//! Samplers equal diffusers' step by step: records of `tools/references/samplers.py`.

use std::fs::File;
use std::io::Read;

use fisec_diffusion::samplers::{Sampler, SamplerConfig, SamplerKind, restore};
use fisec_runtime::HISTORY;
use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::Value;

struct Records {
    index: Value,
    values: Vec<f32>,
}

impl Records {
    fn read() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/samplers");
        let unpacked = |name| GzDecoder::new(File::open(format!("{folder}/{name}")).unwrap());
        let index = serde_json::from_reader(unpacked("samplers.json.gz")).unwrap();
        let mut bytes = Vec::new();
        unpacked("samplers.f32.gz").read_to_end(&mut bytes).unwrap();
        let values = bytes
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        Records { index, values }
    }

    fn latent(&self, offset: usize) -> &[f32] {
        &self.values[offset..offset + 16]
    }
}

fn sampler(case: &Value) -> Sampler {
    let mut config = case["config"].clone();
    config["_class_name"] = case["class"].clone();
    let config = SamplerConfig::parse(&config.to_string()).unwrap();
    let kind = config.default_kind().unwrap();
    Sampler::new(kind, &config, case["steps"].as_u64().unwrap() as usize).unwrap()
}

/// Relative to the latents' size: Euler's start at fourteen standard deviations.
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    let size = theirs.iter().fold(1.0f32, |size, value| size.max(value.abs()));
    for (our, their) in ours.iter().zip(theirs) {
        assert!((our - their).abs() <= 1e-5 * size, "{what}: {our} instead of {their}");
    }
}

#[test]
fn every_recorded_run_is_equal_step_by_step() {
    let records = Records::read();
    let cases = records.index["cases"].as_array().unwrap();
    assert!(cases.len() >= 180);
    for case in cases {
        let name = format!("{} {} {} steps", case["class"], case["config"], case["steps"]);
        let mut sampler = sampler(case);
        let timesteps: Vec<f64> = sampler
            .timesteps()
            .iter()
            .map(|&timestep| f64::from(timestep))
            .collect();
        let recorded: Vec<f64> = case["timesteps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_f64().unwrap())
            .collect();
        assert_eq!(timesteps.len(), recorded.len(), "{name}");
        for (ours, theirs) in timesteps.iter().zip(&recorded) {
            assert!(
                (ours - theirs).abs() <= 1e-3 * theirs.fract().abs().ceil(),
                "{name}: {ours} {theirs}"
            );
        }
        let scale = sampler.initial_scale();
        let mut latent: Vec<f32> = records.latent(0).iter().map(|value| value * scale).collect();
        let mut offset = case["offset"].as_u64().unwrap() as usize;
        for call in 0..timesteps.len() {
            let input = sampler.scale_input(call, &latent);
            assert_close(&input, records.latent(offset), &format!("{name} input {call}"));
            let noise = records.latent(16 + 16 * call);
            let prediction: Vec<f32> = noise
                .iter()
                .zip(&input)
                .map(|(noise, x)| 0.8 * noise + 0.2 * x)
                .collect();
            latent = sampler.step(call, &prediction, &latent);
            assert_close(&latent, records.latent(offset + 16), &format!("{name} latent {call}"));
            offset += 32;
        }
    }
}

/// What a device makes of a schedule's calls in f32, begun at the start and in the middle, is diffusers' run as well.
#[test]
fn updates_equal_every_recorded_run() {
    let records = Records::read();
    for (number, case) in records.index["cases"].as_array().unwrap().iter().enumerate() {
        let name = format!("{} {} {} steps", case["class"], case["config"], case["steps"]);
        let mut sampler = sampler(case);
        let offset = case["offset"].as_u64().unwrap() as usize;
        let noise = |call: usize| records.latent(16 + 16 * call);
        let predicted = |call: usize, input: &[f32]| -> Vec<f32> { input.iter().zip(noise(call)).map(mixed).collect() };
        let scale = sampler.initial_scale();
        let mut latents: Vec<f32> = records.latent(0).iter().map(|value| value * scale).collect();
        let mut call = 0;
        let wished = number % 4;
        let updates = loop {
            match sampler.updates(call, 1.0).filter(|_| call >= wished) {
                Some(updates) => break updates,
                None if call == sampler.timesteps().len() => break Vec::new(),
                None => {
                    let input = sampler.scale_input(call, &latents);
                    latents = sampler.step(call, &predicted(call, &input), &latents);
                    call += 1;
                }
            }
        };
        assert!(call <= wished.max(2), "{name}: {call} calls by hand");
        let mut input = sampler.scale_input(call.min(sampler.timesteps().len() - 1), &latents);
        let mut kept: Vec<Vec<f32>> = sampler.history().into_iter().map(<[f32]>::to_vec).collect();
        for update in updates {
            let prediction = predicted(call, &input);
            let next = |index: usize| {
                let own = update.latents * latents[index] + update.prediction * prediction[index];
                let past = kept.iter().zip(update.history);
                own + past.map(|(entry, factor)| factor * entry[index]).sum::<f32>()
            };
            let next: Vec<f32> = (0..latents.len()).map(next).collect();
            if let Some([from_latents, from_prediction]) = update.kept {
                let entry = latents.iter().zip(&prediction);
                let entry = entry.map(|(x, e)| from_latents * x + from_prediction * e);
                kept.insert(0, entry.collect());
                kept.truncate(HISTORY);
            }
            latents = next;
            input = latents.iter().map(|value| value * update.sample_scale).collect();
            let what = format!("{name} latent {call}");
            assert_close(&latents, records.latent(offset + 32 * call + 16), &what);
            call += 1;
        }
        assert_eq!(call, sampler.timesteps().len(), "{name}");
    }
}

fn mixed((input, noise): (&f32, &f32)) -> f32 {
    0.8 * noise + 0.2 * input
}

#[test]
fn a_restarted_sampler_repeats_itself() {
    let config = SamplerConfig::parse(r#"{"beta_schedule": "scaled_linear", "steps_offset": 1}"#).unwrap();
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let mut sampler = Sampler::new(kind, &config, 6).unwrap();
        let first = run(&mut sampler, 3);
        sampler.restart();
        assert_eq!(first, run(&mut sampler, 3), "{}", kind.name());
    }
}

fn prediction(call: usize, latents: &[f32], salt: u32) -> Vec<f32> {
    let wave = |index: usize| ((index as u32 * 7 + salt * 13 + call as u32 * 3) as f32).sin();
    latents
        .iter()
        .enumerate()
        .map(|(index, x)| 0.3 * x + wave(index))
        .collect()
}

fn run(sampler: &mut Sampler, salt: u32) -> Vec<f32> {
    let mut latents = vec![0.5; 8];
    for call in 0..sampler.timesteps().len() {
        let input = sampler.scale_input(call, &latents);
        latents = sampler.step(call, &prediction(call, &input, salt), &latents);
    }
    latents
}

proptest! {
    /// With latents restored outside a mask after every call, the outside follows the recorded run and the inside is
    /// what it is without any of it: whatever history a sampler keeps outside is never seen inside.
    #[test]
    fn a_restored_outside_leaves_the_inside_alone(active in prop::collection::vec(any::<bool>(), 4), which in 0usize..4) {
        let kind = [SamplerKind::Ddim, SamplerKind::Euler, SamplerKind::DpmPlusPlus, SamplerKind::Pndm][which];
        let config = SamplerConfig::parse("{}").unwrap();
        let mut recorded = Sampler::new(kind, &config, 6).unwrap();
        let (mut restored, mut free) = (recorded.clone(), recorded.clone());
        let (mut base, mut edit, mut alone) = (vec![0.5; 8], vec![0.5; 8], vec![0.5; 8]);
        for call in 0..recorded.timesteps().len() {
            base = recorded.step(call, &prediction(call, &base, 1), &base);
            edit = restored.step(call, &prediction(call, &edit, 2), &edit);
            alone = free.step(call, &prediction(call, &alone, 2), &alone);
            restore(&mut edit, &base, &active);
            for index in 0..8 {
                let expected = if active[index % 4] { alone[index] } else { base[index] };
                prop_assert_eq!(edit[index], expected);
            }
        }
    }
}

/// Samplers that a configuration allows.
fn choices(json: &str) -> Vec<&'static str> {
    let config = SamplerConfig::parse(json).unwrap();
    let choices: Vec<SamplerKind> = config.choices();
    for kind in SamplerKind::ALL {
        let made = Sampler::new(kind, &config, 10);
        assert_eq!(made.is_ok(), choices.contains(&kind), "{json}: {}", kind.name());
        if let Err(error) = made {
            assert!(error.hint().is_some(), "{json}: {error}");
        }
    }
    choices.into_iter().map(SamplerKind::name).collect()
}

#[test]
fn settings_that_are_not_built_are_refused_by_the_samplers_that_read_them() {
    let all = vec!["ddim", "euler", "dpm++", "pndm"];
    let without = |kinds: &[&str]| -> Vec<&'static str> {
        let kept = all.iter().filter(|kind| !kinds.contains(kind));
        kept.copied().collect()
    };
    let refused: [(&str, &[&str]); 20] = [
        (r#"{"clip_sample": true}"#, &["ddim"]),
        (r#"{"thresholding": true}"#, &["ddim", "dpm++"]),
        (r#"{"use_beta_sigmas": true}"#, &["euler", "dpm++"]),
        (r#"{"use_exponential_sigmas": 1}"#, &["euler", "dpm++"]),
        (r#"{"use_lu_lambdas": true}"#, &["dpm++"]),
        (r#"{"use_flow_sigmas": true}"#, &["dpm++"]),
        (r#"{"algorithm_type": "sde-dpmsolver++"}"#, &["dpm++"]),
        (r#"{"solver_type": "magic"}"#, &["dpm++"]),
        (r#"{"solver_order": 3}"#, &["dpm++"]),
        (r#"{"variance_type": "learned_range"}"#, &["dpm++"]),
        (r#"{"lambda_min_clipped": -1.0}"#, &["dpm++"]),
        (r#"{"lambda_min_clipped": NaN}"#, &["dpm++"]),
        (r#"{"final_sigmas_type": "some"}"#, &["euler", "dpm++"]),
        (r#"{"interpolation_type": "log_linear"}"#, &["euler"]),
        (r#"{"timestep_type": "continuous"}"#, &["euler"]),
        (r#"{"sigma_max": 80.0}"#, &["euler"]),
        (r#"{"skip_prk_steps": false}"#, &["pndm"]),
        (r#"{"prediction_type": "sample"}"#, &["ddim", "euler", "dpm++", "pndm"]),
        (
            r#"{"beta_schedule": "squaredcos_cap_v2"}"#,
            &["ddim", "euler", "dpm++", "pndm"],
        ),
        (r#"{"trained_betas": [0.1]}"#, &["ddim", "euler", "dpm++", "pndm"]),
    ];
    for (json, kinds) in refused {
        assert_eq!(choices(json), without(kinds), "{json}");
    }
    let allowed = [
        r#"{"lambda_min_clipped": -Infinity, "flow_shift": NaN, "sample_max_value": Infinity, "anything": {"a": [1]}}"#,
        r#"{"lambda_min_clipped": -1000.0}"#,
        r#"{"lambda_min_clipped": null, "trained_betas": null, "timestep_spacing": null, "prediction_type": null}"#,
        r#"{"solver_type": "bh2", "solver_p": null, "disable_corrector": [], "predict_x0": true}"#,
        r#"{"algorithm_type": "deis", "solver_type": "logrho"}"#,
        r#"{"num_train_timesteps": "1000", "steps_offset": 1.0, "beta_end": "0.012", "solver_order": 2.0}"#,
        r#"{"skip_prk_steps": true, "clip_sample": null, "thresholding": 0}"#,
    ];
    for json in allowed {
        assert_eq!(choices(json), all, "{json}");
    }
    assert_eq!(
        choices(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#),
        Vec::<&str>::new()
    );
}

/// What a field of another spelling means is what the usual spelling means.
#[test]
fn numbers_and_flags_are_read_as_python_reads_them() {
    let usual = r#"{"num_train_timesteps": 800, "steps_offset": 1, "beta_end": 0.012, "set_alpha_to_one": false}"#;
    let python =
        r#"{"num_train_timesteps": 800.0, "steps_offset": "1", "beta_end": "0.012", "set_alpha_to_one": null}"#;
    let [usual, python] = [usual, python].map(|json| SamplerConfig::parse(json).unwrap());
    for kind in SamplerKind::ALL {
        let made = [&usual, &python].map(|config| Sampler::new(kind, config, 7).unwrap());
        let runs = made.map(|mut sampler| run(&mut sampler, 1));
        assert_eq!(runs[0], runs[1], "{}", kind.name());
    }
}

#[test]
fn files_that_no_sampler_can_read_are_refused() {
    let refused = [
        r#"{"beta_end": 2}"#,
        r#"{"beta_start": NaN}"#,
        r#"{"beta_end": -Infinity}"#,
        r#"{"beta_end": [0.1]}"#,
        r#"{"num_train_timesteps": 0}"#,
        r#"{"num_train_timesteps": 1e300}"#,
        r#"{"num_train_timesteps": 10.5}"#,
        r#"{"steps_offset": Infinity}"#,
        r#"{"steps_offset": 9007199254740992}"#,
        "[]",
        "not json",
        "",
    ];
    for json in refused {
        let error = SamplerConfig::parse(json).unwrap_err().to_string();
        assert!(error.starts_with("scheduler configuration: "), "{json}: {error}");
    }
    let unknown = SamplerConfig::parse(r#"{"_class_name": "UniPCMultistepScheduler", "clip_sample": true}"#).unwrap();
    let hint = unknown.default_kind().unwrap_err().hint().unwrap();
    assert_eq!(hint, "choose one with `--sampler euler`, `dpm++` or `pndm`");
    assert!(
        "heun"
            .parse::<SamplerKind>()
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("ddim")
    );
    assert!(Sampler::new(SamplerKind::Euler, &unknown, 0).is_err());
    assert!(Sampler::new(SamplerKind::Euler, &unknown, 1001).is_err());
}

/// With the true noise as prediction every sampler goes from one noised picture to the next, wherever it begins.
#[test]
fn a_noised_picture_lies_on_the_way_of_its_noise() {
    let config = SamplerConfig::parse(r#"{"beta_schedule": "scaled_linear", "steps_offset": 1}"#).unwrap();
    let (picture, noise) = (vec![0.8f32, -0.3, 1.7], vec![0.5f32, 1.2, -0.9]);
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let sampler = Sampler::new(kind, &config, 20).unwrap();
        let calls = sampler.timesteps().len();
        // PNDM's second call goes back to where its first began
        for first in (0..calls - 1).filter(|first| kind != SamplerKind::Pndm || *first > 1) {
            let mut sampler = sampler.clone();
            let mut latents = sampler.noised(first, &picture, &noise);
            for call in first..calls - 1 {
                latents = sampler.step(call, &noise, &latents);
                let expected = sampler.noised(call + 1, &picture, &noise);
                for (found, expected) in latents.iter().zip(&expected) {
                    let error = (found - expected).abs() / expected.abs().max(1.0);
                    assert!(
                        error < 1e-4,
                        "{}, from {first}, call {call}: {found} {expected}",
                        kind.name()
                    );
                }
            }
        }
        assert_eq!(sampler.noised(calls, &picture, &noise), picture);
    }
}
