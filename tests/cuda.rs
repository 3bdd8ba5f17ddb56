//! A plan compiled for a CUDA device computes what the oracle does: on a GPU, or on the emulated driver that
//! `tools/gpu/compile.py --emulate` builds (README there). Skipped aloud where there is neither.

mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fisec_ir::{Graph, SlotId as IrSlot};
use fisec_oracle::{Oracle, Tensor};
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Pipeline};
use fisec_plan::{
    Bundle, BundleWriter, CompileOptions, ControlInput, Halos, Kernel, Keys, Norm, Plan, Remainder, Samples, SlotId,
    Stage,
};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{
    Binding, Control, Executor, HISTORY, RuntimeError, SampledSteps, SlotSink, SlotSource, StepUpdate,
};
use fisec_tensor::{DType, HostTensor, Mask};
use support::compare::relative_error;
use support::image::{Image, STEP, TIMESTEPS, channels_last, oracle_edit};
use support::masks::masks;
use support::unet::{Random, Shape, random_unet};

/// f16 rounds every value that leaves a kernel by 2^-11 of itself; some fifty of them follow each other.
const TOLERANCE: f64 = 1e-2;

const TARGET: &str = "cuda:sm_90a";

struct Compiled {
    module: Module,
    executor: Executor,
    _folder: tempfile::TempDir,
}

fn options(keys: Keys, norm: Norm, sparse_levels: usize) -> CompileOptions {
    CompileOptions {
        cache_dtype: DType::F16,
        control_levels: Some(0),
        ..support::options::options(keys, norm, sparse_levels)
    }
}

/// Folder of cubins for the target.
fn cubins() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cubins");
    env::var_os("FISEC_CUBINS").map_or(default, PathBuf::from)
}

fn ready() -> Result<OnnxRuntime, String> {
    fisec_runtime::describe_cuda().map_err(|error| error.to_string())?;
    if !cubins().join("sparse_conv.sm_90a.cubin").is_file() {
        return Err(format!("no kernels in {}", cubins().display()));
    }
    OnnxRuntime::load().map_err(|error| error.to_string())
}

fn compile(shape: &Shape, options: &CompileOptions) -> Option<Compiled> {
    let onnx_runtime = match ready() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let table = CostTable::shipped(TARGET).expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let mut pipeline = Pipeline::new(&mut listener);
    let build = CompileOptions {
        samples: shape.samples,
        ..options.clone()
    };
    let module = Module::build(random_unet(shape), &build, &table, &mut pipeline);
    let mut module = module.expect("compiles").expect("not stopped");
    module.make_native(&mut pipeline).expect("native");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = write(&module, options, &table, &folder.path().join("plan"));
    let mut executor = Executor::with_threads(bundle, Some(onnx_runtime), 1).expect("loads");
    executor.set_timesteps(&TIMESTEPS).expect("timesteps");
    Some(Compiled {
        module,
        executor,
        _folder: folder,
    })
}

fn write(module: &Module, options: &CompileOptions, table: &CostTable, target: &Path) -> Bundle {
    let mut writer = BundleWriter::create(target).expect("a new folder");
    let mut plan = module.lower(TARGET, options, table, &[], &mut writer).expect("lowers");
    for entry in fs::read_dir(cubins()).expect("cubins").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kernel) = name.strip_suffix(".sm_90a.cubin") else {
            continue;
        };
        writer.copy_file(&name, &entry.path()).expect("copies");
        plan.modules.insert(kernel.to_owned(), name.clone());
    }
    writer.finish(plan).expect("a valid plan");
    Bundle::open(target).expect("opens")
}

impl Compiled {
    fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    fn record(&mut self, base: &Image) -> (MemoryCache, Vec<f32>) {
        let mut slots = MemoryCache::new(&self.plan().slots);
        self.executor.set_context(&base.context).expect("context");
        let prediction = self.executor.record(STEP, &base.values(), &mut slots);
        (slots, prediction.expect("records"))
    }

