//! Plans of models with operators of every kind between those that have sparse forms, on the CPU: the dense graph as it was
//! built, interpreted operator by operator, is the truth.

mod support;

use std::ops::ControlFlow;

use fisec_ir::{Graph, Op, ValueId};
use fisec_oracle::{Oracle, Tensor};
use fisec_passes::canonical::canonicalize;
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Pipeline};
use fisec_plan::{Bundle, BundleWriter, CompileOptions, Halos, Keys, Norm, Samples};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Executor};
use fisec_tensor::Mask;
use support::image::{Image, STEP, TIMESTEPS};
use support::masks::blob;
use support::options::options;
use support::sentence::{Marks, edited};
use support::unet::{Random, Shape, random_unet};
use support::wrapped::{JUMPS, WRAPPERS, wrap_value};

/// Norms of a few values stretch the rounding of f32; a value that is read at a wrong place is off by a hundredth or more.
const TOLERANCE: f64 = 1e-3;

/// Largest difference at the pixels of a mask, relative to the largest value there.
fn difference(expected: &Tensor, found: &[f32], mask: &Mask) -> f64 {
    let bits = mask.bits();
    let pairs = expected.data.iter().zip(found).enumerate();
    let inside = pairs.filter(|(index, _)| bits[index % bits.len()]);
    let (mut most, mut scale) = (0.0f64, 0.0f64);
    for (_, (&expected, &found)) in inside {
        let apart = (expected - f64::from(found)).abs();
        most = most.max(if apart.is_nan() { f64::INFINITY } else { apart });
        scale = scale.max(expected.abs());
    }
    most / scale.max(1e-12)
}

struct Compiled {
    module: Module,
    executor: Executor,
    _folder: tempfile::TempDir,
}

fn compiled(runtime: &OnnxRuntime, dense: &Graph, options: &CompileOptions) -> Compiled {
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let module = Module::build(dense.clone(), options, &table, &mut Pipeline::new(&mut listener));
    let module = module.expect("compiles").expect("not stopped");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("plan");
    let mut writer = BundleWriter::create(&target).expect("a new folder");
    let plan = module.lower("cpu", options, &table, &[], &mut writer).expect("lowers");
    writer.finish(plan).expect("a valid plan");
    let bundle = Bundle::open(&target).expect("opens");
    let mut executor = Executor::new(bundle, Some(runtime.clone())).expect("loads");
    executor.set_timesteps(&TIMESTEPS).expect("timesteps");
    Compiled {
        module,
        executor,
        _folder: folder,
    }
}

fn check(
    runtime: &OnnxRuntime,
    name: &str,
    graph: &Graph,
    shape: &Shape,
    options: &CompileOptions,
    random: &mut Random,
) {
    let what = format!("{name}, {shape:?}, {options:?}");
    let (base, new) = (
        Image::random(shape, shape.seed ^ 1),
        Image::random(shape, shape.seed ^ 2),
    );
    let (dense_base, dense_new) = (base.oracle_inputs_for_each(), new.oracle_inputs_for_each());
    let [expected_base, expected_new] = [&dense_base, &dense_new].map(|inputs| {
        let run = Oracle::new(graph).inputs(inputs.clone()).run().expect("runs");
        run.outputs["prediction"].clone()
    });
    let mut dense = graph.clone();
    canonicalize(&mut dense, &mut |_, _| ControlFlow::Continue(())).expect("raises");
    let Compiled {
        module,
        mut executor,
        _folder,
    } = compiled(runtime, &dense, options);

    let everywhere = Mask::filled(shape.size[0], shape.size[1], true);
    let mut slots = MemoryCache::new(&executor.plan().slots);
    executor.set_context(&base.context).expect("context");
    let recorded = executor.record(STEP, &base.values(), &mut slots).expect("records");
    let error = difference(&expected_base, &recorded, &everywhere);
    assert!(error < TOLERANCE, "record, {what}: off by {error:e}");

    executor.set_context(&new.context).expect("context");
    let guided = executor.dense(STEP, &new.values()).expect("guides");
    let error = difference(&expected_new, &guided, &everywhere);
    assert!(error < TOLERANCE, "dense, {what}: off by {error:e}");

    let mask = blob(shape.size[0], shape.size[1], random);
    if mask.is_empty() {
        return;
    }
    let binding = Binding::bind(executor.plan(), &mask).expect("binds");
    let found = executor
        .edit(STEP, &new.values(), &binding, &slots, None)
        .expect("edits");
    let marks = Marks::of(module.edit.as_ref().expect("sparse"), options.keys, options.norm);
    let reference = edited(&dense, &marks, &dense_base, &dense_new, &mask);
    let error = difference(&reference, &found, &mask);
    assert!(error < TOLERANCE, "edit, {what}: off by {error:e}");
}

#[test]
fn plans_of_models_with_operators_of_every_kind_are_what_an_edit_means() {
    let runtime = match OnnxRuntime::load() {
        Ok(runtime) => runtime,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    let kinds = WRAPPERS.iter().filter(|(name, _)| !JUMPS.contains(name));
    for (index, (name, wrapper)) in kinds.enumerate() {
        let mut random = Random(40 + index as u64);
        let samples = [Samples::Shared, Samples::Each][index % 2];
        let shape = Shape {
            size: [8, 8],
            channels: vec![16, 16],
            seed: random.bits(),
            samples,
            ..Shape::default()
        };
        let options = CompileOptions {
            samples,
            halos: [Halos::Recorded, Halos::Computed][index / 2 % 2],
            ..options(Keys::Full, [Norm::Frozen, Norm::Updated][index / 4 % 2], 2)
        };
        // maps and tokens in turn; some kinds need one of them
        for rank in if index % 2 == 0 { [3, 4] } else { [4, 3] } {
            let mut graph = random_unet(&shape);
            let ids = graph.ids().into_iter();
            let values = ids.filter(|&id| matches!(graph.op(id), Op::Conv(_) | Op::Add | Op::Linear(_)));
            let values = values.map(|node| ValueId { node, output: 0 });
            let values: Vec<ValueId> = values
                .filter(|&value| graph.value_type(value).shape.len() == rank)
                .collect();
            let value = values[random.bits() as usize % values.len()];
            if wrap_value(&mut graph, value, *wrapper, &mut random) {
                check(&runtime, name, &graph, &shape, &options, &mut random);
                break;
            }
        }
    }
}
