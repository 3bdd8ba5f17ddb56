//! A compiled plan on the CPU computes what the oracle does: small random U-Nets, every kind of mask.

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use fisec_ir::{Graph, SlotId as IrSlot};
use fisec_oracle::{Oracle, Tensor};
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Pipeline};
use fisec_plan::{Bundle, BundleWriter, CompileOptions, Halos, Keys, Norm, Samples, SlotId};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Executor, SlotSource};
use fisec_tensor::Mask;
use proptest::prelude::*;
use support::compare::relative_error;
use support::image::{Image, STEP, TIMESTEPS, channels_last, oracle_edit};
use support::masks::{blob, masks};
use support::options::options;
use support::unet::{Random, Shape, random_unet};

/// f32 against f64 over sums of up to a few thousand terms.
const TOLERANCE: f64 = 1e-4;

struct Compiled {
    module: Module,
    executor: Executor,
    _folder: tempfile::TempDir,
}

/// `None`, said aloud, where there is no ONNX Runtime.
fn compile(shape: &Shape, options: &CompileOptions) -> Option<Compiled> {
    let onnx_runtime = match OnnxRuntime::load() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let table = CostTable::shipped("cpu").expect("shipped");
    let module = build(shape, options);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = write(&module, options, &table, &folder.path().join("plan"));
    let mut executor = Executor::new(bundle, Some(onnx_runtime)).expect("loads");
    executor.set_timesteps(&TIMESTEPS).expect("timesteps");
    Some(Compiled {
        module,
        executor,
        _folder: folder,
    })
}

fn build(shape: &Shape, options: &CompileOptions) -> Module {
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let options = CompileOptions {
        samples: shape.samples,
        ..options.clone()
    };
    let module = Module::build(random_unet(shape), &options, &table, &mut Pipeline::new(&mut listener));
    module.expect("compiles").expect("not stopped")
}

fn write(module: &Module, options: &CompileOptions, table: &CostTable, target: &Path) -> Bundle {
    let mut writer = BundleWriter::create(target).expect("a new folder");
    let plan = module.lower("cpu", options, table, &[], &mut writer).expect("lowers");
    writer.finish(plan).expect("a valid plan");
    Bundle::open(target).expect("opens")
}

fn record(compiled: &mut Compiled, base: &Image) -> MemoryCache {
    let mut slots = MemoryCache::new(&compiled.executor.plan().slots);
    compiled.executor.set_context(&base.context).expect("context");
    compiled
        .executor
        .record(STEP, &base.values(), &mut slots)
        .expect("records");
    slots
}

fn edit(compiled: &mut Compiled, edited: &Image, slots: &MemoryCache, mask: &Mask) -> Vec<f32> {
    let binding = Binding::bind(compiled.executor.plan(), mask).expect("binds");
    compiled.executor.set_context(&edited.context).expect("context");
    compiled
        .executor
        .edit(STEP, &edited.values(), &binding, slots, None)
        .expect("edits")
}

fn check_masks(shape: &Shape, keys: Keys, norm: Norm, sparse_levels: usize) {
    check(shape, &options(keys, norm, sparse_levels));
}

fn check(shape: &Shape, options: &CompileOptions) {
    let Some(mut compiled) = compile(shape, options) else {
        return;
    };
    let (base, edited) = (Image::random(shape, 1), Image::random(shape, 2));
    let slots = record(&mut compiled, &base);
    for (name, mask) in masks(shape.size[0], shape.size[1], shape.seed) {
        let reference = oracle_edit(&compiled.module, &base, &edited, &mask);
        let prediction = edit(&mut compiled, &edited, &slots, &mask);
        let error = relative_error(&reference, &prediction);
        assert!(error < TOLERANCE, "{name}, {options:?}: off by {error:e}");
        let outside = prediction
            .iter()
            .enumerate()
            .filter(|(index, _)| !mask.bits()[index % mask.bits().len()]);
        assert!(
            outside.into_iter().all(|(_, value)| *value == 0.0),
            "{name}: not zero outside the mask"
        );
    }
}