    fn check_slots(&self, stored: &MemoryCache, expected: &BTreeMap<IrSlot, Tensor>) {
        for (index, slot) in self.plan().slots.iter().enumerate() {
            let reference = channels_last(&expected[&IrSlot(index as u32)]);
            let value = stored.slot(STEP, SlotId(index as u32)).expect("recorded");
            let error = relative_error(&reference, &value.to_f32_vec());
            assert!(error < TOLERANCE, "{}: off by {error:e}", slot.name);
        }
    }

    fn edit(&mut self, edited: &Image, slots: &MemoryCache, mask: &Mask) -> Vec<f32> {
        let binding = Binding::bind(self.plan(), mask).expect("binds");
        self.executor.set_context(&edited.context).expect("context");
        let made = self.executor.edit(STEP, &edited.values(), &binding, slots, None);
        made.expect("edits")
    }
}

fn check_masks(shape: &Shape, keys: Keys, norm: Norm, sparse_levels: usize) {
    check_edits(shape, &options(keys, norm, sparse_levels));
}

fn check_edits(shape: &Shape, options: &CompileOptions) {
    let Some(mut compiled) = compile(shape, options) else {
        return;
    };
    let (base, edited) = (Image::random(shape, 1), Image::random(shape, 2));
    let (slots, prediction) = compiled.record(&base);
    let dense = Oracle::new(&compiled.module.record).inputs(base.oracle_inputs()).run();
    let error = relative_error(&dense.expect("runs").outputs["prediction"], &prediction);
    assert!(error < TOLERANCE, "record: off by {error:e}");
    for (name, mask) in masks(shape.size[0], shape.size[1], shape.seed) {
        let reference = oracle_edit(&compiled.module, &base, &edited, &mask);
        let prediction = compiled.edit(&edited, &slots, &mask);
        let error = relative_error(&reference, &prediction);
        assert!(error < TOLERANCE, "{name}, {options:?}: off by {error:e}");
        assert_eq!(prediction, compiled.edit(&edited, &slots, &mask), "{name}: other bits");
        let bits = mask.bits();
        let mut outside = prediction
            .iter()
            .enumerate()
            .filter(|(index, _)| !bits[index % bits.len()]);
        assert!(
            outside.all(|(_, value)| *value == 0.0),
            "{name}: not zero outside the mask"
        );
    }
}

fn shape(seed: u64) -> Shape {
    Shape {
        seed,
        ..Shape::default()
    }
}

#[test]
fn edits_equal_the_oracle_with_full_keys() {
    for sparse_levels in [1, 3] {
        check_masks(&shape(11), Keys::Full, Norm::Frozen, sparse_levels);
    }
}

/// Channels in whole parts of 32: weights hold the layer norms before them.
#[test]
fn edits_equal_the_oracle_with_norms_in_weights() {
    let wide = Shape {
        channels: vec![32, 32, 32],
        head: 32,
        groups: 8,
        ..shape(19)
    };
    check_masks(&wide, Keys::Full, Norm::Frozen, 2);
}

#[test]
fn edits_equal_the_oracle_with_a_latent_for_each_image() {
    let each = Shape {
        samples: Samples::Each,
        ..shape(20)
    };
    check_masks(&each, Keys::Full, Norm::Frozen, 2);
}

#[test]
fn edits_equal_the_oracle_with_computed_halos() {
    for sparse_levels in [1, 3] {
        let computed = CompileOptions {
            halos: Halos::Computed,
            ..options(Keys::Full, Norm::Frozen, sparse_levels)
        };
        check_edits(&shape(21), &computed);
    }
}

#[test]
fn edits_equal_the_oracle_with_masked_keys() {
    check_masks(&shape(12), Keys::Masked, Norm::Frozen, 2);
}

#[test]
fn edits_equal_the_oracle_with_live_and_updated_norms() {
    check_masks(&shape(13), Keys::Full, Norm::Live, 2);
    check_masks(&shape(13), Keys::Full, Norm::Updated, 2);
}

