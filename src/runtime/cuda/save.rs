//! Slots that an edit has written, given to a sink while the next step computes.

use std::sync::Arc;

use fisec_plan::{Plan, SlotId};

use super::driver::{Buffer, Copies, Device, Event, Pinned};
use super::slots::SlotBlock;
use crate::{RuntimeError, SlotSink};

/// Two blocks on the device, for steps that no recording keeps there, and memory that values pass through.
pub(super) struct Save {
    copies: Copies,
    lanes: [Lane; 2],
}

struct Lane {
    pinned: Pinned,
    block: Option<Buffer>,
    /// the step has computed
    computed: Event,
    /// its slots are in memory
    arrived: Event,
    /// what is on its way: step, first byte, slots
    pending: Option<(usize, usize, Vec<SlotId>)>,
}

impl Save {
    pub(super) fn new(device: &Arc<Device>, block_bytes: usize) -> Result<Self, RuntimeError> {
        let lane = || -> Result<Lane, RuntimeError> {
            Ok(Lane {
                pinned: Pinned::new(device, block_bytes)?,
                block: None,
                computed: Event::new(device)?,
                arrived: Event::new(device)?,
                pending: None,
            })
        };
        Ok(Save {
            copies: Copies::new(device)?,
            lanes: [lane()?, lane()?],
        })
    }

    /// Forgets what is on its way: a run that broke off has no use for it.
    pub(super) fn forget(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.pending = None);
    }

    /// A block for the `index`-th step of a run.
    pub(super) fn block(
        &mut self,
        device: &Arc<Device>,
        index: usize,
        block_bytes: usize,
    ) -> Result<u64, RuntimeError> {
        let lane = &mut self.lanes[index % 2];
        if lane.block.is_none() {
            lane.block = Some(device.allocate(block_bytes)?);
        }
        Ok(lane.block.as_ref().expect("made above").address())
    }

    /// Begins to fetch what `sink` wants of a block that the main stream's work so far has written for `step`, the
    /// `index`-th of a run, and gives it what came of the step before.
    pub(super) fn begin(
        &mut self,
        (index, step): (usize, usize),
        address: u64,
        sink: &mut dyn SlotSink,
        slots: &SlotBlock,
        plan: &Plan,
    ) -> Result<(), RuntimeError> {
        let all = (0..plan.slots.len() as u32).map(SlotId);
        let maps: Vec<SlotId> = plan.map_slots().map(|(slot, _)| slot).collect();
        let wanted: Vec<SlotId> = all
            .filter(|slot| !maps.contains(slot) && sink.wants(step, *slot) && sink.wants_value(step, *slot))
            .collect();
        let range = slots.range(plan, &wanted);
        let lane = &mut self.lanes[index % 2];
        lane.computed.record()?;
        self.copies.wait(&lane.computed)?;
        if !range.is_empty() {
            let from = address + range.start as u64;
            // SAFETY: a part of a block of slots; block and memory are left alone until `finish`.
            unsafe { self.copies.download(&mut lane.pinned, from, range.len())? };
        }
        self.copies.mark(&lane.arrived)?;
        lane.pending = Some((step, range.start, wanted));
        self.finish(index + 1, sink, slots, plan)
    }

    /// Gives the sink what is on its way for the `index`-th step.
    pub(super) fn finish(
        &mut self,
        index: usize,
        sink: &mut dyn SlotSink,
        slots: &SlotBlock,
        plan: &Plan,
    ) -> Result<(), RuntimeError> {
        let lane = &mut self.lanes[index % 2];
        let Some((step, first, wanted)) = lane.pending.take() else {
            return Ok(());
        };
        lane.arrived.synchronize()?;
        for slot in wanted {
            sink.put(step, slot, slots.take(plan, slot, lane.pinned.bytes(), first)?)?;
        }
        Ok(())
    }
}
