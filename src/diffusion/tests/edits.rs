//! The loops, on a denoiser small enough to reason about.

mod support;

use std::ops::ControlFlow;

use fisec_diffusion::denoise::{
    Base, Conditions, EditOptions, Edited, GuideSteps, MaskFrom, Outcome, Region, edit, generate,
};
use fisec_diffusion::noise::randn;
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::words::{ControlOptions, Steering, Words};
use fisec_diffusion::{DiffusionError, Event, Notice, Phase, Trajectory};
use fisec_runtime::SlotSink;
use fisec_runtime::cache::MemoryCache;
use fisec_tensor::Mask;
use support::{CHANNELS, SIZE, Toy, conditions, silent, store};

const STEPS: usize = 20;
const PLAIN: [f32; 3] = [0.0, 0.0, 0.0];
const BUMP: [f32; 3] = [2.0, 2.0, 5.0];
const OTHER: [f32; 3] = [-2.0, 5.0, 2.0];

const NO_CONTROL: ControlOptions = ControlOptions {
    steering: Steering::None,
    calls: None,
    replace_calls: None,
    emphasis: 1.0,
};

const OPTIONS: EditOptions = EditOptions {
    region: Region::Changed { grow: 1 },
    mask_from: MaskFrom::Latents,
    control: NO_CONTROL,
    guide_steps: GuideSteps::Auto,
    dense: false,
    break_even: 0.9,
    feather: 8,
};

fn given(mask: Mask) -> EditOptions {
    EditOptions {
        region: Region::Given(mask),
        ..OPTIONS
    }
}

fn make(toy: &mut Toy, conditions: &Conditions, seed: u64) -> (Trajectory, MemoryCache) {
    let mut slots = store();
    let noise = randn(CHANNELS * SIZE * SIZE, seed);
    let (path, _) = generate(toy, conditions, &noise, Some(&mut slots), &mut silent).unwrap();
    (path, slots)
}

fn change(toy: &mut Toy, conditions: &Conditions, base: &(Trajectory, MemoryCache), options: &EditOptions) -> Edited {
    let base = Base {
        trajectory: &base.0,
        slots: &base.1,
        map_calls: 0,
    };
    edit(toy, conditions, base, &Words::default(), options, None, &mut silent).unwrap()
}

fn change_recorded(
    toy: &mut Toy,
    conditions: &Conditions,
    base: &(Trajectory, MemoryCache),
    options: &EditOptions,
) -> (Edited, MemoryCache) {
    let mut slots = store();
    let sink: &mut dyn SlotSink = &mut slots;
    let base = Base {
        trajectory: &base.0,
        slots: &base.1,
        map_calls: 0,
    };
    let edited = edit(
        toy,
        conditions,
        base,
        &Words::default(),
        options,
        Some(sink),
        &mut silent,
    )
    .unwrap();
    (edited, slots)
}

fn outside_is_base(edited: &Edited, base: &Trajectory, from: usize) {
    for call in from..=base.calls() {
        for (index, (ours, theirs)) in edited.trajectory.at(call).iter().zip(base.at(call)).enumerate() {
            let active = edited.mask.bits()[index % (SIZE * SIZE)];
            assert!(
                active || ours.to_bits() == theirs.to_bits(),
                "call {call}, latent {index}"
            );
        }
    }
}

#[test]
fn recording_does_not_change_an_image() {
    let conditions = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let noise = randn(CHANNELS * SIZE * SIZE, 3);
    let (recorded, _) = make(&mut Toy::default(), &conditions, 3);
    let (plain, _) = generate(&mut Toy::default(), &conditions, &noise, None, &mut silent).unwrap();
    assert_eq!(recorded, plain);
    assert_eq!(recorded.calls(), STEPS);
    assert_eq!(Trajectory::from_tensor(&recorded.to_tensor()).unwrap(), recorded);
}

