//! The ways to compute a model's outputs.

use std::env;
use std::ops::ControlFlow;
use std::path::Path;

use fisec_ir::Graph;
use fisec_onnx::{Ports, export};
use fisec_oracle::{Oracle, Tensor};
use fisec_passes::Roles;
use fisec_passes::cost::CostTable;
use fisec_plan::{Bundle, BundleWriter, Plan, ScratchFolder};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Executor};
use fisec_tensor::{HostTensor, Mask};

use super::{Recorded, Tensors};
use crate::cli::compile::{Choices, Watcher, build, cubins};
use crate::cli::dump::BesideModel;
use crate::cli::failure::Failure;

/// A model in ONNX Runtime.
pub fn onnx_runtime(model: &Path, inputs: &Tensors, outputs: &Tensors) -> Result<Tensors, Failure> {
    let mut session = OnnxRuntime::load()?.session(model, 0)?;
    let declared: Vec<_> = session.inputs().to_vec();
    let mut given = Vec::new();
    for input in &declared {
        let Some(value) = inputs.get(&input.name) else {
            return Err(Failure::new(format!("no array `in_{}` is recorded", input.name))
                .hint("record one array for every input of the model"));
        };
        given.push((input.name.as_str(), value.cast(input.dtype)));
    }
    let given: Vec<(&str, &HostTensor)> = given.iter().map(|(name, value)| (*name, value)).collect();
    let names: Vec<&str> = outputs.keys().map(String::as_str).collect();
    let computed = session.run(&given, &names)?;
    Ok(outputs.keys().cloned().zip(computed).collect())
}

/// The graph written as ONNX, in ONNX Runtime.
pub fn exported(graph: &Graph, inputs: &Tensors, outputs: &Tensors) -> Result<Tensors, Failure> {
    let folder = scratch()?;
    let path = folder.path().join("model.onnx");
    let mut weights = BesideModel::create(&path)?;
    let model = export(graph, Ports::Plain, &mut weights)
        .map_err(|error| Failure::new(error.to_string()).hint("this is a defect of the exporter: please report it"))?;
    weights.publish()?;
    std::fs::write(&path, model).map_err(Failure::file(&path))?;
    onnx_runtime(&path, inputs, outputs)
}

/// The graph in the oracle.
pub fn oracle(graph: &Graph, inputs: &Tensors) -> Result<Tensors, Failure> {
    let inputs = inputs
        .iter()
        .map(|(name, value)| (name.clone(), Tensor::from_host(value)));
    let run = Oracle::new(graph)
        .inputs(inputs)
        .run()
        .map_err(|error| Failure::new(error.to_string()).hint("`--through raised` shows whether the graph is right"))?;
    Ok(run
        .outputs
        .into_iter()
        .map(|(name, value)| (name, value.to_host()))
        .collect())
}

/// What the programs of a plan compute.
pub struct Compiled {
    /// the dense program
    pub dense: Tensors,
    /// the sparse program under a mask of all latents, which recomputes everything; `None` where the plan has none
    pub edit: Option<Tensors>,
}

/// The graph as a plan, in the plan's runtime.
pub fn plan(graph: Graph, choices: &Choices, recorded: &Recorded) -> Result<Compiled, Failure> {
    let roles = Roles::of(&graph)?;
    let sample = recorded.input(&roles.sample)?;
    let choices = &match are_equal(sample) {
        true => choices.clone(),
        false => choices.for_each_sample(),
    };
    let folder = scratch()?;
    let target = folder.path().join("plan");
    let table = CostTable::shipped(choices.target()).map_err(Failure::new)?;
    let Some(module) = build(graph, choices, &table, &mut Watcher::default())? else {
        return Err(Failure::interrupted());
    };
    let mut writer = BundleWriter::create(&target)?;
    let plan = module.lower(choices.target(), &choices.options(), &table, &[], &mut writer)?;
    let modules = cubins::add(choices.target(), &mut writer)?;
    writer.finish(Plan { modules, ..plan })?;
    let mut executor = Executor::new(Bundle::open(&target)?, Some(OnnxRuntime::load()?))?;
    let timesteps = recorded.input(&roles.timestep)?.to_f32_vec();
    if timesteps.is_empty() || timesteps.iter().any(|time| *time != timesteps[0]) {
        return Err(Failure::new("a plan takes one timestep for all images").hint("record with equal timesteps"));
    }
    executor.set_timesteps(&timesteps[..1])?;
    executor.set_context(recorded.input(&roles.context)?)?;
    let [channels, height, width] = executor.plan().latent;
    let shape = [executor.plan().batch, channels, height, width];
    if sample.shape()[..] != shape {
        return Err(Failure::new(format!(
            "the recorded `in_{}` is [{}], the model takes {shape:?}",
            roles.sample,
            sample.shape()
        ))
        .hint("record inputs in the shapes that the model takes"));
    }
    let samples = executor.plan().samples() * channels * height * width;
    let sample = &sample.to_f32_vec()[..samples];
    let named = |prediction| Tensors::from([(module.prediction(), HostTensor::from_f32(shape, prediction))]);
    let dense = named(executor.dense(0, sample)?);
    Ok(Compiled {
        dense,
        edit: edited(&mut executor, sample)?.map(named),
    })
}

/// A sparse step of all latents on a recording of the same step, `[N, C, H, W]`; `None` where no level is sparse.
fn edited(executor: &mut Executor, sample: &[f32]) -> Result<Option<Vec<f32>>, Failure> {
    let plan = executor.plan();
    if plan.programs.edit.is_none() {
        return Ok(None);
    }
    let everything = Mask::filled(plan.latent[1], plan.latent[2], true);
    let binding = Binding::bind(plan, &everything)?;
    let mut recording = MemoryCache::new(&plan.slots);
    executor.record(0, sample, &mut recording)?;
    executor.hand_over(&mut recording, &mut |_| ControlFlow::Continue(()))?;
    Ok(Some(executor.edit(0, sample, &binding, &recording, None)?))
}

/// Whether all images of a tensor are the same.
fn are_equal(tensor: &HostTensor) -> bool {
    let images = tensor.shape().first().copied().unwrap_or(1).max(1);
    let mut images = tensor.data().chunks_exact((tensor.data().len() / images).max(1));
    let first = images.next();
    images.all(|image| Some(image) == first)
}

pub fn scratch() -> Result<ScratchFolder, Failure> {
    let place = env::temp_dir().join("fisec-verify");
    ScratchFolder::beside(&place).map_err(Failure::file(&place))
}
