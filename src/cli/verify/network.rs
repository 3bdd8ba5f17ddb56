//! A text encoder or VAE as a program of a plan, without a denoiser beside it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use fisec_ir::Graph;
use fisec_passes::cost::CostTable;
use fisec_passes::lower::{PlanBuilder, WeightTarget, lower_network};
use fisec_passes::{Budget, Network, Pipeline};
use fisec_plan::{
    Bundle, BundleWriter, CompileOptions, Extent, FORMAT, NetworkKind, Plan, Program, Programs, Stage, Value, ValueId,
};
use fisec_runtime::Executor;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{DType, HostTensor};

use super::routes::scratch;
use super::{Recorded, Tensors};
use crate::cli::compile::{Choices, cubins};
use crate::cli::failure::Failure;

/// Channels of a picture.
const RGB: usize = 3;

/// The graph's output on the target's device; `None` where it is no network that a device computes.
pub fn compute(graph: &Graph, choices: &Choices, recorded: &Recorded) -> Result<Option<Tensors>, Failure> {
    let Some((kind, input)) = kind_of(recorded).filter(|_| choices.target().starts_with("cuda:")) else {
        return Ok(None);
    };
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let network = Network::build(kind, graph.clone(), &mut Pipeline::new(&mut listener))?;
    let Some(network) = network else { return Ok(None) };
    let name = network.output().to_owned();
    let folder = scratch()?;
    let target = folder.path().join("plan");
    let mut writer = BundleWriter::create(&target)?;
    let table = CostTable::shipped(choices.target()).map_err(Failure::new)?;
    let mut builder = PlanBuilder::new(&mut writer, WeightTarget::Cuda, Budget::of([&network.graph]));
    let program = lower_network(&network.graph, &table, &mut builder).map_err(fisec_passes::CompileError::from)?;
    let islands = builder.into_islands();
    let modules = cubins::add(choices.target(), &mut writer)?;
    writer.finish(Plan {
        islands,
        modules,
        networks: BTreeMap::from([(kind, program)]),
        ..without_denoiser(choices)
    })?;
    let executor = Executor::new(Bundle::open(&target)?, Some(OnnxRuntime::load()?))?;
    let mut network = executor.network(kind)?.expect("just compiled");
    let found = network.run(input)?;
    Ok(Some(Tensors::from([(name, found)])))
}

/// What a network with these inputs is: an encoder reads three channels.
fn kind_of(recorded: &Recorded) -> Option<(NetworkKind, &HostTensor)> {
    let mut inputs = recorded.inputs.values();
    let (input, None) = (inputs.next()?, inputs.next()) else {
        return None;
    };
    match input.shape().len() {
        2 if !input.dtype().is_float() => Some((NetworkKind::TextEncoder, input)),
        4 if input.shape()[1] == RGB => Some((NetworkKind::VaeEncoder, input)),
        4 => Some((NetworkKind::VaeDecoder, input)),
        _ => None,
    }
}

/// A plan whose denoiser returns its sample.
fn without_denoiser(choices: &Choices) -> Plan {
    let sample = Value {
        dtype: DType::F32,
        shape: [1, 1, 1, 8].into(),
        extent: Extent::Full,
        stage: Stage::Step,
    };
    let bound = |name: &str| BTreeMap::from([(name.to_owned(), ValueId(0))]);
    let program = Program {
        values: vec![sample],
        inputs: bound("sample"),
        outputs: bound("prediction"),
        nodes: Vec::new(),
    };
    Plan {
        format: FORMAT,
        fisec: env!("CARGO_PKG_VERSION").into(),
        target: choices.target().to_owned(),
        model: String::new(),
        model_hash: String::new(),
        batch: 1,
        latent: [8, 1, 1],
        context: [1, 1],
        options: CompileOptions {
            sparse_levels: Some(0),
            ..choices.options()
        },
        levels: Vec::new(),
        slots: Vec::new(),
        weights: Vec::new(),
        islands: Vec::new(),
        programs: Programs {
            record: program.clone(),
            guide: program,
            edit: None,
        },
        networks: BTreeMap::new(),
        prompt: None,
        break_even: 0.0,
        modules: BTreeMap::new(),
        pipeline: None,
        files: BTreeMap::new(),
    }
}