#[test]
fn edits_equal_the_oracle_with_full_keys() {
    for sparse_levels in 1..=3 {
        check_masks(
            &Shape {
                seed: 11,
                ..Shape::default()
            },
            Keys::Full,
            Norm::Frozen,
            sparse_levels,
        );
    }
}

#[test]
fn edits_equal_the_oracle_with_masked_keys() {
    check_masks(
        &Shape {
            seed: 12,
            ..Shape::default()
        },
        Keys::Masked,
        Norm::Frozen,
        2,
    );
}

#[test]
fn edits_equal_the_oracle_with_live_and_updated_norms() {
    check_masks(
        &Shape {
            seed: 13,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Live,
        2,
    );
    check_masks(
        &Shape {
            seed: 13,
            ..Shape::default()
        },
        Keys::Full,
        Norm::Updated,
        2,
    );
}

#[test]
fn edits_equal_the_oracle_with_a_latent_for_each_image() {
    let shape = Shape {
        seed: 17,
        samples: Samples::Each,
        ..Shape::default()
    };
    check_masks(&shape, Keys::Full, Norm::Frozen, 2);
}

#[test]
fn edits_equal_the_oracle_with_computed_halos() {
    for (size, seed) in [([12, 12], 18), ([11, 13], 19)] {
        let shape = Shape {
            size,
            seed,
            ..Shape::default()
        };
        let computed = CompileOptions {
            halos: Halos::Computed,
            ..options(Keys::Full, Norm::Frozen, 2)
        };
        check(&shape, &computed);
    }
}

#[test]
fn recorded_slots_equal_the_oracle() {
    let shape = Shape {
        seed: 14,
        ..Shape::default()
    };
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let base = Image::random(&shape, 1);
    let slots = record(&mut compiled, &base);
    let run = Oracle::new(&compiled.module.record)
        .inputs(base.oracle_inputs())
        .run()
        .expect("runs");
    for (index, slot) in compiled.executor.plan().slots.iter().enumerate() {
        let reference = channels_last(&run.slots[&IrSlot(index as u32)]);
        let stored = slots.slot(STEP, SlotId(index as u32)).expect("recorded");
        assert_eq!(stored.data().len() as u64, slot.bytes, "{}", slot.name);
        let error = relative_error(&reference, &stored.to_f32_vec());
        assert!(error < TOLERANCE, "{}: off by {error:e}", slot.name);
    }
}

#[test]
fn a_full_mask_equals_the_dense_program() {
    let shape = Shape {
        seed: 15,
        ..Shape::default()
    };
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Live, 2)) else {
        return;
    };
    let (base, edited) = (Image::random(&shape, 1), Image::random(&shape, 2));
    let slots = record(&mut compiled, &base);
    let sparse = edit(
        &mut compiled,
        &edited,
        &slots,
        &Mask::filled(shape.size[0], shape.size[1], true),
    );
    let dense = compiled.executor.dense(STEP, &edited.values()).expect("guides");
    let dense = Tensor::new([dense.len()], dense.iter().map(|&value| f64::from(value)).collect());
    let error = relative_error(&dense, &sparse);
    assert!(error < TOLERANCE, "off by {error:e}");
}

#[test]
fn edits_leave_no_state_behind() {
    let shape = Shape {
        seed: 16,
        ..Shape::default()
    };
    let options = options(Keys::Full, Norm::Frozen, 2);
    let Some(mut compiled) = compile(&shape, &options) else {
        return;
    };
    let (base, edited) = (Image::random(&shape, 1), Image::random(&shape, 2));
    let masks = masks(shape.size[0], shape.size[1], 3);
    let slots = record(&mut compiled, &base);
    let used: Vec<Vec<f32>> = masks
        .iter()
        .map(|(_, mask)| edit(&mut compiled, &edited, &slots, mask))
        .collect();
    for ((name, mask), used) in masks.iter().zip(&used).rev() {
        let Some(mut fresh) = compile(&shape, &options) else {
            return;
        };
        let slots = record(&mut fresh, &base);
        assert_eq!(
            &edit(&mut fresh, &edited, &slots, mask),
            used,
            "{name}: another result in a fresh executor"
        );
    }
}

