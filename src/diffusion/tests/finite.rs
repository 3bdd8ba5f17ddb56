//! Nothing that a network returns is used before it is known to be numbers. Needs the ONNX Runtime library.

#[path = "../../../tests/support/onnx_edit.rs"]
mod onnx_edit;
mod support;

use std::path::{Path, PathBuf};

use fisec_diffusion::denoise::{
    Base, Conditions, EditOptions, GuideSteps, MaskFrom, Method, Region, Subject, edit, edit_by, generate, invert,
};
use fisec_diffusion::noise::randn;
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::words::{ControlOptions, Words};
use fisec_diffusion::{DiffusionError, Image, TextEncoder, Trajectory, VaeDecoder, VaeEncoder};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{HostTensor, Mask};
use support::{CHANNELS, SIZE, Toy, conditions, silent, store};

const STEPS: usize = 12;
const PLAIN: [f32; 3] = [0.0, 0.0, 0.0];
const BUMP: [f32; 3] = [2.0, 2.0, 5.0];

const KINDS: [SamplerKind; 4] = [
    SamplerKind::Ddim,
    SamplerKind::Euler,
    SamplerKind::DpmPlusPlus,
    SamplerKind::Pndm,
];

fn poisoned_from(step: usize) -> Toy {
    Toy {
        poisoned_from: Some(step),
        ..Toy::default()
    }
}

fn noise() -> Vec<f32> {
    randn(CHANNELS * SIZE * SIZE, 1)
}

fn base(conditions: &Conditions) -> (Trajectory, MemoryCache) {
    let mut slots = store();
    let made = generate(&mut Toy::default(), conditions, &noise(), Some(&mut slots), &mut silent);
    (made.unwrap().0, slots)
}

fn options(region: Region) -> EditOptions {
    EditOptions {
        region,
        mask_from: MaskFrom::Latents,
        control: ControlOptions::default(),
        guide_steps: GuideSteps::Exactly(3),
        dense: false,
        break_even: 1.0,
        feather: 8,
    }
}

#[track_caller]
fn assert_not_finite<T>(result: Result<T, DiffusionError>, step: usize) {
    match result {
        Err(error @ DiffusionError::NotFinite(found)) => {
            assert_eq!(found, step);
            let text = error.to_string();
            assert_eq!(
                text,
                format!("the denoiser returned values that are not finite at step {step}")
            );
            assert!(error.hint().is_some());
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("values that are not finite were used"),
    }
}

#[test]
fn a_first_image_names_the_step() {
    for kind in KINDS {
        for step in [0, 5] {
            let toy = &mut poisoned_from(step);
            assert_not_finite(
                generate(toy, &conditions(kind, STEPS, PLAIN), &noise(), None, &mut silent),
                step,
            );
        }
    }
}

/// In the steps that guide, in the sparse ones, and in the dense ones that take their place.
#[test]
fn an_edit_names_the_step() {
    let (old, new) = (
        conditions(SamplerKind::Ddim, STEPS, PLAIN),
        conditions(SamplerKind::Ddim, STEPS, BUMP),
    );
    let (trajectory, slots) = base(&old);
    let source = Base {
        trajectory: &trajectory,
        slots: &slots,
        map_calls: 0,
    };
    let corner = Mask::from_fn(SIZE, SIZE, |row, column| row < 4 && column >= 4);
    for (step, dense) in [(0, false), (2, false), (3, false), (7, false), (7, true)] {
        let options = EditOptions {
            dense,
            ..options(Region::Given(corner.clone()))
        };
        let toy = &mut poisoned_from(step);
        let made = edit(toy, &new, source, &Words::default(), &options, None, &mut silent);
        assert_not_finite(made, step);
    }
}

#[test]
fn other_methods_and_pictures_name_the_step() {
    let kind = SamplerKind::Ddim;
    let (old, new) = (conditions(kind, STEPS, PLAIN), conditions(kind, STEPS, BUMP));
    let inverse = Conditions {
        guidance: 1.0,
        ..conditions(SamplerKind::DdimInverse, STEPS, PLAIN)
    };
    let (trajectory, slots) = base(&old);
    let noise = noise();
    let subject = Subject {
        old: &old,
        new: &new,
        base: Base {
            trajectory: &trajectory,
            slots: &slots,
            map_calls: 0,
        },
        noise: &noise,
        inverse: Some(&inverse),
    };
    let by = |method: Method, poisoned: usize| {
        let options = options(Region::Share(0.2));
        edit_by(
            method,
            &mut poisoned_from(poisoned),
            subject,
            &Words::default(),
            &options,
            &mut silent,
        )
    };
    for method in [
        Method::Regenerate,
        Method::Blend,
        Method::PromptToPrompt,
        Method::SdEdit(1.0),
    ] {
        assert_not_finite(by(method, 4), 4);
    }
    // DiffEdit compares predictions at half of the schedule before anything else
    assert_not_finite(by(Method::DiffEdit, 0), STEPS / 2);
    let found = invert(&mut poisoned_from(4), &old, &inverse, &noise, None, &mut silent);
    assert_not_finite(found, 4);
}

fn nano(network: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/nano-pipeline");
    std::fs::read(path.join(network).join("model.onnx")).unwrap()
}

/// A network of the nano pipeline with weights that are no numbers.
fn poisoned(folder: &Path, network: &str) -> PathBuf {
    let path = folder.join(network);
    std::fs::write(&path, onnx_edit::poisoned(&nano(network))).unwrap();
    path
}

#[track_caller]
fn assert_names<T>(result: Result<T, DiffusionError>, network: &str) {
    let Err(error) = result else {
        panic!("values that are not finite left the {network}")
    };
    assert_eq!(
        error.to_string(),
        format!("the {network} returned values that are not finite")
    );
    assert!(error.hint().is_some());
}

#[test]
fn every_network_beside_the_denoiser_is_checked() {
    let runtime = OnnxRuntime::load().expect("ONNX Runtime is installed");
    let folder = tempfile::tempdir().unwrap();
    let file = |network: &str| poisoned(folder.path(), network);
    let mut encoder = TextEncoder::open(&runtime, &file("text_encoder")).unwrap();
    assert_names(encoder.encode(&[0; 77]), "text encoder");
    let mut decoder = VaeDecoder::open(&runtime, &file("vae_decoder"), 0.18215).unwrap();
    let latents = HostTensor::from_f32([1, 4, 16, 16], randn(1024, 5));
    assert_names(decoder.decode(&latents), "VAE decoder");
    assert_names(decoder.decode(&latents), "VAE decoder");
    let mut encoder = VaeEncoder::open(&runtime, &file("vae_encoder"), 0.18215).unwrap();
    let image = Image {
        width: 128,
        height: 128,
        rgb: vec![90; 128 * 128 * 3],
    };
    assert_names(encoder.encode(&image, 4), "VAE encoder");
}

#[test]
fn no_pixel_is_made_of_what_is_no_number() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.5; 12];
        values[7] = wrong;
        assert_names(
            Image::from_tensor(&HostTensor::from_f32([1, 3, 2, 2], values)),
            "VAE decoder",
        );
    }
    let far = Image::from_tensor(&HostTensor::from_f32([1, 3, 1, 1], vec![-1e30, 1e30, 0.0])).unwrap();
    assert_eq!(far.rgb, [0, 255, 128], "finite values are clamped");
}
