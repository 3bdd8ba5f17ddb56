//! Programs of models with operators of every kind of dependence between those that have sparse forms.
//!
//! The truth is the dense graph as it was built, interpreted operator by operator: see `sentence.rs`.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::ops::ControlFlow;

use fisec_ir::{Graph, Op, ValueId};
use fisec_oracle::{Oracle, Tensor, levels};
use fisec_passes::canonical::canonicalize;
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Pipeline};
use fisec_plan::{CompileOptions, ControlInput, Halos, Keys, Norm, Samples};
use fisec_tensor::Mask;
use support::image::Image;
use support::masks::{blob, masks};
use support::options::options;
use support::sentence::{Inputs, Marks, edited};
use support::unet::{Random, Shape, random_unet};
use support::wrapped::{WRAPPERS, wrap, wrap_value};

/// Rounding of f64 sums in another order: thousands of terms of size one.
const ROUNDING: f64 = 1e-9;

/// Levels of 64, 16 and 4 tokens and 16 channels: channels can be taken for tokens.
fn shape(random: &mut Random) -> Shape {
    let sizes = [[8, 8], [8, 8], [6, 10], [7, 9]];
    Shape {
        size: sizes[random.bits() as usize % sizes.len()],
        channels: vec![16, 16],
        groups: 4,
        head: 8,
        context: [5, 12],
        seed: random.bits(),
        samples: match random.bits() % 2 {
            0 => Samples::Shared,
            _ => Samples::Each,
        },
        ..Shape::default()
    }
}

fn drawn_options(shape: &Shape, random: &mut Random) -> CompileOptions {
    let keys = [Keys::Full, Keys::Full, Keys::Masked][random.bits() as usize % 3];
    let norm = [Norm::Frozen, Norm::Updated, Norm::Live][random.bits() as usize % 3];
    let halos = match random.bits() % 2 {
        0 => Halos::Recorded,
        _ => Halos::Computed,
    };
    CompileOptions {
        samples: shape.samples,
        halos,
        ..options(keys, norm, 1 + random.bits() as usize % 2)
    }
}

fn compiled(graph: &Graph, options: &CompileOptions) -> Module {
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    Module::build(graph.clone(), options, &table, &mut Pipeline::new(&mut listener))
        .expect("compiles")
        .expect("not stopped")
}

fn prediction(graph: &Graph, inputs: &Inputs) -> Tensor {
    let run = Oracle::new(graph).inputs(inputs.clone()).run().expect("runs");
    run.outputs["prediction"].clone()
}

/// Largest difference at the pixels of a mask.
fn difference(expected: &Tensor, found: &Tensor, mask: &Mask) -> f64 {
    assert_eq!(expected.shape, found.shape);
    let bits = mask.bits();
    let pairs = expected.data.iter().zip(&found.data).enumerate();
    let inside = pairs.filter(|(index, _)| bits[index % bits.len()]);
    inside.fold(0.0, |most, (_, (expected, found))| {
        let apart = (expected - found).abs();
        if apart.is_nan() { f64::INFINITY } else { most.max(apart) }
    })
}

/// Tables that leave attention as it is.
fn idle(tokens: usize) -> impl Iterator<Item = (String, Tensor)> {
    let identity = (0..tokens * tokens).map(|at| f64::from(u8::from(at % (tokens + 1) == 0)));
    let tables = [
        (ControlInput::Mapper, identity.collect()),
        (ControlInput::Blend, vec![0.0; tokens]),
        (ControlInput::Weight, vec![1.0; tokens]),
    ];
    tables
        .into_iter()
        .map(move |(input, data)| (input.name().to_owned(), Tensor::new(input.dims(tokens), data)))
}

