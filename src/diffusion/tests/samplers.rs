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

#[test]
fn unsupported_configurations_are_refused() {
    let refused = [
        r#"{"clip_sample": true}"#,
        r#"{"use_beta_sigmas": true}"#,
        r#"{"algorithm_type": "sde-dpmsolver++"}"#,
        r#"{"prediction_type": "sample"}"#,
        r#"{"beta_schedule": "squaredcos_cap_v2"}"#,
        r#"{"trained_betas": [0.1]}"#,
        r#"{"solver_order": 3}"#,
        r#"{"beta_end": 2}"#,
        r#"{"num_train_timesteps": 0}"#,
        "not json",
    ];
    for json in refused {
        let error = SamplerConfig::parse(json).unwrap_err().to_string();
        assert!(error.starts_with("scheduler configuration: "), "{json}: {error}");
    }
    let unknown = SamplerConfig::parse(r#"{"_class_name": "UniPCMultistepScheduler"}"#).unwrap();
    assert!(
        unknown
            .default_kind()
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("--sampler")
    );
    assert!(
        "heun"
            .parse::<SamplerKind>()
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("ddim")
    );
    assert!(Sampler::new(SamplerKind::Ddim, &unknown, 0).is_err());
    assert!(Sampler::new(SamplerKind::Ddim, &unknown, 1001).is_err());
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