/// The dense levels in ONNX Runtime: on a GPU whose library has the CUDA provider in place, elsewhere on the host.
#[test]
fn edits_equal_the_oracle_with_dense_levels_in_onnx_runtime() {
    for sparse_levels in [1, 2] {
        let options = CompileOptions {
            remainder: Remainder::OnnxRuntime,
            ..options(Keys::Full, Norm::Frozen, sparse_levels)
        };
        let Some(compiled) = compile(&shape(18), &options) else {
            return;
        };
        let edit = compiled.plan().programs.edit.as_ref().expect("a sparse program");
        let islands = edit.nodes.iter().filter(|node| node.stage == Stage::Step);
        let islands = islands.filter(|node| matches!(node.kernel, Kernel::Island(_)));
        assert_eq!(islands.count(), 1, "the core of the network is one model");
        check_edits(&shape(18), &options);
    }
}

/// Text of whole vectors: what depends on the prompt only is a program too.
#[test]
fn edits_equal_the_oracle_with_the_prompt_on_the_device() {
    let shape = Shape {
        context: [7, 16],
        ..shape(17)
    };
    let Some(compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    assert!(compiled.plan().prompt.is_some(), "an operator of it has no kernel");
    check_masks(&shape, Keys::Full, Norm::Frozen, 2);
}

#[test]
fn recorded_slots_equal_the_oracle() {
    let shape = shape(14);
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let base = Image::random(&shape, 1);
    let (slots, _) = compiled.record(&base);
    let run = Oracle::new(&compiled.module.record).inputs(base.oracle_inputs()).run();
    compiled.check_slots(&slots, &run.expect("runs").slots);
}

#[test]
fn guided_steps_follow_recorded_attention() {
    check_control(&shape(16));
    // more than one tile of queries, more than one matrix step of tokens, heads that are padded
    check_control(&Shape {
        size: [12, 20],
        channels: vec![24, 48],
        head: 24,
        context: [77, 12],
        ..shape(17)
    });
}

fn check_control(shape: &Shape) {
    let options = CompileOptions {
        control_levels: None,
        ..options(Keys::Full, Norm::Frozen, 2)
    };
    let Some(mut compiled) = compile(shape, &options) else {
        return;
    };
    for (kind, program) in compiled.plan().programs.iter() {
        let mut steps = program.nodes.iter().filter(|node| node.stage == Stage::Step);
        let leaves_the_device = steps.any(|node| matches!(node.kernel, Kernel::Island(_)));
        assert!(!leaves_the_device, "{kind} has an island");
    }
    let (base, edited) = (Image::random(shape, 1), Image::random(shape, 2));
    let (slots, _) = compiled.record(&base);
    let recorded = Oracle::new(&compiled.module.record).inputs(base.oracle_inputs()).run();
    let recorded = recorded.expect("records").slots;
    compiled.check_slots(&slots, &recorded);

    let tokens = shape.context[0];
    let mut random = Random(5);
    let table =
        |random: &mut Random, length: usize| -> Vec<f32> { (0..length).map(|_| random.signed() / 2.0 + 0.5).collect() };
    let tables = [tokens * tokens, tokens, tokens].map(|length| table(&mut random, length));
    let [mapper, blend, weight] = tables.clone();
    let control = Control::new(mapper, blend, weight).expect("lengths agree");
    compiled.executor.set_context(&edited.context).expect("context");
    let sample = edited.values();
    let mut remembered = MemoryCache::new(&compiled.plan().slots);
    let guided = compiled
        .executor
        .guide(STEP, &sample, &control, &slots, Some(&mut remembered))
        .expect("guides");

    let mut inputs = edited.oracle_inputs();
    for (input, table) in ControlInput::ALL.into_iter().zip(tables) {
        let values = table.into_iter().map(f64::from).collect();
        inputs.insert(input.name().to_owned(), Tensor::new(input.dims(tokens), values));
    }
    let run = Oracle::new(&compiled.module.guide).inputs(inputs).slots(recorded).run();
    let run = run.expect("guides");
    let error = relative_error(&run.outputs["prediction"], &guided);
    assert!(error < TOLERANCE, "off by {error:e}");
    compiled.check_slots(&remembered, &run.slots);
    // without maps the record program gives the same
    let dense = compiled.executor.dense(STEP, &sample).expect("runs");
    let oracle = Oracle::new(&compiled.module.record)
        .inputs(edited.oracle_inputs())
        .run();
    let error = relative_error(&oracle.expect("runs").outputs["prediction"], &dense);
    assert!(error < TOLERANCE, "dense: off by {error:e}");
}

/// What the device recorded without maps has none to follow, and says so.
#[test]
fn maps_that_were_not_recorded_are_missed() {
    struct WithoutMaps<'a>(&'a mut MemoryCache, Vec<SlotId>);
    impl SlotSink for WithoutMaps<'_> {
        fn recording(&self) -> Option<&str> {
            SlotSink::recording(self.0)
        }
        fn wants(&self, _step: usize, slot: SlotId) -> bool {
            !self.1.contains(&slot)
        }
        fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
            self.0.put(step, slot, value)
        }
    }
    let shape = shape(18);
    let options = CompileOptions {
        control_levels: None,
        ..options(Keys::Full, Norm::Frozen, 2)
    };
    let Some(mut compiled) = compile(&shape, &options) else {
        return;
    };
    let base = Image::random(&shape, 1);
    let mut slots = MemoryCache::new(&compiled.plan().slots);
    let maps = compiled.plan().map_slots().map(|(slot, _)| slot).collect();
    compiled.executor.set_context(&base.context).expect("context");
    let mut sink = WithoutMaps(&mut slots, maps);
    compiled
        .executor
        .record(STEP, &base.values(), &mut sink)
        .expect("records");
    let idle = Control::idle(shape.context[0]);
    let guided = compiled.executor.guide(STEP, &base.values(), &idle, &slots, None);
    assert!(matches!(guided, Err(RuntimeError::MissingSlot { .. })), "{guided:?}");
}

