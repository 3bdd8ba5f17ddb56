//! The demo model, with its real weights: the plan's edit step equals the oracle's.

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use fisec_ir::Graph;
use fisec_onnx::{Bindings, import};
use fisec_oracle::{Oracle, Tensor, levels};
use fisec_passes::analysis::representative_mask;
use fisec_passes::canonical::canonicalize;
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Pipeline};
use fisec_plan::{Bundle, BundleWriter, Keys, Norm};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Executor};
use fisec_tensor::{HostTensor, Mask};
use support::compare::relative_error;
use support::masks::masks;
use support::options::options;
use support::unet::{BATCH, Random};

const UNET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/unet/model.onnx");
const TOKENS: usize = 77;
const TIMESTEP: f32 = 621.0;
/// f32 against f64 through some hundred layers.
const TOLERANCE: f64 = 1e-4;

/// The U-Net at `side × side` latents, compiled with `sparse_levels` and slots in f32.
fn compile(side: usize, sparse_levels: usize, target: &Path) -> (Module, Bundle) {
    let bindings = Bindings::unet(BATCH, side, side, TOKENS);
    let mut graph = import(Path::new(UNET), &bindings).expect("imports").graph;
    canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(())).expect("raises");
    let options = options(Keys::Full, Norm::Frozen, sparse_levels);
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let module = Module::build(graph, &options, &table, &mut Pipeline::new(&mut listener));
    let module = module.expect("compiles").expect("not stopped");
    let mut writer = BundleWriter::create(target).expect("a new folder");
    let plan = module.lower("cpu", &options, &table, &[], &mut writer).expect("lowers");
    writer.finish(plan).expect("a valid plan");
    (module, Bundle::open(target).expect("opens"))
}

struct Image {
    sample: HostTensor,
    context: HostTensor,
}

impl Image {
    fn random(side: usize, width: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let sample = random.tensor(&[1, 4, side, side], 0.0, 1.7);
        Image {
            sample,
            context: random.tensor(&[BATCH, TOKENS, width], 0.0, 1.0),
        }
    }

    fn oracle_inputs(&self, module: &Module) -> BTreeMap<String, Tensor> {
        let timestep = module.guide.input(&module.roles.timestep).expect("an input");
        let shape = module.guide.value_type(timestep).shape.clone();
        let count = shape.elements();
        BTreeMap::from([
            (module.roles.sample.clone(), Tensor::from_host(&self.sample)),
            (
                module.roles.timestep.clone(),
                Tensor::new(shape, vec![f64::from(TIMESTEP); count]),
            ),
            (module.roles.context.clone(), Tensor::from_host(&self.context)),
        ])
    }
}

fn check(side: usize, masks: &[(&str, Mask)]) {
    let onnx_runtime = match OnnxRuntime::load() {
        Ok(runtime) => runtime,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (module, bundle) = compile(side, 3, &folder.path().join("plan"));
    let width = bundle.plan().context[1];
    let (base, edited) = (Image::random(side, width, 1), Image::random(side, width, 2));
    let recorded = Oracle::new(&module.record)
        .inputs(base.oracle_inputs(&module))
        .run()
        .expect("record runs")
        .slots;
    let mut slots = MemoryCache::new(&bundle.plan().slots);
    let mut executor = Executor::new(bundle, Some(onnx_runtime)).expect("loads");
    executor.set_timesteps(&[TIMESTEP]).expect("timesteps");
    executor.set_context(&base.context).expect("context");
    executor
        .record(0, &base.sample.to_f32_vec(), &mut slots)
        .expect("records");
    executor.set_context(&edited.context).expect("context");
    for (name, mask) in masks {
        let edit = module.edit.as_ref().expect("sparse levels were asked for");
        let oracle = Oracle::new(edit)
            .inputs(edited.oracle_inputs(&module))
            .slots(recorded.clone());
        let reference = oracle
            .masks(&levels(mask, 4))
            .run()
            .expect("edit runs")
            .outputs
            .into_values()
            .next();
        let binding = Binding::bind(executor.plan(), mask).expect("binds");
        let prediction = executor
            .edit(0, &edited.sample.to_f32_vec(), &binding, &slots, None)
            .expect("edits");
        let error = relative_error(&reference.expect("one output"), &prediction);
        assert!(error < TOLERANCE, "{name}: off by {error:e}");
    }
}

#[test]
fn edits_of_the_demo_model_equal_the_oracle() {
    let side = 24;
    let shares = [("5 %", 0.05), ("15 %", 0.15), ("30 %", 0.30)];
    let shares = shares.map(|(name, share)| (name, representative_mask(side, side, share)));
    check(side, &[masks(side, side, 1), shares.to_vec()].concat());
}

#[test]
fn edits_of_the_demo_model_equal_the_oracle_at_full_size() {
    check(
        64,
        &[
            ("5 %", representative_mask(64, 64, 0.05)),
            ("30 %", representative_mask(64, 64, 0.30)),
        ],
    );
}