/// A step in f32 is as good as an exact one whose weights and inputs are off by so much of themselves: 64 roundings. A
/// hundred drawings had 2e-7, the worst 8e-7.
const F32_ERROR: f64 = 4e-6;

/// Error of every weight and input that [`conditioning`] is measured with: large beside roundings, small beside values.
const ERROR: f32 = 1e-6;

/// How much further than its weights and inputs the prediction moves when every one of them has a small error of its own.
/// Norms of a few values can stretch errors a thousandfold, in whatever way they are computed.
fn conditioning(shape: &Shape, options: &CompileOptions, images: [&Image; 2], mask: &Mask, reference: &Tensor) -> f64 {
    let shape = Shape {
        error: ERROR,
        ..shape.clone()
    };
    let mut random = Random(shape.seed ^ 4);
    let [base, edited] = images.map(|image| image.disturbed(ERROR, &mut random));
    let moved = oracle_edit(&build(&shape, options), &base, &edited, mask);
    let moved: Vec<f32> = moved.data.iter().map(|&value| value as f32).collect();
    relative_error(reference, &moved) / f64::from(ERROR)
}

/// The error of an edit, and what the network's conditioning allows.
fn error_and_bound(shape: &Shape, keys: Keys, sparse_levels: usize) -> Option<(f64, f64)> {
    let options = options(keys, Norm::Frozen, sparse_levels);
    let mut compiled = compile(shape, &options)?;
    let [base, edited] = [1, 2].map(|image| Image::random(shape, shape.seed ^ image));
    let mask = blob(shape.size[0], shape.size[1], &mut Random(shape.seed ^ 3));
    let slots = record(&mut compiled, &base);
    if mask.is_empty() {
        return None;
    }
    let reference = oracle_edit(&compiled.module, &base, &edited, &mask);
    let error = relative_error(&reference, &edit(&mut compiled, &edited, &slots, &mask));
    let conditioning = conditioning(shape, &options, [&base, &edited], &mask, &reference);
    Some((error, F32_ERROR * conditioning))
}

/// Four channels and two groups when narrow, three levels when deep.
fn drawn(size: [usize; 2], [deep, narrow, shared]: [bool; 3], depth: usize, seed: u64) -> Shape {
    let samples = if shared { Samples::Shared } else { Samples::Each };
    let first = if narrow { 4 } else { 8 };
    let mut channels = vec![first, 2 * first];
    channels.extend(deep.then_some(2 * first));
    Shape {
        size,
        channels,
        groups: if narrow { 2 } else { 4 },
        head: first,
        depth,
        context: [3, 6],
        seed,
        samples,
        ..Shape::default()
    }
}

proptest! {
    // Each case compiles a U-Net, opens sessions and runs the oracle.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_unets_and_masks_equal_the_oracle(
        seed in any::<u64>(),
        height in 7usize..15,
        width in 7usize..15,
        kind in any::<[bool; 3]>(),
        depth in 1usize..3,
        masked in any::<bool>(),
        sparse_levels in 1usize..4,
    ) {
        let keys = if masked { Keys::Masked } else { Keys::Full };
        if let Some((error, bound)) = error_and_bound(&drawn([height, width], kind, depth, seed), keys, sparse_levels) {
            prop_assert!(error < bound, "off by {error:e} instead of {bound:e}");
        }
    }
}

/// A network that stretches errors eight hundredfold: off by more than others, and not by more than f32 must be.
#[test]
fn an_ill_conditioned_network_is_as_good_as_f32_can_be() {
    let shape = drawn([7, 14], [true, true, false], 2, 4_575_909_675_852_849_431);
    if let Some((error, bound)) = error_and_bound(&shape, Keys::Full, 1) {
        assert!(error < bound, "off by {error:e} instead of {bound:e}");
    }
}