/// The base's slots as if they came from another process: not on the device.
struct Elsewhere<'a>(&'a MemoryCache);

impl SlotSource for Elsewhere<'_> {
    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        self.0.slot(step, slot)
    }
}

/// A made-up sampler that looks back on all that it may.
fn updates(steps: usize) -> Vec<StepUpdate> {
    let update = |step: usize| StepUpdate {
        guidance: 2.5,
        latents: 0.9 + 0.02 * step as f32,
        prediction: -0.1,
        history: [0.05, -0.03, 0.02],
        kept: (step != 2).then_some([0.2, 0.7]),
        sample_scale: 0.8 + 0.03 * step as f32,
    };
    (0..steps).map(update).collect()
}

/// `[C, H, W]` latents after every step, each step with the host in between.
fn step_by_step(
    compiled: &mut Compiled,
    binding: &Binding,
    run: &SampledSteps<'_>,
    mut remembered: Option<&mut MemoryCache>,
) -> Vec<Vec<f32>> {
    let mut kept: Vec<Vec<f32>> = run.history.iter().map(|entry| entry.to_vec()).collect();
    let (mut latents, mut scale) = (run.latents.to_vec(), run.sample_scale);
    let active = binding.levels()[0].mask().bits().to_vec();
    let mut made = Vec::new();
    for (index, update) in run.updates.iter().enumerate() {
        let sample: Vec<f32> = latents.iter().map(|value| value * scale).collect();
        let sink = remembered.as_deref_mut().map(|sink| sink as &mut dyn SlotSink);
        let step = run.first + index;
        let predicted = compiled.executor.edit(step, &sample, binding, run.source, sink);
        let predicted = predicted.expect("edits");
        let (without, given) = predicted.split_at(latents.len());
        let guided = without.iter().zip(given);
        let guided: Vec<f32> = guided.map(|(a, b)| a + update.guidance * (b - a)).collect();
        let next = |at: usize| match active[at % active.len()] {
            true => {
                let past = kept
                    .iter()
                    .zip(update.history)
                    .map(|(entry, factor)| factor * entry[at]);
                update.latents * latents[at] + update.prediction * guided[at] + past.sum::<f32>()
            }
            false => run.recorded[index][at],
        };
        let next: Vec<f32> = (0..latents.len()).map(next).collect();
        if let Some([x, e]) = update.kept {
            let entry = latents
                .iter()
                .zip(&guided)
                .map(|(latent, guided)| x * latent + e * guided);
            kept.insert(0, entry.collect());
            kept.truncate(HISTORY);
        }
        latents = next;
        scale = update.sample_scale;
        made.push(latents.clone());
    }
    made
}

