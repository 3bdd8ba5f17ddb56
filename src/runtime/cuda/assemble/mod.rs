//! A program as launches: every address, grid and variant decided, for all masks of one bucket.
//!
//! Assembling runs twice over a program: once to learn how long every value lives and which lists it needs, and once
//! with the addresses that follow.

mod attention;
mod control;
mod gathered;
mod norms;
mod parity;
mod products;
mod rows;
mod sources;
mod text;
mod values;
mod whole;

use std::collections::{HashMap, HashSet};

use fisec_kernels::cuda::{Address, Count, Gpu, Launch, MoveJob};
use fisec_plan::{Extent, IslandCall, Kernel, Node, Plan, Program, SlotId, SlotKind, Stage, ValueId, WeightId};
use fisec_tensor::ActiveSet;

use super::folded::FoldedNorms;
use super::lists::{Contents, List, Lists};
use super::memory::{self, Lifetime};
use super::slots::SlotBlock;
use super::weights::FoldedWeight;
use crate::RuntimeError;
use crate::executor::Prepared;
use gathered::Gathering;

/// Entries of a step's table.
pub(super) mod table {
    /// slots that are read
    pub(crate) const READ: usize = 0;
    /// slots that are written
    pub(crate) const WRITTEN: usize = 1;
    /// values that depend on the timestep only
    pub(crate) const TIMESTEP: usize = 2;
    /// entries
    pub(crate) const ENTRIES: usize = 3;
}

/// A place no kernel reads from while lengths are measured.
const UNKNOWN: u64 = 1 << 40;

/// What a program is assembled from.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) program: &'a Program,
    pub(super) prepared: &'a Prepared,
    pub(super) gpu: Gpu,
    /// active sets of the mask that the bucket is made for; those of a whole map in dense programs
    pub(super) levels: &'a [ActiveSet],
    /// device address of every weight
    pub(super) weights: &'a HashMap<WeightId, u64>,
    /// what stands beside weights that hold a layer norm
    pub(super) folded: &'a HashMap<WeightId, FoldedWeight>,
    /// the program's layer norms that weights hold
    pub(super) norms: &'a FoldedNorms,
    /// values of earlier stages
    pub(super) early: &'a HashMap<ValueId, Address>,
    pub(super) slots: &'a SlotBlock,
    /// the step's table
    pub(super) table: u64,
    /// the step's input
    pub(super) sample: u64,
    /// the tables of control, one behind the other
    pub(super) control: &'a HashMap<ValueId, Address>,
    /// also write the slots of the edited image
    pub(super) remember: bool,
    /// also record cross-attention maps
    pub(super) maps: bool,
    pub(super) boxes: &'a Boxes,
}

/// What a program over boxes reads, and what the whole one leaves for it.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    /// maps that are cut out of another: the level whose active pixels they are
    pub(super) windows: HashMap<ValueId, u32>,
    /// coefficients that are given
    pub(super) given: HashMap<ValueId, Address>,
    /// where coefficients are left
    pub(super) kept: HashMap<ValueId, Address>,
}

/// Blocks of memory that a program uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) values: u64,
    pub(super) lists: u64,
    pub(super) jobs: u64,
}

/// A program as launches.
pub(super) struct Assembled {
    pub(super) items: Vec<Item>,
    pub(super) jobs: Vec<MoveJob>,
    pub(super) lists: Lists,
    /// bytes of the block of values
    pub(super) bytes: usize,
    pub(super) prediction: Prediction,
    /// rows of the program's outputs
    pub(super) outputs: HashMap<ValueId, Rowed>,
    offsets: Vec<usize>,
}

/// What a program does, in order.
pub(super) enum Item {
    /// a kernel of a node
    Launch(usize, Launch),
    /// zeros at an address, for a node
    Zero(usize, u64, usize),
    /// a node in ONNX Runtime, with the addresses of its inputs and of the outputs at these ports
    Island(usize, Vec<Rowed>, Vec<(usize, Rowed)>),
}

