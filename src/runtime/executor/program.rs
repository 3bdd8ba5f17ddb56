//! What follows from a program alone: stages, last uses, dense tables, and which values belong to which slot.

use std::collections::{HashMap, HashSet};

use fisec_kernels::cpu::ConvTable;
use fisec_plan::{Extent, Kernel, Plan, Program, ProgramKind, SlotId, Stage, ValueId};

use crate::binding::geometry;

/// A program with what walking it needs.
pub(crate) struct Prepared {
    /// nodes of each stage, in execution order
    pub(crate) stages: [Vec<usize>; 3],
    /// step values that nobody reads after this node
    pub(crate) release: Vec<Vec<ValueId>>,
    /// index tables of dense convolutions
    pub(crate) tables: Vec<Option<ConvTable>>,
    /// slots whose edited value this node's operands hold
    pub(crate) remembered: Vec<Vec<(SlotId, ValueId)>>,
    /// slots that an edit leaves as they are
    pub(crate) untouched: Vec<SlotId>,
    /// step values that nobody but the recording reads, with the slots that hold them
    pub(crate) recorded_only: HashMap<ValueId, Vec<SlotId>>,
    /// values of earlier stages that later ones read
    pub(crate) kept: HashSet<ValueId>,
}

impl Prepared {
    pub(crate) fn new(plan: &Plan, kind: ProgramKind, program: &Program) -> Self {
        let remembered = match kind {
            ProgramKind::Edit => remembered(program),
            _ => vec![Vec::new(); program.nodes.len()],
        };
        let touched: HashSet<SlotId> = remembered.iter().flatten().map(|(slot, _)| *slot).collect();
        // an edit makes no maps: those of its base belong to other words
        let maps: HashSet<SlotId> = plan.map_slots().map(|(slot, _)| slot).collect();
        let all = (0..plan.slots.len() as u32)
            .map(SlotId)
            .filter(|slot| !maps.contains(slot));
        Prepared {
            stages: [Stage::Timestep, Stage::Prompt, Stage::Step].map(|stage| of_stage(program, stage)),
            release: last_uses(program),
            tables: program
                .nodes
                .iter()
                .map(|node| dense_table(program, &node.kernel))
                .collect(),
            remembered,
            untouched: all
                .filter(|slot| kind == ProgramKind::Edit && !touched.contains(slot))
                .collect(),
            recorded_only: recorded_only(program),
            kept: read_later(program),
        }
    }

    /// A network beside the denoiser: nothing is recorded, nothing is computed earlier. Its tables are made on the device.
    pub(crate) fn network(program: &Program) -> Self {
        Prepared {
            stages: [Stage::Timestep, Stage::Prompt, Stage::Step].map(|stage| of_stage(program, stage)),
            release: Vec::new(),
            tables: Vec::new(),
            remembered: vec![Vec::new(); program.nodes.len()],
            untouched: Vec::new(),
            recorded_only: HashMap::new(),
            kept: read_later(program),
        }
    }

    pub(crate) fn stage(&self, stage: Stage) -> &[usize] {
        &self.stages[stage as usize]
    }
}

fn of_stage(program: &Program, stage: Stage) -> Vec<usize> {
    let nodes = program.nodes.iter().enumerate();
    nodes
        .filter(|(_, node)| node.stage == stage)
        .map(|(index, _)| index)
        .collect()
}

fn last_uses(program: &Program) -> Vec<Vec<ValueId>> {
    let outputs: HashSet<ValueId> = program.outputs.values().copied().collect();
    let mut seen = outputs;
    let mut release = vec![Vec::new(); program.nodes.len()];
    for (index, node) in program.nodes.iter().enumerate().rev() {
        if node.stage != Stage::Step {
            continue;
        }
        for value in node.kernel.inputs().into_iter().chain(node.kernel.outputs()) {
            if program.values[value.index()].stage == Stage::Step && seen.insert(value) {
                release[index].push(value);
            }
        }
    }
    release
}

fn recorded_only(program: &Program) -> HashMap<ValueId, Vec<SlotId>> {
    let mut only: HashMap<ValueId, Vec<SlotId>> = HashMap::new();
    let mut read: HashSet<ValueId> = program.outputs.values().copied().collect();
    for node in program.nodes.iter().filter(|node| node.stage == Stage::Step) {
        match node.kernel {
            Kernel::WriteSlot { input, slot } => only.entry(input).or_default().push(slot),
            _ => read.extend(node.kernel.inputs()),
        }
    }
    only.retain(|value, _| !read.contains(value));
    only
}

fn read_later(program: &Program) -> HashSet<ValueId> {
    let mut kept: HashSet<ValueId> = program.outputs.values().copied().collect();
    for node in &program.nodes {
        let inputs = node.kernel.inputs().into_iter();
        kept.extend(inputs.filter(|value| program.values[value.index()].stage < node.stage));
    }
    kept
}

fn dense_table(program: &Program, kernel: &Kernel) -> Option<ConvTable> {
    let Kernel::Conv(conv) = kernel else { return None };
    (program.values[conv.output.index()].extent == Extent::Full).then(|| ConvTable::dense(&geometry(conv)))
}

/// For every slot the first node at which its edited value is known.
fn remembered(program: &Program) -> Vec<Vec<(SlotId, ValueId)>> {
    let mut seen = HashSet::new();
    let is_active = |value: &ValueId| program.values[value.index()].extent != Extent::Full;
    let nodes = program.nodes.iter().map(|node| {
        let mut pairs = slot_values(&node.kernel);
        if let Kernel::GroupNormStatsUpdate(update) = &node.kernel {
            pairs.push((update.recorded_stats, update.output));
        } else {
            pairs.retain(|(_, value)| is_active(value));
        }
        pairs.retain(|(slot, _)| seen.insert(*slot));
        pairs
    });
    before_repeats(program, nodes.collect())
}

/// Of a value that is one image repeated, that image, where it is repeated: the slot holds it once.
fn before_repeats(program: &Program, mut remembered: Vec<Vec<(SlotId, ValueId)>>) -> Vec<Vec<(SlotId, ValueId)>> {
    for (index, node) in program.nodes.iter().enumerate() {
        let Kernel::Repeat { input, output } = node.kernel else {
            continue;
        };
        for at in index + 1..remembered.len() {
            let images = remembered[at].extract_if(.., |(_, value)| *value == output);
            let images: Vec<_> = images.map(|(slot, _)| (slot, input)).collect();
            remembered[index].extend(images);
        }
    }
    remembered
}

/// Active values that a call merges with a slot.
fn slot_values(kernel: &Kernel) -> Vec<(SlotId, ValueId)> {
    match kernel {
        Kernel::Conv(conv) => {
            let sources = conv.sources.iter();
            sources
                .filter_map(|source| Some((source.outside?, source.value)))
                .collect()
        }
        Kernel::Attention(attention) => {
            let keys = attention.k_outside.map(|slot| (slot, attention.k));
            let values = attention.v_outside.map(|slot| (slot, attention.v));
            keys.into_iter().chain(values).collect()
        }
        Kernel::GroupNormStats { input, .. } => input.outside.map(|slot| (slot, input.value)).into_iter().collect(),
        Kernel::GroupNormStatsUpdate(update) => vec![(update.recorded, update.input)],
        Kernel::Scatter {
            rows, base: Some(slot), ..
        } => vec![(*slot, *rows)],
        _ => Vec::new(),
    }
}