#[test]
fn steps_without_the_host_equal_single_ones() {
    const STEPS: usize = 5;
    let shape = shape(19);
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let timesteps: Vec<f32> = (0..STEPS + 1).map(|step| 900.0 - 150.0 * step as f32).collect();
    compiled.executor.set_timesteps(&timesteps).expect("timesteps");
    let (base, edited) = (Image::random(&shape, 1), Image::random(&shape, 2));
    let mut slots = MemoryCache::new(&compiled.plan().slots);
    compiled.executor.set_context(&base.context).expect("context");
    let paths: Vec<Vec<f32>> = (3..STEPS as u64 + 7)
        .map(|seed| Image::random(&shape, seed).values())
        .collect();
    for (step, sample) in paths.iter().take(STEPS + 1).enumerate() {
        compiled.executor.record(step, sample, &mut slots).expect("records");
    }
    let half = shape.size[0] * shape.size[1] * 4;
    let paths: Vec<&[f32]> = paths.iter().map(|path| &path[..half]).collect();
    compiled.executor.set_context(&edited.context).expect("context");
    let updates = updates(STEPS);
    let elsewhere = Elsewhere(&slots);
    let [height, width] = shape.size;
    let corner = Mask::from_fn(height, width, |y, x| y < 3 && x < 3);
    let scattered = Mask::from_fn(height, width, |y, x| (y * 5 + x * 3) % 7 == 0);
    for (name, mask) in [("corner", corner), ("scattered", scattered)] {
        let binding = Binding::bind(compiled.plan(), &mask).expect("binds");
        let here = SampledSteps {
            first: 1,
            updates: &updates,
            latents: &edited.values()[..half],
            sample_scale: 0.7,
            history: &paths[STEPS..STEPS + 2],
            recorded: &paths[..STEPS],
            source: &slots,
        };
        let there = SampledSteps {
            source: &elsewhere,
            ..here
        };
        let (plain, fetched) = all_at_once(&mut compiled, &binding, &here, None);
        assert_eq!(fetched, 0, "{name}: all is there");
        let (from_host, fetched) = all_at_once(&mut compiled, &binding, &there, None);
        assert_eq!(plain, from_host, "{name}");
        let whole = compiled.plan().cache_bytes_per_step();
        assert!(
            fetched > 0 && (fetched < whole) == (name == "corner"),
            "{name}: {fetched} of {whole} bytes"
        );

        let mut remembered = [(); 3].map(|()| MemoryCache::new(&compiled.plan().slots));
        let [from_here, from_there, singly] = &mut remembered;
        assert_eq!(plain, all_at_once(&mut compiled, &binding, &here, Some(from_here)).0);
        assert_eq!(plain, all_at_once(&mut compiled, &binding, &there, Some(from_there)).0);
        let single = step_by_step(&mut compiled, &binding, &here, Some(singly));
        for (step, (once, single)) in plain.iter().zip(&single).enumerate() {
            let reference = Tensor::new([half], single.iter().map(|value| f64::from(*value)).collect());
            let error = relative_error(&reference, once);
            // samples that round to another f16
            assert!(error < 2e-3, "{name}, step {step}: off by {error:e}");
        }
        let [from_here, from_there, singly] = &remembered;
        for (step, slot) in
            (1..=STEPS).flat_map(|step| (0..compiled.plan().slots.len() as u32).map(move |slot| (step, slot)))
        {
            let stored = |from: &MemoryCache| from.slot(step, SlotId(slot)).expect("recorded").to_f32_vec();
            assert_eq!(
                stored(from_here),
                stored(from_there),
                "{name}, step {step}, slot {slot}"
            );
            let reference = stored(singly).into_iter().map(f64::from).collect::<Vec<_>>();
            let error = relative_error(&Tensor::new([reference.len()], reference), &stored(from_here));
            assert!(error < TOLERANCE, "{name}, step {step}, slot {slot}: off by {error:e}");
        }
    }
}

/// The latents after every step, and bytes fetched per step.
fn all_at_once(
    compiled: &mut Compiled,
    binding: &Binding,
    run: &SampledSteps<'_>,
    sink: Option<&mut MemoryCache>,
) -> (Vec<Vec<f32>>, u64) {
    let mut seen = 0;
    let mut progress = |_| {
        seen += 1;
        ControlFlow::Continue(())
    };
    let sink = sink.map(|sink| sink as &mut dyn SlotSink);
    let made = compiled.executor.edit_steps(binding, run, sink, &mut progress);
    assert_eq!(seen, run.updates.len());
    let made = made.expect("edits").expect("all on the device");
    (made, compiled.executor.last_step().slot_bytes)
}

