//! Recorded activations in memory: for measurements and for images that are not kept.

use std::collections::HashMap;

use fisec_plan::{Slot, SlotId};
use fisec_tensor::HostTensor;

use super::SlotLayout;
use super::writer::encode;
use crate::{RuntimeError, SlotSink, SlotSource};

/// All slots of one image in memory, in the types and shapes of the plan's slots.
#[derive(Clone, Debug, Default)]
pub struct MemoryCache {
    slots: Vec<SlotLayout>,
    values: HashMap<(usize, SlotId), HostTensor>,
}

impl MemoryCache {
    /// An empty cache for a plan's slots.
    pub fn new(slots: &[Slot]) -> Self {
        MemoryCache {
            slots: slots.iter().map(SlotLayout::from).collect(),
            values: HashMap::new(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.values.values().map(|value| value.data().len() as u64).sum()
    }
}

impl SlotSource for MemoryCache {
    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        self.values.get(&(step, slot)).cloned().ok_or_else(|| {
            let layout = self.slots.get(slot.index());
            RuntimeError::MissingSlot {
                slot: layout.map_or_else(|| format!("{}", slot.0), |layout| layout.name.clone()),
                step,
            }
        })
    }
}

impl SlotSink for MemoryCache {
    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        let layout = SlotLayout::of(&self.slots, slot, &value)?;
        let data = encode(&value, layout.dtype);
        let value = HostTensor::new(layout.dtype, layout.shape.clone(), data)?;
        self.values.insert((step, slot), value);
        Ok(())
    }
}
