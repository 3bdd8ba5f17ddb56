//! Every rewrite of the `edit` program computes what marking says, in the oracle.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use fisec_ir::{Extent, Graph, NodeId, Op, SlotId, ValueId};
use fisec_oracle::{Oracle, Tensor, levels};
use fisec_passes::control::Controlled;
use fisec_passes::cost::CostTable;
use fisec_passes::sparse::{Sparsity, compute_rings, freeze_norm, mark_sparse};
use fisec_passes::{
    Module, Pipeline, Roles,
    analysis::{Levels, Places},
    fuse::fold_upsample,
    programs::record,
};
use fisec_plan::{CompileOptions, ControlInput, Halos, Keys, Norm, Samples};
use fisec_tensor::Mask;
use support::image::Image;
use support::masks::masks;
use support::options::options;
use support::unet::{BATCH, Shape, random_unet};

/// Rounding of f64 sums in another order: thousands of terms of size one.
const ROUNDING: f64 = 1e-9;

fn inputs(shape: &Shape, seed: u64) -> BTreeMap<String, Tensor> {
    Image::random(shape, seed).oracle_inputs()
}

/// The same for the model as it was, which takes a latent and a timestep for every image.
fn for_each_image(inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let each = inputs.iter().map(|(name, value)| {
        let mut shape = value.shape.to_vec();
        let repeats = BATCH / shape[0];
        shape[0] = BATCH;
        (name.clone(), Tensor::new(shape, value.data.repeat(repeats)))
    });
    each.collect()
}