/// f16 rows of padded channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rowed {
    pub(super) address: Address,
    /// elements from row to row
    pub(super) stride: usize,
}

/// Where the result is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Prediction {
    pub(super) rows: Rowed,
    pub(super) extent: Extent,
}

/// How a value exists.
#[derive(Clone, Debug)]
enum Held {
    /// f16 rows
    Rows(Rowed),
    /// f32 statistics or coefficients
    Floats(Address),
    /// its parts one after another along channels: it need not exist itself
    Concat(Vec<ValueId>),
    /// this one image for all: it need not exist itself
    Repeated(ValueId),
    /// the sums of this node, computed by whoever needs them
    Sums(usize),
    /// the coefficients of this node, computed by whoever applies them
    Norm(usize),
}

/// How many rows of an image there are: now, and at most.
#[derive(Clone, Copy, Debug)]
struct Live {
    count: Count,
    most: usize,
}

/// Learns sizes, without any memory.
pub(super) fn measure(context: &Context<'_>) -> Result<Assembled, RuntimeError> {
    let blocks = Blocks {
        values: UNKNOWN,
        lists: UNKNOWN,
        jobs: UNKNOWN,
    };
    let mut assembler = Assembler::new(context, blocks, None);
    let prediction = assembler.run()?;
    let (offsets, bytes) = memory::place(&assembler.lifetimes);
    Ok(assembler.finish(prediction, offsets, bytes))
}

/// The program in the given blocks, which are as large as `measured` says.
pub(super) fn assemble(context: &Context<'_>, measured: &Assembled, blocks: Blocks) -> Result<Assembled, RuntimeError> {
    let mut assembler = Assembler::new(context, blocks, Some(&measured.offsets));
    let prediction = assembler.run()?;
    Ok(assembler.finish(prediction, measured.offsets.clone(), measured.bytes))
}

struct Assembler<'a> {
    context: &'a Context<'a>,
    blocks: Blocks,
    offsets: Option<&'a [usize]>,
    contents: Contents<'a>,
    lists: Lists,
    lifetimes: Vec<Lifetime>,
    jobs: Vec<MoveJob>,
    items: Vec<Item>,
    values: HashMap<ValueId, Held>,
    /// the slot that a value is written to where it is computed
    recorded: HashMap<ValueId, SlotId>,
    last_use: HashMap<ValueId, usize>,
    gathering: Gathering,
    /// nodes whose coefficients are computed by whoever applies them
    whole_norms: HashSet<usize>,
    /// mean and deviation of the rows of values that a folded norm reads
    row_parts: HashMap<ValueId, u64>,
    node: usize,
}

impl<'a> Assembler<'a> {
    fn new(context: &'a Context<'a>, blocks: Blocks, offsets: Option<&'a [usize]>) -> Self {
        let mut recorded = HashMap::new();
        for node in &context.program.nodes {
            if let Kernel::WriteSlot { input, slot } = node.kernel {
                recorded.entry(input).or_insert(slot);
            }
        }
        Assembler {
            context,
            blocks,
            offsets,
            contents: Contents::new(context.levels),
            lists: Lists::default(),
            lifetimes: Vec::new(),
            jobs: Vec::new(),
            items: Vec::new(),
            values: HashMap::new(),
            recorded,
            last_use: last_uses(context.program),
            gathering: Gathering::new(context),
            whole_norms: whole::whole_norms(context),
            row_parts: HashMap::new(),
            node: 0,
        }
    }

