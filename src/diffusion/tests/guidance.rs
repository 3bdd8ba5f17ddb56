//! Guidance at or below 1 is no guidance: the prompt alone.

mod support;

use fisec_diffusion::denoise::{Base, Conditions, EditOptions, GuideSteps, MaskFrom, Outcome, Region, edit, generate};
use fisec_diffusion::noise::randn;
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::words::{ControlOptions, Words};
use fisec_diffusion::{DiffusionError, Notice, Request, Trajectory};
use fisec_runtime::cache::MemoryCache;
use fisec_tensor::{HostTensor, Mask};
use support::{CHANNELS, SIZE, Toy, conditions, silent, store};

const STEPS: usize = 12;
const PLAIN: [f32; 3] = [0.0, 0.0, 0.0];
const BUMP: [f32; 3] = [2.0, 2.0, 5.0];
const OTHER: [f32; 3] = [-2.0, 5.0, 2.0];
/// What diffusers takes as no guidance.
const NONE: [f32; 4] = [1.0, 0.5, 0.0, -3.0];
const KINDS: [SamplerKind; 4] = [
    SamplerKind::Ddim,
    SamplerKind::Euler,
    SamplerKind::DpmPlusPlus,
    SamplerKind::Pndm,
];

/// Both halves' prompts and the guidance between them.
fn under(kind: SamplerKind, negative: [f32; 3], prompt: [f32; 3], guidance: f32) -> Conditions {
    Conditions {
        context: HostTensor::from_f32([2, 1, 3], [negative, prompt].concat()),
        guidance,
        ..conditions(kind, STEPS, prompt)
    }
}

/// The prompt alone, one image per step.
fn alone(kind: SamplerKind, prompt: [f32; 3]) -> Trajectory {
    let mut single = Toy {
        is_single: true,
        ..Toy::default()
    };
    let conditions = Conditions {
        context: HostTensor::from_f32([1, 1, 3], prompt.to_vec()),
        guidance: 1.0,
        ..conditions(kind, STEPS, prompt)
    };
    let noise = randn(CHANNELS * SIZE * SIZE, 1);
    generate(&mut single, &conditions, &noise, None, &mut silent).unwrap().0
}

fn made(conditions: &Conditions) -> (Trajectory, MemoryCache) {
    let noise = randn(CHANNELS * SIZE * SIZE, 1);
    let mut slots = store();
    let made = generate(&mut Toy::default(), conditions, &noise, Some(&mut slots), &mut silent);
    (made.unwrap().0, slots)
}

#[test]
fn the_result_is_the_prompts_prediction_to_the_bit() {
    for kind in KINDS {
        let expected = alone(kind, BUMP);
        for guidance in NONE {
            for negative in [PLAIN, BUMP, OTHER] {
                let (path, _) = made(&under(kind, negative, BUMP, guidance));
                assert_eq!(path, expected, "{} at guidance {guidance}", kind.name());
            }
        }
        let (guided, _) = made(&under(kind, PLAIN, BUMP, 1.01));
        assert_ne!(guided, expected, "{}", kind.name());
    }
}

#[test]
fn edits_do_not_see_the_negative_prompt_either() {
    let mask = Mask::from_fn(SIZE, SIZE, |row, column| row < 5 && column >= 3);
    for dense in [false, true] {
        let options = EditOptions {
            region: Region::Given(mask.clone()),
            mask_from: MaskFrom::Latents,
            control: ControlOptions::default(),
            guide_steps: GuideSteps::Exactly(2),
            dense,
            break_even: 1.0,
            feather: 8,
        };
        for kind in KINDS {
            let edited = |negative: [f32; 3], guidance: f32| {
                let (trajectory, slots) = made(&under(kind, negative, PLAIN, guidance));
                let base = Base {
                    trajectory: &trajectory,
                    slots: &slots,
                    map_calls: 0,
                };
                let new = under(kind, negative, BUMP, guidance);
                let made = edit(
                    &mut Toy::default(),
                    &new,
                    base,
                    &Words::default(),
                    &options,
                    None,
                    &mut silent,
                );
                made.unwrap()
            };
            let expected = edited(PLAIN, 1.0);
            assert_eq!(expected.outcome, if dense { Outcome::Dense } else { Outcome::Sparse });
            for guidance in NONE {
                assert_eq!(
                    edited(OTHER, guidance).trajectory,
                    expected.trajectory,
                    "{}",
                    kind.name()
                );
            }
        }
    }
}

#[test]
fn one_image_per_step_is_enough_without_guidance_only() {
    let mut single = Toy {
        is_single: true,
        ..Toy::default()
    };
    let guided = Conditions {
        context: HostTensor::from_f32([1, 1, 3], BUMP.to_vec()),
        ..conditions(SamplerKind::Ddim, STEPS, BUMP)
    };
    let noise = randn(CHANNELS * SIZE * SIZE, 1);
    let error = generate(&mut single, &guided, &noise, None, &mut silent).unwrap_err();
    assert!(matches!(error, DiffusionError::GuidanceBatch(3.0)), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--guidance 1")));
    assert_eq!(single.dense_steps, 0, "nothing was computed");
}

fn request(guidance: f32, negative: &str) -> Request {
    Request {
        prompt: "a dog".into(),
        negative: negative.into(),
        seed: 0,
        steps: 4,
        guidance,
        sampler: None,
    }
}

#[test]
fn all_requests_without_guidance_are_one_request() {
    for guidance in NONE {
        for negative in ["", "rain"] {
            let (settled, notice) = request(guidance, negative).settled();
            assert_eq!(settled, request(1.0, ""));
            let says = notice.map(|notice| notice.to_string());
            assert_eq!(says.is_none(), guidance == 1.0 && negative.is_empty());
            let mentions = says.is_some_and(|text| text.contains("negative prompt is ignored"));
            assert_eq!(mentions, !negative.is_empty(), "guidance {guidance}, `{negative}`");
        }
    }
    let guided = request(1.5, "rain");
    assert_eq!(guided.clone().settled(), (guided, None));
}

#[test]
fn guidance_that_is_no_number_is_left_to_be_refused() {
    for guidance in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (settled, notice) = request(guidance, "rain").settled();
        assert_eq!((settled.negative.as_str(), notice), ("rain", None::<Notice>));
        assert!(!settled.guidance.is_finite());
    }
}
