//! The values that depend on the prompt only, computed by the device: keys and values of the text, for all programs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fisec_kernels::cuda::{Address, Count, Launch, MoveJob, MoveParams, Rows, move_rows};
use fisec_plan::cuda::padded;
use fisec_plan::{Kernel, Plan, ProgramKind, PromptProgram, Stage, ValueId};
use fisec_tensor::HostTensor;

use super::assemble::{Context, measure, table};
use super::captured::Captured;
use super::driver::{Buffer, Device, Functions};
use super::early::EarlyValues;
use super::folded::FoldedNorms;
use super::network::Shared;
use super::slots::{SlotBlock, half_rows, half_rows_bytes};
use super::weights::Weights;
use crate::RuntimeError;
use crate::executor::{HostStages, Prepared};

/// The prompt's program with its memory.
pub(super) struct Prompt {
    // graphs go before the memory that they use
    captured: Captured,
    /// brings every output to its places in the block of prompt values
    deliver: Launch,
    functions: Arc<Functions>,
    _jobs: Buffer,
    _weights: Weights,
    _values: Buffer,
    _table: Buffer,
    input: Buffer,
    device: Arc<Device>,
}

impl Prompt {
    /// `None` when the plan leaves the prompt to the host, or when the program does not give all of `values`, which lie at
    /// `block`.
    pub(super) fn open(shared: &Shared, values: &EarlyValues, block: u64) -> Result<Option<Self>, RuntimeError> {
        let (bundle, device) = (&shared.bundle, &shared.device);
        let plan = bundle.plan();
        let Some(prompt) = &plan.prompt else { return Ok(None) };
        let Some(places) = places(plan, prompt, values) else {
            return Ok(None);
        };
        let program = &prompt.program;
        let weights = Weights::upload(
            device,
            &shared.functions,
            bundle,
            program.nodes.iter(),
            &BTreeMap::new(),
        )?;
        let table = device.upload(&[0; table::ENTRIES * size_of::<u64>()])?;
        let sample = &program.values[program.inputs["sample"].index()];
        let input = device.allocate(half_rows_bytes(&sample.shape))?;
        let context = Context {
            plan,
            program,
            prepared: &Prepared::network(program),
            gpu: shared.gpu,
            levels: &[],
            weights: &weights.addresses,
            folded: &weights.folded,
            norms: &FoldedNorms::default(),
            early: &HashMap::new(),
            slots: &SlotBlock::new(plan),
            table: table.address(),
            sample: input.address(),
            control: &HashMap::new(),
            remember: false,
            maps: false,
        };
        let measured = measure(&context)?;
        let rows = device.allocate(measured.bytes)?;
        let captured = Captured::new(device, &shared.functions, &context, None, &measured, rows.address())?;
        let moves: Vec<MoveJob> = places
            .iter()
            .map(|&(id, offset)| {
                let shape = &program.values[id.index()].shape;
                job(&captured, id, shape, block + offset as u64)
            })
            .collect::<Result<_, _>>()?;
        let vectors = moves.iter().map(|job| (job.images * job.channels) as usize).max();
        let tokens = sample.shape.get(1).copied().unwrap_or(1);
        let jobs = device.upload(bytemuck::cast_slice(&moves))?;
        let params = MoveParams {
            jobs: jobs.address(),
            slots: table.address(),
        };
        Ok(Some(Prompt {
            captured,
            deliver: move_rows(&params, moves.len(), vectors.unwrap_or(0) * tokens / 8),
            functions: Arc::clone(&shared.functions),
            _jobs: jobs,
            _weights: weights,
            _values: rows,
            _table: table,
            input,
            device: Arc::clone(device),
        }))
    }

    /// Fills the block for a text embedding, in the order of the stream.
    pub(super) fn run(&mut self, plan: &Plan, host: &mut HostStages, context: &HostTensor) -> Result<(), RuntimeError> {
        self.input.write(0, &half_rows(context))?;
        // SAFETY: all buffers that the graph and the launch name are fields of `self`, but for the block of prompt values,
        // which lives as long as the engine that holds `self`.
        unsafe {
            self.captured.run(&self.device, host, plan, &|rows| rows.address.base)?;
            self.device.launch(&self.functions, &self.deliver)
        }
    }
}

/// Which output goes where: bytes into the block. `None` when a value comes from elsewhere.
fn places(plan: &Plan, prompt: &PromptProgram, values: &EarlyValues) -> Option<Vec<(ValueId, usize)>> {
    let mut known: HashMap<(ProgramKind, ValueId), ValueId> = HashMap::new();
    for (kind, program) in plan.programs.iter() {
        for node in program.nodes.iter().filter(|node| node.stage == Stage::Prompt) {
            let Kernel::Island(call) = &node.kernel else {
                return None;
            };
            if call.island != prompt.island {
                return None;
            }
            let outputs = call.outputs.iter().zip(&prompt.outputs);
            known.extend(outputs.map(|(&value, &output)| ((kind, value), output)));
        }
    }
    values
        .places()
        .map(|(place, offset)| Some((*known.get(place)?, offset)))
        .collect()
}

fn job(captured: &Captured, id: ValueId, shape: &[usize], to: u64) -> Result<MoveJob, RuntimeError> {
    let missing = || RuntimeError::plan("prompt", "an output is not computed");
    let from = captured.output(id).ok_or_else(missing)?;
    let &[images, tokens, channels] = shape else {
        return Err(RuntimeError::plan("prompt", "an output is no sequence of tokens"));
    };
    Ok(MoveJob {
        source: from.address,
        output: Address::at(to),
        source_rows: Rows::PACKED,
        output_rows: Rows::PACKED,
        rows: Count::fixed(tokens),
        images: images as i32,
        channels: padded(channels) as i32,
        source_stride: from.stride as i32,
        output_stride: padded(channels) as i32,
        ..MoveJob::default()
    })
}
