//! Recorded activations in memory: for measurements and for images that are not kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use fisec_plan::{Slot, SlotId};
use fisec_tensor::HostTensor;

use super::SlotLayout;
use super::writer::encode;
use crate::{RuntimeError, SlotSink, SlotSource};

/// All slots of one image in memory, in the types and shapes of the plan's slots.
///
/// A device that has recorded into it may keep the values: what is [put](SlotSink::put) by hand goes into a cache of its
/// own.
#[derive(Debug)]
pub struct MemoryCache {
    name: String,
    slots: Vec<SlotLayout>,
    values: HashMap<(usize, SlotId), HostTensor>,
}

/// Names that no two caches of a process share.
fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("memory-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl MemoryCache {
    /// An empty cache for a plan's slots.
    pub fn new(slots: &[Slot]) -> Self {
        MemoryCache {
            name: unique_name(),
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
    fn recording(&self) -> Option<&str> {
        Some(&self.name)
    }

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
    fn recording(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        let layout = SlotLayout::of(&self.slots, slot, &value)?;
        let data = encode(&value, layout.dtype);
        let value = HostTensor::new(layout.dtype, layout.shape.clone(), data)?;
        self.values.insert((step, slot), value);
        Ok(())
    }
}