#[test]
fn an_edit_changes_its_region_and_nothing_else() {
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let mut toy = Toy::default();
        let base = make(&mut toy, &conditions(kind, STEPS, PLAIN), 1);
        toy = Toy::default();
        let edited = change(&mut toy, &conditions(kind, STEPS, BUMP), &base, &OPTIONS);
        assert_eq!(edited.outcome, Outcome::Sparse, "{}", kind.name());
        assert!(edited.mask.get(2, 5), "{}: the bump is inside", kind.name());
        assert!(edited.mask.share() < 0.6, "{}: {}", kind.name(), edited.mask.share());
        assert_ne!(edited.trajectory.last(), base.0.last());
        outside_is_base(&edited, &base.0, edited.guided_steps);
        let calls = base.0.calls();
        assert_eq!(
            (toy.dense_steps, toy.sparse_steps),
            (edited.guided_steps, calls - edited.guided_steps)
        );
        assert_eq!(edited.sparse_steps, toy.sparse_steps);
        let active = 10 * edited.mask.count() as u64;
        let macs = 1000 * toy.dense_steps as u64 + active * toy.sparse_steps as u64;
        let slot_bytes = 7 * toy.sparse_steps as u64;
        assert_eq!((edited.work.macs, edited.work.slot_bytes), (macs, slot_bytes));
        assert_eq!(edited.macs_dense, 1000 * calls as u64);
    }
}

#[test]
fn a_full_mask_gives_the_dense_image() {
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let base = make(&mut Toy::default(), &conditions(kind, STEPS, PLAIN), 1);
        let dense = make(&mut Toy::default(), &conditions(kind, STEPS, BUMP), 1);
        let options = EditOptions {
            break_even: 1.0,
            ..given(Mask::filled(SIZE, SIZE, true))
        };
        let edited = change(&mut Toy::default(), &conditions(kind, STEPS, BUMP), &base, &options);
        assert_eq!((edited.guided_steps, edited.outcome), (0, Outcome::Sparse));
        assert_eq!(edited.trajectory, dense.0, "{}", kind.name());
    }
}

#[test]
fn the_dense_yardstick_has_the_same_mask_and_background() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, STEPS, PLAIN), 1);
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let sparse = change(&mut Toy::default(), &new, &base, &OPTIONS);
    let mut toy = Toy::default();
    let dense = change(&mut toy, &new, &base, &EditOptions { dense: true, ..OPTIONS });
    assert_eq!(
        (dense.outcome, toy.sparse_steps, dense.sparse_steps),
        (Outcome::Dense, 0, 0)
    );
    assert_eq!(dense.mask, sparse.mask);
    assert_eq!(dense.work.macs, dense.macs_dense);
    outside_is_base(&dense, &base.0, dense.guided_steps);
    for (dense, sparse) in dense.trajectory.last().iter().zip(sparse.trajectory.last()) {
        assert!((dense - sparse).abs() < 0.5, "{dense} {sparse}");
    }
}

#[test]
fn a_given_region_starts_sparse_and_may_be_guided() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, STEPS, PLAIN), 1);
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let mask = Mask::from_fn(SIZE, SIZE, |row, column| row < 4 && column > 3);
    let edited = change(&mut Toy::default(), &new, &base, &given(mask.clone()));
    assert_eq!((edited.guided_steps, edited.sparse_steps), (0, STEPS));
    outside_is_base(&edited, &base.0, 0);
    let options = EditOptions {
        guide_steps: GuideSteps::Exactly(4),
        ..given(mask.clone())
    };
    let guided = change(&mut Toy::default(), &new, &base, &options);
    assert_eq!((guided.guided_steps, &guided.mask), (4, &mask));
    outside_is_base(&guided, &base.0, 4);
}

#[test]
fn an_exact_edit_size_is_exact() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, STEPS, PLAIN), 1);
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    for share in [0.01, 0.1, 0.25, 0.8] {
        let options = EditOptions {
            region: Region::Share(share),
            ..OPTIONS
        };
        let edited = change(&mut Toy::default(), &new, &base, &options);
        assert_eq!(edited.mask.count(), (share * 64.0).round() as usize);
        assert!(edited.mask.get(2, 5), "the bump comes first");
    }
}