    fn run(&mut self) -> Result<Prediction, RuntimeError> {
        let program = self.context.program;
        for (&id, &address) in self.context.early.iter().chain(self.context.control) {
            let stride = self.stride(id);
            self.values.insert(id, Held::Rows(Rowed { address, stride }));
        }
        let sample = program.inputs["sample"];
        let rows = Rowed {
            address: Address::at(self.context.sample),
            stride: self.stride(sample),
        };
        self.values.insert(sample, Held::Rows(rows));
        let given = self.context.boxes.given.iter();
        self.values
            .extend(given.map(|(&id, &address)| (id, Held::Floats(address))));
        // in front of all others: what another place of the box changes is one part
        for level in 0..self.context.boxes.windows.len() as u32 {
            self.list(List::Active(level));
        }
        self.fetch_rings();
        let mut prediction = (program.outputs["prediction"], None);
        for (index, node) in program
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.stage == Stage::Step)
        {
            self.node = index;
            match node.kernel {
                // the sampler reads the active rows only: the packed ones are as good
                Kernel::Scatter {
                    rows,
                    base: None,
                    output,
                } if output == prediction.0 => {
                    prediction.1 = Some(rows);
                }
                _ => self.kernel(node)?,
            }
            self.remember()?;
        }
        let value = prediction.1.unwrap_or(prediction.0);
        Ok(Prediction {
            rows: self.rows(value)?,
            extent: program.values[value.index()].extent,
        })
    }

    fn finish(self, prediction: Prediction, offsets: Vec<usize>, bytes: usize) -> Assembled {
        let outputs = self.context.program.outputs.values();
        let outputs = outputs.filter_map(|id| match self.values.get(id) {
            Some(Held::Rows(rows)) => Some((*id, *rows)),
            _ => None,
        });
        Assembled {
            outputs: outputs.collect(),
            items: self.items,
            jobs: self.jobs,
            lists: self.lists,
            bytes,
            prediction,
            offsets,
        }
    }

    fn kernel(&mut self, node: &'a Node) -> Result<(), RuntimeError> {
        match &node.kernel {
            Kernel::Island(call) => {
                let wanted: Vec<(usize, ValueId)> = call.outputs.iter().copied().enumerate().collect();
                let wanted = wanted.into_iter().filter(|(_, id)| self.is_wanted(*id)).collect();
                self.island(call, wanted)
            }
            Kernel::Conv(conv) => self.conv(conv),
            Kernel::Linear(linear) => self.linear(linear),
            Kernel::Attention(attention) => self.attention(attention),
            Kernel::ControlledAttention(attention) => self.controlled_attention(attention),
            Kernel::AttentionMaps(maps) if self.is_wanted(maps.output) => self.attention_maps(maps),
            Kernel::AttentionMaps(_) => Ok(()),
            Kernel::LayerNorm { .. } if self.context.norms.skips(self.node) => Ok(()),
            Kernel::LayerNorm {
                input,
                gamma,
                beta,
                epsilon,
                output,
            } => {
                let source = self.rows(*input)?;
                let target = self.make_rows(*output);
                self.layer_norm(*input, source, target, (*gamma, *beta, *epsilon))
            }
            Kernel::Geglu { input, output } => self.geglu(*input, *output),
            Kernel::Silu { input, output } => self.silu(*input, *output),
            Kernel::Gelu { input, quick, output } => self.gelu(*input, *quick, *output),
            Kernel::Lookup { ids, table, output } => self.lookup(*ids, *table, *output),
            Kernel::AddConstant {
                input,
                constant,
                output,
            } => self.add_constant(*input, *constant, *output),
            Kernel::CausalAttention(attention) => self.causal_attention(attention),
            Kernel::Add { a, b, output } => self.add(*a, b.value, *output),
            Kernel::GroupNormStats { output, .. } => {
                self.values.insert(*output, Held::Sums(self.node));
                Ok(())
            }
            Kernel::GroupNormStatsUpdate(update) => {
                self.values.insert(update.output, Held::Sums(self.node));
                Ok(())
            }
            Kernel::NormCoefficients(norm) => self.norm_coefficients(norm),
            Kernel::Affine {
                input,
                coefficients,
                silu,
                output,
            } if !self.values.contains_key(output) => self.affine(*input, *coefficients, *silu, *output),
            // written by whoever computed the input
            Kernel::Affine { .. } => Ok(()),
            Kernel::Repeat { input, output } => {
                self.values.insert(*output, Held::Repeated(*input));
                Ok(())
            }
            Kernel::Concat { inputs, output } => {
                self.values.insert(*output, Held::Concat(inputs.clone()));
                Ok(())
            }
            Kernel::ReadSlot { slot, output } => {
                let address = self.slot_read(*slot);
                let held = match self.context.plan.slots[slot.index()].kind {
                    SlotKind::Stats => Held::Floats(address),
                    _ => Held::Rows(Rowed {
                        address,
                        stride: self.stride(*output),
                    }),
                };
                self.values.insert(*output, held);
                Ok(())
            }
            Kernel::WriteSlot { input, slot } if self.is_wanted(*input) => self.write_slot(*input, *slot),
            Kernel::WriteSlot { .. } => Ok(()),
            Kernel::Gather { input, output } => self.gather(*input, *output),
            Kernel::Scatter { rows, base, output } => self.scatter(*rows, *base, *output),
        }
    }

    /// Whether a value is computed: maps that nobody keeps are not.
    fn is_wanted(&self, id: ValueId) -> bool {
        let is_map = |slot: &SlotId| matches!(self.context.plan.slots[slot.index()].kind, SlotKind::Maps { .. });
        let only_recorded = self.context.prepared.recorded_only.get(&id);
        self.context.maps || !only_recorded.is_some_and(|slots| slots.iter().all(is_map))
    }

    fn island(&mut self, call: &IslandCall, wanted: Vec<(usize, ValueId)>) -> Result<(), RuntimeError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut inputs = Vec::new();
        for &id in &call.inputs {
            let mut rows = self.rows(id)?;
            if rows.stride != self.stride(id) {
                let bytes = self.most_rows(id) * self.stride(id) * 2;
                let to = Rowed {
                    address: Address::at(self.scratch(bytes)),
                    stride: self.stride(id),
                };
                let copy = self.straight(id, rows, to);
                self.moves(&[copy]);
                rows = to;
            }
            inputs.push(rows);
        }
        let outputs = wanted.into_iter().map(|(port, id)| (port, self.make_rows(id)));
        let outputs = outputs.collect();
        self.items.push(Item::Island(self.node, inputs, outputs));
        Ok(())
    }

    fn launch(&mut self, launch: Launch) {
        self.items.push(Item::Launch(self.node, launch));
    }

    fn error(&self, reason: impl Into<String>) -> RuntimeError {
        let node = self.context.program.nodes.get(self.node);
        RuntimeError::plan(node.map_or("program", |node| node.name.as_str()), reason)
    }
}

/// The last node that needs each value's memory: through concatenations and repetitions that never exist, sums that wait and layer norms
/// that weights hold.
fn last_uses(program: &Program) -> HashMap<ValueId, usize> {
    let mut makers: HashMap<ValueId, &Kernel> = HashMap::new();
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in program.nodes.iter().enumerate() {
        let mut reads = node.kernel.inputs();
        while let Some(id) = reads.pop() {
            last.insert(id, index);
            match makers.get(&id) {
                Some(Kernel::Concat { inputs, .. }) => reads.extend(inputs),
                Some(Kernel::Repeat { input, .. }) => reads.push(*input),
                Some(Kernel::GroupNormStats { input, .. }) => reads.push(input.value),
                Some(Kernel::LayerNorm { input, .. }) => reads.push(*input),
                Some(Kernel::GroupNormStatsUpdate(update)) => reads.push(update.input),
                _ => {}
            }
        }
        for id in node.kernel.outputs() {
            makers.insert(id, &node.kernel);
        }
    }
    let end = program.nodes.len();
    for &output in program.outputs.values() {
        last.insert(output, end);
        if let Some(Kernel::Scatter { rows, .. }) = makers.get(&output) {
            last.insert(*rows, end);
        }
    }
    last
}
