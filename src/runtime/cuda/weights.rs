//! Constants of the steps on the device.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fisec_plan::{Bundle, Node, Stage, WeightId};

use super::driver::{Buffer, Device};
use crate::RuntimeError;

/// Weights begin at multiples of this.
const ALIGNMENT: usize = 256;

/// All weights that native nodes read, in one buffer.
pub(super) struct Weights {
    _buffer: Buffer,
    pub(super) addresses: HashMap<WeightId, u64>,
}

impl Weights {
    /// Those of the given nodes that run at every step.
    pub(super) fn upload<'a>(
        device: &Arc<Device>,
        bundle: &Bundle,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> Result<Self, RuntimeError> {
        let plan = bundle.plan();
        let steps = nodes.filter(|node| node.stage == Stage::Step);
        let used: BTreeSet<WeightId> = steps.flat_map(|node| node.kernel.weights()).collect();
        let mut offsets = Vec::with_capacity(used.len());
        let mut bytes = 0usize;
        for id in used {
            offsets.push((id, bytes));
            bytes = (bytes + plan.weights[id.index()].bytes as usize).next_multiple_of(ALIGNMENT);
        }
        let mut buffer = device.allocate(bytes)?;
        for &(id, offset) in &offsets {
            buffer.write(offset, bundle.weight(id)?.data())?;
        }
        device.synchronize()?;
        let base = buffer.address();
        let addresses = offsets.into_iter().map(|(id, offset)| (id, base + offset as u64));
        Ok(Weights {
            addresses: addresses.collect(),
            _buffer: buffer,
        })
    }
}