/// A sink that can wait for what the device keeps.
struct Patient(MemoryCache);

impl SlotSink for Patient {
    fn recording(&self) -> Option<&str> {
        SlotSink::recording(&self.0)
    }

    fn wants_now(&self, _: usize, _: SlotId) -> bool {
        false
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        self.0.put(step, slot, value)
    }
}

/// Nothing comes to the host while an image is made; asked for, it is what would have come.
#[test]
fn what_the_device_keeps_is_handed_over_later() {
    let shape = shape(23);
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let image = Image::random(&shape, 1);
    let (at_once, _) = compiled.record(&image);
    let mut patient = Patient(MemoryCache::new(&compiled.plan().slots));
    let sample = image.values();
    compiled.executor.record(STEP, &sample, &mut patient).expect("records");
    assert_eq!(patient.0.bytes(), 0);
    let mut handed = Vec::new();
    let mut progress = |step| {
        handed.push(step);
        ControlFlow::Continue(())
    };
    compiled
        .executor
        .hand_over(&mut patient, &mut progress)
        .expect("hands over");
    assert_eq!(handed, [STEP]);
    for slot in (0..compiled.plan().slots.len() as u32).map(SlotId) {
        assert_eq!(
            patient.0.slot(STEP, slot).expect("there"),
            at_once.slot(STEP, slot).expect("there")
        );
    }
    let bytes = patient.0.bytes();
    compiled
        .executor
        .hand_over(&mut patient, &mut |_| ControlFlow::Continue(()))
        .expect("nothing is left");
    assert_eq!(patient.0.bytes(), bytes);
}

/// The slots of an edited image are the base's with what the edit computed in place: an edit of the edited image with
/// the same prompt and mask finds everything as it left it.
#[test]
fn an_edited_image_is_remembered() {
    let shape = shape(15);
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let (base, edited) = (Image::random(&shape, 1), Image::random(&shape, 2));
    let (slots, _) = compiled.record(&base);
    let mask = Mask::from_fn(shape.size[0], shape.size[1], |y, x| y < 5 && x > 4);
    let binding = Binding::bind(compiled.plan(), &mask).expect("binds");
    compiled.executor.set_context(&edited.context).expect("context");
    let mut remembered = MemoryCache::new(&compiled.plan().slots);
    let sample = edited.values();
    let sink = Some(&mut remembered as &mut dyn fisec_runtime::SlotSink);
    let first = compiled
        .executor
        .edit(STEP, &sample, &binding, &slots, sink)
        .expect("edits");
    let plain = compiled
        .executor
        .edit(STEP, &sample, &binding, &slots, None)
        .expect("edits");
    assert_eq!(first, plain);
    let again = compiled
        .executor
        .edit(STEP, &sample, &binding, &remembered, None)
        .expect("edits");
    assert_eq!(first, again);
    let changed = (0..compiled.plan().slots.len() as u32).filter(|&slot| {
        let slot = |from: &MemoryCache| from.slot(STEP, SlotId(slot)).expect("there").to_f32_vec();
        slot(&slots) != slot(&remembered)
    });
    assert!(changed.count() > 0);
}

