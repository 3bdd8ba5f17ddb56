//! Values that do not change from step to step: computed on the host, kept on the device.

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cuda::Address;
use fisec_plan::{Kernel, Plan, ProgramKind, Stage, ValueId};
use fisec_tensor::HostTensor;

use super::assemble::table;
use super::driver::{Buffer, Device};
use super::slots::{half_rows_bytes, island_rows};
use crate::RuntimeError;
use crate::executor::{HostStages, Prepared};

/// Values begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Values of one stage that steps read, of all programs, in one block: once per prompt, or once per timestep.
pub(super) struct EarlyValues {
    stage: Stage,
    places: HashMap<(ProgramKind, ValueId), usize>,
    bytes: usize,
}

impl EarlyValues {
    pub(super) fn new(plan: &Plan, prepared: &HashMap<ProgramKind, Prepared>, stage: Stage) -> Self {
        let mut places = HashMap::new();
        let mut bytes = 0;
        for (kind, program) in plan.programs.iter() {
            let mut kept: Vec<ValueId> = prepared[&kind].kept.iter().copied().collect();
            kept.sort();
            for id in kept.into_iter().filter(|id| program.values[id.index()].stage == stage) {
                places.insert((kind, id), bytes);
                let size = half_rows_bytes(&program.values[id.index()].shape);
                bytes = (bytes + size).next_multiple_of(ALIGNMENT);
            }
        }
        EarlyValues { stage, places, bytes }
    }

    /// Bytes of the block.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every value with its first byte in the block.
    pub(super) fn places(&self) -> impl Iterator<Item = (&(ProgramKind, ValueId), usize)> {
        self.places.iter().map(|(place, &offset)| (place, offset))
    }

    /// Where a program finds its values, the block of a prompt being at `base`.
    pub(super) fn addresses(&self, kind: ProgramKind, base: u64) -> HashMap<ValueId, Address> {
        let own = self.places.iter().filter(|((of, _), _)| *of == kind);
        own.map(|((_, id), &offset)| {
            let address = match self.stage {
                Stage::Timestep => Address::in_slot(table::TIMESTEP, offset as u64),
                _ => Address::at(base + offset as u64),
            };
            (*id, address)
        })
        .collect()
    }

    /// Computes the block for one input. Programs with the same islands share them.
    pub(super) fn compute(
        &self,
        host: &mut HostStages,
        plan: &Plan,
        prepared: &HashMap<ProgramKind, Prepared>,
        input: &EarlyInput<'_>,
    ) -> Result<Vec<u8>, RuntimeError> {
        let mut block = vec![0u8; self.bytes];
        let mut known: Vec<(ProgramKind, HashMap<ValueId, HostTensor>)> = Vec::new();
        for (kind, _) in plan.programs.iter() {
            let twin = known.iter().find_map(|(other, values)| {
                let same = self.same_values(plan, *other, kind)?;
                let own = same
                    .into_iter()
                    .filter_map(|(theirs, ours)| Some((ours, values.get(&theirs)?.clone())));
                Some(own.collect::<HashMap<_, _>>())
            });
            let values = match twin {
                Some(values) => values,
                None => host.run(plan, kind, &prepared[&kind], input)?,
            };
            for (id, value) in &values {
                let Some(&offset) = self.places.get(&(kind, *id)) else {
                    continue;
                };
                let bytes = island_rows(value)?;
                block[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            known.push((kind, values));
        }
        Ok(block)
    }

    /// Pairs of values of two programs that are equal, when both compute this stage with the same islands.
    fn same_values(&self, plan: &Plan, a: ProgramKind, b: ProgramKind) -> Option<Vec<(ValueId, ValueId)>> {
        let calls = |kind| {
            let nodes = plan
                .programs
                .get(kind)?
                .nodes
                .iter()
                .filter(|node| node.stage == self.stage);
            let islands = nodes.map(|node| match &node.kernel {
                Kernel::Island(call) => Some(call),
                _ => None,
            });
            islands.collect::<Option<Vec<_>>>()
        };
        let (a, b) = (calls(a)?, calls(b)?);
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.island == b.island);
        // more than one island may read the others' values: only one that reads the input alone is sure to be the same
        (same && a.len() <= 1).then(|| {
            let outputs = a
                .into_iter()
                .zip(b)
                .flat_map(|(a, b)| a.outputs.iter().copied().zip(b.outputs.iter().copied()));
            outputs.collect()
        })
    }
}

/// What an early stage is computed of.
pub(crate) enum EarlyInput<'a> {
    Timestep(f32),
    Context(&'a HostTensor),
}

/// One block per timestep of a schedule.
pub(super) struct Schedule {
    buffer: Buffer,
    pub(super) steps: usize,
    pub(super) timesteps: Vec<f32>,
    stride: usize,
}

impl Schedule {
    pub(super) fn upload(
        device: &Arc<Device>,
        timesteps: &[f32],
        blocks: &[Vec<u8>],
        stride: usize,
    ) -> Result<Self, RuntimeError> {
        Ok(Schedule {
            buffer: device.upload(&blocks.concat())?,
            steps: blocks.len(),
            timesteps: timesteps.to_vec(),
            stride,
        })
    }

    /// Address of a step's block.
    pub(super) fn address(&self, step: usize) -> u64 {
        self.buffer.address() + (step * self.stride) as u64
    }
}
