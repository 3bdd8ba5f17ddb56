//! Recordings that the device keeps while an image is made, handed over when it is there.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use fisec_plan::SlotId;

use super::Engine;
use super::save::Save;
use crate::{Progress, RuntimeError, SlotSink};

/// Steps that wait to be handed over, and whether they recorded maps, by recording.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<String, BTreeMap<usize, bool>>);

impl Engine {
    /// Slots of a step that its sink takes at once; the others wait where the device keeps them.
    pub(super) fn taken_now(&mut self, sink: &dyn SlotSink, step: usize, maps: bool) -> Vec<SlotId> {
        let wanted = self.wanted_by(sink, step, maps);
        let bytes = self.slots.bytes(maps);
        let kept = sink
            .recording()
            .filter(|name| self.tier.get(name, step, bytes).is_some());
        let Some(name) = kept else { return wanted };
        let (now, later): (Vec<SlotId>, Vec<SlotId>) = wanted.into_iter().partition(|&slot| sink.wants_now(step, slot));
        let steps = self.waiting.0.entry(name.to_owned()).or_default();
        match later.is_empty() {
            true => steps.remove(&step),
            false => steps.insert(step, maps),
        };
        now
    }

    /// Puts what waits for a sink, a step at a time while the next one is on its way.
    pub(crate) fn hand_over_rest(
        &mut self,
        sink: &mut dyn SlotSink,
        progress: &mut Progress<'_>,
    ) -> Result<(), RuntimeError> {
        let waiting = sink.recording().and_then(|name| self.waiting.0.remove_entry(name));
        let Some((name, steps)) = waiting else { return Ok(()) };
        self.device.enter()?;
        let mut save = match self.save.take() {
            Some(save) => save,
            None => Save::new(&self.device)?,
        };
        save.forget();
        let layout = (&self.plan, &self.slots);
        for (index, (&step, &maps)) in steps.iter().enumerate() {
            let mut slots = self.wanted_by(sink, step, maps);
            slots.retain(|&slot| !sink.wants_now(step, slot));
            let block = self.tier.get(&name, step, self.slots.bytes(maps));
            let block = block.ok_or(RuntimeError::MissingSlot {
                slot: name.clone(),
                step,
            })?;
            save.begin((index, step), block.address(), slots, layout)?;
            save.finish(index + 1, sink, layout)?;
            if let ControlFlow::Break(()) = progress(step) {
                return Ok(());
            }
        }
        save.finish(steps.len().wrapping_sub(1), sink, layout)?;
        self.save = Some(save);
        Ok(())
    }
}
