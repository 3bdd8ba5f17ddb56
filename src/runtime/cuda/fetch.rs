//! Slots that are not on the device, brought there while the step before computes.

use std::ops::Range;
use std::sync::Arc;

use fisec_plan::{Plan, SlotId};
use rayon::prelude::*;

use super::driver::{Buffer, Copies, Device, Event, Pinned};
use super::slots::{SlotBlock, stored};
use crate::executor::recorded;
use crate::{RuntimeError, SlotSource};

/// What an edit reads of a step's block, packed one part behind the other.
pub(super) struct Wanted {
    parts: Vec<(SlotId, Vec<Range<usize>>)>,
    bytes: usize,
}

impl Wanted {
    /// These parts of these slots.
    pub(super) fn new(parts: Vec<(SlotId, Vec<Range<usize>>)>) -> Self {
        let bytes = parts.iter().flat_map(|(_, ranges)| ranges).map(Range::len).sum();
        Wanted { parts, bytes }
    }

    /// Bytes that a step takes over the bus.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Two blocks on the device, filled in turn, with the memory that the parts pass through.
pub(super) struct Fetch {
    copies: Copies,
    lanes: [Lane; 2],
}

struct Lane {
    pinned: Pinned,
    block: Buffer,
    /// the parts have arrived
    filled: Event,
    /// the step that reads them is over
    used: Event,
}

impl Fetch {
    /// For blocks of `block_bytes` of which `part_bytes` are fetched.
    pub(super) fn new(device: &Arc<Device>, block_bytes: usize, part_bytes: usize) -> Result<Self, RuntimeError> {
        let lane = || -> Result<Lane, RuntimeError> {
            Ok(Lane {
                pinned: Pinned::new(device, part_bytes)?,
                block: device.allocate(block_bytes)?,
                filled: Event::new(device)?,
                used: Event::new(device)?,
            })
        };
        Ok(Fetch {
            copies: Copies::new(device)?,
            lanes: [lane()?, lane()?],
        })
    }

    /// Whether it has room for so many bytes of parts.
    pub(super) fn holds(&self, part_bytes: usize) -> bool {
        self.lanes[0].pinned.bytes().len() >= part_bytes
    }

    /// The block of the `index`-th step of a run.
    pub(super) fn address(&self, index: usize) -> u64 {
        self.lanes[index % 2].block.address()
    }

    /// Begins to fill the block of the `index`-th step of a run with what `source` recorded at `step`. Returns when the
    /// copies are on their way.
    pub(super) fn begin(
        &mut self,
        (index, step): (usize, usize),
        source: &dyn SlotSource,
        wanted: &Wanted,
        (plan, slots): (&Plan, &SlotBlock),
    ) -> Result<(), RuntimeError> {
        let lane = &mut self.lanes[index % 2];
        // the memory is still being read for the step before last, the block by that step
        lane.filled.synchronize()?;
        self.copies.wait(&lane.used)?;
        pack(lane.pinned.bytes_mut(), step, source, wanted, (plan, slots))?;
        let mut first = 0;
        for range in wanted.parts.iter().flat_map(|(_, ranges)| ranges) {
            let to = lane.block.address() + range.start as u64;
            // SAFETY: the range lies in the block; block and memory are left alone until `filled` and `used` say so.
            unsafe { self.copies.upload(to, &lane.pinned, first..first + range.len())? };
            first += range.len();
        }
        self.copies.mark(&lane.filled)
    }

    /// Makes the main stream wait for the block of the `index`-th step.
    pub(super) fn arrive(&self, device: &Device, index: usize) -> Result<(), RuntimeError> {
        device.wait(&self.lanes[index % 2].filled)
    }

    /// Says that what is on the main stream so far is all that reads the block of the `index`-th step.
    pub(super) fn release(&self, index: usize) -> Result<(), RuntimeError> {
        self.lanes[index % 2].used.record()
    }
}

/// Copies the wanted parts out of the recording, slot by slot in parallel.
fn pack(
    mut memory: &mut [u8],
    step: usize,
    source: &dyn SlotSource,
    wanted: &Wanted,
    (plan, slots): (&Plan, &SlotBlock),
) -> Result<(), RuntimeError> {
    let mut jobs = Vec::with_capacity(wanted.parts.len());
    for (slot, ranges) in &wanted.parts {
        let (mine, rest) = memory.split_at_mut(ranges.iter().map(Range::len).sum());
        jobs.push((*slot, ranges, mine));
        memory = rest;
    }
    jobs.into_par_iter().try_for_each(|(slot, ranges, mut target)| {
        let value = recorded(plan, source, step, slot)?;
        let bytes = stored(&plan.slots[slot.index()], &value);
        let start = slots.offset(slot) as usize;
        for range in ranges {
            let (part, rest) = target.split_at_mut(range.len());
            part.copy_from_slice(&bytes[range.start - start..range.end - start]);
            target = rest;
        }
        Ok(())
    })
}
