//! Other methods than ours, and inverted pictures, on a denoiser small enough to reason about.

mod support;

use fisec_diffusion::denoise::{
    Base, Conditions, EditOptions, Edited, GuideSteps, MaskFrom, Method, Outcome, Region, Subject, edit, edit_by,
    generate, invert,
};
use fisec_diffusion::noise::randn;
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::words::{ControlOptions, Words};
use fisec_diffusion::{DiffusionError, Trajectory};
use fisec_runtime::SlotSink;
use fisec_runtime::cache::MemoryCache;
use fisec_tensor::Mask;
use support::{CHANNELS, SIZE, Toy, conditions, silent, store};

const STEPS: usize = 20;
const PLAIN: [f32; 3] = [0.0, 0.0, 0.0];
const BUMP: [f32; 3] = [2.0, 2.0, 5.0];

fn options(region: Region) -> EditOptions {
    EditOptions {
        region,
        mask_from: MaskFrom::Latents,
        control: ControlOptions::default(),
        guide_steps: GuideSteps::Auto,
        dense: false,
        break_even: 1.0,
        feather: 8,
    }
}

fn corner() -> Mask {
    Mask::from_fn(SIZE, SIZE, |row, column| row < 4 && column >= 4)
}

fn by(method: Method, kind: SamplerKind, region: Region) -> (Edited, Trajectory, Trajectory) {
    let [old, new] = [PLAIN, BUMP].map(|prompt| conditions(kind, STEPS, prompt));
    let inverse = Conditions {
        guidance: 1.0,
        ..conditions(SamplerKind::DdimInverse, STEPS, PLAIN)
    };
    let noise = randn(CHANNELS * SIZE * SIZE, 1);
    let made = |conditions: &Conditions| {
        generate(&mut Toy::default(), conditions, &noise, None, &mut silent)
            .unwrap()
            .0
    };
    let (base, fresh) = (made(&old), made(&new));
    let subject = Subject {
        old: &old,
        new: &new,
        base: Base {
            trajectory: &base,
            slots: &store(),
            map_calls: 0,
        },
        noise: &noise,
        inverse: Some(&inverse),
    };
    let edited = edit_by(
        method,
        &mut Toy::default(),
        subject,
        &Words::default(),
        &options(region),
        &mut silent,
    );
    (edited.unwrap(), base, fresh)
}

fn differs(a: &[f32], b: &[f32], mask: &Mask) -> (usize, usize) {
    let unequal = |index: &usize| a[*index].to_bits() != b[*index].to_bits();
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..a.len())
        .filter(unequal)
        .partition(|index| mask.bits()[index % (SIZE * SIZE)]);
    (inside.len(), outside.len())
}

#[test]
fn regenerating_is_generating() {
    let (edited, _, fresh) = by(Method::Regenerate, SamplerKind::Ddim, Region::Share(0.1));
    assert_eq!(edited.trajectory.last(), fresh.last());
    assert_eq!((edited.outcome, edited.mask.share()), (Outcome::Dense, 1.0));
}

#[test]
fn blending_keeps_what_is_outside() {
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let (edited, base, _) = by(Method::Blend, kind, Region::Given(corner()));
        let (inside, outside) = differs(edited.trajectory.last(), base.last(), &edited.mask);
        assert!(inside > 0 && outside == 0, "{}: {inside} {outside}", kind.name());
    }
}

#[test]
fn full_strength_is_anew_and_little_strength_is_near() {
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let distance = |strength: f64| {
            let (edited, base, _) = by(Method::SdEdit(strength), kind, Region::Share(0.1));
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            edited
                .trajectory
                .last()
                .iter()
                .zip(base.last())
                .map(square)
                .sum::<f64>()
        };
        let [little, half, full] = [0.1, 0.5, 1.0].map(distance);
        assert!(little < half && half < full, "{}: {little} {half} {full}", kind.name());
    }
}

#[test]
fn diffedit_finds_the_bump_and_keeps_the_rest() {
    let (edited, base, _) = by(Method::DiffEdit, SamplerKind::Ddim, Region::Changed { grow: 0 });
    assert!(
        edited.mask.get(2, 5) && edited.mask.share() < 0.6,
        "{}",
        edited.mask.share()
    );
    let (inside, outside) = differs(edited.trajectory.last(), base.last(), &edited.mask);
    assert!(inside > 0 && outside == 0, "{inside} {outside}");
}

fn inverted() -> (Trajectory, MemoryCache, Conditions, Vec<f32>) {
    let forwards = conditions(SamplerKind::Ddim, STEPS, PLAIN);
    let backwards = Conditions {
        guidance: 1.0,
        ..conditions(SamplerKind::DdimInverse, STEPS, PLAIN)
    };
    let picture = randn(CHANNELS * SIZE * SIZE, 5);
    let mut slots = store();
    let sink: &mut dyn SlotSink = &mut slots;
    let found = invert(
        &mut Toy::default(),
        &forwards,
        &backwards,
        &picture,
        Some(sink),
        &mut silent,
    )
    .unwrap();
    (found.trajectory, slots, forwards, picture)
}

#[test]
fn an_inverted_picture_ends_in_the_picture() {
    let (path, _, forwards, picture) = inverted();
    assert_eq!((path.last(), path.calls()), (&picture[..], STEPS));
    let drift = path.drift_tensor().unwrap();
    assert_eq!(drift.shape().dims(), [STEPS, CHANNELS, SIZE, SIZE]);
    let plain = Trajectory::from_tensor(&path.to_tensor()).unwrap();
    assert_eq!(plain.with_drift(Some(&drift)).unwrap(), path);
    let euler = conditions(SamplerKind::Euler, STEPS, PLAIN);
    let refused = invert(&mut Toy::default(), &euler, &forwards, &picture, None, &mut silent).unwrap_err();
    assert!(matches!(refused, DiffusionError::InversionSampler("euler")));
}

#[test]
fn the_same_words_walk_the_recorded_path_and_others_leave_it_inside_only() {
    let (path, slots, same, _) = inverted();
    let base = Base {
        trajectory: &path,
        slots: &slots,
        map_calls: 0,
    };
    let dense = EditOptions {
        dense: true,
        guide_steps: GuideSteps::Exactly(STEPS),
        ..options(Region::Given(Mask::filled(SIZE, SIZE, true)))
    };
    let again = edit(
        &mut Toy::default(),
        &same,
        base,
        &Words::default(),
        &dense,
        None,
        &mut silent,
    )
    .unwrap();
    let farthest = again
        .trajectory
        .last()
        .iter()
        .zip(path.last())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(farthest < 1e-4, "{farthest}");
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let sparse = options(Region::Changed { grow: 0 });
    let edited = edit(
        &mut Toy::default(),
        &new,
        base,
        &Words::default(),
        &sparse,
        None,
        &mut silent,
    )
    .unwrap();
    assert!(edited.mask.get(2, 5) && edited.mask.share() < 0.6);
    let (inside, outside) = differs(edited.trajectory.last(), path.last(), &edited.mask);
    assert!(inside > 0 && outside == 0);
    assert!(edited.trajectory.drift_tensor().is_some(), "edits of it drift alike");
}