#[test]
fn the_same_prompt_gives_the_base() {
    let plain = conditions(SamplerKind::Ddim, STEPS, PLAIN);
    let base = make(&mut Toy::default(), &plain, 1);
    for region in [Region::Changed { grow: 2 }, Region::Share(0.3)] {
        let mut notices = Vec::new();
        let mut observer = |event: Event| {
            notices.push(event);
            ControlFlow::Continue(())
        };
        let options = EditOptions { region, ..OPTIONS };
        let source = Base {
            trajectory: &base.0,
            slots: &base.1,
            map_calls: 0,
        };
        let edited = edit(
            &mut Toy::default(),
            &plain,
            source,
            &Words::default(),
            &options,
            None,
            &mut observer,
        )
        .unwrap();
        assert_eq!(edited.outcome, Outcome::EmptyMask);
        assert!(edited.outcome.is_base() && edited.mask.is_empty());
        assert_eq!(edited.trajectory, base.0);
        assert!(notices.contains(&Event::Notice(Notice::EmptyMask)));
    }
}

#[test]
fn a_mask_past_break_even_runs_dense_and_says_so() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, STEPS, PLAIN), 1);
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let source = Base {
        trajectory: &base.0,
        slots: &base.1,
        map_calls: 0,
    };
    let told = |toy: &mut Toy, options: &EditOptions| {
        let mut notices = Vec::new();
        let mut observer = |event: Event| {
            if let Event::Notice(notice) = event {
                notices.push(notice);
            }
            ControlFlow::Continue(())
        };
        let edited = edit(toy, &new, source, &Words::default(), options, None, &mut observer).unwrap();
        assert_eq!((edited.outcome, toy.sparse_steps), (Outcome::Dense, 0));
        notices
    };
    let large = told(
        &mut Toy::default(),
        &EditOptions {
            break_even: 0.01,
            ..OPTIONS
        },
    );
    assert!(matches!(large[..], [Notice::LargeMask { share, break_even: 0.01 }] if share > 0.01));
    let mut toy = Toy {
        no_sparse_program: true,
        ..Toy::default()
    };
    assert_eq!(told(&mut toy, &OPTIONS), [Notice::NoSparseProgram]);
}

#[test]
fn guiding_stops_when_the_mask_stays_the_same() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, 50, PLAIN), 1);
    let new = conditions(SamplerKind::Ddim, 50, BUMP);
    let edited = change(&mut Toy::default(), &new, &base, &OPTIONS);
    assert!((3..=10).contains(&edited.guided_steps), "{}", edited.guided_steps);
    let same = EditOptions {
        guide_steps: GuideSteps::Exactly(edited.guided_steps),
        ..OPTIONS
    };
    let same = change(&mut Toy::default(), &new, &base, &same);
    assert_eq!((&same.mask, &same.trajectory), (&edited.mask, &edited.trajectory));
    let longer = EditOptions {
        guide_steps: GuideSteps::Exactly(10),
        ..OPTIONS
    };
    let all = change(&mut Toy::default(), &new, &base, &longer);
    assert_eq!(all.guided_steps, 10);
    let none = EditOptions {
        guide_steps: GuideSteps::Exactly(0),
        ..OPTIONS
    };
    assert_eq!(change(&mut Toy::default(), &new, &base, &none).guided_steps, 1);
    let whole = EditOptions {
        guide_steps: GuideSteps::Exactly(500),
        ..OPTIONS
    };
    let whole = change(&mut Toy::default(), &new, &base, &whole);
    assert_eq!((whole.guided_steps, whole.sparse_steps), (50, 0));
    outside_is_base(&whole, &base.0, 50);
}

#[test]
fn nothing_of_one_edit_stays_for_the_next() {
    let kind = SamplerKind::DpmPlusPlus;
    let base = make(&mut Toy::default(), &conditions(kind, STEPS, PLAIN), 1);
    let (bump, other) = (conditions(kind, STEPS, BUMP), conditions(kind, STEPS, OTHER));
    let mut toy = Toy::default();
    let first = change(&mut toy, &bump, &base, &OPTIONS);
    let second = change(&mut toy, &other, &base, &OPTIONS);
    let again = change(&mut toy, &bump, &base, &OPTIONS);
    assert_ne!(first.mask, second.mask);
    assert_eq!(
        second.trajectory,
        change(&mut Toy::default(), &other, &base, &OPTIONS).trajectory
    );
    assert_eq!(again.trajectory, first.trajectory);
    assert_eq!(make(&mut toy, &conditions(kind, STEPS, PLAIN), 1).0, base.0);
}