/// Weights that are no numbers, or that no half holds, are an error that names step and program, in every program; the sink
/// gets nothing that could be kept.
#[test]
fn values_that_are_not_finite_name_step_and_program() {
    let sound = Shape {
        context: [5, 16],
        ..shape(24)
    };
    let options = CompileOptions {
        control_levels: None,
        ..options(Keys::Full, Norm::Frozen, 2)
    };
    let Some(mut compiled) = compile(&sound, &options) else {
        return;
    };
    let image = Image::random(&sound, 1);
    let (slots, _) = compiled.record(&image);
    // every weight is off by no number
    let broken = Shape {
        error: f32::NAN,
        ..sound.clone()
    };
    let mut broken = compile(&broken, &options).expect("as before");
    let mask = Mask::from_fn(sound.size[0], sound.size[1], |y, x| y < 5 && x > 4);
    let binding = Binding::bind(broken.plan(), &mask).expect("binds");
    broken
        .executor
        .set_context(&image.context)
        .expect("computed on the device");
    let mut kept = Kept::default();
    let (sample, idle) = (image.values(), Control::idle(sound.context[0]));
    let made = [
        ("record", broken.executor.record(STEP, &sample, &mut kept)),
        ("record", broken.executor.dense(STEP, &sample)),
        (
            "guide",
            broken.executor.guide(STEP, &sample, &idle, &slots, Some(&mut kept)),
        ),
        (
            "edit",
            broken.executor.edit(STEP, &sample, &binding, &slots, Some(&mut kept)),
        ),
    ];
    for (program, result) in made {
        let error = result.expect_err(program);
        let expected = format!("the denoiser returned values that are not finite at step {STEP} of `{program}`");
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some_and(|hint| hint.contains("--target cpu")));
    }
    assert_eq!(kept.0, 0, "slots of steps that failed");
    let half = sample.len();
    let recorded = vec![0.0; half];
    let run = SampledSteps {
        first: 0,
        updates: &updates(2),
        latents: &sample,
        sample_scale: 1.0,
        history: &[],
        recorded: &[&recorded, &recorded],
        source: &Anything(&slots),
    };
    let made = broken
        .executor
        .edit_steps(&binding, &run, None, &mut |_| ControlFlow::Continue(()));
    let error = made.expect_err("without the host");
    assert!(error.to_string().ends_with("at step 0 of `edit`"), "{error}");
}

/// Counts what it is given.
#[derive(Default)]
struct Kept(usize);

impl SlotSink for Kept {
    fn put(&mut self, _: usize, _: SlotId, _: HostTensor) -> Result<(), RuntimeError> {
        self.0 += 1;
        Ok(())
    }
}

/// The slots of one step at every step.
struct Anything<'a>(&'a MemoryCache);

impl SlotSource for Anything<'_> {
    fn slot(&self, _: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        self.0.slot(STEP, slot)
    }
}

/// Without guidance a run on the device takes the prompt's half of the prediction to the bit, whatever the other half is.
#[test]
fn steps_without_guidance_take_the_prompts_half() {
    let shape = shape(25);
    let Some(mut compiled) = compile(&shape, &options(Keys::Full, Norm::Frozen, 2)) else {
        return;
    };
    let image = Image::random(&shape, 1);
    let (slots, _) = compiled.record(&image);
    let mask = Mask::from_fn(shape.size[0], shape.size[1], |y, x| y < 6 && x > 3);
    let binding = Binding::bind(compiled.plan(), &mask).expect("binds");
    let sample = image.values();
    let recorded = vec![0.25; sample.len()];
    let update = StepUpdate {
        guidance: 1.0,
        latents: 0.0,
        prediction: 1.0,
        history: [0.0; HISTORY],
        kept: None,
        sample_scale: 1.0,
    };
    let [height, width] = shape.size;
    let planes = 4 * height * width;
    // the halves in turn as the prompt's: neither is seen in the other's place
    let halves = image.context.to_f32_vec();
    let (first, second) = halves.split_at(halves.len() / 2);
    for context in [halves.clone(), [second, first].concat()] {
        let context = HostTensor::from_f32(image.context.shape().clone(), context);
        compiled.executor.set_context(&context).expect("context");
        let predicted = compiled
            .executor
            .edit(STEP, &sample, &binding, &slots, None)
            .expect("edits");
        let given = &predicted[planes..];
        let run = SampledSteps {
            first: STEP,
            updates: &[update],
            latents: &sample,
            sample_scale: 1.0,
            history: &[],
            recorded: &[&recorded],
            source: &slots,
        };
        let (made, _) = all_at_once(&mut compiled, &binding, &run, None);
        for (at, (&value, &given)) in made[0].iter().zip(given).enumerate() {
            let active = mask.bits()[at % mask.bits().len()];
            let expected = if active { given } else { 0.25 };
            assert_eq!(value.to_bits(), expected.to_bits(), "latent {at}");
        }
    }
}
