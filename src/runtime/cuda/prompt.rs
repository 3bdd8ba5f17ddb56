//! The values that depend on the prompt only, computed by the device: keys and values of the text, for all programs.

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cuda::{Address, Count, Launch, MoveJob, MoveParams, Rows, move_rows};
use fisec_plan::cuda::padded;
use fisec_plan::{Kernel, Plan, ProgramKind, PromptProgram, Stage, ValueId};
use fisec_tensor::HostTensor;

use super::assemble::Boxes;
use super::captured::Captured;
use super::dense::Dense;
use super::driver::{Buffer, Device, Functions};
use super::early::EarlyValues;
use super::islands::Islands;
use super::network::Shared;
use super::slots::{half_rows, half_rows_bytes};
use crate::RuntimeError;

/// The prompt's program with its memory.
pub(super) struct Prompt {
    dense: Dense,
    /// brings every output to its places in the block of prompt values
    deliver: Launch,
    functions: Arc<Functions>,
    _jobs: Buffer,
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
        let sample = &program.values[program.inputs["sample"].index()];
        let dense = Dense::capture(shared, program, half_rows_bytes(&sample.shape), &Boxes::default())?;
        let moves: Vec<MoveJob> = places
            .iter()
            .map(|&(id, offset)| {
                let shape = &program.values[id.index()].shape;
                job(&dense.captured, id, shape, block + offset as u64)
            })
            .collect::<Result<_, _>>()?;
        let vectors = moves.iter().map(|job| (job.images * job.channels) as usize).max();
        let tokens = sample.shape.get(1).copied().unwrap_or(1);
        let jobs = device.upload(bytemuck::cast_slice(&moves))?;
        let params = MoveParams {
            jobs: jobs.address(),
            slots: dense.table(),
        };
        Ok(Some(Prompt {
            dense,
            deliver: move_rows(&params, moves.len(), vectors.unwrap_or(0) * tokens / 8),
            functions: Arc::clone(&shared.functions),
            _jobs: jobs,
            device: Arc::clone(device),
        }))
    }

    /// Fills the block for a text embedding, in the order of the stream.
    pub(super) fn run(&mut self, plan: &Plan, islands: &mut Islands, context: &HostTensor) -> Result<(), RuntimeError> {
        self.dense.write_input(&half_rows(context))?;
        // SAFETY: all buffers that the graph and the launch name are fields of `self`, but for the block of prompt values,
        // which lives as long as the engine that holds `self`.
        unsafe {
            self.dense.captured.run(islands, plan, &|rows| rows.address.base)?;
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
