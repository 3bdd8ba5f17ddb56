//! How much memory a plan takes on its device, without the device.

use std::collections::{BTreeSet, HashMap};

use fisec_kernels::cuda::{Address, Arch, Gpu};
use fisec_plan::{Plan, ProgramKind, Stage, WeightId};
use fisec_tensor::{ActiveSet, Mask};

use super::assemble::{Context, measure};
use super::early::EarlyValues;
use super::folded::folded;
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
}

impl DeviceMemory {
    /// What a step needs at once: one block of slots is read, another written.
    pub fn peak(&self) -> usize {
        self.weights + self.values + 2 * self.slots
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
    let used: BTreeSet<WeightId> = steps.flat_map(|node| node.kernel.weights()).collect();
    let slots = SlotBlock::new(plan);
    let mut memory = DeviceMemory {
        weights: used.iter().map(|id| plan.weights[id.index()].bytes as usize).sum(),
        slots: slots.bytes(true),
        values: 0,
    };
    let everything: Vec<ActiveSet> = plan
        .levels
        .iter()
        .map(|level| ActiveSet::new(Mask::filled(level.height, level.width, true)))
        .collect();
    for (kind, _) in plan.programs.iter() {
        memory.values = memory.values.max(values(plan, gpu, &slots, kind, &everything)?);
    }
    Ok(Some(memory))
}

fn values(
    plan: &Plan,
    gpu: Gpu,
    slots: &SlotBlock,
    kind: ProgramKind,
    levels: &[ActiveSet],
) -> Result<usize, RuntimeError> {
    // addresses do not matter: nothing is launched
    let somewhere = 1 << 40;
    let program = plan.programs.get(kind).expect("one of the plan's");
    let prepared: HashMap<ProgramKind, Prepared> = plan
        .programs
        .iter()
        .map(|(kind, program)| (kind, Prepared::new(plan, kind, program)))
        .collect();
    let mut early = HashMap::new();
    for stage in [Stage::Prompt, Stage::Timestep] {
        early.extend(EarlyValues::new(plan, &prepared, stage).addresses(kind, somewhere));
    }
    let inputs = program.inputs.values().map(|&id| (id, Address::at(somewhere)));
    let (norms, folds) = folded(plan, &prepared);
    let weights: HashMap<WeightId, u64> = (0..plan.weights.len() as u32)
        .map(|id| (WeightId(id), somewhere))
        .collect();
    let context = Context {
        plan,
        program,
        prepared: &prepared[&kind],
        gpu,
        levels: if kind == ProgramKind::Edit { levels } else { &[] },
        weights: &weights,
        folded: &place_folded(plan, &folds, somewhere).0,
        norms: &norms[&kind],
        early: &early,
        slots,
        table: somewhere,
        sample: somewhere,
        control: &inputs.collect(),
        remember: kind == ProgramKind::Edit,
        maps: true,
    };
    Ok(measure(&context)?.bytes)
}