/// All of what a compiled model promises.
fn check(what: &str, original: &Graph, shape: &Shape, options: &CompileOptions, random: &mut Random) {
    let what = format!("{what}, {shape:?}, {options:?}");
    let [height, width] = shape.size;
    let everywhere = Mask::filled(height, width, true);
    let (base, new) = (
        Image::random(shape, shape.seed ^ 1),
        Image::random(shape, shape.seed ^ 2),
    );
    let (dense_base, dense_new) = (base.oracle_inputs_for_each(), new.oracle_inputs_for_each());
    let expected = [&dense_base, &dense_new].map(|inputs| prediction(original, inputs));

    let mut dense = original.clone();
    canonicalize(&mut dense, &mut |_, _| ControlFlow::Continue(())).expect("raises");
    let apart = difference(&expected[1], &prediction(&dense, &dense_new), &everywhere);
    assert!(apart < ROUNDING, "raised, {what}: {apart:e}");

    let module = compiled(&dense, options);
    let recorded = Oracle::new(&module.record)
        .inputs(base.oracle_inputs())
        .run()
        .expect("records");
    let apart = difference(&expected[0], &recorded.outputs["prediction"], &everywhere);
    assert!(apart < ROUNDING, "record, {what}: {apart:e}");

    let mut tables: Inputs = new.oracle_inputs();
    if !module.controlled.is_empty() {
        tables.extend(idle(shape.context[0]));
    }
    let guided = Oracle::new(&module.guide)
        .inputs(tables)
        .slots(recorded.slots.clone())
        .run()
        .expect("guides");
    let apart = difference(&expected[1], &guided.outputs["prediction"], &everywhere);
    assert!(apart < ROUNDING, "guide, {what}: {apart:e}");

    let edit = module.edit.as_ref().expect("sparse levels were asked for");
    let edit_of = |image: &Image, mask: &Mask| {
        let run = Oracle::new(edit)
            .inputs(image.oracle_inputs())
            .slots(recorded.slots.clone())
            .masks(&levels(mask, 6))
            .run();
        run.expect("edits").outputs["prediction"].clone()
    };
    let marks = Marks::of(edit, options.keys, options.norm);
    let named = masks(height, width, shape.seed);
    let drawn = blob(height, width, random);
    let (_, picked) = &named[random.bits() as usize % named.len()];
    for mask in [&drawn, picked] {
        let reference = edited(&dense, &marks, &dense_base, &dense_new, mask);
        let apart = difference(&reference, &edit_of(&new, mask), mask);
        assert!(apart < ROUNDING, "edit, {what}: {apart:e}");
        if options.keys == Keys::Full {
            let apart = difference(&expected[0], &edit_of(&base, mask), mask);
            assert!(apart < ROUNDING, "edit without a change, {what}: {apart:e}");
        }
    }
    // statistics that are recorded are those of the base
    if options.norm != Norm::Frozen {
        let apart = difference(&expected[1], &edit_of(&new, &everywhere), &everywhere);
        assert!(apart < ROUNDING, "edit of everything, {what}: {apart:e}");
    }
}

/// Values that the kinds of operators come behind: maps and tokens of every level.
fn values(graph: &Graph) -> Vec<ValueId> {
    let ids = graph.ids().into_iter();
    ids.filter(|&id| matches!(graph.op(id), Op::Conv(_) | Op::Add | Op::Linear(_) | Op::GroupNorm(_)))
        .map(|node| ValueId { node, output: 0 })
        .filter(|&value| graph.value_type(value).shape.len() > 2)
        .collect()
}

fn check_kind(index: usize, rank: usize, seed: u64) {
    let mut random = Random(seed + index as u64);
    let (name, wrapper) = WRAPPERS[index];
    for _ in 0..20 {
        let shape = shape(&mut random);
        let mut graph = random_unet(&shape);
        let mut values = values(&graph);
        values.retain(|&value| graph.value_type(value).shape.len() == rank);
        let value = values[random.bits() as usize % values.len()];
        if wrap_value(&mut graph, value, wrapper, &mut random) {
            let options = drawn_options(&shape, &mut random);
            return check(name, &graph, &shape, &options, &mut random);
        }
    }
}

#[test]
fn operators_of_every_kind_on_maps_keep_what_an_edit_means() {
    (0..WRAPPERS.len()).for_each(|index| check_kind(index, 4, 100));
}

#[test]
fn operators_of_every_kind_on_tokens_keep_what_an_edit_means() {
    (0..WRAPPERS.len()).for_each(|index| check_kind(index, 3, 200));
}

fn check_mixed(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut random = Random(seed);
        let shape = shape(&mut random);
        let mut graph = random_unet(&shape);
        let kinds = wrap(&mut graph, 1 + random.bits() as usize % 4, &mut random);
        let options = drawn_options(&shape, &mut random);
        check(
            &format!("seed {seed}, {kinds:?}"),
            &graph,
            &shape,
            &options,
            &mut random,
        );
    }
}

#[test]
fn operators_in_any_order_keep_what_an_edit_means() {
    check_mixed(0..24);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn many_operators_in_any_order_keep_what_an_edit_means() {
    check_mixed(1000..1600);
}