#[test]
fn edits_chain() {
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Euler,
        SamplerKind::DpmPlusPlus,
        SamplerKind::Pndm,
    ] {
        let mut toy = Toy::default();
        let base = make(&mut toy, &conditions(kind, STEPS, PLAIN), 1);
        let (edited, slots) = change_recorded(&mut toy, &conditions(kind, STEPS, BUMP), &base, &OPTIONS);
        assert_eq!(
            edited.trajectory,
            change(&mut toy, &conditions(kind, STEPS, BUMP), &base, &OPTIONS).trajectory
        );
        let next = (edited.trajectory, slots);
        let (here, recorded) = change_recorded(&mut toy, &conditions(kind, STEPS, OTHER), &next, &OPTIONS);
        let fresh = change(&mut Toy::default(), &conditions(kind, STEPS, OTHER), &next, &OPTIONS);
        assert_eq!(here.trajectory, fresh.trajectory, "{}", kind.name());
        assert_eq!(here.outcome, Outcome::Sparse);
        outside_is_base(&here, &next.0, here.guided_steps);
        assert_eq!(recorded.bytes(), base.1.bytes(), "every slot of every step is recorded");
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let base = make(&mut Toy::default(), &conditions(SamplerKind::Ddim, STEPS, PLAIN), 1);
    let source = Base {
        trajectory: &base.0,
        slots: &base.1,
        map_calls: 0,
    };
    let attempt = |conditions: &Conditions, base: Base<'_>, options: &EditOptions| {
        edit(
            &mut Toy::default(),
            conditions,
            base,
            &Words::default(),
            options,
            None,
            &mut silent,
        )
        .unwrap_err()
    };
    let other_steps = attempt(&conditions(SamplerKind::Ddim, 7, BUMP), source, &OPTIONS);
    assert!(
        matches!(&other_steps, DiffusionError::Base(reason) if reason.contains("20 steps")),
        "{other_steps}"
    );
    assert!(other_steps.hint().unwrap().contains("--base none"));
    let new = conditions(SamplerKind::Ddim, STEPS, BUMP);
    let small = Trajectory::new([4, 4, 4], vec![0.0; 64]);
    let error = attempt(
        &new,
        Base {
            trajectory: &small,
            slots: &base.1,
            map_calls: 0,
        },
        &OPTIONS,
    );
    assert!(matches!(error, DiffusionError::Base(_)));
    let error = attempt(&new, source, &given(Mask::filled(3, 4, true)));
    assert!(matches!(
        error,
        DiffusionError::MaskSize {
            width: 4,
            height: 3,
            ..
        }
    ));
    for share in [0.0, -1.0, 1.01, f64::NAN] {
        let error = attempt(
            &new,
            source,
            &EditOptions {
                region: Region::Share(share),
                ..OPTIONS
            },
        );
        assert!(matches!(error, DiffusionError::EditSize(_)), "{share}");
    }
    let empty = store();
    let error = attempt(
        &new,
        Base {
            trajectory: &base.0,
            slots: &empty,
            map_calls: 0,
        },
        &OPTIONS,
    );
    assert!(matches!(error, DiffusionError::Runtime(_)), "{error}");
}

#[test]
fn a_caller_can_stop_the_work() {
    let conditions = conditions(SamplerKind::Ddim, STEPS, PLAIN);
    let mut toy = Toy::default();
    let mut seen = Vec::new();
    let mut observer = |event: Event| {
        seen.push(event);
        if seen.len() == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let noise = randn(CHANNELS * SIZE * SIZE, 1);
    let error = generate(&mut toy, &conditions, &noise, None, &mut observer).unwrap_err();
    assert!(matches!(error, DiffusionError::Interrupted));
    assert_eq!(toy.dense_steps, 3);
    assert_eq!(
        seen[2],
        Event::Step {
            phase: Phase::Generate,
            step: 2,
            steps: STEPS
        }
    );
}
