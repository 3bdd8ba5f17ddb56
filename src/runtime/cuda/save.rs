//! Slots that a step has written, given to a sink: while the next one computes, where it may be a step behind.

use std::sync::Arc;

use fisec_plan::{Plan, SlotId};
use fisec_tensor::HostTensor;
use rayon::prelude::*;

use super::driver::{Buffer, Copies, Device, Event, Pinned};
use super::slots::SlotBlock;
use crate::{RuntimeError, SlotSink};

/// Two blocks on the device, for steps that no recording keeps there, and memory that values pass through.
pub(super) struct Save {
    device: Arc<Device>,
    copies: Copies,
    lanes: [Lane; 2],
}

struct Lane {
    /// as large as was needed so far
    pinned: Option<Pinned>,
    block: Option<Buffer>,
    /// the step has computed
    computed: Event,
    /// its slots are in memory
    arrived: Event,
    /// what is on its way: step, first byte, slots
    pending: Option<(usize, usize, Vec<SlotId>)>,
}

impl Save {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let lane = || -> Result<Lane, RuntimeError> {
            Ok(Lane {
                pinned: None,
                block: None,
                computed: Event::new(device)?,
                arrived: Event::new(device)?,
                pending: None,
            })
        };
        Ok(Save {
            device: Arc::clone(device),
            copies: Copies::new(device)?,
            lanes: [lane()?, lane()?],
        })
    }

    /// Forgets what is on its way: a run that broke off has no use for it.
    pub(super) fn forget(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.pending = None);
    }

    /// A block for the `index`-th step of a run.
    pub(super) fn block(&mut self, index: usize, block_bytes: usize) -> Result<u64, RuntimeError> {
        let lane = &mut self.lanes[index % 2];
        if lane.block.is_none() {
            lane.block = Some(self.device.allocate(block_bytes)?);
        }
        Ok(lane.block.as_ref().expect("made above").address())
    }

    /// Begins to fetch these slots of a block that the main stream's work so far has written for `step`, the `index`-th of
    /// a run. What was on its way for the step before last has been given away.
    pub(super) fn begin(
        &mut self,
        (index, step): (usize, usize),
        address: u64,
        wanted: Vec<SlotId>,
        (plan, slots): (&Plan, &SlotBlock),
    ) -> Result<(), RuntimeError> {
        let range = slots.range(plan, &wanted);
        if range.is_empty() {
            return Ok(());
        }
        let lane = &mut self.lanes[index % 2];
        let pinned = match lane.pinned.take().filter(|pinned| pinned.bytes().len() >= range.len()) {
            Some(pinned) => pinned,
            None => Pinned::new(&self.device, range.len())?,
        };
        let pinned = lane.pinned.insert(pinned);
        lane.computed.record()?;
        self.copies.wait(&lane.computed)?;
        // SAFETY: a part of a block of slots; block and memory are left alone until `finish`.
        unsafe {
            self.copies
                .download(pinned, address + range.start as u64, range.len())?
        };
        self.copies.mark(&lane.arrived)?;
        lane.pending = Some((step, range.start, wanted));
        Ok(())
    }

    /// Gives the sink what is on its way for the `index`-th step.
    pub(super) fn finish(
        &mut self,
        index: usize,
        sink: &mut dyn SlotSink,
        (plan, slots): (&Plan, &SlotBlock),
    ) -> Result<(), RuntimeError> {
        let lane = &mut self.lanes[index % 2];
        let (Some((step, first, wanted)), Some(pinned)) = (lane.pending.take(), &lane.pinned) else {
            return Ok(());
        };
        lane.arrived.synchronize()?;
        let bytes = pinned.bytes();
        let taken = wanted.par_iter().map(|&slot| slots.take(plan, slot, bytes, first));
        let values = taken.collect::<Result<Vec<HostTensor>, RuntimeError>>()?;
        let mut taken = wanted.into_iter().zip(values);
        taken.try_for_each(|(slot, value)| sink.put(step, slot, value))
    }
}
