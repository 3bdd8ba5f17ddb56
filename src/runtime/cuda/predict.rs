//! How much memory a plan takes on its device, without the device.

use std::collections::{BTreeSet, HashMap};

use fisec_kernels::cuda::{Address, Arch, Gpu};
use fisec_plan::{Node, Plan, Program, ProgramKind, Stage, WeightId};
use fisec_tensor::{ActiveSet, Mask};

use super::assemble::{Boxes, Context, measure};
use super::early::EarlyValues;
use super::folded::{FoldedNorms, folded};
use super::slots::SlotBlock;
use super::weights::place_folded;
use crate::RuntimeError;
use crate::executor::Prepared;

/// Multiprocessors that workspaces are counted for: those of an H100 or H200.
const MULTIPROCESSORS: usize = 132;

/// Bytes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// constants, uploaded once
    pub weights: usize,
    /// values of a dense step, the most that any program needs
    pub values: usize,
    /// recorded slots of one step, cross-attention maps included
    pub slots: usize,
    /// constants and values of the networks beside the denoiser and of the prompt's program
    pub networks: usize,
}

impl DeviceMemory {
    /// What a step needs at once: one block of slots is read, another written.
    pub fn peak(&self) -> usize {
        self.weights + self.values + 2 * self.slots + self.networks
    }
}

/// The memory that a plan for a CUDA device takes; `None` for other targets.
///
/// # Errors
/// Fails on a plan that cannot be assembled: a defect.
pub fn device_memory(plan: &Plan) -> Result<Option<DeviceMemory>, RuntimeError> {
    let Some(arch) = Arch::of_target(&plan.target) else {
        return Ok(None);
    };
    let gpu = Gpu {
        arch,
        multiprocessors: MULTIPROCESSORS,
    };
    let steps = plan.programs.iter().flat_map(|(_, program)| &program.nodes);
    let steps = steps.filter(|node| node.stage == Stage::Step);
    let slots = SlotBlock::new(plan);
    let mut memory = DeviceMemory {
        weights: weights_bytes(plan, steps),
        slots: slots.bytes(true),
        values: 0,
        networks: 0,
    };
    let everything: Vec<ActiveSet> = plan
        .levels
        .iter()
        .map(|level| ActiveSet::new(Mask::filled(level.height, level.width, true)))
        .collect();
    for (kind, _) in plan.programs.iter() {
        memory.values = memory.values.max(values(plan, gpu, &slots, kind, &everything)?);
    }
    let prompt = plan.prompt.as_ref().map(|prompt| &prompt.program);
    for program in plan.networks.values().chain(prompt) {
        memory.networks += weights_bytes(plan, program.nodes.iter()) + network_values(plan, gpu, &slots, program)?;
    }
    Ok(Some(memory))
}

/// Bytes of the constants that nodes read.
fn weights_bytes<'a>(plan: &Plan, nodes: impl Iterator<Item = &'a Node>) -> usize {
    let used: BTreeSet<WeightId> = nodes.flat_map(|node| node.kernel.weights()).collect();
    used.iter().map(|id| plan.weights[id.index()].bytes as usize).sum()
}

/// Addresses do not matter: nothing is launched.
const SOMEWHERE: u64 = 1 << 40;

fn addresses(plan: &Plan) -> HashMap<WeightId, u64> {
    let weights = 0..plan.weights.len() as u32;
    weights.map(|id| (WeightId(id), SOMEWHERE)).collect()
}

fn network_values(plan: &Plan, gpu: Gpu, slots: &SlotBlock, program: &Program) -> Result<usize, RuntimeError> {
    let context = Context {
        plan,
        program,
        prepared: &Prepared::network(program),
        gpu,
        levels: &[],
        weights: &addresses(plan),
        folded: &HashMap::new(),
        norms: &FoldedNorms::default(),
        early: &HashMap::new(),
        slots,
        table: SOMEWHERE,
        sample: SOMEWHERE,
        control: &HashMap::new(),
        remember: false,
        maps: false,
        boxes: &Boxes::default(),
    };
    Ok(measure(&context)?.bytes)
}

fn values(
    plan: &Plan,
    gpu: Gpu,
    slots: &SlotBlock,
    kind: ProgramKind,
    levels: &[ActiveSet],
) -> Result<usize, RuntimeError> {
    let program = plan.programs.get(kind).expect("one of the plan's");
    let prepared: HashMap<ProgramKind, Prepared> = plan
        .programs
        .iter()
        .map(|(kind, program)| (kind, Prepared::new(plan, kind, program)))
        .collect();
    let mut early = HashMap::new();
    for stage in [Stage::Prompt, Stage::Timestep] {
        early.extend(EarlyValues::new(plan, &prepared, stage).addresses(kind, SOMEWHERE));
    }
    let inputs = program.inputs.values().map(|&id| (id, Address::at(SOMEWHERE)));
    let (norms, folds) = folded(plan, &prepared);
    let context = Context {
        plan,
        program,
        prepared: &prepared[&kind],
        gpu,
        levels: if kind == ProgramKind::Edit { levels } else { &[] },
        weights: &addresses(plan),
        folded: &place_folded(plan, &folds, SOMEWHERE).0,
        norms: &norms[&kind],
        early: &early,
        slots,
        table: SOMEWHERE,
        sample: SOMEWHERE,
        control: &inputs.collect(),
        remember: kind == ProgramKind::Edit,
        maps: true,
        boxes: &Boxes::default(),
    };
    Ok(measure(&context)?.bytes)
}