fn record_slots(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<SlotId, Tensor> {
    Oracle::new(graph)
        .inputs(inputs.clone())
        .run()
        .expect("record runs")
        .slots
}

fn predict(graph: &Graph, inputs: &BTreeMap<String, Tensor>, slots: BTreeMap<SlotId, Tensor>, mask: &Mask) -> Tensor {
    let count = 4;
    let run = Oracle::new(graph)
        .inputs(inputs.clone())
        .slots(slots)
        .masks(&levels(mask, count))
        .run();
    run.expect("edit runs").outputs["prediction"].clone()
}

/// The sentence of semantics, before any pass that avoids work: marked operators over recorded values.
fn marked(dense: &Graph, keys: Keys, norm: Norm, sparse_levels: usize, halos: Halos) -> (Graph, Graph) {
    let roles = Roles::of(dense).expect("a denoiser");
    let stages = roles.stages(dense).expect("acyclic");
    let sample = dense.value_type(dense.input("sample").expect("an input")).shape.clone();
    let levels = Levels::of(dense, &sample);
    let places = Places::of(dense, &roles, &levels).expect("acyclic");
    let mut sparsity = Sparsity {
        levels,
        places,
        sparse_levels,
        rings: Default::default(),
        recorded: Default::default(),
    };
    if halos == Halos::Computed {
        sparsity.rings = compute_rings(dense, &sparsity);
        assert!(!sparsity.rings.is_empty());
    }
    let mut edit = dense.clone();
    freeze_norm(&mut edit, &mut sparsity, norm).expect("freezes");
    mark_sparse(&mut edit, &mut sparsity, &stages, keys).expect("marks");
    let record = record(dense, &edit, &sparsity).expect("records");
    edit.ids().into_iter().for_each(|id| apply_everywhere(&mut edit, id));
    (record, edit)
}

/// A norm is a function of the map in front of it, also outside the active set: with live statistics it changes there.
fn apply_everywhere(edit: &mut Graph, id: NodeId) {
    if !edit.contains(id) || !matches!(edit.op(id), Op::Affine { .. }) {
        return;
    }
    let value = ValueId { node: id, output: 0 };
    let full = edit.value_type(value).with_extent(Extent::Full);
    edit.set_outputs(id, vec![full]);
    for (scatter, _) in edit.users(value) {
        edit.replace_uses(
            ValueId {
                node: scatter,
                output: 0,
            },
            value,
        );
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let defined = a.data.iter().zip(&b.data).filter(|(a, b)| !(a.is_nan() && b.is_nan()));
    defined.map(|(a, b)| (a - b).abs()).fold(
        0.0,
        |most, one| if one.is_nan() { f64::INFINITY } else { most.max(one) },
    )
}

fn check(shape: &Shape, keys: Keys, norm: Norm, sparse_levels: usize) {
    check_with(shape, keys, norm, sparse_levels, Halos::Recorded);
}

fn check_with(shape: &Shape, keys: Keys, norm: Norm, sparse_levels: usize, halos: Halos) {
    let mut dense = random_unet(shape);
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let mut pipeline = Pipeline::new(&mut listener);
    let options = CompileOptions {
        samples: shape.samples,
        halos,
        ..options(keys, norm, sparse_levels)
    };
    let module = Module::build(dense.clone(), &options, &table, &mut pipeline)
        .expect("compiles")
        .expect("not stopped");
    let edit = module.edit.expect("sparse levels were asked for");
    fold_upsample(&mut dense).expect("folds");
    let (base, edited) = (inputs(shape, 1), inputs(shape, 2));
    let slots = record_slots(&module.record, &base);
    let (record, marked) = marked(&dense, keys, norm, sparse_levels, halos);
    for (name, mask) in masks(shape.size[0], shape.size[1], shape.seed) {
        let fast = predict(&edit, &edited, slots.clone(), &mask);
        let slots = record_slots(&record, &for_each_image(&base));
        let slow = predict(&marked, &for_each_image(&edited), slots, &mask);
        for (index, active) in mask.bits().iter().enumerate().filter(|(_, active)| **active) {
            assert!(
                fast.data[index].is_finite(),
                "{name}: active pixel {index} ({active}) is not computed"
            );
        }
        let defined: Vec<f64> = slow
            .data
            .iter()
            .zip(&fast.data)
            .map(|(slow, fast)| if fast.is_nan() { f64::NAN } else { *slow })
            .collect();
        let slow = Tensor::new(slow.shape.clone(), defined);
        let difference = largest_difference(&slow, &fast);
        assert!(
            difference < ROUNDING,
            "{name}, {norm:?}, {sparse_levels} levels: differs by {difference:e}"
        );
    }
}

#[test]
fn rewrites_keep_the_semantics_with_frozen_norms() {
    for sparse_levels in 1..=3 {
        check(
            &Shape {
                seed: 3,
                ..Shape::default()
            },
            Keys::Full,
            Norm::Frozen,
            sparse_levels,
        );
    }
}

#[test]
fn rewrites_keep_the_semantics_with_a_latent_for_each_image() {
    check(
        &Shape {
            seed: 9,
            samples: Samples::Each,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Frozen,
        2,
    );
}

#[test]
fn rewrites_keep_the_semantics_with_computed_halos() {
    for (size, seed) in [([12, 12], 10), ([11, 13], 11)] {
        let shape = Shape {
            size,
            seed,
            ..Shape::default()
        };
        check_with(&shape, Keys::Full, Norm::Frozen, 3, Halos::Computed);
    }
}

#[test]
fn rewrites_keep_the_semantics_with_live_norms() {
    check(
        &Shape {
            seed: 4,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Live,
        2,
    );
}

#[test]
fn updated_norms_equal_live_ones() {
    check(
        &Shape {
            seed: 5,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Updated,
        2,
    );
}

#[test]
fn rewrites_keep_the_semantics_with_masked_keys() {
    check(
        &Shape {
            seed: 6,
            ..Shape::default()
        },
        Keys::Masked,
        Norm::Frozen,
        3,
    );
}

#[test]
fn odd_sizes_keep_the_semantics() {
    check(
        &Shape {
            size: [11, 13],
            seed: 7,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Frozen,
        3,
    );
}

#[test]
fn a_full_mask_is_the_dense_program() {
    let shape = Shape {
        seed: 8,
        ..Shape::default()
    };
    let dense = random_unet(&shape);
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let options = options(Keys::Full, Norm::Live, 3);
    let module = Module::build(dense.clone(), &options, &table, &mut Pipeline::new(&mut listener));
    let module = module.expect("compiles").expect("not stopped");
    let slots = record_slots(&module.record, &inputs(&shape, 1));
    let full = Mask::filled(shape.size[0], shape.size[1], true);
    let edited = inputs(&shape, 2);
    let sparse = predict(module.edit.as_ref().expect("sparse"), &edited, slots, &full);
    let expected = Oracle::new(&dense)
        .inputs(for_each_image(&edited))
        .run()
        .expect("runs")
        .outputs["prediction"]
        .clone();
    let difference = largest_difference(&expected, &sparse);
    assert!(difference < ROUNDING, "differs by {difference:e}");
}

/// `guide` of a random model under control, `record`'s slots for inputs `base`, and the inputs of the edit.
fn controlled(shape: &Shape, levels: Option<usize>) -> (Module, BTreeMap<SlotId, Tensor>, BTreeMap<String, Tensor>) {
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let options = CompileOptions {
        control_levels: levels,
        remainder: fisec_plan::Remainder::Native,
        ..options(Keys::Full, Norm::Frozen, 2)
    };
    let module = Module::build(random_unet(shape), &options, &table, &mut Pipeline::new(&mut listener));
    let module = module.expect("compiles").expect("not stopped");
    let slots = record_slots(&module.record, &inputs(shape, 1));
    (module, slots, inputs(shape, 2))
}

/// Inputs with tables that give every token the same blend.
fn with_tables(mut inputs: BTreeMap<String, Tensor>, tokens: usize, blend: f64) -> BTreeMap<String, Tensor> {
    let identity = (0..tokens * tokens).map(|at| f64::from(u8::from(at % (tokens + 1) == 0)));
    let tables = [
        (ControlInput::Mapper, identity.collect()),
        (ControlInput::Blend, vec![blend; tokens]),
        (ControlInput::Weight, vec![1.0; tokens]),
    ];
    let tables = tables.map(|(input, data)| (input.name().to_owned(), Tensor::new(input.dims(tokens), data)));
    inputs.extend(tables);
    inputs
}

fn guided(module: &Module, inputs: BTreeMap<String, Tensor>, slots: BTreeMap<SlotId, Tensor>) -> Tensor {
    let run = Oracle::new(&module.guide).inputs(inputs).slots(slots).run();
    run.expect("guide runs").outputs["prediction"].clone()
}

#[test]
fn idle_control_is_the_dense_program() {
    for (size, seed) in [([16, 16], 21), ([11, 13], 22)] {
        let shape = Shape {
            size,
            seed,
            ..Shape::default()
        };
        let (module, slots, edited) = controlled(&shape, None);
        assert!(!module.controlled.is_empty());
        let dense = Oracle::new(&module.record).inputs(edited.clone()).run().expect("runs");
        let idle = guided(&module, with_tables(edited, shape.context[0], 0.0), slots);
        let difference = largest_difference(&dense.outputs["prediction"], &idle);
        assert!(difference < ROUNDING, "{size:?}: differs by {difference:e}");
    }
}

#[test]
fn control_by_a_steps_own_maps_changes_nothing_and_by_others_does() {
    let shape = Shape {
        seed: 23,
        ..Shape::default()
    };
    let (module, slots, edited) = controlled(&shape, None);
    let tokens = shape.context[0];
    let own = Oracle::new(&module.record).inputs(edited.clone()).run().expect("runs");
    let maps = |slots: &BTreeMap<SlotId, Tensor>| -> BTreeMap<SlotId, Tensor> {
        let of_map = |each: &Controlled| (each.slot, slots[&each.slot].clone());
        module.controlled.iter().map(of_map).collect()
    };
    let same = guided(&module, with_tables(edited.clone(), tokens, 1.0), maps(&own.slots));
    let difference = largest_difference(&own.outputs["prediction"], &same);
    assert!(difference < ROUNDING, "differs by {difference:e}");
    let other = guided(&module, with_tables(edited.clone(), tokens, 1.0), maps(&slots));
    let half = guided(&module, with_tables(edited, tokens, 0.5), maps(&slots));
    let [full, partial] = [&other, &half].map(|found| largest_difference(&own.outputs["prediction"], found));
    assert!(
        full > 1e-6 && partial > 1e-6 && full != partial,
        "{full:e}, {partial:e}"
    );
}

#[test]
fn control_can_be_left_out() {
    let shape = Shape {
        seed: 24,
        ..Shape::default()
    };
    let (all, ..) = controlled(&shape, None);
    let (coarsest, ..) = controlled(&shape, Some(1));
    let (none, ..) = controlled(&shape, Some(0));
    assert!(coarsest.controlled.len() < all.controlled.len() && !coarsest.controlled.is_empty());
    let level = all.controlled.iter().map(|each| each.level).max();
    assert!(coarsest.controlled.iter().all(|each| Some(each.level) == level));
    assert!(none.controlled.is_empty() && none.guide.input(ControlInput::Mapper.name()).is_none());
    assert!(
        none.guide
            .ids()
            .iter()
            .all(|&id| !matches!(none.guide.op(id), Op::CacheWrite(_)))
    );
}
